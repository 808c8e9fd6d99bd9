"""The frame of every page of the driver, and what pages are made of: large enough for a thumb, quiet, legible in the sun."""

from collections.abc import Iterable

from nicegui import ui

from pile_coordinator.dashboard import theme, words
from pile_coordinator.driver.view import View

LOOK_S = 1.0  # at whether the broker is there: asks nobody
STYLE = (
    theme.STYLE
    + """
body{font-size:16px}
.nicegui-content{max-width:640px;padding:14px 14px 40px;gap:14px}
.pc-head{padding:0 14px;min-height:52px}.pc-head .pc-brand{font-size:17px}
.pc-card{padding:16px;border-radius:10px}
.pd-stack{display:flex;flex-direction:column;gap:14px;align-items:stretch;min-width:0;width:100%}
.pd-stack>.pc-rows{font-size:15px}
h1.pc-title{font-size:22px}h2.pc-sub{font-size:15px;margin-bottom:8px}
.pc-note{font-size:13.5px;margin:0}
.pd-button{width:100%;min-height:48px;border-radius:10px;font-size:16px;font-weight:600}
.pd-main.q-btn{background:#005a8e;color:#fff}
.pd-button.q-btn--outline{color:var(--pc-link)}
.pd-big{font-size:40px;line-height:1.1;font-weight:650;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.pd-big small{font-size:20px;font-weight:600}
.pd-mid{font-size:24px;line-height:1.2;font-weight:650;font-variant-numeric:tabular-nums}
.pd-item{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:2px 12px;padding:12px 0;
border-bottom:1px solid var(--pc-line);color:inherit;text-decoration:none;align-items:center}
.pd-item:last-child{border-bottom:0;padding-bottom:2px}.pd-item:first-of-type{padding-top:2px}
.pd-item b{font-weight:600;overflow-wrap:anywhere}.pd-item small{color:var(--pc-soft);font-size:13.5px}
.pd-item .pd-end{text-align:right;font-variant-numeric:tabular-nums}
.pd-chip{display:inline-block;border-radius:6px;padding:1px 8px;font-size:13.5px;font-weight:600;
border:1px solid var(--pc-line);color:var(--pc-soft);white-space:nowrap;justify-self:end}
.pd-chip.good{color:var(--pc-good);border-color:currentColor}.pd-chip.bad{color:var(--pc-bad);border-color:currentColor}
.pd-chip.live{background:#005a8e;border-color:#005a8e;color:#fff}
.pd-top{display:flex;justify-content:space-between;align-items:center;gap:12px;flex-wrap:wrap}
.pc-rows{gap:6px 14px;grid-template-columns:auto auto;justify-content:space-between}
.pc-rows dd{text-align:right;overflow-wrap:break-word}
.pd-total{border-top:1px solid var(--pc-line);padding-top:10px;display:flex;justify-content:space-between;
align-items:baseline;gap:12px}
.pd-id{color:var(--pc-soft);font-size:12px;overflow-wrap:anywhere}
.pd-bar{height:10px;border-radius:5px;background:var(--pc-line);overflow:hidden}
.pd-bar>div{height:100%;background:#009E73;border-radius:5px}
.pd-qr{background:#fff;border-radius:10px;padding:6px;align-self:center;width:min(300px,100%);box-sizing:border-box}
.pd-qr img{display:block;width:100%}
.pd-code{font-family:ui-monospace,"SFMono-Regular",Menlo,Consolas,monospace;font-size:12px;overflow-wrap:anywhere;
background:var(--pc-back);border-radius:6px;padding:8px 10px;user-select:all}
.pd-dialog{width:min(440px,92vw);background:var(--pc-card)}
.pd-good{color:var(--pc-good);font-weight:600}.pd-stack .q-field{width:100%}
.q-btn-toggle{width:100%;border:1px solid var(--pc-line);border-radius:10px;box-shadow:none}
.q-btn-toggle .q-btn{min-height:44px;
font-size:15px}
.q-field__native,.q-field__input,.q-field__label{color:var(--pc-ink)!important}
.pc-banner{position:sticky;top:58px;z-index:5}
"""
)


def frame(view: View, path: str, title: str) -> None:
    """Head, banner and heading of a page at `path`."""
    ui.add_css(STYLE)
    ui.colors(primary="#005a8e")
    with ui.header(elevated=False).classes("pc-head"):
        back = "" if path == "/" else "‹ "  # noqa: RUF001
        ui.link(back + view.text("home"), "/").classes("pc-brand")
        with ui.element("div").classes("pc-side"):
            for code, name in words.LANGUAGES.items():
                if code != view.language:
                    ui.link(name, f"/language/{code}?to={path}").props(f'lang="{code}" data-test=language')
    banner = ui.label().classes("pc-banner").props("role=alert data-test=away")

    def look() -> None:
        trouble = view.desk.trouble if view.driver.is_connected else "away_broker"
        banner.set_visibility(bool(trouble))
        if trouble:
            banner.text = view.text(trouble)

    banner.set_visibility(False)
    ui.timer(LOOK_S, look, immediate=False)
    if title:
        tag("h1", title, "pc-title")


def tag(name: str, text: str, classes: str = "") -> ui.element:
    """An HTML element with a text in it, which cannot become markup."""
    element = ui.element(name)
    element._text = text  # noqa: SLF001 - NiceGUI's own elements with text do the same
    return element.classes(classes)


def card(heading: str = "") -> ui.element:
    """A frame for what is built within it."""
    with ui.element("section").classes("pc-card pd-stack") as place:
        if heading:
            tag("h2", heading, "pc-sub").style("margin:0")
    return place


def rows(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values."""
    with ui.element("dl").classes("pc-rows"):
        for name, value in pairs:
            tag("dt", name)
            tag("dd", value)


def note(text: str) -> None:
    """A remark."""
    tag("p", text, "pc-note")


_TONES = {
    "active": "live",
    "measured": "bad",
    "proposed": "bad",
    "disputed": "bad",
    "confirmed": "good",
    "settled": "good",
    "resolved": "good",
    "fills": "good",
    "refused": "bad",
    "refunded": "bad",
    "defaulted": "bad",
}


def chip(text: str, state: str) -> None:
    """A state in one word."""
    tag("span", text, f"pd-chip {_TONES.get(state, '')}").props("data-test=state")
