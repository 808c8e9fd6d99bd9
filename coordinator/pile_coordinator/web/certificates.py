"""Order certificates from the ledger and the evidence beside it, both opened for reading only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.engines.store import Store
from pile_coordinator.evidence.queries import NoEvidenceError, order_certificate
from pile_coordinator.web.problems import Refused
from pile_coordinator.web.reading import Reading

if TYPE_CHECKING:
    from pile_coordinator.engines.engine import Engine

MAX_AT_ONCE = 2  # each may take a second and 16 MB


class _Ledger:
    """As much of an engine as a certificate takes."""

    def __init__(self, store: Store, genesis: Genesis) -> None:
        self.genesis = genesis
        self.block = store.block


class Certificates:
    """Makes certificates. Used by any thread."""

    def __init__(self, reading: Reading, ledger: Path, genesis: Genesis) -> None:
        """From this evidence and ledger, which must be of the chain of `genesis`; StoreError if the ledger is not."""
        self._reading, self._ledger, self._genesis = reading, ledger, genesis
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        Store(ledger, genesis.hash(), read_only=True).close()

    def make(self, contract: bytes) -> bytes:
        """The certificate of a closed contract.

        Raises:
            Refused: 409 if there is none yet, or never will be; 503 if too many are being made.
        """
        with self.making() as make:
            try:
                return make(contract)
            except NoEvidenceError as error:
                raise Refused(409, error.code, error.message) from error

    @contextmanager
    def making(self) -> Iterator[Callable[[bytes], bytes]]:
        """What makes certificates one after the other, for who has a place among those who do.

        It raises NoEvidenceError for a contract that has none. Refused (503) if too many are being made.
        """
        if not self._room.acquire(blocking=False):
            raise Refused(503, "busy", "other certificates are being made; try again", {"Retry-After": "2"})
        try:
            store = Store(self._ledger, self._genesis.hash(), read_only=True)
            try:
                ledger = cast("Engine", _Ledger(store, self._genesis))
                with self._reading.connect() as connection:
                    yield lambda contract: order_certificate(connection, ledger, contract).encoded()
            finally:
                store.close()
        finally:
            self._room.release()
