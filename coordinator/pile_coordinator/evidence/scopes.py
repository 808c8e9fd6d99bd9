"""How much of the evidence somebody sees: conditions that every question asked for others carries.

What one does not see is not found, as if it were not there. A condition never stands alone where a list is asked for: it
comes in branches, each served by an index, because no database finds "mine, as user or as owner, the newest first" by one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Select, false, or_, select, true, tuple_
from sqlalchemy.sql import ColumnElement, FromClause

from pile_coordinator.evidence import schema

ALL = "all"  # everything there is
OWN = "own"  # what names the party, or is of its piles
DEVIATED = "deviated"  # contracts of whose settlement the grid is a side
DISPUTED = "disputed"  # contracts that somebody objected to, and what they came from
NONE = "none"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """What one party sees, each ALL, OWN, DEVIATED, DISPUTED or NONE; `senders`: whether it is told who sent what."""

    party: str
    orders: str
    contracts: str
    piles: str
    parties: str
    senders: bool


EVERYTHING = View("", ALL, ALL, ALL, ALL, senders=True)


def contract_branches(scope: str, party: str, contract: FromClause) -> list[ColumnElement[bool]]:
    """Conditions on `contract` (or the view of settled ones) of which any is enough; none overlaps by much."""
    if scope == ALL:
        return [true()]
    if scope == OWN:
        return [contract.c.user == party, contract.c.owner == party]
    if scope in {DEVIATED, DISPUTED}:
        table = (schema.deviation if scope == DEVIATED else schema.dispute).alias(f"seen_{scope}")
        return [select(table.c.contract).where(table.c.contract == contract.c.id).exists()]
    return [false()]


def contracts_seen(scope: str, party: str, contract: FromClause) -> ColumnElement[bool]:
    """Which rows of `contract`, or of the view of settled ones."""
    return or_(*contract_branches(scope, party, contract))


def through_contracts(scope: str, side: str, column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether `column` is this side (a column) of a contract that is seen as DEVIATED or DISPUTED: they are few."""
    seen = schema.contract.alias(f"through_{side}")
    table = (schema.deviation if scope == DEVIATED else schema.dispute).alias(f"of_{side}")
    return column.in_(select(seen.c[side]).join_from(table, seen, seen.c.id == table.c.contract))


def orders_seen(scope: str, party: str) -> ColumnElement[bool]:
    """Which rows of `orders`."""
    if scope == ALL:
        return true()
    if scope == OWN:
        return schema.orders.c.party == party
    if scope == NONE:
        return false()
    return or_(*(through_contracts(scope, side, schema.orders.c.id) for side in ("bid", "listing")))


def piles_seen(scope: str, party: str) -> ColumnElement[bool]:
    """Which rows of `pile`."""
    pile = schema.pile.c
    if scope == ALL:
        return true()
    if scope == NONE:
        return false()
    if scope != OWN:
        return through_contracts(scope, "pile", pile.id)
    seen = schema.contract.alias("through_pile")
    return or_(pile.owner == party, pile.id.in_(select(seen.c.pile).where(seen.c.user == party)))


def parties_seen(scope: str, party: str) -> ColumnElement[bool]:
    """Which rows of `party`."""
    name = schema.party.c.id
    if scope == ALL:
        return true()
    if scope == NONE:
        return false()
    if scope == OWN:
        return name == party
    return or_(name == party, *(through_contracts(scope, side, name) for side in ("user", "owner")))


def newest(
    db: Connection,
    query: Select[Any],
    branches: Iterable[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    after: Sequence[Any] | None,
    limit: int,
    *,
    newest_first: bool = True,
) -> list[Row]:
    """At most `limit` rows of any of the branches, in descending order of columns that together are unique, after a place.

    Each branch is asked by itself and reads no more than `limit` rows; the key columns come back as key_0, key_1, ...
    """
    keys = [column.label(f"key_{i}") for i, column in enumerate(order)]
    directions = [column.desc() if newest_first else column.asc() for column in order]
    query = query.add_columns(*keys).order_by(*directions).limit(limit)
    if after is not None:  # the first column once more by itself, as MariaDB finds no index for tuples
        here, first, value = tuple_(*order), order[0], after[0]
        later = (here < tuple_(*after), first <= value) if newest_first else (here > tuple_(*after), first >= value)
        query = query.where(*later)
    found: dict[tuple[Any, ...], Row] = {}
    for branch in branches:
        for row in db.execute(query.where(branch)).mappings():
            found[tuple(row[f"key_{i}"] for i in range(len(keys)))] = dict(row)
    return [found[key] for key in sorted(found, reverse=newest_first)[:limit]]


Place = tuple[Any, ...]
Page = tuple[list[Row], Place | None]


def page(
    db: Connection,
    query: Select[Any],
    branches: Iterable[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
    after: Place | None,
    limit: int,
    *,
    newest_first: bool = True,
) -> Page:
    """As `newest`, without the key columns and with bytes as hex; and the place after which more follows, or None."""
    rows = newest(db, query, branches, order, after, limit + 1, newest_first=newest_first)
    keys = [f"key_{i}" for i in range(len(order))]
    following = tuple(rows[limit - 1][key] for key in keys) if len(rows) > limit else None
    return [plain({n: v for n, v in row.items() if n not in keys}) for row in rows[:limit]], following


def plain(row: Row) -> Row:
    """Bytes as hex, and the exact decimals that MariaDB's sums are as integers."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return int(value) if isinstance(value, Decimal) else value
