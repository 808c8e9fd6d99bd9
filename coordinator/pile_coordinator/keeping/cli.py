"""`pilechain backup`, `restore`, `mirror` and `upgrade`: keeping a coordinator's chain for years."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pile_coordinator.config import CoordinatorConfig, load_config
from pile_coordinator.keeping.backup import LEDGER, Wanted, backups, keep_newest, read_manifest, take_backup
from pile_coordinator.keeping.backup import Progress as Tell
from pile_coordinator.keeping.mirror import MirrorReader, begin_mirror, prune
from pile_coordinator.keeping.restore import END, Restored, Until, restore
from pile_coordinator.keeping.upgrade import look_ahead
from pile_coordinator.replay import open_ledger
from pile_shared.certificate import decode_header
from pile_shared.errors import ConfigError

_ZERO = bytes(32)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the four commands to the command line."""
    _add_backup(commands)
    _add_restore(commands)
    _add_mirror(commands)
    upgrade = commands.add_parser("upgrade", help="before and after another release: what it would do with the data")
    words = upgrade.add_subparsers(required=True, metavar="WHAT")
    check = words.add_parser("check", help="what this release would do with a data folder; changes nothing")
    _config(check)
    check.add_argument("--backups", type=Path, metavar="DIR", help="where backups are: is there one to go back to?")
    check.set_defaults(run=_upgrade_check)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="coordinator.toml")
    parser.add_argument("--json", action="store_true", help="one JSON object, no progress")


def _add_backup(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    backup = commands.add_parser(
        "backup",
        help="back a coordinator up while it runs",
        description="Copy ledger, records, stop commands and configuration, each consistent in itself, while the coordinator"
        " runs; read the copies again and check them (docs/keeping.md).",
        epilog="Example: pilechain backup --config coordinator.toml --to /mnt/backups --keep 14",
    )
    _config(backup)
    backup.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="folder of backups; each gets one of its own"
    )
    backup.add_argument("--keep", type=_positive, metavar="N", help="then delete the oldest, so that N are left")
    backup.add_argument("--with-keys", action="store_true", help="the private keys too: guard such a backup like them")
    backup.add_argument("--with-evidence", action="store_true", help="evidence.sqlite too, which can be made again")
    backup.add_argument(
        "--also", type=Path, action="append", default=[], metavar="PATH", help="another file or folder; may be repeated"
    )
    backup.add_argument(
        "--prune-mirror", action="store_true", help="then delete of the mirror what lies behind the oldest backup"
    )
    backup.set_defaults(run=_backup)


def _add_restore(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    back = commands.add_parser(
        "restore",
        help="make a data folder of a backup and the mirror",
        description="Make a new data folder of a backup, and of the blocks that the mirror got since. No height is ever signed"
        " twice: without a mirror that is whole, say up to which height blocks may have been signed (docs/keeping.md).",
        epilog="Example: pilechain restore --from /mnt/backups/backup-... --mirror /mnt/mirror --to data",
    )
    back.add_argument("--from", dest="source", type=Path, required=True, metavar="BACKUP", help="one backup's folder")
    back.add_argument("--mirror", type=Path, metavar="DIR", help="the mirror's folder; it is only read")
    back.add_argument(
        "--to", type=Path, required=True, metavar="DATA", help="the new data folder; must not exist, or be empty"
    )
    back.add_argument(
        "--until",
        type=_until,
        default=END,
        metavar="WHEN",
        help="stop there: a height, or a time like 2026-01-31T12:00:00Z",
    )
    back.add_argument(
        "--accept-loss",
        type=_positive,
        metavar="HEIGHT",
        help="give up what is missing; the highest height that may have been signed, rather too high than too low",
    )
    back.add_argument("--json", action="store_true", help="one JSON object, no progress")
    back.set_defaults(run=_restore)


def _add_mirror(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    mirror = commands.add_parser("mirror", help="begin a mirror of the blocks on another disk, or look at it")
    words = mirror.add_subparsers(required=True, metavar="WHAT")
    begin = words.add_parser("begin", help="make the empty folder of [mirror] path a mirror, from the next block on")
    _config(begin)
    begin.set_defaults(run=_mirror_begin)
    show = words.add_parser("show", help="read all of a mirror: how far it goes, and whether it is whole")
    _config(show)
    show.set_defaults(run=_mirror_show)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def _until(text: str) -> Until:
    if text.isdecimal():
        return Until(height=int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is neither a height nor a time like 2026-01-31T12:00:00Z") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Until(time_ms=int(moment.timestamp() * 1000))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Tell]:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}")
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, of: bars.update(task, description=what, completed=done, total=of or None)


def _say(told: dict[str, object], text: str, *, as_json: bool) -> None:
    sys.stdout.write((json.dumps(told) if as_json else text) + "\n")


def moment(time_ms: int) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms // 1000))


# --- backup and restore --------------------------------------------------------------------------------------------------


def _backup(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    if options.prune_mirror and config.mirror is None:
        raise ConfigError(f"{options.config}: there is no [mirror] to prune")
    wanted = Wanted(options.with_keys, options.with_evidence, tuple(options.also))
    with _progress(quiet=options.json) as tell:
        made = take_backup(options.config, config, options.to, wanted, tell)
    manifest, genesis_hash = read_manifest(made), config.genesis.hash()
    gone = keep_newest(options.to, genesis_hash, options.keep) if options.keep else []
    pruned: list[Path] = []
    if options.prune_mirror and config.mirror is not None:
        oldest = min(m.height for _, m in backups(options.to) if m.genesis == genesis_hash.hex())
        pruned = prune(config.mirror, genesis_hash, oldest)
    size = sum(size for size, _ in manifest.files.values())
    told: dict[str, object] = {
        "backup": str(made),
        "height": manifest.height,
        "bytes": size,
        "evidence": manifest.evidence,
        "keys": options.with_keys,
        "deleted": [str(path) for path in gone],
        "pruned_segments": len(pruned),
    }
    text = f"{made}\n  block {manifest.height} of {manifest.chain_id}, {size} bytes in {len(manifest.files)} files, checked"
    text += "" if options.with_keys else "\n  without private keys: keep a copy of them elsewhere"
    text += f"\n  evidence {manifest.evidence}"
    text += f"\n  {len(gone)} older backups deleted" if gone else ""
    text += f"\n  {len(pruned)} segments of the mirror deleted" if pruned else ""
    _say(told, text, as_json=options.json)
    return 0


def _restore(options: argparse.Namespace) -> int:
    with _progress(quiet=options.json) as tell:
        found = restore(
            options.source,
            options.to,
            tell,
            mirror=options.mirror,
            until=options.until,
            accept_loss=options.accept_loss,
        )
    told: dict[str, object] = {
        "data": str(options.to),
        "backup_height": found.manifest.height,
        "from_mirror": found.from_mirror,
        "height": found.height,
        "is_whole": found.is_whole,
        "passed_over": found.passed_over,
    }
    _say(told, _restored_text(options, found), as_json=options.json)
    return 0


def _restored_text(options: argparse.Namespace, found: Restored) -> str:
    text = f"{options.to}: block {found.height} of {moment(found.time_ms)}"
    text += f"\n  {found.manifest.height} blocks from the backup, {found.from_mirror} from the mirror"
    if found.passed_over:
        text += f"\n  the last {found.passed_over} heights are left unsigned; what stood there is lost"
    if not found.is_whole:
        return text + (
            "\n  TO LOOK AT ONLY: blocks behind it may have been signed, so no coordinator goes on with it. To go on, restore"
            "\n  with all of the mirror, or with --accept-loss"
        )
    text += "\n  Was the old machine at work after that time without its mirror? Then restore again with --accept-loss."
    return text + f"\n  Next: the configuration is in {options.source / 'config'}; keys belong where it says, mode 600"


# --- mirror --------------------------------------------------------------------------------------------------------------


def _mirror_of(options: argparse.Namespace) -> tuple[CoordinatorConfig, Path]:
    config = load_config(options.config)
    if config.mirror is None:
        raise ConfigError(f"{options.config}: there is no [mirror]; add it with a path (docs/keeping.md)")
    return config, config.mirror


def _mirror_begin(options: argparse.Namespace) -> int:
    config, folder = _mirror_of(options)
    height, digest = 0, _ZERO
    if (config.data / LEDGER).is_file():
        store = open_ledger(config.data / LEDGER, config.genesis)
        try:
            header = store.last_header()
        finally:
            store.close()
        if header is not None:
            height, digest = decode_header(header).height, decode_header(header).hash()
    begin_mirror(folder, config.genesis.hash(), height, digest)
    _say(
        {"mirror": str(folder), "first": height + 1},
        f"{folder} is a mirror from block {height + 1} on; start the coordinator, then take a backup",
        as_json=options.json,
    )
    return 0


def _mirror_show(options: argparse.Namespace) -> int:
    config, folder = _mirror_of(options)
    reader = MirrorReader(folder, config.genesis.hash())
    last_ms = 0
    with _progress(quiet=options.json) as tell:
        for block in reader.blocks(reader.first):
            last_ms = block.header.time_ms
            tell("reading the mirror", block.header.height, 0)
    told: dict[str, object] = {
        "first": reader.first,
        "height": reader.height,
        "time_ms": last_ms,
        "is_whole": reader.is_whole,
    }
    end = "its end is the chain's" if reader.is_whole else "blocks behind its end may have been signed"
    when = f", of {moment(last_ms)}" if last_ms else ""
    _say(told, f"{folder}: blocks {reader.first} to {reader.height}{when}; {end}", as_json=options.json)
    return 0


# --- upgrade -------------------------------------------------------------------------------------------------------------


def _upgrade_check(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    with _progress(quiet=options.json) as tell:
        findings = look_ahead(config, options.backups, tell)
    text = "\n".join(f"{'ok  ' if finding.is_fine else 'STOP'} {finding.what}: {finding.text}" for finding in findings)
    told: dict[str, object] = {finding.what: {"ok": finding.is_fine, "says": finding.text} for finding in findings}
    _say(told, text, as_json=options.json)
    return 0 if all(finding.is_fine for finding in findings) else 1
