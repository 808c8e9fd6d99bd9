"""Epochs, capacity, the band and the breaker: what may change the curve and when, and what stops fills."""

from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settled import Chain
from world import HOUR, NOW, Market, World, bounded, closings, leaf_of

from pile_coordinator.chain.records import Bid, Contract, Epoch, Tariff, Zone
from pile_coordinator.chain.transactions import CancelContract, Object, RetirePile, SetTariff
from pile_coordinator.chain.transition import Outcome
from pile_shared.terms import LEAF_CLEARING

CATALOG = 650_000
CAPACITY = 14_000  # of one pile: 7 kW for the two capacity hours of the site
EPOCH = 6 * HOUR
EDGE = NOW + EPOCH
DAY = 24 * HOUR
LATER = {"start": NOW + 20 * HOUR, "end": NOW + 22 * HOUR}
PAUSE = HOUR // 2


def price_at(load_wh: int, capacity_wh: int = CAPACITY, catalog: int = CATALOG) -> int:
    """P0 (S / S0)^(1/CRR - 1) for CRR 4/5, in decimals, rounded up."""
    with localcontext() as context:
        context.prec = 60
        exact = catalog * (Decimal(capacity_wh + load_wh) / capacity_wh).sqrt().sqrt()
        return int(exact.to_integral_value(ROUND_CEILING))


def zone_of(market: World) -> Zone:
    return market.state.get(Zone, "north")


def market_of(piles: int = 1, users: int = 3, **params: object) -> Market:
    market = Market(piles, users, **{"epoch_ms": EPOCH} | params)  # type: ignore[arg-type]
    for i in range(1, piles + 1):
        market.offer(f"pile-{i}", energy=200_000, end=NOW + 100 * HOUR)
    market.ok()
    return market


def fill(market: Market, energy: int, user: str = "user-1", *, hour: int = 20, **over: object) -> Contract:
    """A contract of this much on the curve, in the two hours from an hour on."""
    before = market.state.each(Contract)
    market.bid(user, energy=energy, start=NOW + hour * HOUR, end=NOW + (hour + 2) * HOUR, limit=1_300_000, **over)  # type: ignore[arg-type]
    market.ok()
    (new,) = [contract for contract in market.state.each(Contract) if contract not in before]
    return new


def call_off(market: Market, contract: Contract) -> None:
    market.send(market.state.terms_of(contract).owner, CancelContract(contract.id))
    market.ok()


# --- edges -----------------------------------------------------------------------------------------------------------


def test_epochs_are_counted_from_genesis_however_late_the_blocks_come() -> None:
    market = World(epoch_ms=EPOCH)
    for time_ms, following in (
        (NOW + 1, EDGE),
        (EDGE - 1, EDGE),
        (EDGE, EDGE + EPOCH),
        (EDGE + 1, EDGE + EPOCH),
        (EDGE + EPOCH + 5, EDGE + 2 * EPOCH),
        (EDGE + 9 * EPOCH - 1, EDGE + 9 * EPOCH),  # several at once
        (EDGE + 12 * EPOCH, EDGE + 13 * EPOCH),
    ):
        market.ok(time_ms=time_ms)
        assert market.state.get(Epoch, "epoch").next_edge_ms == following == market.state.next_deadline_ms()


def test_a_late_block_is_the_edge_for_all_that_came_due_before_it() -> None:
    market = market_of()
    fill(market, 1000)
    market.send("operator", market.pile("pile-2", "owner-1"))
    market.send("grid", SetTariff(EDGE + 3 * HOUR, 0, [[0, "flat", 700_000, 400_000]]))
    market.ok(time_ms=EDGE - 1)
    assert (zone_of(market).capacity_wh, market.state.get(Tariff, "now").periods[0][2]) == (CAPACITY, CATALOG)
    market.ok(time_ms=EDGE + 4 * HOUR)
    assert (zone_of(market).capacity_wh, market.state.get(Tariff, "now").periods[0][2]) == (2 * CAPACITY, 700_000)


# --- capacity --------------------------------------------------------------------------------------------------------


def test_capacity_follows_the_piles_at_once_while_no_curve_energy_is_open() -> None:
    market = Market(3, epoch_ms=EPOCH)
    assert zone_of(market).capacity_wh == 3 * CAPACITY
    market.send("operator", RetirePile("pile-3"))
    market.ok()
    assert zone_of(market).capacity_wh == 2 * CAPACITY
    market.offer("pile-1", ask=700_000, end=NOW + DAY)
    market.bid(**LATER)
    market.send("operator", market.pile("pile-4", "owner-1", power=3500))
    market.ok()
    assert len(market.state.each(Contract)) == 1
    assert zone_of(market).capacity_wh == 2 * CAPACITY + CAPACITY // 2, "an ask is no curve energy"


def test_capacity_stands_while_curve_energy_is_open_and_follows_at_the_edge() -> None:
    market = market_of(2)
    first = fill(market, 1000)
    market.send("operator", market.pile("pile-3", "owner-1"))
    market.ok()
    assert (zone_of(market).rated_power_w, zone_of(market).capacity_wh) == (21_000, 2 * CAPACITY)
    second = fill(market, 2000, "user-2")
    assert market.state.terms_of(second).price_micro_per_kwh == price_at(3000, 2 * CAPACITY)
    market.ok(time_ms=EDGE)
    assert zone_of(market).capacity_wh == 3 * CAPACITY
    third = fill(market, 1000, "user-3", hour=23)
    assert market.state.terms_of(third).price_micro_per_kwh == price_at(4000, 3 * CAPACITY)
    market.send("operator", RetirePile("pile-3"))
    market.ok()
    assert zone_of(market).capacity_wh == 3 * CAPACITY
    assert [c.capacity_wh for c in (first, second, third)] == [2 * CAPACITY, 2 * CAPACITY, 3 * CAPACITY]
    for contract in (second, third, first):  # in another order than they were signed: the cover holds, see invariant 5
        call_off(market, contract)
    assert (zone_of(market).open_wh, zone_of(market).capacity_wh) == (0, 3 * CAPACITY), "nothing changed it since"
    market.ok(time_ms=EDGE + EPOCH)
    assert zone_of(market).capacity_wh == 2 * CAPACITY


def test_a_zone_whose_last_pile_is_retired_keeps_its_capacity() -> None:
    market = Market(epoch_ms=EPOCH)
    market.send("operator", RetirePile("pile-1"))
    market.ok()
    assert (zone_of(market).rated_power_w, zone_of(market).capacity_wh) == (0, CAPACITY)
    market.bid(**LATER)  # rests, for want of a pile
    market.ok(time_ms=EDGE)
    assert (zone_of(market).capacity_wh, len(market.state.each(Bid))) == (CAPACITY, 1)
    market.send("operator", market.pile("pile-2", "owner-1", power=700))
    market.ok()
    assert zone_of(market).capacity_wh == CAPACITY // 10


def test_an_edge_wakes_the_bids_that_its_capacity_makes_cheap_enough() -> None:
    market = market_of(2)
    fill(market, 8000)
    market.send("operator", market.pile("pile-3", "owner-1", power=70_000))
    limit = price_at(10_000, 12 * CAPACITY)
    market.bid("user-2", energy=2000, limit=limit, **LATER)
    market.ok()
    assert limit < price_at(10_000, 2 * CAPACITY)
    market.ok(time_ms=EDGE - 1)
    assert len(market.state.each(Bid)) == 1
    market.ok(time_ms=EDGE)
    assert {market.state.terms_of(c).user for c in market.state.each(Contract)} == {"user-1", "user-2"}


# --- the band --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "filled"), [(210_000, True), (210_100, False)])
def test_the_curve_fills_up_to_the_upper_edge_of_the_band(load: int, filled: bool) -> None:
    """(S / S0)^(1/4) = 2 where S = 16 S0, so where the load is 15 times the capacity; no limit helps beyond."""
    assert price_at(15 * CAPACITY) == 2 * CATALOG
    market = Market(1, 1, user_micro=10**10, epoch_ms=EPOCH)
    market.offer(energy=10**6, end=NOW + 300 * HOUR)
    market.bid(energy=load, limit=10_000_000, start=NOW + HOUR, end=NOW + 100 * HOUR)
    market.ok()
    assert len(market.state.each(Contract)) == filled
    if filled:
        assert market.terms().price_micro_per_kwh == 2 * CATALOG


def test_an_ask_at_the_edges_of_the_band_is_filled() -> None:
    for ask in (400_000, 1_300_000):
        market = Market()
        market.offer(ask=ask)
        market.bid(limit=2_000_000)
        market.ok()
        assert market.terms().price_micro_per_kwh == ask


def test_nothing_is_given_away_even_at_prices_of_nothing() -> None:
    """A grid that buys at 0 allows an ask of 0; without fee and tolerance the escrow is nothing at all."""
    tariff = {"from_minute": 0, "name": "x", "sell_micro_per_kwh": 1, "buy_micro_per_kwh": 0}
    nothing = {
        "fee_micro": 0,
        "tolerance_permille": 0,
        "tolerance_min_wh": 0,
        "overuse_permille": 0,
        "bond_permille": 0,
    }
    market = Market(tariff={"utc_offset_minutes": 0, "periods": [tariff]}, objection_bond_micro=0, **nothing)
    before = market.purses()
    market.offer(ask=0)
    market.bid(limit=1)
    market.ok()
    assert (market.terms().price_micro_per_kwh, market.holds()) == (0, {})
    contract = market.measured(energy=9000)
    market.send("user-1", Object(contract.id, "cause", 1, "for nothing"))
    market.ok()
    market.ok(time_ms=market.contract().deadline_ms)
    assert (market.state.each(Contract), market.purses(), market.holds()) == ([], before, {})


# --- the breaker -----------------------------------------------------------------------------------------------------

# (S / S0)^(1/4) > 1.1 where the load is above 0.4641 of the capacity: with two piles from 12,995 Wh on.
CALM, TOO_MUCH = 12_900, 13_000
BREAKER = {"breaker_permille": 100, "breaker_pause_ms": PAUSE}


def test_a_rise_beyond_the_limit_pauses_fills_and_one_up_to_it_does_not() -> None:
    assert price_at(CALM, 2 * CAPACITY) * 10 <= CATALOG * 11 < price_at(TOO_MUCH, 2 * CAPACITY) * 10
    for energy, paused in ((CALM, False), (TOO_MUCH, True)):
        market = market_of(2, **BREAKER)
        fill(market, energy)
        assert zone_of(market).paused_until_ms == (market.time_ms + PAUSE if paused else 0)
        assert zone_of(market).reference_wh == (energy if paused else 0)


@pytest.mark.parametrize(("load", "paused"), [(210_000, False), (210_100, True)])
def test_a_rise_of_exactly_the_limit_is_none_beyond_it(load: int, paused: bool) -> None:
    """15 times the capacity doubles the price: a rise of 1000 permille, to the micro."""
    market = Market(1, 1, user_micro=10**10, breaker_permille=1000, band_permille=9000)
    market.offer(energy=10**6, end=NOW + 300 * HOUR)
    market.bid(energy=load, limit=10_000_000, start=NOW + HOUR, end=NOW + 100 * HOUR)
    market.ok()
    assert market.terms().energy_wh == load
    assert bool(zone_of(market).paused_until_ms) == paused


def test_many_small_steps_trip_it_as_one_large_one_does() -> None:
    market = market_of(2, **BREAKER)
    fill(market, 6500)
    assert zone_of(market).paused_until_ms == 0
    fill(market, 6500, "user-2")
    assert zone_of(market).paused_until_ms > 0


def test_while_fills_pause_market_orders_are_refunded_and_limited_ones_rest() -> None:
    market = market_of(2, **BREAKER)
    fill(market, TOO_MUCH)
    until = zone_of(market).paused_until_ms
    before = market.money("user-2")
    market.bid("user-2", energy=100, market=True, **LATER)
    assert closings(market.ok()) == ["unfilled"]
    assert market.money("user-2") == before
    resting = market.bid("user-2", energy=100, limit=1_300_000, **LATER)
    market.offer("pile-2", ask=650_000, end=NOW + 50 * HOUR)  # not even an ask is filled
    market.ok()
    market.ok(time_ms=until - 1)
    assert [bid.id for bid in market.state.each(Bid)] == [resting]
    assert market.state.next_deadline_ms() == until
    market.ok(time_ms=until)  # an empty block, by itself
    assert market.state.each(Bid) == []
    zone = zone_of(market)
    assert (zone.paused_until_ms, zone.dirty) == (0, False)


def test_the_engine_makes_the_block_that_ends_a_pause(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.admit()
    chain.engine.state.put(Zone("north", 7000, CAPACITY, 0, 0, NOW + HOUR, dirty=False))
    chain.engine.state.seal()
    assert not chain.engine.has_work(NOW + HOUR - 1)
    assert chain.engine.has_work(NOW + HOUR)
    chain.engine.make_block(NOW + HOUR)
    assert not chain.engine.has_work(NOW + HOUR)
    chain.close()


def test_closing_is_never_paused() -> None:
    market = market_of(2, breaker_permille=100, breaker_pause_ms=100 * HOUR)
    early = fill(market, 1000, "user-2", hour=2)
    late = fill(market, TOO_MUCH)
    assert zone_of(market).paused_until_ms > 0
    call_off(market, late)
    assert zone_of(market).open_wh == 1000
    market.measured(energy=1000)
    market.confirm("user-2", "owner-1")
    assert closings(market.ok()) == ["confirmed"]
    assert market.state.find(Contract, early.id) is None
    assert market.holds() == {}


def test_a_price_that_falls_trips_nothing_and_becomes_the_reference() -> None:
    market = market_of(2, **BREAKER)
    contract = fill(market, CALM)
    market.ok(time_ms=EDGE)
    assert zone_of(market).reference_wh == CALM, "an edge sets it to the present load"
    call_off(market, contract)
    assert (zone_of(market).reference_wh, zone_of(market).paused_until_ms) == (0, 0)
    fill(market, TOO_MUCH)
    assert zone_of(market).paused_until_ms > 0, "from the lowest load, not from that at the edge"


def test_after_a_pause_the_price_may_rise_as_much_again() -> None:
    market = market_of(2, **BREAKER)
    fill(market, TOO_MUCH)
    market.ok(time_ms=zone_of(market).paused_until_ms)
    # 1.1 times the price of 13,000 Wh is that of 41,000 x 1.4641 - 28,000 = 32,028 Wh
    fill(market, 10_000, "user-2")
    fill(market, 9000, "user-3", hour=23)
    assert (zone_of(market).open_wh, zone_of(market).paused_until_ms) == (32_000, 0)
    fill(market, 100, "user-1", hour=26)
    assert zone_of(market).paused_until_ms > 0


def test_a_pause_outlasts_an_edge() -> None:
    market = market_of(2, breaker_permille=100, breaker_pause_ms=24 * HOUR)
    fill(market, TOO_MUCH)
    until = zone_of(market).paused_until_ms
    market.bid("user-2", energy=100, limit=1_300_000, **LATER)
    market.ok(time_ms=EDGE)
    assert (zone_of(market).paused_until_ms, len(market.state.each(Bid))) == (until, 1)


def test_a_breaker_of_0_is_off_and_a_pause_of_0_stops_nothing() -> None:
    market = market_of(2, breaker_permille=0)
    fill(market, 14_000)
    assert zone_of(market).paused_until_ms == 0
    market = market_of(2, breaker_permille=1, breaker_pause_ms=0)
    for user, hour in (("user-1", 20), ("user-2", 20), ("user-3", 23)):
        fill(market, 5000, user, hour=hour)


def test_an_ask_is_no_load_and_trips_nothing() -> None:
    market = Market(**BREAKER)
    market.offer(ask=1_300_000)
    market.bid(limit=1_300_000, energy=10_000)
    market.ok()
    assert (zone_of(market).open_wh, zone_of(market).paused_until_ms) == (0, 0)


# --- one load, several catalog prices --------------------------------------------------------------------------------

TWO_PRICES = {
    "utc_offset_minutes": 0,
    "periods": [
        {"from_minute": 0, "name": "valley", "sell_micro_per_kwh": 300_000, "buy_micro_per_kwh": 200_000},
        {"from_minute": 720, "name": "peak", "sell_micro_per_kwh": 900_000, "buy_micro_per_kwh": 500_000},
    ],
}
MIDNIGHT = NOW - NOW % DAY + DAY
VALLEY = {"start": MIDNIGHT + 2 * HOUR, "end": MIDNIGHT + 4 * HOUR}
PEAK = {"start": MIDNIGHT + 14 * HOUR, "end": MIDNIGHT + 16 * HOUR}


def two_prices(piles: int = 1) -> Market:
    market = Market(piles, 4, tariff=TWO_PRICES, epoch_ms=7 * DAY)
    for i in range(1, piles + 1):
        market.offer(f"pile-{i}", energy=200_000, end=MIDNIGHT + 10 * DAY)
    market.ok()
    return market


def prices(market: Market) -> dict[str, int]:
    terms = map(market.state.terms_of, market.state.each(Contract))
    return {one.user: one.price_micro_per_kwh for one in terms}


def clearing(outcome: Outcome) -> list:
    (leaf,) = [leaf_of(leaf) for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_CLEARING]
    return leaf


def test_at_one_load_each_catalog_price_has_one_price_in_the_same_ratio() -> None:
    market = two_prices(2)
    market.bid("user-1", energy=3000, limit=600_000, **VALLEY)
    market.bid("user-2", energy=4000, limit=1_800_000, **PEAK)
    market.bid("user-3", energy=2000, limit=1_700_000, **PEAK)
    outcome = market.ok()
    valley, peak = price_at(9000, 2 * CAPACITY, 300_000), price_at(9000, 2 * CAPACITY, 900_000)
    assert prices(market) == {"user-1": valley, "user-2": peak, "user-3": peak}
    assert clearing(outcome)[6] == [[300_000, valley], [900_000, peak]]
    assert 3 * (valley - 1) < peak <= 3 * valley


def test_who_accepts_more_load_goes_first_not_who_names_the_higher_price() -> None:
    """0.45 in the valley is 1.5 times its catalog price, 1.17 in the peak only 1.3 times. One fills 14 kWh at 1.19 times, two
    would take 1.32 times."""
    for valley, first in ((450_000, "user-1"), (375_000, "user-2")):
        market = two_prices()
        market.bid("user-1", energy=14_000, limit=valley, **VALLEY)
        market.bid("user-2", energy=14_000, limit=1_170_000, **PEAK)
        market.ok()
        assert set(prices(market)) == {first}
        assert len(market.state.each(Bid)) == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 140), st.integers(1000, 2200)), min_size=2, max_size=6))
@bounded(150)
def test_who_is_filled_at_several_catalog_prices_and_what_they_pay(wishes: list[tuple[bool, int, int]]) -> None:
    """Against the rule said again: in order of limit by catalog price, whoever leaves all admitted within their limits."""
    market = Market(6, 6, tariff=TWO_PRICES, epoch_ms=7 * DAY, band_permille=3000)
    bids = []
    for i, (in_peak, lots, permille) in enumerate(wishes, 1):
        catalog = 900_000 if in_peak else 300_000
        limit = catalog * permille // 1000 + i  # no two alike
        bids.append((Fraction(limit, catalog), f"user-{i}", catalog, limit, lots * 100))
        market.offer(f"pile-{i}", energy=20_000, end=MIDNIGHT + 10 * DAY)
        market.bid(f"user-{i}", pile=f"pile-{i}", energy=lots * 100, limit=limit, **(PEAK if in_peak else VALLEY))
    market.ok()

    admitted: list[tuple] = []
    for bid in sorted(bids, reverse=True):
        would_be = [*admitted, bid]
        load = sum(energy for *_, energy in would_be)
        if all(price_at(load, 6 * CAPACITY, catalog) <= limit for _, _, catalog, limit, _ in would_be):
            admitted = would_be
    load = sum(energy for *_, energy in admitted)
    assert prices(market) == {user: price_at(load, 6 * CAPACITY, catalog) for _, user, catalog, _, _ in admitted}


def test_a_limit_beyond_the_band_accepts_no_more_than_the_band() -> None:
    """Both are cut to twice their catalog price, so the dearer limit goes first; with both filled the factor would be 2.14."""
    for valley, first, catalog in ((2_000_000, "user-1", 300_000), (1_800_000, "user-2", 900_000)):
        market = two_prices()
        start = MIDNIGHT + 2 * HOUR
        market.bid("user-1", energy=140_000, limit=valley, start=start, end=start + 20 * HOUR)
        start = MIDNIGHT + DAY + 14 * HOUR
        market.bid("user-2", energy=140_000, limit=1_810_000, start=start, end=start + 20 * HOUR)
        market.ok()
        assert prices(market) == {first: price_at(140_000, CAPACITY, catalog)}
