"""Who runs the chain: elections at epoch edges, voting power, rewards, sets by height (stake guide, "Election").

What a block decides acts two blocks later, as CometBFT has it. Its set for a height and the one that attests that height's
header are the same, so whoever follows certificates follows the votes.
"""

from dataclasses import replace

from pile_coordinator.chain import accounts, stake
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import (
    ACTIVE,
    BONDED,
    LEAVING,
    SIGNED,
    Candidate,
    Contract,
    StakeRules,
    ValidatorSet,
)
from pile_coordinator.chain.state import State, set_key
from pile_shared.certificate import Validator
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CONTRACT

LEAF_ENGINE, LEAF_SET, LEAF_PUNISHED, LEAF_REWARD = 9, 10, 11, 12
POWER_UNIT_MICRO = 1_000_000  # one vote: 1 of the currency
ACTS_AFTER_BLOCKS = 2  # validator updates of block H hold from H + 2 on (CometBFT, FinalizeBlock)
MOST_OF_POWER = 4  # nobody has more than one part in so many
MAX_TOTAL_POWER = ((1 << 63) - 1) // 8  # CometBFT's MaxTotalVotingPower
MIN_VALIDATORS = 4  # fewer cannot keep to that
MAX_VALIDATORS = 36  # two sets with the longest names fit a handover message of 8192 bytes

Member = list[str | bytes | int]
PARTY, CONSENSUS, ATTESTATION, POWER, STAKE = range(5)  # of a member


# --- sets by height ----------------------------------------------------------------------------------------------------


def certified_set(state: State, height: int) -> list[Validator] | None:
    """Who attests a block, as light clients know it: after block H known up to H + 2. None if nobody is elected here."""
    found = state.set_at(height)
    return None if found is None else certified(found.members)


def certified(members: list[Member]) -> list[Validator]:
    """What light clients are told of a set's members, as a record or a leaf has them."""
    return [Validator(m[PARTY], m[ATTESTATION], m[POWER]) for m in members]  # type: ignore[arg-type]


def addresses_at(state: State, height: int, parties: frozenset[str] | set[str]) -> tuple[bytes, ...]:
    """The consensus addresses of those of `parties` that vote on a block."""
    found = state.set_at(height)
    members = found.members if found else []
    return tuple(stake.address_of(m[CONSENSUS]) for m in members if m[PARTY] in parties)  # type: ignore[arg-type]


def updates(state: State, height: int) -> list[tuple[bytes, int]]:
    """What block `height` changed, for its engine: (ed25519 key, power), 0 for who leaves, in order of key."""
    decided = state.find(ValidatorSet, set_key(height + ACTS_AFTER_BLOCKS))
    if decided is None:
        return []
    before = state.set_at(height + ACTS_AFTER_BLOCKS - 1)
    old = _powers(before) if before else {}
    new = _powers(decided)
    changed = [(key, new.get(key, 0)) for key in sorted(old.keys() | new.keys())]
    return [(key, power) for key, power in changed if old.get(key, 0) != power]


def founding_updates(state: State) -> list[tuple[bytes, int]]:
    """The set of block 1, for an engine that starts a chain: (ed25519 key, power), in order of key."""
    founding = state.set_at(1)
    return sorted(_powers(founding).items()) if founding else []


def _powers(of: ValidatorSet) -> dict[bytes, int]:
    return {m[CONSENSUS]: m[POWER] for m in of.members}  # type: ignore[misc]


def come_into_force(state: State, env: Env, journal: Journal) -> None:
    """If this block is the first of a set: the one before has ended, and open contracts are certified anew.

    A pile believes the newest set only (docs/adr/0014), so the new set says again what binds it.
    """
    if env.height == 1 or state.find(ValidatorSet, set_key(env.height)) is None:
        return
    before = state.set_at(env.height - 1)
    if before is not None:
        state.put(replace(before, ended_ms=env.time_ms))
    if _fields(certified_set(state, env.height)) != _fields(certified_set(state, env.height - 1)):
        for contract in state.each(Contract):
            if contract.phase in {SIGNED, ACTIVE}:
                journal.leaves.append(encode([LEAF_CONTRACT, contract.terms]))


def _fields(validators: list[Validator] | None) -> list[list[object]]:
    return [validator.fields() for validator in validators or []]


def forget_old_sets(state: State, env: Env, journal: Journal, rules: StakeRules) -> None:
    """Drop sets under which nothing can be accused any more, and pay back the stake that backed no later one."""
    oldest = state.oldest_sets(2)
    is_any_gone = False
    while len(oldest) == 2 and _is_too_old(oldest[0], oldest[1], env, rules):
        state.drop(ValidatorSet, oldest[0].from_height)
        oldest, is_any_gone = state.oldest_sets(2), True
    if is_any_gone:
        stake.release_unbonded(state, journal, _from(oldest[0]))


def _is_too_old(old: ValidatorSet, following: ValidatorSet, env: Env, rules: StakeRules) -> bool:
    """Evidence expires when it is too old by blocks AND by time (CometBFT, evidence parameters)."""
    last_height = _from(following) - 1
    by_height = env.height - last_height > rules.evidence_age_blocks
    return by_height and old.ended_ms > 0 and env.time_ms - old.ended_ms > rules.evidence_age_ms


def _from(of: ValidatorSet) -> int:
    return int.from_bytes(of.from_height, "big")


# --- electing ----------------------------------------------------------------------------------------------------------


def turn(state: State, env: Env, journal: Journal) -> None:
    """An epoch edge: pay who signed, let stake come and go, elect the set of two blocks on."""
    rules = state.stake_rules
    if rules is None:
        return
    _reward(state, journal, rules)
    stake.turn_commissions(state)
    from_height = env.height + ACTS_AFTER_BLOCKS
    stake.turn(state, from_height, _from(state.oldest_sets(1)[0]))
    elected = elect(state, rules)
    if not elected:
        elected = _latest(state).members  # a chain without accounting nodes could never elect any
    _decide(state, from_height, elected, journal)


def elect(state: State, rules: StakeRules) -> list[Member]:
    """The candidates with the most stake and enough of their own, ties by address; in order of party."""
    rows: list[tuple[int, bytes, Candidate]] = []
    for candidate in state.each(Candidate):
        stakes = state.stakes_of(candidate.party)
        own = stake.bonded_micro(s for s in stakes if s.delegator == candidate.party)
        if own >= rules.min_self_bond_micro and not candidate.jailed_until_ms and not candidate.tombstoned:
            rows.append((-stake.bonded_micro(stakes), stake.address_of(candidate.consensus), candidate))
    elected = sorted(rows, key=lambda row: row[:2])[: rules.max_validators]
    members: list[Member] = [[c.party, c.consensus, c.attestation, 0, -stakes] for stakes, _, c in elected]
    return _with_power(members)


def _with_power(members: list[Member]) -> list[Member]:
    powers = capped([int(m[STAKE]) // POWER_UNIT_MICRO for m in members])
    rows: list[Member] = [[*m[:POWER], power, m[STAKE]] for m, power in zip(members, powers, strict=True)]
    return sorted(rows, key=lambda m: m[PARTY])


def capped(powers: list[int]) -> list[int]:
    """Cut the largest to one height, so that none exceeds a quarter of what is then the sum; fewer than four are made equal.

    The height h is the greatest with 4 h <= the sum of min(p, h). If k are cut, that is 4 h <= k h + the rest, so h is the
    least of rest / (4 - k) over k = 0..3: each bound holds whatever k is, and for the true k it is enough.
    """
    if len(powers) < MOST_OF_POWER:
        return [min(powers)] * len(powers) if powers else []
    ordered = sorted(powers, reverse=True)
    height = min(sum(ordered[cut:]) // (MOST_OF_POWER - cut) for cut in range(MOST_OF_POWER))
    return [min(power, height) for power in powers]


def remove(state: State, env: Env, party: str, journal: Journal) -> None:
    """A member leaves between elections, two blocks on. The last one stays: an empty set could never elect another."""
    latest = _latest(state)
    left = [m for m in latest.members if m[PARTY] != party]
    if left and len(left) < len(latest.members):
        _decide(state, env.height + ACTS_AFTER_BLOCKS, _with_power(left), journal)


def _latest(state: State) -> ValidatorSet:
    (latest,) = state.newest_sets(1)
    return latest


def _decide(state: State, from_height: int, members: list[Member], journal: Journal) -> None:
    state.put(ValidatorSet(set_key(from_height), members, 0))
    journal.leaves.append(encode([LEAF_SET, from_height, members]))


# --- rewards -----------------------------------------------------------------------------------------------------------


def _reward(state: State, journal: Journal, rules: StakeRules) -> None:
    """Divide the pot by power x blocks signed; what rounding leaves waits for the next time."""
    staking = stake.divide_fees(state, rules)
    earners = [candidate for candidate in state.each(Candidate) if candidate.weight]
    whole = sum(candidate.weight for candidate in earners)
    paid = 0
    for candidate in earners:
        paid += _pay(state, journal, candidate, staking.pot_micro * candidate.weight // whole)
        state.put(replace(candidate, weight=0))
    if paid:
        state.put(replace(staking, pot_micro=staking.pot_micro - paid))


def _pay(state: State, journal: Journal, candidate: Candidate, share_micro: int) -> int:
    """A candidate's commission, then its backers' parts of the rest; what was paid, which is at most the share.

    Orders that wait for a party's money need no word of it: at an edge every zone is cleared.
    """
    commission = share_micro * candidate.commission_permille // 1000
    backers: dict[str, int] = {}
    for one in state.stakes_of(candidate.party):
        if one.phase in {BONDED, LEAVING}:
            backers[one.delegator] = backers.get(one.delegator, 0) + one.amount_micro
    whole = sum(backers.values())
    parts = {candidate.party: commission}
    for party, amount in backers.items():
        parts[party] = parts.get(party, 0) + (share_micro - commission) * amount // whole
    for party, part in sorted(parts.items()):
        accounts.post(state, accounts.FEES, accounts.party_account(party), part)
    paid = [[party, part] for party, part in sorted(parts.items()) if part]
    journal.leaves.append(encode([LEAF_REWARD, candidate.party, commission, paid]))
    return sum(parts.values())
