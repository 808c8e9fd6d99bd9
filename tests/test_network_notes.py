"""A note is spent once in a network, whichever nodes hear of it: four real nodes, two of which serve, on a real broker."""

import pytest
from guests import Purse, answer, at_once, when_ripe
from world import key

from pile_coordinator.chain.records import NoteBin
from pile_coordinator.chain.transactions import Deposit, RegisterParty, RegisterPile
from pile_coordinator.clock import Clock
from pile_coordinator.engines.comet.rpc import Sender
from pile_coordinator.engines.engine import load_state
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.wallet import Wallet
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.network import Network, has_cometbft
from pile_hil.requirements import require
from pile_shared.certificate import decode_header
from pile_shared.platform import sha256

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def network(tmp_path):
    require(has_cometbft(), "cometbft is not installed; run tools/servers")
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Network(tmp_path / "network", broker.port, notes={"bin_age_ms": 200}) as network,
    ):
        network.start()
        yield network


def open_market(network: Network) -> Purse:
    """A pile to bid for, and a bin of sixteen notes."""
    with network.wallet("operator") as operator, network.wallet("grid") as grid:
        for party, role in (("olga", "pile-owner"), ("dan", "ev-owner")):
            operator.send(RegisterParty(party, role, key(party).public))
        operator.send(RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "1", "north", 7000))
        grid.send(Deposit("dan", 20_000_000, "opening"))
    with Wallet(network.genesis, "dan", key("dan"), network.broker, timeout_s=60.0) as dan:
        return Purse(network.genesis, dan)


def test_of_two_spendings_that_reach_two_nodes_at_once_one_is_in_the_chain(network):
    purse, now_ms = open_market(network), Clock().now_ms()
    with purse.guest("first", network.broker) as first:
        assert when_ripe(first, purse.bid("first", 0, now_ms)[1]) == "ok"
    rivals = {name: purse.bid(name, 1, now_ms)[1] for name in ("rival-1", "rival-2")}
    senders = [Sender(network.home(node).rpc_address()) for node in ("auditor", "grid")]
    for sender, tx in zip(senders, rivals.values(), strict=True):  # each node's own CometBFT takes it first
        sender.send(tx)
    with purse.guest("rival-1", network.broker) as one, purse.guest("rival-2", network.broker) as other:
        codes = at_once(lambda: answer(one, rivals["rival-1"]), lambda: answer(other, rivals["rival-2"]))
    for sender in senders:
        sender.close()
    assert sorted(codes) == ["ok", "spent"]

    agreed = network.wait_agreed()
    network.close()
    taken = rivals["rival-1" if codes[0] == "ok" else "rival-2"]
    for node in network.names:
        ledger = open_ledger(network.folder / node / "data" / "ledger.sqlite", network.genesis)
        assert audit(ledger, network.genesis).height == agreed["height"]  # rings are checked again, and all state roots
        heard = [ledger.find_tx(sha256(tx)) is not None for tx in rivals.values()]
        assert heard == [tx == taken for tx in rivals.values()]
        state = load_state(ledger, decode_header(ledger.last_header()))
        (images,) = [one.images for one in state.each(NoteBin) if one.sealed_ms]
        assert images == [purse.image(0), purse.image(1)]
        ledger.close()
