"""A process that opens a ledger, makes one block, and says what that took: `python -m bench.support.restart LEDGER GENESIS`.

Prints the seconds from opening to ready, how many orders and contracts are open, and the most memory it ever had, in kB.
"""

import json
import sys
import time
from pathlib import Path

from bench.support.market import FOUNDERS, accept_all, attester
from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.chain.records import Bid, Contract, Listing
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.engines.solo import SoloEngine


def main(ledger: Path, genesis: Path) -> None:
    """Open, make a block, report."""
    began = time.perf_counter()
    parsed = genesis_from_json(json.loads(genesis.read_text()))
    solo = SoloEngine(ledger, parsed, {party: attester(party) for party in FOUNDERS})
    seconds = time.perf_counter() - began
    solo.verify = CachingVerifier(accept_all)
    solo.make_block(solo.time_ms + 1)
    is_open = sum(solo.state.count(kind) for kind in (Bid, Listing, Contract))
    peak_kb = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "open": is_open, "peak_kb": int(peak_kb.split()[1])}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
