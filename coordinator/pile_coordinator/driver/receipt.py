"""What a receipt says of an order, short enough for a QR code, and whether a certificate is the one it speaks of.

A certificate has some 10 kB for an hour's charging, and a QR code holds 2,953 bytes (ISO/IEC 18004, version 40-L). So the code
carries what pins the certificate: the contract, the block that closed it, and the SHA-256 of the file. The first
two are what counts. The same contract can have several good certificates, as each names the accounting nodes that a coordinator
heard of, so another SHA-256 is no fault.
"""

from dataclasses import dataclass

from pile_coordinator.certificates import decode_order_certificate
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.verify import Verified, VerifyError, verify_order
from pile_shared.errors import BoundsError, ConfigError
from pile_shared.platform import sha256
from pile_shared.units import check_id

PREFIX = "pilechain-receipt:1"
MAX_TEXT = 400  # characters: a chain id of 40 leaves 200
_HEX = 64
_MAX_HEIGHT_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a QR code says.

    Attributes:
        chain_id: of the chain. contract: 32 bytes. height, header: number and hash of the block that closed the contract.
        file: SHA-256 of the certificate's bytes as the driver has them.
    """

    chain_id: str
    contract: bytes
    height: int
    header: bytes
    file: bytes

    def text(self) -> str:
        """For the QR code: ASCII, MAX_TEXT characters at most."""
        parts = (PREFIX, self.chain_id, self.contract.hex(), str(self.height), self.header.hex(), self.file.hex())
        return ":".join(parts)


@dataclass(frozen=True, slots=True)
class Proven:
    """A certificate that was verified here, offline: its bytes, what it proves, and the receipt that names it."""

    data: bytes
    verified: Verified
    receipt: Receipt


def prove(data: bytes, genesis: Genesis) -> Proven:
    """Verify a certificate against a genesis and make its receipt; VerifyError as `verify_order` raises it."""
    verified = verify_order(data, genesis)
    header = decode_order_certificate(data).closing.certificate.header
    contract = verified.terms.contract_id()
    return Proven(
        data, verified, Receipt(genesis.chain_id, contract, verified.closed_height, header.hash(), sha256(data))
    )


def parse(text: str) -> Receipt:
    """The receipt in a QR code's text; ConfigError if it is none."""
    parts = text.strip().split(":") if len(text) <= MAX_TEXT and text.isascii() else []
    try:
        kind, version, chain_id, contract, height, header, file = parts
        hashes = [bytes.fromhex(one) for one in (contract, header, file) if len(one) == _HEX]
        found = Receipt(check_id("chain", chain_id), hashes[0], int(height[:_MAX_HEIGHT_DIGITS]), hashes[1], hashes[2])
    except (ValueError, IndexError, BoundsError):
        found, kind, version = None, "", ""
    if found is None or found.height < 1 or f"{kind}:{version}" != PREFIX or found.text() != text.strip():
        raise ConfigError(f"this is no receipt; the text of its QR code begins with {PREFIX}: and has 7 parts")
    return found


def check(told: Receipt, proven: Proven) -> bool:
    """Whether a verified certificate is the very file that a receipt names.

    Raises:
        VerifyError: it is of another chain, contract or block; whoever shows the receipt shows it for something else.
    """
    found = proven.receipt
    for what, ours, theirs in (
        ("chain", found.chain_id, told.chain_id),
        ("contract", found.contract.hex(), told.contract.hex()),
        ("block", found.height, told.height),
        ("block", found.header.hex(), told.header.hex()),
    ):
        if ours != theirs:
            raise VerifyError(
                "chain", f"not what the receipt speaks of: its {what} is {theirs}, the certificate's {ours}"
            )
    return found.file == told.file
