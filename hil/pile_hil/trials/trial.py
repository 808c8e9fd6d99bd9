"""A running site on a rig, for a scenario: orders from wallet to settlement, faults, and waiting for what must come.

    with Trial(rig, ("pile-1",), folder, "meter-crc") as trial:
        trial.open()
        order = trial.begin()
        with trial.meter_fault("noise"):
            trial.await_said("meter: crc")
        trial.finish(order)

Whatever happens, leaving the context stops all processes and writes facts.json for the judge.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self, TypeVar, cast

from labgrid import Target
from labgrid.protocol import PowerProtocol

from pile_coordinator.chain.transactions import PlaceBid
from pile_coordinator.wallet import START, Wallet, WalletError
from pile_hil.lab.bench import OWNER, Bench, SiteStrategy, driver_of
from pile_hil.lab.protocols import BrokerProtocol, CoordinatorProtocol, MeterProtocol, PileProtocol
from pile_hil.lab.rig import SITE, Rig
from pile_hil.site import HOUR_MS, Site, SiteError
from pile_hil.trials.facts import Expects, Facts, OrderFacts
from pile_shared.errors import LinkError

LIMIT_S = 120.0  # for anything that has to happen; a scenario takes seconds, a busy machine takes its time
POLL_S = 0.05
T = TypeVar("T")
SAMPLE_S = 0.2  # between two looks at the truth, for the plots
ORDER_WH = 3000
LIMIT_MICRO_PER_KWH = 900_000
_PROVED = re.compile(r"^.*?\bproof (\d+) [a-z]+", re.MULTILINE)
_ENDED = " end ("  # of the line in which an agent tells an END proof
_RECEIPT = re.compile(r"^.*?\breceipt through (\d+) of", re.MULTILINE)


class Trial:
    """One scenario under way. The piles are those that take part; `pile` is the first of them."""

    def __init__(self, rig: Rig, piles: tuple[str, ...], folder: Path, scenario: str, expects: Expects) -> None:
        """Nothing runs yet; `folder` is made."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.rig = rig
        self.expects = expects
        self.piles = piles
        self.pile = piles[0]
        site = rig.environment.get_target(SITE)
        assert site is not None  # Rig has looked
        self._site_target = site
        self.bench: Bench = site.get_resource(Bench)
        self.bench.folder, self.bench.piles = folder, piles
        self.strategy: SiteStrategy = site.get_driver(SiteStrategy, activate=False)
        self.facts = Facts(scenario, rig.path.stem, rate=self.bench.rate)
        self._wallets: dict[str, Wallet] = {}
        self._began_s = time.monotonic()
        self.limit_s = LIMIT_S
        self.shared = threading.Lock()  # held while a wallet is used that is one for all piles
        self._between = ExitStack()
        self._stop = threading.Event()
        self._recorder = threading.Thread(target=self._record, name="truth", daemon=True)

    # --- what it is made of --------------------------------------------------------------------------------------

    @property
    def site(self) -> Site:
        """Keys, clock and processes of the site."""
        return self.bench.opened()

    def meter(self, pile: str = "") -> MeterProtocol:
        """A pile's meter and car."""
        return cast("MeterProtocol", self._target(pile).get_driver(MeterProtocol))

    def agent(self, pile: str = "") -> PileProtocol:
        """A pile's agent."""
        return cast("PileProtocol", self._target(pile).get_driver(PileProtocol))

    def power(self, what: str = "") -> PowerProtocol:
        """Power of a pile, or of `broker` or `coordinator`."""
        if what == "broker":
            return self.broker
        if what == "coordinator":
            return self.coordinator
        return cast("PowerProtocol", self._target(what).get_driver(PowerProtocol))

    @property
    def broker(self) -> BrokerProtocol:
        """The site's broker."""
        return cast("BrokerProtocol", self._site_target.get_driver(BrokerProtocol))

    @property
    def coordinator(self) -> CoordinatorProtocol:
        """The site's coordinator."""
        return cast("CoordinatorProtocol", self._site_target.get_driver(CoordinatorProtocol))

    def wallet(self, party: str) -> Wallet:
        """A party's wallet, connected as long as the trial lasts."""
        if party not in self._wallets:
            self._wallets[party] = self.site.wallet(party)
        return self._wallets[party]

    # --- its course ----------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """Write keys, genesis and ports, once: the last moment to put something between processes (Site.broker_ports, ...)."""
        self.strategy.transition("planned")
        self.facts.origin_ms = self.site.clock.origin_ms
        self.facts.chain_id = self.site.genesis.chain_id
        self.facts.data = str(self.site.data.relative_to(self.folder))

    def serve(self) -> None:
        """Let broker, meters and coordinator run, but no agent yet."""
        if not self.facts.chain_id:
            self.plan()
        self.strategy.transition("serving")
        self._recorder.start()

    def open(self) -> None:
        """Let everything run, until the piles are online and listed."""
        if not self._recorder.is_alive():
            self.serve()
        self.strategy.transition("open")
        self.facts.piles = {name: public.hex() for name, public in self.bench.publics.items()}
        self.note("the site is open")

    def begin(self, energy_wh: int = ORDER_WH, *, pile: str = "", expects: Expects | None = None) -> OrderFacts:
        """An order from bid to contract, a car, and a start; returns once the pile charges."""
        order = self.sign(energy_wh, pile=pile, expects=expects)
        self.start(order)
        return order

    def sign(self, energy_wh: int = ORDER_WH, *, pile: str = "", expects: Expects | None = None) -> OrderFacts:
        """An order from bid to signed contract."""
        pile = pile or self.pile
        wallet, now_ms = self.wallet(driver_of(pile)), self.site.clock.now_ms()
        limit, until_ms = LIMIT_MICRO_PER_KWH, now_ms + 24 * HOUR_MS
        bid, _ = wallet.send(PlaceBid("north", pile, energy_wh, now_ms, until_ms, limit, True, 0, False, False))
        contract = wallet.contract_id(bid)
        before_wh = self.meter(pile).truth().meter_wh
        order = OrderFacts(pile, contract.hex(), energy_wh, expects or self.expects, before_wh)
        self.facts.orders.append(order)
        return order

    def start(self, order: OrderFacts, until: Callable[[], bool] | None = None) -> None:
        """Plug a car in with room to spare, and ask the pile to start until it has, or until something else is so."""
        self.meter(order.pile).plug(2 * order.energy_wh)
        asked_s = 0.0

        def begun() -> bool:
            nonlocal asked_s
            if until() if until is not None else self.phase(order) != "signed":
                return True
            if (
                time.monotonic() - asked_s > 1
            ):  # a pile hears of its contract a block later; before that it is for nobody
                asked_s = time.monotonic()
                self.ask_start(order)
            return False

        self.wait(begun, f"{order.pile} to begin")
        self.note(f"{order.pile} charges")

    def ask_start(self, order: OrderFacts) -> None:
        """The user's start command, once; what comes of it is to be seen."""
        wallet, contract = self.wallet(driver_of(order.pile)), bytes.fromhex(order.contract)
        wallet.command(order.pile, contract, START, self.site.clock.now_ms(), order.energy_wh)

    def phase(self, order: OrderFacts) -> str:
        """What the chain says of a contract; "" while nobody answers."""
        try:
            return str(self.wallet(driver_of(order.pile)).contract(bytes.fromhex(order.contract))["phase"])
        except (WalletError, LinkError):
            return ""

    def finish(self, order: OrderFacts) -> None:
        """Wait for the end of the session, let both parties confirm, and fetch the certificate."""
        self.wait(lambda: self.phase(order) not in {"", "signed", "active"}, f"the session on {order.pile} to end")
        order.after_wh = self.meter(order.pile).truth().meter_wh
        contract = bytes.fromhex(order.contract)
        if self.phase(order) == "measured":
            for party in (driver_of(order.pile), OWNER):
                with self.shared:
                    self.wallet(party).confirm(contract)
        order.outcome = self.phase(order)
        name = f"{order.contract[:8]}.cbor"
        (self.folder / name).write_bytes(cast("bytes", self.wallet(driver_of(order.pile)).ask("certificate", contract)))
        order.certificate = name
        self.note(f"the order on {order.pile} is settled: {order.outcome}")

    def drain(self) -> None:
        """Wait until each pile has a receipt for all that it has signed."""
        for pile in self.piles:
            self.wait(lambda p=pile: _is_drained(self.agent(p).log()), f"receipts for all proofs of {pile}")  # type: ignore[misc]
            self.facts.drained[pile] = _newest(_RECEIPT, self.agent(pile).log())
        self.note("every proof has its receipt")

    # --- faults and waiting --------------------------------------------------------------------------------------

    @contextmanager
    def meter_fault(self, kind: str, pile: str = "") -> Iterator[None]:
        """Let a pile's meter fail in one of the ways of pile_hil.meters.FAULTS, for as long as the context lasts."""
        meter = self.meter(pile)
        meter.fault(kind)
        self.note(f"meter fault {kind} begins")
        try:
            yield
        finally:
            meter.fault("none")
            self.note(f"meter fault {kind} ends")

    def use(self, fault: AbstractContextManager[T]) -> T:
        """Enter something that stands between the processes, as a proxy; it is left when they have ended."""
        return self._between.enter_context(fault)

    def note(self, what: str) -> None:
        """Remember that something happened now, for the report."""
        self.facts.events.append((self.site.clock.now_ms(), what))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Return once `condition()` holds; SiteError with the end of the logs if it does not in good time."""
        seconds = self.limit_s * self.rig.slowness
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {name}\n{process.text()[-1500:]}" for name, process in self.site.processes.items()
                )
                raise SiteError(f"waited {seconds:g} s for {what}\n{logs}")
            time.sleep(POLL_S)

    def await_said(self, words: str, order: OrderFacts | None = None, *, pile: str = "", after: int = 0) -> None:
        """Until a pile's log has these words, beyond its first `after` characters.

        With an order of that pile, also when its session has ended: whether it ended by then as it should is for the judge,
        who looks at what the scenario expects, and a scenario need not wait for what can no longer come.
        """
        pile = order.pile if order else pile or self.pile
        agent = self.agent(pile)

        def said() -> bool:
            log = agent.log()
            ended = order is not None and _ENDED in log.rpartition(f"user asks to start {order.contract[:8]}")[2]
            return words in log[after:] or ended

        self.wait(said, f"{pile} to say {words!r}")

    def await_energy(self, order: OrderFacts, energy_wh: int) -> None:
        """Until so much of an order has flowed, by the meter's truth."""
        meter = self.meter(order.pile)
        self.wait(lambda: meter.truth().meter_wh - order.before_wh >= energy_wh, f"{energy_wh} Wh on {order.pile}")

    # --- the end -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stop.set()
        if self._recorder.is_alive():
            self._recorder.join()
        if error is not None:
            self.facts.error = f"{type(error).__name__}: {error}"
        try:
            with self._between:
                for wallet in self._wallets.values():
                    wallet.close()
                self._put_away()
        finally:
            self.facts.real_s = round(time.monotonic() - self._began_s, 1)
            self.facts.save(self.folder)

    def _put_away(self) -> None:
        """Stop the agents, fetch their journals, stop everything."""
        for pile in self.piles if self.bench.site is not None else ():
            agent = self.agent(pile)
            agent.stop()
            if pile in self.facts.piles:
                agent.fetch_journal(self.folder / "journals" / pile)
                (self.folder / f"{pile}.log").write_text(agent.log())
        self.strategy.transition("off")

    def _record(self) -> None:
        """The truth, over time."""
        while not self._stop.wait(SAMPLE_S):
            for pile in self.piles:
                truth = self.meter(pile).truth()
                row = [self.site.clock.now_ms(), truth.energy_wh, truth.meter_wh, truth.power_w]
                self.facts.series.setdefault(pile, []).append(row)

    def _target(self, pile: str) -> Target:
        target = self.rig.environment.get_target(pile or self.pile)
        if target is None:
            raise SiteError(f"the rig has no pile {pile!r}")
        return target


def _newest(pattern: re.Pattern[str], log: str) -> int:
    return max((int(number) for number in pattern.findall(log)), default=0)


def _is_drained(log: str) -> bool:
    return 0 < _newest(_PROVED, log) <= _newest(_RECEIPT, log)
