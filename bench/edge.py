"""The pile's software on a board: flash worn, time of a reading, signatures beside another MicroPython library's.

Heap and the size of the image are measured in `board`, bytes of a further reading in `proof_size`, signatures against their
multiplications in `p256`.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figures import Figure, report
from pile_edge.board.bundle import build_bundle, find_micropython

SCRIPTS = Path(__file__).parent.parent / "firmware_tests"
MAX_ERASES = 1.1
MAX_PROOF_MS = 20
ROUNDS = 10  # for the smallest of them
# A known key is one with a table: an accounting node's, from the first idle turn on. Without one 20 x is out of reach, as
# docs/board-crypto.md shows: no target, but shown.
TIMES_FASTER = {"sign": 40, "verify_known": 20, "verify_unknown": None}


def figures() -> Iterator[Figure]:
    """Figures of the 64-bit unix build; a board's processor is slower, counts and ratios stay."""
    interpreter = find_micropython()
    if interpreter is None:
        print("edge: no MicroPython for this platform, not measured")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_bundle(folder / "bundle")
        environment = {**os.environ, "MICROPYPATH": f"{folder / 'bundle'}:.frozen"}

        def run(script: Path, *arguments: Path) -> str:
            command = [str(interpreter), "-X", "heapsize=2m", str(script), *map(str, arguments)]
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

        cost = json.loads(run(SCRIPTS / "run_flash_cost.py"))
        erases = cost["erases"] / cost["appends"]
        yield Figure("edge-erases-per-append", erases, "erases", MAX_ERASES, "1.1 erases", "<= 1.0")
        yield Figure("edge-proof", cost["proof_us"] / 1000, "ms", MAX_PROOF_MS, "20 ms", "<= 1.0")
        yield from _signatures(run, folder)


def _signatures(run: Callable[..., str], folder: Path) -> Iterator[Figure]:
    """Beside the one scalar multiplication of utinyec, without which it neither signs nor verifies."""
    found = importlib.util.find_spec("utinyec")
    if found is None or found.origin is None:
        print("edge: utinyec is not installed (dependency group `dev`), signatures not compared")
        return
    shutil.copytree(Path(found.origin).parent, folder / "other/utinyec")
    theirs_us, ours = [], []
    for number in range(ROUNDS):  # in turns, so that a busy machine slows both alike
        theirs_us.append(int(run(SCRIPTS / "run_utinyec_cost.py", folder / "other")))
        ours.append(json.loads(run(SCRIPTS / "run_p256_cost.py", folder / f"tables-{number}")))
    limit = "utinyec's scalar multiplication"
    for name, times in TIMES_FASTER.items():
        best_us = min(cost[f"{name}_us"] for cost in ours)
        target = f"<= {1 / times}" if times else ""
        yield Figure("edge-" + name.replace("_", "-"), best_us / 1000, "ms", min(theirs_us) / 1000, limit, target)
    table_us = min(cost["key_table_us"] for cost in ours)
    yield Figure("edge-key-table", table_us / 1000, "ms", min(theirs_us) / 1000, limit, "")


if __name__ == "__main__":
    report(figures())
