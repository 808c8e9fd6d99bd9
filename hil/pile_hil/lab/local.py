"""Piles whose agent is a process on this PC, on CPython or under MicroPython with a board's heap."""

import shutil
from pathlib import Path

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.protocol import PowerProtocol
from labgrid.resource import Resource

from pile_hil.lab.bench import bench_of
from pile_hil.lab.protocols import PileProtocol
from pile_hil.site import Site, SiteProcess


@target_factory.reg_resource
@attr.s(eq=False)
class LocalPile(Resource):
    """A pile on this PC; `interpreter` is cpython or micropython."""

    interpreter: str = attr.ib(default="cpython", validator=attr.validators.in_(("cpython", "micropython")))


@target_factory.reg_driver
@attr.s(eq=False)
class LocalPileDriver(Driver, PileProtocol):
    """The agent as a process of the site."""

    bindings = {"pile": LocalPile}

    @property
    def interpreter(self) -> str:  # type: ignore[override]
        """Of the agent."""
        return str(self.pile.interpreter)

    def prepare(self) -> bytes:
        """Write its configuration and let it make its key."""
        return self._site().prepare_pile(self.target.name)

    def start(self) -> None:
        """Start the agent."""
        self._site().start_pile(self.target.name)

    def stop(self) -> None:
        """SIGTERM."""
        process = self._process()
        if process is not None:
            process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        process = self._process()
        if process is not None:
            process.kill()

    def running(self) -> bool:
        """Whether the agent runs."""
        process = self._process()
        return process is not None and process.running

    def log(self) -> str:
        """All it has logged."""
        process = self._process()
        return process.text() if process is not None else ""

    def fetch_journal(self, folder: Path) -> None:
        """Copy its journal."""
        shutil.copytree(self._site().folder / self.target.name / "journal", folder)

    def _site(self) -> Site:
        return bench_of(self).opened()

    def _process(self) -> SiteProcess | None:
        return self._site().processes.get(self.target.name)


@target_factory.reg_driver
@attr.s(eq=False)
class LocalPowerDriver(Driver, PowerProtocol):
    """Power of a pile on this PC: it goes by SIGKILL, and with it comes the agent."""

    bindings = {"pile": LocalPileDriver}

    def on(self) -> None:
        """Start the agent."""
        self.pile.start()

    def off(self) -> None:
        """SIGKILL."""
        self.pile.kill()

    def cycle(self) -> None:
        """Off and on."""
        self.off()
        self.on()
