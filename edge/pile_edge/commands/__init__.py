"""The commands of `pile-edge`, one module each, with an `add_command(subparsers)`; here is what their parsers share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def new_parser(
    commands: Any, name: str, brief: str, *, description: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A parser among `commands`, whose help keeps the lines of `description` and `epilog` as they are."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=brief,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def usual_options(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    *,
    config: str | None = "the pile's TOML file",
) -> None:
    """Have `run` called; add --json and, unless its help `config` is None, --config, which must be given."""
    if config is not None:
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=config)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)
