"""A week without a broker: the journal keeps its bound, thins by its rule, and the chain takes everything in the end."""

import itertools
import sys
from pathlib import Path

import pytest
from real_pile import RealPile
from scripted_pile import Hardware, Port
from world import NOW

from pile_edge.agent import Agent
from pile_edge.journal import RECORD_MAX_BYTES, RESERVE_DIVISOR
from pile_edge.ports.cpython_storage import Storage
from pile_hil.peer import START
from pile_hil.pile_case import AgentProcess, PileCase
from pile_shared.proof import BEGIN, END, HEARTBEAT, PERIODIC
from pile_shared.topics import pile_topic

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
WEEK = 7 * DAY
TIMING = "sample_ms = 60000\nreport_ms = 60000"


class Link:
    """A link that is up or down; each poll is a minute. Given a chain, it keeps what comes for it."""

    inflight = 0

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.connected = True
        self.queue: list[tuple[str, bytes]] = []
        self.came: list[bytes] = []

    def poll(self, _timeout_ms: int) -> list[tuple[str, bytes]]:
        self.hardware.advance(MINUTE)
        queue, self.queue = self.queue, []
        return queue

    def publish(self, _topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if not retain:
            self.came.append(payload)
        return True

    def close(self) -> None:
        pass


class Away:
    """A pile that has begun a session of `hours` when its broker goes away."""

    def __init__(self, folder: Path, capacity_bytes: int, segment_bytes: int) -> None:
        self.chain = RealPile(
            begin_grace_ms=WEEK, evidence_window_ms=WEEK, owner_micro=10**9, user_micro=10**10, capacity_hours=8760
        )
        self.contract = self.chain.agree(NOW, NOW + WEEK - MINUTE, 900_000)
        journal = f"capacity_bytes = {capacity_bytes}\nsegment_bytes = {segment_bytes}"
        settings = self.chain.settings(folder, journal=journal, timing=TIMING)
        self.hardware = Hardware(NOW)
        self.link = Link(self.hardware)
        port = Port(self.hardware, Storage(settings.journal_path), self.link)
        self.agent = Agent(settings, port)
        self.send("contract", self.chain.contract_message(self.contract))
        self.send("session", self.chain.session_message(self.contract, START, NOW + MINUTE))
        for _ in range(3):
            self.agent.step()
        self.deliver()
        self.agent.step()
        assert (self.agent.journal.retired_through or 0) >= 2

    def send(self, kind: str, payload: bytes) -> None:
        self.link.queue.append((pile_topic(self.chain.chain_id, "pile-1", kind), payload))

    def deliver(self) -> None:
        self.chain.take(self.link.came, self.hardware.now_ms)
        self.chain.check()
        self.link.came = []
        self.send("receipt", self.chain.receipt_message())

    def come_back(self) -> None:
        self.link.connected = True
        for _ in range(1000):
            self.agent.step()
            if not self.link.came and self.agent.journal.retired_through == self.agent.journal.last_sequence:
                return
            self.deliver()
        pytest.fail("never all delivered")


@pytest.mark.parametrize(("capacity_bytes", "segment_bytes"), [(16 * 16384, 16384), (65536, 4096), (8 * 2062, 2062)])
def test_a_week_without_a_broker(tmp_path, capacity_bytes, segment_bytes):
    away = Away(tmp_path, capacity_bytes, segment_bytes)
    agent, journal = away.agent, away.agent.journal
    away.link.connected = False
    room = capacity_bytes - capacity_bytes // RESERVE_DIVISOR
    due, fills = 0, []
    while away.hardware.now_ms < NOW + WEEK + DAY:
        used, before, phase = journal.used_bytes, journal.last_sequence, agent.session.phase
        agent.step()
        assert journal.used_bytes <= capacity_bytes
        if phase and agent.session.phase == phase:
            # The documented rule, from outside: of n * n only one, n = room / free room.
            due += 1
            every = (room // (room - used)) ** 2 if room - used > RECORD_MAX_BYTES + 14 else 0
            assert (journal.last_sequence > before) == (0 < every <= due), (used, due)
            if journal.last_sequence > before:
                fills.append(due)
                due = 0
    away.come_back()
    check(away, fills)


def check(away: Away, fills: list[int]) -> None:
    chain = away.chain
    session = [proof for proof in chain.admitted if proof.contract == away.contract.id]
    assert [session[0].event, session[-1].event] == [BEGIN, END]
    assert {proof.event for proof in session[1:-1]} == {PERIODIC}
    assert {proof.event for proof in chain.admitted} <= {BEGIN, PERIODIC, END, HEARTBEAT}
    begin, end = session[0].readings[0], session[-1].readings[-1]
    assert end.energy_wh == away.hardware.shown_wh
    assert chain.settle(chain.state.get(type(away.contract), away.contract.id)) == end.energy_wh - begin.energy_wh
    assert all(few <= many for few, many in itertools.pairwise(fills))
    assert len(set(fills)) > 3
    print(f"{len(session)} proofs, one in {fills[0]} to one in {fills[-1]}")


def test_days_without_mosquitto(tmp_path):
    """The real agent, its clock 6,000 times as fast: a session ends, and two days pass, without its broker."""
    hours = {
        "sample_ms": 0.5,
        "report_ms": 0.5,
        "heartbeat_ms": 0.5,
        "resend_ms": 12,
        "silent_after_ms": 12,
        "full_after_ms": 2,
    }
    with PileCase(tmp_path, rate=6_000) as case:
        coordinator = case.coordinator
        path = case.write_config(**{name: int(value * 60 * MINUTE) for name, value in hours.items()})
        path.write_text(path.read_text().replace("4096", "2062").replace("65536", str(8 * 2062)))
        with AgentProcess([sys.executable, "-m", "pile_edge.cli", "run", "--config", str(path)]) as agent:
            coordinator.wait(lambda c: HEARTBEAT in [proof.event for proof in c.proofs])
            terms = case.terms(energy_wh=5_000_000, window_end_ms=case.clock.now_ms() + WEEK)
            case.reserve_and_start(terms)

            def begins(_: object) -> bool:
                if BEGIN in [proof.event for proof in coordinator.proofs]:
                    return True
                case.user_asks(terms, START)  # ten minutes are 100 ms here: a slow machine may find one too old
                return False

            coordinator.wait(begins, 60)
            case.broker.stop()
            back_ms = case.clock.now_ms() + 2 * DAY
            try:
                coordinator.wait(lambda _: case.clock.now_ms() > back_ms, 60)
            finally:
                case.broker.start()
            heads = [int(line.split()[1]) for line in agent.lines if line.startswith("proof ")]
            coordinator.wait(lambda c: len(c.proofs) >= heads[-1], 60)
            assert any("left out" in line for line in agent.lines)
        assert coordinator.faults == []
        events = [proof.event for proof in coordinator.proofs if proof.contract == terms.contract_id()]
        assert (events[0], events[-1], events.count(BEGIN), events.count(END)) == (BEGIN, END, 1, 1)
        assert coordinator.proofs[-1].readings[-1].energy_wh == case.truth()["meter_wh"]
