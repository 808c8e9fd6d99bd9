"""The CPython bus against real pymodbus servers over TCP and a serial line, and against sockets that misbehave."""

import socket
import threading
import time

import pytest
import serial

from pile_edge import modbus
from pile_edge.control import open_control
from pile_edge.meters import catalogue
from pile_edge.meters.decode import MeterReader
from pile_edge.ports.cpython_bus import open_bus
from pile_hil.pty_bus import PtyBus
from pile_hil.rig import Rig
from pile_shared.errors import BusError, ConfigError

CONFIG = {
    "buses": {"east": {"kind": "tcp"}, "west": {"kind": "rtu", "baud": 115200}},
    "piles": [
        {"id": "pile-1", "bus": "east", "profile": "eastron-sdm630", "start_energy_wh": 1_234_567},
        {"id": "pile-2", "bus": "west", "profile": "abb-b23", "start_energy_wh": 7_654_321, "serial": 4711},
    ],
}
SIDES = [("east", "pile-1", "eastron-sdm630"), ("west", "pile-2", "abb-b23")]


@pytest.fixture(scope="module")
def rig():
    with Rig(CONFIG) as running:
        yield running


@pytest.fixture(params=SIDES, ids=["tcp", "rtu"])
def side(rig, request):
    """(bus, pile, profile) of one kind of bus, and a pile without faults."""
    name, pile_id, profile_id = request.param
    bus = open_bus({**rig.bus_specs[name], "timeout_ms": 150})
    yield bus, rig.piles[pile_id], catalogue.find_profile(profile_id)
    rig.piles[pile_id].meter.faults.set("none")
    rig.piles[pile_id].relay.faults.set("none")
    bus.close()


def test_reads_what_the_meter_shows(side):
    bus, pile, profile = side
    reader = MeterReader(bus, profile, 1)
    sample = reader.read()
    assert sample.energy_wh == pile.meter.energy_wh()
    assert sample.power_w == 0
    assert reader.serial() == (4711 if profile.id == "abb-b23" else None)


def test_switches_the_contactor(side):
    bus, pile, _ = side
    control = open_control({"kind": "coil", "unit": 2, "coil": 0}, bus)
    control.energise()
    assert pile.load.commanded
    assert control.is_energised()
    control.de_energise()
    assert not pile.load.commanded
    assert not control.is_energised()


@pytest.mark.parametrize("fault", ["silence", "exception", "noise"])
def test_faults_are_told_apart_and_pass(side, fault):
    bus, pile, profile = side
    serial = profile.id == "abb-b23"
    code = {"silence": "timeout", "exception": "exception", "noise": "crc" if serial else "frame"}[fault]
    request = profile.energy.request()
    bus.read(1, *request)
    pile.meter.faults.set(fault)
    with pytest.raises(BusError) as caught:
        bus.read(1, *request)
    assert caught.value.code == code
    if fault == "exception":
        assert "server device busy" in caught.value.message
    pile.meter.faults.set("none")
    assert bus.read(1, *request)


def test_our_retries_are_the_only_ones(side):
    bus, pile, profile = side
    asked = []
    pile.meter.faults.on_answer = lambda frame, **_: asked.append(frame) or b""
    try:
        with pytest.raises(BusError) as caught:
            MeterReader(bus, profile, 1, attempts=2).read()
    finally:
        del pile.meter.faults.on_answer
    assert caught.value.code == "timeout"
    assert len(asked) == 2


def test_a_wrong_address_is_an_exception(side):
    bus, _, profile = side
    with pytest.raises(BusError) as caught:
        bus.read(1, 7 - profile.energy.function, profile.energy.address, profile.energy.count)
    assert caught.value.message == "Modbus exception 2: illegal data address"


def test_nobody_answers_for_an_absent_unit_on_a_line(rig):
    bus = open_bus({**rig.bus_specs["west"], "timeout_ms": 100})
    with pytest.raises(BusError) as caught:
        bus.read(99, 3, 20480, 4)
    bus.close()
    assert caught.value.code == "timeout"


def test_threads_queue_for_the_line_and_keep_its_gap(rig):
    # A machine that stalls for a second is no silent meter: this is about turns, not about patience.
    bus = open_bus({**rig.bus_specs["east"], "gap_ms": 20, "timeout_ms": 10_000})
    results = []
    threads = [threading.Thread(target=lambda: results.append(bus.read(1, 4, 72, 2))) for _ in range(8)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start >= 7 * 0.02
    assert len(results) == 8
    assert len(set(results)) == 1
    bus.close()


def test_the_gap_is_kept(rig):
    bus = open_bus({**rig.bus_specs["east"], "gap_ms": 40})
    bus.read(1, 4, 72, 2)
    start = time.monotonic()
    for _ in range(3):
        bus.read(1, 4, 72, 2)
    assert time.monotonic() - start >= 0.12
    bus.close()


def test_closed_is_opened_again_by_the_next_call(side):
    bus, _, profile = side
    first = bus.read(1, *profile.energy.request())
    bus.close()
    assert bus.read(1, *profile.energy.request()) == first


def test_nothing_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else gets the port meanwhile
        bus = open_bus({"kind": "tcp", "host": "127.0.0.1", "port": unused.getsockname()[1], "timeout_ms": 100})
        with pytest.raises(BusError) as caught:
            bus.read(1, 3, 0, 1)
    assert caught.value.code == "closed"
    bus = open_bus({"kind": "rtu", "device": "/dev/nothing-here", "timeout_ms": 100})
    with pytest.raises(BusError) as caught:
        bus.read(1, 3, 0, 1)
    assert caught.value.code == "closed"
    with pytest.raises(ConfigError):
        open_bus({"kind": "carrier pigeon"})


class Gateway:
    """A TCP server that answers each connection with the next scripted reply to one request, then hangs up."""

    def __init__(self, *replies):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.spec = {"kind": "tcp", "host": "127.0.0.1", "port": self._listener.getsockname()[1], "timeout_ms": 150}
        self._thread = threading.Thread(target=self._run, args=(replies,))
        self._thread.start()

    def _run(self, replies):
        for reply in replies:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(5)
                connection.sendall(reply(connection.recv(260)))

    def close(self):
        self._thread.join()
        self._listener.close()


def test_a_connection_that_dies_is_replaced_and_strangers_are_refused():
    good = bytes((3, 4, 0, 0, 0, 42))
    gateway = Gateway(
        lambda _: b"",  # hangs up without an answer
        lambda request: request[:2] + b"\0\0\0\7\1" + good,
        lambda request: request[:2] + b"\0\0\0\7\2" + good,  # another unit
        lambda request: request[:2] + b"\0\0\0\7\1" + bytes((4, 4, 0, 0, 0, 42)),  # another function
        lambda request: request[:2] + b"\0\0\0\5\1" + bytes((3, 2, 0, 42)),  # fewer registers
        lambda request: request[:2] + b"\0\0\0\7\1" + good,
    )
    bus = open_bus(gateway.spec)
    codes = []
    for _ in range(6):
        try:
            codes.append(bus.read(1, 3, 0, 2)[-1])
        except BusError as error:
            codes.append(error.code)
        bus.close() if codes[-1] == 42 else None
    gateway.close()
    assert codes[:2] == ["closed", 42]
    assert set(codes[2:5]) <= {"frame", "closed"}
    assert codes[5] == 42


def test_an_answer_that_comes_after_its_timeout_answers_nothing_else():
    request = modbus.read_request(3, 0, 1)
    with PtyBus() as line:
        slave = LateSlave(line.server_device)
        bus = open_bus({"kind": "rtu", "device": line.master_device, "baud": 115200, "timeout_ms": 100, "gap_ms": 500})
        with pytest.raises(BusError):
            bus.read(1, 3, 0, 1)
        assert bus.read(1, 3, 0, 1) == b"\0\2"
        bus.close()
        slave.join()
    assert slave.requests == [modbus.rtu_frame(1, request)] * 2


class LateSlave(threading.Thread):
    """Answers its first request with 1, in the silence before the next, and that one at once with 2."""

    def __init__(self, device):
        super().__init__()
        self._port = serial.Serial(device, timeout=10)  # opened before anything is sent: opening drops what is there
        self.requests = []
        self.start()

    def run(self):
        with self._port as port:
            for value, delay_s in ((1, 0.25), (2, 0)):
                self.requests.append(port.read(8))
                time.sleep(delay_s)  # not to wait for anything: being late is what is tested
                port.write(modbus.rtu_frame(1, bytes((3, 2, 0, value))))
