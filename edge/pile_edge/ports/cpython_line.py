"""Whose turn it is on a serial line, and how long it has been silent: for every process on this machine. Linux only.

A garage has one RS-485 line with the meters of several piles, and an agent for each; beside them somebody reads or scans.
They share a file per line, which lies in memory (`FOLDER`), in two ways. Locks on single bytes of it (open file
description locks, fcntl(2)) say who waits and who has the line; the kernel frees them when their process dies. What is
written in it says when the line was last used and how long it must then be left silent, by whom, and with what settings:

    since_ns u64, quiet_ms u32, pid u32, settings 16 bytes; then for each of SLOTS that may wait, since when, ns, u64

Times are of the monotonic clock, which all processes share. The line goes to who has waited longest, so nobody starves.
"""

import fcntl
import os
import struct
import time
from contextlib import suppress

from pile_shared.errors import BusError

FOLDER = (
    "/run/lock"  # hier(7), FHS 3.0 section 5.9 says /var/lock, which is this; for others PILE_EDGE_LOCKS says where
)
SLOTS = 32  # that wait for one line at a time: as many units as RS-485 allows on it (TIA-485-A, 32 unit loads)
PATIENCE_S = 10.0  # to wait for one's turn: five silent meters ahead with a timeout and a settling time of 1 s each
LAST_TRY_S = 1.0  # patience of those who have just waited in vain: their three tries shall not take thirty seconds
POLL_S = 0.002  # between two looks while waiting; a short exchange at 9600 baud takes 20 ms
_STATE = struct.Struct("<QII16s")
_ARRIVAL = struct.Struct("<Q")
_SIZE_BYTES = _STATE.size + SLOTS * _ARRIVAL.size
_FLOCK = struct.Struct(
    "hhqqi0q"
)  # struct flock with 64-bit offsets, native alignment: type, whence, start, length, pid
_LINE = 0  # the byte whose lock is the line; those of the slots follow


class OwnLine:
    """A connection that nobody else hears: only the silence between two exchanges of this process has to be kept."""

    def __init__(self) -> None:
        self._since_ns = 0
        self._quiet_ms = 0

    def begin(self, gap_ms: int, worst_ms: int) -> bool:  # noqa: ARG002 - as SharedLine
        """Wait until the line was silent for `gap_ms`, and as long as was asked for at the last `end`. Always False."""
        _wait_for_silence(self._since_ns, max(gap_ms, self._quiet_ms))
        return False

    def end(self, quiet_ms: int) -> None:
        """The exchange is over; before the next there must be `quiet_ms` of silence at least."""
        self._since_ns, self._quiet_ms = time.monotonic_ns(), quiet_ms

    def close(self) -> None:
        """Nothing to give back."""


class SharedLine:
    """A serial device that other processes use too, each in its turn."""

    def __init__(self, device: str, settings: str) -> None:
        """Join those who use `device`, with `settings` of at most 16 characters, such as "9600N1".

        Raises:
            BusError: `closed`: there is no such device, or its lock cannot be had.
        """
        self._device = device
        self._settings = settings.encode().ljust(16, b"\0")
        self._is_turned_away = False
        self._slot = 0
        try:
            self._file = _open_lock(os.path.realpath(device))
        except OSError as error:
            raise BusError(f"cannot open {device}: {error.filename}: {error.strerror}", "closed") from error

    def begin(self, gap_ms: int, worst_ms: int) -> bool:
        """Wait for the turn of this process, and for silence as in `OwnLine.begin`.

        Args:
            gap_ms: Of silence that the unit needs which is asked now.
            worst_ms: How long from now an answer may come: others wait so long if this process dies before `end`.

        Returns:
            Whether somebody with other settings used the line since: the device has to be set again.

        Raises:
            BusError: `busy`: others kept the line for PATIENCE_S.
        """
        self._take_turn()
        since_ns, quiet_ms, _, settings = _STATE.unpack(os.pread(self._file, _STATE.size, 0))
        _wait_for_silence(since_ns, max(gap_ms, quiet_ms))
        self._note(worst_ms, os.getpid())
        return bool(settings != self._settings)

    def end(self, quiet_ms: int) -> None:
        """The exchange is over: `quiet_ms` of silence, then it is the turn of who has waited longest."""
        self._note(quiet_ms, 0)
        self._unlock(_LINE)
        self._leave_queue()

    def close(self) -> None:
        """Give the lock's file back."""
        os.close(self._file)

    def _note(self, quiet_ms: int, pid: int) -> None:
        os.pwrite(self._file, _STATE.pack(time.monotonic_ns(), quiet_ms, pid, self._settings), 0)

    def _take_turn(self) -> None:
        patience_s = LAST_TRY_S if self._is_turned_away else PATIENCE_S
        arrival_ns = self._join_queue()
        deadline_ns = arrival_ns + int(patience_s * 1e9)
        while not (self._is_first(arrival_ns) and self._try_lock(_LINE)):
            if time.monotonic_ns() >= deadline_ns:
                self._leave_queue()
                self._is_turned_away = True
                pid = _STATE.unpack(os.pread(self._file, _STATE.size, 0))[2]
                raise BusError(f"{self._device} was in use for {patience_s:g} s, now by process {pid}", "busy")
            time.sleep(POLL_S)
        self._is_turned_away = False

    def _join_queue(self) -> int:
        """Claim a slot; since when this process waits."""
        for slot in range(SLOTS):
            if self._try_lock(1 + slot):
                self._slot = slot
                arrival_ns = time.monotonic_ns()
                os.pwrite(self._file, _ARRIVAL.pack(arrival_ns), _place(slot))
                return arrival_ns
        raise BusError(f"{self._device}: {SLOTS} others wait for it already", "busy")

    def _leave_queue(self) -> None:
        os.pwrite(self._file, bytes(_ARRIVAL.size), _place(self._slot))
        self._unlock(1 + self._slot)

    def _is_first(self, arrival_ns: int) -> bool:
        """Whether nobody who lives has waited longer."""
        table = os.pread(self._file, SLOTS * _ARRIVAL.size, _place(0))
        # Who waits for longer than anybody would is stopped in its tracks (Ctrl-Z): it does not keep its place.
        oldest_ns = time.monotonic_ns() - int(1.5 * PATIENCE_S * 1e9)
        for slot, (other_ns,) in enumerate(_ARRIVAL.iter_unpack(table)):
            is_before = oldest_ns < other_ns and (other_ns, slot) < (arrival_ns, self._slot)
            if is_before and slot != self._slot and self._is_locked(1 + slot):
                return False
        return True

    def _try_lock(self, byte: int) -> bool:
        try:
            self._fcntl(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, byte)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, POSIX leaves it open
            return False
        return True

    def _unlock(self, byte: int) -> None:
        self._fcntl(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, byte)

    def _is_locked(self, byte: int) -> bool:
        """Whether another has a byte."""
        answer = self._fcntl(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _fcntl(self, command: int, kind: int, byte: int) -> bytes:
        return fcntl.fcntl(self._file, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))


def lock_path(device: str) -> str:
    """The file that the users of a device share. Its owner is in the name: a pseudo-terminal's name has had others."""
    folder = os.environ.get("PILE_EDGE_LOCKS", FOLDER)
    real = os.path.realpath(device)
    return f"{folder}/pile-edge-{os.stat(real).st_uid}{real.replace('/', '-')}"


def _open_lock(device: str) -> int:
    """Open the file, made if needed; who may use the device may use its lock."""
    path = lock_path(device)
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    made = f"{path}.{os.getpid()}"
    file = os.open(made, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        status = os.stat(device)
        with suppress(PermissionError):  # a group that this user is not in
            os.fchown(file, -1, status.st_gid)
        os.fchmod(file, status.st_mode & 0o666)
        os.ftruncate(file, _SIZE_BYTES)
        with suppress(FileExistsError):  # another was faster; theirs it is then
            os.link(made, path)
    finally:
        os.close(file)
        os.unlink(made)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def _place(slot: int) -> int:
    return _STATE.size + slot * _ARRIVAL.size


def _wait_for_silence(since_ns: int, quiet_ms: int) -> None:
    """Wait until `quiet_ms` have passed since; never longer than that, should the clock have begun anew."""
    rest_s = min(since_ns / 1e9 + quiet_ms / 1000 - time.monotonic(), quiet_ms / 1000)
    if since_ns and rest_s > 0:
        time.sleep(rest_s)
