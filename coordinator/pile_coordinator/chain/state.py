"""The state: tables of records, an undo log for rejected transactions, and a root over everything.

`State` holds what is open, in memory. Every change goes through `put` or `drop`, which note it three times: in the undo
log (a rejection leaves no trace), in `changed` (what the engine stores and the tree rehashes), and in the running totals
and indexes that keep each block's cost proportional to what it touches.
"""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

from pile_coordinator.chain.accounts import kind_of
from pile_coordinator.chain.records import TABLES, Account, Bid, Contract, Key, Listing, Params, Record
from pile_coordinator.chain.settlement import contract_escrow_micro
from pile_coordinator.chain.tree import StateTree
from pile_shared.codec import decode, encode
from pile_shared.terms import Terms, decode_terms

MAX_RECORD_BYTES = 4096  # the largest is a contract with its terms and statement

R = TypeVar("R", bound=Record)


def store_key(kind: type[Record], key: Key) -> bytes:
    """The key under which a record stands in the store and in the state root."""
    return encode([kind.TABLE, key])


class State:
    """All open records of one chain. Not thread-safe: one executor applies blocks."""

    def __init__(self) -> None:
        self._tables: dict[type[Record], dict[Key, Record]] = {kind: {} for kind in TABLES.values()}
        self._undo: list[tuple[type[Record], Key, Record | None]] = []
        self._changed: dict[tuple[type[Record], Key], None] = {}
        self._tree = StateTree()
        self._deadlines: list[tuple[int, bytes]] = []
        self._scheduled: set[tuple[int, bytes]] = set()  # what stands in `_deadlines`, once each
        self._by_pile: dict[str, dict[bytes, None]] = {}
        self._listed: dict[str, dict[str, int]] = {}  # owner -> zone -> open listings
        self._terms: dict[bytes, Terms] = {}
        self.totals: dict[str, int] = {}  # balances by kind of account
        self.owed: dict[str, int] = {}  # what open orders say those balances must be, see `_owe`

    # --- reading -------------------------------------------------------------------------------------------------

    def find(self, kind: type[R], key: Key) -> R | None:
        """The record, or None."""
        return cast("R | None", self._tables[kind].get(key))

    def get(self, kind: type[R], key: Key) -> R:
        """The record; KeyError if the caller was wrong to expect it."""
        return cast("R", self._tables[kind][key])

    def each(self, kind: type[R]) -> list[R]:
        """All records of a table in order of key."""
        table = self._tables[kind]
        return [cast("R", table[key]) for key in sorted(table)]

    @property
    def params(self) -> Params:
        """The chain's parameters."""
        return self.get(Params, "params")

    def balance_micro(self, account: str) -> int:
        """An account's balance; 0 for one never used."""
        found = self.find(Account, account)
        return found.balance_micro if found else 0

    def contracts_on(self, pile: str) -> list[Contract]:
        """Open contracts that book a pile, by id."""
        booked = self._by_pile.get(pile)
        return [self.get(Contract, key) for key in sorted(booked)] if booked else []

    def zones_listed_by(self, owner: str) -> list[str]:
        """Zones in which an owner has open listings, in order."""
        return sorted(zone for zone, count in self._listed.get(owner, {}).items() if count)

    def terms_of(self, contract: Contract) -> Terms:
        """The decoded terms of an open contract."""
        terms = self._terms.get(contract.id)
        if terms is None:
            terms = self._terms[contract.id] = decode_terms(contract.terms)
        return terms

    def due(self, time_ms: int) -> Iterator[Contract | Bid]:
        """Contracts and bids whose deadline has passed, earliest first, ties by id. Each is given until it has moved on."""
        while self._deadlines and self._deadlines[0][0] <= time_ms:
            deadline_ms, key = heapq.heappop(self._deadlines)
            self._scheduled.discard((deadline_ms, key))
            contract = self.find(Contract, key)
            if contract is not None and contract.deadline_ms == deadline_ms:
                yield contract
            bid = self.find(Bid, key)
            if bid is not None and bid.expires_ms == deadline_ms:
                yield bid

    def touched(self, kind: type[R]) -> list[R]:
        """Records of a table that were put since the last seal and still stand, in order of key."""
        keys = sorted(key for changed, key in self._changed if changed is kind)
        return [cast("R", self._tables[kind][key]) for key in keys if key in self._tables[kind]]

    def next_deadline_ms(self) -> int | None:
        """When the next deadline may pass (it may already be void), or None."""
        return self._deadlines[0][0] if self._deadlines else None

    # --- writing -------------------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Insert or replace a record."""
        kind, key = type(record), record.key
        table = self._tables[kind]
        before = table.get(key)
        self._undo.append((kind, key, before))
        table[key] = record
        self._note(kind, key, before, record)

    def drop(self, kind: type[Record], key: Key) -> None:
        """Remove a record that exists."""
        before = self._tables[kind].pop(key)
        self._undo.append((kind, key, before))
        self._note(kind, key, before, None)

    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._undo)

    def roll_back(self, mark: int) -> None:
        """Undo every change made since `mark`."""
        while len(self._undo) > mark:
            kind, key, before = self._undo.pop()
            table = self._tables[kind]
            after = table.get(key)
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before
            self._note(kind, key, after, before)

    def _note(self, kind: type[Record], key: Key, before: Record | None, after: Record | None) -> None:
        self._changed[(kind, key)] = None
        if kind is Account:
            self._add_to_totals(cast("str", key), before, after)
        elif kind is Contract:
            self._index_contract(cast("bytes", key), cast("Contract | None", before), cast("Contract | None", after))
        elif kind is Listing:
            self._index_listing(cast("Listing | None", before), cast("Listing | None", after))
        elif kind is Bid:
            self._index_bid(cast("Bid | None", before), cast("Bid | None", after))

    def _add_to_totals(self, account: str, before: Record | None, after: Record | None) -> None:
        change = (cast("Account", after).balance_micro if after else 0) - (
            cast("Account", before).balance_micro if before else 0
        )
        kind = kind_of(account)
        self.totals[kind] = self.totals.get(kind, 0) + change

    def _index_listing(self, before: Listing | None, after: Listing | None) -> None:
        for listing, sign in ((before, -1), (after, 1)):
            if listing is not None:
                zones = self._listed.setdefault(listing.owner, {})
                zones[listing.zone] = zones.get(listing.zone, 0) + sign

    def _index_bid(self, before: Bid | None, after: Bid | None) -> None:
        for bid, sign in ((before, -1), (after, 1)):
            if bid is not None:
                self._owe("E", sign * bid.hold_micro)
        if after is not None:
            self._schedule(after.expires_ms, after.id)

    def _index_contract(self, key: bytes, before: Contract | None, after: Contract | None) -> None:
        if before is None and after is not None:
            self._book(self.terms_of(after), key, 1)
        elif before is not None and after is None:
            self._book(self.terms_of(before), key, -1)
            del self._terms[key]
        if after is not None:
            self._schedule(after.deadline_ms, key)

    def _book(self, terms: Terms, key: bytes, sign: int) -> None:
        """A contract comes or goes: its window on the pile, and what it says escrow, bonds and load must be."""
        booked = self._by_pile.setdefault(terms.pile, {})
        if sign > 0:
            booked[key] = None
        else:
            del booked[key]
        escrow = contract_escrow_micro(terms)
        self._owe("E", sign * escrow)
        self._owe("B", sign * terms.bond_micro)
        if terms.on_curve:
            self._owe(f"load {terms.zone}", sign * terms.energy_wh)
            self._owe(f"curve {terms.zone}", sign * escrow)

    def _owe(self, what: str, change: int) -> None:
        """E, B: micro in escrow and bonds; `load <zone>`: open curve Wh; `curve <zone>`: the escrow behind it, in micro."""
        self.owed[what] = self.owed.get(what, 0) + change

    def _schedule(self, deadline_ms: int, key: bytes) -> None:
        """Note a deadline. A charging contract is put again with every proof; its deadline stands here once."""
        if (deadline_ms, key) not in self._scheduled:
            self._scheduled.add((deadline_ms, key))
            heapq.heappush(self._deadlines, (deadline_ms, key))

    # --- sealing a block -----------------------------------------------------------------------------------------

    def seal(self) -> tuple[bytes, list[tuple[bytes, bytes | None]]]:
        """End a block: the state root, and what changed as (store key, encoding or None if dropped), in order of key."""
        changes = []
        for kind, key in self._changed:
            record = self._tables[kind].get(key)
            changes.append((store_key(kind, key), record.encoded() if record is not None else None))
        changes.sort(key=lambda change: change[0])
        self._undo.clear()
        self._changed.clear()
        return self._tree.update(changes), changes

    @classmethod
    def load(cls, rows: Iterable[tuple[bytes, bytes]]) -> "State":
        """The state from stored (key, encoding) rows, in any order. The caller compares the root."""
        state = cls()
        for key, value in rows:
            table, _ = cast("list[int]", decode(key, MAX_RECORD_BYTES))
            state.put(TABLES[table].decoded(cast("list[object]", decode(value, MAX_RECORD_BYTES))))
        return state


def listings_of_zone(state: State, zone: str) -> list[Listing]:
    """Open listings of a zone in order of id."""
    return [listing for listing in state.each(Listing) if listing.zone == zone]
