"""Topics: parsed back to what they were made of, and nothing else taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pile_shared import topics
from pile_shared.errors import BoundsError

ids = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=32)


@given(ids, ids.filter(lambda pile: pile != "party"), st.sampled_from(topics.PILE_UP + topics.PILE_DOWN))
def test_pile_topics_come_back(chain, pile, kind):
    assert topics.parse(topics.pile_topic(chain, pile, kind)) == (chain, "pile", pile, kind)


@given(ids, ids, st.sampled_from(topics.PARTY_UP + topics.PARTY_DOWN))
def test_party_topics_come_back(chain, party, kind):
    assert topics.parse(topics.party_topic(chain, party, kind)) == (chain, "party", party, kind)


@given(st.text(max_size=60))
def test_any_text_is_a_topic_or_a_typed_error(text):
    for topic in (text, "pilechain/1/" + text, "pilechain/1/a/party/" + text):
        try:
            chain, side, who, kind = topics.parse(topic)
        except BoundsError:
            continue
        make = topics.pile_topic if side == "pile" else topics.party_topic
        assert make(chain, who, kind) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "pilechain/1/a/b",
        "pilechain/2/a/b/proof",
        "Pilechain/1/a/b/proof",
        "pilechain/1/a/b/proof/",
        "/pilechain/1/a/b/proof",
        "pilechain/1/a//proof",
        "pilechain/1/a/B/proof",
        "pilechain/1/a/+/proof",
        "pilechain/1/a/#",
        "pilechain/1/a/b/tx",
        "pilechain/1/a/party/b/proof",
        "pilechain/1/a/pile/b/proof",
        "pilechain/1/a/" + "b" * 33 + "/proof",
    ],
)
def test_refused(topic):
    with pytest.raises(BoundsError):
        topics.parse(topic)


def test_no_pile_is_called_party():
    """Its access list, pilechain/1/<chain>/party/#, would hold the messages of every party."""
    with pytest.raises(BoundsError):
        topics.pile_topic("a", "party", "proof")
    with pytest.raises(BoundsError):
        topics.parse("pilechain/1/a/party/proof")
