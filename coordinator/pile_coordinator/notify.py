"""Telling systemd that a service is up: sd_notify(3), in a few lines instead of a library."""

import contextlib
import os
import socket


def tell_systemd(words: str) -> None:
    """Say something like READY=1 to who started this process; nothing happens where that was not systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.sendto(words.encode(), "\0" + address[1:] if address.startswith("@") else address)
