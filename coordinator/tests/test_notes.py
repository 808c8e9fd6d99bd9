"""Notes, one rule at a time: bought into bins, spent once, confirmed with, refunded; what must be refused is, without a trace.

What they do to everybody's money in long random runs is test_notes_money.py.
"""

from dataclasses import replace

import pytest
from every_phase import Traceless
from note_world import AGE_MS, NOTES, Funding, Note, NoteMarket, note_market
from world import END, HOUR, NOW, START, Market, closings, genesis, key, leaf_of, statements

from pile_coordinator.chain import notes
from pile_coordinator.chain.env import Journal
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import ANONYMOUS, Account, Bid, Contract, Denomination, NoteBin, Party, PartyKey
from pile_coordinator.chain.rejections import BrokenInvariantError, Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    GROUND_CAUSE,
    GROUND_ENERGY,
    Body,
    BuyNotes,
    CancelBid,
    CancelContract,
    CollectFees,
    Confirm,
    Delegate,
    Deposit,
    Object,
    RedeemNotes,
    RegisterParty,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    Rule,
    Sign,
    decode_transaction,
    pseudonym,
    ring_message,
    ring_sign_transaction,
)
from pile_coordinator.chain.transition import apply_block, apply_tx, check_tx, preview
from pile_coordinator.engines.engine import has_work
from pile_coordinator.ring.group import ORDER
from pile_coordinator.ring.keys import note_public
from pile_coordinator.ring.signature import sign
from pile_shared.codec import decode, encode
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_CLOSED

DIME = 100_000
GREATEST = 7  # denomination: 12.80
IDENTITY = bytes(32)
NOT_CANONICAL = b"\xff" * 32


def ready(user: str = "user-3", **over: object) -> tuple[NoteMarket, list[Note]]:
    """A market with an offer, and enough of somebody's notes for an order."""
    world = note_market(**over)  # type: ignore[arg-type]
    world.offer()
    world.ok()
    return world, world.enough(user, 6_000_000)


def anonymous(world: NoteMarket) -> list[str]:
    return [party.id for party in world.state.each(Party) if party.role == ANONYMOUS]


def nothing_stays(world: NoteMarket) -> None:
    """Who paid with notes is nobody any more."""
    assert anonymous(world) == []
    assert world.state.each(Funding) == []
    assert not [key for key in world.state.each(PartyKey) if key.party.startswith("anon-")]
    assert not [one for one in world.state.each(Account) if one.name.startswith("P:anon-")]
    assert all(one.in_use == 0 for one in world.state.each(NoteBin))


# --- an order from notes to notes ----------------------------------------------------------------------------------------


def test_an_order_is_paid_for_by_nobody_in_particular() -> None:
    world, spent = ready()
    before, owner = world.purse("user-3"), world.money("owner-1")
    who, tx = world.pay(spent)
    world.ok(tx)
    assert (world.terms().user, world.terms().user_public) == (who, key("nobody-1").public)
    assert world.state.get(Party, who) == Party(who, ANONYMOUS, key("nobody-1").public, 1, 0)
    assert world.money(who) == 12_800_000 - sum(v for n, v in world.holds().items() if n[0] == "E")
    cost = 5 * world.terms().price_micro_per_kwh
    world.measured()
    world.confirm("owner-1")
    outcome = world.ok(world.confirmation(who))
    assert closings(outcome) == ["confirmed"]
    assert world.money("owner-1") - owner == cost
    left = 12_800_000 - cost - 50_000
    worth = sum(world.purse("user-3")) - sum(before) + 12_800_000
    assert worth == left - left % DIME
    assert world.state.balance_micro("F") == 50_000 + left % DIME
    nothing_stays(world)


def test_a_bin_takes_sixteen_and_each_note_has_a_key_only_its_owner_knows() -> None:
    world = note_market()
    bases = [world.base(f"user-{i}") for i in range(1, 17)]
    ids = []
    for number, base in enumerate(bases, 1):
        ids.append(world.send(f"user-{number}", BuyNotes(base, [0, 1])))
        outcome = world.ok()
        one = world.state.get(NoteBin, notes.bin_id(1, 1))
        assert len(one.notes) == number
        assert one.sealed_ms == (world.time_ms if number == 16 else 0)
    assert one.notes == [[note_public(base, tx, 0), base, tx] for base, tx in zip(bases, ids, strict=True)]
    sealed = [leaf_of(leaf) for leaf in outcome.leaves if leaf_of(leaf)[0] == notes.LEAF_BIN]
    assert sealed == [[14, b"\x01" + (1).to_bytes(8, "big"), b"".join(row[0] for row in one.notes)]]
    assert world.state.get(Denomination, b"\x01") == Denomination(b"\x01", 2 * DIME, 2, 32, 0)


def test_what_is_bought_costs_what_it_is_worth_and_places_count_through_all_denominations() -> None:
    world = note_market()
    before, base = world.money("user-1"), world.base("user-1")
    tx = world.send("user-1", BuyNotes(base, [2, 0, 1]))
    postings = [leaf_of(leaf)[1:] for leaf in world.ok().leaves if leaf_of(leaf)[0] == 13]
    assert postings == [["P:user-1", "N", 6 * DIME]]
    assert before - world.money("user-1") == 6 * DIME
    made = [row[0] for k in (0, 2) for row in world.state.get(NoteBin, notes.bin_id(k, 1)).notes]
    assert made == [note_public(base, tx, place) for place in range(3)]


def test_who_cannot_buy() -> None:
    world = note_market()
    base = world.base("user-1")
    assert world.refused("user-1", BuyNotes(base, [0] * 8 + [1])) == "limit"
    for _ in range(2):  # 25.50 were spent of 1,000; each costs 409.60
        world.send("user-1", BuyNotes(base, [0] * 6 + [64]))
    world.ok()
    assert world.refused("user-1", BuyNotes(base, [0] * 7 + [64])) == "funds"
    assert world.refused("grid", BuyNotes(base, [1])) == "wrong_role"
    assert world.refused("owner-1", BuyNotes(base, [1])) == "wrong_role"
    for bad in (IDENTITY, NOT_CANONICAL, base[:-1]):
        assert world.refused("user-1", BuyNotes(bad, [1])) == "bounds"
    for counts in ([], [0], [1, 0], [65], [32, 33], [-1], [True], [1] * 33, 1):
        assert world.refused("user-1", BuyNotes(base, counts)) == "bounds"  # type: ignore[arg-type]
    plain = Market()
    assert plain.refused("user-1", BuyNotes(base, [1])) == "limit"
    plain.send("operator", RegisterParty("anon-x", "ev-owner", key("x").public))
    plain.ok()


# --- spending: what is refused ----------------------------------------------------------------------------------------


class Forger:
    """One market, its notes, and a valid bid of which one thing at a time is made wrong; nothing of it leaves a trace."""

    def __init__(self) -> None:
        self.world = note_market(each=2)
        self.world.offer()
        self.world.ok()
        young = self.world
        for i in range(1, 17):
            young.buy(f"user-{i}", [0, 0, 0, 0, 0, 0, 0, 1])
        young.buy("user-1", [0, 0, 0, 0, 0, 0, 1])
        young.ok()
        self.young, self.filling = notes.bin_id(GREATEST, 2), notes.bin_id(6, 2)
        self.mine, self.second = [n for n in self.world.notes_of("user-3") if n.bin == notes.bin_id(GREATEST, 0)][:2]
        self.others = [n for n in self.world.notes_of() if n.bin == notes.bin_id(GREATEST, 1)]
        self.trace = Traceless(self.world)

    def code(self, **over: object) -> str:
        return self.of(self.world.pay([self.mine], "forger", **over)[1])

    def of(self, data: bytes) -> str:
        try:
            check_tx(self.world.state, self.world.env(), data)
            checked = "ok"
        except Rejection as rejection:
            checked = rejection.code
        code = self.trace.code(data)
        # whether a bin is old enough, only its block says: until then its signature may be found wrong first
        first = {"bad_signature"} if code == "unknown_note" else set()
        assert checked in {"ok", code, *first}, "what waits for a block is refused for the same reason, if at all"
        return code

    def signed(self, spent: list[Note], rows: list[list[bytes]], **over: object) -> str:
        """By the keys of some notes, whatever notes the rows name."""
        body = self.world.wish(spent, "forger", rows=rows)
        return self.of(self.world.nobody(body, spent, pseudonym(body.public), **over))  # type: ignore[arg-type]


FORGER: list[Forger] = []


@pytest.fixture
def forger() -> Forger:
    FORGER[:] = FORGER or [Forger()]
    return FORGER[0]


def test_what_is_right_is_taken(forger: Forger) -> None:
    assert forger.code() == "ok"
    assert forger.signed([forger.mine, forger.second], forger.world.spent_rows([forger.mine, forger.second])) == "ok"
    assert forger.of(forger.world.redeem([forger.mine], "owner-1")) == "ok"


def test_images_that_are_not_of_the_signer_in_this_bin(forger: Forger) -> None:
    world, mine, other = forger.world, forger.mine, forger.others[0]
    elsewhere = replace(mine, bin=other.bin).image(world.chain_id)
    images = [IDENTITY, NOT_CANONICAL, bytes([1]) + bytes(31), forger.second.image(world.chain_id), elsewhere]
    images += [other.image(world.chain_id), mine.image(world.chain_id + "x"), mine.secret]
    for image in images:
        assert forger.signed([mine], [[mine.bin, image]]) == "bad_signature"


def test_another_ring(forger: Forger) -> None:
    world, mine, other = forger.world, forger.mine, forger.others[0]
    assert forger.signed([mine], [[other.bin, mine.image(world.chain_id)]]) == "bad_signature"
    assert forger.signed([mine], [[other.bin, replace(mine, bin=other.bin).image(world.chain_id)]]) == "bad_signature"
    own = notes.ring_of(world.state.get(NoteBin, mine.bin))
    keys = [own[i : i + 32] for i in range(0, 512, 32)]
    turned = b"".join(keys[1:] + keys[:1])
    context = notes.context(world.chain_id, mine.bin)
    body = world.wish([mine], "forger")

    def in_order(ring: bytes, place: int, name: bytes) -> str:
        return forger.of(
            ring_sign_transaction(
                lambda m: [sign(mine.secret, ring, place, name, m)],
                world.chain_id,
                pseudonym(body.public),
                1,
                world.height + 9,
                body,
            )
        )

    assert in_order(own, mine.place, context) == "ok"
    assert in_order(turned, (mine.place - 1) % 16, context) == "bad_signature"
    assert in_order(own, mine.place, context[:-1] + b"\x07") == "bad_signature"


def test_bins_that_are_not_there_not_full_or_not_old_enough(forger: Forger) -> None:
    world, image = forger.world, forger.mine.image(forger.world.chain_id)
    for name in (
        forger.young,
        forger.filling,
        notes.bin_id(GREATEST, 3),
        notes.bin_id(8, 0),
        notes.bin_id(255, 2**64 - 1),
    ):
        assert forger.signed([forger.mine], [[name, image]]) == "unknown_note"
    plain = Market()
    tx = ring_sign_transaction(
        lambda m: world.rings(m, [forger.mine]), plain.chain_id, pseudonym(key("forger").public), 1, 9,
        world.wish([forger.mine], "forger"),
    )  # fmt: skip
    assert Traceless(plain).code(tx) == "unknown_note"


def test_a_bin_is_old_enough_to_the_millisecond() -> None:
    world = note_market()
    for i in range(1, 17):
        world.buy(f"user-{i}", [0] * GREATEST + [1])
    world.ok()
    sealed = world.time_ms
    (note,) = [n for n in world.notes_of("user-2") if n.bin == notes.bin_id(GREATEST, 1)]
    tx = world.redeem([note], "user-9")
    assert world.block(tx, time_ms=sealed + AGE_MS - 1).results[0].code == "unknown_note"
    assert world.block(tx, time_ms=sealed + AGE_MS).results[0].code == "ok"


def test_signatures_fit_their_notes(forger: Forger) -> None:
    world, pair = forger.world, [forger.mine, forger.second]
    rows = world.spent_rows(pair)
    assert forger.signed(pair[:1], rows) == forger.signed(pair, rows[:1]) == "bad_signature"
    assert forger.signed(pair[::-1], rows) == forger.signed(pair[:1] * 2, rows) == "bad_signature"
    assert forger.signed(pair[:1] * 2, rows[:1] * 2) == "bounds", "one note twice in one transaction"
    two_bins = [[notes.bin_id(GREATEST, 1), rows[0][1]], rows[0]]
    assert forger.signed(pair[:1] * 2, two_bins) == "bounds", "nor under two bins"
    assert forger.signed(pair[:1], []) == forger.signed(pair[:1], rows[:1] * 13) == "bounds"
    body, who = world.wish(pair[:1], "forger"), pseudonym(key("forger").public)
    good = world.rings(ring_message(world.chain_id, b""), pair[:1])[0]
    for count in (0, 13):
        tx = ring_sign_transaction(lambda _, n=count: [good] * n, world.chain_id, who, 1, world.height + 9, body)
        assert forger.of(tx) == "malformed"
    for wrong in (good[:-1], good + b"x", b"", "x", 1, None, [good]):
        tx = ring_sign_transaction(lambda _, w=wrong: [w], world.chain_id, who, 1, world.height + 9, body)  # type: ignore[list-item]
        assert forger.of(tx) == "malformed"


def test_scalars_are_reduced(forger: Forger) -> None:
    """s + order, c + order and zero are refused: a signature has one encoding."""
    payload, (good,) = decode(forger.world.pay([forger.mine], "forger")[1], 1 << 16)
    for place in range(0, 544, 32):
        scalar = int.from_bytes(good[place : place + 32], "little")
        for wrong in (0, ORDER, scalar + ORDER, scalar | 1 << 255):
            forged = good[:place] + wrong.to_bytes(32, "little") + good[place + 32 :]
            assert forger.of(encode([payload, [forged]])) == "bad_signature"


def test_a_chain_an_expiry_and_a_sequence(forger: Forger) -> None:
    world = forger.world
    elsewhere = ring_sign_transaction(
        lambda m: world.rings(m, [forger.mine]), "test-00000000", pseudonym(key("forger").public), 1, world.height + 9,
        world.wish([forger.mine], "forger"),
    )  # fmt: skip
    assert forger.of(elsewhere) == "wrong_chain"
    payload, rings = decode(elsewhere, 1 << 16)
    row = decode(payload, 1 << 16)
    row[0] = world.chain_id
    assert forger.of(encode([encode(row), rings])) == "bad_signature"
    assert forger.code(until=world.height) == "expired"
    assert forger.code(until=world.height + 100_002) == "too_far"
    assert forger.code(sequence=2) == "sequence_gap"
    with pytest.raises(Rejection, match="at sequence 0"):  # and it is not let wait for a first that can never come
        check_tx(world.state, world.env(), world.pay([forger.mine], "forger", sequence=2)[1])


def test_keys_and_senders(forger: Forger) -> None:
    world, mine = forger.world, [forger.mine]
    for name in ("user-3", "owner-1", "pile-1", "grid"):
        assert forger.of(world.pay(mine, name)[1]) == "exists"
    off = key("forger").public[:-1] + bytes([key("forger").public[-1] ^ 1])
    for public in (off, b"\x04" + bytes(64), b"\x05" * 65, bytes(65), off[:-1]):
        assert forger.code(public=public) == "bounds"
    for point in (IDENTITY, NOT_CANONICAL, b"", world.base("user-3")[:-1]):
        assert forger.code(refund=point) == "bounds"
    body = world.wish(mine, "forger")
    for sender in ("user-3", "anon-", "", "x" * 300, pseudonym(key("eve").public)):
        assert forger.of(world.nobody(body, mine, sender)) == "unknown_sender"
    assert forger.of(world.nobody(RedeemNotes(body.notes, body.public, "nobody"), mine, pseudonym(body.public))) == (
        "unknown_party"
    )
    for name, expected in (("forger", "unknown_sender"), ("user-3", "wrong_role")):
        sender = pseudonym(key(name).public) if name == "forger" else name
        assert forger.of(world.tx(sender, body, signer=name, sequence=world.sequences.get(name, 0) + 1)) == expected


def test_a_bid_is_one_that_the_market_takes_and_the_notes_cover(forger: Forger) -> None:
    assert forger.code(zone="nowhere") == "unknown_zone"
    assert forger.code(pile="nowhere") == "unknown_pile"
    assert forger.code(end=START) == "window"
    assert forger.code(energy=150) == "energy"
    assert forger.code(limit=10_000_000) == "funds"
    assert forger.code(limit=0) == forger.code(energy=10**9) == "bounds"
    assert forger.of(forger.world.pay([forger.mine], "user-3", zone="nowhere")[1]) == "unknown_zone", "before exists"


def test_where_several_codes_apply_the_first_is_given(forger: Forger) -> None:
    """In the order of the guide, from the end: each case has one more thing wrong, which comes earlier."""
    world, mine = forger.world, forger.mine
    spent = [mine.bin, mine.image(world.chain_id)]
    late: dict[str, object] = {"energy": 150, "limit": 10_000_000}
    assert forger.code(**late) == "energy"
    assert forger.code(end=START, **late) == "window"
    assert forger.of(world.pay([mine], "user-3", end=START, **late)[1]) == "exists"
    wrong = late | {"end": START, "zone": "nowhere"}
    assert forger.of(world.pay([mine], "user-3", sequence=2, **wrong)[1]) == "sequence_gap"
    assert forger.of(world.pay([mine], "user-3", sequence=2, until=world.height, **wrong)[1]) == "expired"

    def signed_by_other(rows: list[list[bytes]], sender: str) -> str:
        body = world.wish([mine], "forger", rows=rows, zone="nowhere")
        return forger.of(world.nobody(body, forger.others[: len(rows)], sender, 2, world.height))

    who = pseudonym(key("forger").public)
    assert signed_by_other([spent], who) == "bad_signature"
    mark = world.state.mark()
    one = world.state.get(NoteBin, mine.bin)
    world.state.put(replace(one, images=[spent[1]]))
    try:
        tx = world.nobody(world.wish([mine], "forger", zone="nowhere"), forger.others[:1], who)
        assert apply_tx(world.state, world.env(), Journal(), tx).code == "spent"
        rows = [spent, [forger.young, forger.second.image(world.chain_id)]]
        tx = world.nobody(world.wish([mine], "forger", rows=rows), forger.others[:2], who)
        assert apply_tx(world.state, world.env(), Journal(), tx).code == "unknown_note"
        tx = world.nobody(world.wish([mine], "forger", rows=rows), forger.others[:2], "grid")
        assert apply_tx(world.state, world.env(), Journal(), tx).code == "unknown_sender"
    finally:
        world.state.roll_back(mark)
    assert world.seal() == world.root


# --- spent once -------------------------------------------------------------------------------------------------------


def test_a_note_is_spent_once_in_a_block_and_ever_after() -> None:
    world, (note,) = ready()
    (_, first), (_, second) = world.pay([note], "one"), world.pay([note], "two")
    third = world.redeem([note], "user-3", "three")
    outcome = world.block(first, second, third)
    assert [r.code for r in outcome.results] == ["ok", "spent", "spent"]
    assert [r.code for r in world.block(second, third, first).results] == ["spent", "spent", "spent"]
    other = next(n for n in world.notes_of("user-3") if n.bin != note.bin)
    _, both = world.pay([other, note], "four")
    assert world.block(both).results[0].code == "spent"
    assert other in world.notes_of("user-3"), "the other note of a transaction that was refused is unspent"
    assert world.state.get(Denomination, bytes([GREATEST])).spent == 1


def test_the_bin_goes_with_its_last_note_and_the_images_with_it() -> None:
    world, (lead,) = ready()
    who, tx = world.pay([lead])
    world.ok(tx)
    others = [note for note in world.notes_of() if note.bin == lead.bin]
    assert len(others) == 15
    last = others.pop()
    world.ok(*[world.redeem([note], note.owner, f"r{note.place}") for note in others])
    assert len(world.state.get(NoteBin, lead.bin).images) == 15
    world.ok(world.redeem([last], last.owner, "r-last"))
    kept = world.state.get(NoteBin, lead.bin)
    assert (len(kept.images), kept.in_use) == (16, 1), "an order is confirmed over it"
    assert world.block(world.redeem([last], last.owner, "again")).results[0].code == "spent"
    world.measured()
    world.confirm("owner-1")
    assert closings(world.ok(world.confirmation(who))) == ["confirmed"]
    assert world.state.find(NoteBin, lead.bin) is None
    for note in (lead, last):
        assert world.block(world.nobody_redeems(kept, note)).results[0].code == "unknown_note"


def test_redeemed_at_once_as_the_last_of_a_bin() -> None:
    world = note_market()
    mine = [note for note in world.notes_of() if note.bin == notes.bin_id(0, 0)]
    before = world.money("owner-1")
    for part in (mine[:12], mine[12:]):
        world.ok(world.redeem(part, "owner-1", f"r{len(part)}"))
    assert world.money("owner-1") - before == 16 * DIME
    assert world.state.find(NoteBin, notes.bin_id(0, 0)) is None
    nothing_stays(world)


def test_an_order_key_may_come_again_once_its_order_has_ended_and_nothing_old_counts() -> None:
    world, spent = ready()
    who, tx = world.pay(spent, limit=650_000)
    world.ok(tx)
    _, second = world.pay(world.enough("user-4", 6_000_000), "nobody-1")
    assert world.block(second).results[0].code == "replayed"
    world.orders[who] = spent[0]
    (bid,) = world.state.bids_of(who)
    cancel = world.act(who, CancelBid(bid.id))
    world.ok(cancel)
    nothing_stays(world)
    (_, third) = world.pay(world.enough("user-4", 6_000_000), "nobody-1", limit=650_000)
    world.ok(third)
    assert [r.code for r in world.block(cancel, tx).results] == ["bad_signature", "spent"]


# --- after the bid ----------------------------------------------------------------------------------------------------


def contracted() -> tuple[NoteMarket, str, list[Note]]:
    """A measured contract, funded by two notes of user-3."""
    world = note_market(each=2)
    world.offer()
    spent = [n for n in world.notes_of("user-3") if n.bin[0] == GREATEST][:2]
    who, tx = world.pay(spent)
    world.ok(tx)
    world.measured()
    return world, who, spent


def test_only_the_note_that_leads_confirms() -> None:
    world, who, (lead, second) = contracted()
    trace, right = Traceless(world), decode_transaction(world.confirmation(who))
    digest = right.body

    def by(*signers: Note, body: Body = digest, **over: object) -> str:
        return trace.code(world.nobody(body, list(signers), str(over.get("who", who)), int(over.get("at", 2))))  # type: ignore[call-overload]

    stranger = world.notes_of("user-5")[-1]
    assert stranger.bin[0] == GREATEST
    assert by(lead) == "ok"
    assert by(second) == by(stranger) == by(lead, second) == by(lead, lead) == "bad_signature"
    assert by(lead, who="user-3") == by(lead, who="anon-" + "0" * 26) == "unknown_sender"
    assert by(lead, at=1) == "replayed"
    assert by(lead, at=3) == "sequence_gap"
    assert isinstance(digest, Confirm)
    assert by(lead, body=replace(digest, digest=bytes(32))) == "digest"
    assert by(lead, body=replace(digest, contract=bytes(32))) == "unknown_contract"
    for body in (Sign(digest.contract), BuyNotes(world.base("user-3"), [1]), RevokeKey(who)):
        assert by(lead, body=body) == "wrong_role"
    es256 = world.tx(who, digest, signer="nobody-1", sequence=2)
    assert trace.code(es256) == "bad_signature", "the order key starts and stops the pile, and no more"


def test_a_signature_is_for_one_purpose_one_order_and_one_time() -> None:
    world, who, _ = contracted()
    trace = Traceless(world)
    payload, rings = decode(world.confirmation(who), 1 << 16)
    row = decode(payload, 1 << 16)
    contract, digest = row[5]
    others = {
        "object": [contract, "energy", 5000, "no"],
        "cancel-contract": [contract],
        "cancel": [contract],
        "confirm": [digest, contract],
    }
    for kind, values in others.items():
        assert trace.code(encode([encode([*row[:1], kind, *row[2:5], values]), rings])) == "bad_signature"
    for place, other in ((3, row[3] + 1), (4, row[4] + 1)):
        changed = [*row[:place], other, *row[place + 1 :]]
        assert trace.code(encode([encode(changed), rings])) == "bad_signature"
    assert trace.code(encode([payload, rings])) == "ok"
    world.ok(encode([payload, rings]))
    assert world.block(encode([payload, rings])).results[0].code == "replayed"
    assert world.block(world.confirmation(who)).results[0].code == "phase", "nor twice with another sequence"


def test_the_order_of_another() -> None:
    world = note_market(2)
    world.offer()
    world.offer("pile-2")
    (a, one), (b, two) = (world.pay(world.enough(u, 6_000_000), u + "'s order") for u in ("user-1", "user-2"))
    world.ok(one, two)
    contracts = {world.state.terms_of(c).user: c.id for c in world.state.each(Contract)}
    for body in (
        CancelContract(contracts[b]),
        Object(contracts[b], "energy", 1, "x"),
        Confirm(contracts[b], bytes(32)),
    ):
        assert Traceless(world).code(world.act(a, body)) == "not_yours"
    rest, tx = world.pay(world.enough("user-3", 3_000_000), "resting", limit=1)
    world.ok(tx)
    (bid,) = world.state.bids_of(rest)
    assert Traceless(world).code(world.act(a, CancelBid(bid.id))) == "not_yours"
    assert Traceless(world).code(world.act(rest, CancelBid(bid.id))) == "ok"


@pytest.mark.parametrize("kind", ["anonymous-bid", "confirm"])
def test_no_byte_of_a_transaction_of_nobody_can_be_changed(kind: str) -> None:
    world, spent = ready("user-3")
    who, data = world.pay(spent)
    if kind == "confirm":
        world.ok(data)
        world.measured()
        data = world.confirmation(who)
    assert kind == decode_transaction(data).body.TYPE
    env, state = world.env(), world.state
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        mark, journal = state.mark(), Journal()
        result = apply_tx(state, env, journal, bytes(changed))
        assert result.code != "ok"
        assert result.message
        assert (state.mark(), journal) == (mark, Journal()), position
    assert world.seal() == world.root
    assert all(apply_tx(state, env, Journal(), data[:n]).code == "malformed" for n in range(0, len(data), 7))
    assert apply_tx(state, env, Journal(), data).code == "ok"


# --- how an order ends ------------------------------------------------------------------------------------------------


def ends(world: NoteMarket, owner: str, whole: int, before: list[int], fee: int = 0) -> int:
    """All but the fee and dust came back as notes; how much."""
    worth = sum(world.purse(owner)) - sum(before) + whole
    dust = world.state.balance_micro("F")
    assert worth + dust == whole
    assert 0 <= dust - fee < DIME
    nothing_stays(world)
    return worth


def test_a_bid_that_is_never_filled_comes_back_whole() -> None:
    for how in ("unfilled", "expired", "cancelled", "paused"):
        world = note_market(breaker_permille=1) if how == "paused" else note_market()
        before, spent = world.purse("user-3"), world.enough("user-3", 6_000_000)
        who, tx = world.pay(spent, market=how in {"unfilled", "paused"}, expires=NOW + HOUR // 4)
        if how == "paused":
            world.offer()
            world.bid()
            world.ok()  # the load of this order trips the breaker
            world.offer()
        outcome = world.ok(tx)
        if how == "expired":
            outcome = world.ok(time_ms=NOW + HOUR // 4)
        elif how == "cancelled":
            (bid,) = world.state.bids_of(who)
            outcome = world.ok(world.act(who, CancelBid(bid.id)))
        assert closings(outcome) == ["unfilled" if how == "paused" else how]
        assert ends(world, "user-3", 12_800_000, before) == 12_800_000
        (source,) = [row[2] for row in world.state.get(NoteBin, notes.bin_id(GREATEST, 1)).notes]
        assert source == sha256(tx)


def test_an_owner_who_wants_to_sign_and_does_or_does_not() -> None:
    for does in (True, False):
        world = note_market()
        before = world.purse("user-3")
        world.offer(explicit=True)
        who, tx = world.pay(world.enough("user-3", 6_000_000), start=START + 4 * HOUR, end=START + 6 * HOUR)
        world.ok(tx)
        contract = world.contract()
        assert (contract.phase, contract.user_signed) == ("proposed", True)
        assert Traceless(world).code(world.act(who, Sign(contract.id))) == "wrong_role"
        if does:
            world.send("owner-1", Sign(contract.id))
            world.ok()
            assert world.contract().phase == "signed"
            assert closings(world.ok(world.act(who, CancelContract(contract.id)))) == ["cancelled"]
        else:
            assert closings(world.ok(time_ms=START + 4 * HOUR)) == ["unsigned"]
        if does:
            ends(world, "user-3", 12_800_000, before, fee=50_000)
        else:  # the owner pays the fee
            assert world.purse("user-3") == before
            nothing_stays(world)


def test_a_user_who_calls_off_or_does_not_come_and_an_owner_who_does_not_either() -> None:
    for how in ("cancelled", "no-show", "defaulted"):
        world, spent = ready()
        fees = world.state.balance_micro("F")
        start = START + 4 * HOUR if how == "cancelled" else START
        who, tx = world.pay(spent, start=start, end=start + HOUR)
        world.ok(tx)
        if how == "cancelled":
            outcome = world.ok(world.act(who, CancelContract(world.contract().id)))
        else:
            if how == "no-show":
                world.submit(world.prove("pile-1", 3, [(START + HOUR // 2, 5)]), time_ms=START + HOUR // 2)
            outcome = world.ok(time_ms=END + 5 * HOUR)
        assert closings(outcome)[0] == how
        (statement,) = statements(outcome)
        paid = sum(p.amount_micro for p in statement.postings if (p.debit, p.credit) == ("E", "H"))
        won = sum(p.amount_micro for p in statement.postings if (p.debit, p.credit) == ("B", "U"))
        assert (paid > 0, won > 0) == (how == "no-show", how == "defaulted")
        fee = sum(p.amount_micro for p in statement.postings if p.credit == "F")
        back = (
            12_800_000
            - paid
            - fee
            + won
            + sum(p.amount_micro for p in statement.postings if (p.debit, p.credit) == ("B", "E"))
        )
        assert world.state.balance_micro("F") - fees - fee == back % DIME
        nothing_stays(world)


@pytest.mark.parametrize("ruled", [3000, 5000])
def test_a_dispute_whose_bond_the_notes_pay(ruled: int) -> None:
    """The user says that it was 3 kWh, not 5; won, the bond comes back with the owner's word against it, lost, it is gone."""
    world, spent = ready("user-3", rulings_needed=1)
    before = world.purse("user-3")
    who, tx = world.pay(spent)
    world.ok(tx)
    world.measured()
    contract, bond = world.contract().id, world.state.params.objection_bond_micro
    held = world.money(who)
    assert held > bond > 0
    world.ok(world.act(who, Object(contract, GROUND_ENERGY, 3000, "it was less")))
    assert world.money(who) == held - bond
    world.send("auditor", Rule(contract, ruled, "pile"))
    outcome = world.ok()
    assert closings(outcome) == ["resolved"]
    (statement,) = statements(outcome)
    to_user = sum(p.amount_micro for p in statement.postings if p.credit == "U")
    back = held - bond + to_user
    worth = sum(world.purse("user-3")) - sum(before) + 12_800_000
    assert worth == back - back % DIME
    assert any((p.debit, p.credit) == ("D", "U" if ruled == 3000 else "H") for p in statement.postings)
    nothing_stays(world)


def test_an_objection_that_the_change_does_not_cover() -> None:
    world = note_market(objection_bond_micro=20_000_000)
    world.offer()
    who, tx = world.pay(world.enough("user-3", 6_000_000))
    world.ok(tx)
    world.measured()
    body = Object(world.contract().id, GROUND_CAUSE, 1, "x")
    assert Traceless(world).code(world.act(who, body)) == "funds"


def test_a_pile_that_an_anonymous_order_names_may_go() -> None:
    world = note_market()
    before = world.purse("user-3")
    _, tx = world.pay(world.enough("user-3", 6_000_000), pile="pile-1")
    world.ok(tx)
    world.send("owner-1", RetirePile("pile-1"))
    world.ok()
    assert closings(world.ok(time_ms=END)) == ["expired"]
    ends(world, "user-3", 12_800_000, before)


def test_what_is_redeemed_wakes_an_owner_who_lacked_the_bond() -> None:
    world = note_market(owner_micro=1)
    world.offer()
    world.bid()
    world.ok()
    assert world.state.each(Contract) == []
    world.ok(world.redeem(world.enough("user-3", 12_000_000), "owner-1"))
    assert len(world.state.each(Contract)) == 1


# --- names ------------------------------------------------------------------------------------------------------------


def test_nobody_else_is_called_so_and_nothing_official_names_one() -> None:
    world, spent = ready()
    who, tx = world.pay(spent, limit=650_000)
    world.ok(tx)
    fresh = key("fresh").public
    expected: list[tuple[str, Body, str]] = [
        ("operator", RegisterParty(who, "ev-owner", fresh), "exists"),
        ("operator", RegisterParty("anon-x", "ev-owner", fresh), "exists"),
        ("operator", RegisterParty("eve", "anonymous", fresh), "bounds"),
        ("operator", RegisterParty("eve", "ev-owner", key("nobody-1").public), "exists"),
        ("operator", RegisterPile("pile-9", who, fresh, "m", "s", "north", 7000), "unknown_party"),
        ("operator", RevokeKey(who), "unknown_party"),
        ("operator", RestoreKey(who, fresh), "unknown_party"),
        ("grid", Deposit(who, 5, "new"), "unknown_party"),
        ("grid", CollectFees(who, 5), "unknown_party"),
        ("user-1", Delegate(who, 5), "unknown_candidate"),
    ]
    trace = Traceless(world)
    for sender, body, code in expected:
        assert trace.code(world.tx(sender, body)) == code, body
    other = world.enough("user-4", 6_000_000)
    assert trace.code(world.redeem(other, who)) == "unknown_party"
    assert trace.code(world.redeem(other, pseudonym(key("nobody-r").public))) == "unknown_party"


# --- bounds and the state ----------------------------------------------------------------------------------------------


def test_what_a_block_gives_back_is_bounded_and_the_rest_comes_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_REFUNDED_NOTES", 3)
    world = note_market()
    users = ["user-1", "user-2", "user-3", "user-4"]
    before = {user: sum(world.purse(user)) for user in users}
    spent = {
        u: sorted(world.notes_of(u), key=lambda n: n.value_micro)[:7] for u in users
    }  # worth 12.70: seven notes again
    txs = [world.pay(spent[u], u + "'s", limit=650_000, expires=NOW + HOUR // 4)[1] for u in users]
    world.ok(*txs)
    closed = world.ok(time_ms=NOW + HOUR // 4)
    assert closings(closed) == ["expired"] * 4
    owed = 4 * 7 - 3
    while anonymous(world):
        assert has_work(world.state, 1), "the engine does not wait for a transaction"
        again = State.load(world.rows.items(), world.root)
        assert [f.party for f in again.ended_fundings(9)] == [f.party for f in world.state.ended_fundings(9)]
        twin = replace(world.env(), time_ms=world.time_ms + 1000)
        apply_block(again, twin, [])
        world.ok()
        owed -= 3
        assert again.seal()[0] == world.root
    assert -3 < owed <= 0
    assert not has_work(world.state, 1)
    assert {user: sum(world.purse(user)) for user in users} == before
    keys = [note[0] for one in world.state.each(NoteBin) for note in one.notes]
    assert len(set(keys)) == len(keys), "places go on counting from block to block"
    nothing_stays(world)


def test_a_user_whose_order_has_ended_does_nothing_more_while_the_notes_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notes, "MAX_REFUNDED_NOTES", 1)
    world = note_market()
    spent = sorted(world.notes_of("user-1"), key=lambda n: n.value_micro)[:7]
    who, tx = world.pay(spent, limit=650_000)
    world.ok(tx)
    (bid,) = world.state.bids_of(who)
    world.ok(world.act(who, CancelBid(bid.id)))
    trace = Traceless(world)
    assert trace.code(world.act(who, CancelBid(bid.id))) == "unknown_order"
    assert trace.code(world.pay(world.enough("user-2", 6_000_000), "nobody-1")[1]) == "replayed"


def test_the_order_of_arrival_does_not_change_whose_money_is_what() -> None:
    def run(*, turned: bool) -> dict[str, list[int]]:
        world = note_market(2)
        world.offer()
        world.offer("pile-2")
        world.ok()
        txs = [
            world.pay(world.enough(f"user-{i}", 6_000_000), f"n{i}", limit=600_000 + 100_000 * i)[1]
            for i in range(1, 5)
        ]
        txs.append(world.redeem(world.enough("user-6", 12_000_000), "user-7"))
        world.ok(*(txs[::-1] if turned else txs))
        world.ok(time_ms=END + 5 * HOUR)  # nobody came: defaults, and bids that expired
        nothing_stays(world)
        purses = {f"user-{i}": world.purse(f"user-{i}") for i in range(1, 17)}
        return purses | {a.name: [a.balance_micro] for a in world.state.each(Account)}

    assert run(turned=False) == run(turned=True)


def test_a_preview_of_an_anonymous_order_leaves_nothing_and_tells_what_the_block_does() -> None:
    world, spent = ready()
    _, data = world.pay(spent)
    tx, env = decode_transaction(data), replace(world.env(), time_ms=world.time_ms + 1000)
    told = preview(world.state, env, tx)
    assert world.seal() == world.root
    outcome = world.ok(data)
    assert outcome.leaves[1:] == told
    (note,) = world.enough("user-4", 6_000_000)
    market, again = (decode_transaction(world.pay([n], "m", market=True, limit=1)[1]) for n in (note, spent[0]))
    told = [leaf_of(leaf) for leaf in preview(world.state, env, market)]
    assert [leaf[2] for leaf in told if leaf[0] == LEAF_CLOSED] == ["unfilled"]
    with pytest.raises(Rejection, match="was spent"):
        preview(world.state, env, again)
    assert world.seal() == world.root


@pytest.mark.parametrize(
    "broken", ["a note too many", "an image twice", "no order over it", "a party that stays", "a funding that went"]
)
def test_a_state_in_which_notes_do_not_add_up_is_found(broken: str) -> None:
    world, spent = ready()
    who, tx = world.pay(spent, limit=650_000)
    world.ok(tx)
    state, lead = world.state, world.state.get(NoteBin, spent[0].bin)
    if broken == "a note too many":
        kind = state.get(Denomination, lead.id[:1])
        state.put(replace(kind, issued=kind.issued + 1))
    elif broken == "an image twice":
        state.put(replace(lead, images=lead.images * 2))
    elif broken == "no order over it":
        state.put(replace(lead, in_use=0))
    elif broken == "a party that stays":
        (bid,) = state.bids_of(who)
        state.put(Account(f"P:{who}", state.balance_micro(f"P:{who}") + bid.hold_micro))
        state.drop(Account, f"E:{bid.id.hex()}")
        state.drop(Bid, bid.id)
    else:
        state.drop(Funding, who)
    with pytest.raises(BrokenInvariantError):
        check_in_full(state)


def test_a_chain_without_notes_has_the_state_it_had() -> None:
    assert genesis().state().note_rules is None
    assert not any(genesis().state().each(kind) for kind in (Denomination, NoteBin, Funding))
    rules = genesis(notes=NOTES).state()
    assert [k.value_micro for k in rules.each(Denomination)] == [DIME << k for k in range(8)]
