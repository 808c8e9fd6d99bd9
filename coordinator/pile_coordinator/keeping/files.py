"""Files that are there whole or not at all, whatever cuts the power."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, durably, in place of what was there; OSError, and nothing changed, if that fails."""
    partial = path.with_name(path.name + ".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_folder(path.parent)
