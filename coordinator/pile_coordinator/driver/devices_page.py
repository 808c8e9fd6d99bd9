"""Where a paired browser lets another one in, or shuts all of them out."""

import segno
from nicegui import ui

from pile_coordinator.driver.frame import card, note, tag
from pile_coordinator.driver.view import View


def show(view: View) -> None:
    """Build it."""
    desk = view.desk
    code = desk.pairing.new_code()
    with card():
        note(view.text("pair_scan"))
        box = ui.element("div").classes("pd-qr")
        with box:
            image = ui.element("img").props("alt=QR")
            url = f"{desk.place.url}/pair#{code}"
            image._props["src"] = segno.make(url, error="m", micro=False).svg_data_uri(border=4)  # noqa: SLF001
        tag("div", desk.place.url, "pd-code")
        tag("div", code, "pd-mid").style("text-align:center").props("data-test=code")

    async def forget() -> None:
        desk.pairing.forget()
        view.go("/pair")

    with card():
        view.button(view.text("pair_forget"), forget, test="forget")
