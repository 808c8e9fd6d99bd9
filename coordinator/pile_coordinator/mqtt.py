"""One MQTT 3.1.1 connection of a coordinator or wallet: paho, QoS 1, a persistent session, a bounded queue.

A full queue blocks the network thread instead of dropping: the broker then keeps what is sent, which is its job.
"""

import queue
import ssl
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_shared.errors import ConfigError, LinkError
from pile_shared.topics import own_client_id

MAX_QUEUED = 10_000  # messages taken from the broker and not yet looked at: a block's worth at the highest rate
MAX_QUEUED_BYTES = 32 << 20  # of them: a batch of a verify worker has 60 kB
MAX_MESSAGE_BYTES = 16 << 20  # of an answer; an order certificate of a week is 2 MB
MAX_INFLIGHT = 200
MAX_UNSENT = 50_000  # messages the broker has not taken: some 50 MB; later ones are dropped, and asked for again
_FULL_PAUSE_S = 0.01  # while the queue is full the broker waits with us


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the authority that vouches for the broker; our certificate and its key, if the broker wants to see one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer to a broker whose certificate is of this authority and names the host that we asked for.

        Raises:
            ConfigError: a file is missing, unreadable or no PEM, the key is not the certificate's, or others can read it.
        """
        if (self.certificate is None) is not (self.key is None):
            raise ConfigError("mqtt.tls needs cert and key, or neither: one is of no use without the other")
        if self.key is not None and self.key.exists() and self.key.stat().st_mode & 0o077:
            raise ConfigError(f"{self.key} can be read by others; run: chmod 600 {self.key}")
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # never asks on a terminal
        except (OSError, ValueError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path is not None)
            raise ConfigError(f"mqtt.tls: expected PEM files that belong together ({files}): {error}") from error
        return context

    def own_client_id(self, client_id: str) -> str:
        """The client id of a connection that nobody is to take over: `topics.own_client_id`. Without a certificate the same.

        Raises:
            ConfigError: the certificate cannot be read.
        """
        if self.certificate is None:
            return client_id
        try:
            return own_client_id(client_id, ssl.PEM_cert_to_DER_cert(self.certificate.read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"mqtt.tls: expected a PEM file ({self.certificate}): {error}") from error


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it; without `tls` whoever is on the way reads along."""

    host: str
    port: int
    username: str = ""
    password: str = ""
    keepalive_s: int = 30
    tls: Tls | None = None


class Kept(bytes):
    """The payload of a retained message: the broker has kept it since before we subscribed."""


RECONNECTED = b"reconnected"  # of a message without a topic: what was retained comes again, or was lost


class Connection:
    """A connection that keeps itself up; messages are taken with `get`."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        topics: list[str],
        *,
        persistent: bool = True,
        watched: tuple[str, ...] = (),
        unwanted: tuple[str, ...] = (),
        will: str = "",
        tells: bool = False,
    ) -> None:
        """Start connecting to `broker` and subscribing to `topics`; ConfigError for TLS files that are of no use.

        Never raises for a broker that is away.

        Args:
            broker: where to connect.
            client_id: who we are.
            topics: what we must hear, with QoS 1.
            persistent: the broker keeps `topics`' messages while we are away.
            watched: what we would like to hear while we are there, with QoS 0; said to be there before the others.
            unwanted: what the broker may still send, by a subscription of an earlier process, and should not.
            will: the topic of a retained message (`announce`) that the broker takes away when we go without a word.
            tells: each time that we are connected, with a message RECONNECTED of no topic; with a will always.
        """
        self._queue: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._heard_bytes = self._taken_bytes = 0  # ever: each is counted by one thread
        self._topics = [*((topic, 0) for topic in watched), *((topic, 1) for topic in topics)]
        self._unwanted = set(unwanted)
        self._announced = b""
        self._will = will
        self._tells = tells or bool(will)
        self._subscribed = threading.Event()
        self._closing = threading.Event()
        self.last_error = "not connected yet"
        context = broker.tls.context() if broker.tls is not None else None
        if persistent and broker.tls is not None:
            client_id = broker.tls.own_client_id(client_id)
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=not persistent, protocol=paho.MQTTv311
        )
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if context is not None:
            client.tls_set_context(context)
        if will:
            client.will_set(will, b"", qos=1, retain=True)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_UNSENT)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._acknowledged
        client.on_message = self._received
        client.on_connect_fail = self._failed
        self._client = client
        client.connect_async(broker.host, broker.port, broker.keepalive_s)
        client.loop_start()

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.last_error = f"refused by the broker: {reason}"
            return
        if self._tells:
            self._heard_bytes += len(RECONNECTED)
            self._queue.put(("", RECONNECTED))
        if self._unwanted:
            client.unsubscribe(sorted(self._unwanted))
        if self._topics:
            client.subscribe(self._topics)
        if self._announced:
            self.publish(self._will, self._announced, retained=True)

    def _acknowledged(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self.last_error = "the broker's access list refuses our topics"
            return
        self._subscribed.set()

    def _failed(self, _client: paho.Client, _data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles what went wrong
        self.last_error = f"no connection to the broker ({error})" if error else "no connection to the broker"

    def _disconnected(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._subscribed.clear()
        self.last_error = f"connection lost: {reason}"

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        while self._queue.qsize() >= MAX_QUEUED or self._heard_bytes - self._taken_bytes > MAX_QUEUED_BYTES:
            if self._closing.wait(_FULL_PAUSE_S):
                return  # we are leaving: it is sent again by whoever hears no answer
        self._heard_bytes += len(message.payload)
        self._queue.put((message.topic, Kept(message.payload) if message.retain else bytes(message.payload)))

    def subscribe(self, topic: str) -> None:
        """Hear this too from now on, with QoS 1."""
        self._unwanted.discard(topic)
        self._topics = [*self._topics, (topic, 1)]
        if self._client.is_connected():  # else it is done then
            self._client.subscribe(topic, 1)

    def unsubscribe(self, topic: str) -> None:
        """Do not hear this any more."""
        self._unwanted.add(topic)
        self._topics = [(name, qos) for name, qos in self._topics if name != topic]
        if self._client.is_connected():
            self._client.unsubscribe(topic)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has taken our subscriptions, and has not gone since."""
        return self._subscribed.is_set()

    def wait_connected(self, timeout_s: float) -> None:
        """Return once subscribed; LinkError with the last error after `timeout_s`."""
        if not self._subscribed.wait(timeout_s):
            raise LinkError(f"{self.last_error}; is the broker running and its address right?")

    def get(self, timeout_s: float) -> tuple[str, bytes] | None:
        """The next (topic, payload), or None after `timeout_s`."""
        try:
            message = self._queue.get_nowait() if timeout_s <= 0 else self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._taken_bytes += len(message[1])
        return message

    def take(self, timeout_s: float, most: int) -> list[tuple[str, bytes]]:
        """Up to `most` messages; none if none came within `timeout_s`."""
        first = self.get(timeout_s)
        messages = [] if first is None else [first]
        while messages and len(messages) < most and (message := self.get(0)) is not None:
            messages.append(message)
        return messages

    def publish(self, topic: str, payload: bytes, retained: bool = False) -> None:
        """Send with QoS 1; paho keeps it, bounded, until the broker has it, and a broker keeps the last retained one."""
        self._client.publish(topic, payload, qos=1, retain=retained)

    def announce(self, payload: bytes) -> None:
        """Leave a message at the broker, on the topic of the will, for as long as we are connected, and again each time."""
        self._announced = payload
        if self._client.is_connected():  # else it is said then
            self.publish(self._will, payload, retained=True)

    def wake(self) -> None:
        """Make a `get` or `take` that waits return at once, with a message of no topic. May be called from any thread."""
        self._queue.put(("", b""))

    def drain(self, timeout_s: float) -> None:
        """Return once the broker has everything that was published; LinkError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._client._out_messages:  # noqa: SLF001 - paho has no other way to ask
            if time.monotonic() > deadline:
                raise LinkError(f"{len(self._client._out_messages)} messages were not taken by the broker")  # noqa: SLF001
            time.sleep(0.01)

    def close(self) -> None:
        """Disconnect and stop."""
        self._closing.set()
        if self._announced:
            self.publish(self._will, b"", retained=True)  # a broker keeps the will of who says goodbye to itself
        self._client.disconnect()
        self._client.loop_stop()
