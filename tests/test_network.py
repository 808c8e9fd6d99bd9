"""Four accounting nodes as real processes: what is killed, stopped or late, all end with the same chain.

Money is booked all the time, and every booking that was acknowledged must be on every node's ledger in the end.
"""

import os
import re
import signal
import sqlite3
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from listening import listening

from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import Body, Deposit
from pile_coordinator.cli import main as pilechain
from pile_coordinator.clock import Clock
from pile_coordinator.engines.comet.network import PORTS_PER_NODE, Stake
from pile_coordinator.engines.store import BASE
from pile_coordinator.network_cli import write_state_sync
from pile_coordinator.new_chain import STAKE_RULES
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.wallet import Wallet, WalletError
from pile_edge.light import LightClient
from pile_edge.ports.cpython_storage import Storage
from pile_hil.broker import Mosquitto, find_mosquitto, free_port
from pile_hil.namespaces import Namespaces, has_namespaces
from pile_hil.network import NAMES, Network, free_ports, has_cometbft
from pile_hil.requirements import require
from pile_shared.certificate import decode_handover, validators_hash
from pile_shared.errors import LinkError

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def broker(tmp_path):
    require(has_cometbft(), "cometbft is not installed; run tools/servers")
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    with Mosquitto(tmp_path / "broker") as running:
        yield running


class Load(threading.Thread):
    """Books money for the operator as long as it runs; what was acknowledged is kept."""

    def __init__(self, network: Network) -> None:
        super().__init__(name="load")
        self.network = network
        self.done = threading.Event()
        self.acknowledged: list[tuple[bytes, int]] = []
        self.tries = 0

    def run(self) -> None:
        with self.wallet() as wallet:
            while not self.done.is_set():
                self.tries += 1
                try:
                    self.acknowledged.append(wallet.send(self.body()))
                except (LinkError, Rejection, WalletError):
                    continue  # it may or may not be on the chain: the next one has a reference of its own

    def wallet(self) -> Wallet:
        return self.network.wallet("grid")

    def body(self) -> Body:
        return Deposit("operator", 1, f"booking-{self.tries}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join(90)
        assert not self.is_alive()

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Return once so many more were acknowledged."""
        goal, deadline = len(self.acknowledged) + count, time.monotonic() + seconds
        while len(self.acknowledged) < goal:
            assert time.monotonic() < deadline, "\n".join(p.text()[-1500:] for p in self.network.processes.values())
            time.sleep(0.05)


def check_all(network: Network, load: Load) -> None:
    """Every node has the same blocks since genesis, certified, and the same evidence; nothing acknowledged is missing."""
    network.wait_agreed(*network.names)
    network.close()
    rows = {}
    for name in network.names:
        store = open_ledger(network.folder / name / "data" / "ledger.sqlite", network.genesis)
        rows[name] = [store.block(height).header.encoded() for height in range(1, store.height() + 1)]
        for tx_id, height in load.acknowledged:
            assert store.find_tx(tx_id)[0] == height
        audit(store, network.genesis)
        store.close()
    assert all(headers == rows[network.names[0]] for headers in rows.values())
    evidence = [tables(network.folder / name / "data" / "evidence.sqlite") for name in network.names]
    assert all(found == evidence[0] for found in evidence)
    assert len(load.acknowledged) == len(set(load.acknowledged)) > 0


def tables(path: Path) -> dict[str, list]:
    db = sqlite3.connect(path)
    names = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    found = {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names}
    db.close()
    return found


def test_one_of_four_may_be_away_and_two_stop_the_chain(tmp_path, broker):
    with Network(tmp_path / "network", broker.port) as network:
        network.start()
        with Load(network) as load:
            load.wait_for(3)
            for (
                name,
                process,
            ) in network.processes.items():  # peers on the address that was given, all else on this machine
                plan = network.plan(name)
                inside = {("127.0.0.1", plan.rpc_port), ("127.0.0.1", plan.app_port)}
                assert listening(process.pid) == {(plan.host, plan.p2p_port)} | inside
            network.pause("auditor")  # it holds its connections
            load.wait_for(5)
            network.stop("grid")  # 2 of 4
            network.wait("the chain to stand", lambda: stands(network, "operator-1", "operator-2"))
            network.resume("auditor")
            load.wait_for(3)
            network.start("grid")
            load.wait_for(3)
        check_all(network, load)


def test_a_network_that_falls_apart_heals(tmp_path):
    """Real networks: three of four go on without the fourth; two and two stand still; together they go on as one."""
    require(has_cometbft(), "cometbft is not installed; run tools/servers")
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    require(has_namespaces(), "network namespaces need root and iproute2")
    with Namespaces(4) as spaces:
        port = free_port()
        listen = (f"listener {port} {spaces.broker_host}",)
        options = {
            "broker_host": spaces.broker_host,
            "hosts": spaces.hosts,
            "prefix": {name: spaces.prefix(number) for number, name in enumerate(NAMES)},
        }
        with (
            Mosquitto(tmp_path / "broker", extra_config=listen),
            Network(tmp_path / "network", port, **options) as network,
        ):
            network.start()
            with Load(network) as load:
                load.wait_for(3)
                spaces.cut_off(0)
                load.wait_for(3)
                spaces.cut_off(0, 1)
                network.wait("the chain to stand", lambda: stands(network), 60)
                spaces.heal()
                load.wait_for(5, seconds=120)
            check_all(network, load)


def stands(network: Network, *names: str) -> bool:
    """Whether none of these nodes makes blocks for five seconds, five times what an idle chain takes for one."""
    heights = network.heights(*names)
    time.sleep(5)
    return network.heights(*names) == heights


DIE_ONCE = """
import os, signal
from pathlib import Path
where, moment = os.environ.get("TEST_DIE_AT"), os.environ.get("TEST_DIE_WHEN")
if where:
    from pile_coordinator.engines.comet.ledger import CometLedger
    from pile_coordinator.engines.comet.server import Server
    commit, answer = CometLedger.commit, Server._answer
    ledgers = []
    finalize = CometLedger.finalize
    def noting(self, decided):
        ledgers[:] = [self]
        return finalize(self, decided)
    def is_due():
        (ledger,) = ledgers
        has_block = ledger._finalized is not None and ledger._finalized.block is not None
        return has_block and ledger.height >= 2 and not Path(where).exists()
    def die():
        Path(where).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    def dying_commit(self):
        dies = is_due()
        if dies and moment == "asked to commit":
            die()
        block = commit(self)
        if dies:
            die()
        return block
    def dying_answer(self, peer):
        more = answer(self, peer)
        if ledgers and is_due():
            die()
        return more
    CometLedger.finalize = noting
    if moment == "finalized":
        Server._answer = dying_answer
    else:
        CometLedger.commit = dying_commit
"""


@pytest.mark.parametrize("moment", ["finalized", "asked to commit", "committed"])
def test_a_node_killed_around_its_commit_comes_back_the_same(tmp_path, broker, moment):
    """In three of four nodes, at the same block, the application is killed when the block is decided and not yet written, or
    written and CometBFT not told.

    Killed when it has just said what the block did, the last thing it says, CometBFT mostly hangs in its own Commit.
    """
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DIE_ONCE)
    path = f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    dying = {
        name: {"PYTHONPATH": path, "TEST_DIE_AT": str(tmp_path / f"{name}.died"), "TEST_DIE_WHEN": moment}
        for name in NAMES[:3]
    }
    with Network(tmp_path / "network", broker.port, environment=dying) as network:
        network.start()
        with Load(network) as load:
            network.wait("the kills", lambda: all((tmp_path / f"{name}.died").exists() for name in NAMES[:3]))
            load.wait_for(5)
        for name in NAMES[:3]:
            assert "application ended by signal 9" in network.processes[name].text()
        check_all(network, load)


def test_random_kills_lose_nothing(tmp_path, broker):
    with Network(tmp_path / "network", broker.port) as network:
        network.start()
        with Load(network) as load:
            load.wait_for(2)
            for name, which in (("auditor", "application"), ("grid", "cometbft"), ("operator-1", "application")):
                network.wait("it to run", lambda n=name, w=which: w in network.pids(n))
                network.kill(name, which)
                load.wait_for(3)
            network.kill("operator-2", "supervisor")  # its children notice
            network.processes["operator-2"].stop()
            load.wait_for(3)
            network.start("operator-2")
            load.wait_for(2)
        check_all(network, load)


FORGETS_SOON = """
from pile_coordinator.engines.comet import retention
retention.MARK_EVERY, retention.EVIDENCE_BLOCKS, retention.EVIDENCE_HOURS = 1, 0, 0
"""


def let_cometbft_forget(network: Network, name: str) -> None:
    """Have a node keep no more of CometBFT's blocks than its snapshots need."""
    path = network.folder / name / "coordinator.toml"
    path.write_text(re.sub(r"retain_blocks = \d+", "retain_blocks = 1", path.read_text()))


def has_forgotten(network: Network, name: str) -> bool:
    """Whether a node's CometBFT keeps what follows its oldest snapshot and nothing before."""
    snapshots = (network.folder / name / "data" / "snapshots").iterdir()
    oldest = min(int(path.name) for path in snapshots if path.name.isdecimal())
    return 1 < network.status(name).get("comet_first_height", 0) == oldest


def test_a_late_node_joins_by_state_sync_and_fetches_what_was_before(tmp_path, broker):
    """In the end nothing tells it from the others: blocks, evidence, and that it serves wallets, alone."""
    late, forgets = "operator-2", "auditor"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FORGETS_SOON)
    path = f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    options = {"snapshot_interval": 20, "environment": {forgets: {"PYTHONPATH": path}}}
    with Network(tmp_path / "network", broker.port, **options) as network:
        let_cometbft_forget(network, forgets)
        others = [name for name in network.names if name != late]
        network.start(*others)
        with Load(network) as load:
            network.wait_height(25, *others)
            write_state_sync(network.folder / late, [network.home(name).rpc_address() for name in others[:2]])
            network.start(late)
            network.wait("it to catch up", lambda: network.status(late).get("catching_up") is False, 90)
            network.wait("its history", lambda: network.status(late).get("first_height") == 1)
            said = network.processes[late]
            assert "piles and wallets wait" in said.text()
            network.wait("its evidence", lambda: "the evidence is whole" in said.text())
            network.stop("operator-1")  # the only other that serves
            load.wait_for(3)
            network.start("operator-1")
        network.wait("CometBFT to forget", lambda: has_forgotten(network, forgets))
        store = open_ledger(network.folder / late / "data" / "ledger.sqlite", network.genesis)
        assert store.note(BASE) is not None  # it did not begin with block 1
        store.close()
        check_all(network, load)


def test_a_node_that_was_added_later_follows(tmp_path, broker):
    """It has no vote, and certificates all the same."""
    with Network(tmp_path / "network", broker.port) as network:
        network.start()
        with Load(network) as load:
            load.wait_for(3)
            first_port = str(free_ports(PORTS_PER_NODE))
            words = ["network", "add", str(network.folder / "south"), "--like", str(network.folder / "grid")]
            assert pilechain([*words, "--first-port", first_port]) == 0
            network.start("south")
            load.wait_for(3)
        agreed = network.wait_agreed(*network.names, "south")
        assert network.status("south")["power"] == 0
        check_all(network, load)
        ledger = open_ledger(network.folder / "south" / "data" / "ledger.sqlite", network.genesis)
        assert audit(ledger, network.genesis).height == agreed["height"]
        ledger.close()


def test_a_supervisor_stops_cleanly_under_load(tmp_path, broker):
    """A node that meets its CometBFT at a Unix socket, as on a machine that others use too."""
    with Network(tmp_path / "network", broker.port) as network:
        config = network.home("grid").path / "config" / "config.toml"
        address = f'proxy_app = "tcp://127.0.0.1:{network.plan("grid").app_port}"'
        assert address in config.read_text()
        config.write_text(config.read_text().replace(address, 'proxy_app = "unix://app.sock"'))
        meeting = network.home("grid").path / "app.sock"
        network.start()
        with Load(network) as load:
            load.wait_for(3)
            network.wait_height(2, "grid")
            assert meeting.stat().st_mode & 0o777 == 0o600
            pids = network.pids("grid")
            assert set(pids) == {"supervisor", "application", "cometbft"}
            network.processes["grid"].signal(signal.SIGTERM)
            network.wait("it to end", lambda: not network.processes["grid"].running, 30)
            for pid in pids.values():
                assert not Path(f"/proc/{pid}").exists()
            assert not meeting.exists()
            assert "killed" not in network.processes["grid"].text()
            assert "stopped before" not in network.processes["grid"].text()
            load.wait_for(2)
            network.start("grid")
            load.wait_for(2)
        check_all(network, load)


RULES = STAKE_RULES | {"max_validators": 4, "min_self_bond_micro": 1_000_000, "downtime_window_blocks": 10_000}
RATE = 10  # an epoch of a minute in six seconds


def test_a_double_signer_is_slashed_and_replaced_and_readers_follow(tmp_path, broker):
    """A validator's keys run in two places; five candidates, of whom four are elected."""
    names = ("node-1", "node-2", "node-3", "node-4", "operator-1")
    clock = Clock(RATE, time.time_ns() // 1_000_000)
    options = {"names": names, "clock": clock, "stake": Stake(RULES, 10_000_000), "params": {"epoch_ms": 60_000}}
    with Network(tmp_path / "network", broker.port, **options) as network:
        elected = [validator.party for validator in network.genesis.validators]
        (spare,) = set(names) - set(elected)
        guilty = next(name for name in elected if name != "operator-1")
        network.start()
        with Load(network) as load:
            load.wait_for(2)
            network.start_twin(guilty)
            ledger = network.folder / "operator-1" / "data" / "evidence.sqlite"
            network.wait("the punishment", lambda: punished(ledger) == [(guilty, "double-sign", 500_000)], 120)
            network.wait("the replacement", lambda: network.status(spare).get("power", 0) > 0, 60)
            load.wait_for(2)
        network.close()
        headers = {}
        for name in names:
            store = open_ledger(network.folder / name / "data" / "ledger.sqlite", network.genesis)
            headers[name] = [store.block(height).header for height in range(1, store.height() + 1)]
            if name == "operator-1":
                for tx_id, height in load.acknowledged:
                    assert store.find_tx(tx_id)[0] == height
                assert follow(store, network, tmp_path) == sorted({*names} - {guilty})
            store.close()
        common = min(map(len, headers.values()))
        assert common > 20
        assert len({header[common - 1].hash() for header in headers.values()}) == 1


def punished(evidence: Path) -> list[tuple]:
    db = sqlite3.connect(f"{evidence.as_uri()}?mode=ro", uri=True)
    rows = db.execute("SELECT party, reason, cost_micro FROM punishment ORDER BY height").fetchall()
    db.close()
    return rows


def follow(store, network: Network, folder: Path) -> list[str]:
    """Whom a pile believes in the end that pinned genesis and follows every handover."""
    pile = LightClient(
        chain_id=network.genesis.chain_id,
        validators=list(network.genesis.validators),
        pile_id="pile-1",
        public=bytes(65),
        meter_serial="1",
        storage=Storage(str(folder / "pile")),
    )
    while (message := store.handover_from(validators_hash(pile.validators))) is not None:
        assert pile.follow(*decode_handover(message))
    certified = (block for block in map(store.block, range(store.height(), 0, -1)) if block.certificate.attestations)
    newest = next(certified)
    assert pile.verify(newest.inclusion(0)).height == newest.header.height
    return [validator.party for validator in pile.validators]
