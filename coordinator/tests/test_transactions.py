"""What each transaction is refused for, and in which order: the codes' documented precedence; what bounds a chain as a whole.

Whether any bytes and any fields get a typed refusal is test_fuzz.py's.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from every_phase import AT, FAR, EveryPhase, Traceless, every_phase
from world import END, HOUR, NOW, START, Market, key

from pile_coordinator.chain.records import Account, Contract, Dispute, KeyRestore, Party, Pile, Zone
from pile_coordinator.chain.rejections import CODES, Rejection
from pile_coordinator.chain.transactions import (
    BODIES,
    MAX_TX_BYTES,
    MAX_VALIDITY_BLOCKS,
    Body,
    CancelBid,
    CancelContract,
    CollectFees,
    Confirm,
    Deposit,
    List,
    Object,
    PayOut,
    PlaceBid,
    RefuseWithdrawal,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
    Rule,
    SetTariff,
    Sign,
    Unlist,
    Withdraw,
    decode_transaction,
    sign_transaction,
)
from pile_coordinator.chain.transition import check_tx
from pile_shared import cose
from pile_shared.platform import sha256
from pile_shared.topics import PARTY_LEVEL
from pile_shared.units import MAX_AMOUNT_MICRO

EVERY: EveryPhase = every_phase()
MARKET = EVERY.market
BID, LISTING, WITHDRAWAL, OPEN = EVERY.bid, EVERY.listing, EVERY.withdrawal, EVERY.contracts
VALID = EVERY.valid()
outcome_of = Traceless(MARKET).code


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
        "start": FAR,
        "end": NOW,
        "limit": 10**12,
        "market": False,
        "expires": FAR + HOUR,
        "divisible": False,
        "explicit": False,
    }
    envelope = {k: over.pop(k) for k in ("sequence", "valid_until_height", "chain_id", "signer") if k in over}
    values |= over
    return MARKET.raw(sender, kind, list(values.values()), **envelope)


ASTRAY = {"sequence": 99, "signer": "eve", "chain_id": "other", "valid_until_height": 1}
LADDER: list[tuple[str, Callable[[], bytes]]] = [
    ("oversized", lambda: b"\x00" * (MAX_TX_BYTES + 1)),
    ("malformed", lambda: MARKET.raw("nobody", "nonsense", {}, **ASTRAY)),
    ("unknown_type", lambda: bid("nobody", kind="nonsense", energy_wh=-1, **ASTRAY)),
    ("bounds", lambda: bid("nobody", energy_wh=-1, **ASTRAY)),
    ("wrong_chain", lambda: bid("nobody", **ASTRAY)),
    ("unknown_sender", lambda: bid("nobody", **ASTRAY | {"chain_id": MARKET.chain_id})),
    ("revoked", lambda: bid("gone-owner", **ASTRAY | {"chain_id": MARKET.chain_id})),
    ("bad_signature", lambda: bid("owner-1", sequence=99, signer="eve", valid_until_height=1)),
    ("expired", lambda: bid("owner-1", sequence=99, valid_until_height=1)),
    ("too_far", lambda: bid("owner-1", sequence=99, valid_until_height=MARKET.height + 2 + MAX_VALIDITY_BLOCKS)),
    ("replayed", lambda: bid("owner-1", sequence=1)),
    ("sequence_gap", lambda: bid("owner-1", sequence=99)),
    ("wrong_role", lambda: bid("owner-1")),
    ("unknown_zone", bid),
    ("unknown_pile", lambda: bid(zone="north")),
    ("window", lambda: bid(zone="north", pile="")),
    ("energy", lambda: bid(zone="north", pile="", end=FAR + HOUR)),
    ("funds", lambda: bid(zone="north", pile="", end=FAR + HOUR, energy_wh=1000)),
    ("ok", lambda: bid(zone="north", pile="", end=FAR + HOUR, energy_wh=1000, limit=700_000)),
]


@pytest.mark.parametrize(("code", "make"), LADDER, ids=[code for code, _ in LADDER])
def test_the_first_code_that_applies_is_given(code: str, make: Callable[[], bytes]) -> None:
    assert outcome_of(make()) == code


def test_the_ladder_follows_the_documented_order() -> None:
    ladder = [code for code, _ in LADDER][:-1]
    assert [code for code in CODES if code in ladder] == ladder
    assert sorted(set(CODES)) == sorted(CODES)


# What the second ladder is made of: everybody's transaction below the first ladder's codes. Each has two defects, one of
# each code of a pair of neighbours, and must name the first.
PAIRS: list[tuple[str, str, str, Body]] = [
    ("wrong_role", "unknown_party", "operator", Deposit("nobody", 1, "r")),  # not the treasury
    ("wrong_role", "unknown_withdrawal", "operator", PayOut(bytes(32), "r")),
    (
        "unknown_party",
        "exists",
        "operator",
        RegisterPile("pile-1", "nobody", key("pile-1").public, "m", "s", "north", 1),
    ),
    (
        "unknown_zone",
        "unknown_pile",
        "user-1",
        PlaceBid("nowhere", "no-pile", 100, NOW, NOW, 1, False, 0, False, False),
    ),
    ("unknown_pile", "window", "user-1", PlaceBid("south", "pile-1", 100, NOW, NOW, 1, False, 0, False, False)),
    ("unknown_pile", "window", "owner-1", List("no-pile", END, NOW, 100, -1, False)),
    ("unknown_withdrawal", "exists", "grid", PayOut(bytes(32), "u1")),
    ("unknown_contract", "not_yours", "user-1", Confirm(OPEN["closed"], bytes(32))),
    ("not_yours", "phase", "user-1", Confirm(OPEN["signed"], bytes(32))),
    ("not_yours", "window", "owner-1", List("pile-2", END, NOW, 100, -1, False)),
    ("not_yours", "busy", "owner-2", RetirePile("pile-1")),
    ("not_yours", "exists", "user-1", RevokeKey("gone-user")),
    ("window", "band", "owner-1", List("pile-1", END, NOW, 100, 1, False)),
    ("window", "energy", "user-1", PlaceBid("north", "", 150, NOW, NOW, 1, False, 0, False, False)),
    ("energy", "funds", "user-1", PlaceBid("north", "", 150, FAR, FAR + HOUR, 10**12, True, 0, False, False)),
    ("phase", "late", "user-3", CancelContract(OPEN["active"])),
    ("phase", "digest", "user-2", Confirm(OPEN["signed"], bytes(32))),
    ("not_yours", "phase", "owner-1", BODIES["answer"](OPEN["signed"], b"x")),
    ("phase", "evidence", "owner-4", BODIES["answer"](OPEN["measured"], b"x")),
]


@pytest.mark.parametrize(("first", "second", "sender", "body"), PAIRS)
def test_of_two_codes_the_first_is_given(first: str, second: str, sender: str, body: Body) -> None:
    assert CODES.index(first) < CODES.index(second)
    assert outcome_of(MARKET.tx(sender, body)) == first


def test_limit_comes_before_funds_and_after_band(monkeypatch: pytest.MonkeyPatch) -> None:
    poor = bid(zone="north", pile="", end=FAR + HOUR, energy_wh=1000)
    outside = MARKET.tx("owner-1", List("pile-1", NOW, END, 1000, 1, False))
    assert (outcome_of(poor), outcome_of(outside)) == ("funds", "band")
    monkeypatch.setattr("pile_coordinator.chain.orders.MAX_OPEN_ORDERS", 0)
    assert (outcome_of(poor), outcome_of(outside)) == ("limit", "band")


def test_a_code_outside_the_list_is_our_mistake() -> None:
    with pytest.raises(AssertionError):
        Rejection("no such code", "")


# --- what each type checks against the state

KEY = key("eve").public
YEAR = 366 * 24 * HOUR
WEEK = 7 * 24 * HOUR


def wish(**over: object) -> PlaceBid:
    """A bid that would be accepted, but for what is given."""
    good = PlaceBid(
        "north", "", 1000, FAR, FAR + HOUR, 700_000, market=True, expires_ms=0, divisible=False, explicit=False
    )
    return replace(good, **over)  # type: ignore[arg-type]


def offer(**over: object) -> List:
    """A listing that would be accepted, but for what is given."""
    return replace(List("pile-1", NOW, FAR, 1000, -1, explicit=False), **over)  # type: ignore[arg-type]


REFUSALS: list[tuple[str, Body, str]] = [
    ("operator", RegisterParty("user-1", "ev-owner", KEY), "exists"),
    ("operator", RegisterParty("eve", "ev-owner", key("user-1").public), "exists"),
    ("operator", RegisterParty("eve", "ev-owner", key("pile-1").public), "exists"),
    ("operator", RegisterParty("eve", "ev-owner", key("gone-user").public), "exists"),  # once used, never again
    ("user-1", RotateKey(key("user-1").public), "exists"),
    ("user-1", RotateKey(key("user-2").public), "exists"),
    ("user-1", RotateKey(key("pile-1").public), "exists"),
    ("user-1", RevokeKey("user-2"), "not_yours"),
    ("user-1", RevokeKey("user-1"), "ok"),
    ("grid", RevokeKey("gone-user"), "exists"),
    ("grid", RevokeKey("nobody"), "unknown_party"),
    ("grid", RestoreKey("nobody", KEY), "unknown_party"),
    ("grid", RestoreKey("user-1", KEY), "exists"),
    (
        "operator",
        RestoreKey("gone-owner", key("gone-owner").public),
        "ok",
    ),  # a first word; it is refused with the second
    ("operator", RegisterPile("pile-9", "nobody", KEY, "m", "s", "north", 1), "unknown_party"),
    ("operator", RegisterPile("pile-1", "owner-1", KEY, "m", "s", "north", 1), "exists"),
    ("operator", RegisterPile("pile-9", "owner-1", key("pile-1").public, "m", "s", "north", 1), "exists"),
    ("operator", RegisterPile("pile-9", "owner-1", key("user-1").public, "m", "s", "north", 1), "exists"),
    ("operator", RegisterPile(PARTY_LEVEL, "owner-1", KEY, "m", "s", "north", 1), "bounds"),
    ("owner-7", RetirePile("pile-9"), "unknown_pile"),
    ("owner-1", RetirePile("pile-7"), "not_yours"),
    ("operator", RetirePile("pile-7"), "ok"),
    ("operator", RetirePile("pile-1"), "busy"),
    ("grid", Deposit("nobody", 1, "r"), "unknown_party"),
    ("grid", Deposit("user-1", 1, "u1"), "exists"),
    ("grid", Deposit("gone-user", 1, "r"), "ok"),  # money that came is booked, whatever became of the key
    ("owner-1", Withdraw(10**9, "bank"), "funds"),
    ("grid", Withdraw(10**9, "bank"), "funds"),  # the grid may owe for energy, not for money
    ("grid", PayOut(BID, "r"), "unknown_withdrawal"),
    ("grid", PayOut(WITHDRAWAL, "u1"), "exists"),
    ("grid", RefuseWithdrawal(OPEN["signed"], "r"), "unknown_withdrawal"),
    ("grid", CollectFees("user-1", 1), "unknown_party"),
    ("grid", CollectFees("nobody", 1), "unknown_party"),
    ("grid", CollectFees("grid", 49_999), "ok"),  # one contract's fee has come in, and one micro was collected
    ("grid", CollectFees("grid", 50_000), "funds"),
    ("gone-grid", SetTariff(AT + HOUR, 0, [[0, "flat", 1, 1]]), "revoked"),
    ("grid", SetTariff(AT - 1, 0, [[0, "flat", 1, 1]]), "window"),
    ("grid", SetTariff(AT, 0, [[0, "flat", 1, 1]]), "ok"),
    ("grid", SetTariff(AT + YEAR, 0, [[0, "flat", 1, 1]]), "ok"),
    ("grid", SetTariff(AT + YEAR + 1, 0, [[0, "flat", 1, 1]]), "window"),
    ("owner-1", offer(), "ok"),
    ("owner-1", offer(pile="pile-2"), "not_yours"),
    ("owner-1", offer(pile="pile-9"), "unknown_pile"),
    ("owner-1", offer(window_start_ms=FAR), "window"),
    ("owner-1", offer(window_end_ms=AT), "window"),
    ("owner-1", offer(window_end_ms=AT + 1), "ok"),
    ("owner-1", offer(window_end_ms=AT + YEAR), "ok"),
    ("owner-1", offer(window_end_ms=AT + YEAR + 1), "window"),
    ("owner-1", offer(ask_micro_per_kwh=399_999), "band"),
    ("owner-1", offer(ask_micro_per_kwh=400_000), "ok"),
    ("owner-1", offer(ask_micro_per_kwh=1_300_000), "ok"),
    ("owner-1", offer(ask_micro_per_kwh=1_300_001), "band"),
    ("owner-2", Unlist(LISTING), "not_yours"),
    ("owner-1", Unlist(bytes(32)), "unknown_order"),
    ("owner-1", Unlist(BID), "unknown_order"),
    ("user-1", CancelBid(BID), "not_yours"),
    ("user-1", CancelBid(LISTING), "unknown_order"),
    ("user-1", wish(), "ok"),
    ("user-1", wish(zone="south", pile="pile-8"), "ok"),
    ("user-1", wish(zone="south", pile="pile-1"), "unknown_pile"),
    ("user-1", wish(window_end_ms=FAR + WEEK), "ok"),
    ("user-1", wish(window_end_ms=FAR + WEEK + 1), "window"),
    ("user-1", wish(window_end_ms=FAR), "window"),
    ("user-1", wish(window_start_ms=AT + YEAR - HOUR, window_end_ms=AT + YEAR), "ok"),
    ("user-1", wish(window_start_ms=AT + YEAR - HOUR, window_end_ms=AT + YEAR + 1), "window"),
    ("user-1", wish(window_start_ms=AT - HOUR, window_end_ms=END), "window"),  # the grace ends now: too late to begin
    ("user-1", wish(window_start_ms=AT - HOUR + 1, window_end_ms=END), "ok"),
    ("user-1", wish(market=False, expires_ms=FAR + HOUR), "ok"),
    ("user-1", wish(market=False, expires_ms=FAR + HOUR + 1), "window"),
    ("user-1", wish(market=False, expires_ms=AT + 1), "ok"),
    ("user-1", wish(market=False, expires_ms=AT), "window"),
    ("user-1", wish(energy_wh=150), "energy"),
    ("owner-2", CancelContract(OPEN["signed"]), "ok"),
    ("user-2", CancelContract(OPEN["signed"]), "late"),  # within the cut-off
    ("owner-1", CancelContract(OPEN["proposed"]), "ok"),
    ("owner-1", Sign(OPEN["proposed"]), "phase"),  # the owner did not ask to
    ("user-1", Sign(BID), "unknown_contract"),
    ("user-4", Confirm(OPEN["measured"], EVERY.digest("disputed")), "digest"),
    ("owner-4", Object(OPEN["measured"], "cause", 0, "no"), "ok"),
    ("owner-5", Object(OPEN["disputed"], "cause", 0, "no"), "phase"),  # once per contract
    ("owner-5", BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["disputed"], "owner-5")), "evidence"),
    ("owner-5", BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["measured"], "user-5")), "evidence"),
    ("owner-5", BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["disputed"], "user-5", action=1)), "evidence"),
    (
        "owner-5",
        BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["disputed"], "user-5", chain_id="other")),
        "evidence",
    ),
    ("owner-5", BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["disputed"], "user-5", purpose="tx")), "evidence"),
    ("owner-5", BODIES["answer"](OPEN["disputed"], b"x"), "evidence"),
    ("owner-4", BODIES["answer"](OPEN["disputed"], EVERY.stop(OPEN["disputed"], "user-5")), "not_yours"),
]


def shown(value: object) -> str:
    return repr(value)[:70]


@pytest.mark.parametrize(("sender", "body", "code"), REFUSALS, ids=shown)
def test_what_the_law_makes_of_it(sender: str, body: Body, code: str) -> None:
    assert outcome_of(MARKET.tx(sender, body)) == code


def test_the_second_word_is_refused_if_the_key_was_ever_used() -> None:
    market = Market()
    market.send("operator", RevokeKey("user-1"))
    market.send("grid", RestoreKey("user-1", key("user-1").public))
    market.ok()
    assert [
        r.code for r in market.block(market.tx("operator", RestoreKey("user-1", key("user-1").public))).results
    ] == ["exists"]
    assert market.state.get(KeyRestore, "user-1").by_role == "grid"


def test_only_so_many_arbiters_are_heard_in_one_dispute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pile_coordinator.chain.disputes.MAX_RULINGS", 1)
    every = every_phase()
    market, disputed = every.market, every.contracts["disputed"]
    market.send("auditor", Rule(disputed, 3000, "user"))
    market.send("auditor", Rule(disputed, 3000, "pile"))  # the last word of each counts, and there is room for it
    market.ok()
    assert [r.code for r in market.block(market.tx("arbiter", Rule(disputed, 3000, "user"))).results] == ["limit"]
    assert [ruling[3] for ruling in market.state.get(Dispute, disputed).rulings] == ["pile"]
    assert market.state.get(Contract, disputed).phase == "disputed"


def test_a_stake_that_cannot_be_paid_is_refused() -> None:
    market = Market(user_micro=5_000_000, objection_bond_micro=5_000_000)
    market.signed()
    market.submit(market.begin(), market.end(START + HOUR, 103_000, 1), time_ms=START + HOUR)
    objection = Object(market.contract().id, "energy", 5000, "no")
    assert [r.code for r in market.block(market.tx("user-1", objection)).results] == ["funds"]
    market.confirm("user-1")
    market.ok()
    assert [r.code for r in market.block(market.tx("user-1", objection)).results] == ["phase"], "before funds"


def test_a_retired_pile_is_gone_for_every_order() -> None:
    market = Market(2)
    market.send("owner-1", RetirePile("pile-1"))
    market.ok()
    again = [
        market.tx("owner-1", RetirePile("pile-1")),
        market.tx("owner-1", offer()),
        market.tx("user-1", wish(pile="pile-1")),
        market.tx("operator", RegisterPile("pile-1", "owner-1", KEY, "m", "s", "north", 1)),
        market.tx("operator", RegisterPile("pile-9", "owner-1", key("pile-1").public, "m", "s", "north", 1)),
    ]
    assert [r.code for r in market.block(*again).results] == ["unknown_pile"] * 3 + ["exists"] * 2
    assert market.state.get(Pile, "pile-1").retired


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
    monkeypatch.setattr("pile_coordinator.chain.orders.MAX_OPEN_ORDERS", 2)
    market = Market()
    first = market.bid(limit=1)
    market.bid(limit=1)
    market.bid(limit=1)
    assert [r.code for r in market.block().results] == ["ok", "ok", "limit"]
    market.send("user-1", CancelBid(first))
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
    forged = market.tx("odd", CancelBid(bytes(32)))
    assert [r.code for r in market.block(forged).results] == ["bad_signature"]


def test_a_key_id_that_is_not_the_senders_is_refused_even_if_the_signature_holds() -> None:
    market = Market()
    signer = cose.SoftwareSigner(sha256(b"grid"))
    signer.kid = bytes(8)
    body = Deposit("user-1", 5, "r")
    forged = sign_transaction(signer, market.chain_id, "grid", market.sequences["grid"] + 1, 100, body)
    assert [r.code for r in market.block(forged).results] == ["bad_signature"]
