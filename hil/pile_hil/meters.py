"""Simulated meters and relays as pymodbus devices, and the ways in which real ones fail.

A twin is made from a profile: it has the registers the profile names, tells its model and serial number where the
profile says so, refuses what the meter refuses, and around a SunSpec model puts what discovery needs. Registers are
encoded here with `struct` and exact fractions, not with the code under test.
"""

from __future__ import annotations

import asyncio
import struct
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerRTU
from pymodbus.simulator import DataType, SimData, SimDevice

from pile_edge.meters.schema import at_model, with_word_order
from pile_hil.load import WATT_MS_PER_WH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pile_hil.load import Load

FAULTS = (
    *("none", "silence", "shy", "exception", "zero_once", "noise", "not_available", "rollover", "restarts"),
    *("stuck", "leap"),  # a register that stands still while power is shown; one that jumps up by LEAP_WH
    *("wrong_unit", "late", "slow"),  # another meter answers; answers come LATE_S, or SLOW_S, after the question
    *("swapped", "reset"),  # words in the other order; a register that begins anew at 0
)
LEAP_WH = 5_000_000
STRANGER_WH = 30  # what the other meter has counted more: so little that it could be this one
STRANGER_UNIT = 5  # how far its unit is from this one's
LATE_S, SLOW_S = 1.3, 0.3  # longer than the profiles' meters may take, 1 s at most; and shorter, 0.5 s at least
RESTART_S = 0.3  # how long a meter is deaf that restarts because it was asked again too soon
SUNSPEC_BASE = 40_000
COMMON_MODEL_WORDS = 66
_STRUCT = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q", "f32": ">f", "f64": ">d"}
_NAN = {"f32": bytes.fromhex("7fc00000"), "f64": bytes.fromhex("7ff8000000000000")}
_MAINS_MV = 230_000
_MAINS_MHZ = 50_000
_SCALE_FACTORS = {"scale_mv": -1, "scale_ma": -2, "scale_mhz": -2, "scale_wh": 0, "scale_w": 0}
_UNUSED = 0xFFFF  # pymodbus wants every block of a device to exist; this address is in none of the profiles


def encode(register: Mapping[str, Any], scale_key: str, value: Fraction, word_order: str, factor: int = 0) -> list[int]:
    """A value in the scale's unit as 16-bit words; integers are rounded down, as a counter's display is."""
    numerator, denominator = register.get(scale_key, [1, 1])
    scaled = value * denominator / numerator / Fraction(10) ** factor
    raw = struct.pack(_STRUCT[register["type"]], float(scaled) if register["type"][0] == "f" else scaled.__floor__())
    return _words(raw) if word_order == "big" else _words(raw)[::-1]


def _words(raw: bytes) -> list[int]:
    return list(struct.unpack(f">{len(raw) // 2}H", raw))


class Faults:
    """What is wrong with one unit at present. Read by the server's loop, set from outside: single assignments only."""

    def __init__(self) -> None:
        self.kind = "none"
        self.deaf_until_s = 0.0

    def set(self, kind: str) -> None:
        """Begin one of FAULTS; `zero_once` ends by itself with the first energy reading it spoils."""
        if kind not in FAULTS:
            raise ValueError(f"fault {kind!r} is none of {', '.join(FAULTS)}")
        self.kind = kind

    def on_answer(self, frame: bytes, *, serial: bool) -> bytes:
        """What of an outgoing frame reaches the line: noise breaks the CRC, or on TCP the transaction id."""
        refused = frame[1 if serial else 7] & 0x80
        if self.kind == "silence" or (self.kind == "shy" and refused) or time.monotonic() < self.deaf_until_s:
            return b""
        if self.kind == "wrong_unit":
            return _from_another(frame, serial=serial)
        if self.kind == "noise":
            at = len(frame) - 1 if serial else 1
            return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]
        return frame


def _from_another(frame: bytes, *, serial: bool) -> bytes:
    """The same answer from another unit, with a good CRC."""
    at = 0 if serial else 6
    told = frame[:at] + bytes([frame[at] + STRANGER_UNIT]) + frame[at + 1 :]
    if not serial:
        return told
    crc = FramerRTU.compute_CRC(told[:-2])
    return told[:-2] + crc.to_bytes(2, "big")


class SimMeter:
    """A meter of a given profile that counts what a load draws."""

    def __init__(
        self,
        profile: Mapping[str, Any],
        unit: int,
        load: Load,
        serial: int = 12345678,
        *,
        baud: int | None = None,
        word_order: str | None = None,
        base: int = SUNSPEC_BASE,
    ) -> None:
        """Set it up as `unit`; with `baud` it is deaf to any other speed. `base` is where a SunSpec map begins."""
        self.unit = unit
        self.baud = baud
        self.faults = Faults()
        self.base = base
        self.model_address = base + 2 + 2 + COMMON_MODEL_WORDS
        self._sunspec = profile.get("sunspec")
        placed = at_model(profile, self.model_address) if self._sunspec else dict(profile)
        self._profile = with_word_order(placed, word_order or profile["word_order"])
        self._load = load
        self._serial = serial
        self._asked_s = 0.0
        self._stuck_wh: Fraction | None = None
        self._reset_wh: Fraction | None = None

    def words(self) -> dict[int, list[int]]:
        """Every measured register the profile names, by address, as of now."""
        profile = self._profile
        energy_wh = self._energy_wh()
        power_w = Fraction(self._load.power_w())
        phase_ma = power_w * 1_000_000 / (profile["phases"] * _MAINS_MV)
        powers = profile["power"] if isinstance(profile["power"], list) else [profile["power"]]
        table: dict[int, list[int]] = {}
        self._put(table, profile["energy_import"], "scale_wh", energy_wh)
        for register in powers:
            self._put(table, register, "scale_w", power_w / len(powers))
        for register in profile.get("voltage", []):
            self._put(table, register, "scale_mv", Fraction(_MAINS_MV))
        for register in profile.get("current", []):
            self._put(table, register, "scale_ma", phase_ma)
        if "frequency" in profile:
            self._put(table, profile["frequency"], "scale_mhz", Fraction(_MAINS_MHZ))
        if "serial" in profile:
            self._put(table, profile["serial"], "scale", Fraction(self._serial))
        return table

    def energy_wh(self) -> int:
        """What the energy register shows, in whole Wh rounded down: the truth as coarse as this meter counts."""
        register = self._profile["energy_import"]
        words = encode(register, "scale_wh", Fraction(self._load.energy_watt_ms(), WATT_MS_PER_WH), "big")
        (value,) = struct.unpack(_STRUCT[register["type"]], struct.pack(f">{len(words)}H", *words))
        return (Fraction(value) * Fraction(*register.get("scale_wh", [1, 1]))).__floor__()

    @property
    def profile(self) -> dict[str, Any]:
        """The profile as this meter is set up: its word order, and where its SunSpec model begins."""
        return dict(self._profile)

    def block(self, function: int, address: int, count: int) -> bytes:
        """What a request for these registers is answered with; KeyError where there is none."""
        registers = self._registers(function)
        return struct.pack(f">{count}H", *(registers[at] for at in range(address, address + count)))

    def device(self) -> SimDevice:
        """This meter for a pymodbus server; registers exist under the function codes the profile gives them."""
        return SimDevice(self.unit, (_no_bits(), _no_bits(), self._block(3), self._block(4)), action=self._on_access)

    def _energy_wh(self) -> Fraction:
        if self.faults.kind == "zero_once":
            return Fraction(0)
        energy_wh = Fraction(self._load.energy_watt_ms(), WATT_MS_PER_WH)
        if self.faults.kind == "stuck":
            self._stuck_wh = energy_wh if self._stuck_wh is None else self._stuck_wh
            return self._stuck_wh
        self._stuck_wh = None
        if self.faults.kind == "reset":
            self._reset_wh = energy_wh if self._reset_wh is None else self._reset_wh
            return energy_wh - self._reset_wh
        self._reset_wh = None
        if self.faults.kind == "leap":
            return energy_wh + LEAP_WH
        if self.faults.kind == "wrong_unit":
            return energy_wh + STRANGER_WH
        return energy_wh % 1_000_000 if self.faults.kind == "rollover" else energy_wh

    def _put(self, table: dict[int, list[int]], register: Mapping[str, Any], scale_key: str, value: Fraction) -> None:
        """Add a register's words, and its scale factor's where it has one."""
        factor = _SCALE_FACTORS.get(scale_key, 0) if "scale_factor" in register else 0
        if factor == 0 and "scale_factor" in register and abs(value) > 32_767 and register["type"] == "i16":
            factor = 1  # as real ones do when a value outgrows its 16 bits
        order = self._profile["word_order"]
        if self.faults.kind == "swapped":
            order = "little" if order == "big" else "big"
        table[register["address"]] = encode(register, scale_key, value, order, factor)
        if "scale_factor" in register:
            table[register["scale_factor"]] = [factor & 0xFFFF]
        if self.faults.kind == "not_available" and scale_key in ("scale_wh", "scale_w"):
            self._blank(table, register)

    def _blank(self, table: dict[int, list[int]], register: Mapping[str, Any]) -> None:
        if "not_available" in register:
            table[register["address"]] = _words(bytes.fromhex(register["not_available"]))
        elif register["type"] in _NAN:
            nan = _words(_NAN[register["type"]])
            table[register["address"]] = nan if self._profile["word_order"] == "big" else nan[::-1]

    def _identity(self) -> dict[int, dict[int, list[int]]]:
        """By function code: the registers that tell the model, and the serial number as text."""
        tables: dict[int, dict[int, list[int]]] = {3: {}, 4: {}}
        for rule in self._profile.get("identify", []):
            text = rule["text"][0].encode().ljust(2 * rule["count"], b"\0") if "text" in rule else b""
            tables[rule["function"]][rule["address"]] = _words(text or bytes.fromhex(rule["one_of"][0]))
        entry = self._profile.get("serial_text")
        if entry:
            size, digits = 2 * entry["count"], str(self._serial)
            packed = bytes.fromhex(digits.rjust(2 * size, "0")) if entry["form"] == "hex" else digits.encode()
            tables[entry["function"]][entry["address"]] = _words(packed.ljust(size, b"\0"))
        return tables

    def _sunspec_map(self) -> dict[int, list[int]]:
        """The marker, the common model, the head of the meter's own, and the end (SunSpec specification V1.1)."""
        assert self._sunspec is not None
        model, length = self._sunspec["model"], self._sunspec["length"]
        texts = b"".join(text.ljust(size, b"\0") for text, size in self._common_texts())
        common = [*_words(texts), 1, 0x8000]
        blank = _words(_NAN["f32"]) * (length // 2) if model > 210 else [0x8000] * length
        return {
            self.base: [0x5375, 0x6E53, 1, COMMON_MODEL_WORDS, *common],
            self.model_address: [model, length, *blank, 0xFFFF, 0],
        }

    def _common_texts(self) -> list[tuple[bytes, int]]:
        return [(b"Simulated", 32), (b"Twin", 32), (b"", 16), (b"1.0", 16), (str(self._serial).encode(), 32)]

    def _registers(self, function: int) -> dict[int, int]:
        """Every single word that exists under a function code, by address."""
        main = self._profile["function"]
        tables = self._identity()
        if self._sunspec:
            tables[main].update(self._sunspec_map())
        flat: dict[int, int] = {}
        for table in (*tables.values(), {}) if self._profile.get("both_functions") else (tables[function],):
            flat.update(_flat(table))
        if function == main or self._profile.get("both_functions"):
            flat.update(_flat(self.words()))
        return flat

    def _block(self, function: int) -> list[SimData]:
        runs: list[tuple[int, list[int]]] = []
        for at, word in sorted(self._registers(function).items()):
            if runs and at == runs[-1][0] + len(runs[-1][1]):
                runs[-1][1].append(word)
            else:
                runs.append((at, [word]))
        block = [SimData(at, values=words, datatype=DataType.REGISTERS, readonly=True) for at, words in runs]
        return block or [SimData(_UNUSED, datatype=DataType.INVALID)]

    async def _on_access(
        self, function: int, start: int, address: int, count: int, registers: list[int], _values: object
    ) -> ExcCodes | None:
        self._mind_the_gap()
        if self.faults.kind in {"late", "slow"}:
            await asyncio.sleep(LATE_S if self.faults.kind == "late" else SLOW_S)
        if self.faults.kind == "exception":
            return ExcCodes.DEVICE_BUSY
        if count > self._profile["max_registers"]:
            return ExcCodes.ILLEGAL_VALUE
        for at, word in self._registers(function).items():
            if start <= at < start + len(registers):
                registers[at - start] = word
        energy_at = self._profile["energy_import"]["address"]
        if self.faults.kind == "zero_once" and address <= energy_at < address + count:
            self.faults.set("none")
        return None

    def _mind_the_gap(self) -> None:
        now_s = time.monotonic()
        gap_s = self._profile["min_gap_ms"] / 1000
        if self.faults.kind == "restarts" and now_s - self._asked_s < gap_s / 2:
            self.faults.deaf_until_s = now_s + RESTART_S
        self._asked_s = now_s


def _flat(table: Mapping[int, list[int]]) -> dict[int, int]:
    return {at + index: word for at, words in table.items() for index, word in enumerate(words)}


class SimRelay:
    """A relay board with one coil, 0, which drives the contactor of a load."""

    baud: int | None = None

    def __init__(self, unit: int, load: Load, *, baud: int | None = None) -> None:
        """Set it up as `unit`; with `baud` it is deaf to any other speed."""
        self.unit = unit
        self.baud = baud
        self.faults = Faults()
        self._load = load

    def device(self) -> SimDevice:
        """This relay for a pymodbus server."""
        empty = [SimData(_UNUSED, datatype=DataType.INVALID)]
        coils = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
        return SimDevice(self.unit, (coils, _no_bits(), empty, list(empty)), action=self._on_access)

    async def _on_access(
        self, function: int, _start: int, address: int, _count: int, _registers: list[int], values: object
    ) -> ExcCodes | None:
        if self.faults.kind == "exception":
            return ExcCodes.DEVICE_FAILURE
        if address != 0:
            return ExcCodes.ILLEGAL_ADDRESS
        if function == 5 and isinstance(values, list):
            self._load.switch(bool(values[0]))
        return None


def _no_bits() -> list[SimData]:
    return [SimData(0, values=[False] * 16, datatype=DataType.BITS, readonly=True)]
