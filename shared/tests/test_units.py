"""Bounds and rounding at their edges."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_shared import units
from pile_shared.errors import BoundsError

ID_CHARACTERS = set("abcdefghijklmnopqrstuvwxyz0123456789-")


def refused(call, *arguments):
    with pytest.raises(BoundsError) as caught:
        call(*arguments)
    assert "energy_wh" in str(caught.value)
    return caught.value.code == "bounds"


@pytest.mark.parametrize("value", [-6, 6, True, False, 1.0, "1", None, b"\x01", 1 << 64])
def test_check_int_refuses(value):
    assert refused(units.check_int, "energy_wh", value, -5, 5)


@pytest.mark.parametrize("value", [-5, 0, 5])
def test_check_int(value):
    assert units.check_int("energy_wh", value, -5, 5) == value


def test_check_bytes():
    assert units.check_bytes("energy_wh", b"ab", 2, 3) == b"ab"
    for value in (b"a", b"abcd", "ab", bytearray(b"ab"), None, [1, 2]):
        assert refused(units.check_bytes, "energy_wh", value, 2, 3)
    assert refused(units.check_bytes, "energy_wh", b"a", 2, 2)


@given(st.one_of(st.text(max_size=34), st.text("abz09-", max_size=34), st.none(), st.binary(), st.integers()))
def test_check_id(value):
    if isinstance(value, str) and 1 <= len(value) <= 32 and set(value) <= ID_CHARACTERS:
        assert units.check_id("energy_wh", value) == value
    else:
        assert refused(units.check_id, "energy_wh", value)


@given(st.one_of(st.text(max_size=10), st.text(" ~az", max_size=10), st.none(), st.binary()))
def test_check_text(value):
    if isinstance(value, str) and 1 <= len(value) <= 8 and all(32 <= ord(character) < 127 for character in value):
        assert units.check_text("energy_wh", value, 8) == value
    else:
        assert refused(units.check_text, "energy_wh", value, 8)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "\x7f", "\x1f", "\u00e4", "\U0001f50c"])
def test_characters_beyond_ascii(value):
    assert refused(units.check_id, "energy_wh", value)
    assert refused(units.check_text, "energy_wh", value, 8)


@given(st.integers(-(1 << 70), 1 << 70), st.integers(1, 1 << 40))
def test_ceil_div(numerator, denominator):
    quotient = units.ceil_div(numerator, denominator)
    assert quotient - 1 < Fraction(numerator, denominator) <= quotient


@given(st.integers(0, units.MAX_ENERGY_WH), st.integers(0, units.MAX_PRICE_MICRO_PER_KWH))
def test_cost_rounds_up(energy_wh, price):
    cost = units.cost_micro(energy_wh, price)
    assert cost - 1 < Fraction(energy_wh, 1000) * price <= cost
    assert units.cost_micro(0, price) == 0


def test_bounds_fit_64_bits():
    largest = units.cost_micro(units.MAX_ENERGY_WH // 10_000, units.MAX_PRICE_MICRO_PER_KWH // 1000)
    assert largest < units.MAX_AMOUNT_MICRO < 1 << 63
    assert units.MAX_TIME_MS < 1 << 53
