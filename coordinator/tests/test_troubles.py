"""Which piles need somebody: what is remembered of refused proofs and of what a pile says, and who is told."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from world import Market, key

from pile_coordinator.chain.records import Pile
from pile_coordinator.desk import QueryDesk
from pile_coordinator.ingest import WAITING
from pile_coordinator.troubles import Troubles
from pile_shared import cose
from pile_shared.codec import encode


def test_refusals_are_counted_until_a_proof_is_taken():
    troubles = Troubles()
    assert [troubles.refused("pile-1", "malformed", at) for at in (1000, 2000)] == [1, 2]
    assert troubles.refused("pile-1", WAITING, 3000) == 3  # what waits behind it does not hide why
    trouble = troubles.of("pile-1")
    assert (trouble.refused, trouble.times, trouble.since_ms) == ("malformed", 3, 1000)
    troubles.refused("pile-1", "unchained", 4000)
    assert trouble.refused == "unchained"
    troubles.took("pile-1")
    assert troubles.of("pile-1") is None
    assert troubles.refused("pile-1", WAITING, 9000) == 1
    assert (troubles.of("pile-1").refused, troubles.of("pile-1").since_ms) == (WAITING, 9000)


@pytest.mark.parametrize("nonsense", [None, 7, b"quorum", "x" * 33, "two\nlines", "\u2028", ["quorum"]])
def test_what_a_pile_says_is_news_once_and_only_a_code(nonsense):
    troubles = Troubles()
    assert troubles.says("pile-1", "") is False
    assert [troubles.says("pile-1", "unreceipted") for _ in range(2)] == [True, False]
    troubles.refused("pile-1", "malformed", 1)
    assert troubles.says("pile-1", nonsense) is True
    assert troubles.said("pile-1") == ""
    assert troubles.of("pile-1").refused == "malformed"
    troubles.took("pile-1")
    assert troubles.of("pile-1") is None


@pytest.fixture
def market():
    market = Market(3, 0)
    market.state.put(replace(market.state.get(Pile, "pile-3"), anomaly="register fell"))
    return market


def piles(market: Market, troubles: Troubles, party: str) -> list[dict]:
    engine = SimpleNamespace(
        state=market.state, genesis=market.genesis, height=market.height, time_ms=market.time_ms, env=market.env
    )
    query = cose.sign1(encode([party, bytes(16), "piles", None]), key(party), cose.purpose(cose.QUERY, market.chain_id))
    _, code, rows = QueryDesk(engine, None, troubles=troubles).answer(party, query)
    assert code == "ok"
    return rows


def test_the_grid_and_operators_see_every_pile_in_trouble_and_owners_their_own(market):
    troubles = Troubles()
    troubles.refused("pile-1", "malformed", 5000)
    troubles.says("pile-1", "unreceipted")
    owner = market.state.get(Pile, "pile-1").owner
    row = {
        "pile": "pile-1",
        "owner": owner,
        "anomaly": "",
        "proofs": 0,
        "refused": "malformed",
        "says": "unreceipted",
        "since_ms": 5000,
        "times": 1,
    }
    for party in ("grid", "operator"):
        first, third = piles(market, troubles, party)
        assert first == row
        assert (third["pile"], third["anomaly"], third["refused"], third["since_ms"]) == (
            "pile-3",
            "register fell",
            "",
            0,
        )
    assert piles(market, troubles, owner)[0] == row
    others = {market.state.get(Pile, f"pile-{n}").owner for n in (1, 2, 3)} - {owner}
    assert all("pile-1" not in [seen["pile"] for seen in piles(market, troubles, other)] for other in others)
    market.state.put(replace(market.state.get(Pile, "pile-1"), retired=True))
    assert [seen["pile"] for seen in piles(market, troubles, "grid")] == ["pile-3"]
