"""Every row of the table in the ledger guide, "Contract": one test per row drives the chain and pays by the row's formulas.

All amounts are computed here, by hand, from the guide: 5 kWh at an ask of 0.70 with the catalog at 0.65 and 0.40, a tolerance
of 100 Wh, a cap of 500 Wh, a fee of 0.05.
"""

import re
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal, localcontext
from pathlib import Path

import pytest
from settled import Chain, deliver
from world import END, HOUR, NOW, START, Market, closings, leaf_of, statements

from pile_coordinator.chain.records import (
    ACTIVE,
    DISPUTED,
    MEASURED,
    PROPOSED,
    SIGNED,
    Account,
    Bid,
    Contract,
    Listing,
    Zone,
)
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import AT_MARKET, Answer, CancelBid, CancelContract, Object, Rule, Sign, Unlist
from pile_coordinator.chain.transition import Outcome
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT, REASON_ENERGY_REACHED, REASON_METER_SILENT, REASON_USER
from pile_shared.terms import LEAF_CONTRACT, LEAF_DISPUTE, LEAF_PROPOSED

ROWS: dict[str, Callable[..., object]] = {}

ASK, CATALOG, BUYING, FEE = 700_000, 650_000, 400_000, 50_000
C = 5 * ASK
ESCROW = C + ASK // 2 + FEE  # O is 500 Wh, dearer at the ask than at the catalog price
BOND = 5 * CATALOG * 200 // 1000
PENALTY, NO_SHOW = BOND * 500 // 1000, C * 300 // 1000
OBJECTION = 5_000_000
LATER = {"start": NOW + 3 * HOUR, "end": NOW + 5 * HOUR}  # leaves time to call off

Purses = tuple[int, int, int, int]


def row(said: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Mark a test as that of a row, by the row's first column."""

    def mark(test: Callable[..., object]) -> Callable[..., object]:
        assert said not in ROWS
        ROWS[said] = test
        return test

    return mark


def test_every_row_of_the_table_has_a_test() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    (rows,) = re.findall(r"\| from → to \| when \| money \|\n\|[-|]+\n((?:\|.*\n)+)", guide)
    assert [line.split("|")[1].strip() for line in rows.splitlines()] == list(ROWS)
    for test in ROWS.values():
        assert globals()[test.__name__] is test
        assert test.__name__.startswith("test_")


def matched(**over: object) -> tuple[Market, Purses]:
    """A market in which one bid met one ask of 0.70, and everybody's money before."""
    market = Market()
    before = market.purses()
    explicit = over.pop("explicit", ())
    end = NOW + 100 * HOUR  # so that no listing expires in between
    market.offer(ask=int(over.pop("ask", ASK)), end=end, explicit="owner" in explicit)  # type: ignore[arg-type,operator]
    market.bid(explicit="user" in explicit, **over)  # type: ignore[arg-type,operator]
    market.ok()
    return market, before


def paid(outcome: Outcome) -> list[tuple[str, str, int]]:
    """The postings of the one settlement that a block wrote down."""
    (statement,) = statements(outcome)
    return [(posting.debit, posting.credit, posting.amount_micro) for posting in statement.postings]


def assert_closed(market: Market, outcome: Outcome, how: str) -> None:
    assert closings(outcome) == [how]
    assert market.state.each(Contract) == []
    assert market.holds() == {}
    assert market.state.get(Zone, "north").open_wh == 0


def price_at(load_wh: int) -> int:
    """P0 (S / S0)^(1/CRR - 1) in decimals: CRR is 4/5, S0 the one pile's 7 kW for two hours."""
    with localcontext() as context:
        context.prec = 60
        exact = CATALOG * (Decimal(14_000 + load_wh) / 14_000).sqrt().sqrt()
        return int(exact.to_integral_value(ROUND_CEILING))


# --- placed ----------------------------------------------------------------------------------------------------------


@row("placed → signed")
def test_placed_to_signed() -> None:
    market, before = matched()
    contract = market.contract()
    assert (contract.phase, contract.id) == (SIGNED, sha256(contract.terms))
    assert market.holds() == {f"E:{contract.id.hex()}": ESCROW, f"B:{contract.id.hex()}": BOND}
    assert market.gains(before) == (-ESCROW, -BOND, 0, 0)
    assert market.state.get(Zone, "north").open_wh == 0, "an ask is no load of the curve"

    market, before = matched(ask=AT_MARKET)
    price = price_at(5000)
    escrow = 5 * price + -(-price // 2) + FEE
    assert market.terms().price_micro_per_kwh == price > CATALOG
    assert market.gains(before) == (-escrow, -BOND, 0, 0)
    assert market.state.get(Zone, "north").open_wh == 5000


@row("placed → proposed")
def test_placed_to_proposed() -> None:
    for explicit in (["user"], ["owner"], ["user", "owner"]):
        market = Market()
        before = market.purses()
        market.offer(explicit="owner" in explicit)
        market.bid(explicit="user" in explicit)
        outcome = market.ok()
        kinds = [leaf_of(leaf)[0] for leaf in outcome.leaves]
        assert (LEAF_PROPOSED in kinds, LEAF_CONTRACT in kinds) == (True, False), "no pile energises a proposal"
        contract, price = market.contract(), price_at(5000)
        assert contract.phase == PROPOSED
        assert market.gains(before) == (-(5 * price + -(-price // 2) + FEE), -BOND, 0, 0)
        assert market.state.get(Zone, "north").open_wh == 5000


@row("placed → expired, cancelled, unfilled, spent")
def test_placed_to_expired_cancelled_unfilled_spent() -> None:
    market = Market()
    before = market.purses()
    limit = 660_000
    hold = 5 * limit + limit // 2 + FEE

    market.bid(limit=limit, expires=NOW + HOUR // 4)
    market.ok()
    assert market.gains(before) == (-hold, 0, 0, 0)
    assert closings(market.ok(time_ms=NOW + HOUR // 4)) == ["expired"]
    assert (market.gains(before), market.holds()) == ((0, 0, 0, 0), {})

    bid = market.bid(limit=limit)
    market.ok()
    assert market.gains(before) == (-hold, 0, 0, 0)
    market.send("user-1", CancelBid(bid))
    assert closings(market.ok()) == ["cancelled"]
    assert (market.gains(before), market.holds()) == ((0, 0, 0, 0), {})

    market.bid(limit=limit, market=True)
    assert closings(market.ok()) == ["unfilled"]
    assert (market.gains(before), market.holds()) == ((0, 0, 0, 0), {})

    listing = market.offer(end=START)
    market.ok()
    assert closings(market.ok(time_ms=START)) == ["expired"]
    listing = market.offer()
    market.ok()
    market.send("owner-1", Unlist(listing))
    assert closings(market.ok()) == ["cancelled"]
    market.offer(energy=5099)  # 99 Wh will be left, less than a lot
    market.bid()
    assert closings(market.ok()) == ["spent"]
    assert market.state.each(Listing) == market.state.each(Bid) == []


# --- proposed --------------------------------------------------------------------------------------------------------


@row("proposed → signed")
def test_proposed_to_signed() -> None:
    for explicit in (["user"], ["owner"], ["user", "owner"], ["owner", "user"]):
        market, before = matched(explicit=explicit)
        contract = market.contract()
        for side in explicit:
            assert market.contract().phase == PROPOSED
            market.send(f"{side}-1", Sign(contract.id))
            outcome = market.ok()
        assert market.contract().phase == SIGNED
        assert [leaf_of(leaf)[1] for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_CONTRACT] == [contract.terms]
        assert market.gains(before) == (-ESCROW, -BOND, 0, 0)


@row("proposed → unsigned")
def test_proposed_to_unsigned() -> None:
    by_user = [("E", "F", FEE), ("E", "U", ESCROW - FEE), ("B", "H", BOND)]
    by_owner = [("B", "F", FEE), ("E", "U", ESCROW), ("B", "H", BOND - FEE)]
    for side, expected, gains in (("user", by_user, (-FEE, 0, 0, FEE)), ("owner", by_owner, (0, -FEE, 0, FEE))):
        for called_off in (False, True):
            market, before = matched(explicit=[side])
            if called_off:
                market.send(f"{side}-1", CancelContract(market.contract().id))
                outcome = market.ok()
            else:
                assert closings(market.ok(time_ms=market.contract().deadline_ms - 1)) == []
                outcome = market.ok(time_ms=market.contract().deadline_ms)
            assert paid(outcome) == expected
            assert market.gains(before) == gains
            assert_closed(market, outcome, "unsigned")


# --- signed ----------------------------------------------------------------------------------------------------------


@row("signed → cancelled (user)")
def test_signed_to_cancelled_by_the_user() -> None:
    cutoff = LATER["start"] - HOUR
    market, before = matched(**LATER)
    market.ok(time_ms=cutoff - 1)
    market.send("user-1", CancelContract(market.contract().id))
    outcome = market.ok(time_ms=cutoff)
    assert paid(outcome) == [("E", "F", FEE), ("E", "U", ESCROW - FEE), ("B", "H", BOND)]
    assert market.gains(before) == (-FEE, 0, 0, FEE)
    assert_closed(market, outcome, "cancelled")

    market, _ = matched(**LATER)
    market.ok(time_ms=cutoff + 1)
    assert market.refused("user-1", CancelContract(market.contract().id)) == "late"


@row("signed → cancelled (pile)")
def test_signed_to_cancelled_by_the_owner() -> None:
    market, before = matched(**LATER)
    market.send("owner-1", CancelContract(market.contract().id))
    outcome = market.ok(time_ms=LATER["start"] - 1)
    assert paid(outcome) == [("B", "U", PENALTY), ("E", "U", ESCROW), ("B", "H", BOND - PENALTY)]
    assert market.gains(before) == (PENALTY, -PENALTY, 0, 0)
    assert_closed(market, outcome, "cancelled")

    market, _ = matched(**LATER)
    market.ok(time_ms=LATER["start"])
    assert market.refused("owner-1", CancelContract(market.contract().id)) == "late"


@row("signed → active")
def test_signed_to_active() -> None:
    for time_ms in (START, START + HOUR):  # from the window's start to the end of the grace
        market, before = matched()
        market.submit(market.begin(time_ms=time_ms), time_ms=time_ms)
        contract = market.contract()
        assert (contract.phase, contract.begin_time_ms, contract.begin_energy_wh) == (ACTIVE, time_ms, 100_000)
        assert market.gains(before) == (-ESCROW, -BOND, 0, 0)


@row("signed → no-show")
def test_signed_to_no_show() -> None:
    market, before = matched()
    market.submit(market.prove("pile-1", HEARTBEAT, [(START, 100_000)]), time_ms=START)
    deadline = START + 2 * HOUR  # the grace, and time for evidence
    assert closings(market.ok(time_ms=deadline - 1)) == []
    outcome = market.ok(time_ms=deadline)
    assert paid(outcome) == [("E", "H", NO_SHOW), ("E", "F", FEE), ("E", "U", ESCROW - NO_SHOW - FEE), ("B", "H", BOND)]
    assert market.gains(before) == (-NO_SHOW - FEE, NO_SHOW, 0, FEE)
    assert_closed(market, outcome, "no-show")


@row("signed → defaulted")
def test_signed_to_defaulted() -> None:
    expected = [("B", "U", PENALTY), ("E", "U", ESCROW), ("B", "H", BOND - PENALTY)]
    market, before = matched()
    silent = market.ok(time_ms=START + 2 * HOUR)
    assert paid(silent) == expected
    assert market.gains(before) == (PENALTY, -PENALTY, 0, 0)
    assert_closed(market, silent, "defaulted")

    for broken in ({"time_ms": START - 1}, {"serial": "another meter"}):
        market, before = matched()
        market.send("operator", market.batch(market.begin(**broken)))  # type: ignore[arg-type]
        outcome = market.ok(time_ms=START + 1000)
        assert paid(outcome) == expected
        assert market.gains(before) == (PENALTY, -PENALTY, 0, 0)
        assert_closed(market, outcome, "defaulted")


# --- active and measured ---------------------------------------------------------------------------------------------


@row("active → measured")
def test_active_to_measured() -> None:
    market, before = matched()
    market.submit(market.begin(), time_ms=START + 1000)
    market.send("operator", market.batch(market.end(START + HOUR, 103_000, REASON_USER)))
    outcome = market.ok(time_ms=START + HOUR)
    assert (market.contract().phase, market.contract().deadline_ms) == (MEASURED, START + 2 * HOUR)
    assert paid(outcome) == [
        ("E", "H", C),
        ("G", "E", 2 * BUYING),
        ("E", "F", FEE),
        ("E", "U", ESCROW - C + 2 * BUYING - FEE),
        ("B", "H", BOND),
    ]
    assert market.gains(before) == (-ESCROW, -BOND, 0, 0), "none yet"


@row("active → measured (silent)")
def test_active_to_measured_silent() -> None:
    market, before = matched()
    market.submit(market.begin(), market.periodic(START + HOUR, 103_000), time_ms=START + HOUR)
    silent_ms = END + HOUR
    assert statements(market.ok(time_ms=silent_ms - 1)) == []
    outcome = market.ok(time_ms=silent_ms)
    assert [(s.measured_wh, s.cause) for s in statements(outcome)] == [(3000, "pile")]
    assert paid(outcome) == [
        ("E", "H", 3 * ASK),
        ("E", "F", FEE),
        ("E", "U", ESCROW - 3 * ASK - FEE),
        ("B", "H", BOND),  # the ask was above the catalog price: the rest costs no more elsewhere
    ]
    assert market.contract().phase == MEASURED
    assert market.gains(before) == (-ESCROW, -BOND, 0, 0)


def at_full(market: Market, before: Purses, outcome: Outcome) -> None:
    assert market.gains(before) == (-C - FEE, C, 0, FEE)
    assert market.state.each(Contract) == []
    assert market.holds() == {}


@row("measured → confirmed")
def test_measured_to_confirmed() -> None:
    market, before = matched()
    market.measured()
    market.confirm("owner-1")
    assert closings(market.ok()) == []
    market.confirm("user-1")
    outcome = market.ok()
    assert_closed(market, outcome, "confirmed")
    assert market.gains(before) == (-C - FEE, C, 0, FEE)

    market, before = matched(ask=AT_MARKET)
    market.measured(energy=5400)
    assert market.state.get(Zone, "north").open_wh == 5000, "until it is confirmed"
    market.confirm("owner-1", "user-1")
    assert_closed(market, market.ok(), "confirmed")
    agreed, provided = 5 * price_at(5000), 400 * CATALOG // 1000
    assert market.gains(before) == (-agreed - provided - FEE, agreed, provided, FEE)


@row("measured → settled")
def test_measured_to_settled() -> None:
    market, before = matched(ask=600_000)
    market.measured(energy=3000, reason=REASON_METER_SILENT)
    market.confirm("user-1")
    market.ok()
    deadline = market.contract().deadline_ms
    assert closings(market.ok(time_ms=deadline - 1)) == []
    outcome = market.ok(time_ms=deadline)
    assert_closed(market, outcome, "settled")
    missing = 2 * (CATALOG - 600_000)  # what the rest costs more elsewhere, from the bond
    delivered = 3 * 600_000
    assert market.gains(before) == (-delivered + missing - FEE, delivered - missing, 0, FEE)


# --- disputed --------------------------------------------------------------------------------------------------------


@row("measured → disputed")
def test_measured_to_disputed() -> None:
    market, before = matched()
    contract = market.measured(energy=3000, reason=REASON_USER)
    market.send("user-1", Object(contract.id, "cause", 3000, "it stopped by itself"))
    outcome = market.ok()
    disputed = market.contract()
    assert (disputed.phase, disputed.deadline_ms) == (DISPUTED, market.time_ms + 48 * HOUR)
    assert market.holds()[f"D:{contract.id.hex()}"] == OBJECTION
    assert market.gains(before) == (-ESCROW - OBJECTION, -BOND, 0, 0)
    (leaf,) = [leaf_of(leaf) for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_DISPUTE]
    assert leaf == [LEAF_DISPUTE, contract.id, "U", "cause", 3000, OBJECTION]


@row("disputed → resolved")
def test_disputed_to_resolved() -> None:
    stands = (-C + 2 * BUYING - FEE, C, -2 * BUYING, FEE)  # the user's doing
    piles = (-3 * ASK - FEE, 3 * ASK, 0, FEE)

    def disputed() -> tuple[Market, Purses, Contract]:
        market, before = matched()
        contract = market.measured(energy=3000, reason=REASON_USER)
        market.send("user-1", Object(contract.id, "cause", 3000, "it stopped by itself"))
        market.ok()
        return market, before, contract

    def shifted(gains: tuple[int, ...], to_user: int) -> tuple[int, ...]:
        user, owner, *rest = gains
        return user + to_user, owner - to_user, *rest

    market, before, contract = disputed()
    market.send("auditor", Rule(contract.id, 3000, "pile"))
    assert_closed(market, market.ok(), "resolved")
    assert market.gains(before) == shifted(piles, BOND), "as much again, as far as the owner's bond goes"

    market, before, contract = disputed()
    market.send("owner-1", Answer(contract.id, market.stop(contract.id)))
    assert_closed(market, market.ok(), "resolved")
    assert market.gains(before) == shifted(stands, -OBJECTION)

    market, before, contract = disputed()
    deadline = market.contract().deadline_ms
    assert closings(market.ok(time_ms=deadline - 1)) == []
    assert_closed(market, market.ok(time_ms=deadline), "resolved")
    assert market.gains(before) == shifted(piles, BOND), "contested and not co-signed"


# --- archived --------------------------------------------------------------------------------------------------------


@row("any end → archived")
def test_any_end_to_archived(tmp_path: Path) -> None:
    """It leaves the live state in the block that closes it, and the evidence has it, with its money."""
    chain = Chain(tmp_path)
    chain.admit()
    deliver(chain, delivered_wh=5000, reason=REASON_ENERGY_REACHED)
    live = chain.engine.state
    assert live.each(Contract) == []
    assert not [account.name for account in live.each(Account) if account.name[0] in "EBD"]
    ((ended, outcome, height),) = chain.evidence.db.exec_driver_sql("SELECT id, outcome, closed_height FROM contract")
    assert (outcome, height) == ("confirmed", chain.engine.height)
    assert live.find(Contract, ended) is None
    kept = "SELECT debit, credit, amount_micro FROM posting WHERE contract = ? AND credit = 'F'"
    assert chain.evidence.db.exec_driver_sql(kept, (ended,)).fetchall() == [("E", "F", FEE)]
    chain.close()


@pytest.mark.parametrize("end", ["unsigned", "cancelled", "no-show", "defaulted", "confirmed", "settled", "resolved"])
def test_whatever_ends_leaves_nothing_behind(end: str) -> None:
    """Everything in the live state that is of a contract is gone, so that state and start-up follow what is open."""
    market, _ = matched(**LATER, explicit=["owner"] if end == "unsigned" else [], ask=AT_MARKET)
    contract, terms = market.contract(), market.terms()
    before = len(market.rows)
    if end in {"unsigned", "cancelled"}:
        market.send("owner-1", CancelContract(contract.id))
    elif end == "no-show":
        market.submit(market.prove("pile-1", HEARTBEAT, [(LATER["start"], 0)]), time_ms=LATER["start"])
    elif end != "defaulted":
        market.measured()
    if end == "confirmed":
        market.confirm("user-1", "owner-1")
    if end == "resolved":
        market.send("user-1", Object(contract.id, "energy", 0, "no"))
        market.ok()
    waits = market.state.find(Contract, contract.id).deadline_ms  # type: ignore[union-attr]
    outcome = market.ok(time_ms=None if end in {"unsigned", "cancelled", "confirmed"} else waits)
    assert closings(outcome) == [end]
    assert market.state.find(Contract, contract.id) is None
    assert market.state.contracts_on(terms.pile) == []
    left = [key for key in market.rows if contract.id in key or contract.id.hex().encode() in key]
    assert left == []
    assert len(market.rows) <= before - 3 + 1, "contract, escrow and bond are gone; only F may be new"


def test_a_resolved_contract_says_how_it_was_resolved() -> None:
    market, _ = matched()
    contract = market.measured(energy=3000, reason=REASON_USER)
    market.send("owner-1", Object(contract.id, "energy", 5000, "more"))
    market.ok()
    market.send("auditor", Rule(contract.id, 5000, "user"))
    (statement,) = statements(market.ok())
    assert decode_statement(statement.encoded()) == statement
    assert statement.verdict is not None
    assert (statement.verdict.objector, statement.verdict.basis, statement.measured_wh) == ("H", "ruling", 5000)
