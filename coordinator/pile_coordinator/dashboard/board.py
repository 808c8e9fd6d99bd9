"""What the live pages draw from: the state of every pile, open contracts, orders and the newest prices, in memory.

Read once for each block, whatever the number of pages, in a thread; pages look at it and are woken when it changed. It says
only what the evidence says, which has not: refused proofs (only admitted ones are written), and energy that a listing gets back
from a contract that fell through.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Select, func, select, true
from starlette.concurrency import run_in_threadpool

from pile_coordinator.chain.records import EV_OWNER, PILE_OWNER
from pile_coordinator.evidence import schema, statistics
from pile_coordinator.evidence.calendar import DAY, local, midnight_ms
from pile_coordinator.evidence.scopes import ALL, DISPUTED, OWN
from pile_coordinator.web.access import Grant
from pile_coordinator.web.config import WebConfig
from pile_coordinator.web.live import Watch
from pile_coordinator.web.problems import DATABASE_AWAY
from pile_coordinator.web.reading import Reading, Row

IDLE, LISTED, RESERVED, CHARGING, DISPUTE, SILENT, ALARM, RETIRED, HIDDEN = STATES = (
    "idle", "listed", "reserved", "charging", "disputed", "silent", "alarm", "retired", "hidden",
)  # fmt: skip
MAX_PILES = 20_000  # of one network in one dashboard; some 10 MB
MAX_ORDERS = 5_000  # open at once; each is looked at again with every block that has results
MAX_POINTS = 400  # clearings kept for each zone's chart
MAX_ZONES = 200
MAX_BLOCKS = 30  # the newest, for the overview
BATCH = 50  # blocks that are read at once
CHUNK = 500  # values of one IN (...)
TODAY_S = 10  # that the day's sums are kept before they are asked again
LOOK_S = 2  # between two looks if nobody says that there is anything new
AWAY_MS = 8_000  # without an answer of the database, until a banner says so
MAX_SUMS = 1_000  # parties whose day is kept


@dataclass(frozen=True, slots=True)
class OpenContract:
    """A contract that is not closed. Times are unix ms, energy is in Wh."""

    id: bytes
    pile: str
    user: str
    owner: str
    energy_wh: int
    state: str
    window_start_ms: int
    window_end_ms: int
    is_charging: bool  # a proof began it, and none has ended it


@dataclass(frozen=True, slots=True)
class Pile:
    """A pile as the last block left it.

    Attributes:
        state: one of STATES. version: height of the block with which anything of this changed.
        proof_ms: time of the block with its newest proof, None if there is none. sequence: that proof's number.
    """

    id: str
    kid: bytes
    owner: str
    zone: str
    rated_power_w: int
    is_retired: bool
    state: str = IDLE
    version: int = 0
    proof_ms: int | None = None
    sequence: int | None = None
    event: str | None = None
    contracts: tuple[OpenContract, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """An open bid or listing. `price_micro_per_kwh` -1 is at market; `pile`: of a bid, the one it wants, if any."""

    id: bytes
    height: int
    party: str
    kind: str
    energy_wh: int
    matched_wh: int
    price_micro_per_kwh: int
    pile: str | None
    zone: str | None
    until_ms: int | None

    @property
    def left_wh(self) -> int:
        """Not contracted yet, Wh."""
        return max(0, self.energy_wh - self.matched_wh)


@dataclass(frozen=True, slots=True)
class Point:
    """A zone's clearing: its dearest price, None if nothing was filled, and load beside capacity."""

    height: int
    time_ms: int
    price_micro_per_kwh: int | None
    open_before_wh: int
    open_wh: int
    capacity_wh: int


class Board:
    """The state of everything live. Everything but `_Reader` runs on the event loop."""

    def __init__(self, reading: Reading, watch: Watch, config: WebConfig) -> None:
        """Of this database, awakened by `watch`."""
        self._reader, self._watch, self._config = _Reader(reading, config), watch, config
        self._reading = reading
        self._news = asyncio.Event()
        self._sums: dict[tuple[str, str], tuple[float, asyncio.Task[dict[str, int] | None]]] = {}
        self._read_s = time.monotonic()
        self.height = 0
        self.time_ms = 0
        self.piles: dict[str, Pile] = {}
        self.orders: list[Order] = []
        self.points: dict[str, deque[Point]] = {}
        self.blocks: deque[Row] = deque(maxlen=MAX_BLOCKS)

    async def run(self) -> None:
        """Until it is cancelled; a database that does not answer is asked again."""
        while True:
            try:
                changes = await run_in_threadpool(self._reader.read, self.height)
            except DATABASE_AWAY:
                await asyncio.sleep(1)
                continue
            self._read_s = time.monotonic()
            if changes is None:
                await self._watch.wait(self.height, LOOK_S)
                continue
            self._apply(changes)

    def _apply(self, changes: "Changes") -> None:
        self.piles.update({pile.id: pile for pile in changes.piles})
        self.orders = changes.orders
        for zone, point in changes.points:
            if zone in self.points or len(self.points) < MAX_ZONES:
                self.points.setdefault(zone, deque(maxlen=MAX_POINTS)).append(point)
        self.blocks.extend(changes.blocks)
        self.height, self.time_ms = changes.height, changes.time_ms
        self._news.set()
        self._news = asyncio.Event()

    async def news(self, height: int, wait_s: float) -> None:
        """Once there is more than block `height`, or `wait_s` passed."""
        if self.height > height:
            return
        try:
            await asyncio.wait_for(self._news.wait(), wait_s)
        except TimeoutError:
            return

    # --- how fresh it is --------------------------------------------------------------------------------------------------

    def behind_ms(self) -> int:
        """Since the database last answered."""
        return int((time.monotonic() - self._watch.seen_s) * 1000)

    def block_age_ms(self) -> int:
        """Since the newest block's time; 0 for a chain whose clock is ahead, or before there is any block."""
        return max(0, time.time_ns() // 1_000_000 - self.time_ms) if self.time_ms else 0

    def trouble(self) -> str:
        """What a banner must say: "away" for the database, "still" for the chain, or nothing."""
        if max(self.behind_ms(), int((time.monotonic() - self._read_s) * 1000)) > AWAY_MS:
            return "away"
        return "still" if self.block_age_ms() > self._config.dashboard.still_after_s * 1000 else ""

    # --- what somebody may see ----------------------------------------------------------------------------------------------

    async def piles_of(self, grant: Grant) -> dict[str, Pile]:
        """The piles a caller may see, by id; asks the database where that takes more than the caller's role."""
        if grant.scope == ALL:
            return dict(self.piles)
        seen = await run_in_threadpool(self._reading.pile_names, grant, MAX_PILES)
        return {name: self.piles[name] for name in seen if name in self.piles}

    async def today(self, grant: Grant) -> dict[str, int] | None:
        """The sums of the operator's day so far, of what `grant` (of contracts) shows; None where it shows no whole.

        Kept for 10 s: pages that ask in between share one question to the database.
        """
        kinds = {PILE_OWNER: "owner", EV_OWNER: "user"}
        own = kinds.get(grant.token.role) if grant.scope == OWN else None
        if grant.scope != ALL and own is None:
            return None
        key = (own, grant.party) if own else ("all", "")
        made_s, asked = self._sums.get(key, (-TODAY_S, None))
        if asked is None or time.monotonic() - made_s >= TODAY_S or (asked.done() and asked.exception()):
            if len(self._sums) >= MAX_SUMS:
                self._sums.clear()
            asked = asyncio.create_task(run_in_threadpool(self._reader.today, *key, self.time_ms))
            self._sums[key] = time.monotonic(), asked
        return await asyncio.shield(asked)


def contracts_seen(grant: Grant | None, piles: Iterable[Pile]) -> Iterator[OpenContract]:
    """The open contracts that a grant of contracts shows."""
    for pile in piles:
        for contract in pile.contracts:
            if grant is not None and _is_seen(grant, contract):
                yield contract


def _is_seen(grant: Grant, contract: OpenContract) -> bool:
    if grant.scope == ALL:
        return True
    if grant.scope == OWN:
        return grant.party in {contract.user, contract.owner}
    return grant.scope == DISPUTED and contract.state == "disputed"


def state_seen(pile: Pile, contracts: Grant | None) -> str:
    """A pile's state as far as it follows from what the caller may see of contracts: HIDDEN where it does not."""
    is_mine = contracts is not None and contracts.scope == OWN and pile.owner == contracts.party
    if pile.is_retired or is_mine or (contracts is not None and contracts.scope == ALL):
        return pile.state
    return _of_contracts(list(contracts_seen(contracts, [pile]))) or HIDDEN


def orders_seen(grant: Grant, orders: Iterable[Order]) -> list[Order]:
    """The open orders that a grant of orders shows. Orders of disputed contracts, which third parties see, are not open."""
    if grant.scope == ALL:
        return list(orders)
    return [order for order in orders if grant.scope == OWN and order.party == grant.party]


def _of_contracts(contracts: list[OpenContract]) -> str:
    if any(contract.state == "disputed" for contract in contracts):
        return DISPUTE
    if any(contract.is_charging for contract in contracts):
        return CHARGING
    return RESERVED if any(contract.state in {"proposed", "signed"} for contract in contracts) else ""


# --- reading ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changes:
    """What some blocks changed."""

    height: int
    time_ms: int
    piles: list[Pile]
    orders: list[Order]
    points: list[tuple[str, Point]]
    blocks: list[Row]


class _Reader:
    """Reads what changed since a height. Used by one thread at a time."""

    def __init__(self, reading: Reading, config: WebConfig) -> None:
        self._reading, self._config = reading, config
        self._forget()

    def _forget(self) -> None:
        """Know nothing: before everything is read."""
        self._piles: dict[str, Pile] = {}
        self._names: dict[bytes, str] = {}
        self._contracts: dict[bytes, OpenContract] = {}
        self._orders: dict[bytes, Order] = {}

    def read(self, after: int) -> Changes | None:
        """The next blocks' changes after a height, or everything after 0; None if there is no more."""
        with self._reading.connect() as db:
            if after == 0:
                return self._begin(db)
            blocks = self._reading.blocks_after(after, BATCH)
            if not blocks:
                return None
            first, last = after + 1, blocks[-1]["height"]
            self._read_piles(
                db, schema.pile.c.height.between(first, last) | schema.pile.c.retired_height.between(first, last)
            )
            proven = self._read_proofs(db, _proofs().where(schema.proof.c.height.between(first, last)))
            self._read_contracts(db, _changed(db, first, last) | proven)
            self._read_orders(db, schema.orders.c.height.between(first, last))
            if any(block["results"] > block["txs"] for block in blocks):  # orders end by what a block itself came to
                self._look_again(db)
            points = [(row["zone"], _point(row)) for block in blocks for row in _dearest(block["prices"])]
            return self._changes(last, blocks[-1]["time_ms"], points, blocks)

    def today(self, dimension: str, name: str, now_ms: int) -> dict[str, int] | None:
        """The sums of the day that `now_ms` is in; None if nothing was counted yet."""
        zone = self._config.zone
        day = local(now_ms, zone)
        start_ms = midnight_ms(day.year, day.month, day.day, zone)
        with self._reading.connect() as db:
            found = statistics.history(db, dimension, name, DAY, start_ms, start_ms + 1, zone)
        return found.rows[0].sums if found.rows else None

    def _begin(self, db: Connection) -> Changes | None:
        self._forget()
        height = db.execute(select(schema.mark.c.height)).scalar() or 0
        if not height:
            return None
        # Other connections may know more already than this one, whose transaction began before.
        newest = self._reading.blocks_after(max(0, height - MAX_BLOCKS), MAX_BLOCKS)
        blocks = [block for block in newest if block["height"] <= height]
        self._read_piles(db, schema.pile.c.height <= height)
        last = (
            select(func.max(schema.proof.c.sequence)).where(schema.proof.c.kid == schema.pile.c.kid).scalar_subquery()
        )
        ends = select(schema.pile.c.kid, last.label("sequence")).subquery()
        at = (schema.proof.c.kid == ends.c.kid) & (schema.proof.c.sequence == ends.c.sequence)
        self._read_proofs(db, _proofs(ends, at))
        self._read_contracts(
            db, set(db.execute(select(schema.contract.c.id).where(schema.contract.c.closed_height.is_(None))).scalars())
        )
        self._read_orders(db, true())
        prices, _ = self._reading.prices(None, None, MAX_POINTS)
        points = [(row["zone"], _point(row)) for row in reversed(_dearest(prices)) if row["height"] <= height]
        return self._changes(height, blocks[-1]["time_ms"], points, blocks)

    def _read_piles(self, db: Connection, condition: Any) -> None:
        columns = [schema.pile.c[name] for name in ("id", "kid", "owner", "zone", "rated_power_w", "retired_height")]
        for row in db.execute(select(*columns).where(condition).order_by(schema.pile.c.id).limit(MAX_PILES)):
            name, kid, owner, zone, power_w, retired = row
            known = self._piles.get(name)
            if known is None and len(self._piles) >= MAX_PILES:
                continue
            self._names[kid] = name
            made = known or Pile(name, kid, owner, zone, power_w, is_retired=False)
            self._piles[name] = replace(made, is_retired=retired is not None)

    def _read_proofs(self, db: Connection, query: Select[Any]) -> set[bytes]:
        """Take the newest proofs of piles; the contracts that the proofs are of."""
        contracts: set[bytes] = set()
        for kid, sequence, event, contract, time_ms in db.execute(query):
            if contract is not None:
                contracts.add(contract)
            name = self._names.get(kid)
            if name is not None and sequence >= (self._piles[name].sequence or 0):
                self._piles[name] = replace(self._piles[name], proof_ms=time_ms, sequence=sequence, event=event)
        return contracts

    def _read_contracts(self, db: Connection, names: set[bytes]) -> None:
        c = schema.contract.c
        columns = (
            c.id,
            c.pile,
            c.user,
            c.owner,
            c.energy_wh,
            c.state,
            c.window_start_ms,
            c.window_end_ms,
            c.closed_height,
        )
        for some in _chunks(names):
            events: dict[bytes, set[str]] = {}
            proof = schema.proof.c
            told = (
                select(proof.contract, proof.event)
                .where(proof.contract.in_(some), proof.event.in_(("begin", "end")))
                .distinct()
            )
            for name, event in db.execute(told):
                events.setdefault(name, set()).add(event)
            for row in db.execute(select(*columns).where(c.id.in_(some))):
                if row.closed_height is None:
                    is_charging = row.state == "signed" and events.get(row.id) == {"begin"}
                    self._contracts[row.id] = OpenContract(*row[:-1], is_charging)
                else:
                    self._contracts.pop(row.id, None)

    def _read_orders(self, db: Connection, condition: Any) -> None:
        for row in db.execute(_orders().where(condition, schema.orders.c.ended_height.is_(None)).limit(MAX_ORDERS)):
            if len(self._orders) < MAX_ORDERS:
                self._orders[row[0]] = Order(*row)

    def _look_again(self, db: Connection) -> None:
        """Whether known orders are open still, and what of them is contracted."""
        found: dict[bytes, Order] = {}
        for some in _chunks(self._orders):
            for row in db.execute(
                _orders().where(schema.orders.c.id.in_(some), schema.orders.c.ended_height.is_(None))
            ):
                found[row[0]] = Order(*row)
        self._orders = found

    def _changes(self, height: int, time_ms: int, points: list[tuple[str, Point]], blocks: list[Row]) -> Changes:
        contracts: dict[str, list[OpenContract]] = {}
        for contract in self._contracts.values():
            contracts.setdefault(contract.pile, []).append(contract)
        listed = {order.pile for order in self._orders.values() if order.kind == "listing"}
        changed = []
        for name, pile in self._piles.items():
            made = replace(pile, contracts=tuple(contracts.get(name, ())))
            made = replace(made, state=state_of(made, name in listed, time_ms, self._config.silent_after_s * 1000))
            if made != pile or pile.version == 0:
                made = replace(made, version=height)
                self._piles[name] = made
                changed.append(made)
        orders = sorted(self._orders.values(), key=lambda order: (-order.height, order.id))
        return Changes(height, time_ms, changed, orders, points, blocks)


def state_of(pile: Pile, is_listed: bool, now_ms: int, silent_ms: int) -> str:
    """A pile's state by all its contracts, at the time of the newest block."""
    if pile.is_retired:
        return RETIRED
    state = _of_contracts(list(pile.contracts))
    if state == DISPUTE:
        return state
    if pile.event == "alarm":
        return ALARM
    running = any(contract.window_start_ms <= now_ms <= contract.window_end_ms for contract in pile.contracts)
    should_speak = state == CHARGING or is_listed or running
    if should_speak and pile.proof_ms is not None and now_ms - pile.proof_ms > silent_ms:
        return SILENT
    return state or (LISTED if is_listed else IDLE)


def _proofs(among: Any = None, at: Any = None) -> Select[Any]:
    p, b = schema.proof.c, schema.block.c
    joined = schema.proof.join(schema.block, b.height == p.height)
    if among is not None:
        joined = among.join(schema.proof, at).join(schema.block, b.height == p.height)
    return select(p.kid, p.sequence, p.event, p.contract, b.time_ms).select_from(joined)


def _changed(db: Connection, first: int, last: int) -> set[bytes]:
    """The contracts that blocks say anything of, each found by an index."""
    found: set[bytes] = set()
    columns = [
        (schema.contract.c.id, schema.contract.c.height),
        (schema.contract.c.id, schema.contract.c.closed_height),
        *(
            (table.c.contract, table.c.height)
            for table in (schema.signature, schema.statement, schema.dispute, schema.ruling)
        ),
    ]
    for name, height in columns:
        found.update(db.execute(select(name).where(height.between(first, last))).scalars())
    return found


def _orders() -> Select[Any]:
    o, pile, contract = schema.orders.c, schema.pile.c, schema.contract.c
    of_bid = select(func.sum(contract.energy_wh)).where(contract.bid == o.id).scalar_subquery()
    of_listing = select(func.sum(contract.energy_wh)).where(contract.listing == o.id).scalar_subquery()
    matched = func.coalesce(of_bid, of_listing, 0)
    joined = schema.orders.outerjoin(schema.pile, pile.id == o.pile)
    return select(
        o.id,
        o.height,
        o.party,
        o.kind,
        o.energy_wh,
        matched,
        o.price_micro_per_kwh,
        o.pile,
        func.coalesce(o.zone, pile.zone),
        o.window_end_ms,
    ).select_from(joined)


def _chunks(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    listed = sorted(names)
    for start in range(0, len(listed), CHUNK):
        yield listed[start : start + CHUNK]


def _dearest(prices: list[Row]) -> list[Row]:
    """Of each zone's clearing in a block, the price at its dearest catalog price."""
    found: dict[tuple[str, int], Row] = {}
    for row in prices:
        key = row["zone"], row["height"]
        if key not in found or row["price_micro_per_kwh"] > found[key]["price_micro_per_kwh"]:
            found[key] = row
    return list(found.values())


def _point(row: Row) -> Point:
    names = ("height", "time_ms", "price_micro_per_kwh", "open_before_wh", "open_after_wh", "capacity_wh")
    return Point(*(row[name] for name in names))
