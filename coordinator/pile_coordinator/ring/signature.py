"""The ring signature: sign as one of sixteen keys, verify, and the key image that links what one key signs in one context.

With P = x * G and H = Hp(context, P), the image is I = x * H. Around the ring, each challenge hashes the two points that the
challenge before and a random answer lead to,

    L = s[i] * G + c[i] * P[i]        R = s[i] * H[i] + c[i] * I        c[i+1] = Hs(D, I, message, L, R)

and only who knows the x of one P that gives I can choose an answer, s = alpha - c * x, that closes it. D stands for ring and
context. Nothing in it tells where it was closed.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

from pile_coordinator.ring.group import (
    POINT_BYTES,
    SCALAR_BYTES,
    RingError,
    answer,
    combine,
    framed,
    hashed,
    is_point,
    is_scalar,
    multiply,
    multiply_base,
    point_from,
    public_of,
    scalar_from,
)
from pile_shared.platform import random_bytes

RING_SIZE = 16
RING_BYTES = RING_SIZE * POINT_BYTES
SIGNATURE_BYTES = SCALAR_BYTES + RING_SIZE * SCALAR_BYTES
RANDOM_BYTES = 32

# The bins whose fixed part is kept, 3 kB each: as many as orders open at a time need, and 3 MB at most.
KNOWN_RINGS = 1024

_TAG_IMAGE_BASE = b"pilechain ring 1 image base"
_TAG_RING = b"pilechain ring 1 ring"
_TAG_CHALLENGE = b"pilechain ring 1 challenge"
_TAG_NONCE = b"pilechain ring 1 nonce"
_TAG_ANSWER = b"pilechain ring 1 answer"


class _Members(NamedTuple):
    """What a ring has in a context, whoever signs: its keys, the bases of their images, and the digest of both."""

    keys: list[bytes]
    bases: list[bytes]
    digest: bytes


def image_base(public: bytes, context: bytes) -> bytes:
    """Hp(context, P): the point whose multiple by a key's secret is its image in a context."""
    return point_from(hashed(_TAG_IMAGE_BASE, context, public))


def key_image(secret: bytes, context: bytes) -> bytes:
    """The image of a key in a context: the same whatever it signs there, unlinkable to the key and to other contexts.

    Args:
        secret: 32 bytes, little-endian, in [1, ORDER - 1].
        context: Names chain and bin; any number of bytes.

    Returns:
        A point, 32 bytes.

    Raises:
        RingError: `ring_secret`, the secret is malformed.
    """
    return multiply(secret, image_base(public_of(secret), context))


def sign(secret: bytes, ring: bytes, place: int, context: bytes, message: bytes, random: bytes | None = None) -> bytes:
    """Sign a message as one of a ring, without telling which one.

    The nonce and the other members' answers are hashed from the secret, the message and the random bytes together. So equal
    random bytes give equal signatures of one message, but never two answers to one nonce, which would give the secret away.

    Args:
        secret: The signer's, 32 bytes, little-endian, in [1, ORDER - 1].
        ring: Sixteen keys one after the other, 512 bytes, all different.
        place: Where the signer's key stands, 0 to 15.
        context: Names chain and bin; any number of bytes.
        message: Any number of bytes.
        random: 32 bytes; from the operating system if not given.

    Returns:
        c[0] || s[0] || ... || s[15], 544 bytes. The image, `key_image(secret, context)`, is sent beside it.

    Raises:
        RingError: `ring_secret`, `ring_place`, `ring_random` or `ring_keys`: an argument is not as said above, or the key
            at that place is not the secret's.
    """
    if not 0 <= place < RING_SIZE:
        raise RingError(f"a place in a ring is 0 to {RING_SIZE - 1}, this is {place}", "ring_place")
    random = random_bytes(RANDOM_BYTES) if random is None else random
    if len(random) != RANDOM_BYTES:
        raise RingError(f"a signature takes {RANDOM_BYTES} random bytes, these are {len(random)}", "ring_random")
    members = _members(ring, context)
    if members is None:
        raise RingError(f"a ring is {RING_SIZE} different keys, {RING_BYTES} bytes; check the bin", "ring_keys")
    if public_of(secret) != members.keys[place]:
        raise RingError(f"the key at place {place} is not that of this secret", "ring_place")

    image = multiply(secret, members.bases[place])
    start = hashlib.sha512(framed(_TAG_CHALLENGE, members.digest, image, message))
    seed = framed(secret, members.digest, message, random)
    nonce = scalar_from(hashed(_TAG_NONCE, seed))
    answers = [scalar_from(hashed(_TAG_ANSWER, seed, bytes([i]))) for i in range(RING_SIZE)]
    challenges = [b""] * RING_SIZE
    challenge = _challenge(start, multiply_base(nonce), multiply(nonce, members.bases[place]))
    for step in range(1, RING_SIZE):
        i = (place + step) % RING_SIZE
        challenges[i] = challenge
        challenge = _next_challenge(start, challenge, answers[i], members.keys[i], members.bases[i], image)
    challenges[place] = challenge
    answers[place] = answer(nonce, challenge, secret)
    return challenges[0] + b"".join(answers)


def verify(ring: bytes, context: bytes, image: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether one of a ring signed a message, and this is the image of its key in this context.

    The ring comes from the verifier's own records of the bin. Who asks whether a note was spent looks the image up there too.

    Args:
        ring: Sixteen keys one after the other, 512 bytes, all different.
        context: Names chain and bin.
        image: 32 bytes.
        message: Any number of bytes.
        signature: 544 bytes, as from `sign`.

    Returns:
        False for a wrong signature and for anything malformed; it never raises, whatever the bytes.
    """
    members = _members(ring, context)
    if members is None or len(signature) != SIGNATURE_BYTES or not is_point(image):
        return False
    first, *answers = [signature[i : i + SCALAR_BYTES] for i in range(0, SIGNATURE_BYTES, SCALAR_BYTES)]
    if not (is_scalar(first) and all(map(is_scalar, answers))):
        return False
    start = hashlib.sha512(framed(_TAG_CHALLENGE, members.digest, image, message))
    challenge = first
    try:
        for key, base, response in zip(members.keys, members.bases, answers, strict=True):
            challenge = _next_challenge(start, challenge, response, key, base, image)
    except RingError:  # something hashed to zero: once in 2^252, and still no reason to raise
        return False
    return challenge == first


@lru_cache(maxsize=KNOWN_RINGS)
def _members(ring: bytes, context: bytes) -> _Members | None:
    """What every signature of a bin needs alike; None if these are not sixteen different points."""
    keys = [ring[i : i + POINT_BYTES] for i in range(0, len(ring), POINT_BYTES)]
    if len(ring) != RING_BYTES or len(set(keys)) != RING_SIZE or not all(map(is_point, keys)):
        return None
    return _Members(keys, [image_base(key, context) for key in keys], hashed(_TAG_RING, context, ring))


def _next_challenge(
    start: "hashlib._Hash", challenge: bytes, response: bytes, key: bytes, base: bytes, image: bytes
) -> bytes:
    """One member's step around the ring, from its challenge and its answer to the next member's challenge."""
    left = combine(response, None, challenge, key)
    right = combine(response, base, challenge, image)
    return _challenge(start, left, right)


def _challenge(start: "hashlib._Hash", left: bytes, right: bytes) -> bytes:
    """Hs(D, I, message, L, R), from the state of the hash after the message."""
    whole = start.copy()
    whole.update(framed(left, right))
    return scalar_from(whole.digest())
