"""How a coordinator keeps its mirror: what is said when the mirror is away, and which of the two is right at a start.

A mirror that is required gets each block before the ledger does. So no signature leaves the process before the mirror has
it, and at a start the mirror is as far as the ledger, or further: then the ledger takes its blocks. One that is not required
gets each block after the ledger, when it can; its end proves nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.engines.engine import Block
from pile_coordinator.engines.store import OPEN_END, Store
from pile_coordinator.keeping.forward import forward
from pile_coordinator.keeping.mirror import Mirror, MirrorAwayError, MirrorError, MirrorReader
from pile_coordinator.replay import Replay
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

RETRY_S = 10.0  # between two looks for a mirror that is not required and was away


class Mirroring:
    """The mirror of a solo engine, by the thread that makes its blocks."""

    def __init__(
        self,
        folder: Path,
        genesis: Genesis,
        log: Callable[[str], None],
        *,
        is_required: bool = True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember where it is; `meet` opens it."""
        self._folder, self._genesis, self._log, self._now_s = folder, genesis, log, now_s
        self._is_required = is_required
        self._mirror: Mirror | None = None
        self._retry_s = 0.0

    def close(self) -> None:
        """Close it."""
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None

    def meet(self, store: Store) -> None:
        """Before the engine reads its ledger: whichever lacks blocks of the other gets them.

        Raises:
            MirrorAwayError: it is away, and required. MirrorError: damaged, or another chain's.
            StoreError, ReplayError: the two cannot be of one history.
        """
        try:
            self._open(store, may_lead=True)
        except MirrorAwayError as error:
            if self._is_required:
                raise MirrorAwayError(f"{error}; or set required = false in [mirror], and go on without") from error
            self._lose(error)

    def _open(self, store: Store, *, may_lead: bool) -> None:
        mirror = Mirror(self._folder, self._genesis.hash())
        is_end = mirror.claims_whole and mirror.tail.is_sure and mirror.height >= store.height()
        try:
            if mirror.height > store.height():
                self._bring_forward(store, mirror, may_lead=may_lead)
            self._bring_back(store, mirror)
            if is_end and store.note(OPEN_END) is not None:
                store.keep_note(OPEN_END, None)  # nothing was signed behind it
            if mirror.claims_whole != self._is_required:
                mirror.say_whole(is_whole=self._is_required)
        except BaseException:
            mirror.close()
            raise
        self._mirror = mirror

    def _bring_forward(self, store: Store, mirror: Mirror, *, may_lead: bool) -> None:
        """The ledger is an older one, or the power went between the two: it takes the mirror's blocks."""
        before = store.height()
        if not may_lead:  # the engine is at work, and has made blocks that the mirror does not know
            raise _two_histories(mirror.height)
        if not mirror.tail.is_sure:
            raise MirrorError(
                f"the mirror {self._folder} is damaged at its end, and the ledger is older: restore a backup"
            )
        reader = MirrorReader(self._folder, self._genesis.hash())
        first = before if before >= reader.first else before + 1  # our last one is compared, if it is there
        forward(store, Replay.behind(store, self._genesis), reader.blocks(first))
        self._log(f"the ledger was at block {before}; blocks up to {mirror.height} are taken from the mirror")

    def _bring_back(self, store: Store, mirror: Mirror) -> None:
        """The mirror was away, or began elsewhere: it gets what it lacks."""
        _check_last(store, mirror)
        before = mirror.height
        for height in range(before + 1, store.height() + 1):
            mirror.append(store.block(height))
        if mirror.height > before:
            self._log(f"the mirror was at block {before}; it has all up to {mirror.height} now")

    def before_commit(self, block: Block) -> None:
        """A block was signed, and is neither written down nor told; MirrorAwayError if it must not be."""
        if self._is_required:
            assert self._mirror is not None
            try:
                self._mirror.append(block)
            except MirrorAwayError as error:
                raise MirrorAwayError(
                    f"{error}. Nothing was acknowledged that is not there; mend it and start again, or set required = false"
                ) from error

    def after_commit(self, block: Block, store: Store) -> None:
        """A block was written down, and is not told yet."""
        if self._is_required:
            return
        try:
            if self._mirror is not None:
                self._mirror.append(block)
            elif self._now_s() >= self._retry_s:
                self._open(store, may_lead=False)
        except PilechainError as error:
            self._lose(error)

    def _lose(self, error: PilechainError) -> None:
        if self._mirror is not None or not self._retry_s:
            self._log(f"MIRROR LOST: {error}. Blocks are acknowledged without it, and are lost if this machine is")
        self.close()
        self._retry_s = self._now_s() + RETRY_S


def _check_last(store: Store, mirror: Mirror) -> None:
    """The mirror's last block must be the ledger's of that height."""
    height = mirror.height
    if height == 0:
        return
    if height == store.height():
        header = store.last_header()
    else:
        certificate = store.certificate(height)
        header = None if certificate is None else certificate.header_bytes
    if header is None or sha256(header) != mirror.digest:
        raise _two_histories(height)


def _two_histories(height: int) -> MirrorError:
    return MirrorError(
        f"block {height} of the mirror is not the ledger's: two histories, one of which began with a restore. Let only one of"
        " them go on, with a mirror in a folder of its own"
    )
