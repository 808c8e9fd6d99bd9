"""A disk without room for the agent's state while a session charges: it goes on being measured, and can be stopped."""

import errno
from pathlib import Path

import pytest
from real_pile import PILE, RealPile
from scripted_pile import Hardware, Link, Port
from world import NOW, key

from pile_edge.agent import Agent
from pile_edge.config_file import load_config
from pile_edge.journal import CURSOR_NAME
from pile_edge.ports.cpython_storage import Storage
from pile_edge.session import CHARGING, IDLE
from pile_hil.peer import START, STOP, make_terms, session_message
from pile_shared.errors import BusError
from pile_shared.proof import END, REASON_ENERGY_REACHED, REASON_PILE_FAULT, REASON_USER, Proof, parse
from pile_shared.terms import Terms
from pile_shared.topics import pile_topic

SECOND = 1000
HOUR = 3600 * SECOND
USER = key("user-1")


class Disk(Storage):
    """A folder without room for what `full` says: "state" or "proofs"."""

    full = ""
    tries = 0

    def append(self, name: str, data: bytes) -> None:
        if self.full == "proofs":
            self.tries += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(name, data)

    def replace(self, name: str, data: bytes) -> None:
        if self.full == "state" and name == CURSOR_NAME:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().replace(name, data)


class Charging:
    """A pile that charges for one contract and is reserved by another."""

    def __init__(self, folder: Path) -> None:
        self.chain = RealPile()
        self.hardware = Hardware(NOW)
        self.link = Link(self.hardware, SECOND, lambda _: None)
        self.lines: list[str] = []
        path = self.chain.settings_file(folder, journal="capacity_bytes = 65536\nsegment_bytes = 4096")
        settings = load_config(path)
        self.disk = Disk(settings.journal_path)
        self.agent = Agent(settings, Port(self.hardware, self.disk, self.link, self.lines.append))
        self.terms, self.other = self.make_terms(0), self.make_terms(1)
        for terms in (self.terms, self.other):
            self.send("contract", self.chain.told.contract(terms))
        self.ask(START)
        self.run(10)
        assert self.agent.session.phase == CHARGING
        assert self.hardware.is_on

    def make_terms(self, hours: int) -> Terms:
        public = self.agent._signer.public
        window = {"window_start_ms": NOW + hours * HOUR, "window_end_ms": NOW + (hours + 1) * HOUR}
        return make_terms(pile=PILE, pile_public=public, user_public=USER.public, energy_wh=2_000, **window)

    def send(self, kind: str, payload: bytes) -> None:
        self.link.queue.append((pile_topic(self.chain.chain_id, PILE, kind), payload))

    def ask(self, action: int) -> None:
        contract = self.terms.contract_id()
        self.send("session", session_message(USER, self.chain.chain_id, contract, action, self.hardware.now_ms))

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.agent.step()

    def proofs(self) -> list[Proof]:
        return [parse(record)[1] for _, record in self.agent.journal.pending(0, 1000)]


@pytest.fixture
def pile(tmp_path):
    return Charging(tmp_path)


@pytest.mark.parametrize("how", ["limit", "user", "chain"])
def test_state_that_finds_no_room_does_not_keep_a_session_from_ending(pile, how):
    pile.disk.full = "state"
    pile.send("contract", pile.chain.told.closed(pile.other.contract_id()))
    pile.run(60)
    assert pile.agent.session.phase == CHARGING
    assert pile.hardware.shown_wh - pile.agent.session.last_reading.energy_wh < 50  # still measured
    if how == "user":
        pile.ask(STOP)
    if how == "chain":
        pile.send("contract", pile.chain.told.closed(pile.terms.contract_id()))
    pile.run(1300)
    assert not pile.hardware.is_on
    pile.disk.full = ""
    pile.run(30)
    reason = {"limit": REASON_ENERGY_REACHED, "user": REASON_USER, "chain": REASON_PILE_FAULT}[how]
    assert (pile.proofs()[-1].event, pile.proofs()[-1].reason) == (END, reason)
    pile.send("contract", pile.chain.told.contract(pile.other))  # its end was not forgotten for want of room
    pile.run(1)
    assert pile.lines[-1].endswith("is closed")


def test_a_station_that_someone_switches_on_is_stopped_though_an_end_waits_for_room(pile):
    pile.disk.full = "proofs"
    pile.ask(STOP)
    pile.run(30)
    assert pile.agent.session.phase == IDLE
    assert not pile.hardware.is_on
    asked = pile.disk.tries
    for _ in range(600):
        pile.hardware.is_on = True

        def keep() -> None:
            raise BusError("it charges", "control")

        pile.agent._control.keep = keep
        pile.run(1)
        assert not pile.hardware.is_on
    assert len(pile.agent._todo) <= 3
    assert (
        pile.disk.tries - asked <= 61
    )  # each asks for a signature and wears the flash: every sample_ms, not every step
    pile.disk.full = ""
    del pile.agent._control.keep
    pile.run(30)
    assert [proof.event for proof in pile.proofs()].count(END) == 1
