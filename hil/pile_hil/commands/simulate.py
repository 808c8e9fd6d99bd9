"""`pilechain hil simulate`: seeds of the whole-system simulator. Exit status 0 if every check held, 1 if one did not."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from pile_hil.simulator.report import Report

EXIT_FAILED = 1
MAX_JOBS = 64
MAX_DAYS = 3660
SHOWN = 3  # failed seeds whose last events are shown


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    simulate = commands.add_parser(
        "simulate",
        help="the whole system on simulated time, from seeds",
        description="Each seed is a world: piles, drivers, a coordinator, faults. The software in it is the real one; time,"
        " disks, wires and meters are simulated. A seed that fails is printed, and replays exactly.",
        epilog="Example: pilechain hil simulate --seeds 1-1000 --jobs 2 (docs/simulator.md)",
    )
    add_options(simulate)
    simulate.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seeds", default="1-100", metavar="A-B", help="from one seed to another (default: %(default)s)"
    )
    seeds.add_argument("--seed", type=int, metavar="N", help="one seed")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--days", type=int, default=0, metavar="D", help="a site of 20 piles for so many days, instead of busy hours"
    )
    parser.add_argument("--trace", action="store_true", help="show everything that happens; for one seed")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what came of it there, as JSON")
    parser.add_argument(
        "--planted", default="", metavar="BUG", help="with a planted bug in the software, to see it found"
    )


def run(options: argparse.Namespace) -> int:
    """Run the seeds."""
    missing = [name for name in ("paho", "rich", "sqlalchemy") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the simulator needs {', '.join(missing)}: install pilechain[hil], or use a checkout")
    seeds = _seeds(options)
    if options.planted:
        return _run_planted(options)
    from pile_hil.simulator.report import Report  # noqa: PLC0415 - the whole coordinator comes with it
    from pile_hil.simulator.run import simulate, simulate_all  # noqa: PLC0415

    report = Report(options.days)
    if options.trace:
        report.add(simulate(seeds[0], days=options.days, show=print))
    else:
        _watched(simulate_all(seeds, days=options.days, jobs=options.jobs), len(seeds), report, first=options.first)
    _tell(report)
    if options.report is not None:
        options.report.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    return EXIT_FAILED if report.failed else 0


def _seeds(options: argparse.Namespace) -> range:
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    else:
        found = re.fullmatch(r"(\d+)-(\d+)", options.seeds)
        if not found or int(found[2]) < int(found[1]):
            raise ConfigError(f"--seeds {options.seeds}: expected two numbers, as in 1-1000")
        seeds = range(int(found[1]), int(found[2]) + 1)
    if seeds[0] < 0 or not 1 <= options.jobs <= MAX_JOBS or not 0 <= options.days <= MAX_DAYS:
        raise ConfigError(f"a seed is at least 0, --jobs 1 to {MAX_JOBS}, --days 0 to {MAX_DAYS}")
    if options.trace and len(seeds) > 1:
        raise ConfigError("--trace is for one seed: use --seed N")
    return seeds


def _run_planted(options: argparse.Namespace) -> int:
    """The same, by a process that runs the copy with the bug."""
    from pile_hil.planted import planted_tree, python_path  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="pilechain-planted-") as folder:
        tree = planted_tree(options.planted, Path(folder))
        words = ["--seeds", options.seeds] if options.seed is None else ["--seed", str(options.seed)]
        words += ["--jobs", str(options.jobs), "--days", str(options.days)]
        words += ["--trace"] if options.trace else []
        words += ["--first"] if options.first else []
        words += ["--report", str(options.report.resolve())] if options.report else []
        environment = {**os.environ, "PYTHONPATH": python_path(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pile_hil.simulator", *words]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - ourselves


def _watched(outcomes: "object", total: int, report: "Report", *, first: bool) -> None:
    """Take outcomes as they come, with a progress bar on a terminal, and a line for each seed that fails."""
    from rich.console import Console  # noqa: PLC0415 - only where something runs
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from pile_hil.simulator.run import Outcome  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("", total=total)
        for outcome in outcomes:  # type: ignore[attr-defined]
            assert isinstance(outcome, Outcome)
            report.add(outcome)
            progress.update(bar, advance=1, description=report.pace())
            if outcome.code:
                console.print(f"seed {outcome.seed} failed: {outcome.code}: {outcome.found}", markup=False)
                if first:
                    return


def _tell(report: "Report") -> None:
    for outcome in report.failed[:SHOWN]:
        print(f"\nseed {outcome.seed} failed: {outcome.code}: {outcome.found}\nits last events (ms, who, what):")
        print("\n".join(outcome.last))
        print(f"replay it: {report.replay(outcome.seed)}")
    print(report.summary())
