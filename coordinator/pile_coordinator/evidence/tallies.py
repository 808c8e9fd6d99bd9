"""Running sums of what contracts came to, by quarter of an hour: written with each block, read by `statistics`.

A contract counts once, when it is closed, in the quarter of an hour of the block that closed it: money moves then and not before,
so what is told of a past hour, month or year never changes. How long piles were offered and used counts where it
happened: for each span of time one row says where it began and one where it ended, whatever its length, and sums of these
give the exact time between any two quarters of an hour. Everything comes from rows of the same database and from the block, in the
transaction that writes the block: a rebuild gives the same rows.
"""

from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import BigInteger, Column, Connection, Dialect, Integer, LargeBinary, String, Table, bindparam, func, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.sql import ClauseElement

from pile_coordinator.chain.settlement import OVER, UNDER, deviation
from pile_coordinator.chain.transactions import List, RegisterPile, decode_transaction
from pile_coordinator.chain.transition import OK
from pile_coordinator.engines.engine import Block
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import SLOT_MS, slot_of
from pile_coordinator.evidence.widths import HASH_BYTES, NAME, WORD
from pile_shared import terms as wire
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode

ALL, ZONE, OPERATOR, OWNER, PILE, USER = DIMENSIONS = ("all", "zone", "operator", "owner", "pile", "user")

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
    options = {f"{db}_{option}": value for db in ("mysql", "mariadb") for option, value in _INNODB.items()}
    return Table(name, schema.metadata, *columns, sqlite_with_rowid=False, **options)


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

    def save(self, db: Connection) -> None:
        """Add to what the database has."""
        if self.rows:
            adding, knowing = _statements(db.dialect)
            db.exec_driver_sql(adding, [(*key, *row) for key, row in self.rows.items()])
            db.exec_driver_sql(knowing, sorted({key[:2] for key in self.rows}))


def _statements(dialect: Dialect) -> tuple[str, str]:
    """What adds a row of sums to those there are, and what remembers a name; for rows with all columns in order.

    As text, made once: a contract adds to a score of rows, and going through SQLAlchemy would take three times as long.
    """
    if dialect.name not in _STATEMENTS:
        made = _adding(dialect.name), _knowing(dialect.name)
        adding, knowing = (str(statement.compile(dialect=dialect)) for statement in made)
        _STATEMENTS[dialect.name] = adding, knowing
    return _STATEMENTS[dialect.name]


_STATEMENTS: dict[str, tuple[str, str]] = {}  # of two dialects


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


def write(db: Connection, block: Block) -> None:
    """Count what a block says, whose rows have been written; in the same transaction."""
    tallies = Tallies()
    _add_offers(db, block, tallies)
    _end_offers(db, block, tallies)
    for row in db.execute(_CLOSED, {"height": block.header.height}).mappings().all():
        _add_contract(db, block.header.time_ms, dict(row), tallies)
    tallies.save(db)


_DECLARING = select(schema.tx.c.position).where(
    schema.tx.c.height == bindparam("height"), schema.tx.c.type.in_([List.TYPE, RegisterPile.TYPE]), schema.tx.c.code == OK
)  # fmt: skip
_PLACE = (
    select(schema.pile.c.owner, schema.pile.c.zone, operated.c.operator)
    .join_from(schema.pile, operated, operated.c.pile == schema.pile.c.id)
    .where(schema.pile.c.id == bindparam("pile"))
)
_CLOSED = select(schema.settled_contract, operated.c.operator).join_from(
    schema.settled_contract, operated, operated.c.pile == schema.settled_contract.c.pile
).where(schema.settled_contract.c.closed_height == bindparam("height"), schema.settled_contract.c.number.is_not(None))  # fmt: skip
_FIRST = select(schema.block.c.time_ms).join_from(
    schema.statement, schema.block, schema.block.c.height == schema.statement.c.height
).where(schema.statement.c.contract == bindparam("contract"), schema.statement.c.number == 1)  # fmt: skip
_SESSION = select(func.min(schema.proof.c.first_time_ms), func.max(schema.proof.c.last_time_ms)).where(
    schema.proof.c.contract == bindparam("contract"), schema.proof.c.height <= bindparam("height")
)
_POSTED = select(schema.posting.c.debit, schema.posting.c.credit, schema.posting.c.amount_micro).where(
    schema.posting.c.contract == bindparam("contract"), schema.posting.c.number == bindparam("number")
)
_DISPUTE = select(schema.dispute.c.party, schema.dispute.c.bond_micro).where(
    schema.dispute.c.contract == bindparam("contract")
)
_LAST_BOOKED = select(func.max(schema.contract.c.window_end_ms)).where(
    schema.contract.c.listing == bindparam("listing")
)


def _add_offers(db: Connection, block: Block, tallies: Tallies) -> None:
    for (position,) in db.execute(_DECLARING, {"height": block.header.height}).all():
        tx = decode_transaction(block.txs[position])
        if isinstance(tx.body, RegisterPile):
            db.execute(operated.insert(), {"pile": tx.body.id, "operator": tx.sender})
        elif isinstance(tx.body, List):
            from_ms = max(tx.body.window_start_ms, block.header.time_ms)
            row = {"listing": tx.id, "pile": tx.body.pile, "from_ms": from_ms, "window_end_ms": tx.body.window_end_ms}
            db.execute(offer.insert(), row)
            tallies.add_end(_place(db, tx.body.pile), LISTED, "begun", from_ms)


def _end_offers(db: Connection, block: Block, tallies: Tallies) -> None:
    """A listing that was sold out or withdrawn still stands for the windows it sold."""
    for listing in _closed_ids(block):
        found = db.execute(select(offer).where(offer.c.listing == listing)).one_or_none()
        if found is not None:
            booked_ms = db.execute(_LAST_BOOKED, {"listing": listing}).scalar_one() or 0
            until_ms = min(found.window_end_ms, max(found.from_ms, block.header.time_ms, booked_ms))
            tallies.add_end(_place(db, found.pile), LISTED, "ended", until_ms)


def _closed_ids(block: Block) -> Iterator[bytes]:
    for leaf in block.leaves[len(block.txs) :]:
        row = cast("list[object]", decode(leaf, MAX_LEAF_BYTES))
        if row[0] == wire.LEAF_CLOSED:
            yield cast("bytes", row[1])


def _place(db: Connection, pile: str) -> dict[str, str]:
    owner, zone, operator = db.execute(_PLACE, {"pile": pile}).one()
    return {ALL: "", ZONE: zone, OPERATOR: operator, OWNER: owner, PILE: pile}


def _add_contract(db: Connection, closed_ms: int, row: dict[str, Any], tallies: Tallies) -> None:
    names = {ALL: ""} | {dimension: row[dimension] for dimension in (ZONE, OPERATOR, OWNER, PILE, USER)}
    contract = {"contract": row["id"]}
    began_ms, ended_ms = db.execute(_SESSION, contract | {"height": row["closed_height"]}).one()
    served = row["measured_wh"] > 0
    counted = {name: row[name] for name in ("measured_wh", "contracted_wh", "grid_wh", "unpaid_wh")}
    counted |= {"contracts": 1, "agreed_wh": row["energy_wh"], "sessions": int(served)}
    counted |= _deviation(row) | _money(db, row)
    counted["delay_ms"] = closed_ms - db.execute(_FIRST, contract).scalar_one()
    tallies.add(names, slot_of(closed_ms), counted)
    if served:
        tallies.add_span({key: name for key, name in names.items() if key != USER}, USED, began_ms, ended_ms)


def _deviation(row: dict[str, Any]) -> dict[str, int]:
    """Beyond the tolerance, of contracts that began; one that delivered nothing at all is `unserved`."""
    if row["measured_wh"] == 0:
        return {"unserved": 1}
    kind = deviation(wire.decode_terms(row["terms"]), row["measured_wh"])
    return {
        "over": int(kind == OVER),
        "over_wh": row["measured_wh"] - row["energy_wh"] if kind == OVER else 0,
        "under": int(kind == UNDER),
        "under_wh": row["energy_wh"] - row["measured_wh"] if kind == UNDER else 0,
    }


def _money(db: Connection, row: dict[str, Any]) -> dict[str, int]:
    """What the owner, the grid and the fees gained by a contract; what the user paid is the sum of these."""
    gains = {"H": -row["bond_micro"], "G": 0, "F": 0}
    for debit, credit, amount in db.execute(_POSTED, {"contract": row["id"], "number": row["number"]}).all():
        for side, change in ((debit, -amount), (credit, amount)):
            if side in gains:
                gains[side] += change
    dispute = db.execute(_DISPUTE, {"contract": row["id"]}).one_or_none()
    if dispute is not None and dispute.party == row["owner"]:
        gains["H"] -= dispute.bond_micro or 0
    disputed = int(dispute is not None)
    return {"owner_micro": gains["H"], "grid_micro": gains["G"], "fee_micro": gains["F"], "disputed": disputed}
