"""Power cut at every flash operation of a scripted hour: the real agent on a real littlefs, its proofs on the real chain."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_pile import RealPile
from world import NOW

from pile_coordinator.chain.records import MEASURED, Contract
from pile_edge.config_file import compile_config
from pile_hil.peer import START, STOP, secret
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, parse
from pile_shared.topics import pile_topic

SCRIPT = Path(__file__).with_name("run_power_cut.py")
STEP_MS = 5000  # of the script's time
HOUR_STEPS = 720
MINUTE = 60_000
SHARDS = 2
RECORDED_SECONDS = 300  # 40 on an idle machine


class Hour:
    """Two sessions: one ended by the user after 25 minutes, one by its energy; receipts, and a long while without any."""

    def __init__(self, folder: Path, *, blocks: int, capacity_bytes: int, receipts: tuple[int, ...]) -> None:
        self.chain = RealPile()
        self.contracts = [
            self.chain.agree(NOW + 2 * MINUTE, NOW + 29 * MINUTE, 3000),
            self.chain.agree(NOW + 29 * MINUTE, NOW + 60 * MINUTE, 2500),
        ]
        asked = [(0, START, 3), (0, STOP, 27), (1, START, 30)]
        messages: dict[str, list[list[str]]] = {
            "5": [[self._topic("contract"), self.chain.contract_message(one).hex()] for one in self.contracts]
        }
        for index, action, minute in asked:
            message = self.chain.session_message(self.contracts[index], action, NOW + minute * MINUTE)
            messages[str(minute * MINUTE // STEP_MS)] = [[self._topic("session"), message.hex()]]
        self.script = folder / "script.json"
        self.script.write_text(
            json.dumps(
                {
                    "start_ms": NOW + MINUTE,
                    "steps": HOUR_STEPS,
                    "blocks": blocks,
                    "messages": messages,
                    "receipts": [minute * MINUTE // STEP_MS for minute in receipts],
                    "validator": secret(1000).hex(),
                    "user": sha256(b"user-1").hex(),
                }
            )
        )
        self.config = folder / "pile.cbor"
        journal = f"segment_bytes = 2062\ncapacity_bytes = {capacity_bytes}"
        compile_config(self.chain.settings_file(folder, journal=journal), self.config)

    def _topic(self, kind: str) -> str:
        return pile_topic(self.chain.chain_id, "pile-1", kind)


class Record:
    """What the run printed."""

    def __init__(self, outputs: list[str]) -> None:
        lines = [[line.split() for line in output.splitlines()] for output in outputs]
        self.appended = _pairs(lines[0], "a")
        self.sent = _pairs(lines[0], "p")
        self.retired = _pairs(lines[0], "r")
        (self.end,) = [line for line in lines[0] if line[0] == "e"]
        self.changes, self.full = int(self.end[2]), int(self.end[3])
        self.cuts: list[tuple[int, str, list[int], int, list[bytes]]] = []
        self.messages: list[bytes] = []
        for printed in lines:
            named = {line[1]: bytes.fromhex(line[2]) for line in printed if line[0] == "m"}
            if printed is lines[0]:
                self.messages = list(named.values())
            for line in printed:
                if line[0] == "c":
                    came = [named[number] for number in line[8:]]
                    self.cuts.append((int(line[1]), line[2], [int(x) for x in line[3:7]], int(line[7]), came))

    def before(self, change: int) -> tuple[int, int, list[bytes]]:
        """Acknowledged by the journal, retired, and sent, when a change of the flash was about to begin."""
        appended = max([value for at, value in self.appended if at <= change], default=0)
        retired = max([value for at, value in self.retired if at <= change], default=0)
        return appended, retired, [self.messages[value] for at, value in self.sent if at <= change]


def _pairs(lines: list[list[str]], letter: str) -> list[tuple[int, int]]:
    return [(int(line[1]), int(line[2])) for line in lines if line[0] == letter]


def record(micropython, hour: Hour, limit: int = 0) -> Record:
    def run(shard: int) -> str:
        arguments = (hour.config, hour.script, shard, SHARDS, limit)
        done = micropython(SCRIPT, *arguments, heap="8m", timeout_s=RECORDED_SECONDS)
        assert done.stdout.endswith("ok\n"), done.stdout[-2000:] + done.stderr[-2000:]
        return str(done.stdout)

    with ThreadPoolExecutor(SHARDS) as pool:
        return Record(list(pool.map(run, range(SHARDS))))


def judge(hour: Hour, record: Record) -> tuple[int, int]:
    """Every cut against the journal's promises, and each different story once on a chain of its own."""
    judged = set()
    for change, kind, (head, retired, first, last), shown_wh, came in record.cuts:
        where = f"cut {kind} at change {change}"
        appended, acknowledged, sent = record.before(change)
        # The operation in doubt may have happened, nothing else.
        assert head in (appended, appended + 1), where
        assert retired >= acknowledged, where
        assert (first, last) == ((retired + 1, head) if retired < head else (0, 0)), where
        by_sequence: dict[int, bytes] = {}
        for message in [*sent, *came]:
            sequence = parse(message)[1].sequence
            assert by_sequence.setdefault(sequence, message) == message, f"{where}: two proofs {sequence}"
        assert set(range(retired + 1, appended + 1)) <= {parse(one)[1].sequence for one in came} | {
            parse(one)[1].sequence for one in sent
        }, where
        story = tuple(sent + came)
        if story not in judged:
            judged.add(story)
            settle(hour, list(story), shown_wh, where)
    return len(record.cuts), len(judged)


def settle(hour: Hour, messages: list[bytes], shown_wh: int, where: str) -> None:
    chain = copy.deepcopy(hour.chain)
    chain.take(messages, NOW + 68 * MINUTE)
    chain.check()
    total_wh = 0
    for contract in hour.contracts:
        events = [proof.event for proof in chain.admitted if proof.contract == contract.id]
        assert events.count(BEGIN) == events.count(END) <= 1, where
        if events:
            assert (events[0], events[-1]) == (BEGIN, END), where
            assert chain.state.get(Contract, contract.id).phase == MEASURED, where
            total_wh += chain.statement(contract).measured_wh
    # Energy flows only while the contactor is closed: what was settled is what the meter counted, to the last reading.
    assert chain.admitted[-1].readings[-1].energy_wh == shown_wh, where


@pytest.mark.timeout(400)
def test_a_power_cut_at_every_flash_operation_of_an_hour(micropython, tmp_path):
    """64 blocks of 512 bytes: several segments of five blocks each fill, roll and go."""
    hour = Hour(tmp_path, blocks=64, capacity_bytes=8 * 2062, receipts=(10, 20, 26, 58))
    found = record(micropython, hour)
    cuts, stories = judge(hour, found)
    print(f"{found.changes} flash operations, {cuts} cuts, {stories} different stories")
    assert found.changes > 400
    assert cuts > 3.5 * found.changes
    assert stories > len(found.appended)


@pytest.mark.timeout(400)
def test_a_power_cut_at_every_flash_operation_with_a_full_disk(micropython, tmp_path):
    """The disk is smaller than the journal may become, and for half an hour no receipt makes room."""
    hour = Hour(tmp_path, blocks=26, capacity_bytes=8 * 2062, receipts=(10, 58))
    found = record(micropython, hour)
    assert found.full, "the disk was never full"
    cuts, stories = judge(hour, found)
    print(f"{found.changes} flash operations, {cuts} cuts, {stories} different stories, {found.full} left out")
