"""Namespaces that can be cut apart, and that the machine's own network knows nothing of."""

import socket
import subprocess
import sys
import threading

import pytest

from pile_hil.namespaces import Namespaces, has_namespaces
from pile_hil.requirements import require


@pytest.fixture
def spaces():
    require(has_namespaces(), "network namespaces need root and iproute2")
    with Namespaces(2) as made:
        yield made


def interfaces():
    return {name for _, name in socket.if_nameindex()}


def hears(spaces, number):
    """Whether what is in a namespace reaches us."""
    script = f"import socket; socket.create_connection(('{spaces.broker_host}', 5), timeout=3)"
    with socket.create_server((spaces.broker_host, 5)):
        done = subprocess.run([*spaces.prefix(number), sys.executable, "-c", script], capture_output=True, check=False)
    return done.returncode == 0


def test_what_is_cut_off_is_not_heard_until_it_is_healed(spaces):
    assert [hears(spaces, 0), hears(spaces, 1)] == [True, True]
    spaces.cut_off(1)
    assert [hears(spaces, 0), hears(spaces, 1)] == [True, False]
    spaces.heal()
    assert [hears(spaces, 0), hears(spaces, 1)] == [True, True]


def test_the_machine_s_own_network_never_changes():
    """A browser gives up what it has under way when an interface comes or goes."""
    require(has_namespaces(), "network namespaces need root and iproute2")
    before, found, asked, answered = interfaces(), [], threading.Barrier(2), threading.Barrier(2)

    def watch():
        asked.wait(20)
        found.append(interfaces())
        answered.wait(20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Namespaces(1):
        within = interfaces()
        asked.wait(20)
        answered.wait(20)
    watcher.join(20)
    assert found == [before]
    assert within - before >= {"together", "apart", "node-0"}
    assert interfaces() == before
