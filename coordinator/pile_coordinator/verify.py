"""Checks an order certificate offline, pinning nothing but a genesis; recomputes the price and every posting.

Links are checked from the outside in, and the first that breaks is named: `format` (the bytes are one certificate),
`signature` (quorum, parties and pile signed what they seem to have signed), `inclusion` (it stands in certified blocks),
`chain` (order, contract, proofs and settlement belong together and follow each other), `price` (the curve and the limits
give this price), `posting` (the terms and the metered energy give these postings). Pure: no clock, file or network.
"""

from dataclasses import dataclass
from typing import cast

from pile_coordinator.certificates import OrderCertificate, decode_order_certificate
from pile_coordinator.chain.contracts import CONFIRMED, begin_until_ms
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import (
    CAUSE_DEFAULT,
    CAUSE_NO_SHOW,
    CAUSE_NONE,
    CAUSE_PILE,
    CAUSE_USER,
    UNDER,
    Statement,
    decode_statement,
    deviation,
    settle,
)
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Body,
    Confirm,
    List,
    PlaceBid,
    Transaction,
    decode_transaction,
)
from pile_shared import cose
from pile_shared.certificate import MAX_LEAF_BYTES, Header, Inclusion, validators_hash
from pile_shared.codec import array, decode, items
from pile_shared.errors import CertificateError, PilechainError, SignatureError
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, USER_REASONS, Proof, decode_payload, proof_hash
from pile_shared.terms import LEAF_CLEARING, LEAF_CLOSED, LEAF_CONTRACT, LEAF_SETTLEMENT, Terms, decode_terms

LINKS = ("format", "signature", "inclusion", "chain", "price", "posting")


class VerifyError(PilechainError):
    """A certificate that does not hold; `link` (one of LINKS) is where it breaks."""

    code = "verify"

    def __init__(self, link: str, message: str) -> None:
        assert link in LINKS, link
        super().__init__(f"{link}: {message}")
        self.link = link


@dataclass(frozen=True, slots=True)
class Verified:
    """What a certificate proves."""

    terms: Terms
    statement: Statement
    outcome: str
    signed_height: int
    closed_height: int
    proofs: int
    confirmed_by: tuple[str, ...]


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
    """One verification: each method is one link, in the order of `run`."""

    def __init__(self, certificate: OrderCertificate, genesis: Genesis) -> None:
        self.certificate = certificate
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.validators = list(genesis.validators)

    def run(self) -> Verified:
        signing, signing_leaves = self._open(self.certificate.signing.inclusions())
        settled, (settlement_leaf,) = self._open(self.certificate.settlement.inclusions())
        closed, (closing_leaf,) = self._open(self.certificate.closing.inclusions())
        terms = self._terms(signing_leaves[0])
        statement = self._statement(settlement_leaf)
        outcome = self._outcome(closing_leaf, terms)
        if not signing.height <= settled.height <= closed.height or statement.contract != terms.contract_id():
            raise VerifyError("chain", "contract, settlement and closing do not follow each other")
        bid = self._party_tx(self.certificate.order, PlaceBid, terms.user, terms.user_public, terms.order)
        listing = self._party_tx(self.certificate.listing, List, terms.owner, terms.owner_public, terms.listing)
        proofs = self._proofs(terms)
        confirmed_by = self._confirmations(terms, statement, outcome)
        cause = self._check_evidence(terms, statement, proofs)
        self._check_price(terms, cast("PlaceBid", bid), cast("List", listing), signing_leaves[1])
        self._check_frozen_terms(terms)
        self._check_postings(terms, statement, cause)
        return Verified(terms, statement, outcome, signing.height, closed.height, len(proofs), confirmed_by)

    # --- signature and inclusion ---

    def _open(self, inclusions: list[Inclusion]) -> tuple[Header, list[list[object]]]:
        """The header and the decoded leaves, once quorum and paths hold."""
        leaves = []
        for inclusion in inclusions:
            try:
                header = inclusion.verify(self.chain_id, self.validators)
            except CertificateError as error:
                raise VerifyError("inclusion" if error.code == "inclusion" else "signature", str(error)) from error
            except PilechainError as error:
                raise VerifyError("signature", str(error)) from error
            if header.next_validators_hash != validators_hash(self.validators):
                raise VerifyError("signature", "the validator set changed; pin the set of that height")
            leaves.append(cast("list[object]", decode(inclusion.leaf, MAX_LEAF_BYTES)))
        return header, leaves

    def _party_tx(self, data: bytes, kind: type[Body], sender: str, public: bytes, tx_id: bytes) -> Body:
        tx = self._signed_tx(data, sender, public)
        if not isinstance(tx.body, kind) or tx.id != tx_id:
            raise VerifyError("chain", f"the contract did not come from this {kind.TYPE} of {sender}")
        return tx.body

    def _signed_tx(self, data: bytes, sender: str, public: bytes) -> Transaction:
        try:
            tx = decode_transaction(data)
            tx.signed.verify(public, cose.purpose(cose.TRANSACTION, self.chain_id))
        except (Rejection, SignatureError) as error:
            raise VerifyError("signature", f"what {sender} signed: {error}") from error
        if tx.chain_id != self.chain_id or tx.sender != sender:
            raise VerifyError("chain", f"this was not sent by {sender} on {self.chain_id}")
        return tx

    def _proofs(self, terms: Terms) -> list[tuple[bytes, Proof]]:
        proofs = []
        for message in self.certificate.proofs:
            try:
                signed = cose.parse1(message, len(message))
                signed.verify(terms.pile_public, cose.purpose(cose.PROOF, self.chain_id))
                proofs.append((message, decode_payload(signed.payload)))
            except PilechainError as error:
                raise VerifyError("signature", f"a metering proof of {terms.pile}: {error}") from error
        return proofs

    def _confirmations(self, terms: Terms, statement: Statement, outcome: str) -> tuple[str, ...]:
        keys = {terms.user: terms.user_public, terms.owner: terms.owner_public}
        confirmed = []
        for data in self.certificate.confirmations:
            try:
                sender = decode_transaction(data).sender
            except Rejection as error:
                raise VerifyError("signature", f"a confirmation: {error}") from error
            if sender not in keys:
                raise VerifyError("signature", f"a confirmation by {sender}, who is no party of the contract")
            body = self._signed_tx(data, sender, keys[sender]).body
            if body != Confirm(statement.contract, statement.digest()):
                raise VerifyError("chain", f"{sender} confirmed another settlement")
            confirmed.append(sender)
        if len(set(confirmed)) != len(confirmed) or (outcome == CONFIRMED and set(confirmed) != set(keys)):
            raise VerifyError("chain", "a confirmed order carries both parties' confirmations, once each")
        return tuple(confirmed)

    # --- chain ---

    def _terms(self, leaf: list[object]) -> Terms:
        try:
            kind, data = array(leaf, 2)
            if kind != LEAF_CONTRACT:
                raise VerifyError("chain", "the first leaf is not a contract")
            return decode_terms(data)
        except PilechainError as error:
            raise error if isinstance(error, VerifyError) else VerifyError("chain", str(error)) from error

    def _statement(self, leaf: list[object]) -> Statement:
        try:
            kind, data = array(leaf, 2)
            if kind != LEAF_SETTLEMENT:
                raise VerifyError("chain", "not a settlement leaf")
            statement = decode_statement(data)
        except PilechainError as error:
            raise error if isinstance(error, VerifyError) else VerifyError("chain", str(error)) from error
        if statement.chain_id != self.chain_id:
            raise VerifyError("chain", "a settlement of another chain")
        return statement

    def _outcome(self, leaf: list[object], terms: Terms) -> str:
        if len(leaf) != 3 or leaf[0] != LEAF_CLOSED or leaf[1] != terms.contract_id():
            raise VerifyError("chain", "the closing is not this contract's")
        return cast("str", leaf[2])

    def _check_evidence(self, terms: Terms, statement: Statement, proofs: list[tuple[bytes, Proof]]) -> str:
        """The proofs are one unbroken chain from begin on, they are what was settled, and M is their energy.

        Returns who they say caused a deviation.
        """
        counted = self._counted(terms, statement, proofs)
        if not proofs:
            return statement.cause if statement.cause in {CAUSE_DEFAULT, CAUSE_NO_SHOW} else CAUSE_PILE
        first, last = proofs[0][1], proofs[counted - 1][1]
        if not terms.window_start_ms <= first.readings[0].time_ms <= begin_until_ms(terms):
            raise VerifyError("chain", "the session began outside the contract's window")
        if first.origin is None or first.origin.serial != terms.meter_serial:
            raise VerifyError("chain", "measured by another meter than the contract names")
        if statement.measured_wh != last.readings[-1].energy_wh - first.readings[0].energy_wh:
            raise VerifyError("chain", f"the proofs do not measure {statement.measured_wh} Wh")
        by_user = counted == len(proofs) and last.event == END and last.reason in USER_REASONS
        return CAUSE_USER if by_user else CAUSE_PILE

    def _counted(self, terms: Terms, statement: Statement, proofs: list[tuple[bytes, Proof]]) -> int:
        """How many proofs the settlement hashed: all of them, or those before the session was frozen."""
        running, counted = b"\x00" * 32, 0
        for i, (message, proof) in enumerate(proofs):
            if i and (
                proof.previous != proof_hash(proofs[i - 1][0]) or proof.sequence != proofs[i - 1][1].sequence + 1
            ):
                raise VerifyError("chain", f"metering proof {proof.sequence} does not follow the one before it")
            if proof.contract != terms.contract_id():
                raise VerifyError("chain", f"metering proof {proof.sequence} is of another contract")
            if i and running == statement.evidence:
                continue
            if (proof.event == BEGIN) != (i == 0):
                raise VerifyError("chain", "the proofs that count run from one begin on")
            running, counted = sha256(running + proof_hash(message)), i + 1
        if running != statement.evidence:
            raise VerifyError("chain", "these are not the proofs that were settled")
        return counted

    # --- price ---

    def _check_price(self, terms: Terms, bid: PlaceBid, listing: List, leaf: list[object]) -> None:
        price = terms.price_micro_per_kwh
        if price > bid.limit_micro_per_kwh:
            raise VerifyError("price", f"{price} is above the bid's limit of {bid.limit_micro_per_kwh}")
        agreed = (bid.energy_wh, bid.window_start_ms, bid.window_end_ms, bid.zone)
        if agreed != (terms.energy_wh, terms.window_start_ms, terms.window_end_ms, terms.zone):
            raise VerifyError("chain", "the contract is not what the user bid for")
        if listing.pile != terms.pile or bid.pile not in {"", terms.pile}:
            raise VerifyError("chain", "the contract is for another pile")
        if not listing.window_start_ms <= terms.window_start_ms < terms.window_end_ms <= listing.window_end_ms:
            raise VerifyError("chain", "the contract leaves the window the owner listed")
        clearing_price = self._clearing_price(terms, leaf)
        if terms.on_curve != (listing.ask_micro_per_kwh == AT_MARKET):
            raise VerifyError("price", "an ask is paid its price, and only capacity at market the curve's")
        if price != (clearing_price if terms.on_curve else listing.ask_micro_per_kwh):
            raise VerifyError("price", f"{price} is not the price of this clearing")

    def _clearing_price(self, terms: Terms, leaf: list[object]) -> int:
        try:
            kind, zone, shape, open_before_wh, open_after_wh, price, fills = array(leaf, 7)
            curve = Curve(*array(shape, 4))
            rows = [array(row, 4) for row in items(fills, MAX_LEAF_BYTES)]
        except PilechainError as error:
            raise VerifyError("price", f"not a clearing: {error}") from error
        params = self.genesis.params
        crr = (params.crr_numerator, params.crr_denominator)
        if (curve.catalog_micro_per_kwh, curve.numerator, curve.denominator) != (
            params.catalog_sell_micro_per_kwh,
            *crr,
        ):
            raise VerifyError("price", "the clearing used another curve than genesis sets")
        contracted = [terms.contract_id(), terms.energy_wh, terms.on_curve, terms.price_micro_per_kwh]
        if kind != LEAF_CLEARING or zone != terms.zone or contracted not in rows:
            raise VerifyError("price", "the contract is not in this clearing")
        if open_after_wh != open_before_wh + sum(energy for _, energy, on_curve, _ in rows if on_curve):
            raise VerifyError("price", "the clearing's load does not add up")
        if price != curve.price_micro_per_kwh(open_after_wh):
            raise VerifyError("price", f"P = B / (S x CRR) is not {price} at {open_after_wh} Wh open")
        return cast("int", price)

    # --- posting ---

    def _check_frozen_terms(self, terms: Terms) -> None:
        """The contract was frozen with the rules that genesis sets."""
        params = self.genesis.params
        tolerance_wh = max(terms.energy_wh * params.tolerance_permille // 1000, params.tolerance_min_wh)
        frozen = {
            "tolerance_wh": tolerance_wh,
            "overuse_wh": max(terms.energy_wh * params.overuse_permille // 1000, tolerance_wh),
            "fee_micro": params.fee_micro,
            "catalog_sell_micro_per_kwh": params.catalog_sell_micro_per_kwh,
            "catalog_buy_micro_per_kwh": params.catalog_buy_micro_per_kwh,
        }
        for name, value in frozen.items():
            if getattr(terms, name) != value:
                raise VerifyError("posting", f"the contract's {name} is not what genesis sets")

    def _check_postings(self, terms: Terms, statement: Statement, cause: str) -> None:
        params = self.genesis.params
        under = deviation(terms, statement.measured_wh) == UNDER or cause in {CAUSE_DEFAULT, CAUSE_NO_SHOW}
        if statement.cause != (cause if under else CAUSE_NONE):
            raise VerifyError("posting", f"cause {statement.cause!r} does not fit the proofs")
        postings = settle(
            terms,
            statement.measured_wh,
            statement.cause,
            penalty_permille=params.penalty_permille,
            no_show_permille=params.no_show_permille,
        )
        if tuple(postings) != statement.postings:
            raise VerifyError("posting", "terms and metered energy give other postings")
