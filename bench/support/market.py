"""A market of any size for measuring: parties, piles, orders and whole lives of orders, as real transactions.

Signing 100,000 orders would take longer than what is measured, so a market is signed or not: transactions of an unsigned
one have the form and size of real ones and are accepted only under `Env.verify` = `accept_all`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pile_coordinator.chain.env import Env
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.records import MEASURED, Contract
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    MAX_BATCH_PROOFS,
    MAX_TX_BYTES,
    Body,
    Confirm,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
    sign_transaction,
)
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.engines.solo import SoloEngine
from pile_hil.site import PARAMS, TARIFF
from pile_shared import cose
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, PERIODIC, REASON_ENERGY_REACHED, Origin, Proof, proof_hash
from pile_shared.reading import Reading
from pile_shared.terms import Terms

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
POWER_W = 7000
FOUNDERS = {"auditor": "third-party", "grid": "grid", "operator": "operator"}
VALID_BLOCKS = 100_000
READING_MS = 10_000  # what an agent does if it is not told otherwise: six readings in a proof a minute
READINGS = 6


class UnsignedSigner(cose.SoftwareSigner):
    """Makes 64 bytes where a signature belongs, at once; its keys are no points of the curve."""

    def __init__(self, secret: bytes) -> None:
        """Take any 32 bytes."""
        self.public = b"\x04" + secret + sha256(secret)
        self.kid = cose.key_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """No signature."""
        assert message
        return b"\x01" * cose.SIGNATURE_BYTES


def accept_all(public: bytes, message: bytes, signature: bytes) -> bool:
    """`Env.verify` for measuring everything but the arithmetic of signatures."""
    return bool(public and message and signature)


@dataclass(frozen=True)
class RecordedBlock:
    """A block's transactions and time; how many signatures it carries, on transactions and on proofs."""

    txs: list[bytes]
    time_ms: int
    signatures: int


@dataclass
class Market:
    """A chain in memory and what was sent to it, to be applied again elsewhere.

    Attributes:
        blocks: all blocks since genesis, in order.
    """

    zones: int = 1
    signed: bool = False
    params: dict[str, object] = field(default_factory=dict)
    notes: dict[str, int] | None = None
    blocks: list[RecordedBlock] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start from genesis."""
        self._keys: dict[str, cose.SoftwareSigner] = {}
        self._sequences: dict[str, int] = {}
        self._chains: dict[str, tuple[int, bytes, int]] = {}  # by pile: last sequence, its hash, the meter's register
        self._queue: list[bytes] = []
        self._proofs = 0
        self.time_ms = NOW_MS
        self.genesis = self._genesis()
        self.chain_id = self.genesis.chain_id
        self.state = self.genesis.state()
        self.state.seal()

    def _genesis(self) -> Genesis:
        # A pause of fills or a missed epoch would only blur what is measured.
        quiet = {"breaker_permille": 0, "epoch_ms": 365 * 24 * HOUR_MS, "capacity_hours": 8760}
        parties = [{"id": p, "role": r, "public": self.key(p).public.hex()} for p, r in FOUNDERS.items()]
        validators = [{"party": p, "public": attester(p).public.hex(), "power": 1} for p in FOUNDERS]
        document = {"name": "bench", "time_ms": NOW_MS, "params": PARAMS | quiet | self.params, "tariff": TARIFF}
        notes = {} if self.notes is None else {"notes": self.notes}
        return genesis_from_json({**document, "parties": parties, "validators": validators, **notes})

    def key(self, name: str) -> cose.SoftwareSigner:
        """The key of a party or pile."""
        if name not in self._keys:
            self._keys[name] = (cose.SoftwareSigner if self.signed else UnsignedSigner)(sha256(name.encode()))
        return self._keys[name]

    def zone(self, number: int) -> str:
        """The zone of pile or order `number`."""
        return f"zone-{number % self.zones}"

    # --- blocks ------------------------------------------------------------------------------------------------------

    def send(self, sender: str, body: Body) -> bytes:
        """Queue a transaction; its id."""
        sequence = self._sequences[sender] = self._sequences.get(sender, 0) + 1
        tx = sign_transaction(self.key(sender), self.chain_id, sender, sequence, VALID_BLOCKS, body)
        if isinstance(body, SubmitProofs):
            self._proofs += len(body.proofs)
        return self.queue(tx)

    def queue(self, tx: bytes) -> bytes:
        """Queue a transaction that is signed already; its id."""
        self._queue.append(tx)
        return sha256(tx)

    def block(self, time_ms: int | None = None) -> RecordedBlock:
        """Apply what is queued, unverified; every transaction must be accepted."""
        self.time_ms = max(self.time_ms + 1, time_ms or 0)
        block = RecordedBlock(self._queue, self.time_ms, len(self._queue) + self._proofs)
        outcome = apply_block(self.state, env(self.chain_id, len(self.blocks) + 1, self.time_ms), self._queue)
        refused = [result for result in outcome.results if result.code != "ok"]
        assert not refused, refused[0]
        self.state.seal()
        self._queue, self._proofs = [], 0
        self.blocks.append(block)
        return block

    # --- who takes part ----------------------------------------------------------------------------------------------

    def admit(self, piles: int, users: int) -> None:
        """One block: piles with an owner each, users, and money for all."""
        for i in range(piles):
            self.send("operator", RegisterParty(f"owner-{i}", "pile-owner", self.key(f"owner-{i}").public))
            public = self.key(f"pile-{i}").public
            self.send(
                "operator", RegisterPile(f"pile-{i}", f"owner-{i}", public, "SDM630", f"m{i}", self.zone(i), POWER_W)
            )
            self.send("grid", Deposit(f"owner-{i}", 10**12, f"o{i}"))
        for i in range(users):
            self.send("operator", RegisterParty(f"user-{i}", "ev-owner", self.key(f"user-{i}").public))
            self.send("grid", Deposit(f"user-{i}", 10**12, f"u{i}"))
        self.block()

    def offer(self, pile: int, *, energy_wh: int = 1_000_000, ask_micro_per_kwh: int = AT_MARKET) -> bytes:
        """Queue a listing of a pile for the coming month."""
        window = (NOW_MS, NOW_MS + 30 * 24 * HOUR_MS)
        return self.send(f"owner-{pile}", List(f"pile-{pile}", *window, energy_wh, ask_micro_per_kwh, explicit=False))

    def bid(
        self,
        user: int,
        start_ms: int,
        end_ms: int,
        *,
        zone: int = 0,
        energy_wh: int = 3500,
        limit_micro_per_kwh: int = 1_000_000,
        pile: str = "",
    ) -> bytes:
        """Queue a bid that may rest until its window ends."""
        body = PlaceBid(
            self.zone(zone), pile, energy_wh, start_ms, end_ms, limit_micro_per_kwh, False, end_ms, False, False
        )  # fmt: skip
        return self.send(f"user-{user}", body)

    # --- lives of orders ---------------------------------------------------------------------------------------------

    def live(self, piles: int, rounds: int, minutes: int) -> list[RecordedBlock]:
        """Whole lives of orders: in each round every pile serves one user for so many minutes, and both confirm.

        Bids name their pile, so that an engine with other block hashes signs the very same contracts.
        Blocks of a round: listings and bids; proofs (begin, one each minute, end) in batches, as they come in; confirmations.
        """
        first = len(self.blocks)
        for number in range(rounds):
            start_ms = NOW_MS + HOUR_MS + number * (minutes + 30) * 60_000
            for i in range(piles):
                self.offer(i)
                self._order(i, start_ms, minutes)
            self.block()
            self._sessions(start_ms, minutes)
            for contract in self.state.each(Contract):
                assert contract.phase == MEASURED
                terms = self.state.terms_of(contract)
                confirm = Confirm(contract.id, decode_statement(contract.statement).digest())
                self._confirm(terms.user, confirm)
                self.send(terms.owner, confirm)
            self.block()
        return self.blocks[first:]

    def _order(self, pile: int, start_ms: int, minutes: int) -> None:
        """Queue the bid of the user whom a pile is to serve."""
        energy_wh = POWER_W * minutes // 60 // 100 * 100
        self.bid(
            pile, start_ms, start_ms + (minutes + 15) * 60_000, zone=pile, energy_wh=energy_wh, pile=f"pile-{pile}"
        )

    def _confirm(self, user: str, confirm: Confirm) -> None:
        """Queue the user's confirmation."""
        self.send(user, confirm)

    def _sessions(self, start_ms: int, minutes: int) -> None:
        contracts = [self.state.terms_of(contract) for contract in self.state.each(Contract)]
        sessions = [self._session(terms, start_ms, minutes) for terms in contracts]
        proofs = [proof for of_a_minute in zip(*sessions, strict=True) for proof in of_a_minute]
        for batch in batches(proofs):
            self.send("operator", SubmitProofs(batch))
            if self._proofs >= 2048 or batch[-1] is proofs[-1]:  # what makes the service close a block
                self.block(start_ms + (minutes + 1) * 60_000)

    def _session(self, terms: Terms, start_ms: int, minutes: int) -> Iterator[bytes]:
        """The proofs of a session that delivers what was ordered, from the begin to the end."""
        contract, pile = terms.contract_id(), terms.pile
        yield self._prove(pile, contract, BEGIN, start_ms, 1, 0)
        for minute in range(minutes):
            yield self._prove(pile, contract, PERIODIC, start_ms + minute * 60_000, READINGS, READING_MS)
        yield self._prove(pile, contract, END, start_ms + minutes * 60_000, 1, 0)

    def _prove(self, pile: str, contract: bytes, event: int, time_ms: int, readings: int, apart_ms: int) -> bytes:
        sequence, previous, energy_wh = self._chains.get(pile, (0, NO_PREVIOUS, 1_000_000))
        taken = []
        for i in range(readings):
            energy_wh += POWER_W * apart_ms // HOUR_MS
            raw = energy_wh.to_bytes(8, "big")
            taken.append(Reading(time_ms + i * apart_ms, 2, raw, energy_wh, POWER_W, 1))
        origin = Origin("SDM630", "m" + pile[5:], "eastron-sdm630", b"\x01" * 8) if event == BEGIN else None
        reason = REASON_ENERGY_REACHED if event == END else 0
        proof = Proof(sequence + 1, previous, contract, event, taken, reason, origin)
        message = proof.sign(self.key(pile), self.chain_id)
        self._chains[pile] = (sequence + 1, proof_hash(message), energy_wh)
        return message


def batches(proofs: list[bytes]) -> Iterator[list[bytes]]:
    """Proofs as bodies of transactions hold them: at most 256, and no more than fit."""
    batch: list[bytes] = []
    size = 0
    for proof in proofs:
        if len(batch) == MAX_BATCH_PROOFS or size + len(proof) + 3 > MAX_TX_BYTES - 1024:
            yield batch
            batch, size = [], 0
        batch.append(proof)
        size += len(proof) + 3
    yield batch


def attester(party: str) -> cose.SoftwareSigner:
    """The attestation key of an accounting node, a real one in every market."""
    return cose.SoftwareSigner(sha256(f"{party} attests".encode()))


def engine(market: Market, path: Path) -> SoloEngine:
    """A solo engine for the market's chain."""
    return SoloEngine(path, market.genesis, {party: attester(party) for party in FOUNDERS})


def env(chain_id: str, height: int, time_ms: int) -> Env:
    """The block being applied, with all signatures accepted; the seed is any, as long as it is the same each time."""
    seed = sha256(str(height).encode())
    return Env(chain_id, height, time_ms, seed, accept_all, verify_ring=lambda *_: True)


def replay(genesis: Genesis, blocks: list[RecordedBlock]) -> State:
    """The state after blocks of another market with this genesis."""
    state = genesis.state()
    state.seal()
    for height, block in enumerate(blocks, 1):
        apply_block(state, env(genesis.chain_id, height, block.time_ms), block.txs)
        state.seal()
    return state
