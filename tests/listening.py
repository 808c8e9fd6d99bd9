"""At which addresses a process and its children take TCP connections, as Linux knows it (/proc)."""

import socket
import struct
from pathlib import Path

_LISTEN = "0A"


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of every listening socket of a process and all its descendants."""
    owned = {inode for member in family(pid) for inode in sockets(member)}
    rows = [
        row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    return {place(row[1]) for row in rows if row[3] == _LISTEN and row[9] in owned}


def family(pid: int) -> list[int]:
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def sockets(pid: int) -> set[str]:
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def place(text: str) -> tuple[str, int]:
    """Words of four bytes in the machine's order, then the port."""
    address, _, port = text.partition(":")
    raw = bytes.fromhex(address)
    words = b"".join(struct.pack(">I", word) for (word,) in struct.iter_unpack("=I", raw))
    kind = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    return socket.inet_ntop(kind, words), int(port, 16)
