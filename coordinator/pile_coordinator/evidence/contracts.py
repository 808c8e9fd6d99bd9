"""Contracts as lists show them: filtered, the newest first, each with what it came to and who ended up with how much."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from pile_coordinator.chain.settlement import FEES, GRID, OWNER
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.closed import first_height
from pile_coordinator.evidence.scopes import Page, Place, Row, View, contract_branches, page

STATES = ("proposed", "signed", "measured", "disputed", "closed")
_SIDES = {OWNER: "owner_micro", GRID: "grid_micro", FEES: "fee_micro"}


def contracts(
    db: Connection,
    view: View,
    *,
    contract: bytes | None = None,
    state: str | None = None,
    pile: str | None = None,
    party: str | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
    closed: bool = False,
    after: Place | None = None,
    limit: int = 50,
) -> Page:
    """Contracts in view, the newest match first, or the newest closing first where only `closed` ones are asked for.

    Args:
        db: the evidence.
        view: what the asker sees.
        contract: only this one.
        state: one of STATES, or an outcome of closed ones.
        pile: only of this pile.
        party: only with this user or owner.
        start_ms: only from this time on: of the match, or of the closing.
        end_ms: only before this time.
        closed: only closed ones.
        after: the place that the page before ended with.
        limit: rows, 1 or more.

    Returns:
        Rows with id, bid, listing, pile, zone, user, anonymous (1 if the user paid with notes, else 0), owner, energy_wh,
        price_micro_per_kwh, window_start_ms, window_end_ms, state, outcome, height and time_ms (of the match, or of the
        closing), measured_wh, off_wh and cause (None before the settlement), and user_micro (what the user paid),
        owner_micro, grid_micro, fee_micro (what each gained; None before the closing).
    """
    c = schema.settled_contract.c
    at = c.closed_height if closed else c.height
    b, query = schema.block.c, _contracts()
    query = query.add_columns(b.time_ms, at.label("height")).join(schema.block, b.height == at)
    if closed:
        query = query.where(c.closed_height.is_not(None))
    if contract is not None:
        query = query.where(c.id == contract)
    if state is not None:
        is_open = state in STATES and state != "closed"
        query = query.where(c.state == state if state in STATES else c.outcome == state)
        query = query.where(c.closed_height.is_(None)) if is_open else query  # open ones are found by index
    if pile is not None:
        query = query.where(c.pile == pile)
    if start_ms is not None:
        query = query.where(at >= first_height(start_ms))
    if end_ms is not None:
        query = query.where(at < first_height(end_ms))
    branches = contract_branches(view.contracts, view.party, schema.settled_contract)
    if party is not None:
        branches = [branch & side for branch in branches for side in (c.user == party, c.owner == party)]
    order = (at, c.closed_leaf if closed else c.leaf)
    rows, following = page(db, query, branches, order, after, limit)
    return [row | paid for row, paid in zip(rows, _money(db, rows), strict=True)], following


def _contracts() -> Any:
    c = schema.settled_contract.c
    names = ("id", "bid", "listing", "pile", "zone", "user", "owner", "energy_wh", "price_micro_per_kwh", "window_start_ms",
             "window_end_ms", "state", "outcome", "bond_micro", "closed_height", "number", "measured_wh", "cause",
             "anonymous")  # fmt: skip
    off_wh = (c.measured_wh - c.energy_wh).label("off_wh")
    return select(*(c[name] for name in names), off_wh).select_from(schema.settled_contract)


def _money(db: Connection, rows: list[Row]) -> Iterable[Row]:
    """Who ended up with how much by each contract, as the statistics count it (docs/statistics.md)."""
    ids = [bytes.fromhex(row["id"]) for row in rows if row["closed_height"] is not None and row["number"] is not None]
    p, d = schema.posting.c, schema.dispute.c
    posted: dict[tuple[str, int], list[Any]] = {}
    for found in db.execute(select(schema.posting).where(p.contract.in_(ids))):
        posted.setdefault((found.contract.hex(), found.number), []).append(found)
    objected = {
        r.contract.hex(): r for r in db.execute(select(d.contract, d.party, d.bond_micro).where(d.contract.in_(ids)))
    }
    for row in rows:
        if row["closed_height"] is None or row["number"] is None:
            yield {"user_micro": None} | dict.fromkeys(_SIDES.values())
            continue
        gains = gained(posted.get((row["id"], row["number"]), []))
        gains["owner_micro"] -= row["bond_micro"]
        dispute = objected.get(row["id"])
        if dispute is not None and dispute.party == row["owner"]:
            gains["owner_micro"] -= dispute.bond_micro or 0
        yield gains | {"user_micro": sum(gains.values())}


def gained(postings: Iterable[Any]) -> dict[str, int]:
    """What postings (with debit, credit and amount_micro) put on the accounts of owner, grid and fees."""
    gains = dict.fromkeys(_SIDES.values(), 0)
    for posted in postings:
        if posted.credit in _SIDES:
            gains[_SIDES[posted.credit]] += posted.amount_micro
        if posted.debit in _SIDES:
            gains[_SIDES[posted.debit]] -= posted.amount_micro
    return gains
