"""Backups under load are whole; what comes back is what was acknowledged, or says what is lost; and no height is signed twice."""

import json
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from commit_loop import deposit
from world import NOW, genesis, key

from pile_coordinator.cli import main
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.store import Store, StoreError
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.keeping import backup as backup_module
from pile_coordinator.keeping import mirror as mirror_module
from pile_coordinator.keeping.backup import backups, copy_database, read_manifest
from pile_coordinator.keeping.mirror import begin_mirror, segments
from pile_coordinator.keeping.mirroring import Mirroring
from pile_coordinator.records import RecordDesk
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.stops import KeptStops
from pile_shared.errors import ConfigError

GENESIS = genesis()
HASH = GENESIS.hash()
NODES = ("auditor", "grid", "operator")


class Place:
    """A coordinator's folder, as an operator has it; its engine, as its process has it."""

    def __init__(self, folder: Path, *, mirrored: bool = True) -> None:
        self.folder, self.data, self.mirror = folder, folder / "data", folder / "mirror"
        self.data.mkdir(parents=True)
        self.mirror.mkdir()
        (folder / "keys").mkdir()
        for name in ("operator", *(f"{node}-attest" for node in NODES)):
            path = folder / "keys" / f"{name}.key"
            path.write_text("11" * 32 + "\n")  # what is signed here, is signed with keys of the test world
            path.chmod(0o600)
        (folder / "genesis.json").write_text(json.dumps(GENESIS.to_json()))
        self.config = folder / "coordinator.toml"
        nodes = "\n".join(f'{node} = "keys/{node}-attest.key"' for node in NODES)
        text = f'genesis = "genesis.json"\ndata = "data"\nparty = "operator"\nkey = "keys/operator.key"\n[attestation]\n{nodes}\n'
        text += '[mqtt]\nhost = "127.0.0.1"\n'
        self.config.write_text(text + ('[mirror]\npath = "mirror"\n' if mirrored else ""))
        self.mirrored = mirrored
        if mirrored:
            begin_mirror(self.mirror, HASH, 0, bytes(32))

    def open(self, data: Path | None = None, mirror: Path | None = None) -> SoloEngine:
        signers = {node: key(f"{node}/attest") for node in NODES}
        where = mirror or (self.mirror if self.mirrored else None)
        copier = None if where is None else Mirroring(where, GENESIS, print)
        solo = SoloEngine((data or self.data) / "ledger.sqlite", GENESIS, signers, mirror=copier)
        KeptStops((data or self.data) / "stops.sqlite", solo.state).close()
        RecordDesk((data or self.data) / "records.sqlite", GENESIS.chain_id, lambda: 0).close()
        return solo

    def backup(self, *words: str) -> Path:
        to = self.folder / "backups"
        before = {path for path, _ in backups(to)}
        assert main(["backup", "--config", str(self.config), "--to", str(to), "--json", *words]) == 0
        (made,) = {path for path, _ in backups(to)} - before
        return made

    def restore(self, source: Path, to: str, *words: str) -> tuple[int, Path]:
        status = main(["restore", "--from", str(source), "--to", str(self.folder / to), "--json", *words])
        return status, self.folder / to


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "site")


def make(solo: SoloEngine, blocks: int) -> list[Block]:
    made = []
    for _ in range(blocks):
        solo.submit(deposit(solo, solo.height))
        made.append(solo.make_block(NOW + solo.height))
    return made


def headers(solo: SoloEngine) -> list[bytes]:
    return [solo.block(height).header.hash() for height in range(1, solo.height + 1)]


def told(capsys) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)


# --- backups -------------------------------------------------------------------------------------------------------------


def test_a_copy_is_of_one_moment_whatever_is_written_meanwhile(place, monkeypatch):
    monkeypatch.setattr(backup_module, "PAGES_AT_ONCE", 1)  # a block between any two pages
    solo = place.open()
    make(solo, 10)
    solo.close()
    solo, steps = place.open(), []

    def write(_what, done, of):
        if len(steps) < 20:
            make(solo, 1)
        steps.append((done, of))

    target = place.folder / "copy.sqlite"
    copy_database(place.data / "ledger.sqlite", target, write)
    assert len(steps) >= 5
    assert steps[-1][0] == steps[-1][1]
    assert solo.height == 10 + min(len(steps), 20)
    store = open_ledger(target, GENESIS)
    assert audit(store, GENESIS).height == 10
    store.close()
    solo.close()


def test_backups_under_load_are_whole_and_kept_in_number(place, capsys):
    done = threading.Event()

    def work() -> None:
        solo = place.open()
        ready.set()
        while not done.is_set():
            make(solo, 1)
        solo.close()

    ready = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(30)
        made = [place.backup("--keep", "2") for _ in range(3)]
    finally:
        done.set()
        thread.join()
    capsys.readouterr()
    kept = backups(place.folder / "backups")
    assert [path for path, _ in kept] == made[1:]
    for path, manifest in kept:
        store = open_ledger(path / "data/ledger.sqlite", GENESIS)
        assert audit(store, GENESIS).height == manifest.height
        store.close()
        names = {
            "data/ledger.sqlite",
            "data/records.sqlite",
            "data/stops.sqlite",
            "config/coordinator.toml",
            "config/genesis.json",
        }
        assert set(manifest.files) == names
        for file in (path, *path.rglob("*")):
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    assert sorted(path.name for path in (place.folder / "backups").iterdir()) == [
        *[p.name for p in made[1:]],
        "backup.lock",
    ]


def test_keys_evidence_and_other_files_come_when_asked_for(place, tmp_path, capsys):
    solo = place.open()
    make(solo, 2)
    solo.close()
    exporter = Exporter(place.data / "evidence.sqlite")
    exporter.close()
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/ca.pem").write_text("certificate")
    made = place.backup("--with-keys", "--with-evidence", "--also", str(tmp_path / "ca"))
    assert told(capsys)["keys"] is True
    names = set(read_manifest(made).files)
    assert names >= {"keys/operator.key", "keys/grid-attest.key", "data/evidence.sqlite", "also/ca/ca.pem"}
    assert (
        main(["backup", "--config", str(place.config), "--to", str(tmp_path / "b"), "--also", str(tmp_path / "no")])
        == 2
    )
    assert not list((tmp_path / "b").glob("*")) or [p.name for p in (tmp_path / "b").glob("*")] == ["backup.lock"]


def test_a_spoilt_backup_is_not_restored_and_nothing_is_left(place, capsys):
    solo = place.open()
    make(solo, 3)
    solo.close()
    made = place.backup()
    (made / "data/ledger.sqlite").chmod(0o600)
    for name in ("data/ledger.sqlite", "data/stops.sqlite", "config/genesis.json", "manifest.json"):
        path, before = made / name, (made / name).read_bytes()
        spoilt = bytearray(before)
        spoilt[len(spoilt) // 2] ^= 0x40
        for data in (bytes(spoilt), before[:-1] if name != "manifest.json" else b"{}", None):
            path.unlink() if data is None else path.write_bytes(data)
            status, to = place.restore(made, "new", "--mirror", str(place.mirror))
            assert status == 1, (name, data is None)
            assert not to.exists()
            assert not to.with_name("new.partial").exists()
            path.write_bytes(before)
    assert place.restore(made, "new", "--mirror", str(place.mirror))[0] == 0
    status, _ = place.restore(made, "new", "--mirror", str(place.mirror))
    assert status == 2
    assert "look before you delete" in capsys.readouterr().err


def test_a_network_nodes_backup_is_not_made_a_solo_coordinators(place, capsys):
    """Its blocks come from the other nodes; CometBFT's last vote is in no backup, and must not be set back."""
    solo = place.open()
    make(solo, 1)
    solo.close()
    manifest = place.backup() / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"engine": "solo"', '"engine": "comet"'))
    assert place.restore(manifest.parent, "new")[0] == 2
    assert "gets its blocks from the others" in capsys.readouterr().err


def test_an_aborted_backup_leaves_nothing_that_counts(place, monkeypatch, capsys):
    solo = place.open()
    make(solo, 1)
    solo.close()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup_module, "write_whole", full)
        assert main(["backup", "--config", str(place.config), "--to", str(place.folder / "backups")]) == 1
    assert "No space left" in capsys.readouterr().err
    left = place.folder / "backups/.partial-1"  # of one that was killed
    left.mkdir()
    place.backup()
    assert not left.exists()


# --- coming back ---------------------------------------------------------------------------------------------------------


def test_backup_and_mirror_bring_back_every_block(place, capsys):
    solo = place.open()
    make(solo, 3)
    made = place.backup()
    make(solo, 4)
    before = headers(solo)
    solo.close()
    shutil.rmtree(place.data)
    capsys.readouterr()
    status, data = place.restore(made, "new", "--mirror", str(place.mirror))
    assert status == 0
    assert told(capsys) == {
        "data": str(data), "backup_height": 3, "from_mirror": 4, "height": 7, "is_whole": True, "passed_over": 0,
    }  # fmt: skip
    solo = place.open(data)
    assert headers(solo) == before
    make(solo, 1)
    solo.close()
    store = open_ledger(data / "ledger.sqlite", GENESIS)
    assert audit(store, GENESIS).height == 8
    store.close()


@pytest.mark.parametrize("height", [0, 3])
def test_without_the_mirror_nobody_goes_on_before_the_loss_is_accepted(place, height, capsys):
    """What was signed behind the backup has been given to piles and drivers: those heights are never signed again."""
    solo = place.open()
    make(solo, height)
    made = place.backup()
    lost = make(solo, 4)
    solo.close()
    shutil.move(place.mirror, place.folder / "lost")
    capsys.readouterr()
    status, data = place.restore(made, "look")
    assert status == 0
    assert told(capsys)["is_whole"] is False
    with pytest.raises(StoreError, match="no height is signed twice"):
        SoloEngine(data / "ledger.sqlite", GENESIS, {node: key(f"{node}/attest") for node in NODES})
    status, data = place.restore(made, "new", "--accept-loss", str(height + 4))
    assert status == 0
    assert told(capsys)["passed_over"] == 4
    place.mirror.mkdir()
    store = Store(data / "ledger.sqlite", HASH)
    last = store.last_header()
    store.close()
    from pile_shared.platform import sha256

    begin_mirror(place.mirror, HASH, height + 4, sha256(last))
    for blocks in (0, 1, 2):  # at once, and after restarts
        solo = place.open(data)
        make(solo, blocks)
        solo.close()
    solo = place.open(data)
    assert solo.height == height + 7
    for block in lost:
        assert not solo.block(block.header.height).certificate.attestations
        assert solo.find_tx(block.results[0].tx_id) is None
    solo.close()
    evidence = Exporter(data / "evidence.sqlite")
    store = open_ledger(data / "ledger.sqlite", GENESIS)
    for number in range(1, height + 8):
        evidence.write(store.block(number))
    evidence.close()
    found = audit(store, GENESIS)
    store.close()
    assert (found.height, found.unsigned, found.uncertified) == (height + 7, 4, 0)


def test_the_loss_of_less_than_is_known_to_be_signed_is_not_accepted(place, capsys):
    solo = place.open()
    make(solo, 2)
    made = place.backup()
    make(solo, 3)
    solo.close()
    words = ("--mirror", str(place.mirror), "--until", "3", "--accept-loss")
    assert place.restore(made, "new", *words, "4")[0] == 2
    assert "block 5 was signed for certain" in capsys.readouterr().err
    assert place.restore(made, "new", *words, "6")[0] == 0
    assert told(capsys)["passed_over"] == 3


def test_a_point_in_time_is_to_look_at(place, capsys):
    solo = place.open()
    make(solo, 2)
    made = place.backup()
    make(solo, 3)  # at NOW + 2, NOW + 3, NOW + 4; the coordinator goes on meanwhile
    capsys.readouterr()
    status, data = place.restore(made, "then", "--mirror", str(place.mirror), "--until", "4")
    assert (status, told(capsys)["height"]) == (0, 4)
    with pytest.raises(StoreError, match="no height is signed twice"):
        SoloEngine(data / "ledger.sqlite", GENESIS, {node: key(f"{node}/attest") for node in NODES})
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp((NOW + 3) / 1000, UTC).isoformat()
    status, data = place.restore(made, "time", "--mirror", str(place.mirror), "--until", moment)
    assert (status, told(capsys)["height"]) == (0, 4)
    assert place.restore(made, "early", "--until", "1")[0] == 2
    assert "take an older backup" in capsys.readouterr().err
    assert place.restore(made, "now", "--mirror", str(place.mirror))[0] == 2  # while it is at work
    assert "in use by process" in capsys.readouterr().err
    solo.close()


def test_a_mirror_that_was_not_required_or_lags_proves_nothing(place, capsys):
    solo = place.open()
    make(solo, 2)
    early = shutil.copytree(place.mirror, place.folder / "early")
    make(solo, 1)
    made = place.backup()
    solo.close()
    capsys.readouterr()
    assert place.restore(made, "a", "--mirror", str(early))[0] == 0
    assert told(capsys)["is_whole"] is False
    mirror = mirror_module.Mirror(place.mirror, HASH)
    mirror.say_whole(is_whole=False)
    mirror.close()
    assert place.restore(made, "b", "--mirror", str(place.mirror))[0] == 0
    assert told(capsys)["is_whole"] is False


def test_a_ledger_to_look_at_goes_on_once_the_mirror_has_brought_it_forward(place, capsys):
    solo = place.open()
    make(solo, 2)
    made = place.backup()
    make(solo, 2)
    before = headers(solo)
    solo.close()
    for name, source in (("new", made), ("newest", place.backup())):  # behind it, and as far
        _, data = place.restore(source, name)
        solo = place.open(data)
        assert headers(solo) == before
        solo.close()


def test_the_mirror_is_pruned_behind_the_oldest_backup_that_is_kept(place, monkeypatch, capsys):
    monkeypatch.setattr(mirror_module, "SEGMENT_BYTES", 600)
    solo = place.open()
    for _ in range(4):
        make(solo, 4)
        made = place.backup("--keep", "2", "--prune-mirror")
    make(solo, 2)
    solo.close()
    oldest = backups(place.folder / "backups")[0]
    assert 1 < segments(place.mirror, HASH)[0].first <= oldest[1].height + 1
    capsys.readouterr()
    for source, name in ((oldest[0], "a"), (made, "b")):
        status, _ = place.restore(source, name, "--mirror", str(place.mirror))
        assert status == 0
        assert (told(capsys)["height"]) == 18


# --- the commands --------------------------------------------------------------------------------------------------------


def test_a_mirror_is_begun_and_shown_by_command(tmp_path, capsys):
    place = Place(tmp_path / "site")
    shutil.rmtree(place.mirror)
    place.mirrored = False
    solo = place.open()
    make(solo, 2)
    solo.close()
    words = ["--config", str(place.config), "--json"]
    assert main(["mirror", "begin", *words]) == 1
    place.mirror.mkdir()
    assert main(["mirror", "begin", *words]) == 0
    assert told(capsys)["first"] == 3
    place.mirrored = True
    solo = place.open()
    make(solo, 2)
    solo.close()
    assert main(["mirror", "show", *words]) == 0
    assert told(capsys) == {"first": 3, "height": 4, "time_ms": NOW + 3, "is_whole": True}


def test_an_upgrade_is_looked_at_before(place, capsys):
    def check(*words: str) -> tuple[int, dict[str, dict[str, object]]]:
        status = main(["upgrade", "check", "--config", str(place.config), "--json", *words])
        return status, json.loads(capsys.readouterr().out)

    assert check()[0] == 0  # nothing there yet
    solo = place.open()
    make(solo, 2)
    solo.close()
    Exporter(place.data / "evidence.sqlite").close()
    to = ("--backups", str(place.folder / "backups"))
    status, found = check(*to)
    assert (status, found["backup"]["ok"], found["ledger"]["ok"]) == (1, False, True)
    made = place.backup()
    capsys.readouterr()
    assert check(*to)[0] == 0
    for name, statement, said in (
        ("evidence", "UPDATE alembic_version SET version_num = '9999'", "of a newer release"),
        ("records", "PRAGMA user_version = 9", "run the newer one"),
        ("ledger", "UPDATE meta SET value = '9' WHERE key = 'schema'", "use the Pilechain release that made it"),
    ):
        with sqlite3.connect(place.data / f"{name}.sqlite") as db:
            db.execute(statement)
        db.close()
        status, found = check(*to)
        assert (status, found[name]["ok"]) == (1, False)
        assert said in found[name]["says"]
    with pytest.raises(StoreError, match="use the Pilechain release that made it"):
        place.open()  # and the coordinator itself refuses what is newer
    shutil.rmtree(place.data)
    assert main(["restore", "--from", str(made), "--mirror", str(place.mirror), "--to", str(place.data)]) == 0
    capsys.readouterr()
    assert check(*to)[0] == 0


def test_the_configuration_says_where_the_mirror_is(place):
    from pile_coordinator.config import load_config

    config = load_config(place.config)
    assert (config.mirror, config.mirror_required) == (place.mirror, True)
    place.config.write_text(place.config.read_text() + "required = 1\n")
    with pytest.raises(ConfigError, match=r"mirror.required = 1 is wrong; expected true or false"):
        load_config(place.config)
