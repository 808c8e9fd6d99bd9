"""The OCMF records of a pile on CPython: made beside begin and end proofs, kept in a folder, one file each.

A record's file is written beside, synced and renamed, so it is there whole or not at all, and named

    T<pagination>-<proof sequence>-<begin|end>-<contract>.ocmf

The pagination goes up by one with each record and is never used twice for different content, whatever is lost:

- A power cut between the proof and its record: at boot the journal's newest proof gets the record it lacks, with the next
  number. Nothing else can have come between, for the agent does one thing after the other.
- The disk full: the same, but before the next proof, which waits until there is room for the record.
- The folder lost: numbering goes on at the proof's sequence, which is above every number used before, because each record
  has a proof of its own and began no higher than that.

Records are also sent to the coordinators, in order (ocmf_sending.py). The file `receipted` holds the pagination up to which
they have been answered; without it, all are sent again, which changes nothing there.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from xml.sax.saxutils import escape

from pile_edge.advising import AdvisingAgent
from pile_edge.agent import OFFLINE
from pile_edge.ocmf import CONTRACT_DIGITS, make_record, public_key_info
from pile_edge.ocmf_sending import RecordSender
from pile_edge.ports.cpython_storage import Storage
from pile_edge.settings import Settings
from pile_shared.codec import encode
from pile_shared.errors import JournalError, PilechainError
from pile_shared.proof import BEGIN, END, Proof, parse
from pile_shared.record import RECORDED
from pile_shared.topics import PILE_DOWN, pile_topic

MAX_RECORDS = 10_000  # 5,000 sessions, 40 MB in blocks of 4 kB; the oldest go first, copy them before
_NAME = re.compile(r"T(\d{10})-(\d{10})-(begin|end)-([0-9a-f]{40})\.ocmf")
_RECEIPTED = "receipted"
_CONTEXTS = {"begin": "Transaction.Begin", "end": "Transaction.End"}


class Record:
    """One kept record. `pagination` and `sequence` are numbers, `kind` begin or end, `contract` 40 hexadecimal digits."""

    def __init__(self, folder: Path, name: str) -> None:
        found = _NAME.fullmatch(name)
        assert found is not None
        self.path = folder / name
        self.pagination, self.sequence = int(found[1]), int(found[2])
        self.kind, self.contract = found[3], found[4]

    def text(self) -> str:
        """The signed record."""
        return self.path.read_text(encoding="ascii")


def list_records(folder: str) -> list[Record]:
    """The records in a folder, ascending by pagination; none if there is no folder. Only reads, so it may run any time."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [Record(Path(folder), name) for name in names if _NAME.fullmatch(name)]


def safe_xml(records: list[Record], public: bytes) -> str:
    """The records as the S.A.F.E. Transparency Software opens them; a transaction is numbered as its begin record."""
    begins = {record.contract: record.pagination for record in records if record.kind == "begin"}
    key = public_key_info(public).hex()
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<values>"]
    for record in records:
        transaction = begins.get(record.contract, record.pagination)
        lines += [
            f'  <value transactionId="{transaction}" context="{_CONTEXTS[record.kind]}">',
            f'    <signedData format="OCMF" encoding="plain">{escape(record.text())}</signedData>',
            f'    <publicKey encoding="plain">{key}</publicKey>',
            "  </value>",
        ]
    return "\n".join([*lines, "</values>", ""])


class RecordBook:
    """The folder as its one writer sees it. Every method raises JournalError, `full` or `storage`, if the file system fails."""

    def __init__(self, folder: str, *, max_records: int = MAX_RECORDS) -> None:
        self._folder = Path(folder)
        self._max_records = max_records
        try:
            self._storage = Storage(folder)
            self._names = [record.path.name for record in list_records(folder)]
            self._receipted = self._read_receipted()
        except OSError as error:
            raise self._failed(error) from error

    def next_pagination(self, sequence: int) -> int | None:
        """The number for the record of a proof, or None if it has one already."""
        if not self._names:
            return sequence
        newest = Record(self._folder, self._names[-1])
        return newest.pagination + 1 if newest.sequence < sequence else None

    def add(self, proof: Proof, pagination: int, text: str) -> None:
        """Keep a record; durable on return. Beyond the bound the oldest is removed."""
        assert proof.contract is not None
        kind = "begin" if proof.event == BEGIN else "end"
        contract = proof.contract.hex()[:CONTRACT_DIGITS]
        name = f"T{pagination:010}-{proof.sequence:010}-{kind}-{contract}.ocmf"
        try:
            self._storage.replace(name, text.encode("ascii"))
            self._names.append(name)
            while len(self._names) > self._max_records:
                self._storage.remove(self._names[0])
                self._names.pop(0)
        except OSError as error:
            raise self._failed(error) from error

    def next_unsent(self, through_sequence: int) -> Record | None:
        """The oldest record without an answer, if its proof is not beyond `through_sequence`."""
        at = bisect_left(self._names, f"T{self._receipted + 1:010}")
        if at == len(self._names):
            return None
        record = Record(self._folder, self._names[at])
        return record if record.sequence <= through_sequence else None

    def retire(self, pagination: int) -> None:
        """The records up to this number have been answered; durable on return. They stay in the folder."""
        self._receipted = max(self._receipted, pagination)
        try:
            self._storage.replace(_RECEIPTED, str(self._receipted).encode())
        except OSError as error:
            raise self._failed(error) from error

    def _read_receipted(self) -> int:
        """0, so that all are sent, if there is no number: it was written in one piece, so somebody changed it."""
        if _RECEIPTED not in self._storage.names():
            return 0
        with self._storage.open(_RECEIPTED) as file:
            text = file.read(10)
        return int(text) if text.isdigit() else 0

    def _failed(self, error: OSError) -> JournalError:
        code = "full" if error.errno == ENOSPC else "storage"
        return JournalError(f"OCMF records in {self._folder} cannot be written: {error.strerror or error}", code)


class RecordingAgent(AdvisingAgent):
    """The light client on CPython: with each begin and end proof it makes and keeps the OCMF record, before the next proof."""

    def __init__(self, config: Settings, port, link=None) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """As Agent; then make the record that a power cut after the newest proof prevented."""
        self._records = RecordBook(config.ocmf_path)
        self._unrecorded: Proof | None = None  # the newest proof, until its record is kept
        self._recorded_topic = pile_topic(config.chain_id, config.pile_id, RECORDED)
        self._sender = RecordSender(self._records, config.chain_id, config.pile_id, config.timing.resend_ms)
        super().__init__(config, port, link)
        newest = self.journal.last()
        if newest is not None:
            self._unrecorded = parse(newest[1])[1]
            self._record_if_there_is_room()

    def _open_link(self):  # type: ignore[no-untyped-def] # noqa: ANN202 - a port's type
        config = self.config
        own = [pile_topic(config.chain_id, config.pile_id, kind) for kind in PILE_DOWN]
        return self._port.open_link(
            config.mqtt,
            client_id=f"pile-{config.pile_id}",
            subscriptions=[*own, self._recorded_topic],
            will=(self._status_topic, encode([OFFLINE, config.pile_id, 0])),
        )

    def _hear(self, heard: list[tuple[str, bytes]]) -> None:
        if heard[0][0] != self._recorded_topic:
            super()._hear(heard)
            return
        _, answer = heard.pop(0)
        self._sending(self._sender.hear, answer, [validator.public for validator in self._light.validators])

    def _publish(self) -> None:
        """Proofs first: a record is sent once the chain has its proof, so that it can be checked when it comes."""
        super()._publish()
        self._sending(self._sender.send, self.link, self._clock.now_ms(), self._retired())

    def _sending(self, act: Callable[..., str], *arguments: object) -> None:
        try:
            said = act(*arguments)
        except JournalError as error:
            if error.code != "full":
                raise
            said = f"{error}: after a restart records are sent that were answered"
        except PilechainError as error:
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            said = f"refused {RECORDED}: {error.code}: {error}"
        if said:
            self._log(said)

    def _prove(self, action: tuple) -> None:  # type: ignore[type-arg]
        self._record()
        super()._prove(action)

    def _proved(self, proof: Proof, size_bytes: int) -> None:
        self._unrecorded = proof
        self._record_if_there_is_room()
        super()._proved(proof, size_bytes)

    def _record_if_there_is_room(self) -> None:
        """Stopping for want of room would be for ever: receipts make room, but only for an agent that runs."""
        try:
            self._record()
        except JournalError as error:
            if error.code != "full":
                raise
            self._log(f"{error.message}: no other proof before there is room")

    def _record(self) -> None:
        proof = self._unrecorded
        if proof is not None and proof.event in {BEGIN, END}:
            pagination = self._records.next_pagination(proof.sequence)
            if pagination is not None:
                self._keep_record(proof, pagination)
        self._unrecorded = None

    def _keep_record(self, proof: Proof, pagination: int) -> None:
        place = self.config.chain_id + "/" + self.config.pile_id
        text = make_record(proof, pagination, place, self._origin, self._signer)
        self._records.add(proof, pagination, text)
        self._log(f"OCMF record T{pagination}, {len(text)} bytes")
