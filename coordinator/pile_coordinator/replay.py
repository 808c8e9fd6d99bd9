"""Everything a ledger file says, computed again: from genesis and transactions alone, or the first block that differs is named.

No clock and no network; the file is only read. Signatures are checked too, unless the reader says that they were before.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pile_coordinator.chain import conduct, invariants
from pile_coordinator.chain.env import Env, Misbehaviour
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.proofs import BAD_SIGNATURE
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.transition import Outcome, TxResult, apply_block
from pile_coordinator.chain.tree import StateTree
from pile_coordinator.engines.engine import Block, CachingVerifier, header_of, load_state, set_hashes, validators_at
from pile_coordinator.engines.rings import CachingRings, share_rings
from pile_coordinator.engines.store import Store, StoreError
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, decode_header
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import es256_verify

NO_PREVIOUS = b"\x00" * 32
_DAMAGE = (PilechainError, TypeError, ValueError, LookupError, sqlite3.Error)  # what reading a spoilt row may raise
# What a false signature leads to: of a transaction, of a user's stop command, and of a proof among a transaction's details.
_UNSIGNED = frozenset({"bad_signature", "evidence", BAD_SIGNATURE})


class ReplayError(PilechainError):
    """A ledger that is not what its own transactions lead to; `height` is the first block that differs."""

    code = "replay"

    def __init__(self, height: int, message: str) -> None:
        super().__init__(f"block {height}: {message}")
        self.height = height


@dataclass(frozen=True, slots=True)
class Audit:
    """What a whole ledger was found to be: its certified blocks, and how many newer ones there are that nobody attested yet.

    A node writes a block down when it is decided and hears the others' attestations a moment later, so one that was stopped,
    or is at work, may have such blocks at its end. They are what their transactions lead to, but nothing proves that they
    were decided: no other number here speaks of them.

    `unsigned` are heights that a restored coordinator passed over without a signature (`is_passed_over`): blocks without
    content, which the certified one behind them names by its hash.
    """

    height: int
    transactions: int
    accepted: int
    state_root: bytes
    uncertified: int = 0
    unsigned: int = 0


class Replay:
    """A chain being computed again, block by block.

    Attributes:
        state: after the last block applied, sealed. height, time_ms: of that block; before the first, 0 and genesis'.
    """

    def __init__(self, genesis: Genesis, *, trust_signatures: bool = False, rings: CachingRings | None = None) -> None:
        """Start from genesis.

        Args:
            genesis: the chain's, as the reader pins it.
            trust_signatures: take attestations, and signatures in blocks that refuse none for a false one, as checked
                before. What a block computes is compared all the same.
            rings: checks ring signatures, of each block with as many processes as it has; without it they are checked here.
        """
        self.genesis = genesis
        self.state = genesis.state()
        self.state.seal()
        self.height = 0
        self.time_ms = genesis.time_ms
        self._previous = NO_PREVIOUS
        self._trusts = trust_signatures
        self._verify = CachingVerifier(es256_verify, rings)

    @classmethod
    def behind(cls, store: Store, genesis: Genesis) -> "Replay":
        """Go on behind the last block of a ledger, whose blocks before are taken as they are.

        Raises:
            StoreError: its state is not that of its last block.
        """
        replay = cls(genesis)
        header_bytes = store.last_header()
        if header_bytes is not None:
            header = decode_header(header_bytes)
            replay.state = load_state(store, header)
            replay.height, replay.time_ms, replay._previous = header.height, header.time_ms, header.hash()
        return replay

    def apply(self, block: Block, *, is_certified: bool = True) -> list[tuple[bytes, bytes | None]]:
        """Compute the next block again.

        Args:
            block: the next one.
            is_certified: whether it must have its certificate.

        Returns:
            The records that it changed, as `State.seal` gives them.

        Raises:
            ReplayError: it is not what it should be; the replay cannot go on.
        """
        header = self._header(block, is_certified=is_certified)
        signed, misbehaviour = self._engine_report(block)
        verify = self._verifier(block)
        time_ms, rings = header.time_ms, verify.rings
        env = Env(header.chain_id, header.height, time_ms, self._previous, verify, signed, misbehaviour, rings)
        share_rings(self.state, env, rings, block.txs)
        try:
            outcome = apply_block(self.state, env, block.txs)
        except BrokenInvariantError as error:
            raise ReplayError(header.height, f"breaks an invariant: {error}") from error
        state_root, changes = self.state.seal()
        _compare(header, block, outcome, state_root)
        if (header.validators_hash, header.next_validators_hash) != set_hashes(self.genesis, self.state, header.height):
            raise ReplayError(header.height, "its header names other accounting nodes than were elected")
        self.height, self.time_ms, self._previous = header.height, header.time_ms, header.hash()
        return changes

    @property
    def head(self) -> bytes:
        """The hash of the last header, which the next one names."""
        return self._previous

    def pass_over(self) -> tuple[Block, list[tuple[bytes, bytes | None]]]:
        """The next height as nobody signs it, and the records that it changes: of the time of the last, and empty.

        Raises:
            ReplayError: something is due at it, which would have to be certified; the replay cannot go on.
        """
        height = self.height + 1
        env = Env(self.genesis.chain_id, height, self.time_ms, self._previous, self._verify)
        outcome = apply_block(self.state, env, [])
        state_root, changes = self.state.seal()
        sets = set_hashes(self.genesis, self.state, height)
        if outcome.leaves or sets[0] != sets[1]:
            raise ReplayError(height, "cannot be left unsigned: something is due at it; restore to an earlier height")
        validators = validators_at(self.genesis, self.state, height)
        header = header_of(env, validators[height % len(validators)].party, [], outcome, state_root, sets)
        self.height, self._previous = height, header.hash()
        return Block(Certificate(header.encoded(), []), [], [], []), changes

    def _engine_report(self, block: Block) -> tuple[tuple[bytes, ...] | None, tuple[Misbehaviour, ...]]:
        """What entered the block besides its transactions; its leaves say it, and must come of it again."""
        try:
            return conduct.engine_report(self.state, self.height + 1, block.leaves)
        except _DAMAGE as error:
            raise ReplayError(self.height + 1, f"its events are damaged ({error})") from error

    def _header(self, block: Block, *, is_certified: bool) -> Header:
        """The header, if it follows the last one, is attested if it must be, and is that of these transactions."""
        expected = self.height + 1
        certificate = block.certificate
        try:
            if is_certified and not self._trusts:
                certificate.verify(self.genesis.chain_id, validators_at(self.genesis, self.state, expected))
            header = certificate.header
        except PilechainError as error:
            raise ReplayError(expected, str(error)) from error
        if not all(isinstance(tx, bytes) for tx in block.txs):
            raise ReplayError(expected, "its transactions are not byte strings")
        found = (header.chain_id, header.height, header.previous)
        if found != (self.genesis.chain_id, expected, self._previous) or header.time_ms < self.time_ms:
            raise ReplayError(expected, "its header does not follow the one before it")
        if (header.tx_count, header.tx_root) != (len(block.txs), merkle.root(block.txs)):
            raise ReplayError(expected, "its transactions are not those that its header names")
        return header

    def _verifier(self, block: Block) -> CachingVerifier:
        if self._trusts and not any(_is_unsigned(result) for result in block.results):
            return CachingVerifier(lambda *_: True, CachingRings(lambda *_: True))
        return self._verify


def _is_unsigned(result: TxResult) -> bool:
    """Whether a false signature was found in a transaction."""
    return result.code in _UNSIGNED or any(detail in _UNSIGNED for detail in result.details)


def _compare(header: Header, block: Block, outcome: Outcome, state_root: bytes) -> None:
    for index, (recorded, result) in enumerate(zip(block.results, outcome.results, strict=False)):
        # Not the message, which is for people and may be worded better by a later release.
        if (recorded.tx_id, recorded.code, recorded.details) != (result.tx_id, result.code, result.details):
            raise ReplayError(header.height, f"transaction {index} is {result.code}, the ledger says {recorded.code}")
    if outcome.leaves != block.leaves or len(outcome.results) != len(block.results):
        raise ReplayError(header.height, "its results and events are not what its transactions lead to")
    if (header.result_count, header.result_root) != (len(outcome.leaves), merkle.root(outcome.leaves)):
        raise ReplayError(header.height, "its header names other results and events")
    if header.state_root != state_root:
        raise ReplayError(
            header.height, f"leads to state root {state_root.hex()}, its header says {header.state_root.hex()}"
        )


def open_ledger(path: Path, genesis: Genesis) -> Store:
    """A ledger file, to be read only; ConfigError or StoreError if it is not this chain's."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; give the ledger of a coordinator's data folder")
    return Store(path, genesis.hash(), read_only=True)


def blocks_of(store: Store, first: int = 1) -> Iterator[Block]:
    """A store's blocks from a height on, in order; ReplayError for one that is missing or cannot be decoded."""
    for height in range(first, store.height() + 1):
        try:
            yield store.block(height)
        except KeyError as error:
            raise ReplayError(height, "is missing") from error
        except _DAMAGE as error:
            raise ReplayError(height, f"is damaged ({error})") from error


def certified_height(store: Store) -> int:
    """The last height whose block has attestations, or cannot be read; 0 if there is none."""
    height = store.height()
    while height > 0:
        try:
            certificate = store.certificate(height)
        except _DAMAGE:
            break
        if certificate is None or certificate.attestations:
            break
        height -= 1
    return height


def audit(
    store: Store,
    genesis: Genesis,
    *,
    trust_signatures: bool = False,
    rings: CachingRings | None = None,
    on_block: Callable[[Block], None] = lambda _: None,
) -> Audit:
    """Compute a whole ledger again, and compare the state it keeps with the one its blocks lead to.

    Args:
        store: the ledger.
        genesis: what it is held against.
        trust_signatures: see `Replay`.
        rings: see `Replay`.
        on_block: called after each block, for a progress bar.

    Raises:
        ReplayError: the first block that differs, or that has no certificate though a later one has. StoreError: the state
            kept beside the blocks is another one.
    """
    replay = Replay(genesis, trust_signatures=trust_signatures, rings=rings)
    certified = certified_height(store)  # of a ledger in use it may grow meanwhile
    found = held = Audit(0, 0, 0, StateTree().root)

    def compute(blocks: Iterator[Block]) -> None:
        nonlocal found, held
        for block in blocks:
            is_passed = is_passed_over(block, replay.time_ms)
            is_certified = not is_passed and (replay.height < certified or bool(block.certificate.attestations))
            replay.apply(block, is_certified=is_certified)
            found = Audit(
                replay.height,
                found.transactions + len(block.txs),
                found.accepted + sum(result.code == "ok" for result in block.results),
                block.header.state_root,
                unsigned=found.unsigned + is_passed,
            )
            held = found if is_certified else held
            on_block(block)

    compute(blocks_of(store))
    with store.snapshot():  # of a ledger in use: the state that is kept is that of the last block of the same moment
        compute(blocks_of(store, replay.height + 1))
        kept = StateTree().update(list(store.state_rows()))
    invariants.check_in_full(replay.state)
    if replay.height and kept != found.state_root:
        raise StoreError(f"the blocks are whole, but the state kept beside them is not that of block {replay.height}")
    return replace(held, uncertified=replay.height - held.height)


def is_passed_over(block: Block, before_ms: int) -> bool:
    """Whether nothing happens in a block and nobody attests it: of the time of the one before, `before_ms`, and empty."""
    if block.txs or block.leaves or block.certificate.attestations:
        return False
    try:
        return block.header.time_ms == before_ms
    except PilechainError:
        return False  # damaged: whoever applies it says so
