"""Shows the chain which accounting nodes attested two headers of one height, as proven by what they themselves sent.

The engine keeps every proof until it is settled here, so that it outlives a restart. All coordinators hear the same; each
waits a moment of its own, so that mostly one transaction is made. Of several, the chain refuses all but the first.
"""

import time
from collections.abc import Callable

from pile_coordinator.chain.records import Candidate
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import DoubleAttestation, sign_transaction
from pile_coordinator.engines.engine import Block, BusyError, Engine
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.platform import sha256

VALID_BLOCKS = 1000  # for which what a coordinator signs may wait for a block
SPREAD_MS = 3000  # over which coordinators come forward: a block or two
RETRY_S = 5.0  # between attempts: the transaction before was lost, or there was no room
FINAL = {"phase", "late", "evidence", "unknown_candidate"}  # refusals of the charge; all others are of this attempt


class Accuser:
    """Brings the engine's charges before the chain. Used by one thread."""

    def __init__(
        self, engine: Engine, party: str, signer: cose.SoftwareSigner | None, log: Callable[[str], None]
    ) -> None:
        """Sign as `party`; without a signer only settle what others have brought. `log` takes a line for people."""
        self._engine = engine
        self._party, self._signer = party, signer
        self._log = log
        self._sent: dict[str, bytes] = {}  # what was submitted last, by who is charged
        self._due_s: dict[str, float] = {}  # when to try, by who is charged

    def tend(self) -> None:
        """Settle what the chain has heard, and submit what it has not; to be called now and then."""
        for charge in list(self._engine.charges.values()):
            with self._engine.turn():
                candidate = self._engine.state.find(Candidate, charge.candidate)
            if candidate is None or candidate.tombstoned:
                self._settle(charge.candidate, "is punished for attesting two headers")
            elif self._signer is not None and self._is_due(charge):
                self._submit(charge, self._signer)

    def after_block(self, block: Block) -> None:
        """Settle what a block refused for good; anything else is tried again."""
        sent = {tx_id: party for party, tx_id in self._sent.items()}
        for result in block.results:
            party = sent.get(result.tx_id)
            if party in self._engine.charges and result.code in FINAL:
                self._settle(party, f"cannot be charged: {result.message}")

    def _is_due(self, charge: DoubleAttestation) -> bool:
        if charge.candidate not in self._due_s:
            self._due_s[charge.candidate] = time.monotonic() + self._wait_ms(charge) / 1000
        waits = charge.candidate in self._sent and self._engine.waits(self._sent[charge.candidate])
        return not waits and time.monotonic() >= self._due_s[charge.candidate]

    def _wait_ms(self, charge: DoubleAttestation) -> int:
        """From 0 to SPREAD_MS, another for each coordinator."""
        return int.from_bytes(sha256(encode([self._party, charge.second]))[:4], "big") % SPREAD_MS

    def _submit(self, charge: DoubleAttestation, signer: cose.SoftwareSigner) -> None:
        self._due_s[charge.candidate] = time.monotonic() + RETRY_S
        sequence = self._engine.next_sequence(self._party)
        until = self._engine.height + VALID_BLOCKS
        tx = sign_transaction(signer, self._engine.genesis.chain_id, self._party, sequence, until, charge)
        try:
            self._engine.submit(tx)
        except BusyError:
            return  # the next attempt will have room
        except Rejection as refusal:
            if refusal.code in FINAL:
                self._settle(charge.candidate, f"cannot be charged: {refusal}")
            return
        self._sent[charge.candidate] = sha256(tx)
        self._log(f"{charge.candidate} attested two headers of one height: told the chain")

    def _settle(self, party: str, why: str) -> None:
        self._engine.settle(party)
        self._sent.pop(party, None)
        self._due_s.pop(party, None)
        self._log(f"{party} {why}")
