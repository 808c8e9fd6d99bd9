"""A chain with engine and evidence on disk, and orders that run their whole life on it."""

from world import HOUR, NOW, World, key

from pile_coordinator.certificates import OrderCertificate
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Confirm,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
)
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import order_certificate
from pile_shared.proof import BEGIN, PERIODIC
from pile_shared.proof import END as END_EVENT


class Chain:
    """An engine with evidence, and the same short sayings as World."""

    def __init__(self, folder) -> None:
        self.world = World()
        self.genesis = self.world.genesis
        signers = {v.party: key(f"{v.party}/attest") for v in self.genesis.validators}
        self.engine = SoloEngine(folder / "ledger.sqlite", self.genesis, signers)
        self.evidence = Exporter(folder / "evidence.sqlite")
        self.engine.on_block(self.evidence.write)
        self.world.state = self.engine.state

    def admit(self) -> None:
        """Olga with a pile, Dan with a car, both with money."""
        parties = [("olga", "pile-owner"), ("dan", "ev-owner")]
        self.block(
            NOW + 1000,
            *[("operator", RegisterParty(p, r, key(p).public)) for p, r in parties],
            ("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "123", "north", 7000)),
            *[("grid", Deposit(p, 50_000_000, p)) for p, _ in parties],
        )

    def list_and_bid(self, ask: int = AT_MARKET) -> None:
        """Olga lists at market or at an ask, Dan buys 5 kWh at market."""
        self.block(NOW + 2000, ("olga", List("pile-1", NOW, NOW + 20 * HOUR, 20_000, ask)))
        self.block(NOW + 2000, ("dan", PlaceBid("north", "", 5000, NOW, NOW + 4 * HOUR, 800_000, True, 0)))

    def close(self) -> None:
        self.engine.close()
        self.evidence.close()

    def block(self, time_ms: int, *sent) -> None:
        for sender, body in sent:
            self.engine.submit(self.world.tx(sender, body))
            self.world.sequences[sender] = self.world.sequences.get(sender, 0) + 1
        block = self.engine.make_block(time_ms)
        self.world.height = self.engine.height
        assert all(result.code == "ok" for result in block.results), block.results


def deliver(
    chain: Chain, *, delivered_wh: int, reason: int, ask: int = AT_MARKET, confirm: bool = True
) -> OrderCertificate:
    start = NOW + 2000
    chain.list_and_bid(ask)
    contract = chain.world.contract()
    hour = 3600 * 1000
    world = chain.world
    proofs = [
        world.prove("pile-1", BEGIN, [(start + 1000, 100_000)], contract=contract.id),
        world.prove("pile-1", PERIODIC, [(start + hour // 4, 100_000 + delivered_wh // 3)], contract=contract.id),
        world.prove("pile-1", END_EVENT, [(start + hour, 100_000 + delivered_wh)], contract=contract.id, reason=reason),
    ]
    chain.block(start + hour + 1000, ("operator", SubmitProofs(proofs)))
    statement = decode_statement(chain.world.contract().statement)
    if confirm:
        body = Confirm(contract.id, statement.digest())
        chain.block(start + hour + 2000, ("dan", body), ("olga", body))
    else:
        chain.block(start + 3 * hour)
    return order_certificate(chain.evidence.db, chain.engine, contract.id)
