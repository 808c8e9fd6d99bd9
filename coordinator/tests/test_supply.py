"""The index over offers answers what a scan of all offers answers, whatever was taken before and in between."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import bounded

from pile_coordinator.chain import supply
from pile_coordinator.chain.supply import Offer, Supply

HOUR = 3_600_000

# Small numbers, so that windows often touch, overlap and coincide, and energies are just enough or just not.
piles = st.sampled_from(["a", "b", "c", "d", "e", "f"])
owners = st.sampled_from(["x", "y", "z"])
windows = st.tuples(st.integers(0, 9), st.integers(1, 3)).map(lambda w: (w[0] * HOUR, (w[0] + w[1]) * HOUR))
long_windows = st.tuples(st.integers(0, 3), st.integers(6, 14)).map(lambda w: (w[0] * HOUR, (w[0] + w[1]) * HOUR))
energies_wh = st.integers(1, 16).map(lambda lots: lots * 100)
offers = st.builds(
    lambda pile, owner, window, energy, power: Offer(b"", pile, owner, -1, *window, energy, power),
    piles,
    owners,
    long_windows,
    energies_wh,
    st.sampled_from([200, 700, 700]),
)


@dataclass(frozen=True)
class Wish:
    window: tuple[int, int]
    waited_ms: int  # of the window's time, gone when it is asked
    energy_wh: int
    pile: str
    bond_micro: int
    ranks: tuple[int, int | None]

    def of(self, index: "Supply | Scan") -> Iterator[int]:
        start_ms, end_ms = self.window
        return index.candidates(
            start_ms=start_ms,
            end_ms=end_ms,
            left_ms=end_ms - start_ms - self.waited_ms,
            energy_wh=self.energy_wh,
            pile=self.pile,
            bond_micro=self.bond_micro,
            first=self.ranks[0],
            last=self.ranks[1],
        )

    def take(self, index: "Supply | Scan", rank: int) -> None:
        index.take(rank, start_ms=self.window[0], end_ms=self.window[1], energy_wh=self.energy_wh)


wishes = st.builds(
    Wish,
    windows,
    st.sampled_from([0, 0, 0, HOUR // 2, HOUR, 2 * HOUR]),
    st.integers(1, 7).map(lambda lots: lots * 100),
    st.sampled_from(["", "", "", "", "", "", "a", "b", "nowhere"]),
    st.sampled_from([0, 0, 0, *range(10)]),
    st.sampled_from([(0, None), (0, None), (0, None), (0, None), (2, None), (0, 3), (2, 5), (5, 2), (9, 20)]),
)
# What happens in turn: a wish of which so many offers are looked at and the last one taken or not, or an owner found poor.
bought = st.tuples(wishes, st.integers(1, 12), st.booleans())
steps = st.one_of(bought, bought, bought, bought, st.tuples(owners, st.integers(1, 9)))


class Scan:
    """The slow, obvious index: every question looks at every offer and every booking."""

    def __init__(self, offers: list[Offer], booked: dict[str, list[tuple[int, int]]]) -> None:
        self.offers = offers
        self.left = [offer.energy_wh for offer in offers]
        self.booked = {pile: list(windows) for pile, windows in booked.items()}
        self.refused: list[tuple[str, int]] = []

    def can_serve(self, rank, *, start_ms, end_ms, left_ms, energy_wh, pile, bond_micro) -> bool:
        offer = self.offers[rank]
        return (
            offer.window_start_ms <= start_ms
            and end_ms <= offer.window_end_ms
            and energy_wh <= self.left[rank]
            and energy_wh * 3_600_000 <= offer.power_w * left_ms
            and all(end_ms <= start or end <= start_ms for start, end in self.booked.get(offer.pile, []))
            and pile in {"", offer.pile}
            and not any(owner == offer.owner and bond_micro >= bond for owner, bond in self.refused)
        )

    def candidates(self, *, first, last, **wish) -> Iterator[int]:
        return (rank for rank in range(len(self.offers))[first:last] if self.can_serve(rank, **wish))

    def take(self, rank: int, *, start_ms: int, end_ms: int, energy_wh: int) -> None:
        self.booked.setdefault(self.offers[rank].pile, []).append((start_ms, end_ms))
        self.left[rank] -= energy_wh

    def poor(self, owner: str, bond_micro: int) -> None:
        self.refused.append((owner, bond_micro))


def disjoint(bookings: list[tuple[str, tuple[int, int]]]) -> dict[str, list[tuple[int, int]]]:
    """The bookings that do not overlap one before them on the same pile, in the order they came."""
    booked: dict[str, list[tuple[int, int]]] = {}
    for pile, (start, end) in bookings:
        windows = booked.setdefault(pile, [])
        if all(end <= s or e <= start for s, e in windows):
            windows.append((start, end))
    return booked


def compare(book: list[Offer], bookings: list, story: list, announced: int) -> None:
    """Both indexes live through the same story; only the windows of the first `announced` wishes are announced."""
    booked = disjoint(bookings)
    wished = [step[0].window for step in story if isinstance(step[0], Wish)]
    index, scan = Supply(book, booked, wished[:announced]), Scan(book, booked)
    for step in story:
        if isinstance(step[0], Wish):
            wish, looks, taking = step
            answers = list(wish.of(index))
            assert answers == list(wish.of(scan))
            if taking and answers[:looks]:
                rank = answers[:looks][-1]
                wish.take(index, rank)
                wish.take(scan, rank)
        else:
            index.poor(*step)
            scan.poor(*step)
        assert [index.energy_left_wh(rank) for rank in range(len(book))] == scan.left


books = st.integers(0, 12).flatmap(lambda size: st.lists(offers, min_size=size, max_size=size))
bookings = st.lists(st.tuples(piles, windows), max_size=8)
stories = st.lists(steps, min_size=10, max_size=25)


@bounded(1000)
@given(books, bookings, stories, st.sampled_from([0, 3, 100]))
def test_it_finds_what_a_scan_finds(book: list, booked: list, story: list, announced: int) -> None:
    compare(book, booked, story, announced)


@bounded(300)
@given(books, bookings, stories)
def test_a_thinned_out_tree_answers_the_same(book: list, booked: list, story: list) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supply, "MAX_TREE_BITS", 64)
        compare(book, booked, story, 100)


@bounded(600)
@given(books, bookings, st.lists(wishes, min_size=2, max_size=8), st.data())
def test_a_search_that_goes_on_answers_for_the_moment_it_is_asked(
    book: list, booked: list, asked: list, data: st.DataObject
) -> None:
    """Several searches are under way at once; between two steps of one, others take offers and owners turn out poor."""
    index, scan = Supply(book, disjoint(booked), [wish.window for wish in asked]), Scan(book, disjoint(booked))
    searches = [(wish, wish.of(index), iter(wish.of(scan))) for wish in asked]
    for _ in range(20):
        wish, search, expected = data.draw(st.sampled_from(searches))
        rank = next(search, None)
        assert rank == next(expected, None)
        if rank is not None and data.draw(st.booleans()):
            wish.take(index, rank)
            wish.take(scan, rank)
        elif rank is not None and data.draw(st.booleans()):
            index.poor(book[rank].owner, wish.bond_micro)
            scan.poor(book[rank].owner, wish.bond_micro)


def offer(pile: str = "a", *, start: int = 0, end: int = 10, energy: int = 5000, power: int = 7000) -> Offer:
    return Offer(b"", pile, f"owner of {pile}", -1, start, end, energy, power)


def asked(index: Supply, start: int, end: int, energy: int = 1, *, left: int = HOUR, **more) -> list[int]:
    return list(index.candidates(start_ms=start, end_ms=end, left_ms=left, energy_wh=energy, **more))


def test_a_window_may_begin_and_end_with_the_offers_and_touch_a_booking() -> None:
    index = Supply([offer()], {"a": [(4, 6)]})
    assert [asked(index, *window) for window in [(0, 4), (6, 10)]] == [[0], [0]]
    assert [asked(index, *window) for window in [(-1, 4), (6, 11), (3, 5), (5, 7), (4, 6), (0, 10)]] == [[]] * 6


def test_the_last_watt_hour_counts() -> None:
    index = Supply([offer(energy=700, power=700), offer("b", energy=701, power=701)], {})
    assert asked(index, 0, 1, 700) == [0, 1]
    assert asked(index, 0, 1, 701) == [1]
    assert asked(index, 0, 1, 700, left=HOUR - 1) == [1]
    assert asked(index, 0, 1, 700, left=0) == []
    index.take(1, start_ms=0, end_ms=1, energy_wh=2)
    assert index.energy_left_wh(1) == 699
    assert [asked(index, 1, 2, energy) for energy in (699, 700)] == [[0, 1], [0]]


def test_taking_from_one_offer_books_the_pile_for_all_its_offers() -> None:
    index = Supply([offer("a"), offer("b"), offer("a")], {})
    index.take(2, start_ms=3, end_ms=5, energy_wh=4000)
    assert asked(index, 4, 6) == [1]
    assert asked(index, 5, 6, 1001) == [0, 1]
    assert asked(index, 5, 6, pile="a") == [0, 2]


def test_an_owner_is_skipped_from_the_lowest_bond_refused_upwards() -> None:
    index = Supply([offer("a"), offer("b"), offer("a")], {})
    index.poor("owner of a", 100)
    index.poor("owner of a", 200)  # says nothing new
    index.poor("nobody here", 1)
    assert [asked(index, 0, 1, bond_micro=bond) for bond in (99, 100, 150)] == [[0, 1, 2], [1], [1]]
    index.poor("owner of a", 0)
    assert asked(index, 0, 1) == [1]


def test_a_pile_cannot_be_booked_twice_nor_sold_beyond_what_is_left() -> None:
    index = Supply([offer(energy=100)], {"a": [(0, 2)]})
    with pytest.raises(AssertionError):
        index.take(0, start_ms=1, end_ms=3, energy_wh=100)
    with pytest.raises(AssertionError):
        index.take(0, start_ms=2, end_ms=3, energy_wh=101)


class Watched(supply._Calendar):
    """Notes the bookings that were met, and counts the looks that met none."""

    def __init__(self, booked: dict) -> None:
        super().__init__(booked)
        self.met: list[tuple[str, tuple[int, int]]] = []
        self.free = 0

    def blocking(self, pile: str, start_ms: int, end_ms: int) -> tuple[int, int] | None:
        found = super().blocking(pile, start_ms, end_ms)
        if found is None:
            self.free += 1
        else:
            self.met.append((pile, found))
        return found


@bounded(600)
@given(books, bookings, stories)
def test_no_look_is_in_vain_but_the_first_at_a_booking(book: list, booked: list, story: list) -> None:
    """What makes a full book cheap. Here a missing set would show, which the check of each offer makes up for elsewhere."""
    index = Supply(book, {}, [step[0].window for step in story if isinstance(step[0], Wish)])
    index._calendar = watched = Watched(disjoint(booked))
    answered = 0
    for step in story:
        if isinstance(step[0], Wish):
            wish, looks, taking = step
            answers = list(wish.of(index))
            answered += len(answers)
            if taking and answers[:looks]:
                wish.take(index, answers[:looks][-1])
        else:
            index.poor(*step)
    assert len(watched.met) == len(set(watched.met))
    assert watched.free == answered


def test_what_is_sold_while_a_search_is_under_way_is_not_offered() -> None:
    index = Supply([offer("a"), offer("b", energy=100)], {})
    search = index.candidates(start_ms=0, end_ms=1, left_ms=HOUR, energy_wh=100)
    assert next(search) == 0
    index.take(1, start_ms=5, end_ms=6, energy_wh=1)
    assert list(search) == []
