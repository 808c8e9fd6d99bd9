"""Finding the models of a SunSpec device: where its map begins, and what follows. CPython only.

SunSpec Device Information Model Specification V1.1: a map begins with "SunS" at one of three addresses; models follow
one another, each with its id and length in front, up to the id 0xFFFF. A board does not search: its configuration says
where the meter's model begins, as the scan found it.
"""

from typing import NamedTuple, Protocol

from pile_edge.modbus import READ_HOLDING
from pile_shared.errors import BusError

BASES = (40_000, 0, 50_000)
MARK = b"SunS"
COMMON = 1
END = 0xFFFF
MAX_MODELS = 64  # the longest maps we have seen have some 30; a device that never ends must not hold a scan


class Reader(Protocol):
    """A bus, or what reads as one."""

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:
        """As `Bus.read`."""


class Model(NamedTuple):
    """A model in a map: its id, the address of its id register, and how many registers follow its length."""

    id: int
    address: int
    length: int


class Nameplate(NamedTuple):
    """What the common model says of the device; each text may be empty."""

    manufacturer: str
    model: str
    serial: str


def find_models(bus: Reader, unit: int) -> list[Model]:
    """The models of a device in their order; none if it is no SunSpec device.

    Raises:
        BusError: `closed` when the bus itself is gone; any other failure only means that there is nothing to find.
    """
    for base in BASES:
        if _words(bus, unit, base, 2) == MARK:
            return _chain(bus, unit, base + 2)
    return []


def nameplate(bus: Reader, unit: int, models: list[Model]) -> Nameplate:
    """Manufacturer, model and serial number from the common model, as far as they can be read."""
    for model in models:
        if model.id == COMMON and model.length >= 64:
            first = _words(bus, unit, model.address + 2, 32) or b""
            serial = _words(bus, unit, model.address + 50, 16) or b""
            return Nameplate(text_of(first[:32]), text_of(first[32:]), text_of(serial))
    return Nameplate("", "", "")


def text_of(raw: bytes) -> str:
    """Printable ASCII in registers, without what fills them up."""
    return "".join(chr(byte) for byte in raw.split(b"\0")[0] if 0x20 <= byte < 0x7F).strip()


def _chain(bus: Reader, unit: int, address: int) -> list[Model]:
    models: list[Model] = []
    while len(models) < MAX_MODELS and address < END:
        head = _words(bus, unit, address, 2)
        if head is None:
            break
        model = Model(int.from_bytes(head[:2], "big"), address, int.from_bytes(head[2:], "big"))
        if model.id == END:
            break
        models.append(model)
        address += 2 + model.length
    return models


def _words(bus: Reader, unit: int, address: int, count: int) -> bytes | None:
    try:
        return bus.read(unit, READ_HOLDING, address, count)
    except BusError as error:
        if error.code == "closed":
            raise
        return None
