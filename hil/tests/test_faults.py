"""Each fault is what it says, on real processes, a real file system and a real broker, and ends when it is told to."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pile_coordinator.mqtt import Broker, Connection
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.faults import FaultError
from pile_hil.faults.clock import FakeClock
from pile_hil.faults.disk import Disk, has_disks
from pile_hil.faults.mqtt_packets import Packets, acknowledgement, again
from pile_hil.faults.packets import PacketLoss, has_packet_loss
from pile_hil.faults.power import Supply
from pile_hil.faults.proxy import Proxy, Weather
from pile_hil.faults.syscalls import Injected, failing_sync, slow_sync
from pile_hil.requirements import require
from pile_hil.site import SiteProcess, wait_for

# Appends numbers to a file and syncs each, and says which it takes for durable or what kept it from that.
WRITER = """
import os, sys, time
handle = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
number = 0
while True:
    number += 1
    try:
        os.write(handle, b"%d\\n" % number)
        os.fsync(handle)
        print(number, flush=True)
    except OSError as error:
        print(error.errno, "errno", flush=True)
    time.sleep(0.005)
"""
HOUR_MS = 3_600_000


@pytest.fixture
def disk(tmp_path):
    require(has_disks(tmp_path), "no disks of our own: run as root, with mkfs.ext4 and loop devices")
    with Disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def writer(tmp_path):
    processes = []

    def start(path: Path) -> SiteProcess:
        process = SiteProcess("writer", [sys.executable, "-u", "-c", WRITER, str(path)], tmp_path / "writer.log")
        processes.append(process)
        process.start()
        wait_for(lambda: len(process.text().split()) > 3, 20, "the writer to write", process)
        return process

    yield start
    for process in processes:
        process.stop()


def goes_on(writer: SiteProcess) -> None:
    """Until the writer says something new that is no error."""
    before = writer.text()
    wait_for(lambda: "\n" in writer.text()[len(before) :].partition("\n")[2], 20, "the writer to go on", writer)
    wait_for(lambda: "errno" not in writer.text().splitlines()[-1], 20, "the writer to succeed", writer)


def test_a_power_cut_keeps_what_was_synced_and_loses_the_rest(disk, writer):
    process = writer(disk.path / "numbers")
    (disk.path / "unsynced").write_text("gone")
    supply = Supply(process, disk=disk)
    supply.cut()
    said = process.text().split("\n")
    durable = [int(line) for line in said if line.isdigit()]
    supply.restore()
    kept = [int(line) for line in (disk.path / "numbers").read_text().split()]
    assert kept[: len(durable)] == durable
    assert not (disk.path / "unsynced").exists()
    goes_on(process)
    with pytest.raises(FaultError, match="already"):
        supply.cut() or supply.cut()


def test_a_piles_key_that_was_shown_is_there_after_a_power_cut(disk):
    """Its name too: without a sync of the folder it is still called .tmp, and the next start makes the pile another one."""
    make = "import sys; from pile_edge.signers.file import open_file_signer as f; print(f(sys.argv[1]).public.hex())"
    command = [sys.executable, "-c", make, str(disk.path / "pile.key")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    disk.cut()
    disk.restore()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == shown


def test_a_full_disk_refuses_until_it_is_freed(disk, writer):
    process = writer(disk.path / "numbers")
    disk.fill()
    wait_for(lambda: f"{errno.ENOSPC} errno" in process.text(), 20, "the disk to be full", process)
    disk.free()
    goes_on(process)
    disk.fill(1 << 20)
    goes_on(process)


def test_a_disk_that_breaks_down_is_read_only_until_it_is_mounted_again(disk, writer):
    process = writer(disk.path / "numbers")
    disk.break_down()
    wait_for(lambda: f"{errno.EROFS} errno" in process.text(), 20, "the disk to refuse", process)
    assert (disk.path / "numbers").read_text().startswith("1\n2\n")
    process.kill()
    disk.restore()
    process.start()
    goes_on(process)


def test_a_sync_is_slow_or_fails_while_a_fault_lasts(tmp_path, writer):
    require(shutil.which("strace") is not None, "strace is missing: run tools/servers")
    process = writer(tmp_path / "numbers")
    with slow_sync(process.pid, 30, tmp_path / "slow.txt") as slow:
        wait_for(lambda: slow.count() >= 3, 20, "syncs to be slow", process)
        assert "errno" not in process.text()
    with failing_sync(process.pid, tmp_path / "failing.txt"):
        wait_for(lambda: f"{errno.EIO} errno" in process.text(), 20, "syncs to fail", process)
    goes_on(process)
    with pytest.raises(FaultError, match="does not attach"), Injected(1 << 30, "fsync:error=EIO", tmp_path / "x"):
        pass


def test_a_clock_leaps_drifts_and_is_right_again(tmp_path):
    (tmp_path / "shows.py").write_text("import sys, time\nprint(time.time_ns(), time.time(), *sys.argv[1:])\n")
    clock = FakeClock(tmp_path / "clock")
    command = [*clock.prefix, sys.executable, "-m", "shows", "words"]
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]) if "PYTHONPATH" in os.environ else str(tmp_path)

    def off_ms() -> int:
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
        )
        shown_ns, shown_s, words = said.stdout.split()
        assert words == "words"
        assert abs(int(shown_ns) / 1e9 - float(shown_s)) < 60
        return int(shown_ns) // 1_000_000 - time.time_ns() // 1_000_000

    for leap_ms in (HOUR_MS, -3 * HOUR_MS):
        clock.leap(leap_ms)
        assert abs(off_ms() - clock.offset_ms) < 600_000
    assert clock.offset_ms == -2 * HOUR_MS
    clock.right()
    assert abs(off_ms()) < 600_000
    clock.drift(-500)
    deadline = time.monotonic() + 20
    while clock.offset_ms > -100:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    clock.stop_drift()
    stays = clock.offset_ms
    clock.right()
    assert (stays < 0, clock.offset_ms) == (True, 0)


class Pair:
    """Somebody who speaks through a proxy to somebody who does not."""

    def __init__(self, port: int, proxy: Proxy) -> None:
        self.times = 0
        self.hears = Connection(Broker("127.0.0.1", port), "hears", ["t/#"])
        self.speaks = Connection(Broker("127.0.0.1", proxy.port, keepalive_s=2), "speaks", ["never"])
        for one in (self.hears, self.speaks):
            one.wait_connected(20)

    def say(self, count: int) -> list[int]:
        """Say so many numbers, and a last one until it is heard; what was heard, in order."""
        self.times += 1
        for number in range(count):
            self.speaks.publish(f"t/{number % 3}", b"%d %d" % (self.times, number))
        heard: list[list[int]] = []
        deadline = time.monotonic() + 30
        while [self.times, count] not in heard:
            assert time.monotonic() < deadline, heard
            self.speaks.publish("t/end", b"%d %d" % (self.times, count))
            heard += [list(map(int, payload.split())) for topic, payload in self.hears.take(0.3, 1000) if topic]
        return [number for times, number in heard if times == self.times and number < count]

    def close(self) -> None:
        for one in (self.speaks, self.hears):
            one.close()


@pytest.fixture
def broker(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed (apt install mosquitto)")
    with Mosquitto(tmp_path / "broker", persistence=True) as broker:
        yield broker


@pytest.fixture
def proxy(broker):
    with Proxy(broker.port, seed=3) as proxy:
        yield proxy


@pytest.fixture
def pair(broker, proxy):
    pair = Pair(broker.port, proxy)
    yield pair
    pair.close()


def test_messages_are_lost_come_twice_and_overtake_each_other(proxy, pair):
    assert pair.say(50) == list(range(50))
    proxy.set(Weather(lost_permille=300))
    lost = pair.say(100)
    assert lost == sorted(set(lost))
    assert 0 < len(lost) < 100
    assert proxy.counts["lost"] >= 100 - len(lost)
    proxy.set(Weather(twice_permille=300))
    twice = pair.say(100)
    assert set(twice) == set(range(100))
    assert len(twice) > 100
    proxy.set(Weather(overtaken_permille=300))
    overtaken = pair.say(100)
    assert sorted(overtaken) == list(range(100)) != overtaken
    proxy.set(Weather(delay_ms=20, jitter_ms=20, bytes_per_s=20_000))
    assert pair.say(50) == list(range(50))


def test_a_line_is_cut_and_stalls_and_is_healed(proxy, pair):
    proxy.cut()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    wait_for(lambda: not pair.speaks.is_connected, 20, "the client to notice")
    proxy.heal()
    assert set(pair.say(20)) == set(range(20))
    before = proxy.counts["connections"]
    proxy.stall()
    assert pair.speaks.is_connected  # nobody has told it
    wait_for(lambda: proxy.counts["connections"] > before, 30, "the client to give the connection up")
    proxy.heal()
    assert set(pair.say(20)) == set(range(20))
    proxy.reset()
    assert set(pair.say(20)) == set(range(20))


def test_messages_under_tls_are_not_told_apart(broker):
    with Proxy(broker.port, tls=True) as proxy, pytest.raises(FaultError, match="TLS"):
        proxy.set(Weather(lost_permille=1))


def test_packets_of_mqtt_come_whole_out_of_any_pieces():
    publish = bytes([0x32, 0x81, 0x01]) + b"\0\3t/1" + b"\0\x07" + bytes(122)
    stream = publish + b"\xc0\x00" + publish
    for size in (1, 2, 5, 200):
        packets = Packets()
        found = [one for start in range(0, len(stream), size) for one in packets.take(stream[start : start + size])]
        assert found == [publish, b"\xc0\x00", publish]
    assert acknowledgement(publish) == b"\x40\x02\x00\x07"
    assert again(publish)[0] == 0x3A
    with pytest.raises(FaultError):
        Packets().take(b"\x32" + b"\xff" * 5)


def test_tcp_packets_of_one_port_are_lost():
    require(has_packet_loss(), "no packet loss: nft is missing (run tools/servers), or this is not root")
    with socket.create_server(("127.0.0.1", 0)) as server, PacketLoss(server.getsockname()[1]) as loss:
        port = server.getsockname()[1]
        loss.lose(100)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=0.5)
        loss.lose(20)
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            for number in range(5):
                client.sendall(b"%d" % number)
                assert client.recv(10) == b"%d" % number
        loss.lose(0)
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert f"pile_fault_{port}" not in tables


def _echo(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        while data := client.recv(100):
            client.sendall(data)
