"""What an action opens: the party's own connection, one that names nobody, the purse."""

from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.guest import Guest, RingSigner, throwaway_key
from pile_coordinator.keys import load_key
from pile_coordinator.mqtt import Broker
from pile_coordinator.purse import Purse, Spending
from pile_coordinator.wallet import Wallet
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """A party's key file and the way to a chain; `guests` is how guests meet the broker, None if they cannot."""

    genesis: Genesis
    key: Path
    party: str
    broker: Broker
    timeout_s: float
    guests: Broker | None

    def named(self) -> Wallet:
        """The party's own connection. Use as a context manager."""
        return Wallet(self.genesis, self.party, load_key(self.key), self.broker, timeout_s=self.timeout_s)

    def guest(self, signer: SoftwareSigner | None = None, sign: RingSigner | None = None) -> Guest:
        """A connection that names nobody, under an order's key or one thrown away. Use as a context manager.

        Raises:
            ConfigError: the broker could only be met with a certificate that names the party.
        """
        if self.guests is None:
            raise ConfigError(
                "your certificate tells the broker who you are: to pay anonymously give the certificate of guests, which"
                " your operator has, as --guest-cert and --guest-key or in the profile (docs/wallet.md)"
            )
        return Guest(self.genesis, signer or throwaway_key(), self.guests, sign=sign, timeout_s=self.timeout_s)

    @property
    def _purse(self) -> Purse:
        return Purse(self.key.parent, self.party, self.genesis.chain_id)

    def purse(self) -> Purse:
        """The party's purse; the seed is made if there is none."""
        load_key(self.key)  # beside a key that is there and is one's own
        return self._purse.open()

    def known_purse(self) -> Purse | None:
        """The purse if there is a seed: looking makes none."""
        return self.purse() if self._purse.exists else None

    def for_order(self, purse: Purse, order: Spending) -> Guest:
        """The connection of an order that notes pay for."""
        return self.guest(purse.signer_of(order), purse.sign_for(order))
