"""Bytes of a metering proof: with one reading at the largest field values, and for each further typical reading."""

from collections.abc import Iterator

from bench.figures import Figure, report
from pile_shared import cose
from pile_shared.platform import sha256
from pile_shared.proof import END, NO_PREVIOUS, PERIODIC, REASON_ENERGY_REACHED, Proof
from pile_shared.reading import Reading
from pile_shared.units import MAX_SEQUENCE

MAX_ONE_READING_BYTES = 200
MAX_FURTHER_BYTES = 12
CONTRACT = sha256(b"contract")


def reading(seconds: int) -> Reading:
    """A large meter's reading `seconds` into a 7 kW session."""
    energy_wh = 4_000_000_000 + 7000 * seconds // 3600
    return Reading(1_900_000_000_000 + 1000 * seconds, 2, (energy_wh // 10).to_bytes(8, "big"), energy_wh, 7000, 1)


def size(count: int, event: int = PERIODIC, reason: int = 0) -> int:
    """Bytes of a proof with `count` readings, ten seconds apart."""
    readings = [reading(10 * i) for i in range(count)]
    proof = Proof(MAX_SEQUENCE, NO_PREVIOUS, CONTRACT, event, readings, reason)
    return len(proof.sign(cose.SoftwareSigner(sha256(b"key")), "a-chain-of-a-long-name-1a2b3c4d"))


def figures() -> Iterator[Figure]:
    """Sizes of proofs."""
    limit = "the 200 bytes an operator pays for"
    yield Figure(
        "proof-one-reading", size(1, END, REASON_ENERGY_REACHED), "bytes", MAX_ONE_READING_BYTES, limit, "<= 1.0"
    )
    each = (size(60) - size(1)) / 59
    yield Figure("proof-further-reading", each, "bytes", MAX_FURTHER_BYTES, "12 bytes", "<= 1.0")


if __name__ == "__main__":
    report(figures())
