"""`pilechain evidence`: its words beside a real ledger, for people and for programs."""

import json

import pytest
from evidence_rows import content
from settled import Chain, deliver

from pile_coordinator.cli import main
from pile_coordinator.evidence.database import HEAD
from pile_coordinator.evidence.exporter import Exporter
from pile_shared.proof import REASON_VEHICLE_FULL

CONFIG = """
genesis = "genesis.json"
data = "data"
party = "operator"
key = "operator.key"
[attestation]
[mqtt]
host = "127.0.0.1"
"""


@pytest.fixture
def site(tmp_path):
    """A coordinator's folder with a ledger of one order's life; its configuration, and the rows of its evidence."""
    (tmp_path / "data").mkdir()
    chain = Chain(tmp_path / "data")
    chain.admit()
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    rows = content(chain.evidence.db)
    (tmp_path / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    chain.close()
    config = tmp_path / "coordinator.toml"
    config.write_text(CONFIG)
    return config, rows


def call(capsys, *words):
    status = main(["evidence", *map(str, words)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_a_lost_database_is_rebuilt(site, capsys):
    config, rows = site
    path = config.parent / "data" / "evidence.sqlite"
    path.unlink()
    status, out, _ = call(capsys, "status", "--config", config)
    assert (status, out.split(";")[0]) == (1, "not made yet")
    assert not path.exists()  # looking makes none
    height = len(rows["block"])
    assert call(capsys, "rebuild", "--config", config, "--json")[:2] == (0, json.dumps({"written": height}) + "\n")
    status, out, _ = call(capsys, "status", "--config", config, "--json")
    told = json.loads(out)
    assert (status, told["written"], told["ledger"], told["says"]) == (0, height, height, "there")
    exporter = Exporter(path)
    assert content(exporter.db) == rows
    exporter.close()


def test_migrate_says_from_where_to_where(site, capsys):
    config, _ = site
    assert call(capsys, "migrate", "--config", config)[:2] == (0, f"schema {HEAD} -> {HEAD}\n")


def test_a_server_that_is_away_is_told_and_nothing_is_lost(site, capsys):
    config, _ = site
    config.write_text(CONFIG + '[evidence]\nurl = "mysql+pymysql://nobody@127.0.0.1:1/none"\n')
    status, out, _ = call(capsys, "status", "--config", config)
    assert (status, out.startswith("away: ")) == (1, True)
    status, _, err = call(capsys, "rebuild", "--config", config)
    assert status == 1
    assert "evidence_away" in err


def test_a_wrong_url_names_the_key(site, capsys):
    config, _ = site
    config.write_text(CONFIG + '[evidence]\nurl = "oracle://x"\n')
    status, _, err = call(capsys, "status", "--config", config)
    assert status == 2
    assert "evidence.url" in err
