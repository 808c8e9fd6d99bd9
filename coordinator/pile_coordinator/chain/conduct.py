"""What accounting nodes did, and what it costs them: blocks missed, two signatures for one height (stake guide, "Conduct")."""

from dataclasses import replace

from pile_coordinator.chain import accounts, election, stake, upgrades
from pile_coordinator.chain.election import CONSENSUS, LEAF_ENGINE, LEAF_PUNISHED, PARTY, POWER
from pile_coordinator.chain.env import Env, Journal, Misbehaviour
from pile_coordinator.chain.records import Candidate, NodeKey, StakeRules, Staking
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import DoubleAttestation
from pile_shared import cose
from pile_shared.certificate import Header, decode_header
from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

DOUBLE_SIGN, DOUBLE_ATTESTATION, DOWNTIME = "double-sign", "double-attestation", "downtime"
MILLION = 1_000_000
REPORTER_PART = 10  # of what a double attestation costs, to who showed it: one part in so many
MAX_MISBEHAVIOUR = 1000  # of one block that count: every candidate many times over, in a leaf of 32 kB
_ENGINE_LEAF_BYTES = 1 << 16


def begin_block(state: State, env: Env, journal: Journal) -> None:
    """What the engine says of the last block, then the set that comes into force with this one."""
    rules = state.stake_rules
    if rules is None:
        return
    if env.height == 1:
        _note_founding(state, journal)
    elif env.signed is not None:
        _hear_engine(state, env, journal, rules)
    election.come_into_force(state, env, journal)
    election.forget_old_sets(state, env, journal, rules)


def _hear_engine(state: State, env: Env, journal: Journal, rules: StakeRules) -> None:
    """Nothing of this counts unless the block says it too, or nobody could compute the block again."""
    _note_engine(state, env, journal)
    _count_block(state, env, journal, rules)
    for found in env.misbehaviour[:MAX_MISBEHAVIOUR]:
        _punish_misbehaviour(state, env, journal, rules, found)


def _note_founding(state: State, journal: Journal) -> None:
    """What genesis put up, in the first block: before it there is none to say so."""
    for candidate in state.each(Candidate):
        account = accounts.stake_account(candidate.party)
        stake.note_posting(journal, accounts.OUTSIDE, account, state.balance_micro(account))


# --- what the engine said, for whoever computes the block again ----------------------------------------------------------


def _note_engine(state: State, env: Env, journal: Journal) -> None:
    """A leaf with all that entered this block besides its transactions, so that the block can be computed from itself."""
    signed = set(env.signed or ())
    voted = state.set_at(env.height - 1)
    members = voted.members if voted else []
    absent = [i for i, m in enumerate(members) if stake.address_of(m[CONSENSUS]) not in signed]  # type: ignore[arg-type]
    found = [[one.address, one.height] for one in env.misbehaviour[:MAX_MISBEHAVIOUR]]
    journal.leaves.append(encode([LEAF_ENGINE, absent, found]))


def engine_report(
    state: State, height: int, leaves: list[bytes]
) -> tuple[tuple[bytes, ...] | None, tuple[Misbehaviour, ...]]:
    """`signed` and `misbehaviour` of a block's Env, from the leaves of that block and the state before it."""
    if state.stake_rules is None:
        return None, ()
    rows = (decode(leaf, _ENGINE_LEAF_BYTES) for leaf in leaves if leaf[1:2] == bytes([LEAF_ENGINE]))
    row = next(rows, None)
    voted = state.set_at(height - 1)
    if not isinstance(row, list) or voted is None:
        return None, ()
    absent = set(row[1])
    present = [stake.address_of(m[CONSENSUS]) for i, m in enumerate(voted.members) if i not in absent]  # type: ignore[arg-type]
    return tuple(present), tuple(Misbehaviour(address, at) for address, at in row[2])


# --- blocks signed and missed ------------------------------------------------------------------------------------------


def _count_block(state: State, env: Env, journal: Journal, rules: StakeRules) -> None:
    """Who signed the last block earns its power; who missed more than half of a window goes to jail.

    Windows overlap by halves, so that nobody is away for more than half of one at a stretch and is not found, however it lies.
    """
    last, window = env.height - 1, rules.downtime_window_blocks
    voted = state.set_at(last)
    if voted is None:
        return
    if last % window in {0, window // 2}:
        _begin_half(state)
    signed = set(env.signed or ())
    for member in voted.members:
        candidate = state.get(Candidate, member[PARTY])  # type: ignore[arg-type]
        if candidate.tombstoned:
            continue
        if stake.address_of(candidate.consensus) in signed:
            state.put(replace(candidate, weight=candidate.weight + int(member[POWER])))
        elif not candidate.jailed_until_ms:
            _miss(state, env, journal, rules, replace(candidate, missed_blocks=candidate.missed_blocks + 1))


def _begin_half(state: State) -> None:
    for candidate in state.each(Candidate):
        if candidate.missed_blocks or candidate.missed_before:
            state.put(replace(candidate, missed_before=candidate.missed_blocks, missed_blocks=0))


def _miss(state: State, env: Env, journal: Journal, rules: StakeRules, candidate: Candidate) -> None:
    state.put(candidate)
    if 2 * (candidate.missed_before + candidate.missed_blocks) <= rules.downtime_window_blocks:
        return
    cost = _slash(state, candidate.party, env.height - 1, rules.downtime_ppm)
    until_ms = env.time_ms + rules.jail_ms
    state.put(replace(candidate, missed_before=0, missed_blocks=0, jailed_until_ms=until_ms))
    _leave(state, env, journal, candidate.party, DOWNTIME, env.height - 1, cost)


def unjail(state: State, env: Env, sender: str) -> None:
    """A candidate whose time in jail is over may be elected again."""
    candidate = stake.find_candidate(state, sender)
    if candidate.tombstoned:
        raise Rejection("phase", f"{sender} signed two blocks of one height and is never elected again")
    if not candidate.jailed_until_ms:
        raise Rejection("phase", f"{sender} is not in jail")
    if env.time_ms < candidate.jailed_until_ms:
        raise Rejection(
            "phase", f"{sender} is in jail until {candidate.jailed_until_ms} (unix ms), it is {env.time_ms}"
        )
    state.put(replace(candidate, jailed_until_ms=0))


# --- two signatures for one height -------------------------------------------------------------------------------------


def _punish_misbehaviour(state: State, env: Env, journal: Journal, rules: StakeRules, found: Misbehaviour) -> None:
    """Passed over: addresses that are nobody's, heights of sets that are gone or to come, and who was punished already."""
    key = state.find(NodeKey, found.address)
    if key is None or found.height > env.height or not _was_member(state, key.candidate, found.height):
        return
    candidate = state.get(Candidate, key.candidate)
    if not candidate.tombstoned and stake.address_of(candidate.consensus) == found.address:
        _punish_double(state, env, journal, rules, candidate, DOUBLE_SIGN, found.height)


def _was_member(state: State, party: str, height: int) -> bool:
    voted = state.set_at(height)
    return voted is not None and any(m[PARTY] == party for m in voted.members)


def _punish_double(
    state: State, env: Env, journal: Journal, rules: StakeRules, candidate: Candidate, reason: str, height: int
) -> int:
    cost = _slash(state, candidate.party, height, rules.double_sign_ppm)
    state.put(replace(candidate, tombstoned=True, weight=0, missed_before=0, missed_blocks=0))
    _leave(state, env, journal, candidate.party, reason, height, cost)
    return cost


def double_attestation(state: State, env: Env, journal: Journal, sender: str, body: DoubleAttestation) -> None:
    """Two headers of one height, attested with one key: as bad for light clients as a double sign for the chain."""
    candidate = stake.find_candidate(state, body.candidate)
    if candidate.tombstoned:
        raise Rejection("phase", f"{candidate.party} was punished for this already")
    height = _height_of(env.chain_id, body)
    if height < int.from_bytes(state.oldest_sets(1)[0].from_height, "big"):
        raise Rejection("late", f"block {height} is too long ago")
    if height > env.height or not _was_member(state, candidate.party, height):
        raise Rejection("evidence", f"{candidate.party} attests no block {height}")
    for header, signature in ((body.first, body.first_signature), (body.second, body.second_signature)):
        aad = cose.purpose(cose.HEADER, env.chain_id)
        message = cose.to_be_signed(cose.key_id(candidate.attestation), sha256(header), aad)
        if not env.verify(candidate.attestation, message, signature):
            raise Rejection("evidence", f"not attested by the key of {candidate.party}")
    rules = state.stake_rules
    assert rules is not None, "there are candidates"
    cost = _punish_double(state, env, journal, rules, candidate, DOUBLE_ATTESTATION, height)
    if upgrades.in_force(state, env.height, upgrades.REPORTER_PART):
        _pay_reporter(state, journal, sender, cost // REPORTER_PART)


def _height_of(chain_id: str, body: DoubleAttestation) -> int:
    """The height of both headers, if they are two of one."""
    try:
        first, second = decode_header(body.first), decode_header(body.second)
    except PilechainError as error:
        raise Rejection("evidence", f"not two headers: {error}") from error
    if not _is_pair(chain_id, first, second) or body.first == body.second:
        raise Rejection("evidence", "not two headers of one height of this chain")
    return first.height


def _is_pair(chain_id: str, first: Header, second: Header) -> bool:
    return first.chain_id == second.chain_id == chain_id and first.height == second.height


def _pay_reporter(state: State, journal: Journal, reporter: str, amount_micro: int) -> None:
    staking, account = state.get(Staking, stake.STAKING), accounts.party_account(reporter)
    state.put(replace(staking, collectable_micro=staking.collectable_micro - amount_micro))
    accounts.post(state, accounts.FEES, account, amount_micro)
    stake.note_posting(journal, accounts.FEES, account, amount_micro)


# --- what it costs -----------------------------------------------------------------------------------------------------


def _slash(state: State, party: str, height: int, ppm: int) -> int:
    """Take a share, rounded up, of all stake that backed a node at a height; what was taken, micro.

    It goes to the fee account, for the treasury: accounting nodes earn nothing by another's fall.
    """
    cost = 0
    for one in state.stakes_of(party):
        if stake.backed(one, height):
            part = -(-one.amount_micro * ppm // MILLION)
            stake.reduce_stake(state, one, part)
            cost += part
    accounts.post(state, accounts.stake_account(party), accounts.FEES, cost)
    staking = state.get(Staking, stake.STAKING)
    state.put(replace(staking, collectable_micro=staking.collectable_micro + cost))
    return cost


def _leave(state: State, env: Env, journal: Journal, party: str, reason: str, height: int, cost: int) -> None:
    journal.leaves.append(encode([LEAF_PUNISHED, party, reason, height, cost]))
    election.remove(state, env, party, journal)
