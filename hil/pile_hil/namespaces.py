"""Network namespaces that can be cut apart: a machine's own small network, for nodes that must lose each other."""

import contextlib
import os
import subprocess
from typing import Self

from pile_hil.site import SiteError


class Namespaces:
    """So many namespaces on a bridge. Use as a context manager; needs root."""

    def __init__(self, count: int) -> None:
        """Plan names and addresses from the process id, so that two of these do not meet."""
        tag = f"{os.getpid() % 0xFFFF:x}"
        subnet = f"10.77.{os.getpid() % 250}"
        self.broker_host = f"{subnet}.254"
        self.hosts = tuple(f"{subnet}.{i + 1}" for i in range(count))
        self.names = tuple(f"pile-{tag}-{i}" for i in range(count))
        self._links = tuple(f"pv{tag}-{i}" for i in range(count))
        self._bridges = (f"pb{tag}-0", f"pb{tag}-1")  # the second one is for those who are cut off

    def __enter__(self) -> Self:
        """Make them.

        Raises:
            SiteError: this machine does not allow it.
        """
        try:
            for bridge in self._bridges:
                _ip("link", "add", bridge, "type", "bridge")
                _ip("link", "set", bridge, "up")
            _ip("addr", "add", f"{self.broker_host}/24", "dev", self._bridges[0])
            for name, link, host in zip(self.names, self._links, self.hosts, strict=True):
                _ip("netns", "add", name)
                _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", link, "master", self._bridges[0], "up")
                for words in (("addr", "add", f"{host}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                    _ip("-n", name, *words)
                _ip("-n", name, "link", "set", "lo", "up")
        except SiteError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove them; what is not there is passed over."""
        for words in [*(("netns", "del", name) for name in self.names), *(("link", "del", b) for b in self._bridges)]:
            with contextlib.suppress(SiteError):
                _ip(*words)

    def prefix(self, number: int) -> list[str]:
        """The words before a command that runs in a namespace."""
        return ["ip", "netns", "exec", self.names[number]]

    def cut_off(self, *numbers: int) -> None:
        """Put these on a bridge of their own: they hear each other, and nobody else, not even the broker."""
        for number in numbers:
            _ip("link", "set", self._links[number], "master", self._bridges[1])

    def heal(self) -> None:
        """Put everybody on one bridge again."""
        for link in self._links:
            _ip("link", "set", link, "master", self._bridges[0])


def has_namespaces() -> bool:
    """Whether this user on this machine may make them."""
    try:
        with Namespaces(1):
            return True
    except SiteError:
        return False


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - iproute2
    except OSError as error:
        raise SiteError(f"ip: {error}") from error
    if done.returncode:
        raise SiteError(f"ip {' '.join(words)}: {done.stderr.strip()}")
