"""What the pile believes of the chain: nothing that more than two thirds of its validators' power did not sign.

No clock, no wire. Implements the light client of the wire format ("Certificates"): certificate over the header, Merkle
path from the leaf to the header's result root, then the leaf's exact shape, then that it concerns this very pile.

The validators are those of the configuration, then those that each set hands over to, one certified block after the
other. Only the newest set counts: what an older one certified, it may have certified after its keys were stolen.
"""

from pile_shared.certificate import (
    MAX_HANDOVER_BYTES,
    MAX_LEAF_BYTES,
    Certificate,
    Header,
    Inclusion,
    Validator,
    validators_from,
    validators_hash,
)
from pile_shared.codec import array, decode, encode
from pile_shared.errors import CertificateError, JournalError
from pile_shared.platform import crc32, sha256
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT, MAX_TERMS_BYTES, Terms, decode_terms
from pile_shared.units import MAX_SEQUENCE, check_bytes, check_id, check_int, check_text

MAX_SMALL_LEAF_BYTES = MAX_TERMS_BYTES + 16  # of the leaves a pile reads, the one with terms is the longest
assert MAX_SMALL_LEAF_BYTES < MAX_LEAF_BYTES
SET_NAME = "validators.v1"  # beside the journal's segments; the 1 is the format version


class LightClient:
    """Opens the chain's messages to one pile.

    Attributes:
        height: the highest certified block seen since the start, at least that of the last handover; 0 before the first.
        validators: the set that is believed.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        *,
        chain_id: str,
        validators: list[Validator],
        pile_id: str,
        public: bytes,
        meter_serial: str,
        storage,  # noqa: ANN001 - differs by interpreter
    ) -> None:
        """Pin the chain and its validator set, and name the pile: id, 65-byte key, serial of its meter.

        `validators` are the configured ones, where to begin; a set that `follow` saved in `storage`, the journal's, since
        then takes their place.

        Raises:
            CertificateError: `saved_set`, the saved set cannot be read. It was written in one piece, so this is no power
                cut, and falling back to the configured set might be falling back to one that is long stale.
        """
        self.height = 0
        self.validators = validators
        self._storage = storage
        self._pinned = validators_hash(validators)
        self._chain_id = chain_id
        self._pile_id = pile_id
        self._public = public
        self._meter_serial = meter_serial
        self._restore()

    def verify(self, inclusion: Inclusion) -> Header:
        """The certified header a leaf belongs to; CertificateError otherwise."""
        header = inclusion.verify(self._chain_id, self.validators)
        self.height = max(self.height, header.height)
        return header

    def follow(self, certificate: Certificate, following: bytes) -> bool:
        """Believe another validator set from here on, if the present one hands over to it; durable when this returns.

        Args:
            certificate: Of a block of the present set whose header names the hash of the next.
            following: The encoding of that next set.

        Returns:
            False if it is the present set already: messages come twice.

        Raises:
            CertificateError: `handover`, the block names another next set; `replayed`, the block is older than one already
                seen; and those of `Certificate.verify`. Nothing has changed then.
            CodecError, BoundsError: not the wire form.
            JournalError: `storage`, the set cannot be saved. It is not believed then.
        """
        digest = sha256(following)
        if digest == validators_hash(self.validators):
            return False
        header = certificate.header
        if header.next_validators_hash != digest:
            raise CertificateError("block " + str(header.height) + " names other accounting nodes", "handover")
        if header.height < self.height:
            raise CertificateError("handover of block " + str(header.height) + " is an old one", "replayed")
        header = None  # type: ignore[assignment] # a board has no room for it beside the verification
        validators_from(decode(following, MAX_HANDOVER_BYTES))  # well formed; and forgotten again, for the same reason
        height = certificate.verify(self._chain_id, self.validators).height
        body = encode([self._pinned, height, following])
        try:
            self._storage.replace(SET_NAME, body + crc32(body).to_bytes(4, "big"))
        except OSError as error:
            raise JournalError("accounting nodes cannot be saved: " + repr(error), "storage")
        self.height = height
        self.validators = validators_from(decode(following, MAX_HANDOVER_BYTES))
        return True

    def _restore(self) -> None:
        """Take up the saved set, unless the configuration names another to begin with than it did then."""
        if SET_NAME not in self._storage.names():
            return
        with self._storage.open(SET_NAME) as file:
            data = file.read(min(self._storage.size(SET_NAME), MAX_HANDOVER_BYTES))
        body = data[:-4]
        if not body or crc32(body) != int.from_bytes(data[-4:], "big"):
            raise CertificateError(
                SET_NAME + " is damaged: remove it, and put the present accounting nodes into the configuration",
                "saved_set",
            )
        pinned, height, saved = array(decode(body, MAX_HANDOVER_BYTES), 3)
        if pinned == self._pinned:
            self.height = height
            self.validators = validators_from(decode(saved, MAX_HANDOVER_BYTES))

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
