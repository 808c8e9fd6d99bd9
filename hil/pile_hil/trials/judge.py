"""What came of a trial, from its folder alone: the ledger computed again, journals, logs, certificates, the meters' truth.

Nothing that the trial's own processes say is believed here without a signature, and nothing here talks to them: so software
with a planted bug is judged by software without it.
"""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pile_coordinator.chain import invariants
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.proofs import ADMITTED
from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.transactions import SubmitProofs, decode_transaction
from pile_coordinator.engines.engine import Block
from pile_coordinator.replay import Replay, blocks_of, certified_height, open_ledger
from pile_coordinator.verify import Verified, verify_order
from pile_edge.journal import Journal
from pile_edge.journal_check import check_journal
from pile_edge.ports.cpython_storage import Storage
from pile_hil.trials.facts import Facts, OrderFacts
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.proof import ALARM, BEGIN, END, EVENT_NAMES, REASON_NAMES, Proof, open_proof, proof_hash

if TYPE_CHECKING:
    from collections.abc import Callable

_PROVED = re.compile(r"\bproof (\d+) ([a-z]+)(?: \([a-z ]+\))?(?: (\d+) Wh)?")
_CAPACITY_BYTES, _SEGMENT_BYTES = 1 << 30, 8192  # of a journal that is only read: it may be as large as it is


@dataclass(frozen=True, slots=True)
class Check:
    """One thing a trial is judged by: whether it holds, and in words what was found."""

    name: str
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Chained:
    """A proof on the chain, when and where it was admitted."""

    proof: Proof
    message: bytes
    height: int
    time_ms: int


class Record:
    """A trial's folder, read: what the chain has, what each pile's journal has, what each agent said it signed."""

    def __init__(self, folder: Path) -> None:
        """Read it; PilechainError if something of it cannot be read."""
        self.folder = folder
        self.facts = Facts.load(folder)
        self.genesis: Genesis = genesis_from_json(json.loads((folder / "site/genesis.json").read_text()))
        self.publics = {pile: bytes.fromhex(public) for pile, public in self.facts.piles.items()}
        self.chained: dict[str, list[Chained]] = {pile: [] for pile in self.publics}
        self._pile_of = {cose.key_id(public): pile for pile, public in self.publics.items()}
        store = open_ledger(folder / self.facts.data / "ledger.sqlite", self.genesis)
        self.ledger_fault = ""
        self.block_times: dict[int, int] = {}
        self.replay = Replay(self.genesis)
        try:
            certified = certified_height(store)
            for block in blocks_of(store):
                self._collect(block)
                if not self.ledger_fault:
                    self._apply(block, is_certified=block.header.height <= certified)
        finally:
            store.close()
        self.journals = {pile: self._journal(pile) for pile in self.publics}

    def log(self, pile: str) -> str:
        """What a pile's agent said."""
        return (self.folder / f"{pile}.log").read_text(errors="replace")

    def session(self, order: OrderFacts) -> tuple[Proof | None, Proof | None]:
        """The BEGIN and END proofs of an order."""
        found: dict[int, Proof] = {}
        for one in self.chained[order.pile]:
            if one.proof.contract == bytes.fromhex(order.contract) and one.proof.event in {BEGIN, END}:
                found[one.proof.event] = one.proof
        return found.get(BEGIN), found.get(END)

    def verified(self, order: OrderFacts) -> Verified:
        """An order's certificate, checked offline; PilechainError or OSError."""
        return verify_order((self.folder / order.certificate).read_bytes(), self.genesis)

    def _apply(self, block: Block, *, is_certified: bool) -> None:
        try:
            self.replay.apply(block, is_certified=is_certified)
        except PilechainError as error:
            self.ledger_fault = str(error)

    def _collect(self, block: Block) -> None:
        self.block_times[block.header.height] = block.header.time_ms
        for tx, result in zip(block.txs, block.results, strict=True):
            body = decode_transaction(tx).body
            if not isinstance(body, SubmitProofs) or result.code != "ok":
                continue
            for message, what in zip(body.proofs, result.details, strict=True):
                pile = self._pile_of.get(cose.parse1(message, len(message)).kid)
                if what != ADMITTED or pile is None:
                    continue
                proof = open_proof(message, self.publics[pile], self.genesis.chain_id)
                self.chained[pile].append(Chained(proof, message, block.header.height, block.header.time_ms))

    def _journal(self, pile: str) -> list[tuple[int, bytes]]:
        """What no receipt covered in the end."""
        journal = Journal(
            Storage(str(self.folder / "journals" / pile)), capacity_bytes=_CAPACITY_BYTES, segment_bytes=_SEGMENT_BYTES
        )
        found: list[tuple[int, bytes]] = []
        after = journal.retired_through or 0
        while rows := journal.pending(after, 64):
            found += rows
            after = rows[-1][0]
        return found


def judge(folder: Path) -> list[Check]:
    """Every check of a trial's folder, in the order in which a reader wants them."""
    try:
        record = Record(folder)
    except (PilechainError, OSError, ValueError) as error:
        return [Check("readable", False, f"{type(error).__name__}: {error}")]
    checks: list[Callable[[Record], Check]] = [
        _alive,
        _conserved,
        _exactly_once,
        _no_loss,
        _monotone,
        _settled,
        _true,
        _as_expected,
    ]
    return [check(record) for check in checks]


def _check(name: str, faults: list[str], fine: str) -> Check:
    return Check(name, not faults, "; ".join(faults) or fine)


def _alive(record: Record) -> Check:
    """The scenario came to its end: orders ended after the fault did, and receipts came for all proofs."""
    facts = record.facts
    faults = [facts.error] if facts.error else []
    faults += [f"{pile} has no receipt for its proofs" for pile in facts.piles if pile not in facts.drained]
    return _check("alive", faults, f"{len(facts.orders)} orders ended, all proofs have receipts")


def _conserved(record: Record) -> Check:
    """The ledger follows from its transactions, and no money came or went."""
    faults = [record.ledger_fault] if record.ledger_fault else []
    if not faults:
        try:
            invariants.check_in_full(record.replay.state)
        except PilechainError as error:
            faults.append(str(error))
    return _check("conserved", faults, f"{record.replay.height} blocks computed again, every sum is right")


def _exactly_once(record: Record) -> Check:
    """Each proof is on the chain once, without gaps, and no sequence was given out twice."""
    faults = []
    for pile, rows in record.chained.items():
        sequences = [row.proof.sequence for row in rows]
        if sequences != list(range(1, len(rows) + 1)):
            faults.append(f"{pile}: the chain admitted proofs {_brief(sequences)}")
        own = {row.proof.sequence: proof_hash(row.message) for row in rows}
        faults += [
            f"{pile}: its journal has another proof {sequence} than the chain"
            for sequence, message in record.journals[pile]
            if own.get(sequence, proof_hash(message)) != proof_hash(message)
        ]
        said = [int(number) for number, *_ in _PROVED.findall(record.log(pile))]
        twice = sorted({sequence for sequence in said if said.count(sequence) > 1})
        if twice:
            faults.append(f"{pile} signed proofs {_brief(twice)} more than once")
    return _check("exactly once", faults, f"{sum(map(len, record.chained.values()))} proofs, each once")


def _no_loss(record: Record) -> Check:
    """What an agent says it signed is on the chain with the same words, or waits in its journal."""
    faults = []
    for pile, rows in record.chained.items():
        kept = {row.proof.sequence: row.proof for row in rows}
        for sequence, message in record.journals[pile]:
            kept.setdefault(sequence, open_proof(message, record.publics[pile], record.genesis.chain_id))
        for number, event, energy_wh in _PROVED.findall(record.log(pile)):
            proof = kept.get(int(number))
            if proof is None:
                faults.append(f"{pile}: proof {number} ({event}) was signed and is nowhere")
            elif EVENT_NAMES[proof.event] != event or (energy_wh and proof.readings[-1].energy_wh != int(energy_wh)):
                faults.append(f"{pile}: proof {number} is not the {event} of {energy_wh} Wh that was signed")
        report = check_journal(record.folder / "journals" / pile, record.publics[pile], record.genesis.chain_id)
        faults += [f"{pile}: {problem}" for problem in report.problems]
        late = [sequence for sequence, _ in record.journals[pile] if sequence <= record.facts.drained.get(pile, 0)]
        if late:
            faults.append(f"{pile}: proofs {_brief(late)} had receipts and still wait")
    return _check("no loss", faults, "all that was signed is on the chain")


def _monotone(record: Record) -> Check:
    """On the chain no register of a pile falls, and no time runs back."""
    faults = []
    for pile, rows in record.chained.items():
        readings = [(row.proof.sequence, reading) for row in rows for reading in row.proof.readings]
        for (_, before), (sequence, after) in pairwise(readings):
            if after.energy_wh < before.energy_wh:
                faults.append(f"{pile}: proof {sequence} falls by {before.energy_wh - after.energy_wh} Wh")
            if after.time_ms < before.time_ms:
                faults.append(f"{pile}: proof {sequence} goes back by {before.time_ms - after.time_ms} ms")
    return _check("monotone", faults, "no register falls, no time runs back")


def _settled(record: Record) -> Check:
    """Each certificate verifies offline, and settles what begin and end proofs say."""
    faults, settled_wh = [], 0
    for order in record.facts.orders:
        name = f"order {order.contract[:8]}"
        if not order.certificate:
            faults.append(f"{name} has no certificate")
            continue
        try:
            verified = record.verified(order)
        except PilechainError as error:
            faults.append(f"{name}: {error}")
            continue
        begin, end = record.session(order)
        signed_wh = end.readings[-1].energy_wh - begin.readings[0].energy_wh if begin and end else 0
        settled_wh += verified.statement.measured_wh
        if verified.statement.measured_wh != signed_wh and not order.expects.anomaly:
            faults.append(f"{name} settles {verified.statement.measured_wh} Wh, its proofs say {signed_wh} Wh")
        if verified.outcome != order.outcome:
            faults.append(f"{name} is {verified.outcome} by its certificate, {order.outcome} by the coordinator")
    return _check("settled", faults, f"{settled_wh} Wh settled, as signed")


def _true(record: Record) -> Check:
    """No more was signed than flowed, and no more flowed unsigned than the scenario allows."""
    faults, flowed, signed = [], 0, 0
    for order in record.facts.orders:
        begin, end = record.session(order)
        if begin is None or end is None:
            continue
        truth_wh = order.after_wh - order.before_wh
        signed_wh = end.readings[-1].energy_wh - begin.readings[0].energy_wh
        flowed, signed = flowed + truth_wh, signed + signed_wh
        if begin.readings[0].energy_wh < order.before_wh or end.readings[-1].energy_wh > order.after_wh:
            faults.append(
                f"{order.pile} signed {begin.readings[0].energy_wh} to {end.readings[-1].energy_wh} Wh,"
                f" its meter went from {order.before_wh} to {order.after_wh} Wh"
            )
        if truth_wh - signed_wh > order.expects.lost_wh:
            faults.append(f"{truth_wh} Wh flowed and {signed_wh} Wh were signed: {truth_wh - signed_wh} Wh are lost")
    return _check("true", faults, f"{flowed} Wh flowed, {signed} Wh signed")


def _as_expected(record: Record) -> Check:
    """Ends, alarms, words and anomalies are those the scenario is about."""
    faults = []
    for order in record.facts.orders:
        expects = order.expects
        _, end = record.session(order)
        reason = REASON_NAMES[end.reason] if end else ""
        if reason != expects.reason:
            faults.append(f"order {order.contract[:8]} ended by {reason or 'nothing'!r}, not {expects.reason!r}")
        if order.outcome != expects.outcome:
            faults.append(f"order {order.contract[:8]} is {order.outcome or 'open'}, not {expects.outcome}")
        raised = {REASON_NAMES[row.proof.reason] for row in record.chained[order.pile] if row.proof.event == ALARM}
        faults += [f"{order.pile} raised no alarm ({reason})" for reason in expects.alarms if reason not in raised]
        log = record.log(order.pile)
        faults += [f"{order.pile} never said {words!r}" for words in expects.said if words not in log]
        anomaly = record.replay.state.get(Pile, order.pile).anomaly if not record.ledger_fault else expects.anomaly
        if anomaly != expects.anomaly:
            faults.append(
                f"the chain says {anomaly or 'nothing'!r} of {order.pile}, not {expects.anomaly or 'nothing'!r}"
            )
    return _check("as expected", faults, "ends, alarms and words are those of the scenario")


def _brief(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, ..." if len(numbers) > 8 else shown or "none"
