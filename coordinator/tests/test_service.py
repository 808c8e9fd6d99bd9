"""The coordinator on a real broker: bad messages are counted, logged with their reason, answered, and change nothing."""

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from served import PILE, Served
from world import HOUR

from pile_coordinator import mqtt, service, serving, wallet
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    List,
    PlaceBid,
    sign_transaction,
)
from pile_coordinator.config import load_config
from pile_coordinator.keys import load_key
from pile_coordinator.service import Coordinator
from pile_coordinator.wallet import Wallet, WalletError
from pile_hil.broker import Mosquitto, find_mosquitto, free_port
from pile_hil.requirements import require
from pile_shared import cose, topics
from pile_shared.certificate import decode_inclusion
from pile_shared.codec import decode, encode
from pile_shared.errors import ConfigError, LinkError
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof, proof_hash
from pile_shared.reading import Reading
from pile_shared.terms import LEAF_RECEIPT, LEAF_TARIFF


@pytest.fixture
def served(tmp_path):
    require(find_mosquitto() is not None, "mosquitto is not installed")
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        yield served
        served.close()


def test_a_second_coordinator_on_the_same_folder_is_turned_away(served):
    with pytest.raises(ConfigError, match="in use by process"):
        Coordinator(load_config(served.site.write_coordinator()))


def test_the_other_core_is_told_only_while_nobody_makes_a_block(served, monkeypatch):
    """CometBFT's thread asks the same verifier about the same claims."""
    served.admit()
    coordinator, held, told = served.coordinator, [], []

    @contextmanager
    def turn():
        held.append(True)
        yield
        held.pop()

    monkeypatch.setattr(coordinator.engine, "turn", turn)
    monkeypatch.setattr(coordinator._verifier, "tell_ahead", lambda claims: told.append((len(claims), len(held))))
    proofs = heartbeats(served.chain_id, 300, served.site.clock.now_ms())
    coordinator._tell_ahead([(topics.pile_topic(served.chain_id, "pile-1", "proof"), proof) for proof in proofs])
    assert sum(count for count, _ in told) == 300
    assert all(depth for _, depth in told)
    assert len(told) > 1  # a block may come between


def test_what_a_broker_does_not_take_is_bounded(monkeypatch):
    monkeypatch.setattr(mqtt, "MAX_UNSENT", 100)
    connection = mqtt.Connection(mqtt.Broker("127.0.0.1", free_port()), "bounded", [])
    for number in range(150):
        connection.publish("topic", b"%d" % number)
    assert len(connection._client._out_messages) == 100
    connection.close()


def test_an_engine_that_hurries_does_not_wait_for_the_next_interval(served, monkeypatch):
    engine, advanced = served.coordinator.engine, threading.Event()

    def advance(_: int) -> None:
        if engine.hurries:
            advanced.set()
            engine.hurries = False

    monkeypatch.setattr(engine, "advance", advance)
    served.coordinator.config = replace(served.coordinator.config, block_interval_ms=60_000)
    served.coordinator._next_block_s = time.monotonic() + 60
    engine.hurries = True
    served.coordinator.connection.wake()
    assert advanced.wait(20)


def heartbeats(chain_id: str, count: int, now_ms: int) -> list[bytes]:
    messages, previous = [], NO_PREVIOUS
    for sequence in range(1, count + 1):
        reading = Reading(now_ms + sequence, 2, sequence.to_bytes(4, "big"), sequence, 0, 0)
        messages.append(Proof(sequence, previous, None, HEARTBEAT, [reading]).sign(PILE, chain_id))
        previous = proof_hash(messages[-1])
    return messages


def test_bad_messages_are_counted_by_reason_and_change_nothing(served, capfd):
    served.admit()
    chain_id, before = served.chain_id, served.root()
    good = heartbeats(chain_id, 100, served.site.clock.now_ms())
    flipped = bytearray(good[0])
    flipped[-1] ^= 1
    bad = {
        "malformed": b"\x00" * 50,
        "oversized": good[0] + bytes(4000),
        "bad_signature": bytes(flipped),
        "too_far_ahead": good[99],
        "unknown_key": heartbeats_by(cose.SoftwareSigner(sha256(b"thief")), chain_id),
    }
    for message in bad.values():
        served.proof(message)
    served.proof(good[0], pile="pile-9")
    served.raw.publish(topics.pile_topic("other-chain", "pile-1", "proof"), good[0])
    for reason in (*bad, "unknown_pile"):
        served.counted(reason, 1)
    assert served.root() == before
    logged = capfd.readouterr().err
    for reason in (*bad, "unknown_pile"):
        assert f"refused ({reason}, " in logged


def heartbeats_by(signer: cose.SoftwareSigner, chain_id: str) -> bytes:
    return Proof(1, NO_PREVIOUS, None, HEARTBEAT, []).sign(signer, chain_id)


def test_out_of_order_and_replayed_proofs_count_once_and_are_receipted(served):
    served.admit()
    messages = heartbeats(served.chain_id, 6, served.site.clock.now_ms())
    for index in (2, 1, 0, 5, 4, 3, 0, 2, 5):
        served.proof(messages[index])
    deadline, through = time.monotonic() + 10, 0
    while through < 6:
        assert time.monotonic() < deadline
        received = served.raw.get(1)
        if received is None or not received[0].endswith("/receipt"):
            continue
        inclusion = decode_inclusion(received[1])
        inclusion.verify(served.chain_id, list(served.site.genesis.validators))
        kind, pile, through, digest = decode(inclusion.leaf, 1000)
        assert (kind, pile, digest) == (LEAF_RECEIPT, "pile-1", proof_hash(messages[through - 1]))
    served.counted("replayed", 3)
    counts = served.coordinator.counts
    assert (counts["ready"], counts["waiting"], counts["replayed"]) == (2, 4, 3)


def test_a_replay_is_answered_with_the_receipt_again(served):
    served.admit()
    (message,) = heartbeats(served.chain_id, 1, served.site.clock.now_ms())
    for _ in range(2):
        served.proof(message)
        deadline = time.monotonic() + 10
        while True:
            received = served.raw.get(1)
            if received is not None and received[0].endswith("/receipt"):
                break
            assert time.monotonic() < deadline


def test_a_pile_that_comes_online_is_told_its_contracts_and_receipts_again(served):
    """The status as an agent sends it, then one that says nothing is wrong any more; others are counted or passed over."""
    served.admit()
    chain_id, now_ms = served.chain_id, served.site.clock.now_ms()
    served.proof(heartbeats(chain_id, 1, now_ms)[0])
    with served.site.wallet("dan") as dan, served.site.wallet("olga") as olga:
        olga.send(List("pile-1", now_ms, now_ms + 9 * HOUR, 9000, AT_MARKET, False))
        dan.send(PlaceBid("north", "", 1000, now_ms, now_ms + 8 * HOUR, 900_000, True, 0, False, False))
        assert dan.ask("piles") == []
    while served.raw.get(0.3) is not None:
        pass
    say(served, [1, "pile-1", 1, bytes(32), bytes(32), "quorum"])
    assert {topic.rpartition("/")[2] for topic in heard(served, 2)} == {"receipt", "contract"}
    with served.site.wallet("olga") as olga:
        (row,) = olga.ask("piles")
        assert (row["says"], row["refused"]) == ("quorum", "")
        say(served, [1, "pile-1", 1, bytes(32), bytes(32), ""])
        heard(served, 2)
        assert olga.ask("piles") == []
    say(served, [1, "nobody", 1, bytes(32), bytes(32), "quorum"], "nobody")
    served.counted("unknown_pile", 1)
    say(served, {0: 1})
    served.counted("codec", 1)
    say(served, [0, "pile-1", 0])
    assert served.raw.get(0.3) is None


def say(served, status, pile="pile-1") -> None:
    served.raw.publish(topics.pile_topic(served.chain_id, pile, "status"), encode(status))


def heard(served, count: int) -> list[str]:
    deadline, found = time.monotonic() + 10, []
    while len(found) < count:
        assert time.monotonic() < deadline, found
        received = served.raw.get(1)
        if received is not None and received[0].endswith(("/receipt", "/contract")):
            found.append(received[0])
    return found


def test_a_refused_transaction_is_answered_with_its_code(served):
    served.admit()
    before = served.root()
    now_ms = served.site.clock.now_ms()
    with served.site.wallet("dan") as dan, served.site.wallet("olga") as olga:
        with pytest.raises(Rejection) as caught:
            dan.send(PlaceBid("south", "", 1000, now_ms, now_ms + HOUR, 800_000, True, 0, False, False))
        assert caught.value.code == "unknown_zone"
        with pytest.raises(Rejection) as caught:
            olga.send(PlaceBid("north", "", 1000, now_ms, now_ms + HOUR, 800_000, True, 0, False, False))
        assert caught.value.code == "wrong_role"
        with pytest.raises(WalletError):
            dan.ask("contract", sha256(b"nothing"))
    assert served.root()[0] <= before[0] + 2  # a block may hold the refusal; balances are what they were
    assert served.coordinator.engine.state.balance_micro("P:dan") == 20_000_000


def test_the_same_bytes_again_get_the_same_answer(served):
    served.admit()
    now_ms = served.site.clock.now_ms()
    signer = load_key(served.site.key_file("olga"))
    tx = sign_transaction(
        signer, served.chain_id, "olga", 1, 500, List("pile-1", now_ms, now_ms + HOUR, 5000, AT_MARKET, False)
    )
    answers = []
    for _ in range(2):
        served.raw.publish(topics.party_topic(served.chain_id, "olga", "tx"), tx)
        deadline = time.monotonic() + 10
        while True:
            received = served.raw.get(1)
            if received is not None and received[0].endswith("/olga/result"):
                answers.append(received[1])
                break
            assert time.monotonic() < deadline
    assert answers[0] == answers[1]


def test_a_stranger_gets_no_answer_and_cannot_ask_for_others(served):
    served.admit()
    stranger = Wallet(
        served.site.genesis, "dan", cose.SoftwareSigner(sha256(b"thief")), served.site.broker_spec, timeout_s=2
    )
    with stranger, pytest.raises(LinkError):
        stranger.ask("account")
    served.counted("unknown_key", 1)
    nobody = Wallet(
        served.site.genesis, "nobody", cose.SoftwareSigner(sha256(b"thief")), served.site.broker_spec, timeout_s=2
    )
    with nobody, pytest.raises(LinkError):
        nobody.ask("account")
    served.counted("unknown_sender", 1)


def test_a_wallet_believes_no_forged_answer(served):
    """Whoever can publish to the answer topic still cannot say what the balance is."""
    served.admit()
    thief = cose.SoftwareSigner(sha256(b"thief"))
    content = encode([b"\x00" * 16, "ok", {"height": 1, "sequence": 0}])
    forged = encode([cose.sign1(content, thief, cose.purpose(cose.REPLY, served.chain_id)), None])
    with served.site.wallet("dan") as dan:
        for message in (forged, b"", b"\xff" * 40, encode([1, 2])):
            served.raw.publish(topics.party_topic(served.chain_id, "dan", "answer"), message)
        assert dan.ask("account")["balance_micro"] == 20_000_000


def test_a_paused_zone_and_a_new_tariff_are_told_to_people(served, capfd):
    """7 kWh on 14 kWh of capacity raise the price by 10.7 %, and the breaker stands at 10 %."""
    served.admit()
    now_ms = served.site.clock.now_ms()
    with served.site.wallet("dan") as dan, served.site.wallet("olga") as olga:
        olga.send(List("pile-1", now_ms, now_ms + 9 * HOUR, 9000, AT_MARKET, False))
        bid = PlaceBid("north", "", 7000, now_ms, now_ms + 8 * HOUR, 900_000, True, 0, False, False)
        dan.send(bid)
        again = replace(bid, window_start_ms=now_ms + HOUR, energy_wh=1000)
        assert dan.quote(again)["reason"] == "paused"
    period = [0, "flat", 650_000, 400_000]
    leaf = encode([LEAF_TARIFF, now_ms, 480, [period, [480, "day", 800_000, 400_000]]])
    header = SimpleNamespace(height=7)
    served.coordinator._tell(SimpleNamespace(leaves=[leaf], header=header), 0)
    logged = capfd.readouterr().err
    assert re.search(r"zone north rose too fast; fills are paused until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", logged)
    assert "block 7: a tariff of 2 periods is in force" in logged


def test_an_old_command_time_is_the_coordinators_not_the_last_blocks(served):
    """A pile refuses commands that are ten minutes old; on a quiet chain the last block is older than that."""
    served.admit()
    engine = served.coordinator.engine
    with served.site.wallet("dan") as dan:
        told = dan.ask("account")["time_ms"]
        assert abs(told - served.site.clock.now_ms()) < 60_000
        engine.time_ms -= HOUR  # an hour without a block
        assert dan.ask("account")["time_ms"] >= told


def test_nobody_is_served_before_the_evidence_is_whole(served, monkeypatch, capfd):
    """As after a snapshot, or when the evidence was lost: it is written while the coordinator runs."""
    served.admit()
    served.coordinator.stop()
    served._thread.join(20)
    before = served.coordinator.engine.height
    (served.site.folder / "coordinator" / "evidence.sqlite").unlink()
    monkeypatch.setattr(service, "MAX_CAUGHT_UP", 1)
    monkeypatch.setattr(service, "EVIDENCE_AT_ONCE_S", 0.0)
    again = service.Coordinator(load_config(served.site.write_coordinator()))
    question = topics.party_topic(served.chain_id, "dan", "query")
    again.step(0)
    assert again.evidence.height == 1
    again.handle(question, b"?")
    again.handle(topics.pile_topic(served.chain_id, "pile-1", "proof"), b"?")
    assert again.counts == {"behind": 2}
    again.handle(topics.pile_topic(served.chain_id, "pile-1", "session"), b"?")
    assert again.counts.total() == 3  # what users say to piles is kept: nobody repeats it
    assert again.counts["behind"] == 2
    monkeypatch.setattr(service, "EVIDENCE_AT_ONCE_S", 60.0)
    again.step(0)
    assert again.evidence.height == again.engine.height >= before
    again.handle(question, b"?")
    assert again.counts["behind"] == 2
    assert again.counts.total() == 4
    again.close()
    said = capfd.readouterr().err
    assert "the evidence lacks older blocks; piles and wallets wait for them" in said
    assert "the evidence is whole" in said


# --- several coordinators, of which the others are only said to be there ---------------------------------------------------

LIAR = "operator"  # comes before the coordinator for pile-1, may submit proofs, and serves nobody


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A coordinator that others may serve beside; turns of half a second, and wallets as impatient."""
    require(find_mosquitto() is not None, "mosquitto is not installed")
    monkeypatch.setattr(Coordinator, "_may_share", property(lambda _: True))
    monkeypatch.setattr(serving, "TURN_S", 0.5)
    monkeypatch.setattr(wallet, "RESEND_S", 0.5)
    with Mosquitto(tmp_path / "broker") as broker:
        served = Served(tmp_path / "site", broker.port)
        served.admit()
        yield served
        served.close()


def lie(served) -> None:
    signer = load_key(served.site.key_file(LIAR))
    presence = serving.Servers(served.chain_id, LIAR).presence(signer)
    served.raw.publish(serving.serving_topic(served.chain_id, LIAR), presence, retained=True)
    until(lambda: served.coordinator.servers.rank("pile-1") == 1)


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contract_on_pile_1(served) -> None:
    now_ms = served.site.clock.now_ms()
    with served.site.wallet("dan") as dan, served.site.wallet("olga") as olga:
        olga.send(List("pile-1", now_ms, now_ms + 9 * HOUR, 9000, AT_MARKET, False))
        dan.send(PlaceBid("north", "", 1000, now_ms, now_ms + 8 * HOUR, 900_000, True, 0, False, False))


def test_a_pile_whose_first_coordinator_is_a_lie_is_served_by_the_next(shared, capfd):
    """Its proofs are brought and receipted and its contracts told, a turn later, and the liar is passed over then."""
    lie(shared)
    shared.proof(heartbeats(shared.chain_id, 1, shared.site.clock.now_ms())[0])
    assert heard(shared, 1)[0].endswith("/receipt")
    assert shared.coordinator.servers.rank("pile-1") == 0
    contract_on_pile_1(shared)
    assert heard(shared, 1)[0].endswith("/contract")
    assert "pile-1 was not told its receipt by operator: said here" in capfd.readouterr().err
    shared.raw.publish(serving.serving_topic(shared.chain_id, LIAR), b"\x01")
    shared.counted("malformed", 1)


def test_what_happened_while_a_coordinator_caught_up_it_makes_good_if_nobody_did(shared, monkeypatch, capfd):
    """It comes back, another is said to be there, and it is not current for a while: then it speaks of what it kept quiet."""
    lie(shared)
    say(shared, [1, "pile-1", 0, bytes(32), bytes(32), ""])
    until(lambda: "pile-1" in shared.coordinator._online)
    current = []
    monkeypatch.setattr(type(shared.coordinator.engine), "is_current", lambda _: bool(current))
    shared.restart()
    until(lambda: shared.coordinator.servers.settled)
    assert not shared.coordinator.servers.takes_part
    say(shared, [1, "pile-1", 0, bytes(32), bytes(32), ""])
    contract_on_pile_1(shared)  # wallets ask again when nobody answers
    until(lambda: "pile-1" in shared.coordinator.unsaid.missed)
    while (received := shared.raw.get(0.7)) is not None:
        assert not received[0].endswith("/contract")
    current.append(True)
    assert heard(shared, 1)[0].endswith("/contract")
    assert "was not told" not in capfd.readouterr().err  # others may have told it before
    assert shared.coordinator.servers.rank("pile-1") == 1
