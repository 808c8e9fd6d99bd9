"""Real pymodbus servers for simulated units, over TCP and on a serial line, run by a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self

from pymodbus.server import ModbusSerialServer, ModbusTcpServer

from pile_hil.pty_bus import PtyBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pymodbus.server.base import ModbusBaseServer

    from pile_hil.meters import SimMeter, SimRelay

_LOOP_SECONDS = 10  # to start or stop a server; far above what a loaded machine needs


class BusServers:
    """Any number of buses. Use as a context manager, or `start` and `stop`."""

    def __init__(self) -> None:
        self._servers: list[ModbusBaseServer] = []
        self._ptys: list[PtyBus] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rig", daemon=True)

    def start(self) -> None:
        """Start the thread; `serve` opens buses from then on."""
        self._thread.start()

    def stop(self) -> None:
        """Close every bus and end the thread."""
        for server in self._servers:
            self._run(server.shutdown())  # type: ignore[no-untyped-call]
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LOOP_SECONDS)
        self._loop.close()
        for pty in self._ptys:
            pty.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def serve(self, spec: Mapping[str, Any], units: Sequence[SimMeter | SimRelay]) -> dict[str, Any]:
        """Open a bus with these units on it; the very section that `open_bus` takes to reach it."""
        opening = self._serve_tcp if spec["kind"] == "tcp" else self._serve_rtu
        bus: dict[str, Any] = self._run(opening(spec, units))
        return bus

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_LOOP_SECONDS)

    async def _serve_tcp(self, spec: Mapping[str, Any], units: Sequence[SimMeter | SimRelay]) -> dict[str, Any]:
        host = spec.get("host", "127.0.0.1")
        devices, trace = _devices(units, None, serial=False)
        server = ModbusTcpServer(devices, address=(host, spec.get("port", 0)), trace_packet=trace)
        await server.serve_forever(background=True)
        self._servers.append(server)
        listener: Any = server.transport  # an asyncio.Server, which pymodbus types as a transport
        port = listener.sockets[0].getsockname()[1]
        return {**spec, "host": host, "port": port}

    async def _serve_rtu(self, spec: Mapping[str, Any], units: Sequence[SimMeter | SimRelay]) -> dict[str, Any]:
        pty = None if "device" in spec else PtyBus()
        if pty:
            self._ptys.append(pty)
        devices, trace = _devices(units, pty, serial=True)
        line = {"baud": spec.get("baud", 9600), "parity": spec.get("parity", "N"), "stopbits": spec.get("stopbits", 1)}
        server = ModbusSerialServer(
            devices,
            port=pty.server_device if pty else spec["device"],
            baudrate=line["baud"],
            parity=line["parity"],
            stopbits=line["stopbits"],
            trace_packet=trace,
        )
        await server.serve_forever(background=True)
        self._servers.append(server)
        return {**spec, **line, **({"device": pty.master_device} if pty else {})}


def _devices(
    listed: Sequence[SimMeter | SimRelay], pty: PtyBus | None, *, serial: bool
) -> tuple[list[Any], Callable[[bool, bytes], bytes]]:
    """The pymodbus devices of one bus, and the hook through which their faults act on outgoing frames."""
    units: dict[int, SimMeter | SimRelay] = {}
    for unit in listed:
        if unit.unit in units:
            raise ValueError(f"unit {unit.unit} is taken on this bus")
        units[unit.unit] = unit

    def trace(sending: bool, frame: bytes) -> bytes:
        unit = units.get(frame[0 if serial else 6]) if sending else None
        if not sending:
            return frame
        # Nobody answers for a unit that is not on a serial line; a TCP gateway says so in exception 11.
        if unit is None:
            return b"" if serial else frame[:8] + b"\x0b"
        if pty and unit.baud is not None and unit.baud != pty.master_baud():
            return b""  # at another speed it saw no frame
        return unit.faults.on_answer(frame, serial=serial)

    return [unit.device() for unit in units.values()], trace
