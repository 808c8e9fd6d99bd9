"""A whole pile for a test: rig, broker, coordinator, configuration; the agent itself runs as its own process."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from pile_edge.config_file import compile_config
from pile_hil.broker import Mosquitto, find_mosquitto, free_port, make_certificates
from pile_hil.clock import SimClock
from pile_hil.peer import START, STOP, Chain, Coordinator, make_terms, secret, session_message
from pile_hil.requirements import require
from pile_hil.rig import Rig
from pile_shared import cose

if TYPE_CHECKING:
    from pathlib import Path

    from pile_shared.terms import Terms

PILE_ID = "pile-1"
SERIAL = "12345678"
USER = cose.SoftwareSigner(secret(21))
HOUR_MS = 3_600_000
_STOP_SECONDS = 15


class PileCase:
    """Simulated hardware on `kind` "tcp" or "rtu", a real mosquitto, and a coordinator that knows the pile's key."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: str = "tcp",
        rate: int = 60,
        secret_number: int = 7,
        tls: bool = False,
        nodes: int = 3,
    ) -> None:
        """Write configuration and key; nothing runs before the context is entered.

        With `tls` the pile reaches the broker by TLS only, with a client certificate; the coordinator stays on its side. So
        many accounting `nodes` attest, each of them every block.
        """
        require(find_mosquitto() is not None, "mosquitto is not installed (apt install mosquitto)")
        self.folder = folder
        self.chain = Chain(powers=(1,) * nodes)
        self.clock = SimClock(rate, time.time_ns() // 1_000_000)
        self.signer = cose.SoftwareSigner(secret(secret_number))
        key = folder / "pile.key"
        key.write_bytes(secret(secret_number))
        key.chmod(0o600)
        self.rig = Rig(
            {
                "clock": {"rate": rate, "origin_ms": self.clock.origin_ms},
                "buses": {"bus": {"kind": kind, **({"baud": 115200} if kind == "rtu" else {})}},
                "piles": [
                    {
                        "id": PILE_ID,
                        "bus": "bus",
                        "profile": "abb-b23",
                        "start_energy_wh": 1_234_560,
                        "plugged": True,
                        "serial": int(SERIAL),
                    }
                ],
            }
        )
        self._tls = make_certificates(folder / "tls") if tls else {}
        self._open_broker(folder / "broker")

    def _open_broker(self, folder: Path) -> None:
        if not self._tls:
            self.broker = Mosquitto(folder, persistence=True)
            self.coordinator_port = self.broker.port
            return
        files = {"ca": self._tls["ca.pem"], "cert": self._tls["broker.pem"], "key": self._tls["broker-key.pem"]}
        self.coordinator_port = free_port()
        self.broker = Mosquitto(folder, persistence=True, tls=files, inside_port=self.coordinator_port)

    def __enter__(self) -> Self:
        self.rig.start()
        self.broker.start()
        self.coordinator = Coordinator(self.coordinator_port, self.chain, PILE_ID, self.signer.public)
        self.coordinator.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.coordinator.__exit__()
        self.broker.stop()
        self.rig.stop()

    def write_config(self, **timing: int) -> Path:
        """The pile's TOML file; intervals in simulated milliseconds."""
        bus = self.rig.bus_specs["bus"]
        values = {
            "sample_ms": 5_000,
            "report_ms": 20_000,
            "heartbeat_ms": 120_000,
            "resend_ms": 120_000,
            "silent_after_ms": 30_000,
            "full_after_ms": 60_000,
            **timing,
        }
        lines = [
            f'chain_id = "{self.chain.chain_id}"',
            f'pile_id = "{PILE_ID}"',
            'signer = "file:pile.key"',
            *[
                f'[[validators]]\nparty = "{one.party}"\npublic = "{one.public.hex()}"\npower = {one.power}'
                for one in self.chain.validators
            ],
            f'[mqtt]\nhost = "{self.broker.spec["host"]}"\nport = {self.broker.port}\nkeepalive_s = 10',
            *self._tls_lines(),
            "[bus]",
            *[f"{key} = {value!r}" for key, value in bus.items()],
            f'[meter]\nprofile = "abb-b23"\nunit = 1\nserial = "{SERIAL}"\nrated_power_w = 11000',
            '[control]\nkind = "coil"\nunit = 2\ncoil = 0',
            "[timing]",
            *[f"{key} = {value}" for key, value in values.items()],
            f"[clock]\nrate = {self.clock.rate}\norigin_ms = {self.clock.origin_ms}",
            '[journal]\npath = "journal"\nsegment_bytes = 4096\ncapacity_bytes = 65536',
        ]
        path = self.folder / "pile.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _tls_lines(self) -> list[str]:
        """Of the configuration; DER files, as a board takes them."""
        files = [("ca", "ca.der"), ("cert", "pile.der"), ("key", "pile-key.der")]
        return ["[mqtt.tls]", *[f"{key} = '{self._tls[name]}'" for key, name in files]] if self._tls else []

    def write_board_config(self, **timing: int) -> Path:
        """The same as CBOR, for MicroPython."""
        target = self.folder / "pile.cbor"
        compile_config(self.write_config(**timing), target)
        return target

    def terms(self, **changes: object) -> Terms:
        """Terms that fit this pile, in a window around now."""
        now_ms = self.clock.now_ms()
        fitting: dict[str, object] = {
            "pile": PILE_ID,
            "pile_public": self.signer.public,
            "meter_serial": SERIAL,
            "user_public": USER.public,
            "window_start_ms": now_ms - HOUR_MS,
            "window_end_ms": now_ms + 24 * HOUR_MS,
        }
        return make_terms(**{**fitting, **changes})

    def reserve_and_start(self, terms: Terms, limit_wh: int = 0) -> None:
        """Send the contract and the user's start."""
        self.coordinator.send("contract", self.chain.contract(terms))
        self.user_asks(terms, START, limit_wh)

    def user_asks(self, terms: Terms, action: int = STOP, limit_wh: int = 0) -> None:
        """Send the user's signed message."""
        message = session_message(USER, self.chain.chain_id, terms.contract_id(), action, self.clock.now_ms(), limit_wh)
        self.coordinator.send("session", message)

    def truth(self) -> dict[str, Any]:
        """What the rig knows."""
        return self.rig.command({"do": "truth", "pile": PILE_ID})


class AgentProcess:
    """An agent as a process whose output is kept; `stop` sends SIGTERM, `kill` SIGKILL."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop(self) -> int:
        """End it politely; its exit code."""
        self._process.terminate()
        return self._wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._wait()
        if kind is not None:
            print("\n".join(self.lines))

    def _wait(self) -> int:
        code = self._process.wait(_STOP_SECONDS)
        self._reader.join(_STOP_SECONDS)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
        self._process.stdout.close()
