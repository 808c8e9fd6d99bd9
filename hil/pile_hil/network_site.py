"""A site whose coordinator is a network: four accounting nodes, two of which serve piles and wallets."""

from pathlib import Path

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.engines.comet.network import Pace
from pile_hil.network import Network
from pile_hil.site import PileSpec, Site, SiteProcess

# Time of the demo runs fast, and a block's time is that of the votes before it: the shorter the blocks, the less it lags.
PACE = Pace(commit_ms=100, propose_ms=3000, vote_ms=1000, idle_ms=500)


class NetworkSite(Site):
    """The same piles, parties and broker as a `Site`; every node is a process that runs CometBFT beside it."""

    def __init__(self, folder: Path, piles: list[PileSpec], *, rate: int, port: int | None = None) -> None:
        """Write everything below `folder`; nothing runs yet."""
        super().__init__(folder, piles, rate=rate, port=port)

    def _write_genesis(self) -> Genesis:
        self.network = Network(self.folder / "network", self.port, pace=PACE, clock=self.clock)
        document = (self.network.folder / self.network.names[0] / "genesis.json").read_bytes()
        (self.folder / "genesis.json").write_bytes(document)
        return self.network.genesis

    def key_file(self, party: str) -> Path:
        """Where a party's key is."""
        founder = self.folder / "network" / "parties" / f"{party}.key"
        return founder if founder.exists() else super().key_file(party)

    def start_coordinator(self) -> SiteProcess:
        """Start all nodes, and return once they make blocks; one of those that serve."""
        self.network.start()
        self.network.wait_height(2, seconds=60)
        return self.network.processes["operator-1"]

    @property
    def data(self) -> Path:
        """The data folder of the coordinator that serves first."""
        return self.network.folder / "operator-1" / "data"

    def close(self) -> None:
        """Stop every process."""
        super().close()
        self.network.close()
