"""A real mosquitto for tests and rigs: on loopback, in a folder of its own, and gone when its context ends."""

import datetime as dt
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pile_shared.errors import LinkError

_START_TIMEOUT_S = 10
_STOP_TIMEOUT_S = 5


def find_mosquitto() -> str | None:
    """The path of the mosquitto program, None if it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")


def free_port() -> int:
    """A loopback TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def is_open(host: str, port: int) -> bool:
    """Whether somebody takes TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def make_certificates(folder: Path) -> dict[str, Path]:
    """A test CA, a broker certificate for `localhost` and a client certificate `pile`, valid for a day.

    Args:
        folder: Where the files go; created.

    Returns:
        Paths by name: "ca.pem", "broker.pem", "broker-key.pem", "pile.pem", "pile-key.pem", and the same as ".der".
    """
    folder.mkdir(parents=True)
    now = dt.datetime.now(dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test ca")])
    files = {}
    for name in ("ca", "broker", "pile"):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        subject = ca_name if name == "ca" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        for suffix, encoding in (("pem", serialization.Encoding.PEM), ("der", serialization.Encoding.DER)):
            key_bytes = key.private_bytes(
                encoding, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
            for stem, content in ((name, certificate.public_bytes(encoding)), (f"{name}-key", key_bytes)):
                files[f"{stem}.{suffix}"] = folder / f"{stem}.{suffix}"
                files[f"{stem}.{suffix}"].write_bytes(content)
    return files


class Mosquitto:
    """One broker on 127.0.0.1. `with Mosquitto(folder) as broker:` starts and stops it; the port stays over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        persistence: bool = False,
        tls: dict[str, Path] | None = None,
        inside_port: int | None = None,
        host: str = "127.0.0.1",
        extra_config: tuple[str, ...] = (),
        quiet: bool = False,
    ) -> None:
        """Write the configuration; nothing runs yet.

        Args:
            folder: For configuration, log and database; created if needed.
            port: TCP port; None takes a free one.
            persistence: Keep sessions and their messages over `kill()`, too: written after every change.
            tls: PEM files "ca", "cert" and "key"; clients must then show a certificate of that ca.
            inside_port: Another TCP port, without TLS, as a broker offers it to what runs beside it.
            host: The address of this machine at which it listens.
            extra_config: Further lines for mosquitto.conf.
            quiet: Log no more than mosquitto does by default, not every packet.

        Raises:
            LinkError: `missing`, mosquitto is not installed.
        """
        program = find_mosquitto()
        if program is None:
            raise LinkError("mosquitto is not installed (apt install mosquitto)", "missing")
        self._program = program
        self._folder = folder
        self._tls = tls
        self._persistence = persistence
        self._inside_port = inside_port
        self._host = host
        self._extra = extra_config
        self._quiet = quiet
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def spec(self) -> dict[str, object]:
        """The link spec of a client on this machine; without TLS files, which differ by client."""
        return {"host": "localhost" if self._tls else self._host, "port": self.port, "keepalive_s": 60}

    @property
    def pid(self) -> int:
        """Of the program that was started last; 0 while none runs."""
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> str:
        """What mosquitto has logged so far."""
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until connections are accepted.

        Raises:
            LinkError: `start`, with the log, if it ends or takes longer than 10 s.
        """
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join(self._config_lines()) + "\n")
        with (self._folder / "mosquitto.log").open("ab") as log:
            command = [self._program, "-c", str(config), *([] if self._quiet else ["-v"])]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self.kill()
                raise LinkError(f"mosquitto does not start:\n{self.log[-2000:]}", "start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it the polite way (it saves its sessions if persistent); a second call does nothing."""
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

    def _config_lines(self) -> list[str]:
        lines = ["allow_anonymous true", "user root"]
        if self._inside_port is not None:
            lines.append(f"listener {self._inside_port} 127.0.0.1")  # first: open when the other one is
        lines.append(f"listener {self.port} {self._host}")
        if self._persistence:
            lines += [
                "persistence true",
                f"persistence_location {self._folder}/",
                "autosave_on_changes true",
                "autosave_interval 1",
            ]
        if self._tls:
            lines += [f"cafile {self._tls['ca']}", f"certfile {self._tls['cert']}", f"keyfile {self._tls['key']}"]
            lines += ["require_certificate true", "use_identity_as_username true"]
        return [*lines, *self._extra]

    def _accepts(self) -> bool:
        return is_open(self._host, self.port)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
