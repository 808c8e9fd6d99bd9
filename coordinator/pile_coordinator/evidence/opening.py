"""Opens an evidence database to read it, for commands."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from pile_shared.errors import ConfigError, PilechainError


class EvidenceReadError(PilechainError):
    """The evidence database cannot be read."""

    code = "evidence"


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add `--evidence` to a command."""
    parser.add_argument(
        "--evidence",
        default="data/evidence.sqlite",
        metavar="WHERE",
        help="evidence.sqlite of a coordinator's data folder, or the URL of a database server (default: data/evidence.sqlite)",
    )


@contextmanager
def reading(where: str) -> Iterator[Connection]:
    """A connection that only reads a SQLite file, or whatever a URL names.

    Raises:
        ConfigError: there is no such file.
        EvidenceReadError: it holds no evidence of this program's schema, or the server does not answer.
    """
    is_file = "://" not in where
    if is_file and not Path(where).is_file():
        raise ConfigError(f"{where}: no such file; name a coordinator's evidence with --evidence")
    engine = create_engine(f"sqlite:///{where}" if is_file else where)
    if is_file:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    try:
        with engine.connect() as db:
            yield db
    except DBAPIError as error:
        raise EvidenceReadError(
            f"the evidence at {engine.url!r} cannot be read ({error.orig}); start its coordinator once, or rebuild it"
        ) from error
    finally:
        engine.dispose()
