"""Four validators on this machine: our application beside CometBFT's own kvstore, under the same load in the same run.

Transactions are made and signed beforehand, spread over the four nodes' RPC, ten in a call, with no more on their way than a
mempool takes, and counted when a block holds them; both networks have the same configuration but for the application. Ours
get the ten as coordinators hand them over, in one bundle (engines/comet/bundle.py); what they cost when each is a transaction
of CometBFT's own is a figure beside it.

The load runs at two paces: that of the networks which `pilechain init` writes, and one of 200 ms, which leaves no rest. In the
second it is the processors that count: both cores are shared by four nodes, four applications, the broker and the load, and
every one of our nodes checks every signature, which kvstore does not do at all. So that figure is of a machine that is full,
not of four machines.
"""

import base64
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.figures import Figure, report
from pile_coordinator.chain.records import Party, Pile
from pile_coordinator.chain.transactions import (
    Body,
    Deposit,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
    Withdraw,
    sign_transaction,
)
from pile_coordinator.engines.comet.bundle import pack, unpack
from pile_coordinator.engines.comet.network import Pace
from pile_coordinator.engines.comet.rpc import Rpc
from pile_coordinator.engines.comet.supervise import find_cometbft
from pile_coordinator.engines.engine import load_state
from pile_coordinator.keys import load_key
from pile_coordinator.replay import open_ledger
from pile_hil.broker import Mosquitto
from pile_hil.network import Network
from pile_hil.site import SiteProcess, wait_for
from pile_shared import cose
from pile_shared.certificate import decode_header
from pile_shared.errors import LinkError
from pile_shared.platform import es256_verify, sha256
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof, proof_hash
from pile_shared.reading import Reading

USERS, EACH = 200, 40
NODES, ROUNDS = 4, 3
SETTLE_S = 2.0
PILES, PROOFS_EACH = 100, 80
BATCH = 240  # proofs in a transaction of 65,000 bytes
VALID = 100_000
NO_REST = Pace(commit_ms=200, propose_ms=5000, vote_ms=2000, idle_ms=1000)
ON_THEIR_WAY = 4000  # a mempool takes 5,000
PER_CALL = 10
KVSTORE = "CometBFT's kvstore, same load, same run, in tx/s"


@dataclass(frozen=True)
class Run:
    """What a load did: transactions a second, s between blocks that hold some, s from handing over to a block."""

    rate: float
    block_s: float
    p99_s: float


def figures() -> Iterator[Figure]:
    """Rates, block time and latency."""
    yield from _shipped()
    yield from _without_rest()


def _shipped() -> Iterator[Figure]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Mosquitto(Path(folder) / "broker") as broker,
        _both(Path(folder), broker.port, Pace()) as (market, other, nodes),
    ):
        ours, theirs = _rounds(market, other, nodes)
        market.check_carried_out()
    yield Figure("consensus-tx", _middle(ours, "rate"), "tx/s", _middle(theirs, "rate"), KVSTORE, ">= 0.5")
    yield Figure("consensus-block-time", _middle(ours, "block_s"), "s", _middle(theirs, "block_s"), "kvstore's", "")
    yield Figure("consensus-p99", _middle(ours, "p99_s"), "s", _middle(theirs, "p99_s"), "kvstore's", "")


def _without_rest() -> Iterator[Figure]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Mosquitto(Path(folder) / "broker") as broker,
        _both(Path(folder), broker.port, NO_REST) as (market, other, nodes),
    ):
        ours, theirs = _rounds(market, other, nodes)
        _signal_all(nodes, signal.SIGSTOP)
        alone = load(market.network, market.withdrawals())
        singles = load(market.network, market.single_proofs())
        batches = market.batches()
        proofs = load(market.network, [batches])
        market.check_carried_out()
    limit = _middle(theirs, "rate")
    per_proof = proofs.rate * PILES * PROOFS_EACH / len(batches)
    yield Figure("consensus-tx-200ms", _middle(ours, "rate"), "tx/s", limit, KVSTORE, "")
    yield Figure("consensus-tx-200ms-alone", alone.rate, "tx/s", limit, KVSTORE + "; none in a bundle", "")
    yield Figure("consensus-proofs", per_proof, "proofs/s", singles.rate, "one proof a transaction, in tx/s", ">= 5.0")
    yield Figure(
        "consensus-signatures", _middle(ours, "rate") * NODES, "/s", _checks_per_s(), "one core does only that", ""
    )


@contextmanager
def _both(folder: Path, broker_port: int, pace: Pace) -> Iterator[tuple["_Market", Network, list[int]]]:
    """Both networks, ours with everybody admitted; and kvstore's processes."""
    with (
        Network(folder / "ours", broker_port, pace=pace, snapshot_interval=0) as network,
        _kvstore(folder / "kvstore", broker_port, pace) as (other, nodes),
    ):
        network.start()
        network.wait_height(2)
        market = _Market(network)
        with _stopped(nodes):
            market.admit()
        yield market, other, nodes


def _rounds(market: "_Market", other: Network, nodes: list[int]) -> tuple[list[Run], list[Run]]:
    """What the load did in each round, to ours and to kvstore.

    They take turns, as machines are shared. The one that waits is stopped (SIGSTOP), so that it costs the other nothing.
    """
    ours, theirs, network = [], [], market.network
    for number in range(ROUNDS):
        said = market.withdrawals()
        with _stopped(nodes):
            ours.append(load(network, said, bundled=True))
        with _stopped([process for name in network.names for process in network.pids(name).values()]):
            theirs.append(load(other, _pairs(number, len(said[0][0]))))
    return ours, theirs


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Stop processes for a while, and give them a moment afterwards to hear each other again."""
    _signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_all(pids, signal.SIGCONT)
        time.sleep(SETTLE_S)


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _middle(runs: list[Run], what: str) -> float:
    return float(statistics.median(getattr(run, what) for run in runs))


# --- load ----------------------------------------------------------------------------------------------------------------


def load(network: Network, senders: list[list[bytes]], *, bundled: bool = False) -> Run:
    """Hand over every sender's transactions in order, a sender at one node; return when blocks hold them all."""
    addresses = [network.home(name).rpc_address() for name in network.names]
    queues = [
        [tx for s, txs in enumerate(senders) if s % len(addresses) == n for tx in txs] for n in range(len(addresses))
    ]
    sent_s: dict[bytes, float] = {}
    watch = _Watch(Rpc(addresses[0], timeout_s=60))
    began_s = time.monotonic()
    hands = [
        threading.Thread(target=_hand_over, args=(*row, sent_s, watch.held_s, bundled))
        for row in zip(addresses, queues, strict=True)
    ]
    for hand in hands:
        hand.start()
    while any(hand.is_alive() for hand in hands) or not watch.held_s.keys() >= sent_s.keys():
        missing = len(sent_s.keys() - watch.held_s.keys())
        assert time.monotonic() < began_s + 300, f"{missing} transactions are in no block"
        time.sleep(0.02)
        watch.look()
    took_s = max(watch.held_s[tx] for tx in sent_s) - began_s
    latencies = sorted(watch.held_s[tx] - sent_s[tx] for tx in sent_s)
    gaps = [b - a for a, b in pairwise(watch.blocks_s)]
    return Run(len(sent_s) / took_s, statistics.median(gaps or [took_s]), latencies[len(latencies) * 99 // 100])


def _hand_over(
    address: str, txs: list[bytes], sent_s: dict[bytes, float], held_s: dict[bytes, float], bundled: bool
) -> None:
    """One client of one node: as fast as the node takes them, and not so many that a mempool is full."""
    rpc = Rpc(address, timeout_s=60)
    for start in range(0, len(txs), PER_CALL):
        part = txs[start : start + PER_CALL]
        while len(sent_s) - len(held_s) >= ON_THEIR_WAY:
            time.sleep(0.01)
        now_s = time.monotonic()
        answers = rpc.calls(
            [("broadcast_tx_async", {"tx": base64.b64encode(tx).decode()}) for tx in (pack(part) if bundled else part)]
        )
        assert not any("error" in answer for answer in answers), answers
        sent_s.update(dict.fromkeys(part, now_s))
    rpc.close()


class _Watch:
    """Reads one node's blocks as they come: when each transaction was seen in one."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._height = self._latest()
        self.held_s: dict[bytes, float] = {}
        self.blocks_s: list[float] = []

    def _latest(self) -> int:
        return int(self._rpc.call("status")["sync_info"]["latest_block_height"])

    def look(self) -> None:
        """Take in what is new."""
        latest, now_s = self._latest(), time.monotonic()
        while self._height < latest:
            self._height += 1
            txs = self._rpc.call("block", height=str(self._height))["block"]["data"]["txs"]
            self.held_s |= {tx: now_s for entry in txs for tx in unpack(base64.b64decode(entry))}
            if txs:
                self.blocks_s.append(now_s)


# --- what is sent ----------------------------------------------------------------------------------------------------------


class _Market:
    """Parties of the network and what they send, signed for its chain."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._chain = network.genesis.chain_id
        self._grid, self._operator = (load_key(network.key_file(party)) for party in ("grid", "operator"))
        self._sequences: dict[str, int] = {}
        self._chains: dict[str, tuple[int, bytes]] = {}  # by pile: the last proof's sequence and hash
        self._began_ms = time.time_ns() // 1_000_000

    def _sign(self, signer: cose.SoftwareSigner, party: str, body: Body) -> bytes:
        sequence = self._sequences[party] = self._sequences.get(party, 0) + 1
        return sign_transaction(signer, self._chain, party, sequence, VALID, body)

    def admit(self) -> None:
        """Users with money, piles, and operators."""
        said: list[tuple[str, Body]] = [
            ("operator", RegisterParty(f"user-{i}", "ev-owner", _key(f"user-{i}").public)) for i in range(USERS)
        ]
        said.append(("operator", RegisterParty("olga", "pile-owner", _key("olga").public)))
        for i in range(PILES):
            said.append(("operator", RegisterParty(f"site-{i}", "operator", _key(f"site-{i}").public)))
            row = (_key(f"pile-{i}").public, "SDM630", f"m{i}", "north", 7000)
            said.append(("operator", RegisterPile(f"pile-{i}", "olga", *row)))
        said += [("grid", Deposit(f"user-{i}", 10**9, f"opening-{i}")) for i in range(USERS)]
        signers = {"operator": self._operator, "grid": self._grid}
        signed = [(party, self._sign(signers[party], party, body)) for party, body in said]
        for party in ("operator", "grid"):  # in portions that a mempool takes of one party
            queue = [tx for sender, tx in signed if sender == party]
            for start in range(0, len(queue), 50):
                load(self.network, [queue[start : start + 50]])

    def withdrawals(self) -> list[list[bytes]]:
        """Every user's next transactions."""
        return [
            [self._sign(_key(name), name, Withdraw(1, "IBAN 1")) for _ in range(EACH)]
            for name in (f"user-{user}" for user in range(USERS))
        ]

    def single_proofs(self) -> list[list[bytes]]:
        """One proof a transaction, each pile's by a coordinator of its own: of one sender only so many may wait."""
        return [
            [self._sign(_key(f"site-{i}"), f"site-{i}", SubmitProofs([self._proof(f"pile-{i}")])) for _ in range(EACH)]
            for i in range(PILES)
        ]

    def batches(self) -> list[bytes]:
        """Proofs of all piles, in the transactions of one coordinator."""
        proofs = [self._proof(f"pile-{i}") for _ in range(PROOFS_EACH) for i in range(PILES)]
        return [
            self._sign(self._operator, "operator", SubmitProofs(proofs[at : at + BATCH]))
            for at in range(0, len(proofs), BATCH)
        ]

    def check_carried_out(self) -> None:
        """A block holds what was refused, too: nothing was."""
        self.network.close()
        data = self.network.home(self.network.names[0]).path.parent / "data"
        store = open_ledger(data / "ledger.sqlite", self.network.genesis)
        state = load_state(store, decode_header(store.last_header() or b""))
        store.close()
        assert all(state.get(Pile, pile).last_sequence == sequence for pile, (sequence, _) in self._chains.items())
        assert {
            f"user-{i}": state.get(Party, f"user-{i}").sequence for i in range(USERS)
        }.items() <= self._sequences.items()

    def _proof(self, pile: str) -> bytes:
        """A pile's next proof."""
        sequence, previous = self._chains.get(pile, (0, NO_PREVIOUS))
        reading = Reading(self._began_ms + sequence, 2, (1000).to_bytes(8, "big"), 1000, 0, 0)
        proof = Proof(sequence + 1, previous, None, HEARTBEAT, [reading], 0, None).sign(_key(pile), self._chain)
        self._chains[pile] = sequence + 1, proof_hash(proof)
        return proof


def _checks_per_s() -> float:
    """How many signatures one core of this machine checks in a second."""
    signer, message, count = _key("limit"), bytes(200), 2000
    signature = signer.sign(message)
    began_s = time.monotonic()
    for _ in range(count):
        assert es256_verify(signer.public, message, signature)
    return count / (time.monotonic() - began_s)


_KEYS: dict[str, cose.SoftwareSigner] = {}


def _key(name: str) -> cose.SoftwareSigner:
    if name not in _KEYS:
        _KEYS[name] = cose.SoftwareSigner(sha256(name.encode()))
    return _KEYS[name]


def _pairs(number: int, size: int) -> list[list[bytes]]:
    """What kvstore takes, as much and as long as the transactions of ours."""
    heads = [[f"key-{number}-{user}-{i}=" for i in range(EACH)] for user in range(USERS)]
    return [[(head + "x" * (size - len(head))).encode() for head in row] for row in heads]


@contextmanager
def _kvstore(folder: Path, broker_port: int, pace: Pace) -> Iterator[tuple[Network, list[int]]]:
    """The same network with CometBFT's example application in each node's own process, and these."""
    network = Network(folder, broker_port, pace=pace, snapshot_interval=0)
    processes = []
    for name in network.names:
        config = network.home(name).path / "config" / "config.toml"
        lines = config.read_text().splitlines()
        config.write_text("\n".join('proxy_app = "kvstore"' if row.startswith("proxy_app") else row for row in lines))
        command = [find_cometbft(), "start", "--home", str(network.home(name).path)]
        processes.append(SiteProcess(name, command, folder / f"{name}.log"))
    try:
        for process in processes:
            process.start()
        wait_for(lambda: _is_up(network), 60, "kvstore's first blocks", *processes)
        pids = [process.pid for process in processes]
        yield network, pids
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)
            process.stop()


def _is_up(network: Network) -> bool:
    try:
        for name in network.names:
            rpc = Rpc(network.home(name).rpc_address())
            if int(rpc.call("status")["sync_info"]["latest_block_height"]) < 2:
                return False
            rpc.close()
    except LinkError:
        return False
    return True


if __name__ == "__main__":
    report(figures())
