"""Money in and out, and fees: nothing is booked twice, nobody's money is moved by another, nothing is paid that is not there."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import END, HOUR, START, Market, bounded, closings

from pile_coordinator.chain.orders import bond_micro
from pile_coordinator.chain.records import Bid, Contract, Party, Payment, Withdrawal
from pile_coordinator.chain.transactions import (
    CancelContract,
    CollectFees,
    Deposit,
    PayOut,
    RefuseWithdrawal,
    RevokeKey,
    Withdraw,
)
from pile_shared.proof import REASON_USER
from pile_shared.units import MAX_AMOUNT_MICRO

HAS = 1_000_000_000


def asked(amount: int = 300) -> tuple[Market, bytes]:
    """A market in which user-1 has asked for some of its money."""
    market = Market()
    withdrawal = market.send("user-1", Withdraw(amount, "IBAN 1"))
    market.ok()
    return market, withdrawal


def test_a_deposit_is_booked_once_per_reference_by_the_treasury_alone() -> None:
    market = Market()
    market.send("grid", Deposit("user-1", 7, "payment 7"))
    market.ok()
    assert (market.money("user-1"), market.state.balance_micro("X")) == (HAS + 7, -(HAS + 100_000_000 + 7))
    assert market.refused("grid", Deposit("user-1", 7, "payment 7")) == "exists"
    assert market.refused("grid", Deposit("owner-1", 8, "payment 7")) == "exists"
    assert market.refused("operator", Deposit("user-1", 7, "payment 8")) == "wrong_role"
    assert market.refused("user-1", Deposit("user-1", 7, "payment 8")) == "wrong_role"
    assert market.refused("grid", Deposit("nobody", 7, "payment 8")) == "unknown_party"


def test_the_chain_holds_no_more_than_its_sums_can() -> None:
    market = Market(owner_micro=0, user_micro=1)
    most = MAX_AMOUNT_MICRO // 1000
    for i in range(999):
        market.send("grid", Deposit("user-1", most, f"large {i}"))
    market.ok()
    assert market.refused("grid", Deposit("owner-1", most, "too much")) == "limit"
    market.send("grid", Deposit("owner-1", most - 1, "as much as fits"))
    market.ok()
    assert market.state.balance_micro("X") == -MAX_AMOUNT_MICRO
    assert market.refused("grid", Deposit("owner-1", 1, "one more")) == "limit"


def test_what_is_asked_for_is_set_aside_at_once() -> None:
    market, withdrawal = asked()
    assert market.money("user-1") == HAS - 300
    assert market.holds() == {f"W:{withdrawal.hex()}": 300}
    assert market.state.each(Withdrawal) == [Withdrawal(withdrawal, "user-1", 300, "IBAN 1")]
    assert market.refused("user-1", Withdraw(HAS - 299, "IBAN 1")) == "funds"
    market.send("user-1", Withdraw(HAS - 300, "IBAN 2"))
    market.ok()
    assert market.money("user-1") == 0


def test_a_withdrawal_is_paid_out_once() -> None:
    market, withdrawal = asked()
    outside = market.state.balance_micro("X")
    market.send("grid", PayOut(withdrawal, "bank 1"))
    market.ok()
    assert market.state.balance_micro("X") == outside + 300
    assert (market.holds(), market.state.each(Withdrawal)) == ({}, [])
    assert market.state.get(Payment, "bank 1").amount_micro == -300
    assert market.refused("grid", PayOut(withdrawal, "bank 2")) == "unknown_withdrawal"
    assert market.refused("grid", RefuseWithdrawal(withdrawal, "too late")) == "unknown_withdrawal"
    assert market.money("user-1") == HAS - 300


def test_one_payment_pays_one_withdrawal_and_is_no_deposit() -> None:
    market, first = asked()
    second = market.send("user-1", Withdraw(300, "IBAN 1"))
    market.send("grid", PayOut(first, "bank 1"))
    market.ok()
    assert first != second, "the same wish said twice is two withdrawals"
    assert market.refused("grid", PayOut(second, "bank 1")) == "exists"
    assert market.refused("grid", PayOut(second, "u1")) == "exists", "that was a deposit"
    assert market.refused("grid", Deposit("user-1", 300, "bank 1")) == "exists"
    assert market.holds() == {f"W:{second.hex()}": 300}


def test_a_refused_withdrawal_returns() -> None:
    market, withdrawal = asked()
    market.send("grid", RefuseWithdrawal(withdrawal, "no such account"))
    market.ok()
    assert (market.money("user-1"), market.holds()) == (HAS, {})
    assert market.refused("grid", PayOut(withdrawal, "bank 1")) == "unknown_withdrawal"
    assert market.refused("grid", RefuseWithdrawal(withdrawal, "again")) == "unknown_withdrawal"


@pytest.mark.parametrize("sender", ["operator", "user-1", "auditor"])
def test_only_the_treasury_says_what_was_paid(sender: str) -> None:
    market, withdrawal = asked()
    assert market.refused(sender, PayOut(withdrawal, "bank 1")) == "wrong_role"
    assert market.refused(sender, RefuseWithdrawal(withdrawal, "no")) == "wrong_role"
    assert market.refused(sender, CollectFees("operator", 1)) == "wrong_role"


def test_the_treasury_pays_only_what_its_party_asked_for() -> None:
    """There is no transaction by which it could name another's account, amount or destination."""
    market, _ = asked()
    assert market.refused("grid", PayOut(bytes(32), "bank 1")) == "unknown_withdrawal"
    assert market.refused("grid", Withdraw(1, "my own bank")) == "funds", "its own account is empty"


def test_a_withdrawal_stands_when_the_key_that_asked_for_it_is_revoked_and_can_be_refused() -> None:
    market, withdrawal = asked()
    market.send("operator", RevokeKey("user-1"))
    market.ok()
    assert market.holds() == {f"W:{withdrawal.hex()}": 300}
    market.send("grid", RefuseWithdrawal(withdrawal, "the key was stolen"))
    market.ok()
    assert market.money("user-1") == HAS


def under_taken(market: Market) -> None:
    """The grid buys 2 of 5 kWh back, and so owes 0.80."""
    market.signed()
    market.measured(energy=3000, reason=REASON_USER)
    market.confirm("user-1", "owner-1")
    market.ok()
    assert market.money("grid") == -800_000


def test_the_grid_may_owe_but_withdraws_nothing_that_it_has_not_got() -> None:
    market = Market()
    under_taken(market)
    assert market.refused("grid", Withdraw(1, "bank")) == "funds"
    market.send("grid", Deposit("grid", 800_000, "settles its debt"))
    market.ok()
    assert market.refused("grid", Withdraw(1, "bank")) == "funds"
    market.send("grid", Deposit("grid", 1, "more"))
    market.send("grid", Withdraw(1, "bank"))
    market.ok()
    assert market.money("grid") == 0


def test_fees_go_to_grid_or_operator_parties_and_no_further_than_they_came_in() -> None:
    market = Market()
    assert market.refused("grid", CollectFees("operator", 1)) == "funds"
    under_taken(market)
    fee = 50_000
    assert market.state.balance_micro("F") == fee
    for party in ("user-1", "owner-1", "auditor", "nobody"):
        assert market.refused("grid", CollectFees(party, 1)) == "unknown_party"
    assert market.refused("grid", CollectFees("operator", fee + 1)) == "funds"
    market.send("grid", CollectFees("operator", fee - 1))
    market.send("grid", CollectFees("grid", 1))
    market.ok()
    assert (market.money("operator"), market.money("grid")) == (fee - 1, -800_000 + 1)
    assert market.state.balance_micro("F") == 0
    market.send("operator", Withdraw(fee - 1, "bank"))
    market.ok()


@pytest.mark.parametrize("comes", ["deposit", "refusal"])
def test_money_that_comes_wakes_the_bids_that_waited_for_a_bond(comes: str) -> None:
    bond = 650_000
    market = Market(owner_micro=bond)
    assert bond_micro(market.state.params, 5000, 650_000) == bond
    withdrawal = market.send("owner-1", Withdraw(1, "bank"))
    market.offer()
    market.bid()
    market.ok()
    assert (len(market.state.each(Bid)), market.state.each(Contract)) == (1, [])
    body = Deposit("owner-1", 1, "the rest") if comes == "deposit" else RefuseWithdrawal(withdrawal, "too small")
    market.send("grid", body)
    market.ok()
    assert market.state.each(Bid) == []
    assert market.terms().bond_micro == bond


def test_a_bond_that_comes_back_in_one_zone_wakes_the_bids_of_another() -> None:
    bond = 650_000
    market = Market(1, 2, owner_micro=bond)
    market.send("operator", market.pile("pile-2", "owner-1", zone="south"))
    market.ok()
    market.offer("pile-1")
    market.offer("pile-2")
    later = {"start": START + HOUR, "end": END + HOUR}
    market.bid("user-1", **later)
    market.ok()
    market.bid("user-2", zone="south", energy=1000, **later)
    market.ok()
    assert (market.money("owner-1"), len(market.state.each(Bid))) == (0, 1)
    market.send("owner-1", CancelContract(market.contract().id))
    market.ok()  # half of the bond is the user's now, enough is left for 1 kWh
    assert market.terms().zone == "south"


def test_money_set_aside_pays_no_bid_and_no_bond() -> None:
    market = Market(user_micro=5_000_000)
    market.send("user-1", Withdraw(4_000_000, "bank"))
    market.offer()
    market.bid()
    assert [r.code for r in market.block().results] == ["ok", "ok", "funds"]
    market.send("owner-1", Withdraw(100_000_000, "bank"))
    market.bid(energy=500, start=START, end=END)
    market.ok()
    assert market.state.each(Contract) == []
    assert closings(market.ok(time_ms=END)) == ["expired"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deposit", "withdraw", "pay", "refuse", "fees"]),
        st.sampled_from(["user-1", "owner-1", "grid", "operator"]),
        st.integers(1, 500),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(STEPS)
@bounded(120)
def test_what_comes_in_is_what_is_held_and_what_went_out(steps: list) -> None:
    """Against a book kept in two lines: what each party has and what is on its way."""
    market = Market(user_micro=100, owner_micro=100)
    has = {"user-1": 100, "owner-1": 100, "grid": 0, "operator": 0}
    open_withdrawals: list[tuple[bytes, str, int]] = []
    inside = 200
    for number, (kind, party, amount, which) in enumerate(steps):
        chosen = open_withdrawals[which % len(open_withdrawals)] if open_withdrawals else (bytes(32), party, 0)
        if kind == "deposit":
            body, sender, fine = Deposit(party, amount, f"in {number}"), "grid", True
        elif kind == "withdraw":
            body, sender, fine = Withdraw(amount, "bank"), party, has[party] >= amount
        elif kind == "fees":
            body, sender, fine = CollectFees("operator", amount), "grid", False
        else:
            reply = PayOut(chosen[0], f"out {number}") if kind == "pay" else RefuseWithdrawal(chosen[0], "no")
            body, sender, fine = reply, "grid", bool(open_withdrawals)
        tx_id = market.send(sender, body)
        assert (market.block().results[0].code == "ok") == fine
        if fine and kind == "deposit":
            has[party], inside = has[party] + amount, inside + amount
        elif fine and kind == "withdraw":
            has[party] -= amount
            open_withdrawals.append((tx_id, party, amount))
        elif fine:
            open_withdrawals.remove(chosen)
            if kind == "pay":
                inside -= chosen[2]
            else:
                has[chosen[1]] += chosen[2]
    assert {party: market.money(party) for party in has} == has
    assert market.holds() == {f"W:{key.hex()}": amount for key, _, amount in open_withdrawals}
    assert market.state.balance_micro("X") == -inside


def test_open_withdrawals_count_as_open_orders() -> None:
    market = Market()
    market.state.put(replace(market.state.get(Party, "user-1"), open_orders=999))
    market.send("user-1", Withdraw(1, "bank"))
    market.ok()
    assert market.refused("user-1", Withdraw(1, "bank")) == "limit"
    (withdrawal,) = market.state.each(Withdrawal)
    market.send("grid", RefuseWithdrawal(withdrawal.id, "try later"))
    market.ok()
    assert market.state.get(Party, "user-1").open_orders == 999
