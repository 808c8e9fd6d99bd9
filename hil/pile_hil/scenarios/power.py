"""Power cuts: of a pile, the broker, the coordinator, of all at once, in the middle of a session."""

from pile_hil.faults.power import Supply
from pile_hil.scenarios.registry import scenario
from pile_hil.trials.between import COORDINATOR, disk_of, process_of
from pile_hil.trials.trial import Trial

CUTS = 3  # each at another moment of the session


def _cut_often(trial: Trial, *supplies: Supply) -> None:
    """An order, in which the power goes and comes again and again."""
    order = trial.begin()
    for number in range(1, CUTS + 1):
        trial.await_energy(order, number * order.energy_wh // (CUTS + 1))
        for supply in supplies:
            supply.cut()
        trial.note("power cut")
        for supply in reversed(supplies):
            supply.restore()
        trial.note("power is back")
    trial.finish(order)


@scenario(
    "power-cut-pile", fault="power cut of a pile, whose disk loses what was not synced", needs=("local-pile", "cpython")
)
def power_cut_pile(trial: Trial) -> None:
    """The pile loses its power three times in a session, and each time what its disk was not told to keep."""
    disk = disk_of(trial, trial.pile)
    trial.open()
    _cut_often(trial, Supply(process_of(trial, trial.pile), disk=disk))


@scenario("power-cut-board", fault="power cut of a pile that is a board", needs=("micropython", "pile-power"))
def power_cut_board(trial: Trial) -> None:
    """A pile on MicroPython loses its power three times in a session."""
    trial.open()
    order = trial.begin()
    for number in range(1, CUTS + 1):
        trial.await_energy(order, number * order.energy_wh // (CUTS + 1))
        trial.power().cycle()
        trial.note("power cut")
    trial.finish(order)


@scenario("power-cut-broker", fault="power cut of the broker", needs=("broker-power",))
def power_cut_broker(trial: Trial) -> None:
    """The broker is killed three times in a session; what it had not written is gone."""
    trial.open()
    order = trial.begin()
    for number in range(1, CUTS + 1):
        trial.await_energy(order, number * order.energy_wh // (CUTS + 1))
        trial.power("broker").cycle()
        trial.note("power cut")
    trial.finish(order)


@scenario(
    "power-cut-coordinator",
    fault="power cut of the coordinator, whose disk loses what was not synced",
    needs=("coordinator-power",),
)
def power_cut_coordinator(trial: Trial) -> None:
    """The coordinator loses its power three times in a session, and each time what its disk was not told to keep."""
    disk = disk_of(trial, COORDINATOR, 32)
    trial.open()
    _cut_often(trial, Supply(process_of(trial, COORDINATOR), disk=disk))


@scenario(
    "power-cut-site",
    fault="power cut of everything at once",
    needs=("local-pile", "cpython", "broker-power", "coordinator-power"),
)
def power_cut_site(trial: Trial) -> None:
    """Pile, broker and coordinator lose their power together, three times in a session."""
    disks = {who: disk_of(trial, who, 32) for who in (trial.pile, COORDINATOR)}
    trial.open()
    order = trial.begin()
    supplies = [Supply(process_of(trial, who), disk=disk) for who, disk in disks.items()]
    for number in range(1, CUTS + 1):
        trial.await_energy(order, number * order.energy_wh // (CUTS + 1))
        trial.power("broker").off()
        for supply in supplies:
            supply.cut()
        trial.note("power cut")
        for supply in supplies:
            supply.restore()
        trial.power("broker").on()
        trial.note("power is back")
    trial.finish(order)


@scenario("power-cut-begin", fault="power cut of a pile at the begin of a session", needs=("local-pile", "cpython"))
def power_cut_begin(trial: Trial) -> None:
    """The power goes as soon as the pile has been asked to start, and with it what was not synced."""
    disk = disk_of(trial, trial.pile)
    trial.open()
    order = trial.sign()
    supply = Supply(process_of(trial, trial.pile), disk=disk)
    trial.start(order, until=lambda: "user asks to start" in trial.agent().log())
    supply.cut()
    trial.note("power cut")
    supply.restore()
    trial.start(order)
    trial.finish(order)
