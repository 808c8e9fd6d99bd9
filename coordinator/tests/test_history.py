"""A node that began with a snapshot gets the blocks from before it, and believes none that is not the chain's."""

import contextlib
import json
import multiprocessing
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from late_node import LATE, Link, evidence_of, fetch_until, honest, join, open_node, small_and_fast
from random_run import record
from sqlalchemy import select
from world import bounded

from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.transition import TxResult, result_of
from pile_coordinator.engines.comet import backfill
from pile_coordinator.engines.comet.backfill import Backfill, history_from, history_topic
from pile_coordinator.engines.comet.ledger import CometLedger
from pile_coordinator.engines.engine import Block, StoreError
from pile_coordinator.engines.history import (
    MAX_PARTS,
    ROOM_BYTES,
    Fetched,
    HistoryError,
    Shelf,
    decode_wanted,
    encode_wanted,
    read_block,
)
from pile_coordinator.engines.store import HANDOVER
from pile_coordinator.evidence import schema
from pile_coordinator.evidence.opening import reading
from pile_coordinator.evidence.queries import NoEvidenceError, order_certificate
from pile_coordinator.replay import audit
from pile_shared.certificate import Certificate, decode_handover, validators_from, validators_hash
from pile_shared.codec import array, decode, encode
from pile_shared.errors import BoundsError, CodecError, PilechainError
from pile_shared.platform import sha256

BLOCKS = 100
MOST = 1 << 27


class Recorded:
    """A chain of every transaction type and several sets of accounting nodes, as one node has it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        record(self.path, BLOCKS)
        self.genesis: Genesis = genesis_from_json(json.loads((folder / "genesis.json").read_text()))
        self.ledger = open_node(self.path, self.genesis)
        self.blocks = {height: self.ledger.store.block(height) for height in range(1, self.ledger.height + 1)}

    def entry(self, height: int) -> tuple[bytes, dict[bytes, bytes]]:
        """A block's bytes as they are sent, and its set by its hash."""
        row = self.ledger.store.row(height)
        assert row is not None
        shelf = Backfill(self.ledger, "grid", lambda: self.ledger.height, print)
        validators = shelf._set_of(self.blocks[height].header)
        assert validators is not None
        return encode(list(row)), {sha256(validators): validators}

    def read(self, entry: bytes, height: int, sets: dict[bytes, bytes] | None = None) -> Block:
        """What a late node makes of those bytes in place of the block of this height."""
        block = self.blocks[height]
        sets = self.entry(height)[1] if sets is None else sets
        return read_block(entry, self.ledger.chain_id, height, block.header.hash(), sets)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory):
    recorded = Recorded(tmp_path_factory.mktemp("chain"))
    yield recorded
    recorded.ledger.close()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    small_and_fast(monkeypatch)


@pytest.fixture
def late(tmp_path: Path, chain: Recorded):
    ledger = join(tmp_path / "late.sqlite", chain.ledger)
    yield ledger
    ledger.close()


def fields(block: Block) -> list[object]:
    """What is fetched of a block: all but the words of a refusal, which are no part of the chain."""
    return [block.certificate.fields(), block.txs, [replace(r, message="") for r in block.results], block.leaves]


def assert_same_blocks(late: CometLedger, chain: Recorded) -> None:
    """The late node has every block that the other has."""
    for height, block in chain.blocks.items():
        assert fields(late.store.block(height)) == fields(block)
        for result in block.results:
            assert late.store.find_tx(result.tx_id) == chain.ledger.store.find_tx(result.tx_id)


def assert_whole(late: CometLedger, chain: Recorded, folder: Path) -> None:
    """And they compute, and make the same evidence."""
    assert_same_blocks(late, chain)
    assert audit(late.store, chain.genesis, trust_signatures=True).height == BLOCKS
    late_rows, rows = (evidence_of(ledger, folder / f"{id(ledger)}.sqlite") for ledger in (late, chain.ledger))
    assert late_rows == rows
    assert len(rows["tx"]) > 500
    assert len(rows["handover"]) > 3


# --- all of it -------------------------------------------------------------------------------------------------------------


def test_everything_from_before_the_snapshot_is_fetched(late, chain, tmp_path, fast):
    assert (late.store.first_height(), late.store.height()) == (BLOCKS + 1, BLOCKS)
    link = Link(late, chain.ledger, {"grid": honest})
    link.fetch_all("grid")
    assert BLOCKS / 10 < len(link.asked) < BLOCKS * 3
    assert_whole(late, chain, tmp_path)


def test_readers_are_led_from_set_to_set_as_by_the_others(late, chain, fast):
    link = Link(late, chain.ledger, {"grid": honest})
    link.fetch_all("grid")
    believed, steps = list(chain.genesis.validators), 0
    while (message := late.store.handover_from(validators_hash(believed))) is not None:
        assert message == chain.ledger.store.handover_from(validators_hash(believed))
        certificate, following = decode_handover(message)
        certificate.verify(chain.ledger.chain_id, believed)
        believed, steps = validators_from(decode(following, 8192)), steps + 1
    assert steps > 2
    assert validators_hash(believed) == chain.blocks[BLOCKS].header.next_validators_hash


def test_a_set_that_ended_twice_is_left_for_the_last_time(late, chain, fast):
    """Whatever an earlier life of the node has left in its file."""
    headers = [block.header for block in chain.blocks.values()]
    ended = {h.validators_hash: h.height for h in headers if h.next_validators_hash != h.validators_hash}
    for place, (digest, height) in enumerate(ended.items()):
        stale = (height - 1, height + 1)[place % 2].to_bytes(8, "big") + b"stale"
        late.store.commit(None, [], {HANDOVER + digest.hex(): stale})
    Link(late, chain.ledger, {"grid": honest}).fetch_all("grid")
    found = [late.store.handover_from(digest) == b"stale" for digest in ended]
    assert found == [place % 2 == 1 for place in range(len(ended))]
    assert len(found) > 3


def test_certificates_of_orders_from_before_the_snapshot_are_the_same(late, chain, tmp_path, fast):
    Link(late, chain.ledger, {"grid": honest}).fetch_all("grid")
    made = [certificates(ledger, tmp_path / f"{place}.sqlite") for place, ledger in enumerate((late, chain.ledger))]
    assert made[0] == made[1]
    assert len(made[0]) > 10


def certificates(ledger: CometLedger, path: Path) -> dict[bytes, bytes]:
    """The certificate of every contract that has one."""
    evidence_of(ledger, path)
    found = {}
    engine = SimpleNamespace(genesis=ledger.genesis, block=ledger.store.block)
    with reading(str(path)) as db:
        closed = select(schema.contract.c.id).where(schema.contract.c.closed_height.is_not(None))
        for contract in db.execute(closed).scalars().all():
            with contextlib.suppress(NoEvidenceError):  # proposed and never signed
                found[contract] = order_certificate(db, engine, contract).encoded()
    return found


def test_who_was_late_can_give_what_it_was_given(late, chain, tmp_path, fast):
    link = Link(late, chain.ledger, {"grid": honest})
    link.fetch_all("grid")
    later = join(tmp_path / "later.sqlite", late)
    again = Link(later, late, {"late": honest})
    again.fetch_all("late")
    assert_same_blocks(later, chain)
    later.close()


def test_it_is_fetched_in_a_thread_and_a_liar_or_a_silent_node_is_left_for_another(late, chain, fast):
    def lies(answer: bytes) -> bytes:
        row = array(decode(answer, MOST), 5)
        return encode([row[0], row[1], row[2], [part[:-1] + bytes([part[-1] ^ 1]) for part in row[3]], row[4]])

    attesting = [*chain.ledger.validators_at(BLOCKS + 1), *chain.genesis.validators]
    silent, liar, good = sorted({v.party for v in attesting}, key=lambda name: (name < LATE, name))[:3]
    link = Link(late, chain.ledger, {silent: lambda _: None, liar: lies, good: honest})
    link.late.begin()
    link.late.begin()  # it runs
    link.late._thread.join(60)
    assert_same_blocks(late, chain)
    assert {silent, liar} <= set(link.late._away_until_s)
    assert good not in link.late._away_until_s
    assert link.logged[0] == f"fetches blocks {BLOCKS} to 1 from the other nodes"
    assert link.logged[-1] == "has every block since genesis"
    assert [line.partition(": ")[0] for line in link.logged[1:-1]] == [f"{liar} did not send block {BLOCKS}"]
    link.late.begin()
    assert not link.late._thread.is_alive()
    link.late.close()


def test_without_anybody_who_answers_it_waits_and_ends_when_told(late, chain, fast):
    asked, silent = threading.Event(), chain.genesis.validators[0].party
    link = Link(late, chain.ledger, {silent: lambda _: asked.set()})
    link.late.begin()
    assert asked.wait(20)
    link.late.close()
    assert not link.late._thread.is_alive()
    assert late.store.first_height() == BLOCKS + 1


def test_a_node_that_lacks_the_block_is_left_and_one_with_a_part_gives_it(late, chain, tmp_path, fast):
    other = join(tmp_path / "other.sqlite", chain.ledger)
    link = Link(late, other, {"grid": honest})  # which has nothing itself
    assert not link.late.fetch("grid")
    Link(other, chain.ledger, {"grid": honest}).late.fetch("grid")
    assert other.store.first_height() > 1
    while link.late.fetch("grid"):
        pass
    assert late.store.first_height() == other.store.first_height()
    other.close()


# --- killed ----------------------------------------------------------------------------------------------------------------


def test_killed_at_every_write_it_goes_on_where_it_was(tmp_path, chain, fast):
    whole, path = tmp_path / "whole.sqlite", tmp_path / "late.sqlite"
    chain.ledger.store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(chain.path, whole)
    join(path, chain.ledger).close()
    context, kills, statement = multiprocessing.get_context("fork"), 0, 0
    reached = BLOCKS + 1
    while True:
        statement += 1 if statement < 28 else 300  # an answer's blocks take some 25
        child = context.Process(target=fetch_until, args=(statement, whole, path, chain.genesis))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -9
        kills += 1
        late = open_node(path, chain.genesis)
        heights = [row[0] for row in late.store._db.execute("SELECT height FROM block ORDER BY height")]
        assert heights == list(range(late.store.first_height(), BLOCKS + 1))  # a whole answer or nothing of it
        assert late.store.first_height() <= reached
        reached = late.store.first_height()
        late.close()
    assert kills >= 28
    late = open_node(path, chain.genesis)
    assert_whole(late, chain, tmp_path)
    late.close()


def test_a_block_that_is_not_the_next_is_not_written(late, chain):
    pairs = [(chain.blocks[height], b"-") for height in (BLOCKS, BLOCKS - 1, BLOCKS - 2)]
    header = chain.blocks[BLOCKS - 1].certificate.header
    header.time_ms += 1
    other = replace(chain.blocks[BLOCKS - 1], certificate=Certificate(header.encoded(), []))
    for wrong in (
        [pairs[1]],
        [pairs[0], pairs[2]],
        [pairs[1], pairs[0]],
        [pairs[0], pairs[0]],
        [pairs[0], (other, b"-")],
    ):
        with pytest.raises(StoreError, match="is not the one below"):
            late.store.prepend(wrong)
        assert late.store.first_height() == BLOCKS + 1
    late.store.prepend(pairs)
    assert late.store.first_height() == BLOCKS - 2


# --- what is believed ------------------------------------------------------------------------------------------------------


def test_a_block_is_read_as_it_was_made(chain):
    for height, block in chain.blocks.items():
        entry, _ = chain.entry(height)
        read = chain.read(entry, height)
        assert fields(read) == fields(block)
        assert {result.message for result in read.results} <= {""}


def test_a_block_with_any_byte_changed_is_refused(chain):
    """All of it is covered: by the header's hash, by its roots, or by the signatures."""
    height = min(chain.blocks, key=lambda h: len(chain.entry(h)[0]))
    entry, _ = chain.entry(height)
    for place in range(len(entry)):
        broken = bytearray(entry)
        broken[place] ^= 1 << place % 8
        with pytest.raises(PilechainError):
            chain.read(bytes(broken), height)


def altered(entry: bytes, place: int, change) -> bytes:
    """A block's bytes with a change to the decoded header bytes, attestations, transactions or leaves."""
    row = array(decode(entry, MOST), 4)
    row[place] = encode(change(decode(row[place], MOST))) if place else change(row[place])
    return encode(row)


def test_a_block_that_lacks_something_is_refused_with_the_reason(chain):
    height = max(chain.blocks, key=lambda h: len(chain.blocks[h].txs))
    entry, sets = chain.entry(height)
    one_more, one_less = (lambda rows: [*rows, rows[-1]]), (lambda rows: rows[:-1])

    def swapped(rows: list) -> list:
        return [rows[1], rows[0], *rows[2:]]

    reasons = {
        altered(entry, 0, lambda data: data + b"\0"): "history",
        altered(entry, 0, lambda _: bytes(600)): "bounds",
        chain.entry(height + 1)[0]: "history",
        altered(entry, 1, lambda _: []): "quorum",
        altered(entry, 1, lambda rows: rows[:2]): "quorum",
        altered(entry, 1, one_more): "codec",
        altered(entry, 1, swapped): "bounds",
        altered(entry, 1, lambda rows: [[0, rows[1][1]], *rows[1:]]): "signature",
        altered(entry, 2, one_less): "history",
        altered(entry, 2, one_more): "history",
        altered(entry, 2, swapped): "history",
        altered(entry, 2, lambda rows: [7, *rows[1:]]): "bounds",
        altered(entry, 3, one_less): "history",
        altered(entry, 3, swapped): "history",
        altered(entry, 3, lambda rows: rows[::-1]): "history",
        encode([1, 2, 3]): "codec",
        b"": "codec",
    }
    for broken, code in reasons.items():
        with pytest.raises(PilechainError) as caught:
            chain.read(broken, height)
        assert caught.value.code == code, caught.value
    with pytest.raises(HistoryError, match="accounting nodes"):
        chain.read(entry, height, {})
    (digest,) = sets
    with pytest.raises(PilechainError):
        chain.read(entry, height, {digest: encode([["x", bytes(65), 1]])})


def test_results_are_made_again_from_their_leaves(chain):
    kinds = set()
    for block in chain.blocks.values():
        for index, result in enumerate(block.results):
            assert result_of(block.leaves[index], index) == replace(result, message="")
            kinds |= {result.code, *result.details}
    assert {"ok", "admitted", "gap", "duplicate", "bad_signature", "replayed", "malformed"} <= kinds


@pytest.mark.parametrize(
    "leaf",
    [
        encode([0, 1, bytes(32), "ok"]),
        encode([1, 0, bytes(32), "ok"]),
        encode([0, 0, bytes(32)]),
        encode([0, 0, bytes(32), "ok", []]),
        encode([0, 0, bytes(32), "ok", ["admitted"], 1]),
        encode([False, 0, bytes(32), "ok"]),
        encode([0, 0, bytes(33), "ok"]),
        encode([0, 0, bytes(32), ""]),
        b"",
    ],
)
def test_what_is_no_result_makes_none(leaf):
    with pytest.raises((CodecError, BoundsError)):
        result_of(leaf, 0)
    assert result_of(encode([0, 0, bytes(32), "ok"]), 0) == TxResult(bytes(32), "ok", "")


# --- answers ---------------------------------------------------------------------------------------------------------------


def answer(chain: Recorded, height: int = BLOCKS, offset: int = 0) -> bytes:
    said: list[bytes] = []
    node = Backfill(chain.ledger, "grid", lambda: chain.ledger.height, print)
    node.publish = lambda _topic, payload, _retained: said.append(payload)
    assert node.answer(LATE, encode_wanted("grid", height, offset)) == ""
    (payload,) = said
    return payload


def fetched(chain: Recorded, height: int = BLOCKS) -> Fetched:
    return Fetched(chain.ledger.chain_id, height, chain.blocks[height].header.hash())


def test_an_answer_is_bounded_and_has_the_blocks_below(chain):
    page = fetched(chain)
    assert page.take(answer(chain))
    heights = [block.header.height for block, _ in page.blocks]
    assert heights == list(range(BLOCKS, BLOCKS - len(heights), -1))
    assert 5 < len(heights) <= MAX_PARTS
    assert ROOM_BYTES / 2 < len(answer(chain)) < ROOM_BYTES + 20_000


def test_a_wrong_answer_is_refused_and_nothing_of_it_kept(chain):
    row = array(decode(answer(chain), MOST), 5)
    height, offset, size, parts, sets = row
    wrong = [
        [height - 1, offset, size, parts, sets],
        [height, offset + 1, size, parts, sets],
        [height, offset, size + 1, parts, sets],
        [height, offset, size - 1, parts, sets],
        [height, offset, MOST + 1, parts[:1], sets],
        [height, offset, size, [parts[1], parts[0]], sets],
        [height, offset, size, [*parts[:2], parts[1]], sets],
        [height, offset, size, [parts[0], parts[2]], sets],
        [height, offset, size, [parts[0], b""], sets],
        [height, offset, size, [parts[0][:-1], parts[1]], sets],
        [height, offset, size, parts, []],
        [height, offset, size, parts, [bytes(9000)]],
        [height, offset, size, parts * MAX_PARTS, sets],
        row[:4],
        [],
    ]
    for said in wrong:
        page = fetched(chain)
        with pytest.raises(PilechainError):
            page.take(encode(said))
        assert page.blocks == []
    assert not fetched(chain).take(encode([height, offset, 0, [], []]))  # it has none


@given(st.binary(max_size=200) | st.lists(st.integers() | st.binary(max_size=9), max_size=6).map(repr).map(str.encode))
@bounded(200)
def test_any_bytes_are_refused(data):
    page = Fetched("chain", 7, bytes(32))
    with pytest.raises(PilechainError):
        page.take(data)
    assert not page.is_passed(data)
    with pytest.raises(PilechainError):
        decode_wanted(data)


def test_an_answer_to_an_earlier_question_is_passed_over(late, chain, fast):
    first = answer(chain)
    assert not fetched(chain).is_passed(first)
    assert fetched(chain, BLOCKS - 1).is_passed(first)
    link = Link(late, chain.ledger, {"grid": honest})
    assert link.late.fetch("grid")
    before = late.store.first_height()
    link.late._answers.put(first)  # the broker repeats it
    assert link.late.fetch("grid")
    assert late.store.first_height() < before
    link.late._answers.put(first)
    assert link.late.offer("operator", first) == "not_asked"
    said = [link.late.offer("grid", first) for _ in range(backfill.MAX_HEARD)]
    assert said == [""] * (backfill.MAX_HEARD - 1) + ["not_asked"]  # as many as wait already


def test_a_node_answers_for_itself_and_not_more_than_it_may(chain, monkeypatch):
    monkeypatch.setattr(backfill.time, "monotonic", lambda: 7.5)
    said: list[bytes] = []
    node = Backfill(chain.ledger, "grid", lambda: BLOCKS - 1, print)
    node.publish = lambda _topic, payload, _retained: said.append(payload)
    assert node.answer(LATE, encode_wanted("operator", 5, 0)) == ""
    assert node.answer(LATE, b"x") == "codec"
    assert node.answer(LATE, encode(["grid", 0, 0])) == "bounds"
    assert said == []
    for height in (BLOCKS, BLOCKS + 1, BLOCKS - 1):  # what is not certified here is not given
        node.answer(LATE, encode_wanted("grid", height, 0))
    assert [array(decode(payload, MOST), 5)[2] > 0 for payload in said] == [False, False, True]
    for _ in range(30):
        node.answer(LATE, encode_wanted("grid", 5, 0))
    assert len(said) == backfill.ANSWERS_PER_S


def test_a_block_whose_set_is_not_known_is_not_given():
    shelf = Shelf(lambda _: None, lambda _: None)
    assert decode(shelf.answer(5, 0), 64) == [5, 0, 0, [], []]


def test_topics():
    topic = history_topic("chain", "grid", "north")
    assert history_from("chain", topic, "north") == "grid"
    for other in (history_topic("other", "grid", "north"), topic + "/x", "x", history_topic("chain", "grid", "south")):
        assert history_from("chain", other, "north") is None
