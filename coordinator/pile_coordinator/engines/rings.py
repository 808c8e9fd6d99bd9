"""Ring signatures of notes, remembered, and checked by processes of their own.

One takes 4 ms, forty times an ES256 signature, and anybody may send one: nobody knows whose it is before it is checked. So
those that come are checked elsewhere before they are looked at (ring_queue.py), and what a block asks for was answered before.
They have processes of their own since no answer about an ES256 signature shall wait behind them: 128 of those took 30 ms beside
64 rings under way, as they do without any, and 800 ms behind them in one process.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from pile_coordinator.chain.env import Env, RingClaim, RingVerifier
from pile_coordinator.chain.notes import spender
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import Spend, Transaction, decode_transaction
from pile_coordinator.chain.transition import authenticate
from pile_coordinator.engines.workers import end_with_parent
from pile_coordinator.ring import signature as ring
from pile_shared.codec import encode
from pile_shared.platform import sha256

# Remembered, true or false: hashes of 32 bytes, some 10 MB.
MAX_ANSWERS = 65_536
# Claims that one process is told of ahead: a quarter of a second, for which a block may wait behind them.
MAX_UNDER_WAY = 64
# For an answer: MAX_UNDER_WAY and a block's take a process some seconds, so one that is slower does not run any more.
MAX_WAIT_S = 10
# A message to a process and back costs who sends it 0.5 ms; more in one would make a lone order slower.
BATCH_CLAIMS = 4
# In a proposal: two seconds of one core, what a node that hears of them first with it can check in its time.
MAX_BLOCK_RINGS = 512
MAX_PROCESSES = 4


def processes_for(cpus: int | None) -> int:
    """How many processes check rings on a machine: the chain, ES256 signatures and CometBFT need processors too."""
    return min(MAX_PROCESSES, max(1, (cpus or 1) - 2))


class CachingRings:
    """A ring verifier that remembers its answers, so that who takes a transaction, CheckTx and the block pay for it once."""

    def __init__(self, verify: RingVerifier = ring.verify) -> None:
        """Wrap a pure verify(keys, context, image, message, signature)."""
        self._here = verify
        self._answers: dict[bytes, bool] = {}

    def __call__(self, keys: bytes, context: bytes, image: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is valid; the same answer the wrapped function gives."""
        claim = (keys, context, image, message, signature)
        name = claim_name(claim)
        known = self._answers.get(name)
        if known is not None:
            return known
        return self._remember(name, self._answer(name, claim))

    def knows(self, claim: RingClaim) -> bool:
        """Whether asking for this costs nothing, whatever the answer is."""
        return self.has_answer(claim_name(claim))

    def has_answer(self, name: bytes) -> bool:
        """The same of a claim that `claim_name` gave this name."""
        return name in self._answers

    def tell_ahead(self, claims: Iterable[RingClaim]) -> None:
        """Have signatures checked that will be asked for soon: where there is nobody else to do it, later."""

    def share(self, claims: Iterable[RingClaim]) -> None:
        """Have part of these checked elsewhere, all of which will be asked for now, one after the other."""

    def close(self) -> None:
        """Everything is verified here from now on."""

    def _answer(self, name: bytes, claim: RingClaim) -> bool:
        assert name
        return self._here(*claim)

    def _remember(self, name: bytes, answer: bool) -> bool:
        if len(self._answers) >= MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        self._answers[name] = answer
        return answer


class RingProcesses(CachingRings):
    """Rings checked by other processes. Used by one thread at a time.

    They start when they are first told of something, end with `close`, and do not outlive this one (workers.py). Nothing
    depends on them: what they have not been told of, or cannot answer because they were killed, is verified here.
    """

    def __init__(self, processes: int, verify: RingVerifier = ring.verify) -> None:
        """Have so many processes call `verify`, a function of a module: they import it."""
        super().__init__(verify)
        self.processes = processes
        self.on_answer: Callable[[], None] = lambda: None
        self._under_way: dict[bytes, tuple[Future[list[bool]], int]] = {}  # with the place in its batch
        self._told: deque[tuple[Future[list[bool]], list[bytes]]] = deque()
        self._pool: ProcessPoolExecutor | None = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        )

    @property
    def is_away(self) -> bool:
        """Whether the processes are gone, and everything is verified here."""
        return self._pool is None

    @property
    def room(self) -> int:
        """How many more claims may be told ahead now."""
        self.gather()
        return max(0, MAX_UNDER_WAY * self.processes - len(self._under_way)) if self._pool is not None else 0

    def knows(self, claim: RingClaim) -> bool:
        """Whether asking for this costs nothing, whatever the answer is."""
        self.gather()
        return super().knows(claim)

    def tell_ahead(self, claims: Iterable[RingClaim]) -> None:
        """Have signatures checked that will be asked for soon: as many as there is room for."""
        self._tell(self._new(claims)[: self.room])

    def share(self, claims: Iterable[RingClaim]) -> None:
        """Have part of these checked elsewhere, all of which will be asked for now: the last ones; the first are begun here."""
        new = self._new(claims)
        self._tell(new[-(len(new) * self.processes // (self.processes + 1)) :] if len(new) > 1 else [])

    def _new(self, claims: Iterable[RingClaim]) -> list[tuple[bytes, RingClaim]]:
        self.gather()
        named = {claim_name(claim): claim for claim in claims}
        return [(n, claim) for n, claim in named.items() if n not in self._answers and n not in self._under_way]

    def _tell(self, new: list[tuple[bytes, RingClaim]]) -> None:
        for start in range(0, len(new), BATCH_CLAIMS):
            batch = new[start : start + BATCH_CLAIMS]
            if self._pool is None:
                return
            try:
                future = self._pool.submit(_check, self._here, [claim for _, claim in batch])
            except BrokenProcessPool:
                self.close()
                return
            self._told.append((future, [name for name, _ in batch]))
            for place, (name, _) in enumerate(batch):
                self._under_way[name] = (future, place)
            future.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        self.on_answer()

    def gather(self) -> None:
        """Remember what was answered meanwhile; several processes answer in any order, so only roughly the first first."""
        while self._told and self._told[0][0].done():
            future, names = self._told.popleft()
            if future.cancelled() or future.exception() is not None:  # somebody killed it
                self.close()
                return
            for name, answer in zip(names, future.result(), strict=True):
                self._under_way.pop(name, None)
                self._remember(name, answer)

    def _answer(self, name: bytes, claim: RingClaim) -> bool:
        told = self._under_way.pop(name, None)
        if told is not None:
            future, place = told
            try:
                return future.result(MAX_WAIT_S)[place]
            except (BrokenProcessPool, TimeoutError):  # somebody killed or stopped it
                self.close()
        return super()._answer(name, claim)

    def close(self) -> None:
        """End the processes. Everything is verified here from now on."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        self._under_way.clear()
        self._told.clear()
        self.on_answer()


def ring_claims(state: State, env: Env, tx: Transaction) -> list[RingClaim]:
    """The ring signatures on which alone it depends whether a transaction may wait for a block; none where it has none.

    All that can be told without them is looked at here, which costs a hundredth of one; the age of bins, too, which the chain
    itself leaves to the block: `env` has the time at which it will be made, as nearly as it is known.

    Raises:
        Rejection: it cannot succeed, whoever signed it.
    """
    claims: list[RingClaim] = []

    def note(*claim: bytes) -> bool:
        claims.append(claim)  # type: ignore[arg-type]
        return True

    if tx.signed is None:
        authenticate(state, replace(env, verify_ring=note), tx, waiting=True)
        if isinstance(tx.body, Spend):
            spender(state, env, tx, tx.body)
    return claims


def share_rings(state: State, env: Env, rings: CachingRings, txs: Iterable[bytes]) -> None:
    """Have some of the rings of transactions that are now checked here, one after the other, checked elsewhere."""
    if state.note_rules is None:
        return
    claims: list[RingClaim] = []
    for data in txs:
        try:
            claims += ring_claims(state, env, decode_transaction(data))
        except Rejection:
            continue  # it is refused without them
        if len(claims) >= MAX_BLOCK_RINGS:
            break
    rings.share(claims)


def images_of(tx: Transaction) -> list[bytes]:
    """The key images of the notes that a transaction spends."""
    return [image for _, image in tx.body.notes] if isinstance(tx.body, Spend) else []


def claim_name(claim: RingClaim) -> bytes:
    """By which a claim is remembered: 32 bytes for all that it says."""
    return sha256(encode(list(claim)))


# --- in the other processes ------------------------------------------------------------------------------------------


def _check(verify: RingVerifier, claims: list[RingClaim]) -> list[bool]:
    return [verify(*claim) for claim in claims]
