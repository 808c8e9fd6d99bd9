"""The MQTT link on CPython: paho-mqtt, its network loop in its own thread. The interface is in pile_edge.mqtt.

paho assembles an incoming message before anybody can judge its size; messages over 8 KiB are dropped after that, so
set the broker's own limit (mosquitto: `message_size_limit`) where memory is short.
"""

import os
import socket
import ssl
import threading
import time
from collections import deque

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pile_edge.mqtt import ACK_TIMEOUT_MS, MESSAGE_MAX_BYTES, TOPIC_MAX_BYTES, backoff_ms, check_spec
from pile_shared.errors import BoundsError, ConfigError, LinkError
from pile_shared.topics import own_client_id

WINDOW = 20  # enough to keep a fast line busy; each message is at most 8 KiB
QUEUE_MAX = 100  # messages received and not yet polled; at 8 KiB each under 1 MB
_STABLE_S = 10  # a connection that held so long starts the backoff anew


class _Client(paho.Client):
    """A paho client whose thread outlives whatever paho raises on bytes it cannot parse."""

    def __init__(self, client_id: str, link: "Link") -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False, protocol=paho.MQTTv311)
        self._link = link

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except Exception as error:  # noqa: BLE001 - recorded, and whatever it was must not end the thread
                if self._link.on_loop_error(error):
                    return MQTTErrorCode.MQTT_ERR_SUCCESS


class Link:
    """See pile_edge.mqtt."""

    def __init__(
        self,
        spec: dict,  # type: ignore[type-arg] # decoded JSON
        *,
        client_id: str,
        subscriptions: list[str],
        will: tuple[str, bytes] | None = None,
    ) -> None:
        """Check the spec; the first poll() starts the thread that connects.

        Raises:
            ConfigError: The spec is unusable, or a TLS file is (PEM is needed here).
        """
        check_spec(spec)
        self._spec = spec
        self._subscriptions = subscriptions
        self._changed = threading.Condition()
        self._received: deque[tuple[str, bytes]] = deque()
        self._taken = 0
        self._acknowledged = 0
        self._window_s = self._connected_s = 0.0
        self._attempts = 0
        self._is_subscribed = not subscriptions
        self._is_started = False
        self._closing = threading.Event()
        self.connected = False
        self.dropped = 0
        self.last_error: Exception | None = None
        self._client = self._make_client(client_id, will)

    @property
    def inflight(self) -> int:
        """Messages taken and not yet acknowledged, 0 to 20."""
        return self._taken - self._acknowledged

    def poll(self, timeout_ms: int) -> list[tuple[str, bytes]]:
        """Wait up to `timeout_ms` for messages; returns all that came."""
        if not self._is_started and not self._closing.is_set():
            self._is_started = True
            self._client.connect_async(self._spec["host"], self._spec["port"], self._spec.get("keepalive_s", 60))
            self._client.loop_start()
        self._break_stalled_connection()
        with self._changed:
            self._changed.wait_for(lambda: self._received, timeout_ms / 1000)
            received = list(self._received)
            self._received.clear()
        return received

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Take a message for delivery at QoS 1; False if it cannot be taken now.

        Raises:
            BoundsError: Topic over 256 bytes or payload over 8 KiB.
        """
        if len(payload) > MESSAGE_MAX_BYTES or not 0 < len(topic.encode()) <= TOPIC_MAX_BYTES:
            raise BoundsError("topic of 1 to 256 bytes and payload of at most 8192 bytes")
        with self._changed:
            if not self.connected or self.inflight >= WINDOW:
                return False
            if self.inflight == 0:
                self._window_s = time.monotonic()
            self._taken += 1  # before paho may acknowledge it from its thread
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            with self._changed:
                self._taken -= 1
            return False
        # Any other result, a lost connection included: paho holds the message and sends it again.
        return True

    def close(self) -> None:
        """Say goodbye, so that the broker does not publish the will, and stop the thread."""
        self._closing.set()
        self._client.disconnect()
        self._client.loop_stop()
        self.connected = False

    def _make_client(self, client_id: str, will: tuple[str, bytes] | None) -> _Client:
        context, client_id = self._tls(client_id)
        client = _Client(client_id, self)
        client.max_inflight_messages_set(WINDOW)
        client.max_queued_messages_set(WINDOW)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        if "username" in self._spec:
            client.username_pw_set(self._spec["username"], self._spec.get("password"))
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        if context is not None:
            client.tls_set_context(context)
        return client

    def _tls(self, client_id: str) -> tuple[ssl.SSLContext | None, str]:
        """What TLS needs, and the client id behind it."""
        files = self._spec.get("tls")
        if files is None:
            return None, client_id
        try:
            context = ssl.create_default_context(cafile=files["ca"])
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if "cert" in files:
                context.load_cert_chain(files["cert"], files["key"])
                with open(files["cert"]) as file:
                    client_id = own_client_id(client_id, ssl.PEM_cert_to_DER_cert(file.read()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"link.tls: need PEM files: {error!r}") from error
        return context, client_id

    def _break_stalled_connection(self) -> None:
        """A broker that answers pings but acknowledges nothing is left and tried anew."""
        with self._changed:
            is_stalled = self.inflight and time.monotonic() - self._window_s > ACK_TIMEOUT_MS / 1000
        sock = self._client.socket()
        if self.connected and is_stalled and isinstance(sock, socket.socket):
            self.last_error = LinkError("no PUBACK", "timeout")
            try:
                sock.shutdown(socket.SHUT_RDWR)  # paho's thread sees the end of the stream and reconnects
            except OSError as error:
                self.last_error = error

    # --- called from paho's thread

    def on_loop_error(self, error: Exception) -> bool:
        """Record what ended paho's loop and wait before it starts again; True when closing."""
        self._lose(error)
        pause_ms = backoff_ms(self._attempts, _random_below)
        self._attempts += 1
        if self._closing.wait(pause_ms / 1000):
            return True
        self._client.connect_async(self._spec["host"], self._spec["port"], self._spec.get("keepalive_s", 60))
        return False

    def _on_connect(
        self, client: paho.Client, _data: object, flags: paho.ConnectFlags, reason: ReasonCode, _: Properties | None
    ) -> None:
        if reason.is_failure:
            self._lose(LinkError(f"broker refuses: {reason}", "refused"))
            return
        if self._subscriptions and not flags.session_present:
            self._is_subscribed = False
        if not self._is_subscribed:
            client.subscribe([(topic, 1) for topic in self._subscriptions])
        with self._changed:
            self._connected_s = self._window_s = time.monotonic()
            self.connected = True

    def _on_connect_fail(self, _client: paho.Client, _data: object) -> None:
        self._lose(LinkError("cannot connect", "connect"))
        self._set_pause()

    def _on_disconnect(
        self, _client: paho.Client, _data: object, _flags: object, reason: ReasonCode, _: Properties | None
    ) -> None:
        if self.connected and time.monotonic() - self._connected_s > _STABLE_S:
            self._attempts = 0
        was_refused = isinstance(self.last_error, LinkError) and self.last_error.code == "refused"
        if not self._closing.is_set() and (self.connected or not was_refused):
            self._lose(LinkError(f"connection lost: {reason}", "closed"))
        self.connected = False
        self._set_pause()

    def _lose(self, error: Exception) -> None:
        with self._changed:
            self.connected = False
            self.last_error = error

    def _set_pause(self) -> None:
        # paho waits its minimum first; it doubles without any jitter, so the next pause is set here each time.
        pause_s = backoff_ms(self._attempts, _random_below) / 1000
        self._attempts += 1
        self._client.reconnect_delay_set(pause_s, pause_s)  # type: ignore[arg-type] # it compares and sleeps, no more

    def _on_subscribe(
        self, _client: paho.Client, _data: object, _mid: int, reasons: list[ReasonCode], _: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self.last_error = LinkError("broker refuses a subscription", "refused")
        else:
            self._is_subscribed = True

    def _on_publish(
        self, _client: paho.Client, _data: object, _mid: int, _reason: ReasonCode, _: Properties | None
    ) -> None:
        with self._changed:
            self._acknowledged += 1
            self._window_s = time.monotonic()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        # paho acknowledges when this returns.
        with self._changed:
            if len(message.payload) > MESSAGE_MAX_BYTES:
                self.dropped += 1
                return
            if len(self._received) >= QUEUE_MAX:
                self._received.popleft()
                self.dropped += 1
            self._received.append((message.topic, bytes(message.payload)))
            self._changed.notify_all()


def _random_below(limit: int) -> int:
    return int.from_bytes(os.urandom(4), "big") % limit
