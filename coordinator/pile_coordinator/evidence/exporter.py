"""Writes committed blocks into the evidence database: every order, contract, proof and posting, where it came from.

Idempotent by height: a block is written in one transaction that also moves the mark, so a crash at any statement loses
nothing and repeats nothing, and `catch_up` after a restart goes on where the last run stopped. Losing the whole database
loses nothing either: it is rebuilt from the chain, and so is one of another schema.
"""

import sqlite3
import sys
from pathlib import Path
from typing import cast

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from pile_coordinator.chain import election, stake
from pile_coordinator.chain import transactions as tx_types
from pile_coordinator.chain.contracts import piece_name
from pile_coordinator.chain.orders import MAX_PIECES
from pile_coordinator.chain.proofs import ADMITTED, parse_proof
from pile_coordinator.chain.records import Tariff
from pile_coordinator.chain.settlement import contract_escrow_micro, decode_statement, energy_of
from pile_coordinator.chain.tariff import tariff_hash
from pile_coordinator.chain.transactions import Transaction, decode_transaction
from pile_coordinator.chain.transition import OK
from pile_coordinator.engines.engine import Block, Engine
from pile_coordinator.evidence.schema import metadata, views
from pile_shared import terms as wire
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode
from pile_shared.cose import key_id
from pile_shared.platform import sha256
from pile_shared.proof import EVENT_NAMES, REASON_NAMES, proof_hash

VERSION = 5
Where = tuple[int, int]  # (height, position) of a transaction, or (height, leaf) of an event


class Exporter:
    """One evidence database, fed by an engine. Used by the engine's thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the SQLite file at `path`; one of another schema is emptied, for `catch_up` to fill again."""
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")  # it can be rebuilt; the ledger is what must be durable
        if self._schema() != VERSION:
            drop = "".join(
                f"DROP {kind} {name};"
                for kind, name in self.db.execute(
                    "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')"
                )
            )
            dialect = sqlite.dialect()
            tables = [str(CreateTable(t).compile(dialect=dialect)) for t in metadata.sorted_tables]
            indexes = [str(CreateIndex(i).compile(dialect=dialect)) for t in metadata.sorted_tables for i in t.indexes]
            made = ";".join([*tables, *indexes, *(str(view.compile(dialect=dialect)) for view in views)])
            self.db.executescript(
                f"BEGIN;{drop}{made};INSERT INTO mark VALUES (1, 0);PRAGMA user_version = {VERSION};COMMIT;"
            )

    def _schema(self) -> int:
        return cast("int", self.db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    @property
    def height(self) -> int:
        """Of the last block written."""
        return cast("int", self.db.execute("SELECT height FROM mark").fetchone()[0])

    def catch_up(self, engine: Engine, most: int = sys.maxsize) -> None:
        """Write the blocks the engine has and the database lacks, `most` of them; none while the engine lacks the first."""
        first, last = self.height + 1, engine.height
        for height in range(first, min(last, first + most - 1) + 1) if engine.first_height == 1 else ():
            self.write(engine.block(height))

    def write(self, block: Block) -> None:
        """Write one block, the next; one written before is passed over."""
        header = block.header
        if header.height <= self.height:
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(
                "block",
                (header.height, header.time_ms, header.hash(), header.proposer, len(block.txs), len(block.leaves)),
            )
            self._write_transactions(block)
            self._write_events(block)
            if header.next_validators_hash != header.validators_hash:
                self._insert("handover", (header.height,))
            self.db.execute("UPDATE mark SET height = ?", (header.height,))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def _insert(self, table: str, row: tuple[object, ...], *, verb: str = "INSERT") -> None:
        self.db.execute(f"{verb} INTO {table} VALUES ({', '.join('?' * len(row))})", row)

    # --- transactions --------------------------------------------------------------------------------------------

    def _write_transactions(self, block: Block) -> None:
        height = block.header.height
        for position, (data, result) in enumerate(zip(block.txs, block.results, strict=True)):
            if result.code != OK:
                self._insert("tx", (height, position, result.tx_id, "", "", result.code))
                continue
            tx = decode_transaction(data)
            self._insert("tx", (height, position, tx.id, tx.body.TYPE, tx.sender, OK))
            if isinstance(tx.body, tx_types.SubmitProofs):
                self._write_proofs((height, position), tx.body.proofs, result.details)
            else:
                self._write_body((height, position), tx)

    def _write_body(self, at: Where, tx: Transaction) -> None:
        """What this transaction says and no leaf repeats; Unlist and CancelBid say nothing beyond the closing leaf."""
        body = tx.body
        if isinstance(body, tx_types.PlaceBid | tx_types.List):
            self._write_order(at, tx, body)
        elif isinstance(body, tx_types.Sign):
            self._insert("signature", (body.contract, tx.sender, *at))
            self.db.execute("UPDATE contract SET signed_position = ? WHERE id = ?", (at[1], body.contract))
        elif isinstance(body, tx_types.CancelContract):
            self._insert("cancellation", (body.contract, tx.sender, *at))
        elif isinstance(body, tx_types.Confirm):
            self._insert("confirmation", (body.contract, tx.sender, *at), verb="REPLACE")  # saying it again is allowed
        elif isinstance(body, tx_types.Object):
            row = (body.contract, *at, None, tx.sender, body.ground, body.claimed_wh, body.text, None, None, None)
            self._insert("dispute", row)
        elif isinstance(body, tx_types.Answer):
            sql = "UPDATE dispute SET answer_height = ?, answer_position = ? WHERE contract = ?"
            self.db.execute(sql, (*at, body.contract))
        elif isinstance(body, tx_types.Rule):
            self._insert("ruling", (body.contract, *at, tx.sender, body.measured_wh, body.cause))
        elif isinstance(body, tx_types.SetTariff):
            announced = tariff_hash(Tariff("next", body.from_ms, body.utc_offset_minutes, body.periods))
            self._insert("announcement", (*at, announced, body.from_ms, body.utc_offset_minutes))
            for period in body.periods:
                self._insert("tariff_period", (announced, *period), verb="REPLACE")
        else:
            self._write_party(at, tx)
            self._write_payment(at, tx)

    def _write_order(self, at: Where, tx: Transaction, body: tx_types.PlaceBid | tx_types.List) -> None:
        if isinstance(body, tx_types.List):
            kind, price, divisible = "listing", body.ask_micro_per_kwh, False
        else:
            kind = "market bid" if body.market else "limited bid"
            price, divisible = body.limit_micro_per_kwh, body.divisible
        row = (tx.id, *at, tx.sender, kind, body.energy_wh, price, divisible, body.explicit, "open", None)
        self._insert("orders", row)
        for number in range(MAX_PIECES if divisible else 0):
            self._insert("piece", (piece_name(tx.id, number), tx.id, number))

    def _write_party(self, at: Where, tx: Transaction) -> None:
        body = tx.body
        if isinstance(body, tx_types.RegisterParty):
            self._insert("party", (body.id, body.role, body.public, *at))
        elif isinstance(body, tx_types.RotateKey):
            self._insert("key_change", (*at, tx.sender, "rotate", body.public, tx.sender))
        elif isinstance(body, tx_types.RevokeKey):
            self._insert("key_change", (*at, body.party, "revoke", None, tx.sender))
        elif isinstance(body, tx_types.RestoreKey):
            self._insert("key_change", (*at, body.party, "restore", body.public, tx.sender))
        elif isinstance(body, tx_types.RegisterPile):
            row = (key_id(body.public), body.id, body.owner, body.zone, body.rated_power_w, at[0], None)
            self._insert("pile", row)
        elif isinstance(body, tx_types.RetirePile):
            self.db.execute("UPDATE pile SET retired_height = ? WHERE id = ?", (at[0], body.pile))

    def _write_payment(self, at: Where, tx: Transaction) -> None:
        body = tx.body
        ended = "UPDATE withdrawal SET state = ?, ended_height = ?, ended_position = ?, reference = ?, reason = ? WHERE id = ?"
        if isinstance(body, tx_types.Deposit):
            self._insert("deposit", (*at, body.reference, body.party, body.amount_micro))
        elif isinstance(body, tx_types.Withdraw):
            row = (tx.id, *at, tx.sender, body.amount_micro, body.destination, "requested", None, None, None, None)
            self._insert("withdrawal", row)
        elif isinstance(body, tx_types.PayOut):
            self.db.execute(ended, ("paid", *at, body.reference, None, body.withdrawal))
        elif isinstance(body, tx_types.RefuseWithdrawal):
            self.db.execute(ended, ("refused", *at, None, body.reason, body.withdrawal))
        elif isinstance(body, tx_types.CollectFees):
            self._insert("fee_collection", (*at, body.party, body.amount_micro))
        elif isinstance(body, tx_types.RegisterCandidate | tx_types.Delegate):
            candidate = body.candidate if isinstance(body, tx_types.Delegate) else tx.sender
            key = (at[0], "transaction", at[1], 0)
            self._write_stake(key, f"P:{tx.sender}", f"S:{candidate}", body.amount_micro)

    def _write_proofs(self, at: Where, proofs: list[bytes], details: tuple[object, ...]) -> None:
        rows = []
        for item, (message, outcome) in enumerate(zip(proofs, details, strict=True)):
            if outcome != ADMITTED:
                continue
            signed, proof = parse_proof(message)
            first = proof.readings[0] if proof.readings else None
            last = proof.readings[-1] if proof.readings else None
            rows.append(
                (
                    signed.kid,
                    proof.sequence,
                    *at,
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
        height = block.header.height
        for index in range(len(block.txs), len(block.leaves)):
            at, leaf = (height, index), block.leaves[index]
            row = cast("list[object]", decode(leaf, MAX_LEAF_BYTES))
            kind = row[0]
            if kind == wire.LEAF_PROPOSED:
                self._write_match(at, cast("bytes", row[1]), "proposed")
            elif kind == wire.LEAF_CONTRACT:
                self._write_contract(at, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLEARING:
                self._write_clearing(at, row)
            elif kind == wire.LEAF_RECEIPT:
                self._insert("receipt", (row[1], *at, row[2]), verb="REPLACE")
            elif kind == wire.LEAF_SETTLEMENT:
                self._write_settlement(at, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLOSED:
                self._write_closing(at, cast("bytes", row[1]), cast("str", row[2]))
            elif kind == wire.LEAF_TARIFF:
                self._insert("tariff", (*at, sha256(leaf)))
            elif kind == wire.LEAF_DISPUTE:
                self.db.execute(
                    "UPDATE dispute SET leaf = ?, bond_micro = ? WHERE contract = ?", (index, row[5], row[1])
                )
                self.db.execute("UPDATE contract SET state = 'disputed' WHERE id = ?", (row[1],))
            else:
                self._write_node_event(at, row)

    def _write_node_event(self, at: Where, row: list[object]) -> None:
        """What accounting nodes are, did and earned; other leaves say nothing that a table has."""
        if row[0] == election.LEAF_SET:
            self.db.execute(
                "DELETE FROM accounting_node WHERE from_height = ?", (row[1],)
            )  # an edge and a punishment in one
            for party, _, _, power, stake_micro in cast("list[list[object]]", row[2]):
                self._insert("accounting_node", (row[1], party, power, stake_micro, *at))
        elif row[0] == election.LEAF_PUNISHED:
            _, party, reason, offence_height, cost_micro = row
            self._insert("punishment", (*at, party, reason, offence_height, cost_micro))
            self._write_stake((at[0], "leaf", at[1], 0), f"S:{party}", "F", cost_micro)
        elif row[0] == election.LEAF_REWARD:
            for item, (party, amount_micro) in enumerate(cast("list[list[object]]", row[3])):
                self._write_stake((at[0], "leaf", at[1], item), "F", f"P:{party}", amount_micro)
        elif row[0] == stake.LEAF_POSTING:
            _, debit, credit, amount_micro = row
            self._write_stake((at[0], "leaf", at[1], 0), debit, credit, amount_micro)

    def _write_stake(self, key: tuple[int, str, int, int], debit: object, credit: object, amount_micro: object) -> None:
        self._insert("stake_posting", (*key, debit, credit, amount_micro))

    def _write_contract(self, at: Where, data: bytes) -> None:
        """A match that is a contract at once, a proposal that became one, or a contract that a new set certifies again."""
        contract = sha256(data)
        if self.db.execute("SELECT 1 FROM contract WHERE id = ? AND signed_height IS NOT NULL", (contract,)).fetchone():
            self._insert("repeated", (contract, *at), verb="REPLACE")
            return
        if not self.db.execute("SELECT 1 FROM contract WHERE id = ?", (contract,)).fetchone():
            self._write_match(at, data, "signed")
        sql = "UPDATE contract SET state = 'signed', signed_height = ?, signed_leaf = ? WHERE id = ?"
        self.db.execute(sql, (*at, contract))

    def _write_match(self, at: Where, data: bytes, state: str) -> None:
        terms = wire.decode_terms(data)
        piece = self.db.execute("SELECT bid, number FROM piece WHERE name = ?", (terms.order,)).fetchone()
        bid, number = piece or (terms.order, None)
        row = (
            terms.contract_id(),
            *at,
            data,
            bid,
            number,
            terms.listing,
            terms.pile,
            key_id(terms.pile_public),
            terms.zone,
            terms.user,
            terms.owner,
            terms.energy_wh,
            terms.price_micro_per_kwh,
            terms.on_curve,
            terms.catalog_sell_micro_per_kwh,
            terms.catalog_buy_micro_per_kwh,
            terms.window_start_ms,
            terms.window_end_ms,
            terms.fee_micro,
            contract_escrow_micro(terms),
            terms.bond_micro,
            state,
            *(None,) * 6,
        )
        self._insert("contract", row)
        self.db.execute(
            "UPDATE orders SET outcome = 'filled', ended_height = ? WHERE id = ?"
            " AND energy_wh = (SELECT sum(energy_wh) FROM contract WHERE bid = ?)",
            (at[0], bid, bid),
        )

    def _write_clearing(self, at: Where, row: list[object]) -> None:
        _, zone, shape, tariff, open_before_wh, open_after_wh, prices, _ = row
        height, leaf = at
        capacity_wh = cast("list[int]", shape)[0]
        self._insert("clearing", (height, zone, leaf, capacity_wh, tariff, open_before_wh, open_after_wh))
        for catalog, price in cast("list[list[int]]", prices):
            self._insert("price", (zone, height, catalog, price))

    def _write_settlement(self, at: Where, data: bytes) -> None:
        statement = decode_statement(data)
        contract = statement.contract
        number = 1 if statement.verdict is None else 2
        (terms,) = self.db.execute("SELECT terms FROM contract WHERE id = ?", (contract,)).fetchone()
        energy = energy_of(wire.decode_terms(terms), statement.measured_wh)
        parts = (energy.contracted_wh, energy.grid_wh, energy.unpaid_wh)
        basis = statement.verdict.basis if statement.verdict else None
        row = (contract, number, *at, statement.measured_wh, *parts, statement.cause, statement.digest(), basis)
        self._insert("statement", row)
        for item, posting in enumerate(statement.postings):
            self._insert("posting", (contract, number, item, posting.debit, posting.credit, posting.amount_micro))
        self.db.execute("UPDATE contract SET state = 'measured' WHERE id = ?", (contract,))

    def _write_closing(self, at: Where, order: bytes, outcome: str) -> None:
        row = (*at, outcome, order)
        self.db.execute(
            "UPDATE contract SET state = 'closed', closed_height = ?, closed_leaf = ?, outcome = ? WHERE id = ?", row
        )
        self.db.execute("UPDATE orders SET outcome = ?, ended_height = ? WHERE id = ?", (outcome, at[0], order))
