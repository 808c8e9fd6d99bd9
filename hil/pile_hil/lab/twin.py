"""Meters: twins that this PC simulates, on a line of its own or on a cable to a real board, and real ones."""

from typing import Any

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.resource import Resource

from pile_hil.lab.bench import bench_of
from pile_hil.lab.protocols import MeterProtocol, RigError, Truth
from pile_hil.process import RigProcess
from pile_hil.site import PileSpec


@target_factory.reg_resource
@attr.s(eq=False)
class MeterTwin(Resource):
    """A simulated meter, relay and car.

    Attributes:
        bus: as in a rig's configuration (pile_hil.rig): {"kind": "tcp"}, a line of this PC's own {"kind": "rtu"}, or, with
            "device", an adapter on a cable. far_bus: what of it is different at the pile's end, as its "device".
        profile, model, serial: which meter it is. rated_power_w, start_energy_wh: of car and register.
    """

    bus: dict[str, Any] = attr.ib(validator=attr.validators.instance_of(dict))
    profile: str = attr.ib(validator=attr.validators.instance_of(str))
    model: str = attr.ib(validator=attr.validators.instance_of(str))
    serial: int = attr.ib(validator=attr.validators.instance_of(int))
    far_bus: dict[str, Any] = attr.ib(factory=dict, validator=attr.validators.instance_of(dict))
    rated_power_w: int = attr.ib(default=22_000, validator=attr.validators.instance_of(int))
    start_energy_wh: int = attr.ib(default=1_234_560, validator=attr.validators.instance_of(int))


@target_factory.reg_driver
@attr.s(eq=False)
class MeterTwinDriver(Driver, MeterProtocol):
    """Asks and disturbs a twin through the rig process that simulates it."""

    bindings = {"twin": MeterTwin}

    def spec(self, pile: str, owner: str) -> PileSpec:
        """The pile's entry in a site."""
        twin = self.twin
        return PileSpec(
            pile,
            owner,
            twin.bus,
            twin.profile,
            twin.model,
            twin.serial,
            battery_wh=0,
            rated_power_w=twin.rated_power_w,
            start_energy_wh=twin.start_energy_wh,
            far_bus=twin.far_bus,
        )

    def truth(self) -> Truth:
        """What really went through it so far."""
        found = self._rig().truth(self.target.name)
        return Truth(found["energy_wh"], found["meter_wh"], found["power_w"], found["coil"])

    def fault(self, kind: str) -> None:
        """Begin a fault, or end it with "none"."""
        self._command(do="fault", kind=kind)

    def plug(self, battery_wh: int) -> None:
        """Connect a car."""
        self._command(do="plug", battery_wh=battery_wh)

    def unplug(self) -> None:
        """Disconnect it."""
        self._command(do="unplug")

    def _command(self, **order: Any) -> None:
        self._rig().command(pile=self.target.name, **order)

    def _rig(self) -> RigProcess:
        rig = bench_of(self).opened().rig
        if rig is None:
            raise RigError("the hardware does not run yet: let SiteStrategy go to `serving` first")
        return rig
