"""How well anonymous orders hide: notes by denomination, and what the ledger tells of the bins that have notes left.

A ring signature says that one of the 16 notes of a bin paid, and nothing on the ledger says which, nor which of the 16 paid
before: by the signature alone the last one hides among 16 as the first did. What is known besides can take notes away, and
two things of that are counted here. Notes are bought by name: who bought several of a bin is met more often, and there are
no more people in it than there are origins. And who learns, elsewhere, who the earlier ones were, is left with the unspent
ones. docs/anonymity.md says this in full, and what else is not hidden.

All of it stands in the state that the ledger keeps, of the bins that have notes left; the evidence knows who bought, and
how many bins were ever sealed. Without a ledger the rest is None.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from sqlalchemy import Connection, func, select

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.notes import bin_id
from pile_coordinator.chain.records import Denomination, NoteBin, NoteRules, Record
from pile_coordinator.chain.state import store_key
from pile_coordinator.chain.transactions import BuyNotes
from pile_coordinator.evidence import schema
from pile_coordinator.ring.signature import RING_SIZE
from pile_shared.codec import decode

BINS = 500  # of one denomination that are looked at, the newest: with 10 denominations half a second
_MAX_BIN_BYTES = 8192  # 16 notes of two keys and an id, and 16 images: 2.2 kB
_AT_ONCE = 500  # ids in one question
_LAST_BIN = (1 << 64) - 1

Row = dict[str, Any]


class Ledger(Protocol):
    """The state after the last block, as a ledger keeps it."""

    def snapshot(self) -> AbstractContextManager[None]:
        """While it lasts, everything read is of one block."""
        ...

    def height(self) -> int:
        """Of the last block."""
        ...

    def state_between(self, first: bytes, last: bytes, most: int) -> list[bytes]:
        """The state's values from one key to another, both included: the last `most` of them."""
        ...


def anonymity(db: Connection, genesis: Genesis | None = None, ledger: Ledger | None = None) -> Row:
    """How well anonymous orders hide.

    Args:
        db: the evidence.
        genesis: has the rules of notes; None if it is not known.
        ledger: has the notes; None if there is none.

    Returns:
        ledger_height (None without a ledger), ring (16), issues_notes (None where genesis is not known), unit_micro and
        bin_age_ms (None where there are no rules), and denominations: rows with denomination, value_micro, sealed (bins that
        ever were), issued, spent, outstanding (all notes), outstanding_micro, filling (notes in the bin that is not full),
        missing (to the next full one), live (sealed bins with notes left, BINS at most), aging (those of them that cannot be
        spent from yet), is_whole (whether none was left out), and, each as rows of size and bins, of the live ones: by_unspent
        (notes left), by_origins (different buyers and refunded orders that the 16 notes are of) and by_largest (notes of
        the one origin that has most). What needs a ledger is None without.
    """
    rules = genesis.notes if genesis else None
    top: Row = {
        "ledger_height": None,
        "ring": RING_SIZE,
        "issues_notes": None if genesis is None else rules is not None,
        "unit_micro": rules.unit_micro if rules else None,
        "bin_age_ms": rules.bin_age_ms if rules else None,
    }
    if rules is None or ledger is None:
        return top | {"denominations": _from_evidence(db, rules)}
    with ledger.snapshot():
        top["ledger_height"] = ledger.height()
        if not top["ledger_height"]:  # a ledger that nobody has written a block to holds no state yet
            return top | {"denominations": _from_evidence(db, rules)}
        kinds = [_one(ledger, Denomination, bytes((k,))) for k in range(rules.denominations)]
        bins = [_bins(ledger, kind) for kind in kinds]
    found = _Origins(db, [one for some in bins for one in some])
    now_ms = db.execute(select(func.max(schema.block.c.time_ms))).scalar() or 0
    rows = [_kind(rules, found, now_ms, kind, some) for kind, some in zip(kinds, bins, strict=True)]
    return top | {"denominations": rows}


_UNKNOWN: Row = dict.fromkeys(
    ("issued", "spent", "outstanding", "outstanding_micro", "filling", "missing", "live", "aging", "is_whole",
     "by_unspent", "by_origins", "by_largest")
)  # fmt: skip


def _from_evidence(db: Connection, rules: NoteRules | None) -> list[Row]:
    """What can be told without a ledger: bins are numbered from 0."""
    b = schema.note_bin.c
    query = select(b.denomination, func.max(b.number) + 1).group_by(b.denomination)
    sealed = {k: int(count) for k, count in db.execute(query)}
    known = range(rules.denominations) if rules else sorted(sealed)
    return [
        {"denomination": k, "value_micro": rules.unit_micro << k if rules else None, "sealed": sealed.get(k, 0)}
        | _UNKNOWN
        for k in known
    ]


# --- the state -----------------------------------------------------------------------------------------------------------


def _records(kind: type[Record], values: Iterable[bytes]) -> list[Any]:
    return [kind.decoded(cast("list[object]", decode(value, _MAX_BIN_BYTES))) for value in values]


def _one(ledger: Ledger, kind: type[Record], key: bytes) -> Any:
    name = store_key(kind, key)
    (found,) = _records(kind, ledger.state_between(name, name, 1))
    return found


def _bins(ledger: Ledger, kind: Denomination) -> list[NoteBin]:
    """The bins of a denomination that the state has, in order: with notes left, in use, and the one that is filling."""
    k = kind.id[0]
    first, last = (store_key(NoteBin, bin_id(k, number)) for number in (0, _LAST_BIN))
    return _records(NoteBin, ledger.state_between(first, last, BINS + 2))


def _kind(rules: NoteRules, origins: "_Origins", now_ms: int, kind: Denomination, bins: list[NoteBin]) -> Row:
    """The figures of one denomination."""
    filling = next((len(one.notes) for one in bins if not one.sealed_ms), 0)
    left = [one for one in bins if one.sealed_ms and len(one.images) < RING_SIZE]
    live = left[-BINS:]
    counted = [origins.of(one) for one in live]
    outstanding = kind.issued - kind.spent
    return {
        "denomination": kind.id[0],
        "value_micro": kind.value_micro,
        "sealed": kind.open_bin,
        "issued": kind.issued,
        "spent": kind.spent,
        "outstanding": outstanding,
        "outstanding_micro": outstanding * kind.value_micro,
        "filling": filling,
        "missing": RING_SIZE - filling,
        "live": len(live),
        "aging": sum(now_ms < one.sealed_ms + rules.bin_age_ms for one in live),
        "is_whole": len(bins) < BINS + 2 and len(live) == len(left),
        "by_unspent": _sizes(RING_SIZE - len(one.images) for one in live),
        "by_origins": _sizes(len(each) for each in counted),
        "by_largest": _sizes(max(each.values()) for each in counted),
    }


def _sizes(found: Iterable[int]) -> list[Row]:
    """How many bins there are of each size, the smallest first."""
    return [{"size": size, "bins": bins} for size, bins in sorted(Counter(found).items())]


class _Origins:
    """Whose the notes of bins were when they were issued: a buyer's, whom the ledger names, or an ended order's."""

    def __init__(self, db: Connection, bins: Iterable[NoteBin]) -> None:
        wanted = sorted({note[2] for one in bins for note in one.notes})
        tx = schema.tx.c
        self._buyers: dict[bytes, str] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            bought = select(tx.id, tx.sender).where(tx.id.in_(some), tx.type == BuyNotes.TYPE)
            self._buyers.update((name, sender) for name, sender in db.execute(bought))

    def of(self, one: NoteBin) -> Counter[str]:
        """How many of a bin's notes are of each."""
        return Counter(self._buyers.get(note[2], note[2].hex()) for note in one.notes)
