"""Both ES256 backends against the published vectors, the hand-made ones and each other."""

import hmac
import io
import json
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pile_shared import openssl, p256
from pile_shared.errors import BoundsError

VECTORS = Path(p256.__file__).parent / "vectors/p256.jsonl"
CASES = [json.loads(line) for line in VECTORS.read_text().splitlines()]
N = p256._N

secrets = st.integers(1, N - 1).map(lambda d: d.to_bytes(32, "big"))
# The borders of the comb's rows and of the windows, beside anything.
scalars = st.one_of(
    st.integers(0, 40),
    st.integers(0, 40).map(lambda d: (N - d) % N),
    st.integers(0, 255).flatmap(lambda bit: st.sampled_from([2**bit, 2**bit - 1, 2**bit + 1])).map(lambda d: d % N),
    st.integers(0, N - 1),
)


def of_kind(kind):
    cases = [case for case in CASES if case["kind"] == kind]
    return pytest.mark.parametrize(
        "case", cases, ids=[f"{number}-{case['source']}" for number, case in enumerate(cases)]
    )


@contextmanager
def key_tables(find):
    p256.use_key_tables(find)
    try:
        yield
    finally:
        p256.use_key_tables(None)


def key_table(public):
    table = bytearray(p256.KEY_TABLE_BYTES)
    p256.fill_table(table, public, 6, 43)
    return bytes(table)


class tabled:  # noqa: N801 - stands where a module would
    """The pure one where every key has a table."""

    public_key = p256.public_key
    sign = p256.sign

    @staticmethod
    def verify(public, message, signature):
        asked = []

        def find(key):
            asked.append(key)
            return io.BytesIO(key_table(key))

        with key_tables(find):
            answer = p256.verify(public, message, signature)
        assert asked in ([], [public])
        assert asked or not answer  # nothing is taken for good without the table
        return answer


@pytest.fixture(params=[p256, tabled, openssl], ids=["pure", "tabled", "openssl"])
def backend(request):
    return request.param


@pytest.fixture
def no_table(monkeypatch):
    monkeypatch.setattr(p256, "_table", b"")


def test_the_vectors_cover_what_they_should():
    count = {kind: sum(case["kind"] == kind for case in CASES) for kind in ("key", "point", "sign", "verify")}
    assert count == {"key": 10, "point": 22, "sign": 2, "verify": 71}
    verdicts = [case["valid"] for case in CASES if case["kind"] == "verify"]
    assert (verdicts.count(True), verdicts.count(False)) == (22, 49)


@of_kind("key")
def test_public_key(backend, case):
    assert backend.public_key(bytes.fromhex(case["secret"])).hex() == case["public"]


@of_kind("sign")
def test_sign_gives_the_bytes_of_rfc_6979(backend, case):
    signature = backend.sign(bytes.fromhex(case["secret"]), bytes.fromhex(case["message"]))
    assert signature.hex() == case["signature"]


@of_kind("verify")
def test_verify(backend, case):
    public, message, signature = (bytes.fromhex(case[name]) for name in ("public", "message", "signature"))
    assert backend.verify(public, message, signature) is case["valid"]


@of_kind("point")
def test_is_on_curve(case):
    assert p256.is_on_curve(bytes.fromhex(case["public"])) is case["valid"]


@of_kind("point")
def test_a_key_that_is_no_point_verifies_nothing(backend, case):
    assert backend.verify(bytes.fromhex(case["public"]), b"", bytes([1]) * 64) is False


@settings(max_examples=25, deadline=None)
@given(secret=secrets, message=st.binary(max_size=300))
def test_backends_agree(secret, message):
    public = openssl.public_key(secret)
    signature = openssl.sign(secret, message)
    assert p256.public_key(secret) == public
    assert p256.sign(secret, message) == signature
    for backend in (p256, tabled, openssl):
        assert backend.verify(public, message, signature)
        assert not backend.verify(public, message + b"\x00", signature)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_backends_agree_on_damage(data):
    """One flipped bit anywhere, in key, message or signature: both say no, and neither raises."""
    secret = (12345).to_bytes(32, "big")
    parts = [openssl.public_key(secret), b"forty-two watt-hours", openssl.sign(secret, b"forty-two watt-hours")]
    which = data.draw(st.integers(0, 2))
    bit = data.draw(st.integers(0, 8 * len(parts[which]) - 1))
    damaged = bytearray(parts[which])
    damaged[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(damaged)
    assert not p256.verify(*parts)
    assert not tabled.verify(*parts)
    assert not openssl.verify(*parts)


@settings(max_examples=100, deadline=None)
@given(public=st.binary(max_size=80), signature=st.binary(max_size=80))
def test_verify_never_raises(public, signature):
    for backend in (p256, tabled, openssl):
        assert backend.verify(public, b"", signature) is False
        assert backend.verify(b"\x04" + public[:64].ljust(64, b"\x00"), b"", signature[:64].ljust(64, b"\x01")) is False


@pytest.mark.parametrize(
    "secret", [bytes(32), N.to_bytes(32, "big"), b"\xff" * 32, b"", bytes(31), b"\x01" * 31, b"\x01" * 33]
)
@pytest.mark.parametrize("call", [lambda backend, secret: backend.sign(secret, b""), lambda b, s: b.public_key(s)])
def test_a_secret_out_of_range_is_refused(backend, secret, call):
    with pytest.raises(BoundsError) as caught:
        call(backend, secret)
    assert caught.value.code == "secret_range"


@pytest.mark.parametrize("d", [1, 2, N - 1, N - 2, 2**43, 2**215 - 1])
def test_the_outermost_secrets_work(backend, d):
    secret = d.to_bytes(32, "big")
    signature = backend.sign(secret, b"edge")
    assert signature == openssl.sign(secret, b"edge")
    assert backend.verify(backend.public_key(secret), b"edge", signature)


def multiply_known(u, v, x, y):
    return p256._multiply_known(u, v, io.BytesIO(key_table(b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big"))))


both_ways = pytest.mark.parametrize("multiply", [p256._multiply_unknown, multiply_known], ids=["unknown", "known"])


@both_ways
@settings(max_examples=150, deadline=None)
@given(u=scalars, v=scalars, q=scalars.filter(bool))
def test_multiply_both_whatever_meets(multiply, u, v, q):
    """u G + v Q where the sums inside meet equal and opposite points, which signatures reach by no known means."""
    point = p256._coordinates(openssl.public_key(q.to_bytes(32, "big")))
    total = (u + v * q) % N
    x, y, z = multiply(u, v, *point)
    if total == 0:
        assert z == 0
    else:
        assert p256._affine(x, y, z) == p256._coordinates(openssl.public_key(total.to_bytes(32, "big")))


@both_ways
def test_multiply_both_meets_equal_and_opposite_points(multiply):
    g = p256._GX, p256._GY
    assert p256._affine(*multiply(1, 1, *g)) == p256._affine(*p256._double(*g, 1, 1))
    assert multiply(1, N - 1, *g)[2] == 0
    assert multiply(0, 0, *g)[2] == 0


def test_the_branches_of_the_addition_law():
    """Those that chance would leave untested: infinity, the same point with another z, and its opposite."""
    g = p256._GX, p256._GY
    twice = p256._double(*g, 1, 1)
    z = 0xABCDEF
    again = g[0] * z**2 % p256._P, g[1] * z**3 % p256._P, z
    assert p256._add(0, 1, 0, *g) == (*g, 1)
    assert p256._affine(*p256._add(*again, *g)) == p256._affine(*twice)
    assert p256._add(*again, g[0], -g[1])[2] == 0
    assert p256._double(0, 1, 0, 3)[2] == 0
    assert p256._affine(*p256._double(*g, 1, 5)) == p256._coordinates(openssl.public_key((32).to_bytes(32, "big")))


class TestKeyTables:
    SECRET = (0xC0FFEE).to_bytes(32, "big")
    PUBLIC = openssl.public_key(SECRET)
    SIGNATURE = openssl.sign(SECRET, b"m")

    def test_entries_are_the_sums_they_stand_for(self):
        table = key_table(self.PUBLIC)
        for entry in range(32):
            signs = [1 if entry >> row & 1 else -1 for row in range(5)] + [1]
            scalar = sum(sign << 43 * row for row, sign in enumerate(signs)) * 0xC0FFEE % N
            assert b"\x04" + table[64 * entry : 64 * entry + 64] == openssl.public_key(scalar.to_bytes(32, "big"))

    def test_the_table_is_what_is_multiplied_by(self):
        """Another key's table: nothing but the table tells the two apart, so its owner must (pile_edge.key_tables)."""
        other = openssl.public_key((5).to_bytes(32, "big"))
        with key_tables(lambda _: io.BytesIO(key_table(other))):
            assert not p256.verify(self.PUBLIC, b"m", self.SIGNATURE)
            assert p256.verify(self.PUBLIC, b"m", openssl.sign((5).to_bytes(32, "big"), b"m"))

    def test_without_a_table_or_with_one_that_cannot_be_read_the_general_path_verifies(self):
        class Failing(io.BytesIO):
            def read(self, _size):
                reads.append(self)
                raise OSError(5)

        def missing(_public):
            raise OSError(2)

        reads = []
        for find in (lambda _: None, missing, lambda _: Failing()):
            with key_tables(find):
                assert p256.verify(self.PUBLIC, b"m", self.SIGNATURE)
                assert not p256.verify(self.PUBLIC, b"x", self.SIGNATURE)
        assert len(reads) == 2
        assert all(file.closed for file in reads)

    def test_no_table_is_asked_for_a_key_that_is_no_point(self):
        with key_tables(lambda _: pytest.fail("asked")):
            assert not p256.verify(self.PUBLIC[:-1] + b"\x00", b"m", self.SIGNATURE)


@given(value=st.integers(1, N - 1))
def test_inverse(value):
    assert p256._inverse(value, N) == pow(value, -1, N)
    assert p256._inverse(value, p256._P) == pow(value, -1, p256._P)


def signs_of(comb):
    """What a comb of signed digits stands for, modulo n."""
    signs, bits = comb[0], comb[1] * ((comb[3] + 2).bit_length() - 1)
    return (2 * signs - (1 << bits) + 1) % N


@given(scalar=scalars, multiple=st.integers(0, 2**80 - 1))
def test_a_comb_stands_for_its_scalar(scalar, multiple):
    base, half = p256._combs(scalar, multiple, None)
    assert signs_of(base) == scalar
    assert 0 <= base[0] < 1 << 336
    assert half[0] == base[0] >> 21
    (key,) = p256._combs(scalar, 0, io.BytesIO())
    assert signs_of(key) == scalar
    assert 0 <= key[0] < 1 << 258


def test_what_is_multiplied_is_blinded(monkeypatch):
    """Invisible in the result, so it is watched: what enters the comb never repeats, and no digit is left out."""
    entered, added = [], []
    real, real_add = p256._combs, p256._add
    monkeypatch.setattr(p256, "_combs", lambda *args: entered.append(real(*args)) or entered[-1])
    monkeypatch.setattr(p256, "_add", lambda *args: added.append(args[3:]) or real_add(*args))
    secret = (7).to_bytes(32, "big")
    assert p256.sign(secret, b"m") == p256.sign(secret, b"m")
    nonce = next(p256._nonces(secret, sha256(b"m").digest()))
    assert [signs_of(comb) for comb, _ in entered] == [nonce, nonce]
    assert entered[0][0][0] != entered[1][0][0]
    assert min(comb[0] for comb, _ in entered) >> 300  # a multiple of some 80 bits, but for a chance of 2^-36
    assert len(added) == 2 * 42


def sum_of_floors(count, modulus, step, start):
    """Sum of (step * m + start) // modulus over m below count (as in Euclid's algorithm)."""
    total = 0
    while True:
        total += count * (count - 1) // 2 * (step // modulus) + count * (start // modulus)
        step, start = step % modulus, start % modulus
        if step * count + start < modulus:
            return total
        count, start = divmod(step * count + start, modulus)
        modulus, step = step, modulus


def worst_bias(bits, nonce):
    """Of 8 bits in a row of nonce + m n, for even m below 2^bits: how far values up to some are from their share.

    In units of 2^-64, over all places that a comb reads, and some of the 256 values.
    """
    count, worst = 1 << bits - 1, 0
    for end in range(9, 256 + bits):
        modulus, step = 1 << end, 2 * N
        above = sum_of_floors(count, modulus, step, nonce + modulus)
        for value in (1, 2, 16, 37, 128, 200, 255):
            below = above - sum_of_floors(count, modulus, step, nonce + modulus - (value << end - 8))
            worst = max(worst, abs((below << 64) // count - (value << 56)))
    return worst


@pytest.mark.parametrize("nonce", [1, N // 3, N - 1])
def test_no_bits_of_a_blinded_nonce_are_off_uniform_by_more_than_2_to_the_minus_15(nonce):
    """As the module says of its 80 random bits; with 64 the middle of n leaves some bits as they are."""
    assert worst_bias(8 * p256._BLIND_BYTES, nonce) < 1 << 64 - 15
    assert worst_bias(64, nonce) > 1 << 64 - 2


def test_the_page_says_how_many_additions_and_doublings_there_are(monkeypatch):
    """docs/board-crypto.md; bench/p256.py calculates with the same. The windows of a key without a table are by chance."""
    count = [0, 0]
    real_double, real_add = p256._double, p256._add

    def double(x, y, z, times):
        count[0] += times
        return real_double(x, y, z, times)

    def add(*args):
        count[1] += 1
        return real_add(*args)

    secret = (7).to_bytes(32, "big")
    public, signature, table = p256.public_key(secret), p256.sign(secret, b"m"), key_table(p256.public_key(secret))
    monkeypatch.setattr(p256, "_double", double)
    monkeypatch.setattr(p256, "_add", add)

    def counted(call, *args):
        count[:] = 0, 0
        call(*args)
        return tuple(count)

    page = (Path(__file__).parents[2] / "docs/board-crypto.md").read_text()
    said = {
        cells[1].strip(): tuple(int(cell) for cell in cells[2:4])
        for cells in (line.split("|") for line in page.splitlines() if line.startswith("| "))
        if cells[2].strip().isdigit()
    }
    assert counted(p256.sign, secret, b"m") == said["sign"]
    doublings, additions = counted(p256.verify, public, b"m", signature)
    assert abs(doublings - said["verify, key without"][0]) <= 2
    assert abs(additions - said["verify, key without"][1]) <= 12
    assert counted(p256.fill_table, bytearray(2048), public, 6, 43) == said["make a key's table"]
    with key_tables(lambda _: io.BytesIO(table)):
        assert counted(p256.verify, public, b"m", signature) == said["verify, key with a table"]


def test_what_is_inverted_is_blinded(monkeypatch):
    """Euclid's time tells of its argument: neither the nonce nor the same number twice may enter it."""
    inverted = []
    real = p256._inverse

    def watched(value, modulus):
        if modulus == N:
            inverted.append(value)
        return real(value, modulus)

    monkeypatch.setattr(p256, "_inverse", watched)
    secret = (7).to_bytes(32, "big")
    assert p256.sign(secret, b"m") == p256.sign(secret, b"m")
    nonce = next(p256._nonces(secret, sha256(b"m").digest()))
    assert len(set(inverted)) == 2
    assert nonce not in inverted


def test_the_second_nonce_follows_rfc_6979():
    """Section 3.2 step h for a nonce that was refused; a signature needs it once in 2^32."""
    secret, digest = (9).to_bytes(32, "big"), sha256(b"x").digest()
    seed = secret + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")

    def mac(key, *parts):
        return hmac.new(key, b"".join(parts), "sha256").digest()

    k, v = bytes(32), b"\x01" * 32
    k = mac(k, v, b"\x00", seed)
    v = mac(k, v)
    k = mac(k, v, b"\x01", seed)
    v = mac(k, mac(k, v))
    first = v
    k = mac(k, v, b"\x00")
    v = mac(k, mac(k, v))
    nonces = p256._nonces(secret, digest)
    assert [next(nonces), next(nonces)] == [int.from_bytes(first, "big"), int.from_bytes(v, "big")]


@pytest.mark.usefixtures("no_table")
class TestCombTable:
    def test_entries_are_the_sums_they_stand_for(self):
        table = p256.comb_table()
        assert len(table) == 16384
        for half, entry in [(half, entry) for half in (0, 1) for entry in (0, 1, 2, 3, 64, 77, 126, 127)]:
            signs = [1 if entry >> row & 1 else -1 for row in range(7)] + [1]
            scalar = sum(sign << 42 * row + 21 * half for row, sign in enumerate(signs)) % N
            at = 8192 * half + 64 * entry
            assert b"\x04" + table[at : at + 64] == openssl.public_key(scalar.to_bytes(32, "big"))

    def test_a_stored_table_is_used_as_it_is(self, monkeypatch):
        stored = p256.comb_table()
        monkeypatch.setattr(p256, "_table", b"")
        monkeypatch.setattr(p256, "fill_table", lambda *_: pytest.fail("made although it was loaded"))
        p256.load_comb_table(stored)
        assert p256.comb_table() is stored
        assert p256.sign((5).to_bytes(32, "big"), b"") == openssl.sign((5).to_bytes(32, "big"), b"")

    @pytest.mark.parametrize("damage", [lambda t: t[:-1], lambda _: b"", lambda t: t[:99] + b"\x00" + t[100:]])
    def test_a_damaged_table_is_refused_and_changes_nothing(self, damage, monkeypatch):
        damaged = damage(p256.comb_table())
        monkeypatch.setattr(p256, "_table", b"")
        with pytest.raises(BoundsError) as caught:
            p256.load_comb_table(damaged)
        assert caught.value.code == "comb_table"
        assert p256._table == b""

    def test_a_miscomputed_table_is_refused(self, monkeypatch):
        monkeypatch.setattr(p256, "_GY", p256._GY ^ 1)
        with pytest.raises(BoundsError):
            p256.comb_table()
