"""Runs under MicroPython: the board's program from a ROMFS image, as on a board whose bundle lies in flash.

Arguments: image, then those of pile_edge.ports.main. The image itself stands for flash: the test adds its size to the heap.
"""
# ruff: noqa: PTH123 - MicroPython has no pathlib

import sys

import vfs

with open(sys.argv[1], "rb") as file:
    image = file.read()
vfs.mount(vfs.VfsRom(image), "/rom")
sys.path[:] = ["/rom", ".frozen"]

from pile_edge.ports.main import main  # noqa: E402 - not to be found before the image is mounted

sys.exit(main(sys.argv[2:]))
