"""An accounting node as one command: the application and CometBFT as two processes, started together and kept up.

CometBFT ends when the application does, since it may not go on without it; so the application comes first, and whichever
ended is started again. Neither outlives the supervisor: the application watches for it, and CometBFT for the application.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pile_coordinator.engines.comet.home import Home
from pile_coordinator.only_one import OnlyOne
from pile_shared.errors import ConfigError

VERSION = "0.39.4"
SERIES = ("0.38", "0.39")  # both speak ABCI 2.0 over a socket; others do not, or were retracted
_STOP_S = 15  # CometBFT closes its databases, the application ends the block in hand
RESTART_S = (0.2, 1.0, 5.0, 15.0)  # waits before the first, second, ... start after an end; a good run begins anew
_GOOD_RUN_S = 60.0
_POLL_S = 0.05


def find_cometbft() -> str:
    """The `cometbft` program: on PATH, or where `go install` puts it; ConfigError with how to get it."""
    go_bin = Path(os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")
    found = shutil.which("cometbft") or shutil.which(str(go_bin / "cometbft"))
    if found is None:
        raise ConfigError(
            "no cometbft on PATH; get it with Go 1.25 or later:"
            f" go install github.com/cometbft/cometbft/cmd/cometbft@v{VERSION}"
        )
    return found


def check_version(program: str) -> None:
    """ConfigError if this CometBFT does not speak our ABCI, or is no CometBFT."""
    try:
        done = subprocess.run([program, "version"], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - the operator's
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} does not say its version: {error}") from error
    found = done.stdout.strip()
    if ".".join(found.split(".")[:2]) not in SERIES:
        raise ConfigError(f"{program} is version {found or '?'} of CometBFT; expected {VERSION}, see docs/network.md")


class Child:
    """One of the two processes: running, or waiting to be started again."""

    def __init__(self, name: str, command: list[str], log: Callable[[str], None], folder: Path | None = None) -> None:
        """Remember how to start it, and in which folder (default: ours)."""
        self.name = name
        self._folder = folder
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_s = self._start_at_s = 0.0

    def start(self) -> None:
        """Start it, in a process group of its own: Ctrl-C is the supervisor's to handle."""
        self._started_s = time.monotonic()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                self._command, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self._folder
            )
        except OSError as error:  # the program is just being replaced, or this machine has no memory left
            self._failed(f"could not be started: {error}")

    @property
    def pid(self) -> int:
        """Of the process; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    def is_up(self) -> bool:
        """Whether it runs. If it has ended, say so once and note when to start it again."""
        if self._process is None or (status := self._process.poll()) is None:
            return self._process is not None
        self._failed("ended " + (f"by signal {-status}" if status < 0 else f"with status {status}"))
        return False

    def _failed(self, how: str) -> None:
        """Say so, and note when to start it again."""
        now_s = time.monotonic()
        self._failures = 0 if now_s - self._started_s >= _GOOD_RUN_S else self._failures
        wait_s = RESTART_S[min(self._failures, len(RESTART_S) - 1)]
        self._failures += 1
        self._log(f"{self.name} {how}; started again in {wait_s:g} s")
        self._process, self._start_at_s = None, now_s + wait_s

    def is_due(self) -> bool:
        """Whether it is time to start it."""
        return self._process is None and time.monotonic() >= self._start_at_s

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._log(f"{self.name} does not stop; killed")
            self._process.kill()
            self._process.wait()
        self._process = None


class Supervisor:
    """Keeps application and node up until `stop`."""

    def __init__(self, config: Path, home: Home, log: Callable[[str], None], program: str | None = None) -> None:
        """Supervise the node of a coordinator's configuration file, with `program` as CometBFT (default: found)."""
        program = str(Path(program or find_cometbft()).absolute())
        check_version(program)
        words = [sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(config), "--engine", "comet"]
        self._home = home
        self._log = log
        self.app = Child("application", [*words, "--without-node", "--parent", str(os.getpid())], log)
        folder = home.path.resolve()  # to which a relative path in its configuration belongs
        self.node = Child("CometBFT", [program, "start", "--home", str(folder)], log, folder)
        self._is_stopping = False

    def run(self) -> None:
        """Serve until `stop`, then end the node and then the application; ConfigError if another one keeps it up."""
        with OnlyOne(self._home.path / "supervisor.lock"):
            self._run()

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._tend()
                time.sleep(_POLL_S)
        finally:
            self.node.stop()
            self.app.stop()

    def stop(self) -> None:
        """End `run`. A signal may call this at any moment, so it takes no lock: `run` could be holding it."""
        self._is_stopping = True

    def _tend(self) -> None:
        if not self.app.is_up():
            if self.app.is_due():
                self.app.start()
        elif not self.node.is_up() and self.node.is_due() and self._app_listens():
            self.node.start()

    def _app_listens(self) -> bool:
        """Whether CometBFT would be heard now; it would wait for seconds between its own attempts."""
        kind, _, where = self._home.app_address().partition("://")
        try:
            if kind == "unix":
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(where)
            else:
                host, _, port = where.rpartition(":")
                socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True


def on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on Ctrl-C and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop())
