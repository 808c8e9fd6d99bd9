"""Records and their answers on the wire: one encoding, bounded, and answers only by an accounting node, to this pile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.errors import BoundsError, CodecError, PilechainError, SignatureError
from pile_shared.platform import sha256
from pile_shared.record import (
    MAX_ANSWER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_RECORD_BYTES,
    RECORDED,
    STORED,
    decode_record,
    encode_record,
    open_answer,
    parse_topic,
    sign_answer,
)
from pile_shared.topics import parse, pile_topic
from pile_shared.units import MAX_SEQUENCE

NODE, OTHER = (cose.SoftwareSigner(sha256(name)) for name in (b"node", b"other"))
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=MAX_RECORD_BYTES)
SEQUENCES = st.integers(1, MAX_SEQUENCE)


@given(SEQUENCES, PRINTABLE)
def test_what_is_encoded_is_decoded(sequence, text):
    message = encode_record(sequence, text)
    assert len(message) <= MAX_MESSAGE_BYTES
    assert decode_record(message) == (sequence, text)
    assert encode_record(*decode_record(message)) == message


@given(st.binary(max_size=MAX_MESSAGE_BYTES + 10))
def test_what_is_decoded_is_what_would_be_encoded(data):
    try:
        sequence, text = decode_record(data)
    except (CodecError, BoundsError):
        return
    assert encode_record(sequence, text) == data


def test_the_longest_fits_and_nothing_longer():
    longest = encode_record(MAX_SEQUENCE, "x" * MAX_RECORD_BYTES)
    assert len(longest) == MAX_MESSAGE_BYTES
    with pytest.raises(BoundsError):
        encode_record(1, "x" * (MAX_RECORD_BYTES + 1))
    with pytest.raises(BoundsError) as refused:
        decode_record(encode([1, "x" * 3000]))
    assert refused.value.code == "oversized"
    for value in (["1", "x"], [1, "x", 2], [0, "x"], [1, ""], [1, "é"], [1, b"x"], {1: "x"}, [True, "x"]):
        with pytest.raises(PilechainError):
            decode_record(encode(value))


@given(SEQUENCES, PRINTABLE, st.sampled_from([STORED, "record_differs", "x" * 32]))
def test_an_answer_is_to_these_bytes_by_a_node_of_the_set(sequence, text, outcome):
    message = encode_record(sequence, text)
    answer = sign_answer("chain-1", "p" * 32, message, outcome, NODE)
    assert len(answer) <= MAX_ANSWER_BYTES
    assert open_answer(answer, "chain-1", "p" * 32, [OTHER.public, NODE.public]) == (sequence, sha256(message), outcome)


@pytest.mark.parametrize(
    ("chain", "pile", "publics", "code"),
    [
        ("chain-1", "pile-1", [OTHER.public], "unknown_key"),
        ("chain-1", "pile-1", [], "unknown_key"),
        ("chain-2", "pile-1", [NODE.public], "bad_signature"),
        ("chain-1", "pile-2", [NODE.public], "pile"),
    ],
)
def test_anybody_elses_answer_is_refused(chain, pile, publics, code):
    answer = sign_answer("chain-1", "pile-1", encode_record(1, "OCMF|"), STORED, NODE)
    with pytest.raises(SignatureError) as refused:
        open_answer(answer, chain, pile, publics)
    assert refused.value.code == code


def test_an_answer_altered_anywhere_is_refused():
    answer = sign_answer("chain-1", "pile-1", encode_record(1, "OCMF|"), STORED, NODE)
    for at in range(len(answer)):
        with pytest.raises(PilechainError):
            open_answer(answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :], "chain-1", "pile-1", [NODE.public])
        with pytest.raises(PilechainError):
            open_answer(answer[:at], "chain-1", "pile-1", [NODE.public])
    with pytest.raises(SignatureError):
        open_answer(bytes(MAX_ANSWER_BYTES + 1), "chain-1", "pile-1", [NODE.public])


def test_nothing_a_node_signs_for_another_purpose_is_an_answer():
    payload = encode(["pile-1", 1, bytes(32), STORED])
    for kind in (cose.PROOF, cose.TRANSACTION, cose.HEADER, cose.SESSION, cose.REPLY, cose.SERVING):
        signed = cose.sign1(payload, NODE, cose.purpose(kind, "chain-1"))
        with pytest.raises(SignatureError):
            open_answer(signed, "chain-1", "pile-1", [NODE.public])


def test_topics():
    assert parse_topic(pile_topic("c", "pile-1", RECORDED)) == ("c", "pile", "pile-1", RECORDED)
    assert parse_topic("pilechain/1/c/pile-1/record") == ("c", "pile", "pile-1", "record")
    assert parse_topic("pilechain/1/c/pile-1/proof") == parse("pilechain/1/c/pile-1/proof")
    for topic in (
        "record",
        "pilechain/1/c/record",
        "pilechain/2/c/pile-1/record",
        "pilechain/1/c/party/record",
        "pilechain/1/c/party/dan/record",
        "pilechain/1/c/Pile/record",
        "pilechain/1/c/x/pile-1/record",
        "pilechain/1/c/pile-1/other",
    ):
        with pytest.raises(BoundsError):
            parse_topic(topic)
