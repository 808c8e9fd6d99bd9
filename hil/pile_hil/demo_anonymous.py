"""What the demo's driver who pays with a note needs: the note, and fifteen others who have one in the same bin.

The demo has two drivers with cars, so fourteen neighbours without one buy a note each. Nobody else ever spends a note in this
story: who saw the car would know whose order it was. The story says so.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from pile_coordinator.chain.transactions import PlaceBid
from pile_coordinator.guest import Guest, throwaway_key
from pile_coordinator.note_choice import Choice
from pile_coordinator.paying import Payer
from pile_coordinator.purse import Market, Purse, Spending
from pile_coordinator.ring.signature import RING_SIZE
from pile_coordinator.wallet import Wallet
from pile_hil.site import Site, SiteError
from pile_shared.cose import SoftwareSigner

KIND, NOTE_MICRO = 6, 6_400_000  # one of these covers a small order and the bond for an objection
NEIGHBOURS = [f"neighbour-{number}" for number in range(1, RING_SIZE - 1)]
WAIT_S = 30.0  # for notes that give nothing away; the bin has been full since the first chapter
TIMEOUT_S = 30.0


class Payments:
    """A party's purse on a site, and its connections that name nobody."""

    def __init__(self, site: Site, party: str) -> None:
        """Open the purse; its seed lies beside the party's key, and is made if there is none."""
        self._site = site
        self.purse = Purse(site.key_file(party).parent, party, site.genesis.chain_id).open()
        self.payer = Payer(self.purse, self._guest)

    def _guest(self, signer: SoftwareSigner | None = None, sign: Callable[[bytes], list[bytes]] | None = None) -> Guest:
        site = self._site
        return Guest(site.genesis, signer or throwaway_key(), site.broker_spec, sign=sign, timeout_s=TIMEOUT_S)

    def buy(self, named: Wallet) -> None:
        """One note of 6.40."""
        self.payer.buy(named, [0] * KIND + [1], self._site.clock.now_ms())

    def quote(self, bid: PlaceBid) -> tuple[Market, Choice]:
        """All notes there are, and the one that covers an order and the bond for an objection, once it is old enough."""
        with self._guest() as guest:
            need = cast("int", guest.quote(bid)["hold_micro"]) + guest.look().objection_bond_micro
        market, own, choice = self.payer.wait(need, WAIT_S, lambda _: None)
        if choice is None:
            raise SiteError(f"none of {len(own)} notes covers {need} micro within {WAIT_S:g} s")
        return market, choice

    def order(self, spending: Spending) -> Guest:
        """The connection of an order that a note pays for."""
        return self._guest(self.purse.signer_of(spending), self.purse.sign_for(spending))

    def waiting_micro(self) -> int:
        """What the purse's notes are worth that nobody has spent."""
        _, own = self.payer.look()
        return sum(note.value_micro for note in own if not note.spent)


def fill_a_bin(site: Site, drivers: dict[str, Wallet]) -> int:
    """Neighbours come to be, and everybody buys one note; how many did."""
    site.admit_drivers(NEIGHBOURS, NOTE_MICRO)

    def buy(party: str) -> None:
        if party in drivers:
            Payments(site, party).buy(drivers[party])
            return
        with site.wallet(party) as wallet:
            Payments(site, party).buy(wallet)

    everybody = [*drivers, *NEIGHBOURS]
    with ThreadPoolExecutor(len(everybody)) as together:
        list(together.map(buy, everybody))
    return len(everybody)
