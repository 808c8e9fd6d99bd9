"""Opens the evidence database, SQLite or MariaDB, at the schema this program knows.

The schema's revision stands in `alembic_version`, written last: without it a database is half made, or older than
revisions, and is made anew. One of an older revision is migrated (migrations/), one of a newer is refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import DropView

from pile_coordinator.evidence.schema import mark, metadata, views
from pile_coordinator.evidence.tallies import tally  # noqa: F401 - its tables are part of the schema
from pile_shared.errors import ConfigError, PilechainError

REVISIONS = ("0001", "0002")  # of migrations/versions, in order
HEAD = REVISIONS[-1]
CONNECT_S = 2  # a server that does not answer: blocks wait so long at each try
ANSWER_S = 20  # for one statement; the longest writes a block of 20,000 rows in a second
_VERSION_TABLE = "alembic_version"

# Of the server or the client library: it is away, going, or too busy, and the same statement may succeed later.
_SERVER_AWAY = 1020, 1040, 1047, 1053, 1129, 1152, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1317, 1927
_CLIENT_AWAY = 0, 2002, 2003, 2006, 2013, 2014, 2055, 4031
_REFUSED = frozenset((1044, 1045, 1049, 1142, 1698))  # the user, the password, the database, or a right
_AWAY = frozenset((*_SERVER_AWAY, *_CLIENT_AWAY))


class EvidenceError(PilechainError):
    """The evidence database cannot be used as it is; the message says what to do."""

    code = "evidence"


class EvidenceAwayError(EvidenceError):
    """The database server does not answer now. What it lacks is written when it does."""

    code = "evidence_away"


def open_database(where: Path | str, on_away: Callable[[], None] = lambda: None) -> sa.Engine:
    """The engine for a SQLite file or a URL like mysql+pymysql://user:password@host/name. Connects to nothing yet.

    Every connection commits each statement by itself; who writes several says BEGIN and COMMIT. When a server is away,
    `on_away` is called and statements raise EvidenceAwayError.

    Raises:
        ConfigError: the URL is none, or names a database this does not know.
    """
    if isinstance(where, Path):
        engine = sa.create_engine(f"sqlite:///{where}", isolation_level="AUTOCOMMIT", poolclass=StaticPool)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        return engine
    try:
        url = sa.make_url(where)
        if url.drivername != "mysql+pymysql":
            raise ConfigError(f"evidence.url begins with {url.drivername}://; expected mysql+pymysql://")
        limits = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args=limits)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"evidence.url cannot be used: {error}") from error

    def tell_away(context: ExceptionContext) -> None:
        error = context.original_exception
        code = error.args[0] if error.args else None
        if context.is_disconnect or (isinstance(context.sqlalchemy_exception, DBAPIError) and code in _AWAY):
            on_away()
            raise EvidenceAwayError(f"the evidence database does not answer (error {code})") from error
        if code in _REFUSED:
            raise EvidenceError(f"the evidence database refuses: {error.args[-1]}; check [evidence] url") from error

    sa.event.listen(engine, "handle_error", tell_away)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # it can be rebuilt; the ledger is what must be durable


# --- schema --------------------------------------------------------------------------------------------------------------


def prepare(db: sa.Connection) -> None:
    """Bring a database to this schema: made if it is empty or half made, migrated if it is older.

    Raises:
        EvidenceError: it is newer, or holds tables of somebody else.
        EvidenceAwayError: it does not answer.
    """
    found = revision(db)
    if found == HEAD:
        return
    if found is None:
        make(db)
    elif found in REVISIONS:
        migrate(db)
    else:
        raise EvidenceError(
            f"the evidence database has schema {found}, this program knows {HEAD} and older: run the newer program, or"
            " give this one another database, which it fills from the chain"
        )


def revision(db: sa.Connection) -> str | None:
    """Of the schema of a database; None if it has none, or is half made."""
    if not sa.inspect(db).has_table(_VERSION_TABLE):
        return None
    row = db.exec_driver_sql(f"SELECT version_num FROM {_VERSION_TABLE}").fetchone()  # noqa: S608 - ours
    return None if row is None else str(row[0])


def make(db: sa.Connection) -> None:
    """Empty a database and make the tables of this schema.

    Raises:
        EvidenceError: it has tables, and `mark` is not among them: it is somebody else's.
    """
    inspector = sa.inspect(db)
    if (tables := inspector.get_table_names()) and mark.name not in tables:
        raise EvidenceError(f"the database holds other tables ({tables[0]}, ...): give the evidence one of its own")
    _in_one(db, _make)


def _in_one(db: sa.Connection, change: Callable[[sa.Connection], None]) -> None:
    """In one transaction where the database can: MariaDB commits each change of a table."""
    db.exec_driver_sql("BEGIN")
    try:
        change(db)
    except BaseException:
        if db.invalidated:
            db.rollback()
        else:
            db.exec_driver_sql("ROLLBACK")
        raise
    db.exec_driver_sql("COMMIT")


def _make(db: sa.Connection) -> None:
    inspector = sa.inspect(db)
    quote = db.dialect.identifier_preparer.quote
    for view in inspector.get_view_names():
        db.exec_driver_sql(f"DROP VIEW {quote(view)}")
    tables = inspector.get_table_names()
    for table in sorted(tables, key=lambda name: (name != _VERSION_TABLE, name == mark.name)):
        db.exec_driver_sql(
            f"DROP TABLE {quote(table)}"
        )  # the revision first and the mark last: a crash leaves it half made
    mark.create(db)
    metadata.create_all(db)
    make_views(db)
    db.execute(mark.insert().values(only_row=1, height=0))
    db.exec_driver_sql(
        f"CREATE TABLE {_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, CONSTRAINT {_VERSION_TABLE}_pkc"
        " PRIMARY KEY (version_num))"
    )
    db.exec_driver_sql(f"INSERT INTO {_VERSION_TABLE} VALUES ('{HEAD}')")  # noqa: S608 - ours


def make_views(db: sa.Connection) -> None:
    """Make the views, or make them again: they hold nothing, so no migration needs to change them."""
    there = sa.inspect(db).get_view_names()
    for view in reversed(views):
        if view.table.name in there:
            db.execute(DropView(view.table))
    for view in views:
        db.execute(view)


def migrate(db: sa.Connection) -> None:
    """Run the migrations that a database of an older revision lacks."""
    from alembic import command  # noqa: PLC0415 - a third of a second, and seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, "head")
    make_views(db)
