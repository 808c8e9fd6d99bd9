"""Transactions with ring signatures wait here until these are checked, while everything else goes on.

Whoever may send may send forged ones, each as costly as a good one, and nobody can tell whose they are. So few are held, those
of open orders apart from those that begin one, and of an open order one at a time: who sends many keeps out others who would
begin an order, for as long as he goes on, and delays nobody's proofs, money or charging.
"""

import time
from dataclasses import dataclass
from itertools import takewhile

from pile_coordinator.chain.env import RingClaim
from pile_coordinator.chain.transactions import Spend, Transaction
from pile_coordinator.engines.rings import MAX_WAIT_S, RingProcesses, claim_name

MAX_NEW = 256  # rings of transactions that spend notes: a second of one core, after which the last of them is answered
MAX_ACTS = 256  # transactions of open orders, of one ring each
HERE_AT_ONCE = 8  # rings that are checked by this process in one step if it must, 30 ms


@dataclass(slots=True)
class _Waiting:
    party: str
    payload: bytes
    tx: Transaction
    claims: list[RingClaim]
    unanswered: list[bytes]  # names of claims
    told: int = 0  # of the claims, from the first on
    told_s: float = 0.0


class RingQueue:
    """Who sent what, in the order in which it came. Used by the thread that serves, in its turn with the engine's."""

    def __init__(self, rings: RingProcesses) -> None:
        """Have `rings` check them, as it has room."""
        self._rings = rings
        self._waiting: dict[bytes, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, tx_id: bytes) -> bool:
        """Whether this very transaction waits here."""
        return tx_id in self._waiting

    def offer(self, party: str, payload: bytes, tx: Transaction, claims: list[RingClaim]) -> bool:
        """Take a transaction that came on a party's topic, if there is room."""
        if not self._has_room(tx):
            return False
        self._waiting[tx.id] = _Waiting(party, payload, tx, claims, [*map(claim_name, claims)])
        self._tell()
        return True

    def _has_room(self, tx: Transaction) -> bool:
        spends = isinstance(tx.body, Spend)
        alike = [one for one in self._waiting.values() if isinstance(one.tx.body, Spend) == spends]
        if spends:
            return sum(len(one.claims) for one in alike) + len(tx.rings) <= MAX_NEW
        return len(alike) < MAX_ACTS and all(one.tx.sender != tx.sender for one in alike)

    def _tell(self) -> None:
        room, now_s = self._rings.room, time.monotonic()
        for one in self._waiting.values():
            if room <= 0:
                return
            if one.told < len(one.claims):
                part = one.claims[one.told : one.told + room]
                self._rings.tell_ahead(part)
                one.told, one.told_s = one.told + len(part), now_s
                room -= len(part)

    def take(self) -> list[tuple[str, bytes]]:
        """(party, payload) of those whose rings are answered; if nobody answers, a few to be checked by who asks."""
        if not self._waiting:
            return []
        self._rings.gather()
        self._doubt()
        due = self._some() if self._rings.is_away else self._answered()
        for one in due:
            del self._waiting[one.tx.id]
        self._tell()
        return [(one.party, one.payload) for one in due]

    def _answered(self) -> list[_Waiting]:
        """They are told in order, so whoever follows one that was told nothing of has no answer either."""
        told = takewhile(lambda one: one.told, self._waiting.values())
        return [*filter(self._is_answered, told)]

    def _is_answered(self, one: _Waiting) -> bool:
        while one.unanswered and self._rings.has_answer(one.unanswered[-1]):
            one.unanswered.pop()
        return not one.unanswered

    def _doubt(self) -> None:
        """Who has had so long for an answer does not run any more."""
        now_s = time.monotonic()
        if any(one.told and now_s - one.told_s > MAX_WAIT_S for one in self._waiting.values()):
            self._rings.close()

    def _some(self) -> list[_Waiting]:
        """The first ones, at least one, with HERE_AT_ONCE rings at most if there are several."""
        some: list[_Waiting] = []
        rings = 0
        for one in self._waiting.values():
            rings += len(one.claims)
            if some and rings > HERE_AT_ONCE:
                break
            some.append(one)
        return some
