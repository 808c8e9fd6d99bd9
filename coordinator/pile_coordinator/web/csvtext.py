"""CSV as it is sent: RFC 4180, a header line, a page of rows at a time, no text that a spreadsheet takes for a formula."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

CSV_TYPE = "text/csv"
MAX_ROWS = 20_000  # of one answer, some 6 MB; who wants more asks in parts
Format = Annotated[
    Literal["json", "csv"] | None,
    Query(alias="format", description="As what; without it, what the header Accept prefers."),
]
CSV_ANSWER: dict[int | str, dict[str, Any]] = {200: {"content": {CSV_TYPE: {"schema": {"type": "string"}}}}}


def wants_csv(request: Request, form: str | None) -> bool:
    """Whether a request wants CSV, by its `format` or else by its Accept."""
    if form is not None:
        return form == "csv"
    accepted = request.headers.get("accept", "")
    return CSV_TYPE in accepted and "application/json" not in accepted


def csv_answer(name: str, columns: list[str], pages: Iterable[Iterable[dict[str, Any]]]) -> StreamingResponse:
    """Rows as a download called `name`.csv, sent page by page as they come: `pages` are asked for one at a time."""
    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(_chunks(columns, pages), media_type=CSV_TYPE, headers=headers)


def _chunks(columns: list[str], pages: Iterable[Iterable[dict[str, Any]]]) -> Iterator[str]:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for page in pages:
        writer.writerows({key: as_text(value) for key, value in row.items()} for row in page)
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def as_text(value: object) -> object:
    """A cell. Numbers stay numbers, negative ones too; text that begins like a formula gets an apostrophe (OWASP)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value
