"""`pilechain verify`: check order certificates offline."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pile_coordinator import disclosure
from pile_coordinator.amounts import money
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.settlement import USER
from pile_coordinator.config import load_genesis
from pile_coordinator.disclosure import DisclosureError
from pile_coordinator.driver import receipt
from pile_coordinator.verify import Verified, VerifyError
from pile_shared.errors import ConfigError

EXIT_FAILED = 1


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `verify` to the command line."""
    verify = commands.add_parser(
        "verify",
        help="check order certificates offline",
        description="Check order certificates: signatures, inclusion, proof chain, price and every posting are recomputed."
        " Nothing is trusted but the genesis file; compare its fingerprint with one you got from somebody you trust.",
        epilog="Examples: pilechain verify demo-out/*.cbor; pilechain verify order.cbor --disclosure for-the-tax-office.cbor",
    )
    verify.add_argument("certificates", nargs="+", type=Path, metavar="FILE", help="order certificates (.cbor)")
    verify.add_argument(
        "--genesis", type=Path, metavar="FILE", help="the genesis to pin (default: genesis.json beside the certificate)"
    )
    verify.add_argument(
        "--receipt",
        metavar="TEXT",
        help="what the QR code of a receipt says: the certificate must be of this contract, ended in this very block",
    )
    verify.add_argument(
        "--disclosure",
        type=Path,
        metavar="FILE",
        help="what the payer of an anonymous order made for you (pilechain wallet disclose): who they are, in their own word",
    )
    verify.add_argument("--json", action="store_true", help="one JSON object per certificate")
    verify.set_defaults(run=_verify)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the caller holds against the certificates: a receipt, and what a payer disclosed."""

    receipt: receipt.Receipt | None
    disclosure: bytes | None


@dataclass(frozen=True, slots=True)
class _Beside:
    """What one of them came to: a key and value for JSON, and a sentence for people."""

    key: str
    value: object
    sentence: str


def _verify(options: argparse.Namespace) -> int:
    console = Console(highlight=False, soft_wrap=True)
    shown = _Shown(
        receipt.parse(options.receipt) if options.receipt else None,
        _read(options.disclosure) if options.disclosure else None,
    )
    held = [_verify_one(console, path, shown, options) for path in options.certificates]
    return 0 if all(held) else EXIT_FAILED


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _verify_one(console: Console, path: Path, shown: _Shown, options: argparse.Namespace) -> bool:
    """Whether a certificate, and what is shown beside it, holds; either way it is said."""
    genesis = load_genesis(options.genesis or path.parent / "genesis.json")
    try:
        proven = receipt.prove(_read(path), genesis)
        beside = _beside(proven, shown, genesis)
    except (VerifyError, DisclosureError) as error:
        link = error.link if isinstance(error, VerifyError) else error.code
        reason = str(error) if isinstance(error, VerifyError) else f"{error.code}: {error}"
        if options.json:
            console.print_json(json.dumps({"file": str(path), "valid": False, "link": link, "reason": reason}))
        else:
            console.print(f"[red]REJECTED[/] {path}: {escape(reason)}")
        return False
    if options.json:
        facts = _summary(proven.verified) | {one.key: one.value for one in beside}
        console.print_json(json.dumps({"file": str(path), "valid": True, **facts}))
        return True
    _print_verified(console, path, proven.verified, genesis.params.currency)
    for one in beside:
        console.print(f"  {one.sentence}")
    console.print(f"  pinned genesis {genesis.chain_id}, fingerprint {genesis.hash().hex()}")
    return True


def _beside(proven: receipt.Proven, shown: _Shown, genesis: Genesis) -> list[_Beside]:
    """What each of them comes to; VerifyError or DisclosureError if one speaks of something else, or is forged."""
    found = []
    if shown.receipt is not None:
        is_same = receipt.check(shown.receipt, proven)
        value, copy = ("same file", "the very file") if is_same else ("another copy", "another copy of it")
        found.append(_Beside("receipt", value, f"what the receipt speaks of; {copy}"))
    if shown.disclosure is not None:
        said = disclosure.check(shown.disclosure, proven.verified, genesis)
        facts = {"party": said.party, "fingerprint": said.fingerprint, "text": said.text}
        sentence = (
            f"disclosed by its payer, {said.party}, whose key has the fingerprint {said.fingerprint}: compare it with their"
            f" registration. For: {said.text}"
        )
        found.append(_Beside("disclosure", facts, escape(sentence)))
    return found


def _summary(verified: Verified) -> dict[str, object]:
    terms, statement = verified.terms, verified.statement
    return {
        "contract": terms.contract_id().hex(),
        "pile": terms.pile,
        "user": terms.user,
        "anonymous": verified.anonymous,
        "set_size": verified.set_size,
        "notes": [
            {"bin": note.bin.hex(), "image": note.image.hex(), "value_micro": note.value_micro}
            for note in verified.notes
        ],
        "owner": terms.owner,
        "contracted_wh": terms.energy_wh,
        "measured_wh": statement.measured_wh,
        "price_micro_per_kwh": terms.price_micro_per_kwh,
        "cause": statement.cause,
        "outcome": verified.outcome,
        "proofs": verified.proofs,
        "confirmed_by": list(verified.confirmed_by),
        "dispute": _dispute(verified),
        "postings": [[p.debit, p.credit, p.amount_micro] for p in statement.postings],
    }


def _dispute(verified: Verified) -> dict[str, object] | None:
    """Who objected, and how it ended."""
    verdict = verified.statement.verdict
    if verdict is None:
        return None
    objector = verified.terms.user if verdict.objector == USER else verified.terms.owner
    return {
        "objector": objector,
        "basis": verdict.basis,
        "arbiters": [arbiter for arbiter, _ in verdict.arbiters],
        "bond_micro": verdict.bond_micro,
    }


def _payer(verified: Verified, currency: str) -> str:
    """Who paid, as far as the certificate says it."""
    if not verified.anonymous:
        return f"not anonymous: paid by {verified.terms.user}"
    worth = ", ".join(money(note.value_micro) for note in verified.notes)
    return f"paid anonymously by one of {verified.set_size} owners (notes of {worth} {currency})"


def _print_verified(console: Console, path: Path, verified: Verified, currency: str) -> None:
    terms, statement = verified.terms, verified.statement
    names = {"U": terms.user, "H": terms.owner, "G": "grid", "F": "fees", "E": "escrow", "B": "bond", "D": "objection"}
    console.print(
        f"[green]VALID[/] {path}: {statement.measured_wh} Wh of {terms.energy_wh} Wh at"
        f" {money(terms.price_micro_per_kwh)} {currency}/kWh on {terms.pile}, {verified.outcome}"
        f" (blocks {verified.signed_height} to {verified.closed_height}, {verified.proofs} metering proofs)"
    )
    console.print(f"  {_payer(verified, currency)}")
    dispute = _dispute(verified)
    if dispute is not None:
        arbiters = "".join(f" of {arbiter}" for arbiter in cast("list[str]", dispute["arbiters"]))
        console.print(f"  disputed by {dispute['objector']}, ended by {dispute['basis']}{arbiters}")
    table = Table(box=None, pad_edge=False, show_header=False)
    for posting in statement.postings:
        row = (f"  {names[posting.debit]}", "->", names[posting.credit], f"{money(posting.amount_micro)} {currency}")
        table.add_row(*row)
    console.print(table)
