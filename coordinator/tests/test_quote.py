"""A quote is what the order gets: compared, on random small books, with really placing it; and it leaves no trace."""

import hypothesis.strategies as st
import pytest
from hypothesis import event, given
from world import END, HOUR, NOW, START, Market, bounded, leaf_of

from pile_coordinator.chain.contracts import piece_name
from pile_coordinator.chain.records import Bid, Contract, Party, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import contract_escrow_micro
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import AT_MARKET, PlaceBid, SetTariff
from pile_coordinator.quote import (
    BAND,
    FILLS,
    FUNDS,
    LIMIT,
    PART,
    PAUSED,
    REFUNDED,
    REFUSED,
    RESTS,
    SUPPLY,
    quote,
)
from pile_shared.terms import LEAF_CONTRACT, LEAF_PROPOSED, decode_terms

PEAKS = {
    "utc_offset_minutes": 0,
    "periods": [
        {"from_minute": 0, "name": "valley", "sell_micro_per_kwh": 400_000, "buy_micro_per_kwh": 300_000},
        {"from_minute": 1380, "name": "peak", "sell_micro_per_kwh": 1_000_000, "buy_micro_per_kwh": 500_000},
    ],
}  # the window of most orders below starts a little before 23:00 UTC


def bid(**over: object) -> PlaceBid:
    given_ = {
        "zone": "north",
        "pile": "",
        "energy_wh": 5000,
        "window_start_ms": START,
        "window_end_ms": END,
        "limit_micro_per_kwh": 900_000,
        "market": True,
        "expires_ms": 0,
        "divisible": False,
        "explicit": False,
    } | over
    if not given_["market"]:
        given_["expires_ms"] = given_["expires_ms"] or given_["window_end_ms"]
    return PlaceBid(**given_)  # type: ignore[arg-type]


def ask(market: Market, body: PlaceBid, *, user: str = "user-1", time_ms: int | None = None, order: bytes = b"?" * 32):
    env = market.env(time_ms or market.time_ms + 1000)
    return quote(market.state, env, market.state.get(Party, user), order, body)


def everything(state: State) -> object:
    """All that a state knows, indexes and deadlines included, in one comparable value."""
    tables = {kind: dict(table) for kind, table in state._tables.items()}
    indexes = (state._by_pile, state._listings_by_owner, state._listings_by_zone, state._bids_by_user)
    plain = (state._bids_by_limit, state._listed, state.totals, state.owed, state.open_wh, state.covered)
    by_name = [{name: sorted(keys) for name, keys in index.items()} for index in indexes]
    filled = [{k: v for k, v in index.items() if v} for index in plain]
    return (
        tables,
        by_name,
        filled,
        sorted(state._deadlines),
        set(state._scheduled),
        dict(state._changed),
        len(state._undo),
    )


# --- quote == fill ---------------------------------------------------------------------------------------------------

prices = st.sampled_from([300_000, 400_000, 500_000, 650_000, 660_000, 700_000, 800_000, 900_000, 1_300_000, 2_000_000])
listings = st.fixed_dictionaries(
    {
        "pile": st.sampled_from(["pile-1", "pile-2", "pile-3"]),
        "energy": st.sampled_from([900, 2000, 4000, 9000, 30_000]),
        "ask": st.one_of(st.just(AT_MARKET), prices),
        "start": st.sampled_from([NOW, START, START + HOUR]),
        "end": st.sampled_from([END, END + HOUR, NOW + 10 * HOUR]),
        "explicit": st.booleans(),
    }
)
bids = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["user-1", "user-2"]),
        "energy": st.sampled_from([500, 1000, 3000, 5000, 8000, 12_000]),
        "limit": prices,
        "market": st.booleans(),
        "pile": st.sampled_from(["", "", "pile-1", "pile-3"]),
        "start": st.sampled_from([START, START + HOUR // 2]),
        "end": st.sampled_from([END, END + HOUR]),
        "divisible": st.booleans(),
        "explicit": st.booleans(),
    }
)
worlds = st.fixed_dictionaries(
    {
        "breaker_permille": st.sampled_from([0, 0, 30, 100]),
        "band_permille": st.sampled_from([1100, 2000]),
        "owner_micro": st.sampled_from([300_000, 100_000_000]),
        "user_micro": st.sampled_from([5_000_000, 1_000_000_000]),
        "tariff": st.sampled_from([None, PEAKS]),
        "capacity_hours": st.sampled_from([1, 2, 8]),
    }
)


@bounded(400)
@given(worlds, st.lists(st.lists(st.one_of(listings, bids), max_size=5), min_size=1, max_size=3), bids, st.data())
def test_a_quote_is_what_the_order_then_gets(params, past, order, data):
    market = Market(piles=3, users=2, **params)
    for block in past:
        for each in block:
            if "ask" in each:
                market.offer(**each)
            else:
                market.bid(**each)
        market.block()
    later = data.draw(st.sampled_from([1000, 1000, 40 * 60_000, 70 * 60_000]))
    time_ms = market.time_ms + later
    before = everything(market.state)
    order_id = market.bid(**order)
    body = bid(
        pile=order["pile"],
        energy_wh=order["energy"],
        window_start_ms=order["start"],
        window_end_ms=order["end"],
        limit_micro_per_kwh=order["limit"],
        market=order["market"],
        divisible=order["divisible"],
        explicit=order["explicit"],
    )
    try:
        said = ask(market, body, user=order["user"], time_ms=time_ms, order=order_id)
    except Rejection as rejection:
        said = rejection
    assert everything(market.state) == before
    outcome = market.block(time_ms=time_ms)
    (result,) = outcome.results
    if isinstance(said, Rejection):
        event("rejected")
        assert result.code == said.code
        return
    event(f"{said.outcome} {said.reason}")
    compare(market, order_id, body, said, outcome, result.code)


def compare(market, order_id, body, said, outcome, code):
    names = [order_id, *(piece_name(order_id, i) for i in range(16))]
    rows = [leaf_of(leaf) for leaf in outcome.leaves]
    matched = [decode_terms(row[1]) for row in rows if row[0] in {LEAF_CONTRACT, LEAF_PROPOSED}]
    mine = [terms for terms in matched if terms.order in names]
    assert [t.encoded() for t in said.fills] == [t.encoded() for t in mine]
    if said.outcome == REFUSED:
        assert (code, said.reason) == ("funds", FUNDS)
        return
    assert code == "ok"
    resting = market.state.find(Bid, order_id)
    filled_wh = sum(t.energy_wh for t in mine)
    wanted = FILLS if filled_wh == body.energy_wh else PART if mine else REFUNDED if body.market else RESTS
    assert said.outcome == wanted
    assert bool(said.reason) == bool(said.why) == (wanted != FILLS)
    assert (resting is not None) == (not body.market and filled_wh < body.energy_wh)
    escrows = sum(map(contract_escrow_micro, mine))
    assert said.most_micro == escrows + (resting.hold_micro if resting else 0)
    phases = {market.state.get(Contract, t.contract_id()).phase for t in mine}
    assert said.proposed == ("proposed" in phases)
    if said.reason == LIMIT:
        # Had the limit been what the quote without one names, more would have been filled.
        assert said.limit_micro_per_kwh == body.limit_micro_per_kwh


@bounded(150)
@given(worlds, st.lists(st.one_of(listings, bids), max_size=8), bids)
def test_a_quote_without_a_limit_names_the_least_at_which_it_fills(params, past, order):
    market = Market(piles=3, users=2, **params | {"user_micro": 1_000_000_000})
    for each in past:
        if "ask" in each:
            market.offer(**each)
        else:
            market.bid(**each)
    market.block()
    body = bid(pile=order["pile"], energy_wh=order["energy"], limit_micro_per_kwh=0, divisible=order["divisible"])
    found = ask(market, body)
    event(found.outcome + found.reason)
    if found.limit_micro_per_kwh == 0:
        assert not found.fills
        assert found.reason in {SUPPLY, BAND, PAUSED}
        return
    filled_wh = sum(t.energy_wh for t in found.fills)
    assert filled_wh > 0
    lower = ask(market, bid(**_of(body), limit_micro_per_kwh=found.limit_micro_per_kwh - 1))
    higher = ask(market, bid(**_of(body), limit_micro_per_kwh=2 * found.limit_micro_per_kwh))
    assert sum(t.energy_wh for t in lower.fills) < filled_wh
    assert [t.encoded() for t in higher.fills] == [t.encoded() for t in found.fills]


def _of(body: PlaceBid) -> dict[str, object]:
    names = ("pile", "energy_wh", "divisible")
    return {name: getattr(body, name) for name in names}


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_says_the_price_the_hold_and_the_most_it_can_cost():
    """By hand, at CRR 1, where the curve is flat: 5 kWh at 0.65; over-use cap 500 Wh; fee 0.05; limit 0.90."""
    market = Market(crr_numerator=1, crr_denominator=1)
    market.offer()
    market.ok()
    found = ask(market, bid())
    assert (found.outcome, found.reason, found.why) == (FILLS, "", "")
    assert found.catalog.period == "flat"
    assert found.now_micro_per_kwh == found.curve_micro_per_kwh == 650_000
    assert found.hold_micro == 5 * 900_000 + 450_000 + 50_000
    assert found.cost_micro == 5 * 650_000 + 50_000
    assert found.most_micro == 5 * 650_000 + 325_000 + 50_000
    assert found.ask_micro_per_kwh == AT_MARKET
    assert found.band_micro_per_kwh == (400_000, 1_300_000)


def test_it_says_the_curve_and_the_cheapest_ask_that_could_serve_it():
    market = Market(piles=3)
    market.offer("pile-1")
    market.offer("pile-2", ask=900_000)
    market.offer("pile-3", ask=800_000, energy=2000)  # cheaper, but not enough for 5 kWh
    market.ok()
    found = ask(market, bid())
    assert found.ask_micro_per_kwh == 900_000
    assert found.curve_micro_per_kwh > found.now_micro_per_kwh == 650_000
    (terms,) = found.fills
    assert (terms.pile, terms.price_micro_per_kwh) == ("pile-1", found.curve_micro_per_kwh)
    assert ask(market, bid(energy_wh=1000)).ask_micro_per_kwh == 800_000


def test_a_price_above_the_limit_rests_or_is_refunded():
    market = Market()
    market.offer()
    market.ok()
    for is_market, outcome in ((True, REFUNDED), (False, RESTS)):
        found = ask(market, bid(limit_micro_per_kwh=651_000, market=is_market))
        assert (found.outcome, found.reason, found.fills) == (outcome, LIMIT, ())
    assert found.most_micro == found.hold_micro


def test_the_band_is_named():
    market = Market(band_permille=1000)
    market.offer()
    market.ok()
    assert ask(market, bid(energy_wh=100)).reason == BAND


def test_an_ask_below_the_buying_price_of_the_period_is_named_too():
    market = Market(tariff=PEAKS)
    market.offer(ask=300_000)
    market.ok()
    peak = bid(window_start_ms=START + HOUR, window_end_ms=END + HOUR)
    assert ask(market, peak).catalog.period == "peak"
    assert ask(market, peak).reason == BAND


def test_a_pause_is_named_with_its_end():
    market = Market(piles=2, breaker_permille=10)
    market.offer("pile-1")
    market.offer("pile-2")
    market.bid()
    market.ok()
    found = ask(market, bid(market=False))
    assert (found.outcome, found.reason) == (RESTS, PAUSED)
    assert found.paused_until_ms == market.state.get(Zone, "north").paused_until_ms > market.time_ms
    after = ask(market, bid(market=False), time_ms=found.paused_until_ms)
    assert (after.outcome, after.paused_until_ms) == (FILLS, 0)


@pytest.mark.parametrize(
    ("offer", "wanted", "words"),
    [
        (None, {}, "nothing is listed in zone north"),
        ({"end": END - 1}, {}, "no listing covers this window"),
        ({"energy": 4900}, {}, "this much energy left"),
        ({}, {"energy_wh": 11_000}, "power"),
        ({}, {"pile": "pile-2"}, "nothing is listed on pile-2"),
    ],
)
def test_a_lack_of_supply_is_explained(offer, wanted, words):
    market = Market(piles=2)
    if offer is not None:
        market.offer("pile-1", **offer)
        market.ok()
    found = ask(market, bid(**wanted))
    assert found.reason == SUPPLY
    assert words in found.why


def test_a_taken_pile_and_a_poor_owner_are_explained():
    market = Market(users=2)
    market.offer()
    market.bid("user-2")
    market.ok()
    assert "taken in this window" in ask(market, bid(limit_micro_per_kwh=2_000_000)).why
    poor = Market(owner_micro=1)
    poor.offer()
    poor.ok()
    assert "bond" in ask(poor, bid()).why


def test_too_little_money_is_refused_but_priced():
    market = Market(user_micro=1_000_000)
    market.offer()
    market.ok()
    found = ask(market, bid())
    assert (found.outcome, found.reason, found.fills) == (REFUSED, FUNDS, ())
    assert found.hold_micro == 5 * 900_000 + 450_000 + 50_000
    assert ask(market, bid(limit_micro_per_kwh=0)).limit_micro_per_kwh == found.curve_micro_per_kwh


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"zone": "south"}, "unknown_zone"),
        ({"pile": "pile-9"}, "unknown_pile"),
        ({"window_end_ms": NOW - 1}, "window"),
        ({"energy_wh": 150}, "energy"),
    ],
)
def test_what_would_be_refused_is_refused_with_its_code(wanted, code):
    with pytest.raises(Rejection) as caught:
        ask(Market(), bid(**wanted))
    assert caught.value.code == code


def test_a_tariff_that_comes_into_force_in_the_next_block_counts():
    market = Market()
    market.offer()
    market.ok()
    edge = market.genesis.time_ms + market.state.params.epoch_ms
    window = {"window_start_ms": edge + HOUR, "window_end_ms": edge + 3 * HOUR}
    market.offer(start=NOW, end=edge + 4 * HOUR)
    market.send("grid", SetTariff(edge, 0, [[0, "flat", 1_000_000, 400_000]]))
    market.ok()
    assert ask(market, bid(**window)).now_micro_per_kwh == 650_000
    assert ask(market, bid(**window), time_ms=edge).now_micro_per_kwh == 1_000_000


# --- no trace --------------------------------------------------------------------------------------------------------


def test_a_quote_leaves_no_trace_in_root_rows_or_deadlines():
    """Also what a roll back alone leaves: rows to write again, and moments at which a block would be made for nothing."""
    market, other = Market(piles=2, users=2), Market(piles=2, users=2)
    for world in (market, other):
        world.offer("pile-1")
        world.bid("user-2", limit=500_000)
        world.ok()
    before, deadline = everything(market.state), market.state.next_deadline_ms()
    for wanted in ({}, {"limit_micro_per_kwh": 0}, {"energy_wh": 11_000}, {"window_end_ms": START + 600_000}):
        ask(market, bid(**wanted))
    late = bid(window_start_ms=NOW + 30 * HOUR, window_end_ms=NOW + 31 * HOUR)
    ask(market, late, time_ms=NOW + 30 * HOUR)  # an epoch edge, and everything else expired
    assert everything(market.state) == before
    assert market.state.next_deadline_ms() == deadline
    for world in (market, other):
        world.ok()
    assert market.root == other.root


def test_a_dry_run_that_fails_leaves_no_trace_either():
    market = Market()
    before = everything(market.state)

    def act() -> None:
        market.state.put(Party("mallory", "grid", b"", 0, 0))
        market.state.drop(Party, "user-1")
        raise KeyError("gone")

    with pytest.raises(KeyError):
        market.state.dry_run(act)
    assert everything(market.state) == before
