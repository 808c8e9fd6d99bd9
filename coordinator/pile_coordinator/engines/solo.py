"""The solo engine: one process, no fault tolerance, the same law.

It makes a block when something waits or something fell due. Transactions are acknowledged only after the block that holds
them is durable. N local attestation keys may sign, so that certificates have one format whatever the engine.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pile_coordinator.chain import election
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import Party
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import DoubleAttestation, Transaction, decode_transaction
from pile_coordinator.chain.transition import Outcome, apply_block, check_tx
from pile_coordinator.engines.engine import (
    ZERO_HASH,
    Block,
    BusyError,
    CachingVerifier,
    Publish,
    handover_after,
    has_work,
    header_of,
    load_state,
    set_hashes,
    validators_at,
)
from pile_coordinator.engines.rings import ring_claims
from pile_coordinator.engines.store import OPEN_END, PASSED, Store, StoreError
from pile_coordinator.keeping.mirroring import Mirroring
from pile_shared import cose
from pile_shared.certificate import Certificate, Validator, attest
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import es256_verify

MAX_WAITING = 4096  # transactions for the next block; at 256 proofs each that is a million proofs
MAX_WAITING_BYTES = 32 << 20


class SoloEngine:
    """Blocks by one process, kept in one SQLite file. Used by one thread."""

    description = "solo engine: no fault tolerance"
    first_height = 1
    hurries = False

    def __init__(
        self,
        path: Path,
        genesis: Genesis,
        signers: dict[str, cose.SoftwareSigner],
        verify: CachingVerifier | None = None,
        mirror: Mirroring | None = None,
    ) -> None:
        """Open the ledger at `path`. `signers` are attestation keys by validator party, > 2/3 of the power.

        `verify` checks signatures; the default checks them here, when they are asked for. `mirror` gets a copy of each block.

        Raises:
            ConfigError: the keys are not the genesis validators', or too few. StoreError: the file is not usable, or the
                mirror is not.
        """
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.verify = verify or CachingVerifier(es256_verify)
        self._signers = signers
        if genesis.stake is None:  # they never change: no need to look into the ledger
            _attesters(list(genesis.validators), signers)
        self.topics: tuple[str, ...] = ()
        self.charges: dict[str, DoubleAttestation] = {}
        self._mirror = mirror
        self._store = self._open_store(path)
        self._be_whole(path)
        self._listeners: list[Callable[[Block], None]] = []
        self._waiting: list[tuple[Transaction, bytes]] = []
        self._waiting_bytes = 0
        self._sequences: dict[str, int] = {}
        self._is_stopped = False
        self.height = self._store.height()
        self.state = self._load()
        self._now_ms = self.time_ms  # as told last: on a chain at rest the last block may be long ago
        self._attesters()
        if self.height:  # it may have been killed just before it kept this
            last = self._store.block(self.height)
            self._store.hand_over(handover_after(genesis, self.state, last), last.header)

    def _open_store(self, path: Path) -> Store:
        return Store(path, self.genesis.hash())

    def _be_whole(self, path: Path) -> None:
        """Let the ledger and the mirror have the same blocks; StoreError if others may have been signed behind them."""
        if self._mirror is not None:
            self._mirror.meet(self._store)
        if self._store.note(OPEN_END) is not None:
            raise StoreError(
                f"{path} was restored up to block {self._store.height()}, and blocks behind it may have been signed: no height"
                " is signed twice. Restore with the mirror, or with --accept-loss (docs/keeping.md)"
            )

    def _load(self) -> State:
        if self.height == 0:
            self.previous, self.time_ms = ZERO_HASH, self.genesis.time_ms
            return self.genesis.state()
        try:
            header = self._store.block(self.height).header
            signed = self._last_signed()
        except PilechainError as error:
            raise StoreError(f"block {self.height} is damaged ({error}); restore a backup") from error
        state = load_state(self._store, header)
        try:
            if signed is not None:
                signed.verify(self.chain_id, validators_at(self.genesis, state, signed.header.height))
        except (PilechainError, KeyError) as error:
            raise StoreError(f"block {self.height} is damaged ({error}); restore a backup") from error
        self.previous, self.time_ms = header.hash(), header.time_ms
        return state

    def _last_signed(self) -> Certificate | None:
        """That of the last block, unless a restore passed over heights: each of those names the one below. None if all are."""
        height, passed = self.height, int(self._store.note(PASSED) or b"0")
        certificate = self._store.block(height).certificate
        while height <= passed and not certificate.attestations:
            previous, height = certificate.header.previous, height - 1
            if height == 0:
                return None
            certificate = self._store.block(height).certificate
            if certificate.header.hash() != previous:
                raise StoreError(f"the header above it does not name block {height}")
        return certificate

    def is_current(self) -> bool:
        """Always: there are no others."""
        return True

    def close(self) -> None:
        """Close the ledger; what waits is dropped, as nobody was told it was accepted."""
        if self._mirror is not None:
            self._mirror.close()
        self._store.close()

    def on_block(self, listener: Callable[[Block], None]) -> None:
        """Call `listener` after every commit."""
        self._listeners.append(listener)

    def env(self, time_ms: int) -> Env:
        """The block that would be made now. Of elected nodes, those whose keys are here have signed the last one."""
        elects = self.state.stake_rules is not None and self.height > 0
        signed = election.addresses_at(self.state, self.height, set(self._signers)) if elects else None
        time_ms = max(time_ms, self.time_ms)
        return Env(
            self.chain_id, self.height + 1, time_ms, self.previous, self.verify, signed, verify_ring=self.verify.rings
        )

    def _attesters(self) -> list[tuple[int, cose.SoftwareSigner]]:
        """Who attests the next block here; ConfigError if too few can."""
        return _attesters(validators_at(self.genesis, self.state, self.height + 1), self._signers)

    def submit(self, tx: bytes, *, bounded: bool = True) -> Transaction:
        """Take a transaction for the next block: in turn for its sender, counting those that wait.

        `bounded=False` is for the process's own batches, so that a flood of orders cannot keep metering out of a block.

        Raises:
            Rejection: it cannot succeed. BusyError: too many wait.
        """
        self._check_running()
        env = self.env(self._now_ms)
        ring_claims(self.state, env, decode_transaction(tx))  # what costs least first
        checked = check_tx(self.state, env, tx)
        due = self.next_sequence(checked.sender)
        if checked.sequence != due:
            code = "replayed" if checked.sequence < due else "sequence_gap"
            raise Rejection(code, f"{checked.sender} is at sequence {due - 1}, waiting transactions included")
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes + len(tx) > MAX_WAITING_BYTES
        if bounded and full:
            raise BusyError("too many transactions wait for the next block; send again in a moment")
        self._waiting.append((checked, tx))
        self._waiting_bytes += len(tx)
        self._sequences[checked.sender] = checked.sequence + 1
        return checked

    def waits(self, tx_id: bytes) -> bool:
        """Whether a transaction is for the next block."""
        return any(checked.id == tx_id for checked, _ in self._waiting)

    def next_sequence(self, party: str) -> int:
        """The sequence a party's next transaction must have, those that wait included; 1 for who comes to be by it."""
        found = self.state.find(Party, party)
        return self._sequences.get(party, found.sequence + 1 if found else 1)

    def has_work(self, time_ms: int) -> bool:
        """Whether a block made at `time_ms` would do anything."""
        return bool(self._waiting) or has_work(self.state, time_ms)

    @property
    def waiting(self) -> int:
        """Transactions that wait for the next block."""
        return len(self._waiting)

    def advance(self, time_ms: int) -> Block | None:
        """Make a block if there is something to do."""
        self._now_ms = max(self._now_ms, time_ms)
        return self.make_block(time_ms) if self.has_work(time_ms) else None

    def connect(self, publish: Publish, wake: Callable[[], None]) -> None:
        """There is nobody to talk to."""

    def handle(self, topic: str, payload: bytes) -> str | None:  # noqa: ARG002 - the port's
        """No message is for us."""
        return None

    def settle(self, party: str) -> None:
        """Nobody is charged here: all keys are this process's."""

    def turn(self) -> AbstractContextManager[object]:
        """Nobody else has a turn here."""
        return nullcontext()

    def make_block(self, time_ms: int) -> Block:
        """Apply what waits, commit it durably, and tell the listeners. Any exception but a Rejection is fatal."""
        self._check_running()
        txs = [tx for _, tx in self._waiting]
        env, attesters = self.env(time_ms), self._attesters()
        self._is_stopped = True  # from here until the commit, the state in memory is ahead of the one on disk
        outcome = apply_block(self.state, env, txs)
        state_root, changes = self.state.seal()
        block = self._sealed(env, txs, outcome, state_root, attesters)
        if self._mirror is not None:
            self._mirror.before_commit(block)
        self._store.commit(block, changes)
        if self._mirror is not None:
            self._mirror.after_commit(block, self._store)
        self._is_stopped = False
        self._waiting.clear()
        self._waiting_bytes = 0
        self._sequences.clear()
        self.height, self.time_ms, self.previous = env.height, env.time_ms, block.header.hash()
        self._store.hand_over(handover_after(self.genesis, self.state, block), block.header)
        for listener in self._listeners:
            listener(block)
        return block

    def _check_running(self) -> None:
        if self._is_stopped:
            raise StoreError("the engine stopped at an error before a commit; open the ledger again")

    def _sealed(
        self,
        env: Env,
        txs: list[bytes],
        outcome: Outcome,
        state_root: bytes,
        attesters: list[tuple[int, cose.SoftwareSigner]],
    ) -> Block:
        validators = validators_at(self.genesis, self.state, env.height)
        proposer = validators[env.height % len(validators)].party
        header = header_of(
            env, proposer, txs, outcome, state_root, set_hashes(self.genesis, self.state, env.height)
        ).encoded()
        attestations: list[list[object]] = [
            [index, attest(header, signer, self.chain_id)] for index, signer in attesters
        ]
        return Block(Certificate(header, attestations), txs, outcome.results, outcome.leaves)

    def block(self, height: int) -> Block:
        """A committed block; KeyError if there is none of that height."""
        return self._store.block(height)

    def handover_from(self, set_hash: bytes) -> bytes | None:
        """The message by which a reader of this validator set follows to the next; None if it is the newest."""
        return self._store.handover_from(set_hash)

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction, or None."""
        return self._store.find_tx(tx_id)


def _attesters(
    validators: list[Validator], signers: dict[str, cose.SoftwareSigner]
) -> list[tuple[int, cose.SoftwareSigner]]:
    attesters, power = [], 0
    for index, validator in enumerate(validators):
        signer = signers.get(validator.party)
        if signer is None:
            continue
        if signer.public != validator.public:
            raise ConfigError(f"the attestation key of {validator.party} is not the one on the chain")
        attesters.append((index, signer))
        power += validator.power
    if 3 * power <= 2 * sum(validator.power for validator in validators):
        raise ConfigError(
            "the solo engine needs the attestation keys of more than two thirds of the power: "
            + ", ".join(f"{validator.party} {validator.power}" for validator in validators)
        )
    return attesters
