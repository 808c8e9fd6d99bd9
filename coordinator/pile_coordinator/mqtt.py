"""One MQTT 3.1.1 connection of a coordinator or wallet: paho, QoS 1, a persistent session, a bounded queue.

A full queue blocks the network thread instead of dropping: the broker then keeps what is sent, which is its job.
"""

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_shared.errors import LinkError

MAX_QUEUED = 10_000  # messages taken from the broker and not yet looked at: a block's worth at the highest rate
MAX_MESSAGE_BYTES = 16 << 20  # of an answer; an order certificate of a week is 2 MB
MAX_INFLIGHT = 200
MAX_UNSENT = 50_000  # messages the broker has not taken: some 50 MB; later ones are dropped, and asked for again
_FULL_PAUSE_S = 0.01  # while the queue is full the broker waits with us


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it."""

    host: str
    port: int
    username: str = ""
    password: str = ""
    keepalive_s: int = 30


class Kept(bytes):
    """The payload of a retained message: the broker has kept it since before we subscribed."""


RECONNECTED = b"reconnected"  # of a message without a topic: what was retained comes again


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
        will: str = "",
    ) -> None:
        """Start connecting to `broker` and subscribing to `topics`; never raises for a broker that is away.

        Args:
            broker: where to connect.
            client_id: who we are.
            topics: what we must hear, with QoS 1.
            persistent: the broker keeps `topics`' messages while we are away.
            watched: what we would like to hear while we are there, with QoS 0; said to be there before the others.
            will: the topic of a retained message (`announce`) that the broker takes away when we go without a word.
        """
        self._queue: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._topics = [*((topic, 0) for topic in watched), *((topic, 1) for topic in topics)]
        self._announced = b""
        self._will = will
        self._subscribed = threading.Event()
        self._closing = threading.Event()
        self.last_error = "not connected yet"
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=not persistent, protocol=paho.MQTTv311
        )
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
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
        if self._will:
            self._queue.put(("", RECONNECTED))
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
        self.last_error = "no connection to the broker"

    def _disconnected(self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._subscribed.clear()
        self.last_error = f"connection lost: {reason}"

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        while self._queue.qsize() >= MAX_QUEUED:
            if self._closing.wait(_FULL_PAUSE_S):
                return  # we are leaving: it is sent again by whoever hears no answer
        self._queue.put((message.topic, Kept(message.payload) if message.retain else bytes(message.payload)))

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
            return self._queue.get_nowait()
        except queue.Empty:
            pass
        try:
            return self._queue.get(timeout=timeout_s) if timeout_s > 0 else None
        except queue.Empty:
            return None

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
