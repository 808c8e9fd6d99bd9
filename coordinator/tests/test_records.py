"""Records at the coordinator: what belongs to the chain is kept once, whatever the order; all else is refused by name."""

import itertools
import re
import sqlite3
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from exported import pile_records, settled_chain, within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served
from world import key

from pile_coordinator.chain.transactions import RegisterPile
from pile_coordinator.mqtt import Connection
from pile_coordinator.ocmf import parse_record
from pile_coordinator.records import FORMAT, KNOWN, LATER, UNWRITTEN, RecordDesk, StoredRecords
from pile_edge.ocmf import make_record
from pile_hil.broker import Mosquitto, find_mosquitto
from pile_hil.requirements import require
from pile_shared.cose import low_s
from pile_shared.errors import ConfigError
from pile_shared.proof import BEGIN, END, Origin, Proof, parse
from pile_shared.reading import Reading
from pile_shared.record import RECORD, RECORDED, STORED, encode_record, open_answer
from pile_shared.topics import pile_topic

TAKEN = STORED, STORED


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A settled session on a chain, and the messages of its records."""
    folder = tmp_path_factory.mktemp("session")
    chain = settled_chain(folder / "data")
    certificate = within(chain)
    chain.block(
        chain.engine.time_ms + 1000,
        ("operator", RegisterPile("pile-2", "olga", key("pile-2").public, "SDM630", "9", "north", 7000)),
    )
    proofs = [parse(message)[1] for message in certificate.proofs]
    texts = pile_records(folder / "pile", chain, certificate)
    marked = [proof for proof in proofs if proof.event in {BEGIN, END}]
    messages = [encode_record(proof.sequence, text) for proof, text in zip(marked, texts, strict=True)]
    yield SimpleNamespace(
        chain=chain, proofs=proofs, marked=marked, texts=texts, messages=messages, contract=proofs[0].contract
    )
    chain.close()


@pytest.fixture
def desk(session, tmp_path):
    desk = RecordDesk(tmp_path / "records.sqlite", session.chain.genesis.chain_id, lambda: 1)
    yield desk
    desk.close()


def offer(session, desk, message, pile="pile-1"):
    return desk.offer(session.chain.engine.state, session.chain.evidence.db, pile, message)


def kept(folder, session):
    stored = StoredRecords(folder / "records.sqlite")
    try:
        return [row.text for row in stored.rows(session.contract)]
    finally:
        stored.close()


def record(session, proof, *, pagination=7, place=None, signer="pile-1", origin=None):
    origin = origin or session.proofs[0].origin
    return make_record(proof, pagination, place or f"{session.chain.genesis.chain_id}/pile-1", origin, key(signer))


def test_every_order_of_arrival_with_repetitions_leaves_the_same(session, tmp_path):
    for at, order in enumerate(itertools.product(session.messages, repeat=4)):
        folder = tmp_path / str(at)
        folder.mkdir()
        desk, seen = RecordDesk(folder / "records.sqlite", session.chain.genesis.chain_id, lambda: 1), set()
        for step, message in enumerate(order):
            assert offer(session, desk, message) == ((KNOWN, STORED) if message in seen else TAKEN)
            seen.add(message)
            if step % 2:
                assert desk.commit()
        desk.close()
        assert kept(folder, session) == [t for t, m in zip(session.texts, session.messages, strict=True) if m in seen]


def test_what_was_not_committed_is_not_answered_for_and_comes_again(session, tmp_path):
    """A coordinator killed before the commit has nothing; one killed before the answer gives it when asked again."""
    path = tmp_path / "records.sqlite"
    for outcomes in ([TAKEN, TAKEN], [TAKEN, TAKEN], [(KNOWN, STORED)] * 2):
        desk = RecordDesk(path, session.chain.genesis.chain_id, lambda: 1)
        assert [offer(session, desk, message) for message in session.messages] == outcomes
        if path.with_suffix(".seen").exists():
            assert desk.commit()
        path.with_suffix(".seen").touch()
        desk.close()
    assert kept(tmp_path, session) == session.texts


def altered(text, field, value):
    changed, count = re.subn(rf'"{field}":("[^"]*"|[^,}}]*)', lambda _: f'"{field}":{value}', text, count=1)
    assert count == 1
    assert changed != text
    return changed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("RV", "100.001"),
        ("TM", '"2023-11-14T22:13:24,000+0000 S"'),
        ("ID", f'"{"0" * 40}"'),
        ("PG", '"T9"'),
        ("TX", '"E"'),
    ],
)
def test_a_forged_record_is_refused(session, desk, tmp_path, field, value):
    forged = altered(session.texts[0], field, value)
    refused = "record_bad_signature"
    assert offer(session, desk, encode_record(session.marked[0].sequence, forged)) == (refused, refused)
    assert offer(session, desk, session.messages[0]) == TAKEN  # it stands in nobody's way
    assert desk.commit()
    assert kept(tmp_path, session) == session.texts[:1]


def test_a_record_that_its_pile_signed_must_say_what_the_proof_says(session, desk):
    """The key alone proves nothing: the chain's reading is the one that was paid for."""
    begin, end = session.marked
    reading = begin.readings[-1]
    time_ms, status, raw, energy_wh, power_w, flags = reading.fields()
    more = Reading(time_ms, status, raw, energy_wh + 1, power_w, flags)
    richer = Proof(begin.sequence, begin.previous, begin.contract, BEGIN, [more], 0, begin.origin)
    other_meter = Origin("SDM630", "124", begin.origin.profile, begin.origin.firmware)
    other_model = Origin("SDM631", "123", begin.origin.profile, begin.origin.firmware)
    other = Proof(begin.sequence, begin.previous, bytes(32), BEGIN, begin.readings, 0, begin.origin)
    stopped = Proof(end.sequence, end.previous, end.contract, END, end.readings, end.reason + 1)
    wrong = [
        (begin, record(session, richer)),
        (begin, record(session, begin, origin=other_meter)),
        (begin, record(session, begin, origin=other_model)),
        (begin, record(session, begin, place="another/pile-1")),
        (begin, record(session, begin, place=f"{session.chain.genesis.chain_id}/pile-2")),
        (begin, record(session, other)),
        (end, record(session, stopped)),
        (end, session.texts[0]),
        (begin, session.texts[1]),
    ]
    for proof, text in wrong:
        assert offer(session, desk, encode_record(proof.sequence, text)) == ("record_differs", "record_differs"), text
    assert [offer(session, desk, message) for message in session.messages] == [TAKEN, TAKEN]


def test_another_piles_record_is_not_this_ones(session, desk):
    begin = session.marked[0]
    assert offer(session, desk, session.messages[0], "pile-2") == (LATER, "")  # it has no such proof (yet)
    assert offer(session, desk, session.messages[0], "pile-9") == ("unknown_pile", "")
    refused = "record_bad_signature"
    by_other = encode_record(begin.sequence, record(session, begin, signer="pile-2"))
    assert offer(session, desk, by_other) == (refused, refused)


def test_what_waits_for_its_proof_is_not_answered_and_what_never_had_one_is(session, desk):
    later = encode_record(session.proofs[-1].sequence + 1, session.texts[0])
    assert offer(session, desk, later) == (LATER, "")
    periodic = encode_record(session.proofs[1].sequence, session.texts[0])
    assert offer(session, desk, periodic) == ("record_no_session", "record_no_session")


def test_a_second_record_of_a_proof_is_another(session, desk, tmp_path):
    assert offer(session, desk, session.messages[0]) == TAKEN
    again = encode_record(session.marked[0].sequence, record(session, session.marked[0], pagination=9))
    assert offer(session, desk, again) == ("record_other", "record_other")
    assert desk.commit()
    assert kept(tmp_path, session) == session.texts[:1]


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (b"", "record_codec"),
        (b"\xff" * 40, "record_codec"),
        (b"\x82\x01" + b"\x00" * 3000, "record_oversized"),
        (encode_record(1, "garbage"), "record_damaged"),
        (encode_record(1, "OCMF|{}|{}"), "record_damaged"),
        (encode_record(1, "OCMF|" + "[" * 2400 + "|{}"), "record_damaged"),
    ],
)
def test_garbage_is_refused_by_name(session, desk, message, outcome):
    assert offer(session, desk, message)[0] == outcome


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_altered_byte_of_a_message_is_kept(session, desk, data):
    message = data.draw(st.sampled_from(session.messages))
    at = data.draw(st.integers(0, len(message) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != message[at]))
    outcome, answer = offer(session, desk, message[:at] + bytes([byte]) + message[at + 1 :])
    assert outcome not in {STORED, KNOWN, "record_other"}
    assert answer in {"", outcome}


def test_no_other_text_of_a_signed_record_is_taken(session, desk):
    """The words about the signature are not signed: one who passes a record on must not make another one of it."""
    text = session.texts[0]
    payload, signature = parse_record(text).payload, parse_record(text).signature
    high = encode_dss_signature(
        int.from_bytes(signature[:32], "big"),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - int.from_bytes(signature[32:], "big"),
    )
    words = text.split("|")[2]
    sd = words[words.index('"SD":"') + 6 : -2]
    for other in (
        words.replace("hex", "base64"),
        words[:-1] + ',"XX":1}',
        words.replace(",", ", "),
        words.replace(sd, sd.upper()),
        words.replace(sd, high.hex()),
        words.replace("application/x-der", "text/plain"),
    ):
        forged = encode_record(session.marked[0].sequence, f"OCMF|{payload}|{other}")
        assert offer(session, desk, forged) == ("record_damaged", "record_damaged"), other


@pytest.mark.parametrize("reading", ['["TX"]', '"TX"', '[{"TX":"B"}]', "null", '{"tx":"B"}'])
def test_a_pile_that_signs_anything_as_its_reading_is_refused_by_name(session, desk, reading):
    """Found by fuzzing: a list with the word TX in it passed for a reading, and ended the coordinator. The owner has the key."""
    payload = f'{{"PG":"T1","RD":[{reading}]}}'
    signature = low_s(key("pile-1").sign(payload.encode()))
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")).hex()
    words = f'{{"SA":"ECDSA-secp256r1-SHA256","SE":"hex","SM":"application/x-der","SD":"{der}"}}'
    message = encode_record(session.marked[0].sequence, f"OCMF|{payload}|{words}")
    assert offer(session, desk, message) == ("record_damaged", "record_damaged")


@pytest.mark.parametrize("s", [0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632552, (1 << 256) - 1])
def test_a_record_that_nobody_signed_and_whose_s_is_none_is_refused_by_name(session, desk, s):
    payload, words = session.texts[0].split("|")[1:]
    other = words[: words.index('"SD":"') + 6] + encode_dss_signature(1, s).hex() + '"}'
    message = encode_record(session.marked[0].sequence, f"OCMF|{payload}|{other}")
    assert offer(session, desk, message) == ("record_damaged", "record_damaged")


class FullDb:
    """A database on a disk that is full: SQLite may roll back all of a transaction then (sqlite.org, "Response To Errors")."""

    def __init__(self, db, word, left):
        self.db, self.word, self.left = db, word, left

    def __getattr__(self, name):
        return getattr(self.db, name)

    def execute(self, statement, *values):
        if statement.startswith(self.word):
            self.left -= 1
            if self.left < 0:
                self.db.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(statement, *values)


@pytest.mark.parametrize(("word", "left"), [("INSERT", 0), ("INSERT", 1), ("COMMIT", 0)])
def test_a_full_disk_loses_nothing_that_was_answered(session, desk, tmp_path, word, left):
    whole = desk._db
    desk._db = FullDb(whole, word, left)
    outcomes = [offer(session, desk, message) for message in session.messages]
    assert outcomes[left:] == ([TAKEN, TAKEN] if word == "COMMIT" else [(UNWRITTEN, "")] * (2 - left))
    assert not desk.commit()  # so none of the step is answered, not even what came before the disk was full
    assert kept(tmp_path, session) == []
    desk._db = whole
    assert [offer(session, desk, message) for message in session.messages] == [TAKEN, TAKEN]
    assert desk.commit()
    assert kept(tmp_path, session) == session.texts


def test_a_file_of_a_newer_release_is_left_alone(session, tmp_path):
    path = tmp_path / "records.sqlite"
    desk = RecordDesk(path, "chain", lambda: 1)
    desk._db.execute(f"PRAGMA user_version={FORMAT + 1}")
    desk.close()
    with pytest.raises(ConfigError, match="newer release"):
        RecordDesk(path, "chain", lambda: 1)
    path.write_bytes(b"no database at all, but long enough for a header" * 4)
    with pytest.raises(ConfigError, match="restore it"):
        RecordDesk(path, "chain", lambda: 1)
    with pytest.raises(ConfigError, match="cannot be read"):
        StoredRecords(path)


def test_a_coordinator_goes_on_whatever_comes_on_the_topic(tmp_path):
    """Real mosquitto; nothing here belongs to a proof, so nothing is answered or stored, and proofs still come through."""
    require(find_mosquitto() is not None, "mosquitto is missing: apt install mosquitto, or tools/servers")
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        try:
            served.admit()
            answers = Connection(
                served.site.broker_spec, "ear", [pile_topic(served.chain_id, "+", RECORDED)], persistent=False
            )
            answers.wait_connected(20)
            for message in (b"", b"\xff", encode_record(1, "OCMF|{}|{}"), bytes(100_000)):
                served.raw.publish(pile_topic(served.chain_id, "pile-1", RECORD), message)
                served.raw.publish(pile_topic(served.chain_id, "nobody", RECORD), message)
            served.counted("unknown_pile", 4)
            served.counted("record_codec", 2)
            served.counted("record_oversized", 1)
            served.counted(LATER, 1)
            assert answers.get(0.5) is None
            answers.close()
        finally:
            served.close()


def test_an_answer_is_signed_by_a_node_that_piles_believe(session, tmp_path):
    require(find_mosquitto() is not None, "mosquitto is missing: apt install mosquitto, or tools/servers")
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        try:
            signer = served.coordinator._attester()
            assert signer.public in [validator.public for validator in served.site.genesis.validators]
            answers = Connection(
                served.site.broker_spec, "ear", [pile_topic(served.chain_id, "pile-1", RECORDED)], persistent=False
            )
            answers.wait_connected(20)
            served.coordinator._answers.append(("pile-1", session.messages[0], STORED))
            _, answer = answers.get(20)
            publics = [validator.public for validator in served.site.genesis.validators]
            assert open_answer(answer, served.chain_id, "pile-1", publics)[2] == STORED
            answers.close()
        finally:
            served.close()


def test_one_that_comes_second_keeps_each_record_and_answers_when_it_is_asked_again(tmp_path, monkeypatch):
    """Of several coordinators each has them all; the next in order steps in when the pile had no answer."""
    require(find_mosquitto() is not None, "mosquitto is missing: apt install mosquitto, or tools/servers")
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        try:
            coordinator, offered = served.coordinator, []
            monkeypatch.setattr(coordinator.servers, "rank", lambda _: 1)
            monkeypatch.setattr(
                coordinator.records, "offer", lambda _state, _evidence, *what: offered.append(what) or TAKEN
            )
            recorded, record_topic = (pile_topic(served.chain_id, "pile-1", kind) for kind in (RECORDED, RECORD))
            answers = Connection(served.site.broker_spec, "ear", [recorded], persistent=False)
            answers.wait_connected(20)
            message = encode_record(1, "OCMF|")
            served.raw.publish(record_topic, message)
            served.counted(STORED, 1)
            assert answers.get(0.5) is None
            served.raw.publish(record_topic, message)
            assert answers.get(20) is not None
            assert offered == [("pile-1", message)] * 2
            answers.close()
        finally:
            served.close()
