"""The ledger of docs/ledger.md written a second time, slow and obvious, from the guide alone.

Nothing here is imported from the chain. Orders go by short names ("b1", "l1"), a contract by the name of its bid, the pieces of
a divisible bid as "b1.0", "b1.1"; keys are names too, and money lies in one dict. Proofs are those an honest clock and meter
make, so anomalies are not part of this model, and neither are the bounds on how many orders there may be or how far ahead.
Stake has a model of its own (stake_model.py), and what is paid with notes two ledgers (test_notes_money.py).
"""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from hashlib import sha256
from math import ceil, floor
from typing import Any

HOUR_MS = 3_600_000
BEGIN, PERIODIC, END, HEARTBEAT, ALARM = range(5)
USER_REASONS = (1, 2, 3, 4)
LOT_WH, PIECE_WH, MAX_PIECES, MAX_FILLS = 100, 1000, 16, 1024

GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY = "grid", "operator", "pile-owner", "ev-owner", "third-party"
ANY = (GRID, OPERATOR, PILE_OWNER, EV_OWNER, THIRD_PARTY)
SENT_BY = {
    "register_party": (GRID, OPERATOR),
    "rotate_key": ANY,
    "revoke_key": ANY,
    "restore_key": (GRID, OPERATOR),
    "register_pile": (GRID, OPERATOR),
    "retire_pile": (PILE_OWNER, GRID, OPERATOR),
    "deposit": (GRID, OPERATOR),
    "withdraw": ANY,
    "pay_out": (GRID, OPERATOR),
    "refuse_withdrawal": (GRID, OPERATOR),
    "collect_fees": (GRID, OPERATOR),
    "set_tariff": (GRID,),
    "offer": (PILE_OWNER,),
    "unlist": (PILE_OWNER,),
    "bid": (EV_OWNER,),
    "cancel": (EV_OWNER,),
    "sign": (PILE_OWNER, EV_OWNER),
    "cancel_contract": (PILE_OWNER, EV_OWNER),
    "proof": (GRID, OPERATOR),
    "confirm": (PILE_OWNER, EV_OWNER),
    "object": (PILE_OWNER, EV_OWNER),
    "answer": (PILE_OWNER,),
    "rule": (THIRD_PARTY,),
}


@dataclass
class Party:
    name: str
    role: str
    key: str  # "" once it is revoked
    restore: tuple[str, str] = (
        "",
        "",
    )  # the role that has spoken, and the key it named; another key replaces that word


@dataclass
class Pile:
    name: str
    owner: str
    zone: str
    power_w: int
    serves: str = ""
    retired: bool = False


@dataclass
class Zone:
    name: str
    capacity_wh: int = 0  # S0
    load_wh: int = 0  # S - S0
    reference_wh: int = 0
    paused_until_ms: int = 0


@dataclass
class Tariff:
    offset_minutes: int
    periods: list[tuple[int, int, int]]  # (from minute, selling price, buying price)


@dataclass
class Offer:
    name: str
    order_id: bytes
    pile: Pile
    start_ms: int
    end_ms: int
    energy_wh: int
    ask: int  # per kWh; -1 is at market
    explicit: bool = False


@dataclass
class Wish:
    name: str
    order_id: bytes
    user: str
    zone: str
    pile: str
    energy_wh: int  # not contracted yet
    start_ms: int
    end_ms: int
    limit: int
    market: bool
    expires_ms: int
    divisible: bool = False
    explicit: bool = False
    hold_micro: int = 0
    pieces: int = 0
    key: str = ""


@dataclass
class Dispute:
    objector: str  # "user" or "owner"
    ground: str
    rulings: dict[str, tuple[int, str]] = field(default_factory=dict)


@dataclass
class Deal:
    name: str
    wish: Wish
    offer: Offer
    energy_wh: int
    on_curve: bool
    price: int
    sell: int
    buy: int
    escrow_micro: int = 0
    bond_micro: int = 0
    phase: str = "signed"
    asked: set[str] = field(default_factory=set)  # the sides that want to sign this contract
    signed: set[str] = field(default_factory=set)
    deadline_ms: int = 0
    present: bool = False
    begin_wh: int = 0
    last_wh: int = 0
    metered_wh: int = 0
    cause: str = ""
    confirmed: set[str] = field(default_factory=set)
    dispute: Dispute | None = None

    @property
    def owner(self) -> str:
        return self.offer.pile.owner

    def side(self, party: str) -> str:
        return {self.wish.user: "user", self.owner: "owner"}.get(party, "")


Row = tuple[str, str, int]  # from, to, micro; accounts by the letters of the guide's tables


def cost(energy_wh: int, price: int) -> int:
    """Micro for an energy at a price per kWh: rounded up, once."""
    return ceil(Fraction(energy_wh * price, 1000))


def share(whole: int, permille: int) -> int:
    """So many thousandths of what is whole already, rounded down."""
    return floor(Fraction(whole * permille, 1000))


@cache
def reserve(catalog: int, capacity_wh: int, load_wh: int, a: int, b: int) -> int:
    """B(S) = B0 (S / S0)^(1 / CRR), rounded up: the smallest whole B with B^a >= B0^a (S / S0)^b, where CRR is a / b."""
    at_capacity = Fraction(catalog * capacity_wh * a, b)
    wanted = at_capacity**a * Fraction(capacity_wh + load_wh, capacity_wh) ** b
    whole = ceil(wanted)  # B^a is whole, so this is the same question
    low, high = 0, 1
    while high**a < whole:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**a >= whole else (middle + 1, high)
    return low


@cache
def curve_price(catalog: int, capacity_wh: int, load_wh: int, a: int, b: int) -> int:
    """P(S) = B(S) / (S CRR), rounded up."""
    return ceil(Fraction(reserve(catalog, capacity_wh, load_wh, a, b) * b, (capacity_wh + load_wh) * a))


class Model:
    """All parties, orders and money. `block` is one block; its answers are codes; `closed` is how orders ended in it."""

    def __init__(self, params: dict[str, Any], tariff: Tariff, genesis_ms: int, founders: list[Party]) -> None:
        self.params = params
        self.tariff = tariff
        self.announced: tuple[int, Tariff] | None = None
        self.genesis_ms = self.now_ms = genesis_ms
        self.parties = {party.name: party for party in founders}
        self.keys = {party.key for party in founders}
        self.piles: dict[str, Pile] = {}
        self.zones: dict[str, Zone] = {}
        self.money: dict[str, int] = {}
        self.references: set[str] = set()
        self.withdrawals: dict[str, tuple[str, int]] = {}
        self.offers: dict[str, Offer] = {}
        self.wishes: dict[str, Wish] = {}
        self.deals: dict[str, Deal] = {}
        self.closed: list[tuple[str, str]] = []

    def move(self, debit: str, credit: str, micro: int) -> None:
        assert micro >= 0
        self.money[debit] = self.money.get(debit, 0) - micro
        self.money[credit] = self.money.get(credit, 0) + micro

    def has(self, account: str, micro: int) -> bool:
        return self.money.get(account, 0) >= micro

    def books(self) -> dict[str, int]:
        return {account: micro for account, micro in self.money.items() if micro}

    # A block

    def block(self, now_ms: int, seed: bytes, actions: list[tuple[Any, ...]]) -> list[str]:
        """Epoch, deadlines, then the actions, each (sender, their key, method, arguments), then the clearing. Codes."""
        last_ms, self.now_ms, self.closed = self.now_ms, now_ms, []
        if self.epoch(now_ms) > self.epoch(last_ms):
            self.turn_epoch()
        self.run_deadlines()
        codes: list[str] = []
        refused: set[str] = set()
        for sender, key, method, *arguments in actions:
            codes.append(self.act(sender, key, method, arguments, gap=sender in refused))
            if codes[-1] != "ok":
                refused.add(sender)
        for zone in sorted(self.zones):
            self.clear(self.zones[zone], seed)
        return codes

    def act(self, sender: str, key: str, method: str, arguments: list[Any], *, gap: bool) -> str:
        party = self.parties.get(sender)
        if party is None:
            return "unknown_sender"
        if not party.key:
            return "revoked"
        if party.key != key:
            return "bad_signature"
        if gap:
            return "sequence_gap"
        if party.role not in SENT_BY[method]:
            return "wrong_role"
        return str(getattr(self, method)(sender, *arguments))

    def epoch(self, at_ms: int) -> int:
        return (at_ms - self.genesis_ms) // self.params["epoch_ms"]

    def turn_epoch(self) -> None:
        if self.announced and self.now_ms >= self.announced[0]:
            self.tariff, self.announced = self.announced[1], None
        for zone in self.zones.values():
            self.renew_capacity(zone)
            zone.reference_wh = zone.load_wh

    def renew_capacity(self, zone: Zone) -> None:
        """The capacity of its registered piles; without any, the last one stays."""
        piles = [pile for pile in self.piles.values() if pile.zone == zone.name and not pile.retired]
        if piles:
            zone.capacity_wh = sum(pile.power_w for pile in piles) * self.params["capacity_hours"]

    def pile_came_or_went(self, zone: Zone) -> None:
        if zone.load_wh == 0:
            self.renew_capacity(zone)

    def run_deadlines(self) -> None:
        for wish in list(self.wishes.values()):
            if self.now_ms >= wish.expires_ms:
                self.end_wish(wish, "expired")
        for offer in list(self.offers.values()):
            if self.now_ms >= offer.end_ms:
                self.end_offer(offer, "expired")
        for deal in list(self.deals.values()):
            if self.now_ms < deal.deadline_ms:
                continue
            if deal.phase == "proposed":
                self.unsigned(deal, "user" if "user" in deal.asked - deal.signed else "owner")
            elif deal.phase == "signed":
                self.nobody_came(deal)
            elif deal.phase == "active":
                self.measure(deal, "pile")
            elif deal.phase == "measured":
                self.settle(deal, "settled")
            else:
                self.dispute_timed_out(deal)

    # Parties, keys and piles

    def register_party(self, _: str, name: str, role: str, key: str) -> str:
        if name in self.parties or key in self.keys:
            return "exists"
        self.parties[name] = Party(name, role, key)
        self.keys.add(key)
        return "ok"

    def rotate_key(self, sender: str, key: str) -> str:
        if key in self.keys:
            return "exists"
        self.parties[sender].key = key
        self.keys.add(key)
        self.withdraw_orders(sender)
        return "ok"

    def revoke_key(self, sender: str, name: str) -> str:
        if name not in self.parties:
            return "unknown_party"
        if name != sender and self.parties[sender].role not in {GRID, OPERATOR}:
            return "not_yours"
        if not self.parties[name].key:
            return "exists"
        peers = [p for p in self.parties.values() if p.role == self.parties[name].role and p.key]
        if self.parties[name].role in {GRID, OPERATOR} and len(peers) == 1:
            return "limit"
        self.parties[name].key = ""
        self.withdraw_orders(name)
        return "ok"

    def restore_key(self, sender: str, name: str, key: str) -> str:
        """When a grid and an operator party have sent the same."""
        if name not in self.parties:
            return "unknown_party"
        if key in self.keys:
            return "exists"
        party, role = self.parties[name], self.parties[sender].role
        if party.key:
            return "exists"
        if party.restore[1] == key and party.restore[0] != role:
            party.key, party.restore = key, ("", "")
            self.keys.add(key)
        else:
            party.restore = role, key
        return "ok"

    def withdraw_orders(self, party: str) -> None:
        for wish in [w for w in self.wishes.values() if w.user == party]:
            self.end_wish(wish, "cancelled")
        for offer in [o for o in self.offers.values() if o.pile.owner == party]:
            self.end_offer(offer, "cancelled")

    def register_pile(self, _: str, pile: Pile) -> str:
        if pile.owner not in self.parties:
            return "unknown_party"
        if pile.name in self.piles:
            return "exists"
        self.piles[pile.name] = pile
        self.pile_came_or_went(self.zones.setdefault(pile.zone, Zone(pile.zone)))
        return "ok"

    def retire_pile(self, sender: str, name: str) -> str:
        pile = self.piles.get(name)
        if pile is None or pile.retired:
            return "unknown_pile"
        if self.parties[sender].role == PILE_OWNER and pile.owner != sender:
            return "not_yours"
        if any(deal.offer.pile is pile for deal in self.deals.values()):
            return "busy"
        pile.retired = True
        for offer in [o for o in self.offers.values() if o.pile is pile]:
            self.end_offer(offer, "cancelled")
        self.pile_came_or_went(self.zones[pile.zone])
        return "ok"

    # Money in and out

    def deposit(self, sender: str, party: str, micro: int, reference: str) -> str:
        if sender != self.params["treasury"]:
            return "wrong_role"
        if party not in self.parties:
            return "unknown_party"
        if reference in self.references:
            return "exists"
        self.references.add(reference)
        self.move("X", f"P:{party}", micro)
        return "ok"

    def withdraw(self, sender: str, name: str, micro: int) -> str:
        if not self.has(f"P:{sender}", micro):
            return "funds"
        self.withdrawals[name] = sender, micro
        self.move(f"P:{sender}", f"W:{name}", micro)
        return "ok"

    def pay_out(self, sender: str, name: str, reference: str) -> str:
        if sender != self.params["treasury"]:
            return "wrong_role"
        if name not in self.withdrawals:
            return "unknown_withdrawal"
        if reference in self.references:
            return "exists"
        self.references.add(reference)
        self.empty(f"W:{name}", "X")
        del self.withdrawals[name]
        return "ok"

    def refuse_withdrawal(self, sender: str, name: str) -> str:
        if sender != self.params["treasury"]:
            return "wrong_role"
        if name not in self.withdrawals:
            return "unknown_withdrawal"
        self.empty(f"W:{name}", f"P:{self.withdrawals.pop(name)[0]}")
        return "ok"

    def collect_fees(self, sender: str, party: str, micro: int) -> str:
        if sender != self.params["treasury"]:
            return "wrong_role"
        if party not in self.parties or self.parties[party].role not in {GRID, OPERATOR}:
            return "unknown_party"
        if not self.has("F", micro):
            return "funds"
        self.move("F", f"P:{party}", micro)
        return "ok"

    def empty(self, account: str, into: str) -> None:
        self.move(account, into, self.money.get(account, 0))

    # Tariff, price and terms

    def set_tariff(self, sender: str, from_ms: int, tariff: Tariff) -> str:
        if sender != self.params["grid"]:
            return "wrong_role"
        if from_ms < self.now_ms:
            return "window"
        self.announced = from_ms, tariff
        return "ok"

    def catalog(self, start_ms: int) -> tuple[int, int]:
        """Selling and buying price of the period in which a window starts."""
        minute = (start_ms // 60_000 + self.tariff.offset_minutes) % 1440
        return [(sell, buy) for since, sell, buy in self.tariff.periods if since <= minute][-1]

    def top(self, sell: int) -> int:
        """The upper edge of the band: the highest price inside it."""
        return share(sell, self.params["band_permille"])

    def price_at(self, zone: Zone, sell: int, load_wh: int) -> int:
        return curve_price(
            sell, zone.capacity_wh, load_wh, self.params["crr_numerator"], self.params["crr_denominator"]
        )

    def tolerance_wh(self, energy_wh: int) -> int:
        return max(share(energy_wh, self.params["tolerance_permille"]), self.params["tolerance_min_wh"])

    def overuse_wh(self, energy_wh: int) -> int:
        return max(share(energy_wh, self.params["overuse_permille"]), self.tolerance_wh(energy_wh))

    def escrow(self, energy_wh: int, price: int, sell: int) -> int:
        beyond = cost(self.overuse_wh(energy_wh), max(sell, price))
        return cost(energy_wh, price) + beyond + self.params["fee_micro"]

    def hold(self, wish: Wish) -> int:
        """What a bid puts up."""
        (sell, _), energy_wh = self.catalog(wish.start_ms), wish.energy_wh
        n = max(1, min(MAX_PIECES, energy_wh // 1000))
        if not wish.divisible or n == 1:
            return self.escrow(energy_wh, wish.limit, sell)
        beyond_wh = max(
            share(energy_wh, self.params["overuse_permille"]), share(energy_wh, self.params["tolerance_permille"])
        )
        beyond_wh += n * self.params["tolerance_min_wh"]
        beyond = cost(beyond_wh, max(sell, wish.limit))
        return cost(energy_wh, wish.limit) + (n - 1) + beyond + (n - 1) + n * self.params["fee_micro"]

    def bond(self, energy_wh: int, sell: int) -> int:
        return ceil(Fraction(energy_wh * sell * self.params["bond_permille"], 1000 * 1000))

    def grace_end_ms(self, wish: Wish) -> int:
        return min(wish.start_ms + self.params["begin_grace_ms"], wish.end_ms)

    # Orders

    def offer(self, sender: str, offer: Offer) -> str:
        offer.pile = self.piles.get(offer.pile.name, offer.pile)  # the one of that name by now
        if offer.pile.name not in self.piles or offer.pile.retired:
            return "unknown_pile"
        if offer.pile.owner != sender:
            return "not_yours"
        if offer.end_ms <= self.now_ms or offer.start_ms >= offer.end_ms:
            return "window"
        bands = [(buy, self.top(sell)) for _, sell, buy in self.tariff.periods]
        if offer.ask >= 0 and not any(low <= offer.ask <= high for low, high in bands):
            return "band"
        self.offers[offer.name] = offer
        return "ok"

    def unlist(self, sender: str, name: str) -> str:
        if name not in self.offers:
            return "unknown_order"
        if self.offers[name].pile.owner != sender:
            return "not_yours"
        self.end_offer(self.offers[name], "cancelled")
        return "ok"

    def bid(self, sender: str, wish: Wish) -> str:
        if wish.zone not in self.zones:
            return "unknown_zone"
        piles = [pile for pile in self.piles.values() if pile.zone == wish.zone and not pile.retired]
        if wish.pile and wish.pile not in [pile.name for pile in piles]:
            return "unknown_pile"
        last_ms = wish.start_ms if wish.explicit else self.grace_end_ms(wish)
        if wish.start_ms >= wish.end_ms or self.now_ms >= last_ms:
            return "window"
        if not wish.market and not self.now_ms < wish.expires_ms <= wish.end_ms:
            return "window"
        if wish.energy_wh % LOT_WH:
            return "energy"
        wish.hold_micro = self.hold(wish)
        if not self.has(f"P:{sender}", wish.hold_micro):
            return "funds"
        wish.expires_ms = last_ms if wish.market else min(wish.expires_ms, last_ms)
        wish.key = self.parties[sender].key
        self.move(f"P:{sender}", f"E:{wish.name}", wish.hold_micro)
        self.wishes[wish.name] = wish
        return "ok"

    def cancel(self, sender: str, name: str) -> str:
        if name not in self.wishes:
            return "unknown_order"
        if self.wishes[name].user != sender:
            return "not_yours"
        self.end_wish(self.wishes[name], "cancelled")
        return "ok"

    def end_wish(self, wish: Wish, how: str) -> None:
        del self.wishes[wish.name]
        self.move(f"E:{wish.name}", f"P:{wish.user}", wish.hold_micro)
        if how != "filled":
            self.closed.append((wish.name, how))

    def end_offer(self, offer: Offer, how: str) -> None:
        del self.offers[offer.name]
        self.closed.append((offer.name, how))

    # Clearing

    def clear(self, zone: Zone, seed: bytes) -> None:
        fresh: list[Deal] = []
        for wish in self.in_order(zone, seed):
            if self.now_ms >= zone.paused_until_ms:
                self.fill(zone, wish, fresh)
        self.write_down(zone, fresh)
        for wish in [w for w in self.wishes.values() if w.zone == zone.name]:
            if wish.energy_wh == 0:
                self.end_wish(wish, "filled")
            elif wish.market or wish.pieces == MAX_PIECES:
                self.end_wish(wish, "unfilled")
        for offer in [o for o in self.offers.values() if o.energy_wh < LOT_WH]:
            self.end_offer(offer, "spent")
        self.watch(zone)

    def in_order(self, zone: Zone, seed: bytes) -> list[Wish]:
        """The load they accept, highest first; then their limit, dearest first; then a hash nobody can choose."""

        def key(wish: Wish) -> tuple[Fraction, int, bytes]:
            sell, _ = self.catalog(wish.start_ms)
            return Fraction(-self.ceiling(wish), sell), -wish.limit, sha256(seed + wish.order_id).digest()

        return sorted((wish for wish in self.wishes.values() if wish.zone == zone.name), key=key)

    def ceiling(self, wish: Wish) -> int:
        """No curve price above this, whoever is filled after it."""
        return min(wish.limit, self.top(self.catalog(wish.start_ms)[0]))

    def fill(self, zone: Zone, wish: Wish, fresh: list[Deal]) -> None:
        """Whole; or, if it is divisible, in pieces."""
        whole = [] if len(fresh) >= MAX_FILLS else self.supplies(zone, wish, wish.energy_wh)
        if whole and self.fits(zone, wish, whole[0], wish.energy_wh, fresh):
            self.take(zone, wish, whole[0], wish.energy_wh, fresh)
        while wish.divisible and wish.energy_wh >= PIECE_WH and wish.pieces < MAX_PIECES and len(fresh) < MAX_FILLS:
            pieces = [(s, self.piece_wh(zone, wish, s, fresh)) for s in self.supplies(zone, wish, PIECE_WH)]
            possible = [(supply, energy_wh) for supply, energy_wh in pieces if energy_wh]
            if not possible:
                break
            self.take(zone, wish, *possible[0], fresh)

    def supplies(self, zone: Zone, wish: Wish, energy_wh: int) -> list[Offer]:
        """All that can feasibly give so much, cheapest first."""
        feasible = [offer for offer in self.offers.values() if self.feasible(zone, wish, offer, energy_wh)]

        def key(offer: Offer) -> tuple[int, bool, str, bytes]:
            return self.asked_price(zone, wish, offer, energy_wh), offer.ask < 0, offer.pile.name, offer.order_id

        return sorted(feasible, key=key)

    def asked_price(self, zone: Zone, wish: Wish, offer: Offer, energy_wh: int) -> int:
        sell, _ = self.catalog(wish.start_ms)
        return offer.ask if offer.ask >= 0 else self.price_at(zone, sell, zone.load_wh + energy_wh)

    def feasible(self, zone: Zone, wish: Wish, offer: Offer, energy_wh: int) -> bool:
        """Point 3."""
        pile, (sell, buy) = offer.pile, self.catalog(wish.start_ms)
        if not (
            pile.zone == zone.name
            and wish.pile in {"", pile.name}
            and offer.start_ms <= wish.start_ms
            and wish.end_ms <= offer.end_ms
            and energy_wh <= offer.energy_wh
            and not pile.retired
            and (self.now_ms < wish.start_ms or not (wish.explicit or offer.explicit))
        ):
            return False
        taken = [deal.wish for deal in self.deals.values() if deal.offer.pile is pile]
        left_ms = wish.end_ms - max(wish.start_ms, self.now_ms)
        price = self.asked_price(zone, wish, offer, energy_wh)
        dearest = (
            self.ceiling(wish) if offer.ask < 0 else price
        )  # bids after this one may still raise the curve's price
        return (
            not any(wish.start_ms < other.end_ms and other.start_ms < wish.end_ms for other in taken)
            and energy_wh <= Fraction(pile.power_w * left_ms, HOUR_MS)
            and self.has(f"P:{pile.owner}", self.bond(energy_wh, sell))
            and (price > wish.limit or self.escrow(energy_wh, dearest, sell) <= wish.hold_micro)
            and buy <= price <= self.top(sell)
        )

    def fits(self, zone: Zone, wish: Wish, offer: Offer, energy_wh: int, fresh: list[Deal]) -> bool:
        """Point 4, and the band."""
        if self.asked_price(zone, wish, offer, energy_wh) > self.ceiling(wish):
            return False
        load_wh = zone.load_wh + energy_wh
        admitted = [(deal.sell, self.ceiling(deal.wish)) for deal in fresh if deal.on_curve]
        return offer.ask >= 0 or all(self.price_at(zone, sell, load_wh) <= most for sell, most in admitted)

    def piece_wh(self, zone: Zone, wish: Wish, offer: Offer, fresh: list[Deal]) -> int:
        """As much of an offer as fits, at least 1 kWh and leaving none or at least 1 kWh; 0 if it cannot give that."""
        left_ms = wish.end_ms - max(wish.start_ms, self.now_ms)
        gives_wh = min(wish.energy_wh, offer.energy_wh, offer.pile.power_w * left_ms // HOUR_MS) // LOT_WH * LOT_WH
        for energy_wh in range(gives_wh, PIECE_WH - 1, -LOT_WH):
            left_wh = wish.energy_wh - energy_wh
            is_whole = left_wh == 0 or left_wh >= PIECE_WH
            if (
                is_whole
                and self.fits(zone, wish, offer, energy_wh, fresh)
                and self.feasible(zone, wish, offer, energy_wh)
            ):
                return energy_wh
        return 0

    def take(self, zone: Zone, wish: Wish, offer: Offer, energy_wh: int, fresh: list[Deal]) -> None:
        """A contract. Until the clearing is done, one on the curve has the most set aside that its bid accepts."""
        sell, buy = self.catalog(wish.start_ms)
        on_curve = offer.ask < 0
        price = self.ceiling(wish) if on_curve else offer.ask
        name = f"{wish.name}.{wish.pieces}" if wish.divisible else wish.name
        deal = Deal(name, wish, offer, energy_wh, on_curve, price, sell, buy)
        deal.escrow_micro, deal.bond_micro = self.escrow(energy_wh, price, sell), self.bond(energy_wh, sell)
        wish.hold_micro -= deal.escrow_micro
        wish.energy_wh -= energy_wh
        wish.pieces += 1
        offer.energy_wh -= energy_wh
        deal.asked = {side for side, order in (("user", wish), ("owner", offer)) if order.explicit}
        deal.deadline_ms = self.grace_end_ms(wish) + self.params["evidence_window_ms"]
        if deal.asked:
            deal.phase = "proposed"
            deal.deadline_ms = min(self.now_ms + self.params["sign_window_ms"], wish.start_ms)
        self.deals[name] = deal
        self.move(f"P:{deal.owner}", f"B:{name}", deal.bond_micro)
        if on_curve:
            zone.load_wh += energy_wh
        fresh.append(deal)

    def write_down(self, zone: Zone, fresh: list[Deal]) -> None:
        """Point 5, and the escrows."""
        for deal in fresh:
            if deal.on_curve:
                deal.price = self.price_at(zone, deal.sell, zone.load_wh)
            provisional, deal.escrow_micro = deal.escrow_micro, self.escrow(deal.energy_wh, deal.price, deal.sell)
            deal.wish.hold_micro += provisional - deal.escrow_micro
            self.move(f"E:{deal.wish.name}", f"E:{deal.name}", deal.escrow_micro)

    def watch(self, zone: Zone) -> None:
        """The breaker, by prices at a catalog price of 1 of the currency."""
        zone.reference_wh = min(zone.reference_wh, zone.load_wh)
        before, now = (self.price_at(zone, 1_000_000, load_wh) for load_wh in (zone.reference_wh, zone.load_wh))
        allowed = Fraction(before * (1000 + self.params["breaker_permille"]), 1000)
        if self.params["breaker_permille"] and now > allowed:
            zone.paused_until_ms = self.now_ms + self.params["breaker_pause_ms"]
            zone.reference_wh = zone.load_wh

    # Signing and calling off

    def sign(self, sender: str, name: str) -> str:
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        side = deal.side(sender)
        if not side:
            return "not_yours"
        if deal.phase != "proposed" or side not in deal.asked - deal.signed:
            return "phase"
        deal.signed.add(side)
        if deal.signed == deal.asked:
            deal.phase = "signed"
            deal.deadline_ms = self.grace_end_ms(deal.wish) + self.params["evidence_window_ms"]
        return "ok"

    def cancel_contract(self, sender: str, name: str) -> str:
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        side = deal.side(sender)
        if not side:
            return "not_yours"
        if deal.phase == "proposed" and side in deal.asked - deal.signed:
            self.unsigned(deal, side)
            return "ok"
        if deal.phase not in {"proposed", "signed"}:
            return "phase"
        cutoff_ms = self.params["cancel_cutoff_ms"]
        in_time = self.now_ms + cutoff_ms <= deal.wish.start_ms if side == "user" else self.now_ms < deal.wish.start_ms
        if not in_time:
            return "late"
        if side == "user":
            self.post(deal, [("E", "F", self.params["fee_micro"])])
        else:
            self.post(deal, [("B", "U", share(deal.bond_micro, self.params["penalty_permille"]))])
        self.close(deal, "cancelled")
        return "ok"

    def unsigned(self, deal: Deal, by: str) -> None:
        fee = self.params["fee_micro"]
        self.post(deal, [("E", "F", fee) if by == "user" else ("B", "F", min(deal.bond_micro, fee))])
        self.close(deal, "unsigned")

    # Sessions

    def proof(
        self, _: str, pile: str, event: int, deal_name: str, at_ms: int, energy_wh: int, reason: int, meter: bool
    ) -> str:
        """A believed proof with one reading; `meter` says whether its meter is the registered one."""
        named = self.deals.get(deal_name)
        if named is not None and event == BEGIN and named.phase == "signed":
            self.begin(named, at_ms, energy_wh, meter)
        elif named is not None and named.phase == "active":
            named.last_wh = energy_wh
            if event == END:
                self.measure(named, "user" if reason in USER_REASONS else "pile")
        waiting = [d for d in self.deals.values() if d.offer.pile.name == pile and d.phase in {"signed", "proposed"}]
        for deal in waiting:
            if at_ms > self.grace_end_ms(deal.wish):
                self.nobody_came(deal)
            elif at_ms >= deal.wish.start_ms:
                busy = self.piles[pile].serves or event == END
                deal.present = event != ALARM and not busy
        return "ok"

    def begin(self, deal: Deal, at_ms: int, energy_wh: int, meter: bool) -> None:
        """One after the grace is the user's doing, whatever else is wrong with it."""
        if at_ms > self.grace_end_ms(deal.wish):
            return
        if at_ms < deal.wish.start_ms or not meter:
            self.default(deal)
        else:
            deal.phase, deal.begin_wh, deal.last_wh = "active", energy_wh, energy_wh
            deal.deadline_ms = deal.wish.end_ms + self.params["evidence_window_ms"]
            deal.offer.pile.serves = deal.name

    def nobody_came(self, deal: Deal) -> None:
        if not deal.present:
            self.default(deal)
            return
        due = share(cost(deal.energy_wh, deal.price), self.params["no_show_permille"])
        self.post(deal, [("E", "H", due), ("E", "F", self.params["fee_micro"])])
        self.close(deal, "no-show")

    def default(self, deal: Deal) -> None:
        self.post(deal, [("B", "U", share(deal.bond_micro, self.params["penalty_permille"]))])
        self.close(deal, "defaulted")

    def measure(self, deal: Deal, cause: str) -> None:
        deal.phase, deal.cause = "measured", cause
        deal.metered_wh = deal.last_wh - deal.begin_wh
        deal.deadline_ms = self.now_ms + self.params["confirm_window_ms"]
        deal.offer.pile.serves = ""

    # Settlement

    def confirm(self, sender: str, name: str, knows_it: bool) -> str:
        """`knows_it`: the settlement was written down when the party signed, so its digest is the right one."""
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        side = deal.side(sender)
        if not side:
            return "not_yours"
        if deal.phase != "measured" or side in deal.confirmed:
            return "phase"
        if not knows_it:
            return "digest"
        deal.confirmed.add(side)
        if deal.confirmed == {"user", "owner"}:
            self.settle(deal, "confirmed")
        return "ok"

    def settle(self, deal: Deal, how: str) -> None:
        self.post(deal, self.journal(deal, deal.metered_wh, deal.cause))
        self.close(deal, how)

    def journal(self, deal: Deal, metered_wh: int, cause: str) -> list[Row]:
        """The table of the guide, all but what is left."""
        agreed, price = deal.energy_wh, deal.price
        counted = min(metered_wh, agreed + self.overuse_wh(agreed))  # M' of the guide
        fee = ("E", "F", self.params["fee_micro"])
        if abs(metered_wh - agreed) <= self.tolerance_wh(agreed):
            return [("E", "H", cost(counted, price)), fee]
        if metered_wh > agreed:
            return [("E", "H", cost(agreed, price)), ("E", "G", cost(counted - agreed, deal.sell)), fee]
        if cause == "user":
            return [("E", "H", cost(agreed, price)), ("G", "E", cost(agreed - metered_wh, min(deal.buy, price))), fee]
        dearer = min(deal.bond_micro, cost(agreed - metered_wh, max(0, deal.sell - price)))
        return [("E", "H", cost(metered_wh, price)), ("B", "E", dearer), fee]

    def post(self, deal: Deal, rows: list[Row]) -> None:
        accounts = {"U": f"P:{deal.wish.user}", "H": f"P:{deal.owner}", "G": f"P:{self.params['grid']}", "F": "F"}
        accounts |= {letter: f"{letter}:{deal.name}" for letter in "EBD"}
        for debit, credit, micro in rows:
            self.move(accounts[debit], accounts[credit], micro)

    def close(self, deal: Deal, how: str) -> None:
        """What is left of escrow and bond goes back."""
        self.empty(f"E:{deal.name}", f"P:{deal.wish.user}")
        self.empty(f"B:{deal.name}", f"P:{deal.owner}")
        del self.deals[deal.name]
        if deal.on_curve:
            self.zones[deal.wish.zone].load_wh -= deal.energy_wh
        if deal.offer.pile.serves == deal.name:
            deal.offer.pile.serves = ""
        self.closed.append((deal.name, how))

    # Disputes

    def object(self, sender: str, name: str, ground: str) -> str:
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        side = deal.side(sender)
        if not side:
            return "not_yours"
        if deal.phase != "measured" or side in deal.confirmed:
            return "phase"
        if not self.has(f"P:{sender}", self.params["objection_bond_micro"]):
            return "funds"
        self.move(f"P:{sender}", f"D:{name}", self.params["objection_bond_micro"])
        deal.phase, deal.dispute = "disputed", Dispute(side, ground)
        deal.deadline_ms = self.now_ms + self.params["dispute_window_ms"]
        return "ok"

    def answer(self, sender: str, name: str, stops: str, key: str) -> str:
        """A stop command of the contract `stops`, signed with `key`; "" for a command that does not stop anything."""
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        if deal.owner != sender:
            return "not_yours"
        if deal.dispute is None or (deal.dispute.objector, deal.dispute.ground) != ("user", "cause"):
            return "phase"
        if stops != name or key != deal.wish.key:
            return "evidence"
        self.resolve(deal, deal.metered_wh, deal.cause)
        return "ok"

    def rule(self, sender: str, name: str, metered_wh: int, cause: str) -> str:
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        if deal.dispute is None:
            return "phase"
        cause = cause if metered_wh < deal.energy_wh - self.tolerance_wh(deal.energy_wh) else "none"
        deal.dispute.rulings[sender] = metered_wh, cause
        same = [word for word in deal.dispute.rulings.values() if word == (metered_wh, cause)]
        if len(same) >= self.params["rulings_needed"]:
            self.resolve(deal, metered_wh, cause)
        return "ok"

    def dispute_timed_out(self, deal: Deal) -> None:
        contested = deal.dispute is not None and (deal.dispute.objector, deal.dispute.ground) == ("user", "cause")
        self.resolve(deal, deal.metered_wh, "pile" if contested else deal.cause)

    def resolve(self, deal: Deal, metered_wh: int, cause: str) -> None:
        """The journal; then the objector's bond, and as much again from what is left for the loser if the objector wins."""
        assert deal.dispute is not None
        said, rows = self.journal(deal, deal.metered_wh, deal.cause), self.journal(deal, metered_wh, cause)
        objector, other = ("U", "H") if deal.dispute.objector == "user" else ("H", "U")
        won = self.worth(deal, rows)[objector] > self.worth(deal, said)[objector]
        bond = self.money.get(f"D:{deal.name}", 0)
        self.post(deal, [*rows, ("D", objector if won else other, bond)])
        if won:
            pot = "B" if objector == "U" else "E"
            self.post(deal, [(pot, objector, min(bond, self.money.get(f"{pot}:{deal.name}", 0)))])
        self.close(deal, "resolved")

    def worth(self, deal: Deal, rows: list[Row]) -> dict[str, int]:
        """What user and owner have of a journal in the end."""
        pots = {"U": 0, "H": 0, "G": 0, "F": 0, "E": deal.escrow_micro, "B": deal.bond_micro}
        for debit, credit, micro in rows:
            pots[debit] -= micro
            pots[credit] += micro
        return {"U": pots["U"] + pots["E"], "H": pots["H"] + pots["B"]}
