"""A site with verify workers, for bench/site.py: broker with TLS, coordinator, workers and piles, a process each."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from bench.support.pile_load import Spec, key_of
from pile_coordinator.chain.transactions import RegisterParty, RegisterPile, sign_transaction
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.site.authority import Authority
from pile_coordinator.verifying.stream import Stream
from pile_coordinator.verifying.wire import decode_keys, keys_topic
from pile_hil.broker import Mosquitto
from pile_hil.site import ACCOUNTING_NODES, Site, SiteProcess, wait_for

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 60.0
GROUP = "bench0bench1bench2"
BROKER_CONFIG = ("max_queued_messages 100000", "max_inflight_messages 4000", "max_connections -1")


@dataclass(frozen=True)
class Cost:
    """What a process and its children took."""

    cpu_s: float
    rss_bytes: int


def cost_of(pid: int) -> Cost:
    """Of a process that runs, and of the processes that it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss_kb = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    total = Cost(cpu_s, pss_kb << 10)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        more = cost_of(int(child))
        total = Cost(total.cpu_s + more.cpu_s, total.rss_bytes + more.rss_bytes)
    return total


class ScaledSite:
    """Everything but the piles runs once it is entered."""

    def __init__(self, folder: Path, piles: int, *, workers: int) -> None:
        """Make certificates, and a ledger with so many piles in it."""
        self._folder = folder
        self.piles = [f"pile-{i}" for i in range(piles)]
        self._site = Site(folder / "site", [], rate=1)
        self._tls = folder / "tls"
        authority = Authority.make(self._tls, "bench")
        authority.issue_server(["localhost"]).write(self._tls, "broker")
        self._clients = ["coordinator", "load", *(f"worker-{i}" for i in range(1, workers + 1))]
        for name in self._clients:
            authority.issue_client(name).write(self._tls, name)
        files = {"ca": "ca.crt", "cert": "broker.crt", "key": "broker.key"}
        self._broker = Mosquitto(
            folder / "broker",
            port=self._site.port,
            tls={name: self._tls / file for name, file in files.items()},
            extra_config=BROKER_CONFIG,
            quiet=True,
        )
        self._fill_ledger()
        self.processes: dict[str, SiteProcess] = {}

    def _fill_ledger(self) -> None:
        site = self._site
        attesters = {node: load_key(site.key_file(f"{node}-attest")) for node in ACCOUNTING_NODES}
        operator = load_key(site.key_file("operator"))
        site.data.mkdir()
        engine = SoloEngine(site.data / "ledger.sqlite", site.genesis, attesters)
        bodies = [RegisterParty("olga", "pile-owner", key_of("olga").public)] + [
            RegisterPile(pile, "olga", key_of(pile).public, "SDM630", pile, "north", 7000) for pile in self.piles
        ]
        for sequence, body in enumerate(bodies, 1):
            tx = sign_transaction(operator, site.genesis.chain_id, "operator", sequence, 1000, body)
            engine.submit(tx, bounded=False)
        engine.make_block(site.clock.now_ms())
        engine.close()

    def __enter__(self) -> Self:
        self._broker.start()
        try:
            self._start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything."""
        self._site.close()
        self._broker.stop()

    def broker_as(self, name: str) -> Broker:
        """The broker as the client of this name sees it."""
        tls = self._tls
        return Broker("localhost", self._broker.port, tls=Tls(tls / "ca.crt", tls / f"{name}.crt", tls / f"{name}.key"))

    def _mqtt(self, name: str) -> str:
        tls = self._tls
        files = f'{{ca = "{tls / "ca.crt"}", cert = "{tls / f"{name}.crt"}", key = "{tls / f"{name}.key"}"}}'
        return f'[mqtt]\nhost = "localhost"\nport = {self._broker.port}\ntls = {files}\n'

    def _start_all(self) -> None:
        site, workers = self._site, self._clients[2:]
        publics = {name: make_key(site.key_file(name)).public.hex() for name in workers}
        config = site.write_coordinator()
        head, _, tail = config.read_text().partition("[mqtt]")
        clock = tail[tail.index("[clock]") :]
        named = "[workers]\n" + "".join(f'{name} = "{public}"\n' for name, public in publics.items())
        config.write_text(head + self._mqtt("coordinator") + clock + named)
        command = (sys.executable, "-m", "pile_coordinator.cli")
        self.processes["coordinator"] = site.start("coordinator", *command, "run", "--config", str(config))
        for name in workers:
            path = site.folder / f"{name}.toml"
            path.write_text(
                f'genesis = "genesis.json"\nparty = "coordinator"\nname = "{name}"\nkey = "keys/{name}.key"\n'
                f'group = "{GROUP}"\n{self._mqtt(name)}'
            )
            self.processes[name] = site.start(name, *command, "verify-worker", "--config", str(path))
        for name, process in self.processes.items():
            _wait_for_word(process, "at block" if name == "coordinator" else "shares the proofs")
        if workers:
            self._wait_for_keys()

    def _wait_for_keys(self) -> None:
        """Workers know a pile's key when the broker has it."""
        known: set[bytes] = set()
        with Stream(self.broker_as("load"), "bench-keys") as stream:
            stream.subscribe(keys_topic(self._site.genesis.chain_id, "coordinator", "+"))
            give_up_s = time.monotonic() + _START_S
            while len(known) < len(self.piles):
                assert time.monotonic() < give_up_s, f"{len(known)} keys of {len(self.piles)}"
                for message in stream.receive(1.0).messages:
                    known |= decode_keys(message.payload).keys()

    def costs(self) -> dict[str, Cost]:
        """What each process has taken until now."""
        pids = {name: process.pid for name, process in self.processes.items()} | {"broker": self._broker.pid}
        return {name: cost_of(pid) for name, pid in pids.items()}

    def publish(self, proofs: int, connections: int) -> tuple[float, dict[str, Cost]]:
        """Have every pile publish so many proofs: seconds until the last has its receipt, and what each process took."""
        with self._load(proofs, connections) as load:
            assert load.stdin is not None
            assert load.stdout is not None
            assert load.stdout.readline() == "ready\n"
            before, began_s = self.costs(), time.perf_counter()
            load.stdin.write("go\n")
            load.stdin.flush()
            told = cost_of(load.pid)
            assert load.stdout.readline() == "done\n"
            elapsed_s, after = time.perf_counter() - began_s, self.costs()
            after["load"], before["load"] = cost_of(load.pid), told
        return elapsed_s, {name: Cost(cost.cpu_s - before[name].cpu_s, cost.rss_bytes) for name, cost in after.items()}

    @contextmanager
    def _load(self, proofs: int, connections: int) -> Iterator["subprocess.Popen[str]"]:
        """The piles' process; it ends when its standard input does."""
        path, genesis = self._folder / "load.json", self._site.genesis
        time_ms = self._site.clock.now_ms() - 3_600_000
        spec = Spec(
            genesis.chain_id, "localhost", self._broker.port, str(self._tls), self.piles, proofs, connections, time_ms
        )
        path.write_text(json.dumps(asdict(spec)))
        load = subprocess.Popen(
            [sys.executable, "-m", "bench.support.pile_load", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield load
        finally:
            load.kill()
            load.communicate()


def _wait_for_word(process: SiteProcess, word: str) -> None:
    wait_for(lambda: word in process.text(), _START_S, f"{process.name} to start", process)
