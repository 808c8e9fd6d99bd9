"""Files of the API for who is signed in: /files/v1/... is answered as /v1/... is to the token of the page's cookie.

The API itself takes no cookies. Only what is a file is served so, and only to requests of a page of this server: the cookie is
SameSite=Strict, and whoever asks otherwise has none. Whose file it may be, how often, and every refusal are the API's own.
"""

import re

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from pile_coordinator.dashboard.door import TOKEN_COOKIE, cookie

PREFIX = "/files"
_FILES = re.compile(r"/v1/(contracts/[0-9a-f]{64}/(certificate|exports/[a-z]+)|exports/[a-z]+|statistics/[a-z]+)")


class Downloads(BaseRoute):
    """The route of all files."""

    name = "files"

    def __init__(self, app: FastAPI) -> None:
        """Of the API of `app`."""
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for a file."""
        path = scope["path"]
        is_file = path.startswith(PREFIX) and _FILES.fullmatch(path.removeprefix(PREFIX)) is not None
        fits = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} and is_file
        return (Match.FULL, {"route": self}) if fits else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the API in the name of who is signed in."""
        token = cookie(Headers(scope=scope), TOKEN_COOKIE)
        headers = [(name, value) for name, value in scope["headers"] if name not in {b"authorization", b"cookie"}]
        headers.append((b"authorization", b"Bearer " + token.encode("latin-1", "replace")))
        path = scope["path"].removeprefix(PREFIX)
        asked = dict(scope) | {"path": path, "raw_path": path.encode("ascii"), "headers": headers}
        for left in ("endpoint", "route", "path_params"):
            asked.pop(left, None)
        await self._app.router(asked, receive, send)
        scope["route"] = asked.get("route", self)  # which is what is counted
