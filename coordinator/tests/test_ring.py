"""Ring signatures: who may sign, what links, and everything that is refused; the negative cases follow Monero's unit tests."""

import os
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pile_coordinator.ring import disclosure, group, keys, signature
from pile_coordinator.ring.group import ORDER, RingError

SECRETS = [keys.base_secret(bytes(32), "test", number) for number in range(17)]
KEYS = [keys.base_public(secret) for secret in SECRETS]
STRANGER = SECRETS[16]
RING = b"".join(KEYS[:16])
CONTEXT = b"test/bin/1"
MESSAGE = b"fund order 12 of test"
PLACE = 5
IMAGE = signature.key_image(SECRETS[PLACE], CONTEXT)
SIGNED = signature.sign(SECRETS[PLACE], RING, PLACE, CONTEXT, MESSAGE, bytes(32))
PROOF = disclosure.prove(SECRETS[PLACE], CONTEXT, MESSAGE, bytes(32))
NON_CANONICAL = bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")


def number(scalar):
    return int.from_bytes(scalar, "little")


def scalar(value):
    return value.to_bytes(32, "little")


def replaced(whole, index, part):
    """The index-th 32 bytes of a ring or a signature, exchanged."""
    return whole[: 32 * index] + part + whole[32 * index + 32 :]


def verifies(ring=RING, context=CONTEXT, image=IMAGE, message=MESSAGE, signed=SIGNED):
    return signature.verify(ring, context, image, message, signed)


def discloses(public=KEYS[PLACE], image=IMAGE, context=CONTEXT, message=MESSAGE, proof=PROOF):
    return disclosure.verify_disclosure(public, image, context, message, proof)


@pytest.mark.parametrize("place", range(16))
def test_every_member_signs(place):
    signed = signature.sign(SECRETS[place], RING, place, CONTEXT, MESSAGE)
    image = signature.key_image(SECRETS[place], CONTEXT)
    assert len(signed) == signature.SIGNATURE_BYTES == 544
    assert verifies(image=image, signed=signed)
    assert not verifies(image=signature.key_image(SECRETS[place - 1], CONTEXT), signed=signed)


def test_one_key_has_one_image_in_a_context_and_others_elsewhere():
    images = [signature.key_image(secret, context) for secret in SECRETS for context in (CONTEXT, b"test/bin/2", b"")]
    assert len(set(images)) == len(images)
    again = signature.sign(SECRETS[PLACE], RING, PLACE, CONTEXT, b"confirm order 12 of test")
    assert verifies(message=b"confirm order 12 of test", signed=again)  # by the same image: the two are linked
    elsewhere = signature.sign(SECRETS[PLACE], RING, PLACE, b"test/bin/2", MESSAGE)
    image = signature.key_image(SECRETS[PLACE], b"test/bin/2")
    assert verifies(context=b"test/bin/2", image=image, signed=elsewhere)
    assert not verifies(context=b"test/bin/2", signed=elsewhere)


def test_a_context_and_a_key_do_not_run_into_each_other():
    """Every field is behind its length: moving a byte from one to the next is another hash."""
    assert group.hashed(b"tag", b"ab", b"c") != group.hashed(b"tag", b"a", b"bc") != group.hashed(b"taga", b"", b"bc")


def test_a_stranger_cannot_sign():
    with pytest.raises(RingError, match="is not that of this secret") as caught:
        signature.sign(STRANGER, RING, PLACE, CONTEXT, MESSAGE)
    assert caught.value.code == "ring_place"
    own = replaced(RING, PLACE, KEYS[16])
    signed = signature.sign(STRANGER, own, PLACE, CONTEXT, MESSAGE)
    image = signature.key_image(STRANGER, CONTEXT)
    assert verifies(ring=own, image=image, signed=signed)
    assert not verifies(image=image, signed=signed)
    assert not verifies(ring=own, signed=signed)


def test_an_image_of_ones_own_choice_does_not_close_the_ring():
    """Linking holds because the answer serves both equations: the image must have the secret of the key."""
    for image in (KEYS[PLACE], KEYS[16], signature.image_base(KEYS[PLACE], CONTEXT), group.multiply(scalar(2), IMAGE)):
        assert group.is_point(image)
        assert not verifies(image=image)


def test_nothing_that_is_signed_can_be_exchanged():
    assert verifies()
    assert not verifies(message=MESSAGE + b"\0")
    assert not verifies(message=b"")
    assert not verifies(context=b"test/bin/2")
    assert not verifies(context=b"")
    assert not verifies(ring=RING[32:] + RING[:32])
    assert not verifies(ring=b"".join(KEYS[i] for i in (1, 0, *range(2, 16))))
    assert not verifies(ring=replaced(RING, 15, KEYS[16]))
    assert not verifies(signed=replaced(SIGNED, 3, SIGNED[128:160]))
    assert not verifies(signed=SIGNED[:32] + SIGNED[64:] + SIGNED[32:64])


def test_a_ring_is_sixteen_different_points():
    for ring in (
        RING[:-32],
        RING + KEYS[16],
        RING + KEYS[0],
        RING[:-1],
        b"",
        replaced(RING, 0, KEYS[1]),
        replaced(RING, 0, group.IDENTITY),
        replaced(RING, 0, NON_CANONICAL),
        replaced(RING, 15, scalar(1)),  # a negative field element
    ):
        assert not verifies(ring=ring)
        with pytest.raises(RingError, match="16 different keys") as caught:
            signature.sign(SECRETS[PLACE], ring, PLACE, CONTEXT, MESSAGE)
        assert caught.value.code == "ring_keys"


def test_an_image_is_a_point_other_than_the_identity():
    for image in (
        group.IDENTITY,
        NON_CANONICAL,
        scalar(1),
        IMAGE[:-1],
        IMAGE + b"\0",
        b"",
        IMAGE[:31] + bytes([IMAGE[31] | 128]),
    ):
        assert not verifies(image=image)
        assert not discloses(image=image)


@pytest.mark.parametrize("image", [group.IDENTITY, IMAGE[:-1], b""])
def test_libsodium_is_not_asked_about_what_is_no_point(image, monkeypatch):
    """It reads 32 bytes, whatever it is given."""
    monkeypatch.setattr(signature, "combine", None)
    monkeypatch.setattr(disclosure, "combine", None)
    assert not verifies(image=image)
    assert not discloses(image=image)
    assert not discloses(public=image)


def test_one_signature_has_one_encoding():
    """libsodium would take each of these for the scalar it came from: without the check, a signature had 2^17 of them."""
    for index in range(17):
        value = SIGNED[32 * index : 32 * index + 32]
        assert not verifies(signed=replaced(SIGNED, index, scalar(number(value) + ORDER)))
        assert not verifies(signed=replaced(SIGNED, index, scalar(number(value) + 2**255)))
        assert not verifies(signed=replaced(SIGNED, index, bytes(32)))
    top = scalar(number(SIGNED[:32]) + 2**255)
    assert group.multiply(top, KEYS[0]) == group.multiply(SIGNED[:32], KEYS[0])  # it does


@pytest.mark.parametrize(
    ("part", "whole"),
    [("signed", SIGNED), ("image", IMAGE), ("ring", RING), ("message", MESSAGE), ("context", CONTEXT)],
)
def test_every_byte_counts(part, whole):
    for index in range(len(whole)):
        wrong = bytearray(whole)
        wrong[index] ^= 1 << index % 8
        assert not verifies(**{part: bytes(wrong)}), index
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        assert not verifies(**{part: whole[:cut]})
    assert not verifies(**{part: whole + b"\0"})


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=600),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.binary(max_size=600),
)
@example(bytes(512), b"", bytes(32), b"", bytes(544))
@example(bytes([255] * 512), b"", bytes([255] * 32), b"", bytes([255] * 544))
def test_no_bytes_raise(ring, context, image, message, signed):
    assert not signature.verify(ring, context, image, message, signed)
    assert not verifies(image=image, signed=signed)
    assert not verifies(ring=ring)
    assert not disclosure.verify_disclosure(image, ring[:32], context, message, signed[:64])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(min_value=1, max_value=ORDER - 1), min_size=17, max_size=17))
def test_no_scalars_are_a_signature_by_chance(values):
    assert not verifies(signed=b"".join(map(scalar, values)))


def test_a_challenge_that_hashes_to_zero_raises_nothing(monkeypatch):
    monkeypatch.setattr(signature, "scalar_from", lambda _wide: bytes(32))
    assert not verifies()


def test_a_base_that_hashes_to_the_identity_raises_nothing(monkeypatch):
    monkeypatch.setattr(signature, "point_from", lambda _wide: group.IDENTITY)
    assert not verifies(context=b"of its own, for bins that are known already have their bases")


def test_equal_random_bytes_never_give_one_nonce_two_answers():
    """Two answers to one nonce are two equations in two unknowns: x = (s - s') / (c' - c). Place 0 shows its challenge."""

    def secret_if_nonces_are_equal(one, other):
        (c, s), (other_c, other_s) = [[number(signed[i : i + 32]) for i in (0, 32)] for signed in (one, other)]
        return (s - other_s) * pow(other_c - c, -1, ORDER) % ORDER

    random = bytes(32)
    first = signature.sign(SECRETS[0], RING, 0, CONTEXT, b"one", random)
    assert first == signature.sign(SECRETS[0], RING, 0, CONTEXT, b"one", random)
    for other in (
        signature.sign(SECRETS[0], RING, 0, CONTEXT, b"two", random),
        signature.sign(SECRETS[0], RING, 0, b"test/bin/2", b"one", random),
        signature.sign(SECRETS[0], replaced(RING, 15, KEYS[16]), 0, CONTEXT, b"one", random),
        signature.sign(SECRETS[0], RING, 0, CONTEXT, b"one", bytes([1] * 32)),
        signature.sign(SECRETS[0], RING, 0, CONTEXT, b"one"),
    ):
        assert secret_if_nonces_are_equal(first, other) != number(SECRETS[0])
        assert not set(group_of(first)) & set(group_of(other))
    proofs = [disclosure.prove(SECRETS[0], CONTEXT, message, random) for message in (b"one", b"two")]
    assert secret_if_nonces_are_equal(*proofs) != number(SECRETS[0])


def group_of(signed):
    return [signed[i : i + 32] for i in range(0, len(signed), 32)]


def test_what_a_caller_must_give():
    for secret in (bytes(32), scalar(ORDER), scalar(ORDER + 5), bytes([255] * 32), SECRETS[0][:31], b""):
        for call in (
            lambda secret=secret: signature.sign(secret, RING, 0, CONTEXT, MESSAGE),
            lambda secret=secret: signature.key_image(secret, CONTEXT),
            lambda secret=secret: disclosure.prove(secret, CONTEXT, MESSAGE),
            lambda secret=secret: keys.base_public(secret),
            lambda secret=secret: keys.note_secret(secret, bytes(32), 0),
        ):
            with pytest.raises(RingError) as caught:
                call()
            assert caught.value.code == "ring_secret"
    for place in (-1, 16):
        with pytest.raises(RingError, match="0 to 15"):
            signature.sign(SECRETS[0], RING, place, CONTEXT, MESSAGE)
    for random in (b"", bytes(31), bytes(33)):
        with pytest.raises(RingError, match="32 random bytes"):
            signature.sign(SECRETS[0], RING, 0, CONTEXT, MESSAGE, random)
        with pytest.raises(RingError, match="32 random bytes"):
            disclosure.prove(SECRETS[0], CONTEXT, MESSAGE, random)


def test_libsodium_leaves_no_file_behind(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    code = "import pile_coordinator.ring.keys as keys; print(keys.base_public(bytes([1] * 31 + [0])).hex())"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == keys.base_public(bytes([1] * 31 + [0])).hex()
    assert not list(tmp_path.iterdir())


def test_what_bins_keep_is_bounded():
    assert signature._members.cache_info().maxsize == signature.KNOWN_RINGS


class TestNoteKeys:
    def test_a_base_gives_a_note_its_key_and_its_owner_the_secret(self):
        source = bytes(range(32))
        for place in (0, 1, 2**64 - 1):
            assert keys.base_public(keys.note_secret(SECRETS[0], source, place)) == keys.note_public(
                KEYS[0], source, place
            )

    def test_no_two_notes_have_one_key(self):
        sources = [bytes(32), bytes([1] * 32)]
        made = [
            keys.note_public(base, source, place) for base in KEYS[:3] for source in sources for place in (0, 1, 256)
        ]
        assert len(set(made) | set(KEYS)) == len(made) + len(KEYS)

    def test_seed_chain_and_number_each_give_other_secrets(self):
        made = [
            keys.base_secret(seed, chain_id, count)
            for seed in (bytes(32), bytes([1] * 32))
            for chain_id in ("test", "tes", "")
            for count in (0, 1, 256, 2**64 - 1)
        ]
        assert len(set(made)) == len(made)

    def test_what_cannot_be_a_base_source_or_number(self):
        for base in (group.IDENTITY, NON_CANONICAL, scalar(1), KEYS[0][:31], b""):
            with pytest.raises(RingError, match="point") as caught:
                keys.note_public(base, bytes(32), 0)
            assert caught.value.code == "ring_point"
        for source in (b"", bytes(31), bytes(33)):
            with pytest.raises(RingError, match="32 bytes"):
                keys.note_public(KEYS[0], source, 0)
        for count in (-1, 2**64):
            for call in (keys.note_public, keys.note_secret):
                with pytest.raises(RingError, match="2\\^64 - 1"):
                    call(KEYS[0], bytes(32), count) if call is keys.note_public else call(SECRETS[0], bytes(32), count)
            with pytest.raises(RingError, match="2\\^64 - 1"):
                keys.base_secret(bytes(32), "test", count)
        with pytest.raises(RingError, match="a seed has 32 bytes"):
            keys.base_secret(bytes(31), "test", 0)

    def test_an_offset_that_cancels_the_base_is_refused(self, monkeypatch):
        """Nobody finds one, for the offset hashes the base; were it chosen, the note would belong to everybody."""
        monkeypatch.setattr(keys, "_offset", lambda *_: scalar(ORDER - number(SECRETS[0])))
        with pytest.raises(RingError, match="identity"):
            keys.note_public(KEYS[0], bytes(32), 0)
        with pytest.raises(RingError, match="zero"):
            keys.note_secret(SECRETS[0], bytes(32), 0)


class TestDisclosure:
    def test_the_owner_discloses_and_nobody_else(self):
        assert discloses()
        for secret in SECRETS[6:9]:
            assert not discloses(proof=disclosure.prove(secret, CONTEXT, MESSAGE))

    def test_nothing_in_it_can_be_exchanged(self):
        assert not discloses(public=KEYS[PLACE + 1])
        assert not discloses(public=group.IDENTITY)
        assert not discloses(public=NON_CANONICAL)
        assert not discloses(context=b"test/bin/2")
        assert not discloses(message=MESSAGE + b" ")
        assert not discloses(image=signature.key_image(SECRETS[PLACE], b"test/bin/2"))
        assert not discloses(image=signature.key_image(SECRETS[PLACE + 1], CONTEXT))

    def test_every_byte_counts(self):
        for index in range(len(PROOF)):
            wrong = bytearray(PROOF)
            wrong[index] ^= 1 << index % 8
            assert not discloses(proof=bytes(wrong))
        for wrong in (b"", PROOF[:32], PROOF[:-1], PROOF + b"\0", PROOF + PROOF):
            assert not discloses(proof=wrong)

    def test_a_proof_has_one_encoding(self):
        for index in (0, 1):
            value = number(PROOF[32 * index : 32 * index + 32])
            for other in (value + ORDER, value + 2**255, 0):
                assert not discloses(proof=replaced(PROOF, index, scalar(other)))

    def test_a_disclosure_is_no_signature_and_the_other_way_round(self):
        assert not verifies(signed=PROOF + SIGNED[64:])
        assert not discloses(proof=SIGNED[:64])

    def test_a_base_that_hashes_to_the_identity_raises_nothing(self, monkeypatch):
        monkeypatch.setattr(disclosure, "image_base", lambda *_: group.IDENTITY)
        assert not discloses()
