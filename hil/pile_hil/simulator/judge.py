"""What must hold in every world.

The rules of the chain are written down here once more, from docs/settlement.md and not from its code: which proofs are
believed, when a session begins and ends, when evidence is too late, and how much energy is then settled.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from pile_coordinator.chain import settlement
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.proofs import ADMITTED, FORK, parse_proof
from pile_coordinator.chain.records import Bid, Contract
from pile_coordinator.chain.records import Pile as PileRecord
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import SubmitProofs, decode_transaction
from pile_coordinator.engines.engine import Block
from pile_hil.simulator.ledger import Ledger, Replica
from pile_hil.simulator.pile import Pile
from pile_hil.simulator.world import MINUTE_MS, FoundError, World
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, USER_REASONS, Proof
from pile_shared.terms import LEAF_CONTRACT, LEAF_SETTLEMENT, Terms, decode_terms

CLOCK_AHEAD_MS = 600_000  # a pile's clock may be ten minutes ahead of a block's
POWER_PERMILLE, POWER_SLACK_WH = 1100, 100  # what a pile may deliver, of its rated power and beyond
SLACK_WH = 20  # two steps of the register: what one session may seem to have given too little
SETTLE_MINUTES = 90  # until what was said last is receipted
SIGNED, ACTIVE = "signed", "active"
# Faults after which energy may flow that nobody can measure, and those after which an honest pile may say what cannot be.
_BLINDING = {"meter silent", "meter noisy", "meter stuck", "meter dips", "meter reset", "relay dead"}
_EXCUSES = {
    "clock ahead": {"clock jump"},
}


@dataclass(slots=True)
class _Order:
    """A contract as the rules see it."""

    terms: Terms
    phase: str = SIGNED
    begin_ms: int = 0
    begin_wh: int = 0
    last_wh: int = 0

    @property
    def begin_until_ms(self) -> int:
        return min(self.terms.window_start_ms + self.terms.begin_grace_ms, self.terms.window_end_ms)

    @property
    def late_ms(self) -> int:
        """From when on evidence is too late."""
        end_ms = self.terms.window_end_ms if self.phase == ACTIVE else self.begin_until_ms
        return end_ms + self.terms.evidence_window_ms


@dataclass(slots=True)
class _Chain:
    """A pile's chain of proofs as the rules see it."""

    rated_w: int
    sequence: int = 0
    digest: bytes = bytes(32)
    time_ms: int = 0
    energy_wh: int = 0
    anomaly: str = ""
    sessions_wh: int = 0
    sessions: int = 0


class Judge:
    """Hears of every block and every proof, and raises FoundError.

    Attributes:
        admitted: proofs on the chain. settled_wh: energy of measured sessions.
    """

    def __init__(self, world: World, ledger: Ledger, piles: dict[str, Pile]) -> None:
        """Watch one world."""
        self.admitted = self.settled_wh = 0
        self._world, self._ledger, self._piles = world, ledger, piles
        self._chains: dict[str, _Chain] = {}
        self._orders: dict[bytes, _Order] = {}
        self._due: dict[bytes, tuple[int, str]] = {}  # what this block should settle: energy and cause
        self._signed_wh = dict.fromkeys(piles, 0)
        self._lost: set[str] = set()  # piles of which the rules let some energy be settled by nobody
        for pile in piles.values():
            pile.on_proof = self.signed

    # --- what piles sign -------------------------------------------------------------------------------------------

    def signed(self, pile: Pile, record: bytes) -> None:
        """A proof is durable: what it says is what the register said, never less than before, never more than flowed."""
        _, proof = parse_proof(record)
        for reading in proof.readings:
            shown_wh = int.from_bytes(reading.raw, "big") * 10
            if shown_wh != reading.energy_wh:
                raise FoundError(
                    f"{pile.id} signed {reading.energy_wh} Wh, its register showed {shown_wh} Wh: rebased", "register"
                )
            if reading.energy_wh < self._signed_wh[pile.id]:
                raise FoundError(f"{pile.id} signed {reading.energy_wh} Wh after more", "monotone")
            self._signed_wh[pile.id] = reading.energy_wh
        if self._signed_wh[pile.id] > pile.hardware.flowed_wh:
            raise FoundError(f"{pile.id} signed more than ever flowed", "register")

    # --- blocks ----------------------------------------------------------------------------------------------------

    def hear(self, block: Block) -> None:
        """A block was made."""
        time_ms = block.header.time_ms
        self._due.clear()
        for order in list(self._orders.values()):
            if order.late_ms <= time_ms:
                if order.phase == ACTIVE:
                    self._lost.add(order.terms.pile)  # what it signed after that
                self._end(order, settlement.CAUSE_PILE)
        for tx, result in zip(block.txs, block.results, strict=True):
            if result.details:
                body = decode_transaction(tx).body
                if isinstance(body, SubmitProofs):
                    self._hear_proofs(body.proofs, result.details, time_ms)
        self._hear_leaves(block)
        self._compare()

    def _hear_proofs(self, records: list[bytes], outcomes: Iterable[object], time_ms: int) -> None:
        for record, outcome in zip(records, outcomes, strict=True):
            if outcome in {ADMITTED, FORK}:
                signed, proof = parse_proof(record)
                pile = next(pile for pile in self._piles.values() if pile.signer.kid == signed.kid)
                if outcome == FORK:
                    raise FoundError(f"the chain takes proof {proof.sequence} of {pile.id} for a fork", "fork")
                self._admit(pile, record, proof, time_ms)

    def _admit(self, pile: Pile, record: bytes, proof: Proof, time_ms: int) -> None:
        chain = self._chains.setdefault(pile.id, _Chain(pile.rated_w))
        if proof.sequence != chain.sequence + 1:
            raise FoundError(f"proof {proof.sequence} of {pile.id} came after {chain.sequence}", "exactly-once")
        if pile.kept.get(proof.sequence) != record:
            raise FoundError(f"the chain has another proof {proof.sequence} of {pile.id} than the pile", "fork")
        self.admitted += 1
        running = self._running(pile.id)
        anomaly = _anomaly(chain, running, proof, time_ms)
        frozen = chain.anomaly if running is not None or not proof.readings else ""
        believed = bool(proof.readings) and not (anomaly or frozen)
        chain.sequence, chain.digest, chain.anomaly = proof.sequence, sha256(record), frozen or anomaly
        if believed:
            chain.time_ms, chain.energy_wh = proof.readings[-1].time_ms, proof.readings[-1].energy_wh
        if proof.readings and not believed:
            self._lost.add(pile.id)
        if anomaly and not pile.troubles & _EXCUSES.get(anomaly, set()):
            raise FoundError(f"proof {proof.sequence} of {pile.id} is not believed: {anomaly}", "anomaly")
        if proof.event == BEGIN and running is None:
            self._begin(pile, proof, believed=believed)
            if self._running(pile.id) is None:
                self._lost.add(pile.id)  # what it gives now nobody pays for
        elif running is not None and proof.contract == running.terms.contract_id():
            if believed:
                running.last_wh = proof.readings[-1].energy_wh
            if proof.event == END:
                by_user = believed and proof.reason in USER_REASONS
                self._end(running, settlement.CAUSE_USER if by_user else settlement.CAUSE_PILE)
        self._witness(pile, proof, believed=believed)

    def _begin(self, pile: Pile, proof: Proof, *, believed: bool) -> None:
        order = self._orders.get(proof.contract or b"")
        if order is None or order.phase != SIGNED:
            return
        first = proof.readings[0]
        if order.terms.pile != pile.id or (believed and first.time_ms > order.begin_until_ms):
            return
        if believed and first.time_ms >= order.terms.window_start_ms:
            order.phase, order.begin_ms, order.begin_wh = ACTIVE, first.time_ms, first.energy_wh
            order.last_wh = proof.readings[-1].energy_wh
        else:
            self._end(order, settlement.CAUSE_PILE)

    def _witness(self, pile: Pile, proof: Proof, *, believed: bool) -> None:
        """A believed reading after the last moment to begin shows that nobody began."""
        if not believed:
            return
        for order in list(self._orders.values()):
            late = order.phase == SIGNED and proof.readings[-1].time_ms > order.begin_until_ms
            if late and order.terms.pile == pile.id:
                self._end(order, settlement.CAUSE_PILE)

    def _end(self, order: _Order, cause: str) -> None:
        """What is settled of an order is known: what was signed in time, or nothing."""
        contract = order.terms.contract_id()
        if order.phase == ACTIVE:
            measured_wh = order.last_wh - order.begin_wh
            if settlement.deviation(order.terms, measured_wh) != settlement.UNDER:
                cause = settlement.CAUSE_NONE
            self._due[contract] = measured_wh, cause
            chain = self._chains[order.terms.pile]
            chain.sessions_wh += measured_wh
            chain.sessions += 1
            self.settled_wh += measured_wh
        else:
            self._due[contract] = 0, ""
        del self._orders[contract]

    def _running(self, pile: str) -> _Order | None:
        for order in self._orders.values():
            if order.phase == ACTIVE and order.terms.pile == pile:
                return order
        return None

    def _hear_leaves(self, block: Block) -> None:
        for leaf in block.leaves[len(block.txs) :]:
            row = cast("list[object]", decode(leaf, MAX_LEAF_BYTES))
            if row[0] == LEAF_CONTRACT:
                terms = decode_terms(cast("bytes", row[1]))
                self._orders[terms.contract_id()] = _Order(terms)
            elif row[0] == LEAF_SETTLEMENT:
                statement = decode_statement(cast("bytes", row[1]))
                due = self._due.pop(statement.contract, None)
                name = statement.contract[:4].hex()
                if due is None:
                    raise FoundError(f"contract {name} was settled before its time", "settled")
                cause = statement.cause if due[1] else ""
                if due != (statement.measured_wh, cause):
                    found = f"{statement.measured_wh} Wh ({statement.cause})"
                    raise FoundError(f"contract {name} was settled by {found}, signed is {due}", "settled")

    def _compare(self) -> None:
        """The chain and the rules agree about what a block did."""
        if self._due:
            names = ", ".join(contract[:4].hex() for contract in self._due)
            raise FoundError(f"contracts {names} were not settled when they should be", "settled")
        if self._ledger.coordinator is None or self._ledger.coordinator.engine.height != self._ledger.told:
            return  # the state is already another block's
        for name, chain in self._chains.items():
            found = self._ledger.state.get(PileRecord, name)
            ours = (chain.sequence, chain.digest, chain.anomaly, chain.energy_wh)
            theirs = (found.last_sequence, found.last_hash, found.anomaly, found.last_energy_wh)
            if ours != theirs:
                raise FoundError(f"the chain believes {theirs} of {name}, the rules say {ours}", "settled")

    # --- the end ---------------------------------------------------------------------------------------------------

    def at_the_end(self) -> None:
        """Faults are over, for long: everything has ended, nothing is lost, and the money is all there."""
        for _ in range(SETTLE_MINUTES):
            if all(pile.is_at_rest for pile in self._piles.values()):
                break
            self._world.run(self._world.now_ms + MINUTE_MS)
        if self._ledger.coordinator is None:
            raise FoundError("the coordinator does not run", "liveness")
        state = self._ledger.state
        if state.count(Contract) or state.count(Bid):
            still = [f"{contract.id[:4].hex()} is {contract.phase}" for contract in state.each(Contract)]
            raise FoundError(f"{state.count(Bid)} bids are open, contracts: {still}", "liveness")
        for pile in self._piles.values():
            self._check_pile(pile)
        try:
            check_in_full(state)
        except BrokenInvariantError as error:
            raise FoundError(str(error), "money") from error

    def _check_pile(self, pile: Pile) -> None:
        chain = self._chains.get(pile.id) or _Chain(pile.rated_w)
        if max(pile.kept, default=0) != chain.sequence:
            raise FoundError(
                f"{pile.id} signed {max(pile.kept, default=0)} proofs, {chain.sequence} are on the chain", "loss"
            )
        if not pile.is_at_rest:
            raise FoundError(f"{pile.id} still waits for something", "liveness")
        if pile.hardware.is_on:
            raise FoundError(f"{pile.id} is without a session, and its contactor is closed", "contactor")
        if chain.sessions_wh > pile.hardware.given_wh + SLACK_WH * chain.sessions:
            raise FoundError(f"{pile.id} settled {chain.sessions_wh} Wh, gave {pile.hardware.given_wh} Wh", "settled")
        lost_wh = pile.hardware.given_wh - chain.sessions_wh
        forgetful = {"disk full", "power cut without a battery"}  # together: neither when, nor how much since when
        may_lose = pile.id in self._lost or pile.troubles & _BLINDING or forgetful <= pile.troubles
        if lost_wh > SLACK_WH * (chain.sessions + 1) and not may_lose:
            raise FoundError(f"{pile.id} gave {lost_wh} Wh that nobody settled", "loss")

    def check_replica(self, replica: Replica) -> None:
        """A node that was away has caught up; that it agrees it has found out itself."""
        replica.catch_up()  # the last block may be on its way
        if replica.height != len(self._ledger.store.blocks):
            raise FoundError(f"{replica.name} is at block {replica.height}", "agreement")


def _anomaly(chain: _Chain, running: _Order | None, proof: Proof, block_ms: int) -> str:
    """Why a proof's readings are not believed, or ""."""
    if not proof.readings:
        return ""
    first, last = proof.readings[0], proof.readings[-1]
    if last.time_ms > block_ms + CLOCK_AHEAD_MS:
        return "clock ahead"
    if chain.time_ms and first.time_ms < chain.time_ms:
        return "time fell"
    if chain.time_ms and first.energy_wh < chain.energy_wh:
        return "register fell"
    if running is not None and proof.event == BEGIN:
        return "second begin"
    since = [(first.time_ms, first.energy_wh)]
    if chain.time_ms:
        since.append((chain.time_ms, chain.energy_wh))
    if running is not None:
        since.append((running.begin_ms, running.begin_wh))
    for time_ms, energy_wh in since:
        most_wh = chain.rated_w * (last.time_ms - time_ms) * POWER_PERMILLE // 3_600_000_000 + POWER_SLACK_WH
        if last.energy_wh - energy_wh > most_wh:
            return "more than rated power"
    return ""
