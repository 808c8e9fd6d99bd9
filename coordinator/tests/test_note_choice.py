"""Which notes pay, what a choice gives away, and how many owners the ledger leaves possible."""

import pytest

from pile_coordinator.chain.notes import bin_id
from pile_coordinator.chain.records import NoteRules
from pile_coordinator.note_choice import (
    Choice,
    bought_after_order,
    choose,
    denominations_for,
    judge,
    owners_left,
    redeeming_tells,
    spendable,
)
from pile_coordinator.purse import Bin, Market, Note, PurseError
from pile_shared.platform import sha256

HOUR = 3_600_000
NOW = 1000 * HOUR
OLD = NOW - 10 * HOUR
UNIT = 100_000
OTHERS = [f"n{i}" for i in range(15)]


class Shelf:
    """Bins put together by hand: "me" is the wallet; a pseudonym stands for what was left of somebody's order."""

    def __init__(self) -> None:
        self.bins: dict[bytes, Bin] = {}
        self.senders: dict[bytes, str] = {}
        self.own: list[Note] = []
        self.bought: dict[bytes, int] = {}

    def bin(
        self, k: int, number: int, owners: list[str], *, sealed_ms: int = OLD, spent: int = 0, bought: str = ""
    ) -> Bin:
        """A full bin; `bought` names one purchase for all notes of mine, else each is a purchase of its own."""
        name = bin_id(k, number)
        sources = []
        for place, who in enumerate(owners):
            source = sha256((bought if who == "me" and bought else f"{name!r}{place}").encode())
            self.senders[source] = who
            sources.append(source)
            if who.startswith(("me", "anon-me")):
                image = sha256(b"i" + source + bytes([place]) + name)
                self.own.append(Note(name, place, UNIT << k, 0, source, 0, image, sealed_ms, spent=False))
        keys = tuple(sha256(b"k" + s + bytes([i])) for i, s in enumerate(sources))
        images = frozenset(sha256(b"x" + key) for key in keys[:spent])
        self.bins[name] = Bin(name, sealed_ms, keys, keys, tuple(sources), images)
        return self.bins[name]

    @property
    def market(self) -> Market:
        rules = NoteRules("note-rules", UNIT, 8, HOUR)
        kinds = [{"in_open_bin": 0, "open_bin": 9} for _ in range(8)]
        return Market(rules, NOW, 1, 5_000_000, kinds, self.bins, self.senders)

    def choose(self, need_micro: int, reserved: set[bytes] | None = None) -> Choice | None:
        return choose(self.market, self.own, reserved or set(), need_micro, lambda _: OLD)

    def codes(self, need_micro: int) -> set[str]:
        found = self.choose(need_micro)
        assert found is not None
        return {weakness.code for weakness in found.weaknesses}


def test_one_note_per_owner_and_bin_leaves_sixteen():
    shelf = Shelf()
    assert owners_left(shelf.market, [shelf.bin(0, 0, ["me", *OTHERS])]) == 16
    found = shelf.choose(UNIT)
    assert (found.owners, found.weaknesses) == (16, ())


@pytest.mark.parametrize(
    ("rings", "owners"),
    [
        ([["me"] * 16], 1),  # who buys a whole bin hides in it alone
        ([["me", *["n1"] * 15]], 2),  # and so does who shares it with one
        ([["me", *OTHERS], ["me", *OTHERS[::-1]]], 16),  # the same sixteen in both
        ([["me", *OTHERS], ["me", *[f"m{i}" for i in range(15)]]], 1),  # nobody else in both
        ([["me", *OTHERS], ["me", *OTHERS[:3], *[f"m{i}" for i in range(12)]]], 4),
        ([["me", *["anon-1"] * 15]], 16),  # what was left of orders may be anybody's; here of 15 transactions
        ([["me", *OTHERS], ["me", "anon-1", *[f"m{i}" for i in range(14)]]], 16),  # one such note excludes nobody
    ],
)
def test_owners_are_counted_as_the_ledger_tells_them(rings, owners):
    shelf = Shelf()
    bins = [shelf.bin(k, 0, ring) for k, ring in enumerate(rings)]
    assert owners_left(shelf.market, bins) == owners


def test_the_fewest_notes_and_of_these_the_least_change():
    shelf = Shelf()
    for k in range(8):
        shelf.bin(k, 0, ["me", *OTHERS])
        shelf.bin(k, 1, ["me", *OTHERS])
    worth = lambda need: sorted(note.value_micro // UNIT for note in shelf.choose(need * UNIT).notes)  # noqa: E731
    assert worth(1) == [1]
    assert worth(3) == [4]  # one note rather than two
    assert worth(128) == [128]
    assert worth(129) == [1, 128]
    assert worth(140) == [16, 128]
    assert worth(384) == [128, 128, 64, 64] or worth(384) == [64, 64, 128, 128]
    assert len(shelf.choose(504 * UNIT).notes) == 12  # as many as one order takes
    assert shelf.choose(505 * UNIT) is None


def test_strong_notes_come_first_though_they_are_more():
    """A larger note would do alone; but its bin has two of this owner, or is nearly spent, or has few owners."""
    for weak in (
        {"owners": ["me", "me", *OTHERS[:14]]},
        {"owners": ["me", *OTHERS], "spent": 12},
        {"owners": ["me", *["n1"] * 15]},
    ):
        shelf = Shelf()
        shelf.bin(1, 0, **weak)
        shelf.bin(0, 0, ["me", *OTHERS])
        shelf.bin(0, 1, ["me", *OTHERS])
        found = shelf.choose(2 * UNIT)
        assert [note.value_micro for note in found.notes] == [UNIT, UNIT], weak
        assert [weakness.code for weakness in found.weaknesses] == ["several-notes"]


def test_each_weakness_is_told():
    shelf = Shelf()
    shelf.bin(0, 0, ["me", "me", *OTHERS[:14]])
    assert shelf.codes(UNIT) == {"several-in-bin"}
    assert shelf.codes(2 * UNIT) == {"several-in-bin", "same-bin", "several-notes"}
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *OTHERS], spent=12)
    assert shelf.codes(UNIT) == {"mostly-spent"}
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *["n1"] * 15])
    assert shelf.codes(UNIT) == {"few-owners"}
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *OTHERS], bought="at once")
    shelf.bin(1, 0, ["me", *OTHERS], bought="at once")
    assert shelf.codes(3 * UNIT) == {"telling-amount", "several-notes"}
    assert shelf.codes(2 * UNIT) == set()
    shelf = Shelf()
    shelf.bin(0, 0, ["anon-me", *OTHERS], sealed_ms=NOW - HOUR - 1)
    assert shelf.codes(UNIT) == {"fresh-refund"}
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *OTHERS])
    soon = judge(shelf.market, shelf.own, shelf.own, lambda _: NOW - HOUR)
    assert {weakness.code for weakness in soon.weaknesses} == {"fresh-purchase"}
    assert all(weakness.text.endswith((".", "right is so much more often.")) for weakness in soon.weaknesses)


def test_young_spent_and_reserved_notes_are_left_alone():
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *OTHERS], sealed_ms=NOW - HOUR + 1)
    assert shelf.choose(UNIT) is None
    shelf.bin(0, 1, ["me", *OTHERS], sealed_ms=NOW - HOUR)
    (ready,) = spendable(shelf.market, shelf.own, set())
    assert shelf.choose(UNIT).notes == (ready,)
    assert shelf.choose(UNIT, {ready.image}) is None
    shelf.bin(0, 2, ["me"] + ["n1"] * 2, sealed_ms=0)
    assert len(spendable(shelf.market, shelf.own, set())) == 1


def test_an_amount_is_bought_in_one_note_of_each_kind():
    market = Shelf().market
    counts, found = denominations_for(market, [], 127 * UNIT)
    assert (counts, found) == ([1] * 7, [])
    assert denominations_for(market, [], 128 * UNIT) == ([0] * 7 + [1], [])
    counts, found = denominations_for(market, [], 300 * UNIT)
    assert counts == [0, 0, 1, 1, 0, 1, 0, 2]
    assert [weakness.code for weakness in found] == ["several-in-bin"]
    for amount in (UNIT // 2, UNIT + 1, 0, 65 * 128 * UNIT):
        with pytest.raises(PurseError) as refusal:
            denominations_for(market, [], amount)
        assert refusal.value.code == "amount"


def test_a_second_note_goes_where_the_next_bin_begins():
    """Of two notes bought while 15 are in the open bin, one seals it and the other opens the next."""
    shelf = Shelf()
    market = shelf.market
    market.kinds[7]["in_open_bin"] = 15
    assert denominations_for(market, [], 256 * UNIT) == ([0] * 7 + [2], [])
    mine = [Note(bin_id(7, 9), 0, 128 * UNIT, 0, b"", 0, b"", 0, spent=False)]
    assert denominations_for(market, mine, 128 * UNIT)[1][0].code == "several-in-bin"


def test_what_redeeming_and_buying_tell():
    shelf = Shelf()
    shelf.bin(0, 0, ["me", *OTHERS])
    assert redeeming_tells(shelf.market, shelf.own) == []
    shelf.bin(0, 1, ["anon-me", *OTHERS])
    assert [weakness.code for weakness in redeeming_tells(shelf.market, shelf.own)] == ["change-redeemed"]
    assert bought_after_order(shelf.market, 0) == []
    assert bought_after_order(shelf.market, NOW - 2 * HOUR) == []
    assert [weakness.code for weakness in bought_after_order(shelf.market, NOW - 2 * HOUR + 1)] == [
        "bought-after-order"
    ]
