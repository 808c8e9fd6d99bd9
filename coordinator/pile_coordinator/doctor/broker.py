"""Checks of the broker and its certificates: who gets in, what they may say, for how long, and who listens where."""

import datetime as dt
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from pile_coordinator.doctor.finding import Finding, fail, ok, skip, warn
from pile_coordinator.doctor.subject import Subject
from pile_coordinator.mqtt import Broker
from pile_coordinator.site.authority import Authority, AuthorityError

ANSWER_S = 10.0
SOON_DAYS = 30
NEEDED_BYTES, SAFE_BYTES = 2_100_000, 16_000_000  # an order certificate of a week; beyond it only memory is attacked
NOBODYS_TOPIC = "pilechain-doctor"  # of no chain: an access list lets nobody say anything there
NOT_AUTHORISED = 0x87  # MQTT 5, section 3.4.2.1
MAX_FILES = 1000  # certificates looked at in a site's folders
_LISTEN = "0A"  # of a socket in proc_net_tcp


class Probe:
    """One short visit to the broker as MQTT 5, which says why it refuses. Its own client id: nobody is thrown out for it."""

    def __init__(self, broker: Broker) -> None:
        """Connect; `refused` is "" once connected, else why not."""
        self.refused = "no answer"
        self._ready = threading.Event()
        self._answered = threading.Event()
        self._reason = 0
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"doctor-{os.getpid()}-{id(self)}", protocol=paho.MQTTv5
        )
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            client.tls_set_context(broker.tls.context())
        client.on_connect = self._connected
        client.on_publish = self._published
        client.on_disconnect = self._gone
        self._client = client
        try:
            client.connect(broker.host, broker.port, broker.keepalive_s)
        except OSError as error:
            self.refused = str(error)
            return
        client.loop_start()
        self._ready.wait(ANSWER_S)

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self.refused = str(reason) if reason.is_failure else ""
        self._ready.set()

    def _gone(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if not self._ready.is_set():
            self.refused = str(reason)
            self._ready.set()

    def _published(self, _client: Any, _data: Any, _mid: Any, reason: Any, _properties: Any) -> None:
        self._reason = reason.value
        self._answered.set()

    def may_publish(self, topic: str) -> bool | None:
        """Whether a message of no bytes is taken on a topic; None without an answer."""
        self._answered.clear()
        self._client.publish(topic, b"", qos=1)
        return self._reason != NOT_AUTHORISED if self._answered.wait(ANSWER_S) else None

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


def broker(subject: Subject) -> Iterator[Finding]:
    """The broker: reachable as the coordinator reaches it, with TLS where others can listen in."""
    spec = subject.config.broker
    where = f"{spec.host}:{spec.port}"
    probe = Probe(spec)
    try:
        if probe.refused:
            yield fail(
                f"{where}: {probe.refused}",
                "systemctl status mosquitto; journalctl -u mosquitto; check [mqtt] of coordinator.toml",
            )
            return
    finally:
        probe.close()
    if spec.tls is None and not is_loopback(spec.host):
        yield fail(
            f"{where} without TLS: who is on the way reads and alters",
            "pilechain init site makes certificates (docs/site.md)",
        )
    elif spec.tls is None:
        yield ok(f"{where} answers, without TLS, on this machine only")
    else:
        yield from _server_certificate(spec, where)


def _server_certificate(spec: Broker, where: str) -> Iterator[Finding]:
    assert spec.tls is not None
    try:
        with (
            socket.create_connection((spec.host, spec.port), ANSWER_S) as raw,
            spec.tls.context().wrap_socket(raw, server_hostname=spec.host) as secured,
        ):
            shown, protocol = secured.getpeercert(), secured.version()
    except OSError as error:
        yield fail(
            f"{where}: {error}", "systemctl restart mosquitto; pilechain site list says which certificate has ended"
        )
        return
    until = dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str((shown or {})["notAfter"])), dt.UTC)
    yield _age(
        f"{where} answers, {protocol}; its certificate",
        until,
        "pilechain site broker renew",
    )


def certificates(subject: Subject) -> Iterator[Finding]:
    """Days left of every certificate of the site: those in files, and those that its authority issued and did not revoke."""
    now = dt.datetime.now(dt.UTC)
    until: dict[str, dt.datetime] = {}
    if subject.authority is not None:
        try:
            entries = Authority.open(subject.authority).issued()
        except AuthorityError as error:
            yield fail(str(error), "run the doctor as root, or bring the authority's folder back")
            return
        for entry in entries:
            if entry.revoked is None:
                until[entry.name] = max(until.get(entry.name, entry.until), entry.until)
    issued = subject.authority / "issued" if subject.authority else None
    for path in sorted(subject.site.rglob("*.crt"))[:MAX_FILES]:
        if path.parent == issued:
            continue
        try:
            until[str(path.relative_to(subject.site))] = x509.load_pem_x509_certificate(
                path.read_bytes()
            ).not_valid_after_utc
        except (OSError, ValueError) as error:
            yield fail(f"{path}: {error}", "make it again: pilechain site ... renew")
    ended = sorted(name for name, moment in until.items() if moment <= now)
    soon = sorted(name for name, moment in until.items() if now < moment <= now + dt.timedelta(days=SOON_DAYS))
    if ended:
        yield fail(
            f"{len(ended)} certificates have ended: {', '.join(ended[:5])}",
            "pilechain site list; pilechain site ... renew",
        )
    if soon:
        yield warn(
            f"{len(soon)} end within {SOON_DAYS} days: {', '.join(soon[:5])}",
            "pilechain site list; pilechain site ... renew",
        )
    if not until:
        yield skip("no certificates here")
    elif not ended and not soon:
        name = min(until, key=lambda key: until[key])
        yield ok(f"{len(until)} certificates; the first to end is {name}, in {(until[name] - now).days} days")


def revoked(subject: Subject) -> Iterator[Finding]:
    """The list of revoked certificates that the broker reads: there, of the site's authority, and not too old."""
    if subject.mosquitto is None or not subject.mosquitto.values("cafile"):
        yield skip("no mosquitto with certificates is configured here")
        return
    lists, authorities = subject.mosquitto.values("crlfile"), subject.mosquitto.values("cafile")
    if not lists:
        yield fail(
            "mosquitto reads no list of revoked certificates: who lost one stays in", "set crlfile in mosquitto.conf"
        )
        return
    path = Path(lists[-1])
    try:
        found = x509.load_pem_x509_crl(path.read_bytes())
        authority = x509.load_pem_x509_certificate(Path(authorities[-1]).read_bytes())
    except (OSError, ValueError) as error:
        yield fail(f"{path}: {error}", "bring it back from the authority's folder (ca.crl); without it nobody gets in")
        return
    public: Any = authority.public_key()
    if not found.is_signature_valid(public):
        yield fail(f"{path} is not of the authority in {authorities[-1]}", "copy ca.crl from the authority's folder")
        return
    following = found.next_update_utc
    if following is None:
        yield ok(f"{len(list(found))} revoked; the list does not end")
    else:
        yield _age(f"{len(list(found))} revoked; the list", following, "pilechain site apply writes it again")


def access(subject: Subject) -> Iterator[Finding]:
    """Whether the access list is in force: a topic of nobody is refused, strangers do not get in."""
    spec = subject.config.broker
    local = spec.tls is None and is_loopback(spec.host)
    do = "acl_file and allow_anonymous false in mosquitto.conf, as pilechain init site writes them; systemctl restart mosquitto"
    tell = warn if local else fail
    probe = Probe(spec)
    try:
        if probe.refused:
            yield skip("the broker does not answer")
            return
        taken = probe.may_publish(NOBODYS_TOPIC)
    finally:
        probe.close()
    if taken is None:
        yield warn("the broker did not say whether its access list is in force", "journalctl -u mosquitto")
    elif taken:
        yield tell("the broker takes what nobody may say: anybody can speak as anybody", do)
    else:
        yield ok("the broker refuses what its access list forbids")
    stranger = Probe(Broker(spec.host, spec.port, tls=_only_ca(spec)))
    try:
        if stranger.refused:
            yield ok("who has neither certificate nor password stays outside")
        else:
            yield tell("who has neither certificate nor password gets in", do)
    finally:
        stranger.close()


def _only_ca(spec: Broker) -> Any:
    return None if spec.tls is None else type(spec.tls)(spec.tls.ca)


def settings(subject: Subject) -> Iterator[Finding]:
    """mosquitto.conf: bounds on what reaches a memory, and sessions that outlive a restart."""
    found = subject.mosquitto
    if found is None:
        yield skip("no mosquitto.conf here: the broker is somebody else's")
        return
    limit = found.settings.get("message_size_limit", "0")
    size = int(limit) if limit.isdecimal() else 0
    bad = 0
    if not NEEDED_BYTES <= size <= SAFE_BYTES:
        bad += 1
        yield fail(
            f"message_size_limit is {limit if size else 'not set'}",
            f"message_size_limit 4000000 in {found.path}; systemctl restart mosquitto",
        )
    if found.settings.get("persistence", "false") != "true":
        bad += 1
        yield fail(
            "sessions end with the broker: what was sent to whoever is away is lost",
            f"persistence true in {found.path}",
        )
    if found.settings.get("max_queued_messages", "1000") == "0":
        bad += 1
        yield fail("queues have no bound", f"max_queued_messages 100000 in {found.path}")
    if not bad:
        yield ok(f"messages up to {size} bytes, sessions are kept, queues are bounded")


def listening(subject: Subject) -> Iterator[Finding]:
    """Where web server and broker listen (proc_net_tcp(5)), against where they are configured to."""
    here = listeners()
    if here is None:
        yield skip("this system does not list its sockets")
        return
    wanted = [(subject.web.port, subject.web.listen, "the web server")] if subject.web else []
    if subject.web and subject.web.metrics_port:
        wanted.append((subject.web.metrics_port, subject.web.metrics_listen, "the metrics"))
    if subject.mosquitto:
        wanted += [(one.port, one.address, "the broker") for one in subject.mosquitto.listeners]
    for port, address, who in wanted:
        found = sorted(host for host, number in here if number == port)
        allowed = _addresses(address)
        beyond = [host for host in found if allowed and host not in allowed]
        if not found:
            yield fail(f"{who} does not listen on port {port}", "systemctl status pilechain-web mosquitto")
        elif beyond:
            yield fail(
                f"{who} listens on {', '.join(beyond)}, port {port}; configured is {address}",
                "ss -ltnp says who; restart it",
            )
        else:
            yield ok(f"{who} listens on {', '.join(found)}, port {port}, as configured")
    if not wanted:
        yield skip("nothing here is configured to listen")


def listeners() -> list[tuple[str, int]] | None:
    """(address, port) of every TCP socket that listens here; None where that is not told."""
    rows: list[tuple[str, int]] = []
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in (line.split() for line in lines):
            if words[3] == _LISTEN:
                address, _, port = words[1].partition(":")
                # Words of four bytes, each in the machine's order.
                data = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                rows.append((str(ipaddress.ip_address(data)), int(port, 16)))
    return rows or None


def _addresses(configured: str) -> set[str]:
    """What a configured address may be in the list of sockets; empty for everywhere."""
    if configured in {"", "0.0.0.0", "::"}:  # noqa: S104 - read, not bound
        return set()
    try:
        found = socket.getaddrinfo(configured, None, type=socket.SOCK_STREAM)
    except OSError:
        return {configured}
    plain = {str(row[4][0]) for row in found}
    return plain | {str(ipaddress.ip_address(f"::ffff:{host}")) for host in plain if ":" not in host}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, whatever its network is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _age(what: str, until: dt.datetime, do: str) -> Finding:
    days = (until - dt.datetime.now(dt.UTC)).days
    if days < 0:
        return fail(f"{what} has ended", do)
    return warn(f"{what} ends in {days} days", do) if days < SOON_DAYS else ok(f"{what} ends in {days} days")
