"""The market as charts show it: prices against load over time, and the orders that wait."""

from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import NONE, Page, Place, View, orders_seen, page

MAX_POINTS = 500  # of a chart: each costs a few questions by index
MAX_LEVELS = 200  # of a zone's book
_AT_ONCE = 50
_PRICES = ("catalog_micro_per_kwh", "price_micro_per_kwh", "low_micro_per_kwh")


def price_history(db: Connection, zone: str, start_ms: int, end_ms: int, points: int = 200) -> list[dict[str, Any]]:
    """A zone's last clearing in each of at most `points` equal parts of [start_ms, end_ms); parts without one are left out.

    It costs the same whether an hour or ten years are shown: each part is found by index, nothing is summed up.

    Returns:
        Rows with start_ms and end_ms (of the part), height, time_ms, open_before_wh and open_after_wh (load: Wh contracted
        and not yet delivered), capacity_wh, and price_micro_per_kwh at the dearest catalog price, catalog_micro_per_kwh, and
        low_micro_per_kwh at the cheapest.
    """
    points = max(1, min(points, MAX_POINTS))
    step_ms = max(1, -(-(end_ms - start_ms) // points))
    parts = [(begin_ms, min(begin_ms + step_ms, end_ms)) for begin_ms in range(start_ms, end_ms, step_ms)]
    ends = _heights_before(db, [start_ms, *(until_ms for _, until_ms in parts)])
    heights = _last_clearings(db, zone, list(pairwise(ends)))
    rows = _clearings(db, zone, sorted({height for height in heights if height}))
    return [
        {"start_ms": begin_ms, "end_ms": until_ms} | rows[height]
        for (begin_ms, until_ms), height in zip(parts, heights, strict=True)
        if height
    ]


def _at_once(db: Connection, questions: list[Select[Any]]) -> list[int]:
    """The answers, 0 for none, to questions for one number each: some at a time, as each way to a server takes its time."""
    found: list[int] = []
    for start in range(0, len(questions), _AT_ONCE):
        some = [question.scalar_subquery() for question in questions[start : start + _AT_ONCE]]
        found += [int(value or 0) for value in db.execute(select(*some)).one()]
    return found


def _heights_before(db: Connection, times: list[int]) -> list[int]:
    b = schema.block.c
    newest = select(b.height).order_by(b.time_ms.desc(), b.height.desc()).limit(1)
    return _at_once(db, [newest.where(b.time_ms < time_ms) for time_ms in times])


def _last_clearings(db: Connection, zone: str, spans: list[tuple[int, int]]) -> list[int]:
    """The height of the last clearing above the first and up to the second height of each span, 0 for none."""
    c = schema.clearing.c
    newest = select(c.height).where(c.zone == zone).order_by(c.height.desc()).limit(1)
    return _at_once(db, [newest.where(c.height > above, c.height <= until) for above, until in spans])


def _clearings(db: Connection, zone: str, heights: list[int]) -> dict[int, dict[str, Any]]:
    c, p, b = schema.clearing.c, schema.price.c, schema.block.c
    rows: dict[int, dict[str, Any]] = {}
    for start in range(0, len(heights), _AT_ONCE):
        some = heights[start : start + _AT_ONCE]
        columns = (c.height, b.time_ms, c.open_before_wh, c.open_after_wh, c.capacity_wh)
        query = select(*columns).join_from(schema.clearing, schema.block, b.height == c.height)
        for row in db.execute(query.where(c.zone == zone, c.height.in_(some))).mappings():
            rows[row["height"]] = dict(row) | dict.fromkeys(_PRICES)
        priced = select(p.height, p.catalog_micro_per_kwh, p.price_micro_per_kwh).where(
            p.zone == zone, p.height.in_(some)
        )
        for height, catalog, price in db.execute(priced.order_by(p.height, p.catalog_micro_per_kwh)):
            told = rows[height]
            low = price if told["low_micro_per_kwh"] is None else told["low_micro_per_kwh"]
            told.update(zip(_PRICES, (catalog, price, low), strict=True))  # the last is the dearest
    return rows


# --- the order book ------------------------------------------------------------------------------------------------------


def order_book(
    db: Connection, view: View, *, zone: str | None = None, after: Place | None = None, limit: int = 50
) -> Page:
    """Resting bids and open listings in view, the newest first, of one zone or all.

    Returns:
        Rows with id, party, kind, zone, pile (None for a bid that takes any), energy_wh, open_wh (not yet contracted),
        price_micro_per_kwh (-1 at market), window_start_ms, window_end_ms, expires_ms, divisible, explicit, height, time_ms.
    """
    o = schema.orders.c
    query = _waiting()
    if zone is not None:
        query = query.where(_in_zone(zone))
    seen = [] if view.orders == NONE else [orders_seen(view.orders, view.party)]
    return page(db, query, seen, (o.height, o.position), after, limit)


def book_depth(db: Connection, zone: str) -> list[dict[str, Any]]:
    """What waits in a zone, by kind and price, without saying whose: kind, price_micro_per_kwh, open_wh and orders.

    The dearest first, at most MAX_LEVELS of them.
    """
    waiting = _waiting().where(_in_zone(zone)).subquery()
    w = waiting.c
    sums = (func.sum(w.open_wh).label("open_wh"), func.count().label("orders"))
    query = select(w.kind, w.price_micro_per_kwh, *sums).group_by(w.kind, w.price_micro_per_kwh)
    ordered = query.order_by(w.kind, w.price_micro_per_kwh.desc()).limit(MAX_LEVELS)
    rows = [dict(row) for row in db.execute(ordered).mappings()]
    return [row | {"open_wh": int(row["open_wh"])} for row in rows]


def _in_zone(zone: str) -> Any:
    o, p = schema.orders.c, schema.pile.c
    return or_(o.zone == zone, p.zone == zone)


def _waiting() -> Select[Any]:
    o, c, b, p = schema.orders, schema.contract.c, schema.block, schema.pile
    taken = func.coalesce(func.sum(c.energy_wh), 0)
    by_bid = select(taken).where(c.bid == o.c.id).scalar_subquery()
    by_listing = select(taken).where(c.listing == o.c.id).scalar_subquery()
    names = ("id", "party", "kind", "pile", "energy_wh", "price_micro_per_kwh", "window_start_ms", "window_end_ms",
             "expires_ms", "divisible", "explicit", "height")  # fmt: skip
    joined = o.join(b, b.c.height == o.c.height).outerjoin(p, p.c.id == o.c.pile)
    zone = func.coalesce(o.c.zone, p.c.zone).label("zone")
    left = (o.c.energy_wh - by_bid - by_listing).label("open_wh")
    return (
        select(*(o.c[name] for name in names), zone, left, b.c.time_ms)
        .select_from(joined)
        .where(o.c.ended_height.is_(None))
    )
