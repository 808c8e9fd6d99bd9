"""One bus, many units, and what goes wrong on real lines: none of it becomes a reading, and retries are bounded."""

import struct
from itertools import pairwise

import pytest

from pile_edge import modbus
from pile_edge.meters import catalogue
from pile_edge.meters.decode import MeterError, MeterReader, decode, load_profile
from pile_edge.ports.cpython_bus import open_bus
from pile_hil.line_slave import DISTURBANCES, LineSlave, answer
from pile_hil.pty_bus import PtyBus
from pile_hil.rig import Rig
from pile_shared.errors import BusError

SERIAL = {"kind": "rtu", "baud": 115200, "timeout_ms": 200, "settle_ms": 300}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_answer_is_refused_and_the_next_one_is_its_own(name):
    data, wait_s, code = DISTURBANCES[name]
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(data, wait_s), (answer(2), 0)])
        bus = open_bus({**SERIAL, "device": line.master_device})
        with pytest.raises(BusError) as caught:
            bus.read(1, 3, 0, 2)
        assert bus.read(1, 3, 0, 2) == struct.pack(">I", 2)
        bus.close()
        slave.join(20)
    assert caught.value.code == code
    assert [request for request, _ in slave.requests] == [modbus.rtu_frame(1, modbus.read_request(3, 0, 2))] * 2


def test_only_a_failure_makes_the_line_settle():
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(answer(1), 0), (answer(2), 0), (answer(3)[:-1], 0), (answer(4), 0)])
        bus = open_bus({**SERIAL, "device": line.master_device, "settle_ms": 1500})
        values = [bus.read(1, 3, 0, 2)[-1] for _ in range(2)]
        with pytest.raises(BusError):
            bus.read(1, 3, 0, 2)
        values.append(bus.read(1, 3, 0, 2)[-1])
        bus.close()
        slave.join(20)
    assert values == [1, 2, 4]
    times = [at for _, at in slave.requests]
    assert times[1] - times[0] < 1.5
    assert times[3] - times[2] >= 1.5


def test_an_exception_is_an_answer_and_needs_no_settling():
    busy = modbus.rtu_frame(1, bytes((0x83, 6)))
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(busy, 0), (answer(2), 0)])
        bus = open_bus({**SERIAL, "device": line.master_device, "settle_ms": 5000})
        with pytest.raises(BusError, match="server device busy"):
            bus.read(1, 3, 0, 2)
        assert bus.read(1, 3, 0, 2)[-1] == 2
        bus.close()
        slave.join(20)
    assert slave.requests[1][1] - slave.requests[0][1] < 5


UNITS = {
    "buses": {"line": {"kind": "rtu", "baud": 115200}},
    "piles": [
        {"id": "a", "bus": "line", "profile": "abb-b23", "unit": 1, "relay_unit": 11, "start_energy_wh": 1_000_000},
        {
            "id": "b",
            "bus": "line",
            "profile": "eastron-sdm630",
            "unit": 2,
            "relay_unit": 12,
            "start_energy_wh": 2_000_000,
        },
        {"id": "c", "bus": "line", "profile": "abb-b23", "unit": 3, "relay_unit": 13, "start_energy_wh": 3_000_000},
    ],
}


def test_several_meters_on_one_line_each_with_its_own_faults():
    """Read in turn over one bus: a dead, a noisy and a busy neighbour change nothing for the others."""
    with Rig(UNITS) as rig:
        bus = open_bus({**rig.bus_specs["line"], "timeout_ms": 150, "gap_ms": 5, "settle_ms": 150})
        readers = {
            unit: MeterReader(bus, catalogue.find_profile(profile), unit)
            for unit, profile in ((1, "abb-b23"), (2, "eastron-sdm630"), (3, "abb-b23"))
        }
        for fault, code in (("silence", "timeout"), ("noise", "crc"), ("exception", "exception"), ("none", None)):
            rig.piles["b"].meter.faults.set(fault)
            for _ in range(2):
                assert readers[1].read().energy_wh == 1_000_000
                if code is None:
                    assert readers[2].read().energy_wh == rig.piles["b"].meter.energy_wh()
                else:
                    with pytest.raises(BusError) as caught:
                        readers[2].read()
                    assert caught.value.code == code
                assert readers[3].read().energy_wh == 3_000_000
        bus.close()


class Script:
    """A bus whose meter gives the scripted (energy register, power register) pairs, then the last for ever."""

    def __init__(self, *samples):
        self.samples = list(samples)
        self.reads = 0

    def read(self, _unit, _function, address, count):
        self.reads += 1
        energy, power = self.samples[0]
        if address == 0:
            return energy
        if len(self.samples) > 1:
            self.samples.pop(0)
        return power[: 2 * count]


def profile(kind, **changes):
    return load_profile(
        {
            "id": "t", "manufacturer": "T", "model": "T", "function": 3, "word_order": "big", "min_gap_ms": 0,
            "timeout_ms": 100, "energy_import": {"address": 0, "type": kind, "scale_wh": [1, 1], **changes},
            "power": {"address": 8, "type": "u16", "scale_w": [1, 1]},
        }
    )  # fmt: skip


IDLE = b"\0\0"


def test_a_register_that_rolls_over_is_no_reading():
    """4,294,967,295 Wh and then 5: not 6 Wh more, for nothing tells a rollover from a meter that was exchanged."""
    bus = Script(*[(b"\xff\xff\xff\xff", IDLE)] * 2, (struct.pack(">I", 5), IDLE))
    reader = MeterReader(bus, profile("u32"), 1)
    assert reader.read().energy_wh == (1 << 32) - 1
    with pytest.raises(MeterError) as caught:
        reader.read()
    assert caught.value.code == "falling"


@pytest.mark.parametrize(
    ("kind", "raw", "code"),
    [
        ("f32", b"\x7f\xc0\x00\x00", "not_available"),
        ("f32", b"\x7f\x80\x00\x00", "out_of_range"),
        ("f32", b"\xbf\x80\x00\x00", "out_of_range"),
        ("u32", b"\xff\xff\xff\xff", "not_available"),
        ("i64", b"\xff" * 8, "out_of_range"),
    ],
)
def test_what_is_no_number_is_read_again_a_bounded_number_of_times(kind, raw, code):
    marker = {"not_available": "ffffffff"} if kind == "u32" else {}
    bus = Script((raw, IDLE))
    with pytest.raises(MeterError) as caught:
        MeterReader(bus, profile(kind, **marker), 1, attempts=3).read()
    assert caught.value.code == code
    assert bus.reads == 6  # energy and power, three times
    with pytest.raises(MeterError):
        decode(profile(kind, **marker), [raw, IDLE])


def test_a_float_that_moves_in_steps_of_eight_is_plausible_and_never_falls():
    """At 100,000 kWh a float32 of kWh moves by 7.8 Wh: no step of it may look like a leap or a fall."""
    clock_ms = [0]
    values = [struct.pack(">f", (100_000_000 + wh) / 1000) for wh in range(0, 400, 2)]
    bus = Script(*[(value, struct.pack(">H", 7200)) for value in values])
    reader = MeterReader(
        bus, profile("f32", scale_wh=[1000, 1]), 1, clock_ms=lambda: clock_ms[0], max_power_w=7200, slack_wh=0
    )
    seen = []
    for _ in range(190):
        clock_ms[0] += 1000
        seen.append(reader.read().energy_wh)
    assert seen == sorted(seen)
    assert max(after - before for before, after in pairwise(seen)) == 8
    assert reader.retries == 0
