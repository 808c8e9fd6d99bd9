"""The tables of the evidence database, for SQLite and MariaDB. Each fact stands once; `movement` shows all money as a journal.

Heights, positions (of a transaction in its block) and leaves (under its result root) say where in the chain a row comes
from. Money is in micro, prices in micro per kWh, energy in Wh, times in unix ms. docs/evidence.md explains every column.

Text is ASCII and compares by bytes, ids and hashes are BINARY: both databases order and find them alike.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    SmallInteger,
    String,
    Table,
    and_,
    case,
    exists,
    func,
    literal,
    null,
    select,
    union_all,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateView
from sqlalchemy.types import TypeEngine

from pile_coordinator.evidence.widths import (
    ACCOUNT,
    HASH_BYTES,
    NAME,
    PRINTED,
    TEXT,
    WORD,
)
from pile_coordinator.ring.group import POINT_BYTES
from pile_shared.cose import KID_BYTES, PUBLIC_BYTES
from pile_shared.proof import MAX_PROOF_BYTES
from pile_shared.terms import MAX_TERMS_BYTES

metadata = MetaData()
views: list[CreateView] = []

_BIG = BigInteger().with_variant(
    Integer(), "sqlite"
)  # SQLite's INTEGER has 64 bits, and is the row id where it is the key


def _fixed(length: int) -> TypeEngine[bytes]:
    return LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


def _bytes(most: int) -> TypeEngine[bytes]:
    return LargeBinary(most).with_variant(mysql.VARBINARY(most), "mysql", "mariadb")


_HASH, _KID, _PUBLIC, _IMAGE = _fixed(HASH_BYTES), _fixed(KID_BYTES), _fixed(PUBLIC_BYTES), _fixed(POINT_BYTES)
_NAME, _WORD, _ACCOUNT = String(NAME), String(WORD), String(ACCOUNT)
_PRINTED, _TEXT = String(PRINTED), String(TEXT)
_FLAG = SmallInteger()


def _key(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _must(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _may(name: str, kind: TypeEngine[Any]) -> Column[Any]:
    return Column(name, kind, nullable=True)


def _at() -> list[Column[Any]]:
    """Where the transaction of this row stands, which is no part of its key."""
    return [_must("height", _BIG), _must("position", Integer())]


def _key_at() -> list[Column[Any]]:
    return [_key("height", _BIG), _key("position", Integer())]


def _table(name: str, *parts: Column[Any] | Index | CheckConstraint, row_id: bool = False) -> Table:
    return Table(
        name,
        metadata,
        *parts,
        sqlite_with_rowid=row_id,
        mysql_engine="InnoDB",
        mysql_default_charset="ascii",
        mysql_collate="ascii_bin",
        mariadb_engine="InnoDB",
        mariadb_default_charset="ascii",
        mariadb_collate="ascii_bin",
    )


# Of the last block written.
mark = _table("mark", _key("only_row", Integer()), _must("height", _BIG), CheckConstraint("only_row = 1"), row_id=True)
block = _table(
    "block",
    _key("height", _BIG),
    _must("time_ms", _BIG),
    _must("hash", _HASH),
    _must("proposer", _NAME),
    _must("txs", Integer()),
    _must("results", Integer()),
    Index("block_time", "time_ms"),
    Index("block_hash", "hash"),
    row_id=True,
)
# What a refusal was called in words is not here: words are no part of the chain, and this is the same at every node.
tx = _table(
    "tx",
    *_key_at(),
    _must("id", _HASH),
    _must("type", _WORD),
    _must("sender", _NAME),
    _must("code", _WORD),
    Index("tx_id", "id"),
    Index("tx_sender", "sender", "height"),
)

# Who takes part. Parties and keys of genesis stand in genesis alone.
party = _table("party", _key("id", _NAME), _must("role", _WORD), _must("public", _PUBLIC), *_at())
# kind: rotate, revoke (public is NULL) or restore, of which it takes two words. sender: who said so.
key_change = _table(
    "key_change",
    *_key_at(),
    _must("party", _NAME),
    _must("kind", _WORD),
    _may("public", _PUBLIC),
    _must("sender", _NAME),
    Index("key_change_party", "party", "height"),
)
pile = _table(
    "pile",
    _key("kid", _KID),
    _must("id", _NAME),
    _must("owner", _NAME),
    _must("zone", _NAME),
    _must("rated_power_w", Integer()),
    _must("height", _BIG),
    _may("retired_height", _BIG),
    Index("pile_id", "id", unique=True),
    Index("pile_owner", "owner"),
    Index("pile_zone", "zone"),
)
receipt = _table(
    "receipt", _key("pile", _NAME), _must("height", _BIG), _must("leaf", Integer()), _must("through_sequence", _BIG)
)

# Money in and out. state of a withdrawal: requested, paid (reference is the payment's) or refused (with a reason).
deposit = _table(
    "deposit",
    *_key_at(),  # not by reference: MariaDB takes references for equal that differ in trailing spaces
    _must("reference", _PRINTED),
    _must("party", _NAME),
    _must("amount_micro", _BIG),
    Index("deposit_reference", "reference"),
    Index("deposit_party", "party", "height"),
)
withdrawal = _table(
    "withdrawal",
    _key("id", _HASH),
    *_at(),
    _must("party", _NAME),
    _must("amount_micro", _BIG),
    _must("destination", _PRINTED),
    _must("state", _WORD),
    _may("ended_height", _BIG),
    _may("ended_position", Integer()),
    _may("reference", _PRINTED),
    _may("reason", _TEXT),
    Index("withdrawal_party", "party", "height"),
    Index("withdrawal_ended", "ended_height", "height"),
)
fee_collection = _table("fee_collection", *_key_at(), _must("party", _NAME), _must("amount_micro", _BIG))

# What the grid announced, by the hash a clearing names it by, and what of it came into force when.
announcement = _table(
    "announcement",
    *_key_at(),
    _must("hash", _HASH),
    _must("from_ms", _BIG),
    _must("utc_offset_minutes", Integer()),
    Index("announcement_hash", "hash", "height"),
)
tariff = _table(
    "tariff",
    _key("height", _BIG),
    _must("leaf", Integer()),
    _must("hash", _HASH),
    Index("tariff_hash", "hash", "height"),
)
tariff_period = _table(
    "tariff_period",
    _key("hash", _HASH),
    _key("from_minute", Integer()),
    _must("name", _NAME),
    _must("sell_micro_per_kwh", _BIG),
    _must("buy_micro_per_kwh", _BIG),
)

# kind: market bid, limited bid or listing. outcome: open; filled (a bid, by its contracts); or what its closing leaf said.
# zone: of a bid; a listing's is its pile's. pile: NULL for a bid that takes any. expires_ms: of a limited bid.
orders = _table(
    "orders",
    _key("id", _HASH),
    *_at(),
    _must("party", _NAME),
    _must("kind", _WORD),
    _must("energy_wh", _BIG),
    _must("price_micro_per_kwh", _BIG),
    _must("divisible", _FLAG),
    _must("explicit", _FLAG),
    _may("zone", _NAME),
    _may("pile", _NAME),
    _must("window_start_ms", _BIG),
    _must("window_end_ms", _BIG),
    _may("expires_ms", _BIG),
    _must("outcome", _WORD),
    _may("ended_height", _BIG),
    Index("orders_party", "party", "height"),
    Index("orders_height", "height", "position"),
    Index("orders_ended", "ended_height", "height", "position"),
)
# What the contracts of a divisible bid call their order.
piece = _table(
    "piece", _key("name", _HASH), _must("bid", _HASH), _must("number", Integer()), Index("piece_bid", "bid", "number")
)
clearing = _table(
    "clearing",
    _key("height", _BIG),
    _key("zone", _NAME),
    _must("leaf", Integer()),
    _must("capacity_wh", _BIG),
    _must("tariff", _HASH),
    _must("open_before_wh", _BIG),
    _must("open_after_wh", _BIG),
    Index("clearing_zone", "zone", "height"),
)
price = _table(
    "price",
    _key("zone", _NAME),
    _key("height", _BIG),
    _key("catalog_micro_per_kwh", _BIG),
    _must("price_micro_per_kwh", _BIG),
)

# height and leaf: where it was matched (LEAF_PROPOSED or LEAF_CONTRACT); the clearing is that of the same height and zone.
# signed_*: where it became a contract, NULL for a proposal; signed_position: of the last signature, if it took any.
# state: proposed, signed, measured, disputed or closed. outcome: NULL until it is closed. terms: all of them, encoded.
contract = _table(
    "contract",
    _key("id", _HASH),
    _must("height", _BIG),
    _must("leaf", Integer()),
    _must("terms", _bytes(MAX_TERMS_BYTES)),
    _must("bid", _HASH),
    _may("piece", Integer()),
    _must("listing", _HASH),
    _must("pile", _NAME),
    _must("kid", _KID),
    _must("zone", _NAME),
    _must("user", _NAME),
    _must("owner", _NAME),
    _must("energy_wh", _BIG),
    _must("price_micro_per_kwh", _BIG),
    _must("on_curve", _FLAG),
    _must("catalog_sell_micro_per_kwh", _BIG),
    _must("catalog_buy_micro_per_kwh", _BIG),
    _must("window_start_ms", _BIG),
    _must("window_end_ms", _BIG),
    _must("fee_micro", _BIG),
    _must("escrow_micro", _BIG),
    _must("bond_micro", _BIG),
    _must("state", _WORD),
    _may("signed_height", _BIG),
    _may("signed_leaf", Integer()),
    _may("signed_position", Integer()),
    _may("closed_height", _BIG),
    _may("closed_leaf", Integer()),
    _may("outcome", _WORD),
    Index("contract_height", "height"),
    Index("contract_closed", "closed_height"),
    Index("contract_bid", "bid", "piece"),
    Index("contract_listing", "listing"),
    Index("contract_pile", "pile", "window_start_ms"),
    Index("contract_zone", "zone", "window_start_ms"),
    Index("contract_user", "user", "height"),
    Index("contract_owner", "owner", "height"),
)
# Where a new set of accounting nodes has certified a contract again, the last time.
repeated = _table("repeated", _key("contract", _HASH), _must("height", _BIG), _must("leaf", Integer()))
signature = _table("signature", _key("contract", _HASH), _key("party", _NAME), *_at(), Index("signature_at", "height"))
cancellation = _table(
    "cancellation", _key("contract", _HASH), _must("party", _NAME), *_at(), Index("cancellation_at", "height")
)
proof = _table(
    "proof",
    _key("kid", _KID),
    _key("sequence", _BIG),
    *_at(),
    _must("item", Integer()),
    _must("hash", _HASH),
    _may("contract", _HASH),
    _must("event", _WORD),
    _must("reason", _WORD),
    _may("first_time_ms", _BIG),
    _may("last_time_ms", _BIG),
    _may("last_energy_wh", _BIG),
    _must("bytes", _bytes(MAX_PROOF_BYTES)),
    Index("proof_contract", "contract", "kid", "sequence"),
    Index("proof_at", "height", "position", "item"),
    Index("proof_hash", "hash"),
)

# number 1 is the settlement as it was written down, 2 the one that a dispute came to (with its basis). The energy columns
# are the three parts of measured_wh. Only the postings of the last one, and only of a closed contract, moved money.
statement = _table(
    "statement",
    _key("contract", _HASH),
    _key("number", Integer()),
    _must("height", _BIG),
    _must("leaf", Integer()),
    _must("measured_wh", _BIG),
    _must("contracted_wh", _BIG),
    _must("grid_wh", _BIG),
    _must("unpaid_wh", _BIG),
    _must("cause", _WORD),
    _must("digest", _HASH),
    _may("basis", _WORD),
    Index("statement_at", "height"),
)
posting = _table(
    "posting",
    _key("contract", _HASH),
    _key("number", Integer()),
    _key("item", Integer()),
    _must("debit", _WORD),
    _must("credit", _WORD),
    _must("amount_micro", _BIG),
)
# Contracts of whose settlement the grid is a side, and the last statement that says so.
deviation = _table(
    "deviation",
    _key("contract", _HASH),
    _must("height", _BIG),
    _must("leaf", Integer()),
    _must("user", _NAME),
    _must("owner", _NAME),
    Index("deviation_at", "height", "leaf"),
    Index("deviation_user", "user", "height"),
    Index("deviation_owner", "owner", "height"),
)
confirmation = _table(
    "confirmation", _key("contract", _HASH), _key("party", _NAME), *_at(), Index("confirmation_at", "height")
)
dispute = _table(
    "dispute",
    _key("contract", _HASH),
    *_at(),
    _may("leaf", Integer()),
    _must("party", _NAME),
    _must("ground", _WORD),
    _must("claimed_wh", _BIG),
    _must("text", _TEXT),
    _may("bond_micro", _BIG),
    _may("answer_height", _BIG),
    _may("answer_position", Integer()),
    Index("dispute_at", "height", "position"),
)
ruling = _table(
    "ruling",
    _key("contract", _HASH),
    *_key_at(),
    _must("arbiter", _NAME),
    _must("measured_wh", _BIG),
    _must("cause", _WORD),
    Index("ruling_at", "height"),
)

# Who pays with notes, and is a party for one order; `source`: the transaction that spent them, so the order's id. gone_height:
# when the order ended and the last of what was left became notes; who only redeemed notes came and went in one block.
pseudonym = _table(
    "pseudonym",
    _key("id", _NAME),
    _must("public", _PUBLIC),
    *_at(),
    _must("source", _HASH),
    _may("gone_height", _BIG),
    Index("pseudonym_source", "source"),
)
# Notes that parties bought. Those that came of what was left are money of stake_posting, from the pseudonym to N.
note_purchase = _table("note_purchase", *_key_at(), _key("denomination", Integer()), _must("notes", Integer()))
# Full bins. Their keys stand in the leaf; here they would be two thirds of all there is.
note_bin = _table(
    "note_bin",
    _key("denomination", Integer()),
    _key("number", _BIG),
    _must("height", _BIG),
    _must("leaf", Integer()),
    Index("note_bin_at", "height"),
)
# The bin is one of note_bin; item 0 is the note that leads, whose ring signs for the order from then on.
note_spend = _table(
    "note_spend",
    _key("source", _HASH),
    _key("item", Integer()),
    _must("denomination", Integer()),
    _must("number", _BIG),
    _must("image", _IMAGE),
    *_at(),
    Index("note_spend_image", "image"),
    Index("note_spend_bin", "denomination", "number"),
    Index("note_spend_at", "height"),
)

# Where accounting nodes are elected: every set as it was decided, what nodes did and what it cost, and all money of stake and
# notes that has a leaf; source and item tell apart what one transaction or leaf moved.
accounting_node = _table(
    "accounting_node",
    _key("from_height", _BIG),
    _key("party", _NAME),
    _must("power", _BIG),
    _must("stake_micro", _BIG),
    _must("height", _BIG),
    _must("leaf", Integer()),
)
# The last blocks of certified sets; the set that follows is that of accounting_node from the next height on.
handover = _table("handover", _key("height", _BIG))
punishment = _table(
    "punishment",
    _key("height", _BIG),
    _key("leaf", Integer()),
    _must("party", _NAME),
    _must("reason", _WORD),
    _must("offence_height", _BIG),
    _must("cost_micro", _BIG),
)
stake_posting = _table(
    "stake_posting",
    _key("height", _BIG),
    _key("source", _WORD),
    _key("place", Integer()),
    _key("item", Integer()),
    _must("debit", _ACCOUNT),
    _must("credit", _ACCOUNT),
    _must("amount_micro", _BIG),
)


# --- views ---------------------------------------------------------------------------------------------------------------


def _view(name: str, query: Any) -> Table:
    view = CreateView(query, name, metadata=None)
    views.append(view)
    return view.table


def _of_party(column: ColumnElement[str]) -> ColumnElement[str]:
    return literal("P:", literal_execute=True) + column


def _of_order(kind: str, column: ColumnElement[bytes]) -> ColumnElement[str]:
    return literal(f"{kind}:", literal_execute=True) + func.lower(func.hex(column), type_=String())


def _settled() -> Select[Any]:
    """A contract and the statement that counts for it, the last one written; and whether its user is nobody (1 or 0)."""
    s, other = statement.alias("s"), statement.alias("other")
    last = select(func.max(other.c.number)).where(other.c.contract == contract.c.id).scalar_subquery()
    of_statement: list[ColumnElement[Any]] = [
        s.c.number,
        s.c.height.label("settled_height"),
        s.c.leaf.label("settled_leaf"),
        *(s.c[name] for name in ("measured_wh", "contracted_wh", "grid_wh", "unpaid_wh", "cause", "digest", "basis")),
    ]
    joined = contract.outerjoin(s, and_(s.c.contract == contract.c.id, s.c.number == last))
    return select(*contract.c, *of_statement, paid_anonymously(contract.c.user)).select_from(joined)


def paid_anonymously(user: ColumnElement[str]) -> ColumnElement[int]:
    """The column `anonymous`: 1 if this user came to be by spending notes, else 0."""
    found = exists(select(pseudonym.c.id).where(pseudonym.c.id == user))
    return case((found, literal(1, literal_execute=True)), else_=literal(0, literal_execute=True)).label("anonymous")


settled_contract = _view("settled_contract", _settled())


def _side(side: ColumnElement[str]) -> ColumnElement[str]:
    """The account that a side of a posting is."""
    row = settled_contract.c
    return case(
        (side == "U", _of_party(row.user)),
        (side == "H", _of_party(row.owner)),
        (side == "E", _of_order("E", row.id)),
        (side == "B", _of_order("B", row.id)),
        (side == "D", _of_order("D", row.id)),
        else_=side,
    )


def _movement() -> Any:
    """All money that moved, between accounts named as in the ledger guide; G is the grid party's, for deviations.

    What a resting bid puts up is not here: it returns, but for what its contracts take, which is.
    """
    w, c, d, settled = withdrawal.c, contract.c, dispute.c, settled_contract.c
    waits, stake = _of_order("W", w.id), stake_posting.c
    back = case((w.state == "paid", "X"), else_=_of_party(w.party))
    closed = settled_contract.join(posting, and_(posting.c.contract == settled.id, posting.c.number == settled.number))

    def row(height: Any, debit: Any, credit: Any, amount: Any) -> Select[Any]:
        columns = (height.label("height"), debit.label("debit"), credit.label("credit"), amount.label("amount_micro"))
        return select(*columns)

    return union_all(
        row(deposit.c.height, literal("X"), _of_party(deposit.c.party), deposit.c.amount_micro),
        row(w.height, _of_party(w.party), waits, w.amount_micro),
        row(w.ended_height, waits, back, w.amount_micro).where(w.state != "requested"),
        row(fee_collection.c.height, literal("F"), _of_party(fee_collection.c.party), fee_collection.c.amount_micro),
        row(stake.height, stake.debit, stake.credit, stake.amount_micro),
        row(c.height, _of_party(c.user), _of_order("E", c.id), c.escrow_micro),
        row(c.height, _of_party(c.owner), _of_order("B", c.id), c.bond_micro),
        row(d.height, _of_party(d.party), _of_order("D", d.contract), d.bond_micro).where(d.bond_micro != null()),
        row(settled.closed_height, _side(posting.c.debit), _side(posting.c.credit), posting.c.amount_micro)
        .select_from(closed)
        .where(settled.closed_height != null()),
    )


movement = _view("movement", _movement())
