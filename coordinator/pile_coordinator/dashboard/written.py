"""Amounts and times as people read them. Integers all the way: the decimal point is put in at the very end, as text."""

from zoneinfo import ZoneInfo

from pile_coordinator.evidence.calendar import local

DASH = "–"  # noqa: RUF001 - an en dash, for a table's empty cell
MICRO = 6  # decimals of money in micro
KILO = 3


def fixed(value: int, decimals: int, shown: int, *, group: bool = True) -> str:
    """`value` / 10^decimals with `shown` decimals (at most as many), rounded half away from zero, thousands apart."""
    unit = 10 ** (decimals - shown)
    rounded = (abs(value) + unit // 2) // unit
    whole, part = divmod(rounded, 10**shown)
    sign = "−" if value < 0 and rounded else ""  # noqa: RUF001 - a minus sign, as wide as the digits
    digits = f"{whole:,}".replace(",", "\u202f") if group else str(whole)
    return f"{sign}{digits}.{part:0{shown}d}" if shown else f"{sign}{digits}"


def money(micro: int | None, currency: str = "") -> str:
    """An amount in the currency's unit, with two decimals."""
    return DASH if micro is None else f"{fixed(micro, MICRO, 2)} {currency}".rstrip()


def money_exact(micro: int | None, currency: str = "") -> str:
    """An amount with all six decimals, where somebody may want to add up."""
    return DASH if micro is None else f"{fixed(micro, MICRO, 6)} {currency}".rstrip()


def price(micro_per_kwh: int | None, currency: str = "") -> str:
    """A price per kWh with four decimals; -1 is an ask at market, which callers write in words."""
    unit = f" {currency}/kWh" if currency else " /kWh"
    return DASH if micro_per_kwh is None else fixed(micro_per_kwh, MICRO, 4) + unit


def energy(wh: int | None) -> str:
    """Wh as kWh, with three decimals: exactly."""
    return DASH if wh is None else f"{fixed(wh, KILO, 3)} kWh"


def energy_short(wh: int | None) -> str:
    """Wh as kWh or MWh with one decimal, for key figures."""
    if wh is None:
        return DASH
    return f"{fixed(wh, 6, 2)} MWh" if abs(wh) >= 10_000_000 else f"{fixed(wh, KILO, 1)} kWh"


def power(w: int | None) -> str:
    """W as kW, with one decimal."""
    return DASH if w is None else f"{fixed(w, KILO, 1)} kW"


def permille(value: int | None) -> str:
    """Permille as percent, with one decimal."""
    return DASH if value is None else f"{fixed(value, 1, 1)} %"


def time(ms: int | None, zone: ZoneInfo) -> str:
    """A time to the second on the clocks of a zone."""
    return DASH if ms is None else local(ms, zone).strftime("%Y-%m-%d %H:%M:%S")


def clock(ms: int | None, zone: ZoneInfo) -> str:
    """The time of day to the second."""
    return DASH if ms is None else local(ms, zone).strftime("%H:%M:%S")


def span(ms: int) -> str:
    """How long something took or is ago, in its largest unit: 850 ms, 12 s, 7 min, 3 h, 9 d."""
    for unit, name in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= 2 * unit or (ms >= unit and unit == 1000):
            return f"{ms // unit} {name}"
    return f"{max(ms, 0)} ms"


def short(hexadecimal: str | None) -> str:
    """The beginning of a hash, for tables; the whole of it stands in the link."""
    return DASH if hexadecimal is None else f"{hexadecimal[:10]}…"
