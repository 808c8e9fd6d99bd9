"""Exports over HTTP: one closed contract, or all that a time closed, in the formats of docs/exports.md.

An answer is made whole in a temporary file before it begins, so that what is wrong is told as a problem and never as a file
that ends too early; it is bounded by the number of orders, and no reader holds a connection or a ledger while it reads.
"""

import csv
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.evidence.closed import closed_contracts
from pile_coordinator.exports import tables
from pile_coordinator.exports.ocmf import Record, RecordFolder, check_records, safe_xml
from pile_coordinator.exports.ocpi import cdrs_json
from pile_coordinator.exports.ocpp import signed_meter_values_json
from pile_coordinator.exports.order import ExportError, Order, read_order
from pile_coordinator.web.access import view_of
from pile_coordinator.web.csvtext import as_text
from pile_coordinator.web.paging import encode_place
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.shared import Allowed, Cursor, Here, InHash, Web, place_of
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.units import MAX_TIME_MS

CERTIFICATE, OCMF, XML, OCPP, CDR, CSV, POSTINGS, PARQUET = FORMATS = (
    "certificate", "ocmf", "xml", "ocpp", "cdr", "csv", "postings", "parquet",
)  # fmt: skip
OF_RECORDS = frozenset((OCMF, XML, OCPP))
TABLES = frozenset((CSV, POSTINGS, PARQUET))
ZIP_TYPE = "application/zip"
TYPES = {
    CERTIFICATE: "application/cbor", OCMF: "text/plain; charset=utf-8", XML: "application/xml", OCPP: "application/json",
    CDR: "application/json", CSV: "text/csv; charset=utf-8", POSTINGS: "text/csv; charset=utf-8",
    PARQUET: "application/vnd.apache.parquet",
}  # fmt: skip
SUFFIXES = {CERTIFICATE: "cbor", OCMF: "ocmf", XML: "xml", OCPP: "ocpp.json", CDR: "cdr.json", CSV: "csv",
            POSTINGS: "postings.csv", PARQUET: "parquet"}  # fmt: skip
MAX_ORDERS = 200  # of one answer: a second or two of checking certificates
CHUNK_BYTES = 65_536

Form = Annotated[
    Literal["certificate", "ocmf", "xml", "ocpp", "cdr", "csv", "postings", "parquet"], InPath(description="As what.")
]
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind.partition(";")[0]: {} for kind in [*TYPES.values(), ZIP_TYPE]}}
}


def routes() -> APIRouter:
    """Both."""
    router = APIRouter(tags=["exports"])
    answer: dict[str, Any] = {"response_class": Response, "responses": _CONTENT}

    @router.get("/contracts/{contract}/exports/{form}", name="export", **answer)
    def export(web: Here, grant: Allowed, contract: InHash, form: Form) -> Response:
        """A closed contract: its certificate, OCMF records, S.A.F.E. XML, OCPP values, OCPI records, or its row or postings."""
        name = bytes.fromhex(contract)
        web.reading.contract(grant, name)
        maker = _Maker(web, form)
        with ExitStack() as stack:
            made = stack.enter_context(_file())
            count = maker.write_one(made, name)
            headers = {"pilechain-orders": str(count), "pilechain-refused": "0"}
            return _download(made, f"{contract}.{SUFFIXES[form]}", TYPES[form], headers, stack.pop_all())

    @router.get("/exports/{form}", name="exports", **answer)
    def exports(
        web: Here,
        grant: Allowed,
        form: Form,
        since_ms: Annotated[int, Query(description="Closed from then on, unix ms.", ge=0, le=MAX_TIME_MS)] = 0,
        until_ms: Annotated[int, Query(description="Closed before then, unix ms.", ge=0, le=MAX_TIME_MS)] = MAX_TIME_MS,
        cursor: Cursor = None,
        limit: Annotated[int, Query(description="Orders of one answer.", ge=1, le=MAX_ORDERS)] = 100,
    ) -> Response:
        """Contracts that a time closed, in the order of the chain: tables as one file, all else as a ZIP with a file for each.

        `Pilechain-Next` is the cursor of what follows, `Pilechain-Orders` says how many orders are in the answer and
        `Pilechain-Refused` how many are not, as they could not be said in this format: `refused.json` of a ZIP has why.
        """
        maker = _Maker(web, form)
        with web.reading.connect() as db:
            after = place_of("exports", (int, int), cursor)
            rows, following = closed_contracts(db, view_of(grant.token), since_ms, until_ms, after=after, limit=limit)
        with ExitStack() as stack:
            made = stack.enter_context(_file())
            count = maker.write_many(made, [bytes.fromhex(row["id"]) for row in rows])
            headers = {"pilechain-orders": str(count), "pilechain-refused": str(len(rows) - count)}
            if following is not None:
                headers["pilechain-next"] = encode_place("exports", following)
            is_table = form in TABLES
            name, kind = (f"orders.{SUFFIXES[form]}", TYPES[form]) if is_table else (f"{form}.zip", ZIP_TYPE)
            return _download(made, name, kind, headers, stack.pop_all())

    return router


def _file() -> IO[bytes]:
    """In memory while it is small."""
    return tempfile.SpooledTemporaryFile(max_size=1 << 23)


def _download(made: IO[bytes], name: str, kind: str, headers: dict[str, str], held: ExitStack) -> Response:
    headers |= {"content-disposition": f'attachment; filename="{name}"', "content-length": str(made.tell())}
    made.seek(0)

    def chunks() -> Iterator[bytes]:
        with held:
            while chunk := made.read(CHUNK_BYTES):
                yield chunk

    return StreamingResponse(chunks(), media_type=kind, headers=headers)


class _Maker:
    """Makes the files of one format."""

    def __init__(self, web: Web, form: str) -> None:
        """Refused (409) if the server's configuration lacks what the format needs."""
        if web.certificates is None or web.config.genesis is None:
            raise Refused(409, "no_ledger", "this server has no ledger; set ledger and genesis in web.toml")
        if form in OF_RECORDS and web.config.ocmf is None:
            raise Refused(409, "no_records", "this server has no OCMF records; set ocmf in web.toml")
        if form == CDR and web.config.operator is None:
            raise Refused(409, "no_operator", "this server knows no operator; set operator in web.toml")
        self._certificates, self._genesis, self._form = web.certificates, web.config.genesis, form
        self._operator = web.config.operator
        self._records = _records_of(web.config.ocmf)

    def write_one(self, out: IO[bytes], contract: bytes) -> int:
        """One contract; Refused (409) if it has no certificate, or cannot be said in the format."""
        with self._certificates.making() as make:
            try:
                order = _order(make, contract, self._genesis)
                if self._form in TABLES:
                    self._write_table(out, [order])
                else:
                    out.write(self._content(order))
            except PilechainError as error:
                status = error.status if isinstance(error, Refused) else 409
                raise Refused(status, error.code, error.message[:480]) from error
        return 1

    def write_many(self, out: IO[bytes], contracts: list[bytes]) -> int:
        """Several; how many are in it."""
        refused: dict[str, str] = {}
        with self._certificates.making() as make:
            orders = self._orders(make, contracts, refused)
            if self._form in TABLES:
                return self._write_table(out, orders)
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
                count = self._write_files(archive, orders, refused)
                if refused:
                    archive.writestr("refused.json", json.dumps(refused, indent=2))
        return count

    def _orders(
        self, make: Callable[[bytes], bytes], contracts: list[bytes], refused: dict[str, str]
    ) -> Iterator[Order]:
        for contract in contracts:
            try:
                yield _order(make, contract, self._genesis)
            except PilechainError as error:
                refused[contract.hex()] = error.message

    def _write_files(self, archive: zipfile.ZipFile, orders: Iterable[Order], refused: dict[str, str]) -> int:
        count = 0
        for order in orders:
            try:
                content = self._content(order)
            except PilechainError as error:
                refused[order.contract] = error.message
                continue
            archive.writestr(f"{order.contract}.{SUFFIXES[self._form]}", content)
            count += 1
        return count

    def _content(self, order: Order) -> bytes:
        """The file of one order; ExportError if it has no records and the format is made of them, or they are not its own."""
        if self._form == CERTIFICATE:
            return order.certificate
        records = self._records(order)
        if self._form == CDR:
            assert self._operator is not None
            return cdrs_json(order, self._operator, records)
        if not records:
            raise ExportError("there are no OCMF records of this contract")
        if self._form == XML:
            return safe_xml(order, records).encode()
        if self._form == OCPP:
            return signed_meter_values_json(order, records)
        return "".join(f"{record.text}\n" for record in records).encode()

    def _write_table(self, out: IO[bytes], orders: Iterable[Order]) -> int:
        if self._form == PARQUET:
            return _write_parquet(out, orders)
        is_orders, count = self._form == CSV, 0
        text = io.TextIOWrapper(out, "utf-8", newline="")
        writer = csv.DictWriter(text, list(tables.ORDER_COLUMNS if is_orders else tables.POSTING_COLUMNS))
        writer.writeheader()
        for order in orders:
            rows = [tables.order_row(order)] if is_orders else tables.posting_rows(order)
            writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)
            count += 1
        text.detach()
        return count


def _order(make: Callable[[bytes], bytes], contract: bytes, genesis: Genesis) -> Order:
    """Nothing is exported that does not verify."""
    return read_order(make(contract), genesis)


def _write_parquet(out: IO[bytes], orders: Iterable[Order]) -> int:
    """Its writer wants a path; Refused (409) where pyarrow is not installed."""
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.parquet"
        try:
            table = tables.ParquetTable(path, tables.ORDER_COLUMNS)
        except ConfigError as error:
            raise Refused(409, "no_parquet", error.message) from error
        with table:
            for order in orders:
                table.add([tables.order_row(order)])
                count += 1
        with path.open("rb") as written:
            shutil.copyfileobj(written, out)
    return count


def _records_of(folder: Path | None) -> Callable[[Order], list[Record]]:
    """What finds the checked OCMF records of an order: the one place that knows where they come from."""
    if folder is None:
        return lambda _: []
    try:
        found = RecordFolder(folder)
    except ConfigError as error:
        raise Refused(409, "no_records", error.message[:480]) from error
    return lambda order: check_records(order, found.texts(order))
