"""Sign-in, sign-out and the choice of a language: two cookies, and no memory of the server.

The token itself is the session: HttpOnly, SameSite=Strict, and Secure where the browser came by https. So whoever revokes the
token ends every session of it, and a server that begins anew ends none. Both forms are taken from pages of this server only.
"""

import time
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from pile_coordinator.dashboard import plain, words
from pile_coordinator.dashboard.door import (
    LANGUAGE_COOKIE,
    TOKEN_COOKIE,
    Door,
    address,
    cookie,
    is_own,
    language_of,
    load_again,
)
from pile_coordinator.web.access import admit
from pile_coordinator.web.app import Web
from pile_coordinator.web.problems import Refused

YEAR_S = 31_536_000
MAX_FORM_BYTES = 4096
To = Annotated[str, Query(description="Where to go then.", max_length=300)]


def router(web: Web, door: Door) -> APIRouter:
    """The routes; they stand in no description of the API."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/sign-in", name="sign_in")
    def ask(request: Request, to: To = "/", ended: str = "") -> Response:
        told = "sign.ended" if ended and web.is_good(cookie(request.headers, TOKEN_COOKIE)) is False else ""
        return plain.sign_in(language_of(request.headers), _inside(door, to), told=told)

    @routes.post("/sign-in", name="sign_in_with")
    async def sign_in(request: Request) -> Response:
        form = await _form(request)
        to, token, language = (
            _inside(door, form.get("to", "/")),
            form.get("token", "").strip(),
            language_of(request.headers),
        )
        try:
            _check_own(request)
            grant = await run_in_threadpool(admit, web, token, "whoami", address(request.scope))
        except Refused as refusal:
            retry_s = int(refusal.headers.get("Retry-After", 0))
            key = {401: "sign.wrong", 429: "sign.wait"}.get(refusal.status, "sign.foreign")
            return plain.sign_in(language, to, told=key, status=refusal.status, retry_s=retry_s)
        answer = RedirectResponse(to, 303)
        left_s = max(0, grant.token.expires_ms // 1000 - time.time_ns() // 1_000_000_000)
        _keep(answer, request, TOKEN_COOKIE, token, left_s)
        return answer

    @routes.post("/sign-out", name="sign_out")
    async def sign_out(request: Request) -> Response:
        _check_own(request)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(TOKEN_COOKIE, path="/", httponly=True, samesite="strict", secure=_is_https(request))
        load_again(cookie(request.headers, TOKEN_COOKIE))  # in this browser they come to sign in, in others they stay
        return answer

    @routes.get("/language/{code}", name="language")
    def choose(request: Request, code: str, to: To = "/") -> Response:
        answer = RedirectResponse("/sign-in" if to == "/sign-in" else _inside(door, to), 303)
        if code in words.LANGUAGES:
            _keep(answer, request, LANGUAGE_COOKIE, code, YEAR_S)
        return answer

    return routes


def _check_own(request: Request) -> None:
    if not is_own(request.headers):
        raise Refused(403, "origin", "the form was of a page of another server")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small urlencoded form; the gate has bounded the body."""
    body = (await request.body())[:MAX_FORM_BYTES]
    try:
        fields = parse_qs(body.decode("ascii", "replace"), max_num_fields=8)
    except ValueError:  # more fields than any form of ours has
        return {}
    return {name: values[0] for name, values in fields.items()}


def _inside(door: Door, to: str) -> str:
    """A path of a page of ours; the first page for anything else, so that nobody is sent elsewhere."""
    return to if door.page(to) is not None else "/"


def _is_https(request: Request) -> bool:
    return request.url.scheme == "https"  # uvicorn takes it from a proxy it was told to believe


def _keep(answer: Response, request: Request, name: str, value: str, seconds: int) -> None:
    answer.set_cookie(
        name, value, max_age=seconds, path="/", httponly=True, samesite="strict", secure=_is_https(request)
    )
