"""Keys of notes: one seed gives a wallet's base keys, one committed base key gives any number of one-time note keys.

As with Monero's one-time addresses (N. van Saberhagen, "CryptoNote v 2.0", 2013, section 4.3), the chain computes a note's key
itself, from the base key B that the payer committed to, the transaction that makes the note and the note's place in it:

    P = B + Hs(B, source, place) * G

Only who knows b, with B = b * G, knows the secret of P. Transactions differ, so no key is ever on the chain twice, however
often a base is given. Hs takes B, so nobody can choose a base that leads to a key already there. And no proof that the payer
owns B is needed: who commits to somebody else's base pays for somebody else's note.

A base key says whose the notes are that come from it, to whoever sees both. A wallet gives a fresh one each time.
"""

from pile_coordinator.ring.group import (
    RingError,
    add,
    add_scalars,
    hashed,
    is_point,
    is_scalar,
    multiply_base,
    public_of,
    scalar_from,
)

SEED_BYTES = 32
SOURCE_BYTES = 32
NUMBER_LIMIT = 2**64

_TAG_BASE = b"pilechain ring 1 base secret"
_TAG_NOTE = b"pilechain ring 1 note"


def base_secret(seed: bytes, chain_id: str, number: int) -> bytes:
    """A wallet's base secret of a number on a chain.

    Args:
        seed: The wallet's, 32 random bytes: all there is to back up.
        chain_id: So that the keys of two chains have nothing in common.
        number: 0 to 2^64 - 1; a wallet counts up, and counts up again to restore.

    Returns:
        32 bytes, little-endian, in [1, ORDER - 1].

    Raises:
        RingError: `ring_seed` or `ring_number`, an argument is not as said above.
    """
    if len(seed) != SEED_BYTES:
        raise RingError(f"a seed has {SEED_BYTES} bytes, this has {len(seed)}", "ring_seed")
    return scalar_from(hashed(_TAG_BASE, seed, chain_id.encode(), _eight_bytes(number)))


def base_public(secret: bytes) -> bytes:
    """The base key B = b * G of a base secret, 32 bytes.

    Raises:
        RingError: `ring_secret`, not 32 bytes, little-endian, in [1, ORDER - 1].
    """
    return public_of(secret)


def note_public(base: bytes, source: bytes, place: int) -> bytes:
    """The key of a note.

    Args:
        base: The base key that the payer committed to, 32 bytes.
        source: The id of the transaction that makes the note, 32 bytes.
        place: Which of the notes of that transaction, 0 to 2^64 - 1.

    Returns:
        A point, 32 bytes.

    Raises:
        RingError: `ring_point`, the base is no point or the identity; `ring_source` or `ring_number`.
    """
    if not is_point(base):
        raise RingError("this base key is no point of ristretto255, or the identity", "ring_point")
    public = add(base, multiply_base(_offset(base, source, place)))
    if not is_point(public):  # a base whose secret is minus the offset, which depends on it: nobody finds one
        raise RingError("this base key leads to the identity", "ring_point")
    return public


def note_secret(base_secret: bytes, source: bytes, place: int) -> bytes:
    """The secret of the note that `note_public` gives the key of, 32 bytes, little-endian, in [1, ORDER - 1].

    Raises:
        RingError: `ring_secret`, the base secret is malformed; `ring_source` or `ring_number`.
    """
    secret = add_scalars(base_secret, _offset(base_public(base_secret), source, place))
    if not is_scalar(secret):
        raise RingError("this base secret leads to the secret zero", "ring_secret")
    return secret


def _offset(base: bytes, source: bytes, place: int) -> bytes:
    if len(source) != SOURCE_BYTES:
        raise RingError(f"a source is a transaction id of {SOURCE_BYTES} bytes, this has {len(source)}", "ring_source")
    return scalar_from(hashed(_TAG_NOTE, base, source, _eight_bytes(place)))


def _eight_bytes(number: int) -> bytes:
    if not 0 <= number < NUMBER_LIMIT:
        raise RingError(f"a number here is 0 to 2^64 - 1, this is {number}", "ring_number")
    return number.to_bytes(8, "big")
