"""What the chain says about its accounting nodes, for those who ask: candidates, powers, what one has put up, votes."""

from dataclasses import fields
from itertools import islice
from typing import cast

from pile_coordinator.amounts import money
from pile_coordinator.chain import election, stake
from pile_coordinator.chain.epochs import EPOCH
from pile_coordinator.chain.records import (
    BONDED,
    ENTERING,
    Candidate,
    Epoch,
    Stake,
    StakeRules,
    Staking,
    Upgrade,
    UpgradeVotes,
)
from pile_coordinator.chain.state import State
from pile_coordinator.chain.upgrades import KNOWN

MAX_ROWS = 500  # of each kind in one answer


def stake_answer(state: State, height: int, party: str) -> dict[str, object]:
    """The answer to the question `stake`, after block `height` (docs/wire-format.cddl, stake-answer)."""
    rules, staking = state.stake_rules, state.find(Staking, stake.STAKING)
    voted = state.set_at(height + 1)
    powers = {row[election.PARTY]: row[election.POWER] for row in voted.members} if voted else {}
    own = (one for one in state.each(Stake) if one.delegator == party)
    return {
        "candidates": [_candidate_row(state, one, powers.get(one.party, 0)) for one in state.each(Candidate)],
        "collectable_micro": staking.collectable_micro if staking else 0,
        "height": height,
        "next_edge_ms": state.get(Epoch, EPOCH).next_edge_ms,
        "own": [_stake_row(one) for one in islice(own, MAX_ROWS)],
        "pot_micro": staking.pot_micro if staking else 0,
        "rules": _rules(rules) if rules else None,
        "upgrades": [[one.name, one.height, one.name in KNOWN] for one in state.each(Upgrade)[:MAX_ROWS]],
        "votes": [[one.name, *vote] for one in state.each(UpgradeVotes) for vote in one.votes][:MAX_ROWS],
    }


def node_event(leaf: list[object], currency: str) -> str:
    """What a leaf says about accounting nodes, for people; "" for one that says nothing they must know at once."""
    if leaf[0] == election.LEAF_SET:
        _, first, members = leaf
        powers = ", ".join(
            str(m[election.PARTY]) + f" {m[election.POWER]!r}" for m in cast("list[election.Member]", members)
        )
        return f"accounting nodes from block {first} on, with their power: {powers}"
    if leaf[0] == election.LEAF_PUNISHED:
        _, party, reason, height, cost_micro = leaf
        return (
            f"{party} is punished for {reason} at block {height}: {money(cast('int', cost_micro))} {currency} of stake"
        )
    return ""


def _rules(rules: StakeRules) -> dict[str, int]:
    return {field.name: getattr(rules, field.name) for field in fields(rules) if field.name != "name"}


def _candidate_row(state: State, one: Candidate, power: str | bytes | int) -> dict[str, object]:
    """Stake as the next election would count it, the commission from then on, and that from the next but one."""
    stakes = [row for row in state.stakes_of(one.party) if row.phase in {ENTERING, BONDED}]
    return {
        "commission_permille": one.next_commission_permille,
        "jailed_until_ms": one.jailed_until_ms,
        "later_commission_permille": one.later_commission_permille,
        "own_micro": sum(row.amount_micro for row in stakes if row.delegator == one.party),
        "party": one.party,
        "power": power,
        "stake_micro": sum(row.amount_micro for row in stakes),
        "tombstoned": one.tombstoned,
    }


def _stake_row(one: Stake) -> dict[str, object]:
    return {
        "amount_micro": one.amount_micro,
        "candidate": one.candidate,
        "phase": one.phase,
        "since_height": one.since_height,
        "until_height": one.until_height,
    }
