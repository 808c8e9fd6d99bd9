"""Every transaction type with any content: a typed result, and a rejection changes nothing. Codes in their order."""

from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import END, HOUR, NOW, START, Market, bounded, key

from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import Account, Bid, Listing, Party, Zone
from pile_coordinator.chain.rejections import CODES, Rejection
from pile_coordinator.chain.transactions import (
    BODIES,
    MAX_TX_BYTES,
    MAX_VALIDITY_BLOCKS,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    decode_transaction,
    sign_transaction,
)
from pile_coordinator.chain.transition import MAX_AHEAD_MS, MAX_WINDOW_MS, apply_tx, check_tx
from pile_shared import cose
from pile_shared.platform import sha256
from pile_shared.units import MAX_AMOUNT_MICRO

SENDERS = ["grid", "operator", "auditor", "owner-1", "user-1", "nobody"]


def full_market() -> Market:
    """A market in which every kind of record exists: parties, piles, listings, a resting bid, an open contract."""
    market = Market(2, 2)
    market.offer("pile-1")
    market.offer("pile-2", ask=1_000_000)
    market.bid("user-1")
    market.bid("user-2", limit=1)
    market.ok()
    market.submit(market.begin(), time_ms=START + 2000)
    return market


MARKET = full_market()
BID, LISTING = MARKET.state.each(Bid)[0].id, MARKET.state.each(Listing)[0].id
VALID: dict[str, tuple[str, list]] = {  # a sender and fields that would be accepted
    "register-party": ("operator", ["eve", "ev-owner", key("eve").public]),
    "register-pile": ("operator", ["pile-9", "owner-1", key("pile-9").public, "SDM630", "9", "north", 7000]),
    "deposit": ("grid", ["user-1", 5, "payment 9"]),
    "list": ("owner-1", ["pile-1", NOW, NOW + HOUR, 1000, -1]),
    "unlist": (MARKET.state.get(Listing, LISTING).owner, [LISTING]),
    "bid": ("user-1", ["north", "", 1000, START, END, 700_000, False, END]),
    "cancel": ("user-2", [BID]),
    "proofs": ("operator", [[b"\x00"]]),
    "confirm": ("user-1", [MARKET.contract().id, bytes(32)]),
}

junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.sampled_from([0, 1, -1, 99, 1 << 53, NOW, START, END]),
        st.binary(max_size=70),
        st.text(max_size=40),
        st.sampled_from(["north", "pile-1", "owner-1", "user-1", "grid", ""]),
        st.sampled_from([BID, LISTING, bytes(32)]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def outcome_of(data: bytes) -> str:
    """The result's code; whatever it is, undoing it must leave no trace."""
    mark = MARKET.state.mark()
    journal = Journal()
    result = apply_tx(MARKET.state, MARKET.env(), journal, data)
    assert result.code in {"ok", *CODES}
    if result.code != "ok":
        assert MARKET.state.mark() == mark
        assert (journal.leaves, journal.receipts) == ([], {})
        assert result.message
    MARKET.state.roll_back(mark)
    assert MARKET.seal() == MARKET.root
    return result.code


def test_the_examples_are_accepted_or_nearly() -> None:
    assert set(VALID) == set(BODIES)
    codes = {kind: outcome_of(MARKET.raw(sender, kind, values)) for kind, (sender, values) in VALID.items()}
    assert codes == dict.fromkeys(VALID, "ok") | {"confirm": "phase"}


@given(st.sampled_from(sorted(VALID)), st.data())
@bounded(1500)
def test_any_field_may_hold_anything(kind: str, data: st.DataObject) -> None:
    sender, values = VALID[kind]
    values = list(values)
    for position in data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=3)):
        values[position] = data.draw(junk)
    outcome_of(MARKET.raw(sender, kind, values))


@given(
    st.sampled_from([*VALID, "nonsense"]) | junk,
    st.sampled_from(SENDERS),
    st.lists(junk, max_size=9) | junk,
    st.sampled_from([1, 2, 99]) | junk,
    st.sampled_from([50, 0]) | junk,
)
@bounded(800)
def test_any_envelope_may_hold_anything(
    kind: object, sender: str, values: object, sequence: object, until: object
) -> None:
    outcome_of(MARKET.raw(sender, kind, values, sequence=sequence, valid_until_height=until))


@given(st.binary(max_size=300))
@bounded(300)
def test_any_bytes_may_come(data: bytes) -> None:
    assert outcome_of(data) == "malformed"
    payload = cose.sign1(data, key("grid"), cose.purpose(cose.TRANSACTION, MARKET.chain_id))
    assert outcome_of(payload) != "ok"


@given(st.sampled_from(sorted(VALID)), st.integers(0, 400), st.integers(1, 255))
@bounded(500)
def test_no_byte_of_a_transaction_can_be_changed(kind: str, position: int, flip: int) -> None:
    sender, values = VALID[kind]
    changed = bytearray(MARKET.raw(sender, kind, values))
    changed[position % len(changed)] ^= flip
    assert outcome_of(bytes(changed)) != "ok"
    assert outcome_of(bytes(changed[: position % len(changed)])) != "ok"


@pytest.mark.parametrize("kind", sorted(VALID))
def test_only_the_roles_of_a_type_may_send_it(kind: str) -> None:
    _, values = VALID[kind]
    for sender in SENDERS[:-1]:
        code = outcome_of(MARKET.raw(sender, kind, values))
        allowed = MARKET.state.get(Party, sender).role in BODIES[kind].ROLES
        assert (code == "wrong_role") == (not allowed) or (kind, sender) == ("deposit", "operator")
    assert outcome_of(MARKET.raw("operator", "deposit", VALID["deposit"][1])) == "wrong_role"  # not the treasury


@pytest.mark.parametrize("kind", sorted(VALID))
def test_a_body_survives_its_bytes(kind: str) -> None:
    sender, values = VALID[kind]
    body = BODIES[kind](*values)
    tx = decode_transaction(sign_transaction(key(sender), "test", sender, 7, 9, body))
    assert (tx.body, tx.sender, tx.sequence, tx.valid_until_height, tx.chain_id) == (body, sender, 7, 9, "test")
    assert len(fields(body)) == len(values)


# --- precedence: each step has every defect of the steps below it, and must name its own


def bid(sender: str = "user-1", *, kind: str = "bid", **over: object) -> bytes:
    values = {
        "zone": "nowhere",
        "pile": "no-pile",
        "energy_wh": 1001,
        "start": START,
        "end": NOW,
        "limit": 10**12,
        "market": False,
        "expires": END,
    }
    envelope = {k: over.pop(k) for k in ("sequence", "valid_until_height", "chain_id", "signer") if k in over}
    values |= over
    return MARKET.raw(sender, kind, list(values.values()), **envelope)


FAR = {"sequence": 99, "signer": "eve", "chain_id": "other", "valid_until_height": 1}
LADDER: list[tuple[str, Callable[[], bytes]]] = [
    ("oversized", lambda: b"\x00" * (MAX_TX_BYTES + 1)),
    ("malformed", lambda: MARKET.raw("nobody", "nonsense", {}, **FAR)),
    ("unknown_type", lambda: bid("nobody", kind="nonsense", energy_wh=-1, **FAR)),
    ("bounds", lambda: bid("nobody", energy_wh=-1, **FAR)),
    ("wrong_chain", lambda: bid("nobody", **FAR)),
    ("unknown_sender", lambda: bid("nobody", **FAR | {"chain_id": MARKET.chain_id})),
    ("bad_signature", lambda: bid("owner-1", sequence=99, signer="eve", valid_until_height=1)),
    ("expired", lambda: bid("owner-1", sequence=99, valid_until_height=1)),
    ("too_far", lambda: bid("owner-1", sequence=99, valid_until_height=MARKET.height + 2 + MAX_VALIDITY_BLOCKS)),
    ("replayed", lambda: bid("owner-1", sequence=1)),
    ("sequence_gap", lambda: bid("owner-1", sequence=99)),
    ("wrong_role", lambda: bid("owner-1")),
    ("unknown_zone", bid),
    ("unknown_pile", lambda: bid(zone="north")),
    ("window", lambda: bid(zone="north", pile="")),
    ("energy", lambda: bid(zone="north", pile="", end=END)),
    ("funds", lambda: bid(zone="north", pile="", end=END, energy_wh=1000)),
    ("ok", lambda: bid(zone="north", pile="", end=END, energy_wh=1000, limit=700_000)),
]


@pytest.mark.parametrize(("code", "make"), LADDER, ids=[code for code, _ in LADDER])
def test_the_first_code_that_applies_is_given(code: str, make: Callable[[], bytes]) -> None:
    assert outcome_of(make()) == code


def test_the_ladder_follows_the_documented_order() -> None:
    ladder = [code for code, _ in LADDER][:-1]
    assert [code for code in CODES if code in ladder] == ladder
    assert sorted(set(CODES)) == sorted(CODES)


def test_limit_comes_before_funds(monkeypatch: pytest.MonkeyPatch) -> None:
    poor = bid(zone="north", pile="", end=END, energy_wh=1000)
    assert outcome_of(poor) == "funds"
    monkeypatch.setattr("pile_coordinator.chain.transition.MAX_OPEN_ORDERS", 0)
    assert outcome_of(poor) == "limit"


def test_a_code_outside_the_list_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        Rejection("no such code", "")


# --- what each type checks against the state

KEY = key("eve").public
REFUSALS = [
    ("operator", RegisterParty("user-1", "ev-owner", KEY), "exists"),
    ("operator", RegisterParty("eve", "ev-owner", key("user-1").public), "exists"),
    ("operator", RegisterPile("pile-9", "nobody", KEY, "m", "s", "north", 1), "unknown_party"),
    ("operator", RegisterPile("pile-1", "owner-1", KEY, "m", "s", "north", 1), "exists"),
    ("operator", RegisterPile("pile-9", "owner-1", key("pile-1").public, "m", "s", "north", 1), "exists"),
    ("grid", Deposit("nobody", 1, "r"), "unknown_party"),
    ("grid", Deposit("user-1", 1, "u1"), "exists"),
    ("owner-1", List("pile-2", NOW, END, 1000, -1), "not_yours"),
    ("owner-1", List("pile-9", NOW, END, 1000, -1), "unknown_pile"),
    ("owner-1", List("pile-1", END, END, 1000, -1), "window"),
    ("owner-1", List("pile-1", NOW - HOUR, NOW, 1000, -1), "window"),
    ("owner-1", List("pile-1", NOW, NOW + 2 * MAX_AHEAD_MS, 1000, -1), "window"),
    ("owner-2", BODIES["unlist"](LISTING), "not_yours"),
    ("owner-1", BODIES["unlist"](bytes(32)), "unknown_order"),
    ("owner-1", BODIES["unlist"](BID), "unknown_order"),
    ("user-1", BODIES["cancel"](BID), "not_yours"),
    ("user-1", BODIES["cancel"](LISTING), "unknown_order"),
    ("user-1", PlaceBid("north", "", 1000, START, START + MAX_WINDOW_MS + 1, 1, True, 0), "window"),
    ("user-1", PlaceBid("north", "", 1000, START, START, 1, True, 0), "window"),
    ("user-1", PlaceBid("north", "", 1000, START, END, 1, False, END + 1), "window"),
    ("user-1", PlaceBid("north", "", 1000, START, END, 1, False, START), "window"),  # START has passed
    ("user-1", PlaceBid("north", "", 1000, START - 2 * HOUR, END, 1, True, 0), "window"),  # too late to begin
    ("user-1", PlaceBid("north", "", 150, START, END, 1, True, 0), "energy"),
]


@pytest.mark.parametrize(("sender", "body", "code"), REFUSALS)
def test_refusals(sender: str, body: object, code: str) -> None:
    if sender == "owner-2" and MARKET.state.get(Listing, LISTING).owner == "owner-2":
        sender = "owner-1"
    assert outcome_of(MARKET.tx(sender, body)) == code


def test_a_replay_changes_nothing_and_a_rejected_transaction_may_be_sent_again() -> None:
    market = Market()
    deposit = market.tx("grid", Deposit("user-1", 5, "again"))
    early = market.tx("grid", Deposit("nobody-yet", 5, "early"), sequence=market.sequences["grid"] + 1)
    outcome = market.block(early, deposit, deposit)
    assert [r.code for r in outcome.results] == ["unknown_party", "ok", "replayed"]


def test_sequences_count_within_a_block() -> None:
    market = Market()
    at = market.sequences["grid"]
    txs = [market.tx("grid", Deposit("user-1", 5, f"n{i}"), sequence=at + i) for i in (1, 2, 4, 3, 3)]
    codes = [r.code for r in market.block(*txs).results]
    assert codes == ["ok", "ok", "sequence_gap", "ok", "replayed"]
    assert market.state.get(Party, "grid").sequence == at + 3


def test_what_waits_may_be_ahead_of_its_turn_but_not_behind() -> None:
    market = Market()
    ahead = market.tx("grid", Deposit("user-1", 5, "a"), sequence=50)
    assert check_tx(market.state, market.env(), ahead).sequence == 50
    with pytest.raises(Rejection) as caught:
        check_tx(market.state, market.env(), market.tx("grid", Deposit("user-1", 5, "a"), sequence=1))
    assert caught.value.code == "replayed"


def test_open_orders_are_bounded_and_counted_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pile_coordinator.chain.transition.MAX_OPEN_ORDERS", 2)
    market = Market()
    first = market.bid(limit=1)
    market.bid(limit=1)
    market.bid(limit=1)
    assert [r.code for r in market.block().results] == ["ok", "ok", "limit"]
    market.send("user-1", BODIES["cancel"](first))
    market.bid(limit=1)
    market.ok()
    market.ok(time_ms=END)
    assert market.state.get(Party, "user-1").open_orders == 0


def test_all_money_of_a_chain_stays_inside_64_bits() -> None:
    market = Market()
    most = MAX_AMOUNT_MICRO // 1000
    market.state.put(Account("X", 1 - MAX_AMOUNT_MICRO))
    market.state.put(Account("P:grid", MAX_AMOUNT_MICRO - 1 - market.money("user-1") - market.money("owner-1")))
    market.seal()
    assert [r.code for r in market.block(market.tx("grid", Deposit("user-1", most, "r"))).results] == ["limit"]
    assert [r.code for r in market.block(market.tx("grid", Deposit("user-1", 1, "r"))).results] == ["ok"]


def test_a_zone_without_load_keeps_its_price_when_piles_join() -> None:
    market = Market()
    market.send("operator", market.pile("pile-9", "owner-1"))
    market.ok()
    assert market.state.get(Zone, "north").rated_power_w == 14_000


def test_a_party_with_a_key_off_the_curve_can_only_fail() -> None:
    market = Market()
    market.send("operator", RegisterParty("odd", "ev-owner", b"\x04" + b"\x01" * 64))
    market.ok()
    forged = market.tx("odd", BODIES["cancel"](bytes(32)))
    assert [r.code for r in market.block(forged).results] == ["bad_signature"]


def test_a_key_id_that_is_not_the_senders_is_refused_even_if_the_signature_holds() -> None:
    market = Market()
    signer = cose.SoftwareSigner(sha256(b"grid"))
    signer.kid = bytes(8)
    body = Deposit("user-1", 5, "r")
    forged = sign_transaction(signer, market.chain_id, "grid", market.sequences["grid"] + 1, 100, body)
    assert [r.code for r in market.block(forged).results] == ["bad_signature"]
