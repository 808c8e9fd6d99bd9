"""Where certificates to export come from: files, or a coordinator's own data folder, whether it runs meanwhile or not.

Each comes as a name, for messages, and a function that reads or makes it when its turn comes, so that one that cannot be had
stops no other.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from pile_coordinator.certificates import MAX_CERTIFICATE_BYTES
from pile_coordinator.chain.contracts import CONFIRMED, SETTLED, UNSIGNED
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.engines.engine import Block, Engine
from pile_coordinator.evidence.database import EvidenceError
from pile_coordinator.evidence.opening import open_to_read
from pile_coordinator.evidence.queries import NoEvidenceError, order_certificate
from pile_coordinator.evidence.schema import block as block_table
from pile_coordinator.evidence.schema import mark
from pile_coordinator.records import RECORDS, StoredRecords
from pile_coordinator.replay import open_ledger
from pile_shared.certificate import MAX_LEAF_BYTES
from pile_shared.codec import decode, items
from pile_shared.errors import ConfigError, PilechainError
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
    if not paths and any((path / _LEDGER).is_file() for path in given):
        raise ConfigError(
            f"{given[0]} has a ledger, and no {_EVIDENCE}: give the coordinator's configuration file instead of its folder,"
            " or name the evidence database with --evidence"
        )
    if not paths:
        raise ConfigError("no certificates (.cbor) there; make one with: pilechain wallet certificate ORDER --out FILE")
    return [(str(path), partial(_read, path)) for path in paths]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CERTIFICATE_BYTES + 1)  # what is longer is no certificate
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def is_data_folder(path: Path, *, has_evidence: bool = False) -> bool:
    """Whether there are ledger and evidence: a demo leaves its ledger beside certificates, and those are meant then.

    With `has_evidence` a ledger is enough: the evidence is elsewhere, and was named.
    """
    return (path / _LEDGER).is_file() and (has_evidence or (path / _EVIDENCE).is_file())


class DataFolder:
    """The ledger and the evidence of a coordinator, only read.

    Attributes:
        records: the OCMF records that piles sent it; None if the folder has none, of an earlier release or only copied in part.
    """

    def __init__(self, folder: Path, genesis: Genesis, evidence: str = "") -> None:
        """Open.

        Args:
            folder: with the ledger.
            genesis: that pins the chain.
            evidence: the path of a SQLite file or the URL of a database; "" for the file in the folder.

        Raises:
            ConfigError, StoreError: this is not the data folder of a coordinator of this chain.
            EvidenceError: the evidence is another chain's, of another schema, or its server does not answer.
        """
        self.genesis = genesis
        self._store = open_ledger(folder / _LEDGER, genesis)
        try:
            self._evidence = open_to_read(evidence or str(folder / _EVIDENCE))
        except PilechainError:
            self._store.close()
            raise
        self.records: StoredRecords | None = None
        try:
            self._height = self._check_evidence()
            self.records = StoredRecords(folder / RECORDS) if (folder / RECORDS).is_file() else None
        except PilechainError:
            self.close()
            raise

    def _check_evidence(self) -> int:
        """The height that the evidence has come to; EvidenceError if its last block is none of this ledger's."""
        with self._read() as db:
            written = db.execute(sa.select(mark.c.height)).scalar() or 0
            height = min(written, self._store.height())
            found = db.execute(sa.select(block_table.c.hash).where(block_table.c.height == height)).scalar()
        if height >= self._store.first_height() and found != self._store.block(height).header.hash():
            raise EvidenceError(
                f"block {height} of the evidence is of another chain than the ledger's: check --evidence, or [evidence] url"
            )
        return int(written)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._evidence.connect() as db:
                yield db
        except DBAPIError as error:
            raise EvidenceError(f"the evidence at {self._evidence.url!r} cannot be read ({error.orig})") from error

    def close(self) -> None:
        """Close all."""
        if self.records is not None:
            self.records.close()
        self._store.close()
        self._evidence.dispose()

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
            with self._read() as db:
                return order_certificate(db, cast("Engine", self), order).encoded()
        except NoEvidenceError as error:
            if self._height >= self._store.height():
                raise
            raise NoEvidenceError(
                f"{error}; the evidence stands at block {self._height} of {self._store.height()}: have its coordinator run"
                " until `pilechain evidence status` says that it is whole"
            ) from error


def _closed(block: Block) -> list[bytes]:
    """The contracts that a block closed. Bids and listings end too, by other outcomes, or without a settlement beside."""
    rows = [items(decode(leaf, MAX_LEAF_BYTES), 16) for leaf in block.leaves]
    settled = {decode_statement(cast("bytes", row[1])).contract for row in rows if row[0] == LEAF_SETTLEMENT}
    ends = [(cast("bytes", row[1]), row[2]) for row in rows if row[0] == LEAF_CLOSED]
    return [name for name, outcome in ends if outcome in _SETTLED_BEFORE or (name in settled and outcome != UNSIGNED)]
