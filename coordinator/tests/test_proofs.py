"""Admission of metering proofs: what counts once, what is refused, and what freezes a session."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import HOUR, NOW, START, Market, bounded, closings, leaf_of, statements

from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.proofs import MAX_CLOCK_AHEAD_MS
from pile_coordinator.chain.records import ACTIVE, MEASURED, SIGNED, Contract, Party, Pile, Zone
from pile_coordinator.chain.settlement import CAUSE_PILE, CAUSE_USER, decode_statement
from pile_coordinator.chain.state import store_key
from pile_coordinator.chain.transactions import SubmitProofs
from pile_coordinator.chain.transition import Outcome, apply_tx
from pile_shared.proof import BEGIN, HEARTBEAT, PERIODIC, REASON_ENERGY_REACHED, REASON_USER, proof_hash
from pile_shared.terms import LEAF_RECEIPT

MINUTE = 60_000
T1 = START + 1000


def pile_of(market: Market) -> Pile:
    return market.state.get(Pile, "pile-1")


def running() -> Market:
    """A market whose session began at T1 with 100,000 Wh on the register, and has delivered 1,000 Wh in ten minutes."""
    market = Market()
    market.signed()
    market.submit(market.begin(), market.periodic(T1 + 10 * MINUTE, 101_000), time_ms=T1 + 10 * MINUTE)
    return market


def forged(market: Market, make: Callable[[], bytes]) -> bytes:
    """A proof that the pile's own chain does not remember."""
    kept = dict(market.proofs)
    message = make()
    market.proofs = kept
    return message


def rootless(market: Market) -> dict[bytes, bytes]:
    """The state without its senders' sequences, which any transaction moves."""
    return {k: v for k, v in market.rows.items() if k != store_key(Party, "operator")}


def refused(market: Market, message: bytes) -> str:
    """What became of a proof that must change nothing."""
    before = rootless(market)
    (outcome,) = market.submit(message)
    assert rootless(market) == before
    return str(outcome)


def test_a_duplicate_changes_nothing() -> None:
    market = Market()
    market.signed()
    first, second = market.begin(), market.periodic(T1 + MINUTE, 100_100)
    market.submit(first, second, time_ms=T1 + MINUTE)
    assert refused(market, first) == "duplicate"
    assert refused(market, second) == "duplicate"
    # Not even inside the transaction that carries a good one between copies.
    third = market.periodic(T1 + 2 * MINUTE, 100_200)
    assert market.submit(third, third, first, third) == ["admitted", "duplicate", "duplicate", "duplicate"]
    assert market.contract().last_energy_wh == 100_200


def test_a_duplicate_of_no_effect_leaves_the_same_state_root() -> None:
    """Two chains, one of which hears everything twice, end in the same root."""
    roots = []
    for copies in (1, 2):
        market = Market()
        market.signed()
        proofs = [market.begin(), market.periodic(T1 + MINUTE, 100_100), market.end(T1 + HOUR, 105_000, REASON_USER)]
        market.submit(*[message for message in proofs for _ in range(copies)], time_ms=T1 + HOUR)
        roots.append(market.root)
    assert roots[0] == roots[1]


def test_a_gap_waits() -> None:
    market = running()
    missing, ahead = market.periodic(T1 + 11 * MINUTE, 101_100), market.periodic(T1 + 12 * MINUTE, 101_200)
    assert refused(market, ahead) == "gap"
    assert market.submit(missing, ahead) == ["admitted", "admitted"]


def test_garbage_and_strangers_are_refused() -> None:
    market = running()
    proof = market.periodic(T1 + 11 * MINUTE, 101_100)
    market.proofs["stranger"] = market.proofs["pile-1"]
    assert refused(market, b"\x00") == "malformed"
    assert refused(market, proof[:-1]) == "malformed"
    stranger = market.prove("stranger", HEARTBEAT, [(T1 + 11 * MINUTE, 1)])
    assert refused(market, stranger) == "unknown_pile"


def test_a_signature_that_does_not_verify_is_refused() -> None:
    market = running()
    proof = market.periodic(T1 + 11 * MINUTE, 101_100)
    tail = bytearray(proof)
    tail[-40] ^= 1  # inside r
    assert refused(market, bytes(tail)) == "bad_signature"
    elsewhere = Market(capacity_hours=3)  # another genesis, another chain
    elsewhere.proofs = {"pile-1": (2, pile_of(market).last_hash)}
    foreign = elsewhere.prove("pile-1", PERIODIC, [(T1 + 11 * MINUTE, 101_100)], contract=market.contract().id)
    assert refused(market, foreign) == "bad_signature"
    assert market.submit(proof) == ["admitted"]


def test_a_proof_that_does_not_follow_the_last_is_refused() -> None:
    market = running()
    odd = forged(market, lambda: market.periodic(T1 + 11 * MINUTE, 101_100, previous=b"\x01" * 32))
    assert refused(market, odd) == "unchained"
    assert market.submit(market.periodic(T1 + 11 * MINUTE, 101_100)) == ["admitted"]


def test_a_fork_is_recorded_against_the_pile_and_freezes_its_session() -> None:
    market = running()
    before = pile_of(market)
    fork = forged(
        market,
        lambda: market.periodic(T1 + 10 * MINUTE, 101_050, sequence=before.last_sequence, previous=b"\x05" * 32),
    )
    assert market.submit(fork) == ["fork"]
    assert pile_of(market).anomaly == "fork"
    assert (pile_of(market).last_sequence, pile_of(market).last_hash) == (before.last_sequence, before.last_hash)
    assert refused(market, fork) == "fork"  # once recorded, it is recorded
    market.submit(market.end(T1 + HOUR, 105_000, REASON_USER), time_ms=T1 + HOUR)
    statement = decode_statement(market.contract().statement)
    assert (statement.measured_wh, statement.cause) == (1000, CAUSE_PILE)


def test_a_fork_that_nobody_signed_is_no_fork() -> None:
    market = running()
    sequence = pile_of(market).last_sequence
    forgery = forged(market, lambda: market.periodic(T1 + 10 * MINUTE, 101_050, sequence=sequence))
    broken = bytearray(forgery)
    broken[-40] ^= 1
    assert refused(market, bytes(broken)) == "bad_signature"


def test_a_bad_proof_never_holds_up_the_good_ones_sent_with_it() -> None:
    market = running()
    good = market.periodic(T1 + 11 * MINUTE, 101_100)
    odd = forged(market, lambda: market.periodic(T1 + 12 * MINUTE, 101_100, previous=b"\x01" * 32))
    assert market.submit(b"junk", good, odd) == ["malformed", "admitted", "unchained"]
    # A batch of nothing but bad ones is taken too, so that the sender's next batch is still in turn.
    market.send("operator", SubmitProofs([odd]))
    market.send("operator", SubmitProofs([market.periodic(T1 + 13 * MINUTE, 101_200)]))
    assert [r.details for r in market.ok(time_ms=T1 + 13 * MINUTE).results] == [("unchained",), ("admitted",)]


# --- beginning a session


def begin_result(**over: object) -> tuple[str, list[str]]:
    """The phase after a begin proof, or how the contract was closed."""
    market = Market()
    market.signed()
    message = market.begin(**over)
    market.send("operator", SubmitProofs([message]))
    outcome = market.ok(time_ms=START + HOUR + MINUTE)
    contracts = market.state.each(Contract)
    return (contracts[0].phase if contracts else ""), closings(outcome)


def test_a_session_begins_from_the_windows_start_to_the_end_of_the_grace() -> None:
    assert begin_result(time_ms=START) == (ACTIVE, [])
    assert begin_result(time_ms=START + HOUR) == (ACTIVE, [])


def test_a_begin_that_breaks_the_terms_is_the_piles_default_at_once() -> None:
    assert begin_result(time_ms=START - 1) == ("", ["defaulted"])
    assert begin_result(serial="another meter") == ("", ["defaulted"])


def test_a_begin_after_the_grace_is_too_late() -> None:
    assert begin_result(time_ms=START + HOUR + 1) == ("", ["defaulted"])
    market = Market()
    market.signed()
    market.submit(market.prove("pile-1", HEARTBEAT, [(T1, 100_000)]), time_ms=T1)
    market.send("operator", SubmitProofs([market.begin(time_ms=START + HOUR + 1)]))
    assert closings(market.ok(time_ms=START + HOUR + 2)) == ["no-show"]  # the pile was there in time, the user was not


def test_a_refused_begin_is_never_turned_into_a_no_show() -> None:
    market = Market()
    before = market.money("user-1")
    market.signed()
    market.submit(market.prove("pile-1", HEARTBEAT, [(T1, 100_000)]), time_ms=T1)
    assert market.contract().available
    market.send("operator", SubmitProofs([market.begin(time_ms=T1 + 1000, serial="another meter")]))
    assert closings(market.ok(time_ms=T1 + 2000)) == ["defaulted"]
    assert market.money("user-1") > before


def test_another_piles_begin_does_not_touch_a_contract() -> None:
    market = Market(2, 1)
    market.offer("pile-1")
    market.bid(pile="pile-1")
    market.ok()
    for serial in ("meter of pile-2", "another meter"):
        foreign = market.begin(pile="pile-2", serial=serial)
        assert market.submit(foreign, time_ms=T1 + MINUTE) == ["admitted"]  # its own chain goes on
        assert market.contract().phase == SIGNED
    assert not market.contract().available
    later = market.periodic(T1 + 2 * MINUTE, 104_000, pile="pile-2")
    market.submit(later, time_ms=T1 + 2 * MINUTE)
    assert market.contract().last_energy_wh == 0


def test_another_contracts_proofs_do_not_count() -> None:
    market = running()
    market.submit(market.periodic(T1 + 11 * MINUTE, 101_100, contract=b"\x07" * 32), time_ms=T1 + 11 * MINUTE)
    assert market.contract().last_energy_wh == 101_000
    unknown = market.begin(time_ms=T1 + 12 * MINUTE, energy=101_100, contract=b"\x07" * 32)
    market.submit(unknown, time_ms=T1 + 12 * MINUTE)
    assert (market.contract().phase, market.contract().last_energy_wh) == (ACTIVE, 101_000)


# --- anomalies: recorded, frozen, never rebased

BAD_READINGS = {
    "register fell": (T1 + 11 * MINUTE, 100_999),
    "time fell": (T1 + 10 * MINUTE - 1, 101_100),
    "clock ahead": (T1 + 11 * MINUTE + MAX_CLOCK_AHEAD_MS + 1, 101_100),
    "more than rated power": (T1 + 11 * MINUTE, 101_000 + 7000 // 60 * 11 // 10 + 102),
}


@pytest.mark.parametrize("anomaly", BAD_READINGS)
def test_an_anomaly_freezes_the_session_at_its_last_verified_reading(anomaly: str) -> None:
    market = running()
    message = market.periodic(*BAD_READINGS[anomaly])
    assert market.submit(message, time_ms=T1 + 11 * MINUTE) == ["admitted"]  # the chain goes on, the money stops
    pile, contract = pile_of(market), market.contract()
    assert (pile.anomaly, pile.last_hash) == (anomaly, proof_hash(message))
    assert (pile.last_time_ms, pile.last_energy_wh) == (T1 + 10 * MINUTE, 101_000)
    assert (contract.phase, contract.last_energy_wh) == (ACTIVE, 101_000)
    # Good readings afterwards do not thaw it, nor does an END the user is named for.
    market.submit(market.periodic(T1 + 20 * MINUTE, 102_000), time_ms=T1 + 20 * MINUTE)
    evidence = market.contract().evidence
    market.submit(market.end(T1 + 40 * MINUTE, 105_000, REASON_USER), time_ms=T1 + 40 * MINUTE)
    statement = decode_statement(market.contract().statement)
    assert (statement.measured_wh, statement.cause, statement.evidence) == (1000, CAUSE_PILE, evidence)


@pytest.mark.parametrize("anomaly", BAD_READINGS)
def test_one_unit_less_is_no_anomaly(anomaly: str) -> None:
    at_most = {
        "register fell": (T1 + 11 * MINUTE, 101_000),
        "time fell": (T1 + 10 * MINUTE, 101_100),
        "clock ahead": (T1 + 11 * MINUTE + MAX_CLOCK_AHEAD_MS, 101_100),
        "more than rated power": (T1 + 11 * MINUTE, 101_000 + 7000 * 11 // 600 + 100),
    }
    market = running()
    market.submit(market.periodic(*at_most[anomaly]), time_ms=T1 + 11 * MINUTE)
    assert pile_of(market).anomaly == ""
    assert market.contract().last_energy_wh == at_most[anomaly][1]


def test_a_frozen_session_that_goes_silent_settles_at_the_deadline() -> None:
    market = running()
    market.submit(market.periodic(T1 + 11 * MINUTE, 100_000), time_ms=T1 + 11 * MINUTE)
    (statement,) = statements(market.ok(time_ms=market.contract().deadline_ms))
    assert (statement.measured_wh, statement.cause) == (1000, CAUSE_PILE)


def test_many_small_steps_do_not_add_up_to_more_than_rated_power() -> None:
    """Each second one coarse register step of 100 Wh: 360 kW in steps that are each within the slack."""
    market = Market()
    market.signed()
    proofs = [market.begin()]
    proofs += [market.periodic(T1 + 1000 * i, 100_000 + 100 * i) for i in range(1, 21)]
    market.submit(*proofs, time_ms=T1 + MINUTE)
    assert pile_of(market).anomaly == "more than rated power"
    assert market.contract().last_energy_wh - 100_000 <= 200


def test_a_begin_proof_cannot_carry_the_whole_energy() -> None:
    market = Market()
    before = market.money("user-1")
    market.signed()
    loaded = market.prove("pile-1", BEGIN, [(T1, 100_000), (T1 + 1000, 105_000)], contract=market.contract().id)
    market.send("operator", SubmitProofs([loaded]))
    assert closings(market.ok(time_ms=T1 + MINUTE)) == ["defaulted"]
    assert market.money("user-1") > before


def test_an_anomaly_is_over_when_no_session_runs_and_readings_make_sense_again() -> None:
    market = running()
    market.submit(market.periodic(T1 + 11 * MINUTE, 100_000), time_ms=T1 + 11 * MINUTE)
    market.submit(market.end(T1 + 12 * MINUTE, 101_100, REASON_USER), time_ms=T1 + 12 * MINUTE)
    assert (market.contract().phase, pile_of(market).anomaly) == (MEASURED, "register fell")
    window = {"start": START + 3 * HOUR, "end": START + 4 * HOUR}
    market.bid(energy=1000, **window)
    market.ok()
    assert len(market.state.each(Contract)) == 1, "no new contract for a pile that cannot be believed"
    market.submit(market.prove("pile-1", HEARTBEAT, [(T1 + 13 * MINUTE, 100_500)]), time_ms=T1 + 13 * MINUTE)
    assert pile_of(market).anomaly == "register fell"  # below what was verified: never rebased
    market.submit(market.prove("pile-1", HEARTBEAT, [(T1 + 14 * MINUTE, 101_100)]), time_ms=T1 + 14 * MINUTE)
    assert pile_of(market).anomaly == ""
    assert len(market.state.each(Contract)) == 2, "and the bid that waited for it is filled"
    assert not market.state.get(Zone, "north").dirty


# --- receipts, batches


def receipts(outcome: Outcome) -> list[list]:
    return [leaf for leaf in map(leaf_of, outcome.leaves) if leaf[0] == LEAF_RECEIPT]


def test_one_receipt_per_pile_says_through_which_proof() -> None:
    market = Market(2, 0)
    proofs = [market.prove(pile, HEARTBEAT, [(T1 + i, 5)]) for i in range(3) for pile in ("pile-2", "pile-1")]
    market.send("operator", SubmitProofs(proofs))
    outcome = market.ok(time_ms=T1)
    assert receipts(outcome) == [
        [LEAF_RECEIPT, "pile-1", 3, proof_hash(proofs[5])],
        [LEAF_RECEIPT, "pile-2", 3, proof_hash(proofs[4])],
    ]
    market.send("operator", SubmitProofs(proofs))
    assert receipts(market.ok()) == []


def test_a_rejected_transaction_leaves_no_receipt_behind() -> None:
    market = Market(1, 0)
    proof = market.prove("pile-1", HEARTBEAT, [(T1, 5)])
    forged_tx = market.tx("operator", SubmitProofs([proof]), sequence=99)
    outcome = market.block(forged_tx, time_ms=T1)
    assert [r.code for r in outcome.results] == ["sequence_gap"]
    assert receipts(outcome) == []


def session(market: Market, count: int) -> list[bytes]:
    """A session of `count` proofs between begin and end, with an anomaly-free register."""
    proofs = [market.begin()]
    proofs += [market.periodic(T1 + i * MINUTE, 100_000 + 110 * i) for i in range(1, count + 1)]
    return [*proofs, market.end(T1 + (count + 1) * MINUTE, 100_000 + 110 * count + 60, REASON_ENERGY_REACHED)]


@given(st.lists(st.integers(0, 22), max_size=8), st.randoms(), st.booleans())
@bounded(60)
def test_batches_and_copies_do_not_change_what_is_settled(cuts: list[int], rng: random.Random, blocks: bool) -> None:
    """The same proofs in other batches, transactions and blocks, with copies of old ones anywhere: the same settlement."""
    reference = Market()
    reference.signed()
    proofs = session(reference, 20)
    reference.submit(*proofs, time_ms=T1 + HOUR)
    expected = decode_statement(reference.contract().statement)
    assert (expected.measured_wh, expected.cause) == (2260, CAUSE_USER)

    market = Market()
    market.signed()
    assert market.contract().id == reference.contract().id
    bounds = [0, *sorted(cuts), len(proofs)]
    for low, high in itertools.pairwise(bounds):
        strays = rng.choices(proofs, k=rng.randint(0, 2))  # out of turn, or early by chance, or known
        batch = [*strays, *proofs[low:high], *rng.choices(proofs, k=rng.randint(1, 2))]
        market.send("operator", SubmitProofs(batch))
        if blocks:
            market.ok(time_ms=T1 + HOUR)
    market.ok(time_ms=T1 + HOUR)
    assert decode_statement(market.contract().statement) == expected
    assert pile_of(market) == pile_of(reference)


@given(st.binary(min_size=1, max_size=200), st.integers(0, 300), st.integers(1, 255))
@bounded(300)
def test_no_bytes_do_any_harm(junk: bytes, position: int, flip: int) -> None:
    market = _shared()
    good = forged(market, lambda: market.periodic(T1 + 11 * MINUTE, 101_100))
    changed = bytearray(good)
    changed[position % len(good)] ^= flip
    before = pile_of(market), market.contract()
    mark = market.state.mark()
    tx = market.tx("operator", SubmitProofs([junk, bytes(changed), good + junk]))
    result = apply_tx(market.state, market.env(T1 + 11 * MINUTE), Journal(), tx)
    assert result.code == "ok"
    assert set(result.details) <= {"malformed", "unknown_pile", "bad_signature", "gap", "duplicate"}
    assert (pile_of(market), market.contract()) == before
    market.state.roll_back(mark)
    assert market.seal() == market.root


_SHARED: list[Market] = []


def _shared() -> Market:
    if not _SHARED:
        _SHARED.append(running())
    return _SHARED[0]


def test_a_register_that_leaps_while_nobody_charges_is_not_believed() -> None:
    market = Market()
    assert market.submit(market.prove("pile-1", HEARTBEAT, [(NOW + 2000, 100_000)])) == ["admitted"]
    leap = market.prove("pile-1", HEARTBEAT, [(NOW + 2000 + HOUR, 100_000 + 7000 * 11 // 10 + 101)])
    market.submit(leap, time_ms=NOW + 2000 + HOUR)
    assert market.state.get(Pile, "pile-1").anomaly == "more than rated power"
    market.submit(market.prove("pile-1", HEARTBEAT, [(NOW + 3000 + HOUR, 100_001)]), time_ms=NOW + 3000 + HOUR)
    pile = market.state.get(Pile, "pile-1")
    assert (pile.anomaly, pile.last_energy_wh) == ("", 100_001), "its true register goes on from before the leap"
