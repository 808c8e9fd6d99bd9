"""Pages by cursor: where the last row of a page stood, so that no page costs more than the first and none skips a row."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, tuple_

from pile_coordinator.web.models import MAX_CURSOR
from pile_coordinator.web.problems import Refused
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError

MAX_INTEGER = (1 << 63) - 1  # what a database can compare
MAX_KEY_TEXT = 64


@dataclass(frozen=True, slots=True)
class Order:
    """How a list is ordered: by columns that together are unique, all in one direction; `kinds` are their Python types."""

    name: str
    columns: tuple[ColumnElement[Any], ...]
    kinds: tuple[type, ...]
    newest_first: bool = True

    def page(
        self, connection: Connection, query: Select[Any], cursor: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """At most `limit` rows after `cursor`, and the cursor of what follows, or None."""
        keys = [column.label(f"key_{i}") for i, column in enumerate(self.columns)]
        directions = [column.desc() if self.newest_first else column.asc() for column in self.columns]
        query = query.add_columns(*keys).order_by(*directions).limit(limit + 1)
        if cursor is not None:
            query = query.where(*self._after(self._decode(cursor)))
        rows = [dict(row) for row in connection.execute(query).mappings()]
        more = self._encode(rows[limit - 1]) if len(rows) > limit else None
        return rows[:limit], more

    def _after(self, values: Sequence[Any]) -> list[ColumnElement[bool]]:
        """Rows after these values; the first column once more by itself, as MariaDB finds no index for tuples."""
        here, first, value = tuple_(*self.columns), self.columns[0], values[0]
        if self.newest_first:
            return [here < tuple_(*values), first <= value]
        return [here > tuple_(*values), first >= value]

    def _encode(self, row: dict[str, Any]) -> str:
        return encode_place(self.name, [row[f"key_{i}"] for i in range(len(self.columns))])

    def _decode(self, cursor: str) -> list[Any]:
        return decode_place(self.name, self.kinds, cursor)


def encode_place(name: str, values: Sequence[Any]) -> str:
    """The cursor of a place in a list."""
    return base64.urlsafe_b64encode(encode([name, *values])).decode().rstrip("=")


def decode_place(name: str, kinds: Sequence[type], cursor: str) -> list[Any]:
    """The place that a cursor of this list means; Refused (422) if it gave no such cursor."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        told, *values = array(decode(base64.b64decode(padded, b"-_", validate=True), MAX_CURSOR), 1 + len(kinds))
    except (binascii.Error, ValueError, PilechainError) as error:
        raise _bad_cursor() from error
    fits = all(type(value) is kind and _is_small(value) for value, kind in zip(values, kinds, strict=True))
    if told != name or not fits:
        raise _bad_cursor()
    return values


def _is_small(value: Any) -> bool:
    return abs(value) <= MAX_INTEGER if isinstance(value, int) else len(value) <= MAX_KEY_TEXT


def _bad_cursor() -> Refused:
    return Refused(422, "cursor", "cursor is not one that this list gave; begin again without one")
