"""esptool and mpremote, run as they are; their failures, said so that somebody with a cable in hand knows what to check."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from pile_shared.errors import PilechainError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pile_edge.board.partitions import Firmware

_WRITE_SECONDS = 600  # 2 MB at 115200 baud take four minutes
_CONSOLE_SECONDS = 120  # 90 kB at 115200 baud take twenty seconds
# For a sign of the prompt. mpremote itself gives up after 10, but not on a board that misses the Ctrl-C and talks on.
_PROMPT_SECONDS = 20
_RETRY_SECONDS = 0.5
_KEPT_CHARACTERS = 1500  # of a tool's output in a message
_BY_HAND = "hold BOOT while you press RESET, then try again with --manual-boot"
_NO_PORT = "there is no such port: is the cable in, and does it carry data? `mpremote connect list`"
_ADVICE = (
    ("permission denied", "you may not use this port: sudo usermod -aG dialout $USER, then log in again"),
    ("no such file", _NO_PORT),
    ("could not open port", "the port cannot be opened: is it the right one, and does no other program use it?"),
    ("failed to access", _NO_PORT + "; or another program has it: close serial monitors"),  # mpremote says no more
    ("no serial data received", "the chip is silent: another cable (many only charge), or " + _BY_HAND),
    ("wrong boot mode", "the chip runs its program instead of the boot loader: " + _BY_HAND),
    ("failed to connect", "the chip does not answer; check cable and port, and " + _BY_HAND),
    ("wrong --chip", "this firmware is for another chip: take the one for your board"),
    ("this chip is", "this firmware is for another chip: take the one for your board"),
    ("invalid head of packet", "noise on the line: a shorter cable, or --baud 115200"),
    ("md5", "what was written reads back wrong: --baud 115200, another cable; if it stays so, the flash is worn"),
    ("could not enter raw repl", "no MicroPython prompt: press RESET; if it stays so, flash with --firmware again"),
    ("timeout", "the board stopped answering: another cable, or --baud 115200; press RESET and try again"),
)  # fmt: skip


class ToolError(PilechainError):
    """A tool failed: `missing`, `esptool` or `mpremote`; the message ends with what to check."""

    code = "tool"


def write_firmware(
    firmware: Firmware,
    path: Path,
    port: str,
    *,
    baud: int,
    manual_boot: bool,
    erase: bool,
    on_percent: Callable[[int], None],
) -> None:
    """Write an image with esptool, which reads its MD5 back from the chip.

    Args:
        firmware: What is in `path`.
        path: The prepared image.
        port: Serial port, or a URL pyserial knows.
        baud: While writing.
        manual_boot: The chip is in its boot loader already, nothing resets it, and no stub is loaded.
        erase: Everything first, the pile's key and journal too.
        on_percent: Told how far it is, 0 to 100.

    Raises:
        ToolError: `missing` or `esptool`.
    """
    resets = ["--no-stub", "--before", "no-reset", "--after", "no-reset"] if manual_boot else ["--after", "hard-reset"]
    command = ["--chip", firmware.chip, "--port", port, "--baud", str(baud), *resets, "write-flash"]
    command += (["--erase-all"] if erase else []) + [hex(firmware.address), str(path)]

    def on_line(line: str) -> None:
        if found := re.search(r"(\d+)(?:\.\d+)?\s?%", line):
            on_percent(min(int(found[1]), 100))

    _run("esptool", command, _WRITE_SECONDS, on_line)


class Console:
    """A board's MicroPython prompt, through mpremote."""

    def __init__(self, port: str) -> None:
        """`port` is where the board's console is."""
        self.port = port

    def run(self, code: str) -> str:
        """Run code on the board; what it printed. ToolError if it raised or the board does not answer."""
        return self._remote("exec", code)

    def wait_for_prompt(self, seconds: float) -> None:
        """Until the board answers: after a restart it may format its file system first, or somebody has to press RESET.

        Raises:
            ToolError: it did not in time; or `missing`.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._remote("exec", "pass", seconds=_PROMPT_SECONDS)
                return
            except ToolError as error:
                if error.code == "missing" or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def ask(self, code: str) -> object:
        """Like `run`; the JSON in the last line."""
        lines = self.run(code).split("\n")
        try:
            return json.loads(next(line for line in reversed(lines) if line.strip()))
        except (StopIteration, json.JSONDecodeError) as error:
            text = " ".join(lines)[-_KEPT_CHARACTERS:]
            raise ToolError(f"the board answers strangely: {text!r}; press RESET and try again", "mpremote") from error

    def copy(self, source: Path, name: str) -> None:
        """Copy a file into the board's file system."""
        self._remote("fs", "cp", str(source), f":{name}")

    def copy_back(self, name: str, target: Path) -> None:
        """Copy a file of the board's file system here."""
        self._remote("fs", "cp", f":{name}", str(target))

    def reset(self) -> None:
        """Restart the board, as its RESET button does."""
        self._remote("reset")

    def _remote(self, *words: str, seconds: int = _CONSOLE_SECONDS) -> str:
        # resume: without a soft reset, so that nothing of the board's own starts in between
        return _run("mpremote", ["connect", self.port, "resume", *words], seconds)


def _run(tool: str, arguments: list[str], seconds: int, on_line: Callable[[str], None] = lambda _: None) -> str:
    """Run a Python tool as a process of its own; its output."""
    if importlib.util.find_spec(tool) is None:
        raise ToolError(f"{tool} is not installed: pip install 'pilechain[flash]'", "missing")
    command = [sys.executable, "-m", tool, *arguments]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    assert process.stdout is not None
    output, line = bytearray(), bytearray()
    try:
        while data := process.stdout.read(256):
            output += data
            for byte in data:  # progress bars end with a carriage return
                if byte in b"\r\n":
                    on_line(line.decode(errors="replace"))
                    line.clear()
                else:
                    line.append(byte)
        code = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        is_late = not timer.is_alive()
        timer.cancel()
        process.stdout.close()
    text = output.decode(errors="replace")
    if code != 0:
        raise ToolError(_told(tool, f"timeout after {seconds} s\n{text}" if is_late else text), tool)
    return text


def _told(tool: str, text: str) -> str:
    """A failure's last words, and the advice that fits them."""
    low = text.lower()
    advice = next((say for sign, say in _ADVICE if sign in low), "check cable, port and power, press RESET, try again")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return f"{tool}: {' / '.join(lines[-3:])[-_KEPT_CHARACTERS:]}\n  check: {advice}"
