"""The coordinator's configuration: TOML in, checked values out; every mistake names file, key and expected form."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.clock import Clock
from pile_coordinator.mqtt import Broker, Tls
from pile_shared.cose import PUBLIC_BYTES
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.p256 import is_on_curve
from pile_shared.units import check_id

T = TypeVar("T")


SOLO, COMET = "solo", "comet"
RETAIN_BLOCKS = 500_000  # six days of a block a second, four weeks of an idle chain: so long may a node be away
MAX_RETAIN_BLOCKS = 4_000_000  # of which a mark is kept for each 1000 heights (engines/comet/retention.py)


@dataclass(frozen=True, slots=True)
class CometConfig:
    """CometBFT's folder, how many of its heights lie between two snapshots (0: none are taken), how many it keeps (0: all)."""

    home: Path
    snapshot_interval: int
    retain_blocks: int


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """What `pilechain run` needs. Paths are absolute.

    Attributes:
        genesis: the chain. data: folder of the ledger and the evidence. party, key: who signs batches and replies.
        attestation: key files of the accounting nodes this process signs for, by party. broker: where to meet.
        block_interval_ms: real time between blocks when something waits. clock: real time, or a rig's.
        engine: "solo" or "comet". comet: what that engine needs, None for solo. A node of the comet engine that serves
        nobody has no party, and no key. evidence_url: of a MariaDB database, empty for a SQLite file in `data`.
        mirror: folder on another disk that gets a copy of each block, None for none. mirror_required: nothing is
        acknowledged that is not there. workers: public keys of its verify workers, by name.
    """

    genesis: Genesis
    data: Path
    party: str
    key: Path | None
    attestation: dict[str, Path]
    broker: Broker
    block_interval_ms: int
    clock: Clock
    engine: str = SOLO
    comet: CometConfig | None = None
    evidence_url: str = ""
    workers: dict[str, bytes] = field(default_factory=dict)
    mirror: Path | None = None
    mirror_required: bool = True

    @property
    def evidence(self) -> Path | str:
        """Where the evidence is kept: a SQLite file in the data folder, or the URL of a database."""
        return self.evidence_url or self.data / "evidence.sqlite"


class Section:
    """One table of a file, read key by key; what is left over at the end is a mistake too."""

    def __init__(self, file: Path, name: str, values: object) -> None:
        self._file, self._name = file, name
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {name or 'the file'} must be a table")
        self._left = dict(values)

    def take(
        self, key: str, kind: type[T], form: str, *, default: T | None = None, ok: Callable[[T], bool] | None = None
    ) -> T:
        """The value of `key`, or `default`; ConfigError with the expected `form` if it is missing, another kind or not `ok`."""
        full = f"{self._name}.{key}" if self._name else key
        value = self._left.pop(key, default)
        if value is None:
            raise ConfigError(f"{self._file}: {full} is missing; expected {form}")
        if (
            not isinstance(value, kind)
            or (kind is int and isinstance(value, bool))
            or (ok is not None and not ok(value))
        ):
            raise ConfigError(f"{self._file}: {full} = {value!r} is wrong; expected {form}")
        return value

    def __contains__(self, key: str) -> bool:
        """Whether this key is there and was not taken yet."""
        return key in self._left

    def section(self, key: str, *, required: bool = True) -> "Section":
        """The table of this name; an empty one if it is missing and not `required`."""
        full = f"{self._name}.{key}" if self._name else key
        values = self._left.pop(key, None if required else {})
        if values is None:
            raise ConfigError(f"{self._file}: the table [{full}] is missing")
        return Section(self._file, full, values)

    def rest(self, form: str) -> dict[str, str]:
        """All remaining keys, as text by text."""
        for key, value in self._left.items():
            if not isinstance(value, str):
                raise ConfigError(f"{self._file}: {self._name}.{key} = {value!r} is wrong; expected {form}")
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        """ConfigError if a key is left, which nobody knows."""
        for key in self._left:
            full = f"{self._name}.{key}" if self._name else key
            raise ConfigError(
                f"{self._file}: unknown key {full}; see docs/operator.md for the keys there are"
                " (docs/api.md and docs/dashboard.md for web.toml)"
            )


def load_toml(path: Path) -> dict[str, object]:
    """A TOML file; ConfigError with the file and what to do if it cannot be read."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def load_genesis(path: Path) -> Genesis:
    """A genesis file; ConfigError naming file, key and expected form."""
    try:
        return genesis_from_json(json.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a genesis file pins the chain you trust") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except PilechainError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_config(path: Path) -> CoordinatorConfig:
    """The configuration of a coordinator or accounting node; ConfigError naming file, key and expected form."""
    path = path.resolve()
    top, base = Section(path, "", load_toml(path)), path.parent
    genesis = load_genesis(base / top.take("genesis", str, "the path of a genesis file"))
    data = base / top.take("data", str, "the path of a folder")
    engine = top.take("engine", str, "solo or comet", default=SOLO, ok=lambda v: v in {SOLO, COMET})
    nobody = "" if engine == COMET else None  # an accounting node may serve nobody
    form = "the id of a party in genesis that may submit proofs"
    party = top.take("party", str, form, default=nobody, ok=lambda v: v == nobody or _is_id(v))
    key = top.take("key", str, "the path of a key file", default=None if party else nobody)
    interval = top.take(
        "block_interval_ms", int, "milliseconds from 10 to 60000", default=1000, ok=lambda v: 10 <= v <= 60_000
    )
    attestation = {p: base / f for p, f in top.section("attestation").rest("the path of a key file").items()}
    broker = broker_of(top.section("mqtt"), base)
    clock = _clock(top.section("clock", required=False))
    comet = _comet(top.section("comet"), base) if engine == COMET else None
    evidence_url = _evidence_url(top.section("evidence", required=False))
    workers = _workers(top.section("workers", required=False), path)
    mirror, is_required = _mirror(top.section("mirror", required=False), base, engine)
    top.end()
    keys = base / key if key else None
    return CoordinatorConfig(
        genesis,
        data,
        party,
        keys,
        attestation,
        broker,
        interval,
        clock,
        engine,
        comet,
        evidence_url,
        workers,
        mirror,
        is_required,
    )


def _mirror(section: Section, base: Path, engine: str) -> tuple[Path | None, bool]:
    path = section.take("path", str, "the path of a folder on another disk", default="")
    is_required = section.take("required", bool, "true or false", default=True)
    section.end()
    if path and engine == COMET:
        raise ConfigError('[mirror] is for engine = "solo": the other nodes of a network hold its blocks')
    return base / path if path else None, is_required


def _evidence_url(section: Section) -> str:
    form = "mysql+pymysql://user:password@host/database"
    url = section.take("url", str, form, default="", ok=lambda v: not v or v.startswith("mysql+pymysql://"))
    section.end()
    return url


def _workers(section: Section, file: Path) -> dict[str, bytes]:
    form = "a worker's public key in hex, as `pilechain verify-worker --public FILE` prints it"
    workers = {}
    for name, digits in section.rest(form).items():
        try:
            public = bytes.fromhex(digits)
        except ValueError:
            public = b""
        if len(public) != PUBLIC_BYTES or not is_on_curve(public) or not _is_id(name):
            raise ConfigError(f"{file}: workers.{name} = {digits[:20]!r} is wrong; expected {form}")
        workers[name] = public
    return workers


def _comet(section: Section, base: Path) -> CometConfig:
    home = base / section.take("home", str, "the path of CometBFT's folder", default="node")
    form = "heights from 0 to 1000000"
    interval = section.take("snapshot_interval", int, form, default=1000, ok=lambda v: 0 <= v <= 1_000_000)
    form = f"heights from 0 to {MAX_RETAIN_BLOCKS}"
    retain = section.take("retain_blocks", int, form, default=RETAIN_BLOCKS, ok=lambda v: 0 <= v <= MAX_RETAIN_BLOCKS)
    section.end()
    return CometConfig(home, interval, retain)


def _is_id(value: str) -> bool:
    try:
        check_id("id", value)
    except PilechainError:
        return False
    return True


def broker_of(section: Section, base: Path) -> Broker:
    """Where the broker is, of a table [mqtt]; files of TLS are relative to the folder `base`."""
    broker = Broker(
        host=section.take("host", str, "a host name or address"),
        port=section.take("port", int, "a port from 1 to 65535", default=1883, ok=lambda v: 1 <= v <= 65_535),
        username=section.take("username", str, "text", default=""),
        password=section.take("password", str, "text", default=""),
        keepalive_s=section.take("keepalive_s", int, "seconds from 5 to 3600", default=30, ok=lambda v: 5 <= v <= 3600),
        tls=tls_of(section.section("tls"), base) if "tls" in section else None,
    )
    section.end()
    return broker


def tls_of(section: Section, base: Path) -> Tls:
    """The files of a TLS connection, of a table {ca, cert, key}, the last two together or not at all."""
    ca = section.take("ca", str, "the path of a PEM file", ok=bool)
    shown = "cert" in section or "key" in section
    certificate = section.take("cert", str, "the path of a PEM file, with key", ok=bool) if shown else None
    key = section.take("key", str, "the path of a PEM file, with cert", ok=bool) if shown else None
    section.end()
    return Tls(base / ca, base / certificate if certificate else None, base / key if key else None)


def _clock(section: Section) -> Clock:
    clock = Clock(
        rate=section.take("rate", int, "1, or on a rig up to 3600", default=1, ok=lambda v: 1 <= v <= 3600),
        origin_ms=section.take("origin_ms", int, "unix milliseconds", default=0, ok=lambda v: v >= 0),
    )
    section.end()
    return clock
