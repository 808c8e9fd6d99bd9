"""The group is that of RFC 9496, and every byte of our vectors comes out of a second implementation too, both ways."""

import json
from pathlib import Path

import pytest
import second_ring as second

from pile_coordinator.ring import disclosure, group, keys, signature

VECTORS = Path(__file__).parent / "vectors"
RFC = json.loads((VECTORS / "rfc9496.json").read_text())
OURS = json.loads((VECTORS / "ring.json").read_text())
RING = bytes.fromhex("".join(row["note_public"] for row in OURS["keys"]))
SEED = bytes.fromhex(OURS["seed"])


def unhexed(row):
    return {name: int(value) if name in {"number", "place"} else bytes.fromhex(value) for name, value in row.items()}


def secret_at(place):
    return bytes.fromhex(OURS["keys"][place]["note_secret"])


def test_multiples_of_the_generator():
    identity, generator, *others = map(bytes.fromhex, RFC["multiples_of_the_generator"])
    assert len(others) == 14
    assert identity == group.IDENTITY
    total = generator
    for times, expected in enumerate(others, start=2):
        total = group.add(total, generator)
        one, scalar = second.encoded(1), second.encoded(times)
        assert total == group.multiply_base(scalar) == group.multiply(scalar, generator) == expected
        assert group.combine(scalar, None, one, generator) == group.add(expected, generator)
        assert group.combine(scalar, generator, scalar, expected) == group.multiply_base(
            second.encoded(times + times**2)
        )
        assert group.is_point(expected)
        assert second.times_base(times).to_bytes_ristretto255() == expected
        assert second.times(times, second.decode(generator)).to_bytes_ristretto255() == expected


def test_invalid_encodings():
    refused = [bytes.fromhex(one) for cases in RFC["invalid_encodings"].values() for one in cases]
    assert len(refused) == 29
    for encoded in [*refused, group.IDENTITY]:  # valid in the RFC, and of no use to a signature
        assert not group.is_point(encoded)
        assert second.decode(encoded) is None
        with pytest.raises(group.RingError, match="point"):
            group.multiply(second.encoded(5), encoded)
        with pytest.raises(group.RingError, match="points"):
            group.combine(second.encoded(5), encoded, second.encoded(5), RING[:32])
        with pytest.raises(group.RingError, match="points"):
            group.combine(second.encoded(5), None, second.encoded(5), encoded)


def test_points_from_uniform_bytes():
    assert len(RFC["from_uniform_bytes"]) == 11
    for row in RFC["from_uniform_bytes"]:
        uniform, element = bytes.fromhex(row["uniform"]), bytes.fromhex(row["element"])
        assert group.point_from(uniform) == element == second.ge25519_p3.from_hash_ristretto255(uniform)


def test_scalars():
    largest = group.ORDER - 1
    for value, good in (
        (0, False),
        (1, True),
        (largest, True),
        (group.ORDER, False),
        (2**255 + 1, False),
        (2**256 - 1, False),
    ):
        assert group.is_scalar(value.to_bytes(32, "little")) == good
    assert not group.is_scalar(bytes([1] * 31))
    assert not group.is_scalar(bytes([1] * 33))
    for wide in (bytes(64), bytes([255] * 64), bytes(range(64)), group.ORDER.to_bytes(64, "little")):
        assert group.scalar_from(wide) == second.encoded(second.number(wide))
    one, two, three = (second.encoded(value) for value in (largest, 2**200 + 3, largest - 7))
    assert group.add_scalars(one, two) == second.encoded(largest + 2**200 + 3)
    assert group.answer(one, two, three) == second.encoded(largest - (2**200 + 3) * (largest - 7))


def test_keys():
    for row in OURS["keys"]:
        made = unhexed(row)
        number, source, place, base = (made[name] for name in ("number", "source", "place", "base"))
        secret = second.base_secret(SEED, OURS["chain_id"], number)
        assert keys.base_secret(SEED, OURS["chain_id"], number) == second.encoded(secret) == made["base_secret"]
        assert keys.base_public(made["base_secret"]) == second.public_of(secret) == base
        assert keys.note_public(base, source, place) == second.note_public(base, source, place) == made["note_public"]
        ours = keys.note_secret(made["base_secret"], source, place)
        assert ours == second.encoded(second.note_secret(secret, source, place)) == made["note_secret"]


@pytest.mark.parametrize("row", OURS["signatures"])
def test_signatures(row):
    made = unhexed(row)
    place, context, message, random, image = (made[name] for name in ("place", "context", "message", "random", "image"))
    secret = secret_at(place)
    assert signature.key_image(secret, context) == second.key_image(second.number(secret), context) == image
    # Both make these bytes of the same random ones, so what the second signs is verified by ours.
    signed = signature.sign(secret, RING, place, context, message, random)
    assert signed == second.sign(second.number(secret), RING, place, context, message, random) == made["signature"]
    assert signature.verify(RING, context, image, message, signed)


def test_the_second_implementation_verifies_what_ours_signs():
    secret, context, message = secret_at(6), b"another bin", b"with random bytes of the system's"
    signed = signature.sign(secret, RING, 6, context, message)
    told = (RING, context, signature.key_image(secret, context), message)
    assert second.verify(*told, signed)
    wrong = signed[:-32] + second.encoded(second.number(signed[-32:]) + 1)
    assert not second.verify(*told, wrong)
    assert not signature.verify(*told, wrong)


@pytest.mark.parametrize("row", OURS["disclosures"])
def test_disclosures(row):
    made = unhexed(row)
    place, context, message, random, image = (made[name] for name in ("place", "context", "message", "random", "image"))
    secret, public = secret_at(place), RING[32 * place : 32 * place + 32]
    proof = disclosure.prove(secret, context, message, random)
    assert proof == second.prove(second.number(secret), context, message, random) == made["proof"]
    assert disclosure.verify_disclosure(public, image, context, message, proof)
    assert second.verify_disclosure(public, image, context, message, proof)
