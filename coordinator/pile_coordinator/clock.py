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
        return self.at_ms(time.time_ns() // 1_000_000)

    def at_ms(self, real_ms: int) -> int:
        """What this clock shows at a moment of real time, both unix milliseconds."""
        return self.origin_ms + (real_ms - self.origin_ms) * self.rate
