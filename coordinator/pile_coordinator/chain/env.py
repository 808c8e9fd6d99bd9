"""All that comes from outside into the law: the block being made, and how signatures are checked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pile_coordinator.ring import signature as ring


class Verifier(Protocol):
    """Checks one ES256 signature. A pure function to the chain; an engine may remember what it verified before."""

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `public` (65 bytes) signed `message`."""
        ...


RingClaim = tuple[bytes, bytes, bytes, bytes, bytes]
"""(keys, context, image, message, signature): what somebody says who signs with a note."""

RingVerifier = Callable[[bytes, bytes, bytes, bytes, bytes], bool]
"""Checks one ring signature (ring.signature.verify): whether one of 16 keys, whose image in a context is the one given, signed
a message. A pure function to the chain, like Verifier."""


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """The engine has proof that a node signed two things of one height.

    Attributes:
        address: of its consensus key, 20 bytes. height: at which it did.
    """

    address: bytes
    height: int


@dataclass(frozen=True, slots=True)
class Env:
    """The block being applied.

    Attributes:
        chain_id: the chain. height: of this block, from 1. time_ms: its header's time, never before the last block's.
        seed: hash of the previous header, which orders ties so that nobody chooses the order.
        verify: the signature check. verify_ring: that of ring signatures.
        signed: addresses of the consensus keys that signed the last block, in any order; None if the engine does not say,
            as for questions about a block that is not made. misbehaviour: what the engine found. Both count only on a chain
            with stake rules, from block 2 on, and misbehaviour only beside `signed`.
    """

    chain_id: str
    height: int
    time_ms: int
    seed: bytes
    verify: Verifier
    signed: tuple[bytes, ...] | None = None
    misbehaviour: tuple[Misbehaviour, ...] = ()
    verify_ring: RingVerifier = ring.verify


@dataclass(slots=True)
class Journal:
    """What a block does, besides changing the state.

    Attributes:
        leaves: of its result root. receipts: piles whose chain advanced, which are owed a receipt. closed: orders and
        contracts that ended in this block, in order. metered: (contract, metered, and its three parts) in Wh, see invariant 6.
        gone: anonymous parties whose order ended in this block, in order: what is theirs becomes notes.
    """

    leaves: list[bytes] = field(default_factory=list)
    receipts: dict[str, None] = field(default_factory=dict)
    closed: list[bytes] = field(default_factory=list)
    metered: list[tuple[bytes, int, int, int, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def mark(self) -> tuple[int, int, int, int, int]:
        """A point to roll back to."""
        return len(self.leaves), len(self.receipts), len(self.closed), len(self.metered), len(self.gone)

    def roll_back(self, mark: tuple[int, int, int, int, int]) -> None:
        """Forget everything noted since `mark`."""
        leaves, receipts, closed, metered, gone = mark
        del self.leaves[leaves:], self.closed[closed:], self.metered[metered:], self.gone[gone:]
        for pile in list(self.receipts)[receipts:]:  # a dict keeps the order in which piles were added
            del self.receipts[pile]
