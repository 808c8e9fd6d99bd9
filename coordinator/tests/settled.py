"""A chain with engine and evidence on disk, and orders that run their whole life on it."""

from world import HOUR, NOW, World, key

from pile_coordinator.certificates import OrderCertificate
from pile_coordinator.chain.disputes import STOP
from pile_coordinator.chain.records import Contract
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Answer,
    Body,
    Confirm,
    Deposit,
    List,
    Object,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    RotateKey,
    SubmitProofs,
)
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import order_certificate
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, PERIODIC, REASON_USER
from pile_shared.proof import END as END_EVENT

JUDGES = ("judge-1", "judge-2", "judge-3")


class Chain:
    """An engine with evidence, and the same short sayings as World. `keys` are the names of rotated keys, by party."""

    def __init__(self, folder, **params) -> None:
        self.world = World(**params)
        self.genesis = self.world.genesis
        signers = {v.party: key(f"{v.party}/attest") for v in self.genesis.validators}
        self.engine = SoloEngine(folder / "ledger.sqlite", self.genesis, signers)
        self.evidence = Exporter(folder / "evidence.sqlite")
        self.engine.on_block(self.evidence.write)
        self.world.state = self.engine.state
        self.keys: dict[str, str] = {}

    def close(self) -> None:
        self.engine.close()
        self.evidence.close()

    def block(self, time_ms: int, *sent: tuple[str, Body]) -> list[bytes]:
        """Make a block of these; the ids of their transactions."""
        ids = []
        for sender, body in sent:
            data = self.tx(sender, body)
            self.engine.submit(data)
            self.world.sequences[sender] = self.world.sequences.get(sender, 0) + 1
            if isinstance(body, RotateKey):
                self.keys[sender] = f"{sender}/{len(self.keys)}"
            ids.append(sha256(data))
        block = self.engine.make_block(time_ms)
        self.world.height = self.engine.height
        assert all(result.code == "ok" for result in block.results), block.results
        return ids

    def tx(self, sender: str, body: Body, **over) -> bytes:
        return self.world.tx(sender, body, **{"signer": self.keys.get(sender, sender)} | over)

    def rotation(self, party: str) -> tuple[str, RotateKey]:
        """To send in a block of its own."""
        return party, RotateKey(key(f"{party}/{len(self.keys)}").public)

    def admit(self) -> None:
        """Olga with a pile, Dan with a car, both with money; and three judges."""
        parties = [("olga", "pile-owner"), ("dan", "ev-owner")]
        self.block(
            NOW + 1000,
            *[("operator", RegisterParty(p, r, key(p).public)) for p, r in parties],
            *[("operator", RegisterParty(p, "third-party", key(p).public)) for p in JUDGES],
            ("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "123", "north", 7000)),
            *[("grid", Deposit(p, 50_000_000, p)) for p, _ in parties],
        )

    def list_and_bid(
        self,
        ask: int = AT_MARKET,
        *,
        start: int = NOW,
        at: int = NOW + 2000,
        energy: int = 5000,
        offered: int = 20_000,
        divisible: bool = False,
        asked: tuple[str, ...] = (),
    ) -> bytes:
        """Olga lists at market or at an ask, Dan buys at market; those `asked` sign explicitly. The bid's id."""
        end = start + 4 * HOUR
        self.block(at, ("olga", List("pile-1", start, end + 16 * HOUR, offered, ask, "olga" in asked)))
        bid = PlaceBid("north", "", energy, start, end, 800_000, True, 0, divisible, "dan" in asked)
        return self.block(at, ("dan", bid))[0]

    def contract(self) -> Contract:
        return self.world.contract()

    def session(self, contract: bytes, start: int, delivered_wh: int, reason: int) -> SubmitProofs:
        """Begin, one reading, and the end an hour later."""
        world, hour = self.world, HOUR
        return SubmitProofs(
            [
                world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract),
                world.prove("pile-1", PERIODIC, [(start + hour // 4, 100_000 + delivered_wh // 3)], contract=contract),
                world.prove(
                    "pile-1", END_EVENT, [(start + hour, 100_000 + delivered_wh)], contract=contract, reason=reason
                ),
            ]
        )

    def measure(self, *, delivered_wh: int = 2000, reason: int = REASON_USER, ask: int = AT_MARKET) -> bytes:
        """A contract whose session is over and whose settlement waits, at `MEASURED_AT`; its id."""
        self.list_and_bid(ask)
        contract = self.contract().id
        self.block(MEASURED_AT, ("operator", self.session(contract, NOW + 3000, delivered_wh, reason)))
        return contract

    def object(self, party: str, ground: str, claimed_wh: int = 4000) -> None:
        self.block(MEASURED_AT + 1000, (party, Object(self.contract().id, ground, claimed_wh, "see the photo")))

    def stop_command(self, contract: bytes, signer: str = "dan", action: int = STOP) -> bytes:
        payload = encode([contract, action, NOW + HOUR, 0])
        return cose.sign1(payload, key(signer), cose.purpose(cose.SESSION, self.genesis.chain_id))

    def answer(self, contract: bytes) -> None:
        self.block(MEASURED_AT + 2000, ("olga", Answer(contract, self.stop_command(contract))))

    def confirmation(self, contract: bytes) -> Confirm:
        return Confirm(contract, decode_statement(self.engine.state.get(Contract, contract).statement).digest())

    def certificate(self, order: bytes) -> OrderCertificate:
        return order_certificate(self.evidence.db, self.engine, order)


MEASURED_AT = NOW + 3000 + HOUR + 1000


def deliver(
    chain: Chain, *, delivered_wh: int, reason: int, ask: int = AT_MARKET, confirm: bool = True
) -> OrderCertificate:
    contract = chain.measure(delivered_wh=delivered_wh, reason=reason, ask=ask)
    if confirm:
        body = chain.confirmation(contract)
        chain.block(MEASURED_AT + 1000, ("dan", body), ("olga", body))
    else:
        chain.block(MEASURED_AT + 2 * HOUR)
    return chain.certificate(contract)
