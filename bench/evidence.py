"""The evidence: whether the exporter keeps up with the engine, and how fast a year of orders answers.

Blocks are those of `bench.ledger`: whole lives of orders with signatures, made by the solo engine as fast as it can while a
second process checks signatures ahead. The exporter writes each block after its commit, as in a coordinator, into SQLite and
into a real MariaDB; its share of the run is timed beside the engine's own. Then a fresh database is caught up from the ledger.

The year is drawn by chance (bench/support/evidence_year.py): 20 readings and more of each session, in SQLite, opened as
commands open it. `PILECHAIN_BENCH_ORDERS=1000000` makes it as large as the target says: 15 minutes, 12 GB of disk. A trace
starts from orders all over the year; a hundredth of the orders in another file shows how it grows.
"""

import gc
import math
import os
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, create_engine, select

from bench.figures import Figure, report
from bench.ledger import LIVES, MINUTES, PILES, READ_AHEAD, claims_of, commit
from bench.support.evidence_year import BEGUN_MS, OPERATOR, YEAR_MS, fill
from bench.support.market import Market, RecordedBlock, engine
from pile_coordinator.chain.proofs import parse_proof
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.verifier import SecondCoreVerifier
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import periods
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.opening import reading
from pile_coordinator.evidence.statistics import history, ranking
from pile_coordinator.evidence.trace import trace
from pile_coordinator.service import COLLECT
from pile_hil.mariadb import MariaDb, find_mariadb

ORDERS = int(os.environ.get("PILECHAIN_BENCH_ORDERS", "100000"))
FEWER = 100  # times
TRACES, ROUNDS, EXPORTS = 200, 5, 3
TRACE_MS, STATISTICS_MS = 20, 500
ZONE = ZoneInfo("Europe/Berlin")


def figures() -> Iterator[Figure]:
    """All figures of the evidence."""
    yield from _exports()
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "fewer.sqlite", Path(folder) / "year.sqlite"
        begun = time.perf_counter()
        for path, orders in ((few, max(1, ORDERS // FEWER)), (many, ORDERS)):
            made = create_engine(f"sqlite:///{path}")
            with made.connect() as db:
                fill(db, orders)
            made.dispose()
        each_us = (time.perf_counter() - begun) / ORDERS * 1e6
        yield Figure("evidence-year-made", each_us, "us/order", 1000, f"us for each of {ORDERS:,} orders", "")
        with reading(str(few)) as fewer, reading(str(many)) as db:
            yield from _traces(fewer, db)
            yield from _statistics(db)


# --- the exporter beside the engine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """Seconds of one run over the same blocks: of the engine, of the exporter after its blocks, and of catching up."""

    engine_s: float
    export_s: float
    caught_up_s: float


def _exports() -> Iterator[Figure]:
    market = Market(signed=True)
    market.admit(PILES, PILES)
    market.live(PILES, LIVES, MINUTES)
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT)  # as a coordinator
    try:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder)
            yield from _beside(market, where, "sqlite", lambda name: where / f"{name}.sqlite")
            if find_mariadb() is None:
                return
            with MariaDb(where / "mariadb") as server:
                yield from _beside(market, where, "mariadb", server.create)
    finally:
        gc.set_threshold(*before)


def _beside(market: Market, folder: Path, kind: str, database: Callable[[str], Path | str]) -> Iterator[Figure]:
    """Of some runs the one whose ratio is in the middle: both sides of it are of the same moments."""
    runs = [_exported(market, folder / f"{kind}-{number}", database, f"{kind}{number}") for number in range(EXPORTS)]
    blocks, limit_is = len(market.blocks) - 1, "blocks/s of the solo engine in the same run"
    live = sorted(runs, key=lambda run: run.engine_s / run.export_s)[EXPORTS // 2]
    late = sorted(runs, key=lambda run: run.engine_s / run.caught_up_s)[EXPORTS // 2]
    limit = blocks / live.engine_s
    yield Figure(f"evidence-export-{kind}", blocks / live.export_s, "blocks/s", limit, limit_is, ">= 1.0")
    caught_up = blocks / late.caught_up_s
    yield Figure(f"evidence-catch-up-{kind}", caught_up, "blocks/s", blocks / late.engine_s, limit_is, ">= 1.0")
    both = blocks / (live.engine_s + live.export_s)
    yield Figure(f"evidence-both-{kind}", both, "blocks/s", limit, "blocks/s of the engine without an exporter", "")


def _exported(market: Market, ledger: Path, database: Callable[[str], Path | str], name: str) -> _Run:
    """Both in one thread, as in a coordinator: what the exporter takes no block is made in."""
    parse_proof.cache_clear()
    exporter, again = (Exporter(database(f"{name}{part}")) for part in ("live", "again"))
    solo, second = engine(market, ledger), SecondCoreVerifier()
    admitted, lives = market.blocks[0], market.blocks[1:]
    commit(solo, admitted)
    for each in (exporter, again):
        each.write(solo.block(1))
    second.tell_ahead(claims_of(solo, admitted))
    assert second(*claims_of(solo, admitted)[0])  # the process runs
    solo.verify = second
    export_s = [0.0]

    def write(block: Block) -> None:
        begun = time.perf_counter()
        exporter.write(block)
        export_s[0] += time.perf_counter() - begun

    solo.on_block(write)
    begun = time.perf_counter()
    _make(solo, second, lives)
    whole_s = time.perf_counter() - begun
    parse_proof.cache_clear()  # as after a restart
    begun = time.perf_counter()
    again.catch_up(solo)
    caught_up_s = time.perf_counter() - begun
    assert exporter.height == again.height == solo.height
    for thing in (second, exporter, again, solo):
        thing.close()
    return _Run(whole_s - export_s[0], export_s[0], caught_up_s)


def _make(solo: SoloEngine, second: SecondCoreVerifier, lives: list[RecordedBlock]) -> None:
    waiting, told = deque(lives), 0
    for block in lives:
        while waiting and told < READ_AHEAD:
            told += waiting[0].signatures
            second.tell_ahead(claims_of(solo, waiting.popleft()))
        commit(solo, block)
        told -= block.signatures


# --- a year --------------------------------------------------------------------------------------------------------------


def _traces(fewer: Connection, db: Connection) -> Iterator[Figure]:
    """Of both years in turns, so that a busy machine slows both: as first asked, and the best of some rounds."""
    first, best = list[float](), dict[Connection, list[float]]()
    bids = {each: _bids(each) for each in (fewer, db)}
    for few, many in zip(bids[fewer], bids[db], strict=True):
        first.append(_trace_ms(db, many))
        for each, bid in ((fewer, few), (db, many)):
            best.setdefault(each, []).append(min(_trace_ms(each, bid) for _ in range(ROUNDS)))
    middle = {each: statistics.median(times) for each, times in best.items()}
    target = f"the target in ms, of {ORDERS:,} orders"
    for name, times in (("first", first), ("again", best[db])):
        yield Figure(f"evidence-trace-{name}", statistics.median(times), "ms", TRACE_MS, target, "<= 1.0")
        p95 = sorted(times)[len(times) * 95 // 100]
        yield Figure(f"evidence-trace-{name}-p95", p95, "ms", TRACE_MS, target, "<= 1.0")
    growth = math.log(ORDERS) / math.log(max(2, ORDERS // FEWER))
    limit = middle[fewer] * growth
    yield Figure("evidence-trace-growth", middle[db], "ms", limit, f"ms of 1/{FEWER} of the orders x log/log", "<= 1.0")


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
            rows = history(db, "operator", OPERATOR, kind, BEGUN_MS, end_ms, ZONE).rows
            times.append((time.perf_counter() - begun) * 1000)
            assert sum(row.sums["contracts"] for row in rows) > ORDERS * 9 // 10
        limit = "the target in ms, a year of one operator"
        yield Figure(f"evidence-year-by-{kind}", min(times), "ms", STATISTICS_MS, limit, "<= 1.0")
    (year,) = islice(periods("year", BEGUN_MS + YEAR_MS // 2, BEGUN_MS + YEAR_MS // 2 + 1, ZONE), 1)
    begun = time.perf_counter()
    ranking(db, "pile", year)
    spent_ms = (time.perf_counter() - begun) * 1000
    yield Figure("evidence-50-piles", spent_ms, "ms", STATISTICS_MS, "ms, a page of piles", "<= 1.0")


if __name__ == "__main__":
    report(figures())
