"""Disputes: measured -> disputed -> resolved (ledger guide, "Disputes").

A settlement that a party objects to waits for arbiters, for the user's own signed stop command, or for time; whoever is wrong
pays the other as much as was staked on it.
"""

from dataclasses import replace
from typing import cast

from pile_coordinator.chain import accounts, contracts, settlement
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import DISPUTED, MEASURED, Contract, Dispute, Party
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import GROUND_CAUSE, MAX_STOP_BYTES, Answer, Object, Rule
from pile_shared import cose
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError
from pile_shared.terms import LEAF_DISPUTE, LEAF_SETTLEMENT, Terms

STOP = 2  # the session command by which a user ends a session (wire format, "Session commands")
MAX_RULINGS = 32  # arbiters heard in one dispute, whether they agree or not


def object_to(state: State, env: Env, journal: Journal, sender: str, body: Object) -> None:
    """Measured -> disputed: a party that has not signed the settlement puts up a bond against it."""
    contract = _contract(state, body.contract)
    terms = state.terms_of(contract)
    if sender not in {terms.user, terms.owner}:
        raise Rejection("not_yours", "only the two parties of a contract object to its settlement")
    has_signed = contract.user_signed if sender == terms.user else contract.owner_signed
    if contract.phase != MEASURED or has_signed:
        raise Rejection(
            "phase", f"the contract is {contract.phase}" + (", and you have confirmed it" if has_signed else "")
        )
    bond = state.params.objection_bond_micro
    accounts.post(state, accounts.party_account(sender), accounts.objection_account(contract.id), bond)
    side = settlement.USER if sender == terms.user else settlement.OWNER
    state.put(Dispute(contract.id, side, body.ground, body.claimed_wh, bond, []))
    state.put(replace(contract, phase=DISPUTED, deadline_ms=env.time_ms + state.params.dispute_window_ms))
    journal.leaves.append(encode([LEAF_DISPUTE, contract.id, side, body.ground, body.claimed_wh, bond]))


def answer(state: State, env: Env, journal: Journal, sender: str, body: Answer) -> None:
    """Disputed -> resolved: the user had signed the stop, so the settlement stands."""
    terms = state.terms_of(_contract(state, body.contract))
    if sender != terms.owner:
        raise Rejection("not_yours", "only the owner answers")
    contract = _disputed(state, body.contract)
    dispute = state.get(Dispute, contract.id)
    if dispute.ground != GROUND_CAUSE or dispute.objector != settlement.USER:
        raise Rejection("phase", "a stop command answers a user's objection to the cause, and no other")
    if not is_stop_of(body.stop, env, terms, contract.id):
        raise Rejection("evidence", "not the user's signed stop command of this contract")
    written = settlement.decode_statement(contract.statement)
    _resolve(state, journal, contract, written.measured_wh, written.cause, settlement.BASIS_ANSWER)


def is_stop_of(message: bytes, env: Env, terms: Terms, contract: bytes) -> bool:
    """Whether `message` is the stop command of a contract, signed by its user."""
    try:
        signed = cose.parse1(message, MAX_STOP_BYTES)
        named, action, _, _ = array(decode(signed.payload, MAX_STOP_BYTES), 4)
    except PilechainError:
        return False
    to_be_signed = cose.to_be_signed(signed.kid, signed.payload, cose.purpose(cose.SESSION, env.chain_id))
    return (
        named == contract
        and action == STOP
        and signed.kid == cose.key_id(terms.user_public)
        and env.verify(terms.user_public, to_be_signed, signed.signature)
    )


def rule(state: State, journal: Journal, sender: str, body: Rule) -> None:
    """An arbiter speaks; disputed -> resolved once enough of them have said the same. The last word of each counts."""
    contract = _disputed(state, body.contract)
    dispute = state.get(Dispute, contract.id)
    rulings = [ruling for ruling in dispute.rulings if ruling[0] != sender]
    if len(rulings) == MAX_RULINGS:
        raise Rejection("limit", f"{MAX_RULINGS} arbiters have spoken, the most heard in one dispute")
    cause = contracts.cause_that_counts(state.terms_of(contract), body.measured_wh, body.cause)
    rulings.append([sender, state.get(Party, sender).public, body.measured_wh, cause])
    state.put(replace(dispute, rulings=rulings))
    agreed = [(arbiter, public) for arbiter, public, *ruling in rulings if ruling == [body.measured_wh, cause]]
    if len(agreed) >= state.params.rulings_needed:
        arbiters = tuple(sorted(cast("list[tuple[str, bytes]]", agreed)))
        _resolve(state, journal, contract, body.measured_wh, cause, settlement.BASIS_RULING, arbiters)


def run_deadline(state: State, journal: Journal, contract: Contract) -> None:
    """Disputed -> resolved, undecided. Meter data stands; a cause contested and not co-signed by the user is the pile's."""
    dispute = state.get(Dispute, contract.id)
    written = settlement.decode_statement(contract.statement)
    is_contested = dispute.ground == GROUND_CAUSE and dispute.objector == settlement.USER
    cause = settlement.CAUSE_PILE if is_contested else written.cause
    cause = contracts.cause_that_counts(state.terms_of(contract), written.measured_wh, cause)
    _resolve(state, journal, contract, written.measured_wh, cause, settlement.BASIS_TIMEOUT)


def _resolve(
    state: State,
    journal: Journal,
    contract: Contract,
    measured_wh: int,
    cause: str,
    basis: str,
    arbiters: tuple[tuple[str, bytes], ...] = (),
) -> None:
    """Write the statement that closes a dispute, and carry it out."""
    terms, dispute = state.terms_of(contract), state.get(Dispute, contract.id)
    written = settlement.decode_statement(contract.statement)
    verdict = settlement.Verdict(dispute.objector, dispute.bond_micro, basis, arbiters)
    postings = settlement.settle_disputed(
        terms, list(written.postings), measured_wh, cause, contracts.shares(state), verdict
    )
    statement = replace(written, measured_wh=measured_wh, cause=cause, postings=tuple(postings), verdict=verdict)
    journal.leaves.append(encode([LEAF_SETTLEMENT, statement.encoded()]))
    state.drop(Dispute, contract.id)
    contracts.close(state, journal, contract, statement, contracts.RESOLVED)


def _contract(state: State, key: bytes) -> Contract:
    contract = state.find(Contract, key)
    if contract is None:
        raise Rejection("unknown_contract", "no such open contract")
    return contract


def _disputed(state: State, key: bytes) -> Contract:
    contract = _contract(state, key)
    if contract.phase != DISPUTED:
        raise Rejection("phase", f"the contract is {contract.phase}, not disputed")
    return contract
