"""The ledger behind CometBFT: what was decided is applied at once and written down at Commit, never before.

CometBFT counts its own heights. A block of it that has no transactions, and in which nothing falls due, changes nothing and
is no block of ours: heights, headers and results are those that the solo engine would give to the same transactions. The
app hash is the hash of the last header of ours, so that nodes which agree on it agree on everything before it, and an idle
chain stays idle: CometBFT makes no proof block where the app hash stood still.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pile_coordinator.chain import election
from pile_coordinator.chain.env import Env, Misbehaviour
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import NodeKey
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.clock import Clock
from pile_coordinator.engines.engine import (
    ZERO_HASH,
    Block,
    CachingVerifier,
    StoreError,
    has_work,
    header_of,
    load_state,
    set_hashes,
    validators_at,
)
from pile_coordinator.engines.rings import share_rings
from pile_coordinator.engines.store import Store
from pile_shared.certificate import Certificate, Header, Validator, decode_header
from pile_shared.errors import ConfigError

COMET_HEIGHT = "comet_height"  # the note that holds CometBFT's last committed height


@dataclass(frozen=True, slots=True)
class Decided:
    """A block that CometBFT's validators decided.

    Attributes:
        height: CometBFT's. hash: of CometBFT's block. time_ms: its time. proposer: address of who proposed it.
        txs: in order. signed: addresses of who signed the block before; None for the first. misbehaviour: proven by now.
    """

    height: int
    hash: bytes
    time_ms: int
    proposer: bytes
    txs: tuple[bytes, ...]
    signed: tuple[bytes, ...] | None = None
    misbehaviour: tuple[Misbehaviour, ...] = ()


@dataclass(frozen=True, slots=True)
class Finalized:
    """What a decided block did in memory, to be written at Commit; an idle one has no block.

    Attributes:
        updates: how CometBFT's validators change: (ed25519 key, power).
    """

    decided: Decided
    block: Block | None
    changes: list[tuple[bytes, bytes | None]]
    updates: list[tuple[bytes, int]]


class CometLedger:
    """State, blocks and CometBFT's height in one store. Whoever uses it holds `lock`.

    Attributes:
        state: after the last finalized block; in the moment between FinalizeBlock and Commit it is ahead of the store.
        height, time_ms, previous: of our last committed block; 0, genesis' time and zeros before the first.
        comet_height: CometBFT's last committed height. comet_time_ms: the time of that block; 0 until one is committed here.
    """

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        consensus_keys: Mapping[str, bytes],
        verify: CachingVerifier,
        clock: Clock | None = None,
    ) -> None:
        """Open the ledger at `path`.

        Args:
            path: the file.
            genesis: the chain's.
            verify: checks signatures.
            consensus_keys: CometBFT's ed25519 keys by accounting node, all of genesis'; where nodes are elected the chain
                knows better.
            clock: a rig's, which every node of its network must share; the default takes CometBFT's time as it is.

        Raises:
            ConfigError: keys for others than genesis' accounting nodes. StoreError: the file is not usable.
        """
        if set(consensus_keys) != {validator.party for validator in genesis.validators}:
            raise ConfigError("the consensus keys are not those of the accounting nodes in genesis")
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.verify = verify
        self.lock = threading.RLock()
        self.clock = clock or Clock()
        self.store = Store(path, genesis.hash())
        self._parties = {address_of(key): party for party, key in consensus_keys.items()}
        self._finalized: Finalized | None = None
        self._is_stopped = False
        self.comet_time_ms = 0
        self.load()

    def load(self) -> None:
        """Begin at what the store holds; what was finalized and not committed is forgotten."""
        noted, header = self.store.note(COMET_HEIGHT), self.store.last_header()
        self.comet_height = int.from_bytes(noted or b"", "big")
        self._finalized, self._is_stopped = None, False
        if header is None:
            self.state, self.height = self.genesis.state(), 0
            self.time_ms, self.previous = self.genesis.time_ms, ZERO_HASH
            return
        self._enter(decode_header(header))
        self.state = load_state(self.store, decode_header(header))

    def _enter(self, header: Header) -> None:
        self.height, self.time_ms, self.previous = header.height, header.time_ms, header.hash()

    def founding_powers(self) -> dict[bytes, int]:
        """Genesis' accounting nodes as CometBFT must know them: power by address."""
        if self.genesis.stake is not None:
            return {address_of(key): power for key, power in election.founding_updates(self.genesis.state())}
        powers = {validator.party: validator.power for validator in self.genesis.validators}
        return {address: powers[party] for address, party in self._parties.items()}

    @property
    def app_hash(self) -> bytes:
        """What CometBFT's next header says about us: the hash of our last header, or of genesis before the first."""
        return self.previous if self.height else self.genesis.hash()

    def env(self, time_ms: int) -> Env:
        """The block of ours that would be made now."""
        time_ms = max(time_ms, self.time_ms)
        return Env(self.chain_id, self.height + 1, time_ms, self.previous, self.verify, verify_ring=self.verify.rings)

    def env_now(self) -> Env:
        """That block by this node's clock: the last block's time may be long ago, and the next one's is not known yet."""
        return self.env(self.clock.now_ms())

    def finalize(self, decided: Decided) -> Finalized:
        """Apply a decided block in memory. Doing it again gives the same.

        Raises:
            StoreError: it is not the next block. Anything else is our mistake, and the node must stop.
        """
        if self._finalized is not None:
            if self._finalized.decided == decided:
                return self._finalized
            self.load()  # only a node that was restarted asks for another one, before it saw our Commit
        if self._is_stopped:
            raise StoreError("the ledger stopped at an error before a commit; open it again")
        if self.comet_height and decided.height != self.comet_height + 1:
            raise StoreError(f"CometBFT decided {decided.height} after {self.comet_height}: is this its data folder?")
        self._is_stopped = True  # until it is through, the state is neither that before nor that after
        self._finalized = self._apply(decided)
        self._is_stopped = False
        return self._finalized

    def _apply(self, decided: Decided) -> Finalized:
        """Where nodes are elected every block is ours: who signed it earns, and heights are those of CometBFT's evidence."""
        env, txs = self.env(self.clock.at_ms(decided.time_ms)), list(decided.txs)
        if self.state.stake_rules is not None:
            env = replace(env, signed=decided.signed, misbehaviour=decided.misbehaviour)
        elif not txs and not has_work(self.state, env.time_ms):
            return Finalized(decided, None, [], [])
        proposer = self._proposer(decided)
        share_rings(self.state, env, self.verify.rings, txs)  # of blocks that are caught up with; else they are known
        outcome = apply_block(self.state, env, txs)
        state_root, changes = self.state.seal()
        sets = set_hashes(self.genesis, self.state, env.height)
        header = header_of(env, proposer, txs, outcome, state_root, sets)
        block = Block(Certificate(header.encoded(), []), txs, outcome.results, outcome.leaves)
        return Finalized(decided, block, changes, outcome.updates)

    def _proposer(self, decided: Decided) -> str:
        """The party of the node that proposed a block."""
        if self.state.stake_rules is not None:
            key = self.state.find(NodeKey, decided.proposer)
            party = key.candidate if key is not None else None
        else:
            party = self._parties.get(decided.proposer)
        if party is None:
            raise StoreError(
                f"block {decided.height} was proposed by {decided.proposer.hex()}, whom the chain does not know"
            )
        return party

    def validators_at(self, height: int) -> list[Validator]:
        """Who attests our block of a height up to two after the last one; KeyError if that is no longer kept."""
        return validators_at(self.genesis, self.state, height)

    def commit(self) -> Block | None:
        """Write what was finalized, durably and all of it; our block, or None for an idle one.

        Raises:
            StoreError: nothing was finalized, or the file system refuses.
        """
        finalized = self._finalized
        if finalized is None:
            raise StoreError("CometBFT commits a block that it did not finalize before")
        comet_height = finalized.decided.height
        self.store.commit(finalized.block, finalized.changes, {COMET_HEIGHT: comet_height.to_bytes(8, "big")})
        self._finalized, self.comet_height, self.comet_time_ms = None, comet_height, finalized.decided.time_ms
        if finalized.block is not None:
            self._enter(finalized.block.header)
        return finalized.block

    def restore(self, header: bytes, rows: list[tuple[bytes, bytes]], comet_height: int) -> None:
        """Begin with the state after a block whose header hashes to a trusted app hash; StoreError if it is another state."""
        self.store.restore(header, rows, {COMET_HEIGHT: comet_height.to_bytes(8, "big")})
        self.load()

    def close(self) -> None:
        """Close the store."""
        self.store.close()
