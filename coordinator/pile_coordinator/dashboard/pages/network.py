"""How the network is: blocks, the time between them, who signed them, and accounting nodes with stake and punishments."""

from itertools import pairwise
from typing import Any

from nicegui import ui

from pile_coordinator.dashboard import details, shell, theme, written
from pile_coordinator.dashboard.details import BAD, GOOD, Cell, Column, Hash, Link, Marked
from pile_coordinator.dashboard.shell import View, page
from pile_coordinator.evidence.network import network
from pile_coordinator.web.shared import now_ms


@page("/network", route="network", title="network.title", menu=80)
async def show(view: View) -> None:
    """Drawn again with every block."""
    shell.title(view.text("network.title"))
    place = ui.element("div").style("display:grid;gap:12px;min-width:0")
    shown = -1

    async def refresh() -> None:
        nonlocal shown
        if view.board.height == shown:
            return
        shown = view.board.height
        found = await view.ask(_read, view)
        place.clear()
        with place:
            _draw(view, found)

    await refresh()
    view.follow(refresh)


def _read(view: View) -> dict[str, Any]:
    web = view.web
    with web.reading.connect() as db, web.ledger() as ledger:
        return network(db, now_ms(), web.config.genesis, ledger)


def _draw(view: View, found: dict[str, Any]) -> None:
    with shell.cards():
        shell.Figure(view.text("network.height"), str(found["height"]))
        shell.Figure(view.text("network.quiet"), written.span(found["quiet_ms"]))
        shell.Figure(view.text("network.mean"), _span(found["mean_ms"]))
        shell.Figure(view.text("network.spread"), f"{_span(found['least_ms'])} – {_span(found['most_ms'])}")  # noqa: RUF001
        shell.Figure(view.text("network.nodes"), str(len(found["nodes"])))
    key = {True: "network.elects", False: "network.solo", None: "network.unclear"}[found["elects"]]
    shell.note(view.text(key))
    with shell.card(view.text("network.validators")):
        _nodes(view, found)
    with shell.card(view.text("network.times")):
        _chart(view, found["blocks"])
    with shell.card(view.text("network.blocks")):
        _blocks(view, found["blocks"])


def _span(ms: int | None) -> str:
    return written.DASH if ms is None else written.span(ms)


def _nodes(view: View, found: dict[str, Any]) -> None:
    nodes = found["nodes"]
    if not nodes:
        details.nothing(view)
        return
    power = sum(node["power"] for node in nodes)
    word = details.Heads(view)
    columns = [
        Column(word("node")),
        Column(word("state")),
        Column(word("power_share"), right=True),
        Column(word("stake"), right=True, optional=True),
        Column(word("proposed"), right=True),
        Column(word("missed"), right=True),
        Column(word("punished"), optional=True),
    ]
    details.grid(view, columns, [_node(view, node, power) for node in nodes])
    details.words("p", view.text("network.of_newest", count=len(found["blocks"])), "pc-note")


def _node(view: View, node: dict[str, Any], power: int) -> tuple[Cell, ...]:
    state = Marked(view.text("network.jailed"), BAD) if node["jailed"] else Marked(view.text("network.active"), GOOD)
    share = written.permille(1000 * node["power"] // power) if power else ""
    punished: Cell = None
    if node["punished_height"] is not None:
        text = f"{view.word('punishment', node['punishment'])} · {node['punished_height']}"
        punished = Link(text, f"/blocks/{node['punished_height']}")
    return (
        node["party"],
        state,
        f"{node['power']} ({share})",
        view.money(node["stake_micro"]),
        str(node["proposed"]),
        written.DASH if node["missed"] is None else str(node["missed"]),
        punished,
    )


def _chart(view: View, blocks: list[dict[str, Any]]) -> None:
    """How long each block came after the one before."""
    old = list(reversed(blocks))
    if len(old) < 2:
        details.nothing(view)
        return
    gaps = [(after["time_ms"] - before["time_ms"]) / 1000 for before, after in pairwise(old)]
    series = [{"type": "bar", "name": view.text("network.gap"), "data": gaps, "color": theme.BLUE, "barMaxWidth": 24}]
    options = theme.chart(
        xAxis=theme.axis("category", data=[str(block["height"]) for block in old[1:]]),
        yAxis=theme.axis("value", "s"),
        series=series,
        legend={"show": False},
        grid={"left": 8, "right": 8, "top": 24, "bottom": 4, "containLabel": True},
    )
    ui.echart(options).style("height:200px;width:100%")


def _blocks(view: View, blocks: list[dict[str, Any]]) -> None:
    word = details.Heads(view)
    columns = [
        Column(word("block"), right=True),
        Column(word("time")),
        Column(word("txs"), right=True),
        Column(word("proposer"), optional=True),
        Column(word("signed")),
        Column(word("missed"), long=True, optional=True),
        Column(word("hash"), optional=True),
    ]
    lines = [
        (
            Link(str(block["height"]), f"/blocks/{block['height']}"),
            view.time(block["time_ms"]),
            str(block["txs"]),
            block["proposer"],
            _signed(view, block),
            ", ".join(block["missed"] or []),
            Hash(block["hash"], f"/blocks/{block['height']}"),
        )
        for block in blocks
    ]
    details.grid(view, columns, lines)


def _signed(view: View, block: dict[str, Any]) -> Cell:
    if block["signed"] is None:
        return view.text("network.unknown")
    text = f"{len(block['signed'])} / {len(block['signed']) + len(block['missed'])}"
    return Marked(text, BAD if block["missed"] else GOOD)
