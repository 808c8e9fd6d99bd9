"""Lists of contracts: all of them with filters, and those that were closed with what they came to."""

from collections.abc import Sequence
from typing import Any

from pile_coordinator.dashboard import details, shell
from pile_coordinator.dashboard.details import BadFilterError, Cell, Column, Field, Hash, Link
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence import contracts as listed
from pile_coordinator.web.access import view_of
from pile_coordinator.web.paging import encode_place
from pile_coordinator.web.shared import place_of

OUTCOMES = ("confirmed", "settled", "resolved", "defaulted", "no-show", "cancelled", "unsigned")
_LIST = "dashboard-contracts"


@page("/orders", route="contracts", title="orders.title", menu=40)
async def show(
    view: View, state: str = "", pile: str = "", party: str = "", since: str = "", until: str = "", cursor: str = ""
) -> None:
    """Contracts, the newest match first."""
    given = {"state": state, "pile": pile, "party": party, "since": since, "until": until, "cursor": cursor}
    shell.title(view.text("orders.title"))
    with shell.card():
        _filters(view, given)
        found = await _ask(view, given, closed=False)
        if found is None:
            return
        rows, following = found
        _orders(view, rows)
        details.pager(view, given, following)
    if view.grant.scope != "all":
        shell.note(view.text("orders.partly"))


@page("/settlements", route="contracts", title="settlements.title", menu=50)
async def show_settlements(
    view: View, state: str = "", pile: str = "", party: str = "", since: str = "", until: str = "", cursor: str = ""
) -> None:
    """Closed contracts, the newest closing first, with sums."""
    given = {"state": state, "pile": pile, "party": party, "since": since, "until": until, "cursor": cursor}
    shell.title(view.text("settlements.title"))
    settlement_tabs(view)
    with shell.card():
        _filters(view, given, closed=True)
        found = await _ask(view, given, closed=True)
        if found is None:
            return
        rows, following = found
        _settlements(view, rows)
        details.pager(view, given, following)
    shell.note(view.text("settlements.about"))


def settlement_tabs(view: View) -> None:
    """Links between the pages of settlements."""
    details.tabs(
        view,
        [
            ("contracts", "/settlements", view.text("settlements.title")),
            ("deviations", "/deviations", view.text("deviations.title")),
            ("disputes", "/disputes", view.text("disputes.title")),
        ],
    )


def _filters(view: View, given: dict[str, str], *, closed: bool = False) -> None:
    names = OUTCOMES if closed else (*listed.STATES, *OUTCOMES)
    states = [("", view.text("details.all")), *((name, view.word("contract", name)) for name in names)]
    details.form(
        view,
        [
            Field("state", view.word("column", "state"), given["state"], states),
            Field("pile", view.word("column", "pile"), given["pile"]),
            Field("party", view.text("details.party"), given["party"]),
            Field("since", view.text("details.since"), given["since"], kind="date"),
            Field("until", view.text("details.until"), given["until"], kind="date"),
        ],
    )


async def _ask(view: View, given: dict[str, str], *, closed: bool) -> tuple[list[dict[str, Any]], str | None] | None:
    """The rows of a page and the cursor of the next; None, with a word about it, if a filter is none."""
    try:
        wanted = {
            "state": given["state"] if given["state"] in (*listed.STATES, *OUTCOMES) else None,
            "pile": details.an_id(view, given["pile"]),
            "party": details.an_id(view, given["party"]),
            "start_ms": details.a_moment(view, given["since"]),
            "end_ms": details.a_moment(view, given["until"]),
        }
    except BadFilterError as mistake:
        shell.banner(mistake.text)
        return None
    name = f"{_LIST}-closed" if closed else _LIST
    after = place_of(name, (int, int), given["cursor"] or None)

    def read() -> Any:
        with view.web.reading.connect() as db:
            seen = view_of(view.grant.token)
            return listed.contracts(db, seen, **wanted, closed=closed, after=after, limit=details.ROWS)  # type: ignore[arg-type]

    rows, place = await view.ask(read)
    if not rows:
        details.nothing(view)
    return rows, None if place is None else encode_place(name, place)


def _orders(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("state")),
        Column(word("funding")),
        Column(word("matched"), optional=True),
        Column(word("pile")),
        Column(word("zone"), optional=True),
        Column(word("user"), optional=True),
        Column(word("owner"), optional=True),
        Column(word.kwh("agreed"), right=True),
        Column(word.kwh("measured"), right=True),
        Column(word.kwh("off"), right=True, optional=True),
        Column(word("price"), right=True, optional=True),
    ]
    details.grid(view, columns, [_order(view, row) for row in rows])


def _order(view: View, row: dict[str, Any]) -> Sequence[Cell]:
    return (
        Hash(row["id"], details.order_path(row["id"])),
        details.contract_state(view, row["state"], row["outcome"]),
        details.funding(view, row["user"]),
        view.time(row["time_ms"]),
        Link(row["pile"], f"/orders?pile={row['pile']}"),
        row["zone"],
        Link(details.name(row["user"]), f"/orders?party={row['user']}"),
        Link(row["owner"], f"/orders?party={row['owner']}"),
        details.bare(view.energy(row["energy_wh"])),
        details.bare(view.energy(row["measured_wh"])),
        details.off(view, row["off_wh"], row["energy_wh"], unit=False),
        view.price(row["price_micro_per_kwh"]),
    )


def _settlements(view: View, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    word = details.Heads(view)
    columns = [
        Column(word("contract")),
        Column(word("outcome")),
        Column(word("funding")),
        Column(word("closed"), optional=True),
        Column(word("pile"), optional=True),
        Column(word("user"), optional=True),
        Column(word("owner"), optional=True),
        Column(word.kwh("agreed"), right=True, optional=True),
        Column(word.kwh("measured"), right=True),
        Column(word.kwh("off"), right=True, optional=True),
        Column(word.cash("paid"), right=True),
        Column(word.cash("to_owner"), right=True, optional=True),
        Column(word.cash("to_grid"), right=True, optional=True),
        Column(word.cash("fee"), right=True, optional=True),
    ]
    sums = {name: details.total(rows, name) for name in ("energy_wh", "measured_wh", "off_wh", *_MONEY)}
    money = [details.bare(view.money(sums[name])) for name in _MONEY]
    total = [view.text("details.sum", count=len(rows)), "", "", "", "", "", "",
             *(details.bare(view.energy(sums[name])) for name in ("energy_wh", "measured_wh")),
             details.off(view, sums["off_wh"], sums["energy_wh"], unit=False), *money]  # fmt: skip
    details.grid(view, columns, [_settlement(view, row) for row in rows], total)


_MONEY = ("user_micro", "owner_micro", "grid_micro", "fee_micro")


def _settlement(view: View, row: dict[str, Any]) -> Sequence[Cell]:
    return (
        Hash(row["id"], details.order_path(row["id"])),
        details.contract_state(view, row["state"], row["outcome"]),
        details.funding(view, row["user"]),
        view.time(row["time_ms"]),
        row["pile"],
        details.name(row["user"]),
        row["owner"],
        details.bare(view.energy(row["energy_wh"])),
        details.bare(view.energy(row["measured_wh"])),
        details.off(view, row["off_wh"], row["energy_wh"], unit=False),
        *(details.bare(view.money(row[name])) for name in _MONEY),
    )
