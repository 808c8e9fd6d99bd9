"""Every kind of trouble over real Modbus: a signed word of it is on a real coordinator's chain, and no reading is invented."""

import sqlite3
import sys
from contextlib import closing

import pytest

from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_edge.agent import Agent
from pile_edge.config_file import load_config
from pile_edge.ports import cpython
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.peer import START
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, PileSpec, Site, wait_for
from pile_shared import cose
from pile_shared.proof import (
    ALARM,
    END,
    EVENT_NAMES,
    REASON_METER_FAULT,
    REASON_METER_SILENT,
    REASON_NAMES,
    REASON_PILE_FAULT,
    Proof,
    open_proof,
)
from pile_shared.reading import TIME_RELATIVE

RATE = 240
SECONDS = 30
# In real milliseconds; a rig's time is RATE times as fast.
TIMING = {"sample_ms": 100, "report_ms": 200, "heartbeat_ms": 400, "resend_ms": 1000, "silent_after_ms": 500}


def spec(rate: int) -> PileSpec:
    timing = {name: value * rate for name, value in TIMING.items()}
    return PileSpec("pile-1", "olga", {"kind": "tcp"}, "abb-b23", "B23 112", 12345678, 10_000_000, timing=timing)


class Watched:
    """A site with one pile, seen through what its coordinator has written down."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.site.start_rig()
        self.site.start_coordinator()
        self.site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        self.public = site.prepare_pile("pile-1")
        self.path = site.folder / "pile-1/pile.toml"

    def fault(self, kind: str, on: str = "meter") -> dict:
        return self.site.rig.command(do="fault", pile="pile-1", kind=kind, on=on)

    def proofs(self) -> list[Proof]:
        """All on the chain, in order, each verified anew."""
        uri = f"file:{self.site.folder}/coordinator/evidence.sqlite?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            rows = db.execute(
                "SELECT sequence, event, reason, bytes FROM proof WHERE kid = ? ORDER BY sequence",
                (cose.key_id(self.public),),
            ).fetchall()
        proofs = [open_proof(message, self.public, self.site.genesis.chain_id) for *_, message in rows]
        assert [row[:3] for row in rows] == [(p.sequence, EVENT_NAMES[p.event], REASON_NAMES[p.reason]) for p in proofs]
        return proofs

    def await_proof(self, event: int, reason: int, after: int = 0) -> Proof:
        """The first of these beyond a sequence, once it is on the chain."""
        found: list[Proof] = []

        def is_there() -> bool:
            found[:] = [p for p in self.proofs() if (p.event, p.reason) == (event, reason) and p.sequence > after]
            return bool(found)

        watched = [process for name, process in self.site.processes.items() if name in {"pile-1", "coordinator"}]
        wait_for(is_there, SECONDS, f"{EVENT_NAMES[event]} ({REASON_NAMES[reason]})", *watched)
        return found[0]

    def last(self) -> int:
        return max((proof.sequence for proof in self.proofs()), default=0)

    def await_heartbeat(self) -> None:
        after = self.last()
        wait_for(
            lambda: any(
                EVENT_NAMES[p.event] == "heartbeat" and p.readings for p in self.proofs() if p.sequence > after
            ),
            SECONDS,
            "a heartbeat",
            self.site.processes["pile-1"],
        )

    def await_receipt(self, sequence: int) -> None:
        agent = self.site.processes["pile-1"]
        wait_for(
            lambda: any(
                words[:2] == ["receipt", "through"] and int(words[2]) >= sequence
                for words in (line.split() for line in agent.text().splitlines())
            ),
            SECONDS,
            f"the receipt for {sequence}",
            agent,
        )

    def begin_session(self) -> bytes:
        """A contract, and its user's start until the pile has begun."""
        site = self.site
        with site.wallet("olga") as olga, site.wallet("dan") as dan:
            now_ms = site.clock.now_ms()
            olga.send(List("pile-1", now_ms, now_ms + 40 * HOUR_MS, 9_000, AT_MARKET, False))
            bid, _ = dan.send(
                PlaceBid("north", "", 8000, now_ms, now_ms + 30 * HOUR_MS, 999_000, True, 0, False, False)
            )
            contract = dan.ask("contract", bid)["id"]
            site.rig.command(do="plug", pile="pile-1")

            def begun() -> bool:
                if dan.ask("contract", bid)["phase"] != "signed":
                    return True
                dan.command("pile-1", contract, START, site.clock.now_ms(), 8000)
                return False

            wait_for(begun, SECONDS, "the session", site.processes["pile-1"])
        return contract


@pytest.fixture(params=[RATE])
def watched(tmp_path, request):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Site(tmp_path / "site", [spec(request.param)], rate=request.param, port=broker.port) as site,
    ):
        yield Watched(site)


def check_nothing_invented(watched: Watched, alarm: Proof) -> None:
    """The readings of an alarm about the meter are good ones from before: same register, same time as in an earlier proof."""
    earlier = [r.fields() for proof in watched.proofs() if proof.sequence < alarm.sequence for r in proof.readings]
    truth_wh = watched.site.rig.truth("pile-1")["energy_wh"]
    for reading in alarm.readings:
        assert reading.energy_wh <= truth_wh
        assert reading.fields() in earlier or reading.energy_wh == truth_wh // 10 * 10


def test_a_meter_in_trouble_without_a_session(watched):
    """Each fault one after the other on the same pile, which is well again in between."""
    watched.site.start_pile("pile-1")
    watched.await_heartbeat()
    before = watched.last()
    expected = {
        "silence": REASON_METER_SILENT,
        "noise": REASON_METER_SILENT,
        "exception": REASON_METER_SILENT,
        "not_available": REASON_METER_SILENT,
        "rollover": REASON_METER_FAULT,
        "leap": REASON_METER_FAULT,
    }
    for kind, reason in expected.items():
        watched.fault(kind)
        alarm = watched.await_proof(ALARM, reason, before)
        check_nothing_invented(watched, alarm)
        watched.await_receipt(alarm.sequence)
        watched.fault("none")
        watched.await_heartbeat()
        before = watched.last()
    assert all(p.readings[-1].energy_wh == 1_234_560 for p in watched.proofs() if p.readings)


def test_another_meter_than_the_configured_one(watched):
    watched.path.write_text(watched.path.read_text().replace('"12345678"', '"87654321"'))
    agent = watched.site.start("pile-1", sys.executable, "-m", "pile_edge.cli", "run", "--config", str(watched.path))
    alarm = watched.await_proof(ALARM, REASON_METER_FAULT)
    assert alarm.readings == []  # it has never read the right one
    watched.await_receipt(alarm.sequence)
    assert "meter: wrong_meter: meter says it is number 12345678" in agent.text()


@pytest.mark.parametrize("kind", ["stuck", "rollover"])
def test_in_a_session_the_end_says_so(watched, kind):
    watched.site.start_pile("pile-1")
    watched.await_heartbeat()
    contract = watched.begin_session()
    watched.fault(kind)
    end = watched.await_proof(END, REASON_METER_FAULT)
    assert end.contract == contract
    assert watched.site.rig.truth("pile-1")["coil"] is False
    assert end.readings[-1].energy_wh <= watched.site.rig.truth("pile-1")["energy_wh"]
    watched.await_receipt(end.sequence)
    if kind == "rollover":  # and it stays in trouble
        watched.await_receipt(watched.await_proof(ALARM, REASON_METER_FAULT, end.sequence).sequence)


def test_a_contactor_that_does_not_open_ends_the_session_and_then_is_an_alarm(watched):
    watched.site.start_pile("pile-1")
    watched.await_heartbeat()
    watched.begin_session()
    watched.fault("exception", "relay")
    watched.fault("silence")  # so that the session has to end
    end = watched.await_proof(END, REASON_METER_SILENT)
    alarm = watched.await_proof(ALARM, REASON_PILE_FAULT, end.sequence)
    watched.await_receipt(alarm.sequence)
    watched.fault("none", "relay")
    watched.fault("none")
    wait_for(lambda: watched.site.rig.truth("pile-1")["coil"] is False, SECONDS, "the contactor to open")
    watched.await_heartbeat()


def test_a_welded_contactor_is_an_alarm(watched):
    """The relay says it is open, and current flows."""
    agent = watched.site.start_pile("pile-1")
    watched.await_heartbeat()
    watched.site.rig.command(do="plug", pile="pile-1")
    watched.site.rig.command(do="weld", pile="pile-1")
    alarm = watched.await_proof(ALARM, REASON_PILE_FAULT)
    assert alarm.readings[-1].power_w >= 7000
    assert watched.site.rig.truth("pile-1")["coil"] is False
    watched.await_receipt(alarm.sequence)
    assert "does not open" not in agent.text()


class Lagging:
    """CPython's port on a machine whose clock can be set back."""

    lag_ms = 0

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(cpython, name)

    def wall_ms(self) -> int:
        return cpython.wall_ms() - self.lag_ms

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("watched", [1], indirect=True)
def test_a_clock_that_was_set_back_is_an_alarm(watched):
    watched.path.write_text(watched.path.read_text().partition("[clock]")[0])  # a rig's clock needs no setting
    port = Lagging()
    agent = Agent(load_config(watched.path), port)
    try:
        step_until(agent, lambda: watched.last() > 0)
        port.lag_ms = 2 * HOUR_MS
        step_until(agent, lambda: any(p.event == ALARM for p in watched.proofs()))
        (alarm, *_) = [p for p in watched.proofs() if p.event == ALARM]
        assert (alarm.reason, alarm.readings[-1].time_status) == (REASON_PILE_FAULT, TIME_RELATIVE)
        times = [reading.time_ms for proof in watched.proofs() for reading in proof.readings]
        assert times == sorted(times)
        step_until(agent, lambda: (agent.journal.retired_through or 0) >= alarm.sequence)
        port.lag_ms = 0
        step_until(agent, lambda: watched.proofs()[-1].event != ALARM)
    finally:
        agent.close()


def step_until(agent: Agent, condition) -> None:
    def stepped() -> bool:
        agent.step()
        return condition()

    wait_for(stepped, SECONDS, "the pile")
