"""Two operators' coordinators at one real broker: each pile and wallet hears one of them, and the other when that one is gone."""

import os
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from typing import Self

import pytest

from pile_coordinator.chain.transactions import AT_MARKET, List, PlaceBid
from pile_coordinator.keys import load_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.serving import Servers, serving_topic
from pile_coordinator.wallet import START
from pile_edge.ocmf_records import list_records
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.network import has_cometbft
from pile_hil.network_site import NetworkSite
from pile_hil.requirements import require
from pile_hil.site import HOUR_MS, PileSpec, wait_for
from pile_shared import cose, topics
from pile_shared.certificate import decode_inclusion
from pile_shared.codec import decode
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT

pytestmark = pytest.mark.timeout(300)
RATE = 90
FIRST, SECOND = "operator-1", "operator-2"  # in the order of pile-1
LIAR = "operator"  # a founder, before both in that order, who may submit proofs and serves nobody


class Wire(threading.Thread):
    """What goes over the wire to piles and wallets, as it is said."""

    def __init__(self, site: NetworkSite) -> None:
        super().__init__(name="wire")
        chain = site.genesis.chain_id
        watched = [topics.pile_topic(chain, "+", kind) for kind in ("receipt", "contract")]
        watched += [topics.party_topic(chain, "+", kind) for kind in ("query", "tx", "answer", "result", "serving")]
        self._connection = Connection(site.broker_spec, "wire", watched, persistent=False)
        self._connection.wait_connected(20)
        self._aad = cose.purpose(cose.REPLY, chain)
        self._done = threading.Event()
        self.told: Counter[tuple] = Counter()  # leaves to piles
        self.asked: Counter[bytes] = Counter()  # by wallets
        self.replies: Counter[bytes] = Counter()  # to wallets, whoever signed them
        self.present: dict[str, bool] = {}

    def run(self) -> None:
        while not self._done.is_set():
            received = self._connection.get(0.2)
            if received is None:
                continue
            topic, payload = received
            kind, who = topic.split("/")[-1], topic.split("/")[-2]
            if kind == "serving":
                self.present[who] = bool(payload)
            elif kind in {"receipt", "contract"}:
                self.told[tuple(map(str, decode(decode_inclusion(payload).leaf, 4096)))] += 1
            elif kind in {"query", "tx"}:
                self.asked[payload] += 1
            else:
                self.replies[cose.parse1(decode(payload, 1 << 20)[0], 1 << 20).payload] += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join(5)
        self._connection.close()

    def say(self, topic: str, payload: bytes) -> None:
        """Say something retained."""
        self._connection.publish(topic, payload, retained=True)

    def times(self, leaf: int) -> list[int]:
        """How often each leaf of a kind was said."""
        return [times for (kind, *_), times in self.told.items() if kind == str(leaf)]


def charge(site: NetworkSite, energy_wh: int) -> bytes:
    """A contract on the pile, reserved and started; its order."""
    now_ms = site.clock.now_ms()
    with site.wallet("dan") as dan:
        bid = PlaceBid(
            "north", "pile-1", energy_wh, now_ms, now_ms + 12 * HOUR_MS, 800_000, True, now_ms + HOUR_MS, False, False
        )
        order, _ = dan.send(bid)
        found = dan.contract(order)
        contract = found["id"]
        process = site.processes["pile-1"]
        wait_for(lambda: f"contract {contract.hex()[:8]} reserves" in process.text(), 30, "the reservation", process)
        site.rig.command(do="plug", pile="pile-1")
        dan.command("pile-1", contract, START, site.clock.now_ms(), energy_wh)
    wait_for(lambda: "begin" in process.text().split("reserves")[-1], 30, "the session to begin", process)
    return order


def wait_measured(site: NetworkSite, order: bytes, seconds: float = 60) -> dict:
    with site.wallet("dan") as dan:
        deadline = time.monotonic() + seconds
        while (found := dan.contract(order))["phase"] in {"signed", "active"}:
            assert time.monotonic() < deadline, (found, logs(site))
            time.sleep(0.3)
    return found


def logs(site: NetworkSite) -> str:
    network = site.network.processes
    rows = {**{name: network[name] for name in (FIRST, SECOND)}, "pile-1": site.processes["pile-1"]}
    return "\n".join(f"--- {name}\n{process.text()[-3000:]}" for name, process in rows.items())


def retired(site: NetworkSite) -> bool:
    """Whether the pile has a receipt for its newest proof."""
    text = site.processes["pile-1"].text()
    receipts, proofs = re.findall(r"receipt through (\d+) of", text), re.findall(r"proof (\d+) ", text)
    return bool(receipts) and receipts[-1] == proofs[-1]


def settle(site: NetworkSite, order: bytes) -> None:
    """Wait for the session's end and its receipt, and confirm."""
    wait_measured(site, order)
    site.network.wait("the last receipt", lambda: retired(site))
    for party in ("dan", "olga"):
        with site.wallet(party) as wallet:
            contract = wallet.contract(order)["id"]
            wallet.confirm(contract)
    process = site.processes["pile-1"]
    wait_for(lambda: f"contract {contract.hex()[:8]} closed" in process.text(), 20, "the pile to hear of it", process)


@pytest.fixture
def site(tmp_path):
    require(has_cometbft(), "cometbft is not installed; run tools/servers")
    require(find_mosquitto() is not None, "mosquitto is not installed; run tools/servers")
    patient = {"resend_ms": 120_000 * RATE}  # so that it asks for nothing twice on a slow machine
    pile = PileSpec(
        "pile-1", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=20_000, timing=patient
    )
    with (
        Mosquitto(tmp_path / "broker") as broker,
        NetworkSite(tmp_path / "site", [pile], rate=RATE, port=broker.port) as site,
    ):
        site.start_rig()
        site.start_coordinator()
        yield site


def records(site: NetworkSite, name: str) -> list[tuple[bytes, int, str]]:
    """The OCMF records that a coordinator keeps."""
    with sqlite3.connect(site.network.folder / name / "data" / "records.sqlite") as db:
        return db.execute("SELECT contract, sequence, text FROM record ORDER BY pagination").fetchall()


def receipted(site: NetworkSite) -> int:
    """How many records the pile has answers to; they are numbered from that of its first session's begin proof."""
    folder = site.folder / "pile-1" / "journal-ocmf"
    first = list_records(str(folder))[0].pagination
    mark = folder / "receipted"
    return int(mark.read_text()) - first + 1 if mark.exists() else 0


def present(site: NetworkSite, party: str) -> bytes:
    return Servers(site.genesis.chain_id, party).presence(load_key(site.key_file(party)))


def test_one_speaks_and_the_other_takes_over_when_it_is_silent_or_killed(site):
    with Wire(site) as wire:
        site.network.wait("both to serve", lambda: sum(wire.present.values()) == 2)
        site.admit({"olga": ("pile-owner", 20_000_000), "dan": ("ev-owner", 20_000_000)})
        pile = site.start_pile("pile-1")
        wait_for(lambda: "receipt through 1" in pile.text(), 30, "the pile to be there", pile)
        now_ms = site.clock.now_ms()
        with site.wallet("olga") as olga:
            olga.send(List("pile-1", now_ms, now_ms + 48 * HOUR_MS, 50_000, AT_MARKET, explicit=False))
        settle(site, charge(site, 300))
        site.network.wait("the end of the contract on the wire", lambda: wire.times(LEAF_CLOSED))
        site.network.wait("the records of the session", lambda: receipted(site) == 2)
        site.network.wait("each to have them", lambda: [len(records(site, name)) for name in (FIRST, SECOND)] == [2, 2])
        assert records(site, FIRST) == records(site, SECOND)
        quiet = dict(wire.told)
        # A wallet that has heard nothing for three seconds asks again, and two coordinators answer that.
        assert max(wire.replies.values()) <= 2 * max(wire.asked.values()) - 1
        assert (len(wire.times(LEAF_RECEIPT)), len(wire.times(LEAF_CONTRACT))) >= (3, 1)

        topic = serving_topic(site.genesis.chain_id, LIAR)
        wire.say(topic, present(site, LIAR))
        site.network.wait("the lie to be heard", lambda: wire.present.get(LIAR))
        order = charge(site, 1100)
        assert "pile-1 was not told its contract by operator: said here" in site.network.processes[FIRST].text()
        assert wire.times(LEAF_CONTRACT) == [1, 1], logs(site)
        with site.wallet("olga") as olga:
            assert (
                olga.ask("account")["role"] == "pile-owner"
            )  # hers is not the liar's either, once she has asked again
        wire.say(topic, b"")

        receipts = len(wire.times(LEAF_RECEIPT))
        site.network.wait("receipts while charging", lambda: len(wire.times(LEAF_RECEIPT)) >= receipts + 2)
        # Nothing of the quiet time was ever said twice, though since then whoever owed it has had time to.
        assert {wire.told[said] for said in quiet} == {1}, logs(site)
        for pid in site.network.pids(FIRST).values():
            os.kill(pid, signal.SIGKILL)
        site.network.wait("its last will", lambda: not wire.present[f"coordinator-{FIRST}"], 5)
        settle(site, order)
        assert wire.times(LEAF_CONTRACT) == [1, 2]  # said again by the one that took over
        site.network.wait("the end of the contract on the wire", lambda: len(wire.times(LEAF_CLOSED)) == 2)
        pile.stop()  # the begin's record was the liar's to answer: a pile that comes back sends it at once
        pile.start()
        site.network.wait("the records of the other session", lambda: receipted(site) == 4)
        assert len(records(site, SECOND)) == 4
    assert "refused" not in site.processes["pile-1"].text()
