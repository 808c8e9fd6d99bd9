"""Questions the evidence answers: what became of an order, and the certificate that proves it."""

from typing import Any, cast

import sqlalchemy as sa

from pile_coordinator.certificates import DisputeRecord, OrderCertificate, TariffChange
from pile_coordinator.chain.contracts import NO_EVIDENCE, UNSIGNED
from pile_coordinator.chain.election import certified
from pile_coordinator.chain.orders import CANCELLED, EXPIRED, MAX_WINDOW_MS, UNFILLED
from pile_coordinator.chain.settlement import BASIS_RULING, MAX_STATEMENT_BYTES, Statement, decode_statement
from pile_coordinator.chain.tariff import tariff_hash
from pile_coordinator.engines.engine import Engine
from pile_coordinator.evidence import schema
from pile_shared.certificate import MAX_LEAF_BYTES, Inclusion, encode_handover
from pile_shared.codec import array, decode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

MAX_BEGINS = (
    16  # begin proofs tried as the one that began a session: an honest pile makes one; each costs a session's hashes
)
_CAME_TO_NOTHING = (EXPIRED, CANCELLED, UNFILLED)
MAX_AHEAD = 16  # closings a pile is told again: it keeps 8 contracts, and remembers 6 that closed
_AFTER_ALL = 1 << 62  # a position after every transaction of a block


class NoEvidenceError(PilechainError):
    """The evidence database does not know this order, or its story has not ended yet."""

    code = "no_evidence"


# --- orders and contracts ------------------------------------------------------------------------------------------------


def find_contracts(db: sa.Connection, order: bytes) -> list[dict[str, object]]:
    """The rows of `settled_contract` for a contract id, or for the bid they came from, in order of piece; may be empty."""
    settled = schema.settled_contract
    rows = _rows(db, sa.select(settled).where(settled.c.id == order))
    return rows or _rows(db, sa.select(settled).where(settled.c.bid == order).order_by(settled.c.piece))


def find_contract(db: sa.Connection, order: bytes) -> dict[str, object]:
    """The one contract of a contract id or bid id; NoEvidenceError if there is none, or if a bid has several."""
    rows = find_contracts(db, order)
    if not rows:
        raise NoEvidenceError(f"no contract came from order {order.hex()} (yet)")
    if len(rows) > 1:
        ids = ", ".join(cast("bytes", row["id"]).hex() for row in rows)
        raise NoEvidenceError(f"order {order.hex()} was split into {len(rows)} contracts, ask for one of them: {ids}")
    return rows[0]


def find_order(db: sa.Connection, order: bytes) -> dict[str, object]:
    """The order row of a bid or listing; NoEvidenceError if there is none."""
    rows = _rows(db, sa.select(schema.orders).where(schema.orders.c.id == order))
    if not rows:
        raise NoEvidenceError(f"no order {order.hex()}")
    return rows[0]


def senders(db: sa.Connection, transactions: set[bytes]) -> dict[bytes, str]:
    """Who sent each of these transactions, 512 at most; those that are not there are left out."""
    t = schema.tx.c
    rows = db.execute(sa.select(t.id, t.sender).where(t.id.in_(transactions)))
    return {row.id: row.sender for row in rows}


def postings(db: sa.Connection, contract: bytes) -> list[tuple[str, str, int]]:
    """(debit, credit, amount in micro) of the last settlement that was written for a contract, in order."""
    p, st = schema.posting.c, schema.statement.c
    last = sa.select(sa.func.max(st.number)).where(st.contract == contract).scalar_subquery()
    query = sa.select(p.debit, p.credit, p.amount_micro).where(p.contract == contract, p.number == last)
    return [(debit, credit, amount) for debit, credit, amount in db.execute(query.order_by(p.item))]


def last_receipt(db: sa.Connection, pile: str) -> tuple[int, int] | None:
    """(height, leaf) of the newest receipt for a pile, or None."""
    r = schema.receipt.c
    row = db.execute(sa.select(r.height, r.leaf).where(r.pile == pile)).first()
    return (row[0], row[1]) if row else None


def where_signed(db: sa.Connection, contract: bytes) -> tuple[int, int] | None:
    """(height, leaf) of the newest block that says that a match is a contract; None while it is proposed."""
    c, r = schema.contract.c, schema.repeated.c
    query = sa.select(sa.func.coalesce(r.height, c.signed_height), sa.func.coalesce(r.leaf, c.signed_leaf))
    joined = query.select_from(schema.contract.outerjoin(schema.repeated, r.contract == c.id))
    row = db.execute(joined.where(c.id == contract)).first()
    return None if row is None or row[0] is None else (row[0], row[1])


def was_repeated(db: sa.Connection, contract: bytes) -> bool:
    """Whether a later set of accounting nodes has certified a contract again."""
    r = schema.repeated.c
    return db.execute(sa.select(r.height).where(r.contract == contract)).first() is not None


def pile_of_contract(db: sa.Connection, contract: bytes) -> str | None:
    """The pile of a contract, or None if there is no such contract."""
    c = schema.contract.c
    return db.execute(sa.select(c.pile).where(c.id == contract)).scalar()


def closings_since(db: sa.Connection, place: tuple[int, int], now_ms: int, most: int) -> list[tuple[str, int, int]]:
    """(pile, height, leaf) of contracts that closed at `place` or later with their window not over, in order, `most`.

    A pile that was never told of a contract need not hear of its end.
    """
    c = schema.contract.c
    query = sa.select(c.pile, c.closed_height, c.closed_leaf).where(
        c.closed_height >= place[0],
        sa.or_(c.closed_height > place[0], c.closed_leaf >= place[1]),
        c.window_end_ms > now_ms,
        c.outcome != UNSIGNED,
    )
    rows = db.execute(query.order_by(c.closed_height, c.closed_leaf).limit(most))
    return [(pile, height, leaf) for pile, height, leaf in rows]


def closings_ahead(db: sa.Connection, pile: str, now_ms: int) -> list[tuple[int, int]]:
    """(height, leaf) of the newest closings of a pile's contracts whose window is not over, in order, MAX_AHEAD of them."""
    c = schema.contract.c
    query = sa.select(c.closed_height, c.closed_leaf).where(
        c.pile == pile,
        c.window_start_ms > now_ms - MAX_WINDOW_MS,
        c.window_end_ms > now_ms,
        c.closed_height.is_not(None),
        c.outcome != UNSIGNED,
    )
    rows = db.execute(query.order_by(c.closed_height.desc(), c.closed_leaf.desc()).limit(MAX_AHEAD)).all()
    return [(height, leaf) for height, leaf in reversed(rows)]


def open_contracts(db: sa.Connection, party: str, most: int) -> list[bytes]:
    """The ids of contracts of a party that are not closed, the oldest first, `most` of them."""
    c = schema.contract.c
    query = sa.select(c.id).where(sa.or_(c.user == party, c.owner == party), c.closed_height.is_(None))
    return list(db.execute(query.order_by(c.height, c.id).limit(most)).scalars())


def metered_times(db: sa.Connection, contract: bytes) -> tuple[int, int]:
    """(first, last) time in unix ms of the readings that were proven under a contract; zeros if there are none."""
    p = schema.proof.c
    query = sa.select(sa.func.min(p.first_time_ms), sa.func.max(p.last_time_ms)).where(p.contract == contract)
    first, last = db.execute(query).one()
    return first or 0, last or 0


def history(db: sa.Connection, party: str, most: int) -> list[dict[str, object]]:
    """What has ended of a party's: closed contracts, and bids of which nothing came; `most` at most, the newest first."""
    c, o, b, k = schema.settled_contract.c, schema.orders.c, schema.block.c, schema.contract.c
    newest = (
        sa.select(k.id, k.closed_height)
        .where(sa.or_(k.user == party, k.owner == party), k.closed_height.is_not(None))
        .order_by(k.closed_height.desc(), k.id)
        .limit(most)
        .subquery()
    )
    names = (c.id, c.energy_wh, c.measured_wh, c.price_micro_per_kwh, c.outcome, c.pile)
    closed = _rows(
        db,
        sa.select(*names, b.time_ms.label("ended_ms"))
        .join_from(newest, schema.settled_contract, c.id == newest.c.id)
        .join(schema.block, b.height == newest.c.closed_height),
    )
    unfilled = _rows(
        db,
        sa.select(o.id, o.energy_wh, o.price_micro_per_kwh, o.outcome, b.time_ms.label("ended_ms"))
        .join_from(schema.orders, schema.block, b.height == o.ended_height)
        .where(o.party == party, o.kind != "listing", o.outcome.in_(_CAME_TO_NOTHING))
        .order_by(o.ended_height.desc(), o.id)
        .limit(most),
    )
    rows = [row | {"kind": "contract"} for row in closed]
    rows += [row | {"kind": "bid", "measured_wh": None, "pile": ""} for row in unfilled]
    rows = [{str(name): value for name, value in row.items()} for row in rows]  # the names of columns are no plain text
    return sorted(rows, key=lambda row: (-cast("int", row["ended_ms"]), row["id"]))[:most]


def objection_text(db: sa.Connection, contract: bytes) -> str:
    """What the objector wrote; NoEvidenceError if nobody objected."""
    d = schema.dispute.c
    text = db.execute(sa.select(d.text).where(d.contract == contract)).scalar()
    if text is None:
        raise NoEvidenceError(f"contract {contract.hex()} was not disputed (yet)")
    return cast("str", text)


def _rows(db: sa.Connection, query: sa.Select[Any]) -> list[dict[str, object]]:
    return [dict(row) for row in db.execute(query).mappings()]


# --- certificates --------------------------------------------------------------------------------------------------------


def order_certificate(db: sa.Connection, engine: Engine, order: bytes) -> OrderCertificate:
    """The certificate of a closed contract, by contract id or bid id.

    Raises:
        NoEvidenceError: there is no such contract, it is open, or it was proposed and never signed.
    """
    row = find_contract(db, order)
    if row["closed_height"] is None:
        raise NoEvidenceError("the contract is still open; its certificate is made when it closes")
    if row["outcome"] == UNSIGNED:
        raise NoEvidenceError("the contract was proposed and never signed, so there is none to certify")
    return _Maker(db, engine, row).certificate()


class _Maker:
    """Makes one certificate out of the row of a closed contract."""

    def __init__(self, db: sa.Connection, engine: Engine, row: dict[str, object]) -> None:
        self._db = db
        self._engine = engine
        self._row = row
        self._contract = cast("bytes", row["id"])
        self._written = _rows(
            db,
            sa.select(schema.statement)
            .where(schema.statement.c.contract == self._contract)
            .order_by(schema.statement.c.number),
        )

    def certificate(self) -> OrderCertificate:
        row = self._row
        signed = "signed_" if row["signed_height"] is not None else ""
        zone, matched = row["zone"], row["height"]
        c = schema.clearing.c
        (clearing,) = _rows(self._db, sa.select(schema.clearing).where(c.height == matched, c.zone == zone))
        tariff = self._tariff(cast("bytes", clearing["tariff"]), cast("int", matched))
        dispute, arbiters = self._dispute()
        signers = arbiters | ({self._engine.genesis.params.grid} if tariff else set())
        return OrderCertificate(
            chain_id=self._engine.genesis.chain_id,
            signing=self._leaf(row, signed),
            clearing=self._leaf(clearing),
            settlement=self._leaf(self._written[-1]),
            closing=self._leaf(row, "closed_"),
            order=self._order(cast("bytes", row["bid"])),
            piece=cast("int | None", row["piece"]),
            listing=self._order(cast("bytes", row["listing"])),
            signatures=self._txs(schema.signature),
            tariff=tariff,
            key_changes=self._key_changes(signers),
            proofs=self._proofs(),
            confirmations=self._txs(schema.confirmation),
            cancellation=next(iter(self._txs(schema.cancellation)), None),
            dispute=dispute,
            handovers=self._handovers(),
            rings=self._rings(),
        )

    # --- where things stand ---

    def _leaf(self, row: dict[str, object], prefix: str = "") -> Inclusion:
        height, leaf = cast("int", row[f"{prefix}height"]), cast("int", row[f"{prefix}leaf"])
        return self._engine.block(height).inclusion(leaf)

    def _handovers(self) -> tuple[bytes, ...]:
        """How the accounting nodes of genesis became those of the closing."""
        h = schema.handover.c
        query = sa.select(h.height).where(h.height < self._row["closed_height"]).order_by(h.height)
        return tuple(self._handover(height) for height in self._db.execute(query).scalars())

    def _handover(self, height: int) -> bytes:
        """The set stands in the block that decided it; the state has forgotten old ones."""
        n = schema.accounting_node.c
        decided, leaf = self._db.execute(sa.select(n.height, n.leaf).where(n.from_height == height + 1).limit(1)).one()
        _, _, members = array(decode(self._engine.block(decided).leaves[leaf], MAX_LEAF_BYTES), 3)
        return encode_handover(self._engine.block(height).certificate, certified(members))

    def _rings(self) -> tuple[Inclusion, ...]:
        """The bins whose notes paid, each once, the one that leads first."""
        if not self._row["anonymous"]:
            return ()
        s, b = schema.note_spend.c, schema.note_bin.c
        of_bin = sa.and_(b.denomination == s.denomination, b.number == s.number)
        query = sa.select(b.height, b.leaf).join_from(schema.note_spend, schema.note_bin, of_bin)
        rows = self._db.execute(query.where(s.source == self._row["bid"]).order_by(s.item))
        places = dict.fromkeys((height, leaf) for height, leaf in rows)
        return tuple(self._engine.block(height).inclusion(leaf) for height, leaf in places)

    def _tx(self, height: object, position: object) -> bytes:
        return self._engine.block(cast("int", height)).txs[cast("int", position)]

    def _txs(self, table: sa.Table) -> tuple[bytes, ...]:
        t = table.c
        query = sa.select(t.height, t.position).where(t.contract == self._contract).order_by(t.height, t.position)
        return tuple(self._tx(*at) for at in self._db.execute(query).all())

    def _order(self, order: bytes) -> bytes:
        row = find_order(self._db, order)
        return self._tx(row["height"], row["position"])

    # --- what not every contract has ---

    def _tariff(self, named: bytes, matched: int) -> TariffChange | None:
        if named == tariff_hash(self._engine.genesis.tariff):
            return None
        t, a = schema.tariff.c, schema.announcement.c
        query = sa.select(schema.tariff).where(t.hash == named, t.height <= matched)
        (in_force,) = _rows(self._db, query.order_by(t.height.desc()).limit(1))
        query = sa.select(schema.announcement).where(a.hash == named, a.height <= in_force["height"])
        (announced,) = _rows(self._db, query.order_by(a.height.desc(), a.position.desc()).limit(1))
        return TariffChange(self._leaf(in_force), self._tx(announced["height"], announced["position"]))

    def _dispute(self) -> tuple[DisputeRecord | None, set[str]]:
        """The dispute, and the arbiters who decided it."""
        rows = _rows(self._db, sa.select(schema.dispute).where(schema.dispute.c.contract == self._contract))
        if not rows:
            return None, set()
        (row,) = rows
        first, last = self._written
        rulings, names = tuple[bytes, ...](), list[str]()
        if last["basis"] == BASIS_RULING:
            verdict = self._statement(last).verdict
            assert verdict is not None
            names = [name for name, _ in verdict.arbiters]
            rulings = tuple(self._ruling(name) for name in names)
        answered = row["answer_height"] is not None
        answer = self._tx(row["answer_height"], row["answer_position"]) if answered else None
        objection = self._tx(row["height"], row["position"])
        return DisputeRecord(self._leaf(first), self._leaf(row), objection, rulings, answer), set(names)

    def _statement(self, row: dict[str, object]) -> Statement:
        _, data = array(decode(self._leaf(row).leaf, MAX_STATEMENT_BYTES + 16), 2)
        return decode_statement(data)

    def _ruling(self, arbiter: str) -> bytes:
        """The arbiter's last word."""
        r = schema.ruling.c
        query = sa.select(r.height, r.position).where(r.contract == self._contract, r.arbiter == arbiter)
        return self._tx(*self._db.execute(query.order_by(r.height.desc(), r.position.desc()).limit(1)).one())

    # --- keys ---

    def _key_changes(self, founders: set[str]) -> tuple[bytes, ...]:
        """How user and owner came to other keys since the match, and these founders to theirs since genesis."""
        parties = {cast("str", self._row["user"]), cast("str", self._row["owner"])}
        found: dict[tuple[int, int], bytes] = {}
        wanted = [(party, cast("int", self._row["height"])) for party in sorted(parties)]
        wanted += [(party, 0) for party in sorted(founders)]
        for party, since in wanted:  # grows: who restores a key signs too
            k = schema.key_change.c
            when = k.height > since, k.height <= self._row["closed_height"]
            query = sa.select(k.height, k.position, k.kind, k.sender).where(k.party == party, k.kind != "revoke", *when)
            rows = self._db.execute(query.order_by(k.height, k.position)).all()
            for height, position, kind, by in rows:
                found[height, position] = self._tx(height, position)
                if kind == "restore" and (by, 0) not in wanted:
                    wanted.append((by, 0))
        return tuple(found[at] for at in sorted(found))

    # --- metering ---

    def _proofs(self) -> tuple[bytes, ...]:
        """The pile's proofs, from the one that began the session to the last of it, as the first settlement hashed them."""
        first = self._statement(self._written[0])
        if first.evidence == NO_EVIDENCE:
            return ()
        row, p = self._row, schema.proof.c
        position = _AFTER_ALL if row["signed_position"] is None else row["signed_position"]
        signed = row["signed_height"]
        since = sa.or_(p.height > signed, sa.and_(p.height == signed, p.position > position))
        query = sa.select(p.sequence, p.event, p.first_time_ms.is_not(None), p.hash).where(
            p.contract == self._contract, p.kid == row["kid"], p.height <= self._written[0]["height"], since
        )
        session: _Told = [
            (sequence, event, bool(has_readings), digest)
            for sequence, event, has_readings, digest in self._db.execute(query.order_by(p.sequence))
        ]
        begins = [i for i, (_, event, _, _) in enumerate(session) if event == "begin"][:MAX_BEGINS]
        for begin in begins:
            told = _until_end(session[begin:])
            if _is_hashed(told, first.evidence):
                told_in = p.sequence.between(told[0][0], told[-1][0])
                query = sa.select(p.bytes).where(p.kid == row["kid"], told_in).order_by(p.sequence)
                return tuple(self._db.execute(query).scalars())
        raise NoEvidenceError(f"pile {row['pile']} began this contract so often that its proofs cannot be told apart")


_Told = list[tuple[int, str, bool, bytes]]  # (sequence, event, whether it has readings, hash) of a pile's proofs


def _until_end(session: _Told) -> _Told:
    ends = [i for i, (_, event, _, _) in enumerate(session) if event == "end"]
    return session[: ends[0] + 1] if ends else session


def _is_hashed(told: _Told, evidence: bytes) -> bool:
    """Whether these are the proofs of a settlement, or begin with them if the session was frozen."""
    running = NO_EVIDENCE
    for _, _, has_readings, digest in told:
        if has_readings:
            running = sha256(running + digest)
        if running == evidence:
            return True
    return False
