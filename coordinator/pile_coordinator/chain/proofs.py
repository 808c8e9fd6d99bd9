"""Admission of metering proofs: what a pile signed becomes what the chain believes.

Per proof: known pile key, signature, sequence = last + 1, hash chain. A proof that passes these advances the pile's
chain whatever it says, so that a pile is never stuck behind its own past; but a register that falls, time that runs
backwards, or more energy than rated power can give is an anomaly: it is recorded, freezes the session at its last
verified reading, and is never rebased.
"""

from dataclasses import replace

from pile_coordinator.chain import contracts, settlement
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import ACTIVE, SIGNED, Contract, Pile, PileKey
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import SubmitProofs
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, MAX_PROOF_BYTES, USER_REASONS, Proof, decode_payload, proof_hash
from pile_shared.units import LOT_WH

# What became of one proof of a batch; only the first changes anything. The order is the order of the checks.
ADMITTED, DUPLICATE, MALFORMED, UNKNOWN_PILE, GAP, FORK, UNCHAINED, BAD_SIGNATURE = (
    "admitted",
    "duplicate",
    "malformed",
    "unknown_pile",
    "gap",
    "fork",
    "unchained",
    "bad_signature",
)

MAX_CLOCK_AHEAD_MS = 600_000  # a pile's clock may run ten minutes ahead of the block's
POWER_MARGIN_PERMILLE = 1100  # meters and clocks are read a moment apart


def admit_batch(state: State, env: Env, journal: Journal, body: SubmitProofs) -> list[object]:
    """Admit proofs one by one, in order; what became of each. Rejection if none is admitted or known already."""
    outcomes = [_admit(state, env, journal, message) for message in body.proofs]
    if not {ADMITTED, DUPLICATE} & set(outcomes):
        raise Rejection("bounds", f"no proof of the batch can be admitted: {', '.join(sorted(set(outcomes)))}")
    return list(outcomes)


def _admit(state: State, env: Env, journal: Journal, message: bytes) -> str:
    try:
        signed = cose.parse1(message, MAX_PROOF_BYTES)
        proof = decode_payload(signed.payload)
    except PilechainError:
        return MALFORMED
    key = state.find(PileKey, signed.kid)
    if key is None:
        return UNKNOWN_PILE
    pile = state.get(Pile, key.pile)
    if proof.sequence > pile.last_sequence + 1:
        return GAP
    digest = proof_hash(message)
    if proof.sequence < pile.last_sequence or digest == pile.last_hash:
        return DUPLICATE
    to_be_signed = cose.to_be_signed(signed.kid, signed.payload, cose.purpose(cose.PROOF, env.chain_id))
    if not env.verify(pile.public, to_be_signed, signed.signature):
        return BAD_SIGNATURE
    if proof.sequence == pile.last_sequence:
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
    moved = replace(pile, last_sequence=proof.sequence, last_hash=digest, anomaly=frozen or anomaly)
    believed = bool(proof.readings) and not moved.anomaly
    if believed:
        last = proof.readings[-1]
        moved = replace(moved, last_time_ms=last.time_ms, last_energy_wh=last.energy_wh)
    state.put(moved)
    if proof.event == BEGIN and running is None and believed:
        _begin(state, moved, proof, digest)
    elif running is not None and proof.contract == running.id:
        _go_on(state, env, journal, running, proof, digest, believed=believed)
    if believed:
        _witness(state, env, journal, moved, proof.readings[-1].time_ms)


def _anomaly(env: Env, pile: Pile, proof: Proof, running: Contract | None) -> str:
    """Why a proof's readings cannot be believed, or ""."""
    if not proof.readings:
        return ""
    first, last = proof.readings[0], proof.readings[-1]
    if last.time_ms > env.time_ms + MAX_CLOCK_AHEAD_MS:
        return "clock ahead"
    if pile.last_time_ms == 0:
        return ""
    if first.time_ms < pile.last_time_ms:
        return "time fell"
    if first.energy_wh < pile.last_energy_wh:
        return "register fell"
    if running is not None:
        elapsed_ms = last.time_ms - pile.last_time_ms
        most_wh = pile.rated_power_w * elapsed_ms * POWER_MARGIN_PERMILLE // 3_600_000_000
        if last.energy_wh - pile.last_energy_wh > most_wh + LOT_WH:
            return "more than rated power"
    return ""


def _running(state: State, pile: str) -> Contract | None:
    """The contract a pile is delivering under, if any."""
    for contract in state.contracts_on(pile):
        if contract.phase == ACTIVE:
            return contract
    return None


def _begin(state: State, pile: Pile, proof: Proof, digest: bytes) -> None:
    contract = state.find(Contract, proof.contract or b"")
    if contract is None or contract.phase != SIGNED or proof.origin is None:
        return
    terms = state.terms_of(contract)
    first, last = proof.readings[0], proof.readings[-1]
    in_time = terms.window_start_ms <= first.time_ms <= contracts.begin_until_ms(terms)
    if terms.pile == pile.id and in_time and proof.origin.serial == pile.meter_serial:
        begun = contracts.activate(state, contract, first.energy_wh)
        state.put(replace(begun, last_energy_wh=last.energy_wh, evidence=sha256(contract.evidence + digest)))


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


def _witness(state: State, env: Env, journal: Journal, pile: Pile, time_ms: int) -> None:
    """A believed reading shows that the pile was there; one after the grace shows that an unbegun session never began."""
    for contract in state.contracts_on(pile.id):
        if contract.phase != SIGNED:
            continue
        terms = state.terms_of(contract)
        if time_ms > contracts.begin_until_ms(terms):
            contracts.never_began(state, env, journal, contract)
        elif time_ms >= terms.window_start_ms and not contract.available:
            state.put(replace(contract, available=True))
