"""Ring signatures: what signing and verifying add to the multiplications of points that a ring of sixteen cannot do without.

The limit is 2 x 16 pairs: for each member s * G and c * P, s * Hp and c * I, 16 multiplications of the generator and 48 of
other points, of libsodium, called bare with a buffer that is used again. On top of that there must be two additions of points
for each member, which are shown on their own: the best that can be had from libsodium is the limit and those.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator

import rbcl  # type: ignore[import-untyped]

from bench.figures import Figure, report
from bench.support import anonymous_orders
from pile_coordinator.ring import keys, signature

ROUNDS = 250
CONTEXT = b"bench/bin/1"
MESSAGE = bytes(120)  # about what a confirmation says: purpose, chain, order, hash, bin, expiry
PLACE = 7
LIMIT_IS = "its 2 x 16 pairs of multiplications"


def figures() -> Iterator[Figure]:
    """Times of signing and verifying, for a bin whose keys' Hp are known already and for one seen the first time."""
    yield from _signatures()
    yield from anonymous_orders.figures()


def _signatures() -> Iterator[Figure]:
    secrets = [keys.base_secret(bytes(keys.SEED_BYTES), "bench", number) for number in range(signature.RING_SIZE)]
    ring, secret = b"".join(map(keys.base_public, secrets)), secrets[PLACE]
    image = signature.key_image(secret, CONTEXT)
    signed = signature.sign(secret, ring, PLACE, CONTEXT, MESSAGE)
    multiplications, additions = _bare(ring, image, signed)

    def sign() -> None:
        signature.sign(secret, ring, PLACE, CONTEXT, MESSAGE)

    def verify() -> None:
        if not signature.verify(ring, CONTEXT, image, MESSAGE, signed):
            raise SystemExit("the signature that is measured does not verify")

    def verify_first() -> None:
        signature._members.cache_clear()  # noqa: SLF001
        verify()

    ours = {"sign": sign, "verify": verify, "verify-first": verify_first, "additions": additions}
    limit_us, ratios = _paired(multiplications, list(ours.values()))
    targets = {"sign": "<= 1.25", "verify": "<= 1.25"}
    for name, ratio in zip(ours, ratios, strict=True):
        yield Figure(f"ring-{name}", ratio * limit_us, "us", limit_us, LIMIT_IS, targets.get(name, ""))


def _bare(ring: bytes, image: bytes, signed: bytes) -> tuple[Callable[[], None], Callable[[], None]]:
    """The bare multiplications, and the additions, of one signature, on its own points and scalars."""
    library = rbcl._sodium  # noqa: SLF001
    multiply, multiply_base = library.crypto_scalarmult_ristretto255, library.crypto_scalarmult_ristretto255_base
    add, buffer = library.crypto_core_ristretto255_add, ctypes.create_string_buffer(32)
    ring_keys = [ring[i : i + 32] for i in range(0, len(ring), 32)]
    challenge, *answers = [signed[i : i + 32] for i in range(0, len(signed), 32)]
    steps = [(answer, key, signature.image_base(key, CONTEXT)) for answer, key in zip(answers, ring_keys, strict=True)]

    def multiplications() -> None:
        for answer, key, base in steps:
            multiply_base(buffer, answer)
            multiply(buffer, challenge, key)
            multiply(buffer, answer, base)
            multiply(buffer, challenge, image)

    def additions() -> None:
        for _, key, base in steps:
            add(buffer, key, base)
            add(buffer, base, image)

    return multiplications, additions


def _paired(limit: Callable[[], None], calls: list[Callable[[], None]]) -> tuple[float, list[float]]:
    """The limit's median time in us, and the median of each call's ratio to the limit in the same round.

    All take a turn in each round, each some milliseconds of this thread's processor time, so a machine that slows down or
    does something else meanwhile slows them alike.
    """
    rounds = [[_thread_us(call) for call in (limit, *calls)] for _ in range(ROUNDS)]
    ratios = [statistics.median(times[i] / times[0] for times in rounds) for i in range(1, len(calls) + 1)]
    return statistics.median(times[0] for times in rounds), ratios


def _thread_us(call: Callable[[], None]) -> float:
    began = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - began) / 1000


if __name__ == "__main__":
    report(figures())
