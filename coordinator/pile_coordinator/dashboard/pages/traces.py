"""Any other thing by its id: blocks, proofs, transactions, postings, piles and parties, and the search that finds them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nicegui import ui
from sqlalchemy import select
from starlette.responses import RedirectResponse, Response

from pile_coordinator.chain.transactions import is_pseudonym
from pile_coordinator.dashboard import details, shell
from pile_coordinator.dashboard.details import Cell, Column, Hash, Link
from pile_coordinator.dashboard.pages.life import checks, side
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.network import signers
from pile_coordinator.evidence.timeline import timeline
from pile_coordinator.evidence.trace import (
    BLOCK,
    CONTRACT,
    ORDER,
    PARTY,
    PILE,
    POSTING,
    PROOF,
    TRANSACTION,
    Found,
    Trace,
    UnknownIdError,
    candidates,
    trace,
)
from pile_coordinator.ring.signature import RING_SIZE
from pile_coordinator.web.access import view_of
from pile_coordinator.web.models import MAX_HEIGHT
from pile_coordinator.web.problems import Refused
from pile_shared.proof import Proof, parse

STORIES = 20  # contracts of a page
MAX_QUERY = 140  # characters: a posting's id has 75


def path_of(found: Found) -> str:
    """Where a thing is shown."""
    if found.kind in {ORDER, CONTRACT}:
        return details.order_path(found.id)
    if found.kind == BLOCK:
        return f"/blocks/{found.id}"
    return details.trace_path(found.id if found.kind == POSTING else f"{found.kind}:{found.id}")


# --- search --------------------------------------------------------------------------------------------------------------


@page("/search", route="trace", title="search.title")
async def search(view: View, q: str = "") -> Response | None:
    """Go to the thing of an id; a choice where several are called so."""
    text = q.strip()[:MAX_QUERY]
    found = await view.ask(_candidates, view, text) if text else []
    if len(found) == 1:
        return RedirectResponse(path_of(found[0]), 303)
    shell.title(view.text("search.title"))
    with shell.card():
        details.form(view, [details.Field("q", view.text("details.find"), text)])
        if found:
            details.words("p", view.text("search.several", text=text), "pc-note")
            _choice(view, found)
        elif text:
            shell.banner(view.text("search.none", text=text))
        details.words("p", view.text("search.about"), "pc-note")
    return None


def _candidates(view: View, text: str) -> list[Found]:
    with view.web.reading.connect() as db:
        return candidates(db, text if text.isascii() else "", view_of(view.grant.token))


def _choice(view: View, found: Iterable[Found]) -> None:
    columns = [Column(view.word("column", "kind")), Column(view.word("column", "id"), long=True)]
    details.grid(view, columns, [(view.word("thing", one.kind), Link(one.id, path_of(one))) for one in found])


# --- a block -------------------------------------------------------------------------------------------------------------


@page("/blocks/{height}", route="block", title="block.title")
async def show_block(view: View, height: str, after: str = "") -> None:
    """A block, its transactions, who signed it, and the contracts that it says something of."""
    if not (height.isascii() and height.isdecimal() and int(height[:20]) <= MAX_HEIGHT):
        raise Refused(404, "not_found", "no height is written so")
    number = int(height)
    row = await view.ask(view.web.reading.block, number, view.grant)
    shell.title(view.text("life.block", height=number))
    with shell.bar():
        if number > 1:
            ui.link(view.text("block.before"), f"/blocks/{number - 1}").classes("pc-button")
        if number < view.board.height:
            ui.link(view.text("block.after"), f"/blocks/{number + 1}").classes("pc-button")
    with shell.card(view.text("block.about")):
        details.rows(view, [*_block(view, row), *await view.ask(_signed, view, number)])
        details.words("p", view.text("block.how"), "pc-note")
    with shell.card(view.text("block.transactions")):
        _transactions(view, row["transactions"])
    if view.grant_of("trace") is not None:
        told = await view.ask(_trace, view, f"block:{number}", after)
        with shell.card(view.text("life.contracts")):
            _stories(view, told, after)


def _block(view: View, row: dict[str, Any]) -> list[tuple[str, Cell]]:
    word = details.Heads(view)
    return [
        (word("hash"), Hash(row["hash"])),
        (word("time"), view.time(row["time_ms"])),
        (word("proposer"), row["proposer"]),
        (word("txs"), str(row["txs"])),
        (word("results"), str(row["results"])),
    ]


def _signed(view: View, height: int) -> list[tuple[str, Cell]]:
    web = view.web
    with web.reading.connect() as db, web.ledger() as ledger:
        found = signers(db, height, web.config.genesis, ledger)
    signed, missed = found["signed"], found["missed"]
    if signed is None:
        return [(view.word("column", "signed"), view.text("network.unknown"))]
    pairs: list[tuple[str, Cell]] = [(view.word("column", "signed"), ", ".join(signed))]
    return [*pairs, (view.word("column", "missed"), ", ".join(missed))] if missed else pairs


def _transactions(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        details.nothing(view)
        return
    word = details.Heads(view)
    columns = [Column(word("number"), right=True, optional=True), Column(word("transaction")), Column(word("kind"), long=True),
               Column(word("party")), Column(word("result"), long=True)]  # fmt: skip
    lines = [
        (
            str(row["position"]),
            Hash(row["id"], details.trace_path(f"transaction:{row['id']}")),
            view.word("tx", row["type"]) if row["type"] else "",
            details.name(row["sender"]),
            view.word("code", row["code"]),
        )
        for row in rows
    ]
    details.grid(view, columns, lines)


# --- traces --------------------------------------------------------------------------------------------------------------


@page("/parties/{name}", route="trace", title="trace.title")
async def show_party(view: View, name: str, after: str = "") -> Response | None:
    """A party."""
    return await _show(view, f"party:{name}", after)


@page("/trace/{name}/{number}/{item}", route="trace", title="trace.title")
async def show_posting(view: View, name: str, number: str, item: str) -> Response | None:
    """A posting."""
    return await _show(view, f"posting:{name}/{number}/{item}", "")


@page("/trace/{name}", route="trace", title="trace.title")
async def show_any(view: View, name: str, after: str = "") -> Response | None:
    """Whatever is called so; with its kind and a colon before it, only that."""
    return await _show(view, name, after)


async def _show(view: View, name: str, after: str) -> Response | None:
    found = await view.ask(_candidates, view, name[:MAX_QUERY])
    if not found:
        raise Refused(404, "not_found", "nothing is called so")
    if len(found) > 1:
        return RedirectResponse(f"/search?q={quote(name)}", 303)
    thing = found[0]
    if thing.kind in {ORDER, CONTRACT, BLOCK}:
        return RedirectResponse(path_of(thing), 303)
    told = await view.ask(_trace, view, f"{thing.kind}:{thing.id}", after)
    shell.title(f"{view.word('thing', thing.kind)} {_named(thing)}")
    await _SHOWN[thing.kind](view, told)
    with shell.card(view.text("life.contracts")):
        _stories(view, told, after)
    return None


def _named(found: Found) -> str:
    """What a thing is called above its page."""
    return found.id if found.kind in {PILE, PARTY} else found.id[:10] + "…"


def _trace(view: View, text: str, after: str) -> Trace:
    with view.web.reading.connect() as db:
        try:
            return trace(db, text, view=view_of(view.grant.token), after=after or None, limit=STORIES, proofs=1)
        except UnknownIdError as error:
            raise Refused(404, "not_found", error.message) from error


def _stories(view: View, told: Trace, after: str) -> None:
    if not told.stories:
        details.nothing(view)
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("state")),
        Column(word("funding")),
        Column(word("pile")),
        Column(word("zone"), optional=True),
        Column(word("user"), optional=True),
        Column(word("owner"), optional=True),
    ]
    lines = [
        (
            Hash(story.contract, details.order_path(story.contract)),
            details.contract_state(view, story.state, story.outcome),
            details.funding(view, story.user),
            story.pile,
            story.zone,
            details.name(story.user),
            story.owner,
        )
        for story in told.stories
    ]
    details.grid(view, columns, lines)
    details.pager(view, {"after": after}, told.next, name="after")


async def _own_transactions(view: View, told: Trace) -> None:
    """What the thing's own steps say: transactions."""
    sent = [step for step in told.steps if step.kind == TRANSACTION]
    if not sent:
        return
    word = details.Heads(view)
    columns = [
        Column(word("time")),
        Column(word("transaction")),
        Column(word("what"), long=True),
        Column(word("block"), right=True),
    ]
    lines = [
        (
            view.time(step.time_ms),
            Hash(step.id, details.trace_path(f"transaction:{step.id}")),
            _what(view, step.what),
            Link(str(step.height), f"/blocks/{step.height}"),
        )
        for step in sent
    ]
    with shell.card(view.text("block.transactions")):
        details.grid(view, columns, lines)


def _what(view: View, text: str) -> str:
    """`bid of dan: ok` in the reader's words."""
    type_, _, rest = text.partition(" of ")
    sender, _, code = rest.partition(": ")
    return f"{view.word('tx', type_)} · {details.name(sender)} · {view.word('code', code)}"


async def _show_transaction(view: View, told: Trace) -> None:
    await _own_transactions(view, told)
    shell.note(view.text("trace.how_transaction"))


async def _show_pile(view: View, told: Trace) -> None:
    grant = view.grant_of("pile")
    if grant is None:
        raise Refused(404, "not_found", "piles are not for this role")
    row = await view.ask(view.web.reading.pile, grant, told.found.id)
    with shell.card():
        details.rows(
            view,
            [
                (view.word("column", "pile"), Link(row["id"], f"/piles/{row['id']}")),
                (view.word("column", "owner"), Link(row["owner"], f"/orders?party={row['owner']}")),
                (view.word("column", "zone"), row["zone"]),
                (view.word("column", "power"), view.power(row["rated_power_w"])),
                (view.word("column", "block"), Link(str(row["height"]), f"/blocks/{row['height']}")),
            ],
        )


async def _show_party(view: View, told: Trace) -> None:
    name = told.found.id
    with shell.card():
        pairs: list[tuple[str, Cell]] = [(view.word("column", "party"), Link(name, f"/orders?party={name}"))]
        if is_pseudonym(name):
            pairs.append((view.word("column", "funding"), details.funding(view, name)))
            pairs.append((view.text("life.nobody"), view.text("life.one_of", size=RING_SIZE)))
        details.rows(view, pairs)
    await _own_transactions(view, told)


async def _show_posting(view: View, told: Trace) -> None:
    contract, number, item = told.found.id.split("/")
    grant = view.grant_of("postings")
    found = (await view.ask(view.web.reading.postings, grant, bytes.fromhex(contract), None, 200))[0] if grant else []
    story = told.stories[0] if told.stories else None
    row = next((row for row in found if row["item"] == int(item)), None)
    with shell.card():
        if row is None or story is None:
            shell.note(view.text("trace.no_money"))
            return
        sides = {"user": story.user, "owner": story.owner}
        details.rows(
            view,
            [
                (view.word("column", "posting"), f"{number}/{item}"),
                (view.word("column", "debit"), side(view, sides, row["debit"])),
                (view.word("column", "credit"), side(view, sides, row["credit"])),
                (view.word("column", "amount"), view.money_exact(row["amount_micro"])),
                (view.word("column", "block"), Link(str(row["height"]), f"/blocks/{row['height']}")),
            ],
        )
        details.words("p", view.text("trace.how_posting"), "pc-note")


# --- a proof -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """A proof as a contract's timeline has it, and as it was signed."""

    step: dict[str, Any]
    proof: Proof


def _proof(view: View, digest: str, contract: str) -> _Seen:
    genesis, p = view.web.config.genesis, schema.proof.c
    chain_id = genesis.chain_id if genesis else None
    with view.web.reading.connect() as db:
        row = db.execute(select(p.sequence, p.bytes).where(p.hash == bytes.fromhex(digest)).limit(1)).one()
        seen, before = view_of(view.grant.token), row.sequence - 1
        steps = timeline(db, seen, bytes.fromhex(contract), chain_id=chain_id, after_sequence=before, limit=1)["steps"]
    return _Seen(next(step for step in steps if step.get("hash") == digest), parse(row.bytes)[1])


async def _show_proof(view: View, told: Trace) -> None:
    word = details.Heads(view)
    story = told.stories[0]
    seen = await view.ask(_proof, view, told.found.id, story.contract)
    step, proof = seen.step, seen.proof
    previous = proof.previous.hex()
    pairs: list[tuple[str, Cell]] = [
        (word("hash"), Hash(told.found.id)),
        (word("pile"), Link(story.pile, details.trace_path(f"pile:{story.pile}"))),
        (word("number"), str(proof.sequence)),
        (word("event"), view.word("event", step["event"])),
        (word("reason"), view.word("reason", step["reason"])),
        (word("contract"), Hash(story.contract, details.order_path(story.contract))),
        (word("before"), Hash(previous, details.trace_path(f"proof:{previous}")) if any(proof.previous) else None),
        (word("block"), Link(str(step["height"]), f"/blocks/{step['height']}")),
    ]
    with shell.columns():
        with shell.card():
            details.rows(view, pairs)
        with shell.card(view.text("trace.checked")):
            with details.element("div", **{"data-test": "checks"}):
                details.show(view, checks(view, step["checks"]))
            for key in ("life.how_signature", "life.how_place", "life.how_register", "life.how_inclusion"):
                details.words("p", view.text(key), "pc-note")
    with shell.card(view.text("trace.readings")):
        columns = [Column(word("time")), Column(word("register"), right=True)]
        lines = [(view.time(reading.time_ms), view.energy(reading.energy_wh)) for reading in proof.readings]
        details.grid(view, columns, lines)


_SHOWN = {
    TRANSACTION: _show_transaction,
    PILE: _show_pile,
    PARTY: _show_party,
    POSTING: _show_posting,
    PROOF: _show_proof,
}
