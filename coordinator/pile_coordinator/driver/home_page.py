"""The first page: the balance, what waits for the driver, what is open, what was."""

from nicegui import ui

from pile_coordinator.chain.records import MEASURED, PROPOSED, SIGNED
from pile_coordinator.driver.frame import card, chip, note, tag
from pile_coordinator.driver.session import Home, Row
from pile_coordinator.driver.view import View, exact, large_button

FEW = 8  # earlier orders that are shown at once


def show(view: View) -> None:
    """Build it."""
    view.follow(view.driver.home, lambda home: _content(view, home))
    note(view.text("footer", party=view.driver.wallet.party, chain=view.driver.genesis.chain_id))
    with ui.element("div").classes("pd-top"):
        ui.link(view.text("pair_another"), "/devices").classes("pc-link")


def _content(view: View, home: Home) -> None:
    view.desk.utc_offset_minutes = home.tariff["now"]["utc_offset_minutes"]
    with card():
        tag("div", view.text("balance"), "pc-soft")
        with ui.element("div").classes("pd-big").props("data-test=balance"):
            tag("span", exact(home.balance_micro))
            tag("small", f" {view.params.currency}")
        large_button(view.text("new"), lambda: ui.navigate.to("/new"), main=True, test="new", icon="bolt")
    _waiting(view, home)
    with card(view.text("open")), ui.element("div"):
        rows = [row for row in home.orders if row["kind"] != "listing"]
        for row in rows:
            _open_row(view, row)
        if not rows:
            note(view.text("none_open"))
    _earlier(view, home.past)
    note(view.text("zone_time", offset=view.offset()))


def _waiting(view: View, home: Home) -> None:
    """What the driver must or may do now, the soonest to end first."""
    rows = [row for row in home.orders if _waits(row, view.driver.wallet.party, home.account["time_ms"])]
    if not rows:
        return
    with card(view.text("waits")).props("data-test=waits"), ui.element("div"):
        for row in sorted(rows, key=lambda row: row["deadline_ms"]):
            with _item(row):
                tag("b", view.text(f"todo_{row['phase']}", time=view.time(row["deadline_ms"])))
                chip(view.state(row["phase"]), row["phase"])
                tag("small", f"{row['pile']} · {view.energy(row['energy_wh'])}")


def _waits(row: Row, party: str, now_ms: int) -> bool:
    if row["kind"] != "contract":
        return False
    if row["phase"] == SIGNED:
        return bool(row["window_start_ms"] <= now_ms)
    return row["phase"] in {MEASURED, PROPOSED} and party in row["awaits"]


def _open_row(view: View, row: Row) -> None:
    is_bid = row["kind"] == "bid"
    state = "resting" if is_bid else row["phase"]
    price = row["limit_micro_per_kwh"] if is_bid else row["price_micro_per_kwh"]
    shown = view.text("limit_short", price=view.price(price)) if is_bid else view.price(price)
    with _item(row):
        tag("b", row["pile"] or f"{row['zone']} · {view.text('any_pile')}")
        chip(view.state(state), state)
        tag("small", f"{view.energy(row['energy_wh'])} · {shown} · {view.text('named')}")
        tag("small", view.span(row["window_start_ms"], row["window_end_ms"]), "pd-end")


def _earlier(view: View, past: list[Row]) -> None:
    with card(view.text("earlier")), ui.element("div") as place:
        for row in past[:FEW]:
            _past_row(view, row)
        if not past:
            note(view.text("none_earlier"))

        def all_of_them() -> None:
            more.delete()
            with place:
                for row in past[FEW:]:
                    _past_row(view, row)

        if len(past) > FEW:
            more = large_button(view.text("more", count=len(past)), all_of_them)


def _past_row(view: View, row: Row) -> None:
    with _item(row):
        tag("b", row["pile"] or view.energy(row["energy_wh"]))
        chip(view.state(row["outcome"]), row["outcome"])
        metered = row["measured_wh"] if row["kind"] == "contract" else None
        tag("small", "" if metered is None else f"{view.energy(metered)} · {view.price(row['price_micro_per_kwh'])}")
        tag("small", view.time(row["ended_ms"]), "pd-end")


def _item(row: Row) -> ui.element:
    return ui.link(target=f"/order/{row['id'].hex()}").classes("pd-item").props("data-test=item")
