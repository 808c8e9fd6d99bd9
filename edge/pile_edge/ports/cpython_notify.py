"""Telling systemd that the agent lives: sd_notify(3) and the service watchdog, in a few lines instead of a library."""

import os
import socket
import time

_BEAT_S = 1.0  # between two signs of life; a watchdog of less than two seconds would be none


class Notifier:
    """Speaks to the socket in NOTIFY_SOCKET; without one (not started by systemd) it is silent."""

    def __init__(self, address: str | None) -> None:
        """`address` is a path, or "@" and a name of the abstract kind (unix(7)); None for nobody."""
        self._address = "\0" + address[1:] if address is not None and address.startswith("@") else address
        self._socket = None if not address else socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._next_s = 0.0
        self._is_ready = False

    def alive(self) -> None:
        """One turn of the loop is done: say READY=1 once, then WATCHDOG=1, at most once a second."""
        now_s = time.monotonic()
        if self._socket is None or now_s < self._next_s:
            return
        self._next_s = now_s + _BEAT_S
        try:
            self._socket.sendto(b"WATCHDOG=1" if self._is_ready else b"READY=1\nWATCHDOG=1", self._address or "")
            self._is_ready = True
        except OSError:
            return  # systemd starts anew (its own update) or is gone: no reason to stop charging; said again in a second


notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
