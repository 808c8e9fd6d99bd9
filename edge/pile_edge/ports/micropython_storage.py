"""The journal's files on MicroPython's littlefs (VfsLfs2).

A littlefs file changes for good at flush or close, all of it or nothing (copy on write), and rename replaces its
target in one step; there is nothing to sync but what `os.sync` (ESP32) offers. Files are closed at once: an open one
left to the garbage collector prints "heap is locked" and blocks the file. Runs on CPython too, without its
durability; only tests do that.
"""

import os

_TMP = ".tmp"
_COPY_BYTES = 256


class Storage:
    """One folder of journal files. Every method raises OSError when the file system fails."""

    def __init__(self, folder: str) -> None:
        """Create the folder if needed and remove what an interrupted `replace` left."""
        self._folder = folder
        try:
            os.stat(folder)
        except OSError:
            os.mkdir(folder)
        for name in self.names():
            if name.endswith(_TMP):
                self.remove(name)

    def names(self) -> list[str]:
        """All file names, in no order."""
        return os.listdir(self._folder)

    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        return os.stat(self._path(name))[6]

    def open(self, name: str):  # type: ignore[no-untyped-def] # noqa: ANN201 - MicroPython has no io types to name
        """A reader with seek(offset) and read(size_bytes), to be used in a `with`."""
        return open(self._path(name), "rb")

    def append(self, name: str, data: bytes) -> None:
        """Add `data` to the end of a file, created if need be; durable on return."""
        self._write(name, "ab", data)

    def replace(self, name: str, data: bytes) -> None:
        """Give a file a new content, all of it or (after a power cut) all of the old one; durable on return."""
        self._write(name + _TMP, "wb", data)
        os.rename(self._path(name + _TMP), self._path(name))
        self._sync()

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file to `size_bytes` (0: remove it, if it exists). MicroPython files cannot shrink: it is copied."""
        if size_bytes == 0:
            if name in self.names():
                self.remove(name)
            return
        if self.size(name) == size_bytes:
            return
        with open(self._path(name), "rb") as source, open(self._path(name + _TMP), "wb") as target:
            while size_bytes:
                piece = source.read(min(size_bytes, _COPY_BYTES))
                target.write(piece)
                size_bytes -= len(piece)
            target.flush()
        os.rename(self._path(name + _TMP), self._path(name))
        self._sync()

    def remove(self, name: str) -> None:
        """Delete a file; durable on return."""
        os.remove(self._path(name))
        self._sync()

    def _path(self, name: str) -> str:
        return self._folder + "/" + name

    def _write(self, name: str, mode: str, data: bytes) -> None:
        with open(self._path(name), mode) as file:
            file.write(data)
            file.flush()
        self._sync()

    def _sync(self) -> None:
        if hasattr(os, "sync"):
            os.sync()
