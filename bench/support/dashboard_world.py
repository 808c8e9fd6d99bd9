"""A dashboard's server in a process of its own over evidence that a bench writes: piles, prices, proofs with every block."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import sqlalchemy as sa

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.database import open_database, prepare
from pile_coordinator.web.tokens import Tokens
from pile_hil.broker import free_port

PILES, CLEARINGS, ZONES = 1000, 300, ("north", "south")
_EMPTY_PAGE = """
import sys
from nicegui import ui

@ui.page("/")
def empty():
    ui.label("empty").classes("done")

ui.run(host="127.0.0.1", port=int(sys.argv[1]), show=False, reload=False, show_welcome_message=False)
"""


class DashboardWorld:
    """Evidence of piles and prices, and the server over it. `url` and `token` open it."""

    def __init__(self, folder: Path) -> None:
        """Make the evidence in `folder`, and serve it."""
        self._db = open_database(folder / "evidence.sqlite").connect()
        prepare(self._db)
        self._begin_ms = time.time_ns() // 1_000_000 - CLEARINGS * 1000
        self.height = 0
        self._fill()
        self.port = free_port()
        (folder / "web.toml").write_text(
            f'database = "evidence.sqlite"\ntokens = "tokens.sqlite"\nport = {self.port}\n'
            "[limits]\nper_minute = 1000000\nburst = 1000000\n"
        )
        tokens = Tokens(folder / "tokens.sqlite", read_only=False)
        self.token = tokens.add("operator", "operator", now_ms=time.time_ns() // 1_000_000, days=1)
        tokens.close()
        command = [sys.executable, "-m", "pile_coordinator.cli", "web", "--config", str(folder / "web.toml")]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = _started(command, f"{self.url}/healthz")

    def _fill(self) -> None:
        self._db.exec_driver_sql("BEGIN")
        piles = [
            {"kid": _kid(n), "id": f"pile-{n:04d}", "owner": f"owner-{n % 50:02d}", "zone": ZONES[n % 2],
             "rated_power_w": 7000, "height": 1, "retired_height": None}
            for n in range(PILES)
        ]  # fmt: skip
        self._db.execute(schema.pile.insert(), piles)
        for height in range(1, CLEARINGS + 1):
            self._block(height, self._begin_ms + 1000 * height)
            for zone in ZONES:
                price, load_wh = 700_000 + 1000 * (height * 37 % 90), 5000 * (height * 13 % 17)
                key = {"height": height, "zone": zone}
                at = {
                    "leaf": 1,
                    "capacity_wh": 100_000,
                    "tariff": bytes(32),
                    "open_before_wh": 0,
                    "open_after_wh": load_wh,
                }
                self._db.execute(schema.clearing.insert(), [key | at])
                found = {"catalog_micro_per_kwh": 800_000, "price_micro_per_kwh": price}
                self._db.execute(schema.price.insert(), [key | found])
        self._db.exec_driver_sql("COMMIT")

    def _block(self, height: int, time_ms: int) -> None:
        row = {"height": height, "time_ms": time_ms, "hash": height.to_bytes(32, "big"), "proposer": "operator"}
        self._db.execute(schema.block.insert(), [row | {"txs": 10, "results": 10}])
        if height == 1:
            self._db.execute(schema.mark.delete())
            self._db.execute(schema.mark.insert(), [{"only_row": 1, "height": 1}])
        self._db.execute(sa.update(schema.mark).values(height=height))
        self.height = height

    def change_all(self) -> int:
        """A block with a proof of every pile that changes its state; when it was committed, unix ns."""
        height = self.height + 1
        event, reason = ("alarm", "meter fault") if height % 2 else ("heartbeat", "none")
        self._db.exec_driver_sql("BEGIN IMMEDIATE")
        self._block(height, time.time_ns() // 1_000_000)
        proofs = [
            {"kid": _kid(n), "sequence": height, "height": height, "position": n // 100, "item": n % 100,
             "hash": height.to_bytes(16, "big") + n.to_bytes(16, "big"), "contract": None, "event": event, "reason": reason,
             "first_time_ms": None, "last_time_ms": None, "last_energy_wh": None, "bytes": b""}
            for n in range(PILES)
        ]  # fmt: skip
        self._db.execute(schema.proof.insert(), proofs)
        self._db.exec_driver_sql("COMMIT")
        return time.time_ns()

    def close(self) -> None:
        """End the server."""
        _end(self._process)
        self._db.close()


class EmptyPage:
    """A server of NiceGUI with one label, as `ui.run` serves it."""

    def __init__(self, folder: Path) -> None:
        """Serve it."""
        script, port = folder / "empty_page.py", free_port()
        script.write_text(_EMPTY_PAGE)
        self.url = f"http://127.0.0.1:{port}"
        self._process = _started([sys.executable, str(script), str(port)], self.url)

    def close(self) -> None:
        """End the server."""
        _end(self._process)


def _kid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _started(command: list[str], url: str) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    for _ in range(400):
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert process.poll() is None, f"{command} ended"
            time.sleep(0.1)
        else:
            return process
    _end(process)
    raise TimeoutError(f"{url} did not answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    finally:
        process.kill()
