"""What nodes tell each other about a block: only good signatures of its own set count, and more than two thirds of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, bounded, genesis, key

from pile_coordinator.engines.attesting import (
    ATTESTATION,
    MAX_AHEAD,
    Attestations,
    node_topic,
    node_topics,
    only_attester,
    parse_node_topic,
)
from pile_coordinator.engines.engine import Block
from pile_shared.certificate import Certificate, Header, Validator, attest, validators_hash
from pile_shared.codec import encode
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256

NODES = ["a", "b", "c", "d"]
VALIDATORS = [Validator(node, key(node).public, 1) for node in NODES]
CHAIN = genesis().chain_id


def block(height: int = 1, *, time_ms: int = 5) -> Block:
    zeros = bytes(32)
    header = Header(
        chain_id=CHAIN, height=height, time_ms=time_ms, proposer="a", tx_count=0, result_count=0, previous=zeros,
        tx_root=zeros, result_root=zeros, state_root=zeros, validators_hash=validators_hash(VALIDATORS),
        next_validators_hash=validators_hash(VALIDATORS),
    )  # fmt: skip
    return Block(Certificate(header.encoded(), []), [], [], [])


def said(node: str, of: Block, **over) -> bytes:
    header = of.certificate.header_bytes
    signature = attest(header, key(over.get("signer", node)), over.get("chain", CHAIN))
    return encode([over.get("height", of.header.height), sha256(header), over.get("signature", signature)])


@pytest.fixture
def desk():
    return Attestations(CHAIN, ("a", key("a")))


def test_three_of_four_make_a_certificate_and_two_do_not(desk):
    desk.sign(block(), VALIDATORS)
    for node in ("c", "c", "b"):
        assert desk.certificate(1) is None
        assert desk.offer(node, said(node, block()), 0) == ""
    attestations = desk.certificate(1)
    assert [place for place, _ in attestations] == [0, 1, 2]
    Certificate(block().certificate.header_bytes, attestations).verify(CHAIN, VALIDATORS)


def test_what_does_not_count_is_named(desk):
    desk.sign(block(), VALIDATORS)
    refused = {
        said("b", block(), signer="c"): "bad_signature",
        said("b", block(), chain="other"): "bad_signature",
        said("b", block(), signature=bytes(64)): "bad_signature",
        said("b", block(time_ms=6)): "other_header",
        said("b", block(MAX_AHEAD + 1)): "too_far_ahead",
        encode([1, bytes(31), bytes(64)]): "bounds",
        encode(["1", bytes(32), bytes(64)]): "bounds",
        encode([1, bytes(32)]): "codec",
        b"": "codec",
    }
    assert {payload: desk.offer("b", payload, 0) for payload in refused} == refused
    assert desk.offer("stranger", said("b", block()), 0) == "unknown_node"
    for node in ("c", "d"):
        desk.offer(node, said(node, block()), 0)
    assert [place for place, _ in desk.certificate(1)] == [0, 2, 3]


def test_signatures_may_come_before_their_block(desk):
    assert desk.offer("b", said("b", block()), 0) == "unknown_node"  # nobody is known yet: it is asked for again
    desk.know(VALIDATORS)
    assert desk.offer("b", said("b", block()), 0) == ""
    assert desk.offer("c", said("c", block(time_ms=6)), 0) == ""
    desk.sign(block(), VALIDATORS)
    assert desk.certificate(1) is None  # the other header's does not count
    desk.offer("d", said("d", block()), 0)
    assert [place for place, _ in desk.certificate(1)] == [0, 1, 3]


def test_who_is_not_of_the_set_is_silent(desk):
    told = []
    desk.publish = lambda *message: told.append(message)
    desk.sign(block(), VALIDATORS[1:])
    desk.answer(block(), VALIDATORS[1:])
    assert told == []
    desk.sign(block(2), VALIDATORS)
    desk.ask(3)
    assert [topic.rpartition("/")[2] for topic, _, _ in told] == ["attestation", "missing"]


@given(st.binary(max_size=200))
@bounded(300)
def test_any_bytes_are_answered_with_a_reason(data):
    desk = Attestations(CHAIN, ("a", key("a")))
    desk.know(VALIDATORS)
    assert desk.offer("b", data, 0) != ""


def test_topics():
    assert parse_node_topic(CHAIN, node_topic(CHAIN, "grid", ATTESTATION)) == ("grid", ATTESTATION)
    for other in ("x", node_topic("other", "grid", ATTESTATION), node_topic(CHAIN, "Grid!", "x"), "/" * 5):
        assert parse_node_topic(CHAIN, other) is None
    assert all("+" in topic for topic in node_topics(CHAIN))
    assert World().chain_id == CHAIN


def test_a_node_attests_for_itself_only():
    assert only_attester({"a": key("a")}) == ("a", key("a"))
    for keys in ({}, {"a": key("a"), "b": key("b")}):
        with pytest.raises(ConfigError):
            only_attester(keys)
