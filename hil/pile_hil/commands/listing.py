"""`pilechain hil list`: the catalogue, and what of it a rig can run."""

import argparse

from pile_hil.commands.options import add_rig, need_hil


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    listing = commands.add_parser(
        "list",
        help="the fault catalogue, and why a rig cannot run what it cannot",
        description="One line for each scenario: its name, the fault, what happens; or why this rig skips it.",
    )
    add_rig(listing)
    listing.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need_hil()
    from rich.console import Console  # noqa: PLC0415 - with what follows, what the rig is made of
    from rich.table import Table  # noqa: PLC0415

    from pile_hil.lab.protocols import RigError  # noqa: PLC0415
    from pile_hil.lab.rig import Rig, rig_path  # noqa: PLC0415
    from pile_hil.scenarios.registry import catalogue  # noqa: PLC0415

    rig = Rig(rig_path(options.rig))
    table = Table("scenario", "fault", "what happens", box=None, pad_edge=False)
    for one in catalogue().values():
        try:
            rig.pick(one.needs, one.piles)
            table.add_row(one.name, one.fault, one.about)
        except RigError as error:
            table.add_row(one.name, one.fault, f"skipped: {error}")
    Console(soft_wrap=True).print(table)
    return 0
