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
from pile_coordinator.site.access import COORDINATOR, WORKER, Name
from pile_coordinator.site.authority import Authority
from pile_coordinator.verifying.stream import Stream
from pile_coordinator.verifying.wire import decode_keys, keys_topic
from pile_hil.site import ACCOUNTING_NODES, Site, SiteProcess, wait_for

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 60.0
BLOCK_MS = 250  # in which a full block of proofs comes at the highest rate
SEND_AGAIN_S = 15.0  # for a receipt, as a pile waits before it publishes a proof again
STORES = ("ledger", "evidence")
GROUP = "bench0bench1bench2"
LOAD = Name(COORDINATOR, "load")  # the piles' process: may speak for all of them


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
        """Found the site as `pilechain init site` does, with a ledger that has so many piles in it."""
        self._folder = folder
        self.piles = [f"pile-{i}" for i in range(piles)]
        self._site = Site(folder / "site", [], rate=1, tls=True)
        self._workers = [f"worker-{i}" for i in range(1, workers + 1)]
        self._load_tls = self._tls_of(LOAD)
        self._fill_ledger()
        self.processes: dict[str, SiteProcess] = {}

    def _tls_of(self, name: Name) -> Tls:
        tls = self._site.tls_of(name)
        assert tls is not None
        return tls

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

    def _start_all(self) -> None:
        site = self._site
        publics = {name: make_key(site.key_file(name)).public.hex() for name in self._workers}
        config = site.write_coordinator()
        named = [f'{name} = "{public}"' for name, public in publics.items()]
        text = config.read_text().replace("block_interval_ms = 100", f"block_interval_ms = {BLOCK_MS}")
        config.write_text(text + "\n".join(["", "[workers]", *named, ""]))
        configs = {name: self._write_worker(name) for name in self._workers}
        self.processes["broker"] = site.start_broker()
        command = (sys.executable, "-m", "pile_coordinator.cli")
        self.processes["coordinator"] = site.start("coordinator", *command, "run", "--config", str(config))
        for name, path in configs.items():
            self.processes[name] = site.start(name, *command, "verify-worker", "--config", str(path))
            _wait_for_word(self.processes[name], "shares the proofs")
        _wait_for_word(self.processes["coordinator"], "at block")
        if self._workers:
            self._wait_for_keys()

    def _write_worker(self, name: str) -> Path:
        tls = self._tls_of(Name(WORKER, name))
        path = self._site.folder / f"{name}.toml"
        path.write_text(
            f'genesis = "genesis.json"\nparty = "coordinator"\nname = "{name}"\nkey = "keys/{name}.key"\n'
            f'group = "{GROUP}"\n[mqtt]\nhost = "localhost"\nport = {self._site.port}\n'
            f'tls = {{ca = "{tls.ca}", cert = "{tls.certificate}", key = "{tls.key}"}}\n'
        )
        return path

    def _wait_for_keys(self) -> None:
        """Workers know a pile's key when the broker has it."""
        known: set[bytes] = set()
        with Stream(Broker("localhost", self._site.port, tls=self._load_tls), "bench-keys") as stream:
            stream.subscribe(keys_topic(self._site.genesis.chain_id, "coordinator", "+"))
            give_up_s = time.monotonic() + _START_S
            while len(known) < len(self.piles):
                assert time.monotonic() < give_up_s, f"{len(known)} keys of {len(self.piles)}"
                for message in stream.receive(1.0).messages:
                    known |= decode_keys(message.payload).keys()
                    stream.acknowledge([message.packet_id])

    def costs(self) -> dict[str, Cost]:
        """What each process has taken until now."""
        return {name: cost_of(process.pid) for name, process in self.processes.items()}

    def publish(self, proofs: int, connections: int, *, in_turn: bool = False) -> tuple[float, dict[str, Cost]]:
        """Have every pile publish so many proofs: seconds until the last has its receipt, and what each process took.

        `in_turn`: all piles one, then all the next.
        """
        with self._load("pile_load", proofs, connections, in_turn=in_turn) as load:
            before, began_s = self.costs() | {"load": cost_of(load.pid)}, time.perf_counter()
            load.part()
            elapsed_s, after = time.perf_counter() - began_s, self.costs() | {"load": cost_of(load.pid)}
        return elapsed_s, {name: Cost(cost.cpu_s - before[name].cpu_s, cost.rss_bytes) for name, cost in after.items()}

    def hold(self, proofs: int, *, send_again_s: float = SEND_AGAIN_S) -> tuple[dict[str, Cost], float]:
        """Connect every pile, kill the broker, and start it again.

        Returns: what each process has while all are connected, and the seconds from the broker's start until every pile has
        connected again and has receipts for so many proofs.
        """
        self._issue()
        with self._load("held_piles", proofs, send_again_s=send_again_s) as load:
            load.part()
            costs, broker = self.costs(), self.processes["broker"]
            broker.kill()
            began_s = time.perf_counter()
            broker.start()
            load.part()
            return costs, time.perf_counter() - began_s

    def stored_bytes(self) -> tuple[int, int]:
        """What ledger and evidence take on disk, what is still in their journals not counted twice."""
        data = self._site.data
        ledger, evidence = (sum(file.stat().st_size for file in data.glob(f"{name}.sqlite")) for name in STORES)
        return ledger, evidence

    def _issue(self) -> None:
        """A certificate for each pile."""
        assert self._site.access is not None
        authority, folder = Authority.open(self._site.access.authority), self._folder / "piles"
        for pile in self.piles:
            authority.issue_client(pile).write(folder, pile)

    @contextmanager
    def _load(
        self,
        module: str,
        proofs: int,
        connections: int = 0,
        *,
        in_turn: bool = False,
        send_again_s: float = SEND_AGAIN_S,
    ) -> Iterator["_Load"]:
        path = self._folder / "load.json"
        tls = self._load_tls
        spec = Spec(
            self._site.genesis.chain_id,
            self._site.port,
            [str(tls.ca), str(tls.certificate), str(tls.key)],
            str(self._folder / "piles"),
            self.piles,
            proofs,
            connections,
            in_turn,
            self._site.clock.now_ms() - 3_600_000,
            send_again_s,
        )
        path.write_text(json.dumps(asdict(spec)))
        load = _Load(module, path)
        try:
            load.wait_for("ready")
            yield load
        finally:
            load.end()


class _Load:
    """The process of the piles: what it does next begins with a line to it and ends with one from it."""

    def __init__(self, module: str, spec: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.support.{module}", str(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def part(self) -> None:
        """Have it do the next part."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.wait_for("done")

    def wait_for(self, word: str) -> None:
        """Return when it says so; it dies of an error that it cannot say."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n", "the process of the piles ended"

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def _wait_for_word(process: SiteProcess, word: str) -> None:
    wait_for(lambda: word in process.text(), _START_S, f"{process.name} to start", process)
