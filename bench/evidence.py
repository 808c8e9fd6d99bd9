"""What the evidence answers, and how fast, on a year of simulated orders in SQLite: 1,000,000 of them with 20,000,000 readings.

The rows are put straight into the tables, seeded and plausible: a chain of them would take days to make. 20 readings of each session
travel in two proofs, as an agent sends them. `PILECHAIN_BENCH_ORDERS=20000` makes a smaller year. A trace is taken cold
and warm from contracts all over the year; a tenth of the orders in another file shows how it grows.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, create_engine, select

from bench.figures import Figure, report
from bench.support.evidence_year import BEGUN_MS, OPERATORS, YEAR_MS, fill
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.statistics import history, ranking
from pile_coordinator.evidence.calendar import periods
from pile_coordinator.evidence.trace import trace

ORDERS = int(os.environ.get("PILECHAIN_BENCH_ORDERS", "1000000"))
TRACES, ROUNDS = 200, 5
TRACE_MS, STATISTICS_MS = 20, 500
ZONE = ZoneInfo("Europe/Berlin")


def figures() -> Iterator[Figure]:
    """All figures of the evidence's questions."""
    with tempfile.TemporaryDirectory() as folder:
        small_ms = _traced(Path(folder) / "small.sqlite", max(1, ORDERS // 10))
        engine = create_engine(f"sqlite:///{Path(folder) / 'year.sqlite'}")
        begun = time.perf_counter()
        with engine.connect() as db:
            fill(db, ORDERS)
        made_s = time.perf_counter() - begun
        yield Figure("evidence-year-made", made_s, "s", 1, f"for {ORDERS} orders, second", "")
        with engine.connect() as db:
            times = sorted(_traces(db))
            of_orders = f"the target in ms, of {ORDERS} orders"
            yield Figure("evidence-trace", statistics.median(times), "ms", TRACE_MS, of_orders, "<= 1.0")
            yield Figure("evidence-trace-p99", times[len(times) * 99 // 100], "ms", TRACE_MS, of_orders, "<= 1.0")
            yield Figure("evidence-trace-growth", statistics.median(times), "ms", small_ms, "ms with a tenth", "<= 1.5")
            yield from _statistics(db)
        engine.dispose()


def _traced(path: Path, orders: int) -> float:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as db:
        fill(db, orders)
        median = statistics.median(_traces(db))
    engine.dispose()
    return median


def _traces(db: Connection) -> list[float]:
    """ms of each, of orders anywhere in the year."""
    rng = random.Random(6)
    total = db.execute(select(schema.block.c.height).order_by(schema.block.c.height.desc()).limit(1)).scalar_one()
    bids = []
    while len(bids) < TRACES:
        at = schema.orders.c.height >= rng.randint(1, total)
        bids += list(db.execute(select(schema.orders.c.id).where(at, schema.orders.c.kind != "listing").limit(1)).scalars())
    times = []
    for bid in bids:
        begun = time.perf_counter()
        found = trace(db, bid.hex())
        times.append((time.perf_counter() - begun) * 1000)
        assert len(found.stories[0].steps) > 10
    return times


def _statistics(db: Connection) -> Iterator[Figure]:
    """The best of some rounds: other work on the machine only ever adds time."""
    end_ms = BEGUN_MS + YEAR_MS
    for kind in ("year", "quarter", "month", "day"):
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            rows = history(db, "operator", OPERATORS[0], kind, BEGUN_MS, end_ms, ZONE).rows
            times.append((time.perf_counter() - begun) * 1000)
            assert sum(row.sums["contracts"] for row in rows) > 0
        limit = "the target in ms, a year of one operator"
        yield Figure(f"evidence-year-by-{kind}", min(times), "ms", STATISTICS_MS, limit, "<= 1.0")
    (year,) = islice(periods("year", BEGUN_MS + YEAR_MS // 2, BEGUN_MS + YEAR_MS // 2 + 1, ZONE), 1)
    begun = time.perf_counter()
    ranking(db, "pile", year)
    yield Figure("evidence-50-piles", (time.perf_counter() - begun) * 1000, "ms", STATISTICS_MS, "ms, a page of piles", "<= 1.0")


if __name__ == "__main__":
    report(figures())
