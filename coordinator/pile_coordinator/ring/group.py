"""ristretto255 (RFC 9496): points and scalars as their 32 bytes, by libsodium through `rbcl`, with encodings taken strictly.

libsodium is laxer than a signature scheme can afford, and `rbcl` passes that on. Closed here: its test for a valid point
takes the identity; its multiplication ignores the top bit of a scalar and takes s + ORDER for s, two encodings of one
signature; its addition returns zeros for a point it could not decode.
"""

import ctypes
import hashlib
from contextlib import suppress
from pathlib import Path

import rbcl  # type: ignore[import-untyped]

from pile_shared.errors import PilechainError

POINT_BYTES = 32
SCALAR_BYTES = 32
WIDE_BYTES = 64
ORDER = 2**252 + 27742317777372353535851937790883648493  # RFC 9496 section 4
IDENTITY = bytes(POINT_BYTES)

# `rbcl` unpacks libsodium into a temporary file of 2.8 MB at every start and leaves it there. Once loaded it has done its
# work; where a system does not let go of an open file, it stays.
_LIBRARY = rbcl._sodium  # noqa: SLF001 - what the wrappers around it cost is told at `combine`
with suppress(OSError):
    Path(_LIBRARY._name).unlink(missing_ok=True)  # noqa: SLF001

_MULTIPLY = _LIBRARY.crypto_scalarmult_ristretto255
_MULTIPLY_BASE = _LIBRARY.crypto_scalarmult_ristretto255_base
_ADD = _LIBRARY.crypto_core_ristretto255_add
_PointBuffer = ctypes.c_char * POINT_BYTES


class RingError(PilechainError):
    """A key, ring or place that does not fit what the caller asks for."""

    code = "ring"


def is_scalar(encoded: bytes) -> bool:
    """Whether these are the 32 bytes, little-endian, of a scalar in [1, ORDER - 1]."""
    return len(encoded) == SCALAR_BYTES and 0 < int.from_bytes(encoded, "little") < ORDER


def is_point(encoded: bytes) -> bool:
    """Whether these are the canonical 32 bytes of a point (RFC 9496 section 4.3.1) other than the identity."""
    return (
        len(encoded) == POINT_BYTES
        and encoded != IDENTITY
        and bool(rbcl.crypto_core_ristretto255_is_valid_point(encoded))
    )


def hashed(tag: bytes, *fields: bytes) -> bytes:
    """SHA-512 (FIPS 180-4) of a tag and fields, 64 bytes: each behind its length, so that no two lists hash the same bytes."""
    return hashlib.sha512(framed(tag, *fields)).digest()


def framed(*fields: bytes) -> bytes:
    """Fields one after the other, each behind its length as 8 bytes, big-endian."""
    return b"".join([part for field in fields for part in (len(field).to_bytes(8, "big"), field)])


def scalar_from(wide: bytes) -> bytes:
    """The scalar of 64 uniform bytes: their little-endian number modulo ORDER (RFC 9496 section 4.4), 32 bytes."""
    return bytes(rbcl.crypto_core_ristretto255_scalar_reduce(wide))


def point_from(wide: bytes) -> bytes:
    """The point of 64 uniform bytes by the one-way map (RFC 9496 section 4.3.4): nobody knows its discrete logarithm."""
    return bytes(rbcl.crypto_core_ristretto255_from_hash(wide))


def add_scalars(one: bytes, other: bytes) -> bytes:
    """The sum one + other modulo ORDER."""
    return bytes(rbcl.crypto_core_ristretto255_scalar_add(one, other))


def answer(nonce: bytes, challenge: bytes, secret: bytes) -> bytes:
    """The answer nonce - challenge * secret modulo ORDER."""
    product = rbcl.crypto_core_ristretto255_scalar_mul(challenge, secret)
    return bytes(rbcl.crypto_core_ristretto255_scalar_sub(nonce, product))


def multiply(scalar: bytes, point: bytes) -> bytes:
    """The point scalar * point, for a scalar already known to be below ORDER.

    Raises:
        RingError: `ring_point`, the point is malformed or the identity, or the scalar zero.
    """
    try:
        return bytes(rbcl.crypto_scalarmult_ristretto255(scalar, point))
    except RuntimeError as error:
        raise RingError("this is no point that can be multiplied", "ring_point") from error


def multiply_base(scalar: bytes) -> bytes:
    """The point scalar * G of the generator (RFC 9496 section 4), for a scalar already known to be below ORDER.

    Raises:
        RingError: `ring_point`, the scalar is zero.
    """
    try:
        return bytes(rbcl.crypto_scalarmult_ristretto255_base(scalar))
    except RuntimeError as error:
        raise RingError("zero times the generator is no point that can be used", "ring_point") from error


def add(one: bytes, other: bytes) -> bytes:
    """The sum of two points already known to be ones; it may be the identity."""
    return bytes(rbcl.crypto_core_ristretto255_add(one, other))


def combine(scalar: bytes, point: bytes | None, other_scalar: bytes, other_point: bytes) -> bytes:
    """The sum scalar * point + other_scalar * other_point, of what is known to be scalars and points; it may be the identity.

    This is where nearly all time goes, 32 times in each signature, so it calls libsodium past `rbcl`'s wrappers: 2 % less.
    The buffers are its own, for libsodium runs without the interpreter's lock.

    Args:
        scalar: 32 bytes, as all the others: libsodium reads as many and cannot ask.
        point: None is the generator, for which libsodium has tables.
        other_scalar: As `scalar`.
        other_point: As `point`, but never None.

    Raises:
        RingError: `ring_point`, a scalar is zero, or a point malformed or the identity.
    """
    one, other = _PointBuffer(), _PointBuffer()
    failed = _MULTIPLY_BASE(one, scalar) if point is None else _MULTIPLY(one, scalar, point)
    if failed or _MULTIPLY(other, other_scalar, other_point) or _ADD(one, one, other):
        raise RingError("these are no points that can be multiplied and added", "ring_point")
    return one.raw


def public_of(secret: bytes) -> bytes:
    """The key secret * G of a caller's secret, which is not trusted to be one.

    Raises:
        RingError: `ring_secret`, not 32 bytes, little-endian, in [1, ORDER - 1].
    """
    if not is_scalar(secret):
        raise RingError(f"a secret has {SCALAR_BYTES} bytes, little-endian, in [1, order - 1]", "ring_secret")
    return multiply_base(secret)
