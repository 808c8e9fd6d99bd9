"""Errors as RFC 9457 problem details: one shape for every refusal, with a stable code and what to do next."""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pile_shared.errors import PilechainError

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)  # anything else of SQLAlchemy is a bug of ours
PROBLEM_JSON = "application/problem+json"  # RFC 9457, section 3
MAX_MISTAKES = 16  # told of one request; who makes more mends these first
_LOG = logging.getLogger("uvicorn.error")
_MAX_LOC = 100  # characters of the place of a mistake, which may be a name that the client chose


class Mistake(BaseModel):
    """One value of a request that cannot be."""

    where: str = Field(description="Where it stands, as in `query.limit`.", max_length=_MAX_LOC)
    what: str = Field(description="What was expected, for people.", max_length=300)


class Problem(BaseModel):
    """RFC 9457 problem details, with a stable `code` of ours beside the standard members."""

    type: str = Field(description="Always `about:blank`: `code` tells what happened.", max_length=20)
    title: str = Field(description="The HTTP status in words.", max_length=60)
    status: int = Field(description="The HTTP status.", ge=400, le=599)
    detail: str = Field(description="What happened and what to do next, for people.", max_length=500)
    code: str = Field(description="What happened, for programs; never changes its meaning.", max_length=40)
    mistakes: list[Mistake] | None = Field(
        default=None, description="Of a request that is wrong: where.", max_length=MAX_MISTAKES
    )


class Refused(PilechainError):  # noqa: N818 - a refusal, and it reads so where it is raised
    """A request that is answered with a problem.

    Attributes:
        status: the HTTP status, 400 to 599. headers: that go with it, such as Retry-After.
    """

    code = "refused"

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Refuse with this status, stable code and words."""
        super().__init__(detail, code)
        self.status = status
        self.headers = dict(headers or {})


def problem(
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    mistakes: list[dict[str, str]] | None = None,
) -> JSONResponse:
    """The response that says so."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if mistakes:
        body["mistakes"] = mistakes
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=PROBLEM_JSON)


def add_handlers(app: FastAPI, on_database_error: Callable[[], None]) -> None:
    """Make every error of `app` a problem; `on_database_error()` is called for those of the database."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return problem(error.status, error.code, error.message, error.headers)

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        words = {
            404: "there is nothing here; /openapi.json lists what there is",
            405: "this path is only read, with GET",
        }
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        return problem(error.status_code, code, words.get(error.status_code, str(error.detail)), error.headers)

    async def wrong(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        mistakes = [
            {"where": ".".join(str(part) for part in mistake["loc"])[:_MAX_LOC], "what": str(mistake["msg"])[:300]}
            for mistake in error.errors()[:MAX_MISTAKES]
        ]
        return problem(422, "wrong_request", "the request is wrong; see mistakes, and /openapi.json", None, mistakes)

    async def database(_: Request, error: Exception) -> JSONResponse:
        on_database_error()
        _LOG.warning("the database does not answer: %s", str(error).partition("\n")[0][:300])
        detail = "the evidence database does not answer; try again, and see that it runs and is not being rebuilt"
        return problem(503, "database", detail, {"Retry-After": "5"})

    async def bug(_: Request, __: Exception) -> JSONResponse:
        return problem(500, "internal", "a mistake of ours; the log of the server has the details")

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, wrong)
    for kind in DATABASE_AWAY:
        app.add_exception_handler(kind, database)
    app.add_exception_handler(Exception, bug)
