"""A trial as a picture: what flowed, what was read and signed, what the chain had, what was settled, over time.

All curves count from 0 at the opening of the site. Where nothing is lost all end at the same height; where they do not, the
difference is written there.
"""

import io
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pile_hil.trials.judge import Record
from pile_shared.errors import PilechainError

MINUTE_MS = 60_000
COLOURS = {"flowed": "#888888", "signed": "#1f6fb4", "chained": "#e08214", "settled": "#1b7837"}
_SIZE_INCHES = (9.0, 3.4)


@dataclass
class Curves:
    """Points (minutes, Wh) of one pile: `flowed` by the meter's truth, the others in sum over its orders."""

    flowed: list[tuple[float, int]] = field(default_factory=list)
    signed: list[tuple[float, int]] = field(default_factory=list)
    chained: list[tuple[float, int]] = field(default_factory=list)
    settled: list[tuple[float, int]] = field(default_factory=list)

    @property
    def lost_wh(self) -> int:
        """What flowed and was not signed."""
        return (self.flowed[-1][1] if self.flowed else 0) - (self.signed[-1][1] if self.signed else 0)


def curves(record: Record, pile: str) -> Curves:
    """The curves of one pile."""
    facts, found = record.facts, Curves()
    series = facts.series.get(pile, [])
    if not series:
        return found
    origin_ms, first_wh = series[0][0], series[0][2]

    def minutes(time_ms: int) -> float:
        return (time_ms - origin_ms) / MINUTE_MS

    found.flowed = [(minutes(time_ms), meter_wh - first_wh) for time_ms, _, meter_wh, _ in series]
    for name in ("signed", "chained", "settled"):
        getattr(found, name).append((0.0, 0))
    for order in (one for one in facts.orders if one.pile == pile):
        contract, before_wh = bytes.fromhex(order.contract), found.signed[-1][1]
        begin, _ = record.session(order)
        for one in record.chained[pile]:
            if one.proof.contract != contract or begin is None:
                continue
            for reading in one.proof.readings:
                energy_wh = before_wh + reading.energy_wh - begin.readings[0].energy_wh
                found.signed.append((minutes(reading.time_ms), energy_wh))
            found.chained.append((minutes(one.time_ms), found.signed[-1][1]))
        try:
            verified = record.verified(order)
        except (PilechainError, OSError):
            continue
        closed_ms = record.block_times[verified.closed_height]
        found.settled.append((minutes(closed_ms), found.settled[-1][1] + verified.statement.measured_wh))
    for name in ("chained", "settled"):
        getattr(found, name).append((found.flowed[-1][0], getattr(found, name)[-1][1]))
    return found


def draw(record: Record) -> str:
    """An SVG element with one plot for each pile; "" for a trial that never had a meter."""
    piles = [pile for pile in record.facts.piles if record.facts.series.get(pile)]
    if not piles:
        return ""
    # The salt makes the ids of several pictures in one page differ, and those of one picture the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": record.facts.scenario, "font.size": 9}):
        width, height = _SIZE_INCHES
        figure = Figure(figsize=(width, height * len(piles)), layout="constrained")
        all_axes = figure.subplots(len(piles), 1, squeeze=False)[:, 0]
        for axes, pile in zip(all_axes, piles, strict=True):
            _draw(axes, record, pile)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return out.getvalue().partition("<svg")[1] + out.getvalue().partition("<svg")[2]


def _draw(axes: Axes, record: Record, pile: str) -> None:
    found = curves(record, pile)
    labels = {
        "flowed": "flowed (the meter's truth)",
        "signed": "read and signed",
        "chained": "on the chain",
        "settled": "settled",
    }
    for name, label in labels.items():
        points = getattr(found, name)
        style = "steps-post" if name in {"chained", "settled"} else "default"
        wide = 4.0 if name == "flowed" else 1.4
        alpha = 0.5 if name == "flowed" else 1.0
        axes.plot(
            *zip(*points, strict=True), color=COLOURS[name], drawstyle=style, linewidth=wide, alpha=alpha, label=label
        )
    top, end = max(1, *(wh for _, wh in found.flowed)), found.flowed[-1][0]
    if found.lost_wh:
        middle = (found.flowed[-1][1] + found.signed[-1][1]) / 2
        lost = f"  {found.lost_wh} Wh not signed"
        axes.annotate(lost, (end, middle), va="center", color="#b2182b", annotation_clip=False)
    origin_ms = record.facts.series[pile][0][0]
    for time_ms, what in record.facts.events:
        minute = (time_ms - origin_ms) / MINUTE_MS
        if 0 < minute <= end:
            axes.axvline(minute, color="#bbbbbb", linewidth=0.7, linestyle=":")
            axes.text(minute, top, f" {what}", rotation=90, fontsize=6, va="top", ha="right", color="#666666")
    axes.set(title=pile, xlabel="minutes of the site's time", ylabel="Wh", ylim=(-0.03 * top, 1.12 * top))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
