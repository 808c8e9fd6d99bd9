"""`pilechain wallet`: one subcommand per thing a party does."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from pile_coordinator.chain.records import ROLES
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Body,
    CancelBid,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    Unlist,
)
from pile_coordinator.config import load_genesis
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.mqtt import Broker
from pile_coordinator.wallet import START, STOP, Wallet
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

Act = Callable[[Wallet, argparse.Namespace], object]


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `wallet` to the command line."""
    wallet = commands.add_parser(
        "wallet",
        help="act as a party: register, deposit, list, bid, start, stop, confirm, ask",
        description="Act as a party of a chain. Prices are in currency per kWh, energy in Wh, times as 2026-11-23T08:30 (UTC)"
        " or unix milliseconds, order and contract ids as hex.",
        epilog="Example: pilechain wallet --key dan.key --party dan --genesis genesis.json --broker 127.0.0.1:1883"
        " bid --zone north --energy 5000 --start 2026-11-23T08:30 --end 2026-11-23T10:00 --limit 0.80",
    )
    wallet.add_argument("--key", type=Path, required=True, metavar="FILE", help="the party's key file (mode 0600)")
    wallet.add_argument("--party", metavar="ID", help="the party's id")
    wallet.add_argument("--genesis", type=Path, metavar="FILE", help="the genesis file of the chain")
    wallet.add_argument("--broker", default="127.0.0.1:1883", metavar="HOST:PORT", help="default: %(default)s")
    wallet.add_argument("--timeout", type=float, default=20.0, metavar="S", help="seconds to wait for an answer")
    wallet.add_argument("--json", action="store_true", help="print JSON")
    actions = wallet.add_subparsers(required=True, metavar="ACTION")
    _add_own_key(actions)
    _add_questions(actions)
    _add_admission(actions)
    _add_orders(actions)
    _add_sessions(actions)


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, act: Act
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run=lambda options: _connected(options, act))
    return parser


def _connected(options: argparse.Namespace, act: Act) -> int:
    for needed in ("party", "genesis"):
        if getattr(options, needed) is None:
            raise ConfigError(f"this needs --{needed}")
    host, _, port = options.broker.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError("--broker must be HOST:PORT")
    genesis, signer = load_genesis(options.genesis), load_key(options.key)
    broker = Broker(host, int(port))
    with Wallet(genesis, options.party, signer, broker, timeout_s=options.timeout) as wallet:
        _print(act(wallet, options), as_json=options.json)
    return 0


def _print(value: object, *, as_json: bool) -> None:
    plain = _plain(value)
    if as_json or not isinstance(plain, dict):
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    width = max(len(key) for key in plain)
    for key, item in plain.items():
        text = item if isinstance(item, str) else json.dumps(item)
        sys.stdout.write(f"{key:<{width}}  {text}\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _sent(wallet: Wallet, body: Body) -> dict[str, object]:
    tx_id, height = wallet.send(body)
    return {"transaction": tx_id, "block": height}


# --- actions ---------------------------------------------------------------------------------------------------------


def _add_own_key(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    new = actions.add_parser(
        "new", help="make a key", description="Make a key in the file --key and show its public part."
    )

    def run(options: argparse.Namespace) -> int:
        public = make_key(options.key).public
        _print({"public": public, "fingerprint": sha256(public)}, as_json=options.json)
        return 0

    new.set_defaults(run=run)


def _add_questions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _action(actions, "account", "Show your balance.", lambda wallet, _: wallet.ask("account"))
    _action(actions, "orders", "Show your open orders and contracts.", lambda wallet, _: wallet.ask("orders"))
    quote = _action(
        actions, "quote", "Show the price before the order.", lambda wallet, o: wallet.ask("quote", o.zone, o.energy)
    )
    quote.add_argument("--zone", required=True)
    quote.add_argument("--energy", type=int, required=True, metavar="WH")
    show = _action(actions, "show", "Show a contract.", lambda wallet, o: wallet.ask("contract", o.order))
    show.add_argument("order", type=_hash, help="contract or bid id")
    certificate = _action(actions, "certificate", "Write the certificate of a closed contract to a file.", _certificate)
    certificate.add_argument("order", type=_hash, help="contract or bid id")
    certificate.add_argument("--out", type=Path, required=True, metavar="FILE")


def _certificate(wallet: Wallet, options: argparse.Namespace) -> object:
    data = cast("bytes", wallet.ask("certificate", options.order))
    options.out.write_bytes(data)
    return {"file": str(options.out), "bytes": len(data)}


def _add_admission(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    party = _action(
        actions,
        "register-party",
        "Admit a party (operators).",
        lambda wallet, o: _sent(wallet, RegisterParty(o.id, o.role, o.public)),
    )
    party.add_argument("--id", required=True)
    party.add_argument("--role", required=True, choices=ROLES)
    party.add_argument("--public", required=True, type=bytes.fromhex, metavar="HEX", help="as `wallet new` prints it")
    pile = _action(
        actions,
        "register-pile",
        "Admit a pile (operators).",
        lambda wallet, o: _sent(
            wallet, RegisterPile(o.id, o.owner, o.public, o.model, o.serial, o.zone, o.rated_power)
        ),
    )
    for name in ("id", "owner", "model", "serial", "zone"):
        pile.add_argument(f"--{name}", required=True)
    pile.add_argument("--public", required=True, type=bytes.fromhex, metavar="HEX", help="as `pile-edge key` prints it")
    pile.add_argument("--rated-power", required=True, type=int, metavar="W")
    deposit = _action(
        actions,
        "deposit",
        "Book money that arrived outside (treasury).",
        lambda wallet, o: _sent(wallet, Deposit(o.to, o.amount, o.reference)),
    )
    deposit.add_argument("--to", required=True, metavar="PARTY")
    deposit.add_argument("--amount", required=True, type=_money, metavar="CURRENCY")
    deposit.add_argument("--reference", required=True, help="of the payment; booked once")


def _add_orders(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    listing = _action(
        actions,
        "list",
        "Offer a pile (owners).",
        lambda wallet, o: _sent(wallet, List(o.pile, o.start, o.end, o.energy, AT_MARKET if o.ask is None else o.ask)),
    )
    listing.add_argument("--pile", required=True)
    listing.add_argument(
        "--ask", type=_money, metavar="PRICE", help="limit price; without it the curve's price is paid"
    )
    bid = _action(actions, "bid", "Ask for energy (drivers).", _bid)
    bid.add_argument("--zone", required=True)
    bid.add_argument("--pile", default="", help="only this pile")
    bid.add_argument("--limit", type=_money, required=True, metavar="PRICE", help="the most you pay per kWh")
    bid.add_argument("--market", action="store_true", help="fill at once or not at all")
    bid.add_argument("--expires", type=_time, metavar="TIME", help="of a limited order (default: end of the window)")
    for parser in (listing, bid):
        parser.add_argument("--start", type=_time, required=True, metavar="TIME")
        parser.add_argument("--end", type=_time, required=True, metavar="TIME")
        parser.add_argument("--energy", type=int, required=True, metavar="WH")
    unlist = _action(actions, "unlist", "Withdraw a listing.", lambda wallet, o: _sent(wallet, Unlist(o.order)))
    unlist.add_argument("order", type=_hash)
    cancel = _action(actions, "cancel", "Withdraw a resting bid.", lambda wallet, o: _sent(wallet, CancelBid(o.order)))
    cancel.add_argument("order", type=_hash)


def _bid(wallet: Wallet, options: argparse.Namespace) -> object:
    expires_ms = options.end if options.expires is None else options.expires
    body = PlaceBid(
        options.zone,
        options.pile,
        options.energy,
        options.start,
        options.end,
        options.limit,
        options.market,
        expires_ms,
    )
    return _sent(wallet, body)


def _add_sessions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    start = _action(actions, "start", "Start charging under a contract.", lambda w, o: _command(w, o, START))
    stop = _action(actions, "stop", "Stop charging.", lambda w, o: _command(w, o, STOP))
    for parser in (start, stop):
        parser.add_argument("order", type=_hash, help="contract or bid id")
    start.add_argument(
        "--energy", type=int, metavar="WH", help="stop by itself after this much (default: as contracted)"
    )
    stop.set_defaults(energy=None)
    confirm = _action(actions, "confirm", "Sign the settlement of a contract.", _confirm)
    confirm.add_argument("order", type=_hash, help="contract or bid id")


def _confirm(wallet: Wallet, options: argparse.Namespace) -> object:
    tx_id, height = wallet.confirm(options.order)
    return {"transaction": tx_id, "block": height}


def _command(wallet: Wallet, options: argparse.Namespace, action: int) -> object:
    found = cast("dict[str, object]", wallet.ask("contract", options.order))
    time_ms = cast("dict[str, int]", wallet.ask("account"))["time_ms"]
    limit_wh = cast("int", found["energy_wh"]) if options.energy is None else options.energy
    wallet.command(cast("str", found["pile"]), cast("bytes", found["id"]), action, time_ms, limit_wh)
    return {"pile": found["pile"], "contract": found["id"], "command": "start" if action == START else "stop"}


# --- values ----------------------------------------------------------------------------------------------------------


def _hash(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 32:
        raise argparse.ArgumentTypeError("an id has 64 hex digits")
    return value


def _money(text: str) -> int:
    """Currency with at most six decimals, to micro; exactly, so no float."""
    whole, _, part = text.partition(".")
    if not whole.isdigit() or (part and not part.isdigit()) or len(part) > 6:
        raise argparse.ArgumentTypeError("an amount is like 0.65, with at most six decimals")
    return int(whole) * 1_000_000 + int(part.ljust(6, "0") or "0")


def _time(text: str) -> int:
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("a time is like 2026-11-23T08:30 or unix milliseconds") from error
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * 1000
