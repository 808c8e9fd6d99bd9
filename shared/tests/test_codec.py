"""The two codecs are one: cbor2 behind our rules, and the board's; RFC 8949's own examples judge both."""

import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pile_shared import cbor_small, codec
from pile_shared.errors import CodecError

MOST = 1 << 20
VECTORS = Path(codec.__file__).parent / "vectors/codec.jsonl"
BOTH = pytest.mark.parametrize("implementation", [codec, cbor_small], ids=["cbor2", "small"])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from([0, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, -24, -25, -256, -257, -(2**63)]),
    st.binary(max_size=40),
    st.text(max_size=30),
)


def containers(inner):
    keys = st.one_of(st.text(max_size=4), st.integers(0, (1 << 63) - 1)).flatmap(
        lambda key: st.just(st.text(max_size=30) if isinstance(key, str) else st.integers(0, (1 << 63) - 1))
    )
    return st.one_of(st.lists(inner, max_size=6), keys.flatmap(lambda kind: st.dictionaries(kind, inner, max_size=6)))


values = st.recursive(scalars, containers, max_leaves=25)
# Of any kind CBOR or Python knows: what is not allowed must be refused by both alike.
foreign = st.recursive(
    st.one_of(
        scalars,
        st.floats(),
        st.integers(-(1 << 66), 1 << 66),
        st.sampled_from([cbor2.undefined, cbor2.CBORTag(18, 1), cbor2.CBORSimpleValue(99), bytearray(b"x"), "\ud800"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(
            st.one_of(st.text(max_size=3), st.integers(-5, 5), st.booleans(), st.binary(max_size=2)), inner
        ),
    ),
    max_leaves=10,
)


class Refusal(str):
    """The code of an error, and no text that was decoded."""

    __slots__ = ()


def outcome(call, *arguments):
    """What came of it; anything but CodecError is not caught."""
    try:
        return call(*arguments)
    except CodecError as error:
        return Refusal(error.code)


def same(a, b):
    """Equal in types too: 1 is not true here."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return same(list(a), list(b)) and all(same(a[key], b[key]) for key in a)
    return a == b


def agree(data, most=MOST):
    """Both read `data` alike; what they read, they write alike, and as it was."""
    one, other = outcome(codec.decode, data, most), outcome(cbor_small.decode, data, most)
    assert same(one, other), (data.hex(), one, other)
    if not isinstance(one, Refusal):
        assert codec.encode(one) == cbor_small.encode(one) == data


@given(values)
def test_any_allowed_value_comes_back_and_both_write_it_alike(value):
    data = codec.encode(value)
    assert cbor_small.encode(value) == data
    decoded = codec.decode(data, len(data))
    assert decoded == value
    assert same(decoded, cbor_small.decode(data, len(data)))
    # And cbor2 by itself, without our rules, reads the same value.
    assert cbor2.loads(data) == value


@given(foreign)
@example({True: 0})
@example({"a": 0, 1: 0})
@example({-1: 0})
@example({1 << 63: 0})
@example(["\ud800"])
@example({"\udfff": 0})
def test_both_refuse_the_same_values(value):
    one, other = outcome(codec.encode, value), outcome(cbor_small.encode, value)
    assert one == other, value


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_both_agree_on_any_bytes(data):
    agree(data)


@pytest.mark.parametrize("line", VECTORS.read_text(encoding="utf-8").splitlines())
def test_both_agree_on_every_vector(line):
    case = json.loads(line)
    data = bytes.fromhex(case["bytes"])
    for implementation in (codec, cbor_small):
        read = outcome(implementation.decode, data, 64 if case["kind"] == "bad" else MOST)
        assert (read if isinstance(read, Refusal) else "good") == case.get("code", "good")
    agree(data)


def mutated(value, draw):
    """An encoding of `value` with one thing about it that must not be."""
    data = bytearray(cbor2.dumps(value, canonical=True))
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "cut", "insert", "tail", "long head", "indefinite", "tag", "float", "wrap"]))
    if kind == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=9))
    elif kind == "tail":
        data += draw(st.binary(min_size=1, max_size=3))
    elif kind == "long head" and data[at] & 31 < 24:
        data[at : at + 1] = bytes((data[at] & 0xE0 | 24, data[at] & 31))
    elif kind == "indefinite" and data[0] >> 5 in {2, 3, 4, 5}:
        data = bytearray((data[0] & 0xE0 | 31,)) + data[1:] + b"\xff"
    elif kind == "tag":
        data[at:at] = draw(st.sampled_from([b"\xc0", b"\xc2", b"\xd2", b"\xd8\x1c", b"\xd9\x01\x02", b"\xd9\xd9\xf7"]))
    elif kind == "float":
        data[at:at] = b"\xf9\x3c\x00"
    else:
        data = bytearray(b"\x81" * draw(st.integers(1, 14))) + data
    return bytes(data)


@given(st.data())
@settings(max_examples=500)
def test_both_agree_on_mutated_encodings(data):
    agree(mutated(data.draw(values), data.draw))


@given(st.lists(st.tuples(st.one_of(st.integers(0, 300), st.text(max_size=2)), st.integers(0, 1)), max_size=4))
def test_both_agree_on_maps_with_keys_in_any_order_and_number(pairs):
    agree(bytes((0xA0 | len(pairs),)) + b"".join(cbor2.dumps(item) for pair in pairs for item in pair))


@BOTH
def test_depth(implementation):
    deepest, too_deep = b"\x81" * 11 + b"\x80", b"\x81" * 12 + b"\x80"
    assert implementation.encode(implementation.decode(deepest, 99)) == deepest
    assert outcome(implementation.decode, too_deep, 99) == "codec"
    nested = []
    for _ in range(12):
        nested = [nested]
    assert outcome(implementation.encode, nested) == "codec"
    assert outcome(implementation.decode, b"\x81" * 100_000, 1 << 20) == "codec"


@BOTH
@pytest.mark.parametrize(
    "head", ["5b7fffffffffffffff", "7b7fffffffffffffff", "9b7fffffffffffffff", "bb0000000100000000"]
)
def test_a_length_that_is_not_there_takes_no_memory(implementation, head):
    assert outcome(implementation.decode, bytes.fromhex(head), 99) == "codec"


@BOTH
def test_the_bound_is_on_the_bytes(implementation):
    assert implementation.decode(b"\x43abc", 4) == b"abc"
    assert outcome(implementation.decode, b"\x43abc", 3) == "oversized"
    assert outcome(implementation.decode, b"", 0) == "codec"


@given(st.binary(max_size=8))
@settings(max_examples=1000)
def test_text_is_utf8_and_nothing_else(raw):
    read = outcome(cbor_small.decode, bytes((0x60 | len(raw),)) + raw, 99)
    try:
        assert read == raw.decode()
    except UnicodeDecodeError:
        assert read == "codec"


def test_every_utf8_of_two_bytes_and_the_borders_of_longer_ones():
    """The board's own check, against CPython's decoder."""
    borders = [0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0]
    raws = [bytes((a, b)) for a in range(128, 256) for b in range(256)]
    raws += [bytes((a, b, c)) for a in range(0xE0, 0xF8) for b in borders for c in borders]
    raws += [bytes((a, b, c, d)) for a in range(0xF0, 0xF8) for b in borders for c in borders for d in borders]
    for raw in raws:
        try:
            expected = raw.decode()
        except UnicodeDecodeError:
            expected = "codec"
        assert outcome(cbor_small.decode, bytes((0x60 | len(raw),)) + raw, 99) == expected, raw.hex()


def test_array_and_items():
    assert codec.array([1, 2], 2) == [1, 2]
    assert codec.items([1, 2], 2) == [1, 2]
    for value, length in (([1], 2), ([1, 2, 3], 2), ((1, 2), 2), ({}, 0), (None, 0)):
        assert outcome(codec.array, value, length) == "codec"
    for value, most in (([1, 2, 3], 2), ((1,), 2), (b"", 2)):
        assert outcome(codec.items, value, most) == "codec"
