"""Puts `pilechain wallet` together: its options, its actions grouped by who does them, and how a refusal is told."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from pile_coordinator.advice import next_step
from pile_coordinator.config import load_genesis
from pile_coordinator.keys import make_key
from pile_coordinator.wallet import DEFAULT_TIMEOUT_S
from pile_coordinator.wallet_cli import anonymous, everybody, officials, page, profile, show, staking, trading
from pile_coordinator.wallet_cli.access import Access
from pile_coordinator.wallet_cli.action import Action
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_id

EXIT_FAILED, EXIT_USAGE = 1, 2

GROUPS: tuple[tuple[str, tuple[Action, ...]], ...] = (
    ("everybody", everybody.ACTIONS),
    ("drivers (ev-owner)", (*trading.DRIVERS, *page.ACTIONS)),
    ("drivers who pay anonymously (ev-owner)", anonymous.ACTIONS),
    ("owners of piles (pile-owner)", trading.OWNERS),
    ("drivers and owners", trading.BOTH),
    ("operators and the grid", officials.OPERATORS),
    ("the treasury", officials.TREASURY),
    ("arbiters (third-party)", officials.ARBITERS),
    ("who backs accounting nodes (everybody)", staking.EVERYBODY),
    ("accounting nodes (grid, operator, third-party)", staking.NODES),
)

_DESCRIPTION = """\
Act as a party of a chain: sign transactions, ask questions, start and stop sessions.

Prices are in currency per kWh like 0.65, energy in whole Wh, times like 2026-11-23T08:30 (UTC) or unix milliseconds.
ORDER is the 64 hex digits of a contract, or of the bid it came from, as `bid` printed them."""

_EPILOG = """\
Example: pilechain wallet --key dan.key quote --zone north --energy 5000 --start 2026-11-23T08:30 --end 2026-11-23T10:00
Each action explains itself: pilechain wallet bid --help
Exit status: 0 done, 1 refused (with the reason and what to do next), 2 called wrongly."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `wallet` to the command line."""
    wallet = commands.add_parser(
        "wallet",
        help="act as a party: admit, list, quote, bid, charge, confirm, dispute, pay",
        description=_DESCRIPTION,
        epilog=f"{_grouped()}\n\n{_EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    profile.add_options(wallet)
    wallet.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S", help="seconds to wait for an answer"
    )
    wallet.add_argument("--json", action="store_true", help="print JSON, refusals too")
    actions = wallet.add_subparsers(required=True, metavar="ACTION", dest="action", help="one of those below")
    _add_new(actions)
    for _, group in GROUPS:
        for action in group:
            _add(actions, action)


def _grouped() -> str:
    """All actions by who does them."""
    lines = ["to begin with:", "  new                 Make a key in the file --key and show its public part."]
    for who, group in GROUPS:
        lines += ["", f"{who}:", *(f"  {action.name:<18}  {action.text}" for action in group)]
    return "\n".join(lines)


def _add(actions: "argparse._SubParsersAction[argparse.ArgumentParser]", action: Action) -> None:
    example = f"Example: pilechain wallet --key me.key {action.example}" if action.example else None
    parser = actions.add_parser(action.name, description=action.text, epilog=example)
    action.arguments(parser)
    _add_json(parser)
    parser.set_defaults(run=lambda options: _guarded(options, lambda: _connected(options, action)))


def _add_new(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    new = actions.add_parser("new", description="Make a key in the file --key and show its public part.")
    _add_json(new)

    def run(options: argparse.Namespace) -> object:
        profile.settle(options)
        public = make_key(_key_file(options)).public
        return {"public": public, "fingerprint": sha256(public)}

    new.set_defaults(run=lambda options: _guarded(options, lambda: run(options)))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _key_file(options: argparse.Namespace) -> Path:
    path: Path | None = options.key
    if path is None:
        raise ConfigError("this needs --key FILE; make a key with: pilechain wallet --key FILE new")
    return path


def _connected(options: argparse.Namespace, action: Action) -> object:
    """Do an action with a connected wallet; what to print."""
    broker, guests = profile.settle(options)
    key = _key_file(options)
    party = _party(options.party or key.name.partition(".")[0])
    access = Access(load_genesis(options.genesis), key, party, broker, options.timeout, guests)
    told = action.alone(access, options) if action.alone else None
    if told is None:
        told = anonymous.by_itself(access, action, options)
    if told is None and action.act is not None:
        with access.named() as wallet:
            told = action.act(wallet, options)
    return told


def _party(text: str) -> str:
    try:
        return check_id("--party", text)
    except PilechainError as error:
        raise ConfigError(str(error)) from error


def _guarded(options: argparse.Namespace, act: Callable[[], object]) -> int:
    """Act and print; a refusal is told with its code, its message and what to do next. The exit status."""
    try:
        show.write(act(), as_json=options.json)
    except PilechainError as error:
        tell(error.code, str(error), as_json=options.json)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    return 0


def tell(code: str, message: str, *, as_json: bool) -> None:
    """Say what went wrong: as JSON where answers go, else as text where errors go."""
    step = next_step(code)
    if as_json:
        sys.stdout.write(json.dumps({"error": code, "message": message, "next": step}, indent=2) + "\n")
    else:
        sys.stderr.write(f"pilechain: {code}: {message}\n  {step}\n")
