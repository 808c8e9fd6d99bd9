"""Questions to the evidence database, each within what its caller may see. Only read-only connections are ever opened."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, Select, create_engine, event, func, make_url, select, true
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import ColumnElement, FromClause

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import (
    ALL,
    contract_branches,
    contracts_seen,
    orders_seen,
    parties_seen,
    piles_seen,
)
from pile_coordinator.web.access import Grant
from pile_coordinator.web.models import MAX_PAGE
from pile_coordinator.web.paging import Order
from pile_coordinator.web.problems import Refused
from pile_shared.errors import ConfigError

MAX_CONNECTIONS = 8  # at once; who finds none for 5 s is told to come again
WAIT_S = 5
CONNECT_S, ANSWER_S = 3, 20  # a server that does not answer

Row = dict[str, Any]
Rows = tuple[list[Row], str | None]
_settled = schema.settled_contract


def open_database(place: str, base: Path) -> Engine:
    """The database at a path (SQLite, from `base`) or a URL of SQLAlchemy, for reading; ConfigError if it is none."""
    try:
        url = make_url(place) if "://" in place else URL.create("sqlite", database=str(base / place))
    except ArgumentError as error:
        raise ConfigError(f"database = {place!r} is neither a path nor a URL such as mysql+pymysql://...") from error
    pool: dict[str, Any] = {
        "pool_size": MAX_CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": WAIT_S,
        "pool_pre_ping": True,
    }
    if url.get_backend_name() == "sqlite":
        path = (base / str(url.database)).resolve()
        if not path.is_file():
            raise ConfigError(f"{path} is not there; a coordinator writes it: evidence.sqlite of its data folder")
        return create_engine("sqlite://", creator=lambda: _open_sqlite(path), poolclass=QueuePool, **pool)
    limits = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
    engine = create_engine(url, connect_args=limits, **pool)

    @event.listens_for(engine, "connect")
    def _only_read(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION READ ONLY")

    return engine


def _open_sqlite(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=WAIT_S, check_same_thread=False)


# --- lists ---------------------------------------------------------------------------------------------------------------

_BLOCKS = Order("blocks", (schema.block.c.height,), (int,))
_ORDERS = Order("orders", (schema.orders.c.height, schema.orders.c.position, schema.orders.c.id), (int, int, bytes))
_CONTRACTS = Order("contracts", (_settled.c.height, _settled.c.leaf), (int, int))
_PILES = Order("piles", (schema.pile.c.id,), (str,), newest_first=False)
_PARTIES = Order("parties", (schema.party.c.id,), (str,), newest_first=False)
_PROOFS = Order("proofs", (schema.proof.c.kid, schema.proof.c.sequence), (bytes, int), newest_first=False)
_POSTINGS = Order(
    "postings", (_settled.c.closed_height, _settled.c.closed_leaf, schema.posting.c.item), (int, int, int)
)
_PRICES = Order(
    "prices", (schema.clearing.c.height, schema.clearing.c.zone, schema.price.c.catalog_micro_per_kwh), (int, str, int)
)


class Reading:
    """All questions of the API. Used by any thread."""

    def __init__(self, engine: Engine) -> None:
        """Ask this database."""
        self._engine = engine

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def connect(self) -> Connection:
        """A connection for other questions, to be closed by its user."""
        return self._engine.connect()

    def height(self) -> int:
        """Of the last block in evidence; 0 if there is none."""
        with self._engine.connect() as connection:
            return int(connection.execute(select(schema.mark.c.height)).scalar() or 0)

    def blocks(self, cursor: str | None, limit: int) -> Rows:
        """The newest blocks."""
        return self._page(_BLOCKS, select(schema.block), cursor, limit)

    def blocks_after(self, height: int, most: int) -> list[Row]:
        """The blocks after a height, in order, each with its `prices`; for live streams."""
        block = schema.block
        with self._engine.connect() as connection:
            query = select(block).where(block.c.height > height).order_by(block.c.height).limit(most)
            rows = _rows(connection, query)
            found: dict[int, list[Row]] = {row["height"]: [] for row in rows}
            between = schema.clearing.c.height.between(min(found, default=1), max(found, default=0))
            ordered = schema.clearing.c.zone, schema.price.c.catalog_micro_per_kwh
            for price in _rows(connection, _prices().where(between).order_by(schema.clearing.c.height, *ordered)):
                found[price["height"]].append(price)
        for row in rows:
            row["prices"] = found[row["height"]]
        return rows

    def latest_prices(self) -> list[Row]:
        """The last clearing of every zone, with its dearest price; 200 zones at most."""
        clearing, price = schema.clearing, schema.price.c
        last = select(clearing.c.zone, func.max(clearing.c.height).label("height")).group_by(clearing.c.zone).subquery()
        dearest = (
            select(func.max(price.price_micro_per_kwh))
            .where(price.zone == clearing.c.zone, price.height == clearing.c.height)
            .scalar_subquery()
            .label("price_micro_per_kwh")
        )
        query = select(clearing.c.zone, clearing.c.open_after_wh, clearing.c.capacity_wh, dearest)
        at = (last.c.zone == clearing.c.zone) & (last.c.height == clearing.c.height)
        with self._engine.connect() as connection:
            return _rows(connection, query.select_from(clearing.join(last, at)).limit(MAX_PAGE))

    def block(self, height: int, grant: Grant) -> Row:
        """A block with its transactions. Who sent what is told to those who see all orders."""
        tx = schema.tx
        with self._engine.connect() as connection:
            row = _one(connection, select(schema.block).where(schema.block.c.height == height), "block")
            query = select(tx).where(tx.c.height == height).order_by(tx.c.position).limit(MAX_PAGE)
            row["transactions"] = _rows(connection, query)
        for sent in row["transactions"]:
            if sent["sender"] != grant.party and grant.token.role != "operator":
                sent["sender"] = ""
        return row

    def prices(self, zone: str | None, cursor: str | None, limit: int) -> Rows:
        """The newest prices, of one zone or all."""
        query = _prices() if zone is None else _prices().where(schema.clearing.c.zone == zone)
        return self._page(_PRICES, query, cursor, limit)

    def orders(self, grant: Grant, cursor: str | None, limit: int, **wanted: str | None) -> Rows:
        """The newest orders the caller may see; `wanted` are columns and values."""
        query = select(schema.orders).where(orders_seen(grant.scope, grant.party), *_equal(schema.orders, wanted))
        return self._page(_ORDERS, query, cursor, limit)

    def order(self, grant: Grant, name: bytes) -> Row:
        """One order; Refused (404) if there is none that the caller may see."""
        with self._engine.connect() as connection:
            return self._order(connection, grant, name)

    def _order(self, connection: Connection, grant: Grant, name: bytes) -> Row:
        query = select(schema.orders).where(schema.orders.c.id == name, orders_seen(grant.scope, grant.party))
        return _one(connection, query, "order")

    def contracts(self, grant: Grant, cursor: str | None, limit: int, **wanted: str | None) -> Rows:
        """The newest contracts the caller may see; `wanted` are columns and values."""
        query = select(_settled).where(*_equal(_settled, wanted))
        return self._page(_CONTRACTS, query, cursor, limit, contract_branches(grant.scope, grant.party, _settled))

    def contract(self, grant: Grant, name: bytes) -> Row:
        """One contract; Refused (404) if there is none that the caller may see."""
        with self._engine.connect() as connection:
            return self._a_contract(connection, grant, name)

    def _a_contract(self, connection: Connection, grant: Grant, name: bytes) -> Row:
        query = select(_settled).where(_settled.c.id == name, contracts_seen(grant.scope, grant.party, _settled))
        return _one(connection, query, "contract")

    def closed_between(self, after: int, last: int) -> tuple[int, int]:
        """How many contracts closed in the blocks after a height up to another: of anonymous users, and of named ones."""
        c = schema.contract.c
        nobody = schema.paid_anonymously(c.user)
        query = select(nobody, func.count()).where(c.closed_height > after, c.closed_height <= last).group_by(nobody)
        with self._engine.connect() as connection:
            found = {int(anonymous): int(count) for anonymous, count in connection.execute(query)}
        return found.get(1, 0), found.get(0, 0)

    def contract_proofs(self, grant: Grant, name: bytes, cursor: str | None, limit: int) -> Rows:
        """A contract's proofs, the first ones first."""
        with self._engine.connect() as connection:
            self._a_contract(connection, grant, name)
        return self._page(_PROOFS, _proofs().where(schema.proof.c.contract == name), cursor, limit)

    def pile_proofs(self, grant: Grant, name: str, cursor: str | None, limit: int) -> Rows:
        """A pile's proofs, the first ones first; of piles that are the caller's own, or of all."""
        mine = true() if grant.scope == ALL else schema.pile.c.owner == grant.party
        with self._engine.connect() as connection:
            pile = _one(connection, select(schema.pile).where(schema.pile.c.id == name, mine), "pile", raw=True)
        return self._page(_PROOFS, _proofs().where(schema.proof.c.kid == pile["kid"]), cursor, limit)

    def newest_proofs(self, grant: Grant, name: str, limit: int) -> tuple[list[Row], int]:
        """A pile's newest proofs, the newest first, and how many numbers of its chain up to there are not admitted."""
        mine = true() if grant.scope == ALL else schema.pile.c.owner == grant.party
        proof = schema.proof.c
        with self._engine.connect() as connection:
            pile = _one(connection, select(schema.pile).where(schema.pile.c.id == name, mine), "pile", raw=True)
            rows = _rows(
                connection, _proofs().where(proof.kid == pile["kid"]).order_by(proof.sequence.desc()).limit(limit)
            )
            counted = select(func.count(), func.min(proof.sequence), func.max(proof.sequence)).where(
                proof.kid == pile["kid"]
            )
            count, first, last = connection.execute(counted).one()
        return rows, (last - first + 1 - count) if count else 0

    def postings(self, grant: Grant, contract: bytes | None, cursor: str | None, limit: int) -> Rows:
        """The newest postings that moved money, of one contract or all that the caller may see."""
        query = _postings() if contract is None else _postings().where(_settled.c.id == contract)
        return self._page(_POSTINGS, query, cursor, limit, contract_branches(grant.scope, grant.party, _settled))

    def piles(self, grant: Grant, cursor: str | None, limit: int, **wanted: str | None) -> Rows:
        """Piles by id; `wanted` are columns and values."""
        return self._page(
            _PILES, _piles().where(piles_seen(grant.scope, grant.party), *_equal(schema.pile, wanted)), cursor, limit
        )

    def pile_names(self, grant: Grant, most: int) -> list[str]:
        """The ids of all piles the caller may see, at most `most`, in order."""
        query = (
            select(schema.pile.c.id).where(piles_seen(grant.scope, grant.party)).order_by(schema.pile.c.id).limit(most)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def pile(self, grant: Grant, name: str) -> Row:
        """One pile; Refused (404) if there is none that the caller may see."""
        with self._engine.connect() as connection:
            return _one(
                connection, _piles().where(schema.pile.c.id == name, piles_seen(grant.scope, grant.party)), "pile"
            )

    def parties(self, grant: Grant, cursor: str | None, limit: int, **wanted: str | None) -> Rows:
        """Parties by id; `wanted` are columns and values."""
        query = select(schema.party).where(parties_seen(grant.scope, grant.party), *_equal(schema.party, wanted))
        return self._page(_PARTIES, query, cursor, limit)

    def party(self, grant: Grant, name: str) -> Row:
        """One party; Refused (404) if there is none that the caller may see."""
        with self._engine.connect() as connection:
            return _one(
                connection,
                select(schema.party).where(schema.party.c.id == name, parties_seen(grant.scope, grant.party)),
                "party",
            )

    def trace(self, grant: Grant, orders: Grant | None, name: bytes) -> Row:
        """A contract's way from order to money. `orders` is what the caller may see of orders, None for nothing."""
        with self._engine.connect() as connection:
            contract = self._a_contract(connection, grant, name)
            found: Row = {"contract": contract}
            for side in ("bid", "listing"):
                query = select(schema.orders).where(schema.orders.c.id == bytes.fromhex(contract[side]))
                found[side] = (
                    _first(connection, query.where(orders_seen(orders.scope, orders.party))) if orders else None
                )
            found["pile"] = _one(connection, _piles().where(schema.pile.c.id == contract["pile"]), "pile")
            found["proofs"] = _rows(
                connection,
                _proofs().where(schema.proof.c.contract == name).order_by(*_PROOFS.columns).limit(MAX_PAGE),
            )
            for key, table in (("signatures", schema.signature), ("confirmations", schema.confirmation)):
                found[key] = _of(connection, table, name, "height", "position")
            found["statements"] = _of(connection, schema.statement, name, "number")
            found["rulings"] = _of(connection, schema.ruling, name, "height", "position")
            found["cancellation"] = next(iter(_of(connection, schema.cancellation, name, "height")), None)
            found["dispute"] = next(iter(_of(connection, schema.dispute, name, "height")), None)
            postings = _postings().where(_settled.c.id == name).order_by(schema.posting.c.item)
            found["postings"] = _rows(connection, postings.limit(MAX_PAGE))
            heights = sorted(_heights(found))[:MAX_PAGE]
            found["blocks"] = _rows(connection, select(schema.block).where(schema.block.c.height.in_(heights)))
        return found

    def _page(
        self,
        order: Order,
        query: Select[Any],
        cursor: str | None,
        limit: int,
        branches: Sequence[ColumnElement[bool]] = (true(),),
    ) -> Rows:
        with self._engine.connect() as connection:
            rows, following = order.page(connection, query, cursor, limit, branches)
        return [_plain(row) for row in rows], following


# --- rows ----------------------------------------------------------------------------------------------------------------


def _prices() -> Select[Any]:
    clearing, price, block = schema.clearing, schema.price, schema.block
    at = (price.c.zone == clearing.c.zone) & (price.c.height == clearing.c.height)
    columns = (
        *(clearing.c[name] for name in ("zone", "height", "capacity_wh", "open_before_wh", "open_after_wh")),
        *(price.c[name] for name in ("catalog_micro_per_kwh", "price_micro_per_kwh")),
        block.c.time_ms,
    )
    joined = clearing.join(price, at).join(block, block.c.height == clearing.c.height)
    return select(*columns).select_from(joined)


def _proofs() -> Select[Any]:
    """Without the signed bytes, which certificates carry."""
    proof = schema.proof.c
    columns = [column for column in proof if column.name not in {"bytes", "kid"}]
    joined = schema.proof.join(schema.pile, schema.pile.c.kid == proof.kid)
    return select(*columns, schema.pile.c.id.label("pile")).select_from(joined)


def _postings() -> Select[Any]:
    posting = schema.posting
    at = (posting.c.contract == _settled.c.id) & (posting.c.number == _settled.c.number)
    columns = (
        *(posting.c[name] for name in ("contract", "item", "debit", "credit", "amount_micro")),
        _settled.c.closed_height.label("height"),
        _settled.c.user,
        _settled.c.owner,
    )
    return select(*columns).select_from(_settled.join(posting, at)).where(_settled.c.closed_height.is_not(None))


def _piles() -> Select[Any]:
    pile, receipt = schema.pile, schema.receipt
    columns = [pile.c[name] for name in ("id", "owner", "zone", "rated_power_w", "height", "retired_height")]
    joined = pile.outerjoin(receipt, receipt.c.pile == pile.c.id)
    return select(*columns, receipt.c.height.label("receipt_height"), receipt.c.through_sequence).select_from(joined)


def _equal(table: FromClause, wanted: dict[str, str | None]) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in wanted.items() if value is not None]


def _of(connection: Connection, table: FromClause, contract: bytes, *order: str) -> list[Row]:
    query = select(table).where(table.c.contract == contract).order_by(*(table.c[name] for name in order))
    return _rows(connection, query.limit(MAX_PAGE))


def _heights(value: Any) -> set[int]:
    """Every height that a trace names."""
    if isinstance(value, dict):
        own = {v for k, v in value.items() if (k == "height" or k.endswith("_height")) and v is not None}
        return own.union(*(_heights(v) for v in value.values()))
    return set().union(*(_heights(v) for v in value)) if isinstance(value, list) else set()


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    return [_plain(dict(row)) for row in connection.execute(query).mappings()]


def _first(connection: Connection, query: Select[Any]) -> Row | None:
    return next(iter(_rows(connection, query.limit(1))), None)


def _one(connection: Connection, query: Select[Any], what: str, *, raw: bool = False) -> Row:
    for row in connection.execute(query.limit(1)).mappings():
        return dict(row) if raw else _plain(dict(row))
    raise Refused(404, "not_found", f"there is no such {what}, or it is not yours to see")


def _plain(row: Row) -> Row:
    """Bytes as hex."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
