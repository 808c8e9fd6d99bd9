"""Scanning simulated buses: real servers on a pty or on TCP, meters at different speeds and addresses, some of them odd."""

import json
import socket

import pytest

from pile_edge.cli import main
from pile_edge.config_file import load_config
from pile_edge.meters import catalogue, sunspec
from pile_edge.meters.scan import CERTAIN, LIKELY, POSSIBLE, UNKNOWN, Line, Plan, Report, scan, usual_lines
from pile_edge.ports.cpython_bus import open_bus
from pile_hil.bus_server import BusServers
from pile_hil.load import Load
from pile_hil.meters import SimMeter, SimRelay
from pile_shared.errors import BusError

MAPPINGS = catalogue.profile_mappings()
ENERGY_WH = 7_654_320
# On a busy machine a simulated meter's answer takes 60 ms now and then; silence is what a scan waits for, so not for much longer.
TIMEOUT_MS = 250
QUICK = {"timeout_ms": TIMEOUT_MS, "gap_ms": 2}


def a_load():
    load = Load(lambda: 0, rated_power_w=5_500, battery_wh=1, start_energy_wh=ENERGY_WH)
    load.plug()
    load.switch(True)
    return load


def a_twin(profile_id, unit=1, **options):
    return SimMeter(catalogue.profile_mapping(profile_id), unit, a_load(), serial=63_000_117, **options)


@pytest.fixture
def servers():
    with BusServers() as running:
        yield running


def by_unit(report):
    return {found.unit: found for found in report.findings}


def scan_tcp(servers, twins, units=None, mappings=MAPPINGS):
    spec = servers.serve({"kind": "tcp"}, twins)
    plan = Plan(spec, [], units or [twin.unit for twin in twins], timeout_ms=2000, gap_ms=0)
    return scan(plan, mappings, open_bus)


# --- show 3 --------------------------------------------------------------------------------------------------------

THREE = [("abb-b23", 17, 19_200), ("eastron-sdm630", 3, 9_600), ("wago-879-3000", 9, 2_400)]


@pytest.fixture
def mixed_bus(servers):
    """Three meters and a relay on one pty, no two at the same speed and address."""
    twins = [a_twin(profile_id, unit, baud=baud) for profile_id, unit, baud in THREE]
    return servers.serve({"kind": "rtu"}, [*twins, SimRelay(5, a_load(), baud=9_600)])


def test_three_meters_at_mixed_speeds_and_addresses_are_found_and_named(mixed_bus):
    lines = [Line(baud, "N", 1) for baud in (9_600, 19_200, 2_400, 38_400)]
    plan = Plan({"kind": "rtu", "device": mixed_bus["device"]}, lines, [3, 5, 9, 17, 20], **QUICK)
    said = []
    report = scan(plan, MAPPINGS, open_bus, lambda done, total, what: said.append((done, total, what)))
    found = by_unit(report)
    assert sorted(found) == [3, 5, 9, 17]
    for profile_id, unit, baud in THREE:
        assert (found[unit].profiles, found[unit].sure) == ([profile_id], CERTAIN)
        assert found[unit].line == Line(baud, "N", 1)
        assert abs(found[unit].energy_wh - ENERGY_WH) <= 10
        assert found[unit].power_w == 5_500
    assert (found[17].serial, found[9].serial) == ("63000117", "63000117")
    assert (found[5].sure, found[5].profiles) == (UNKNOWN, [])
    assert "a relay" in found[5].note
    assert report.garbled == []
    assert not report.unfinished
    assert said[0] == (0, 20, "9600 8N1, address 3")
    assert said[-1][:2] == (20, 20)


def test_a_meter_is_deaf_to_another_speed(mixed_bus):
    plan = Plan({"kind": "rtu", "device": mixed_bus["device"]}, [Line(4_800, "N", 1)], [3, 5, 9, 17], **QUICK)
    assert scan(plan, MAPPINGS, open_bus).findings == []


def test_the_command_finds_them_and_prints_a_configuration_that_reads_them(mixed_bus, tmp_path, capsys):
    options = [
        "--addresses",
        "3,9,17",
        "--bauds",
        "2400,9600,19200",
        "--parities",
        "N",
        "--timeout-ms",
        str(TIMEOUT_MS),
    ]
    assert main(["scan", "--port", mixed_bus["device"], "--gap-ms", "2", *options]) == 0
    printed = capsys.readouterr()
    assert "3 line settings, 3 addresses: about " in printed.err
    assert "3 units answered" in printed.out
    for profile_id, unit, baud in THREE:
        (row,) = [line for line in printed.out.splitlines() if line.startswith(f"{unit} ") and "8N1" in line]
        assert row.split()[1:5] == [str(baud), "8N1", profile_id, "certain"]
    sections = printed.out.split("# address 17, certain: for the pile's configuration\n")[1].split("\n\n#")[0]
    path = tmp_path / "pile.toml"
    path.write_text(
        'chain_id = "north-1a2b3c4d"\npile_id = "garage-17"\nsigner = "file:pile.key"\n'
        f'[[validators]]\nparty = "grid"\npublic = "{PUBLIC}"\npower = 1\n'
        '[mqtt]\nhost = "broker.example"\nport = 1883\n[control]\nkind = "coil"\nunit = 2\ncoil = 0\n'
        f'[journal]\npath = "journal"\n{sections}\n'
    )
    assert load_config(path).bus["baud"] == 19_200
    assert main(["read", "--config", str(path), "--json"]) == 0
    reading = json.loads(capsys.readouterr().out)
    assert (reading["energy_wh"], reading["power_w"], reading["serial"]) == (ENERGY_WH, 5_500, 63_000_117)


PUBLIC = (
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)  # the generator of P-256 (SEC 2, section 2.4.2): a public key that is certainly on the curve


# --- naming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile_id", catalogue.profile_ids())
def test_every_meter_is_named_or_among_those_that_read_alike(servers, profile_id):
    twin = a_twin(profile_id)
    found = by_unit(scan_tcp(servers, [twin]))[1]
    mapping = catalogue.profile_mapping(profile_id)
    assert profile_id in found.profiles
    if "identify" in mapping or "sunspec" in mapping:
        assert (found.sure, found.profiles) == (CERTAIN, [profile_id])
    else:
        assert found.sure in (LIKELY, POSSIBLE)
    if found.sure != POSSIBLE:
        assert found.energy_wh == twin.energy_wh()
    if {"serial", "serial_text", "sunspec"} & set(mapping):
        assert found.serial == "63000117"


def test_meters_that_read_alike_are_all_named_and_the_label_decides(servers):
    found = by_unit(scan_tcp(servers, [a_twin("eastron-sdm120")]))[1]
    assert {"eastron-sdm120", "eastron-sdm220", "eastron-sdm230"} <= set(found.profiles)
    assert "abb-b23" not in found.profiles
    assert found.sure == LIKELY
    assert "label" in found.note


def test_an_eltako_is_not_taken_for_the_eastron_whose_addresses_it_has(servers):
    mappings = [m for m in MAPPINGS if not m["id"].startswith("eltako")]
    found = by_unit(scan_tcp(servers, [a_twin("eltako-dsz15dzmod")], mappings=mappings))[1]
    assert not any(profile_id.startswith("eastron") for profile_id in found.profiles)


class FilledBus:
    """A device that answers every question with the same byte, as some gateways and chargers do."""

    def __init__(self, byte):
        self.byte = byte

    def read(self, _unit, _function, _address, count):
        return bytes([self.byte]) * (2 * count)

    def close(self):
        pass


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x20, 0x3F, 0x80, 0xFF])
def test_a_device_that_answers_everything_is_no_meter(byte):
    (found,) = scan(Plan({"kind": "tcp"}, [], [1]), MAPPINGS, lambda _spec: FilledBus(byte)).findings
    assert (found.sure, found.profiles) == (UNKNOWN, [])


def test_readings_that_fit_several_maps_are_no_certainty():
    """0x43434343 is 195.3 as a float: a voltage, a power and an energy that could be."""
    (found,) = scan(Plan({"kind": "tcp"}, [], [1]), MAPPINGS, lambda _spec: FilledBus(0x43)).findings
    assert found.sure == POSSIBLE
    assert "compare the reading with the display" in found.note


def test_a_meter_set_to_the_other_word_order_is_found_and_the_configuration_says_so(servers, capsys):
    spec = servers.serve({"kind": "tcp"}, [a_twin("phoenix-eem-mb370", word_order="big")])
    assert main(["scan", "--tcp", f"{spec['host']}:{spec['port']}", "--gap-ms", "0"]) == 0
    printed = capsys.readouterr().out
    assert "7,654,320 Wh, 5500 W" in printed
    assert 'profile = "phoenix-eem-mb370"' in printed
    assert 'word_order = "big"' in printed


@pytest.mark.parametrize("code", [None, "0000", "ffff"])
def test_an_old_meter_that_does_not_tell_its_model_is_found_by_its_readings(servers, code):
    """It refuses the register, or answers with nothing in it."""
    old = {**catalogue.profile_mapping("eastron-sdm630")}
    (rule,) = old.pop("identify")
    old["identify"] = [] if code is None else [{**rule, "one_of": [code]}]
    found = by_unit(scan_tcp(servers, [SimMeter(old, 1, a_load())]))[1]
    assert "eastron-sdm630" in found.profiles
    assert found.sure == LIKELY


def test_a_meter_that_ignores_what_it_does_not_know_is_still_named(servers):
    twin = a_twin("eastron-sdm630", baud=9_600)
    twin.faults.set("shy")
    spec = servers.serve({"kind": "rtu"}, [twin])
    report = scan(
        Plan({"kind": "rtu", "device": spec["device"]}, [Line(9_600, "N", 1)], [1], **QUICK), MAPPINGS, open_bus
    )
    assert by_unit(report)[1].profiles == ["eastron-sdm630"]


def test_a_meter_whose_energy_has_no_value_yet_is_named_but_marked(servers):
    twin = a_twin("abb-b23")
    twin.faults.set("not_available")
    found = by_unit(scan_tcp(servers, [twin]))[1]
    assert (found.sure, found.profiles, found.energy_wh) == (CERTAIN, ["abb-b23"], None)
    assert "does not read" in found.note


def test_a_gateway_that_speaks_for_absent_units_invents_none(servers):
    report = scan_tcp(servers, [a_twin("abb-b23", 2)], units=[1, 2, 3])
    assert sorted(by_unit(report)) == [2]


def test_noise_is_told_from_silence(servers):
    twin = a_twin("abb-b23", baud=9_600)
    twin.faults.set("noise")
    spec = servers.serve({"kind": "rtu"}, [twin])
    report = scan(
        Plan({"kind": "rtu", "device": spec["device"]}, [Line(9_600, "N", 1)], [1, 2], **QUICK), MAPPINGS, open_bus
    )
    assert report.findings == []
    assert report.garbled == [(1, Line(9_600, "N", 1))]


# --- SunSpec -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", sunspec.BASES)
@pytest.mark.parametrize("number", [201, 203, 204, 211, 214])
def test_a_sunspec_meter_is_found_at_every_base_address(servers, base, number):
    found = by_unit(scan_tcp(servers, [a_twin(f"sunspec-{number}", base=base)]))[1]
    assert (found.sure, found.profiles) == (CERTAIN, [f"sunspec-{number}"])
    assert found.model_address == base + 70  # "SunS", then the common model of 66 words with its head
    assert (found.says, found.serial) == ("Simulated Twin", "63000117")
    assert (found.energy_wh, found.power_w) == (ENERGY_WH, 5_500)


def test_a_sunspec_device_without_a_meter_says_what_it_has(servers):
    mappings = [m for m in MAPPINGS if m["id"] != "sunspec-203"]
    found = by_unit(scan_tcp(servers, [a_twin("sunspec-203")], mappings=mappings))[1]
    assert (found.sure, found.note) == (UNKNOWN, "a SunSpec device without a meter model; it has 1, 203")


class EndlessBus:
    """A map whose models never end."""

    reads = 0

    def read(self, _unit, _function, address, count):
        self.reads += 1
        return b"SunS" if address == 40_000 else b"\0\x02\0\0"[: 2 * count]


def test_a_map_that_never_ends_is_left():
    bus = EndlessBus()
    assert len(sunspec.find_models(bus, 1)) == sunspec.MAX_MODELS
    assert bus.reads <= sunspec.MAX_MODELS + 1


# --- bounds and messages -------------------------------------------------------------------------------------------


class SilentBus:
    def __init__(self, spec, clock):
        self.spec = spec
        self.clock = clock

    def read(self, _unit, _function, _address, _count):
        self.clock.now_s += (self.spec["timeout_ms"] + self.spec["gap_ms"]) / 1000
        raise BusError("silence", "timeout")

    def close(self):
        pass


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_the_estimate_is_what_silence_takes():
    clock = Clock()
    plan = Plan({"kind": "rtu", "device": "x"}, usual_lines(MAPPINGS), range(1, 11), budget_s=10_000)
    scan(plan, MAPPINGS, lambda spec: SilentBus(spec, clock), clock_s=clock)
    assert round(clock.now_s * 1000) == plan.silent_ms()


@pytest.mark.parametrize("place", [("--port", "/dev/nothing-here"), ("--tcp", "127.0.0.1")])
def test_without_being_told_it_hurries_no_meter(monkeypatch, place):
    plans = []
    monkeypatch.setattr("pile_edge.commands.meters.scan", lambda plan, *_rest: plans.append(plan) or Report())
    assert main(["scan", *place, "--json"]) == 1
    assert plans[0].gap_ms == max(mapping["min_gap_ms"] for mapping in MAPPINGS) > 50


def test_a_scan_ends_when_its_budget_does():
    clock = Clock()
    plan = Plan({"kind": "rtu", "device": "x"}, usual_lines(MAPPINGS), range(1, 248), budget_s=30)
    report = scan(plan, MAPPINGS, lambda spec: SilentBus(spec, clock), clock_s=clock)
    assert 30 <= clock.now_s < 32
    assert report.unfinished.startswith("time ran out at address ")
    assert report.unfinished.endswith(", 9600 8N1")


def test_naming_ends_when_the_budget_does(servers):
    spec = servers.serve({"kind": "tcp"}, [a_twin("abb-b23")])
    ticks = iter(range(100))
    report = scan(Plan(spec, [], [1], budget_s=4, gap_ms=0), MAPPINGS, open_bus, clock_s=lambda: next(ticks))
    assert report.unfinished == "time ran out at address 1, TCP"


def test_the_usual_settings_come_first():
    lines = usual_lines(MAPPINGS)
    assert lines[0] == Line(9_600, "N", 1)
    assert {(entry["line"]["baud"], entry["line"]["parity"]) for entry in MAPPINGS if "line" in entry} == {
        line[:2] for line in lines
    }


def test_nobody_there(capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        status = main(["scan", "--tcp", f"127.0.0.1:{unused.getsockname()[1]}"])
    assert status == 1
    assert "check: can 127.0.0.1 be reached" in capsys.readouterr().err
    assert main(["scan", "--port", "/dev/nothing-here", "--addresses", "1", "--bauds", "9600"]) == 1
    assert "check: is the adapter plugged in, does /dev/nothing-here exist" in capsys.readouterr().err


def test_silence_says_what_to_check(servers, capsys):
    spec = servers.serve({"kind": "rtu"}, [])
    options = ["--addresses", "1-2", "--bauds", "9600", "--parities", "N", "--timeout-ms", "30", "--gap-ms", "2"]
    assert main(["scan", "--port", spec["device"], *options]) == 1
    assert "nobody answered\n  check: is the meter under power; are A and B swapped" in capsys.readouterr().out


def test_a_setting_that_the_adapter_refuses_does_not_end_the_scan(servers, capsys):
    spec = servers.serve({"kind": "rtu"}, [a_twin("abb-b23", baud=9_600)])  # a pty cannot be set to even parity
    options = [
        "--addresses",
        "1",
        "--bauds",
        "9600",
        "--parities",
        "E,N",
        "--timeout-ms",
        str(TIMEOUT_MS),
        "--gap-ms",
        "2",
    ]
    assert main(["scan", "--port", spec["device"], *options]) == 0
    printed = capsys.readouterr().out
    assert "9600 8E1: this adapter cannot be set so" in printed
    assert "abb-b23  certain" in printed


def test_json_of_a_scan(servers, capsys):
    spec = servers.serve({"kind": "tcp"}, [a_twin("sunspec-213")])
    assert main(["scan", "--tcp", f"{spec['host']}:{spec['port']}", "--json", "--gap-ms", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["unfinished"] == ""
    (found,) = report["findings"]
    assert (found["profiles"], found["model_address"], found["line"]) == (["sunspec-213"], 40_070, None)


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "x", "--addresses", "0-999"],
        ["--port", "x", "--parities", "X"],
        ["--port", "x", "--bauds", "fast"],
        [],
    ],
)
def test_wrong_options(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["scan", *options])
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_the_address_of_everybody(capsys):
    assert main(["scan", "--port", "x", "--addresses", "0-3"]) == 2
    assert "on a serial line 0 is everybody" in capsys.readouterr().err


def test_a_wrong_host(capsys):
    assert main(["scan", "--tcp", "x:y"]) == 2
    assert "--tcp must be HOST or HOST:PORT" in capsys.readouterr().err


class HangingUpBus:
    """A device that closes the connection at every question but one, and is there again at the next."""

    def __init__(self):
        self.open = True

    def read(self, _unit, function, address, _count):
        if not self.open:
            self.open = True
            raise BusError("refused", "exception")
        if (function, address) == (4, 0):
            return b"\0\0\0\0"
        self.open = False
        raise BusError("connection lost", "closed")

    def close(self):
        pass


def test_a_device_that_hangs_up_does_not_end_the_scan():
    report = scan(Plan({"kind": "tcp"}, [], [1, 2]), MAPPINGS, lambda _spec: HangingUpBus())
    assert [found.sure for found in report.findings] == [UNKNOWN, UNKNOWN]


# --- one reading ---------------------------------------------------------------------------------------------------


@pytest.fixture
def configured(servers, tmp_path):
    """A twin, and the path of a configuration for it."""
    twin = a_twin("abb-b23")
    spec = servers.serve({"kind": "rtu"}, [twin])
    path = tmp_path / "pile.toml"
    path.write_text(
        'chain_id = "north-1a2b3c4d"\npile_id = "garage-17"\nsigner = "file:pile.key"\n'
        f'[[validators]]\nparty = "grid"\npublic = "{PUBLIC}"\npower = 1\n'
        '[mqtt]\nhost = "broker.example"\nport = 1883\n[control]\nkind = "coil"\nunit = 2\ncoil = 0\n'
        f'[bus]\nkind = "rtu"\ndevice = "{spec["device"]}"\ntimeout_ms = 100\n'
        '[meter]\nprofile = "abb-b23"\nunit = 1\nserial = "4711"\nrated_power_w = 7000\n'
        '[journal]\npath = "journal"\n'
    )
    return twin, path


def test_a_reading_tells_another_serial_number(configured, capsys):
    assert main(["read", "--config", str(configured[1])]) == 0
    printed = capsys.readouterr().out
    assert f"energy_wh {ENERGY_WH}  power_w 5500  raw {(765_432).to_bytes(8, 'big').hex()}" in printed
    assert "the meter says its serial number is 63000117, the configuration says 4711" in printed
    configured[1].write_text(configured[1].read_text().replace('"4711"', '"0063000117"'))  # as it is printed on some
    assert main(["read", "--config", str(configured[1])]) == 0
    assert "the meter says" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("silence", "is its address 1; is it set to 9600 baud, parity N?"),
        ("noise", "noise, or two units with one address"),
        ("exception", "is meter.profile the model on the label?"),
        ("not_available", "is it wired for the number of phases"),
    ],
)
def test_a_reading_that_fails_says_what_to_check(configured, capsys, fault, check):
    twin, path = configured
    twin.faults.set(fault)
    assert main(["read", "--config", str(path)]) == 1
    assert "\n  check: " in (printed := capsys.readouterr().err)
    assert check in printed


# --- the list ------------------------------------------------------------------------------------------------------


def test_the_list_of_meters(capsys, tmp_path):
    assert main(["meters"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == catalogue.profile_ids()
    assert main(["meters", "eastron", "SDM72"]) == 0
    printed = capsys.readouterr().out
    assert "2 of " in printed
    assert "trap    Restarts when polled in quick succession" in printed
    assert main(["meters", "sunspec-203", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [catalogue.profile_mapping("sunspec-203")]
    assert main(["meters", "nothing-like-it"]) == 1
    mapping = {**catalogue.profile_mapping("orno-we504"), "id": "acme-1", "manufacturer": "Acme"}
    (tmp_path / "acme-1.json").write_text(json.dumps(mapping))
    assert main(["meters", "acme", "--profiles", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("acme-1  Acme OR-WE-504")
    (tmp_path / "acme-1.json").write_text("{}")
    assert main(["meters", "--profiles", str(tmp_path)]) == 2
    assert f"{tmp_path}/acme-1.json: profile.id is missing" in capsys.readouterr().err
