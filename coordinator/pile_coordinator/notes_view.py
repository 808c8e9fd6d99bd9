"""What everybody may know of notes: the rules, how much of each denomination there is, the bins, and the orders open on them.

A wallet reads all of it and picks out what is its own: asked for one bin, a coordinator would learn whose it is.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import islice

import sqlalchemy as sa

from pile_coordinator.chain.notes import bin_id
from pile_coordinator.chain.records import Denomination, Funding, NoteBin, NoteRules
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import MAX_DENOMINATIONS
from pile_coordinator.evidence import queries
from pile_coordinator.ring.signature import RING_SIZE
from pile_shared.units import check_int, check_text

MAX_BINS = 32  # in one answer: 2.1 kB each when every note is spent, and the senders of their 512 notes, some 110 kB
MAX_OPEN = 256  # orders in one answer: 160 bytes each, 40 kB
_NAME = 64


class NotesView:
    """All of it at a height: what is the same for every page is put together once, not 200 times for 100,000 notes."""

    def __init__(self) -> None:
        """Nothing is put together yet."""
        self._height = -1
        self._names: list[bytes] = []
        self._kinds: list[dict[str, object]] = []

    def page(
        self, state: State, height: int, db: sa.Connection, denomination: object, number: object
    ) -> dict[str, object]:
        """The bins from one on, MAX_BINS at most, in order; `next` is where to go on, or None.

        A bin is its id, sealed_ms (0 while it is being filled), and keys, bases, sources and images, each 32 bytes after
        the other. senders: who sent the transactions that its notes come from, by the transaction's id: a party that bought
        them, or the pseudonym of an order of which they are what was left.

        Raises:
            Rejection: `unknown_note`, this chain issues none.
        """
        k = check_int("denomination", denomination, 0, MAX_DENOMINATIONS)
        first = bin_id(k, check_int("number", number, 0, (1 << 63) - 1))
        rules = _rules(state)
        self._refresh(state, height)
        start = bisect_left(self._names, first)
        page = [state.get(NoteBin, name) for name in self._names[start : start + MAX_BINS]]
        rest = self._names[start + MAX_BINS :][:1]
        sources = {source for one in page for _, _, source in one.notes}
        return {
            "rules": {
                "unit_micro": rules.unit_micro,
                "denominations": rules.denominations,
                "bin_age_ms": rules.bin_age_ms,
            },
            "objection_bond_micro": state.params.objection_bond_micro,
            "kinds": self._kinds,
            "bins": [_bin_row(one) for one in page],
            "senders": [[source, sender] for source, sender in sorted(queries.senders(db, sources).items())],
            "next": [rest[0][0], int.from_bytes(rest[0][1:], "big")] if rest else None,
        }

    def _refresh(self, state: State, height: int) -> None:
        if height != self._height:
            bins = state.each(NoteBin)
            self._names, self._kinds, self._height = [one.id for one in bins], _kinds_of(state, bins), height


def open_answer(state: State, after: object) -> list[list[object]]:
    """Orders that notes pay for and that are open, after a pseudonym, MAX_OPEN at most: [pseudonym, bin, image, refund, order].

    By them a wallet that has nothing but its seed finds its orders, without asking for one.
    """
    _rules(state)
    name = check_text("after", after, _NAME)
    found = (one for one in state.each(Funding) if one.party > name)
    return [[one.party, one.bin, one.image, one.refund, one.source] for one in islice(found, MAX_OPEN)]


def _rules(state: State) -> NoteRules:
    rules = state.note_rules
    if rules is None:
        raise Rejection(
            "unknown_note", "this chain issues no notes: orders on it are paid by accounts, and not anonymous"
        )
    return rules


def _kinds_of(state: State, bins: Iterable[NoteBin]) -> list[dict[str, object]]:
    """Each denomination: what there is of it, and how many unspent notes its full bins have."""
    full: dict[bytes, list[NoteBin]] = {}
    for one in bins:
        if one.sealed_ms:
            full.setdefault(one.id[:1], []).append(one)
    return [
        {
            "value_micro": kind.value_micro,
            "issued": kind.issued,
            "spent": kind.spent,
            "full_bins": len(full.get(kind.id, [])),
            "in_full_bins": sum(RING_SIZE - len(one.images) for one in full.get(kind.id, [])),
            "open_bin": kind.open_bin,
            "in_open_bin": kind.issued - kind.open_bin * RING_SIZE,
        }
        for kind in state.each(Denomination)
    ]


def _bin_row(one: NoteBin) -> dict[str, object]:
    keys, bases, sources = (b"".join(column) for column in zip(*one.notes, strict=True))
    return {
        "id": one.id,
        "sealed_ms": one.sealed_ms,
        "keys": keys,
        "bases": bases,
        "sources": sources,
        "images": b"".join(one.images),
    }
