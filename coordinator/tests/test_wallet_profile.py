"""What a wallet is told by its profile, and what by options; and that a certificate with a name in it pays nothing anonymously."""

import json
import re
from pathlib import Path

import pytest

from pile_coordinator.cli import _parser
from pile_coordinator.cli import main as pilechain
from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.wallet_cli.profile import load_profile, settle
from pile_hil.site import Site
from pile_shared.errors import ConfigError

PAGE = Path(__file__).parents[2] / "docs/wallet.md"
CA_ONLY = '[mqtt]\nhost = "broker.example"\ntls = { ca = "ca.crt" }\n'


@pytest.fixture
def profile(tmp_path, monkeypatch) -> Path:
    """The guide's, where the wallet is called."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wallet.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    return path


def settled(*words: str):
    options = _parser(["wallet"]).parse_args(["wallet", *words, "account"])
    return options, *settle(options)


def test_a_profile_says_what_else_one_would_have_to(profile):
    here = profile.parent
    options, broker, guests = settled()
    assert (options.key, options.party, options.genesis) == (here / "dan.key", "dan", here / "genesis.json")
    assert broker == Broker("broker.example", 8883, tls=Tls(here / "ca.crt", here / "user.crt", here / "user.key"))
    assert guests == Broker("broker.example", 8883, tls=Tls(here / "ca.crt", here / "guest.crt", here / "guest.key"))


def test_options_outweigh_it(profile):
    options, broker, guests = settled(
        *("--key", "eva.key", "--party", "eva", "--genesis", "g.json", "--broker", "other:1", "--broker-ca", "c"),
        *("--broker-cert", "e.crt", "--broker-key", "e.key", "--guest-cert", "g.crt", "--guest-key", "g.key"),
    )
    assert (str(options.key), options.party, str(options.genesis)) == ("eva.key", "eva", "g.json")
    assert broker == Broker("other", 1, tls=Tls(Path("c"), Path("e.crt"), Path("e.key")))
    assert guests == Broker("other", 1, tls=Tls(Path("c"), Path("g.crt"), Path("g.key")))


def test_without_one_all_is_as_ever(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, broker, guests = settled("--key", "dan.key")
    assert (str(options.genesis), options.party) == ("genesis.json", None)
    assert broker == guests == Broker("127.0.0.1", 1883)


def test_guests_show_no_certificate_with_a_name_and_no_password(profile):
    text = profile.read_text()
    profile.write_text(text[: text.index("[guest]")])
    assert settled()[2] is None
    profile.write_text(CA_ONLY.replace("tls", 'username = "dan"\npassword = "secret"\ntls'))
    assert settled()[2] == Broker("broker.example", 1883, tls=Tls(profile.parent / "ca.crt"))


def test_who_would_be_named_is_told_so_instead(tmp_path, monkeypatch, capsys):
    """Before anything is sent."""
    site = Site(tmp_path, [], rate=1, port=1883)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wallet.toml").write_text(
        'party = "grid"\nkey = "keys/grid.key"\n' + CA_ONLY.replace("}", ', cert = "user.crt", key = "user.key" }')
    )
    words = "quote --zone north --energy 5000 --start 2026-11-23T08:30 --end 2026-11-23T10:00 --anonymous --json"
    assert site.genesis is not None
    assert pilechain(["wallet", *words.split(" ")]) == 2
    assert "your certificate tells the broker who you are" in json.loads(capsys.readouterr().out)["message"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--broker-cert", "c"], "--broker-cert and --broker-key go together"),
        (["--broker-cert", "c", "--broker-key", "k"], "--broker-cert needs --broker-ca"),
        (["--guest-cert", "c"], "--guest-cert and --guest-key go together"),
        (["--broker", "nowhere"], "HOST:PORT"),
        (["--profile", "none.toml"], "none.toml"),
    ],
)
def test_options_that_say_too_little_are_refused(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told):
        settled(*words)


def test_a_profile_with_a_mistake_names_it(tmp_path):
    for text, told in (
        ("keys = 1", "unknown key keys"),
        ("[mqtt]\nport = 1", "mqtt.host is missing"),
        ('[guest]\ncert = "x"', "guest.key is missing"),
    ):
        (tmp_path / "p.toml").write_text(text)
        with pytest.raises(ConfigError, match=told):
            load_profile(tmp_path / "p.toml")
