"""Integer units, their bounds, and checked conversion.

The unit stands last in a name: `energy_wh`, `power_w`, `time_ms` (unix milliseconds), `amount_micro` (10^-6 of the
currency), `price_micro_per_kwh`. Nothing here or above is ever a float.
"""

from pile_shared.errors import BoundsError

MAX_TIME_MS = 253402300800000  # year 10000: later is a wrong clock, not a date
MAX_ENERGY_WH = 10_000_000_000_000  # 10 TWh: a 1 MW meter needs a thousand years
MAX_POWER_W = 10_000_000  # 10 MW, above any charging site's meter
MAX_AMOUNT_MICRO = 1_000_000_000_000_000_000  # 10^12 of the currency; sums stay inside 64 bits
MAX_PRICE_MICRO_PER_KWH = 1_000_000_000_000  # 10^6 of the currency per kWh
MAX_SEQUENCE = 0xFFFFFFFF  # a proof a second for 136 years
LOT_WH = 100  # energy is traded in lots of 100 Wh (ledger guide, "Units")
MAX_ID_LENGTH = 32

_ID_CHARACTERS = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_PRINTABLE = bytes(range(32, 127))


def check_int(name: str, value: object, low: int, high: int) -> int:
    """`value` if it is an integer in [low, high]; otherwise BoundsError naming the field."""
    if type(value) is not int or not low <= value <= high:  # not isinstance: true is an int, and no quantity
        raise BoundsError(f"{name} must be an integer from {low} to {high}")
    return value


def check_bytes(name: str, value: object, low: int, high: int) -> bytes:
    """`value` if it is a byte string of low..high bytes; otherwise BoundsError naming the field."""
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise BoundsError(f"{name} must be {low} to {high} bytes" if low != high else f"{name} must be {low} bytes")
    return value


def check_text(name: str, value: object, high: int) -> str:
    """`value` if it is printable text of 1..high characters; otherwise BoundsError naming the field."""
    if not isinstance(value, str) or not 1 <= len(value) <= high or not _only(value, _PRINTABLE):
        raise BoundsError(f"{name} must be 1 to {high} printable ASCII characters")
    return value


def check_id(name: str, value: object) -> str:
    """`value` if it names a chain, party, pile or zone: 1..32 of a-z, 0-9 and '-', so it is safe in topics and files."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH or not _only(value, _ID_CHARACTERS):
        raise BoundsError(f"{name} must be 1 to {MAX_ID_LENGTH} characters of a-z, 0-9 and '-'")
    return value


def _only(text: str, allowed: bytes) -> bool:
    # By bytes: MicroPython keeps every character that a loop over text meets, for good, and this text is a stranger's.
    try:
        raw = text.encode()
    except UnicodeError:  # half a surrogate pair
        return False
    for byte in raw:  # noqa: SIM110 - a generator costs a board more than the loop
        if byte not in allowed:
            return False
    return True


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded up, for a positive denominator."""
    return -(-numerator // denominator)


def cost_micro(energy_wh: int, price_micro_per_kwh: int) -> int:
    """What `energy_wh` costs at a price, in micro, rounded up: debits round up (ledger guide, "Journal")."""
    return ceil_div(energy_wh * price_micro_per_kwh, 1000)
