"""`pilechain evidence`: how far the evidence database is, and filling or migrating it."""

import argparse
import json
import sys
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.exc import DBAPIError

from pile_coordinator import evidence_stats_cli, evidence_trace_cli
from pile_coordinator.config import CoordinatorConfig, load_config
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.store import Store
from pile_coordinator.evidence.database import HEAD, EvidenceAwayError, EvidenceError, open_database, prepare, revision
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.schema import mark
from pile_coordinator.only_one import OnlyOne
from pile_coordinator.replay import open_ledger

_AT_ONCE = 100  # blocks between two steps of the progress bar

_DESCRIPTION = """\
The evidence database holds every order, contract, proof and posting of the chain's blocks (docs/evidence.md). It is a SQLite
file in the data folder, or what [evidence] url of coordinator.toml names. The coordinator keeps it up to date by itself."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `evidence` to the command line."""
    evidence = commands.add_parser(
        "evidence", help="the evidence database: status, rebuild, migrate", description=_DESCRIPTION
    )
    words = evidence.add_subparsers(required=True, metavar="WHAT")
    for name, run, text in (
        (
            "status",
            _status,
            "how far it is behind the ledger, and its schema; changes nothing, and the coordinator may run",
        ),
        ("rebuild", _rebuild, "empty it and fill it from the ledger; stop the coordinator first"),
        ("migrate", _migrate, "bring an older schema to this program's, as the coordinator does when it starts"),
    ):
        word = words.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        word.add_argument("--config", type=Path, required=True, metavar="FILE", help="coordinator.toml")
        word.add_argument("--json", action="store_true", help="one JSON object, no progress")
        word.set_defaults(run=run)
    evidence_trace_cli.add_command(words)
    evidence_stats_cli.add_command(words)


class _Blocks:
    """The certified blocks of a ledger file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.first_height = store.first_height()
        self.height = store.height()
        while self.height >= self.first_height and not self.block(self.height).certificate.attestations:
            self.height -= 1  # of CometBFT, decided and not attested yet

    def block(self, height: int) -> Block:
        return self._store.block(height)


def _status(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    store = _open_ledger(config)
    try:
        height = _Blocks(store).height
    finally:
        store.close()
    if isinstance(config.evidence, Path) and not config.evidence.is_file():
        found, written, says = None, 0, "not made yet"
    else:
        found, written, says = _look(config)
    told: dict[str, object] = {
        "schema": found,
        "program_schema": HEAD,
        "written": written,
        "ledger": height,
        "says": says,
    }
    lag = height - written
    _show(told, f"{says}; {written} of {height} blocks are written ({lag} behind); schema {found or 'none'}", options)
    return 0 if says == "there" else 1


def _look(config: CoordinatorConfig) -> tuple[str | None, int, str]:
    engine = open_database(config.evidence)
    try:
        with engine.connect() as db:
            found = revision(db)
            written = db.execute(sa.select(mark.c.height)).scalar() if found else 0
            return found, written or 0, "there" if found == HEAD else "of another schema" if found else "empty"
    except EvidenceAwayError as error:
        return None, 0, f"away: {error}"
    finally:
        engine.dispose()


def _rebuild(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    with OnlyOne(config.data / "coordinator.lock"):
        store = _open_ledger(config)
        try:
            blocks = _Blocks(store)
            if blocks.first_height != 1:
                raise EvidenceError(
                    f"the ledger begins at block {blocks.first_height}: run the coordinator until it has fetched the older ones"
                )
            _fill(config, blocks, quiet=options.json)
        finally:
            store.close()
    _show({"written": blocks.height}, f"{blocks.height} blocks are written again", options)
    return 0


def _fill(config: CoordinatorConfig, blocks: _Blocks, *, quiet: bool) -> None:
    exporter = Exporter(config.evidence)
    try:
        exporter.empty()
        columns = TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as progress:
            task = progress.add_task("", total=blocks.height)
            while exporter.height < blocks.height:
                exporter.catch_up(blocks, _AT_ONCE)
                progress.update(task, completed=exporter.height)
    finally:
        exporter.close()


def _migrate(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    with OnlyOne(config.data / "coordinator.lock"):
        engine = open_database(config.evidence)
        try:
            with engine.connect() as db:
                before = revision(db)
                prepare(db)
        except DBAPIError as error:
            raise EvidenceError(
                f"the database refuses: {error.orig}; has its user the right to change tables?"
            ) from error
        finally:
            engine.dispose()
    _show({"before": before, "now": HEAD}, f"schema {before or 'none'} -> {HEAD}", options)
    return 0


def _open_ledger(config: CoordinatorConfig) -> Store:
    return open_ledger(config.data / "ledger.sqlite", config.genesis)


def _show(told: dict[str, object], text: str, options: argparse.Namespace) -> None:
    sys.stdout.write((json.dumps(told) if options.json else text) + "\n")
