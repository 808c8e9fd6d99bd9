"""Admission of metering proofs: what a pile signed becomes what the chain believes.

Per proof: known pile key, signature, sequence = last + 1, hash chain. A proof that passes these advances the pile's
chain whatever it says, so that a pile is never stuck behind its own past; but a register that falls, time that runs
backwards, more energy than rated power can give, or two proofs of one sequence (a fork) is an anomaly: it is recorded,
freezes the session at its last verified reading, and is never rebased. While it stands, the pile gets no new contract.
"""

from dataclasses import replace
from functools import lru_cache

from pile_coordinator.chain import contracts, settlement
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import ACTIVE, SIGNED, Contract, Pile, PileKey, Zone
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import SubmitProofs
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import ALARM, BEGIN, END, USER_REASONS, Proof, parse, proof_hash

# What became of one proof of a batch, in the order of the checks. An admitted one advances its pile's chain, a fork is
# recorded against its pile, and the others change nothing: a bad proof never holds up the good ones sent with it.
MALFORMED, UNKNOWN_PILE, GAP, DUPLICATE, BAD_SIGNATURE, FORK, UNCHAINED, ADMITTED = (
    "malformed",
    "unknown_pile",
    "gap",
    "duplicate",
    "bad_signature",
    "fork",
    "unchained",
    "admitted",
)

MAX_PARSED = 16_384  # proofs of the blocks in hand; about 2 kB each
MAX_CLOCK_AHEAD_MS = 600_000  # a pile's clock may run ten minutes ahead of the block's
POWER_MARGIN_PERMILLE = 1100  # meters and clocks are read a moment apart
REGISTER_STEP_WH = 100  # the coarsest energy register in use counts tenths of a kWh (Carlo Gavazzi EM24)


@lru_cache(MAX_PARSED)
def parse_proof(message: bytes) -> tuple[cose.Sign1, Proof]:
    """A proof's parts, not verified. Pure, so remembered: ingest, chain and evidence each look at every proof."""
    return parse(message)


def admit_batch(state: State, env: Env, journal: Journal, body: SubmitProofs) -> list[object]:
    """Admit proofs one by one, in order; what became of each."""
    return [_admit(state, env, journal, message) for message in body.proofs]


def _admit(state: State, env: Env, journal: Journal, message: bytes) -> str:
    try:
        signed, proof = parse_proof(message)
    except PilechainError:
        return MALFORMED
    key = state.find(PileKey, signed.kid)
    if key is None:
        return UNKNOWN_PILE
    pile = state.get(Pile, key.pile)
    if pile.retired:
        return UNKNOWN_PILE
    if proof.sequence > pile.last_sequence + 1:
        return GAP
    digest = proof_hash(message)
    if proof.sequence < pile.last_sequence or digest == pile.last_hash:
        return DUPLICATE
    to_be_signed = cose.to_be_signed(signed.kid, signed.payload, cose.purpose(cose.PROOF, env.chain_id))
    if not env.verify(pile.public, to_be_signed, signed.signature):
        return BAD_SIGNATURE
    if proof.sequence == pile.last_sequence:
        state.put(replace(pile, anomaly=pile.anomaly or "fork"))
        return FORK
    if proof.previous != pile.last_hash:
        return UNCHAINED
    journal.receipts[pile.id] = None
    _advance(state, env, journal, pile, proof, digest)
    return ADMITTED


def _advance(state: State, env: Env, journal: Journal, pile: Pile, proof: Proof, digest: bytes) -> None:
    running = _running(state, pile.id)
    anomaly = _anomaly(env, pile, proof, running)
    frozen = pile.anomaly if running is not None or not proof.readings else ""
    believed = bool(proof.readings) and not (frozen or anomaly)
    moved = Pile(  # not by `replace`, which takes twice as long: this is what a chain does most
        pile.id,
        pile.owner,
        pile.public,
        pile.meter_model,
        pile.meter_serial,
        pile.zone,
        pile.rated_power_w,
        last_sequence=proof.sequence,
        last_hash=digest,
        last_time_ms=proof.readings[-1].time_ms if believed else pile.last_time_ms,
        last_energy_wh=proof.readings[-1].energy_wh if believed else pile.last_energy_wh,
        anomaly=frozen or anomaly,
        admitted=pile.admitted + 1,
        retired=pile.retired,
    )
    state.put(moved)
    if pile.anomaly and not moved.anomaly:  # bids may have waited for this pile
        state.put(replace(state.get(Zone, pile.zone), dirty=True))
    if proof.event == BEGIN and running is None:
        _begin(state, env, journal, moved, proof, digest, believed=believed)
    elif running is not None and proof.contract == running.id:
        _go_on(state, env, journal, running, proof, digest, believed=believed)
    _witness(state, env, journal, moved, proof, believed=believed)


def _anomaly(env: Env, pile: Pile, proof: Proof, running: Contract | None) -> str:
    """Why a proof's readings cannot be believed, or ""."""
    if not proof.readings:
        return ""
    first, last = proof.readings[0], proof.readings[-1]
    if last.time_ms > env.time_ms + MAX_CLOCK_AHEAD_MS:
        return "clock ahead"
    if pile.last_time_ms and first.time_ms < pile.last_time_ms:
        return "time fell"
    if pile.last_time_ms and first.energy_wh < pile.last_energy_wh:
        return "register fell"
    if running is not None and proof.event == BEGIN:
        return "second begin"
    # Since the last proof, and since the session began: many small steps, each within the slack, must not add up.
    since = [(first.time_ms, first.energy_wh)]
    if pile.last_time_ms:
        since.append((pile.last_time_ms, pile.last_energy_wh))
    if running is not None:
        since.append((running.begin_time_ms, running.begin_energy_wh))
    if any(last.energy_wh - energy_wh > _most_wh(pile, last.time_ms - time_ms) for time_ms, energy_wh in since):
        return "more than rated power"
    return ""


def _most_wh(pile: Pile, elapsed_ms: int) -> int:
    """The most a pile can have delivered: rated power with a margin, and one step of a coarse register."""
    return pile.rated_power_w * elapsed_ms * POWER_MARGIN_PERMILLE // 3_600_000_000 + REGISTER_STEP_WH


def _running(state: State, pile: str) -> Contract | None:
    """The contract a pile is delivering under, if any."""
    for contract in state.contracts_on(pile):
        if contract.phase == ACTIVE:
            return contract
    return None


def _begin(
    state: State, env: Env, journal: Journal, pile: Pile, proof: Proof, digest: bytes, *, believed: bool
) -> None:
    """Signed -> active; or defaulted, for a begin by the pile that breaks the terms: the user came and is not a no-show."""
    contract = state.find(Contract, proof.contract or b"")
    if contract is None or contract.phase != SIGNED or proof.origin is None:
        return
    terms = state.terms_of(contract)
    first, last = proof.readings[0], proof.readings[-1]
    if terms.pile != pile.id or (believed and first.time_ms > contracts.begin_until_ms(terms)):
        return  # too late is the user's doing: `_witness` ends it
    if believed and first.time_ms >= terms.window_start_ms and proof.origin.serial == terms.meter_serial:
        begun = contracts.activate(state, contract, first.time_ms, first.energy_wh)
        state.put(replace(begun, last_energy_wh=last.energy_wh, evidence=sha256(contract.evidence + digest)))
    else:
        contracts.never_began(state, env, journal, replace(contract, available=False))


def _go_on(
    state: State, env: Env, journal: Journal, contract: Contract, proof: Proof, digest: bytes, *, believed: bool
) -> None:
    if believed:
        evidence = sha256(contract.evidence + digest)
        contract = replace(contract, last_energy_wh=proof.readings[-1].energy_wh, evidence=evidence)
    if proof.event == END:
        by_user = believed and proof.reason in USER_REASONS
        contracts.measure(state, env, journal, contract, settlement.CAUSE_USER if by_user else settlement.CAUSE_PILE)
    else:
        state.put(contract)


def _witness(state: State, env: Env, journal: Journal, pile: Pile, proof: Proof, *, believed: bool) -> None:
    """What a proof shows of sessions that have not begun: whether the pile is there for their users, or that it is too late.

    A believed reading inside the begin grace shows that the pile is there, unless it comes with an alarm or from another
    session that ran over, its end included; its last word counts. One after the grace shows that the session never began.
    """
    ready = believed and proof.event not in {ALARM, END} and _running(state, pile.id) is None
    for contract in state.contracts_on(pile.id):
        if contract.phase != SIGNED:
            continue
        terms = state.terms_of(contract)
        until_ms = contracts.begin_until_ms(terms)
        is_late = believed and proof.readings[0].time_ms > until_ms
        is_inside = any(terms.window_start_ms <= reading.time_ms <= until_ms for reading in proof.readings)
        available = ready if is_inside else contract.available and (ready or is_late)
        if available != contract.available:
            contract = replace(contract, available=available)  # noqa: PLW2901 - the same contract, one step on
            state.put(contract)
        if believed and proof.readings[-1].time_ms > until_ms:
            contracts.never_began(state, env, journal, contract)
