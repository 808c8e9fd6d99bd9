"""A disk of its own for a process: a real ext4 on a loop device, so that faults of disks are the kernel's own.

A power cut is ext4's shutdown, as file system developers test with it: what was not synced is gone, names as well as
content, the process finds errors from then on, and the next mount recovers from the journal as after any power cut.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path
from typing import Self

from pile_hil.faults import FaultError

_SHUTDOWN = 0x8004_587D  # EXT4_IOC_SHUTDOWN, linux/ext4.h
_NOLOGFLUSH = 2  # lose the journal's unwritten part too
_COMMIT_S = 300  # else ext4 syncs everything every 5 s, and a cut would lose little
_UNMOUNT_S = 30  # a process that was killed may still be ending
_PIECE_BYTES = 1 << 16
MIN_MIB = 8


class Disk:
    """A small file system, mounted on `path`. Use as a context manager; needs root."""

    def __init__(self, path: Path, size_mib: int = 16) -> None:
        """Plan it.

        Args:
            path: where it is mounted, a folder that is empty or not there; the image is beside it.
            size_mib: at least 8, of which ext4 keeps some 2 for itself.
        """
        self.path = path
        self._image = path.with_name(f"{path.name}.ext4")
        self._size_bytes = max(size_mib, MIN_MIB) << 20
        self._ballast = path / "ballast"
        self._is_mounted = False

    def __enter__(self) -> Self:
        """Make and mount it.

        Raises:
            FaultError: this user may not, or mkfs.ext4 is missing.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        try:
            _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
            self._mount()
        except FaultError:
            self._image.unlink()
            raise
        (self.path / "lost+found").rmdir()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount it and leave its files where it was; what runs on it should have ended."""
        if self._is_mounted:
            self.restore()  # it may be cut or broken down
            self.free()
            kept = self.path.with_name(f"{self.path.name}.kept")
            shutil.copytree(self.path, kept)
            self._unmount()
            self.path.rmdir()
            kept.rename(self.path)
        self._image.unlink(missing_ok=True)

    # --- faults

    def cut(self) -> None:
        """The power is gone: kill what runs on the disk now, then `restore`."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(handle)

    def restore(self) -> None:
        """Mount it again after `cut` or `break_down`; nothing may run on it.

        Raises:
            FaultError: something still does.
        """
        self._unmount()
        self._mount()

    def fill(self, left_bytes: int = 0) -> None:
        """Leave so much room and no more; whole blocks of 1 or 4 kB."""
        self.free()
        space = os.statvfs(self.path)
        room = space.f_bavail * space.f_frsize - left_bytes
        handle = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            while (
                room > 0 or not left_bytes
            ):  # the file's own tree takes some too, so to leave nothing ask until refused
                room -= os.write(handle, bytes(_PIECE_BYTES if room > _PIECE_BYTES else space.f_frsize))
            os.fsync(handle)
        except OSError:
            pass  # full, as asked
        finally:
            os.close(handle)

    def free(self) -> None:
        """Take away what `fill` put there."""
        with contextlib.suppress(OSError):  # it is read-only now
            self._ballast.unlink(missing_ok=True)

    def break_down(self) -> None:
        """The kernel finds an error in it and lets nobody write any more (errors=remount-ro): for a dying SD card."""
        device = _run("findmnt", "-no", "SOURCE", str(self.path)).strip()
        try:
            (Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error").write_text("a disk of a rig")
        except OSError as error:
            raise FaultError(f"{device}: {error.strerror}; does this kernel let ext4 fail?") from error

    # --- mounting

    def _mount(self) -> None:
        options = f"loop,commit={_COMMIT_S},errors=remount-ro"
        _run("mount", "-t", "ext4", "-o", options, str(self._image), str(self.path))
        self._is_mounted = True

    def _unmount(self) -> None:
        deadline = time.monotonic() + _UNMOUNT_S
        while True:
            try:
                _run("umount", str(self.path))
                break
            except FaultError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._is_mounted = False


def has_disks(folder: Path) -> bool:
    """Whether this user on this machine may make them; tried in `folder`."""
    with contextlib.suppress(FaultError, OSError), Disk(folder / "try", MIN_MIB):
        return True
    return False


def _run(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - util-linux
    except OSError as error:
        raise FaultError(f"{words[0]}: {error.strerror}; install it, and run as root") from error
    if done.returncode:
        raise FaultError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
