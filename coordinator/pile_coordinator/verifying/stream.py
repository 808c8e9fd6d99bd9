"""One MQTT 3.1.1 connection as a verify worker needs it: what came, many messages at a time, and acknowledged by hand.

paho hands out one message at a time, for 25 us each, and acknowledges it before anything has become of it. Here a read takes
what the socket has, and one write acknowledges hundreds. Clauses in brackets are those of MQTT 3.1.1, OASIS 2014-10-29.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from pile_coordinator.mqtt import Broker
from pile_shared.errors import LinkError

_READ_BYTES = 256 << 10  # taken from the socket at once
_RECORD_BYTES = 1024  # read from TLS at once: mostly a record is one message, and larger pieces cost more to allocate
MAX_PACKET_BYTES = 1 << 20  # the longest is a list of keys, 16 kB each for a million piles
ANSWER_S = 10.0  # for a connection, its answer, a subscription, a write
MAX_IDS = 65_535
_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _UNSUBACK = 2, 3, 4, 9, 11
_REFUSED = 0x80  # a SUBACK's code for "no" [3.9.3]


class Message(NamedTuple):
    """A PUBLISH; `packet_id` is 0 at QoS 0, else it wants to be acknowledged."""

    topic: bytes
    payload: bytes
    packet_id: int


class Received(NamedTuple):
    """What came: messages, and the packet ids that the broker acknowledged."""

    messages: list[Message]
    acknowledged: list[int]


def packet(first: int, *parts: bytes) -> bytes:
    """A packet of these parts [2.2]."""
    length = sum(map(len, parts))
    head = bytearray([first])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return b"".join((head, *parts))


def text(value: str) -> bytes:
    """A string as MQTT writes it [1.5.3]."""
    data = value.encode()
    return struct.pack(">H", len(data)) + data


def publish_packet(topic: str, payload: bytes, packet_id: int, *, retain: bool = False) -> bytes:
    """A PUBLISH at QoS 1 [3.3]."""
    return packet(0x32 | retain, text(topic), struct.pack(">H", packet_id), payload)


def split(data: bytes | bytearray) -> tuple[list[tuple[int, bytes]], int]:
    """The whole packets at the beginning of `data` as (first byte, rest), and how many bytes they take.

    Raises:
        LinkError: a packet is longer than MAX_PACKET_BYTES, or its length has more than four bytes.
    """
    packets: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while at + 2 <= end:
        length, start, shift = data[at + 1], at + 2, 7
        while length >> shift:  # the last byte said that another follows
            if start == end:
                return packets, at
            if shift > 21:
                raise LinkError("a packet's length has more than four bytes", "protocol")
            length += (data[start] - 1) << shift  # and takes back that bit
            start, shift = start + 1, shift + 7
        if length > MAX_PACKET_BYTES:
            raise LinkError(f"a packet of {length} bytes", "protocol")
        if start + length > end:
            break
        packets.append((data[at], bytes(data[start : start + length])))
        at = start + length
    return packets, at


class Stream:
    """A connection. Used by one thread; every fault is a LinkError, after which it is of no use."""

    def __init__(
        self, broker: Broker, client_id: str, *, clean: bool = True, context: ssl.SSLContext | None = None
    ) -> None:
        """Connect, and wait for the broker's consent. ConfigError: the files of TLS are of no use.

        Args:
            broker: where to connect.
            client_id: who we are.
            clean: without a session that outlasts the connection.
            context: that of `broker.tls`, by who has made it before.
        """
        if context is None and broker.tls is not None:
            context = broker.tls.context()
        try:
            self._socket = socket.create_connection((broker.host, broker.port), ANSWER_S)
        except OSError as error:
            raise LinkError(f"no connection to the broker: {error}", "away") from error
        self._poll = select.poll()  # `select` knows no more than 1024 files
        self._poll.register(self._socket, select.POLLIN)
        self._left = bytearray()
        self._kept: list[tuple[int, bytes]] = []  # packets that came with an answer
        self._keepalive_s = broker.keepalive_s
        self._sent_s = self._heard_s = time.monotonic()
        self._packet_id = 0
        self.is_closed = False
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = _Tls(self._socket, context, broker.host) if context else None
            self._introduce(broker, client_id, clean=clean)
        except (OSError, LinkError) as error:
            self._socket.close()
            raise LinkError(f"no connection to the broker: {error}", "away") from error

    def _introduce(self, broker: Broker, client_id: str, *, clean: bool) -> None:
        flags, tail = 2 * clean, text(client_id)
        for value, flag in ((broker.username, 0x80), (broker.password, 0x40)):
            if value:
                flags |= flag
                tail += text(value)
        self.send(packet(0x10, b"\x00\x04MQTT\x04", struct.pack(">BH", flags, broker.keepalive_s), tail))
        answer = self._await(_CONNACK)
        if answer[1:2] != b"\x00":
            raise LinkError(f"the broker refuses us, with code {answer[1:2].hex()}", "refused")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Of the socket, for `poll`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Say goodbye if that is possible, and close."""
        if not self.is_closed:
            with suppress(LinkError):  # then it is closed all the same
                self.send(packet(0xE0))
            self.is_closed = True
            self._socket.close()

    def next_id(self) -> int:
        """A packet id, the next in turn."""
        self._packet_id = self._packet_id % MAX_IDS + 1
        return self._packet_id

    def subscribe(self, *topics: str) -> None:
        """Subscribe at QoS 1, and wait for the broker's consent."""
        packet_id = struct.pack(">H", self.next_id())
        self.send(packet(0x82, packet_id, *(text(topic) + b"\x01" for topic in topics)))
        answer = self._await(_SUBACK)
        if any(code & _REFUSED for code in answer[2:]):
            raise LinkError("the broker's access list refuses our topics", "refused")

    def unsubscribe(self, topic: str) -> None:
        """Take a subscription back, and wait for the broker's consent; what it sent before is still to be received."""
        self.send(packet(0xA2, struct.pack(">H", self.next_id()), text(topic)))
        self._await(_UNSUBACK)

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """PUBACK messages, all in one write [3.4]."""
        if packets := [b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids]:
            self.send(b"".join(packets))

    def send(self, data: bytes) -> None:
        """Write packets."""
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.sendall(self._tls.seal(data) if self._tls else data)
        except OSError as error:
            raise LinkError(f"connection lost: {error}", "closed") from error
        self._sent_s = time.monotonic()

    def receive(self, wait_s: float) -> Received:
        """What there is, after waiting at most `wait_s` for some of it. Call it at least twice per keepalive."""
        self._keep_alive()
        received = Received([], [])
        for first, body in self._packets(wait_s):
            kind = first >> 4
            if kind == _PUBLISH:
                received.messages.append(_message(first, body))
            elif kind == _PUBACK:
                received.acknowledged.append(int.from_bytes(body, "big"))
        return received

    def _keep_alive(self) -> None:
        now_s = time.monotonic()
        if now_s - self._heard_s > 1.5 * self._keepalive_s:
            raise LinkError("the broker is silent", "closed")
        if now_s - min(self._sent_s, self._heard_s) > self._keepalive_s / 2:
            self.send(packet(0xC0))

    def _await(self, kind: int) -> bytes:
        """The next packet of a kind; others that come before or with it are kept for `receive`."""
        deadline_s, others = time.monotonic() + ANSWER_S, list[tuple[int, bytes]]()
        while time.monotonic() < deadline_s:
            others += self._packets(deadline_s - time.monotonic())
            for place, (first, body) in enumerate(others):
                if first >> 4 == kind:
                    del others[place]
                    self._kept = others
                    return body
        raise LinkError("the broker does not answer", "closed")

    def _packets(self, wait_s: float) -> list[tuple[int, bytes]]:
        kept, self._kept = self._kept, []
        wait_s = 0.0 if kept else wait_s
        try:
            if not self._poll.poll(max(0.0, 1000 * wait_s)):
                fresh = b""
            else:
                self._socket.settimeout(ANSWER_S)
                fresh = self._socket.recv(_READ_BYTES)
                if not fresh:
                    raise LinkError("closed by the broker", "closed")
                self._heard_s = time.monotonic()
                fresh = self._tls.open(fresh) if self._tls else fresh
        except OSError as error:
            raise LinkError(f"connection lost: {error}", "closed") from error
        self._left += fresh
        packets, taken = split(self._left)
        del self._left[:taken]
        return kept + packets


class _Tls:
    """TLS beside the socket, not around it: one read of the socket holds hundreds of records."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        while True:
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self._out.read())
                fresh = sock.recv(_READ_BYTES)
                if not fresh:
                    raise LinkError("closed by the broker while TLS was agreed", "closed") from None
                self._in.write(fresh)
        sock.sendall(self._out.read())

    def seal(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._out.read()

    def open(self, data: bytes) -> bytes:
        self._in.write(data)
        plain = []
        try:
            while part := self._object.read(_RECORD_BYTES):
                plain.append(part)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        return b"".join(plain)


def _message(first: int, body: bytes) -> Message:
    start = 2 + int.from_bytes(body[:2], "big")
    if not first & 6:
        return Message(body[2:start], body[start:], 0)
    return Message(body[2:start], body[start + 2 :], int.from_bytes(body[start : start + 2], "big"))
