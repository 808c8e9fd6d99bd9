"""The evidence in a real MariaDB: the same rows as SQLite, byte for byte, also when either process is killed.

A block is committed there as a whole with the mark, so whatever is cut off, what is there afterwards is the rebuild.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from evidence_rows import content
from note_chain import NoteChain
from note_chain import live as pay_with_notes
from served import Served
from settled import Chain, deliver
from test_evidence import live

from pile_coordinator.chain.transactions import AT_MARKET, CancelContract, List, PlaceBid
from pile_coordinator.evidence import database
from pile_coordinator.evidence.database import EvidenceAwayError, EvidenceError
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import find_contract, order_certificate
from pile_coordinator.evidence.schema import (
    block,
    contract,
    metadata,
    movement,
    note_bin,
    note_purchase,
    note_spend,
    proof,
    pseudonym,
    receipt,
    settled_contract,
    views,
    withdrawal,
)
from pile_coordinator.evidence.scopes import EVERYTHING
from pile_coordinator.evidence.timeline import timeline
from pile_coordinator.evidence.trace import trace
from pile_coordinator.evidence.writer import make_writer
from pile_coordinator.replay import open_ledger
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.mariadb import MariaDb, find_mariadb
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, Site
from pile_shared import topics
from pile_shared.certificate import decode_inclusion
from pile_shared.codec import decode, encode
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256
from pile_shared.proof import REASON_VEHICLE_FULL
from pile_shared.terms import LEAF_CLOSED

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    require(find_mariadb() is not None, "mariadbd is missing: apt install mariadb-server, or tools/servers")
    with MariaDb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture
def url(server, request):
    return server.create(f"t{abs(hash(request.node.name))}")


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


def back(exporter: Exporter) -> None:
    """Wait until the exporter finds its server again."""
    give_up_s = time.monotonic() + 60
    while not exporter.attend():
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def test_mariadb_holds_the_same_rows_and_answers_the_same(chain, url):
    live(chain)
    exporter = Exporter(url)
    exporter.catch_up(chain.engine)
    assert content(exporter.db) == content(chain.evidence.db)
    for view in (movement, settled_contract):
        here, there = (sorted(map(repr, db.execute(sa.select(view)))) for db in (exporter.db, chain.evidence.db))
        assert here == there
    for row in chain.evidence.db.execute(sa.select(settled_contract)).mappings():
        assert find_contract(exporter.db, row["id"]) == dict(row)
        if row["outcome"] != "unsigned":
            certificate = order_certificate(exporter.db, chain.engine, row["id"])
            assert certificate.encoded() == chain.certificate(row["id"]).encoded()
    ids = [row.id.hex() for row in chain.evidence.db.execute(sa.select(contract.c.id))]
    hashes = [row.hash.hex() for row in chain.evidence.db.execute(sa.select(proof.c.hash))]
    for wanted in (*ids, *hashes, ids[0][:9], f"{ids[0]}/1/0", "pile-1", "dan", str(chain.engine.height)):
        assert trace(exporter.db, wanted) == trace(chain.evidence.db, wanted)
    for height in range(1, chain.engine.height + 1):
        exporter.write(chain.engine.block(height))
    assert content(exporter.db) == content(chain.evidence.db)
    exporter.close()


def test_orders_that_notes_paid_for_are_the_same_there(url, tmp_path):
    chain = NoteChain(tmp_path, each=20, rulings_needed=2)
    chain.admit()
    lives = pay_with_notes(chain)
    exporter = Exporter(url)
    exporter.catch_up(chain.engine)
    assert content(exporter.db) == content(chain.evidence.db)
    for view in (movement, settled_contract):
        here, there = (sorted(map(repr, db.execute(sa.select(view)))) for db in (exporter.db, chain.evidence.db))
        assert here == there
    for certificate, who in lives.values():
        shown = order_certificate(exporter.db, chain.engine, sha256(certificate.order))
        assert shown.encoded() == certificate.encoded()
        assert trace(exporter.db, who) == trace(chain.evidence.db, who)
        contract = bytes.fromhex(trace(exporter.db, who).stories[0].contract)
        assert timeline(exporter.db, EVERYTHING, contract) == timeline(chain.evidence.db, EVERYTHING, contract)
    exporter.close()
    chain.close()


def test_a_connection_cut_at_any_statement_loses_and_repeats_nothing(chain, url):
    """The server ends the exporter's session before its n-th writing statement, as it does when it is stopped."""
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    whole = content(chain.evidence.db)
    exporter = Exporter(url)
    killer = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    left = [0]

    def count(connection, _cursor, sql, *_):
        if not sql.startswith(("SELECT", "ROLLBACK")):
            left[0] -= 1
            if left[0] == 0:
                with killer.connect() as other:
                    other.exec_driver_sql(f"KILL {connection.connection.dbapi_connection.thread_id()}")

    sa.event.listen(exporter.db.engine, "before_cursor_execute", count)
    for cut in range(1, 1000, 7):  # each takes a second; test_evidence.py cuts at every one
        with killer.connect() as other:  # faster than to make all tables again
            other.exec_driver_sql("BEGIN")
            for table in metadata.sorted_tables:
                other.execute(table.update().values(height=0) if table.name == "mark" else table.delete())
            other.exec_driver_sql("COMMIT")
        exporter.is_away = True
        exporter._try_at_s = 0.0
        back(exporter)
        left[0] = cut
        try:
            for height in range(1, chain.engine.height + 1):
                exporter.write(chain.engine.block(height))
        except EvidenceAwayError:
            left[0] = 0
            exporter._try_at_s = 0.0
            back(exporter)
            exporter.catch_up(chain.engine)
            assert content(exporter.db) == whole
            continue
        break
    assert cut > 40
    killer.dispose()
    exporter.close()


def test_a_server_killed_while_blocks_go_on_is_caught_up(chain, server, url):
    exporter = Exporter(url)
    chain.engine.on_block(lambda made: None if exporter.is_away else write(exporter, made))
    server.kill()
    live(chain)
    assert exporter.is_away
    with pytest.raises(EvidenceAwayError):
        exporter.db.execute(sa.select(block.c.height))
    server.start()
    back(exporter)
    exporter.catch_up(chain.engine)
    assert content(exporter.db) == content(chain.evidence.db)
    exporter.close()


def write(exporter: Exporter, made: object) -> None:
    try:
        exporter.write(made)
    except EvidenceAwayError:
        assert exporter.is_away


def test_the_server_is_killed_while_it_is_written(chain, server, url):
    """SIGKILL in the midst of statements: whatever came through, the rest follows and nothing comes twice."""
    live(chain)
    whole = content(chain.evidence.db)
    for statements in (3, 47, 101):
        exporter = Exporter(url)
        exporter.empty()
        left = [statements]

        def count(*_, left=left):
            left[0] -= 1
            if left[0] == 0:
                server.kill()

        sa.event.listen(exporter.db.engine, "before_cursor_execute", count)
        with pytest.raises(EvidenceAwayError):
            exporter.catch_up(chain.engine)
        server.start()
        back(exporter)
        exporter.catch_up(chain.engine)
        assert content(exporter.db) == whole
        exporter.close()


_WRITES = """
import json, sys, time
sys.path[:0] = {path!r}
import sqlalchemy as sa
from pathlib import Path
from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.engines.store import Store
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.replay import open_ledger
store = open_ledger(Path({ledger!r}), genesis_from_json(json.loads(Path({genesis!r}).read_text())))
exporter = Exporter({url!r})
left = [int(sys.argv[1])]
def count(*_):
    left[0] -= 1
    if left[0] == 0:
        print("here", flush=True)
        time.sleep(60)
sa.event.listen(exporter.db.engine, "before_cursor_execute", count)
for height in range(1, store.height() + 1):
    exporter.write(store.block(height))
"""


def test_the_exporting_process_is_killed(chain, url, tmp_path):
    live(chain)
    (tmp_path / "genesis.json").write_text(json.dumps(chain.genesis.to_json()))
    code = _WRITES.format(
        path=sys.path, ledger=str(tmp_path / "ledger.sqlite"), genesis=str(tmp_path / "genesis.json"), url=url
    )
    for statements in (5, 60, 90):
        process = subprocess.Popen([sys.executable, "-c", code, str(statements)], stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"here\n"
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    exporter = Exporter(url)
    exporter.catch_up(chain.engine)
    assert content(exporter.db) == content(chain.evidence.db)
    exporter.close()


def test_a_server_that_is_away_at_the_start_is_found_later(server, url):
    server.kill()
    exporter = Exporter(url)
    assert (exporter.is_away, exporter.height) == (True, 0)
    with pytest.raises(EvidenceAwayError, match="not answered"):
        _ = exporter.db
    server.start()
    back(exporter)
    assert exporter.db.execute(sa.select(sa.func.count()).select_from(block)).scalar() == 0
    exporter.close()


def test_the_evidence_of_another_chain_is_refused(chain, url, tmp_path):
    exporter = Exporter(url)
    exporter.catch_up(chain.engine)
    (tmp_path / "other").mkdir()
    other = Chain(tmp_path / "other", fee_micro=1)
    other.admit()
    with pytest.raises(EvidenceError, match="another chain"):
        exporter.catch_up(other.engine)
    other.close()
    exporter.close()


def test_somebody_elses_database_is_left_alone(server, url):
    with sa.create_engine(url).begin() as db:
        db.exec_driver_sql("CREATE TABLE customers (id INT)")
    with pytest.raises(EvidenceError, match="one of its own"):
        Exporter(url)
    with sa.create_engine(url).begin() as db:
        assert sa.inspect(db).get_table_names() == ["customers"]


def test_a_refused_user_or_database_is_named(server, url):
    with pytest.raises(EvidenceError, match=r"Unknown database .* check \[evidence\] url"):
        Exporter(server.url("nowhere"))
    with pytest.raises(EvidenceError, match="Access denied"):
        Exporter(url.replace("root@", "eve:wrong@"))


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_migrations_come_to_the_schema_of_the_program(kind, request, tmp_path):
    """An empty database migrated from nothing has what a new one has, and is at the same revision."""
    where = tmp_path / "e.sqlite" if kind == "sqlite" else request.getfixturevalue("url")
    engine = database.open_database(where)
    with engine.connect() as db:
        database.migrate(db)
        assert database.revision(db) == database.HEAD
        shown = {view.table.name for view in views}
        context = MigrationContext.configure(
            db, opts={"include_object": lambda _, name, kind, *__: not (kind == "table" and name in shown)}
        )
        assert compare_metadata(context, metadata) == []
        assert set(sa.inspect(db).get_view_names()) == shown
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(EvidenceError, match="schema 9999, this program knows 0002"):
        Exporter(where)


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_evidence_from_before_notes_is_migrated_as_it_is(kind, chain, request, tmp_path):
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    where = tmp_path / "e.sqlite" if kind == "sqlite" else request.getfixturevalue("url")
    exporter = Exporter(where)
    exporter.catch_up(chain.engine)
    whole = content(exporter.db)
    quote = exporter.db.dialect.identifier_preparer.quote
    for view in reversed(views):
        exporter.db.exec_driver_sql(f"DROP VIEW {quote(view.table.name)}")
    for table in (pseudonym, note_purchase, note_bin, note_spend):
        exporter.db.exec_driver_sql(f"DROP TABLE {quote(table.name)}")
    exporter.db.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    exporter.close()
    migrated = Exporter(where)
    assert (migrated.height, database.revision(migrated.db)) == (chain.engine.height, "0002")
    assert content(migrated.db) == whole
    assert find_contract(migrated.db, chain.evidence.db.execute(sa.select(contract.c.id)).scalar())["anonymous"] == 0
    migrated.close()


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
def test_values_come_back_as_they_were_written(kind, request, tmp_path):
    """Whatever people wrote, in inserts and in changes, and more rows than a statement carries."""
    exporter = Exporter(tmp_path / "e.sqlite" if kind == "sqlite" else request.getfixturevalue("url"))
    texts = [
        "",
        "'; DROP TABLE mark; --",
        "\\",
        "\\'",
        '"%s" %(a)s ?',
        "a\nb",
        "NULL",
        " ends ",
        "".join(map(chr, range(32, 127))),
    ]
    texts += [f"{text}{number}" for number in range(700) for text in ("it's ", "plain ")]
    rows = [(bytes([i % 256, i // 256]) * 16, 1, i, "dan", 5, text[:64], "requested", None, None, None, None)
            for i, text in enumerate(texts)]  # fmt: skip
    writer = make_writer(exporter.db.dialect)
    writer.insert(exporter.db, withdrawal, rows)
    columns = ("destination", "ended_height", "reason")
    changed = [(row[5][::-1], None if i % 3 else 2**62, row[5], row[0]) for i, row in enumerate(rows)]
    writer.update(exporter.db, withdrawal, columns, ("id",), changed)
    found = {row.id: row for row in exporter.db.execute(sa.select(withdrawal))}
    assert len(found) == len(rows)
    for destination, ended, reason, key in changed:
        row = found[key]
        assert (row.destination, row.reason, row.ended_height) == (destination, reason, ended)
        assert (row.party, row.state, row.height) == ("dan", "requested", 1)
    writer.insert(exporter.db, receipt, [("pile-1", 1, 2, 3)], replaces=True)
    writer.insert(exporter.db, receipt, [("pile-1", 4, 5, 2**63 - 1)], replaces=True)
    assert exporter.db.execute(sa.select(receipt)).all() == [("pile-1", 4, 5, 2**63 - 1)]
    exporter.close()


@pytest.mark.parametrize("wrong", ["nonsense", "postgresql://a/b", "mysql+pymysql://"])
def test_a_url_that_cannot_be_used_is_refused(wrong):
    with pytest.raises((ConfigError, EvidenceError)):
        Exporter(wrong).db.execute(sa.select(block.c.height))


@pytest.fixture
def served_there(server, url, tmp_path, monkeypatch):
    """A coordinator with its evidence in the server."""
    require(find_mosquitto() is not None, "mosquitto is not installed")
    plain = Site.write_coordinator

    def with_url(site: Site) -> Path:
        path = plain(site)
        path.write_text(f'{path.read_text()}\n[evidence]\nurl = "{url}"\n')
        return path

    monkeypatch.setattr(Site, "write_coordinator", with_url)
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        yield served
        served.close()
    if not server.running:
        server.start()


def until_there(served: Served, made: int) -> None:
    give_up_s = time.monotonic() + 60
    while served.coordinator.evidence.height < made:
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def hear_closing(served: Served, contract: bytes) -> None:
    """Until the pile is told that the contract is closed."""
    give_up_s = time.monotonic() + 30
    while True:
        assert time.monotonic() < give_up_s
        received = served.raw.get(1)
        if received is not None and received[0] == topics.pile_topic(served.chain_id, "pile-1", "contract"):
            kind, order, *_ = decode(decode_inclusion(received[1]).leaf, 4096)
            if (kind, order) == (LEAF_CLOSED, contract):
                return


@pytest.mark.parametrize("restarted", [False, True], ids=["it goes on", "it is started again"])
def test_a_pile_hears_of_a_contract_that_closed_while_the_server_was_down(server, served_there, restarted):
    """Else it would let a user begin whom nobody pays for. Nothing but the chain is left of it when the coordinator ends."""
    served = served_there
    served.admit()
    now_ms = served.site.clock.now_ms()
    online = topics.pile_topic(served.chain_id, "pile-1", "status")
    served.raw.publish(online, encode([1, "pile-1", 1, bytes(32), bytes(32), ""]), retained=True)
    start, end = now_ms + 24 * HOUR_MS, now_ms + 30 * HOUR_MS
    with served.site.wallet("dan") as dan, served.site.wallet("olga") as olga:
        olga.send(List("pile-1", start, end, 9000, AT_MARKET, False))
        bid, _ = dan.send(PlaceBid("north", "", 1000, start, start + 2 * HOUR_MS, 900_000, True, 0, False, False))
        contract = dan.contract(bid)["id"]
        server.kill()
        _, made = dan.send(CancelContract(contract))
    assert served.coordinator.evidence.height < made
    if restarted:
        served.restart()
    while served.raw.get(0.5) is not None:  # what was said so far
        pass
    server.start()
    hear_closing(served, contract)
    assert served.coordinator.evidence.height >= made
    if not restarted:
        served.restart()  # a coordinator cannot know whether the one before it came to say so
        hear_closing(served, contract)


def test_a_coordinator_makes_blocks_while_the_server_is_down(server, url, served_there, tmp_path, capfd):
    """Transactions are taken and answered meanwhile; what the evidence missed is written afterwards."""
    served = served_there
    server.kill()
    served.admit()
    made = served.coordinator.engine.height
    assert made >= 3
    assert served.coordinator.evidence.height < made
    server.start()
    until_there(served, made)
    served.coordinator.stop()
    served._thread.join(20)
    store = open_ledger(tmp_path / "site" / "coordinator" / "ledger.sqlite", served.site.genesis)
    rebuilt, exporter = Exporter(tmp_path / "rebuilt.sqlite"), Exporter(url)
    for height in range(1, exporter.height + 1):
        rebuilt.write(store.block(height))
    assert content(exporter.db) == content(rebuilt.db)
    for each in (rebuilt, exporter, store):
        each.close()
    said = capfd.readouterr().err
    assert "the evidence database went away at block" in said
    assert "the evidence database is back" in said
