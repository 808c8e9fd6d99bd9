"""An accelerated clock that every process of a rig computes alike, from two numbers in its configuration."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimClock:
    """Time that runs `rate` times as fast as real time since `origin_ms`, where the two agree.

    Attributes:
        rate: simulated milliseconds in a real one; 240 is four minutes a second.
        origin_ms: unix milliseconds, real, at which the simulation begins.
    """

    rate: int = 1
    origin_ms: int = 0

    def __post_init__(self) -> None:
        if self.rate < 1:
            raise ValueError("rate must be at least 1")

    def now_ms(self) -> int:
        """Unix milliseconds of simulated time."""
        return self.origin_ms + (time.time_ns() // 1_000_000 - self.origin_ms) * self.rate
