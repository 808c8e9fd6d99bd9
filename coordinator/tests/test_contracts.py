"""The life of a contract, one path per row of the table in the ledger guide, "Contract"."""

import pytest
from world import END, HOUR, START, Market, closings, statements

from pile_coordinator.chain import settlement
from pile_coordinator.chain.contracts import begin_until_ms
from pile_coordinator.chain.records import ACTIVE, MEASURED, SIGNED, Contract, Zone
from pile_coordinator.chain.settlement import CAUSE_NONE, CAUSE_PILE, CAUSE_USER, decode_statement
from pile_coordinator.chain.transactions import Confirm
from pile_shared.platform import sha256
from pile_shared.proof import (
    ALARM,
    BEGIN,
    HEARTBEAT,
    REASON_ENERGY_REACHED,
    REASON_METER_SILENT,
    REASON_PILE_FAULT,
    REASON_USER,
    proof_hash,
)

DONE = START + HOUR * 5 // 7  # when 5 kWh at 7 kW are through
UNTIL = START + HOUR  # window start plus the begin grace
BOND = 650_000


def money(market: Market) -> tuple[int, int, int, int]:
    return market.money("user-1"), market.money("owner-1"), market.money("grid"), market.state.balance_micro("F")


def gains(market: Market, before: tuple[int, int, int, int]) -> tuple[int, ...]:
    return tuple(now - then for now, then in zip(money(market), before, strict=True))


def heartbeat(market: Market, time_ms: int, energy: int = 100_000) -> bytes:
    return market.prove("pile-1", HEARTBEAT, [(time_ms, energy)])


def measured(reason: int = REASON_ENERGY_REACHED, energy: int = 5000) -> tuple[Market, tuple[int, int, int, int]]:
    """A market whose contract is measured, and everybody's money before it was signed."""
    market = Market()
    before = money(market)
    market.signed()
    market.submit(market.begin(), market.end(DONE, 100_000 + energy, reason), time_ms=DONE + 1000)
    assert market.contract().phase == MEASURED
    return market, before


def test_signing_freezes_terms_and_puts_up_escrow_and_bond() -> None:
    market = Market()
    before = money(market)
    contract = market.signed()
    terms = market.terms()
    assert (contract.phase, contract.id) == (SIGNED, sha256(contract.terms))
    escrow = settlement.contract_escrow_micro(terms)
    price = terms.price_micro_per_kwh
    assert escrow == 5 * price + (500 * max(price, 650_000) + 999) // 1000 + 50_000
    assert market.holds() == {f"E:{contract.id.hex()}": escrow, f"B:{contract.id.hex()}": BOND}
    assert gains(market, before) == (-escrow, -BOND, 0, 0)
    assert market.state.get(Zone, "north").open_wh == 5000


def test_signed_to_active_to_measured_to_confirmed() -> None:
    market = Market()
    before = money(market)
    market.signed()
    price = market.terms().price_micro_per_kwh
    first = market.begin()
    assert market.submit(first, time_ms=START + 2000) == ["admitted"]
    contract = market.contract()
    assert (contract.phase, contract.begin_energy_wh, contract.begin_time_ms) == (ACTIVE, 100_000, START + 1000)
    assert contract.deadline_ms == END + HOUR
    second = market.end(DONE, 105_000, REASON_ENERGY_REACHED)
    market.submit(second, time_ms=DONE + 1000)
    contract = market.contract()
    assert (contract.phase, contract.deadline_ms) == (MEASURED, DONE + 1000 + HOUR)
    statement = decode_statement(contract.statement)
    running = sha256(sha256(b"\x00" * 32 + proof_hash(first)) + proof_hash(second))
    assert (statement.evidence, statement.measured_wh, statement.cause) == (running, 5000, CAUSE_NONE)
    market.confirm("user-1")
    assert closings(market.ok()) == []
    market.confirm("owner-1")
    assert closings(market.ok()) == ["confirmed"]
    assert gains(market, before) == (-5 * price - 50_000, 5 * price, 0, 50_000)
    assert (market.holds(), market.state.each(Contract), market.state.get(Zone, "north").open_wh) == ({}, [], 0)


@pytest.mark.parametrize("confirming", [[], ["user-1"], ["owner-1"]])
def test_measured_to_settled_when_the_window_passes(confirming: list[str]) -> None:
    market, before = measured()
    price = market.terms().price_micro_per_kwh
    for party in confirming:
        market.confirm(party)
        market.ok()
    deadline = market.contract().deadline_ms
    assert closings(market.ok(time_ms=deadline - 1)) == []
    assert closings(market.ok(time_ms=deadline)) == ["settled"]
    assert gains(market, before) == (-5 * price - 50_000, 5 * price, 0, 50_000)


def test_what_a_confirmation_needs() -> None:
    market, _ = measured()
    contract = market.contract()
    digest = decode_statement(contract.statement).digest()
    cases = [
        ("user-1", Confirm(contract.id, bytes(32)), "digest"),
        ("user-1", Confirm(bytes(32), digest), "unknown_contract"),
        ("grid", Confirm(contract.id, digest), "wrong_role"),
    ]
    for sender, body, code in cases:
        root = market.root
        assert [r.code for r in market.block(market.tx(sender, body)).results] == [code]
        assert market.root == root
    stranger = Market(2, 2)
    stranger.signed()
    contract = stranger.contract()
    for body, sender, code in [
        (Confirm(contract.id, digest), "user-2", "not_yours"),
        (Confirm(contract.id, digest), "owner-2", "not_yours"),
        (Confirm(contract.id, digest), "user-1", "phase"),
    ]:
        assert [r.code for r in stranger.block(stranger.tx(sender, body)).results] == [code]


def test_a_party_confirms_once() -> None:
    market, _ = measured()
    market.confirm("user-1")
    market.ok()
    market.confirm("user-1")
    assert market.block().results[0].code == "phase"
    market.confirm("owner-1")
    assert closings(market.ok()) == ["confirmed"]


def test_a_closed_contract_cannot_be_confirmed_again() -> None:
    market, _ = measured()
    contract, digest = market.contract(), decode_statement(market.contract().statement).digest()
    market.confirm("user-1", "owner-1")
    market.ok()
    root = market.root
    again = market.block(market.tx("user-1", Confirm(contract.id, digest)))
    assert [r.code for r in again.results] == ["unknown_contract"]
    assert market.root == root


@pytest.mark.parametrize(
    ("reason", "cause"), [(REASON_USER, CAUSE_USER), (REASON_METER_SILENT, CAUSE_PILE), (REASON_PILE_FAULT, CAUSE_PILE)]
)
def test_the_signed_stop_reason_is_the_cause_of_a_deviation(reason: int, cause: str) -> None:
    market, before = measured(reason, energy=3000)
    statement = decode_statement(market.contract().statement)
    price = market.terms().price_micro_per_kwh
    assert (statement.cause, statement.measured_wh) == (cause, 3000)
    market.confirm("user-1", "owner-1")
    market.ok()
    if cause == CAUSE_USER:  # pays for 5 kWh, and the grid takes 2 kWh back at 0.40
        assert gains(market, before) == (-5 * price + 800_000 - 50_000, 5 * price, -800_000, 50_000)
    else:
        assert gains(market, before) == (-3 * price - 50_000, 3 * price, 0, 50_000)


def test_overuse_is_the_grids_at_the_catalog_price() -> None:
    market, before = measured(energy=5400)
    price = market.terms().price_micro_per_kwh
    market.confirm("user-1", "owner-1")
    market.ok()
    assert gains(market, before) == (-5 * price - 260_000 - 50_000, 5 * price, 260_000, 50_000)


def test_signed_to_defaulted_without_a_sign_of_life() -> None:
    market = Market()
    before = money(market)
    contract = market.signed()
    assert contract.deadline_ms == begin_until_ms(market.terms()) + HOUR
    assert closings(market.ok(time_ms=contract.deadline_ms - 1)) == []
    outcome = market.ok(time_ms=contract.deadline_ms)
    assert closings(outcome) == ["defaulted"]
    assert [s.cause for s in statements(outcome)] == ["default"]
    assert gains(market, before) == (BOND // 2, -BOND // 2, 0, 0)
    assert (market.holds(), market.state.get(Zone, "north").open_wh) == ({}, 0)


def no_show_gains(price: int) -> tuple[int, ...]:
    share = 5 * price * 300 // 1000
    return -share - 50_000, share, 0, 50_000


def test_signed_to_no_show_when_the_pile_proved_it_was_available() -> None:
    market = Market()
    before = money(market)
    contract = market.signed()
    price = market.terms().price_micro_per_kwh
    market.submit(heartbeat(market, START + 1000), time_ms=START + 2000)
    assert market.contract().available
    outcome = market.ok(time_ms=contract.deadline_ms)
    assert (closings(outcome), [s.cause for s in statements(outcome)]) == (["no-show"], ["no-show"])
    assert gains(market, before) == no_show_gains(price)


def test_a_reading_after_the_grace_ends_the_wait_at_once() -> None:
    for early, outcome_name in (
        ([], "defaulted"),
        ([START], "no-show"),
        ([START - 1], "defaulted"),
        ([UNTIL], "no-show"),
    ):
        market = Market()
        market.signed()
        for time_ms in early:
            market.submit(heartbeat(market, time_ms), time_ms=time_ms)
        market.send("operator", market.batch(heartbeat(market, UNTIL + 1)))
        assert closings(market.ok(time_ms=UNTIL + 2)) == [outcome_name], early


def test_one_proof_with_readings_in_and_after_the_grace_is_a_no_show() -> None:
    market = Market()
    market.signed()
    both = market.prove("pile-1", HEARTBEAT, [(UNTIL - 1, 100_000), (UNTIL + 1, 100_000)])
    market.send("operator", market.batch(both))
    assert closings(market.ok(time_ms=UNTIL + 2)) == ["no-show"]


@pytest.mark.parametrize("with_reading", [False, True])
def test_a_pile_with_an_alarm_is_not_available(with_reading: bool) -> None:
    market = Market()
    contract = market.signed()
    points = [(START + 2000, 100_000)] if with_reading else []
    alarm = market.prove
    market.submit(heartbeat(market, START + 1000), time_ms=START + 1000)
    market.submit(alarm("pile-1", ALARM, points, reason=REASON_PILE_FAULT), time_ms=START + 3000)
    assert not market.contract().available
    market.submit(heartbeat(market, START + 4000), time_ms=START + 4000)
    assert market.contract().available, "its last word counts"
    market.submit(alarm("pile-1", ALARM, points and [(START + 5000, 100_000)], reason=REASON_PILE_FAULT))
    assert closings(market.ok(time_ms=contract.deadline_ms)) == ["defaulted"]


def test_an_alarm_after_the_grace_does_not_undo_that_the_pile_was_there() -> None:
    market = Market()
    market.signed()
    market.submit(heartbeat(market, START + 1000), time_ms=START + 1000)
    late = market.prove("pile-1", ALARM, [(UNTIL + 1, 100_000)], reason=REASON_PILE_FAULT)
    market.send("operator", market.batch(late))
    assert closings(market.ok(time_ms=UNTIL + 2)) == ["no-show"]


def test_a_pile_that_overran_with_one_user_was_not_available_for_the_next() -> None:
    market = Market(1, 2)
    market.offer()
    market.bid("user-1", end=START + HOUR)
    market.bid("user-2", start=START + HOUR, end=START + 2 * HOUR)
    market.ok()
    first, second = sorted(market.state.each(Contract), key=lambda c: market.state.terms_of(c).window_start_ms)
    market.submit(market.begin(contract=first.id), time_ms=START + 2000)
    over = [START + HOUR + 1000, START + 2 * HOUR + 1]
    market.submit(market.periodic(over[0], 101_000, contract=first.id), time_ms=over[0])
    assert not market.state.get(Contract, second.id).available
    market.send("operator", market.batch(market.periodic(over[1], 102_000, contract=first.id)))
    assert closings(market.ok(time_ms=over[1])) == ["defaulted"]


def test_the_end_of_an_overrun_does_not_show_that_the_pile_was_there_for_the_next() -> None:
    market = Market(1, 2)
    market.offer()
    market.bid("user-1", end=START + HOUR)
    market.bid("user-2", start=START + HOUR, end=START + 2 * HOUR)
    market.ok()
    first, second = sorted(market.state.each(Contract), key=lambda c: market.state.terms_of(c).window_start_ms)
    market.submit(market.begin(contract=first.id), time_ms=START + 2000)
    over = START + HOUR + 1000
    market.submit(market.end(over, 101_000, REASON_USER, contract=first.id), time_ms=over)
    assert not market.state.get(Contract, second.id).available
    market.submit(market.prove("pile-1", HEARTBEAT, [(over + 1000, 101_000)]), time_ms=over + 1000)
    assert market.state.get(Contract, second.id).available, "its last word counts"


def test_a_silent_pile_is_measured_by_its_last_verified_reading() -> None:
    market = Market()
    before = money(market)
    market.signed()
    price = market.terms().price_micro_per_kwh
    market.submit(market.begin(), market.periodic(START + HOUR // 2, 103_000), time_ms=START + HOUR)
    deadline = market.contract().deadline_ms
    assert market.contract().phase == ACTIVE
    outcome = market.ok(time_ms=deadline)
    (statement,) = statements(outcome)
    assert (statement.measured_wh, statement.cause) == (3000, CAUSE_PILE)
    assert market.contract().phase == MEASURED
    market.ok(time_ms=deadline + HOUR)
    assert gains(market, before) == (-3 * price - 50_000, 3 * price, 0, 50_000)


def test_a_silent_pile_that_had_delivered_is_paid() -> None:
    market = Market()
    market.signed()
    market.submit(market.begin(), market.periodic(DONE, 104_950), time_ms=DONE)
    (statement,) = statements(market.ok(time_ms=market.contract().deadline_ms))
    assert (statement.measured_wh, statement.cause) == (4950, CAUSE_NONE)


def test_late_proofs_after_the_deadline_change_no_settlement() -> None:
    market = Market()
    market.signed()
    market.submit(market.begin(), time_ms=START + 2000)
    contract = market.contract()
    late = market.end(DONE, 105_000, REASON_ENERGY_REACHED)
    market.ok(time_ms=contract.deadline_ms)
    statement = market.contract().statement
    assert market.submit(late) == ["admitted"]
    assert market.contract().statement == statement


def test_a_confirm_window_of_nothing_settles_at_the_next_block() -> None:
    market = Market(confirm_window_ms=0)
    market.signed()
    market.submit(market.begin(), market.end(DONE, 105_000, REASON_ENERGY_REACHED), time_ms=DONE)
    assert closings(market.ok(time_ms=DONE + 1)) == ["settled"]


def test_a_confirm_window_of_nothing_settles_a_silent_pile_in_the_block_of_its_deadline() -> None:
    market = Market(confirm_window_ms=0)
    market.signed()
    market.submit(market.begin(), time_ms=DONE)
    outcome = market.ok(time_ms=market.contract().deadline_ms)
    assert (closings(outcome), market.holds()) == (["settled"], {})


def test_two_contracts_on_one_pile_settle_each_by_its_own_session() -> None:
    market = Market(1, 2)
    market.offer()
    market.bid("user-1", energy=2000, end=START + HOUR // 2)
    market.bid("user-2", energy=3000, start=START + HOUR // 2, end=START + 2 * HOUR)
    market.ok()
    first, second = sorted(market.state.each(Contract), key=lambda c: market.state.terms_of(c).window_start_ms)
    middle = START + HOUR // 2
    proofs = [
        market.begin(contract=first.id, energy=100_000),
        market.end(middle, 102_000, REASON_ENERGY_REACHED, contract=first.id),
        market.prove("pile-1", BEGIN, [(middle + 1000, 102_003)], contract=second.id),
        market.end(middle + HOUR // 2, 105_003, REASON_ENERGY_REACHED, contract=second.id),
    ]
    market.send("operator", market.batch(*proofs))
    outcome = market.ok(time_ms=START + HOUR)
    assert {s.contract: s.measured_wh for s in statements(outcome)} == {first.id: 2000, second.id: 3000}
