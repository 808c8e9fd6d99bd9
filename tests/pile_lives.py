"""Runs as a process of its own: forks the real agent again and again and kills it with SIGKILL, when the test says so.

Arguments: configuration, file descriptor of a SOCK_SEQPACKET socket that stands for the broker, start of time in ms.
Each line on stdin is a life: how many microseconds it has, or 0 for one that ends by itself. One that is to be killed lives an
hour of its own time and then waits for it, however fast the machine is. After each life one line of JSON on stdout. The process that forks never makes an agent, so a life knows nothing of the one before but what is on disk; clock,
meter and relay are memory that both share, because they outlive an agent too.
"""

import json
import mmap
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from scripted_pile import Hardware, Port

from pile_edge.agent import Agent
from pile_edge.config_file import load_config
from pile_edge.ports.cpython_storage import Storage
from pile_edge.session import IDLE

STEP_MS = 5000
HEAR_EACH = 20  # polls, on the average: what waits at boot is heard all through a life
HOUR_POLLS = 3_600_000 // STEP_MS
MAX_POLLS = 4000
NAMES = ("now_ms", "energy_mwh", "is_on", "appended", "head_at_boot", "boots")


class Shared(Hardware):
    """Hardware in memory that survives its user."""

    def __init__(self, now_ms: int) -> None:
        # Cast, a number is stored by one instruction; struct.pack_into zeroes it first, and a kill would find it zero.
        self._memory = memoryview(mmap.mmap(-1, 8 * len(NAMES))).cast("q")
        super().__init__(now_ms)

    def __getattr__(self, name: str) -> int:
        return int(self._memory[NAMES.index(name)])

    def __setattr__(self, name: str, value: object) -> None:
        if name in NAMES:
            self._memory[NAMES.index(name)] = value
        else:
            super().__setattr__(name, value)


class Wire:
    """The agent's link: one packet for each message, taken whole or not at all."""

    connected = True
    inflight = 0

    def __init__(self, shared: Shared, link: socket.socket) -> None:
        self.shared = shared
        self.link = link
        self.chance = random.Random(os.getpid())

    def poll(self, _timeout_ms: int) -> list[tuple[str, bytes]]:
        self.shared.advance(STEP_MS)
        if self.chance.randrange(HEAR_EACH):
            return []
        try:
            topic, _, payload = self.link.recv(16384, socket.MSG_DONTWAIT).partition(b"\0")
        except BlockingIOError:
            return []
        return [(topic.decode(), payload)]

    def publish(self, _topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if retain:
            return True
        try:
            self.link.send(payload, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False  # as a link does whose window is full
        return True

    def close(self) -> None:
        pass


def live(config: Path, shared: Shared, link: socket.socket, *, in_peace: bool) -> None:
    settings = load_config(config)
    agent = Agent(settings, Port(shared, Storage(settings.journal_path), Wire(shared, link)))
    journal = agent.journal
    shared.head_at_boot = journal.last_sequence or 0
    shared.boots += 1
    append = journal.append

    def appended(sequence: int, record: bytes, *, keep: bool = True) -> None:
        append(sequence, record, keep=keep)
        shared.appended = sequence

    journal.append = appended  # type: ignore[method-assign]
    for _ in range(HOUR_POLLS):
        agent.step()
    while not in_peace:
        signal.pause()
    for polls in range(MAX_POLLS):
        agent.step()
        if polls > MAX_POLLS // 2 and agent.session.phase == IDLE:
            break


def main(config: Path, link: socket.socket, now_ms: int) -> None:
    shared = Shared(now_ms)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                live(config, shared, link, in_peace=not int(line))
                os._exit(0)
            finally:
                os._exit(1)
        if int(line):
            time.sleep(int(line) / 1e6)
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        print(json.dumps({"status": status, **{name: getattr(shared, name) for name in NAMES}}), flush=True)


main(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
