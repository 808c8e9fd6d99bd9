"""Runs seeds: one, or many over several processes. What a seed builds is decided by `shape_of` and its own chance."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from unittest.mock import patch

from pile_coordinator import service
from pile_hil.simulator.curve import modelled_signatures
from pile_hil.simulator.site import Shape, Site
from pile_hil.simulator.world import DAY_MS, HOUR_MS, MINUTE_MS, FoundError, World

EACH_P256 = 100  # one seed of so many signs with P-256 itself
CHUNK = 5  # seeds that a process takes at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Attributes:
        code, found: the check that did not hold, "" if all did. last: the newest lines of the trace, of a seed that failed.
        trace: a hash of all lines. counts: figures. spent_s: real seconds.
    """

    seed: int
    code: str
    found: str
    trace: str
    counts: dict[str, int] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    spent_s: float = 0.0


def shape_of(seed: int, days: int) -> Shape:
    """How large the world of a seed is: a few busy hours, or with `days` so many, mostly idle."""
    chance = World(seed).stream("shape")
    if days:
        return Shape(
            piles=20,
            drivers=10,
            replicas=0,
            hours=24 * days,
            faults=1,
            rest_ms=2 * DAY_MS,
            sample_ms=MINUTE_MS,
            heartbeat_ms=HOUR_MS,
        )
    piles = chance.randint(1, 3)
    return Shape(
        piles=piles,
        drivers=piles + chance.randint(0, 1),
        replicas=chance.choice((0, 0, 0, 3)),
        hours=chance.randint(3, 8),
        faults=chance.choice((0, 10, 20, 40)),
        rest_ms=HOUR_MS,
        sample_ms=chance.choice((20_000, 60_000)),
        heartbeat_ms=chance.choice((HOUR_MS // 4, HOUR_MS)),
    )


def simulate(seed: int, *, days: int = 0, show: Callable[[str], None] | None = None) -> Outcome:
    """Let one world live. Any exception of the software in it is a finding, not only those of the judge."""
    world, started_s = World(seed, show), time.perf_counter()
    code = found = ""
    counts: dict[str, int] = {}
    with modelled_signatures(modelled=seed % EACH_P256 != 0), patch.object(service, "log", lambda _: None):
        try:
            site = Site(world, shape_of(seed, days))
            site.run()
            counts = site.count()
        except FoundError as error:
            code, found = error.code, str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed shows it
            code, found = "exception", f"{type(error).__name__}: {error}"
    last = tuple(world.last) if code else ()
    return Outcome(seed, code, found, world.trace(), counts, last, time.perf_counter() - started_s)


def simulate_all(seeds: range, *, days: int, jobs: int) -> Iterator[Outcome]:
    """All seeds, in order; over so many processes."""
    if jobs == 1:
        yield from (simulate(seed, days=days) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_simulate_days, seeds, [days] * len(seeds), chunksize=1 if days else CHUNK)


def _simulate_days(seed: int, days: int) -> Outcome:
    return simulate(seed, days=days)
