"""The program's own files (scripts, styles, fonts of NiceGUI), each read and compressed once and then kept.

A first page asks for some twenty of them, 2.4 MB, at once: read, compressed and passed through NiceGUI's layers each time they
would take most of the second that the page has.
"""

import asyncio
import gzip
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_FILES, MAX_BYTES = 500, 32_000_000  # kept; NiceGUI has fewer, and a path that is none of its files is not kept
_SMALL = 1000  # bytes that are sent as they are
_TEXTS = ("text/", "application/json", "image/svg")


@dataclass(frozen=True, slots=True)
class _File:
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Files:
    """ASGI application before the one that has the files."""

    def __init__(self, app: ASGIApp) -> None:
        """Keep what `app` answers to GET."""
        self._app = app
        self._kept: dict[tuple[str, bool], _File] = {}
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a kept file, or ask for it and keep it."""
        headers = Headers(scope=scope)
        if scope["method"] != "GET" or scope["query_string"] or "range" in headers:
            await self._app(scope, receive, send)
            return
        key = scope["path"], "gzip" in headers.get("accept-encoding", "")
        found = self._kept.get(key)
        if found is None:
            found = await self._fetch(key, scope, send)
        if found is not None:
            await send({"type": "http.response.start", "status": 200, "headers": list(found.headers)})
            await send({"type": "http.response.body", "body": found.body})

    async def _fetch(self, key: tuple[str, bool], scope: Scope, send: Send) -> _File | None:
        """The file; None if it is none, which has been answered then.

        Whole, even if the browser that asks goes away meanwhile: it is kept for others.
        """
        start: Message = {}
        parts: list[bytes] = []
        asked_for = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Message:
            request = next(asked_for, None)
            return request or await asyncio.Future[Message]()

        async def gather(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            if start["status"] != 200:
                await send(message)
            else:
                parts.append(message.get("body", b""))

        asked = {
            **scope,
            "headers": [pair for pair in scope["headers"] if not pair[0].startswith((b"if-", b"accept-enc"))],
        }
        await self._app(asked, receive, gather)
        if start["status"] != 200:
            return None
        body = b"".join(parts)
        assert len(body) == int(Headers(raw=start["headers"]).get("content-length", len(body)))
        return self._keep(key, _packed(start, body, key[1]))

    def _keep(self, key: tuple[str, bool], file: _File) -> _File:
        if len(self._kept) < MAX_FILES and self._bytes + len(file.body) <= MAX_BYTES:
            self._kept[key] = file
            self._bytes += len(file.body)
        return file


def _packed(start: Message, body: bytes, may_gzip: bool) -> _File:
    headers = MutableHeaders(raw=list(start["headers"]))
    headers["vary"] = "Accept-Encoding"
    if may_gzip and len(body) >= _SMALL and headers.get("content-type", "").startswith(_TEXTS):
        body = gzip.compress(body, 6, mtime=0)
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    return _File(headers.raw, body)
