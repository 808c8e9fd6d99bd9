"""Clocks that leap and drift, of a pile and of the coordinator, in the middle of a session. Times are the site's."""

from pile_hil.scenarios.registry import scenario
from pile_hil.trials.between import COORDINATOR, clock_of, process_of, real_ms
from pile_hil.trials.facts import Expects
from pile_hil.trials.trial import ORDER_WH, Trial

PILE = ("local-pile", "cpython")
SITE = ("coordinator-power",)
DAY = 24 * 60
LONG_WH = 10_000  # so long that a little too much power all the while is more than the chain bears


def _leap(trial: Trial, who: str, minutes: int, energy_wh: int = ORDER_WH) -> None:
    """A session in which a clock leaps."""
    clock = clock_of(trial, who)
    trial.open()
    order = trial.begin(energy_wh)
    trial.await_energy(order, ORDER_WH // 4)
    clock.leap(real_ms(trial, minutes))
    trial.note(f"the clock of {who} leaps by {minutes} minutes")
    trial.finish(order)


@scenario("clock-back", fault="a pile's clock is set back by half an hour", needs=PILE)
def clock_back(trial: Trial) -> None:
    """The pile's clock is set back by half an hour under load: it goes on more slowly, but not so that power looks wrong."""
    _leap(trial, trial.pile, -30, LONG_WH)


@scenario("clock-back-day", fault="a pile's clock is set back by a day", needs=PILE)
def clock_back_day(trial: Trial) -> None:
    """The pile's clock is set back by a day under load."""
    _leap(trial, trial.pile, -DAY, LONG_WH)


@scenario("clock-forward", fault="a pile's clock is set forward by eight minutes", needs=PILE)
def clock_forward(trial: Trial) -> None:
    """The pile's clock leaps forward under load, by less than the chain tolerates."""
    _leap(trial, trial.pile, 8)


@scenario(
    "clock-forward-hours",
    fault="a pile's clock is set forward by three hours",
    needs=PILE,
    expects=Expects(anomaly="clock ahead"),
)
def clock_forward_hours(trial: Trial) -> None:
    """The pile's clock leaps forward by more than is believed: the order ends at its last believed reading, and says why."""
    _leap(trial, trial.pile, 180)


@scenario("clock-drift-slow", fault="a pile's clock that is 4 % slow", needs=PILE)
def clock_drift_slow(trial: Trial) -> None:
    """The pile's clock falls behind by 40 ms each second: more power than there is, as far as the chain tolerates."""
    _drift(trial, -40)


@scenario("clock-drift-fast", fault="a pile's clock that is 10 % fast", needs=PILE)
def clock_drift_fast(trial: Trial) -> None:
    """The pile's clock gains 100 ms each second, all through a session."""
    _drift(trial, 100)


def _drift(trial: Trial, permille: int) -> None:
    clock = clock_of(trial, trial.pile)
    trial.open()
    order = trial.begin()
    clock.drift(permille)
    trial.finish(order)
    clock.stop_drift()


@scenario("coordinator-clock-forward", fault="the coordinator's clock is set forward by a day", needs=SITE)
def coordinator_clock_forward(trial: Trial) -> None:
    """The coordinator's clock leaps a day ahead: blocks keep their time, no window passes, and the order is settled."""
    _leap(trial, COORDINATOR, DAY)
    _was_held(trial)


@scenario("coordinator-clock-back", fault="the coordinator's clock is set back by three hours", needs=SITE)
def coordinator_clock_back(trial: Trial) -> None:
    """The coordinator's clock is set back: blocks keep their time, so that piles are not ahead of it."""
    _leap(trial, COORDINATOR, -180)
    _was_held(trial)


@scenario("coordinator-clock-drift", fault="the coordinator's clock is 2 % fast", needs=SITE)
def coordinator_clock_drift(trial: Trial) -> None:
    """The coordinator's clock gains 20 ms each second, all through a session."""
    clock = clock_of(trial, COORDINATOR)
    trial.open()
    order = trial.begin()
    clock.drift(20)
    trial.finish(order)
    clock.stop_drift()


def _was_held(trial: Trial) -> None:
    """The coordinator has said that it does not believe its clock."""
    trial.wait(
        lambda: "NTP does not vouch for it" in process_of(trial, COORDINATOR).text(), "the coordinator to say so"
    )
