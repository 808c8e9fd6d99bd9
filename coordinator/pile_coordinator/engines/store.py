"""The ledger store: blocks, and the state they lead to, in one SQLite file.

A block, the records it changed and the height are written in ONE transaction (WAL, synchronous=FULL), so after any crash
the file holds exactly the state after its last block. An engine may keep notes of its own beside them, in the same one.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from pile_coordinator.chain.transition import TxResult
from pile_coordinator.engines.engine import ZERO_HASH, Block, StoreError
from pile_shared.certificate import (
    MAX_HANDOVER_BYTES,
    Certificate,
    Header,
    decode_handover,
    decode_header,
    encode_handover,
    validators_from,
)
from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

__all__ = ["BASE", "MAX_STORED_BYTES", "OPEN_END", "PASSED", "Store", "StoreError"]

SCHEMA_VERSION = 1
HANDOVER = "handover/"  # the notes that hold what is said when a validator set ends, by its hash
SET = "set/"  # the notes that hold the encodings of validator sets that were followed to, by their hash
BASE = "base"  # the note that holds the header of the snapshot that a store began with
OPEN_END = "open_end"  # the note of a restored ledger behind whose last block others may have been signed
PASSED = "passed_over"  # the note that holds the last height that was left unsigned by a restore
MAX_STORED_BYTES = 1 << 28  # one column of one block; a block is bounded far below by what may wait for it

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE block (
  height INTEGER PRIMARY KEY, header BLOB NOT NULL, attestations BLOB NOT NULL,
  txs BLOB NOT NULL, results BLOB NOT NULL, leaves BLOB NOT NULL
);
CREATE TABLE certificate (height INTEGER PRIMARY KEY, attestations BLOB NOT NULL);
CREATE TABLE tx (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class Store:
    """One ledger file. Used by one thread."""

    def __init__(self, path: Path, genesis_hash: bytes, *, read_only: bool = False, is_draft: bool = False) -> None:
        """Open or create the file at `path` for the chain of this genesis; StoreError if it is another chain's.

        With `read_only` nothing is created or written; a coordinator may be running on the file meanwhile. A file that
        `is_draft` is not durable before whoever makes it says so: a power cut spoils it.
        """
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            else:
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)  # one at a time, though
                self._prepare(genesis_hash, "OFF" if is_draft else "FULL")
            found = dict(self._db.execute("SELECT key, value FROM meta ORDER BY key").fetchall())
        except sqlite3.Error as error:
            raise StoreError(f"{path} is not a ledger that can be opened: {error}") from error
        if found.get("schema") != str(SCHEMA_VERSION).encode():
            raise StoreError(f"{path} has another schema version; use the Pilechain release that made it")
        if found.get("genesis") != genesis_hash:
            raise StoreError(f"{path} belongs to another genesis; give this chain a folder of its own")

    def _prepare(self, genesis_hash: bytes, synchronous: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={synchronous}")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._create(genesis_hash)

    def _create(self, genesis_hash: bytes) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.strip().split(";\n"):
            self._db.execute(statement)
        rows = [("schema", str(SCHEMA_VERSION).encode()), ("genesis", genesis_hash)]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def height(self) -> int:
        """Of the last block; 0 if there is none."""
        (height,) = self._db.execute("SELECT max(height) FROM block").fetchone()
        if height is not None:
            return cast("int", height)
        base = self.note(BASE)
        return 0 if base is None else decode_header(base).height

    def first_height(self) -> int:
        """Of the first block that is or will be here: 1, unless the store began with a snapshot and lacks what was before."""
        (height,) = self._db.execute("SELECT min(height) FROM block").fetchone()
        base = self.note(BASE)
        above = 1 if base is None else decode_header(base).height + 1
        return above if height is None else min(above, height)

    def hash_below(self) -> bytes:
        """The hash of the block that is missing below the first one; the first of a chain names 32 zero bytes."""
        row = self._db.execute("SELECT header FROM block WHERE height = ?", (self.first_height(),)).fetchone()
        base = self.note(BASE)
        if base is not None and decode_header(base).height + 1 == self.first_height():
            return sha256(base)  # its own block is the first that is missing
        return ZERO_HASH if row is None else decode_header(row[0]).previous

    def last_header(self) -> bytes | None:
        """The header of the last block, which may be one whose block is not here: the store began with a snapshot of it."""
        row = self._db.execute("SELECT header FROM block ORDER BY height DESC LIMIT 1").fetchone()
        return row[0] if row else self.note(BASE)

    def note(self, name: str) -> bytes | None:
        """What an engine keeps under a name, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (name,)).fetchone()
        return row[0] if row else None

    def notes(self, prefix: str) -> dict[str, bytes]:
        """What an engine keeps under names that begin so, in order of name."""
        rows = self._db.execute(
            "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix)
        )
        return dict(rows.fetchall())

    def keep_note(self, name: str, value: bytes | None) -> None:
        """Keep a note outside any block, durably; with None none any more."""
        with self._transaction(f"the note {name}"):
            self._db.execute("DELETE FROM meta WHERE key = ?", (name,))
            if value is not None:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (name, value))

    def certificate(self, height: int) -> Certificate | None:
        """A block's certificate, without the rest of it; None if there is no block of that height."""
        row = self._db.execute(
            "SELECT header, coalesce(c.attestations, b.attestations)"
            " FROM block b LEFT JOIN certificate c USING (height) WHERE height = ?",
            (height,),
        ).fetchone()
        return Certificate(row[0], cast("list[list[object]]", decode(row[1], MAX_STORED_BYTES))) if row else None

    def state_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The state after the last block; StoreError if the file is damaged."""
        try:
            yield from self._db.execute("SELECT key, value FROM state ORDER BY key")
        except sqlite3.Error as error:
            raise StoreError(f"the stored state cannot be read: {error}") from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """While it lasts, all that this store is asked is of the block of the first answer, though others may be written."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def state_between(self, first: bytes, last: bytes, most: int) -> list[bytes]:
        """The values of the state from one key to another, both included, in order: the last `most` of them."""
        query = "SELECT value FROM state WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT ?"
        try:
            found = self._db.execute(query, (first, last, most)).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the stored state cannot be read: {error}") from error
        return [value for (value,) in reversed(found)]

    def commit(
        self, block: Block | None, changes: list[tuple[bytes, bytes | None]], notes: Mapping[str, bytes] | None = None
    ) -> None:
        """Write a block, the state after it and an engine's notes, durably, or nothing; StoreError if that is impossible."""
        with self._transaction(f"block {block.header.height}" if block else "a note"):
            if block is not None:
                self._insert(block)
            self._db.executemany("DELETE FROM state WHERE key = ?", [(key,) for key, value in changes if value is None])
            rows = [change for change in changes if change[1] is not None]
            self._db.executemany("REPLACE INTO state VALUES (?, ?)", rows)
            self._db.executemany("REPLACE INTO meta VALUES (?, ?)", list((notes or {}).items()))

    def restore(self, header: bytes, rows: list[tuple[bytes, bytes]], notes: Mapping[str, bytes]) -> None:
        """Begin with the state after a block that is not here; what was in the file before is dropped."""
        with self._transaction("a snapshot"):
            for table in ("block", "certificate", "tx", "state"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
            self._db.executemany("INSERT INTO state VALUES (?, ?)", rows)
            self._db.executemany("REPLACE INTO meta VALUES (?, ?)", [*notes.items(), (BASE, header)])

    def prepend(self, blocks: Sequence[tuple[Block, bytes]]) -> None:
        """Write blocks below the first one, downwards, each with the encoding of its set; all of them or nothing.

        What readers of a set that ended among them must hear is kept with them. Nobody checks here what the blocks say, but
        that they are the next ones: StoreError if they are not.
        """
        with self._transaction("older blocks"):
            for block, validators in blocks:
                header = block.header
                if (header.height, header.hash()) != (self.first_height() - 1, self.hash_below()):
                    raise StoreError(f"block {header.height} is not the one below block {self.first_height()}")
                self._insert(block)
                self._keep_set(header.validators_hash, validators)
                self._keep_old_handover(block)

    def _keep_old_handover(self, block: Block) -> None:
        """Of a set that ended; it may have ended again since, and readers need the last time."""
        header = block.header
        following = self.set_of(header.next_validators_hash)  # written before, with the block above
        kept = self.note(HANDOVER + header.validators_hash.hex())
        is_last = kept is None or int.from_bytes(kept[:8], "big") < header.height
        if header.validators_hash != header.next_validators_hash and following is not None and is_last:
            message = encode_handover(block.certificate, validators_from(decode(following, MAX_HANDOVER_BYTES)))
            row = (HANDOVER + header.validators_hash.hex(), header.height.to_bytes(8, "big") + message)
            self._db.execute("REPLACE INTO meta VALUES (?, ?)", row)

    def _keep_set(self, digest: bytes, validators: bytes) -> None:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (SET + digest.hex(), validators))

    def keep_set(self, validators: bytes) -> None:
        """Keep the encoding of a validator set, for `set_of`."""
        with self._transaction("a set of accounting nodes"):
            self._keep_set(sha256(validators), validators)

    def set_of(self, digest: bytes) -> bytes | None:
        """The encoding of the validator set of this hash, if a handover or an older block has led to it."""
        return self.note(SET + digest.hex())

    def row(self, height: int) -> tuple[bytes, bytes, bytes, bytes] | None:
        """A block as it is stored, to be handed on: header, and the encodings of attestations, transactions and leaves."""
        found = self._db.execute(
            "SELECT header, coalesce(c.attestations, b.attestations), txs, leaves"
            " FROM block b LEFT JOIN certificate c USING (height) WHERE height = ?",
            (height,),
        ).fetchone()
        return cast("tuple[bytes, bytes, bytes, bytes] | None", found)

    def certify(self, height: int, attestations: list[list[object]]) -> None:
        """Write down who attests a block, in place of what stood there; not in its row, which would be written again."""
        with self._transaction(f"the certificate of block {height}"):
            self._db.execute("REPLACE INTO certificate VALUES (?, ?)", (height, encode(attestations)))

    @contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except (sqlite3.Error, PilechainError) as error:
            if self._db.in_transaction:  # SQLite has rolled back by itself when the disk is full
                self._db.execute("ROLLBACK")
            raise StoreError(f"{what} could not be written: {error}") from error

    def _insert(self, block: Block) -> None:
        height = block.header.height
        self._db.execute(
            "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)",
            (
                height,
                block.certificate.header_bytes,
                encode(block.certificate.attestations),
                encode(block.txs),
                encode([[r.tx_id, r.code, r.message, list(r.details)] for r in block.results]),
                encode(block.leaves),
            ),
        )
        accepted = [(r.tx_id, height, i) for i, r in enumerate(block.results) if r.code == "ok"]
        self._db.executemany("INSERT INTO tx VALUES (?, ?, ?)", accepted)

    def reader(self) -> sqlite3.Connection:
        """A connection of its own, for any thread, that sees the file as it is now until it is closed."""
        (_, _, path) = self._db.execute("PRAGMA database_list").fetchone()
        uri = f"{Path(path).as_uri()}?mode=ro"
        reader = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM meta").fetchone()  # a read is what fixes what it sees
        return reader

    def block(self, height: int) -> Block:
        """A block; KeyError if there is none of that height."""
        row = self._db.execute(
            "SELECT header, coalesce(c.attestations, b.attestations), txs, results, leaves"
            " FROM block b LEFT JOIN certificate c USING (height) WHERE height = ?",
            (height,),
        ).fetchone()
        if row is None:
            raise KeyError(height)
        attestations, txs, results, leaves = (cast("list[object]", decode(c, MAX_STORED_BYTES)) for c in row[1:])
        return Block(
            Certificate(row[0], cast("list[list[object]]", attestations)),
            cast("list[bytes]", txs),
            [TxResult(r[0], r[1], r[2], tuple(r[3])) for r in cast("list[list[object]]", results)],  # type: ignore[arg-type]
            cast("list[bytes]", leaves),
        )

    def hand_over(self, message: bytes | None, header: Header) -> None:
        """Keep what readers of a validator set must hear after its last block; nothing if `message` is None."""
        if message is not None:
            with self._transaction(f"the handover after block {header.height}"):
                row = (HANDOVER + header.validators_hash.hex(), header.height.to_bytes(8, "big") + message)
                self._db.execute("REPLACE INTO meta VALUES (?, ?)", row)
                _, following = decode_handover(message)
                self._keep_set(header.next_validators_hash, following)

    def handover_from(self, set_hash: bytes) -> bytes | None:
        """What was kept for readers of a set, the last time it ended; None if it has not."""
        kept = self.note(HANDOVER + set_hash.hex())
        return None if kept is None else kept[8:]

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction, or None."""
        row = self._db.execute("SELECT height, position FROM tx WHERE id = ?", (tx_id,)).fetchone()
        return (row[0], row[1]) if row else None
