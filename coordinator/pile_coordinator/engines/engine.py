"""The port between the chain and whatever orders its blocks."""

import gc
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from pile_coordinator.chain import election, invariants
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import Zone
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import DoubleAttestation, Transaction
from pile_coordinator.chain.transition import Outcome, TxResult
from pile_coordinator.engines.rings import CachingRings
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, Inclusion, Validator, encode_handover, validators_hash
from pile_shared.errors import PilechainError

ZERO_HASH = b"\x00" * 32  # stands for the header before the first
Publish = Callable[[str, bytes, bool], None]
"""Send (topic, payload, retained) to everybody."""

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


class BusyError(PilechainError):
    """Too many transactions wait already; send again after the next block."""

    code = "busy"


class StoreError(PilechainError):
    """The ledger store cannot be used; the message says which file and what to do."""

    code = "store"


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
    """Orders transactions into blocks, keeps them, and tells listeners of each that is certified."""

    genesis: Genesis
    verify: "CachingVerifier"
    description: str  # for the log: which engine, and what it stands for
    topics: tuple[str, ...]  # of MQTT, that it needs to hear
    hurries: bool  # something is to be done now: `advance` should not wait for its time
    charges: dict[str, DoubleAttestation]  # proven and not settled yet, by the accounting node that attested twice

    def connect(self, publish: "Publish", wake: Callable[[], None]) -> None:
        """Use `publish` to talk to other nodes; `wake` makes the thread that calls `advance` call it soon."""
        ...

    def handle(self, topic: str, payload: bytes) -> str | None:
        """Take a message of `topics`: "" or why it was refused; None if it is another."""
        ...

    @property
    def state(self) -> State:
        """After the last committed block; only read, and within `turn`."""
        ...

    @property
    def height(self) -> int:
        """Of the last committed block; 0 before the first."""
        ...

    def turn(self) -> AbstractContextManager[object]:
        """While it is held no other thread of this process changes the state."""
        ...

    def env(self, time_ms: int) -> Env:
        """The block that would be made now."""
        ...

    def submit(self, tx: bytes, *, bounded: bool = True) -> Transaction:
        """Take a transaction for a coming block. Rejection if it cannot succeed; BusyError if too many wait."""
        ...

    def waits(self, tx_id: bytes) -> bool:
        """Whether a submitted transaction may still come into a block."""
        ...

    def next_sequence(self, party: str) -> int:
        """The sequence a party's next transaction must have, those that wait included."""
        ...

    def advance(self, time_ms: int) -> Block | None:
        """Do what is to be done now; the last block that the listeners were told of meanwhile, if any."""
        ...

    @property
    def first_height(self) -> int:
        """Of the oldest block kept: 1, unless the ledger began with a snapshot."""
        ...

    def on_block(self, listener: Callable[[Block], None]) -> None:
        """Call `listener` for every certified block, in order of height."""
        ...

    def block(self, height: int) -> Block:
        """A committed block; KeyError if there is none of that height."""
        ...

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction, or None."""
        ...

    def handover_from(self, set_hash: bytes) -> bytes | None:
        """The message by which a reader of this validator set follows to the next; None if it is the newest."""
        ...

    def is_current(self) -> bool:
        """Whether this node has caught up with the others; may take as long as asking CometBFT does."""
        ...

    def settle(self, party: str) -> None:
        """Forget the charge against a node: it was punished, or never can be."""
        ...

    def close(self) -> None:
        """Close the ledger; what waits is dropped, as nobody was told it was accepted."""
        ...


class StateSource(Protocol):
    """Where a stored state is read from."""

    def state_rows(self) -> Iterable[tuple[bytes, bytes]]:
        """(key, encoding) of every record."""
        ...


# --- what both engines do alike ------------------------------------------------------------------------------------------


def has_work(state: State, time_ms: int) -> bool:
    """Whether a block at `time_ms` would do anything without a transaction in it."""
    deadline_ms = state.next_deadline_ms()
    is_due = deadline_ms is not None and deadline_ms <= time_ms
    return is_due or bool(state.ended_fundings(1)) or any(zone.dirty for zone in state.each(Zone))


def header_of(
    env: Env, proposer: str, txs: list[bytes], outcome: Outcome, state_root: bytes, sets: tuple[bytes, bytes]
) -> Header:
    """The header of a block that was applied; `sets` are the hashes of the validators that attest it and the next one."""
    return Header(
        chain_id=env.chain_id,
        height=env.height,
        time_ms=env.time_ms,
        proposer=proposer,
        tx_count=len(txs),
        result_count=len(outcome.leaves),
        previous=env.seed,
        tx_root=merkle.root(txs),
        result_root=merkle.root(outcome.leaves),
        state_root=state_root,
        validators_hash=sets[0],
        next_validators_hash=sets[1],
    )


def load_state(source: StateSource, header: Header) -> State:
    """The state after a block as it was stored; StoreError if it is another one. Invariants are recounted.

    100,000 open orders are millions of objects that all stay, and nothing for the collector to find.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        state = State.load(source.state_rows(), header.state_root)
    except BrokenInvariantError as error:
        message = f"the stored state does not have the root of block {header.height}; restore a backup"
        raise StoreError(message) from error
    finally:
        if collecting:
            gc.enable()
    invariants.check_in_full(state)
    return state


class CachingVerifier:
    """An ES256 verifier that remembers what it found valid, so that ingest, CheckTx and the block pay for it once.

    Attributes:
        rings: the same for ring signatures.
    """

    def __init__(self, verify: Callable[[bytes, bytes, bytes], bool], rings: CachingRings | None = None) -> None:
        """Wrap a pure verify(public, message, signature). Without `rings`, those are checked here when they are asked for."""
        self._verify = verify
        self.rings = rings or CachingRings()
        self._valid: dict[tuple[bytes, bytes, bytes], None] = {}

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether the signature is valid; the same answer the wrapped function gives."""
        claim = (public, message, signature)
        if claim in self._valid:
            return True
        if not self._verify(public, message, signature):
            return False
        self.believe(public, message, signature)
        return True

    def believe(self, public: bytes, message: bytes, signature: bytes) -> None:
        """Remember a signature as valid, by one who was trusted to verify it."""
        if len(self._valid) >= MAX_VERIFIED:
            del self._valid[next(iter(self._valid))]
        self._valid[public, message, signature] = None
