"""An update comes to a fleet wave by wave through a real broker; a wave that does not come back halts it."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pile_coordinator.mqtt import Broker, Connection
from pile_edge.agent import OFFLINE, ONLINE
from pile_edge.board.software import Software, Update, sign_update, write_update
from pile_edge.cli import main
from pile_edge.commands import fleet as fleet_module
from pile_edge.commands.fleet import EVERY_PILE, Ear, Rollout, load_fleet
from pile_edge.update import UpdateError, fetch, open_offer
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared.codec import encode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.topics import pile_topic

KEY = SoftwareSigner((4711).to_bytes(32, "big"))
CHAIN = "north-1a2b3c4d"
OLD, NEW = b"\x01" * 32, b"\x02" * 32
UPDATE = sign_update(Software(bytes(range(256)) * 20, 2, NEW, "mpy6"), KEY, CHAIN, 0)
GOOD, REFUSES, FALLS_BACK, ABSENT, LEAVES = "good", "refuses", "falls back", "absent", "leaves"


class Board(threading.Thread):
    """A pile's side of an update, as `pile_edge.ports.updater` has it, with one of several ends."""

    def __init__(self, port: int, name: str, kind: str = GOOD) -> None:
        super().__init__(name=name, daemon=True)
        self.kind, self.firmware, self.offers = kind, OLD, 0
        self._topics = {k: pile_topic(CHAIN, name, k) for k in ("update", "want", "status", "receipt")}
        self._connection = Connection(
            Broker("127.0.0.1", port), f"pile-{name}", [self._topics["update"]], persistent=False
        )
        self._connection.wait_connected(30)
        self.done = threading.Event()
        self.say_status()

    def say_status(self, state: int = ONLINE) -> None:
        state = OFFLINE if self.kind == ABSENT else state
        self._connection.publish(
            self._topics["status"], encode([state, self.name, 1, self.firmware, bytes(32), ""]), True
        )

    def publish(self, _topic: str, payload: bytes) -> bool:
        self._connection.publish(self._topics["want"], payload)
        return True

    def poll(self, timeout_ms: int) -> list[tuple[str, bytes]]:
        found = self._connection.get(timeout_ms / 1000)
        return [found] if found is not None and found[0] else []

    def run(self) -> None:
        while not self.done.is_set():
            for _, payload in self.poll(100):
                try:
                    offer = open_offer(payload, KEY.public, CHAIN)
                except PilechainError:
                    continue
                self.offers += 1
                if self.firmware == OLD and self.kind != ABSENT:
                    self._take_up(offer)
        self._connection.close()

    def _take_up(self, offer) -> None:
        if self.kind == REFUSES:
            self.publish("", encode([offer.version, 0, "larger than a slot"]))
            return
        got = bytearray()
        count = iter(range(0, 10**9, 100))
        fetch(self, "", offer, lambda _, data: got.extend(data), lambda: next(count), lambda _: None)
        assert bytes(got) == UPDATE.image
        self.publish("", encode([offer.version, offer.size_bytes, ""]))
        if self.kind != FALLS_BACK:
            self.firmware = NEW
        self.say_status()
        self._connection.publish(self._topics["receipt"], b"receipt")
        if self.kind == LEAVES:
            self.say_status(OFFLINE)


class Yard:
    """A broker, boards, and the operator's files."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port, self.boards = folder, port, dict[str, Board]()
        self.file, self.fleet = folder / "agent-2.update", folder / "fleet.toml"
        write_update(UPDATE, self.file)

    def add(self, *kinds: str) -> None:
        for kind in kinds:
            name = f"pile-{len(self.boards) + 1}"
            self.boards[name] = Board(self.port, name, kind)
            self.boards[name].start()

    def write(self, waves: str) -> None:
        self.fleet.write_text(
            f'chain_id = "{CHAIN}"\nupdate_public = "{KEY.public.hex()}"\nwaves = {waves}\n'
            f'watch_minutes = 0\n[mqtt]\nhost = "127.0.0.1"\nport = {self.port}\n'
        )

    def roll(self, update: Update = UPDATE, may_fail: int = 0, **how: int) -> dict[str, str]:
        fleet = replace(load_fleet(self.fleet), **how)
        with Ear(fleet.mqtt, fleet.folder, CHAIN, EVERY_PILE, ["want", "status", "receipt"]) as ear:
            return Rollout(ear, fleet, update, print).run(may_fail)

    def has(self) -> list[bool]:
        return [board.firmware == NEW for board in self.boards.values()]


@pytest.fixture
def yard(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with Mosquitto(tmp_path / "broker") as broker:
        yard = Yard(tmp_path, broker.port)
        yield yard
        for board in yard.boards.values():
            board.done.set()
        for board in yard.boards.values():
            board.join(30)


def test_every_pile_gets_it_wave_by_wave_and_once(yard, capsys, monkeypatch):
    monkeypatch.setattr(fleet_module, "AT_ONCE", 2)
    yard.add(*[GOOD] * 6)
    yard.write('[["pile-3"], ["pile-1", "pile-2"], ["*"]]')
    assert main(["fleet", "roll", "--fleet", str(yard.fleet), str(yard.file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert next(iter(told)) == "pile-3"
    assert set(list(told)[1:3]) == {"pile-1", "pile-2"}
    assert set(told.values()) == {"version 2 runs and has reported"}
    assert all(yard.has())
    offers = [board.offers for board in yard.boards.values()]
    assert set(yard.roll().values()) == {"runs it already"}
    assert [board.offers for board in yard.boards.values()] == offers
    capsys.readouterr()
    assert main(["fleet", "show", "--fleet", str(yard.fleet), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["pile"], row["online"], row["firmware"]) for row in rows] == [
        (name, True, NEW.hex()) for name in sorted(yard.boards)
    ]


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        (REFUSES, {}, "pile-2: the pile refuses: larger than a slot"),
        (FALLS_BACK, {}, "pile-2: the new software did not report: the pile fell back"),
        (ABSENT, {"wave_s": 12}, "pile-2: does not ask for it: offline, or charging"),
        (LEAVES, {"watch_s": 4}, "pile-2: reported, and went offline"),
    ],
)
def test_a_wave_that_does_not_come_back_halts_it(yard, kind, how, said):
    yard.add(GOOD, kind, GOOD)
    yard.write('[["pile-1", "pile-2"], ["*"]]')
    with pytest.raises(UpdateError, match="halted at wave 1: 1 of 2") as raised:
        yard.roll(**how)
    assert said in str(raised.value)
    assert yard.boards["pile-3"].offers == 0
    assert yard.has()[::2] == [True, False]
    yard.boards["pile-2"].kind = GOOD  # somebody has looked after it
    yard.boards["pile-2"].say_status()
    outcomes = yard.roll()
    assert set(outcomes) == set(yard.boards)
    assert all(yard.has())


def test_so_many_may_fail(yard):
    yard.add(REFUSES, GOOD)
    yard.write('[["pile-1"], ["*"]]')
    outcomes = yard.roll(may_fail=1)
    assert "refuses" in outcomes["pile-1"]
    assert yard.has() == [False, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('chain_id = "north-1a2b3c4d"', "chain_id = 3"), "chain_id"),
        (('update_public = "04', 'update_public = "zz'), "non-hexadecimal"),
        (('waves = [["pile-1"], ["*"]]', "waves = []"), "waves must be lists"),
        (('["pile-1"]', '["pile-1", "pile-1"]'), "in one wave"),
        (('[["pile-1"], ["*"]]', '[["*"], ["pile-1"]]'), "is the last wave"),
        (("watch_minutes = 0", "watch_minutes = -1"), "expected 0 to 10080"),
        (("watch_minutes = 0", "wathc_minutes = 0"), "unknown key wathc_minutes"),
        (("[mqtt]", "[mqqt]"), "[mqtt] is missing"),
    ],
)
def test_a_wrong_fleet_file_says_where(tmp_path, change, said):
    yard = Yard(tmp_path, 1883)
    yard.write('[["pile-1"], ["*"]]')
    assert load_fleet(yard.fleet).waves == [["pile-1"], ["*"]]
    text = yard.fleet.read_text()
    assert change[0] in text
    yard.fleet.write_text(text.replace(*change))
    with pytest.raises(ConfigError) as raised:
        load_fleet(yard.fleet)
    assert said in str(raised.value)
    assert str(yard.fleet) in str(raised.value)


def test_an_update_of_another_key_or_chain_is_not_rolled_out(tmp_path, capsys):
    yard = Yard(tmp_path, 1883)
    yard.write('[["*"]]')
    software = Software(UPDATE.image, 2, NEW, "mpy6")
    for update, said in (
        (sign_update(software, SoftwareSigner((4712).to_bytes(32, "big")), CHAIN, 0), "agent-2.update"),
        (sign_update(software, KEY, "south-1a2b3c4d", 0), "agent-2.update"),
    ):
        write_update(update, yard.file)
        assert main(["fleet", "roll", "--fleet", str(yard.fleet), str(yard.file)]) == 2
        assert said in capsys.readouterr().err
