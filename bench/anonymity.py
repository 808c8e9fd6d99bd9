"""How often who has the whole ledger guesses who paid, over months of drivers (docs/anonymity.md), beside blind chance."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from bench.figures import Figure

sys.path.append(str(Path(__file__).parent.parent / "coordinator/tests"))
simulated = importlib.import_module("note_months")  # drivers and observer are the tests': they hold the first line
observer = importlib.import_module("observer")
Habits, one_big_note = simulated.Habits, simulated.one_big_note

HOUR = 3_600_000
DRIVERS, WEEKS = 48, 12
CHANCE_PERCENT = 100 / 16
LARGEST = (0,) * 7
ONE_EACH = (1,) * 8
SMALL_WH = (3000, 4000, 5000)

CASES: dict[str, Any] = {
    "one-note": Habits(DRIVERS, WEEKS, (*LARGEST, 1), one_big_note),
    "change": Habits(DRIVERS, WEEKS, (*LARGEST, 1), simulated.one_note, every_weeks=2, energies_wh=SMALL_WH),
    **{
        f"{held}-of-16": Habits(DRIVERS, 2 * held, (*LARGEST, held), one_big_note, every_weeks=held)
        for held in (2, 4, 8)
    },
    **{f"{count}-notes": Habits(DRIVERS, WEEKS, ONE_EACH, simulated.of(count)) for count in (2, 3, 4)},
    "redeemed": Habits(DRIVERS, WEEKS, (*LARGEST, 1), one_big_note, redeem=True),
    "bought-again": Habits(DRIVERS, WEEKS, (*LARGEST, 1), one_big_note, every_weeks=WEEKS, impulsive=True),
}


def figures() -> Iterator[Figure]:
    """Percent of right guesses for each way to use notes; only the first has a target."""
    with Progress(transient=True) as progress:
        for name, habits in CASES.items():
            task = progress.add_task(f"{name}, weeks", total=habits.weeks)
            months = simulated.Months(habits, told=_shown(progress, task))
            progress.remove_task(task)
            if habits.impulsive:
                months.view.prior = _bought_since(months)
            yield _figure(name, months, months.view, "<= 1.2" if name == "one-note" else "")
            if name == "one-note":
                yield from _outside(months)


def _shown(progress: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda week: progress.update(task, completed=week)


def _outside(months: Any) -> Iterator[Figure]:
    """What the same ledger tells somebody who knows more, or thinks about habits."""
    view = months.view
    view.prior = lambda payment, party: 1.0 if payment.habit.startswith(f"{months.home[party]} ") else 1e-6
    yield _figure("homes-known", months, view)
    for weeks in (1, 2, 3, 4, 8):
        until = simulated.NOW + (1 + 7 * weeks) * simulated.DAY
        part = observer.View(view.notes, [payment for payment in view.payments if payment.time_ms < until])
        part.same = lambda payment: payment.habit
        yield _figure(f"habit-{weeks}-weeks", months, part)


def _bought_since(months: Any) -> Callable[[Any, str], float]:
    bought: dict[str, set[int]] = {}
    for notes in months.view.notes.values():
        for owner, time_ms in notes:
            bought.setdefault(owner, set()).add(time_ms)

    def likely(payment: Any, party: str) -> float:
        begin = payment.time_ms
        return 50.0 if any(begin <= time_ms < begin + HOUR for time_ms in bought.get(party, ())) else 1.0

    return likely


def _figure(name: str, months: Any, view: Any, target: str = "") -> Figure:
    beliefs = observer.Observer(view).run()
    orders = [payment.order for payment in view.payments if not payment.payee]
    right = sum(_share_of_best(beliefs[order], months.truth[order]) for order in orders)
    stated = sum(max(beliefs[order].values(), default=0) for order in orders)
    held = f"blind chance; the observer states {100 * stated / len(orders):.1f} % over {len(orders)} orders"
    return Figure(f"anonymity-{name}", 100 * right / len(orders), "%", CHANCE_PERCENT, held, target)


def _share_of_best(belief: dict[str, float], driver: str) -> float:
    """How likely a toss between the likeliest is right."""
    best = [party for party, share in belief.items() if share >= max(belief.values()) * (1 - 1e-9)]
    return (driver in best) / max(1, len(best))
