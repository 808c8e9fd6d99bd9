"""What reaches a coordinator besides transactions: questions, records, other nodes' words, files and typed-in texts."""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

from fuzz.chain_targets import MARKET
from fuzz.target import ROOT, attempt, scratch, target

sys.path.append(str(ROOT / "coordinator/tests"))

from settled import MEASURED_AT, Chain, deliver
from world import NOW, genesis, key

from pile_coordinator.amounts import money, parse_money
from pile_coordinator.certificates import decode_order_certificate
from pile_coordinator.chain.genesis import genesis_from_json
from pile_coordinator.config import load_config, load_genesis
from pile_coordinator.desk import QueryDesk
from pile_coordinator.driver import receipt
from pile_coordinator.engines.attesting import Attestations, node_topic, parse_node_topic
from pile_coordinator.engines.history import Fetched, Shelf, decode_wanted, encode_wanted, read_block
from pile_coordinator.evidence.calendar import parse_moment
from pile_coordinator.keeping.backup import MANIFEST, read_manifest
from pile_coordinator.keeping.mirror import MARK, read_mark
from pile_coordinator.keys import make_key
from pile_coordinator.mqtt import MAX_MESSAGE_BYTES
from pile_coordinator.ocmf import parse_record
from pile_coordinator.serving import Servers, serving_topic
from pile_coordinator.verify import verify_order
from pile_coordinator.verifying.config import load_worker
from pile_coordinator.verifying.stream import packet, publish_packet, split
from pile_coordinator.verifying.wire import Batch, decode_keys, open_batch, sign_batch
from pile_coordinator.wallet_cli.profile import load_profile
from pile_coordinator.wallet_cli.request import read_request
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.paging import decode_place, encode_place
from pile_edge.ocmf import make_record
from pile_shared import cose
from pile_shared.certificate import attest
from pile_shared.codec import array, decode, encode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, END, REASON_USER, Origin, parse

ASKERS = ("dan", "olga", "operator", "grid", "judge-1")


@functools.cache
def settled() -> Any:
    """A chain with evidence on disk, one order that was delivered and settled, and another that rests; of this process."""
    chain = Chain(scratch("settled"))
    chain.admit()
    certificate = deliver(chain, delivered_wh=2000, reason=REASON_USER)
    at = MEASURED_AT + 60_000
    order = chain.list_and_bid(start=at, at=at)
    desk = QueryDesk(chain.engine, chain.evidence)
    return SimpleNamespace(chain=chain, certificate=certificate.encoded(), order=order, desk=desk)


# --- questions -------------------------------------------------------------------------------------------------------


def questions() -> Iterator[bytes]:
    asked = settled()
    contract = decode_order_certificate(asked.certificate).order
    known = asked.desk._questions
    for number, name in enumerate(known):
        for given in (None, [], [asked.order], [contract], ["north"], [0, 1], [[bytes(32)]]):
            yield bytes((number % len(ASKERS),)) + encode([name, given])
    wish = ["north", "", 1000, NOW, NOW + 3_600_000, 700_000, True, 0, False, False]
    yield b"\x00" + encode(["quote", wish])


@target("questions", seeds=questions, max_bytes=512, short_runs=300)
def question(data: bytes) -> None:
    """Whatever a party signs as a question gets an answer that can be sent, and whatever else comes gets none."""
    asker = ASKERS[data[0] % len(ASKERS)] if data else "dan"
    desk, chain_id = settled().desk, settled().chain.genesis.chain_id
    assert isinstance(desk.answer(asker, data), str)
    assert isinstance(desk.answer(data.decode("utf-8", "replace"), data), str)
    row = attempt(lambda: array(decode(data[1:], 1024), 2))
    if row is not None:
        query = cose.sign1(encode([asker, bytes(16), *row]), key(asker), cose.purpose(cose.QUERY, chain_id))
        answer = desk.answer(asker, query)
        assert isinstance(answer, list) or len(query) > 1024
        assert len(encode(answer)) <= MAX_MESSAGE_BYTES


# --- certificates ----------------------------------------------------------------------------------------------------


@target("order-certificate", seeds=lambda: [settled().certificate], max_bytes=8192, short_runs=300)
def order_certificate(data: bytes) -> None:
    """A file is a certificate or a typed error; nothing but what the nodes and parties signed verifies."""
    assert (attempt(lambda: verify_order(data, settled().chain.genesis)) is not None) == (data == settled().certificate)
    certificate = attempt(lambda: decode_order_certificate(data))
    if certificate is not None and decode(data, len(data))[0] == VERSION:
        assert certificate.encoded() == data


VERSION = 4


# --- OCMF ------------------------------------------------------------------------------------------------------------


@functools.cache
def records() -> list[str]:
    """Those of the settled session."""
    origin, made = Origin("SDM630", "123", "sdm630", bytes(32)), []
    for message in decode_order_certificate(settled().certificate).proofs:
        proof = parse(message)[1]
        if proof.event in {BEGIN, END}:
            made.append(make_record(proof, len(made) + 1, "test/pile-1", origin, key("pile-1")))
    return made


@target("ocmf", seeds=lambda: [text.encode() for text in records()], max_bytes=2500)
def ocmf(data: bytes) -> None:
    """A record is damaged, or has every part that is looked at later; none but the pile's own is signed by its key."""
    text = data.decode("utf-8", "replace")
    record = attempt(lambda: parse_record(text))
    if record is not None:
        assert record.text == text
        assert record.event in {BEGIN, END}
        assert record.pagination >= 0
        signed = attempt(lambda: (record.check_signature("pile-1", key("pile-1").public),))
        assert signed is None or text in records()


# --- other nodes and coordinators ------------------------------------------------------------------------------------


def nodes_words() -> Iterator[bytes]:
    chain = settled().chain
    block = chain.engine.block(2)
    header = block.certificate.header_bytes
    yield encode([header, attest(header, key("grid/attest"), chain.genesis.chain_id)])
    yield encode(block.certificate.fields())
    yield encode_wanted("grid", 2, 0)
    store = chain.engine._store
    yield Shelf(store.row, lambda header: store.set_of(header.validators_hash)).answer(2, 0)
    yield encode(list(store.row(2)))
    yield node_topic(chain.genesis.chain_id, "grid", "attestation").encode()
    yield serving_topic(chain.genesis.chain_id, "operator").encode()
    yield Servers(chain.genesis.chain_id, "operator").presence(key("operator"))


@target("nodes", seeds=nodes_words, max_bytes=8192, short_runs=500)
def nodes(data: bytes) -> None:
    """What other nodes and coordinators say counts by its signatures: no other block, set or presence is believed."""
    chain = settled().chain
    chain_id, block = chain.genesis.chain_id, chain.engine.block(2)
    collected = Attestations(chain_id, ("operator", key("operator/attest")))
    collected.know(list(chain.genesis.validators))
    assert isinstance(collected.offer("grid", data, 1), str)
    assert isinstance(collected.offer_certificate(data, 1), str)
    attempt(lambda: decode_wanted(data))
    fetched = Fetched(chain_id, 2, block.header.hash())
    fetched.is_passed(data)
    taken = attempt(lambda: fetched.take(data))
    assert (
        not taken
        or not fetched.blocks
        or fetched.blocks[0][0].certificate.header_bytes == block.certificate.header_bytes
    )
    validators = encode([validator.fields() for validator in chain.genesis.validators])
    sets = {sha256(validators): validators}
    read = attempt(lambda: read_block(data, chain_id, 2, block.header.hash(), sets))
    assert read is None or (read.txs, read.leaves) == (block.txs, block.leaves)
    text = data.decode("utf-8", "replace")
    parsed = parse_node_topic(chain_id, text)
    assert parsed is None or node_topic(chain_id, *parsed) == text
    servers = Servers(chain_id, "grid")
    for topic in (text, serving_topic(chain_id, "operator")):
        assert servers.hear(chain.engine.state, topic, data) in {None, "", *SERVING_CODES}
    assert not servers._others or data == Servers(chain_id, "operator").presence(key("operator"))


SERVING_CODES = {
    *("unknown_sender", "not_yours", "oversized", "malformed", "unknown_key", "bad_signature", "bounds", "codec"),
    "signature",
}


# --- verify workers --------------------------------------------------------------------------------------------------

CHAIN = "demo-00c0ffee"
WORKERS = {cose.key_id(key("worker-1").public): ("worker-1", key("worker-1").public)}
BATCHES = {
    sign_batch(batch, key("worker-1"), CHAIN): batch
    for batch in (Batch([], bytes(32), []), Batch([b"one", b"two"], sha256(b"keys"), [("pile-1", b"bad")]))
}


def brought() -> Iterator[bytes]:
    yield from BATCHES
    yield key("worker-1").public + key("dan").public
    yield b"".join(publish_packet("a/b", bytes(size), 7) for size in (0, 130, 400)) + packet(0xD0)
    yield from (b"\x30\x80\x00", b"\x30\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f")


@target("workers", seeds=brought, max_bytes=2048)
def workers(data: bytes) -> None:
    """Batches count by the worker's signature, key lists are whole keys, and packets the same in any pieces."""
    opened = attempt(lambda: open_batch(data, WORKERS, CHAIN))
    assert (opened is not None) == (data in BATCHES)
    assert opened is None or opened == ("worker-1", BATCHES[data])
    listed = attempt(lambda: decode_keys(data))
    assert listed is None or len(listed) <= len(data) // 65
    at_once = attempt(lambda: split(data))
    if at_once is not None:
        packets, taken = at_once
        in_pieces, left = [], bytearray()
        for byte in data:
            left.append(byte)
            found, used = split(left)
            in_pieces += found
            del left[:used]
        assert (in_pieces, bytes(left)) == (packets, data[taken:])


# --- files and texts -------------------------------------------------------------------------------------------------

CONFIGS: dict[int, tuple[str, Callable[[Path], object]]] = {
    0: ("genesis.json", load_genesis),
    1: ("coordinator.toml", load_config),
    2: ("web.toml", load_web_config),
    3: ("request.json", lambda path: read_request(path, "0" * 64, "demo-00c0ffee")),
    4: (MANIFEST, lambda path: read_manifest(path.parent)),
    5: (MARK, lambda path: read_mark(path.parent, bytes(32))),
    6: ("wallet.toml", load_profile),
    7: ("worker.toml", load_worker),
}
COORDINATOR = """
genesis = "good.json"
data = "data"
party = "operator"
key = "coordinator.key"
block_interval_ms = 1000
engine = "comet"
[attestation]
grid = "grid.key"
[mqtt]
host = "127.0.0.1"
port = 1883
keepalive_s = 60
[comet]
home = "node"
retain_blocks = 100
[evidence]
url = "mysql+pymysql://u:p@h/d"
"""
WEB = """
database = "evidence.sqlite"
genesis = "good.json"
listen = "127.0.0.1"
port = 8080
time_zone = "Asia/Shanghai"
[metrics]
port = 0
[limits]
per_minute = 600
[dashboard]
serve = true
"""
WALLET = """
genesis = "good.json"
key = "dan.key"
party = "dan"
[mqtt]
host = "localhost"
port = 8883
[mqtt.tls]
ca = "ca.pem"
cert = "dan.pem"
key = "dan-key.pem"
[guest]
cert = "guest.pem"
key = "guest-key.pem"
"""
WORKER = """
genesis = "good.json"
party = "operator"
name = "worker-1"
key = "worker.key"
group = "0123456789abcdef"
[mqtt]
host = "localhost"
port = 1883
"""
BACKUP = {
    "format": 1,
    "release": "0.1.0",
    "chain_id": "demo-00c0ffee",
    "genesis": "00" * 32,
    "engine": "solo",
    "height": 7,
    "block": "00" * 32,
    "block_time_ms": NOW,
    "taken_ms": NOW,
    "ledger_schema": 1,
    "evidence": "left out",
    "files": {"data/ledger.sqlite": [4096, "00" * 32]},
}
REQUEST = {
    "kind": "pile-registration",
    "chain_id": "demo-00c0ffee",
    "pile_id": "pile-1",
    "public": key("pile-1").public.hex(),
    "meter_model": "SDM630",
    "meter_serial": "123",
    "rated_power_w": 7000,
}


def files() -> Iterator[bytes]:
    yield b"\x00" + json.dumps(genesis().to_json()).encode()
    yield b"\x00" + json.dumps(MARKET.genesis.to_json(), separators=(",", ":")).encode()
    yield b"\x01" + COORDINATOR.encode()
    yield b"\x02" + WEB.encode()
    yield b"\x03" + json.dumps(REQUEST).encode()
    yield b"\x04" + json.dumps(BACKUP).encode()
    yield b"\x05" + json.dumps({"format": 1, "genesis": "00" * 32, "whole": True}).encode()
    yield b"\x06" + WALLET.encode()
    yield b"\x07" + WORKER.encode()
    yield from (bytes((kind,)) + b"[" * 5000 for kind in (0, 3, 4, 5))
    yield b"\x01x = " + b"[" * 5000


@target("files", seeds=files, max_bytes=6000, short_runs=500)
def file(data: bytes) -> None:
    """Genesis, configurations, requests and backups' lists are right or say which file and key is wrong; a genesis begins a chain."""
    name, load = CONFIGS[data[0] % len(CONFIGS) if data else 0]
    folder = scratch("files")
    if not (folder / "good.json").exists():
        (folder / "good.json").write_text(json.dumps(genesis().to_json()))
        make_key(folder / "worker.key")
    (folder / name).write_bytes(data[1:])
    loaded = attempt(lambda: load(folder / name))
    if loaded is not None and load is load_genesis:
        loaded.state().seal()
        assert genesis_from_json(loaded.to_json()).hash() == loaded.hash()


ZONE = ZoneInfo("Europe/Berlin")
PLACE = ("orders", (int, str, bytes))


def texts() -> Iterator[bytes]:
    yield encode_place("orders", [7, "x", b"y"]).encode()
    yield from (text.encode() for text in ("0.65", "12", "1.000001", "2026", "2026-03", "2026-Q1", "2026-03-29T02:30"))
    told = receipt.prove(settled().certificate, settled().chain.genesis).receipt
    yield told.text().encode()


@target("texts", seeds=texts, max_bytes=400)
def text(data: bytes) -> None:
    """What people type or scan, and cursors that a browser gives back: the one meaning that was written, or an error."""
    typed = data.decode("utf-8", "replace")
    told = attempt(lambda: receipt.parse(typed))
    assert told is None or told.text() == typed.strip()
    try:
        amount = parse_money(typed)
    except ValueError:
        amount = None
    assert amount is None or parse_money(money(amount)) == amount
    attempt(lambda: (parse_moment(typed, ZONE),))
    place = attempt(lambda: decode_place(*PLACE, typed))
    assert place is None or decode_place(*PLACE, encode_place("orders", place)) == place
