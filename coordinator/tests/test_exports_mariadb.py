"""Exports whose evidence is a real MariaDB: the same files as from SQLite, by a user who may only read, and clear errors."""

import json
from types import SimpleNamespace

import pytest
from exported import pile_records, settled_chain, within

from pile_coordinator.cli import main
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.records import RecordDesk
from pile_hil.mariadb import MariaDb, find_mariadb
from pile_hil.requirements import require
from pile_shared.proof import BEGIN, END, parse
from pile_shared.record import encode_record

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One closed order in SQLite and in MariaDB, its records, and a coordinator's configuration."""
    require(find_mariadb() is not None, "mariadbd is missing: apt install mariadb-server, or tools/servers")
    folder = tmp_path_factory.mktemp("world")
    data = folder / "data"
    chain = settled_chain(data)
    certificate = within(chain)
    desk = RecordDesk(data / "records.sqlite", chain.genesis.chain_id, lambda: 1)
    marked = [proof for proof in (parse(m)[1] for m in certificate.proofs) if proof.event in {BEGIN, END}]
    for proof, text in zip(marked, pile_records(folder / "pile", chain, certificate), strict=True):
        desk.offer(chain.engine.state, chain.evidence.db, "pile-1", encode_record(proof.sequence, text))
    assert desk.commit()
    desk.close()
    (folder / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    with MariaDb(folder / "mariadb") as server:
        url = server.create("evidence")
        exporter = Exporter(url)
        exporter.catch_up(chain.engine)
        exporter.close()
        with server._connect() as db:
            db.cursor().execute("GRANT SELECT ON evidence.* TO reader@'127.0.0.1' IDENTIFIED BY 'letmesee'")
        reader = url.replace("root@", "reader:letmesee@")
        yield SimpleNamespace(chain=chain, folder=folder, server=server, url=url, reader=reader)
    chain.close()


def export(world, out, *options, source="data"):
    words = ["export", str(world.folder / source), "--out", str(out), "--json"]
    return main(
        [*words, *options] if source != "data" else [*words, "--genesis", str(world.folder / "genesis.json"), *options]
    )


def config(world, url):
    (world.folder / "coordinator.toml").write_text(
        'genesis = "genesis.json"\ndata = "data"\nparty = "operator"\nkey = "none.key"\n[mqtt]\nhost = "127.0.0.1"\n'
        f'[attestation]\n[evidence]\nurl = "{url}"\n'
    )


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_files_from_both_by_a_user_who_may_only_read(world, tmp_path, capsys):
    """The ledger is open for writing meanwhile, as by a coordinator that runs."""
    assert export(world, tmp_path / "sqlite") == 0
    assert export(world, tmp_path / "url", "--evidence", world.reader) == 0
    config(world, world.reader)
    assert export(world, tmp_path / "toml", source="coordinator.toml") == 0
    told = [json.loads(part) for part in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0")]
    assert [(one["exported"], one["with_ocmf"], one["missing_ocmf"]) for one in told] == [(1, 1, [])] * 3
    assert files(tmp_path / "sqlite") == files(tmp_path / "url") == files(tmp_path / "toml")
    assert any(name.endswith(".xml") for name in files(tmp_path / "toml"))


def test_a_data_folder_whose_evidence_is_elsewhere_says_how_to_name_it(world, tmp_path, capsys):
    here, away = world.folder / "data" / "evidence.sqlite", tmp_path / "away.sqlite"
    away.write_bytes(here.read_bytes())
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "ledger.sqlite").symlink_to(world.folder / "data" / "ledger.sqlite")
    words = ["export", str(folder), "--out", str(tmp_path / "out"), "--genesis", str(world.folder / "genesis.json")]
    assert main(words) == 2
    assert "or name the evidence database with --evidence" in capsys.readouterr().err
    assert main([*words, "--evidence", world.reader]) == 0


def test_what_is_wrong_with_the_database_is_said(world, tmp_path, capsys):
    with world.server._connect() as db:
        for statement in (
            "CREATE DATABASE empty",
            "CREATE DATABASE another",
            "GRANT SELECT ON *.* TO reader@'127.0.0.1'",
        ):
            db.cursor().execute(statement)
    (tmp_path / "other").mkdir()
    other = settled_chain(tmp_path / "other")
    exporter = Exporter(world.url.replace("/evidence", "/another"))
    other.block(other.engine.time_ms + 5)
    exporter.catch_up(other.engine)
    exporter.close()
    other.close()
    for url, said in (
        (world.reader.replace("/evidence", "/empty"), "not of this program's schema"),
        (world.reader.replace("/evidence", "/another"), "is of another chain than the ledger's"),
        (world.reader.replace("letmesee", "wrong"), "refuses: Access denied"),
        (world.reader.replace("/evidence", "/nowhere"), "refuses: Unknown database"),
        (world.reader.replace(str(world.server.port), "1"), "does not answer (error 2003)"),
        ("postgresql://x/y", "expected mysql+pymysql://"),
        (str(tmp_path / "none.sqlite"), "no such file"),
    ):
        assert export(world, tmp_path / "out", "--evidence", url) == 2, url
        error = capsys.readouterr().err
        assert said in error
        assert "letmesee" not in error


def test_evidence_that_lags_is_said_to(world, tmp_path, capsys):
    """Blocks were made on while the server was away: what closed in them is not there yet, and that is no mystery."""
    url = world.server.create("lagging")
    exporter = Exporter(url)
    for height in range(1, world.chain.engine.height - 1):
        exporter.write(world.chain.engine.block(height))
    exporter.close()
    assert export(world, tmp_path / "out", "--evidence", url) == 1
    (refused,) = json.loads(capsys.readouterr().out)["refused"]
    assert "the evidence stands at block" in refused["reason"]


def test_a_server_that_goes_during_the_export_is_named_for_each_order_it_kept(world, tmp_path):
    from pile_coordinator.evidence.database import EvidenceAwayError
    from pile_coordinator.exports.sources import DataFolder

    folder = DataFolder(world.folder / "data", world.chain.genesis, world.reader)
    try:
        ((_, read),) = folder.closed(0, 1 << 50)
        before = read()
        world.server.kill()
        with pytest.raises(EvidenceAwayError, match="does not answer"):
            read()
        world.server.start()
        assert read() == before
    finally:
        folder.close()
