"""Two coordinators with the same proofs: the slower one's batch costs nobody anything, and nothing gets stuck behind it."""

import pytest
from comet_app import App
from world import NOW, World, key

from pile_coordinator.chain.records import Pile
from pile_coordinator.chain.transactions import RegisterParty, RegisterPile, SubmitProofs, sign_transaction
from pile_shared.proof import HEARTBEAT


@pytest.fixture
def app(tmp_path):
    opened = App(tmp_path)
    opened.init_chain()
    pile = RegisterPile("p", "o", key("p").public, "SDM630", "1", "north", 7000)
    said = [said_by(opened, "operator", 1, RegisterParty("o", "pile-owner", key("o").public))]
    opened.decide(1, NOW + 5, [*said, said_by(opened, "operator", 2, pile)])
    yield opened
    opened.close()


def said_by(app: App, sender: str, sequence: int, body) -> bytes:
    return sign_transaction(key(sender), app.genesis.chain_id, sender, sequence, 1000, body)


def batch(app: App, sender: str, sequence: int, *proofs: bytes) -> bytes:
    return said_by(app, sender, sequence, SubmitProofs(list(proofs)))


@pytest.fixture
def proofs():
    world = World()
    return [world.prove("p", HEARTBEAT, [(NOW + i, 100)]) for i in range(1, 5)]


def test_a_batch_that_was_overtaken_keeps_its_turn(app, proofs):
    """The operator's batch waits when the grid's with the same proofs is decided; its next one comes after it."""
    first, second = batch(app, "operator", 3, proofs[0]), batch(app, "operator", 4, proofs[1])
    assert app.check(first).code == 0
    app.decide(2, NOW + 6, [batch(app, "grid", 1, proofs[0])])
    assert app.check(first, again=True).code == 0  # nothing new in it, but `second` is numbered after it
    assert app.check(second).code == 0
    txs = list(app.ask("prepare_proposal", txs=[second, first], max_tx_bytes=1 << 20).txs)
    assert txs == [first, second]
    done = app.decide(3, NOW + 7, txs)
    assert [result.code for result in done.tx_results] == [0, 0]
    assert app.ledger.state.get(Pile, "p").last_sequence == 2


def test_a_batch_out_of_turn_blocks_no_other(app, proofs):
    """Its predecessor is nowhere, so it may never be decided: the proofs in it are still anybody's."""
    assert app.check(batch(app, "operator", 4, proofs[0])).code == 0
    assert app.check(batch(app, "grid", 1, proofs[0])).code == 0
    assert app.check(batch(app, "operator", 3, proofs[0])).codespace == "waits"  # the grid's is in turn
    app.decide(2, NOW + 6, [batch(app, "grid", 1, proofs[0])])
    assert app.check(batch(app, "operator", 3, proofs[1])).code == 0


def test_the_same_batch_is_asked_about_as_often_as_one_likes(app, proofs):
    again = batch(app, "operator", 3, *proofs)
    assert [app.check(again).code for _ in range(3)] == [0, 0, 0]
