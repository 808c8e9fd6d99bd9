"""The state: tables of records, an undo log for rejected transactions, and a root over everything.

`State` holds what is open, in memory. Every change goes through `put` or `drop`, which note it three times: in the undo
log (a rejection leaves no trace), in `changed` (what the engine stores and the tree rehashes), and in the running totals
and indexes that keep each block's cost proportional to what it touches.
"""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

from pile_coordinator.chain.accounts import BONDS, ESCROWS, NOTES, OBJECTIONS, STAKES, WITHDRAWALS, kind_of
from pile_coordinator.chain.records import (
    TABLES,
    Account,
    Bid,
    Contract,
    Denomination,
    Dispute,
    Epoch,
    Funding,
    Key,
    Listing,
    NoteRules,
    Params,
    Record,
    Stake,
    StakeRules,
    ValidatorSet,
    Withdrawal,
    Zone,
)
from pile_coordinator.chain.rejections import BrokenInvariantError
from pile_coordinator.chain.settlement import contract_escrow_micro
from pile_coordinator.chain.tree import StateProof, StateTree
from pile_shared.codec import decode, encode
from pile_shared.terms import Terms, decode_terms

MAX_RECORD_BYTES = 8192  # the largest are a dispute with its rulings and a set of 36 accounting nodes

_TEXT, _BYTES = 0x60, 0x40  # RFC 8949 section 3.1: major types 3 and 2
_HEADS = {kind: encode([kind.TABLE, 0])[:-1] for kind in TABLES.values()}

R = TypeVar("R", bound=Record)
T = TypeVar("T")


K = TypeVar("K", str, bytes)


def set_key(height: int) -> bytes:
    """The key of the validator set that is in force from a height on."""
    return height.to_bytes(8, "big")


def store_key(kind: type[Record], key: Key) -> bytes:
    """The key under which a record stands in the store and in the state root: encode([kind.TABLE, key]), put together."""
    data, major = (key.encode(), _TEXT) if isinstance(key, str) else (key, _BYTES)
    length = len(data)
    head = (
        bytes((major | length,)) if length < 24 else bytes((major | 24, length))
    )  # ids and hashes have at most 255 bytes
    return _HEADS[kind] + head + data


class State:
    """All open records of one chain. Not thread-safe: one executor applies blocks."""

    def __init__(self) -> None:
        self._tables: dict[type[Record], dict[Key, Record]] = {kind: {} for kind in TABLES.values()}
        self._undo: list[tuple[type[Record], Key, Record | None]] = []
        self._changed: dict[tuple[type[Record], Key], None] = {}
        self._tree = StateTree()
        self._deadlines: list[tuple[int, int, Key]] = []  # (when, table, key)
        self._scheduled: set[tuple[int, int, Key]] = set()  # what stands in `_deadlines`, once each
        self._by_pile: dict[str, dict[bytes, None]] = {}
        self._listings_by_owner: dict[str, dict[bytes, None]] = {}
        self._listings_by_zone: dict[str, dict[bytes, None]] = {}
        self._bids_by_user: dict[str, dict[bytes, None]] = {}
        self._bids_by_limit: dict[str, list[tuple[int, bytes]]] = {}  # by zone: (limit, id), in order
        self._listed: dict[str, dict[str, int]] = {}  # owner -> zone -> open listings
        self._terms: dict[bytes, Terms] = {}
        self._stakes_by_candidate: dict[str, dict[str, None]] = {}
        self._set_heights: list[int] = []  # from which a validator set is in force, ascending
        self._ended: list[tuple[int, str]] = []  # anonymous orders that ended and were not paid back: (height, party)
        self.totals: dict[str, int] = {}  # balances by kind of account
        self.owed: dict[str, int] = {}  # what open orders say those balances must be, by kind
        self.open_wh: dict[str, int] = {}  # by zone: what its open curve contracts say its load must be
        self.covered: dict[str, dict[tuple[int, int], tuple[int, int]]] = {}
        # ^ by zone, for each (capacity, catalog price) that open curve contracts were priced by: their (Wh, escrow)

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

    def count(self, kind: type[Record]) -> int:
        """How many records a table has."""
        return len(self._tables[kind])

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

    def listings_of(self, owner: str) -> list[Listing]:
        """An owner's open listings, by id."""
        return [self.get(Listing, key) for key in sorted(self._listings_by_owner.get(owner, ()))]

    def listings_in(self, zone: str) -> list[Listing]:
        """A zone's open listings, in no order that means anything."""
        return [self.get(Listing, key) for key in self._listings_by_zone.get(zone, ())]

    def bids_of(self, user: str) -> list[Bid]:
        """A user's resting bids, by id."""
        return [self.get(Bid, key) for key in sorted(self._bids_by_user.get(user, ()))]

    def bids_in(self, zone: str, at_least_micro_per_kwh: int) -> list[Bid]:
        """A zone's resting bids with at least this limit, in order of limit and id."""
        by_limit = self._bids_by_limit.get(zone, [])
        return [self.get(Bid, key) for _, key in by_limit[bisect_left(by_limit, (at_least_micro_per_kwh, b"")) :]]

    def zones_listed_by(self, owner: str) -> list[str]:
        """Zones in which an owner has open listings, in order."""
        return sorted(zone for zone, count in self._listed.get(owner, {}).items() if count)

    @property
    def stake_rules(self) -> StakeRules | None:
        """How accounting nodes are elected, or None on a chain that elects nobody."""
        return self.find(StakeRules, "stake-rules")

    @property
    def note_rules(self) -> NoteRules | None:
        """What notes there are, or None on a chain that issues none."""
        return self.find(NoteRules, "note-rules")

    def ended_fundings(self, count: int) -> list[Funding]:
        """The first so many anonymous orders that have ended and whose money is still a party's, the earliest first."""
        return [self.get(Funding, party) for _, party in self._ended[:count]]

    def stakes_of(self, candidate: str) -> list[Stake]:
        """What all parties have put up for a candidate, by id."""
        return [self.get(Stake, key) for key in sorted(self._stakes_by_candidate.get(candidate, ()))]

    def validator_sets(self) -> list[ValidatorSet]:
        """The kept sets of accounting nodes, oldest first."""
        return self.oldest_sets(len(self._set_heights))

    def oldest_sets(self, count: int) -> list[ValidatorSet]:
        """The first so many of them, or all."""
        return [self.get(ValidatorSet, set_key(height)) for height in self._set_heights[:count]]

    def newest_sets(self, count: int) -> list[ValidatorSet]:
        """The last so many of them (at least 1), or all."""
        return [self.get(ValidatorSet, set_key(height)) for height in self._set_heights[-count:]]

    def set_at(self, height: int) -> ValidatorSet | None:
        """The accounting nodes of a block; None if they are not kept any more, or nobody is elected."""
        place = bisect_right(self._set_heights, height)
        return self.get(ValidatorSet, set_key(self._set_heights[place - 1])) if place else None

    def terms_of(self, contract: Contract) -> Terms:
        """The decoded terms of an open contract."""
        terms = self._terms.get(contract.id)
        if terms is None:
            terms = self._terms[contract.id] = decode_terms(contract.terms)
        return terms

    def due(self, time_ms: int) -> Iterator[Contract | Bid | Listing | Zone]:
        """What has a deadline that has passed, earliest first, ties by table and key; each until it has moved on."""
        while self._deadlines and self._deadlines[0][0] <= time_ms:
            deadline_ms, table, key = scheduled = heapq.heappop(self._deadlines)
            self._scheduled.discard(scheduled)
            record = cast("Contract | Bid | Listing | Zone | None", self._tables[TABLES[table]].get(key))
            if record is not None and _deadline_ms(record) == deadline_ms:
                yield record

    def touched(self, kind: type[R]) -> list[R]:
        """Records of a table that were put since the last seal and still stand, in order of key."""
        keys = sorted(key for changed, key in self._changed if changed is kind)
        return [cast("R", self._tables[kind][key]) for key in keys if key in self._tables[kind]]

    def next_deadline_ms(self) -> int | None:
        """When the next deadline may pass (it may already be void), or the next epoch begin; None before genesis.

        0, long ago, if an anonymous order that ended is still owed notes.
        """
        if self._ended:
            return 0
        epoch = self.find(Epoch, "epoch")
        edges = [] if epoch is None else [epoch.next_edge_ms]
        return min([*edges, self._deadlines[0][0]] if self._deadlines else edges, default=None)

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

    def dry_run(self, act: Callable[[], T]) -> T:
        """What `act` returns or raises; whatever it puts, drops and lets fall due is as if it had not been.

        Unlike after `roll_back`, nothing is left to write or to look at when its time comes: a question costs no block.
        """
        mark, changed = self.mark(), dict(self._changed)
        deadlines, scheduled = list(self._deadlines), set(self._scheduled)
        try:
            return act()
        finally:
            self.roll_back(mark)
            self._changed, self._deadlines, self._scheduled = changed, deadlines, scheduled

    def _note(self, kind: type[Record], key: Key, before: Record | None, after: Record | None) -> None:
        self._changed[kind, key] = None
        if kind is Account:
            self._add_to_totals(cast("str", key), before, after)
        elif kind is Contract:
            self._index_contract(cast("bytes", key), cast("Contract | None", before), cast("Contract | None", after))
        elif kind is Listing:
            self._index_listing(cast("Listing | None", before), cast("Listing | None", after))
        elif kind is Bid:
            self._index_bid(cast("Bid | None", before), cast("Bid | None", after))
        elif kind is Dispute:
            self._owe_change(OBJECTIONS, "bond_micro", before, after)
        elif kind is Withdrawal:
            self._owe_change(WITHDRAWALS, "amount_micro", before, after)
        elif kind is Stake:
            self._index_stake(cast("Stake | None", before), cast("Stake | None", after))
        elif kind is ValidatorSet:
            self._index_set(cast("bytes", key), before, after)
        elif kind is Funding:
            self._index_ended(cast("Funding | None", before), cast("Funding | None", after))
        elif kind is Denomination:
            self._owe(NOTES, _outstanding_micro(after) - _outstanding_micro(before))
        elif kind is Zone and after is not None and cast("Zone", after).paused_until_ms:
            self._schedule(after)

    def _add_to_totals(self, account: str, before: Record | None, after: Record | None) -> None:
        change = (cast("Account", after).balance_micro if after else 0) - (
            cast("Account", before).balance_micro if before else 0
        )
        kind = kind_of(account)
        self.totals[kind] = self.totals.get(kind, 0) + change

    def _index_listing(self, before: Listing | None, after: Listing | None) -> None:
        if before is None and after is not None:
            self._list(after, 1)
            self._schedule(after)
        elif before is not None and after is None:
            self._list(before, -1)

    def _list(self, listing: Listing, sign: int) -> None:
        zones = self._listed.setdefault(listing.owner, {})
        zones[listing.zone] = zones.get(listing.zone, 0) + sign
        _enter(self._listings_by_owner, listing.owner, listing.id, sign)
        _enter(self._listings_by_zone, listing.zone, listing.id, sign)

    def _index_bid(self, before: Bid | None, after: Bid | None) -> None:
        self._owe_change(ESCROWS, "hold_micro", before, after)
        if before is None and after is not None:
            _enter(self._bids_by_user, after.user, after.id, 1)
            insort(self._bids_by_limit.setdefault(after.zone, []), (after.limit_micro_per_kwh, after.id))
            self._schedule(after)
        elif before is not None and after is None:
            _enter(self._bids_by_user, before.user, before.id, -1)
            by_limit = self._bids_by_limit[before.zone]
            del by_limit[bisect_left(by_limit, (before.limit_micro_per_kwh, before.id))]

    def _index_contract(self, key: bytes, before: Contract | None, after: Contract | None) -> None:
        if before is None and after is not None:
            self._book(after, self.terms_of(after), 1)
        elif before is not None and after is None:
            self._book(before, self.terms_of(before), -1)
            del self._terms[key]
        if after is not None:
            self._schedule(after)

    def _book(self, contract: Contract, terms: Terms, sign: int) -> None:
        """A contract comes or goes: its window on the pile, and what it says escrow, bonds and load must be."""
        _enter(self._by_pile, terms.pile, contract.id, sign)
        escrow = contract_escrow_micro(terms)
        self._owe(ESCROWS, sign * escrow)
        self._owe(BONDS, sign * terms.bond_micro)
        if terms.on_curve:
            self.open_wh[terms.zone] = self.open_wh.get(terms.zone, 0) + sign * terms.energy_wh
            anchor = contract.capacity_wh, terms.catalog_sell_micro_per_kwh
            covered = self.covered.setdefault(terms.zone, {})
            open_wh, escrow_micro = covered.get(anchor, (0, 0))
            covered[anchor] = open_wh + sign * terms.energy_wh, escrow_micro + sign * escrow
            if covered[anchor] == (0, 0):
                del covered[anchor]

    def _index_stake(self, before: Stake | None, after: Stake | None) -> None:
        self._owe_change(STAKES, "amount_micro", before, after)
        if before is None and after is not None:
            _enter(self._stakes_by_candidate, after.candidate, after.id, 1)
        elif before is not None and after is None:
            _enter(self._stakes_by_candidate, before.candidate, before.id, -1)

    def _index_ended(self, before: Funding | None, after: Funding | None) -> None:
        if before is not None and before.ended_height:
            self._ended.remove((before.ended_height, before.party))
        if after is not None and after.ended_height:
            insort(self._ended, (after.ended_height, after.party))

    def _index_set(self, key: bytes, before: Record | None, after: Record | None) -> None:
        height = int.from_bytes(key, "big")
        if before is None and after is not None:
            insort(self._set_heights, height)
        elif before is not None and after is None:
            self._set_heights.remove(height)

    def _owe_change(self, kind: str, field: str, before: Record | None, after: Record | None) -> None:
        self._owe(kind, (getattr(after, field) if after else 0) - (getattr(before, field) if before else 0))

    def _owe(self, kind: str, change: int) -> None:
        self.owed[kind] = self.owed.get(kind, 0) + change

    def _schedule(self, record: Record) -> None:
        """Note a deadline. A charging contract is put again with every proof; its deadline stands here once."""
        entry = _deadline_ms(record), record.TABLE, record.key
        if entry not in self._scheduled:
            self._scheduled.add(entry)
            heapq.heappush(self._deadlines, entry)

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

    def prove(self, kind: type[Record], key: Key) -> StateProof:
        """Proof of what stands (or that nothing stands) under a key after the last sealed block; see tree.verify_proof."""
        return self._tree.prove(store_key(kind, key))

    @classmethod
    def load(cls, rows: Iterable[tuple[bytes, bytes]], root: bytes | None = None) -> "State":
        """The state from stored (key, encoding) rows, in any order, as it was sealed.

        Raises:
            BrokenInvariantError: the rows do not have this root; they are hashed before a byte of them is interpreted.
        """
        rows, state = list(rows), cls()
        if state._tree.update(rows) != root and root is not None:
            raise BrokenInvariantError("the rows do not have the root of their block")
        for key, value in rows:
            table, _ = cast("list[int]", decode(key, MAX_RECORD_BYTES))
            state.put(TABLES[table].decoded(cast("list[object]", decode(value, MAX_RECORD_BYTES))))
        state._undo.clear()
        state._changed.clear()
        return state


def _enter(index: dict[str, dict[K, None]], name: str, key: K, sign: int) -> None:
    """Add a key under a name, or take it away; a name without keys is not kept."""
    keys = index.setdefault(name, {})
    if sign > 0:
        keys[key] = None
        return
    del keys[key]
    if not keys:
        del index[name]


def _outstanding_micro(record: Record | None) -> int:
    """What the unspent notes of a denomination are worth."""
    if record is None:
        return 0
    one = cast("Denomination", record)
    return one.value_micro * (one.issued - one.spent)


def _deadline_ms(record: Record) -> int:
    if isinstance(record, Contract):
        return record.deadline_ms
    if isinstance(record, Bid):
        return record.expires_ms
    if isinstance(record, Listing):
        return record.window_end_ms
    return cast("Zone", record).paused_until_ms
