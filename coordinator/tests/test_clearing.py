"""The market: who meets whom, at which price, and that the order of arrival decides nothing."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import END, HOUR, NOW, START, Market, bounded, closings, leaf_of

from pile_coordinator.chain import contracts, epochs, orders, tariff
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.records import Bid, Contract, Listing, Tariff, Zone
from pile_coordinator.chain.transactions import AT_MARKET, CancelBid, Deposit, List, PlaceBid, Unlist
from pile_coordinator.chain.transition import Outcome
from pile_shared.terms import LEAF_CLEARING, Terms

CATALOG = 650_000
QUARTER = HOUR // 4

offers = st.tuples(
    st.integers(0, 3),  # pile
    st.integers(0, 3),  # window start, in hours
    st.integers(1, 4),  # window length
    st.integers(5, 200),  # lots
    st.one_of(st.just(AT_MARKET), st.integers(500_000, 900_000)),
)
wishes = st.tuples(
    st.integers(0, 7),  # start, in quarters
    st.integers(1, 8),  # length
    st.integers(1, 60),  # lots
    st.integers(600_000, 900_000),
    st.booleans(),  # market
    st.sampled_from(["", "", "", "pile-1"]),
)


def clearing(outcome: Outcome) -> list:
    (leaf,) = [leaf for leaf in map(leaf_of, outcome.leaves) if leaf[0] == LEAF_CLEARING]
    return leaf


def curve_of(market: Market, catalog: int = CATALOG) -> Curve:
    return epochs.zone_curve(market.state.params, market.state.get(Zone, "north"), catalog)


def signed_terms(market: Market) -> list[Terms]:
    return [market.state.terms_of(contract) for contract in market.state.each(Contract)]


def random_market(supply: list, demand: list, order: random.Random, **params: object) -> tuple[Market, Outcome]:
    """All offers and bids in one block, each sender's own in turn and senders interleaved at random."""
    market = Market(4, len(demand), owner_micro=1_000_000, **params)
    by_sender: dict[str, list[bytes]] = defaultdict(list)
    for pile, start, length, lots, ask in supply:
        owner = f"owner-{pile + 1}"
        body = List(
            f"pile-{pile + 1}", NOW + start * HOUR, NOW + (start + length) * HOUR, lots * 100, ask, explicit=False
        )
        sequence = market.sequences.get(owner, 0) + 1 + len(by_sender[owner])
        by_sender[owner].append(market.tx(owner, body, sequence=sequence))
    for i, (start, length, lots, limit, is_market, pile) in enumerate(demand):
        start_ms, user = NOW + start * QUARTER, f"user-{i + 1}"
        end_ms = start_ms + length * QUARTER
        expires = 0 if is_market else end_ms
        body = PlaceBid(
            "north", pile, lots * 100, start_ms, end_ms, limit, is_market, expires, divisible=False, explicit=False
        )
        by_sender[user].append(market.tx(user, body))
    txs = []
    while by_sender:
        sender = order.choice(sorted(by_sender))
        txs.append(by_sender[sender].pop(0))
        if not by_sender[sender]:
            del by_sender[sender]
    return market, market.block(*txs)


@given(st.lists(offers, min_size=1, max_size=6), st.lists(wishes, min_size=1, max_size=8), st.randoms())
@bounded(150)
def test_every_clearing_keeps_the_rules_whatever_the_order_of_arrival(
    supply: list, demand: list, order: random.Random
) -> None:
    market, outcome = random_market(supply, demand, order)
    shuffled, again = random_market(supply, demand, order)
    assert shuffled.root == market.root
    assert again.leaves[len(again.results) :] == outcome.leaves[len(outcome.results) :]

    terms = signed_terms(market)
    for one in terms:
        check_contract(market, one, limit=demand[int(one.user.removeprefix("user-")) - 1][3])
    check_windows(terms)
    check_price(market, terms)
    assert not [bid for bid in market.state.each(Bid) if bid.market]
    for bid in market.state.each(Bid):
        assert not [listing for listing in market.state.each(Listing) if could_meet(market, bid, listing, terms)]


def check_contract(market: Market, terms: Terms, limit: int) -> None:
    listing = market.state.get(Listing, terms.listing)
    assert terms.price_micro_per_kwh <= limit
    assert terms.energy_wh * HOUR <= terms.rated_power_w * (terms.window_end_ms - terms.window_start_ms)
    assert listing.window_start_ms <= terms.window_start_ms < terms.window_end_ms <= listing.window_end_ms
    assert listing.energy_wh >= 0
    assert terms.on_curve == (listing.ask_micro_per_kwh == AT_MARKET)
    assert terms.on_curve or terms.price_micro_per_kwh == listing.ask_micro_per_kwh


def check_windows(terms: list[Terms]) -> None:
    for i, one in enumerate(terms):
        for other in terms[:i]:
            assert one.pile != other.pile or is_apart(one, other.window_start_ms, other.window_end_ms)


def check_price(market: Market, terms: list[Terms]) -> None:
    curve = [one for one in terms if one.on_curve]
    open_wh = sum(one.energy_wh for one in curve)
    zone = market.state.get(Zone, "north")
    assert zone.open_wh == open_wh
    price = curve_of(market).price_micro_per_kwh(open_wh)
    assert {one.price_micro_per_kwh for one in curve} <= {price}


def is_apart(terms: Terms, start_ms: int, end_ms: int) -> bool:
    return end_ms <= terms.window_start_ms or terms.window_end_ms <= start_ms


def could_meet(market: Market, bid: Bid, listing: Listing, terms: list[Terms]) -> bool:
    """Said again in the words of the ledger guide: a bid that still rests has nothing left to meet."""
    zone = market.state.get(Zone, "north")
    on_curve = listing.ask_micro_per_kwh == AT_MARKET
    curve_price = curve_of(market).price_micro_per_kwh(zone.open_wh + bid.energy_wh)
    price = curve_price if on_curve else listing.ask_micro_per_kwh
    start_ms = max(bid.window_start_ms, market.time_ms)
    return (
        bid.pile in {"", listing.pile}
        and price <= min(bid.limit_micro_per_kwh, 2 * CATALOG)
        and price >= 400_000
        and bid.energy_wh <= listing.energy_wh
        and listing.window_start_ms <= bid.window_start_ms
        and bid.window_end_ms <= listing.window_end_ms
        and bid.energy_wh * HOUR <= 7000 * (bid.window_end_ms - start_ms)
        and all(is_apart(one, bid.window_start_ms, bid.window_end_ms) for one in terms if one.pile == listing.pile)
        and orders.bond_micro(market.state.params, bid.energy_wh, CATALOG) <= market.money(listing.owner)
    )


def test_all_curve_fills_of_a_block_pay_one_price_the_curves_after_all_of_them() -> None:
    market = Market(3, 3)
    for pile in ("pile-1", "pile-2", "pile-3"):
        market.offer(pile)
    for user in ("user-1", "user-2", "user-3"):
        market.bid(user, energy=5000)
    outcome = market.ok()
    curve = curve_of(market)
    price = curve.price_micro_per_kwh(15_000)
    assert price > curve.price_micro_per_kwh(5000) > CATALOG
    assert {terms.price_micro_per_kwh for terms in signed_terms(market)} == {price}
    _, zone, shape, in_force, before, after, by_catalog, rows = clearing(outcome)
    assert (zone, shape, before, after, by_catalog) == ("north", [42_000, 4, 5], 0, 15_000, [[CATALOG, price]])
    assert in_force == tariff.tariff_hash(market.state.get(Tariff, "now"))
    assert len(rows) == 3


def test_an_ask_is_paid_its_own_price_and_sets_nobody_elses() -> None:
    market = Market(2, 2)
    market.offer("pile-1", ask=899_000)
    market.offer("pile-2")
    market.bid("user-1", pile="pile-1", limit=900_000)
    market.bid("user-2", pile="pile-2", limit=900_000)
    market.ok()
    curve = curve_of(market)
    prices = {terms.user: terms.price_micro_per_kwh for terms in signed_terms(market)}
    assert prices == {"user-1": 899_000, "user-2": curve.price_micro_per_kwh(5000)}


def test_the_cheapest_supply_wins_and_an_ask_wins_a_tie_with_the_curve() -> None:
    flat = {"crr_numerator": 1, "crr_denominator": 1}  # the curve's price is the catalog price at every load
    for ask, expected in ((CATALOG - 1, "pile-2"), (CATALOG, "pile-2"), (CATALOG + 1, "pile-1")):
        market = Market(2, 1, **flat)
        market.offer("pile-1")
        market.offer("pile-2", ask=ask)
        market.bid()
        market.ok()
        assert market.terms().pile == expected, ask


def test_the_dearest_bid_goes_first() -> None:
    market = Market(1, 3)
    market.offer()
    for user, limit in (("user-1", 800_000), ("user-2", 900_000), ("user-3", 850_000)):
        market.bid(user, limit=limit)  # all want the same window of the only pile
    market.ok()
    assert market.terms().user == "user-2"


def test_nobody_chooses_who_wins_a_tie() -> None:
    """Two bids at one limit for one window: the hash of the previous block decides, which neither knows when bidding."""
    winners = set()
    for salt in range(16):
        market = Market(1, 2)
        market.salt = bytes([salt])
        market.offer()
        market.bid("user-1")
        market.bid("user-2")
        market.ok()
        winners.add(market.terms().user)
    assert winners == {"user-1", "user-2"}


def test_a_bid_is_not_filled_above_its_limit_by_one_micro() -> None:
    for extra, filled in ((-1, False), (0, True)):
        market = Market()
        curve = curve_of(market)
        market.offer()
        market.bid(limit=curve.price_micro_per_kwh(5000) + extra)
        market.ok()
        assert bool(signed_terms(market)) == filled


def test_a_market_order_that_finds_nothing_is_refunded_in_the_same_block() -> None:
    market = Market()
    before = market.money("user-1")
    market.bid(market=True)
    outcome = market.ok()
    assert closings(outcome) == ["unfilled"]
    assert market.money("user-1") == before
    assert market.holds() == {}


def test_a_resting_bid_fills_when_the_price_falls() -> None:
    market = Market(2, 2, begin_grace_ms=0, evidence_window_ms=0)
    curve = curve_of(market)
    market.offer("pile-1")
    market.offer("pile-2")
    market.bid("user-1", energy=1000, pile="pile-1", start=NOW + QUARTER, end=NOW + 2 * QUARTER)
    market.ok()
    market.bid("user-2", energy=2000, pile="pile-2", limit=curve.price_micro_per_kwh(2000), start=NOW + HOUR)
    market.ok()
    assert len(market.state.each(Bid)) == 1
    market.ok(time_ms=NOW + QUARTER)  # the first contract defaults, and its energy leaves the zone's load
    assert market.terms().user == "user-2"
    assert market.terms().price_micro_per_kwh == curve.price_micro_per_kwh(2000)


def test_a_bid_expires_and_gets_its_hold_back() -> None:
    market = Market()
    before = market.money("user-1")
    market.bid(expires=NOW + HOUR // 4)
    market.ok()
    assert market.money("user-1") < before
    market.ok(time_ms=NOW + HOUR // 4 - 1)
    assert len(market.state.each(Bid)) == 1
    outcome = market.ok(time_ms=NOW + HOUR // 4)
    assert closings(outcome) == ["expired"]
    assert (market.money("user-1"), market.holds()) == (before, {})


def test_a_bid_dies_when_no_session_could_begin_any_more() -> None:
    market = Market()
    market.bid(expires=END)
    market.ok()
    (bid,) = market.state.each(Bid)
    assert bid.expires_ms == min(START + market.state.params.begin_grace_ms, END) < END
    market.offer()
    assert closings(market.block(time_ms=bid.expires_ms)) == ["expired"]
    assert market.state.each(Contract) == []
    short = market.time_ms + HOUR // 2  # a window shorter than the grace
    market.bid(market=True, energy=1000, start=market.time_ms, end=short)
    market.ok()
    assert contracts.begin_until_ms(market.terms()) == short
    late = market.tx("user-1", PlaceBid("north", "", 1000, short - HOUR // 2, short, 10**6, True, 0, False, False))
    assert [r.code for r in market.block(late, time_ms=short).results] == ["window"]


def test_what_is_left_of_a_window_must_fit_the_energy() -> None:
    market = Market()
    market.bid(energy=7000, start=START, end=START + HOUR)  # takes the full hour at 7 kW
    market.ok()
    market.offer()
    market.ok(time_ms=START + 1)
    assert len(market.state.each(Bid)) == 1, "an hour's energy no longer fits"
    market.bid(energy=3500, start=START, end=START + HOUR, market=True)
    market.ok(time_ms=START + HOUR // 2)
    assert market.terms().energy_wh == 3500


def test_windows_may_touch_but_not_overlap() -> None:
    market = Market(1, 3)
    market.offer()
    market.bid("user-1", start=NOW + HOUR, end=NOW + 2 * HOUR)
    market.bid("user-2", start=NOW + 2 * HOUR, end=NOW + 3 * HOUR)
    market.bid("user-3", start=NOW + 2 * HOUR - 1, end=NOW + 3 * HOUR, limit=800_000)
    market.ok()
    assert {terms.user for terms in signed_terms(market)} == {"user-1", "user-2"}
    market.bid("user-3", start=NOW + HOUR - 1, end=NOW + 2 * HOUR, market=True)
    assert closings(market.ok()) == ["unfilled"]  # booked in an earlier block


@pytest.mark.parametrize(("funds", "filled"), [(0, False), (1, True)])
def test_an_owner_who_cannot_pay_the_bond_is_not_matched_until_money_comes(funds: int, filled: bool) -> None:
    market = Market(owner_micro=0)
    bond = orders.bond_micro(market.state.params, 5000, CATALOG)
    assert bond == 5 * CATALOG * 200 // 1000
    market.send("grid", Deposit("owner-1", bond - 1 + funds, "some"))
    market.offer()
    market.bid()
    market.ok()
    assert bool(signed_terms(market)) == filled
    if not filled:
        market.send("grid", Deposit("owner-1", 1, "the rest"))
        market.ok()
        assert market.terms().bond_micro == bond
        assert market.money("owner-1") == 0


def test_one_owners_money_bonds_one_of_two_contracts_of_a_block() -> None:
    market = Market(1, 2, owner_micro=0)
    market.send("operator", market.pile("pile-2", "owner-1"))
    market.send(
        "grid", Deposit("owner-1", orders.bond_micro(market.state.params, 5000, CATALOG) * 3 // 2, "one and a half")
    )
    market.ok()
    market.offer("pile-1")
    market.offer("pile-2")
    market.bid("user-1", limit=800_000)
    market.bid("user-2", limit=900_000)
    market.ok()
    assert [terms.user for terms in signed_terms(market)] == ["user-2"]


def test_withdrawn_orders_meet_nobody() -> None:
    market = Market()
    before = market.money("user-1")
    bid = market.bid()
    market.ok()
    market.send("user-1", CancelBid(bid))
    listing = market.offer()
    market.send("owner-1", Unlist(listing))
    assert closings(market.ok()) == ["cancelled", "cancelled"]
    assert (market.state.each(Bid), market.state.each(Listing), market.money("user-1")) == ([], [], before)


def test_zones_have_prices_of_their_own() -> None:
    market = Market(1, 2)
    market.send("operator", market.pile("pile-2", "owner-1", zone="south", power=14_000))
    market.ok()
    market.offer("pile-1")
    market.offer("pile-2")
    market.bid("user-1", zone="north")
    market.bid("user-2", zone="south")
    market.ok()
    prices = {terms.zone: terms.price_micro_per_kwh for terms in signed_terms(market)}
    assert prices["north"] > prices["south"] > CATALOG


def test_a_full_block_of_fills_leaves_the_rest_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pile_coordinator.chain.clearing.MAX_FILLS", 2)
    market = Market(3, 3)
    for i in (1, 2, 3):
        market.offer(f"pile-{i}")
        market.bid(f"user-{i}", pile=f"pile-{i}")
    market.ok()
    assert len(signed_terms(market)) == 2
    assert market.state.get(Zone, "north").dirty
    market.ok()
    assert len(signed_terms(market)) == 3
    assert not market.state.get(Zone, "north").dirty
