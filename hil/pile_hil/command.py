"""Adds `demo` and `hil` to `pilechain`. Imports nothing heavy, so that a coordinator without the rig extra starts as ever."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from pile_hil.commands import add_hil
from pile_shared.errors import ConfigError

_NEEDED = ("amqtt", "paho", "pymodbus", "serial")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both; the second of their entry points finds them there."""
    if "demo" in commands.choices:
        return
    add_hil(commands)
    demo = commands.add_parser(
        "demo",
        help="see the whole path once: from two meters to settled money, half a minute",
        description="Run simulated meters and cars, two piles, a broker and a coordinator on this machine, let two drivers"
        " charge, settle both orders, and write one certificate each. Everything listens on 127.0.0.1 only.",
    )
    demo.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="default: %(default)s")
    demo.add_argument(
        "--network",
        action="store_true",
        help="with four accounting nodes on CometBFT and two operators, instead of one coordinator (about two minutes)",
    )
    demo.add_argument(
        "--keep",
        action="store_true",
        help="go on after the story: drivers keep charging and the dashboard stays open, until Ctrl-C",
    )
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the demo needs {', '.join(missing)}: install pilechain[rig], or use `make demo` in a checkout"
        )
    from pile_hil.demo import run  # noqa: PLC0415 - what it needs is an extra

    if options.network:
        from pile_coordinator.engines.comet.supervise import find_cometbft  # noqa: PLC0415 - likewise

        find_cometbft()  # says how to get it
    return run(options.out, network=options.network, keep=options.keep)
