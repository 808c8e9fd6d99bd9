"""`pilechain hil report`: what a folder of trials says, as HTML with plots and as JUnit XML."""

import argparse
from pathlib import Path

from pile_hil.commands.options import need_hil


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    report = commands.add_parser(
        "report",
        help="an HTML page with plots, and JUnit XML, from the folder of a run",
        description="One page that needs nothing else: for each scenario what flowed, was signed and was settled over time,"
        " its verdict, and the ends of its logs. `pilechain hil run` writes it by itself.",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of `pilechain hil run`")
    report.add_argument("--html", type=Path, metavar="FILE", help="default: report.html in DIR")
    report.add_argument("--junit", type=Path, metavar="FILE", help="default: junit.xml in DIR")
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need_hil()
    html, junit = write(options.folder, options.html, options.junit)
    print(f"wrote {html} and {junit}")
    return 0


def write(folder: Path, html: Path | None, junit: Path | None) -> tuple[Path, Path]:
    """Write both files and say where they are; ConfigError if there is no trial in the folder."""
    from pile_hil.trials.report import HTML, JUNIT, verdicts_of, write_html, write_junit  # noqa: PLC0415 - matplotlib

    trials = verdicts_of(folder)
    html, junit = html or folder / HTML, junit or folder / JUNIT
    write_junit(trials, junit)
    write_html(trials, html)
    return html, junit
