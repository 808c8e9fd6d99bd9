"""What a journal holds, and whether all of it is as it was written. Reads only.

Opening a journal mends it: a torn tail is cut off, what was retired is deleted. This changes nothing, so it may look at the
only copy, or at one that a running agent is writing. The format is read anew here, from its description in `journal`.
"""

import binascii
import struct
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from pile_edge.agent import PUBLISH_AHEAD
from pile_edge.journal import CURSOR_NAME, RECORD_MAX_BYTES, STATE_MAX_BYTES, SUFFIX
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, EVENT_NAMES, NO_PREVIOUS, Proof, open_proof

_HEAD = struct.Struct(">HQ")
_CURSOR = struct.Struct(">BQBQ32sH")
_CRC_BYTES = 4
_MAX_PROBLEMS = 100  # of a journal that is not one, a list of every byte helps nobody


@dataclass
class Report:
    """What a journal holds.

    Attributes:
        problems: what does not check, in words; none if all is well. notes: what is odd but harmless.
        records: how many proofs are on flash. first, last: their sequences. retired: through which a receipt has come.
        pending: proofs no receipt covers yet. events: proofs by name of event. sessions: begin proofs that have an end.
        from_ms, to_ms: unix time of the first and last reading. energy_wh: what the register advanced between them.
        size_bytes: of all segments.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    segments: int = 0
    size_bytes: int = 0
    records: int = 0
    first: int | None = None
    last: int | None = None
    retired: int | None = None
    pending: int = 0
    events: dict[str, int] = field(default_factory=dict)
    sessions: int = 0
    from_ms: int | None = None
    to_ms: int | None = None
    energy_wh: int = 0

    def problem(self, text: str) -> None:
        """Note one; beyond the hundredth they are not listed."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)


class _Check:
    """One pass over a journal, oldest record first."""

    def __init__(self, folder: Path, public: bytes, chain_id: str) -> None:
        self.report = Report()
        self._folder = folder
        self._public = public
        self._chain_id = chain_id
        self._sequence: int | None = None  # of the record before
        self._hash = NO_PREVIOUS  # of the record before
        self._energy_wh: int | None = None
        self._open: bytes | None = None  # contract of a session that has begun

    def run(self, *, show_progress: bool) -> Report:
        names = sorted(path.name for path in self._folder.iterdir() if path.name.endswith(SUFFIX))
        segments = [name for name in names if name != CURSOR_NAME]
        report = self.report
        report.segments = len(segments)
        steps = track(segments, "checking", disable=not show_progress, console=Console(stderr=True))
        for name in steps:
            self._segment(name, is_newest=name == segments[-1])
        report.last = self._sequence
        if CURSOR_NAME in names:
            self._cursor()
        elif report.records:
            report.notes.append(f"no {CURSOR_NAME}: no receipt has come and no session has begun yet")
        if report.last is not None and report.first is not None:
            report.pending = max(0, report.last - max(report.retired or 0, report.first - 1))
            self._note_waiting()
        return report

    def _note_waiting(self) -> None:
        """More that waits than a pile sends at once is either a broker that is away, or a proof that nobody takes."""
        report = self.report
        if report.last is not None and report.pending > PUBLISH_AHEAD:
            report.notes.append(
                f"no receipt for proof {report.last - report.pending + 1} and what follows: was the broker away, is the pile "
                "registered with this key? The operator sees why by `pilechain wallet piles`"
            )

    # --- records

    def _segment(self, name: str, *, is_newest: bool) -> None:
        data = (self._folder / name).read_bytes()
        self.report.size_bytes += len(data)
        try:
            named = int(name.removesuffix(SUFFIX), 16)
        except ValueError:
            return self.report.problem(f"{name}: not the name of a segment")
        offset = 0
        while offset < len(data):
            item = _record(data, offset)
            if item is None:
                return self._bad_record(name, offset, len(data), is_newest=is_newest)
            sequence, record = item
            where = f"{name} at {offset}"
            if offset == 0 and sequence != named:
                self.report.problem(f"{where}: sequence {sequence} in a segment named for {named}")
            self._record(where, sequence, record)
            offset += _HEAD.size + len(record) + _CRC_BYTES
        return None

    def _bad_record(self, name: str, offset: int, size_bytes: int, *, is_newest: bool) -> None:
        rest = size_bytes - offset
        if is_newest and rest <= RECORD_MAX_BYTES + _HEAD.size + _CRC_BYTES:
            self.report.notes.append(
                f"{name} at {offset}: {rest} bytes of an append that a power cut interrupted, or that is under way; "
                "the next start cuts them off"
            )
        else:
            self.report.problem(f"{name} at {offset}: length or CRC is wrong; {rest} bytes cannot be read")

    def _record(self, where: str, sequence: int, record: bytes) -> None:
        report = self.report
        report.records += 1
        if report.first is None:
            report.first = sequence
        elif self._sequence is None or sequence != self._sequence + 1:
            report.problem(f"{where}: sequence {sequence} after {self._sequence}")
        try:
            proof = open_proof(record, self._public, self._chain_id)
        except PilechainError as error:
            report.problem(
                f"{where}: proof {sequence}: {error.code}: {error}; no coordinator takes it, nor what follows"
            )
        else:
            self._proof(where, sequence, proof)
        self._sequence, self._hash = sequence, sha256(record)

    def _proof(self, where: str, sequence: int, proof: Proof) -> None:
        report = self.report
        if proof.sequence != sequence:
            report.problem(f"{where}: proof {proof.sequence} in the record of {sequence}")
        is_known = self._sequence is not None or sequence == 1
        if is_known and proof.previous != self._hash:
            report.problem(f"{where}: proof {sequence} does not follow the one before: its chain of hashes is broken")
        name = EVENT_NAMES[proof.event]
        report.events[name] = report.events.get(name, 0) + 1
        self._session(where, proof)
        for reading in proof.readings:
            if self._energy_wh is not None and reading.energy_wh < self._energy_wh:
                report.problem(f"{where}: energy falls from {self._energy_wh} to {reading.energy_wh} Wh")
            if report.to_ms is not None and reading.time_ms < report.to_ms:
                report.problem(f"{where}: time runs back by {report.to_ms - reading.time_ms} ms")
            report.energy_wh += reading.energy_wh - (reading.energy_wh if self._energy_wh is None else self._energy_wh)
            self._energy_wh, report.to_ms = reading.energy_wh, reading.time_ms
            report.from_ms = reading.time_ms if report.from_ms is None else report.from_ms

    def _session(self, where: str, proof: Proof) -> None:
        if proof.event == BEGIN:
            if self._open is not None:
                self.report.problem(f"{where}: a session begins before the one of {self._open.hex()[:8]} has ended")
            self._open = proof.contract
        elif proof.event == END:
            if self._open is not None and self._open != proof.contract:
                self.report.problem(f"{where}: the end of another session than that of {self._open.hex()[:8]}")
            self.report.sessions += self._open is not None
            self._open = None

    # --- cursor

    def _cursor(self) -> None:
        data = (self._folder / CURSOR_NAME).read_bytes()
        body, crc = data[:-_CRC_BYTES], int.from_bytes(data[-_CRC_BYTES:], "big")
        report = self.report
        if not _CURSOR.size <= len(body) <= _CURSOR.size + STATE_MAX_BYTES or binascii.crc32(body) != crc:
            return report.problem(f"{CURSOR_NAME}: CRC or length is wrong")
        any_retired, retired, any_head, head, digest, state_bytes = _CURSOR.unpack_from(body)
        if state_bytes != len(body) - _CURSOR.size:
            return report.problem(f"{CURSOR_NAME}: length of the state is wrong")
        report.retired = retired if any_retired else None
        last = self._sequence
        if any_head and (last is None or head > last) and not (any_retired and retired >= head):
            report.problem(f"{CURSOR_NAME}: proofs up to {head} were written, the segments end at {last}")
        elif any_head and head == last and digest != self._hash:
            report.problem(f"{CURSOR_NAME}: proof {head} is not the one that was written")
        if any_retired and report.first is not None and report.first > retired + 1:
            # A receipt removes what it covers before it is itself saved, so a power cut can look like this too.
            gone = f"proofs {retired + 1} to {report.first - 1} are missing, and no receipt covers them"
            report.problem(f"{gone}; has the coordinator got them, power went as their receipt came, and all is well")
        return None


def _record(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """Sequence and content of the record at `offset`, or None if there is no whole, valid one."""
    if len(data) - offset < _HEAD.size + _CRC_BYTES:
        return None
    length, sequence = _HEAD.unpack_from(data, offset)
    end = offset + _HEAD.size + length
    if length > RECORD_MAX_BYTES or len(data) < end + _CRC_BYTES:
        return None
    if binascii.crc32(data[offset:end]) != int.from_bytes(data[end : end + _CRC_BYTES], "big"):
        return None
    return sequence, data[offset + _HEAD.size : end]


def check_journal(folder: Path, public: bytes, chain_id: str, *, show_progress: bool = False) -> Report:
    """Check the journal in a folder against a pile's key (65 bytes) and chain.

    Raises:
        ConfigError: there is no such folder, or no journal in it.
        OSError: a file cannot be read.
    """
    if not folder.is_dir() or not any(path.name.endswith(SUFFIX) for path in folder.iterdir()):
        raise ConfigError(
            f"{folder}: no journal here; give the folder that journal.path names, with its *{SUFFIX} files"
        )
    return _Check(folder, public, chain_id).run(show_progress=show_progress)
