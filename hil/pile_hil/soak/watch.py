"""What is looked at while a soak runs: the ledger, computed again as it grows; memory of every process; sizes of logs."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pile_coordinator.chain import invariants
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.engines.store import StoreError
from pile_coordinator.replay import Replay, open_ledger
from pile_shared.errors import ConfigError

MAX_SAMPLES = 4096  # of memory, by process; then every second one is dropped, and they are taken half as often
MAX_LOG_BYTES = 64 << 20
CUT_LOG_BYTES = 8 << 20  # of a log that nobody reads afterwards: it begins anew
WARM_UP = 0.2  # of the samples: a process that has just begun grows
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Auditor:
    """Applies each new block to a state of its own, and checks every sum."""

    def __init__(self, ledger: Path, genesis: Genesis) -> None:
        """From genesis on; the ledger need not be there yet."""
        self._ledger = ledger
        self.replay = Replay(genesis)

    def look(self) -> None:
        """Apply what has come since the last time.

        Raises:
            ReplayError: a block is not what it should be. BrokenInvariantError: money or energy came or went.
        """
        try:
            store = open_ledger(self._ledger, self.replay.genesis)
        except (ConfigError, StoreError):
            return  # not there yet, or its disk is just being taken away
        try:
            for height in range(self.replay.height + 1, store.height() + 1):
                self.replay.apply(store.block(height), is_certified=True)
        finally:
            store.close()
        invariants.check_in_full(self.replay.state)


@dataclass(slots=True)
class Growth:
    """The memory of one process over time, over its restarts."""

    samples: list[int] = field(default_factory=list)
    every: int = 1
    skipped: int = 0

    def add(self, rss_bytes: int) -> None:
        """One more sample."""
        self.skipped += 1
        if self.skipped < self.every:
            return
        self.skipped = 0
        self.samples.append(rss_bytes)
        if len(self.samples) > MAX_SAMPLES:
            self.samples = self.samples[::2]
            self.every *= 2

    def summary(self) -> dict[str, int]:
        """Bytes at most, and by how much the last quarter is above the first one after the warm-up."""
        warm = self.samples[int(len(self.samples) * WARM_UP) :]
        quarter = max(1, len(warm) // 4)
        grown = int(median(warm[-quarter:]) - median(warm[:quarter])) if warm else 0
        return {"most_bytes": max(self.samples, default=0), "grown_bytes": grown, "samples": len(self.samples)}


class Memory:
    """Resident memory by name of process, whatever its process id is at the time."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.growth: dict[str, Growth] = {}

    def look(self, pids: dict[str, int]) -> None:
        """Take a sample of each that runs."""
        for name, pid in pids.items():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except (OSError, IndexError):
                continue  # it has ended
            self.growth.setdefault(name, Growth()).add(pages * _PAGE)

    def summary(self) -> dict[str, dict[str, int]]:
        """By name, as `Growth.summary` has it."""
        return {name: growth.summary() for name, growth in sorted(self.growth.items())}


def bound_logs(kept: list[Path], cut: list[Path]) -> list[str]:
    """Empty logs that nobody reads when they are long; what is wrong with those that are read."""
    for path in cut:
        if path.exists() and path.stat().st_size > CUT_LOG_BYTES:
            os.truncate(path, 0)  # whoever writes there appends
    return [f"{path.name} has over {MAX_LOG_BYTES} bytes" for path in kept if _size(path) > MAX_LOG_BYTES]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
