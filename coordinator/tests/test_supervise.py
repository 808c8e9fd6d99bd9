"""An accounting node's two processes are kept up, patiently and aloud, by one supervisor at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pile_coordinator.engines.comet import supervise
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.supervise import Child, Supervisor, check_version
from pile_coordinator.only_one import OnlyOne
from pile_shared.errors import ConfigError


@pytest.fixture
def clock(monkeypatch):
    held = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=lambda: held.now_s))
    return held


def program(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def fail(child: Child) -> None:
    """Start it when it is due, and notice that it ended."""
    child.start()
    if child._process is not None:
        child._process.wait(30)
    assert not child.is_up()


@pytest.mark.parametrize("text", ["exit 3", None])
def test_what_dies_at_once_is_started_again_less_and_less_often(tmp_path, clock, text):
    said: list[str] = []
    child = Child("node", [program(tmp_path, text) if text else str(tmp_path / "nowhere")], said.append)
    for wait_s in (0.2, 1.0, 5.0, 15.0, 15.0):
        assert child.is_due()
        fail(child)
        assert said[-1].endswith(f"started again in {wait_s:g} s")
        assert not child.is_due()
        clock.now_s += wait_s
    assert ("ended with status 3" if text else "could not be started: [Errno 2]") in said[0]
    assert len(said) == 5


def test_a_good_run_begins_anew(tmp_path, clock):
    said: list[str] = []
    child = Child("node", [program(tmp_path, "kill -9 $$")], said.append)
    for _ in range(4):
        fail(child)
        clock.now_s += 15
    child.start()
    child._process.wait(30)
    clock.now_s += 60
    assert not child.is_up()
    assert said[-1] == "node ended by signal 9; started again in 0.2 s"


def test_what_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "_STOP_S", 0.5)
    said: list[str] = []
    text = "import signal, sys; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w').close(); signal.pause()"
    child = Child("node", [sys.executable, "-c", text, str(tmp_path / "ready")], said.append)
    child.start()
    while not (tmp_path / "ready").exists():
        assert child.is_up()
    pid = child.pid
    child.stop()
    assert said == ["node does not stop; killed"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("said", ["0.39.4", "0.39.4+abc", "0.38.25"])
def test_a_version_that_speaks_our_abci_is_taken(tmp_path, said):
    check_version(program(tmp_path, f"echo {said}"))


@pytest.mark.parametrize("text", ["echo 0.37.1", "echo 1.0.1", "echo 0.390.1", "exit 1"])
def test_another_version_is_named(tmp_path, text):
    with pytest.raises(ConfigError, match=r"expected 0\.39"):
        check_version(program(tmp_path, text))
    with pytest.raises(ConfigError, match="does not say its version"):
        check_version(str(tmp_path / "nowhere"))


def test_two_supervisors_of_one_node_do_not_meet(tmp_path):
    supervisor = Supervisor(tmp_path / "x.toml", Home(tmp_path), print, program(tmp_path, "echo 0.39.4"))
    with OnlyOne(tmp_path / "supervisor.lock"), pytest.raises(ConfigError, match=f"in use by process {os.getpid()};"):
        supervisor.run()
    assert (supervisor.app.pid, supervisor.node.pid) == (0, 0)


HOLD = """
import signal, sys
from pathlib import Path
from pile_coordinator.only_one import OnlyOne
held = OnlyOne(Path(sys.argv[1]))
print("held", flush=True)
signal.pause()
"""


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"in use by process {process.pid};"):
            OnlyOne(path)
        process.send_signal(signal.SIGKILL)
    OnlyOne(path).close()
    with pytest.raises(ConfigError, match="may this user write"):
        OnlyOne(tmp_path / "no" / "lock")
