"""ECDSA on NIST P-256 with SHA-256, in pure Python, for boards whose MicroPython has no elliptic curves.

This is ES256 of COSE (RFC 9053 section 2.1): a signature is r || s, 64 bytes; a public key is the uncompressed SEC 1
point 04 || x || y, 65 bytes; a secret is 32 bytes, big-endian, in [1, n - 1]. Nonces are deterministic (RFC 6979
section 3.2), so the bytes equal those OpenSSL gives on CPython. Low s is not required: ES256 does not.

How it computes. Points are Jacobian (x / z^2, y / z^3), infinity has z = 0. Reduction is plain `%`, which MicroPython does
in C and which still takes two thirds of the time; Montgomery, Barrett and Solinas forms written in Python are slower. So
what counts is the number of additions and doublings, and tables save both. A comb (Lim and Lee, CRYPTO '94) of signed
digits (every bit of the scalar stands for +1 or -1, so that half the sums need no entry) is a table of 64-byte points that
a board reads where it lies, in ROMFS or in a file: for the base point 8 rows of 42 bits in two halves, 16,384 bytes, made
with the bundle (see `load_comb_table`); for a key that is met again and again 6 rows of 43, 2,048 bytes (`fill_table`).
A key without a table is multiplied by signed windows of 3 bits, and 256 doublings.

Side channels. Big integers take a time that depends on their value, on both interpreters. What a signature multiplies
is therefore never the nonce but the nonce plus a fresh random multiple of n, of 80 bits: the middle of n is sparse, and up
to 66 random bits would leave bits of the nonce bare there; with 80 no run of bits is off uniform by more than 2^-15. No
digit is zero, so every signature is the same row of 42 additions and 20 doublings, at addresses and with operands that the
random number decides. The inversion and the product with the secret are blinded by a second one. That hides the key from
whoever measures time; it is no protection against somebody with probes on the board, for whom there are secure elements.
"""

from hashlib import sha256 as _sha256
from os import urandom

from pile_shared.errors import BoundsError

TYPE_CHECKING = False  # there is no typing module on a board; checkers take this name for true
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    # Signs, rows, mask of a column, modulus, table: see `_combs`.
    Comb = tuple[int, int, int, int, Any]

# FIPS 186-4 section D.1.2.3, curve P-256: y^2 = x^3 - 3x + b over p, base point of prime order n.
_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_GX = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
_GY = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5

# The comb of the base point: bit 42 r + c of a scalar is in row r and column c; its second half has tables of its own.
_BASE_ROWS, _BASE_DISTANCE, _BASE_COLUMNS = 8, 42, 21
_BASE_TABLE_BYTES = 2 * 64 * 128
# The comb of a key.
KEY_ROWS, KEY_DISTANCE = 6, 43
KEY_TABLE_BYTES = 64 * 32
# The table is a constant of the curve, so one digest tells a good copy from a damaged one.
_TABLE_SHA256 = bytes.fromhex("95ff93ac2f65b3082c7f8c9d0120297174b6afecb4abfab6737e24884b728cfb")

_BLIND_BYTES = 10

_table: "bytes | bytearray | memoryview" = b""
_find_key_table: "Callable[[bytes], Any] | None" = None


def hmac_sha256(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of the concatenated parts, 32 bytes."""
    if len(key) > 64:
        key = _sha256(key).digest()
    # As one number: 64 octets one by one take MicroPython longer than the hash does.
    number = int.from_bytes(key + bytes(64 - len(key)), "big")
    inner = _sha256((number ^ int.from_bytes(b"\x36" * 64, "big")).to_bytes(64, "big"))
    for part in parts:
        inner.update(part)
    outer = _sha256((number ^ int.from_bytes(b"\x5c" * 64, "big")).to_bytes(64, "big"))
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
        r = _affine(*_multiply_base(k))[0] % _N
        # Uniform in [1, n - 1] but for a bias of 2^-32, which blinding does not mind.
        blind = int.from_bytes(urandom(32), "big") % (_N - 1) + 1
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
    u, v = e * w % _N, r * w % _N
    x, z = 0, -1
    try:
        file = _find_key_table(public) if _find_key_table else None
        if file:
            with file:
                x, _, z = _multiply_known(u, v, file)
    except OSError:
        z = -1  # flash fails; without the table it takes longer, that is all
    if z < 0:
        x, _, z = _multiply_unknown(u, v, *_coordinates(public))
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
    return b"\x04" + _octets(*_multiply_base(_secret_scalar(secret)))


def is_on_curve(public: bytes) -> bool:
    """Tell whether bytes are an uncompressed point of P-256 (SEC 1 section 3.2.2.1); all of them have the order n."""
    if len(public) != 65 or public[0] != 4:
        return False
    x, y = _coordinates(public)
    return x < _P and y < _P and (y * y - (x * x - 3) * x - _B) % _P == 0


def comb_table() -> bytes | bytearray | memoryview:
    """The table of base point multiples, 16,384 bytes, made now unless it is there already.

    A board has it in its image (`load_comb_table`): to make it there takes more heap than a board has.
    Its halves are combs (see `fill_table`) of G and of 2^21 G, of 8 rows 42 doublings apart.
    """
    if not _table:
        made = bytearray(_BASE_TABLE_BYTES)
        for start, doublings in ((0, 0), (_BASE_TABLE_BYTES // 2, _BASE_COLUMNS)):
            public = _octets(*_double(_GX, _GY, 1, doublings))
            fill_table(memoryview(made)[start:], public, _BASE_ROWS, _BASE_DISTANCE)
        load_comb_table(made)
    return _table


def load_comb_table(data: bytes | bytearray | memoryview) -> None:
    """Use a table that `comb_table` gave earlier.

    Raises:
        BoundsError: `comb_table`, the bytes are not that table: truncated, or damaged on flash.
    """
    global _table  # noqa: PLW0603 - one table for the process; a board has no room for a second
    if _sha256(data).digest() != _TABLE_SHA256:
        raise BoundsError("this is not the P-256 table: remove the file and the table is computed anew", "comb_table")
    _table = data


def use_key_tables(find: "Callable[[bytes], Any] | None") -> None:
    """Let `verify` look for tables of keys (`fill_table`), with which it takes half the time.

    Args:
        find: From a public key to an open reader of its table, whole and of that key, with seek(offset) and
            read(size_bytes), to be used in a `with`; or to None, for the general path. What it reads is trusted as the
            program's own bytes are. May raise OSError, as may the reader: then too the general path is taken.
    """
    global _find_key_table  # noqa: PLW0603 - as above
    _find_key_table = find


def fill_table(table: bytearray | memoryview, public: bytes, rows: int, distance: int) -> None:
    """Compute the table of a point's comb: 2^(rows - 1) entries of 64 bytes, x || y.

    Entry i is the sum over the rows j of +-2^(distance j) times the point: + for the highest row and for the bits of i.
    One inversion for each entry, which takes longer than sharing one, and 2 kB less of a board's heap. A key's table takes
    about as long as one and a half verifications without it.

    Args:
        table: Where to put it; what is beyond stays as it is.
        public: x || y, with or without what stands before it in a key, for which `is_on_curve` holds.
        rows: Of the comb; for `use_key_tables` KEY_ROWS.
        distance: Of its rows, in bits; KEY_DISTANCE.
    """
    x, y = _coordinates(public)
    least = 0, 1, 0
    for row in range(rows - 1):
        least = _add(*least, x, -y)
        twice = _double(x, y, 1, 1)
        at = 64 << row
        table[at : at + 64] = _octets(*twice)  # what the row adds to every entry below; kept where it is needed last
        x, y = _affine(*_double(*twice, distance - 1))
    table[:64] = _octets(*_add(*least, x, y))
    for row in range(rows - 1):
        first = 64 << row
        x, y = _coordinates(table[first : first + 64])
        for at in range(0, first, 64):
            below = _coordinates(table[at : at + 64])
            table[first + at : first + at + 64] = _octets(*_add(*below, 1, x, y))


def _coordinates(point: bytes | bytearray | memoryview) -> tuple[int, int]:
    """X and y: the last 64 bytes of a public key or of a table entry."""
    return int.from_bytes(point[-64:-32], "big"), int.from_bytes(point[-32:], "big")


def _secret_scalar(secret: bytes) -> int:
    d = int.from_bytes(secret, "big")
    if len(secret) != 32 or not 0 < d < _N:
        raise BoundsError("a P-256 secret is 32 bytes, big-endian, from 1 to n - 1", "secret_range")
    return d


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


def _double(x: int, y: int, z: int, times: int) -> tuple[int, int, int]:
    """Twice a point, over and over (hyperelliptic.org EFD, shortw jacobian-3, dbl-2001-b)."""
    p = _P
    while times:
        zz = z * z % p
        z = (y << 1) * z % p
        yy = y * y % p
        beta = (x << 2) * yy % p
        alpha = 3 * (x - zz) * (x + zz) % p
        x = (alpha * alpha - (beta << 1)) % p
        y = (alpha * (beta - x) - (yy << 3) * yy) % p
        times -= 1
    return x, y, z


def _add(x: int, y: int, z: int, qx: int, qy: int) -> tuple[int, int, int]:
    """Sum of a point and an affine one, whose qy may be -y (EFD, shortw jacobian, add-1998-cmo-2 with z2 = 1)."""
    if z == 0:
        return qx, qy, 1
    p = _P
    zz = z * z % p
    h = (qx * zz - x) % p
    slope = (zz * z % p * qy - y) % p
    if h == 0:
        # The same x: the same point, or its opposite.
        return _double(x, y, z, 1) if slope == 0 else (0, 1, 0)
    hh = h * h % p
    hhh = hh * h % p
    v = x * hh % p
    x = (slope * slope - hhh - (v << 1)) % p
    return x, (slope * (v - x) - y * hhh) % p, z * h % p


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


def _octets(x: int, y: int, z: int) -> bytes:
    """A point as x || y, 64 bytes."""
    x, y = _affine(x, y, z)
    return x.to_bytes(32, "big") + y.to_bytes(32, "big")


def _affine(x: int, y: int, z: int) -> tuple[int, int]:
    inverse = _inverse(z, _P)
    square = inverse * inverse % _P
    return x * square % _P, y * square * inverse % _P


def _combs(scalar: int, multiple: int, file: "Any") -> "tuple[Comb, ...]":
    """A scalar, with a multiple of n that changes nothing, as combs of signed digits to be added column by column.

    Args:
        scalar: In [0, n - 1].
        multiple: From 0 to 2^80 - 1, or with a file 0. Its lowest bit is set as needed.
        file: An open reader of the table of a key, for one comb; or None, for the two combs of the base point.
    """
    rows, distance = (KEY_ROWS, KEY_DISTANCE) if file else (_BASE_ROWS, _BASE_DISTANCE)
    every = (1 << rows * distance) - 1
    multiple ^= ~(scalar ^ multiple) & 1
    # An odd number k is the sum of +-2^i over all bits i of (k + 2^bits - 1) / 2: + where it is 1.
    signs = scalar + multiple * _N + every >> 1
    mask, modulus = every // ((1 << distance) - 1), (1 << distance) - 2
    if file:
        return ((signs, rows, mask, modulus, file),)
    table = memoryview(comb_table())
    second = signs >> _BASE_COLUMNS, rows, mask, modulus, table[_BASE_TABLE_BYTES // 2 :]
    return (signs, rows, mask, modulus, table), second


def _add_column(x: int, y: int, z: int, combs: "Sequence[Comb]", column: int) -> tuple[int, int, int]:
    """Add what one column of each comb stands for."""
    number = int.from_bytes
    small = range(1 << _BASE_ROWS)
    for signs, rows, mask, modulus, table in combs:
        # 2^distance = 2 modulo 2^distance - 2, so the remainder moves the bit of row j to position j. It is a big integer
        # to MicroPython, however small its value, until it has been through a range.
        digit = small[(signs >> column & mask) % modulus]
        is_plus = digit >> rows - 1
        at = ((digit ^ is_plus - 1) & (1 << rows - 1) - 1) << 6
        if rows == _BASE_ROWS:
            point = table[at : at + 64]
        else:
            table.seek(at)
            point = table.read(64)
        x, y, z = _add(x, y, z, number(point[:32], "big"), (2 * is_plus - 1) * number(point[32:], "big"))
    return x, y, z


def _multiply_base(scalar: int) -> tuple[int, int, int]:
    """Multiply G by a secret scalar in [1, n - 1], to which a random multiple of n is added."""
    combs = _combs(scalar, int.from_bytes(urandom(_BLIND_BYTES), "big"), None)
    x, y, z = 0, 1, 0
    for column in range(_BASE_COLUMNS - 1, -1, -1):
        x, y, z = _add_column(x, y, z, combs, column)
        if column:
            x, y, z = _double(x, y, z, 1)
    return x, y, z


def _multiply_known(u: int, v: int, file) -> tuple[int, int, int]:  # type: ignore[no-untyped-def] # noqa: ANN001 - differs by interpreter
    combs = _combs(v, 0, file)
    x, y, z = 0, 1, 0
    for column in range(KEY_DISTANCE - 1, -1, -1):
        if column == _BASE_COLUMNS - 1:
            combs += _combs(u, 0, None)
        x, y, z = _add_column(x, y, z, combs, column)
        if column:
            x, y, z = _double(x, y, z, 1)
    return x, y, z


def _multiply_unknown(u: int, v: int, qx: int, qy: int) -> tuple[int, int, int]:
    """By signed windows of v, which share their doublings with the combs (Straus)."""
    combs = _combs(u, 0, None)
    # Q and 3Q. With 5Q and 7Q it would be 2 % quicker, and take more of a board's heap just when it is fullest.
    tx, ty = _affine(*_add(*_double(qx, qy, 1, 1), qx, qy))
    windows = _signed_windows(v)
    x, y, z = 0, 1, 0
    doublings = 0
    for position in range(256, -1, -1):
        doublings += 1
        window = windows[position]
        if window or position < _BASE_COLUMNS:
            x, y, z = _double(x, y, z, doublings)
            doublings = 0
        if window in (1, 7):
            x, y, z = _add(x, y, z, qx, qy if window == 1 else -qy)
        elif window:
            x, y, z = _add(x, y, z, tx, ty if window == 3 else -ty)
        if position < _BASE_COLUMNS:
            x, y, z = _add_column(x, y, z, combs, position)
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
