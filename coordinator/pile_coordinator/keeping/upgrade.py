"""What this release would do with the data of another: looked up, and nothing changed. See docs/upgrade.md."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from pile_coordinator.chain import upgrades
from pile_coordinator.config import CoordinatorConfig
from pile_coordinator.engines.engine import load_state
from pile_coordinator.engines.store import SCHEMA_VERSION
from pile_coordinator.evidence.database import HEAD, REVISIONS, EvidenceAwayError, open_database, revision
from pile_coordinator.keeping.backup import LEDGER, Progress, backups, verify_backup
from pile_coordinator.records import FORMAT, RECORDS
from pile_coordinator.replay import open_ledger
from pile_shared.certificate import decode_header
from pile_shared.errors import PilechainError

MAX_AGE_MS = 24 * 3_600_000  # of the backup to which one would go back


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and whether an upgrade may go on."""

    what: str
    is_fine: bool
    text: str


def look_ahead(config: CoordinatorConfig, folder: Path | None, progress: Progress) -> list[Finding]:
    """What a start of this release would find, and what there is to go back to in the folder of backups, if it is named."""
    return [
        Finding("release", True, f"this is {version('pilechain')}"),
        _ledger(config),
        _records(config),
        _evidence(config),
        *([] if folder is None else [_backup(config, folder, progress)]),
    ]


def _ledger(config: CoordinatorConfig) -> Finding:
    path = config.data / LEDGER
    if not path.is_file():
        return Finding("ledger", True, "none yet; the first start makes it")
    try:
        with closing(open_ledger(path, config.genesis)) as store, store.snapshot():
            header_bytes = store.last_header()
            if header_bytes is None:
                return Finding("ledger", True, "no block yet")
            header = decode_header(header_bytes)
            upgrades.check_known(load_state(store, header), header.height + 1)
    except PilechainError as error:
        return Finding("ledger", False, str(error))
    return Finding(
        "ledger",
        True,
        f"schema {SCHEMA_VERSION}, block {header.height}; neither changes, so any release of this schema can follow",
    )


def _records(config: CoordinatorConfig) -> Finding:
    path = config.data / RECORDS
    if not path.is_file():
        return Finding("records", True, "none yet")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            (found,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        return Finding("records", False, f"{path} cannot be read: {error}")
    if found > FORMAT:
        return Finding("records", False, f"format {found}, this release knows {FORMAT}: run the newer one")
    return Finding("records", True, f"format {found}")


def _evidence(config: CoordinatorConfig) -> Finding:
    if isinstance(config.evidence, Path) and not config.evidence.is_file():
        return Finding("evidence", True, "none yet; made from the ledger at the start")
    engine = open_database(config.evidence)
    try:
        with engine.connect() as db:
            found = revision(db)
    except EvidenceAwayError as error:
        return Finding("evidence", True, f"{error}; looked at when it is back")
    except (PilechainError, SQLAlchemyError) as error:
        return Finding("evidence", False, f"cannot be read: {error}")
    finally:
        engine.dispose()
    return Finding("evidence", found is None or found in REVISIONS, _evidence_text(found))


def _evidence_text(found: str | None) -> str:
    if found == HEAD:
        return f"schema {HEAD}, as this release has it"
    if found is None:
        return "without a schema: made anew from the ledger at the start"
    if found in REVISIONS:
        return f"schema {found}: migrated to {HEAD} at the start; an older release then has to make it anew (docs/upgrade.md)"
    return f"schema {found} is of a newer release, this one knows {HEAD}: run that one, or move the evidence away"


def _backup(config: CoordinatorConfig, folder: Path, progress: Progress) -> Finding:
    ours = [path for path, manifest in backups(folder) if manifest.genesis == config.genesis.hash().hex()]
    if not ours:
        return Finding("backup", False, f"none of this chain in {folder}; take one: pilechain backup")
    try:
        manifest = verify_backup(ours[-1], progress)
    except PilechainError as error:
        return Finding("backup", False, f"the newest is spoilt: {error}")
    age_ms = time.time_ns() // 1_000_000 - manifest.taken_ms
    text = f"{ours[-1].name}, checked, of release {manifest.release}, {age_ms // 3_600_000} hours old"
    return Finding("backup", age_ms <= MAX_AGE_MS, text + ("" if age_ms <= MAX_AGE_MS else "; take a newer one"))
