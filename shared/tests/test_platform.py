"""The platform's names on CPython; firmware_tests runs the same values on MicroPython."""

import hmac
import zlib
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pile_shared import openssl, p256, platform


def test_cpython_takes_openssl():
    assert platform.MICROPYTHON is False
    assert platform._es256 is openssl


@given(data=st.binary(max_size=200))
def test_sha256(data):
    assert platform.sha256(data) == sha256(data).digest()


@given(key=st.binary(max_size=200), parts=st.lists(st.binary(max_size=70), max_size=4))
@example(key=b"k" * 63, parts=[b"just short of a block"])
@example(key=b"k" * 64, parts=[b"a block, the last length that is only padded"])
@example(key=b"k" * 65, parts=[b"the first length that is hashed"])
def test_hmac_sha256_on_both(key, parts):
    expected = hmac.new(key, b"".join(parts), "sha256").digest()
    assert platform.hmac_sha256(key, *parts) == expected
    assert p256.hmac_sha256(key, *parts) == expected


def test_hmac_sha256_rfc_4231_case_6():
    """A key longer than a block."""
    message = b"Test Using Larger Than Block-Size Key - Hash Key First"
    mac = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
    assert platform.hmac_sha256(b"\xaa" * 131, message).hex() == mac
    assert p256.hmac_sha256(b"\xaa" * 131, message).hex() == mac


@given(parts=st.lists(st.binary(max_size=50), max_size=4))
def test_crc32_continues(parts):
    crc = 0
    for part in parts:
        crc = platform.crc32(part, crc)
    assert crc == zlib.crc32(b"".join(parts))


def test_crc32_check_value():
    assert platform.crc32(b"123456789") == 0xCBF43926


def test_random_bytes():
    drawn = [platform.random_bytes(16) for _ in range(100)]
    assert len(set(drawn)) == 100
    assert {len(one) for one in drawn} == {16}
    assert platform.random_bytes(0) == b""


def test_es256_is_the_backend():
    secret = (77).to_bytes(32, "big")
    public = platform.es256_public(secret)
    signature = platform.es256_sign(secret, b"energy")
    assert public == p256.public_key(secret)
    assert signature == p256.sign(secret, b"energy")
    assert platform.es256_verify(public, b"energy", signature)
    assert not platform.es256_verify(public, b"Energy", signature)


@pytest.mark.parametrize("cast", [bytearray, memoryview])
def test_es256_takes_any_bytes(cast):
    """What comes out of a receive buffer is not always `bytes`, and a cache must not choke on it."""
    secret = (78).to_bytes(32, "big")
    public, signature = platform.es256_public(secret), platform.es256_sign(cast(secret), cast(b"m"))
    assert platform.es256_verify(cast(public), cast(b"m"), cast(signature))
    assert p256.sign(cast(secret), cast(b"m")) == signature
    assert p256.verify(cast(public), cast(b"m"), cast(signature))


def test_the_caches_are_bounded():
    assert openssl._load_public.cache_info().maxsize == 16_384
    assert openssl._load_secret.cache_info().maxsize == 16
