"""One process at a time for a folder: two coordinators on one ledger, or two supervisors of one node, would spoil it."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from pile_shared.errors import ConfigError


class OnlyOne:
    """A lock that ends with `close` or with its process, however that comes."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the file at `path`, which holds the process id; ConfigError if another process has it."""
        try:
            self._file = path.open("ab+", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; may this user write there?") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read(20).decode().strip() or "?"
            self._file.close()
            raise ConfigError(f"{path.parent} is in use by process {holder}; stop that one first") from error
        with contextlib.suppress(OSError):  # a full disk: it is ours all the same
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
