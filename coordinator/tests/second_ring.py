"""docs/ring-signatures.md, written a second time: from that page, with points by `ge25519` and scalars as Python's integers.

It shares no code with `pile_coordinator.ring`, and none with libsodium. Slow, and a point is what decodes to one by the rule.
"""

from hashlib import sha512
from struct import pack

from ge25519 import ge25519_cached, ge25519_p1p1, ge25519_p3

ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD = 2**255 - 19


def h512(tag, *fields):
    whole = sha512()
    for field in (tag.encode(), *fields):
        whole.update(pack(">Q", len(field)))
        whole.update(field)
    return whole.digest()


def number(encoded):
    return int.from_bytes(encoded, "little")


def encoded(value):
    return (value % ORDER).to_bytes(32, "little")


def hs(tag, *fields):
    return number(h512(tag, *fields)) % ORDER


def decode(point):
    """A point other than the identity by its canonical encoding, or None (RFC 9496 section 4.3.1)."""
    if len(point) != 32 or not 0 < number(point) < FIELD or number(point) % 2:
        return None
    return ge25519_p3.from_bytes_ristretto255(point)


def times(scalar, point):
    return ge25519_p3.scalar_mult(point, encoded(scalar))


def times_base(scalar):
    return ge25519_p3.scalar_mult_base(encoded(scalar))


def plus(one, other):
    return ge25519_p3.from_p1p1(ge25519_p1p1.add(one, ge25519_cached.from_p3(other)))


def hp(context, public):
    return decode(ge25519_p3.from_hash_ristretto255(h512("pilechain ring 1 image base", context, public)))


def public_of(secret):
    return times_base(secret).to_bytes_ristretto255()


def key_image(secret, context):
    return times(secret, hp(context, public_of(secret))).to_bytes_ristretto255()


def split(joined):
    return [joined[i : i + 32] for i in range(0, len(joined), 32)]


def digest_of(ring, context):
    return h512("pilechain ring 1 ring", context, ring)


def challenge_from(digest, image, message, left, right):
    points = (left.to_bytes_ristretto255(), right.to_bytes_ristretto255())
    return hs("pilechain ring 1 challenge", digest, image, message, *points)


def step(challenge, response, key, context, image):
    left = plus(times_base(response), times(challenge, decode(key)))
    return left, plus(times(response, hp(context, key)), times(challenge, decode(image)))


def sign(secret, ring, place, context, message, random):
    keys, digest, image = split(ring), digest_of(ring, context), key_image(secret, context)
    seed = b"".join(pack(">Q", len(field)) + field for field in (encoded(secret), digest, message, random))
    nonce = hs("pilechain ring 1 nonce", seed)
    answers = [hs("pilechain ring 1 answer", seed, bytes([i])) for i in range(16)]
    challenges = {(place + 1) % 16: challenge_from(
        digest, image, message, times_base(nonce), times(nonce, hp(context, keys[place]))
    )}  # fmt: skip
    for i in [(place + 1 + n) % 16 for n in range(15)]:
        points = step(challenges[i], answers[i], keys[i], context, image)
        challenges[(i + 1) % 16] = challenge_from(digest, image, message, *points)
    answers[place] = nonce - challenges[place] * secret
    return encoded(challenges[0]) + b"".join(map(encoded, answers))


def verify(ring, context, image, message, signature):
    keys, scalars = split(ring), split(signature)
    if (len(ring), len(signature)) != (512, 544) or None in map(decode, [*keys, image]) or len(set(keys)) < 16:
        return False
    if not all(0 < number(scalar) < ORDER for scalar in scalars):
        return False
    challenge, digest = number(scalars[0]), digest_of(ring, context)
    for key, response in zip(keys, scalars[1:], strict=True):
        points = step(challenge, number(response), key, context, image)
        challenge = challenge_from(digest, image, message, *points)
    return challenge == number(scalars[0])


def base_secret(seed, chain_id, count):
    return hs("pilechain ring 1 base secret", seed, chain_id.encode(), pack(">Q", count))


def note_offset(base, source, place):
    return hs("pilechain ring 1 note", base, source, pack(">Q", place))


def note_public(base, source, place):
    return plus(decode(base), times_base(note_offset(base, source, place))).to_bytes_ristretto255()


def note_secret(secret, source, place):
    return (secret + note_offset(public_of(secret), source, place)) % ORDER


def prove(secret, context, message, random):
    base, nonce = (
        hp(context, public_of(secret)),
        hs("pilechain ring 1 disclosure nonce", encoded(secret), context, message, random),
    )
    points = [point.to_bytes_ristretto255() for point in (times_base(nonce), times(nonce, base))]
    told = (context, public_of(secret), key_image(secret, context), message)
    challenge = hs("pilechain ring 1 disclosure challenge", *told, *points)
    return encoded(challenge) + encoded(nonce - challenge * secret)


def verify_disclosure(public, image, context, message, proof):
    challenge, response = map(number, split(proof))
    if None in map(decode, (public, image)) or not (0 < challenge < ORDER and 0 < response < ORDER):
        return False
    one, other = step(challenge, response, public, context, image)
    points = [point.to_bytes_ristretto255() for point in (one, other)]
    return challenge == hs("pilechain ring 1 disclosure challenge", context, public, image, message, *points)
