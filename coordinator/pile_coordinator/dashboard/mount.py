"""Puts the dashboard into the server's application. NiceGUI has one application in a process, so this is done once."""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from nicegui import core, ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Receive, Scope, Send

from pile_coordinator.dashboard import pages, shell, theme
from pile_coordinator.dashboard.board import Board
from pile_coordinator.dashboard.door import Door
from pile_coordinator.dashboard.downloads import Downloads
from pile_coordinator.dashboard.files import Files
from pile_coordinator.dashboard.signing import router
from pile_coordinator.web.gate import FILES
from pile_coordinator.web.shared import Web

RECONNECT_S = 20  # that a page is kept for a phone that slept or changed its network
GZIP_LEVEL = 4  # of pages, which are made anew for everybody


def add_dashboard(app: FastAPI) -> None:
    """Serve the dashboard at /, beside the API of `app`, from when it starts."""
    web = _web(app)
    board = Board(web.reading, web.watch, web.config)
    for name in pages.MODULES:
        importlib.import_module(f"{pages.__name__}.{name}")
    shell.serve_with(web, board)
    core.app.config.socket_io_js_transports = ["websocket"]  # the door knows what it means when one of these opens
    core.app.config.quasar_config["brand"] = {"primary": theme.BLUE, "negative": theme.VERMILLION}
    ui.run_with(
        app,
        title="Pilechain",
        favicon=theme.FAVICON,
        dark=None,
        tailwind=False,
        reconnect_timeout=RECONNECT_S,
        binding_refresh_interval=None,
        gzip_middleware_factory=None,
        show_welcome_message=False,
    )
    mounted = app.router.routes.pop()  # it would take everything, refusals of the API too
    assert isinstance(mounted, Mount)
    door = Door(core.app, web, shell.paths())
    app.include_router(router(web, door))
    app.router.routes.append(Downloads(app))
    app.router.routes.append(_Way(door))
    _run_beside(app, board)


def _web(app: FastAPI) -> Web:
    assert isinstance(app.state.web, Web)
    return app.state.web


class _Way(BaseRoute):
    """The route of all that the door takes."""

    name = "dashboard"

    def __init__(self, door: Door) -> None:
        self._door = door
        self._zipped = GZipMiddleware(door, minimum_size=1000, compresslevel=GZIP_LEVEL)
        self._files = Files(door)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL, {"route": self}) if self._door.takes(scope) else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_file = scope["type"] == "http" and scope["path"].startswith(FILES)
        await (self._files if is_file else self._zipped)(scope, receive, send)


def _run_beside(app: FastAPI, board: Board) -> None:
    """Run the board for as long as the application runs."""
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: FastAPI) -> AsyncIterator[Any]:
        async with inner(served) as state:
            running = asyncio.create_task(board.run())
            running.add_done_callback(_tell)
            yield state
            running.cancel()

    app.router.lifespan_context = lifespan


def _tell(ended: asyncio.Task[None]) -> None:
    """Log why the board stopped; every page has a banner from then on."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        logging.getLogger("uvicorn.error").error("the dashboard follows the chain no more", exc_info=error)
