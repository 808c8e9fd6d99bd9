# Runs under MicroPython on a unix: argv is address and size of a ROMFS image in memory, then what the program takes.
# A real board mounts its ROMFS by itself. Comments instead of a docstring: this file is compiled on the heap.
# ruff: noqa: D100, E402 - and what importing leaves behind is swept up at once, so that code lies close together
import gc

gc.threshold(2048)  # type: ignore[attr-defined]
import sys

import uctypes  # type: ignore[import-not-found]
import vfs  # type: ignore[import-not-found]

vfs.mount(vfs.VfsRom(uctypes.bytearray_at(int(sys.argv[1]), int(sys.argv[2]))), "/rom")
sys.path[:] = ["/rom"]
del sys.argv[1:3]
if sys.argv[1].endswith(".py"):
    sys.path.append(".frozen")
    with open(sys.argv[1]) as script:
        exec(script.read())  # noqa: S102 - the caller's own script
else:
    from pile_board.part_agent import main  # type: ignore[import-not-found]

    sys.exit(main(sys.argv[1:]))
