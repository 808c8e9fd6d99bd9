"""A machine is lost under load: of what anybody was told nothing is missing on the next one, and the piles send the rest.

The judges are outside: what wallets were answered, what the broker carried to the pile, and what the car drew.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pile_coordinator.chain.transactions import AT_MARKET, Deposit, List, PlaceBid
from pile_coordinator.keeping.backup import backups
from pile_coordinator.mqtt import Connection
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.verify import verify_order
from pile_coordinator.wallet import START
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, PileSpec, Site, SiteProcess, wait_for
from pile_shared import topics
from pile_shared.certificate import decode_inclusion
from pile_shared.codec import decode

pytestmark = pytest.mark.timeout(300)

ENERGY_WH = 3000
RATE = 240
PILE = PileSpec(
    "pile-1", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=50_000, timing={"resend_ms": 1000 * RATE}
)  # fmt: skip


class Load(threading.Thread):
    """The treasury books deposits one after the other, whatever is down, and notes what it was answered."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="load")
        self._site, self.done, self.heard = site, threading.Event(), list[tuple[bytes, int]]()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._site.wallet("grid") as grid:
                while not self.done.is_set():
                    self.heard.append(grid.send(Deposit("dan", 1000, f"load-{len(self.heard)}")))
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error


class Receipts(threading.Thread):
    """What the broker carries to the pile: (proofs through, height, header hash)."""

    def __init__(self, site: Site) -> None:
        super().__init__(name="receipts")
        topic = topics.pile_topic(site.genesis.chain_id, PILE.id, "receipt")
        self._connection = Connection(site.broker_spec, "witness", [topic], persistent=False)
        self.done, self.heard = threading.Event(), list[tuple[int, int, bytes]]()

    def run(self) -> None:
        while not self.done.is_set():
            found = self._connection.get(0.2)
            if found is not None and found[0]:
                inclusion = decode_inclusion(found[1])
                header = inclusion.certificate.header
                through = decode(inclusion.leaf, 4096)[2]
                self.heard.append((through, header.height, header.hash()))
        self._connection.close()


def start_coordinator(site: Site, data: str, name: str) -> SiteProcess:
    """On the machine whose data folder is `data`; the mirror is the same."""
    config = site.write_coordinator()
    text = config.read_text().replace('data = "coordinator"', f'data = "{data}"')
    config.write_text(f'{text}\n[mirror]\npath = "mirror"\n')
    return site.start(name, sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(config))


def run_command(*words: str) -> dict[str, object]:
    command = [sys.executable, "-m", "pile_coordinator.cli", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with Mosquitto(tmp_path / "broker") as broker, Site(tmp_path / "site", [PILE], rate=RATE, port=broker.port) as site:
        site.start_rig()
        (site.folder / "mirror").mkdir()
        config = str(site.write_coordinator())
        with Path(config).open("a") as file:
            file.write('\n[mirror]\npath = "mirror"\n')
        run_command("mirror", "begin", "--config", config)
        start_coordinator(site, "coordinator", "first")
        site.admit({"olga": ("pile-owner", 10_000_000), "dan": ("ev-owner", 20_000_000)})
        site.start_pile(PILE.id)
        yield site


def order(site: Site) -> tuple[bytes, bytes]:
    """Dan's order on olga's pile, signed, and his car charging; (bid, contract)."""
    with site.wallet("dan") as dan, site.wallet("olga") as olga:
        now_ms = site.clock.now_ms()
        olga.send(List(PILE.id, now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, False))
        bid, _ = dan.send(
            PlaceBid("north", "", ENERGY_WH, now_ms, now_ms + 24 * HOUR_MS, 800_000, True, 0, False, False)
        )
        contract = dan.ask("contract", bid)["id"]
        site.rig.command(do="plug", pile=PILE.id)
        while dan.ask("contract", bid)["phase"] == "signed":
            dan.command(PILE.id, contract, START, site.clock.now_ms(), ENERGY_WH)
            time.sleep(0.2)
    return bid, contract


def settle(site: Site, bid: bytes, contract: bytes) -> None:
    with site.wallet("dan") as dan, site.wallet("olga") as olga:
        wait_for(lambda: dan.ask("contract", bid)["phase"] == "measured", 120, "the session to be measured")
        measured = dan.ask("contract", bid)
        truth_wh = site.rig.truth(PILE.id)["energy_wh"] - PILE.start_energy_wh
        assert truth_wh - 1 <= measured["measured_wh"] <= truth_wh + 1  # each end is rounded down to a watt-hour
        assert measured["measured_wh"] >= ENERGY_WH - 100
        dan.confirm(contract)
        olga.confirm(contract)
        verified = verify_order(dan.ask("certificate", contract), site.genesis)
    assert verified.statement.measured_wh == measured["measured_wh"]
    assert verified.outcome == "confirmed"


def test_a_lost_machine_loses_nothing_that_was_acknowledged(site):
    load, receipts = Load(site), Receipts(site)
    load.start()
    receipts.start()
    try:
        bid, contract = order(site)
        wait_for(lambda: len(receipts.heard) >= 2, 60, "receipts", site.processes["first"])
        config = str(site.folder / "coordinator.toml")
        run_command("backup", "--config", config, "--to", str(site.folder / "backups"))
        before = len(load.heard), len(receipts.heard)
        wait_for(lambda: len(load.heard) > before[0] + 20 and len(receipts.heard) > before[1], 60, "more of both")
        site.processes["first"].kill()
        acknowledged = list(load.heard)
        shutil.rmtree(site.folder / "coordinator")

        ((backup, _),) = backups(site.folder / "backups")
        words = ("--from", str(backup), "--mirror", str(site.folder / "mirror"), "--to", str(site.folder / "elsewhere"))
        found = run_command("restore", *words)
        assert found["from_mirror"] >= 1
        assert found["height"] >= max(height for _, height in acknowledged)
        start_coordinator(site, "elsewhere", "second")
        wait_for(lambda: len(load.heard) > len(acknowledged) + 10, 90, "the next machine", site.processes["second"])
        settle(site, bid, contract)
    finally:
        load.done.set()
        receipts.done.set()
        load.join(60)
        receipts.join(60)
    assert load.error is None
    site.processes["second"].stop()
    judge(site, load, receipts)


def judge(site: Site, load: Load, receipts: Receipts) -> None:
    store = open_ledger(site.folder / "elsewhere/ledger.sqlite", site.genesis)
    for tx_id, height in load.heard:
        assert store.find_tx(tx_id)[0] == height
    for _, height, digest in receipts.heard:  # no height was signed twice
        assert store.block(height).header.hash() == digest
    throughs = [through for through, _, _ in receipts.heard]
    assert throughs == sorted(throughs)
    found = audit(store, site.genesis)  # every result, balance and invariant again: no money came or went
    assert (found.height, found.uncertified, found.unsigned) == (store.height(), 0, 0)
    store.close()
