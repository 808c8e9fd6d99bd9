"""What one subcommand of `pilechain wallet` is made of."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from pile_coordinator.chain.transactions import Body
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli import values
from pile_coordinator.wallet_cli.access import Access

Act = Callable[[Wallet, argparse.Namespace], object]
Alone = Callable[[Access, argparse.Namespace], object]


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a party does.

    Attributes:
        name: of the subcommand. text: one sentence of help. act: does it, and returns what to print.
        arguments: adds its options. example: the words after `wallet`, for its help.
        alone: does it over connections of its own, so that nobody sees the party's beside one that names nobody; None from it
        means that these options need the party's after all, and `act` is called.
    """

    name: str
    text: str
    act: Act | None
    arguments: Callable[[argparse.ArgumentParser], object]
    example: str = ""
    alone: Alone | None = None


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """For actions without options of their own."""
    del parser


def order_argument(parser: argparse.ArgumentParser) -> None:
    """The contract that an action is about."""
    parser.add_argument("order", type=values.order_id, metavar="ORDER", help="id of the contract, or of its bid")


def id_argument(what: str) -> Callable[[argparse.ArgumentParser], object]:
    """The id of something that is not a contract."""
    return lambda parser: parser.add_argument(
        "order", type=values.order_id, metavar=what.upper(), help=f"id of the {what}"
    )


def sent(wallet: Wallet, body: Body) -> dict[str, object]:
    """Send a transaction; what to print."""
    tx_id, height = wallet.send(body)
    return {"transaction": tx_id, "block": height}
