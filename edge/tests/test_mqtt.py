"""The small MQTT client without a network: every byte, every timeout, in a world whose clock only waiting moves."""

import builtins
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pile_edge import mqtt
from pile_edge.mqtt import (
    MESSAGE_MAX_BYTES,
    QUEUE_MAX,
    WINDOW,
    Client,
    PacketReader,
    backoff_ms,
    check_spec,
    decode_publish,
    encode_publish,
)
from pile_shared.errors import BoundsError, ConfigError, LinkError

SPEC = {"host": "broker", "port": 1883, "keepalive_s": 60}
CONNACK = b"\x20\x02\x00\x00"
CONNACK_PRESENT = b"\x20\x02\x01\x00"


class Transport:
    def __init__(self, port, incoming: bytes):
        self.port = port
        self.incoming = bytearray(incoming)
        self.sent: list[bytes] = []
        self.is_ended = self.is_closed = False
        self.write_error: Exception | None = None
        self.largest_read = 1 << 30

    def wait(self, timeout_ms):
        if self.incoming or self.is_ended:
            return True
        self.port.clock_ms += timeout_ms
        return False

    def read(self, limit):
        if not self.incoming:
            return b"" if self.is_ended else None
        count = min(limit, self.largest_read)
        data = bytes(self.incoming[:count])
        del self.incoming[:count]
        return data

    def write(self, data):
        if self.write_error is not None:
            raise self.write_error
        self.sent.append(bytes(data))

    def close(self):
        self.is_closed = True


class Port:
    """Hands out prepared connections: each is what the broker says at once, or an error."""

    def __init__(self, *greetings):
        self.clock_ms = 0
        self.greetings = list(greetings)
        self.transports: list[Transport] = []
        self.pauses_ms: list[int] = []

    def connect(self):
        greeting = self.greetings.pop(0) if self.greetings else CONNACK
        if isinstance(greeting, Exception):
            raise greeting
        self.transports.append(Transport(self, greeting))
        return self.transports[-1]

    def now_ms(self):
        return self.clock_ms

    def sleep_ms(self, pause_ms):
        self.pauses_ms.append(pause_ms)
        self.clock_ms += max(1, pause_ms)

    def random_below(self, limit):
        return limit - 1

    @property
    def last(self) -> Transport:
        return self.transports[-1]


def make(*greetings, subscriptions=("down",), spec=SPEC, will=None) -> tuple[Client, Port]:
    port = Port(*greetings)
    return Client(port, spec, client_id="pile-1", subscriptions=list(subscriptions), will=will), port


def connected(**options) -> tuple[Client, Port]:
    client, port = make(**options)
    client.poll(0)
    assert client.connected
    if client._topics:
        port.last.incoming += b"\x90\x03\x00\x01\x01"
    client.poll(0)
    port.last.sent.clear()
    return client, port


def test_connect_packet_is_the_one_of_the_standard():
    client, port = make(spec={**SPEC, "username": "u", "password": "p"}, will=("w", b"gone"))
    client.poll(0)
    assert port.last.sent[0] == (
        b"\x10\x21\x00\x04MQTT\x04\xec\x00\x3c\x00\x06pile-1\x00\x01w\x00\x04gone\x00\x01u\x00\x01p"
    )
    assert port.last.sent[1] == b"\x82\x09\x00\x01\x00\x04down\x01"
    client.close()
    assert port.last.sent[-1] == b"\xe0\x00"
    assert port.last.is_closed


@pytest.mark.parametrize(
    ("size", "length"),
    [(0, b"\x07"), (120, b"\x7f"), (121, b"\x80\x01"), (MESSAGE_MAX_BYTES, b"\x87\x40")],
)
def test_remaining_length(size, length):
    packet = bytes(encode_publish("abc", bytes(size), 7, retain=True))
    assert packet.startswith(b"\x33" + length + b"\x00\x03abc\x00\x07")
    assert len(packet) == 1 + len(length) + 7 + size


@pytest.mark.parametrize("largest_read", [1, 2, 3, 7, 1 << 20])
def test_split_at_every_byte(largest_read):
    stream = CONNACK_PRESENT + bytes(encode_publish("down", b"x" * 200, 9, retain=False)) + b"\x30\x08\x00\x04downhi"
    for cut in range(len(stream)):
        client, port = make(stream[:cut])
        received = client.poll(0)
        port.last.largest_read = largest_read
        port.last.incoming += stream[cut:]
        received += client.poll(0) + client.poll(0) + client.poll(0)
        assert received == [("down", b"x" * 200), ("down", b"hi")]
        assert port.last.sent.count(b"\x40\x02\x00\x09") == 1
        assert client.last_error is None


@given(st.binary(max_size=300), st.integers(1, 9), st.booleans())
@example(b"\x30\x80\x80\x80\x80\x01", 1, True)
@example(b"\x36\x05\x00\x01a\x00\x01", 1, True)
@example(b"\x32\x03\x00\x01a", 1, True)
@example(b"\x32\x05\x00\x01a\x00\x00", 1, True)
@example(b"\x30\x03\x00\x01\xff", 1, True)
@example(b"\x90\x02\x00\x01", 1, True)
@example(b"\x40\x01\x00", 1, True)
@example(b"\x20\x02\x00\x00", 1, True)
@settings(max_examples=400, deadline=None)
def test_any_bytes_from_the_broker_are_survived(noise, largest_read, greeted):
    client, port = make((CONNACK if greeted else b"") + noise)
    for _ in range(5):
        for topic, payload in client.poll(0):
            assert isinstance(topic, str)
            assert isinstance(payload, bytes)
        port.transports[0].largest_read = largest_read
    port.transports[0].is_ended = True
    client.poll(0)
    assert isinstance(client.last_error, LinkError)
    assert client.last_error.code in {"protocol", "closed", "refused"}
    assert port.transports[0].is_closed
    client.poll(70_000)
    assert client.connected


@given(st.integers(0, 255), st.binary(max_size=40))
def test_decode_publish_gives_a_message_or_a_link_error(first, body):
    try:
        topic, start, packet_id = decode_publish(first, body)
    except LinkError as error:
        assert error.code == "protocol"  # noqa: PT017 - it may also not be raised
        return
    again = bytes(encode_publish(topic, body[start:], packet_id, retain=False)) if packet_id else None
    assert again is None or again[2:] == body


@given(st.text(min_size=1, max_size=60), st.binary(max_size=400), st.integers(1, 65535), st.booleans())
def test_round_trip(topic, payload, packet_id, retain):
    data = bytearray(encode_publish(topic, payload, packet_id, retain))

    def read(limit):
        piece = bytes(data[:limit])
        del data[:limit]
        return piece or None

    first, body = PacketReader().read(read)
    assert first == 0x32 | retain
    start = len(body) - len(payload)
    assert decode_publish(first, body) == (topic, start, packet_id)
    assert body[start:] == payload


@pytest.mark.parametrize("size", [MESSAGE_MAX_BYTES - 7, MESSAGE_MAX_BYTES - 8 + 2, 300_000])
def test_a_large_message_is_drained_acknowledged_and_counted(size):
    """The bound is on the packet's body: topic, packet id and payload."""
    client, port = connected()
    port.last.incoming += encode_publish("down", bytes(size), 77, retain=False)
    most_held = 0
    port.last.largest_read = 100
    port.last.incoming, rest = port.last.incoming[:5000], port.last.incoming[5000:]
    client.poll(0)
    port.last.incoming += rest
    while port.last.incoming:
        most_held = max(most_held, len(client._reader._body))
        assert client.poll(0) == []
    assert client.dropped == 1
    assert most_held < 1024
    assert port.last.sent == [b"\x40\x02\x00\x4d"]
    port.last.incoming += encode_publish("down", b"small", 78, retain=False)
    assert client.poll(0) == [("down", b"small")]
    assert client.connected


def test_the_largest_message_allowed_comes_through():
    client, port = connected()
    port.last.incoming += encode_publish("down", bytes(MESSAGE_MAX_BYTES - 8), 7, retain=False)
    assert client.poll(0) == [("down", bytes(MESSAGE_MAX_BYTES - 8))]
    assert client.dropped == 0


def test_an_unacknowledged_message_is_sent_again_with_dup_and_the_same_id():
    client, port = connected()
    assert client.publish("up", b"one")
    assert client.publish("up", b"two", retain=True)
    first, second = port.last.sent
    assert (first[0], second[0]) == (0x32, 0x33)
    port.last.incoming += b"\x40\x02" + second[-5:-3]  # the packet id of the second
    client.poll(0)
    assert client.inflight == 1
    port.last.is_ended = True
    port.greetings = [CONNACK_PRESENT]
    client.poll(2000)
    assert client.connected
    assert port.last.sent == [port.last.sent[0], b"\x3a" + first[1:]]  # CONNECT, then the first with DUP; no SUBSCRIBE
    port.last.incoming += b"\x40\x02" + first[-5:-3]
    client.poll(0)
    assert client.inflight == 0


def test_a_message_whose_write_failed_is_taken_and_goes_out_again():
    client, port = connected()
    for error in (OSError(104, "reset"), LinkError("the broker takes no data", "timeout")):
        port.last.write_error = error
        assert client.publish("up", b"one")
        assert client.last_error is error
        client.poll(3000)
        assert client.connected
    assert [packet[0] for packet in port.last.sent].count(0x3A) == 2


def test_a_broker_that_acknowledges_nothing_is_left_and_tried_anew():
    client, port = connected()
    client.publish("up", b"one")
    packet = port.last.sent[0]
    for _ in range(29):  # it answers pings all the time
        client.poll(1000)
        port.last.incoming += b"\xd0\x00"
    assert client.last_error is None
    client.poll(5_000)
    assert str(client.last_error) == "no PUBACK"
    assert len(port.transports) == 2
    assert b"\x3a" + packet[1:] in port.last.sent


def test_window_and_packet_ids():
    client, port = connected(subscriptions=())
    client._packet_id = 65533
    assert all(client.publish("up", b"x") for _ in range(WINDOW))
    assert [struct.unpack(">H", packet[-3:-1])[0] for packet in port.last.sent] == [65534, 65535, 1, 2]
    assert client.publish("up", b"x") is False
    assert client.inflight == WINDOW
    port.last.incoming += b"\x40\x02\x00\x02"
    client.poll(0)
    client._packet_id = 65533
    assert client.publish("up", b"x")
    assert port.last.sent[-1][-3:-1] == b"\x00\x02"  # 65534, 65535 and 1 are still taken


def test_not_connected_takes_nothing():
    client, port = make(OSError(111, "refused"))
    assert client.publish("up", b"x") is False
    client.poll(0)
    assert client.publish("up", b"x") is False
    assert port.transports == []
    assert isinstance(client.last_error, OSError)
    for topic, payload in (("", b""), ("t" * 257, b""), ("t", bytes(MESSAGE_MAX_BYTES + 1))):
        with pytest.raises(BoundsError):
            client.publish(topic, payload)


def test_ping_at_half_the_keepalive_and_an_answer_keeps_it_open():
    client, port = connected()
    client.poll(29_000)
    assert port.last.sent == []
    client.poll(2_000)
    assert port.last.sent == [b"\xc0\x00"]
    port.last.incoming += b"\xd0\x00"
    client.poll(29_000)
    assert client.connected
    assert len(port.transports) == 1


def test_no_answer_to_a_ping_ends_the_connection():
    client, port = connected()
    client.poll(31_000)
    assert port.last.sent == [b"\xc0\x00"]
    client.poll(12_000)
    assert client.last_error.code == "timeout"
    assert port.transports[0].is_closed


@pytest.mark.parametrize("begun", [b"\x32", b"\x32\x20", b"\x32\x20\x00\x04do"])
def test_a_packet_that_stalls_ends_the_connection(begun):
    client, port = connected()
    port.last.incoming += begun
    client.poll(9_000)
    assert client.connected
    client.poll(3_000)
    assert port.transports[0].is_closed
    assert client.last_error.code == "timeout"


def test_no_connack_ends_the_connection():
    client, port = make(b"")
    client.poll(13_000)
    assert port.transports[0].is_closed
    assert client.last_error.code == "timeout"


def test_refusals_are_recorded_and_tried_again_with_growing_pauses():
    client, port = make(*[b"\x20\x02\x00\x05"] * 12)
    client.poll(400_000)
    assert client.last_error.code == "refused"
    assert "code 5" in str(client.last_error)
    assert client.connected
    assert max(port.pauses_ms) == mqtt.BACKOFF_MAX_MS
    assert port.pauses_ms == sorted(port.pauses_ms)


def test_backoff_is_bounded_and_half_random():
    for attempts in range(40):
        most = backoff_ms(attempts, lambda limit: limit - 1)
        least = backoff_ms(attempts, lambda _: 0)
        assert most == min(60_000, 500 << attempts)
        assert least == most // 2


def test_a_connection_that_held_starts_the_backoff_anew():
    client, port = make(*[OSError(111, "refused")] * 5)
    client.poll(60_000)
    assert client.connected
    client.poll(11_000)
    port.pauses_ms.clear()
    port.last.is_ended = True
    client.poll(2_000)
    assert port.pauses_ms[0] == mqtt.BACKOFF_MIN_MS


def test_subscribes_again_only_when_the_broker_forgot():
    client, port = connected()
    for greeting, subscribes in ((CONNACK_PRESENT, False), (CONNACK, True)):
        port.last.is_ended = True
        port.greetings = [greeting]
        client.poll(2_000)
        assert any(packet[0] == 0x82 for packet in port.last.sent) is subscribes
        port.last.incoming += b"\x90\x03\x00\x02\x01"
        client.poll(0)


def test_a_refused_subscription_is_recorded_and_tried_at_the_next_connection():
    client, port = make()
    client.poll(0)
    port.last.incoming += b"\x90\x03\x00\x01\x80"
    client.poll(0)
    assert client.last_error.code == "refused"
    assert client.connected
    port.last.is_ended = True
    port.greetings = [CONNACK_PRESENT]
    client.poll(2_000)
    assert port.last.sent[1][0] == 0x82


def test_one_poll_hands_out_a_bounded_number_and_the_rest_later():
    client, port = connected()
    for number in range(QUEUE_MAX * 2 + 1):
        port.last.incoming += encode_publish("down", bytes([number]), number + 1, retain=False)
    sizes = [len(client.poll(0)) for _ in range(4)]
    assert sizes == [QUEUE_MAX, QUEUE_MAX, 1, 0]
    assert len(port.last.sent) == QUEUE_MAX * 2 + 1


@pytest.mark.parametrize("shadowed", ["bytearray", "memoryview"])
def test_a_message_without_room_is_acknowledged_and_counted(monkeypatch, shadowed):
    """Else it would come again for ever; here the first buffer or the last copy finds no memory."""
    client, port = connected()

    def scarce(value=0):
        size_bytes = value if isinstance(value, int) else len(value)
        if size_bytes == 5007:
            raise MemoryError
        return getattr(builtins, shadowed)(value)

    packet = bytes(encode_publish("down", bytes(4999), 77, retain=False))
    assert len(packet) == 3 + 5007
    monkeypatch.setattr(mqtt, shadowed, scarce, raising=False)
    port.last.incoming += packet
    assert client.poll(0) == []
    assert client.dropped == 1
    assert port.last.sent == [b"\x40\x02\x00\x4d"]
    port.last.incoming += b"\x30\x08\x00\x04downhi"
    assert client.poll(0) == [("down", b"hi")]
    assert client.connected


def test_out_of_memory_even_for_a_read_reconnects():
    client, port = connected()

    def read(_limit):
        raise MemoryError

    port.last.incoming += b"\x32\x20"
    port.last.read = read
    client.poll(0)
    assert isinstance(client.last_error, MemoryError)
    client.poll(1_000)
    assert client.connected


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"host": ""}, "host"),
        ({"host": None}, "host"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"port": "1883"}, "port"),
        ({"keepalive_s": 0}, "keepalive_s"),
        ({"username": 1}, "username"),
        ({"password": "p"}, "password"),
        ({"tls": {}}, "tls"),
        ({"tls": {"ca": "c", "cert": "c"}}, "tls"),
        ({"tls": {"ca": "c", "kei": "k"}}, "tls"),
        ({"hots": "x"}, "hots"),
    ],
)
def test_an_unusable_spec_names_the_key(change, names):
    with pytest.raises(ConfigError, match=names):
        check_spec({**SPEC, **change})


def test_usable_specs():
    check_spec({"host": "h", "port": 1})
    check_spec({**SPEC, "username": "u"})
    check_spec({**SPEC, "username": "u", "password": "p", "tls": {"ca": "a", "cert": "b", "key": "c"}})
