"""The market as charts show it: prices against load over time, and the orders that wait."""

from typing import Any

from sqlalchemy import Connection, Select, func, or_, select

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import Page, Place, View, orders_seen, page

MAX_POINTS = 500  # of a chart: each costs a few questions by index
MAX_LEVELS = 200  # of a zone's book
LISTING = "listing"


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
    found, below = [], _height_before(db, start_ms)
    for begin_ms in range(start_ms, end_ms, step_ms):
        until_ms = min(begin_ms + step_ms, end_ms)
        height = _height_before(db, until_ms)
        row = _last_clearing(db, zone, below, height) if height > below else None
        if row is not None:
            found.append({"start_ms": begin_ms, "end_ms": until_ms} | row)
        below = max(below, height)
    return found


def _height_before(db: Connection, time_ms: int) -> int:
    b = schema.block.c
    query = select(b.height).where(b.time_ms < time_ms).order_by(b.time_ms.desc(), b.height.desc()).limit(1)
    return int(db.execute(query).scalar() or 0)


def _last_clearing(db: Connection, zone: str, above: int, until: int) -> dict[str, Any] | None:
    c, p, b = schema.clearing.c, schema.price.c, schema.block.c
    columns = (c.height, b.time_ms, c.open_before_wh, c.open_after_wh, c.capacity_wh)
    query = select(*columns).join_from(schema.clearing, schema.block, b.height == c.height)
    query = query.where(c.zone == zone, c.height > above, c.height <= until).order_by(c.height.desc()).limit(1)
    row = db.execute(query).mappings().first()
    if row is None:
        return None
    priced = select(p.catalog_micro_per_kwh, p.price_micro_per_kwh).where(p.zone == zone, p.height == row["height"])
    prices = [tuple(price) for price in db.execute(priced.order_by(p.catalog_micro_per_kwh))]
    catalog, dearest = prices[-1] if prices else (None, None)
    low = prices[0][1] if prices else None
    shown = {"catalog_micro_per_kwh": catalog, "price_micro_per_kwh": dearest, "low_micro_per_kwh": low}
    return dict(row) | shown


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
    return page(db, query, [orders_seen(view.orders, view.party)], (o.height, o.position), after, limit)


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
