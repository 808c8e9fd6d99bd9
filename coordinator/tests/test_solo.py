"""The solo engine: a block and its state are one, whatever kills the process; a ledger that is not whole is refused."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from commit_loop import deposit, engine
from world import END, HOUR, NOW, START, genesis, key

from pile_coordinator.chain import transition
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.records import Bid, Listing, Party, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State, store_key
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Body,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    sign_transaction,
)
from pile_coordinator.engines import solo as solo_module
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.solo import BusyError, SoloEngine
from pile_coordinator.engines.store import Store, StoreError
from pile_shared.errors import ConfigError

LOOP = Path(__file__).with_name("commit_loop.py")
STATEMENTS_OF_A_COMMIT = 6  # BEGIN, INSERT block, INSERT tx, two or more REPLACE state, COMMIT


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[SoloEngine]:
    opened = engine(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def tx(solo: SoloEngine, sender: str, body: Body, ahead: int = 1) -> bytes:
    sequence = solo.state.get(Party, sender).sequence + ahead
    return sign_transaction(key(sender), solo.chain_id, sender, sequence, 1000, body)


def acknowledged(path: Path, *arguments: str, kill_after: int | None = None, delay_s: float = 0.0) -> list[list[str]]:
    """What a committing process said before it was killed."""
    with subprocess.Popen([sys.executable, LOOP, path, *arguments], stdout=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        assert process.stdout is not None
        while kill_after is None or len(lines) < kill_after:
            line = process.stdout.readline()
            if not line:
                break
            lines.append(line)
        if kill_after is not None:
            threading.Event().wait(delay_s)  # somewhere inside the next commits
            process.kill()
        lines += process.stdout.readlines()
        assert process.wait(timeout=30) == -signal.SIGKILL
    return [line.split() for line in lines if line.endswith("\n")]


def check_ledger(path: Path, lines: list[list[str]]) -> int:
    """Opening checks the state against the last header; here: every acknowledged block and transaction is there."""
    reopened = engine(path)
    try:
        assert reopened.height >= int(lines[-1][0])
        for height, root, tx_id in lines:
            assert reopened.block(int(height)).header.state_root.hex() == root
            assert reopened.find_tx(bytes.fromhex(tx_id)) == (int(height), 0)
        assert reopened.state.balance_micro("P:operator") == 5 * reopened.height
        return reopened.height
    finally:
        reopened.close()


def test_a_process_killed_while_it_commits_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    path, rng, height = tmp_path / "ledger.sqlite", random.Random(3), 0
    for _ in range(5):  # the same ledger again and again
        lines = acknowledged(path, kill_after=rng.randint(1, 20), delay_s=rng.random() * 0.02)
        assert int(lines[0][0]) == height + 1
        height = check_ledger(path, lines)


@pytest.mark.parametrize("statement", range(1, STATEMENTS_OF_A_COMMIT + 1))
def test_a_commit_is_whole_or_not_at_all_wherever_it_is_cut(tmp_path: Path, statement: int) -> None:
    lines = acknowledged(tmp_path / "ledger.sqlite", str(statement))
    assert [line[0] for line in lines] == ["1", "2"]
    assert check_ledger(tmp_path / "ledger.sqlite", lines) == 2


def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, blocks = tmp_path / "ledger.sqlite", []
    for number in range(3):
        opened = engine(path)
        opened.submit(deposit(opened, number))
        blocks.append(opened.make_block(NOW + number))
        opened.close()
    assert [block.header.height for block in blocks] == [1, 2, 3]
    assert blocks[2].header.previous == blocks[1].header.hash()
    for block in blocks:
        assert block.certificate.verify(genesis().chain_id, list(genesis().validators)).height == block.header.height
        block.inclusion(0).verify(genesis().chain_id, list(genesis().validators))


def test_a_stored_block_is_the_block_that_was_made(solo: SoloEngine) -> None:
    solo.submit(deposit(solo, 1))
    made = solo.make_block(NOW)
    kept = solo.block(1)
    assert (kept.certificate.fields(), kept.txs, kept.results, kept.leaves) == (
        made.certificate.fields(),
        made.txs,
        made.results,
        made.leaves,
    )
    with pytest.raises(KeyError):
        solo.block(2)


def test_time_never_runs_backwards(solo: SoloEngine) -> None:
    assert solo.make_block(NOW + 5000).header.time_ms == NOW + 5000
    assert solo.make_block(NOW).header.time_ms == NOW + 5000


def test_another_genesis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    engine(path).close()
    signers = {p: key(p + "/attest") for p in ("auditor", "grid", "operator")}
    with pytest.raises(StoreError, match="another genesis"):
        SoloEngine(path, genesis(fee_micro=1), signers)


def test_attestation_keys_are_the_genesis_validators_and_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two thirds"):
        SoloEngine(tmp_path / "a", genesis(), {p: key(p + "/attest") for p in ("auditor", "grid")})
    with pytest.raises(ConfigError, match="grid"):
        SoloEngine(tmp_path / "b", genesis(), {"grid": key("grid")})


DAMAGES = [
    "UPDATE state SET value = x'00' WHERE key = (SELECT min(key) FROM state)",
    "UPDATE state SET value = zeroblob(length(value)) WHERE key = (SELECT max(key) FROM state)",
    "DELETE FROM state WHERE key = (SELECT max(key) FROM state)",
    "INSERT INTO state VALUES (x'8218c800', x'80')",
    "UPDATE block SET header = x'00' WHERE height = 2",
    "UPDATE block SET header = (SELECT header FROM block WHERE height = 1) WHERE height = 2",
    "UPDATE block SET attestations = x'80' WHERE height = 2",
    "DELETE FROM block WHERE height = 2",
    "UPDATE meta SET value = x'39' WHERE key = 'schema'",
    "DROP TABLE state",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger.sqlite"
    opened = engine(path)
    for number in range(2):
        opened.submit(deposit(opened, number))
        opened.make_block(NOW + number)
    opened.close()
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(StoreError):
        engine(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, and it is long enough to be read as one\n" * 50)
    for path in (tmp_path / "text", tmp_path / "no" / "such" / "folder"):
        with pytest.raises(StoreError, match=path.name):
            engine(path)


def test_too_many_waiting_transactions_are_refused_and_nothing_is_lost(
    solo: SoloEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solo_module, "MAX_WAITING", 3)
    for i in range(3):
        solo.submit(tx(solo, "grid", Deposit("operator", 5, f"n{i}"), ahead=i + 1))
    fourth = tx(solo, "grid", Deposit("operator", 5, "n3"), ahead=4)
    with pytest.raises(BusyError):
        solo.submit(fourth)
    assert [r.code for r in solo.make_block(NOW).results] == ["ok"] * 3
    solo.submit(fourth)
    monkeypatch.setattr(solo_module, "MAX_WAITING_BYTES", len(fourth) + 10)
    with pytest.raises(BusyError):
        solo.submit(tx(solo, "operator", RegisterParty("eve", "ev-owner", key("eve").public)))


def test_sequences_count_what_waits(solo: SoloEngine) -> None:
    def code(ahead: int) -> str:
        with pytest.raises(Rejection) as refused:
            solo.submit(tx(solo, "grid", Deposit("operator", 5, f"x{ahead}"), ahead=ahead))
        return refused.value.code

    solo.submit(tx(solo, "grid", Deposit("operator", 5, "first")))
    solo.make_block(NOW)
    assert code(2) == "sequence_gap"  # also the first one must be in turn
    assert code(0) == "replayed"
    assert solo.next_sequence("grid") == 2
    solo.submit(tx(solo, "grid", Deposit("operator", 5, "a"), ahead=1))
    assert solo.next_sequence("grid") == 3
    assert code(1) == "replayed"
    assert code(3) == "sequence_gap"
    solo.submit(tx(solo, "grid", Deposit("operator", 5, "b"), ahead=2))
    assert [r.code for r in solo.make_block(NOW).results] == ["ok", "ok"]
    assert solo.state.get(Party, "grid").sequence == 3
    assert solo.waiting == 0


def test_has_work_when_something_waits_or_falls_due(solo: SoloEngine) -> None:
    assert not solo.has_work(NOW)
    founders = [
        RegisterParty("dan", "ev-owner", key("dan").public),
        RegisterParty("olga", "pile-owner", key("olga").public),
        RegisterPile("pile-1", "olga", key("pile-1").public, "m", "s", "north", 7000),
    ]
    for i, body in enumerate(founders):
        solo.submit(tx(solo, "operator", body, ahead=i + 1))
    solo.submit(tx(solo, "grid", Deposit("dan", 10**8, "d")))
    assert solo.has_work(NOW)
    solo.make_block(NOW)
    assert not solo.has_work(NOW)
    solo.submit(tx(solo, "dan", PlaceBid("north", "", 1000, START, END, 700_000, False, START, False, False)))
    solo.make_block(NOW)
    assert not solo.has_work(START - 1)
    assert solo.has_work(START)
    solo.make_block(START)
    assert solo.state.each(Bid) == []
    assert not solo.has_work(START + HOUR)
    solo.submit(tx(solo, "olga", List("pile-1", START, END, 1000, AT_MARKET, False)))
    solo.make_block(START)
    zone = solo.state.get(Zone, "north")
    solo.state.put(replace(zone, dirty=True))  # as a full clearing leaves it
    assert solo.has_work(START)
    assert len(solo.state.each(Listing)) == 1


def test_after_a_failed_commit_the_engine_stops_and_the_ledger_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    opened = engine(path)
    opened.submit(deposit(opened, 1))
    opened.make_block(NOW)
    opened._store._db.execute(f"PRAGMA max_page_count = {opened._store._db.execute('PRAGMA page_count').fetchone()[0]}")

    def commit_until_full() -> None:
        for number in range(2, 200):
            opened.submit(deposit(opened, number))
            opened.make_block(NOW + number)

    with pytest.raises(StoreError, match="full"):
        commit_until_full()
    height = opened.height
    for use in (lambda: opened.make_block(NOW), lambda: opened.submit(b"")):
        with pytest.raises(StoreError, match="stopped"):
            use()
    opened.close()
    reopened = engine(path)
    assert reopened.height == height
    assert reopened.state.balance_micro("P:operator") == 5 * height
    reopened.close()


def test_an_error_of_ours_stops_the_engine_before_it_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    opened = engine(path)
    opened.submit(deposit(opened, 1))

    def broken(state: State, journal: Journal) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(transition.invariants, "check", broken)
    with pytest.raises(ZeroDivisionError):
        opened.make_block(NOW)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="stopped"):
        opened.make_block(NOW)
    opened.close()
    reopened = engine(path)
    assert (reopened.height, reopened.state.balance_micro("P:operator")) == (0, 0)
    reopened.close()


def test_listeners_hear_of_each_block_after_it_is_durable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    opened = engine(path)
    heard: list[int] = []

    def listen(block: Block) -> None:
        with sqlite3.connect(path) as other:
            heard.append(other.execute("SELECT max(height) FROM block").fetchone()[0])
        other.close()
        assert opened.height == block.header.height

    opened.on_block(listen)
    for number in range(3):
        opened.submit(deposit(opened, number))
        opened.make_block(NOW)
    opened.close()
    assert heard == [1, 2, 3]


def test_a_rejected_transaction_is_in_the_block_with_its_code_but_not_found_as_accepted(solo: SoloEngine) -> None:
    twice = Deposit("operator", 5, "same")
    first = solo.submit(tx(solo, "grid", twice))
    second = solo.submit(tx(solo, "grid", twice, ahead=2))
    block = solo.make_block(NOW)
    assert [r.code for r in block.results] == ["ok", "exists"]
    assert (solo.find_tx(first.id), solo.find_tx(second.id)) == ((1, 0), None)


def test_a_reader_s_snapshot_stays_at_one_block_while_others_are_made(solo, tmp_path):
    reader = Store(tmp_path / "ledger.sqlite", solo.genesis.hash(), read_only=True)
    name = store_key(Party, "grid")
    solo.submit(tx(solo, "grid", Deposit("operator", 5, "first")))
    solo.make_block(NOW + 1000)
    with reader.snapshot():
        height, (before,) = reader.height(), reader.state_between(name, name, 5)
        solo.submit(tx(solo, "grid", Deposit("operator", 5, "second")))
        solo.make_block(NOW + 2000)
        assert (reader.height(), reader.state_between(name, name, 5)) == (height, [before])
    assert reader.height() == height + 1
    assert reader.state_between(name, name, 5) == [solo.state.get(Party, "grid").encoded()] != [before]
    parties = [store_key(Party, party.id) for party in solo.state.each(Party)]
    first, last = min(parties), max(parties)
    assert len(reader.state_between(first, last, 100)) == len(parties)
    assert reader.state_between(first, last, 1) == reader.state_between(last, last, 1)  # the last of them
    reader.close()
