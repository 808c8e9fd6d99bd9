"""What a scenario may ask of a rig, whatever the rig is made of. Power is labgrid's own PowerProtocol: on, off, cycle.

A rig has a target `site` (broker and coordinator, on the rig's PC) and one target for each pile: its meter, its agent, its
power. A driver that cannot do what it is asked raises RigError; `features` of a target say beforehand what it can.
"""

import abc
from dataclasses import dataclass
from pathlib import Path

from labgrid.protocol import PowerProtocol

from pile_hil.site import PileSpec
from pile_shared.errors import PilechainError


class RigError(PilechainError):
    """A rig that is not what its file says, or cannot do what it is asked; the message says what to do."""

    code = "rig"


@dataclass(frozen=True, slots=True)
class Truth:
    """What really went through a meter.

    Attributes:
        energy_wh: all energy ever, exact and rounded down. meter_wh: what the healthy register can show of it.
        power_w: now. energised: what the contactor is told.
    """

    energy_wh: int
    meter_wh: int
    power_w: int
    energised: bool


class MeterProtocol(abc.ABC):
    """The meter of a pile and the car behind it: where readings come from, and what they are held against."""

    @abc.abstractmethod
    def spec(self, pile: str, owner: str) -> PileSpec:
        """The pile's entry in a site, as far as meter and bus say it."""

    @abc.abstractmethod
    def truth(self) -> Truth:
        """What really went through it so far."""

    @abc.abstractmethod
    def fault(self, kind: str) -> None:
        """Begin a fault of pile_hil.meters.FAULTS, or end it with "none". RigError where a meter cannot be disturbed."""

    @abc.abstractmethod
    def plug(self, battery_wh: int) -> None:
        """Connect a car that has room for so much."""

    @abc.abstractmethod
    def unplug(self) -> None:
        """Disconnect it."""


class PileProtocol(abc.ABC):
    """The agent on a pile."""

    interpreter: str

    @abc.abstractmethod
    def prepare(self) -> bytes:
        """Put its configuration in place and let it make its key; the public key."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start the agent."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Ask the agent to stop, and wait until it has."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End the agent as a crash would."""

    @abc.abstractmethod
    def running(self) -> bool:
        """Whether the agent runs."""

    @abc.abstractmethod
    def log(self) -> str:
        """All it has logged."""

    @abc.abstractmethod
    def fetch_journal(self, folder: Path) -> None:
        """Copy its journal into a folder that does not exist yet, while the agent is stopped."""


class BrokerProtocol(PowerProtocol):
    """The MQTT broker; `off` is a power cut, what it has not written is lost."""

    @abc.abstractmethod
    def port(self) -> int:
        """Where it listens."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it the polite way."""


class CoordinatorProtocol(PowerProtocol):
    """The coordinator; `off` is a power cut."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it the polite way."""

    @abc.abstractmethod
    def data(self) -> Path:
        """Its data folder, with ledger and evidence."""
