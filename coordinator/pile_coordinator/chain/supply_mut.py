"""Which offers can serve a bid, found without looking at each: an index over the open listings of one zone.

Offers have a fixed order, their rank: the caller sorts them from the one to prefer downwards. A set of offers is ONE
integer in which bit i says whether the offer of rank i is in the set. For a thousand offers that is 125 bytes, and
Python's `&` and `|` of two such sets take less than a tenth of a microsecond, so that asking all offers at once is
cheaper than asking three of them one by one. The best offer of a set is its lowest bit.

Three questions are answered in sets:

- Is a number of the offer at least a bound: energy left, power, the end of its window, and its start by the negated
  number? A `_Column` holds the numbers as slices: the set of offers with bit 0 in their number, the set with bit 1, and
  so on. One pass from the lowest slice up compares all offers with the bound.
- Whose pile is known to be booked during the window? A booking overlaps a window if it begins in it or covers its
  beginning. `_KnownBookings` has one tree of sets for each of the two cases, over the times at which windows of bids
  begin and end.
- Whose owner is known to be unable to pay the bond? A `_Column` again.

What is known of bookings is learnt on the way. An offer found by its set is still checked against the windows booked on
its pile, one by one (`_Calendar`, a binary search), and the booking that blocks it, if any, enters the trees, where it
blocks every later bid that overlaps it. So a booking costs at most one vain look, one that nobody meets costs nothing,
and what is answered never depends on the trees being complete: they only save looks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

MS_PER_HOUR = 3_600_000

MAX_TREE_BITS = 1 << 29  # of one tree's sets (64 MB) if every offer were booked at every time; reached by 10,000 bids
# with windows of their own over 13,000 offers. Beyond, only every second time is kept, and so on: it costs vain looks.


@dataclass(frozen=True, slots=True)
class Offer:
    """A listing as the search sees it.

    `ask_micro_per_kwh` is for the caller's order and not looked at here; `energy_wh` is what the listing has left when
    the index is made; `power_w` is the rated power of the pile. The window is [start, end), unix ms.
    """

    listing: bytes
    pile: str
    owner: str
    ask_micro_per_kwh: int
    window_start_ms: int
    window_end_ms: int
    energy_wh: int
    power_w: int


class Supply:
    """The offers of one zone during one clearing. In memory, deterministic, for one thread.

    Times are unix ms, windows half-open [start, end), so that windows that touch do not overlap.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        booked: Mapping[str, Sequence[tuple[int, int]]],
        windows: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Index offers given in order of rank.

        Args:
            offers: from the one to prefer downwards.
            booked: by pile, the windows taken already; none of one pile may overlap another. Asked with `get` when an
                offer of the pile is first looked at, so it may be made on demand.
            windows: those that will be asked for. One that is not among them is answered correctly, only slower.
        """
        self._offers = offers
        self._left_wh = [offer.energy_wh for offer in offers]
        self._everyone = (1 << len(offers)) - 1
        self._starting = _Ranked([-offer.window_start_ms for offer in offers])
        self._ending = _Ranked([offer.window_end_ms for offer in offers])
        self._power = _Ranked([offer.power_w for offer in offers])
        self._energy = _Column(self._left_wh)
        self._ranks_of_pile = _grouped(offer.pile for offer in offers)
        self._ranks_of_owner = _grouped(offer.owner for offer in offers)
        self._calendar = _Calendar(booked)
        self._known = _KnownBookings(windows, len(offers))
        self._poor_from_micro: dict[str, int] = {}
        self._poor_bonds = _Column([])
        self._poor = 0

    def candidates(
        self,
        *,
        start_ms: int,
        end_ms: int,
        left_ms: int,
        energy_wh: int,
        pile: str = "",
        bond_micro: int = 0,
        first: int = 0,
        last: int | None = None,
    ) -> Iterator[int]:
        """Ranks of the offers that can serve a bid, the preferred first, found as they are asked for.

        Each rank holds for the moment it is given: after `take` or `poor` the search goes on with what is then left.

        Args:
            start_ms: of the window, which must lie in the offer's and be free on its pile.
            end_ms: of the window, after its start.
            left_ms: how much of the window is left to charge in; the energy must fit into it at the pile's power.
            energy_wh: positive; the offer must have it left.
            pile: only offers of this pile; "" for any.
            bond_micro: skip owners noted as too poor for it.
            first: the lowest rank to consider.
            last: the rank to stop before; None for all.
        """
        assert energy_wh > 0
        assert start_ms < end_ms
        if left_ms <= 0:
            return
        power_w = -(-energy_wh * MS_PER_HOUR // left_ms)
        found = self._everyone if pile == "" else _set_of(self._ranks_of_pile.get(pile, ()))
        found = found >> first << first
        if last is not None:
            found &= (1 << last) - 1
        found &= self._starting.at_least(-start_ms, found)
        found &= self._ending.at_least(end_ms, found)
        found &= self._power.at_least(power_w, found)
        found &= self._energy.at_least(energy_wh, found)
        found = _without(found, self._too_poor(bond_micro))
        found = _without(found, self._known.during(start_ms, end_ms))
        while found:
            lowest = found & -found
            rank = lowest.bit_length() - 1
            found ^= lowest
            offer = self._offers[rank]
            blocking = self._calendar.blocking(offer.pile, start_ms, end_ms)
            if blocking is not None:
                others = _set_of(self._ranks_of_pile[offer.pile])
                self._known.learn(others, *blocking)
                found = _without(found, others)
            elif energy_wh <= self._left_wh[rank] and not self._is_poor(offer.owner, bond_micro):
                yield rank

    def energy_left_wh(self, rank: int) -> int:
        """What an offer has left."""
        return self._left_wh[rank]

    def take(self, rank: int, *, start_ms: int, end_ms: int, energy_wh: int) -> None:
        """Book a window on the offer's pile, for all offers of that pile, and take energy off this offer."""
        left_wh = self._left_wh[rank]
        assert 0 < energy_wh <= left_wh
        self._calendar.book(self._offers[rank].pile, start_ms, end_ms)
        self._energy.change(1 << rank, left_wh, left_wh - energy_wh)
        self._left_wh[rank] = left_wh - energy_wh

    def poor(self, owner: str, bond_micro: int) -> None:
        """Note that an owner cannot pay this bond, nor any greater. It holds for as long as the index.

        A caller who knows the owner's balance does well to note balance + 1, so that no lower bond is tried in vain.
        """
        assert bond_micro >= 0
        before = self._poor_from_micro.get(owner)
        if before is None or bond_micro < before:
            offers = _set_of(self._ranks_of_owner.get(owner, ()))
            self._poor_bonds.change(offers, before or 0, bond_micro)
            self._poor |= offers
            self._poor_from_micro[owner] = bond_micro

    def _too_poor(self, bond_micro: int) -> int:
        return _without(self._poor, self._poor_bonds.at_least(bond_micro + 1, self._poor)) if self._poor else 0

    def _is_poor(self, owner: str, bond_micro: int) -> bool:
        poor_from_micro = self._poor_from_micro.get(owner)
        return poor_from_micro is not None and bond_micro >= poor_from_micro


class _Column:
    """A number >= 0 for each offer, as slices: `_slices[b]` is the set of offers whose number has bit b."""

    __slots__ = ("_slices",)

    def __init__(self, numbers: Sequence[int]) -> None:
        width = max(numbers, default=0).bit_length()
        # Binary digits of all numbers in one text, the last offer's first; every `width`-th digit makes a slice.
        digits = "".join(format(number, f"0{width}b") for number in reversed(numbers))
        self._slices = [int(digits[width - 1 - bit :: width], 2) for bit in range(width)]

    def at_least(self, bound: int, everyone: int) -> int:
        """The set of offers whose number is >= bound; offers outside of `everyone` may be in it or not.

        From the lowest bit up: a number is at least the bound, as far as we have come, if it has the bit and the bound
        has not, or if their bits are equal and it was at least the bound so far.
        """
        if bound >> len(self._slices):
            return 0
        found = everyone
        for having_bit in self._slices:
            found = found & having_bit if bound & 1 else found | having_bit
            bound >>= 1
        return found

    def change(self, offers: int, before: int, after: int) -> None:
        """Give another number to a set of offers that all have the same."""
        differing = before ^ after
        while differing >> len(self._slices):
            self._slices.append(0)
        while differing:
            lowest = differing & -differing
            self._slices[lowest.bit_length() - 1] ^= offers
            differing ^= lowest


class _Ranked:
    """A column of numbers that never change, which may be negative: by their place among the distinct ones."""

    __slots__ = ("_column", "_distinct")

    def __init__(self, numbers: Sequence[int]) -> None:
        self._distinct = sorted(set(numbers))
        places = {number: place for place, number in enumerate(self._distinct)}
        self._column = _Column([places[number] for number in numbers])

    def at_least(self, bound: int, everyone: int) -> int:
        place = bisect_left(self._distinct, bound)
        return self._column.at_least(place, everyone) if place < len(self._distinct) else 0


class _Calendar:
    """The windows booked on each pile: their starts and their ends, both in order of time, since none overlaps another."""

    __slots__ = ("_booked", "_windows")

    def __init__(self, booked: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        self._booked = booked
        self._windows: dict[str, tuple[list[int], list[int]]] = {}

    def _of(self, pile: str) -> tuple[list[int], list[int]]:
        windows = self._windows.get(pile)
        if windows is None:
            booked = sorted(self._booked.get(pile, ()))
            windows = self._windows[pile] = [start for start, _ in booked], [end for _, end in booked]
        return windows

    def blocking(self, pile: str, start_ms: int, end_ms: int) -> tuple[int, int] | None:
        """A booking of the pile that overlaps the window, or None: the last to begin before its end, if it ends too late."""
        starts, ends = self._of(pile)
        place = bisect_left(starts, end_ms)
        return (starts[place - 1], ends[place - 1]) if place and ends[place - 1] > start_ms else None

    def book(self, pile: str, start_ms: int, end_ms: int) -> None:
        starts, ends = self._of(pile)
        place = bisect_left(starts, end_ms)
        assert start_ms < end_ms
        assert not place or ends[place - 1] <= start_ms
        starts.insert(place, start_ms)
        ends.insert(place, end_ms)


class _KnownBookings:
    """Sets of offers by when their piles are booked, as far as learnt.

    Two binary trees, each a list: node n has the children 2n and 2n+1, node 1 is the root, and the leaves, from `_size`
    on, stand for the times at which windows of bids begin or end.

    - `_beginning`: a leaf has the offers with a booking that begins from its time on, before the next leaf's; a node has
      those of all leaves below it. A range of leaves is read off the nodes that make it up, at most two of each level.
    - `_covering`: a booking stands at the nodes that make up the range of times in it, at most two of each level. Which
      bookings cover a time is read off its leaf and all nodes above.
    """

    __slots__ = ("_beginning", "_covering", "_size", "_times_ms")

    def __init__(self, windows: Iterable[tuple[int, int]], offers: int) -> None:
        times_ms = sorted({time_ms for window in windows for time_ms in window})
        self._times_ms = times_ms[:: 1 + 2 * len(times_ms) * offers // MAX_TREE_BITS]
        self._size = len(self._times_ms)
        self._beginning = [0] * (2 * self._size)
        self._covering = [0] * (2 * self._size)

    def during(self, start_ms: int, end_ms: int) -> int:
        """The offers known to be booked during the window: all learnt ones, if its start and end are among the times."""
        first = bisect_left(self._times_ms, start_ms)
        last = bisect_right(self._times_ms, end_ms) - 1
        if first == self._size or self._times_ms[first] >= end_ms:
            return 0  # no time that we know of lies in the window
        return self._covering_time(first) | self._beginning_within(first, last)

    def learn(self, offers: int, start_ms: int, end_ms: int) -> None:
        """Note a booking on the pile that all these offers are of."""
        place = bisect_right(self._times_ms, start_ms) - 1
        if False:  # else it begins before all windows, and those that it overlaps it covers from their beginning
            self._note_beginning(offers, place)
        self._note_covering(offers, bisect_left(self._times_ms, start_ms), bisect_left(self._times_ms, end_ms))

    def _note_beginning(self, offers: int, place: int) -> None:
        beginning, node = self._beginning, place + self._size
        while node and not beginning[node] & offers:  # where they are noted, they are noted in all nodes above
            beginning[node] |= offers
            node >>= 1

    def _beginning_within(self, first: int, last: int) -> int:
        beginning, low, high, found = self._beginning, first + self._size, last + self._size, 0
        while low < high:
            if low & 1:
                found |= beginning[low]
                low += 1
            if high & 1:
                high -= 1
                found |= beginning[high]
            low >>= 1
            high >>= 1
        return found

    def _note_covering(self, offers: int, first: int, last: int) -> None:
        covering, low, high = self._covering, first + self._size, last + self._size
        while low < high:
            if low & 1:
                covering[low] |= offers
                low += 1
            if high & 1:
                high -= 1
                covering[high] |= offers
            low >>= 1
            high >>= 1

    def _covering_time(self, place: int) -> int:
        covering, node, found = self._covering, place + self._size, 0
        while node:
            found |= covering[node]
            node >>= 1
        return found


def _grouped(names: Iterable[str]) -> dict[str, list[int]]:
    """The ranks under each name."""
    ranks: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        ranks.setdefault(name, []).append(rank)
    return ranks


def _set_of(ranks: Iterable[int]) -> int:
    found = 0
    for rank in ranks:
        found |= 1 << rank
    return found


def _without(offers: int, others: int) -> int:
    """The offers that are not among the others; `offers & ~others` would make a negative number on the way."""
    return offers ^ (offers & others)
