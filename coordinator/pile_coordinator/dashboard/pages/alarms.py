"""What somebody should look at now, the gravest first, and what to do about it."""

from nicegui import ui

from pile_coordinator.dashboard import details, extras, shell, written
from pile_coordinator.dashboard.details import BAD, BUSY, Cell, Column, Hash, Link, Marked
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.alarms import (
    CRITICAL,
    DISPUTE_DUE,
    NODE_JAILED,
    NODE_MISSING,
    PILE_SILENT,
    Alarm,
    Alarms,
)


@page("/alarms", route="alarms", title="alarms.title")
async def show(view: View) -> None:
    """Drawn again when there are others."""
    shell.title(view.text("alarms.title"))
    place = ui.element("div").style("display:grid;gap:12px;min-width:0")
    shown: list[tuple[str, str]] | None = None

    async def refresh() -> None:
        nonlocal shown
        found = await extras.found(view.web, view.grant)
        now = [(alarm.kind, alarm.subject) for alarm in found.alarms]
        if now == shown:
            return
        shown = now
        place.clear()
        with place:
            _draw(view, found)

    await refresh()
    view.follow(refresh)


def _draw(view: View, found: Alarms) -> None:
    with shell.card():
        if not found.alarms:
            details.words("p", view.text("alarms.none"), "pc-ok").style("margin:0")
        else:
            _table(view, found.alarms)
    if found.not_judged:
        with shell.card(view.text("alarms.not_judged")):
            columns = [Column(view.word("column", "alarm")), Column(view.word("column", "needs"), long=True)]
            lines = [(view.word("alarm", kind), view.word("needs", kind)) for kind in sorted(found.not_judged)]
            details.grid(view, columns, lines)


def _table(view: View, alarms: list[Alarm]) -> None:
    word = details.Heads(view)
    columns = [
        Column(word("severity")),
        Column(word("alarm"), long=True),
        Column(word("subject")),
        Column(word("since"), optional=True),
        Column(word("facts"), long=True, optional=True),
        Column(word("to_do"), long=True),
    ]
    details.grid(view, columns, [_line(view, alarm) for alarm in alarms])


def _line(view: View, alarm: Alarm) -> tuple[Cell, ...]:
    return (
        Marked(view.word("severity", alarm.severity), BAD if alarm.severity == CRITICAL else BUSY),
        view.word("alarm", alarm.kind),
        _subject(alarm),
        view.time(alarm.since_ms),
        ", ".join(_fact(view, name, value) for name, value in alarm.facts.items()),
        view.word("todo", alarm.kind),
    )


def _subject(alarm: Alarm) -> Cell:
    if alarm.kind == PILE_SILENT:
        return Link(alarm.subject, f"/piles/{alarm.subject}")
    if alarm.kind == DISPUTE_DUE:
        return Hash(alarm.subject, details.order_path(alarm.subject))
    if alarm.kind in {NODE_JAILED, NODE_MISSING}:
        return Link(alarm.subject, "/network")
    return alarm.subject[:16]


def _fact(view: View, name: str, value: int) -> str:
    """A figure with its unit, which its name ends with."""
    if name.endswith("_ms"):
        return f"{view.word('fact', name)} {written.span(value)}"
    text = view.money(value) if name.endswith("_micro") else str(value)
    return f"{view.word('fact', name)} {text}"
