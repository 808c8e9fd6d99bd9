"""Stake, beyond the tables: elections by hand, rewards to the micro, refusals, upgrades, light clients, and the guide itself."""

import copy
import doctest
import json
import re
from dataclasses import replace
from fractions import Fraction
from itertools import combinations_with_replacement
from math import floor
from pathlib import Path
from typing import Any

import pytest
from every_phase import twice_attested
from hypothesis import given
from hypothesis import strategies as st
from stake_world import FOUNDERS, MONEY, RULES, StakeWorld, elected, rewarded
from world import HOUR, NOW, START, World, bounded, consensus, genesis, key, stake_json

from pile_coordinator.chain import accounts, conduct, election, founding, invariants, stake, upgrades
from pile_coordinator.chain.conduct import DOUBLE_ATTESTATION, DOUBLE_SIGN, DOWNTIME
from pile_coordinator.chain.election import capped
from pile_coordinator.chain.env import Misbehaviour
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import (
    Account,
    Candidate,
    Contract,
    Stake,
    Staking,
    Upgrade,
    UpgradeVotes,
    ValidatorSet,
)
from pile_coordinator.chain.rejections import CODES, BrokenInvariantError
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    BODIES,
    MAX_STAKE_MICRO,
    CollectFees,
    Delegate,
    DoubleAttestation,
    RegisterCandidate,
    SetCommission,
    Undelegate,
    Unjail,
    VoteUpgrade,
)
from pile_coordinator.chain.transition import apply_block
from pile_shared.certificate import MAX_HANDOVER_BYTES, Certificate, encode_handover
from pile_shared.codec import decode
from pile_shared.errors import ConfigError
from pile_shared.terms import LEAF_CONTRACT

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "stake.md"
TEXT = GUIDE.read_text()


# --- the guide ---------------------------------------------------------------------------------------------------------


def rows(head: str) -> list[list[str]]:
    """The cells of the table with this head."""
    (found,) = re.findall(re.escape(head) + r"[^\n]*\n\|[-|]+\n((?:\|.*\n)+)", TEXT)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]


def test_the_guides_examples_run() -> None:
    result = doctest.testfile(str(GUIDE), module_relative=False)
    assert (result.failed, result.attempted) == (0, 4)


def test_the_guides_rules_are_those_of_genesis_with_their_bounds() -> None:
    said = {
        row[0].strip("`"): tuple(int(n.replace(",", "")) for n in row[2:4]) for row in rows("| rule | is | from | to |")
    }
    assert said == founding._RANGES


def test_the_guides_offences_upgrades_and_refusals_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("| offence | proof |")] == [
        word.replace("-", " ") for word in (DOWNTIME, DOUBLE_SIGN, DOUBLE_ATTESTATION)
    ]
    assert [row[0].strip("`") for row in rows("| rule | from its height on |")] == list(upgrades.KNOWN)
    refused = {row[0].strip("`"): re.findall(r"`([a-z_]+)`", row[1]) for row in rows("| transaction | refused |")}
    kinds = list(BODIES)
    assert list(refused) == kinds[kinds.index("register-candidate") : kinds.index("buy-notes")]
    for codes in refused.values():
        assert codes == sorted(codes, key=CODES.index), "in order of precedence"
    assert f"{stake.MAX_CANDIDATES} at most" in TEXT
    assert f"{stake.MAX_STAKES_OF_CANDIDATE:,} records" in TEXT
    assert f"the party has {stake.MAX_STAKES_OF_PARTY} for it" in TEXT
    assert f"at least {upgrades.MIN_NOTICE_BLOCKS} blocks ahead" in TEXT


def test_headings_that_others_refer_to_are_there() -> None:
    sources = [path for part in ("coordinator", "docs") for path in (ROOT / part).rglob("*.[pm][yd]")]
    named = [heading for path in sources for heading in re.findall(r'stake guide, "([A-Z][^"]*)"', path.read_text())]
    assert len(named) >= 4
    for heading in named:
        assert f"# {heading}\n" in TEXT, heading


# --- powers ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50) | st.integers(1, 10**10), min_size=1, max_size=36))
@bounded(1000)
def test_powers_are_cut_as_little_as_keeps_everybody_below_a_quarter(powers: list[int]) -> None:
    cut = capped(powers)
    if len(powers) < 4:
        assert cut == [min(powers)] * len(powers)
        return
    height = max(cut)
    assert cut == [min(power, height) for power in powers]
    assert 4 * height <= sum(cut)
    assert min(cut) >= 1
    if height < max(powers):
        assert 4 * (height + 1) > sum(min(power, height + 1) for power in powers), "the largest such height"


def poured(powers: list[int]) -> Fraction:
    """The highest level of water at which a quarter of what all hold is no less than the level, by pouring.

    Everybody fills up to its own power. While more than four are still filling, the spare (what all hold, less four levels)
    grows with the level; with four it stays, and with fewer it sinks: where it is gone the level stays.
    """
    level, spare = Fraction(0), Fraction(0)
    for full, power in enumerate(sorted(powers)):
        gain, rise = len(powers) - full - 4, power - level
        if spare + gain * rise < 0:
            return level + spare / -gain
        level, spare = level + rise, spare + gain * rise
    return level


def test_powers_are_those_of_an_exact_pouring_for_all_small_sets() -> None:
    """All multisets of 4 to 6 powers up to 9, and of 7 up to 5."""
    seen = set()
    for size, most in ((4, 9), (5, 9), (6, 9), (7, 5)):
        for powers in combinations_with_replacement(range(1, most + 1), size):
            level = poured(list(powers))
            seen.add(level.denominator)
            assert capped(list(powers)) == [min(power, floor(level)) for power in powers], powers
    assert seen == {1, 2, 3}, "levels between whole units too"


@given(st.lists(st.integers(1, 10**10) | st.sampled_from([1, 10**10 - 1, 10**10]), min_size=4, max_size=36))
@bounded(500)
def test_powers_are_those_of_an_exact_pouring(powers: list[int]) -> None:
    assert capped(powers) == [min(power, floor(poured(powers))) for power in powers]


def test_powers_do_not_depend_on_the_order() -> None:
    assert sorted(capped([9, 1, 5, 7, 2])) == sorted(capped([1, 2, 5, 7, 9]))
    assert capped([]) == []


# --- elections ---------------------------------------------------------------------------------------------------------


def test_an_election_by_hand() -> None:
    """Five stand, four are elected, the largest is cut: 40, 12, 10.9, 10 in whole units become 10, 10, 10, 10 ..."""
    world = StakeWorld(
        {"auditor": 10_000_000, "grid": 12_000_000, "node-1": 9_000_000, "operator": 10_900_000, "third": 8_000_000},
        max_validators=5,
    )
    assert world.powers(1) == {"auditor": 10, "grid": 12, "node-1": 9, "operator": 10, "third": 8}
    world.send("user-1", Delegate("third", 40_000_000))
    world.ok()
    outcome = world.edge()
    # 48, 12, 10, 10, 9: with the first cut to h, 4 h <= h + 41, so 13
    assert world.powers() == {"auditor": 10, "grid": 12, "node-1": 9, "operator": 10, "third": 13}
    assert outcome.updates == [(consensus("third"), 13)], "differences only"
    ((first, members),) = elected(outcome)
    assert first == world.height + 2
    assert [member[0] for member in members] == sorted(FOUNDERS | {"third": 0})
    assert members[-1][4] == 48_000_000


def test_what_is_decided_acts_two_blocks_later() -> None:
    world = StakeWorld()
    world.stand("third", 20_000_000)
    world.ok()
    world.edge()
    edge = world.height
    assert "third" not in world.powers(edge + 1)
    assert "third" in world.powers(edge + 2)
    assert world.state.find(ValidatorSet, (edge + 2).to_bytes(8, "big"))


def test_the_last_node_stays_and_if_nobody_can_be_elected_the_last_set_goes_on() -> None:
    world = StakeWorld({"auditor": 2_000_000, "grid": 2_000_000})
    offence = world.height
    for name in ("auditor", "grid"):
        world.catch(name, offence)
    assert world.ok().updates == [(consensus("auditor"), 0)]
    assert list(world.powers()) == ["grid"]
    assert world.candidate("grid").tombstoned
    assert world.edge().updates == []
    assert list(world.powers()) == ["grid"], "an empty set could never elect another"
    world.stand("third", 2_000_000)
    world.ok()
    world.edge()
    assert list(world.powers()) == ["third"]


def test_between_elections_the_others_are_cut_anew() -> None:
    world = StakeWorld(
        {"auditor": 10_000_000, "grid": 10_000_000, "node-1": 30_000_000, "operator": 10_000_000, "third": 5_000_000},
        max_validators=5,
    )
    assert world.powers() == {"auditor": 10, "grid": 10, "node-1": 11, "operator": 10, "third": 5}
    world.catch("grid", world.height)
    world.ok()
    assert world.powers() == {"auditor": 5, "node-1": 5, "operator": 5, "third": 5}


def test_who_signs_twice_is_replaced_by_the_next_candidate_at_the_next_epoch() -> None:
    world = StakeWorld(FOUNDERS | {"third": 8_000_000})
    assert set(world.powers(1)) == set(FOUNDERS)
    world.catch("grid", world.height)
    assert world.ok().updates == [(consensus("grid"), 0)]
    assert set(world.powers()) == {"auditor", "node-1", "operator"}
    outcome = world.edge()
    assert dict(outcome.updates)[consensus("third")] == 8
    assert world.powers() == dict.fromkeys(("auditor", "node-1", "operator", "third"), 8), (
        "four are equal, as the least"
    )


def test_the_grid_gets_no_votes_for_money_that_it_owes() -> None:
    world = StakeWorld()
    accounts.post(world.state, "P:grid", "P:user-1", world.money("grid") + 5)
    assert world.money("grid") == -5
    assert world.refused("grid", Delegate("grid", 1)) == "funds"


# --- rewards -----------------------------------------------------------------------------------------------------------


def fees(world: StakeWorld, micro: int) -> None:
    """As a settlement would bring them."""
    accounts.post(world.state, "P:user-2", "F", micro)


def test_rewards_to_the_micro() -> None:
    """Commission first, the rest by stake, all rounded down; what is left waits."""
    world = StakeWorld(reward_permille=900, commissions={"node-1": 250})
    world.send("user-1", Delegate("node-1", 5_000_000))
    world.ok()
    world.edge()  # user-1 backs node-1 from here on
    fees(world, 100_003)
    world.absent = {"auditor"}
    before = {name: world.money(name) for name in ("user-1", *FOUNDERS)}
    weights = {candidate.party: candidate.weight for candidate in world.state.each(Candidate)}
    assert set(weights.values()) == {0}
    world.ok()
    world.absent = set()
    world.ok()
    outcome = world.edge()
    # three commits since the edge, of which auditor missed the first: weights 20, 30, 30, 30 of 110
    pot = 100_003 * 900 // 1000
    shares = {name: pot * (20 if name == "auditor" else 30) // 110 for name in FOUNDERS}
    commission = shares["node-1"] // 4
    rest = shares["node-1"] - commission
    gained = {name: world.money(name) - micro for name, micro in before.items()}
    expected = {name: shares[name] for name in ("auditor", "grid", "operator")}
    expected |= {"node-1": commission + rest * 10 // 15, "user-1": rest * 5 // 15}
    assert gained == expected
    left = pot - sum(expected.values())
    assert 0 < left < 5
    assert (world.staking().pot_micro, world.staking().collectable_micro) == (left, 100_003 - pot)
    said = {name: (kept, dict(paid)) for name, kept, paid in rewarded(outcome)}
    assert said["node-1"] == (commission, {"node-1": expected["node-1"], "user-1": expected["user-1"]})
    assert {candidate.weight for candidate in world.state.each(Candidate)} == {0}


def test_the_treasury_collects_its_part_at_any_time_and_never_the_nodes() -> None:
    world = StakeWorld(reward_permille=600)
    fees(world, 1000)
    assert world.refused("grid", CollectFees("operator", 401)) == "funds"
    world.send("grid", CollectFees("operator", 300))
    world.ok()
    assert (world.staking().pot_micro, world.staking().collectable_micro) == (600, 100)
    fees(world, 10)
    assert world.refused("grid", CollectFees("operator", 105)) == "funds"
    world.send("grid", CollectFees("operator", 104))
    world.ok()
    assert world.state.balance_micro("F") == 606


def test_who_does_not_like_a_new_commission_leaves_before_it_is_taken() -> None:
    """user-1 sees it and goes, user-2 stays; both earn the same until the edge at which user-1 leaves."""
    world = StakeWorld(reward_permille=1000)
    for name in ("user-1", "user-2"):
        world.send(name, Delegate("grid", 10_000_000))
    world.ok()
    world.edge()
    world.send("grid", SetCommission(1000))  # in the last block before an edge
    world.ok()

    def edge() -> dict[str, int]:
        """What the backers gain at the next one."""
        accounts.post(world.state, "P:operator", "F", 4000)
        before = {name: world.money(name) for name in ("user-1", "user-2")}
        world.edge()
        return {name: world.money(name) - micro for name, micro in before.items()}

    first = edge()
    assert first["user-1"] == first["user-2"] > 0
    world.send("user-1", Undelegate("grid", 10_000_000))
    world.ok()
    second = edge()
    assert second["user-1"] == second["user-2"] > 0
    assert world.held("user-1", "grid") == {"unbonding": 10_000_000}
    assert edge() == {"user-1": 0, "user-2": 0}, "all of it is grid's commission"


def test_a_chain_that_nobody_signs_keeps_its_pot() -> None:
    world = StakeWorld()
    fees(world, 1000)
    world.absent = set(FOUNDERS)
    world.edge()
    fees(world, 1000)
    world.edge()
    assert world.staking().pot_micro > 0


# --- refusals ----------------------------------------------------------------------------------------------------------


def test_a_chain_that_elects_nobody_refuses_stake() -> None:
    world = World()
    keys = consensus("grid"), key("grid/attest").public
    assert world.refused("grid", RegisterCandidate(*keys, 0, 1)) == "limit"
    assert world.refused("grid", Delegate("grid", 1)) == "unknown_candidate"
    assert world.refused("grid", Undelegate("grid", 1)) == "unknown_candidate"
    assert world.refused("grid", SetCommission(1)) == "unknown_candidate"
    assert world.refused("grid", Unjail()) == "unknown_candidate"
    assert world.refused("grid", VoteUpgrade("reporter-part", 1000)) == "not_yours"
    shown = twice_attested(world, "grid", 1)  # type: ignore[arg-type]
    assert world.refused("grid", DoubleAttestation("grid", *shown)) == "unknown_candidate"  # type: ignore[arg-type]
    assert not [kind for kind in (Candidate, Stake, ValidatorSet) if world.state.count(kind)]


def test_keys_are_taken_for_ever() -> None:
    world = StakeWorld()
    mine, theirs = (consensus("third"), key("third/attest").public), (consensus("grid"), key("grid/attest").public)
    assert world.refused("third", RegisterCandidate(theirs[0], mine[1], 0, 1)) == "exists"
    assert world.refused("third", RegisterCandidate(mine[0], theirs[1], 0, 1)) == "exists"
    assert world.refused("grid", RegisterCandidate(*mine, 0, 1)) == "exists"
    assert world.refused("user-1", RegisterCandidate(*mine, 0, 1)) == "wrong_role"
    assert world.refused("third", RegisterCandidate(*mine, 0, MONEY + 1)) == "funds"
    world.stand("third", MONEY)
    world.ok()
    assert world.money("third") == 0


def test_bounds_on_candidates_and_stake(monkeypatch: pytest.MonkeyPatch) -> None:
    world = StakeWorld()
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 4)
    third = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 10_000_000)
    assert world.refused("third", third) == "limit", "four candidates have the four places, and each is elected"
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 5)
    assert world.accepts("third", third), "the fifth place"
    assert world.refused("third", replace(third, amount_micro=999_999)) == "limit"
    assert world.accepts("third", replace(third, amount_micro=1_000_000)), "the least bond is enough"
    assert world.refused("user-1", Delegate("grid", MAX_STAKE_MICRO)) == "limit"
    assert world.refused("user-1", Delegate("grid", MAX_STAKE_MICRO - 10_000_000)) == "funds"
    world.send("user-1", Delegate("grid", 5))
    world.ok()
    monkeypatch.setattr(stake, "MAX_STAKES_OF_CANDIDATE", 2)
    assert world.refused("user-2", Delegate("grid", 5)) == "limit"
    assert world.accepts("user-1", Undelegate("grid", 4)), "what enters needs no record"
    world.send("user-1", Delegate("grid", 5))  # grows what enters
    world.send("grid", Delegate("grid", 5))  # a node's own bond always finds room
    world.ok()
    world.edge()
    assert world.refused("user-1", Undelegate("grid", 9)) == "limit"
    assert world.accepts("grid", Undelegate("grid", 1)), "nor are they in the way of taking it back in parts"
    monkeypatch.setattr(stake, "MAX_STAKES_OF_CANDIDATE", 1000)
    assert world.accepts("user-1", Undelegate("grid", 9))
    monkeypatch.setattr(stake, "MAX_STAKES_OF_PARTY", 1)
    assert world.refused("user-1", Delegate("grid", 5)) == "limit"
    assert world.refused("user-1", Undelegate("grid", 9)) == "limit"
    world.send("user-1", Undelegate("grid", 10))  # a whole record needs no place
    world.ok()
    assert world.refused("user-1", Undelegate("grid", 1)) == "funds"


@pytest.mark.parametrize("phase", ["entering", "unbonding"])
def test_stake_that_comes_back_pays_the_bond_that_an_order_waits_for(phase: str) -> None:
    world = StakeWorld(owner_micro=1_000_000, epoch_ms=100 * HOUR)
    world.send("owner-1", Delegate("grid", 1_000_000))
    world.ok()
    if phase == "unbonding":
        world.edge()
        world.send("owner-1", Undelegate("grid", 1_000_000))
        world.ok()
        world.edge()
        for _ in range(7):
            world.ok()
    start = world.time_ms + 20 * HOUR
    world.offer(end=start + 2 * HOUR)
    world.bid(start=start, end=start + HOUR)
    world.ok()
    assert (world.held("owner-1", "grid"), world.state.count(Contract)) == ({phase: 1_000_000}, 0)
    if phase == "entering":
        world.send("owner-1", Undelegate("grid", 1_000_000))
    world.ok(time_ms=world.time_ms + 11 * HOUR)
    assert (world.held("owner-1", "grid"), world.state.count(Contract)) == ({}, 1)


def test_many_stakes_of_one_party_become_one_when_they_are_old() -> None:
    world = StakeWorld()
    for _ in range(12):
        world.send("user-1", Delegate("grid", 1_000_000))
        world.ok()
        world.edge()
    records = [s for s in world.state.stakes_of("grid") if s.delegator == "user-1"]
    assert sum(s.amount_micro for s in records) == 12_000_000
    assert len(records) <= 5
    assert any(s.since_height == stake.ALWAYS for s in records)


def test_no_proof_of_a_double_attestation() -> None:
    world = StakeWorld()
    at = world.height

    def code(**over: Any) -> str:
        return world.refused("user-1", shown(**over))

    def shown(**over: Any) -> DoubleAttestation:
        height, node = over.pop("height", at), over.pop("node", "grid")
        return DoubleAttestation("grid", *twice_attested(world, node, height, **over))  # type: ignore[arg-type]

    assert world.accepts("user-1", shown())
    assert code(signer="eve") == "evidence"
    assert code(node="auditor") == "evidence"
    assert code(apart=1) == "evidence"
    assert code(chain_id="other") == "evidence"
    assert world.accepts("user-1", shown(height=at + 1)), "the block being made"
    assert code(height=at + 2) == "evidence", "a block that is not there yet"
    first, signature, *_ = twice_attested(world, "grid", at)  # type: ignore[arg-type]
    assert world.refused("user-1", DoubleAttestation("grid", first, signature, first, signature)) == "evidence"
    assert world.refused("user-1", DoubleAttestation("grid", b"x", signature, first, signature)) == "evidence"
    assert (
        world.refused("user-1", DoubleAttestation("third", first, signature, first, signature)) == "unknown_candidate"
    )
    world.stand("third", 20_000_000)
    world.ok()
    parts = twice_attested(world, "third", world.height)  # type: ignore[arg-type]
    assert world.refused("user-1", DoubleAttestation("third", *parts)) == "evidence", "not elected at that height"
    for _ in range(10):
        world.edge()
    assert code() == "late"


def test_misbehaviour_of_nobody_is_passed_over() -> None:
    world = StakeWorld()
    world.stand("third", 1_000_000)
    world.ok()
    for party, height in (("nobody", world.height), ("third", world.height), ("grid", 0), ("grid", 10**9)):
        world.catch(party, height)
    before = world.state.balance_micro("S:grid")
    world.ok()
    assert (world.state.balance_micro("S:grid"), world.state.balance_micro("S:third")) == (before, 1_000_000)


def test_what_the_leaf_has_no_room_for_does_not_count() -> None:
    """Or nobody could compute the block again from itself."""
    world = StakeWorld()
    world.misbehaviour = (Misbehaviour(bytes(20), 1),) * conduct.MAX_MISBEHAVIOUR
    world.catch("grid", world.height)
    world.ok()
    assert not world.candidate("grid").tombstoned
    world.misbehaviour = (Misbehaviour(bytes(20), 1),) * (conduct.MAX_MISBEHAVIOUR - 1)
    world.catch("grid", world.height)
    world.ok()
    assert world.candidate("grid").tombstoned


def test_nothing_is_heard_in_the_first_block_or_without_a_report() -> None:
    world = World(stake=stake_json(FOUNDERS), more=[("node-1", "third-party")])
    liar = Misbehaviour(stake.address_of(consensus("grid")), 1)
    first = replace(world.env(), signed=(), misbehaviour=(liar,))
    apply_block(world.state, first, [])
    assert not any(candidate.tombstoned or candidate.missed_blocks for candidate in world.state.each(Candidate))
    world.seal()
    world.height = 1
    silent = replace(world.env(), signed=None, misbehaviour=(liar,))
    outcome = apply_block(world.state, silent, [])
    assert outcome.leaves == []
    assert not any(candidate.tombstoned or candidate.missed_blocks for candidate in world.state.each(Candidate))


ADDRESSES = st.sampled_from([stake.address_of(consensus(name)) for name in (*FOUNDERS, "third", "nobody")]) | st.binary(
    max_size=40
)
HEIGHTS = st.integers(0, 12) | st.integers(-(1 << 63), (1 << 63) - 1)


@given(
    st.lists(
        st.tuples(st.lists(ADDRESSES, max_size=8), st.lists(st.tuples(ADDRESSES, HEIGHTS), max_size=4)), max_size=12
    )
)
@bounded(150)
def test_whatever_an_engine_says_keeps_the_invariants_and_can_be_computed_again(
    said: list[tuple[list[bytes], list[tuple[bytes, int]]]],
) -> None:
    """In any order, of anybody and of any height; the leaf of the block is enough to come to the same root."""
    world = StakeWorld(jail_ms=0, epoch_ms=HOUR)
    for signed, found in said:
        world.time_ms += HOUR // 3
        liars = tuple(Misbehaviour(*one) for one in found)
        env = replace(world.env(), signed=tuple(signed), misbehaviour=liars)
        again, other_way = (State.load(world.rows.items(), world.root) for _ in range(2))
        outcome = apply_block(world.state, env, [])
        heard, seen = conduct.engine_report(again, env.height, outcome.leaves)
        assert seen == liars
        assert apply_block(again, replace(env, signed=heard, misbehaviour=seen), []).leaves == outcome.leaves
        shuffled = replace(env, signed=(*reversed(signed), *signed))
        assert apply_block(other_way, shuffled, []).updates == outcome.updates
        world.root = world.seal()
        world.height += 1
        check_in_full(world.state)
        assert again.seal()[0] == other_way.seal()[0] == world.root
        assert world.powers()


# --- upgrades ----------------------------------------------------------------------------------------------------------


def test_two_thirds_of_the_power_are_not_enough_to_decide() -> None:
    world = StakeWorld(dict.fromkeys(("auditor", "grid", "operator"), 5_000_000))
    for number, name in enumerate(("auditor", "grid", "operator")):
        assert world.state.each(Upgrade) == [], number
        world.send(name, VoteUpgrade("reporter-part", 500))
        world.ok()
    assert world.state.each(Upgrade) == [Upgrade("reporter-part", 500)]


def test_more_than_two_thirds_of_the_power_decide_on_a_rule() -> None:
    world = StakeWorld()
    at = world.height + 200
    assert world.refused("third", VoteUpgrade("reporter-part", at)) == "not_yours"
    assert world.refused("grid", VoteUpgrade("reporter-part", world.height + 100)) == "late"
    for name in ("auditor", "grid"):
        world.send(name, VoteUpgrade("reporter-part", at))
    world.send("operator", VoteUpgrade("reporter-part", at + 1))
    world.ok()
    assert world.state.each(Upgrade) == []
    world.send("operator", VoteUpgrade("other", at))
    world.ok()
    assert {row.name: [vote[0] for vote in row.votes] for row in world.state.each(UpgradeVotes)} == {
        "other": ["operator"],
        "reporter-part": ["auditor", "grid"],
    }
    world.send("operator", VoteUpgrade("reporter-part", at))
    world.ok()
    assert world.state.each(Upgrade) == [Upgrade("reporter-part", at)]
    assert world.state.each(UpgradeVotes) == []
    assert world.refused("node-1", VoteUpgrade("reporter-part", at)) == "exists"


def test_who_has_left_the_set_has_no_vote_left_in_what_is_open() -> None:
    """Two of the three that remain are not more than two thirds, whatever the one that left had said."""
    world = StakeWorld()
    say(world, 500, "node-1")
    world.catch("node-1", world.height)
    while "node-1" in world.powers(world.height + 1):
        world.ok()
    say(world, 500, "grid", "operator")
    assert world.state.each(Upgrade) == []
    say(world, 500, "auditor")
    assert world.state.each(Upgrade) == [Upgrade("rule", 500)]


def say(world: StakeWorld, height: int, *nodes: str) -> None:
    """A block with their votes on a rule that this release does not know."""
    for name in nodes:
        world.send(name, VoteUpgrade("rule", height))
    world.ok()


def until(world: StakeWorld, height: int) -> None:
    while world.height < height:
        world.ok()


@pytest.mark.parametrize("decided_by", ["votes", "genesis"])
def test_a_decided_rule_is_put_off_and_called_off_until_the_block_before_it(decided_by: str) -> None:
    world = StakeWorld(upgrades=[{"name": "rule", "height": 150}] if decided_by == "genesis" else [])
    if decided_by == "votes":
        assert world.refused("grid", VoteUpgrade("rule", 0)) == "phase", "nothing to call off"
        say(world, 150, "auditor", "grid", "operator")
    assert world.refused("grid", VoteUpgrade("rule", 150)) == "exists"
    assert world.refused("grid", VoteUpgrade("rule", world.height + 100)) == "late"
    until(world, 99)
    say(world, 200, "auditor", "grid", "operator")
    assert world.state.each(Upgrade) == [Upgrade("rule", 200)]
    until(world, 198)
    say(world, 0, "auditor", "grid", "operator")
    assert world.state.each(Upgrade) == world.state.each(UpgradeVotes) == []
    until(world, 200)


def test_two_of_four_cannot_call_a_rule_off_and_its_own_block_is_too_late() -> None:
    world = StakeWorld(upgrades=[{"name": "rule", "height": 10}])
    until(world, 8)
    say(world, 0, "auditor", "grid")
    world.send("operator", VoteUpgrade("rule", 0))
    with pytest.raises(upgrades.UnknownRuleError):
        world.block()


def test_a_rule_that_has_begun_stays() -> None:
    world = StakeWorld(upgrades=[{"name": "reporter-part", "height": 3}])
    while world.height < 2:
        world.ok()
    for height in (0, 3, 500):
        assert world.refused("grid", VoteUpgrade("reporter-part", height)) == "exists"


@pytest.mark.parametrize("gap", [-1, 0])
def test_the_rule_changes_at_its_height_and_not_before(gap: int) -> None:
    world = StakeWorld(upgrades=[{"name": "reporter-part", "height": 20}])
    while world.height < 19 + gap:
        world.ok()
    world.send("user-1", DoubleAttestation("grid", *twice_attested(world, "grid", world.height)))  # type: ignore[arg-type]
    before, held = world.money("user-1"), world.state.balance_micro("F")
    world.ok()
    assert world.height == 20 + gap
    reward = 50_000 if gap == 0 else 0  # a tenth of 5 % of 10
    assert world.money("user-1") == before + reward
    assert world.state.balance_micro("F") == held + 500_000 - reward
    assert world.staking().collectable_micro == held + 500_000 - reward


def test_a_node_that_does_not_know_a_rule_stops_at_its_height() -> None:
    world = StakeWorld(upgrades=[{"name": "from-the-future", "height": 5}])
    while world.height < 4:
        world.ok()
    before = world.root
    with pytest.raises(upgrades.UnknownRuleError, match="from-the-future holds from block 5 on"):
        apply_block(world.state, world.env(), [])
    assert world.seal() == before, "it stops before it has changed anything"


def test_an_upgrade_needs_no_stake() -> None:
    world = World(upgrades=[{"name": "from-the-future", "height": 1}])
    with pytest.raises(upgrades.UnknownRuleError):
        world.block()


# --- genesis -----------------------------------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    stakes = stake_json(FOUNDERS, **RULES)
    given = genesis(stake=stakes, more=[("node-1", "third-party")], upgrades=[{"name": "reporter-part", "height": 9}])
    found: dict[str, Any] = json.loads(json.dumps(given.to_json()))
    return found


def test_a_genesis_with_stake_survives_its_json_and_has_a_hash_of_its_own() -> None:
    given = genesis_from_json(document())
    again = genesis_from_json(given.to_json())
    assert (again.encoded(), again.stake, again.upgrades) == (given.encoded(), given.stake, given.upgrades)
    plain = document()
    del plain["stake"], plain["upgrades"]
    assert len({genesis_from_json(d).hash() for d in (plain, document(), *changes())}) == 2 + len(changes())


def changes() -> list[dict[str, Any]]:
    """Every value of stake and upgrades, changed."""
    found = []
    for name in RULES | {"jail_ms": 0}:
        changed = document()
        changed["stake"]["rules"][name] += 1
        found.append(changed)
    for name, value in (("consensus", consensus("x").hex()), ("commission_permille", 7), ("bond_micro", 10_000_001)):
        changed = document()
        changed["stake"]["candidates"][0][name] = value
        found.append(changed)
    changed = document()
    changed["upgrades"][0]["height"] += 1
    return [*found, changed]


def spoilt() -> dict[str, Any]:
    """How to spoil a document, and what the message must name."""

    def first(d: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = d["stake"]["candidates"][0]
        return row

    return {
        "no object": (lambda d: d.update(stake=[]), "rules and candidates"),
        "an unknown rule": (lambda d: d["stake"]["rules"].update(extra=1), "extra"),
        "a rule missing": (lambda d: d["stake"]["rules"].pop("jail_ms"), "jail_ms"),
        "three nodes at most": (lambda d: d["stake"]["rules"].update(max_validators=3), "max_validators"),
        "37 nodes": (lambda d: d["stake"]["rules"].update(max_validators=37), "max_validators"),
        "a bond of less than a vote": (
            lambda d: d["stake"]["rules"].update(min_self_bond_micro=999_999),
            "min_self_bond",
        ),
        "a flag for a number": (lambda d: d["stake"]["rules"].update(jail_ms=True), "jail_ms"),
        "nobody stands": (lambda d: d["stake"].update(candidates=[]), "candidates"),
        "an unknown party": (lambda d: first(d).update(party="nobody"), "nobody"),
        "an extra key": (lambda d: first(d).update(extra=1), "a candidate has the keys"),
        "a short key": (lambda d: first(d).update(consensus="00"), "consensus"),
        "no hex": (lambda d: first(d).update(attestation="zz"), "hex"),
        "too small a bond": (lambda d: first(d).update(bond_micro=999_999), "min_self_bond_micro"),
        "a key twice": (lambda d: first(d).update(consensus=consensus("grid").hex()), "keys of their own"),
        "a party twice": (lambda d: first(d).update(party="grid"), "distinct parties"),
        "another power": (lambda d: d["validators"][0].update(power=11), "auditor 10, grid 10, node-1 10, operator 10"),
        "one validator less": (lambda d: d["validators"].pop(), "validators must be the elected"),
        "an upgrade twice": (lambda d: d["upgrades"].append(d["upgrades"][0]), "each name once"),
        "an upgrade without height": (lambda d: d["upgrades"][0].pop("height"), "height"),
        "an upgrade with an extra": (lambda d: d["upgrades"][0].update(extra=1), "name and height"),
        "upgrades as text": (lambda d: d.update(upgrades="abc"), "genesis"),
    }


@pytest.mark.parametrize("what", spoilt())
def test_a_spoilt_founding_is_refused_by_name(what: str) -> None:
    spoil, named = spoilt()[what]
    changed = copy.deepcopy(document())
    spoil(changed)
    with pytest.raises(ConfigError, match=named):
        genesis_from_json(changed)


def test_a_founding_of_the_least_bond_and_the_most_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = document()
    changed["stake"]["rules"]["min_self_bond_micro"] = 10_000_000  # which is what each has put up
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 4)
    assert genesis_from_json(changed).stake is not None
    monkeypatch.setattr(stake, "MAX_CANDIDATES", 3)
    with pytest.raises(ConfigError, match="1 to 3 candidates"):
        genesis_from_json(changed)


def test_founding_bonds_are_money_from_outside() -> None:
    world = StakeWorld()
    state = world.genesis.state()
    check_in_full(state)
    assert {a.name: a.balance_micro for a in state.each(Account)} == {
        "X": -40_000_000,
        **{f"S:{name}": 10_000_000 for name in FOUNDERS},
    }
    assert election.founding_updates(state) == sorted((consensus(name), 10) for name in FOUNDERS)


# --- light clients -----------------------------------------------------------------------------------------------------


def test_the_first_block_of_a_set_repeats_what_a_pile_must_still_serve() -> None:
    """Signed and active contracts; a proposal binds no pile yet, a session that was measured no more."""
    world = StakeWorld(piles=4, epoch_ms=2 * HOUR, sign_window_ms=100 * HOUR, confirm_window_ms=100 * HOUR)
    far = NOW + 40 * HOUR
    for i in range(1, 5):
        world.offer(f"pile-{i}", end=NOW + 90 * HOUR)
    world.bid(pile="pile-1", start=far, end=far + HOUR, explicit=True)
    world.bid(pile="pile-2", start=far, end=far + HOUR)
    world.bid(pile="pile-3")
    world.bid(pile="pile-4")
    world.stand("third", 20_000_000)
    world.ok()
    of_pile = {world.state.terms_of(contract).pile: contract for contract in world.state.each(Contract)}
    proofs = [world.begin(pile=pile, contract=of_pile[pile].id) for pile in ("pile-3", "pile-4")]
    proofs.append(world.end(START + 60_000, 100_100, 1, pile="pile-4", contract=of_pile["pile-4"].id))
    world.submit(*proofs, time_ms=START + 61_000)
    world.edge()
    phases = {world.state.terms_of(contract).pile: contract.phase for contract in world.state.each(Contract)}
    assert phases == {"pile-1": "proposed", "pile-2": "signed", "pile-3": "active", "pile-4": "measured"}
    assert repeated(world.ok()) == []
    serving = [contract.terms for contract in world.state.each(Contract) if contract.phase in {"signed", "active"}]
    assert repeated(world.ok()) == serving
    world.edge()
    assert [repeated(world.ok()) for _ in range(3)] == [[], [], []], "the set is the same, so nothing is repeated"


def repeated(outcome: Any) -> list[bytes]:
    leaves = [decode(leaf, 1 << 17) for leaf in outcome.leaves]
    return [leaf[1] for leaf in leaves if leaf[0] == LEAF_CONTRACT]  # type: ignore[index,misc]


def test_the_largest_set_fits_a_handover() -> None:
    founders = {f"{'n' * 29}-{i:02}": 10**16 - i for i in range(36)}
    stakes = stake_json(founders, max_validators=36)
    given = genesis(stake=stakes, more=[(name, "third-party") for name in founders])
    members = given.state().set_at(1)
    assert members is not None
    assert len(members.encoded()) <= 8192
    validators = list(given.validators)
    attestations: list[list[object]] = [[i, bytes(64)] for i in range(36)]
    largest = encode_handover(Certificate(_header(given), attestations), validators)
    assert len(largest) <= MAX_HANDOVER_BYTES


def _header(given: Genesis) -> bytes:
    return twice_attested(World(), "n" * 32, 1 << 47, chain_id="c" * 32)[0]  # type: ignore[arg-type]


# --- invariants --------------------------------------------------------------------------------------------------------


def spoil(state: State, **changes: object) -> None:
    members = copy.deepcopy(state.validator_sets()[-1].members)
    for place, value in changes.items():
        members[0][int(place[1:])] = value  # type: ignore[call-overload]
    state.put(replace(state.validator_sets()[-1], members=members))


CORRUPTIONS: dict[str, Any] = {
    "holds 10000000 micro, should hold 10000001": lambda s: s.put(
        replace(s.stakes_of("grid")[0], amount_micro=10_000_001)
    ),
    "S:grid holds 10000000 micro, should hold 0": lambda s: s.drop(Stake, s.stakes_of("grid")[0].id),
    "1000000 for accounting nodes": lambda s: s.put(replace(s.get(Staking, "staking"), pot_micro=1_000_000)),
    "-1 for the treasury": lambda s: s.put(replace(s.get(Staking, "staking"), collectable_micro=-1)),
    "has a node or key twice": lambda s: spoil(s, _0="grid"),
    "gives 11 of 41 votes to one node": lambda s: spoil(s, _3=11),
    "has 4 accounting nodes with 30 votes": lambda s: spoil(s, _3=0),
    "has 0 accounting nodes": lambda s: s.put(replace(s.validator_sets()[-1], members=[])),
}


@pytest.mark.parametrize("named", CORRUPTIONS)
def test_a_planted_corruption_of_stake_is_found_and_named(named: str) -> None:
    for find in (check_in_full, None):
        world = StakeWorld()
        world.state.seal()
        CORRUPTIONS[named](world.state)
        with pytest.raises(BrokenInvariantError, match=re.escape(named)):
            find(world.state) if find else apply_block(world.state, world.env(), [])


def test_a_stake_of_nothing_is_found_though_the_sums_hold() -> None:
    """One of the amount 0 is in nobody's way and in every list; one below it takes from its neighbours."""
    for amounts in ((10_000_000, 0), (10_000_001, -1)):
        for is_old in (False, True):
            world = StakeWorld()
            grid = world.state.stakes_of("grid")[0]
            for number, micro in enumerate(amounts):
                world.state.put(replace(grid, id=f"{grid.id}{number}" if number else grid.id, amount_micro=micro))
            if is_old:
                world.state.seal()
            with pytest.raises(BrokenInvariantError, match=rf"S:grid .*{amounts[1]} micro"):
                check_in_full(world.state)


def set_of(*powers: int) -> ValidatorSet:
    """A set of so many accounting nodes with these powers."""
    rows = [
        [f"n{number}", consensus(f"n{number}"), number.to_bytes(33, "big"), power]
        for number, power in enumerate(powers)
    ]
    return replace(StakeWorld().state.validator_sets()[-1], members=rows)


def test_a_set_may_be_as_large_as_the_limits_and_no_larger() -> None:
    most, rest = election.MAX_VALIDATORS, election.MAX_TOTAL_POWER
    quarters = [rest // 4] * 4
    left = rest - sum(quarters)
    for powers in ([1], [1] * most, [*quarters, left]):
        invariants._check_set(set_of(*powers))
    for powers in ([], [1] * (most + 1), [*quarters, left + 1], [1, 1, 1, 1, 0]):
        with pytest.raises(BrokenInvariantError, match="votes"):
            invariants._check_set(set_of(*powers))
