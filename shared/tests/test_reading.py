"""Readings and their delta coding: one list of readings has one wire form."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pile_shared.codec import decode, encode
from pile_shared.errors import BoundsError, PilechainError, ProofError
from pile_shared.reading import MAX_READINGS, Reading, decode_readings, encode_readings
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W, MAX_TIME_MS

NOW_MS = 1_700_000_000_000

any_reading = st.builds(
    Reading,
    st.integers(0, MAX_TIME_MS),
    st.integers(0, 3),
    st.one_of(st.binary(min_size=2, max_size=8), st.sampled_from([b"\x00" * 8, b"\xff" * 8, b"\x80" + bytes(7)])),
    st.integers(0, MAX_ENERGY_WH),
    st.integers(-MAX_POWER_W, MAX_POWER_W),
    st.integers(0, 255),
)
# Few values, so that neighbours often share status, flags and width.
similar = st.builds(
    Reading,
    st.integers(NOW_MS, NOW_MS + 5),
    st.integers(2, 3),
    st.sampled_from([b"\x00" * 8, b"\xff" * 8, b"\x80" + bytes(7), b"\x7f" + b"\xff" * 7, bytes(4), b"\x01" * 4]),
    st.integers(0, 5),
    st.integers(-2, 2),
    st.integers(0, 1),
)
lists = st.one_of(st.lists(any_reading, max_size=8), st.lists(similar, max_size=8))


@given(lists)
@example([Reading(0, 2, bytes(8), 0, 0, 0), Reading(0, 2, b"\xff" * 8, 0, 0, 0)])
def test_readings_come_back(readings):
    data = encode(encode_readings(readings))
    assert decode_readings(decode(data, 1 << 16)) == readings


def mutate(rows, draw):
    """The wire form with one row replaced by another form of a row, or by nonsense."""
    at = draw(st.integers(0, len(rows) - 1))
    number = st.one_of(st.integers(-3, 3), st.sampled_from([-(1 << 63), (1 << 63) - 1, True, None, b"12"]))
    kind = draw(st.sampled_from(["full", "difference", "cut", "more", "item", "nonsense"]))
    row = rows[at]
    if kind == "full":
        readings = decode_readings(rows)
        row = list(readings[at].fields())
    elif kind == "difference":
        row = [draw(number) for _ in range(4)]
    elif kind == "cut":
        row = row[: draw(st.integers(0, len(row) - 1))]
    elif kind == "more":
        row = [*row, draw(number)]
    elif kind == "item":
        item = draw(st.integers(0, len(row) - 1))
        row = [*row[:item], draw(number), *row[item + 1 :]]
    else:
        row = draw(st.sampled_from([None, 0, b"", {}, "x", []]))
    return [*rows[:at], row, *rows[at + 1 :]]


@given(lists.filter(bool), st.data())
@settings(max_examples=400)
def test_one_wire_form(readings, data):
    """Whatever is accepted is what its readings encode to: there is no second way to write them."""
    rows = mutate(encode_readings(readings), data.draw)
    try:
        accepted = decode_readings(rows)
    except (ProofError, BoundsError) as error:
        assert error.code in {"malformed", "bounds"}  # noqa: PT017 - or no error at all
        return
    assert encode(encode_readings(accepted)) == encode(rows)


@given(
    st.recursive(st.one_of(st.none(), st.integers(), st.binary(max_size=9)), lambda inner: st.lists(inner, max_size=7))
)
def test_any_value_is_readings_or_a_typed_error(value):
    try:
        decode_readings(value)
    except PilechainError as error:
        assert error.code in {"malformed", "bounds"}  # noqa: PT017 - or no error at all


@pytest.mark.parametrize(
    ("position", "low", "high"),
    [(0, 0, MAX_TIME_MS), (1, 0, 3), (3, 0, MAX_ENERGY_WH), (4, -MAX_POWER_W, MAX_POWER_W), (5, 0, 255)],
)
def test_fields_have_bounds(position, low, high):
    for value in (low, high):
        fields = [0, 0, bytes(2), 0, 0, 0]
        fields[position] = value
        assert list(Reading(*fields).fields()) == fields
    for value in (low - 1, high + 1, True, None, "0"):
        fields = [0, 0, bytes(2), 0, 0, 0]
        fields[position] = value
        with pytest.raises(BoundsError):
            Reading(*fields)


@pytest.mark.parametrize("raw", [b"\x00", bytes(9), "ab", None, bytearray(2)])
def test_raw_is_two_to_eight_bytes(raw):
    with pytest.raises(BoundsError):
        Reading(0, 0, raw, 0, 0, 0)


def test_a_change_of_status_flags_or_width_is_written_in_full():
    first = Reading(NOW_MS, 2, bytes(4), 5, 0, 0)
    for other in (
        Reading(NOW_MS, 1, bytes(4), 5, 0, 0),
        Reading(NOW_MS, 2, bytes(2), 5, 0, 0),
        Reading(NOW_MS, 2, bytes(4), 5, 0, 1),
    ):
        assert [len(row) for row in encode_readings([first, other, other])] == [6, 6, 4]


def test_a_register_may_jump_by_its_whole_width():
    """The low word of a 64-bit register may come first: the number then jumps, and 64 bits do not hold the difference."""
    zero, full = Reading(0, 2, bytes(8), 0, 0, 0), Reading(0, 2, b"\xff" * 8, 0, 0, 0)
    half = Reading(0, 2, b"\x7f" + b"\xff" * 7, 0, 0, 0)
    top = Reading(0, 2, b"\x80" + bytes(7), 0, 0, 0)
    for before, after, length in (
        (zero, full, 6),
        (full, zero, 6),
        (zero, half, 4),
        (top, zero, 4),
        (zero, top, 6),
    ):
        rows = encode_readings([before, after])
        assert len(rows[1]) == length
        assert decode_readings(decode(encode(rows), 999)) == [before, after]


def test_a_bound_on_their_number():
    rows = [[0, 2, bytes(2), 0, 0, 0]] + [[0, 0, 0, 0]] * (MAX_READINGS - 1)
    assert len(decode_readings(rows)) == MAX_READINGS
    with pytest.raises(ProofError):
        decode_readings([*rows, [0, 0, 0, 0]])


def test_equality_is_by_value():
    one, other = Reading(1, 2, bytes(2), 3, 4, 5), Reading(1, 2, bytes(2), 3, 4, 5)
    assert one == other
    assert hash(one) == hash(other)
    assert one != Reading(1, 2, bytes(2), 3, 4, 6)
    assert one != one.fields()
    assert repr(one) == r"Reading(1, 2, b'\x00\x00', 3, 4, 5)"
