"""SIGKILL of the real agent at 200 random moments: every proof once and in order on the real chain, every Wh paid for."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from real_pile import PILE, RealPile
from world import NOW

from pile_coordinator.chain.records import ACTIVE, MEASURED, SIGNED, Contract
from pile_hil.peer import START, STOP
from pile_shared.proof import BEGIN, END
from pile_shared.topics import pile_topic

HERE = Path(__file__).parent
ROOT = HERE.parent
KILLS = 200
BOOT_US = 5_000
HOUR_MS = 3_600_000
START_WH = 1_234_560
ENERGY_WH = 4000  # 40 minutes of charging


class Lives:
    """The pile as the coordinator knows it: a wire, and somebody who cuts its power."""

    def __init__(self, folder: Path) -> None:
        # Only the pile's death is on trial, not the chain's deadlines: whole lives may pass before an END is published.
        self.chain = RealPile(begin_grace_ms=3 * HOUR_MS, evidence_window_ms=24 * HOUR_MS)
        journal = "segment_bytes = 4096\ncapacity_bytes = 65536"
        config = self.chain.settings_file(folder, journal=journal, timing="resend_ms = 3600000")
        self.wire, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.setblocking(False)
        path = [str(ROOT / part) for part in ("shared", "edge", "coordinator", "hil", "firmware_tests")]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "pile_lives.py"), str(config), str(other.fileno()), str(NOW)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        other.close()
        self.contract = self.chain.agree(NOW, NOW + 3 * HOUR_MS, ENERGY_WH)
        self.measured_wh: dict[bytes, int] = {}
        self.lost: list[str] = []
        self.now: dict[str, int] = {"now_ms": NOW}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.wire.close()

    def live(self, life_us: int) -> dict[str, int]:
        """One life and its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{life_us}\n")
        self.process.stdin.flush()
        self.now = json.loads(self.process.stdout.readline())
        return self.now

    def send(self, kind: str, payload: bytes) -> None:
        """To the pile, unless nobody has read there for long."""
        try:
            self.wire.send(pile_topic(self.chain.chain_id, PILE, kind).encode() + b"\0" + payload)
        except BlockingIOError:
            self.lost.append(kind)  # it is sent again with the next life

    def hear(self) -> None:
        """Put what came on the chain; every proof there is must be there."""
        messages = []
        while True:
            try:
                messages.append(self.wire.recv(16384))
            except BlockingIOError:
                break
        if messages:
            self.chain.take(messages, self.now["now_ms"])
            self.chain.check()
            self.send("receipt", self.chain.receipt_message())
        found = self.chain.state.find(Contract, self.contract.id)
        if found is not None and found.phase == MEASURED:
            self.measured_wh[found.id] = self.chain.settle(found)

    def ask(self, dice: random.Random) -> None:
        """What a coordinator and a user send: a contract, its start, now and then a stop before the end."""
        now_ms = self.now["now_ms"]
        found = self.chain.state.find(Contract, self.contract.id)
        if found is None:
            found = self.contract = self.chain.agree(now_ms, now_ms + 3 * HOUR_MS, ENERGY_WH)
        if found.phase == SIGNED:
            self.send("contract", self.chain.contract_message(found))
            self.send("session", self.chain.session_message(found, START, now_ms))
        elif found.phase == ACTIVE and dice.randrange(4) == 0:
            self.send("session", self.chain.session_message(found, STOP, now_ms))

    def longest_us(self) -> int:
        """How long a life of an hour takes on this machine, boot included: kills are to strike all through it."""
        begun_s = time.monotonic()
        assert self.live(0)["status"] == 0
        passed_us = int((time.monotonic() - begun_s) * 1_000_000)
        self.hear()
        return BOOT_US + passed_us * HOUR_MS // (self.now["now_ms"] - NOW)


def test_sigkill_at_200_random_moments(tmp_path):
    dice = random.Random(4)
    lives = Lives(tmp_path)
    try:
        lives.ask(dice)
        longest_us = lives.longest_us()
        appended, boots = lives.now["appended"], lives.now["boots"]
        for number in range(KILLS):
            lives.ask(dice)
            end = lives.live(dice.randrange(1, longest_us))
            assert end["status"] == signal.SIGKILL, number
            if end["boots"] > boots:  # this life came as far as to open its journal
                assert end["head_at_boot"] in (appended, appended + 1), number
                boots = end["boots"]
            appended = end["appended"] = max(end["appended"], end["head_at_boot"])
            lives.hear()
        for _ in range(8):  # and in peace: what the last life left is published, its session ends
            assert lives.live(0)["status"] == 0
            lives.hear()
        events = [proof.event for proof in lives.chain.admitted]
        assert lives.chain.admitted[-1].sequence == lives.now["appended"]
        assert events.count(BEGIN) == events.count(END) == len(lives.measured_wh)
        shown_wh = lives.now["energy_mwh"] // 10_000 * 10
        assert sum(lives.measured_wh.values()) == shown_wh - START_WH
        print(
            f"an hour in {longest_us} us, {boots} boots, {len(events)} proofs, {len(lives.measured_wh)} sessions, {shown_wh - START_WH} Wh"
        )
        assert boots > KILLS // 2
        assert len(lives.measured_wh) > 5
        assert lives.chain.outcomes.count("duplicate") > 0
    finally:
        lives.close()
