"""COSE_Sign1 beside pycose, which knows nothing of ours; and no byte of a message that may change."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycose.headers import KID, Algorithm
from pycose.keys import EC2Key
from pycose.messages import Sign1Message

from pile_shared import cose
from pile_shared.errors import SignatureError
from pile_shared.platform import es256_verify, sha256

AAD = cose.purpose(cose.PROOF, "demo-1")
SIGNER = cose.SoftwareSigner(sha256(b"test_cose"))
MOST = 70_000
payloads = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(n) for n in (23, 24, 255, 256, 65535)]))


def pycose_key():
    return EC2Key(crv="P_256", x=SIGNER.public[1:33], y=SIGNER.public[33:], d=sha256(b"test_cose"))


def code(call, *arguments):
    with pytest.raises(SignatureError) as caught:
        call(*arguments)
    return caught.value.code


@given(payloads)
@settings(max_examples=40)
def test_pycose_verifies_what_we_sign(payload):
    data = cose.sign1(payload, SIGNER, AAD)
    assert data[0] == 0xC0 | 18
    # Sign1Message.decode expects lists, and cbor2 6 gives what is inside a tag as tuples.
    message = Sign1Message.from_cose_obj(cbor2.loads(data[1:]), True)
    message.key = pycose_key()
    message.external_aad = AAD
    assert message.verify_signature()
    assert message.payload == payload
    assert message.phdr == {Algorithm: message.phdr[Algorithm], KID: SIGNER.kid}
    assert message.uhdr == {}
    message.external_aad = AAD + b"x"
    assert not message.verify_signature()


@given(payloads)
@settings(max_examples=40)
def test_we_verify_what_pycose_signs_in_our_shape(payload):
    message = Sign1Message(phdr={Algorithm: "ES256", KID: SIGNER.kid}, uhdr={}, payload=payload, external_aad=AAD)
    message.key = pycose_key()
    encoded = message.encode()
    # pycose takes a random nonce and either s; ours is the lower one, which RFC 9053 allows as any other.
    encoded = encoded[:-64] + cose.low_s(encoded[-64:])
    signed = cose.parse1(encoded, MOST)
    assert signed.payload == payload
    signed.verify(SIGNER.public, AAD)
    assert cose.sign1(payload, SIGNER, AAD)[:-64] == encoded[:-64]


def test_the_higher_s_verifies_as_es256_but_is_not_our_message():
    good = cose.sign1(b"x", SIGNER, AAD)
    high = good[-64:-32] + (cose._ORDER - int.from_bytes(good[-32:], "big")).to_bytes(32, "big")
    assert es256_verify(SIGNER.public, cose.to_be_signed(SIGNER.kid, b"x", AAD), high)
    assert code(cose.parse1, good[:-64] + high, MOST) == "malformed"
    assert cose.low_s(high) == good[-64:] == cose.low_s(good[-64:])


@pytest.mark.parametrize("above", [0, 1, 5, (1 << 256) - 1 - cose._ORDER])
def test_an_s_that_is_none_is_another_signature_and_raises_nothing(above):
    """Found by fuzzing: one above n, which anybody can send, ended whoever looked at it. -s mod n is never s."""
    none = bytes(32) + (cose._ORDER + above).to_bytes(32, "big")
    assert cose.low_s(none) != none
    assert len(cose.low_s(none)) == 64


def test_any_signer_may_be_behind_it():
    """A secure element takes the s it likes: some of these are high, all messages verify."""
    secret = ec.derive_private_key(int.from_bytes(sha256(b"test_cose"), "big"), ec.SECP256R1())

    class Element:
        public, kid = SIGNER.public, SIGNER.kid
        highs = 0

        def sign(self, message):
            r, s = decode_dss_signature(secret.sign(message, ec.ECDSA(SHA256())))
            Element.highs += s > cose._ORDER >> 1
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    for _ in range(40):
        cose.parse1(cose.sign1(b"payload", Element(), AAD), MOST).verify(SIGNER.public, AAD)
    assert Element.highs  # all low once in 2^40


@pytest.mark.parametrize("size", [0, 5, 30, 300])
def test_every_changed_byte_and_every_truncation_is_refused(size):
    good = cose.sign1(bytes(i & 255 for i in range(size)), SIGNER, AAD)
    cose.parse1(good, MOST).verify(SIGNER.public, AAD)
    for at in range(len(good)):
        for pattern in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[at] ^= pattern
            assert code(check, bytes(bad)) in {"malformed", "unknown_key", "bad_signature", "oversized"}
        assert code(check, good[:at]) == "malformed"
    assert code(check, good + b"\x00") == "malformed"


def check(data):
    cose.parse1(data, MOST).verify(SIGNER.public, AAD)


START = b"\xd2\x84\x4d\xa2\x01\x26\x04\x48"


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=160).map(lambda tail: START + tail)))
@example(START + b"\x00" * 8 + b"\xa0")
# Signature, kid and payload sharing bytes: 0x5840 inside the kid, 64 bytes from there.
@example(START + b"\x00" * 6 + b"\x58\x40" + b"\xa0\x40" + b"\x00" * 62)
@settings(max_examples=500)
def test_parsing_any_bytes_raises_nothing_but_signature_errors(data):
    try:
        signed = cose.parse1(data, 150)
    except SignatureError as error:
        assert error.code in {"malformed", "oversized"}  # noqa: PT017 - or no error at all
        return
    # What parses is what those parts make: there is no second way to write it.
    parts = (
        START,
        signed.kid,
        b"\xa0",
        cose._bstr_head(len(signed.payload)),
        signed.payload,
        b"\x58\x40",
        signed.signature,
    )
    assert b"".join(parts) == data


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_verifying_any_key_and_signature_raises_nothing_but_signature_errors(public, signature):
    assert code(cose.Sign1(cose.key_id(public), b"", signature).verify, public, AAD) == "bad_signature"


def test_sizes():
    assert len(cose.sign1(b"", SIGNER, AAD)) == 84
    assert len(cose.sign1(bytes(65535), SIGNER, AAD)) == 86 + 65535
    assert code(cose.sign1, bytes(65536), SIGNER, AAD) == "oversized"
    good = cose.sign1(b"x", SIGNER, AAD)
    cose.parse1(good, len(good))
    assert code(cose.parse1, good, len(good) - 1) == "oversized"


def test_one_purpose_is_not_another():
    kinds = [cose.PROOF, cose.TRANSACTION, cose.HEADER, cose.SESSION, cose.QUERY, cose.REPLY]
    aads = [cose.purpose(kind, chain) for kind in kinds for chain in ("a", "b")]
    assert len(set(aads)) == 12
    signed = cose.parse1(cose.sign1(b"x", SIGNER, aads[0]), MOST)
    signed.verify(SIGNER.public, aads[0])
    for aad in aads[1:]:
        assert code(signed.verify, SIGNER.public, aad) == "bad_signature"


def test_key_id():
    assert cose.key_id(SIGNER.public) == SIGNER.kid == sha256(SIGNER.public)[:8]
    assert (
        code(cose.parse1(cose.sign1(b"", SIGNER, AAD), MOST).verify, SIGNER.public[:-1] + b"\x00", AAD) == "unknown_key"
    )
