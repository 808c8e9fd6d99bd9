"""Simulated meters and relays as pymodbus devices, and the ways in which real ones fail.

Registers are encoded here with `struct` and exact fractions, not with the code under test; only the addresses, types
and scales come from the same profile.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pymodbus.constants import ExcCodes
from pymodbus.simulator import DataType, SimData, SimDevice

from pile_hil.load import WATT_MS_PER_WH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pile_hil.load import Load

FAULTS = ("none", "silence", "exception", "zero_once", "noise")
_STRUCT = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q", "f32": ">f", "f64": ">d"}
_MAINS_MV = 230_000
_UNUSED = 0xFFFF  # pymodbus wants every block of a device to exist; this address is in none of the profiles


def encode(register: Mapping[str, Any], scale_key: str, value: Fraction, word_order: str) -> list[int]:
    """A value in the scale's unit as 16-bit words; integers are rounded down, as a counter's display is."""
    numerator, denominator = register.get(scale_key, [1, 1])
    scaled = value * denominator / numerator
    raw = struct.pack(_STRUCT[register["type"]], float(scaled) if register["type"][0] == "f" else scaled.__floor__())
    words = list(struct.unpack(f">{len(raw) // 2}H", raw))
    return words if word_order == "big" else words[::-1]


class Faults:
    """What is wrong with one unit at present. Read by the server's loop, set from outside: single assignments only."""

    def __init__(self) -> None:
        self.kind = "none"

    def set(self, kind: str) -> None:
        """Begin one of FAULTS; `zero_once` ends by itself with the first energy reading it spoils."""
        if kind not in FAULTS:
            raise ValueError(f"fault {kind!r} is none of {', '.join(FAULTS)}")
        self.kind = kind

    def on_answer(self, frame: bytes, *, serial: bool) -> bytes:
        """What of an outgoing frame reaches the line: noise breaks the CRC, or on TCP the transaction id."""
        if self.kind == "silence":
            return b""
        if self.kind == "noise":
            at = len(frame) - 1 if serial else 1
            return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]
        return frame


class SimMeter:
    """A meter of a given profile that counts what a load draws."""

    def __init__(self, profile: Mapping[str, Any], unit: int, load: Load, serial: int = 12345678) -> None:
        self.unit = unit
        self.faults = Faults()
        self._profile = profile
        self._load = load
        self._serial = serial

    def words(self) -> dict[int, list[int]]:
        """Every register the profile names, by address, as of now."""
        profile, order = self._profile, self._profile["word_order"]
        energy_wh = Fraction(self._load.energy_watt_ms(), WATT_MS_PER_WH)
        if self.faults.kind == "zero_once":
            energy_wh = Fraction(0)
        power_w = Fraction(self._load.power_w())
        phase_ma = power_w * 1_000_000 / (3 * _MAINS_MV)
        table = {profile["energy_import"]["address"]: encode(profile["energy_import"], "scale_wh", energy_wh, order)}
        powers = profile["power"] if isinstance(profile["power"], list) else [profile["power"]]
        for register in powers:
            table[register["address"]] = encode(register, "scale_w", power_w / len(powers), order)
        for register in profile.get("voltage", []):
            table[register["address"]] = encode(register, "scale_mv", Fraction(_MAINS_MV), order)
        for register in profile.get("current", []):
            table[register["address"]] = encode(register, "scale_ma", phase_ma, order)
        if "serial" in profile:
            table[profile["serial"]["address"]] = encode(profile["serial"], "scale", Fraction(self._serial), order)
        return table

    def energy_wh(self) -> int:
        """What the energy register shows, in whole Wh rounded down: the truth as coarse as this meter counts."""
        register = self._profile["energy_import"]
        words = encode(register, "scale_wh", Fraction(self._load.energy_watt_ms(), WATT_MS_PER_WH), "big")
        (value,) = struct.unpack(_STRUCT[register["type"]], struct.pack(f">{len(words)}H", *words))
        return (Fraction(value) * Fraction(*register.get("scale_wh", [1, 1]))).__floor__()

    def device(self) -> SimDevice:
        """This meter for a pymodbus server; registers exist under the profile's function code only."""
        block = [
            SimData(address, values=words, datatype=DataType.REGISTERS, readonly=True)
            for address, words in sorted(self.words().items())
        ]
        empty = [SimData(_UNUSED, datatype=DataType.INVALID)]
        holding, inputs = (block, empty) if self._profile["function"] == 3 else (empty, block)
        return SimDevice(self.unit, (_no_bits(), _no_bits(), holding, inputs), action=self._on_access)

    async def _on_access(
        self, _function: int, start: int, address: int, count: int, registers: list[int], _values: object
    ) -> ExcCodes | None:
        if self.faults.kind == "exception":
            return ExcCodes.DEVICE_BUSY
        for at, words in self.words().items():
            if start <= at < start + len(registers):
                registers[at - start : at - start + len(words)] = words
        energy_at = self._profile["energy_import"]["address"]
        if self.faults.kind == "zero_once" and address <= energy_at < address + count:
            self.faults.set("none")
        return None


class SimRelay:
    """A relay board with one coil, 0, which drives the contactor of a load."""

    def __init__(self, unit: int, load: Load) -> None:
        self.unit = unit
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
