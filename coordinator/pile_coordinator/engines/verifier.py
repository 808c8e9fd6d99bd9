"""Signatures of the next block are checked on a second core while the first applies this one.

Verifying is nearly all of what a proof costs besides the law, it needs no state, and Python runs one thread at a time; so it
has a process of its own. Nothing depends on it: what it has not been told of, or cannot answer because it was killed, is
verified here, and the answers are the same.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import Party, PartyKey, Pile, PileKey
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_TX_BYTES
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.engines.rings import RingProcesses, processes_for
from pile_coordinator.engines.workers import end_with_parent
from pile_shared import cose
from pile_shared.errors import PilechainError, SignatureError
from pile_shared.platform import es256_verify

MAX_UNDER_WAY = 8192  # claims told of and not asked for yet: two full blocks of proofs, some 4 MB
MAX_WAIT_S = 10  # for an answer; MAX_UNDER_WAY claims take the process a second, so it does not run any more
BATCH_CLAIMS = 128  # a message to the process and back costs 0.2 ms, checking this many some 10 ms

Claim = tuple[bytes, bytes, bytes]
"""(public, message, signature): what somebody says who sends a signature."""


class _Batch:
    """Claims that went to the process together, and its answers once they were needed."""

    __slots__ = ("_answers", "_future")

    def __init__(self, future: Future[list[bool]]) -> None:
        self._future = future
        self._answers: list[bool] | None = None

    def answer(self, place: int) -> bool:
        if self._answers is None:
            self._answers = self._future.result(MAX_WAIT_S)
        return self._answers[place]


class SecondCoreVerifier(CachingVerifier):
    """A caching verifier that can be told ahead what it will be asked. Used by one thread.

    The process starts when it is first told of something, ends with `close`, and does not outlive this one. It is a fresh
    interpreter (a fork would copy threads of MQTT), so the program's main module must do nothing when it is imported.
    """

    rings: RingProcesses

    def __init__(self, verify: Callable[[bytes, bytes, bytes], bool] = es256_verify) -> None:
        """Wrap a pure verify(public, message, signature), a function of a module: the process imports it."""
        super().__init__(self._answer, RingProcesses(processes_for(os.cpu_count())))
        self._here = verify
        self._under_way: dict[Claim, tuple[_Batch, int]] = {}  # with the place in its batch
        self._pool: ProcessPoolExecutor | None = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        )

    def tell_ahead(self, claims: Iterable[Claim]) -> None:
        """Have signatures checked that will be asked for soon. Beyond MAX_UNDER_WAY the oldest are given up."""
        new = [claim for claim in dict.fromkeys(claims) if claim not in self._valid and claim not in self._under_way]
        for start in range(0, len(new), BATCH_CLAIMS):
            self._tell(new[start : start + BATCH_CLAIMS])
        while len(self._under_way) > MAX_UNDER_WAY:
            del self._under_way[next(iter(self._under_way))]

    def _tell(self, batch: list[Claim]) -> None:
        if self._pool is None:
            return
        try:
            sent = _Batch(self._pool.submit(_check, self._here, batch))
        except BrokenProcessPool:
            self.close()
            return
        for place, claim in enumerate(batch):
            self._under_way[claim] = (sent, place)

    def _answer(self, public: bytes, message: bytes, signature: bytes) -> bool:
        told = self._under_way.pop((public, message, signature), None)
        if told is not None:
            batch, place = told
            try:
                return batch.answer(place)
            except (BrokenProcessPool, TimeoutError):  # somebody killed or stopped it
                self.close()
        return self._here(public, message, signature)

    def close(self) -> None:
        """End the process. Everything is verified here from now on."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        self._under_way.clear()

    def end(self) -> None:
        """End this process and those of the rings."""
        self.close()
        self.rings.close()


def claim_of_transaction(state: State, chain_id: str, data: bytes) -> Claim | None:
    """What a transaction claims to be signed by, if its sender's key is known; its content is not looked at."""
    try:
        signed = cose.parse1(data, MAX_TX_BYTES)
    except SignatureError:
        return None  # it will be refused for this
    return _claim(signed, _party_key(state, signed.kid), cose.purpose(cose.TRANSACTION, chain_id))


def claim_of_proof(state: State, chain_id: str, data: bytes) -> Claim | None:
    """What a metering proof claims to be signed by, if its pile's key is known."""
    try:
        signed, _ = parse_proof(data)  # it is remembered, and asked for again soon
    except PilechainError:
        return None
    return _claim(signed, _pile_key(state, signed.kid), cose.purpose(cose.PROOF, chain_id))


def pile_of_proof(state: State, message: bytes) -> Pile | None:
    """The pile whose key id a proof carries, if there is one; nothing of it is verified."""
    try:
        signed, _ = parse_proof(message)
    except PilechainError:
        return None
    key = state.find(PileKey, signed.kid)
    return state.get(Pile, key.pile) if key else None


def _claim(signed: cose.Sign1, public: bytes | None, aad: bytes) -> Claim | None:
    return (public, cose.to_be_signed(signed.kid, signed.payload, aad), signed.signature) if public else None


def _party_key(state: State, kid: bytes) -> bytes | None:
    key = state.find(PartyKey, kid)
    return state.get(Party, key.party).public if key else None


def _pile_key(state: State, kid: bytes) -> bytes | None:
    key = state.find(PileKey, kid)
    return state.get(Pile, key.pile).public if key else None


# --- in the other process --------------------------------------------------------------------------------------------


def _check(verify: Callable[[bytes, bytes, bytes], bool], claims: list[Claim]) -> list[bool]:
    return [verify(*claim) for claim in claims]
