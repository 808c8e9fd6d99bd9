"""Power of accounting nodes: a network of four on CometBFT keeps the chain, and any one of them may be gone for a while."""

from pile_hil.faults.power import NetworkNode, Supply
from pile_hil.network import Network
from pile_hil.network_site import NetworkSite
from pile_hil.scenarios.registry import scenario
from pile_hil.trials.trial import Trial


def _opened(trial: Trial) -> Network:
    """A site with a network, open; that network."""
    trial.bench.network = True
    trial.open()
    assert isinstance(trial.site, NetworkSite)
    return trial.site.network


def _cut(trial: Trial, network: Network, *names: str) -> Supply:
    """Nodes without power, all that each of them is; restoring it starts them."""
    supply = Supply(*(NetworkNode(network, name) for name in names))
    supply.cut()
    trial.note(f"power of {' and '.join(names)} is cut")
    return supply


@scenario("power-cut-node", fault="power cut of an accounting node", needs=("node-power",))
def power_cut_node(trial: Trial) -> None:
    """Of four nodes that keep the chain, one that serves nobody loses power in a session, comes back and catches up."""
    network = _opened(trial)
    order = trial.begin()
    trial.await_energy(order, 500)
    supply = _cut(trial, network, "auditor")
    trial.await_energy(order, 1500)
    supply.restore()
    trial.finish(order)
    network.wait_agreed()


@scenario("power-cut-node-serving", fault="power cut of an accounting node", needs=("node-power",))
def power_cut_node_serving(trial: Trial) -> None:
    """A node that serves piles and wallets loses power in a session: the other one serves on, and both have the same chain."""
    network = _opened(trial)
    order = trial.begin()
    trial.await_energy(order, 500)
    supply = _cut(trial, network, "operator-2")
    trial.finish(order)
    supply.restore()
    network.wait_agreed()
