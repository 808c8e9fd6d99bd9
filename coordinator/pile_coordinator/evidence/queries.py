"""Questions the evidence answers: what became of an order, and the certificate that proves it."""

import sqlite3
from typing import cast

from pile_coordinator.certificates import DisputeRecord, OrderCertificate, TariffChange
from pile_coordinator.chain.contracts import NO_EVIDENCE, UNSIGNED
from pile_coordinator.chain.election import certified
from pile_coordinator.chain.settlement import BASIS_RULING, MAX_STATEMENT_BYTES, Statement, decode_statement
from pile_coordinator.chain.tariff import tariff_hash
from pile_coordinator.engines.engine import Engine
from pile_shared.certificate import MAX_LEAF_BYTES, Inclusion, encode_handover
from pile_shared.codec import array, decode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

MAX_BEGINS = (
    16  # begin proofs tried as the one that began a session: an honest pile makes one; each costs a session's hashes
)
_AFTER_ALL = 1 << 62  # a position after every transaction of a block


class NoEvidenceError(PilechainError):
    """The evidence database does not know this order, or its story has not ended yet."""

    code = "no_evidence"


# --- orders and contracts ------------------------------------------------------------------------------------------------


def find_contracts(db: sqlite3.Connection, order: bytes) -> list[dict[str, object]]:
    """The rows of `settled_contract` for a contract id, or for the bid they came from, in order of piece; may be empty."""
    rows = _rows(db, "SELECT * FROM settled_contract WHERE id = ?", (order,))
    return rows or _rows(db, "SELECT * FROM settled_contract WHERE bid = ? ORDER BY piece", (order,))


def find_contract(db: sqlite3.Connection, order: bytes) -> dict[str, object]:
    """The one contract of a contract id or bid id; NoEvidenceError if there is none, or if a bid has several."""
    rows = find_contracts(db, order)
    if not rows:
        raise NoEvidenceError(f"no contract came from order {order.hex()} (yet)")
    if len(rows) > 1:
        ids = ", ".join(cast("bytes", row["id"]).hex() for row in rows)
        raise NoEvidenceError(f"order {order.hex()} was split into {len(rows)} contracts, ask for one of them: {ids}")
    return rows[0]


def find_order(db: sqlite3.Connection, order: bytes) -> dict[str, object]:
    """The order row of a bid or listing; NoEvidenceError if there is none."""
    rows = _rows(db, "SELECT * FROM orders WHERE id = ?", (order,))
    if not rows:
        raise NoEvidenceError(f"no order {order.hex()}")
    return rows[0]


def postings(db: sqlite3.Connection, contract: bytes) -> list[tuple[str, str, int]]:
    """(debit, credit, amount in micro) of the last settlement that was written for a contract, in order."""
    query = (
        "SELECT debit, credit, amount_micro FROM posting WHERE contract = ?1"
        " AND number = (SELECT max(number) FROM statement WHERE contract = ?1) ORDER BY item"
    )
    return cast("list[tuple[str, str, int]]", db.execute(query, (contract,)).fetchall())


def last_receipt(db: sqlite3.Connection, pile: str) -> tuple[int, int] | None:
    """(height, leaf) of the newest receipt for a pile, or None."""
    row = db.execute("SELECT height, leaf FROM receipt WHERE pile = ?", (pile,)).fetchone()
    return (row[0], row[1]) if row else None


def where_signed(db: sqlite3.Connection, contract: bytes) -> tuple[int, int] | None:
    """(height, leaf) of the newest block that says that a match is a contract; None while it is proposed."""
    query = (
        "SELECT coalesce(r.height, signed_height), coalesce(r.leaf, signed_leaf)"
        " FROM contract LEFT JOIN repeated r ON r.contract = id WHERE id = ?"
    )
    row = db.execute(query, (contract,)).fetchone()
    return None if row is None or row[0] is None else (row[0], row[1])


def _rows(db: sqlite3.Connection, query: str, arguments: tuple[object, ...]) -> list[dict[str, object]]:
    cursor = db.execute(query, arguments)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# --- certificates --------------------------------------------------------------------------------------------------------


def order_certificate(db: sqlite3.Connection, engine: Engine, order: bytes) -> OrderCertificate:
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

    def __init__(self, db: sqlite3.Connection, engine: Engine, row: dict[str, object]) -> None:
        self._db = db
        self._engine = engine
        self._row = row
        self._contract = cast("bytes", row["id"])
        self._written = _rows(db, "SELECT * FROM statement WHERE contract = ? ORDER BY number", (self._contract,))

    def certificate(self) -> OrderCertificate:
        row = self._row
        signed = "signed_" if row["signed_height"] is not None else ""
        zone, matched = row["zone"], row["height"]
        (clearing,) = _rows(self._db, "SELECT * FROM clearing WHERE height = ? AND zone = ?", (matched, zone))
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
            signatures=self._txs("signature"),
            tariff=tariff,
            key_changes=self._key_changes(signers),
            proofs=self._proofs(),
            confirmations=self._txs("confirmation"),
            cancellation=next(iter(self._txs("cancellation")), None),
            dispute=dispute,
            handovers=self._handovers(),
        )

    # --- where things stand ---

    def _leaf(self, row: dict[str, object], prefix: str = "") -> Inclusion:
        height, leaf = cast("int", row[f"{prefix}height"]), cast("int", row[f"{prefix}leaf"])
        return self._engine.block(height).inclusion(leaf)

    def _handovers(self) -> tuple[bytes, ...]:
        """How the accounting nodes of genesis became those of the closing."""
        query = "SELECT height FROM handover WHERE height < ? ORDER BY height"
        return tuple(self._handover(height) for (height,) in self._db.execute(query, (self._row["closed_height"],)))

    def _handover(self, height: int) -> bytes:
        """The set stands in the block that decided it; the state has forgotten old ones."""
        query = "SELECT height, leaf FROM accounting_node WHERE from_height = ? LIMIT 1"
        decided, leaf = self._db.execute(query, (height + 1,)).fetchone()
        _, _, members = array(decode(self._engine.block(decided).leaves[leaf], MAX_LEAF_BYTES), 3)
        return encode_handover(self._engine.block(height).certificate, certified(members))

    def _tx(self, height: object, position: object) -> bytes:
        return self._engine.block(cast("int", height)).txs[cast("int", position)]

    def _txs(self, table: str) -> tuple[bytes, ...]:
        query = f"SELECT height, position FROM {table} WHERE contract = ? ORDER BY height, position"  # noqa: S608 - ours
        return tuple(self._tx(*at) for at in self._db.execute(query, (self._contract,)).fetchall())

    def _order(self, order: bytes) -> bytes:
        row = find_order(self._db, order)
        return self._tx(row["height"], row["position"])

    # --- what not every contract has ---

    def _tariff(self, named: bytes, matched: int) -> TariffChange | None:
        if named == tariff_hash(self._engine.genesis.tariff):
            return None
        query = "SELECT * FROM tariff WHERE hash = ? AND height <= ? ORDER BY height DESC LIMIT 1"
        (in_force,) = _rows(self._db, query, (named, matched))
        query = "SELECT * FROM announcement WHERE hash = ? AND height <= ? ORDER BY height DESC, position DESC LIMIT 1"
        (announced,) = _rows(self._db, query, (named, in_force["height"]))
        return TariffChange(self._leaf(in_force), self._tx(announced["height"], announced["position"]))

    def _dispute(self) -> tuple[DisputeRecord | None, set[str]]:
        """The dispute, and the arbiters who decided it."""
        rows = _rows(self._db, "SELECT * FROM dispute WHERE contract = ?", (self._contract,))
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
        query = (
            "SELECT height, position FROM ruling WHERE contract = ? AND arbiter = ?"
            " ORDER BY height DESC, position DESC LIMIT 1"
        )
        return self._tx(*self._db.execute(query, (self._contract, arbiter)).fetchone())

    # --- keys ---

    def _key_changes(self, founders: set[str]) -> tuple[bytes, ...]:
        """How user and owner came to other keys since the match, and these founders to theirs since genesis."""
        parties = {cast("str", self._row["user"]), cast("str", self._row["owner"])}
        found: dict[tuple[int, int], bytes] = {}
        wanted = [(party, cast("int", self._row["height"])) for party in sorted(parties)]
        wanted += [(party, 0) for party in sorted(founders)]
        for party, since in wanted:  # grows: who restores a key signs too
            rows = self._db.execute(
                "SELECT height, position, kind, sender FROM key_change WHERE party = ? AND height > ? AND height <= ?"
                " AND kind != 'revoke' ORDER BY height, position",
                (party, since, self._row["closed_height"]),
            ).fetchall()
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
        query = (
            "SELECT sequence, event, first_time_ms IS NOT NULL, hash FROM proof WHERE contract = ? AND kid = ?"
            " AND height <= ? AND (height, position) > (?, ?) ORDER BY sequence"
        )
        row = self._row
        position = _AFTER_ALL if row["signed_position"] is None else row["signed_position"]
        signed = (row["signed_height"], position)
        arguments = (self._contract, row["kid"], self._written[0]["height"], *signed)
        session = self._db.execute(query, arguments).fetchall()
        begins = [i for i, (_, event, _, _) in enumerate(session) if event == "begin"][:MAX_BEGINS]
        for begin in begins:
            told = _until_end(session[begin:])
            if _is_hashed(told, first.evidence):
                query = "SELECT bytes FROM proof WHERE kid = ? AND sequence BETWEEN ? AND ? ORDER BY sequence"
                proofs = self._db.execute(query, (row["kid"], told[0][0], told[-1][0])).fetchall()
                return tuple(proof for (proof,) in proofs)
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
