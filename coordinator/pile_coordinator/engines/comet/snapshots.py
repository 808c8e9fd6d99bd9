"""Snapshots: the whole state after a block in chunks that are the same bytes on every node, and a state made of them again.

Taken at fixed heights of CometBFT by a second reader of the store, so that no block waits. Nothing about a snapshot is
trusted but CometBFT's app hash: the header in it must hash to that, and the rows must have that header's state root. What a
peer says about single chunks only tells early which of them to fetch again.
"""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.state import State
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.engine import StoreError
from pile_shared.certificate import MAX_HEADER_BYTES, decode_header
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_bytes

FORMAT = 1
CHUNK_BYTES = 4 << 20  # CometBFT takes 16 MB; the last row may run over by a record of 8 kB
MAX_CHUNKS = 512  # 2 GB of rows, some 4 million open orders: more than one process can hold
KEPT = 2  # a late joiner reads one while the next is made
_MAX_ROWS = 1 << 18
_DESCRIPTION = "description"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot. `hash` names it: SHA-256 of `description`, which is CBOR of [header, hash of each chunk]."""

    comet_height: int
    chunks: int
    hash: bytes
    description: bytes


def describe(comet_height: int, description: bytes) -> Snapshot:
    """A snapshot by its description; typed errors for anything else."""
    _, hashes = _parts(description)
    return Snapshot(comet_height, len(hashes), sha256(description), description)


def _parts(description: bytes) -> tuple[bytes, list[bytes]]:
    header, hashes = array(decode(description, MAX_HEADER_BYTES + 64 * MAX_CHUNKS), 2)
    rows = [check_bytes("chunk hash", value, 32, 32) for value in items(hashes, MAX_CHUNKS)]
    return check_bytes("header", header, 1, MAX_HEADER_BYTES), rows


class Snapshots:
    """A folder of snapshots: taken, listed, read, and applied. Used by who holds the ledger's lock."""

    def __init__(self, folder: Path, ledger: CometLedger, interval: int, log: Callable[[str], None]) -> None:
        """Keep them in `folder`; one is taken at every height of CometBFT that `interval` divides, none if it is 0."""
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.part"):
            shutil.rmtree(left)
        self._folder = folder
        self._ledger = ledger
        self._interval = interval
        self._log = log
        self._taking: threading.Thread | None = None
        self._offered: Snapshot | None = None
        self._rows: list[tuple[bytes, bytes]] = []

    # --- taking --------------------------------------------------------------------------------------------------

    def after_commit(self) -> None:
        """Begin to take one if it is time; the thread sees the store as it is now, whatever is committed meanwhile."""
        height = self._ledger.comet_height
        if not self._interval or height % self._interval or not self._ledger.height:
            return
        if self._taking is not None and self._taking.is_alive():
            return  # the last one is not done: this one would be no help to anybody
        reader = self._ledger.store.reader()
        header = self._ledger.store.last_header()
        assert header is not None
        self._taking = threading.Thread(target=self._take, args=(reader, header, height), name="snapshot", daemon=True)
        self._taking.start()

    def _take(self, reader: sqlite3.Connection, header: bytes, height: int) -> None:
        part = self._folder / f"{height}.part"
        try:
            part.mkdir()
            hashes = _write_chunks(part, reader)
            (part / _DESCRIPTION).write_bytes(encode([header, list(hashes)]))
            part.rename(self._folder / str(height))
            for old in self._heights()[:-KEPT]:
                shutil.rmtree(self._folder / str(old))
        except (OSError, sqlite3.Error, StoreError) as error:  # the chain does not need it
            self._log(f"no snapshot at {height}: {error}")
            shutil.rmtree(part, ignore_errors=True)
        finally:
            reader.close()

    def wait(self) -> None:
        """Return once no snapshot is being taken."""
        if self._taking is not None:
            self._taking.join()

    # --- giving --------------------------------------------------------------------------------------------------

    def _heights(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def newest(self) -> int:
        """CometBFT's height of the newest snapshot here; 0 if there is none."""
        return max(self._heights(), default=0)

    @property
    def are_taken(self) -> bool:
        """Whether this node takes any."""
        return self._interval > 0

    def oldest(self) -> int:
        """CometBFT's height of the oldest one here; 0 if there is none."""
        return min(self._heights(), default=0)

    def list(self) -> "list[Snapshot]":
        """What there is, oldest first."""
        found = []
        for height in self._heights():
            try:
                found.append(describe(height, (self._folder / str(height) / _DESCRIPTION).read_bytes()))
            except (OSError, PilechainError):
                continue  # being removed, or damaged: others have it
        return found

    def chunk(self, comet_height: int, number: int) -> bytes:
        """One chunk; empty, which tells CometBFT that there is none, if it is not here."""
        try:
            return (self._folder / str(comet_height) / str(number)).read_bytes()
        except OSError:
            return b""

    # --- taking over ---------------------------------------------------------------------------------------------

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> bool:
        """Whether a snapshot is worth fetching: its header is the one that CometBFT's light client trusts."""
        try:
            header, hashes = _parts(snapshot.description)
        except PilechainError:
            return False
        if snapshot.hash != sha256(snapshot.description) or len(hashes) != snapshot.chunks or not hashes:
            return False
        if sha256(header) != app_hash:
            return False
        self._offered, self._rows = snapshot, []
        return True

    def expects(self, number: int, chunk: bytes) -> bool:
        """Whether these are the bytes that the description has for a chunk."""
        assert self._offered is not None
        _, hashes = _parts(self._offered.description)
        return number < len(hashes) and sha256(chunk) == hashes[number]

    def apply(self, number: int, chunk: bytes) -> bool:
        """Take the next chunk; the last one makes the state. False if this snapshot is not what it says: try another."""
        snapshot = self._offered
        assert snapshot is not None
        try:
            for row in items(decode(chunk, 2 * CHUNK_BYTES), _MAX_ROWS):
                key, value = array(row, 2)
                self._rows.append((check_bytes("key", key, 1, 8192), check_bytes("value", value, 1, 8192)))
            if number + 1 < snapshot.chunks:
                return True
            header, _ = _parts(snapshot.description)
            State.load(self._rows, decode_header(header).state_root)
            self._ledger.restore(header, self._rows, snapshot.comet_height)
        except (PilechainError, BrokenInvariantError) as error:
            self._log(f"the snapshot of {snapshot.comet_height} is refused: {error}")
            self._offered, self._rows = None, []
            return False
        self._offered, self._rows = None, []
        return True


def _write_chunks(folder: Path, reader: sqlite3.Connection) -> list[bytes]:
    """Write the state that `reader` sees, a file for each chunk; their hashes."""
    hashes: list[bytes] = []
    for chunk in chunks_of(reader.execute("SELECT key, value FROM state ORDER BY key")):
        if len(hashes) == MAX_CHUNKS:
            raise StoreError(f"the state has more than {MAX_CHUNKS} chunks of {CHUNK_BYTES} bytes")
        (folder / str(len(hashes))).write_bytes(chunk)
        hashes.append(sha256(chunk))
    return hashes


def chunks_of(rows: "Iterator[tuple[bytes, bytes]] | sqlite3.Cursor") -> Iterator[bytes]:
    """Rows in order of key as chunks: CBOR arrays of [key, value], each ended by the row that fills it."""
    chunk: list[list[bytes]] = []
    size = 0
    for key, value in rows:
        chunk.append([key, value])
        size += len(key) + len(value)
        if size >= CHUNK_BYTES or len(chunk) == _MAX_ROWS:
            yield encode(cast("list[object]", chunk))
            chunk, size = [], 0
    if chunk:
        yield encode(cast("list[object]", chunk))
