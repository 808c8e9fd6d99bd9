"""All that comes from outside into the law: the block being made, and how signatures are checked."""

from dataclasses import dataclass, field
from typing import Protocol


class Verifier(Protocol):
    """Checks one ES256 signature. A pure function to the chain; an engine may remember what it verified before."""

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `public` (65 bytes) signed `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Env:
    """The block being applied.

    Attributes:
        chain_id: the chain. height: of this block, from 1. time_ms: its header's time, never before the last block's.
        seed: hash of the previous header, which orders ties so that nobody chooses the order.
        verify: the signature check.
    """

    chain_id: str
    height: int
    time_ms: int
    seed: bytes
    verify: Verifier


@dataclass(slots=True)
class Journal:
    """What a block does, besides changing the state: the leaves of its result root, and piles that are owed a receipt."""

    leaves: list[bytes] = field(default_factory=list)
    receipts: dict[str, None] = field(default_factory=dict)
