"""The one place where the two interpreters part: what CPython takes from OpenSSL, a board computes in `p256.py`.

Everything here gives the same bytes on both. Callers import these names and never ask which interpreter runs them.
"""

import hashlib
import os
import sys
from binascii import crc32 as _crc32

MICROPYTHON = sys.implementation.name == "micropython"

# One of two modules with the same names. A board that lacks a fast curve gets the slow one because it is a board, never
# because an import failed: a CPython without `cryptography` is an installation error and says so.
if MICROPYTHON:
    from pile_shared import p256 as _es256
else:
    from pile_shared import openssl as _es256  # type: ignore[no-redef]


def sha256(data: bytes) -> bytes:
    """SHA-256 (FIPS 180-4), 32 bytes."""
    return hashlib.sha256(data).digest()


def hmac_sha256(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of the concatenated parts, 32 bytes."""
    return _es256.hmac_sha256(key, *parts)


def random_bytes(count: int) -> bytes:
    """Random bytes from the operating system or, on a board, from the hardware generator; fit for keys."""
    return os.urandom(count)


def crc32(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC-32 (ISO 3309, as in zlib) in [0, 2^32 - 1]; `crc` continues from the value of the bytes before."""
    return _crc32(data, crc)


def es256_sign(secret: bytes, message: bytes) -> bytes:
    """Sign a message with ES256 (RFC 9053 section 2.1); SHA-256 is taken inside, the nonce is that of RFC 6979.

    Args:
        secret: 32 bytes, big-endian, in [1, n - 1].
        message: Any number of bytes.

    Returns:
        r || s, 64 bytes; the same for the same input, on every platform.

    Raises:
        BoundsError: `secret_range`, the secret is not 32 bytes in [1, n - 1].
    """
    return _es256.sign(secret, message)


def es256_verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature (64 bytes, r || s) over a message is by a public key (65 bytes, 04 || x || y).

    Returns:
        False for a wrong signature and for anything malformed; it never raises, whatever the bytes.
    """
    return _es256.verify(public, message, signature)


def es256_public(secret: bytes) -> bytes:
    """The public key of a secret: the uncompressed SEC 1 point, 65 bytes, 04 || x || y.

    Raises:
        BoundsError: `secret_range`, the secret is not 32 bytes in [1, n - 1].
    """
    return _es256.public_key(secret)
