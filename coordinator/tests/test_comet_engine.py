"""The comet engine between CometBFT and the other nodes: blocks are decided here, signatures come and get lost."""

import base64
import json
from types import SimpleNamespace

import pytest
from comet_app import CANDIDATE_KEYS, CANDIDATES, CONSENSUS, NODES, App, votes
from world import HOUR, NOW, genesis, key, stake_json

from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transactions import Deposit, RegisterParty, sign_transaction
from pile_coordinator.clock import Clock
from pile_coordinator.engines.attesting import ASK_AGAIN_S, ATTESTATION, MISSING, node_topic
from pile_coordinator.engines.comet import engine as engine_module
from pile_coordinator.engines.comet.engine import MAX_FRESH, SEND_AGAIN_S, CometEngine
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.comet.pool import MAX_AHEAD
from pile_coordinator.engines.engine import BusyError, CachingVerifier, StoreError
from pile_coordinator.replay import audit, open_ledger
from pile_shared.certificate import attest, decode_handover, decode_header, validators_hash
from pile_shared.codec import array, decode, encode
from pile_shared.platform import es256_verify, sha256


def write_home(folder, keys) -> Home:
    """A CometBFT folder as far as we read it; nothing listens at its RPC."""
    config = folder / "node" / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "config.toml").write_text('proxy_app = "tcp://127.0.0.1:0"\n[rpc]\nladdr = "tcp://127.0.0.1:9"\n')
    rows = [{"name": party, "pub_key": {"value": base64.b64encode(k).decode()}} for party, k in keys.items()]
    (config / "genesis.json").write_text(json.dumps({"validators": rows}))
    return Home(folder / "node")


class Node(App):
    """An engine whose CometBFT is the test; what it tells the other nodes is kept."""

    def __init__(self, folder, party: str, chain=None, keys=CONSENSUS) -> None:
        self.genesis, self.keys = chain or genesis(), keys
        self.sent: list[tuple[str, str, bytes]] = []
        self.told = []
        self.engine = CometEngine(
            folder / party,
            self.genesis,
            write_home(folder / party, keys),
            (party, key(party + "/attest")),
            verify=CachingVerifier(es256_verify),
            clock=Clock(),
            log=print,
            snapshot_interval=0,
            retain_blocks=0,
        )
        self.ledger = self.engine._ledger
        self.application = SimpleNamespace(handle=self.engine._server._handle)
        self.engine.on_block(self.told.append)
        self.engine.connect(self._publish, lambda: None)

    def _publish(self, topic: str, payload: bytes, _retained: bool) -> None:
        self.sent.append((topic, topic.rpartition("/")[2], payload))

    def asked_for(self) -> list[int]:
        return [decode(payload, 16) for _, kind, payload in self.sent if kind == MISSING]

    def close(self) -> None:
        self.engine.close()


def deposit(sequence: int, reference: str = "n", valid_until: int = 1000) -> bytes:
    body = Deposit("operator", 5, f"{reference}{sequence}")
    return sign_transaction(key("grid"), genesis().chain_id, "grid", sequence, valid_until, body)


def registration(sequence: int) -> bytes:
    """Something of another sender."""
    name = f"user-{sequence}"
    body = RegisterParty(name, "ev-owner", key(name).public)
    return sign_transaction(key("operator"), genesis().chain_id, "operator", sequence, 1000, body)


@pytest.fixture
def clock(monkeypatch):
    """What the engine measures its patience with."""
    held = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: held.now_s))
    return held


@pytest.fixture
def nodes(tmp_path, clock):
    opened = [Node(tmp_path, party) for party in NODES]
    for node in opened:
        node.init_chain()
        node.engine.advance(0)
    yield opened
    for node in opened:
        node.close()


def decide(nodes: list[Node], height: int) -> None:
    for node in nodes:
        node.decide(height, NOW + height, [deposit(height)])
        node.engine.advance(0)


def deliver(nodes: list[Node], *, lost: bool = False) -> None:
    """Everybody hears what everybody said, unless it is lost."""
    said = [message for node in nodes for message in node.sent]
    for node in nodes:
        node.sent.clear()
        for topic, _, payload in said:
            if not lost:
                node.engine.handle(topic, payload)
        node.engine.advance(0)


def test_a_block_is_told_when_it_is_certified(nodes):
    decide(nodes, 1)
    assert [node.engine.height for node in nodes] == [0, 0, 0]
    assert nodes[0].engine.find_tx(sha256(deposit(1))) is None
    deliver(nodes)
    assert [node.engine.height for node in nodes] == [1, 1, 1]
    assert nodes[0].engine.find_tx(sha256(deposit(1))) == (1, 0)
    assert nodes[0].engine.block(1).certificate.attestations == nodes[0].told[0].certificate.attestations
    (block,) = nodes[0].told
    block.certificate.verify(nodes[0].genesis.chain_id, list(nodes[0].genesis.validators))


def test_a_block_and_an_attestation_are_not_kept_waiting(nodes):
    """A coordinator comes by once in a while only, unless it hears that there is something to do."""
    node, other = nodes[0], nodes[1]
    assert not woken(node)
    decide([other], 1)
    node.decide(1, NOW + 1, [deposit(1)])
    assert woken(node)
    assert not woken(node)
    for topic, kind, payload in other.sent:
        assert kind == ATTESTATION
        assert node.engine.handle(topic, payload) == ""
    assert woken(node)
    assert node.engine.handle(topic, b"x") != ""
    assert not woken(node)


def woken(node: Node) -> bool:
    """Whether it wants to be called; it is, then."""
    hurries = node.engine.hurries
    node.engine.advance(0)
    return hurries


def test_a_lost_signature_is_asked_for_while_blocks_go_on(nodes, clock):
    """Under load there is always a newer block whose signatures have just been sent."""
    decide(nodes, 1)
    deliver(nodes, lost=True)
    for height in range(2, 6):
        decide(nodes, height)
        deliver(nodes)
        clock.now_s += ASK_AGAIN_S / 2
    for _ in range(2):  # the question, and what it brings
        for node in nodes:
            node.engine.advance(0)
        deliver(nodes)
    assert [node.engine.height for node in nodes] == [5, 5, 5]
    assert [block.header.height for block in nodes[0].told] == [1, 2, 3, 4, 5]


def test_nothing_is_asked_for_while_nothing_is_missing(nodes, clock):
    for height in range(1, 6):
        decide(nodes, height)
        assert all(node.asked_for() == [] for node in nodes)
        deliver(nodes)
        for _ in range(3):  # an idle while
            clock.now_s += ASK_AGAIN_S
            for node in nodes:
                node.engine.advance(0)
    assert all(node.asked_for() == [] for node in nodes)


def test_what_was_committed_is_taken_by_who_has_its_turn(nodes):
    """CometBFT's thread drops the oldest of what is kept for a slow one; both at once would stop the node."""

    class Kept(dict):
        def pop(self, *args):
            assert node.ledger.lock._is_owned()
            return super().pop(*args)

    node = nodes[0]
    node.engine._fresh = Kept()
    decide(nodes, 1)
    deliver(nodes)
    assert node.engine.height == 1


def test_questions_of_other_nodes_cost_a_bounded_answer(nodes, clock):
    node, chain_id = nodes[0], nodes[0].genesis.chain_id
    topic = node_topic(chain_id, "operator", MISSING)
    decide(nodes, 1)
    deliver(nodes)
    for payload in (b"", b"\x00", b"\x80", b"\x1b" + b"\xff" * 8):
        assert node.engine.handle(topic, payload) != ""
    before = len(node.sent)
    assert node.engine.handle(topic, b"\x01") == ""
    assert len(node.sent) == before + 1
    assert node.engine.handle(topic, b"\x01") == ""  # too soon: not answered
    assert len(node.sent) == before + 1


def test_a_chain_that_stands_makes_its_coordinator_wait_and_does_not_stop_it(nodes):
    """A coordinator hands over a batch each second, and a network may lack its majority for hours."""
    node = nodes[0]
    for sequence in range(1, MAX_AHEAD + 1):
        assert node.engine.next_sequence("grid") == sequence
        node.engine.submit(deposit(sequence), bounded=False)
    for _ in range(3):
        with pytest.raises(BusyError, match="after the next block"):
            node.engine.submit(deposit(MAX_AHEAD + 1), bounded=False)
    with pytest.raises(Rejection, match="sequence"):
        node.engine.submit(deposit(MAX_AHEAD + 2))
    decide(nodes, 1)
    deliver(nodes)
    node.engine.submit(deposit(MAX_AHEAD + 1), bounded=False)


def test_a_node_that_was_restarted_signs_what_it_committed_and_had_no_certificate_for(nodes, tmp_path):
    for height in range(1, 4):
        decide(nodes, height)
        if height == 1:
            deliver(nodes)
    nodes[0].close()
    nodes[0] = Node(tmp_path, NODES[0])
    assert (nodes[0].engine.height, nodes[0].ledger.height) == (1, 3)
    nodes[0].engine.advance(0)
    deliver(nodes)
    assert [node.engine.height for node in nodes] == [3, 3, 3]
    assert [block.header.height for block in nodes[0].told] == [2, 3]


def test_what_is_not_certified_yet_is_kept_within_bounds(nodes, monkeypatch):
    """A node alone with its CometBFT catches up faster than the others can attest."""
    monkeypatch.setattr(engine_module, "MAX_AHEAD", 8)
    for height in range(1, 31):
        for node in nodes:
            node.decide(height, NOW + height, [deposit(height)])
    assert len(nodes[0].engine._fresh) == MAX_FRESH
    for node in nodes:
        node.engine.advance(0)
    assert [kind for _, kind, _ in nodes[0].sent].count(ATTESTATION) == 8
    for _ in range(8):  # what one delivery certifies makes room to sign more
        deliver(nodes)
    assert [block.header.height for block in nodes[0].told] == list(range(1, 31))


def test_a_ledger_that_was_stopped_before_its_last_certificate_holds_up_to_it(nodes, tmp_path):
    decide(nodes, 1)
    deliver(nodes)
    decide(nodes, 2)
    ledger = open_ledger(tmp_path / nodes[0].engine.own_party / "ledger.sqlite", nodes[0].genesis)
    found = audit(ledger, nodes[0].genesis)
    assert (found.height, found.transactions, found.uncertified) == (1, 1, 1)
    deliver(nodes)
    found = audit(ledger, nodes[0].genesis)
    assert (found.height, found.transactions, found.uncertified) == (2, 2, 0)
    ledger.close()


class Recorder:
    """In the place of what hands transactions to the node."""

    def __init__(self, node: Node) -> None:
        node.engine._sender.close()
        self.sent: list[bytes] = []
        node.engine._sender = self

    def send(self, tx: bytes) -> bool:
        self.sent.append(tx)
        return True

    def close(self) -> None:
        pass


def test_a_transaction_is_handed_over_again_until_it_is_in_a_block(nodes, clock):
    node, recorder = nodes[0], Recorder(nodes[0])
    node.engine.submit(deposit(1))
    for _ in range(3):
        assert node.engine.waits(sha256(deposit(1)))
        node.engine.advance(0)  # too soon
        clock.now_s += SEND_AGAIN_S
        node.engine.advance(0)
    assert recorder.sent == [deposit(1)] * 4
    decide(nodes, 1)
    deliver(nodes)
    assert not node.engine.waits(sha256(deposit(1)))
    clock.now_s += SEND_AGAIN_S
    node.engine.advance(0)
    assert len(recorder.sent) == 4


def test_a_transaction_that_can_be_in_no_block_any_more_is_dropped(nodes, clock):
    node, recorder = nodes[0], Recorder(nodes[0])
    node.engine.submit(deposit(1))
    node.engine.submit(deposit(2))
    for opened in nodes:  # the party has said something else elsewhere
        opened.decide(1, NOW + 1, [deposit(1, "other")])
    clock.now_s += SEND_AGAIN_S
    node.engine.advance(0)
    assert not node.engine.waits(sha256(deposit(1)))
    assert recorder.sent == [deposit(1), deposit(2), deposit(2)]  # whose turn has come


def test_with_one_that_expired_go_those_that_its_sender_numbered_after_it_and_no_others(nodes, clock):
    """They wait for a transaction that is in no block: the next of their sender takes its place, and its number."""
    node, recorder = nodes[0], Recorder(nodes[0])
    handed = [deposit(1), deposit(2, valid_until=1), deposit(3), registration(2), deposit(4)]
    node.engine.submit(handed[1])
    for tx in (*handed[2:], handed[0]):  # the first comes last: it waits for none of them
        node.engine.submit(tx)
    assert node.engine.next_sequence("grid") == 5
    for opened in nodes:
        opened.decide(1, NOW + 1, [registration(1)])
    clock.now_s += SEND_AGAIN_S
    node.engine.advance(0)
    assert [node.engine.waits(sha256(tx)) for tx in handed] == [True, False, False, True, False]
    assert recorder.sent[len(handed) :] == [registration(2), deposit(1)]
    assert node.engine.next_sequence("grid") == 2
    assert node.engine.submit(deposit(2, "again")).sequence == 2


def test_what_waits_for_the_node_is_bounded(nodes, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_OUTBOX", 2)
    for sequence in (1, 2):
        nodes[0].engine.submit(deposit(sequence))
    with pytest.raises(BusyError, match="too many"):
        nodes[0].engine.submit(deposit(3))
    nodes[0].engine.submit(deposit(3), bounded=False)  # metering has its own bound


@pytest.fixture
def elected(tmp_path, clock):
    """A node of a chain on which nothing can be punished after ten blocks and a second: the first set is forgotten soon."""
    bonds = {node: (20 if node != "node-5" else 10) * 1_000_000 for node in CANDIDATES}
    rules = stake_json(bonds, evidence_age_blocks=10, evidence_age_ms=1000, downtime_window_blocks=1000)
    chain = genesis(stake=rules, more=[(node, "operator") for node in CANDIDATES], epoch_ms=HOUR)
    node = Node(tmp_path, "node-1", chain, {name: CANDIDATE_KEYS[name] for name in CANDIDATES[:4]})
    node.init_chain()
    yield node
    node.close()


def live(node: Node, first: int, last: int) -> None:
    """Blocks an hour apart; in the third it is shown that node-2 has signed twice, so node-5 takes its place."""
    guilty = abci.Misbehavior(
        type=abci.DUPLICATE_VOTE,
        validator=abci.Validator(address=address_of(CANDIDATE_KEYS["node-2"]), power=20),
        height=2,
    )
    for height in range(first, last + 1):
        shown = {"misbehavior": [guilty]} if height == 3 else {}
        commit = votes(*CANDIDATES[:4]) if height > 1 else votes()
        node.decide(height, NOW + height * HOUR, [], proposer="node-1", decided_last_commit=commit, **shown)


@pytest.fixture
def forgetful(elected):
    live(elected, 1, 30)
    with pytest.raises(KeyError):
        elected.ledger.validators_at(1)
    return elected


def test_readers_of_a_set_that_ended_are_told_the_next(elected):
    founding = validators_hash(list(elected.genesis.validators))
    for height in range(1, 9):
        live(elected, height, height)
        assert elected.engine.height == height - 1
        assert elected.engine.handover_from(founding) is None or height > 4
        elected.engine.advance(0)
        header = elected.engine.block(height).certificate.header_bytes
        for name in CANDIDATES[1:]:
            signature = attest(header, key(name + "/attest"), elected.genesis.chain_id)
            topic = node_topic(elected.genesis.chain_id, name, ATTESTATION)
            elected.engine.handle(topic, encode([header, signature]))
        elected.engine.advance(0)
    assert elected.engine.height == 8
    certificate, _ = decode_handover(elected.engine.handover_from(founding))
    certificate.verify(elected.genesis.chain_id, list(elected.genesis.validators))


def test_a_question_for_blocks_whose_nodes_are_forgotten_stops_nobody(forgetful):
    topic = node_topic(forgetful.genesis.chain_id, "node-3", MISSING)
    assert forgetful.engine.handle(topic, b"\x01") == ""
    heights = [decode_header(array(decode(payload, 4096), 2)[0]).height for _, _, payload in forgetful.sent]
    assert heights == list(range(heights[0], 31))  # of those whose nodes it still knows
    assert heights[0] > 1


def test_a_node_that_fell_too_far_behind_says_what_to_do(forgetful):
    with pytest.raises(StoreError, match="network join"):
        forgetful.engine.advance(0)
