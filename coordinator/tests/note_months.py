"""Months of drivers who buy notes and charge, on the real chain: what its ledger says, and, kept apart, who it really was.

Every transaction goes through `apply_block`, with the real ring signatures, made and verified; every order goes from the bid to
both confirmations and its change. Drivers differ in when they buy, and in which notes they pay with: that is what is measured.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from note_world import NOTES, Note, NoteMarket
from observer import Payment, View
from world import HOUR, NOW, Market, key

from pile_coordinator.chain.notes import LEAF_BIN, context, ring_of
from pile_coordinator.chain.records import Contract, NoteBin
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    BuyNotes,
    Confirm,
    RedeemNotes,
    decode_transaction,
    pseudonym,
)
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.ring.keys import base_public, base_secret, note_public, note_secret
from pile_coordinator.ring.signature import RING_SIZE, sign
from pile_shared.codec import decode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, REASON_ENERGY_REACHED
from pile_shared.proof import END as END_EVENT

DAY = 24 * HOUR
LIMIT = 900_000  # micro per kWh
MOST_CHANGE = 12  # notes of one order's change: less than two of each denomination, but for the largest


@dataclass(frozen=True)
class Habits:
    """What all drivers do.

    Attributes:
        drivers: how many. weeks: how long.
        packet: how many notes of each denomination a purchase is of. every_weeks: how often all of them buy one.
        pay: chooses notes from the ripe ones, for at least so much; None if it cannot be paid.
        energies_wh: what an order can be of.
        redeem: whether what lies about is turned into money at the end of each fourth week: the notes that are change.
        impulsive: whoever pays buys a packet again in the same hour.
    """

    drivers: int
    weeks: int
    packet: tuple[int, ...]
    pay: Callable[[list[Note], int, random.Random], list[Note] | None]
    every_weeks: int = 1
    energies_wh: tuple[int, ...] = (6000, 7000, 8000, 10_000, 12_000)
    redeem: bool = False
    impulsive: bool = False


def one_note(ripe: list[Note], least_micro: int, chance: random.Random) -> list[Note] | None:
    """One note, the smallest that is enough, any of these."""
    enough = [note for note in ripe if note.value_micro >= least_micro]
    smallest = min((note.value_micro for note in enough), default=0)
    return [chance.choice([note for note in enough if note.value_micro == smallest])] if enough else None


def one_big_note(ripe: list[Note], least_micro: int, chance: random.Random) -> list[Note] | None:
    """One note of 12.80; what comes back is left alone."""
    return one_note([note for note in ripe if note.value_micro == 12_800_000], least_micro, chance)


def of(count: int) -> Callable[[list[Note], int, random.Random], list[Note] | None]:
    """Payment with that many notes of different bins, the largest first, worth enough."""

    def choose(ripe: list[Note], least_micro: int, chance: random.Random) -> list[Note] | None:
        chosen: list[Note] = []
        chance.shuffle(ripe)
        for note in sorted(ripe, key=lambda n: -n.value_micro):
            if len(chosen) < count and all(note.bin != other.bin for other in chosen):
                chosen.append(note)
        is_enough = len(chosen) == count and sum(note.value_micro for note in chosen) >= least_micro
        return chosen if is_enough else None

    return choose


@dataclass
class Months(Market):
    """Runs the habits when it is made; `view` is what an observer has, `truth` what it wants to know."""

    habits: Habits
    seed: int = 1
    told: Callable[[int], None] = lambda _: None
    view: View = field(default_factory=View)
    truth: dict[str, str] = field(default_factory=dict)
    unpaid: int = 0

    def __post_init__(self) -> None:
        habits = self.habits
        Market.__init__(self, piles=8, users=habits.drivers, notes=NOTES, owner_micro=10**9, user_micro=10**10,
                        evidence_window_ms=4 * HOUR)  # fmt: skip
        self.chance = random.Random(self.seed)
        self.drivers = [f"user-{i}" for i in range(1, habits.drivers + 1)]
        self.weekday = {driver: i // 8 % 7 for i, driver in enumerate(self.drivers)}
        self.home = {driver: f"pile-{1 + i % 8}" for i, driver in enumerate(self.drivers)}
        self.bases: dict[bytes, tuple[str, bytes]] = {}
        self.made = 0
        self.blocks: list[tuple[int, list[bytes], list[bytes]]] = []  # the ledger: time, transactions, leaves
        self.purse: dict[str, list[Note]] = {driver: [] for driver in self.drivers}
        self.known: set[bytes] = set()  # bins whose notes are in purses
        self.leads: dict[str, Note] = {}
        self.registers: Counter[str] = Counter()  # Wh, by pile
        for week in range(habits.weeks):
            self._week(week)
            self.told(week + 1)
        self.view = read_ledger(self.blocks)

    # What a driver does ------------------------------------------------------------------------------------------

    def _week(self, week: int) -> None:
        begin = NOW + (1 + 7 * week) * DAY
        if week % self.habits.every_weeks == 0:
            for driver in self.chance.sample(self.drivers, len(self.drivers)):
                self._buy(driver)
            self.advance(begin)
        for day in range(7):
            self._day(begin + day * DAY + 2 * HOUR, [d for d in self.drivers if self.weekday[d] == day])
        if self.habits.redeem and week % 4 == 3:
            self._redeem_change(begin + 7 * DAY - HOUR)

    def _buy(self, driver: str) -> None:
        self.send(driver, BuyNotes(self._base(driver), list(self.habits.packet)))

    def _base(self, owner: str) -> bytes:
        self.made += 1
        secret = base_secret(sha256(owner.encode()), self.chain_id, self.made)
        public = base_public(secret)
        self.bases[public] = owner, secret
        return public

    def _day(self, at: int, drivers: list[str]) -> None:
        """Everybody who charges today, each at home; neighbours after each other."""
        self._open_purses()
        waiting = self.chance.sample(drivers, len(drivers))
        while waiting:
            first = {self.home[driver]: driver for driver in reversed(waiting)}
            self._sessions(at, list(first.values()))
            waiting = [driver for driver in waiting if driver not in first.values()]
            at += 5 * HOUR

    def _sessions(self, at: int, drivers: list[str]) -> None:
        self.time_ms = at
        bids = {}
        for driver in drivers:
            energy = self.chance.choice(self.habits.energies_wh)
            ripe = [n for n in self.purse[driver] if self._is_ripe(n, at)]
            notes = self.habits.pay(ripe, energy * LIMIT // 1000 + 600_000, self.chance)
            if notes is None:
                self.unpaid += 1
                continue
            pile = self.home[driver]
            self.offer(pile, energy=energy, start=at, end=at + 4 * HOUR)
            who, tx = self._bid(driver, notes, pile, energy, at)
            bids[who] = tx
            if self.habits.impulsive:
                self._buy(driver)
        if not bids:
            return
        self.advance(at + 1000, *bids.values())
        contracts = {self.state.terms_of(c).user: c for c in self.state.each(Contract)}
        for event, time_ms in ((BEGIN, at + HOUR + 2000), (END_EVENT, at + 4 * HOUR - 500)):
            self.send("operator", self.batch(*(self._proof(c, event, time_ms - 500) for c in contracts.values())))
            self.advance(time_ms)
        confirmations = []
        for who, contract in contracts.items():
            digest = decode_statement(self.state.get(Contract, contract.id).statement).digest()
            self.send(self.state.terms_of(contract).owner, Confirm(contract.id, digest))
            confirmations.append(self._signed(who, [self.leads[who]], Confirm(contract.id, digest), 2))
        self.advance(at + 4 * HOUR + 2000, *confirmations)
        assert not list(self.state.each(Contract)), "an order has not ended"

    def _proof(self, contract: Contract, event: int, time_ms: int) -> bytes:
        terms = self.state.terms_of(contract)
        if event == END_EVENT:
            self.registers[terms.pile] += terms.energy_wh * self.chance.randrange(70, 101) // 100
        reason = REASON_ENERGY_REACHED if event == END_EVENT else 0
        return self.prove(
            terms.pile, event, [(time_ms, self.registers[terms.pile])], contract=contract.id, reason=reason
        )

    def _bid(self, driver: str, notes: list[Note], pile: str, energy: int, at: int) -> tuple[str, bytes]:
        public = key(f"order {len(self.truth)}").public
        rows = [[note.bin, note.image(self.chain_id)] for note in notes]
        body = AnonymousBid(
            rows, public, self._base(driver), "north", pile, energy, at + HOUR, at + 4 * HOUR, LIMIT, False,
            at + 4 * HOUR,
        )  # fmt: skip
        who = pseudonym(public)
        self.truth[who], self.leads[who] = driver, notes[0]
        for note in notes:
            self.purse[driver].remove(note)
        return who, self._signed(who, notes, body, 1)

    def _redeem_change(self, at: int) -> None:
        """Everybody's change becomes money again, as many notes at a time as there may be."""
        self._open_purses()
        self.time_ms = at
        sent = []
        for driver in self.drivers:
            change = [n for n in self.purse[driver] if n.value_micro < 12_800_000 and self._is_ripe(n, at)][:12]
            if change:
                public = key(f"order {len(self.truth)}").public
                rows = [[note.bin, note.image(self.chain_id)] for note in change]
                who = pseudonym(public)
                self.truth[who] = driver
                sent.append(self._signed(who, change, RedeemNotes(rows, public, driver), 1))
                self.purse[driver] = [note for note in self.purse[driver] if note not in change]
        self.advance(at + 1000, *sent)

    def _signed(self, who: str, notes: list[Note], body: object, sequence: int) -> bytes:
        return NoteMarket.nobody(self, body, notes, who, sequence)  # type: ignore[arg-type]

    def rings(self, message: bytes, spent: list[Note]) -> list[bytes]:
        """Ring signatures whose random bytes are none, so that the same seed gives the same blocks."""
        made = []
        for note in spent:
            ring, name = ring_of(self.state.get(NoteBin, note.bin)), context(self.chain_id, note.bin)
            made.append(sign(note.secret, ring, note.place, name, message, sha256(message)))
        return made

    # What they have ------------------------------------------------------------------------------------------------

    def _is_ripe(self, note: Note, at: int) -> bool:
        found = self.state.find(NoteBin, note.bin)
        return found is not None and at >= found.sealed_ms + NOTES["bin_age_ms"]

    def _open_purses(self) -> None:
        """Everybody finds the notes in the bins that were sealed since, as a wallet does."""
        for found in self.state.each(NoteBin):
            if found.sealed_ms and found.id not in self.known:
                self.known.add(found.id)
                for place, (public, base, source) in enumerate(found.notes):
                    owner, secret = self.bases[base]
                    mine = next(
                        s for s in (note_secret(secret, source, n) for n in range(64)) if base_public(s) == public
                    )
                    self.purse[owner].append(Note(owner, mine, found.id, place, NOTES["unit_micro"] << found.id[0]))

    # Blocks --------------------------------------------------------------------------------------------------------

    def advance(self, time_ms: int, *extra: bytes) -> None:
        """A block with all that is queued. Everything in it is accepted."""
        self.time_ms = time_ms
        sent = self.queue + list(extra)
        outcome = apply_block(self.state, self.env(), sent)
        assert {result.code for result in outcome.results} <= {"ok"}, outcome.results
        self.blocks.append((time_ms, sent, list(outcome.leaves)))
        self.queue.clear()
        self.state.seal()
        self.height += 1

    def drivers_of_orders(self) -> dict[str, str]:
        """Who really paid for each order that was a session."""
        return {p.order: self.truth[p.order] for p in self.view.payments if not p.payee}

    def held(self) -> Counter[int]:
        """How many notes owners had in a bin, counted over owners and bins: what an observer cannot see."""
        paid = self.truth
        found: Counter[int] = Counter()
        for notes in self.view.notes.values():
            found.update(Counter(paid.get(owner, owner) for owner, _ in notes).values())
        return found


def read_ledger(blocks: list[tuple[int, list[bytes], list[bytes]]]) -> View:
    """What blocks say about notes to somebody who has nothing but them."""
    issued: dict[bytes, tuple[str, int]] = {}  # note key -> who it is of, and when it was issued
    view = View()
    for time_ms, transactions, leaves in blocks:
        for data in transactions:
            tx = decode_transaction(data)
            body = tx.body
            if isinstance(body, BuyNotes):
                for place in range(sum(body.counts)):
                    issued[note_public(body.base, tx.id, place)] = tx.sender, time_ms
            elif isinstance(body, AnonymousBid | RedeemNotes):
                payee = body.party if isinstance(body, RedeemNotes) else ""
                bins = tuple(name for name, _ in body.notes)
                habit = "" if payee else f"{body.pile} on {(time_ms - NOW) // DAY % 7}"
                view.payments.append(Payment(tx.sender, bins, time_ms, payee, habit))
                for place in range(0 if payee else MOST_CHANGE):
                    issued[note_public(body.refund, tx.id, place)] = tx.sender, time_ms
        for leaf in leaves:
            row = decode(leaf, 1 << 16)
            if row[0] == LEAF_BIN:
                keys = [row[2][at * 32 : at * 32 + 32] for at in range(RING_SIZE)]
                view.notes[row[1]] = [issued[public] for public in keys]
    return view
