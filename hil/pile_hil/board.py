"""A board on this machine: MicroPython with flash that lasts, a console on a pty, and power that comes and goes.

    with SimBoard(folder) as board:
        subprocess.run(["mpremote", "connect", board.console, "resume", "exec", "print(1)"])

What an ESP32 has and MicroPython's unix build lacks (the flash partition, reset, a timer) is in `board_hardware`; all else
that runs on it is what runs on a board, from the same files. `python -m pile_hil.board FLASH HEAP RATE` is the board itself,
in the folder that is its file system: it ends when it is reset, and SimBoard starts it again.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pile_edge.board.partitions import ROMFS_BYTES
from pile_shared.platform import sha256

if TYPE_CHECKING:
    from pile_edge.board.software import Software

HEAP = "112k"  # 64 kB for the agent; compiling main.py and standing in for the hardware take the rest of it, on 64 bits
_READ_BYTES = 4096
_STOP_SECONDS = 10


class SimBoard:
    """One board. `files` is its file system, `flash` its partition `romfs`, `console` the port a cable would give."""

    def __init__(self, folder: Path, *, heap: str = HEAP, timer_rate: int = 1) -> None:
        """Make an empty board, or take the one that is in `folder`; it has no power yet.

        Args:
            folder: For what lasts.
            heap: As MicroPython's `-X heapsize=` takes it.
            timer_rate: How much too fast its hardware timer runs, so that a test need not wait.
        """
        self.files = folder / "files"
        self.flash = folder / "flash.bin"
        self._heap = heap
        self._timer_rate = timer_rate
        self.files.mkdir(parents=True, exist_ok=True)
        if not self.flash.exists():
            self.flash.write_bytes(b"\xff" * ROMFS_BYTES)
        self.starts = 0
        self._log = bytearray()
        self._changed = threading.Condition()
        self._off = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def text(self) -> str:
        """All that the board has printed."""
        with self._changed:
            return self._log.decode(errors="replace")

    def wait(self, words: str, seconds: float = 30, start: int = 0) -> None:
        """Until `words` stand in its output, after the first `start` characters of it.

        Raises:
            TimeoutError: with the output.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: words in self._log.decode(errors="replace")[start:], seconds):
                raise TimeoutError(f"waited for {words!r}:\n{self._log.decode(errors='replace')[-3000:]}")

    def __enter__(self) -> Self:
        self._outer, self._outer_end = pty.openpty()
        self._inner, self._inner_end = pty.openpty()
        for end in (self._outer_end, self._inner_end):
            tty.setraw(end)
        self._modes = termios.tcgetattr(self._inner_end)
        self._modes[3] |= termios.ISIG  # so that Ctrl-C reaches a running program, as it does over a cable
        self.console = os.ttyname(self._outer_end)
        self._threads = [
            threading.Thread(target=self._carry, daemon=True),
            threading.Thread(target=self._power, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._off.set()
        self.cut_power()
        for thread in self._threads:
            thread.join(_STOP_SECONDS)
        for end in (self._outer, self._outer_end, self._inner, self._inner_end):
            os.close(end)

    def install(self, software: Software, files: dict[str, Path]) -> None:
        """Put on it what `pile-edge flash` does, without a cable; before it has power."""
        for name, source in files.items():
            (self.files / name).write_bytes(source.read_bytes())
        flash = bytearray(self.flash.read_bytes())
        flash[: len(software.image)] = software.image
        self.flash.write_bytes(flash)
        entry = [software.version, len(software.image), sha256(software.image).hex()]
        state = {"active": 0, "floor": 0, "failed": 0, "trial": None, "slots": [entry, None]}
        (self.files / "slots.json").write_text(json.dumps(state))

    def state(self) -> dict[str, Any]:
        """Its `slots.json`."""
        found: dict[str, Any] = json.loads((self.files / "slots.json").read_text())
        return found

    def cut_power(self) -> None:
        """For a moment: it starts again at once."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _power(self) -> None:
        command = [sys.executable, "-m", "pile_hil.board", str(self.flash), self._heap, str(self._timer_rate)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}
        while not self._off.is_set():
            # MicroPython's prompt changes them, and does not get to change them back when power goes.
            termios.tcsetattr(self._inner_end, termios.TCSANOW, self._modes)
            self._process = subprocess.Popen(  # noqa: S603 - this module
                command,
                cwd=self.files,
                env=environment,
                stdin=self._inner_end,
                stdout=self._inner_end,
                stderr=self._inner_end,
                start_new_session=True,
                preexec_fn=_take_terminal,  # noqa: PLW1509 - one system call
            )
            self.starts += 1
            if self._off.is_set():
                self._process.kill()
            self._process.wait()

    def _carry(self) -> None:
        """Bytes between the cable's end and the board's, and what the board says into the log."""
        ways = {self._outer: self._inner, self._inner: self._outer}
        while not self._off.is_set():
            for source in select.select(list(ways), [], [], 0.1)[0]:
                data = os.read(source, _READ_BYTES)
                if source == self._inner:
                    with self._changed:
                        self._log += data
                        self._changed.notify_all()
                    if not self._is_attached():
                        continue
                os.write(ways[source], data)

    def _is_attached(self) -> bool:
        """Whether there is room towards the cable: nobody may be reading there, and a board does not wait for it."""
        pending = fcntl.ioctl(self._outer_end, termios.FIONREAD, bytes(4))
        return int.from_bytes(pending, sys.byteorder) < _READ_BYTES // 2


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def main(arguments: list[str]) -> int:
    """Be a board: map the flash, so that what is written there lasts, and run MicroPython until it is reset."""
    from micropython_run import run_main  # type: ignore[import-not-found] # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # MicroPython takes Ctrl-C itself
    with Path(arguments[0]).open("r+b") as file:
        flash = mmap.mmap(file.fileno(), 0)
    address = ctypes.addressof(ctypes.c_char.from_buffer(flash))
    boot = Path(__file__).with_name("board_hardware.py")
    command = [
        "micropython",
        "-X",
        f"heapsize={arguments[1]}",
        "-i",
        str(boot),
        str(address),
        str(len(flash)),
        arguments[2],
    ]
    code: int = run_main(command)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
