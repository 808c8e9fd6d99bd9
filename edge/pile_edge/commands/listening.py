"""What an installer hears of a pile on the broker: signed proofs, its status, and what it wants of an update. CPython only."""

from __future__ import annotations

import queue
import ssl
import time
from typing import TYPE_CHECKING, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_shared.errors import ConfigError, LinkError, PilechainError
from pile_shared.platform import random_bytes
from pile_shared.proof import Proof, open_proof
from pile_shared.topics import parse, pile_topic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CONNECT_SECONDS = 15
EVERY_PILE = "+"
_MAX_HEARD = 1000  # messages not yet looked at: a pile sends a few a minute, and what is lost comes again
CHECK_BROKER = (
    "is the broker running and its address right? may this user subscribe? (try `mosquitto_sub` with the same values)"
)


class Ear:
    """A connection of an installer's own, confined to one pile's topics, or with EVERY_PILE to those of all."""

    def __init__(self, spec: dict[str, object], folder: Path, chain_id: str, pile_id: str, kinds: list[str]) -> None:
        """Take the pile's own `mqtt` section; TLS files (PEM) are relative to `folder`.

        Raises:
            ConfigError: TLS files that cannot be used here.
        """
        self.chain_id, self.pile_id = chain_id, pile_id
        self._spec = spec
        self._heard: queue.Queue[tuple[str, bytes]] = queue.Queue(_MAX_HEARD)
        self._ready: queue.Queue[str] = queue.Queue()
        self._topics = [pile_topic(chain_id, pile_id, kind) for kind in kinds]
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"installer-{random_bytes(6).hex()}", protocol=paho.MQTTv311
        )
        if "username" in spec:
            self._client.username_pw_set(str(spec["username"]), str(spec.get("password", "")))
        if isinstance(tls := spec.get("tls"), dict):
            files = {key: str(folder / str(path)) for key, path in tls.items()}
            try:
                self._client.tls_set(files["ca"], files.get("cert"), files.get("key"))
            except (OSError, ValueError, ssl.SSLError) as error:
                raise ConfigError(f"mqtt.tls: this PC needs the PEM files to listen: {error}") from error
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda *_rest: self._ready.put("")
        self._client.on_message = self._received

    def __enter__(self) -> Self:
        """Connect and subscribe; LinkError says what to check."""
        host, port = str(self._spec["host"]), int(str(self._spec["port"]))
        try:
            self._client.connect(host, port)
        except (OSError, ValueError) as error:
            raise LinkError(f"no connection to the broker {host}:{port}: {error}; {CHECK_BROKER}", "connect") from error
        self._client.loop_start()
        try:
            problem = self._ready.get(timeout=_CONNECT_SECONDS)
        except queue.Empty:
            problem = "it does not answer"
        if problem:
            self.__exit__()
            raise LinkError(f"broker {host}:{port}: {problem}; {CHECK_BROKER}", "connect")
        return self

    def __exit__(self, *_exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def hear(self, seconds: float) -> tuple[str, bytes] | None:
        """The next (kind, payload), or None after `seconds`."""
        heard = self.hear_any(seconds)
        return None if heard is None else heard[1:]

    def hear_any(self, seconds: float) -> tuple[str, str, bytes] | None:
        """The next (pile, kind, payload), or None after `seconds`."""
        try:
            topic, payload = self._heard.get(timeout=max(seconds, 0))
        except queue.Empty:
            return None
        _, _, pile_id, kind = parse(topic)
        return pile_id, kind, payload

    def say(self, kind: str, payload: bytes, pile_id: str = "") -> None:
        """Publish to the pile, or to another one, at QoS 1."""
        self._client.publish(pile_topic(self.chain_id, pile_id or self.pile_id, kind), payload, qos=1)

    def first_proof(self, public: bytes, seconds: float, on_other: Callable[[str], None]) -> Proof:
        """The first proof that `public` signed for this chain.

        Args:
            public: The key the pile says is its own.
            seconds: To wait.
            on_other: Told about proofs that are not by this key.

        Raises:
            LinkError: `silent`, none came; the message says what to check.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            heard = self.hear(left)
            if heard is None or heard[0] != "proof":
                continue
            try:
                return open_proof(heard[1], public, self.chain_id)
            except PilechainError as error:
                on_other(f"a proof that is not by this pile's key: {error}")
        raise LinkError(
            f"no signed proof of {self.pile_id} in {seconds:g} s; does the pile reach the broker from where it is (wireless"
            " network, its password, firewall)? Is chain_id right? What the board says: `mpremote connect PORT repl`",
            "silent",
        )

    def _connected(self, client: paho.Client, _data: object, _flags: object, reason: object, _more: object) -> None:
        if getattr(reason, "is_failure", False):
            self._ready.put(f"refuses us: {reason}")
            return
        client.subscribe([(topic, 1) for topic in self._topics])

    def _received(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        try:
            self._heard.put_nowait((message.topic, bytes(message.payload)))
        except queue.Full:
            return  # nobody is listening any more; what matters comes again
