"""What a supervisor does about a CometBFT that should end and does not, or makes no blocks: real processes that hang."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
def rpc():
    """Where CometBFT's RPC would be; `height` is what it says, None for an answer that makes no sense."""

    class Status(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            result = {} if server.height is None else {"sync_info": {"latest_block_height": str(server.height)}}
            body = json.dumps({"jsonrpc": "2.0", "id": 0, "result": result}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            server.asked += 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Status)
    server.height, server.asked = 0, 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def supervisor(tmp_path, monkeypatch, rpc):
    """Of an application that does nothing, and a node that hears no SIGTERM."""
    for name, seconds in (("_END_S", 0.5), ("_STOP_S", 0.5), ("_STAND_S", 2.0), ("_ASK_S", 0.02)):
        monkeypatch.setattr(supervise, name, seconds)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text(f'[rpc]\nladdr = "tcp://127.0.0.1:{rpc.server_port}"\n')
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
        "CometBFT did not end in time; killed",
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


def test_a_node_that_makes_no_block_is_started_again(supervisor, rpc):
    rpc.height = 7
    tend(supervisor, supervisor.starts.exists)
    first, begin = supervisor.node.pid, time.monotonic()
    tend(supervisor, lambda: supervisor.node.pid not in {0, first})
    assert time.monotonic() >= begin + 2.5  # two for a block, half a one to end
    assert supervisor.said == [
        "CometBFT has made no block for 2 s; started again, to dial the other nodes anew",
        "CometBFT did not end in time; killed",
        "CometBFT ended by signal 9; started again in 0.2 s",
    ]
    second = supervisor.node.pid
    tend(supervisor, lambda: supervisor.node.pid not in {0, second})  # as often as it takes


def test_a_node_that_makes_blocks_and_then_says_nothing_is_started_again(supervisor, rpc):
    tend(supervisor, supervisor.starts.exists)
    first, begin = supervisor.node.pid, time.monotonic()

    def grown() -> bool:
        rpc.height = int((time.monotonic() - begin) / 0.3)
        return rpc.height >= 10

    tend(supervisor, grown)
    assert supervisor.said == []
    rpc.height = None
    tend(supervisor, lambda: supervisor.node.pid not in {0, first})


def test_a_node_that_has_no_block_yet_is_left_alone(supervisor, rpc):
    tend(supervisor, supervisor.starts.exists)
    begin = time.monotonic()
    tend(supervisor, lambda: time.monotonic() >= begin + 3)
    assert rpc.asked > 10
    assert supervisor.said == []


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
