"""What `pilechain site` says: who has a certificate and for how long, what cannot be done and why; with the authority elsewhere too."""

import json

import pytest

from pile_coordinator.cli import main as pilechain
from pile_coordinator.site.access import KINDS, Name, access_list, name_of, parse_name
from pile_coordinator.site.broker import PID_FILE
from pile_coordinator.site.folder import SiteFolder
from pile_shared.errors import ConfigError


@pytest.fixture
def site(tmp_path, capsys):
    """A site whose authority is on a stick; no broker runs."""
    words = ["--pile", "garage-17", "--user", "dan", "--authority", str(tmp_path / "stick")]
    assert pilechain(["init", "site", str(tmp_path / "north"), "--name", "north", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chain"].startswith("north-")
    return tmp_path / "north"


def call(site, capsys, *words: str, status: int = 0):
    """What a command prints, as JSON if it was asked for; its complaint if it is to fail."""
    assert pilechain(["site", *words, "--site", str(site)]) == status, capsys.readouterr().err
    out, err = capsys.readouterr()
    return err if status else json.loads(out) if "--json" in words else out


def states(site, capsys, *words: str) -> dict[str, str]:
    return {row["name"]: row["state"] for row in call(site, capsys, "list", *words, "--json")}


def test_a_new_site_has_who_begins(site, capsys):
    rows = call(site, capsys, "list", "--json")
    assert {(row["kind"], row["name"]) for row in rows} == {
        ("broker", "localhost"),
        ("coordinator", "coordinator:main"),
        ("guest", "guest:all"),
        ("pile", "garage-17"),
        *(("user", f"user:{party}") for party in ("auditor", "dan", "grid", "operator")),
    }
    assert {(row["state"], row["days_left"]) for row in rows} == {("good", 824)}
    assert not (site / "authority").exists()


def test_what_ends_within_thirty_days_is_said_with_what_to_do(site, capsys):
    call(site, capsys, "fleet", "add", "office", "--days", "29")
    call(site, capsys, "worker", "add", "1", "--days", "31")
    told = call(site, capsys, "list")
    assert "fleet:office ends in 28 days: pilechain site fleet renew office" in told
    assert "worker:1 ends in" not in told
    call(site, capsys, "fleet", "renew", "office")
    assert "none of these ends within 30 days" in call(site, capsys, "fleet", "list")
    assert states(site, capsys)["fleet:office"] == "good"
    assert sorted(row["state"] for row in call(site, capsys, "fleet", "list", "--all", "--json")) == [
        "ends soon",
        "good",
    ]


def test_one_name_has_one_folder_and_is_added_once(site, capsys):
    assert "renew it" in call(site, capsys, "pile", "add", "garage-17", status=1)
    assert "`add` makes one" in call(site, capsys, "pile", "renew", "garage-18", status=1)
    assert "no certificate of garage-18" in call(site, capsys, "pile", "revoke", "garage-18", status=1)
    before = (site / "piles/garage-17/tls.crt").read_bytes()
    call(site, capsys, "pile", "renew", "garage-17")
    assert (site / "piles/garage-17/tls.crt").read_bytes() != before


def test_several_are_added_at_once_or_none(site, capsys):
    assert "garage-17 has a certificate" in call(site, capsys, "pile", "add", "garage-18", "garage-17", status=1)
    assert "garage-18" not in states(site, capsys)
    assert pilechain(["site", "pile", "add", "garage-18", "garage-19", "garage-18", "--json", "--site", str(site)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["garage-18", "garage-19"]
    assert all((site / f"piles/{row['name']}/tls.key").exists() for row in rows)


def test_a_renewed_certificate_of_guests_comes_to_every_wallet(site, capsys):
    call(site, capsys, "guest", "renew")
    ours = (site / "guests/all/guest.key").read_bytes()
    assert all((site / f"users/{party}/guest.key").read_bytes() == ours for party in ("dan", "grid", "operator"))


def test_revoking_ends_all_certificates_of_a_name_and_its_rights(site, capsys):
    call(site, capsys, "user", "renew", "dan")
    told = call(site, capsys, "user", "revoke", "dan", "--json")
    assert (len(told["revoked"]), told["broker"], told["ended"]) == (2, False, False)
    assert states(site, capsys)["user:dan"].startswith("revoked")
    assert "user user:dan\ntopic deny #\n" in (site / "broker/acl").read_text()
    call(site, capsys, "user", "add", "dan")  # no broker was started since
    text = (site / "broker/acl").read_text()
    assert "user user:dan\ntopic write" in text
    assert "deny" not in text


def test_while_a_broker_from_before_may_run_a_revoked_name_waits(site, capsys):
    """Its file with the process id is all that says so, where it runs in a container."""
    (site / "broker" / PID_FILE).write_text("1\n")
    told = call(site, capsys, "user", "revoke", "dan")
    assert "has to be told" in told
    assert "start the broker again" in call(site, capsys, "user", "add", "dan", status=1)


def test_without_its_authority_a_site_is_only_looked_after(site, tmp_path, capsys):
    moved = tmp_path / "drawer"
    (tmp_path / "stick").rename(moved)
    for words in (("list",), ("pile", "add", "garage-18"), ("pile", "revoke", "garage-17"), ("apply",)):
        assert "--authority FOLDER" in call(site, capsys, *words, status=1)
    call(site, capsys, "pile", "add", "garage-18", "--authority", str(moved))
    assert "garage-18" in states(site, capsys, "--authority", str(moved))
    assert SiteFolder.open(site, moved).apply().done is False


@pytest.mark.parametrize("identity", ["", "party", "Garage", "a:b", "a/b", "a+b", "#", "x" * 33])
def test_what_could_be_mistaken_for_something_else_is_no_name_of_a_pile(identity):
    with pytest.raises(ConfigError):
        name_of("pile", identity)
    assert parse_name(identity) is None


def test_names_are_read_as_they_are_written():
    for kind in KINDS:
        name = name_of(kind, "all" if kind == "guest" else "one")
        assert parse_name(str(name)) == name
    assert str(Name("pile", "one")) == "one"
    assert parse_name("site:commands") is None
    assert parse_name("guest:eva") is None
    with pytest.raises(ConfigError, match="share one certificate"):
        name_of("guest", "eva")


def test_a_pile_costs_the_access_list_nothing():
    """A million piles, and it is as long as before."""
    piles = [Name("pile", f"pile-{i}") for i in range(3)]
    assert access_list("north", piles, []) == access_list("north", [], [])
