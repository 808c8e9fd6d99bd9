"""What came of many seeds."""

import time
from collections import Counter
from dataclasses import asdict

from pile_hil.simulator.run import Outcome

YEAR_MINUTES = 365 * 24 * 60


class Report:
    """Sums up outcomes.

    Attributes:
        failed: those in which a check did not hold.
    """

    def __init__(self, days: int) -> None:
        """Begin now; `days` is what the seeds were run with."""
        self.failed: list[Outcome] = []
        self._days = days
        self._seeds = 0
        self._counts: Counter[str] = Counter()
        self._began_s = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Count one in."""
        self._seeds += 1
        self._counts.update(outcome.counts)
        if outcome.code:
            self.failed.append(outcome)

    @property
    def _minutes(self) -> float:
        return max(time.perf_counter() - self._began_s, 0.001) / 60

    @property
    def _years(self) -> float:
        return self._counts["pile_minutes"] / YEAR_MINUTES

    def pace(self) -> str:
        """How fast it goes."""
        return f"{self._seeds / self._minutes:.0f} seeds/min, {self._years / self._minutes:.2f} pile-years/min"

    def replay(self, seed: int) -> str:
        """The command that shows a seed again, step by step."""
        days = f" --days {self._days}" if self._days else ""
        return f"pilechain hil simulate --seed {seed}{days} --trace"

    def summary(self) -> str:
        """A line for people."""
        counts = self._counts
        verdict = f"{len(self.failed)} of {self._seeds} seeds failed" if self.failed else f"{self._seeds} seeds passed"
        faults = sum(number for kind, number in counts.items() if kind.startswith("fault "))
        return (
            f"{verdict}: {counts['contracts']} contracts, {counts['settled_wh'] / 1000:.0f} kWh settled, {counts['proofs']}"
            f" proofs, {counts['blocks']} blocks, {faults} faults; {self._years:.2f} pile-years in {self._minutes:.1f}"
            f" minutes: {self.pace()}"
        )

    def as_json(self) -> dict[str, object]:
        """For a file."""
        return {
            "seeds": self._seeds,
            "failed": [asdict(outcome) | {"replay": self.replay(outcome.seed)} for outcome in self.failed],
            "counts": dict(sorted(self._counts.items())),
            "minutes": round(self._minutes, 3),
            "pile_years": round(self._years, 4),
            "pile_years_per_minute": round(self._years / self._minutes, 3),
        }
