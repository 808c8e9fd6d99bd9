"""The end of a disputed contract: who objected to what, why that ended as it did, and what it comes to.

(Ledger guide, "Disputes"; the law is chain/disputes.py, its money settlement.settle_disputed.)
"""

from pile_coordinator.certificates import DisputeRecord
from pile_coordinator.chain.contracts import cause_that_counts
from pile_coordinator.chain.disputes import is_stop_of
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.records import THIRD_PARTY
from pile_coordinator.chain.settlement import (
    BASIS_ANSWER,
    BASIS_RULING,
    BASIS_TIMEOUT,
    CAUSE_PILE,
    USER,
    Shares,
    Statement,
    Verdict,
    settle_disputed,
)
from pile_coordinator.chain.transactions import GROUND_CAUSE, Answer, Object, Rule
from pile_coordinator.verify_signed import Notary, VerifyError
from pile_shared.certificate import Header
from pile_shared.platform import es256_verify
from pile_shared.terms import LEAF_DISPUTE, Terms


class DisputeCheck:
    """One dispute of one contract: from the statement objected to, to the one that closed it."""

    def __init__(
        self,
        notary: Notary,
        terms: Terms,
        record: DisputeRecord,
        first: tuple[Header, Statement],
        confirmed: tuple[str, ...],
    ) -> None:
        """`first` is the statement objected to, checked already, with the header of its block."""
        self._notary = notary
        self._params = notary.genesis.params
        self._terms = terms
        self._contract = terms.contract_id()
        self._record = record
        self._written_at, self._written = first
        self._confirmed = confirmed

    def run(self, settled: Header, statement: Statement) -> None:
        """VerifyError unless `statement`, which has a verdict, is what the dispute came to in the block `settled`."""
        verdict = statement.verdict
        assert verdict is not None  # the outcome said so
        objected, objection = self._objection(verdict)
        undecided = settled.time_ms >= objected.time_ms + self._params.dispute_window_ms
        if settled.height < objected.height or undecided != (verdict.basis == BASIS_TIMEOUT):
            raise VerifyError("chain", f"the dispute did not end by {verdict.basis} at that time")
        shown = bool(self._record.rulings), self._record.answer is not None
        if shown != (verdict.basis == BASIS_RULING, verdict.basis == BASIS_ANSWER) or (
            verdict.arbiters and verdict.basis != BASIS_RULING
        ):
            raise VerifyError("chain", f"what is shown is not what decides by {verdict.basis}")
        is_contested = objection.ground == GROUND_CAUSE and verdict.objector == USER
        measured_wh, cause = self._written.measured_wh, self._written.cause
        if verdict.basis == BASIS_RULING:
            measured_wh, cause = self._ruling(verdict, objected)
        elif verdict.basis == BASIS_ANSWER:
            self._answer(settled, is_contested=is_contested)
        elif is_contested:
            cause = CAUSE_PILE
        self._check_resolved(statement, measured_wh, cause)

    def _objection(self, verdict: Verdict) -> tuple[Header, Object]:
        """The objector signed it in time, and the chain took it up with this bond."""
        header, row = self._notary.open(self._record.objected, (LEAF_DISPUTE,), 6)
        objector = self._terms.user if verdict.objector == USER else self._terms.owner
        body = self._notary.by_party(self._record.objection, Object, objector, not_before=header.height)
        bond = self._params.objection_bond_micro
        taken_up = [self._contract, verdict.objector, body.ground, body.claimed_wh, bond]
        if row[1:] != taken_up or body.contract != self._contract or verdict.bond_micro != bond:
            raise VerifyError("chain", f"this is not what {objector} objected")
        until_ms = self._written_at.time_ms + self._terms.confirm_window_ms
        if header.height < self._written_at.height or header.time_ms >= until_ms or objector in self._confirmed:
            raise VerifyError("chain", f"{objector} could not object any more")
        return header, body

    def _ruling(self, verdict: Verdict, objected: Header) -> tuple[int, str]:
        """As many arbiters as it takes said the same, each with the key that the verdict names."""
        arbiters, rulings = verdict.arbiters, self._record.rulings
        names = [name for name, _ in arbiters]
        if len(names) < self._params.rulings_needed or names != sorted(set(names)) or len(rulings) != len(names):
            raise VerifyError("chain", f"a ruling takes {self._params.rulings_needed} arbiters, once each")
        said = []
        for (name, public), data in zip(arbiters, rulings, strict=True):
            if self._notary.role(name) not in {None, THIRD_PARTY}:
                raise VerifyError("chain", f"{name} is no third party and rules nothing")
            if self._notary.role(name) == THIRD_PARTY and public not in self._notary.founder(name):
                raise VerifyError("signature", f"the verdict names another key of {name} than genesis leads to")
            body = self._notary.by_key(data, Rule, name, [public], not_before=objected.height)
            if body.contract != self._contract:
                raise VerifyError("chain", f"{name} ruled another contract")
            said.append((body.measured_wh, cause_that_counts(self._terms, body.measured_wh, body.cause)))
        if said != said[:1] * len(said):
            raise VerifyError("chain", "the arbiters did not rule the same")
        return said[0]

    def _answer(self, settled: Header, *, is_contested: bool) -> None:
        """The owner has the stop command that the user signed."""
        assert self._record.answer is not None
        owner = self._terms.owner
        body = self._notary.by_party(self._record.answer, Answer, owner, not_before=settled.height)
        chain = Env(self._notary.chain_id, settled.height, settled.time_ms, b"", es256_verify)
        if body.contract != self._contract or not is_contested:
            raise VerifyError("chain", "a stop command answers a user's objection to the cause, and no other")
        if not is_stop_of(body.stop, chain, self._terms, self._contract):
            raise VerifyError("signature", "not the user's signed stop command of this contract")

    def _check_resolved(self, statement: Statement, measured_wh: int, cause: str) -> None:
        assert statement.verdict is not None
        if statement.evidence != self._written.evidence or statement.measured_wh != measured_wh:
            raise VerifyError("chain", f"the dispute did not end with {statement.measured_wh} Wh")
        if statement.cause != cause_that_counts(self._terms, measured_wh, cause):
            raise VerifyError("posting", f"the dispute did not end with cause {statement.cause!r}")
        shares = Shares(self._params.penalty_permille, self._params.no_show_permille)
        written = list(self._written.postings)
        postings = settle_disputed(self._terms, written, measured_wh, statement.cause, shares, statement.verdict)
        if tuple(postings) != statement.postings:
            raise VerifyError("posting", "terms, energy and verdict give other postings")
