"""Simulated charging stations on Modbus TCP, with the watchdogs that real ones have.

Addresses are written down here a second time, from the same documents that `pile_edge.chargers` cites: were they taken from
there, a wrong one would suit both.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

if TYPE_CHECKING:
    from collections.abc import Coroutine

_LOOP_SECONDS = 10
_MIN_PILOT_MA = 6_000  # below it a vehicle draws nothing

logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())


class SimStation:
    """One station with a vehicle that draws whatever it may. Time is real, plus what `pass_s` adds.

    Attributes:
        beats: requests that this station counts as a sign of life. stuck: it goes on although told to stop.
    """

    first, count = 0, 0
    unit = 1

    def __init__(self) -> None:
        self.beats = 0
        self.stuck = False
        self.silent = False
        self._ahead_s = 0.0
        self._heard_s = self._now_s()
        self.words = [0] * self.count

    def pass_s(self, seconds: float) -> None:
        """Let time pass without waiting for it."""
        self._ahead_s += seconds

    @property
    def charging(self) -> bool:
        """Whether current flows now."""
        return self.stuck or self.permitted_ma() >= _MIN_PILOT_MA

    def permitted_ma(self) -> int:
        """What the vehicle may draw now."""
        raise NotImplementedError

    def written(self, address: int, words: list[int]) -> bool:
        """Take a write; False refuses it."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Bring the registers up to date before they are read."""

    def quiet_s(self) -> float:
        """Seconds since the last sign of life."""
        return self._now_s() - self._heard_s

    def heard(self) -> None:
        """A sign of life."""
        self.beats += 1
        self._heard_s = self._now_s()

    def put(self, address: int, raw: bytes) -> None:
        """Set registers."""
        words = struct.unpack(f">{len(raw) // 2}H", raw)
        self.words[address - self.first : address - self.first + len(words)] = words

    def device(self) -> SimDevice:
        """This station for a pymodbus server."""
        nothing = [SimData(0xFFFF, datatype=DataType.INVALID)]
        bits = [SimData(0, values=[False] * 16, datatype=DataType.BITS, readonly=True)]
        holding = [SimData(self.first, values=list(self.words), datatype=DataType.REGISTERS)]
        return SimDevice(self.unit, (bits, list(bits), holding, nothing), action=self._on_access)

    async def _on_access(
        self, function: int, start: int, address: int, count: int, registers: list[int], values: Any
    ) -> ExcCodes | None:
        del function, count
        if values is not None:
            words = list(values)
            if not self.written(address, words):
                return ExcCodes.ILLEGAL_VALUE
            self.words[address - self.first : address - self.first + len(words)] = words
            return None
        self.refresh()
        registers[:] = self.words[start - self.first : start - self.first + len(registers)]
        return None

    def _now_s(self) -> float:
        return time.monotonic() + self._ahead_s


class SimKeba(SimStation):
    """KeContact P30: without a write of current, enable or failsafe time for that time, the failsafe current holds."""

    first, count, unit = 1000, 4100, 255

    def __init__(self) -> None:
        super().__init__()
        self.current_ma, self.enabled, self.failsafe_ma, self.failsafe_s = 32_000, True, 6_000, 0
        self.is_failed = False

    def written(self, address: int, words: list[int]) -> bool:
        """Single registers only."""
        self._check()
        if len(words) != 1 or address not in {5004, 5014, 5016, 5018}:
            return False
        (value,) = words
        if address == 5004:
            self.current_ma = value
            self.is_failed = False
        elif address == 5014:
            self.enabled = bool(value)
        elif address == 5016:
            self.failsafe_ma = value
        elif value and not 10 <= value <= 600:
            return False
        else:
            self.failsafe_s = value
        if address != 5016:
            self.heard()
        return True

    def permitted_ma(self) -> int:
        """By command, or by failsafe."""
        self._check()
        if self.is_failed:
            return self.failsafe_ma
        return self.current_ma if self.enabled else 0

    def refresh(self) -> None:
        """State and failsafe settings."""
        self.put(1000, (3 if self.charging else 5).to_bytes(4, "big"))
        self.put(1600, self.failsafe_ma.to_bytes(4, "big"))
        self.put(1602, self.failsafe_s.to_bytes(4, "big"))

    def _check(self) -> None:
        if self.failsafe_s and self.quiet_s() >= self.failsafe_s:
            self.is_failed, self.enabled = True, False


class SimAbb(SimStation):
    """Terra AC: any request is a sign of life; without one for the communication timeout, the session stops."""

    first, count = 0x4000, 0x110

    def __init__(self) -> None:
        super().__init__()
        self.current_ma, self.timeout_s = 32_000, 0

    def written(self, address: int, words: list[int]) -> bool:
        """Current and timeout."""
        self._check()
        if address == 0x4100 and len(words) == 2:
            self.current_ma = words[0] << 16 | words[1]
        elif address == 0x4106 and len(words) == 1:
            self.timeout_s = words[0]
        else:
            return False
        self.heard()
        return True

    def permitted_ma(self) -> int:
        """What was set, until it is silent."""
        self._check()
        return self.current_ma

    def refresh(self) -> None:
        """Limit and timeout."""
        self.put(0x400E, (32_000 if self.stuck else self.permitted_ma()).to_bytes(4, "big"))
        self.put(0x4020, self.timeout_s.to_bytes(2, "big"))
        self.heard()

    def _check(self) -> None:
        if self.timeout_s and self.quiet_s() >= self.timeout_s:
            self.current_ma = 0


class SimAlfen(SimStation):
    """NG9xx: a current is valid for a time the installer has set; then the safe current holds."""

    first, count = 1200, 16

    def __init__(self) -> None:
        super().__init__()
        self.valid_s, self.safe_a = 10, 0.0
        self.current_a = 32.0

    def written(self, address: int, words: list[int]) -> bool:
        """The current, as a float of both words."""
        if address != 1210 or len(words) != 2:
            return False
        (self.current_a,) = struct.unpack(">f", struct.pack(">2H", *words))
        self.heard()
        return True

    def permitted_ma(self) -> int:
        """The current while it is valid."""
        return round(1000 * (self.current_a if self.quiet_s() < self.valid_s else self.safe_a))

    def refresh(self) -> None:
        """What holds, for how long, and what after."""
        self.put(1206, struct.pack(">f", 32.0 if self.stuck else self.permitted_ma() / 1000))
        self.put(1208, max(0, round(self.valid_s - self.quiet_s())).to_bytes(4, "big"))
        self.put(1212, struct.pack(">f", self.safe_a))


class SimCharx(SimStation):
    """CHARX SEC, connector 1: without a write for the watchdog time the watchdog current holds; outside 6 to 80 A it stops."""

    first, count = 1299, 9

    def __init__(self) -> None:
        super().__init__()
        self.current_a, self.watchdog_a, self.watchdog_s = 16, 6, 65_535

    def written(self, address: int, words: list[int]) -> bool:
        """Whole amperes, and the watchdog's current and time."""
        self._check()
        if len(words) != 1 or address not in {1301, 1306, 1307}:
            return False
        (value,) = words
        if address == 1301:
            self.current_a = value
        elif address == 1306:
            self.watchdog_a = value
        else:
            self.watchdog_s = value
        self.heard()
        return True

    def permitted_ma(self) -> int:
        """What was set, or what the watchdog allows."""
        self._check()
        return 1000 * self.current_a if 6 <= self.current_a <= 80 else 0

    def refresh(self) -> None:
        """State, current and watchdog."""
        self.put(1299, b"C2" if self.charging else b"B1")
        self.put(1301, (32 if self.stuck else self.current_a).to_bytes(2, "big"))
        self.put(1306, self.watchdog_a.to_bytes(2, "big") + self.watchdog_s.to_bytes(2, "big"))

    def _check(self) -> None:
        if self.watchdog_s != 65_535 and self.quiet_s() >= self.watchdog_s:
            self.current_a = self.watchdog_a


STATIONS: dict[str, type[SimStation]] = {
    "keba": SimKeba,
    "abb-terra-ac": SimAbb,
    "alfen": SimAlfen,
    "phoenix-charx": SimCharx,
}


class StationServer:
    """One station behind a Modbus TCP server of its own, while the context is entered."""

    def __init__(self, station: SimStation) -> None:
        self.station = station
        self.port = 0
        self._server: ModbusTcpServer | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="station", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._serve())
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._run(self._server.shutdown())  # type: ignore[no-untyped-call]
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LOOP_SECONDS)
        self._loop.close()

    async def _serve(self) -> None:
        server = ModbusTcpServer(self.station.device(), address=("127.0.0.1", 0), trace_packet=self._trace)
        await server.serve_forever(background=True)
        listener: Any = server.transport  # an asyncio.Server, which pymodbus types as a transport
        self.port = listener.sockets[0].getsockname()[1]
        self._server = server

    def _trace(self, sending: bool, frame: bytes) -> bytes:
        return b"" if sending and self.station.silent else frame

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LOOP_SECONDS)
