"""One accounting node of a live network lies in every way it can; the others, their money and their readers are none the worse.

Its application is that of tests/byzantine.py; what a node can say over MQTT is said here, with its keys and under all names.
"""

import os
import random
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from byzantine import EXTENDED, FOLDER, LIES, PROPOSED
from test_network import RULES, Load, broker, follow, punished, tables

from pile_coordinator.chain.conduct import DOUBLE_ATTESTATION
from pile_coordinator.chain.transactions import Body, DoubleAttestation, SetCommission, decode_transaction
from pile_coordinator.clock import Clock
from pile_coordinator.engines.attesting import ATTESTATION, CERTIFICATE, MISSING, node_topic
from pile_coordinator.engines.comet.network import Pace, Stake
from pile_coordinator.keys import load_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.wallet import Wallet
from pile_edge.light import LightClient
from pile_edge.ports.cpython_storage import Storage
from pile_hil.network import Network
from pile_shared.certificate import Certificate, Header, Inclusion, Validator, attest, decode_header
from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

__all__ = ["broker"]
pytestmark = pytest.mark.timeout(300)

NODES = tuple(f"operator-{number}" for number in range(1, 6))  # each serves, and hears what the others attest
PACE = Pace(commit_ms=50, propose_ms=2000, vote_ms=200, idle_ms=500)
RATE = 10  # an epoch of a minute in six seconds
HERE = Path(__file__).parent


class NodeLoad(Load):
    """Money is booked by the grid; a node's party changes its commission all the time."""

    def __init__(self, network: Network, node: str) -> None:
        super().__init__(network)
        self.node = node

    def wallet(self) -> Wallet:
        return Wallet(self.network.genesis, self.node, load_key(self.network.party_key(self.node)), self.network.broker)

    def body(self) -> Body:
        return SetCommission(self.tries % 1000)


class Gossip(threading.Thread):
    """Says over MQTT what a node with this attestation key can say, about itself and in the names of others."""

    def __init__(self, network: Network, liar: str) -> None:
        super().__init__(name="gossip")
        self.chain_id, self.liar, self.network = network.genesis.chain_id, liar, network
        self.key = load_key(network.folder / liar / "keys" / "attest.key")
        topics = [node_topic(self.chain_id, "+", kind) for kind in (ATTESTATION, CERTIFICATE)]
        self.connection = Connection(network.broker, "gossip", topics, persistent=False)
        self.dice = random.Random(7)
        self.said: dict[str, bytes] = {}  # the newest true attestation by node
        self.certified: Certificate | None = None
        self.done = threading.Event()
        self.count = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join(30)
        self.connection.close()

    def run(self) -> None:
        while not self.done.wait(0.01):
            for topic, payload in self.connection.take(0, 100):
                self.listen(topic, payload)
            name = self.dice.choice((*NODES, self.liar, "grid", "nobody", "Not-A-Name", "+x"))
            if "+" not in name:
                kind = self.dice.choice((ATTESTATION, MISSING, CERTIFICATE, "gossip"))
                self.say(name, kind, self.dice.choice(self.messages()))
                self.say(self.liar, MISSING, encode(1 + self.dice.randrange(3)))

    def listen(self, topic: str, payload: bytes) -> None:
        *_, node, kind = topic.split("/")
        try:
            if kind == ATTESTATION and node in NODES:
                header = decode_header(decode(payload, 1000)[0])
                if self.height(node) < header.height < 1 << 20:
                    self.said[node] = payload
            elif kind == CERTIFICATE:
                certificate = Certificate(*decode(payload, 10_000))
                certificate.verify(self.chain_id, list(self.network.genesis.validators))
                self.certified = certificate
        except (PilechainError, TypeError, IndexError):
            return  # our own

    def height(self, node: str) -> int:
        return decode_header(decode(self.said[node], 1000)[0]).height if node in self.said else 0

    def messages(self) -> list[bytes]:
        """All sorts: none of them a second header of a block, which only `lie` tells."""
        true = self.said.get(self.dice.choice(NODES), b"")
        far = Header(**(vars(self.header()) | {"height": 1 << 40})).encoded()
        elsewhere = Header(**(vars(self.header()) | {"chain_id": "another"})).encoded()
        certificate = self.certified.fields() if self.certified else []
        return [
            b"",
            self.dice.randbytes(self.dice.choice((1, 100, 300_000))),
            true,
            true[:-1] + b"\x00",
            true[: len(true) // 2],
            encode([far, attest(far, self.key, self.chain_id)]),
            encode([elsewhere, attest(elsewhere, self.key, self.chain_id)]),
            encode([[[[]]]] * 8),
            encode(1 << 60),
            encode(certificate),
            encode([self.header().encoded(), [[0, bytes(64)]] * 100]),
        ]

    def header(self) -> Header:
        """The newest that the liar itself has truly attested."""
        if self.liar not in self.said:
            return Header(
                chain_id=self.chain_id, height=1, time_ms=0, proposer="x", tx_count=0, result_count=0,
                **dict.fromkeys(("previous", "tx_root", "result_root", "state_root"), bytes(32)),
                **dict.fromkeys(("validators_hash", "next_validators_hash"), bytes(32)),
            )  # fmt: skip
        return decode_header(decode(self.said[self.liar], 1000)[0])

    def say(self, name: str, kind: str, payload: bytes, *, retained: bool = False) -> None:
        self.connection.publish(node_topic(self.chain_id, name, kind), payload, retained)
        self.count += 1

    def lie(self) -> Header:
        """Attest another header of a block than the one it has attested; and certify it alone, in another's name."""
        forged = Header(**(vars(self.header()) | {"state_root": sha256(b"forged")}))
        signature = attest(forged.encoded(), self.key, self.chain_id)
        self.say(self.liar, ATTESTATION, encode([forged.encoded(), signature]))
        places = [validator.party for validator in self.network.genesis.validators]
        rows = [[places.index(self.liar), signature]]
        self.say("grid", CERTIFICATE, encode([forged.encoded(), rows]), retained=True)
        return forged


def test_a_node_that_lies_in_every_way_changes_nothing_but_its_own_stake(tmp_path, broker):
    """Five candidates, of whom four are elected; one of these is Byzantine from the first block on."""
    clock = Clock(RATE, time.time_ns() // 1_000_000)
    environment = corruptible(tmp_path, tmp_path / "network")
    options = {"clock": clock, "stake": Stake(RULES, 10_000_000), "params": {"epoch_ms": 60_000}}
    with Network(
        tmp_path / "network", broker.port, names=NODES, pace=PACE, environment=environment, **options
    ) as network:
        elected = [validator.party for validator in network.genesis.validators]
        (spare,) = set(NODES) - set(elected)
        liar, *correct = elected
        (network.folder / liar / PROPOSED).touch()  # this is what corrupts it
        allow_vote_extensions(network)
        network.start()
        network.wait_height(2)
        pids = {name: network.pids(name) for name in (*correct, spare)}
        loads = [Load(network), *(NodeLoad(network, node) for node in correct)]
        with loads[0], loads[1], loads[2], loads[3], Gossip(network, liar) as gossip:
            lies = network.folder / liar / PROPOSED
            network.wait("every lie to be proposed", lambda: {*LIES, EXTENDED} <= set(told(lies)), 120)
            assert punished(network.folder / spare / "data" / "evidence.sqlite") == []
            forged = gossip.lie()
            offence = [(liar, DOUBLE_ATTESTATION, 500_000)]
            for name in (*correct, spare):
                evidence = network.folder / name / "data" / "evidence.sqlite"
                network.wait("the punishment", lambda where=evidence: punished(where) == offence, 60)
            network.wait("the replacement", lambda: network.status(spare).get("power", 0) > 0, 60)
            assert network.status(liar).get("power", 0) == 0
            for load in loads:
                load.wait_for(2)
        assert gossip.count > 500
        assert {name: network.pids(name) for name in (*correct, spare)} == pids, "nobody else has stopped"
        network.wait_agreed(*correct, spare)
        network.close()
        acknowledged = [done for load in loads for done in load.acknowledged]
        check(network, (*correct, spare), acknowledged)
        for name in correct:  # each refuses what the liar proposed, and nothing that the others did
            refused = network.processes[name].text().count("state machine rejected a proposed block")
            assert 0 < refused <= len(told(lies)) - 1
        readers(network, liar, forged, tmp_path)


def corruptible(tmp_path: Path, folder: Path) -> dict[str, dict[str, str]]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import byzantine\nbyzantine.begin()\n")
    path = os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {name: {"PYTHONPATH": path, FOLDER: str(folder / name)} for name in NODES}


def allow_vote_extensions(network: Network) -> None:
    """So that the liar's votes are extended with bytes, which everybody else then refuses to count."""
    for name in network.names:
        path = network.home(name).path / "config" / "genesis.json"
        text = path.read_text()
        assert '"vote_extensions_enable_height": "0"' in text
        path.write_text(text.replace('"vote_extensions_enable_height": "0"', '"vote_extensions_enable_height": "1"'))


def told(log: Path) -> list[str]:
    return log.read_text().splitlines()


def check(network: Network, names: tuple[str, ...], acknowledged: list[tuple[bytes, int]]) -> None:
    """Equal blocks, of correct transactions only, that lead to the stored state by the law; nothing lost; all told once."""
    headers, charges, evidence = {}, [], {}
    for name in names:
        store = open_ledger(network.folder / name / "data" / "ledger.sqlite", network.genesis)
        blocks = [store.block(height) for height in range(1, store.height() + 1)]
        headers[name] = [block.header.encoded() for block in blocks]
        for tx_id, height in acknowledged:
            assert store.find_tx(tx_id)[0] == height
        codes = {result.code for block in blocks for result in block.results}
        assert codes <= {"ok", "phase"}, "phase: charged by another in the same block"
        bodies = [decode_transaction(tx).body for block in blocks for tx in block.txs]
        charges = [body for body in bodies if isinstance(body, DoubleAttestation)]
        assert store.notes("charge/") == {}
        evidence[name] = tables(network.folder / name / "data" / "evidence.sqlite")
        assert "stopped before" not in network.processes[name].text()
        if name == names[0]:
            audit(store, network.genesis)
        store.close()
    assert all(found == headers[names[0]] for found in headers.values())
    assert all(found == evidence[names[0]] for found in evidence.values())
    assert 1 <= len(charges) <= len(names)
    assert len(acknowledged) == len(set(acknowledged)) > 20


def readers(network: Network, liar: str, forged: Header, folder: Path) -> None:
    """A pile that pinned genesis: nothing the liar can sign moves it, and it follows the chain to the set without it."""
    store = open_ledger(network.folder / network.names[-1] / "data" / "ledger.sqlite", network.genesis)
    key = load_key(network.folder / liar / "keys" / "attest.key")
    chain_id, validators = network.genesis.chain_id, list(network.genesis.validators)
    pile = LightClient(
        chain_id=chain_id, validators=validators, pile_id="pile-1", public=bytes(65), meter_serial="1",
        storage=Storage(str(folder / "cheated-pile")),
    )  # fmt: skip
    true = store.certificate(forged.height)
    place = [validator.party for validator in validators].index(liar)
    following = encode([Validator(liar, key.public, 1).fields()])
    alone = Header(**(vars(forged) | {"next_validators_hash": sha256(following)})).encoded()
    own = [place, attest(alone, key, chain_id)]
    others = sorted([own, *(row for row in true.attestations if row[0] != place)])
    for rows, code in (([own], "quorum"), ([own] * 4, "bounds"), (others, "signature")):
        with pytest.raises(PilechainError) as caught:
            pile.follow(Certificate(alone, rows), following)
        assert caught.value.code == code
        true_proof = store.block(forged.height).inclusion(0)
        with pytest.raises(PilechainError):
            pile.verify(Inclusion(Certificate(alone, rows), true_proof.leaf, 0, true_proof.path))
    assert [v.party for v in pile.validators] == [v.party for v in validators]
    assert follow(store, network, folder) == sorted({*network.names} - {liar})
    store.close()
