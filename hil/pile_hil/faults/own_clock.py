"""Runs a Python program whose wall clock is not the machine's: `python -m pile_hil.faults.own_clock FILE PYTHON -m MODULE ...`.

FILE holds by how many milliseconds it is wrong, as 8 bytes in the machine's order; whoever writes there sets the clock, while
the program runs. What it asks by time.time() and time.time_ns() is shifted so; the monotonic clock is not, nor what it
waits by.
"""

import mmap
import runpy
import sys
import time
from pathlib import Path
from typing import Any

OFFSET_BYTES = 8
_SKIPPED = 2  # the interpreter's own path and "-m"


def offset_in(path: Path) -> "memoryview[int]":
    """The number in a file that is shared with all who look at it; written by one instruction."""
    with path.open("r+b") as file:
        shared: Any = memoryview(mmap.mmap(file.fileno(), OFFSET_BYTES)).cast("q")
    return shared  # type: ignore[no-any-return]


def main(words: list[str]) -> None:
    """Shift the clock, and become the program."""
    offset_ms, (module, *arguments) = offset_in(Path(words[0])), words[1 + _SKIPPED :]
    wall_ns = time.time_ns
    time.time_ns = lambda: wall_ns() + offset_ms[0] * 1_000_000
    time.time = lambda: time.time_ns() / 1e9
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
