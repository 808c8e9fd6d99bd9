"""The port between the chain and whatever orders its blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from pile_coordinator.chain import election
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import Transaction
from pile_coordinator.chain.transition import TxResult
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, Inclusion, Validator, encode_handover, validators_hash

MAX_VERIFIED = 65_536  # remembered signatures: a few blocks' worth, some 30 MB


@dataclass(frozen=True)
class Block:
    """A committed block: the certified header, its transactions, their results, and the leaves of its result root."""

    certificate: Certificate
    txs: list[bytes]
    results: list[TxResult]
    leaves: list[bytes]

    @cached_property
    def header(self) -> Header:
        """The header, decoded once."""
        return self.certificate.header

    @cached_property
    def _tree(self) -> list[list[bytes]]:
        return merkle.levels(self.leaves)

    def path(self, index: int) -> list[bytes]:
        """The Merkle path from leaf `index` to the result root."""
        return merkle.path(self._tree, index)

    def inclusion(self, index: int) -> Inclusion:
        """Proof for a light client that leaf `index` is in this block."""
        return Inclusion(self.certificate, self.leaves[index], index, self.path(index))


def validators_at(genesis: Genesis, state: State, height: int) -> list[Validator]:
    """Who attests block `height`, by the state after any block up to two before it or any later one.

    Those of genesis where nobody is elected. KeyError for a height whose set is no longer kept.
    """
    found = election.certified_set(state, height)
    if found is not None:
        return found
    if state.stake_rules is not None:
        raise KeyError(height)
    return list(genesis.validators)


def handover_after(genesis: Genesis, state: State, block: Block) -> bytes | None:
    """What light clients must hear after `block` if it is the last of its set (pile_shared.certificate), else None.

    `state` is that after the block.
    """
    header = block.header
    if header.validators_hash == header.next_validators_hash:
        return None
    return encode_handover(block.certificate, validators_at(genesis, state, header.height + 1))


def set_hashes(genesis: Genesis, state: State, height: int) -> tuple[bytes, bytes]:
    """What the header of block `height` names as its set and the next, by the state after that block."""
    return validators_hash(validators_at(genesis, state, height)), validators_hash(
        validators_at(genesis, state, height + 1)
    )


class Engine(Protocol):
    """Orders transactions into blocks, keeps them, and tells listeners after each commit."""

    genesis: Genesis
    state: State  # after the last committed block; only read

    @property
    def height(self) -> int:
        """Of the last committed block; 0 before the first."""
        ...

    def submit(self, tx: bytes) -> Transaction:
        """Take a transaction for a coming block. Rejection if it cannot succeed; BusyError if too many wait."""
        ...

    def on_block(self, listener: Callable[[Block], None]) -> None:
        """Call `listener` after every commit, in order of height."""
        ...

    def block(self, height: int) -> Block:
        """A committed block; KeyError if there is none of that height."""
        ...


class CachingVerifier:
    """An ES256 verifier that remembers what it found valid, so that ingest, CheckTx and the block pay for it once."""

    def __init__(self, verify: Callable[[bytes, bytes, bytes], bool]) -> None:
        """Wrap a pure verify(public, message, signature)."""
        self._verify = verify
        self._valid: dict[tuple[bytes, bytes, bytes], None] = {}

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is valid; the same answer the wrapped function gives."""
        claim = (public, message, signature)
        if claim in self._valid:
            return True
        if not self._verify(public, message, signature):
            return False
        if len(self._valid) >= MAX_VERIFIED:
            del self._valid[next(iter(self._valid))]
        self._valid[claim] = None
        return True
