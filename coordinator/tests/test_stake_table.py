"""Every row of the tables in the stake guide: one test per row drives the chain, and pays by the row's amounts."""

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from every_phase import twice_attested
from stake_world import FOUNDERS, StakeWorld, punished
from world import HOUR, consensus, key

from pile_coordinator.chain import stake
from pile_coordinator.chain.records import Candidate
from pile_coordinator.chain.transactions import (
    Delegate,
    Deposit,
    DoubleAttestation,
    RegisterCandidate,
    RegisterParty,
    Undelegate,
    Unjail,
)

GUIDE = (Path(__file__).parents[2] / "docs" / "stake.md").read_text()
ROWS: dict[str, Callable[[], None]] = {}


def row(said: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Mark a test as that of a row, by the row's first column; a row may have more than one."""

    def mark(test: Callable[[], None]) -> Callable[[], None]:
        ROWS[said] = test
        return test

    return mark


def test_every_row_of_the_tables_has_a_test() -> None:
    said: list[str] = []
    for head in ("| from → to | when | money |", "| a candidate goes from → to | when |", "| offence | proof |"):
        (rows,) = re.findall(re.escape(head) + r".*\n\|[-|]+\n((?:\|.*\n)+)", GUIDE)
        said += [line.split("|")[1].strip() for line in rows.splitlines()]
    assert sorted(said) == sorted(ROWS)
    for test in ROWS.values():
        assert globals()[test.__name__] is test
        assert test.__name__.startswith("test_")


# --- stake -----------------------------------------------------------------------------------------------------------


@row("nothing → entering")
def test_stake_enters() -> None:
    world = StakeWorld()
    before = world.money("user-1"), world.money("third")
    world.send("user-1", Delegate("grid", 3_000_000))
    world.stand("third", 4_000_000)
    world.ok()
    assert (world.money("user-1"), world.money("third")) == (before[0] - 3_000_000, before[1] - 4_000_000)
    assert (world.state.balance_micro("S:grid"), world.state.balance_micro("S:third")) == (13_000_000, 4_000_000)
    assert world.held("user-1", "grid") == {"entering": 3_000_000}
    assert world.held("third", "third") == {"entering": 4_000_000}
    assert world.powers() == dict.fromkeys(("auditor", "grid", "node-1", "operator"), 10)


@row("entering → nothing")
def test_entering_stake_comes_back_at_once() -> None:
    world = StakeWorld()
    before = world.money("user-1")
    world.send("user-1", Delegate("grid", 3_000_000))
    world.ok()
    world.send("user-1", Undelegate("grid", 1_000_000))
    world.ok()
    assert (world.held("user-1", "grid"), world.money("user-1")) == ({"entering": 2_000_000}, before - 2_000_000)
    world.send("user-1", Undelegate("grid", 2_000_000))
    world.ok()
    assert (world.held("user-1", "grid"), world.money("user-1")) == ({}, before)


@row("any → nothing")
def test_a_newcomer_takes_the_place_of_who_has_too_little_and_answers_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 4)
    world = StakeWorld(min_self_bond_micro=2_000_000)
    body = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 2_000_000)
    assert world.refused("third", replace(body, amount_micro=1_999_999)) == "limit"
    assert world.refused("third", body) == "limit", "all are elected"
    for name in ("grid", "operator"):
        world.send(name, Undelegate(name, 10_000_000))
    world.ok()
    world.edge()
    world.send("user-1", Delegate("grid", 1_500_000))
    world.send("operator", Delegate("operator", 1_999_999))
    world.ok()
    assert world.refused("third", body) == "limit", "both can still be accused"
    for _ in range(7):
        world.edge()
    assert world.held("user-1", "grid") == {"bonded": 1_500_000}
    before = world.money("user-1")
    world.send("third", body)
    world.ok()
    assert world.state.find(Candidate, "grid") is None, "of two the one with the least stake"
    assert (world.held("user-1", "grid"), world.money("user-1")) == ({}, before + 1_500_000)
    assert world.refused("user-1", Delegate("grid", 1)) == "unknown_candidate"
    stolen = RegisterCandidate(consensus("grid"), key("user-1/attest").public, 0, 2_000_000)
    assert world.refused("auditor", stolen) == "exists"
    world.send("grid", RegisterCandidate(consensus("grid"), key("grid/attest").public, 0, 2_000_000))
    world.ok()
    assert world.state.find(Candidate, "operator") is None, "grid is back with its own keys"
    world.edge()
    assert set(world.powers()) == {"auditor", "grid", "node-1", "third"}


def test_who_could_be_elected_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 5)
    world = StakeWorld(FOUNDERS | {"node-2": 2_000_000}, min_self_bond_micro=2_000_000)
    for _ in range(9):
        world.edge()
    assert "node-2" not in {name for kept in world.state.validator_sets() for name, *_ in kept.members}
    world.send("operator", RegisterParty("newcomer", "third-party", key("newcomer").public))
    world.send("grid", Deposit("newcomer", 9_000_000, "newcomer"))
    world.ok()
    body = RegisterCandidate(consensus("newcomer"), key("newcomer/attest").public, 0, 2_000_000)
    assert world.refused("newcomer", body) == "limit"


def test_who_can_be_accused_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downtime cost grid what it had beyond the least bond: nothing. It has left the set, and answers for what it did in it."""
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 4)
    world = StakeWorld(min_self_bond_micro=10_000_000)
    away(world, "grid", 3)
    world.absent = set()
    for _ in range(3):
        world.ok()
    assert "grid" not in world.powers(world.height)
    assert world.state.balance_micro("S:grid") < 10_000_000
    body = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 10_000_000)
    assert world.refused("third", body) == "limit"
    for _ in range(9):
        world.edge()
    assert "grid" not in {name for kept in world.state.validator_sets() for name, *_ in kept.members}
    assert world.accepts("third", body)


def test_who_signed_twice_keeps_its_place_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it could stand again with other keys."""
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 4)
    world = StakeWorld()
    world.catch("grid", world.height)
    world.send("grid", Undelegate("grid", 9_500_000))
    world.ok()
    for _ in range(9):
        world.edge()
    assert world.held("grid", "grid") == {}
    body = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 2_000_000)
    assert world.refused("third", body) == "limit"
    assert world.refused("grid", body) == "exists"


@row("entering → bonded")
def test_stake_backs_the_set_two_blocks_after_the_edge() -> None:
    world = StakeWorld()
    world.send("user-1", Delegate("grid", 3_000_000))
    world.ok()
    before = world.money("user-1")
    world.edge()
    found = world.record("user-1", "grid", "bonded")
    assert (found.since_height, found.until_height, world.money("user-1")) == (world.height + 2, 0, before)
    assert world.state.set_at(world.height + 1).members[1][4] == 10_000_000  # type: ignore[union-attr]
    assert world.state.set_at(world.height + 2).members[1][4] == 13_000_000  # type: ignore[union-attr]


@row("bonded → leaving")
def test_bonded_stake_leaves_the_newest_first() -> None:
    world = StakeWorld()
    for _ in range(2):
        world.send("user-1", Delegate("grid", 3_000_000))
        world.ok()
        world.edge()
    old, new = sorted(s.since_height for s in world.state.stakes_of("grid") if s.delegator == "user-1")
    before = world.money("user-1")
    world.send("user-1", Undelegate("grid", 4_000_000))
    world.ok()
    leaving = {s.since_height: s.amount_micro for s in world.state.stakes_of("grid") if s.phase == "leaving"}
    assert leaving == {new: 3_000_000, old: 1_000_000}
    assert world.record("user-1", "grid", "bonded").amount_micro == 2_000_000
    assert world.money("user-1") == before
    assert world.powers()["grid"] == 10


@row("leaving → unbonding")
def test_stake_that_left_backs_nothing_two_blocks_after_the_edge() -> None:
    world = StakeWorld()
    world.send("grid", Undelegate("grid", 4_000_000))
    world.ok()
    world.edge()
    found = world.record("grid", "grid", "unbonding")
    assert (found.amount_micro, found.since_height, found.until_height) == (4_000_000, 1, world.height + 2)
    assert world.powers(world.height + 1) == dict.fromkeys(("auditor", "grid", "node-1", "operator"), 10)
    assert world.powers() == dict.fromkeys(("auditor", "grid", "node-1", "operator"), 6), "four are equal, as the least"


@row("unbonding → nothing")
def test_unbonding_ends_when_both_ages_have_passed() -> None:
    """evidence_age_blocks is 5, evidence_age_ms 10 h, counted from the first block whose set the stake does not back."""
    for blocks, last_ms, done in ((5, 10 * HOUR + 1, False), (6, 10 * HOUR, False), (6, 10 * HOUR + 1, True)):
        world = StakeWorld(epoch_ms=100 * HOUR)
        world.send("grid", Undelegate("grid", 4_000_000))
        world.ok(time_ms=world.genesis.time_ms + 100 * HOUR)
        world.ok(time_ms=world.genesis.time_ms + 200 * HOUR)
        before, first = world.money("grid"), world.record("grid", "grid", "unbonding").until_height
        world.ok()
        world.ok()
        assert world.height == first
        ended_ms = world.time_ms
        while world.height < first - 1 + blocks - 1:
            world.ok(time_ms=ended_ms)
        world.ok(time_ms=ended_ms + last_ms)
        assert world.height - (first - 1) == blocks
        assert world.held("grid", "grid") == {"bonded": 6_000_000} | ({} if done else {"unbonding": 4_000_000})
        assert world.money("grid") == before + (4_000_000 if done else 0)


@row("bonded, leaving, unbonding → less")
def test_who_backed_the_set_of_the_offence_pays_and_nobody_else() -> None:
    world = StakeWorld()
    world.send("user-1", Delegate("node-1", 1_000_001))
    world.ok()
    world.edge()
    world.ok()
    world.ok()
    offence = world.height  # the first block whose set user-1 backs
    assert world.record("user-1", "node-1", "bonded").since_height == offence
    world.send("user-2", Delegate("node-1", 1_000_000))
    world.send("node-1", Undelegate("node-1", 2_000_000))
    world.ok()
    world.edge()
    world.send("user-1", Undelegate("node-1", 400_000))
    world.send("third", Delegate("node-1", 500_000))
    world.ok()
    fees = world.state.balance_micro("F")
    world.catch("node-1", offence)
    (said,) = punished(world.ok())
    slashed = {
        ("user-1", "bonded"): 600_001 - 30_001,  # 5 %, rounded up
        ("user-1", "leaving"): 400_000 - 20_000,
        ("node-1", "bonded"): 8_000_000 - 400_000,
        ("node-1", "unbonding"): 2_000_000 - 100_000,
        ("user-2", "bonded"): 1_000_000,
        ("third", "entering"): 500_000,
    }
    found = {(s.delegator, s.phase): s.amount_micro for s in world.state.stakes_of("node-1")}
    assert found == slashed
    assert said == ["node-1", "double-sign", offence, 550_001]
    assert world.state.balance_micro("F") == fees + 550_001
    assert world.staking().collectable_micro == fees + 550_001, "the treasury's, not the other nodes'"


# --- candidates ------------------------------------------------------------------------------------------------------


@row("standing → elected")
def test_the_first_by_stake_are_elected() -> None:
    world = StakeWorld()
    world.stand("third", 12_000_000)
    world.ok()
    outcome = world.edge()
    by_address = sorted(FOUNDERS, key=lambda name: sha256(consensus(name)).digest()[:20])
    assert by_address != sorted(FOUNDERS)
    *stay, goes = by_address  # all four founders have the same stake
    assert world.powers() == dict.fromkeys([*stay, "third"], 10)
    assert outcome.updates == sorted([(consensus("third"), 10), (consensus(goes), 0)])


@row("elected → standing")
def test_who_has_too_little_of_its_own_is_not_elected_again() -> None:
    world = StakeWorld(min_self_bond_micro=8_000_000)
    world.send("user-1", Delegate("grid", 20_000_000))
    world.send("grid", Undelegate("grid", 2_000_001))
    world.ok()
    outcome = world.edge()
    assert set(world.powers()) == {"auditor", "node-1", "operator"}
    assert outcome.updates == [(consensus("grid"), 0)]
    world.send("grid", Delegate("grid", 1))
    world.ok()
    world.edge()
    assert set(world.powers()) == {"auditor", "grid", "node-1", "operator"}


def away(world: StakeWorld, party: str, blocks: int, first: int = 0) -> list[list]:
    """What is punished while a node misses so many blocks, the first of them so far into a window of 4."""
    while world.height % 4 != first:
        world.ok()
    world.absent = {party}
    said = [line for _ in range(blocks) for line in punished(world.ok())]
    world.absent = set()
    return said


@row("downtime")
def test_more_than_half_of_a_window_is_too_much_wherever_it_begins() -> None:
    for first in range(4):
        world = StakeWorld()
        assert away(world, "grid", 2, first) == []
        world.ok()
        world.ok()
        assert away(world, "grid", 2, first) == [], "what is further back than the half before is forgotten"
        world = StakeWorld()
        ((party, reason, height, cost),) = away(world, "grid", 3, first)
        assert (party, reason, cost) == ("grid", "downtime", 1000), "0.01 % of 10"
        assert height == world.height - 1
        assert world.state.balance_micro("S:grid") == 9_999_000


def test_a_window_of_an_odd_length_has_a_shorter_first_half() -> None:
    world = StakeWorld(downtime_window_blocks=5)
    while world.height % 5 != 1:
        world.ok()
    for absent, missed in (
        ({"grid"}, (0, 1)),  # block 1 of the window
        (set(), (1, 0)),  # 2: the second half begins
        ({"grid"}, (1, 1)),
        (set(), (1, 1)),
        ({"grid"}, (1, 1)),  # 0 of the next
        (set(), (1, 1)),
        (set(), (1, 0)),
    ):
        world.absent = absent
        assert punished(world.ok()) == []
        assert (world.candidate("grid").missed_before, world.candidate("grid").missed_blocks) == missed


@row("elected → jailed")
def test_downtime_jails_and_the_set_changes_two_blocks_later() -> None:
    world = StakeWorld(jail_ms=HOUR)
    away(world, "grid", 3)
    assert world.candidate("grid").jailed_until_ms == world.time_ms + HOUR
    assert (world.candidate("grid").missed_before, world.candidate("grid").missed_blocks) == (0, 0), "it begins anew"
    everybody = {"auditor", "grid", "node-1", "operator"}
    assert [set(world.powers(world.height + ahead)) for ahead in (0, 1)] == [everybody, everybody]
    assert set(world.powers(world.height + 2)) == everybody - {"grid"}
    world.absent = {"grid"}
    world.ok()
    world.ok()
    assert world.candidate("grid").missed_blocks == 0, "who is in jail misses nothing"
    world.edge()
    assert set(world.powers()) == everybody - {"grid"}, "not elected while in jail"


@row("jailed → standing")
def test_unjail_when_the_time_has_passed() -> None:
    world = StakeWorld(jail_ms=HOUR)
    away(world, "grid", 3)
    until_ms = world.candidate("grid").jailed_until_ms
    world.ok(time_ms=until_ms - 1)
    assert world.refused("grid", Unjail()) == "phase"
    world.send("grid", Unjail())
    world.ok(time_ms=until_ms)
    assert (world.candidate("grid").jailed_until_ms, "grid" in world.powers()) == (0, False)
    assert world.refused("grid", Unjail()) == "phase"
    world.edge()
    assert "grid" in world.powers()


@row("double sign")
def test_a_double_sign_costs_five_percent() -> None:
    world = StakeWorld()
    world.catch("grid", world.height)
    (said,) = punished(world.ok())
    assert said == ["grid", "double-sign", world.height - 1, 500_000]
    assert world.state.balance_micro("S:grid") == 9_500_000


@row("elected → tombstoned")
def test_who_signed_twice_is_never_elected_again() -> None:
    world = StakeWorld()
    offence = world.height
    world.catch("grid", offence)
    world.ok()
    assert (world.candidate("grid").tombstoned, world.candidate("grid").weight) == (True, 0), "and earns nothing"
    assert set(world.powers()) == {"auditor", "node-1", "operator"}
    world.catch("grid", offence)
    assert punished(world.ok()) == [], "once"
    assert world.refused("grid", Unjail()) == "phase"
    assert world.refused("user-1", Delegate("grid", 1)) == "phase"
    world.edge()
    assert "grid" not in world.powers()
    world.send("grid", Undelegate("grid", 9_500_000))
    world.ok()
    for _ in range(10):
        world.edge()
    assert world.held("grid", "grid") == {}, "what is left comes back"


@row("double attestation")
def test_two_headers_of_one_height_are_as_bad() -> None:
    world = StakeWorld()
    offence = world.height
    world.send("user-1", DoubleAttestation("grid", *twice_attested(world, "grid", offence)))  # type: ignore[arg-type]
    before = world.money("user-1")
    (said,) = punished(world.ok())
    assert said == ["grid", "double-attestation", offence, 500_000]
    assert world.candidate("grid").tombstoned
    assert world.money("user-1") == before, "no reward before the rule reporter-part"


@pytest.mark.parametrize("age", ["blocks", "time"])
def test_an_offence_is_punished_while_one_of_the_ages_has_not_passed(age: str) -> None:
    """The set of the offence is kept as long; after both, evidence is passed over."""
    for extra, cost in ((0, 500_000), (1, None)):
        world = StakeWorld(epoch_ms=100 * HOUR)
        world.ok(time_ms=world.genesis.time_ms + 100 * HOUR)
        first = world.height + 2
        world.ok()
        world.ok()
        ended_ms = world.time_ms
        if age == "blocks":
            world.ok(time_ms=ended_ms + 11 * HOUR)
            while world.height < first - 1 + 5 + extra - 1:
                world.ok()
            step = {}
        else:
            for _ in range(8):
                world.ok(time_ms=ended_ms)
            step = {"time_ms": ended_ms + 10 * HOUR + extra}
        world.catch("grid", first - 1)
        if extra:  # sets are dropped after a block's evidence is heard, so it is heard once more
            world.misbehaviour = ()
            world.ok(**step)
            world.catch("grid", first - 1)
            step = {}
        said = punished(world.ok(**step))
        assert [line[3] for line in said] == ([] if cost is None else [cost])
