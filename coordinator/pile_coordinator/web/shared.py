"""What all routes share: the server's parts, who asks, and the parameters that many of them take."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi import Path as InPath

from pile_coordinator.engines.store import Store, StoreError
from pile_coordinator.evidence.note_queries import anonymity
from pile_coordinator.evidence.scopes import Page, Place
from pile_coordinator.ocmf import RecordError
from pile_coordinator.records import RECORDS, StoredRecords
from pile_coordinator.web import models as m
from pile_coordinator.web.access import Grant, authorised
from pile_coordinator.web.certificates import Certificates
from pile_coordinator.web.config import WebConfig
from pile_coordinator.web.limits import RateLimit
from pile_coordinator.web.live import Watch
from pile_coordinator.web.metrics import Metrics
from pile_coordinator.web.paging import decode_place, encode_place
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.reading import Reading, open_database
from pile_coordinator.web.tokens import TokenError, Tokens
from pile_shared.errors import ConfigError

Allowed = Annotated[Grant, Depends(authorised)]
Cursor = Annotated[
    str | None,
    Query(description="`next` of the page before.", max_length=m.MAX_CURSOR, pattern=r"^[A-Za-z0-9_-]+$"),
]
Limit = Annotated[int, Query(description="Rows of a page.", ge=1, le=m.MAX_PAGE)]
InId = Annotated[str, InPath(description="Of a party, pile or zone.", pattern=m.PATTERN_ID)]
InHash = Annotated[str, InPath(description="32 bytes in hex.", pattern=m.PATTERN_HASH)]
ById = Annotated[str | None, Query(description="Only this one's.", pattern=m.PATTERN_ID)]
ByHash = Annotated[str | None, Query(description="Only this one's: 32 bytes in hex.", pattern=m.PATTERN_HASH)]
ByWord = Annotated[
    str | None, Query(description="Only these: a word of the ledger guide.", pattern=r"^[a-z_ -]{1,32}$")
]

_NOTES_SHARE = 20  # notes are counted a twentieth of the time at most
_FILES = 30  # of a page that no cache has


class Web:
    """What all requests of one server share."""

    def __init__(self, config: WebConfig) -> None:
        """Open what the configuration names, for reading; ConfigError if something cannot be opened."""
        self.config = config
        self.metrics = Metrics()
        self.limit = RateLimit(config.per_minute, config.burst)
        self.files_limit = RateLimit(_FILES * config.per_minute, _FILES * config.burst)
        self.tokens = Tokens(config.tokens, read_only=True)
        self.reading = Reading(open_database(config.database, config.base))
        self.watch = Watch(self.reading, self.metrics, self._count_notes)
        self.certificates: Certificates | None = None
        if config.ledger and config.genesis:
            self.certificates = Certificates(self.reading, config.ledger, config.genesis)
        self._streams: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._notes: dict[str, Any] | None = None
        self._notes_height, self._notes_until_s = -1, 0.0
        self._notes_lock = threading.Lock()

    @contextmanager
    def ledger(self) -> Iterator[Store | None]:
        """The ledger, opened for reading by this thread, or None where the configuration names none.

        Raises:
            Refused: 503, it cannot be opened now.
        """
        config = self.config
        if config.ledger is None or config.genesis is None:
            yield None
            return
        try:
            store = Store(config.ledger, config.genesis.hash(), read_only=True)
        except StoreError as error:
            raise Refused(503, "ledger", error.message[:480], {"Retry-After": "5"}) from error
        try:
            yield store
        finally:
            store.close()

    def anonymity(self) -> dict[str, Any]:
        """How well anonymous orders hide (evidence/note_queries.py), counted anew when there are blocks, if not too often.

        It is kept 20 times as long as counting took.

        Raises:
            Refused: 503, the ledger cannot be read now.
        """
        with self._notes_lock:
            begun_s, height = time.monotonic(), self.watch.height
            if self._notes is None or (height != self._notes_height and begun_s >= self._notes_until_s):
                with self.reading.connect() as db, self.ledger() as ledger:
                    try:
                        self._notes = anonymity(db, self.config.genesis, ledger)
                    except StoreError as error:
                        raise Refused(503, "ledger", error.message[:480], {"Retry-After": "5"}) from error
                ended_s = time.monotonic()
                self._notes_height, self._notes_until_s = height, ended_s + _NOTES_SHARE * (ended_s - begun_s)
                self.metrics.show_notes(self._notes["denominations"])
            return self._notes

    def _count_notes(self) -> None:
        """For the metrics, whether anybody asks or not."""
        with suppress(Refused):  # it is asked again in a moment
            self.anonymity()

    @contextmanager
    def records(self) -> Iterator[StoredRecords | None]:
        """The OCMF records that piles sent, opened for reading by this thread, or None where none are beside a ledger.

        Raises:
            Refused: 503, they cannot be read now.
        """
        path = self.config.ledger.parent / RECORDS if self.config.ledger else None
        if path is None or not path.is_file():
            yield None
            return
        try:
            stored = StoredRecords(path)
            try:
                yield stored
            finally:
                stored.close()
        except (ConfigError, RecordError) as error:
            raise Refused(503, "database", "the records cannot be read now", {"Retry-After": "5"}) from error

    def close(self) -> None:
        """Close what was opened."""
        self.reading.close()
        self.tokens.close()

    def is_good(self, text: str) -> bool:
        """Whether a token is still good."""
        try:
            self.tokens.check(text, time.time_ns() // 1_000_000)
        except TokenError:
            return False
        return True

    @contextmanager
    def stream_of(self, token: str) -> Iterator[None]:
        """Count a live stream while it is open; Refused (429) if there are too many."""
        with self._lock:
            if self._streams[token] >= self.config.streams_each or self._streams.total() >= self.config.streams:
                self.metrics.refused.labels("streams").inc()
                raise Refused(429, "streams", "too many live streams are open; close one", {"Retry-After": "10"})
            self._streams[token] += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams[token] -= 1
                if not self._streams[token]:
                    del self._streams[token]


def _web(request: Request) -> Web:
    web: Web = request.app.state.web
    return web


Here = Annotated[Web, Depends(_web)]


def page_of(found: tuple[list[dict[str, Any]], str | None]) -> dict[str, Any]:
    """A page of our own lists."""
    items, following = found
    return {"items": items, "next": following}


def now_ms() -> int:
    """The present, unix ms."""
    return time.time_ns() // 1_000_000


def place_of(name: str, kinds: tuple[type, ...], cursor: str | None) -> Place | None:
    """The place that a cursor of the list `name` means, or None without one; Refused (422) if it is none of its."""
    return None if cursor is None else tuple(decode_place(name, kinds, cursor))


def placed(name: str, found: Page) -> dict[str, Any]:
    """A page of the evidence, with its cursor."""
    items, following = found
    return {"items": items, "next": None if following is None else encode_place(name, following)}
