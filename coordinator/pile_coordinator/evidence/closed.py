"""Which contracts were closed in a time: what bulk exports go by."""

from sqlalchemy import ColumnElement, Connection, func, select

from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import Page, Place, View, contract_branches, page


def closed_contracts(
    db: Connection, view: View, start_ms: int, end_ms: int, *, after: Place | None = None, limit: int = 100
) -> Page:
    """Contracts in view that blocks of [start_ms, end_ms) closed, in the order of the chain, as rows with their `id`.

    A proposal that nobody signed is none of them: it has no certificate.
    """
    c = schema.contract.c
    within = (c.closed_height >= first_height(start_ms), c.closed_height < first_height(end_ms))
    query = select(c.id).where(*within, c.outcome != UNSIGNED)
    branches = contract_branches(view.contracts, view.party, schema.contract)
    return page(db, query, branches, (c.closed_height, c.closed_leaf), after, limit, newest_first=False)


def first_height(time_ms: int) -> ColumnElement[int]:
    """Of the first block at or after a time; beyond every block if there is none."""
    b = schema.block.alias("bound").c
    found = select(b.height).where(b.time_ms >= time_ms).order_by(b.time_ms, b.height).limit(1)
    return func.coalesce(found.scalar_subquery(), 1 << 62)
