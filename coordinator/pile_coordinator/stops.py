"""Users' signed stop commands, kept while their contracts are open, so that an owner can answer a dispute with them.

They pass through the broker on their way to the pile and are no part of any block, so neither the ledger nor the evidence
made from it could bring one back: they have a file of their own, next to the ledger. Losing it costs owners their answer
to disputes of the cause (then settled by arbiters, or in the user's favour), and nothing else.
"""

import sqlite3
from pathlib import Path
from typing import cast

from pile_coordinator.chain.disputes import STOP, is_stop_of
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.records import PROPOSED, Contract
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_STOP_BYTES
from pile_shared import cose
from pile_shared.codec import array, decode
from pile_shared.errors import ConfigError, PilechainError

KEPT, KNOWN, PASSED_BY = "stop_kept", "stop_known", "session_other"  # outcomes that are normal life


class KeptStops:
    """One stop command per open contract: the first its user signed. Used by the engine's thread.

    Bounded by the open contracts, at MAX_STOP_BYTES each.
    """

    def __init__(self, path: Path, state: State) -> None:
        """Open or create the SQLite file, and forget what belongs to contracts that closed meanwhile."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")  # nobody sends it again
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS stop (contract BLOB PRIMARY KEY, message BLOB NOT NULL) WITHOUT ROWID"
            )
            kept = self._db.execute("SELECT contract FROM stop ORDER BY contract").fetchall()
        except sqlite3.Error as error:
            raise ConfigError(f"{path} cannot be used ({error}); move it away to start without kept stops") from error
        for (contract,) in kept:
            if state.find(Contract, contract) is None:
                self.forget(contract)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def offer(self, state: State, env: Env, pile: str, message: bytes) -> str:
        """Keep a session command if it is the first stop of an open contract of this pile: KEPT, KNOWN, or why not."""
        try:
            signed = cose.parse1(message, MAX_STOP_BYTES)
            contract_id, action, _, _ = array(decode(signed.payload, MAX_STOP_BYTES), 4)
        except PilechainError as error:
            return error.code
        if action != STOP:
            return PASSED_BY
        contract = state.find(Contract, contract_id) if isinstance(contract_id, bytes) else None
        if contract is None or contract.phase == PROPOSED or state.terms_of(contract).pile != pile:
            return "unknown_contract"
        if self.find(contract.id) is not None:
            return KNOWN
        if not is_stop_of(message, env, state.terms_of(contract), contract.id):
            return "bad_signature"
        try:
            self._db.execute("INSERT INTO stop VALUES (?, ?)", (contract.id, message))
        except sqlite3.Error:  # the disk is full: the ledger decides whether to go on, not this
            return "stop_not_written"
        return KEPT

    def find(self, contract: bytes) -> bytes | None:
        """The stop command of a contract, or None."""
        row = self._db.execute("SELECT message FROM stop WHERE contract = ?", (contract,)).fetchone()
        return cast("bytes", row[0]) if row else None

    def forget(self, contract: bytes) -> None:
        """The contract closed."""
        self._db.execute("DELETE FROM stop WHERE contract = ?", (contract,))
