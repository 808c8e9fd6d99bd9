"""The soak: its plan, what watches it, and a short one on real processes that is told to stop and ends in order."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.replay import ReplayError
from pile_hil.broker import find_mosquitto
from pile_hil.faults.disk import has_disks
from pile_hil.faults.packets import has_packet_loss
from pile_hil.requirements import require
from pile_hil.scenarios.registry import catalogue
from pile_hil.site import wait_for
from pile_hil.soak.faults import FAULTS
from pile_hil.soak.plan import BROKERS, COORDINATORS, PILES, plan
from pile_hil.soak.soak import Result
from pile_hil.soak.watch import MAX_SAMPLES, Auditor, Growth, bound_logs
from pile_hil.trials.judge import Check

SOAK = (sys.executable, "-m", "pile_coordinator.cli", "hil", "soak")
PILES_OF_THREE = ("pile-1", "pile-2", "pile-3")
# What the catalogue has to have, by name, of power, network, clocks, disks and certificates.
NAMED = {
    *("power-cut-pile", "power-cut-broker", "power-cut-coordinator", "power-cut-site"),
    *("network-loss", "network-delay", "network-duplication", "network-reordering", "network-partition"),
    *("clock-back", "clock-forward", "coordinator-clock-forward", "coordinator-clock-back"),
    *("disk-full-journal", "disk-full-ledger", "disk-read-only", "disk-slow-fsync"),
    *("certificate-expired", "certificate-revoked"),
}


def test_the_catalogue_has_every_fault_of_its_kind():
    assert set(catalogue()) >= NAMED


def test_a_seed_gives_the_same_plan_and_faults_of_one_lane_never_overlap():
    lanes = plan(7, 3600, PILES_OF_THREE)
    assert lanes == plan(7, 3600, PILES_OF_THREE) != plan(8, 3600, PILES_OF_THREE)
    assert [{one.who for one in lane} for lane in lanes[:3]] == [{pile} for pile in PILES_OF_THREE]
    assert {one.who for one in lanes[3]} == {"coordinator", "broker"}
    for lane in lanes:
        assert all(before.at_s + before.length_s < after.at_s for before, after in pairwise(lane))
        assert lane[-1].at_s + lane[-1].length_s <= 3600
    assert {one.name for lane in lanes for one in lane} == set(FAULTS) == {*PILES, *COORDINATORS, *BROKERS}
    assert plan(7, 3, PILES_OF_THREE)[0] in ([], lanes[0][:1])


def test_the_page_has_every_option():
    page = (Path(__file__).parents[2] / "docs/soak.md").read_text()
    said = subprocess.run([*SOAK, "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z]+", said)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[a-z]+)", page, re.MULTILINE))


def test_memory_is_judged_by_its_growth_and_takes_little_itself():
    flat, growing = Growth(), Growth()
    for number in range(10 * MAX_SAMPLES):
        flat.add(50_000_000 + (number * 7919) % 1000)
        growing.add(50_000_000 + 1000 * number)
    assert len(flat.samples) <= MAX_SAMPLES
    assert abs(flat.summary()["grown_bytes"]) < 1000
    assert growing.summary()["grown_bytes"] > 20_000_000
    assert Growth().summary() == {"most_bytes": 0, "grown_bytes": 0, "samples": 0}


def test_logs_are_bounded(tmp_path):
    kept, cut = tmp_path / "pile-1.log", tmp_path / "broker.log"
    assert bound_logs([kept], [cut]) == []
    for path in (kept, cut):
        with path.open("wb") as file:
            file.truncate(65 << 20)
    assert "pile-1.log" in bound_logs([kept], [cut])[0]
    assert (kept.stat().st_size, cut.stat().st_size) == (65 << 20, 0)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """A soak that would take an hour, and is told to stop when it has settled an order and something went wrong."""
    require(find_mosquitto() is not None, "mosquitto is not installed")
    require(
        has_disks(tmp_path_factory.mktemp("try")), "no disks of our own: run as root, with mkfs.ext4 and loop devices"
    )
    require(has_packet_loss(), "no packet loss: nft is missing (run tools/servers), or this is not root")
    require(shutil.which("strace") is not None, "strace is missing: run tools/servers")
    out = tmp_path_factory.mktemp("soak")
    options = ["--minutes", "60", "--seed", "5", "--piles", "1", "--out", str(out)]
    said = out / "said.txt"
    with said.open("wb") as file, subprocess.Popen([*SOAK, *options], stdout=file, stderr=subprocess.STDOUT) as soak:
        try:
            wait_for(lambda: _settled(out) or soak.poll() is not None, 240, "an order to be settled")
            soak.send_signal(signal.SIGTERM)
            status = soak.wait(240)
        finally:
            soak.kill()
    return out, said.read_text(), status


def _settled(out: Path) -> bool:
    return any((out / "soak").glob("*.cbor")) and " faults so far" in (out / "said.txt").read_text()


def test_a_short_soak_loses_nothing_and_stops_in_order(soaked):
    out, said, status = soaked
    assert status == 0, said
    result = json.loads((out / "soak.json").read_text())
    assert result["ok"]
    assert result["orders"] >= 1
    assert result["flowed_wh"] >= 1000
    assert {check["name"] for check in result["checks"]} >= {
        "alive",
        "conserved",
        "exactly once",
        "no loss",
        "true",
        "memory",
    }
    assert {"coordinator", "pile-1"} <= set(result["memory"])
    assert "stopping: what is under way is finished first" in said
    assert "random faults" in (out / "report.html").read_text()
    mounts = Path("/proc/mounts").read_text()
    assert str(out) not in mounts  # and no disk is left behind


def test_a_ledger_is_judged_while_it_grows(soaked, tmp_path):
    out, _, _ = soaked
    genesis = genesis_from_json(json.loads((out / "soak/site/genesis.json").read_text()))
    ledger = tmp_path / "ledger.sqlite"
    Auditor(ledger, genesis).look()  # it is not there yet
    shutil.copy(out / "soak/site/coordinator/ledger.sqlite", ledger)
    auditor = Auditor(ledger, genesis)
    auditor.look()
    height = auditor.replay.height
    assert height > 1
    auditor.look()
    assert auditor.replay.height == height
    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE block SET results = (SELECT results FROM block WHERE height = 1) WHERE height = 2")
    with pytest.raises(ReplayError):
        Auditor(ledger, genesis).look()


def test_one_check_that_fails_is_enough(tmp_path):
    fine, lost = Check("alive", True, ""), Check("true", False, "3 Wh are lost")
    row = {"seed": 1, "seconds": 1, "piles": 1, "real_s": 1, "orders": 1, "flowed_wh": 1, "faults": {}, "memory": {}}
    assert Result(**row, checks=[fine]).ok
    result = Result(**row, checks=[fine, lost])
    result.save(tmp_path)
    assert json.loads((tmp_path / "soak.json").read_text())["ok"] is False
