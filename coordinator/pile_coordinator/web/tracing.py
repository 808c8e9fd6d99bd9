"""Traces over HTTP: from any kind of id to all that is known with it and is the caller's to see."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Path as InPath

from pile_coordinator.evidence.trace import MAX_PROOFS, AmbiguousIdError, UnknownIdError, trace
from pile_coordinator.web import models as m
from pile_coordinator.web.access import view_of
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.shared import Allowed, Here
from pile_shared.units import MAX_SEQUENCE

MAX_STORIES = 20
Kind = Annotated[
    Literal["any", "order", "contract", "proof", "block", "transaction", "posting", "pile", "party"],
    InPath(description="What the id is of; `any`: whatever is called so."),
]
AnId = Annotated[
    str,
    InPath(
        description="A hash in hex (8 digits of it or more), a height, CONTRACT/NUMBER/ITEM of a posting, a pile or a party.",
        pattern=r"^[0-9a-z/-]{1,90}$",
        max_length=90,
    ),
]


def routes() -> APIRouter:
    """The one there is."""
    router = APIRouter(tags=["trace"])

    @router.get("/trace/{kind}/{id:path}", name="trace", response_model=m.TracedOut)
    def trace_any(
        web: Here,
        grant: Allowed,
        kind: Kind,
        id: AnId,  # noqa: A002 - the word of the path
        after: Annotated[
            str | None, Query(description="`next` of the page before.", pattern=r"^[0-9]{1,18}-[0-9a-f]{64}$")
        ] = None,
        limit: Annotated[int, Query(description="Contracts of a page.", ge=1, le=MAX_STORIES)] = 10,
        proofs: Annotated[int, Query(description="Of each contract.", ge=1, le=MAX_PROOFS)] = 50,
        after_proof: Annotated[
            int, Query(description="`next_proof` of the page before, of one contract.", ge=0, le=MAX_SEQUENCE)
        ] = 0,
    ) -> dict[str, Any]:
        """What an id is, its own steps, and the contracts it belongs to, the newest first, each from order to money."""
        text = id if kind == "any" else f"{kind}:{id}"
        pages: dict[str, Any] = {"after": after, "limit": limit, "proofs": proofs, "after_proof": after_proof}
        try:
            with web.reading.connect() as db:
                return trace(db, text, view=view_of(grant.token), **pages).fields()
        except UnknownIdError as error:
            raise Refused(404, "not_found", "nothing is called so, or it is not yours to see") from error
        except AmbiguousIdError as error:
            raise Refused(409, "ambiguous_id", error.message[:480]) from error

    return router
