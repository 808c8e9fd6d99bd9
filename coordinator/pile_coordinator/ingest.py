"""From MQTT messages to verified, ordered batches of metering proofs: the paper's preprocessing of the block.

Nothing here decides about money. A message that is malformed, oversized, badly signed, replayed or out of order is counted
under its reason, logged once a second at most per reason, and changes nothing. A proof ahead of its turn waits, bounded;
the pile sends everything again until a receipt covers it, so dropping is always safe. What the chain could not take is
dropped here, so that a pile that repeats it for weeks fills no blocks.

Where several coordinators hear the same piles, the proofs of those that another speaks for are held for a while: mostly the
chain has them before, and they are forgotten.
"""

import time
from collections import Counter
from collections.abc import Callable

from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Pile, PileKey
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_BATCH_PROOFS, MAX_TX_BYTES, SubmitProofs
from pile_coordinator.engines.engine import CachingVerifier
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.proof import proof_hash

MAX_AHEAD = 64  # proofs of one pile that may wait for a missing one: three times what a pile keeps in flight
MAX_READY = 16_384  # proofs that wait for a block; above it new ones are dropped and sent again by their piles
_BATCH_BYTES = MAX_TX_BYTES - 1024  # room for the transaction around a batch

READY, WAITING = "ready", "waiting"
REPLAYED, FORK, UNCHAINED = "replayed", "fork", "unchained"


class ProofDesk:
    """Collects proofs until the next block. Used by one thread.

    Attributes:
        counts: how many messages ended how: `ready`, `waiting`, or the reason they were refused.
    """

    def __init__(
        self,
        chain_id: str,
        verify: CachingVerifier,
        wait_s: Callable[[str], float] = lambda _: 0.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve one chain with the engine's verifier, so that a signature is checked once.

        Args:
            chain_id: the chain.
            verify: checks signatures.
            wait_s: how long other coordinators have to bring a pile's proofs; 0 for a pile that is this one's.
            now_s: a clock that only runs forward.
        """
        self._aad = cose.purpose(cose.PROOF, chain_id)
        self._verify = verify
        self._wait_s = wait_s
        self._now_s = now_s
        self._ready: list[bytes] = []
        self._held: dict[str, list[tuple[int, bytes, bytes, float]]] = {}  # by pile: sequence, previous, message, since
        self._held_count = 0
        self._next: dict[str, tuple[int, bytes]] = {}  # sequence and `previous` of what a pile should send next
        self._ahead: dict[str, dict[int, tuple[bytes, bytes]]] = {}  # by sequence: `previous` and the message
        self.counts: Counter[str] = Counter()

    def offer(self, state: State, pile_id: str, message: bytes, *, verified: bool = False) -> str:
        """Take one message from a pile's topic; READY, WAITING, or the reason it was refused.

        `verified`: a worker vouches for its signature by this pile's key.
        """
        outcome = self._offer(state, pile_id, message, verified=verified)
        self.counts[outcome] += 1
        return outcome

    def _offer(self, state: State, pile_id: str, message: bytes, *, verified: bool) -> str:
        pile = state.find(Pile, pile_id)
        if pile is None or pile.retired:  # whoever stole it may repeat its proofs for ever
            return "unknown_pile"
        try:
            signed, proof = parse_proof(message)
        except PilechainError as error:
            return error.code
        key = state.find(PileKey, signed.kid)
        if key is None or key.pile != pile_id:
            return "unknown_key"
        expected, previous = self._next.get(pile_id, (pile.last_sequence + 1, pile.last_hash))
        if proof.sequence < expected and not _retells(pile, proof.sequence, message):
            return REPLAYED
        if proof.sequence > expected + MAX_AHEAD:
            return "too_far_ahead"
        if len(self._ready) + self._held_count >= MAX_READY:
            return "overloaded"
        claim = pile.public, cose.to_be_signed(signed.kid, signed.payload, self._aad), signed.signature
        if verified:
            self._verify.believe(*claim)
        elif not self._verify(*claim):
            return "bad_signature"
        if proof.sequence < expected:
            return FORK
        if proof.sequence > expected:
            self._ahead.setdefault(pile_id, {})[proof.sequence] = (proof.previous, message)
            return WAITING
        if proof.previous != previous:
            return UNCHAINED
        self._take(pile_id, proof.sequence, previous, message)
        self._next[pile_id] = self._take_waiting(pile_id, expected + 1, proof_hash(message))
        return READY

    def _take(self, pile_id: str, sequence: int, previous: bytes, message: bytes) -> None:
        """A proof's turn has come: it goes into the next batch, or is held while it is another coordinator's."""
        if self._wait_s(pile_id) <= 0 and pile_id not in self._held:
            self._ready.append(message)
            return
        self._held.setdefault(pile_id, []).append((sequence, previous, message, self._now_s()))
        self._held_count += 1

    def _release(self) -> None:
        """What nobody has brought in time, or has become ours to bring, is ready."""
        now_s = self._now_s()
        for pile_id, held in list(self._held.items()):
            if now_s - held[0][3] >= self._wait_s(pile_id):
                self._ready += [message for _, _, message, _ in held]
                self._let_go(pile_id)

    def _let_go(self, pile_id: str) -> None:
        self._held_count -= len(self._held.pop(pile_id))

    def _take_waiting(self, pile_id: str, sequence: int, digest: bytes) -> tuple[int, bytes]:
        """What waited for a proof of this hash, and what is expected then. One that does not follow is dropped."""
        waiting = self._ahead.get(pile_id)
        while waiting and sequence in waiting:
            previous, message = waiting.pop(sequence)
            if previous != digest:
                break
            self._take(pile_id, sequence, previous, message)
            sequence, digest = sequence + 1, proof_hash(message)
        if not waiting:
            self._ahead.pop(pile_id, None)
        return sequence, digest

    @property
    def ready(self) -> int:
        """Proofs that wait for the next block."""
        return len(self._ready)

    def take_batches(self) -> list[SubmitProofs]:
        """What is ready, in order, as transaction bodies of bounded size; only what is held stays."""
        self._release()
        batches: list[SubmitProofs] = []
        batch: list[bytes] = []
        size = 0
        for message in self._ready:
            if len(batch) == MAX_BATCH_PROOFS or size + len(message) + 3 > _BATCH_BYTES:
                batches.append(SubmitProofs(batch))
                batch, size = [], 0
            batch.append(message)
            size += len(message) + 3
        if batch:
            batches.append(SubmitProofs(batch))
        self._ready = []
        return batches

    def committed(self, state: State) -> None:
        """After a block: what piles' chains say now is what is expected next, whatever became of a batch."""
        self._next.clear()
        for pile_id in list(self._held):
            self._keep_held(state.get(Pile, pile_id))
        for pile_id, waiting in list(self._ahead.items()):
            pile = state.get(Pile, pile_id)
            for sequence in [s for s in waiting if s <= pile.last_sequence]:
                del waiting[sequence]
            due = self._next.get(pile_id, (pile.last_sequence + 1, pile.last_hash))
            if due[0] in waiting:  # what it waited for was in a batch of its own
                self._next[pile_id] = self._take_waiting(pile_id, *due)
            if not waiting:
                self._ahead.pop(pile_id, None)

    def _keep_held(self, pile: Pile) -> None:
        """Hold on to what the chain does not have yet, if it follows what the chain has."""
        left = [row for row in self._held[pile.id] if row[0] > pile.last_sequence]
        self._let_go(pile.id)
        if left and left[0][:2] == (pile.last_sequence + 1, pile.last_hash):
            self._held[pile.id] = left
            self._held_count += len(left)
            self._next[pile.id] = left[-1][0] + 1, proof_hash(left[-1][2])


def _retells(pile: Pile, sequence: int, message: bytes) -> bool:
    """Whether this is another proof of the newest sequence on the chain than the one that is there."""
    return sequence == pile.last_sequence and proof_hash(message) != pile.last_hash
