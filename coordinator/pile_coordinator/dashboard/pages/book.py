"""The order book: what is bid and listed now, by price, as far as the caller may see orders."""

from collections.abc import Sequence

from pile_coordinator.dashboard import board as live
from pile_coordinator.dashboard import details, shell, theme, written
from pile_coordinator.dashboard.board import Order
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.scopes import ALL

MAX_ROWS = 100  # of each side's table


@page("/book", route="orders", title="book.title", menu=30)
async def show(view: View) -> None:
    """Depth and orders, following the chain."""
    shell.title(view.text("book.title"))
    with shell.card(view.text("book.depth")):
        chart = shell.chart(_options(view, []), 300)
        market = shell.note_that_changes()
        shell.note(view.text("book.depth_is"))
    heads = [
        view.word("column", name) for name in ("price", "left", "energy", "party", "pile", "zone", "until", "block")
    ]
    with shell.card(view.text("book.listings")):
        listings = shell.LiveTable(heads, right=(0, 1, 2))
    with shell.card(view.text("book.bids")):
        bids = shell.LiveTable(
            [*heads[:4], view.word("column", "funding"), heads[5], view.word("column", "kind"), heads[7]],
            right=(0, 1, 2),
        )
    shell.note(view.text("book.about"))
    if view.grant.scope != ALL:
        shell.note(view.text("book.partly"))
    shown: list[Order] | None = None

    def refresh() -> None:
        nonlocal shown
        orders = live.orders_seen(view.grant, view.board.orders)
        if orders == shown:
            return
        shown = orders
        chart.options["series"] = _series(view, orders)
        chart.update()
        chart.set_visibility(any(not _is_at_market(order) for order in orders))
        market.text = _at_market(view, orders)
        listings.show([_listing(view, order) for order in _sorted(orders, is_bid=False)[:MAX_ROWS]])
        bids.show([_bid(view, order) for order in _sorted(orders, is_bid=True)[:MAX_ROWS]])

    refresh()
    view.follow(refresh)


def _is_bid(order: Order) -> bool:
    return order.kind != "listing"


def _is_at_market(order: Order) -> bool:
    return order.kind == "market bid" or order.price_micro_per_kwh < 0


def _sorted(orders: list[Order], *, is_bid: bool) -> list[Order]:
    """The best price first: who is at market stands before all."""
    sign = -1 if is_bid else 1
    side = [order for order in orders if _is_bid(order) == is_bid]
    return sorted(side, key=lambda order: (not _is_at_market(order), sign * order.price_micro_per_kwh, order.height))


def _listing(view: View, order: Order) -> Sequence[str]:
    return *_amounts(view, order), order.pile or "", order.zone or "", view.time(order.until_ms), str(order.height)


def _bid(view: View, order: Order) -> Sequence[str]:
    payer = details.funding(view, order.party).text
    return *_amounts(view, order), payer, order.zone or "", view.word("kind", order.kind), str(order.height)


def _amounts(view: View, order: Order) -> tuple[str, str, str, str]:
    price = view.price(-1 if _is_at_market(order) else order.price_micro_per_kwh)
    return price, view.energy(order.left_wh), view.energy(order.energy_wh), details.name(order.party)


def _at_market(view: View, orders: list[Order]) -> str:
    at_market = [order for order in orders if _is_at_market(order)]
    bid, listed = (sum(order.left_wh for order in at_market if _is_bid(order) == side) for side in (True, False))
    return view.text("book.at_market", bid=written.energy_short(bid), listed=written.energy_short(listed))


def _series(view: View, orders: list[Order]) -> list[dict[str, object]]:
    priced = [order for order in orders if not _is_at_market(order)]
    sides = ((True, theme.BLUE, "book.bids"), (False, theme.ORANGE, "book.listings"))
    return [
        {
            "type": "line",
            "id": key,
            "name": view.text(key),
            "color": colour,
            "step": "end",
            "symbol": "none",
            "areaStyle": {"opacity": 0.15},
            "data": depth(_sorted(priced, is_bid=is_bid)),
        }
        for is_bid, colour, key in sides
    ]


def depth(side: list[Order]) -> list[list[float]]:
    """Price and the kWh there are up to it, from the best price on."""
    points: list[list[float]] = []
    total_wh = 0
    for order in side:
        total_wh += order.left_wh
        points.append([order.price_micro_per_kwh / 1_000_000, total_wh / 1000])
    return points


def _options(view: View, orders: list[Order]) -> dict[str, object]:
    unit = f"{view.currency}/kWh" if view.currency else "/kWh"
    return theme.chart(
        grid={"left": 52, "right": 16, "top": 52, "bottom": 40},
        xAxis=theme.axis("value", unit, scale=True, nameLocation="middle", nameGap=24),
        yAxis=theme.axis("value", "kWh"),
        series=_series(view, orders),
    )
