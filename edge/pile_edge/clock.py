"""The pile's time: the wall clock made fit for proofs and timers, which may neither run backwards nor stand still."""

from pile_shared.reading import TIME_RELATIVE, TIME_SYNCHRONISED

SLEW_LIMIT_MS = 3_600_000  # a wall clock further behind than this was never set: run on the monotonic one alone
SLEW_DIVISOR = 16


class Clock:
    """Unix milliseconds that never decrease.

    Follows the wall clock forwards. When that is set back (NTP, or a board without a battery after a power cut) it goes on
    by the monotonic clock, a sixteenth slower, until the wall clock has caught up. Power is energy over this time, and the
    chain takes a pile's rated power and a tenth: an eighth slower, full power would look like a seventh too much.

    On a rig, time may be accelerated: origin_ms + (real_ms - origin_ms) * rate.
    """

    def __init__(self, port, *, rate: int = 1, origin_ms: int = 0) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Take a port with wall_ms() -> unix ms, ticks_ms(), ticks_diff(new, old) -> ms, and time_status()."""
        self._port = port
        self._ticks = port.ticks_ms()
        self._real_ms = port.wall_ms()
        self.rate = rate
        self._origin_ms = origin_ms

    def start_at(self, time_ms: int) -> None:
        """Go on from `time_ms`, the time of the newest proof, if the wall clock says it is earlier than that."""
        if self.rate == 1:
            self._real_ms = max(self._real_ms, time_ms)

    def now_ms(self) -> int:
        """The pile's time."""
        ticks = self._port.ticks_ms()
        passed_ms = self._port.ticks_diff(ticks, self._ticks)
        self._ticks = ticks
        behind_ms = self._real_ms + passed_ms - self._port.wall_ms()
        if behind_ms <= 0:
            passed_ms -= behind_ms
        elif behind_ms < SLEW_LIMIT_MS:
            passed_ms -= min(behind_ms, passed_ms // SLEW_DIVISOR)
        self._real_ms += passed_ms
        return self._origin_ms + (self._real_ms - self._origin_ms) * self.rate  # type: ignore[no-any-return]

    def status(self) -> int:
        """TIME_* of a reading taken now."""
        if self._origin_ms:
            return TIME_SYNCHRONISED  # every part of a rig computes its time from the same two numbers
        if self._real_ms - self._port.wall_ms() >= SLEW_LIMIT_MS:
            return TIME_RELATIVE
        return self._port.time_status()  # type: ignore[no-any-return]
