"""Both links against a real mosquitto, and against a peer that breaks the protocol where no broker would."""

import contextlib
import os
import select
import socket
import threading
import time

import pytest

from pile_edge.mqtt import MESSAGE_MAX_BYTES, Client
from pile_edge.ports import cpython_link
from pile_hil.broker import Mosquitto, find_mosquitto, make_certificates
from pile_hil.requirements import require
from pile_shared.errors import ConfigError, LinkError

PATIENCE_S = 20


class SocketTransport:
    """What the MicroPython port does, over CPython's sockets."""

    def __init__(self, address):
        self.sock = socket.create_connection(address, timeout=5)

    def wait(self, timeout_ms):
        return bool(select.select([self.sock], [], [], timeout_ms / 1000)[0])

    def read(self, limit):
        self.sock.setblocking(False)
        try:
            return self.sock.recv(limit)
        except BlockingIOError:
            return None

    def write(self, data):
        self.sock.settimeout(5)
        self.sock.sendall(data)

    def close(self):
        self.sock.close()


class SocketPort:
    def __init__(self, spec):
        self.address = (spec["host"], spec["port"])

    def connect(self):
        return SocketTransport(self.address)

    def now_ms(self):
        return time.monotonic_ns() // 1_000_000

    def sleep_ms(self, pause_ms):
        time.sleep(pause_ms / 1000)

    def random_below(self, limit):
        return int.from_bytes(os.urandom(4), "big") % limit


def small_client(spec, **options):
    return Client(SocketPort(spec), spec, **options)


LINKS = {"paho": cpython_link.Link, "small": small_client}
both = pytest.mark.parametrize("make", LINKS.values(), ids=LINKS.keys())


@pytest.fixture
def broker(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is missing")
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
def links():
    """A stack that closes every link the test opened."""
    with contextlib.ExitStack() as stack:

        def opened(link):
            stack.callback(link.close)
            return link

        yield opened


def wait_for(condition, *polled):
    """Poll the links until the condition holds; returns its value."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < give_up_s, [(link.connected, link.last_error) for link in polled]
        for link in polled:
            link.received = getattr(link, "received", []) + link.poll(20)
    return value


def up(link):
    """Wait until the link is connected and its subscription is in place."""
    wait_for(lambda: link.connected and link._is_subscribed, link)
    return link


def received(link):
    return getattr(link, "received", [])


def send(link, topic, payload, **options):
    wait_for(lambda: link.publish(topic, payload, **options), link)


@both
def test_both_directions(broker, links, make):
    peer = up(links(cpython_link.Link(broker.spec, client_id="peer", subscriptions=["up"])))
    pile = up(links(make(broker.spec, client_id="pile", subscriptions=["down", "other"])))
    messages = [bytes([number]) * (number * 40) for number in range(50)]
    for message in messages:
        send(pile, "up", message)
        send(peer, "down", message)
    wait_for(lambda: len(received(peer)) >= 50 and len(received(pile)) >= 50, peer, pile)
    assert received(peer) == [("up", message) for message in messages]
    assert received(pile) == [("down", message) for message in messages]
    wait_for(lambda: pile.inflight == 0 and peer.inflight == 0, peer, pile)
    assert pile.dropped == 0


@both
def test_retained_messages_and_large_ones(broker, links, make):
    pile = up(links(make(broker.spec, client_id="pile", subscriptions=["large"])))
    send(pile, "status", b"online", retain=True)
    late = links(make(broker.spec, client_id="late", subscriptions=["status"]))
    wait_for(lambda: received(late) == [("status", b"online")], pile, late)
    other = up(links(LINKS["paho"](broker.spec, client_id="other", subscriptions=[])))
    # The bound of our own publish() does not bind other people.
    other._client.publish("large", bytes(1_000_000), qos=1)
    other._client.publish("large", bytes(MESSAGE_MAX_BYTES - 100), qos=1)
    wait_for(lambda: received(pile), pile, other)
    assert received(pile) == [("large", bytes(MESSAGE_MAX_BYTES - 100))]
    assert pile.dropped == 1


@both
def test_broker_killed_and_restarted(broker, links, make):
    pile = up(links(make(broker.spec, client_id="pile", subscriptions=["down"])))
    for round_number in range(2):
        broker.kill()
        wait_for(lambda: not pile.connected, pile)
        assert pile.publish("up", b"refused") is False
        assert pile.last_error is not None
        broker.start()
        up(pile)
        # The restarted broker has forgotten the session; the subscription must be there again.
        number = b"%d" % round_number
        with contextlib.closing(cpython_link.Link(broker.spec, client_id="peer", subscriptions=["up"])) as peer:
            up(peer)
            send(peer, "down", number)
            wait_for(lambda link=pile, wanted=number: ("down", wanted) in received(link), pile, peer)
            send(pile, "up", number)
            wait_for(lambda link=peer, wanted=number: received(link) == [("up", wanted)], pile, peer)


@both
def test_what_was_sent_while_away_comes_afterwards(tmp_path, links, make):
    """The persistent session, over a SIGKILL of a broker that saves its sessions."""
    require(find_mosquitto() is not None, "mosquitto is missing")
    with Mosquitto(tmp_path / "broker", persistence=True) as broker:
        up(make(broker.spec, client_id="pile", subscriptions=["down"])).close()
        peer = up(links(cpython_link.Link(broker.spec, client_id="peer", subscriptions=[])))
        for number in range(5):
            send(peer, "down", bytes([number]))
        wait_for(lambda: peer.inflight == 0, peer)
        wait_for(lambda: broker.log.count("Saving in-memory database") >= 2, peer)
        broker.kill()
        broker.start()
        pile = links(make(broker.spec, client_id="pile", subscriptions=["down"]))
        wait_for(lambda: len(received(pile)) >= 5, pile)
        assert received(pile) == [("down", bytes([number])) for number in range(5)]


@both
def test_will_is_published_when_the_pile_dies_and_not_when_it_leaves(broker, links, make):
    peer = up(links(cpython_link.Link(broker.spec, client_id="peer", subscriptions=["status"])))
    will = ("status", b"offline")
    up(make(broker.spec, client_id="leaves", subscriptions=[], will=will)).close()
    dies = up(links(make(broker.spec, client_id="dies", subscriptions=[], will=("status", b"died"))))
    sock = dies._client.socket() if make is cpython_link.Link else dies._transport.sock
    sock.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: received(peer), peer)
    assert received(peer) == [("status", b"died")]


def test_the_queue_of_the_thread_drops_the_oldest(broker, links):
    pile = up(links(cpython_link.Link(broker.spec, client_id="pile", subscriptions=["down"])))
    peer = up(links(cpython_link.Link(broker.spec, client_id="peer", subscriptions=[])))
    for number in range(cpython_link.QUEUE_MAX + 7):
        send(peer, "down", b"%d" % number)
    wait_for(lambda: pile.dropped == 7, peer)
    assert [payload for _, payload in pile.poll(0)] == [
        b"%d" % number for number in range(7, cpython_link.QUEUE_MAX + 7)
    ]


class Peer:
    """A TCP server that plays a broker for one test: says what it is told to, hears whole packets."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE_S)
        self.spec = {"host": "127.0.0.1", "port": self.server.getsockname()[1], "keepalive_s": 30}

    def accept(self, connack=b"\x20\x02\x00\x00"):
        self.sock, _ = self.server.accept()
        self.sock.settimeout(PATIENCE_S)
        assert self.hear()[0] == 0x10
        self.sock.sendall(connack)

    def hear(self) -> bytes:
        """One packet; all of ours here are short."""
        head = self._exactly(2)
        assert head[1] < 128
        return head + self._exactly(head[1])

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            assert piece, "the client closed"
            data += piece
        return data

    def close(self):
        self.server.close()
        with contextlib.suppress(AttributeError):
            self.sock.close()


@pytest.fixture
def peer():
    with contextlib.closing(Peer()) as open_peer:
        yield open_peer


@contextlib.contextmanager
def polled(link):
    """Poll in the background while the test plays the broker."""
    is_done = threading.Event()
    link.received = []

    def loop():
        while not is_done.is_set():
            link.received += link.poll(10)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield link
    finally:
        is_done.set()
        thread.join()
        link.close()


def publish_soon(link, payload):
    give_up_s = time.monotonic() + PATIENCE_S
    while not link.publish("up", payload):
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


@both
def test_withheld_acknowledgement_means_dup_with_the_same_packet_id(peer, make):
    with polled(make(peer.spec, client_id="pile", subscriptions=[])) as pile:
        peer.accept()
        publish_soon(pile, b"proof")
        first = peer.hear()
        assert first[0] == 0x32
        for _ in range(2):
            peer.sock.close()
            peer.accept(b"\x20\x02\x01\x00")
            assert peer.hear() == b"\x3a" + first[1:]
            assert pile.inflight == 1
        peer.sock.sendall(b"\x40\x02" + first[6:8])
        wait_for(lambda: pile.inflight == 0)
        publish_soon(pile, b"next")
        assert peer.hear()[0] == 0x32


@both
def test_a_stalled_window_is_broken_up(peer, make, monkeypatch):
    """Here the connection stays open and only the PUBACK is missing."""
    monkeypatch.setattr("pile_edge.mqtt.ACK_TIMEOUT_MS", 300)
    monkeypatch.setattr("pile_edge.ports.cpython_link.ACK_TIMEOUT_MS", 300)
    with polled(make(peer.spec, client_id="pile", subscriptions=[])) as pile:
        peer.accept()
        publish_soon(pile, b"proof")
        first = peer.hear()
        peer.accept(b"\x20\x02\x01\x00")
        assert peer.hear() == b"\x3a" + first[1:]


@both
@pytest.mark.parametrize(
    "garbage",
    [b"\x32\x03\x00\x50a", b"\x30\x05\x00\x03\xff\xfe\xfd", b"\x30\xff\xff\xff\xff\xff", b"\x90\x00", b"\xf0\x01a"],
)
def test_a_broker_that_talks_nonsense_is_left_and_tried_again(peer, make, garbage, capfd):
    with polled(make(peer.spec, client_id="pile", subscriptions=["down"])) as pile:
        peer.accept()
        assert peer.hear()[0] == 0x82
        peer.sock.sendall(garbage)
        with contextlib.suppress(OSError):  # what cannot be read on is left by the client first
            peer.sock.shutdown(socket.SHUT_WR)
        peer.accept()
        assert peer.hear()[0] == 0x82
        assert pile.last_error is not None
        peer.sock.sendall(b"\x30\x06\x00\x04down")
        wait_for(lambda: pile.received)
        assert pile.received[-1] == ("down", b"")
    assert "Traceback" not in capfd.readouterr().err


@both
def test_a_host_that_does_not_exist_is_no_exception(make):
    with polled(make({"host": "no-such-host.invalid", "port": 1883}, client_id="pile", subscriptions=[])) as pile:
        wait_for(lambda: pile.last_error)
        assert pile.publish("up", b"x") is False


def test_tls_with_client_certificate(tmp_path, links):
    require(find_mosquitto() is not None, "mosquitto is missing")
    files = make_certificates(tmp_path / "certificates")
    other_ca = make_certificates(tmp_path / "others")["ca.pem"]
    broker_tls = {"ca": files["ca.pem"], "cert": files["broker.pem"], "key": files["broker-key.pem"]}
    with Mosquitto(tmp_path / "broker", tls=broker_tls) as broker:
        tls = {"ca": str(files["ca.pem"]), "cert": str(files["pile.pem"]), "key": str(files["pile-key.pem"])}
        pile = up(links(cpython_link.Link({**broker.spec, "tls": tls}, client_id="pile", subscriptions=["up"])))
        send(pile, "up", b"over tls")
        wait_for(lambda: received(pile) == [("up", b"over tls")], pile)
        for bad in ({**tls, "ca": str(other_ca)}, {"ca": tls["ca"]}):
            refused = links(cpython_link.Link({**broker.spec, "tls": bad}, client_id="x", subscriptions=[]))
            wait_for(lambda link=refused: link.last_error, refused)
            assert not refused.connected


def test_unusable_specs_are_refused_at_once(tmp_path):
    for spec in ({"host": "h", "port": 0}, {"host": "h", "port": 1, "tls": {"ca": str(tmp_path / "none")}}):
        with pytest.raises(ConfigError):
            cpython_link.Link(spec, client_id="x", subscriptions=[])


def test_a_broker_that_does_not_start_says_why(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is missing")
    broker = Mosquitto(tmp_path, extra_config=("no_such_option 1",))
    with pytest.raises(LinkError, match="no_such_option"):
        broker.start()
