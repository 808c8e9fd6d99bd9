"""`pilechain web`: serve the HTTP API and the dashboard, and make, list and revoke the tokens it takes."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pile_coordinator.chain.records import ROLES
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.tokens import Tokens
from pile_shared.errors import ConfigError

_WEB = """\
Serve the evidence database over HTTP, in a process of its own: the dashboard for people at /, the API that /openapi.json
describes, live blocks and prices, and metrics. It listens where web.toml says, on 127.0.0.1 if it says nothing; for others
put a proxy with TLS before it."""
_MISSING = "the HTTP API needs more packages: pip install 'pilechain[web]'"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `web` to `pilechain`."""
    web = commands.add_parser(
        "web",
        help="serve the dashboard and the HTTP API; make tokens for them",
        description=_WEB,
        epilog="Examples: pilechain web token add olga --role pile-owner --config web.toml\n"
        "          pilechain web --config web.toml   (docs/api.md and docs/dashboard.md explain every key)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config(web, required=False)
    web.set_defaults(run=_serve)
    actions = web.add_subparsers(metavar="ACTION")
    token = actions.add_parser("token", help="make, list and revoke tokens")
    kinds = token.add_subparsers(required=True, metavar="ACTION")
    _add_add(kinds)
    listing = kinds.add_parser("list", help="every token there is or was, without its secret")
    _add_config(listing)
    listing.add_argument("--json", action="store_true", help="one JSON array")
    listing.set_defaults(run=_list)
    revoke = kinds.add_parser("revoke", help="end a token, from the next request on")
    revoke.add_argument("token", metavar="ID", help="its id, as in the list: 12 hex digits")
    _add_config(revoke)
    revoke.set_defaults(run=_revoke)


def _add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--config", type=Path, required=required, metavar="FILE", help="the server's TOML file")


def _add_add(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    add = kinds.add_parser(
        "add",
        help="make a token; it is shown once",
        description="Make a token and print it. Only its hash is stored: who loses a token gets another.",
        epilog="Example: pilechain web token add olga --role pile-owner --days 30 --config web.toml",
    )
    add.add_argument("party", help="whose it is; it sees this party's own")
    add.add_argument("--role", required=True, choices=ROLES, help="what else it may see (docs/api.md)")
    add.add_argument("--days", type=int, default=90, metavar="N", help="good for so long, 1 to 3650 (default: 90)")
    add.add_argument("--note", default="", metavar="TEXT", help="what it is for, at most 100 characters")
    _add_config(add)
    add.add_argument("--json", action="store_true", help="one JSON object")
    add.set_defaults(run=_add)


def _serve(options: argparse.Namespace) -> int:
    if options.config is None:
        raise ConfigError("pilechain web needs --config FILE; docs/api.md has one to begin with")
    try:
        from pile_coordinator.web.serve import serve, wait_for_evidence  # noqa: PLC0415 - only who serves needs its packages
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; {_MISSING}") from error
    config = load_web_config(options.config)
    wait_for_evidence(config)
    host = f"[{config.listen}]" if ":" in config.listen else config.listen
    where = f"http://{host}:{config.port}"
    what = f"the dashboard at {where}/ and the API at" if config.dashboard.serve else "the API at"
    Console(stderr=True, highlight=False).print(f"serving {what} {where}/openapi.json; Ctrl-C ends it", soft_wrap=True)
    serve(config)
    return 0


def _tokens(options: argparse.Namespace, *, read_only: bool) -> Tokens:
    return Tokens(load_web_config(options.config).tokens, read_only=read_only)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _add(options: argparse.Namespace) -> int:
    tokens = _tokens(options, read_only=False)
    text = tokens.add(options.party, options.role, now_ms=_now_ms(), days=options.days, note=options.note)
    if options.json:
        print(json.dumps({"token": text, "party": options.party, "role": options.role, "days": options.days}))
    else:
        print(text)
        Console(stderr=True, highlight=False).print("shown once; use it as: Authorization: Bearer <token>")
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = _tokens(options, read_only=True).all()
    if options.json:
        names = ("id", "party", "role", "made_ms", "expires_ms", "revoked_ms", "note")
        print(json.dumps([{name: getattr(row, name) for name in names} for row in rows]))
        return 0
    table = Table("id", "party", "role", "state", "until", "note", box=None, pad_edge=False)
    for row in rows:
        state = "revoked" if row.revoked_ms else "expired" if _now_ms() >= row.expires_ms else "good"
        until = datetime.fromtimestamp(row.expires_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        table.add_row(row.id, row.party, row.role, state, until, row.note)
    Console(highlight=False, markup=False).print(table)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    _tokens(options, read_only=False).revoke(options.token, _now_ms())
    print(f"{options.token} is revoked")
    return 0
