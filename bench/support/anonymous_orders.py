"""Whole lives of anonymous orders beside the same orders paid from accounts, through the solo engine, in the same run.

A life is a listing, a bid, a half-hour session as an agent reports it, and two confirmations, from the bytes of transactions
to durable blocks. An account's user signs bid and confirmation with ES256. An anonymous one pays with two notes, so the chain
checks two rings for the bid and one for the confirmation; and its change becomes notes. Signatures go the way they go in the
coordinator: ES256 to the second core, rings to their own processes, while blocks are made.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, report
from bench.support.market import POWER_W, VALID_BLOCKS, Market, RecordedBlock, engine, env, replay
from pile_coordinator.chain import notes
from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.chain.records import NoteBin
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    Body,
    BuyNotes,
    Confirm,
    SubmitProofs,
    decode_transaction,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.engines.rings import RingProcesses, ring_claims
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.verifier import Claim, SecondCoreVerifier, claim_of_proof, claim_of_transaction
from pile_coordinator.ring import signature
from pile_coordinator.ring.keys import base_public, base_secret, note_secret
from pile_coordinator.ring_queue import RingQueue

PILES, LIVES, MINUTES = 48, 3, 30  # 144 orders, nine bins of each denomination
READ_AHEAD = 6  # blocks whose rings may be queued already: what others send while one is made
DENOMINATIONS = (3, 5)  # 0.80 and 3.20: what 3.5 kWh may cost at most, with the fee
NOTES = {"unit_micro": 100_000, "denominations": 6, "bin_age_ms": 1}
BOUGHT_AT_ONCE = 24  # of each of the two
LIMIT_MICRO = 1_000_000
RINGS = len(DENOMINATIONS) + 1
ROUNDS = 3
PROCESSES = (1, 2)
ACCOUNTS = "the same orders/s paid from accounts"


@dataclass(frozen=True)
class _Note:
    secret: bytes
    bin: bytes
    ring: bytes
    place: int
    context: bytes

    @property
    def row(self) -> list[bytes]:
        """As a transaction names it."""
        return [self.bin, signature.key_image(self.secret, self.context)]


class AnonymousMarket(Market):
    """A market whose bids are paid with two notes each, of one who bought them all."""

    def __init__(self) -> None:
        """Start from genesis."""
        super().__init__(signed=True, notes=NOTES)
        self._bases = 0
        self._purses: list[tuple[_Note, ...]] = []
        self._leading: dict[str, _Note] = {}

    def buy(self, count: int) -> None:
        """Two blocks: notes for so many orders, in bins that are full; and these old enough."""
        secrets: dict[bytes, bytes] = {}
        counts = [BOUGHT_AT_ONCE * (k in DENOMINATIONS) for k in range(max(DENOMINATIONS) + 1)]
        for _ in range(count // BOUGHT_AT_ONCE):
            secret = self._base()
            secrets[base_public(secret)] = secret
            self.send("user-0", BuyNotes(base_public(secret), counts))
        self.block()
        self.block()
        found: dict[int, list[_Note]] = {k: [] for k in DENOMINATIONS}
        for one in self.state.each(NoteBin):
            for place, (public, base, source) in enumerate(one.notes):
                secret = next(s for n in range(64) if base_public(s := note_secret(secrets[base], source, n)) == public)
                context = notes.context(self.chain_id, one.id)
                found[one.id[0]].append(_Note(secret, one.id, notes.ring_of(one), place, context))
        self._purses = list(zip(*found.values(), strict=True))

    def _base(self) -> bytes:
        self._bases += 1
        return base_secret(bytes(32), self.chain_id, self._bases)

    def _order(self, pile: int, start_ms: int, minutes: int) -> None:
        paid = self._purses.pop()
        public = self.key(f"order-{len(self._purses)}").public
        self._leading[pseudonym(public)] = paid[0]
        energy_wh, end_ms = POWER_W * minutes // 60 // 100 * 100, start_ms + (minutes + 15) * 60_000
        window = (self.zone(pile), f"pile-{pile}", energy_wh, start_ms, end_ms, LIMIT_MICRO, False, end_ms)
        refund = base_public(self._base())
        body = AnonymousBid([note.row for note in paid], public, refund, *window)
        self._send_nobody(pseudonym(public), 1, body, paid)

    def _confirm(self, user: str, confirm: Confirm) -> None:
        self._send_nobody(user, 2, confirm, (self._leading[user],))

    def _send_nobody(self, who: str, sequence: int, body: Body, paid: tuple[_Note, ...]) -> None:
        def rings(message: bytes) -> list[bytes]:
            return [signature.sign(note.secret, note.ring, note.place, note.context, message) for note in paid]

        self.queue(ring_sign_transaction(rings, self.chain_id, who, sequence, VALID_BLOCKS, body))


def figures() -> Iterator[Figure]:
    """Orders a second, anonymous ones beside account-funded ones; and beside what the processes could check of their rings."""
    accounts, anonymous = Market(signed=True), AnonymousMarket()
    for market in (accounts, anonymous):
        market.admit(PILES, PILES)
    anonymous.buy(PILES * LIVES)
    runs = [_Run(market) for market in (accounts, anonymous)]
    rounds = [_round(*runs) for _ in range(ROUNDS)]
    bare, (named, named_cpu), *by_processes = (_medians(column) for column in zip(*rounds, strict=True))
    for processes, (rate, _) in zip(PROCESSES, by_processes, strict=True):
        yield Figure(f"orders-anonymous-{processes}", rate, "orders/s", named, ACCOUNTS, "")
    cpu = statistics.median(made for _, made in by_processes)
    yield Figure("orders-anonymous-blocks", cpu, "orders/s", named_cpu, f"{ACCOUNTS}, in time of who makes blocks", "")
    limit_is = f"orders/s by time of who makes blocks: what {RINGS} rings leave of it where one core checks them"
    yield Figure("orders-anonymous-rings", bare[0] / RINGS, "orders/s", cpu, limit_is, "")


def _medians(column: tuple[tuple[float, ...], ...]) -> list[float]:
    return [*map(statistics.median, zip(*column, strict=True))]


class _Run:
    """A market's blocks: those before its orders, and their lives."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.before = list(market.blocks)
        self.lives = market.live(PILES, LIVES, MINUTES)


def _round(accounts: _Run, anonymous: _Run) -> list[tuple[float, ...]]:
    """Bare rings a second of one core; then what `_orders` says, from accounts, and anonymous with each number of processes."""
    return [(_bare(anonymous),), _orders(accounts, 1), *(_orders(anonymous, processes) for processes in PROCESSES)]


def _bare(run: _Run) -> float:
    """Ring signatures that this process checks in a second of its time; of bins whose other half is known."""
    genesis, height = run.market.genesis, len(run.before) + 1
    state, bids = replay(genesis, run.before), run.lives[0]
    of_block = env(genesis.chain_id, height, bids.time_ms)
    claims = [claim for tx in bids.txs for claim in ring_claims(state, of_block, decode_transaction(tx))]
    for first in {claim[:2]: claim for claim in claims}.values():
        assert signature.verify(*first)
    began = time.process_time()
    for claim in claims:
        signature.verify(*claim)
    return len(claims) / (time.process_time() - began)


def _orders(run: _Run, processes: int) -> tuple[float, float]:
    """Orders a second from bytes to durable blocks, with so many processes for rings; and by this process's own time."""
    parse_proof.cache_clear()
    with tempfile.TemporaryDirectory() as folder:
        solo, second = engine(run.market, Path(folder) / "ledger"), SecondCoreVerifier()
        for block in run.before:
            _commit(solo, block)
        second.rings = rings = RingProcesses(processes)
        solo.verify = second
        _begin(second, rings)
        queue = _Rings(solo, rings)
        began, began_cpu = time.perf_counter(), time.process_time()
        for number, block in enumerate(run.lives):
            second.tell_ahead(_claims(solo, block))
            queue.offer([tx for later in run.lives[number : number + READ_AHEAD] for tx in later.txs])
            queue.wait(block.txs)
            _commit(solo, block)
        elapsed, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        second.end()
        solo.close()
    return PILES * LIVES / elapsed, PILES * LIVES / cpu


def _begin(second: SecondCoreVerifier, rings: RingProcesses) -> None:
    """Have every process run: it starts when it is first told of something."""
    nothing = [(bytes(512), b"", bytes(32), bytes([number]), bytes(544)) for number in range(8 * rings.processes)]
    rings.tell_ahead(nothing)
    second.tell_ahead([(bytes(65), b"", bytes(64))])
    assert not any(rings(*claim) for claim in nothing)
    assert not second(bytes(65), b"", bytes(64))


class _Rings:
    """The coordinator's queue, and what came out of it."""

    def __init__(self, solo: SoloEngine, rings: RingProcesses) -> None:
        self._solo, self._queue = solo, RingQueue(rings)
        self._answered: set[bytes] = set()

    def offer(self, txs: list[bytes]) -> None:
        """Queue what could wait for a block now, as far as there is room."""
        for data in txs:
            tx = decode_transaction(data)
            if not tx.rings or data in self._answered or self._queue.holds(tx.id):
                continue
            with contextlib.suppress(Rejection):  # its order is in no block yet
                claims = ring_claims(self._solo.state, self._solo.env(self._solo.time_ms), tx)
                self._queue.offer(tx.sender, data, tx, claims)

    def wait(self, txs: list[bytes]) -> None:
        """Return once the rings of a block's transactions are answered."""
        missing = {tx for tx in txs if decode_transaction(tx).rings} - self._answered
        while missing:
            answered = {payload for _, payload in self._queue.take()}
            self._answered |= answered
            missing -= answered
            if missing and not answered:
                time.sleep(0.001)


def _commit(solo: SoloEngine, block: RecordedBlock) -> None:
    for tx in block.txs:
        solo.submit(tx)
    committed = solo.make_block(block.time_ms)
    assert all(result.code == "ok" for result in committed.results)


def _claims(solo: SoloEngine, block: RecordedBlock) -> list[Claim]:
    """The ES256 signatures of a block, read off its bytes."""
    claims = []
    for tx in block.txs:
        claims.append(claim_of_transaction(solo.state, solo.chain_id, tx))
        body = decode_transaction(tx).body
        if isinstance(body, SubmitProofs):
            claims += [claim_of_proof(solo.state, solo.chain_id, proof) for proof in body.proofs]
    return [claim for claim in claims if claim is not None]


if __name__ == "__main__":
    report(figures())
