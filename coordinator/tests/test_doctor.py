"""The doctor finds a site well that is well, and names each thing that is broken, with what to do. Real broker and processes."""

import json
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import contextmanager

import pytest

from pile_coordinator.cli import main
from pile_coordinator.doctor import chain, machine
from pile_coordinator.doctor.doctor_cli import CHECKS
from pile_coordinator.keeping.mirror import begin_mirror
from pile_coordinator.keys import make_key
from pile_coordinator.site.authority import Authority
from pile_coordinator.web.tokens import Tokens
from pile_hil.broker import Mosquitto, find_mosquitto, free_port
from pile_hil.requirements import require
from pile_hil.site import Site, wait_for

LIMITS = ("message_size_limit 4000000", "max_queued_messages 100000")
NOT_HERE = ["clock", "services", "logs"]  # of the machine that runs the tests, whatever it is


class Examined:
    """A site, and what the doctor finds there."""

    def __init__(self, site, capsys):
        self.site, self.folder, self._capsys = site, site.folder, capsys

    def findings(self, *words):
        skipped = [word for name in NOT_HERE for word in ("--skip", name)]
        if "--only" in words:
            skipped = []
        config = str(self.folder / "coordinator.toml")
        self.status = main(["doctor", "--config", config, "--json", *skipped, *words])
        found = [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]
        return [f for f in found if f["check"] != "configuration"] if "--only" in words else found

    def one(self, check, state, says):
        """The one finding of a check in this state; it says what is expected, and what to do unless all is well."""
        found = [f for f in self.findings("--only", check) if (f["check"], f["state"]) == (check, state)]
        assert len(found) == 1, found
        assert says in found[0]["says"], found
        assert bool(found[0]["do"]) == (state in {"warn", "fail"})
        assert self.status == (1 if state == "fail" else 0)
        return found[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    require(find_mosquitto() is not None, "mosquitto is missing: apt install mosquitto")
    port, folder = free_port(), tmp_path_factory.mktemp("doctor") / "site"
    broker = Mosquitto(folder / "broker", port=port, persistence=True, extra_config=LIMITS)
    with broker, Site(folder, [], rate=1, port=port) as site:
        coordinator = site.start_coordinator()
        wait_for((site.data / "evidence.sqlite").exists, 60, "the evidence", coordinator)
        site.start_web("operator", "operator")
        site.admit({"olga": ("pile-owner", 1_000_000)})
        yield site


@pytest.fixture
def site(running, capsys):
    return Examined(running, capsys)


@contextmanager
def changed(path, text):
    """A file with another content, for a while."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def test_a_site_that_is_well(site, capsys):
    found = site.findings("--backups", str(backup(site, 60)))
    assert [f for f in found if f["state"] == "fail"] == []
    assert site.status == 0
    assert {f["check"] for f in found} == {"configuration", *CHECKS} - set(NOT_HERE)
    by_check = {f["check"]: f for f in found}
    assert str(site.site.processes["coordinator"].pid) in by_check["running"]["says"]
    assert "block 2, certified" in by_check["ledger"]["says"]
    assert "2 of 2 blocks" in by_check["evidence"]["says"]
    assert by_check["access"]["state"] == "warn"  # no access list, but on this machine only
    table = ["doctor", "--config", str(site.folder / "coordinator.toml"), "--only", "chain", "--only", "access"]
    assert main(table) == 0
    shown = capsys.readouterr().out
    assert "3 accounting nodes" in shown
    assert "-> acl_file" in shown
    assert shown.splitlines()[-1] == "2 ok, 2 warnings, 0 failed"


def backup(site, age_s):
    path = site.folder / "kept" / "one" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - age_s,) * 2)
    return path.parents[1]


def test_wrong_calls_and_unreadable_files(site, capsys, tmp_path):
    assert main(["doctor", "--config", str(tmp_path / "none.toml")]) == 2
    with changed(site.folder / "coordinator.toml", "genesis = 1\n"):
        (found,) = site.findings()
        assert (found["check"], found["state"], site.status) == ("configuration", "fail", 1)
        assert "expected the path of a genesis file" in found["says"]


def test_keys(site, tmp_path):
    key = site.site.key_file("coordinator")
    key.chmod(0o644)
    site.one("keys", "fail", "can be read by others")
    key.chmod(0o600)
    make_key(tmp_path / "other.key")
    with changed(key, (tmp_path / "other.key").read_bytes()):
        site.one("keys", "fail", "is not the key of coordinator in the genesis")
    key.parent.chmod(0o777)
    site.one("keys", "fail", "can be written by others")
    key.parent.chmod(0o755)
    site.one("keys", "ok", "4 keys")


def test_accounting_nodes(site):
    config = site.folder / "coordinator.toml"
    lines = config.read_text().splitlines()
    with changed(config, "\n".join(line for line in lines if not line.startswith("grid"))):
        site.one("chain", "fail", "power 2 of 3 sign here")


def test_a_damaged_ledger_and_evidence(site, tmp_path):
    """In a copy of the folder, whose coordinator does not run."""
    copy = tmp_path / "copy"
    shutil.copytree(site.folder, copy, ignore=shutil.ignore_patterns("kept"))
    copied = Examined(site.site, site._capsys)
    copied.folder = copy
    copied.one("running", "fail", "does not run")
    with sqlite3.connect(copy / "coordinator" / "evidence.sqlite") as db:
        db.execute("UPDATE mark SET height = height - 200")
    copied.one("evidence", "fail", "200 blocks behind")
    with sqlite3.connect(copy / "coordinator" / "ledger.sqlite") as db:
        db.execute("UPDATE block SET header = (SELECT header FROM block WHERE height = 1) WHERE height = 2")
    copied.one("ledger", "fail", "does not follow block 1")
    with sqlite3.connect(copy / "coordinator" / "ledger.sqlite") as db:
        db.execute("UPDATE meta SET value = x'00' WHERE key = 'genesis'")
    copied.one("ledger", "fail", "another genesis")


def test_the_broker_is_away_or_talks_to_strangers(site):
    config = site.folder / "coordinator.toml"
    with changed(config, config.read_text().replace(f"port = {site.site.port}", "port = 1")):
        site.one("broker", "fail", "127.0.0.1:1")
    conf = site.folder / "broker" / "mosquitto.conf"
    with changed(conf, conf.read_text().replace("message_size_limit 4000000", "").replace("persistence true", "")):
        found = site.findings("--only", "settings")
        assert [f["state"] for f in found] == ["fail", "fail"]
        assert "message_size_limit is not set" in found[0]["says"]
    with changed(conf, conf.read_text().replace(f"listener {site.site.port} 127.0.0.1", "listener 1 127.0.0.1")):
        found = site.findings("--only", "listening")
        assert [f["says"] for f in found if f["state"] == "fail"] == ["the broker does not listen on port 1"]
    with changed(
        conf, conf.read_text().replace(f"listener {site.site.port} 127.0.0.1", f"listener {site.site.port} 10.1.2.3")
    ):
        found = site.findings("--only", "listening")
        assert [f["state"] for f in found] == ["ok", "fail"]
        assert "configured is 10.1.2.3" in found[1]["says"]


def test_the_access_list_is_asked_for(site, tmp_path):
    """The same probe says ok where the broker refuses: a real one, with a list, a password and nobody else let in."""
    folder = tmp_path / "strict"
    folder.mkdir()
    passwords = ["mosquitto_passwd", "-b", "-c", str(folder / "passwords"), "coordinator", "secret"]
    subprocess.run(passwords, check=True, capture_output=True)
    chain_id = site.site.genesis.chain_id
    (folder / "acl").write_text(f"user coordinator\ntopic read #\ntopic write pilechain/1/{chain_id}/+/receipt\n")
    lines = ("allow_anonymous false", f"acl_file {folder}/acl", f"password_file {folder}/passwords")
    config = site.folder / "coordinator.toml"
    with Mosquitto(folder, extra_config=lines) as strict:
        named = f'port = {strict.port}\nusername = "coordinator"\npassword = "secret"'
        with changed(config, config.read_text().replace(f"port = {site.site.port}", named)):
            found = site.findings("--only", "access")
            assert [f["state"] for f in found] == ["ok", "ok"], found
            assert "stays outside" in found[1]["says"]


def test_certificates_and_what_is_revoked(site, tmp_path):
    authority = Authority.make(site.folder / "authority", "test")
    try:
        authority.issue_client("pile-1", days=400).write(site.folder / "piles" / "pile-1", "pile")
        assert "the first to end is pile-1" in site.one("certificates", "ok", "certificates")["says"]
        authority.issue_client("pile-2", days=10)
        site.one("certificates", "warn", "pile-2")
        authority.revoke("pile-2")
        site.one("certificates", "ok", "pile-1")
        conf = site.folder / "broker" / "mosquitto.conf"
        tls = f"{conf.read_text()}\ncafile {authority.folder}/ca.crt\n"
        with changed(conf, tls):
            site.one("revoked", "fail", "reads no list")
        with changed(conf, f"{tls}crlfile {authority.crl}\n"):
            site.one("revoked", "ok", "1 revoked")
        other = Authority.make(tmp_path / "other", "other")
        with changed(conf, f"{tls}crlfile {other.crl}\n"):
            site.one("revoked", "fail", "is not of the authority")
        with changed(site.folder / "piles" / "pile-1" / "pile.crt", "nonsense"):
            site.one("certificates", "fail", "pile.crt")
    finally:
        shutil.rmtree(authority.folder)
        shutil.rmtree(site.folder / "piles")


def test_tokens_and_backups(site, tmp_path):
    web = site.folder / "web.toml"
    tokens = Tokens(tmp_path / "tokens.sqlite", read_only=False)
    try:
        with changed(web, web.read_text().replace("web-tokens.sqlite", str(tmp_path / "tokens.sqlite"))):
            site.one("tokens", "warn", "no token is good")
            now_ms = time.time_ns() // 1_000_000
            tokens.add("olga", "pile-owner", now_ms=now_ms, days=3)
            site.one("tokens", "warn", "1 of 1 tokens end within 14 days: olga")
    finally:
        tokens.close()
    for age_s, state in ((3600, "ok"), (86_400, "warn"), (3 * 86_400, "fail")):
        found = site.findings("--only", "backups", "--backups", str(backup(site, age_s)))
        assert [f["state"] for f in found] == [state]
    assert [f["state"] for f in site.findings("--only", "backups", "--backups", str(tmp_path / "none"))] == ["fail"]


def test_a_mirror(site, tmp_path, capsys):
    """None, one that is as far as the ledger, one that is not mounted, and one that lags."""
    site.one("mirror", "warn", "no mirror")
    config = site.folder / "coordinator.toml"
    folder = tmp_path / "mirror"
    with changed(config, config.read_text() + f'\n[mirror]\npath = "{folder}"\n'):
        site.one("mirror", "fail", "holds no mirror")
        folder.mkdir()
        assert main(["mirror", "begin", "--config", str(config)]) == 0
        capsys.readouterr()
        site.one("mirror", "ok", "the mirror is at block 2")
        shutil.rmtree(folder)
        folder.mkdir()
        begin_mirror(folder, site.site.genesis.hash(), 0, bytes(32))
        site.one("mirror", "fail", "the mirror is at block 0, the ledger at 2")


def test_room_and_speed(site, monkeypatch):
    """What a disk lacks is told the doctor, as no disk here lacks it."""
    usage = shutil.disk_usage(site.folder)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    site.one("data", "fail", "1 MiB left")
    monkeypatch.undo()
    monkeypatch.setattr(chain, "MIN_AGE_MS", 0)
    monkeypatch.setattr(chain.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    site.one("space", "warn", "a day, room for")
    monkeypatch.undo()
    assert not list(site.site.data.glob("doctor-*"))


def test_the_clock_says_what_the_kernel_says(site):
    (found,) = site.findings("--only", "clock")
    assert found["state"] in {"ok", "warn", "fail"}
    assert ("synchronised" in found["says"]) or ("off by" in found["says"])
