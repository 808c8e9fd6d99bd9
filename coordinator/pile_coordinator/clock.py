"""Time, which everything above the chain is handed and nothing inside it can reach."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Unix time, or on a rig time that runs `rate` times as fast since `origin_ms`, so that hours of charging take seconds.

    All processes of one rig share rate and origin, so they agree on the time without talking.
    """

    rate: int = 1
    origin_ms: int = 0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        real_ms = time.time_ns() // 1_000_000
        return self.origin_ms + (real_ms - self.origin_ms) * self.rate
