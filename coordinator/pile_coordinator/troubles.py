"""Which piles need somebody: whose proofs are refused and why, and what they say of themselves.

A proof that is refused is never receipted: its pile keeps it, sends it again ever more rarely, and everything behind it waits.
No rule makes that good, because a receipt for bytes that nobody can check would certify nonsense; people do, and this is where
they look (`pilechain wallet piles`, docs/operator.md). Kept in memory, one entry for each registered pile at most: after a
restart of the coordinator the piles' next attempts tell it again.
"""

from dataclasses import dataclass

from pile_coordinator.ingest import WAITING

MAX_SAID = 32  # characters of a pile's status code, as in the wire format


@dataclass(slots=True)
class Trouble:
    """What is wrong with one pile.

    Attributes:
        refused: why its last proof was not taken, a code of `ProofDesk.offer`; "" if it was.
        times: how many were refused since the last one that was taken. since_ms: when the first of them came, by our clock.
        says: the code of what the pile refuses or misses, from its status, which nobody has signed; "" for nothing.
    """

    refused: str = ""
    times: int = 0
    since_ms: int = 0
    says: str = ""


class Troubles:
    """The troubles of registered piles, by pile. The caller sees to it that only registered ones get here."""

    def __init__(self) -> None:
        self._by_pile: dict[str, Trouble] = {}

    def took(self, pile: str) -> None:
        """One of its proofs was taken: whatever was refused before is good now."""
        trouble = self._by_pile.get(pile)
        if trouble is not None:
            trouble.refused, trouble.times = "", 0
            self._drop_if_well(pile, trouble)

    def refused(self, pile: str, reason: str, now_ms: int) -> int:
        """One of its proofs was not taken; how many that are now. What waits behind a refused one does not hide its reason."""
        trouble = self._by_pile.setdefault(pile, Trouble())
        if reason != WAITING or not trouble.refused:
            trouble.refused = reason
        if trouble.times == 0:
            trouble.since_ms = now_ms
        trouble.times += 1
        return trouble.times

    def says(self, pile: str, code: object) -> bool:
        """What its status says it refuses or misses; whether that is news. What is no such code counts as none."""
        said = code if isinstance(code, str) and len(code) <= MAX_SAID and code.isprintable() and code.isascii() else ""
        trouble = self._by_pile.get(pile)
        if said == ("" if trouble is None else trouble.says):
            return False
        trouble = self._by_pile.setdefault(pile, Trouble())
        trouble.says = said
        self._drop_if_well(pile, trouble)
        return True

    def said(self, pile: str) -> str:
        """The code that `says` took last; "" for none."""
        trouble = self._by_pile.get(pile)
        return "" if trouble is None else trouble.says

    def of(self, pile: str) -> Trouble | None:
        """What is wrong with a pile, or None."""
        return self._by_pile.get(pile)

    def _drop_if_well(self, pile: str, trouble: Trouble) -> None:
        if not trouble.refused and not trouble.says:
            del self._by_pile[pile]
