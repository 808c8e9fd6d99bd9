"""The description of the API (OpenAPI 3.1): problems, the token and the live events, which FastAPI does not know of."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pile_coordinator.web.models import BlockOut, LivePrice
from pile_coordinator.web.problems import PROBLEM_JSON, Problem

ABOUT = """What the evidence database knows of a Pilechain, read-only. Times are unix milliseconds, energy is in Wh,
money in micro (10^-6 of the currency), prices in micro per kWh: integers of 64 bits. Lists come in pages; give `next` as
`cursor`."""

_ALWAYS = {
    413: "The request is too large.",
    414: "Path and query are too long.",
    431: "The headers are too large.",
    429: "Too many requests; Retry-After says when.",
    503: "The database does not answer.",
}
_WITH_TOKEN = {401: "No token, or one that is not good.", 403: "The token's role has no part in this."}
_CONFLICT = {409: "It cannot be answered as things stand; `code` says why."}
_CONFLICTING = ("/certificate", "/exports/{form}", "/trace/{kind}/{id}")
_REFERENCE = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Have `app` describe itself so."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _description(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes, openapi_version="3.1.0"
    )
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for model in (Problem, BlockOut, LivePrice):
        whole = model.model_json_schema(ref_template=_REFERENCE)
        schemas |= whole.pop("$defs", {})
        schemas[model.__name__] = whole
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            _complete(path, operation)
    return found


def _complete(path: str, operation: dict[str, Any]) -> None:
    """The refusals of one operation."""
    has_token = path != "/healthz"
    refusals = _ALWAYS | (_WITH_TOKEN if has_token else {}) | (_CONFLICT if path.endswith(_CONFLICTING) else {})
    if operation.get("parameters"):
        refusals |= {422: "The request is wrong; `mistakes` says where."}
    if "{" in path:
        refusals |= {404: "There is none, or it is not the caller's to see."}
    content = {PROBLEM_JSON: {"schema": {"$ref": _REFERENCE.format(model="Problem")}}}
    for status, words in refusals.items():
        operation["responses"][str(status)] = {"description": words, "content": content}
    if has_token:
        operation["security"] = [{"token": []}]
