"""SIGKILL of MariaDB, of the coordinator, and of both, while wallets trade and piles meter: the rows equal a rebuild.

Real processes throughout. When a kill comes is drawn by a seed; half of those of the server wait until it is in the midst of a
transaction of the exporter, and some come while it still catches up with the outage before.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from evidence_rows import content

from pile_coordinator.chain.transactions import AT_MARKET, Deposit, List, Object, PlaceBid, RegisterParty, RegisterPile
from pile_coordinator.evidence.database import open_database
from pile_coordinator.keys import make_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.wallet import Wallet, WalletError
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.mariadb import MariaDb, find_mariadb
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, Site, wait_for
from pile_shared import cose, topics
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, NO_PREVIOUS, PERIODIC, REASON_USER, Origin, Proof, proof_hash
from pile_shared.reading import Reading

pytestmark = pytest.mark.timeout(420)

RATE = 240
PILES = 3
ENERGY_WH, SESSION_MS = 500, 300_000
VICTIMS = ["server", "coordinator", "both"] * 3


class Pile:
    """A pile's side of sessions: proofs as an agent makes them, said until the chain has them."""

    def __init__(self, site: Site, name: str) -> None:
        self.name, self.signer = name, cose.SoftwareSigner(sha256(name.encode()))
        self._chain_id = site.genesis.chain_id
        self._topic = topics.pile_topic(self._chain_id, name, "proof")
        self._connection = Connection(site.broker_spec, f"pile-{name}", [], persistent=False)
        self._sequence, self._previous = 0, NO_PREVIOUS
        self._energy_wh, self.free_ms = 100_000, 0

    def session(self, contract: bytes, begin_ms: int) -> list[bytes]:
        """Begin, two proofs between, end."""
        proofs = [self._prove(contract, BEGIN, begin_ms, 0)]
        proofs += [self._prove(contract, PERIODIC, begin_ms + i * SESSION_MS // 4, ENERGY_WH // 4) for i in (1, 2)]
        proofs.append(self._prove(contract, END, begin_ms + SESSION_MS, ENERGY_WH // 2))
        self.free_ms = begin_ms + SESSION_MS
        return proofs

    def _prove(self, contract: bytes, event: int, time_ms: int, energy_wh: int) -> bytes:
        self._energy_wh += energy_wh
        self._sequence += 1
        raw, reason = self._energy_wh.to_bytes(8, "big"), REASON_USER if event == END else 0
        origin = Origin("SDM630", self.name, "eastron-sdm630", b"\x01" * 8) if event == BEGIN else None
        reading = Reading(time_ms, 2, raw, self._energy_wh, 7000, 1)
        proof = Proof(self._sequence, self._previous, contract, event, [reading], reason, origin)
        message = proof.sign(self.signer, self._chain_id)
        self._previous = proof_hash(message)
        return message

    def say(self, proofs: list[bytes]) -> None:
        for proof in proofs:
            self._connection.publish(self._topic, proof)

    def close(self) -> None:
        self._connection.close()


class Trade(threading.Thread):
    """An owner and a user who trade on one pile, one order after the other, whatever is down."""

    def __init__(self, site: Site, number: int, done: threading.Event) -> None:
        super().__init__(name=f"trade-{number}")
        self._site, self._done, self._rng = site, done, random.Random(number)
        self.owner, self.user, self.pile = f"owner-{number}", f"user-{number}", Pile(site, f"pile-{number}")
        self.lives: Counter[str] = Counter()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._site.wallet(self.owner) as owner, self._site.wallet(self.user) as user:
                while not self._done.is_set():
                    self._live(owner, user)
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error
        finally:
            self.pile.close()

    def _live(self, owner: Wallet, user: Wallet) -> None:
        name, now_ms = self.pile.name, self._site.clock.now_ms()
        energy = ENERGY_WH * self._rng.choice((1, 1, 2))  # the last delivers too little
        owner.send(List(name, now_ms, now_ms + 6 * HOUR_MS, energy, AT_MARKET, False))
        now_ms = self._site.clock.now_ms()
        bid, _ = user.send(
            PlaceBid("north", name, energy, now_ms, now_ms + 2 * HOUR_MS, 900_000, True, 0, False, False)
        )
        try:
            contract = ask(user, bid, {"signed"}, seconds=15)["id"]
        except (
            TimeoutError
        ):  # the pile is booked until a dispute ends, or a later bid than this one's window was cleared
            self.lives["unfilled"] += 1
            return
        assert isinstance(contract, bytes)
        proofs = self.pile.session(contract, max(self._site.clock.now_ms(), self.pile.free_ms + 1))
        found = ask(user, contract, {"measured", "closed"}, lambda: self.pile.say(proofs))
        if found["phase"] == "closed":  # by time, as nobody heard of the session
            self.lives["lapsed"] += 1
        elif self._rng.random() < 0.2:
            user.send(Object(contract, "energy", ENERGY_WH // 2, "my car says less"))
            self.lives["disputed"] += 1
        else:
            for wallet in (user, owner):
                confirm(wallet, contract)
            self.lives["confirmed"] += 1


def patiently(action: Any, meanwhile: Any = lambda: None, seconds: float = 60) -> Any:
    """What it comes to, once the evidence is there and says so."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except WalletError as error:
            if error.code not in {"evidence_away", "no_evidence", "phase"}:
                raise
            if time.monotonic() > deadline:
                raise TimeoutError from error
        meanwhile()
        time.sleep(0.3)


def ask(
    wallet: Wallet, order: bytes, phases: set[str], meanwhile: Any = lambda: None, seconds: float = 60
) -> dict[str, object]:
    def look() -> dict[str, object]:
        found = wallet.contract(order)
        if found["phase"] not in phases:
            raise WalletError(f"{found['phase']} instead of {phases}", "phase")
        return found

    meanwhile()
    return patiently(look, meanwhile, seconds)


def confirm(wallet: Wallet, contract: bytes) -> None:
    patiently(lambda: wallet.confirm(contract))


@pytest.fixture
def site(tmp_path: Path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    require(find_mariadb() is not None, "mariadbd is missing: apt install mariadb-server, or tools/servers")
    with (
        Mosquitto(tmp_path / "broker") as broker,
        MariaDb(tmp_path / "mariadb") as server,
        Site(tmp_path / "site", [], rate=RATE, port=broker.port) as site,
    ):
        yield site, server


def configure(site: Site, url: str | None) -> Path:
    path = site.write_coordinator()
    if url is not None:
        path.write_text(f'{path.read_text()}\n[evidence]\nurl = "{url}"\n')
    return path


def start(site: Site, config: Path) -> None:
    if "coordinator" in site.processes:
        site.processes["coordinator"].start()
    else:
        site.start("coordinator", sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(config))


def admit(site: Site, trades: list[Trade]) -> None:
    with site.wallet("operator") as operator, site.wallet("grid") as grid:
        for trade in trades:
            for party, role in ((trade.owner, "pile-owner"), (trade.user, "ev-owner")):
                operator.send(RegisterParty(party, role, make_key(site.key_file(party)).public))
                grid.send(Deposit(party, 10**12, party))
            name, public = trade.pile.name, trade.pile.signer.public
            operator.send(RegisterPile(name, trade.owner, public, "SDM630", name, "north", 7000))


def wait_for_rows(server: MariaDb, seconds: float) -> bool:
    """Until a transaction of the server has changed rows that are not committed; False if none did in time."""
    deadline = time.monotonic() + seconds
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root", autocommit=True) as own:
        cursor = own.cursor()
        while time.monotonic() < deadline:
            cursor.execute("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0")
            if cursor.fetchone()[0]:
                return True
            time.sleep(0.11)  # the server looks anew each tenth of a second
    return False


def kill(rng: random.Random, site: Site, server: MariaDb, victim: str) -> bool:
    """Kill, let the others go on for a while, start again; whether the server was in the midst of writing."""
    time.sleep(rng.uniform(0.0, 2.0))  # part of the experiment: the moment of the kill
    coordinator = site.processes["coordinator"]
    midst = victim != "coordinator" and rng.random() < 0.7 and wait_for_rows(server, 10)
    if victim != "coordinator":
        server.kill()
    if victim != "server":
        coordinator.kill()
    time.sleep(rng.uniform(0.2, 2.0))  # the world goes on without it
    order = [server.start] if victim != "coordinator" else []
    order += [coordinator.start] if victim != "server" else []
    rng.shuffle(order)  # a coordinator may come back before its server
    for begin in order:
        begin()
    return midst


def rows_of(where: str | Path) -> dict[str, list[tuple[object, ...]]]:
    engine = open_database(where)
    try:
        with engine.connect() as db:
            return content(db)
    finally:
        engine.dispose()


def run_command(*words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "pile_coordinator.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [2])  # more of them find more: each is a minute
def test_whatever_is_killed_the_rows_equal_a_rebuild(site, seed):
    site, server = site
    rng, done = random.Random(seed), threading.Event()
    url = server.create("evidence")
    config = configure(site, url)
    start(site, config)
    trades = [Trade(site, number, done) for number in range(PILES)]
    admit(site, trades)
    for trade in trades:
        trade.start()
    victims = list(VICTIMS)
    rng.shuffle(victims)
    try:
        midst = sum(kill(rng, site, server, victim) for victim in victims)
        wait_for(lambda: all(t.lives["confirmed"] >= 3 or t.error for t in trades), 90, "orders to close")
    finally:
        done.set()
        for trade in trades:
            trade.join(120)
    assert [trade.error for trade in trades] == [None] * PILES
    words = ("evidence", "status", "--config", str(config))
    wait_for(lambda: run_command(*words)["written"] == run_command(*words)["ledger"], 60, "the evidence to catch up")
    site.processes["coordinator"].stop()
    compare(site, server, url)
    assert midst >= 1, "no kill came in the midst of a transaction"


def compare(site: Site, server: MariaDb, url: str) -> None:
    """What was written through all of it beside rebuilds by command: in a fresh MariaDB database, and in SQLite."""
    last = run_command("evidence", "status", "--config", str(configure(site, url)))
    assert last["written"] == last["ledger"] > 20
    killed = rows_of(url)
    assert all(killed[name] for name in ("tx", "orders", "contract", "proof", "statement", "posting", "tally", "offer"))
    fresh = server.create("rebuilt")
    for where, config in ((fresh, fresh), (site.folder / "coordinator" / "evidence.sqlite", None)):
        run_command("evidence", "rebuild", "--config", str(configure(site, config)))
        rebuilt = rows_of(where)
        assert rebuilt.keys() == killed.keys()
        for table, rows in rebuilt.items():
            assert rows == killed[table], table
    with sa.create_engine(url).connect() as db:  # as the server itself sums them up
        for table in killed:
            sums = [db.exec_driver_sql(f"CHECKSUM TABLE {name}.`{table}`").one()[1] for name in ("evidence", "rebuilt")]
            assert sums[0] == sums[1], table
