"""What an electrician gets wrong: every command says what to check, and says it as JSON to those who ask for JSON."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pile_edge.cli import _parser
from pile_hil.pile_case import AgentProcess
from pile_hil.rig import Rig

ROOT = Path(__file__).parents[2]
COMMANDS = ("scan", "read", "run", "provision", "flash", "meters", "verify-journal", "key", "install", "ocmf")


@pytest.fixture
def config(tmp_path):
    page = (ROOT / "docs/pile.md").read_text()
    path = tmp_path / "pile.toml"
    path.write_text(
        page.partition("```toml\n")[2].partition("```")[0].replace("/dev/ttyUSB0", str(tmp_path / "ttyUSB0"))
    )
    return path


def spoilt(config: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    return config


# Root may read every file, unless the capability to do so is taken from it.
MORTAL = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def called(*words: object) -> subprocess.CompletedProcess:
    command = [*MORTAL, sys.executable, "-m", "pile_edge.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)


def complaint(*words: object, status: int) -> dict[str, str]:
    """The same call for people and for programs: the same message and advice, here and there."""
    for_people, for_programs = called(*words), called(*words, "--json")
    assert (for_people.returncode, for_programs.returncode) == (status, status), (for_people, for_programs)
    told = json.loads(for_programs.stdout)
    assert set(told) == {"error", "message", "check"}
    expected = f"pile-edge: {told['message']}\n" + (f"  check: {told['check']}\n" if told["check"] else "")
    assert for_people.stderr.endswith(expected)
    assert "Traceback" not in for_people.stderr + for_programs.stderr
    return told


@pytest.mark.parametrize("command", ["read", "run", "provision", "verify-journal", "key", "install", "ocmf"])
def test_a_file_that_is_not_there(command, tmp_path):
    told = complaint(command, "--config", tmp_path / "nope.toml", status=2)
    assert told["error"] == "config"
    assert str(tmp_path / "nope.toml") in told["message"]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("baud = 9600", "buad = 9600", "bus.buad is not a key; known: "),
        ("unit = 1\n", "unit =\n", "not TOML: Invalid value (at line "),
        ("unit = 1\n", "unit = 300\n", "meter.unit must be an integer from "),
        ('profile = "eastron-sdm630"', 'profile = "eastron-sdm360"', "eastron-sdm360"),
        ('parity = "N"', 'parity = "none"', "bus.parity"),
        ('serial = "63000117"', "", "meter.serial"),
    ],
)
def test_a_typo_in_the_configuration(config, old, new, named):
    told = complaint("read", "--config", spoilt(config, old, new), status=2)
    assert named in told["message"]
    assert str(config) in told["message"]


def test_an_adapter_that_is_not_plugged_in(config):
    device = str(config.parent / "ttyUSB0")
    for words in (("scan", "--port", device), ("read", "--config", config)):
        told = complaint(*words, status=1)
        assert told["error"] == "closed"
        assert told["message"].startswith(f"cannot open {device}")
        assert told["check"].startswith("is the adapter plugged in, does ")
        assert "group dialout" in told["check"]


def test_a_port_where_nobody_listens(config):
    told = complaint("scan", "--tcp", "127.0.0.1:1", status=1)
    assert told["message"] == "cannot open 127.0.0.1:1"
    assert "can 127.0.0.1 be reached (ping), is port 1 right" in told["check"]


def test_a_key_that_is_not_there_and_a_journal_that_is_not(config):
    told = complaint("verify-journal", "--config", config, status=2)
    assert "no key; give the public one by --public" in told["message"]
    public = "04" + "11" * 64
    told = complaint("verify-journal", "--config", config, "--public", public, status=2)
    assert "no journal here" in told["message"]


def test_a_file_one_may_not_read(config):
    config.chmod(0)
    assert "Permission denied" in complaint("read", "--config", config, status=2)["message"]


def test_a_meter_that_does_not_answer_and_a_wrong_baud_rate(config):
    """On a real serial line: the meter is at 9,600 baud, and its address is 1."""
    pile = {"id": "pile-1", "bus": "bus", "profile": "eastron-sdm630", "baud": 9600, "start_energy_wh": 1}
    with Rig({"buses": {"bus": {"kind": "rtu", "baud": 9600}}, "piles": [pile]}) as rig:
        spoilt(config, str(config.parent / "ttyUSB0"), rig.bus_specs["bus"]["device"])
        good = json.loads(called("read", "--config", config, "--json").stdout)
        assert (good["energy_wh"], good["profile"]) == (1, "eastron-sdm630")
        right = config.read_text()
        for old, new in (("unit = 1\n", "unit = 9\n"), ("baud = 9600", "baud = 19200")):
            assert old in right
            config.write_text(right.replace(old, new, 1))
            told = complaint("read", "--config", config, status=1)
            assert told["error"] in {"timeout", "crc", "frame"}
            assert "parity" in told["check"] or "pile-edge scan" in told["check"]


def test_a_dry_run_says_what_to_check_and_speaks_json(config):
    command = [sys.executable, "-m", "pile_edge.cli", "run", "--config", str(config), "--dry-run"]
    with AgentProcess(command) as agent:
        until(agent, lambda: any(line.startswith("  check: is the adapter plugged in") for line in agent.lines))
        assert agent.stop() == 0
    with AgentProcess([*command, "--json"]) as agent:
        until(agent, lambda: any('"  check: is the adapter' in line for line in agent.lines))
        assert agent.stop() == 0
    told = [json.loads(line) for line in agent.lines]
    assert {"contactor": "open"} in told
    assert told[-1] == {"proofs": 0}
    assert all(set(line) == {"time_ms", "log"} for line in told if "log" in line)


def until(agent: AgentProcess, condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, agent.lines
        time.sleep(0.05)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        _parser([command]).parse_args([command, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert "--json" in shown
    assert len(shown) > 400
