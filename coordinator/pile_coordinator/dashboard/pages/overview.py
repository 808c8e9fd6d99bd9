"""The first page: prices and load as they come, today's figures, the newest clearings and blocks."""

from collections.abc import Sequence
from itertools import islice
from zoneinfo import ZoneInfo

from nicegui import ui

from pile_coordinator.dashboard import board as live
from pile_coordinator.dashboard import shell, theme, written
from pile_coordinator.dashboard.board import Point
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.calendar import local
from pile_coordinator.web.access import ALL, OWN

MAX_LINES = 6  # zones in one chart: as many as there are colours to tell apart
SHOWN = 8  # rows of the small tables


@page("/", route="live", title="overview.title", menu=10)
async def show(view: View) -> None:
    """Everything of it follows the chain."""
    shell.title(view.text("overview.title"))
    figures = _Figures(view)
    await figures.refresh()
    with shell.card(view.text("overview.prices")):
        chart = _Chart(view)
    with shell.columns():
        with shell.card(view.text("overview.clearings")):
            clearings = shell.LiveTable(
                _heads(view, "block", "time", "zone", "price", "load", "capacity"), right=(3, 4, 5)
            )
            shell.note(view.text("overview.clearing_is"))
        with shell.card(view.text("overview.blocks")):
            blocks = shell.LiveTable(_heads(view, "block", "time", "txs", "results"), right=(2, 3))

    def refresh() -> None:
        chart.refresh()
        clearings.show(_clearings(view))
        lines = [_block(view, row) for row in islice(reversed(view.board.blocks), SHOWN)]
        blocks.show(lines)

    refresh()
    view.follow(figures.refresh)
    view.follow(refresh)


def _heads(view: View, *names: str) -> list[str]:
    return [view.word("column", name) for name in names]


def _block(view: View, row: dict[str, int]) -> Sequence[str]:
    return str(row["height"]), view.clock(row["time_ms"]), str(row["txs"]), str(row["results"])


def _clearings(view: View) -> list[Sequence[str]]:
    found = [(point, zone) for zone, points in view.board.points.items() for point in points]
    newest = sorted(found, key=lambda pair: (-pair[0].height, pair[1]))[:SHOWN]
    return [
        (
            str(point.height),
            view.clock(point.time_ms),
            zone,
            view.price(point.price_micro_per_kwh),
            f"{written.energy_short(point.open_before_wh)} → {written.energy_short(point.open_wh)}",
            written.energy_short(point.capacity_wh),
        )
        for point, zone in newest
    ]


class _Figures:
    """Key figures of the day, as far as the caller's role goes."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._contracts = view.grant_of("contracts")
        with shell.cards():
            self._energy = shell.Figure(view.text("overview.energy"))
            self._money = shell.Figure(view.text("overview.money"))
            self._sessions = shell.Figure(view.text("overview.sessions"))
            self._disputes = shell.Figure(view.text("overview.disputes"))
            self._age = shell.Figure(view.text("overview.behind"))

    async def refresh(self) -> None:
        view, grant = self._view, self._contracts
        self._age.show(written.span(view.board.behind_ms()))
        if grant is None:
            return
        contracts = list(live.contracts_seen(grant, view.board.piles.values()))
        if grant.scope in {ALL, OWN}:
            self._sessions.show(str(sum(contract.is_charging for contract in contracts)))
        self._disputes.show(str(sum(contract.state == "disputed" for contract in contracts)))
        sums = await view.board.today(grant)
        if sums is not None:
            self._energy.show(written.energy_short(sums["measured_wh"]))
            self._money.show(view.money(sums["owner_micro"] + sums["grid_micro"] + sums["fee_micro"]))


class _Chart:
    """Price of each zone over time, and below it the load in percent of the zone's capacity."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shown = self._newest()
        self._chart = ui.echart(self._options()).style("height:350px;width:100%")
        self._empty = ui.label(view.text("overview.no_prices")).classes("pc-note")
        self._show()

    def _newest(self) -> int:
        return max((points[-1].height for points in self._view.board.points.values()), default=0)

    def _show(self) -> None:
        self._chart.set_visibility(bool(self._view.board.points))
        self._empty.set_visibility(not self._view.board.points)

    def refresh(self) -> None:
        newest = self._newest()
        if newest != self._shown:
            self._shown = newest
            self._chart.options["series"] = self._series()
            self._chart.update()
            self._show()

    def _series(self) -> list[dict[str, object]]:
        zones = sorted(self._view.board.points)[:MAX_LINES]
        series: list[dict[str, object]] = []
        for place, zone in enumerate(zones):
            points = list(self._view.board.points[zone])
            colour = theme.SERIES[place]
            line = {
                "type": "line",
                "name": zone,
                "color": colour,
                "step": "end",
                "symbolSize": 4,
                "showAllSymbol": False,
            }
            series.append({**line, "id": f"price {zone}", "data": _prices(points, self._view.zone)})
            load = {"xAxisIndex": 1, "yAxisIndex": 1, "areaStyle": {"opacity": 0.12}, "symbol": "none"}
            series.append({**line, **load, "id": f"load {zone}", "data": _loads(points, self._view.zone)})
        return series

    def _options(self) -> dict[str, object]:
        view = self._view
        unit = f"{view.currency}/kWh" if view.currency else "/kWh"
        top, bottom = {"top": 52, "height": 150}, {"top": 252, "height": 70}
        sides = {"left": 52, "right": 12}
        hidden: dict[str, object] = {"axisLabel": {"show": False}}
        return theme.chart(
            useUTC=True,
            grid=[{**sides, **top}, {**sides, **bottom}],
            axisPointer={"link": [{"xAxisIndex": "all"}]},
            xAxis=[theme.axis("time", "", gridIndex=0, **hidden), theme.axis("time", gridIndex=1)],
            yAxis=[
                theme.axis("value", f"{view.text('overview.price')} {unit}", gridIndex=0, scale=True, splitNumber=4),
                theme.axis("value", f"{view.text('overview.load')} %", gridIndex=1, splitNumber=2, min=0),
            ],
            series=self._series(),
        )


def _wall_ms(time_ms: int, zone: ZoneInfo) -> int:
    """A time such that a chart in UTC shows the clocks of the zone."""
    offset = local(time_ms, zone).utcoffset()
    return time_ms + (int(offset.total_seconds()) * 1000 if offset else 0)


def _prices(points: list[Point], zone: ZoneInfo) -> list[list[float | int | None]]:
    return [
        [_wall_ms(p.time_ms, zone), None if p.price_micro_per_kwh is None else p.price_micro_per_kwh / 1_000_000]
        for p in points
    ]


def _loads(points: list[Point], zone: ZoneInfo) -> list[list[float | int]]:
    return [[_wall_ms(p.time_ms, zone), (1000 * p.open_wh // max(1, p.capacity_wh)) / 10] for p in points]
