"""A site's own certificate authority: says who is who to the broker, for how long, and who is so no more.

    ca.crt, ca.key   who vouches for all others; the key is the one secret of the site that cannot be replaced quietly
    ca.crl           what was revoked; brokers read it
    issued/          every certificate that was ever issued, by its serial number

P-256 everywhere, as boards can verify it. A certificate never outlives the authority. Certificates of clients carry the
broker's name for them (names.py) as common name; the broker goes by that.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pile_shared.errors import PilechainError

CA_DAYS = 7300  # boards are seldom visited, and each would need the next authority's certificate
DAYS = 825  # of all others, unless asked otherwise
MAX_DAYS = 7300
SKEW = dt.timedelta(hours=1)  # a certificate is good a little before it is made: clocks differ
DAY = dt.timedelta(days=1)
MAX_NAME = 64  # characters of a common name (X.520)
SERVER, CLIENT = "server", "client"
_USAGE = {SERVER: ExtendedKeyUsageOID.SERVER_AUTH, CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}


class AuthorityError(PilechainError):
    """What the authority cannot do: `exists`, `missing`, `unknown_name`, `name`, `days`, `ended`, `damaged`."""

    code = "authority"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def der(self) -> tuple[bytes, bytes]:
        """Certificate and key as DER, as boards take them."""
        key = load_pem_private_key(self.key, None)
        return (
            x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER),
            key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        )

    def write(self, folder: Path, stem: str, *, boards: bool = False) -> None:
        """Write `stem`.crt and `stem`.key (0600), for boards also as .crt.der and .key.der, in place of older ones."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = {f"{stem}.key": self.key, f"{stem}.crt": self.certificate}
        if boards:
            files[f"{stem}.crt.der"], files[f"{stem}.key.der"] = self.der()
        for name, data in files.items():
            write_secret(folder / name, data, durable=False)  # what a power cut takes is issued again


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that was issued.

    Attributes:
        name: the common name. kind: SERVER or CLIENT. serial: of the certificate. since, until: UTC. revoked: when, or None.
    """

    name: str
    kind: str
    serial: int
    since: dt.datetime
    until: dt.datetime
    revoked: dt.datetime | None

    def days_left(self, now: dt.datetime) -> int:
        """Whole days until it expires, negative afterwards."""
        return (self.until - now) // DAY


class Authority:
    """An authority in a folder. Made with `make`, found again with `open`."""

    def __init__(self, folder: Path, certificate: x509.Certificate) -> None:
        """Use `make` or `open`."""
        self.folder = folder
        self.certificate = certificate

    @classmethod
    def make(cls, folder: Path, name: str, *, days: int = CA_DAYS) -> Self:
        """A new authority called `name`; AuthorityError `exists` if there is one in this folder."""
        if (folder / "ca.key").exists() or (folder / "ca.crt").exists():
            raise AuthorityError(f"{folder} holds an authority already; it is never overwritten", "exists")
        now = _now()
        key = ec.generate_private_key(ec.SECP256R1())
        until = now + _length(days)
        builder = _builder(name, name, key.public_key(), now - SKEW, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(is_ca=True), critical=True)
        certificate = builder.sign(key, hashes.SHA256())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(folder / "ca.key", _key_pem(key))
        write_secret(folder / "ca.crt", certificate.public_bytes(Encoding.PEM))
        made = cls(folder, certificate)
        made._write_crl([], key)
        return made

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The authority in a folder; AuthorityError `missing` or `damaged`. Its key is read only when it is needed."""
        path = folder / "ca.crt"
        try:
            return cls(folder, x509.load_pem_x509_certificate(path.read_bytes()))
        except OSError as error:
            raise AuthorityError(
                f"{path}: {error.strerror}; if the authority is kept elsewhere, say --authority FOLDER", "missing"
            ) from error
        except ValueError as error:
            raise AuthorityError(f"{path} is no certificate: {error}", "damaged") from error

    @property
    def crl(self) -> Path:
        """The file of what was revoked."""
        return self.folder / "ca.crl"

    @property
    def pem(self) -> bytes:
        """The authority's certificate, for all to believe in."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The same as DER, for boards."""
        return self.certificate.public_bytes(Encoding.DER)

    def issue_server(self, hosts: Sequence[str], *, days: int = DAYS) -> Issued:
        """A certificate for a server that clients meet under these host names and addresses; it is called as the first.

        Raises:
            AuthorityError: `name`, none or what is neither a host name nor an address; `days`; `ended`, the authority is
                about to end; `missing` or `damaged`, its key.
        """
        if not hosts:
            raise AuthorityError("a server needs at least one host name or address", "name")
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        return self._issue(hosts[0][:MAX_NAME], SERVER, days, names)

    def issue_client(self, user: str, *, days: int = DAYS) -> Issued:
        """A certificate for who is called `user` at the broker; raises as `issue_server` does."""
        if not user or len(user) > MAX_NAME or not user.isascii() or not user.isprintable():
            raise AuthorityError(f"{user!r} is no name: expected 1 to {MAX_NAME} printable ASCII characters", "name")
        return self._issue(user, CLIENT, days, None)

    def revoke(self, name: str, *, serial: int | None = None) -> list[Entry]:
        """Revoke all certificates of a name that are good still, or the one with this serial number; what was revoked.

        Raises:
            AuthorityError: `unknown_name`, there is none; `missing` or `damaged`, as for `issue_server`.
        """
        with self._locked():
            found = [
                entry
                for entry in self.issued()
                if entry.name == name and serial in {None, entry.serial} and not entry.revoked
            ]
            if not found:
                raise AuthorityError(f"no certificate of {name} is there to be revoked; see `list`", "unknown_name")
            at = _now()
            rows = [
                x509.RevokedCertificateBuilder().serial_number(entry.serial).revocation_date(at).build()
                for entry in found
            ]
            self._write_crl([*self._revoked(), *rows], self._key())
        return found

    def issued(self) -> list[Entry]:
        """Every certificate that was issued, by name and then by time; AuthorityError `damaged`."""
        revoked = {row.serial_number: row.revocation_date_utc for row in self._revoked()}
        entries = []
        for path in sorted((self.folder / "issued").glob("*.crt")):
            try:
                found = x509.load_pem_x509_certificate(path.read_bytes())
                name = str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
                usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            except (OSError, ValueError, IndexError, x509.ExtensionNotFound) as error:
                raise AuthorityError(f"{path} is not a certificate of ours: {error}", "damaged") from error
            kind = SERVER if ExtendedKeyUsageOID.SERVER_AUTH in usage else CLIENT
            since, until = found.not_valid_before_utc, found.not_valid_after_utc
            entries.append(Entry(name, kind, found.serial_number, since, until, revoked.get(found.serial_number)))
        return sorted(entries, key=lambda entry: (entry.name, entry.since, entry.serial))

    def certificate_of(self, entry: Entry) -> bytes:
        """A certificate that was issued, as DER; AuthorityError `damaged`."""
        path = self._kept(entry.serial)
        try:
            return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
        except (OSError, ValueError) as error:
            raise AuthorityError(f"{path}: {error}", "damaged") from error

    def _kept(self, serial: int) -> Path:
        return self.folder / "issued" / f"{serial:040x}.crt"

    def _issue(self, name: str, kind: str, days: int, names: x509.SubjectAlternativeName | None) -> Issued:
        ours, now = self._key(), _now()
        until = min(now + _length(days), self.certificate.not_valid_after_utc)
        if until - now < DAY:
            raise AuthorityError(
                f"the authority in {self.folder} ends at {self.certificate.not_valid_after_utc:%Y-%m-%d}: make a new one"
                " (docs/site.md)",
                "ended",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = _builder(name, str(issuer), key.public_key(), now - SKEW, until)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(is_ca=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGE[kind]]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ours.public_key()), critical=False
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(ours, hashes.SHA256())
        pem = certificate.public_bytes(Encoding.PEM)
        kept = self._kept(certificate.serial_number)
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        write_secret(kept, pem)  # first: what was given away can be revoked
        return Issued(pem, _key_pem(key))

    def _key(self) -> ec.EllipticCurvePrivateKey:
        path = self.folder / "ca.key"
        try:
            if path.stat().st_mode & 0o077:
                raise AuthorityError(f"{path} can be read by others; run: chmod 600 {path}", "damaged")
            key = load_pem_private_key(path.read_bytes(), None)
        except OSError as error:
            raise AuthorityError(f"{path}: {error.strerror}; bring the authority's key back", "missing") from error
        except (ValueError, TypeError) as error:
            raise AuthorityError(f"{path} is no key: {error}", "damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.certificate.public_key():
            raise AuthorityError(f"{path} is not the key of {self.folder / 'ca.crt'}", "damaged")
        return key

    def _revoked(self) -> list[x509.RevokedCertificate]:
        try:
            return list(x509.load_pem_x509_crl(self.crl.read_bytes()))
        except (OSError, ValueError) as error:
            raise AuthorityError(
                f"{self.crl}: {error}; bring it back: without it nobody knows what was revoked", "damaged"
            ) from error

    def _write_crl(self, rows: Sequence[x509.RevokedCertificate], key: ec.EllipticCurvePrivateKey) -> None:
        """The list is good as long as the authority: a broker whose list is too old would let nobody in."""
        public = key.public_key()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_now() - SKEW)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(len(rows)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        )
        for row in rows:
            builder = builder.add_revoked_certificate(row)
        write_secret(self.crl, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time: two that add to the list at once would lose one's addition."""
        with os.fdopen(os.open(self.folder / "ca.lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
            flock(file, LOCK_EX)
            yield


def write_secret(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file of mode 0600 in place of an older one: a reader sees the old one or the new one, whole."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _length(days: int) -> dt.timedelta:
    if not 1 <= days <= MAX_DAYS:
        raise AuthorityError(f"{days} days is wrong; expected 1 to {MAX_DAYS}", "days")
    return days * DAY


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if not 1 <= len(host) <= 253 or not all(
        0 < len(label) < 64 and label.isascii() and label.replace("-", "a").isalnum() for label in labels
    ):
        raise AuthorityError(f"{host!r} is neither a host name nor an address", "name")
    return x509.DNSName(host)


def _builder(
    name: str, issuer: str, public: ec.EllipticCurvePublicKey, since: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # The traditional form: what is in it is what boards take as DER.
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
