"""Checks of the chain's files: keys, ledger, evidence, room for the years to come, tokens, backups, mirror. They only read."""

import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pile_coordinator.config import SOLO
from pile_coordinator.doctor.finding import Finding, fail, ok, skip, warn
from pile_coordinator.doctor.subject import Subject
from pile_coordinator.engines.engine import StoreError
from pile_coordinator.engines.store import Store
from pile_coordinator.evidence.database import HEAD, EvidenceError, open_database, revision
from pile_coordinator.evidence.opening import open_to_read
from pile_coordinator.evidence.schema import mark
from pile_coordinator.keeping.mirror import MirrorReader
from pile_coordinator.keys import load_key
from pile_coordinator.web.tokens import Tokens
from pile_shared.errors import ConfigError, PilechainError

DAY_MS = 86_400_000
BEHIND_BLOCKS = 100  # of evidence: a few blocks are always being written
MIN_AGE_MS = DAY_MS  # of a ledger that says how fast it grows
TOKEN_DAYS = 14
BACKUP_OLD_S, BACKUP_LOST_S = 12 * 3600, 48 * 3600  # they are made every six hours
MIN_MARIADB = (10, 6)
_RIGHTS = {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "CREATE VIEW"}


def chain(subject: Subject) -> Iterator[Finding]:
    """Genesis and configuration: who submits, and whether enough accounting nodes sign here."""
    config, genesis = subject.config, subject.config.genesis
    yield ok(f"chain {genesis.chain_id}, {len(genesis.parties)} parties, {len(genesis.validators)} accounting nodes")
    power = sum(validator.power for validator in genesis.validators)
    here = sum(validator.power for validator in genesis.validators if validator.party in config.attestation)
    if config.engine == SOLO and 3 * here <= 2 * power:
        yield fail(
            f"accounting nodes with power {here} of {power} sign here, not more than two thirds",
            "name more of them in [attestation] of coordinator.toml, or keep the chain in a network (docs/network.md)",
        )
    strangers = sorted(set(config.attestation) - {validator.party for validator in genesis.validators})
    if strangers and genesis.stake is None:
        yield fail(f"[attestation] names {', '.join(strangers)}: no accounting node of the genesis", "take it out")


def keys(subject: Subject) -> Iterator[Finding]:
    """Keys: there, for their owner alone, and those that the genesis knows."""
    config, genesis = subject.config, subject.config.genesis
    known = {party: public for party, _, public in genesis.parties}
    nodes = {validator.party: validator.public for validator in genesis.validators}
    wanted = [(config.party, config.key, known.get(config.party))] if config.key else []
    wanted += [(party, path, nodes.get(party)) for party, path in config.attestation.items()]
    good = 0
    for party, path, public in wanted:
        try:
            found = load_key(path).public
        except PermissionError:
            yield fail(f"{path} cannot be read by this user", "run the doctor as root: sudo pilechain doctor ...")
        except ConfigError as error:
            yield fail(str(error), "bring the key back from where it is kept")
        else:
            if public is not None and found != public and genesis.stake is None:
                yield fail(
                    f"{path} is not the key of {party} in the genesis", "bring the key back, or correct the path"
                )
            else:
                good += 1
    if good == len(wanted):
        yield ok(f"{good} keys, each for its owner alone, each the one of the genesis")
    # A folder that anybody may write to lets anybody replace what is in it.
    folders = sorted({path.parent for _, path, _ in wanted} | {subject.site})
    for folder in folders:
        if folder.is_dir() and folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield fail(f"{folder} can be written by others", f"chmod go-w {folder}")


def ledger(subject: Subject) -> Iterator[Finding]:
    """The ledger: it opens, and its newest blocks hang together and are certified. `pilechain replay` checks all of it."""
    path = subject.ledger
    if not path.is_file():
        yield warn(f"{path} is not there yet", "it is made at the first start; if there was one, restore a backup")
        return
    try:
        with closing(Store(path, subject.config.genesis.hash(), read_only=True)) as store:
            yield _head(subject, store)
    except (StoreError, PilechainError, KeyError) as error:
        yield fail(
            f"{path}: {error}", f"stop the coordinator; pilechain replay {path} names what is wrong; restore a backup"
        )


def _head(subject: Subject, store: Store) -> Finding:
    height = store.height()
    if height == 0:
        return ok("no block yet: the first comes with the first transaction")
    certificate = store.certificate(height)
    if certificate is None:
        return ok(f"begins with a snapshot of block {height}")
    header = certificate.header
    before = store.certificate(height - 1)
    if header.height != height or (before is not None and before.header.hash() != header.previous):
        return fail(f"block {height} does not follow block {height - 1}", "stop the coordinator and restore a backup")
    genesis = subject.config.genesis
    if subject.config.engine == SOLO and genesis.stake is None and certificate.attestations:
        certificate.verify(genesis.chain_id, list(genesis.validators))
    age_s = max(0, subject.config.clock.now_ms() - header.time_ms) // 1000
    return ok(f"block {height}, certified, {age_s} s old")


def evidence(subject: Subject) -> Iterator[Finding]:
    """The evidence: of this program's schema, and not behind the ledger."""
    config = subject.config
    if isinstance(config.evidence, Path) and not config.evidence.is_file():
        yield warn(f"{config.evidence} is not there yet", "the coordinator makes it when it starts")
        return
    rebuild = "stop the coordinator, then: pilechain evidence rebuild --config coordinator.toml"
    try:
        engine = open_to_read(str(config.evidence))
        try:
            with engine.connect() as db:
                found, written = revision(db), db.execute(sa.select(mark.c.height)).scalar() or 0
        finally:
            engine.dispose()
        with closing(Store(subject.ledger, config.genesis.hash(), read_only=True)) as store:
            height = store.height()
    except (PilechainError, DBAPIError) as error:
        yield fail(f"{error}", "see the database check above, and: pilechain evidence status --config ...")
        return
    if found != HEAD:
        yield fail(f"the evidence has schema {found}, this program {HEAD}", rebuild)
    elif height - written > BEHIND_BLOCKS:
        yield fail(f"{height - written} blocks behind the ledger", f"wait if it falls; else {rebuild}")
    else:
        yield ok(f"{written} of {height} blocks are written")


def database(subject: Subject) -> Iterator[Finding]:
    """MariaDB: it answers, is new enough, keeps every character, and lets its user do what is needed."""
    url = subject.config.evidence_url
    if not url:
        yield skip("the evidence is in a file")
        return
    engine = open_database(url)
    try:
        with engine.connect() as db:
            row = db.exec_driver_sql("SELECT VERSION(), @@character_set_database, @@max_allowed_packet").one()
            grants = [str(found) for (found,) in db.exec_driver_sql("SHOW GRANTS")]
    except (EvidenceError, DBAPIError) as error:
        yield fail(
            f"{error}",
            "systemctl status mariadb; check [evidence] url; docs/evidence.md has the SQL for user and rights",
        )
        return
    finally:
        engine.dispose()
    name, charset, packet = str(row[0]), str(row[1]), int(row[2])
    number = tuple(int(part) for part in name.split("-", maxsplit=1)[0].split(".")[:2] if part.isdecimal())
    if "mariadb" in name.lower() and number < MIN_MARIADB:
        yield fail(f"MariaDB {name} is too old", "use 10.6 or later: Debian 12 has 10.11")
    if charset != "utf8mb4":
        yield fail(
            f"the database keeps {charset}, not every character", "ALTER DATABASE evidence CHARACTER SET utf8mb4;"
        )
    if packet < 1 << 20:
        yield fail(f"max_allowed_packet is {packet}", "set max_allowed_packet = 16M below [mariadbd]")
    lacking = _lacking(grants)
    if lacking:
        yield fail(
            f"its user lacks {', '.join(sorted(lacking))}", "GRANT ALL ON evidence.* TO the user of [evidence] url"
        )
    yield ok(f"{name} answers, {charset}")


def _lacking(grants: list[str]) -> set[str]:
    """Rights that no grant names; any database's count, as the server itself is asked for ours next."""
    rights: set[str] = set()
    for grant in grants:
        words = grant.removeprefix("GRANT ").partition(" ON ")[0]
        if words in {"ALL PRIVILEGES", "ALL"}:
            return set()
        rights |= {word.strip() for word in words.split(",")}
    return _RIGHTS - rights


def space(subject: Subject) -> Iterator[Finding]:
    """For how many days there is room, at the growth of the ledger and the evidence so far."""
    folder = subject.config.data
    if not subject.ledger.is_file():
        yield skip("no ledger yet")
        return
    try:
        with closing(Store(subject.ledger, subject.config.genesis.hash(), read_only=True)) as store:
            first, last = store.certificate(store.first_height()), store.certificate(store.height())
    except StoreError as error:
        yield skip(str(error))
        return
    age_ms = last.header.time_ms - first.header.time_ms if first and last else 0
    used, free = sum(path.stat().st_size for path in folder.glob("*.sqlite*")), shutil.disk_usage(folder).free
    if age_ms < MIN_AGE_MS:
        yield ok(f"{used >> 20} MiB used, {free >> 30} GiB free; after a day of blocks it is said how long that lasts")
        return
    per_day = max(1, used * DAY_MS // age_ms)
    days = free // per_day
    says = f"{per_day / (1 << 20):.1f} MiB a day, room for {days} days"
    if days < subject.days:
        yield warn(
            says,
            f"less than {subject.days} days: move {folder} to a larger disk, or see docs/operator.md, Losing things",
        )
    else:
        yield ok(says)


def tokens(subject: Subject) -> Iterator[Finding]:
    """The tokens of the web server: some are good, and none is about to end unnoticed."""
    if subject.web is None:
        yield skip("no web.toml here")
        return
    add = f"pilechain web token add PARTY --role ROLE --config {subject.site / 'web.toml'}"
    try:
        with closing(Tokens(subject.web.tokens, read_only=True)) as opened:
            rows = opened.all()
    except ConfigError as error:
        yield fail(str(error), add)
        return
    now_ms = time.time_ns() // 1_000_000
    good = [row for row in rows if row.revoked_ms is None and row.expires_ms > now_ms]
    soon = [row for row in good if row.expires_ms - now_ms < TOKEN_DAYS * DAY_MS]
    if not good:
        yield warn("no token is good: nobody can look at the dashboard", add)
    elif soon:
        names = ", ".join(f"{row.party} ({row.id})" for row in soon[:5])
        yield warn(f"{len(soon)} of {len(good)} tokens end within {TOKEN_DAYS} days: {names}", add)
    else:
        yield ok(f"{len(good)} good tokens")


def backups(subject: Subject) -> Iterator[Finding]:
    """The newest backup, and how old it is."""
    do = "systemctl start pilechain-backup, or: pilechain backup --config coordinator.toml --to DIR"
    if subject.backups is None:
        yield warn("nobody said where backups are", f"{do}; then tell the doctor with --backups DIR")
        return
    manifests = list(subject.backups.glob("*/manifest.json")) if subject.backups.is_dir() else []
    if not manifests:
        yield fail(f"{subject.backups} holds no backup", do)
        return
    newest_s = max(path.stat().st_mtime for path in manifests)
    age_s = time.time() - newest_s
    when = datetime.fromtimestamp(newest_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if age_s > BACKUP_LOST_S:
        yield fail(
            f"the newest backup is of {when}", "systemctl status pilechain-backup.timer; journalctl -u pilechain-backup"
        )
    elif age_s > BACKUP_OLD_S:
        yield warn(f"the newest backup is of {when}", "systemctl list-timers pilechain-backup.timer")
    else:
        yield ok(f"{len(manifests)} backups, the newest of {when}")


def mirror(subject: Subject) -> Iterator[Finding]:
    """Whether there is a mirror of the blocks, as far as the ledger, with room."""
    folder, genesis_hash = subject.config.mirror, subject.config.genesis.hash()
    if folder is None:
        if subject.config.engine == SOLO:
            yield warn(
                "no mirror: with this machine all blocks since the last backup are lost", "[mirror], docs/keeping.md"
            )
        return
    do = "is the disk mounted, and writable? pilechain mirror show --config coordinator.toml; docs/keeping.md"
    try:
        with closing(Store(subject.ledger, genesis_hash, read_only=True)) as store:
            ledger = store.height()  # first: the mirror is never behind it
        reader = MirrorReader(folder, genesis_hash)
        for _ in reader.newest():
            pass
    except StoreError as error:
        yield fail(str(error), do)
        return
    if reader.height < ledger:
        yield fail(f"the mirror is at block {reader.height}, the ledger at {ledger}", do)
    elif not reader.claims_whole:
        yield warn(f"the mirror is at block {reader.height}, but it is not required", "required = true in [mirror]")
    else:
        yield ok(f"the mirror is at block {reader.height}, {shutil.disk_usage(folder).free >> 20} MiB free there")
