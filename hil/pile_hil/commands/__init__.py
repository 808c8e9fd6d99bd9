"""`pilechain hil`: one module for each subcommand, with `add(commands)`; each imports what is heavy when it runs."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

MODULES = (  # one a line
    "listing",
    "run",
    "soak",
    "report",
    "simulate",
)


def add_hil(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `hil` and its subcommands."""
    hil = commands.add_parser(
        "hil",
        help="the rig: run the fault catalogue against simulated or real piles, and report",
        description="A rig runs whole sites, lets something go wrong in each, and holds what was signed and settled against"
        " what the meters really counted. Without --rig everything is simulated on this machine.",
    )
    subcommands = hil.add_subparsers(required=True, metavar="COMMAND")
    for module in MODULES:
        importlib.import_module(f"pile_hil.commands.{module}").add(subcommands)
