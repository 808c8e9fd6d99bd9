"""Guests who pay with notes, at a coordinator on a real broker: answered on their own topics, and nobody waits for them."""

import os
import signal
import time

import pytest
from guests import Purse, answer, at_once, when_ripe
from served import PILE, Served
from world import key

from pile_coordinator.chain.records import Bid
from pile_coordinator.chain.transactions import CancelBid, Deposit, pseudonym
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared import topics
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = tmp_path_factory.mktemp("rings")
    with Mosquitto(folder / "broker") as broker:
        served = Served(folder / "site", broker.port, notes={"bin_age_ms": 100})
        served.admit()
        yield served
        served.close()


@pytest.fixture(scope="module")
def purse(served) -> Purse:
    with served.site.wallet("dan") as dan:
        return Purse(served.site.genesis, dan)


def now_ms(served: Served) -> int:
    return served.site.clock.now_ms()


def orders(served: Served, *names: str) -> list[Bid]:
    """The resting bids of guests."""
    mine = {pseudonym(key(name).public) for name in names}
    with served.coordinator.engine.turn():
        return [bid for bid in served.coordinator.engine.state.each(Bid) if bid.user in mine]


def test_a_guest_orders_and_calls_off_and_is_forgotten(served, purse):
    who, tx = purse.bid("caller", 0, now_ms(served))
    with purse.guest("caller", served.site.broker_spec) as guest:
        assert when_ripe(guest, tx) == "ok"
        assert answer(guest, tx) == "ok"  # the same again is answered again
        (order,) = orders(served, "caller")
        assert answer(guest, purse.signed(1, who, CancelBid(order.id), 2)) == "bad_signature"  # by another note
        assert answer(guest, purse.signed(0, who, CancelBid(order.id), 2)) == "ok"
        assert answer(guest, purse.signed(0, who, CancelBid(order.id), 3)) == "unknown_sender"


def test_of_two_who_spend_one_note_at_once_one_is_told_that_it_is_spent(served, purse):
    broker = served.site.broker_spec
    with purse.guest("rival-1", broker) as one, purse.guest("rival-2", broker) as other:
        txs = [purse.bid(name, 2, now_ms(served))[1] for name in ("rival-1", "rival-2")]
        codes = at_once(lambda: when_ripe(one, txs[0]), lambda: when_ripe(other, txs[1]))
    assert sorted(codes) == ["ok", "spent"]
    assert len(orders(served, "rival-1", "rival-2")) == 1


def test_a_flood_of_forged_rings_delays_no_money_and_no_proofs(served, purse):
    """Each costs as much as a good one; they are all refused, and what the others send meanwhile is taken meanwhile."""
    counts, forged = served.coordinator.counts, []
    before = counts["bad_signature"] + counts["busy"]
    who, tx = purse.bid("flood", 3, now_ms(served))
    true = int.from_bytes(tx[-2:], "little")
    for number in range(400):
        other = (true + 1 + number) % 0x1000  # of the last member's answer, which stays below the order
        forged.append((who, tx[:-2] + other.to_bytes(2, "little")))
    begun = time.monotonic()
    for who, tx in forged:
        served.raw.publish(topics.party_topic(served.chain_id, who, "tx"), tx)
    with served.site.wallet("grid") as grid:
        grid.send(Deposit("dan", 1, "during a flood"))
    proof = Proof(1, NO_PREVIOUS, None, HEARTBEAT, []).sign(PILE, served.chain_id)
    served.proof(proof)
    assert counts["bad_signature"] + counts["busy"] - before < 400, "the flood is over: nothing was seen"
    deadline = begun + 30
    while counts["bad_signature"] + counts["busy"] - before < 400:
        assert time.monotonic() < deadline, counts
        time.sleep(0.01)
    assert counts["bad_signature"] > 200
    with purse.guest("honest", served.site.broker_spec) as guest:
        assert when_ripe(guest, purse.bid("honest", 3, now_ms(served))[1]) == "ok"


def test_when_the_processes_are_killed_guests_are_served_all_the_same(served, purse):
    """The last test: they do not come back while this coordinator runs."""
    rings = served.coordinator._verifier.rings
    with purse.guest("late", served.site.broker_spec) as guest:
        for process in list(rings._pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        assert when_ripe(guest, purse.bid("late", 4, now_ms(served))[1]) == "ok"
    assert rings.is_away
