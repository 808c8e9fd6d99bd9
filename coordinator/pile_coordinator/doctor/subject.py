"""What the doctor looks at: a site's configuration, as far as it can be read, and what its mosquitto.conf says."""

from dataclasses import dataclass, field
from pathlib import Path

from pile_coordinator.config import CoordinatorConfig
from pile_coordinator.web.config import WebConfig
from pile_shared.errors import ConfigError

MAX_CONF_BYTES = 1 << 20
BROKER_CONFIG = Path("broker", "mosquitto.conf")
_OF_A_LISTENER = {"cafile", "certfile", "keyfile", "crlfile", "require_certificate", "allow_anonymous", "acl_file"}


@dataclass(frozen=True, slots=True)
class Listener:
    """Where mosquitto listens: `address` is "" for everywhere."""

    port: int
    address: str = ""
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mosquitto:
    """What a mosquitto.conf says (mosquitto.conf(5)): the last word where a setting stands twice."""

    path: Path
    settings: dict[str, str]
    listeners: list[Listener]

    def values(self, name: str) -> list[str]:
        """A setting, of the whole broker or of its listeners."""
        found = [listener.settings[name] for listener in self.listeners if name in listener.settings]
        return [self.settings[name], *found] if name in self.settings else found


@dataclass(frozen=True, slots=True)
class Subject:
    """A site.

    Attributes:
        site: its folder. config, web: of its programs. mosquitto: what its broker is told, None where the broker is another's.
        authority: the folder of its certificate authority, None where none is on this machine.
        backups: where its backups are, None: unknown. days: for how long there must be room on the disk.
    """

    site: Path
    config: CoordinatorConfig
    web: WebConfig | None
    mosquitto: Mosquitto | None
    authority: Path | None
    backups: Path | None
    days: int

    @property
    def ledger(self) -> Path:
        """The ledger file."""
        return self.config.data / "ledger.sqlite"


def read_mosquitto(path: Path) -> Mosquitto:
    """A mosquitto.conf; ConfigError if it cannot be read. Files it includes are not looked at: ours includes none."""
    try:
        text = path.read_bytes()[:MAX_CONF_BYTES].decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run this as root: sudo pilechain doctor ...") from error
    settings: dict[str, str] = {}
    listeners: list[Listener] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if not name or name.startswith("#"):
            continue
        if name == "listener":
            port, _, address = value.partition(" ")
            listeners.append(Listener(int(port) if port.isdecimal() else 0, address.strip()))
        elif listeners and name in _OF_A_LISTENER:
            listeners[-1].settings[name] = value
        else:
            settings[name] = value
    return Mosquitto(path, settings, listeners)
