"""Brings a ledger forward: by blocks that were signed, or over heights of which nobody can say any more what was signed.

No height is ever signed twice (docs/adr/0025): whoever comes back with an older ledger takes the blocks that its keys signed
since from the mirror, or leaves as many heights unsigned as may have been signed.
"""

from collections.abc import Callable, Iterable

from pile_coordinator.engines.engine import Block, StoreError, handover_after
from pile_coordinator.engines.store import OPEN_END, PASSED, Store
from pile_coordinator.replay import Replay, is_passed_over

MAX_PASSED = 10_000_000  # heights left unsigned at once: four months of a block a second, some gigabytes
Changes = list[tuple[bytes, bytes | None]]
Heard = Callable[[Block], None]


def forward(store: Store, replay: Replay, blocks: Iterable[Block], on_block: Heard = lambda _: None) -> None:
    """Write blocks behind the last one of a ledger, each computed again and its signatures checked.

    Args:
        store: the ledger, of which nobody else makes use.
        replay: what goes on behind its last block (`Replay.behind`).
        blocks: in order of height; those that are there already must be the same.
        on_block: called after each that was written.

    Raises:
        ReplayError: a block is not what it should be. StoreError: another block of its height is here.
    """
    for block in blocks:
        if block.header.height <= replay.height:
            _check_same(store, block)
            continue
        is_certified = not is_passed_over(block, replay.time_ms)
        _write(store, replay, block, replay.apply(block, is_certified=is_certified), is_certified=is_certified)
        on_block(block)


def _check_same(store: Store, block: Block) -> None:
    height = block.header.height
    if store.block(height).header.hash() != block.header.hash():
        raise StoreError(
            f"the ledger and the mirror hold different blocks {height}: two histories, one of which began with a restore."
            " Let only one of them go on, with a mirror in a folder of its own"
        )


def _write(store: Store, replay: Replay, block: Block, changes: Changes, *, is_certified: bool) -> None:
    header = block.header
    if header.height == 1:  # what genesis holds is written with the first block
        changes = list((dict(replay.genesis.state().seal()[1]) | dict(changes)).items())
    store.commit(block, changes, {} if is_certified else {PASSED: b"%d" % header.height})
    store.hand_over(handover_after(replay.genesis, replay.state, block), header)


def pass_over(store: Store, replay: Replay, until: int, on_block: Heard = lambda _: None) -> None:
    """Leave the heights behind the last block of a ledger up to `until` without a signature: as blocks without content.

    The next certified block names the last of them by its hash, so nobody can put others in their place.

    Raises:
        StoreError: there are too many. ReplayError: something is due in one of them, which somebody would have to sign.
    """
    if until - replay.height > MAX_PASSED:
        raise StoreError(f"{until - replay.height} heights are too many to pass over; {MAX_PASSED} at most")
    while replay.height < until:
        block, changes = replay.pass_over()
        _write(store, replay, block, changes, is_certified=False)
        on_block(block)
    store.keep_note(OPEN_END, None)
