"""What was delivered, paid, disputed and left idle, by hour, day, month, quarter and year of a time zone; and prices by load.

Read from the running sums of `tallies`, so that a year costs the same whether a thousand orders made it or a million.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, select

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import SLOT_MS, Period, periods, slot_of
from pile_coordinator.evidence.tallies import ANONYMOUS_USERS, MEASURES, SPANS, tallied, tally

MAX_ROWS = 1000  # of a page: each costs a query
MAX_PRICES = 10_000  # clearings of a page


@dataclass(frozen=True, slots=True)
class Row:
    """What one name did in one period. `sums`: every measure, what users paid, how many ms piles were listed and used."""

    name: str
    period: Period
    sums: dict[str, int]

    @property
    def idle_permille(self) -> int | None:
        """How much of the time that piles were offered nobody charged; None where none was offered."""
        listed_ms = self.sums["listed_ms"]
        return max(0, 1000 * (listed_ms - self.sums["used_ms"]) // listed_ms) if listed_ms else None

    @property
    def anonymous(self) -> bool:
        """Whether it is of the users of all anonymous orders together."""
        return self.name == ANONYMOUS_USERS

    @property
    def mean_delay_ms(self) -> int | None:
        """From the first settlement in a block to the closing; None without contracts."""
        contracts = self.sums["contracts"]
        return self.sums["delay_ms"] // contracts if contracts else None

    def fields(self) -> dict[str, object]:
        """A flat row, for JSON and CSV."""
        when = {"name": self.name, "period": self.period.label, "start_ms": self.period.start_ms}
        more = {"idle_permille": self.idle_permille, "mean_delay_ms": self.mean_delay_ms}
        return when | {"end_ms": self.period.end_ms, "anonymous": self.anonymous} | self.sums | more


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order, and where the next page begins: a time in ms, or a name; None if there is none."""

    rows: list[Row]
    next: int | str | None


def history(
    db: Connection, dimension: str, name: str, kind: str, start_ms: int, end_ms: int, zone: ZoneInfo, limit: int = MAX_ROWS
) -> Page:  # fmt: skip
    """One name's periods of a kind (calendar.PERIODS) that [start_ms, end_ms) touches, at most `limit` (1..MAX_ROWS)."""
    found = list(islice(periods(kind, start_ms, end_ms, zone), min(limit, MAX_ROWS) + 1))
    shown, more = found[: min(limit, MAX_ROWS)], found[min(limit, MAX_ROWS) :]
    return Page(list(_rows(db, dimension, name, shown)), more[0].start_ms if more else None)


def ranking(db: Connection, dimension: str, period: Period, after: str = "", limit: int = 50) -> Page:
    """All names of a dimension in one period, in order of name, after `after`, at most `limit` of them (1..MAX_ROWS)."""
    limit = min(limit, MAX_ROWS)
    known = select(tallied.c.name).where(tallied.c.dimension == dimension, tallied.c.name > after)
    names = list(db.execute(known.order_by(tallied.c.name).limit(limit + 1)).scalars())
    rows = [row for name in names[:limit] for row in _rows(db, dimension, name, [period])]
    return Page(rows, names[limit - 1] if len(names) > limit else None)


def of_names(db: Connection, dimension: str, names: list[str], period: Period) -> list[Row]:
    """These names of a dimension in one period, in their order, at most MAX_ROWS of them."""
    return [row for name in names[:MAX_ROWS] for row in _rows(db, dimension, name, [period])]


def counted_between(db: Connection) -> tuple[int, int] | None:
    """Start of the first and end of the last quarter of an hour in which anything closed, in ms; None before that."""
    first, last = db.execute(
        select(func.min(tally.c.slot), func.max(tally.c.slot)).where(
            tally.c.dimension == "all", tally.c.name == "", tally.c.contracts > 0
        )
    ).one()
    return None if first is None else (first * SLOT_MS, (last + 1) * SLOT_MS)


def _rows(db: Connection, dimension: str, name: str, shown: list[Period]) -> Iterator[Row]:
    if not shown:
        return
    key = {"dimension": dimension, "name": name}
    cut = slot_of(_last_block_ms(db))
    start = min(slot_of(shown[0].start_ms), cut)
    still = _open_before(db, key, start)
    for period in shown:
        first, last = slot_of(period.start_ms), slot_of(period.end_ms)
        found = db.execute(_SUMS, key | {"first": first, "last": last, "cut": cut}).mappings().one()
        sums = {measure: int(found[measure] or 0) for measure in MEASURES}
        sums["user_micro"] = sums["owner_micro"] + sums["grid_micro"] + sums["fee_micro"]
        until = min(last, cut)
        for span in SPANS:
            sums[f"{span}_ms"] = _length_ms(found, span, still[span], first, until)
            still[span] += int(found[f"{span}_begun"] or 0) - int(found[f"{span}_ended"] or 0)
        yield Row(name, period, sums)


def _length_ms(found: Any, span: str, still: int, first: int, until: int) -> int:
    """How long spans lasted in [first, until): those open before, and those begun, without what was over by its end."""
    if until <= first:
        return 0
    begun, ended = int(found[f"{span}_begun"] or 0), int(found[f"{span}_ended"] or 0)
    begun_ms, ended_ms = int(found[f"{span}_begun_ms"] or 0), int(found[f"{span}_ended_ms"] or 0)
    return still * (until - first) * SLOT_MS + (begun - ended) * until * SLOT_MS - begun_ms + ended_ms


def _last_block_ms(db: Connection) -> int:
    last = select(schema.block.c.time_ms).order_by(schema.block.c.height.desc()).limit(1)
    return int(db.execute(last).scalar() or 0)


def _open_before(db: Connection, key: dict[str, str], slot: int) -> dict[str, int]:
    found = db.execute(_OPEN, key | {"slot": slot}).one()
    return {span: int(count or 0) for span, count in zip(SPANS, found, strict=True)}


def _ends(span: str) -> Iterator[ColumnElement[Any]]:
    """Times are summed apart from the slots they are in, and only those that have been: windows reach into the future."""
    past = tally.c.slot < bindparam("cut")
    for end in ("begun", "ended"):
        count, into_ms = tally.c[f"{span}_{end}"], tally.c[f"{span}_{end}_into_ms"]
        yield func.sum(case((past, count), else_=0)).label(f"{span}_{end}")
        yield func.sum(case((past, tally.c.slot * SLOT_MS * count + into_ms), else_=0)).label(f"{span}_{end}_ms")


_OF_NAME = (tally.c.dimension == bindparam("dimension"), tally.c.name == bindparam("name"))
_SUMS = select(
    *(func.sum(tally.c[measure]).label(measure) for measure in MEASURES),
    *(ends for span in SPANS for ends in _ends(span)),
).where(*_OF_NAME, tally.c.slot >= bindparam("first"), tally.c.slot < bindparam("last"))
_OPEN = select(*(func.sum(tally.c[f"{span}_begun"] - tally.c[f"{span}_ended"]) for span in SPANS)).where(
    *_OF_NAME, tally.c.slot < bindparam("slot")
)


# --- prices --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """A zone's price after a clearing, beside its load (Wh contracted and not yet delivered) and capacity."""

    height: int
    time_ms: int
    catalog_micro_per_kwh: int
    price_micro_per_kwh: int
    open_before_wh: int
    open_after_wh: int
    capacity_wh: int

    def fields(self) -> dict[str, object]:
        """A flat row, for JSON and CSV."""
        return {name: getattr(self, name) for name in self.__slots__}


def prices(
    db: Connection, zone: str, start_ms: int, end_ms: int, *, after_height: int = 0, limit: int = MAX_PRICES
) -> list[Price]:
    """Each clearing of a zone in [start_ms, end_ms) above a height, in order, at each of its catalog prices.

    At most `limit` of them (32..MAX_PRICES, as a tariff has 24 prices at most); ask again after the last height.
    """
    limit = min(limit, MAX_PRICES)
    c, p, b = schema.clearing.c, schema.price.c, schema.block.c
    heights = db.execute(
        select(func.min(b.height), func.max(b.height)).where(b.time_ms >= start_ms, b.time_ms < end_ms)
    ).one()
    if heights[0] is None:
        return []
    query = (
        select(
            c.height, b.time_ms, p.catalog_micro_per_kwh, p.price_micro_per_kwh,
            c.open_before_wh, c.open_after_wh, c.capacity_wh,
        )
        .join_from(schema.clearing, schema.block, b.height == c.height)
        .join(schema.price, (p.zone == c.zone) & (p.height == c.height))
        .where(c.zone == zone, c.height.between(max(heights[0], after_height + 1), heights[1]))
        .order_by(c.height, p.catalog_micro_per_kwh)
    )  # fmt: skip
    found = [Price(*row) for row in db.execute(query.limit(limit + 1)).all()]
    if len(found) <= limit:
        return found
    return [price for price in found if price.height < found[-1].height]  # the next page begins with a whole clearing
