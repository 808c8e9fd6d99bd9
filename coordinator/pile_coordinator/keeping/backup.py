"""Backups of a coordinator that goes on running: consistent copies of its databases, its configuration, and what they are.

    backup-20260101T020000Z-000000012345/
      manifest.json      release, chain, height, and of every file its size and SHA-256; written last
      data/              ledger.sqlite, records.sqlite, stops.sqlite; evidence.sqlite if asked for
      config/            coordinator.toml, genesis.json
      keys/, also/       only if asked for

A backup is made under another name, read again, checked, and renamed: what has its name is whole.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.config import CoordinatorConfig, load_genesis, load_toml
from pile_coordinator.engines.engine import load_state, validators_at
from pile_coordinator.engines.store import SCHEMA_VERSION, Store
from pile_coordinator.keeping.files import sync_file, sync_folder, write_whole
from pile_coordinator.only_one import OnlyOne
from pile_coordinator.records import RECORDS
from pile_shared.certificate import decode_header
from pile_shared.errors import ConfigError, PilechainError

FORMAT = 1
MANIFEST, PREFIX, PARTIAL = "manifest.json", "backup-", ".partial-"
DATA, CONFIG, KEYS, ALSO = "data", "config", "keys", "also"
LEDGER, STOPS, EVIDENCE = "ledger.sqlite", "stops.sqlite", "evidence.sqlite"
PAGES_AT_ONCE = 2048  # 8 MiB between two steps of the progress bar
MAX_MANIFEST_BYTES = 4 << 20  # 20,000 files
_READ_BYTES = 1 << 20
Progress = Callable[[str, int, int], None]
"""Told (what, done, of) while something is copied or checked."""


class BackupError(PilechainError):
    """A backup that could not be made, or is not what it says; the message says which file."""

    code = "backup"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is.

    Attributes:
        format: of this file. release: of the program that made it. chain_id, genesis: the chain, its genesis hash as hex.
        engine: solo or comet. height, block, block_time_ms: of the last block, its header hash as hex. taken_ms: when.
        ledger_schema: of the ledger. evidence: what became of the evidence. files: (bytes, SHA-256 as hex) by path.
    """

    format: int
    release: str
    chain_id: str
    genesis: str
    engine: str
    height: int
    block: str
    block_time_ms: int
    taken_ms: int
    ledger_schema: int
    evidence: str
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What goes into a backup besides ledger, records, stop commands and configuration."""

    keys: bool = False
    evidence: bool = False
    also: tuple[Path, ...] = ()


def take_backup(config_file: Path, config: CoordinatorConfig, to: Path, wanted: Wanted, progress: Progress) -> Path:
    """Make a backup in the folder `to`; where it is.

    Raises:
        ConfigError: something that it shall hold is not there, or `to` cannot be used.
        BackupError, StoreError: it could not be written, or is not whole when it is read again. Nothing is left of it.
    """
    ledger = config.data / LEDGER
    if not ledger.is_file():
        raise ConfigError(f"{ledger}: no such file; has this coordinator ever run?")
    sources = dict(_sources(config_file, config, wanted))
    # The evidence first: nothing that the copy of the ledger does not have may be in it.
    databases = [*([EVIDENCE] if wanted.evidence else []), LEDGER, STOPS, RECORDS]
    try:
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        with OnlyOne(to / "backup.lock"), _partial(to) as folder:
            for name in databases:
                if (config.data / name).is_file():
                    copy_database(config.data / name, folder / DATA / name, progress)
            for name, path in sources.items():
                _copy_file(path, folder / name)
            manifest = _manifest(folder, config, _evidence_words(config, wanted), progress)
            write_whole(folder / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())
            verify_backup(folder, progress)
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(manifest.taken_ms // 1000))
            made = to / f"{PREFIX}{stamp}-{manifest.height:012d}"
            folder.rename(made)
            sync_folder(to)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"no backup was made in {to}: {error}") from error
    return made


def _manifest(folder: Path, config: CoordinatorConfig, evidence: str, progress: Progress) -> Manifest:
    genesis = config.genesis
    height, block, block_time_ms = check_ledger(folder / DATA / LEDGER, genesis)
    return Manifest(
        format=FORMAT,
        release=version("pilechain"),
        chain_id=genesis.chain_id,
        genesis=genesis.hash().hex(),
        engine=config.engine,
        height=height,
        block=block,
        block_time_ms=block_time_ms,
        taken_ms=time.time_ns() // 1_000_000,
        ledger_schema=SCHEMA_VERSION,
        evidence=evidence,
        files=dict(_sums(folder, progress)),
    )


@contextmanager
def _partial(to: Path) -> Iterator[Path]:
    """A new folder that is gone unless it was renamed; those that a power cut left are deleted too."""
    for left in to.glob(f"{PARTIAL}*"):
        shutil.rmtree(left)
    folder = to / f"{PARTIAL}{os.getpid()}"
    try:
        for part in ("", DATA, CONFIG, KEYS, ALSO):
            (folder / part).mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sources(config_file: Path, config: CoordinatorConfig, wanted: Wanted) -> Iterator[tuple[str, Path]]:
    """(name in the backup, file) of what is copied as it is."""
    yield f"{CONFIG}/coordinator.toml", config_file
    yield f"{CONFIG}/genesis.json", config_file.resolve().parent / str(load_toml(config_file)["genesis"])
    if wanted.keys:
        if config.key is not None:
            yield f"{KEYS}/{config.party}.key", config.key
        for party, path in config.attestation.items():
            yield f"{KEYS}/{party}-attest.key", path
    taken = set()
    for path in wanted.also:
        found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        if not found:
            raise ConfigError(f"{path}: no such file, or a folder without one; nothing to back up")
        if path.name in taken:
            raise ConfigError(f"{path}: another {path.name} is in the backup already; put both into one folder")
        taken.add(path.name)
        for file in found:
            yield f"{ALSO}/{path.name}/{file.relative_to(path)}" if file != path else f"{ALSO}/{path.name}", file


def _evidence_words(config: CoordinatorConfig, wanted: Wanted) -> str:
    if config.evidence_url:
        return "in a database server of its own: made again from the ledger, or dump it with mysqldump"
    return "copied" if wanted.evidence else "left out: made again from the ledger"


def copy_database(source: Path, target: Path, progress: Progress) -> None:
    """A consistent copy of a SQLite file of one moment, while others write to it; sqlite3.Error if that fails."""
    name = source.name

    def tell(_status: int, left: int, total: int) -> None:
        progress(f"copying {name}", total - left, total)

    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    uri = f"{source.resolve().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # a read is what fixes the moment
        db.backup(copy, pages=PAGES_AT_ONCE, progress=tell)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, which may lie where nothing can be written
    sync_file(target)


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}; it belongs into the backup") from error
    write_whole(target, data)


def check_ledger(path: Path, genesis: Genesis) -> tuple[int, str, int]:
    """(height, header hash as hex, unix ms) of a ledger's last block, if its state is that of it and it is certified.

    Raises:
        StoreError: it is damaged, or another chain's. CertificateError: its last block is not certified as it says.
    """
    store = Store(path, genesis.hash(), read_only=True)
    try:
        header_bytes = store.last_header()
        if header_bytes is None:
            return 0, "", genesis.time_ms
        header = decode_header(header_bytes)
        state = load_state(store, header)
        certificate = store.certificate(header.height)
        if certificate is not None and certificate.attestations:
            certificate.verify(genesis.chain_id, validators_at(genesis, state, header.height))
        return header.height, header.hash().hex(), header.time_ms
    finally:
        store.close()


def _sums(folder: Path, progress: Progress) -> Iterator[tuple[str, tuple[int, str]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix(), (path.stat().st_size, sha256_of(path, progress))


def sha256_of(path: Path, progress: Progress) -> str:
    """The SHA-256 of a file, as hex; of what is on the disk, as far as the system lets us ask for that."""
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while data := file.read(_READ_BYTES):
            digest.update(data)
            done += len(data)
            progress(f"reading {path.name}", done, size)
    return digest.hexdigest()


# --- what is there -------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """What a backup says of itself; BackupError if it is none."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MAX_MANIFEST_BYTES))
        if values["format"] != FORMAT:
            raise BackupError(f"{path} is of format {values['format']}, this release knows {FORMAT}: use a newer one")
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in values.pop("files").items()}
        return Manifest(**values, files=files)
    except OSError as error:
        raise BackupError(f"{folder} is no backup: {path.name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BackupError(f"{path} is damaged: {error!r}") from error


def verify_backup(folder: Path, progress: Progress) -> Manifest:
    """What a backup says of itself, if every file is there as it was written; BackupError naming the first that is not."""
    manifest = read_manifest(folder)
    for name, (size, digest) in manifest.files.items():
        path = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise BackupError(f"{folder / MANIFEST} names {name}, which is not in the backup")
        if not path.is_file() or path.stat().st_size != size:
            raise BackupError(f"{path} is missing or has another size than the {size} bytes that were written")
        if sha256_of(path, progress) != digest:
            raise BackupError(f"{path} is not what was written (SHA-256); use another backup")
    genesis = load_genesis(folder / CONFIG / "genesis.json")
    found = check_ledger(folder / DATA / LEDGER, genesis)
    if (genesis.hash().hex(), *found) != (manifest.genesis, manifest.height, manifest.block, manifest.block_time_ms):
        raise BackupError(f"{folder}: the ledger is not the one that {MANIFEST} speaks of")
    return manifest


def backups(to: Path) -> list[tuple[Path, Manifest]]:
    """The backups in a folder that have a readable manifest, oldest first."""
    found = []
    for path in sorted(to.glob(f"{PREFIX}*")):
        try:
            found.append((path, read_manifest(path)))
        except BackupError:
            continue  # somebody's, or spoilt: neither counted nor deleted
    return sorted(found, key=lambda row: (row[1].height, row[1].taken_ms, row[0].name))  # clocks may be set back


def keep_newest(to: Path, genesis_hash: bytes, keep: int) -> list[Path]:
    """Delete this chain's oldest backups so that `keep` stay; what was deleted."""
    ours = [path for path, manifest in backups(to) if manifest.genesis == genesis_hash.hex()]
    gone = ours[:-keep]
    with OnlyOne(to / "backup.lock"):
        for path in gone:
            doomed = path.with_name(f"{PARTIAL}{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)
    return gone
