"""A running process whose disk is slow or fails: strace attaches and does it to its system calls, until it lets go."""

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from pile_hil.faults import FaultError

SYNCS = "fsync,fdatasync"
_ATTACH_S = 10
_TRACER = re.compile(r"^TracerPid:\s*([1-9]\d*)", re.MULTILINE)


class Injected:
    """A fault in the system calls of a process, all its threads and what it starts. Use as a context manager."""

    def __init__(self, pid: int, inject: str, log: Path, *, only: Path | None = None) -> None:
        """Plan it.

        Args:
            pid: of the process.
            inject: as `strace -e inject=` takes it.
            log: where strace says what it did.
            only: the system calls on this file alone.
        """
        self._pid, self._log = pid, log
        where = ["-P", str(only)] if only is not None else []
        calls = inject.split(":", 1)[0]
        self._command = ["strace", "-f", "-qq", "-o", str(log), *where]
        self._command += ["-e", f"trace={calls}", "-e", f"inject={inject}", "-p", str(pid)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Attach, and return once the fault has begun.

        Raises:
            FaultError: strace is missing, or may not.
        """
        if shutil.which("strace") is None:
            raise FaultError("strace is missing (apt install strace)")
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603
        deadline = time.monotonic() + _ATTACH_S
        while not self._is_attached():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._end()
                raise FaultError(f"strace does not attach to {self._pid}: {said}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; the process goes on, if it still runs."""
        if self._process is not None:
            self._end()

    def count(self) -> int:
        """How many system calls it was done to so far."""
        said = self._log.read_text(errors="replace") if self._log.exists() else ""
        return said.count("(DELAYED)") + said.count("(INJECTED)")

    def _is_attached(self) -> bool:
        try:
            tasks = Path(f"/proc/{self._pid}/task").iterdir()
            return all(_TRACER.search((task / "status").read_text()) for task in tasks)
        except OSError:
            return False

    def _end(self) -> str:
        process, self._process = self._process, None
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it detaches
        try:
            return process.communicate(timeout=_ATTACH_S)[1].decode().strip()
        except subprocess.TimeoutExpired:
            process.kill()
            return process.communicate()[1].decode().strip()


def slow_sync(pid: int, delay_ms: int, log: Path) -> Injected:
    """A disk that takes so long for every fsync."""
    return Injected(pid, f"{SYNCS}:delay_enter={delay_ms * 1000}", log)


def failing_sync(pid: int, log: Path, *, which: str = "1+") -> Injected:
    """A disk that answers fsync with EIO; `which` as strace's `when=`, from the first on if not told."""
    return Injected(pid, f"{SYNCS}:error=EIO:when={which}", log)
