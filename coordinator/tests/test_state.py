"""The state: its root is that of a snapshot, a roll-back leaves no trace, and history does not matter."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import run
from world import HOUR, NOW, Market, World, bounded, key

from pile_coordinator.chain.records import (
    Account,
    Bid,
    Dispute,
    Listing,
    Party,
    Payment,
    Record,
    Withdrawal,
    Zone,
)
from pile_coordinator.chain.state import State
from pile_coordinator.chain.tree import StateTree

HASHES = st.sampled_from([bytes([i]) * 32 for i in range(4)])
RECORDS = st.one_of(
    st.builds(Account, st.sampled_from(["X", "F", "P:a", "P:b", "E:00", "B:00"]), st.integers(-100, 100)),
    st.builds(Party, st.sampled_from("abcd"), st.just("grid"), st.just(b""), st.integers(0, 9), st.just(0)),
    st.builds(
        Zone,
        st.sampled_from("xy"),
        st.integers(1, 9),
        st.integers(1, 9),
        st.integers(0, 9),
        st.integers(0, 9),
        paused_until_ms=st.integers(0, 9),
        dirty=st.booleans(),
    ),
    st.builds(Payment, st.sampled_from(["r1", "r2"]), st.integers(1, 9)),
    st.builds(
        Bid,
        HASHES,
        st.just("a"),
        st.just("x"),
        st.just(""),
        st.just(100),
        st.just(0),
        st.just(9),
        st.just(1),
        st.booleans(),
        st.just(5),  # expires_ms and the limit never change
        st.integers(0, 9),
        st.booleans(),
        st.booleans(),
        st.integers(0, 16),
    ),
    st.builds(Withdrawal, HASHES, st.just("a"), st.integers(1, 9), st.just("bank")),
    st.builds(Dispute, HASHES, st.just("U"), st.just("cause"), st.just(5), st.integers(0, 9), st.just([])),
)
STEPS = st.lists(st.tuples(RECORDS, st.booleans()), max_size=25)


def play(state: State, steps: list[tuple[Record, bool]]) -> None:
    for record, keep in steps:
        if keep:
            state.put(record)
        elif state.find(type(record), record.key) is not None:
            state.drop(type(record), record.key)


def content(state: State) -> tuple:
    tables = {kind: dict(table) for kind, table in state._tables.items()}
    return tables, *[{k: total for k, total in totals.items() if total} for totals in (state.totals, state.owed)]


@given(STEPS, STEPS)
@bounded(300)
def test_a_roll_back_leaves_no_trace(kept: list, undone: list) -> None:
    state, twin = State(), State()
    play(state, kept)
    play(twin, kept)
    before, mark = content(state), state.mark()
    play(state, undone)
    state.roll_back(mark)
    assert content(state) == before
    assert state.seal()[0] == twin.seal()[0]
    assert [b.key for b in state.due(10)] == [b.key for b in twin.due(10)]


@given(STEPS, st.randoms())
@bounded(200)
def test_the_root_is_that_of_the_snapshot_whatever_the_history(steps: list, rng: random.Random) -> None:
    state, rows = State(), {}
    for part in (steps[:10], steps[10:]):
        play(state, part)
        root, changes = state.seal()
        assert changes == sorted(changes, key=lambda change: change[0])
        for row_key, value in changes:
            rows.pop(row_key, None) if value is None else rows.update({row_key: value})
    items = list(rows.items())
    rng.shuffle(items)
    loaded = State.load(items)
    assert loaded.seal()[0] == root == StateTree().update(items)
    assert content(loaded) == content(state)
    assert [b.key for b in loaded.due(10)] == [b.key for b in state.due(10)]


def test_every_entry_moves_the_root() -> None:
    tree = StateTree()
    empty = tree.root
    rows = [(bytes([i]), bytes([i])) for i in range(200)]
    roots = [tree.update([row]) for row in rows]
    assert len({empty, *roots}) == 201
    assert tree.update([(b"\x00", b"changed")]) != roots[-1]
    assert tree.update([(b"\x00", b"\x00")]) == roots[-1]
    assert tree.update([(row_key, None) for row_key, _ in rows]) == empty
    assert tree.update([(b"ab", b"c")]) != StateTree().update([(b"a", b"bc")]), "the border cannot be moved"


def test_a_whole_run_can_be_continued_from_its_snapshot() -> None:
    """Two worlds, one of which is reloaded from rows before every block, agree on every root."""
    roots = list(run(World.block))

    def reloading(world: World, *extra: bytes, time_ms: int | None = None) -> object:
        world.state = State.load(sorted(world.rows.items(), reverse=True))
        assert world.seal() == world.root
        return block(world, *extra, time_ms=time_ms)

    block = World.block
    assert list(run(reloading)) == roots
    assert len(set(roots)) == len(roots) > 20


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_block_roots_do_not_depend_on_the_hash_seed(seed: str) -> None:
    script = Path(__file__).with_name("recorded_run.py")
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    printed = subprocess.check_output([sys.executable, script], env=environment, text=True, timeout=60)
    assert printed.split() == [root.hex() for root in run(World.block)]


def test_due_gives_each_once_in_order_of_time_then_id() -> None:
    market = Market(users=3)
    ids = [market.bid(f"user-{i}", limit=1, expires=NOW + HOUR // (1 if i == 2 else 4)) for i in (1, 2, 3)]
    market.ok()
    early = sorted([ids[0], ids[2]])
    assert [due.id for due in market.state.due(NOW + HOUR)] == [*early, ids[1]]
    assert list(market.state.due(NOW + HOUR)) == []


def test_next_deadline_is_never_later_than_the_real_one() -> None:
    assert State().next_deadline_ms() is None
    market = Market(epoch_ms=3 * HOUR)
    assert market.state.next_deadline_ms() == NOW + 3 * HOUR, "the next epoch"
    market.bid(limit=1, expires=NOW + HOUR)
    market.ok()
    assert market.state.next_deadline_ms() == NOW + HOUR
    market.ok(time_ms=NOW + 3 * HOUR)
    assert market.state.next_deadline_ms() == NOW + 6 * HOUR


def test_a_listing_or_party_is_found_by_key_only_in_its_table() -> None:
    market = Market()
    assert market.state.find(Party, "pile-1") is None
    assert market.state.find(Listing, b"\x00" * 32) is None
    with pytest.raises(KeyError):
        market.state.get(Party, "nobody")
    assert [p.id for p in market.state.each(Party)] == sorted(p.id for p in market.state.each(Party))
    assert market.state.get(Party, "user-1").public == key("user-1").public
