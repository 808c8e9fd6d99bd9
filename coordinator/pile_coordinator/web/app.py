"""The application: routes, who may take them (access.py), and what they answer (models.py)."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pile_coordinator.web import boards, counting, exporting, tracing
from pile_coordinator.web import models as m
from pile_coordinator.web.access import also, authorised, bearer
from pile_coordinator.web.config import WebConfig
from pile_coordinator.web.gate import Gate
from pile_coordinator.web.live import MAX_BACKLOG, Stream
from pile_coordinator.web.openapi import describe
from pile_coordinator.web.problems import Refused, add_handlers
from pile_coordinator.web.shared import (
    Allowed,
    ByHash,
    ById,
    ByWord,
    Cursor,
    Here,
    InHash,
    InId,
    Limit,
    Web,
    page_of,
)

CERTIFICATE_TYPE = "application/cbor"
_LOG = logging.getLogger("uvicorn.error")


def make_app(config: WebConfig) -> FastAPI:
    """The application over what `config` names; ConfigError if something cannot be opened."""
    web = Web(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(web.watch.run())
        watching.add_done_callback(_end_with_watch)
        yield
        watching.cancel()
        web.close()

    app = FastAPI(title="Pilechain", version=version("pilechain"), docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.web = web
    add_handlers(app, web.metrics.database_errors.inc)
    app.include_router(_open_to_all())
    app.include_router(_chain(), prefix="/v1", dependencies=[Depends(authorised)])
    app.include_router(_trading(), prefix="/v1", dependencies=[Depends(authorised)])
    app.include_router(_standing(), prefix="/v1", dependencies=[Depends(authorised)])
    for router in (boards.routes(), counting.routes(), tracing.routes(), exporting.routes()):
        app.include_router(router, prefix="/v1", dependencies=[Depends(authorised)])
    app.include_router(_counts(), dependencies=[Depends(authorised)])
    app.add_middleware(Gate, web=web)
    describe(app)
    return app


def _end_with_watch(watching: "asyncio.Task[None]") -> None:
    """A server that no longer sees blocks must not look alive: it ends, and whoever keeps it up starts it again."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        _LOG.error("blocks cannot be watched any more: %r; ending", error, exc_info=error)
        signal.raise_signal(signal.SIGTERM)


def _open_to_all() -> APIRouter:
    """What needs no token."""
    router = APIRouter(tags=["server"])

    @router.get("/healthz", name="health", response_model=m.Health)
    async def health(web: Here) -> dict[str, int]:
        """Whether the server is up, and how fresh what it knows is. Needs no token."""
        return {"height": web.watch.height, "behind_ms": int((time.monotonic() - web.watch.seen_s) * 1000)}

    return router


def _counts() -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/metrics", name="metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics(web: Here, _: Allowed) -> Response:
        """What the server counts, for Prometheus (text format 0.0.4)."""
        return Response(generate_latest(web.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _chain() -> APIRouter:
    """What everybody with a token sees."""
    router = APIRouter(tags=["chain"])

    @router.get("/whoami", name="whoami", response_model=m.Whoami)
    def whoami(grant: Allowed) -> dict[str, Any]:
        """The caller's own token: party, role and end."""
        token = grant.token
        return {"token": token.id, "party": token.party, "role": token.role, "expires_ms": token.expires_ms}

    @router.get("/blocks", name="blocks", response_model=m.Page[m.BlockOut])
    def blocks(web: Here, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
        """The newest blocks."""
        return page_of(web.reading.blocks(cursor, limit))

    @router.get("/blocks/{height}", name="block", response_model=m.BlockDetail)
    def block(
        web: Here, grant: Allowed, height: Annotated[int, InPath(description="Its height.", ge=0, le=m.MAX_HEIGHT)]
    ) -> dict[str, Any]:
        """One block with its transactions."""
        return web.reading.block(height, grant)

    @router.get("/prices", name="prices", response_model=m.Page[m.PriceOut])
    def prices(web: Here, zone: ById = None, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
        """What zones' clearings came to, the newest first: a price for each catalog price that was filled."""
        return page_of(web.reading.prices(zone, cursor, limit))

    @router.get("/live", name="live", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def live(
        request: Request,
        web: Here,
        grant: Allowed,
        last_event_id: Annotated[str | None, Header(description="Height to go on after.", max_length=40)] = None,
        after: Annotated[int | None, Query(description="Likewise, for the first time.", ge=0, le=m.MAX_HEIGHT)] = None,
    ) -> Response:
        """Blocks and prices as they come: events `price` (LivePrice) and then `block` (BlockOut), with its height as id.

        Begins with the next block, or after the height asked for, at most 10000 blocks ago. A comment is a sign of life.
        """
        text = bearer(request)
        begin = _begin(web.watch.height, last_event_id, after)
        return _Counted(web, grant.token.id, text, begin)

    return router


def _begin(height: int, last_event_id: str | None, after: int | None) -> int:
    """The height after which a stream begins; what is no height was not ours, and counts as none."""
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        after = int(last_event_id)
    return height if after is None else max(min(after, height), height - MAX_BACKLOG, 0)


class _Counted(Stream):
    """A stream that counts among those of its token while it is open."""

    def __init__(self, web: Web, token: str, text: str, after: int) -> None:
        self._opened = web.stream_of(token)
        self._opened.__enter__()
        config = web.config
        is_good: Callable[[], bool] = lambda: web.is_good(text)  # noqa: E731 - one line says it
        super().__init__(web.watch, web.metrics, after, beat_s=config.beat_s, stall_s=config.stall_s, is_good=is_good)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._opened.__exit__(None, None, None)


def _trading() -> APIRouter:
    """Orders, contracts and what came of them."""
    router = APIRouter(tags=["trading"])

    @router.get("/orders", name="orders", response_model=m.Page[m.OrderOut])
    def orders(
        web: Here,
        grant: Allowed,
        party: ById = None,
        kind: ByWord = None,
        outcome: ByWord = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """The newest bids and listings."""
        return page_of(web.reading.orders(grant, cursor, limit, party=party, kind=kind, outcome=outcome))

    @router.get("/orders/{order}", name="order", response_model=m.OrderOut)
    def order(web: Here, grant: Allowed, order: InHash) -> dict[str, Any]:
        """One bid or listing."""
        return web.reading.order(grant, bytes.fromhex(order))

    @router.get("/contracts", name="contracts", response_model=m.Page[m.ContractOut])
    def contracts(
        web: Here,
        grant: Allowed,
        pile: ById = None,
        zone: ById = None,
        user: ById = None,
        owner: ById = None,
        state: ByWord = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """The newest contracts."""
        wanted = {"pile": pile, "zone": zone, "user": user, "owner": owner, "state": state}
        return page_of(web.reading.contracts(grant, cursor, limit, **wanted))

    @router.get("/contracts/{contract}", name="contract", response_model=m.ContractOut)
    def contract(web: Here, grant: Allowed, contract: InHash) -> dict[str, Any]:
        """One contract and the statement that counts for it."""
        return web.reading.contract(grant, bytes.fromhex(contract))

    @router.get("/contracts/{contract}/proofs", name="contract_proofs", response_model=m.Page[m.ProofOut])
    def contract_proofs(
        web: Here, grant: Allowed, contract: InHash, cursor: Cursor = None, limit: Limit = 50
    ) -> dict[str, Any]:
        """The metering proofs of a contract, the first ones first."""
        return page_of(web.reading.contract_proofs(grant, bytes.fromhex(contract), cursor, limit))

    @router.get("/contracts/{contract}/trace", name="contract_trace", response_model=m.TraceOut)
    def contract_trace(web: Here, grant: Allowed, contract: InHash) -> dict[str, Any]:
        """A contract's way from order to money: everything that the chain says about it, with the blocks that say so."""
        return web.reading.trace(grant, also(grant, "order"), bytes.fromhex(contract))

    _add_certificate(router)
    _add_records(router)

    @router.get("/postings", name="postings", response_model=m.Page[m.PostingOut])
    def postings(
        web: Here, grant: Allowed, contract: ByHash = None, cursor: Cursor = None, limit: Limit = 50
    ) -> dict[str, Any]:
        """The newest postings of closed contracts: money that moved."""
        name = None if contract is None else bytes.fromhex(contract)
        return page_of(web.reading.postings(grant, name, cursor, limit))

    return router


def _add_certificate(router: APIRouter) -> None:
    @router.get(
        "/contracts/{contract}/certificate",
        name="certificate",
        response_class=Response,
        responses={200: {"content": {CERTIFICATE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def certificate(web: Here, grant: Allowed, contract: InHash) -> Response:
        """The order certificate of a closed contract (CBOR, at most 16 MB): `pilechain verify` checks it offline."""
        name = bytes.fromhex(contract)
        web.reading.contract(grant, name)
        if web.certificates is None:
            raise Refused(409, "no_ledger", "this server has no ledger; set ledger and genesis in web.toml")
        headers = {"content-disposition": f'attachment; filename="{contract}.cbor"'}
        return Response(web.certificates.make(name), media_type=CERTIFICATE_TYPE, headers=headers)


def _add_records(router: APIRouter) -> None:
    @router.get("/contracts/{contract}/records", name="contract_records", response_model=m.RecordsOut)
    def contract_records(web: Here, grant: Allowed, contract: InHash) -> dict[str, Any]:
        """The OCMF records of a contract, as its pile signed them and as the coordinator checked them against the proofs."""
        name = bytes.fromhex(contract)
        pile = web.reading.contract(grant, name)["pile"]
        with web.records() as stored:
            if stored is None:
                raise Refused(409, "no_records", "there is no records.sqlite beside a ledger; set ledger in web.toml")
            rows = [{"kind": row.kind, "sequence": row.sequence, "ocmf": row.text} for row in stored.rows(name)]
        return {"contract": contract, "pile": pile, "records": rows}


def _standing() -> APIRouter:
    """Piles and parties."""
    router = APIRouter(tags=["standing"])

    @router.get("/piles", name="piles", response_model=m.Page[m.PileOut])
    def piles(
        web: Here, grant: Allowed, owner: ById = None, zone: ById = None, cursor: Cursor = None, limit: Limit = 50
    ) -> dict[str, Any]:
        """Piles by id."""
        return page_of(web.reading.piles(grant, cursor, limit, owner=owner, zone=zone))

    @router.get("/piles/{pile}", name="pile", response_model=m.PileOut)
    def pile(web: Here, grant: Allowed, pile: InId) -> dict[str, Any]:
        """One pile."""
        return web.reading.pile(grant, pile)

    @router.get("/piles/{pile}/proofs", name="pile_proofs", response_model=m.Page[m.ProofOut])
    def pile_proofs(web: Here, grant: Allowed, pile: InId, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
        """A pile's metering proofs, the first ones first."""
        return page_of(web.reading.pile_proofs(grant, pile, cursor, limit))

    @router.get("/parties", name="parties", response_model=m.Page[m.PartyOut])
    def parties(
        web: Here, grant: Allowed, role: ByWord = None, cursor: Cursor = None, limit: Limit = 50
    ) -> dict[str, Any]:
        """Parties by id. Those of genesis stand in genesis alone."""
        return page_of(web.reading.parties(grant, cursor, limit, role=role))

    @router.get("/parties/{party}", name="party", response_model=m.PartyOut)
    def party(web: Here, grant: Allowed, party: InId) -> dict[str, Any]:
        """One party."""
        return web.reading.party(grant, party)

    return router
