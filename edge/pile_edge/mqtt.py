"""MQTT 3.1.1, the part a pile needs: packets in and out, and a client over anything that reads and writes bytes.

The link, the same on both interpreters (ports/cpython_link.py over paho-mqtt, ports/micropython_link.py over `Client`):

    Link(spec, *, client_id, subscriptions, will)   ConfigError for an unusable spec; opens nothing yet
        spec: {"host", "port", "username"?, "password"?, "tls"?: {"ca", "cert"?, "key"?}, "keepalive_s"?}
              tls files are DER on MicroPython, PEM on CPython; "cert" and "key" go together, and are in the client id
        will: (topic, payload) the broker publishes retained when the pile goes silent, or None
    .poll(timeout_ms) -> [(topic, payload)]   pumps, (re)connects; returns early when something came. Call it at least
                                              twice per keepalive.
    .publish(topic, payload, *, retain=False) -> bool   QoS 1. True: taken, and sent again until acknowledged while this
        object lives. False: not connected or the window is full; keep the message and try later.
    .connected, .inflight, .dropped, .last_error, .close()

Network faults never raise: they are in `last_error`, and the link reconnects with backoff (0.5 s doubling to 60 s, half
of it random). The session is persistent, so what the broker sends at QoS 1 while the link is down comes after it. Both
ways delivery is at least once: duplicates happen and receivers must not mind. A message over 8 KiB, or
for which a board has no memory at the moment, is acknowledged, counted in `dropped` and thrown away.

Clauses in brackets are those of MQTT 3.1.1, OASIS standard of 2014-10-29.
"""

import struct

from pile_shared.errors import BoundsError, ConfigError, LinkError

MESSAGE_MAX_BYTES = 8192  # the largest downlink, a contract with its certificate and inclusion path, is under 4 kB
TOPIC_MAX_BYTES = 256  # four times the longest topic of pile_shared.topics
WINDOW = 4  # unacknowledged messages held in RAM: 4 * 2 kB at worst
QUEUE_MAX = (
    2  # messages handed out by one poll(); more wait in the broker, as a board verifies one in what RAM it has left
)
BACKOFF_MIN_MS = 500
BACKOFF_MAX_MS = 60_000
ANSWER_TIMEOUT_MS = 10_000  # for CONNACK, PINGRESP, the rest of a packet
ACK_TIMEOUT_MS = 30_000  # a broker that answers pings but acknowledges nothing is left and tried anew
_CHUNK_BYTES = 512
# Out of memory even for the small things counts as a fault: dropping the connection frees its buffers.
_FAULTS = (OSError, LinkError, MemoryError)


def check_spec(spec: dict) -> None:  # type: ignore[type-arg] # decoded JSON
    """Check the keys, types and ranges of a link spec.

    Raises:
        ConfigError: Naming the key and what it must be.
    """
    tls = spec.get("tls", {"ca": ""})
    if not isinstance(tls, dict) or sorted(tls) not in (["ca"], ["ca", "cert", "key"]):
        raise ConfigError("link.tls must name ca or ca, cert, key")
    if "password" in spec and "username" not in spec:
        raise ConfigError("link.password needs username")
    for key in ["host", "port"] + list(spec):  # noqa: RUF005 - MicroPython has no * in displays
        value = spec.get(key)
        most = {"port": 65535, "keepalive_s": 3600}.get(key)
        if most is not None:
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError("link.{} must be 1 to {}".format(key, most))
        elif key not in ("host", "username", "password", "tls"):
            raise ConfigError("link.{} is unknown".format(key))
        elif key != "tls" and (not isinstance(value, str) or not 0 < len(value) < 256):
            raise ConfigError("link.{} must be 1-255 characters".format(key))


def _field(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def _packet(first: int, *parts: bytes) -> bytearray:
    length = sum([len(part) for part in parts])
    packet = bytearray([first])
    while length > 127:
        packet.append(length & 127 | 128)
        length >>= 7
    packet.append(length)
    for part in parts:
        packet.extend(part)
    return packet


def encode_connect(spec: dict, client_id: str, will: tuple[str, bytes] | None) -> bytearray:  # type: ignore[type-arg]
    """CONNECT with a persistent session and a retained QoS 1 will [3.1]."""
    flags, tail = 0, _field(client_id)
    if will is not None:
        flags |= 0x2C
        tail += _field(will[0]) + _field(will[1])
    for key, flag in (("username", 0x80), ("password", 0x40)):
        if key in spec:
            flags |= flag
            tail += _field(spec[key])
    return _packet(0x10, b"\x00\x04MQTT\x04", struct.pack(">BH", flags, spec.get("keepalive_s", 60)), tail)


def encode_publish(topic: str, payload: bytes, packet_id: int, retain: bool) -> bytearray:
    """PUBLISH at QoS 1 [3.3]; set bit 0x08 of the first byte to send it again."""
    return _packet(0x32 | retain, _field(topic), struct.pack(">H", packet_id), payload)


def encode_topics(topics: list[str]) -> bytes:
    """What follows the packet id of a SUBSCRIBE to all topics at QoS 1 [3.8.3]."""
    return b"".join([_field(topic) + b"\x01" for topic in topics])


def encode_subscribe(packet_id: int, topics: bytes) -> bytearray:
    """SUBSCRIBE to encoded topics [3.8]."""
    return _packet(0x82, struct.pack(">H", packet_id), topics)


def decode_publish(first: int, body: bytes | bytearray) -> tuple[str, int, int]:
    """(topic, offset of the payload, packet id; 0 at QoS 0) of a PUBLISH [3.3].

    Raises:
        LinkError: `protocol`, for anything but a well-formed PUBLISH at QoS 0 or 1.
    """
    start = 2 + int.from_bytes(body[:2], "big")
    end = start + 2 if first & 6 else start
    packet_id = int.from_bytes(body[start:end], "big")
    if first & 6 > 2 or start == 2 or end > len(body) or (first & 6 and not packet_id):
        raise LinkError("malformed PUBLISH", "protocol")
    try:
        return bytes(body[2:start]).decode(), end, packet_id
    except ValueError:  # UnicodeError on both interpreters
        raise LinkError("malformed PUBLISH", "protocol")


class PacketReader:
    """Puts packets together from whatever pieces arrive, never holding more than one message of the largest size."""

    def __init__(self) -> None:
        self.header = bytearray()  # not empty: a packet has begun
        self._body = bytearray()
        self._filled = 0
        self._missing_bytes = -1  # of the body; -1 while the header is not complete
        self.taken_bytes = 0  # ever; when it stands still, so does the connection
        self.oversized = False  # the packet just returned found no room: its body holds only the beginning

    def read(self, read) -> tuple[int, bytearray] | None:  # type: ignore[no-untyped-def] # noqa: ANN001 - a callable
        """The next packet as (first byte, body), or None if it is not all there yet.

        Args:
            read: read(limit) gives 1 to `limit` bytes, None when there are none now, b"" at the end of the stream.

        Raises:
            LinkError: `protocol` for a length of more than 4 bytes or an oversized packet that is no PUBLISH, `closed`
                at the end of the stream.
        """
        while self._missing_bytes < 0:
            data = self._take(read, 1)
            if data is None:
                return None
            self.header.append(data[0])
            if len(self.header) > 1 and self.header[-1] < 128:
                self._begin_body()
            elif len(self.header) == 5:
                raise LinkError("packet too long", "protocol")
        while self._missing_bytes:
            data = self._take(read, min(self._missing_bytes, _CHUNK_BYTES))
            if data is None:
                return None
            self._missing_bytes -= len(data)
            room = len(self._body) - self._filled
            if room > 0:
                self._body[self._filled : self._filled + len(data)] = data[:room] if len(data) > room else data
            self._filled += len(data)
        packet = self.header[0], self._body
        self.header, self._body, self._missing_bytes, self._filled = bytearray(), bytearray(), -1, 0
        return packet

    def _begin_body(self) -> None:
        length = 0
        for i in range(1, len(self.header)):
            length |= (self.header[i] & 127) << 7 * (i - 1)
        self.oversized = length > MESSAGE_MAX_BYTES
        if self.oversized and self.header[0] >> 4 != 3:
            raise LinkError("packet too long", "protocol")
        self._missing_bytes = length
        try:
            self._body = bytearray(0 if self.oversized else length)
        except MemoryError:
            self.oversized = True
        if self.oversized:
            # Enough for topic and packet id.
            self._body = bytearray(TOPIC_MAX_BYTES + 4)

    def _take(self, read, limit: int) -> bytes | None:  # type: ignore[no-untyped-def] # noqa: ANN001
        data: bytes | None = read(limit)
        if data is not None:
            if not data:
                raise LinkError("closed by broker", "closed")
            self.taken_bytes += len(data)
        return data


class Client:
    """The link of this module over a port's sockets.

    `port` has connect() -> transport, now_ms() (never falls), sleep_ms(ms), random_below(n); a transport has wait(ms)
    -> is something to read, read(limit) as in PacketReader, write(data) all or OSError within a time limit, close().
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        port,  # noqa: ANN001 - differs by interpreter
        spec: dict,  # type: ignore[type-arg]
        *,
        client_id: str,
        subscriptions: list[str],
        will: tuple[str, bytes] | None = None,
    ) -> None:
        """Check the spec and prepare; the first poll() connects.

        Raises:
            ConfigError: The spec is unusable.
        """
        check_spec(spec)
        self._port = port
        self._topics = encode_topics(subscriptions)  # as they are sent: half of what the list would take
        self._topic_count = len(subscriptions)
        self._connect = encode_connect(spec, client_id, will)
        self._keepalive_ms = spec.get("keepalive_s", 60) * 1000
        self._transport = None
        self._reader = PacketReader()
        self._received: list[tuple[str, bytes]] = []
        self._window: list[tuple[int, bytearray]] = []
        self._packet_id = 0
        self._subscribe_id = 0
        self._is_subscribed = not subscriptions
        self._attempts = 0
        self._retry_at_ms = port.now_ms()
        self._opened_ms = self._sent_ms = self._heard_ms = self._window_ms = 0
        self._awaits_answer = False
        self.connected = False
        self.dropped = 0
        self.last_error: Exception | None = None

    @property
    def inflight(self) -> int:
        """Messages taken and not yet acknowledged, 0 to 4."""
        return len(self._window)

    def poll(self, timeout_ms: int) -> list[tuple[str, bytes]]:
        """Work the network for up to `timeout_ms` (0: only what is there now); returns what came, at most 8 messages.

        Opening a connection may take longer than `timeout_ms`: up to the port's connect timeout.
        """
        deadline_ms = self._port.now_ms() + timeout_ms
        while True:
            try:
                self._pump(max(0, deadline_ms - self._port.now_ms()))
            except _FAULTS as error:
                self._lose(error)
            if self._received or self._port.now_ms() >= deadline_ms:
                received, self._received = self._received, []
                return received

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Take a message for delivery at QoS 1 [4.3.2]; False if it cannot be taken now.

        Raises:
            BoundsError: Topic over 256 bytes or payload over 8 KiB.
        """
        if len(payload) > MESSAGE_MAX_BYTES or not 0 < len(topic.encode()) <= TOPIC_MAX_BYTES:
            raise BoundsError("message too long")
        if not self.connected or len(self._window) >= WINDOW:
            return False
        packet_id = self._next_packet_id()
        if not self._window:
            self._window_ms = self._port.now_ms()
        self._window.append((packet_id, encode_publish(topic, payload, packet_id, retain)))
        try:
            self._send(self._window[-1][1])
        except _FAULTS as error:
            self._lose(error)  # it stays in the window and goes out again with the same packet id
        return True

    def close(self) -> None:
        """Say goodbye, so that the broker does not publish the will [3.14], and close."""
        if self.connected:
            try:
                self._send(b"\xe0\x00")
            except _FAULTS as error:
                self.last_error = error
        self._drop_transport()

    # --- one connection

    def _pump(self, wait_ms: int) -> None:
        if self._transport is None:
            pause_ms = self._retry_at_ms - self._port.now_ms()
            if pause_ms > 0:
                self._port.sleep_ms(min(pause_ms, wait_ms))
                return
            self._open()
        self._keep_alive()
        transport = self._transport
        # Timeouts are checked every second.
        if not transport.wait(min(wait_ms, 1000)):  # type: ignore[attr-defined]
            return
        while len(self._received) < QUEUE_MAX:
            taken_bytes = self._reader.taken_bytes
            packet = self._reader.read(transport.read)  # type: ignore[attr-defined]
            if self._reader.taken_bytes > taken_bytes:
                self._heard_ms = self._port.now_ms()
            if packet is None:
                return
            self._awaits_answer = False
            self._handle(packet[0], packet[1])
            if len(packet[1]) > _CHUNK_BYTES:
                return  # one large message at a time: the caller shall be done with it before the next takes memory

    def _open(self) -> None:
        self._transport = self._port.connect()
        self._reader = PacketReader()
        self._opened_ms = self._heard_ms = self._port.now_ms()
        self._awaits_answer = True
        self._send(self._connect)

    def _lose(self, error: Exception) -> None:
        self.last_error = error
        now_ms = self._port.now_ms()
        # A connection that held for a while starts the backoff anew; one that is closed at once does not.
        if self.connected and now_ms - self._opened_ms >= ANSWER_TIMEOUT_MS:
            self._attempts = 0
        self._drop_transport()
        pause_ms = backoff_ms(self._attempts, self._port.random_below)
        self._attempts += 1
        self._retry_at_ms = now_ms + pause_ms

    def _drop_transport(self) -> None:
        self.connected = False
        transport, self._transport = self._transport, None
        try:
            if transport is not None:
                transport.close()
        except OSError as error:
            self.last_error = error

    def _send(self, packet: bytes | bytearray) -> None:
        """One write per packet: a second small one would wait for the peer's delayed ACK."""
        self._sent_ms = self._port.now_ms()
        self._transport.write(packet)  # type: ignore[attr-defined]

    def _keep_alive(self) -> None:
        now_ms = self._port.now_ms()
        if (self._awaits_answer or self._reader.header) and now_ms - self._heard_ms > ANSWER_TIMEOUT_MS:
            raise LinkError("no answer", "timeout")
        if self.connected and self._window and now_ms - self._window_ms > ACK_TIMEOUT_MS:
            raise LinkError("no PUBACK", "timeout")
        if self.connected and not self._awaits_answer and now_ms - self._sent_ms >= self._keepalive_ms // 2:
            self._awaits_answer = True
            self._heard_ms = now_ms
            self._send(b"\xc0\x00")

    def _next_packet_id(self) -> int:
        taken = [self._subscribe_id] + [item[0] for item in self._window]
        while True:
            self._packet_id = self._packet_id % 65535 + 1
            if self._packet_id not in taken:
                return self._packet_id

    # --- packets from the broker

    def _handle(self, first: int, body: bytearray) -> None:
        kind = first >> 4
        if (kind == 2) is self.connected:
            raise LinkError("unexpected packet", "protocol")
        if kind == 3:
            self._on_publish(first, body)
        elif kind == 2 and len(body) == 2:
            self._on_connack(body)
        elif kind == 4 and len(body) == 2:
            packet_id = body[0] << 8 | body[1]
            self._window = [item for item in self._window if item[0] != packet_id]
            self._window_ms = self._port.now_ms()
        elif kind == 9 and len(body) == 2 + self._topic_count:
            self._on_suback(body)
        elif first != 0xD0 or body:
            raise LinkError("unexpected packet", "protocol")

    def _on_connack(self, body: bytearray) -> None:
        if body[1]:
            raise LinkError("refused: code {}".format(body[1]), "refused")
        self.connected = True
        if not self._is_subscribed or (self._topic_count and not body[0] & 1):
            self._is_subscribed = False
            self._subscribe_id = 0
            self._subscribe_id = self._next_packet_id()
            self._send(encode_subscribe(self._subscribe_id, self._topics))
        self._window_ms = self._port.now_ms()
        for _, packet in self._window:
            packet[0] |= 8
            self._send(packet)

    def _on_suback(self, body: bytearray) -> None:
        if max(body[2:]) > 2:
            self.last_error = LinkError("subscription refused", "refused")
        elif body[0] << 8 | body[1] == self._subscribe_id:
            self._is_subscribed = True
            self._subscribe_id = 0

    def _on_publish(self, first: int, body: bytearray) -> None:
        topic, start, packet_id = decode_publish(first, body)
        try:
            payload = None if self._reader.oversized else bytes(memoryview(body)[start:])
        except MemoryError:
            payload = None
        if payload is None:
            # Acknowledged all the same: else it would come again for ever, and everything else would wait behind it.
            self.dropped += 1
        else:
            self._received.append((topic, payload))
        if packet_id:
            # After it was queued: a message lost between the two comes again.
            self._send(struct.pack(">BBH", 0x40, 2, packet_id))


def backoff_ms(attempts: int, random_below) -> int:  # type: ignore[no-untyped-def] # noqa: ANN001 - a callable
    """The pause after `attempts` (0 or more) failed ones in a row: 0.5 s doubling to 60 s, half of it random.

    The random half keeps a street full of piles from knocking all at once when its broker comes back.
    """
    most = min(BACKOFF_MAX_MS, BACKOFF_MIN_MS << min(attempts, 7))
    pause: int = most // 2 + random_below(most // 2 + 1)
    return pause
