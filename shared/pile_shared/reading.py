"""What a meter said at one moment, and the delta coding of several readings in one proof."""

from pile_shared.codec import INT_MAX, INT_MIN
from pile_shared.errors import ProofError
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W, MAX_TIME_MS, check_bytes, check_int

MAX_READINGS = 60  # one proof stays below 1 kB and a board can hold it twice

# Trust in the pile's clock, as OCMF 1.4 table 7 "TM" (U, I, S, R).
TIME_UNKNOWN, TIME_INFORMATIVE, TIME_SYNCHRONISED, TIME_RELATIVE = 0, 1, 2, 3

FLAG_CONTACTOR_CLOSED = 1
FLAG_POWER_ABSENT = 2  # the meter gave energy but no power value
MAX_FLAGS = 255


class Reading:
    """One reading of one meter.

    Attributes:
        time_ms: unix milliseconds by the pile's clock.
        time_status: TIME_UNKNOWN .. TIME_RELATIVE.
        raw: the registers of the energy total exactly as read, big-endian, 2 to 8 bytes.
        energy_wh: total imported energy, rounded down to Wh.
        power_w: active power, negative when exporting.
        flags: FLAG_* bits.
    """

    def __init__(self, time_ms: int, time_status: int, raw: bytes, energy_wh: int, power_w: int, flags: int) -> None:
        self.time_ms = check_int("time_ms", time_ms, 0, MAX_TIME_MS)
        self.time_status = check_int("time_status", time_status, TIME_UNKNOWN, TIME_RELATIVE)
        self.raw = check_bytes("raw", raw, 2, 8)
        self.energy_wh = check_int("energy_wh", energy_wh, 0, MAX_ENERGY_WH)
        self.power_w = check_int("power_w", power_w, -MAX_POWER_W, MAX_POWER_W)
        self.flags = check_int("flags", flags, 0, MAX_FLAGS)

    def fields(self) -> tuple[int, int, bytes, int, int, int]:
        """The full form, in wire order."""
        return self.time_ms, self.time_status, self.raw, self.energy_wh, self.power_w, self.flags

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reading) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash(self.fields())

    def __repr__(self) -> str:
        return "Reading" + repr(self.fields())


def _has_delta(before: Reading, after: Reading) -> bool:
    """Whether `after` is written as a difference: nothing but quantities changed, and each by what CBOR's 64 bits hold."""
    if before.time_status != after.time_status or before.flags != after.flags or len(before.raw) != len(after.raw):
        return False
    # 64-bit registers with the low word first jump by more than that at each carry.
    return INT_MIN <= int.from_bytes(after.raw, "big") - int.from_bytes(before.raw, "big") <= INT_MAX


def encode_readings(readings: list[Reading]) -> list[list[object]]:
    """Wire form: the first in full; a later one as differences to its predecessor unless status, flags or width changed."""
    rows = []  # type: list[list[object]]
    before = None
    for reading in readings:
        if before is not None and _has_delta(before, reading):
            rows.append(
                [
                    reading.time_ms - before.time_ms,
                    int.from_bytes(reading.raw, "big") - int.from_bytes(before.raw, "big"),
                    reading.energy_wh - before.energy_wh,
                    reading.power_w - before.power_w,
                ]
            )
        else:
            rows.append(list(reading.fields()))
        before = reading
    return rows


def decode_readings(rows: object) -> list[Reading]:
    """The readings of a proof; ProofError or BoundsError unless `rows` is the one wire form of a list of them."""
    if not isinstance(rows, list) or len(rows) > MAX_READINGS:
        raise ProofError("readings must be an array of at most " + str(MAX_READINGS), "malformed")
    readings = []  # type: list[Reading]
    for row in rows:
        if not isinstance(row, list):
            raise ProofError("a reading must be an array", "malformed")
        if len(row) == 6:
            reading = Reading(*row)
            if readings and _has_delta(readings[-1], reading):
                raise ProofError("a reading that could be a difference must be one", "malformed")
        elif len(row) == 4 and readings:
            reading = _add_delta(readings[-1], row)
        else:
            raise ProofError("a reading has 6 fields, or 4 as a difference to the one before", "malformed")
        readings.append(reading)
    return readings


def _add_delta(before: Reading, row: list[int]) -> Reading:
    for item in row:
        if type(item) is not int:  # its size was checked when it was decoded
            raise ProofError("a difference must be an integer", "malformed")
    time_ms, raw, energy_wh, power_w = row
    value = int.from_bytes(before.raw, "big") + raw
    width = len(before.raw)
    if not 0 <= value < 1 << (8 * width):
        raise ProofError("raw register difference leaves the register", "malformed")
    return Reading(
        before.time_ms + time_ms,
        before.time_status,
        value.to_bytes(width, "big"),
        before.energy_wh + energy_wh,
        before.power_w + power_w,
        before.flags,
    )
