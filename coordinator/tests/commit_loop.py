"""A process that commits blocks until it is killed: `commit_loop.py LEDGER [STATEMENT [MIRROR]]`.

After each commit it prints `height state_root tx_id`. With a statement number it kills itself with SIGKILL just before
the database executes that statement of its third commit, so that every place inside a commit is tried.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from world import NOW, genesis, key

from pile_coordinator.chain.records import Party
from pile_coordinator.chain.transactions import Deposit, sign_transaction
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.keeping.mirroring import Mirroring


def engine(path: Path, mirror: Mirroring | None = None) -> SoloEngine:
    signers = {p: key(p + "/attest") for p in ("auditor", "grid", "operator")}
    return SoloEngine(path, genesis(), signers, mirror=mirror)


def deposit(solo: SoloEngine, number: int) -> bytes:
    sequence = solo.state.get(Party, "grid").sequence + 1
    return sign_transaction(key("grid"), solo.chain_id, "grid", sequence, 1000, Deposit("operator", 5, f"n{number}"))


def die_at(solo: SoloEngine, statement: int) -> None:
    seen = 0

    def trace(_: str) -> None:
        nonlocal seen
        if solo.height == 2:
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)

    solo._store._db.set_trace_callback(trace)


def main(path: Path, statement: int, mirror: Path | None) -> None:
    solo = engine(path, None if mirror is None else Mirroring(mirror, genesis(), print))
    if statement:
        die_at(solo, statement)
    while True:
        tx = solo.submit(deposit(solo, solo.height))
        block = solo.make_block(NOW + solo.height)
        print(block.header.height, block.header.state_root.hex(), tx.id.hex(), flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else 0,
        Path(sys.argv[3]) if len(sys.argv) > 3 else None,
    )
