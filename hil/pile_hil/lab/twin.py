"""Meters: twins that this PC simulates, on a line of its own or on a cable to a real board, and real ones."""

from typing import Any

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.protocol import DigitalOutputProtocol
from labgrid.resource import Resource

from pile_edge.meters import catalogue
from pile_edge.meters.decode import MeterReader, load_profile
from pile_edge.ports.cpython_bus import open_bus
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


@target_factory.reg_resource
@attr.s(eq=False)
class RealMeter(Resource):
    """A real meter, with a real load behind it.

    Attributes:
        bus: as the pile opens it. own_bus: as this PC reads the same meter, for the truth; a serial line has one master, so
            this is another interface of the meter, or a gateway. unit: on both.
        profile, model, serial, rated_power_w: which meter it is, and the most that may flow.
    """

    bus: dict[str, Any] = attr.ib(validator=attr.validators.instance_of(dict))
    own_bus: dict[str, Any] = attr.ib(validator=attr.validators.instance_of(dict))
    profile: str = attr.ib(validator=attr.validators.instance_of(str))
    model: str = attr.ib(validator=attr.validators.instance_of(str))
    serial: int = attr.ib(validator=attr.validators.instance_of(int))
    rated_power_w: int = attr.ib(validator=attr.validators.instance_of(int))
    unit: int = attr.ib(default=1, validator=attr.validators.instance_of(int))


@target_factory.reg_driver
@attr.s(eq=False)
class RealMeterDriver(Driver, MeterProtocol):
    """Reads a real meter beside the pile; the load is switched by any digital output of labgrid's, or is always there."""

    bindings = {"meter": RealMeter, "load": {DigitalOutputProtocol, None}}

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._reader: MeterReader | None = None

    def spec(self, pile: str, owner: str) -> PileSpec:
        """The pile's entry in a site."""
        meter = self.meter
        return PileSpec(
            pile,
            owner,
            meter.bus,
            meter.profile,
            meter.model,
            meter.serial,
            battery_wh=0,
            rated_power_w=meter.rated_power_w,
            simulated=False,
        )

    def truth(self) -> Truth:
        """What its register shows."""
        if self._reader is None:
            profile = load_profile(catalogue.profile_mapping(self.meter.profile))
            self._reader = MeterReader(open_bus(self.meter.own_bus), profile, self.meter.unit)
        sample = self._reader.read()
        return Truth(sample.energy_wh, sample.energy_wh, sample.power_w, sample.power_w > 0)

    def fault(self, kind: str) -> None:
        """A real meter cannot be disturbed."""
        raise RigError(
            f"{self.target.name} has a real meter, which cannot be made to fail by {kind}: take MeterTwin for that"
        )

    def plug(self, battery_wh: int) -> None:  # noqa: ARG002 - a real car knows by itself
        """Switch the load on."""
        if self.load is not None:
            self.target.activate(self.load)
            self.load.set(True)

    def unplug(self) -> None:
        """Switch it off."""
        if self.load is not None:
            self.load.set(False)
