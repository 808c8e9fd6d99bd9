"""Opens an evidence database to read it, for commands."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from pile_coordinator.evidence.database import HEAD, EvidenceError, open_database, revision
from pile_shared.errors import ConfigError


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add `--evidence` to a command."""
    parser.add_argument(
        "--evidence",
        default="data/evidence.sqlite",
        metavar="WHERE",
        help="evidence.sqlite of a coordinator's data folder, or the URL of a database server (default: data/evidence.sqlite)",
    )


def open_to_read(where: str) -> Engine:
    """The evidence at the path of a SQLite file, of which nothing can be changed, or at a URL; the user may have SELECT only.

    Raises:
        ConfigError: there is no such file, or it is no URL of a database this knows.
        EvidenceError: it holds no evidence of this program's schema, or the server does not answer.
    """
    is_file = "://" not in where
    if is_file and not Path(where).is_file():
        raise ConfigError(f"{where}: no such file; name a coordinator's evidence with --evidence")
    engine = open_database(Path(where) if is_file else where)
    if is_file:
        event.listen(engine, "connect", _only_read)
    try:
        with engine.connect() as db:
            found = revision(db)
    except DBAPIError as error:
        engine.dispose()
        raise EvidenceError(f"the evidence at {engine.url!r} cannot be read ({error.orig})") from error
    except EvidenceError:
        engine.dispose()
        raise
    if found != HEAD:
        engine.dispose()
        raise EvidenceError(
            f"the evidence at {engine.url!r} is not of this program's schema; start its coordinator once, which"
            " migrates it or makes it anew"
        )
    return engine


@contextmanager
def reading(where: str) -> Iterator[Connection]:
    """A connection that only reads a SQLite file, or whatever a URL names.

    Raises:
        ConfigError: there is no such file.
        EvidenceError: it holds no evidence of this program's schema, or the server does not answer.
    """
    engine = open_to_read(where)
    try:
        with engine.connect() as db:
            yield db
    except DBAPIError as error:
        raise EvidenceError(f"the evidence at {engine.url!r} cannot be read ({error.orig})") from error
    finally:
        engine.dispose()


def _only_read(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")
