"""A recorded chain on one node, and another that began with its snapshot and fetches the rest; no broker between them."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from evidence_rows import content
from world import consensus

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.engines import history
from pile_coordinator.engines.attesting import parse_node_topic
from pile_coordinator.engines.comet import backfill
from pile_coordinator.engines.comet.backfill import Backfill, history_from
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.evidence.exporter import Exporter
from pile_shared.platform import es256_verify

LATE = "late"

Way = Callable[[bytes], bytes | None]
"""What becomes of an answer on its way; None if it is lost."""


def honest(answer: bytes) -> bytes:
    """An answer as it was sent."""
    return answer


def open_node(path: Path, genesis: Genesis) -> CometLedger:
    """A node's ledger."""
    keys = {validator.party: consensus(validator.party) for validator in genesis.validators}
    return CometLedger(path, genesis, keys, CachingVerifier(es256_verify))


def join(path: Path, whole: CometLedger) -> CometLedger:
    """A ledger that begins with the state after another's last block, as a snapshot has it."""
    late = open_node(path, whole.genesis)
    header = whole.store.last_header()
    assert header is not None
    late.restore(header, list(whole.store.state_rows()), whole.comet_height)
    return late


class Link:
    """The late node's backfill, and who answers it: servers by name, each with the way of its answers."""

    def __init__(self, late: CometLedger, whole: CometLedger, servers: Mapping[str, Way]) -> None:
        self.logged: list[str] = []
        self.asked: list[str] = []
        self.late = Backfill(late, LATE, lambda: late.height, self.logged.append)
        self.late.keep_first_set()
        self.late.publish = self._question
        self.servers = servers
        self._chain_id = whole.chain_id
        self._nodes = {name: Backfill(whole, name, lambda: whole.height, self.logged.append) for name in servers}
        for node in self._nodes.values():
            node.publish = self._answer

    def _question(self, topic: str, payload: bytes, retained: bool) -> None:
        assert parse_node_topic(self._chain_id, topic) == (LATE, "wanted")
        assert not retained
        for node in self._nodes.values():  # all hear it
            assert node.answer(LATE, payload) == ""

    def _answer(self, topic: str, payload: bytes, retained: bool) -> None:
        server = history_from(self._chain_id, topic, LATE)
        assert server is not None
        assert not retained
        self.asked.append(server)
        altered = self.servers[server](payload)
        if altered is not None:
            self.late.offer(server, altered)

    def fetch_all(self, server: str) -> None:
        """Fetch from one node until nothing is missing."""
        while self.late.missing() is not None:
            assert self.late.fetch(server), self.logged


def evidence_of(ledger: CometLedger, path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row that the blocks of a ledger make in an evidence database."""
    exporter = Exporter(path)
    for height in range(1, ledger.height + 1):
        exporter.write(ledger.store.block(height))
    found = content(exporter.db)
    exporter.close()
    return found


def small_and_fast(patch: pytest.MonkeyPatch) -> None:
    """Answers of a few blocks, or of a part of one, and no pauses."""
    patch.setattr(history, "ROOM_BYTES", 12_000)
    for name, value in {"PAUSE_S": 0.0, "IDLE_PART": 0, "ANSWERS_PER_S": 1 << 30, "ANSWER_S": 0.2}.items():
        patch.setattr(backfill, name, value)


def fetch_until(statement: int, whole: Path, late: Path, genesis: Genesis) -> None:
    """Fetch everything, or until this process kills itself before the database writes for the n-th time. For a child."""
    joined, seen = open_node(late, genesis), 0

    def trace(sql: str) -> None:
        nonlocal seen
        seen += not sql.startswith("SELECT")
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    joined.store._db.set_trace_callback(trace)
    Link(joined, open_node(whole, genesis), {"grid": honest}).fetch_all("grid")
    joined.close()
