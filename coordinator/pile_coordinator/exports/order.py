"""A closed order as exports see it: what its certificate proves, when it was charged, and who ends up with how much.

Nothing is exported that was not verified first: `read_order` runs the offline verifier, so every format says what the meter
and the postings say. All money is in micro of the currency, energy in Wh, times in unix milliseconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pile_coordinator.certificates import OrderCertificate, decode_order_certificate
from pile_coordinator.chain.contracts import NO_EVIDENCE
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.settlement import (
    BOND,
    ESCROW,
    FEES,
    GRID,
    OBJECTION,
    OWNER,
    USER,
    Statement,
    contract_escrow_micro,
)
from pile_coordinator.verify import Verified, verify_order
from pile_shared.certificate import Inclusion
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import Proof, parse, proof_hash
from pile_shared.terms import Terms

ANONYMOUS, NAMED = "anonymous", "named"


class ExportError(PilechainError):
    """An order that cannot be said in a format, or a record that does not belong to it; the message names what to check."""

    code = "export"


@dataclass(frozen=True, slots=True)
class Money:
    """Who a settlement leaves with how much, in micro; the first is the sum of the other three.

    Attributes:
        user_paid_micro: what the user is poorer by, negative if a penalty made them richer. owner_earned_micro: what the
        owner is richer by. grid_micro: what the grid is richer by, negative if it bought back. fees_micro: to the treasury.
    """

    user_paid_micro: int
    owner_earned_micro: int
    grid_micro: int
    fees_micro: int


@dataclass(frozen=True, slots=True)
class Order:
    """One closed contract.

    Attributes:
        certificate: its bytes. chain_id, currency: of genesis. verified: what the certificate proves. session: the proofs
        that were settled, from begin on; empty for what never began. signed_ms, written_ms, closed_ms: times of the blocks
        of the contract, of its first settlement and of its end.
    """

    certificate: bytes
    chain_id: str
    currency: str
    verified: Verified
    session: tuple[Proof, ...]
    signed_ms: int
    written_ms: int
    closed_ms: int

    @property
    def terms(self) -> Terms:
        """The contract's terms."""
        return self.verified.terms

    @property
    def contract(self) -> str:
        """The contract id in hexadecimal, 64 digits."""
        return self.terms.contract_id().hex()

    @property
    def funding(self) -> str:
        """Who paid: ANONYMOUS, so that the user's id is of this order only, or NAMED."""
        return ANONYMOUS if self.verified.anonymous else NAMED

    @property
    def first(self) -> Statement:
        """The settlement as it was first written down: of a dispute the one objected to, else the one that counts."""
        return self.verified.disputed or self.verified.statement

    def money(self, statement: Statement) -> Money:
        """Who `statement`, of this contract, leaves with how much."""
        objector = statement.verdict.objector if statement.verdict else None
        objection_micro = statement.verdict.bond_micro if statement.verdict else 0
        put_up = {USER: contract_escrow_micro(self.terms), OWNER: self.terms.bond_micro}
        if objector is not None:
            put_up[objector] += objection_micro
        user = _net(statement, USER) - put_up[USER]
        owner = _net(statement, OWNER) - put_up[OWNER]
        assert all(_net(statement, side) + held == 0 for side, held in self._held(objection_micro)), "something is held"
        return Money(-user, owner, _net(statement, GRID), _net(statement, FEES))

    def _held(self, objection_micro: int) -> Iterable[tuple[str, int]]:
        """What lies in escrow, bond and objection until a statement empties them."""
        return (ESCROW, contract_escrow_micro(self.terms)), (BOND, self.terms.bond_micro), (OBJECTION, objection_micro)


def read_order(data: bytes, genesis: Genesis) -> Order:
    """The order that a certificate proves under this genesis; VerifyError, naming the link that breaks, otherwise."""
    verified = verify_order(data, genesis)
    shown = decode_order_certificate(data)
    written = shown.dispute.settlement if shown.dispute else shown.settlement
    return Order(
        certificate=data,
        chain_id=genesis.chain_id,
        currency=genesis.params.currency,
        verified=verified,
        session=_session(shown, verified),
        signed_ms=_time_ms(shown.signing),
        written_ms=_time_ms(written),
        closed_ms=_time_ms(shown.closing),
    )


def closed_ms(data: bytes) -> int:
    """When the order of a certificate closed, as it says itself, unverified; typed errors for what is no certificate."""
    return _time_ms(decode_order_certificate(data).closing)


def _time_ms(inclusion: Inclusion) -> int:
    return inclusion.certificate.header.time_ms


def _session(shown: OrderCertificate, verified: Verified) -> tuple[Proof, ...]:
    """The proofs that the first settlement hashed. The verifier has checked that they lead to its evidence."""
    settled = verified.disputed or verified.statement
    running, session = NO_EVIDENCE, list[Proof]()
    for message in shown.proofs:
        if running == settled.evidence:
            break
        _, proof = parse(message)
        if proof.contract == settled.contract and proof.readings:
            running = sha256(running + proof_hash(message))
            session.append(proof)
    return tuple(session)


def _net(statement: Statement, side: str) -> int:
    return sum(row.amount_micro * ((row.credit == side) - (row.debit == side)) for row in statement.postings)
