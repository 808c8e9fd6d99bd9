"""All piles with their states, as a grid that follows the chain, and the page of one pile."""

import asyncio
from contextlib import suppress
from typing import Any

from nicegui import ui
from nicegui.element import Element

from pile_coordinator.dashboard import board as live
from pile_coordinator.dashboard import details, shell, written
from pile_coordinator.dashboard.board import STATES, Pile
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.scopes import ALL
from pile_coordinator.web.problems import Refused

MAX_SHOWN = 2000  # cells at once; filters find the others
ACK_S = 10  # that a browser may take to draw a batch, until it gets the next one all the same
ROWS = 20
_MINUTES = len("2026-03-29 12:00")
SIGNS = dict(zip(STATES, "·○◐●!?▲✕", strict=False))  # beside the colours, which not everybody tells apart


class PileGrid(Element, component="pile_grid.js"):
    """The grid: gets every pile once, then changes. See pile_grid.js."""

    def __init__(self, view: View, piles: list[Pile]) -> None:
        """Of these piles, in this order."""
        super().__init__()
        self._view, self._contracts = view, view.grant_of("contracts")
        self._places = {pile.id: place for place, pile in enumerate(piles)}
        self._seen = view.board.height
        self._drawn = asyncio.Event()
        states = [{"name": name, "word": view.word("state", name), "sign": SIGNS.get(name, "")} for name in STATES]
        start = [self._row(pile) for pile in piles]
        self._props.update(states=states, start=start, height=self._seen, most=MAX_SHOWN, more=view.text("piles.more"))
        self._sent = {row[0]: row[3] for row in start}
        self.on("drawn", self._drawn.set)

    def _row(self, pile: Pile) -> list[Any]:
        return [pile.id, pile.owner, pile.zone, self._state(pile)]

    def _state(self, pile: Pile) -> int:
        return STATES.index(live.state_seen(pile, self._contracts))

    def filter(self, **wanted: str | None) -> None:
        """Show only piles of a `zone`, of an `owner`, or with `search` in their id; None shows all."""
        self._props.update(wanted)
        self.update()

    async def refresh(self) -> None:
        """Send what changed since the last batch, once that is drawn."""
        board = self._view.board
        if board.height == self._seen:
            return
        with suppress(TimeoutError):  # a browser that lost its answer in a reconnect goes on
            await asyncio.wait_for(self._drawn.wait(), ACK_S)
        since, self._seen = self._seen, board.height
        changed, added = [], []
        for pile in board.piles.values():
            if pile.version <= since:
                continue
            place, state = self._places.get(pile.id), self._state(pile)
            if place is not None and self._sent[pile.id] != state:
                changed.append([place, state])
            elif place is None and self._view.grant.scope == ALL:
                self._places[pile.id] = len(self._places)
                added.append(self._row(pile))
            else:
                continue
            self._sent[pile.id] = state
        self._drawn.clear()
        self.run_method("apply", self._seen, changed, added)


@page("/piles", route="piles", title="piles.title", menu=20)
async def show(view: View) -> None:
    """The grid with its filters."""
    shell.title(view.text("piles.title"))
    piles = sorted((await view.board.piles_of(view.grant)).values(), key=lambda pile: (pile.zone, pile.id))
    zones, owners = (["", *sorted(set(names))] for names in ([p.zone for p in piles], [p.owner for p in piles]))
    with shell.card():
        with shell.bar().style("margin-bottom:10px"):
            zone = _choice(view, "piles.zone", zones)
            owner = _choice(view, "piles.owner", owners)
            search = (
                ui.input(view.text("piles.search")).props("dense outlined clearable maxlength=32").classes("pc-filter")
            )
        grid = PileGrid(view, piles)
        if not piles:
            shell.note(view.text("piles.none"))
    zone.on_value_change(lambda event: grid.filter(zone=event.value or ""))
    owner.on_value_change(lambda event: grid.filter(owner=event.value or ""))
    search.on_value_change(lambda event: grid.filter(search=(event.value or "").lower()))
    shell.note(view.text("piles.about", after=written.span(view.web.config.silent_after_s * 1000)))
    if view.grant_of("contracts") is None or view.grant.scope != ALL or view.grant.token.role == "grid":
        shell.note(view.text("piles.partly"))
    view.follow(grid.refresh)


def _choice(view: View, key: str, names: list[str]) -> ui.select:
    options = {name: name or view.text("common.all") for name in names}
    chosen = ui.select(options, value="", label=view.text(key)).props("dense outlined options-dense")
    return chosen.classes("pc-filter")


# --- one pile ------------------------------------------------------------------------------------------------------------


@page("/piles/{pile}", route="pile", title="pile.title")
async def show_pile(view: View, pile: str) -> None:
    """What the evidence knows of one pile."""
    row = await view.ask(view.web.reading.pile, view.grant, pile)
    shell.title(f"{view.text('pile.title')} {row['id']}")
    with shell.columns():
        with shell.card(view.text("pile.sessions")):
            sessions = ui.element("div")
        with shell.card(view.text("pile.about")):
            about = ui.element("div")
    with shell.card(view.text("pile.proofs")):
        proofs = ui.element("div")
    shown = -1

    async def refresh() -> None:
        nonlocal shown
        now = view.board.piles.get(pile)
        version = now.version if now else 0
        if version == shown:
            return
        shown = version
        await _fill_about(view, about, await view.ask(view.web.reading.pile, view.grant, pile), now)
        await _fill_sessions(view, sessions, pile)
        await _fill_proofs(view, proofs, pile)

    await refresh()
    view.follow(refresh)


async def _fill_about(view: View, place: ui.element, row: dict[str, Any], now: Pile | None) -> None:
    state = live.state_seen(now, view.grant_of("contracts")) if now else live.HIDDEN
    place.clear()
    with place:
        shell.rows(
            [
                (view.text("pile.state"), view.word("state", state)),
                (view.text("piles.owner"), view.to(row["owner"], f"/parties/{row['owner']}")),
                (view.text("piles.zone"), row["zone"]),
                (view.text("pile.power"), view.power(row["rated_power_w"])),
                (view.text("pile.registered"), str(row["height"])),
                (view.text("pile.retired"), str(row["retired_height"] or written.DASH)),
                (
                    view.text("pile.receipt"),
                    str(row["through_sequence"] if row["through_sequence"] is not None else written.DASH),
                ),
            ]
        )
        if state == live.HIDDEN:
            shell.note(view.text("piles.partly"))


async def _fill_sessions(view: View, place: ui.element, pile: str) -> None:
    grant = view.grant_of("contracts")
    found = (await view.ask(view.web.reading.contracts, grant, None, ROWS, pile=pile))[0] if grant else []
    word = details.Heads(view)
    heads = [word(name) for name in ("contract", "begin", "user", "funding", "state")]
    heads += [word.kwh("agreed"), word.kwh("measured"), word.rate("price")]
    place.clear()
    with place:
        if not found:
            shell.note(view.text("pile.no_sessions"))
            return
        shell.table(
            heads,
            [
                (
                    view.to(written.short(row["id"]), f"/contracts/{row['id']}"),
                    view.time(row["window_start_ms"])[:_MINUTES],
                    details.name(row["user"]),
                    details.funding(view, row["user"]).text,
                    view.word("contract", row["outcome"] or row["state"]),
                    details.bare(view.energy(row["energy_wh"])),
                    details.bare(view.energy(row["measured_wh"])),
                    details.bare(view.price(row["price_micro_per_kwh"])),
                )
                for row in found
            ],
            right=(5, 6, 7),
        )


async def _fill_proofs(view: View, place: ui.element, pile: str) -> None:
    grant = view.grant_of("pile_proofs")
    try:
        found, missing = await view.ask(view.web.reading.newest_proofs, grant, pile, ROWS) if grant else ([], 0)
    except Refused:  # a pile that the caller charged at, but which is another's
        grant, found, missing = None, [], 0
    heads = [
        view.word("column", name) for name in ("number", "block", "event", "reason", "until", "register", "contract")
    ]
    place.clear()
    with place:
        if grant is None:
            shell.note(view.text("pile.proofs_hidden"))
            return
        register = next((row["last_energy_wh"] for row in found if row["last_energy_wh"] is not None), None)
        shell.rows([(view.text("pile.register"), view.energy(register)), (view.text("pile.missing"), str(missing))])
        shell.note(view.text("pile.refused"))
        shell.table(
            heads,
            [
                (
                    str(row["sequence"]),
                    str(row["height"]),
                    view.word("event", row["event"]),
                    view.word("reason", row["reason"]),
                    view.time(row["last_time_ms"]),
                    view.energy(row["last_energy_wh"]),
                    view.to(written.short(row["contract"]), f"/contracts/{row['contract']}"),
                )
                for row in found
            ],
            right=(0, 1, 5),
        )
