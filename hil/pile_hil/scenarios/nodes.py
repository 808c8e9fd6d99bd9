"""Power of accounting nodes: a network of four on CometBFT keeps the chain, and any one of them may be gone for a while."""

import os
import signal
from contextlib import suppress

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


def _cut(trial: Trial, network: Network, name: str) -> None:
    """SIGKILL of all that a node is, the supervisor first, who would start the others again."""
    pids = network.pids(name)
    network.processes[name].kill()
    for role in pids.keys() - {"supervisor"}:
        with suppress(ProcessLookupError):
            os.kill(pids[role], signal.SIGKILL)
    trial.note(f"power of {name} is cut")


def _restore(trial: Trial, network: Network, name: str) -> None:
    network.start(name)
    trial.note(f"power of {name} is back")


@scenario("power-cut-node", fault="power cut of an accounting node", needs=("node-power",))
def power_cut_node(trial: Trial) -> None:
    """Of four nodes that keep the chain, one that serves nobody loses power in a session, comes back and catches up."""
    network = _opened(trial)
    order = trial.begin()
    trial.await_energy(order, 500)
    _cut(trial, network, "auditor")
    trial.await_energy(order, 1500)
    _restore(trial, network, "auditor")
    trial.finish(order)
    network.wait_agreed()


@scenario("power-cut-node-serving", fault="power cut of an accounting node", needs=("node-power",))
def power_cut_node_serving(trial: Trial) -> None:
    """A node that serves piles and wallets loses power in a session: the other one serves on, and both have the same chain."""
    network = _opened(trial)
    order = trial.begin()
    trial.await_energy(order, 500)
    _cut(trial, network, "operator-2")
    trial.finish(order)
    _restore(trial, network, "operator-2")
    network.wait_agreed()
