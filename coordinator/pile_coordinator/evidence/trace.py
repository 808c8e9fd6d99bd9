"""From any order, contract, proof, block, transaction, posting, pile or party to all the others, each step with its place.

A trace names what an id is, tells that thing's own steps, and the stories of the contracts it belongs to, newest first:
each from the order that asked for it to the postings that closed it. Steps name where in the chain they stand and by what
anybody can check them. Every query goes by an index and takes a bounded number of rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    Select,
    Table,
    and_,
    bindparam,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.sql.compiler import SQLCompiler

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import (
    ALL,
    EVERYTHING,
    View,
    contract_branches,
    contracts_seen,
    orders_seen,
    parties_seen,
    piles_seen,
)
from pile_coordinator.evidence.widths import NAME
from pile_shared.errors import PilechainError

ORDER, CONTRACT, PROOF, BLOCK, TRANSACTION, POSTING, PILE, PARTY = KINDS = (
    "order", "contract", "proof", "block", "transaction", "posting", "pile", "party",
)  # fmt: skip
MAX_CONTRACTS = 100  # of a page
MAX_PROOFS = 1000  # of one contract in a page; 50 are a session of a day at two an hour
MAX_OWN = 50  # steps of the thing itself: a block's transactions, a party's or pile's newest orders
LEAST_HEX = 8  # digits of a hash that may stand for it
_HASH_HEX = 64
_AT_ONCE = 100  # places of transactions looked up by one query

BY_SENDER = "signature of its sender; its result is a leaf under the block's result root"
BY_NOTES = "ring signatures of the notes it names, each over the 16 keys of a sealed bin"
BY_RING = "ring signature of the note that paid; its result is a leaf under the block's result root"
BY_LEAF = "leaf under the block's result root, which the accounting nodes certified"
BY_PILE = "signature of the pile's key, its sequence and the hash of the proof before it"
BY_HEADER = "signatures of the accounting nodes; it names the hash of the block before it"
BY_RECOUNT = "recomputed from the contract's terms and the measured energy: pilechain verify"


class UnknownIdError(PilechainError):
    """Nothing in the evidence is called so."""

    code = "unknown_id"


class AmbiguousIdError(PilechainError):
    """Several things are called so; the message lists them."""

    code = "ambiguous_id"


@dataclass(frozen=True, slots=True)
class Found:
    """A thing of a kind (KINDS) by its id; `id` is what can be traced again."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened. `position` is of a transaction in its block, `leaf` under its result root."""

    kind: str
    id: str
    what: str
    height: int
    position: int | None
    leaf: int | None
    time_ms: int
    transaction: str | None
    checked: str


@dataclass(frozen=True, slots=True)
class Story:
    """One contract and whom and what it links. `next_proof`: the sequence after which more proofs follow, or None.

    anonymous: notes paid, so `user` is a pseudonym of this order only, and nobody can tell which of 16 owners it stands for.
    """

    contract: str
    order: str
    listing: str
    pile: str
    zone: str
    user: str
    anonymous: bool
    owner: str
    state: str
    outcome: str | None
    steps: list[Step]
    next_proof: int | None


@dataclass(frozen=True, slots=True)
class Trace:
    """What was asked for, its own steps, and the stories it belongs to. `next` asks for the following page, or is None."""

    found: Found
    steps: list[Step]
    stories: list[Story]
    next: str | None

    def fields(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class _Query:
    """A question that is always the same but for its values: its text is made once for a dialect.

    A trace asks a dozen, and SQLAlchemy would take three times as long to put them together as SQLite to answer them.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._compiled: dict[str, SQLCompiler] = {}

    def rows(self, db: Connection, **values: object) -> list[RowMapping]:
        """What it finds, by the names of its parameters."""
        if (name := db.dialect.name) not in self._compiled:
            compiled = self._statement.compile(dialect=db.dialect)
            assert isinstance(compiled, SQLCompiler)
            self._compiled[name] = compiled
        made = self._compiled[name]
        given = made.construct_params(values)
        asked = tuple(given[key] for key in made.positiontup or ()) if made.positional else given
        return list(db.exec_driver_sql(str(made), asked).mappings())


def trace(
    db: Connection,
    text: str,
    *,
    view: View = EVERYTHING,
    after: str | None = None,
    limit: int = 10,
    proofs: int = 50,
    after_proof: int = 0,
) -> Trace:
    """Trace an id.

    Args:
        db: the evidence.
        text: a hash in hex (8 digits of it or more), a height, CONTRACT/NUMBER/ITEM of a posting, or the id of a pile or party;
            with a kind before it and a colon, as in pile:north-1, only that kind is looked for.
        view: what the asker sees; the rest is not found, and steps that tell of it are left out.
        after: `next` of the page before.
        limit: stories of this page, 1..MAX_CONTRACTS.
        proofs: of each story, 1..MAX_PROOFS.
        after_proof: `next_proof` of the page before, of a trace with one story.

    Raises:
        UnknownIdError, AmbiguousIdError: which thing is meant is not clear.
    """
    found = find(db, text, view)
    rows, following = _page(db, found, _cursor(after), max(1, min(limit, MAX_CONTRACTS)), view)
    count = max(1, min(proofs, MAX_PROOFS))
    stories = [_Teller(db, row, count, after_proof, view).story() for row in rows]
    return Trace(found, list(_own_steps(db, found, view)), stories, following)


# --- what an id is -------------------------------------------------------------------------------------------------------


def find(db: Connection, text: str, view: View = EVERYTHING) -> Found:
    """The one thing in view that an id means; UnknownIdError or AmbiguousIdError."""
    wanted, name = _wanted(text)
    matches = candidates(db, text, view)
    if not matches:
        raise UnknownIdError(
            f"no {wanted or 'evidence of'} {name!r}; expected {LEAST_HEX} to {_HASH_HEX} hex digits of an order, contract,"
            " proof, block or transaction, a height, CONTRACT/NUMBER/ITEM, a pile or a party. Is the evidence up to date?"
        )
    if len(matches) > 1:
        listed = ", ".join(f"{found.kind}:{found.id}" for found in matches)
        raise AmbiguousIdError(f"{text!r} may be {listed}; ask for one of them")
    return matches[0]


def candidates(db: Connection, text: str, view: View = EVERYTHING) -> list[Found]:
    """Everything in view that an id may mean, some score of things at most."""
    wanted, name = _wanted(text)
    matches = [found for found in _matches(db, name.strip(), wanted) if wanted in {"", found.kind}]
    return [found for found in matches if view == EVERYTHING or _is_seen(db, found, view)]


def _wanted(text: str) -> tuple[str, str]:
    """The kind that is looked for, or "", and the id."""
    kind, _, rest = text.partition(":")
    return (kind, rest) if kind in KINDS and rest else ("", text)


def _is_seen(db: Connection, found: Found, view: View) -> bool:
    """Whether a thing has a place in what the asker sees: as much of it as its own list or its contracts show."""
    if found.kind in {BLOCK, TRANSACTION}:  # blocks are everybody's; who sent what is not, see _sent
        return True
    if found.kind == PARTY:  # those of genesis stand in no table
        return found.id == view.party or _is_party_seen(db, found.id, view)
    if found.kind == PILE:
        return _any(db, schema.pile.c.id, and_(schema.pile.c.id == found.id, piles_seen(view.piles, view.party)))
    if found.kind == ORDER:
        o = schema.orders.c
        return _any(db, o.id, and_(o.id == bytes.fromhex(found.id), orders_seen(view.orders, view.party)))
    c, seen = schema.contract.c, contracts_seen(view.contracts, view.party, schema.contract)
    is_posting = found.kind == POSTING  # no money has moved before a contract is closed
    return any(
        _any(db, c.id, and_(c.id == i, seen, c.closed_height.is_not(None) if is_posting else true()))
        for i in _contracts_of(db, found)
    )


def _is_party_seen(db: Connection, name: str, view: View) -> bool:
    """A party by the list of parties; a pseudonym, which is in no list, where its contract is."""
    party, user = schema.party.c.id, schema.contract.c.user
    if not _NOBODY.rows(db, user=name):
        return _any(db, party, and_(party == name, parties_seen(view.parties, view.party)))
    seen = contracts_seen(view.contracts, view.party, schema.contract)
    return view.parties == ALL or _any(db, user, and_(user == name, seen))


def _matches(db: Connection, name: str, wanted: str) -> Iterator[Found]:
    contract, *rest = name.split("/")
    if rest:
        if len(rest) == 2 and _is_hex(contract) and all(part.isdecimal() and len(part) < 10 for part in rest):
            yield from _posting(db, contract, int(rest[0]), int(rest[1]))
        return
    if name.isdecimal() and len(name) <= 18 and _any(db, schema.block.c.height, schema.block.c.height == int(name)):
        yield Found(BLOCK, name)
    if _is_hex(name):
        yield from _hashes(db, name.lower(), wanted)
    if len(name) > NAME:
        return
    if _any(db, schema.pile.c.id, schema.pile.c.id == name):
        yield Found(PILE, name)
    known = _any(db, schema.party.c.id, schema.party.c.id == name)
    if name and (known or _any(db, schema.tx.c.sender, schema.tx.c.sender == name)):  # those of genesis only ever act
        yield Found(PARTY, name)


def _is_hex(text: str) -> bool:
    return LEAST_HEX <= len(text) <= _HASH_HEX and all(digit in "0123456789abcdefABCDEF" for digit in text)


def _hashes(db: Connection, digits: str, wanted: str = "") -> Iterator[Found]:
    """An order is called by the id of the transaction that placed it: it is meant, unless a transaction is wanted."""
    low, high = (bytes.fromhex(digits.ljust(_HASH_HEX, end)) for end in "0f")
    found = [(row["kind"], row["hash"], row["height"]) for row in _HASHES.rows(db, low=low, high=high)]
    orders = {value for kind, value, _ in found if kind == ORDER and wanted != TRANSACTION}
    named: dict[tuple[str, str], Found] = {}  # a transaction that was refused may come again
    for kind, value, height in found:
        if kind != TRANSACTION or value not in orders:
            thing = Found(kind, str(height) if kind == BLOCK else value.hex())
            named.setdefault((thing.kind, thing.id), thing)
    yield from named.values()


def _some(kind: str, column: ColumnElement[bytes], height: Any = None) -> Select[Any]:
    """A few of the things of a kind whose hash begins so."""
    within = column.between(bindparam("low"), bindparam("high"))
    few = select(
        literal_column(f"'{kind}'").label("kind"),
        column.label("hash"),
        (null() if height is None else height).label("height"),
    )
    return select(few.where(within).limit(literal_column("4")).subquery())


_HASHES = _Query(
    union_all(
        _some(ORDER, schema.orders.c.id),
        _some(CONTRACT, schema.contract.c.id),
        _some(PROOF, schema.proof.c.hash),
        _some(TRANSACTION, schema.tx.c.id),
        _some(BLOCK, schema.block.c.hash, schema.block.c.height),
    )
)


def _posting(db: Connection, contract: str, number: int, item: int) -> Iterator[Found]:
    for found in _hashes(db, contract.lower()):
        row = schema.posting.c
        which = and_(row.contract == bytes.fromhex(found.id), row.number == number, row.item == item)
        if found.kind == CONTRACT and _any(db, row.debit, which):
            yield Found(POSTING, f"{found.id}/{number}/{item}")


def _any(db: Connection, column: ColumnElement[Any], which: ColumnElement[bool]) -> bool:
    return db.execute(select(column).where(which).limit(1)).first() is not None


# --- which contracts it belongs to ---------------------------------------------------------------------------------------

_Row = dict[str, Any]
_Cursor = tuple[int, bytes] | None


def _cursor(text: str | None) -> _Cursor:
    if text is None:
        return None
    number, _, digits = text.partition("-")
    if not number.isdecimal() or not _is_hex(digits) or len(digits) != _HASH_HEX:
        raise UnknownIdError(f"no page {text!r}; give the 'next' of the page before")
    return int(number), bytes.fromhex(digits)


def _page(db: Connection, found: Found, after: _Cursor, limit: int, view: View) -> tuple[list[_Row], str | None]:
    """Rows of contracts in view, in descending order of a number and the id, and where the next page begins."""
    c, number = schema.contract.c, schema.contract.c.height
    if found.kind == PILE:
        number, sides = c.window_start_ms, [c.pile == found.id]
    elif found.kind == PARTY:
        sides = [c.user == found.id, c.owner == found.id]
    elif found.kind == ORDER or _is_order(db, found):
        sides = [c.bid == bytes.fromhex(found.id), c.listing == bytes.fromhex(found.id)]
    else:
        sides = []
    if sides:
        seen = contract_branches(view.contracts, view.party, schema.contract)
        branches = [and_(side, which) for side in sides for which in seen]
        found_rows = [row for branch in branches for row in _ordered(db, number, branch, after, limit)]
        rows = _merged(found_rows, limit)
    else:
        seen_too = contracts_seen(view.contracts, view.party, schema.contract)
        ids = sorted((i for i in set(_contracts_of(db, found)) if after is None or i < after[1]), reverse=True)
        rows = []
        for i in ids:
            rows += [row | {"cursor": 0} for row in _ordered(db, c.height, and_(c.id == i, seen_too), None, 1)]
            if len(rows) > limit:
                break
    shown = rows[:limit]
    following = f"{shown[-1]['cursor']}-{shown[-1]['id'].hex()}" if len(rows) > limit else None
    return shown, following


def _is_order(db: Connection, found: Found) -> bool:
    placed = schema.orders.c.id
    return found.kind == TRANSACTION and _any(db, placed, placed == bytes.fromhex(found.id))


def _ordered(
    db: Connection, number: ColumnElement[int], which: ColumnElement[bool], after: _Cursor, limit: int
) -> list[_Row]:
    id_ = schema.contract.c.id
    query = select(schema.contract, number.label("cursor")).where(which)
    if after is not None:
        query = query.where(number <= after[0], or_(number < after[0], id_ < after[1]))
    found = db.execute(query.order_by(number.desc(), id_.desc()).limit(limit + 1))
    return [dict(row) for row in found.mappings()]


def _merged(rows: list[_Row], limit: int) -> list[_Row]:
    by_id = {row["id"]: row for row in rows}
    return sorted(by_id.values(), key=lambda row: (row["cursor"], row["id"]), reverse=True)[: limit + 1]


_SAID = (schema.signature, schema.cancellation, schema.confirmation, schema.dispute, schema.ruling, schema.proof)


def _contracts_of(db: Connection, found: Found) -> Iterable[bytes]:
    """Ids of the contracts that a contract, posting, proof, transaction or block is about."""
    if found.kind in {CONTRACT, POSTING}:
        return [bytes.fromhex(found.id[:_HASH_HEX])]
    if found.kind == PROOF:
        proof = schema.proof.c
        return _ids(db, select(proof.contract).where(proof.hash == bytes.fromhex(found.id)))
    if found.kind == TRANSACTION:
        at = [(row.height, row.position) for row in _transactions(db, schema.tx.c.id == bytes.fromhex(found.id))]
        queries = (_said_at(table, table.c.position == position, height) for table in _SAID for height, position in at)
        return [i for query in queries for i in _ids(db, query)]
    height, c, s = int(found.id), schema.contract.c, schema.statement.c
    o = schema.orders.c
    queries_of_block = [
        select(c.id).where(c.height == height),
        select(c.id).where(c.closed_height == height),
        select(s.contract).where(s.height == height),
        select(c.id).join(schema.orders, o.id == c.bid).where(o.height == height),
        select(c.id).join(schema.orders, o.id == c.listing).where(o.height == height),
        *(_said_at(table, table.c.height == height, height) for table in _SAID),
    ]
    return [i for query in queries_of_block for i in _ids(db, query)]


def _said_at(table: Table, which: ColumnElement[bool], height: int) -> Select[Any]:
    return select(table.c.contract).where(table.c.height == height, which).distinct()


def _ids(db: Connection, query: Select[Any]) -> list[bytes]:
    return [i for i in db.execute(query).scalars() if i is not None]


def _transactions(db: Connection, which: ColumnElement[bool]) -> list[Any]:
    tx, block = schema.tx, schema.block
    columns = (tx, block.c.time_ms, schema.paid_anonymously(tx.c.sender))
    query = select(*columns).join(block, block.c.height == tx.c.height).where(which)
    return list(db.execute(query.order_by(tx.c.height.desc(), tx.c.position).limit(MAX_OWN)))


# --- steps ---------------------------------------------------------------------------------------------------------------


def _own_steps(db: Connection, found: Found, view: View) -> Iterator[Step]:
    """Of the thing itself: what there is of it that belongs to no contract too."""

    def sent(row: Any) -> Step:
        return _sent(row, knows_sender=view.senders or row.sender == view.party)

    tx, c = schema.tx.c, schema.block.c
    if found.kind in {ORDER, TRANSACTION}:
        yield from map(sent, _transactions(db, tx.id == bytes.fromhex(found.id)))
    elif found.kind == BLOCK:
        (row,) = db.execute(select(schema.block).where(c.height == int(found.id))).all()
        what = f"block of {row.txs} transactions and {row.results} leaves, made by {row.proposer}"
        yield Step(BLOCK, row.hash.hex(), what, row.height, None, None, row.time_ms, None, BY_HEADER)
        yield from map(sent, _transactions(db, tx.height == row.height))
    elif found.kind == PARTY and (view.senders or found.id == view.party):
        yield from map(sent, _transactions(db, tx.sender == found.id))
    elif found.kind == PILE:
        pile = schema.pile.c
        query = select(schema.pile, c.time_ms).join(schema.block, c.height == pile.height).where(pile.id == found.id)
        for row in db.execute(query):
            what = f"pile of {row.owner} in zone {row.zone}, {row.rated_power_w} W, key {row.kid.hex()}"
            yield Step(PILE, found.id, what, row.height, None, None, row.time_ms, None, BY_SENDER)
    elif found.kind == PROOF:
        proof = schema.proof.c.hash == bytes.fromhex(found.id)
        told = db.execute(select(schema.proof).where(proof).limit(1)).mappings()
        yield from _Timed(db, [_proof(dict(row)) for row in told]).steps()


def _sent(row: Any, *, knows_sender: bool) -> Step:
    sender = row.sender or "unknown" if knows_sender else "somebody"
    what = f"{row.type or 'transaction'} of {sender}: {row.code}"
    checked = BY_RING if row.anonymous else BY_SENDER
    return Step(
        TRANSACTION, row.id.hex(), what, row.height, row.position, row.position, row.time_ms, row.id.hex(), checked
    )


@dataclass
class _Happened:
    """A step without its time. order: among those of one block."""

    kind: str
    id: str
    what: str
    height: int
    position: int | None = None
    leaf: int | None = None
    checked: str = BY_SENDER


@dataclass
class _Timed:
    """Puts steps in the order of the chain and finds their times and transactions."""

    db: Connection
    happened: list[_Happened]
    _times: dict[int, int] = field(default_factory=dict)
    _txs: dict[tuple[int, int], str] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        heights = sorted({h.height for h in self.happened})
        position = self.db.dialect.identifier_preparer.quote("position")
        for some in _chunks(heights):
            wanted = ", ".join(map(str, some))
            found = self.db.exec_driver_sql(f"SELECT height, time_ms FROM block WHERE height IN ({wanted})")  # noqa: S608 - numbers
            self._times |= {row[0]: row[1] for row in found}
        places = sorted({(h.height, h.position) for h in self.happened if h.position is not None})
        for some_places in _chunks(places):
            which = " OR ".join(f"height = {height} AND {position} = {at}" for height, at in some_places)
            found = self.db.exec_driver_sql(f"SELECT height, {position}, id FROM tx WHERE {which}")  # noqa: S608 - numbers
            self._txs |= {(row[0], row[1]): row[2].hex() for row in found}
        return [self._step(h) for h in sorted(self.happened, key=_place)]

    def _step(self, h: _Happened) -> Step:
        sent = None if h.position is None else self._txs[h.height, h.position]
        time_ms = self._times[h.height]
        return Step(h.kind, h.id, h.what, h.height, h.position, h.leaf, time_ms, sent, h.checked)


def _place(h: _Happened) -> tuple[int, bool, int]:
    """Transactions of a block come before its events."""
    return h.height, h.position is None, (h.leaf or 0) if h.position is None else h.position


def _chunks(things: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(things), _AT_ONCE):
        yield things[start : start + _AT_ONCE]


def _proof(row: _Row) -> _Happened:
    energy = "" if row["last_energy_wh"] is None else f", register at {row['last_energy_wh']} Wh"
    reason = "" if row["event"] != "end" else f" ({row['reason']})"
    what = f"proof {row['sequence']} of the pile: {row['event']}{reason}{energy}"
    return _Happened(PROOF, row["hash"].hex(), what, row["height"], row["position"], checked=BY_PILE)


_WORDS = {"signature": "signed by", "cancellation": "called off by", "confirmation": "confirmed by"}
_o, _c, _p, _m = schema.orders.c, schema.clearing.c, schema.proof.c, schema.posting.c
_ORDERS = _Query(select(schema.orders).where(or_(_o.id == bindparam("bid"), _o.id == bindparam("listing"))))
_NOTES = _Query(
    select(schema.note_spend)
    .where(schema.note_spend.c.source == bindparam("source"))
    .order_by(schema.note_spend.c.item)
)
_NOBODY = _Query(select(schema.pseudonym.c.id).where(schema.pseudonym.c.id == bindparam("user")))
_CLEARING = _Query(select(schema.clearing).where(_c.height == bindparam("height"), _c.zone == bindparam("zone")))
_SAID_OF = _Query(
    union_all(
        *(
            select(
                literal_column(f"'{table.name}'").label("kind"), table.c.party, table.c.height, table.c.position
            ).where(table.c.contract == bindparam("contract"))
            for table in (schema.signature, schema.cancellation, schema.confirmation)
        )
    )
)
_PROOFS = _Query(
    select(schema.proof)
    .where(_p.contract == bindparam("contract"), _p.kid == bindparam("kid"), _p.sequence > bindparam("after"))
    .order_by(_p.sequence)
    .limit(bindparam("most", type_=Integer()))
)
_POSTINGS = _Query(
    select(schema.posting)
    .where(_m.contract == bindparam("contract"), _m.number == bindparam("number"))
    .order_by(_m.item)
)
_OF_CONTRACT = {
    table: _Query(select(table).where(table.c.contract == bindparam("contract")).order_by(*table.primary_key.columns))
    for table in (schema.dispute, schema.ruling, schema.statement)
}


class _Teller:
    """Tells one contract's story."""

    def __init__(self, db: Connection, row: _Row, proofs: int, after_proof: int, view: View) -> None:
        self._db, self._row, self._id, self._view = db, row, row["id"], view
        self._proofs, self._after_proof = proofs, after_proof
        self._anonymous = bool(_NOBODY.rows(db, user=row["user"]))

    def story(self) -> Story:
        row = self._row
        proofs, following = self._metering()
        happened = [*self._orders(), *self._match(), *self._said(), *proofs, *self._settled()]
        links = {name: row[name] for name in ("pile", "zone", "user", "owner", "state", "outcome")}
        steps = _Timed(self._db, happened).steps()
        hashes = {"contract": self._id.hex(), "order": row["bid"].hex(), "listing": row["listing"].hex()}
        return Story(steps=steps, next_proof=following, anonymous=self._anonymous, **hashes, **links)

    def _all(self, table: Table) -> list[_Row]:
        return [dict(row) for row in _OF_CONTRACT[table].rows(self._db, contract=self._id)]

    def _orders(self) -> Iterator[_Happened]:
        named = {"bid": self._row["bid"], "listing": self._row["listing"]}
        rows = _ORDERS.rows(self._db, **named)
        if self._view.orders != ALL:
            o, seen = schema.orders.c, orders_seen(self._view.orders, self._view.party)
            shown = set(self._db.execute(select(o.id).where(o.id.in_(named.values()), seen)).scalars())
            rows = [row for row in rows if row["id"] in shown]
        for row in rows:
            price = (
                f" at {row['price_micro_per_kwh']} micro per kWh" if row["price_micro_per_kwh"] >= 0 else " at market"
            )
            what = f"{row['kind']} of {row['party']}: {row['energy_wh']} Wh{price}; {row['outcome']}"
            checked = self._signed_by(row["party"])
            yield _Happened(ORDER, row["id"].hex(), what, row["height"], row["position"], checked=checked)
            if checked == BY_RING:
                yield from self._notes(row["id"])

    def _signed_by(self, party: str) -> str:
        return BY_RING if self._anonymous and party == self._row["user"] else BY_SENDER

    def _notes(self, order: bytes) -> Iterator[_Happened]:
        """What paid for it."""
        for row in _NOTES.rows(self._db, source=order):
            lead = ", which signs for the order from then on" if row["item"] == 0 else ""
            what = f"note {row['item'] + 1} of denomination {row['denomination']}, bin {row['number']}: one of 16{lead}"
            yield _Happened("note", row["image"].hex(), what, row["height"], row["position"], checked=BY_NOTES)

    def _match(self) -> Iterator[_Happened]:
        row = self._row
        for found in _CLEARING.rows(self._db, height=row["height"], zone=row["zone"]):
            load = f"{found['open_before_wh']} to {found['open_after_wh']} Wh"
            what = f"clearing of zone {row['zone']}: load from {load}, capacity {found['capacity_wh']} Wh"
            yield _Happened(
                "clearing", f"{row['zone']}@{row['height']}", what, row["height"], leaf=found["leaf"], checked=BY_LEAF
            )
        terms = f"{row['energy_wh']} Wh at {row['price_micro_per_kwh']} micro per kWh on {row['pile']}"
        matched = (row["height"], row["leaf"])
        word = "contract" if matched == (row["signed_height"], row["signed_leaf"]) else "proposal"
        yield _Happened(CONTRACT, self._id.hex(), f"{word}: {terms}", *(matched[0], None, matched[1]), checked=BY_LEAF)
        if word == "proposal" and row["signed_height"] is not None:
            at = (row["signed_height"], None, row["signed_leaf"])
            yield _Happened(CONTRACT, self._id.hex(), f"contract: {terms}", *at, checked=BY_LEAF)

    def _said(self) -> Iterator[_Happened]:
        """What parties said of it."""
        for said in _SAID_OF.rows(self._db, contract=self._id):
            what = f"{_WORDS[said['kind']]} {said['party']}"
            checked = self._signed_by(said["party"])
            yield _Happened(said["kind"], self._id.hex(), what, said["height"], said["position"], checked=checked)
        for row in self._all(schema.dispute):
            what = f"objection of {row['party']}: {row['ground']}, {row['claimed_wh']} Wh claimed"
            checked = self._signed_by(row["party"])
            yield _Happened("dispute", self._id.hex(), what, row["height"], row["position"], checked=checked)
            if row["answer_height"] is not None:
                yield _Happened("answer", self._id.hex(), "answered", row["answer_height"], row["answer_position"])
        for row in self._all(schema.ruling):
            what = f"ruling of {row['arbiter']}: {row['measured_wh']} Wh, cause {row['cause']}"
            yield _Happened("ruling", self._id.hex(), what, row["height"], row["position"])

    def _metering(self) -> tuple[list[_Happened], int | None]:
        which = {"contract": self._id, "kid": self._row["kid"], "after": self._after_proof, "most": self._proofs + 1}
        rows = [dict(row) for row in _PROOFS.rows(self._db, **which)]
        shown = rows[: self._proofs]
        return [_proof(row) for row in shown], shown[-1]["sequence"] if len(rows) > len(shown) else None

    def _settled(self) -> Iterator[_Happened]:
        row, last = self._row, None
        for last in self._all(schema.statement):
            what = f"settlement {last['number']}: {last['measured_wh']} Wh measured, cause {last['cause']}"
            at = (last["height"], None, last["leaf"])
            yield _Happened("settlement", last["digest"].hex(), what, *at, checked=BY_LEAF)
        if row["closed_height"] is None or last is None:
            return
        at = (row["closed_height"], None, row["closed_leaf"])
        for found in _POSTINGS.rows(self._db, contract=self._id, number=last["number"]):
            what = f"{found['debit']} -> {found['credit']}: {found['amount_micro']} micro"
            name = f"{self._id.hex()}/{found['number']}/{found['item']}"
            yield _Happened(POSTING, name, what, *at, checked=BY_RECOUNT)
        yield _Happened("closing", self._id.hex(), f"closed: {row['outcome']}", *at, checked=BY_LEAF)
