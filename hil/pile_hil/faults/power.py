"""Power cuts: SIGKILL, which no program can prepare for, and with a disk of its own the loss of all that was not synced."""

import contextlib
import os
import signal
from typing import Protocol

from pile_hil.faults import FaultError
from pile_hil.faults.disk import Disk
from pile_hil.network import Network


class Powered(Protocol):
    """What can lose its power: a `SiteProcess`, a `Mosquitto`, a `NetworkNode`."""

    def kill(self) -> None:
        """SIGKILL it, and return when it has ended."""

    def start(self) -> None:
        """Start it again on what it left."""


class NetworkNode:
    """A node of a network with all its processes: supervisor, application, CometBFT."""

    def __init__(self, network: Network, name: str) -> None:
        """One that was started."""
        self._network, self._name = network, name

    def kill(self) -> None:
        """All at once, the supervisor first, so that it starts nothing again."""
        found = self._network.pids(self._name)
        self._network.processes[self._name].kill()
        for pid in found.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start(self) -> None:
        """The node again."""
        self._network.start(self._name)


class Supply:
    """The power of one machine: its processes, and the disk they are on if that is one of ours."""

    def __init__(self, *load: Powered, disk: Disk | None = None) -> None:
        """It is on."""
        self._load, self._disk = load, disk
        self.is_on = True

    def cut(self) -> None:
        """Off, now. What the disk was not told to keep is lost."""
        if not self.is_on:
            raise FaultError("the power is off already")
        self.is_on = False
        if self._disk is not None:
            self._disk.cut()  # first: else a process might still sync what it had in hand
        for one in self._load:
            one.kill()

    def restore(self) -> None:
        """On again; does nothing if it is."""
        if self.is_on:
            return
        if self._disk is not None:
            self._disk.restore()
        for one in self._load:
            one.start()
        self.is_on = True
