"""`pilechain evidence`: ask the evidence database."""

from typing import TYPE_CHECKING

from pile_coordinator import evidence_stats_cli, evidence_trace_cli

if TYPE_CHECKING:
    import argparse


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `evidence` and its commands to the command line."""
    evidence = commands.add_parser(
        "evidence",
        help="trace any kWh, and count them all",
        description="Ask the evidence database, which a coordinator writes from committed blocks.",
        epilog="Start with: pilechain evidence stats --evidence data/evidence.sqlite",
    )
    asked = evidence.add_subparsers(required=True, metavar="QUESTION")
    evidence_trace_cli.add_command(asked)
    evidence_stats_cli.add_command(asked)
