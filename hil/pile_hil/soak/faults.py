"""Each fault of a plan, on a pile or the coordinator: it begins, lasts as long as it is told to, and mends what it broke."""

import random
import threading
from collections.abc import Callable

from pile_hil.faults.packets import PacketLoss
from pile_hil.faults.power import Powered, Supply
from pile_hil.faults.proxy import Weather
from pile_hil.faults.syscalls import failing_sync, slow_sync
from pile_hil.site import SiteProcess
from pile_hil.trials.between import clock_of, disk_of, process_of, proxy_of, real_ms
from pile_hil.trials.trial import Trial

DISK_MIB = 256  # a coordinator's ledger grows by some 5 MB an hour and pile
PILE_DISK_MIB = 16
_BACK_MIN, _FORWARD_MIN = 60, 8  # of the site's time; the chain takes a pile for ten minutes ahead

Wait = Callable[[], object]


class Stage:
    """A pile or the coordinator with all that may happen to it. Made before the trial is open.

    Attributes:
        busy: held while a fault lasts; who wants its files whole waits for that.
    """

    def __init__(self, trial: Trial, who: str, machine: Powered, *, disk_mib: int = PILE_DISK_MIB) -> None:
        """Put everything in place; nothing is wrong yet."""
        self.who = who
        self.busy = threading.Lock()
        self._trial = trial
        self._machine = machine
        self.proxy = proxy_of(trial, who)
        self.loss = trial.use(PacketLoss(self.proxy.port))
        self.disk = disk_of(trial, who, disk_mib)
        self.clock = clock_of(trial, who)
        self.supply = Supply(machine, disk=self.disk)
        self.traced = trial.folder / f"strace-{who}.txt"

    @property
    def process(self) -> SiteProcess:
        """As it runs now."""
        return process_of(self._trial, self.who)

    def leap_ms(self, minutes: int) -> int:
        """Minutes of the site in milliseconds of the machine."""
        return real_ms(self._trial, minutes)

    def bring_back(self) -> None:
        """As systemd would: what has ended is started again."""
        if not self.process.running:
            self._machine.start()

    def mend_disk(self) -> None:
        """Take the machine down, put its disk in order, and start it."""
        self._machine.kill()
        self.disk.restore()
        self._machine.start()


def _power_cut(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.supply.cut()
    wait()
    stage.supply.restore()


def _partition(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.loss.lose(100)
    wait()
    stage.loss.lose(0)


def _packet_loss(stage: Stage, wait: Wait, dice: random.Random) -> None:
    stage.loss.lose(dice.randint(2, 25))
    wait()
    stage.loss.lose(0)


def _bad_line(stage: Stage, wait: Wait, dice: random.Random) -> None:
    stage.proxy.set(Weather(dice.randint(0, 400), dice.randint(1, 400), dice.choice((0, 4_000, 20_000))))
    wait()
    stage.proxy.heal()


def _bad_broker(stage: Stage, wait: Wait, dice: random.Random) -> None:
    lost, twice, overtaken = (dice.choice((0, 100, 300)) for _ in range(3))
    stage.proxy.set(Weather(lost_permille=lost, twice_permille=twice, overtaken_permille=overtaken))
    wait()
    stage.proxy.heal()


def _reset(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.proxy.reset()
    wait()
    stage.proxy.reset()


def _refuse(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.proxy.cut()
    wait()
    stage.proxy.heal()


def _stall(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.proxy.stall()
    wait()
    stage.proxy.heal()


def _clock(stage: Stage, wait: Wait, dice: random.Random) -> None:
    stage.clock.leap(stage.leap_ms(dice.choice((-_BACK_MIN, -2, _FORWARD_MIN))))
    wait()
    stage.clock.right()


def _disk_full(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.disk.fill()
    wait()
    stage.disk.free()
    stage.bring_back()


def _disk_slow(stage: Stage, wait: Wait, dice: random.Random) -> None:
    with slow_sync(stage.process.pid, dice.randint(20, 500), stage.traced):
        wait()


def _disk_failing(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    with failing_sync(stage.process.pid, stage.traced):
        wait()
    stage.bring_back()


def _disk_broken(stage: Stage, wait: Wait, _dice: random.Random) -> None:
    stage.disk.break_down()
    wait()
    stage.mend_disk()


FAULTS: dict[str, Callable[[Stage, Wait, random.Random], None]] = {
    "power-cut": _power_cut,
    "partition": _partition,
    "packet-loss": _packet_loss,
    "bad-line": _bad_line,
    "bad-broker": _bad_broker,
    "reset": _reset,
    "refuse": _refuse,
    "stall": _stall,
    "clock": _clock,
    "disk-full": _disk_full,
    "disk-slow": _disk_slow,
    "disk-failing": _disk_failing,
    "disk-broken": _disk_broken,
}
