"""A real MariaDB for tests and benches: on loopback, in a folder of its own, and gone when its context ends."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql

from pile_hil.broker import free_port
from pile_shared.errors import LinkError

_START_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 20
_PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/bin"


def find_mariadb() -> str | None:
    """The path of the server program, None if it is not installed."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path=_PLACES)


class MariaDb:
    """One server on 127.0.0.1. `with MariaDb(folder) as server:` starts and stops it; port and data stay over restarts."""

    def __init__(self, folder: Path) -> None:
        """Make its data folder; nothing runs yet.

        Raises:
            LinkError: `missing`, MariaDB is not installed; `start`, its data folder cannot be made.
        """
        program = find_mariadb()
        install = shutil.which("mariadb-install-db") or shutil.which("mariadb-install-db", path=_PLACES)
        if program is None or install is None:
            raise LinkError("MariaDB is not installed (apt install mariadb-server)", "missing")
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self.port = free_port()
        temporary = folder / "tmp"  # servers that share one remove each other's tables: they name them by process alone
        temporary.mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, "TMPDIR": str(temporary)}
        options = ["--no-defaults", "--user=root", f"--datadir={folder / 'data'}", "--skip-test-db"]
        command = [install, *options, "--auth-root-authentication-method=normal"]
        made = subprocess.run(  # noqa: S603 - the server's own program
            command, capture_output=True, timeout=_START_TIMEOUT_S, check=False, env=self._environment
        )
        if made.returncode:
            raise LinkError(f"mariadb-install-db fails:\n{made.stdout.decode()[-1000:]}{made.stderr.decode()}", "start")

    def url(self, database: str) -> str:
        """What coordinator.toml calls this database."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """An empty database; its URL."""
        with self._connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE {database}")
        return self.url(database)

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self._folder / "mariadb.log").read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until connections are accepted.

        Raises:
            LinkError: `start`, with the log, if it ends or takes longer than 30 s.
        """
        self._sockets = tempfile.TemporaryDirectory()  # a socket's path is short, and the folder's may be long
        options = [
            "--no-defaults",
            "--user=root",
            f"--datadir={self._folder / 'data'}",
            f"--socket={self._sockets.name}/s",
            f"--pid-file={self._sockets.name}/pid",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-buffer-pool-size=64M",
            "--skip-name-resolve",
        ]
        with (self._folder / "mariadb.log").open("ab") as log:
            command = [self._program, *options]
            self._process = subprocess.Popen(  # noqa: S603 - the server's own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self.kill()
                raise LinkError(f"mariadbd does not start:\n{self.log[-2000:]}", "start")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it the polite way; a second call does nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what is not on disk is lost."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _connect(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(host="127.0.0.1", port=self.port, user="root", connect_timeout=2, autocommit=True)

    def _accepts(self) -> bool:
        try:
            self._connect().close()
        except pymysql.err.MySQLError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._sockets is not None:
            self._sockets.cleanup()
            self._sockets = None
