"""A server over a ledger with a named and two anonymous orders, for what people and programs see of them."""

from note_world import AGE_MS, NOTES, Note, NoteMarket
from settled import Chain
from web_world import WebWorld
from world import HOUR, NOW, key

from pile_coordinator.chain.records import Party
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    BuyNotes,
    Deposit,
    List,
    Object,
    PlaceBid,
    RegisterParty,
    SubmitProofs,
)
from pile_shared.proof import BEGIN, END, REASON_USER

USERS = 8  # buy two notes of every denomination each: every full bin is of eight owners, with two notes each
WAITING = 3  # notes of the least denomination that wait for a full bin
DELIVERED_WH = 2000


class AnonymousChain(Chain):
    """Dan pays an order from his account, and somebody two with notes: one is settled, one disputed.

    Attributes:
        named, anonymous, disputed: contract ids. nobody, objector: pseudonyms of the anonymous ones' users.
        paid: the notes that paid for `anonymous`.
    """

    def __init__(self, folder) -> None:
        super().__init__(folder, notes=NOTES)
        self.market: NoteMarket = self.world
        self.market.__class__ = NoteMarket
        vars(self.market).update(
            bases={}, secrets={}, images={}, orders={}, made=0
        )  # as it begins, before notes are bought
        self.now_ms, self.register_wh = NOW + 2000, 100_000
        self.admit()
        self._buy()
        start = self._list()
        self.block(
            self.tick(), ("dan", PlaceBid("north", "", 5000, start, start + 4 * HOUR, 900_000, True, 0, False, False))
        )
        self.named = self._deliver()
        confirmed = self.confirmation(self.named)
        self.block(self.tick(), ("dan", confirmed), ("olga", confirmed))
        self.paid = self.market.enough("user-1", 10_000_000)
        self.nobody, self.anonymous = self._order("nobody-1", self.paid)
        self.block(self.tick(), ("olga", self.confirmation(self.anonymous)))
        self.spend(self.market.act(self.nobody, self.confirmation(self.anonymous)))
        self.objector, self.disputed = self._order("nobody-2", self.market.enough("user-2", 10_000_000))
        self.spend(self.market.act(self.objector, Object(self.disputed, "energy", 1500, "the meter ran fast")))

    def tick(self, ms: int = 1000) -> int:
        """A later time."""
        self.now_ms += ms
        return self.now_ms

    def spend(self, transaction: bytes) -> None:
        """A block with a transaction that notes signed."""
        self.engine.submit(transaction)
        block = self.engine.make_block(self.tick())
        self.world.height = self.engine.height
        assert [result.code for result in block.results] == ["ok"], block.results
        self.world.sequences |= {party.id: party.sequence for party in self.engine.state.each(Party)}

    def _buy(self) -> None:
        users = [f"user-{i}" for i in range(1, USERS + 1)]
        self.block(self.tick(), *[("operator", RegisterParty(u, "ev-owner", key(u).public)) for u in users])
        self.block(self.tick(), *[("grid", Deposit(user, 200_000_000, user)) for user in users])
        base = self.market.base
        self.block(self.tick(), *[(user, BuyNotes(base(user), [2] * NOTES["denominations"])) for user in users])
        self.block(self.tick(), ("user-1", BuyNotes(base("user-1"), [WAITING])))
        self.tick(AGE_MS)

    def _list(self) -> int:
        start = self.tick()
        self.block(start, ("olga", List("pile-1", start, start + 4 * HOUR, 5000, AT_MARKET, False)))
        return start

    def _order(self, name: str, notes: list[Note]) -> tuple[str, bytes]:
        """An anonymous order that was delivered: its pseudonym, its contract."""
        start = self._list()
        who, bid = self.market.pay(notes, name, market=True, start=start, end=start + 4 * HOUR)
        self.spend(bid)
        return who, self._deliver()

    def _deliver(self) -> bytes:
        """A session of an hour under the one contract."""
        contract, prove = self.contract().id, self.world.prove
        begin, until = self.tick(), self.tick(HOUR)
        first = prove("pile-1", BEGIN, [(begin, self.register_wh)], contract=contract)
        self.register_wh += DELIVERED_WH
        last = prove("pile-1", END, [(until, self.register_wh)], contract=contract, reason=REASON_USER)
        self.block(self.tick(), ("operator", SubmitProofs([first, last])))
        return contract


class AnonymousWorld(WebWorld):
    """A server over it, with the pages or without, which begins sooner. `settled` is the named contract."""

    chain: AnonymousChain

    def __init__(self, folder, *, pages: bool = True) -> None:
        self.more = "" if pages else "[dashboard]\nserve = false\n"
        super().__init__(folder)

    def _found(self, folder) -> AnonymousChain:
        return AnonymousChain(folder)

    def _live(self) -> None:
        self.settled, self.disputed = self.chain.named, self.chain.disputed
        self.begin = self.chain.now_ms
