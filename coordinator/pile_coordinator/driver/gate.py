"""Stands before the page: who asks under a foreign name, from a foreign page or without a paired device learns nothing.

- Host must be one that the page listens under: a foreign name that resolves to this machine (DNS rebinding) is refused.
- Origin, where a browser sends one, must be the page's own; a websocket and a POST must bring it. With the cookie's
  SameSite=Strict no other site acts in a driver's name (OWASP, "Cross-Site Request Forgery Prevention").
- Without the cookie of a paired device there is the pairing page, and nothing else: no name, no word of a chain, no file.

Cookies do not tell ports apart (RFC 6265, section 8.5): other servers on this machine see the cookie of who visits them too.
"""

import html
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pile_coordinator.dashboard import words
from pile_coordinator.dashboard.door import language_of, with_nonce
from pile_coordinator.driver.pairing import DEVICE_S, Pairing, PairingError

PAIR_PATH = "/pair"
DOWNLOAD = "/certificate"  # how the paths of files end that a browser keeps
HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer browsers say Origin: null
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""Sent with every answer that does not set its own."""
_FILES = "/_nicegui/"
_PREFIX = b"x-forwarded-prefix"  # NiceGUI would write it into the page, and anybody can send one
MAX_FORM_BYTES = 512
MAX_COOKIE_BYTES = 4096
_DEFAULT_PORT = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is served: `scheme` http or https, `names` it may be asked under, `port`."""

    scheme: str
    names: tuple[str, ...]
    port: int

    @property
    def hosts(self) -> frozenset[str]:
        """What a Host header may say."""
        bare = self.names if self.port == _DEFAULT_PORT[self.scheme] else ()
        return frozenset((*bare, *(f"{name}:{self.port}" for name in self.names)))

    @property
    def origins(self) -> frozenset[str]:
        """What an Origin header may say."""
        return frozenset(f"{self.scheme}://{host}" for host in self.hosts)

    @property
    def url(self) -> str:
        """Of the page, under its first name."""
        return f"{self.scheme}://{self.names[0]}:{self.port}"

    @property
    def cookie(self) -> str:
        """Its name: two pages on one machine keep apart by it."""
        return f"pilechain_page_{self.port}"


class Gate:
    """ASGI middleware around the whole page."""

    def __init__(self, app: ASGIApp, place: Place, pairing: Pairing) -> None:
        """Stand before `app`, which is served at `place`."""
        self._app, self._place, self._pairing = app, place, pairing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request or websocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _PREFIX]
        headers = _headers(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message.get("headers", [])}
                more = [header for header in HEADERS if header[0] not in own]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        if not self._is_ours(scope, headers):
            await _refuse(scope, receive, guarded, 421, "This page does not answer under this name.")
        elif scope["type"] == "http" and scope["path"] == PAIR_PATH:
            await (await self._pairing_page(scope, receive))(scope, receive, guarded)
        elif self._pairing.knows(self._token(headers)):
            await self._pass(scope, receive, guarded)
        elif scope["type"] == "http" and "text/html" in headers.get("accept", ""):
            await RedirectResponse(PAIR_PATH, 303, {"Cache-Control": "no-store"})(scope, receive, guarded)
        else:
            await _refuse(scope, receive, guarded, 403, "Pair this browser first.")

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To the page; what is shown has scripts with a nonce, and what is loaded or downloaded runs none."""
        is_file = scope["path"].startswith(_FILES) or scope["path"].endswith(DOWNLOAD)
        if scope["type"] == "websocket":
            token = self._token(_headers(scope))

            async def still_paired() -> Message:
                message = await receive()  # a page says something every half minute at least
                return message if self._pairing.knows(token) else {"type": "websocket.disconnect", "code": 1008}

            await self._app(scope, still_paired, send)
        elif is_file:
            await self._app(scope, receive, send)
        else:
            await with_nonce(self._app, scope, receive, send)

    def _is_ours(self, scope: Scope, headers: dict[str, str]) -> bool:
        origin = headers.get("origin")
        must = scope["type"] == "websocket" or scope["method"] not in {"GET", "HEAD"}
        if origin is None and must:
            return False
        return headers.get("host", "").lower() in self._place.hosts and origin in {None, *self._place.origins}

    def _token(self, headers: dict[str, str]) -> str:
        try:
            cookies = SimpleCookie(headers.get("cookie", "")[:MAX_COOKIE_BYTES])
        except CookieError:
            return ""
        found = cookies.get(self._place.cookie)
        return found.value if found else ""

    # --- pairing -----------------------------------------------------------------------------------------------------

    async def _pairing_page(self, scope: Scope, receive: Receive) -> Response:
        language = language_of(Headers(scope=scope))
        if scope["method"] == "GET":
            return _page(language)
        if scope["method"] != "POST":
            return PlainTextResponse("GET or POST", 405)
        try:
            form = parse_qs((await _body(receive)).decode("ascii", "replace"), max_num_fields=4)
            token = self._pairing.pair(form.get("code", [""])[0])
        except ValueError:  # more fields than our form has
            return PlainTextResponse("not the form of this page", 400)
        except PairingError as error:
            return _page(language, f"driver.pair_{error.code}", 429 if error.code == "wait" else 403)
        answer = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
        is_secure = self._place.scheme == "https"
        answer.set_cookie(
            self._place.cookie, token, max_age=DEVICE_S, httponly=True, samesite="strict", secure=is_secure
        )
        return answer


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name; of what is sent twice all, so that it equals nothing that is allowed."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def _body(receive: Receive) -> bytes:
    """The first MAX_FORM_BYTES: a code has ten."""
    taken = b""
    while len(taken) <= MAX_FORM_BYTES:
        message = await receive()
        taken += message.get("body", b"")
        if not message.get("more_body"):
            break
    return taken[:MAX_FORM_BYTES]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # its connect, without which nothing may be answered
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse(text, status, {"Cache-Control": "no-store"})(scope, receive, send)


# --- the page before the page: it names nobody, and needs nothing but itself ----------------------------------------------

_PAGE = """<!doctype html><html lang="{lang}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex"><title>{title}</title>
<link rel="icon" href="data:,"><style>
:root{{color-scheme:light dark}}
body{{font:17px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;
margin:0;display:grid;min-height:100vh;place-items:center;background:Canvas;color:CanvasText}}
main{{width:min(22rem,calc(100vw - 3rem))}}h1{{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}}
label{{display:block;font-size:.875rem;margin:1.25rem 0 .25rem}}
input{{box-sizing:border-box;width:100%;font:1.4rem ui-monospace,Menlo,Consolas,monospace;letter-spacing:.08em;
padding:.6rem .75rem;text-transform:uppercase;border:1px solid #8b949e;border-radius:10px}}
button{{width:100%;min-height:3rem;margin-top:1rem;font:inherit;font-weight:600;border:0;border-radius:10px;background:#005a8e;
color:#fff}}
p[role=alert]{{color:#b04a00;background:#fff1e5;border:1px solid;border-radius:10px;padding:.6rem .75rem;font-weight:600}}
</style></head><body><main><h1>{title}</h1><p>{say}</p>{alert}
<form method="post" action="/pair"><label for="code">{code}</label><input id="code" name="code" autocomplete="one-time-code"
autocapitalize="characters" spellcheck="false" maxlength="24" required autofocus placeholder="XXXXX-XXXXX">
<button>{do}</button></form>
<script nonce="{nonce}">const take=()=>{{if(location.hash.length>1){{
document.getElementById("code").value=location.hash.slice(1,25);history.replaceState(null,"",location.pathname)}}}};take();addEventListener("hashchange",take)</script></main></body></html>"""
_PAGE_CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)


def _page(language: str, told: str = "", status: int = 200) -> Response:
    """The code may come behind the # of the address, which browsers send to nobody. `told` is the key of an alert."""
    say = {name: html.escape(words.text(language, f"driver.pair_{name}")) for name in ("title", "say", "code", "do")}
    shown = f'<p role="alert">{html.escape(words.text(language, told))}</p>' if told else ""
    nonce = secrets.token_urlsafe(16)
    text = _PAGE.format(lang=words.TAGS[language], alert=shown, nonce=nonce, **say)
    return HTMLResponse(
        text, status, {"Cache-Control": "no-store", "Content-Security-Policy": _PAGE_CSP.format(nonce=nonce)}
    )
