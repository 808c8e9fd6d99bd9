"""The port to CPython on Linux; its names are explained in ports/__init__.py."""

import ctypes
import hashlib
import time
from pathlib import Path

import pile_edge
import pile_shared
from pile_edge.ports.cpython_bus import open_bus
from pile_edge.ports.cpython_link import Link
from pile_edge.ports.cpython_notify import notifier
from pile_edge.ports.cpython_storage import Storage
from pile_edge.signers import open_signer
from pile_shared.certificate import Validator
from pile_shared.errors import PilechainError
from pile_shared.reading import TIME_INFORMATIVE, TIME_SYNCHRONISED

_TIMEX_BYTES = 512  # struct timex has 208 (64-bit) or 128; all zero: change nothing
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def wall_ms() -> int:
    """Unix milliseconds by the system's clock."""
    return time.time_ns() // 1_000_000


def ticks_ms() -> int:
    """Milliseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000_000


def ticks_diff(new: int, old: int) -> int:
    """Milliseconds from `old` to `new`."""
    return new - old


def time_status() -> int:
    """Synchronised if the kernel says so (adjtimex(2), whichever NTP client set it), else informative."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return TIME_SYNCHRONISED if 0 <= state < _TIME_ERROR else TIME_INFORMATIVE


def log(text: str) -> None:
    """One line to stdout, at once."""
    print(text, flush=True)


def collect() -> None:
    """CPython counts references; there is nothing to do."""


def alive() -> None:
    """Feed systemd's watchdog, if systemd started us."""
    notifier.alive()


def reported() -> None:
    """Nothing is on trial here: this pile's software comes from its operating system."""


def keep(_validators: list[Validator]) -> None:
    """OpenSSL needs no tables of the accounting nodes' keys."""


def take_offer(version: int, _message: bytes) -> None:
    """Refuse: PilechainError `no_slots`; an offer is for boards (docs/install.md, "Updates")."""
    raise PilechainError(f"offered version {version}, but this pile is updated by its operating system", "no_slots")


def firmware_hash() -> bytes:
    """SHA-256 over the sources of both packages, by path: the same for the same release, wherever it is installed."""
    digest = hashlib.sha256()
    for package in (pile_shared, pile_edge):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def open_storage(folder: str) -> Storage:
    """The journal's folder, created if needed."""
    return Storage(folder)


def open_link(section: dict[str, object], *, client_id: str, subscriptions: list[str], will: tuple[str, bytes]) -> Link:
    """The link of the `mqtt` section; connects when first polled."""
    return Link(section, client_id=client_id, subscriptions=subscriptions, will=will)


__all__ = [
    "alive",
    "collect",
    "firmware_hash",
    "keep",
    "log",
    "open_bus",
    "open_link",
    "open_signer",
    "open_storage",
    "reported",
    "take_offer",
    "ticks_diff",
    "ticks_ms",
    "time_status",
    "wall_ms",
]
