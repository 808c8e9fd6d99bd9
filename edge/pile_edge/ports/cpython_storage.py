"""The journal's files on CPython (Linux): every change is fsynced, and the folder after its names changed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from pile_shared.errors import JournalError

_TMP = ".tmp"


@contextmanager
def only_user(folder: str) -> Iterator[None]:
    """Within it no other process has the journal in `folder`, which is created if needed; it ends with its process too.

    Raises:
        JournalError: `in_use`: another agent has it. Two would sign different proofs of the same number.
    """
    os.makedirs(folder, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"another agent uses the journal {folder}; stop that one first", "in_use") from None
        yield
    finally:
        os.close(fd)


class _Reader:
    """A file opened for reading; the few methods the journal uses of MicroPython's files."""

    def __init__(self, fs, path: str) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - the os module or its stand-in
        self._fs = fs
        self._fd: int = fs.open(path, os.O_RDONLY)
        self._offset = 0

    def seek(self, offset: int) -> None:
        """Continue at `offset` bytes from the start."""
        self._offset = offset

    def read(self, size_bytes: int) -> bytes:
        """At most `size_bytes`, fewer only at the end of the file."""
        data: bytes = self._fs.pread(self._fd, size_bytes, self._offset)
        self._offset += len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fs.close(self._fd)


class Storage:
    """One folder of journal files. Every method raises OSError when the file system fails."""

    def __init__(self, folder: str, fs=os) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        """Create the folder if needed and remove what an interrupted `replace` left.

        Args:
            folder: Used by one journal only.
            fs: The os module; tests pass a stand-in that loses what was not fsynced.
        """
        self._folder = folder
        self._fs = fs
        fs.makedirs(folder, exist_ok=True)
        for name in self.names():
            if name.endswith(_TMP):
                self.remove(name)

    def names(self) -> list[str]:
        """All file names, in no order."""
        return list(self._fs.listdir(self._folder))

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        return int(self._fs.stat(self._path(name)).st_size)

    def open(self, name: str) -> _Reader:
        """A reader with seek(offset) and read(size_bytes), to be used in a `with`."""
        return _Reader(self._fs, self._path(name))

    def append(self, name: str, data: bytes) -> None:
        """Add `data` to the end of a file, created if need be; durable on return."""
        is_new = name not in self.names()
        self._write(name, os.O_APPEND, data)
        if is_new:
            self._sync_folder()

    def replace(self, name: str, data: bytes) -> None:
        """Give a file a new content, all of it or (after a power cut) all of the old one; durable on return."""
        self._write(name + _TMP, os.O_TRUNC, data)
        self._fs.replace(self._path(name + _TMP), self._path(name))
        self._sync_folder()

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file to `size_bytes` (0: remove it, if it exists); what stays is durable on return."""
        if size_bytes == 0:
            if name in self.names():
                self.remove(name)
            return
        fd = self._fs.open(self._path(name), os.O_WRONLY)
        try:
            self._fs.ftruncate(fd, size_bytes)
            self._fs.fsync(fd)
        finally:
            self._fs.close(fd)
        self._sync_folder()

    def remove(self, name: str) -> None:
        """Delete a file; durable on return."""
        self._fs.unlink(self._path(name))
        self._sync_folder()

    def _path(self, name: str) -> str:
        return self._folder + "/" + name

    def _write(self, name: str, flag: int, data: bytes) -> None:
        fd = self._fs.open(self._path(name), os.O_WRONLY | os.O_CREAT | flag, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[self._fs.write(fd, view) :]
            self._fs.fsync(fd)
        finally:
            self._fs.close(fd)

    def _sync_folder(self) -> None:
        fd = self._fs.open(self._folder, os.O_RDONLY)
        try:
            self._fs.fsync(fd)
        finally:
            self._fs.close(fd)
