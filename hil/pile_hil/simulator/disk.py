"""A pile's disk: the part of `os` that the journal's storage uses, in memory, which a power cut leaves as POSIX allows.

Content is safe after an fsync of its file, names after one of their folder. What is not safe when the power goes may be there
afterwards, or not, or in part, or as zeros, each file and each name for itself, in any order.
"""

import errno
import os
import random
from dataclasses import dataclass
from types import SimpleNamespace


class PowerCutError(BaseException):
    """The power goes, in the middle of a change to the disk. No Exception: nothing in the agent may catch it."""


@dataclass(slots=True)
class _Inode:
    now: bytes = b""
    safe: bytes = b""


class Disk:
    """One folder's file system.

    Attributes:
        cut_in: after how many more changes the power goes; None for never. full: whether no byte more can be written.
    """

    def __init__(self, chance: random.Random) -> None:
        """Begin empty; `chance` decides what a power cut leaves."""
        self.cut_in: int | None = None
        self.full = False
        self._chance = chance
        self._now: dict[str, _Inode] = {}
        self._safe: dict[str, _Inode] = {}
        self._open: dict[int, _Inode | None] = {}
        self._next_fd = 3

    # --- as `os` ---------------------------------------------------------------------------------------------------

    def makedirs(self, path: str, exist_ok: bool) -> None:
        """The folder is always there."""

    def listdir(self, folder: str) -> list[str]:
        """Names in it."""
        return [path.removeprefix(folder + "/") for path in self._now]

    def stat(self, path: str) -> SimpleNamespace:
        """Its size."""
        return SimpleNamespace(st_size=len(self._inode(path).now))

    def open(self, path: str, flags: int, _mode: int = 0o777) -> int:
        """A file, or the folder."""
        inode = self._now.get(path)
        if inode is None and flags & os.O_CREAT:
            self._change()
            inode = self._now[path] = _Inode()
        if inode is not None and flags & os.O_TRUNC:
            inode.now = b""
        self._next_fd += 1
        self._open[self._next_fd] = inode
        return self._next_fd

    def close(self, fd: int) -> None:
        """Forget a descriptor."""
        del self._open[fd]

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """As os.pread."""
        return self._file(fd).now[offset : offset + size]

    def write(self, fd: int, data: memoryview) -> int:
        """All of it, or the first half when the power goes."""
        inode = self._file(fd)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        try:
            self._change()
        except PowerCutError:
            inode.now += bytes(data[: len(data) // 2])
            raise
        inode.now += bytes(data)
        return len(data)

    def fsync(self, fd: int) -> None:
        """Make a file's content safe, or the folder's names."""
        self._change()
        inode = self._open[fd]
        if inode is None:
            self._safe = dict(self._now)
        else:
            inode.safe = inode.now

    def ftruncate(self, fd: int, size: int) -> None:
        """As os.ftruncate."""
        self._change()
        inode = self._file(fd)
        inode.now = inode.now[:size]

    def replace(self, source: str, target: str) -> None:
        """As os.replace."""
        self._change()
        self._now[target] = self._now.pop(source)

    def unlink(self, path: str) -> None:
        """As os.unlink."""
        self._change()
        del self._now[path]

    # --- the power -------------------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """What is on the disk at the next boot."""
        after: dict[str, _Inode] = {}
        for path in sorted(self._now.keys() | self._safe.keys()):
            found = self._chance.choice((self._now, self._safe)).get(path)
            if found is not None:
                content = self._content(found)
                after[path] = _Inode(content, content)
        self._now, self._safe = after, dict(after)
        self.drop_files()

    def drop_files(self) -> None:
        """The process that had files open is gone."""
        self._open.clear()
        self.cut_in = None

    def _content(self, inode: _Inode) -> bytes:
        if not inode.now.startswith(inode.safe):  # it was written anew, or cut
            return inode.safe
        extra = inode.now[len(inode.safe) :]
        kept = extra[: self._chance.randint(0, len(extra))]
        return inode.safe + self._chance.choice((b"", extra, kept, bytes(len(extra))))

    def _change(self) -> None:
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                raise PowerCutError

    def _file(self, fd: int) -> _Inode:
        inode = self._open[fd]
        if inode is None:
            raise OSError(errno.EISDIR, "Is a directory")
        return inode

    def _inode(self, path: str) -> _Inode:
        if path not in self._now:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return self._now[path]
