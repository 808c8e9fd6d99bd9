"""The rig: what its judge notices, how a run ends, and a handful of scenarios of the catalogue (all of them: `make hil`)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from inspect import signature
from pathlib import Path

import pytest

from pile_coordinator.chain.proofs import POWER_MARGIN_PERMILLE
from pile_coordinator.cli import _parser, main
from pile_edge.board.bundle import find_micropython
from pile_edge.meters.decode import MeterReader
from pile_hil.broker import find_mosquitto
from pile_hil.lab.protocols import BrokerProtocol, CoordinatorProtocol, MeterProtocol, PileProtocol, RigError
from pile_hil.lab.rig import RIGS, Rig, rig_path
from pile_hil.requirements import require
from pile_hil.scenarios.registry import catalogue
from pile_hil.site import wait_for
from pile_hil.trials.facts import FILE
from pile_hil.trials.judge import judge

RUN = (sys.executable, "-m", "pile_coordinator.cli", "hil")
SCENARIOS = ("meter-exception", "meter-noise-tcp")
# Which planted bug is found by which scenario; the first is tried each time, the others take minutes more.
FOUND_BY = {
    "rebase-on-falling-register": "meter-reset",
    "journal-without-flush": "power-cut-pile",
    "duplicate-not-detected": "network-duplication",
    "session-not-saved": "power-cut-pile",
}
NAMED = (  # by the issue that asked for the catalogue
    *("meter-crc", "meter-silence", "meter-wrong-unit", "meter-late", "meter-word-swap"),
    *("meter-reset", "meter-rollover", "meter-stuck"),
    *("power-cut-pile", "power-cut-broker", "power-cut-coordinator", "power-cut-node"),
    *("network-loss", "network-delay", "network-duplication", "network-reordering", "network-partition"),
    *("clock-back", "clock-forward", "coordinator-clock-back", "coordinator-clock-forward"),
    *("disk-full-journal", "disk-full-ledger", "disk-read-only", "disk-slow-fsync"),
    *("certificate-expired", "certificate-revoked"),
)


@pytest.fixture(autouse=True)
def needs_servers():
    require(find_mosquitto() is not None, "mosquitto is not installed")
    require(find_micropython() is not None, "no MicroPython for this platform")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two runs side by side, as both mostly wait: some scenarios, and one with a planted bug; folder, exit status, output."""
    out, planted = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("planted")
    bug, scenario = next(iter(FOUND_BY.items()))
    runs = [
        (out, start("run", *SCENARIOS, "--out", str(out), "--junit", str(out / "unit.xml"))),
        (planted, start("run", scenario, "--planted", bug, "--out", str(planted))),
    ]
    return [(folder, process.communicate(timeout=110)[0], process.returncode) for folder, process in runs]


@pytest.fixture(scope="module")
def run(both):
    """The run of some scenarios: its folder and what it printed."""
    out, said, status = both[0]
    assert status == 0, said
    return out, said


def test_scenarios_pass_and_are_reported(run):
    out, said = run
    assert "2 passed" in said
    suite = ET.parse(out / "unit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")
    assert {case.get("name") for case in suite} == set(SCENARIOS)
    page = (out / "report.html").read_text()
    assert page.count("<svg") == len(SCENARIOS)
    assert "Wh settled, as signed" in page
    assert not re.search(r'(src|href)="https?:|url\(http|@import', page)  # it needs nothing but itself
    ids = re.findall(r' id="([^"]+)"', page)
    shared = {
        one
        for one in ids
        if ids.count(one) > 1 and not re.match(r"(figure|axes|patch|line2d|matplotlib|text|xtick|ytick|legend)", one)
    }
    assert shared == set()  # else a picture would be clipped by another's


@pytest.fixture
def trial(run, tmp_path):
    """The folder of a trial that passed, to spoil."""
    folder = tmp_path / "trial"
    shutil.copytree(run[0] / SCENARIOS[0], folder)
    assert [check.name for check in judge(folder) if not check.ok] == []
    return folder


def change(folder: Path, **values: object) -> None:
    facts = json.loads((folder / FILE).read_text())
    facts["orders"][0] |= values
    (folder / FILE).write_text(json.dumps(facts))


def broken(folder: Path) -> set[str]:
    return {check.name for check in judge(folder) if not check.ok}


def spoil_more_signed(folder):
    facts = json.loads((folder / FILE).read_text())
    change(folder, after_wh=facts["orders"][0]["after_wh"] - 2)


def spoil_lost(folder):
    facts = json.loads((folder / FILE).read_text())
    change(folder, after_wh=facts["orders"][0]["after_wh"] + 2)


def spoil_signed_and_gone(folder):
    with (folder / "pile-1.log").open("a") as log:
        log.write("proof 900 end (contracted energy reached) 1240000 Wh 0 W, 2 readings, 214 bytes\n")


def spoil_other_energy(folder):
    path = folder / "pile-1.log"
    text = path.read_text()
    assert re.search(r"proof 2 begin \d+", text)
    path.write_text(re.sub(r"proof 2 begin \d+", "proof 2 begin 17", text))


def spoil_signed_twice(folder):
    path = folder / "pile-1.log"
    path.write_text(path.read_text() + re.search(r"proof 2 begin .*\n", path.read_text()).group())


def spoil_ledger(folder):
    (folder / "site/genesis.json").write_text((folder / "site/genesis.json").read_text().replace('"demo"', '"other"'))


def spoil_certificate(folder):
    path = next(folder.glob("*.cbor"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def spoil_reason(folder):
    facts = json.loads((folder / FILE).read_text())
    change(folder, expects=facts["orders"][0]["expects"] | {"reason": "vehicle full"})


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (spoil_more_signed, "true"),
        (spoil_lost, "true"),
        (spoil_signed_and_gone, "no loss"),
        (spoil_other_energy, "no loss"),
        (spoil_signed_twice, "exactly once"),
        (spoil_ledger, "readable"),
        (spoil_certificate, "settled"),
        (spoil_reason, "as expected"),
    ],
)
def test_the_judge_notices(trial, spoil, check):
    spoil(trial)
    assert broken(trial) == {check}


def test_a_planted_bug_is_found(both):
    _, said, status = both[1]
    assert status == 1, said
    assert "1 failed" in said


@pytest.mark.timeout(600)
@pytest.mark.skipif(os.environ.get("PILECHAIN_PLANTED") != "1", reason="with PILECHAIN_PLANTED=1")
@pytest.mark.parametrize("bug", list(FOUND_BY)[1:])
def test_every_planted_bug_is_found(bug, tmp_path):
    process = start("run", FOUND_BY[bug], "--planted", bug, "--out", str(tmp_path))
    said = process.communicate(timeout=500)[0]
    assert process.returncode == 1, said
    assert "1 failed" in said


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path):
    process = subprocess.Popen(
        [*RUN, "run", "meter-healthy", "--out", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    agent = tmp_path / "meter-healthy/site/pile-1.log"
    try:
        wait_for(lambda: agent.exists() and "running" in agent.read_text(), 100, "the agent")
        assert using(tmp_path)
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "1 stopped" in said
    assert using(tmp_path) == []


def using(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_the_catalogue_has_every_fault_that_was_asked_for():
    assert set(NAMED) - set(catalogue()) == set()


def test_every_scenario_runs_on_the_simulated_rig():
    rig = Rig(rig_path("sim"))
    for one in catalogue().values():
        rig.pick(one.needs, one.piles)


@pytest.mark.parametrize("path", sorted(RIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_rig_loads_and_all_its_bindings_resolve(path):
    rig = Rig(path)
    site = rig.environment.get_target("site")
    assert site.get_driver(BrokerProtocol, activate=False)
    assert site.get_driver(CoordinatorProtocol, activate=False)
    assert site.get_strategy()
    for name in rig.piles:
        pile = rig.environment.get_target(name)
        assert pile.get_driver(MeterProtocol, activate=False)
        assert pile.get_driver(PileProtocol, activate=False)
        assert pile.get_driver("PowerProtocol", activate=False)


def test_features_are_those_of_one_pile_not_of_all_together():
    rig = Rig(rig_path("sim"))
    assert rig.pick(["tcp"], 1) == ("pile-1",)
    assert rig.pick(["micropython", "broker-power"], 1) == ("pile-2",)
    with pytest.raises(RigError, match="has 0 piles with micropython, tcp"):
        rig.pick(["tcp", "micropython"], 1)
    with pytest.raises(RigError, match="has no teleport"):
        rig.pick(["teleport"], 1)


def test_a_run_in_which_nothing_ran_has_not_passed(tmp_path, capsys):
    text = rig_path("sim").read_text().replace("meter-faults, ", "")
    (tmp_path / "mine.yaml").write_text(text)
    rig, out = str(tmp_path / "mine.yaml"), str(tmp_path / "out")
    assert main(["hil", "run", "meter-reset", "--rig", rig, "--out", out]) == 1
    said = capsys.readouterr().out
    assert "rig mine has no meter-faults" in said
    assert "nothing ran" in said
    assert '"skipped"' in (tmp_path / "out/meter-reset/verdict.json").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "meter-crq"), "no scenario 'meter-crq'"),
        (("run", "--rig", "mine"), "no rig 'mine'"),
        (("run", "--jobs", "0"), "--jobs must be 1 to"),
        (("run", "meter-crc", "--planted", "bad"), "no planted bug 'bad'"),
        (("report", "nowhere"), "no verdicts here"),
    ],
)
def test_what_is_asked_wrongly_is_said(words, says, tmp_path, capsys):
    assert main(["hil", *words, *(("--out", str(tmp_path)) if words[0] == "run" else ())]) in {1, 2}
    assert says in capsys.readouterr().err


def test_the_page_tells_all_commands_features_and_resources():
    page = (Path(__file__).parents[2] / "docs/rig.md").read_text()
    commands = [line.split("  ")[0] for line in page.splitlines() if line.startswith("pilechain hil ")]
    assert len(commands) == 5
    for line in commands:
        assert _parser(line.split()[1:]).parse_args(line.split()[1:]).run
    features, resources = set(), set()
    for path in RIGS.glob("*.yaml"):
        for target in Rig(path).environment.config.get_targets().values():
            features |= set(target["features"])
            resources |= set(target["resources"])
    told = set(re.findall(r"`([A-Za-z-]+)`", page))
    assert (features | resources) - told == set()
    for one in catalogue().values():
        assert one.needs <= told


def test_a_pile_is_as_strict_about_energy_as_its_chain():
    """What a pile would sign and its chain not believe, freezes a session."""
    margin = signature(MeterReader).parameters["margin_percent"].default
    assert 1000 + 10 * margin <= POWER_MARGIN_PERMILLE
