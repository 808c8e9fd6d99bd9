"""A pile on a board with MicroPython, over its serial console: flashed as an electrician would, read and reset."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attr
import serial  # type: ignore[import-untyped]
from labgrid import target_factory
from labgrid.driver import Driver
from labgrid.resource import RawSerialPort, Resource

from pile_edge.board.tools import Console
from pile_hil.lab.bench import bench_of
from pile_hil.lab.protocols import PileProtocol, RigError

FLASH_S = 900  # at 115200 baud, on a board that formats its flash first
PROMPT_S = BOOT_S = 90
PROMPT_WAIT_S, AGENT_WAIT_S = 3, 20  # then keys are sent again
_RUNS = ": running"  # of the line in which an agent begins
# What an earlier trial left: its journal is another chain's.
_FORGET = """
import os
def forget(path):
    if os.stat(path)[0] & 0x4000:
        for name in os.listdir(path):
            forget(path + "/" + name)
        os.rmdir(path)
    else:
        os.remove(path)
for name in os.listdir():
    if name == "journal" or name.endswith(".key"):
        forget(name)
"""


@target_factory.reg_resource
@attr.s(eq=False)
class MicroPythonBoard(Resource):
    """A board behind a RawSerialPort that runs MicroPython 1.25 or newer.

    Attributes:
        wifi_ssid: the wireless network it joins; "" for none. wifi_password_file: its password, alone in a file
            that is named relative to the rig's.
    """

    wifi_ssid: str = attr.ib(default="", validator=attr.validators.instance_of(str))
    wifi_password_file: str = attr.ib(default="", validator=attr.validators.instance_of(str))


class SerialLog:
    """Hears a console for as long as it is open and there."""

    def __init__(self, port: str, speed: int) -> None:
        """Open the port; nobody else may use it until `close`.

        Raises:
            SerialException: it is not there.
        """
        self.text = ""
        self._port = serial.Serial(port, speed, timeout=0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    @property
    def hears(self) -> bool:
        """Whether the port is still there; one on the board itself goes with its power."""
        return self._thread.is_alive()

    def type(self, keys: bytes) -> None:
        """Send keys."""
        self._port.write(keys)

    def close(self) -> None:
        """Give the port back."""
        self._stop.set()
        self._thread.join()
        self._port.close()

    def _run(self) -> None:
        with suppress(serial.SerialException):
            while not self._stop.is_set():
                self.text += self._port.read(4096).decode(errors="replace").replace("\r", "")


@target_factory.reg_driver
@attr.s(eq=False)
class BoardPileDriver(Driver, PileProtocol):
    """The agent on a board. Between `start` and `stop` its console is heard, else the prompt is asked."""

    bindings = {"port": RawSerialPort, "board": MicroPythonBoard}
    interpreter = "micropython"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._heard = ""
        self._ear: SerialLog | None = None
        self._is_asleep = True  # nothing runs that would say what it does

    @Driver.check_active
    def prepare(self) -> bytes:
        """Forget earlier trials, put software and configuration on it, and let it make its key."""
        self._quiet()
        site, name = bench_of(self).opened(), self.target.name
        config = site.folder / f"{name}.toml"
        config.write_text(site.pile_config(name))
        console = Console(self.port.port)
        console.wait_for_prompt(PROMPT_S)
        console.run(_FORGET)
        words = ["flash", "--port", self.port.port, "--config", str(config), "--wait", "0", "--json"]
        if self.board.wifi_ssid:
            password_file = self.target.env.config.resolve_path(self.board.wifi_password_file)
            words += ["--wifi-ssid", self.board.wifi_ssid, "--wifi-password-file", password_file]
        command = [sys.executable, "-m", "pile_edge.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FLASH_S)  # noqa: S603
        if done.returncode:
            raise RigError(f"{name} could not be flashed: {done.stdout}{done.stderr}")
        self._hear()  # it has just been restarted, and takes a while to its first word
        self._is_asleep = False
        return bytes.fromhex(json.loads(done.stdout)["public"])

    @Driver.check_active
    def start(self) -> None:
        """Hear what the board says; restart it, unless its agent runs, from `prepare` or because the power came."""
        self._hear()
        if self._is_asleep:
            self._restart()

    @Driver.check_active
    def stop(self) -> None:
        """Interrupt the agent; the prompt stays."""
        self._quiet()
        Console(self.port.port).wait_for_prompt(PROMPT_S)
        self._is_asleep = True

    @Driver.check_active
    def kill(self) -> None:
        """Restart the board: its agent ends and comes back, as after a crash."""
        self._hear()
        self._restart()

    def running(self) -> bool:
        """Whether the agent was heard to begin and not to stop."""
        begun = self.log().rpartition(_RUNS)
        return bool(begun[1]) and "stopped while" not in begun[2]

    def log(self) -> str:
        """All that was heard from the console."""
        return self._heard + (self._ear.text if self._ear else "")

    @Driver.check_active
    def fetch_journal(self, folder: Path) -> None:
        """Copy its journal."""
        folder.mkdir(parents=True)
        console = Console(self.port.port)
        names = console.ask("import json, os\nprint(json.dumps(os.listdir('journal')))")
        if not isinstance(names, list):
            raise RigError(f"{self.target.name} says {names!r} of its journal")
        for name in names:
            console.copy_back(f"journal/{name}", folder / name)

    def on_deactivate(self) -> None:
        """Give the console back."""
        self._quiet()

    def _hear(self) -> None:
        """Open the console, once the port is there."""
        if self._ear is not None and self._ear.hears:
            return
        self._quiet()
        deadline = time.monotonic() + BOOT_S
        while self._ear is None:
            try:
                self._ear = SerialLog(self.port.port, self.port.speed)
            except serial.SerialException as error:
                if time.monotonic() > deadline:
                    raise RigError(f"{self.target.name}: {error}; is the cable in, and the power on?") from error
                time.sleep(0.2)

    def _quiet(self) -> None:
        if self._ear is not None:
            self._ear.close()
            self._heard += self._ear.text
            self._ear = None

    def _restart(self) -> None:
        """Interrupt what runs and restart the board by its own prompt, so that not a word of its agent goes unheard."""
        assert self._ear is not None
        seen, deadline = len(self._ear.text), time.monotonic() + PROMPT_S
        while _RUNS not in self._ear.text[seen:]:
            if time.monotonic() > deadline:
                raise RigError(f"{self.target.name} does not start its agent; it says: {self._ear.text[-1000:]}")
            self._ear.type(b"\r\x03\x03")
            _until(lambda text: text.rstrip().endswith(">>>"), self._ear, PROMPT_WAIT_S)
            self._ear.type(b"import machine; machine.reset()\r")
            _until(lambda text: _RUNS in text[seen:], self._ear, AGENT_WAIT_S)
        self._is_asleep = False


def _until(condition: Callable[[str], bool], ear: SerialLog, seconds: float) -> None:
    """Return when what was heard is so, or after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition(ear.text) and time.monotonic() < deadline:
        time.sleep(0.05)
