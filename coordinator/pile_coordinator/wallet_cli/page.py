"""`pilechain wallet page`: the driver's page in a browser, served by this process, which keeps the key."""

import argparse
import json
import sys
from pathlib import Path

from pile_coordinator.config import load_genesis
from pile_coordinator.keys import load_key
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli.action import Action
from pile_shared.errors import ConfigError
from pile_shared.units import check_int

DEFAULT_PORT = 8420
_MISSING = "the page needs more packages: pip install 'pilechain[web]'"
_PLAIN = "without TLS whoever can listen in this network reads what the page shows, and may take over its cookie"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="of this machine, like 192.168.1.5, for a phone in the same network (default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--name", action="append", default=[], metavar="HOST", help="a host name that browsers may use as well"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve https with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="and its key")
    parser.add_argument(
        "--old-key", type=Path, metavar="FILE", help="your key before the last change, for its contracts"
    )
    parser.add_argument("--forget-devices", action="store_true", help="unpair all browsers before it begins")


def _page(wallet: Wallet, options: argparse.Namespace) -> object:
    try:
        from pile_coordinator.driver import serve  # noqa: PLC0415 - only who serves needs its packages
        from pile_coordinator.driver.pairing import Pairing  # noqa: PLC0415
        from pile_coordinator.driver.session import Driver  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; {_MISSING}") from error
    port = check_int("--port", options.port, 1, 65_535)
    listen = serve.Listen(options.listen, port, tuple(options.name), options.tls_cert, options.tls_key)
    pairing = Pairing(devices_file(options.key))
    if options.forget_devices:
        pairing.forget()
    old = load_key(options.old_key) if options.old_key else None

    def announce(url: str, code: str) -> None:
        if options.json:
            sys.stdout.write(json.dumps({"url": url, "code": code}) + "\n")
        else:
            _tell(url, code, serve.terminal_qr(serve.pairing_url(url, code)))
        sys.stdout.flush()

    serve.serve(Driver(wallet, load_genesis(options.genesis), old=old), listen, pairing, announce)
    return {"served": listen.place().url}


def _tell(url: str, code: str, qr: str) -> None:
    sys.stdout.write(f"{qr}\n{url}\n\nPair a browser once: scan this, or open {url} and type the code  {code}\n")
    sys.stdout.write("It is good for ten minutes and for one browser. Enter makes another; Ctrl-C ends the page.\n")
    if url.startswith("http:") and "//127.0.0.1" not in url and "//localhost" not in url:
        sys.stdout.write(f"Note: {_PLAIN} (docs/wallet.md).\n")


def devices_file(key: Path) -> Path:
    """Where paired browsers are remembered: dan.devices beside dan.key."""
    return key.with_suffix(".devices")


ACTIONS = (
    Action(
        "page",
        "Serve the driver's page to a browser or phone: quote, order, charge, confirm, receipt. The key stays here.",
        _page,
        _arguments,
        "page --listen 192.168.1.5",
    ),
)
