"""Between MQTT clients and a broker: a TCP proxy that makes a bad line, or a bad broker, of a good one.

It delays, is slow, stalls (nothing arrives and nobody is told: half open) and cuts (reset, and refused until healed). Of
MQTT it loses, repeats and reorders messages. What it loses it has acknowledged, as a broker that dies before it wrote to
its disk: a message that TCP carried and nobody acknowledged is no fault that exists.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

from pile_hil.broker import free_port
from pile_hil.faults import FaultError
from pile_hil.faults.mqtt_packets import Packets, acknowledgement, again, is_publish, quality

_CALL_S = 10
_READ_BYTES = 16384
_UNDER_WAY = 256  # pieces in each direction; then the sender waits, as on any slow line
_HELD_S = 0.3  # how long a message may wait for another to overtake it
_END = b""
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close is a reset


@dataclass(frozen=True, slots=True)
class Weather:
    """What the line does to everything on it.

    Attributes:
        delay_ms: each piece arrives so late. jitter_ms: and up to so much later; the order stays. bytes_per_s: 0 is no limit.
        lost_permille, twice_permille, overtaken_permille: of MQTT messages, in both directions.
    """

    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_per_s: int = 0
    lost_permille: int = 0
    twice_permille: int = 0
    overtaken_permille: int = 0

    @property
    def reads_mqtt(self) -> bool:
        """Whether it does anything to single messages."""
        return bool(self.lost_permille or self.twice_permille or self.overtaken_permille)


FAIR = Weather()


@dataclass(slots=True)
class _Line:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    back: "asyncio.Queue[tuple[float, bytes]]"
    ahead: "asyncio.Queue[tuple[float, bytes]]"
    packets: Packets = field(default_factory=Packets)
    held: list[bytes] = field(default_factory=list)


class Proxy:
    """A port of its own before a broker's. Use as a context manager.

    Attributes:
        port: where clients connect instead.
        counts: connections, resets, and messages passed, lost, twice, overtaken.
    """

    def __init__(self, target_port: int, *, host: str = "127.0.0.1", seed: int = 0, tls: bool = False) -> None:
        """Plan it, at the broker's own `host`; `seed` says what is done to messages. With `tls` it cannot read them."""
        self._host, self._target_port, self._tls = host, target_port, tls
        self.port = free_port()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._weather = FAIR
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset every connection and end the thread; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    # --- faults

    def set(self, weather: Weather) -> None:
        """From now on.

        Raises:
            FaultError: it is about messages, and they are encrypted.
        """
        if weather.reads_mqtt and self._tls:
            raise FaultError("messages under TLS cannot be lost one by one; use delay, stall or cut")
        self._weather = weather

    def stall(self) -> None:
        """Nothing passes and nobody is told: connections stay, half open."""
        self._soon(self._flows.clear)

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until `heal`."""
        self._call(self._shut())

    def reset(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._soon(self._reset)

    def heal(self) -> None:
        """Fair weather; what was stalled goes on, who was refused may come."""
        self._weather = FAIR
        self._soon(self._flows.set)
        self._call(self._listen())

    # --- the loop's own thread

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    def _soon(self, what: Callable[[], object]) -> None:
        async def do() -> None:
            what()

        self._call(do())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, self._host, self.port)

    async def _shut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self._reset()

    async def _end(self) -> None:
        await self._shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _reset(self) -> None:
        self.counts["resets"] += len(self._writers) // 2
        for writer in list(self._writers):
            _abort(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.counts["connections"] += 1
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, FaultError, asyncio.CancelledError):
            pass  # one side has gone, or this proxy does: so does the other
        finally:
            self._writers.discard(writer)
            _abort(writer)
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(self._host, self._target_port)
        self._writers.add(broker_writer)
        up: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        down: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        work = [
            asyncio.ensure_future(self._carry(_Line(reader, broker_writer, back=down, ahead=up))),
            asyncio.ensure_future(self._carry(_Line(broker_reader, writer, back=up, ahead=down))),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in work:
                one.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._writers.discard(broker_writer)
            _abort(broker_writer)

    async def _carry(self, line: _Line) -> None:
        """One direction, until its stream ends and all of it has arrived."""
        sending = asyncio.ensure_future(self._send(line.ahead, line.writer))
        try:
            while data := await line.reader.read(_READ_BYTES):
                for piece in [data] if self._tls else line.packets.take(data):
                    for due in self._fate(line, piece):
                        await self._put(line.ahead, due)
            self._let_go(line)
            await line.ahead.put((0, _END))
            await sending
        finally:
            sending.cancel()

    def _fate(self, line: _Line, packet: bytes) -> list[bytes]:
        """What becomes of a packet: the packets to send instead of it."""
        weather = self._weather
        if self._tls or not is_publish(packet):
            return [packet]
        if self._happens(weather.lost_permille, "lost"):
            if quality(packet) == 1:
                line.back.put_nowait((0, acknowledgement(packet)))
            return []
        if not line.held and self._happens(weather.overtaken_permille, "overtaken"):
            line.held.append(packet)
            self._loop.call_later(_HELD_S, self._let_go, line)
            return []
        self.counts["passed"] += 1
        twice = [again(packet)] if self._happens(weather.twice_permille, "twice") else []
        held, line.held[:] = list(line.held), []
        return [packet, *twice, *held]

    def _let_go(self, line: _Line) -> None:
        """Nobody overtook it."""
        held, line.held[:] = list(line.held), []
        for packet in held:
            with contextlib.suppress(asyncio.QueueFull):  # lost then, in a bad place at a bad time
                line.ahead.put_nowait((0, packet))

    def _happens(self, permille: int, what: str) -> bool:
        if not permille or self._chance.randrange(1000) >= permille:
            return False
        self.counts[what] += 1
        return True

    async def _put(self, queue: "asyncio.Queue[tuple[float, bytes]]", data: bytes) -> None:
        weather = self._weather
        late_ms = weather.delay_ms + (self._chance.randrange(weather.jitter_ms) if weather.jitter_ms else 0)
        await queue.put((self._loop.time() + late_ms / 1000, data))

    async def _send(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await queue.get()
            if data == _END:
                return
            await asyncio.sleep(max(0.0, due_s - self._loop.time()))
            if self._weather.bytes_per_s:
                await asyncio.sleep(len(data) / self._weather.bytes_per_s)
            await self._flows.wait()
            writer.write(data)
            await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
