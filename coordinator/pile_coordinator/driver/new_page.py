"""Where a driver says what is wanted, sees what it would come to, and orders it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from nicegui import ui

from pile_coordinator.amounts import parse_money
from pile_coordinator.dashboard import written
from pile_coordinator.driver.frame import card, chip, note, rows, tag
from pile_coordinator.driver.session import MARKET_MARGIN_PERMILLE, Offer, Row, Wish
from pile_coordinator.driver.view import View
from pile_shared.errors import BoundsError
from pile_shared.units import LOT_WH

HOUR_MS = 3_600_000
WINDOW_MS = 4 * HOUR_MS  # to begin with
ANY, NOW, LATER, MARKET, LIMIT = "", "now", "later", "market", "limit"


@dataclass(slots=True)
class _Form:
    """The fields."""

    zone: ui.select
    pile: ui.select
    energy: ui.input
    when: ui.toggle
    start: ui.input
    end: ui.input
    how: ui.toggle
    limit: ui.input


async def show(view: View) -> None:
    """Build it."""
    zones = await view.look(view.driver.zones)
    tariff, now_ms = await view.look(view.driver.tariff), await view.look(view.driver.now_ms)
    if zones is None or tariff is None or now_ms is None:
        ui.timer(2.0, ui.navigate.reload)
        note(view.text("loading"))
        return
    view.desk.utc_offset_minutes = tariff["now"]["utc_offset_minutes"]
    if not zones:
        note(view.text("no_zones"))
        return
    with card():
        form = _fields(view, zones, now_ms)
        view.button(view.text("ask_price"), lambda: _ask(view, form, place), main=True, test="ask")
    place = ui.element("div").classes("pd-stack")
    note(view.text("zone_time", offset=view.offset()))
    first = max(zones, key=lambda row: (row["offers"], row["zone"]))["zone"]
    form.zone.set_value(first)


def _fields(view: View, zones: list[Row], now_ms: int) -> _Form:
    names = {row["zone"]: view.text("zone_offers", zone=row["zone"], count=row["offers"]) for row in zones}
    zone = ui.select(names, label=view.text("zone")).props("outlined data-test=zone")
    pile = ui.select({ANY: view.text("any_pile")}, label=view.text("pile"), value=ANY).props("outlined data-test=pile")
    energy = ui.input(view.text("energy"), value="10").props(
        f'outlined suffix=kWh inputmode=decimal data-test=energy hint="{view.text("energy_hint")}"'
    )
    when = ui.toggle({NOW: view.text("now"), LATER: view.text("later")}, value=NOW).props(
        "no-caps unelevated spread toggle-color=primary data-test=when"
    )
    start = _moment(view, "from", now_ms).bind_visibility_from(when, "value", value=LATER)
    end = _moment(view, "until", now_ms + WINDOW_MS)
    how = ui.toggle({MARKET: view.text("market"), LIMIT: view.text("limit")}, value=MARKET).props(
        "no-caps unelevated spread toggle-color=primary data-test=how"
    )
    limit = ui.input(view.text("limit_per_kwh")).props(
        f"outlined inputmode=decimal data-test=limit suffix={view.params.currency}"
    )
    limit.bind_visibility_from(how, "value", value=LIMIT)
    percent = written.permille(MARKET_MARGIN_PERMILLE)
    tag("p", view.text("market_note", percent=percent), "pc-note").bind_visibility_from(how, "value", value=MARKET)
    tag("p", view.text("limit_note"), "pc-note").bind_visibility_from(how, "value", value=LIMIT)
    form = _Form(zone, pile, energy, when, start, end, how, limit)
    zone.on_value_change(lambda: _choose_zone(view, form, now_ms))
    return form


def _moment(view: View, key: str, ms: int) -> ui.input:
    """A field for a time of the market: the browser's own picker, which every phone has."""
    then = datetime.fromtimestamp(ms // 60_000 * 60, UTC).astimezone(view.zone)
    field = ui.input(view.text(key), value=then.strftime("%Y-%m-%dT%H:%M"))
    return field.props(f"outlined stack-label type=datetime-local data-test={key}")


async def _choose_zone(view: View, form: _Form, now_ms: int) -> None:
    """The piles of a zone, and a window that one of them is offered for."""
    offers = await view.look(view.driver.offers, form.zone.value)
    piles = {row["pile"]: row["rated_power_w"] for row in offers or [] if row["window_end_ms"] > now_ms}
    named = {pile: f"{pile} · {written.power(watts)}" for pile, watts in piles.items()}
    form.pile.set_options({ANY: view.text("any_pile"), **named}, value=ANY)
    ends = [row["window_end_ms"] for row in offers or [] if row["window_start_ms"] <= now_ms < row["window_end_ms"]]
    if ends:
        then = datetime.fromtimestamp(min(now_ms + WINDOW_MS, max(ends)) // 60_000 * 60, UTC).astimezone(view.zone)
        form.end.set_value(then.strftime("%Y-%m-%dT%H:%M"))


# --- from fields to a wish -----------------------------------------------------------------------------------------------


def energy_wh(text: str) -> int:
    """KWh as people write them, in lots, to Wh; ValueError for anything else."""
    milli_wh = parse_money(text.strip().replace(",", "."))  # exact to six decimals, as money is
    if milli_wh < 1000 * LOT_WH or milli_wh % (1000 * LOT_WH):
        raise ValueError(f"energy is in lots of {LOT_WH} Wh")
    return milli_wh // 1000


def _read(view: View, form: _Form) -> Wish | None:
    """The wish in the fields; None, with the fields that are wrong marked."""
    found: dict[str, int] = {}

    def take(name: str, field: ui.input, read: object, wrong: str) -> None:
        try:
            found[name] = read(field.value or "")  # type: ignore[operator]
            field.error = None
        except (ValueError, BoundsError):
            field.error = view.text(wrong)

    take("energy_wh", form.energy, energy_wh, "bad_energy")
    take("end_ms", form.end, lambda text: _ms(view, text), "bad_time")
    if form.when.value == LATER:
        take("start_ms", form.start, lambda text: _ms(view, text), "bad_time")
    if form.how.value == LIMIT:
        take("limit", form.limit, _price, "bad_limit")
    if len(found) < 2 + (form.when.value == LATER) + (form.how.value == LIMIT):
        return None
    return Wish(
        form.zone.value,
        form.pile.value,
        found["energy_wh"],
        found.get("start_ms", 0),
        found["end_ms"],
        found.get("limit", 0),
    )


def _price(text: str) -> int:
    price = parse_money(text.strip().replace(",", "."))
    if price == 0:
        raise ValueError("a limit is above 0")
    return price


def _ms(view: View, text: str) -> int:
    then = datetime.strptime(text[:16], "%Y-%m-%dT%H:%M").replace(tzinfo=view.zone)
    return int(then.timestamp()) * 1000


# --- the quote -----------------------------------------------------------------------------------------------------------


async def _ask(view: View, form: _Form, place: ui.element) -> None:
    wish = _read(view, form)
    place.clear()
    if wish is None:
        return
    offer = await view.clerk.do(view.driver.quote, wish)
    with place, card(view.text("quote")).props("data-test=quote"):
        _quote(view, offer)
    ui.run_javascript(
        "document.querySelector('[data-test=quote]')?.scrollIntoView({behavior:'smooth',block:'nearest'})"
    )


def _quote(view: View, offer: Offer) -> None:
    quote = offer.quote
    with ui.element("div").classes("pd-top"):
        price = quote["fills"][0][2] if quote["fills"] else quote["curve_micro_per_kwh"]
        if quote["fills"] or offer.can_be_placed:
            tag("div", view.price(price), "pd-mid").props("data-test=price")
        chip(view.text(f"quote.{quote['outcome']}"), quote["outcome"])
    if quote["reason"]:
        tag("p", _why(view, quote)).props("data-test=why").style("margin:0")
    rows(_facts(view, offer))
    if not offer.can_be_placed:
        return
    note(view.text("most_note"))
    note(view.text("named_say"))
    is_waiting = quote["outcome"] == "rests"
    view.button(
        view.text("place_limit" if is_waiting else "place"), lambda: _place(view, offer), main=True, test="place"
    )
    note(view.text("placed_once"))


def _why(view: View, quote: Row) -> str:
    told = view.text(f"why.{quote['reason']}")
    if quote["reason"] == "supply":
        sentence = view.word("missing", quote["why"])
        return told if sentence == quote["why"] else sentence
    if quote["reason"] == "paused":
        return f"{told} ({view.text('paused', time=view.time(quote['paused_until_ms']))})"
    return told


def _facts(view: View, offer: Offer) -> list[tuple[str, str]]:
    quote, wish = offer.quote, offer.wish
    found = [(view.text("energy"), view.energy(wish.energy_wh))]
    if quote["fills"]:
        found += [(view.text("at_pile"), ", ".join(fill[0] for fill in quote["fills"]))]
        found += [
            (view.text("costs"), view.money(quote["cost_micro"])),
            (view.text("fee_within"), view.money(quote["fee_micro"])),
        ]
    else:
        found += [(view.text("price_now"), view.price(quote["now_micro_per_kwh"]))]
    if offer.can_be_placed:  # what it puts up at its limit: the price may rise to that until the next block
        found += [(view.text("most"), view.money(quote["hold_micro"]))]
    found += [(view.text("catalog", period=quote["period"]), view.price(quote["catalog_micro_per_kwh"]))]
    times = view.span(wish.start_ms, wish.end_ms)
    return [*found, (view.text("window"), times)]


async def _place(view: View, offer: Offer) -> None:
    order = await view.clerk.do(view.driver.place, offer)
    view.go(f"/order/{order.hex()}")
