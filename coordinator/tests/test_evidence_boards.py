"""What dashboards ask of the evidence: right, within what the asker sees, the same in MariaDB, and never by reading all of it."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from settled import MEASURED_AT, Chain
from sqlalchemy import event
from test_evidence import live
from world import HOUR, NOW

from pile_coordinator.chain.transactions import AT_MARKET, List, Object, PlaceBid, SubmitProofs
from pile_coordinator.evidence import alarms as alarming
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.alarms import alarms
from pile_coordinator.evidence.closed import closed_contracts
from pile_coordinator.evidence.deviations import deviations
from pile_coordinator.evidence.disputes import disputes
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.market import book_depth, order_book, price_history
from pile_coordinator.evidence.network import network
from pile_coordinator.evidence.piles import SILENT_MS, pile_states
from pile_coordinator.evidence.scopes import ALL, DEVIATED, DISPUTED, EVERYTHING, NONE, OWN, View
from pile_coordinator.evidence.timeline import contracts_of_order, timeline
from pile_coordinator.evidence.trace import UnknownIdError, trace
from pile_coordinator.replay import open_ledger
from pile_hil.mariadb import MariaDb, find_mariadb
from pile_hil.requirements import require
from pile_shared.proof import BEGIN

pytestmark = pytest.mark.timeout(180)
DAN = View("dan", OWN, OWN, OWN, OWN, senders=False)
OLGA = View("olga", OWN, OWN, OWN, OWN, senders=False)
GRID = View("grid", NONE, DEVIATED, ALL, ALL, senders=False)
JUDGE = View("judge-1", DISPUTED, DISPUTED, DISPUTED, DISPUTED, senders=False)
NOBODY = View("nobody", OWN, OWN, OWN, OWN, senders=False)
VIEWS = {view.party: view for view in (EVERYTHING, DAN, OLGA, GRID, JUDGE, NOBODY)}
LATER = NOW + 10_000 * HOUR


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """All that can end has ended; then one contract charges, one bid and one listing wait."""
    chain = Chain(tmp_path_factory.mktemp("boards"))
    chain.admit()
    live(chain)
    yield chain
    chain.close()


@pytest.fixture
def fresh(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


def asked(db, view, genesis, ledger=None):
    """Every question there is, as one JSON text."""
    window_ms = genesis.params.dispute_window_ms
    ids = list(db.execute(sa.select(schema.contract.c.id).order_by(schema.contract.c.id)).scalars())
    told = [
        disputes(db, view, window_ms=window_ms),
        disputes(db, view, window_ms=None, open_only=True, after=(1 << 40, 0), limit=3),
        deviations(db, view, start_ms=NOW, end_ms=LATER),
        deviations(db, view, after=(1 << 40, 0), limit=1),
        closed_contracts(db, view, NOW, LATER, after=(1, 1), limit=3),
        order_book(db, view, zone="north", after=(1 << 40, 0)),
        order_book(db, view),
        book_depth(db, "north"),
        price_history(db, "north", NOW - HOUR, NOW + 100 * HOUR, 40),
        pile_states(db, view, now_ms=LATER, zone="north", owner="olga", after="a"),
        pile_states(db, view, now_ms=LATER),
        network(db, LATER, genesis, ledger),
        alarms(db, view, now_ms=LATER, genesis=genesis, ledger=ledger).fields(),
    ]
    for name in ids:
        try:
            told.append(timeline(db, view, name, chain_id=genesis.chain_id))
        except UnknownIdError:
            told.append(name.hex())
    for text in ("block:5", "pile:pile-1", "party:olga", f"contract:{ids[0].hex()}"):
        try:
            told.append(trace(db, text, view=view).fields())
        except UnknownIdError:
            told.append(text)
    told.append(contracts_of_order(db, view, ids[0]))
    return json.dumps(told, sort_keys=True)


# --- nothing is read whole -----------------------------------------------------------------------------------------------

BIG = ("orders", "contract", "proof", "posting", "statement", "tx", "block", "piece", "signature", "confirmation", "clearing",
       "price", "deviation", "tally")  # fmt: skip


def plans(db, ask):
    """(statement, plan) of every question that `ask` makes."""
    found = {}

    def note(_connection, _cursor, statement, parameters, _context, _many):
        found[statement] = parameters

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        ask()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    explained = []
    for statement, parameters in found.items():
        rows = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        explained.append((statement, [row[3] for row in rows]))
    return explained


@pytest.mark.parametrize("party", VIEWS)
def test_no_question_reads_a_big_table_whole(chain, party):
    db, view = chain.evidence.db, VIEWS[party]
    for statement, plan in plans(db, lambda: asked(db, view, chain.genesis)):
        is_newest = "WHERE" not in statement and "LIMIT" in statement  # walks an index from its end, and stops
        is_newest |= "WHERE 0 = 1" in statement  # SQLite sees that before it reads
        is_all_of_test = (
            "ORDER BY contract.id" in statement and "WHERE" not in statement
        )  # asked for by the test itself
        is_walk = "deviation.height DESC" in statement and "LIMIT" in statement  # likewise: all of them, newest first
        for line in plan:
            words = line.split()
            if words[0] == "SCAN" and not (is_newest or is_all_of_test or is_walk):
                table = dict(pair[::-1] for pair in re.findall(r"(\w+) AS (\w+)", statement)).get(words[1], words[1])
                assert table not in BIG, (line, statement)


# --- what is told --------------------------------------------------------------------------------------------------------


def test_disputes_tell_what_is_objected_to_and_what_it_came_to(chain):
    db = chain.evidence.db
    (row,), following = disputes(db, EVERYTHING, window_ms=1000)
    assert following is None
    assert (row["party"], row["ground"], row["measured_wh"], row["final_wh"], row["basis"]) == (
        "dan", "cause", 2000, 4000, "ruling",
    )  # fmt: skip
    assert (row["deadline_ms"], row["state"], row["rulings"], row["bond_micro"]) == (None, "closed", 1, 5_000_000)
    assert disputes(db, EVERYTHING, window_ms=1000, open_only=True) == ([], None)
    assert [len(disputes(db, v, window_ms=None)[0]) for v in (DAN, OLGA, GRID, JUDGE, NOBODY)] == [1, 1, 1, 1, 0]


def test_an_open_dispute_has_a_deadline_and_alarms_when_it_is_near(fresh):
    contract = fresh.measure()
    fresh.block(MEASURED_AT + 1000, ("dan", Object(contract, "cause", 4000, "why?")))
    db, window_ms = fresh.evidence.db, fresh.genesis.params.dispute_window_ms
    (row,), _ = disputes(db, JUDGE, window_ms=window_ms, open_only=True)
    deadline_ms = MEASURED_AT + 1000 + window_ms
    assert (row["deadline_ms"], row["final_wh"]) == (deadline_ms, None)

    def due(now_ms):
        found = alarms(db, JUDGE, now_ms=now_ms, genesis=fresh.genesis).alarms
        return [
            (alarm.severity, alarm.subject, alarm.facts["left_ms"]) for alarm in found if alarm.kind == "dispute_due"
        ]

    assert due(deadline_ms - window_ms // 2) == []
    assert due(deadline_ms - window_ms // 4) == [("warning", contract.hex(), window_ms // 4)]
    assert due(deadline_ms + 1) == [("critical", contract.hex(), 0)]
    assert "dispute_due" in alarms(db, JUDGE, now_ms=deadline_ms).not_judged
    (state,), _ = pile_states(db, EVERYTHING, now_ms=MEASURED_AT)
    assert (state["state"], state["contract"]) == ("disputed", contract.hex())


def test_deviations_are_what_the_postings_of_the_grid_say(chain):
    db, p, s = chain.evidence.db, schema.posting.c, schema.settled_contract.c
    rows, _ = deviations(db, EVERYTHING)
    sides = {}
    postings = sa.select(p.contract, p.debit, p.credit, p.amount_micro).join(
        schema.settled_contract, (s.id == p.contract) & (s.number == p.number)
    )
    for row in db.execute(postings):
        change = (row.credit == "G") - (row.debit == "G")
        if change:
            sides[row.contract.hex()] = sides.get(row.contract.hex(), 0) + change * row.amount_micro
    assert {row["contract"]: row["grid_micro"] for row in rows if row["grid_micro"]} == sides
    assert sides
    assert all(row["off_wh"] == row["measured_wh"] - row["expected_wh"] for row in rows)
    assert deviations(db, GRID)[0] == deviations(db, DAN)[0] == rows
    assert deviations(db, NOBODY) == ([], None)
    seen, after = [], None
    while True:
        page, after = deviations(db, DAN, after=after, limit=1)
        seen += page
        if after is None:
            break
    assert seen == rows
    last = rows[0]["time_ms"]
    assert deviations(db, GRID, start_ms=last, end_ms=last + 1)[0] == [row for row in rows if row["time_ms"] == last]
    assert deviations(db, GRID, start_ms=LATER)[0] == []


def test_what_waits_is_the_state_of_the_chain(fresh):
    """Against bids and listings as the chain itself keeps them."""
    start = NOW + 20 * HOUR
    fresh.block(NOW + 2000, ("olga", List("pile-1", NOW, start + 8 * HOUR, 20_000, AT_MARKET, False)))
    fresh.block(NOW + 3000, ("dan", PlaceBid("north", "", 5000, NOW, NOW + 4 * HOUR, 800_000, True, 0, False, False)))
    limited = PlaceBid("north", "pile-1", 3000, start, start + HOUR, 1, False, start + HOUR, False, False)
    fresh.block(NOW + 4000, ("dan", limited))
    db = fresh.evidence.db
    rows, _ = order_book(db, EVERYTHING, zone="north")
    told = [(r["kind"], r["zone"], r["pile"], r["energy_wh"], r["open_wh"], r["price_micro_per_kwh"]) for r in rows]
    assert told == [
        ("limited bid", "north", "pile-1", 3000, 3000, 1),
        ("listing", "north", "pile-1", 20_000, 15_000, -1),
    ]
    assert rows[0]["expires_ms"] == start + HOUR
    assert [row["kind"] for row in order_book(db, DAN)[0]] == ["limited bid"]
    assert [row["kind"] for row in order_book(db, OLGA)[0]] == ["listing"]
    assert order_book(db, EVERYTHING, zone="south") == order_book(db, GRID) == ([], None)
    assert book_depth(db, "north") == [
        {"kind": "limited bid", "price_micro_per_kwh": 1, "open_wh": 3000, "orders": 1},
        {"kind": "listing", "price_micro_per_kwh": -1, "open_wh": 15_000, "orders": 1},
    ]


def test_a_pile_is_listed_reserved_charging_silent_and_settling(fresh):
    db = fresh.evidence.db

    def state(now_ms, view=EVERYTHING):
        (row,), _ = pile_states(db, view, now_ms=now_ms)
        return row

    assert state(NOW)["state"] == "idle"
    fresh.list_and_bid()
    contract = fresh.contract().id
    row = state(NOW + 3000)
    assert (row["state"], row["contract"], row["user"], row["heard_ms"]) == ("reserved", contract.hex(), "dan", None)
    assert (state(NOW, GRID)["state"], state(NOW, GRID)["contract"], state(NOW, GRID)["user"]) == (
        "reserved",
        None,
        None,
    )
    begin = SubmitProofs([fresh.world.prove("pile-1", BEGIN, [(NOW + 3000, 100_000)], contract=contract)])
    fresh.block(NOW + 4000, ("operator", begin))
    row = state(NOW + 5000)
    assert (row["state"], row["heard_ms"], row["last_energy_wh"]) == ("charging", NOW + 4000, 100_000)
    assert [state(NOW, view)["last_energy_wh"] for view in (DAN, OLGA, GRID)] == [100_000, 100_000, None]
    assert state(NOW + 4000 + SILENT_MS)["state"] == "charging"
    assert state(NOW + 4001 + SILENT_MS)["state"] == "silent"
    (alarm,) = [a for a in alarms(db, DAN, now_ms=NOW + HOUR, genesis=fresh.genesis).alarms if a.kind == "pile_silent"]
    assert (alarm.subject, alarm.since_ms, alarm.facts) == ("pile-1", NOW + 4000, {"silent_ms": HOUR - 4000})
    assert pile_states(db, NOBODY, now_ms=NOW) == ([], None)


def test_a_listed_pile_and_a_retired_one(chain, fresh):
    fresh.block(NOW + 2000, ("olga", List("pile-1", NOW, NOW + 20 * HOUR, 20_000, AT_MARKET, False)))
    assert pile_states(fresh.evidence.db, EVERYTHING, now_ms=NOW)[0][0]["state"] == "listed"
    assert pile_states(chain.evidence.db, EVERYTHING, now_ms=NOW)[0][0]["state"] == "retired"


def test_prices_are_the_last_clearing_of_each_part(chain):
    db, c, b = chain.evidence.db, schema.clearing.c, schema.block.c
    joined = sa.select(c.height, b.time_ms).join(schema.block, b.height == c.height).where(c.zone == "north")
    cleared = sorted((row.time_ms, row.height) for row in db.execute(joined))
    start, end = cleared[0][0], cleared[-1][0] + 1
    for points in (1, 7, 500):
        rows = price_history(db, "north", start, end, points)
        assert len(rows) <= points
        expected = [
            max(height for time_ms, height in cleared if row["start_ms"] <= time_ms < row["end_ms"]) for row in rows
        ]
        assert [row["height"] for row in rows] == expected
        covered = [any(row["start_ms"] <= time_ms < row["end_ms"] for row in rows) for time_ms, _ in cleared]
        assert all(covered)
    assert price_history(db, "nowhere", start, end) == []


def test_the_network_tells_who_signed_only_with_the_ledger(chain):
    db, genesis = chain.evidence.db, chain.genesis
    blind = network(db, LATER)
    assert (blind["height"], blind["nodes"], blind["elects"]) == (chain.engine.height, [], None)
    assert {block["signed"] for block in blind["blocks"]} == {None}
    ledger = Path(db.exec_driver_sql("PRAGMA database_list").fetchone()[2]).with_name("ledger.sqlite")
    store = open_ledger(ledger, genesis)
    found = network(db, LATER, genesis, store)
    assert (found["elects"], found["ledger_height"]) == (False, chain.engine.height)
    assert all(block["signed"] == ["auditor", "grid", "operator"] for block in found["blocks"])
    assert [(node["party"], node["missed"], node["jailed"]) for node in found["nodes"]] == [
        ("auditor", 0, False), ("grid", 0, False), ("operator", 0, False),
    ]  # fmt: skip
    times = [chain.engine.block(height).header.time_ms for height in range(1, chain.engine.height + 1)]
    gaps = [after - before for before, after in pairwise(times)]
    assert (found["mean_ms"], found["least_ms"], found["most_ms"]) == (sum(gaps) // len(gaps), min(gaps), max(gaps))
    store.close()


def kinds(db, genesis, now_ms, **given):
    return {alarm.kind for alarm in alarms(db, EVERYTHING, now_ms=now_ms, genesis=genesis, **given).alarms}


def test_a_chain_stands_still_when_an_epoch_made_no_block(chain):
    db, genesis = chain.evidence.db, chain.genesis
    last_ms = chain.engine.block(chain.engine.height).header.time_ms
    edge_ms = genesis.time_ms + ((last_ms - genesis.time_ms) // genesis.params.epoch_ms + 1) * genesis.params.epoch_ms
    assert alarming.CHAIN_STILL not in kinds(db, genesis, edge_ms + 60_000)
    assert alarming.CHAIN_STILL in kinds(db, genesis, edge_ms + 60_001)
    judged = alarms(db, EVERYTHING, now_ms=LATER)
    assert set(judged.not_judged) == {
        "chain_still", "dispute_due", "evidence_behind", "node_missing", "proofs_refused", "audit_failed",
    }  # fmt: skip


class Ahead:
    """A ledger that has gone on, and whose last blocks one node did not sign."""

    def __init__(self, chain, blocks):
        self._chain, self._blocks = chain, blocks

    def height(self):
        return self._chain.engine.height + self._blocks

    def certificate(self, height):
        certificate = self._chain.engine.block(height).certificate
        certificate.attestations = certificate.attestations[1:]
        return certificate


def test_evidence_behind_the_ledger_and_a_node_that_is_away(chain):
    db, genesis = chain.evidence.db, chain.genesis
    assert alarming.EVIDENCE_BEHIND not in kinds(db, genesis, NOW, ledger=Ahead(chain, 20))
    found = alarms(db, EVERYTHING, now_ms=NOW, genesis=genesis, ledger=Ahead(chain, 21)).alarms
    facts = {alarm.kind: (alarm.subject, alarm.facts) for alarm in found}
    assert facts["evidence_behind"][1]["blocks"] == 21
    assert facts["node_missing"] == ("auditor", {"missed": 10, "blocks": 10})


def test_withdrawals_that_wait_and_nodes_in_jail(chain):
    db, genesis = chain.evidence.db, chain.genesis
    w, b = schema.withdrawal, schema.block.c
    (waits,) = db.execute(
        sa.select(w.c.id, b.time_ms).join(schema.block, b.height == w.c.height).where(w.c.state == "requested")
    )
    day = 86_400_000
    assert alarming.WITHDRAWAL_WAITS not in kinds(db, genesis, waits.time_ms + day)
    assert alarming.WITHDRAWAL_WAITS in kinds(db, genesis, waits.time_ms + day + 1)
    db.execute(
        schema.punishment.insert().values(
            height=3, leaf=9, party="auditor", reason="downtime", offence_height=2, cost_micro=1
        )
    )
    assert alarming.NODE_JAILED in kinds(db, genesis, NOW)
    db.execute(
        schema.tx.insert().values(height=4, position=900, id=b"\x09" * 32, type="unjail", sender="auditor", code="ok")
    )
    assert alarming.NODE_JAILED not in kinds(db, genesis, NOW)
    db.execute(schema.punishment.delete())
    db.execute(schema.tx.delete().where(schema.tx.c.position == 900))


def test_a_timeline_leads_from_bid_to_certificate_and_checks_each_proof(chain):
    db, chain_id = chain.evidence.db, chain.genesis.chain_id
    contract = db.execute(sa.select(schema.dispute.c.contract)).scalar_one()
    whole = timeline(db, EVERYTHING, contract, chain_id=chain_id)
    steps = [step["kind"] for step in whole["steps"]]
    wanted = ["listing", "bid", "contract", "clearing", "start", "proof", "end", "settlement", "confirmation", "dispute",
              "ruling", "settlement", "posting", "posting", "posting", "posting", "posting", "closing", "certificate"]  # fmt: skip
    assert sorted(steps) == sorted(wanted)
    assert [k for k in steps if k in {"bid", "start", "end", "dispute", "closing", "certificate"}] == [
        "bid", "start", "end", "dispute", "closing", "certificate",
    ]  # fmt: skip
    proofs = [step for step in whole["steps"] if "checks" in step]
    good = {"signature": True, "place": True, "register": True}
    assert [step["checks"] for step in proofs] == [good] * 3
    assert timeline(db, EVERYTHING, contract)["steps"][4]["checks"]["signature"] is None
    assert [s["kind"] for s in timeline(db, DAN, contract)["steps"] if s["kind"] in {"bid", "listing"}] == ["bid"]
    first = timeline(db, DAN, contract, chain_id=chain_id, limit=2)
    rest = timeline(db, DAN, contract, chain_id=chain_id, after_sequence=first["next_sequence"])
    assert [step["sequence"] for step in rest["steps"]] == [proofs[2]["sequence"]]
    with pytest.raises(UnknownIdError):
        timeline(db, NOBODY, contract)


def test_a_proof_that_was_tampered_with_in_the_database_is_told(fresh):
    contract = fresh.measure()
    db, p = fresh.evidence.db, schema.proof.c
    rows = list(db.execute(sa.select(schema.proof).order_by(p.sequence)))
    forged = bytearray(rows[1].bytes)
    forged[-1] ^= 1  # of the signature
    db.execute(schema.proof.update().where(p.sequence == rows[1].sequence).values(bytes=bytes(forged)))
    told = timeline(db, EVERYTHING, contract, chain_id=fresh.genesis.chain_id)["steps"]
    checks = [tuple(step["checks"].values()) for step in told if "checks" in step]
    assert checks == [(True, True, True), (False, False, True), (True, False, True)]


def test_mariadb_tells_the_same(chain, tmp_path):
    require(find_mariadb() is not None, "mariadbd is missing: apt install mariadb-server, or tools/servers")
    with MariaDb(tmp_path / "mariadb") as server:
        other = Exporter(server.create("boards"))
        try:
            other.catch_up(chain.engine)
            for view in VIEWS.values():
                here, there = (asked(db, view, chain.genesis) for db in (chain.evidence.db, other.db))
                assert here == there, view
        finally:
            other.close()
