"""Decoding against golden registers and against `struct` with exact fractions; what must never become a sample."""

import copy
import struct
from fractions import Fraction
from math import floor, isfinite, isnan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_edge.meters import catalogue
from pile_edge.meters.decode import MeterError, MeterReader, Register, decode, load_profile, requests
from pile_shared.errors import BusError, ConfigError
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W

CODES = {"u16": ">H", "i16": ">h", "u32": ">I", "i32": ">i", "u64": ">Q", "i64": ">q", "f32": ">f", "f64": ">d"}
scales = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))


def profile_with(kind, scale=(1, 1), order="big", power="i32", **energy):
    return load_profile(
        {
            "id": "t", "manufacturer": "T", "model": "T", "function": 3, "word_order": order, "min_gap_ms": 0,
            "timeout_ms": 100, "energy_import": {"address": 0, "type": kind, "scale_wh": list(scale), **energy},
            "power": {"address": 8, "type": power, "scale_w": [1, 1]},
        }
    )  # fmt: skip


def swap(raw):
    words = [raw[at : at + 2] for at in range(0, len(raw), 2)]
    return b"".join(reversed(words))


@pytest.mark.parametrize("kind", sorted(CODES))
@pytest.mark.parametrize("order", ["big", "little"])
@given(st.data(), scales)
def test_energy_is_the_exact_floor(kind, order, data, scale):
    size = struct.calcsize(CODES[kind])
    raw = data.draw(st.binary(min_size=size, max_size=size))
    profile = profile_with(kind, scale, order)
    (value,) = struct.unpack(CODES[kind], raw)
    wire = raw if order == "big" else swap(raw)
    if isinstance(value, float) and not isfinite(value):
        expected = "not_available" if isnan(value) else "out_of_range"
    else:
        energy_wh = floor(Fraction(value) * Fraction(*scale))
        expected = energy_wh if 0 <= energy_wh <= MAX_ENERGY_WH else "out_of_range"
    try:
        result = decode(profile, [wire, b"\0\0\0\0"]).energy_wh
    except MeterError as error:
        result = error.code
    assert result == expected


@given(st.floats(0, 1e9, width=32))
def test_ordinary_kwh_in_f32(kwh):
    sample = decode(profile_with("f32", (1000, 1)), [struct.pack(">f", kwh), b"\0\0\0\0"])
    assert sample.energy_wh == floor(Fraction(kwh) * 1000)


@pytest.mark.parametrize("kind", sorted(CODES))
@given(st.data(), scales)
def test_power_rounds_half_away_from_zero(kind, data, scale):
    size = struct.calcsize(CODES[kind])
    raw = data.draw(st.binary(min_size=size, max_size=size))
    register = Register({"address": 0, "type": kind, "scale_w": list(scale)}, "power", "scale_w", 3, False)
    profile = profile_with("u16")
    profile.power = [register]
    (value,) = struct.unpack(CODES[kind], raw)
    try:
        power_w = decode(profile, [b"\0\0", raw]).power_w
    except MeterError:
        assert not isfinite(value) or abs(Fraction(value) * Fraction(*scale)) > MAX_POWER_W
        return
    exact = Fraction(value) * Fraction(*scale)
    assert abs(power_w - exact) <= Fraction(1, 2)
    assert abs(power_w) >= abs(exact) or abs(power_w - exact) < Fraction(1, 2)


@pytest.mark.parametrize(("value", "power_w"), [(0.5, 1), (-0.5, -1), (1.5, 2), (-2.5, -3), (0.49, 0), (-0.0, 0)])
def test_power_halves(value, power_w):
    assert decode(profile_with("u16", power="f32"), [b"\0\0", struct.pack(">f", value)]).power_w == power_w


def test_phases_are_summed_before_rounding():
    mapping = catalogue.profile_mapping("eastron-sdm630")
    mapping["power"] = [{"address": at, "type": "f32", "scale_w": [1, 1]} for at in (12, 14, 16)]
    profile = load_profile(mapping)
    assert [address for _, address, _ in requests(profile)] == [72, 12, 14, 16]
    raw = [struct.pack(">f", value) for value in (1.0, 0.4, 0.4, 0.4)]
    assert decode(profile, raw).power_w == 1  # rounded one by one they would be 0


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("7fc00000", "not_available"),  # NaN
        ("ffc00001", "not_available"),  # a negative NaN with payload
        ("7f800000", "out_of_range"),  # infinity
        ("ff800000", "out_of_range"),
        ("bf800000", "out_of_range"),  # -1 kWh
        ("80000001", "out_of_range"),  # the smallest negative denormal
        ("7f7fffff", "out_of_range"),  # the largest float
    ],
)
def test_floats_that_are_no_energy(raw, code):
    with pytest.raises(MeterError) as caught:
        decode(profile_with("f32", (1000, 1)), [bytes.fromhex(raw), b"\0\0\0\0"])
    assert caught.value.code == code


@pytest.mark.parametrize("raw", ["00000000", "80000000", "00000001", "007fffff", "3a83126e"])
def test_floats_below_one_wh(raw):
    assert decode(profile_with("f32", (1000, 1)), [bytes.fromhex(raw), b"\0\0\0\0"]).energy_wh == 0


def test_not_available_marker_in_either_register():
    profile = catalogue.find_profile("abb-b23")
    for raw in (["ff" * 8, "00000000"], ["00" * 8, "7fffffff"]):
        with pytest.raises(MeterError) as caught:
            decode(profile, [bytes.fromhex(part) for part in raw])
        assert caught.value.code == "not_available"


def test_blocks_of_another_shape_are_refused():
    profile = catalogue.find_profile("abb-b23")
    for blocks in ([], [b"\0" * 8], [b"\0" * 4, b"\0" * 4], [b"\0" * 8, b"\0" * 4, b""]):
        with pytest.raises(BusError) as caught:
            decode(profile, blocks)
        assert caught.value.code == "frame"


def test_step_of_a_register():
    def step(raw):
        return decode(catalogue.find_profile("eastron-sdm630"), [struct.pack(">f", raw), b"\0\0\0\0"]).step_wh

    assert [step(kwh) for kwh in (1.0, 99_999.0, 100_000.0, 1_000_000.0)] == [1, 8, 8, 63]
    assert decode(catalogue.find_profile("abb-b23"), [b"\0" * 8, b"\0" * 4]).step_wh == 10


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["id"], "", "profile.id must be text"),
        (["model"], "x" * 33, "profile.model must be text"),
        (["function"], 6, "profile.function must be an integer from 3 to 4"),
        (["function"], True, "profile.function"),
        (["word_order"], "middle", 'profile.word_order must be "big" or "little"'),
        (["energy_import"], None, "profile.energy_import must be a mapping"),
        (["energy_import", "type"], "f16", "profile.energy_import.type must be one of"),
        (["energy_import", "type"], ["f32"], "profile.energy_import.type must be one of"),
        (["energy_import", "address"], 65535, "profile.energy_import.address must be an integer from 0 to 65532"),
        (["energy_import", "scale_wh"], [1, 0], "profile.energy_import.scale_wh must be two integers"),
        (["energy_import", "scale_wh"], 0.1, "profile.energy_import.scale_wh must be two integers"),
        (["energy_import", "not_available"], "ff", "profile.energy_import.not_available must be 16 hexadecimal digits"),
        (["energy_import", "not_available"], 7, "profile.energy_import.not_available must be 16 hexadecimal digits"),
        (["power"], [], "profile.power must be one register, or a list"),
        (["serial"], 1, "profile.serial must be a mapping"),
        (["min_gap_ms"], -1, "profile.min_gap_ms"),
        (["timeout_ms"], 0, "profile.timeout_ms"),
    ],
)
def test_a_wrong_profile_is_named(path, value, message):
    mapping = copy.deepcopy(catalogue.profile_mapping("abb-b23"))
    target = mapping
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        load_profile(mapping)
    assert message in caught.value.message


def test_no_mapping_and_no_profile():
    with pytest.raises(ConfigError):
        load_profile([])
    with pytest.raises(ConfigError, match="abb-b23, abb-b24"):
        catalogue.find_profile("acme")


class ScriptedBus:
    """Answers energy reads from a list of Wh / 10 or errors, power reads with zero."""

    def __init__(self, *energies):
        self.energies = list(energies)
        self.reads = 0

    def read(self, _unit, _function, address, count):
        if address != 20480:
            return b"\0" * (2 * count)
        self.reads += 1
        energy = self.energies.pop(0)
        if isinstance(energy, Exception):
            raise energy
        return struct.pack(">Q", energy)


class Clock:
    now_ms = 1_000_000

    def __call__(self):
        return self.now_ms


def reader_for(bus, **options):
    clock = Clock()
    return clock, MeterReader(bus, catalogue.find_profile("abb-b23"), 1, clock_ms=clock, max_power_w=11_000, **options)


def test_the_first_sample_needs_two_that_agree():
    bus = ScriptedBus(0, 500_000, 500_000, 500_001)
    _, reader = reader_for(bus)
    assert reader.read().energy_wh == 5_000_010
    assert bus.reads == 4


def test_a_transient_zero_is_read_again():
    bus = ScriptedBus(500_000, 500_000, 0, 500_001)
    _, reader = reader_for(bus)
    reader.read()
    assert reader.read().energy_wh == 5_000_010
    assert reader.retries == 1


def test_a_fall_that_lasts_is_raised_and_forgets_nothing():
    bus = ScriptedBus(500_000, 500_000, 499_999, 499_999, 499_999, 500_002)
    _, reader = reader_for(bus)
    reader.read()
    with pytest.raises(MeterError) as caught:
        reader.read()
    assert caught.value.code == "falling"
    assert bus.reads == 5
    assert reader.read().energy_wh == 5_000_020


def test_energy_cannot_rise_faster_than_the_pile_can_charge():
    bus = ScriptedBus(500_000, 500_000, 500_124, 500_125)
    clock, reader = reader_for(bus, attempts=1)
    reader.read()
    clock.now_ms += 360_000  # 6 minutes at 11 kW: 1100 Wh, with the margin 1210, with slack and step 1230
    with pytest.raises(MeterError) as caught:
        reader.read()
    assert caught.value.code == "implausible"
    clock.now_ms += 7_200
    assert reader.read().energy_wh == 5_001_250


def test_resume_stands_in_for_the_first_sample():
    bus = ScriptedBus(499_999, 500_000)
    clock, reader = reader_for(bus, attempts=1)
    reader.resume(5_000_000, clock.now_ms)
    with pytest.raises(MeterError) as caught:
        reader.read()
    assert caught.value.code == "falling"
    assert reader.read().energy_wh == 5_000_000
    assert bus.reads == 2


def test_retries_are_bounded_and_the_last_failure_is_raised():
    failures = [BusError("a", "timeout"), BusError("b", "crc"), BusError("c", "exception"), BusError("d", "frame")]
    bus = ScriptedBus(*failures)
    _, reader = reader_for(bus)
    with pytest.raises(BusError) as caught:
        reader.read()
    assert caught.value.code == "exception"
    assert bus.reads == 3


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), st.just(BusError("x", "timeout"))), min_size=60, max_size=60))
def test_samples_never_fall(script):
    _, reader = reader_for(ScriptedBus(*script))
    last = 0
    for _ in range(10):
        try:
            energy_wh = reader.read().energy_wh
        except BusError:
            continue
        assert energy_wh >= last
        last = energy_wh
