"""The OCMF records that piles send: checked against the chain, and kept beside it for exports and bills.

No block holds a record, and the chain cannot give one back, so they have a file of their own in the data folder next to the
ledger, which neither `evidence rebuild` nor another evidence database touches. It grows by at most one record for each
begin and end proof on the chain, some 1 kB.

A record's message is answered only once it is durable. What a repetition would not change is answered with the reason, so
that a pile goes on to the next record; whatever may be otherwise later is not answered, and the pile sends it again.
"""

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.state import State
from pile_coordinator.evidence import schema
from pile_coordinator.ocmf import KINDS, Parsed, RecordError, compare, parse_record
from pile_shared import cose
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.proof import Proof, parse
from pile_shared.record import STORED, decode_record
from pile_shared.terms import Terms, decode_terms

RECORDS = "records.sqlite"
MAX_OF_CONTRACT = 64  # an honest pile makes two, and another's further begins are no part of any settlement
FORMAT = 1  # of the file (PRAGMA user_version)
KNOWN = "record_known"  # stored before, or by a repetition in the same step: normal life
LATER = "record_later"  # its proof is not in the evidence yet
UNWRITTEN = "record_not_written"
_TABLE = """CREATE TABLE IF NOT EXISTS record (
    contract BLOB NOT NULL, sequence INTEGER NOT NULL, kind TEXT NOT NULL, pile TEXT NOT NULL, pagination INTEGER NOT NULL,
    text TEXT NOT NULL, stored_ms INTEGER NOT NULL, PRIMARY KEY (contract, sequence)) WITHOUT ROWID"""


class RecordDesk:
    """Takes records from piles and keeps them. Used by the engine's thread."""

    def __init__(self, path: Path, chain_id: str, now_ms: Callable[[], int]) -> None:
        """Open or create the SQLite file of a chain's records; `now_ms` is the coordinator's clock, unix milliseconds."""
        self._chain_id, self._now_ms = chain_id, now_ms
        self._is_lost = False  # what was taken since the last commit
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # the pile does not send again what was answered
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found > FORMAT:
                raise ConfigError(f"{path} is of a newer release (format {found}); run that one")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.Error as error:
            raise ConfigError(f"{path} cannot be used ({error}); restore it from a backup: it is no copy") from error

    def close(self) -> None:
        """Close the file; what was not committed is sent again."""
        self._db.close()

    def offer(self, state: State, evidence: sa.Connection, pile_id: str, message: bytes) -> tuple[str, str]:
        """Take one message from a pile's topic; nothing is durable before `commit`.

        Returns:
            (what became of it, what to answer): STORED or KNOWN with STORED; the code of a refusal with that code, or
            with "" where it may be otherwise later or nobody can have meant it.

        Raises:
            EvidenceAwayError: the database server does not answer.
        """
        pile = state.find(Pile, pile_id)
        if pile is None:
            return "unknown_pile", ""
        try:
            sequence, text = decode_record(message)
        except PilechainError as error:
            return f"record_{error.code}", ""
        try:
            found = _find(evidence, pile, sequence)
            if found is None:
                return LATER, ""
            record = parse_record(text)
            record.check_signature(pile_id, pile.public)
            _check(record, self._chain_id, found)
        except RecordError as error:
            return f"record_{error.code}", f"record_{error.code}"
        return self._keep(record, found)

    def _keep(self, record: Parsed, found: "_Proven") -> tuple[str, str]:
        name = found.terms.contract_id(), found.proof.sequence
        values = KINDS[found.proof.event], found.terms.pile, record.pagination, record.text, self._now_ms()
        if self._is_lost:
            return UNWRITTEN, ""
        try:
            row = self._db.execute("SELECT text FROM record WHERE contract = ? AND sequence = ?", name).fetchone()
            if row is not None:  # another one says the same reading with another number: the first counts
                return (KNOWN, STORED) if row[0] == record.text else ("record_other", "record_other")
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", (*name, *values))
        except sqlite3.Error:  # the disk is full: the ledger decides whether to go on, not this
            self._is_lost = True  # SQLite may have rolled back what came before it too
            return UNWRITTEN, ""
        return STORED, STORED

    def commit(self) -> bool:
        """Make durable what was taken since the last time; False if that failed, and none of it is kept."""
        is_lost, self._is_lost = self._is_lost, False
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK" if is_lost else "COMMIT")
        except sqlite3.Error:
            is_lost = True
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        return not is_lost


@dataclass(frozen=True, slots=True)
class _Proven:
    """What the chain has of the session that a record is of. model: the meter's, by the begin proof."""

    proof: Proof
    terms: Terms
    model: str | None


def _find(evidence: sa.Connection, pile: Pile, sequence: int) -> _Proven | None:
    """The begin or end proof of a sequence; None if the chain does not have it yet.

    RecordError `no_session` if it is another proof, or of a contract that is not this pile's.
    """
    p, c = schema.proof.c, schema.contract.c
    kid = cose.key_id(pile.public)
    row = evidence.execute(sa.select(p.contract, p.bytes).where(p.kid == kid, p.sequence == sequence)).first()
    if row is None:
        return None
    contract, (_, proof) = row.contract, parse(row.bytes)
    if contract is None or proof.event not in KINDS or not proof.readings:
        raise RecordError(f"proof {sequence} neither begins nor ends a session", "no_session")
    terms = evidence.execute(sa.select(c.terms).where(c.id == contract, c.kid == kid)).scalar()
    began = sa.select(p.bytes).where(p.contract == contract, p.kid == kid, p.event == "begin", p.sequence <= sequence)
    begin = evidence.execute(began.order_by(p.sequence.desc()).limit(1)).scalar()
    if terms is None or begin is None:
        raise RecordError(f"proof {sequence} is of no contract of this pile", "no_session")
    origin = parse(begin)[1].origin
    return _Proven(proof, decode_terms(terms), origin.model if origin else None)


def _check(record: Parsed, chain_id: str, found: _Proven) -> None:
    if record.event != found.proof.event:
        raise RecordError(f"an OCMF record is a {KINDS[record.event]}, its proof is not", "differs")
    compare(record, chain_id, found.terms, found.model, found.proof)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it is kept. sequence: of its proof. kind: begin or end. text: the record."""

    sequence: int
    kind: str
    text: str


class StoredRecords:
    """The records in a coordinator's data folder, only read, whether it runs meanwhile or not. Used by any one thread."""

    def __init__(self, path: Path) -> None:
        """Open; ConfigError if there is no such file or it holds none."""
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; a coordinator makes it when it starts")
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self._db.execute("SELECT contract, sequence, text FROM record LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(f"{path} cannot be read ({error})") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def rows(self, contract: bytes) -> list[Stored]:
        """The records of a contract, begin before end, the first MAX_OF_CONTRACT.

        Raises:
            RecordError: `unreadable`, the file cannot be read now.
        """
        query = "SELECT sequence, kind, text FROM record WHERE contract = ? ORDER BY sequence LIMIT ?"
        try:
            return [Stored(*row) for row in self._db.execute(query, (contract, MAX_OF_CONTRACT))]
        except sqlite3.Error as error:
            raise RecordError(f"the coordinator's OCMF records cannot be read: {error}", "unreadable") from error

    def of(self, contract: bytes, sequences: Iterable[int]) -> list[str]:
        """The texts of a contract's records of these proofs, begin before end; RecordError as `rows`."""
        wanted = set(sequences)
        return [row.text for row in self.rows(contract) if row.sequence in wanted]
