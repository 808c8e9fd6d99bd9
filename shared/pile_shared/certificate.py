"""Block headers, quorum certificates, and proof that something happened in a block.

Everything a light client trusts comes from here: it pins one validator set, checks the signatures of more than two thirds
of its power over a header, and a Merkle path from a result to that header. Pure; no clock, no network.
"""

from pile_shared import cose, merkle
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import CertificateError, CodecError
from pile_shared.platform import es256_verify, sha256
from pile_shared.units import MAX_TIME_MS, check_bytes, check_id, check_int

VERSION = 1
MAX_VALIDATORS = 100  # an alliance's accounting nodes; a pile checks one signature for each of two thirds of them
MAX_POWER = 1 << 53
MAX_HEADER_BYTES = 512
MAX_INCLUSION_BYTES = 262144  # a certificate of MAX_VALIDATORS signatures plus a leaf of MAX_LEAF_BYTES
MAX_LEAF_BYTES = 131072
MAX_HANDOVER_BYTES = (
    8192  # what a board's link takes; a set of 36 that hands over to 36, ids and powers at their longest
)
MAX_LEAVES = 1 << 24

_HASHES = ("previous", "tx_root", "result_root", "state_root", "validators_hash", "next_validators_hash")


class Validator:
    """One accounting node: its party id, its P-256 attestation key (65 bytes), and its voting power."""

    def __init__(self, party: str, public: bytes, power: int) -> None:
        self.party = check_id("validator", party)
        self.public = check_bytes("validator key", public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES)
        self.power = check_int("validator power", power, 1, MAX_POWER)

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.party, self.public, self.power]


def validators_from(rows: object) -> list[Validator]:
    """A validator set from its wire form: 1..MAX_VALIDATORS, ascending by party, keys distinct."""
    validators = [Validator(*array(row, 3)) for row in items(rows, MAX_VALIDATORS)]
    parties = [validator.party for validator in validators]
    if not validators or parties != sorted(set(parties)) or len({v.public for v in validators}) != len(validators):
        raise CertificateError("validators must be distinct and in order of party", "validators")
    return validators


def validators_hash(validators: list[Validator]) -> bytes:
    """What a header names as the set that may attest it."""
    return sha256(encode([validator.fields() for validator in validators]))


class Header:
    """A block's header (the paper's Figure 5). All roots and hashes are 32 bytes of SHA-256.

    Attributes:
        chain_id: the chain, which names its genesis. height: block number from 1. time_ms: unix milliseconds.
        previous: hash of the header before (zeros at height 1). proposer: accounting node that made the block.
        tx_root, tx_count: Merkle tree over the transactions. result_root, result_count: over results, then events.
        state_root: the whole state after the block. validators_hash: the set whose power attests this header.
        next_validators_hash: the set that attests the next one.
    """

    def __init__(
        self,
        *,
        chain_id: str,
        height: int,
        time_ms: int,
        proposer: str,
        tx_count: int,
        result_count: int,
        previous: bytes,
        tx_root: bytes,
        result_root: bytes,
        state_root: bytes,
        validators_hash: bytes,
        next_validators_hash: bytes,
    ) -> None:
        self.chain_id = check_id("chain_id", chain_id)
        self.height = check_int("height", height, 1, 1 << 48)
        self.time_ms = check_int("time_ms", time_ms, 0, MAX_TIME_MS)
        self.proposer = check_id("proposer", proposer)
        self.tx_count = check_int("tx_count", tx_count, 0, MAX_LEAVES)
        self.result_count = check_int("result_count", result_count, 0, MAX_LEAVES)
        self.previous = check_bytes("previous", previous, 32, 32)
        self.tx_root = check_bytes("tx_root", tx_root, 32, 32)
        self.result_root = check_bytes("result_root", result_root, 32, 32)
        self.state_root = check_bytes("state_root", state_root, 32, 32)
        self.validators_hash = check_bytes("validators_hash", validators_hash, 32, 32)
        self.next_validators_hash = check_bytes("next_validators_hash", next_validators_hash, 32, 32)

    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        return encode(
            [VERSION, self.chain_id, self.height, self.time_ms, self.proposer, self.tx_count, self.result_count]
            + [getattr(self, name) for name in _HASHES]
        )

    def hash(self) -> bytes:
        """SHA-256 of the encoding: the block's hash."""
        return sha256(self.encoded())


def decode_header(data: bytes) -> Header:
    """A header from its bytes; typed errors for anything else."""
    row = array(decode(data, MAX_HEADER_BYTES), 7 + len(_HASHES))
    if row[0] != VERSION or row[0] is True:
        raise CertificateError("not a version 1 header", "header")
    hashes = {name: row[7 + i] for i, name in enumerate(_HASHES)}
    return Header(
        chain_id=row[1],
        height=row[2],
        time_ms=row[3],
        proposer=row[4],
        tx_count=row[5],
        result_count=row[6],
        **hashes,
    )


def attest(header: bytes, signer: cose.SoftwareSigner, chain_id: str) -> bytes:
    """An accounting node's 64-byte signature over a header's bytes (a COSE_Sign1 with the header hash as payload)."""
    return cose.low_s(signer.sign(cose.to_be_signed(signer.kid, sha256(header), cose.purpose(cose.HEADER, chain_id))))


class Certificate:
    """A header's bytes and the attestations of accounting nodes: (validator index, signature), ascending by index."""

    def __init__(self, header: bytes, attestations: list[list[object]]) -> None:
        decode_header(header)  # refuses what is none; not kept, as a board has no room for it while it verifies
        self.header_bytes = header
        self.attestations = attestations

    @property
    def header(self) -> Header:
        """The header, decoded anew."""
        return decode_header(self.header_bytes)

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.header_bytes, self.attestations]

    def verify(self, chain_id: str, validators: list[Validator]) -> Header:
        """The header, if more than two thirds of `validators`' power signed it; CertificateError otherwise.

        Every attestation present must be valid: a certificate has no byte that may be changed.
        """
        header = self.header
        if header.chain_id != chain_id:
            raise CertificateError("block is of chain " + header.chain_id + ": is this the right broker?", "chain")
        if header.validators_hash != validators_hash(validators):
            raise CertificateError(
                "block " + str(header.height) + " is certified by other accounting nodes than those known here: "
                "the operator has to send their handover, or they have to be put into the configuration",
                "validators",
            )
        del header
        aad = cose.purpose(cose.HEADER, chain_id)
        digest = sha256(self.header_bytes)
        power = 0
        last = -1
        for row in items(self.attestations, len(validators)):
            index, signature = array(row, 2)
            check_int("validator index", index, last + 1, len(validators) - 1)
            check_bytes("attestation", signature, cose.SIGNATURE_BYTES, cose.SIGNATURE_BYTES)
            validator = validators[index]
            message = cose.to_be_signed(cose.key_id(validator.public), digest, aad)
            if cose.low_s(signature) != signature or not es256_verify(validator.public, message, signature):
                raise CertificateError("attestation by " + validator.party + " does not verify", "signature")
            power += validator.power
            last = index
        whole = sum([validator.power for validator in validators])
        if 3 * power <= 2 * whole:
            raise CertificateError(
                "attested by " + str(power) + " of " + str(whole) + " in power: not more than two thirds", "quorum"
            )
        return self.header


class Inclusion:
    """A result of a block, with the certificate and the Merkle path that prove it."""

    def __init__(self, certificate: Certificate, leaf: bytes, index: int, path: list[bytes]) -> None:
        self.certificate = certificate
        self.leaf = check_bytes("leaf", leaf, 1, MAX_LEAF_BYTES)
        self.index = check_int("index", index, 0, MAX_LEAVES)
        self.path = [check_bytes("path", item, 32, 32) for item in path]

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.certificate.fields(), self.leaf, self.index, self.path]

    def encoded(self) -> bytes:
        """Deterministic CBOR, as published to piles."""
        return encode(self.fields())

    def verify(self, chain_id: str, validators: list[Validator]) -> Header:
        """The certified header the leaf belongs to; CertificateError otherwise."""
        header = self.certificate.verify(chain_id, validators)
        root = merkle.root_from_path(self.leaf, self.index, header.result_count, self.path)
        if root != header.result_root:
            raise CertificateError("block " + str(header.height) + " does not contain this: it is forged", "inclusion")
        return header


def inclusion_from(value: object) -> Inclusion:
    """An Inclusion from its decoded wire form."""
    parts, leaf, index, path = array(value, 4)
    return Inclusion(_certificate_from(parts), leaf, index, items(path, merkle.MAX_PATH))


def _certificate_from(value: object) -> Certificate:
    header, attestations = array(value, 2)
    if not isinstance(header, bytes) or not isinstance(attestations, list):
        raise CodecError("a certificate is [header bytes, attestations]")
    return Certificate(header, attestations)


def decode_inclusion(data: bytes) -> Inclusion:
    """An Inclusion from its bytes; typed errors for anything else."""
    return inclusion_from(decode(data, MAX_INCLUSION_BYTES))


def encode_handover(certificate: Certificate, validators: list[Validator]) -> bytes:
    """The message by which a reader learns the next validator set: the last block of the old one, and the new one.

    Args:
        certificate: Of a block whose `next_validators_hash` names another set than its `validators_hash`.
        validators: That next set.
    """
    return encode([certificate.fields(), encode([validator.fields() for validator in validators])])


def decode_handover(data: bytes) -> tuple[Certificate, bytes]:
    """The certificate and the next set's encoding, neither verified yet; typed errors for anything else.

    The set stays bytes: its hash is of them, and a board has no room for two sets while it verifies a certificate.
    """
    parts, following = array(decode(data, MAX_HANDOVER_BYTES), 2)
    return _certificate_from(parts), check_bytes("validators", following, 1, MAX_HANDOVER_BYTES)
