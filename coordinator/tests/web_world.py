"""A real server in a process of its own, over a real ledger with a settled, a deviated and a disputed contract."""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
from exported import OPERATOR, pile_records
from settled import MEASURED_AT, Chain
from world import HOUR, NOW, key

from pile_coordinator.chain.transactions import Deposit, List, Object, PlaceBid, RegisterParty, RegisterPile
from pile_coordinator.records import RecordDesk
from pile_coordinator.web.tokens import Tokens
from pile_hil.broker import free_port
from pile_shared.proof import BEGIN, END, REASON_USER, REASON_VEHICLE_FULL, parse
from pile_shared.record import encode_record

# For requests without TLS: httpx else reads the certificates of all the world's authorities again for each.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
NASTY = "<script>alert(1)</script>'; DROP TABLE block; --"
ROLES = {
    "operator": "operator",
    "grid": "grid",
    "olga": "pile-owner",
    "dan": "ev-owner",
    "judge-1": "third-party",
    "other-owner": "pile-owner",
    "other-user": "ev-owner",
}


class WebWorld:
    """The chain, the server and a client. `settled` and `disputed` are contracts; `tokens` texts by party."""

    more = ""  # tables of web.toml

    def __init__(self, folder: Path, *, top: str = "", **limits: int) -> None:
        self.folder = folder
        self.chain = self._found(folder)
        self._live()
        self._record()
        (folder / "genesis.json").write_text(json.dumps(self.chain.genesis.to_json()))
        self.port = free_port()
        self.config = folder / "web.toml"
        limits = {"per_minute": 1_000_000, "burst": 1_000_000, "beat_s": 1, "stall_s": 2} | limits
        lines = "".join(f"{name} = {value}\n" for name, value in limits.items())
        (folder / "operator.toml").write_text(OPERATOR)
        pile_records(folder / "piles" / "pile-1", self.chain, self.chain.certificate(self.settled))
        self.top, self.lines = top, f"[limits]\n{lines}"
        self.write_config("evidence.sqlite")
        self.store = Tokens(folder / "tokens.sqlite", read_only=False)
        now_ms = time.time_ns() // 1_000_000
        self.tokens = {p: self.store.add(p, role, now_ms=now_ms, days=1) for p, role in ROLES.items()}
        self.url = f"http://127.0.0.1:{self.port}"
        self._start()

    def write_config(self, database: str) -> None:
        """web.toml for a server on this port over this database."""
        self.config.write_text(
            f'{self.top}database = "{database}"\nledger = "ledger.sqlite"\ngenesis = "genesis.json"\n'
            'operator = "operator.toml"\nocmf = "piles"\ntime_zone = "Asia/Shanghai"\n'
            f'tokens = "tokens.sqlite"\nport = {self.port}\n{self.lines}{self.more}'
        )

    def restart(self, database: str) -> None:
        """Serve another database instead."""
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        self.write_config(database)
        self._start()

    def _found(self, folder: Path) -> Chain:
        return Chain(folder)

    def _live(self) -> None:
        chain = self.chain
        chain.admit()
        self.settled = chain.measure(delivered_wh=2000, reason=REASON_VEHICLE_FULL)
        body = chain.confirmation(self.settled)
        chain.block(MEASURED_AT + 1000, ("dan", body), ("olga", body))
        chain.block(
            MEASURED_AT + 2000,
            ("operator", RegisterParty("other-owner", "pile-owner", key("other-owner").public)),
            ("operator", RegisterParty("other-user", "ev-owner", key("other-user").public)),
            ("operator", RegisterPile("pile-2", "other-owner", key("pile-2").public, "SDM630", "124", "south", 7000)),
            ("grid", Deposit("other-user", 50_000_000, "other-user")),
            ("grid", Deposit("other-owner", 50_000_000, "other-owner")),
        )
        self.begin = MEASURED_AT + 3000
        self._trade(self.begin)
        self.disputed = self.chain.contract().id
        start = self.begin + 3000
        self.chain.block(start + HOUR + 1000, ("operator", self._session(start)))
        self.chain.block(start + HOUR + 2000, ("dan", Object(self.disputed, "cause", 4000, NASTY)))

    def _record(self) -> None:
        """What the pile sent of the settled session."""
        chain = self.chain
        desk = RecordDesk(self.folder / "records.sqlite", chain.genesis.chain_id, lambda: self.begin)
        proofs = [parse(message)[1] for message in chain.certificate(self.settled).proofs]
        self.records = pile_records(self.folder / "pile", chain, chain.certificate(self.settled))
        marked = [proof.sequence for proof in proofs if proof.event in {BEGIN, END}]
        for sequence, text in zip(marked, self.records, strict=True):
            desk.offer(chain.engine.state, chain.evidence.db, "pile-1", encode_record(sequence, text))
        assert desk.commit()
        desk.close()

    def _trade(self, at: int) -> None:
        end = at + 4 * HOUR
        listing = List("pile-1", at, end + 16 * HOUR, 20_000, -1, False)
        self.chain.block(at + 1000, ("olga", listing))
        self.chain.block(at + 2000, ("dan", PlaceBid("north", "", 5000, at, end, 800_000, True, 0, False, False)))

    def _session(self, start: int):
        from pile_coordinator.chain.transactions import SubmitProofs

        world, base = self.chain.world, 102_000  # where the first session ended
        return SubmitProofs(
            [
                world.prove("pile-1", BEGIN, [(start, base)], contract=self.disputed),
                world.prove("pile-1", END, [(start + HOUR, base + 2000)], contract=self.disputed, reason=REASON_USER),
            ]
        )

    def _start(self) -> None:
        command = [sys.executable, "-m", "pile_coordinator.cli", "web", "--config", str(self.config)]
        self.log = (self.folder / "web.log").open("w+")
        env = {
            name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"
        }  # NiceGUI looks at it
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=env)
        deadline = time.monotonic() + 40
        while True:
            with contextlib.suppress(httpx.TransportError):
                health = httpx.get(f"{self.url}/healthz", timeout=5, verify=NO_TLS).json()
                if health["height"] == self.chain.engine.height:
                    return
            assert self.process.poll() is None, (self.folder / "web.log").read_text()
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)

    def begin_again(self) -> None:
        """End the server, and start it over what the database says now."""
        self._end()
        self._start()

    def get(self, path: str, party: str | None = "operator", **headers: str) -> httpx.Response:
        if party is not None:
            headers["authorization"] = f"Bearer {self.tokens.get(party, party)}"
        return httpx.get(self.url + path, headers=headers, timeout=20, verify=NO_TLS)

    def block(self) -> int:
        """Make one more block; its height."""
        self.later = getattr(self, "later", self.begin + 3 * HOUR) + 1000
        self.chain.block(self.later, ("grid", Deposit("dan", 1, f"more-{self.later}")))
        return self.chain.engine.height

    def close(self) -> None:
        self._end()
        self.store.close()
        self.chain.close()

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.log.close()


__all__ = ["NASTY", "NOW", "ROLES", "WebWorld"]
