"""COSE_Sign1 (RFC 9052 section 4.2) with ES256 (RFC 9053 section 2.1), in the one shape this project uses.

Tag 18, protected header {1: -7, 4: kid}, empty unprotected header, payload inside, 64-byte signature. Because the shape
is fixed, a message is parsed by comparing bytes: there is no second way to write it, so no byte of it is malleable.
That takes one more rule: whoever sees (r, s) can make (r, n - s), which ES256 accepts too. Proofs are chained and
transactions named by the hash of their bytes, so s must be at most n / 2, and `sign1` makes it so for any signer.
`kid` is the first 8 bytes of SHA-256 over the uncompressed public point. What a signature is *for* goes into
external_aad: `pilechain/1/<purpose>/<chain id>`, so a proof can never be taken for an order, nor one chain's for another's.
"""

from pile_shared.errors import SignatureError
from pile_shared.platform import es256_public, es256_sign, es256_verify, sha256

SIGNATURE_BYTES = 64
PUBLIC_BYTES = 65
KID_BYTES = 8

PROOF = "proof"  # a pile signs a metering proof
TRANSACTION = "tx"  # a party signs a transaction
HEADER = "header"  # an accounting node attests a block header
SESSION = "session"  # a user tells a pile to start or stop
UPDATE = "update"  # an operator offers piles new software
QUERY = "query"  # a party asks a coordinator
REPLY = "reply"  # a coordinator answers a party
SERVING = "serving"  # a party says that its coordinator serves

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # n of P-256, FIPS 186-4 section D.1.2.3
_HALF_ORDER = (_ORDER >> 1).to_bytes(32, "big")
_START = b"\xd2\x84\x4d\xa2\x01\x26\x04\x48"  # 18([h'{1: -7, 4: kid}'
_CONTEXT = b"\x84\x6aSignature1\x4d\xa2\x01\x26\x04\x48"


def purpose(kind: str, chain_id: str) -> bytes:
    """The external_aad of a message of `kind` on a chain."""
    return ("pilechain/1/" + kind + "/" + chain_id).encode()


def key_id(public: bytes) -> bytes:
    """The 8-byte key identifier of an uncompressed P-256 point (65 bytes)."""
    return sha256(public)[:KID_BYTES]


def _bstr_head(length: int) -> bytes:
    if length < 24:
        return bytes((0x40 | length,))
    if length < 256:
        return bytes((0x58, length))
    if length < 65536:
        return bytes((0x59, length >> 8, length & 255))
    raise SignatureError("payload longer than 65535 bytes", "oversized")


def to_be_signed(kid: bytes, payload: bytes, aad: bytes) -> bytes:
    """The Sig_structure of RFC 9052 section 4.4, whose SHA-256 is what ES256 signs."""
    return _CONTEXT + kid + _bstr_head(len(aad)) + aad + _bstr_head(len(payload)) + payload


def low_s(signature: bytes) -> bytes:
    """The one of (r, s) and (r, n - s) whose s is at most n / 2; what is none of them, with s above n, is changed too."""
    if signature[32:] <= _HALF_ORDER:
        return signature
    return signature[:32] + (-int.from_bytes(signature[32:], "big") % _ORDER).to_bytes(32, "big")


class SoftwareSigner:
    """A signer that holds its P-256 key in memory. TPM and secure-element signers share `kid`, `public` and `sign`."""

    def __init__(self, secret: bytes) -> None:
        """Take a 32-byte secret scalar in [1, n - 1]."""
        self._secret = secret
        self.public = es256_public(secret)
        self.kid = key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """R || s (64 bytes) over SHA-256 of `message`, deterministic (RFC 6979)."""
        return es256_sign(self._secret, message)


def sign1(payload: bytes, signer: SoftwareSigner, aad: bytes) -> bytes:
    """A signed message carrying `payload`."""
    signature = low_s(signer.sign(to_be_signed(signer.kid, payload, aad)))
    return b"".join((_START, signer.kid, b"\xa0", _bstr_head(len(payload)), payload, b"\x58\x40", signature))


class Sign1:
    """A parsed, not yet verified, COSE_Sign1."""

    def __init__(self, kid: bytes, payload: bytes, signature: bytes) -> None:
        self.kid = kid
        self.payload = payload
        self.signature = signature

    def verify(self, public: bytes, aad: bytes) -> None:
        """Raise SignatureError unless `public` made this signature over this payload for this purpose."""
        if key_id(public) != self.kid:
            raise SignatureError("signed by another key", "unknown_key")
        if not es256_verify(public, to_be_signed(self.kid, self.payload, aad), self.signature):
            raise SignatureError("signature does not verify", "bad_signature")


def parse1(data: bytes, max_bytes: int) -> Sign1:
    """The parts of a message, or SignatureError (`oversized`, `malformed`). Nothing is trusted before `verify`."""
    if len(data) > max_bytes:
        raise SignatureError("longer than " + str(max_bytes) + " bytes", "oversized")
    start = len(_START) + KID_BYTES + 1
    if len(data) < start + 1 or not data.startswith(_START) or data[start - 1] != 0xA0:
        raise SignatureError("not a COSE_Sign1 of the expected shape", "malformed")
    end = len(data) - SIGNATURE_BYTES
    head = data[start]
    size = 2 if head == 0x58 else 3 if head == 0x59 else 1
    payload = bytes(data[start + size : end - 2]) if end >= start + size + 2 else None
    if payload is None or data[start : start + size] != _bstr_head(len(payload)) or data[end - 2 : end] != b"\x58\x40":
        raise SignatureError("not a COSE_Sign1 of the expected shape", "malformed")
    if data[end + 32 :] > _HALF_ORDER:
        raise SignatureError("s of the signature is above n / 2", "malformed")
    return Sign1(bytes(data[len(_START) : len(_START) + KID_BYTES]), payload, bytes(data[end:]))
