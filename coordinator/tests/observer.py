"""Somebody who reads the whole ledger and guesses who paid for each anonymous order.

The observer knows what every node knows: every note, and the transaction that issued it (a named party's purchase, or the
change of an anonymous order); every order, the bins its notes are of, and when. What it does not know is which of the sixteen
notes of a bin a ring signature spent. So each order has an unknown owner; each spend takes one note of its bin, no two the
same; the notes of one order, and the change it gives, have its owner.

It reasons by sum-product belief propagation over exactly that: bins are factors "spends to notes, one to one" (the messages of
a permanent: M. Huang and T. Jebara, "Approximating the Permanent with Belief Propagation", 2009), orders are variables. So it
uses elimination (fifteen of sixteen known), intersection (the notes of one order), closed sets (three spends that only three
owners can have made) and chains of change, and it says how sure it is of each candidate. What it believes beside the ledger
comes in through `View.prior`, `View.weight` and `View.same`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

Belief = dict[str, float]
SURE = 1e9  # what stands for infinity in a message
ROUNDS = 4
INNER = 12


@dataclass(frozen=True)
class Payment:
    """One order, or one redemption, that notes paid for: its bins, when, and what it says of itself."""

    order: str
    bins: tuple[bytes, ...]
    time_ms: int
    payee: str = ""  # of a redemption: the party that got the money
    habit: str = ""  # what orders of one driver may have in common: zone, hour of the week, energy


@dataclass
class View:
    """The ledger as far as it is about notes.

    Attributes:
        notes: by bin, who each of its notes is of: a named party, or the order whose change it is; and when it was issued.
        payments: in the ledger's order.
        weight: how well a note issued at one time goes with a spend at another, times in unix ms: for attacks by timing.
        prior: who the observer thinks it can be, before it looks at rings. same: payments it takes for one driver's.
    """

    notes: dict[bytes, list[tuple[str, int]]] = field(default_factory=dict)
    payments: list[Payment] = field(default_factory=list)
    weight: Callable[[int, int], float] | None = None
    prior: Callable[[Payment, str], float] | None = None
    same: Callable[[Payment], str] | None = None


class Observer:
    """Beliefs about the owner of every payment of a view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.who = {p.order: view.same(p) if view.same else p.order for p in view.payments}
        self.paid = {p.order: p for p in view.payments}
        self.spends: dict[bytes, list[tuple[str, int]]] = {}  # bin -> (order, which of its notes)
        for payment in view.payments:
            for at, name in enumerate(payment.bins):
                self.spends.setdefault(name, []).append((payment.order, at))
        self.heard: dict[str, dict[tuple[object, ...], Belief]] = {}  # group -> messages about its owner
        self._begin()

    def _begin(self) -> None:
        """Who can it be at all: the owners of the bins' notes, through any chain of change."""
        for payment in self.view.payments:
            heard = self.heard.setdefault(self.who[payment.order], {})
            for at, name in enumerate(payment.bins):
                message: Belief = {}
                for owner, _ in self.view.notes[name]:
                    for party, share in self._owner(owner).items():
                        message[party] = message.get(party, 0.0) + share
                heard[name, payment.order, at] = normal(message)
            if payment.payee:
                heard["payee", payment.order] = {payment.payee: 1.0}
            elif self.view.prior:
                heard["prior", payment.order] = {p: self.view.prior(payment, p) for p in product(list(heard.values()))}

    def _owner(self, owner: str, but: tuple[object, ...] | None = None) -> Belief:
        """Who has a note, with what the observer believes but for one message."""
        if owner not in self.who:
            return {owner: 1.0}
        return self.belief(self.who[owner], but)

    def belief(self, group: str, but: tuple[object, ...] | None = None) -> Belief:
        """Who it takes the owner of a group of payments to be."""
        heard = self.heard[group]
        others = [message for key, message in heard.items() if key != but]
        return product(others) if others else normal(dict.fromkeys(heard[but], 1.0) if but else {})

    def run(self, rounds: int = ROUNDS) -> dict[str, Belief]:
        """Think it through; the belief about each payment."""
        for _ in range(rounds):
            if self._round() < 1e-4:
                break
        return {p.order: self.belief(self.who[p.order]) for p in self.view.payments}

    def _round(self) -> float:
        """Once through every bin; how far a belief has moved."""
        moved = 0.0
        for name, spends in self.spends.items():
            notes = self.view.notes[name]
            rows = [self.belief(self.who[order], (name, order, at)) for order, at in spends]
            owners = [self._owner(owner, (name, "change", j)) for j, (owner, _) in enumerate(notes)]
            fits = [
                [self._fit(order, row, note, owner) for note, owner in zip(notes, owners, strict=True)]
                for (order, _), row in zip(spends, rows, strict=True)
            ]
            to_rows, to_notes, spare = match(fits, len(notes))
            for i, (order, at) in enumerate(spends):
                told: Belief = {}
                for j, owner in enumerate(owners):
                    own = self._is_own(order, notes[j][0])
                    timing = self._timing(order, notes[j])
                    for party, share in (rows[i] if own else owner).items():
                        told[party] = told.get(party, 0.0) + to_rows[i][j] * timing * (1.0 if own else share)
                moved = max(moved, self._tell(self.who[order], (name, order, at), told))
            for j, (owner, _) in enumerate(notes):
                if owner in self.who:
                    told = dict.fromkeys(owners[j], spare)
                    for i, (order, _) in enumerate(spends):
                        timing = self._timing(order, notes[j])
                        if self._is_own(order, owner):
                            for party in told:
                                told[party] += to_notes[i][j] * timing
                            continue
                        for party, share in rows[i].items():
                            if party in told:
                                told[party] += to_notes[i][j] * share * timing
                    moved = max(moved, self._tell(self.who[owner], (name, "change", j), told))
        return moved

    def _is_own(self, order: str, owner: str) -> bool:
        return owner in self.who and self.who[owner] == self.who[order]

    def _fit(self, order: str, row: Belief, note: tuple[str, int], owner: Belief) -> float:
        if self._is_own(order, note[0]):
            return self._timing(order, note)
        return self._timing(order, note) * sum(share * owner.get(party, 0.0) for party, share in row.items())

    def _timing(self, order: str, note: tuple[str, int]) -> float:
        return self.view.weight(note[1], self.paid[order].time_ms) if self.view.weight else 1.0

    def _tell(self, group: str, key: tuple[object, ...], told: Belief) -> float:
        """A message, half of the last one so that loops settle."""
        told = normal(told)
        old = self.heard[group].get(key)
        if old is not None:
            told = {p: max(0.5 * told.get(p, 0.0) + 0.5 * share, 1e-6) for p, share in old.items() if p in told}
        if not told:
            return 0.0
        self.heard[group][key] = told = normal(told)
        if old is None:
            return 1.0
        return max(abs(told.get(p, 0.0) - old.get(p, 0.0)) for p in told)


def match(fits: list[list[float]], notes: int) -> tuple[list[list[float]], list[list[float]], float]:
    """Sum-product over "each spend takes one note, no note twice".

    Returns:
        What each spend hears about each note, what each note hears of each spend, and the weight of being unspent.
    """
    fits = allowed(fits, notes)
    n = len(fits)
    left = notes - n  # notes that nobody spent: as many rows that fit every note
    down = [[1.0] * notes for _ in range(n)]
    up = [[0.0] * notes for _ in range(n)]
    down_left, up_left = [1.0] * notes, [0.0] * notes
    for _ in range(INNER):
        for i in range(n):
            whole = sum(f * w for f, w in zip(fits[i], down[i], strict=True))
            up[i] = [min(SURE, 1.0 / max(whole - fits[i][j] * down[i][j], 1.0 / SURE)) for j in range(notes)]
        if left:
            whole = sum(down_left)
            up_left = [min(SURE, 1.0 / max(whole - down_left[j], 1.0 / SURE)) for j in range(notes)]
        for j in range(notes):
            column = [up[i][j] * fits[i][j] for i in range(n)]
            whole = sum(column) + left * up_left[j]
            for i in range(n):
                rest = whole - column[i]
                if column[i] > 1e6 * (rest + 1e-300):  # what is left of a difference of big numbers is noise
                    rest = sum(column[:i]) + sum(column[i + 1 :]) + left * up_left[j]
                down[i][j] = min(SURE, 1.0 / max(rest, 1.0 / SURE)) if fits[i][j] else 0.0
            if left:
                down_left[j] = min(SURE, 1.0 / max(whole - up_left[j], 1.0 / SURE))
    return down, up, (left * sum(up_left) / notes if left else 0.0)


def allowed(fits: list[list[float]], notes: int) -> list[list[float]]:
    """Zero where no assignment of all the spends to notes has it (edges of no perfect matching: Dulmage and Mendelsohn)."""
    n = len(fits)
    can = [[j for j in range(notes) if fits[i][j] > 0] for i in range(n)] + [list(range(notes))] * (notes - n)
    taker = [-1] * notes
    for i in range(notes):
        if not _place(i, can, taker, [False] * notes):
            return fits  # contradictory beliefs, from rounding: say nothing
    at = {i: j for j, i in enumerate(taker)}
    reach = [{taker[j] for j in can[i]} for i in range(notes)]  # row i could push out the row that has note j
    for middle in range(notes):
        for row in reach:
            if middle in row:
                row.update(reach[middle])
    return [[f if f and (at[i] == j or i in reach[taker[j]]) else 0.0 for j, f in enumerate(fits[i])] for i in range(n)]


def _place(i: int, can: list[list[int]], taker: list[int], seen: list[bool]) -> bool:
    for j in can[i]:
        if not seen[j]:
            seen[j] = True
            if taker[j] < 0 or _place(taker[j], can, taker, seen):
                taker[j] = i
                return True
    return False


def normal(belief: Belief) -> Belief:
    """Shares of one."""
    whole = sum(belief.values())
    return {p: share / whole for p, share in belief.items() if share > 0} if whole > 0 else {}


def product(messages: list[Belief]) -> Belief:
    """What several independent messages say together; the shortest decides who is asked about."""
    if not messages:
        return {}
    first = min(messages, key=len)
    found = dict(first)
    for message in messages:
        if message is not first:
            found = {p: share * message[p] for p, share in found.items() if p in message}
            whole = sum(found.values())
            if whole > 0:
                found = {p: share / whole for p, share in found.items()}
    return normal(found)
