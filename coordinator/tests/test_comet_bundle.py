"""Bundles: an envelope that changes what CometBFT carries, and nothing that a block of ours says."""

import itertools
import random

import pytest
from comet_app import App
from hypothesis import given
from hypothesis import strategies as st
from world import NOW, genesis, key

from pile_coordinator.chain.transactions import Deposit, RegisterParty, sign_transaction
from pile_coordinator.chain.transition import check_tx
from pile_coordinator.engines.comet import pool
from pile_coordinator.engines.comet.bundle import MAX_BUNDLED, MAX_ENTRY_BYTES, pack, unpack
from pile_coordinator.engines.comet.pool import MAX_AHEAD, framed_bytes
from pile_shared.codec import encode

START = b"\xd2\x84"  # of every transaction
TXS = st.lists(st.binary(min_size=0, max_size=400).map(lambda rest: START + rest), max_size=300)


@pytest.fixture
def app(tmp_path):
    opened = App(tmp_path)
    opened.init_chain()
    yield opened
    opened.close()


def said(number: int, sequence: int, sender: str = "grid", valid_until: int = 1000) -> bytes:
    """Something that the grid may book or, sent by the operator, whom it may register."""
    public = key(f"user-{number}").public
    body = (
        Deposit("operator", 5, f"n{number}")
        if sender == "grid"
        else RegisterParty(f"user-{number}", "ev-owner", public)
    )
    return sign_transaction(key(sender), genesis().chain_id, sender, sequence, valid_until, body)


def bundle(*txs: bytes) -> bytes:
    (entry,) = pack(list(txs))
    return entry


# --- the envelope --------------------------------------------------------------------------------------------------------


@given(TXS)
def test_what_is_packed_is_unpacked_in_its_order(txs):
    entries = pack(txs)
    assert [tx for entry in entries for tx in unpack(entry)] == txs
    for entry in entries:
        assert len(entry) <= MAX_ENTRY_BYTES
        assert len(unpack(entry)) <= MAX_BUNDLED


@pytest.mark.parametrize(("count", "entries"), [(MAX_BUNDLED, 1), (MAX_BUNDLED + 1, 2), (2 * MAX_BUNDLED, 2)])
def test_no_more_are_packed_than_are_unpacked(count, entries):
    txs = [START + number.to_bytes(2, "big") for number in range(count)]
    assert len(pack(txs)) == entries
    assert [tx for entry in pack(txs) for tx in unpack(entry)] == txs


@given(st.lists(st.integers(1, 65_000), min_size=1, max_size=8))
def test_long_transactions_are_packed_as_far_as_they_fit(lengths):
    txs = [START + bytes(length - 2) if length > 2 else START for length in lengths]
    entries = pack(txs)
    assert [tx for entry in entries for tx in unpack(entry)] == txs
    assert all(len(entry) <= MAX_ENTRY_BYTES for entry in entries)
    for one, other in itertools.pairwise(entries):
        first = unpack(other)[0]
        assert len(one) + len(first) > MAX_ENTRY_BYTES - 12  # no smaller number of entries would hold them


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda data: b"\x82" + data))
def test_no_bytes_are_too_strange_and_none_have_two_meanings(data):
    txs = unpack(data)
    assert txs == [data] or pack(txs) == [data]


@pytest.mark.parametrize(
    "value", [[], [b"x"], [b"x", "x"], [b"x", [b"y"]], [b"x"] * (MAX_BUNDLED + 1), [bytes(40_000), bytes(40_000)]]
)
def test_what_only_looks_like_a_bundle_is_one_transaction(app, value):
    entry = encode(value)
    assert unpack(entry) == [entry]
    assert app.check(entry).codespace in {"malformed", "oversized"}
    assert not app.accepts([entry])


# --- what the chain makes of it ------------------------------------------------------------------------------------------


def test_a_block_is_the_same_however_its_transactions_were_packed(tmp_path):
    txs = [said(i, 1 + i // 2, "grid" if i % 2 else "operator") for i in range(40)]
    whole, hashes = random.Random(1), set()
    for number in range(6):
        cuts = sorted(whole.sample(range(1, len(txs)), number * 3))
        parts = (
            [txs[a:b] for a, b in zip([0, *cuts], [*cuts, len(txs)], strict=True)] if number else [[tx] for tx in txs]
        )
        app = App(tmp_path / str(number))
        app.init_chain()
        entries = [bundle(*part) for part in parts]
        done = app.decide(1, NOW + 5, entries)
        hashes.add(done.app_hash)
        assert len(done.tx_results) == len(entries)
        (block,) = app.blocks
        assert block.txs == txs
        assert {result.code for result in block.results} == {"ok"}
        app.close()
    assert len(hashes) == 1


def test_a_bundle_of_which_some_came_too_late_is_good_for_the_others(app):
    one, two, three = (said(i, i) for i in (1, 2, 3))
    other = said(9, 1, "operator")
    assert app.check(bundle(one, two, other)).code == 0
    assert app.check(bundle(two, other)).codespace == "waits"  # nothing new, in whatever order
    assert app.check(bundle(other, one)).codespace == "waits"
    assert app.check(bundle(two, three)).code == 0
    app.decide(1, NOW + 5, [one, other])
    assert app.check(bundle(one, two, other), again=True).code == 0  # two is still to come
    assert app.check(bundle(two, three), again=True).code == 0
    assert app.proposal([bundle(one, two, other), bundle(two, three)]) == [bundle(two, three)]
    app.decide(2, NOW + 6, [bundle(two, three)])
    assert app.check(bundle(one, two, other), again=True).codespace == "replayed"


def test_a_forged_transaction_spoils_its_bundle_and_nothing_else(app):
    one, two = said(1, 1), said(2, 2)
    forged = bytearray(said(9, 1, "operator"))
    forged[-1] ^= 1
    assert app.check(bundle(one, two, bytes(forged))).codespace in {"bad_signature", "malformed"}
    assert app.check(bundle(one, two)).code == 0  # the refused bundle has not taken their places
    assert not app.accepts([bundle(one, two, bytes(forged))])


def test_what_became_impossible_for_one_sender_costs_the_others_nothing(app):
    short, one = said(9, 1, "operator", valid_until=1), said(1, 1)
    assert app.check(bundle(short, one)).code == 0
    app.decide(1, NOW + 5, [said(7, 2, "operator")])  # it is out of turn: a block in which nothing happened
    assert app.check(bundle(short, one), again=True).code == 0
    assert app.proposal([bundle(short, one)]) == [one]


def test_a_proposal_of_bundles_is_in_turn_and_accepted_and_keeps_to_its_bytes(app):
    own = [said(i, i) for i in range(1, 31)]
    others = [said(100 + i, i, "operator") for i in range(1, 31)]
    entries = [bundle(*own[10:20]), bundle(*others[:15], *own[20:]), bundle(*own[:10]), *others[15:]]
    chosen = app.proposal(entries)
    assert app.accepts(chosen)
    assert sorted(tx for entry in chosen for tx in unpack(entry)) == sorted([*own, *others])
    for room in range(0, sum(map(framed_bytes, entries)), 501):
        chosen = app.proposal(entries, room)
        assert sum(map(framed_bytes, chosen)) <= room
        assert app.accepts(chosen)
    for bad in ([bundle(own[0], own[0])], [bundle(own[1], own[0])], [bundle(own[0], own[1]), own[1]]):
        assert not app.accepts(bad)
    assert app.proposal([bundle(own[1], own[1], own[0], own[3])]) == [bundle(own[0], own[1])]


# --- whoever packed them meant no good -----------------------------------------------------------------------------------


def forged(tx: bytes) -> bytes:
    return tx[:-1] + bytes([tx[-1] ^ 1])


@pytest.mark.parametrize("seed", range(8))
def test_however_they_were_shuffled_one_block_takes_all_of_them(app, seed):
    """Also across bundles, and with forged ones in the same places, which could come along as `waits`."""
    rng = random.Random(seed)
    good = [said(i, i) for i in range(1, MAX_AHEAD + 1)] + [said(i, i, "operator") for i in range(1, 30)]
    txs = [*good, *(forged(tx) for tx in good[::3]), *good[::7], encode([1, [2]])]
    rng.shuffle(txs)
    entries = []
    while txs:
        size = rng.randint(1, 40)
        entries.append(bundle(*txs[:size]))
        txs = txs[size:]
    chosen = app.proposal(entries)
    assert app.accepts(chosen)
    assert sorted(tx for entry in chosen for tx in unpack(entry)) == sorted(good)


def test_the_room_is_kept_to_by_the_byte_when_everything_is_packed_anew(app):
    """CometBFT stops with a proposal that is a byte too long."""
    backwards = [bundle(*(said(i, i) for i in range(30, 0, -1))), bundle(*(said(i, i, "operator") for i in (2, 1, 4)))]
    taken = []
    for room in (*range(700), *range(4000, 6000, 7), *range(1 << 16, (1 << 16) + 9)):
        chosen = app.proposal(backwards, room)
        assert sum(map(framed_bytes, chosen)) <= room
        taken.append(sum(len(unpack(entry)) for entry in chosen))
    assert (taken[0], taken[-1]) == (0, 32)


@given(st.lists(st.integers(1, 65_000) | st.integers(120, 260), min_size=1, max_size=300))
def test_what_is_packed_anew_takes_no_more_than_was_reckoned(lengths):
    txs = [START + bytes(max(length - 2, 0)) for length in lengths]
    assert sum(map(framed_bytes, pack(txs))) <= sum(len(tx) + pool._PACKED_BYTES for tx in txs)


def test_a_proposal_costs_a_look_or_two_at_each_transaction(app, monkeypatch):
    """A hundred bundles that could all be added but for their last, and one that makes room for the next at a time."""
    looks = []
    monkeypatch.setattr(pool, "check_tx", lambda *given: looks.append(1) or check_tx(*given))
    front = [said(i, i, "operator") for i in range(1, MAX_AHEAD + 1)]
    entries = [bundle(*front, said(i, 3 + i)) for i in range(50)] + [said(i, i) for i in range(60, 0, -1)]
    chosen = app.proposal(entries)
    assert app.accepts(chosen)
    looks.clear()
    assert app.proposal(entries) == chosen
    assert len(looks) <= 3 * sum(len(unpack(entry)) for entry in entries)


def test_a_bundle_of_one_sender_beyond_what_may_wait_takes_nobodys_place(app):
    txs = [said(i, i) for i in range(1, MAX_BUNDLED + 1)]
    assert app.check(bundle(*txs)).codespace == "sequence_gap"
    assert app.check(bundle(*txs[: MAX_AHEAD + 1])).codespace == "sequence_gap"
    other = said(1, 1, "operator")
    assert app.check(bundle(said(99, 1), other)).code == 0  # another one with the first sequence: it is still free
    chosen = app.proposal([bundle(*txs)])
    assert [tx for entry in chosen for tx in unpack(entry)] == txs  # a block knows no such bound: all are in turn


def test_what_waits_for_one_that_never_came_goes_after_a_block(app):
    """Else it would be the oldest in the mempool, of which a proposer is offered as much as fills a block, for ever."""
    one, two, three, five = (said(i, i) for i in (1, 2, 3, 5))
    other = said(9, 1, "operator")
    for entry in (five, bundle(two, three), bundle(other, said(6, 6))):
        assert app.check(entry).code == 0  # gossip may bring a later one first
    assert app.check(one).code == 0
    app.decide(1, NOW + 5, [one])
    assert app.check(bundle(two, three), again=True).code == 0
    assert app.check(five, again=True).codespace == "sequence_gap"
    assert app.check(bundle(other, said(6, 6)), again=True).code == 0  # the other one in it is good
    app.decide(2, NOW + 6, [bundle(two, three), other])
    assert app.check(bundle(other, said(6, 6)), again=True).code != 0
    assert app.check(five).code == 0  # whoever wants it may hand it over again


def test_the_first_in_turn_is_missed_as_well(app):
    two = said(2, 2)
    assert app.check(two).code == 0
    app.decide(1, NOW + 5, [said(9, 1, "operator")])
    assert app.check(two, again=True).codespace == "sequence_gap"


def test_as_many_as_may_wait_fit_a_bundle(app):
    assert app.check(said(1, MAX_AHEAD + 1)).codespace == "sequence_gap"
    assert app.check(said(1, MAX_AHEAD)).code == 0
    assert app.check(bundle(*(said(i, i) for i in range(1, MAX_AHEAD)))).code == 0


@pytest.mark.parametrize("late", ["replayed", "waits", "expired"])
def test_an_honest_bundle_that_came_late_brings_what_is_new(app, late):
    """Not if nothing is, nor if what came late is nobody's."""
    assert app.check(said(3, 2)).code == 0
    app.decide(1, NOW + 5, [said(1, 1)])
    assert app.check(said(3, 2), again=True).code == 0
    old = {"replayed": said(1, 1), "waits": said(4, 2), "expired": said(5, 3, valid_until=1)}[late]
    new = said(6, 1, "operator")
    assert app.check(bundle(old, old)).codespace == late
    assert app.check(bundle(old, said(7, 4))).code == 0
    assert app.check(bundle(said(8, 1, "nobody"), old, new)).codespace == "unknown_sender"
    assert app.check(bundle(new, old)).code == 0
    assert app.check(old).codespace == late


@pytest.mark.parametrize(("valid_until", "left"), [(1, "expired"), (2, "")])
def test_what_waits_goes_when_it_expires(app, valid_until, left):
    one = said(1, 1, valid_until=valid_until)
    assert app.check(one).code == 0
    app.decide(1, NOW + 5, [said(9, 1, "operator")])
    assert app.check(one, again=True).codespace == left


def test_what_waits_for_one_that_came_after_it_stays(app):
    later, earlier = said(3, 3), bundle(said(1, 1), said(2, 2))
    assert app.check(later).code == 0
    assert app.check(earlier).code == 0
    app.decide(1, NOW + 5, [said(9, 1, "operator")])
    for entry in (later, earlier):  # as they came
        assert app.check(entry, again=True).code == 0
