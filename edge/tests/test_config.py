"""Configuration, keys, clock and command line: what is wrong is named, and both file formats mean the same."""

import json
import subprocess
import sys

import pytest

from pile_edge.clock import Clock
from pile_edge.config_file import compile_config, load_config
from pile_edge.signers import open_signer
from pile_hil.peer import Chain, secret
from pile_shared.errors import ConfigError
from pile_shared.reading import TIME_INFORMATIVE, TIME_RELATIVE, TIME_SYNCHRONISED

KEYS = "\n".join(
    f'[[validators]]\nparty = "{one.party}"\npublic = "{one.public.hex()}"\npower = {one.power}'
    for one in Chain().validators
)
GOOD = f"""
chain_id = "valley"
pile_id = "pile-1"
signer = "file:keys/pile.key"
{KEYS}
[mqtt]
host = "broker.example"
port = 8883
tls = {{ ca = "ca.pem", cert = "pile.pem", key = "/etc/pile.key.pem" }}
[bus]
kind = "rtu"
device = "/dev/ttyUSB0"
baud = 9600
[meter]
profile = "abb-b23"
unit = 1
serial = "00012345"
rated_power_w = 11000
[control]
kind = "coil"
unit = 2
coil = 0
[timing]
sample_ms = 5000
[journal]
path = "journal"
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "pile.toml"
        path.write_text(text)
        return path

    return write


def pile_edge(*arguments):
    command = [sys.executable, "-m", "pile_edge.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_values_and_defaults(write, tmp_path):
    settings = load_config(write(GOOD))
    assert settings.signer == f"file:{tmp_path}/keys/pile.key"
    assert settings.mqtt["tls"] == {
        "ca": f"{tmp_path}/ca.pem",
        "cert": f"{tmp_path}/pile.pem",
        "key": "/etc/pile.key.pem",
    }
    assert settings.journal_path == f"{tmp_path}/journal"
    assert (settings.timing.sample_ms, settings.timing.report_ms) == (5_000, 60_000)
    gap_ms, timeout_ms, settle_ms = settings.bus["paces"][settings.unit]
    assert gap_ms == settings.profile.min_gap_ms == 20
    assert timeout_ms == settle_ms == settings.profile.timeout_ms == 1_000
    assert (settings.rate, settings.origin_ms) == (1, 0)


METER, RELAY = 1, 2


def paces(write, bus="", meter="", control=""):
    """{unit: (gap, timeout, settle)} of a file with these lines in addition."""
    text = GOOD.replace("[bus]\n", f"[bus]\n{bus}\n").replace("[meter]\n", f"[meter]\n{meter}\n")
    found = load_config(write(text.replace("[control]\n", f"[control]\n{control}\n"))).bus["paces"]
    return found[METER], found[RELAY]


def test_each_device_has_its_own_pace_and_the_bus_is_the_default(write):
    t35_ms = 5  # at 9600 baud; the profile wants 20 ms between its questions and 1000 ms for an answer
    assert paces(write) == ((20, 1000, 1000), (t35_ms, 1000, 1000))
    assert paces(write, "gap_ms = 50\ntimeout_ms = 300\nsettle_ms = 70") == ((50, 1000, 70), (50, 300, 70))
    assert paces(write, "gap_ms = 50\ntimeout_ms = 3000") == ((50, 3000, 3000), (50, 3000, 3000))
    own = "gap_ms = 30\ntimeout_ms = 2000\nsettle_ms = 90"
    assert paces(write, "gap_ms = 50\ntimeout_ms = 400", meter=own) == ((30, 2000, 90), (50, 400, 400))
    assert paces(write, "gap_ms = 50\ntimeout_ms = 400", control=own) == ((50, 1000, 1000), (30, 2000, 90))
    assert paces(write, meter="gap_ms = 0\ntimeout_ms = 10", control="gap_ms = 0") == (
        (20, 1000, 1000),
        (t35_ms, 1000, 1000),
    )


def test_a_meter_with_a_relay_of_its_own_is_one_device(write):
    both = GOOD.replace("unit = 2", "unit = 1\ngap_ms = 70\ntimeout_ms = 300\nsettle_ms = 5")
    assert load_config(write(both)).bus["paces"][1] == (70, 1000, 1000)


def test_a_slow_line_needs_a_longer_gap_than_the_meter(write):
    assert load_config(write(GOOD.replace("baud = 9600", "baud = 300"))).bus["paces"][1][0] == 129


def flat(value):
    if isinstance(value, (list, tuple)):
        return [flat(item) for item in value]
    return flat(sorted(vars(value).items())) if hasattr(value, "__dict__") else value


def test_cbor_means_the_same_as_toml(write, tmp_path):
    source = write(GOOD)
    target = tmp_path / "pile.cbor"
    assert compile_config(source, target) == target.stat().st_size < 2_048
    assert flat(load_config(target)) == flat(load_config(source))


@pytest.mark.parametrize(
    "lines", ['kind = "keba"\nlimit_ma = 16000', 'kind = "gpio"\npin = 4\nchip = "/dev/gpiochip1"']
)
def test_what_only_a_raspberry_pi_can_switch_is_not_compiled_for_a_board(write, tmp_path, lines):
    source = write(GOOD.replace('kind = "coil"\nunit = 2\ncoil = 0', lines))
    load_config(source)
    with pytest.raises(ConfigError, match="a board switches a coil, or a pin"):
        compile_config(source, tmp_path / "pile.cbor")


WRONG = [
    ('chain_id = "valley"', "", "chain_id is missing"),
    ('chain_id = "valley"', 'chain_id = "Valley"', "chain_id must be 1 to 32 characters"),
    ('signer = "file:keys/pile.key"', 'signer = "tpm:1"', 'signer must be "file:'),
    ("[mqtt]", "colour = 1\n[mqtt]", "validators must be"),
    ("[mqtt]", "[colour]\nred = 1\n[mqtt]", "colour is not a key"),
    ("port = 8883", "port = 0", "mqtt.port must be 1 to 65535"),
    ("port = 8883", "port = 8883\nretries = 3", "mqtt.retries is not a key; known: host"),
    ('host = "broker.example"', "host = 7", "mqtt.host must be"),
    ('kind = "rtu"', 'kind = "canbus"', 'bus.kind must be "tcp" or "rtu"'),
    ("baud = 9600", "baud = 9600.5", "bus.baud must be an integer"),
    ("baud = 9600", "speed = 9600", "bus.speed is not a key"),
    ('profile = "abb-b23"', 'profile = "abb"', "meter.profile: no meter profile 'abb'; known:"),
    ("unit = 1\n", "unit = 0\n", "meter.unit must be an integer from 1 to 247"),
    ("rated_power_w = 11000", "rated_power_w = true", "meter.rated_power_w must be an integer"),
    ('serial = "00012345"', "serial = 12345", "meter.serial must be 1 to 32"),
    ('kind = "coil"', 'kind = "teapot"', 'control.kind must be "coil"'),
    ('kind = "coil"', 'kind = "gpio"', "control.pin must be an integer"),
    ('kind = "coil"', 'kind = "gpio"\npin = 17\nactive_low = 1', "control.active_low must be true or false"),
    ('kind = "coil"', 'kind = "gpio"\npin = 17\nfeedback_pin = 17', "control.feedback_pin must be another line"),
    ("coil = 0", "coil = -1", "control.coil must be an integer"),
    ("sample_ms = 5000", "sample_ms = 5", "timing.sample_ms must be an integer from 100"),
    ("sample_ms = 5000", "sample_ms = 61000", "timing.report_ms must be at least timing.sample_ms"),
    ('path = "journal"', 'path = "journal"\nsegment_bytes = 100', "journal.segment_bytes must be"),
    ('path = "journal"', 'path = "journal"\ncapacity_bytes = 30000', "journal.capacity_bytes must be"),
    ("power = 1", "power = 0", "validators: validator power must be"),
    ('party = "node-1"', 'party = "node-0"', "validators: validators must be distinct"),
    ('public = "04', 'public = "zz', "validators.public must be 130 hexadecimal digits"),
    ("[bus]", "[bus", "not TOML"),
]


@pytest.mark.parametrize(("good", "bad", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_wrong_values_name_file_key_and_form(write, good, bad, message):
    assert good in GOOD
    path = write(GOOD.replace(good, bad, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_wrong_configuration_exits_2(write, tmp_path):
    path = write(GOOD.replace("port = 8883", "port = 0"))
    for arguments in (("run",), ("key",), ("read",)):
        done = pile_edge(*arguments, "--config", path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pile-edge: {path}: mqtt.port must be 1 to 65535\n"
    assert pile_edge("compile-config", path, tmp_path / "x.cbor").returncode == 2
    assert not (tmp_path / "x.cbor").exists()
    missing = pile_edge("run", "--config", tmp_path / "none.toml")
    assert missing.returncode == 2
    assert "none.toml: cannot be read" in missing.stderr


def test_key_is_made_once_and_shown(write, tmp_path):
    (tmp_path / "keys").mkdir()
    path = write(GOOD)
    shown = pile_edge("key", "--config", path).stdout
    told = json.loads(pile_edge("key", "--config", path, "--json").stdout)
    assert told["pile_id"] == "pile-1"
    assert told["public"] in shown
    assert told["fingerprint"] in shown.replace(" ", "")
    key = tmp_path / "keys/pile.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert open_signer(f"file:{key}").public.hex() == told["public"]
    assert [path.name for path in key.parent.iterdir()] == ["pile.key"]


def test_help_shows_examples():
    assert "pile-edge run --config pile.toml --dry-run" in pile_edge("--help").stdout


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "pile.key"
    path.write_bytes(secret(7))
    path.chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others; run: chmod 600"):
        open_signer(f"file:{path}")


@pytest.mark.parametrize("data", [b"", bytes(32), b"\xff" * 32, secret(7) + b"\x00", secret(7)[:-1]])
def test_a_damaged_key_is_refused_and_kept(tmp_path, data):
    path = tmp_path / "pile.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is damaged"):
        open_signer(f"file:{path}")
    assert path.read_bytes() == data


@pytest.mark.parametrize("uri", ["file:", "tpm:0x81", "/etc/pile.key", ""])
def test_unknown_signers_are_refused(uri):
    with pytest.raises(ConfigError, match="signer must be"):
        open_signer(uri)


class FakePort:
    def __init__(self, wall_ms):
        self.wall = wall_ms
        self.ticks = 1 << 20

    def wall_ms(self):
        return self.wall

    def ticks_ms(self):
        return self.ticks

    def ticks_diff(self, new, old):
        return new - old

    def time_status(self):
        return TIME_INFORMATIVE

    def passes(self, ms):
        self.wall += ms
        self.ticks += ms


T0 = 1_800_000_000_000


def test_clock_follows_the_wall_forward():
    port = FakePort(T0)
    clock = Clock(port)
    port.passes(500)
    assert clock.now_ms() == T0 + 500
    port.wall += 7_000
    assert clock.now_ms() == T0 + 7_500
    assert clock.status() == TIME_INFORMATIVE


def test_clock_set_back_goes_on_slower_and_never_back():
    port = FakePort(T0)
    clock = Clock(port)
    port.wall -= 1_000
    last = clock.now_ms()
    assert last == T0
    for _ in range(200):
        port.passes(80)
        now = clock.now_ms()
        assert 0 < now - last <= 80
        last = now
    assert last == port.wall


def test_a_board_without_time_goes_on_from_the_newest_proof():
    port = FakePort(0)
    clock = Clock(port)
    clock.start_at(T0)
    assert clock.status() == TIME_RELATIVE
    port.passes(1_000)
    assert clock.now_ms() == T0 + 1_000
    port.wall = T0 + 60_000
    assert clock.now_ms() == T0 + 60_000
    assert clock.status() == TIME_INFORMATIVE


def test_a_rigs_clock_is_the_rigs():
    port = FakePort(T0)
    clock = Clock(port, rate=60, origin_ms=T0)
    port.passes(10)
    assert clock.now_ms() == T0 + 600
    assert clock.status() == TIME_SYNCHRONISED
