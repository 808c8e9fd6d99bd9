"""Simulated time, chance and memory of what happened: everything that a seed decides is decided from here.

Time goes from event to event; nothing waits. Chance comes from streams that are named, so that what one part of the world
draws does not change what another one gets.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from hashlib import sha256

EPOCH_MS = 1_800_000_000_000  # when simulated worlds begin
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
LAST_SHOWN = 60  # events that a failure shows


class FoundError(Exception):
    """A check that did not hold; `code` names it. None of ours, so that no software in the world takes it for its own."""

    def __init__(self, message: str, code: str) -> None:
        """Say what was found, and by which check."""
        super().__init__(message)
        self.code = code


class World:
    """The clock, the queue of what is to come, and the trace of what was.

    Attributes:
        seed: of all chance. now_ms: true time, unix milliseconds. last: the newest lines of the trace.
    """

    def __init__(self, seed: int, show: Callable[[str], None] | None = None) -> None:
        """Begin at EPOCH_MS; `show` is given each line of the trace."""
        self.seed = seed
        self.now_ms = EPOCH_MS
        self.last: deque[str] = deque(maxlen=LAST_SHOWN)
        self._show = show
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._trace = sha256()

    def stream(self, name: str) -> random.Random:
        """Chance for one part of the world."""
        return random.Random(f"{self.seed}/{name}")  # noqa: S311 - a simulation

    def after(self, wait_ms: int, action: Callable[[], None]) -> None:
        """Do something so much later; what is due at one time happens in the order in which it was asked for."""
        self.at(self.now_ms + max(0, wait_ms), action)

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Do something at a time, at once if that has passed."""
        self._count += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._count, action))

    def run(self, until_ms: int) -> None:
        """Let everything happen that is due by then."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = max(self.now_ms, until_ms)

    def say(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        line = f"{self.now_ms - EPOCH_MS:>12} {who}: {what}"
        self._trace.update(line.encode() + b"\n")
        self.last.append(line)
        if self._show is not None:
            self._show(line)

    def trace(self) -> str:
        """A hash of all that was said: equal for equal seeds, in any process."""
        return self._trace.hexdigest()


def secret_of(name: str) -> bytes:
    """The key of a name in every world."""
    return b"\x00" + sha256(b"simulated " + name.encode()).digest()[1:]
