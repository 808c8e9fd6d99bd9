"""Both ES256 backends against the published vectors, the hand-made ones and each other."""

import hmac
import json
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


@pytest.fixture(params=[p256, openssl], ids=["pure", "openssl"])
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
    for backend in (p256, openssl):
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
    assert not openssl.verify(*parts)


@settings(max_examples=100, deadline=None)
@given(public=st.binary(max_size=80), signature=st.binary(max_size=80))
def test_verify_never_raises(public, signature):
    for backend in (p256, openssl):
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


@settings(max_examples=150, deadline=None)
@given(u=scalars, v=scalars, q=scalars.filter(bool))
def test_multiply_both_whatever_meets(u, v, q):
    """u G + v Q where the sums inside meet equal and opposite points, which signatures reach by no known means."""
    point = p256._coordinates(openssl.public_key(q.to_bytes(32, "big")))
    total = (u + v * q) % N
    x, y, z = p256._multiply_both(u, v, *point)
    if total == 0:
        assert z == 0
    else:
        assert p256._affine(x, y, z) == p256._coordinates(openssl.public_key(total.to_bytes(32, "big")))


def test_multiply_both_meets_equal_and_opposite_points():
    """The two branches of the addition law that chance would leave untested."""
    g = p256._GX, p256._GY
    assert p256._affine(*p256._multiply_both(1, 1, *g)) == p256._affine(*p256._double(*g, 1))
    assert p256._multiply_both(1, N - 1, *g)[2] == 0
    assert p256._multiply_both(0, 0, *g)[2] == 0


@given(value=st.integers(1, N - 1))
def test_inverse(value):
    assert p256._inverse(value, N) == pow(value, -1, N)
    assert p256._inverse(value, p256._P) == pow(value, -1, p256._P)


def test_shares_are_fresh_and_the_nonce_itself_is_never_multiplied(monkeypatch):
    """Blinding is invisible in the result, so its parts are watched: what enters the comb never repeats."""
    entered = []
    real = p256._add_column

    def watched(x, y, z, scalar, column):
        entered.append(scalar)
        return real(x, y, z, scalar, column)

    monkeypatch.setattr(p256, "_add_column", watched)
    secret = (7).to_bytes(32, "big")
    assert p256.sign(secret, b"m") == p256.sign(secret, b"m")
    shares = set(entered)
    nonce = next(p256._nonces(secret, sha256(b"m").digest()))
    assert len(shares) == 4
    assert nonce not in shares
    assert sum(shares) % N == 2 * nonce % N


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
        assert len(table) == 4032
        for entry in (1, 2, 3, 32, 37, 62, 63):
            scalar = sum(1 << 43 * row for row in range(6) if entry >> row & 1)
            assert b"\x04" + table[64 * entry - 64 : 64 * entry] == openssl.public_key(scalar.to_bytes(32, "big"))

    def test_a_stored_table_is_used_as_it_is(self, monkeypatch):
        stored = p256.comb_table()
        monkeypatch.setattr(p256, "_table", b"")
        monkeypatch.setattr(p256, "_make_table", lambda: pytest.fail("made although it was loaded"))
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
