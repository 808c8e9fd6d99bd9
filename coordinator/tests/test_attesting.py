"""What nodes tell each other about a block: only good signatures of its own set count, and more than two thirds of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World, bounded, genesis, key

from pile_coordinator.chain.transactions import DoubleAttestation
from pile_coordinator.engines.attesting import (
    ATTESTATION,
    DOUBLE,
    MAX_AHEAD,
    MAX_BEHIND,
    Attestations,
    node_topic,
    node_topics,
    only_attester,
    parse_node_topic,
)
from pile_coordinator.engines.engine import Block
from pile_shared import cose
from pile_shared.certificate import Certificate, Header, Validator, attest, decode_header, validators_hash
from pile_shared.codec import encode
from pile_shared.errors import ConfigError
from pile_shared.platform import es256_verify, sha256

NODES = ["a", "b", "c", "d"]
VALIDATORS = [Validator(node, key(node).public, 1) for node in NODES]
CHAIN = genesis().chain_id


def block(height: int = 1, *, time_ms: int = 5, chain: str = CHAIN) -> Block:
    zeros = bytes(32)
    header = Header(
        chain_id=chain, height=height, time_ms=time_ms, proposer="a", tx_count=0, result_count=0, previous=zeros,
        tx_root=zeros, result_root=zeros, state_root=zeros, validators_hash=validators_hash(VALIDATORS),
        next_validators_hash=validators_hash(VALIDATORS),
    )  # fmt: skip
    return Block(Certificate(header.encoded(), []), [], [], [])


def said(node: str, of: Block, **over) -> bytes:
    header = of.certificate.header_bytes
    signature = attest(header, key(over.get("signer", node)), over.get("chain", CHAIN))
    return encode([header, over.get("signature", signature)])


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


def other_form(signature: bytes) -> bytes:
    """A valid signature's twin, which readers of a certificate refuse: one liar could spoil every certificate with it."""
    twin = (cose._ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    return signature[:32] + twin


def test_what_does_not_count_is_named(desk):
    desk.sign(block(), VALIDATORS)
    refused = {
        said("b", block(), signer="c"): "bad_signature",
        said("b", block(), chain="other"): "bad_signature",
        said("b", block(), signature=bytes(64)): "bad_signature",
        said("b", block(), signature=b"\xff" * 64): "bad_signature",  # an s above n, which ended the node once
        said(
            "b", block(), signature=other_form(attest(block().certificate.header_bytes, key("b"), CHAIN))
        ): "bad_signature",
        said("b", block(time_ms=6)): "other_header",
        said("b", block(MAX_AHEAD + 1)): "too_far_ahead",
        said("b", block(chain="other")): "wrong_chain",
        encode([bytes(300), bytes(64)]): "codec",
        encode(["1", bytes(64)]): "bounds",
        encode([block().certificate.header_bytes, bytes(63)]): "bounds",
        encode([bytes(600), bytes(64)]): "oversized",
        encode([1, bytes(32), bytes(64)]): "codec",
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
    desk.answer(block().certificate, VALIDATORS[1:])
    assert told == []
    desk.sign(block(2), VALIDATORS)
    desk.ask(3)
    assert [topic.rpartition("/")[2] for topic, _, _ in told] == ["attestation", "missing"]


def charged(desk) -> list[DoubleAttestation]:
    found: list[DoubleAttestation] = []
    desk.accuse = found.append
    return found


def is_proof(proof: DoubleAttestation, node: str) -> bool:
    headers = {proof.first: proof.first_signature, proof.second: proof.second_signature}
    aad = cose.purpose(cose.HEADER, CHAIN)
    return (
        proof.candidate == node
        and len(headers) == 2
        and len({decode_header(header).height for header in headers}) == 1
        and all(
            es256_verify(key(node).public, cose.to_be_signed(key(node).kid, sha256(header), aad), signature)
            for header, signature in headers.items()
        )
    )


TRUE, FALSE, THIRD = block(), block(time_ms=6), block(time_ms=7)


@pytest.mark.parametrize("order", [[TRUE, FALSE], [FALSE, TRUE], [FALSE, THIRD], [FALSE, THIRD, TRUE]])
@pytest.mark.parametrize("committed", [0, 1, 2, 3])
def test_two_headers_of_one_height_are_proof_in_any_order(desk, order, committed):
    """Before the block is here, while it waits for its certificate, and after it."""
    desk.know(VALIDATORS)
    proofs = charged(desk)
    for number, header in enumerate(order):
        if number == committed:
            desk.sign(TRUE, VALIDATORS)
        desk.offer("b", said("b", header), 0)
    if committed >= len(order):
        assert proofs == []  # nothing can be punished yet for a block that is not there
        desk.sign(TRUE, VALIDATORS)
    assert proofs
    assert all(is_proof(proof, "b") for proof in proofs)
    for node in ("c", "d"):
        desk.offer(node, said(node, TRUE), 0)
    assert all(proof.candidate == "b" for proof in proofs)
    assert len(desk.certificate(1)) == 3


def test_a_late_lie_is_proof_too_as_long_as_the_truth_is_known_here(desk):
    """The fourth signature is in no certificate: of blocks that are not too old it is kept beside it."""
    proofs = charged(desk)
    desk.sign(TRUE, VALIDATORS)
    for node in "bcd":
        assert desk.offer(node, said(node, TRUE), 0) == ""
    assert [place for place, _ in desk.certificate(1)] == [0, 1, 2]
    assert desk.offer("d", said("d", FALSE, signer="c"), 1) == "bad_signature"
    assert desk.offer("d", said("d", FALSE), 1) == DOUBLE
    assert desk.offer("c", said("c", FALSE), 1) == DOUBLE
    assert [proof.candidate for proof in proofs] == ["d", "c"]
    assert desk.offer("c", said("c", FALSE), 1) == ""  # the same again


def test_after_a_restart_certificates_are_what_is_known():
    certificate = Certificate(TRUE.certificate.header_bytes, [[1, attest_by("b")], [2, attest_by("c")]])
    for certified in (1, 1 + MAX_BEHIND, 100_000):
        desk = Attestations(CHAIN, ("a", key("a")), lambda height: (certificate, VALIDATORS) if height == 1 else None)
        proofs = charged(desk)
        assert desk.offer("c", said("c", TRUE), certified) == ""
        assert desk.offer("c", said("c", FALSE), certified) == DOUBLE
        assert desk.offer("d", said("d", FALSE), certified) == "other_header"  # a lie, and no proof that it is one
        assert desk.offer("c", said("c", block(0x100)), 100_000) == ""  # of a block that is kept no more
        assert [is_proof(proof, "c") for proof in proofs] == [True]


def attest_by(node: str) -> bytes:
    return attest(TRUE.certificate.header_bytes, key(node), CHAIN)


def test_one_certificate_is_enough_for_who_was_away(desk):
    """Whoever signed it need not be there any more, and this node need not attest it itself."""
    desk.sign(TRUE, VALIDATORS, is_silent=True)
    certificate = Certificate(TRUE.certificate.header_bytes, [[n, attest_by("abcd"[n])] for n in (0, 1, 3)])
    assert desk.offer_certificate(encode(certificate.fields()), 0) == ""
    assert desk.certificate(1) == certificate.attestations


def test_a_forged_certificate_speaks_against_who_signed_it(desk):
    proofs = charged(desk)
    desk.sign(TRUE, VALIDATORS)
    for node in "bcd":
        desk.offer(node, said(node, TRUE), 0)
    honest = Certificate(TRUE.certificate.header_bytes, desk.certificate(1))
    assert desk.offer_certificate(encode(honest.fields()), 1) == ""
    forged = FALSE.certificate.header_bytes
    rows = [[0, bytes(64)], [1, attest_by("b")], [2, attest(forged, key("c"), CHAIN)]]
    assert desk.offer_certificate(encode(block(2).certificate.fields()), 1) == ""  # cannot be judged yet
    assert desk.offer_certificate(encode([forged, rows[:2]]), 1) == ""  # nobody's signature, nobody's lie
    assert desk.offer_certificate(encode([forged, [[3, attest(forged, key("d"), CHAIN)]]]), 0) == DOUBLE
    proofs.clear()
    assert desk.offer_certificate(encode([forged, rows]), 1) == DOUBLE
    assert [proof.candidate for proof in proofs] == ["c"]
    assert is_proof(proofs[0], "c")
    for bad in ([forged, [[4, bytes(64)]]], [forged, [[0] * 3]], [forged, [0] * 5], [forged], [b"", []], 7):
        assert desk.offer_certificate(encode(bad), 1) in {"bounds", "codec"}
    assert desk.offer_certificate(encode([forged, [bytes(9000)]]), 1) == "oversized"
    assert desk.offer_certificate(encode(block(chain="other").certificate.fields()), 1) == "wrong_chain"


def test_memory_is_bounded_whatever_a_node_says(desk):
    """Two headers for each height and node, and no height that is long certified."""
    desk.know(VALIDATORS)
    for time_ms in range(10):
        for height in (5, 6, MAX_AHEAD):
            desk.offer("b", said("b", block(height, time_ms=time_ms)), 0)
    assert [len(heard[key("b").public]) for heard in desk._heard.values()] == [2, 2, 2]
    for height in range(1, MAX_BEHIND + 10):
        desk.sign(block(height), VALIDATORS)
        for node in "bcd":
            desk.offer(node, said(node, block(height)), height - 1)
        assert desk.certificate(height)
    assert len(desk._blocks) == MAX_BEHIND
    assert set(desk._heard) == {*desk._blocks, MAX_AHEAD}


@given(st.binary(max_size=200))
@bounded(300)
def test_any_bytes_are_answered_with_a_reason(data):
    desk = Attestations(CHAIN, ("a", key("a")))
    desk.know(VALIDATORS)
    assert desk.offer("b", data, 0) != ""
    assert desk.offer_certificate(data, 0) != ""


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
