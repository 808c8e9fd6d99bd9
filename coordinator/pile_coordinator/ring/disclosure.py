"""A signer's own word that an image is theirs: a proof that note key and image have one secret, P = x * G and I = x * Hp(P).

The proof of equal discrete logarithms of D. Chaum, T. P. Pedersen, "Wallet Databases with Observers" (CRYPTO '92, section
3.2), made non-interactive by hashing everything (Fiat, Shamir, CRYPTO '86), the message included:

    A = k * G    B = k * Hp(P)    c = Hs(context, P, I, message, A, B)    s = k - c * x        proof: c || s

It can be made for a signature of any age and by nobody else, and says nothing of other images. It convinces everybody who
sees it, so the message should name the auditor and the question: then who passes it on shows whom it was meant for.
"""

from pile_coordinator.ring.group import (
    SCALAR_BYTES,
    RingError,
    answer,
    combine,
    hashed,
    is_point,
    is_scalar,
    multiply,
    multiply_base,
    public_of,
    scalar_from,
)
from pile_coordinator.ring.signature import RANDOM_BYTES, image_base
from pile_shared.platform import random_bytes

PROOF_BYTES = 2 * SCALAR_BYTES

_TAG_CHALLENGE = b"pilechain ring 1 disclosure challenge"
_TAG_NONCE = b"pilechain ring 1 disclosure nonce"


def prove(secret: bytes, context: bytes, message: bytes, random: bytes | None = None) -> bytes:
    """Prove that the image of a key in a context is that key's.

    Args:
        secret: The note's, 32 bytes, little-endian, in [1, ORDER - 1].
        context: Names chain and bin, as it did for the signature.
        message: What is proven to whom; any number of bytes.
        random: 32 bytes; from the operating system if not given. Bad ones do not give the secret away.

    Returns:
        c || s, 64 bytes.

    Raises:
        RingError: `ring_secret` or `ring_random`, an argument is not as said above.
    """
    random = random_bytes(RANDOM_BYTES) if random is None else random
    if len(random) != RANDOM_BYTES:
        raise RingError(f"a proof takes {RANDOM_BYTES} random bytes, these are {len(random)}", "ring_random")
    public = public_of(secret)
    base = image_base(public, context)
    image = multiply(secret, base)
    nonce = scalar_from(hashed(_TAG_NONCE, secret, context, message, random))
    challenge = _challenge(context, public, image, message, multiply_base(nonce), multiply(nonce, base))
    return challenge + answer(nonce, challenge, secret)


def verify_disclosure(public: bytes, image: bytes, context: bytes, message: bytes, proof: bytes) -> bool:
    """Tell whether the owner of a note key says, in these words, that an image in a context is the key's.

    Args:
        public: The note key, 32 bytes.
        image: The image, 32 bytes.
        context: Names chain and bin.
        message: What the proof was made for.
        proof: 64 bytes, as from `prove`.

    Returns:
        False for a wrong proof and for anything malformed; it never raises, whatever the bytes.
    """
    challenge, response = proof[:SCALAR_BYTES], proof[SCALAR_BYTES:]
    if not (is_point(public) and is_point(image) and is_scalar(challenge) and is_scalar(response)):
        return False
    try:
        one = combine(response, None, challenge, public)
        other = combine(response, image_base(public, context), challenge, image)
    except RingError:  # the base hashed to zero: once in 2^252, and still no reason to raise
        return False
    return _challenge(context, public, image, message, one, other) == challenge


def _challenge(context: bytes, public: bytes, image: bytes, message: bytes, one: bytes, other: bytes) -> bytes:
    return scalar_from(hashed(_TAG_CHALLENGE, context, public, image, message, one, other))
