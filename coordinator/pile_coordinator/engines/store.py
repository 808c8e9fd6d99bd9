"""The ledger store of the solo engine: blocks, and the state they lead to, in one SQLite file.

A block, the records it changed and the height are written in ONE transaction (WAL, synchronous=FULL), so after any crash
the file holds exactly the state after its last block.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pile_coordinator.chain.transition import TxResult
from pile_coordinator.engines.engine import Block
from pile_shared.certificate import Certificate
from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError

SCHEMA_VERSION = 1
MAX_STORED_BYTES = 1 << 28  # one column of one block; a block is bounded far below by what may wait for it

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE block (
  height INTEGER PRIMARY KEY, header BLOB NOT NULL, attestations BLOB NOT NULL,
  txs BLOB NOT NULL, results BLOB NOT NULL, leaves BLOB NOT NULL
);
CREATE TABLE tx (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


class StoreError(PilechainError):
    """The ledger store cannot be used; the message says which file and what to do."""

    code = "store"


class Store:
    """One ledger file. Used by one thread."""

    def __init__(self, path: Path, genesis_hash: bytes, *, read_only: bool = False) -> None:
        """Open or create the file at `path` for the chain of this genesis; StoreError if it is another chain's.

        With `read_only` nothing is created or written; a coordinator may be running on the file meanwhile.
        """
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            else:
                self._db = sqlite3.connect(path, isolation_level=None)
                self._prepare(genesis_hash)
            found = dict(self._db.execute("SELECT key, value FROM meta ORDER BY key").fetchall())
        except sqlite3.Error as error:
            raise StoreError(f"{path} is not a ledger that can be opened: {error}") from error
        if found.get("schema") != str(SCHEMA_VERSION).encode():
            raise StoreError(f"{path} has another schema version; use the Pilechain release that made it")
        if found.get("genesis") != genesis_hash:
            raise StoreError(f"{path} belongs to another genesis; give this chain a folder of its own")

    def _prepare(self, genesis_hash: bytes) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
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
        (height,) = self._db.execute("SELECT coalesce(max(height), 0) FROM block").fetchone()
        return cast("int", height)

    def state_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The state after the last block; StoreError if the file is damaged."""
        try:
            yield from self._db.execute("SELECT key, value FROM state ORDER BY key")
        except sqlite3.Error as error:
            raise StoreError(f"the stored state cannot be read: {error}") from error

    def commit(self, block: Block, changes: list[tuple[bytes, bytes | None]]) -> None:
        """Write a block and the state after it, durably, or nothing; StoreError if the file system refuses."""
        header = block.header
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)",
                (
                    header.height,
                    block.certificate.header_bytes,
                    encode(block.certificate.attestations),
                    encode(block.txs),
                    encode([[r.tx_id, r.code, r.message, list(r.details)] for r in block.results]),
                    encode(block.leaves),
                ),
            )
            accepted = [(r.tx_id, header.height, i) for i, r in enumerate(block.results) if r.code == "ok"]
            db.executemany("INSERT INTO tx VALUES (?, ?, ?)", accepted)
            db.executemany("DELETE FROM state WHERE key = ?", [(key,) for key, value in changes if value is None])
            db.executemany("REPLACE INTO state VALUES (?, ?)", [change for change in changes if change[1] is not None])
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:  # SQLite has rolled back by itself when the disk is full
                db.execute("ROLLBACK")
            raise StoreError(f"block {header.height} could not be written: {error}") from error

    def block(self, height: int) -> Block:
        """A block; KeyError if there is none of that height."""
        row = self._db.execute(
            "SELECT header, attestations, txs, results, leaves FROM block WHERE height = ?", (height,)
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

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction, or None."""
        row = self._db.execute("SELECT height, position FROM tx WHERE id = ?", (tx_id,)).fetchone()
        return (row[0], row[1]) if row else None
