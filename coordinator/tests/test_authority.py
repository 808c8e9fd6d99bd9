"""What the authority issues is believed by a real broker and by nobody else's; what it revoked it says; its key stays its own."""

import datetime as dt
import ssl
import time

import pytest

from pile_coordinator.config import load_config
from pile_coordinator.mqtt import Broker, Connection, Tls
from pile_coordinator.site.authority import Authority, AuthorityError
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_hil.site import Site
from pile_shared.errors import ConfigError, LinkError


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.make(tmp_path_factory.mktemp("site") / "authority", "north authority")


@pytest.fixture(scope="module")
def broker(authority):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    folder = authority.folder.parent / "broker"
    authority.issue_server(["127.0.0.1", "broker.example"]).write(folder, "server")
    files = {"ca": authority.folder / "ca.crt", "cert": folder / "server.crt", "key": folder / "server.key"}
    with Mosquitto(folder, tls=files) as running:
        yield running


def client(authority, folder, name="user:alice", stem="user") -> Tls:
    authority.issue_client(name).write(folder, stem)
    return Tls(authority.folder / "ca.crt", folder / f"{stem}.crt", folder / f"{stem}.key")


def refused(broker, tls, host="127.0.0.1") -> str:
    """The reason for which a connection is not made."""
    connection = Connection(Broker(host, broker.port, tls=tls), "x", ["up"], persistent=False)
    try:
        deadline = time.monotonic() + 20
        while connection.last_error == "not connected yet":
            assert not connection.is_connected
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(LinkError) as caught:
            connection.wait_connected(0.01)
        return str(caught.value)
    finally:
        connection.close()


def test_a_message_goes_through_a_broker_that_both_certificates_convince(authority, broker, tmp_path):
    connection = Connection(
        Broker("127.0.0.1", broker.port, tls=client(authority, tmp_path)), "alice", ["up"], persistent=False
    )
    connection.wait_connected(20)
    connection.publish("up", b"over tls")
    assert connection.get(20) == ("up", b"over tls")
    connection.close()
    assert "u'user:alice'" in broker.log


def test_neither_side_believes_a_certificate_of_another_authority_or_of_none(authority, broker, tmp_path):
    other = Authority.make(tmp_path / "other", "north authority")
    tls = client(authority, tmp_path)
    stranger = client(other, tmp_path, stem="stranger")
    assert "certificate verify failed" in refused(broker, Tls(other.folder / "ca.crt", tls.certificate, tls.key))
    refused(broker, Tls(tls.ca, stranger.certificate, stranger.key))
    refused(broker, Tls(tls.ca))
    assert "Hostname mismatch" in refused(
        broker, tls, host="localhost"
    )  # it is the same broker, and not what it says it is


def test_nothing_older_than_tls_1_2_is_spoken(authority, tmp_path):
    assert client(authority, tmp_path).context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_servers_certificate_is_none_of_a_client(authority, broker, tmp_path):
    authority.issue_server(["user:alice".replace(":", "-")]).write(tmp_path, "as-server")
    refused(broker, Tls(authority.folder / "ca.crt", tmp_path / "as-server.crt", tmp_path / "as-server.key"))


def test_what_is_issued_is_known_and_nothing_outlives_the_authority(tmp_path):
    authority = Authority.make(tmp_path / "authority", "short", days=10)
    authority.issue_client("pile-1", days=5)
    authority.issue_client("user:alice", days=1000)
    found = Authority.open(authority.folder).issued()
    assert [(entry.name, entry.kind, entry.revoked) for entry in found] == [
        ("pile-1", "client", None),
        ("user:alice", "client", None),
    ]
    now = dt.datetime.now(dt.UTC)
    assert [entry.days_left(now) for entry in found] == [4, 9]
    assert found[1].until == authority.certificate.not_valid_after_utc


def test_revoking_takes_what_is_good_still_and_is_remembered(authority):
    authority.issue_client("pile-7")
    authority.issue_client("pile-7")
    first, second = (entry for entry in authority.issued() if entry.name == "pile-7")
    assert [entry.serial for entry in authority.revoke("pile-7", serial=first.serial)] == [first.serial]
    assert [entry.serial for entry in authority.revoke("pile-7")] == [second.serial]
    assert all(entry.revoked for entry in Authority.open(authority.folder).issued() if entry.name == "pile-7")
    with pytest.raises(AuthorityError, match="no certificate of pile-7") as caught:
        authority.revoke("pile-7")
    assert caught.value.code == "unknown_name"


def test_secrets_are_for_their_owner_only_and_are_not_overwritten(authority, tmp_path):
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o77 == 0 for path in authority.folder.rglob("*"))
    with pytest.raises(AuthorityError, match="never overwritten"):
        Authority.make(authority.folder, "again")
    tls = client(authority, tmp_path)
    tls.key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        tls.context()


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda a: a.issue_server([]), "name"),
        (lambda a: a.issue_server(["no host"]), "name"),
        (lambda a: a.issue_client(""), "name"),
        (lambda a: a.issue_client("x" * 65), "name"),
        (lambda a: a.issue_client("a\nb"), "name"),
        (lambda a: a.issue_client("pile-1", days=0), "days"),
        (lambda a: a.revoke("nobody"), "unknown_name"),
        (lambda a: (a.folder / "ca.key").unlink() or a.issue_client("pile-1"), "missing"),
        (lambda a: (a.folder / "ca.key").chmod(0o640) or a.issue_client("pile-1"), "damaged"),
        (lambda a: (a.folder / "ca.crl").unlink() or a.issued(), "damaged"),
        (lambda a: (a.folder / "ca.crt").write_text("x") and Authority.open(a.folder), "damaged"),
    ],
)
def test_what_cannot_be_done_is_told_by_its_code(tmp_path, act, code):
    with pytest.raises(AuthorityError) as caught:
        act(Authority.make(tmp_path / "authority", "north"))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("tls", "form"),
    [
        ('{ ca = "ca.crt", cert = "x.crt", key = "x.key" }', None),
        ('{ ca = "ca.crt" }', None),
        ('{ ca = "ca.crt", cert = "x.crt" }', "mqtt.tls.key is missing"),
        ("{}", "mqtt.tls.ca is missing"),
        ('{ ca = "ca.crt", verify = false }', "unknown key mqtt.tls.verify"),
        ('"ca.crt"', "mqtt.tls must be a table"),
    ],
)
def test_the_coordinators_file_names_the_files_of_tls(tmp_path, tls, form):
    site = Site(tmp_path / "site", [], rate=1, port=1883)
    path = site.write_coordinator()
    path.write_text(path.read_text().replace("port = 1883", f"port = 1883\ntls = {tls}"))
    if form is not None:
        with pytest.raises(ConfigError, match=form):
            load_config(path)
        return
    found = load_config(path).broker.tls
    assert found.ca == site.folder / "ca.crt"
    assert (found.certificate, found.key) in [(None, None), (site.folder / "x.crt", site.folder / "x.key")]
