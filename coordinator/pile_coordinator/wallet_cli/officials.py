"""What those who run the chain do: operators and the grid admit, the treasury books money, arbiters rule."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from pile_coordinator.chain.genesis import tariff_from_json
from pile_coordinator.chain.records import ROLES, Tariff
from pile_coordinator.chain.settlement import CAUSE_PILE, CAUSE_USER
from pile_coordinator.chain.transactions import (
    CollectFees,
    Deposit,
    PayOut,
    RefuseWithdrawal,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    Rule,
    SetTariff,
)
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli import show, values
from pile_coordinator.wallet_cli.action import Action, id_argument, no_arguments, order_argument, sent
from pile_coordinator.wallet_cli.request import read_request
from pile_shared.errors import ConfigError, PilechainError

# --- admitting -------------------------------------------------------------------------------------------------------


def _party_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", type=values.name, required=True, metavar="PARTY")
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument(
        "--public", required=True, type=values.public_key, metavar="HEX", help="as `wallet new` prints it"
    )


def _pile_arguments(parser: argparse.ArgumentParser) -> None:
    for option in ("owner", "zone"):
        parser.add_argument(f"--{option}", type=values.name, required=True)
    parser.add_argument("--request", type=Path, metavar="FILE", help="from the pile; gives all but owner and zone")
    parser.add_argument(
        "--fingerprint",
        metavar="TEXT",
        help="of the key in the request: what the person at the pile reads to you, 8 groups of 4 or more",
    )
    parser.add_argument("--id", type=values.name)
    for option in ("model", "serial"):
        parser.add_argument(f"--{option}", metavar="TEXT", help="of the meter")
    parser.add_argument("--public", type=values.public_key, metavar="HEX", help="as `pile-edge key` prints it")
    parser.add_argument("--rated-power", type=int, metavar="W")


def _register_pile(wallet: Wallet, o: argparse.Namespace) -> object:
    fields = (o.id, o.public, o.model, o.serial, o.rated_power)
    if o.request is not None:
        if any(field is not None for field in fields):
            raise ConfigError("--request says what the pile is: give only --owner, --zone and --fingerprint with it")
        fields = read_request(o.request, o.fingerprint, wallet.chain_id)
    elif None in fields:
        raise ConfigError("give --request and --fingerprint, or all of --id --public --model --serial --rated-power")
    pile, public, model, serial, rated_power_w = fields
    return sent(wallet, RegisterPile(pile, o.owner, public, model, serial, o.zone, rated_power_w))


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", type=values.name, required=True, metavar="PARTY")
    parser.add_argument("--public", required=True, type=values.public_key, metavar="HEX", help="the party's new key")


def _retire_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pile", type=values.name, required=True)


# --- tariff ----------------------------------------------------------------------------------------------------------


def _set_tariff(wallet: Wallet, options: argparse.Namespace) -> object:
    tariff = _tariff_in(options.file, options.start)
    fields = {
        "from_ms": tariff.from_ms,
        "utc_offset_minutes": tariff.utc_offset_minutes,
        "periods": tariff.periods,
    }
    if options.check:
        return fields
    if not options.json:
        show.write(fields, as_json=False)
    body = SetTariff(tariff.from_ms, tariff.utc_offset_minutes, tariff.periods)
    return sent(wallet, body) | (fields if options.json else {})


def _tariff_in(path: Path, from_ms: int) -> Tariff:
    try:
        return tariff_from_json(json.loads(path.read_text()), from_ms)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except PilechainError as error:
        raise ConfigError(f"{path}: {error}") from error


def _tariff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON, as the `tariff` of a genesis file")
    parser.add_argument(
        "--from",
        dest="start",
        type=values.time_ms,
        required=True,
        metavar="TIME",
        help="in force at the first epoch edge from then on",
    )
    parser.add_argument("--check", action="store_true", help="only show it")


# --- money -----------------------------------------------------------------------------------------------------------


def _money_arguments(*, has_reference: bool) -> Callable[[argparse.ArgumentParser], object]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--to", type=values.name, required=True, metavar="PARTY")
        parser.add_argument("--amount", required=True, type=values.money, metavar="CURRENCY", help="like 12.50")
        if has_reference:
            parser.add_argument("--reference", required=True, metavar="TEXT", help="of the payment; booked once")

    return add


def _pay_out_arguments(parser: argparse.ArgumentParser) -> None:
    id_argument("withdrawal")(parser)
    parser.add_argument("--reference", required=True, metavar="TEXT", help="of the payment; booked once")


def _refuse_arguments(parser: argparse.ArgumentParser) -> None:
    id_argument("withdrawal")(parser)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="for the party")


# --- ruling ----------------------------------------------------------------------------------------------------------


def _rule_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument("--energy", type=values.energy_wh, required=True, metavar="WH", help="what was metered")
    parser.add_argument("--cause", choices=(CAUSE_USER, CAUSE_PILE), required=True, help="who caused the deviation")


OPERATORS = (
    Action(
        "register-party",
        "Admit a party with its key.",
        lambda w, o: sent(w, RegisterParty(o.id, o.role, o.public)),
        _party_arguments,
        "register-party --id dan --role ev-owner --public HEX",
    ),
    Action(
        "register-pile",
        "Admit an owner's pile, once you have seen its key and meter.",
        _register_pile,
        _pile_arguments,
        "register-pile --id garage-17 --owner olga --public HEX --model SDM630 --serial 63000117 --zone north"
        " --rated-power 7000",
    ),
    Action(
        "retire-pile",
        "Take a pile out of service for good (its owner may too).",
        lambda w, o: sent(w, RetirePile(o.pile)),
        _retire_arguments,
        "retire-pile --pile garage-17",
    ),
    Action(
        "restore-key",
        "Give a party whose key was revoked a new one; a grid and an operator party must both say so.",
        lambda w, o: sent(w, RestoreKey(o.id, o.public)),
        _restore_arguments,
        "restore-key --id dan --public HEX",
    ),
    Action(
        "set-tariff",
        "Announce the next catalog prices, by period (the grid).",
        _set_tariff,
        _tariff_arguments,
        "set-tariff winter.json --from 2026-12-01T00:00+08:00",
    ),
)

TREASURY = (
    Action(
        "deposit",
        "Book money that arrived outside.",
        lambda w, o: sent(w, Deposit(o.to, o.amount, o.reference)),
        _money_arguments(has_reference=True),
        "deposit --to dan --amount 20 --reference bank-4711",
    ),
    Action(
        "pay-out",
        "Say that a withdrawal was paid.",
        lambda w, o: sent(w, PayOut(o.order, o.reference)),
        _pay_out_arguments,
        "pay-out WITHDRAWAL --reference bank-4713",
    ),
    Action(
        "refuse-withdrawal",
        "Say that a withdrawal could not be paid; the money is the party's again.",
        lambda w, o: sent(w, RefuseWithdrawal(o.order, o.reason)),
        _refuse_arguments,
        "refuse-withdrawal WITHDRAWAL --reason 'no such account'",
    ),
    Action(
        "collect-fees",
        "Move collected fees to a grid or operator party.",
        lambda w, o: sent(w, CollectFees(o.to, o.amount)),
        _money_arguments(has_reference=False),
        "collect-fees --to operator --amount 3.50",
    ),
)

ARBITERS = (
    Action(
        "disputes",
        "Show open disputes: all of them for arbiters and the grid, their own for others.",
        lambda w, _: w.ask("disputes"),
        no_arguments,
    ),
    Action(
        "rule",
        "Rule a dispute: what was metered, and who caused the deviation.",
        lambda w, o: sent(w, Rule(w.contract_id(o.order), o.energy, o.cause)),
        _rule_arguments,
        "rule ORDER --energy 3000 --cause pile",
    ),
)
