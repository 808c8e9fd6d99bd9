"""Each invariant, broken on purpose: the full check names what is wrong, and the node stops before it commits."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from world import Market

from pile_coordinator.chain import accounts
from pile_coordinator.chain.invariants import check, check_in_full
from pile_coordinator.chain.records import Account, Bid, Contract, Zone
from pile_coordinator.chain.rejections import BrokenInvariantError, Rejection
from pile_coordinator.chain.transactions import Deposit
from pile_coordinator.chain.transition import apply_block
from pile_shared.terms import FIELDS, Terms, decode_terms, terms_from


def busy_market() -> Market:
    market = Market(2, 2)
    market.offer("pile-1")
    market.bid("user-1")
    market.bid("user-2", limit=1)
    market.ok()
    check_in_full(market.state)
    return market


def add(market: Market, account: str, micro: int) -> None:
    market.state.put(Account(account, market.state.balance_micro(account) + micro))


def money_created(market: Market) -> str:
    add(market, "P:user-1", 1)
    return "accounts sum to 1 micro, not 0"


def money_destroyed(market: Market) -> str:
    market.state.drop(Account, "P:owner-1")
    return "not 0"


def overdrawn(market: Market) -> str:
    add(market, "P:user-1", -(10**12))
    add(market, "F", 10**12)
    return "P:user-1 is overdrawn"


def escrow_missing(market: Market) -> str:
    name = accounts.escrow_account(market.contract().id)
    add(market, "P:user-1", market.state.balance_micro(name))
    market.state.drop(Account, name)
    return name


def bond_short(market: Market) -> str:
    name = accounts.bond_account(market.contract().id)
    add(market, name, -1)
    add(market, "P:owner-1", 1)
    return name


def hold_of_a_bid_short(market: Market) -> str:
    name = accounts.escrow_account(market.state.each(Bid)[0].id)
    add(market, name, -1)
    add(market, "P:user-2", 1)
    return name


def escrow_of_nobody(market: Market) -> str:
    add(market, "P:user-1", -7)
    add(market, "E:" + "ab" * 32, 7)
    return "E:" + "ab" * 32 + " holds 7 micro, should hold 0"


def contract_gone(market: Market) -> str:
    market.state.drop(Contract, market.contract().id)
    return "should hold 0"


def bid_grown(market: Market) -> str:
    bid = market.state.each(Bid)[0]
    market.state.put(replace(bid, hold_micro=bid.hold_micro + 1))
    return bid.id.hex()


def load_wrong(market: Market) -> str:
    zone = market.state.get(Zone, "north")
    market.state.put(replace(zone, open_wh=zone.open_wh + 100))
    return "zone north has 5100 Wh open, its contracts 5000 Wh"


def total_wrong(market: Market) -> str:
    market.state.totals["F"] += 3
    market.state.totals["P"] -= 3
    return "the running total is"


CORRUPTIONS = [
    money_created,
    money_destroyed,
    overdrawn,
    escrow_missing,
    bond_short,
    hold_of_a_bid_short,
    escrow_of_nobody,
    contract_gone,
    bid_grown,
    load_wrong,
    total_wrong,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_planted_corruption_is_found_and_named(corrupt: Callable[[Market], str]) -> None:
    market = busy_market()
    market.state.totals.setdefault("F", 0)
    named = corrupt(market)
    with pytest.raises(BrokenInvariantError) as caught:
        check_in_full(market.state)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "corrupt", [c for c in CORRUPTIONS if c not in {overdrawn, total_wrong}], ids=lambda corrupt: corrupt.__name__
)
def test_every_block_finds_and_names_it_too(corrupt: Callable[[Market], str]) -> None:
    """Post leaves no account overdrawn and totals follow every put; all else a block's own check finds."""
    market = busy_market()
    market.state.seal()
    named = corrupt(market)
    with pytest.raises(BrokenInvariantError) as caught:
        market.block()
    assert named in str(caught.value) or "accounts sum to" in str(caught.value)


def test_a_curve_escrow_below_the_reserve_is_found() -> None:
    """A contract whose price is far below the curve's: its escrow does not cover what the curve says it cost."""
    market = busy_market()
    contract = market.contract()
    old = market.terms()
    values = {name: getattr(old, name) for name in ("on_curve", "energy_wh")}
    assert values == {"on_curve": True, "energy_wh": 5000}
    cheap = decode_terms(terms_from(_values(old) | {"price_micro_per_kwh": 1, "overuse_wh": 0}).encoded())
    market.state.drop(Contract, contract.id)
    moved = replace(contract, id=cheap.contract_id(), terms=cheap.encoded())
    market.state.put(moved)
    escrow = cheap.energy_wh // 1000 + cheap.fee_micro
    add(market, accounts.escrow_account(moved.id), escrow)
    add(market, accounts.bond_account(moved.id), cheap.bond_micro)
    left = market.state.balance_micro(accounts.escrow_account(contract.id)) - escrow
    market.state.drop(Account, accounts.escrow_account(contract.id))
    market.state.drop(Account, accounts.bond_account(contract.id))
    add(market, "P:user-1", left)
    with pytest.raises(BrokenInvariantError, match=r"zone north holds .* of a reserve of"):
        check_in_full(market.state)


def _values(terms: Terms) -> dict[str, object]:
    return {name: getattr(terms, name) for name, _ in FIELDS}


def test_a_block_over_a_broken_state_stops_before_it_ends() -> None:
    market = busy_market()
    add(market, "P:user-1", 1)
    with pytest.raises(BrokenInvariantError):
        check(market.state)
    with pytest.raises(BrokenInvariantError):
        apply_block(market.state, market.env(), [market.tx("grid", Deposit("user-1", 5, "r"))])


def test_postings_check_who_may_owe() -> None:
    market = busy_market()
    with pytest.raises(Rejection) as refused:
        accounts.post(market.state, "P:user-1", "F", 10**15)
    assert refused.value.code == "funds"
    escrow = accounts.escrow_account(market.contract().id)
    with pytest.raises(BrokenInvariantError, match=escrow):
        accounts.post(market.state, escrow, "F", 10**15)
    with pytest.raises(BrokenInvariantError, match="negative"):
        accounts.post(market.state, "X", "F", -1)
    accounts.post(market.state, "P:grid", "F", 5)  # the grid may owe
    assert market.state.balance_micro("P:grid") == -5
    check_in_full(market.state)
