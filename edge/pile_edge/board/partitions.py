"""The partition table in an ESP32 firmware image, and room in it for two slots of software.

The firmware that MicroPython offers for download has no partition `romfs`; it looks for one by that name. So the end of the
partition `vfs` becomes one. Format: Espressif, ESP-IDF programming guide, "Partition Tables" (32 bytes each: 0xAA 0x50,
type, subtype, offset, size, label, flags; then 0xEB 0xEB, fourteen 0xFF and the MD5 of what stands before). CPython only.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from pile_shared.errors import ConfigError

TABLE_ADDRESS = 0x8000  # where ESP-IDF's boot loader looks
TABLE_BYTES = 0xC00
ROMFS_BYTES = 256 * 1024  # two slots of 128 kB: an image may have 90 kB by its own limit
DATA, ROMFS_SUBTYPE = 1, 0x8F  # the subtype MicroPython's own board definitions give it
_ENTRY = struct.Struct("<2sBBII16sI")
_MAGIC, _MD5_MAGIC = b"\xaa\x50", b"\xeb\xeb" + 14 * b"\xff"
# ESP image header: magic 0xE9; byte 12: chip id (esp_chip_id_t). The ROM's boot address differs by chip.
_IMAGE_MAGIC = 0xE9
CHIPS = {
    0: ("esp32", 0x1000),
    2: ("esp32s2", 0x1000),
    5: ("esp32c3", 0),
    9: ("esp32s3", 0),
    12: ("esp32c2", 0),
    13: ("esp32c6", 0),
    16: ("esp32h2", 0),
    18: ("esp32p4", 0x2000),
}


@dataclass(frozen=True)
class Partition:
    """One row; offset and size in bytes of flash."""

    kind: int
    subtype: int
    offset: int
    size: int
    label: str
    flags: int = 0


@dataclass(frozen=True)
class Firmware:
    """An image to write: for which chip, where, and its bytes with a table that has a partition `romfs`."""

    chip: str
    address: int
    data: bytes
    partitions: list[Partition]


def prepare_firmware(data: bytes, name: str) -> Firmware:
    """A firmware image with room for the slots; unchanged if it has that already.

    Args:
        data: A combined image: boot loader, partition table and program, as MicroPython offers it.
        name: For messages.

    Raises:
        ConfigError: `firmware`, it is no such image or has no room; the message says what to do.
    """
    if len(data) < 24 or data[0] != _IMAGE_MAGIC or data[12] not in CHIPS:
        raise ConfigError(
            f"{name} is no firmware image for an ESP32: take the .bin from micropython.org/download for your board",
            "firmware",
        )
    chip, address = CHIPS[data[12]]
    start = TABLE_ADDRESS - address
    if data[start : start + 2] != _MAGIC:
        raise ConfigError(
            f"{name} has no partition table: take the full firmware (.bin), not the update (.app-bin)", "firmware"
        )
    partitions = parse(data[start : start + TABLE_BYTES], name)
    table = encode(with_romfs(partitions, name))
    patched = data[:start] + table + data[start + len(table) :]
    return Firmware(chip, address, patched, with_romfs(partitions, name))


def parse(table: bytes, name: str) -> list[Partition]:
    """The rows of a table; ConfigError `firmware` if its MD5 is wrong."""
    rows = []
    for start in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        row = table[start : start + _ENTRY.size]
        if row.startswith(_MD5_MAGIC) and row[16:] != hashlib.md5(table[:start], usedforsecurity=False).digest():
            raise ConfigError(f"{name}: its partition table is damaged; download it again", "firmware")
        if not row.startswith(_MAGIC):
            break
        _, kind, subtype, offset, size, label, flags = _ENTRY.unpack(row)
        rows.append(Partition(kind, subtype, offset, size, label.rstrip(b"\0").decode("ascii", "replace"), flags))
    return rows


def with_romfs(rows: list[Partition], name: str) -> list[Partition]:
    """The rows with `romfs`, taken from the end of `vfs` if it is not there or too small for two slots."""
    found = {row.label: row for row in rows}
    if "romfs" in found and found["romfs"].size >= ROMFS_BYTES:
        return rows
    vfs = found.get("vfs")
    if "romfs" in found or vfs is None or vfs.size < 4 * ROMFS_BYTES:
        raise ConfigError(
            f"{name}: no room for the software in its flash layout; take the firmware for 4 MB of flash or more",
            "firmware",
        )
    left = Partition(vfs.kind, vfs.subtype, vfs.offset, vfs.size - ROMFS_BYTES, vfs.label, vfs.flags)
    romfs = Partition(DATA, ROMFS_SUBTYPE, left.offset + left.size, ROMFS_BYTES, "romfs")
    return [row for each in rows for row in ((left, romfs) if each is vfs else (each,))]


def encode(rows: list[Partition]) -> bytes:
    """The table's bytes, filled up with 0xFF."""
    data = b"".join(
        _ENTRY.pack(_MAGIC, row.kind, row.subtype, row.offset, row.size, row.label.encode(), row.flags) for row in rows
    )
    return (data + _MD5_MAGIC + hashlib.md5(data, usedforsecurity=False).digest()).ljust(TABLE_BYTES, b"\xff")
