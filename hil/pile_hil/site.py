"""A whole site in one folder, for the demo and for tests that kill things: keys, genesis, configuration, processes.

Everything is what an operator would have: the same commands, the same files. Only the hardware is simulated (rig.py) and
the clock may run fast. Processes log into the folder; every process is stopped by `close`, and none outlives it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.transactions import Deposit, RegisterParty, RegisterPile
from pile_coordinator.clock import Clock
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.new_chain import HOUR_MS, NOTES, PARAMS, TARIFF
from pile_coordinator.site.access import COORDINATOR, PILE, USER, Name
from pile_coordinator.site.folder import SiteFolder
from pile_coordinator.site.founding import found_broker
from pile_coordinator.wallet import Wallet
from pile_edge.board.bundle import build_romfs, find_micropython, link_bundle
from pile_edge.board.unix_flash import board_command
from pile_edge.config_file import compile_config
from pile_hil.broker import find_mosquitto, free_port, is_open
from pile_hil.process import RigProcess
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

ACCOUNTING_NODES = ("auditor", "grid", "operator")
FOUNDERS = {"auditor": "third-party", "coordinator": "operator", "grid": "grid", "operator": "operator"}
__all__ = ["HOUR_MS", "PARAMS", "TARIFF", "PileSpec", "Site", "SiteError", "SiteProcess", "Web", "wait_for"]
BOARD_HEAP = "60k"  # 64 kB, and what boards differ by
BIN_AGE_MS = 2000  # of real time: nobody waits an hour for a demo
BOND_MICRO = 10_000_000  # of each accounting node, where they are elected


def note_rules(rate: int) -> dict[str, int]:
    """Rules of notes for a chain whose time runs `rate` times as fast."""
    return {**NOTES, "bin_age_ms": BIN_AGE_MS * rate}


class SiteError(PilechainError):
    """A process of the site did not do its part; the message holds the end of its log."""

    code = "site"


@dataclass(frozen=True)
class PileSpec:
    """One simulated pile: its bus and meter, its car, and the interpreter its agent runs on."""

    id: str
    owner: str
    bus: Mapping[str, Any]
    profile: str
    model: str
    serial: int
    battery_wh: int
    rated_power_w: int = 7000
    start_energy_wh: int = 1_234_560
    interpreter: str = "cpython"
    heap: str = BOARD_HEAP  # of a MicroPython one
    timing: Mapping[str, int] = field(default_factory=dict)
    simulated: bool = True  # its meter is one of the site's rig; else `bus` is what the pile itself opens
    far_bus: Mapping[str, Any] = field(default_factory=dict)  # what of the bus is different at the pile's end


class SiteProcess:
    """A program of the site: started, killed, started again; its output goes to a log file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Remember how to start it."""
        self.name = name
        self.command = command
        self.log = log
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its output is appended to the log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                process_group=0,  # Ctrl-C in a terminal is for the site, which stops them in order
            )

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, seconds: float = 10) -> None:
        """SIGTERM, and SIGKILL if it has not ended after so many seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Of the process that was started last; 0 before."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self._process is not None and self._process.poll() is None

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass(frozen=True, slots=True)
class Web:
    """Where a site's API and dashboard are, and a token for them."""

    url: str
    token: str

    def answers(self) -> bool:
        """Whether it does."""
        try:
            with urlopen(f"{self.url}/healthz", timeout=1) as answer:  # noqa: S310 - ours
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            return False


class Site:
    """Keys, genesis, configuration and processes of one site. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        piles: list[PileSpec],
        *,
        rate: int,
        port: int | None = None,
        host: str = "127.0.0.1",
        tls: bool = False,
        stake_rules: Mapping[str, int] | None = None,
        notes: Mapping[str, int] | None = None,
    ) -> None:
        """Write everything below `folder`; nothing runs yet. Time runs `rate` times as fast from now on.

        With `stake_rules`, those of a genesis file, the accounting nodes are elected. `notes` are rules of notes that differ
        from `note_rules`. `host` is where this machine's broker listens. With `tls`
        its broker is mosquitto, with the authority, certificates and access list of `pilechain init site` (`access`).

        Between a process and what it needs something may be put before it is started, by its name: `broker_ports` says
        through which port it reaches the broker, `prefixes` what stands before its command, `environments` what is added
        to its environment.
        """
        self.notes = note_rules(rate) | dict(notes or {})
        self.folder = folder
        self.stake_rules = stake_rules
        folder.mkdir(parents=True, exist_ok=True)
        self.piles = {pile.id: pile for pile in piles}
        self.clock = Clock(rate, time.time_ns() // 1_000_000)
        self.port = port or free_port()
        self.host = host
        self.broker_spec = Broker(host, self.port)
        self.patience_s = 30.0  # of wallets, for an answer
        self.broker_ports: dict[str, int] = {}
        self.prefixes: dict[str, list[str]] = {}
        self.environments: dict[str, dict[str, str]] = {}
        for party in (*FOUNDERS, *(f"{node}-attest" for node in ACCOUNTING_NODES)):
            make_key(self.key_file(party))
        self.genesis = self._write_genesis()
        self.access = self._found_access() if tls else None
        self.processes: dict[str, SiteProcess] = {}
        self.rig: RigProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process, the newest first."""
        for process in reversed(list(self.processes.values())):
            process.stop()
        if self.rig is not None:
            self.rig.stop()

    # --- files ---------------------------------------------------------------------------------------------------

    def key_file(self, party: str) -> Path:
        """Where a party's key is."""
        return self.folder / "keys" / f"{party}.key"

    def _write_genesis(self) -> Genesis:
        power = BOND_MICRO // 1_000_000 if self.stake_rules else 1
        document: dict[str, object] = {
            "name": "demo",
            "time_ms": self.clock.origin_ms,
            "params": PARAMS,
            "tariff": TARIFF,
            "parties": [
                {"id": party, "role": role, "public": load_key(self.key_file(party)).public.hex()}
                for party, role in FOUNDERS.items()
            ],
            "validators": [
                {"party": node, "public": load_key(self.key_file(f"{node}-attest")).public.hex(), "power": power}
                for node in ACCOUNTING_NODES
            ],
            "notes": self.notes,
        }
        if self.stake_rules:
            document["stake"] = {
                "rules": dict(self.stake_rules),
                "candidates": [*map(self._candidate, ACCOUNTING_NODES)],
            }
        (self.folder / "genesis.json").write_text(json.dumps(document, indent=2) + "\n")
        return genesis_from_json(document)

    def _candidate(self, node: str) -> dict[str, object]:
        """A founding node. No CometBFT runs here, so nothing ever signs with its consensus key."""
        attestation = load_key(self.key_file(f"{node}-attest")).public
        return {
            "party": node,
            "consensus": sha256(attestation).hex(),
            "attestation": attestation.hex(),
            "commission_permille": 100,
            "bond_micro": BOND_MICRO,
        }

    def _found_access(self) -> SiteFolder:
        """The site's authority and broker; who needs a certificate gets it when it is asked for."""
        hosts, authority = ("localhost", self.host), self.folder / "authority"
        access = SiteFolder(self.folder.resolve(), hosts, self.port, self.host, authority.resolve(), self.genesis)
        found_broker(access)
        self.host = "localhost"  # a name for clients to compare with the certificate, as a site has one
        return access

    def tls_of(self, name: Name) -> Tls | None:
        """With which files somebody meets the broker, issued when they are wanted first; None without TLS."""
        if self.access is None:
            return None
        tls = self.access.tls(name)
        if tls.certificate is None or not tls.certificate.exists():
            self.access.add(name)
        return tls

    def write_coordinator(self) -> Path:
        """Write the coordinator's configuration; its path."""
        tls = self.tls_of(Name(COORDINATOR, "main"))
        files = f'tls = {{ ca = "{tls.ca}", cert = "{tls.certificate}", key = "{tls.key}" }}\n' if tls else ""
        path = self.folder / "coordinator.toml"
        attestation = "\n".join(f'{node} = "keys/{node}-attest.key"' for node in ACCOUNTING_NODES)
        path.write_text(
            f'genesis = "genesis.json"\ndata = "coordinator"\nparty = "coordinator"\nkey = "keys/coordinator.key"\n'
            f"block_interval_ms = 100\n\n[attestation]\n{attestation}\n\n"
            f'[mqtt]\nhost = "{self.host}"\nport = {self.broker_ports.get("coordinator", self.port)}\n{files}\n'
            f"[clock]\nrate = {self.clock.rate}\norigin_ms = {self.clock.origin_ms}\n"
        )
        return path

    def pile_config(self, pile_id: str) -> str:
        """The configuration of a pile's agent, as text of a pile.toml."""
        pile = self.piles[pile_id]
        bus = dict(pile.bus) if self.rig is None or not pile.simulated else self.rig.bus_specs[pile.id]
        timing = {
            "sample_ms": 30_000,
            "report_ms": 120_000,
            "heartbeat_ms": 900_000,
            "resend_ms": 5000 * self.clock.rate,
            "silent_after_ms": 600_000,
            "full_after_ms": 180_000,
            "full_below_w": 100,
            **pile.timing,
        }
        tls = self.tls_of(Name(PILE, pile_id))
        der = ".der" if pile.interpreter == "micropython" else ""
        files = {"ca": tls.ca, "cert": tls.certificate, "key": tls.key} if tls else {}
        sections: dict[str, dict[str, object]] = {
            "mqtt": {"host": self.host, "port": self.broker_ports.get(pile.id, self.port), "keepalive_s": 10},
            **({"mqtt.tls": {name: f"{path}{der}" for name, path in files.items()}} if tls else {}),
            "bus": {**bus, **pile.far_bus},
            "meter": {
                "profile": pile.profile,
                "unit": 1,
                "serial": str(pile.serial),
                "rated_power_w": pile.rated_power_w,
            },
            "control": {"kind": "coil", "unit": 2, "coil": 0},
            "journal": {"path": "journal", "capacity_bytes": 65536, "segment_bytes": 8192},
            "timing": dict(timing),
            "clock": {"rate": self.clock.rate, "origin_ms": self.clock.origin_ms},
        }
        lines = [
            f'chain_id = "{self.genesis.chain_id}"',
            f'pile_id = "{pile.id}"',
            'signer = "file:pile.key"',
        ]
        for validator in self.genesis.validators:
            lines += ["", "[[validators]]", f'party = "{validator.party}"']
            lines += [f'public = "{validator.public.hex()}"', f"power = {validator.power}"]
        for name, values in sections.items():
            lines += ["", f"[{name}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"

    def _write_pile(self, pile: PileSpec) -> Path:
        folder = self.folder / pile.id
        folder.mkdir(exist_ok=True)
        path = folder / "pile.toml"
        path.write_text(self.pile_config(pile.id))
        return path

    # --- processes -----------------------------------------------------------------------------------------------

    def start_rig(self) -> None:
        """Start the simulated meters, relays and cars."""
        piles = [
            {
                "id": pile.id,
                "bus": pile.id,
                "profile": pile.profile,
                "unit": 1,
                "relay_unit": 2,
                "serial": pile.serial,
                "start_energy_wh": pile.start_energy_wh,
                "rated_power_w": pile.rated_power_w,
                "battery_wh": pile.battery_wh,
            }
            for pile in self.piles.values()
            if pile.simulated
        ]
        config = {
            "clock": {"rate": self.clock.rate, "origin_ms": self.clock.origin_ms},
            "buses": {pile.id: dict(pile.bus) for pile in self.piles.values() if pile.simulated},
            "piles": piles,
        }
        self.rig = RigProcess(config, self.folder)

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> SiteProcess:
        """Start a program of the site under a name."""
        words = [*self.prefixes.get(name, []), *command]
        added = {**(environment or {}), **self.environments.get(name, {})}
        process = SiteProcess(name, words, self.folder / f"{name}.log", added)
        self.processes[name] = process
        process.start()
        return process

    def start_broker(self) -> SiteProcess:
        """Start the embedded broker, or mosquitto where the site has TLS."""
        if self.access is not None:
            return self._start_mosquitto(self.access)
        process = self.start("broker", sys.executable, "-m", "pile_hil.embedded_broker", "--port", str(self.port))
        wait_for(lambda: "ready" in process.text(), 20, "the broker to start", process)
        return process

    def _start_mosquitto(self, access: SiteFolder) -> SiteProcess:
        program = find_mosquitto()
        if program is None:
            raise SiteError("mosquitto is not installed (apt install mosquitto)")
        process = self.start("broker", program, "-c", str(access.broker / "mosquitto.conf"))
        wait_for(lambda: is_open(access.listen, self.port), 20, "mosquitto to start", process)
        return process

    def start_coordinator(self) -> SiteProcess:
        """Start the coordinator."""
        config = self.write_coordinator()
        return self.start("coordinator", sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(config))

    @property
    def data(self) -> Path:
        """The data folder of the coordinator, whose ledger and evidence are served."""
        return self.folder / "coordinator"

    def start_web(self, party: str, role: str) -> "Web":
        """Start `pilechain web` on a free port, over the coordinator's evidence, with a token for a party in a role."""
        config, port = self.folder / "web.toml", free_port()
        config.write_text(
            f'database = "{self.data / "evidence.sqlite"}"\nledger = "{self.data / "ledger.sqlite"}"\n'
            f'genesis = "genesis.json"\ntokens = "web-tokens.sqlite"\nport = {port}\n'
        )
        command = (sys.executable, "-m", "pile_coordinator.cli", "web")
        add = subprocess.run(  # noqa: S603 - our own program
            [*command, "token", "add", party, "--role", role, "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if add.returncode:
            raise SiteError(f"no token for the web: {add.stderr}")
        web = Web(f"http://127.0.0.1:{port}", add.stdout.strip())
        process = self.start("web", *command, "--config", str(config))
        wait_for(web.answers, 30, "the web to answer", process)
        return web

    def prepare_pile(self, pile_id: str) -> bytes:
        """Write a pile's configuration and let it make its key; the public key."""
        pile = self.piles[pile_id]
        config = self._write_pile(pile)
        if pile.interpreter == "micropython":
            compile_config(config, config.with_suffix(".cbor"))
        command = self._agent(pile, "key")
        shown = subprocess.run(  # noqa: S603 - our own programs
            command[0], env={**os.environ, **command[1]}, capture_output=True, text=True, check=False, timeout=30
        )
        return public_of(shown.stdout, pile_id, shown.stderr)

    def start_pile(self, pile_id: str) -> SiteProcess:
        """Start a pile's agent."""
        command, environment = self._agent(self.piles[pile_id], "run")
        return self.start(pile_id, *command, environment=environment)

    def _agent(self, pile: PileSpec, action: str) -> tuple[list[str], dict[str, str]]:
        folder = self.folder / pile.id
        if pile.interpreter == "cpython":
            return [sys.executable, "-m", "pile_edge.cli", action, "--config", str(folder / "pile.toml")], {}
        if find_micropython() is None:
            raise SiteError("no MicroPython here; use interpreter cpython")
        return board_command(self._flash(), str(folder / "pile.cbor"), action, heap=pile.heap), {}

    def _flash(self) -> Path:
        """The image a board has in flash: made once, the same for all of them."""
        image = self.folder / "flash.romfs"
        if not image.exists():
            link_bundle(self.folder / "bundle")
            image.write_bytes(build_romfs(self.folder / "bundle"))
        return image

    # --- parties -------------------------------------------------------------------------------------------------

    def wallet(self, party: str) -> Wallet:
        """A party's wallet, connected."""
        broker = replace(self.broker_spec, host=self.host, tls=self.tls_of(Name(USER, party)))
        return Wallet(self.genesis, party, load_key(self.key_file(party)), broker, timeout_s=self.patience_s)

    def admit(self, parties: Mapping[str, tuple[str, int]], *, prepare: Callable[[str], bytes] | None = None) -> None:
        """Register parties (role, deposit in micro) and every pile, whose key `prepare` gives, else `prepare_pile`."""
        with self.wallet("operator") as operator, self.wallet("grid") as grid:
            for party, (role, amount_micro) in parties.items():
                self._admit(operator, grid, party, role, amount_micro)
            for pile in self.piles.values():
                public = (prepare or self.prepare_pile)(pile.id)
                row = (pile.model, str(pile.serial), "north", pile.rated_power_w)
                operator.send(RegisterPile(pile.id, pile.owner, public, *row))

    def admit_drivers(self, parties: list[str], amount_micro: int) -> None:
        """Register drivers, each with so much money."""
        with self.wallet("operator") as operator, self.wallet("grid") as grid:
            for party in parties:
                self._admit(operator, grid, party, "ev-owner", amount_micro)

    def _admit(self, operator: Wallet, grid: Wallet, party: str, role: str, amount_micro: int) -> None:
        operator.send(RegisterParty(party, role, make_key(self.key_file(party)).public))
        if amount_micro:
            grid.send(Deposit(party, amount_micro, f"opening-{party}"))


def public_of(said: str, pile_id: str, errors: str = "") -> bytes:
    """The public key in what `pile-edge key` printed; SiteError if there is none."""
    words = said.split()
    if "public" not in words:
        raise SiteError(f"{pile_id} made no key: {said}{errors}")
    return bytes.fromhex(next(word for word in words if len(word) == 130))


def wait_for(condition: Callable[[], bool], seconds: float, what: str, *watched: SiteProcess) -> None:
    """Return once `condition()` holds; SiteError, with the end of the logs, after `seconds` or if a process died."""
    deadline = time.monotonic() + seconds
    while not condition():
        dead = [process for process in watched if not process.running]
        if dead or time.monotonic() > deadline:
            logs = "\n".join(f"--- {p.name}\n{p.text()[-3000:]}" for p in watched)
            raise SiteError(f"waited {seconds} s for {what}{' (a process died)' if dead else ''}\n{logs}")
        time.sleep(0.02)
