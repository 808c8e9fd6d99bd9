"""OCMF records on their way from a pile to coordinators, and the answer that each one gets. CPython only: boards make none.

    pilechain/1/<chain>/<pile>/record    up    one record, and the proof whose reading it is
    pilechain/1/<chain>/<pile>/recorded  down  an accounting node's signed word that it was stored, or why it never will be

A record is of no account to the chain, so no block holds it and no quorum attests to it: one accounting node of the set that
the pile believes signs the answer with its attestation key. What a node could do by lying is keep a record from being sent
again, and the pile keeps its own copy all the same.
"""

from pile_shared import cose, topics
from pile_shared.codec import array, decode, encode
from pile_shared.errors import BoundsError, SignatureError
from pile_shared.platform import sha256
from pile_shared.units import MAX_SEQUENCE, check_bytes, check_id, check_int, check_text

RECORD, RECORDED = "record", "recorded"  # kinds of topic; the answer's purpose is the first
STORED = "stored"
MAX_RECORD_BYTES = 2500  # SignedMeterValueType.signedMeterData of OCPP 2.0.1; the longest that a pile makes is 1,024
MAX_MESSAGE_BYTES = MAX_RECORD_BYTES + 9  # an array of two, a sequence, the head of the text
MAX_ANSWER_BYTES = 256  # a COSE_Sign1 of 93 bytes around a pile id, a sequence, a hash and a code: 203


def parse_topic(topic: str) -> tuple[str, str, str, str]:
    """As `topics.parse`, and the kinds of this module; BoundsError if it is none of ours."""
    head, _, kind = topic.rpartition("/")
    if kind not in (RECORD, RECORDED):
        return topics.parse(topic)
    parts = head.split("/")
    if len(parts) != 4 or "/".join(parts[:2]) != topics.ROOT or parts[3] == topics.PARTY_LEVEL:
        raise BoundsError("not a Pilechain topic: " + topic[:80])
    return check_id("chain", parts[2]), "pile", check_id("pile", parts[3]), kind


def encode_record(sequence: int, text: str) -> bytes:
    """The message that brings a record.

    Args:
        sequence: Of the begin or end proof whose reading it is.
        text: The record, `OCMF|...|...`.

    Raises:
        BoundsError: The text is empty, longer than MAX_RECORD_BYTES or not printable ASCII, or the sequence out of range.
    """
    check_int("sequence", sequence, 1, MAX_SEQUENCE)
    return encode([sequence, check_text("record", text, MAX_RECORD_BYTES)])


def decode_record(message: bytes) -> tuple[int, str]:
    """(sequence, record) of a message.

    Raises:
        BoundsError: `oversized`, or as `encode_record`.
        CodecError: It is not the wire form.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise BoundsError("longer than " + str(MAX_MESSAGE_BYTES) + " bytes", "oversized")
    sequence, text = array(decode(message, MAX_MESSAGE_BYTES), 2)
    check_int("sequence", sequence, 1, MAX_SEQUENCE)
    return sequence, check_text("record", text, MAX_RECORD_BYTES)


def sign_answer(chain_id: str, pile_id: str, message: bytes, outcome: str, signer: cose.SoftwareSigner) -> bytes:
    """An accounting node's word on a record's message: STORED, or the code of a refusal that no repetition changes."""
    sequence, _ = decode_record(message)
    payload = encode([pile_id, sequence, sha256(message), check_text("outcome", outcome, 32)])
    return cose.sign1(payload, signer, cose.purpose(RECORD, chain_id))


def open_answer(answer: bytes, chain_id: str, pile_id: str, publics: list[bytes]) -> tuple[int, bytes, str]:
    """(sequence, SHA-256 of the record's message, outcome) of an answer to a pile.

    Args:
        answer: As it came.
        chain_id: The pile's chain.
        pile_id: The pile.
        publics: The attestation keys of the accounting nodes it believes.

    Raises:
        SignatureError: `oversized`, `malformed`, `unknown_key`, `bad_signature`, or `pile`: it is for another one.
        CodecError, BoundsError: It is not the wire form.
    """
    signed = cose.parse1(answer, MAX_ANSWER_BYTES)
    public = next((public for public in publics if cose.key_id(public) == signed.kid), None)
    if public is None:
        raise SignatureError("signed by no accounting node of this pile's set", "unknown_key")
    signed.verify(public, cose.purpose(RECORD, chain_id))
    pile, sequence, digest, outcome = array(decode(signed.payload, MAX_ANSWER_BYTES), 4)
    if check_id("pile", pile) != pile_id:
        raise SignatureError("answer is for pile " + pile, "pile")
    check_int("sequence", sequence, 1, MAX_SEQUENCE)
    return sequence, check_bytes("record hash", digest, 32, 32), check_text("outcome", outcome, 32)
