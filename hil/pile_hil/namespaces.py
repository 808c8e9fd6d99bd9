"""Network namespaces that can be cut apart: a small network of its own, for nodes that must lose each other.

Nothing of it is in the machine's own network, where any change of an interface ends what a browser has under way.
"""

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import Self

from pile_hil.site import SiteError

_CLONE_NEWNET = 0x4000_0000  # linux/sched.h
_HERE = Path("/proc/thread-self/ns/net")
_NAMED = Path("/run/netns")  # where ip-netns(8) keeps them


class Namespaces:
    """So many namespaces on a bridge that is in one more. Use as a context manager; needs root.

    Within it the calling thread is in the namespace of the bridge, and with it what it starts, threads and processes; what
    other threads do goes on where they are.
    """

    def __init__(self, count: int) -> None:
        """Plan names and addresses; the names are of the process id, so that two of these do not meet."""
        tag = f"{os.getpid():x}"
        self.broker_host = "10.77.0.254"
        self.hosts = tuple(f"10.77.0.{i + 1}" for i in range(count))
        self.names = tuple(f"pile-{tag}-{i}" for i in range(count))
        self._hub = f"pile-{tag}-hub"
        self._links = tuple(f"node-{i}" for i in range(count))
        self._bridges = ("together", "apart")  # the second one is for those who are cut off
        self._outside: int | None = None

    def __enter__(self) -> Self:
        """Make them.

        Raises:
            SiteError: this machine does not allow it.
        """
        try:
            for name in (self._hub, *self.names):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            for number, bridge in enumerate(self._bridges):
                # An address of its own, else it has the lowest of those that are on it, and nobody finds it after a change.
                self._hub_link("add", bridge, "address", f"02:00:00:00:00:{number:02x}", "type", "bridge")
                self._hub_link("set", bridge, "up")
            _ip("-n", self._hub, "addr", "add", f"{self.broker_host}/24", "dev", self._bridges[0])
            for name, link, host in zip(self.names, self._links, self.hosts, strict=True):
                self._hub_link("add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
                self._hub_link("set", link, "master", self._bridges[0], "up")
                for words in (("addr", "add", f"{host}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                    _ip("-n", name, *words)
            outside = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            self._outside = outside
            _enter(_NAMED / self._hub)
        except SiteError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Bring the thread back and remove them; what is not there is passed over."""
        if self._outside is not None:
            _set_namespace(self._outside)
            os.close(self._outside)
            self._outside = None
        for name in (*self.names, self._hub):  # and the links and bridges in them
            with contextlib.suppress(SiteError):
                _ip("netns", "del", name)

    def prefix(self, number: int) -> list[str]:
        """The words before a command that runs in a namespace."""
        return ["ip", "netns", "exec", self.names[number]]

    def cut_off(self, *numbers: int) -> None:
        """Put these on a bridge of their own: they hear each other, and nobody else, not even the broker."""
        for number in numbers:
            self._hub_link("set", self._links[number], "master", self._bridges[1])

    def heal(self) -> None:
        """Put everybody on one bridge again."""
        for link in self._links:
            self._hub_link("set", link, "master", self._bridges[0])

    def _hub_link(self, *words: str) -> None:
        _ip("-n", self._hub, "link", *words)


def has_namespaces() -> bool:
    """Whether this user on this machine may make them."""
    try:
        with Namespaces(1):
            return True
    except SiteError:
        return False


def _enter(path: Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from error
    try:
        _set_namespace(number)
    finally:
        os.close(number)


def _set_namespace(number: int) -> None:
    """setns(2) for this thread; os.setns is there from Python 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(number, _CLONE_NEWNET):
        raise SiteError(f"setns: {os.strerror(ctypes.get_errno())}")


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - iproute2
    except OSError as error:
        raise SiteError(f"ip: {error}") from error
    if done.returncode:
        raise SiteError(f"ip {' '.join(words)}: {done.stderr.strip()}")
