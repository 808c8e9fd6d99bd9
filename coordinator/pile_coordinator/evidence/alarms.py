"""What somebody should look at: each alarm with its kind, how grave it is, since when, and what to do.

Only what evidence, genesis and ledger show is judged. What they do not hold is named as not judged, with what would know.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, select

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.disputes import disputes
from pile_coordinator.evidence.network import Certificates, jailed_nodes, network
from pile_coordinator.evidence.piles import SILENT_MS, silent_piles
from pile_coordinator.evidence.scopes import ALL, View

CRITICAL, WARNING = "critical", "warning"
CHAIN_STILL, EVIDENCE_BEHIND, DATABASE_AWAY = "chain_still", "evidence_behind", "database_away"
PILE_SILENT, DISPUTE_DUE, WITHDRAWAL_WAITS = "pile_silent", "dispute_due", "withdrawal_waits"
NODE_JAILED, NODE_MISSING = "node_jailed", "node_missing"
PROOFS_REFUSED, AUDIT_FAILED = "proofs_refused", "audit_failed"
KINDS = (CHAIN_STILL, EVIDENCE_BEHIND, DATABASE_AWAY, PILE_SILENT, DISPUTE_DUE, WITHDRAWAL_WAITS, NODE_JAILED, NODE_MISSING,
         PROOFS_REFUSED, AUDIT_FAILED)  # fmt: skip

MAX_EACH = 100  # alarms of one kind
MARGIN_MS = 60_000  # after an epoch edge, which makes a block if nothing else does
BEHIND_BLOCKS = 20
WITHDRAWAL_MS = 86_400_000
DUE_PERMILLE = 250  # of the time for a dispute that is left
MISSED_OF_TEN = 5  # of the newest blocks whose signers are known

TO_DO = {
    CHAIN_STILL: "see that the coordinator runs and, with CometBFT, that more than two thirds of the power is connected",
    EVIDENCE_BEHIND: "see that the evidence database answers and has room: pilechain evidence status",
    DATABASE_AWAY: "start the database server; the coordinator writes what is missing by itself",
    PILE_SILENT: "see that the pile has power and network; its session is settled by what it proves later, or not at all",
    DISPUTE_DUE: "arbiters rule with: pilechain wallet rule; without them time decides",
    WITHDRAWAL_WAITS: "the treasury pays it out or refuses it: pilechain wallet pay-out, or refuse-withdrawal",
    NODE_JAILED: "repair the node, and when its time is over: pilechain wallet unjail",
    NODE_MISSING: "see that the node runs and reaches its peers; it goes to jail if it misses half of a window",
    PROOFS_REFUSED: "see why with: pilechain wallet piles",
    AUDIT_FAILED: "compute the ledger again with: pilechain replay",
}
_COORDINATOR = "the running coordinator keeps it in memory: pilechain wallet piles"
_AUDIT = "only computing the whole ledger again tells: pilechain replay"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One. subject: the pile, contract, withdrawal or party it is about, or "". since_ms: None if that is not known."""

    kind: str
    severity: str
    subject: str
    since_ms: int | None
    facts: dict[str, int]
    to_do: str


@dataclass(frozen=True, slots=True)
class Alarms:
    """alarms: the gravest first, then the oldest. not_judged: by kind, what would know."""

    alarms: list[Alarm]
    not_judged: dict[str, str]

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        judged = [{"kind": kind, "needs": needs} for kind, needs in sorted(self.not_judged.items())]
        return {"alarms": [asdict(alarm) for alarm in self.alarms], "not_judged": judged}


def alarms(
    db: Connection,
    view: View,
    *,
    now_ms: int,
    genesis: Genesis | None = None,
    ledger: Certificates | None = None,
    silent_ms: int = SILENT_MS,
) -> Alarms:
    """What is wrong now, of what is in view; who does not see all contracts is told of piles and disputes alone.

    Args:
        db: the evidence.
        view: what the asker sees.
        now_ms: the present, unix ms.
        genesis: for epochs and the time arbiters have.
        ledger: for its height, and for who signed.
        silent_ms: how long a pile in a session may be unheard of.
    """
    not_judged = {PROOFS_REFUSED: _COORDINATOR, AUDIT_FAILED: _AUDIT}
    if genesis is None:
        not_judged |= dict.fromkeys((DISPUTE_DUE, CHAIN_STILL), "the genesis file: `genesis` of web.toml")
    if ledger is None:
        not_judged |= dict.fromkeys((EVIDENCE_BEHIND, NODE_MISSING), "the ledger: `ledger` of web.toml")
    found = [*_piles(db, view, now_ms, silent_ms)]
    if genesis is not None:
        found += _disputes(db, view, now_ms, genesis)
    if view.contracts == ALL:
        found += _network(db, now_ms, genesis, ledger)
        found += [*_withdrawals(db, now_ms), *_jailed(db)]
    else:
        not_judged = {kind: needs for kind, needs in not_judged.items() if kind == DISPUTE_DUE}
    found.sort(key=lambda alarm: (alarm.severity != CRITICAL, alarm.since_ms or 0, alarm.subject))
    return Alarms(found, not_judged)


def database_away() -> Alarms:
    """All that can be said without the database."""
    needs = dict.fromkeys((kind for kind in KINDS if kind != DATABASE_AWAY), "the evidence database")
    return Alarms([_alarm(DATABASE_AWAY, CRITICAL, "", None)], needs)


def _alarm(kind: str, severity: str, subject: str, since_ms: int | None, **facts: int) -> Alarm:
    return Alarm(kind, severity, subject, since_ms, facts, TO_DO[kind])


def _piles(db: Connection, view: View, now_ms: int, silent_ms: int) -> Iterator[Alarm]:
    for row in silent_piles(db, view, now_ms, silent_ms)[:MAX_EACH]:
        since_ms = max(row["heard_ms"] or 0, row["since_ms"] or 0)
        yield _alarm(PILE_SILENT, WARNING, row["id"], since_ms, silent_ms=now_ms - since_ms)


def _disputes(db: Connection, view: View, now_ms: int, genesis: Genesis) -> Iterator[Alarm]:
    window_ms = genesis.params.dispute_window_ms
    rows, _ = disputes(db, view, window_ms=window_ms, open_only=True, limit=MAX_EACH)
    for row in rows:
        left_ms = row["deadline_ms"] - now_ms
        if left_ms * 1000 <= window_ms * DUE_PERMILLE:
            severity = CRITICAL if left_ms * 2000 <= window_ms * DUE_PERMILLE else WARNING
            facts = {"left_ms": max(0, left_ms), "rulings": row["rulings"]}
            yield _alarm(DISPUTE_DUE, severity, row["contract"], row["time_ms"], **facts)


def _network(db: Connection, now_ms: int, genesis: Genesis | None, ledger: Certificates | None) -> Iterator[Alarm]:
    state = network(db, now_ms, genesis, ledger)
    height, time_ms = state["height"], state["time_ms"]
    if genesis is not None and height:
        epoch_ms = genesis.params.epoch_ms
        edge_ms = genesis.time_ms + ((time_ms - genesis.time_ms) // epoch_ms + 1) * epoch_ms
        if now_ms > edge_ms + MARGIN_MS:
            yield _alarm(CHAIN_STILL, CRITICAL, "", time_ms, height=height, quiet_ms=state["quiet_ms"])
    if ledger is not None and state["ledger_height"] - height > BEHIND_BLOCKS:
        behind = state["ledger_height"] - height
        yield _alarm(EVIDENCE_BEHIND, WARNING, "", time_ms, height=height, blocks=behind)
    newest = [block for block in state["blocks"] if block["signed"] is not None][:10]
    for node in state["nodes"]:
        missed = sum(node["party"] in block["missed"] for block in newest)
        if missed >= MISSED_OF_TEN and not node["jailed"]:
            yield _alarm(NODE_MISSING, WARNING, node["party"], None, missed=missed, blocks=len(newest))


def _withdrawals(db: Connection, now_ms: int) -> Iterator[Alarm]:
    w, b = schema.withdrawal.c, schema.block.c
    query = (
        select(w.id, w.amount_micro, b.time_ms)
        .join_from(schema.withdrawal, schema.block, b.height == w.height)
        .where(w.ended_height.is_(None), b.time_ms < now_ms - WITHDRAWAL_MS)
        .order_by(w.height)
        .limit(MAX_EACH)
    )
    for row in db.execute(query):
        facts = {"amount_micro": row.amount_micro, "waited_ms": now_ms - row.time_ms}
        yield _alarm(WITHDRAWAL_WAITS, WARNING, row.id.hex(), row.time_ms, **facts)


def _jailed(db: Connection) -> Iterator[Alarm]:
    for row in jailed_nodes(db)[:MAX_EACH]:
        yield _alarm(NODE_JAILED, WARNING, row["party"], row["time_ms"], height=row["punished_height"])
