"""The state root: a Merkle tree over 1,024 buckets of entries, rehashed only where something changed.

An entry's row is SHA-256(key) || SHA-256(value). The first ten bits of the key's hash name the bucket it lives in. A
bucket's hash is SHA-256(0x00 || its rows in order); nodes above are SHA-256(0x01 || left || right). The root depends
only on the entries, not on their history, so it can be recomputed from a snapshot alone.

A proof about a key is the rest of its bucket and the ten hashes beside the path to the root. A row shows its key's hash
apart, so a bucket also shows which keys are not there: one form of proof serves for a value and for its absence.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import BoundsError
from pile_shared.units import check_bytes, check_int

BUCKET_BITS = 10
BUCKETS = 1 << BUCKET_BITS  # 100,000 open orders make about 300 entries a bucket: some 15 us to rehash
HASH_BYTES = 32
ROW_BYTES = 2 * HASH_BYTES

MAX_PROOF_ROWS = 4096  # 256 KiB, as much as an inclusion may have; over ten times the bucket of 100,000 open orders
MAX_STATE_PROOF_BYTES = ROW_BYTES * MAX_PROOF_ROWS + (HASH_BYTES + 2) * BUCKET_BITS + 7  # with CBOR's heads

Octets = bytes | bytearray  # a bucket is a bytearray, a proof is not


def _row(key_hash: bytes, value: bytes | None) -> bytes:
    """A key's row, 64 bytes; nothing for no value."""
    return b"" if value is None else key_hash + sha256(value).digest()


def _bucket_of(key_hash: bytes) -> int:
    return int.from_bytes(key_hash[:2], "big") >> (16 - BUCKET_BITS)


def _bucket_hash(rows: Octets) -> bytes:
    running = sha256(b"\x00")
    running.update(rows)
    return running.digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _place(rows: Octets, key_hash: Octets) -> tuple[int, int]:
    """Where in a bucket the row of a key starts and ends; if it has none, both are where it belongs."""
    starts = range(0, len(rows), ROW_BYTES)
    at = bisect_left(starts, key_hash, key=lambda start: rows[start : start + HASH_BYTES])
    start = at * ROW_BYTES
    is_there = rows[start : start + HASH_BYTES] == key_hash
    return start, start + ROW_BYTES if is_there else start


@dataclass(frozen=True, slots=True)
class StateProof:
    """What leads from one key, with its value or without, to a state root. See `verify_proof`.

    Attributes:
        rows: the other rows of the key's bucket, in order, 64 bytes each, at most MAX_PROOF_ROWS. Where the key's own row
            belongs follows from its hash.
        siblings: the ten hashes beside the path, the bucket's neighbour first, 32 bytes each.

    Raises:
        BoundsError: a part has another length.
    """

    rows: bytes
    siblings: tuple[bytes, ...]

    def __post_init__(self) -> None:
        check_bytes("state proof rows", self.rows, 0, ROW_BYTES * MAX_PROOF_ROWS)
        if len(self.rows) % ROW_BYTES:
            raise BoundsError(f"state proof rows must be whole, {ROW_BYTES} bytes each")
        check_int("siblings of a state proof", len(self.siblings), BUCKET_BITS, BUCKET_BITS)
        for sibling in self.siblings:
            check_bytes("state proof sibling", sibling, HASH_BYTES, HASH_BYTES)

    def encoded(self) -> bytes:
        """Deterministic CBOR: [rows, [sibling, ...]], at most MAX_STATE_PROOF_BYTES."""
        return encode([self.rows, list(self.siblings)])


def decode_state_proof(data: bytes) -> StateProof:
    """A proof from its bytes. CodecError or BoundsError for anything that `StateProof.encoded` does not give."""
    rows, siblings = array(decode(data, MAX_STATE_PROOF_BYTES), 2)
    return StateProof(rows, tuple(items(siblings, BUCKET_BITS)))


def verify_proof(root: bytes, key: bytes, value: bytes | None, proof: StateProof) -> bool:
    """Whether `proof` shows that the state with this root holds `value` under `key`, or with None: nothing under `key`.

    Pure. `root` must come from where it can be trusted: a header's `state_root` under its certificate. The order of the
    proof's rows need not be checked: with the key's row in its place they must be the bucket that was hashed, byte for byte,
    and that one is in order.
    """
    key_hash = sha256(key).digest()
    start, end = _place(proof.rows, key_hash)
    if start != end:
        return False  # the key's own row is never in the proof: it is the claim
    running = _bucket_hash(proof.rows[:start] + _row(key_hash, value) + proof.rows[start:])
    node = BUCKETS + _bucket_of(key_hash)
    for sibling in proof.siblings:
        running = _node_hash(sibling, running) if node & 1 else _node_hash(running, sibling)
        node >>= 1
    return running == root


class StateTree:
    """Rows by bucket, and the tree above them as an array: node i has children 2i and 2i + 1, buckets come last."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(BUCKETS)]  # one buffer each: 64 bytes an entry, hashed as it stands
        hash_of_level, width = _bucket_hash(b""), BUCKETS
        self._nodes = [hash_of_level] * (2 * BUCKETS)
        while width > 1:  # an empty tree has one hash a level
            hash_of_level, width = _node_hash(hash_of_level, hash_of_level), width // 2
            self._nodes[width : 2 * width] = [hash_of_level] * width

    def update(self, changes: Iterable[tuple[bytes, bytes | None]]) -> bytes:
        """Apply (key, value or None to remove) changes, the last one of a key counts, and return the root."""
        level = sorted({BUCKETS + self._change(key, value) for key, value in changes})
        for node in level:
            self._nodes[node] = _bucket_hash(self._buckets[node - BUCKETS])
        for _ in range(BUCKET_BITS):
            level = sorted({node >> 1 for node in level})
            for node in level:
                self._nodes[node] = _node_hash(self._nodes[2 * node], self._nodes[2 * node + 1])
        return self.root

    def _change(self, key: bytes, value: bytes | None) -> int:
        """Write or remove a key's row; the number of its bucket."""
        key_hash = sha256(key).digest()
        number = _bucket_of(key_hash)
        bucket = self._buckets[number]
        start, end = _place(bucket, key_hash)
        bucket[start:end] = _row(key_hash, value)
        return number

    def prove(self, key: bytes) -> StateProof:
        """The proof, under the current root, of the value under `key`, or that there is none.

        Raises:
            BoundsError: the bucket holds more than MAX_PROOF_ROWS other entries.
        """
        key_hash = sha256(key).digest()
        number = _bucket_of(key_hash)
        bucket = self._buckets[number]
        start, end = _place(bucket, key_hash)
        node, siblings = BUCKETS + number, []
        while node > 1:
            siblings.append(self._nodes[node ^ 1])
            node >>= 1
        return StateProof(bytes(bucket[:start] + bucket[end:]), tuple(siblings))

    @property
    def root(self) -> bytes:
        """The current root, 32 bytes."""
        return self._nodes[1]
