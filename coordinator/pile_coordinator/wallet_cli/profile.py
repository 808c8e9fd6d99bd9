"""What a wallet need not be told each time: `wallet.toml` says which chain and key, and how the broker is met."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from pile_coordinator.config import Section, broker_of, load_toml
from pile_coordinator.mqtt import Broker, Tls
from pile_shared.errors import ConfigError

PROFILE = Path("wallet.toml")  # taken if it lies where the wallet is called
GENESIS = Path("genesis.json")
BROKER = "127.0.0.1:1883"


@dataclass(frozen=True, slots=True)
class Profile:
    """A wallet's settings: None where nothing is said.

    Attributes:
        genesis, key: files. party: an id. broker: how a party meets it. guest: certificate and key that name nobody.
    """

    genesis: Path | None = None
    key: Path | None = None
    party: str | None = None
    broker: Broker | None = None
    guest: tuple[Path, Path] | None = None

    def guest_broker(self, broker: Broker) -> Broker | None:
        """How who pays anonymously meets `broker`; None if it could only be met with a certificate that names the party."""
        nobody = replace(broker, username="", password="")
        if broker.tls is None:
            return nobody
        if self.guest is not None:
            return replace(nobody, tls=Tls(broker.tls.ca, *self.guest))
        return nobody if broker.tls.certificate is None else None


def add_options(wallet: argparse.ArgumentParser) -> None:
    """The options that a profile makes unnecessary; each outweighs what the profile says."""
    wallet.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help=f"TOML that says what the options below say (default: {PROFILE}, if there is one; docs/wallet.md)",
    )
    wallet.add_argument("--key", type=Path, metavar="FILE", help="the party's key file (mode 0600)")
    wallet.add_argument(
        "--party", metavar="ID", help="the party's id (default: the key file's name up to its first dot)"
    )
    wallet.add_argument("--genesis", type=Path, metavar="FILE", help=f"of the chain (default: {GENESIS})")
    wallet.add_argument("--broker", metavar="HOST:PORT", help=f"default: {BROKER}")
    wallet.add_argument(
        "--broker-ca", type=Path, metavar="FILE", help="meet the broker with TLS; its certificate is of this authority"
    )
    wallet.add_argument("--broker-cert", type=Path, metavar="FILE", help="your certificate for the broker (PEM)")
    wallet.add_argument("--broker-key", type=Path, metavar="FILE", help="and its key (mode 0600)")
    wallet.add_argument(
        "--guest-cert", type=Path, metavar="FILE", help="the certificate of guests, for who pays anonymously"
    )
    wallet.add_argument("--guest-key", type=Path, metavar="FILE", help="and its key")


def load_profile(path: Path) -> Profile:
    """A profile; ConfigError naming file, key and expected form."""
    path = path.resolve()
    top, base = Section(path, "", load_toml(path)), path.parent
    genesis = top.take("genesis", str, "the path of a genesis file", default="")
    key = top.take("key", str, "the path of a key file", default="")
    party = top.take("party", str, "the id of a party", default="")
    broker = broker_of(top.section("mqtt"), base) if "mqtt" in top else None
    guest = None
    if "guest" in top:
        section = top.section("guest")
        form = "the path of a PEM file"
        guest = base / section.take("cert", str, form, ok=bool), base / section.take("key", str, form, ok=bool)
        section.end()
    top.end()
    return Profile(base / genesis if genesis else None, base / key if key else None, party or None, broker, guest)


def settle(options: argparse.Namespace) -> tuple[Broker, Broker | None]:
    """Fill `options` with what the profile says and they do not; the broker as the party meets it, and as guests do.

    Raises:
        ConfigError: a profile that was named and is not there, or is wrong; options that do not go together.
    """
    there = options.profile is not None or PROFILE.exists()
    profile = load_profile(options.profile or PROFILE) if there else Profile()
    options.key = options.key or profile.key
    options.party = options.party or profile.party
    options.genesis = options.genesis or profile.genesis or GENESIS
    broker = profile.broker or Broker(*_address(BROKER))
    if options.broker:
        host, port = _address(options.broker)
        broker = replace(broker, host=host, port=port)
    broker = replace(broker, tls=_tls(options, broker.tls))
    if (options.guest_cert is None) is not (options.guest_key is None):
        raise ConfigError("--guest-cert and --guest-key go together")
    if options.guest_cert is not None:
        profile = replace(profile, guest=(options.guest_cert, options.guest_key))
    return broker, profile.guest_broker(broker)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ConfigError("--broker must be HOST:PORT")
    return host, int(port)


def _tls(options: argparse.Namespace, found: Tls | None) -> Tls | None:
    ca, certificate, key = options.broker_ca, options.broker_cert, options.broker_key
    if (certificate is None) is not (key is None):
        raise ConfigError("--broker-cert and --broker-key go together")
    if ca is None and certificate is None:
        return found
    if ca is None and found is None:
        raise ConfigError("--broker-cert needs --broker-ca: the authority whose certificate the broker shows")
    known = found or Tls(ca)
    return Tls(ca or known.ca, certificate or known.certificate, key or known.key)
