"""Writes many rows with few statements, whose text is made once for each table.

SQLite takes rows one after the other through a prepared statement, which is the fastest it can. A server is asked over a
connection: there a statement carries as many rows as fit, and changes of older rows are a join with the new values. The driver
would spell out values one by one through several calls each, so they are spelt out here.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite

Rows = Sequence[tuple[Any, ...]]
Shape = tuple[str, str]  # what stands before and after the rows of an INSERT

STATEMENT_CHARS = 500_000  # a server takes 16 MB at once by default, 1 MB where it was set low
CHANGED_AT_ONCE = 500  # rows of one join; each is a SELECT to the server's parser
_NO_VALUES = {"no_parameters": True}  # a % in the text is one


def make_writer(dialect: sa.Dialect) -> "Writer":
    """The one for a database."""
    return Writer() if dialect.name == "sqlite" else ServerWriter()


class Writer:
    """Writes into SQLite, and is what the other is too: rows have all columns of their table, in order."""

    name = "sqlite"
    dialect: sa.Dialect = sqlite.dialect()

    def __init__(self) -> None:
        """Nothing is made yet."""
        self._shapes: dict[tuple[sa.Table, str], Shape] = {}
        self._updates: dict[tuple[sa.Table, tuple[str, ...]], str] = {}

    def insert(self, db: sa.Connection, table: sa.Table, rows: Rows, *, replaces: bool = False) -> None:
        """Write new rows; `replaces`: the last one with the same key counts."""
        word = "REPLACE" if replaces else "INSERT"
        if (table, word) not in self._shapes:
            head, tail = self.shape(table, table.insert())
            self._shapes[table, word] = head.replace("INSERT", word, 1), tail
        self.put(db, self._shapes[table, word], rows)

    def shape(self, table: sa.Table, insert: Any) -> Shape:
        """The text of an INSERT of all columns, for `put`."""
        mark = "?" if self.name == "sqlite" else "%s"
        marks = f"({', '.join([mark] * len(table.columns))})"
        head, found, tail = str(insert.compile(dialect=self.dialect)).partition(marks)
        assert found, insert
        return head, tail

    def put(self, db: sa.Connection, shape: Shape, rows: Rows) -> None:
        """Run an INSERT for these rows."""
        marks = f"({', '.join('?' * len(rows[0]))})"
        self._run(db, f"{shape[0]}{marks}{shape[1]}", rows)

    def update(
        self, db: sa.Connection, table: sa.Table, names: tuple[str, ...], key: tuple[str, ...], rows: Rows
    ) -> None:
        """Give columns, named in the table's order, new values: rows of these, and of the key's that say which row is meant."""
        if (table, names) not in self._updates:
            self._updates[table, names] = self._update(table, names, key)
        self._run(db, self._updates[table, names], rows)

    def _update(self, table: sa.Table, names: tuple[str, ...], key: tuple[str, ...]) -> str:
        found = [table.c[name] == sa.bindparam(f"_{name}") for name in key]
        changed = table.update().where(*found).values({name: sa.bindparam(name) for name in names})
        compiled = changed.compile(dialect=self.dialect)
        assert list(compiled.positiontup or ()) == [*names, *(f"_{name}" for name in key)]
        return str(compiled)

    @staticmethod
    def _run(db: sa.Connection, sql: str, rows: Rows) -> None:
        db.exec_driver_sql(sql, list(rows) if len(rows) > 1 else rows[0])


class ServerWriter(Writer):
    """Writes into MariaDB or MySQL."""

    name = "mysql"
    dialect: sa.Dialect = mysql.dialect(paramstyle="format", is_mariadb=True)

    def put(self, db: sa.Connection, shape: Shape, rows: Rows) -> None:
        """Run an INSERT for these rows, many at a time."""
        for some in _filled(map(_spell, rows)):
            db.exec_driver_sql(shape[0] + ",".join(some) + shape[1], execution_options=_NO_VALUES)

    def update(
        self, db: sa.Connection, table: sa.Table, names: tuple[str, ...], key: tuple[str, ...], rows: Rows
    ) -> None:
        """As a join with a table of the new values, which finds each row by its key."""
        quote = self.dialect.identifier_preparer.quote
        new = [f"n{i}" for i in range(len(names) + len(key))]
        found = " AND ".join(f"o.{quote(name)} = n.{n}" for name, n in zip(key, new[len(names) :], strict=True))
        change = ", ".join(f"o.{quote(name)} = n.{n}" for name, n in zip(names, new, strict=False))
        for start in range(0, len(rows), CHANGED_AT_ONCE):
            first, *others = rows[start : start + CHANGED_AT_ONCE]
            named = ", ".join(f"{_literal(value)} AS {n}" for value, n in zip(first, new, strict=True))
            values = " UNION ALL SELECT ".join([named, *(_spell(row)[1:-1] for row in others)])
            sql = f"UPDATE {quote(table.name)} o JOIN (SELECT {values}) n ON {found} SET {change}"  # noqa: S608 - spelt below
            db.exec_driver_sql(sql, execution_options=_NO_VALUES)


def _filled(rows: Iterable[str]) -> Iterator[list[str]]:
    """As many rows at a time as a statement carries."""
    some, length = list[str](), 0
    for row in rows:
        if some and length + len(row) > STATEMENT_CHARS:
            yield some
            some, length = [], 0
        some.append(row)
        length += len(row) + 1
    if some:
        yield some


# --- values as SQL spells them -------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z0-9 _.:-]*").fullmatch


@lru_cache(16_384)  # names, words and states come again and again
def _text(value: str) -> str:
    """In quotes if nothing in it could ever mean anything to a server, whatever its sql_mode; else by its bytes."""
    return f"'{value}'" if _PLAIN(value) else f"_ascii x'{value.encode('ascii').hex()}'"


_SPELT: dict[type, Callable[[Any], str]] = {
    int: str,
    str: _text,
    bytes: lambda value: f"x'{value.hex()}'",
    bool: lambda value: "1" if value else "0",
    type(None): lambda _: "NULL",
}


def _literal(value: object) -> str:
    return _SPELT[type(value)](value)


def _spell(row: tuple[object, ...]) -> str:
    return f"({','.join([_SPELT[type(value)](value) for value in row])})"
