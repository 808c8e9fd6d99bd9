"""Where certificates to export come from: files, or a coordinator's own data folder, whether it runs meanwhile or not.

Each comes as a name, for messages, and a function that reads or makes it when its turn comes, so that one that cannot be had
stops no other.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

from pile_coordinator.certificates import MAX_CERTIFICATE_BYTES
from pile_coordinator.chain.contracts import CONFIRMED, SETTLED, UNSIGNED
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.engines.engine import Block, Engine
from pile_coordinator.evidence.queries import order_certificate
from pile_coordinator.replay import open_ledger
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode, items
from pile_shared.errors import ConfigError
from pile_shared.terms import LEAF_CLOSED, LEAF_SETTLEMENT

_SETTLED_BEFORE = (CONFIRMED, SETTLED)  # in an earlier block; no order ends so
_LEDGER, _EVIDENCE = "ledger.sqlite", "evidence.sqlite"
Source = tuple[str, Callable[[], bytes]]


def certificate_files(given: list[Path]) -> list[Source]:
    """Files as they are, and of folders all that end in .cbor, by name; ConfigError if there is none."""
    paths: list[Path] = []
    for path in given:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        paths += sorted(path.glob("*.cbor")) if path.is_dir() else [path]
    if not paths:
        raise ConfigError("no certificates (.cbor) there; make one with: pilechain wallet certificate ORDER --out FILE")
    return [(str(path), partial(_read, path)) for path in paths]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATE_BYTES + 1)  # what is longer is no certificate
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def is_data_folder(path: Path) -> bool:
    """Whether there are ledger and evidence: a demo leaves its ledger beside certificates, and those are meant then."""
    return all((path / name).is_file() for name in (_LEDGER, _EVIDENCE))


class DataFolder:
    """The ledger and the evidence of a coordinator, only read."""

    def __init__(self, folder: Path, genesis: Genesis) -> None:
        """Open; ConfigError or StoreError if this is not the data folder of a coordinator of this chain."""
        self.genesis = genesis
        self._store = open_ledger(folder / _LEDGER, genesis)
        evidence = folder / _EVIDENCE
        try:
            uri = f"{evidence.resolve().as_uri()}?mode=ro"
            self._evidence = create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True)).connect()
        except DBAPIError as error:
            self._store.close()
            raise ConfigError(f"{evidence} cannot be read: {error}; it is made when the coordinator starts") from error

    def close(self) -> None:
        """Close both files."""
        self._store.close()
        self._evidence.close()

    def block(self, height: int) -> Block:
        """A block of the ledger: with `genesis` all that the making of a certificate asks of an engine."""
        return self._store.block(height)

    def closed(self, from_ms: int, until_ms: int) -> list[Source]:
        """The orders that blocks of these times closed (`until_ms` exclusive), in order; a proposal has no certificate."""
        heights = range(self._store.first_height(), self._store.height() + 1)
        first = bisect_left(heights, from_ms, key=lambda height: self.block(height).header.time_ms)
        found: list[Source] = []
        for height in heights[first:]:
            block = self.block(height)
            if block.header.time_ms >= until_ms:
                break
            found += [(name.hex(), partial(self._certificate, name)) for name in _closed(block)]
        return found

    def order(self, order: bytes) -> Source:
        """One order, by the id of its contract or bid."""
        return order.hex(), partial(self._certificate, order)

    def _certificate(self, order: bytes) -> bytes:
        try:
            return order_certificate(self._evidence, cast("Engine", self), order).encoded()
        except DBAPIError as error:
            raise ConfigError(
                f"the evidence cannot be read: {error}; start the coordinator, which rewrites it"
            ) from error


def _closed(block: Block) -> list[bytes]:
    """The contracts that a block closed. Bids and listings end too, by other outcomes, or without a settlement beside."""
    rows = [items(decode(leaf, MAX_LEAF_BYTES), 16) for leaf in block.leaves]
    settled = {decode_statement(cast("bytes", row[1])).contract for row in rows if row[0] == LEAF_SETTLEMENT}
    ends = [(cast("bytes", row[1]), row[2]) for row in rows if row[0] == LEAF_CLOSED]
    return [name for name, outcome in ends if outcome in _SETTLED_BEFORE or (name in settled and outcome != UNSIGNED)]
