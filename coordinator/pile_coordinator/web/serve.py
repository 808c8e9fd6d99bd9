"""Runs the server, in a process of its own: however much it is asked, no block waits for it."""

import uvicorn
from prometheus_client import start_http_server

from pile_coordinator.web.app import make_app
from pile_coordinator.web.config import WebConfig
from pile_coordinator.web.gate import MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, MAX_TARGET_BYTES
from pile_shared.errors import ConfigError

MAX_CONNECTIONS = 1000  # at once, streams among them; further ones are told 503
KEEP_ALIVE_S = 20
GOODBYE_S = 5  # for open answers when the server ends; live streams are cut then


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
