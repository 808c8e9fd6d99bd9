"""What the linked agent needs of a board's heap: code alone, and the smallest heap in which a whole session runs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, report
from pile_edge.board.bundle import build_romfs, find_micropython, link_bundle
from pile_edge.board.unix_flash import board_command
from pile_hil.pile_case import AgentProcess, PileCase
from pile_shared.proof import END, HEARTBEAT

HEAP_KB = 64
PROBE = Path(__file__).parent.parent / "firmware_tests/run_board_heap.py"
SESSION_SECONDS = 30


def figures() -> Iterator[Figure]:
    """Sizes on the 64-bit unix build, whose pointers are twice a board's."""
    if find_micropython() is None:
        print("board: no MicroPython for this platform, not measured")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_bundle(folder / "bundle")
        image = folder / "image"
        image.write_bytes(build_romfs(folder / "bundle"))
        code_bytes = _session(folder / "probe", image, f"{2 * HEAP_KB}k", str(PROBE))
        smallest = 2 * HEAP_KB
        for heap_kb in range(HEAP_KB, 0, -1):
            if _session(folder / f"{heap_kb}", image, f"{heap_kb}k") is None:
                break
            smallest = heap_kb
    limit = "a board's heap in kB"
    yield Figure("board-heap-code", (code_bytes or 0) / 1024, "kB", HEAP_KB, limit, "")
    yield Figure("board-heap-session", smallest, "kB", HEAP_KB, limit, "<= 1.0")


def _session(folder: Path, image: Path, heap: str, *script: str) -> int | None:
    """Contract, certificate check, charging, receipts in this much heap: bytes of code, 0 if not probed, None if it failed."""
    folder.mkdir()
    with PileCase(folder, kind="tcp") as case:
        command = board_command(image, *script, str(case.write_board_config()), "run", heap=heap)
        with AgentProcess(command) as agent:
            try:
                case.coordinator.wait(lambda c: HEARTBEAT in [p.event for p in c.proofs])
                case.reserve_and_start(case.terms(energy_wh=600))
                case.coordinator.wait(lambda c: END in [p.event for p in c.proofs], SESSION_SECONDS)
            except TimeoutError:
                return None
            found = [int(line.split()[1]) for line in agent.lines if line.startswith("code_bytes")]
            return found[0] if found else 0


if __name__ == "__main__":
    report(figures())
