"""A garage: one serial line, three piles with meters of three makes, an agent as a process for each."""

import json
import os
import signal
import struct
import subprocess
import sys
import time

import pytest

from pile_edge.ports.cpython_line import lock_path
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.clock import SimClock
from pile_hil.peer import START, Chain, Coordinator, make_terms, secret, session_message
from pile_hil.pile_case import HOUR_MS, USER, AgentProcess
from pile_hil.requirements import require
from pile_hil.rig import Rig
from pile_shared import cose
from pile_shared import proof as p

RATE = 60
PILES = {  # id: (profile, unit, start_energy_wh)
    "garage-1": ("abb-b23", 1, 1_000_000),
    "garage-2": ("eastron-sdm630", 2, 2_000_000),
    "garage-3": ("orno-we516", 3, 3_000_000),
}
TIMING = "sample_ms = 5000\nreport_ms = 30000\nheartbeat_ms = 120000\nresend_ms = 120000\nfull_after_ms = 300000"


class Pile:
    """One pile of the garage, at its coordinator."""

    def __init__(self, garage, folder, pile_id):
        self.garage, self.folder, self.id = garage, folder / pile_id, pile_id
        self.profile, self.unit, self.start_wh = PILES[pile_id]
        self.serial = "12345678"
        number = 40 + self.unit
        self.signer = cose.SoftwareSigner(secret(number))
        self.folder.mkdir()
        (self.folder / "pile.key").write_bytes(secret(number))
        (self.folder / "pile.key").chmod(0o600)
        self.coordinator = Coordinator(garage.broker.port, garage.chain, pile_id, self.signer.public)

    def write_config(self):
        garage, bus = self.garage, self.garage.rig.bus_specs["line"]
        lines = [
            f'chain_id = "{garage.chain.chain_id}"\npile_id = "{self.id}"\nsigner = "file:pile.key"',
            *[
                f'[[validators]]\nparty = "{one.party}"\npublic = "{one.public.hex()}"\npower = {one.power}'
                for one in garage.chain.validators
            ],
            f'[mqtt]\nhost = "127.0.0.1"\nport = {garage.broker.port}\nkeepalive_s = 10\n[bus]',
            *[f"{key} = {value!r}" for key, value in bus.items()],
            f'[meter]\nprofile = "{self.profile}"\nunit = {self.unit}\nserial = "{self.serial}"\nrated_power_w = 11000',
            f'[control]\nkind = "coil"\nunit = {10 + self.unit}\ncoil = 0\n[timing]\n{TIMING}',
            f'[clock]\nrate = {RATE}\norigin_ms = {garage.clock.origin_ms}\n[journal]\npath = "journal"',
        ]
        path = self.folder / "pile.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self):
        command = [sys.executable, "-m", "pile_edge.cli", "run", "--config", str(self.write_config())]
        return AgentProcess(command)

    def charge(self, energy_wh):
        now_ms = self.garage.clock.now_ms()
        self.terms = make_terms(
            pile=self.id, pile_public=self.signer.public, meter_serial=self.serial, user_public=USER.public,
            energy_wh=energy_wh, begin_grace_ms=2 * HOUR_MS,
            window_start_ms=now_ms - HOUR_MS, window_end_ms=now_ms + 24 * HOUR_MS,
        )  # fmt: skip
        chain = self.garage.chain
        self.coordinator.send("contract", chain.contract(self.terms))
        asked = session_message(USER, chain.chain_id, self.terms.contract_id(), START, now_ms, 0)
        self.coordinator.send("session", asked)

    def readings(self):
        return [reading.energy_wh for proof in self.coordinator.proofs for reading in proof.readings]


class Garage:
    def __init__(self, folder):
        self.chain = Chain()
        self.clock = SimClock(RATE, time.time_ns() // 1_000_000)
        piles = [
            {"id": name, "bus": "line", "profile": profile, "unit": unit, "relay_unit": 10 + unit,
             "start_energy_wh": start_wh, "plugged": True}
            for name, (profile, unit, start_wh) in PILES.items()
        ]  # fmt: skip
        self.rig = Rig(
            {
                "clock": {"rate": RATE, "origin_ms": self.clock.origin_ms},
                "buses": {"line": {"kind": "rtu", "baud": 115200}},
                "piles": piles,
            }
        )
        self.broker = Mosquitto(folder / "broker")
        self.rig.start()
        self.broker.start()
        self.piles = [Pile(self, folder, name) for name in PILES]
        for pile in self.piles:
            pile.coordinator.__enter__()

    def close(self):
        for pile in self.piles:
            pile.coordinator.__exit__()
        self.broker.stop()
        self.rig.stop()


@pytest.fixture
def garage(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed (apt install mosquitto)")
    opened = Garage(tmp_path)
    yield opened
    opened.close()


def has_event(event):
    return lambda coordinator: event in [proof.event for proof in coordinator.proofs]


def kill_in_an_exchange(agent, device):
    """SIGKILL, at a moment when the line is this process's; what the lock says after its death shows that it was."""
    lock = os.open(lock_path(device), os.O_RDONLY)
    give_up_s = time.monotonic() + 20
    while struct.unpack("<QII", os.pread(lock, 16, 0))[2] != agent._process.pid:
        assert time.monotonic() < give_up_s
    os.kill(agent._process.pid, signal.SIGKILL)
    agent._process.wait(10)
    holder = struct.unpack("<QII", os.pread(lock, 16, 0))[2]
    os.close(lock)
    return holder


@pytest.mark.timeout(180)
def test_three_agents_share_one_line_and_one_is_killed_in_an_exchange(garage):
    first, second, third = garage.piles
    device = garage.rig.bus_specs["line"]["device"]
    with first.start() as one, second.start() as two, third.start() as three:
        for pile in garage.piles:
            pile.coordinator.wait(has_event(p.HEARTBEAT), 60)
        for pile in garage.piles:
            pile.charge(1_500)
        for pile in garage.piles:
            pile.coordinator.wait(has_event(p.BEGIN), 60)
        # An electrician reads beside them.
        command = [
            sys.executable,
            "-m",
            "pile_edge.cli",
            "read",
            "--json",
            "--config",
            str(second.folder / "pile.toml"),
        ]
        read = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert read.returncode == 0, read.stderr
        assert second.start_wh <= json.loads(read.stdout)["energy_wh"] <= second.start_wh + 1_600
        killed, others = three, (one, two)
        for _ in range(20):  # between two looks at the lock the exchange may have ended
            if kill_in_an_exchange(killed, device) == killed._process.pid:
                break
            killed = third.start()
        else:
            killed.kill()
            pytest.fail("twenty times killed between two exchanges")
        with third.start() as again:
            for pile in garage.piles:
                pile.coordinator.wait(has_event(p.END), 90)
            assert all(agent.stop() == 0 for agent in (*others, again))
    for pile in garage.piles:
        proofs = [proof for proof in pile.coordinator.proofs if proof.contract == pile.terms.contract_id()]
        assert [proofs[0].event, proofs[-1].event] == [p.BEGIN, p.END]
        assert {proof.reason for proof in proofs if proof.event == p.END} == {p.REASON_ENERGY_REACHED}
        assert proofs[0].origin.profile == pile.profile
        assert pile.coordinator.faults == []
        # Only its own meter's: they begin a million apart.
        assert all(pile.start_wh <= energy_wh < pile.start_wh + 10_000 for energy_wh in pile.readings())
        truth = garage.rig.piles[pile.id].truth()
        assert truth["coil"] is False
        assert proofs[-1].readings[-1].energy_wh == truth["meter_wh"]
    assert not any("meter: crc" in line or "meter: frame" in line for agent in others for line in agent.lines)
