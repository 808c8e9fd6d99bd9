"""Catalog prices by time of day: which period an order falls into, and when a new tariff changes what."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import HOUR, NOW, Market, World, bounded, key, leaf_of, statements

from pile_coordinator.chain.records import Bid, Contract, Tariff
from pile_coordinator.chain.tariff import Catalog, catalog_at, tariff_hash, tariff_leaf
from pile_coordinator.chain.transactions import AT_MARKET, CancelContract, List, RegisterParty, SetTariff
from pile_shared.platform import sha256
from pile_shared.proof import REASON_USER
from pile_shared.terms import LEAF_CLEARING, LEAF_TARIFF

MINUTE = 60_000
DAY = 24 * HOUR
MIDNIGHT = NOW - NOW % DAY  # UTC
VALLEY, FLAT, PEAK = (0, "valley", 300_000, 200_000), (420, "flat", 650_000, 400_000), (1080, "peak", 900_000, 500_000)
PERIODS = [list(VALLEY), list(FLAT), list(PEAK)]
KEYS = ("from_minute", "name", "sell_micro_per_kwh", "buy_micro_per_kwh")
DOCUMENT = {"utc_offset_minutes": 0, "periods": [dict(zip(KEYS, period, strict=True)) for period in PERIODS]}
EDGE = NOW + 6 * HOUR
DEARER = [[0, "flat", 700_000, 450_000]]


def daily(offset: int = 0) -> Tariff:
    return Tariff("now", 0, offset, PERIODS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("minute", "name"),
    [(0, "valley"), (419, "valley"), (420, "flat"), (1079, "flat"), (1080, "peak"), (1439, "peak"), (1440, "valley")],
)
def test_a_period_holds_from_its_minute_until_the_next_ones(minute: int, name: str) -> None:
    first = MIDNIGHT + minute * MINUTE
    for time_ms in (first, first + MINUTE - 1, first + 3 * DAY):
        assert catalog_at(daily(), time_ms).period == name


@given(st.integers(DAY, 250_000_000_000_000), st.integers(-720, 840))
@bounded(500)
def test_the_local_time_of_day_decides(time_ms: int, offset: int) -> None:
    """Against the calendar of the standard library."""
    utc = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=time_ms)
    local = utc.astimezone(timezone(timedelta(minutes=offset)))
    minute = local.hour * 60 + local.minute
    expected = PEAK if minute >= 1080 else FLAT if minute >= 420 else VALLEY
    assert catalog_at(daily(offset), time_ms) == Catalog(*expected[1:])


def test_a_day_in_china_begins_at_sixteen_utc() -> None:
    china = daily(480)
    assert catalog_at(china, MIDNIGHT + 16 * HOUR - 1).period == "peak"
    assert catalog_at(china, MIDNIGHT + 16 * HOUR).period == "valley"
    assert catalog_at(daily(-60), MIDNIGHT + HOUR - 1).period == "peak"


def test_the_period_in_which_the_window_starts_prices_all_of_it() -> None:
    """A window that begins a minute before the peak and lasts into it pays the flat price, one that begins with it the peak's."""
    flat = {"crr_numerator": 1, "crr_denominator": 1}  # the curve's price is the catalog price at every load
    starts = MIDNIGHT + 18 * HOUR + (DAY if MIDNIGHT + 18 * HOUR < NOW else 0)
    for start, (_, _, sell, buy) in ((starts - MINUTE, FLAT), (starts, PEAK)):
        market = Market(tariff=DOCUMENT, epoch_ms=7 * DAY, **flat)
        market.offer(end=NOW + 3 * DAY)
        market.bid(start=start, end=start + 2 * HOUR, limit=10**6)
        market.ok()
        terms = market.terms()
        assert (terms.price_micro_per_kwh, terms.catalog_sell_micro_per_kwh) == (sell, sell)
        assert terms.catalog_buy_micro_per_kwh == buy
        assert terms.bond_micro == 5 * sell * 200 // 1000


# --- a new tariff ----------------------------------------------------------------------------------------------------


def announce(market: World, from_ms: int, periods: list[list[object]] | None = None) -> SetTariff:
    body = SetTariff(from_ms, 0, periods or DEARER)  # type: ignore[arg-type]
    market.send("grid", body)
    return body


def in_force(market: World) -> int:
    return int(market.state.get(Tariff, "now").periods[0][2])


def test_who_announces_a_tariff_and_for_when() -> None:
    market = Market(epoch_ms=6 * HOUR)
    body = SetTariff(NOW + HOUR, 0, DEARER)  # type: ignore[arg-type]
    for sender in ("operator", "user-1", "owner-1", "auditor"):
        assert market.refused(sender, body) == "wrong_role"
    now = market.time_ms
    assert market.refused("grid", SetTariff(now - 1, 0, DEARER)) == "window"  # type: ignore[arg-type]
    assert market.refused("grid", SetTariff(now + 366 * DAY + 1, 0, DEARER)) == "window"  # type: ignore[arg-type]


def test_another_grid_party_sets_no_tariff() -> None:
    market = Market()
    market.send("operator", RegisterParty("grid-2", "grid", key("grid-2").public))
    market.ok()
    assert market.refused("grid-2", SetTariff(NOW + HOUR, 0, DEARER)) == "wrong_role"  # type: ignore[arg-type]


@pytest.mark.parametrize(("from_ms", "edge"), [(NOW + 1, EDGE), (EDGE, EDGE), (EDGE + 1, EDGE + 6 * HOUR)])
def test_it_comes_into_force_at_the_first_edge_at_or_after_its_time_and_not_before(from_ms: int, edge: int) -> None:
    market = World(epoch_ms=6 * HOUR)
    announce(market, from_ms)
    market.ok(time_ms=NOW)
    for time_ms in (NOW + 1, EDGE - 1, EDGE, edge - 1):
        market.ok(time_ms=min(time_ms, edge - 1))
        assert in_force(market) == 650_000
    outcome = market.ok(time_ms=edge)
    assert in_force(market) == 700_000
    assert market.state.find(Tariff, "next") is None
    (leaf,) = [leaf for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_TARIFF]
    assert leaf_of(leaf) == [LEAF_TARIFF, from_ms, 0, DEARER]
    now = market.state.get(Tariff, "now")
    assert (tariff_leaf(now), tariff_hash(now)) == (leaf, sha256(leaf))


def test_an_announcement_replaces_one_that_is_not_in_force_yet() -> None:
    market = World(epoch_ms=6 * HOUR)
    announce(market, NOW + HOUR)
    market.ok()
    announce(market, EDGE + HOUR, [[0, "flat", 800_000, 0]])
    market.ok()
    assert len(market.state.each(Tariff)) == 2
    market.ok(time_ms=EDGE)
    assert in_force(market) == 650_000, "the first announcement is gone"
    market.ok(time_ms=EDGE + 6 * HOUR)
    assert in_force(market) == 800_000


def test_one_announced_after_its_edge_waits_for_the_next_even_in_the_block_of_an_edge() -> None:
    market = World(epoch_ms=6 * HOUR)
    announce(market, EDGE)
    market.ok(time_ms=EDGE)  # the edge comes before the transactions
    assert in_force(market) == 650_000
    market.ok(time_ms=EDGE + 6 * HOUR - 1)
    assert in_force(market) == 650_000
    market.ok(time_ms=EDGE + 6 * HOUR)
    assert in_force(market) == 700_000


def test_signed_contracts_settle_by_the_tariff_they_were_signed_under() -> None:
    market = Market(epoch_ms=6 * HOUR)
    market.offer(ask=700_000, end=NOW + DAY)
    market.bid(start=EDGE + HOUR, end=EDGE + 3 * HOUR)
    announce(market, NOW + HOUR, [[0, "flat", 5_000_000, 600_000]])
    market.ok()
    before = market.state.each(Contract)
    market.ok(time_ms=EDGE)
    assert in_force(market) == 5_000_000
    assert market.state.each(Contract) == before
    market.measured(energy=3000, reason=REASON_USER)
    market.confirm("user-1", "owner-1")
    market.ok()
    assert market.money("grid") == -2 * 400_000


def test_resting_bids_are_priced_by_the_new_tariff() -> None:
    market = Market(epoch_ms=6 * HOUR, crr_numerator=1, crr_denominator=1)
    market.offer(end=NOW + DAY)
    start, end = EDGE + HOUR, EDGE + 3 * HOUR
    market.bid(start=start, end=end, limit=640_000)
    announce(market, NOW + HOUR, [[0, "flat", 640_000, 0]])
    market.ok()
    assert len(market.state.each(Bid)) == 1, "0.65 is above its limit"
    market.ok(time_ms=EDGE)
    terms = market.terms()
    assert (terms.price_micro_per_kwh, terms.catalog_sell_micro_per_kwh) == (640_000, 640_000)


def test_a_hold_that_the_new_prices_have_outgrown_fills_nothing_and_returns() -> None:
    """The over-use of a cheap ask is put up at the catalog price; when that has risen, the hold no longer covers it."""
    market = Market(epoch_ms=6 * HOUR)
    before = market.purses()
    start, end = EDGE + HOUR, EDGE + 3 * HOUR
    market.bid(start=start, end=end, limit=600_000)
    announce(market, NOW + HOUR, [[0, "flat", 5_000_000, 0]])
    market.ok()
    hold = 5 * 600_000 + 500 * 650 + 50_000
    assert market.gains(before) == (-hold, 0, 0, 0)
    market.offer(ask=600_000, end=NOW + DAY)
    market.ok(time_ms=EDGE)
    assert market.state.each(Contract) == []
    market.bid(start=start, end=end, limit=600_000)  # puts up enough under the new prices
    market.ok()
    assert market.terms().catalog_sell_micro_per_kwh == 5_000_000
    market.ok(time_ms=start + HOUR)
    assert market.state.each(Bid) == []


def test_asks_are_checked_against_the_tariff_in_force() -> None:
    market = Market(epoch_ms=6 * HOUR, tariff=DOCUMENT)

    def offer(ask: int) -> List:
        return List("pile-1", NOW, NOW + DAY, 1000, ask, explicit=False)

    assert market.refused("owner-1", offer(199_999)) == "band"
    assert market.refused("owner-1", offer(1_800_001)) == "band"
    for ask in (AT_MARKET, 200_000, 600_001, 1_800_000):  # some period's band has it
        market.send("owner-1", offer(ask))
    announce(market, NOW + HOUR, [[0, "flat", 100_000, 0]])
    market.ok()
    market.ok(time_ms=EDGE)
    assert market.refused("owner-1", offer(200_001)) == "band"


def test_a_bands_gap_between_two_periods_is_outside() -> None:
    gap = {
        "utc_offset_minutes": 0,
        "periods": [
            {"from_minute": 0, "name": "low", "sell_micro_per_kwh": 100_000, "buy_micro_per_kwh": 0},
            {"from_minute": 720, "name": "high", "sell_micro_per_kwh": 900_000, "buy_micro_per_kwh": 500_000},
        ],
    }
    market = Market(tariff=gap)
    for ask, code in ((200_000, None), (200_001, "band"), (499_999, "band"), (500_000, None)):
        body = List("pile-1", NOW, NOW + DAY, 1000, ask, explicit=False)
        if code:
            assert market.refused("owner-1", body) == code
        else:
            market.send("owner-1", body)
            market.ok()


def test_an_ask_out_of_the_band_of_a_bids_period_is_not_for_that_bid() -> None:
    """It stands for other periods; 0.30 is too cheap for a peak whose energy the grid buys at 0.50, 1.20 too dear for the valley."""
    valley, peak = MIDNIGHT + DAY + HOUR, MIDNIGHT + DAY + 19 * HOUR
    for ask, start, filled in (
        (300_000, valley, True),
        (300_000, peak, False),
        (600_001, valley, False),
        (600_000, valley, True),
        (500_000, peak, True),
        (499_999, peak, False),
        (1_800_000, peak, True),
    ):
        market = Market(tariff=DOCUMENT, epoch_ms=7 * DAY)
        market.offer(ask=ask, end=NOW + 3 * DAY)
        market.bid(start=start, end=start + 2 * HOUR, limit=2_000_000)
        market.ok()
        assert len(market.state.each(Contract)) == filled, (ask, start)


def test_a_clearing_names_the_tariff_it_priced_by() -> None:
    market = Market(epoch_ms=6 * HOUR)
    announce(market, NOW + HOUR)
    market.ok()
    hashes = []
    for time_ms in (NOW + HOUR, EDGE):
        market.offer(end=NOW + 2 * DAY)
        market.bid(start=EDGE + HOUR, end=EDGE + 2 * HOUR, energy=1000, market=True)
        outcome = market.ok(time_ms=time_ms)
        (leaf,) = [leaf_of(leaf) for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_CLEARING]
        hashes.append(leaf[3])
        market.send("owner-1", CancelContract(market.contract().id))
        assert [s.cause for s in statements(market.ok())] == ["pile-cancel"]
    first = sha256(tariff_leaf(Tariff("now", NOW, 0, [[0, "flat", 650_000, 400_000]])))
    second = sha256(tariff_leaf(Tariff("now", NOW + HOUR, 0, [[0, "flat", 700_000, 450_000]])))
    assert hashes == [first, second]
