"""web.toml: what `pilechain web` needs. TOML in, checked values out; every mistake names file, key and expected form."""

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.config import Section, load_genesis, load_toml
from pile_coordinator.evidence.calendar import find_zone
from pile_coordinator.evidence.piles import SILENT_MS
from pile_coordinator.exports.operator import Operator, load_operator

PORT = 8410


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Paths are absolute.

    Attributes:
        database: a path, or a URL of SQLAlchemy. ledger, genesis: for certificates; None: none are made. tokens: their file.
        listen, port: where to serve. proxy: the address of a reverse proxy whose X-Forwarded-For is believed, "" for none.
        metrics_listen, metrics_port: where /metrics is served without a token; port 0: nowhere but with a token.
        zone: the operator's time zone, of all times the dashboard shows and of periods where a request names none.
        operator: for charge detail records, or None. ocmf: the folder of copies of piles' OCMF records, or None.
        silent_after_s: without a proof of a pile that should send some, until it is called silent, seconds.
        per_minute, burst: requests of one token or address. streams, streams_each: live at once, of all and of one token.
        dashboard: what is shown to people.
        beat_s: between two signs of life of a live stream, seconds. stall_s: how long one may not be read, seconds.
    """

    base: Path
    database: str
    ledger: Path | None
    genesis: Genesis | None
    tokens: Path
    listen: str
    port: int
    proxy: str
    metrics_listen: str
    metrics_port: int
    zone: ZoneInfo
    operator: Operator | None
    ocmf: Path | None
    silent_after_s: int
    per_minute: int
    burst: int
    streams: int
    streams_each: int
    beat_s: int
    stall_s: int
    dashboard: "DashboardConfig"


@dataclass(frozen=True, slots=True)
class DashboardConfig:
    """What the dashboard of a server is like.

    Attributes:
        serve: whether there is one.
        still_after_s: without a block, until a banner says so, seconds.
    """

    serve: bool
    still_after_s: int


def load_web_config(path: Path) -> WebConfig:
    """The configuration; ConfigError naming file, key and expected form."""
    path = path.resolve()
    top, base = Section(path, "", load_toml(path)), path.parent
    a_port = "a port from 1 to 65535"
    database = top.take("database", str, "the path of evidence.sqlite, or a database URL")
    ledger = top.take("ledger", str, "the path of ledger.sqlite", default="")
    genesis = top.take("genesis", str, "the path of a genesis file", default=None if ledger else "")
    tokens = base / top.take("tokens", str, "the path of the file of tokens", default="web-tokens.sqlite")
    listen = top.take("listen", str, "an address", default="127.0.0.1", ok=bool)
    port = top.take("port", int, a_port, default=PORT, ok=lambda v: 1 <= v <= 65_535)
    proxy = top.take("proxy", str, "the address of a reverse proxy", default="")
    zone = find_zone(top.take("time_zone", str, "an IANA name such as Europe/Berlin", default="UTC"))
    operator = top.take("operator", str, "the path of an operator's file", default="")
    ocmf = top.take("ocmf", str, "the path of the folder of OCMF records", default="")
    silent_after_s = _number(top, "silent_after_s", SILENT_MS // 1000, 604_800)
    metrics = top.section("metrics", required=False)
    metrics_listen = metrics.take("listen", str, "an address", default="127.0.0.1", ok=bool)
    metrics_port = metrics.take("port", int, a_port + ", or 0 for none", default=0, ok=lambda v: 0 <= v <= 65_535)
    metrics.end()
    limits = top.section("limits", required=False)
    config = WebConfig(
        base,
        database,
        base / ledger if ledger else None,
        load_genesis(base / genesis) if genesis else None,
        tokens,
        listen,
        port,
        proxy,
        metrics_listen,
        metrics_port,
        zone,
        load_operator(base / operator) if operator else None,
        base / ocmf if ocmf else None,
        silent_after_s,
        per_minute=_number(limits, "per_minute", 600, 1_000_000),
        burst=_number(limits, "burst", 100, 1_000_000),
        streams=_number(limits, "streams", 500, 10_000),
        streams_each=_number(limits, "streams_each", 8, 10_000),
        beat_s=_number(limits, "beat_s", 15, 300),
        stall_s=_number(limits, "stall_s", 60, 600),
        dashboard=_dashboard(top.section("dashboard", required=False)),
    )
    limits.end()
    top.end()
    return config


def _dashboard(section: Section) -> DashboardConfig:
    found = DashboardConfig(
        section.take("serve", bool, "true or false", default=True),
        still_after_s=_number(section, "still_after_s", 900, 604_800),
    )
    section.end()
    return found


def _number(section: Section, key: str, default: int, most: int) -> int:
    return section.take(key, int, f"a number from 1 to {most}", default=default, ok=lambda v: 1 <= v <= most)
