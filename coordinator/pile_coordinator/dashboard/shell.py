"""The frame of every page: `page` registers a page, `View` is what it is handed. Begin here to add one.

    from nicegui import ui
    from pile_coordinator.dashboard import shell
    from pile_coordinator.dashboard.shell import View, page

    @page("/contracts/{contract}", route="contract", title="trace.title")        # no `menu`: not in the navigation
    async def show(view: View, contract: str) -> None:
        row = await view.ask(view.web.reading.contract, view.grant, bytes.fromhex(contract))
        with shell.card(view.text("trace.contract")):
            shell.rows([(view.text("common.energy"), view.energy(row["energy_wh"]))])
        view.follow(refresh)                                                      # after every block, while it is open

- `route` is a name of web/access.RULES: who has no part in it is not shown the page and finds no entry in the navigation;
  `view.grant` is the caller's grant of it. `view.grant_of("orders")` is that of another route, None if it has no part.
- `menu=n` puts the page into the navigation, in the order of n; `title` is the key of its name there and above the page.
- Questions to the database go through `await view.ask(function, *arguments)`, in a thread; what a database that is away or a
  Refused (404, say) comes to is shown by the shell, also in `follow`.
- Texts: `view.text("key", name=value)`; words of the evidence: `view.word("state", "charging")`. Add keys to
  words/en/<section>.json and words/zh/<section>.json; tests hold both to the same keys and placeholders, and every key to be
  used: literally as `"key"`, or by its family as in `word("state", ...)`.
- Amounts: `view.money`, `view.money_exact`, `view.price`, `view.energy`, `view.power`, `view.time`, `view.clock`: integers
  in, text out.
- Elements: `title`, `columns`, `cards`, `card`, `bar`, `Figure`, `rows`, `table`, `note`, `banner`, `link` below, in the style
  of `theme`. They take text, never HTML: what parties wrote cannot become markup. Charts: `shell.chart(theme.chart(...), 300)`.
- Name the page's module in `pages.MODULES`.
"""

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import nicegui
from fastapi import Request
from nicegui import Client, background_tasks, dependencies, ui
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pile_coordinator.dashboard import extras, theme, words, written
from pile_coordinator.dashboard.board import Board
from pile_coordinator.dashboard.door import VISIT, Path, Visit
from pile_coordinator.web.access import RULES, Grant, also
from pile_coordinator.web.problems import DATABASE_AWAY, Refused
from pile_coordinator.web.shared import Web

T = TypeVar("T")
Build = Callable[..., Awaitable[Response | None]]
Cell = str | tuple[str, str]  # a text, or a text and the path it links to
_STATIC = f"/_nicegui/{nicegui.__version__}"
BEAT_S = 5  # `follow` calls at least so often, so that a page sees that nothing comes


@dataclass(frozen=True, slots=True)
class Entry:
    """A page: where it is, by which route it is allowed, its title's key, and its place in the navigation (None: not there)."""

    path: str
    route: str
    title: str
    menu: int | None


ENTRIES: list[Entry] = []
"""Every page, as the modules of `pages` register them."""


def page(path: str, *, route: str, title: str, menu: int | None = None) -> Callable[[Build], Build]:
    """Make the async function below a page at `path`; `{names}` of the path are its arguments, after the view."""
    entry = Entry(path, route, title, menu)
    assert route in RULES

    def register(build: Build) -> Build:
        ENTRIES.append(entry)
        given = [*inspect.signature(build).parameters.values()][1:]

        async def show(request: Request, **arguments: Any) -> Response | None:
            return await _show(build, entry, request, arguments)

        own = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)
        show.__signature__ = inspect.Signature([own, *given])  # type: ignore[attr-defined]  # what FastAPI goes by
        ui.page(path, title="Pilechain", response_timeout=20)(show)
        return build

    return register


def paths() -> list[Path]:
    """Where pages are, for the door."""
    return [Path(entry.path, entry.route) for entry in ENTRIES]


class View:
    """One open page: who looks at it, in what language, and all that pages need. Used on the event loop.

    Attributes:
        web: what requests share; `web.reading` asks the database. board: the live state of all piles, orders and prices.
        grant: what the caller may see of the page's route. language: "en" or "zh". zone: the operator's time zone.
        currency: its code; empty where the server has no genesis file. path: the page's own.
    """

    def __init__(self, web: Web, board: Board, visit: Visit, client: Client, path: str) -> None:
        """A view of what `visit` may see."""
        self.web, self.board, self.path = web, board, path
        self.grant, self.language = visit.grant, visit.language
        self.zone = web.config.zone
        self.currency = web.config.genesis.params.currency if web.config.genesis else ""
        self._client = client

    # --- who may see what, and asking -------------------------------------------------------------------------------------

    def grant_of(self, route: str) -> Grant | None:
        """What the caller may see of another route; None if nothing."""
        return also(self.grant, route)

    async def ask(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The answer of a function that waits for the database, from a thread."""
        return await run_in_threadpool(function, *arguments, **named)

    def follow(self, refresh: Callable[[], Awaitable[None] | None]) -> None:
        """Call `refresh()` once the page is open, after every block, and every few seconds without one, one call at a time.

        A page that is slower than blocks come is called for the newest one: it never lags behind by more than one call.
        """
        slot = ui.context.slot.parent
        started = False

        def start() -> None:
            nonlocal started
            if not started:  # a socket that was lost and is back is no other page
                started = True
                task = background_tasks.create(self._follow(refresh, slot), name="follow")
                self._client.on_delete(task.cancel)

        # Not by waiting for the client here: NiceGUI takes that as leave to send the page before it is built.
        self._client.on_connect(start)

    async def _follow(self, refresh: Callable[[], Awaitable[None] | None], slot: Any) -> None:
        seen = -1
        while not self._client.is_deleted:
            await self.board.news(seen, BEAT_S)
            seen = self.board.height
            with slot:
                try:
                    waits = refresh()
                    if waits is not None:
                        await waits
                except DATABASE_AWAY:
                    self.web.metrics.database_errors.inc()  # the banner says so; what is shown stays

    def to(self, text: str, path: str) -> Cell:
        """A link to a path of the dashboard, where there is a page that the caller may see; else the text alone."""
        found = next((entry for entry in ENTRIES if Path(entry.path, entry.route).matches(path)), None)
        return (text, path) if found is not None and self.grant_of(found.route) is not None else text

    # --- texts ------------------------------------------------------------------------------------------------------------

    def text(self, key: str, **values: object) -> str:
        """The text of a key in the reader's language."""
        return words.text(self.language, key, **values)

    def word(self, family: str, name: str | None) -> str:
        """The reader's word for a word of the evidence."""
        return words.word(self.language, family, name)

    def money(self, micro: int | None) -> str:
        """An amount with two decimals and the currency."""
        return written.money(micro, self.currency)

    def money_exact(self, micro: int | None) -> str:
        """An amount with all six decimals and the currency."""
        return written.money_exact(micro, self.currency)

    def price(self, micro_per_kwh: int | None) -> str:
        """A price per kWh; -1 in words: at market."""
        return self.text("common.market") if micro_per_kwh == -1 else written.price(micro_per_kwh, self.currency)

    def energy(self, wh: int | None) -> str:
        """Wh as kWh, exactly."""
        return written.energy(wh)

    def power(self, w: int | None) -> str:
        """W as kW."""
        return written.power(w)

    def time(self, ms: int | None) -> str:
        """Date and time in the operator's time zone."""
        return written.time(ms, self.zone)

    def clock(self, ms: int | None) -> str:
        """Time of day in the operator's time zone."""
        return written.clock(ms, self.zone)


# --- the frame -----------------------------------------------------------------------------------------------------------


async def _show(build: Build, entry: Entry, request: Request, arguments: dict[str, Any]) -> Response | None:
    visit: Visit = request.scope[VISIT]
    client = ui.context.client
    client.page = copy.copy(
        client.page
    )  # one object is shared by all visitors of a page, and they read several languages
    client.page.language = words.TAGS[visit.language]  # type: ignore[assignment]
    web, board = _SERVED
    view = View(web, board, visit, client, request.url.path)
    ui.add_head_html(f"<style>{theme.STYLE}</style>")
    extras.style()
    preload(f"{_STATIC}/static/dompurify.mjs", f"{_STATIC}/static/utils/dynamic_properties.js")
    _head(view)
    name = view.text(entry.title)
    client.title = f"{name} · Pilechain"
    _status_banner(view)
    try:
        return await build(view, **arguments)
    except Refused as refusal:
        client.status_code = refusal.status
        banner(view.text("refused.404" if refusal.status == 404 else "refused.other", seconds=""))
    except DATABASE_AWAY:
        web.metrics.database_errors.inc()
        client.status_code = 503
        banner(view.text("shell.away"))
    return None


_SERVED: tuple[Web, Board]


def serve_with(web: Web, board: Board) -> None:
    """Show pages over this server from now on: NiceGUI has one application in a process, so there is one of these too."""
    global _SERVED  # noqa: PLW0603
    _SERVED = web, board


def _menu(view: View) -> list[Entry]:
    seen = (entry for entry in ENTRIES if entry.menu is not None and view.grant_of(entry.route) is not None)
    return sorted(seen, key=lambda entry: entry.menu or 0)


def _links(view: View) -> None:
    for entry in _menu(view):
        link = ui.link(view.text(entry.title), entry.path)
        inside = entry.path != "/" and view.path.startswith(entry.path + "/")
        if view.path == entry.path or inside:
            link.props('aria-current="page"')


def _head(view: View) -> None:
    with (
        ui.left_drawer(value=False, elevated=True)
        .props("overlay behavior=mobile width=240")
        .classes("pc-drawer") as drawer
    ):
        with ui.element("nav").props(f'aria-label="{view.text("shell.menu")}"'):
            _links(view)
        with ui.element("div").classes("pc-who"):
            extras.search(view)
            _who(view)
            _choices(view)
    with ui.header(elevated=False).classes("pc-head"):
        menu = ui.button(icon="menu", on_click=drawer.toggle, color=None).props("flat dense round")
        menu.classes("pc-menu").props(f'aria-label="{view.text("shell.menu")}"')
        ui.link("Pilechain", "/").classes("pc-brand")
        with ui.element("nav").classes("pc-nav").props(f'aria-label="{view.text("shell.menu")}"'):
            _links(view)
        with ui.element("div").classes("pc-side"):
            extras.alarm_count(view)
            _freshness(view)
            with ui.element("div").classes("pc-wide"):
                extras.search(view)
            with ui.element("div").classes("pc-side pc-wide"):
                _who(view)
                _choices(view)


def _who(view: View) -> None:
    token = view.grant.token
    ui.label(f"{token.party} · {view.word('role', token.role)}").classes("pc-me")


def _choices(view: View) -> None:
    for code, name in words.LANGUAGES.items():
        if code != view.language:
            ui.link(name, f"/language/{code}?to={view.path}").props(f'lang="{code}"')
    with ui.element("form").props('method="post" action="/sign-out"'):
        ui.button(view.text("sign.out"), color=None).props('flat dense no-caps type="submit"')


def _freshness(view: View) -> None:
    label = ui.label().classes("pc-num").props('data-test="freshness"')

    def refresh() -> None:
        age = written.span(view.board.block_age_ms())
        label.text = view.text("shell.fresh", height=view.board.height, age=age)

    refresh()
    view.follow(refresh)


def _status_banner(view: View) -> None:
    """Says above every page if what it shows is old: the database is away, or no block came for long."""
    place = ui.label().classes("pc-banner").props('role="alert" data-test="banner"')

    def refresh() -> None:
        found = view.board.trouble()
        place.set_visibility(bool(found))
        if found:
            place.text = view.text(
                f"shell.{found}", since=view.time(view.board.time_ms), age=written.span(view.board.behind_ms())
            )

    refresh()
    view.follow(refresh)


# --- what pages are made of ----------------------------------------------------------------------------------------------


def title(text: str) -> None:
    """The heading of a page."""
    _text("h1", text, "pc-title")


def card(heading: str = "") -> ui.element:
    """A frame for what is built within it, with a heading."""
    frame = ui.element("section").classes("pc-card")
    if heading:
        with frame:
            _text("h2", heading, "pc-sub")
    return frame


def cards() -> ui.element:
    """A grid of small cards, for figures."""
    return ui.element("div").classes("pc-cards")


def columns() -> ui.element:
    """Two cards side by side, the first twice as wide; one above the other on a phone."""
    return ui.element("div").classes("pc-two")


def bar() -> ui.element:
    """A row for filters and buttons."""
    return ui.element("div").classes("pc-bar")


class Figure:
    """A key figure: what it is called, and its value, which may change."""

    def __init__(self, name: str, value: str = "–") -> None:  # noqa: RUF001
        """A card with both."""
        with ui.element("div").classes("pc-card pc-figure"):
            self._value = _text("b", value)
            _text("span", name)

    def show(self, value: str) -> None:
        """Another value."""
        if value != self._value.text:
            self._value.text = value


def rows(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Names and values, one below the other."""
    with ui.element("dl").classes("pc-rows"):
        for name, value in pairs:
            _text("dt", name)
            with ui.element("dd"):
                _cell(value)


def table(
    heads: Sequence[str], lines: Iterable[Sequence[Cell]], *, right: Iterable[int] = (), wrap: Iterable[int] = ()
) -> None:
    """A table of texts and links. `right`: columns of numbers. `wrap`: columns of long texts."""
    classes = dict.fromkeys(right, "r") | dict.fromkeys(wrap, "w")
    with ui.element("div").classes("pc-scroll"), ui.element("table").classes("pc-table"):
        with ui.element("thead"), ui.element("tr"):
            for place, head in enumerate(heads):
                _text("th", head, classes.get(place, "")).props('scope="col"')
        with ui.element("tbody"):
            for line in lines:
                with ui.element("tr"):
                    for place, value in enumerate(line):
                        with ui.element("td").classes(classes.get(place, "")):
                            _cell(value)


class LiveTable:
    """A table whose lines change: only they are sent. Texts, no links."""

    def __init__(self, heads: Sequence[str], *, right: Iterable[int] = ()) -> None:
        """An empty table with these heads; `right`: columns of numbers."""
        numbers = set(right)
        columns = [
            {"name": str(n), "label": head, "field": str(n), "align": "right" if n in numbers else "left"}
            for n, head in enumerate(heads)
        ]
        self._table = (
            ui.table(columns=columns, rows=[], row_key="key", pagination=0).classes("pc-live").props("dense flat")
        )
        self._table.props("hide-pagination hide-bottom")
        self._lines: list[Sequence[str]] = []

    def show(self, lines: list[Sequence[str]]) -> None:
        """Other lines; nothing is sent if they are the same."""
        if lines != self._lines:
            self._lines = lines
            rows = [{"key": n} | {str(place): text for place, text in enumerate(line)} for n, line in enumerate(lines)]
            self._table.rows = rows


def chart(options: dict[str, object], height_px: int) -> ui.echart:
    """A chart of ECharts (`theme.chart` makes the options); its library is asked for with the page, not when it is drawn."""
    found = ui.echart(options).style(f"height:{height_px}px;width:100%")
    preload(*_chart_files())
    return found


@cache
def _chart_files() -> tuple[str, ...]:
    """What NiceGUI's chart element loads one after the other; nothing where another release keeps it elsewhere."""
    for key, module in dependencies.esm_modules.items():
        first = module.path / "index.js"
        if module.name == "nicegui-echart" and first.is_file():
            names = ["index.js", *re.findall(r"[\"']\./([\w.-]+\.js)[\"']", first.read_text())]
            return tuple(f"{_STATIC}/esm/{key}/{name}" for name in names)
    return ()


def preload(*paths: str) -> None:
    """Have the browser fetch modules as soon as it reads the page."""
    for path in paths:
        ui.add_head_html(f'<link rel="modulepreload" href="{path}">')


def note(text: str) -> None:
    """A remark in small type: what the evidence cannot tell, for one."""
    _text("p", text, "pc-note").style("margin:0")


def note_that_changes() -> "_Text":
    """A remark whose `text` is set later."""
    return _text("p", "", "pc-note").style("margin:0")


def banner(text: str) -> None:
    """That something is wrong."""
    ui.label(text).classes("pc-banner").props('role="alert"')


def link(text: str, path: str) -> None:
    """A link to another page of the dashboard."""
    ui.link(text, path).classes("pc-link")


def _cell(value: Cell) -> None:
    if isinstance(value, tuple):
        link(*value)
    else:
        _text("span", value)


def _text(tag: str, text: str, classes: str = "") -> "_Text":
    element = _Text(tag, text)
    return element.classes(classes) if classes else element


class _Text(ui.element):
    """Any HTML element with a text in it."""

    def __init__(self, tag: str, text: str) -> None:
        super().__init__(tag)
        self._text = text

    @property
    def text(self) -> str:
        return self._text or ""

    @text.setter
    def text(self, text: str) -> None:
        self._text = text
        self.update()
