"""What the pile believes of the chain: nothing that more than two thirds of its pinned validators' power did not sign.

Pure; no clock, no wire. Implements the light client of the wire format ("Inclusion"): certificate over the header, Merkle
path from the leaf to the header's result root, then the leaf's exact shape, then that it concerns this very pile.
"""

from pile_shared.certificate import MAX_LEAF_BYTES, Header, Inclusion, Validator
from pile_shared.codec import array, decode
from pile_shared.errors import CertificateError
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT, MAX_TERMS_BYTES, Terms, decode_terms
from pile_shared.units import MAX_SEQUENCE, check_bytes, check_id, check_int, check_text

MAX_SMALL_LEAF_BYTES = MAX_TERMS_BYTES + 16  # of the leaves a pile reads, the one with terms is the longest
assert MAX_SMALL_LEAF_BYTES < MAX_LEAF_BYTES


class LightClient:
    """Opens the chain's messages to one pile.

    Attributes:
        height: the highest certified block seen, 0 before the first.
    """

    def __init__(
        self, *, chain_id: str, validators: list[Validator], pile_id: str, public: bytes, meter_serial: str
    ) -> None:
        """Pin the chain and its validator set, and name the pile: id, 65-byte key, serial of its meter."""
        self.height = 0
        self._chain_id = chain_id
        self._validators = validators
        self._pile_id = pile_id
        self._public = public
        self._meter_serial = meter_serial

    def verify(self, inclusion: Inclusion) -> Header:
        """The certified header a leaf belongs to; CertificateError otherwise."""
        header = inclusion.verify(self._chain_id, self._validators)
        self.height = max(self.height, header.height)
        return header

    def open_contract(self, inclusion: Inclusion) -> tuple[Terms | None, bytes, str]:
        """Open what the `contract` topic brought.

        Returns:
            (terms, contract id, "") of a contract that reserves this pile, or (None, contract id, outcome) of a closed one.

        Raises:
            CertificateError: not certified, or `leaf`, `pile`, `key`, `meter`: certified but not for us.
            CodecError, BoundsError: not the wire form.
        """
        self.verify(inclusion)  # before the leaf is taken apart: a board has no room for both at once
        row = decode(inclusion.leaf, MAX_SMALL_LEAF_BYTES)
        if isinstance(row, list) and row and row[0] == LEAF_CLOSED:
            _, contract_id, outcome = array(row, 3)
            check_bytes("contract", contract_id, 32, 32)
            check_text("outcome", outcome, 32)
            return None, contract_id, outcome
        kind, encoded = array(row, 2)
        if kind != LEAF_CONTRACT or isinstance(kind, bool) or not isinstance(encoded, bytes):
            raise CertificateError("neither a contract nor the end of one", "leaf")
        terms = decode_terms(encoded)
        self._check_ours(terms)
        return terms, sha256(encoded), ""

    def open_receipt(self, inclusion: Inclusion, after: int) -> tuple[int, bytes] | None:
        """Open what the `receipt` topic brought.

        Returns:
            (through sequence, SHA-256 of the proof of that sequence), or None if it is not beyond `after`: old receipts
            are common after a reconnect and not worth their signatures.

        Raises:
            CertificateError: not certified, or `leaf`, `pile`: certified but not for us.
            CodecError, BoundsError: not the wire form.
        """
        kind, pile_id, through, digest = array(decode(inclusion.leaf, MAX_SMALL_LEAF_BYTES), 4)
        if kind != LEAF_RECEIPT or isinstance(kind, bool):
            raise CertificateError("not a receipt", "leaf")
        if check_id("pile", pile_id) != self._pile_id:
            raise CertificateError("receipt is for pile " + pile_id, "pile")
        check_int("sequence", through, 1, MAX_SEQUENCE)
        check_bytes("proof hash", digest, 32, 32)
        if through <= after:
            return None
        self.verify(inclusion)
        return through, digest

    def _check_ours(self, terms: Terms) -> None:
        if terms.pile != self._pile_id:
            raise CertificateError("contract is for pile " + terms.pile, "pile")
        if terms.pile_public != self._public:
            raise CertificateError("contract names another key for this pile", "key")
        if terms.meter_serial != self._meter_serial:
            raise CertificateError("contract names meter " + terms.meter_serial, "meter")
        if terms.window_end_ms <= terms.window_start_ms:
            raise CertificateError("contract has an empty window", "leaf")
