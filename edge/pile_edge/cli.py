"""The `pile-edge` command, on CPython."""

import argparse
import importlib
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pile_edge.commands import new_parser
from pile_edge.config_file import compile_config, load_config
from pile_shared.errors import PilechainError

# What a command is in pile_edge.commands; each module has an add_command(subparsers).
COMMANDS = {
    "flash": "flash",
    "fleet": "fleet",
    "install": "install",
    "key": "key",
    "meters": "meters",
    "ocmf": "ocmf",
    "provision": "provision",
    "read": "meters",
    "scan": "meters",
    "update": "update",
    "verify-journal": "verify_journal",
}
EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2
CHECK = "\n  check: "  # between an error and what to do about it

_EPILOG = """examples:
  pile-edge meters eastron                          the meters there is a profile for
  pile-edge scan --port /dev/ttyUSB0                find and name the meters on a bus
  pile-edge provision --config pile.toml            make the key, and the request that registers the pile
  pile-edge read --config pile.toml                 one reading of the meter
  pile-edge run --config pile.toml --dry-run        reads and signs; prints what it would publish and switch
  pile-edge run --config pile.toml                  the light client
  pile-edge install --config pile.toml              make a service of it
  pile-edge flash --config pile.toml --port PORT    put all of it on an ESP32
  pile-edge ocmf --config pile.toml                 the signed begin and end records of its sessions
  pile-edge verify-journal --config pile.toml       what the journal holds, and whether all of it checks

Each command explains itself with --help. With --json everything is JSON, errors too: {"error": code, "message", "check"}.

exit codes: 0 done, 1 failed, 2 wrong configuration or arguments"""


_RUN_EPILOG = """examples:
  pile-edge run --config pile.toml --dry-run        try it: reads and signs, switches and publishes nothing
  pile-edge run --config pile.toml                  the light client; `pile-edge install` makes a service of it

What the log says, and what to do about it, is in docs/pile.md. When the meter fails, the next line says what to check."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except PilechainError as error:
        _complain(error.code, str(error), as_json=getattr(options, "json", False))
        return EXIT_CONFIG if error.code == "config" else EXIT_FAILED
    except OSError as error:
        _complain("system", str(error), as_json=getattr(options, "json", False))
        return EXIT_FAILED


def _complain(code: str, text: str, *, as_json: bool) -> None:
    """On stderr for people; for programs also on stdout, where they look for the answer."""
    print(f"pile-edge: {text}", file=sys.stderr)
    message, _, check = text.partition(CHECK)
    if as_json:
        print(json.dumps({"error": code, "message": message, "check": check}))


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pile-edge",
        description="The light client on a charging pile: reads the meter, proves, publishes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = new_parser(
        commands,
        "run",
        "run the light client until SIGTERM",
        description="Read the meter, prove, publish, and switch for contracts that are certified, until SIGTERM or Ctrl-C.",
        epilog=_RUN_EPILOG,
    )
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="the pile's TOML file")
    run.add_argument("--dry-run", action="store_true", help="publish, switch and keep nothing; print what would be")
    run.add_argument("--json", action="store_true", help="for programs: the log as one JSON object a line")
    run.set_defaults(run=_run)
    compiling = commands.add_parser("compile-config", help="make the configuration for a board")
    compiling.add_argument("source", type=Path, help="TOML file")
    compiling.add_argument("target", type=Path, help="CBOR file to write")
    compiling.set_defaults(run=_compile)
    image = commands.add_parser("image", help="make a board's flash image: the agent, linked and compiled")
    image.add_argument("target", type=Path, help="ROMFS file to write; deploy it with: mpremote romfs deploy FILE")
    image.set_defaults(run=_image)
    # A pile that starts its agent need not load what an installer uses.
    first = words[0] if words else ""
    known = {COMMANDS[first]} if first in COMMANDS else set() if first in commands.choices else set(COMMANDS.values())
    for name in sorted(known):
        importlib.import_module("pile_edge.commands." + name).add_command(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    from pile_edge.advising import Sayer, SayingPort
    from pile_edge.dry_run import run_dry
    from pile_edge.ocmf_records import RecordingAgent
    from pile_edge.ports.cpython_storage import only_user

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stopping.append(got))
    config, say = load_config(options.config), Sayer(as_json=options.json)
    if options.dry_run:
        run_dry(config, lambda: bool(stopping), say)
    else:
        with only_user(config.journal_path):  # first of all: an agent begins by opening the contactor
            RecordingAgent(config, SayingPort(say)).run(lambda: bool(stopping))
    return EXIT_OK


def _compile(options: argparse.Namespace) -> int:
    size_bytes = compile_config(options.source, options.target)
    print(f"{options.target}: {size_bytes} bytes")
    return EXIT_OK


def _image(options: argparse.Namespace) -> int:
    from pile_edge.board.bundle import build_romfs, link_bundle

    with tempfile.TemporaryDirectory() as folder:
        link_bundle(Path(folder))
        data = build_romfs(Path(folder))
    options.target.write_bytes(data)
    print(f"{options.target}: {len(data)} bytes")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
