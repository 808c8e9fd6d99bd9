"""The `pile-edge` command, on CPython."""

import argparse
import importlib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pile_edge.config_file import compile_config, load_config
from pile_shared.errors import PilechainError

# What a command is in pile_edge.commands; each module has an add_command(subparsers).
COMMANDS = {
    "flash": "flash",
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

exit codes: 0 done, 1 failed, 2 wrong configuration or arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except PilechainError as error:
        print(f"pile-edge: {error}", file=sys.stderr)
        return EXIT_CONFIG if error.code == "config" else EXIT_FAILED
    except OSError as error:
        print(f"pile-edge: {error}", file=sys.stderr)
        return EXIT_FAILED


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pile-edge",
        description="The light client on a charging pile: reads the meter, proves, publishes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = _command(commands, "run", "run the light client until SIGTERM", _run)
    run.add_argument("--dry-run", action="store_true", help="publish, switch and keep nothing; print what would be")
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


def _command(commands, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def] # noqa: ANN001 - argparse hides the type
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the pile's TOML file")
    command.set_defaults(run=run)
    return command


def _run(options: argparse.Namespace) -> int:
    from pile_edge.dry_run import run_dry
    from pile_edge.ocmf_records import RecordingAgent
    from pile_edge.ports import cpython as port

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stopping.append(got))
    config = load_config(options.config)
    if options.dry_run:
        run_dry(config, lambda: bool(stopping))
    else:
        RecordingAgent(config, port).run(lambda: bool(stopping))
    return EXIT_OK


def _reading_text(time_ms: int, raw: bytes, energy_wh: int, power_w: int) -> str:
    return f"time_ms {time_ms}  energy_wh {energy_wh}  power_w {power_w}  raw {raw.hex()}"


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
