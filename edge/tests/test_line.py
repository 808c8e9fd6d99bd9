"""One serial line, several masters: who asks when, what a silence is worth, and what happens when one of them dies."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import serial

from pile_edge.advice import advice
from pile_edge.cli import main
from pile_edge.ports import cpython_line
from pile_edge.ports.cpython_bus import open_bus
from pile_edge.ports.cpython_line import SharedLine, lock_path
from pile_hil.line_slave import LineSlave, answer
from pile_hil.pty_bus import PtyBus
from pile_hil.rig import Rig
from pile_shared.errors import BusError

RTU = {"kind": "rtu", "baud": 115200, "timeout_ms": 200, "settle_ms": 300}


@pytest.fixture
def line():
    with PtyBus() as line:
        yield line


def gaps(slave):
    slave.join(20)
    times = [at for _, at in slave.requests]
    return [later - earlier for earlier, later in pairwise(times)]


# --- each device its own pace


def test_on_a_line_each_unit_is_asked_at_its_own_pace(line):
    """The slow one's silence is kept before it is asked, and only then."""
    units = (2, 2, 1, 2, 1)
    slave = LineSlave(line.server_device, [(answer(9, unit), 0) for unit in units])
    bus = open_bus({**RTU, "device": line.master_device, "paces": {1: (400, 200, 300)}})
    for unit in units:
        assert bus.read(unit, 3, 0, 2)[-1] == 9
    bus.close()
    waited = gaps(slave)
    assert [gap >= 0.4 for gap in waited] == [False, True, False, True]


def test_on_tcp_each_unit_is_asked_at_its_own_pace():
    piles = [{"id": "a", "bus": "b", "profile": "eastron-sdm630", "unit": 1, "relay_unit": 2}]
    with Rig({"buses": {"b": {"kind": "tcp"}}, "piles": piles}) as rig:
        bus = open_bus({**rig.bus_specs["b"], "paces": {1: (300, 1000, 0)}})
        bus.read(2, 1, 0, 1)
        start = time.monotonic()
        for _ in range(3):
            bus.read(2, 1, 0, 1)
        assert time.monotonic() - start < 0.3
        bus.read(1, 4, 72, 2)
        assert time.monotonic() - start >= 0.3
        bus.close()


@pytest.mark.parametrize("kind", ["tcp", "rtu"])
def test_each_unit_has_its_own_patience(kind):
    piles = [{"id": "a", "bus": "b", "profile": "eastron-sdm630", "unit": 1, "relay_unit": 2}]
    with Rig({"buses": {"b": {"kind": kind, **({"baud": 115200} if kind == "rtu" else {})}}, "piles": piles}) as rig:
        bus = open_bus({**rig.bus_specs["b"], "timeout_ms": 2000, "paces": {1: (0, 100, 0), 2: (0, 900, 0)}})
        rig.piles["a"].meter.faults.set("silence")
        rig.piles["a"].relay.faults.set("silence")
        for read, least_s, most_s in (((1, 4, 72, 2), 0.1, 0.8), ((2, 1, 0, 1), 0.9, 1.8)):
            start = time.monotonic()
            with pytest.raises(BusError) as caught:
                bus.read(*read)
            assert caught.value.code == "timeout"
            assert least_s <= time.monotonic() - start < most_s
        bus.close()


def test_who_fails_makes_the_line_settle_for_as_long_as_it_needs(line):
    slave = LineSlave(
        line.server_device, [(answer(1)[:-1], 0), (answer(2, 2), 0), (answer(3, 2)[:-1], 0), (answer(4), 0)]
    )
    paces = {1: (0, 200, 700), 2: (0, 200, 0)}
    bus = open_bus({**RTU, "device": line.master_device, "paces": paces})
    for unit, is_good in ((1, False), (2, True), (2, False), (1, True)):
        if is_good:
            bus.read(unit, 3, 0, 2)
        else:
            with pytest.raises(BusError):
                bus.read(unit, 3, 0, 2)
    bus.close()
    first, _, third = gaps(slave)
    assert first >= 0.7
    assert third < 0.7


# --- several masters


ASKER = """
import sys, time
from pile_edge.ports.cpython_bus import open_bus
device, unit, count, baud = sys.argv[1], *map(int, sys.argv[2:])
bus = open_bus({"kind": "rtu", "device": device, "baud": baud, "timeout_ms": 2000})
for _ in range(count):
    print(bus.read(unit, 3, 0, 2).hex(), flush=True)
"""


def asker(device, unit, count=1, baud=115200):
    command = [sys.executable, "-c", ASKER, device, *map(str, (unit, count, baud))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Meters(threading.Thread):
    """Answers every unit with its own number, at the speed that the line is set to; what came as (unit, speed)."""

    def __init__(self, line, count):
        super().__init__(daemon=True)
        self._port = serial.Serial(line.server_device, timeout=20)
        self._line, self._count = line, count
        self.asked = []
        self.start()

    def run(self):
        # A test that is over takes the line away.
        with contextlib.suppress(serial.SerialException, OSError), self._port as port:
            for _ in range(self._count):
                request = port.read(8)
                if len(request) < 8:
                    return
                self.asked.append((request[0], self._line.master_baud()))
                port.write(answer(request[0], request[0]))


def test_four_processes_each_hear_their_own_meter_only(line):
    meters = Meters(line, 4 * 25)
    processes = [
        asker(line.master_device, unit, 25, baud) for unit, baud in ((1, 115200), (2, 9600), (3, 9600), (4, 2400))
    ]
    for unit, process in enumerate(processes, 1):
        out, err = process.communicate(timeout=60)
        assert (err, out.split()) == ("", [f"{unit:08x}"] * 25)
    meters.join(20)
    assert set(meters.asked) == {(1, 115200), (2, 9600), (3, 9600), (4, 2400)}  # and at its own speed


def test_nobody_starves(line):
    """Who has waited longest is next: while all want the line, none gets two turns more than another."""
    turns, waiting, stop = [], threading.Barrier(4), threading.Event()

    def want(name):
        shared = SharedLine(line.master_device, "9600N1")
        waiting.wait(10)
        for _ in range(30):
            shared.begin(0, 100)
            turns.append(name)
            time.sleep(0.004)  # a short exchange, longer than it takes to ask for the next
            shared.end(0)
            if stop.is_set():
                break
        stop.set()
        shared.close()

    threads = [threading.Thread(target=want, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    counts = [turns.count(name) for name in "abcd"]
    assert max(counts) == 30
    assert min(counts) >= 27


def test_a_killed_process_frees_the_line_and_its_late_answer_is_nobodys(line):
    """Both ask the same unit for as many registers: nothing but the silence tells the answers apart."""
    slave = LineSlave(line.server_device, [(answer(1), 0.8), (answer(2), 0)])
    first = asker(line.master_device, 1)
    give_up_s = time.monotonic() + 20
    while not slave.requests or len(slave.requests[0][0]) < 8:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)  # another process, which says nothing
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=10)
    bus = open_bus({**RTU, "device": line.master_device, "timeout_ms": 1000})
    assert bus.read(1, 3, 0, 2) == struct.pack(">I", 2)
    bus.close()
    slave.join(20)


def test_silence_after_a_failure_holds_for_the_next_process_too(line):
    slave = LineSlave(line.server_device, [(answer(1), 0.4), (answer(2), 0)])
    spec = {**RTU, "device": line.master_device, "settle_ms": 800}
    one, other = open_bus(spec), open_bus({**spec, "settle_ms": 0})
    start = time.monotonic()
    with pytest.raises(BusError):
        one.read(1, 3, 0, 2)
    assert other.read(1, 3, 0, 2) == struct.pack(">I", 2)
    one.close()
    other.close()
    slave.join(20)
    assert slave.requests[1][1] - start >= 1.0  # timeout and settling time


def test_waiting_ends_and_says_for_whom(line, monkeypatch):
    monkeypatch.setattr(cpython_line, "PATIENCE_S", 0.3)
    monkeypatch.setattr(cpython_line, "LAST_TRY_S", 0.1)
    holder = SharedLine(line.master_device, "9600N1")
    holder.begin(0, 100)
    bus = open_bus({**RTU, "device": line.master_device})
    for most_s in (0.6, 0.25):  # who has just waited in vain does not wait as long again
        start = time.monotonic()
        with pytest.raises(BusError, match=f"was in use for .* by process {os.getpid()}$") as caught:
            bus.read(1, 3, 0, 2)
        assert time.monotonic() - start < most_s
    assert caught.value.code == "busy"
    assert "Ctrl-Z" in advice(caught.value, {"kind": "rtu"})
    slave = LineSlave(line.server_device, [(answer(1), 0)])
    holder.end(0)
    assert bus.read(1, 3, 0, 2)[-1] == 1
    bus.close()
    holder.close()
    slave.join(20)


def test_a_stopped_process_that_waits_does_not_keep_its_place(line, monkeypatch):
    holder = SharedLine(line.master_device, "9600N1")
    holder.begin(0, 100)
    stopped = asker(line.master_device, 1)
    slots = os.open(lock_path(line.master_device), os.O_RDONLY)
    give_up_s = time.monotonic() + 20
    while sum(bool(at) for (at,) in struct.iter_unpack("<Q", os.pread(slots, 256, 32))) < 2:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)  # another process, which says nothing until it has its turn
    os.close(slots)
    os.kill(stopped.pid, signal.SIGSTOP)
    holder.end(0)
    monkeypatch.setattr(cpython_line, "PATIENCE_S", 2.0)
    with pytest.raises(BusError):
        holder.begin(0, 100)
    holder.begin(0, 100)  # by then it has waited for longer than anybody would
    holder.end(0)
    stopped.kill()
    stopped.communicate(timeout=10)
    holder.close()


def test_a_program_that_keeps_the_device_for_itself_is_noticed_and_we_are_none(line):
    with Path(line.master_device).open("rb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        bus = open_bus({**RTU, "device": line.master_device})
        with pytest.raises(BusError, match="cannot open"):
            bus.read(1, 3, 0, 2)
        fcntl.flock(other, fcntl.LOCK_UN)
        slave = LineSlave(line.server_device, [(answer(1), 0)])
        bus.read(1, 3, 0, 2)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        bus.close()
        slave.join(20)


def test_the_lock_lies_where_the_environment_says_and_is_as_open_as_the_device(line, tmp_path, monkeypatch):
    monkeypatch.setenv("PILE_EDGE_LOCKS", str(tmp_path))
    link = tmp_path / "adapter"
    link.symlink_to(line.master_device)
    assert lock_path(str(link)) == lock_path(line.master_device)
    Path(line.master_device).chmod(0o660)
    SharedLine(str(link), "9600N1").close()
    (made,) = [path for path in tmp_path.iterdir() if path != link]
    assert str(made) == lock_path(line.master_device)
    assert made.stat().st_mode & 0o777 == 0o660
    monkeypatch.setenv("PILE_EDGE_LOCKS", str(tmp_path / "nowhere"))
    with pytest.raises(BusError, match=r"nowhere.*No such file") as caught:
        SharedLine(str(link), "9600N1")
    assert caught.value.code == "closed"


def test_a_scan_beside_others_sets_the_line_as_they_need_it(line, capsys):
    """`pile-edge scan` at several speeds, and an asker at its own: each is heard."""
    meters = Meters(line, 10_000)
    process = asker(line.master_device, 1, 40)
    main(
        ["scan", "--port", line.master_device, "--addresses", "7", "--bauds", "9600,19200", "--parities", "N", "--json"]
    )
    out, err = process.communicate(timeout=60)
    assert (err, out.split()) == ("", ["00000001"] * 40)
    assert '"unit": 7' in capsys.readouterr().out
    assert {speed for unit, speed in meters.asked if unit == 1} == {115200}
    assert {speed for unit, speed in meters.asked if unit == 7} <= {9600, 19200}
