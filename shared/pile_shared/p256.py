"""ECDSA on NIST P-256 with SHA-256, in pure Python, for boards whose MicroPython has no elliptic curves.

This is ES256 of COSE (RFC 9053 section 2.1): a signature is r || s, 64 bytes; a public key is the uncompressed SEC 1
point 04 || x || y, 65 bytes; a secret is 32 bytes, big-endian, in [1, n - 1]. Nonces are deterministic (RFC 6979
section 3.2), so the bytes equal those OpenSSL gives on CPython. Low s is not required: ES256 does not.

How it computes. Multiples of the base point come from a comb of 6 rows by 43 columns (4,032 bytes, made at the first
use or loaded from a file, see `load_comb_table`); multiples of another point by signed windows of 3 bits. Points are
Jacobian (x / z^2, y / z^3), infinity has z = 0, and coordinates are always reduced to [0, p - 1]. Reduction is plain
`%`, which MicroPython does in C; Montgomery, Barrett and Solinas forms written in Python are slower than that.

Side channels. Big integers take a time that depends on their value, on both interpreters. What a signature multiplies
is therefore never the nonce itself but two shares of it, each of them uniformly random (32 random bits added in
multiples of n, the usual cheaper way, leave bits of the nonce bare on this curve, whose n is sparse), and the inversion
and the product with the secret are blinded by a third random number. That hides the key from whoever measures time; it
is no protection against somebody with probes on the board, for whom there are secure elements.
"""

from hashlib import sha256 as _sha256
from os import urandom

from pile_shared.errors import BoundsError

TYPE_CHECKING = False  # there is no typing module on a board; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Iterator

# FIPS 186-4 section D.1.2.3, curve P-256: y^2 = x^3 - 3x + b over p, base point of prime order n.
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_GX = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
_GY = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5

_ROWS = 6
_COLUMNS = 43  # 6 * 43 = 258 bits cover a scalar
_COLUMN = 0x800000000010000000000200000000004000000000080000000001  # one bit in each row
_TABLE_BYTES = 64 * 63
# The table is a constant of the curve, so one digest tells a good copy from a damaged one.
_TABLE_SHA256 = bytes.fromhex("723e1cfc41790fb0864aecb7b5ac481f486816274471a75dd335d24eac9fd20c")

_table = b""


def hmac_sha256(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of the concatenated parts, 32 bytes."""
    if len(key) > 64:
        key = _sha256(key).digest()
    key = key + bytes(64 - len(key))
    inner = _sha256(bytes(octet ^ 0x36 for octet in key))
    for part in parts:
        inner.update(part)
    outer = _sha256(bytes(octet ^ 0x5C for octet in key))
    outer.update(inner.digest())
    return outer.digest()


def sign(secret: bytes, message: bytes) -> bytes:
    """Sign a message: SHA-256, then ECDSA with the nonce of RFC 6979.

    Args:
        secret: 32 bytes, big-endian, in [1, n - 1].
        message: Any number of bytes.

    Returns:
        r || s, 64 bytes; the same for the same input.

    Raises:
        BoundsError: `secret_range`, the secret is not 32 bytes in [1, n - 1].
    """
    d = _secret_scalar(secret)
    digest = _sha256(message).digest()
    e = int.from_bytes(digest, "big")
    for k in _nonces(secret, digest):
        r = _multiply_base(k)[0] % _N
        blind = _random_scalar()
        s = (e * blind + (d * blind % _N) * r) % _N * _inverse(k * blind % _N, _N) % _N
        if r and s:
            break
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature over a message was made with the secret of a public key.

    Args:
        public: 65 bytes, 04 || x || y.
        message: Any number of bytes.
        signature: 64 bytes, r || s.

    Returns:
        False for a wrong signature and for anything malformed: lengths, prefix, point off the curve, r or s outside
        [1, n - 1] (SEC 1 section 4.1.4). It never raises, whatever the bytes.
    """
    if len(signature) != 64 or not is_on_curve(public):
        return False
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    if not (0 < r < _N and 0 < s < _N):
        return False
    e = int.from_bytes(_sha256(message).digest(), "big")
    w = _inverse(s, _N)
    x, _, z = _multiply_both(e * w % _N, r * w % _N, *_coordinates(public))
    if z == 0:
        return False
    zz = z * z % _P
    # x / z^2 mod n = r, without a division: x is r or, where that is still below p, r + n.
    return (r * zz - x) % _P == 0 or (r + _N < _P and ((r + _N) * zz - x) % _P == 0)


def public_key(secret: bytes) -> bytes:
    """The public point of a secret: 65 bytes, 04 || x || y.

    Raises:
        BoundsError: `secret_range`, the secret is not 32 bytes in [1, n - 1].
    """
    x, y = _multiply_base(_secret_scalar(secret))
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def is_on_curve(public: bytes) -> bool:
    """Tell whether bytes are an uncompressed point of P-256 (SEC 1 section 3.2.2.1); all of them have the order n."""
    if len(public) != 65 or public[0] != 4:
        return False
    x, y = _coordinates(public)
    return x < _P and y < _P and (y * y - (x * x - 3) * x - _B) % _P == 0


def comb_table() -> bytes:
    """The table of base point multiples, 4,032 bytes, made now unless it is there already.

    A board calls this once at boot and may keep the bytes in a file for `load_comb_table`, which is faster.
    Entry i (from 1, 64 bytes, x || y) is the sum of 2^(43 j) G over the bits j of i.
    """
    if not _table:
        load_comb_table(bytes(_make_table()))
    return _table


def load_comb_table(data: bytes) -> None:
    """Use a table that `comb_table` gave earlier.

    Raises:
        BoundsError: `comb_table`, the bytes are not that table: truncated, or damaged on flash.
    """
    global _table  # noqa: PLW0603 - one table for the process; a board has no room for a second
    if _sha256(data).digest() != _TABLE_SHA256:
        raise BoundsError("this is not the P-256 table: remove the file and the table is computed anew", "comb_table")
    _table = data


def _coordinates(point: bytes | bytearray) -> tuple[int, int]:
    """X and y: the last 64 bytes of a public key or of a table entry."""
    return int.from_bytes(point[-64:-32], "big"), int.from_bytes(point[-32:], "big")


def _entry(table: bytes | bytearray, index: int) -> tuple[int, int]:
    return _coordinates(table[64 * index - 64 : 64 * index])


def _set_entry(table: bytearray, index: int, x: int, y: int) -> None:
    table[64 * index - 64 : 64 * index] = x.to_bytes(32, "big") + y.to_bytes(32, "big")


def _secret_scalar(secret: bytes) -> int:
    d = int.from_bytes(secret, "big")
    if len(secret) != 32 or not 0 < d < _N:
        raise BoundsError("a P-256 secret is 32 bytes, big-endian, from 1 to n - 1", "secret_range")
    return d


def _random_scalar() -> int:
    """Uniform in [1, n - 1] but for a bias of 2^-32, which blinding does not mind."""
    return int.from_bytes(urandom(32), "big") % (_N - 1) + 1


def _nonces(secret: bytes, digest: bytes) -> "Iterator[int]":
    """Candidates for the nonce in the order of RFC 6979 section 3.2; the first is taken but for a chance of 2^-32."""
    reduced = (int.from_bytes(digest, "big") % _N).to_bytes(32, "big")
    key = bytes(32)
    value = b"\x01" * 32
    for separator in (b"\x00", b"\x01"):
        key = hmac_sha256(key, value, separator, secret, reduced)
        value = hmac_sha256(key, value)
    while True:
        value = hmac_sha256(key, value)
        k = int.from_bytes(value, "big")
        if 0 < k < _N:
            yield k
        key = hmac_sha256(key, value, b"\x00")
        value = hmac_sha256(key, value)


def _double(x: int, y: int, z: int) -> tuple[int, int, int]:
    """Twice a point (hyperelliptic.org EFD, shortw jacobian-3, dbl-2001-b)."""
    p = _P
    zz = z * z % p
    yy = y * y % p
    beta = 4 * x * yy % p
    alpha = 3 * (x - zz) * (x + zz) % p
    x3 = (alpha * alpha - 2 * beta) % p
    return x3, (alpha * (beta - x3) - 8 * yy * yy) % p, 2 * y * z % p


def _add(x: int, y: int, z: int, qx: int, qy: int, qz: int) -> tuple[int, int, int]:
    """Sum of two points, the second not infinity; cheapest with qz = 1 (EFD, shortw jacobian, add-1998-cmo-2)."""
    if z == 0:
        return qx, qy, qz
    p = _P
    zz = z * z % p
    h = qx * zz
    slope = qy * (zz * z % p)
    if qz != 1:
        zz = qz * qz % p
        x = x * zz % p
        y = y * (zz * qz % p) % p
        z = z * qz % p
    h = (h - x) % p
    slope = (slope - y) % p
    if h == 0:
        # The same x: the same point, or its opposite.
        return _double(x, y, z) if slope == 0 else (0, 1, 0)
    hh = h * h % p
    hhh = hh * h % p
    v = x * hh % p
    x3 = (slope * slope - hhh - 2 * v) % p
    return x3, (slope * (v - x3) - y * hhh) % p, z * h % p


def _inverse(value: int, modulus: int) -> int:
    """Inverse by Euclid, of a public or blinded value: its time depends on the value.

    MicroPython silently takes pow(value, -1, modulus) for 0; pow(value, modulus - 2, modulus) is 7 times slower.
    """
    x, y, rest = 1, 0, modulus
    while value > 1:
        y -= rest // value * x
        rest %= value
        if rest == 1:
            return y % modulus
        x -= value // rest * y
        value %= rest
    return x % modulus


def _affine(x: int, y: int, z: int) -> tuple[int, int]:
    inverse = _inverse(z, _P)
    square = inverse * inverse % _P
    return x * square % _P, y * square * inverse % _P


def _add_column(x: int, y: int, z: int, scalar: int, column: int) -> tuple[int, int, int]:
    """Add what one column of a scalar's 6 rows stands for."""
    # 2^43 = 2 modulo 2^43 - 2, so the remainder moves the bit of row j to position j.
    entry = (scalar >> column & _COLUMN) % 0x7FFFFFFFFFE
    if entry == 0:
        return x, y, z
    qx, qy = _entry(_table, entry)
    return _add(x, y, z, qx, qy, 1)


def _multiply_base(scalar: int) -> tuple[int, int]:
    """Multiply G by a secret scalar in [1, n - 1], in two random shares."""
    comb_table()
    share = _random_scalar()
    rest = (scalar - share) % _N
    x, y, z = 0, 1, 0
    for column in range(_COLUMNS - 1, -1, -1):
        x, y, z = _double(x, y, z)
        x, y, z = _add_column(x, y, z, share, column)
        x, y, z = _add_column(x, y, z, rest, column)
    return _affine(x, y, z)


def _multiply_both(u: int, v: int, qx: int, qy: int) -> tuple[int, int, int]:
    """Sum of u times G and v times Q for public scalars, sharing the doublings (Straus)."""
    comb_table()
    # Q and 3Q. With 5Q and 7Q it would be 2 % quicker, and take 1 kB more of a board's heap just when it is fullest.
    multiples = (qx, qy, 1), _add(*_double(qx, qy, 1), qx, qy, 1)
    windows = _signed_windows(v)
    x, y, z = 0, 1, 0
    for position in range(256, -1, -1):
        if z:
            x, y, z = _double(x, y, z)
        window = windows[position]
        if window:
            mx, my, mz = multiples[(window if window < 4 else 8 - window) >> 1]
            x, y, z = _add(x, y, z, mx, my if window < 4 else _P - my, mz)
        if position < _COLUMNS:
            x, y, z = _add_column(x, y, z, u, position)
    return x, y, z


def _signed_windows(scalar: int) -> bytearray:
    """Digits +-1, 3 of a scalar (wNAF, Guide to ECC algorithm 3.35), each stored modulo 8 at its lowest bit."""
    windows = bytearray(257)
    position = 0
    while scalar:
        window = scalar & 7
        if window & 1:
            windows[position] = window
            scalar = (scalar >> 3) + (window >> 2)
            position += 3
        else:
            scalar >>= 1
            position += 1
    return windows


def _make_table() -> bytearray:
    """Row by row: 2^(43 j) G, then its sums with all entries before, by chords that share one inversion."""
    p = _P
    table = bytearray(_TABLE_BYTES)
    bx, by = _GX, _GY
    for row in range(_ROWS):
        if row:
            point = bx, by, 1
            for _ in range(_COLUMNS):
                point = _double(*point)
            bx, by = _affine(*point)
        first = 1 << row
        _set_entry(table, first, bx, by)
        products = [1]
        for i in range(1, first):
            products.append(products[-1] * (_entry(table, i)[0] - bx) % p)
        inverse = _inverse(products[-1], p)
        for i in range(first - 1, 0, -1):
            x, y = _entry(table, i)
            slope = (y - by) * inverse * products[i - 1] % p
            inverse = inverse * (x - bx) % p
            x3 = (slope * slope - x - bx) % p
            _set_entry(table, first + i, x3, (slope * (bx - x3) - by) % p)
    return table
