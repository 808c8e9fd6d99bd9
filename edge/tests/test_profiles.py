"""Every meter profile: complete, honest about itself, and read off a real Modbus server in both word orders."""

import json
import struct
from fractions import Fraction
from math import floor

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pymodbus.framer import FramerRTU
from pymodbus.pdu.decoders import DecodePDU

from pile_edge.config_file import load_config
from pile_edge.meters import catalogue
from pile_edge.meters.decode import MeterError, MeterReader, Register, decode, load_profile, requests
from pile_edge.meters.schema import at_model, check_profile, with_word_order
from pile_edge.ports.cpython_bus import open_bus
from pile_hil.bus_server import BusServers
from pile_hil.load import Load
from pile_hil.meters import SimMeter
from pile_shared.errors import BusError, ConfigError

IDS = catalogue.profile_ids()
ORDERS = ("big", "little")
START_WH = 87_654_320
POWER_W = 11_000
# Every type that mbmd's registry had at commit fb8f9c22 (June 2026), and which profile reads it.
MBMD = {
    "ABB": "abb-b23", "CGEM24": "carlo-gavazzi-em24", "CGEM24_E1": "carlo-gavazzi-em24-e1",
    "CGEX3X0": "carlo-gavazzi-ex3x0", "DDM": "ddm-ddm18sd", "DMG610": "lovato-dmg610", "DS100": "bg-ds100",
    "DTSU666": "chint-dtsu666", "DZG": "dzg-dvh4013", "ELTAKODSZ15": "eltako-dsz15dzmod",
    "ELTAKODSZ16": "eltako-dsz16dze", "FIND7M24": "finder-7m24", "FIND7M38": "finder-7m38",
    "IEM3000": "schneider-iem3155", "INEPRO": "inepro-pro380", "JANITZA": "janitza-b23", "MPM": "bernecker-mpm3pm",
    "ORNO1p": "orno-we514", "ORNO1P504": "orno-we504", "ORNO1p525": "orno-we525", "ORNO3p": "orno-we516",
    "PAC2200": "siemens-pac2200", "SBC": "sbc-ale3", "SDM": "eastron-sdm630", "SDM120": "eastron-sdm120",
    "SDM220": "eastron-sdm220", "SDM230": "eastron-sdm230", "SDM54": "eastron-sdm54", "SDM72": "eastron-sdm72",
    "SDM72V2": "eastron-sdm72v2", "SEMTR": "solaredge-se-mtr-3y", "WAGO87930": "wago-879-3000", "WS100": "bg-ws100",
    "X961A": "eastron-x96-1a",
}  # fmt: skip
SUNSPEC = (201, 202, 203, 204, 211, 212, 213, 214)


def a_load(start_wh=START_WH, power_w=POWER_W):
    load = Load(lambda: 0, rated_power_w=power_w, battery_wh=1, start_energy_wh=start_wh)
    load.plug()
    load.switch(True)
    return load


# --- the collection ------------------------------------------------------------------------------------------------


def test_all_that_mbmd_knows_and_the_sunspec_meters_are_there():
    assert set(MBMD.values()) <= set(IDS)
    assert {f"sunspec-{number}" for number in SUNSPEC} <= set(IDS)
    assert len(IDS) >= 36


@pytest.mark.parametrize("profile_id", IDS)
def test_a_profile_says_where_it_comes_from_and_a_board_needs_less(profile_id):
    mapping = catalogue.profile_mapping(profile_id)
    assert mapping["source"]
    assert mapping["traps"]
    assert len(mapping["golden"]) >= 3
    board = catalogue.board_profile(mapping)
    assert len(str(board)) < 600
    assert requests(load_profile(board)) == requests(load_profile(mapping))
    assert not {"golden", "traps", "source", "identify", "line"} & set(board)


@pytest.mark.parametrize("profile_id", IDS)
def test_golden_frames_by_another_decoder(profile_id):
    """The frames' CRC and content by pymodbus, the values by `struct` and fractions; `schema` has used our own."""
    mapping = catalogue.profile_mapping(profile_id)
    decoder = FramerRTU(DecodePDU(False))
    for golden in mapping["golden"]:
        placed = at_model(mapping, golden["model_address"]) if "sunspec" in mapping else mapping
        powers = placed["power"] if isinstance(placed["power"], list) else [placed["power"]]
        values = []
        for (_, response), entry, scale in zip(
            golden["exchanges"], [placed["energy_import"], *powers], ["scale_wh", *["scale_w"] * 3], strict=False
        ):
            _, unit, _, pdu = decoder.decode(bytes.fromhex(response))
            assert unit == golden["unit"]
            values.append(value_of(entry, scale, pdu[2:], placed["word_order"]))
        assert floor(values[0]) == golden["energy_wh"]
        total = sum(values[1:])
        assert abs(total - golden["power_w"]) <= Fraction(1, 2)


def value_of(entry, scale, raw, order):
    size = int(entry["type"][1:]) // 8
    words = [raw[at : at + 2] for at in range(0, size, 2)]
    code = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}
    (number,) = struct.unpack(">" + code[entry["type"]], b"".join(words if order == "big" else words[::-1]))
    value = Fraction(number) * Fraction(*entry.get(scale, [1, 1]))
    if "scale_factor" in entry:
        value *= Fraction(10) ** struct.unpack(">h", raw[-2:])[0]
    return value


def test_the_vendors_own_example_is_among_the_golden_frames():
    """Saia-Burgess ALE3 data sheet, page 6: registers 13 and 60383 are 9123.51 kWh."""
    golden = catalogue.profile_mapping("sbc-ale3")["golden"][0]
    assert golden["energy_wh"] == 9_123_510
    assert bytes.fromhex(golden["exchanges"][0][1])[3:7] == struct.pack(">HH", 13, 60383)


def test_eastrons_example_of_a_voltage():
    (first, *_) = catalogue.profile_mapping("eastron-sdm630")["voltage"]
    top, bottom = Register(first, "voltage", "scale_mv", 4, False).ratio(bytes.fromhex("43663334"))
    assert top // bottom == 230_200


# --- read off real servers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tcp", "rtu"])
def bench(request):
    """Every profile in both word orders on one bus: {(id, order): twin}, and an open bus."""
    twins = {}
    for unit, (profile_id, order) in enumerate([(i, order) for i in IDS for order in ORDERS], start=1):
        twins[profile_id, order] = SimMeter(
            catalogue.profile_mapping(profile_id), unit, a_load(), serial=63_000_117, word_order=order
        )
    with BusServers() as servers:
        spec = servers.serve({"kind": request.param, "baud": 115_200}, list(twins.values()))
        bus = open_bus({**spec, "timeout_ms": 2000})
        yield twins, bus
        bus.close()


def installed(twin, order):
    """The profile as a configuration for this twin would make it."""
    mapping = with_word_order(catalogue.profile_mapping(twin.profile["id"]), order)
    return load_profile(at_model(mapping, twin.model_address) if "sunspec" in mapping else mapping)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("profile_id", IDS)
def test_every_profile_reads_its_meter(bench, profile_id, order):
    twins, bus = bench
    twin = twins[profile_id, order]
    reader = MeterReader(bus, installed(twin, order), twin.unit, attempts=1)
    sample = reader.read()
    assert isinstance(sample.energy_wh, int)
    assert sample.energy_wh == twin.energy_wh()
    assert 0 <= START_WH - sample.energy_wh <= sample.step_wh
    assert abs(sample.power_w - POWER_W) <= 10
    assert 2 <= len(sample.raw) <= 8  # what a proof can carry
    if reader.profile.serial is not None:
        assert reader.serial() == 63_000_117


@pytest.mark.parametrize("profile_id", IDS)
def test_the_wrong_word_order_is_noticed_or_absurd(bench, profile_id):
    """No meter read in the wrong order may pass for the truth."""
    twins, bus = bench
    twin = twins[profile_id, "big"]
    profile = installed(twin, "little")
    try:
        sample = MeterReader(bus, profile, twin.unit, attempts=1).read()
    except BusError:
        return
    assert abs(sample.energy_wh - START_WH) > START_WH // 100


@pytest.mark.parametrize("profile_id", IDS)
def test_no_value_and_glitches_never_become_a_sample(bench, profile_id):
    twins, bus = bench
    twin = twins[profile_id, "big"]
    reader = MeterReader(bus, installed(twin, "big"), twin.unit, attempts=1)
    truth = reader.read().energy_wh
    try:
        twin.faults.set("rollover")
        assert failure(reader) == "falling"
        twin.faults.set("zero_once")
        assert failure(reader) in {"falling", "not_available"}
        assert reader.read().energy_wh == truth
        if "not_available" in twin.profile["energy_import"] or twin.profile["energy_import"]["type"][0] == "f":
            twin.faults.set("not_available")
            assert failure(reader) == "not_available"
    finally:
        twin.faults.set("none")
    assert reader.read().energy_wh == truth


def failure(reader):
    with pytest.raises(BusError) as caught:
        reader.read()
    return caught.value.code


def test_a_meter_refuses_what_its_profile_says(bench):
    twins, bus = bench
    for profile_id, function, address, count in [
        ("carlo-gavazzi-em24", 4, 0x5C, 2),  # the export register
        ("carlo-gavazzi-em24", 4, 0, 12),  # more than 11 at once
        ("schneider-iem3155", 4, 0x0C83, 4),  # function 3 only
        ("dzg-dvh4013", 3, 0x14, 2),
    ]:
        with pytest.raises(BusError) as caught:
            bus.read(twins[profile_id, "big"].unit, function, address, count)
        assert caught.value.code == "exception"
    both = twins["siemens-pac2200", "big"]
    assert bus.read(both.unit, 3, 801, 4) == bus.read(both.unit, 4, 801, 4)


def test_the_gap_of_a_meter_that_restarts_when_hurried():
    mapping = catalogue.profile_mapping("eastron-sdm72")
    twin = SimMeter(mapping, 1, a_load())
    twin.faults.set("restarts")
    with BusServers() as servers:
        spec = {**servers.serve({"kind": "tcp"}, [twin]), "timeout_ms": 2000}
        patient = open_bus(spec | {"gap_ms": mapping["min_gap_ms"]})
        reader = MeterReader(patient, load_profile(mapping), 1, attempts=1)
        assert [reader.read().energy_wh for _ in range(3)] == [twin.energy_wh()] * 3
        patient.close()
        hasty = open_bus(spec)
        hurried = MeterReader(hasty, load_profile(mapping), 1, attempts=1)
        with pytest.raises(BusError) as caught:
            [hurried.read() for _ in range(3)]
        hasty.close()
    assert caught.value.code == "timeout"


# --- limits of values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile_id", [i for i in IDS if catalogue.profile_mapping(i)["power"]["type"][0] != "u"])
def test_power_flowing_back_is_negative_where_the_register_can_say_so(profile_id):
    mapping = catalogue.profile_mapping(profile_id)
    mapping = at_model(mapping, 40_069) if "sunspec" in mapping else mapping
    profile = load_profile(mapping)
    kind = mapping["power"]["type"]
    meter = SimMeter(catalogue.profile_mapping(profile_id), 1, a_load())
    placed = load_profile(meter.profile)
    blocks = [meter.block(*request) for request in requests(placed)]
    minus_one = {"i16": b"\xff\xff", "i32": b"\xff\xff\xff\xff", "f32": bytes.fromhex("c5abe000")}[kind]
    if kind == "f32" and mapping["word_order"] == "little":
        minus_one = minus_one[2:] + minus_one[:2]
    blocks[1] = minus_one + blocks[1][len(minus_one) :]
    power_w = decode(profile, blocks).power_w
    assert power_w <= 0
    assert power_w < 0 or kind[0] == "i"  # a tenth of a watt rounds to 0


@pytest.mark.parametrize("factor", [-32_768, -11, 11, 32_767])
def test_a_scale_factor_that_is_none(factor):
    profile = load_profile(at_model(catalogue.profile_mapping("sunspec-203"), 40_069))
    blocks = [b"\0\0\4\xd2" + b"\x80\0" * 6 + struct.pack(">h", factor), b"\0\1" + b"\x80\0" * 3 + b"\0\0"]
    with pytest.raises(MeterError) as caught:
        decode(profile, blocks)
    assert caught.value.code == "not_available"


def test_scale_factors_are_exact_and_go_into_the_evidence():
    profile = load_profile(at_model(catalogue.profile_mapping("sunspec-203"), 40_069))
    filling = b"\x80\0" * 6
    for factor, energy_wh, step_wh in [
        (-3, 1, 1),
        (-1, 123, 1),
        (0, 1_234, 1),
        (2, 123_400, 100),
        (3, 1_234_000, 1_000),
    ]:
        last = struct.pack(">h", factor)
        sample = decode(profile, [b"\0\0\4\xd2" + filling + last, b"\xff\xff" + b"\x80\0" * 3 + b"\0\1"])
        assert (sample.energy_wh, sample.power_w, sample.step_wh) == (energy_wh, -10, step_wh)
        assert sample.raw == b"\0\0\4\xd2" + last


@pytest.mark.parametrize("raw", ["00000000", "8000"])
def test_sunspec_values_that_are_not_implemented(raw):
    profile = load_profile(at_model(catalogue.profile_mapping("sunspec-201"), 2))
    energy, power = b"\0\0\0\1", b"\0\1"
    energy, power = (bytes.fromhex(raw), power) if len(raw) == 8 else (energy, bytes.fromhex(raw))
    with pytest.raises(MeterError) as caught:
        decode(profile, [energy + b"\0\0" * 7, power + b"\0\0" * 4])
    assert caught.value.code == "not_available"


# --- profiles of one's own -----------------------------------------------------------------------------------------


def own_profile(folder, **changes):
    """A user's copy of a profile under another id, with changes; where a change is None the key is taken out."""
    mapping = {**catalogue.profile_mapping("orno-we504"), "id": "acme-1", **changes}
    path = folder / "acme-1.json"
    path.write_text(json.dumps({key: value for key, value in mapping.items() if value is not None}))
    return path


def test_a_folder_of_ones_own_profiles(tmp_path):
    own_profile(tmp_path, manufacturer="Acme")
    assert catalogue.profile_ids(tmp_path) == sorted([*IDS, "acme-1"])
    assert catalogue.find_profile("acme-1", tmp_path).manufacturer == "Acme"
    with pytest.raises(ConfigError, match="no meter profile 'acme-1'"):
        catalogue.profile_mapping("acme-1")


def test_ones_own_profile_replaces_nothing(tmp_path):
    (tmp_path / "abb-b23.json").write_text("{}")
    with pytest.raises(ConfigError, match="there is a profile abb-b23 already"):
        catalogue.profile_ids(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        catalogue.profile_ids(tmp_path / "none")


def golden_with(**changes):
    (first, *rest) = catalogue.profile_mapping("orno-we504")["golden"]
    return {"golden": [{**first, **changes}, *rest]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, "profile.source is missing"),
        ({"source": []}, "profile.source must be a list of at least 1 texts"),
        ({"colour": "red"}, "profile.colour is not a key; known: "),
        ({"id": "acme-2"}, 'profile.id must be "acme-1", as its file is called'),
        ({"phases": 2}, "profile.phases must be 1 or 3"),
        ({"counts": "export"}, 'profile.counts must be "import" or "total"'),
        ({"word_orders": ["little"]}, "profile.word_orders must be"),
        ({"max_registers": 126}, "profile.max_registers must be an integer from 1 to 125"),
        ({"max_registers": 1}, "profile.energy_import must be within max_registers"),
        ({"line": None}, "profile.line must be given, or profile.tcp"),
        ({"line": {"baud": 9600}}, "profile.line.parity is missing"),
        ({"refuses": [70_000]}, "profile.refuses must be addresses"),
        ({"voltage": [{"address": 0, "type": "u16", "scale_w": [1, 1]}]}, "profile.voltage.scale_w is not a key"),
        ({"voltage": [{"address": 0, "type": "u8"}]}, "profile.voltage.type must be one of"),
        ({"voltage": [{"address": 0, "type": "u16", "scale_factor": 40}]}, "profile.voltage.scale_factor must be"),
        ({"identify": [{"function": 3, "address": 1, "count": 1, "one_of": ["12"]}]}, "values that fit 1 registers"),
        ({"identify": [{"function": 3, "address": 1, "count": 1}]}, "with either one_of or text"),
        ({"identify": [{"function": 5, "address": 1, "count": 1, "text": ["A"]}]}, "profile.identify.function must be"),
        ({"serial_text": {"function": 3, "address": 1, "count": 1, "form": "utf8"}}, "profile.serial_text.form must be"),
        ({"sunspec": {"model": 1}}, "profile.sunspec.length is missing"),
        ({"golden": []}, "profile.golden must be a list of at least one sample"),
        (golden_with(energy_wh=1), "profile.golden[0] must be what its frames say: 1234567 Wh, 5500 W"),
        (golden_with(unit=2), "profile.golden[0].exchanges must be a request for 2 at 7"),
        (golden_with(exchanges=[["00", "zz"]] * 2), "profile.golden[0].exchanges must be hexadecimal digits"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_profile_is_told_with_file_and_key(tmp_path, changes, message):
    path = own_profile(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        catalogue.profile_mapping("acme-1", tmp_path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message


def test_a_broken_frame_is_told(tmp_path):
    golden = catalogue.profile_mapping("orno-we504")["golden"]
    golden[1]["exchanges"][0][1] = golden[1]["exchanges"][0][1][:-1] + "0"
    own_profile(tmp_path, golden=golden)
    with pytest.raises(ConfigError, match=r"golden\[1\] must be frames that decode: CRC does not match"):
        catalogue.profile_mapping("acme-1", tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), (" " * 65_537, "longer than"), ("[]", "a mapping")])
def test_a_file_that_is_no_profile(tmp_path, text, message):
    (tmp_path / "acme-1.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        catalogue.profile_mapping("acme-1", tmp_path)


def test_the_check_takes_the_profiles_it_comes_with():
    for profile_id in IDS:
        assert check_profile(catalogue.profile_mapping(profile_id), profile_id, "x")["id"] == profile_id


# --- in a configuration --------------------------------------------------------------------------------------------


def public_key():
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


@pytest.fixture
def configured(tmp_path):
    """Load a pile's configuration with this `meter` section."""

    def load(section):
        path = tmp_path / "pile.toml"
        path.write_text(
            'chain_id = "north-1a2b3c4d"\npile_id = "garage-17"\nsigner = "file:pile.key"\n'
            f'[[validators]]\nparty = "grid"\npublic = "{public_key().hex()}"\npower = 1\n'
            '[mqtt]\nhost = "broker.example"\nport = 1883\n'
            '[bus]\nkind = "rtu"\ndevice = "/dev/ttyUSB0"\n'
            f'[meter]\nserial = "1"\nunit = 1\nrated_power_w = 7000\n{section}\n'
            '[control]\nkind = "coil"\nunit = 2\ncoil = 0\n[journal]\npath = "journal"\n'
        )
        return load_config(path)

    return load


def test_a_sunspec_meter_needs_to_know_where_its_model_begins(configured):
    with pytest.raises(ConfigError, match=r"meter\.model_address is missing: `pile-edge scan` finds"):
        configured('profile = "sunspec-203"')
    profile = configured('profile = "sunspec-203"\nmodel_address = 40070').profile
    assert requests(profile) == [(3, 40_116, 9), (3, 40_088, 5)]
    with pytest.raises(ConfigError, match=r"meter\.model_address must be an integer"):
        configured('profile = "sunspec-203"\nmodel_address = 65500')
    with pytest.raises(ConfigError, match="for SunSpec profiles only"):
        configured('profile = "abb-b23"\nmodel_address = 1')


def test_the_word_order_can_be_chosen_where_the_meter_can_be_set(configured):
    assert configured('profile = "phoenix-eem-mb370"').profile.energy.little
    assert not configured('profile = "phoenix-eem-mb370"\nword_order = "big"').profile.energy.little
    with pytest.raises(ConfigError, match=r"meter\.word_order must be big: this meter cannot be set otherwise"):
        configured('profile = "abb-b23"\nword_order = "little"')


def test_ones_own_profile_in_a_configuration(configured, tmp_path):
    (tmp_path / "meters.d").mkdir()
    own_profile(tmp_path / "meters.d")
    assert configured('profile = "acme-1"\nprofiles = "meters.d"').profile.id == "acme-1"
    with pytest.raises(ConfigError, match="no meter profile 'acme-1'"):
        configured('profile = "acme-1"')
    with pytest.raises(ConfigError, match="no such folder"):
        configured('profile = "acme-1"\nprofiles = "none"')


def test_not_available_turns_with_the_words():
    mapping = catalogue.profile_mapping("carlo-gavazzi-em24")
    assert mapping["energy_import"]["not_available"] == "ffff7fff"
    turned = with_word_order(mapping, "big")
    assert turned["energy_import"]["not_available"] == "7fffffff"
    assert with_word_order(turned, "little") == mapping
