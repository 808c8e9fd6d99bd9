"""The rows of one block, put together in memory and written with few statements for each table."""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.writer import Writer

Row = list[object]
Key = tuple[object, ...]

_REPLACES = {
    schema.receipt,
    schema.confirmation,
    schema.tariff_period,
    schema.repeated,
    schema.deviation,
}  # the last word counts
_FOUND_BY = {schema.pile: ("id",)}  # what changes name a row by, where it is not the key


class _Layout:
    """Of one table: where its columns stand in a row, and by which a row is found."""

    def __init__(self, table: sa.Table) -> None:
        names = [column.name for column in table.columns]
        self.place = {name: i for i, name in enumerate(names)}
        self.key = _FOUND_BY.get(table) or tuple(column.name for column in table.primary_key.columns)
        self._key_places = [self.place[name] for name in self.key]

    def key_of(self, row: Sequence[object]) -> Key:
        return tuple([row[i] for i in self._key_places])


_LAYOUTS = {table: _Layout(table) for table in schema.metadata.tables.values()}


def _ordered(table: sa.Table, columns: Iterable[str]) -> list[str]:
    return sorted(columns, key=_LAYOUTS[table].place.__getitem__)


class Batch:
    """What one block adds and changes. Rows of the same block are changed before they are written."""

    def __init__(self) -> None:
        self._rows: dict[sa.Table, dict[Key, Row]] = {}
        self._changes: dict[sa.Table, dict[Key, dict[str, object]]] = {}
        self._settled: list[tuple[sa.Table, list[tuple[object, ...]]]] = []

    def add_all(self, table: sa.Table, rows: list[tuple[object, ...]]) -> None:
        """Rows with all columns in order, that differ in their keys and that nothing in this block changes."""
        self._settled.append((table, rows))

    def add(self, table: sa.Table, *values: object) -> None:
        """A row with all columns in order; the last one counts where a table keeps the last word."""
        layout = _LAYOUTS[table]
        assert len(values) == len(layout.place), table.name
        rows = self._rows.setdefault(table, {})
        key = layout.key_of(values)
        assert key not in rows or table in _REPLACES, (table.name, key)
        rows[key] = list(values)

    def change(self, table: sa.Table, key: object, **columns: object) -> None:
        """New values for some columns of one row."""
        row = self._rows.get(table, {}).get((key,))
        if row is None:
            self._changes.setdefault(table, {}).setdefault((key,), {}).update(columns)
            return
        place = _LAYOUTS[table].place
        for name, value in columns.items():
            row[place[name]] = value

    def forget(self, table: sa.Table, column: str, value: object) -> None:
        """Take back what this block added to a table with this value."""
        rows, place = self._rows.get(table, {}), _LAYOUTS[table].place[column]
        for key in [key for key, row in rows.items() if row[place] == value]:
            del rows[key]

    def value(self, table: sa.Table, key: object, column: str) -> object:
        """Of a row this block adds; KeyError if it adds none."""
        return self._rows[table][key,][_LAYOUTS[table].place[column]]

    def column(self, table: sa.Table, column: str) -> list[object]:
        """All values that this block adds in a column."""
        return [row[_LAYOUTS[table].place[column]] for row in self._rows.get(table, {}).values()]

    def add_to(self, db: sa.Connection, writer: Writer) -> None:
        """Write the new rows."""
        for table, settled in self._settled:
            if settled:
                writer.insert(db, table, settled)
        for table, rows in self._rows.items():
            if rows:
                writer.insert(db, table, list(map(tuple, rows.values())), replaces=table in _REPLACES)

    def change_in(self, db: sa.Connection, writer: Writer) -> None:
        """Write the changes of older rows."""
        for table, changes in self._changes.items():
            alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
            for key, columns in changes.items():
                names = tuple(_ordered(table, columns))
                alike.setdefault(names, []).append((*(columns[name] for name in names), *key))
            for names, rows in alike.items():
                writer.update(db, table, names, _LAYOUTS[table].key, rows)
