"""A network of accounting nodes as processes on one machine, for tests, figures and the demo: real CometBFT, real broker.

Each node is what an operator would run, `pilechain run` on a folder that `pilechain init` would write. Everything listens on
loopback, or inside network namespaces of its own, and is stopped by `close`.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from pile_coordinator.clock import Clock
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.network import PORTS_PER_NODE, NodePlan, Pace, Stake, plan_nodes, write_network
from pile_coordinator.engines.comet.supervise import find_cometbft
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.mqtt import Broker
from pile_coordinator.network_cli import node_status
from pile_coordinator.new_chain import FOUNDERS, PARAMS, founding_document
from pile_coordinator.wallet import Wallet
from pile_hil.site import SiteError, SiteProcess, note_rules
from pile_shared.errors import ConfigError

if TYPE_CHECKING:
    from pile_coordinator.chain.genesis import Genesis

NAMES = ("auditor", "grid", "operator-1", "operator-2")
STOP_S = (
    40  # a supervisor gives CometBFT and the application 15 each; one that is killed leaves them behind for a while
)
FAST = Pace(commit_ms=200, propose_ms=3000, vote_ms=1000, idle_ms=1000)


def has_cometbft() -> bool:
    """Whether this machine can run CometBFT."""
    try:
        find_cometbft()
    except ConfigError:
        return False
    return True


def free_ports(count: int) -> int:
    """The first of so many loopback ports in a row that are free now, below those that the system gives to connections."""
    for _ in range(200):
        first = random.randrange(12_000, 32_000 - count)  # noqa: S311 - no secret
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise SiteError(f"no {count} free ports in a row")


class Network:
    """Accounting nodes in a folder. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        broker_port: int,
        *,
        names: tuple[str, ...] = NAMES,
        pace: Pace = FAST,
        clock: Clock | None = None,
        snapshot_interval: int = 10,
        broker_host: str = "127.0.0.1",
        hosts: tuple[str, ...] = ("127.0.0.1",),
        environment: Mapping[str, Mapping[str, str]] | None = None,
        prefix: Mapping[str, list[str]] | None = None,
        stake: Stake | None = None,
        params: Mapping[str, object] | None = None,
        notes: Mapping[str, int] | None = None,
    ) -> None:
        """Write everything below `folder`; nothing runs yet.

        Args:
            folder: for the nodes, keys and logs.
            broker_port: of an MQTT broker at `broker_host` that is, or will be, there.
            names: of the accounting nodes; those named operator serve piles and wallets.
            pace: of blocks.
            clock: what all nodes' clocks show.
            snapshot_interval: heights of CometBFT between snapshots.
            broker_host: where the broker is.
            hosts: where nodes listen for each other, one for all or one for each.
            environment: more environment variables, by node.
            stake: how nodes are elected; None for nodes that stay.
            params: of the chain, that differ.
            notes: rules of notes, that differ from those of a `Site`.
            prefix: words before a node's command, by node: what runs it in a namespace.
        """
        self.folder = folder
        self.names = tuple(sorted(names))
        self.clock = clock or Clock()
        self.broker = Broker(broker_host, broker_port)
        self._environment, self._prefix = environment or {}, prefix or {}
        self.plans = plan_nodes(self.names, hosts, free_ports(PORTS_PER_NODE * len(names)))
        serving = {name: f"coordinator-{name}" for name in self.names if name.startswith("operator")}
        keys = {party: make_key(self.key_file(party)) for party in FOUNDERS}
        parties = {party: (role, keys[party].public.hex()) for party, role in FOUNDERS.items()}
        for node, party in serving.items():
            parties[party] = ("operator", make_key(folder / node / "keys" / "coordinator.key").public.hex())
        if stake is not None:
            for node in self.names:
                parties[node] = ("operator", make_key(folder / node / "keys" / "party.key").public.hex())
        began_ms = self.clock.origin_ms or Clock().now_ms()
        rules = note_rules(self.clock.rate) | dict(notes or {})
        document = founding_document("network", began_ms, dict(sorted(parties.items())), rules)
        document["params"] = PARAMS | dict(params or {})
        self.genesis: Genesis = write_network(
            folder, document, self.plans, pace, broker=(broker_host, broker_port), serving=serving, stake=stake
        )
        for name in self.names:
            self._adjust(name, snapshot_interval)
        self.processes: dict[str, SiteProcess] = {}

    def party_key(self, node: str) -> Path:
        """Where the key of a node's party is, which stands for election."""
        return self.folder / node / "keys" / "party.key"

    def _adjust(self, name: str, snapshot_interval: int) -> None:
        path = self.folder / name / "coordinator.toml"
        text = re.sub(r"snapshot_interval = \d+.*", f"snapshot_interval = {snapshot_interval}", path.read_text())
        text = text.replace('engine = "comet"', 'engine = "comet"\nblock_interval_ms = 50')
        path.write_text(f"{text}\n[clock]\nrate = {self.clock.rate}\norigin_ms = {self.clock.origin_ms}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every node, all at once."""
        for name, process in self.processes.items():
            if process.running:
                for pid in self.pids(name).values():
                    _signal(pid, signal.SIGCONT)
                process.signal(signal.SIGTERM)
        for process in self.processes.values():
            process.stop(STOP_S)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def key_file(self, party: str) -> Path:
        """Where a founder's key is."""
        return self.folder / "parties" / f"{party}.key"

    def plan(self, name: str) -> NodePlan:
        """Where a node listens."""
        return self.plans[self.names.index(name)]

    def home(self, name: str) -> Home:
        """A node's CometBFT folder."""
        return Home(self.folder / name / "node")

    def start(self, *names: str) -> None:
        """Start nodes, all if none is named."""
        for name in names or self.names:
            config = str(self.folder / name / "coordinator.toml")
            words = [sys.executable, "-m", "pile_coordinator.cli", "run", "--config", config]
            process = SiteProcess(
                name,
                [*self._prefix.get(name, []), *words],
                self.folder / f"{name}.log",
                self._environment.get(name),
            )
            self.processes[name] = process
            process.start()

    def start_twin(self, name: str) -> None:
        """Run a node's voting key in a second place, which is what makes an honest party sign twice."""
        twin, plan = f"{name}-twin", self.plan(name)
        first = free_ports(PORTS_PER_NODE)
        shutil.copytree(self.folder / name, self.folder / twin, ignore=shutil.ignore_patterns("data"))
        home = self.folder / twin / "node"
        config = home / "config" / "config.toml"
        text = config.read_text()
        for number, port in enumerate((plan.p2p_port, plan.rpc_port, plan.app_port)):
            text = re.sub(
                rf"(laddr|proxy_app) = \"tcp://127.0.0.1:{port}\"", rf'\1 = "tcp://127.0.0.1:{first + number}"', text
            )
        config.write_text(text)
        (home / "config" / "node_key.json").unlink()  # CometBFT makes a new one
        (home / "data").mkdir()
        (home / "data" / "priv_validator_state.json").write_text('{"height": "0", "round": 0, "step": 0}')
        self.start(twin)

    def stop(self, name: str) -> None:
        """Stop a node the polite way."""
        self.processes[name].stop(STOP_S)

    def pids(self, name: str) -> dict[str, int]:
        """The processes of a running node: `supervisor`, and `application` and `cometbft` while they are up."""
        supervisor = self.processes[name].pid
        found = {"supervisor": supervisor}
        for pid, words in _children(supervisor).items():
            found[role_of(words)] = pid
        return found

    def kill(self, name: str, which: str) -> None:
        """SIGKILL one of a node's processes; its supervisor starts it again, unless it is the supervisor."""
        _signal(self.pids(name)[which], signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP a node: it holds its connections and says nothing."""
        for pid in self.pids(name).values():
            _signal(pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        for pid in self.pids(name).values():
            _signal(pid, signal.SIGCONT)

    # --- what they say -------------------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """As `pilechain network status` has it."""
        if name not in self._prefix:
            return node_status(self.folder / name)
        words = [sys.executable, "-m", "pile_coordinator.cli", "network", "status", "--json", str(self.folder / name)]
        done = subprocess.run([*self._prefix[name], *words], capture_output=True, text=True, check=False)  # noqa: S603
        return cast("dict[str, Any]", json.loads(done.stdout or "{}"))

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Return once `condition()` holds; SiteError, with the end of the logs, after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{p.text()[-1500:]}" for name, p in self.processes.items())
                raise SiteError(f"waited {seconds} s for {what}\n{logs}")
            time.sleep(0.1)

    def heights(self, *names: str) -> list[int]:
        """CometBFT's heights of nodes, all if none is named; -1 for one that does not answer."""
        return [int(self.status(name).get("comet_height", -1)) for name in names or self.names]

    def wait_height(self, height: int, *names: str, seconds: float = 60) -> None:
        """Return once nodes have reached a height of CometBFT."""
        self.wait(f"height {height}", lambda: min(self.heights(*names)) >= height, seconds)

    def wait_agreed(self, *names: str, seconds: float = 60) -> dict[str, Any]:
        """Return once nodes have the same app hash at the same height of ours; that status."""
        found: list[dict[str, Any]] = []

        def agreed() -> bool:
            found[:] = [self.status(name) for name in names or self.names]
            return len({(row.get("height"), row.get("app_hash"), row.get("certified")) for row in found}) == 1 and (
                found[0].get("certified") == found[0].get("height")
            )

        self.wait("all nodes to agree", agreed, seconds)
        return found[0]

    def wallet(self, party: str) -> Wallet:
        """A founder's wallet, connected."""
        return Wallet(self.genesis, party, load_key(self.key_file(party)), self.broker, timeout_s=60.0)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, number)


def role_of(command_line: str) -> str:
    """`cometbft` or `application`: what a supervisor's child is, by its words, each ended by a zero byte as in /proc.

    The program's own name says it: its folder, or an interpreter's, may be called anything.
    """
    return "cometbft" if Path(command_line.split("\0", maxsplit=1)[0]).name == "cometbft" else "application"


def _children(parent: int) -> dict[int, str]:
    """Command lines of a process's children, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat, words = (path / "stat").read_text(), (path / "cmdline").read_text()
        except OSError:
            continue  # it has ended
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found[int(path.name)] = words
    return found
