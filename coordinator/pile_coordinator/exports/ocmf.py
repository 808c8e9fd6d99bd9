"""OCMF records of a session: found where they are kept, checked against the proofs, put into the S.A.F.E. XML.

The pile signs a record at begin and end and sends it to the coordinator (docs/ocmf.md); nothing of it is on the chain. So a
record is trusted for what the chain knows already (`pile_coordinator.ocmf`), again here, because where it was kept and who
copied it is nobody's word.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from pile_coordinator.exports.order import ExportError, Order
from pile_coordinator.ocmf import CONTRACT_DIGITS, KINDS, RecordError, compare, parse_record
from pile_coordinator.records import StoredRecords
from pile_shared.errors import ConfigError
from pile_shared.proof import Proof
from pile_shared.record import MAX_RECORD_BYTES

MAX_FOLDER_RECORDS = 1_000_000  # names in memory, some 200 MB: a year of 500,000 sessions
_NAME = re.compile(r"T\d{10}-\d{10}-(begin|end)-([0-9a-f]{40})\.ocmf")
_CONTEXTS = {"begin": "Transaction.Begin", "end": "Transaction.End"}
# SubjectPublicKeyInfo (RFC 5480) of an uncompressed P-256 point, up to the point
_KEY_INFO = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


@dataclass(frozen=True, slots=True)
class Record:
    """A record that fits its proof. kind: begin or end. pagination: its number, from 1. payload: what is signed."""

    kind: str
    pagination: int
    payload: str
    text: str


def public_key_info(public: bytes) -> bytes:
    """The SubjectPublicKeyInfo, 91 bytes, of an uncompressed point of 65 bytes."""
    return _KEY_INFO + public


def check_record(order: Order, text: str) -> Record | None:
    """The record, if the contract's pile signed it and it says what the session's begin or end proof says.

    None if that proof was not settled: a session may settle without its end, which the pile recorded all the same.

    Raises:
        ExportError: it is no OCMF record of ours, not signed by this pile, or differs from the proof; names the field.
    """
    try:
        record = parse_record(text)
        record.check_signature(order.terms.pile, order.terms.pile_public)
        proof = _proof_of(order, record.event)
        if proof is None:
            return None
        model = order.session[0].origin
        compare(record, order.chain_id, order.terms, model.model if model else None, proof)
    except RecordError as error:
        raise ExportError(error.message) from error
    return Record(KINDS[record.event], record.pagination, record.payload, text)


def _proof_of(order: Order, event: int) -> Proof | None:
    return next((proof for proof in order.session if proof.event == event), None)


def record_kinds(order: Order) -> list[str]:
    """Of which proofs of the session there is a record, if the pile makes any: begin, end."""
    return [kind for event, kind in KINDS.items() if _proof_of(order, event) is not None]


def check_records(order: Order, texts: list[str]) -> list[Record]:
    """The records of one session, begin before end; the same record twice counts once.

    Raises:
        ExportError: as check_record; or there are two different records of one event.
    """
    kept: dict[str, Record] = {}
    for text in texts:
        record = check_record(order, text)
        if record is not None and kept.setdefault(record.kind, record) != record:
            raise ExportError(
                f"two different OCMF {record.kind} records of contract {order.contract}; keep the pile's own"
            )
    return [kept[kind] for kind in KINDS.values() if kind in kept]


def safe_xml(order: Order, records: list[Record]) -> str:
    """The records as the S.A.F.E. Transparency Software opens them; the transaction is numbered as its first record."""
    key = public_key_info(order.terms.pile_public).hex()
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    for record in records:
        lines += [
            f'  <value transactionId="{records[0].pagination}" context="{_CONTEXTS[record.kind]}">',
            f'    <signedData format="OCMF" encoding="plain">{escape(record.text)}</signedData>',
            f'    <publicKey encoding="plain">{key}</publicKey>',
            "  </value>",
        ]
    return "\n".join([*lines, "</values>", ""])


class RecordFolder:
    """Copies of piles' record folders, anywhere below one folder, indexed by contract. Reads names only until asked."""

    def __init__(self, folder: Path, *, max_records: int = MAX_FOLDER_RECORDS) -> None:
        """Index; ConfigError if there is no such folder or more than `max_records` records in it."""
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; copy the piles' record folders into it (docs/exports.md)")
        self._paths: dict[str, list[Path]] = {}
        found = 0
        for parent, _, names in os.walk(folder):
            for name in names:
                match = _NAME.fullmatch(name)
                if match is None:
                    continue
                found += 1
                if found > max_records:
                    raise ConfigError(f"more than {max_records} OCMF records in {folder}; export from several folders")
                self._paths.setdefault(match[2], []).append(Path(parent) / name)

    def texts(self, order: Order) -> list[str]:
        """The records that name a contract, unchecked; ExportError if a file cannot be read as one."""
        texts = []
        for path in sorted(self._paths.get(order.contract[:CONTRACT_DIGITS], [])):
            try:
                with path.open("rb") as file:
                    texts.append(file.read(MAX_RECORD_BYTES + 1).decode("ascii"))
            except (OSError, UnicodeDecodeError) as error:
                raise ExportError(f"{path} cannot be read as an OCMF record: {error}") from error
        return texts


class RecordSources:
    """Where an export finds records: what piles sent to the coordinator, and where it lacks one, copies of their folders."""

    def __init__(self, stored: StoredRecords | None = None, folder: RecordFolder | None = None) -> None:
        """From either or both."""
        self._stored, self._folder = stored, folder

    def records(self, order: Order) -> list[Record]:
        """The records of an order, checked, begin before end; ExportError as `check_records`."""
        found = list[Record]()
        if self._stored is not None:
            try:
                texts = self._stored.of(order.terms.contract_id(), [proof.sequence for proof in order.session])
            except RecordError as error:
                raise ExportError(error.message) from error
            found = check_records(order, texts)
        if self._folder is None or len(found) == len(record_kinds(order)):
            return found
        known = {record.kind: record for record in check_records(order, self._folder.texts(order))}
        known |= {record.kind: record for record in found}
        return [known[kind] for kind in KINDS.values() if kind in known]
