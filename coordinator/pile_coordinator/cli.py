"""`pilechain`: run a coordinator, use a wallet, verify certificates, see the demo."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pile_coordinator.config import COMET, SOLO, CoordinatorConfig, load_config
from pile_coordinator.log_line import log
from pile_coordinator.notify import tell_systemd
from pile_shared.errors import ConfigError, PilechainError

# What a command is in, by its name; each module has an add_command(subparsers).
COMMANDS = {
    "init": "network_cli",
    "network": "network_cli",
    "site": "site_cli",
    "wallet": "wallet_cli.command",
    "verify": "verify_cli",
    "verify-worker": "verifying.cli",
    "replay": "replay_cli",
    "evidence": "evidence_cli",
    "export": "export_cli",
    "web": "web_cli",
    "backup": "keeping.cli",
    "restore": "keeping.cli",
    "mirror": "keeping.cli",
    "upgrade": "keeping.cli",
    "doctor": "doctor.doctor_cli",
    "install": "installing.services_cli",
}
EXIT_FAILED, EXIT_USAGE = 1, 2


class _Parser(argparse.ArgumentParser):
    """Tells a wrong call as JSON to whom asked for JSON."""

    wants_json = False

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        if _Parser.wants_json:
            from pile_coordinator.wallet_cli.command import tell  # noqa: PLC0415 - what only a mistake needs

            tell("usage", f"{self.prog}: {message}", as_json=True)
            self.exit(EXIT_USAGE)
        super().error(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status is 0, 1 if the thing asked for failed, 2 if it was asked wrongly."""
    words = sys.argv[1:] if arguments is None else arguments
    _Parser.wants_json = "--json" in words
    options = _parser(words).parse_args(words)
    try:
        status: int = options.run(options)
    except ConfigError as error:
        sys.stderr.write(f"pilechain: {error}\n")
        return EXIT_USAGE
    except PilechainError as error:
        sys.stderr.write(f"pilechain: {error.code}: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return status


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="pilechain",
        description="Settle charging on shared private piles: signed meter readings become money both sides can recompute.",
        epilog="Start with: pilechain demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    # Most of the time of a start would go to what other commands need, and a node of a network starts two processes.
    first = words[0] if words else ""
    if first in commands.choices:
        return parser
    if list(words[:2]) == ["init", "site"]:
        _add(commands, "site_init_cli")
        return parser
    if first in COMMANDS:
        _add(commands, COMMANDS[first])
        return parser
    from importlib.metadata import entry_points  # noqa: PLC0415 - takes as long as a small command

    others = entry_points(group="pilechain.commands")
    if first not in others.names:
        for name in dict.fromkeys(COMMANDS.values()):
            _add(commands, name)
    for entry in others.select(name=first) or others:
        entry.load()(commands)
    return parser


def _add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", module: str) -> None:
    importlib.import_module("pile_coordinator." + module).add_command(commands)


class _Version(argparse.Action):
    """Reads the version when it is asked for: `importlib.metadata` takes as long to load as a small command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and end."""
        from importlib.metadata import version  # noqa: PLC0415

        print(f"pilechain {version('pilechain')}")
        parser.exit()


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = commands.add_parser(
        "run",
        help="run a coordinator",
        description="Run a coordinator. With the solo engine it is one process, without fault tolerance. With the comet engine"
        " it is a node of a network: the application and its CometBFT are started together and kept up, and the node"
        " serves piles and wallets too if its file names a party. Stop it with Ctrl-C or SIGTERM.",
        epilog="Example: pilechain run --config coordinator.toml (docs/operator.md and docs/network.md explain every key)",
    )
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="the coordinator's TOML file")
    run.add_argument(
        "--engine", choices=(SOLO, COMET), help="what the file must say, to be sure (default: what it says)"
    )
    run.add_argument(
        "--without-node",
        action="store_true",
        help="the application alone: you keep CometBFT up yourself (comet engine)",
    )
    run.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # ends with this process
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    if options.engine not in {None, config.engine}:
        raise ConfigError(f'{options.config}: engine = "{config.engine}"; expected "{options.engine}", as you ask for')
    if config.comet is not None and not options.without_node:
        from pile_coordinator.engines.comet.home import Home  # noqa: PLC0415 - see _run_here
        from pile_coordinator.engines.comet.supervise import Supervisor, on_signals  # noqa: PLC0415

        supervisor = Supervisor(options.config, Home(config.comet.home), log)
        on_signals(supervisor.stop)
        supervisor.run()
        return 0
    return _run_here(config, options.parent)


def _run_here(config: CoordinatorConfig, parent: int | None) -> int:
    from pile_coordinator.engines.comet.supervise import on_signals  # noqa: PLC0415
    from pile_coordinator.service import Coordinator  # noqa: PLC0415 - heavy, and a supervisor needs none of it

    coordinator = Coordinator(config)
    on_signals(coordinator.stop)
    tell_systemd("READY=1")
    coordinator.run(while_parent=parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
