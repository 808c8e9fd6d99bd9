"""The time that blocks are given: it never comes back, so one leap of a machine's clock must not be believed at once.

Forward, every deadline would pass at once, and time would stand still when the clock is right again. Back, time stands still
at once, and what piles sign is soon too far ahead of it to be believed.
"""

import ctypes
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pile_coordinator.clock import Clock

MAX_LEAP_MS = 300_000  # of the chain's time; more than any clock drifts between two blocks, less than any deadline
_LEAST_LEAP_MS = 1000  # of real time, where that runs fast: a process may wait so long between two looks at two clocks
_TIMEX_BYTES = 512  # struct timex has 208 (64-bit) or 128; all zero: change nothing
_TIME_ERROR = 5  # adjtimex(2): nobody keeps the clock synchronised
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # counts while the machine sleeps, and nobody sets it


def is_synchronised() -> bool:
    """Whether the kernel says so (adjtimex(2)). A clock that somebody sets by hand is not, until NTP has had a look at it."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return 0 <= state < _TIME_ERROR


class BlockTime:
    """A clock's time, but for a leap that NTP does not vouch for: then time goes on from where it was.

    It is the clock's again once that has come back or is synchronised. A restart believes the clock, as it must.
    """

    def __init__(self, clock: Clock, log: Callable[[str], None]) -> None:
        """Begin at what the clock shows."""
        self._clock, self._log = clock, log
        self._max_leap_ms = max(MAX_LEAP_MS // clock.rate, _LEAST_LEAP_MS)
        self._steady_ms, self._real_ms = _steady_ms(), _wall_ms()
        self._is_held = False

    def now_ms(self) -> int:
        """Unix milliseconds."""
        steady_ms = (
            _steady_ms()
        )  # before the other: a pause between the two looks like a leap for one time, not for ever
        expected_ms = self._real_ms + steady_ms - self._steady_ms
        wall_ms = _wall_ms()
        leap_ms = wall_ms - expected_ms
        was_held, self._is_held = self._is_held, abs(leap_ms) > self._max_leap_ms and not is_synchronised()
        self._steady_ms, self._real_ms = steady_ms, expected_ms if self._is_held else wall_ms
        if self._is_held and not was_held:
            how = f"{_duration(abs(leap_ms) * self._clock.rate)} {'forward' if leap_ms > 0 else 'back'}"
            self._log(
                f"this machine's clock leapt {how}, and NTP does not vouch for it; the time of blocks goes on from before."
                " Set the clock, or start NTP (timedatectl); if it is right, start again"
            )
        elif was_held and not self._is_held:
            self._log("the clock is believed again")
        return self._clock.at_ms(self._real_ms)

    def check(self, block_ms: int) -> None:
        """Say so if the last block's time is far ahead of the clock: until the clock has passed it, chain time stands still."""
        ahead_ms = block_ms - self.now_ms()
        if ahead_ms > MAX_LEAP_MS:
            shown = datetime.fromtimestamp(block_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            self._log(
                f"the last block is of {shown} UTC, {_duration(ahead_ms)} ahead of this machine's clock; time stands still on"
                " the chain until the clock has passed that. Look at the clock (timedatectl) before anything else"
            )


def _steady_ms() -> int:
    return time.clock_gettime_ns(_STEADY) // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _duration(ms: int) -> str:
    """To the minute, or to the second below two of them."""
    seconds = ms // 1000
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
