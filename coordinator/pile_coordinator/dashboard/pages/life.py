"""An order's life from meter to money: every step with its place in the chain, every proof with what checking it comes to."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from nicegui import ui

from pile_coordinator.chain.notes import value_micro
from pile_coordinator.chain.transactions import is_pseudonym
from pile_coordinator.dashboard import details, shell, theme, written
from pile_coordinator.dashboard.details import BAD, BUSY, GOOD, PLAIN, Checks, Column, Hash, Link
from pile_coordinator.dashboard.pages.files import show_files
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.contracts import contracts
from pile_coordinator.evidence.timeline import MAX_PROOFS, STEPS, contracts_of_order, timeline
from pile_coordinator.evidence.trace import UnknownIdError
from pile_coordinator.ring.signature import RING_SIZE
from pile_coordinator.web.access import view_of
from pile_coordinator.web.problems import Refused

_PROOFS = ("start", "proof", "end")
_TONES = {"dispute": BAD, "cancellation": BAD, "settlement": BUSY, "closing": GOOD, "certificate": GOOD}
_Step = dict[str, Any]
_YEAR = len("2026-")  # left out where the head of the step has it


@dataclass(frozen=True, slots=True)
class Life:
    """What a page shows of one contract: its row (evidence/contracts.py) and its timeline."""

    row: dict[str, Any]
    told: dict[str, Any]

    @property
    def steps(self) -> list[_Step]:
        """By blocks, and what a block's clearing and settling said in the order in which one follows from the other."""
        return sorted(self.told["steps"], key=_place)

    @property
    def proofs(self) -> list[_Step]:
        """The metering proofs among them."""
        return [step for step in self.steps if step["kind"] in _PROOFS]

    @property
    def version(self) -> tuple[object, ...]:
        """What is another when there is something new."""
        return self.row["state"], self.row["outcome"], len(self.steps), self.told["next_sequence"]


def _place(step: _Step) -> tuple[int, bool, int]:
    is_said = step["position"] is None
    return step["height"], is_said, STEPS.index(step["kind"]) if is_said else step["position"]


@page("/contracts/{name}", route="contract", title="life.title")
@page("/orders/{name}", route="contract", title="life.title")
async def show(view: View, name: str, after: int = 0) -> None:
    """The contract of this id, or that came from the order of this id."""
    found = await view.ask(_contracts, view, name)
    if len(found) != 1:
        await _show_order(view, name, found)
        return
    contract = found[0]
    after = max(0, min(after, (1 << 62)))
    life = await view.ask(_read, view, contract, after)
    place = ui.element("div").style("display:grid;gap:12px;min-width:0")
    with place:
        _draw(view, life, after)
    if life.row["state"] == "closed":
        return
    shown = life.version

    async def refresh() -> None:
        nonlocal shown
        now = await view.ask(_read, view, contract, after)
        if now.version != shown:
            shown = now.version
            place.clear()
            with place:
                _draw(view, now, after)

    view.follow(refresh)


# --- what it reads -------------------------------------------------------------------------------------------------------


def _contracts(view: View, name: str) -> list[str]:
    """The contract of an id, or those that came from the order of that id."""
    if not details.is_hash(name):
        raise Refused(404, "not_found", "no contract is called so")
    wanted, seen = bytes.fromhex(name), view_of(view.grant.token)
    with view.web.reading.connect() as db:
        rows, _ = contracts(db, seen, contract=wanted, limit=1)
        return [row["id"] for row in rows] or contracts_of_order(db, seen, wanted)


def _read(view: View, contract: str, after: int) -> Life:
    wanted, seen = bytes.fromhex(contract), view_of(view.grant.token)
    genesis = view.web.config.genesis
    chain_id = genesis.chain_id if genesis else None
    with view.web.reading.connect() as db:
        try:
            told = timeline(db, seen, wanted, chain_id=chain_id, after_sequence=after, limit=MAX_PROOFS)
        except UnknownIdError as error:
            raise Refused(404, "not_found", error.message) from error
        rows, _ = contracts(db, seen, contract=wanted, limit=1)
    return Life(rows[0], told)


async def _show_order(view: View, name: str, found: list[str]) -> None:
    """A bid or listing that came to no contract yet, or to several."""
    grant = view.grant_of("order")
    if grant is None:
        raise Refused(404, "not_found", "orders are not for this role")
    row = await view.ask(view.web.reading.order, grant, bytes.fromhex(name))
    shell.title(f"{view.word('kind', row['kind'])} {written.short(name)}")
    with shell.card():
        details.rows(
            view,
            [
                (view.word("column", "hash"), Hash(name)),
                (view.word("column", "party"), details.name(row["party"])),
                *(
                    []
                    if row["kind"] == "listing"
                    else [(view.word("column", "funding"), details.funding(view, row["party"]))]
                ),
                (view.word("column", "energy"), view.energy(row["energy_wh"])),
                (view.word("column", "price"), view.price(row["price_micro_per_kwh"])),
                (view.word("column", "outcome"), view.word("outcome", row["outcome"])),
                (view.word("column", "block"), Link(str(row["height"]), f"/blocks/{row['height']}")),
            ],
        )
    with shell.card(view.text("life.contracts")):
        if not found:
            details.nothing(view)
        for contract in found:
            with ui.element("div"):
                details.hash_link(view, contract, details.order_path(contract), whole=True)


# --- what it draws -------------------------------------------------------------------------------------------------------


def _draw(view: View, life: Life, after: int) -> None:
    row = life.row
    with details.element("div", "pc-bar"):
        shell.title(f"{view.text('life.title')} {written.short(row['id'])}")
        details.show(view, details.contract_state(view, row["state"], row["outcome"]))
        details.show(view, details.funding(view, row["user"]))
    _figures(view, row)
    with details.element("div", "pc-life"):
        with shell.card(view.text("life.timeline")):
            with details.element("ol", "pc-line"):
                for group, steps in groupby(life.steps, key=_group):
                    _GROUPS[group](view, life, list(steps))
            _more(view, life, after)
        with ui.element("div").style("display:grid;gap:12px;align-content:start;min-width:0"):
            with shell.card(view.text("life.about")):
                _about(view, row)
            if life.proofs:
                with shell.card(view.text("life.register")):
                    _chart(view, life)
            with shell.card(view.text("files.title")):
                show_files(view, row)


def _figures(view: View, row: dict[str, Any]) -> None:
    with shell.cards():
        shell.Figure(view.word("column", "agreed"), view.energy(row["energy_wh"]))
        shell.Figure(view.word("column", "measured"), view.energy(row["measured_wh"]))
        share = details.share(row["off_wh"], row["energy_wh"])
        shell.Figure(f"{view.word('column', 'off')} {share}".rstrip(), view.energy(row["off_wh"]))
        shell.Figure(view.word("column", "price"), view.price(row["price_micro_per_kwh"]))
        shell.Figure(view.word("column", "paid"), view.money(row["user_micro"]))


def _about(view: View, row: dict[str, Any]) -> None:
    word = details.Heads(view)
    window = f"{view.time(row['window_start_ms'])} – {view.time(row['window_end_ms'])}"  # noqa: RUF001
    pairs: list[tuple[str, details.Cell]] = [
        (word("contract"), Hash(row["id"])),
        (word("bid"), Hash(row["bid"])),
        (word("listing"), Hash(row["listing"])),
        (word("pile"), Link(row["pile"], details.trace_path(f"pile:{row['pile']}"))),
        (word("zone"), row["zone"]),
        (word("user"), Link(details.name(row["user"]), details.trace_path(f"party:{row['user']}"))),
        *_hidden(view, row["user"]),
        (word("owner"), Link(row["owner"], details.trace_path(f"party:{row['owner']}"))),
        (word("window"), window),
        (word("to_owner"), view.money_exact(row["owner_micro"])),
        (word("to_grid"), view.money_exact(row["grid_micro"])),
        (word("fee"), view.money_exact(row["fee_micro"])),
    ]
    details.rows(view, pairs)


def _hidden(view: View, user: str) -> Iterator[tuple[str, details.Cell]]:
    """Who paid, as far as anybody knows."""
    yield view.word("column", "funding"), details.funding(view, user)
    if is_pseudonym(user):
        yield view.text("life.nobody"), view.text("life.one_of", size=RING_SIZE)
        yield view.text("life.more"), Link(view.text("anonymity.title"), "/anonymity")


def _group(step: _Step) -> str:
    return "proofs" if step["kind"] in _PROOFS else "postings" if step["kind"] == "posting" else "step"


def _head(view: View, title: str, step: _Step) -> None:
    with details.element("div", "pc-when"):
        details.words("b", title)
        details.words("span", view.time(step["time_ms"]), "pc-soft pc-num")
        ui.link(view.text("life.block", height=step["height"]), f"/blocks/{step['height']}").classes("pc-link pc-num")
        key = "life.leaf" if step["position"] is None else "life.position"
        at = step["leaf"] if step["position"] is None else step["position"]
        details.words("span", view.text(key, number=at), "pc-soft pc-num")


def _steps(view: View, life: Life, steps: list[_Step]) -> None:
    for step in steps:
        with details.element("li", _TONES.get(step["kind"], PLAIN), **{"data-step": step["kind"]}):
            _head(view, _title(view, step), step)
            with details.element("div", "pc-facts"):
                for name, value in _facts(view, life, step):
                    details.fact(name, value)
            if step.get("text"):
                details.words("div", step["text"], "pc-said")


def _title(view: View, step: _Step) -> str:
    if step["kind"] == "confirmation" and step.get("ring"):
        return view.text("life.confirmed", size=RING_SIZE)
    return view.word("step", step["kind"])


def _facts(view: View, life: Life, step: _Step) -> Iterator[tuple[str, str]]:
    """What a step says, in the order of a reader's interest."""
    kind, word = step["kind"], details.Heads(view)
    if "party" in step:
        name = details.name(step["party"])
        yield word("party"), view.text("life.by_ring", size=RING_SIZE, name=name) if step.get("ring") else name
    if kind in {"bid", "listing"}:
        yield word("energy"), view.energy(step["energy_wh"])
        yield word("price"), view.price(step["price_micro_per_kwh"])
        yield word("window"), f"{view.time(step['window_start_ms'])} – {view.time(step['window_end_ms'])}"  # noqa: RUF001
        if "notes" in step:
            yield word("notes"), _notes(view, step["notes"])
    elif kind == "clearing":
        yield word("zone"), step["zone"]
        yield word("load"), f"{view.energy(step['open_before_wh'])} → {view.energy(step['open_after_wh'])}"
        yield word("capacity"), view.energy(step["capacity_wh"])
        for catalog, price in step["prices"]:
            yield view.text("life.at_catalog", catalog=view.price(catalog)), view.price(price)
    elif kind in {"proposed", "contract"}:
        yield word("agreed"), view.energy(step["energy_wh"])
        yield word("price"), view.price(step["price_micro_per_kwh"])
        yield word("catalog"), _catalog(view, step)
        for name in ("fee_micro", "escrow_micro", "bond_micro"):
            yield word(name.removesuffix("_micro")), view.money_exact(step[name])
    elif kind == "settlement":
        yield from _settled(view, life, step)
    elif kind == "dispute":
        yield word("ground"), view.word("ground", step["ground"])
        yield word("claimed"), view.energy(step["claimed_wh"])
        yield word("bond"), view.money_exact(step["bond_micro"])
        genesis = view.web.config.genesis
        if genesis is not None and life.row["state"] == "disputed":
            yield word("deadline"), view.time(step["time_ms"] + genesis.params.dispute_window_ms)
    elif kind == "ruling":
        yield word("measured"), view.energy(step["measured_wh"])
        yield word("cause"), view.word("cause", step["cause"])
    elif kind == "closing":
        yield word("outcome"), view.word("contract", step["outcome"])


def _notes(view: View, paid: list[list[Any]]) -> str:
    """How many notes paid, and what they were worth where the unit is known."""
    genesis = view.web.config.genesis
    rules = genesis.notes if genesis else None
    if rules is None:
        return str(len(paid))
    whole = sum(value_micro(rules, denomination) for denomination, *_ in paid)
    return view.text("life.notes", count=len(paid), worth=view.money(whole))


def _catalog(view: View, step: _Step) -> str:
    """What the grid sells for and buys for."""
    return f"{view.price(step['catalog_sell_micro_per_kwh'])} / {view.price(step['catalog_buy_micro_per_kwh'])}"


def _settled(view: View, life: Life, step: _Step) -> Iterator[tuple[str, str]]:
    word = details.Heads(view)
    yield word("agreed"), view.energy(step["expected_wh"])
    yield word("measured"), view.energy(step["measured_wh"])
    yield word("off"), details.off(view, step["off_wh"], life.row["energy_wh"])
    for name in ("contracted_wh", "grid_wh", "unpaid_wh"):
        if step[name]:
            yield word(f"part_{name.removesuffix('_wh')}"), view.energy(step[name])
    yield word("catalog"), _catalog(view, step)
    yield word("cause"), view.word("cause", step["cause"])
    if step["basis"]:
        yield word("basis"), view.word("basis", step["basis"])


# --- proofs --------------------------------------------------------------------------------------------------------------


def _metering(view: View, life: Life, steps: list[_Step]) -> None:
    begin_wh = life.proofs[0]["last_energy_wh"]
    word = details.Heads(view)
    columns = [
        Column(word("number"), right=True), Column(word("event"), long=True), Column(word("until"), optional=True),
        Column(word.kwh("register"), right=True, optional=True), Column(word.kwh("since_begin"), right=True),
        Column(word("check"), long=True), Column(word("hash"), optional=True), Column(word("block"), right=True, optional=True),
    ]  # fmt: skip
    with details.element("li", _worst(steps), **{"data-step": "proofs"}):
        _head(view, view.text("life.proofs", count=len(steps)), steps[0])
        details.grid(view, columns, [_proof(view, step, begin_wh) for step in steps])
        with details.element("details"):
            details.words("summary", view.text("life.how"), "pc-link")
            for key in ("life.how_signature", "life.how_place", "life.how_register", "life.how_inclusion"):
                details.words("p", view.text(key), "pc-note")


def _worst(steps: Iterable[_Step]) -> str:
    held = [value for step in steps for value in step["checks"].values()]
    return BAD if False in held else GOOD if all(held) else BUSY


def _proof(view: View, step: _Step, begin_wh: int | None) -> list[details.Cell]:
    register = step["last_energy_wh"]
    since = None if register is None or begin_wh is None else register - begin_wh
    event = view.word("event", step["event"])
    if step["kind"] == "end":
        event = f"{event}: {view.word('reason', step['reason'])}"
    return [
        Link(str(step["sequence"]), details.trace_path(f"proof:{step['hash']}")),
        event,
        view.time(step["last_time_ms"])[_YEAR:],
        details.bare(view.energy(register)),
        details.bare(view.energy(since)),
        checks(view, step["checks"]),
        Hash(step["hash"], details.trace_path(f"proof:{step['hash']}")),
        Link(str(step["height"]), f"/blocks/{step['height']}"),
    ]


def checks(view: View, found: dict[str, bool | None]) -> Checks:
    """What checking a proof came to."""
    return Checks([(view.word("check", name), found[name]) for name in ("signature", "place", "register")])


def _chart(view: View, life: Life) -> None:
    """The energy since begin at each proof, and what was agreed."""
    told = [step for step in life.proofs if step["last_energy_wh"] is not None and step["last_time_ms"] is not None]
    if not told:
        details.nothing(view)
        return
    start_ms, start_wh = told[0]["last_time_ms"], told[0]["last_energy_wh"]
    points = [[(step["last_time_ms"] - start_ms) / 60_000, (step["last_energy_wh"] - start_wh) / 1000] for step in told]
    agreed = life.row["energy_wh"] / 1000
    end = max(points[-1][0], 1)
    series: list[dict[str, object]] = [
        {"type": "line", "name": view.word("column", "measured"), "color": theme.BLUE, "data": points, "symbolSize": 5,
         "areaStyle": {"opacity": 0.12}},
        {"type": "line", "name": view.word("column", "agreed"), "color": theme.ORANGE, "symbol": "none",
         "lineStyle": {"type": "dashed"}, "data": [[0, agreed], [end, agreed]]},
    ]  # fmt: skip
    options = theme.chart(
        xAxis=theme.axis("value", view.text("life.minutes"), nameLocation="middle", nameGap=24, max=end),
        yAxis=theme.axis("value", "kWh"),
        series=series,
        grid={"left": 8, "right": 14, "top": 48, "bottom": 22, "containLabel": True},
    )
    ui.echart(options).style("height:230px;width:100%")
    details.words("p", view.text("life.since", time=view.time(start_ms)), "pc-note")


def _more(view: View, life: Life, after: int) -> None:
    following = life.told["next_sequence"]
    details.pager(
        view, {"after": str(after) if after else ""}, None if following is None else str(following), name="after"
    )


# --- money ---------------------------------------------------------------------------------------------------------------


def _postings(view: View, life: Life, steps: list[_Step]) -> None:
    word = details.Heads(view)
    contract = life.row["id"]
    columns = [
        Column(word("posting")),
        Column(word("debit"), long=True),
        Column(word("credit"), long=True),
        Column(word.cash("amount"), right=True),
    ]
    lines = [
        (
            Link(f"{step['number']}/{step['item']}", details.trace_path(f"{contract}/{step['number']}/{step['item']}")),
            side(view, life.row, step["debit"]),
            side(view, life.row, step["credit"]),
            details.bare(view.money_exact(step["amount_micro"])),
        )
        for step in steps
    ]
    with details.element("li", GOOD, **{"data-step": "postings"}):
        _head(view, view.word("step", "posting"), steps[0])
        details.grid(view, columns, lines)
        _balance(view, life, steps)


def _balance(view: View, life: Life, steps: list[_Step]) -> None:
    """What the postings come to for each account, and that together it is nothing."""
    word = details.Heads(view)
    nets: dict[str, int] = {}
    for step in steps:
        nets[step["debit"]] = nets.get(step["debit"], 0) - step["amount_micro"]
        nets[step["credit"]] = nets.get(step["credit"], 0) + step["amount_micro"]
    columns = [Column(word("account")), Column(word.cash("change"), right=True)]
    lines = [(side(view, life.row, name), details.bare(view.money_exact(net))) for name, net in nets.items()]
    with details.element("div").style("margin-top:8px;max-width:420px"):
        details.grid(
            view, columns, lines, (view.text("life.together"), details.bare(view.money_exact(sum(nets.values()))))
        )


def side(view: View, row: dict[str, Any], name: str) -> str:
    """A side of a posting in words, with whose it is."""
    party = {"U": row["user"], "H": row["owner"]}.get(name)
    word = view.word("side", name)
    return f"{word} {details.name(party)}" if party else word


_GROUPS = {"step": _steps, "proofs": _metering, "postings": _postings}
