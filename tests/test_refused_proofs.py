"""Proofs that a coordinator does not take: nothing is lost, traffic is bounded, both ends say so, and it heals if it can."""

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from real_pile import RealPile
from scripted_pile import Hardware, Link, Port
from world import NOW

from pile_edge.agent import RESEND_SLOWEST, Agent
from pile_edge.config_file import load_config
from pile_edge.journal import Journal
from pile_edge.ports.cpython_storage import Storage
from pile_edge.signers import open_signer
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_hil.site import PileSpec, Site, wait_for
from pile_shared import cose
from pile_shared.codec import decode, encode
from pile_shared.errors import JournalError
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof, parse, proof_hash
from pile_shared.topics import pile_topic

SECOND = 1000
RESEND_S = 60
RATE = 240


class Silent(Link):
    """A link whose other end takes everything and answers nothing by itself; each poll is a second."""

    def __init__(self, hardware: Hardware) -> None:
        super().__init__(hardware, SECOND, self._said)
        self.proofs: list[tuple[int, int]] = []  # second, sequence
        self.statuses: list[list] = []

    def _said(self, payload: bytes) -> None:
        self.proofs.append(((self.hardware.now_ms - NOW) // SECOND, parse(payload)[1].sequence))

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        if retain:
            self.statuses.append(decode(payload, 256))
        return super().publish(topic, payload, retain)


class Ignored:
    """A pile whose heartbeats come each hour, on a link that nobody answers."""

    def __init__(self, folder: Path) -> None:
        self.chain = RealPile()
        self.hardware = Hardware(NOW)
        self.link = Silent(self.hardware)
        journal = "capacity_bytes = 65536\nsegment_bytes = 4096"
        timing = f"heartbeat_ms = 3600000\nresend_ms = {RESEND_S * SECOND}"
        self.path = self.chain.settings_file(folder, journal=journal, timing=timing)
        self.lines: list[str] = []
        self.agent = self.boot()

    def boot(self) -> Agent:
        settings = load_config(self.path)
        return Agent(settings, Port(self.hardware, Storage(settings.journal_path), self.link, self.lines.append))

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.agent.step()

    def receipt(self, through: int) -> None:
        digest = proof_hash(self.agent.journal.pending(through - 1, 1)[0][1])
        message = self.chain.told.receipt("pile-1", through, digest)
        self.link.queue.append((pile_topic(self.chain.chain_id, "pile-1", "receipt"), message))


@pytest.fixture
def pile(tmp_path):
    return Ignored(tmp_path)


def test_what_nobody_receipts_is_sent_ever_more_rarely_and_the_pile_says_so(pile):
    pile.run(3600)
    sent = [second for second, sequence in pile.link.proofs if sequence == 1]
    pauses = [after - before for before, after in pairwise(sent)]
    assert pauses[:5] == [RESEND_S * factor for factor in (1, 2, 4, 8, RESEND_SLOWEST)]
    assert [status[5] for status in pile.link.statuses] == ["", "unreceipted"]
    assert "no receipt for proof 1: sent again" in pile.lines
    pile.run(4 * 3600)
    late = [second for second, sequence in pile.link.proofs if sequence == 1 and second > 3600]
    assert all(b - a == RESEND_S * RESEND_SLOWEST for a, b in pairwise(late))
    assert len(late) == 15
    assert pile.agent.journal.retired_through is None  # everything is still there


def test_a_receipt_makes_it_patient_as_before(pile):
    pile.run(3000)
    pile.receipt(1)
    pile.run(2)
    assert pile.link.statuses[-1][5] == ""
    count = len(pile.link.proofs)
    pile.run(1200)  # the next heartbeat, unreceipted
    fresh = [second for second, sequence in pile.link.proofs[count:] if sequence == 2]
    assert [after - before for before, after in pairwise(fresh)][:2] == [RESEND_S, 2 * RESEND_S]


def test_a_receipt_for_what_the_journal_has_not_is_refused_and_said(pile):
    """As from a chain that has more of this pile than its journal, which was brought back from an old copy."""
    pile.run(10)
    message = pile.chain.told.receipt("pile-1", 9, bytes(32))
    pile.link.queue.append((pile_topic(pile.chain.chain_id, "pile-1", "receipt"), message))
    pile.run(60)
    assert pile.link.statuses[-1][5] == "receipt_ahead"
    pile.receipt(1)
    pile.run(2)
    assert pile.link.statuses[-1][5] == ""


def test_saying_something_new_does_not_send_everything_again(pile):
    pile.run(10)
    before = list(pile.link.proofs)
    pile.link.queue.append(
        (pile_topic(pile.chain.chain_id, "pile-1", "receipt"), pile.chain.told.receipt("pile-1", 9, bytes(32)))
    )
    pile.run(RESEND_S // 2)
    assert pile.link.proofs == before


def test_a_journal_of_another_key_is_refused_at_the_start(pile):
    pile.run(5)
    pile.path.parent.joinpath("pile.key").write_bytes(bytes(31) + b"\x07")
    with pytest.raises(JournalError, match="another key") as caught:
        pile.boot()
    assert caught.value.code == "key"


# --- the real coordinator, the real agent, a real broker ---------------------------------------------------------------


def spec(**timing: int) -> PileSpec:
    bus = {"kind": "tcp"}
    return PileSpec("pile-1", "olga", bus, "abb-b23", "B23 112", 12345678, 40_000, timing=timing)


@pytest.fixture
def site(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    timing = {"resend_ms": 200 * RATE, "heartbeat_ms": 200 * RATE, "sample_ms": 100 * RATE}
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Site(tmp_path / "site", [spec(**timing)], rate=RATE, port=broker.port) as site,
    ):
        site.start_rig()
        site.start_coordinator()
        yield site


def resendings(process) -> int:
    return process.text().count("no receipt for proof 1: sent again")


def head_of(process) -> int:
    return max(int(line.split()[1]) for line in process.text().splitlines() if line.startswith("proof "))


def test_a_pile_that_is_registered_late_loses_nothing(site):
    """Its proofs are refused, until an operator admits it: then all of them are on the chain, from the first on."""
    site.prepare_pile("pile-1")
    agent = site.start_pile("pile-1")
    wait_for(lambda: resendings(agent) >= 2, 30, "the pile to complain", agent)
    coordinator = site.processes["coordinator"]
    wait_for(lambda: "refused (unknown_pile, " in coordinator.text(), 30, "the coordinator to say so", coordinator)
    assert head_of(agent) > 1
    site.admit({"olga": ("pile-owner", 1_000_000)})
    head = head_of(agent)
    wait_for(lambda: last_receipt(agent) >= head, 30, "the receipts", agent)
    wait_for(lambda: "pile-1 says: " not in coordinator.text().splitlines()[-1], 30, "peace", coordinator)
    with site.wallet("olga") as olga:
        wait_for(lambda: olga.ask("piles") == [], 20, "nothing left to do")


def last_receipt(process) -> int:
    lines = [line for line in process.text().splitlines() if line.startswith("receipt through ")]
    return int(lines[-1].split()[2]) if lines else 0


def poison(site: Site) -> None:
    """A journal whose first proof is well signed and no proof: its readings are missing, as a buggy agent might have it."""
    settings = load_config(site.folder / "pile-1/pile.toml")
    signer = open_signer(settings.signer)
    fields = {0: 1, 1: 1, 2: NO_PREVIOUS, 3: None, 4: HEARTBEAT}
    bad = cose.sign1(encode(fields), signer, cose.purpose(cose.PROOF, settings.chain_id))
    good = Proof(2, proof_hash(bad), None, HEARTBEAT, []).sign(signer, settings.chain_id)
    journal = Journal(Storage(settings.journal_path), capacity_bytes=65536, segment_bytes=8192)
    journal.append(1, bad)
    journal.append(2, good)


def test_a_malformed_proof_is_named_to_the_operator_and_never_certified(site):
    site.admit({"olga": ("pile-owner", 1_000_000), "dan": ("ev-owner", 1_000_000)})
    poison(site)
    agent = site.start_pile("pile-1")
    coordinator = site.processes["coordinator"]
    wait_for(lambda: resendings(agent) >= 1, 30, "the pile to send again", agent)
    begun_s = time.monotonic()
    wait_for(lambda: resendings(agent) >= 4, 30, "the pile to send again", agent)
    assert time.monotonic() - begun_s > 0.2 * (2 + 4)  # 2 + 4 + 8 times resend_ms, seen from outside
    wait_for(lambda: "pile-1 says: unreceipted" in coordinator.text(), 20, "the pile's word", agent, coordinator)
    assert "refused (malformed, " in coordinator.text()
    assert "proof from pile-1, " in coordinator.text()
    with site.wallet("olga") as olga, site.wallet("operator") as operator, site.wallet("dan") as dan:
        (row,) = operator.ask("piles")
        assert (row["pile"], row["refused"], row["says"], row["proofs"]) == ("pile-1", "malformed", "unreceipted", 0)
        assert row["times"] >= 4
        assert olga.ask("piles")[0]["refused"] == "malformed"
        assert dan.ask("piles") == []
    assert last_receipt(agent) == 0
    agent.stop()
    report = verify_journal(site.folder / "pile-1/pile.toml")
    assert report["ok"] is False
    assert "proof 1: malformed" in report["problems"][0]
    assert "no coordinator takes it" in report["problems"][0]
    assert (report["pending"], report["first"], report["retired"]) == (report["last"], 1, None)


def verify_journal(config: Path) -> dict:
    command = [sys.executable, "-m", "pile_edge.cli", "verify-journal", "--json", "--config", str(config)]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
