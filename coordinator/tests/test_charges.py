"""A node that attests two headers of one height is charged by every coordinator that heard it, whatever happens between.

The engine without its CometBFT: blocks are decided by hand, and what would go to the node is caught.
"""

from dataclasses import astuple

import pytest
from world import NOW, consensus, genesis, key, stake_json

from pile_coordinator.accuser import RETRY_S, SPREAD_MS, Accuser
from pile_coordinator.chain.records import Candidate
from pile_coordinator.chain.stake import address_of
from pile_coordinator.chain.transactions import Deposit, DoubleAttestation, decode_transaction, sign_transaction
from pile_coordinator.clock import Clock
from pile_coordinator.engines.attesting import ATTESTATION, CERTIFICATE, DOUBLE, MISSING, node_topic
from pile_coordinator.engines.comet import engine as comet
from pile_coordinator.engines.comet.attested import NAME, Attested
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.ledger import Decided
from pile_coordinator.engines.comet.network import Pace, plan_nodes, write_network
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.new_chain import FOUNDERS, founding_document
from pile_hil.network import free_ports
from pile_shared.certificate import Header, attest, decode_header
from pile_shared.codec import decode, encode
from pile_shared.errors import ConfigError
from pile_shared.platform import es256_verify, sha256

NODES = ("node-1", "node-2", "node-3", "node-4")
LIAR = "node-3"
COORDINATORS = ("operator", "grid")


@pytest.fixture
def moments(monkeypatch):
    """Time as the accusers see it."""
    now = [1000.0]
    monkeypatch.setattr("pile_coordinator.accuser.time.monotonic", lambda: now[0])
    return now


class Node:
    """The engine of `node-1` in a folder, and what it would hand to CometBFT."""

    def __init__(self, folder, home, chain) -> None:
        self.logged: list[str] = []
        self.handed: list[bytes] = []
        self.folder, self.home, self.chain = folder, home, chain
        self.open()

    def open(self) -> None:
        self.engine = comet.CometEngine(
            self.folder, self.chain, self.home, ("node-1", key("node-1/attest")),
            verify=CachingVerifier(es256_verify), clock=Clock(), log=self.logged.append, snapshot_interval=0, retain_blocks=0,
        )  # fmt: skip
        self.engine._sender.send = self.handed.append
        self.told: list[tuple[str, bytes]] = []
        self.engine.connect(lambda topic, payload, _: self.told.append((topic, payload)), lambda: None)
        self.accusers = {party: Accuser(self.engine, party, key(party), self.logged.append) for party in COORDINATORS}
        self.engine.on_block(lambda block: [one.after_block(block) for one in self.accusers.values()])

    def close(self) -> None:
        self.engine.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def finalize(self, *txs: bytes):
        """A block, decided and committed."""
        ledger = self.engine._ledger
        height = ledger.comet_height + 1
        signed = tuple(address_of(consensus(node)) for node in NODES) if height > 1 else None
        decided = Decided(height, bytes(32), NOW + height, address_of(consensus("node-1")), txs, signed)
        block = ledger.finalize(decided).block
        ledger.commit()
        self.engine._pool.clear()
        self.engine._on_commit(block)
        return block

    def decide(self, *txs: bytes):
        """A block: committed, attested by all, certified. Its results' codes."""
        block = self.finalize(*txs)
        self.engine.advance(0)
        for node in NODES[1:]:
            self.hear(node, block.header)
        self.engine.advance(0)
        assert self.engine.height == block.header.height
        self.header = block.header
        return [result.code for result in block.results]

    def hear(self, node: str, header: Header) -> str | None:
        message = encode([header.encoded(), attest(header.encoded(), key(node + "/attest"), header.chain_id)])
        return self.engine.handle(node_topic(self.chain.chain_id, node, ATTESTATION), message)

    def lie(self, node: str = LIAR, header: Header | None = None) -> str | None:
        return self.hear(node, changed(header or self.header))

    def tend(self) -> list[DoubleAttestation]:
        """What the accusers hand over now."""
        before = len(self.handed)
        for accuser in self.accusers.values():
            accuser.tend()
        return [decode_transaction(tx).body for tx in self.handed[before:]]

    def candidate(self, node: str = LIAR) -> Candidate:
        return self.engine.state.get(Candidate, node)


def changed(header: Header) -> Header:
    return Header(**(vars(header) | {"state_root": sha256(b"another")}))


@pytest.fixture
def node(tmp_path, monkeypatch):
    stake = stake_json(dict.fromkeys(NODES, 20_000_000), evidence_age_blocks=4, evidence_age_ms=4)
    chain = genesis(stake=stake, more=[(name, "operator") for name in NODES])
    parties = {party: (role, key(party).public.hex()) for party, role in FOUNDERS.items()}
    plans = plan_nodes(NODES, ("127.0.0.1",), free_ports(12))
    document = founding_document("network", NOW, parties)
    write_network(tmp_path / "network", document, plans, Pace(), broker=("127.0.0.1", 1), serving={})
    home = Home(tmp_path / "network" / "node-1" / "node")
    monkeypatch.setattr(Home, "consensus_keys", lambda _: {name: consensus(name) for name in NODES})
    (tmp_path / "data").mkdir()
    opened = Node(tmp_path / "data", home, chain)
    yield opened
    opened.close()


def test_coordinators_bring_the_charge_one_after_the_other_and_only_once(node, moments):
    node.decide()
    node.decide()
    assert node.lie() == DOUBLE
    assert node.tend() == []  # each waits a moment of its own
    moments[0] += SPREAD_MS / 1000
    charges = node.tend()
    assert [charge.candidate for charge in charges] == [LIAR] * 2
    for _ in range(5):
        moments[0] += RETRY_S
        assert node.tend() == [], "they wait for a block already"
    before = node.candidate()
    assert node.decide(*node.handed) == ["ok", "phase"]  # the second costs the chain no signature
    after = node.candidate()
    assert (before.tombstoned, after.tombstoned) == (False, True)
    assert node.tend() == []
    assert node.engine.charges == {}
    assert node.engine.waiting == 0
    assert node.lie() == DOUBLE  # of another block, by a node that is out
    assert node.lie() == ""  # heard before
    assert node.engine.charges == {}


def test_who_comes_first_spares_the_others_their_charge(node, moments):
    node.decide()
    node.lie()
    waits = {party: accuser._wait_ms(node.engine.charges[LIAR]) for party, accuser in node.accusers.items()}
    assert len(set(waits.values())) == 2
    node.tend()
    moments[0] += min(waits.values()) / 1000
    assert len(node.tend()) == 1
    assert node.decide(*node.handed) == ["ok"]
    moments[0] += SPREAD_MS / 1000
    assert node.tend() == []
    assert node.engine.charges == {}


def test_a_charge_outlives_restarts_until_it_is_heard(node, moments):
    node.decide()
    node.lie()
    node.restart()  # before anything was sent
    assert set(node.engine.charges) == {LIAR}
    node.tend()
    moments[0] += SPREAD_MS / 1000
    assert len(node.tend()) == 2
    node.restart()  # before a block had it; the node's mempool is gone as well
    node.handed.clear()
    node.tend()
    moments[0] += SPREAD_MS / 1000
    assert len(node.tend()) == 2
    assert node.decide(node.handed[0]) == ["ok"]
    node.restart()  # before it was settled here
    assert node.tend() == []
    node.restart()
    assert node.engine.charges == {}


def test_after_a_restart_old_certificates_still_prove_a_new_lie(node):
    node.decide()
    first = node.header
    node.decide()
    certified = {row[0] for row in node.engine.block(1).certificate.attestations}
    assert certified == {0, 1, 2}
    node.restart()
    assert node.lie("node-3", first) == DOUBLE
    assert node.lie("node-4", first) == "other_header"  # in no certificate: there is nothing to prove it with
    assert set(node.engine.charges) == {"node-3"}


def test_a_lost_charge_is_sent_again_and_one_that_is_refused_for_good_is_not(node, moments):
    node.decide()
    node.lie()
    node.tend()
    moments[0] += SPREAD_MS / 1000
    assert len(node.tend()) == 2
    node.engine._outbox.clear()  # as when something numbered before it could not succeed
    node.engine._pool.clear()
    assert node.tend() == []
    moments[0] += RETRY_S
    assert len(node.tend()) == 2
    header = changed(node.header)
    body = DoubleAttestation(LIAR, header.encoded(), bytes(64), node.header.encoded(), bytes(64))
    node.engine.charges[LIAR] = body
    node.engine._outbox.clear()
    node.engine._pool.clear()
    moments[0] += RETRY_S
    assert len(node.tend()) == 2
    assert node.decide(*node.handed[-2:]) == ["evidence"] * 2
    assert node.engine.charges == {}
    assert any("cannot be charged" in line for line in node.logged)


def test_a_node_that_serves_nobody_keeps_the_proof_and_charges_nobody(node, moments):
    node.accusers = {"": Accuser(node.engine, "", None, node.logged.append)}
    node.decide()
    node.lie()
    node.tend()
    moments[0] += 60
    assert node.tend() == []
    others = sign_transaction(
        key("operator"), node.chain.chain_id, "operator", 1, 100, DoubleAttestation(*astuple(node.engine.charges[LIAR]))
    )
    assert node.decide(others) == ["ok"]
    node.tend()
    assert node.engine.charges == {}


def test_a_gap_that_a_refused_charge_leaves_is_filled(node, moments):
    """A refused transaction takes no number, and those after it would wait for one that never comes."""
    node.decide()
    node.lie()
    node.tend()
    moments[0] += SPREAD_MS / 1000
    node.tend()
    engine = node.engine
    charge = next(tx for tx in node.handed if decode_transaction(tx).sender == "operator")
    assert engine.next_sequence("operator") == 2

    def deposit(sequence: int) -> bytes:
        body = Deposit("operator", 1, str(sequence))
        return sign_transaction(key("grid"), node.chain.chain_id, "grid", sequence, 100, body)

    first = next(tx for tx in node.handed if decode_transaction(tx).sender == "grid")
    engine.submit(deposit(2))
    assert node.decide(charge, first) == ["ok", "phase"]
    assert engine.next_sequence("grid") == 1  # and not 3
    engine.submit(deposit(1))
    assert node.decide(deposit(1), deposit(2)) == ["ok", "ok"]
    assert engine.next_sequence("grid") == 3


def test_a_charge_against_who_was_punished_takes_no_room(node):
    """Neither here nor at nodes to which it is gossiped; one that is in the mempool stays for those after it."""
    node.decide()
    node.lie()
    body = node.engine.charges[LIAR]
    tx = {p: sign_transaction(key(p), node.chain.chain_id, p, 1, 100, body) for p in COORDINATORS}
    ledger, pool = node.engine._ledger, node.engine._pool
    assert node.decide(tx["operator"]) == ["ok"]
    with pytest.raises(comet.Rejection, match="punished") as caught:
        pool.check(ledger.state, ledger.env(0), tx["grid"])
    assert caught.value.code == "phase"
    assert pool.check(ledger.state, ledger.env(0), tx["grid"], again=True).sender == "grid"


def test_on_a_chain_that_elects_nobody_a_lie_is_only_named(tmp_path, node):
    node.engine._ledger.state = genesis().state()
    node.engine._charge(DoubleAttestation("grid", b"", b"", b"", b""))
    assert node.engine.charges == {}


def test_a_forged_certificate_is_a_charge(node):
    node.decide()
    forged = changed(node.header).encoded()
    rows = [[2, attest(forged, key(LIAR + "/attest"), node.chain.chain_id)]]
    topic = node_topic(node.chain.chain_id, "node-2", CERTIFICATE)  # whoever's topic it is on
    assert node.engine.handle(topic, encode([forged, rows])) == DOUBLE
    assert set(node.engine.charges) == {LIAR}
    (kept,) = node.engine._ledger.store.notes(comet.CHARGE).values()
    assert decode(kept, 10_000)[0] == LIAR
    assert decode_header(node.engine.charges[LIAR].second).height == 1


def test_whose_own_key_is_used_elsewhere_is_told_and_does_not_charge_itself(node):
    node.decide()
    own = node.told[0]
    assert node.engine.handle(*own) == ""
    assert node.lie("node-1") == DOUBLE  # counted and logged as such
    assert node.engine.charges == {}


def test_who_asks_all_the_time_keeps_nobody_else_from_answers(node):
    node.decide()
    node.told.clear()
    node.engine._ledger.store.certify(1, [])  # not certified: it answers with a signature of its own

    def ask(party: str) -> str | None:
        return node.engine.handle(node_topic(node.chain.chain_id, party, MISSING), encode(1))

    for _ in range(5):
        assert ask(LIAR) == ""
    assert ask("node-2") == ""
    assert [topic.rpartition("/")[2] for topic, _ in node.told] == [ATTESTATION] * 2
    for stranger in ("olga", "otto", "olga"):  # who follows without a vote; they share what there is for them
        assert ask(stranger) == ""
    assert [topic.rpartition("/")[2] for topic, _ in node.told] == [ATTESTATION] * 3
    assert len(node.engine._answered_s) == 3


def test_a_certified_block_is_answered_with_its_certificate_however_old(node):
    """The set of block 1 is kept no more after a while: it is not needed to answer."""
    node.decide()
    node.lie()
    body = node.engine.charges[LIAR]
    node.decide(sign_transaction(key("grid"), node.chain.chain_id, "grid", 1, 100, body))
    for _ in range(8):
        node.decide()
    with pytest.raises(KeyError):
        node.engine._ledger.validators_at(1)
    node.told.clear()
    assert node.engine.handle(node_topic(node.chain.chain_id, "node-2", MISSING), encode(1)) == ""
    assert {topic.rpartition("/")[2] for topic, _ in node.told} == {CERTIFICATE}
    assert len(node.told) == node.engine.height
    node.restart()
    assert node.lie("node-2", Header(**(vars(node.header) | {"height": 1}))) == "", "too long ago to be punished"


def test_a_ledger_that_was_lost_is_made_again_and_attested_no_more(node):
    """It may differ from the one that was attested; and an honest node whose disk failed is not to be punished."""
    for _ in range(3):
        node.decide()
    certificates = [encode(node.engine.block(height).certificate.fields()) for height in (1, 2, 3)]
    for remake in (1, 2):  # by the chain's blocks, in two runs
        node.close()
        if remake == 1:
            (node.folder / "ledger.sqlite").unlink()
        node.open()
        own = node_topic(node.chain.chain_id, "node-1", ATTESTATION)
        for certificate in certificates if remake == 1 else []:
            node.finalize()
            assert node.engine.advance(0) is None
            assert node.engine.handle(node_topic(node.chain.chain_id, "node-2", CERTIFICATE), certificate) == ""
            assert node.engine.advance(0)
        assert own not in [topic for topic, _ in node.told]
    assert "were attested by the one before" in node.logged[0]
    node.engine._ledger.store.certify(2, [])
    node.engine.handle(node_topic(node.chain.chain_id, "node-2", MISSING), encode(1))
    assert own not in [topic for topic, _ in node.told], "nor when it is asked"
    node.decide()
    assert own in [topic for topic, _ in node.told]


def test_a_damaged_note_of_what_was_attested_stops_the_node(tmp_path):
    Attested(tmp_path, 0).close()
    noted = Attested(tmp_path, 0)
    noted.note(7)
    noted.close()
    for height, silent in ((7, 0), (8, 0), (6, 7), (9, 7)):
        opened = Attested(tmp_path, height)
        assert opened.silent_until == silent
        opened.close()
    (tmp_path / NAME).write_text("not a height\n")
    with pytest.raises(ConfigError, match="what this node has attested"):
        Attested(tmp_path, 0)
