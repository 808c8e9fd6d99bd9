"""Which notes pay for an order, what that choice gives away, and which notes to buy. Pure.

A ring signature says "one of these sixteen notes". How many owners that leaves depends on the ledger: it names who bought a
note, and which notes came of one transaction. So what is counted here is owners and not notes, and for an order that several
notes pay for, only the owners who can have a note in each of their bins.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pile_coordinator.amounts import short_money
from pile_coordinator.chain.notes import value_micro
from pile_coordinator.chain.transactions import MAX_BOUGHT_NOTES, MAX_SPENT_NOTES, PSEUDONYM
from pile_coordinator.purse import Bin, Market, Note, PurseError
from pile_coordinator.ring.signature import RING_SIZE

FEW_OWNERS = 8  # fewer than half a ring: one guess in eight is right
MOSTLY_SPENT = 12  # of 16: those left are spent last, which tells when


@dataclass(frozen=True, slots=True)
class Weakness:
    """What a choice gives away. `code` is stable; `text` is one plain sentence."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Notes for one order, the one that leads first, and how many owners the ledger leaves possible for them together."""

    notes: tuple[Note, ...]
    owners: int
    weaknesses: tuple[Weakness, ...]

    @property
    def worth_micro(self) -> int:
        """Of all of them."""
        return sum(note.value_micro for note in self.notes)


def is_ready(market: Market, note: Note) -> bool:
    """Whether a note's bin is full and aged."""
    return bool(note.sealed_ms) and note.sealed_ms + market.rules.bin_age_ms <= market.time_ms


def spendable(market: Market, own: list[Note], reserved: set[bytes]) -> list[Note]:
    """One's own notes that can be spent now."""
    return [n for n in own if not n.spent and n.image not in reserved and is_ready(market, n)]


# --- how many it could have been ----------------------------------------------------------------------------------------


def owners_left(market: Market, bins: list[Bin]) -> int:
    """How many owners can have a note in each of these bins, as far as the ledger tells; 16 at most.

    A bought note is its buyer's. A note that came of what was left of an anonymous order may be anybody's, so a bin with some
    of those excludes nobody; for each such order there is one owner whom we cannot name.
    """
    named = [_buyers(market, one) for one in bins]
    nameless = [len({s for s in one.sources if _is_nameless(market, s)}) for one in bins]
    everybody = set().union(*named)
    possible = [who for who in everybody if all(who in n or m for n, m in zip(named, nameless, strict=True))]
    return min(RING_SIZE, len(possible) + min(nameless))


def _buyers(market: Market, one: Bin) -> set[str]:
    return {market.senders.get(s, s.hex()) for s in one.sources if not _is_nameless(market, s)}


def _is_nameless(market: Market, source: bytes) -> bool:
    return market.senders.get(source, "").startswith(PSEUDONYM)


# --- the choice ---------------------------------------------------------------------------------------------------------


def choose(
    market: Market,
    own: list[Note],
    reserved: set[bytes],
    need_micro: int,
    bought_ms: Callable[[Note], int],
) -> Choice | None:
    """The notes that cover an amount and give away least; None if what can be spent now does not cover it.

    First of bins with one note of one's own and enough owners, one of each; then of any bin, one of each; then of all. Of
    these the fewest notes, best one, since notes of several bins are together those of few owners; of those the least change.
    """
    ready = spendable(market, own, reserved)
    held = Counter(note.bin for note in own)
    strong = [n for n in ready if held[n.bin] == 1 and not _is_thin(market, n)]
    for candidates in (strong, _one_per_bin(ready), ready):
        chosen = _fewest(market, candidates, need_micro)
        if chosen:
            return judge(market, own, chosen, bought_ms)
    return None


def _is_thin(market: Market, note: Note) -> bool:
    one = market.bins[note.bin]
    return owners_left(market, [one]) < FEW_OWNERS or len(one.images) >= MOSTLY_SPENT


def _one_per_bin(notes: list[Note]) -> list[Note]:
    return list({note.bin: note for note in notes}.values())


def _fewest(market: Market, candidates: list[Note], need_micro: int) -> list[Note]:
    """As few as there can be, at most MAX_SPENT_NOTES, that together are worth so much; of those the least. Empty if none."""
    unit = market.rules.unit_micro
    need = -(-need_micro // unit)
    by_kind: dict[int, list[Note]] = {}
    for note in sorted(candidates, key=lambda n: (-owners_left(market, [market.bins[n.bin]]), n.sealed_ms, n.image)):
        by_kind.setdefault(note.value_micro, []).append(note)
    sums: dict[int, tuple[Note, ...]] = {0: ()}
    for value in sorted(by_kind, reverse=True):
        for note in by_kind[value][:MAX_SPENT_NOTES]:
            for total, notes in list(sums.items()):
                more = total + value // unit
                if total < need and len(notes) < MAX_SPENT_NOTES and len(notes) + 1 < len(sums.get(more, (0,) * 99)):
                    sums[more] = (*notes, note)
    enough = [(len(notes), total) for total, notes in sums.items() if total >= need]
    return list(sums[min(enough)[1]]) if enough else []


def judge(market: Market, own: list[Note], chosen: list[Note], bought_ms: Callable[[Note], int]) -> Choice:
    """What these notes give away when they are spent together now. The one with the most owners leads."""
    notes = sorted(chosen, key=lambda n: (-owners_left(market, [market.bins[n.bin]]), -n.value_micro, n.image))
    bins = [market.bins[note.bin] for note in notes]
    owners = owners_left(market, bins)
    return Choice(tuple(notes), owners, tuple(_weaknesses(market, own, notes, owners, bought_ms)))


def _weaknesses(
    market: Market, own: list[Note], notes: list[Note], owners: int, bought_ms: Callable[[Note], int]
) -> list[Weakness]:
    found = [*_of_bins(market, own, notes), *_of_time(market, notes, bought_ms)]
    if owners < FEW_OWNERS:
        together = "has a note in each of these bins" if len(notes) > 1 else "owns notes in this bin"
        found.append(
            Weakness(
                "few-owners",
                f"As the ledger tells it, no more than {owners} in all {together}: you are one of {owners}.",
            )
        )
    if len(notes) > 1:
        found.append(
            Weakness(
                "several-notes",
                f"{len(notes)} notes pay together: who lacks one in any of their bins is ruled out. One note hides better.",
            )
        )
    for source in {note.source for note in notes}:
        bought = [n for n in own if n.source == source]
        if len(bought) > 1 and all(n in notes for n in bought):
            found.append(
                Weakness(
                    "telling-amount",
                    f"This spends just the {len(bought)} notes that one transaction issued: the amounts fit together.",
                )
            )
    return found


def _of_bins(market: Market, own: list[Note], notes: list[Note]) -> list[Weakness]:
    found = []
    held, used = Counter(note.bin for note in own), Counter(note.bin for note in notes)
    for name, count in used.items():
        one = market.bins[name]
        what = f"bin {one.name} ({short_money(value_micro(market.rules, name[0]))})"
        if held[name] > 1:
            text = (
                f"You own {held[name]} of the 16 notes of {what}: a guess that it was you is right so much more often."
            )
            found.append(Weakness("several-in-bin", text))
        if count > 1:
            text = f"{count} notes of {what} are spent together: their owner has several there, and few owners do."
            found.append(Weakness("same-bin", text))
        if len(one.images) >= MOSTLY_SPENT:
            text = f"{len(one.images)} of the 16 notes of {what} are spent: whoever is known to have spent one is ruled out."
            found.append(Weakness("mostly-spent", text))
    return found


def _of_time(market: Market, notes: list[Note], bought_ms: Callable[[Note], int]) -> list[Weakness]:
    soon_ms = _soon_ms(market)
    found = []
    if any(_is_nameless(market, n.source) and n.sealed_ms > soon_ms for n in notes):
        text = "A note that is left over from an earlier order is spent soon after it: the two orders look like one person's."
        found.append(Weakness("fresh-refund", text))
    if any(not _is_nameless(market, n.source) and bought_ms(n) > soon_ms for n in notes):
        text = "Notes are spent soon after they were bought: the time points at who bought last."
        found.append(Weakness("fresh-purchase", text))
    return found


# --- redeeming ------------------------------------------------------------------------------------------------------


def is_change(market: Market, note: Note) -> bool:
    """Whether a note was left over from an anonymous order."""
    return _is_nameless(market, note.source)


def redeeming_tells(market: Market, notes: list[Note]) -> list[Weakness]:
    """What it gives away to turn notes into money of one's own name."""
    orders = {note.source for note in notes if is_change(market, note)}
    if not orders:
        return []
    text = (
        f"Notes left over from {len(orders)} anonymous orders would become money under your name: whoever reads the ledger can"
        " then tell which orders they were."
    )
    return [Weakness("change-redeemed", text)]


# --- buying -------------------------------------------------------------------------------------------------------------


def denominations_for(market: Market, own: list[Note], amount_micro: int) -> tuple[list[int], list[Weakness]]:
    """How many notes of each denomination to buy for an amount, and where two of one owner would meet in one bin.

    One of each denomination that the amount has in binary: no other way needs fewer, and none that exists puts fewer of them
    into one bin. What exceeds the largest denomination is bought in several of those.

    Raises:
        PurseError: `amount`, it is no multiple of the least denomination, or more than MAX_BOUGHT_NOTES notes.
    """
    rules = market.rules
    units, rest = divmod(amount_micro, rules.unit_micro)
    if rest or not units:
        least, below = short_money(rules.unit_micro), short_money(units * rules.unit_micro)
        raise PurseError(f"notes come in multiples of {least}; the next below is {below}", "amount")
    top = rules.denominations - 1
    counts = [units >> k & 1 for k in range(top)] + [units >> top]
    while counts and not counts[-1]:
        counts.pop()
    if sum(counts) > MAX_BOUGHT_NOTES:
        most = short_money((MAX_BOUGHT_NOTES - top) * value_micro(rules, top))
        raise PurseError(
            f"that is {sum(counts)} notes, {MAX_BOUGHT_NOTES} can be bought at once: up to {most}", "amount"
        )
    return counts, meetings(market, own, counts)


def bought_after_order(market: Market, ordered_ms: int) -> list[Weakness]:
    """What it gives away to buy soon after an anonymous order; `ordered_ms` is when the last one was placed, 0 for never."""
    if not ordered_ms or ordered_ms <= _soon_ms(market):
        return []
    return [
        Weakness("bought-after-order", "Bought soon after an anonymous order: who has just run out of notes, buys.")
    ]


def _soon_ms(market: Market) -> int:
    return market.time_ms - 2 * market.rules.bin_age_ms


def meetings(market: Market, own: list[Note], counts: list[int]) -> list[Weakness]:
    """Where notes bought now would share a bin with others of the same owner."""
    found = []
    held = Counter(note.bin for note in own if not note.sealed_ms)
    for k, count in enumerate(counts):
        kind = market.kinds[k]
        room = RING_SIZE - kind["in_open_bin"]
        mine = sum(n for name, n in held.items() if name[0] == k)
        together = max(min(count, room) + mine, min(max(0, count - room), RING_SIZE))
        if count and together > 1:
            what = short_money(value_micro(market.rules, k))
            text = f"{together} of your notes of {what} would be in one bin of 16: buy the rest once that bin is full."
            found.append(Weakness("several-in-bin", text))
    return found
