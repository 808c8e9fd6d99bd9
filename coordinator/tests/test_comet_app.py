"""The application as CometBFT uses it: nothing before Commit, everything twice, and the same blocks as the solo engine."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from comet_app import CONSENSUS, App, signers
from recorded_run import run
from world import NOW, VERIFY, World, genesis, key

from pile_coordinator.chain import transition
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.records import Party
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transactions import Deposit, RegisterParty, RegisterPile, SubmitProofs, sign_transaction
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.pool import MAX_AHEAD, framed_bytes
from pile_coordinator.engines.comet.snapshots import Snapshots, chunks_of, describe
from pile_coordinator.engines.engine import StoreError
from pile_coordinator.engines.solo import SoloEngine
from pile_shared.codec import encode
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT


@pytest.fixture
def app(tmp_path):
    opened = App(tmp_path)
    opened.init_chain()
    yield opened
    opened.close()


def deposit(number: int, sequence: int, sender: str = "grid", **over) -> bytes:
    chain_id = over.get("chain_id", genesis().chain_id)
    return sign_transaction(key(sender), chain_id, sender, sequence, 1000, Deposit("operator", 5, f"n{number}"))


def restarted(app: App, folder: Path, **options) -> App:
    app.close()
    return App(folder, **options)


# --- what CometBFT demands of every application --------------------------------------------------------------------------


def test_finalize_persists_nothing_and_commit_everything(app, tmp_path):
    done = app.finalize(1, NOW + 5, [deposit(1, 1)])
    assert [result.code for result in done.tx_results] == [0]
    app = restarted(app, tmp_path)  # killed between FinalizeBlock and Commit
    info = app.ask("info")
    assert (info.last_block_height, info.last_block_app_hash) == (0, b"")
    app.init_chain()
    again = app.decide(1, NOW + 5, [deposit(1, 1)])
    assert again.app_hash == done.app_hash
    app = restarted(app, tmp_path)
    info = app.ask("info")
    assert (info.last_block_height, info.last_block_app_hash) == (1, done.app_hash)
    assert app.ledger.state.get(Party, "grid").sequence == 1
    app.close()


def test_results_have_the_same_code_in_a_release_that_knows_other_refusals(app):
    refused = [deposit(1, 1, "auditor"), deposit(1, 7), deposit(1, 1, chain_id="other-00000000"), b"x"]
    done = app.finalize(1, NOW + 5, [deposit(1, 1), *refused])
    assert [(result.code, result.log != "") for result in done.tx_results] == [(0, False)] + [(1, True)] * 4


def test_finalize_may_be_asked_again_and_gives_the_same(app):
    first = app.finalize(1, NOW + 5, [deposit(1, 1)])
    assert app.finalize(1, NOW + 5, [deposit(1, 1)]) == first
    app.ask("commit")
    assert app.ledger.height == 1


def test_another_block_of_an_uncommitted_height_begins_at_the_store_again(app):
    app.finalize(1, NOW + 5, [deposit(1, 1)])
    done = app.decide(1, NOW + 5, [deposit(2, 1)], hash=bytes(32))
    other = App(Path(app.ledger.store._db.execute("PRAGMA database_list").fetchone()[2]).parent / "other")
    assert other.decide(1, NOW + 5, [deposit(2, 1)], hash=bytes(32)).app_hash == done.app_hash
    other.close()


def test_init_chain_repeats_and_knows_its_own_chain(app):
    assert app.init_chain().app_hash == app.init_chain().app_hash == app.genesis.hash()
    with pytest.raises(ConfigError, match="pilechain init"):
        app.init_chain(chain_id="other-00000000")
    with pytest.raises(ConfigError, match="pilechain init"):
        app.init_chain(validators=[{"pub_key": {"ed25519": CONSENSUS["grid"]}, "power": 1}])


def test_heights_must_follow_each_other(app):
    app.decide(1, NOW + 5, [])
    with pytest.raises(StoreError, match="decided 3 after 1"):
        app.finalize(3, NOW + 6, [])
    with pytest.raises(StoreError, match="commits"):
        app.ask("commit")


def test_a_proposer_that_genesis_lacks_stops_the_node(app, monkeypatch):
    with pytest.raises(StoreError, match="proposed by"):
        app.finalize(1, NOW + 5, [deposit(1, 1)], proposer_address=bytes(20))
    with pytest.raises(StoreError, match="open it again"):
        app.finalize(1, NOW + 5, [deposit(1, 1)])


def test_an_error_of_ours_is_never_followed_by_a_commit(app, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setitem(transition._CARRY_OUT, Deposit, broken)
    with pytest.raises(ZeroDivisionError):
        app.finalize(1, NOW + 5, [deposit(1, 1)])
    with pytest.raises(StoreError):
        app.ask("commit")


def test_idle_blocks_are_none_of_ours_and_keep_the_app_hash(app, tmp_path):
    done = app.decide(1, NOW + 5, [deposit(1, 1)])
    for height in range(2, 5):
        assert app.decide(height, NOW + height * 1000, []).app_hash == done.app_hash
    assert (app.ledger.height, app.ledger.comet_height) == (1, 4)
    app = restarted(app, tmp_path)
    assert app.ask("info").last_block_height == 4
    assert app.decide(5, NOW + 25 * 3_600_000, []).app_hash != done.app_hash  # an epoch began: something was to be done
    assert app.ledger.height == 2
    app.close()


def test_time_does_not_go_back(app):
    app.decide(1, NOW + 5, [deposit(1, 1)])
    app.decide(2, NOW + 3, [deposit(2, 2)])
    assert [block.header.time_ms for block in app.blocks] == [NOW + 5, NOW + 5]


def test_questions_and_votes_are_answered(app):
    assert app.ask("echo", message="x").message == "x"
    assert b'"height": 0' in app.ask("query", path="status").value
    assert app.ask("query", path="/store").code == 1
    assert app.ask("extend_vote", height=1).vote_extension == b""
    accept, reject = abci.ResponseVerifyVoteExtension.ACCEPT, abci.ResponseVerifyVoteExtension.REJECT
    assert app.ask("verify_vote_extension").status == accept
    assert app.ask("verify_vote_extension", vote_extension=b"x").status == reject
    response = app.application.handle(abci.Request(insert_tx=abci.RequestInsertTx(tx=b"x")))
    assert "flood" in response.exception.error


# --- what waits ----------------------------------------------------------------------------------------------------------


def test_check_tx_takes_what_may_succeed(app):
    assert app.check(deposit(1, 1)).code == 0
    assert app.check(deposit(1, 1)).code == 0  # asked again about the same
    assert app.check(deposit(2, 2)).code == 0
    refused = {
        deposit(3, 1): "waits",  # another one in the same place
        deposit(4, MAX_AHEAD + 1): "sequence_gap",
        deposit(5, 5, chain_id="other-00000000"): "wrong_chain",
        deposit(6, 1, "auditor"): "wrong_role",
        deposit(7, 1, "nobody"): "unknown_sender",
        b"": "malformed",
        bytes(70_000): "oversized",
    }
    for tx, code in refused.items():
        answer = app.check(tx)
        assert (answer.code, answer.codespace) == (1, code), answer
    app.decide(1, NOW + 5, [deposit(1, 1)])
    assert app.check(deposit(1, 1), again=True).codespace == "replayed"
    assert app.check(deposit(2, 2), again=True).code == 0


def test_cheap_checks_come_before_the_signature(app):
    asked = []
    app.ledger.verify._verify = lambda *claim: asked.append(claim) or False
    app.check(deposit(1, MAX_AHEAD + 1))
    assert asked == []
    assert app.check(deposit(1, 1)).codespace == "bad_signature"
    assert len(asked) == 1


def test_proofs_that_wait_or_are_known_are_refused_early(app):
    world = World()
    said = [
        sign_transaction(
            key("operator"),
            app.genesis.chain_id,
            "operator",
            1,
            1000,
            RegisterParty("o", "pile-owner", key("o").public),
        ),
        sign_transaction(
            key("operator"),
            app.genesis.chain_id,
            "operator",
            2,
            1000,
            RegisterPile("p", "o", key("p").public, "SDM630", "1", "north", 7000),
        ),
    ]
    app.decide(1, NOW + 5, said)
    one, two = (world.prove("p", HEARTBEAT, [(NOW + i, 100)]) for i in (1, 2))

    def batch(sender: str, sequence: int, *proofs: bytes) -> bytes:
        return sign_transaction(key(sender), app.genesis.chain_id, sender, sequence, 1000, SubmitProofs(list(proofs)))

    first = batch("operator", 3, one)
    assert app.check(first).code == 0
    assert app.check(batch("grid", 1, one)).codespace == "waits"
    assert app.check(batch("grid", 1, one, two)).code == 0  # something in it is new
    app.decide(2, NOW + 6, [first])
    assert app.check(batch("grid", 1, one)).codespace == "waits"
    assert app.check(batch("grid", 1, two)).code == 0
    fork = World().prove("p", HEARTBEAT, [(NOW + 9, 100)])
    assert app.check(batch("operator", 4, fork)).code == 0  # it has to come to light


def test_a_correct_proposers_proposal_is_accepted_and_no_other(app):
    one, two, three = (deposit(i, i) for i in (1, 2, 3))
    other = deposit(9, 1, "operator")
    assert app.proposal([three, other, one, two]) == [other, one, two, three]
    assert app.proposal([one, three]) == [one]
    assert app.proposal([one, one, deposit(1, 1, "nobody"), b"x"]) == [one]
    for good in ([], [one], [other, one, two, three], app.proposal([two, other, one])):
        assert app.accepts(good)
    broken = bytearray(one)
    broken[-1] ^= 1
    for bad in (
        [two],
        [one, three],
        [one, one],
        [b""],
        [bytes(broken)],
        [one, deposit(8, 1)],
        [deposit(1, 1, "nobody")],
    ):
        assert not app.accepts(bad)
    assert app.ledger.height == 0
    assert (
        app.finalize(1, NOW, [one]).app_hash == App(Path(app.snapshots._folder) / "x").finalize(1, NOW, [one]).app_hash
    )


def test_a_proposal_keeps_to_its_bytes(app):
    txs = [deposit(i, i) for i in range(1, 6)]
    for room in range(0, 3 * framed_bytes(txs[0]) + 1, 37):
        chosen = app.proposal(txs, room)
        assert sum(map(framed_bytes, chosen)) <= room
        assert chosen == txs[: len(chosen)]
    framed = abci.ResponsePrepareProposal(txs=txs)  # repeated bytes, field 1, as in CometBFT's Data
    assert sum(map(framed_bytes, txs)) == len(framed.SerializeToString())


# --- the same chain as the solo engine -------------------------------------------------------------------------------------


def test_solo_and_comet_give_the_same_blocks_for_the_same_transactions(tmp_path):
    hashes, results = both_engines(tmp_path, 120)
    assert len(hashes) > 100
    assert results["ok"] > 400
    assert len(results) > 3  # refused ones are part of blocks too


def both_engines(folder: Path, blocks: int) -> tuple[list[bytes], Counter]:
    """Play the recorded run on both, block by block; the hashes of headers, which cover everything, and the result codes."""
    folder.mkdir(exist_ok=True)
    both: list[_Both] = []

    def block(world: World, *extra: bytes, time_ms: int | None = None):
        if not both:
            both.append(_Both(folder, world.genesis))
        time_ms = max(world.time_ms, time_ms or world.time_ms + 1000)
        return both[0].play(world, list(world.queue), time_ms)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(World, "block", block)
        roots = list(run(block, blocks))
    assert roots[-1] == both[0].solo.state.seal()[0]
    both[0].close()
    return both[0].hashes, both[0].results


APPLY = World.block  # while the run plays it is another


class _Both:
    """The two engines, and the world whose random parties see what the engines made of their transactions."""

    def __init__(self, folder: Path, founded) -> None:
        self.solo = SoloEngine(folder / "solo.sqlite", founded, signers())
        self.app = App(folder / "comet", founded)
        self.app.init_chain()
        self.hashes: list[bytes] = []
        self.results: Counter = Counter()

    def play(self, world: World, txs: list[bytes], time_ms: int):
        seed = self.solo.previous
        solo, app = self.solo, self.app
        solo._waiting = [(None, tx) for tx in txs]  # whatever was sent, that which is refused too
        made = solo.make_block(time_ms) if solo.has_work(max(time_ms, solo.time_ms)) else None
        before = app.ledger.height
        done = app.decide(app.ledger.comet_height + 1, time_ms, txs, proposer=made.header.proposer if made else "grid")
        assert app.ledger.height - before == (made is not None)
        if made is not None:
            assert app.blocks[-1].header.encoded() == made.header.encoded()
            assert (app.blocks[-1].results, app.blocks[-1].leaves) == (made.results, made.leaves)
            assert done.app_hash == made.header.hash()
            self.hashes.append(done.app_hash)
            self.results.update(result.code for result in made.results)
        world.env = lambda: Env(world.chain_id, world.height + 1, world.time_ms, seed, VERIFY)
        outcome = APPLY(world, time_ms=time_ms)
        assert made is None or world.root == made.header.state_root
        return outcome

    def close(self) -> None:
        self.app.close()
        self.solo.close()


def test_the_order_of_hashing_does_not_show(tmp_path):
    """Ten replays under different hash seeds give the headers that this process gives."""
    here, _ = both_engines(tmp_path / "here", 30)
    for seed in range(10):
        done = subprocess.run(
            [sys.executable, __file__, str(tmp_path / str(seed))],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [digest.hex() for digest in here]


# --- snapshots -------------------------------------------------------------------------------------------------------------


def filled(folder: Path, chain=None, parties: int = 50) -> App:
    app = App(folder, chain, interval=2)
    app.init_chain()
    said = []
    for i in range(parties):
        body = RegisterParty(f"user-{i}", "ev-owner", key(f"user-{i}").public)
        said.append(sign_transaction(key("operator"), app.genesis.chain_id, "operator", i + 1, 1000, body))
    app.decide(1, NOW + 5, said)
    app.decide(2, NOW + 6, [deposit(1, 1)])
    app.snapshots.wait()
    app.decide(3, NOW + 7, [deposit(2, 2)])
    return app


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("pile_coordinator.engines.comet.snapshots.CHUNK_BYTES", 1000)


@pytest.mark.usefixtures("small_chunks")
def test_a_snapshot_is_the_same_on_every_node_and_makes_the_state_again(tmp_path):
    app, twin = filled(tmp_path / "a"), filled(tmp_path / "b")
    (snapshot,) = app.ask("list_snapshots").snapshots
    assert app.ask("list_snapshots") == twin.ask("list_snapshots")
    assert (snapshot.height, snapshot.chunks > 5) == (2, True)
    trusted = app.ledger.store.block(2).header.hash()
    joiner = App(tmp_path / "joiner")
    offered = joiner.ask("offer_snapshot", snapshot=snapshot, app_hash=trusted)
    assert offered.result == abci.ResponseOfferSnapshot.ACCEPT
    for index in range(snapshot.chunks):
        chunks = [n.ask("load_snapshot_chunk", height=2, format=1, chunk=index).chunk for n in (app, twin)]
        assert chunks[0] == chunks[1]
        applied = joiner.ask("apply_snapshot_chunk", index=index, chunk=chunks[0])
        assert applied.result == abci.ResponseApplySnapshotChunk.ACCEPT
    info = joiner.ask("info")
    assert (info.last_block_height, info.last_block_app_hash) == (2, trusted)
    done = joiner.decide(3, NOW + 7, [deposit(2, 2)])
    assert done.app_hash == app.ledger.app_hash
    joiner = restarted(joiner, tmp_path / "joiner")
    assert (joiner.ledger.height, joiner.ledger.store.first_height()) == (3, 3)
    for opened in (app, twin, joiner):
        opened.close()


@pytest.mark.usefixtures("small_chunks")
def test_blocks_that_are_committed_meanwhile_are_not_in_a_snapshot(tmp_path, monkeypatch):
    twin, committed = filled(tmp_path / "twin"), threading.Event()

    def slow(rows):
        assert committed.wait(30)
        return chunks_of(rows)

    monkeypatch.setattr("pile_coordinator.engines.comet.snapshots.chunks_of", slow)
    with pytest.MonkeyPatch.context() as unwaited:
        unwaited.setattr(Snapshots, "wait", lambda _: None)
        app = filled(tmp_path / "a")  # commits block 3 while the snapshot of block 2 is not begun
    assert app.ledger.height == 3
    committed.set()
    app.snapshots.wait()
    assert app.ask("list_snapshots") == twin.ask("list_snapshots")
    for opened in (app, twin):
        opened.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_snapshot_that_lies_is_refused(tmp_path):
    app = filled(tmp_path / "a")
    (snapshot,) = app.ask("list_snapshots").snapshots
    trusted = app.ledger.store.block(2).header.hash()
    joiner = App(tmp_path / "joiner")
    offer, answer = abci.ResponseOfferSnapshot, abci.ResponseApplySnapshotChunk
    assert joiner.ask("offer_snapshot", snapshot=snapshot, app_hash=bytes(32)).result == offer.REJECT
    other = abci.Snapshot.FromString(snapshot.SerializeToString())
    other.format = 2
    assert joiner.ask("offer_snapshot", snapshot=other, app_hash=trusted).result == offer.REJECT_FORMAT
    for spoilt in ({"metadata": b"x"}, {"chunks": snapshot.chunks + 1}, {"hash": bytes(32)}):
        fields = {
            "height": 2,
            "format": 1,
            "chunks": snapshot.chunks,
            "hash": snapshot.hash,
            "metadata": snapshot.metadata,
        }
        wrong = abci.Snapshot(**{**fields, **spoilt})
        assert joiner.ask("offer_snapshot", snapshot=wrong, app_hash=trusted).result == offer.REJECT
    joiner.ask("offer_snapshot", snapshot=snapshot, app_hash=trusted)
    wrong = joiner.ask("apply_snapshot_chunk", index=0, chunk=b"\x80", sender="liar")
    assert (wrong.result, list(wrong.refetch_chunks), list(wrong.reject_senders)) == (answer.RETRY, [0], ["liar"])
    assert joiner.ledger.height == 0
    app.close()
    joiner.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_snapshot_of_another_state_under_the_trusted_header_is_refused(tmp_path):
    app = filled(tmp_path / "a")
    folder = tmp_path / "forged"
    app.snapshots.wait()
    app.close()
    db = sqlite3.connect(tmp_path / "a" / "ledger.sqlite")
    (rowid,) = db.execute("SELECT min(key) FROM state").fetchone()
    rows = db.execute("SELECT key, value FROM state WHERE key != ? ORDER BY key", (rowid,)).fetchall()
    app = App(tmp_path / "a")
    chunks = list(chunks_of(iter(rows)))
    header = app.ledger.store.block(2).certificate.header_bytes
    forged = describe(2, encode([header, [sha256(c) for c in chunks]]))
    joiner = App(folder)
    fields = {"height": 2, "format": 1, "chunks": forged.chunks, "hash": forged.hash, "metadata": forged.description}
    offered = joiner.ask("offer_snapshot", snapshot=abci.Snapshot(**fields), app_hash=sha256(header))
    assert offered.result == abci.ResponseOfferSnapshot.ACCEPT
    results = [joiner.ask("apply_snapshot_chunk", index=i, chunk=c).result for i, c in enumerate(chunks)]
    assert results[-1] == abci.ResponseApplySnapshotChunk.REJECT_SNAPSHOT
    assert (joiner.ledger.height, joiner.ledger.store.height()) == (0, 0)
    app.close()
    joiner.close()


def test_two_snapshots_are_kept(tmp_path):
    app = filled(tmp_path)
    for height in range(4, 11):
        app.decide(height, NOW + height * 10, [deposit(height, height - 1)])
        app.snapshots.wait()
    assert [s.height for s in app.ask("list_snapshots").snapshots] == [8, 10]
    assert json.loads(app.ask("query", path="status").value)["snapshot"] == 10
    app.close()


@pytest.mark.usefixtures("small_chunks")
def test_a_state_that_is_too_large_for_a_snapshot_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("pile_coordinator.engines.comet.snapshots.MAX_CHUNKS", 3)
    app = filled(tmp_path)
    assert any("more than 3 chunks" in line for line in app.logged)
    assert list((tmp_path / "snapshots").iterdir()) == []
    app.close()


def test_addresses_are_comets():
    assert len(address_of(CONSENSUS["grid"])) == 20


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print("\n".join(digest.hex() for digest in both_engines(folder, 30)[0]))
