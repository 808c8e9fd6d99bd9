"""The simulated hardware itself: its truth, its clock, its process, and third-party clients on its buses."""

import json
import os
import random
import subprocess
import sys
from fractions import Fraction

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.exceptions import ModbusIOException

from pile_edge.meters import catalogue
from pile_edge.meters.decode import decode, load_profile, requests
from pile_hil.clock import SimClock
from pile_hil.load import Load
from pile_hil.meters import SimMeter
from pile_hil.process import RigProcess
from pile_hil.pty_bus import PtyBus
from pile_hil.rig import Rig

CONFIG = {
    "clock": {"rate": 240, "origin_ms": 1_767_225_600_000},
    "buses": {"east": {"kind": "tcp"}, "west": {"kind": "rtu", "baud": 115200}},
    "piles": [
        {"id": "pile-1", "bus": "east", "profile": "eastron-sdm630", "start_energy_wh": 1_234_567, "plugged": True},
        {"id": "pile-2", "bus": "west", "profile": "abb-b23", "start_energy_wh": 7_654_321},
        {"id": "pile-3", "bus": "west", "profile": "abb-b23", "unit": 11, "relay_unit": 12, "battery_wh": 5_000},
    ],
}


class Clock:
    now = 0

    def __call__(self):
        return self.now


def test_energy_flows_only_with_contactor_car_and_room():
    clock = Clock()
    load = Load(clock, rated_power_w=11_000, battery_wh=5_000, start_energy_wh=100)

    def after_an_hour():
        clock.now += 3_600_000
        return load.energy_wh(), load.power_w()

    assert after_an_hour() == (100, 0)
    load.switch(True)
    assert after_an_hour() == (100, 0)
    load.plug()
    clock.now += 60_000
    assert (load.energy_wh(), load.power_w()) == (100 + 183, 11_000)
    load.switch(False)
    assert after_an_hour() == (283, 0)
    load.switch(True)
    assert after_an_hour() == (5_100, 0)  # full
    load.unplug()
    load.plug(battery_wh=1_000)
    assert after_an_hour() == (6_100, 0)


def test_a_welded_contactor_ignores_its_coil():
    clock = Clock()
    load = Load(clock, rated_power_w=3_600, battery_wh=1_000)
    load.plug()
    load.weld(True)
    clock.now += 60_000
    assert load.energy_wh() == 60
    assert not load.commanded
    load.weld(False)
    clock.now += 60_000
    assert load.energy_wh() == 60


@given(st.lists(st.tuples(st.integers(-5_000, 600_000), st.sampled_from(["plug", "unplug", "on", "off", "look"]))))
def test_energy_never_falls_and_fits_the_battery(steps):
    clock = Clock()
    load = Load(clock, rated_power_w=22_000, battery_wh=7_000, start_energy_wh=50)
    last = load.energy_watt_ms()
    for wait_ms, what in steps:
        clock.now += wait_ms
        {"plug": load.plug, "unplug": load.unplug, "look": load.power_w}.get(
            what, lambda w=what: load.switch(w == "on")
        )()
        now = load.energy_watt_ms()
        assert last <= now <= last + 22_000 * max(0, wait_ms + 5_000 * len(steps))
        last = now
    assert load.energy_wh() <= 7_050


def test_clocks_of_one_rig_agree():
    origin_ms = 1_767_225_600_000
    one, other = SimClock(240, origin_ms), SimClock(240, origin_ms)
    first, between, last = one.now_ms(), other.now_ms(), one.now_ms()
    assert first <= between <= last
    assert (first - origin_ms) % 240 == 0
    with pytest.raises(ValueError, match="rate"):
        SimClock(0)


@pytest.mark.parametrize("profile_id", catalogue.profile_ids())
@settings(max_examples=20, derandomize=True, deadline=None)
@given(energy_wh=st.integers(1, 200_000_000), power_w=st.integers(0, 30_000), order=st.sampled_from(["big", "little"]))
def test_two_independent_ways_through_a_profile_agree(profile_id, energy_wh, power_w, order):
    load = Load(lambda: 0, rated_power_w=power_w, battery_wh=1, start_energy_wh=energy_wh)
    load.plug()
    load.switch(True)
    meter = SimMeter(catalogue.profile_mapping(profile_id), 1, load, word_order=order)
    profile = load_profile(meter.profile)
    sample = decode(profile, [meter.block(*request) for request in requests(profile)])
    assert sample.energy_wh == meter.energy_wh()
    assert abs(sample.energy_wh - energy_wh) <= sample.step_wh
    count_w = 1 if meter.profile["power"]["type"][0] == "f" else Fraction(*meter.profile["power"]["scale_w"])
    assert power_w - max(1, count_w) <= sample.power_w <= power_w


@pytest.fixture(scope="module")
def rig():
    with Rig(CONFIG) as running:
        yield running


def test_a_foreign_client_reads_truth_over_tcp(rig):
    spec = rig.bus_specs["east"]
    with ModbusTcpClient(spec["host"], port=spec["port"], timeout=2) as client:
        assert not client.write_coil(0, True, device_id=2).isError()
        assert client.read_coils(0, count=1, device_id=2).bits[0]
        before = rig.piles["pile-1"].load.energy_watt_ms()
        registers = client.read_input_registers(72, count=2, device_id=1).registers
        after = rig.piles["pile-1"].load.energy_watt_ms()
        kwh = Fraction(client.convert_from_registers(registers, client.DATATYPE.FLOAT32))
        slack = Fraction(1, 8)  # Wh: half a step of f32 near 1234 kWh, and the floors
        assert Fraction(before, 3_600_000) - slack <= kwh * 1000 <= Fraction(after, 3_600_000) + slack
        assert client.read_input_registers(52, count=2, device_id=1).registers == [0x462B, 0xE000]  # 11000.0
        client.write_coil(0, False, device_id=2)
        assert rig.command({"do": "truth", "pile": "pile-1"})["power_w"] == 0


def test_a_foreign_client_reads_several_meters_on_one_line(rig):
    spec = rig.bus_specs["west"]
    client = ModbusSerialClient(spec["device"], baudrate=spec["baud"], timeout=2)
    assert client.connect()
    try:
        for unit, pile_id in ((1, "pile-2"), (11, "pile-3")):
            registers = client.read_holding_registers(20480, count=4, device_id=unit).registers
            tens_of_wh = client.convert_from_registers(registers, client.DATATYPE.UINT64)
            assert tens_of_wh == rig.piles[pile_id].truth()["energy_wh"] // 10
        client.write_coil(0, True, device_id=12)
        assert rig.piles["pile-3"].load.commanded
        assert not rig.piles["pile-2"].load.commanded
    finally:
        client.close()


def test_zero_once_is_once(rig):
    spec = rig.bus_specs["west"]
    client = ModbusSerialClient(spec["device"], baudrate=spec["baud"], timeout=2)
    try:
        rig.command({"do": "fault", "pile": "pile-2", "kind": "zero_once"})
        readings = [client.read_holding_registers(20480, count=4, device_id=1).registers for _ in range(3)]
    finally:
        client.close()
    assert readings[0] == [0, 0, 0, 0]
    assert readings[1] == readings[2] == [0, 0, 0x000B, 0xADF8]


def test_a_line_carries_every_byte_both_ways():
    data = random.Random(7).randbytes(3_000)
    with PtyBus() as line, serial.Serial(line.server_device, timeout=5) as one:
        other = os.open(line.master_device, os.O_RDWR | os.O_NOCTTY)
        try:
            one.write(data)
            received = b""
            while len(received) < len(data):
                received += os.read(other, 4096)
            os.write(other, data)
            assert one.read(len(data)) == data
        finally:
            os.close(other)
    assert received == data


def test_units_of_one_bus_must_differ():
    piles = [{"id": name, "bus": "b", "profile": "abb-b23"} for name in ("a", "b")]
    with pytest.raises(ValueError, match="unit 1 is taken"), Rig({"buses": {"b": {"kind": "tcp"}}, "piles": piles}):
        pass


def test_as_a_process(tmp_path):
    with RigProcess(CONFIG, tmp_path) as rig:
        east = rig.bus_specs["east"]
        with ModbusTcpClient(east["host"], port=east["port"], timeout=2) as client:
            client.write_coil(0, True, device_id=2)
        first = rig.truth("pile-1")
        second = rig.command(do="unplug", pile="pile-1")
        third = rig.truth("pile-1")
        assert first["coil"]
        assert first["plugged"]
        assert not second["plugged"]
        assert 1_234_567 <= first["energy_wh"] <= second["energy_wh"] == third["energy_wh"]
        for wrong in ({"do": "fly", "pile": "pile-1"}, {"do": "plug", "pile": "?"},
                      {"do": "fault", "pile": "pile-1", "kind": "rust"}):  # fmt: skip
            with pytest.raises(ValueError, match=r"ValueError|KeyError"):
                rig.command(**wrong)
        assert rig.truth("pile-1")["energy_wh"] == third["energy_wh"]
    assert rig._process.returncode == 0


def test_a_rig_ends_with_the_program_that_started_it(tmp_path):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps(CONFIG))
    done = subprocess.run(
        [sys.executable, "-m", "pile_hil.rig", "--config", str(path)],
        input='{"do": "truth", "pile": "pile-2"}\n', capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ready, truth = (json.loads(line) for line in done.stdout.splitlines())
    assert ready["ready"]
    assert truth["energy_wh"] == 7_654_321
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pile_with_a_speed_of_its_own_is_deaf_to_others():
    config = {
        "buses": {"west": {"kind": "rtu", "baud": 9600}},
        "piles": [{"id": "pile-1", "bus": "west", "profile": "abb-b23", "start_energy_wh": 10, "baud": 19200}],
    }
    with Rig(config) as rig:
        heard = {}
        for baud in (9600, 19200):
            client = ModbusSerialClient(rig.bus_specs["west"]["device"], baudrate=baud, timeout=0.2, retries=0)
            client.connect()
            try:
                heard[baud] = client.read_holding_registers(0x5000, count=4, device_id=1).registers
            except ModbusIOException:
                heard[baud] = None
            client.close()
    assert heard == {9600: None, 19200: [0, 0, 0, 1]}
