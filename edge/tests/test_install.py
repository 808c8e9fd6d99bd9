"""The systemd service: its files, systemd's own opinion of them, and the real agent's signs of life on a real socket."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import PurePosixPath

import pytest

from pile_edge import systemd
from pile_edge.cli import main
from pile_edge.commands import install
from pile_edge.ports.cpython_notify import Notifier
from pile_hil.pile_case import AgentProcess, PileCase
from pile_hil.requirements import require

UNIT = systemd.Service("pile-1", sys.executable, ("dialout",)).unit()
TEMPLATE = systemd.Service("pile-1", sys.executable, ("dialout",), is_template=True).unit()
HEARD_SECONDS = 30


@pytest.fixture
def case(tmp_path):
    (tmp_path / "case").mkdir()
    with PileCase(tmp_path / "case") as case:
        yield case


@pytest.fixture
def config(case):
    (case.folder / "pile.key").unlink()
    return case.write_config()


def listen(address):
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(address)
    heard.settimeout(HEARD_SECONDS)
    return heard


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_agent_tells_systemd_that_it_lives(case, tmp_path, kind):
    name = str(tmp_path / "notify") if kind == "path" else f"@pilechain-test-{os.getpid()}"
    config = case.write_config()
    with listen(name.replace("@", "\0", 1)) as heard:
        command = [sys.executable, "-m", "pile_edge.cli", "run", "--config", str(config)]
        with AgentProcess(command, {**os.environ, "NOTIFY_SOCKET": name}) as agent:
            assert heard.recv(100) == b"READY=1\nWATCHDOG=1"
            assert heard.recv(100) == b"WATCHDOG=1"
            assert any("running" in line for line in agent.lines)
            # A systemd that goes away for a moment is no reason to stop.
            heard.close()
            case.coordinator.wait(lambda c: len(c.proofs) > 1)
            assert agent.stop() == 0


def test_a_hanging_agent_falls_silent(case, tmp_path):
    """Signs of life come from the loop itself, not from a thread beside it."""
    config = case.write_config()
    with listen(str(tmp_path / "notify")) as heard:
        command = [sys.executable, "-m", "pile_edge.cli", "run", "--config", str(config)]
        with AgentProcess(command, {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}) as agent:
            heard.recv(100)
            os.kill(agent._process.pid, 19)  # SIGSTOP, the surest way to hang
            while select.select([heard], [], [], 3)[0]:
                heard.recv(100)
            os.kill(agent._process.pid, 18)
            assert heard.recv(100) == b"WATCHDOG=1"


def test_no_socket_no_words():
    Notifier(None).alive()
    Notifier("").alive()
    Notifier("/nowhere/at/all").alive()


@pytest.mark.parametrize(("name", "unit"), [("pile-edge", UNIT), ("pile-edge@left", TEMPLATE)])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path, name, unit):
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze is missing: apt install systemd")
    path = tmp_path / f"{name}.service"
    path.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "pile-edge" in line]
    assert ours == []
    path.write_text(unit.replace("WatchdogSec", "WatchDogSec"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "WatchDogSec" in done.stderr


def test_the_unit_exposes_little(tmp_path):
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze is missing: apt install systemd")
    path = tmp_path / "pile-edge.service"
    path.write_text(UNIT)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    print(done.stdout.splitlines()[-1] if done.stdout else done.stderr)
    assert done.returncode == 0, done.stdout[-800:] + done.stderr


def test_the_unit_says_what_it_must():
    lines = UNIT.splitlines()
    for line in (
        "Type=notify",
        "WatchdogSec=60",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "ProtectSystem=strict",
        "StateDirectory=pile-edge",
        "SupplementaryGroups=dialout",
        f"ExecStart={sys.executable} -m pile_edge.cli run --config /var/lib/pile-edge/pile.toml",
    ):
        assert line in lines
    # It would take adjtimex away, and with it the time status in every reading.
    assert not any(line.startswith("ProtectClock") for line in lines)
    assert "ProtectHome=read-only" in systemd.Service("p", str(PurePosixPath("/", "home", "pi", "python")), ()).unit()


def test_a_dry_run_shows_all_and_writes_nothing(config, tmp_path, capsys):
    root = tmp_path / "image"
    assert main(["install", "--config", str(config), "--root", str(root), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"--- {systemd.UNIT_PATH}" in shown
    assert "--- /var/lib/pile-edge/pile.toml" in shown
    assert not root.exists()
    assert main(["install", "--config", str(config), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["commands"][-1] == ["systemctl", "enable", "--now", "pile-edge.service"]
    assert plan["done"] is False
    assert plan["files"][systemd.UNIT_PATH].startswith("# made by `pile-edge install`")
    assert plan["files"]["/var/lib/pile-edge/pile.toml"] == "a copy of yours\n"  # it may have the broker's password
    assert "chain_id" not in shown


def test_into_an_image_and_out_again(config, tmp_path, capsys):
    root = tmp_path / "image"
    assert main(["install", "--config", str(config), "--root", str(root)]) == 0
    state = root / "var/lib/pile-edge"
    assert (root / "etc/systemd/system/pile-edge.service").read_text().startswith("# made by `pile-edge install`")
    assert (state / "pile.toml").read_text() == config.read_text()
    assert ((state / "pile.toml").stat().st_mode & 0o777, state.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "u pile-edge" in (root / "etc/sysusers.d/pile-edge.conf").read_text()
    (state / "pile.key").write_bytes(b"k")
    assert main(["install", "--remove", "--root", str(root)]) == 0
    assert "is kept" in capsys.readouterr().out
    assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["pile.key", "pile.toml"]


def test_nothing_is_said_to_be_done_that_failed(config, tmp_path, capsys):
    root = tmp_path / "image"
    root.write_text("a file where the image's root should be")
    assert main(["install", "--config", str(config), "--root", str(root), "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"] == "system"


def test_what_is_installed_runs(config, tmp_path, case):
    """The very command of the unit, with the state where the unit has it, but below this test's folder."""
    root = tmp_path / "image"
    assert main(["install", "--config", str(config), "--root", str(root)]) == 0
    unit = (root / "etc/systemd/system/pile-edge.service").read_text()
    (command,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = command.replace(systemd.STATE, str(root / "var/lib/pile-edge")).split()
    with AgentProcess(words) as agent:
        case.coordinator.wait(lambda c: c.proofs or c.faults)
        assert agent.stop() == 0
    written = {
        path.relative_to(root).parts[:3] for path in root.rglob("*") if path.is_file() and "etc" not in path.parts
    }
    assert written == {("var", "lib", "pile-edge")}


def test_the_template_differs_from_the_only_pile_in_its_name_alone():
    by_hand = UNIT.replace("pile-edge.service.d", "pile-edge@.service.d").replace("of pile pile-1", "of pile %i")
    by_hand = by_hand.replace("/var/lib/pile-edge", "/var/lib/pile-edge-%i")
    assert by_hand.replace("StateDirectory=pile-edge", "StateDirectory=pile-edge-%i") == TEMPLATE
    assert "ReadWritePaths=-/run/lock" in UNIT.splitlines()  # where agents take turns on a line


def test_several_piles_on_one_machine_are_kept_apart(config, tmp_path, capsys):
    root = tmp_path / "image"
    etc, lib = root / "etc/systemd/system", root / "var/lib"
    wants = etc / "multi-user.target.wants"
    for name in ((), ("--name", "left"), ("--name", "right-2")):
        assert main(["install", *name, "--config", str(config), "--root", str(root)]) == 0
    assert "journalctl -u pile-edge@right-2 -f" in capsys.readouterr().out
    assert {path.name for path in etc.iterdir()} == {"pile-edge.service", "pile-edge@.service"}
    assert {path.name for path in lib.iterdir()} == {"pile-edge", "pile-edge-left", "pile-edge-right-2"}
    assert (lib / "pile-edge-left").stat().st_mode & 0o777 == 0o700
    wants.mkdir()  # as `systemctl enable` does
    for name in ("left", "right-2"):
        (wants / f"pile-edge@{name}.service").symlink_to("../pile-edge@.service")
    assert main(["install", "--name", "left", "--config", str(config), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["commands"][1:] == [
        ["chown", "-R", "pile-edge:pile-edge", "/var/lib/pile-edge-left"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "pile-edge@left.service"],
    ]
    # What others still use stays when one goes.
    for name, gone in (
        ("left", []),
        ("right-2", ["pile-edge@.service"]),
        ("", ["pile-edge.service", "pile-edge.conf"]),
    ):
        assert main(["install", *(["--name", name] if name else []), "--remove", "--root", str(root), "--json"]) == 0
        assert [path.rpartition("/")[2] for path in json.loads(capsys.readouterr().out)["removed"]] == gone
        (wants / f"pile-edge@{name}.service").unlink(missing_ok=True)
    assert len(list(lib.glob("*/pile.toml"))) == 3


def test_an_instance_runs_from_the_template(config, tmp_path, case):
    """The template's command with the name put in, as systemd does it."""
    root = tmp_path / "image"
    assert main(["install", "--name", "left", "--config", str(config), "--root", str(root)]) == 0
    unit = (root / "etc/systemd/system/pile-edge@.service").read_text().replace("%i", "left")
    (command,) = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    with AgentProcess(command.replace("/var/lib", str(root / "var/lib")).split()) as agent:
        case.coordinator.wait(lambda c: c.proofs or c.faults)
        assert agent.stop() == 0
    assert (root / "var/lib/pile-edge-left/journal").is_dir()


@pytest.mark.parametrize("name", ["", "Left", "a/b", "a" * 33, "%i"])
def test_a_name_that_is_no_units_name_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        main(["install", "--name", name, "--remove", "--dry-run"])
    assert "a name is 1 to 32 characters" in capsys.readouterr().err


def test_a_key_elsewhere_is_not_copied(case, tmp_path, capsys):
    config = case.write_config()  # with its key beside it
    assert main(["install", "--config", str(config), "--root", str(tmp_path)]) == 2
    assert "a key is made where it stays" in capsys.readouterr().err


def test_certificates_as_a_board_takes_them_are_refused(config, tmp_path, capsys):
    (config.parent / "ca.der").write_bytes(bytes(range(256)))
    config.write_text(config.read_text().replace("[mqtt]\n", '[mqtt]\ntls = {ca = "ca.der"}\n'))
    assert main(["install", "--config", str(config), "--root", str(tmp_path)]) == 2
    assert "ca.der is not PEM: only a board takes DER" in capsys.readouterr().err


def test_state_elsewhere_is_refused(config, tmp_path, capsys):
    config.write_text(config.read_text().replace('path = "journal"', 'path = "/srv/journal"'))
    assert main(["install", "--config", str(config), "--root", str(tmp_path)]) == 2
    assert "journal.path is /srv/journal: make it relative" in capsys.readouterr().err


def test_a_command_that_fails_says_which():
    with pytest.raises(install.InstallError, match="false"):
        install._run(["false"])
    with pytest.raises(install.InstallError, match="this system has no systemd"):
        install._run(["there-is-no-such-program"])
