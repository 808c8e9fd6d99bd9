"""The site's mosquitto: its configuration, and how it is told that somebody came or went."""

import contextlib
import datetime as dt
import os
import pwd
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_coordinator.mqtt import Broker
from pile_shared.errors import LinkError

PORT = 8883
PID_FILE = "mosquitto.pid"
MAX_MESSAGE_BYTES = 4_000_000  # an order certificate of a week has about 2 MB
MAX_INFLIGHT = 2000  # messages of QoS 1 on the way to one client: a coordinator takes thousands a second
MAX_QUEUED = 100_000  # messages kept for one client that is away: a coordinator's hour of 5,000 piles
MAX_QUEUED_BYTES = 64 << 20  # of them
MEMORY_BYTES = 1 << 30  # in all: a client that makes sessions without end is refused, and takes no machine down
FORGET_AFTER = "14d"  # a session that nobody came back to
KICK_S = 10.0  # for one connection to be made in another's name


def configuration(folder: Path, listen: str, port: int) -> str:
    """mosquitto.conf of a broker whose files are in `folder`, for mosquitto 2.0.

    There is one listener, and no `per_listener_settings`: with them mosquitto refuses what it kept over a restart to
    clients that have not come back yet.
    """
    account = pwd.getpwuid(os.getuid()).pw_name
    return f"""\
# Made by `pilechain init site` and never changed by it again. Certificates, access list and CRL are read again on SIGHUP.
user {account}
pid_file {folder}/{PID_FILE}
log_dest stderr
log_type error
log_type warning
log_type notice
log_timestamp_format %Y-%m-%dT%H:%M:%S

listener {port} {listen}
cafile {folder}/ca.crt
crlfile {folder}/ca.crl
certfile {folder}/server.crt
keyfile {folder}/server.key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/acl

# What is kept for clients that are away survives a restart, and a crash up to the last minute; piles send the rest again.
persistence true
persistence_location {folder}/kept/
autosave_interval 60
persistent_client_expiration {FORGET_AFTER}

message_size_limit {MAX_MESSAGE_BYTES}
max_inflight_messages {MAX_INFLIGHT}
max_queued_messages {MAX_QUEUED}
max_queued_bytes {MAX_QUEUED_BYTES}
memory_limit {MEMORY_BYTES}
set_tcp_nodelay true
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of telling the broker: whether it was, and else what to do."""

    done: bool
    advice: str


def started(folder: Path) -> dt.datetime | None:
    """When the broker of a folder was started last (UTC); None if it was stopped, or never started.

    Its file with the process id says so, also where that process is one of a container, or was killed.
    """
    try:
        return dt.datetime.fromtimestamp((folder / PID_FILE).stat().st_mtime, dt.UTC)
    except OSError:
        return None


def tell(folder: Path) -> Told:
    """Have the broker of a folder read its files again."""
    try:
        pid = int((folder / PID_FILE).read_text())
        is_broker = "mosquitto" in Path(f"/proc/{pid}/comm").read_text()
    except (OSError, ValueError):
        is_broker = False
    if not is_broker:
        return Told(
            False,
            "no broker runs here: one that starts now reads everything anew, one in a container has to be told (SIGHUP)",
        )
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError:
        return Told(False, f"tell the broker to read its files again: sudo kill -HUP {pid}")
    return Told(True, "the broker reads its files again")


def kick(broker: Broker, client_id: str) -> None:
    """End the connection of this client id, and what is kept for it; LinkError if the broker is away or refuses.

    mosquitto looks at its CRL when a connection is made. One that stands ends when another takes its name.
    """
    assert broker.tls is not None
    answered: list[object] = []
    arrived = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True, protocol=paho.MQTTv311)
    client.tls_set_context(broker.tls.context())

    def connected(_client: paho.Client, _data: object, _flags: object, reason: object, _more: object) -> None:
        answered.append(reason)
        arrived.set()

    client.on_connect = connected
    try:
        client.connect(broker.host, broker.port)
    except OSError as error:
        raise LinkError(f"no connection to the broker {broker.host}:{broker.port}: {error}", "connect") from error
    client.loop_start()
    is_there = arrived.wait(KICK_S) and not getattr(answered[0], "is_failure", True)
    with contextlib.suppress(OSError):
        client.disconnect()
    client.loop_stop()
    if not is_there:
        raise LinkError(f"the broker {broker.host}:{broker.port} did not take the connection: {answered}", "refused")
