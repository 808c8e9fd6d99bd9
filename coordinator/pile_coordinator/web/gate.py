"""What every request passes before anything of ours looks at it: sizes, the rate of its address, headers, counting."""

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pile_coordinator.web.access import too_often
from pile_coordinator.web.limits import RateLimit
from pile_coordinator.web.problems import Refused, problem

MAX_BODY_BYTES = 65_536  # the API takes no body at all; a dashboard's forms are small
MAX_TARGET_BYTES = 4096  # of path and query: the longest question has some 500
MAX_MESSAGE_BYTES = 65_536  # of a web socket, from a browser: events of a page have some 200
MAX_HEAD_BYTES = 16_384  # of all headers
FILES = "/_nicegui/"  # the dashboard's scripts and styles
STREAM = "text/event-stream"
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""Sent with every answer that does not set its own: OWASP's list for APIs."""


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, web: Any) -> None:
        """Stand before `app`; `web` holds the rate limit and the metrics."""
        self._app = app
        self._web = web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] == "websocket":
            await self._take_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(scope, receive, send)
        began_s = time.perf_counter()
        try:
            self._check(scope)
            await self._app(scope, passage.receive, passage.send)
        except Refused as refusal:  # by a check here, or of a body that grew too long
            self._web.metrics.refused.labels(refusal.code).inc()
            if not passage.status:
                answer = problem(refusal.status, refusal.code, refusal.message, refusal.headers)
                await answer(scope, receive, passage.send)
        finally:
            self._count(scope, passage, time.perf_counter() - began_s)

    async def _take_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except Refused as refusal:
            self._web.metrics.refused.labels(refusal.code).inc()
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        client = scope.get("client")
        # A page brings some thirty files of the program with it, which cost no question and are the same for all.
        limit = self._web.files_limit if scope["path"].startswith(FILES) else self._web.limit
        wait_s = limit.take(RateLimit.address(client[0] if client else ""))
        if wait_s:
            raise too_often(wait_s)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET_BYTES:
            raise Refused(414, "target_too_long", f"path and query may have {MAX_TARGET_BYTES} bytes together")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            raise Refused(431, "head_too_large", f"headers may have {MAX_HEAD_BYTES} bytes together")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > MAX_BODY_BYTES):
                raise _too_large()

    def _count(self, scope: Scope, passage: "_Passage", took_s: float) -> None:
        route = getattr(scope.get("route"), "name", "none")  # never the path, which a client chooses
        method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "OPTIONS"} else "other"
        self._web.metrics.requests.labels(route, method, str(passage.status or 499)).inc()
        if not passage.is_stream:
            self._web.metrics.seconds.labels(route).observe(took_s)


class _Passage:
    """One request on its way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._taken_bytes = 0
        self.status = 0
        self.is_stream = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._taken_bytes += len(message.get("body", b""))
        if self._taken_bytes > MAX_BODY_BYTES:
            raise _too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            self.is_stream = (b"content-type", STREAM.encode()) in headers
            message["headers"] = headers + [header for header in HEADERS if header[0] not in names]
        await self._send(message)


def _too_large() -> Refused:
    return Refused(413, "too_large", f"a request may have {MAX_BODY_BYTES} bytes")
