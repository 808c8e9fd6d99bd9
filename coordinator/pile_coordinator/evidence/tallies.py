"""Running sums of what contracts came to, by quarter of an hour: written with each block, read by `statistics`.

A contract counts once, when it is closed, in the quarter of an hour of the block that closed it: money moves then and not
before, so what is told of a past hour, month or year never changes. How long piles were offered and used counts where it
happened: for each span of time one row says where it began and one where it ended, whatever its length, and sums of these
give the exact time between any two quarters of an hour. Everything comes from rows of the same database and from the
block, in the transaction that writes the block: a rebuild gives the same rows.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    String,
    Table,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.sql import ClauseElement

from pile_coordinator.chain.settlement import OVER, UNDER, deviation
from pile_coordinator.chain.transactions import PSEUDONYM, List, RegisterPile, Transaction
from pile_coordinator.engines.engine import Block
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import SLOT_MS, slot_of
from pile_coordinator.evidence.widths import HASH_BYTES, NAME, WORD
from pile_coordinator.evidence.writer import Shape, Writer
from pile_shared import terms as wire

ALL, ZONE, OPERATOR, OWNER, PILE, USER = DIMENSIONS = ("all", "zone", "operator", "owner", "pile", "user")

# All users who paid with notes, in one name: each is somebody for one order only, so a row for each would count nothing. No
# party has a name that begins so on a chain with notes, and no pseudonym is so short.
ANONYMOUS_USERS = PSEUDONYM + "all"

# What is counted, and in which unit; docs/statistics.md says what each is.
MEASURES = (
    "contracts", "sessions", "agreed_wh", "measured_wh", "contracted_wh", "grid_wh", "unpaid_wh",
    "owner_micro", "grid_micro", "fee_micro", "over", "over_wh", "under", "under_wh", "unserved", "disputed", "delay_ms",
)  # fmt: skip
SPANS = LISTED, USED = ("listed", "used")
_ENDS = tuple(f"{span}_{end}" for span in SPANS for end in ("begun", "begun_into_ms", "ended", "ended_into_ms"))
_COUNTED = (*MEASURES, *_ENDS)
_AT = {name: index for index, name in enumerate(_COUNTED)}

_BIG = BigInteger().with_variant(Integer(), "sqlite")
_HASH = LargeBinary(HASH_BYTES).with_variant(mysql.BINARY(HASH_BYTES), "mysql", "mariadb")


def _table(name: str, *columns: "Column[Any]") -> Table:
    options: dict[str, Any] = {
        f"{db}_{option}": value for db in ("mysql", "mariadb") for option, value in _INNODB.items()
    }
    made: Table = Table(name, schema.metadata, *columns, sqlite_with_rowid=False, **options)
    return made


_INNODB = {"engine": "InnoDB", "default_charset": "ascii", "collate": "ascii_bin"}
tally = _table(
    "tally",
    Column("dimension", String(WORD), primary_key=True),
    Column("name", String(NAME), primary_key=True),
    Column("slot", Integer(), primary_key=True, autoincrement=False),
    *(Column(name, _BIG, nullable=False) for name in _COUNTED),
)
# Who has been counted, to list them without reading what was counted.
tallied = _table(
    "tallied", Column("dimension", String(WORD), primary_key=True), Column("name", String(NAME), primary_key=True)
)
# Which operator admitted a pile: what it does counts for that one.
operated = _table(
    "operated", Column("pile", String(NAME), primary_key=True), Column("operator", String(NAME), nullable=False)
)
# From when on a listing offered its pile.
offer = _table(
    "offer",
    Column("listing", _HASH, primary_key=True),
    Column("pile", String(NAME), nullable=False),
    Column("from_ms", _BIG, nullable=False),
    Column("window_end_ms", _BIG, nullable=False),
)

_ASKED_AT_ONCE = 500  # keys in one question, as the exporter
terms_of = lru_cache(8192)(wire.decode_terms)  # a contract is looked at when it is matched, settled and closed; 20 MB
Key = tuple[str, str, int]  # dimension, name, slot


class Tallies:
    """What one block adds."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.rows: dict[Key, list[int]] = {}

    def add(self, names: dict[str, str], slot: int, counted: dict[str, int]) -> None:
        """Count for each dimension's name, in one quarter of an hour."""
        for dimension, name in names.items():
            row = self.rows.setdefault((dimension, name, slot), [0] * len(_COUNTED))
            for measure, amount in counted.items():
                row[_AT[measure]] += amount

    def add_end(self, names: dict[str, str], span: str, end: str, time_ms: int) -> None:
        """Count where a span of time `begun` or `ended`."""
        self.add(names, slot_of(time_ms), {f"{span}_{end}": 1, f"{span}_{end}_into_ms": time_ms % SLOT_MS})

    def add_span(self, names: dict[str, str], span: str, from_ms: int, until_ms: int) -> None:
        """Count a whole span; one that ends before it begins is none."""
        if until_ms > from_ms:
            self.add_end(names, span, "begun", from_ms)
            self.add_end(names, span, "ended", until_ms)

    def save(self, db: Connection, writer: Writer) -> None:
        """Add to what the database has; in the order of the keys, which is that of the table."""
        if self.rows:
            adding, knowing = _shapes(writer)
            writer.put(db, adding, [(*key, *self.rows[key]) for key in sorted(self.rows)])
            writer.put(db, knowing, sorted({key[:2] for key in self.rows}))


def _shapes(writer: Writer) -> tuple[Shape, Shape]:
    """What adds a row of sums to those there are, and what remembers a name."""
    if writer.name not in _SHAPES:
        adding, knowing = _adding(writer.name), _knowing(writer.name)
        _SHAPES[writer.name] = writer.shape(tally, adding), writer.shape(tallied, knowing)
    return _SHAPES[writer.name]


_SHAPES: dict[str, tuple[Shape, Shape]] = {}  # of two dialects


def _adding(dialect: str) -> ClauseElement:
    if dialect == "sqlite":
        lite = sqlite.insert(tally)
        sums = {name: tally.c[name] + lite.excluded[name] for name in _COUNTED}
        return lite.on_conflict_do_update(index_elements=list(tally.primary_key), set_=sums)
    real = mysql.insert(tally)
    return real.on_duplicate_key_update({name: tally.c[name] + real.inserted[name] for name in _COUNTED})


def _knowing(dialect: str) -> ClauseElement:
    if dialect == "sqlite":
        return sqlite.insert(tallied).on_conflict_do_nothing()
    return mysql.insert(tallied).prefix_with("IGNORE")


# --- one block -----------------------------------------------------------------------------------------------------------


def write(
    db: Connection, writer: Writer, block: Block, declared: Sequence[Transaction], events: Sequence[list[object]]
) -> None:
    """Count what a block says, whose rows have been written; in the same transaction.

    Args:
        db: the evidence.
        writer: of its kind of database.
        block: it.
        declared: its transactions that registered a pile or listed one, in order.
        events: its leaves beyond those of transactions, decoded.
    """
    closed = [cast("bytes", row[1]) for row in events if row[0] == wire.LEAF_CLOSED]
    _Counting(db, writer, block).count(declared, closed)


_contract, _statement, _proof = schema.contract.c, schema.statement.c, schema.proof.c
_posting, _settled = schema.posting.c, schema.settled_contract.c
_IDS: Any = bindparam("ids", expanding=True)
_PLACES = (
    select(schema.pile.c.id, schema.pile.c.owner, schema.pile.c.zone, operated.c.operator)
    .join_from(schema.pile, operated, operated.c.pile == schema.pile.c.id)
    .where(schema.pile.c.id.in_(_IDS))
)
_CLOSED = (
    select(schema.settled_contract, operated.c.operator)
    .join_from(schema.settled_contract, operated, operated.c.pile == _settled.pile)
    .where(_settled.id.in_(_IDS), _settled.number.is_not(None))
)
_FIRST = (
    select(_statement.contract, schema.block.c.time_ms)
    .join_from(schema.statement, schema.block, schema.block.c.height == _statement.height)
    .where(_statement.contract.in_(_IDS), _statement.number == 1)
)
_SESSIONS = (
    select(_proof.contract, func.min(_proof.first_time_ms), func.max(_proof.last_time_ms))
    .where(_proof.contract.in_(_IDS))
    .group_by(_proof.contract)
)
_POSTED = select(_posting.contract, _posting.number, _posting.debit, _posting.credit, _posting.amount_micro).where(
    _posting.contract.in_(_IDS)
)
_DISPUTED = select(schema.dispute.c.contract, schema.dispute.c.party, schema.dispute.c.bond_micro).where(
    schema.dispute.c.contract.in_(_IDS)
)
_OFFERED = select(offer).where(offer.c.listing.in_(_IDS))
_BOOKED_UNTIL = (
    select(_contract.listing, func.max(_contract.window_end_ms))
    .where(_contract.listing.in_(_IDS))
    .group_by(_contract.listing)
)


class _Counting:
    """Counts one block. Each question is asked once for all that it closed, some hundred at a time."""

    def __init__(self, db: Connection, writer: Writer, block: Block) -> None:
        self._db, self._writer = db, writer
        self._now_ms = block.header.time_ms
        self._tallies = Tallies()
        self._places: dict[str, dict[str, str]] = {}

    def count(self, declared: Sequence[Transaction], closed: list[bytes]) -> None:
        self._begin_offers(declared)
        for start in range(0, len(closed), _ASKED_AT_ONCE):
            ids = closed[start : start + _ASKED_AT_ONCE]
            self._end_offers(ids)
            self._count_contracts(ids)
        self._tallies.save(self._db, self._writer)

    def _ask(self, query: Any, ids: list[bytes]) -> dict[bytes, Any]:
        return {row[0]: row for row in self._db.execute(query, {"ids": ids})}

    def _find_places(self, piles: Iterable[str]) -> None:
        """Whom piles belong to and where they stand, of those not asked for yet."""
        wanted = sorted(set(piles) - self._places.keys())
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            some = wanted[start : start + _ASKED_AT_ONCE]
            for pile, owner, zone, operator in self._db.execute(_PLACES, {"ids": some}):
                self._places[pile] = {ALL: "", ZONE: zone, OPERATOR: operator, OWNER: owner, PILE: pile}

    def _begin_offers(self, declared: Sequence[Transaction]) -> None:
        bodies = [(tx, tx.body) for tx in declared]
        admitted = [(body.id, tx.sender) for tx, body in bodies if isinstance(body, RegisterPile)]
        listed = [(tx.id, body) for tx, body in bodies if isinstance(body, List)]
        if admitted:
            self._writer.insert(self._db, operated, admitted)
        if not listed:
            return
        self._find_places(body.pile for _, body in listed)
        rows = [(i, body.pile, max(body.window_start_ms, self._now_ms), body.window_end_ms) for i, body in listed]
        self._writer.insert(self._db, offer, rows)
        for _, pile, from_ms, _ in rows:
            self._tallies.add_end(self._places[pile], LISTED, "begun", from_ms)

    def _end_offers(self, ids: list[bytes]) -> None:
        """A listing that was sold out or withdrawn still stands for the windows it sold."""
        offered = self._ask(_OFFERED, ids)
        booked = self._ask(_BOOKED_UNTIL, list(offered)) if offered else {}
        self._find_places(found.pile for found in offered.values())
        for listing, found in offered.items():
            booked_ms = booked[listing][1] if listing in booked else 0
            until_ms = min(found.window_end_ms, max(found.from_ms, self._now_ms, booked_ms))
            self._tallies.add_end(self._places[found.pile], LISTED, "ended", until_ms)

    def _count_contracts(self, ids: list[bytes]) -> None:
        rows = [dict(row) for row in self._db.execute(_CLOSED, {"ids": ids}).mappings()]
        if not rows:
            return
        closed: list[bytes] = [row["id"] for row in rows]
        first, sessions, disputes = (self._ask(query, closed) for query in (_FIRST, _SESSIONS, _DISPUTED))
        postings: dict[tuple[bytes, int], list[Any]] = {}
        for posted in self._db.execute(_POSTED, {"ids": closed}):
            postings.setdefault((posted.contract, posted.number), []).append(posted)
        self._find_places(row["pile"] for row in rows)
        for row in rows:
            key = row["id"]
            names = {ALL: ""} | {name: row[name] for name in (ZONE, OPERATOR, OWNER, PILE)}
            names[USER] = ANONYMOUS_USERS if row["anonymous"] else row[USER]
            served = row["measured_wh"] > 0
            counted = {name: row[name] for name in ("measured_wh", "contracted_wh", "grid_wh", "unpaid_wh")}
            counted |= {"contracts": 1, "agreed_wh": row["energy_wh"], "sessions": int(served)}
            counted |= _deviation(row) | _money(row, postings.get((key, row["number"]), []), disputes.get(key))
            self._tallies.add(names, slot_of(self._now_ms), counted | {"delay_ms": self._now_ms - first[key][1]})
            if served:
                self._tallies.add_span(self._places[row["pile"]], USED, *sessions[key][1:])


def _deviation(row: dict[str, Any]) -> dict[str, int]:
    """Beyond the tolerance, of contracts that delivered; one that delivered nothing at all is `unserved`."""
    if row["measured_wh"] == 0:
        return {"unserved": 1}
    kind, off_wh = deviation(terms_of(row["terms"]), row["measured_wh"]), row["measured_wh"] - row["energy_wh"]
    if kind == OVER:
        return {"over": 1, "over_wh": off_wh}
    return {"under": 1, "under_wh": -off_wh} if kind == UNDER else {}


def _money(row: dict[str, Any], postings: list[Any], dispute: Any) -> dict[str, int]:
    """What the owner, the grid and the fees gained by a contract; what the user paid is the sum of these."""
    gains = {"H": -row["bond_micro"], "G": 0, "F": 0}
    for posted in postings:
        for side, change in ((posted.debit, -posted.amount_micro), (posted.credit, posted.amount_micro)):
            if side in gains:
                gains[side] += change
    if dispute is not None and dispute.party == row["owner"]:
        gains["H"] -= dispute.bond_micro or 0
    disputed = int(dispute is not None)
    return {"owner_micro": gains["H"], "grid_micro": gains["G"], "fee_micro": gains["F"], "disputed": disputed}
