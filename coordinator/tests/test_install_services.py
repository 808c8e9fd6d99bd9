"""Services of a site: systemd's own opinion of the units, what they expose, and the containers that do the same."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
import yaml

from pile_coordinator.cli import main
from pile_coordinator.installing.units import UNITS, Place, unit_files
from pile_hil.requirements import require
from pile_hil.site import Site

PLACE = Place(
    config=PurePosixPath("/var/lib/pilechain/coordinator.toml"),
    web=PurePosixPath("/var/lib/pilechain/web.toml"),
    broker=PurePosixPath("/var/lib/pilechain/broker/mosquitto.conf"),
    python=sys.executable,
    data=PurePosixPath("/var/lib/pilechain/data"),
    backups=PurePosixPath("/srv/pilechain-backups"),
    piles=1000,
)
# What Debian's package of mosquitto has; the drop-in is judged together with it.
MOSQUITTO = (
    "[Service]\nType=notify\nNotifyAccess=main\nExecStart=/usr/sbin/mosquitto -c /etc/mosquitto/mosquitto.conf\n"
)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "site", [], rate=1, port=1883)
    config = site.write_coordinator()
    (site.folder / "web.toml").write_text('database = "coordinator/evidence.sqlite"\n')
    (site.folder / "broker").mkdir()
    (site.folder / "broker" / "mosquitto.conf").write_text("listener 8883\n")
    return config


@pytest.fixture
def written(tmp_path):
    """The units in a folder, the drop-in beside its package's unit."""
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze is missing: apt install systemd")
    folder = tmp_path / "units"
    for path, text in unit_files(PLACE).items():
        if path.startswith(UNITS):
            target = folder / PurePosixPath(path).relative_to(UNITS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    (folder / "mosquitto.service").write_text(MOSQUITTO)
    return folder


def analyze(*words):
    command = ["systemd-analyze", "--no-pager", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(written):
    (written / "pilechain-worker@.service").rename(written / "pilechain-worker@1.service")
    paths = sorted(str(path) for path in written.iterdir() if path.is_file())
    done = analyze("verify", "--man=no", *paths)
    lines = (done.stdout + done.stderr).splitlines()
    assert [line for line in lines if "pilechain" in line or "mosquitto" in line] == []
    spoilt = written / "pilechain-web.service"
    spoilt.write_text(spoilt.read_text().replace("MemoryMax", "MemoryMost"))
    assert "MemoryMost" in analyze("verify", "--man=no", str(spoilt)).stderr


@pytest.mark.parametrize("name", ["coordinator", "web", "worker@", "backup"])
def test_the_units_expose_little(written, name):
    done = analyze("security", "--offline=true", "--threshold=20", str(written / f"pilechain-{name}.service"))
    assert done.returncode == 0, done.stdout[-900:] + done.stderr


def test_the_broker_exposes_little(written):
    whole = (written / "mosquitto.service").read_text() + (written / "mosquitto.service.d/pilechain.conf").read_text()
    (written / "broker.service").write_text(whole)
    done = analyze("security", "--offline=true", "--threshold=20", str(written / "broker.service"))
    assert done.returncode == 0, done.stdout[-900:] + done.stderr


def test_the_units_say_what_they_must():
    files = unit_files(PLACE)
    coordinator, web = (files[f"{UNITS}/pilechain-{name}.service"] for name in ("coordinator", "web"))
    assert f"ExecStart={sys.executable} -m pile_coordinator.cli run --config {PLACE.config}\n" in coordinator
    assert "ReadWritePaths=/var/lib/pilechain/data\n" in coordinator
    assert "ReadWritePaths" not in web  # it reads only
    assert "User=pilechain-web\nGroup=pilechain\n" in web
    hidden = {
        name: line
        for name in ("coordinator", "web")
        for line in files[f"{UNITS}/pilechain-{name}.service"].splitlines()
        if "Inaccessible" in line
    }
    assert all("/authority" in line and "/users" in line for line in hidden.values())
    assert "/keys" in hidden["web"]
    assert "/keys" not in hidden["coordinator"]
    broker = files["/etc/systemd/system/mosquitto.service.d/pilechain.conf"]
    assert "LimitNOFILE=3024\n" in broker
    for path, text in files.items():
        assert "made by `pilechain install services`" in text, path
        if path.endswith(".service"):
            assert "NoNewPrivileges=yes" in text, path


@pytest.mark.parametrize("is_needed", [True, False])
def test_a_mirror_is_mounted_and_may_be_written(site, tmp_path, capsys, is_needed):
    """By the coordinator, and by backups, which prune it; with one that is not needed it starts all the same."""
    text = f'\n[mirror]\npath = "/mnt/mirror"\nrequired = {str(is_needed).lower()}\n'
    site.write_text(site.read_text() + text)
    assert main(["install", "services", "--config", str(site), "--backups", "/srv/backups", "--dry-run", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    coordinator, backup = (files[f"{UNITS}/pilechain-{name}.service"] for name in ("coordinator", "backup"))
    assert ("RequiresMountsFor=/mnt/mirror\n" in coordinator) == is_needed
    for unit in (coordinator, backup):
        (line,) = [line for line in unit.splitlines() if line.startswith("ReadWritePaths=")]
        assert line.endswith(" -/mnt/mirror")
    assert "--keep 28 --prune-mirror\n" in backup
    require(shutil.which("systemd-analyze") is not None, "systemd-analyze is missing: apt install systemd")
    path = tmp_path / "pilechain-coordinator.service"
    path.write_text(coordinator)
    done = analyze("verify", "--man=no", str(path))
    assert "pilechain" not in done.stdout + done.stderr


def test_a_dry_run_shows_all_and_writes_nothing(site, tmp_path, capsys):
    root = tmp_path / "image"
    words = ["install", "services", "--config", str(site), "--root", str(root), "--backups", "/srv/backups"]
    assert main([*words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not root.exists()
    assert planned["start"][0][-1] == "pilechain-backup.timer"
    assert main(words) == 0
    for path, text in planned["files"].items():
        assert (root / path.lstrip("/")).read_text() == text
    assert "restart mosquitto pilechain-coordinator pilechain-web" in capsys.readouterr().out


def test_what_is_not_there_is_not_installed(site, capsys):
    (site.parent / "web.toml").unlink()
    assert main(["install", "services", "--config", str(site), "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not [path for path in planned["files"] if "web" in path or "backup" in path]
    assert planned["start"][0] == ["systemctl", "enable", "mosquitto", "pilechain-coordinator"]


def test_a_path_that_no_unit_takes_is_refused(tmp_path, capsys):
    site = Site(tmp_path / "a site", [], rate=1, port=1883)
    assert main(["install", "services", "--config", str(site.write_coordinator()), "--dry-run"]) == 2
    assert "move the site" in capsys.readouterr().err


@pytest.mark.parametrize("mariadb", [False, True])
def test_the_containers_are_confined_and_whole(site, tmp_path, capsys, mariadb):
    """Compose itself is not here to judge: what it would read is looked at."""
    if mariadb:
        site.write_text(site.read_text() + '[evidence]\nurl = "mysql+pymysql://pilechain:secret@127.0.0.1/evidence"\n')
    out = tmp_path / "containers"
    assert main(["install", "containers", "--config", str(site), "--to", str(out)]) == 0
    text = (out / "compose.yaml").read_text()
    document = yaml.safe_load(text)
    services = document["services"]
    assert set(services) == {"mosquitto", "coordinator", "web"} | ({"mariadb"} if mariadb else set())
    for name, service in services.items():
        assert service["network_mode"] == "host", name  # each listens where its own file says
        assert "ports" not in service
        assert service["healthcheck"]["test"][0] == "CMD"
        assert "no-new-privileges:true" in service["security_opt"]
        if name != "mariadb":
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        for volume in service.get("volumes", []):
            named = volume.partition(":")[0]
            assert named.startswith("/") or named in document["volumes"], volume
        for needed in service.get("depends_on", []):
            assert needed in services
    assert "secret" not in re.sub("secrets|/run/secrets", "", text)  # the password stays in its files
    for secret in document.get("secrets", {}).values():
        assert secret["file"].startswith(str(site.parent / "keys"))
    health = services["coordinator"]["healthcheck"]["test"][2:]
    assert main(health) == 1  # it is a command there is, and nothing runs here
    assert "has never run here" in capsys.readouterr().out
    containerfile = (out / "Containerfile").read_text()
    assert re.findall(r"^[A-Z]+", containerfile, re.MULTILINE) == ["FROM", "COPY", "RUN", "ENV", "ENTRYPOINT"]
    (out / "compose.yaml").write_text("services: {}\n")
    assert main(["install", "containers", "--config", str(site), "--to", str(out)]) == 2  # nobody's changes are lost
