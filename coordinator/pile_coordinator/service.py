"""The coordinator process: MQTT in, blocks, MQTT out. One thread does everything but the network.

    proofs  -> ProofDesk -> batches --+
    wallets -> check_tx --------------+-> engine -> block -> evidence -> receipts, contracts, results
    records -> RecordDesk -> answers, once they are durable
    users' stop commands on their way to the piles -> KeptStops, for owners who must show them

A pile or wallet that hears nothing sends again; everything here is safe to repeat. Where several coordinators serve at one
broker, one of them speaks to each pile and wallet (serving.py).
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

from pile_coordinator.accuser import VALID_BLOCKS, Accuser
from pile_coordinator.block_time import BlockTime
from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.chain.records import Pile, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import USER
from pile_coordinator.chain.transactions import SubmitProofs, decode_transaction, sign_transaction
from pile_coordinator.config import CoordinatorConfig
from pile_coordinator.desk import QueryDesk
from pile_coordinator.engines.attesting import only_attester
from pile_coordinator.engines.engine import Block, BusyError, Engine, validators_at
from pile_coordinator.engines.rings import ring_claims
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.verifier import (
    BATCH_CLAIMS,
    Claim,
    SecondCoreVerifier,
    claim_of_proof,
    claim_of_transaction,
    pile_of_proof,
)
from pile_coordinator.evidence.database import EvidenceAwayError
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import last_receipt
from pile_coordinator.ingest import FORK, READY, REPLAYED, WAITING, ProofDesk
from pile_coordinator.keeping.mirroring import Mirroring
from pile_coordinator.keys import load_key
from pile_coordinator.log_line import log
from pile_coordinator.mqtt import RECONNECTED, Connection, Kept
from pile_coordinator.only_one import OnlyOne
from pile_coordinator.records import KNOWN as RECORD_KNOWN
from pile_coordinator.records import LATER, RECORDS, UNWRITTEN, RecordDesk
from pile_coordinator.ring_queue import RingQueue
from pile_coordinator.serving import SERVING, Heard, Servers, Unsaid, serving_topic
from pile_coordinator.stake_view import node_event
from pile_coordinator.stops import KEPT, KNOWN, PASSED_BY, KeptStops
from pile_coordinator.troubles import Troubles
from pile_coordinator.verifying.roster import AWAY_S, Roster
from pile_coordinator.verifying.wire import keys_digest
from pile_shared import cose, topics
from pile_shared.certificate import MAX_LEAF_BYTES, Validator
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import BoundsError, ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.record import RECORD, RECORDED, STORED, parse_topic, sign_answer
from pile_shared.terms import (
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_DISPUTE,
    LEAF_PROPOSED,
    LEAF_RECEIPT,
    LEAF_TARIFF,
    decode_terms,
)
from pile_shared.units import check_bytes

LOG_EVERY_MS = 1000  # per reason
SETTLE_S = 1.0  # after connecting, in which the broker says who else is there
SHARE_S = 0.2  # between two looks for what others did not say
ANNOUNCE_S = 1.0  # between two looks whether this node is current, so that it may serve
_SAID = ("receipt", "contract", "validators")  # what coordinators say to piles
MAX_TAKEN = 4096  # messages taken from the queue at once: what the other core can check while a full block is applied
MAX_AWAITED = 8192  # transactions whose senders are owed a result: twice what an engine takes
MAX_CAUGHT_UP = 10_000  # blocks whose evidence is written before we start, in seconds; more are written while we run
EVIDENCE_AT_ONCE_S = 0.05  # for which messages wait while the evidence of older blocks is written
CLOSINGS_AT_ONCE = 100  # said in one step, of those that were held back while the evidence lacked blocks
LED_AT_ONCE = 20  # piles led in one step, of those that came online meanwhile: four questions to the evidence each
BEHIND = "behind"  # who wants something of a node that does not know the whole story yet
FEW_TAKEN = 64  # fewer are handled at once: telling the other core of them would cost more than checking them
ONLINE = 1  # a pile's status begins with it when the pile comes online
STATUS_ITEMS = 6  # and then has so many, the last two of which are the validators it believes in and what it refuses
COLLECT = (
    50_000,
    10,
    10,
)  # transactions are many small objects, hardly ever in cycles: a tenth of a block's time by default
FULL_BLOCK_PROOFS = 4096  # a block is made early when this many proofs are ready: a quarter of what may wait

_QUIET = {
    READY,
    WAITING,
    KEPT,
    KNOWN,
    PASSED_BY,
    REPLAYED,
    BEHIND,
    STORED,
    RECORD_KNOWN,
    LATER,
}  # normal life of a network that repeats itself; counted, not logged


class Coordinator:
    """Everything one coordinator holds. `run` serves until `stop`."""

    def __init__(self, config: CoordinatorConfig) -> None:
        """Open ledger and evidence, bring the evidence up to date, and start connecting."""
        self.config = config
        self.chain_id = config.genesis.chain_id
        self.signer = load_key(config.key) if config.key is not None else None
        self._check_party()
        config.data.mkdir(parents=True, exist_ok=True)
        self._only_one = OnlyOne(config.data / "coordinator.lock")
        self._verifier = SecondCoreVerifier()
        self._attesters = {party: load_key(path) for party, path in config.attestation.items()}
        self._block_time = BlockTime(config.clock, log)
        self.engine = self._open_engine()
        self.evidence = Exporter(config.evidence)
        self._is_behind = self._evidence_away = self._has_gap = False
        self._unsaid_closing: tuple[int, int] | None = (
            None  # the first that was held back; the evidence knows the others
        )
        self._unled: set[str] = set()  # piles that came online while the evidence lacked blocks
        self._catch_up_at_start()
        self.servers = Servers(self.chain_id, config.party, settled=not self._may_share)
        self.unsaid = Unsaid(self.servers, self.chain_id, self._validators_at)
        self._asked = Heard()
        self._online: dict[str, bytes] = {}  # registered piles that say so, and the validators they believe in
        self._share_s = self._announce_s = 0.0  # when to look again
        self._made_good: set[str] = set()  # piles that others may have told before: who says nothing is not silent
        self.desk = ProofDesk(self.chain_id, self.engine.verify, self.servers.wait_s)
        self.roster = Roster(self.chain_id, config.party, config.workers)
        self._hears_proofs = not self.roster  # itself, from the piles
        self.stops = KeptStops(config.data / "stops.sqlite", self.engine.state)
        self.records = RecordDesk(config.data / RECORDS, self.chain_id, config.clock.now_ms)
        self.rings = RingQueue(self._verifier.rings)
        self._unheard: dict[str, None] = {}  # piles that sent again in this step what is in a block
        self._answers: list[tuple[str, bytes, str]] = []  # to records of this step: pile, message, outcome
        self.troubles = Troubles()
        self.queries = QueryDesk(
            self.engine, self.evidence, stops=self.stops, troubles=self.troubles, now_ms=config.clock.now_ms
        )
        self.counts: Counter[str] = Counter()
        self._logged_ms: dict[str, int] = {}
        self._awaited: dict[bytes, str] = {}
        self._pauses_ms = self._paused_zones()
        self._stopping = False
        self.accuser = Accuser(self.engine, config.party, self.signer, log)
        self.engine.on_block(self._after_block)
        self._next_block_s = 0.0
        self._taken: list[tuple[str, bytes]] = []
        gc.freeze()  # what was loaded stays: the collector need not look at it again
        gc.set_threshold(*COLLECT)
        self.connect()

    def _open_engine(self) -> Engine:
        config, attesters = self.config, self._attesters
        if config.comet is None:
            mirror = None
            if config.mirror is not None:
                mirror = Mirroring(config.mirror, config.genesis, log, is_required=config.mirror_required)
            engine = SoloEngine(config.data / "ledger.sqlite", config.genesis, attesters, self._verifier, mirror)
            self._block_time.check(engine.time_ms)
            return engine
        from pile_coordinator.engines.comet.engine import CometEngine  # noqa: PLC0415 - who runs alone needs no protobuf
        from pile_coordinator.engines.comet.home import Home  # noqa: PLC0415

        return CometEngine(
            config.data,
            config.genesis,
            Home(config.comet.home),
            only_attester(attesters),
            verify=self._verifier,
            clock=config.clock,
            log=log,
            snapshot_interval=config.comet.snapshot_interval,
            retain_blocks=config.comet.retain_blocks,
        )

    def _check_party(self) -> None:
        if self.signer is None:
            return
        party = next((p for p in self.config.genesis.parties if p[0] == self.config.party), None)
        if party is None or party[2] != self.signer.public or party[1] not in {"grid", "operator"}:
            raise ConfigError(f"{self.config.party} with this key is not a grid or operator party of the genesis")

    def run(self, while_parent: int | None = None) -> None:
        """Serve until `stop`: take messages, and make a block each interval in which there is something to do.

        With `while_parent` it also ends when that process, which started this one, does.
        """
        log(f"chain {self.chain_id} at block {self.engine.height}; {self.engine.description}; press Ctrl-C to stop")
        while not self._stopping and while_parent in {None, os.getppid()}:
            self.step(0.2)
        self.close()

    def connect(self) -> None:
        """Start connecting; the broker keeps what comes for us while we are away."""
        up = list(self.engine.topics)
        if self.signer is not None:
            up += [topics.pile_topic(self.chain_id, "+", kind) for kind in ("status", "session", RECORD)]
            up += [self._proofs] if self._hears_proofs else []
            up += [self.roster.topic] if self.roster else []
            up += [topics.party_topic(self.chain_id, "+", kind) for kind in topics.PARTY_UP]
        client_id = f"coordinator-{self.config.party or next(iter(self.config.attestation))}-{self.chain_id}"
        watched: list[str] = []
        if self._may_share:
            watched = [serving_topic(self.chain_id, "+")]
            watched += [topics.pile_topic(self.chain_id, "+", kind) for kind in _SAID]
        will = serving_topic(self.chain_id, self.config.party) if self._may_share else ""
        unwanted = () if self._hears_proofs or self.signer is None else (self._proofs,)
        self.connection = Connection(
            self.config.broker, client_id, up, watched=tuple(watched), unwanted=unwanted, will=will, tells=True
        )
        self.engine.connect(self.connection.publish, self.connection.wake)
        self._verifier.rings.on_answer = self.connection.wake

    @property
    def _proofs(self) -> str:
        return topics.pile_topic(self.chain_id, "+", "proof")

    @property
    def _may_share(self) -> bool:
        """Whether other coordinators may serve the same piles and wallets: not with the solo engine."""
        return self.signer is not None and self.config.comet is not None

    def step(self, wait_s: float) -> None:
        """Wait at most `wait_s` for messages and handle them; make a block when it is time, or many proofs are ready.

        While messages keep coming, those of one step are handled in the next, so that their signatures are checked meanwhile.
        """
        self._write_older_evidence()
        self._tend_workers()
        wait_s = min(wait_s, EVIDENCE_AT_ONCE_S) if self._is_behind else wait_s
        wait_s = 0 if self._taken else min(self._next_block_s - time.monotonic(), wait_s)
        before, self._taken = self._taken, self.connection.take(wait_s, MAX_TAKEN)
        if len(self._taken) < FEW_TAKEN:  # no crowd: at once, and their signatures here
            before, self._taken = [*before, *self._taken], []
        else:
            self._tell_ahead(self._taken)
        for message in before:
            self.handle(*message)
            self._make_block_if_due()  # between messages too: a quote on a large zone takes tens of milliseconds
        self._take_rings()
        self._answer_records()
        self._make_block_if_due()
        self._repeat_receipts()
        if self._may_share:
            self._share()

    def _tend_workers(self) -> None:
        """Leave the piles' proofs to the workers while there are any, and take them here when there are none."""
        if self._hears_proofs is not self.roster.is_here:
            return
        self._hears_proofs = not self._hears_proofs
        if self._hears_proofs:
            self.connection.subscribe(self._proofs)
            log(f"no verify worker was heard of for {AWAY_S:.0f} s: proofs are verified here until one is")
        else:
            self.connection.unsubscribe(self._proofs)
            log("a verify worker is there: proofs are left to the workers")

    def _tell_ahead(self, messages: list[tuple[str, bytes]]) -> None:
        """Have signatures checked on the other core, a few at a time: whoever makes blocks waits for its turn meanwhile."""
        for start in range(0, len(messages), BATCH_CLAIMS):
            with self.engine.turn():
                self._verifier.tell_ahead(self._claims(messages[start : start + BATCH_CLAIMS]))

    def _catch_up_at_start(self) -> None:
        try:
            self.evidence.catch_up(self.engine, MAX_CAUGHT_UP)
        except EvidenceAwayError as error:
            log(f"{error}; blocks are made meanwhile, and written there when it is back")
        self._evidence_away = self._has_gap = self.evidence.is_away

    def _write_older_evidence(self) -> None:
        """Write what the evidence lacks, a little at a time: fetched from other nodes, or many, or its server was away."""
        was_behind, until_s = self._is_behind, time.monotonic() + EVIDENCE_AT_ONCE_S
        has_all = self.engine.first_height == 1
        try:
            if self.evidence.attend() and self._evidence_away:
                self.evidence.check_chain(self.engine)
            while has_all and self.evidence.height < self.engine.height and time.monotonic() < until_s:
                self.evidence.write(self.engine.block(self.evidence.height + 1))
        except EvidenceAwayError:
            pass  # said below, once
        self._note_evidence_away()
        self._is_behind = self.evidence.height < self.engine.height and not self.evidence.is_away
        if self._is_behind and not was_behind:
            log("the evidence lacks older blocks" + ("; piles and wallets wait for them" if self.signer else ""))
        elif was_behind and not self._is_behind and not self.evidence.is_away:
            log("the evidence is whole")
        if not self._is_behind and not self.evidence.is_away:
            self._has_gap = False
            self._say_held_back()

    def _note_evidence_away(self) -> None:
        """Say once that the evidence's server went away, and once that it is back."""
        if self.evidence.is_away == self._evidence_away:
            return
        self._evidence_away = self.evidence.is_away
        if self._evidence_away:
            self._has_gap = True  # until what it missed is written
            log(
                f"the evidence database went away at block {self.evidence.height}; blocks are made on, and written when it is"
                " back; wallets' questions about contracts wait"
            )
        else:
            missing = self.engine.height - self.evidence.height
            log(f"the evidence database is back; {missing} blocks are to be written there")

    @property
    def _lacks_evidence(self) -> bool:
        """Whether what the evidence does not know may yet be so."""
        return self.evidence.is_away or self._is_behind or self._has_gap

    def _say_held_back(self) -> None:
        """Which pile a closed contract is on, and what a pile should know, only the evidence says: some of it now."""
        try:
            self._say_closings()
            for pile in sorted(self._unled)[:LED_AT_ONCE]:
                self._unled.discard(pile)
                if pile in self._online:
                    self._lead(pile, self._online[pile])
        except EvidenceAwayError:
            self._note_evidence_away()

    def _say_closings(self) -> None:
        if self._unsaid_closing is None:
            return
        rows = self.queries.closings_since(self._unsaid_closing, self.config.clock.now_ms(), CLOSINGS_AT_ONCE)
        for pile, height, leaf in rows:
            self._to_pile(pile, "contract", self.engine.block(height), leaf, news=True)
            self._unsaid_closing = (height, leaf + 1)
        if len(rows) < CLOSINGS_AT_ONCE:
            self._unsaid_closing = None

    def _claims(self, messages: list[tuple[str, bytes]]) -> list[Claim]:
        """The signatures that are about to be asked for."""
        claims: list[Claim | None] = []
        for topic, payload in messages:
            kind = topic.rpartition("/")[2]
            if kind == "proof":
                claims.append(claim_of_proof(self.engine.state, self.chain_id, payload))
            elif kind == "tx":
                claims.append(claim_of_transaction(self.engine.state, self.chain_id, payload))
        return [claim for claim in claims if claim is not None]

    def _make_block_if_due(self) -> None:
        is_time = time.monotonic() >= self._next_block_s
        if is_time or self.engine.hurries or self.desk.ready >= FULL_BLOCK_PROOFS:
            self.make_block()
            self._next_block_s = time.monotonic() + self.config.block_interval_ms / 1000

    def stop(self) -> None:
        """End `run` after the message in hand."""
        self._stopping = True

    def close(self) -> None:
        """Close network and files."""
        self.connection.close()
        self.engine.close()  # before the verifier: CometBFT's thread may be waiting for an answer of it
        self._verifier.end()
        self.evidence.close()
        self.stops.close()
        self.records.close()
        self._only_one.close()

    # --- messages ------------------------------------------------------------------------------------------------

    def handle(self, topic: str, payload: bytes) -> None:
        """One message from the broker. Never raises for what it contains."""
        if not topic:
            if payload == RECONNECTED:
                self._begin_anew()
            return None  # only to wake us
        outcome = self.engine.handle(topic, payload)
        if outcome is not None:
            return self._note(outcome, f"{len(payload)} bytes from {topic}") if outcome else None
        with self.engine.turn():
            outcome = self._hear_server(topic, payload)
            if outcome is not None:
                return self._note(outcome, f"presence, {len(payload)} bytes") if outcome else None
            return self._handle(topic, payload)

    def _handle(self, topic: str, payload: bytes) -> None:
        if topic == self.roster.topic:
            waits = self._is_behind and not self._has_gap
            return self._note(BEHIND, topic) if waits else self._take_batch(payload)
        try:
            chain_id, side, who, kind = _parse_topic(topic)
        except BoundsError:
            return self._note("bad_topic", topic[:80])
        if chain_id != self.chain_id:
            return self._note("wrong_chain", topic)
        needs_evidence = kind not in ({"session", "status", "proof", "tx"} if self._has_gap else {"session", "status"})
        if self._is_behind and needs_evidence:
            return self._note(BEHIND, topic)  # we would deny what we do not know yet; who hears nothing sends again
        if side == "pile":
            return self._from_pile(who, kind, payload)
        rank = self.servers.rank(who)
        if rank and self._asked.times(payload) < rank:
            return None  # another answers; if it does not, the wallet asks again
        if kind == "tx":
            return self._take_transaction(who, payload)
        return self._answer_query(who, payload)

    def _from_pile(self, pile_id: str, kind: str, payload: bytes) -> None:
        if kind == "status":
            return self._hear_status(pile_id, payload)
        if kind in _SAID:
            is_ours = self.engine.state.find(Pile, pile_id) is not None
            return self.unsaid.heard(pile_id, kind, payload) if is_ours else None
        if kind == "session":
            env = self.engine.env(self.config.clock.now_ms())
            outcome = self.stops.offer(self.engine.state, env, pile_id, payload)
            return self._note(outcome, f"session command to {pile_id}, {len(payload)} bytes")
        if kind == RECORD:
            return self._take_record(pile_id, payload)
        return self._take_proof(pile_id, payload)

    def _take_record(self, pile_id: str, message: bytes) -> None:
        try:
            outcome, answer = self.records.offer(self.engine.state, self.evidence.db, pile_id, message)
        except EvidenceAwayError:
            return self._note(BEHIND, f"OCMF record from {pile_id}")
        rank = self.servers.rank(pile_id)
        if answer and (not rank or self._asked.times(message) >= rank):  # else another's answer is enough
            self._answers.append((pile_id, message, answer))
        return self._note(outcome, f"OCMF record from {pile_id}, {len(message)} bytes")

    def _answer_records(self) -> None:
        """Once what was taken in this step is durable, with one sync for all of it."""
        answers, self._answers = self._answers, []
        if not self.records.commit():
            return self._note(UNWRITTEN, f"{len(answers)} OCMF records")
        if not answers:
            return None
        with self.engine.turn():
            signer = self._attester()
        if signer is None:
            return None  # another's answer counts: the pile sends again until it has one
        for pile_id, message, outcome in answers:
            answer = sign_answer(self.chain_id, pile_id, message, outcome, signer)
            self.connection.publish(topics.pile_topic(self.chain_id, pile_id, RECORDED), answer)
        return None

    def _attester(self) -> cose.SoftwareSigner | None:
        """A key here by which piles believe an answer; None if this node is not in the set: then another answers."""
        for validator in self._validators_at(self.engine.height + 1) or []:
            if validator.party in self._attesters:
                return self._attesters[validator.party]
        return None

    def _take_batch(self, message: bytes) -> None:
        """What a verify worker brings: taken as verified if it knows the keys that the chain knows."""
        try:
            batch = self.roster.open(message)
        except PilechainError as error:
            return self._note(error.code, f"batch of a worker, {len(message)} bytes: {error}")
        piles = [pile_of_proof(self.engine.state, proof) for proof in batch.verified]
        known = [pile.public for pile in piles if pile is not None]
        is_believed = len(known) == len(piles) and keys_digest(known) == batch.keys
        if not is_believed:
            self._note("stale_keys", f"a worker verified {len(piles)} proofs by other keys than the chain's")
        for pile, proof in zip(piles, batch.verified, strict=True):
            self._take_proof(pile.id if pile else "?", proof, verified=is_believed)
        for pile_id, proof in batch.rest:
            self._take_proof(pile_id, proof)
        return None

    def _take_proof(self, pile_id: str, payload: bytes, *, verified: bool = False) -> None:
        outcome = self.desk.offer(self.engine.state, pile_id, payload, verified=verified)
        if outcome == READY:
            self.troubles.took(pile_id)
            self.counts[READY] += 1
            return None
        if outcome == WAITING:  # half of them, where two workers bring a pile's proofs
            self.troubles.refused(pile_id, WAITING, self.config.clock.now_ms())
            self.counts[WAITING] += 1
            return None
        what = f"proof from {pile_id}, {len(payload)} bytes"
        if outcome in {REPLAYED, FORK}:
            self._unheard[pile_id] = None
        if outcome not in {REPLAYED, "unknown_pile"}:
            times = self.troubles.refused(pile_id, outcome, self.config.clock.now_ms())
            what += f", {times} of this pile since the last that was taken; see `wallet piles`"
        return self._note(outcome, what)

    def _hear_status(self, pile_id: str, payload: bytes) -> None:
        """A hint only, unsigned: piles that come online hear what they missed, and people what a pile complains of."""
        try:
            status = items(decode(payload, topics.MAX_STATUS_BYTES), STATUS_ITEMS)
            if not status or status[0] != ONLINE:
                self._online.pop(pile_id, None)
                return None
            _, _, _, _, believed, code = array(status, STATUS_ITEMS)
            believed = check_bytes("validators", believed, 32, 32)
        except PilechainError as error:
            return self._note(error.code, f"status from {pile_id}")
        if self.engine.state.find(Pile, pile_id) is None:
            return self._note("unknown_pile", f"status from {pile_id}")
        if self.troubles.says(pile_id, code):
            log(f"{pile_id} says: {self.troubles.said(pile_id) or 'all is well again'}")
        self._online[pile_id] = believed
        if isinstance(payload, Kept) and self.servers.rank(pile_id) > 0:
            return None  # it said so before we came, and another has answered
        return self._lead(pile_id, believed)

    def _take_transaction(self, party: str, payload: bytes) -> None:
        """Answer for a transaction, now or when it is in a block; its ring signatures are checked elsewhere before."""
        tx_id = sha256(payload)
        committed = self.engine.find_tx(tx_id)
        if committed is not None:
            height, position = committed
            result = self.engine.block(height).results[position]
            return self._reply(party, "result", [tx_id, height, result.code, result.message])
        if self.rings.holds(tx_id) or (tx_id in self._awaited and self.engine.waits(tx_id)):
            return None
        try:
            tx = decode_transaction(payload)
            claims = ring_claims(self.engine.state, self.engine.env(self.config.clock.now_ms()), tx)
        except Rejection as refusal:
            return self._refuse(party, tx_id, refusal)
        if not claims:
            return self._enter(party, payload)
        if not self.rings.offer(party, payload, tx, claims):
            self._refuse(
                party, tx_id, BusyError("too many anonymous transactions came at once; send again in a moment")
            )
        return None

    def _take_rings(self) -> None:
        """Hand over those whose ring signatures were checked meanwhile."""
        if len(self.rings):
            with self.engine.turn():
                for party, payload in self.rings.take():
                    self._enter(party, payload)

    def _enter(self, party: str, payload: bytes) -> None:
        if len(self._awaited) >= MAX_AWAITED:  # those that the engine gave up nobody will hear of
            self._awaited = {waiting: sender for waiting, sender in self._awaited.items() if self.engine.waits(waiting)}
        try:
            tx = self.engine.submit(payload)
        except (Rejection, BusyError) as refusal:
            return self._refuse(party, sha256(payload), refusal)
        self._awaited[tx.id] = tx.sender
        return None

    def _refuse(self, party: str, tx_id: bytes, refusal: Rejection | BusyError) -> None:
        self._note(refusal.code, f"transaction from {party}: {refusal}")
        self._reply(party, "result", [tx_id, 0, refusal.code, str(refusal)])

    def _answer_query(self, party: str, payload: bytes) -> None:
        answer = self.queries.answer(party, payload)
        if isinstance(answer, str):
            self._note(answer, f"query from {party}")
            return
        self._reply(party, "answer", answer)

    def _reply(self, party: str, kind: str, value: list[object]) -> None:
        if self.signer is None:
            return  # we serve nobody: a coordinator answers
        reply = encode(value)
        if len(reply) > 60_000:  # a certificate: signed by its hash, as COSE payload lengths have 16 bits here
            signed = cose.sign1(sha256(reply), self.signer, cose.purpose(cose.REPLY, self.chain_id))
            message = encode([signed, reply])
        else:
            message = encode([cose.sign1(reply, self.signer, cose.purpose(cose.REPLY, self.chain_id)), None])
        self.connection.publish(topics.party_topic(self.chain_id, party, kind), message)

    def _note(self, reason: str, what: str) -> None:
        """Count every message; log a refused one, at most one line a second per reason."""
        self.counts[reason] += 1
        now_ms = time.monotonic_ns() // 1_000_000
        if reason not in _QUIET and now_ms - self._logged_ms.get(reason, -LOG_EVERY_MS) >= LOG_EVERY_MS:
            self._logged_ms[reason] = now_ms
            log(f"refused ({reason}, {self.counts[reason]} so far): {what}")

    # --- blocks --------------------------------------------------------------------------------------------------

    def make_block(self) -> Block | None:
        """Hand over what is ready, and let the engine do what is to be done; the last block it made known, if any."""
        for batch in self.desk.take_batches():
            self._submit(batch)
        self.accuser.tend()
        return self.engine.advance(self._block_time.now_ms())

    def _submit(self, batch: SubmitProofs) -> None:
        assert self.signer is not None
        party = self.config.party
        sequence = self.engine.next_sequence(party)
        until = self.engine.height + VALID_BLOCKS
        tx = sign_transaction(self.signer, self.chain_id, party, sequence, until, batch)
        try:
            self.engine.submit(tx, bounded=False)  # the desk bounds them
        except BusyError as waits:  # another coordinator brings the same proofs
            self._note(PASSED_BY, f"batch of {len(batch.proofs)} proofs: {waits}")

    def _after_block(self, block: Block) -> None:
        if block.header.height == self.evidence.height + 1 and not self.evidence.is_away:  # else older ones come first
            try:
                self.evidence.write(block)
            except EvidenceAwayError:
                self._note_evidence_away()
        self.accuser.after_block(block)
        with self.engine.turn():
            self._tell_of(block)

    def _tell_of(self, block: Block) -> None:
        """Answer who waits for a block's transactions, and pass its events on."""
        self.desk.committed(self.engine.state)
        for topic, keys in self.roster.key_lists_after(block, self.engine.state) if self.roster else ():
            self.connection.publish(topic, keys, retained=True)
        height = block.header.height
        for result in block.results:
            sender = self._awaited.pop(result.tx_id, None)
            if sender is not None:
                self._reply(sender, "result", [result.tx_id, height, result.code, result.message])
        if block.header.validators_hash != block.header.next_validators_hash:
            self._hand_over(block)
        for index in range(len(block.txs), len(block.leaves)):
            self._tell(block, index)
        self._log_pauses(height)

    def _tell(self, block: Block, index: int) -> None:
        """Pass on an event to the pile that must know it, and to the log if people should."""
        leaf = cast("list[object]", decode(block.leaves[index], MAX_LEAF_BYTES))
        kind, height = leaf[0], block.header.height
        if kind == LEAF_RECEIPT:
            self._to_pile(cast("str", leaf[1]), "receipt", block, index, news=True)
        elif kind in {LEAF_CONTRACT, LEAF_PROPOSED}:
            terms = decode_terms(cast("bytes", leaf[1]))
            word = "signed" if kind == LEAF_CONTRACT else "are to sign"
            if kind == LEAF_PROPOSED or not self._was_repeated(terms.contract_id()):
                log(f"block {height}: {terms.user} and {terms.owner} {word} {terms.energy_wh} Wh on {terms.pile}")
            if kind == LEAF_CONTRACT:
                self._to_pile(terms.pile, "contract", block, index, news=True)
        elif kind == LEAF_DISPUTE:
            _, contract, side, ground, claimed_wh, _ = leaf
            who = "the user" if side == USER else "the owner"
            log(f"block {height}: {_short(contract)} disputed by {who}: {ground}, claims {claimed_wh} Wh")
        elif kind == LEAF_TARIFF:
            log(f"block {height}: a tariff of {len(cast('list[object]', leaf[3]))} periods is in force")
        elif kind == LEAF_CLOSED:
            self._closed(block, index, cast("bytes", leaf[1]), cast("str", leaf[2]))
        elif said := node_event(leaf, self.config.genesis.params.currency):
            log(f"block {height}: {said}")

    def _closed(self, block: Block, index: int, order: bytes, outcome: str) -> None:
        """An order or contract ended. The pile of a contract that was signed hears of it."""
        log(f"block {block.header.height}: order {_short(order)} {outcome}")
        self.stops.forget(order)
        self._tell_pile_of_closing(block, index, order, outcome)

    def _tell_pile_of_closing(self, block: Block, index: int, order: bytes, outcome: str) -> None:
        if self._lacks_evidence:
            self._unsaid_closing = self._unsaid_closing or (block.header.height, index)
            return
        pile = self.queries.pile_of_contract(order)
        if pile is not None and outcome != UNSIGNED:
            self._to_pile(pile, "contract", block, index, news=True)

    def _was_repeated(self, contract: bytes) -> bool:
        """Whether a contract is certified again; for the log only, so not known while the evidence is away."""
        try:
            return self.queries.was_repeated(contract)
        except EvidenceAwayError:
            return False

    def _log_pauses(self, height: int) -> None:
        pauses_ms = self._paused_zones()
        for zone, until_ms in pauses_ms.items():
            if self._pauses_ms.get(zone) != until_ms:
                log(
                    f"block {height}: the price in zone {zone} rose too fast; fills are paused until {_moment(until_ms)}"
                )
        for zone in self._pauses_ms:
            if zone not in pauses_ms:
                log(f"block {height}: fills in zone {zone} go on")
        self._pauses_ms = pauses_ms

    def _paused_zones(self) -> dict[str, int]:
        return {zone.id: zone.paused_until_ms for zone in self.engine.state.each(Zone) if zone.paused_until_ms}

    def _to_pile(self, pile: str, kind: str, block: Block, index: int, *, news: bool = False) -> None:
        if self.signer is not None:  # else we serve nobody: a coordinator tells it
            self._say(pile, kind, block.inclusion(index).encoded(), news=news)

    def _say(self, pile: str, kind: str, message: bytes, *, news: bool) -> None:
        """Say something to a pile if this coordinator speaks to it, or see to it that another does (serving.py)."""
        if self.servers.rank(pile) == 0 or not self.unsaid.owe(pile, kind, message, news=news):
            self.connection.publish(topics.pile_topic(self.chain_id, pile, kind), message)

    def _hand_over(self, block: Block) -> None:
        """The last block of a validator set: every pile has to follow to the next one."""
        log(f"block {block.header.height}: other accounting nodes from the next block on")
        message = self.engine.handover_from(block.header.validators_hash)
        for pile in self.engine.state.each(Pile):
            if message is not None and self.signer is not None and not pile.retired:
                self._say(pile.id, "validators", message, news=True)

    def _lead(self, pile_id: str, believed: bytes) -> None:
        """A pile came online: lead it to the present accounting nodes, then tell it of its last receipt and open contracts.

        It follows one handover at a time, and says after each which set it believes then. Contracts that closed before their
        window was over are told again too: a coordinator that was killed may not have said so.
        """
        if self.signer is None:
            return None
        handover = self.engine.handover_from(believed)
        if handover is not None and not self._is_present(believed):
            return self._say(pile_id, "validators", handover, news=False)
        if self._lacks_evidence:
            self._unled.add(pile_id)  # when it is whole
            return self._note(BEHIND, f"contracts of {pile_id}")
        self._repeat_receipt(pile_id)
        try:
            self._repeat_contracts(pile_id)
        except EvidenceAwayError:
            self._unled.add(pile_id)
        return None

    def _repeat_contracts(self, pile_id: str) -> None:
        for height, leaf in self.queries.closings_ahead(pile_id, self.config.clock.now_ms()):
            self._to_pile(pile_id, "contract", self.engine.block(height), leaf)
        for contract in self.engine.state.contracts_on(pile_id):
            found = self.queries.where_signed(contract.id)
            if found is not None:
                self._to_pile(pile_id, "contract", self.engine.block(found[0]), found[1])

    def _is_present(self, set_hash: bytes) -> bool:
        """Whether these accounting nodes attest the next block."""
        height = self.engine.height
        return height > 0 and self.engine.block(height).header.next_validators_hash == set_hash

    # --- other coordinators --------------------------------------------------------------------------------------

    def _hear_server(self, topic: str, payload: bytes) -> str | None:
        """Take another coordinator's presence: "" or why it was refused; None if the message is another."""
        if not topic.endswith(f"/{SERVING}"):
            return None
        with self._change_of_turns():
            return self.servers.hear(self.engine.state, topic, payload)

    def _begin_anew(self) -> None:
        """Connected: the broker may have lost what it kept, and who is there now is not known."""
        if self.roster:
            with self.engine.turn():
                lists = self.roster.key_lists(self.engine.state)
            for topic, keys in lists:
                self.connection.publish(topic, keys, retained=True)
        if self._may_share:
            self._doubt()

    def _doubt(self) -> None:
        """What others said meanwhile is not known."""
        self.servers.doubt()
        self.unsaid.doubt()
        self._share_s = time.monotonic() + SETTLE_S

    def _share(self) -> None:
        """Say that we serve once this node can; say for others what they did not."""
        now_s = time.monotonic()
        if now_s < self._share_s or not self.connection.is_connected or self._is_behind:
            return  # who lacks evidence neither says that it serves nor what others should have said
        self._share_s = now_s + SHARE_S
        if not self.servers.settled:
            with self._change_of_turns():
                self.servers.settle()
        if not self.servers.announced and now_s >= self._announce_s:
            self._announce_s = now_s + ANNOUNCE_S
            if self.engine.is_current():
                self._announce()
        if self.servers.takes_part:
            self._make_good()
            self._stand_in()

    def _announce(self) -> None:
        assert self.signer is not None
        with self._change_of_turns():
            self.servers.announced = True
            self.connection.announce(self.servers.presence(self.signer))

    def _stand_in(self) -> None:
        rows = self.unsaid.due()
        for pile, kind, message in rows:
            silent = [] if pile in self._made_good else self.servers.stood_in(pile)
            if silent:
                log(f"{pile} was not told its {kind} by {' and '.join(silent)}: said here, now and for a while")
            self.connection.publish(topics.pile_topic(self.chain_id, pile, kind), message)
        self._made_good -= {pile for pile, _, _ in rows}

    @contextmanager
    def _change_of_turns(self) -> Iterator[None]:
        """Who speaks may change meanwhile: piles that become this coordinator's hear again what they may have missed."""
        with self.engine.turn():
            before = self._spoken_to()
            yield
            for pile in self._spoken_to() - before:
                self._say_again(pile)

    def _spoken_to(self) -> set[str]:
        """The piles that are online and this coordinator's to speak to."""
        return {pile for pile in self._online if self.servers.rank(pile) == 0}

    def _make_good(self) -> None:
        """What happened before this coordinator took part others have told, if there were any."""
        if self.unsaid.missed:
            self._made_good, self.unsaid.missed = self.unsaid.missed, set()
            with self.engine.turn():
                for pile in self._made_good & self._online.keys():
                    self._say_again(pile)

    def _say_again(self, pile: str) -> None:
        if next(iter(self.engine.state.contracts_on(pile)), None) is not None:
            self._lead(pile, self._online[pile])

    def _validators_at(self, height: int) -> list[Validator] | None:
        try:
            return validators_at(self.engine.genesis, self.engine.state, height)
        except KeyError:
            return None

    def _repeat_receipts(self) -> None:
        """Once for each pile, however many proofs it sent again."""
        unheard, self._unheard = self._unheard, {}
        if unheard:
            with self.engine.turn():
                for pile_id in unheard:
                    self._repeat_receipt(pile_id)

    def _repeat_receipt(self, pile_id: str) -> None:
        try:
            found = last_receipt(self.evidence.db, pile_id)
        except EvidenceAwayError:
            return  # a pile that hears nothing sends its proof again
        if found is not None:
            self._to_pile(pile_id, "receipt", self.engine.block(found[0]), found[1])


@lru_cache(16_384)
def _parse_topic(topic: str) -> tuple[str, str, str, str]:
    """Topics repeat: a site has a few for each pile and party."""
    return parse_topic(topic)


def _short(order: object) -> str:
    return cast("bytes", order).hex()[:16]


def _moment(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms // 1000))
