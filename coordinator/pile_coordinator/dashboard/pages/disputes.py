"""Disputes, the nearest deadline first, and deviations that the grid settles, with their sums."""

from typing import Any

from pile_coordinator.dashboard import details, shell, written
from pile_coordinator.dashboard.details import BAD, BUSY, BadFilterError, Cell, Column, Field, Hash, Marked
from pile_coordinator.dashboard.pages.orders import settlement_tabs
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.deviations import deviations
from pile_coordinator.evidence.disputes import disputes
from pile_coordinator.web.access import view_of
from pile_coordinator.web.paging import encode_place
from pile_coordinator.web.shared import now_ms, place_of

MAX_OPEN = 200  # open disputes: the nearest deadlines of the newest so many
SOON_MS = 3_600_000  # until a deadline, from when on it is marked
_DISPUTES, _DEVIATIONS = "dashboard-disputes", "dashboard-deviations"


@page("/disputes", route="disputes", title="disputes.title")
async def show(view: View, cursor: str = "") -> None:
    """What is objected to now, and all that was."""
    shell.title(view.text("disputes.title"))
    settlement_tabs(view)
    genesis = view.web.config.genesis
    window_ms = genesis.params.dispute_window_ms if genesis else None
    after = place_of(_DISPUTES, (int, int), cursor or None)

    def read() -> Any:
        seen = view_of(view.grant.token)
        with view.web.reading.connect() as db:
            opened, more = disputes(db, seen, window_ms=window_ms, open_only=True, limit=MAX_OPEN)
            ever = disputes(db, seen, window_ms=window_ms, after=after, limit=details.ROWS)
        return opened, more, ever

    opened, more, (ever, place) = await view.ask(read)
    with shell.card(view.text("disputes.open", count=len(opened))):
        opened.sort(key=lambda row: (row["deadline_ms"] is None, row["deadline_ms"] or 0, row["contract"]))
        _open(view, opened)
        if more is not None:
            details.words("p", view.text("disputes.more", most=MAX_OPEN), "pc-note")
    with shell.card(view.text("disputes.ever")):
        _ever(view, ever)
        details.pager(view, {"cursor": cursor}, None if place is None else encode_place(_DISPUTES, place))


def _open(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        details.nothing(view)
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("left_time")),
        Column(word("funding")),
        Column(word("deadline"), optional=True),
        Column(word("objector")),
        Column(word("ground"), optional=True),
        Column(word("pile"), optional=True),
        Column(word("measured"), right=True, optional=True),
        Column(word("claimed"), right=True),
        Column(word("bond"), right=True, optional=True),
        Column(word("rulings"), right=True, optional=True),
    ]
    details.grid(view, columns, [_open_line(view, row) for row in rows])


def _open_line(view: View, row: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        Hash(row["contract"], details.order_path(row["contract"])),
        _left(view, row["deadline_ms"]),
        details.funding(view, row["user"]),
        view.time(row["deadline_ms"]),
        details.name(row["party"]),
        view.word("ground", row["ground"]),
        row["pile"],
        view.energy(row["measured_wh"]),
        view.energy(row["claimed_wh"]),
        view.money(row["bond_micro"]),
        str(row["rulings"]),
    )


def _left(view: View, deadline_ms: int | None) -> Cell:
    """How long arbiters have."""
    if deadline_ms is None:
        return written.DASH
    left_ms = deadline_ms - now_ms()
    if left_ms <= 0:
        return Marked(view.text("disputes.over"), BAD)
    return Marked(written.span(left_ms), BAD if left_ms < SOON_MS else BUSY)


def _ever(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        details.nothing(view)
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("state")),
        Column(word("funding")),
        Column(word("time"), optional=True),
        Column(word("objector")),
        Column(word("ground"), optional=True),
        Column(word("said"), long=True, optional=True),
        Column(word("measured"), right=True, optional=True),
        Column(word("final"), right=True),
        Column(word("cause"), optional=True),
        Column(word("basis"), optional=True),
        Column(word("bond"), right=True, optional=True),
    ]
    lines = [
        (
            Hash(row["contract"], details.order_path(row["contract"])),
            details.contract_state(view, row["state"], row["outcome"]),
            details.funding(view, row["user"]),
            view.time(row["time_ms"]),
            details.name(row["party"]),
            view.word("ground", row["ground"]),
            row["text"],
            view.energy(row["measured_wh"]),
            view.energy(row["final_wh"]),
            view.word("cause", row["final_cause"] or row["cause"]),
            view.word("basis", row["basis"]),
            view.money(row["bond_micro"]),
        )
        for row in rows
    ]
    details.grid(view, columns, lines)


# --- deviations ----------------------------------------------------------------------------------------------------------


@page("/deviations", route="deviations", title="deviations.title")
async def show_deviations(view: View, since: str = "", until: str = "", cursor: str = "") -> None:
    """What was delivered beside what was contracted, where the grid is a side."""
    given = {"since": since, "until": until, "cursor": cursor}
    shell.title(view.text("deviations.title"))
    settlement_tabs(view)
    with shell.card():
        fields = [
            Field("since", view.text("details.since"), since, kind="date"),
            Field("until", view.text("details.until"), until, kind="date"),
        ]
        details.form(view, fields)
        try:
            times = {"start_ms": details.a_moment(view, since), "end_ms": details.a_moment(view, until)}
        except BadFilterError as mistake:
            shell.banner(mistake.text)
            return
        after = place_of(_DEVIATIONS, (int, int), cursor or None)

        def read() -> Any:
            with view.web.reading.connect() as db:
                return deviations(db, view_of(view.grant.token), **times, after=after, limit=details.ROWS)

        rows, place = await view.ask(read)
        _deviations(view, rows)
        details.pager(view, given, None if place is None else encode_place(_DEVIATIONS, place))
    shell.note(view.text("deviations.about"))


def _deviations(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        details.nothing(view)
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("state"), optional=True),
        Column(word("funding")),
        Column(word("time"), optional=True),
        Column(word("pile"), optional=True),
        Column(word.kwh("agreed"), right=True, optional=True),
        Column(word.kwh("measured"), right=True),
        Column(word.kwh("off"), right=True),
        Column(word.kwh("part_grid"), right=True, optional=True),
        Column(word.rate("price"), right=True, optional=True),
        Column(word.rate("catalog"), right=True, optional=True),
        Column(word.cash("to_grid"), right=True),
    ]
    sums = {
        name: details.total(rows, name) for name in ("expected_wh", "measured_wh", "off_wh", "grid_wh", "grid_micro")
    }
    total = [
        view.text("details.sum", count=len(rows)), "", "", "", "",
        *(details.bare(view.energy(sums[name])) for name in ("expected_wh", "measured_wh")),
        details.off(view, sums["off_wh"], sums["expected_wh"], unit=False), details.bare(view.energy(sums["grid_wh"])), "", "",
        details.bare(view.money(sums["grid_micro"])),
    ]  # fmt: skip
    details.grid(view, columns, [_deviation(view, row) for row in rows], total)


def _deviation(view: View, row: dict[str, Any]) -> tuple[Cell, ...]:
    return (
        Hash(row["contract"], details.order_path(row["contract"])),
        details.contract_state(view, row["state"], row["outcome"]),
        details.funding(view, row["user"]),
        view.time(row["time_ms"]),
        row["pile"],
        details.bare(view.energy(row["expected_wh"])),
        details.bare(view.energy(row["measured_wh"])),
        details.off(view, row["off_wh"], row["expected_wh"], unit=False),
        details.bare(view.energy(row["grid_wh"])),
        details.bare(view.price(row["price_micro_per_kwh"])),
        " / ".join(details.bare(view.price(row[f"catalog_{side}_micro_per_kwh"])) for side in ("sell", "buy")),
        details.bare(view.money(row["grid_micro"])),
    )
