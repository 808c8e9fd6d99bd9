"""A mirror: a coordinator's blocks once more in a folder on another disk, as files to which is only appended.

    mirror.json            what this folder is, and whether its end is the chain's (see `Mirror.is_whole`)
    blocks-000000000001    segments, each named by the height of its first block
      head                 magic, genesis hash, the height and header hash before the first block, CRC-32
      records              length, CRC-32 of the block, CRC-32 of these two; then the block: [header, attestations,
                           transactions, results, leaves]

A block is on the disk when `append` returns. A power cut can tear only the last record, of a block that nobody was told of;
it is cut off when the mirror is opened again. Whatever else is wrong is damage, and said to be.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast
from zlib import crc32

from pile_coordinator.chain.transition import TxResult
from pile_coordinator.engines.engine import Block, StoreError
from pile_coordinator.keeping.files import sync_folder, write_whole
from pile_coordinator.only_one import OnlyOne
from pile_shared.certificate import Certificate
from pile_shared.codec import array, decode, encode
from pile_shared.errors import ConfigError, PilechainError

MARK, LOCK, SEGMENTS = "mirror.json", "mirror.lock", "blocks-"
FORMAT = 1
SEGMENT_BYTES = 64 << 20  # what is deleted at once behind a backup, and looked through at a start
MAX_RECORD_BYTES = 1 << 28  # as of a column of the ledger; a block is bounded far below by what may wait for it
_MAGIC = b"PILEMIR1"
_HEAD = struct.Struct(">8s32sQ32sI")
_RECORD = struct.Struct(">III")


class MirrorError(StoreError):
    """A mirror that is damaged or another chain's; the message says what to do."""

    code = "mirror"


class MirrorAwayError(MirrorError):
    """The mirror's folder cannot be used now."""

    code = "mirror_away"


def begin_mirror(folder: Path, genesis_hash: bytes, height: int, digest: bytes) -> None:
    """Make an empty folder a mirror of the blocks behind that of `height`, whose header has the hash `digest`.

    Raises:
        MirrorAwayError: there is no such folder, or nothing can be written there.
        ConfigError: it holds something.
    """
    try:
        held = sorted(path.name for path in folder.iterdir() if path.name != "lost+found")
        if held:
            raise ConfigError(f"{folder} holds {held[0]}; give a new mirror an empty folder")
        _begin_segment(folder, genesis_hash, height, digest)
        _write_mark(folder, genesis_hash, is_whole=True)
    except OSError as error:
        raise MirrorAwayError(f"{folder}: {error.strerror}; make the folder on the other disk, writable") from error


def _begin_segment(folder: Path, genesis_hash: bytes, height: int, digest: bytes) -> Path:
    body = _HEAD.pack(_MAGIC, genesis_hash, height, digest, 0)[:-4]
    path = folder / f"{SEGMENTS}{height + 1:012d}"
    write_whole(path, body + crc32(body).to_bytes(4, "big"))
    return path


def _write_mark(folder: Path, genesis_hash: bytes, *, is_whole: bool) -> None:
    mark = {"format": FORMAT, "genesis": genesis_hash.hex(), "whole": is_whole}
    write_whole(folder / MARK, (json.dumps(mark) + "\n").encode())


def read_mark(folder: Path, genesis_hash: bytes) -> bool:
    """Whether the mirror in a folder is whole.

    Raises:
        MirrorAwayError: there is none: is the disk mounted? MirrorError: it is another chain's, or of a newer release.
    """
    try:
        mark = json.loads((folder / MARK).read_text())
        kind, genesis, is_whole = mark["format"], bytes.fromhex(mark["genesis"]), mark["whole"] is True
    except OSError as error:
        raise MirrorAwayError(
            f"{folder} holds no mirror ({error.strerror}): is the disk mounted? To begin one there: pilechain mirror begin"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MirrorError(f"{folder / MARK} is damaged: {error!r}") from error
    if kind != FORMAT:
        raise MirrorError(f"{folder} is a mirror of format {kind}, this release knows {FORMAT}: use a newer one")
    if genesis != genesis_hash:
        raise MirrorError(f"{folder} is the mirror of another chain; give this one a folder of its own")
    return is_whole


# --- segments ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of blocks. first: the height of its first one. before: the header hash of the block before that."""

    path: Path
    first: int
    before: bytes


def segments(folder: Path, genesis_hash: bytes) -> list[Segment]:
    """The segments of a mirror, oldest first; MirrorError if there is none or one has another head."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name.startswith(SEGMENTS) and path.suffix == "")
        found = [_read_head(path, genesis_hash) for path in paths]
    except OSError as error:
        raise MirrorAwayError(f"the mirror {folder} cannot be read: {error.strerror}; is the disk mounted?") from error
    if not found:
        raise MirrorError(f"{folder} holds no segments of a mirror; restore them, or begin a mirror in another folder")
    return found


def _read_head(path: Path, genesis_hash: bytes) -> Segment:
    with path.open("rb") as file:
        data = file.read(_HEAD.size)
    if len(data) < _HEAD.size or crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise MirrorError(f"{path} is damaged at its head")
    magic, genesis, height, digest, _ = _HEAD.unpack(data)
    if (magic, genesis, path.name) != (_MAGIC, genesis_hash, f"{SEGMENTS}{height + 1:012d}"):
        raise MirrorError(f"{path} is no segment of this chain's mirror")
    return Segment(path, height + 1, digest)


@dataclass(slots=True)
class Tail:
    """Where the last whole record ends, and whether what comes after it can be anything but the torn last record."""

    end: int = _HEAD.size
    is_sure: bool = True


def _records(file: BinaryIO, path: Path, tail: Tail) -> Iterator[bytes]:
    """The blocks of a segment; what is not whole at its end is told in `tail`. MirrorError for damage before."""
    size = os.fstat(file.fileno()).st_size
    file.seek(tail.end)
    while tail.end < size:
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return
        length, check, head_check = _RECORD.unpack(head)
        if crc32(head[:8]) != head_check or length > MAX_RECORD_BYTES:
            # A record whose first page was not written yet. That a whole one follows cannot be excluded if there is more.
            tail.is_sure = not any(head) and not any(file.read(size))
            return
        end = tail.end + _RECORD.size + length
        payload = file.read(length)
        if len(payload) < length or (crc32(payload) != check and end == size):
            return
        if crc32(payload) != check:
            raise MirrorError(f"{path} is damaged at byte {tail.end}, and goes on behind it")
        tail.end = end
        yield payload


def _encode(block: Block) -> bytes:
    results = [[r.tx_id, r.code, r.message, list(r.details)] for r in block.results]
    certificate = block.certificate
    payload = encode([certificate.header_bytes, certificate.attestations, block.txs, results, block.leaves])
    if len(payload) > MAX_RECORD_BYTES:
        raise MirrorError(f"block {block.header.height} has {len(payload)} bytes, a mirror takes {MAX_RECORD_BYTES}")
    head = struct.pack(">II", len(payload), crc32(payload))
    return head + crc32(head).to_bytes(4, "big") + payload


def _decode(payload: bytes, path: Path) -> Block:
    try:
        header, attestations, txs, results, leaves = array(decode(payload, MAX_RECORD_BYTES), 5)
        found = [TxResult(r[0], r[1], r[2], tuple(r[3])) for r in cast("list[list[object]]", results)]  # type: ignore[arg-type]
        certificate = Certificate(cast("bytes", header), cast("list[list[object]]", attestations))
        block = Block(certificate, cast("list[bytes]", txs), found, cast("list[bytes]", leaves))
        _ = block.header  # decoded here, where the file is known
    except (PilechainError, TypeError, LookupError) as error:
        raise MirrorError(f"{path} holds what is no block: {error}") from error
    return block


class MirrorReader:
    """A mirror that is only read, by a coordinator that comes back or beside one that is at work.

    Attributes:
        first: height of the first block it has or will have. height, digest: of the last block that `blocks` came to.
        end: how its end was found once `blocks` has come there.
    """

    def __init__(self, folder: Path, genesis_hash: bytes) -> None:
        """Open; MirrorError if it cannot be used, MirrorAwayError if it is not there."""
        self.claims_whole = read_mark(folder, genesis_hash)
        self._segments = segments(folder, genesis_hash)
        self.first = self._segments[0].first
        self.height, self.digest = self.first - 1, self._segments[0].before
        self.end = Tail()

    def blocks(self, first: int) -> Iterator[Block]:
        """Blocks from a height on, each following the one before; MirrorError for what is damaged or missing."""
        behind = [segment for segment in self._segments if segment.first <= first]
        if not behind:
            raise MirrorError(f"the mirror begins at block {self.first}, {first} is wanted: use a newer backup")
        self.height, self.digest = behind[-1].first - 1, behind[-1].before
        for segment in self._segments[len(behind) - 1 :]:
            if (segment.first, segment.before) != (self.height + 1, self.digest):
                raise MirrorError(f"the mirror lacks block {self.height + 1}, before {segment.path.name}")
            tail = Tail()
            for block in _blocks_of(segment, segment.before, tail):
                self.height, self.digest = block.header.height, block.header.hash()
                if self.height >= first:
                    yield block
            self.end = tail

    def newest(self) -> Iterator[Block]:
        """The blocks of the last segment alone, which say how far it goes."""
        return self.blocks(self._segments[-1].first)

    @property
    def is_whole(self) -> bool:
        """Once all `blocks` were read: whether no block can have been signed that is not here."""
        return self.claims_whole and self.end.is_sure


def _blocks_of(segment: Segment, digest: bytes, tail: Tail) -> Iterator[Block]:
    height = segment.first
    try:
        with segment.path.open("rb") as file:
            for payload in _records(file, segment.path, tail):
                block = _decode(payload, segment.path)
                if (block.header.height, block.header.previous) != (height, digest):
                    raise MirrorError(f"{segment.path} holds a block {block.header.height} that does not follow")
                yield block
                height, digest = height + 1, block.header.hash()
    except OSError as error:
        raise MirrorAwayError(f"the mirror cannot be read: {segment.path}: {error.strerror}") from error


class Mirror:
    """A mirror to which blocks are appended, by one process.

    Attributes:
        height, digest: of its last block; of the one before its first while it has none. tail: how its end was found.
        claims_whole: as the mark said when it was opened.
    """

    def __init__(self, folder: Path, genesis_hash: bytes) -> None:
        """Open the mirror in a folder, and find the end of its last segment.

        Raises:
            MirrorAwayError: it is not there. MirrorError: damaged, or another chain's. ConfigError: in use.
        """
        self.folder, self._genesis_hash = folder, genesis_hash
        self.claims_whole = read_mark(folder, genesis_hash)
        if not os.access(folder, os.W_OK):
            raise MirrorAwayError(f"the mirror {folder} cannot be written: is the disk mounted read-only?")
        self._only_one = OnlyOne(folder / LOCK)
        try:
            last = segments(folder, genesis_hash)[-1]
            self.height, self.digest, self.tail = last.first - 1, last.before, Tail()
            for block in _blocks_of(last, last.before, self.tail):
                self.height, self.digest = block.header.height, block.header.hash()
            self._file = os.open(last.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self._only_one.close()
            raise MirrorAwayError(f"the mirror {folder} cannot be written: {error.strerror}") from error
        except BaseException:
            self._only_one.close()
            raise
        self._size = self.tail.end
        self._is_cut = False

    def close(self) -> None:
        """Close it."""
        os.close(self._file)
        self._only_one.close()

    def say_whole(self, *, is_whole: bool) -> None:
        """Write down whether blocks are signed only after they are here, and those before are."""
        try:
            _write_mark(self.folder, self._genesis_hash, is_whole=is_whole)
        except OSError as error:
            raise MirrorAwayError(f"the mirror {self.folder} cannot be written: {error.strerror}") from error

    def append(self, block: Block) -> None:
        """Write the next block, durably; MirrorAwayError if that fails: open the mirror again then."""
        header = block.header
        if (header.height, header.previous) != (self.height + 1, self.digest):
            raise MirrorError(f"block {header.height} does not follow block {self.height} of the mirror {self.folder}")
        record = _encode(block)
        try:
            if not self._is_cut:
                os.ftruncate(self._file, self._size)  # what a power cut tore
                self._is_cut = True
            if self._size >= SEGMENT_BYTES:
                self._next_segment()
            written = os.pwrite(self._file, record, self._size)
            os.fdatasync(self._file)
        except OSError as error:
            raise MirrorAwayError(f"the mirror {self.folder} cannot be written: {error.strerror}") from error
        if written < len(record):
            raise MirrorAwayError(f"the mirror {self.folder} is full")
        self._size += len(record)
        self.height, self.digest = header.height, header.hash()

    def _next_segment(self) -> None:
        path = _begin_segment(self.folder, self._genesis_hash, self.height, self.digest)
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.close(self._file)
        self._file, self._size = file, _HEAD.size


def prune(folder: Path, genesis_hash: bytes, height: int) -> list[Path]:
    """Delete the segments that hold blocks up to `height` only, but never the last; what was deleted.

    A coordinator may be appending meanwhile. MirrorError if it is not this chain's mirror.
    """
    read_mark(folder, genesis_hash)
    found = segments(folder, genesis_hash)
    gone = [this.path for this, following in pairwise(found) if following.first <= height + 1]
    try:
        for path in gone:
            path.unlink()
        sync_folder(folder)
    except OSError as error:
        raise MirrorAwayError(f"the mirror {folder} cannot be written: {error.strerror}") from error
    return gone
