"""Parts of the pages about single things: tables with hashes that are links and can be copied, filters, pages of lists, marks.

Filters and the pages of a list are in the address of the page, so that what somebody sees can be sent to a colleague as a link;
they are plain forms and links, which work before any script does.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from pile_coordinator.chain.transactions import is_pseudonym
from pile_coordinator.dashboard import written
from pile_coordinator.evidence.calendar import parse_moment
from pile_coordinator.web.models import PATTERN_HASH, PATTERN_ID
from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from pile_coordinator.dashboard.shell import View

_DATE = r"([0-9]{4}-[0-9]{2}-[0-9]{2})?"
ROWS = 50  # of a page of a list
_PSEUDONYM_SHOWN = 10  # characters: 20 bits of it
GOOD, BAD, BUSY, PLAIN = "good", "bad", "busy", "plain"
_STATES = {"disputed": BAD, "defaulted": BAD, "no-show": BAD, "confirmed": GOOD, "settled": GOOD, "resolved": GOOD,
           "signed": BUSY, "measured": BUSY, "proposed": BUSY}  # fmt: skip

STYLE = """
.pc-mark{display:inline-block;border-radius:3px;padding:0 6px;font-size:12.5px;border:1px solid var(--pc-line);
white-space:nowrap}
.pc-mark.good{color:var(--pc-good);border-color:currentColor}.pc-mark.busy{color:var(--pc-link);border-color:currentColor}
.pc-mark.bad{color:var(--pc-bad);border-color:currentColor;background:var(--pc-bad-back);font-weight:600}
.pc-hash{display:inline-flex;align-items:baseline;gap:2px;max-width:100%;min-width:0}
.pc-hash a{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:12.5px;overflow-wrap:anywhere}
.pc-copy{background:none;border:0;color:var(--pc-soft);cursor:pointer;padding:3px 5px;border-radius:3px;line-height:0}
.pc-copy:before{content:"";display:inline-block;width:8px;height:9px;border:1.5px solid currentColor;border-radius:2px;
box-shadow:3px -3px 0 -1.5px var(--pc-card),3px -3px 0 0 currentColor;margin:3px 3px 0 0}
.pc-copy:hover{color:var(--pc-ink)}.pc-copy[data-done]{color:var(--pc-good)}.pc-copy[data-done]:before{background:currentColor}
.pc-form{display:flex;flex-wrap:wrap;gap:8px 10px;align-items:end;margin:0 0 10px}
.pc-form label{display:grid;gap:2px;font-size:12.5px;color:var(--pc-soft)}
.pc-form input,.pc-form select,.pc-form button,.pc-find input{font:inherit;color:inherit;background:var(--pc-card);
border:1px solid var(--pc-line);border-radius:4px;padding:4px 8px;min-height:32px;max-width:100%}
.pc-form input,.pc-form select{color:var(--pc-ink);width:150px}.pc-form button,.pc-button{cursor:pointer;font:inherit;
color:var(--pc-link);background:var(--pc-card);border:1px solid var(--pc-line);border-radius:4px;padding:4px 12px;
min-height:32px;text-decoration:none;display:inline-flex;align-items:center}
.pc-form button:hover,.pc-button:hover{border-color:var(--pc-link)}.pc-button[disabled]{opacity:.5;cursor:default}
.pc-tabs{display:flex;flex-wrap:wrap;gap:2px 14px;border-bottom:1px solid var(--pc-line);margin:0}
.pc-tabs a{color:var(--pc-soft);text-decoration:none;padding:4px 0 5px;border-bottom:2px solid transparent}
.pc-tabs a[aria-current]{color:var(--pc-ink);border-bottom-color:#0072B2;font-weight:600}
.pc-sum td{font-weight:600;border-top:2px solid var(--pc-line)}
.pc-pager{display:flex;gap:8px;margin-top:10px;align-items:center}
.pc-life{display:grid;gap:12px;grid-template-columns:minmax(0,1fr) 360px}
.pc-find input{width:130px;min-height:30px;padding:2px 8px}
.pc-alarms{color:inherit;text-decoration:none;white-space:nowrap}
.pc-alarms.bad{color:var(--pc-bad)!important;font-weight:650}
.pc-line{list-style:none;margin:0;padding:0}.pc-line>li{position:relative;padding:0 0 14px 22px;min-width:0}
.pc-line>li:before{content:"";position:absolute;left:4px;top:6px;width:9px;height:9px;border-radius:50%;background:#0072B2}
.pc-line>li:after{content:"";position:absolute;left:8px;top:18px;bottom:-4px;width:1px;background:var(--pc-line)}
.pc-line>li:last-child:after{display:none}.pc-line>li:last-child{padding-bottom:0}
.pc-line>li.bad:before{background:#D55E00}.pc-line>li.good:before{background:#009E73}.pc-line>li.busy:before{background:#E69F00}
.pc-when{display:flex;flex-wrap:wrap;gap:0 12px;align-items:baseline}.pc-when b{font-weight:650}
.pc-when span,.pc-when a{font-size:12.5px}.pc-facts{display:flex;flex-wrap:wrap;gap:0 16px}
.pc-facts div{min-width:0;overflow-wrap:anywhere}.pc-facts i{font-style:normal;color:var(--pc-soft);margin-right:2px}
.pc-said{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid var(--pc-line);padding-left:8px;margin:2px 0}
.pc-code{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:12.5px;background:var(--pc-back);
border:1px solid var(--pc-line);border-radius:4px;padding:6px 8px;overflow-wrap:anywhere;white-space:pre-wrap}
.pc-check{margin-right:8px;display:inline-block;white-space:nowrap}.pc-ok{color:var(--pc-good)}.pc-no{color:var(--pc-bad);font-weight:650}
.pc-files{display:flex;flex-wrap:wrap;gap:8px}
.pc-table th{white-space:normal;vertical-align:bottom}.pc-table td.w{min-width:5.5em;overflow-wrap:break-word}
.pc-note{margin:6px 0}.pc-card .pc-note:last-child{margin-bottom:0}
@media(max-width:1500px){.pc-head .pc-me{display:none}.pc-nav a{padding-left:7px;padding-right:7px}}
@media(max-width:1100px){.pc-life{grid-template-columns:minmax(0,1fr)}}
@media(max-width:700px){.pc-table .o,.pc-table .pc-copy{display:none}.pc-find input{width:100%}.pc-form label{flex:1 1 130px}
.pc-form input,.pc-form select{width:100%}.pc-copy{padding:4px 8px}}
"""
"""Of every page, beside theme.STYLE."""

COPYING = """
addEventListener("click",async e=>{const b=e.target.closest("[data-copy]");if(!b)return;const t=b.dataset.copy;
try{await navigator.clipboard.writeText(t)}catch{const a=document.createElement("textarea");a.value=t;a.style.position="fixed";
document.body.append(a);a.select();document.execCommand("copy");a.remove()}
b.dataset.done="";setTimeout(()=>delete b.dataset.done,1200)});
"""
"""Script of every page. Where a page came without TLS there is no clipboard to write to, and the old command does it."""


# --- elements ------------------------------------------------------------------------------------------------------------


def words(tag: str, text: str, classes: str = "", **attributes: object) -> ui.element:
    """An HTML element with a text; never HTML. `attributes` are set as they are, whatever they contain."""
    made = TextElement(tag=tag, text=text).classes(classes)
    made._props.update(attributes)  # noqa: SLF001 - .props() would parse what parties wrote
    return made


def element(tag: str, classes: str = "", **attributes: object) -> ui.element:
    """An HTML element for others."""
    made = ui.element(tag).classes(classes)
    made._props.update(attributes)  # noqa: SLF001
    return made


def mark(text: str, tone: str = PLAIN) -> None:
    """A word in a frame."""
    words("span", text, f"pc-mark {tone}")


def contract_state(view: "View", state: str, outcome: str | None) -> "Cell":
    """A contract's outcome, or its state so long."""
    name = outcome or state
    return Marked(view.word("contract", name), _STATES.get(name, PLAIN))


def funding(view: "View", party: str) -> "Marked":
    """Whether the user of an order is nobody: notes paid, and not an account."""
    is_nobody = is_pseudonym(party)
    return Marked(view.word("funding", "anonymous" if is_nobody else "named"), BUSY if is_nobody else PLAIN)


def name(party: str) -> str:
    """A party's id; of a pseudonym, of which one is like the other, as much as tells them apart."""
    return f"{party[:_PSEUDONYM_SHOWN]}…" if is_pseudonym(party) else party


def hash_link(view: "View", text: str | None, path: str = "", *, whole: bool = False) -> None:
    """A hash: a link to its trace, and a button that copies all of it."""
    if not text:
        words("span", written.DASH)
        return
    with element("span", "pc-hash"):
        shown = text if whole else written.short(text)
        link = ui.link(shown, path or trace_path(text)).classes("pc-link")
        link._props["title"] = text  # noqa: SLF001
        label = view.text("details.copy")
        element("button", "pc-copy", **{"data-copy": text, "type": "button", "aria-label": label, "title": label})


def trace_path(name: str) -> str:
    """Where the trace of an id is."""
    return f"/trace/{quote(name, safe='/:')}"


def order_path(contract: str) -> str:
    """Where the life of a contract is told."""
    return f"/orders/{contract}"


def tabs(view: "View", shown: Iterable[tuple[str, str, str]]) -> None:
    """Links between pages of one kind, as far as the caller may see them: (route, path, key of the text)."""
    with element("nav", "pc-tabs"):
        for route, path, text in shown:
            if view.grant_of(route) is not None:
                link = ui.link(text, path)
                if view.path == path:
                    link.props('aria-current="page"')


def fact(name: str, value: str) -> None:
    """A name and a value in a line of facts."""
    with element("div"):
        words("i", f"{name} ")
        words("span", value)


# --- tables --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marked:
    """A cell that is a word in a frame."""

    text: str
    tone: str


@dataclass(frozen=True, slots=True)
class Hash:
    """A cell that is a hash; `path` where its link goes, if not to its trace."""

    text: str | None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A cell that is a link."""

    text: str
    path: str


@dataclass(frozen=True, slots=True)
class Checks:
    """A cell with what was checked, and whether it held; None where that cannot be told."""

    found: Sequence[tuple[str, bool | None]]


Cell = str | Marked | Hash | Link | Checks | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, whether of numbers, whether left out on a phone, and whether its texts are long."""

    head: str
    right: bool = False
    optional: bool = False
    long: bool = False

    @property
    def classes(self) -> str:
        """Of its cells."""
        return " ".join(name for name, on in (("r", self.right), ("o", self.optional), ("w", self.long)) if on)


class Heads:
    """Heads of columns, by the words of a family; amounts in them stand without a unit, which the head has."""

    def __init__(self, view: "View", family: str = "column") -> None:
        """In the reader's words."""
        self._view, self._family = view, family

    def __call__(self, name: str) -> str:
        """As it is."""
        return self._view.word(self._family, name)

    def kwh(self, name: str) -> str:
        """Of energy."""
        return f"{self(name)}, kWh"

    def cash(self, name: str) -> str:
        """Of money; its unit is known where the server has the genesis file."""
        return f"{self(name)}, {self._view.currency}" if self._view.currency else self(name)

    def rate(self, name: str) -> str:
        """Of prices."""
        return f"{self(name)}, {self._view.currency}/kWh"


def grid(view: "View", columns: Sequence[Column], lines: Iterable[Sequence[Cell]], total: Sequence[str] = ()) -> None:
    """A table; `total`: a last line with sums."""
    with element("div", "pc-scroll"), element("table", "pc-table"):
        with element("thead"), element("tr"):
            for column in columns:
                words("th", column.head, column.classes, scope="col")
        with element("tbody"):
            for line in lines:
                with element("tr"):
                    for column, value in zip(columns, line, strict=True):
                        _cell(view, column, value)
            if total:
                with element("tr", "pc-sum"):
                    for column, text in zip(columns, total, strict=True):
                        words("td", text, column.classes)


def _cell(view: "View", column: Column, value: Cell) -> None:
    if value is None or isinstance(value, str):
        words("td", "" if value is None else value, column.classes)
        return
    with element("td", column.classes):
        show(view, value)


def show(view: "View", value: Cell) -> None:
    """A cell's value, outside of a table too."""
    if isinstance(value, Marked):
        mark(value.text, value.tone)
    elif isinstance(value, Hash):
        hash_link(view, value.text, value.path)
    elif isinstance(value, Link):
        ui.link(value.text, value.path).classes("pc-link")
    elif isinstance(value, Checks):
        for name, held in value.found:
            sign, tone = (written.DASH, "pc-soft") if held is None else ("✓", "pc-ok") if held else ("✗", "pc-no")
            words("span", f"{sign} {name} ", f"pc-check {tone}")
    else:
        words("span", value or "")


def rows(view: "View", pairs: Iterable[tuple[str, Cell]]) -> None:
    """Names and values, one below the other."""
    with element("dl", "pc-rows"):
        for name, value in pairs:
            words("dt", name)
            with element("dd"):
                show(view, value)


def pager(view: "View", given: Mapping[str, str], following: str | None, *, name: str = "cursor") -> None:
    """Links to the first and the next page of a list with these filters; nothing if all of it is shown."""
    kept = {key: value for key, value in given.items() if value and key != name}
    if not given.get(name) and following is None:
        return
    with element("div", "pc-pager"):
        if given.get(name):
            ui.link(view.text("details.first"), _address(view, kept)).classes("pc-button")
        if following is not None:
            ui.link(view.text("details.next"), _address(view, kept | {name: following})).classes("pc-button")


def _address(view: "View", given: Mapping[str, str]) -> str:
    return f"{view.path}?{urlencode(given)}" if given else view.path


# --- filters -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form: its name in the address, its label and value; with `options` (value, text) a choice."""

    name: str
    label: str
    value: str
    options: Sequence[tuple[str, str]] = ()
    kind: str = "text"


def form(view: "View", fields: Iterable[Field], more: Callable[[], None] | None = None) -> None:
    """A form that asks for the page again, with its fields in the address."""
    with element("form", "pc-form", method="get", action=view.path):
        for field in fields:
            with words("label", field.label):
                if field.options:
                    _select(field)
                else:
                    is_date = field.kind == "date" and re.fullmatch(
                        _DATE, field.value
                    )  # else a browser hides what it is
                    element(
                        "input", name=field.name, value=field.value, type="date" if is_date else "text", maxlength=64
                    )
        words("button", view.text("details.show"), type="submit")
        if more:
            more()


def _select(field: Field) -> None:
    with element("select", name=field.name):
        for value, text in field.options:
            chosen: dict[str, Any] = {"selected": True} if value == field.value else {}
            words("option", text, value=value, **chosen)


class BadFilterError(Exception):
    """A filter that nothing can match; `text` says why."""

    def __init__(self, text: str) -> None:
        """For this reason."""
        super().__init__(text)
        self.text = text


def an_id(view: "View", text: str) -> str | None:
    """The id in a filter, None for none; BadFilterError for what no id is like."""
    text = text.strip()
    if text and not re.fullmatch(PATTERN_ID, text):
        raise BadFilterError(view.text("details.no_id", text=text))
    return text or None


def a_moment(view: "View", text: str) -> int | None:
    """The beginning of the day, month, ... in a filter, unix ms; BadFilterError for what is no time."""
    text = text.strip()
    if not text:
        return None
    try:
        return parse_moment(text[:32], view.zone)
    except ConfigError as error:
        raise BadFilterError(view.text("details.no_time", text=text)) from error


def is_hash(text: str) -> bool:
    """Whether this is the whole of a hash."""
    return re.fullmatch(PATTERN_HASH, text) is not None


# --- amounts -------------------------------------------------------------------------------------------------------------


def off(view: "View", off_wh: int | None, of_wh: int, *, unit: bool = True) -> str:
    """A deviation in kWh and percent of what was agreed."""
    if off_wh is None:
        return view.energy(None)
    energy = view.energy(off_wh) if unit else bare(view.energy(off_wh))
    sign, part = "+" if off_wh > 0 else "", share(off_wh, of_wh)
    return f"{sign}{energy} ({part})" if part else f"{sign}{energy}"


def share(off_wh: int | None, of_wh: int) -> str:
    """A deviation in percent of what was agreed; empty where there is none."""
    if off_wh is None or not of_wh:
        return ""
    return ("+" if off_wh > 0 else "") + written.permille(_rounded(1000 * off_wh, of_wh))


def bare(amount: str) -> str:
    """An amount without its unit, for a column whose head has it."""
    return amount.partition(" ")[0]


def _rounded(value: int, by: int) -> int:
    return (abs(value) + by // 2) // by * (1 if value >= 0 else -1)


def total(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    """The sum of a column, without what is not known."""
    return sum(row[name] for row in rows if row[name] is not None)


def nothing(view: "View") -> None:
    """That a list is empty."""
    words("p", view.text("details.nothing"), "pc-note")
