"""Serves the driver's page from the wallet's process, on this machine or in the network of a home."""

import io
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import segno
import uvicorn
from fastapi import FastAPI, Request
from nicegui import app as nicegui_app
from nicegui import core, ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from pile_coordinator.dashboard import theme, words
from pile_coordinator.dashboard.door import LANGUAGE_COOKIE, language_of
from pile_coordinator.driver import devices_page, home_page, new_page, order_page
from pile_coordinator.driver.frame import frame
from pile_coordinator.driver.gate import DOWNLOAD, Gate, Place
from pile_coordinator.driver.pairing import Pairing
from pile_coordinator.driver.receipt_card import file_name
from pile_coordinator.driver.session import Clerk, Driver
from pile_coordinator.driver.view import Desk, View
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.units import check_bytes

RECONNECT_S = 20  # that a page is kept for a phone that slept
GOODBYE_S = 2  # for open pages when the process is told to end
GZIP_LEVEL = 4
MAX_CONNECTIONS = 64  # a few browsers, each with a socket and some files at once
MAX_MESSAGE_BYTES = 65_536  # of a web socket, from a browser
MAX_HEAD_BYTES = 20_000
LANGUAGE_S = 31_536_000
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to serve: an address of this machine, a port, names it may be asked under besides, and a certificate for TLS."""

    address: str = "127.0.0.1"
    port: int = 8420
    names: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def place(self) -> Place:
        """What browsers may call it; ConfigError if it must not be served like this."""
        try:
            address = ipaddress.ip_address(self.address)
        except ValueError as error:
            raise ConfigError(
                f"--listen {self.address}: expected an address of this machine, like 192.168.1.5"
            ) from error
        if address.is_unspecified:
            raise ConfigError("--listen: name one address of this machine, like 192.168.1.5, not all of them")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key belong together")
        if not address.is_private and self.tls_cert is None:
            raise ConfigError(
                f"--listen {self.address} is not in a home's network; that needs --tls-cert and --tls-key"
            )
        own = f"[{address}]" if address.version == 6 else str(address)
        local = ("localhost",) if address.is_loopback else ()
        scheme = "https" if self.tls_cert else "http"
        return Place(scheme, (*self.names, own, *local), self.port)


def serve(driver: Driver, listen: Listen, pairing: Pairing, announce: Callable[[str, str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `announce(url, code)` tells the code to pair with, and every new one.

    Raises:
        ConfigError: it cannot listen there.
    """
    place = listen.place()
    desk = Desk(Clerk(driver), place, pairing)
    app = GZipMiddleware(Gate(_application(desk), place, pairing), minimum_size=1000, compresslevel=GZIP_LEVEL)
    config = uvicorn.Config(
        app,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        http="h11",
        limit_concurrency=MAX_CONNECTIONS,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GOODBYE_S,
        ws_max_size=MAX_MESSAGE_BYTES,
        ssl_certfile=listen.tls_cert,
        ssl_keyfile=listen.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # the certificate; ssl's own errors are OSErrors too
        raise ConfigError(f"--tls-cert, --tls-key: {error}") from error
    sock = _bound(listen)
    announce(place.url, pairing.new_code())
    if sys.stdin.isatty():
        threading.Thread(target=_new_codes, args=(place, pairing, announce), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[sock])
    finally:
        sock.close()
        desk.clerk.close()


def _bound(listen: Listen) -> socket.socket:
    """The listening socket, so that a port that is taken is told before a code is."""
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((listen.address, listen.port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"cannot listen on {listen.address}:{listen.port} ({error.strerror}); choose --port"
        ) from error
    sock.listen()  # who is quick waits for the first answer, and is not refused
    return sock


def _new_codes(place: Place, pairing: Pairing, announce: Callable[[str, str], None]) -> None:
    """A new code for every line from the terminal."""
    for _ in sys.stdin:
        announce(place.url, pairing.new_code())


def pairing_url(url: str, code: str) -> str:
    """What a QR code says: the code stands behind the #, which browsers keep to themselves."""
    return f"{url}/pair#{code}"


def terminal_qr(text: str) -> str:
    """A QR code in half blocks, for a terminal."""
    out = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out, compact=True, border=2)
    return out.getvalue()


# --- the application -----------------------------------------------------------------------------------------------------


def _application(desk: Desk) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_pages(desk)
    _add_routes(app, desk)
    core.app.config.socket_io_js_transports = ["websocket"]
    ui.run_with(
        app,
        title="Pilechain",
        favicon=theme.FAVICON,
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_S,
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    nicegui_app.on_exception(lambda error: sys.stderr.write(f"pilechain: the page: {error!r}\n"))
    return app


def _view(desk: Desk, request: Request) -> View:
    client = ui.context.client
    return View(desk, language_of(request.headers), client)


def _add_pages(desk: Desk) -> None:
    @ui.page("/")
    def home(request: Request) -> None:
        view = _view(desk, request)
        frame(view, "/", "")
        home_page.show(view)

    @ui.page("/new", response_timeout=20)
    async def new(request: Request) -> None:
        view = _view(desk, request)
        frame(view, "/new", view.text("new"))
        await new_page.show(view)

    @ui.page("/devices")
    def devices(request: Request) -> None:
        view = _view(desk, request)
        frame(view, "/devices", view.text("pair_another"))
        devices_page.show(view)

    @ui.page("/order/{order}")
    def order(request: Request, order: str) -> None:
        view = _view(desk, request)
        frame(view, f"/order/{order}", "")
        found = _order(order)
        if found is None:
            ui.label(view.text("error.unknown_order")).classes("pc-banner")
        else:
            order_page.show(view, found)


def _order(text: str) -> bytes | None:
    try:
        return check_bytes("order", bytes.fromhex(text), _HASH_BYTES, _HASH_BYTES)
    except (ValueError, PilechainError):
        return None


def _add_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/order/{order}" + DOWNLOAD)
    async def certificate(order: str) -> Response:
        """The certificate, once it was verified here; nothing that does not hold is handed out."""
        contract = _order(order)
        if contract is None:
            return PlainTextResponse("no such order", 404)
        try:
            proven = await desk.clerk.look(desk.clerk.driver.proven, contract)
        except PilechainError as error:
            return PlainTextResponse(f"{error.code}: {error}", 503 if error.code == "link" else 404)
        named = f'attachment; filename="{file_name(contract)}"'
        return Response(
            proven.data,
            media_type="application/cbor",
            headers={"Content-Disposition": named, "Cache-Control": "no-store"},
        )

    @app.get("/language/{code}")
    async def language(code: str, to: str = "/") -> Response:
        is_ours = to in {"/", "/new", "/devices"} or (to.startswith("/order/") and _order(to[7:]) is not None)
        answer = RedirectResponse(to if is_ours else "/", 303)
        if code in words.LANGUAGES:
            secure = desk.place.scheme == "https"
            answer.set_cookie(
                LANGUAGE_COOKIE, code, max_age=LANGUAGE_S, httponly=True, samesite="strict", secure=secure
            )
        return answer


__all__ = ["Listen", "pairing_url", "serve", "terminal_qr"]
