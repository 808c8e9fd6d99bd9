"""Power-loss-safe store and forward: what was signed stays on flash until the coordinator's receipt covers it.

On flash:
    <first sequence, 16 hex digits>.j1   segments, oldest first; each a run of records
        record = length u16 | sequence u64 | record bytes | CRC32 of all that u32        (big endian)
    cursor.j1                            retired-through, head (sequence, SHA-256), agent state, CRC32; replaced by
    tmp + rename

Rules:
- `append()` returns after the record is durable, so a proof is published only once its sequence can never be given
  out again.
- A power cut can leave at most one unfinished append, at the end of the newest segment: that tail is cut off.
  Anything else that does not check (an older segment, or a bad record with good ones behind it) was acknowledged
  once: JournalError `corrupt`.
- The newest segment is never deleted, so the newest record, and with it the hash chain's end, is always there.
- Full: proofs are hash-chained, so written ones cannot be thinned; instead fewer are written the fuller it is. A
  RESERVE_DIVISOR-th of the capacity is for begin and end (`keep=True`) alone. Of the others (`keep=False`) only each
  n * n-th is written, n = room / free room of the rest, rounded down: all until half of it is used, each fourth until
  two thirds, each ninth until three quarters, and so on; none when a largest record has no room. So the times between
  readings grow with the time without receipts, and a journal for a day lasts for weeks. Nothing is lost: the energy
  register is cumulative, so the next proof that is written covers the gap. Ask `thinning` before signing.
- A disk that is full before the capacity is used up is a full journal too, and retiring frees room before it needs any.

The same source runs on CPython and MicroPython; what differs is behind a storage object (ports/*_storage.py). One
journal owns its folder.
"""

import binascii
import hashlib
import struct

from pile_shared.errors import BoundsError, JournalError

RECORD_MAX_BYTES = 2048  # the largest proof: a full batch of delta-coded readings, with room
STATE_MAX_BYTES = 512  # one session's state; more would not be read back quickly at boot
RESERVE_DIVISOR = (
    4  # a quarter: on 64 kB some 40 begin/end/alarm proofs of 400 bytes, a week of sessions without a broker
)
SUFFIX = ".j1"  # the 1 is the format version
CURSOR_NAME = "cursor" + SUFFIX

_HEADER = ">HQ"
_HEADER_BYTES = 10
_OVERHEAD_BYTES = 14
_CURSOR = ">BQBQ32sH"  # any retired, retired through, any head, head sequence, head hash, state length
_CURSOR_BYTES = 52
_SEQUENCE_MAX = (1 << 63) - 1


def _encode(sequence: int, record: bytes) -> bytes:
    body = struct.pack(_HEADER, len(record), sequence) + record
    return body + struct.pack(">I", binascii.crc32(body))


def _decode(data: bytes) -> tuple[int, bytes] | None:
    """The record at the start of `data`, or None if there is no whole, valid one."""
    if len(data) < _OVERHEAD_BYTES:
        return None
    length, sequence = struct.unpack(_HEADER, data[:_HEADER_BYTES])
    end = _HEADER_BYTES + length
    if length > RECORD_MAX_BYTES or len(data) < end + 4:
        return None
    if binascii.crc32(data[:end]) != int.from_bytes(data[end : end + 4], "big"):
        return None
    return sequence, data[_HEADER_BYTES:end]


def _read(file, offset: int) -> tuple[int, bytes] | None:  # type: ignore[no-untyped-def] # noqa: ANN001 - file or port reader
    """The record at `offset`, or None if there is no whole, valid one."""
    file.seek(offset)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        return None
    length = struct.unpack(_HEADER, header)[0]
    return _decode(header + file.read(length + 4)) if length <= RECORD_MAX_BYTES else None


def _write_error(error: OSError) -> JournalError:
    """What the journal says of it; receipts make room on a disk that is full (ENOSPC, the same on both interpreters)."""
    return JournalError("journal cannot be written: " + repr(error), "full" if error.errno == 28 else "storage")


class _Segment:
    """One file: its first sequence number and its size in bytes."""

    def __init__(self, first: int, size_bytes: int) -> None:
        self.first = first
        self.size_bytes = size_bytes
        self.name = "{:016x}".format(first) + SUFFIX


class Journal:
    """The records not yet covered by a receipt, the end of the chain, and the agent's saved state."""

    def __init__(self, storage, *, capacity_bytes: int, segment_bytes: int) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Open or create, replay, cut off a torn tail.

        Args:
            storage: A `Storage` of ports/cpython_storage.py or ports/micropython_storage.py.
            capacity_bytes: Bound on all segments together, at least 4 segments. The file system's own blocks and the
                cursor file (<= 0.6 kB, twice while it is replaced) come on top.
            segment_bytes: A segment is closed before it grows past this; at least one largest record (2062).

        Raises:
            BoundsError: The sizes do not fit together.
            JournalError: `corrupt` (file and offset in the message) or `storage` (the file system failed).
        """
        if segment_bytes < RECORD_MAX_BYTES + _OVERHEAD_BYTES or capacity_bytes < 4 * segment_bytes:
            raise BoundsError("journal needs segment_bytes >= 2062 and capacity_bytes >= 4 * segment_bytes")
        self._storage = storage
        self._capacity_bytes = capacity_bytes
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._retired: int | None = None
        self._head: tuple[int, bytes] | None = None
        self._state = b""
        # Where the last pending() stopped: segment, sequence, offset.
        self._resume: tuple[_Segment, int, int] | None = None
        self._usable = True
        try:
            self._load_cursor()
            self._load_segments()
        except OSError as error:
            raise JournalError("journal cannot be read: " + repr(error), "storage")

    @property
    def head(self) -> tuple[int, bytes] | None:
        """Sequence and SHA-256 of the newest record ever appended; None before the first. Survives retiring."""
        return self._head

    @property
    def last_sequence(self) -> int | None:
        """The newest sequence ever appended, None before the first."""
        return None if self._head is None else self._head[0]

    @property
    def retired_through(self) -> int | None:
        """The sequence up to and including which a receipt has come; None or less than the first record before that."""
        return self._retired

    @property
    def state(self) -> bytes:
        """What `save_state` saved last, b"" before the first."""
        return self._state

    @property
    def used_bytes(self) -> int:
        """Size of all segments."""
        return sum([segment.size_bytes for segment in self._segments])

    @property
    def thinning(self) -> int:
        """Of how many `keep=False` records one is to be written now: 1 for all, 0 for none. Ask before signing one."""
        room = self._capacity_bytes - self._capacity_bytes // RESERVE_DIVISOR
        free = room - self.used_bytes
        return 0 if free < RECORD_MAX_BYTES + _OVERHEAD_BYTES else (room // free) ** 2

    def append(self, sequence: int, record: bytes, *, keep: bool = True) -> None:
        """Store one record; it is durable when this returns.

        Args:
            sequence: The first one is free, after that exactly one more than the one before.
            record: 1 to 2048 opaque bytes.
            keep: False for a periodic record, which may not use the reserve.

        Raises:
            BoundsError: Record or sequence out of range.
            JournalError: `sequence` (a gap or a repetition), `full` (the journal or the disk), or `storage`. The record
                is then not stored and the sequence is still free.
        """
        if not 0 < len(record) <= RECORD_MAX_BYTES or not 0 <= sequence <= _SEQUENCE_MAX:
            raise BoundsError("journal records have 1 to 2048 bytes and a sequence below 2^63")
        if self._head is not None and sequence != self._head[0] + 1:
            raise JournalError("sequence {} after {}".format(sequence, self._head[0]), "sequence")
        data = _encode(sequence, record)
        if not self._room_for(len(data), keep=keep):
            raise JournalError("journal is full: {} of {} bytes".format(self.used_bytes, self._capacity_bytes), "full")
        self._write(sequence, data)
        self._head = (sequence, hashlib.sha256(record).digest())

    def pending(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest records not yet retired and newer than `after`, in order.

        Args:
            after: -1 for all; else the last sequence already handed to the link.
            limit: At most so many records are read into memory, each up to 2048 bytes.

        Raises:
            JournalError: `corrupt` or `storage`.
        """
        if self._head is None:
            return []
        sequence = self._segments[0].first if self._segments else self._head[0] + 1
        sequence = max(sequence, after + 1, 0 if self._retired is None else self._retired + 1)
        found: list[tuple[int, bytes]] = []
        try:
            while sequence <= self._head[0] and len(found) < limit:
                sequence = self._read_run(sequence, limit, found)
        except OSError as error:
            raise JournalError("journal cannot be read: " + repr(error), "storage")
        return found

    def last(self) -> tuple[int, bytes] | None:
        """The newest record, also after it was retired; None before the first."""
        if self._head is None or not self._segments:
            return None
        segment = self._segments[-1]
        try:
            with self._storage.open(segment.name) as file:
                offset = 0
                while True:
                    item = _read(file, offset)
                    if item is None:
                        raise JournalError("{} at {}: bad record".format(segment.name, offset), "corrupt")
                    offset += len(item[1]) + _OVERHEAD_BYTES
                    if offset >= segment.size_bytes:
                        return item
        except OSError as error:
            raise JournalError("journal cannot be read: " + repr(error), "storage")

    def retire(self, through_sequence: int) -> None:
        """A coordinator receipt covers every record up to and including `through_sequence`; durable when this returns.

        A receipt for what is already retired changes nothing. Segments with nothing else in them are deleted, except
        the newest.

        Raises:
            JournalError: `sequence` if that was never appended, `full` or `storage`; what could not be done is done
                with the next receipt.
        """
        if self._head is None or through_sequence > self._head[0]:
            raise JournalError("receipt for sequence {} which was never written".format(through_sequence), "sequence")
        if self._retired is None or through_sequence > self._retired:
            self._drop_retired_segments(through_sequence)  # first: the cursor needs a block, and the disk may be full
            self._save(through_sequence, self._state)

    def save_state(self, state: bytes) -> None:
        """Save up to 512 opaque bytes for the agent, all or nothing; durable when this returns.

        Raises:
            BoundsError: Too long.
            JournalError: `full` or `storage`; the state before is then still there.
        """
        if len(state) > STATE_MAX_BYTES:
            raise BoundsError("journal state has at most 512 bytes")
        if state != self._state:
            self._save(self._retired, bytes(state))

    # --- writing

    def _room_for(self, size_bytes: int, *, keep: bool) -> bool:
        reserve = 0 if keep else self._capacity_bytes // RESERVE_DIVISOR
        return self.used_bytes + size_bytes <= self._capacity_bytes - reserve

    def _write(self, sequence: int, data: bytes) -> None:
        """Append to the newest segment, or to a new one when it is full."""
        if not self._usable:
            raise JournalError("journal could not undo a failed write; open it again", "storage")
        current = self._segments[-1] if self._segments else None
        if current is None or current.size_bytes + len(data) > self._segment_bytes:
            current = _Segment(sequence, 0)
        try:
            self._storage.append(current.name, data)
        except OSError as error:
            self._undo(current)
            raise _write_error(error)
        if current.size_bytes == 0:
            self._segments.append(current)
        current.size_bytes += len(data)

    def _undo(self, segment: _Segment) -> None:
        """Take back whatever a failed append left. Unless that works, its sequence must not be given out again here."""
        self._usable = False
        try:
            self._storage.truncate(segment.name, segment.size_bytes)
        except OSError:
            return
        self._usable = True

    def _drop_retired_segments(self, through_sequence: int) -> None:
        while len(self._segments) > 1 and self._segments[1].first - 1 <= through_sequence:
            try:
                self._storage.remove(self._segments[0].name)
            except OSError as error:
                raise JournalError("journal cannot delete: " + repr(error), "storage")
            self._segments.pop(0)

    def _save(self, retired: int | None, state: bytes) -> None:
        head = self._head or (0, bytes(32))
        body = struct.pack(
            _CURSOR, retired is not None, retired or 0, self._head is not None, head[0], head[1], len(state)
        )
        body += state
        try:
            self._storage.replace(CURSOR_NAME, body + struct.pack(">I", binascii.crc32(body)))
        except OSError as error:
            raise _write_error(error)
        self._retired = retired
        self._state = state

    # --- reading

    def _read_run(self, sequence: int, limit: int, found: list[tuple[int, bytes]]) -> int:
        """Read from `sequence` to the end of its segment into `found`, at most `limit`; returns the next sequence.

        Remembers the offset it stopped at: the next call usually goes on there and need not walk the segment again.
        """
        index = len(self._segments) - 1
        while index and self._segments[index].first > sequence:
            index -= 1
        segment = self._segments[index]
        at, offset = segment.first, 0
        if self._resume is not None and self._resume[0] is segment and self._resume[1] <= sequence:
            at, offset = self._resume[1:]
        with self._storage.open(segment.name) as file:
            while offset < segment.size_bytes and len(found) < limit:
                item = _read(file, offset)
                if item is None or item[0] != at:
                    raise JournalError("{} at {}: bad record".format(segment.name, offset), "corrupt")
                offset += len(item[1]) + _OVERHEAD_BYTES
                at += 1
                if item[0] >= sequence:
                    found.append(item)
        self._resume = (segment, at, offset)
        return at

    def _load_cursor(self) -> None:
        names = self._storage.names()
        if CURSOR_NAME not in names:
            return
        with self._storage.open(CURSOR_NAME) as file:
            data = file.read(_CURSOR_BYTES + STATE_MAX_BYTES + 5)
        body = data[:-4]
        if len(data) < _CURSOR_BYTES + 4 or binascii.crc32(body) != int.from_bytes(data[-4:], "big"):
            raise JournalError(CURSOR_NAME + " at 0: bad cursor", "corrupt")
        any_retired, retired, any_head, head, digest, state_bytes = struct.unpack(_CURSOR, body[:_CURSOR_BYTES])
        # No receipt is for a record that was never made: with one, whatever is appended next would count as receipted.
        if state_bytes != len(body) - _CURSOR_BYTES or (any_retired and (not any_head or retired > head)):
            raise JournalError(CURSOR_NAME + " at 0: bad cursor", "corrupt")
        self._retired = retired if any_retired else None
        self._head = (head, digest) if any_head else None
        self._state = body[_CURSOR_BYTES:]

    def _load_segments(self) -> None:
        names = sorted([n for n in self._storage.names() if n.endswith(SUFFIX) and n != CURSOR_NAME])
        try:
            self._segments = [_Segment(int(name[: -len(SUFFIX)], 16), self._storage.size(name)) for name in names]
        except ValueError:
            raise JournalError("a file that is no segment lies among " + ", ".join(names)[:200], "corrupt")
        self._cut_torn_tail()
        # Only now: with its tail cut off the newest segment may be gone, and the one before it is the newest.
        if self._retired is not None:
            self._drop_retired_segments(self._retired)
        if self._segments and self._segments[0].first:  # a receipt whose segments went before its cursor was written
            self._retired = max(self._segments[0].first - 1, -1 if self._retired is None else self._retired)
        saved_head = self._head
        newest, expected = None, None
        for segment in self._segments:
            if expected is not None and segment.first != expected:
                raise JournalError("{} at 0: expected sequence {}".format(segment.name, expected), "corrupt")
            newest, expected, offset = self._walk(segment)
            if offset != segment.size_bytes:
                raise JournalError("{} at {}: bad record".format(segment.name, offset), "corrupt")
        if newest is None or (saved_head is not None and newest[0] < saved_head[0]):
            self._check_lost_stretch()
            return
        self._head = (newest[0], hashlib.sha256(newest[1]).digest())
        if saved_head is not None and newest[0] == saved_head[0] and self._head != saved_head:
            raise JournalError("{} is not the chain that {} saved".format(newest[0], CURSOR_NAME), "corrupt")

    def _walk(self, segment: _Segment) -> tuple[tuple[int, bytes] | None, int, int]:
        """The last good record of a segment, the sequence after it, and the offset where the good records end."""
        last, sequence, offset = None, segment.first, 0
        with self._storage.open(segment.name) as file:
            while offset < segment.size_bytes:
                item = _read(file, offset)
                if item is None or item[0] != sequence:
                    break
                last = item
                sequence += 1
                offset += len(item[1]) + _OVERHEAD_BYTES
        return last, sequence, offset

    def _cut_torn_tail(self) -> None:
        if not self._segments:
            return
        segment = self._segments[-1]
        _last, sequence, offset = self._walk(segment)
        if not self._is_torn(segment, offset, sequence):
            raise JournalError("{} at {}: bad record".format(segment.name, offset), "corrupt")
        # Even a whole record may only be in the cache of a process that was killed before its flush: make it durable
        # before anybody publishes it, whether there is something to cut or not.
        self._storage.truncate(segment.name, offset)
        segment.size_bytes = offset
        if offset == 0:
            self._segments.pop()

    def _is_torn(self, segment: _Segment, offset: int, sequence: int) -> bool:
        """Whether what follows `offset` can be the rest of one interrupted append: short, no good record in it."""
        size_bytes = segment.size_bytes - offset
        if size_bytes > RECORD_MAX_BYTES + _OVERHEAD_BYTES:
            return False
        with self._storage.open(segment.name) as file:
            file.seek(offset)
            tail = file.read(size_bytes)
        for start in range(len(tail) - _OVERHEAD_BYTES):
            # The sequence first: a cheap filter in front of the CRC.
            ahead = int.from_bytes(tail[start + 2 : start + 10], "big") - sequence
            if (start == 0 or 0 <= ahead <= size_bytes) and _decode(tail[start:]) is not None:
                return False
        return True

    def _check_lost_stretch(self) -> None:
        """The cursor may know a newer record than the segments hold: harmless only if all of it was retired."""
        if self._head is not None and (self._retired is None or self._retired < self._head[0]):
            raise JournalError("{} at 0: records up to {} are missing".format(CURSOR_NAME, self._head[0]), "corrupt")
        # What is left is older than the head and retired: a new segment starts after the gap.
        while self._segments:
            self._storage.remove(self._segments.pop().name)
