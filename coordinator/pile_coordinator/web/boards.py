"""Routes of what a dashboard shows: disputes, deviations, the market, piles, the network, alarms and an order's timeline."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Path as InPath

from pile_coordinator.evidence import alarms as alarming
from pile_coordinator.evidence.deviations import deviations
from pile_coordinator.evidence.disputes import disputes
from pile_coordinator.evidence.market import MAX_POINTS, book_depth, order_book, price_history
from pile_coordinator.evidence.network import network
from pile_coordinator.evidence.piles import MAX_PILES, pile_states
from pile_coordinator.evidence.scopes import View
from pile_coordinator.evidence.timeline import MAX_PROOFS, timeline
from pile_coordinator.evidence.trace import UnknownIdError
from pile_coordinator.web import models as m
from pile_coordinator.web.access import Grant, view_of
from pile_coordinator.web.problems import DATABASE_AWAY, Refused
from pile_coordinator.web.shared import Allowed, ById, Cursor, Here, InHash, Limit, now_ms, place_of, placed
from pile_shared.units import MAX_SEQUENCE, MAX_TIME_MS

SinceMs = Annotated[int | None, Query(description="Only from this time on, unix ms.", ge=0, le=MAX_TIME_MS)]
UntilMs = Annotated[int | None, Query(description="Only before this time, unix ms.", ge=0, le=MAX_TIME_MS)]
InZone = Annotated[str, InPath(description="Of a zone.", pattern=m.PATTERN_ID)]
DAY_MS = 86_400_000


def view(grant: Grant) -> View:
    """What the caller sees of everything."""
    return view_of(grant.token)


def routes() -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["boards"])
    _settlements(router)
    _market(router)
    _standing(router)
    return router


def _settlements(router: APIRouter) -> None:
    @router.get("/disputes", name="disputes", response_model=m.Page[m.DisputeRow])
    def list_disputes(
        web: Here,
        grant: Allowed,
        open_only: Annotated[bool, Query(alias="open", description="Only those that nobody has decided.")] = False,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """The newest disputes: what is objected to, until when arbiters may rule, and what it came to."""
        genesis = web.config.genesis
        window_ms = genesis.params.dispute_window_ms if genesis else None
        after = place_of("disputes", (int, int), cursor)
        with web.reading.connect() as db:
            found = disputes(db, view(grant), window_ms=window_ms, open_only=open_only, after=after, limit=limit)
        return placed("disputes", found)

    @router.get("/deviations", name="deviations", response_model=m.Page[m.DeviationRow])
    def list_deviations(
        web: Here,
        grant: Allowed,
        since_ms: SinceMs = None,
        until_ms: UntilMs = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> dict[str, Any]:
        """The newest settlements of which the grid is a side: contracted, metered, catalog price, money."""
        after = place_of("deviations", (int, int), cursor)
        with web.reading.connect() as db:
            found = deviations(db, view(grant), start_ms=since_ms, end_ms=until_ms, after=after, limit=limit)
        return placed("deviations", found)

    @router.get("/contracts/{contract}/timeline", name="contract_timeline", response_model=m.TimelineOut)
    def contract_timeline(
        web: Here,
        grant: Allowed,
        contract: InHash,
        after: Annotated[int, Query(description="`next_sequence` of the page before.", ge=0, le=MAX_SEQUENCE)] = 0,
        limit: Annotated[int, Query(description="Proofs of a page.", ge=1, le=MAX_PROOFS)] = 100,
    ) -> dict[str, Any]:
        """A contract's way from meter to money, in the order of the chain, each proof with what checking it anew comes to."""
        genesis = web.config.genesis
        chain_id = genesis.chain_id if genesis else None
        try:
            with web.reading.connect() as db:
                name = bytes.fromhex(contract)
                return timeline(db, view(grant), name, chain_id=chain_id, after_sequence=after, limit=limit)
        except UnknownIdError as error:
            raise Refused(404, "not_found", "there is no such contract, or it is not yours to see") from error


def _market(router: APIRouter) -> None:
    @router.get("/book", name="book", response_model=m.Page[m.BookRow])
    def book(web: Here, grant: Allowed, zone: ById = None, cursor: Cursor = None, limit: Limit = 50) -> dict[str, Any]:
        """Resting bids and open listings, the newest first."""
        after = place_of("book", (int, int), cursor)
        with web.reading.connect() as db:
            return placed("book", order_book(db, view(grant), zone=zone, after=after, limit=limit))

    @router.get("/zones/{zone}/depth", name="depth", response_model=m.DepthOut)
    def depth(web: Here, zone: InZone) -> dict[str, Any]:
        """What waits in a zone by kind and price, without saying whose it is; the dearest first."""
        with web.reading.connect() as db:
            return {"zone": zone, "levels": book_depth(db, zone)}

    @router.get("/zones/{zone}/prices", name="price_history", response_model=m.PriceHistoryOut)
    def prices(
        web: Here,
        zone: InZone,
        since_ms: SinceMs = None,
        until_ms: UntilMs = None,
        points: Annotated[int, Query(description="Of the chart, at most.", ge=1, le=MAX_POINTS)] = 200,
    ) -> dict[str, Any]:
        """Price against load: the last clearing in each of so many equal parts of a time; of the last day by default."""
        end_ms = now_ms() if until_ms is None else until_ms
        start_ms = end_ms - DAY_MS if since_ms is None else since_ms
        if start_ms >= end_ms:
            raise Refused(422, "time", "since_ms must be before until_ms")
        with web.reading.connect() as db:
            return {"zone": zone, "points": price_history(db, zone, max(0, start_ms), end_ms, points)}


def _standing(router: APIRouter) -> None:
    @router.get("/pile-states", name="pile_states", response_model=m.PileStatesOut)
    def states(
        web: Here,
        grant: Allowed,
        owner: ById = None,
        zone: ById = None,
        cursor: Cursor = None,
        limit: Annotated[int, Query(description="Rows of a page.", ge=1, le=MAX_PILES)] = MAX_PILES,
    ) -> dict[str, Any]:
        """What every pile is doing, by id."""
        (after,) = place_of("pile_states", (str,), cursor) or ("",)
        times = {"now_ms": now_ms(), "silent_ms": web.config.silent_after_s * 1000}
        with web.reading.connect() as db:
            found = pile_states(db, view(grant), **times, owner=owner, zone=zone, after=after, limit=limit)
        return placed("pile_states", found)

    @router.get("/network", name="network", response_model=m.NetworkOut)
    def state_of_network(web: Here) -> dict[str, Any]:
        """Blocks, the time between them, who makes and signs them, and accounting nodes with stake and punishments."""
        with web.reading.connect() as db, web.ledger() as ledger:
            return network(db, now_ms(), web.config.genesis, ledger)

    @router.get("/anonymity", name="anonymity", response_model=m.AnonymityOut)
    def how_well_hidden(web: Here) -> dict[str, Any]:
        """By denomination: notes issued, spent and outstanding, how full bins are, and among how many a payer hides.

        A ring signature tells that one of the 16 notes of a bin paid, never which: the last of a bin hides as the first.
        """
        return web.anonymity()

    @router.get("/alarms", name="alarms", response_model=m.AlarmsOut)
    def list_alarms(web: Here, grant: Allowed) -> dict[str, Any]:
        """What somebody should look at now, the gravest first; and what cannot be judged here, with what would know."""
        given: dict[str, Any] = {"genesis": web.config.genesis, "silent_ms": web.config.silent_after_s * 1000}
        try:
            with web.reading.connect() as db, web.ledger() as ledger:
                return alarming.alarms(db, view(grant), now_ms=now_ms(), ledger=ledger, **given).fields()
        except DATABASE_AWAY:
            web.metrics.database_errors.inc()
            return alarming.database_away().fields()
