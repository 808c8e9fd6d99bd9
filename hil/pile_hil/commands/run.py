"""`pilechain hil run`: scenarios on a rig. Exit status 0 if all passed, 1 if one failed or none ran, 130 if it was stopped."""

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pile_hil.commands.options import add_rig, need_hil
from pile_hil.commands.report import write
from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from pile_hil.scenarios.registry import Scenario
    from pile_hil.trials.runner import Verdict

EXIT_FAILED, EXIT_STOPPED = 1, 130
MAX_JOBS = 32  # sites side by side: five processes each
COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow", "stopped": "yellow"}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    run = commands.add_parser(
        "run",
        help="run scenarios of the fault catalogue",
        description="Each scenario gets a site of its own: processes, ports and a folder. Most of its time it waits, so"
        " several run at once. What happened is in --out: one folder for each, and a report (pilechain hil report).",
    )
    run.add_argument("names", nargs="*", metavar="NAME", help="scenarios; all of the catalogue if none is named")
    add_rig(run)
    run.add_argument("--jobs", type=int, default=4, metavar="N", help="sites side by side (default: %(default)s)")
    run.add_argument("--keep-going", action="store_true", help="go on after a scenario that failed")
    run.add_argument("--out", type=Path, default=Path("hil-out"), metavar="DIR", help="default: %(default)s")
    run.add_argument("--junit", type=Path, metavar="FILE", help="also write a JUnit XML file there")
    run.add_argument("--planted", default="", metavar="BUG", help="with a planted bug in the software, to see it found")
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need_hil()
    from pile_hil.lab.rig import Rig, rig_path  # noqa: PLC0415 - what the rig is made of
    from pile_hil.scenarios.registry import catalogue, find  # noqa: PLC0415
    from pile_hil.trials.runner import PASSED, SKIPPED, Runner  # noqa: PLC0415

    if not 1 <= options.jobs <= MAX_JOBS:
        raise ConfigError(f"--jobs must be 1 to {MAX_JOBS}")
    rig = Rig(rig_path(options.rig))
    scenarios = [find(name) for name in dict.fromkeys(options.names)] or list(catalogue().values())
    options.out.mkdir(parents=True, exist_ok=True)
    runner = Runner(rig, options.out.resolve(), planted=options.planted)
    before = {number: signal.signal(number, lambda *_: runner.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        verdicts = _watched(runner, scenarios, options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if verdicts:
        html, _ = write(options.out, None, options.junit)
        print(f"report: {html}")
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in COLOURS}
    not_run = len(scenarios) - len(verdicts)
    print(
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count or outcome == PASSED)
        + (f", {not_run} not begun" if not_run else "")
    )
    if counts["stopped"] or (not_run and not counts["failed"]):
        return EXIT_STOPPED
    if counts["failed"]:
        return EXIT_FAILED
    if counts[SKIPPED] == len(verdicts):
        print("nothing ran: this rig can run none of these; `pilechain hil list` says why")
        return EXIT_FAILED
    return 0


def _watched(runner: "object", scenarios: "list[Scenario]", options: argparse.Namespace) -> "list[Verdict]":
    """Run with a progress bar, and one line for each scenario as it ends."""
    from rich.console import Console  # noqa: PLC0415 - with what follows, only where something runs
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from pile_hil.trials.runner import Runner  # noqa: PLC0415

    assert isinstance(runner, Runner)
    console = Console(highlight=False, soft_wrap=True)
    under_way: dict[str, None] = {}
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("", total=len(scenarios))

        def began(one: "Scenario") -> None:
            under_way[one.name] = None
            progress.update(bar, description=", ".join(under_way))

        def ended(verdict: "Verdict") -> None:
            under_way.pop(verdict.scenario, None)
            progress.update(bar, advance=1, description=", ".join(under_way))
            colour = COLOURS[verdict.outcome]
            console.print(f"[{colour}]{verdict.outcome:<8}[/] {verdict.scenario:<32} {verdict.real_s:>6.1f} s", end="")
            console.print(f"  {verdict.why}" if verdict.why else "", markup=False)

        return runner.run(scenarios, jobs=options.jobs, keep_going=options.keep_going, began=began, ended=ended)
