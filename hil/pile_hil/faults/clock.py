"""A clock of its own for a process, which leaps and drifts: only its wall clock, as when somebody sets a machine's time.

Waiting, timeouts and what counts by the monotonic clock go on. Programs in Python only (own_clock.py): libfaketime, which would
take any, lets none of them sleep (0.9.10: clock_nanosleep until a moment is EINVAL).
"""

import sys
import threading
from pathlib import Path

from pile_hil.faults.own_clock import OFFSET_BYTES, offset_in

_TICK_S = 0.1  # a drift is made of so small steps


class FakeClock:
    """The clock of the Python programs that are started with `prefix` before their command; all of them show the same."""

    def __init__(self, path: Path) -> None:
        """A clock that is right, so far; the file at `path` says by how much it is not."""
        path.write_bytes(bytes(OFFSET_BYTES))
        self._offset_ms = offset_in(path)
        self._drifting: threading.Thread | None = None
        self._stopped = threading.Event()
        self.prefix = [sys.executable, "-m", "pile_hil.faults.own_clock", str(path)]

    @property
    def offset_ms(self) -> int:
        """How far it is ahead, in milliseconds of real time."""
        return self._offset_ms[0]

    def leap(self, ms: int) -> None:
        """Set it forward by so many milliseconds of real time, or back."""
        self._offset_ms[0] += ms

    def right(self) -> None:
        """Show the time again, at once."""
        self.stop_drift()
        self._offset_ms[0] = 0

    def drift(self, permille: int) -> None:
        """Run so much too fast, or too slow, until `stop_drift`."""
        self.stop_drift()
        self._stopped.clear()
        self._drifting = threading.Thread(target=self._drift, args=(permille,), name="drift", daemon=True)
        self._drifting.start()

    def stop_drift(self) -> None:
        """Stay where it is now."""
        self._stopped.set()
        if self._drifting is not None:
            self._drifting.join()
            self._drifting = None

    def _drift(self, permille: int) -> None:
        owed = 0
        while not self._stopped.wait(_TICK_S):
            owed += int(_TICK_S * 1000) * permille
            ms, owed = divmod(owed, 1000)
            self.leap(ms)
