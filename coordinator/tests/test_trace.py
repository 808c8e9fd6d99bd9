"""Traces: from every kind of id to all the others, bounded and in pages."""

import pytest
from settled import Chain, deliver
from sqlalchemy import select
from test_evidence import live

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.trace import KINDS, AmbiguousIdError, Found, Trace, UnknownIdError, find, trace
from pile_shared.proof import REASON_VEHICLE_FULL


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


@pytest.fixture
def core(chain):
    return chain.evidence.db


def one(db, column, *which):
    return db.execute(select(column).where(*which).limit(1)).scalar_one()


def reached(found: Trace) -> dict[str, set[str]]:
    """Everything that a trace leads to, by kind."""
    ids: dict[str, set[str]] = {kind: set() for kind in KINDS}
    ids[found.found.kind].add(found.found.id)
    for story in found.stories:
        ids["contract"].add(story.contract)
        ids["order"] |= {story.order, story.listing}
        ids["pile"].add(story.pile)
        ids["party"] |= {story.user, story.owner}
        for step in story.steps:
            ids["block"].add(str(step.height))
            if step.kind in ids:
                ids[step.kind].add(step.id)
            if step.transaction:
                ids["transaction"].add(step.transaction)
    return ids


def test_every_kind_of_id_reaches_all_the_others(chain, core):
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    contract = one(core, schema.contract.c.id)
    starts = reached(trace(core, contract.hex()))
    assert all(starts.values()), starts
    assert starts["posting"] == {
        f"{contract.hex()}/{row.number}/{row.item}" for row in core.execute(select(schema.posting))
    }
    assert starts["proof"] == {h.hex() for h in core.execute(select(schema.proof.c.hash)).scalars()}
    for kind, ids in starts.items():
        for name in ids:
            again = trace(core, f"{kind}:{name}")
            assert again.found == Found(kind, name)
            assert reached(again) == starts, (kind, name)
    everything = {name for kind in ("contract", "proof", "transaction", "posting") for name in starts[kind]}
    assert {find(core, name).id for name in everything} == everything  # without saying what they are
    assert find(core, contract.hex()[:8]) == Found("contract", contract.hex())
    assert find(core, one(core, schema.block.c.hash, schema.block.c.height == 2).hex()) == Found("block", "2")


def test_steps_say_where_when_and_how_they_were_checked(chain, core):
    deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL)
    (story,) = trace(core, "dan").stories
    assert [step.kind for step in story.steps] == [
        "order", "order", "contract", "clearing", "proof", "proof", "proof", "settlement",
        "confirmation", "confirmation", "posting", "posting", "posting", "posting", "posting", "closing",
    ]  # fmt: skip
    places = [(step.height, step.position is None, step.position or step.leaf or 0) for step in story.steps]
    assert places == sorted(places)
    for step in story.steps:
        block = chain.engine.block(step.height)
        assert step.time_ms == block.header.time_ms
        if step.position is not None:
            assert chain.engine.find_tx(bytes.fromhex(step.transaction)) == (step.height, step.position)
        else:
            assert len(block.txs) <= step.leaf < len(block.leaves)
        assert step.checked


def test_a_dispute_is_told_with_all_that_was_said(chain, core):
    live(chain)
    contract = one(core, schema.dispute.c.contract)
    (story,) = trace(core, contract.hex()).stories
    kinds = [step.kind for step in story.steps]
    assert [k for k in kinds if k in {"settlement", "dispute", "ruling", "closing"}] == [
        "settlement", "dispute", "ruling", "settlement", "closing",
    ]  # fmt: skip
    assert story.outcome == "resolved"


def test_pages_cover_everything_once(chain, core):
    live(chain)
    total = len(list(core.execute(select(schema.contract.c.id))))
    assert total > 3
    for name in ("dan", "olga", "pile-1"):
        seen, after = [], None
        while True:
            page = trace(core, name, after=after, limit=2)
            assert len(page.stories) <= 2
            seen += [story.contract for story in page.stories]
            after = page.next
            if after is None:
                break
        assert len(seen) == len(set(seen)) == total, name
    contract = one(core, schema.proof.c.contract, schema.proof.c.event == "periodic")
    (story,) = trace(core, contract.hex(), proofs=2).stories
    (more,) = trace(core, contract.hex(), proofs=2, after_proof=story.next_proof).stories
    proofs = [[s.id for s in part.steps if s.kind == "proof"] for part in (story, more)]
    (whole,) = trace(core, contract.hex()).stories
    assert proofs[0] + proofs[1] == [s.id for s in whole.steps if s.kind == "proof"]
    assert (len(proofs[0]), more.next_proof, whole.next_proof) == (2, None, None)


def test_what_is_unknown_or_ambiguous_is_said(chain, core):
    for name in (
        "nobody",
        "",
        "ab" * 32,
        "99",
        "pile:dan",
        "../../etc",
        "'; DROP TABLE tx",
        "ab" * 32 + "/1/0",
        "dan/1/0",
        "9" * 40,
    ):
        with pytest.raises(UnknownIdError):
            trace(core, name)
    for after in ("x", "1-", "1-zz", "-1-" + "00" * 32):
        with pytest.raises(UnknownIdError, match="no page"):
            trace(core, "dan", after=after)
    core.execute(schema.party.insert(), {"id": "pile-1", "role": "ev-owner", "public": b"", "height": 1, "position": 0})
    with pytest.raises(AmbiguousIdError, match="pile:pile-1, party:pile-1"):
        find(core, "pile-1")
    assert find(core, "party:pile-1") == Found("party", "pile-1")
