"""Deviations: what was delivered beside what was contracted, and what the grid gains or pays for the difference."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select, true

from pile_coordinator.chain.settlement import GRID
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import ALL, DEVIATED, OWN, Page, Place, View, contract_branches, page


def deviations(
    db: Connection,
    view: View,
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
    after: Place | None = None,
    limit: int = 50,
) -> Page:
    """Contracts in view of whose settlement the grid is a side, the newest settlement first; settled in [start_ms, end_ms).

    Returns:
        Rows with contract, pile, zone, user, owner, state, outcome, closed_height, height and time_ms (of the settlement),
        expected_wh (contracted), measured_wh, off_wh (measured beyond expected, negative for less), grid_wh (supplied by the
        grid), price_micro_per_kwh, catalog_sell_micro_per_kwh and catalog_buy_micro_per_kwh (what the grid sells and buys
        for), and grid_micro (what the grid gains, negative where it buys). Money moves when the contract is closed.
    """
    d, query = schema.deviation.c, _deviations()
    if start_ms is not None:
        query = query.where(d.height >= _first_height(start_ms))
    if end_ms is not None:
        query = query.where(d.height < _first_height(end_ms))
    return page(db, query, _branches(view), (d.height, d.leaf), after, limit)


def _first_height(time_ms: int) -> ColumnElement[int]:
    """Of the first block at or after a time; beyond every block if there is none."""
    b = schema.block.alias("bound").c
    return func.coalesce(select(func.min(b.height)).where(b.time_ms >= time_ms).scalar_subquery(), 1 << 62)


def _branches(view: View) -> list[ColumnElement[bool]]:
    if view.contracts in {ALL, DEVIATED}:
        return [true()]
    table = schema.deviation if view.contracts == OWN else schema.contract
    return contract_branches(view.contracts, view.party, table)


def _deviations() -> Select[Any]:
    d, c, s, p, b = schema.deviation, schema.contract, schema.statement, schema.posting.c, schema.block
    other = s.alias("other")
    last = select(func.max(other.c.number)).where(other.c.contract == d.c.contract).scalar_subquery()
    gain = case((p.credit == GRID, p.amount_micro), else_=-p.amount_micro)
    of_grid = (p.contract == d.c.contract, p.number == s.c.number, or_(p.credit == GRID, p.debit == GRID))
    grid_micro = select(func.coalesce(func.sum(gain), 0)).where(*of_grid).scalar_subquery()
    joined = (
        d.join(c, c.c.id == d.c.contract)
        .join(s, and_(s.c.contract == d.c.contract, s.c.number == last))
        .join(b, b.c.height == d.c.height)
    )
    return select(
        d.c.contract, d.c.height, b.c.time_ms,
        *(c.c[name] for name in ("pile", "zone", "user", "owner", "state", "outcome", "closed_height")),
        c.c.energy_wh.label("expected_wh"), s.c.measured_wh, (s.c.measured_wh - c.c.energy_wh).label("off_wh"), s.c.grid_wh,
        c.c.price_micro_per_kwh, c.c.catalog_sell_micro_per_kwh, c.c.catalog_buy_micro_per_kwh,
        grid_micro.label("grid_micro"),
    ).select_from(joined)  # fmt: skip
