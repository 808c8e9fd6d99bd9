"""Sends a pile's OCMF records to the coordinators: one at a time, oldest first, each until it is answered. Not on boards.

A record waits for its proof's receipt, because a coordinator checks it against that proof. It is sent again after
`resend_ms`, then after twice as long, up to RESEND_SLOWEST times as long, and at once after a reconnect. The answer is an
accounting node's signed word on exactly these bytes; that it came is durable before the next record goes out, and a power
cut before that only has the same record sent twice. A refusal is an answer too: it will not be otherwise the next time, and
the record stays in the folder for people to look at.
"""

from pile_edge.agent import RESEND_SLOWEST
from pile_shared.errors import PilechainError, SignatureError
from pile_shared.platform import sha256
from pile_shared.record import RECORD, STORED, encode_record, open_answer
from pile_shared.topics import pile_topic

PACE_MS = 1000  # between two records: thousand piles that come with a full folder each leave room for proofs


class RecordSender:
    """What is under way of a book of records (ocmf_records.RecordBook)."""

    def __init__(self, book, chain_id: str, pile_id: str, resend_ms: int) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Send the records of `book` for this pile; `resend_ms` as for proofs."""
        self._book = book
        self._chain_id, self._pile_id = chain_id, pile_id
        self._topic = pile_topic(chain_id, pile_id, RECORD)
        self._resend_ms = resend_ms
        self._message = b""  # under way; empty: none is
        self._pagination = self._sequence = 0
        self._wait_ms = resend_ms
        self._sent_ms: int | None = None  # None: never, or not since the connection came back

    def send(self, link, now_ms: int, through_sequence: int) -> str:  # type: ignore[no-untyped-def] # noqa: ANN001 - a port's link
        """Publish what is due.

        Args:
            link: The connection.
            now_ms: The pile's clock.
            through_sequence: Of the newest proof that has a receipt; later ones' records wait.

        Returns:
            A line for the log, or "".
        """
        if not link.connected:
            self._sent_ms = None
            return ""
        is_again = bool(self._message)
        pause_ms = self._wait_ms if is_again else PACE_MS
        if self._sent_ms is not None and 0 <= now_ms - self._sent_ms < pause_ms:
            return ""
        if not is_again:
            said = self._take_next(through_sequence)
            if not self._message:
                return said
        if not link.publish(self._topic, self._message):
            return ""
        if is_again and self._sent_ms is not None:
            self._wait_ms = min(2 * self._wait_ms, RESEND_SLOWEST * self._resend_ms)
        self._sent_ms = now_ms
        return f"no answer to OCMF record T{self._pagination}: sent again" if is_again else ""

    def _take_next(self, through_sequence: int) -> str:
        record = self._book.next_unsent(through_sequence)
        if record is None:
            return ""
        try:
            self._message = encode_record(record.sequence, record.text())
        except (OSError, UnicodeDecodeError, PilechainError) as error:
            self._book.retire(record.pagination)
            return f"OCMF record {record.path.name} is not sent, it was changed: {error}"
        self._pagination, self._sequence = record.pagination, record.sequence
        self._wait_ms = self._resend_ms
        return ""

    def hear(self, answer: bytes, publics: list[bytes]) -> str:
        """Take an answer; a line for the log, or "" for one to a record that was answered before.

        Raises:
            SignatureError, CodecError, BoundsError: as `open_answer`; or `record`, it answers other bytes than these.
            JournalError: the folder cannot be written; with `full` it is taken all the same.
        """
        sequence, digest, outcome = open_answer(answer, self._chain_id, self._pile_id, publics)
        if not self._message or sequence < self._sequence:
            return ""
        if digest != sha256(self._message):
            raise SignatureError(f"answer to another OCMF record {sequence} than ours", "record")
        self._message = b""
        self._book.retire(self._pagination)
        if outcome == STORED:
            return f"OCMF record T{self._pagination} stored"
        return f"OCMF record T{self._pagination} is refused for good: {outcome}; it stays in the folder"
