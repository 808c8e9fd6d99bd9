"""Writes committed blocks into the evidence database: every order, contract, proof and posting, where it came from.

Idempotent by height: a block is written in one transaction that also moves the mark, so a crash at any statement, of
this process or of the database's server, loses nothing and repeats nothing, and `catch_up` goes on where the last run
stopped. Losing the whole database loses nothing either: it is rebuilt from the chain.
"""

import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

import sqlalchemy as sa

from pile_coordinator.chain import accounts, election, notes, stake
from pile_coordinator.chain import transactions as tx_types
from pile_coordinator.chain.contracts import piece_name
from pile_coordinator.chain.orders import MAX_PIECES
from pile_coordinator.chain.proofs import ADMITTED, parse_proof
from pile_coordinator.chain.records import Tariff
from pile_coordinator.chain.settlement import GRID, contract_escrow_micro, decode_statement, energy_of
from pile_coordinator.chain.tariff import tariff_hash
from pile_coordinator.chain.transactions import Transaction, decode_transaction
from pile_coordinator.chain.transition import OK
from pile_coordinator.engines.engine import Block
from pile_coordinator.evidence import schema, tallies
from pile_coordinator.evidence.batch import Batch
from pile_coordinator.evidence.database import EvidenceAwayError, EvidenceError, make, open_database, prepare
from pile_coordinator.evidence.tallies import terms_of
from pile_coordinator.evidence.writer import Writer, make_writer
from pile_shared import terms as wire
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode
from pile_shared.cose import key_id
from pile_shared.platform import sha256
from pile_shared.proof import EVENT_NAMES, REASON_NAMES, proof_hash

_statement_of = lru_cache(4096)(decode_statement)  # looked at twice, in one block

Where = tuple[int, int]  # (height, position) of a transaction, or (height, leaf) of an event
Leaf = list[object]

RETRY_S = 1.0  # after a server went away; twice as long after each try that failed
MAX_RETRY_S = 30.0
ASKED_AT_ONCE = 500  # keys in one question
GROUP = 16  # blocks written in one transaction while catching up: a server waits for its disk once for all


class Blocks(Protocol):
    """Where certified blocks come from: an engine, or a ledger file."""

    @property
    def height(self) -> int:
        """Of the last one."""
        ...

    @property
    def first_height(self) -> int:
        """Of the oldest one kept."""
        ...

    def block(self, height: int) -> Block:
        """The one at a height."""
        ...


class Exporter:
    """One evidence database, fed by an engine. Used by the engine's thread.

    Attributes:
        db: for questions about what is written. Its statements raise EvidenceAwayError while a server is away.
        is_away: whether the database's server did not answer the last time.
    """

    def __init__(self, where: Path | str) -> None:
        """Open or create the database: a SQLite file, or a URL (database.py). A server may be away; `attend` tries again.

        Raises:
            EvidenceError: the database is of a newer program, or somebody else's.
            ConfigError: the URL cannot be used.
        """
        self._engine = open_database(where, self._lose)
        self._writer = make_writer(self._engine.dialect)
        self._height = 0
        self._connection: sa.Connection | None = None
        self._retry_s = RETRY_S
        self._try_at_s = 0.0
        self.is_away = True
        sa.event.listen(self._engine, "before_execute", self._refuse_while_away)
        self.attend()

    @property
    def db(self) -> sa.Connection:
        """See the class. EvidenceAwayError if the server has been away from the start."""
        if self._connection is None:
            raise EvidenceAwayError("the evidence database has not answered yet")
        return self._connection

    def close(self) -> None:
        """Close the database."""
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    @property
    def height(self) -> int:
        """Of the last block known to be written; 0 while the server has been away from the start."""
        return self._height

    def attend(self) -> bool:
        """Look for a server that was away, if it is time to; whether the database is there."""
        if not self.is_away:
            return True
        if time.monotonic() < self._try_at_s:
            return False
        self.is_away = False  # so that statements are let through
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            elif not self._connection.invalidated:
                self._connection.invalidate()  # half of a block may wait in it
            self._connection.rollback()
            prepare(self._connection)
            self._height = self._mark()
        except EvidenceAwayError:
            self._lose()
            return False
        self._retry_s = RETRY_S
        return True

    def _mark(self) -> int:
        return cast("int", self.db.execute(sa.select(schema.mark.c.height)).scalar_one())

    def _lose(self) -> None:
        """The server is away, as a statement of anybody on this database found out."""
        if self.is_away:
            return
        self.is_away = True
        self._try_at_s = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    def _refuse_while_away(self, *_: object) -> None:
        if self.is_away:
            raise EvidenceAwayError("the evidence database does not answer; it is tried again every few seconds")

    def empty(self) -> None:
        """Forget everything, to be written again from the chain."""
        make(self.db)
        self._height = 0

    # --- blocks --------------------------------------------------------------------------------------------------

    def catch_up(self, engine: Blocks, most: int = sys.maxsize) -> None:
        """Write the blocks the engine has and the database lacks, `most` of them; none while the engine lacks the first.

        Raises:
            EvidenceAwayError: the server is away. EvidenceError: what is written is of another chain.
        """
        self.check_chain(engine)
        first, last = self._height + 1, engine.height
        if engine.first_height != 1:
            return
        last = min(last, first + most - 1)
        for start in range(first, last + 1, GROUP):
            self.write(*(engine.block(height) for height in range(start, min(last, start + GROUP - 1) + 1)))

    def check_chain(self, engine: Blocks) -> None:
        """EvidenceError if the last block written is none of this engine's: a URL names another network's database."""
        if self.is_away or self._height == 0 or engine.first_height > min(self._height, engine.height):
            return
        height = min(self._height, engine.height)
        found = self.db.execute(sa.select(schema.block.c.hash).where(schema.block.c.height == height)).scalar()
        if height and found != engine.block(height).header.hash():
            raise EvidenceError(
                f"block {height} of the evidence database is of another chain: give this chain its own database, or have it"
                " filled again with `pilechain evidence rebuild`"
            )

    def write(self, *blocks: Block) -> None:
        """Write the next blocks, all or none of them; what was written before is passed over.

        Raises:
            EvidenceAwayError: the server is away; `attend` says when it is back, and `height` how far it came.
        """
        wanted = [block for block in blocks if block.header.height > self._height]
        if not wanted:
            return
        self._refuse_while_away()
        db = self.db
        try:
            db.exec_driver_sql("BEGIN" if db.dialect.name != "sqlite" else "BEGIN IMMEDIATE")
            for block in wanted:
                _Page(db, self._writer, block).write()
            db.exec_driver_sql("COMMIT")
        except EvidenceAwayError:  # whether the last commit was done is seen in the mark when it is back
            self._lose()
            raise
        except BaseException:
            if db.invalidated:  # an interrupt closed it, which rolled back
                db.rollback()
            else:
                db.exec_driver_sql("ROLLBACK")
            raise
        self._height = wanted[-1].header.height


class _Page:
    """One block on its way into the database."""

    def __init__(self, db: sa.Connection, writer: Writer, block: Block) -> None:
        self._db, self._writer, self._block = db, writer, block
        self._batch = Batch()
        leaves = block.leaves[len(block.txs) :]
        self._events = [cast("Leaf", decode(leaf, MAX_LEAF_BYTES)) for leaf in leaves]
        self._terms = {
            cast("bytes", row[1]): terms_of(cast("bytes", row[1]))
            for row in self._events
            if row[0] in {wire.LEAF_PROPOSED, wire.LEAF_CONTRACT}
        }
        self._pieces: dict[bytes, tuple[bytes, int]] = {}
        self._declared: list[Transaction] = []  # piles and listings, in order
        self._contracts: dict[bytes, tuple[object, bytes]] = {}  # (signed_height, terms) of those that stood before

    def write(self) -> None:
        """Everything of the block, and the mark, within the caller's transaction."""
        header, block, batch = self._block.header, self._block, self._batch
        at = header.height, header.time_ms, header.hash(), header.proposer
        batch.add(schema.block, *at, len(block.txs), len(block.leaves))
        self._look_up()
        self._write_transactions()
        self._write_events()
        if header.next_validators_hash != header.validators_hash:
            batch.add(schema.handover, header.height)
        batch.add_to(self._db, self._writer)
        self._fill(header.height)
        batch.change_in(self._db, self._writer)
        tallies.write(self._db, self._writer, block, self._declared, self._events)
        moved = self._db.execute(
            schema.mark.update().where(schema.mark.c.height == header.height - 1).values(height=header.height)
        )
        if moved.rowcount != 1:
            raise EvidenceError(
                f"the evidence is not at block {header.height - 1}: does another coordinator write it too?"
            )

    def _look_up(self) -> None:
        """What stands in the database of the contracts and pieces that this block's events name."""
        named: set[bytes] = {sha256(data) for data in self._terms}
        for row in self._events:
            if row[0] == wire.LEAF_SETTLEMENT:
                named.add(_statement_of(cast("bytes", row[1])).contract)
            elif row[0] == wire.LEAF_CLOSED:
                named.add(cast("bytes", row[1]))
        c, p = schema.contract.c, schema.piece.c
        for some in _shared_out(named):
            found = self._db.execute(sa.select(c.id, c.signed_height, c.terms).where(c.id.in_(some)))
            self._contracts.update({key: (signed, terms) for key, signed, terms in found})
        for some in _shared_out({terms.order for terms in self._terms.values()}):
            found = self._db.execute(sa.select(p.name, p.bid, p.number).where(p.name.in_(some)))
            self._pieces.update({name: (bid, number) for name, bid, number in found})

    def _fill(self, height: int) -> None:
        """Bids whose contracts of this block make up their energy are filled."""
        o, c = schema.orders.c, schema.contract.c
        matched = sa.select(sa.func.sum(c.energy_wh)).where(c.bid == o.id).scalar_subquery()
        for some in _shared_out(set(cast("list[bytes]", self._batch.column(schema.contract, "bid")))):
            filled = schema.orders.update().where(o.id.in_(some), o.energy_wh == matched)
            self._db.execute(filled.values(outcome="filled", ended_height=height))

    # --- transactions --------------------------------------------------------------------------------------------

    def _write_transactions(self) -> None:
        block, height = self._block, self._block.header.height
        for position, (data, result) in enumerate(zip(block.txs, block.results, strict=True)):
            if result.code != OK:
                self._batch.add(schema.tx, height, position, result.tx_id, "", "", result.code)
                continue
            tx = decode_transaction(data)
            self._batch.add(schema.tx, height, position, tx.id, tx.body.TYPE, tx.sender, OK)
            if isinstance(tx.body, tx_types.SubmitProofs):
                self._write_proofs((height, position), tx.body.proofs, result.details)
            else:
                self._write_body((height, position), tx)

    def _write_body(self, at: Where, tx: Transaction) -> None:
        """What this transaction says and no leaf repeats; Unlist and CancelBid say nothing beyond the closing leaf."""
        body = tx.body
        if isinstance(body, tx_types.RegisterPile | tx_types.List):
            self._declared.append(tx)
        if isinstance(body, tx_types.PlaceBid | tx_types.List):
            self._write_order(at, tx, body)
        elif isinstance(body, tx_types.Sign):
            self._batch.add(schema.signature, body.contract, tx.sender, *at)
            self._batch.change(schema.contract, body.contract, signed_position=at[1])
        elif isinstance(body, tx_types.CancelContract):
            self._batch.add(schema.cancellation, body.contract, tx.sender, *at)
        elif isinstance(body, tx_types.Confirm):
            self._batch.add(schema.confirmation, body.contract, tx.sender, *at)  # saying it again is allowed
        elif isinstance(body, tx_types.Object):
            row = (body.contract, *at, None, tx.sender, body.ground, body.claimed_wh, body.text, None, None, None)
            self._batch.add(schema.dispute, *row)
        elif isinstance(body, tx_types.Answer):
            self._batch.change(schema.dispute, body.contract, answer_height=at[0], answer_position=at[1])
        elif isinstance(body, tx_types.Rule):
            self._batch.add(schema.ruling, body.contract, *at, tx.sender, body.measured_wh, body.cause)
        elif isinstance(body, tx_types.SetTariff):
            announced = tariff_hash(Tariff("next", body.from_ms, body.utc_offset_minutes, body.periods))
            self._batch.add(schema.announcement, *at, announced, body.from_ms, body.utc_offset_minutes)
            for period in body.periods:
                self._batch.add(schema.tariff_period, announced, *period)
        elif isinstance(body, tx_types.Spend | tx_types.BuyNotes):
            self._write_notes(at, tx, body)
        else:
            self._write_party(at, tx)
            self._write_payment(at, tx)

    def _write_order(self, at: Where, tx: Transaction, body: tx_types.PlaceBid | tx_types.List) -> None:
        zone = expires_ms = None
        if isinstance(body, tx_types.List):
            kind, price, divisible = "listing", body.ask_micro_per_kwh, False
        else:
            kind = "market bid" if body.market else "limited bid"
            price, divisible, zone = body.limit_micro_per_kwh, body.divisible, body.zone
            expires_ms = None if body.market else body.expires_ms
        where = (zone, body.pile or None, body.window_start_ms, body.window_end_ms, expires_ms)
        row = (tx.id, *at, tx.sender, kind, body.energy_wh, price, divisible, body.explicit, *where, "open", None)
        self._batch.add(schema.orders, *row)
        for number in range(MAX_PIECES if divisible else 0):
            name = piece_name(tx.id, number)
            self._batch.add(schema.piece, name, tx.id, number)
            self._pieces[name] = tx.id, number

    def _write_notes(self, at: Where, tx: Transaction, body: tx_types.Spend | tx_types.BuyNotes) -> None:
        """Notes that were bought; or that were spent, who came to be by it, and for what."""
        if isinstance(body, tx_types.BuyNotes):
            for denomination, count in enumerate(body.counts):
                if count:
                    self._batch.add(schema.note_purchase, *at, denomination, count)
            return
        gone = at[0] if isinstance(body, tx_types.RedeemNotes) else None
        self._batch.add(schema.pseudonym, tx.sender, body.public, *at, tx.id, gone)
        for item, (name, image) in enumerate(body.notes):
            self._batch.add(schema.note_spend, tx.id, item, *_bin_of(name), image, *at)
        if isinstance(body, tx_types.AnonymousBid):
            self._write_order(at, tx, body.as_bid())

    def _write_party(self, at: Where, tx: Transaction) -> None:
        body = tx.body
        if isinstance(body, tx_types.RegisterParty):
            self._batch.add(schema.party, body.id, body.role, body.public, *at)
        elif isinstance(body, tx_types.RotateKey):
            self._batch.add(schema.key_change, *at, tx.sender, "rotate", body.public, tx.sender)
        elif isinstance(body, tx_types.RevokeKey):
            self._batch.add(schema.key_change, *at, body.party, "revoke", None, tx.sender)
        elif isinstance(body, tx_types.RestoreKey):
            self._batch.add(schema.key_change, *at, body.party, "restore", body.public, tx.sender)
        elif isinstance(body, tx_types.RegisterPile):
            row = (key_id(body.public), body.id, body.owner, body.zone, body.rated_power_w, at[0], None)
            self._batch.add(schema.pile, *row)
        elif isinstance(body, tx_types.RetirePile):
            self._batch.change(schema.pile, body.pile, retired_height=at[0])

    def _write_payment(self, at: Where, tx: Transaction) -> None:
        body = tx.body
        ended = {"ended_height": at[0], "ended_position": at[1]}
        if isinstance(body, tx_types.Deposit):
            self._batch.add(schema.deposit, *at, body.reference, body.party, body.amount_micro)
        elif isinstance(body, tx_types.Withdraw):
            row = (tx.id, *at, tx.sender, body.amount_micro, body.destination, "requested", None, None, None, None)
            self._batch.add(schema.withdrawal, *row)
        elif isinstance(body, tx_types.PayOut):
            self._batch.change(schema.withdrawal, body.withdrawal, state="paid", reference=body.reference, **ended)
        elif isinstance(body, tx_types.RefuseWithdrawal):
            self._batch.change(schema.withdrawal, body.withdrawal, state="refused", reason=body.reason, **ended)
        elif isinstance(body, tx_types.CollectFees):
            self._batch.add(schema.fee_collection, *at, body.party, body.amount_micro)
        elif isinstance(body, tx_types.RegisterCandidate | tx_types.Delegate):
            candidate = body.candidate if isinstance(body, tx_types.Delegate) else tx.sender
            key = (at[0], "transaction", at[1], 0)
            self._write_stake(key, f"P:{tx.sender}", f"S:{candidate}", body.amount_micro)

    def _write_proofs(self, at: Where, proofs: list[bytes], details: tuple[object, ...]) -> None:
        rows: list[tuple[object, ...]] = []
        for item, (message, outcome) in enumerate(zip(proofs, details, strict=True)):
            if outcome != ADMITTED:
                continue
            signed, proof = parse_proof(message)
            said = EVENT_NAMES[proof.event], REASON_NAMES[proof.reason]
            spans: tuple[int | None, int | None, int | None] = (None, None, None)
            if proof.readings:
                last = proof.readings[-1]
                spans = proof.readings[0].time_ms, last.time_ms, last.energy_wh
            rows.append(
                (signed.kid, proof.sequence, *at, item, proof_hash(message), proof.contract, *said, *spans, message)
            )
        self._batch.add_all(schema.proof, rows)

    # --- events --------------------------------------------------------------------------------------------------

    def _write_events(self) -> None:
        block, batch = self._block, self._batch
        for number, row in enumerate(self._events):
            index = len(block.txs) + number
            at, kind = (block.header.height, index), row[0]
            if kind == wire.LEAF_PROPOSED:
                self._write_match(at, cast("bytes", row[1]), "proposed")
            elif kind == wire.LEAF_CONTRACT:
                self._write_contract(at, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLEARING:
                self._write_clearing(at, row)
            elif kind == wire.LEAF_RECEIPT:
                batch.add(schema.receipt, row[1], *at, row[2])
            elif kind == wire.LEAF_SETTLEMENT:
                self._write_settlement(at, cast("bytes", row[1]))
            elif kind == wire.LEAF_CLOSED:
                self._write_closing(at, cast("bytes", row[1]), cast("str", row[2]))
            elif kind == wire.LEAF_TARIFF:
                batch.add(schema.tariff, *at, sha256(block.leaves[index]))
            elif kind == wire.LEAF_DISPUTE:
                batch.change(schema.dispute, row[1], leaf=index, bond_micro=row[5])
                batch.change(schema.contract, row[1], state="disputed")
            else:
                self._write_node_event(at, row)

    def _write_node_event(self, at: Where, row: list[object]) -> None:
        """What accounting nodes are, did and earned; other leaves say nothing that a table has."""
        if row[0] == election.LEAF_SET:
            # An edge and a punishment in one block: the last set counts, which may be smaller.
            self._batch.forget(schema.accounting_node, "from_height", row[1])
            node = schema.accounting_node
            self._db.execute(node.delete().where(node.c.from_height == row[1]))
            for party, _, _, power, stake_micro in cast("list[list[object]]", row[2]):
                self._batch.add(schema.accounting_node, row[1], party, power, stake_micro, *at)
        elif row[0] == election.LEAF_PUNISHED:
            _, party, reason, offence_height, cost_micro = row
            self._batch.add(schema.punishment, *at, party, reason, offence_height, cost_micro)
            self._write_stake((at[0], "leaf", at[1], 0), f"S:{party}", "F", cost_micro)
        elif row[0] == election.LEAF_REWARD:
            for item, (party, amount_micro) in enumerate(cast("list[list[object]]", row[3])):
                self._write_stake((at[0], "leaf", at[1], item), "F", f"P:{party}", amount_micro)
        elif row[0] == stake.LEAF_POSTING:
            _, debit, credit, amount_micro = row
            self._write_stake((at[0], "leaf", at[1], 0), debit, credit, amount_micro)
            if credit in {accounts.NOTE_ACCOUNT, accounts.FEES}:
                self._write_gone(cast("str", debit).removeprefix("P:"), at[0])
        elif row[0] == notes.LEAF_BIN:
            self._batch.add(schema.note_bin, *_bin_of(cast("bytes", row[1])), *at)

    def _write_gone(self, user: str, height: int) -> None:
        """If this user is nobody, the order has ended, and here is the end or one more part of what was left of it.

        A bid of which nothing came is told by that alone: its money becomes notes, in this block or, of many, in later ones.
        """
        if user.startswith(tx_types.PSEUDONYM):
            self._batch.change(schema.pseudonym, user, gone_height=height)

    def _write_stake(self, key: tuple[int, str, int, int], debit: object, credit: object, amount_micro: object) -> None:
        self._batch.add(schema.stake_posting, *key, debit, credit, amount_micro)

    def _write_contract(self, at: Where, data: bytes) -> None:
        """A match that is a contract at once, a proposal that became one, or a contract that a new set certifies again."""
        contract = sha256(data)  # terms have one encoding
        before = self._known(contract)
        if before is not None and before[0] is not None:
            self._batch.add(schema.repeated, contract, *at)
            return
        if before is None:
            self._write_match(at, data, "signed")
        self._batch.change(schema.contract, contract, state="signed", signed_height=at[0], signed_leaf=at[1])

    def _known(self, contract: object) -> tuple[object, bytes] | None:
        """Where a contract was signed, if it was, and its terms; None if there is no such contract so far."""
        try:
            values = [self._batch.value(schema.contract, contract, name) for name in ("signed_height", "terms")]
        except KeyError:
            return self._contracts.get(cast("bytes", contract))
        return values[0], cast("bytes", values[1])

    def _write_match(self, at: Where, data: bytes, state: str) -> None:
        terms = self._terms[data]
        bid, number = self._pieces.get(terms.order, (terms.order, None))
        row = (
            sha256(data),
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
        self._batch.add(schema.contract, *row)

    def _write_clearing(self, at: Where, row: list[object]) -> None:
        _, zone, shape, tariff, open_before_wh, open_after_wh, prices, _ = row
        height, leaf = at
        capacity_wh = cast("list[int]", shape)[0]
        self._batch.add(schema.clearing, height, zone, leaf, capacity_wh, tariff, open_before_wh, open_after_wh)
        for catalog, price in cast("list[list[int]]", prices):
            self._batch.add(schema.price, zone, height, catalog, price)

    def _write_settlement(self, at: Where, data: bytes) -> None:
        statement = _statement_of(data)
        contract = statement.contract
        number = 1 if statement.verdict is None else 2
        known = self._known(contract)
        assert known is not None, contract.hex()
        terms = terms_of(known[1])
        energy = energy_of(terms, statement.measured_wh)
        parts = (energy.contracted_wh, energy.grid_wh, energy.unpaid_wh)
        basis = statement.verdict.basis if statement.verdict else None
        row = (contract, number, *at, statement.measured_wh, *parts, statement.cause, statement.digest(), basis)
        self._batch.add(schema.statement, *row)
        for item, posting in enumerate(statement.postings):
            self._batch.add(schema.posting, contract, number, item, posting.debit, posting.credit, posting.amount_micro)
        if any(GRID in (posting.debit, posting.credit) for posting in statement.postings):
            self._batch.add(schema.deviation, contract, *at, terms.user, terms.owner)
        self._batch.change(schema.contract, contract, state="measured")

    def _write_closing(self, at: Where, order: bytes, outcome: str) -> None:
        known = self._known(order)
        if known is None:
            self._batch.change(schema.orders, order, outcome=outcome, ended_height=at[0])
            return
        ending = {"closed_height": at[0], "closed_leaf": at[1], "outcome": outcome}
        self._batch.change(schema.contract, order, state="closed", **ending)
        self._write_gone(terms_of(known[1]).user, at[0])


def _bin_of(name: bytes) -> tuple[int, int]:
    """Denomination and number of a bin, as `notes.bin_id` puts them together."""
    return name[0], int.from_bytes(name[1:], "big")


def _shared_out(keys: set[bytes]) -> Iterator[list[bytes]]:
    """In an order that is the same everywhere, a bounded number at a time."""
    ordered = sorted(keys)
    return (ordered[start : start + ASKED_AT_ONCE] for start in range(0, len(ordered), ASKED_AT_ONCE))
