"""Disputes: who may object, how each basis ends one, and exactly what winner and loser have then.

5 kWh at an ask of 0.70, catalog 0.65 and 0.40, fee 0.05: the escrow is 3.90, the owner's bond 0.65.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import HOUR, NOW, START, Market, bounded, closings, key, leaf_of, statements

from pile_coordinator.chain import disputes
from pile_coordinator.chain.records import DISPUTED, Contract, Dispute, Tally, Zone
from pile_coordinator.chain.settlement import Statement, Verdict
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Answer,
    Confirm,
    Object,
    RegisterParty,
    RestoreKey,
    RevokeKey,
    RotateKey,
    Rule,
    Withdraw,
)
from pile_coordinator.chain.transition import Outcome
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.proof import REASON_METER_SILENT, REASON_USER
from pile_shared.terms import LEAF_SETTLEMENT
from pile_shared.units import MAX_ENERGY_WH

ASK, CATALOG, BUYING, FEE = 700_000, 650_000, 400_000, 50_000
C, O_COST = 5 * ASK, ASK // 2
ESCROW, BOND = C + O_COST + FEE, 650_000
HAD = (1_000_000_000, 100_000_000, 0, 0)  # what a market's parties begin with
WINDOW = 48 * HOUR

# What U, H, G and F gain by a journal, before any objection bond.
FULL = (-C - FEE, C, 0, FEE)
USERS_3 = (-C + 2 * BUYING - FEE, C, -2 * BUYING, FEE)  # 3 kWh, and it was the user
PILES_3 = (-3 * ASK - FEE, 3 * ASK, 0, FEE)


def settled(energy: int = 3000, reason: int = REASON_USER, *, ask: int = ASK, **params: object) -> Market:
    market = Market(2, 2, **params)  # type: ignore[arg-type]
    market.offer(ask=ask, end=NOW + 200 * HOUR)
    market.bid()
    market.ok()
    market.measured(energy=energy, reason=reason)
    return market


def disputed(
    side: str = "user",
    ground: str = "cause",
    energy: int = 3000,
    reason: int = REASON_USER,
    **params: object,
) -> Market:
    market = settled(energy, reason, **params)
    market.send(f"{side}-1", Object(market.contract().id, ground, 1000, "no"))
    market.ok()
    assert market.contract().phase == DISPUTED
    return market


def arbiters(market: Market, count: int) -> None:
    for i in range(1, count + 1):
        market.send("operator", RegisterParty(f"judge-{i}", "third-party", key(f"judge-{i}").public))
    market.ok()


def rules(market: Market, arbiter: str, energy: int, cause: str, **over: object) -> Outcome:
    return market.ok(market.tx(arbiter, Rule(market.contract().id, energy, cause), **over))


def times_out(market: Market) -> Outcome:
    return market.ok(time_ms=market.contract().deadline_ms)


def last_statement(outcome: Outcome) -> Statement:
    (statement,) = statements(outcome)
    return statement


def plus(gains: tuple[int, ...], to_user: int) -> tuple[int, ...]:
    """With an amount moved from the owner to the user."""
    user, owner, *rest = gains
    return user + to_user, owner - to_user, *rest


def assert_resolved(market: Market, outcome: Outcome, gains: tuple[int, ...]) -> None:
    assert closings(outcome) == ["resolved"]
    assert market.gains(HAD) == gains
    assert market.holds() == {}
    assert (market.state.each(Contract), market.state.each(Dispute)) == ([], [])


# --- who may object --------------------------------------------------------------------------------------------------


def test_who_may_object_to_what() -> None:
    market = settled()
    body = Object(market.contract().id, "cause", 0, "no")
    assert market.refused("user-2", body) == "not_yours"
    assert market.refused("owner-2", body) == "not_yours"
    assert market.refused("auditor", body) == "wrong_role"
    assert market.refused("user-1", Object(bytes(32), "cause", 0, "no")) == "unknown_contract"
    signed = Market()
    signed.signed()
    assert signed.refused("user-1", Object(signed.contract().id, "cause", 0, "no")) == "phase"
    signed.submit(signed.begin(), time_ms=START + 1000)
    assert signed.refused("user-1", Object(signed.contract().id, "cause", 0, "no")) == "phase"


def test_who_has_confirmed_cannot_object_the_other_still_can() -> None:
    for one, other in (("user", "owner"), ("owner", "user")):
        market = settled()
        market.confirm(f"{one}-1")
        market.ok()
        body = Object(market.contract().id, "energy", 0, "no")
        assert market.refused(f"{one}-1", body) == "phase"
        market.send(f"{other}-1", body)
        market.ok()
        assert market.contract().phase == DISPUTED


def test_an_objection_is_made_once_and_stops_confirmations() -> None:
    market = disputed()
    contract = market.contract()
    for side in ("user-1", "owner-1"):
        assert market.refused(side, Object(contract.id, "energy", 0, "again")) == "phase"
        assert market.refused(side, Confirm(contract.id, bytes(32))) == "phase"


def test_the_last_moment_to_object() -> None:
    for late in (False, True):
        market = settled()
        contract = market.contract()
        tx = market.tx("user-1", Object(contract.id, "energy", 0, "no"))
        outcome = market.block(tx, time_ms=contract.deadline_ms - (not late))
        assert [r.code for r in outcome.results] == (["unknown_contract"] if late else ["ok"])
        if not late:
            assert closings(market.ok(time_ms=contract.deadline_ms)) == [], "the settlement waits"


def test_an_objection_must_be_paid_for() -> None:
    market = settled(objection_bond_micro=1_000_000)
    market.send("user-1", Withdraw(market.money("user-1") - 999_999, "bank"))
    market.ok()
    body = Object(market.contract().id, "cause", 0, "no")
    assert market.refused("user-1", body) == "funds"
    assert market.contract().phase == "measured"
    market = settled(objection_bond_micro=1_000_000)
    market.send("user-1", Withdraw(market.money("user-1") - 1_000_000, "bank"))
    market.send("user-1", Object(market.contract().id, "cause", 0, "no"))
    market.ok()
    assert (market.money("user-1"), market.contract().phase) == (0, DISPUTED)


# --- rulings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stake", [0, 1, 100_000, BOND, BOND + 1, 5_000_000])
def test_a_user_who_wins_gets_the_bond_back_and_as_much_from_the_owners(stake: int) -> None:
    market = disputed("user", "energy", 5000, objection_bond_micro=stake)
    outcome = rules(market, "auditor", 3000, "pile")
    assert_resolved(market, outcome, plus(PILES_3, min(stake, BOND)))


@pytest.mark.parametrize("stake", [0, 1, 100_000, O_COST, O_COST + 1, 5_000_000])
def test_an_owner_who_wins_gets_the_bond_back_and_as_much_from_the_users_escrow(stake: int) -> None:
    market = disputed("owner", "energy", 3000, REASON_METER_SILENT, objection_bond_micro=stake)
    outcome = rules(market, "auditor", 5000, "user")
    assert_resolved(market, outcome, plus(FULL, -min(stake, O_COST)))


@pytest.mark.parametrize("side", ["user", "owner"])
@pytest.mark.parametrize("ground", ["energy", "cause"])
def test_who_is_not_better_off_by_the_ruling_loses_the_bond(side: str, ground: str) -> None:
    stake = 5_000_000
    sign = -1 if side == "user" else 1
    market = disputed(side, ground)
    assert_resolved(market, rules(market, "auditor", 3000, "user"), plus(USERS_3, sign * stake))
    market = disputed(side, ground, reason=REASON_METER_SILENT)
    assert_resolved(market, rules(market, "auditor", 3000, "pile"), plus(PILES_3, sign * stake))


def test_an_objector_whom_the_ruling_leaves_worse_off_gets_that_and_loses_the_bond() -> None:
    market = disputed("user", "energy", 3000, REASON_METER_SILENT)
    assert_resolved(market, rules(market, "auditor", 3000, "user"), plus(USERS_3, -5_000_000))
    market = disputed("owner", "energy", 5000)
    assert_resolved(market, rules(market, "auditor", 3000, "pile"), plus(PILES_3, 5_000_000))


def test_the_bond_of_an_owner_who_owes_for_the_rest_elsewhere_pays_that_first() -> None:
    """At an ask of 0.40 the missing 2 kWh cost 0.50 more elsewhere; of the bond of 0.65 only 0.15 are left for the winner."""
    market = disputed("user", "cause", ask=400_000)
    missing = 2 * (CATALOG - 400_000)
    gains = plus((-3 * 400_000 - FEE, 3 * 400_000, 0, FEE), missing)
    assert_resolved(market, rules(market, "auditor", 3000, "pile"), plus(gains, BOND - missing))


def test_no_ruling_costs_more_than_the_escrow_whatever_energy_it_names() -> None:
    """What the pile let through beyond Q + O is unpaid, so an owner gains nothing by it, and loses the objection."""
    market = disputed("owner", "energy", 5000)
    outcome = rules(market, "auditor", MAX_ENERGY_WH, "pile")
    provided = 500 * CATALOG // 1000
    assert_resolved(market, outcome, plus((-C - provided - FEE, C, provided, FEE), 5_000_000))
    assert market.state.get(Tally, "tally").unpaid_wh == MAX_ENERGY_WH - 5500


def test_the_cause_counts_only_where_too_little_was_metered() -> None:
    for energy, cause in ((4900, "none"), (5100, "none"), (5101, "none"), (4899, "pile")):
        market = disputed("user", "energy", 5000)
        assert last_statement(rules(market, "auditor", energy, "pile")).cause == cause


def test_it_takes_as_many_arbiters_as_genesis_says_who_say_the_same() -> None:
    market = disputed("user", "energy", rulings_needed=2)
    arbiters(market, 3)
    market.send("operator", RegisterParty("umpire", "third-party", key("umpire").public))
    market.ok()
    for arbiter, energy, cause in [
        ("judge-1", 4000, "pile"),
        ("judge-1", 4000, "pile"),  # saying it twice is saying it once
        ("judge-2", 4000, "user"),  # another cause
        ("judge-3", 4001, "pile"),  # another energy
    ]:
        assert closings(rules(market, arbiter, energy, cause)) == []
    assert len(market.state.get(Dispute, market.contract().id).rulings) == 3
    outcome = rules(market, "judge-3", 4000, "pile")  # changes its word
    statement = last_statement(outcome)
    assert (statement.measured_wh, statement.cause) == (4000, "pile")
    named = tuple((name, key(name).public) for name in ("judge-1", "judge-3"))
    assert statement.verdict == Verdict("U", 5_000_000, "ruling", named)
    assert closings(outcome) == ["resolved"]


def test_a_word_that_was_taken_back_does_not_count() -> None:
    market = disputed("user", "energy", rulings_needed=2)
    arbiters(market, 2)
    rules(market, "judge-1", 4000, "pile")
    rules(market, "judge-1", 3000, "user")
    assert closings(rules(market, "judge-2", 4000, "pile")) == []
    assert closings(rules(market, "judge-2", 3000, "user")) == ["resolved"]


def test_a_verdict_names_the_keys_that_arbiters_ruled_with() -> None:
    market = disputed("user", "energy", rulings_needed=3)
    arbiters(market, 3)
    rules(market, "judge-1", 4000, "pile")
    rules(market, "judge-2", 4000, "pile")
    market.send("judge-1", RotateKey(key("new").public))
    market.send("operator", RevokeKey("judge-2"))
    market.ok()
    assert market.refused("judge-2", Rule(market.contract().id, 4000, "pile")) == "revoked"
    statement = last_statement(rules(market, "judge-3", 4000, "pile"))
    assert statement.verdict is not None
    assert statement.verdict.arbiters == tuple((f"judge-{i}", key(f"judge-{i}").public) for i in (1, 2, 3))

    market = disputed("user", "energy", rulings_needed=2)
    arbiters(market, 2)
    rules(market, "judge-1", 4000, "pile")
    market.send("judge-1", RotateKey(key("new").public))
    market.ok()
    rules(market, "judge-1", 4000, "pile", signer="new")  # said again with the new key
    statement = last_statement(rules(market, "judge-2", 4000, "pile"))
    assert statement.verdict is not None
    assert statement.verdict.arbiters[0] == ("judge-1", key("new").public)


def test_who_rules_what() -> None:
    market = settled()
    contract = market.contract().id
    assert market.refused("auditor", Rule(contract, 0, "pile")) == "phase"
    market.send("user-1", Object(contract, "cause", 0, "no"))
    market.ok()
    for sender in ("grid", "operator", "user-1", "owner-1"):
        assert market.refused(sender, Rule(contract, 0, "pile")) == "wrong_role"
    assert market.refused("auditor", Rule(bytes(32), 0, "pile")) == "unknown_contract"


def test_a_dispute_hears_a_bounded_number_of_arbiters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes, "MAX_RULINGS", 2)
    market = disputed("user", "energy", rulings_needed=2)
    arbiters(market, 3)
    rules(market, "judge-1", 1, "pile")
    rules(market, "judge-2", 2, "pile")
    assert market.refused("judge-3", Rule(market.contract().id, 1, "pile")) == "limit"
    assert closings(rules(market, "judge-2", 1, "pile")) == ["resolved"], "who was heard may still change its word"


def test_the_largest_verdict_fits_its_record_and_its_statement() -> None:
    """32 arbiters with the longest names are heard, 16 of them decide."""
    market = disputed("user", "energy", rulings_needed=16)
    names = [f"{i:02}".ljust(32, "x") for i in range(32)]
    for name in names:
        market.send("operator", RegisterParty(name, "third-party", key(name).public))
    market.ok()
    for i, name in enumerate(names[:16]):
        rules(market, name, MAX_ENERGY_WH - 1 - i, "pile")
    for name in names[16:31]:
        rules(market, name, MAX_ENERGY_WH, "user")
    outcome = rules(market, names[31], MAX_ENERGY_WH, "user")
    statement = last_statement(outcome)
    assert statement.verdict is not None
    assert [name for name, _ in statement.verdict.arbiters] == names[16:]
    assert closings(outcome) == ["resolved"]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_the_stop_command_that_the_user_signed_answers_an_objection_to_the_cause() -> None:
    market = disputed()
    market.send("owner-1", Answer(market.contract().id, market.stop(market.contract().id)))
    outcome = market.ok()
    assert last_statement(outcome).verdict == Verdict("U", 5_000_000, "answer", ())
    assert_resolved(market, outcome, plus(USERS_3, -5_000_000))


def test_it_is_the_key_in_the_contract_that_signs_it_whatever_key_the_user_has_now() -> None:
    market = disputed()
    contract = market.contract().id
    market.send("user-1", RotateKey(key("new").public))
    market.ok()
    assert market.refused("owner-1", Answer(contract, market.stop(contract, signer="new"))) == "evidence"
    market.send("owner-1", Answer(contract, market.stop(contract)))
    assert closings(market.ok()) == ["resolved"]


def test_what_is_no_stop_command_of_the_user() -> None:
    market = disputed()
    contract = market.contract().id
    other_chain = cose.sign1(
        encode([contract, 2, bytes(8), NOW]), key("user-1"), cose.purpose(cose.SESSION, "test-00000000")
    )
    other_purpose = cose.sign1(
        encode([contract, 2, bytes(8), NOW]), key("user-1"), cose.purpose(cose.QUERY, market.chain_id)
    )
    short = cose.sign1(encode([contract, 2, bytes(8)]), key("user-1"), cose.purpose(cose.SESSION, market.chain_id))
    good = market.stop(contract)
    for stop in (
        b"x",
        good[:-1],
        good[:-1] + bytes([good[-1] ^ 1]),
        market.stop(contract, action=1),  # a start
        market.stop(contract, signer="owner-1"),
        market.stop(bytes(32)),
        other_chain,
        other_purpose,
        short,
    ):
        assert market.refused("owner-1", Answer(contract, stop)) == "evidence", stop
    market.send("owner-1", Answer(contract, good))
    market.ok()


def test_who_answers_what() -> None:
    for side, ground in (("user", "energy"), ("owner", "cause"), ("owner", "energy")):
        market = disputed(side, ground)
        contract = market.contract().id
        assert market.refused("owner-1", Answer(contract, market.stop(contract))) == "phase"
    market = disputed()
    contract = market.contract().id
    assert market.refused("owner-2", Answer(contract, market.stop(contract))) == "not_yours"
    assert market.refused("user-1", Answer(contract, market.stop(contract))) == "wrong_role"
    assert market.refused("owner-1", Answer(bytes(32), market.stop(contract))) == "unknown_contract"
    market = settled()
    contract = market.contract().id
    assert market.refused("owner-1", Answer(contract, market.stop(contract))) == "phase"


# --- timeouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "ground", "reason", "gains", "to_user"),
    [
        ("user", "energy", REASON_USER, USERS_3, -5_000_000),
        ("owner", "energy", REASON_USER, USERS_3, 5_000_000),
        ("owner", "cause", REASON_METER_SILENT, PILES_3, 5_000_000),
        ("user", "cause", REASON_METER_SILENT, PILES_3, -5_000_000),  # it was the pile's already
        ("user", "cause", REASON_USER, PILES_3, BOND),  # contested and not co-signed: the pile's
    ],
)
def test_undecided_in_time(side: str, ground: str, reason: int, gains: tuple[int, ...], to_user: int) -> None:
    market = disputed(side, ground, reason=reason)
    contract = market.contract()
    assert contract.deadline_ms == market.time_ms + WINDOW
    assert closings(market.ok(time_ms=contract.deadline_ms - 1)) == []
    outcome = times_out(market)
    verdict = last_statement(outcome).verdict
    assert verdict == Verdict("U" if side == "user" else "H", 5_000_000, "timeout", ())
    assert_resolved(market, outcome, plus(gains, to_user))


def test_a_cause_contested_within_tolerance_is_nobodys() -> None:
    market = disputed("user", "cause", 4950)
    paid = -(-4950 * ASK // 1000)
    assert_resolved(market, times_out(market), plus((-paid - FEE, paid, 0, FEE), -5_000_000))


def test_too_few_rulings_are_none() -> None:
    market = disputed("user", "energy", rulings_needed=2)
    rules(market, "auditor", 0, "pile")
    outcome = times_out(market)
    assert last_statement(outcome).measured_wh == 3000
    assert_resolved(market, outcome, plus(USERS_3, -5_000_000))


def test_nothing_is_said_after_the_end() -> None:
    market = disputed()
    contract = market.contract()
    late = [
        market.tx("auditor", Rule(contract.id, 0, "pile")),
        market.tx("owner-1", Answer(contract.id, market.stop(contract.id))),
    ]
    outcome = market.block(*late, time_ms=contract.deadline_ms)
    assert [r.code for r in outcome.results] == ["unknown_contract", "unknown_contract"]
    assert closings(outcome) == ["resolved"]


def test_a_dispute_window_of_nothing_ends_it_in_the_next_block() -> None:
    market = disputed(dispute_window_ms=0)
    assert_resolved(market, market.ok(time_ms=market.time_ms), plus(PILES_3, BOND))


def test_a_dispute_ends_though_all_keys_are_revoked() -> None:
    market = disputed()
    for party in ("user-1", "owner-1", "auditor"):
        market.send("operator", RevokeKey(party))
    market.ok()
    assert_resolved(market, times_out(market), plus(PILES_3, BOND))
    market.send("operator", RestoreKey("user-1", key("new").public))
    market.send("grid", RestoreKey("user-1", key("new").public))
    market.ok()


# --- all of them -----------------------------------------------------------------------------------------------------


def test_the_load_of_a_disputed_contract_stays_until_it_is_resolved() -> None:
    market = disputed(ask=AT_MARKET)
    assert market.state.get(Zone, "north").open_wh == 5000
    rules(market, "auditor", 3000, "pile")
    assert market.state.get(Zone, "north").open_wh == 0


def test_both_settlements_are_leaves_and_the_second_says_how_it_came_about() -> None:
    market = disputed()
    outcome = times_out(market)
    (leaf,) = [leaf_of(leaf) for leaf in outcome.leaves if leaf_of(leaf)[0] == LEAF_SETTLEMENT]
    assert leaf[1] == last_statement(outcome).encoded()
    assert last_statement(outcome).verdict is not None


def net(energy: int, cause: str) -> tuple[int, int]:
    """What the user and the owner gain by a journal, from the guide's table."""
    if abs(energy - 5000) <= 100:
        paid = -(-energy * ASK // 1000)
        return -paid - FEE, paid
    if energy > 5000:
        return -C - -(-(min(energy, 5500) - 5000) * CATALOG // 1000) - FEE, C
    if cause == "user":
        return -C + -(-(5000 - energy) * BUYING // 1000) - FEE, C
    paid = -(-energy * ASK // 1000)
    return -paid - FEE, paid


@given(
    st.sampled_from(["user", "owner"]),
    st.sampled_from(["energy", "cause"]),
    st.integers(0, 6000),
    st.sampled_from([REASON_USER, REASON_METER_SILENT]),
    st.sampled_from([0, 1, 300_000, 5_000_000]),
    st.one_of(st.none(), st.tuples(st.integers(0, 7000), st.sampled_from(["user", "pile"]))),
)
@bounded(150)
def test_winner_and_loser_have_what_the_guide_says(
    side: str, ground: str, energy: int, reason: int, stake: int, ruling: tuple[int, str] | None
) -> None:
    market = disputed(side, ground, energy, reason, objection_bond_micro=stake)
    first = net(energy, "user" if reason == REASON_USER else "pile")
    if ruling is None:
        contested = ground == "cause" and side == "user"
        user, owner = net(energy, "pile" if contested or reason != REASON_USER else "user")
        times_out(market)
    else:
        user, owner = net(*ruling)
        rules(market, "auditor", *ruling)
    mine = 0 if side == "user" else 1
    left_for_loser = BOND if side == "user" else ESCROW + user
    to_winner = min(stake, left_for_loser) if (user, owner)[mine] > first[mine] else -stake
    to_user = to_winner if side == "user" else -to_winner
    assert market.gains(HAD)[:2] == (user + to_user, owner - to_user)
    assert sum(market.gains(HAD)) == 0
    assert market.holds() == {}


def test_arbiters_who_name_a_cause_where_nothing_is_missing_agree() -> None:
    """Within the tolerance there is no cause: two who say the same energy say the same."""
    market = disputed("user", "energy", rulings_needed=2)
    market.send("operator", RegisterParty("judge", "third-party", key("judge").public))
    market.ok()
    energy = market.terms().energy_wh
    rules(market, "auditor", energy, "pile")
    assert closings(rules(market, "judge", energy, "user")) == ["resolved"]
