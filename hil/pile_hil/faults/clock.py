"""A clock of its own for a process: libfaketime, preloaded, moves its wall clock and leaves the monotonic one alone.

Waiting, timeouts and what counts by the monotonic clock go on as they do when somebody sets a machine's time.
"""

import os
import subprocess
import threading
from pathlib import Path

from pile_hil.faults import FaultError

_TICK_S = 0.1  # a drift is made of so small steps
_PATTERN = "libfaketimeMT.so.1"


def find_faketime() -> str | None:
    """The path of the library, None if it is not installed."""
    places = [*Path("/usr/lib").glob(f"*/faketime/{_PATTERN}"), *Path("/usr/lib/faketime").glob(_PATTERN)]
    return str(places[0]) if places else None


class FakeClock:
    """The clock of the processes that are started with `environment`; all of them show the same."""

    def __init__(self, folder: Path) -> None:
        """A clock that is right, so far. FaultError if libfaketime is missing."""
        library = find_faketime()
        if library is None:
            raise FaultError("libfaketime is missing (apt install faketime)")
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "offset"
        self.offset_ms = 0
        self._drifting: threading.Thread | None = None
        self._stopped = threading.Event()
        self.leap(0)
        self.environment = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def leap(self, ms: int) -> None:
        """Set it forward by so many milliseconds of real time, or back."""
        self.offset_ms += ms
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{self.offset_ms / 1000:+.3f}")
        beside.replace(self._file)  # whoever reads meanwhile reads the one or the other

    def right(self) -> None:
        """Show the time again, at once."""
        self.stop_drift()
        self.leap(-self.offset_ms)

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

    close = stop_drift

    def _drift(self, permille: int) -> None:
        owed_us = 0
        while not self._stopped.wait(_TICK_S):
            owed_us += int(_TICK_S * 1000) * permille
            ms, owed_us = divmod(owed_us, 1000)
            if ms:
                self.leap(ms)


def shows_ms(clock: FakeClock) -> int:
    """What a process that is started now takes for the time, in unix milliseconds; to see that the clock works at all."""
    environment = {**os.environ, **clock.environment}
    done = subprocess.run(["date", "+%s%3N"], env=environment, capture_output=True, text=True, check=True)  # noqa: S607
    return int(done.stdout)
