"""Statistics over HTTP: by pile, owner, user, operator and zone, per hour, day, month, quarter or year of a time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from sqlalchemy import func, select

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import HOUR, Period, find_zone, parse_moment, periods
from pile_coordinator.evidence.scopes import ALL, OWN
from pile_coordinator.evidence.statistics import Page, counted_between, history, of_names, ranking
from pile_coordinator.evidence.tallies import ALL as WHOLE
from pile_coordinator.evidence.tallies import OPERATOR, OWNER, PILE, USER, ZONE, tallied
from pile_coordinator.web import models as m
from pile_coordinator.web.access import TOTALS, Grant
from pile_coordinator.web.csvtext import CSV_ANSWER, MAX_ROWS, Format, csv_answer, wants_csv
from pile_coordinator.web.paging import encode_place
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.shared import Allowed, Cursor, Here, Limit, Web, place_of
from pile_shared.errors import ConfigError

CSV_PAGE = 200  # rows read at once
FIRST_MS, LAST_MS = 946_684_800_000, 7_258_118_400_000  # 2000 and 2200
_MOMENT = r"^[0-9TQ:.+Z-]{4,32}$"
_TEXT = "2026, 2026-Q1, 2026-03, 2026-03-29 or 2026-03-29T12:00, of the time zone"
Dimension = Annotated[Literal["all", "zone", "operator", "owner", "pile", "user"], InPath(description="By what.")]
Per = Annotated[Literal["hour", "day", "month", "quarter", "year"], Query(description="One row for each of these.")]
Moment = Annotated[str | None, Query(description=_TEXT, pattern=_MOMENT)]
TimeZone = Annotated[str | None, Query(description="IANA name, as Europe/Berlin.", pattern=r"^[A-Za-z0-9_+/-]{1,64}$")]
Name = Annotated[str | None, Query(description="The one of these; without it, each in one row.", pattern=m.PATTERN_ID)]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: whose, of which time, per what; and only the caller's `own` (a party), if it sees no others."""

    dimension: str
    name: str | None
    kind: str
    start_ms: int
    end_ms: int
    zone: ZoneInfo
    own: str | None

    @property
    def is_history(self) -> bool:
        """Whether there is a row for each period, not for each name."""
        return self.dimension == WHOLE or self.name is not None


def routes() -> APIRouter:
    """All of them."""
    router = APIRouter(tags=["statistics"])

    @router.get("/statistics/{dimension}", name="statistics", response_model=m.StatisticsOut, responses=CSV_ANSWER)
    def statistics(
        request: Request,
        web: Here,
        grant: Allowed,
        dimension: Dimension,
        name: Name = None,
        per: Per = "month",
        since: Moment = None,
        until: Moment = None,
        tz: TimeZone = None,
        form: Format = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> Any:
        """Energy, money, deviations, disputes, idle piles and how long settling took.

        With a name, or for `all`, a row for each period that [since, until) touches; without one a row for each name over all
        of that time, in whole hours. A contract counts when it is closed. Without times, all that was counted.
        """
        zone = _zone(tz) if tz else web.config.zone
        asked = ask(web, grant, (dimension, name, per, since, until), zone)
        if wants_csv(request, form):
            return _csv(web, asked)
        page = read(web, asked, place_of(*_cursor_of(asked), cursor), limit)
        following = None if page.next is None else encode_place(_cursor_of(asked)[0], [page.next])
        return {"time_zone": zone.key, "items": [row.fields() for row in page.rows], "next": following}

    return router


def _cursor_of(asked: Asked) -> tuple[str, tuple[type, ...]]:
    return ("history", (int,)) if asked.is_history else ("ranking", (str,))


def _zone(name: str) -> ZoneInfo:
    try:
        return find_zone(name)
    except ConfigError as error:
        raise Refused(422, "time_zone", error.message) from error


def ask(web: Web, grant: Grant, told: tuple[str, str | None, str, str | None, str | None], zone: ZoneInfo) -> Asked:
    """The question that (dimension, name, per, since, until) is; Refused if it is none, or not the caller's to ask."""
    dimension, name, per, since, until = told
    own = _allow(web, grant, dimension, name)
    if dimension == WHOLE and name is not None:
        raise Refused(422, "name", "`all` is the whole chain and has no names")
    with web.reading.connect() as db:
        first, last = counted_between(db) or (FIRST_MS, FIRST_MS)
    try:
        start_ms = first if since is None else parse_moment(since, zone)
        end_ms = max(last, start_ms) if until is None else parse_moment(until, zone)
    except ConfigError as error:
        raise Refused(422, "time", error.message) from error
    if not FIRST_MS <= start_ms <= end_ms <= LAST_MS:
        raise Refused(422, "time", "since must be before until, both from 2000 to 2200")
    return Asked(dimension, name, per, start_ms, end_ms, zone, own)


def _allow(web: Web, grant: Grant, dimension: str, name: str | None) -> str | None:
    """The party to whose own the answer is limited, or None; Refused if the caller may not ask."""
    if grant.scope == ALL or (grant.scope == TOTALS and dimension in {WHOLE, ZONE, OPERATOR}):
        return None
    if grant.scope != OWN or dimension not in {OWNER, USER, PILE}:
        raise Refused(403, "role", f"a token of the role {grant.token.role} sees no statistics by {dimension}")
    if name is not None and not (_owns(web, grant.party, name) if dimension == PILE else name == grant.party):
        raise Refused(404, "not_found", f"there is no such {dimension}, or it is not yours to see")
    return grant.party


def _owns(web: Web, party: str, pile: str) -> bool:
    query = select(schema.pile.c.id).where(schema.pile.c.id == pile, schema.pile.c.owner == party)
    with web.reading.connect() as db:
        return db.execute(query.limit(1)).first() is not None


def read(web: Web, asked: Asked, after: tuple[Any, ...] | None, limit: int) -> Page:
    """One page, with a connection of its own."""
    with web.reading.connect() as db:
        if asked.is_history:
            start_ms = asked.start_ms if after is None else max(after[0], asked.start_ms)
            span = (asked.kind, start_ms, asked.end_ms, asked.zone)
            return history(db, asked.dimension, asked.name or "", *span, limit)
        period, last = _whole(asked), "" if after is None else after[0]
        if asked.own is None:
            return ranking(db, asked.dimension, period, last, limit)
        names = [asked.own]
        if asked.dimension == PILE:
            p = schema.pile.c
            query = select(p.id).where(p.owner == asked.own, p.id > last).order_by(p.id).limit(limit + 1)
            names = list(db.execute(query).scalars())
        rows = of_names(db, asked.dimension, names[:limit], period)
        return Page(rows, names[limit - 1] if len(names) > limit else None)


def _whole(asked: Asked) -> Period:
    """All of the time asked for, in whole hours."""
    last_ms = max(asked.start_ms, asked.end_ms - 1)
    (first,) = periods(HOUR, asked.start_ms, asked.start_ms + 1, asked.zone)
    (last,) = periods(HOUR, last_ms, last_ms + 1, asked.zone)
    return Period(f"{first.label}/{last.label}", first.start_ms, last.end_ms)


def _csv(web: Web, asked: Asked) -> Response:
    if _count(web, asked) > MAX_ROWS:
        raise Refused(422, "too_many_rows", f"more than {MAX_ROWS} rows: ask for a shorter time, or for pages of JSON")
    columns = list(m.StatisticsRow.model_fields)
    first = read(web, asked, None, CSV_PAGE)  # before the answer begins: what is wrong is told as a problem
    return csv_answer(f"statistics-{asked.dimension}", columns, _pages(web, asked, first))


def _pages(web: Web, asked: Asked, page: Page) -> Iterator[list[dict[str, Any]]]:
    """Each page with a connection of its own: a slow reader holds none while it reads."""
    yield [row.fields() for row in page.rows]
    while page.next is not None:
        page = read(web, asked, (page.next,), CSV_PAGE)
        yield [row.fields() for row in page.rows]


def _count(web: Web, asked: Asked) -> int:
    """How many rows there are, or MAX_ROWS + 1 if there are more."""
    if asked.is_history:
        return sum(1 for _ in islice(periods(asked.kind, asked.start_ms, asked.end_ms, asked.zone), MAX_ROWS + 1))
    t = tallied.c
    known = select(t.name).where(t.dimension == asked.dimension).limit(MAX_ROWS + 1).subquery()
    with web.reading.connect() as db:
        return int(db.execute(select(func.count()).select_from(known)).scalar_one())
