"""The board's own Modbus master, under real MicroPython, against real pymodbus servers."""

import json
import socket
import struct
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pile_edge import modbus
from pile_edge.meters import catalogue
from pile_hil.line_slave import DISTURBANCES, LineSlave, answer
from pile_hil.pty_bus import PtyBus
from pile_hil.rig import Rig

SCRIPT = Path(__file__).with_name("run_bus.py")
CONFIG = {
    "buses": {"east": {"kind": "tcp"}, "west": {"kind": "rtu", "baud": 9600}},
    "piles": [
        {"id": "pile-1", "bus": "east", "profile": "eastron-sdm630", "start_energy_wh": 1_234_567, "plugged": True},
        {"id": "pile-2", "bus": "west", "profile": "abb-b23", "start_energy_wh": 7_654_321, "plugged": True},
    ],
}
SILENCES = 40  # of 7 ms
SIDES = [("east", "pile-1", "eastron-sdm630"), ("west", "pile-2", "abb-b23")]


def board_profile(profile_id):
    return catalogue.board_profile(catalogue.profile_mapping(profile_id))


@pytest.fixture
def script(micropython, tmp_path):
    """run(spec of the bus, steps, **what else SCRIPT takes): what it printed; an ABB meter unless said otherwise."""

    def run(spec, steps, **more):
        config = {"spec": spec, "profile": board_profile("abb-b23"), "unit": 1, "relay_unit": 2, "steps": steps, **more}
        path = tmp_path / "bus.json"
        path.write_text(json.dumps(config))
        return json.loads(micropython(SCRIPT, path, timeout_s=20).stdout)

    return run


@pytest.fixture
def rig():
    with Rig(CONFIG) as running:
        yield running


@pytest.fixture(params=SIDES, ids=["tcp", "rtu"])
def board(rig, request, script):
    """(pile, run(steps, **changes to the bus section)) for one kind of bus."""
    name, pile_id, profile_id = request.param

    def run(steps, limit_w=0, **changes):
        spec = {**rig.bus_specs[name], "timeout_ms": 200, **changes}
        return script(spec, steps, limit_w=limit_w, profile=board_profile(profile_id))

    return rig.piles[pile_id], run


def test_reads_switches_and_reads_again(board):
    pile, run = board
    first, serial, on, state, second, off, still = run(["read", "serial", "on", "state", "read", "off", "state"])[
        "results"
    ]
    start_wh = 1_234_567 if pile.id == "pile-1" else 7_654_320
    assert first[:2] == [start_wh, 0]
    expected = struct.pack(">f", 1234.567) if pile.id == "pile-1" else struct.pack(">Q", 765_432)
    assert first[2] == expected.hex()
    assert serial == (None if pile.id == "pile-1" else 12_345_678)
    assert (on, state, off, still) == (None, True, None, False)
    assert second[1] == 11_000
    assert start_wh <= second[0] <= pile.truth()["meter_wh"]
    assert not pile.load.commanded


@pytest.mark.parametrize("fault", ["silence", "exception", "noise"])
def test_faults_are_told_apart(board, fault):
    pile, run = board
    pile.meter.faults.set(fault)
    (failure,) = run(["read"])["results"]
    noise = "crc" if pile.id == "pile-2" else "frame"
    assert failure["code"] == {"silence": "timeout", "exception": "exception", "noise": noise}[fault]
    if fault == "exception":
        assert failure["message"] == "Modbus exception 6: server device busy"


def test_a_transient_zero_never_becomes_a_sample(board):
    pile, run = board
    pile.meter.faults.set("zero_once")
    first, second = run(["read", "read"], limit_w=11_000)["results"]
    assert first[0] == second[0] == pile.meter.energy_wh()


def test_retries_are_bounded(board):
    pile, run = board
    asked = []
    pile.meter.faults.on_answer = lambda frame, **_: asked.append(frame) or b""
    (failure,) = run(["read"], timeout_ms=50)["results"]
    assert failure["code"] == "timeout"
    assert len(asked) == 3


def test_an_answer_to_the_wrong_function_is_told(board):
    _, run = board
    (failure,) = run(["wrong_function"])["results"]
    assert failure == {"code": "exception", "message": "Modbus exception 2: illegal data address"}


def test_a_gateway_that_restarts_is_found_again(script):
    # It hangs up after two answers, in the middle of the first reading; the retry finds it again.
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for answers in (2, 99):
            connection, _ = listener.accept()
            with connection:
                for _ in range(answers):
                    request = connection.recv(260)
                    if not request:
                        return
                    registers = struct.pack(">f", 7.5) if request[8:10] == b"\0\x48" else b"\0\0\0\0"
                    connection.sendall(request[:2] + b"\0\0\0\7" + request[6:8] + b"\4" + registers)

    thread = threading.Thread(target=serve)
    thread.start()
    spec = {"kind": "tcp", "host": "127.0.0.1", "port": listener.getsockname()[1], "timeout_ms": 500}
    results = script(spec, ["read", "read"], profile=board_profile("eastron-sdm630"))["results"]
    thread.join(10)
    listener.close()
    assert results == [[7500, 0, "40f00000"], [7500, 0, "40f00000"]]


def test_an_answer_that_comes_after_its_timeout_answers_nothing_else(script):
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(answer(1), 0.25), (answer(2), 0)])
        spec = {"kind": "rtu", "device": line.master_device, "baud": 115200, "timeout_ms": 100, "gap_ms": 500}
        first, second = script(spec, ["raw", "raw"])["results"]
        slave.join(20)
    assert len(slave.requests) == 2
    assert first["code"] == "timeout"
    assert second == "00000002"


def test_nothing_there(board):
    pile, run = board
    changes = {"port": 1} if pile.id == "pile-1" else {"device": "/dev/nothing-here"}
    (failure,) = run(["read"], **changes)["results"]
    assert failure["code"] == "closed"


def test_a_uart_with_a_driver_pin(rig, script):
    spec = {"kind": "rtu", "device": "uart:1", "baud": 9600, "parity": "E", "tx_pin": 17, "rx_pin": 16, "de_pin": 4}
    found = script(spec, ["read"], fake_uart=rig.bus_specs["west"]["device"])
    assert found["results"][0][0] == 7_654_320
    assert found["uart"] == [1, {"baudrate": 9600, "bits": 8, "parity": 0, "stop": 1, "tx": 17, "rx": 16}]
    # Off at first; for each of the four requests (two samples of two registers) on until the last bit has left.
    assert found["pin"] == [0] + [1, "sent", 0] * 4


@pytest.mark.parametrize("low", [False, True])
def test_a_contactor_on_a_pin(script, low):
    """Open from the first moment on; what it is comes from the pin, not from what was commanded."""

    def run(steps, **more):
        control = {"kind": "gpio", "pin": 17, "active_low": low}
        spec = {"kind": "rtu", "device": "/dev/null", "baud": 9600}
        return script(spec, steps, fake_uart="/dev/null", control=control, **more)

    off, on = int(low), int(not low)
    done = run(["state", "on", "state", "on", "off", "state", "off"])
    assert done["results"] == [False, None, True, None, None, False, None]
    assert done["pin"] == [off, on, on, off, off]
    assert run([])["pin"] == []  # what is only configured is not touched
    stuck_on, stuck_off = run(["off"], stuck=on)["results"], run(["on", "state"], stuck=off)["results"]
    assert stuck_on == [{"code": "control", "message": "pin 17 stays on"}]
    assert stuck_off == [{"code": "control", "message": "pin 17 stays off"}, False]


def test_on_the_board_too_each_unit_has_its_own_pace_and_patience(script):
    """Unit 1 wants 300 ms of silence and answers never; the relay needs none and answers at once."""
    with PtyBus() as line:
        coil = modbus.rtu_frame(2, bytes((1, 1, 1)))
        slave = LineSlave(line.server_device, [(coil, 0), (coil, 0), (answer(1), 0), (b"", 0)])
        paces = {"1": [300, 150, 0]}
        spec = {"kind": "rtu", "device": line.master_device, "baud": 115200, "timeout_ms": 5000, "paces": paces}
        start = time.monotonic()
        results = script(spec, ["state", "state", "raw", "raw"])["results"]
        took_s = time.monotonic() - start
        slave.join(20)
    assert results[:3] == [True, True, "00000001"]
    assert results[3]["code"] == "timeout"
    times = [at for _, at in slave.requests]
    assert times[1] - times[0] < 0.3 <= times[2] - times[1]
    assert took_s < 4


def test_a_board_is_never_silent_for_less_than_it_should_be(script):
    """It counts whole milliseconds: if the one that has begun were taken for a whole one, some of these would be too short."""
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(answer(number), 0) for number in range(SILENCES)])
        spec = {
            "kind": "rtu",
            "device": line.master_device,
            "baud": 115200,
            "timeout_ms": 5000,
            "paces": {"1": [7, 5000, 0]},
        }
        results = script(spec, ["raw"] * SILENCES)["results"]
        slave.join(20)
    assert len(set(results)) == SILENCES
    assert min(later - at for (_, at), (_, later) in pairwise(slave.requests)) >= 0.007


def test_what_it_leaves_of_the_heap(board):
    _, run = board
    fresh, _, used = run(["heap", "read", "heap"])["results"]
    assert used - fresh < 4_096


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_answer_is_refused_and_the_next_one_is_its_own(script, name):
    """The same line and script as on CPython (edge/tests/test_bus_discipline.py)."""
    data, wait_s, code = DISTURBANCES[name]
    with PtyBus() as line:
        slave = LineSlave(line.server_device, [(data, wait_s), (answer(2), 0)])
        spec = {"kind": "rtu", "device": line.master_device, "baud": 115200, "timeout_ms": 200, "settle_ms": 300}
        first, second = script(spec, ["raw", "raw"])["results"]
        slave.join(20)
    assert first["code"] == code
    assert second == "00000002"
    assert len(slave.requests) == 2
