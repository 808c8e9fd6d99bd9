"""The order certificate: everything needed to check one order offline, from the meter to the money.

It carries what both parties signed, the contract and the clearing of its block, every metering proof, the settlement and
its closing, with Merkle paths and quorum signatures (docs/wire-format.cddl, `order-certificate`). `verify.py` checks it.
"""

from dataclasses import dataclass

from pile_shared.certificate import Certificate, Inclusion
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import CodecError
from pile_shared.merkle import MAX_PATH
from pile_shared.units import check_bytes, check_id

VERSION = 1
MAX_CERTIFICATE_BYTES = 8 << 20  # a week of proofs, one a minute, is 2 MB
MAX_PROOFS = 50_000


@dataclass(frozen=True, slots=True)
class BlockExtract:
    """Results of one block under one certificate: (leaf, index, path) each."""

    certificate: Certificate
    leaves: tuple[tuple[bytes, int, tuple[bytes, ...]], ...]

    def fields(self) -> list[object]:
        """Wire order."""
        return [self.certificate.fields(), [[leaf, index, list(path)] for leaf, index, path in self.leaves]]

    def inclusions(self) -> list[Inclusion]:
        """The same as separate inclusion proofs."""
        return [Inclusion(self.certificate, leaf, index, list(path)) for leaf, index, path in self.leaves]


@dataclass(frozen=True, slots=True)
class OrderCertificate:
    """One contract's whole life.

    Attributes:
        signing: the contract's leaf and its block's clearing leaf. settlement: the settlement leaf. closing: the closing
        leaf. order, listing: the bid and the listing as their parties signed them. proofs: the metering proofs that
        count, in order. confirmations: the parties' signatures under the settlement digest.
    """

    chain_id: str
    signing: BlockExtract
    settlement: BlockExtract
    closing: BlockExtract
    order: bytes
    listing: bytes
    proofs: tuple[bytes, ...]
    confirmations: tuple[bytes, ...]

    def encoded(self) -> bytes:
        """Deterministic CBOR."""
        return encode(
            [
                VERSION,
                self.chain_id,
                self.signing.fields(),
                self.settlement.fields(),
                self.closing.fields(),
                self.order,
                self.listing,
                list(self.proofs),
                list(self.confirmations),
            ]
        )


def decode_order_certificate(data: bytes) -> OrderCertificate:
    """A certificate from its bytes; typed errors for anything else. Nothing in it is checked yet."""
    row = array(decode(data, MAX_CERTIFICATE_BYTES), 9)
    if type(row[0]) is not int or row[0] != VERSION:  # true would equal 1
        raise CodecError("not a version 1 order certificate")
    return OrderCertificate(
        check_id("chain_id", row[1]),
        _extract(row[2], 2),
        _extract(row[3], 1),
        _extract(row[4], 1),
        check_bytes("order", row[5], 1, 65_535),
        check_bytes("listing", row[6], 1, 65_535),
        tuple(check_bytes("proof", proof, 1, 2048) for proof in items(row[7], MAX_PROOFS)),
        tuple(check_bytes("confirmation", tx, 1, 65_535) for tx in items(row[8], 2)),
    )


def _extract(value: object, count: int) -> BlockExtract:
    parts, leaves = array(value, 2)
    header, attestations = array(parts, 2)
    if not isinstance(header, bytes) or not isinstance(attestations, list):
        raise CodecError("a certificate is [header bytes, attestations]")
    rows = []
    for item in array(leaves, count):
        leaf, index, path = array(item, 3)
        rows.append((leaf, index, tuple(items(path, MAX_PATH))))
    extract = BlockExtract(Certificate(header, attestations), tuple(rows))
    extract.inclusions()  # checks types and ranges
    return extract
