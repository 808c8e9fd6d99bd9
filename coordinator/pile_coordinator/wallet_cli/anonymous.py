"""What drivers do with notes: buy them, pay with them so that the ledger does not say who paid, turn them into money again."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.prompt import Confirm
from rich.status import Status

from pile_coordinator.amounts import short_money
from pile_coordinator.chain.transactions import PlaceBid, pseudonym
from pile_coordinator.disclosure import disclose
from pile_coordinator.keys import load_key
from pile_coordinator.note_choice import (
    Choice,
    Weakness,
    bought_after_order,
    choose,
    denominations_for,
    is_change,
    is_ready,
    judge,
    meetings,
    owners_left,
    redeeming_tells,
    spendable,
)
from pile_coordinator.paying import Payer
from pile_coordinator.purse import OVER, SENT, TAKEN, VOID, Market, Note, Purse, PurseError, Spending
from pile_coordinator.ring.signature import RING_SIZE
from pile_coordinator.wallet import WalletError
from pile_coordinator.wallet_cli import values
from pile_coordinator.wallet_cli.access import Access
from pile_coordinator.wallet_cli.action import Action, no_arguments, order_argument
from pile_shared.errors import ConfigError, LinkError
from pile_shared.platform import sha256

NAMED, ANONYMOUS = "named", "anonymous"
MAX_BATCHES = 100  # of redeem-notes: 1,200 notes at once


def payer_of(access: Access) -> Payer:
    """The party's purse, made if there is none."""
    return Payer(access.purse(), access.guest)


@contextlib.contextmanager
def telling(options: argparse.Namespace, what: str) -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what one waits for; nothing for programs."""
    quiet = options.json or not sys.stderr.isatty()
    with Status(what, console=Console(stderr=True, quiet=quiet)) as status:
        yield status.update


def _look(payer: Payer, options: argparse.Namespace) -> tuple[Market, list[Note]]:
    with telling(options, "looking at all notes") as tell:
        return payer.look(lambda count: tell(f"looking at all notes: {count} bins"))


def one_of(owners: int) -> str:
    """How an order is told apart from others', in words. 0: the purse was lost, and with it what it knew."""
    return f"anonymous: one of {owners} owners, as the ledger tells it" if owners else "anonymous"


def not_anonymous(party: str) -> str:
    """The label of an order that an account pays for."""
    return f"not anonymous: the ledger names {party}"


# --- the purse -------------------------------------------------------------------------------------------------------


def _notes(access: Access, options: argparse.Namespace) -> object:
    payer = payer_of(access)
    market, own = _look(payer, options)
    reserved = payer.purse.reserved()
    held = [note for note in own if not note.spent and note.image not in reserved]
    ready = spendable(market, own, reserved)
    return {
        "spendable_micro": sum(note.value_micro for note in ready),
        "waiting_micro": sum(note.value_micro for note in held if note not in ready),
        "notes": [_note_line(market, own, note) for note in sorted(held, key=lambda n: (n.bin, n.place))],
        "denominations": [_kind_line(row) for row in market.kinds],
        "orders": [_order_line(payer.purse, one) for one in payer.purse.spendings if one.kind == "bid"],
        "seed_file": str(payer.purse.seed_file),
        "next": "keep a copy of the seed file where only you can read it: who has it has the notes, and without it nobody has",
    }


def _note_line(market: Market, own: list[Note], note: Note) -> dict[str, object]:
    one = market.bins[note.bin]
    mine = sum(1 for other in own if other.bin == note.bin)
    state = (
        "spendable" if is_ready(market, note) else "young" if note.sealed_ms else f"{len(one.keys)} of 16 in the bin"
    )
    return {
        "value_micro": note.value_micro,
        "bin": one.name,
        "state": state,
        "spendable_from_ms": note.sealed_ms + market.rules.bin_age_ms if note.sealed_ms else 0,
        "owners": owners_left(market, [one]) if note.sealed_ms else 0,
        "own_in_bin": mine,
        "spent_in_bin": len(one.images),
    }


def _kind_line(row: dict[str, int]) -> dict[str, object]:
    return {
        "value_micro": row["value_micro"],
        "outstanding": row["issued"] - row["spent"],
        "full_bins": row["full_bins"],
        "spendable_or_young": row["in_full_bins"],
        "filling": f"{row['in_open_bin']} of {RING_SIZE}",
    }


def _order_line(purse: Purse, one: Spending) -> dict[str, object]:
    return {
        "id": bytes.fromhex(one.transaction),
        "party": pseudonym(purse.signer_of(one).public),
        "sent": {SENT: "not known whether it arrived", VOID: "refused", OVER: "ended"}.get(one.status, "yes"),
        "owners": one.owners,
    }


# --- buying ----------------------------------------------------------------------------------------------------------


def _buy(access: Access, options: argparse.Namespace) -> object:
    payer = payer_of(access)
    market, own = _look(payer, options)
    if options.notes is not None:
        counts = _counts(market, options.notes)
        found = meetings(market, own, counts)
    else:
        counts, found = denominations_for(market, own, options.amount)
    found = [*found, *bought_after_order(market, payer.purse.last_order_ms())]
    _accept(options, found, "buy")
    with access.named() as named:
        tx_id, height = payer.buy(named, counts, market.time_ms)
    return {
        "transaction": tx_id,
        "block": height,
        "bought": [
            {"value_micro": market.rules.unit_micro << k, "notes": count} for k, count in enumerate(counts) if count
        ],
        "warnings": [weakness.text for weakness in found],
        "next": "look at `notes`: a bin has to be full and aged before its notes can be spent",
    }


def _counts(market: Market, wanted: list[tuple[int, int]]) -> list[int]:
    kinds = [kind["value_micro"] for kind in market.kinds]
    counts = [0] * len(kinds)
    for value, count in wanted:
        if value not in kinds:
            raise PurseError(f"notes are of {', '.join(map(short_money, kinds))}", "amount")
        counts[kinds.index(value)] += count
    while counts and not counts[-1]:
        counts.pop()
    return counts


def _buy_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--amount", type=values.money, metavar="CURRENCY", help="like 12.80: the denominations are chosen")
    how.add_argument("--notes", type=values.notes, metavar="LIST", help="which ones, like 6.40x2,0.10x5")
    _weak_argument(parser)


def _weak_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accept-weak", action="store_true", help="go on where anonymity would be weaker than it could be; it says why"
    )


def _accept(options: argparse.Namespace, found: list[Weakness] | tuple[Weakness, ...], what: str) -> None:
    """Go on if nothing is given away, or somebody who was told takes it."""
    if not found or options.accept_weak:
        return
    told = "\n".join(f"- {weakness.text}" for weakness in found)
    if not options.json and sys.stdin.isatty() and sys.stderr.isatty():
        console = Console(stderr=True, markup=False)
        console.print(told)
        if Confirm.ask(f"{what.capitalize()} all the same?", console=console, default=False):
            return
    raise PurseError(told, "weak")


# --- redeeming -------------------------------------------------------------------------------------------------------


def _redeem(access: Access, options: argparse.Namespace) -> object:
    payer = payer_of(access)
    done, worth, last = [], 0, b""
    market, own = _look(payer, options)
    need = options.amount
    if not options.change:
        own = [note for note in own if not is_change(market, note)]
    _accept(options, redeeming_tells(market, spendable(market, own, payer.purse.reserved())), "redeem them")
    for _ in range(MAX_BATCHES):
        ready = spendable(market, own, payer.purse.reserved())
        if not ready or (need is not None and worth >= need):
            break
        choice = _to_redeem(payer, market, own, ready, None if need is None else need - worth)
        last = bytes.fromhex(payer.redeem(market, choice, access.party).transaction)
        done += [note.value_micro for note in choice.notes]
        worth += choice.worth_micro
    if not done:
        hint = "" if options.change else "; notes left over from anonymous orders only with --change"
        raise PurseError(f"no note can be redeemed now; see `notes`{hint}", "funds_notes")
    return {"transaction": last, "redeemed_micro": worth, "notes_micro": done, "anonymity": not_anonymous(access.party)}


def _to_redeem(payer: Payer, market: Market, own: list[Note], ready: list[Note], need: int | None) -> Choice:
    if need is not None:
        found = choose(market, own, payer.purse.reserved(), need, payer.purse.bought_ms)
        if found is not None:
            return found
    return judge(market, own, sorted(ready, key=lambda n: -n.value_micro)[:12], payer.purse.bought_ms)


def _redeem_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--amount", type=values.money, metavar="CURRENCY", help="at least so much (default: all that can)"
    )
    parser.add_argument(
        "--change",
        action="store_true",
        help="also notes left over from anonymous orders: that tells everybody which orders were yours",
    )
    _weak_argument(parser)


# --- an order ----------------------------------------------------------------------------------------------------------


def order_arguments(parser: argparse.ArgumentParser, *, is_quote: bool) -> None:
    """The options by which notes pay for an order."""
    parser.add_argument("--anonymous", action="store_true", help="paid with notes: the ledger does not say who you are")
    parser.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="S",
        help="with --anonymous: wait so long for notes that give nothing away",
    )
    if not is_quote:
        _weak_argument(parser)


def quote(access: Access, options: argparse.Namespace, bid: PlaceBid) -> dict[str, object]:
    """The price, and whether the purse covers it, and how well."""
    payer = payer_of(access)
    with access.guest() as guest:
        found = guest.quote(_plain(bid))
    market, own = _look(payer, options)
    need = _need(market, found)
    choice = choose(market, own, payer.purse.reserved(), need, payer.purse.bought_ms)
    ready = sum(note.value_micro for note in spendable(market, own, payer.purse.reserved()))
    return found | {
        "anonymity": one_of(choice.owners) if choice else "the notes that can be spent now do not cover it",
        "notes_needed_micro": need,
        "spendable_micro": ready,
        "warnings": [weakness.text for weakness in choice.weaknesses] if choice else [],
    }


def bid(access: Access, options: argparse.Namespace, wanted: PlaceBid) -> dict[str, object]:
    """Pay for an order with notes."""
    payer, wanted = payer_of(access), _plain(wanted)
    again = payer.unfinished(wanted)
    if again is not None:
        return _placed(
            payer, payer.send(again), ["This order was sent before without an answer: the same bytes were sent."]
        )
    with access.guest() as guest:
        found = guest.quote(wanted)
    market, own, choice, lacks = _chosen(payer, options, found)
    if choice is None:
        raise PurseError(_too_little(payer, market, own, found), "funds_notes")
    _accept(options, [*choice.weaknesses, *lacks], "order")
    told = [weakness.text for weakness in (*choice.weaknesses, *lacks)]
    return _placed(payer, payer.bid(market, choice, wanted), told)


def _plain(wanted: PlaceBid) -> PlaceBid:
    """A bid that notes pay for is for one contract, signed by itself; one at market never rests."""
    if wanted.divisible or wanted.explicit:
        raise PurseError("an anonymous order is neither --divisible nor --explicit", "usage")
    return replace(wanted, expires_ms=0) if wanted.market else wanted


def _need(market: Market, found: dict[str, object]) -> int:
    return cast("int", found["hold_micro"]) + market.objection_bond_micro


def _chosen(
    payer: Payer, options: argparse.Namespace, found: dict[str, object]
) -> tuple[Market, list[Note], Choice | None, list[Weakness]]:
    """Notes that cover the order and a bond to object to its settlement; without the bond if there are not enough."""
    hold = cast("int", found["hold_micro"])
    with telling(options, "looking at all notes") as tell:
        market, _ = payer.look(lambda count: tell(f"looking at all notes: {count} bins"))
        market, own, choice = payer.wait(_need(market, found), options.wait, tell, weak_is_good=options.accept_weak)
    if choice is not None:
        return market, own, choice, []
    bond = short_money(market.objection_bond_micro)
    text = f"Your notes do not cover the bond of {bond} too: you could not object to the settlement of this order."
    choice = choose(market, own, payer.purse.reserved(), hold, payer.purse.bought_ms)
    return market, own, choice, [Weakness("no-objection", text)]


def _too_little(payer: Payer, market: Market, own: list[Note], found: dict[str, object]) -> str:
    held = [note for note in own if not note.spent and note.image not in payer.purse.reserved()]
    ready = spendable(market, own, payer.purse.reserved())
    amounts = [cast("int", found["hold_micro"]), *(sum(n.value_micro for n in part) for part in (ready, held))]
    hold, now, whole = map(short_money, amounts)
    return f"the order puts up {hold}; of your notes, {whole}, {now} can be spent now, 12 of them at most for one order"


def _placed(payer: Payer, one: Spending, warnings: list[str]) -> dict[str, object]:
    spent = sum(cast("int", row[-1]) for row in one.notes)
    return {
        "transaction": bytes.fromhex(one.transaction),
        "party": pseudonym(payer.purse.signer_of(one).public),
        "paid": ANONYMOUS,
        "anonymity": one_of(one.owners),
        "owners": one.owners,
        "contract": bytes.fromhex(one.contract) if one.contract else None,
        "notes_micro": [row[-1] for row in one.notes],
        "spent_micro": spent,
        "warnings": warnings,
    }


# --- orders that are there -----------------------------------------------------------------------------------------------


def orders(access: Access) -> list[dict[str, object]]:
    """Open orders that notes pay for, each asked about over a connection of its own."""
    purse = access.known_purse()
    found: list[dict[str, object]] = []
    if purse is None:
        return found
    payer = Payer(purse, access.guest)
    for one in [one for one in purse.spendings if one.kind == "bid" and one.status in {SENT, TAKEN}]:
        with access.for_order(purse, one) as guest:
            now = payer.settle(guest, one)
            rows = cast("list[dict[str, object]]", guest.ask("orders"))
        if not rows and now.status == TAKEN:
            purse.change(one.transaction, status=OVER)
        for row in rows:
            row.pop("anonymous", None)
            found.append(row | {"paid": ANONYMOUS, "owners": now.owners})
    return found


def by_itself(access: Access, action: Action, options: argparse.Namespace) -> object:
    """An action on an order that notes pay for, under that order's key; None if it is on something else."""
    order = getattr(options, "order", None)
    purse = access.known_purse() if isinstance(order, bytes) else None
    one = purse.find(cast("bytes", order)) if purse is not None else None
    if purse is None or one is None or action.act is None:
        return None
    with access.for_order(purse, one) as guest:
        with contextlib.suppress(WalletError, LinkError):  # the action will say what is wrong
            one = Payer(purse, access.guest).settle(guest, one)
        told = action.act(guest, options)
    return told | {"paid": ANONYMOUS, "anonymity": one_of(one.owners)} if isinstance(told, dict) else told


# --- to an auditor -----------------------------------------------------------------------------------------------------


def _disclose(access: Access, options: argparse.Namespace) -> object:
    """Nobody is asked: what it takes stands in the purse."""
    purse = access.known_purse()
    one = purse.find(options.order) if purse is not None else None
    if purse is None or one is None:
        raise PurseError(
            f"order {options.order.hex()} is none of this purse's; disclose on the machine that ordered it"
        )
    lead, order = purse.leading(one), bytes.fromhex(one.transaction)
    secret = purse.secret_of(lead.base, lead.source, lead.number)
    signer = load_key(access.key)
    data = disclose(signer, purse.chain_id, order, access.party, secret, lead.bin, lead.place, options.to)
    try:
        options.out.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{options.out}: {error.strerror}") from error
    return {
        "file": str(options.out),
        "order": order,
        "party": access.party,
        "fingerprint": sha256(signer.public),
        "next": "whoever has this file and the certificate knows that the order was yours, and can show it to others",
    }


def _disclose_arguments(parser: argparse.ArgumentParser) -> None:
    order_argument(parser)
    parser.add_argument("--to", required=True, metavar="TEXT", help="to whom and what for, 200 characters")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


ACTIONS = (
    Action(
        "notes",
        "Show your notes, what can be spent, how many owners they hide among, and your anonymous orders.",
        None,
        no_arguments,
        "notes",
        alone=_notes,
    ),
    Action(
        "buy-notes",
        "Turn money into notes, which pay for orders without saying who you are. That you bought them, the ledger says.",
        None,
        _buy_arguments,
        "buy-notes --amount 12.80",
        alone=_buy,
    ),
    Action(
        "redeem-notes",
        "Turn notes into your money again. The ledger then says that these were yours.",
        None,
        _redeem_arguments,
        "redeem-notes",
        alone=_redeem,
    ),
    Action(
        "disclose",
        "Prove to somebody of your choice that an anonymous order was yours; nobody else can.",
        None,
        _disclose_arguments,
        "disclose ORDER --to 'the tax office, trips of 2026' --out mine.cbor",
        alone=_disclose,
    ),
)
