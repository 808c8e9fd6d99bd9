"""What reaches a pile: its broker's packets, messages on its topics, its configuration, and its own journal after a crash."""

import binascii
import contextlib
import io
import struct
import sys
from collections.abc import Iterator

from fuzz.target import ROOT, attempt, scratch, target

sys.path.append(str(ROOT / "firmware_tests"))

from scripted_pile import SERIAL, Hardware, Link, Port

from pile_edge.agent import Agent
from pile_edge.config import check_config
from pile_edge.config_file import load_config
from pile_edge.journal import CURSOR_NAME, RECORD_MAX_BYTES, SUFFIX, Journal
from pile_edge.meters import catalogue
from pile_edge.mqtt import MESSAGE_MAX_BYTES, QUEUE_MAX, Client, encode_publish
from pile_hil.peer import START, STOP, Chain, make_terms, secret, session_message
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.errors import JournalError
from pile_shared.terms import LEAF_CONTRACT
from pile_shared.topics import PILE_DOWN, pile_topic

# --- the broker's packets --------------------------------------------------------------------------------------------

MAX_STREAM_BYTES = 2048
CONNACK, SUBACK, PINGRESP = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x01", b"\xd0\x00"


class Broker:
    """A port and a transport in one, whose other end says what it is told, in pieces of a size; time only passes by waiting."""

    def __init__(self, stream: bytes, piece: int) -> None:
        self.clock_ms = 0
        self.stream = stream
        self.piece = piece
        self.connects = 0

    def connect(self) -> "Broker":
        self.connects += 1
        if self.connects > 1:
            raise OSError("nobody there")
        return self

    def now_ms(self) -> int:
        return self.clock_ms

    def sleep_ms(self, pause_ms: int) -> None:
        self.clock_ms += max(1, pause_ms)

    def random_below(self, limit: int) -> int:
        return limit // 2

    def wait(self, timeout_ms: int) -> bool:
        self.clock_ms += 0 if self.stream else max(1, timeout_ms)
        return bool(self.stream)

    def read(self, limit: int) -> bytes | None:
        taken = self.stream[: min(limit, self.piece)]
        self.stream = self.stream[len(taken) :]
        return taken or None

    def write(self, data: bytes) -> None:
        assert data

    def close(self) -> None:
        self.stream = b""


def packets() -> Iterator[bytes]:
    yield CONNACK + SUBACK
    yield CONNACK + SUBACK + bytes(encode_publish("pilechain/1/c/p/receipt", b"payload", 7, retain=False)) + PINGRESP
    yield CONNACK + b"\x30\x05\x00\x01a" + b"qos"
    yield CONNACK + SUBACK + 5 * (b"\x32\x07\x00\x01a\x00\x09" + b"qo")
    yield CONNACK + b"\x40\x02\x00\x01" + b"\x90\x03\x00\x01\x80"
    yield b"\x20\x02\x00\x05"
    yield CONNACK + b"\x30\xff\xff\x03\x00\x01b" + bytes(200)
    yield CONNACK + b"\x30\xff\xff\xff\xff\x01"


@target("mqtt", seeds=packets, max_bytes=MAX_STREAM_BYTES)
def broker(data: bytes) -> None:
    """A broker that says anything loses its connection at worst; what it brings is the same in any pieces, and bounded."""
    heard = []
    for piece in (len(data) + 1, 1, 7):
        link = Client(Broker(data, piece), {"host": "x", "port": 1883}, client_id="p", subscriptions=["a/#"])
        link.publish("too/early", b"x")
        brought = []
        for _ in range(len(data) // 2 + 4):
            messages = link.poll(0 if brought else 1)
            assert len(messages) <= QUEUE_MAX
            assert link.inflight <= 4
            brought += messages
            if link.connected and not link.inflight:
                assert link.publish("pile/proof", b"proof") or not link.connected
        assert all(len(payload) <= MESSAGE_MAX_BYTES for _, payload in brought)
        heard.append((brought, link.dropped, repr(link.last_error)))
        link.close()
    assert heard[0][:2] == heard[1][:2] == heard[2][:2], heard


# --- a folder in memory ----------------------------------------------------------------------------------------------


class Memory:
    """A journal's storage, without a disk."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})

    def names(self) -> list[str]:
        return list(self.files)

    def _data(self, name: str) -> bytes:
        if name not in self.files:
            raise OSError(2, name)
        return self.files[name]

    def size(self, name: str) -> int:
        return len(self._data(name))

    def open(self, name: str) -> contextlib.closing[io.BytesIO]:
        return contextlib.closing(io.BytesIO(self._data(name)))

    def append(self, name: str, data: bytes) -> None:
        self.files[name] = self.files.get(name, b"") + data

    def replace(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def truncate(self, name: str, size_bytes: int) -> None:
        if size_bytes:
            self.files[name] = self._data(name)[:size_bytes]
        else:
            self.files.pop(name, None)

    def remove(self, name: str) -> None:
        del self.files[name]


# --- the journal -----------------------------------------------------------------------------------------------------

JOURNAL = {"capacity_bytes": 4 * 2062, "segment_bytes": 2062}
MAX_FOLDER_BYTES = 4096
_FILE = struct.Struct(">BHB")  # what kind of file, how long, and the first sequence of a segment


def written() -> Iterator[bytes]:
    """Folders that journals leave: of none, one and several segments, with a state, with something retired."""
    for count, size, retired in ((0, 0, 0), (1, 40, 0), (9, 700, 3), (3, 2048, 0), (5, 300, 5)):
        storage = Memory()
        journal = Journal(storage, **JOURNAL)
        with contextlib.suppress(JournalError):
            for sequence in range(1, count + 1):
                journal.append(sequence, bytes((sequence,)) * size)
        journal.save_state(b"state of a session")
        if retired:
            journal.retire(retired)
        for sealed in (0, 1):
            yield bytes((sealed,)) + folder_bytes(storage.files)


def folder_bytes(files: dict[str, bytes]) -> bytes:
    found = b""
    for name, data in sorted(files.items()):
        first = 0 if name == CURSOR_NAME else int(name.removesuffix(SUFFIX), 16)
        found += _FILE.pack(name == CURSOR_NAME, len(data), first) + data
    return found


def folder_of(data: bytes) -> dict[str, bytes]:
    """The files that an input describes; with the first byte odd, every checksum in them is made to fit."""
    files, at = {}, 1
    while len(data) - at >= _FILE.size and len(files) < 6:
        is_cursor, size, first = _FILE.unpack_from(data, at)
        at += _FILE.size
        content = data[at : at + size]
        at += size
        if data[0] & 1:
            content = sealed_cursor(content) if is_cursor & 1 else sealed_segment(content)
        files[CURSOR_NAME if is_cursor & 1 else f"{first:016x}{SUFFIX}"] = content
    return files


def sealed_cursor(content: bytes) -> bytes:
    return content[:-4] + struct.pack(">I", binascii.crc32(content[:-4]))


def sealed_segment(content: bytes) -> bytes:
    made, at = b"", 0
    while len(content) - at >= 14:
        end = at + 10 + int.from_bytes(content[at : at + 2], "big")
        body = content[at:end]
        made += body + (struct.pack(">I", binascii.crc32(body)) if end + 4 <= len(content) else b"")
        at = end + 4
    return made


@target("journal", seeds=written, max_bytes=MAX_FOLDER_BYTES)
def journal_folder(data: bytes) -> None:
    """Any files are a journal or a typed error; one that opens goes on, and opens again with all that it said it had."""
    if not data:
        return
    storage = Memory(folder_of(data))
    journal = attempt(lambda: Journal(storage, **JOURNAL))
    if journal is None:
        return
    kept = everything(journal)
    if kept is None:
        return  # typed: found corrupt while reading
    head = journal.last_sequence or 0
    if attempt(lambda: (journal.append(head + 1, b"next"),)) is not None:
        kept.append((head + 1, b"next"))
        assert journal.last_sequence == head + 1
    again = Journal(Memory(storage.files), **JOURNAL)
    ends = [(one.head, one.state) for one in (journal, again)]
    assert ends[0] == ends[1], ends
    assert everything(again) == kept


def everything(journal: Journal) -> list[tuple[int, bytes]] | None:
    """All that no receipt covers, in order; None for a typed error."""
    found: list[tuple[int, bytes]] = []
    after = journal.retired_through or 0
    while rows := attempt(lambda after=after: (journal.pending(after, 4),)):
        if not rows[0]:
            return found
        assert [sequence for sequence, _ in rows[0]] == sorted({sequence for sequence, _ in rows[0]})
        assert rows[0][0][0] > after
        assert all(len(record) <= RECORD_MAX_BYTES for _, record in rows[0])
        found += rows[0]
        after = rows[0][-1][0]
    return None


# --- the configuration -----------------------------------------------------------------------------------------------

CHAIN = Chain()
KEY_FILE = "pile.key"
MAPPING = {
    "chain_id": CHAIN.chain_id,
    "pile_id": "pile-1",
    "signer": f"file:{KEY_FILE}",
    "validators": [{"party": v.party, "public": v.public, "power": v.power} for v in CHAIN.validators],
    "mqtt": {"host": "broker", "port": 8883, "tls": {"ca": "ca.pem", "cert": "c.pem", "key": "k.pem"}},
    "bus": {"kind": "rtu", "device": "/dev/ttyUSB0", "baud": 9600, "parity": "E", "gap_ms": 5},
    "meter": {"profile": {}, "unit": 1, "serial": SERIAL, "rated_power_w": 11_000},
    "control": {"kind": "coil", "unit": 2, "coil": 0},
    "timing": {"sample_ms": 1000, "report_ms": 5000},
    "journal": {"path": "journal", "segment_bytes": 2062, "capacity_bytes": 8248},
    "clock": {"rate": 1, "origin_ms": 0},
}


def settings_mapping() -> dict[str, object]:
    """A pile's configuration as a board reads it."""
    profile = catalogue.board_profile(catalogue.profile_mapping("abb-b23"))
    return {**MAPPING, "meter": {**MAPPING["meter"], "profile": profile}}  # type: ignore[dict-item]


def configurations() -> Iterator[bytes]:
    yield b"\x00" + encode(settings_mapping())
    yield b"\x01" + TOML.encode()
    for name in MAPPING:
        for misfit in (None, 1, "", b"x", [1], [[]], {}, {"kind": 1}):
            yield b"\x00" + encode({**settings_mapping(), name: misfit})


TOML = f"""
chain_id = "demo-00c0ffee"
pile_id = "pile-1"
signer = "file:pile.key"
[mqtt]
host = "127.0.0.1"
port = 1883
keepalive_s = 60
[bus]
kind = "tcp"
host = "127.0.0.1"
port = 502
timeout_ms = 1000
[meter]
profile = "eastron-sdm630"
unit = 1
serial = "12345678"
rated_power_w = 22000
word_order = "big"
[control]
kind = "coil"
unit = 2
coil = 0
[timing]
sample_ms = 1000
[journal]
path = "journal"
[ocmf]
path = "records"
[[validators]]
party = "auditor"
public = "{CHAIN.validators[0].public.hex()}"
power = 1
"""


@target("pile-config", seeds=configurations, max_bytes=4096, short_runs=500)
def configuration(data: bytes) -> None:
    """A configuration file, CBOR or TOML by the first byte, gives settings or an error that names file and key."""
    path = scratch("config") / ("pile.toml" if data[:1] == b"\x01" else "pile.cbor")
    path.write_bytes(data[1:])
    attempt(lambda: load_config(path))


# --- messages on a pile's topics -------------------------------------------------------------------------------------

NOW_MS = 1_800_000_100_000
PILE, USER, UPDATER = (cose.SoftwareSigner(secret(number)) for number in (7, 21, 22))
STEP_MS = 1000
MAX_SCRIPT_BYTES = 4096
_MESSAGE = struct.Struct(">BH")


def messages() -> dict[str, bytes]:
    """Good ones, by name."""
    terms = make_terms(
        pile_public=PILE.public,
        user_public=USER.public,
        meter_serial=SERIAL,
        window_start_ms=NOW_MS - 60_000,
        window_end_ms=NOW_MS + 3_600_000,
    )
    contract = terms.contract_id()
    offer = cose.sign1(encode([1, "unix", 2, 1, 4096, bytes(32)]), UPDATER, cose.purpose(cose.UPDATE, CHAIN.chain_id))
    other = Chain(first_key=2000)
    return {
        "contract": CHAIN.contract(terms),
        "start": session_message(USER, CHAIN.chain_id, contract, START, NOW_MS),
        "stop": session_message(USER, CHAIN.chain_id, contract, STOP, NOW_MS),
        "closed": CHAIN.closed(contract),
        "receipt": CHAIN.receipt("pile-1", 1, bytes(32)),
        "update": offer,
        "validators": CHAIN.hand_over(other),
        "contract of one node": CHAIN.inclusion(encode([LEAF_CONTRACT, terms.encoded()]), signing=(0,)).encoded(),
        "contract of others": Chain(first_key=3000).contract(terms),
        "start by another": session_message(PILE, CHAIN.chain_id, contract, START, NOW_MS),
        "start elsewhere": session_message(USER, "other-chain", contract, START, NOW_MS),
    }


GOOD = messages()
KINDS = {"start": "session", "stop": "session", "closed": "contract"}  # by the first word, where it is another


def script(*names: str) -> bytes:
    """An input that brings these messages, one per step."""
    found = b""
    for name in names:
        word = name.partition(" ")[0]
        kind = PILE_DOWN.index(KINDS.get(word, word))
        found += _MESSAGE.pack(kind, len(GOOD[name])) + GOOD[name]
    return found


def scripts() -> Iterator[bytes]:
    yield from (script(name) for name in GOOD)
    yield script("contract", "start", "stop")
    yield script("start", "contract", "receipt", "start")
    yield script("contract", "closed", "start")
    yield script("validators", "contract", "start")
    yield script("contract", "update", "start", "update")
    yield from (script("contract", name) for name in ("start by another", "start elsewhere"))
    yield from (script(name, "start") for name in ("contract of one node", "contract of others"))


def spoken(data: bytes) -> list[tuple[str, bytes]]:
    """(topic, payload) of the messages in an input, eight at most."""
    found, at = [], 0
    while len(data) - at >= _MESSAGE.size and len(found) < 8:
        kind, size = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        topic = pile_topic(CHAIN.chain_id, "pile-1", PILE_DOWN[kind % len(PILE_DOWN)])
        found.append((topic, data[at : at + size]))
        at += size
    return found


class Surroundings(Port):
    """Those of a scripted pile, with a key that is in no file."""

    def open_signer(self, _uri: str) -> cose.SoftwareSigner:
        return PILE

    def keep(self, validators: object) -> None:
        """No tables of keys: CPython has no use for them."""

    def take_offer(self, _size_bytes: int, message: bytes) -> None:
        assert message == GOOD["update"], "only what the updater signed gets this far"


@target("pile-messages", seeds=scripts, max_bytes=MAX_SCRIPT_BYTES, short_runs=300)
def pile_hears(data: bytes) -> None:
    """The real agent, whatever comes on its topics: it goes on, and energises only for a certified contract and its user."""
    hardware = Hardware(NOW_MS)
    link = Link(hardware, STEP_MS, lambda _: None)
    settings = check_config({**settings_mapping(), "update_public": UPDATER.public}, "")
    agent = Agent(settings, Surroundings(hardware, Memory(), link))
    said = spoken(data)
    for message in said:
        link.queue = [message]
        agent.step()
        if hardware.is_on:
            payloads = [payload for _, payload in said]
            assert GOOD["contract"] in payloads
            assert GOOD["start"] in payloads
    assert sum(agent.refused.values()) <= len(said)
    agent.close()
    assert not hardware.is_on
