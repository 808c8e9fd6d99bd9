"""Stake: candidates for accounting node and what parties put up for them (stake guide, "Stake").

Stake is money in accounts of its own, `S:<candidate>`. A `Stake` record says whose it is and for which heights it backs the
candidate, so that an offence is paid for by exactly those who backed the node when it happened, however they have moved since.
"""

from collections.abc import Iterable
from dataclasses import replace

from pile_coordinator.chain import accounts, orders
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import (
    BONDED,
    ENTERING,
    LEAVING,
    UNBONDING,
    Candidate,
    NodeKey,
    Stake,
    StakeRules,
    Staking,
)
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    MAX_STAKE_MICRO,
    Delegate,
    RegisterCandidate,
    SetCommission,
    Undelegate,
)
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.platform import sha256

LEAF_POSTING = 13
STAKING = "staking"
ADDRESS_BYTES = 20
MAX_CANDIDATES = 128  # three alliances of the largest size, and an election looks at each
MAX_STAKES_OF_CANDIDATE = 1000  # an election, a reward and a slash look at each
MAX_STAKES_OF_PARTY = 32  # of one party for one candidate: one an epoch it delegated in and can still be accused for
ALWAYS = 1  # as `since_height`: since before anything that can be accused


def address_of(consensus: bytes) -> bytes:
    """How CometBFT names an ed25519 key: the first 20 bytes of its SHA-256."""
    return sha256(consensus)[:ADDRESS_BYTES]


def find_candidate(state: State, party: str) -> Candidate:
    """A candidate; Rejection `unknown_candidate` if there is none."""
    candidate = state.find(Candidate, party)
    if candidate is None:
        raise Rejection("unknown_candidate", f"{party} is no candidate")
    return candidate


# --- who stands ------------------------------------------------------------------------------------------------------


def register_candidate(state: State, journal: Journal, sender: str, body: RegisterCandidate) -> None:
    """A party stands for election, with a first stake of its own that is enough for it."""
    rules = state.stake_rules
    if state.find(Candidate, sender) is not None:
        raise Rejection("exists", f"{sender} is a candidate; put up more with `delegate`")
    for key in (address_of(body.consensus), cose.key_id(body.attestation)):
        owner = state.find(NodeKey, key)
        if owner is not None and owner.candidate != sender:
            raise Rejection("exists", "one of these keys is a candidate's")
    if rules is None:
        raise Rejection("limit", "this chain elects no accounting nodes: genesis names them")
    if body.amount_micro < rules.min_self_bond_micro:
        raise Rejection("limit", f"a candidate must put up at least {rules.min_self_bond_micro} micro itself")
    if state.count(Candidate) >= MAX_CANDIDATES:
        _make_room(state, journal, rules)
    add_candidate(state, sender, body.consensus, body.attestation, body.commission_permille)
    _pay_in(state, sender, sender, body.amount_micro)


def _make_room(state: State, journal: Journal, rules: StakeRules) -> None:
    """Of all places, free that of who has the least stake, if it is too little to be elected and answers for nothing.

    Otherwise places could be held for ever for nothing, and the alliance of genesis could be closed by one of its operators.
    """
    stakes = [(state.balance_micro(accounts.stake_account(one.party)), one) for one in state.each(Candidate)]
    for micro, one in sorted(stakes, key=lambda row: (row[0], row[1].party)):
        if micro < rules.min_self_bond_micro and not one.tombstoned and not _is_in_kept_set(state, one.party):
            for stake in state.stakes_of(one.party):
                state.drop(Stake, stake.id)
                release(state, journal, stake, stake.amount_micro)
            state.drop(Candidate, one.party)
            return
    raise Rejection("limit", f"there are {MAX_CANDIDATES} candidates, and each could be elected or has been of late")


def _is_in_kept_set(state: State, party: str) -> bool:
    """Whether a party's node could still be accused of something, or is about to vote."""
    return any(member[0] == party for kept in state.validator_sets() for member in kept.members)


def add_candidate(state: State, party: str, consensus: bytes, attestation: bytes, commission_permille: int) -> None:
    """A candidate and its keys, without stake."""
    state.put(
        Candidate(
            party,
            consensus,
            attestation,
            commission_permille,
            next_commission_permille=commission_permille,
            later_commission_permille=commission_permille,
            jailed_until_ms=0,
            tombstoned=False,
            missed_before=0,
            missed_blocks=0,
            weight=0,
        )
    )
    state.put(NodeKey(address_of(consensus), party))
    state.put(NodeKey(cose.key_id(attestation), party))


def set_commission(state: State, sender: str, body: SetCommission) -> None:
    """From the next epoch edge but one; a backer who does not like it leaves at the next, and has earned by the old one."""
    state.put(replace(find_candidate(state, sender), later_commission_permille=body.commission_permille))


def turn_commissions(state: State) -> None:
    """An epoch edge: what was announced in the last epoch but one holds."""
    for one in state.each(Candidate):
        following, later = one.next_commission_permille, one.later_commission_permille
        if (one.commission_permille, following) != (following, later):
            state.put(replace(one, commission_permille=following, next_commission_permille=later))


# --- putting up and taking back --------------------------------------------------------------------------------------


def delegate(state: State, sender: str, body: Delegate) -> None:
    """Stake for a candidate; it backs the candidate from the set that the next epoch edge elects."""
    candidate = find_candidate(state, body.candidate)
    _check_room(state, candidate.party, sender, body.amount_micro)
    if candidate.tombstoned:
        raise Rejection("phase", f"{candidate.party} signed two blocks of one height and is never elected again")
    _pay_in(state, candidate.party, sender, body.amount_micro)


def _check_room(state: State, candidate: str, delegator: str, amount_micro: int) -> None:
    if state.balance_micro(accounts.stake_account(candidate)) + amount_micro > MAX_STAKE_MICRO:
        raise Rejection("limit", f"a candidate has at most {MAX_STAKE_MICRO} micro of stake")
    stakes = state.stakes_of(candidate)
    own = [stake for stake in stakes if stake.delegator == delegator]
    if any(stake.phase == ENTERING for stake in own):
        return  # it grows, and needs no place
    if len(own) >= MAX_STAKES_OF_PARTY:
        raise Rejection("limit", f"{delegator} has {len(own)} stakes for {candidate}; delegate less often")
    if len(stakes) >= MAX_STAKES_OF_CANDIDATE and delegator != candidate:
        raise Rejection("limit", f"{candidate} has {len(stakes)} stakes; choose another candidate")


def _pay_in(state: State, candidate: str, delegator: str, amount_micro: int) -> None:
    """The grid may owe for energy without limit, but nobody gets a vote for money that is not there."""
    account = accounts.party_account(delegator)
    if state.balance_micro(account) < amount_micro:
        raise Rejection("funds", f"{account} has {state.balance_micro(account)} micro, needs {amount_micro}")
    accounts.post(state, account, accounts.stake_account(candidate), amount_micro)
    add_stake(state, candidate, delegator, ENTERING, 0, 0, amount_micro)


def undelegate(state: State, journal: Journal, sender: str, body: Undelegate) -> None:
    """Stake goes back, the newest first: at once where it has backed nothing yet, else after unbonding."""
    candidate = find_candidate(state, body.candidate).party
    stakes = state.stakes_of(candidate)
    own = [stake for stake in stakes if stake.delegator == sender]
    is_full = len(own) >= MAX_STAKES_OF_PARTY or (len(stakes) >= MAX_STAKES_OF_CANDIDATE and sender != candidate)
    free = [stake for stake in own if stake.phase in {ENTERING, BONDED}]
    if sum(stake.amount_micro for stake in free) < body.amount_micro:
        have = sum(stake.amount_micro for stake in free)
        raise Rejection("funds", f"{sender} has {have} micro at stake for {candidate} that are not leaving")
    left = body.amount_micro
    for stake in sorted(free, key=lambda s: (s.phase != ENTERING, -s.since_height)):
        part = min(left, stake.amount_micro)
        left -= part
        if part:
            _take_back(state, journal, stake, part, is_full=is_full)


def _take_back(state: State, journal: Journal, stake: Stake, part_micro: int, *, is_full: bool) -> None:
    """Of a whole record no new one comes; so what is there can always be taken back."""
    if stake.phase == ENTERING:
        reduce_stake(state, stake, part_micro)
        release(state, journal, stake, part_micro)
        return
    if is_full and part_micro < stake.amount_micro:
        raise Rejection(
            "limit", f"{stake.candidate} has too many stakes: take back a whole one, of {stake.amount_micro} micro"
        )
    reduce_stake(state, stake, part_micro)
    add_stake(state, stake.candidate, stake.delegator, LEAVING, stake.since_height, 0, part_micro)


def release(state: State, journal: Journal, stake: Stake, amount_micro: int) -> None:
    """Stake is its party's money again."""
    account, owner = accounts.stake_account(stake.candidate), accounts.party_account(stake.delegator)
    accounts.post(state, account, owner, amount_micro)
    note_posting(journal, account, owner, amount_micro)
    orders.wake(state, stake.delegator)


def note_posting(journal: Journal, debit: str, credit: str, amount_micro: int) -> None:
    """A leaf about money of stake that no transaction names: the evidence accounts for every micro."""
    journal.leaves.append(encode([LEAF_POSTING, debit, credit, amount_micro]))


# --- the records -----------------------------------------------------------------------------------------------------


def add_stake(
    state: State, candidate: str, delegator: str, phase: str, since_height: int, until_height: int, amount_micro: int
) -> None:
    """Note stake; with what the same party has put up for the same candidate and heights it is one record."""
    key = f"{candidate}/{delegator}/{phase}/{since_height}/{until_height}"
    found = state.find(Stake, key)
    whole = amount_micro + (found.amount_micro if found else 0)
    state.put(Stake(key, candidate, delegator, phase, since_height, until_height, whole))


def reduce_stake(state: State, stake: Stake, amount_micro: int) -> None:
    """Take so much from a record, at most all."""
    if amount_micro == stake.amount_micro:
        state.drop(Stake, stake.id)
    else:
        state.put(replace(stake, amount_micro=stake.amount_micro - amount_micro))


def backed(stake: Stake, height: int) -> bool:
    """Whether this stake stood for what its candidate did at a height."""
    return stake.phase != ENTERING and stake.since_height <= height and (stake.until_height or height + 1) > height


def turn(state: State, from_height: int, oldest_height: int) -> None:
    """An epoch edge: what entered backs the set from `from_height` on, what leaves backs it no more.

    Stake that is older than the oldest kept set is noted as such, so that a party's many small stakes become one.
    """
    for candidate in state.each(Candidate):
        for stake in state.stakes_of(candidate.party):
            phase, since, until = stake.phase, stake.since_height, stake.until_height
            if phase == ENTERING:
                phase, since = BONDED, from_height
            elif phase == LEAVING:
                phase, until = UNBONDING, from_height
            elif phase == BONDED and since <= oldest_height:
                since = ALWAYS
            if (phase, since, until) != (stake.phase, stake.since_height, stake.until_height):
                state.drop(Stake, stake.id)
                add_stake(state, stake.candidate, stake.delegator, phase, since, until, stake.amount_micro)


def release_unbonded(state: State, journal: Journal, oldest_height: int) -> None:
    """Pay back what backed no block that can still be accused: none from `oldest_height` on."""
    for stake in state.each(Stake):
        if stake.phase == UNBONDING and stake.until_height <= oldest_height:
            state.drop(Stake, stake.id)
            release(state, journal, stake, stake.amount_micro)


def bonded_micro(stakes: Iterable[Stake]) -> int:
    """The sum of what stays with a candidate."""
    return sum(stake.amount_micro for stake in stakes if stake.phase == BONDED)


# --- the fee account -------------------------------------------------------------------------------------------------


def divide_fees(state: State, rules: StakeRules) -> Staking:
    """Divide what came in since the last time: for the accounting nodes, rounded down, and for the treasury to collect."""
    staking = state.get(Staking, STAKING)
    fresh = state.balance_micro(accounts.FEES) - staking.pot_micro - staking.collectable_micro
    for_nodes = fresh * rules.reward_permille // 1000
    divided = replace(
        staking,
        pot_micro=staking.pot_micro + for_nodes,
        collectable_micro=staking.collectable_micro + fresh - for_nodes,
    )
    if divided != staking:
        state.put(divided)
    return divided


def collect(state: State, amount_micro: int) -> None:
    """The treasury takes fees; Rejection `funds` for what is the accounting nodes'. Nothing to do without stake rules."""
    rules = state.stake_rules
    if rules is None:
        return
    staking = divide_fees(state, rules)
    if staking.collectable_micro < amount_micro:
        nodes = f"{staking.pot_micro} are the accounting nodes'"
        raise Rejection("funds", f"{staking.collectable_micro} micro of fees may be collected, {nodes}")
    state.put(replace(staking, collectable_micro=staking.collectable_micro - amount_micro))
