"""What every request for a page, and every socket of an open page, passes before NiceGUI sees it.

- A page is shown to who holds a good token whose role has a part in its route (web/access.py decides, as for the API);
  others are sent to sign in, or told why not. Nothing of NiceGUI is made for them.
- A socket is opened by pages of this server only (Origin, RFC 6455 section 10.2), for the page that the same token was
  shown, and counts among the live streams of its token. It is closed when its token is good no more.
- Pages have a content security policy of their own: scripts of this server and those with the answer's nonce. NiceGUI
  compiles templates in the browser and runs what its server sends, which takes 'unsafe-eval'; inline styles are everywhere.
"""

import asyncio
import re
import secrets
import time
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from nicegui import Client
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pile_coordinator.dashboard import plain, words
from pile_coordinator.web.access import Grant, admit
from pile_coordinator.web.app import Web
from pile_coordinator.web.gate import FILES, MAX_MESSAGE_BYTES
from pile_coordinator.web.limits import RateLimit
from pile_coordinator.web.problems import Refused

TOKEN_COOKIE = "pilechain_token"  # noqa: S105 - the name of a cookie
LANGUAGE_COOKIE = "pilechain_language"
VISIT = "pilechain.visit"  # in the scope of a request that passed
SOCKET = "/_nicegui_ws/"
MESSAGES_PER_S = 30  # from one socket for long, and this many at once; more wait, and with them the browser
GOODBYE_S = 2  # for an open page to be told that its token ended, before its socket is closed
_PAGE_CSP = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; font-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Visit:
    """Whose page this is: what it may see, the token's text, and the language."""

    grant: Grant
    token: str
    language: str


@dataclass(frozen=True, slots=True)
class Path:
    """Where a page is, and by which route of the access table it is allowed."""

    template: str
    route: str

    def matches(self, path: str) -> bool:
        """Whether a request's path is of this page."""
        return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", self.template), path) is not None


class Door:
    """ASGI application before NiceGUI's `app`."""

    def __init__(self, app: ASGIApp, web: Web, paths: list[Path]) -> None:
        """Let pass to `app` what is for one of these paths."""
        self._app, self._web, self._paths = app, web, paths

    def page(self, path: str) -> Path | None:
        """The page at a path; None if there is none."""
        return next((page for page in self._paths if page.matches(path)), None)

    def takes(self, scope: Scope) -> bool:
        """Whether a request is for here; all others are the API's."""
        path = scope["path"]
        if scope["type"] == "websocket":
            return bool(path.startswith(SOCKET))
        return scope["type"] == "http" and (path.startswith(FILES) or self.page(path) is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        prefix = b"x-forwarded-prefix"  # it would go into the page, and anybody can send one
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != prefix]
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["path"].startswith(FILES):
            await self._app(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        token, language = cookie(headers, TOKEN_COOKIE), language_of(headers)
        page = self.page(scope["path"])
        assert page is not None
        try:
            _check_method(scope)
            grant = await run_in_threadpool(admit, self._web, token, page.route, address(scope))
            self._check_room(grant.token.id)
        except Refused as refusal:
            await _refuse(refusal, scope, language)(scope, receive, send)
            return
        scope[VISIT] = Visit(grant, token, language)
        await _with_nonce(self._app, scope, receive, send)

    def _check_room(self, token: str) -> None:
        """Refused (429) if the page's socket would be: better told than a page that stays still."""
        with self._web.stream_of(token):
            pass

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        token = cookie(headers, TOKEN_COOKIE)
        try:
            _check_source(scope, headers, token)
            grant = await run_in_threadpool(admit, self._web, token, "live", address(scope))
            opened = self._web.stream_of(grant.token.id)
            with opened:
                self._web.metrics.streams.inc()
                try:
                    await _Socket(self._app, self._web, token).serve(scope, receive, send)
                finally:
                    self._web.metrics.streams.dec()
        except Refused:
            await receive()
            await send({"type": "websocket.close", "code": 1008})


def _check_method(scope: Scope) -> None:
    if scope["method"] not in {"GET", "HEAD"}:
        raise Refused(405, "method", "pages are only read")


def _check_source(scope: Scope, headers: Headers, token: str) -> None:
    if not is_own(headers):
        raise Refused(403, "origin", "a page of another server asked")
    if not _shown_to(scope, token):
        raise Refused(403, "page", "the page was shown to another token")


def _shown_to(scope: Scope, token: str) -> bool:
    """Whether the page that this socket names was shown to the same token.

    One that is not there any more is let pass: NiceGUI then has the browser load it again.
    """
    found = re.search(rb"(?:^|&)client_id=([0-9a-f-]{36})(?:&|$)", scope["query_string"])
    if found is None:
        return False
    client = Client.instances.get(found[1].decode())
    return client is None or client.request.scope[VISIT].token == token


class _Socket:
    """One socket: bounded messages at a bounded rate, for as long as its token is good."""

    def __init__(self, app: ASGIApp, web: Web, token: str) -> None:
        self._app, self._web, self._token = app, web, token
        self._credit, self._counted_s = float(MESSAGES_PER_S), time.monotonic()
        self._ended = asyncio.Event()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        checking = asyncio.create_task(self._check())
        try:
            await self._app(scope, self._next, send)
        finally:
            checking.cancel()

    async def _check(self) -> None:
        """Until the token is good no more: then tell the pages, and let the socket end."""
        while await run_in_threadpool(self._web.is_good, self._token):  # noqa: ASYNC110 - nobody tells of a revocation
            await asyncio.sleep(self._web.config.beat_s)
        for client in _pages_of(self._token):
            client.open("/sign-in?ended=1")
        await asyncio.sleep(GOODBYE_S)
        self._ended.set()

    async def _next(self) -> Message:
        receiving, ending = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({receiving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                return {"type": "websocket.disconnect", "code": 1008}
            message: Message = receiving.result()
        finally:
            receiving.cancel()
            ending.cancel()
        if len(message.get("bytes") or message.get("text") or "") > MAX_MESSAGE_BYTES:
            return {"type": "websocket.disconnect", "code": 1009}
        await self._pace()
        return message

    async def _pace(self) -> None:
        now_s = time.monotonic()
        self._credit = min(self._credit + (now_s - self._counted_s) * MESSAGES_PER_S, MESSAGES_PER_S) - 1
        self._counted_s = now_s
        if self._credit < 0:
            await asyncio.sleep(-self._credit / MESSAGES_PER_S)


def _pages_of(token: str) -> list[Client]:
    visits = [(client, client.request.scope.get(VISIT)) for client in Client.instances.values()]
    return [client for client, visit in visits if visit is not None and visit.token == token]


def load_again(token: str) -> None:
    """Have every open page of a token be loaded again, by which whoever signed out is asked to sign in."""
    for client in _pages_of(token):
        client.run_javascript("location.reload()")


def cookie(headers: Headers, name: str) -> str:
    """The value of a cookie; empty if there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def language_of(headers: Headers) -> str:
    """The language somebody chose, else what the browser prefers."""
    chosen = cookie(headers, LANGUAGE_COOKIE)
    return chosen if chosen in words.LANGUAGES else words.preferred(headers.get("accept-language", ""))


def address(scope: Scope) -> str:
    """What a caller's address is counted by."""
    client = scope.get("client")
    return RateLimit.address(client[0] if client else "")


def is_own(headers: Headers) -> bool:
    """Whether a page of this very server asked: its Origin names the host the request is for."""
    return urlsplit(headers.get("origin", "")).netloc == headers.get("host", "-")


def _refuse(refusal: Refused, scope: Scope, language: str) -> Response:
    if refusal.status == 401:
        return RedirectResponse(f"/sign-in?to={quote(scope['path'])}", 303)
    return plain.told(language, refusal)


async def _with_nonce(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a page whose own scripts carry a nonce. Values in it have no `<`: NiceGUI writes them as entities."""
    parts: list[bytes] = []
    start: Message = {}

    async def gather(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        nonce = secrets.token_urlsafe(16)
        body = b"".join(parts).replace(b"<script", b'<script nonce="%s"' % nonce.encode())
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-security-policy"] = _PAGE_CSP.format(nonce=nonce)
        headers["content-length"] = str(len(body))
        headers["referrer-policy"] = "same-origin"
        headers["vary"] = "Cookie, Accept-Language"
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})

    await app(scope, receive, gather)
