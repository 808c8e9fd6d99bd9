"""What drivers and owners do: orders, contracts, sessions, settlements."""

import argparse
from pathlib import Path
from typing import cast

from pile_coordinator.chain.transactions import (
    AT_MARKET,
    GROUNDS,
    MAX_STOP_BYTES,
    Answer,
    CancelBid,
    CancelContract,
    List,
    PlaceBid,
    Sign,
    Unlist,
)
from pile_coordinator.keys import load_key
from pile_coordinator.wallet import START, STOP, Wallet
from pile_coordinator.wallet_cli import anonymous, values
from pile_coordinator.wallet_cli.access import Access
from pile_coordinator.wallet_cli.action import Action, id_argument, no_arguments, order_argument, sent
from pile_shared.errors import ConfigError

# --- orders ----------------------------------------------------------------------------------------------------------


def _window_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", type=values.time_ms, required=True, metavar="TIME")
    parser.add_argument("--end", type=values.time_ms, required=True, metavar="TIME")
    parser.add_argument("--energy", type=values.energy_wh, required=True, metavar="WH", help="in lots of 100 Wh")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pile", type=values.name, required=True)
    _window_arguments(parser)
    price = parser.add_mutually_exclusive_group()
    price.add_argument("--ask", type=values.money, metavar="PRICE", help="the least you take per kWh")
    price.add_argument("--at-market", action="store_true", help="take what the curve gives (default)")
    parser.add_argument("--explicit", action="store_true", help="you sign each contract yourself, with `sign`")


def _list(wallet: Wallet, options: argparse.Namespace) -> object:
    ask = AT_MARKET if options.ask is None else options.ask
    return sent(wallet, List(options.pile, options.start, options.end, options.energy, ask, options.explicit))


def _bid_arguments(parser: argparse.ArgumentParser, *, is_quote: bool) -> None:
    parser.add_argument("--zone", type=values.name, required=True)
    parser.add_argument("--pile", type=values.name, help="only this pile")
    _window_arguments(parser)
    parser.add_argument(
        "--limit",
        type=values.money,
        required=not is_quote,
        default=0,
        metavar="PRICE",
        help="the most you pay per kWh" + (" (default: the least at which it fills now)" if is_quote else ""),
    )
    parser.add_argument("--market", action="store_true", help="fill in the next block or not at all")
    parser.add_argument(
        "--expires", type=values.time_ms, metavar="TIME", help="of an order that rests (default: end of the window)"
    )
    parser.add_argument("--divisible", action="store_true", help="may be split over several piles")
    parser.add_argument("--explicit", action="store_true", help="you sign each contract yourself, with `sign`")
    anonymous.order_arguments(parser, is_quote=is_quote)


def _bid_of(options: argparse.Namespace) -> PlaceBid:
    return PlaceBid(
        options.zone,
        options.pile or "",
        options.energy,
        options.start,
        options.end,
        options.limit,
        options.market,
        options.end if options.expires is None else options.expires,
        options.divisible,
        options.explicit,
    )


def _quote(wallet: Wallet, options: argparse.Namespace) -> object:
    return wallet.quote(_bid_of(options)) | {"anonymity": anonymous.not_anonymous(wallet.party)}


def _bid(wallet: Wallet, options: argparse.Namespace) -> object:
    label = {"paid": anonymous.NAMED, "anonymity": anonymous.not_anonymous(wallet.party)}
    return sent(wallet, _bid_of(options)) | label


def _quote_alone(access: Access, options: argparse.Namespace) -> object:
    return anonymous.quote(access, options, _bid_of(options)) if options.anonymous else None


def _bid_alone(access: Access, options: argparse.Namespace) -> object:
    return anonymous.bid(access, options, _bid_of(options)) if options.anonymous else None


# --- sessions --------------------------------------------------------------------------------------------------------


def _command(wallet: Wallet, options: argparse.Namespace, action: int) -> object:
    old = load_key(options.old_key) if options.old_key else None
    told = wallet.session(options.order, action, limit_wh=options.energy, old=old)
    return told | {"command": "start" if action == START else "stop"}


def _session_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument(
        "--old-key", type=Path, metavar="FILE", help="the key of the contract, if you changed yours since"
    )
    parser.set_defaults(energy=None)


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    _session_arguments(parser)
    parser.add_argument(
        "--energy", type=values.energy_wh, metavar="WH", help="stop by itself after this much (default: as contracted)"
    )


# --- contracts -------------------------------------------------------------------------------------------------------


def _confirm(wallet: Wallet, options: argparse.Namespace) -> object:
    tx_id, height = wallet.confirm(options.order)
    return {"transaction": tx_id, "block": height}


def _object(wallet: Wallet, options: argparse.Namespace) -> object:
    tx_id, height = wallet.object_to(options.order, options.ground, options.text, options.claimed)
    return {"transaction": tx_id, "block": height}


def _object_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument(
        "--ground", choices=GROUNDS, required=True, help="what is wrong: the metered energy, or who caused it"
    )
    parser.add_argument(
        "--claimed", type=values.energy_wh, metavar="WH", help="the energy you claim (default: as metered)"
    )
    parser.add_argument("--text", required=True, help="a sentence for the arbiters, 200 characters")


def _answer(wallet: Wallet, options: argparse.Namespace) -> object:
    contract = wallet.contract_id(options.order)
    stop = _stop_in(options.stop) if options.stop else cast("bytes", wallet.ask("stop", contract))
    return sent(wallet, Answer(contract, stop))


def _stop_in(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not 1 <= len(data) <= MAX_STOP_BYTES:
        raise ConfigError(f"{path} is no stop command: it has {len(data)} bytes, at most {MAX_STOP_BYTES} are expected")
    return data


def _answer_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument(
        "--stop",
        type=Path,
        metavar="FILE",
        help="the user's signed stop command (default: the one the coordinator kept)",
    )


DRIVERS = (
    Action(
        "quote",
        "Show the price before the order: what it would fill at, or why it would rest, and what it can cost.",
        _quote,
        lambda p: _bid_arguments(p, is_quote=True),
        "quote --zone north --energy 5000 --start 2026-11-23T08:30 --end 2026-11-23T10:00",
        alone=_quote_alone,
    ),
    Action(
        "bid",
        "Ask for energy.",
        _bid,
        lambda p: _bid_arguments(p, is_quote=False),
        "bid --zone north --energy 5000 --start 2026-11-23T08:30 --end 2026-11-23T10:00 --limit 0.80",
        alone=_bid_alone,
    ),
    Action(
        "cancel",
        "Withdraw a resting bid.",
        lambda w, o: sent(w, CancelBid(o.order)),
        id_argument("bid"),
        "cancel ORDER",
    ),
    Action(
        "zones", "Show the zones, what is offered in them, and their load.", lambda w, _: w.ask("zones"), no_arguments
    ),
    Action(
        "offers",
        "Show the piles offered in a zone: when, how much, at which ask.",
        lambda w, o: w.ask("offers", o.zone),
        lambda p: p.add_argument("--zone", type=values.name, required=True),
        "offers --zone north",
    ),
    Action(
        "start",
        "Start charging under a contract, once you have plugged in.",
        lambda w, o: _command(w, o, START),
        _start_arguments,
        "start ORDER",
    ),
    Action("stop", "Stop charging.", lambda w, o: _command(w, o, STOP), _session_arguments, "stop ORDER"),
)

OWNERS = (
    Action(
        "list",
        "Offer a pile in a window, at market or at an ask price.",
        _list,
        _list_arguments,
        "list --pile garage-17 --start 2026-11-23T08:00 --end 2026-11-24T08:00 --energy 50000 --ask 0.70",
    ),
    Action(
        "unlist",
        "Withdraw a listing; contracts made from it stand.",
        lambda w, o: sent(w, Unlist(o.order)),
        id_argument("listing"),
        "unlist LISTING",
    ),
    Action(
        "answer",
        "Answer a dispute of the cause with the stop command that the user signed.",
        _answer,
        _answer_arguments,
        "answer ORDER",
    ),
)

BOTH = (
    Action(
        "sign",
        "Sign a proposed contract, where somebody asked for explicit signing.",
        lambda w, o: sent(w, Sign(w.contract_id(o.order))),
        order_argument,
        "sign ORDER",
    ),
    Action(
        "cancel-contract",
        "Call off a contract that has not begun: costs a driver the fee, an owner part of the bond.",
        lambda w, o: sent(w, CancelContract(w.contract_id(o.order))),
        order_argument,
        "cancel-contract ORDER",
    ),
    Action(
        "confirm", "Sign the settlement of a contract, as `show` states it.", _confirm, order_argument, "confirm ORDER"
    ),
    Action(
        "object",
        "Dispute a settlement before its confirm window ends; puts up a bond that the loser forfeits.",
        _object,
        _object_arguments,
        "object ORDER --ground cause --text 'the pile switched off, not me'",
    ),
)
