"""Disputes: who objects to what, until when arbiters may speak, and what it came to."""

from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, null, select

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import Page, Place, View, contract_branches, page


def disputes(
    db: Connection,
    view: View,
    *,
    window_ms: int | None,
    open_only: bool = False,
    after: Place | None = None,
    limit: int = 50,
) -> Page:
    """Disputes of contracts in view, the newest first.

    Args:
        db: the evidence.
        view: what the asker sees.
        window_ms: how long arbiters have (`dispute_window_ms` of genesis); None if that is not known: no deadline is told.
        open_only: only those that nobody has decided.
        after: the place that the page before ended with.
        limit: rows, 1 or more.

    Returns:
        Rows with contract, pile, zone, user, owner, party (who objects), ground, claimed_wh, text (a stranger's words),
        bond_micro, height, time_ms, deadline_ms, answer_height, rulings (how many were said), state and outcome of the
        contract, closed_height, measured_wh and cause (what is objected to), and final_wh, final_cause and basis (what it
        came to; None so long). deadline_ms is None where it is not known, or over.
    """
    query = _disputes(window_ms)
    c, d = schema.contract, schema.dispute.c
    if open_only:
        query = query.where(c.c.closed_height.is_(None))
    return page(db, query, contract_branches(view.contracts, view.party, c), (d.height, d.position), after, limit)


def _disputes(window_ms: int | None) -> Select[Any]:
    d, c, b = schema.dispute, schema.contract, schema.block
    first, last, said = schema.statement.alias("first"), schema.statement.alias("last"), schema.ruling.alias("said")
    rulings = select(func.count()).select_from(said).where(said.c.contract == d.c.contract).scalar_subquery()
    deadline = null() if window_ms is None else case((c.c.closed_height.is_(None), b.c.time_ms + window_ms))
    joined = (
        d.join(c, c.c.id == d.c.contract)
        .join(b, b.c.height == d.c.height)
        .join(first, and_(first.c.contract == d.c.contract, first.c.number == 1))
        .outerjoin(last, and_(last.c.contract == d.c.contract, last.c.number == 2))
    )
    return select(
        d.c.contract, *(c.c[name] for name in ("pile", "zone", "user", "owner", "state", "outcome", "closed_height")),
        *(d.c[name] for name in ("party", "ground", "claimed_wh", "text", "bond_micro", "height", "answer_height")),
        b.c.time_ms, deadline.label("deadline_ms"), rulings.label("rulings"), first.c.measured_wh, first.c.cause,
        last.c.measured_wh.label("final_wh"), last.c.cause.label("final_cause"), last.c.basis,
    ).select_from(joined)  # fmt: skip
