"""A coordinator's data folder, made of a backup and the mirror's blocks since; or said plainly what is lost.

No height is signed twice: a ledger behind whose last block others may have been signed is marked, and no coordinator goes on
with it (docs/adr/0025).
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.config import SOLO, load_genesis
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.store import OPEN_END, Store
from pile_coordinator.keeping.backup import CONFIG, DATA, LEDGER, BackupError, Manifest, Progress, verify_backup
from pile_coordinator.keeping.files import sync_file, sync_folder
from pile_coordinator.keeping.forward import forward, pass_over
from pile_coordinator.keeping.mirror import LOCK, MirrorError, MirrorReader
from pile_coordinator.only_one import OnlyOne
from pile_coordinator.replay import Replay
from pile_shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Until:
    """Where to stop: at a height, or at the last block that is not later than a time. None: at the end."""

    height: int | None = None
    time_ms: int | None = None

    def is_beyond(self, block: Block) -> bool:
        """Whether a block is later."""
        header = block.header
        return (self.height is not None and header.height > self.height) or (
            self.time_ms is not None and header.time_ms > self.time_ms
        )


END = Until()


@dataclass(frozen=True, slots=True)
class _How:
    """See `restore`."""

    mirror: Path | None
    until: Until
    accept_loss: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of it.

    Attributes:
        manifest: of the backup. from_mirror: how many blocks the mirror added. height, time_ms: of the last block.
        is_whole: no block can have been signed behind it that is not here. passed_over: heights left unsigned.
    """

    manifest: Manifest
    from_mirror: int
    height: int
    time_ms: int
    is_whole: bool
    passed_over: int


def restore(
    source: Path,
    to: Path,
    progress: Progress,
    *,
    mirror: Path | None = None,
    until: Until = END,
    accept_loss: int | None = None,
) -> Restored:
    """Make the data folder `to`, which must not exist or be empty, of the backup in `source`.

    The mirror is only read. `accept_loss` is the highest height that may have been signed: those up to it that are not here
    are lost, and left unsigned.

    Raises:
        ConfigError: `to` holds something, or the arguments do not go together. BackupError, MirrorError: damaged.
        StoreError, ReplayError: the blocks do not lead where they say. Nothing is left of `to` then.
    """
    manifest = verify_backup(source, progress)
    if manifest.engine != SOLO:
        raise ConfigError(
            "a node of a network gets its blocks from the others: docs/network.md, 'When something is wrong'. Of this backup"
            f" it needs records and stop commands only: copy {source / DATA}/records.sqlite and stops.sqlite"
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} holds something; restore into a folder that is not there, and look before you delete")
    genesis = load_genesis(source / CONFIG / "genesis.json")
    partial = to.with_name(to.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        for name in manifest.files:
            if name.startswith(f"{DATA}/"):
                shutil.copyfile(source / name, partial / Path(name).name)
        with _alone(mirror if until == END else None):
            found = _bring_up(partial / LEDGER, genesis, manifest, progress, _How(mirror, until, accept_loss))
        for path in partial.iterdir():
            sync_file(path)
        sync_folder(partial)
        if to.exists():
            to.rmdir()
        partial.rename(to)
        sync_folder(to.parent)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{to} could not be restored: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def _bring_up(ledger: Path, genesis: Genesis, manifest: Manifest, progress: Progress, how: "_How") -> Restored:
    store = Store(ledger, genesis.hash(), is_draft=True)
    try:
        replay = Replay.behind(store, genesis)
        _check_until(how.until, replay)
        signed, is_known = _take_mirror(store, replay, how, progress)
        reached = replay.height
        is_whole = is_known and signed == reached
        if how.accept_loss is not None:
            _accept_loss(store, replay, signed, how.accept_loss, progress)
        else:
            store.keep_note(OPEN_END, None if is_whole else b"1")
        return Restored(
            manifest,
            reached - manifest.height,
            replay.height,
            replay.time_ms,
            is_whole or how.accept_loss is not None,
            replay.height - reached,
        )
    finally:
        store.close()


def _alone(mirror: Path | None) -> AbstractContextManager[object]:
    """No coordinator may be at work on the mirror whose end is taken for the chain's; where nothing can be written, none is."""
    return nullcontext() if mirror is None or not os.access(mirror, os.W_OK) else OnlyOne(mirror / LOCK)


def _check_until(until: Until, replay: Replay) -> None:
    height, time_ms = until.height, until.time_ms
    if (height is not None and height < replay.height) or (time_ms is not None and time_ms < replay.time_ms):
        raise ConfigError(f"the backup is of block {replay.height}, later than --until; take an older backup")


def _take_mirror(store: Store, replay: Replay, how: "_How", progress: Progress) -> tuple[int, bool]:
    """Add the mirror's blocks; the highest height known to be signed, and whether none behind it can have been."""
    backup_height = replay.height
    if how.mirror is None:
        return backup_height, False
    reader = MirrorReader(how.mirror, replay.genesis.hash())

    def wanted() -> Iterator[Block]:
        for block in reader.blocks(backup_height if backup_height >= reader.first else backup_height + 1):
            progress("replaying the mirror", block.header.height, 0)
            if not how.until.is_beyond(block):
                yield block

    forward(store, replay, wanted())
    if reader.height == replay.height and reader.digest != replay.head:
        raise MirrorError(f"the mirror {how.mirror} is of another history than the backup")
    return max(backup_height, reader.height), reader.is_whole and reader.height >= backup_height


def _accept_loss(store: Store, replay: Replay, signed: int, until: int, progress: Progress) -> None:
    if until < signed:
        raise ConfigError(
            f"--accept-loss {until}: block {signed} was signed for certain; name the highest height that may have been"
        )
    pass_over(store, replay, until, lambda block: progress("passing over", block.header.height, until))
