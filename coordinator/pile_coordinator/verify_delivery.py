"""Link `chain` of a verification, the metering: the pile's own proofs give the energy and the cause of a settlement."""

from pile_coordinator.chain.contracts import NO_EVIDENCE, begin_until_ms, cause_that_counts
from pile_coordinator.chain.settlement import CAUSE_NONE, CAUSE_PILE, CAUSE_USER, Statement
from pile_coordinator.verify_signed import VerifyError, breaking
from pile_shared import cose
from pile_shared.certificate import Header
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, MAX_PROOF_BYTES, USER_REASONS, Proof, decode_payload, proof_hash
from pile_shared.terms import Terms

MEASURED_CAUSES = (CAUSE_NONE, CAUSE_USER, CAUSE_PILE)  # of a session that began

Proofs = list[tuple[bytes, Proof]]


def read_proofs(messages: tuple[bytes, ...], terms: Terms, chain_id: str) -> Proofs:
    """The proofs, each signed by the contract's pile and following the one before it."""
    proofs: Proofs = []
    for message in messages:
        with breaking("signature"):
            signed = cose.parse1(message, MAX_PROOF_BYTES)
            signed.verify(terms.pile_public, cose.purpose(cose.PROOF, chain_id))
            proof = decode_payload(signed.payload)
        if proofs:
            before, last = proofs[-1]
            if proof.previous != proof_hash(before) or proof.sequence != last.sequence + 1:
                raise VerifyError("chain", f"metering proof {proof.sequence} does not follow the one before it")
        proofs.append((message, proof))
    return proofs


def check_not_begun(statement: Statement, proofs: Proofs) -> None:
    """Where no session began, nothing was metered."""
    if proofs or statement.measured_wh or statement.evidence != NO_EVIDENCE:
        raise VerifyError("chain", f"a contract that ended by {statement.cause} has no metering")


def check_metered(terms: Terms, statement: Statement, settled: Header, proofs: Proofs) -> None:
    """The proofs are those that were settled, from begin on; M is their energy, and the cause follows from the last."""
    counted = _counted(terms, statement, proofs)
    first, last = counted[0], counted[-1]
    if not terms.window_start_ms <= first.readings[0].time_ms <= begin_until_ms(terms):
        raise VerifyError("chain", "the session began outside the contract's window")
    if first.origin is None or first.origin.serial != terms.meter_serial:
        raise VerifyError("chain", "measured by another meter than the contract names")
    if statement.measured_wh != last.readings[-1].energy_wh - first.readings[0].energy_wh:
        raise VerifyError("chain", f"the proofs do not measure {statement.measured_wh} Wh")
    is_over = any(proof.event == END and proof.contract == terms.contract_id() for _, proof in proofs)
    if not is_over and settled.time_ms < terms.window_end_ms + terms.evidence_window_ms:
        raise VerifyError("chain", "the session was settled before its end and before the pile's time to tell it")
    cause = CAUSE_USER if last.event == END and last.reason in USER_REASONS else CAUSE_PILE
    if statement.cause != cause_that_counts(terms, statement.measured_wh, cause):
        raise VerifyError("posting", f"cause {statement.cause!r} does not fit the proofs")


def _counted(terms: Terms, statement: Statement, proofs: Proofs) -> list[Proof]:
    """The proofs that the settlement hashed: all of this contract, or those before the session was frozen."""
    running, counted = NO_EVIDENCE, list[Proof]()
    for message, proof in proofs:
        if counted and counted[-1].event == END:
            raise VerifyError("chain", "nothing counts after the end of the session")
        is_frozen = bool(counted) and running == statement.evidence
        says_nothing = proof.contract != terms.contract_id() or not proof.readings  # a heartbeat, an alarm
        if counted and (is_frozen or says_nothing):
            continue
        if proof.contract != terms.contract_id():
            raise VerifyError("chain", f"metering proof {proof.sequence} is of another contract")
        if (proof.event == BEGIN) != (not counted):
            raise VerifyError("chain", "the proofs that count run from one begin on")
        running = sha256(running + proof_hash(message))
        counted.append(proof)
    if not counted or running != statement.evidence:
        raise VerifyError("chain", "these are not the proofs that were settled")
    return counted
