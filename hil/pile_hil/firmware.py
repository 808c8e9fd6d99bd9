"""A firmware image as MicroPython offers them, but for what nobody here runs: the program. For esptool and its mock."""

from __future__ import annotations

import hashlib
import struct

from pile_edge.board.partitions import TABLE_ADDRESS, Partition, encode

# MicroPython's ports/esp32/partitions-4MiB.csv, which its generic boards are offered with.
STOCK = [
    Partition(1, 2, 0x9000, 0x6000, "nvs"),
    Partition(1, 1, 0xF000, 0x1000, "phy_init"),
    Partition(0, 0, 0x10000, 0x1F0000, "factory"),
    Partition(1, 0x81, 0x200000, 0x200000, "vfs"),
]
ADDRESS = 0x1000


def stock_firmware(program_bytes: int = 65_536) -> bytes:
    """An ESP32 image: a boot loader with one segment, the stock partition table, and `program_bytes` of program."""
    loader = _image(0x3FFF0000, b"boot loader here".ljust(1024, b"\0"))
    table = encode(STOCK)
    program = _image(0x3FFF0000, bytes(i * 7 & 255 for i in range(program_bytes)))
    head = loader.ljust(TABLE_ADDRESS - ADDRESS, b"\xff") + table
    return head.ljust(0x10000 - ADDRESS, b"\xff") + program


def _image(load_address: int, segment: bytes) -> bytes:
    """ESP-IDF's "App Image Format": header, extended header, one segment, checksum, SHA-256."""
    head = struct.pack("<BBBBI", 0xE9, 1, 2, 0x20, 0x40080000)
    extended = struct.pack("<B3sHBHHIB", 0xEE, bytes(3), 0, 0, 0, 0xFFFF, 0, 1)
    data = head + extended + struct.pack("<II", load_address, len(segment)) + segment
    checksum = 0xEF
    for byte in segment:
        checksum ^= byte
    data = data.ljust(len(data) // 16 * 16 + 15, b"\0") + bytes([checksum])
    return data + hashlib.sha256(data).digest()
