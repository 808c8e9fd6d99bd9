"""Contract terms: every field counts, every wrong value is refused, and the id changes with any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_shared.codec import decode, encode
from pile_shared.errors import BoundsError, CodecError, PilechainError
from pile_shared.platform import sha256
from pile_shared.terms import FIELDS, MAX_TERMS_BYTES, decode_terms, terms_from

VALID = {
    "h": st.binary(min_size=32, max_size=32),
    "k": st.binary(min_size=65, max_size=65),
    "i": st.text("abc09-", min_size=1, max_size=32),
    "t": st.text(" a~", min_size=1, max_size=32),
    "n": st.integers(0, (1 << 63) - 1),
    "b": st.booleans(),
}
WRONG = {
    "h": [bytes(31), bytes(33), None, "x", 0],
    "k": [bytes(64), bytes(66), None, "x", 0],
    "i": ["", "a" * 33, "A", "a/b", "\u00e4", None, b"a", 0],
    "t": ["", "a" * 33, "\n", "\u00e4", None, b"a", 0],
    "n": [-1, True, None, "1", b"1", []],
    "b": [0, 1, None, "true"],
}
all_terms = st.fixed_dictionaries({name: VALID[kind] if name != "version" else st.just(1) for name, kind in FIELDS})


@given(all_terms)
def test_terms_come_back(values):
    terms = terms_from(values)
    data = terms.encoded()
    again = decode_terms(data)
    assert {name: getattr(again, name) for name, _ in FIELDS} == values
    assert again.encoded() == data
    assert terms.contract_id() == sha256(data)
    assert decode(data, MAX_TERMS_BYTES) == [values[name] for name, _ in FIELDS]


def example():
    fixed = {"h": bytes(32), "k": bytes(65), "i": "a", "t": "a", "n": 5, "b": True}
    return {name: fixed[kind] for name, kind in FIELDS} | {"version": 1}


@pytest.mark.parametrize(("name", "kind"), FIELDS)
def test_every_field_is_checked_and_counts(name, kind):
    values = example()
    for wrong in WRONG[kind]:
        with pytest.raises((BoundsError, CodecError)) as caught:
            terms_from(values | {name: wrong})
        assert name in str(caught.value)
        with pytest.raises((BoundsError, CodecError)):
            decode_terms(encode([(values | {name: wrong})[field] for field, _ in FIELDS]))
    other = {"h": bytes(31) + b"1", "k": bytes(64) + b"1", "i": "b", "t": "b", "n": 6, "b": False}[kind]
    if name == "version":
        with pytest.raises(CodecError):
            terms_from(values | {name: other})
    else:
        assert terms_from(values | {name: other}).contract_id() != terms_from(values).contract_id()


def test_names_must_be_exactly_the_documented_ones():
    values = example()
    for wrong in ({}, {k: v for k, v in values.items() if k != "zone"}, values | {"more": 1}):
        with pytest.raises(CodecError):
            terms_from(wrong)
    with pytest.raises(CodecError, match="lack zone"):
        terms_from({k: v for k, v in values.items() if k != "zone"} | {"more": 1})


@given(st.binary(max_size=80))
def test_any_bytes_are_terms_or_a_typed_error(data):
    with pytest.raises(PilechainError):
        decode_terms(data)


def test_the_longest_terms_fit():
    values = example() | {name: "z" * 32 for name, kind in FIELDS if kind in "it"}
    values |= {name: (1 << 63) - 1 for name, kind in FIELDS if kind == "n"} | {"version": 1}
    size = len(terms_from(values).encoded())
    assert size == 569
    assert size <= MAX_TERMS_BYTES
