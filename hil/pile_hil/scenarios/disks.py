"""Disks that are full, break down, are slow or fail, under the journal of a pile and under ledger and evidence."""

from pathlib import Path

from pile_hil.faults.syscalls import failing_sync, slow_sync
from pile_hil.scenarios.registry import scenario
from pile_hil.trials.between import COORDINATOR, disk_of, process_of
from pile_hil.trials.trial import Trial

PILE = ("local-pile", "cpython")
SITE = ("coordinator-power",)
SLOW_MS = 200
MOST_MS = 2000  # of a disk that is about to die


def _restart(trial: Trial, who: str) -> None:
    """As systemd would: what could not write has ended, and is started again once it can."""
    process = process_of(trial, who)
    trial.wait(lambda: not process.running, f"{who} to end")
    trial.note(f"{who} has ended")


@scenario("disk-full-journal", fault="a pile whose disk is full", needs=PILE)
def disk_full_journal(trial: Trial) -> None:
    """The disk of a charging pile is full, so its session cannot be proved on; when there is room it ends as it should."""
    disk = disk_of(trial, trial.pile, 8)
    trial.open()
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 3)
    disk.fill()
    trial.note("the disk is full")
    trial.await_said("journal is full")
    disk.free()
    trial.note("the disk has room")
    trial.finish(order)


@scenario("disk-full-ledger", fault="a coordinator whose disk is full", needs=SITE)
def disk_full_ledger(trial: Trial) -> None:
    """The coordinator's disk is full: it commits nothing more and ends; with room again it goes on where it was."""
    disk = disk_of(trial, COORDINATOR, 32)
    trial.open()
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 3)
    disk.fill()
    trial.note("the disk is full")
    _restart(trial, COORDINATOR)
    disk.free()
    trial.power(COORDINATOR).on()
    trial.finish(order)


@scenario("disk-read-only", fault="a pile whose disk breaks down and is read-only", needs=PILE)
def disk_read_only(trial: Trial) -> None:
    """The kernel finds the pile's disk damaged: the agent opens the contactor and ends; on the mended disk it goes on."""
    disk = disk_of(trial, trial.pile)
    trial.open()
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 3)
    disk.break_down()
    trial.note("the disk is read-only")
    _restart(trial, trial.pile)
    disk.restore()
    trial.agent().start()
    trial.finish(order)


@scenario("disk-read-only-ledger", fault="a coordinator whose disk breaks down and is read-only", needs=SITE)
def disk_read_only_ledger(trial: Trial) -> None:
    """The kernel finds the coordinator's disk damaged: it commits nothing more and ends; on the mended disk it goes on."""
    disk = disk_of(trial, COORDINATOR, 32)
    trial.open()
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 3)
    disk.break_down()
    trial.note("the disk is read-only")
    _restart(trial, COORDINATOR)
    disk.restore()
    trial.power(COORDINATOR).on()
    trial.finish(order)


def _slow(trial: Trial, who: str, delay_ms: int) -> None:
    trial.open()
    order = trial.begin()
    with slow_sync(process_of(trial, who).pid, delay_ms, trial.folder / "strace.txt") as slow:
        trial.note(f"each fsync of {who} takes {delay_ms} ms")
        trial.await_energy(order, order.energy_wh // 2)
        trial.wait(lambda: slow.count() > 2, f"{who} to sync")
    trial.finish(order)


@scenario("disk-slow-fsync", fault="a pile whose fsync takes two seconds", needs=PILE)
def disk_slow_fsync(trial: Trial) -> None:
    """Each fsync of the agent takes two seconds, as on an SD card that is about to die."""
    _slow(trial, trial.pile, MOST_MS)


@scenario("disk-slow-fsync-ledger", fault="a coordinator whose fsync takes 200 ms", needs=SITE)
def disk_slow_fsync_ledger(trial: Trial) -> None:
    """Each fsync of the coordinator takes 200 ms, as on a busy disk."""
    _slow(trial, COORDINATOR, SLOW_MS)


def _fails(trial: Trial, who: str) -> None:
    trial.open()
    order = trial.begin()
    trial.await_energy(order, order.energy_wh // 3)
    with failing_sync(process_of(trial, who).pid, Path(trial.folder / "strace.txt")):
        trial.note(f"fsync of {who} fails")
        _restart(trial, who)
    if who == COORDINATOR:
        trial.power(COORDINATOR).on()
    else:
        trial.agent().start()
    trial.finish(order)


@scenario("disk-eio-journal", fault="a pile whose fsync fails with EIO", needs=PILE)
def disk_eio_journal(trial: Trial) -> None:
    """An fsync of the agent fails: it believes its disk no more, opens the contactor and ends; started again it goes on."""
    _fails(trial, trial.pile)


@scenario("disk-eio-ledger", fault="a coordinator whose fsync fails with EIO", needs=SITE)
def disk_eio_ledger(trial: Trial) -> None:
    """An fsync of the coordinator fails: it acknowledges nothing more and ends; started again it goes on."""
    _fails(trial, COORDINATOR)
