"""The evidence database: written once per block, resumed after a crash at any statement, rebuilt from the chain.

Its tables must add up by themselves: all money that the chain moved, and every Wh it metered, is recounted from them.
"""

import sqlite3

import pytest
import sqlalchemy as sa
from evidence_rows import content
from settled import MEASURED_AT, Chain, deliver
from world import HOUR, NOW, key

from pile_coordinator.chain.contracts import TALLY
from pile_coordinator.chain.records import Account, Tally
from pile_coordinator.chain.tariff import tariff_hash
from pile_coordinator.chain.transactions import (
    CancelBid,
    CancelContract,
    CollectFees,
    Deposit,
    List,
    PayOut,
    PlaceBid,
    RefuseWithdrawal,
    RegisterParty,
    RetirePile,
    RevokeKey,
    Rule,
    SetTariff,
    Sign,
    SubmitProofs,
    Unlist,
    Withdraw,
)
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import (
    NoEvidenceError,
    find_contract,
    find_contracts,
    find_order,
    order_certificate,
    postings,
    where_signed,
)
from pile_coordinator.verify import verify_order
from pile_shared.proof import BEGIN, REASON_USER, REASON_VEHICLE_FULL
from pile_shared.proof import END as END_EVENT


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


def rows(chain: Chain, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in chain.evidence.db.exec_driver_sql(query).fetchall()]


def test_every_wh_leads_from_order_to_posting(chain):
    certificate = deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    db = chain.evidence.db
    row = find_contract(db, find_bid(db))
    assert (row["measured_wh"], row["cause"], row["outcome"]) == (2000, "user", "confirmed")
    p = schema.proof.c
    proofs = sa.select(p.event, p.last_energy_wh).where(p.contract == row["id"]).order_by(p.sequence)
    events = db.execute(proofs).fetchall()
    assert [event for event, _ in events] == ["begin", "periodic", "end"]
    assert events[-1][1] - events[0][1] == 2000
    assert len(postings(db, row["id"])) == db.exec_driver_sql("SELECT count(*) FROM posting").scalar()
    assert find_order(db, row["bid"])["outcome"] == "filled"
    assert order_certificate(db, chain.engine, row["bid"]).encoded() == certificate.encoded()


def find_bid(db: sa.Connection) -> bytes:
    (bid,) = db.exec_driver_sql("SELECT id FROM orders WHERE kind = 'market bid'").fetchone()
    return bid


# --- everything that can happen ------------------------------------------------------------------------------------------

DAY = 24 * HOUR


def live(chain: Chain) -> None:
    """Every kind of transaction and ending that leaves a mark, one after the other."""
    disputed = chain.measure(delivered_wh=2000)
    chain.block(MEASURED_AT + 1, chain.rotation("auditor"), ("olga", chain.confirmation(disputed)))
    chain.object("dan", "cause")
    chain.block(MEASURED_AT + 2000, ("auditor", Rule(disputed, 4000, "pile")))
    answered = measured_again(chain, MEASURED_AT + 3000)
    chain.block(MEASURED_AT + 3000 + 2 * HOUR, ("grid", SetTariff(NOW + DAY, 0, [[0, "flat", 500_000, 100_000]])))
    assert answered not in {row["id"] for row in find_contracts(chain.evidence.db, disputed)}

    later = NOW + DAY + HOUR
    chain.block(later, ("grid", Deposit("dan", 1_000_000, "more")), ("grid", CollectFees("operator", 10_000)))
    asks, pays = chain.block(later, ("olga", Withdraw(700_000, "bank 1")), ("dan", Withdraw(600_000, "bank 2")))
    (waits,) = chain.block(later, ("dan", Withdraw(5, "bank 3")))
    chain.block(later, ("grid", RefuseWithdrawal(asks, "no such account")), ("grid", PayOut(pays, "paid 1")))
    assert waits not in {asks, pays}

    for asked, ending in ((("dan",), None), (("dan", "olga"), "dan"), ((), "olga")):
        chain.list_and_bid(start=later + 5 * HOUR, at=later + 1000, energy=3000, offered=3000, asked=asked)
        contract = chain.contract().id
        if ending is None:
            later += 2 * HOUR  # nobody signs
            chain.block(later)
            continue
        for party in asked:
            chain.block(later + 2000, (party, Sign(contract)))
        chain.block(later + 3000, (ending, CancelContract(contract)))

    (left,) = chain.block(later + 4000, ("olga", List("pile-1", later, later + DAY, 500, 900_000, False)))
    chain.list_and_bid(start=later + HOUR, at=later + 4000, energy=1500, divisible=True)
    resting = PlaceBid("north", "", 500, later, later + HOUR, 1, False, later + HOUR, False, False)
    (bid,) = chain.block(later + 5000, ("dan", resting))
    chain.block(later + 6000, ("dan", CancelBid(bid)), ("olga", Unlist(left)))
    chain.block(later + 2 * DAY)
    chain.block(later + 2 * DAY, ("olga", RetirePile("pile-1")), ("operator", RevokeKey("judge-1")))


def measured_again(chain: Chain, at: int) -> bytes:
    """A second session, over by more than its tolerance, whose settlement nobody confirms."""
    chain.list_and_bid(start=at, at=at)
    contract, world = chain.contract().id, chain.world
    proofs = [
        world.prove("pile-1", BEGIN, [(at, 102_000)], contract=contract),
        world.prove("pile-1", END_EVENT, [(at + HOUR, 107_700)], contract=contract, reason=REASON_USER),
    ]
    chain.block(at + HOUR + 3000, ("operator", SubmitProofs(proofs)))
    return contract


def test_all_money_is_recounted(chain):
    """The view `movement` alone gives every balance of the chain; only a resting bid's hold is not in it."""
    live(chain)
    balances: dict[str, int] = {}
    for debit, credit, amount in rows(chain, "SELECT debit, credit, amount_micro FROM movement"):
        for account, change in ((debit, -amount), (credit, amount)):
            name = f"P:{chain.genesis.params.grid}" if account == "G" else account
            balances[name] = balances.get(name, 0) + change
    state = {account.name: account.balance_micro for account in chain.engine.state.each(Account)}
    assert {name: amount for name, amount in balances.items() if amount} == {n: b for n, b in state.items() if b}
    assert sum(balances.values()) == 0
    assert any(name.startswith("W:") for name in state)  # one withdrawal still waits


def test_all_energy_is_recounted(chain):
    live(chain)
    query = (
        "SELECT count(*), sum(measured_wh), sum(contracted_wh), sum(grid_wh), sum(unpaid_wh) FROM settled_contract"
        " WHERE outcome IS NOT NULL"
    )
    tally = chain.engine.state.get(Tally, TALLY)
    assert rows(chain, query) == [
        (tally.contracts_closed, tally.metered_wh, tally.contracted_wh, tally.grid_wh, tally.unpaid_wh)
    ]
    assert tally.grid_wh > 0
    loads = rows(chain, "SELECT open_before_wh, open_after_wh FROM clearing ORDER BY height")
    filled = rows(
        chain,
        "SELECT sum(c.energy_wh) FROM clearing JOIN contract AS c USING (height, zone) WHERE c.on_curve"
        " GROUP BY height, zone ORDER BY height",
    )
    assert [(after - before,) for before, after in loads] == filled


def test_how_each_order_and_contract_ended(chain):
    live(chain)
    outcomes = dict(rows(chain, "SELECT outcome, count(*) FROM contract GROUP BY outcome"))
    assert outcomes == {"resolved": 1, "settled": 1, "unsigned": 1, "cancelled": 2, "defaulted": 1}
    assert {state for (state,) in rows(chain, "SELECT state FROM contract")} == {"closed"}
    orders = dict(rows(chain, "SELECT kind || ' ' || outcome, count(*) FROM orders GROUP BY 1"))
    assert orders["market bid filled"] == 6
    assert orders["limited bid cancelled"] == orders["listing cancelled"] == 1
    assert orders["listing spent"] == 3  # offered no more than was bought
    assert orders["listing expired"] == 3
    assert all(
        where_signed(chain.evidence.db, c)
        for (c,) in rows(chain, "SELECT id FROM contract WHERE outcome != 'unsigned'")
    )
    (unsigned,) = rows(chain, "SELECT id FROM contract WHERE outcome = 'unsigned'")
    assert where_signed(chain.evidence.db, unsigned[0]) is None


def test_every_closed_contract_has_a_certificate_that_holds(chain):
    live(chain)
    made = 0
    for contract, outcome in rows(chain, "SELECT id, outcome FROM contract"):
        if outcome == "unsigned":
            with pytest.raises(NoEvidenceError, match="never signed"):
                chain.certificate(contract)
            continue
        assert verify_order(chain.certificate(contract).encoded(), chain.genesis).outcome == outcome
        made += 1
    assert made == 5


def test_what_became_of_withdrawals(chain):
    live(chain)
    query = "SELECT party, amount_micro, state, reference, reason FROM withdrawal ORDER BY amount_micro"
    assert rows(chain, query) == [
        ("dan", 5, "requested", None, None),
        ("dan", 600_000, "paid", "paid 1", None),
        ("olga", 700_000, "refused", None, "no such account"),
    ]


def test_keys_piles_and_tariffs(chain):
    live(chain)
    changes = rows(chain, "SELECT party, kind, public, sender FROM key_change ORDER BY height")
    assert changes == [
        ("auditor", "rotate", key("auditor/0").public, "auditor"),
        ("judge-1", "revoke", None, "operator"),
    ]
    ((retired, height),) = rows(chain, "SELECT id, retired_height FROM pile")
    assert (retired, height) == ("pile-1", chain.engine.height)
    ((in_force, sell),) = rows(
        chain, "SELECT tariff.hash, sell_micro_per_kwh FROM tariff JOIN tariff_period USING (hash)"
    )
    assert sell == 500_000
    tariffs = [tariff for (tariff,) in rows(chain, "SELECT tariff FROM clearing ORDER BY height")]
    assert tariffs == [tariff_hash(chain.genesis.tariff)] * 2 + [in_force] * 4
    prices = rows(chain, "SELECT catalog_micro_per_kwh, count(*) FROM price GROUP BY 1 ORDER BY 1")
    assert prices == [(500_000, 4), (650_000, 2)]


def test_a_dispute_keeps_both_statements_and_all_that_was_said(chain):
    live(chain)
    (dispute,) = rows(chain, "SELECT contract, party, ground, claimed_wh, text FROM dispute")
    assert dispute[1:] == ("dan", "cause", 4000, "see the photo")
    statements = rows(
        chain, "SELECT s.number, s.measured_wh, s.cause, s.basis FROM statement AS s JOIN dispute USING (contract)"
    )
    assert statements == [(1, 2000, "user", None), (2, 4000, "pile", "ruling")]
    assert rows(chain, "SELECT arbiter, measured_wh, cause FROM ruling") == [("auditor", 4000, "pile")]
    posted = sa.select(sa.func.count()).where(schema.posting.c.contract == dispute[0])
    assert len(postings(chain.evidence.db, dispute[0])) < chain.evidence.db.execute(posted).scalar_one()


# --- written once, rebuilt at any time -----------------------------------------------------------------------------------


def test_writing_a_block_twice_changes_nothing(chain):
    live(chain)
    before = content(chain.evidence.db)
    for height in range(1, chain.engine.height + 1):
        chain.evidence.write(chain.engine.block(height))
    assert content(chain.evidence.db) == before


def test_a_lost_database_is_made_again_from_the_chain(chain, tmp_path):
    live(chain)
    rebuilt = Exporter(tmp_path / "again.sqlite")
    rebuilt.catch_up(chain.engine)
    assert content(rebuilt.db) == content(chain.evidence.db)
    rebuilt.close()


def test_a_database_of_another_schema_is_made_again(chain, tmp_path):
    deliver(chain, delivered_wh=5000, reason=1)
    old = sqlite3.connect(tmp_path / "old.sqlite")
    old.executescript(
        "CREATE TABLE mark (only_row INTEGER, schema INTEGER, height INTEGER); INSERT INTO mark VALUES (1, 1, 3);"
        "CREATE TABLE contract (id BLOB PRIMARY KEY); CREATE VIEW mine AS SELECT id FROM contract;"
    )
    old.close()
    for _ in range(2):  # the second time it is of this schema
        exporter = Exporter(tmp_path / "old.sqlite")
        exporter.catch_up(chain.engine)
        assert content(exporter.db) == content(chain.evidence.db)
        exporter.close()


class Cut:
    """Power fails before the n-th writing statement."""

    def __init__(self, exporter: Exporter, left: int) -> None:
        self.left = left
        sa.event.listen(exporter.db.engine, "before_cursor_execute", self.count)

    def count(self, _connection: object, _cursor: object, sql: str, *_: object) -> None:
        if not sql.startswith(("SELECT", "PRAGMA", "ROLLBACK")):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_a_crash_at_any_statement_loses_and_repeats_nothing(chain, tmp_path):
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    whole = content(chain.evidence.db)
    for cut in range(1, 1000):
        path = tmp_path / f"cut-{cut}.sqlite"
        exporter = Exporter(path)
        Cut(exporter, cut)
        try:
            for height in range(1, chain.engine.height + 1):
                exporter.write(chain.engine.block(height))
        except KeyboardInterrupt:
            exporter.close()
            resumed = Exporter(path)
            resumed.catch_up(chain.engine)
            assert content(resumed.db) == whole
            resumed.close()
            path.unlink()
            continue
        assert content(exporter.db) == whole
        exporter.close()
        break
    assert cut > 40  # the story takes that many statements


def test_what_is_not_there_or_not_over_says_so(chain):
    with pytest.raises(NoEvidenceError, match="no contract"):
        find_contract(chain.evidence.db, b"\x01" * 32)
    with pytest.raises(NoEvidenceError, match="no order"):
        find_order(chain.evidence.db, b"\x01" * 32)
    assert find_contracts(chain.evidence.db, b"\x01" * 32) == []
    assert where_signed(chain.evidence.db, b"\x01" * 32) is None
    chain.list_and_bid()
    with pytest.raises(NoEvidenceError, match="still open"):
        order_certificate(chain.evidence.db, chain.engine, find_bid(chain.evidence.db))


def test_parties_that_were_admitted_are_there(chain):
    chain.block(NOW + 2000, ("operator", RegisterParty("eva", "ev-owner", key("eva").public)))
    assert ("eva", "ev-owner") in rows(chain, "SELECT id, role FROM party")
