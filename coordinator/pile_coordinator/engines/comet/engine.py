"""The comet engine: the port that a coordinator drives, on top of CometBFT.

CometBFT's requests are carried out by one thread, the coordinator's work by another; they take turns. A committed block is
told to the listeners once it is certified, so that whatever a pile or wallet hears can be proven.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, cast

from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import Candidate, Party
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_TX_BYTES, DoubleAttestation, Transaction, decode_transaction
from pile_coordinator.clock import Clock
from pile_coordinator.engines.attesting import (
    ASK_AGAIN_S,
    ATTESTATION,
    CERTIFICATE,
    MAX_AHEAD,
    MAX_ANSWERED,
    MISSING,
    Attestations,
    node_topic,
    node_topics,
    parse_node_topic,
)
from pile_coordinator.engines.comet.app import Application
from pile_coordinator.engines.comet.attested import Attested
from pile_coordinator.engines.comet.backfill import Backfill, history_from, history_topic
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.comet.pool import Pool, WaitsError
from pile_coordinator.engines.comet.retention import Retention
from pile_coordinator.engines.comet.rpc import Rpc, Sender
from pile_coordinator.engines.comet.server import Server
from pile_coordinator.engines.comet.snapshots import Snapshots
from pile_coordinator.engines.engine import Block, BusyError, CachingVerifier, Publish, StoreError, handover_after
from pile_coordinator.engines.history import WANTED
from pile_shared import cose
from pile_shared.certificate import MAX_POWER, Certificate, Validator, decode_header
from pile_shared.codec import decode, encode
from pile_shared.errors import LinkError, PilechainError
from pile_shared.units import check_int

MAX_OUTBOX = 1024  # transactions handed to the node and not yet in a block; CometBFT's mempool takes 5,000
MAX_FRESH = 16  # blocks of 2 MB
ASK_TIMEOUT_S = 1.0  # for one question to CometBFT, during which nothing else is done here
CHARGE = "charge/"  # the notes that hold what a node is charged with, by its party
SEND_AGAIN_S = 3.0  # a block takes a second or two; a node that was restarted has forgotten its mempool


class CometEngine:
    """An accounting node's engine. `advance`, `submit` and `handle` belong to one thread; requests of CometBFT to another.

    Attributes:
        verify: checks signatures, and remembers. chain_id: the chain.
        hurries: a block waits to be attested, or an attestation came: receipts should not wait for `advance`'s time.
        charges: proofs that a node attested two headers of one height, by its party, which the chain has not heard yet; they
            are in the store as well.
    """

    def __init__(
        self,
        data: Path,
        genesis: Genesis,
        home: Home,
        own: tuple[str, cose.SoftwareSigner],
        *,
        verify: CachingVerifier,
        clock: Clock,
        log: Callable[[str], None],
        snapshot_interval: int,
        retain_blocks: int,
    ) -> None:
        """Open the ledger in `data` and listen for the node whose configuration is in `home`; `connect` begins to serve it.

        Args:
            data: folder of ledger and snapshots.
            genesis: the chain's.
            home: CometBFT's folder.
            own: this node's party and attestation key.
            verify: checks signatures.
            clock: real time, or that of the network's rig.
            log: takes a line for people.
            snapshot_interval: heights of CometBFT between snapshots; 0 for none.
            retain_blocks: heights whose blocks CometBFT keeps at least; 0 for all.
        """
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.verify = verify
        self._log = log
        self._ledger = CometLedger(data / "ledger.sqlite", genesis, home.consensus_keys(), verify, clock)
        self._pool = Pool(verify.rings)
        self._snapshots = Snapshots(data / "snapshots", self._ledger, snapshot_interval, log)
        self.charges = {
            charge.candidate: charge for charge in map(_charge_from, self._ledger.store.notes(CHARGE).values())
        }
        self._attested = Attested(home.path / "data", self._ledger.height)
        if self._attested.silent_until > self._ledger.height:
            log(
                f"the ledger was lost or set back: blocks up to {self._attested.silent_until} were attested by the one before"
            )
        self._attestations = Attestations(self.chain_id, own, self._recall)
        self._attestations.accuse = self._charge
        self._attestations.know(self._ledger.validators_at(self._ledger.height + 1))
        self.own_party = own[0]
        self.description = f"accounting node {own[0]}, CometBFT at {home.rpc_address()}"
        self.topics = (
            *node_topics(self.chain_id),
            node_topic(self.chain_id, "+", WANTED),
            history_topic(self.chain_id, "+", own[0]),
        )
        self._wake: Callable[[], None] = lambda: None
        self._listeners: list[Callable[[Block], None]] = []
        self._fresh: dict[int, Block] = {}  # committed and not yet told, to spare reading them again
        self._signed = self._certified = self._certified_in_store()
        if self._certified >= self._ledger.store.first_height():
            self._keep_handover(self._ledger.store.block(self._certified))  # it may have been killed just before it did
        self.hurries = True
        self._moved_s = time.monotonic()  # when a certificate came, or none was missing, or was asked for
        self._answered_s: dict[str, float] = {}  # by who asked
        self._outbox: OrderedDict[bytes, tuple[Transaction, bytes, float]] = OrderedDict()
        self._rpc_address = home.rpc_address()
        self._sender = Sender(self._rpc_address)
        self._backfill = Backfill(self._ledger, own[0], lambda: self._certified, log)
        retention = Retention(self._ledger, self._snapshots, retain_blocks)
        application = Application(
            self._ledger, self._pool, self._snapshots, retention, self._on_commit, lambda: self._certified
        )
        self._server = Server(home.app_address(), application.handle, log)
        self._thread = threading.Thread(target=self._serve, name="abci", daemon=True)

    def _serve(self) -> None:
        """CometBFT's requests. After an error of ours nothing may be answered any more, so the process ends with it."""
        try:
            self._server.serve()
        except Exception as error:  # noqa: BLE001 - whatever it is, a node that goes on could differ from the others
            self._log(f"stopped before it could answer wrongly: {type(error).__name__}: {error}")
            os._exit(1)

    def _certified_in_store(self) -> int:
        """The last height up to which every block in the store has its certificate."""
        height, first = self._ledger.height, self._ledger.store.first_height()
        while height >= first and not self._ledger.store.block(height).certificate.attestations:
            height -= 1
        return height

    def _keep_handover(self, block: Block) -> None:
        """Keep what readers must hear if a certified block was the last of its set."""
        self._ledger.store.hand_over(handover_after(self.genesis, self._ledger.state, block), block.header)

    def connect(self, publish: Publish, wake: Callable[[], None]) -> None:
        """Use `publish` to talk to the other nodes; `wake` makes the thread that calls `advance` call it soon."""
        self._attestations.publish = self._backfill.publish = publish
        self._wake = wake
        self._thread.start()  # the node has been able to connect since we listen, and was not answered until now

    def close(self) -> None:
        """Stop serving and close the ledger."""
        if self._thread.is_alive():
            self._server.stop()
            self._thread.join(10)
        self._backfill.close()
        self._sender.close()
        self._snapshots.wait()
        self._ledger.close()
        self._attested.close()

    # --- the port ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """After the last block that was decided."""
        return self._ledger.state

    @property
    def height(self) -> int:
        """Of the last block that is certified and told."""
        return self._certified

    def is_current(self) -> bool:
        """Whether CometBFT answers and has caught up, and what it decided is certified, but for the newest block."""
        rpc = Rpc(self._rpc_address, ASK_TIMEOUT_S)
        try:
            catching_up = rpc.call("status")["sync_info"]["catching_up"]
        except LinkError:
            return False
        finally:
            rpc.close()
        return catching_up is False and self._certified >= self._ledger.height - 1

    @property
    def waiting(self) -> int:
        """Transactions handed to the node and not in a block yet."""
        return len(self._outbox)

    @property
    def first_height(self) -> int:
        """Of the oldest block kept: 1, unless the ledger began with a snapshot and what was before is not fetched yet."""
        with self._ledger.lock:
            return self._ledger.store.first_height()

    def turn(self) -> AbstractContextManager[object]:
        """While it is held CometBFT waits for our answers."""
        return self._ledger.lock

    def env(self, time_ms: int) -> Env:
        """The block of ours that would be made now."""
        return self._ledger.env(time_ms)

    def on_block(self, listener: Callable[[Block], None]) -> None:
        """Call `listener` for every certified block, in order of height."""
        self._listeners.append(listener)

    def block(self, height: int) -> Block:
        """A committed block; KeyError if there is none of that height."""
        with self._ledger.lock:
            return self._ledger.store.block(height)

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction in a certified block, or None."""
        with self._ledger.lock:
            found = self._ledger.store.find_tx(tx_id)
        return found if found is not None and found[0] <= self._certified else None

    def waits(self, tx_id: bytes) -> bool:
        """Whether a transaction is handed to the node again until it is in a block."""
        return tx_id in self._outbox

    def next_sequence(self, party: str) -> int:
        """The sequence a party's next transaction must have, those handed to the node included.

        The first that is free: one that a block refused leaves a gap, for which those after it wait.
        """
        with self._ledger.lock:
            due = self._committed(party) + 1
        handed = {tx.sequence for tx, _, _ in self._outbox.values() if tx.sender == party}
        while due in handed:
            due += 1
        return due

    def submit(self, tx: bytes, *, bounded: bool = True) -> Transaction:
        """Hand a transaction to the node, again and again until it is in a block or cannot be in one.

        Raises:
            Rejection: it cannot succeed. BusyError: too many wait.
        """
        with self._ledger.lock:
            try:
                checked = self._pool.check(self._ledger.state, self._ledger.env_now(), tx)
            except WaitsError as error:
                raise BusyError(f"{error}; send again after the next block") from error
            except Rejection as refusal:
                if self._is_in_turn(tx, refusal):
                    raise BusyError("as many of this party wait as may; send again after the next block") from refusal
                raise
            if bounded and len(self._outbox) >= MAX_OUTBOX:
                raise BusyError("too many transactions wait for the next block; send again in a moment")
            self._pool.add(self._ledger.state, checked)  # now, so that nothing else takes its place on the way
        self._outbox[checked.id] = (checked, tx, time.monotonic())
        self._sender.send(tx)
        return checked

    def _is_in_turn(self, tx: bytes, refusal: Rejection) -> bool:
        """Whether nothing is wrong with a transaction but that no more of its sender's have room: the chain may stand."""
        if refusal.code != "sequence_gap":
            return False
        asked = decode_transaction(tx)
        return asked.sequence == self.next_sequence(asked.sender)

    def handover_from(self, set_hash: bytes) -> bytes | None:
        """The message by which a reader of this validator set follows to the next; None if it is the newest."""
        with self._ledger.lock:
            return self._ledger.store.handover_from(set_hash)

    # --- what CometBFT's thread leaves, and what is done about it --------------------------------------------------

    def _on_commit(self, block: Block | None) -> None:
        if block is not None:
            self._fresh[block.header.height] = block
            while len(self._fresh) > MAX_FRESH:
                del self._fresh[next(iter(self._fresh))]
            self.hurries = True
            self._wake()

    def advance(self, time_ms: int) -> Block | None:
        """Attest what was committed, tell the listeners what is certified; the last such block, if any.

        Args:
            time_ms: not used: CometBFT's validators agree on the time.
        """
        assert time_ms >= 0
        self.hurries = False  # first: what comes meanwhile is for the next time
        self._sign_all()
        told = self._tell_certified()
        now_s = time.monotonic()
        self._ask(now_s, moves=told is not None)
        self._send_again(now_s)
        self._backfill.begin()
        return told

    def _ask(self, now_s: float, *, moves: bool) -> None:
        """Ask the other nodes for what is missing, if it does not come by itself: new blocks go on meanwhile."""
        if moves or self._certified >= self._ledger.height:
            self._moved_s = now_s
        elif now_s - self._moved_s >= ASK_AGAIN_S:
            self._attestations.ask(self._certified + 1)
            self._moved_s = now_s

    def _sign_all(self) -> None:
        """Attest every block up to the last committed one, those of an earlier run first."""
        self._certified = max(self._certified, self.first_height - 1)  # a snapshot stands for what was before it
        last = min(self._ledger.height, self._certified + MAX_AHEAD)
        self._signed = max(self._signed, self._certified)
        self._attested.note(last)
        while self._signed < last:
            height = self._signed + 1
            try:
                with self._ledger.lock:
                    validators, following = (self._ledger.validators_at(h) for h in (height, height + 1))
            except KeyError as error:
                raise StoreError(
                    f"block {height} has no certificate here, and it is so old that the chain has forgotten who attested"
                    " it: this node fell too far behind. Delete data, and node/data except priv_validator_state.json and"
                    " attested_state, and begin with a snapshot: pilechain network join"
                ) from error
            is_silent = height <= self._attested.silent_until
            self._attestations.sign(self._fresh.get(height) or self.block(height), validators, is_silent=is_silent)
            self._attestations.know(following)
            self._signed = height

    def _tell_certified(self) -> Block | None:
        told = None
        while self._certified < self._signed:
            attestations = self._attestations.certificate(self._certified + 1)
            if attestations is None:
                break
            height = self._certified + 1
            with self._ledger.lock:  # which is what the thread holds that adds to it
                fresh = self._fresh.pop(height, None) or self._ledger.store.block(height)
            told = replace(fresh, certificate=Certificate(fresh.certificate.header_bytes, attestations))
            with self._ledger.lock:
                self._ledger.store.certify(height, attestations)
                self._keep_handover(told)
            self._certified = height
            self._forget_sent(told)
            for listener in self._listeners:
                listener(told)
        if told is not None:
            self._attestations.publish_certificate(told.certificate)
        return told

    def _forget_sent(self, block: Block) -> None:
        """What is in a block need not be sent again, whatever became of it."""
        for result in block.results:
            self._outbox.pop(result.tx_id, None)

    def _send_again(self, now_s: float) -> None:
        """Hand over again what the node may have forgotten; drop what can be in no block any more."""
        for tx_id, (tx, data, sent_s) in list(self._outbox.items()):
            if now_s - sent_s < SEND_AGAIN_S:
                break  # in order of sending
            if self._outbox.pop(tx_id, None) is None:
                continue  # went with one before it
            if self._may_still_succeed(tx, data):
                self._outbox[tx_id] = (tx, data, now_s)
                self._sender.send(data)
            else:
                self._drop_after(tx)

    def _drop_after(self, tx: Transaction) -> None:
        """What its sender numbered after one that can be in no block can be in none either, but where its number is taken."""
        with self._ledger.lock:
            if self._committed(tx.sender) >= tx.sequence:
                return
        for later, (other, _, _) in list(self._outbox.items()):
            if other.sender == tx.sender and other.sequence > tx.sequence:
                del self._outbox[later]

    def _committed(self, party: str) -> int:
        """The sequence of a party's last transaction; 0 for who comes to be by the first, or is no more."""
        known = self._ledger.state.find(Party, party)
        return known.sequence if known else 0

    def _may_still_succeed(self, tx: Transaction, data: bytes) -> bool:
        with self._ledger.lock:
            if self._pool.holds(tx):
                return True
            try:
                self._pool.check(self._ledger.state, self._ledger.env_now(), data)
            except (Rejection, WaitsError):
                return False
            return True

    # --- messages of the other nodes -----------------------------------------------------------------------------

    def handle(self, topic: str, payload: bytes) -> str | None:
        """Take a message from another node: "" or why it was refused; None if it is none."""
        server = history_from(self.chain_id, topic, self.own_party)
        if server is not None:
            return self._backfill.offer(server, payload)
        parsed = parse_node_topic(self.chain_id, topic)
        if parsed is None:
            return None
        party, kind = parsed
        if kind == ATTESTATION:  # our own too: somebody else may have our key
            outcome = self._attestations.offer(party, payload, self._certified)
            self.hurries = self.hurries or not outcome
            return outcome
        if party == self.own_party:
            return ""
        if kind == CERTIFICATE:
            outcome = self._attestations.offer_certificate(payload, self._certified)
            self.hurries = self.hurries or not outcome
            return outcome
        if kind == MISSING:
            return self._answer(party, payload)
        return self._backfill.answer(party, payload) if kind == WANTED else "unknown_kind"

    def _answer(self, party: str, payload: bytes) -> str:
        """Another node lacks certificates: send our signatures again, a few, and not more often than it may ask.

        Each node has answers of its own, so that one which asks all the time keeps nobody else from any; those that follow
        without a vote share them, as nobody knows how many there are.
        """
        try:
            start = check_int("height", decode(payload, 16), 1, MAX_POWER)
        except PilechainError as error:
            return error.code
        who = party if self._is_node(party) else ""
        now_s = time.monotonic()
        if now_s - self._answered_s.get(who, -ASK_AGAIN_S) < ASK_AGAIN_S / 4:
            return ""
        self._answered_s[who] = now_s
        end = min(start + MAX_ANSWERED, self._ledger.height + 1)
        for height in range(max(start, self.first_height), end):
            self._answer_one(height)
        return ""

    def _answer_one(self, height: int) -> None:
        """The certificate if there is one: it has what is needed, even if those who signed it are away now."""
        with self._ledger.lock:
            certificate = self._ledger.store.certificate(height)
        assert certificate is not None, "a committed block has one, be it without attestations"
        if certificate.attestations:
            return self._attestations.publish_certificate(certificate, retained=False)
        found = self._recall(height)
        if found is not None and height > self._attested.silent_until:
            self._attestations.answer(*found)
        return None

    def _is_node(self, party: str) -> bool:
        """Whether a party has an accounting node: one of genesis, or a candidate, of whom there are 128 at most."""
        if any(validator.party == party for validator in self.genesis.validators):
            return True
        with self._ledger.lock:
            return self._ledger.state.find(Candidate, party) is not None

    # --- who attested twice --------------------------------------------------------------------------------------

    def _recall(self, height: int) -> tuple[Certificate, list[Validator]] | None:
        """A committed block's certificate, with no attestations before it is certified, and who might attest it."""
        if height > self._ledger.height:
            return None
        with self._ledger.lock:
            certificate = self._ledger.store.certificate(height)
            try:
                validators = self._ledger.validators_at(height)
            except KeyError:
                return None  # too long ago to punish anybody
        return None if certificate is None else (certificate, validators)

    def _charge(self, proof: DoubleAttestation) -> None:
        """Keep the first proof against a node, durably, until the chain has heard it: it may never be heard again.

        Nobody charges himself: if two headers have our signature, our key is in two places, which people must look into.
        """
        if proof.candidate == self.own_party:
            return
        with self._ledger.lock:
            candidate = self._ledger.state.find(Candidate, proof.candidate)
            if candidate is None or candidate.tombstoned or proof.candidate in self.charges:
                return
            self._ledger.store.keep_note(CHARGE + proof.candidate, encode(list(astuple(proof))))
        self.charges[proof.candidate] = proof
        self._log(f"{proof.candidate} attested two headers of block {decode_header(proof.first).height}: proof is kept")

    def settle(self, party: str) -> None:
        """Forget the charge against a node: it was punished, or never can be."""
        del self.charges[party]
        with self._ledger.lock:
            self._ledger.store.keep_note(CHARGE + party, None)


def _charge_from(note: bytes) -> DoubleAttestation:
    return DoubleAttestation(*cast("list[Any]", decode(note, MAX_TX_BYTES)))
