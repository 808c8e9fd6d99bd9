"""The whole-system simulator: seeds pass, replay exactly, and find what is planted in the software."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pile_hil.planted import BUGS
from pile_hil.simulator.run import EACH_P256, simulate, simulate_all

pytestmark = pytest.mark.timeout(600)  # half a minute of work, on a machine that may have other work
SEEDS = range(1, 61)
WITHIN = 200  # seeds in which a planted bug must be found
DOCS = Path(__file__).parents[2] / "docs/simulator.md"
EACH_TIME = {"rebase-on-falling-register"}  # the others with PILECHAIN_PLANTED=1


def python(*words, **environment):
    command = [sys.executable, *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False
    )


def test_every_check_holds_in_sixty_worlds():
    outcomes = list(simulate_all(SEEDS, days=0, jobs=1))
    assert [(one.seed, one.code, one.found) for one in outcomes if one.code] == []
    counts = {name: sum(one.counts.get(name, 0) for one in outcomes) for name in ("contracts", "settled_wh", "proofs")}
    assert min(counts.values()) > 3 * len(SEEDS), counts  # they are no empty worlds


def test_p256_itself_holds_too():
    assert simulate(EACH_P256).code == ""


def test_a_long_quiet_site_is_cheap_and_whole():
    outcome = simulate(7, days=2)
    assert outcome.code == ""
    assert outcome.counts["pile_minutes"] > 20 * 2 * 24 * 60


def test_a_seed_replays_exactly_in_another_process():
    code = "from pile_hil.simulator.run import simulate; print([simulate(seed).trace for seed in (2, 5, 11)])"
    first, second = (python("-c", code, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.count("'") == 6


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_and_says_how_to_see_it_again(bug, tmp_path):
    if bug not in EACH_TIME and os.environ.get("PILECHAIN_PLANTED") != "1":
        pytest.skip("PILECHAIN_PLANTED=1 runs all planted bugs")
    report = tmp_path / "report.json"
    words = ["--seeds", f"1-{WITHIN}", "--jobs", "1", "--first", "--planted", bug, "--report", str(report)]
    found = python("-m", "pile_hil.simulator", *words)
    assert found.returncode == 1, found.stdout + found.stderr
    (failed,) = json.loads(report.read_text())["failed"]
    assert failed["code"] != "exception"
    replay = f"pilechain hil simulate --seed {failed['seed']} --trace"
    assert f"replay it: {replay}" in found.stdout
    again = python("-m", "pile_hil.simulator", *replay.split()[3:], "--planted", bug)
    assert again.returncode == 1
    assert f"failed: {failed['code']}: {failed['found']}" in again.stdout


def test_a_wrong_range_says_what_is_expected():
    from pile_coordinator.cli import main

    assert main(["hil", "simulate", "--seeds", "9-1"]) == 2


def test_the_guide_has_every_bug_and_its_commands_run():
    page = DOCS.read_text()
    assert re.findall(r"^\| `([a-z-]+)` \| `[a-z]+`:", page, re.MULTILINE) == list(BUGS)
    commands = re.findall(r"^pilechain (hil simulate .*)$", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        done = python("-m", "pile_coordinator.cli", *command.split())
        assert done.returncode == int("--planted" in command), done.stdout + done.stderr
