"""A car behind a contactor behind a meter: the truth that readings and bills are compared with."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WATT_MS_PER_WH = 3_600_000


class Load:
    """Energy flows at `rated_power_w` while the contactor is closed, a car is plugged in and its battery is not full.

    Nothing runs in the background: every question first integrates up to the present, exactly, in watt-milliseconds.
    Threads may share a load.
    """

    def __init__(
        self, now_ms: Callable[[], int], *, rated_power_w: int, battery_wh: int, start_energy_wh: int = 0
    ) -> None:
        """Begin unplugged and switched off, with `start_energy_wh` on the meter and `battery_wh` of room in the car."""
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._rated_power_w = rated_power_w
        self._start_energy_wh = start_energy_wh
        self._room_watt_ms = battery_wh * WATT_MS_PER_WH
        self._drawn_watt_ms = 0
        self._at_ms = now_ms()
        self._commanded = False
        self._welded = False
        self._plugged = False

    def plug(self, battery_wh: int | None = None) -> None:
        """Connect the car; with `battery_wh`, another one that has room for so much."""
        with self._lock:
            self._advance()
            self._plugged = True
            if battery_wh is not None:
                self._room_watt_ms = battery_wh * WATT_MS_PER_WH

    def unplug(self) -> None:
        """Disconnect the car."""
        with self._lock:
            self._advance()
            self._plugged = False

    def switch(self, on: bool) -> None:
        """What the relay's coil commands the contactor."""
        with self._lock:
            self._advance()
            self._commanded = on

    def weld(self, welded: bool) -> None:
        """Make the contactor stay closed whatever the coil says, or repair it."""
        with self._lock:
            self._advance()
            self._welded = welded

    @property
    def commanded(self) -> bool:
        """What the coil says."""
        return self._commanded

    @property
    def plugged(self) -> bool:
        """Whether a car is connected."""
        return self._plugged

    def energy_watt_ms(self) -> int:
        """All energy that ever went through the meter, exactly."""
        with self._lock:
            self._advance()
            return self._start_energy_wh * WATT_MS_PER_WH + self._drawn_watt_ms

    def energy_wh(self) -> int:
        """The same in whole Wh, rounded down."""
        return self.energy_watt_ms() // WATT_MS_PER_WH

    def power_w(self) -> int:
        """What is drawn now: the rated power, or nothing."""
        with self._lock:
            self._advance()
            return self._rated_power_w if self._flows() else 0

    def _flows(self) -> bool:
        return (self._commanded or self._welded) and self._plugged and self._room_watt_ms > 0

    def _advance(self) -> None:
        now_ms = max(self._at_ms, self._now_ms())  # real time may step back; energy may not
        if self._flows():
            drawn = min(self._room_watt_ms, self._rated_power_w * (now_ms - self._at_ms))
            self._drawn_watt_ms += drawn
            self._room_watt_ms -= drawn
        self._at_ms = now_ms
