"""The MQTT link on MicroPython: sockets, TLS and the clock for `pile_edge.mqtt.Client`. The interface is there.

TLS checks the broker's certificate against `ca` and the host name, its dates only where the firmware's mbedTLS has a
clock: set the time first. Certificates and key are DER files.
"""

import os
import select
import socket
import time

from pile_edge.mqtt import Client, check_spec
from pile_shared.errors import ConfigError, LinkError

_CONNECT_TIMEOUT_S = 10
_WRITE_TIMEOUT_MS = 10_000


class _Transport:
    def __init__(self, sock) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - plain or TLS socket
        self._sock = sock
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    def wait(self, timeout_ms: int) -> bool:
        return bool(self._poller.poll(timeout_ms))

    def read(self, limit: int) -> bytes | None:
        data: bytes | None = self._sock.read(limit)
        return data

    def write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            count = self._sock.write(view)
            if count:
                view = view[count:]
                continue
            self._poller.modify(self._sock, select.POLLOUT)
            is_ready = self._poller.poll(_WRITE_TIMEOUT_MS)
            self._poller.modify(self._sock, select.POLLIN)
            if not is_ready:
                raise LinkError("the broker takes no data", "timeout")

    def close(self) -> None:
        self._sock.close()


class _Port:
    def __init__(self, spec: dict) -> None:  # type: ignore[type-arg]
        self._host, self._port = spec["host"], spec["port"]
        self._tls = _tls_context(spec["tls"]) if "tls" in spec else None
        self._ticks_ms = time.ticks_ms()  # type: ignore[attr-defined]
        self._now_ms = 0

    def connect(self) -> _Transport:
        address = socket.getaddrinfo(self._host, self._port, 0, socket.SOCK_STREAM)[0][-1]
        sock = socket.socket()
        try:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(address)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            sock.setblocking(False)
        except (OSError, ValueError, MemoryError) as error:
            sock.close()
            raise LinkError("cannot connect: " + repr(error), "connect")
        return _Transport(sock)

    def now_ms(self) -> int:
        # ticks_ms() wraps after 12 days on a board; poll() comes here far more often than that.
        ticks_ms = time.ticks_ms()  # type: ignore[attr-defined]
        self._now_ms += time.ticks_diff(ticks_ms, self._ticks_ms)  # type: ignore[attr-defined]
        self._ticks_ms = ticks_ms
        return self._now_ms

    def sleep_ms(self, pause_ms: int) -> None:
        time.sleep_ms(pause_ms)  # type: ignore[attr-defined]

    def random_below(self, limit: int) -> int:
        return int.from_bytes(os.urandom(4), "big") % limit


def _tls_context(files: dict):  # type: ignore[type-arg, no-untyped-def] # noqa: ANN202 - a type CPython has not
    # Not `ssl`, which is a module in Python around this one and takes 1 kB; imported here, because only TLS needs it.
    import tls  # type: ignore[import-not-found]

    try:
        loaded = {}
        for name, path in files.items():
            with open(path, "rb") as file:
                loaded[name] = file.read()
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        context.load_verify_locations(loaded["ca"])
        if "cert" in loaded:
            context.load_cert_chain(loaded["cert"], loaded["key"])
    except (OSError, ValueError) as error:
        raise ConfigError("link.tls: need DER files: " + repr(error))
    return context


class Link(Client):
    """See pile_edge.mqtt."""

    def __init__(
        self,
        spec: dict,  # type: ignore[type-arg]
        *,
        client_id: str,
        subscriptions: list[str],
        will: tuple[str, bytes] | None = None,
    ) -> None:
        check_spec(spec)
        port = _Port(spec)
        if "cert" in spec.get("tls", ()):
            from pile_shared.topics import own_client_id  # what only TLS needs

            with open(spec["tls"]["cert"], "rb") as file:
                client_id = own_client_id(client_id, file.read())
        super().__init__(port, spec, client_id=client_id, subscriptions=subscriptions, will=will)
