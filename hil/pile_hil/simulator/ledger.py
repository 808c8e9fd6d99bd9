"""The coordinator's side: the real coordinator, desk, engine and chain, on a store and an evidence that are in memory.

What is left out of the coordinator is its connection, its files and its second core; what it hears, does and says is its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pile_coordinator import service
from pile_coordinator.accuser import VALID_BLOCKS, Accuser
from pile_coordinator.chain.contracts import UNSIGNED
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import sign_transaction
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.engines.engine import ZERO_HASH, Block, CachingVerifier
from pile_coordinator.engines.rings import CachingRings, RingProcesses
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.store import Store
from pile_coordinator.ingest import ProofDesk
from pile_coordinator.mqtt import Kept
from pile_coordinator.ring_queue import RingQueue
from pile_coordinator.serving import Heard, Servers, Unsaid
from pile_coordinator.stops import KeptStops
from pile_coordinator.troubles import Troubles
from pile_coordinator.verifying.roster import Roster
from pile_hil.simulator.world import FoundError, World, secret_of
from pile_shared.certificate import MAX_LEAF_BYTES, Header
from pile_shared.codec import decode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import PilechainError
from pile_shared.platform import es256_verify
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT, Terms, decode_terms
from pile_shared.topics import parse as parse_topic

SECOND = "grid"  # whose coordinator brings proofs too, where there is a network
BLOCK_MS = 2000  # between blocks, when something waits
MAX_TOLD = 8  # closings that a pile is told of again


class CrashError(BaseException):
    """The coordinator's process dies at a commit. No Exception: nothing in the engine may catch it."""


class MemoryStore(Store):
    """What the engine keeps, as its SQLite file does: a block with all its changes, or nothing. It outlives the engine.

    Attributes:
        crash_in: after how many commits the process dies; just before the commit if `crash_before`, else just after.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.blocks: list[Block] = []
        self.crash_in: int | None = None
        self.crash_before = False
        self._rows: dict[bytes, bytes] = {}
        self._found: dict[bytes, tuple[int, int]] = {}

    def height(self) -> int:
        """Of the last block."""
        return len(self.blocks)

    def block(self, height: int) -> Block:
        """A block; KeyError if there is none of that height."""
        if not 1 <= height <= len(self.blocks):
            raise KeyError(height)
        return self.blocks[height - 1]

    def note(self, name: str) -> bytes | None:  # noqa: ARG002 - nothing is restored here
        """There is none."""
        return None

    def find_tx(self, tx_id: bytes) -> tuple[int, int] | None:
        """(height, position) of an accepted transaction."""
        return self._found.get(tx_id)

    def state_rows(self) -> Iterator[tuple[bytes, bytes]]:
        """The state after the last block."""
        yield from sorted(self._rows.items())

    def commit(
        self,
        block: Block | None,
        changes: list[tuple[bytes, bytes | None]],
        notes: object = None,  # noqa: ARG002
    ) -> None:
        """Keep a block and the state after it."""
        assert block is not None
        is_last = self.crash_in == 0
        self.crash_in = None if is_last or self.crash_in is None else self.crash_in - 1
        if is_last and self.crash_before:
            raise CrashError
        keep_rows(self._rows, changes)
        self.blocks.append(block)
        for position, result in enumerate(block.results):
            if result.code == "ok":
                self._found[result.tx_id] = (block.header.height, position)
        if is_last:
            raise CrashError

    def hand_over(self, message: bytes | None, header: Header) -> None:
        """Nobody is elected here."""

    def handover_from(self, set_hash: bytes) -> bytes | None:  # noqa: ARG002 - as above
        """There is none."""
        return None

    def close(self) -> None:
        """It stays."""


def keep_rows(rows: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]]) -> None:
    """Carry out what sealing a state says has changed."""
    for key, value in changes:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class Engine(SoloEngine):
    """The solo engine on a store that is there already."""

    def __init__(self, store: MemoryStore, genesis: Genesis, signers: dict[str, SoftwareSigner]) -> None:
        """Open what the store holds."""
        self._kept = store
        super().__init__(Path("memory"), genesis, signers)

    def _open_store(self, path: Path) -> Store:  # noqa: ARG002 - the engine's
        return self._kept


class Evidence:
    """Stands for the evidence database: where receipts, contracts and their ends are in the blocks."""

    is_away = False

    def __init__(self) -> None:
        """Begin with no block."""
        self.height = 0
        self.receipts: dict[str, tuple[int, int]] = {}
        self.terms: dict[bytes, Terms] = {}
        self._signed: dict[bytes, tuple[int, int]] = {}
        self._closed: dict[str, list[tuple[int, int, int]]] = {}  # by pile: height, leaf, end of the window

    def write(self, block: Block) -> None:
        """Take note of a block's leaves."""
        self.height = block.header.height
        for index in range(len(block.txs), len(block.leaves)):
            row = cast("list[object]", decode(block.leaves[index], MAX_LEAF_BYTES))
            place = self.height, index
            if row[0] == LEAF_RECEIPT:
                self.receipts[cast("str", row[1])] = place
            elif row[0] == LEAF_CONTRACT:
                terms = decode_terms(cast("bytes", row[1]))
                self.terms[terms.contract_id()] = terms
                self._signed[terms.contract_id()] = place
            elif row[0] == LEAF_CLOSED and row[1] in self.terms and row[2] != UNSIGNED:
                closed = self.terms[row[1]]
                self._closed.setdefault(closed.pile, []).append((*place, closed.window_end_ms))

    def pile_of_contract(self, contract: bytes) -> str | None:
        """As the query desk's."""
        terms = self.terms.get(contract)
        return None if terms is None else terms.pile

    def was_repeated(self, contract: bytes) -> bool:  # noqa: ARG002 - nobody is elected here
        """As the query desk's."""
        return False

    def where_signed(self, contract: bytes) -> tuple[int, int] | None:
        """As the query desk's."""
        return self._signed.get(contract)

    def closings_ahead(self, pile: str, now_ms: int) -> list[tuple[int, int]]:
        """As the query desk's."""
        found = [(height, leaf) for height, leaf, end_ms in self._closed.get(pile, []) if end_ms > now_ms]
        return found[-MAX_TOLD:]


@dataclass(frozen=True, slots=True)
class _Clock:
    world: World

    def now_ms(self) -> int:
        return self.world.now_ms


@dataclass(frozen=True, slots=True)
class _Config:
    """Of a coordinator's configuration what it still reads when it runs."""

    genesis: Genesis
    party: str
    clock: _Clock
    comet: None = None


class Connection:
    """What a coordinator publishes, handed to the network."""

    is_connected = True

    def __init__(self, send: Callable[[str, bytes], None]) -> None:
        """Send (topic, payload)."""
        self._send = send

    def publish(self, topic: str, payload: bytes, retained: bool = False) -> None:  # noqa: ARG002
        """As pile_coordinator.mqtt.Connection."""
        self._send(topic, payload)


class Coordinator(service.Coordinator):
    """The coordinator, for one life, without its process: `handle` and `make_block` are called when it is time."""

    engine: Engine

    def __init__(
        self,
        world: World,
        engine: Engine,
        evidence: Evidence,
        stops: KeptStops,
        party: str,
        signer: SoftwareSigner,
        send: Callable[[str, bytes], None],
    ) -> None:
        """Take the place of what the process opens; nothing of the base's own set-up happens."""
        self.config = _Config(engine.genesis, party, _Clock(world))  # type: ignore[assignment]
        self.chain_id = engine.chain_id
        self.signer = signer
        self.engine = engine
        self.evidence = evidence  # type: ignore[assignment]
        self.queries = evidence  # type: ignore[assignment]
        self._is_behind = self._evidence_away = self._has_gap = False
        self._unsaid_closing = None
        self._unled = set()
        self.servers = Servers(self.chain_id, party)
        self.unsaid = Unsaid(self.servers, self.chain_id, self._validators_at)
        self._asked = Heard()
        self._online = {}
        self.desk = ProofDesk(self.chain_id, engine.verify, self.servers.wait_s)
        self.stops = stops
        self.rings = RingQueue(cast("RingProcesses", CachingRings()))
        self.troubles = Troubles()
        self.counts = Counter()
        self._logged_ms = {}
        self._block_time = self.config.clock  # type: ignore[assignment]
        self.roster = Roster(self.chain_id, party, {})
        self._hears_proofs = True
        self._unheard = {}
        self._awaited = {}
        self._pauses_ms = self._paused_zones()
        self.accuser = Accuser(engine, party, signer, lambda _: None)
        self.connection = Connection(send)  # type: ignore[assignment]
        engine.on_block(self._after_block)

    def handle(self, topic: str, payload: bytes) -> None:
        """One message is a step of its own."""
        super().handle(topic, payload)
        self._repeat_receipts()

    def _repeat_receipt(self, pile_id: str) -> None:
        found = cast("Evidence", self.evidence).receipts.get(pile_id)
        if found is not None:
            self._to_pile(pile_id, "receipt", self.engine.block(found[0]), found[1])


class Ledger:
    """The coordinator's machine: what is durable there, and the coordinator while one runs.

    Attributes:
        coordinator: None while it is down. store, evidence: what it leaves. listeners: hear of each block once. told: how many
        blocks they know. statuses: of piles, retained by the broker. troubles: kinds of faults there were on the way to it.
    """

    def __init__(
        self,
        world: World,
        genesis: Genesis,
        signers: dict[str, SoftwareSigner],
        party: str,
        signer: SoftwareSigner,
        send: Callable[[str, bytes], None],
    ) -> None:
        """Serve as `party`; `send` is given what is published."""
        self.world, self.genesis = world, genesis
        self.store, self.evidence = MemoryStore(), Evidence()
        self.statuses: dict[str, tuple[str, bytes]] = {}
        self.listeners: list[Callable[[Block], None]] = []
        self.coordinator: Coordinator | None = None
        self._signers, self._party, self._signer, self._send = signers, party, signer, send
        self._second: ProofDesk | None = None
        self._stops = KeptStops(Path(":memory:"), genesis.state())
        self.told = 0
        self.troubles: set[str] = set()
        self._block_ms = 0
        self._deadline_ms = 0
        self.start()

    @property
    def state(self) -> State:
        """After the last block; of a coordinator that runs."""
        assert self.coordinator is not None
        return self.coordinator.engine.state

    def start(self) -> None:
        """Begin a life, with what the last one left, unless one goes on."""
        if self.coordinator is not None:
            return
        try:
            engine = Engine(self.store, self.genesis, self._signers)
        except PilechainError as error:
            raise FoundError(f"the coordinator does not start: {error.code}: {error}", "boot") from error
        while self.evidence.height < engine.height:
            self.evidence.write(engine.block(self.evidence.height + 1))
        self.coordinator = Coordinator(
            self.world, engine, self.evidence, self._stops, self._party, self._signer, self._send
        )
        self.world.say("coordinator", f"started at block {engine.height}")
        self._tell()
        for topic, payload in sorted(self.statuses.values()):
            self.hear(topic, Kept(payload))
        self._block_ms = self._deadline_ms = 0
        self._plan()

    def make_first_block(self) -> None:
        """What was submitted is in it."""
        self._block_ms = self.world.now_ms
        self._make_block(self._block_ms)

    def stop(self, for_ms: int) -> None:
        """The process dies, and comes back."""
        if self.coordinator is not None:
            self.world.say("coordinator", f"killed for {for_ms} ms")
            self.coordinator = self._second = None
            self.world.after(for_ms, self.start)

    def hear(self, topic: str, payload: bytes) -> None:
        """A message comes; there is nobody to hear it while the coordinator is down."""
        if self.coordinator is not None:
            self.coordinator.handle(topic, payload)
            self._plan_block(BLOCK_MS)

    def hear_second(self, topic: str, payload: bytes) -> None:
        """The grid's coordinator hears the same piles, and brings the same proofs to the chain; it says nothing to anybody."""
        if self.coordinator is None or not topic.endswith("/proof"):
            return
        if self._second is None:
            self._second = ProofDesk(self.genesis.chain_id, self.coordinator.engine.verify)
        self._second.offer(self.state, parse_topic(topic)[2], payload)
        self._plan_block(BLOCK_MS)

    def _bring_second(self, engine: Engine) -> None:
        batches = [] if self._second is None else self._second.take_batches()
        for batch in batches:
            sequence, until = engine.next_sequence(SECOND), engine.height + VALID_BLOCKS
            signer = SoftwareSigner(secret_of(SECOND))
            tx = sign_transaction(signer, self.genesis.chain_id, SECOND, sequence, until, batch)
            engine.submit(tx, bounded=False)

    def _plan_block(self, wait_ms: int) -> None:
        due_ms = self.world.now_ms + wait_ms
        if not self._block_ms or due_ms < self._block_ms:
            self._block_ms = due_ms
            self.world.at(due_ms, lambda: self._make_block(due_ms))

    def _make_block(self, due_ms: int) -> None:
        if due_ms != self._block_ms or self.coordinator is None:
            return
        self._block_ms = 0
        try:
            self._bring_second(self.coordinator.engine)
            self.coordinator.make_block()
        except CrashError:
            self.stop(BLOCK_MS)
            return
        except PilechainError as error:
            raise FoundError(f"the coordinator stopped: {error.code}: {error}", "block") from error
        if self._second is not None:
            self._second.committed(self.state)
        self._tell()
        self._plan()

    def _tell(self) -> None:
        """Whoever watches hears of each block once, whichever life made it."""
        while self.told < len(self.store.blocks):
            self.told += 1
            block = self.store.blocks[self.told - 1]
            self.world.say("chain", f"block {self.told}: {len(block.txs)} transactions, {_codes(block)}")
            for listener in self.listeners:
                listener(block)

    def _plan(self) -> None:
        """Be there when something falls due."""
        assert self.coordinator is not None
        if self.coordinator.engine.has_work(self.world.now_ms):
            self._plan_block(BLOCK_MS)
        deadline_ms = self.state.next_deadline_ms()
        if deadline_ms is not None and deadline_ms != self._deadline_ms:
            self._deadline_ms = deadline_ms
            self.world.at(deadline_ms, lambda: self._plan_block(0))


def _codes(block: Block) -> str:
    return " ".join(result.code for result in block.results) or "time passed"


class Replica:
    """Another accounting node: hears of the same blocks, late, and applies them to its own state; crashes and catches up."""

    def __init__(self, world: World, name: str, genesis: Genesis, blocks: list[Block]) -> None:
        """Begin at genesis; `blocks` are those of the chain, of which it knows as many as it has heard of."""
        self.name = name
        self.height = 0
        self._world, self._genesis, self._blocks = world, genesis, blocks
        self._chance = world.stream(name)
        self._rows: dict[bytes, bytes] = {}
        self._state = genesis.state()
        self._verify = CachingVerifier(es256_verify)
        self._root = b""
        self._away_until_ms = 0

    def hear(self, _block: Block) -> None:
        """A block was made."""
        self._world.after(self._chance.randint(1, 3000), self.catch_up)

    def crash(self, for_ms: int) -> None:
        """Lose what is in memory, and be away."""
        self._world.say(self.name, f"killed for {for_ms} ms at block {self.height}")
        self._away_until_ms = self._world.now_ms + for_ms
        self._world.after(for_ms, self.start)

    def start(self) -> None:
        """Begin a life, with what the last one left."""
        self._away_until_ms = 0
        if self.height:
            self._state = State.load(iter(sorted(self._rows.items())), self._root)
        else:
            self._state = self._genesis.state()
        self.catch_up()

    def catch_up(self) -> None:
        """Apply what was made meanwhile."""
        while self._world.now_ms >= self._away_until_ms and self.height < len(self._blocks):
            self._apply(self._blocks[self.height])

    def _apply(self, block: Block) -> None:
        header = block.header
        previous = self._blocks[self.height - 1].header.hash() if self.height else ZERO_HASH
        env = Env(header.chain_id, header.height, header.time_ms, previous, self._verify)
        outcome = apply_block(self._state, env, block.txs)
        root, changes = self._state.seal()
        if root != header.state_root or outcome.leaves != block.leaves:
            raise FoundError(f"{self.name} has another state after block {header.height}", "agreement")
        keep_rows(self._rows, changes)
        self._root, self.height = root, header.height
