"""The evidence database: written once per block, resumed after a crash at any statement, rebuilt from the chain."""

import sqlite3

import pytest
from settled import Chain, deliver

from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import NoEvidenceError, find_contract, find_order, order_certificate, postings
from pile_shared.proof import REASON_VEHICLE_FULL


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


def content(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {name: sorted(db.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in tables}


def test_every_wh_leads_from_order_to_posting(chain):
    certificate = deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    db = chain.evidence.db
    row = find_contract(db, find_bid(db))
    assert (row["measured_wh"], row["cause"], row["outcome"]) == (2000, "user", "confirmed")
    proofs = db.execute("SELECT event, last_energy_wh FROM proof WHERE contract = ? ORDER BY sequence", (row["id"],))
    events = proofs.fetchall()
    assert [event for event, _ in events] == ["begin", "periodic", "end"]
    assert events[-1][1] - events[0][1] == 2000
    assert len(postings(db, row["id"])) == db.execute("SELECT count(*) FROM posting").fetchone()[0]
    assert find_order(db, row["bid"])["outcome"] == "confirmed"
    assert order_certificate(db, chain.engine, row["bid"]).encoded() == certificate.encoded()


def find_bid(db: sqlite3.Connection) -> bytes:
    (bid,) = db.execute("SELECT id FROM orders WHERE kind = 'market bid'").fetchone()
    return bid


def test_writing_a_block_twice_changes_nothing(chain):
    deliver(chain, delivered_wh=5000, reason=1)
    before = content(chain.evidence.db)
    for height in range(1, chain.engine.height + 1):
        chain.evidence.write(chain.engine.block(height))
    assert content(chain.evidence.db) == before


def test_a_lost_database_is_made_again_from_the_chain(chain, tmp_path):
    deliver(chain, delivered_wh=5000, reason=1)
    rebuilt = Exporter(tmp_path / "again.sqlite")
    rebuilt.catch_up(chain.engine)
    assert content(rebuilt.db) == content(chain.evidence.db)
    rebuilt.close()


class Cut(sqlite3.Connection):
    """A connection whose power fails before its n-th writing statement."""

    left = 0

    def execute(self, sql, *parameters):
        self._count(sql)
        return super().execute(sql, *parameters)

    def executemany(self, sql, *parameters):
        self._count(sql)
        return super().executemany(sql, *parameters)

    def _count(self, sql):
        if not sql.startswith(("SELECT", "PRAGMA", "ROLLBACK")):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_a_crash_at_any_statement_loses_and_repeats_nothing(chain, tmp_path):
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    whole = content(chain.evidence.db)
    for cut in range(1, 1000):
        path = tmp_path / f"cut-{cut}.sqlite"
        exporter = Exporter(path)
        exporter.db.close()
        exporter.db = sqlite3.connect(path, isolation_level=None, factory=Cut)
        exporter.db.left = cut
        try:
            exporter.catch_up(chain.engine)
        except KeyboardInterrupt:
            exporter.db.close()
            resumed = Exporter(path)
            resumed.catch_up(chain.engine)
            assert content(resumed.db) == whole
            resumed.close()
            path.unlink()
            continue
        assert content(exporter.db) == whole
        exporter.close()
        break
    assert cut > 40  # the story takes that many statements


def test_what_is_not_there_or_not_over_says_so(chain):
    with pytest.raises(NoEvidenceError, match="no contract"):
        find_contract(chain.evidence.db, b"\x01" * 32)
    with pytest.raises(NoEvidenceError, match="no order"):
        find_order(chain.evidence.db, b"\x01" * 32)
    chain.list_and_bid()
    with pytest.raises(NoEvidenceError, match="still open"):
        order_certificate(chain.evidence.db, chain.engine, find_bid(chain.evidence.db))
