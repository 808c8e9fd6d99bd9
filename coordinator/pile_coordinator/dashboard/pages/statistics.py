"""Energy and money by zone, operator, owner, pile and user; idle piles; settlement delay; prices beside load."""

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from sqlalchemy import select

from pile_coordinator.chain.records import PILE_OWNER
from pile_coordinator.dashboard import details, shell, theme, written
from pile_coordinator.dashboard.details import BadFilterError, Cell, Column, Field, Link
from pile_coordinator.dashboard.downloads import PREFIX
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.calendar import DAY, HOUR, MONTH, PERIODS, QUARTER, YEAR, local
from pile_coordinator.evidence.market import price_history
from pile_coordinator.evidence.scopes import ALL
from pile_coordinator.evidence.statistics import Page, Row, counted_between
from pile_coordinator.evidence.tallies import ALL as WHOLE
from pile_coordinator.evidence.tallies import ANONYMOUS_USERS, OPERATOR, OWNER, PILE, USER, ZONE, tallied
from pile_coordinator.web import counting
from pile_coordinator.web.access import TOTALS
from pile_coordinator.web.paging import encode_place
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.shared import place_of

ROWS = 200  # periods or names of a page
MOST_NAMES = 1000  # piles looked at for the most idle ones
BARS = 40  # names in a chart: the first ones of the table
POINTS = 200  # of the price chart
MAX_ZONES = 200
DAY_MS = 86_400_000
_SHOWN_MS = {HOUR: 2 * DAY_MS, DAY: 31 * DAY_MS, MONTH: 400 * DAY_MS, QUARTER: 1_100 * DAY_MS, YEAR: 36_600 * DAY_MS}
"""By period: how far back is shown unless the reader says otherwise."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the reader asks for, as the form has it."""

    by: str
    name: str
    per: str
    since: str
    until: str
    zone: str
    cursor: str

    @property
    def is_history(self) -> bool:
        """Whether there is a line for each period, not for each name."""
        return self.by == WHOLE or bool(self.name)


@page("/statistics", route="statistics", title="statistics.title", menu=70)
async def show(
    view: View,
    by: str = "",
    name: str = "",
    per: str = DAY,
    since: str = "",
    until: str = "",
    zone: str = "",
    cursor: str = "",
) -> None:
    """A form, a chart, a table, and the prices of a zone."""
    choices = _dimensions(view)
    own = view.grant.party if view.grant.scope not in {ALL, TOTALS} else ""
    by = by if by in choices else choices[0]
    name = own if own and not name and by != PILE else name
    wish = Wish(by, name.strip(), per if per in PERIODS else DAY, since, until, zone.strip(), cursor)
    shell.title(view.text("statistics.title"))
    try:
        asked, shown, anonymous = await view.ask(_read, view, wish)
    except BadFilterError as mistake:
        with shell.card():
            _form(view, wish, choices)
            shell.banner(mistake.text)
        return
    with shell.card():
        _form(view, replace(wish, since=_date(view, asked.start_ms), until=wish.until), choices)
        _figures(view, shown.rows, anonymous)
    if shown.rows:
        with shell.card(view.text("statistics.chart")):
            _chart(view, wish, shown.rows)
    with shell.card(view.text("statistics.table")):
        _table(view, wish, shown)
        _files(view, wish, asked)
    if view.grant_of("price_history") is not None:
        await _prices(view, wish, asked)
    shell.note(view.text("statistics.about", zone=view.zone.key))


def _dimensions(view: View) -> list[str]:
    """By what the caller may ask; as web/counting.py answers."""
    if view.grant.scope == ALL:
        return [WHOLE, ZONE, OPERATOR, OWNER, PILE, USER]
    if view.grant.scope == TOTALS:
        return [WHOLE, ZONE, OPERATOR]
    return [OWNER, PILE] if view.grant.token.role == PILE_OWNER else [USER]


def _date(view: View, ms: int) -> str:
    return local(ms, view.zone).strftime("%Y-%m-%d")


def _read(view: View, wish: Wish) -> tuple[counting.Asked, Page, int | None]:
    """What is asked for, and of the whole chain also how many contracts were anonymous."""
    details.a_moment(view, wish.since), details.a_moment(view, wish.until)
    name = details.an_id(view, wish.name)
    since = wish.since or _since(view, wish)
    told = (wish.by, name, wish.per, since, wish.until or None)
    try:
        asked = counting.ask(view.web, view.grant, told, view.zone)
    except Refused as refusal:
        if refusal.status == 422:
            raise BadFilterError(view.text("statistics.bad_time")) from refusal
        raise
    is_idle = wish.by == PILE and not wish.is_history
    kinds: tuple[type, ...] = (int,) if wish.is_history else (str,)
    after = place_of("dashboard-statistics", kinds, wish.cursor or None)
    found = counting.read(view.web, asked, after, MOST_NAMES if is_idle else ROWS)
    if is_idle:
        found = Page(sorted(found.rows, key=lambda row: (-(row.idle_permille or -1), row.name)), found.next)
    if wish.by != WHOLE:
        return asked, found, None
    of_nobody = counting.read(view.web, replace(asked, dimension=USER, name=ANONYMOUS_USERS), after, ROWS)
    return asked, found, _sum(of_nobody.rows, "contracts")


def _since(view: View, wish: Wish) -> str | None:
    """The newest so many periods of what was counted; of names, everything."""
    with view.web.reading.connect() as db:
        counted = counted_between(db)
    if counted is None:
        return None
    begin_ms = max(counted[0], counted[1] - _SHOWN_MS[wish.per])
    return _date(view, begin_ms)


def _form(view: View, wish: Wish, choices: list[str]) -> None:
    fields = [
        Field("by", view.text("statistics.by"), wish.by, [(one, view.word("dimension", one)) for one in choices]),
        Field("name", view.text("statistics.name"), wish.name),
        Field("per", view.text("statistics.per"), wish.per, [(one, view.word("period", one)) for one in PERIODS]),
        Field("since", view.text("details.since"), wish.since, kind="date"),
        Field("until", view.text("details.until"), wish.until, kind="date"),
    ]
    details.form(view, fields)


def _sum(rows: list[Row], measure: str) -> int:
    return sum(row.sums[measure] for row in rows)


def _figures(view: View, rows: list[Row], anonymous: int | None) -> None:
    contracts = _sum(rows, "contracts")
    delay = _sum(rows, "delay_ms") // contracts if contracts else None
    listed_ms = _sum(rows, "listed_ms")
    idle = max(0, 1000 * (listed_ms - _sum(rows, "used_ms")) // listed_ms) if listed_ms else None
    with shell.cards():
        shell.Figure(view.word("measure", "contracts"), str(contracts))
        if anonymous is not None:
            shell.Figure(view.text("statistics.of_them"), str(anonymous))
        shell.Figure(view.word("measure", "measured_wh"), view.energy(_sum(rows, "measured_wh")))
        shell.Figure(view.word("measure", "user_micro"), view.money(_sum(rows, "user_micro")))
        shell.Figure(view.word("measure", "idle"), written.permille(idle))
        shell.Figure(view.word("measure", "delay"), written.DASH if delay is None else written.span(delay))


def _label(view: View, wish: Wish, row: Row) -> str:
    if wish.is_history:
        return row.period.label
    return view.text("statistics.anonymous") if row.anonymous else row.name


def _chart(view: View, wish: Wish, rows: list[Row]) -> None:
    """Energy as bars and money as a line; of piles by name, how much of the time they stood idle."""
    shown = rows if wish.is_history else rows[:BARS]
    labels = [_label(view, wish, row) for row in shown]
    unit = view.currency or view.text("statistics.money")
    bars = {"type": "bar", "name": view.word("measure", "measured_wh"), "color": theme.BLUE, "barMaxWidth": 28,
            "data": [row.sums["measured_wh"] / 1000 for row in shown]}  # fmt: skip
    second, name = [row.sums["user_micro"] / 1_000_000 for row in shown], view.word("measure", "user_micro")
    if wish.by == PILE and not wish.is_history:
        second, name, unit = [(row.idle_permille or 0) / 10 for row in shown], view.word("measure", "idle"), "%"
    line = {"type": "line", "name": name, "yAxisIndex": 1, "color": theme.ORANGE, "symbolSize": 4, "data": second}
    options = theme.chart(
        xAxis=theme.axis("category", data=labels),
        yAxis=[theme.axis("value", "kWh"), theme.axis("value", unit, splitLine={"show": False})],
        series=[bars, line],
        grid={"left": 8, "right": 8, "top": 56, "bottom": 4, "containLabel": True},
    )
    ui.echart(options).style("height:300px;width:100%")


def _table(view: View, wish: Wish, found: Page) -> None:
    if not found.rows:
        details.nothing(view)
        return
    word = details.Heads(view, "measure")
    first = view.word("period", wish.per) if wish.is_history else view.word("dimension", wish.by)
    columns = [
        Column(first), Column(word("contracts"), right=True), Column(word.kwh("agreed_wh"), right=True, optional=True),
        Column(word.kwh("measured_wh"), right=True), Column(word.cash("user_micro"), right=True),
        Column(word.cash("owner_micro"), right=True, optional=True), Column(word.cash("grid_micro"), right=True, optional=True),
        Column(word.cash("fee_micro"), right=True, optional=True), Column(word("disputed"), right=True, optional=True),
        Column(word("idle"), right=True), Column(word("delay"), right=True, optional=True),
    ]  # fmt: skip
    rows = found.rows
    energy, money = ("agreed_wh", "measured_wh"), ("user_micro", "owner_micro", "grid_micro", "fee_micro")
    total = [
        view.text("details.sum", count=len(rows)),
        str(_sum(rows, "contracts")),
        *(details.bare(view.energy(_sum(rows, name))) for name in energy),
        *(details.bare(view.money(_sum(rows, name))) for name in money),
        str(_sum(rows, "disputed")),
        "",
        "",
    ]
    details.grid(view, columns, [_line(view, wish, row) for row in rows], total)
    following = None if found.next is None else encode_place("dashboard-statistics", [found.next])
    given = {
        "by": wish.by,
        "name": wish.name,
        "per": wish.per,
        "since": wish.since,
        "until": wish.until,
        "cursor": wish.cursor,
    }
    details.pager(view, given, following)


def _line(view: View, wish: Wish, row: Row) -> tuple[Cell, ...]:
    sums, delay = row.sums, row.mean_delay_ms
    name: Cell = row.period.label
    if not wish.is_history:
        given = {"by": wish.by, "name": row.name, "per": wish.per}
        name = Link(_label(view, wish, row), f"{view.path}?{urlencode(given)}")
    return (
        name,
        str(sums["contracts"]),
        details.bare(view.energy(sums["agreed_wh"])),
        details.bare(view.energy(sums["measured_wh"])),
        *(
            details.bare(view.money(sums[measure]))
            for measure in ("user_micro", "owner_micro", "grid_micro", "fee_micro")
        ),
        str(sums["disputed"]),
        written.permille(row.idle_permille),
        written.DASH if delay is None else written.span(delay),
    )


def _files(view: View, wish: Wish, asked: counting.Asked) -> None:
    """The table as CSV, from the API: all of it, not only the page that is shown."""
    moments = {"since": asked.start_ms, "until": asked.end_ms}
    given = {name: local(ms, view.zone).strftime("%Y-%m-%dT%H:%M") for name, ms in moments.items()}
    given |= {"per": wish.per, "tz": view.zone.key, "format": "csv"} | ({"name": wish.name} if wish.name else {})
    path = f"{PREFIX}/v1/statistics/{wish.by}?{urlencode(given)}"
    with details.element("div", "pc-pager"):
        details.words("a", view.text("statistics.csv"), "pc-button", href=path, download=f"statistics-{wish.by}.csv")


# --- prices --------------------------------------------------------------------------------------------------------------


async def _prices(view: View, wish: Wish, asked: counting.Asked) -> None:
    """A zone's price beside its load, over the same time."""
    zones = await view.ask(_zones, view)
    chosen = wish.zone if wish.zone in zones else (wish.name if wish.by == ZONE and wish.name in zones else "")
    chosen = chosen or next(iter(zones), "")
    if not chosen:
        return
    with shell.card(view.text("statistics.prices", zone=chosen)):
        kept = {"by": wish.by, "name": wish.name, "per": wish.per, "since": wish.since, "until": wish.until}
        if len(zones) > 1:
            with details.element("nav", "pc-tabs"):
                for zone in zones:
                    given = {key: value for key, value in kept.items() if value} | {"zone": zone}
                    link = ui.link(zone, f"{view.path}?{urlencode(given)}")
                    if zone == chosen:
                        link.props('aria-current="page"')
        points = await view.ask(_history, view, chosen, asked)
        if points:
            _price_chart(view, points)
        else:
            details.nothing(view)


def _zones(view: View) -> list[str]:
    t = tallied.c
    with view.web.reading.connect() as db:
        return list(db.execute(select(t.name).where(t.dimension == ZONE).order_by(t.name).limit(MAX_ZONES)).scalars())


def _history(view: View, zone: str, asked: counting.Asked) -> list[dict[str, Any]]:
    with view.web.reading.connect() as db:
        return price_history(db, zone, asked.start_ms, max(asked.end_ms, asked.start_ms + 1), POINTS)


def _price_chart(view: View, points: list[dict[str, Any]]) -> None:
    unit = f"{view.currency}/kWh" if view.currency else "/kWh"
    price = {
        "type": "line",
        "name": view.word("column", "price"),
        "color": theme.BLUE,
        "step": "end",
        "symbolSize": 4,
        "connectNulls": True,
        "data": [None if p["price_micro_per_kwh"] is None else p["price_micro_per_kwh"] / 1_000_000 for p in points],
    }
    load = {"type": "line", "name": view.word("column", "load"), "yAxisIndex": 1, "color": theme.ORANGE, "symbol": "none",
            "areaStyle": {"opacity": 0.12}, "data": [p["open_after_wh"] / 1000 for p in points]}  # fmt: skip
    options = theme.chart(
        xAxis=theme.axis("category", data=[view.time(p["time_ms"])[:16] for p in points]),
        yAxis=[theme.axis("value", unit, scale=True), theme.axis("value", "kWh", splitLine={"show": False})],
        series=[price, load],
        grid={"left": 8, "right": 8, "top": 56, "bottom": 4, "containLabel": True},
    )
    ui.echart(options).style("height:260px;width:100%")
