"""Runs the server, in a process of its own: however much it is asked, no block waits for it."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import uvicorn
from prometheus_client import start_http_server

from pile_coordinator.log_line import log
from pile_coordinator.web.app import make_app
from pile_coordinator.web.config import WebConfig
from pile_coordinator.web.gate import MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, MAX_TARGET_BYTES
from pile_shared.errors import ConfigError

MAX_CONNECTIONS = 1000  # at once, streams among them; further ones are told 503
KEEP_ALIVE_S = 20
GOODBYE_S = 5  # for open answers when the server ends; live streams are cut then
EVIDENCE_S = 300.0  # so long may a coordinator that was started at the same time take until there is evidence
_LOOK_S = 0.2


def wait_for_evidence(config: WebConfig, timeout_s: float = EVIDENCE_S) -> None:
    """Return once the coordinator has made its evidence file, or at once if the evidence is in a database server.

    A site's services start in any order, and before its first start a coordinator has no evidence.

    Raises:
        ConfigError: there was none in time.
    """
    if "://" in config.database:
        return  # the server may be asked at any time
    path = config.base / config.database
    if _has_evidence(path):
        return
    log(f"waiting up to {timeout_s:g} s for {path}: the coordinator makes it when it starts")
    until_s, pause = time.monotonic() + timeout_s, threading.Event()
    while not _has_evidence(path):
        if time.monotonic() > until_s:
            raise ConfigError(f"{path} is not there; a coordinator writes it: evidence.sqlite of its data folder")
        pause.wait(_LOOK_S)
    log("the evidence is there")


def _has_evidence(path: Path) -> bool:
    """Whether the file holds a whole schema, which is what its revision, written last, stands for."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return db.execute("SELECT version_num FROM alembic_version").fetchone() is not None
    except sqlite3.Error:
        return False  # half made


def serve(config: WebConfig) -> None:
    """Serve until SIGTERM or Ctrl-C; ConfigError if something cannot be opened."""
    app = make_app(config)
    if config.dashboard.serve:
        from pile_coordinator.dashboard.mount import add_dashboard  # noqa: PLC0415 - NiceGUI takes a second to load

        add_dashboard(app)
    if config.metrics_port:
        try:
            start_http_server(config.metrics_port, config.metrics_listen, app.state.web.metrics.registry)
        except OSError as error:
            place = f"{config.metrics_listen}:{config.metrics_port}"
            raise ConfigError(f"metrics cannot be served at {place} ({error.strerror}); is the port taken?") from error
    uvicorn.run(
        app,
        host=config.listen,
        port=config.port,
        http="h11",  # it bounds the head of a request; httptools does not
        h11_max_incomplete_event_size=MAX_HEAD_BYTES + MAX_TARGET_BYTES,  # what came whole the gate measures
        ws_max_size=MAX_MESSAGE_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GOODBYE_S,
        proxy_headers=bool(config.proxy),
        forwarded_allow_ips=config.proxy or None,
        server_header=False,
        access_log=False,
        log_level="warning",
    )
