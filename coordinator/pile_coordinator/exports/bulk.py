"""Many orders into a folder: a file per order and format, and tables over all. One bad order stops no other.

    <contract>.cbor             the certificate          <contract>.cdr.json    OCPI 2.2.1 records
    <contract>.begin.ocmf, .end.ocmf, .xml               <contract>.ocpp.json   OCPP signed meter values
    orders.csv, postings.csv, orders.parquet, postings.parquet

One order is in memory at a time. A file is there whole or not at all; a table appears when the last order is done.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.exports import tables
from pile_coordinator.exports.ocmf import Record, RecordSources, record_kinds, safe_xml
from pile_coordinator.exports.ocpi import cdrs_json
from pile_coordinator.exports.ocpp import signed_meter_values_json
from pile_coordinator.exports.operator import Operator
from pile_coordinator.exports.order import Order, closed_ms, read_order
from pile_coordinator.exports.sources import Source
from pile_coordinator.exports.tables import CsvTable, ParquetTable
from pile_shared.errors import ConfigError, PilechainError

CERTIFICATE, OCMF, OCPP, CDR, CSV, PARQUET = "certificate", "ocmf", "ocpp", "cdr", "csv", "parquet"
FORMATS = (CERTIFICATE, OCMF, OCPP, CDR, CSV, PARQUET)
MAX_MISSING = 10_000  # records named one by one: boards make none, and a year of them is many
_Table = CsvTable | ParquetTable


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export.

    Attributes:
        formats: of FORMATS. closed_from_ms, closed_until_ms: of which orders, by when they closed, from inclusive to
        exclusive. operator: for CDR. records: for OCMF and OCPP, and the signed data of a CDR; None if there are none.
    """

    formats: frozenset[str]
    closed_from_ms: int
    closed_until_ms: int
    operator: Operator | None = None
    records: RecordSources | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """OCMF records that were looked for in vain: contract id in hexadecimal, pile id, and which of begin and end."""

    contract: str
    pile: str
    kinds: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """What became of the orders.

    Attributes:
        exported, outside, refused: how many were written, closed outside the time asked for, or refused. with_ocmf,
        without_ocmf: of the written, how many had an OCMF record, and how many lacked one that the session should have.
        missing: the first MAX_MISSING that lacked one.
    """

    exported: int = 0
    outside: int = 0
    refused: int = 0
    with_ocmf: int = 0
    without_ocmf: int = 0
    missing: list[Missing] = field(default_factory=list)


def export_orders(
    certificates: Iterable[Source],
    genesis: Genesis,
    folder: Path,
    wanted: Wanted,
    on_order: Callable[[str, PilechainError | None], None] = lambda _name, _error: None,
) -> Report:
    """Verify every certificate and write its order in every format.

    Args:
        certificates: name, for messages, and what reads or makes each.
        genesis: that pins the chain.
        folder: where to write; it is made. Files of the same names are replaced.
        wanted: formats, time and what they need.
        on_order: told of each with None, or with why nothing of it was written.

    Raises:
        ConfigError: a format lacks what it needs, or the folder cannot be written.
    """
    if CDR in wanted.formats and wanted.operator is None:
        raise ConfigError("a CDR needs the operator's file: --operator operator.toml (docs/exports.md)")
    if {OCMF, OCPP} & wanted.formats and wanted.records is None:
        raise ConfigError("OCMF and OCPP need the piles' records: a data folder that has them, or --ocmf FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _tables(folder, wanted.formats) as (orders, postings):
            return _Run(genesis, folder, wanted, orders, postings).run(certificates, on_order)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error


class _Run:
    """One export."""

    def __init__(
        self, genesis: Genesis, folder: Path, wanted: Wanted, orders: list[_Table], postings: list[_Table]
    ) -> None:
        self._genesis, self._folder, self._wanted = genesis, folder, wanted
        self._orders, self._postings = orders, postings
        self._report = Report()
        self._seen: set[str] = set()  # 100 bytes an order: a million orders are 100 MB

    def run(self, certificates: Iterable[Source], on_order: Callable[[str, PilechainError | None], None]) -> Report:
        for name, read in certificates:
            try:
                self._export(read())
            except PilechainError as error:
                self._report.refused += 1
                on_order(name, error)
            else:
                on_order(name, None)
        return self._report

    def _export(self, data: bytes) -> None:
        wanted = self._wanted
        if not wanted.closed_from_ms <= closed_ms(data) < wanted.closed_until_ms:
            self._report.outside += 1
            return
        order = read_order(data, self._genesis)
        if order.contract in self._seen:  # the same order twice would be money twice in the tables
            return
        records = wanted.records.records(order) if wanted.records else []
        for suffix, content in self._files(order, records).items():
            _replace(self._folder / f"{order.contract}{suffix}", content)
        for table in self._orders:
            table.add([tables.order_row(order)])
        for table in self._postings:
            table.add(tables.posting_rows(order))
        self._seen.add(order.contract)
        self._report.exported += 1
        self._report.with_ocmf += bool(records)
        if wanted.records is not None:
            self._note_missing(order, records)

    def _note_missing(self, order: Order, records: list[Record]) -> None:
        there = {record.kind for record in records}
        kinds = tuple(kind for kind in record_kinds(order) if kind not in there)
        self._report.without_ocmf += bool(kinds)
        if kinds and len(self._report.missing) < MAX_MISSING:
            self._report.missing.append(Missing(order.contract, order.terms.pile, kinds))

    def _files(self, order: Order, records: list[Record]) -> dict[str, bytes]:
        """All of an order's files before the first is written."""
        wanted, files = self._wanted, dict[str, bytes]()
        if CERTIFICATE in wanted.formats:
            files[".cbor"] = order.certificate
        if OCMF in wanted.formats and records:
            files |= {f".{record.kind}.ocmf": record.text.encode() for record in records}
            files[".xml"] = safe_xml(order, records).encode()
        if OCPP in wanted.formats and records:
            files[".ocpp.json"] = signed_meter_values_json(order, records)
        if CDR in wanted.formats:
            assert wanted.operator is not None
            files[".cdr.json"] = cdrs_json(order, wanted.operator, records)
        return files


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


@contextmanager
def _tables(folder: Path, formats: frozenset[str]) -> Iterator[tuple[list[_Table], list[_Table]]]:
    """The tables of orders and of postings that were asked for; they get their names when all is written."""
    columns = {"orders": tables.ORDER_COLUMNS, "postings": tables.POSTING_COLUMNS}
    opened: dict[str, list[_Table]] = {name: [] for name in columns}
    paths = []
    with ExitStack() as stack:
        for kind in sorted(formats & {CSV, PARQUET}):
            for name, of_table in columns.items():
                path = folder / f"{name}.{kind}"
                paths.append(path)
                part = path.with_name(path.name + ".part")
                opened[name].append(_table(kind, part, of_table, stack))
        yield opened["orders"], opened["postings"]
    for path in paths:
        path.with_name(path.name + ".part").replace(path)


def _table(kind: str, path: Path, columns: dict[str, bool], stack: ExitStack) -> _Table:
    if kind == CSV:
        return stack.enter_context(CsvTable(path, columns))
    return stack.enter_context(ParquetTable(path, columns))
