"""The state tree: its root against a second, recursive one; proofs of what is there and of what is not."""

import random
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import Market, bounded

from pile_coordinator.chain import tree
from pile_coordinator.chain.records import Account, Listing
from pile_coordinator.chain.state import State, store_key
from pile_coordinator.chain.tree import StateProof, StateTree, decode_state_proof, verify_proof
from pile_shared.codec import encode
from pile_shared.errors import BoundsError, CodecError, PilechainError

NOTHING = None


def row_of(key: bytes, value: bytes) -> bytes:
    """A row as the guide says it: the key's hash, then the value's."""
    return sha256(key).digest() + sha256(value).digest()


def bucket_of(key: bytes) -> int:
    """The first ten bits of the key's hash."""
    return int(f"{int.from_bytes(sha256(key).digest(), 'big'):0256b}"[:10], 2)


def neighbours(bucket: int, count: int) -> list[bytes]:
    """Keys of one bucket, found by trying: of 40,000, it holds about 39."""
    found = [key for number in range(40_000) if bucket_of(key := b"key %d" % number) == bucket]
    assert len(found) >= count
    return found[:count]


# Thirty keys in two buckets that are siblings, so that rows and the lowest node matter, and some anywhere.
CROWD = neighbours(6, 15) + neighbours(7, 15)
KEYS = st.one_of(st.sampled_from(CROWD), st.binary(max_size=40))
VALUES = st.binary(max_size=40)
ENTRIES = st.dictionaries(KEYS, VALUES, max_size=40)
STEPS = st.lists(st.lists(st.tuples(KEYS, st.one_of(st.none(), VALUES)), max_size=8), max_size=8)


def root_by_definition(entries: dict[bytes, bytes]) -> bytes:
    """The root, written again from the words of the module: by halving the sorted key hashes bit by bit."""
    rows = sorted((sha256(key).digest(), sha256(value).digest()) for key, value in entries.items())

    def over(part: list[tuple[bytes, bytes]], bits: int) -> bytes:
        if bits == 10:
            return sha256(b"\x00" + b"".join(key + value for key, value in part)).digest()
        halves: tuple[list, list] = ([], [])
        for row in part:
            halves[int.from_bytes(row[0], "big") >> (255 - bits) & 1].append(row)
        return sha256(b"\x01" + over(halves[0], bits + 1) + over(halves[1], bits + 1)).digest()

    return over(rows, 0)


def tree_of(entries: dict[bytes, bytes]) -> StateTree:
    built = StateTree()
    built.update(list(entries.items()))
    return built


@given(ENTRIES)
@bounded(60)
def test_the_root_is_the_defined_one(entries: dict[bytes, bytes]) -> None:
    assert tree_of(entries).root == root_by_definition(entries)


@given(STEPS, st.randoms(use_true_random=False))
@bounded(200)
def test_the_root_is_that_of_the_entries_whatever_their_history(steps: list, rng: random.Random) -> None:
    """Block after block, in which keys come, change and go, against a tree built at once from what is left."""
    incremental, entries = StateTree(), {}
    for changes in steps:
        root = incremental.update(changes)
        for key, value in changes:
            entries.pop(key, None) if value is None else entries.update({key: value})
        snapshot = list(entries.items())
        rng.shuffle(snapshot)
        assert root == incremental.root == StateTree().update(snapshot)
    assert incremental.update([(key, NOTHING) for key in entries]) == StateTree().root


def test_every_order_of_writing_gives_one_root_and_it_depends_on_every_entry() -> None:
    rng, entries = random.Random(1), {key: b"value of " + key for key in CROWD}
    root = tree_of(entries).root
    for _ in range(50):
        steps = list(entries.items()) + [(key, b"passing") for key in CROWD]  # then overwritten, or it was first
        rng.shuffle(steps)
        built = StateTree()
        for step in steps:
            built.update([step])
        assert built.update(entries.items()) == root
    others = [tree_of({**entries, key: b"other"}).root for key in CROWD]
    others += [tree_of({k: v for k, v in entries.items() if k != key}).root for key in CROWD]
    assert len({root, *others}) == 1 + len(others)


def test_a_block_hashes_only_what_changed_and_what_is_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    built = tree_of({b"%d" % i: b"" for i in range(5000)})
    buckets, nodes = [], []
    bucket_hash, node_hash = tree._bucket_hash, tree._node_hash
    monkeypatch.setattr(tree, "_bucket_hash", lambda rows: buckets.append(len(rows)) or bucket_hash(rows))
    monkeypatch.setattr(tree, "_node_hash", lambda left, right: nodes.append(1) or node_hash(left, right))
    built.update([(CROWD[0], b""), (CROWD[1], b""), (CROWD[20], b"")])  # two buckets, side by side
    assert (len(buckets), len(nodes)) == (2, 10)
    assert sum(buckets) < 64 * 40, "of 5,000 entries, those of two buckets"
    built.update([])
    assert (len(buckets), len(nodes)) == (2, 10)


@given(ENTRIES, st.lists(KEYS, max_size=10))
@bounded(150)
def test_every_value_and_every_absence_is_proved_and_nothing_else(entries: dict, more: list[bytes]) -> None:
    built, values = tree_of(entries), [*entries.values(), b"", b"another", NOTHING]
    for key in [*entries, *more]:
        proof = decode_state_proof(built.prove(key).encoded())
        assert proof == built.prove(key)
        assert verify_proof(built.root, key, entries.get(key), proof)
        for value in values:
            assert verify_proof(built.root, key, value, proof) == (value == entries.get(key)), (key, value)
    assert built.root == root_by_definition(entries), "proving changes nothing"


@given(ENTRIES.filter(len), st.data())
@bounded(200)
def test_no_proof_says_anything_false(entries: dict[bytes, bytes], data: st.DataObject) -> None:
    """Whatever is proved with another key's proof, or with one made of rows at will, is true."""
    built = tree_of(entries)
    proof = built.prove(data.draw(st.sampled_from([*entries, *CROWD])))
    rows = [row_of(key, value) for key, value in entries.items()]
    forged_rows = data.draw(st.one_of(st.just([]), st.lists(st.sampled_from(rows), max_size=6), st.permutations(rows)))
    forged = StateProof(b"".join(forged_rows), proof.siblings)
    for key in [*entries, *CROWD]:
        for value in (NOTHING, b"", b"another", *entries.values()):
            for claimed in (proof, forged):
                if verify_proof(built.root, key, value, claimed):
                    assert entries.get(key) == value


@pytest.mark.parametrize("key", [CROWD[3], b"not there"])
def test_a_change_of_any_bit_is_noticed(key: bytes) -> None:
    """Of key, value, root and the proof as it travels; exhaustively, and a value turned into absence and back."""
    entries = {key: b"value of " + key for key in CROWD[:9]}
    built, value = tree_of(entries), entries.get(key)
    root, sent = built.root, built.prove(key).encoded()
    assert verify_proof(root, key, value, decode_state_proof(sent))
    for bit in range(8 * len(sent)):
        try:
            proof = decode_state_proof(flipped(sent, bit))
        except PilechainError:
            continue
        assert not verify_proof(root, key, value, proof), bit
    proof = decode_state_proof(sent)
    assert not any(verify_proof(flipped(root, bit), key, value, proof) for bit in range(256))
    assert not any(verify_proof(root, flipped(key, bit), value or b"", proof) for bit in range(8 * len(key)))
    if value is None:
        assert not verify_proof(root, key, b"", proof)
    else:
        assert not any(verify_proof(root, key, flipped(value, bit), proof) for bit in range(8 * len(value)))
        assert not any(verify_proof(root, key, cut, proof) for cut in (NOTHING, b"", value[:-1], value + b"\x00"))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_rows_and_siblings_have_one_order() -> None:
    entries = dict.fromkeys(CROWD, b"")
    built, key = tree_of(entries), CROWD[0]
    proof = built.prove(key)
    rows = [proof.rows[i : i + 64] for i in range(0, len(proof.rows), 64)]
    assert len(rows) == 14
    assert proof.siblings[0] != proof.siblings[1]
    for i in range(13):
        swapped = [*rows[:i], rows[i + 1], rows[i], *rows[i + 2 :]]
        assert not verify_proof(built.root, key, b"", StateProof(b"".join(swapped), proof.siblings))
    for i in range(14):
        for changed in (rows[:i] + rows[i + 1 :], rows[:i] + rows[i : i + 1] + rows[i:]):
            assert not verify_proof(built.root, key, b"", StateProof(b"".join(changed), proof.siblings))
    turned = (proof.siblings[1], proof.siblings[0], *proof.siblings[2:])
    assert not verify_proof(built.root, key, b"", StateProof(proof.rows, turned))
    with_own = b"".join(sorted([*rows, row_of(key, b"")]))  # the whole bucket: its hash is right, the claim is open
    for value in (NOTHING, b"", b"another"):
        assert not verify_proof(built.root, key, value, StateProof(with_own, proof.siblings))


def test_a_proof_is_of_one_root() -> None:
    built = tree_of(dict.fromkeys(CROWD, b"1"))
    key, far = CROWD[0], b"far away"
    assert bucket_of(far) != bucket_of(key)
    old_root, old = built.root, built.prove(key)
    new_root = built.update([(far, b"2")])
    assert verify_proof(old_root, key, b"1", old)
    assert not verify_proof(new_root, key, b"1", old)
    assert verify_proof(new_root, key, b"1", built.prove(key))
    gone_root = built.update([(key, NOTHING)])
    assert verify_proof(gone_root, key, NOTHING, built.prove(key))
    assert not verify_proof(new_root, key, NOTHING, built.prove(key))


def test_an_empty_tree_proves_that_nothing_is_there() -> None:
    empty = StateTree()
    proof = empty.prove(b"anything")
    assert proof.rows == b""
    assert verify_proof(empty.root, b"anything", NOTHING, proof)
    assert not verify_proof(empty.root, b"anything", b"", proof)


def test_the_state_of_a_chain_can_be_proved_record_by_record() -> None:
    """From the rows that a store holds, against the root that the block's header certifies."""
    market = Market()
    market.ok()
    built = StateTree()
    assert built.update(market.rows.items()) == market.root
    for key, value in market.rows.items():
        assert verify_proof(market.root, key, value, built.prove(key))
        assert not verify_proof(market.root, key, NOTHING, built.prove(key))
    for absent in (store_key(Account, "U:nobody"), store_key(Listing, bytes(32))):
        assert verify_proof(market.root, absent, NOTHING, built.prove(absent))
    assert State.load(market.rows.items()).seal()[0] == market.root


GOOD = StateProof(bytes(128), (bytes(32),) * 10)


@pytest.mark.parametrize(
    ("rows", "siblings"),
    [
        (bytes(127), GOOD.siblings),
        (bytes(64 * (tree.MAX_PROOF_ROWS + 1)), GOOD.siblings),
        ("text", GOOD.siblings),
        (bytes(128), GOOD.siblings[:9]),
        (bytes(128), (*GOOD.siblings, bytes(32))),
        (bytes(128), (*GOOD.siblings[:9], bytes(31))),
        (bytes(128), (*GOOD.siblings[:9], bytes(33))),
        (bytes(128), (*GOOD.siblings[:9], 7)),
    ],
)
def test_a_proof_of_another_shape_is_refused(rows: object, siblings: tuple) -> None:
    with pytest.raises(BoundsError):
        StateProof(rows, siblings)
    with pytest.raises((BoundsError, CodecError)):
        decode_state_proof(encode([rows, list(siblings)]))


def test_bounds_hold_to_the_byte() -> None:
    largest = StateProof(bytes(64 * tree.MAX_PROOF_ROWS), GOOD.siblings).encoded()
    assert len(largest) == tree.MAX_STATE_PROOF_BYTES
    assert decode_state_proof(largest).encoded() == largest
    with pytest.raises(CodecError):
        decode_state_proof(largest + b"\x00")
    good = GOOD.encoded()
    for bad in (b"", good[:-1], good + b"\x00", encode([GOOD.rows]), encode({1: GOOD.rows}), encode([GOOD.rows, 1])):
        with pytest.raises(CodecError):
            decode_state_proof(bad)
    # The same array with its length in a byte of its own, and as one of indefinite length: not the deterministic form.
    for bad in (b"\x98\x02" + good[1:], b"\x9f" + good[1:] + b"\xff"):
        with pytest.raises(CodecError):
            decode_state_proof(bad)


@given(st.one_of(st.binary(max_size=600), st.tuples(st.integers(0, 470), st.binary(min_size=1, max_size=9))))
@bounded(500)
def test_any_bytes_are_a_proof_or_a_typed_error(data: bytes | tuple[int, bytes]) -> None:
    if isinstance(data, tuple):
        at, patch = data
        data = GOOD.encoded()[:at] + patch + GOOD.encoded()[at + len(patch) :]
    try:
        proof = decode_state_proof(data)
    except PilechainError:
        return
    assert proof.encoded() == data


def test_a_bucket_too_full_to_prove_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    built = tree_of(dict.fromkeys(CROWD[:15], b""))
    monkeypatch.setattr(tree, "MAX_PROOF_ROWS", 14)
    assert len(built.prove(CROWD[0]).rows) == 14 * 64
    with pytest.raises(BoundsError, match="rows"):
        built.prove(next(key for key in neighbours(6, 16) if key not in CROWD))


def test_a_balance_can_be_proven_from_the_state_root() -> None:
    market = Market()
    account = market.state.get(Account, "P:user-1")
    proof = market.state.prove(Account, account.name)
    assert verify_proof(market.root, store_key(Account, account.name), account.encoded(), proof)
    richer = replace(account, balance_micro=account.balance_micro + 1)
    assert not verify_proof(market.root, store_key(Account, account.name), richer.encoded(), proof)
    nobody = market.state.prove(Account, "P:nobody")
    assert verify_proof(market.root, store_key(Account, "P:nobody"), None, nobody)
