"""Paths and roots beside RFC 9162's definitions, written as they stand there: recursive, over lists of leaves."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pile_shared import merkle
from pile_shared.errors import CertificateError

MOST = 70


def split(n):
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves):
    """RFC 9162 section 2.1.1, Merkle Tree Hash."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    """RFC 9162 section 2.1.3.1, inclusion proof of leaf m."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def leaves_of(size):
    return [b"leaf %d" % index for index in range(size)]


def refused(*arguments):
    with pytest.raises(CertificateError) as caught:
        merkle.root_from_path(*arguments)
    return caught.value.code == "inclusion"


def leads_elsewhere(root, *arguments):
    """Refused, or a path to another root: either way nothing is proved."""
    try:
        return merkle.root_from_path(*arguments) != root
    except CertificateError as error:
        return error.code == "inclusion"


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_roots_and_paths_of_every_size_and_index(size):
    leaves = leaves_of(size)
    root, tree = mth(leaves), merkle.levels(leaves)
    assert merkle.root(leaves) == root == tree[-1][0]
    for index, leaf in enumerate(leaves):
        siblings = merkle.path(tree, index)
        assert siblings == path(index, leaves)
        assert merkle.root_from_path(leaf, index, size, siblings) == root


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_nothing_else_leads_to_the_root(size):
    leaves = leaves_of(size)
    root, tree = mth(leaves), merkle.levels(leaves)
    for index, leaf in enumerate(leaves):
        siblings = merkle.path(tree, index)
        assert leads_elsewhere(root, leaf + b"x", index, size, siblings)
        for other in {0, size // 2, size - 1, index ^ 1} - {index}:
            assert leads_elsewhere(root, leaf, other, size, siblings)
        for position in range(len(siblings)):
            wrong = [*siblings[:position], bytes(32), *siblings[position + 1 :]]
            assert leads_elsewhere(root, leaf, index, size, wrong)
            assert refused(leaf, index, size, siblings[:position])
        assert refused(leaf, index, size, [*siblings, bytes(32)])
        assert refused(leaf, size, size, siblings)
        assert refused(leaf, -1, size, siblings)


def test_the_same_path_in_a_tree_of_another_size():
    """Refused where the shape differs; where it does not, size is not in the hashes, and the header fixes it."""
    for size in range(1, 40):
        leaves = leaves_of(size)
        tree = merkle.levels(leaves)
        for index in range(size):
            for other in range(index + 1, 40):
                if len(path(index, leaves_of(other))) != len(path(index, leaves)):
                    assert refused(leaves[index], index, other, merkle.path(tree, index))


@given(st.binary(max_size=70), st.integers(-2, 1 << 33), st.integers(-2, 1 << 33), st.lists(st.binary(max_size=33)))
@settings(max_examples=300)
def test_anything_gives_a_root_or_a_typed_error(leaf, index, size, siblings):
    try:
        assert len(merkle.root_from_path(leaf, index, size, siblings)) == 32
    except CertificateError as error:
        assert error.code == "inclusion"  # noqa: PT017 - or no error at all


def test_a_node_is_not_a_leaf():
    """The tags of RFC 9162 keep an inner node from being shown as a leaf."""
    leaves = leaves_of(4)
    tree = merkle.levels(leaves)
    node = tree[0][0] + tree[0][1]
    assert merkle.root_from_path(node, 0, 2, [tree[1][1]]) != tree[-1][0]
    assert merkle.leaf_hash(node) != tree[1][0]


def test_empty():
    assert merkle.root([]) == merkle.EMPTY_ROOT == mth([])
    assert refused(b"", 0, 0, [])


def test_a_path_has_a_bound():
    assert refused(b"", 0, 1 << 60, [bytes(32)] * (merkle.MAX_PATH + 1))
