"""NOR flash in memory, for littlefs under MicroPython: an erase sets bits, a program only clears them."""

import errno

GEOMETRY = {"progsize": 32, "readsize": 32, "lookahead": 32}  # what an ESP32 formats its flash with, but for the block


class Flash:
    """A block device over `data`."""

    def __init__(self, data, block_bytes):
        self.data = data
        self.block_bytes = block_bytes

    def readblocks(self, block, buffer, offset=0):
        start = block * self.block_bytes + offset
        buffer[:] = self.data[start : start + len(buffer)]
        return 0

    def writeblocks(self, block, buffer, offset=0):
        program(self.data, block * self.block_bytes + offset, buffer)
        return 0

    def ioctl(self, op, arg):
        if op == 4:
            return len(self.data) // self.block_bytes
        if op == 5:
            return self.block_bytes
        if op == 6:
            erase(self.data, arg * self.block_bytes, self.block_bytes)
        return 0 if op in (3, 6) else -errno.EINVAL


def blank(size_bytes):
    return bytearray(b"\xff" * size_bytes)


def program(data, start, new):
    end = start + len(new)
    old = data[start:end]
    if old.count(b"\xff") != len(new):
        new = (int.from_bytes(old, "big") & int.from_bytes(new, "big")).to_bytes(len(new), "big")
    data[start:end] = new


def erase(data, start, size_bytes):
    data[start : start + size_bytes] = b"\xff" * size_bytes
