"""The link under real MicroPython, a board's heap and compiled modules, against a real mosquitto."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pile_edge.mqtt import MESSAGE_MAX_BYTES
from pile_edge.ports.cpython_link import Link
from pile_hil.broker import Mosquitto, find_mosquitto, make_certificates
from pile_hil.requirements import require

SCRIPT = Path(__file__).with_name("run_link.py")
PATIENCE_S = 30


class Peer:
    """The coordinator's side: sends on "down", collects what comes on "up" and "status"."""

    def __init__(self, broker, **tls):
        self.link = Link({**broker.spec, **tls}, client_id="peer", subscriptions=["up", "status"])
        self.up: list[bytes] = []
        self.statuses: list[bytes] = []

    def close(self):
        self.link.close()

    def wait_for(self, condition):
        give_up_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_s, (self.link.last_error, self.up)
            for topic, payload in self.link.poll(20):
                (self.up if topic == "up" else self.statuses).append(payload)

    def send(self, payload):
        self.wait_for(lambda: self.link.publish("down", payload))

    def send_paced(self, messages):
        """Never more than four unanswered: the echo keeps what it cannot publish yet in its small heap."""
        for number, message in enumerate(messages):
            self.wait_for(lambda n=number: len(self.up) >= n - 4)
            self.send(message)
        self.wait_for(lambda: len(self.up) >= len(messages))


@pytest.fixture
def board(micropython):
    """Start the echo in the background; its output comes from .result()."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda broker, *files, heap="64k": pool.submit(
            micropython, SCRIPT, broker.spec["host"], broker.port, *files, heap=heap, timeout_s=90
        )


def figures(output: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in output.splitlines())


def wait_until_subscribed(broker, peer):
    peer.wait_for(lambda: "Sending SUBACK to board" in broker.log)


def test_echo_within_a_boards_heap(tmp_path, board):
    require(find_mosquitto() is not None, "mosquitto is missing")
    with Mosquitto(tmp_path) as broker, contextlib.closing(Peer(broker)) as peer:
        running = board(broker)
        wait_until_subscribed(broker, peer)
        messages = [bytes([number]) * (20 * number) for number in range(100)]
        peer.link._client.publish("down", bytes(500_000), qos=1)
        peer.send_paced(messages)
        for _ in range(5):
            peer.send(bytes(MESSAGE_MAX_BYTES - 8))
        peer.send(b"quit")
        found = figures(running.result().stdout)
        assert peer.up == messages
        # Two contiguous 8 kB are not always free in 64 kB; then it is counted. Either way the connection stands.
        assert int(found["dropped"]) >= 1
        assert int(found["dropped"]) + int(found["large"]) == 6
        assert found["errors"] == "[]"
        assert peer.statuses == []
        print(found)
        assert int(found["modules_bytes"]) < 21_000
        assert int(found["end_bytes"]) < 24_000


def test_broker_killed_and_restarted(tmp_path, board):
    """Twice, with messages on their way; what the board took comes through, a second time at worst."""
    require(find_mosquitto() is not None, "mosquitto is missing")
    with Mosquitto(tmp_path) as broker, contextlib.closing(Peer(broker)) as peer:
        running = board(broker)
        for round_number in range(3):
            peer.wait_for(lambda n=round_number: broker.log.count("Sending SUBACK to board") == n + 1)
            peer.wait_for(lambda n=round_number: broker.log.count("Sending SUBACK to peer") == n + 1)
            messages = [b"%d/%d" % (round_number, number) for number in range(20)]
            for message in messages:
                peer.send(message)
            peer.wait_for(lambda wanted=messages: set(wanted) <= set(peer.up))
            if round_number < 2:
                broker.kill()
                broker.start()
        peer.send(b"quit")
        found = figures(running.result().stdout)
    assert "closed by broker" in found["errors"] or "Errno" in found["errors"]
    assert set(peer.up) == {b"%d/%d" % (a, b) for a in range(3) for b in range(20)}


def test_a_silent_line_is_kept_alive_and_a_dead_board_leaves_its_will(tmp_path, board):
    require(find_mosquitto() is not None, "mosquitto is missing")
    with Mosquitto(tmp_path) as broker, contextlib.closing(Peer(broker)) as peer:
        running = board(broker)
        wait_until_subscribed(broker, peer)
        # The keepalive is 4 s: without pings the broker would end the connection after 6.
        peer.wait_for(lambda: broker.log.count("Received PINGREQ from board") >= 4)
        assert broker.log.count("New client connected from") == 2
        assert peer.statuses == []
        peer.send(b"die")
        peer.wait_for(lambda: peer.statuses == [b"died"])
        assert running.result().returncode == 0


def test_tls_with_client_certificate(tmp_path, board):
    require(find_mosquitto() is not None, "mosquitto is missing")
    files = make_certificates(tmp_path / "tls")
    broker_tls = {"ca": files["ca.pem"], "cert": files["broker.pem"], "key": files["broker-key.pem"]}
    with Mosquitto(tmp_path / "broker", tls=broker_tls) as broker:
        tls = {"ca": str(files["ca.pem"]), "cert": str(files["pile.pem"]), "key": str(files["pile-key.pem"])}
        with contextlib.closing(Peer(broker, tls=tls)) as peer:
            running = board(broker, files["ca.der"], files["pile.der"], files["pile-key.der"])
            wait_until_subscribed(broker, peer)
            messages = [bytes([number]) * 300 for number in range(20)]
            peer.send_paced(messages)
            peer.send(b"quit")
            found = figures(running.result().stdout)
            assert peer.up == messages
            print(found)


def test_tls_refuses_a_broker_of_another_ca(tmp_path, micropython):
    require(find_mosquitto() is not None, "mosquitto is missing")
    files, others = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "other")
    broker_tls = {"ca": files["ca.pem"], "cert": files["broker.pem"], "key": files["broker-key.pem"]}
    script = tmp_path / "refuse.py"
    script.write_text(
        "import sys\n"
        "from pile_edge.ports.micropython_link import Link\n"
        "tls = {'ca': sys.argv[2], 'cert': sys.argv[3], 'key': sys.argv[4]}\n"
        "link = Link({'host': 'localhost', 'port': int(sys.argv[1]), 'tls': tls}, client_id='b', subscriptions=[])\n"
        "while link.last_error is None and not link.connected: link.poll(50)\n"
        "print(link.connected, link.last_error.code, link.last_error)\n"
    )
    with Mosquitto(tmp_path / "broker", tls=broker_tls) as broker:
        done = micropython(script, broker.port, others["ca.der"], files["pile.der"], files["pile-key.der"])
    assert done.stdout.startswith("False connect cannot connect:")
    print(done.stdout)
