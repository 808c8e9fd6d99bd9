"""An accounting node as one command: the application and CometBFT as two processes, started together and kept up.

CometBFT ends when the application does, since it may not go on without it; so the application comes first, and whichever
ended is started again. It means to end by itself, and now and then hangs instead (0.38.25 and 0.39.4, abci/client): a
request that its consensus makes just after the connection broke is never answered, its stop waits for its consensus, and
after that only SIGKILL ends it. So it is given a moment and no more. Neither outlives the supervisor.

A CometBFT that makes no block for minutes is started again too. Mostly the others are away, and then it costs nothing. But
it dials lost peers ever more rarely, after hours away once in hours, then never again (p2p/switch.go, reconnectToPeer; the
limit in its configuration is that of peer exchange alone), and after a panic in its consensus it goes on without one.
"""

import ctypes
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
from pile_coordinator.engines.comet.rpc import Rpc
from pile_coordinator.only_one import OnlyOne
from pile_shared.errors import ConfigError, LinkError

VERSION = "0.39.4"
SERIES = ("0.38", "0.39")  # both speak ABCI 2.0 over a socket; others do not, or were retracted
_END_S = 3.0  # CometBFT takes 0.3 s on a busy machine; a kill costs it nothing that it had promised
_STOP_S = 15  # CometBFT closes its databases, the application ends the block in hand
RESTART_S = (0.2, 1.0, 5.0, 15.0)  # waits before the first, second, ... start after an end; a good run begins anew
_GOOD_RUN_S = 60.0
_STAND_S = 300.0  # an idle chain makes a block every 5 s; until then lost peers are dialled every 81 s or more often
_ASK_S = 10.0
_ASK_TIMEOUT_S = 1.0  # nothing else is looked after meanwhile
_POLL_S = 0.05
_NEVER = float("inf")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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


def _killed_with_parent() -> Callable[[], None] | None:
    """What a new process must do first to be killed when its parent ends, however that comes; None where that is not Linux.

    Linux means the thread that started it, so a supervisor starts everything from the thread that stays.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: after the fork as little as possible is done

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it had ended before we asked

    return ask


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

    def __init__(
        self,
        name: str,
        command: list[str],
        log: Callable[[str], None],
        folder: Path | None = None,
        *,
        watches_us: bool = False,
    ) -> None:
        """Remember how to start it, and in which folder (default: ours); unless it `watches_us`, it is killed when we end."""
        self.name = name
        self._folder = folder
        self._command = command
        self._log = log
        self._first = None if watches_us else _killed_with_parent()
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._kill_at_s = _NEVER
        self._started_s = self._start_at_s = 0.0

    def start(self) -> None:
        """Start it, in a process group of its own: Ctrl-C is the supervisor's to handle."""
        self._started_s, self._kill_at_s = time.monotonic(), _NEVER
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                self._command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self._folder,
                preexec_fn=self._first,  # noqa: PLW1509 - the supervisor has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:  # the program is being replaced, or no memory is left
            self._failed(f"could not be started: {error}")

    @property
    def pid(self) -> int:
        """Of the process; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    def is_up(self) -> bool:
        """Whether it runs. If it has ended, say so once and note when to start it again."""
        if self._process is None or (status := self._process.poll()) is None:
            self._kill_if_late()
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

    def expect_end(self, within_s: float = _END_S) -> None:
        """It should end by itself now; if it has not in a moment, `is_up` kills it."""
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + within_s)

    def end(self) -> None:
        """SIGTERM, and SIGKILL by `is_up` if that is not enough; then it is started again."""
        if self._process is not None:
            self._process.terminate()
            self.expect_end(_STOP_S)

    def _kill_if_late(self) -> None:
        if self._process is not None and time.monotonic() >= self._kill_at_s:
            self._log(f"{self.name} did not end in time; killed")
            self._process.kill()
            self._kill_at_s = _NEVER

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


class Progress:
    """Whether CometBFT makes blocks, as its RPC has it, in one run of it."""

    def __init__(self, address: str) -> None:
        """Ask the node at `address`; as long as it replays, or waits for a snapshot, it is left alone."""
        self._rpc = Rpc(address, _ASK_TIMEOUT_S)
        self._height, self._moved_s, self._ask_at_s = 0, _NEVER, 0.0

    def stands(self) -> bool:
        """Whether it has made no block for minutes, or has not said so, though it had one."""
        now_s = time.monotonic()
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + _ASK_S
            if (height := self._newest()) > self._height:
                self._height, self._moved_s = height, now_s
        return now_s - self._moved_s >= _STAND_S

    def _newest(self) -> int:
        """The height of its last block; 0 if it does not answer."""
        try:
            return int(self._rpc.call("status")["sync_info"]["latest_block_height"])
        except (LinkError, KeyError, TypeError, ValueError):
            return 0  # it is busy or away, or something else listens there
        finally:
            self._rpc.close()


class Supervisor:
    """Keeps application and node up until `stop`."""

    def __init__(self, config: Path, home: Home, log: Callable[[str], None], program: str | None = None) -> None:
        """Supervise the node of a coordinator's configuration file, with `program` as CometBFT (default: found)."""
        program = str(Path(program or find_cometbft()).absolute())
        check_version(program)
        words = [sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(config), "--engine", "comet"]
        self._home = home
        self._log = log
        self.app = Child("application", [*words, "--without-node", "--parent", str(os.getpid())], log, watches_us=True)
        folder = home.path.resolve()  # to which a relative path in its configuration belongs
        self.node = Child("CometBFT", [program, "start", "--home", str(folder)], log, folder)
        self._progress: Progress | None = None
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
        is_node_up = self.node.is_up()
        if not self.app.is_up():
            self.node.expect_end()
            if self.app.is_due():
                self.app.start()
        elif is_node_up:
            self._look_after_node()
        elif self.node.is_due() and self._app_listens():
            self._progress = Progress(self._home.rpc_address())
            self.node.start()

    def _look_after_node(self) -> None:
        if self._progress is not None and self._progress.stands():
            self._log(f"CometBFT has made no block for {_STAND_S:g} s; started again, to dial the other nodes anew")
            self._progress = None
            self.node.end()

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
