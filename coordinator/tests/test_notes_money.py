"""Notes conserve money: random runs of a whole market, held against two ledgers that know nothing of the chain's state.

`Purses` is who owns which unspent note, from what was asked for and what the settlements say. `Books` is every account, from
the leaves of each block alone: what an evidence database sees.
"""

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st
from note_world import NOTES, Note, NoteMarket, note_market
from world import HOUR, bounded, leaf_of

from pile_coordinator.chain import accounts
from pile_coordinator.chain.records import ANONYMOUS, MEASURED, SIGNED, Account, Contract, Funding, NoteBin, Party, Pile
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.settlement import Statement, contract_escrow_micro, decode_statement
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    GROUND_CAUSE,
    GROUND_ENERGY,
    BuyNotes,
    CancelBid,
    CancelContract,
    Confirm,
    Object,
    Rule,
    Sign,
)
from pile_coordinator.chain.transition import Outcome
from pile_shared.platform import sha256
from pile_shared.terms import (
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_DISPUTE,
    LEAF_PROPOSED,
    LEAF_SETTLEMENT,
    Terms,
    decode_terms,
)

LEAF_POSTING = 13
UNIT = NOTES["unit_micro"]
WORTH = [UNIT << k for k in range(NOTES["denominations"])]
USERS = [f"user-{i}" for i in range(1, 17)]
PILES = 3


def fewest(amount_micro: int) -> tuple[list[int], int]:
    """An amount in notes, as one counts out change; and what is left over."""
    change = []
    for worth in reversed(WORTH):
        while amount_micro >= worth:
            amount_micro -= worth
            change.append(worth)
    return change, amount_micro


class Contracts:
    """The contracts of a run, from its leaves: their terms, and the statement that stands."""

    def __init__(self) -> None:
        self.terms: dict[bytes, Terms] = {}
        self.statements: dict[bytes, Statement] = {}


class Purses:
    """Who owns which notes; and what lies in each anonymous order: its notes, less escrow and bonds, more what it got back."""

    def __init__(self, owned: dict[str, list[int]]) -> None:
        self.owned = {owner: Counter(worth) for owner, worth in owned.items()}
        self.pots: dict[str, int] = {}
        self.refund_to: dict[str, str] = {}
        self.bids: dict[bytes, str] = {}
        self.dust = 0

    def spend(self, spent: list[Note]) -> int:
        for note in spent:
            self.owned[note.owner][note.value_micro] -= 1
            assert self.owned[note.owner][note.value_micro] >= 0, "somebody spent what they had not"
        return sum(note.value_micro for note in spent)

    def fund(self, who: str, bid: bytes, spent: list[Note], refund_to: str) -> None:
        assert who not in self.pots
        self.pots[who], self.refund_to[who], self.bids[bid] = self.spend(spent), refund_to, who

    def end(self, who: str) -> None:
        change, dust = fewest(self.pots.pop(who))
        self.owned[self.refund_to[who]].update(change)
        self.dust += dust

    def hear(self, leaf: list, contracts: Contracts) -> None:
        if leaf[0] in {LEAF_CONTRACT, LEAF_PROPOSED} and sha256(leaf[1]) not in contracts.terms:
            terms = decode_terms(leaf[1])
            if terms.user in self.pots:
                self.pots[terms.user] -= contract_escrow_micro(terms)
        elif leaf[0] == LEAF_DISPUTE and leaf[2] == "U" and contracts.terms[leaf[1]].user in self.pots:
            self.pots[contracts.terms[leaf[1]].user] -= leaf[5]
        elif leaf[0] == LEAF_CLOSED and leaf[1] in contracts.terms:
            user, postings = contracts.terms[leaf[1]].user, contracts.statements[leaf[1]].postings
            if user in self.pots:
                self.pots[user] += sum(p.amount_micro * ((p.credit == "U") - (p.debit == "U")) for p in postings)
                self.end(user)
        elif leaf[0] == LEAF_CLOSED and leaf[1] in self.bids and self.bids[leaf[1]] in self.pots:
            self.end(self.bids[leaf[1]])


class Books:
    """All accounts, by the leaves of blocks alone. What a bid holds counts as its user's still."""

    def __init__(self, opening: dict[str, int]) -> None:
        self.balance = Counter(opening)

    def move(self, debit: str, credit: str, amount_micro: int) -> None:
        self.balance[debit] -= amount_micro
        self.balance[credit] += amount_micro

    def hear(self, leaf: list, contracts: Contracts) -> None:
        if leaf[0] == LEAF_POSTING:
            self.move(*leaf[1:])
        elif leaf[0] in {LEAF_CONTRACT, LEAF_PROPOSED} and sha256(leaf[1]) not in contracts.terms:
            terms, name = decode_terms(leaf[1]), sha256(leaf[1]).hex()
            self.move(f"P:{terms.user}", f"E:{name}", contract_escrow_micro(terms))
            self.move(f"P:{terms.owner}", f"B:{name}", terms.bond_micro)
        elif leaf[0] == LEAF_DISPUTE:
            terms = contracts.terms[leaf[1]]
            party = terms.user if leaf[2] == "U" else terms.owner
            self.move(f"P:{party}", f"D:{leaf[1].hex()}", leaf[5])
        elif leaf[0] == LEAF_CLOSED and leaf[1] in contracts.terms:
            terms, name = contracts.terms[leaf[1]], leaf[1].hex()
            sides = {"U": f"P:{terms.user}", "H": f"P:{terms.owner}", "G": "P:grid", "F": "F"}
            sides |= {"E": f"E:{name}", "B": f"B:{name}", "D": f"D:{name}"}
            for posting in contracts.statements[leaf[1]].postings:
                self.move(sides[posting.debit], sides[posting.credit], posting.amount_micro)


def opening(world: NoteMarket) -> dict[str, int]:
    """The balances of the chain, with what bids hold where it came from; without those that are empty."""
    held = {
        accounts.escrow_account(bid.id): bid.user
        for user in world.state.each(Party)
        for bid in world.state.bids_of(user.id)
    }
    found: Counter[str] = Counter()
    for account in world.state.each(Account):
        name = f"P:{held[account.name]}" if account.name in held else account.name
        found[name] += account.balance_micro
    return {name: balance for name, balance in found.items() if balance}


class Run:
    """A market, what waits for the next block, and the two ledgers. Actions take a number that chooses among what there is."""

    def __init__(self) -> None:
        self.world = note_market(PILES, rulings_needed=1, objection_bond_micro=700_000)
        for i in range(1, PILES + 1):
            far = self.world.time_ms + 5000 * HOUR
            self.world.offer(f"pile-{i}", energy=900_000, ask=-1 if i == 1 else 600_000, end=far, explicit=i == 3)
        self.world.ok()
        self.purses = Purses({user: self.world.purse(user) for user in USERS})
        self.books = Books(opening(self.world))
        self.contracts = Contracts()
        self.waiting: list[tuple[bytes, Callable[[], object]]] = []  # and what it does, if it is taken
        self.busy: set[str] = set()  # who has sent something that waits
        self.spent: list[tuple[Note, NoteBin]] = []
        self.register: Counter[str] = Counter()
        self.names = 0
        self.seen: Counter[str] = Counter()

    # --- blocks ------------------------------------------------------------------------------------------------------

    def block(self, later_ms: int = 1000) -> None:
        """The next block; then both ledgers must agree with the chain."""
        world, waiting = self.world, self.waiting
        self.waiting, self.busy = [], set()
        named = len(world.queue)
        outcome = world.block(*[data for data, _ in waiting], time_ms=world.time_ms + later_ms)
        for result, (_, done) in zip(outcome.results[named:], waiting, strict=True):
            self.seen[result.code] += 1
            assert result.code in {"ok", *CODES}
            if result.code == "ok":
                done()
        self.hear(outcome)
        self.agree()

    def hear(self, outcome: Outcome) -> None:
        for leaf in map(leaf_of, outcome.leaves):
            if leaf[0] == LEAF_SETTLEMENT:
                statement = decode_statement(leaf[1])
                self.contracts.statements[statement.contract] = statement
            self.purses.hear(leaf, self.contracts)
            self.books.hear(leaf, self.contracts)
            if leaf[0] in {LEAF_CONTRACT, LEAF_PROPOSED}:
                self.contracts.terms[sha256(leaf[1])] = decode_terms(leaf[1])
            if leaf[0] == LEAF_CLOSED:
                self.seen[leaf[2]] += 1

    def agree(self) -> None:
        world, owned = self.world, self.purses.owned
        balance = {name: micro for name, micro in self.books.balance.items() if micro}
        assert balance == opening(world)
        assert sum(balance.values()) == 0
        assert {user: world.purse(user) for user in USERS} == {u: sorted(owned[u].elements()) for u in USERS}
        assert balance["N"] == sum(worth * count for purse in owned.values() for worth, count in purse.items())
        nobody = {party.id for party in world.state.each(Party) if party.role == ANONYMOUS}
        assert nobody == set(self.purses.pots) == {one.party for one in world.state.each(Funding)}
        assert {who: balance.get(f"P:{who}", 0) for who in nobody} == self.purses.pots
        assert State.load(world.rows.items(), world.root).ended_fundings(1) == []

    def send(self, data: bytes, done: Callable[[], object] = lambda: None) -> None:
        self.waiting.append((data, done))

    # --- what people do ----------------------------------------------------------------------------------------------

    def some_notes(self, number: int) -> list[Note]:
        """Up to four of somebody's that can be spent, or that are on their way to be."""
        owner = USERS[number % 16]
        mine = sorted(self.world.notes_of(owner), key=lambda n: (n.value_micro, n.bin))
        return [note for i, note in enumerate(mine[::-1]) if i < 2 or (number >> i) & 1][:4]

    def name(self) -> str:
        self.names += 1
        return f"nobody-{self.names}"

    def buy(self, number: int) -> None:
        user = USERS[number % 16]
        if user not in self.busy:
            self.busy.add(user)
            counts = [(number >> k) & 1 for k in range(7)] + [1]
            tx = self.world.tx(user, BuyNotes(self.world.base(user), counts))
            self.send(tx, lambda: self.purses.owned[user].update(w for w, n in zip(WORTH, counts, strict=True) if n))

    def bid(self, number: int) -> None:
        spent, world = self.some_notes(number), self.world
        if spent:
            start = world.time_ms + (3 * HOUR if number & 1 else HOUR // 2)
            name, refund_to = self.name(), USERS[(number + (number & 2)) % 16]
            limit = (900_000, 700_000, 500_000)[number % 3]
            who, data = world.pay(
                spent, name, energy=(5000, 3000, 800)[number % 3], limit=limit, market=number % 5 == 0, start=start,
                end=start + 2 * HOUR, refund_to=refund_to,
            )  # fmt: skip
            self.send(data, lambda: self.purses.fund(who, sha256(data), spent, refund_to))
            self.spent += [(note, self.world.state.get(NoteBin, note.bin)) for note in spent]

    def redeem(self, number: int) -> None:
        spent = self.some_notes(number)
        if spent:
            party = (USERS[number % 16], "owner-1", "grid", "nobody")[number % 4]
            self.send(self.world.redeem(spent, party, self.name()), lambda: self.purses.spend(spent))
            self.spent += [(note, self.world.state.get(NoteBin, note.bin)) for note in spent]

    def double(self, number: int) -> None:
        """A note again that was spent, or that something which waits will spend first."""
        if self.spent:
            note, ring = self.spent[number % len(self.spent)]
            data = self.world.nobody_redeems(ring, note, self.name())
            self.send(data, lambda: self.purses.spend([note]))  # which fails if it was spent

    def act(self, number: int) -> None:
        """Both sides of some contract or bid do what one can do to it, in season or not."""
        world, open_contracts = self.world, self.world.state.each(Contract)
        for who in sorted(self.purses.pots):
            for bid in world.state.bids_of(who):
                if number % 3 == 0 and who not in self.busy:
                    self.busy.add(who)
                    self.send(world.act(who, CancelBid(bid.id)))
        if not open_contracts:
            return
        contract = open_contracts[number % len(open_contracts)]
        terms = world.state.terms_of(contract)
        digest = decode_statement(contract.statement).digest() if contract.phase == MEASURED else bytes(32)
        bodies = {
            "confirm": Confirm(contract.id, digest),
            "object": Object(contract.id, (GROUND_ENERGY, GROUND_CAUSE)[number & 1], 3000, "no"),
            "call off": CancelContract(contract.id),
        }
        if contract.phase == MEASURED:
            del bodies["call off"]
            by_user, by_owner = [("confirm", "confirm"), ("confirm", ""), ("object", ""), ("", "object")][number % 4]
        elif contract.phase == "disputed":
            rule = Rule(contract.id, (5000, 3000, 0)[number % 3], ("user", "pile")[number & 1])
            if "auditor" not in self.busy:
                self.busy.add("auditor")
                self.send(world.tx("auditor", rule))
            return
        elif contract.phase == "proposed":
            bodies["sign"] = Sign(contract.id)
            by_user, by_owner = [("", "sign"), ("", "sign"), ("call off", ""), ("", "call off")][number % 4]
        else:
            by_user, by_owner = [("call off", ""), ("", "call off"), ("", ""), ("", "")][number % 4]
        if by_user and terms.user not in self.busy:
            self.busy.add(terms.user)
            self.send(world.act(terms.user, bodies[by_user]))
        if by_owner and terms.owner not in self.busy:
            self.busy.add(terms.owner)
            self.send(world.tx(terms.owner, bodies[by_owner]))

    def session(self, number: int) -> None:
        """A signed contract is charged under, in full, in part, too much or not at all; or its pile is there in vain."""
        world = self.world
        ready = [c for c in world.state.each(Contract) if c.phase == SIGNED]
        ready = [c for c in ready if world.state.terms_of(c).window_start_ms > world.time_ms]
        if not ready:
            return
        contract = ready[number % len(ready)]
        terms = world.state.terms_of(contract)
        begin_ms, end_ms, pile = terms.window_start_ms + 1000, terms.window_end_ms - 1000, terms.pile
        at = max(self.register[pile], world.state.get(Pile, pile).last_energy_wh)
        if number % 7 == 0:
            proofs = [world.prove(pile, 3, [(begin_ms, at)])]  # a heartbeat: nobody came
        else:
            used = terms.energy_wh * (10, 10, 6, 0, 13)[number % 5] // 10
            self.register[pile] = at + used
            proofs = [
                world.begin(time_ms=begin_ms, energy=at, pile=pile, contract=contract.id),
                world.end(end_ms, at + used, (3, 1, 5)[number % 3], pile=pile, contract=contract.id),
            ]
        self.block()
        world.send("operator", world.batch(*proofs))
        self.block(max(1000, end_ms + 500 - world.time_ms))

    def wait(self, number: int) -> None:
        self.block((1000, 61_000, HOUR, 7 * HOUR, 49 * HOUR)[number % 5])


ACTIONS = ["buy", "bid", "bid", "bid", "redeem", "double", "act", "act", "act", "session", "session", "wait"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1023)), min_size=20, max_size=60)
SEEN: Counter[str] = Counter()


def drawn(seed: int) -> list[tuple[str, int]]:
    """Sixty steps that are the same whatever hypothesis tries."""
    rng = random.Random(seed)
    return [(rng.choice(ACTIONS), rng.randrange(1024)) for _ in range(60)]


@given(STEPS)
@example(drawn(1))
@example(drawn(2))
@example(drawn(3))
@example(drawn(4))
@bounded(6)
def test_no_note_is_made_or_lost_whatever_people_do(steps: list[tuple[str, int]]) -> None:
    run = Run()
    for action, number in steps:
        getattr(run, action)(number)
        if len(run.waiting) >= 4:
            run.block()
    run.block()
    run.block(200 * HOUR)  # all that is open ends by itself
    run.block(200 * HOUR)
    run.block(200 * HOUR)
    assert run.purses.pots == {}
    assert run.world.state.each(Contract) == []
    SEEN.update(run.seen)


def test_the_runs_above_were_about_something() -> None:
    if not SEEN:
        test_no_note_is_made_or_lost_whatever_people_do()
    assert SEEN.keys() >= {
        "ok",
        "spent",
        "funds",
        "confirmed",
        "settled",
        "resolved",
        "cancelled",
        "expired",
        "unfilled",
    }
    assert SEEN.keys() & {"no-show", "defaulted"}
    assert SEEN["ok"] > 100


def test_the_two_ledgers_notice_a_mistake() -> None:
    """Of a purse and of an account, by one unit."""
    for spoil in (
        lambda run: run.purses.owned["user-1"].update([UNIT]),
        lambda run: run.books.move("P:user-1", "F", 1),
    ):
        run = Run()
        run.block()
        spoil(run)
        try:
            run.block()
        except AssertionError:
            continue
        raise AssertionError("it went unnoticed")
