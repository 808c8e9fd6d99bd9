"""Orders: explicit signatures in every combination, divisible bids, and how listings and bids end."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import END, HOUR, NOW, START, Market, bounded, closings, genesis, leaf_of, statements

from pile_coordinator.chain import orders
from pile_coordinator.chain.records import PROPOSED, SIGNED, Bid, Contract, Listing, Party, Zone
from pile_coordinator.chain.transactions import CancelBid, CancelContract, Confirm, List, Object, PlaceBid, Sign, Unlist
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT
from pile_shared.terms import LEAF_CONTRACT, LEAF_PROPOSED, Terms

CATALOG, ASK, FEE, BOND = 650_000, 700_000, 50_000, 650_000
LATER = {"start": NOW + 3 * HOUR, "end": NOW + 5 * HOUR}
DAY = 24 * HOUR
HAD = (1_000_000_000, 100_000_000, 0, 0)  # what a market's parties begin with
SIDES = ("user", "owner")

# --- explicit signing ------------------------------------------------------------------------------------------------


def proposed(asked: tuple[str, ...], **params: object) -> Market:
    market = Market(2, 2, **params)  # type: ignore[arg-type]
    market.offer(ask=ASK, end=NOW + 100 * HOUR, explicit="owner" in asked)
    market.bid(explicit="user" in asked, **LATER)  # type: ignore[arg-type]
    market.ok()
    assert market.contract().phase == (PROPOSED if asked else SIGNED)
    return market


def sign(market: Market, *sides: str) -> None:
    for side in sides:
        market.send(f"{side}-1", Sign(market.contract().id))
        market.ok()


def some_of(sides: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [chosen for length in range(len(sides) + 1) for chosen in combinations(sides, length)]


STORIES = [(asked, signed) for asked in some_of(SIDES)[1:] for signed in some_of(asked) if signed != asked]
GAINS = {
    "user-unsigned": (-FEE, 0, 0, FEE),
    "user-cancel": (-FEE, 0, 0, FEE),
    "pile-unsigned": (0, -FEE, 0, FEE),
    "pile-cancel": (BOND // 2, -BOND // 2, 0, 0),
}


@pytest.mark.parametrize(("asked", "signed"), STORIES)
@pytest.mark.parametrize("end", ["lapse", "user", "owner"])
def test_a_proposal_that_ends_costs_who_ended_it(asked: tuple[str, ...], signed: tuple[str, ...], end: str) -> None:
    market = proposed(asked)
    sign(market, *signed)
    assert market.contract().phase == PROPOSED
    missing = [side for side in asked if side not in signed]
    if end == "lapse":
        outcome = market.ok(time_ms=market.contract().deadline_ms)
        cause = "user-unsigned" if "user" in missing else "pile-unsigned"
    else:
        market.send(f"{end}-1", CancelContract(market.contract().id))
        outcome = market.ok()
        name = "user" if end == "user" else "pile"
        cause = f"{name}-unsigned" if end in missing else f"{name}-cancel"
    assert [statement.cause for statement in statements(outcome)] == [cause]
    assert closings(outcome) == ["unsigned" if cause.endswith("unsigned") else "cancelled"]
    assert (market.gains(HAD), market.holds()) == (GAINS[cause], {})


@pytest.mark.parametrize("asked", some_of(SIDES))
def test_a_contract_is_signed_when_all_who_asked_have_signed_in_any_order(asked: tuple[str, ...]) -> None:
    for order in (asked, asked[::-1]):
        market = proposed(asked)
        sign(market, *order)
        contract = market.contract()
        assert contract.phase == SIGNED
        assert contract.deadline_ms == LATER["start"] + 2 * HOUR, "grace and evidence"
        assert (contract.user_signed, contract.owner_signed) == (False, False), "these are for the settlement now"
        market.measured()
        market.confirm("user-1")
        assert closings(market.ok()) == []
        market.confirm("owner-1")
        assert closings(market.ok()) == ["confirmed"]


def test_who_signs_what() -> None:
    market = proposed(("user",))
    contract = market.contract().id
    for sender, code in (
        ("user-2", "not_yours"),
        ("owner-2", "not_yours"),
        ("owner-1", "phase"),  # it did not ask, so it has signed already
        ("grid", "wrong_role"),
    ):
        assert market.refused(sender, Sign(contract)) == code
    assert market.refused("user-1", Sign(bytes(32))) == "unknown_contract"
    for body in (Confirm(contract, bytes(32)), Object(contract, "cause", 0, "x")):
        assert market.refused("user-1", body) == "phase"
    sign(market, "user")
    assert market.refused("user-1", Sign(contract)) == "phase"


def test_the_time_to_sign_ends_with_the_sign_window_or_with_the_windows_start() -> None:
    market = proposed(SIDES)
    assert market.contract().deadline_ms == market.time_ms + HOUR
    market = proposed(SIDES, sign_window_ms=100 * HOUR)
    last = LATER["start"]
    assert market.contract().deadline_ms == last
    sign(market, "owner")
    market.send("user-1", Sign(market.contract().id))
    market.ok(time_ms=last - 1)
    assert market.contract().phase == SIGNED
    market = proposed(SIDES)
    late = market.tx("user-1", Sign(market.contract().id))
    assert [r.code for r in market.block(late, time_ms=market.contract().deadline_ms).results] == ["unknown_contract"]


def test_who_signed_may_call_off_only_in_time_as_of_a_contract() -> None:
    """An asker may walk away from a proposal as long as it is one, the other side only before the cut-off."""
    market = proposed(("owner",), sign_window_ms=100 * HOUR)
    market.ok(time_ms=LATER["start"] - HOUR // 2)
    assert market.refused("user-1", CancelContract(market.contract().id)) == "late"
    market.send("owner-1", CancelContract(market.contract().id))
    assert closings(market.ok()) == ["unsigned"]


def test_orders_to_be_signed_are_matched_before_their_window_only() -> None:
    """Later there would be no time to sign and come, and a late signature would make its user a no-show."""
    market = Market(sign_window_ms=100 * HOUR)
    market.offer(explicit=True)
    market.bid()
    market.ok(time_ms=START)
    assert not market.state.each(Contract)
    market.offer()
    market.ok()
    assert market.contract().phase == SIGNED
    assert (
        market.refused("user-1", PlaceBid("north", "", 5000, START, END, 900_000, False, END, False, True)) == "window"
    )


def test_an_owner_who_does_not_sign_loses_no_more_than_the_bond() -> None:
    market = Market(fee_micro=1_000_000)
    before = market.purses()
    market.offer(explicit=True)
    market.bid()
    market.ok()
    market.ok(time_ms=market.contract().deadline_ms)
    assert market.gains(before) == (0, -BOND, 0, BOND)


def test_a_proposal_is_no_contract_for_the_pile() -> None:
    """Nothing energises it: its leaf is not a contract's, a begin under it begins nothing, and nobody was awaited."""
    market = Market(sign_window_ms=100 * HOUR)
    market.offer()
    market.bid(explicit=True)
    outcome = market.ok()
    kinds = [leaf_of(leaf)[0] for leaf in outcome.leaves]
    assert (kinds.count(LEAF_PROPOSED), kinds.count(LEAF_CONTRACT)) == (1, 0)
    contract = market.contract()
    market.submit(market.begin(time_ms=START), time_ms=START - 2000)
    market.submit(market.prove("pile-1", HEARTBEAT, [(START + 1, 100_000)]), time_ms=START - 1)
    assert market.contract() == contract
    outcome = market.ok(time_ms=START)
    assert [statement.cause for statement in statements(outcome)] == ["user-unsigned"]


def test_a_proposal_blocks_its_window_and_its_curve_energy_until_it_ends() -> None:
    market = Market(1, 2)
    market.offer(explicit=True)
    market.bid("user-1", **LATER)
    market.ok()
    market.bid("user-2", limit=CATALOG * 2, **LATER)
    market.ok()
    assert market.state.get(Zone, "north").open_wh == 5000
    assert market.terms().user == "user-1"
    market.send("owner-1", CancelContract(market.contract().id))
    market.ok()  # and in the same block the next in line is matched
    assert market.terms().user == "user-2"


# --- divisible bids --------------------------------------------------------------------------------------------------


def pieces(market: Market) -> list[Terms]:
    """The open contracts, by number of the piece of the one divisible bid."""
    return [market.state.terms_of(contract) for contract in market.state.each(Contract)]


def named(bid: bytes, number: int) -> bytes:
    return sha256(bid + number.to_bytes(4, "big"))


def test_a_divisible_bid_goes_whole_where_it_can_even_if_pieces_were_cheaper() -> None:
    market = Market(2)
    market.offer("pile-1", energy=4000, ask=600_000)
    market.offer("pile-2", ask=ASK)
    bid = market.bid(divisible=True)
    market.ok()
    (terms,) = pieces(market)
    assert (terms.pile, terms.energy_wh, terms.order) == ("pile-2", 5000, named(bid, 0))


def test_otherwise_it_takes_the_cheapest_first_and_of_each_as_much_as_fits() -> None:
    market = Market(3)
    market.offer("pile-1", energy=2345, ask=720_000)
    market.offer("pile-2", energy=1500, ask=600_000)
    market.offer("pile-3", energy=9000, ask=800_000)
    bid = market.bid(energy=10_000, divisible=True)
    market.ok()
    assert market.state.each(Bid) == []
    by_order = {terms.order: (terms.pile, terms.energy_wh, terms.price_micro_per_kwh) for terms in pieces(market)}
    assert by_order == {
        named(bid, 0): ("pile-2", 1500, 600_000),
        named(bid, 1): ("pile-1", 2300, 720_000),
        named(bid, 2): ("pile-3", 6200, 800_000),
    }


def test_at_least_1_kwh_is_taken_and_left() -> None:
    """Of 2.9 kWh a supply of 2 gives 1.9, so that 1 kWh is left; one of 900 Wh gives nothing."""
    market = Market(3)
    market.offer("pile-1", energy=900, ask=600_000)
    market.offer("pile-2", energy=2000, ask=650_000)
    market.bid(energy=2900, divisible=True)
    market.ok()
    assert [(terms.pile, terms.energy_wh) for terms in pieces(market)] == [("pile-2", 1900)]
    (left,) = market.state.each(Bid)
    assert (left.energy_wh, left.pieces) == (1000, 1)
    market.offer("pile-3", energy=1000, ask=700_000)
    market.ok()
    assert sorted(terms.energy_wh for terms in pieces(market)) == [1000, 1900]


@pytest.mark.parametrize("energy", [100, 900, 1000, 1900])
def test_a_bid_that_has_no_two_pieces_goes_whole_or_not_at_all(energy: int) -> None:
    market = Market(2)
    market.offer("pile-1", energy=energy - 1 if energy > 100 else 100, ask=600_000)
    market.bid(energy=energy, divisible=True)
    market.ok()
    assert [terms.energy_wh for terms in pieces(market)] == ([100] if energy == 100 else [])
    market.offer("pile-2", energy=energy)
    market.ok()
    assert [terms.energy_wh for terms in pieces(market)] == [energy]


def test_on_the_curve_it_takes_what_its_limit_and_those_before_it_allow() -> None:
    """At CRR 4/5 and a capacity of 28 kWh a limit of 1.1 times the catalog price allows a load of 12,994 Wh, in lots 12,900."""
    market = Market(2, 2)
    for pile in ("pile-1", "pile-2"):
        market.offer(pile, energy=100_000, end=NOW + DAY)
    limit = CATALOG * 11 // 10
    market.bid("user-1", energy=20_000, divisible=True, limit=limit, start=START, end=START + HOUR)
    market.ok()
    assert sorted(terms.energy_wh for terms in pieces(market)) == [5900, 7000]
    assert {terms.price_micro_per_kwh <= limit for terms in pieces(market)} == {True}
    assert market.state.each(Bid)[0].energy_wh == 7100


def test_no_more_than_16_pieces_and_what_is_left_returns() -> None:
    market = Market(17, user_micro=10**9)
    before = market.purses()
    bid = market.bid(energy=17_000, divisible=True, limit=CATALOG)
    for i in range(1, 18):
        market.offer(f"pile-{i}", energy=1000, ask=CATALOG)
    outcome = market.ok()
    assert {terms.order for terms in pieces(market)} == {named(bid, number) for number in range(16)}
    assert closings(outcome).count("unfilled") == 1
    assert market.state.each(Bid) == []
    escrow = CATALOG + CATALOG // 10 + FEE
    assert market.gains(before)[0] == -16 * escrow


def test_a_divisible_market_order_is_refunded_what_it_did_not_get() -> None:
    market = Market()
    before = market.purses()
    market.offer(energy=3000, ask=CATALOG)
    market.bid(energy=9000, divisible=True, market=True)
    outcome = market.ok()
    assert closings(outcome) == ["spent", "unfilled"]
    assert market.gains(before)[0] == -(3 * CATALOG + 300 * CATALOG // 1000 + FEE)


def test_what_rests_of_a_divisible_bid_can_be_withdrawn_and_expires() -> None:
    for expires in (False, True):
        market = Market()
        before = market.purses()
        market.offer(energy=3000, ask=CATALOG)
        bid = market.bid(energy=9000, divisible=True)
        market.ok()
        if not expires:
            market.send("user-1", CancelBid(bid))
        outcome = market.ok(time_ms=START + HOUR if expires else None)
        assert closings(outcome) == ["expired" if expires else "cancelled"]
        assert market.gains(before)[0] == -(3 * CATALOG + 300 * CATALOG // 1000 + FEE)


def test_each_piece_of_an_explicit_bid_is_signed_by_itself() -> None:
    market = Market(2)
    for pile in ("pile-1", "pile-2"):
        market.offer(pile, energy=2500, ask=CATALOG)
    market.bid(energy=5000, divisible=True, explicit=True)
    market.ok()
    first, second = market.state.each(Contract)
    market.send("user-1", Sign(first.id))
    market.ok()
    phases = [contract.phase for contract in market.state.each(Contract)]
    assert sorted(phases) == [PROPOSED, SIGNED]
    assert closings(market.ok(time_ms=second.deadline_ms)) == ["unsigned"]


permille = st.sampled_from([0, 1, 20, 100, 999, 1000])


@given(
    st.lists(st.integers(10, 400), min_size=1, max_size=16),
    st.data(),
    st.fixed_dictionaries(
        {
            "tolerance_permille": permille,
            "overuse_permille": permille,
            "tolerance_min_wh": st.sampled_from([0, 1, 100, 9999]),
            "fee_micro": st.sampled_from([0, 1, 50_000]),
        }
    ),
    st.integers(1, 10**9),
    st.integers(1, 10**9),
)
@bounded(400)
def test_the_hold_covers_every_way_to_split_at_any_prices(
    lots: list[int], data: st.DataObject, over: dict, limit: int, catalog: int
) -> None:
    """The escrow of each piece said again from the guide; prices are anything up to the limit."""
    params = replace(genesis().params, **over)
    energy = 100 * sum(lots)
    hold = orders.hold_micro(params, energy, limit, catalog, divisible=True)
    needed = 0
    for lot in lots:
        price = data.draw(st.sampled_from([limit, max(1, limit - 1), limit // 2 + 1]))
        share = max(100 * lot * over["tolerance_permille"] // 1000, over["tolerance_min_wh"])
        beyond = max(100 * lot * over["overuse_permille"] // 1000, share)
        needed += -(-100 * lot * price // 1000) - (-beyond * max(catalog, price) // 1000) + over["fee_micro"]
    assert needed <= hold
    if len(lots) == 1:
        assert orders.hold_micro(params, energy, limit, catalog, divisible=False) >= needed


supplies = st.lists(
    st.tuples(st.integers(0, 3), st.integers(2, 120), st.sampled_from([-1, -1, 600_000, 650_000, 700_000, 760_000])),
    min_size=1,
    max_size=5,
)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(600_000, 900_000), st.booleans()), min_size=1, max_size=3),
    st.lists(supplies, min_size=1, max_size=3),
    st.fixed_dictionaries(
        {"tolerance_min_wh": st.sampled_from([0, 100, 3000]), "fee_micro": st.sampled_from([0, 50_000])}
    ),
)
@bounded(120)
def test_pieces_of_divisible_bids_keep_the_rules_over_several_blocks(demand: list, blocks: list, over: dict) -> None:
    market = Market(4, len(demand), **over)
    before = [market.money(f"user-{i}") for i in range(1, len(demand) + 1)]
    wishes = {}
    for i, (lots, limit, is_market) in enumerate(demand, 1):
        bid = market.bid(f"user-{i}", energy=100 * lots, limit=limit, market=is_market, divisible=True)
        wishes[bid] = (f"user-{i}", 100 * lots, limit, is_market)
    for supply in blocks:
        for pile, lots, ask in supply:
            market.offer(f"pile-{pile + 1}", energy=100 * lots, ask=ask)
        market.ok()
    by_order = {terms.order: terms for terms in pieces(market)}
    for i, (bid, (user, energy, limit, is_market)) in enumerate(wishes.items()):
        mine = [terms for terms in by_order.values() if terms.user == user]
        assert {terms.order for terms in mine} == {named(bid, number) for number in range(len(mine))}
        assert len(mine) <= 16
        left = market.state.find(Bid, bid)
        left_wh = energy - sum(terms.energy_wh for terms in mine)
        assert (left.energy_wh if left else 0) == (0 if is_market else left_wh) or len(mine) == 16
        assert left_wh == 0 or left_wh >= 1000 or not mine
        for terms in mine:
            assert terms.energy_wh % 100 == 0
            assert terms.energy_wh >= 1000 or terms.energy_wh == energy
            assert terms.price_micro_per_kwh <= limit
            assert terms.energy_wh * HOUR <= 7000 * (END - START)
        escrows = sum(market.state.balance_micro(f"E:{terms.contract_id().hex()}") for terms in mine)
        assert market.money(user) == before[i] - escrows - (left.hold_micro if left else 0)


# --- how listings and bids end ---------------------------------------------------------------------------------------


def test_a_listing_expires_with_its_window_and_not_before() -> None:
    market = Market()
    market.offer(end=END)
    market.ok()
    assert closings(market.ok(time_ms=END - 1)) == []
    assert closings(market.ok(time_ms=END)) == ["expired"]
    late = List("pile-1", NOW, END, 1000, -1, explicit=False)
    assert market.refused("owner-1", late) == "window"


def test_each_contract_takes_its_energy_off_and_less_than_a_lot_is_spent() -> None:
    for offered, left in ((5100, 100), (5099, None), (5000, None)):
        market = Market()
        listing = market.offer(energy=offered)
        market.bid()
        assert closings(market.ok()) == ([] if left else ["spent"])
        found = market.state.find(Listing, listing)
        assert (found.energy_wh if found else None) == left
        if left is None:
            assert market.refused("owner-1", Unlist(listing)) == "unknown_order"
        assert market.contract().phase == SIGNED


def test_energy_of_a_contract_that_is_called_off_does_not_come_back_to_its_listing() -> None:
    """The owner offers again what it wants to: a listing's energy only falls."""
    market = Market()
    market.offer(energy=5000)
    market.bid(**LATER)
    market.ok()
    market.send("owner-1", CancelContract(market.contract().id))
    market.ok()
    assert market.state.each(Listing) == []


def test_contracts_stand_when_their_listing_is_withdrawn() -> None:
    market = Market()
    listing = market.offer()
    market.bid()
    market.ok()
    market.send("owner-1", Unlist(listing))
    assert closings(market.ok()) == ["cancelled"]
    assert market.contract().phase == SIGNED


def test_a_party_has_a_bounded_number_of_open_orders_and_every_end_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "MAX_OPEN_ORDERS", 2)
    market = Market()
    bid = market.bid(limit=1)
    market.bid(limit=1, expires=NOW + HOUR // 4)
    market.ok()
    again = PlaceBid("north", "", 5000, START, END, 900_000, True, 0, False, False)
    assert market.refused("user-1", again) == "limit"
    market.send("user-1", CancelBid(bid))
    market.bid(limit=900_000)
    market.offer(energy=5000, end=END)
    market.ok()  # filled, and the listing spent
    assert [market.state.get(Party, p).open_orders for p in ("user-1", "owner-1")] == [1, 0]
    market.ok(time_ms=NOW + HOUR // 4)
    market.bid(market=True)
    market.ok()
    listings = [market.offer(ask=CATALOG * 2, end=END) for _ in range(2)]
    market.ok()
    assert market.refused("owner-1", List("pile-1", NOW, END, 1000, -1, explicit=False)) == "limit"
    market.send("owner-1", Unlist(listings[0]))
    market.ok()
    market.ok(time_ms=END)
    assert [market.state.get(Party, p).open_orders for p in ("user-1", "owner-1")] == [0, 0]
