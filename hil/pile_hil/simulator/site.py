"""One simulated site, put together from a seed: piles, people, a coordinator, other nodes, faults and the judge."""

from dataclasses import dataclass
from functools import lru_cache

from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.transactions import Body, Deposit, RegisterPile, sign_transaction
from pile_coordinator.new_chain import PARAMS, TARIFF
from pile_edge.config import check_config
from pile_edge.meters.catalogue import board_profile, profile_mapping
from pile_edge.settings import Settings
from pile_hil.simulator.faults import Faults
from pile_hil.simulator.hardware import METER_UNIT, RELAY_UNIT, Hardware
from pile_hil.simulator.judge import Judge
from pile_hil.simulator.ledger import Ledger, Replica
from pile_hil.simulator.network import BROKER, Network
from pile_hil.simulator.people import ZONE, Driver, Owner, Person, Surroundings
from pile_hil.simulator.pile import Pile
from pile_hil.simulator.world import EPOCH_MS, HOUR_MS, MINUTE_MS, World, secret_of
from pile_shared import cose
from pile_shared.topics import parse

NODES = ("auditor", "grid", "operator")
ROLES = {"auditor": "third-party", "grid": "grid", "operator": "operator"}
OPENING_MICRO = 200_000_000
RATED_W = 7000
CALM_HOURS = 7  # after the faults: the longest window, then late evidence, then confirmation, and some room
PROFILE = "abb-b23"
FILE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a world is.

    Attributes:
        piles, drivers: how many. replicas: further accounting nodes; where there are some, a second coordinator brings proofs
        to the chain too. hours: in which orders come and things go wrong. faults: for each pile and day. rest_ms: at most,
        between two orders of a driver. sample_ms, heartbeat_ms: of the agents.
    """

    piles: int
    drivers: int
    replicas: int
    hours: int
    faults: int
    rest_ms: int
    sample_ms: int
    heartbeat_ms: int


class Site:
    """Everything in one world; `run` lets it live."""

    def __init__(self, world: World, shape: Shape) -> None:
        """Build it; nothing has happened yet but its first block."""
        self.world, self.shape = world, shape
        self.until_ms = EPOCH_MS + shape.hours * HOUR_MS
        owners = [f"owner-{number + 1}" for number in range(shape.piles)]
        drivers = [f"driver-{number + 1}" for number in range(shape.drivers)]
        names = [f"pile-{number + 1}" for number in range(shape.piles)]
        self.genesis = _genesis(owners, drivers)
        self.network = Network(world, self._connection_changed)
        self.piles: dict[str, Pile] = {}
        self.people: dict[str, Person] = {}
        signers = {node: cose.SoftwareSigner(secret_of(f"{node}/attest")) for node in NODES}
        operator = cose.SoftwareSigner(secret_of("operator"))
        self.ledger = Ledger(world, self.genesis, signers, "operator", operator, self._from_coordinator)
        for number, name in enumerate(names):
            self.piles[name] = self._pile(name, number)
        self.judge = Judge(world, self.ledger, self.piles)
        self.ledger.listeners.append(self.judge.hear)
        blocks = self.ledger.store.blocks
        self.replicas = [Replica(world, f"node-{n + 1}", self.genesis, blocks) for n in range(shape.replicas)]
        self.ledger.listeners += [replica.hear for replica in self.replicas]
        self._found(owners, drivers)
        around = Surroundings(world, self.network, self.ledger, self.piles)
        for owner, name in zip(owners, names, strict=True):
            self.people[owner] = Owner(around, owner, name, self.until_ms)
        for driver in drivers:
            self.people[driver] = Driver(around, driver, self.until_ms, shape.rest_ms)
        self.faults = Faults(world, self.network, self.ledger, list(self.piles.values()), self.replicas, self.until_ms)

    def run(self) -> None:
        """Live through the hours of orders and faults, then through calm ones; FoundError if a check does not hold."""
        self.faults.plan(self.shape.faults)
        for pile in self.piles.values():
            self.world.after(MINUTE_MS // 2, pile.boot)
        self.world.run(self.until_ms)
        self.faults.end()
        self.world.run(self.until_ms + CALM_HOURS * HOUR_MS)
        self.judge.at_the_end()
        for replica in self.replicas:
            self.judge.check_replica(replica)

    # --- how it begins ---------------------------------------------------------------------------------------------

    def _pile(self, name: str, number: int) -> Pile:
        serial = 10_000_000 + number
        hardware = Hardware(self.world, self.world.stream(f"{name}/meter"), serial)
        settings = _settings(self.genesis, name, serial, self.shape.sample_ms, self.shape.heartbeat_ms)
        return Pile(
            self.world,
            self.network,
            settings,
            cose.SoftwareSigner(secret_of(name)),
            hardware,
            self._from_pile,
        )

    def _found(self, owners: list[str], drivers: list[str]) -> None:
        """The first block: piles are registered, and everybody has some money."""
        bodies: list[tuple[str, Body]] = []
        for owner, pile in zip(owners, self.piles.values(), strict=True):
            serial = str(pile.hardware.serial)
            pile_of_owner = RegisterPile(pile.id, owner, pile.signer.public, "B23", serial, ZONE, RATED_W)
            bodies.append(("operator", pile_of_owner))
        bodies += [("grid", Deposit(party, OPENING_MICRO, f"opening {party}")) for party in (*owners, *drivers)]
        assert self.ledger.coordinator is not None
        engine = self.ledger.coordinator.engine
        for sender, body in bodies:
            signer = cose.SoftwareSigner(secret_of(sender))
            sequence = engine.next_sequence(sender)
            engine.submit(sign_transaction(signer, self.genesis.chain_id, sender, sequence, 100, body))
        self.ledger.make_first_block()

    # --- the wire --------------------------------------------------------------------------------------------------

    def _from_pile(self, pile: str, topic: str, payload: bytes, retained: bool) -> None:
        def arrive() -> None:
            if retained:
                self.ledger.statuses[pile] = topic, payload
            self.ledger.hear(topic, payload)

        self.network.carry(pile, "coordinator", arrive)
        if self.replicas:
            self.network.carry(pile, "second", lambda: self.ledger.hear_second(topic, payload))

    def _from_coordinator(self, topic: str, payload: bytes) -> None:
        _, side, who, _ = parse(topic)
        if side == "pile":
            self.network.carry("coordinator", who, lambda: self.piles[who].hear(topic, payload))
        elif who in self.people:
            self.network.carry("coordinator", who, lambda: self.people[who].hear(payload))

    def _connection_changed(self, end: str) -> None:
        """An agent notices at once."""
        for pile in self.piles.values():
            if end in {pile.id, BROKER}:
                pile.wake(0)

    # --- what came of it -------------------------------------------------------------------------------------------

    def count(self) -> dict[str, int]:
        """Figures for the report."""
        blocks = self.ledger.store.blocks
        return {
            "blocks": len(blocks),
            "proofs": self.judge.admitted,
            "contracts": len(self.ledger.evidence.terms),
            "settled_wh": self.judge.settled_wh,
            "pile_minutes": len(self.piles) * (self.world.now_ms - EPOCH_MS) // MINUTE_MS,
            **{f"fault {kind}": number for kind, number in sorted(self.faults.count.items())},
        }


def _genesis(owners: list[str], drivers: list[str]) -> Genesis:
    roles = ROLES | dict.fromkeys(owners, "pile-owner") | dict.fromkeys(drivers, "ev-owner")
    windows = {"begin_grace_ms": HOUR_MS // 2, "evidence_window_ms": HOUR_MS, "confirm_window_ms": HOUR_MS}
    return genesis_from_json(
        {
            "name": "simulated",
            "time_ms": EPOCH_MS,
            "params": PARAMS | windows,
            "tariff": TARIFF,
            "parties": [
                {"id": party, "role": role, "public": cose.SoftwareSigner(secret_of(party)).public.hex()}
                for party, role in sorted(roles.items())
            ],
            "validators": [
                {"party": node, "public": cose.SoftwareSigner(secret_of(f"{node}/attest")).public.hex(), "power": 1}
                for node in NODES
            ],
        }
    )


@lru_cache(1)
def _profile() -> dict[str, object]:
    return board_profile(profile_mapping(PROFILE))


def _settings(genesis: Genesis, name: str, serial: int, sample_ms: int, heartbeat_ms: int) -> Settings:
    return check_config(
        {
            "chain_id": genesis.chain_id,
            "pile_id": name,
            "signer": f"file:/{name}.key",
            "validators": [{"party": v.party, "public": v.public, "power": v.power} for v in genesis.validators],
            "mqtt": {"host": "broker", "port": 1883},
            "bus": {"kind": "tcp", "host": "meter", "port": 502},
            "meter": {"profile": _profile(), "unit": METER_UNIT, "serial": str(serial), "rated_power_w": RATED_W},
            "control": {"kind": "coil", "unit": RELAY_UNIT, "coil": 0},
            "journal": {"path": f"/{name}", "segment_bytes": FILE_BYTES, "capacity_bytes": 8 * FILE_BYTES},
            "timing": {
                "sample_ms": sample_ms,
                "report_ms": max(sample_ms, 5 * MINUTE_MS),
                "heartbeat_ms": heartbeat_ms,
                "silent_after_ms": max(2 * sample_ms, MINUTE_MS),
            },
        },
        "",
    )
