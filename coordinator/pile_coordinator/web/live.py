"""Live blocks and prices as server-sent events (WHATWG HTML, "Server-sent events").

One watcher asks the database for its height; every stream has a place of its own, a height, and reads on from there when it
is ready for more. So a slow client costs no memory: what it has not taken yet stays in the database, and one that reconnects
with Last-Event-ID goes on exactly where it was. The id of an event is its block's height; only the block's own event carries
one, after its prices, so that a stream that broke between them repeats the prices and loses nothing.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pile_coordinator.web.metrics import Metrics
from pile_coordinator.web.problems import DATABASE_AWAY
from pile_coordinator.web.reading import Reading, Row

POLL_S = 0.2
BATCH = 50  # blocks that are read at once
MAX_KEPT = 256  # blocks whose events are kept encoded, for all streams that are up to date; some 100 kB
MAX_BACKLOG = 10_000  # blocks that a stream may ask to hear again; older ones are in /v1/blocks


class Watch:
    """Knows the newest block, and hands every stream the events after its place. Used on the event loop."""

    def __init__(self, reading: Reading, metrics: Metrics, then: Callable[[], None] = lambda: None) -> None:
        """Watch this database; `then` is called in a thread after every look at it."""
        self._reading, self._then = reading, then
        self._metrics = metrics
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._news = asyncio.Event()
        self.height = 0
        self.seen_s = time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled; a database that does not answer is asked again."""
        await self._start()
        while True:
            try:
                await self._look()
            except DATABASE_AWAY:
                self._metrics.database_errors.inc()
            await asyncio.sleep(POLL_S)

    async def _start(self) -> None:
        while not self.height:
            try:
                self._show(await run_in_threadpool(self._reading.latest_prices))
                height = await run_in_threadpool(self._reading.height)
                for row in await run_in_threadpool(self._reading.blocks_after, height - 1, 1):
                    self._take(row)
                return
            except DATABASE_AWAY:
                self._metrics.database_errors.inc()
                await asyncio.sleep(POLL_S)

    async def _look(self) -> None:
        height = await run_in_threadpool(self._reading.height)
        self.seen_s = time.monotonic()
        if height < self.height:  # it was emptied and is being made again from the chain, which says the same
            return
        before = self.height
        while height > self.height:
            rows = await run_in_threadpool(self._reading.blocks_after, self.height, BATCH)
            for row in rows:
                self._take(row)
            if not rows:
                break
        if self.height > before:
            self._metrics.show_closed(*await run_in_threadpool(self._reading.closed_between, before, self.height))
        await run_in_threadpool(self._then)

    def _take(self, row: Row) -> None:
        self.height = row["height"]
        self._kept[self.height] = encode_block(row)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        self._metrics.height.set(self.height)
        self._metrics.block_time.set(row["time_ms"] / 1000)
        dearest = {price["zone"]: price for price in row["prices"]}  # ordered by catalog price, the dearest last
        self._show(list(dearest.values()))
        self._news.set()
        self._news = asyncio.Event()

    def _show(self, rows: list[Row]) -> None:
        for row in rows:
            if row["price_micro_per_kwh"] is not None and self._metrics.has_zone(row["zone"]):
                self._metrics.price.labels(row["zone"]).set(row["price_micro_per_kwh"])
                self._metrics.open.labels(row["zone"]).set(row["open_after_wh"])
                self._metrics.capacity.labels(row["zone"]).set(row["capacity_wh"])

    async def wait(self, height: int, wait_s: float) -> None:
        """Once there are blocks after `height`, or `wait_s` passed."""
        if height >= self.height:
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
            except TimeoutError:
                return

    async def after(self, height: int, wait_s: float) -> dict[int, bytes]:
        """Events by height, at most 50 blocks', once there are any after `height`; empty when `wait_s` passed without."""
        if height >= self.height:
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
            except TimeoutError:
                return {}
        kept = {h: self._kept[h] for h in range(height + 1, min(height + BATCH, self.height) + 1) if h in self._kept}
        if height + 1 in kept:
            return kept
        rows = await run_in_threadpool(self._reading.blocks_after, height, BATCH)
        return {row["height"]: encode_block(row) for row in rows}


def encode_block(row: Row) -> bytes:
    """The events of one block: its prices, then itself."""
    names = (
        "zone",
        "height",
        "time_ms",
        "catalog_micro_per_kwh",
        "price_micro_per_kwh",
        "open_after_wh",
        "capacity_wh",
    )
    prices = [_event("price", {name: price[name] for name in names}) for price in row["prices"]]
    block = {name: row[name] for name in ("height", "time_ms", "hash", "proposer", "txs", "results")}
    return b"".join([*prices, b"id: %d\n" % row["height"], _event("block", block)])


def _event(kind: str, value: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), json.dumps(value, separators=(",", ":")).encode())


class Stream(Response):
    """One client's stream, from a height on. It ends when nobody reads it, or when its token is good no more."""

    media_type = "text/event-stream"

    def __init__(
        self, watch: Watch, metrics: Metrics, after: int, *, beat_s: float, stall_s: float, is_good: Callable[[], bool]
    ) -> None:
        """Send what follows block `after`; a sign of life each `beat_s`; end if one write takes longer than `stall_s`."""
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._watch, self._metrics, self._after = watch, metrics, after
        self._beat_s, self._stall_s, self._is_good = beat_s, stall_s, is_good

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send until one side ends it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._metrics.streams.inc()
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            self._metrics.streams.dec()

    async def _send(self, send: Send) -> None:
        try:
            async for chunk in self._chunks():
                message = {"type": "http.response.body", "body": chunk, "more_body": True}
                await asyncio.wait_for(send(message), self._stall_s)
        except TimeoutError:
            self._metrics.stalled.inc()
            return  # the server closes the connection of an answer that was not ended
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n: pilechain\n\n"
        checked_s = time.monotonic()
        while True:
            try:
                events = await self._watch.after(self._after, self._beat_s)
            except DATABASE_AWAY:
                self._metrics.database_errors.inc()
                return  # the client comes again, and goes on where it was
            if time.monotonic() - checked_s >= self._beat_s:
                checked_s = time.monotonic()
                if not await run_in_threadpool(self._is_good):
                    return
            for height, chunk in events.items():
                yield chunk
                self._after = height
                self._metrics.stream_blocks.inc()
            if not events:
                yield b": beat\n\n"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
