"""Provisioning: a configuration that loads, a key that stays, a request, and a fingerprint two people compare."""

import io
import json
import tomllib

import pytest

from pile_edge.cli import main
from pile_edge.commands.registration import fingerprint
from pile_edge.config_file import compile_config, load_config
from pile_shared.platform import sha256

OPERATOR = """chain_id = "north-1a2b3c4d"
update_public = "{key}"

[[validators]]
party = "grid"
public = "{key}"
power = 1

[mqtt]
host = "broker.example"
port = 8883
"""
KEY = (
    "04bd170efbcb2ad845875cba4354d54555e0a0280eaaaae43a952aabdbaf1cc342"
    "92710fdec3ae2e1042ce12a4f39a86ee170a71e83cf9ad8fd7a600c52391c6dd"
)
WORDS = [
    *("--pile", "garage-17", "--profile", "eastron-sdm630", "--serial", "63000117", "--rated-power", "7000"),
    *("--relay-unit", "2"),
]


@pytest.fixture
def operator(tmp_path):
    path = tmp_path / "operator.toml"
    path.write_text(OPERATOR.format(key=KEY))
    return path


def provision(tmp_path, *words):
    return main(["provision", "--config", str(tmp_path / "pile.toml"), *map(str, words)])


def test_from_options_to_a_request(operator, tmp_path, capsys):
    assert provision(tmp_path, "--operator", operator, *WORDS, "--device", "/dev/ttyUSB0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    config = load_config(tmp_path / "pile.toml")
    assert (config.pile_id, config.chain_id, config.rated_power_w) == ("garage-17", "north-1a2b3c4d", 7000)
    assert config.update_public.hex() == KEY
    assert (tmp_path / "pile.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pile.toml").stat().st_mode & 0o777 == 0o600
    request = json.loads((tmp_path / "pile.registration.json").read_text())
    assert request == {
        "kind": "pile-registration",
        "chain_id": "north-1a2b3c4d",
        "pile_id": "garage-17",
        "public": found["public"],
        "meter_model": "SDM630",
        "meter_serial": "63000117",
        "rated_power_w": 7000,
    }
    digest = sha256(bytes.fromhex(found["public"])).hex()
    assert found["fingerprint"].replace(" ", "") == digest
    # Again, without --operator: the same key, the same request.
    assert provision(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["public"] == found["public"]
    # And never over what is there.
    assert provision(tmp_path, "--operator", operator, *WORDS, "--device", "/dev/ttyUSB0") == 2
    assert "is there already" in capsys.readouterr().err


def test_people_are_told_what_to_do_with_the_fingerprint(operator, tmp_path, capsys):
    assert provision(tmp_path, "--operator", operator, *WORDS, "--device", "/dev/ttyUSB0") == 0
    public = bytes.fromhex(json.loads((tmp_path / "pile.registration.json").read_text())["public"])
    shown = capsys.readouterr().out
    assert fingerprint(public) in shown
    assert "you read the fingerprint from THIS screen" in shown


def test_questions_for_what_no_option_gives(operator, tmp_path, monkeypatch, capsys):
    answers = iter(["garage-17", "eastron-sdm630", "63000117", "7000", "2", "/dev/ttyUSB0"])
    asked = io.StringIO()
    asked.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", asked)
    monkeypatch.setattr("builtins.input", lambda _question: next(answers))
    assert provision(tmp_path, "--operator", operator, "--json") == 0
    assert load_config(tmp_path / "pile.toml").meter_serial == "63000117"


def test_without_a_terminal_the_missing_option_is_named(operator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert provision(tmp_path, "--operator", operator, *WORDS[2:]) == 2
    assert "--pile is missing" in capsys.readouterr().err


def test_for_a_board_no_key_is_made_here(operator, tmp_path, capsys):
    assert provision(tmp_path, "--operator", operator, *WORDS, "--pins", "17,16,4", "--board") == 0
    assert "next: pile-edge flash" in capsys.readouterr().out
    assert not (tmp_path / "pile.key").exists()
    bus = tomllib.loads((tmp_path / "pile.toml").read_text())["bus"]
    assert (bus["device"], bus["tx_pin"], bus["rx_pin"], bus["de_pin"]) == ("uart:1", 17, 16, 4)
    assert compile_config(tmp_path / "pile.toml", tmp_path / "pile.cbor") > 0


def test_a_wrong_answer_leaves_no_half_made_file(operator, tmp_path, capsys):
    words = [*WORDS[:2], "--profile", "no-such-meter", *WORDS[4:]]
    assert provision(tmp_path, "--operator", operator, *words, "--device", "/dev/ttyUSB0") == 2
    assert "no-such-meter" in capsys.readouterr().err
    assert not (tmp_path / "pile.toml").exists()
