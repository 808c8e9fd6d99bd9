"""The proof desk: what arrives in any order goes into the chain once and in turn; the rest is counted by reason."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import NOW, VERIFY, Market, bounded

from pile_coordinator import ingest
from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.transactions import MAX_BATCH_PROOFS, MAX_TX_BYTES, RetirePile
from pile_coordinator.ingest import FORK, MAX_AHEAD, READY, REPLAYED, UNCHAINED, WAITING, ProofDesk
from pile_shared.proof import HEARTBEAT, parse


def desk_of(market: Market) -> ProofDesk:
    return ProofDesk(market.chain_id, VERIFY)


def heartbeats(market: Market, count: int, pile: str = "pile-1") -> list[bytes]:
    return [market.prove(pile, HEARTBEAT, [(NOW + i, i)]) for i in range(1, count + 1)]


def commit(market: Market, desk: ProofDesk) -> list[str]:
    """A block from what is ready; what became of each proof."""
    for batch in desk.take_batches():
        market.send("operator", batch)
    outcome = market.ok()
    desk.committed(market.state)
    return [str(detail) for result in outcome.results for detail in result.details]


def test_out_of_order_proofs_wait_for_the_missing_one() -> None:
    market = Market(1, 0)
    desk, (one, two, three) = desk_of(market), heartbeats(market, 3)
    assert [desk.offer(market.state, "pile-1", m) for m in (three, two, one)] == [WAITING, WAITING, READY]
    assert desk.ready == 3
    assert commit(market, desk) == ["admitted"] * 3
    assert (desk.ready, desk.take_batches(), desk._ahead) == (0, [], {})


def test_copies_are_replays_before_and_after_the_block() -> None:
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    assert [desk.offer(market.state, "pile-1", m) for m in (one, one, two)] == [READY, "replayed", READY]
    assert commit(market, desk) == ["admitted"] * 2
    assert desk.offer(market.state, "pile-1", two) == "replayed"


def test_a_retired_pile_fills_no_blocks() -> None:
    """The chain takes none of its proofs, and whoever stole it may say them again for ever."""
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    assert desk.offer(market.state, "pile-1", one) == READY
    commit(market, desk)
    market.send("operator", RetirePile("pile-1"))
    commit(market, desk)
    assert [desk.offer(market.state, "pile-1", two) for _ in range(3)] == ["unknown_pile"] * 3
    assert desk.take_batches() == []


def test_what_is_wrong_is_counted_by_reason_and_changes_nothing() -> None:
    market = Market(2, 0)
    desk, proofs = desk_of(market), heartbeats(market, MAX_AHEAD + 3)
    broken = bytearray(proofs[0])
    broken[-40] ^= 1
    cases = [
        ("nobody", proofs[0], "unknown_pile"),
        ("pile-1", b"", "malformed"),
        ("pile-1", bytes(5000), "oversized"),
        ("pile-2", proofs[0], "unknown_key"),
        ("pile-1", bytes(broken), "bad_signature"),
        ("pile-1", proofs[MAX_AHEAD + 1], "too_far_ahead"),
    ]
    for pile, message, reason in cases:
        assert desk.offer(market.state, pile, message) == reason
    assert desk.counts == {reason: 1 for *_, reason in cases}
    assert (desk.ready, desk._ahead, desk._next) == (0, {}, {})
    assert desk.offer(market.state, "pile-1", proofs[MAX_AHEAD]) == WAITING
    assert desk.offer(market.state, "pile-1", proofs[0]) == READY


def test_a_full_desk_drops_and_the_pile_sends_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_READY", 2)
    market = Market(1, 0)
    desk, proofs = desk_of(market), heartbeats(market, 5)
    outcomes = [desk.offer(market.state, "pile-1", m) for m in proofs]
    assert outcomes == [READY, READY, "overloaded", "overloaded", "overloaded"]
    assert commit(market, desk) == ["admitted"] * 2
    assert [desk.offer(market.state, "pile-1", m) for m in proofs] == [
        "replayed",
        "replayed",
        READY,
        READY,
        "overloaded",
    ]


def test_batches_are_bounded_in_number_and_bytes() -> None:
    market = Market(1, 0)
    desk, proofs = desk_of(market), heartbeats(market, 2 * MAX_BATCH_PROOFS + 10)
    for message in proofs:
        desk.offer(market.state, "pile-1", message)
    batches = desk.take_batches()
    assert [message for batch in batches for message in batch.proofs] == proofs
    for batch in batches:
        batch.check()
        assert len(market.tx("operator", batch)) <= MAX_TX_BYTES
    assert len(batches) == 3
    long = [market.prove("pile-1", HEARTBEAT, [(NOW + 100 * i + j, i) for j in range(60)]) for i in range(800, 1000)]
    desk = desk_of(market)
    market.state.put(_at(market, long[0]))
    for message in long:
        desk.offer(market.state, "pile-1", message)
    batches = desk.take_batches()
    assert sum(len(batch.proofs) for batch in batches) == 200
    assert 1 < len(batches) < 6
    assert all(len(market.tx("operator", batch)) <= MAX_TX_BYTES for batch in batches)


def _at(market: Market, message: bytes) -> Pile:
    proof = parse(message)[1]
    pile = market.state.get(Pile, "pile-1")
    return replace(pile, last_sequence=proof.sequence - 1, last_hash=proof.previous)


def test_a_lost_batch_is_taken_again() -> None:
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    desk.offer(market.state, "pile-1", one)
    desk.take_batches()  # and the transaction never made it into a block
    assert desk.offer(market.state, "pile-1", two) == READY
    desk.take_batches()
    market.ok()
    desk.committed(market.state)
    assert [desk.offer(market.state, "pile-1", m) for m in (one, two)] == [READY, READY]
    assert commit(market, desk) == ["admitted"] * 2


def test_one_bad_pile_does_not_hold_up_the_others() -> None:
    """A pile whose proofs do not follow the chain's last fills no batch, however often it sends them."""
    market = Market(2, 0)
    desk = desk_of(market)
    market.proofs["pile-1"] = (0, b"\x07" * 32)
    strange = heartbeats(market, 4)
    for _ in range(3):
        assert [desk.offer(market.state, "pile-1", message) for message in strange] == [UNCHAINED, *[WAITING] * 3]
    for message in heartbeats(market, 4, "pile-2"):
        assert desk.offer(market.state, "pile-2", message) == READY
    assert commit(market, desk) == ["admitted"] * 4
    market.proofs["pile-1"] = (0, b"\x00" * 32)
    good = heartbeats(market, 4)
    assert [desk.offer(market.state, "pile-1", message) for message in good] == [READY] * 4
    assert commit(market, desk) == ["admitted"] * 4
    assert desk._ahead == {}


def test_what_waits_is_taken_only_if_it_follows() -> None:
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    market.proofs["pile-1"] = (1, b"\x07" * 32)
    (other,) = heartbeats(market, 1)
    assert [desk.offer(market.state, "pile-1", message) for message in (other, one)] == [WAITING, READY]
    assert (desk.ready, desk._ahead) == (1, {})
    assert [desk.offer(market.state, "pile-1", message) for message in (other, two)] == [UNCHAINED, READY]
    assert commit(market, desk) == ["admitted"] * 2


def test_another_proof_of_the_newest_sequence_is_a_fork_if_the_pile_signed_it() -> None:
    """A journal that was brought back from an old copy tells the same sequence differently."""
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    before = {one: READY, two: READY}
    assert {message: desk.offer(market.state, "pile-1", message) for message in before} == before
    commit(market, desk)
    market.proofs["pile-1"] = (1, parse(two)[1].previous)
    retold = market.prove("pile-1", HEARTBEAT, [(NOW + 77, 77)])
    forged = bytearray(retold)
    forged[-40] ^= 1
    cases = {one: REPLAYED, two: REPLAYED, retold: FORK, bytes(forged): "bad_signature"}
    assert {message: desk.offer(market.state, "pile-1", message) for message in cases} == cases
    assert desk.take_batches() == []


@given(st.integers(1, 90), st.integers(1, 90), st.randoms(), st.floats(0, 0.6), st.booleans())
@bounded(25)
def test_any_order_with_copies_and_losses_admits_each_proof_once(
    first: int, second: int, rng: random.Random, loss: float, with_junk: bool
) -> None:
    """Piles send what is not receipted again after each block, as the agent does; the network does what it likes."""
    market = Market(2, 0)
    desk = desk_of(market)
    sent = {"pile-1": heartbeats(market, first), "pile-2": heartbeats(market, second, "pile-2")}
    admitted: list[str] = []
    for round_number in range(40):
        under_way = []
        for pile, proofs in sent.items():
            done = market.state.get(Pile, pile).last_sequence
            under_way += [(pile, m) for m in proofs[done : done + MAX_AHEAD] for _ in range(rng.randint(1, 2))]
        if not under_way:
            break
        rng.shuffle(under_way)
        last = round_number > 20  # at some time the network works
        for pile, message in under_way:
            if last or rng.random() >= loss:
                desk.offer(market.state, pile, message)
            if with_junk and rng.random() < 0.2:
                desk.offer(market.state, pile, message[: rng.randrange(len(message))])
        admitted += commit(market, desk)
    assert [market.state.get(Pile, pile).last_sequence for pile in sent] == [first, second]
    assert admitted == ["admitted"] * (first + second)
    assert desk.ready == 0


class Others:
    """How long other coordinators have, and a clock."""

    def __init__(self, market: Market, wait_s: float = 5.0) -> None:
        self.wait_s, self.now_s = wait_s, 0.0
        self.desk = ProofDesk(market.chain_id, VERIFY, lambda _: self.wait_s, lambda: self.now_s)


def test_proofs_that_another_brings_are_held_and_forgotten() -> None:
    market = Market(1, 0)
    others, (one, two, three) = Others(market), heartbeats(market, 3)
    desk = others.desk
    assert [desk.offer(market.state, "pile-1", m) for m in (one, three, two, one)] == [READY, WAITING, READY, REPLAYED]
    assert (desk.ready, desk.take_batches(), desk._held_count) == (0, [], 3)
    market.send("operator", market.batch(one, two))
    assert commit(market, desk) == ["admitted"] * 2
    assert desk._held_count == 1
    assert desk.offer(market.state, "pile-1", three) == REPLAYED  # it is held still
    market.send("operator", market.batch(three))
    assert commit(market, desk) == ["admitted"]
    assert (desk._held, desk._held_count, desk._next) == ({}, 0, {})
    others.now_s = 100
    assert desk.take_batches() == []


@pytest.mark.parametrize("why", ["time", "nobody else"])
def test_proofs_that_nobody_brings_are_batched_here_in_order(why: str) -> None:
    market = Market(1, 0)
    others, proofs = Others(market), heartbeats(market, 4)
    desk = others.desk
    for message in proofs[:3]:
        desk.offer(market.state, "pile-1", message)
    assert commit(market, desk) == []  # a block without them changes nothing
    if why == "time":
        others.now_s = 5.0
    else:
        others.wait_s = 0.0  # the other has gone
    desk.offer(market.state, "pile-1", proofs[3])
    assert [message for batch in desk.take_batches() for message in batch.proofs] == proofs
    assert desk._held_count == 0


def test_what_is_held_is_dropped_if_the_chain_went_another_way() -> None:
    market = Market(1, 0)
    others = Others(market)
    one, two = heartbeats(market, 2)
    market.proofs["pile-1"] = (0, b"\x00" * 32)
    other = market.prove("pile-1", HEARTBEAT, [(NOW + 77, 77)])
    for message in (one, two):
        assert others.desk.offer(market.state, "pile-1", message) == READY
    market.send("operator", market.batch(other))
    assert commit(market, others.desk) == ["admitted"]
    assert (others.desk._held, others.desk._held_count) == ({}, 0)


def test_the_held_count_towards_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "MAX_READY", 2)
    market = Market(1, 0)
    desk, proofs = Others(market).desk, heartbeats(market, 3)
    assert [desk.offer(market.state, "pile-1", m) for m in proofs] == [READY, READY, "overloaded"]


def test_a_proof_that_waited_for_a_batch_on_its_way_needs_no_second_sending() -> None:
    """A block without the batch makes the desk forget it; what came since waits for it, and is ready when it is there."""
    market = Market(1, 0)
    desk, (one, two) = desk_of(market), heartbeats(market, 2)
    desk.offer(market.state, "pile-1", one)
    (batch,) = desk.take_batches()
    assert commit(market, desk) == []
    assert desk.offer(market.state, "pile-1", two) == WAITING
    market.send("operator", batch)
    assert commit(market, desk) == ["admitted"]
    assert commit(market, desk) == ["admitted"]
    assert desk._ahead == {}
