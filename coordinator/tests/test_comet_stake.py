"""Elected nodes on CometBFT: every block counts, updates are differences, and readers are led from set to set."""

import pytest
from comet_app import CANDIDATE_KEYS, CANDIDATES, App, evidence_ages, votes
from world import HOUR, NOW, genesis, key, stake_json

from pile_coordinator.chain.records import Candidate
from pile_coordinator.chain.stake import address_of
from pile_coordinator.engines.attesting import Attestations
from pile_coordinator.engines.comet.messages import abci_pb2 as abci
from pile_coordinator.engines.engine import handover_after, validators_at
from pile_shared.certificate import decode_handover, validators_from, validators_hash
from pile_shared.codec import decode
from pile_shared.errors import ConfigError
from pile_shared.platform import sha256


@pytest.fixture
def app(tmp_path):
    """Five candidates, of whom the first four are elected."""
    bonds = {node: (20 if node != "node-5" else 10) * 1_000_000 for node in CANDIDATES}
    chain = genesis(stake=stake_json(bonds), more=[(node, "operator") for node in CANDIDATES], epoch_ms=HOUR)
    opened = App(tmp_path, chain, keys={node: CANDIDATE_KEYS[node] for node in CANDIDATES[:4]})
    opened.init_chain()
    yield opened
    opened.close()


@pytest.mark.parametrize(("blocks", "age_ms"), [(99_999, 48 * HOUR), (100_000, 48 * HOUR - 1), (0, 0)])
def test_a_comet_that_shows_offences_for_longer_or_shorter_than_they_are_punished_is_refused(app, blocks, age_ms):
    with pytest.raises(ConfigError, match="100000 blocks and 172800000 ms: set max_age"):
        app.init_chain(consensus_params=evidence_ages(blocks, age_ms))
    app.init_chain()


def decide(app: App, height: int, time_ms: int, **over):
    fields = {"proposer": "node-1", "decided_last_commit": votes(*CANDIDATES[:4]) if height > 1 else votes(), **over}
    return app.decide(height, time_ms, [], **fields)


def test_every_block_counts_where_who_signed_earns(app):
    for height in range(1, 4):
        decide(app, height, NOW + height)
    assert (app.ledger.height, app.ledger.comet_height) == (3, 3)
    assert app.ledger.state.get(Candidate, "node-1").weight > 0
    assert app.ledger.state.get(Candidate, "node-5").weight == 0


def test_who_is_away_too_long_is_jailed_and_leaves(app):
    updates = []
    for height in range(1, 9):
        commit = votes(*CANDIDATES[:4], absent=("node-4",)) if height > 1 else votes()
        updates += decide(app, height, NOW + height, decided_last_commit=commit).validator_updates
    assert app.ledger.state.get(Candidate, "node-4").jailed_until_ms
    assert [(u.pub_key.ed25519, u.power) for u in updates if u.power == 0] == [(CANDIDATE_KEYS["node-4"], 0)]


def test_a_double_signer_is_replaced_and_readers_follow(app):
    decide(app, 1, NOW + 1)
    decide(app, 2, NOW + 2)
    guilty = abci.Validator(address=address_of(CANDIDATE_KEYS["node-2"]), power=20)
    shown = abci.Misbehavior(type=abci.DUPLICATE_VOTE, validator=guilty, height=2)
    done = decide(app, 3, NOW + 3, misbehavior=[shown])
    updates = {u.pub_key.ed25519: u.power for u in done.validator_updates}
    assert updates[CANDIDATE_KEYS["node-2"]] == 0
    assert app.ledger.state.get(Candidate, "node-2").tombstoned
    for height in (4, 5):
        decide(app, height, NOW + height)
    elected = decide(app, 6, NOW + 2 * HOUR)
    updates = {u.pub_key.ed25519: u.power for u in elected.validator_updates}
    assert updates[CANDIDATE_KEYS["node-5"]] > 0
    for height in (7, 8):
        decide(app, height, NOW + 2 * HOUR + height)
    assert follow(app, list(app.genesis.validators)) == ["node-1", "node-3", "node-4", "node-5"]


def follow(app: App, believed: list) -> list[str]:
    """Attest every block as its nodes would, and go from handover to handover as a pile does; whom it believes then."""
    changes = 0
    for block in app.blocks:
        height = block.header.height
        validators = validators_at(app.genesis, app.ledger.state, height)
        attestations = certify(app, block, [v.party for v in validators][:3])  # of 4, or all that are left
        app.ledger.store.certify(height, attestations)
        certified = app.ledger.store.block(height)
        certified.certificate.verify(app.ledger.chain_id, validators)
        message = handover_after(app.genesis, app.ledger.state, certified)
        app.ledger.store.hand_over(message, certified.header)
    while (message := app.ledger.store.handover_from(validators_hash(believed))) is not None:
        certificate, following = decode_handover(message)
        header = certificate.verify(app.ledger.chain_id, believed)
        assert header.next_validators_hash == sha256(following)
        believed = validators_from(decode(following, 8192))
        changes += 1
    assert changes == 2
    return [validator.party for validator in believed]


def certify(app: App, block, nodes: list[str]) -> list:
    """The attestations that these nodes' messages add up to, at one of them."""
    validators = validators_at(app.genesis, app.ledger.state, block.header.height)
    desks = {node: Attestations(app.ledger.chain_id, (node, key(node + "/attest"))) for node in nodes}
    sent: list[bytes] = []
    for desk in desks.values():
        desk.publish = lambda _topic, payload, _retained: sent.append(payload)
        desk.sign(block, validators)
    here = desks[nodes[0]]
    for node, payload in zip(nodes[1:], sent[1:], strict=True):
        assert here.certificate(block.header.height) is None
        assert here.offer(node, payload, 0) == ""
    found = here.certificate(block.header.height)
    assert found is not None
    return found
