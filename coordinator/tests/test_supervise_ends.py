"""What an accounting node's supervisor does about a CometBFT that should end and does not: real processes, some of which hang."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pile_coordinator.engines.comet import supervise
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.supervise import Child, Supervisor

STUBBORN = """#!/bin/sh
[ "$1" = version ] && echo 0.39.4 && exit
trap '' TERM
echo started >> "$0.starts"
while :; do sleep 0.1; done
"""
STARTS_AND_WAITS = """
import signal, sys
from pile_coordinator.engines.comet.supervise import Child
child = Child("node", sys.argv[1:], print)
child.start()
print(child.pid, flush=True)
signal.pause()
"""


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether it is more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """Of an application that does nothing, and a node that hears no SIGTERM."""
    monkeypatch.setattr(supervise, "_END_S", 0.5)
    node = tmp_path / "cometbft"
    node.write_text(STUBBORN)
    node.chmod(0o755)
    said: list[str] = []
    made = Supervisor(tmp_path / "coordinator.toml", Home(tmp_path), said.append, str(node))
    made.app = Child("application", ["sleep", "600"], said.append)
    monkeypatch.setattr(made, "_app_listens", lambda: True)
    made.said, made.starts = said, Path(f"{node}.starts")
    yield made
    for child in (made.node, made.app):
        if child.pid:
            os.kill(child.pid, signal.SIGKILL)
            child.stop()


def tend(supervisor, condition) -> None:
    def tended() -> bool:
        supervisor._tend()
        return condition()

    wait_for(tended)


def test_a_node_that_hangs_when_its_application_has_died_is_killed_and_started_again(supervisor):
    tend(supervisor, supervisor.starts.exists)
    first = supervisor.node.pid
    os.kill(supervisor.app.pid, signal.SIGKILL)
    tend(supervisor, lambda: supervisor.node.pid not in {0, first})
    assert supervisor.said == [
        "application ended by signal 9; started again in 0.2 s",
        "CometBFT did not end within 0.5 s; killed",
        "CometBFT ended by signal 9; started again in 0.2 s",
    ]
    again = supervisor.node.pid
    os.kill(supervisor.app.pid, signal.SIGKILL)  # and it is not over with once
    tend(supervisor, lambda: supervisor.node.pid not in {0, again})
    assert len(supervisor.said) == 6


def test_a_node_that_ends_by_itself_is_given_the_time(supervisor):
    tend(supervisor, supervisor.starts.exists)
    first = supervisor.node.pid
    os.kill(supervisor.app.pid, signal.SIGKILL)
    tend(supervisor, lambda: len(supervisor.said) == 1)
    assert is_running(first)
    os.kill(first, signal.SIGKILL)  # as it would end by itself
    tend(supervisor, lambda: supervisor.node.pid not in {0, first})
    assert supervisor.said[1:] == ["CometBFT ended by signal 9; started again in 0.2 s"]
    second, begin = supervisor.node.pid, time.monotonic()
    tend(supervisor, lambda: time.monotonic() >= begin + 1)  # longer than the first was given
    assert supervisor.node.pid == second
    assert is_running(second)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path):
    stubborn = tmp_path / "stubborn"
    stubborn.write_text(STUBBORN)
    stubborn.chmod(0o755)
    words = [sys.executable, "-c", STARTS_AND_WAITS, str(stubborn)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        wait_for(Path(f"{stubborn}.starts").exists)
        parent.kill()
    wait_for(lambda: not is_running(pid))
