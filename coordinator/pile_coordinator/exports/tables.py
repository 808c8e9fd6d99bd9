"""Orders and postings as rows, for spreadsheets (CSV) and data tools (Parquet): the same columns, all quantities integers."""

import csv
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from pile_coordinator.chain.settlement import deviation, energy_of
from pile_coordinator.exports.order import Order
from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS_PER_GROUP = 10_000  # of a Parquet file: some 5 MB in memory

# Column: is it a number? Parquet has int64 for numbers, text for the rest.
ORDER_COLUMNS: dict[str, bool] = {
    "contract": False,
    "chain": False,
    "pile": False,
    "zone": False,
    "user": False,
    "owner": False,
    "outcome": False,
    "cause": False,
    "deviation": False,
    "dispute": False,
    "ordered_wh": True,
    "measured_wh": True,
    "contracted_wh": True,
    "grid_wh": True,
    "unpaid_wh": True,
    "price_micro_per_kwh": True,
    "catalog_sell_micro_per_kwh": True,
    "catalog_buy_micro_per_kwh": True,
    "currency": False,
    "user_paid_micro": True,
    "owner_earned_micro": True,
    "grid_micro": True,
    "fees_micro": True,
    "window_start_ms": True,
    "window_end_ms": True,
    "begin_ms": True,
    "end_ms": True,
    "signed_ms": True,
    "settled_ms": True,
    "closed_ms": True,
    "signed_height": True,
    "closed_height": True,
    "proofs": True,
    "funding": False,
    "set_size": True,
}
POSTING_COLUMNS: dict[str, bool] = {
    "contract": False,
    "closed_ms": True,
    "item": True,
    "debit": False,
    "credit": False,
    "amount_micro": True,
    "currency": False,
}

Row = dict[str, Any]


def order_row(order: Order) -> Row:
    """One order, by the settlement that counts. Begin and end are None for what never began."""
    terms, statement, money = order.terms, order.verified.statement, order.money(order.verified.statement)
    energy = energy_of(terms, statement.measured_wh)
    values: tuple[object, ...] = (
        *(order.contract, order.chain_id, terms.pile, terms.zone, terms.user, terms.owner),
        *(order.verified.outcome, statement.cause, deviation(terms, statement.measured_wh)),
        statement.verdict.basis if statement.verdict else None,
        *(terms.energy_wh, statement.measured_wh, energy.contracted_wh, energy.grid_wh, energy.unpaid_wh),
        *(terms.price_micro_per_kwh, terms.catalog_sell_micro_per_kwh, terms.catalog_buy_micro_per_kwh),
        *(order.currency, money.user_paid_micro, money.owner_earned_micro, money.grid_micro, money.fees_micro),
        *(terms.window_start_ms, terms.window_end_ms),
        order.session[0].readings[0].time_ms if order.session else None,
        order.session[-1].readings[-1].time_ms if order.session else None,
        *(order.signed_ms, order.written_ms, order.closed_ms),
        *(order.verified.signed_height, order.verified.closed_height, order.verified.proofs),
        *(order.funding, order.verified.set_size),
    )
    return dict(zip(ORDER_COLUMNS, values, strict=True))


def posting_rows(order: Order) -> list[Row]:
    """The postings that moved money, in their order."""
    return [
        {
            "contract": order.contract,
            "closed_ms": order.closed_ms,
            "item": item,
            "debit": row.debit,
            "credit": row.credit,
            "amount_micro": row.amount_micro,
            "currency": order.currency,
        }
        for item, row in enumerate(order.verified.statement.postings)
    ]


class CsvTable:
    """A CSV file being written (RFC 4180, UTF-8, a header line). What is empty is None."""

    def __init__(self, path: Path, columns: dict[str, bool]) -> None:
        """Create it."""
        self._file: TextIO = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, list(columns))
        self._writer.writeheader()

    def add(self, rows: "Sequence[Row]") -> None:
        """Append rows."""
        self._writer.writerows({name: _as_text(value) for name, value in row.items()} for row in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._file.close()


class ParquetTable:
    """A Parquet file being written, in groups of ROWS_PER_GROUP rows. Needs pyarrow."""

    def __init__(self, path: Path, columns: dict[str, bool]) -> None:
        """Create it; ConfigError if pyarrow is not installed."""
        try:
            pa: Any = import_module("pyarrow")  # who wants no Parquet needs none, and it has no types
            parquet: Any = import_module("pyarrow.parquet")
        except ImportError as error:
            raise ConfigError("Parquet needs pyarrow, which is not installed: pip install pyarrow") from error
        self._arrow = pa
        self._schema = pa.schema(
            [(name, pa.int64() if is_number else pa.string()) for name, is_number in columns.items()]
        )
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._waiting: list[Row] = []

    def add(self, rows: "Sequence[Row]") -> None:
        """Append rows; they reach the file group by group."""
        self._waiting += rows
        if len(self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._arrow.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _as_text(value: object) -> object:
    """No spreadsheet may take text for a formula: ids may begin with "-", a currency with anything printable."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} else value
