"""What every party does: look, keep its key, take its money out."""

import argparse
from pathlib import Path
from typing import cast

from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import RevokeKey, RotateKey, Withdraw
from pile_coordinator.keys import make_key
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli import anonymous, values
from pile_coordinator.wallet_cli.access import Access
from pile_coordinator.wallet_cli.action import Action, no_arguments, order_argument, sent
from pile_shared.errors import ConfigError

MAX_KEY_FILES = 1000  # of one party in one folder: how far a free name is looked for


def _certificate(wallet: Wallet, options: argparse.Namespace) -> object:
    data = cast("bytes", wallet.ask("certificate", options.order))
    try:
        options.out.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{options.out}: {error.strerror}") from error
    return {"file": str(options.out), "bytes": len(data)}


def _certificate_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def _show(wallet: Wallet, options: argparse.Namespace) -> object:
    found = [_labelled(row) for row in cast("list[dict[str, object]]", wallet.ask("contracts", options.order))]
    return found[0] if len(found) == 1 else found


def _labelled(view: dict[str, object]) -> dict[str, object]:
    """A contract, and whether the ledger says who paid."""
    if view["anonymous"]:
        return view | {"anonymity": "anonymous: paid with notes"}
    return view | {"anonymity": anonymous.not_anonymous(cast("str", view["user"]))}


def _orders(access: Access, _: argparse.Namespace) -> object:
    """The party's own, each with how it is paid for, and those of its purse."""
    with access.named() as wallet:
        rows = cast("list[dict[str, object]]", wallet.ask("orders"))
    return [*map(_with_paid, rows), *anonymous.orders(access)]


def _with_paid(row: dict[str, object]) -> dict[str, object]:
    """How the order is paid for; a listing pays nothing."""
    is_anonymous = row.pop("anonymous", False)
    return row if row["kind"] == "listing" else row | {"paid": anonymous.ANONYMOUS if is_anonymous else anonymous.NAMED}


def _withdraw_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amount", type=values.money, required=True, metavar="CURRENCY", help="like 12.50")
    parser.add_argument(
        "--destination", required=True, metavar="TEXT", help="for the treasury: where to pay it, 64 characters"
    )


def _rotate(wallet: Wallet, options: argparse.Namespace) -> object:
    """Make the new key before asking for it, so that it cannot be lost; take it away again only if it is refused."""
    rows = cast("list[dict[str, object]]", wallet.ask("orders"))
    bound = [row["id"] for row in rows if row["kind"] == "contract"]
    path = options.new or _free_name(options.key)
    signer = make_key(path)
    try:
        done = sent(wallet, RotateKey(signer.public))
    except Rejection:
        path.unlink()
        raise
    keep = f"keep {options.key}: start and stop of {len(bound)} open contracts are signed with it (--old-key)"
    return done | {
        "new_key": str(path),
        "old_key": str(options.key),
        "public": signer.public,
        "contracts_of_old_key": bound,
        "next": f"use --key {path} from now on; " + (keep if bound else f"{options.key} is good for nothing any more"),
    }


def _free_name(key: Path) -> Path:
    """dan.key, dan.2.key, dan.3.key ..."""
    stem = key.name.partition(".")[0]
    names = (key.with_name(f"{stem}.{number}.key") for number in range(2, MAX_KEY_FILES))
    return next(path for path in names if not path.exists())


def _rotate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--new", type=Path, metavar="FILE", help="for the new key (default: dan.key, then dan.2.key)")


def _revoke_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", type=values.name, metavar="PARTY", help="another party (operators and the grid)")


ACTIONS = (
    Action("account", "Show your balance, and where the chain stands.", lambda w, _: w.ask("account"), no_arguments),
    Action(
        "orders",
        "Show your resting bids, open listings and open contracts, and which of them notes pay for.",
        None,
        no_arguments,
        alone=_orders,
    ),
    Action(
        "history",
        "Show what has ended: your closed contracts, and bids of which nothing came, the newest first.",
        lambda w, _: w.ask("history"),
        no_arguments,
    ),
    Action(
        "show",
        "Show a contract: its phase, what it waits for, its energy and money, its dispute.",
        _show,
        order_argument,
        "show ORDER",
    ),
    Action(
        "tariff",
        "Show the catalog prices now and next, and the next epoch edge.",
        lambda w, _: w.ask("tariff"),
        no_arguments,
    ),
    Action(
        "certificate",
        "Write the certificate of a closed contract to a file; check it with `pilechain verify`.",
        _certificate,
        _certificate_arguments,
        "certificate ORDER --out order.cbor",
    ),
    Action(
        "withdraw",
        "Have money paid out: it is set aside until the treasury has paid it.",
        lambda w, o: sent(w, Withdraw(o.amount, o.destination)),
        _withdraw_arguments,
        "withdraw --amount 12.50 --destination 'DE12 3456'",
    ),
    Action(
        "withdrawals",
        "Show withdrawals that are not paid yet: yours, or all of them for the treasury.",
        lambda w, _: w.ask("withdrawals"),
        no_arguments,
    ),
    Action(
        "piles",
        "Show the piles that need somebody: whose proofs are refused and why; yours, or all for operators and the grid.",
        lambda w, _: w.ask("piles"),
        no_arguments,
    ),
    Action(
        "rotate-key",
        "Change your key: makes a new key file beside the old one. Your open orders end; contracts stand.",
        _rotate,
        _rotate_arguments,
        "rotate-key",
    ),
    Action(
        "revoke-key",
        "Your key was stolen: make it good for nothing, at once. Two others must restore you.",
        lambda w, o: sent(w, RevokeKey(o.of or w.party)),
        _revoke_arguments,
        "revoke-key",
    ),
)
