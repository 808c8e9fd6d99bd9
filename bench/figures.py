"""How a figure is reported: its value beside a limit measured in the same run, their ratio, and the target it must reach."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True)
class Figure:
    """One figure. `ratio` is value / limit; `target` says what the ratio should be, as text like ">= 0.3", or is empty."""

    name: str
    value: float
    unit: str
    limit: float
    limit_is: str
    target: str

    @property
    def ratio(self) -> float:
        """Value / limit."""
        return self.value / self.limit

    @property
    def reached(self) -> bool | None:
        """Whether the ratio meets the target; None without one."""
        if not self.target:
            return None
        sign, bound = self.target.split()
        return self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)


def report(figures: Iterable[Figure]) -> list[Figure]:
    """Print each figure and write it to bench/out/NAME.json; the figures."""
    OUT.mkdir(exist_ok=True)
    shown = []
    for figure in figures:
        verdict = {True: "reached", False: "MISSED", None: ""}[figure.reached]
        target = f"target {figure.target} {verdict}" if figure.target else "no target"
        print(f"{figure.name:<28} {figure.value:>12,.1f} {figure.unit:<9} {figure.ratio:>7.3f} x {figure.limit_is}"
              f" ({figure.limit:,.1f}); {target}", flush=True)  # fmt: skip
        row = asdict(figure) | {"ratio": figure.ratio}
        (OUT / f"{figure.name}.json").write_text(json.dumps(row, indent=2) + "\n")
        shown.append(figure)
    return shown
