"""An MQTT broker without installing one: amqtt in a process of its own, for the demo and small rigs.

    python -m pile_hil.embedded_broker --port 1883

It listens on 127.0.0.1 only, keeps nothing on disk, and lets everybody in. A site uses mosquitto with certificates.
"""

import argparse
import asyncio
import logging
import signal
import sys

from amqtt.broker import Broker

_PLUGINS = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


async def serve(port: int) -> None:
    """Run until SIGTERM or SIGINT; prints one line when connections are accepted."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 200}}
    broker = Broker({"listeners": listeners, "plugins": _PLUGINS})
    await broker.start()
    print("ready", flush=True)
    await stopped.wait()
    await broker.shutdown()


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="An MQTT broker on loopback, for demos and rigs.")
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
