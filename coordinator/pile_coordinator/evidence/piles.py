"""What every pile is doing: one question for all of them, from open contracts and listings, never from their past."""

from typing import Any

from sqlalchemy import Connection, case, select, true
from sqlalchemy.sql import ColumnElement

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.scopes import ALL, Page, View, newest, piles_seen, plain
from pile_coordinator.evidence.scopes import DISPUTED as DISPUTED_ONES

IDLE, LISTED, RESERVED, CHARGING, SETTLING, DISPUTED, SILENT, RETIRED = STATES = (
    "idle", "listed", "reserved", "charging", "settling", "disputed", "silent", "retired",
)  # fmt: skip
"""A pile that charges while an earlier session of it is argued about is charging; silent is one that should be."""

MAX_PILES = 1000  # of a page
MAX_OPEN = 50_000  # open contracts and listings looked at; more wait, and their piles show as idle
SILENT_MS = 1_800_000  # two heartbeats (timing.heartbeat_ms of a pile); while it charges it reports each few minutes

_Row = dict[str, Any]


def pile_states(
    db: Connection,
    view: View,
    *,
    now_ms: int,
    silent_ms: int = SILENT_MS,
    owner: str | None = None,
    zone: str | None = None,
    after: str = "",
    limit: int = MAX_PILES,
) -> Page:
    """Piles in view by id, at most MAX_PILES, and what each is doing.

    Args:
        db: the evidence.
        view: what the asker sees.
        now_ms: the present, unix ms.
        silent_ms: how long a pile in a session may be unheard of.
        owner: only this owner's piles.
        zone: only this zone's.
        after: the pile that the page before ended with.
        limit: rows.

    Returns:
        Rows with id, owner, zone, rated_power_w, state (STATES), contract (the one that makes it so), user, since_ms (None
        where nothing makes it so), heard_ms (block time of its last proof, or None), and last_energy_wh. Contract, user and
        register are None where they are not the asker's to see. The place of a page is (id,).
    """
    p = schema.pile.c
    query = _piles()
    for column, wanted in ((p.owner, owner), (p.zone, zone)):
        query = query.where(true() if wanted is None else column == wanted)
    limit = max(1, min(limit, MAX_PILES))
    seen = [piles_seen(view.piles, view.party)]
    rows = newest(db, query, seen, (p.id,), (after,) if after else None, limit + 1, newest_first=False)
    shown = rows[:limit]
    doing = _doing(db, {row["id"] for row in shown}) if shown else {}
    found = [_state(row, doing.get(row["id"]), now_ms, silent_ms, view) for row in shown]
    return found, (shown[-1]["id"],) if len(rows) > limit else None


def silent_piles(db: Connection, view: View, now_ms: int, silent_ms: int = SILENT_MS) -> list[_Row]:
    """Piles that are in a session and were not heard of for so long, as rows of `pile_states`."""
    p = schema.pile.c
    charging = {pile: found for pile, found in _contracts(db).items() if found["state"] == CHARGING}
    rows: list[_Row] = []
    names = sorted(charging)
    for start in range(0, len(names), 500):
        which = [p.id.in_(names[start : start + 500]) & piles_seen(view.piles, view.party)]
        rows += newest(db, _piles(), which, (p.id,), None, 500, newest_first=False)
    states = [_state(row, charging[row["id"]], now_ms, silent_ms, view) for row in rows]
    return [row for row in states if row["state"] == SILENT]


def _piles() -> Any:
    """Every pile with its last proof, which the key of `proof` finds at once."""
    pile, proof, block = schema.pile, schema.proof, schema.block

    def of_last(column: ColumnElement[Any]) -> ColumnElement[Any]:
        found = select(column).where(proof.c.kid == pile.c.kid)
        return found.order_by(proof.c.sequence.desc()).limit(1).scalar_subquery()

    heard = (
        select(block.c.time_ms)
        .join_from(proof, block, block.c.height == proof.c.height)
        .where(proof.c.kid == pile.c.kid)
        .order_by(proof.c.sequence.desc())
        .limit(1)
    ).scalar_subquery()
    columns = [pile.c[name] for name in ("id", "owner", "zone", "rated_power_w", "retired_height")]
    return select(*columns, heard.label("heard_ms"), of_last(proof.c.last_energy_wh).label("last_energy_wh"))


def _state(row: _Row, doing: _Row | None, now_ms: int, silent_ms: int, view: View) -> _Row:
    names = ("id", "owner", "zone", "rated_power_w", "heard_ms", "last_energy_wh")
    doing = doing or {"state": IDLE, "contract": None, "user": None, "since_ms": None}
    if row["retired_height"] is not None:
        doing = {"state": RETIRED, "contract": None, "user": None, "since_ms": None}
    elif doing["state"] == CHARGING and now_ms - max(row["heard_ms"] or 0, doing["since_ms"] or 0) > silent_ms:
        doing = doing | {"state": SILENT}
    shown = {name: doing[name] for name in ("state", "contract", "user", "since_ms")}
    told = plain({name: row[name] for name in names} | shown)
    if view.contracts == ALL or view.party in {row["owner"], doing["user"]}:
        return told
    told["last_energy_wh"] = None  # what others take
    if (
        view.contracts != DISPUTED_ONES or told["state"] != DISPUTED
    ):  # that a pile is taken is to be seen; by whom is not
        told |= {"contract": None, "user": None}
    return told


def _doing(db: Connection, piles: set[str]) -> dict[str, _Row]:
    """What open contracts and listings make of piles; a contract counts more than a listing."""
    found = {pile: row for pile, row in _contracts(db).items() if pile in piles}
    for pile, since_ms in _listed(db):
        if pile in piles and pile not in found:
            found[pile] = {"state": LISTED, "contract": None, "user": None, "since_ms": since_ms}
    return found


def _contracts(db: Connection) -> dict[str, _Row]:
    c, b, p = schema.contract.c, schema.block.c, schema.proof
    began = p.alias("began").c
    is_own = (
        case((began.kid == c.kid, 1), else_=0) == 1
    )  # by no index: the key of `proof` would lead through a pile's past
    begun = (
        select(began.height).where(began.contract == c.id, began.event == "begin", is_own).limit(1).scalar_subquery()
    )
    query = (
        select(c.id, c.pile, c.user, c.state, c.window_start_ms, b.time_ms, begun.label("begun"))
        .join_from(schema.contract, schema.block, b.height == c.height)
        .where(c.closed_height.is_(None))
        .limit(MAX_OPEN)
    )
    found: dict[str, _Row] = {}
    for row in db.execute(query).mappings():
        state = {"proposed": RESERVED, "measured": SETTLING, "disputed": DISPUTED}.get(row["state"], RESERVED)
        state = CHARGING if row["state"] == "signed" and row["begun"] is not None else state
        told = {"state": state, "contract": row["id"], "user": row["user"], "since_ms": row["time_ms"]}
        if state == CHARGING:
            told["since_ms"] = row["window_start_ms"]
        before = found.get(row["pile"])
        if before is None or _busier(state, before["state"]):
            found[row["pile"]] = told
    return found


def _busier(state: str, than: str) -> bool:
    """A pile that charges again while its last session is argued about is charging."""
    order = (RESERVED, SETTLING, DISPUTED, CHARGING)
    return order.index(state) > order.index(than)


def _listed(db: Connection) -> list[tuple[str, int]]:
    o = schema.orders.c
    query = select(o.pile, o.window_start_ms).where(o.ended_height.is_(None), o.kind == "listing")
    return [(row[0], row[1]) for row in db.execute(query.limit(MAX_OPEN))]
