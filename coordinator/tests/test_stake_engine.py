"""Elections on a real engine: the solo engine's blocks, its ledger, whoever computes it again, and a pile's light client."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stake_world import FOUNDERS, RULES
from world import HOUR, NOW, consensus, genesis, key, stake_json

from pile_coordinator.certificates import OrderCertificate
from pile_coordinator.chain.election import LEAF_ENGINE
from pile_coordinator.chain.records import Candidate, Contract, Party
from pile_coordinator.chain.transactions import (
    Body,
    Delegate,
    Deposit,
    List,
    PlaceBid,
    RegisterCandidate,
    RegisterParty,
    RegisterPile,
    Undelegate,
    sign_transaction,
)
from pile_coordinator.engines.engine import Block, handover_after, validators_at
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.engines.store import Store, StoreError
from pile_coordinator.evidence import queries
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.keeping.forward import pass_over
from pile_coordinator.replay import Replay, ReplayError, audit, open_ledger
from pile_coordinator.verify import VerifyError, verify_order
from pile_edge.light import LightClient
from pile_edge.ports.cpython_storage import Storage
from pile_shared.certificate import Certificate, Header, Inclusion, attest, decode_handover
from pile_shared.codec import decode, encode
from pile_shared.errors import CertificateError, ConfigError
from pile_shared.terms import LEAF_CONTRACT

NODES = (*FOUNDERS, "third")
EPOCH_MS = 6 * HOUR


class Chain:
    """A solo chain that holds the keys of all its nodes unless told otherwise."""

    def __init__(self, folder: Path, without: tuple[str, ...] = (), **rules: object) -> None:
        self.path = folder / "ledger.sqlite"
        stakes = stake_json(FOUNDERS, **(RULES | rules))
        self.genesis = genesis(
            stake=stakes, more=[("node-1", "third-party"), ("third", "third-party")], epoch_ms=EPOCH_MS
        )
        self.signers = {name: key(name + "/attest") for name in NODES if name not in without}
        self.engine = SoloEngine(self.path, self.genesis, self.signers)
        self.time_ms = NOW

    def again(self) -> None:
        self.engine.close()
        self.engine = SoloEngine(self.path, self.genesis, self.signers)

    def block(self, *sent: tuple[str, Body], edge: bool = False) -> Block:
        self.time_ms = NOW + ((self.time_ms - NOW) // EPOCH_MS + 1) * EPOCH_MS if edge else self.time_ms + 1000
        for sender, body in sent:
            sequence = self.engine.next_sequence(sender)
            self.engine.submit(sign_transaction(key(sender), self.genesis.chain_id, sender, sequence, 1000, body))
        made = self.engine.make_block(self.time_ms)
        assert [result.code for result in made.results] == ["ok"] * len(sent), made.results
        return made

    def blocks(self) -> Iterator[Block]:
        return (self.engine.block(height) for height in range(1, self.engine.height + 1))

    def open_market(self) -> bytes:
        """A contract far ahead; its id."""
        self.block(
            ("operator", RegisterParty("olga", "pile-owner", key("olga").public)),
            ("operator", RegisterParty("dan", "ev-owner", key("dan").public)),
            ("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "serial", "north", 7000)),
            *[("grid", Deposit(name, 90_000_000, name)) for name in ("olga", "dan", "third")],
        )
        start, end = self.time_ms + 90 * HOUR, self.time_ms + 99 * HOUR
        self.block(("olga", List("pile-1", start, end, 20_000, -1, False)))
        self.block(("dan", PlaceBid("north", "", 5000, start, end, 900_000, False, end, False, False)))
        (contract,) = self.engine.state.each(Contract)
        return contract.id

    def change_sets(self) -> None:
        """third comes, then a node goes, then third goes too."""
        body = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 30_000_000)
        self.block(("third", body))
        self.block(edge=True)
        self.block()
        self.block()
        self.block(("grid", Undelegate("grid", 9_500_000)), ("dan", Delegate("auditor", 1_000_000)))
        self.block(edge=True)
        self.block()
        self.block()
        self.block(("third", Undelegate("third", 30_000_000)))
        self.block(edge=True)
        self.block()
        self.block()
        self.block()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    made = Chain(tmp_path)
    yield made
    made.engine.close()


def pile(chain: Chain, folder: Path) -> LightClient:
    return LightClient(
        chain_id=chain.genesis.chain_id,
        validators=list(chain.genesis.validators),
        pile_id="pile-1",
        public=key("pile-1").public,
        meter_serial="serial",
        storage=Storage(str(folder)),
    )


def test_a_pile_that_pinned_genesis_follows_every_set_and_takes_contracts_from_the_new_ones(
    chain: Chain, tmp_path: Path
) -> None:
    contract = chain.open_market()
    handovers: dict[int, bytes] = {}

    def note(block: Block) -> None:
        message = handover_after(chain.genesis, chain.engine.state, block)
        if message is not None:
            handovers[block.header.height] = message

    chain.engine.on_block(note)
    chain.change_sets()
    light, followed, refused, heard = pile(chain, tmp_path / "pile"), 0, 0, 0
    for block in chain.blocks():
        leaves = [decode(leaf, 1 << 17) for leaf in block.leaves]
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, list) and leaf[0] == LEAF_CONTRACT:
                assert light.open_contract(block.inclusion(index))[1] == contract
                heard += 1
        light.verify(block.inclusion(0))
        if block.header.height in handovers:
            certificate, following = decode_handover(handovers[block.header.height])
            assert light.follow(certificate, following)
            followed += 1
            with pytest.raises(CertificateError):
                light.verify(block.inclusion(0))
            refused += 1
    assert (followed, refused, heard) == (3, 3, 4), "once when it was made, and once from each new set"
    last = pile(chain, tmp_path / "late")
    for height in sorted(handovers):  # away for long: it goes from handover to handover
        assert last.follow(*decode_handover(handovers[height]))
    assert last.validators[0].fields() == light.validators[0].fields()


def test_the_ledger_is_opened_again_under_any_set_and_computed_again_to_the_same_roots(chain: Chain) -> None:
    chain.open_market()
    chain.change_sets()
    sets = {block.header.validators_hash for block in chain.blocks()}
    assert len(sets) == 4
    chain.again()
    assert [v.party for v in validators_at(chain.genesis, chain.engine.state, chain.engine.height + 1)] == [
        "auditor",
        "node-1",
        "operator",
    ]
    chain.block()
    store = open_ledger(chain.path, chain.genesis)
    assert audit(store, chain.genesis).state_root == chain.engine.block(chain.engine.height).header.state_root
    store.close()


def test_a_solo_engine_reports_the_nodes_whose_keys_it_has(tmp_path: Path) -> None:
    chain = Chain(tmp_path, without=("operator",), downtime_window_blocks=1000)
    for _ in range(4):
        block = chain.block()
    reports = [decode(leaf, 1 << 16) for leaf in block.leaves if leaf[1] == LEAF_ENGINE]
    assert reports == [[LEAF_ENGINE, [3], []]]
    weights = {c.party: (c.weight, c.missed_blocks) for c in chain.engine.state.each(Candidate)}
    assert weights == {"auditor": (30, 0), "grid": (30, 0), "node-1": (30, 0), "operator": (0, 3)}
    chain.engine.close()


def test_a_solo_engine_stops_before_a_set_that_it_cannot_attest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auditor 10, grid 10, node-1 10, operator 10"):
        Chain(tmp_path, without=("operator", "grid", "third"))
    chain = Chain(tmp_path, without=("third",))
    chain.block(("grid", Deposit("third", 60_000_000, "third")))
    body = RegisterCandidate(consensus("third"), key("third/attest").public, 0, 30_000_000)
    chain.block(("third", body))
    chain.block(*[(name, Undelegate(name, 10_000_000)) for name in ("grid", "operator", "node-1")])
    chain.block(edge=True)
    chain.block()
    height = chain.engine.height
    for _ in range(2):
        with pytest.raises(ConfigError, match="auditor 10, third 10"):
            chain.block()
    assert chain.engine.height == height
    chain.signers["third"] = key("third/attest")
    chain.again()
    chain.block()
    chain.engine.close()


def test_the_wrong_key_of_an_elected_node_is_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.block()
    chain.signers["grid"] = key("eve")
    with pytest.raises(ConfigError, match="attestation key of grid"):
        chain.again()


@pytest.mark.parametrize("column", ["header", "attestations"])
def test_a_damaged_block_of_a_staking_chain_is_refused(chain: Chain, column: str) -> None:
    for _ in range(3):
        chain.block()
    chain.engine.close()
    with sqlite3.connect(chain.path) as database:
        database.execute(f"UPDATE block SET {column} = (SELECT {column} FROM block WHERE height = 1) WHERE height = 3")
    database.close()
    with pytest.raises(StoreError):
        SoloEngine(chain.path, chain.genesis, chain.signers)


# --- order certificates ------------------------------------------------------------------------------------------------


def closed_under_other_nodes(chain: Chain, folder: Path) -> OrderCertificate:
    """A contract that was matched under the set of genesis and is closed under the fourth; nobody came."""
    evidence = Exporter(folder / "evidence.sqlite")
    chain.engine.on_block(evidence.write)
    contract = chain.open_market()
    chain.change_sets()
    chain.time_ms += 200 * HOUR
    chain.block()
    assert chain.engine.state.find(Contract, contract) is None
    certificate = queries.order_certificate(evidence.db, chain.engine, contract)
    evidence.close()
    return certificate


def test_an_order_certificate_leads_from_genesis_through_every_set(chain: Chain, tmp_path: Path) -> None:
    certificate = closed_under_other_nodes(chain, tmp_path)
    assert len(certificate.handovers) == 3
    verified = verify_order(certificate.encoded(), chain.genesis)
    assert (verified.outcome, verified.signed_height) == ("defaulted", 3)


def test_what_is_wrong_with_handovers_breaks_the_certificate(chain: Chain, tmp_path: Path) -> None:
    certificate = closed_under_other_nodes(chain, tmp_path)
    first, second, third = certificate.handovers
    header, _ = decode_handover(second)
    other_set = encode([header.fields(), encode([v.fields() for v in chain.genesis.validators])])
    for handovers in (
        (),
        (first,),
        (first, second),
        (first, third),
        (second, third),
        (first, second, third, first),
        (first, first, second, third),
        (second, first, third),
        (first, other_set, third),
        (first, second[:-1], third),
        (first, b"x", third),
    ):
        with pytest.raises(VerifyError) as caught:
            verify_order(replace(certificate, handovers=handovers).encoded(), chain.genesis)
        assert caught.value.link == "signature", handovers
    with pytest.raises(VerifyError) as caught:
        verify_order(replace(certificate, handovers=(b"",)).encoded(), chain.genesis)
    assert caught.value.link == "format"


def test_an_old_set_is_not_believed_for_later_blocks(chain: Chain, tmp_path: Path) -> None:
    """The nodes of genesis sign another closing, of a height at which they were none any more."""
    certificate = closed_under_other_nodes(chain, tmp_path)
    header = certificate.closing.certificate.header
    fields = {name: getattr(header, name) for name in Header.__init__.__code__.co_varnames[1:13]}
    names = chain.engine.block(1).header.validators_hash
    data = Header(**fields | {"validators_hash": names, "next_validators_hash": names}).encoded()
    signed: list[list[object]] = [
        [place, attest(data, key(validator.party + "/attest"), chain.genesis.chain_id)]
        for place, validator in enumerate(chain.genesis.validators)
    ]
    closing = certificate.closing
    forged = Inclusion(Certificate(data, signed), closing.leaf, closing.index, closing.path)
    for handovers in (certificate.handovers, ()):
        with pytest.raises(VerifyError) as caught:
            verify_order(replace(certificate, closing=forged, handovers=handovers).encoded(), chain.genesis)
        assert caught.value.link == "signature" or not handovers


def test_a_chain_that_elects_nobody_takes_no_handovers(chain: Chain, tmp_path: Path) -> None:
    certificate = closed_under_other_nodes(chain, tmp_path)
    plain = replace(chain.genesis, stake=None)
    shown = replace(certificate, chain_id=plain.chain_id)
    with pytest.raises(VerifyError, match="never change"):
        verify_order(shown.encoded(), plain)


# --- computing it again ------------------------------------------------------------------------------------------------


def tampered(block: Block, leaf: object) -> Block:
    leaves = [encode(leaf) if old[1] == LEAF_ENGINE else old for old in block.leaves]
    return replace(block, leaves=leaves)


LIES: list[object] = [
    [LEAF_ENGINE, [0], []],
    [LEAF_ENGINE, [], [[bytes(20), 1]]],
    [LEAF_ENGINE, [99], []],
    [LEAF_ENGINE, [], [[bytes(20)]]],
    [LEAF_ENGINE, [[]], []],
    [LEAF_ENGINE, 5, 5],
    [LEAF_ENGINE],
    [LEAF_ENGINE, [], [], []],
    [LEAF_ENGINE, [], [["x", "y"]]],
    [LEAF_ENGINE, None, None],
]


@pytest.mark.parametrize("lie", LIES, ids=repr)
def test_another_report_of_the_engine_is_found_by_whoever_computes_the_chain_again(chain: Chain, lie: object) -> None:
    for _ in range(3):
        chain.block()
    *before, last = chain.blocks()
    replay = Replay(chain.genesis)
    for block in before:
        replay.apply(block)
    with pytest.raises(ReplayError, match="block 3"):
        replay.apply(tampered(last, lie))


def test_a_header_that_names_another_next_set_is_found(chain: Chain) -> None:
    chain.block()
    (block,) = chain.blocks()
    fields = {name: getattr(block.header, name) for name in Header.__init__.__code__.co_varnames[1:13]}
    data = Header(**fields | {"next_validators_hash": bytes(32)}).encoded()
    signed: list[list[object]] = [
        [place, attest(data, chain.signers[validator.party], chain.genesis.chain_id)]
        for place, validator in enumerate(chain.genesis.validators)
    ]
    with pytest.raises(ReplayError, match="other accounting nodes than were elected"):
        Replay(chain.genesis).apply(replace(block, certificate=Certificate(data, signed)))


def test_a_certificate_without_a_quorum_of_the_elected_is_found(chain: Chain) -> None:
    chain.block()
    (block,) = chain.blocks()
    forged = Certificate(block.certificate.header_bytes, block.certificate.attestations[:2])
    with pytest.raises(ReplayError, match="not more than two thirds"):
        Replay(chain.genesis).apply(replace(block, certificate=forged))


# --- evidence ----------------------------------------------------------------------------------------------------------


def test_the_evidence_knows_where_a_contract_was_signed_and_where_it_was_certified_last(
    chain: Chain, tmp_path: Path
) -> None:
    evidence = Exporter(tmp_path / "evidence.sqlite")
    chain.engine.on_block(evidence.write)
    contract = chain.open_market()
    signed = queries.where_signed(evidence.db, contract)
    assert signed is not None
    assert signed[0] == 3
    chain.change_sets()
    newest = queries.where_signed(evidence.db, contract)
    assert newest is not None
    assert newest[0] > signed[0] + 6
    block = chain.engine.block(newest[0])
    inclusion = block.inclusion(newest[1])
    header = inclusion.verify(chain.genesis.chain_id, validators_at(chain.genesis, chain.engine.state, newest[0]))
    assert header.height == newest[0]
    (row,) = evidence.db.exec_driver_sql("SELECT state, signed_height FROM contract").fetchall()
    assert row == ("signed", 3)
    evidence.close()
    assert chain.engine.state.get(Party, "dan").open_orders == 0


def test_heights_that_a_restore_passed_over_are_signed_by_nobody(tmp_path):
    """The proof for which stake is taken is two signed headers of one height: of these there is none."""
    chain = Chain(tmp_path)
    for _ in range(3):
        chain.block()
    chain.engine.close()
    store = Store(chain.path, chain.genesis.hash(), is_draft=True)
    pass_over(store, Replay.behind(store, chain.genesis), 300)
    store.close()
    chain.again()
    assert chain.engine.height == 300
    chain.again()
    for edge in (False, True, False, True, False):
        chain.block(edge=edge)
    chain.again()
    assert all(not block.certificate.attestations for block in list(chain.blocks())[3:300])
    store = open_ledger(chain.path, chain.genesis)
    found = audit(store, chain.genesis)
    store.close()
    assert (found.height, found.unsigned, found.uncertified) == (305, 297, 0)
    chain.engine.close()
