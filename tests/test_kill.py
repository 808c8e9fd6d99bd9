"""SIGKILL of a real process in the middle of delivery, and the order still settles with the same kWh.

The simulated car is the judge: what it drew is known, whatever the agents, the broker and the coordinator went through.
"""

import time
from pathlib import Path

import pytest

from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_coordinator.verify import verify_order
from pile_coordinator.wallet import START
from pile_hil.site import HOUR_MS, PileSpec, Site

ENERGY_WH = 3000
RATE = 240
PILE = PileSpec(
    "pile-1",
    "olga",
    {"kind": "tcp"},
    "eastron-sdm630",
    "SDM630",
    63000117,
    battery_wh=50_000,
    timing={"resend_ms": 1000 * RATE},
)


def ask_until(wallet, question, order, phases, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        found = wallet.ask(question, order)
        if found["phase"] in phases:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def kill(site: Site, victim: str) -> None:
    site.processes[victim].kill()
    time.sleep(0.7)  # the world goes on without it
    if victim == "broker":
        site.start_broker()
    else:
        site.processes[victim].start()


@pytest.fixture
def site(tmp_path: Path):
    with Site(tmp_path, [PILE], rate=RATE) as site:
        site.start_broker()
        site.start_rig()
        site.start_coordinator()
        site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        site.start_pile("pile-1")
        yield site


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(("coordinator", "coordinator", "coordinator"), id="coordinator"),
        pytest.param(("broker", "broker"), id="broker"),
        pytest.param(("pile-1", "pile-1", "pile-1"), id="pile"),
        pytest.param(("pile-1", "broker", "coordinator"), id="each in turn"),
    ],
)
def test_an_order_survives_sigkill(site, victims):
    with site.wallet("dan") as dan, site.wallet("olga") as olga:
        now_ms = site.clock.now_ms()
        olga.send(List("pile-1", now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, False))
        bid, _ = dan.send(
            PlaceBid("north", "", ENERGY_WH, now_ms, now_ms + 24 * HOUR_MS, 800_000, True, 0, False, False)
        )
        contract = dan.ask("contract", bid)["id"]
        site.rig.command(do="plug", pile="pile-1")
        while dan.ask("contract", bid)["phase"] == "signed":
            dan.command("pile-1", contract, START, site.clock.now_ms(), ENERGY_WH)
            time.sleep(0.2)
        for victim in victims:
            kill(site, victim)
            time.sleep(0.5)
        measured = ask_until(dan, "contract", bid, {"measured"})
        truth_wh = site.rig.truth("pile-1")["energy_wh"] - PILE.start_energy_wh
        assert truth_wh - 1 <= measured["measured_wh"] <= truth_wh + 1  # each end is rounded down to a watt-hour
        assert measured["measured_wh"] >= ENERGY_WH - 100
        before = {w.party: w.ask("account")["balance_micro"] for w in (dan, olga)}
        dan.confirm(contract)
        olga.confirm(contract)
        certificate = dan.ask("certificate", contract)
        after = {w.party: w.ask("account")["balance_micro"] for w in (dan, olga)}
    verified = verify_order(certificate, site.genesis)  # contiguous, chained, and M is what the proofs say
    assert verified.statement.measured_wh == measured["measured_wh"]
    assert verified.outcome == "confirmed"
    gained = {side: sum(a for _, to, a in measured["postings"] if to == side) for side in "UH"}
    assert after["dan"] - before["dan"] == gained["U"]
    assert after["olga"] - before["olga"] == gained["H"]
