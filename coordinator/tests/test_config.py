"""A broken configuration names the file, the key and the expected form; keys are files that nobody else can read."""

import json

import pytest

from pile_coordinator.cli import main
from pile_coordinator.config import load_config, load_genesis
from pile_coordinator.keys import load_key, make_key
from pile_hil.broker import free_port
from pile_hil.site import Site
from pile_shared.errors import ConfigError


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site", [], rate=1, port=1883)


def test_a_good_configuration_loads(site):
    config = load_config(site.write_coordinator())
    assert config.party == "coordinator"
    assert config.broker.port == 1883
    assert set(config.attestation) == {"auditor", "grid", "operator"}


@pytest.mark.parametrize(
    ("old", "new", "key", "form"),
    [
        ("port = 1883", 'port = "x"', "mqtt.port", "a port from 1 to 65535"),
        ("port = 1883", "port = 70000", "mqtt.port", "a port from 1 to 65535"),
        ("block_interval_ms = 100", "block_interval_ms = 1", "block_interval_ms", "milliseconds from 10 to 60000"),
        ("block_interval_ms = 100", "block_interval_ms = true", "block_interval_ms", "milliseconds from 10 to 60000"),
        ('party = "coordinator"', 'party = "Coordinator!"', "party", "the id of a party"),
        ('data = "coordinator"', "", "data", "the path of a folder"),
        ("rate = 1", "rate = 0", "clock.rate", "1, or on a rig up to 3600"),
        ("rate = 1", "speed = 1", "clock.speed", "unknown key"),
        ('grid = "keys/grid-attest.key"', "grid = 3", "attestation.grid", "the path of a key file"),
        ("[mqtt]", "[broker]", "mqtt", "missing"),
        ("[mqtt]", "[mqtt", "", "not TOML"),
    ],
)
def test_a_broken_configuration_says_where_and_what(site, old, new, key, form, capsys):
    path = site.write_coordinator()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for part in (str(path), key, form):
        assert part in str(caught.value)
    assert main(["run", "--config", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda g: g.pop("name"), "name"),
        (lambda g: g["params"].pop("fee_micro"), "fee_micro"),
        (lambda g: g["params"].update(surprise=1), "surprise"),
        (lambda g: g["params"].update(crr_numerator=0), "crr_numerator"),
        (lambda g: g["validators"][0].update(public="zz"), "hex"),
        (lambda g: g["validators"].reverse(), "order of party"),
        (lambda g: g["parties"][0].update(role="king"), "role"),
    ],
)
def test_a_broken_genesis_says_where_and_what(site, change, part):
    path = site.folder / "genesis.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        load_genesis(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_keys_are_private_and_never_overwritten(tmp_path):
    path = tmp_path / "dan.key"
    signer = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).public == signer.public
    with pytest.raises(ConfigError, match="exists"):
        make_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(ConfigError, match="64 hex digits"):
        load_key(path)
    with pytest.raises(ConfigError, match="wallet --key"):
        load_key(tmp_path / "missing.key")
    assert [file.name for file in tmp_path.iterdir()] == ["dan.key"]


def test_the_wallet_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_key(tmp_path / "dan.key")
    for words, missing in (
        ([], "--key FILE"),
        (["--key", "dan.key"], "genesis.json"),
        (["--key", "dan.key", "--broker", "nowhere"], "--broker"),
    ):
        assert main(["wallet", *words, "account"]) == 2
        assert missing in capsys.readouterr().err


def test_a_key_file_whose_name_is_no_party_needs_one(site, capsys):
    path = site.key_file("grid").with_name("Grid?.key")
    path.symlink_to(site.key_file("grid"))
    words = ["--key", str(path), "--genesis", str(site.folder / "genesis.json")]
    assert main(["wallet", *words, "account"]) == 2
    assert "--party" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["run"], ["wallet"], ["verify"], ["frobnicate"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_nobody_listening_says_what_to_do(site, capsys):
    command = ["wallet", "--key", str(site.key_file("grid")), "--party", "grid"]
    command += [
        "--genesis",
        str(site.folder / "genesis.json"),
        "--broker",
        f"127.0.0.1:{free_port()}",
        "--timeout",
        "1",
    ]
    assert main([*command, "account"]) == 1
    assert "broker" in capsys.readouterr().err
