"""A whole site for minutes or hours: an order after the other on every pile, and faults by a plan, until the time is over.

Whatever goes wrong meanwhile, in the end every order is settled, every proof has its receipt, and the judge of the catalogue's
trials finds that no Wh was lost, none was counted twice and no money came or went. The ledger is judged all along.
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pile_coordinator.chain.transactions import AT_MARKET, Deposit, List
from pile_coordinator.wallet import Wallet
from pile_hil.lab.bench import OWNER, driver_of
from pile_hil.lab.rig import Rig, rig_path
from pile_hil.site import HOUR_MS
from pile_hil.soak.faults import DISK_MIB, FAULTS, Stage
from pile_hil.soak.plan import BROKER, COORDINATOR, Planned, plan
from pile_hil.soak.watch import Auditor, Memory, bound_logs
from pile_hil.trials.facts import Expects
from pile_hil.trials.judge import Check, judge
from pile_hil.trials.runner import FAILED, PASSED, Verdict
from pile_hil.trials.trial import Trial
from pile_shared.errors import PilechainError

MAX_PILES = 16  # each an agent, a meter, a proxy and a disk, on one machine
MAX_MINUTES = 7 * 24 * 60
LOOK_S = 10.0  # between two looks at ledger, memory and logs
ORDER_LOTS = (10, 40)  # of LOT_WH
LOT_WH = 100
MONEY_MICRO = 20_000_000  # an order costs some 3
LIMIT_S = 300.0  # for an order's steps, with faults all the time
PATIENCE_S = 120.0  # of a wallet for an answer
MOST_GROWTH_BYTES = (
    64 << 20
)  # of one process over the soak; SQLite's cache and a state of thousands of orders are within it
SUMMARY = "soak.json"
SCENARIO = "soak"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a soak; `checks` are the judge's and the watch's."""

    seed: int
    seconds: int
    piles: int
    real_s: int
    orders: int
    flowed_wh: int
    faults: dict[str, int]
    memory: dict[str, dict[str, int]]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and all else was as it should be."""
        return all(check.ok for check in self.checks)

    def save(self, folder: Path) -> None:
        """Write it into the soak's folder, and its verdict beside the trial for the report."""
        (folder / SUMMARY).write_text(json.dumps({"ok": self.ok} | asdict(self), indent=1) + "\n")
        outcome = PASSED if self.ok else FAILED
        about = f"{self.orders} orders on {self.piles} piles, {sum(self.faults.values())} faults, seed {self.seed}"
        Verdict(SCENARIO, "random faults", about, outcome, self.real_s, checks=self.checks).save(folder / SCENARIO)


class _Coordinator:
    """The coordinator of a trial, as something with a plug."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def kill(self) -> None:
        self._trial.coordinator.off()

    def start(self) -> None:
        self._trial.coordinator.on()


class Soak:
    """One soak in a folder. `stop` may be called from a signal handler; then all ends in order, and is judged."""

    def __init__(self, folder: Path, *, seconds: int, seed: int, piles: int, say: Callable[[str], None]) -> None:
        """Plan it: a rig with so many piles, and what goes wrong when."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seconds, self._seed, self._say = folder, seconds, seed, say
        self._names = tuple(f"pile-{number}" for number in range(1, piles + 1))
        self.lanes = plan(seed, seconds, self._names)
        rig = Rig(write_rig(folder / "soak.yaml", self._names))
        self._trial = Trial(rig, self._names, folder / SCENARIO, SCENARIO, Expects())
        self._trial.limit_s = LIMIT_S
        self._stopping = threading.Event()
        self._troubles: list[str] = []
        self._counts: Counter[str] = Counter()
        self._memory = Memory()

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping.set()

    def run(self) -> Result:
        """From the first process to the verdict."""
        began_s = time.monotonic()
        with self._trial as trial:
            trial.plan()
            trial.site.patience_s = PATIENCE_S
            stages = {name: Stage(trial, name, trial.agent(name)) for name in self._names}
            stages[COORDINATOR] = Stage(trial, COORDINATOR, _Coordinator(trial), disk_mib=DISK_MIB)
            trial.open()
            self._go_on(stages)
            trial.drain()
        checks = [check for check in judge(trial.folder) if check.name != "as expected"]  # nobody knows what to expect
        memory = self._memory.summary()
        result = Result(
            self._seed,
            self._seconds,
            len(self._names),
            round(time.monotonic() - began_s),
            sum(bool(order.certificate) for order in trial.facts.orders),
            sum(max(0, order.after_wh - order.before_wh) for order in trial.facts.orders),
            dict(sorted(self._counts.items())),
            memory,
            [*checks, _check("watched", self._troubles), _check_memory(memory)],
        )
        result.save(self._folder)
        return result

    def _go_on(self, stages: dict[str, Stage]) -> None:
        """Orders, faults and looks until the time is over; then the faults end, and after them the orders."""
        began_s = time.monotonic()
        lanes = [
            threading.Thread(target=self._guarded, args=(self._lane, lane, stages, began_s)) for lane in self.lanes
        ]
        drivers = [threading.Thread(target=self._guarded, args=(self._charge, name)) for name in self._names]
        for thread in (*lanes, *drivers):
            thread.start()
        auditor = Auditor(self._trial.site.data / "ledger.sqlite", self._trial.site.genesis)
        look = lambda: self._look(auditor, stages[COORDINATOR], began_s)  # noqa: E731
        while not self._stopping.wait(LOOK_S) and time.monotonic() - began_s < self._seconds:
            self._guarded(look)
        self._stopping.set()
        self._say("the time is over: faults end, orders are finished")
        for thread in (*lanes, *drivers):
            thread.join()
        self._guarded(look)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """What goes wrong with the soak itself ends it, and is part of its verdict."""
        try:
            work(*arguments)
        except (PilechainError, OSError, ValueError, AssertionError) as error:
            self._troubles.append(f"{type(error).__name__}: {error}")
            self._say(self._troubles[-1])
            self._stopping.set()

    # --- faults --------------------------------------------------------------------------------------------------

    def _lane(self, lane: list[Planned], stages: dict[str, Stage], began_s: float) -> None:
        for one in lane:
            if self._stopping.wait(max(0.0, began_s + one.at_s - time.monotonic())):
                return
            self._counts[f"{one.name} {'pile' if one.who in self._names else one.who}"] += 1
            self._trial.note(f"{one.name} of {one.who}, {one.length_s} s")
            if one.who == BROKER:
                self._trial.broker.off()
                self._stopping.wait(one.length_s)
                self._trial.broker.on()
                continue
            stage = stages[one.who]
            with stage.busy:
                FAULTS[one.name](stage, lambda s=one.length_s: self._stopping.wait(s), random.Random(one.seed))  # type: ignore[misc] # noqa: S311
                stage.bring_back()

    # --- orders --------------------------------------------------------------------------------------------------

    def _charge(self, pile: str) -> None:
        """One order after the other, each paid for by fresh money."""
        trial, dice = self._trial, random.Random(f"{self._seed} {pile}")  # noqa: S311
        number = 0
        while not self._stopping.is_set():
            energy_wh = dice.randint(*ORDER_LOTS) * LOT_WH
            number += 1
            with trial.shared:
                now_ms = trial.site.clock.now_ms()
                listing = List(pile, now_ms, now_ms + 48 * HOUR_MS, energy_wh, AT_MARKET, explicit=False)
                trial.wallet(OWNER).send(listing)
                self._grid.send(Deposit(driver_of(pile), MONEY_MICRO, f"{pile} order {number}"))
            order = trial.sign(energy_wh, pile=pile)
            trial.start(order)
            trial.finish(order)

    @property
    def _grid(self) -> Wallet:
        return self._trial.wallet("grid")

    # --- looks ---------------------------------------------------------------------------------------------------

    def _look(self, auditor: Auditor, coordinator: Stage, began_s: float) -> None:
        trial = self._trial
        if coordinator.busy.acquire(blocking=False):  # else its disk may be away: the next time
            try:
                auditor.look()
            finally:
                coordinator.busy.release()
        processes = trial.site.processes
        self._memory.look({name: process.pid for name, process in processes.items() if process.running})
        own = [trial.site.folder / f"{name}.log" for name in (*self._names, COORDINATOR)]
        self._troubles += bound_logs(own, [trial.folder / "broker" / "mosquitto.log"])
        done = sum(bool(order.certificate) for order in trial.facts.orders)
        passed_s = int(time.monotonic() - began_s)
        self._say(
            f"{passed_s // 60}:{passed_s % 60:02} {done} orders settled, {sum(self._counts.values())} faults so far,"
            f" block {auditor.replay.height} computed again"
        )


def write_rig(path: Path, piles: tuple[str, ...]) -> Path:
    """A rig as sim.yaml with so many piles on CPython, in turn on TCP and on serial lines."""
    rig = Rig(rig_path("sim")).environment.config.data
    models = [rig["targets"]["pile-1"], rig["targets"]["pile-3"]]
    targets = {"site": rig["targets"]["site"]}
    for number, name in enumerate(piles):
        twin = models[number % 2]["resources"]["MeterTwin"] | {"serial": 63_000_200 + number}
        resources = models[number % 2]["resources"] | {"MeterTwin": twin}
        targets[name] = models[number % 2] | {"resources": resources}
    path.write_text(json.dumps(rig | {"targets": targets}, indent=1) + "\n")  # JSON is YAML
    return path


def _check(name: str, faults: list[str]) -> Check:
    return Check(name, not faults, "; ".join(faults[:3]) or "ledger, logs and the soak itself were fine all along")


def _check_memory(memory: dict[str, dict[str, int]]) -> Check:
    words = [
        f"{name} {row['most_bytes'] >> 20} MB at most, {row['grown_bytes'] >> 10:+} kB" for name, row in memory.items()
    ]
    ok = all(row["grown_bytes"] <= MOST_GROWTH_BYTES for row in memory.values())
    return Check("memory", ok, "; ".join(words))
