"""Who speaks to whom: one at a time wherever the servers see each other, and nothing that is owed is ever forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import bounded, genesis, key

from pile_coordinator import serving
from pile_coordinator.serving import (
    MAX_TURNS,
    SILENT_S,
    TURN_S,
    Heard,
    Servers,
    Unsaid,
    serving_topic,
)
from pile_hil.peer import Chain
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CONTRACT, LEAF_RECEIPT

NAMES = [f"server-{number}" for number in range(6)]
GENESIS = genesis(more=[(name, "operator") for name in NAMES])
STATE, CHAIN = GENESIS.state(), GENESIS.chain_id
PILES = [f"pile-{number}" for number in range(40)]


class Now:
    """A clock that a test sets."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


def present(names: list[str]) -> dict[str, Servers]:
    """Servers that have heard each other's presence."""
    found = {name: Servers(CHAIN, name, now_s=Now()) for name in names}
    for name, server in found.items():
        server.announced = True
        for other in names:
            tell(server, other, server.presence(key(name)) if other == name else found[other].presence(key(other)))
    return found


def tell(server: Servers, party: str, payload: bytes) -> str | None:
    return server.hear(STATE, serving_topic(CHAIN, party), payload)


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.sampled_from(PILES))
@bounded(60)
def test_among_those_who_see_each_other_each_has_its_own_place(names: set[str], pile: str) -> None:
    ranks = [server.rank(pile) for server in present(sorted(names)).values()]
    assert sorted(ranks) == list(range(len(names)))


def test_who_goes_leaves_its_piles_to_the_next_and_moves_no_others() -> None:
    servers = present(NAMES[:4])
    before = {pile: [name for name in NAMES[:4] if servers[name].rank(pile) == 0] for pile in PILES}
    assert len({first for (first,) in before.values()}) == 4  # everybody has some
    second = {pile: next(name for name in NAMES[:4] if servers[name].rank(pile) == 1) for pile in PILES}
    for name in NAMES[1:4]:
        assert tell(servers[name], NAMES[0], b"") == ""
    for pile, (first,) in before.items():
        now = second[pile] if first == NAMES[0] else first
        assert servers[now].rank(pile) == 0


def test_only_a_party_that_may_submit_proofs_is_present_by_its_own_signature() -> None:
    server, other = Servers(CHAIN, NAMES[0], now_s=Now()), Servers(CHAIN, NAMES[1], now_s=Now())
    server.announced = True
    aad = cose.purpose(cose.SERVING, CHAIN)
    cases = {
        "unknown_sender": (cose.sign1(encode("auditor"), key("auditor"), aad), "auditor"),  # a third party
        "unknown_key": (other.presence(key("thief")), NAMES[1]),
        "malformed": (b"\x00", NAMES[1]),
        "oversized": (bytes(5000), NAMES[1]),
        "not_yours": (cose.sign1(encode(NAMES[2]), key(NAMES[1]), aad), NAMES[1]),
        "bad_signature": (cose.sign1(encode(NAMES[1]), key(NAMES[1]), cose.purpose(cose.REPLY, CHAIN)), NAMES[1]),
    }
    for reason, (payload, party) in cases.items():
        assert tell(server, party, payload) == reason
    assert tell(server, "nobody", b"\x01") == "unknown_sender"
    assert server.hear(STATE, f"pilechain/1/{CHAIN}/party/{NAMES[1]}/tx", b"") is None
    assert server.hear(STATE, serving_topic("other-chain", NAMES[1]), b"") is None
    assert [server.rank(pile) for pile in PILES] == [0] * len(PILES)
    assert tell(server, NAMES[1], other.presence(key(NAMES[1]))) == ""
    assert any(server.rank(pile) for pile in PILES)
    server.doubt()  # the broker will say again who is there
    assert any(server.rank(pile) for pile in PILES)
    assert tell(server, NAMES[1], other.presence(key(NAMES[1]))) == ""
    server.settle()
    assert any(server.rank(pile) for pile in PILES)
    server.doubt()
    server.settle()
    assert not any(server.rank(pile) for pile in PILES)


def test_who_has_not_announced_itself_speaks_only_if_nobody_else_does() -> None:
    server = Servers(CHAIN, NAMES[0], settled=False, now_s=Now())
    assert (server.takes_part, server.rank("pile-1")) == (False, 1)  # somebody may be there
    server.settle()
    assert (server.takes_part, server.rank("pile-1")) == (True, 0)
    tell(server, NAMES[1], Servers(CHAIN, NAMES[1], now_s=Now()).presence(key(NAMES[1])))
    assert not server.takes_part
    assert all(server.rank(pile) == 1 for pile in PILES)
    server.announced = True
    assert server.takes_part
    server.doubt()
    assert server.takes_part


# --- what is owed ------------------------------------------------------------------------------------------------------


class Desk:
    """The second of two servers for a pile, on a chain of four nodes, of which three sign."""

    def __init__(self, names: list[str] = NAMES[:2]) -> None:
        self.chain = Chain(CHAIN, (1, 1, 1, 1))
        self.now = Now()
        servers = present(names)
        self.pile = next(pile for pile in PILES if servers[names[0]].rank(pile) == len(names) - 1)
        self.servers = servers[names[0]]
        self.servers._now_s = self.now
        self.unsaid = Unsaid(self.servers, CHAIN, lambda _: self.chain.validators, self.now)

    def said(self, leaf: list, *others: tuple[int, ...]) -> list[bytes]:
        """A leaf in one block, as this server says it and as others do, with these nodes' signatures."""
        inclusion = self.chain.inclusion(encode(leaf), signing=(0, 1, 2, 3))
        certificate, every = inclusion.certificate, inclusion.certificate.attestations
        found = []
        for signing in ((0, 1, 2), *others):
            certificate.attestations = [every[place] for place in signing]
            found.append(inclusion.encoded())
        return found

    def owe(self, kind: str, message: bytes, *, news: bool = True) -> bool:
        return self.unsaid.owe(self.pile, kind, message, news=news)

    def due(self) -> list[bytes]:
        return [message for _, _, message in self.unsaid.due()]


def test_what_was_said_with_other_signatures_is_settled_and_what_nobody_said_is_due():
    desk = Desk()
    own, theirs = desk.said([LEAF_RECEIPT, desk.pile, 1, bytes(32)], (1, 2, 3))
    assert desk.owe("receipt", own)
    desk.unsaid.heard(desk.pile, "receipt", theirs)
    desk.now.s = TURN_S
    assert desk.due() == []
    assert desk.owe("receipt", own, news=False)  # the pile asked: what was said before does not count
    desk.now.s += TURN_S - 0.01
    assert desk.due() == []
    desk.now.s += 0.01
    assert desk.due() == [own]
    assert desk.due() == []


def test_a_message_that_a_pile_would_refuse_settles_nothing():
    desk = Desk()
    leaf = [LEAF_RECEIPT, desk.pile, 1, bytes(32)]
    own, too_few = desk.said(leaf, (0, 1))
    desk.owe("receipt", own)
    flipped = bytearray(own)
    flipped[-1] ^= 1
    elsewhere = desk.said(leaf)[0]  # the same leaf in another block
    with_a_lie = own[:300] + bytes([own[300] ^ 1]) + own[301:]
    for message in (
        too_few,
        bytes(flipped),
        elsewhere,
        with_a_lie,
        b"",
        b"\x80",
        b"\xff" * 40,
        encode([1, 2]),
        bytes(serving.MAX_SAID_BYTES + 1),
    ):
        desk.unsaid.heard(desk.pile, "receipt", message)
    desk.unsaid.heard(desk.pile, "contract", own)
    desk.unsaid.heard("pile-x", "receipt", own)
    desk.now.s = TURN_S
    assert desk.due() == [own]


def test_what_was_heard_before_its_block_was_known_here_is_never_owed():
    desk = Desk()
    own, theirs = desk.said([LEAF_CONTRACT, b"terms"], (1, 2, 3))
    desk.unsaid.heard(desk.pile, "contract", b"\xff" * 40)
    desk.unsaid.heard(desk.pile, "contract", theirs)
    assert desk.owe("contract", own)
    desk.now.s = TURN_S
    assert desk.due() == []
    assert desk.owe("contract", own)  # once
    desk.now.s += TURN_S
    assert desk.due() == [own]


def test_of_receipts_the_newest_is_said_and_of_contracts_every_one():
    desk = Desk()
    receipts = [desk.said([LEAF_RECEIPT, desk.pile, number, bytes(32)])[0] for number in (1, 2, 3)]
    contracts = [desk.said([LEAF_CONTRACT, bytes([number])])[0] for number in (1, 2)]
    for message in receipts:
        desk.owe("receipt", message)
    for message in contracts:
        desk.owe("contract", message)
    desk.now.s = TURN_S - 1
    desk.unsaid.heard(desk.pile, "receipt", receipts[1])  # covers the first
    desk.now.s = TURN_S
    assert desk.due() == [receipts[2], *contracts]
    assert desk.unsaid._count == 0


def test_a_receipt_that_was_heard_early_covers_the_one_owed_before_it():
    desk = Desk()
    one, two = (desk.said([LEAF_RECEIPT, desk.pile, number, bytes(32)])[0] for number in (1, 2))
    desk.owe("receipt", one, news=False)
    desk.unsaid.heard(desk.pile, "receipt", two)
    desk.owe("receipt", two)
    desk.now.s = TURN_S
    assert (desk.due(), desk.unsaid._count, desk.unsaid._owed) == ([], 0, {})


def test_who_is_silent_comes_last_for_a_while_and_does_not_delay_the_next_message():
    desk = Desk()
    own = desk.said([LEAF_CONTRACT, b"terms"])[0]
    desk.owe("contract", own)
    desk.now.s = TURN_S
    assert desk.due() == [own]
    assert desk.servers.stood_in(desk.pile) == [NAMES[1]]
    assert desk.servers.rank(desk.pile) == 0
    assert desk.servers.stood_in(desk.pile) == []
    tell(desk.servers, NAMES[1], Servers(CHAIN, NAMES[1]).presence(key(NAMES[1])))  # saying so again changes nothing
    desk.now.s += SILENT_S - 1
    assert desk.servers.rank(desk.pile) == 0
    desk.now.s += 1
    assert desk.servers.rank(desk.pile) == 1


def test_what_another_owed_is_said_at_once_when_it_goes():
    desk = Desk()
    own = desk.said([LEAF_CONTRACT, b"terms"])[0]
    desk.owe("contract", own)
    assert desk.due() == []
    tell(desk.servers, NAMES[1], b"")
    assert desk.due() == [own]


def test_however_many_are_before_it_nobody_waits_longer_than_three_turns():
    desk = Desk(NAMES)
    assert desk.servers.rank(desk.pile) == 5
    assert desk.servers.wait_s(desk.pile) == MAX_TURNS * TURN_S


def test_what_could_not_be_heard_is_known_by_pile():
    desk = Desk()
    own = desk.said([LEAF_CONTRACT, b"terms"])[0]
    desk.owe("contract", own)
    desk.unsaid.doubt()
    desk.now.s = TURN_S
    assert (desk.due(), desk.unsaid._count, desk.unsaid.missed) == ([], 0, {desk.pile})
    desk.servers.announced = False
    assert desk.unsaid.owe("pile-x", "receipt", own, news=True)
    assert (desk.due(), desk.unsaid.missed) == ([], {desk.pile, "pile-x"})


def test_what_there_is_no_room_for_is_said_at_once(monkeypatch):
    monkeypatch.setattr(serving, "MAX_OWED", 2)
    monkeypatch.setattr(serving, "MAX_EARLY", 2)
    desk = Desk()
    messages = [desk.said([LEAF_CONTRACT, bytes([number])])[0] for number in range(3)]
    assert [desk.owe("contract", message) for message in messages] == [True, True, False]
    for number in range(9):
        desk.unsaid.heard(desk.pile, "contract", bytes([number]))
        desk.unsaid.heard(desk.pile, f"kind-{number}", b"")
    assert len(desk.unsaid._early) == 2
    assert all(len(rows) <= 4 for rows in desk.unsaid._early.values())


def test_blocks_whose_nodes_are_no_longer_known_are_not_taken_as_said():
    desk = Desk()
    own, theirs = desk.said([LEAF_CONTRACT, b"terms"], (1, 2, 3))
    desk.unsaid._validators = lambda _: None
    desk.owe("contract", own)
    desk.unsaid.heard(desk.pile, "contract", theirs)
    desk.now.s = TURN_S
    assert desk.due() == [own]


def test_how_often_a_wallet_sent_the_same_is_known_of_the_last_ones():
    heard = Heard(2)
    assert [heard.times(payload) for payload in (b"a", b"a", b"b", b"a", b"c", b"b", b"a")] == [0, 1, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("signing", [(0, 1, 2), (1, 2, 3)])
def test_a_handover_is_settled_like_a_receipt(signing):
    desk = Desk()
    following = Chain(CHAIN, (1, 1), first_key=2000)
    own = desk.chain.hand_over(following, signing=(0, 1, 2, 3))
    desk.chain.height -= 1
    theirs = desk.chain.hand_over(following, signing=signing)
    desk.owe("validators", own)
    desk.unsaid.heard(desk.pile, "validators", theirs)
    desk.now.s = TURN_S
    assert desk.due() == []
