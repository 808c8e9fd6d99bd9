"""What several subcommands of `pilechain hil` share."""

import argparse
from importlib.util import find_spec

from pile_shared.errors import ConfigError

_NEEDED = ("labgrid", "matplotlib", "pymodbus", "paho")


def add_rig(parser: argparse.ArgumentParser) -> None:
    """Add --rig."""
    parser.add_argument(
        "--rig",
        default="sim",
        metavar="YAML",
        help="the rig's file, or sim, pi-bench or esp32-bench for one that comes along (default: %(default)s)",
    )


def need_hil() -> None:
    """ConfigError unless the rig's own dependencies are installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the rig needs {', '.join(missing)}: install pilechain[hil], or use `make hil` in a checkout"
        )
