"""What accounting nodes and those who back them do (stake guide)."""

import argparse
from pathlib import Path

from pile_coordinator.chain.transactions import (
    NEVER,
    Delegate,
    DoubleAttestation,
    RegisterCandidate,
    SetCommission,
    Undelegate,
    Unjail,
    VoteUpgrade,
)
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli import values
from pile_coordinator.wallet_cli.action import Action, no_arguments, sent
from pile_shared.certificate import MAX_HEADER_BYTES
from pile_shared.cose import SIGNATURE_BYTES
from pile_shared.errors import ConfigError


def _commission(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--commission",
        type=values.permille,
        required=True,
        metavar="PERMILLE",
        help="thousandths of its backers' rewards that the node keeps",
    )


def _amount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--amount", type=values.money, required=True, metavar="CURRENCY", help="like 1250 or 12.50")


def _register_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--consensus",
        type=values.consensus_key,
        required=True,
        metavar="HEX",
        help="ed25519 key of the CometBFT node, 64 digits",
    )
    parser.add_argument(
        "--attestation",
        type=values.public_key,
        required=True,
        metavar="HEX",
        help="public key that signs block headers for light clients, as `wallet new` prints it",
    )
    _commission(parser)
    _amount(parser)


def _stake_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidate", type=values.name, required=True, metavar="PARTY", help="see `stake`")
    _amount(parser)


def _vote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", type=values.name, required=True, help="of the rule, as the release notes name it")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--height", type=values.height, metavar="BLOCK", help="from which it holds")
    when.add_argument("--never", action="store_const", const=NEVER, dest="height", help="call off what was decided")


def _double_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidate", type=values.name, required=True, metavar="PARTY", help="whose node it was")
    for which in ("first", "second"):
        parser.add_argument(
            f"--{which}",
            type=Path,
            required=True,
            metavar="FILE",
            help="a header's bytes followed by the node's 64-byte attestation",
        )


def _double(wallet: Wallet, options: argparse.Namespace) -> object:
    first, second = _attested(options.first), _attested(options.second)
    return sent(wallet, DoubleAttestation(options.candidate, *first, *second))


def _attested(path: Path) -> tuple[bytes, bytes]:
    """A file's header and attestation."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not SIGNATURE_BYTES < len(data) <= MAX_HEADER_BYTES + SIGNATURE_BYTES:
        raise ConfigError(f"{path} is not a header followed by an attestation of {SIGNATURE_BYTES} bytes")
    return data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]


EVERYBODY = (
    Action(
        "stake",
        "Show candidates, their power and stake, what you have put up, votes on rules, and the next election.",
        lambda w, _: w.ask("stake"),
        no_arguments,
    ),
    Action(
        "delegate",
        "Put up stake for a candidate; it counts from the next election, and may be slashed for what its node does.",
        lambda w, o: sent(w, Delegate(o.candidate, o.amount)),
        _stake_arguments,
        "delegate --candidate grid --amount 500",
    ),
    Action(
        "undelegate",
        "Take stake back; what has counted comes when nothing it stood for can be punished any more.",
        lambda w, o: sent(w, Undelegate(o.candidate, o.amount)),
        _stake_arguments,
        "undelegate --candidate grid --amount 500",
    ),
    Action(
        "double-attestation",
        "Show two headers of one height that one node has attested; it loses stake and is never elected again.",
        _double,
        _double_arguments,
        "double-attestation --candidate grid --first a.bin --second b.bin",
    ),
)

NODES = (
    Action(
        "register-candidate",
        "Stand for election as an accounting node, with your node's keys and a bond.",
        lambda w, o: sent(w, RegisterCandidate(o.consensus, o.attestation, o.commission, o.amount)),
        _register_arguments,
        "register-candidate --consensus CONSENSUS --attestation HEX --commission 100 --amount 1000",
    ),
    Action(
        "set-commission",
        "Change what your node keeps of its backers' rewards, from the next epoch edge but one.",
        lambda w, o: sent(w, SetCommission(o.commission)),
        _commission,
        "set-commission --commission 80",
    ),
    Action(
        "unjail",
        "Your node runs again: it may be elected at the next epoch edge.",
        lambda w, _: sent(w, Unjail()),
        no_arguments,
    ),
    Action(
        "vote-upgrade",
        "Vote, as an accounting node, for a change of rules at a height, or to call it off; your next vote replaces this one.",
        lambda w, o: sent(w, VoteUpgrade(o.name, o.height)),
        _vote_arguments,
        "vote-upgrade --name reporter-part --height 250000",
    ),
)
