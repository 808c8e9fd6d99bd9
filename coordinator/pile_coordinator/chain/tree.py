"""The state root: a Merkle tree over 1,024 buckets of entries, rehashed only where something changed.

An entry is SHA-256(0x00 || length of key as 2 bytes || key || value) and lives in the bucket its key's SHA-256 names.
A bucket's hash is SHA-256 over its entries in order of key; nodes above are SHA-256(0x01 || left || right). The root
depends only on the entries, not on their history, so it can be recomputed from a snapshot alone.
"""

from hashlib import sha256

BUCKET_BITS = 10
BUCKETS = 1 << BUCKET_BITS  # 100,000 open orders make about 300 entries a bucket: some 10 us to rehash


def entry_hash(key: bytes, value: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\x00" + len(key).to_bytes(2, "big") + key + value).digest()


def bucket_of(key: bytes) -> int:
    """Which bucket a key lives in."""
    return int.from_bytes(sha256(key).digest()[:2], "big") >> (16 - BUCKET_BITS)


class StateTree:
    """Entries by bucket, and the tree above them as an array: node i has children 2i and 2i + 1, buckets come last."""

    def __init__(self) -> None:
        self._buckets: list[dict[bytes, bytes]] = [{} for _ in range(BUCKETS)]
        hash_of_level, width = sha256(b"").digest(), BUCKETS
        self._nodes = [hash_of_level] * (2 * BUCKETS)
        while width > 1:  # an empty tree has one hash a level
            hash_of_level, width = sha256(b"\x01" + hash_of_level + hash_of_level).digest(), width // 2
            self._nodes[width : 2 * width] = [hash_of_level] * width

    def _node(self, i: int) -> bytes:
        return sha256(b"\x01" + self._nodes[2 * i] + self._nodes[2 * i + 1]).digest()

    def update(self, changes: list[tuple[bytes, bytes | None]]) -> bytes:
        """Apply (key, value or None to remove) changes and return the root."""
        dirty = set()
        for key, value in changes:
            number = bucket_of(key)
            bucket = self._buckets[number]
            if value is None:
                bucket.pop(key, None)
            else:
                bucket[key] = entry_hash(key, value)
            dirty.add(number)
        nodes = set()
        for number in sorted(dirty):
            bucket = self._buckets[number]
            self._nodes[BUCKETS + number] = sha256(b"".join(bucket[key] for key in sorted(bucket))).digest()
            nodes.add((BUCKETS + number) >> 1)
        while nodes:
            for i in sorted(nodes):
                self._nodes[i] = self._node(i)
            nodes = {i >> 1 for i in nodes if i > 1}
        return self.root

    @property
    def root(self) -> bytes:
        """The current root, 32 bytes."""
        return self._nodes[1]
