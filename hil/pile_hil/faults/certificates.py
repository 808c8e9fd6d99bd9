"""Certificates that are not as they should be, in place of a client's or the broker's: over, not yet begun, a stranger's.

Revocation needs nothing of this: it is the site's own business.
"""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from pile_coordinator.site.authority import Authority

_DAY = dt.timedelta(days=1)
_YEAR = dt.timedelta(days=365)


def expire(authority: Path, certificate: Path) -> None:
    """Let the certificate in a file have ended yesterday."""
    now = dt.datetime.now(dt.UTC)
    _sign_again(authority, certificate, now - _YEAR, now - _DAY)


def postpone(authority: Path, certificate: Path) -> None:
    """Let the certificate in a file begin tomorrow."""
    now = dt.datetime.now(dt.UTC)
    _sign_again(authority, certificate, now + _DAY, now + _YEAR)


def of_stranger(folder: Path, certificate: Path, key: Path) -> None:
    """Put a certificate for the same name in its place, by an authority that is made in `folder` and that nobody knows."""
    name = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
    common = str(name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    issued = Authority.make(folder, "a stranger").issue_client(common)
    certificate.write_bytes(issued.certificate)
    key.write_bytes(issued.key)


def _sign_again(authority: Path, path: Path, since: dt.datetime, until: dt.datetime) -> None:
    """The same certificate for another time, signed with the authority's key."""
    old = x509.load_pem_x509_certificate(path.read_bytes())
    key = load_pem_private_key((authority / "ca.key").read_bytes(), None)
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), x509.random_serial_number(), since, until
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))  # type: ignore[arg-type]
