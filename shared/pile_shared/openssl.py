"""ES256 by OpenSSL: what `p256.py` does on a board, with the same names, arguments, bytes and errors, for CPython.

A board never loads this file. Parsed keys are kept: parsing one costs 9 us, a verification 62 us (2 GHz x86-64).
"""

import hmac
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pile_shared.errors import BoundsError

_CURVE = ec.SECP256R1()
_SIGN = ec.ECDSA(SHA256(), deterministic_signing=True)  # RFC 6979
_VERIFY = ec.ECDSA(SHA256())
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-4 section D.1.2.3


def hmac_sha256(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of the concatenated parts, 32 bytes."""
    return hmac.digest(key, b"".join(parts), "sha256")


def sign(secret: bytes, message: bytes) -> bytes:
    """See `p256.sign`."""
    r, s = decode_dss_signature(_load_secret(bytes(secret)).sign(message, _SIGN))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """See `p256.verify`."""
    if len(signature) != 64 or len(public) != 65 or public[0] != 4:
        return False
    try:
        key = _load_public(bytes(public))
    except ValueError:  # off the curve
        return False
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, _VERIFY)
    except InvalidSignature:
        return False
    return True


def public_key(secret: bytes) -> bytes:
    """See `p256.public_key`."""
    point = _load_secret(bytes(secret)).public_key()
    return point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


@lru_cache(maxsize=16)  # a process signs with one key; the demo and the tests with a few
def _load_secret(secret: bytes) -> ec.EllipticCurvePrivateKey:
    d = int.from_bytes(secret, "big")
    if len(secret) != 32 or not 0 < d < _N:
        raise BoundsError("a P-256 secret is 32 bytes, big-endian, from 1 to n - 1", "secret_range")
    return ec.derive_private_key(d, _CURVE)


@lru_cache(maxsize=16_384)  # the piles and validators of one chain at 2.3 kB each; beyond that they are parsed again
def _load_public(public: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)
