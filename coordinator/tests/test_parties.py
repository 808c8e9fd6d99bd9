"""Parties and piles: keys that are rotated, revoked and restored; piles that are retired."""

import pytest
from world import END, HOUR, NOW, START, Market, closings, key

from pile_coordinator.chain.records import ACTIVE, MEASURED, Bid, KeyRestore, Listing, Party, Pile, Zone
from pile_coordinator.chain.transactions import (
    CancelBid,
    CancelContract,
    Deposit,
    List,
    Object,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
    Sign,
    Unlist,
    Withdraw,
)
from pile_shared.proof import HEARTBEAT, REASON_ENERGY_REACHED


def resting(market: Market) -> tuple[bytes, bytes]:
    """A bid of user-1 and a listing of owner-1 that do not meet."""
    listing, bid = market.offer(ask=800_000), market.bid(limit=700_000)
    market.ok()
    return listing, bid


def test_a_rotated_key_is_the_only_one_from_the_next_transaction_on() -> None:
    market = Market()
    market.send("user-1", RotateKey(key("second").public))
    market.ok()
    assert market.state.get(Party, "user-1").public == key("second").public
    assert market.refused("user-1", Withdraw(1, "bank")) == "bad_signature"
    assert market.refused("user-1", Withdraw(1, "bank"), signer="operator") == "bad_signature"
    market.ok(market.tx("user-1", Withdraw(1, "bank"), signer="second"))


def test_within_one_block_too() -> None:
    market = Market()
    rotate = market.tx("user-1", RotateKey(key("second").public))
    old = market.tx("user-1", Withdraw(1, "bank"), sequence=2)
    new = market.tx("user-1", Withdraw(2, "bank"), sequence=2, signer="second")
    assert [r.code for r in market.block(rotate, old, new).results] == ["ok", "bad_signature", "ok"]


def test_rotating_withdraws_the_orders_that_the_old_key_signed() -> None:
    market = Market()
    before = market.purses()
    resting(market)
    market.send("user-1", RotateKey(key("second").public))
    market.send("owner-1", RotateKey(key("third").public))
    assert closings(market.ok()) == ["cancelled", "cancelled"]
    assert (market.state.each(Bid), market.state.each(Listing)) == ([], [])
    assert (market.purses(), market.holds()) == (before, {})
    assert [market.state.get(Party, p).open_orders for p in ("user-1", "owner-1")] == [0, 0]


def test_orders_of_the_same_block_are_withdrawn_before_they_can_meet() -> None:
    market = Market()
    market.offer()
    market.bid()
    market.send("user-1", RotateKey(key("second").public))
    market.ok()
    assert (market.state.each(Bid), market.holds(), len(market.state.each(Listing))) == ([], {}, 1)


def test_no_key_is_accepted_twice_whosever_it_was() -> None:
    market = Market()
    market.send("user-1", RotateKey(key("second").public))
    market.ok()
    used = [key(name).public for name in ("user-1", "second", "grid", "owner-1", "pile-1")]
    for public in used:
        bodies = [
            RotateKey(public),
            RegisterParty("new", "ev-owner", public),
            RegisterPile("new", "owner-1", public, "SDM630", "1", "north", 7000),
        ]
        for sender, body in zip(("owner-1", "operator", "operator"), bodies, strict=True):
            assert market.refused(sender, body) == "exists", (public, body)
    market.send("operator", RevokeKey("user-1"))
    market.send("grid", RestoreKey("user-1", key("user-1").public))
    market.ok()
    assert market.refused("operator", RestoreKey("user-1", key("user-1").public)) == "exists"


def test_contracts_stand_under_the_keys_they_were_signed_with() -> None:
    market = Market()
    contract, terms = market.signed(), market.terms()
    market.send("user-1", RotateKey(key("second").public))
    market.send("operator", RevokeKey("owner-1"))
    market.ok()
    assert market.contract() == contract
    assert (terms.user_public, terms.owner_public) == (key("user-1").public, key("owner-1").public)
    market.submit(market.begin(), market.end(END, 105_000, REASON_ENERGY_REACHED), time_ms=END)
    assert market.contract().phase == MEASURED
    assert closings(market.ok(time_ms=market.contract().deadline_ms)) == ["settled"]
    assert market.holds() == {}


def test_who_may_revoke_whom() -> None:
    market = Market(1, 2)
    assert market.refused("user-1", RevokeKey("user-2")) == "not_yours"
    assert market.refused("auditor", RevokeKey("user-2")) == "not_yours"
    assert market.refused("operator", RevokeKey("nobody")) == "unknown_party"
    for sender, party in (("user-1", "user-1"), ("operator", "user-2"), ("grid", "owner-1")):
        market.send(sender, RevokeKey(party))
        market.ok()
        assert market.state.get(Party, party).public == b""
    assert market.refused("operator", RevokeKey("user-1")) == "exists"


def test_a_revoked_key_is_good_for_nothing() -> None:
    market = Market()
    before = market.purses()
    listing, bid = resting(market)
    market.send("operator", RevokeKey("user-1"))
    market.send("operator", RevokeKey("owner-1"))
    assert closings(market.ok()) == ["cancelled", "cancelled"]
    assert (market.purses(), market.holds()) == (before, {})
    some = bytes(32)
    for sender, body in [
        ("user-1", Withdraw(1, "bank")),
        ("user-1", PlaceBid("north", "", 1000, START, END, 900_000, True, 0, False, False)),
        ("user-1", CancelBid(bid)),
        ("user-1", RotateKey(key("second").public)),
        ("user-1", RevokeKey("user-1")),
        ("user-1", Object(some, "energy", 0, "x")),
        ("owner-1", List("pile-1", START, END, 1000, -1, False)),
        ("owner-1", Unlist(listing)),
        ("owner-1", Sign(some)),
        ("owner-1", CancelContract(some)),
    ]:
        assert market.refused(sender, body) == "revoked"
    assert market.refused("user-1", Withdraw(1, "bank"), signer="operator") == "revoked"
    market.send("grid", Deposit("user-1", 5, "still arrives"))
    market.ok()
    assert market.gains(before) == (5, 0, 0, 0)


def test_a_key_is_restored_by_a_grid_and_an_operator_party_who_say_the_same() -> None:
    market = Market()
    market.send("operator", RegisterParty("operator-2", "operator", key("operator-2").public))
    market.ok()
    body = RestoreKey("user-1", key("second").public)
    other = RestoreKey("user-1", key("third").public)
    assert market.refused("auditor", body) == "wrong_role"
    assert market.refused("operator", RestoreKey("nobody", key("second").public)) == "unknown_party"
    assert market.refused("operator", body) == "exists", "it is not revoked"
    market.send("operator", RevokeKey("user-1"))
    market.ok()

    def says(sender: str, word: RestoreKey) -> bytes:
        market.send(sender, word)
        market.ok()
        return market.state.get(Party, "user-1").public

    assert says("operator", body) == b""
    assert says("operator", body) == b"", "twice the same word is one"
    assert says("operator-2", body) == b"", "two operators are no grid party"
    assert says("grid", other) == b"", "not the same key"
    assert says("operator", body) == b"", "the grid's word was about another key"
    assert says("grid", body) == key("second").public
    assert market.state.each(KeyRestore) == []
    assert market.refused("user-1", Withdraw(1, "bank")) == "bad_signature"
    market.ok(market.tx("user-1", Withdraw(1, "bank"), signer="second"))


def test_a_party_that_others_revoked_and_restored_goes_on_at_its_sequence() -> None:
    market = Market()
    market.send("user-1", Withdraw(1, "bank"))
    market.send("operator", RevokeKey("user-1"))
    market.send("operator", RestoreKey("user-1", key("second").public))
    market.send("grid", RestoreKey("user-1", key("second").public))
    market.ok()
    assert market.state.get(Party, "user-1").sequence == 1
    replay = market.tx("user-1", Withdraw(1, "bank"), sequence=1, signer="second")
    assert [r.code for r in market.block(replay).results] == ["replayed"]


# --- piles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["owner-1", "grid", "operator"])
def test_a_pile_is_retired_with_its_listings_and_its_capacity(sender: str) -> None:
    market = Market(2)
    market.offer("pile-1")
    market.offer("pile-2")
    market.ok()
    market.send(sender, RetirePile("pile-1"))
    assert closings(market.ok()) == ["cancelled"]
    assert [listing.pile for listing in market.state.each(Listing)] == ["pile-2"]
    zone = market.state.get(Zone, "north")
    assert (zone.rated_power_w, zone.capacity_wh) == (7000, 14_000)
    assert market.state.get(Pile, "pile-1").retired


def test_who_may_not_retire_what() -> None:
    market = Market(2)
    assert market.refused("owner-2", RetirePile("pile-1")) == "not_yours"
    assert market.refused("user-1", RetirePile("pile-1")) == "wrong_role"
    assert market.refused("owner-1", RetirePile("nothing")) == "unknown_pile"


def test_a_retired_pile_is_no_pile_any_more_and_its_name_and_key_are_nobodys() -> None:
    market = Market(2)
    market.submit(market.prove("pile-1", HEARTBEAT, [(NOW, 5)]))
    market.send("owner-1", RetirePile("pile-1"))
    market.ok()
    assert market.refused("owner-1", RetirePile("pile-1")) == "unknown_pile"
    assert market.refused("owner-1", List("pile-1", START, END, 1000, -1, False)) == "unknown_pile"
    bid = PlaceBid("north", "pile-1", 1000, START, END, 900_000, True, 0, False, False)
    assert market.refused("user-1", bid) == "unknown_pile"
    assert market.refused("operator", market.pile("pile-1", "owner-2")) == "exists"
    again = RegisterPile("pile-3", "owner-2", key("pile-1").public, "SDM630", "1", "north", 7000)
    assert market.refused("operator", again) == "exists"
    before = market.state.get(Pile, "pile-1")
    assert market.submit(market.prove("pile-1", HEARTBEAT, [(NOW, 6)])) == ["unknown_pile"]
    assert market.state.get(Pile, "pile-1") == before


def test_a_pile_with_an_open_contract_is_not_retired_until_it_is_closed() -> None:
    market = Market()
    market.signed()
    assert market.refused("owner-1", RetirePile("pile-1")) == "busy"
    market.submit(market.begin(), time_ms=START + 1000)
    assert market.contract().phase == ACTIVE
    assert market.refused("operator", RetirePile("pile-1")) == "busy"
    market.submit(market.end(END, 105_000, REASON_ENERGY_REACHED), time_ms=END)
    assert market.refused("owner-1", RetirePile("pile-1")) == "busy"
    market.confirm("user-1", "owner-1")
    market.send("owner-1", RetirePile("pile-1"))
    market.ok()
    assert market.state.get(Pile, "pile-1").retired


def test_a_pile_retired_in_the_block_of_a_match_is_not_matched() -> None:
    market = Market()
    market.offer()
    market.bid()
    market.send("owner-1", RetirePile("pile-1"))
    market.ok()
    assert (len(market.state.each(Bid)), market.state.contracts_on("pile-1")) == (1, [])
    assert closings(market.ok(time_ms=START + HOUR)) == ["expired"]
    assert market.holds() == {}


def test_bids_that_name_a_retired_pile_rest_until_they_expire() -> None:
    market = Market(2)
    market.bid(pile="pile-1")
    market.ok()
    market.send("owner-1", RetirePile("pile-1"))
    market.offer("pile-2")
    market.ok()
    assert len(market.state.each(Bid)) == 1
    market.ok(time_ms=START + HOUR)
    assert market.holds() == {}


def test_the_last_key_of_the_grid_or_of_the_operators_is_not_revoked() -> None:
    """Nobody could restore it: there would be no deposit and no tariff any more."""
    market = Market()
    for sender in ("operator", "grid"):
        assert market.refused(sender, RevokeKey("grid")) == "limit"
    market.send("operator", RegisterParty("grid-2", "grid", key("grid-2").public))
    market.ok()
    market.send("operator", RevokeKey("grid"))
    market.ok()
    assert market.refused("operator", RevokeKey("grid-2")) == "limit"
