"""Writes committed blocks into the evidence database: every order, contract, proof and posting, where it came from.

Idempotent by height: a block is written in one transaction that also moves the mark, so a crash at any statement loses
nothing and repeats nothing, and `catch_up` after a restart goes on where the last run stopped. Losing the whole database
loses nothing either: it is rebuilt from the chain.
"""

import sqlite3
from pathlib import Path
from typing import cast

from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    Confirm,
    List,
    PlaceBid,
    RegisterPile,
    SubmitProofs,
    Transaction,
    decode_transaction,
)
from pile_coordinator.chain.transition import OK
from pile_coordinator.engines.engine import Block, Engine
from pile_shared import terms as wire
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode
from pile_shared.cose import key_id
from pile_shared.proof import EVENT_NAMES, REASON_NAMES, proof_hash

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE mark (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), schema INTEGER NOT NULL, height INTEGER NOT NULL);
CREATE TABLE block (height INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, hash BLOB NOT NULL, proposer TEXT NOT NULL,
  txs INTEGER NOT NULL, results INTEGER NOT NULL);
CREATE TABLE tx (height INTEGER NOT NULL, position INTEGER NOT NULL, id BLOB NOT NULL, type TEXT NOT NULL,
  sender TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL, PRIMARY KEY (height, position)) WITHOUT ROWID;
CREATE INDEX tx_id ON tx (id);
CREATE TABLE orders (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL, party TEXT NOT NULL,
  kind TEXT NOT NULL, energy_wh INTEGER NOT NULL, price_micro_per_kwh INTEGER NOT NULL, outcome TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX orders_party ON orders (party, height);
CREATE TABLE contract (id BLOB PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL, bid BLOB NOT NULL,
  listing BLOB NOT NULL, pile TEXT NOT NULL, zone TEXT NOT NULL, user TEXT NOT NULL, owner TEXT NOT NULL,
  energy_wh INTEGER NOT NULL, price_micro_per_kwh INTEGER NOT NULL, window_start_ms INTEGER NOT NULL,
  window_end_ms INTEGER NOT NULL, clearing_leaf INTEGER NOT NULL, settled_height INTEGER, settled_leaf INTEGER,
  measured_wh INTEGER, cause TEXT, digest BLOB, closed_height INTEGER, closed_leaf INTEGER, outcome TEXT) WITHOUT ROWID;
CREATE INDEX contract_bid ON contract (bid);
CREATE INDEX contract_pile ON contract (pile, window_start_ms);
CREATE INDEX contract_user ON contract (user, height);
CREATE INDEX contract_owner ON contract (owner, height);
CREATE TABLE proof (kid BLOB NOT NULL, sequence INTEGER NOT NULL, height INTEGER NOT NULL, position INTEGER NOT NULL,
  item INTEGER NOT NULL, hash BLOB NOT NULL, contract BLOB, event TEXT NOT NULL, reason TEXT NOT NULL,
  first_time_ms INTEGER, last_time_ms INTEGER, last_energy_wh INTEGER, bytes BLOB NOT NULL,
  PRIMARY KEY (kid, sequence)) WITHOUT ROWID;
CREATE INDEX proof_contract ON proof (contract, sequence);
CREATE TABLE pile (kid BLOB PRIMARY KEY, id TEXT NOT NULL, owner TEXT NOT NULL, zone TEXT NOT NULL,
  height INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE receipt (pile TEXT PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL,
  through_sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE confirmation (contract BLOB NOT NULL, party TEXT NOT NULL, height INTEGER NOT NULL,
  position INTEGER NOT NULL, PRIMARY KEY (contract, party)) WITHOUT ROWID;
CREATE TABLE posting (contract BLOB NOT NULL, item INTEGER NOT NULL, height INTEGER NOT NULL, debit TEXT NOT NULL,
  credit TEXT NOT NULL, amount_micro INTEGER NOT NULL, PRIMARY KEY (contract, item)) WITHOUT ROWID;
CREATE TABLE price (zone TEXT NOT NULL, height INTEGER NOT NULL, time_ms INTEGER NOT NULL, open_wh INTEGER NOT NULL,
  price_micro_per_kwh INTEGER NOT NULL, PRIMARY KEY (zone, height)) WITHOUT ROWID;
"""


class Exporter:
    """One evidence database, fed by an engine. Used by the engine's thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the SQLite file at `path`."""
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")  # it can be rebuilt; the ledger is what must be durable
        if not self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'mark'").fetchone():
            self.db.executescript(f"BEGIN;{_SCHEMA}INSERT INTO mark VALUES (1, {SCHEMA_VERSION}, 0);COMMIT;")  # noqa: S608 - constants

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @property
    def height(self) -> int:
        """Of the last block written."""
        return cast("int", self.db.execute("SELECT height FROM mark").fetchone()[0])

    def catch_up(self, engine: Engine) -> None:
        """Write every block the engine has and the database lacks."""
        for height in range(self.height + 1, engine.height + 1):
            self.write(engine.block(height))

    def write(self, block: Block) -> None:
        """Write one block, if it is the next; one written before is passed over."""
        header = block.header
        if header.height <= self.height:
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self.db.execute(
                "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)",
                (header.height, header.time_ms, header.hash(), header.proposer, len(block.txs), len(block.leaves)),
            )
            self._write_transactions(block)
            self._write_events(block)
            self.db.execute("UPDATE mark SET height = ?", (header.height,))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # --- transactions --------------------------------------------------------------------------------------------

    def _write_transactions(self, block: Block) -> None:
        height = block.header.height
        for position, (data, result) in enumerate(zip(block.txs, block.results, strict=True)):
            if result.code != OK:
                row = (height, position, result.tx_id, "", "", result.code, result.message)
                self.db.execute("INSERT INTO tx VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                continue
            tx = decode_transaction(data)
            row = (height, position, tx.id, tx.body.TYPE, tx.sender, OK, "")
            self.db.execute("INSERT INTO tx VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            self._write_body(height, position, tx, result.details)

    def _write_body(self, height: int, position: int, tx: Transaction, details: tuple[object, ...]) -> None:
        body = tx.body
        if isinstance(body, SubmitProofs):
            self._write_proofs(height, position, body.proofs, details)
        elif isinstance(body, PlaceBid):
            kind = "market bid" if body.market else "limited bid"
            row = (tx.id, height, position, tx.sender, kind, body.energy_wh, body.limit_micro_per_kwh, "open")
            self.db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        elif isinstance(body, List):
            row = (tx.id, height, position, tx.sender, "listing", body.energy_wh, body.ask_micro_per_kwh, "open")
            self.db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        elif isinstance(body, RegisterPile):
            row_pile = (key_id(body.public), body.id, body.owner, body.zone, height)
            self.db.execute("INSERT INTO pile VALUES (?, ?, ?, ?, ?)", row_pile)
        elif isinstance(body, Confirm):
            row_confirm = (body.contract, tx.sender, height, position)
            self.db.execute("REPLACE INTO confirmation VALUES (?, ?, ?, ?)", row_confirm)

    def _write_proofs(self, height: int, position: int, proofs: list[bytes], details: tuple[object, ...]) -> None:
        rows = []
        for item, (message, outcome) in enumerate(zip(proofs, details, strict=True)):
            if outcome != "admitted":
                continue
            signed, proof = parse_proof(message)
            first = proof.readings[0] if proof.readings else None
            last = proof.readings[-1] if proof.readings else None
            rows.append(
                (
                    signed.kid,
                    proof.sequence,
                    height,
                    position,
                    item,
                    proof_hash(message),
                    proof.contract,
                    EVENT_NAMES[proof.event],
                    REASON_NAMES[proof.reason],
                    first.time_ms if first else None,
                    last.time_ms if last else None,
                    last.energy_wh if last else None,
                    message,
                )
            )
        self.db.executemany("INSERT INTO proof VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    # --- events --------------------------------------------------------------------------------------------------

    def _write_events(self, block: Block) -> None:
        height, time_ms = block.header.height, block.header.time_ms
        for index in range(len(block.txs), len(block.leaves)):
            row = cast("list[object]", decode(block.leaves[index], MAX_LEAF_BYTES))
            kind = row[0]
            if kind == wire.LEAF_CONTRACT:
                self._write_contract(height, index, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLEARING:
                self._write_clearing(height, index, time_ms, row)
            elif kind == wire.LEAF_RECEIPT:
                self.db.execute("REPLACE INTO receipt VALUES (?, ?, ?, ?)", (row[1], height, index, row[2]))
            elif kind == wire.LEAF_SETTLEMENT:
                self._write_settlement(height, index, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLOSED:
                self._write_closing(height, index, cast("bytes", row[1]), cast("str", row[2]))

    def _write_contract(self, height: int, index: int, data: bytes) -> None:
        terms = wire.decode_terms(data)
        self.db.execute(
            "INSERT INTO contract (id, height, leaf, bid, listing, pile, zone, user, owner, energy_wh,"
            " price_micro_per_kwh, window_start_ms, window_end_ms, clearing_leaf)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, -1)",
            (
                terms.contract_id(),
                height,
                index,
                terms.order,
                terms.listing,
                terms.pile,
                terms.zone,
                terms.user,
                terms.owner,
                terms.energy_wh,
                terms.price_micro_per_kwh,
                terms.window_start_ms,
                terms.window_end_ms,
            ),
        )
        self.db.execute("UPDATE orders SET outcome = 'matched' WHERE id = ?", (terms.order,))

    def _write_clearing(self, height: int, index: int, time_ms: int, row: list[object]) -> None:
        _, zone, _, _, open_after_wh, price, fills = row
        ids = [(index, fill[0]) for fill in cast("list[list[object]]", fills)]
        self.db.executemany("UPDATE contract SET clearing_leaf = ? WHERE id = ?", ids)
        self.db.execute("REPLACE INTO price VALUES (?, ?, ?, ?, ?)", (zone, height, time_ms, open_after_wh, price))

    def _write_settlement(self, height: int, index: int, data: bytes) -> None:
        statement = decode_statement(data)
        self.db.execute(
            "UPDATE contract SET settled_height = ?, settled_leaf = ?, measured_wh = ?, cause = ?, digest = ? WHERE id = ?",
            (height, index, statement.measured_wh, statement.cause, statement.digest(), statement.contract),
        )
        rows = [
            (statement.contract, item, height, posting.debit, posting.credit, posting.amount_micro)
            for item, posting in enumerate(statement.postings)
        ]
        self.db.executemany("INSERT INTO posting VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _write_closing(self, height: int, index: int, order: bytes, outcome: str) -> None:
        row = (height, index, outcome, order)
        self.db.execute("UPDATE contract SET closed_height = ?, closed_leaf = ?, outcome = ? WHERE id = ?", row)
        self.db.execute("UPDATE orders SET outcome = ? WHERE id = ?", (outcome, order))
        self.db.execute(
            "UPDATE orders SET outcome = ? WHERE id = (SELECT bid FROM contract WHERE id = ?)", (outcome, order)
        )
