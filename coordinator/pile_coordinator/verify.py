"""Checks an order certificate offline, pinning nothing but a genesis; recomputes the price and every posting.

Links are checked from the outside in, and the first that breaks is named: `format` (the bytes are one certificate),
`signature` (quorum, parties and pile signed what they seem to have signed), `inclusion` (it stands in certified blocks),
`chain` (orders, contract, proofs, settlement and dispute belong together and follow each other in time), `price` (tariff,
curve, band and limits give this price), `posting` (the terms and the metered energy give these postings). What the user of an
order that notes paid for signed is signed by rings (verify_rings.py). Pure: no clock, file or network.
"""

from dataclasses import dataclass

from pile_coordinator.certificates import OrderCertificate, decode_order_certificate
from pile_coordinator.chain import orders
from pile_coordinator.chain.contracts import (
    CALLED_OFF,
    CONFIRMED,
    DEFAULTED,
    NO_SHOW,
    RESOLVED,
    SETTLED,
    begin_until_ms,
)
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.proofs import MAX_CLOCK_AHEAD_MS
from pile_coordinator.chain.settlement import (
    CAUSE_DEFAULT,
    CAUSE_NO_SHOW,
    CAUSE_PILE_CANCEL,
    CAUSE_USER_CANCEL,
    Shares,
    Statement,
    decode_statement,
    settle,
)
from pile_coordinator.chain.transactions import AnonymousBid, CancelContract, Confirm, List, PlaceBid, Sign
from pile_coordinator.ring.signature import RING_SIZE
from pile_coordinator.verify_delivery import MEASURED_CAUSES, check_metered, check_not_begun, read_proofs
from pile_coordinator.verify_dispute import DisputeCheck
from pile_coordinator.verify_price import (
    check_band,
    check_order_name,
    check_orders,
    check_price,
    check_tariff,
    read_clearing,
)
from pile_coordinator.verify_rings import funding
from pile_coordinator.verify_signed import LINKS, Notary, SpentNote, VerifyError, breaking
from pile_shared.certificate import MAX_LEAF_BYTES, Header, Inclusion
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.terms import (
    LEAF_CLEARING,
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_PROPOSED,
    LEAF_SETTLEMENT,
    Terms,
    decode_terms,
)
from pile_shared.units import check_bytes

__all__ = ["LINKS", "SpentNote", "Verified", "VerifyError", "verify_order"]

# How a contract may end, and who or what may have caused it. One that was proposed and never signed has no certificate.
_CAUSES = {
    CONFIRMED: MEASURED_CAUSES,
    SETTLED: MEASURED_CAUSES,
    RESOLVED: MEASURED_CAUSES,
    DEFAULTED: (CAUSE_DEFAULT,),
    NO_SHOW: (CAUSE_NO_SHOW,),
    CALLED_OFF: (CAUSE_USER_CANCEL, CAUSE_PILE_CANCEL),
}


@dataclass(frozen=True, slots=True)
class Verified:
    """What a certificate proves.

    Attributes:
        terms: of the contract. statement: the settlement that closed it, with its verdict if it was disputed.
        outcome: how it ended. signed_height, closed_height: of the blocks. proofs: how many metering proofs were checked.
        confirmed_by: who signed the settlement (of a dispute, the one objected to). disputed: that one, or None.
        order: id of the bid's transaction. notes: that paid for it, the one that leads first; none where a named party did.
    """

    terms: Terms
    statement: Statement
    outcome: str
    signed_height: int
    closed_height: int
    proofs: int
    confirmed_by: tuple[str, ...]
    disputed: Statement | None
    order: bytes
    notes: tuple[SpentNote, ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether notes paid, so that the user is a pseudonym of this order only."""
        return bool(self.notes)

    @property
    def set_size(self) -> int:
        """Of how many owners anyone may have paid, for all that the certificate says: 16, or 1 for a named party."""
        return RING_SIZE if self.notes else 1


def verify_order(data: bytes, genesis: Genesis) -> Verified:
    """What `data` proves under this genesis; VerifyError names the first link that breaks."""
    try:
        certificate = decode_order_certificate(data)
    except PilechainError as error:
        raise VerifyError("format", str(error)) from error
    if certificate.chain_id != genesis.chain_id:
        raise VerifyError("chain", f"of chain {certificate.chain_id}, the pinned genesis is {genesis.chain_id}")
    return _Check(certificate, genesis).run()


class _Check:
    """One verification: what stands in blocks first, then who signed, then what follows from it."""

    def __init__(self, certificate: OrderCertificate, genesis: Genesis) -> None:
        self.shown = certificate
        self.params = genesis.params
        self.notary = Notary(genesis)
        self.notary.follow(certificate.handovers)

    def run(self) -> Verified:
        shown = self.shown
        signed, (kind, encoded) = self.notary.open(shown.signing, (LEAF_CONTRACT, LEAF_PROPOSED), 2)
        matched, clearing_row = self.notary.open(shown.clearing, (LEAF_CLEARING,), 8)
        with breaking("chain"):
            terms = decode_terms(check_bytes("terms", encoded, 1, MAX_LEAF_BYTES))
        settled, statement = self._statement(shown.settlement, terms)
        closed, outcome = self._closing(terms, statement)
        written_at, written = settled, statement
        if shown.dispute is not None:
            written_at, written = self._statement(shown.dispute.settlement, terms)
            if written.verdict is not None or written.cause not in MEASURED_CAUSES:
                raise VerifyError("chain", "a settlement of this kind cannot be objected to")
        if not matched.height <= signed.height <= written_at.height <= settled.height <= closed.height:
            raise VerifyError("chain", "match, contract, settlement and closing do not follow each other")

        spent = funding(self.notary, terms, shown.order, shown.rings, matched)
        self.notary.trust(terms, shown.key_changes, spent[0] if spent else None)
        bid, listing = self._orders(terms, matched, spent)
        signers = self._signatures(terms, bid, listing, matched)
        if kind == LEAF_CONTRACT:
            self._check_signed(terms, bid, listing, signers, matched, signed)
        else:
            self._check_proposal(terms, bid, listing, signers, outcome, matched, signed, settled)
        self._check_price(terms, bid, listing, matched, clearing_row)
        self._check_frozen_terms(terms)

        confirmed = self._confirmations(terms, written, written_at)
        self._check_ending(terms, outcome, confirmed, settled, closed)
        proofs = read_proofs(shown.proofs, terms, self.notary.chain_id)
        if written.cause in MEASURED_CAUSES:
            check_metered(terms, written, written_at, proofs)
        else:
            check_not_begun(written, proofs)
            self._check_never_began(terms, written, settled)
        self._check_postings(terms, written)
        if shown.dispute is not None:
            DisputeCheck(self.notary, terms, shown.dispute, (written_at, written), confirmed).run(settled, statement)
        return Verified(
            terms=terms,
            statement=statement,
            outcome=outcome,
            signed_height=signed.height,
            closed_height=closed.height,
            proofs=len(proofs),
            confirmed_by=confirmed,
            disputed=written if shown.dispute else None,
            order=sha256(shown.order),
            notes=spent,
        )

    # --- what stands in blocks ---

    def _statement(self, inclusion: Inclusion, terms: Terms) -> tuple[Header, Statement]:
        header, (_, data) = self.notary.open(inclusion, (LEAF_SETTLEMENT,), 2)
        with breaking("chain"):
            statement = decode_statement(check_bytes("statement", data, 1, MAX_LEAF_BYTES))
        if statement.chain_id != self.notary.chain_id or statement.contract != terms.contract_id():
            raise VerifyError("chain", "a settlement of another contract")
        return header, statement

    def _closing(self, terms: Terms, statement: Statement) -> tuple[Header, str]:
        header, (_, contract, outcome) = self.notary.open(self.shown.closing, (LEAF_CLOSED,), 3)
        if contract != terms.contract_id():
            raise VerifyError("chain", "the closing is not this contract's")
        if not isinstance(outcome, str) or statement.cause not in _CAUSES.get(outcome, ()):
            raise VerifyError("chain", f"no contract ends {outcome!r} by {statement.cause!r}")
        if (outcome == RESOLVED) != (self.shown.dispute is not None) or (outcome == RESOLVED) != bool(
            statement.verdict
        ):
            raise VerifyError("chain", "a contract that was disputed ends resolved, by a verdict, and no other does")
        return header, outcome

    # --- what the parties signed ---

    def _orders(self, terms: Terms, matched: Header, spent: tuple[SpentNote, ...]) -> tuple[PlaceBid, List]:
        """Bid and listing; the notes' signatures under an anonymous bid were checked when these were found."""
        if spent:
            told = self.notary.body(self.shown.order)
            assert isinstance(told, AnonymousBid)
            bid = told.as_bid()
        else:
            bid = self.notary.by_key(self.shown.order, PlaceBid, terms.user, [terms.user_public], not_before=1)
        listing = self.notary.by_key(self.shown.listing, List, terms.owner, [terms.owner_public], not_before=1)
        check_order_name(terms, sha256(self.shown.order), bid, self.shown.piece)
        if sha256(self.shown.listing) != terms.listing:
            raise VerifyError("chain", f"the contract did not come from this listing of {terms.owner}")
        check_orders(terms, bid, listing, matched)
        return bid, listing

    def _signatures(self, terms: Terms, bid: PlaceBid, listing: List, matched: Header) -> list[str]:
        """Who signed the contract explicitly: nobody but those who had asked for it, and once."""
        asked = _asked(terms, bid, listing)
        signers: list[str] = []
        for data in self.shown.signatures:
            sender = self.notary.sender(data)
            if sender not in asked or sender in signers:
                raise VerifyError("chain", f"{sender} had nothing to sign")
            body = self.notary.by_party(data, Sign, sender, not_before=matched.height + 1)
            if body.contract != terms.contract_id():
                raise VerifyError("chain", f"{sender} signed another contract")
            signers.append(sender)
        return signers

    def _check_signed(
        self, terms: Terms, bid: PlaceBid, listing: List, signers: list[str], matched: Header, signed: Header
    ) -> None:
        """Without explicit signing a match is a contract at once; else each side that asked has signed it in time."""
        asked = _asked(terms, bid, listing)
        if sorted(signers) != sorted(asked):
            raise VerifyError("chain", "the contract lacks a signature that was asked for")
        at_once = signed.hash() == matched.hash()
        in_time = signed.height > matched.height and signed.time_ms < self._sign_until_ms(terms, matched)
        if not (in_time if asked else at_once):
            raise VerifyError("chain", "the contract was not signed when it could be")

    def _check_proposal(
        self,
        terms: Terms,
        bid: PlaceBid,
        listing: List,
        signers: list[str],
        outcome: str,
        matched: Header,
        proposed: Header,
        settled: Header,
    ) -> None:
        """A proposal is called off like a contract by a side that is bound already, while the other may still sign."""
        asked = _asked(terms, bid, listing)
        if outcome != CALLED_OFF or self.shown.cancellation is None:
            raise VerifyError("chain", "a proposal is no contract")
        by = self.notary.sender(self.shown.cancellation)
        if sorted(signers) == sorted(asked) or (by in asked and by not in signers):
            raise VerifyError("chain", f"{by} called off no proposal that bound them")
        if proposed.hash() != matched.hash() or settled.time_ms >= self._sign_until_ms(terms, matched):
            raise VerifyError("chain", "the proposal did not stand any more")

    def _sign_until_ms(self, terms: Terms, matched: Header) -> int:
        return min(matched.time_ms + self.params.sign_window_ms, terms.window_start_ms)

    def _confirmations(self, terms: Terms, written: Statement, written_at: Header) -> tuple[str, ...]:
        confirmed: list[str] = []
        for data in self.shown.confirmations:
            sender = self.notary.sender(data)
            if sender not in {terms.user, terms.owner}:
                raise VerifyError("signature", f"a confirmation by {sender}, who is no party of the contract")
            body = self.notary.by_party(data, Confirm, sender, not_before=written_at.height)
            if body != Confirm(written.contract, written.digest()) or sender in confirmed:
                raise VerifyError("chain", f"{sender} confirmed another settlement, or twice")
            confirmed.append(sender)
        return tuple(confirmed)

    # --- what follows ---

    def _check_price(
        self, terms: Terms, bid: PlaceBid, listing: List, matched: Header, clearing_row: list[object]
    ) -> None:
        crr = self.params.crr_numerator, self.params.crr_denominator
        clearing = read_clearing(clearing_row, crr)
        tariff = check_tariff(self.notary, clearing.tariff, self.shown.tariff, matched)
        check_band(terms, tariff, self.params.band_permille)
        check_price(terms, bid, listing, clearing, crr)

    def _check_ending(
        self, terms: Terms, outcome: str, confirmed: tuple[str, ...], settled: Header, closed: Header
    ) -> None:
        """It ended when this outcome could: by both parties' word within the time for it, by its passing, or at once."""
        until_ms = settled.time_ms + terms.confirm_window_ms
        if (len(confirmed) == 2) != (outcome == CONFIRMED):
            raise VerifyError(
                "chain", "an order ends confirmed if both parties' confirmations are there, and only then"
            )
        if outcome == CONFIRMED:
            could = closed.time_ms < until_ms
        elif outcome == SETTLED:
            could = closed.time_ms >= until_ms
        else:
            could = closed.hash() == settled.hash()
        if not could:
            raise VerifyError("chain", f"the contract could not end {outcome} in block {closed.height}")
        if (self.shown.cancellation is not None) != (outcome == CALLED_OFF):
            raise VerifyError("chain", "a contract that was called off shows by whom, and no other does")

    def _check_never_began(self, terms: Terms, written: Statement, settled: Header) -> None:
        if written.cause == CAUSE_NO_SHOW and settled.time_ms + MAX_CLOCK_AHEAD_MS < begin_until_ms(terms):
            raise VerifyError("chain", "the user could still have come")
        if self.shown.cancellation is None:
            return
        by_user = written.cause == CAUSE_USER_CANCEL
        sender = terms.user if by_user else terms.owner
        body = self.notary.by_party(self.shown.cancellation, CancelContract, sender, not_before=settled.height)
        if body.contract != terms.contract_id():
            raise VerifyError("chain", f"{sender} called off another contract")
        notice_ms = self.params.cancel_cutoff_ms if by_user else 1
        if settled.time_ms + notice_ms > terms.window_start_ms:
            raise VerifyError("chain", f"{sender} called the contract off too late")

    def _check_frozen_terms(self, terms: Terms) -> None:
        """The contract was frozen with the rules that genesis sets."""
        params, energy_wh = self.params, terms.energy_wh
        frozen = {
            "tolerance_wh": orders.tolerance_wh(params, energy_wh),
            "overuse_wh": orders.overuse_wh(params, energy_wh),
            "fee_micro": params.fee_micro,
            "bond_micro": orders.bond_micro(params, energy_wh, terms.catalog_sell_micro_per_kwh),
            "begin_grace_ms": params.begin_grace_ms,
            "evidence_window_ms": params.evidence_window_ms,
            "confirm_window_ms": params.confirm_window_ms,
        }
        for name, value in frozen.items():
            if getattr(terms, name) != value:
                raise VerifyError("posting", f"the contract's {name} is not what genesis sets")

    def _check_postings(self, terms: Terms, written: Statement) -> None:
        shares = Shares(self.params.penalty_permille, self.params.no_show_permille)
        if tuple(settle(terms, written.measured_wh, written.cause, shares)) != written.postings:
            raise VerifyError("posting", "terms and metered energy give other postings")


def _asked(terms: Terms, bid: PlaceBid, listing: List) -> list[str]:
    """Who asked to sign explicitly."""
    sides = ((terms.user, bid.explicit), (terms.owner, listing.explicit))
    return [party for party, explicit in sides if explicit]
