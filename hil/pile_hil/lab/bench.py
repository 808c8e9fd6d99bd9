"""The site of a rig: broker and coordinator on this PC, whatever the piles are. Target `site` of a rig's file."""

import enum
from dataclasses import replace
from pathlib import Path

import attr
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.resource import Resource
from labgrid.strategy import Strategy, StrategyError

from pile_coordinator.chain.transactions import AT_MARKET, List
from pile_hil.broker import Mosquitto
from pile_hil.lab.protocols import BrokerProtocol, CoordinatorProtocol, MeterProtocol, PileProtocol, RigError
from pile_hil.network_site import NetworkSite
from pile_hil.site import HOUR_MS, PileSpec, Site, wait_for

OWNER = "olga"
OWNER_MICRO, DRIVER_MICRO = 50_000_000, 100_000_000
TIMEOUT_S = 90.0  # for what takes a second or two on an idle machine
CAPACITY_WH = 50_000  # of each pile that is listed


@target_factory.reg_resource
@attr.s(eq=False)
class Bench(Resource):
    """This PC as the site of a rig.

    Attributes:
        host: the address at which piles find the broker. rate: how much faster than real time runs; 1 with real loads.
        timing: intervals of every agent, ms, where they differ from those of `Site`.
        tls: set by a scenario before the site is planned: a site as `pilechain init site` makes it.
        network: set by a scenario likewise: four accounting nodes on CometBFT, two of which serve, instead of a coordinator.
        folder, piles: set by the trial: where everything is written, and which targets take part.
        site: what the strategy has opened. publics: the keys that the piles have made.
    """

    host: str = attr.ib(default="127.0.0.1", validator=attr.validators.instance_of(str))
    rate: int = attr.ib(default=60, validator=attr.validators.instance_of(int))
    timing: dict[str, int] = attr.ib(factory=dict, validator=attr.validators.instance_of(dict))
    tls: bool = attr.ib(default=False, init=False)
    network: bool = attr.ib(default=False, init=False)
    folder: Path | None = attr.ib(default=None, init=False)
    piles: tuple[str, ...] = attr.ib(default=(), init=False)
    site: Site | None = attr.ib(default=None, init=False)
    publics: dict[str, bytes] = attr.ib(factory=dict, init=False)

    def opened(self) -> Site:
        """The site; RigError before the strategy has made one."""
        if self.site is None:
            raise RigError("the site is not open: let SiteStrategy go to `planned` first")
        return self.site


def bench_of(driver: Driver) -> Bench:
    """The bench in the target `site` of the rig that a driver belongs to."""
    target = driver.target.env.get_target("site")
    if target is None:
        raise RigError("the rig's file has no target `site`; see rigs/sim.yaml")
    bench: Bench = target.get_resource(Bench)
    return bench


@target_factory.reg_driver
@attr.s(eq=False)
class MosquittoDriver(Driver, BrokerProtocol):
    """A real mosquitto that keeps sessions and messages on disk."""

    bindings = {"bench": Bench}
    broker: Mosquitto | None = attr.ib(default=None, init=False)

    def plan(self, folder: Path) -> None:
        """Take a port; nothing runs yet."""
        self.broker = Mosquitto(folder / "broker", persistence=True, host=self.bench.host)

    def port(self) -> int:
        """Where it listens."""
        return self._planned().port

    def on(self) -> None:
        """Start it."""
        if self._secure is not None:
            self._secure.start_broker()
        else:
            self._planned().start()

    def off(self) -> None:
        """SIGKILL."""
        if self._secure is not None:
            self._secure.processes["broker"].kill()
        else:
            self._planned().kill()

    def stop(self) -> None:
        """SIGTERM."""
        if self.broker is not None:
            self.broker.stop()

    def cycle(self) -> None:
        """Off and on."""
        self.off()
        self.on()

    @property
    def _secure(self) -> Site | None:
        """The site, if it has TLS: then its broker is the operator's own."""
        site = self.bench.site
        return site if site is not None and site.access is not None else None

    def _planned(self) -> Mosquitto:
        if self.broker is None:
            raise RigError("no broker is planned: let SiteStrategy go to `planned` first")
        return self.broker


@target_factory.reg_driver
@attr.s(eq=False)
class CoordinatorDriver(Driver, CoordinatorProtocol):
    """`pilechain run` with the solo engine."""

    bindings = {"bench": Bench}

    def on(self) -> None:
        """Start it."""
        self.bench.opened().start_coordinator()

    def off(self) -> None:
        """SIGKILL."""
        self.bench.opened().processes["coordinator"].kill()

    def stop(self) -> None:
        """SIGTERM."""
        process = self.bench.opened().processes.get("coordinator")
        if process is not None:
            process.stop()

    def cycle(self) -> None:
        """Off and on."""
        self.off()
        self.on()

    def data(self) -> Path:
        """Its data folder."""
        return Path(self.bench.opened().data)


class Status(enum.Enum):
    """How far a site has come."""

    unknown = 0
    planned = 1  # keys and genesis are written, nothing runs: the time to put something in between
    serving = 2  # broker, hardware and coordinator run, and parties are admitted
    open = 3  # the piles are registered and listed, and their agents are online
    off = 4


@target_factory.reg_driver
@attr.s(eq=False)
class SiteStrategy(Strategy):
    """Takes a whole site from nothing to open, and down again; on the way each status once."""

    bindings = {"bench": Bench, "broker": BrokerProtocol, "coordinator": CoordinatorProtocol}
    status: Status = attr.ib(default=Status.unknown)
    broken: BaseException | None

    def transition(self, status: Status | str) -> None:
        """Go to a status, through those before it. After a step that failed there is one way only: off."""
        wanted = Status[status] if isinstance(status, str) else status
        if wanted is Status.off:
            self._close()
            self.status = Status.off
            return
        if self.broken is not None:
            raise StrategyError(f"the site could not be opened: {self.broken}")
        if wanted.value < self.status.value or wanted is Status.unknown:
            raise StrategyError(f"no way from {self.status.name} to {wanted.name}")
        steps = {Status.planned: self._plan, Status.serving: self._serve, Status.open: self._open}
        for step, go in steps.items():
            if self.status.value < step.value <= wanted.value:
                try:
                    go()
                except BaseException as error:
                    self.broken = error
                    raise
                self.status = step

    def drivers(self) -> dict[str, tuple[MeterProtocol, PileProtocol]]:
        """Meter and agent of each pile that takes part."""
        found = {}
        for name in self.bench.piles:
            target = self.target.env.get_target(name)
            if target is None:
                raise RigError(f"the rig has no target {name!r}")
            found[name] = (target.get_driver(MeterProtocol), target.get_driver(PileProtocol))
        return found

    def _plan(self) -> None:
        bench = self.bench
        if bench.folder is None:
            raise RigError("a trial says where its site is written: set folder and piles of the bench")
        self.target.activate(self.broker)
        self.target.activate(self.coordinator)
        self.broker.plan(bench.folder)
        specs = [self._spec(name, *pair) for name, pair in self.drivers().items()]
        folder, port = bench.folder / "site", self.broker.port()
        if bench.network:
            bench.site = NetworkSite(folder, specs, rate=bench.rate, port=port)
        else:
            bench.site = Site(folder, specs, rate=bench.rate, port=port, host=bench.host, tls=bench.tls)

    def _spec(self, name: str, meter: MeterProtocol, pile: PileProtocol) -> PileSpec:
        return replace(meter.spec(name, OWNER), interpreter=pile.interpreter, timing=self.bench.timing)

    def _serve(self) -> None:
        site = self.bench.opened()
        self.broker.on()
        site.start_rig()
        self.coordinator.on()
        drivers = {driver_of(name): ("ev-owner", DRIVER_MICRO) for name in self.bench.piles}
        piles = self.drivers()

        def prepare(name: str) -> bytes:
            public = self.bench.publics[name] = piles[name][1].prepare()
            return public

        site.admit({OWNER: ("pile-owner", OWNER_MICRO), **drivers}, prepare=prepare)

    def _open(self) -> None:
        site = self.bench.opened()
        with site.wallet(OWNER) as owner:
            now_ms = site.clock.now_ms()
            for name in self.bench.piles:
                owner.send(List(name, now_ms, now_ms + 48 * HOUR_MS, CAPACITY_WH, AT_MARKET, explicit=False))
        for name, (_, pile) in self.drivers().items():
            pile.start()
            wait_for(lambda p=pile: "connected" in p.log(), TIMEOUT_S, f"{name} to connect")  # type: ignore[misc]

    def _close(self) -> None:
        if self.bench.site is None:
            return
        for _, pile in self.drivers().values():
            pile.stop()
        self.bench.site.close()
        self.broker.stop()


def driver_of(pile: str) -> str:
    """Who charges at a pile."""
    return f"driver-{pile}"
