"""What the linked agent needs of a board's heap: code alone, most alive between steps, and the least for a whole session."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, report
from pile_edge.board.bundle import build_romfs, find_micropython, link_bundle
from pile_edge.board.unix_flash import board_command
from pile_hil.pile_case import AgentProcess, PileCase
from pile_shared.proof import END, HEARTBEAT

HEAP_KB = 60
FLASH_KB = 90
PROBE = Path(__file__).parent.parent / "firmware_tests/run_board_heap.py"
HEARTBEAT_SECONDS = 20
SESSION_SECONDS = 30


def figures() -> Iterator[Figure]:
    """Sizes on the 64-bit unix build, whose pointers are twice a board's."""
    if find_micropython() is None:
        print("board: no MicroPython for this platform, not measured")
        return
    limit = "kB of heap, the limit"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_bundle(folder / "bundle")
        image = folder / "image"
        image.write_bytes(build_romfs(folder / "bundle"))
        yield Figure("board-flash", image.stat().st_size / 1024, "kB", FLASH_KB, "kB of flash, the limit", "<= 1.0")
        probed = _session(folder / "probe", image, f"{2 * HEAP_KB}k", str(PROBE), tls=True)
        if not probed:
            raise RuntimeError("no session to measure: firmware_tests/test_board.py shows why")
        yield Figure("board-heap-code", probed[0] / 1024, "kB", HEAP_KB, limit, "")
        yield Figure("board-heap-alive-tls", max(probed) / 1024, "kB", HEAP_KB, limit, "<= 1.0")
        for tls in (False, True):
            smallest = _smallest_heap_kb(folder / f"tls-{tls}", image, tls=tls)
            yield Figure("board-heap-session" + "-tls" * tls, smallest, "kB", HEAP_KB, limit, "<= 1.0")


def _smallest_heap_kb(folder: Path, image: Path, *, tls: bool) -> int:
    """The least heap, in whole kB, in which and above which a session runs; above the limit if it is not that little."""
    folder.mkdir()
    smallest = 2 * HEAP_KB
    for heap_kb in range(HEAP_KB + 4, 0, -1):
        if _session(folder / f"{heap_kb}", image, f"{heap_kb}k", tls=tls) is None:
            break
        smallest = heap_kb
    return smallest


def _session(folder: Path, image: Path, heap: str, *script: str, tls: bool) -> list[int] | None:
    """Contract, certificate check, charging, receipts in this much heap: the bytes a probe printed; None if it failed."""
    folder.mkdir()
    with PileCase(folder, kind="rtu", tls=tls) as case:
        command = board_command(image, *script, str(case.write_board_config()), "run", heap=heap)
        with AgentProcess(command) as agent:
            try:
                case.coordinator.wait(lambda c: HEARTBEAT in [p.event for p in c.proofs], HEARTBEAT_SECONDS)
                case.reserve_and_start(case.terms(energy_wh=600))
                case.coordinator.wait(lambda c: END in [p.event for p in c.proofs], SESSION_SECONDS)
            except TimeoutError:
                return None
            return [int(line.split()[1]) for line in agent.lines if line.startswith(("code_bytes", "live_bytes"))]


if __name__ == "__main__":
    report(figures())
