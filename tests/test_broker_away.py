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
from pile_hil.peer import START, session_message
from pile_hil.pile_case import USER, AgentProcess, PileCase
from pile_shared.proof import BEGIN, END, HEARTBEAT, PERIODIC, REASON_WINDOW_END
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


class Oracle:
    """The documented rule (docs/pile.md, "What it does when things fail"), told by the pile's log and by nothing of its code.

    It keeps its own account of the journal: records of 14 bytes more than a proof, in segments; a receipt frees the
    segments that it covers, but the newest.
    """

    def __init__(self, capacity_bytes: int, segment_bytes: int) -> None:
        self.room = capacity_bytes * 3 // 4
        self.capacity_bytes = capacity_bytes
        self.segment_bytes = segment_bytes
        self.segments: list[list[tuple[int, int]]] = []  # (sequence, bytes) of each record
        self.due = 0
        self.written: list[int] = []
        self.every: list[int] = []  # of how many one was written, where one was

    def hear(self, line: str) -> None:
        words = line.split()
        if words[:2] == ["receipt", "through"]:
            while len(self.segments) > 1 and self.segments[0][-1][0] <= int(words[2]):
                self.segments.pop(0)
        elif line.startswith("journal is full: left out a "):
            self.due += 1
            assert not self.is_to_be_written(), (line, self.used(), self.due)
        elif words[:1] == ["proof"]:
            self.write(int(words[1]), words[2], int(words[-2]))

    def write(self, sequence: int, event: str, size_bytes: int) -> None:
        if event not in {"begin", "end"}:
            self.due += 1
            assert self.is_to_be_written(), (sequence, self.used(), self.due)
            self.every.append(self.due)
            self.due = 0
        record_bytes = size_bytes + 14
        if not self.segments or sum(size for _, size in self.segments[-1]) + record_bytes > self.segment_bytes:
            self.segments.append([])
        self.segments[-1].append((sequence, record_bytes))
        assert self.used() <= self.capacity_bytes
        self.written.append(sequence)

    def used(self) -> int:
        return sum(size for segment in self.segments for _, size in segment)

    def is_to_be_written(self) -> bool:
        free = self.room - self.used()
        return free >= 2062 and self.due >= (self.room // free) ** 2


def start(case: PileCase, terms) -> None:
    """Ten minutes, the age of a start that a pile takes, are 30 ms here: ask with some lead, one or the other fits."""
    coordinator = case.coordinator
    coordinator.send("contract", case.chain.contract(terms))
    leads_ms = itertools.cycle(range(0, 121, 20))

    def begins(_: object) -> bool:
        if BEGIN in [proof.event for proof in coordinator.proofs]:
            return True
        asked_ms = case.clock.now_ms() + next(leads_ms) * case.clock.rate
        coordinator.send("session", session_message(USER, case.chain.chain_id, terms.contract_id(), START, asked_ms))
        return False

    coordinator.wait(begins, 60)


def test_a_week_without_mosquitto(tmp_path):
    """The real agent, its clock 20,000 times as fast: a session begins, and its broker is away for a week in which it ends."""
    hours = {"sample_ms": 0.5, "report_ms": 0.5, "heartbeat_ms": 0.5, "resend_ms": 12, "silent_after_ms": 12}
    capacity_bytes, segment_bytes = 8 * 2062, 2062
    with PileCase(tmp_path, rate=20_000) as case:
        coordinator = case.coordinator
        case.rig.command({"do": "plug", "pile": "pile-1", "battery_wh": 10_000_000})
        timing = {name: int(value * 60 * MINUTE) for name, value in hours.items()}
        path = case.write_config(full_after_ms=DAY, **timing)
        path.write_text(path.read_text().replace("4096", str(segment_bytes)).replace("65536", str(capacity_bytes)))
        with AgentProcess([sys.executable, "-m", "pile_edge.cli", "run", "--config", str(path)]) as agent:
            coordinator.wait(lambda c: HEARTBEAT in [proof.event for proof in c.proofs])
            terms = case.terms(energy_wh=5_000_000, window_end_ms=case.clock.now_ms() + 5 * DAY, begin_grace_ms=2 * DAY)
            start(case, terms)
            case.broker.stop()
            back_ms = case.clock.now_ms() + WEEK
            try:
                coordinator.wait(lambda _: case.clock.now_ms() > back_ms, 90)
            finally:
                case.broker.start()
            head = max(int(line.split()[1]) for line in agent.lines if line.startswith("proof "))
            coordinator.wait(lambda c: len(c.proofs) >= head, 60)
            assert agent.stop() == 0
        check_week(case, terms, agent.lines, Oracle(capacity_bytes, segment_bytes))


def check_week(case: PileCase, terms, lines: list[str], oracle: Oracle) -> None:
    for line in lines:
        oracle.hear(line)
    proofs = case.coordinator.proofs
    assert case.coordinator.faults == []
    arrived = [proof.sequence for proof in proofs]
    assert arrived == oracle.written[: len(arrived)] == list(range(1, len(arrived) + 1))
    session = [proof for proof in proofs if proof.contract == terms.contract_id()]
    events = [proof.event for proof in session]
    assert (events[0], events[-1], events.count(BEGIN), events.count(END)) == (BEGIN, END, 1, 1)
    assert session[-1].reason == REASON_WINDOW_END
    assert session[-1].readings[-1].energy_wh == case.truth()["meter_wh"]
    assert max(oracle.every) >= 16
    assert any(proof.event == HEARTBEAT for proof in proofs[proofs.index(session[-1]) :])
    print(
        f"{len(proofs)} proofs, one in {min(oracle.every)} to one in {max(oracle.every)}, {len(session)} of the session"
    )
