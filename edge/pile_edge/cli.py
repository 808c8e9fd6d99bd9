"""The `pile-edge` command, on CPython."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pile_edge import journal_check
from pile_edge.config_file import compile_config, load_config
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

EXIT_OK, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2

_EPILOG = """examples:
  pile-edge key --config pile.toml                  make the key, show what registering the pile needs
  pile-edge read --config pile.toml                 one reading of the meter
  pile-edge run --config pile.toml --dry-run        reads and signs; prints what it would publish and switch
  pile-edge run --config pile.toml                  the light client
  pile-edge verify-journal --config pile.toml       what the journal holds, and whether all of it checks
  pile-edge compile-config pile.toml pile.cbor      the configuration for a board
  pile-edge image pile.romfs                        the agent for a board's flash

exit codes: 0 done, 1 failed, 2 wrong configuration or arguments"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except PilechainError as error:
        print(f"pile-edge: {error}", file=sys.stderr)
        return EXIT_CONFIG if error.code == "config" else EXIT_FAILED
    except OSError as error:
        print(f"pile-edge: {error}", file=sys.stderr)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pile-edge",
        description="The light client on a charging pile: reads the meter, proves, publishes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = _command(commands, "run", "run the light client until SIGTERM", _run)
    run.add_argument("--dry-run", action="store_true", help="publish, switch and keep nothing; print what would be")
    key = _command(commands, "key", "make the key if it is missing, and show it", _key)
    key.add_argument("--json", action="store_true", help="for programs")
    _command(commands, "read", "one decoded reading of the meter", _read)
    journal_check.add_commands(commands)
    compiling = commands.add_parser("compile-config", help="make the configuration for a board")
    compiling.add_argument("source", type=Path, help="TOML file")
    compiling.add_argument("target", type=Path, help="CBOR file to write")
    compiling.set_defaults(run=_compile)
    image = commands.add_parser("image", help="make a board's flash image: the agent, linked and compiled")
    image.add_argument("target", type=Path, help="ROMFS file to write; deploy it with: mpremote romfs deploy FILE")
    image.set_defaults(run=_image)
    return parser


def _command(commands, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def] # noqa: ANN001 - argparse hides the type
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the pile's TOML file")
    command.set_defaults(run=run)
    return command


def _run(options: argparse.Namespace) -> int:
    from pile_edge.agent import Agent
    from pile_edge.dry_run import run_dry
    from pile_edge.ports import cpython as port

    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: stopping.append(got))
    config = load_config(options.config)
    if options.dry_run:
        run_dry(config, lambda: bool(stopping))
    else:
        Agent(config, port).run(lambda: bool(stopping))
    return EXIT_OK


def _key(options: argparse.Namespace) -> int:
    from pile_edge.signers import open_signer

    config = load_config(options.config)
    public = open_signer(config.signer).public
    digest = sha256(public).hex()
    if options.json:
        print(json.dumps({"pile_id": config.pile_id, "public": public.hex(), "fingerprint": digest}))
        return EXIT_OK
    print(f"pile         {config.pile_id}")
    print(f"public key   {public.hex()}")
    print(f"fingerprint  {' '.join(digest[i : i + 4] for i in range(0, len(digest), 4))}")
    return EXIT_OK


def _read(options: argparse.Namespace) -> int:
    from pile_edge.meters.decode import MeterReader
    from pile_edge.ports import cpython as port

    config = load_config(options.config)
    bus = port.open_bus(config.bus)
    try:
        sample = MeterReader(bus, config.profile, config.unit).read()
    finally:
        bus.close()
    print(_reading_text(port.wall_ms(), sample.raw, sample.energy_wh, sample.power_w))
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
