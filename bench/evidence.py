"""What the evidence answers, and how fast, on a year of simulated orders in SQLite: 1,000,000 of them with 20,000,000 readings.

The rows are put straight into the tables, seeded and plausible: a chain of them would take days to make. 20 readings of each
session travel in two proofs, as an agent sends them. `PILECHAIN_BENCH_ORDERS=20000` makes a smaller year. A trace starts
from orders all over the year; a tenth of the orders in another file shows how it grows.
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

from sqlalchemy import Connection, Engine, create_engine, select

from bench.figures import Figure, report
from bench.support.evidence_year import BEGUN_MS, OPERATORS, YEAR_MS, fill
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import periods
from pile_coordinator.evidence.statistics import history, ranking
from pile_coordinator.evidence.trace import trace

ORDERS = int(os.environ.get("PILECHAIN_BENCH_ORDERS", "1000000"))
TRACES, ROUNDS = 200, 5
TRACE_MS, STATISTICS_MS = 20, 500
ZONE = ZoneInfo("Europe/Berlin")


def figures() -> Iterator[Figure]:
    """All figures of the evidence's questions."""
    with tempfile.TemporaryDirectory() as folder:
        few, _ = _made(Path(folder) / "tenth.sqlite", max(1, ORDERS // 10))
        many, made_s = _made(Path(folder) / "year.sqlite", ORDERS)
        yield Figure("evidence-year-made", made_s, "s", 1, f"for {ORDERS} orders, second", "")
        with few.connect() as tenth, many.connect() as db:
            yield from _traces(tenth, db)
            yield from _statistics(db)
        few.dispose()
        many.dispose()


def _made(path: Path, orders: int) -> tuple[Engine, float]:
    engine, begun = create_engine(f"sqlite:///{path}"), time.perf_counter()
    with engine.connect() as db:
        fill(db, orders)
    return engine, time.perf_counter() - begun


def _traces(tenth: Connection, db: Connection) -> Iterator[Figure]:
    """Of both years in turns, so that a busy machine slows both: as first asked, and the best of some rounds."""
    first, best = list[float](), dict[Connection, list[float]]()
    bids = {each: _bids(each) for each in (tenth, db)}
    for few, many in zip(bids[tenth], bids[db], strict=True):
        first.append(_trace_ms(db, many))
        for each, bid in ((tenth, few), (db, many)):
            best.setdefault(each, []).append(min(_trace_ms(each, bid) for _ in range(ROUNDS)))
    middle = {each: statistics.median(times) for each, times in best.items()}
    target = f"the target in ms, of {ORDERS} orders"
    yield Figure("evidence-trace-first", statistics.median(first), "ms", TRACE_MS, target, "<= 1.0")
    yield Figure("evidence-trace", middle[db], "ms", TRACE_MS, target, "<= 1.0")
    yield Figure("evidence-trace-p95", sorted(best[db])[TRACES * 95 // 100], "ms", TRACE_MS, target, "<= 1.0")
    yield Figure("evidence-trace-growth", middle[db], "ms", middle[tenth], "ms with a tenth of the orders", "<= 1.2")


def _bids(db: Connection) -> list[bytes]:
    """Orders anywhere in the year."""
    rng, o = random.Random(6), schema.orders.c
    total = db.execute(select(schema.block.c.height).order_by(schema.block.c.height.desc()).limit(1)).scalar_one()
    found = list[bytes]()
    while len(found) < TRACES:
        query = select(o.id).where(o.height >= rng.randint(1, total), o.kind != "listing").order_by(o.height).limit(1)
        found += db.execute(query).scalars()
    return found


def _trace_ms(db: Connection, bid: bytes) -> float:
    begun = time.perf_counter()
    found = trace(db, bid.hex())
    spent_ms = (time.perf_counter() - begun) * 1000
    assert len(found.stories[0].steps) > 10
    return spent_ms


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
    yield Figure(
        "evidence-50-piles", (time.perf_counter() - begun) * 1000, "ms", STATISTICS_MS, "ms, a page of piles", "<= 1.0"
    )


if __name__ == "__main__":
    report(figures())
