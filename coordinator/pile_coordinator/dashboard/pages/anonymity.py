"""Among how many who pays with notes hides: notes by denomination, what is known of the bins, and what that protects."""

from typing import Any

from nicegui import ui

from pile_coordinator.dashboard import details, shell, theme, written
from pile_coordinator.dashboard.details import Column
from pile_coordinator.dashboard.shell import View, page

_Row = dict[str, Any]
_SERIES = (
    ("by_origins", "anonymity.by_origins", theme.BLUE),
    ("by_unspent", "anonymity.by_unspent", theme.ORANGE),
)
_SAYS = ("ring", "origins", "unspent", "several", "named", "time", "refunds")


@page("/anonymity", route="anonymity", title="anonymity.title", menu=75)
async def show(view: View) -> None:
    """Drawn again with every block."""
    shell.title(view.text("anonymity.title"))
    place = ui.element("div").style("display:grid;gap:12px;min-width:0")
    shown: _Row | None = None

    async def refresh() -> None:
        nonlocal shown
        found = await view.ask(view.web.anonymity)
        if shown is None or found["denominations"] != shown["denominations"]:
            shown = found
            place.clear()
            with place:
                _draw(view, found)

    await refresh()
    view.follow(refresh)


def _draw(view: View, found: _Row) -> None:
    rows = found["denominations"]
    if found["issues_notes"] and found["ledger_height"] is not None:
        _figures(view, found, rows)
        with shell.card(view.text("anonymity.notes")):
            _notes_chart(view, rows)
        with shell.card(view.text("anonymity.sets")):
            _sets_chart(view, found["ring"], rows)
            details.words("p", view.text("anonymity.sets_are", ring=found["ring"]), "pc-note")
        with shell.card(view.text("anonymity.denominations")):
            _table(view, found["ring"], rows)
    else:
        key = {True: "anonymity.no_ledger", False: "anonymity.no_notes", None: "anonymity.no_genesis"}
        shell.note(view.text(key[found["issues_notes"]]))
    with shell.card(view.text("anonymity.hides")), details.element("ul", **{"data-test": "hides"}):
        for name in _SAYS:
            details.words("li", view.word("hides", name).format(ring=found["ring"]))
    shell.note(view.text("anonymity.docs"))


def _figures(view: View, found: _Row, rows: list[_Row]) -> None:
    with shell.cards():
        shell.Figure(view.text("anonymity.ring"), str(found["ring"]))
        shell.Figure(view.text("anonymity.outstanding"), str(_sum(rows, "outstanding")))
        shell.Figure(view.text("anonymity.worth"), view.money(_sum(rows, "outstanding_micro")))
        shell.Figure(view.text("anonymity.waiting"), str(_sum(rows, "filling")))
        shell.Figure(view.text("anonymity.age"), written.span(found["bin_age_ms"]))


def _sum(rows: list[_Row], name: str) -> int:
    return sum(row[name] for row in rows)


def _notes_chart(view: View, rows: list[_Row]) -> None:
    """Notes that are not spent, by what they are worth: in full bins, and such as wait for one."""
    full = [row["outstanding"] - row["filling"] for row in rows]
    waiting = [row["filling"] for row in rows]
    series = [
        {"type": "bar", "stack": "notes", "name": view.text(key), "color": colour, "data": data, "barMaxWidth": 36}
        for key, colour, data in (
            ("anonymity.in_full", theme.BLUE, full),
            ("anonymity.in_open", theme.ORANGE, waiting),
        )
    ]
    labels = [details.bare(view.money(row["value_micro"])) for row in rows]
    _bars(series, labels, view.currency)


def _sets_chart(view: View, ring: int, rows: list[_Row]) -> None:
    """How many bins there are of each size, of all denominations."""
    series = []
    for name, key, colour in _SERIES:
        bins = [0] * ring
        for row in rows:
            for found in row[name]:
                bins[found["size"] - 1] += found["bins"]
        series.append({"type": "bar", "name": view.text(key), "color": colour, "data": bins, "barMaxWidth": 24})
    _bars(series, [str(size) for size in range(1, ring + 1)], "")


def _bars(series: list[dict[str, Any]], labels: list[str], unit: str) -> None:
    options = theme.chart(
        xAxis=theme.axis("category", unit, data=labels, nameLocation="end"),
        yAxis=theme.axis("value", minInterval=1),
        series=series,
        grid={"left": 8, "right": 40 if unit else 8, "top": 56, "bottom": 4, "containLabel": True},
    )
    shell.chart(options, 240)


def _table(view: View, ring: int, rows: list[_Row]) -> None:
    word = details.Heads(view, "notes")
    columns = [
        Column(word.cash("value"), right=True),
        Column(word("outstanding"), right=True),
        Column(word("spent"), right=True, optional=True),
        Column(word.cash("worth"), right=True, optional=True),
        Column(word("live"), right=True),
        Column(word("filling"), right=True),
        Column(word("origins"), right=True),
        Column(word("largest"), right=True, optional=True),
        Column(word("unspent"), right=True, optional=True),
    ]
    lines = [
        (
            details.bare(view.money(row["value_micro"])),
            str(row["outstanding"]),
            str(row["spent"]),
            details.bare(view.money(row["outstanding_micro"])),
            str(row["live"]) if row["is_whole"] else f"> {row['live']}",
            f"{row['filling']} / {ring}",
            _end(row["by_origins"], 0),
            _end(row["by_largest"], -1),
            _end(row["by_unspent"], 0),
        )
        for row in rows
    ]
    details.grid(view, columns, lines)


def _end(sizes: list[_Row], place: int) -> str:
    """The least (0) or largest (-1) size there is."""
    return str(sizes[place]["size"]) if sizes else written.DASH
