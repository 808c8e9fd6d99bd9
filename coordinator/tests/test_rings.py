"""Rings checked elsewhere have the answers they have here; who sends many cannot make anybody else wait for long."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
from note_world import AGE_MS, NoteMarket

from pile_coordinator import ring_queue
from pile_coordinator.chain.env import RingClaim
from pile_coordinator.chain.records import NoteBin
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import BuyNotes, decode_transaction
from pile_coordinator.engines import rings
from pile_coordinator.engines.rings import CachingRings, RingProcesses, claim_name, processes_for, ring_claims
from pile_coordinator.ring.keys import base_public, base_secret
from pile_coordinator.ring.signature import key_image, sign, verify
from pile_coordinator.ring_queue import RingQueue

CONTEXT = b"tests/rings"
SECRETS = [base_secret(bytes(32), "tests", number) for number in range(16)]
RING = b"".join(map(base_public, SECRETS))
IMAGE = key_image(SECRETS[3], CONTEXT)
SIGNATURES = [sign(SECRETS[3], RING, 3, CONTEXT, b"message %d" % number) for number in range(6)]


def claim(number: int, *, good: bool = True) -> RingClaim:
    """One of six good ones, or any of the forged ones."""
    return RING, CONTEXT, IMAGE, b"message %d" % number, SIGNATURES[number if good else 0]


def forged(count: int) -> list[RingClaim]:
    return [claim(number, good=False) for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def running() -> Iterator[RingProcesses]:
    """One that is not killed: to begin a process takes a second."""
    running = RingProcesses(1)
    yield running
    running.close()


@pytest.fixture
def elsewhere(running, monkeypatch) -> RingProcesses:
    """It checks nothing here: what it is asked for must have been told."""
    monkeypatch.setattr(running, "_answers", {})
    monkeypatch.setattr(CachingRings, "_answer", lambda *_: pytest.fail("it was checked here"))
    return running


@pytest.fixture
def here(monkeypatch) -> list[RingClaim]:
    """What was checked in this process."""
    seen: list[RingClaim] = []
    answer = CachingRings._answer
    monkeypatch.setattr(CachingRings, "_answer", lambda self, n, c: (seen.append(c), answer(self, n, c))[1])
    return seen


def test_what_was_told_is_checked_elsewhere_and_remembered(elsewhere):
    asked = [claim(0), claim(1, good=False), claim(2), claim(3, good=False), claim(4)]
    elsewhere.tell_ahead(asked)
    for _ in range(2):
        assert [elsewhere(*one) for one in asked] == [True, False, True, False, True]
    assert all(map(elsewhere.knows, asked))
    assert not elsewhere.knows(claim(5))


def test_a_claim_is_remembered_by_all_that_it_says(here):
    """Every part of a good one changed is another claim, and refused."""
    checker = CachingRings()
    good = claim(0)
    assert checker(*good)
    for part in range(5):
        changed = [bytes(b ^ (i == 7) for i, b in enumerate(one)) if n == part else one for n, one in enumerate(good)]
        assert not checker(*changed)
    assert len({claim_name(one) for one in here}) == len(here) == 6


def test_somebody_is_told_when_answers_come(elsewhere):
    woken = []
    elsewhere.on_answer = lambda: woken.append(True)
    elsewhere.tell_ahead([claim(0)])
    assert elsewhere(*claim(0))
    assert woken == [True]


def test_what_is_under_way_is_bounded_whatever_is_told(elsewhere, monkeypatch):
    monkeypatch.setattr(rings, "MAX_UNDER_WAY", 6)
    elsewhere.tell_ahead(forged(400))
    assert len(elsewhere._under_way) <= 6
    assert elsewhere.room <= 6
    for one in forged(6):
        assert not elsewhere(*one)
    assert elsewhere.room == 6


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(rings, "MAX_ANSWERS", 3)
    checker = CachingRings(lambda *_: True)
    for one in forged(10):
        checker(*one)
    assert [checker.knows(one) for one in forged(10)] == [False] * 7 + [True] * 3


def test_of_what_is_needed_now_the_first_half_is_left_to_who_asks(running, here, monkeypatch):
    monkeypatch.setattr(running, "_answers", {})
    running.share(claim(number) for number in range(6))
    assert all(running(*claim(number)) for number in range(6))
    assert here == [claim(0), claim(1), claim(2)]


def test_when_the_process_is_killed_everything_is_checked_here(here):
    doomed = RingProcesses(1)
    doomed.tell_ahead([claim(0)])
    assert doomed(*claim(0))
    (process,) = doomed._pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    asked = [claim(1), claim(2, good=False), claim(3)]
    for _ in range(2):
        doomed.tell_ahead(asked)
        assert [doomed(*one) for one in asked] == [True, False, True]
    assert here == asked
    assert (doomed.is_away, doomed.room) == (True, 0)


def test_what_a_killed_process_was_told_of_is_checked_here(here):
    doomed = RingProcesses(1)
    doomed.tell_ahead([claim(0)])
    assert doomed(*claim(0))
    (process,) = doomed._pool._processes.values()
    os.kill(process.pid, signal.SIGSTOP)  # so that it is killed with work in hand
    asked = [claim(1), claim(2, good=False), claim(3)]
    doomed.tell_ahead(asked)
    os.kill(process.pid, signal.SIGKILL)
    assert [doomed(*one) for one in asked] == [True, False, True]
    assert here == asked
    assert doomed.is_away


def test_processors_are_left_for_the_chain():
    assert [processes_for(cpus) for cpus in (None, 1, 2, 3, 4, 6, 64)] == [1, 1, 1, 1, 2, 4, 4]


# --- claims read off transactions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market() -> NoteMarket:
    market = NoteMarket()
    market.offer()
    market.ok()
    return market


@pytest.fixture(scope="module")
def spends(market) -> list[bytes]:
    """Two bids that spend the same notes."""
    notes = market.enough("user-1", 15_000_000)
    return [market.pay(notes, name, until=10_000)[1] for name in ("nobody-a", "nobody-b")]


def test_the_claims_of_a_transaction_are_what_the_chain_asks_for(spends):
    """Of a bid, which funds, and of what its user does later; and all of them are true."""
    market, asked = NoteMarket(), []
    env = market.env

    def checked(*one: bytes) -> bool:
        asked.append(one)
        return verify(*one)

    market.env = lambda time_ms=None: replace(env(time_ms), verify_ring=checked)
    market.offer()
    who, bid = market.pay(market.enough("user-1", 15_000_000))
    expected = ring_claims(market.state, market.env(), decode_transaction(bid))
    assert len(expected) > 1
    market.ok(bid)
    assert asked == expected
    market.measured()
    confirm = market.confirmation(who)
    expected = ring_claims(market.state, market.env(), decode_transaction(confirm))
    del asked[:]
    market.ok(confirm)
    assert asked == expected
    assert len(expected) == 1


def test_what_costs_less_is_asked_before(market, spends):
    """A chain that is not this one, what expired, unripe bins: refused without a ring being looked at."""
    tx = decode_transaction(spends[0])
    env, sealed_ms = market.env(), market.state.get(NoteBin, tx.body.notes[0][0]).sealed_ms
    for code, other in {
        "wrong_chain": (env, replace(tx, chain_id="other")),
        "expired": (replace(env, height=20_000), tx),
        "sequence_gap": (env, replace(tx, sequence=2)),
        "unknown_note": (replace(env, time_ms=sealed_ms + AGE_MS - 1), tx),
    }.items():
        with pytest.raises(Rejection) as refused:
            ring_claims(market.state, *other)
        assert refused.value.code == code
    assert (
        ring_claims(market.state, env, decode_transaction(market.tx("user-1", BuyNotes(base_public(SECRETS[0]), [1]))))
        == []
    )


# --- the queue ---------------------------------------------------------------------------------------------------------


def offer(queue: RingQueue, market: NoteMarket, data: bytes) -> bool:
    tx = decode_transaction(data)
    return queue.offer(tx.sender, data, tx, ring_claims(market.state, market.env(), tx))


def test_it_gives_what_is_answered(elsewhere, market, spends):
    queue = RingQueue(elsewhere)
    assert queue.take() == []
    assert offer(queue, market, spends[0])
    tx = decode_transaction(spends[0])
    assert queue.holds(tx.id)
    for one in ring_claims(market.state, market.env(), tx):
        assert elsewhere(*one)
    assert queue.take() == [(tx.sender, spends[0])]
    assert len(queue) == 0
    assert not queue.holds(tx.id)


def test_it_holds_few_and_those_of_open_orders_apart(market, monkeypatch):
    """A flood of bids keeps out bids, and not what others want to say about their orders, once each."""
    monkeypatch.setattr(ring_queue, "MAX_NEW", 12)
    world = NoteMarket()
    world.offer()
    who, bid = world.pay(world.enough("user-1", 15_000_000), "nobody-1")
    world.ok(bid)
    asleep = RingProcesses(1)
    asleep._told.clear()
    monkeypatch.setattr(asleep, "_tell", lambda _: None)
    queue = RingQueue(asleep)
    notes = world.enough("user-2", 15_000_000)
    taken = [offer(queue, world, world.pay(notes, f"flood-{number}")[1]) for number in range(10)]
    assert taken == [True] * (12 // len(notes)) + [False] * (10 - 12 // len(notes))
    world.measured()
    confirm, objection = world.confirmation(who), world.confirmation(who)  # signed anew, another transaction
    assert offer(queue, world, confirm)
    assert not offer(queue, world, objection)
    asleep.close()


def test_without_processes_a_few_are_handed_on_at_once(market, monkeypatch):
    away = RingProcesses(1)
    away.close()
    queue = RingQueue(away)
    notes = market.enough("user-2", 15_000_000)
    monkeypatch.setattr(ring_queue, "HERE_AT_ONCE", 2 * len(notes))
    for number in range(5):
        assert offer(queue, market, market.pay(notes, f"away-{number}")[1])
    assert [len(queue.take()) for _ in range(4)] == [2, 2, 1, 0]


def test_a_process_that_does_not_answer_is_given_up(market, spends, monkeypatch):
    stopped = RingProcesses(1)
    stopped.tell_ahead([claim(0)])
    assert stopped(*claim(0))
    (process,) = stopped._pool._processes.values()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        queue = RingQueue(stopped)
        assert offer(queue, market, spends[0])
        assert queue.take() == []
        monkeypatch.setattr(ring_queue, "MAX_WAIT_S", 0)
        assert [payload for _, payload in queue.take()] == [spends[0]]
        assert stopped.is_away
    finally:
        os.kill(process.pid, signal.SIGCONT)
