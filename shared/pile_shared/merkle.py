"""Merkle trees and inclusion paths as in RFC 9162 section 2.1 (SHA-256; leaves tagged 0x00, nodes 0x01)."""

from pile_shared.errors import CertificateError
from pile_shared.platform import sha256

MAX_PATH = 32  # a tree of 2^32 leaves; a block holds far fewer

EMPTY_ROOT = sha256(b"")


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one leaf."""
    return sha256(b"\x00" + leaf)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right)


def levels(leaves: list[bytes]) -> list[list[bytes]]:
    """All levels of the tree over `leaves`, leaf hashes first, the root alone in the last."""
    level = [leaf_hash(leaf) for leaf in leaves]
    result = [level]
    while len(level) > 1:
        above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        result.append(above)
        level = above
    return result


def root(leaves: list[bytes]) -> bytes:
    """The root over `leaves` in order; SHA-256 of nothing for none."""
    return levels(leaves)[-1][0] if leaves else EMPTY_ROOT


def path(tree: list[list[bytes]], index: int) -> list[bytes]:
    """The sibling hashes from leaf `index` up to the root of a tree made by `levels`."""
    siblings = []
    for level in tree[:-1]:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        index >>= 1
    return siblings


def root_from_path(leaf: bytes, index: int, size: int, siblings: list[bytes]) -> bytes:
    """The root that a path leads to (RFC 9162 section 2.1.3.2); CertificateError if it cannot be a path in a tree of `size`."""
    if not 0 <= index < size or len(siblings) > MAX_PATH:
        raise CertificateError("inclusion path does not fit the tree", "inclusion")
    running = leaf_hash(leaf)
    last = size - 1
    for sibling in siblings:
        if last == 0:
            raise CertificateError("inclusion path is too long", "inclusion")
        if index & 1 or index == last:
            running = _node(sibling, running)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            running = _node(running, sibling)
        index >>= 1
        last >>= 1
    if last != 0:
        raise CertificateError("inclusion path is too short", "inclusion")
    return running
