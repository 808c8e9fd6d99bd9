"""The market of docs/ledger.md written a second time, slow and obvious, from the guide alone.

Nothing here is imported from the chain. Orders go by short names ("b1", "l1") and a contract by the name of its bid; money lies
in one dict. Proofs are those an honest clock and meter make, so anomalies are not part of this model.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import sha256
from math import ceil, floor

HOUR_MS = 3_600_000
BEGIN, PERIODIC, END, HEARTBEAT, ALARM = range(5)
USER_REASONS = (1, 2, 3, 4)


@dataclass
class Pile:
    name: str
    owner: str
    zone: str
    power_w: int
    serves: str = ""


@dataclass
class Offer:
    name: str
    rank: bytes
    pile: Pile
    start_ms: int
    end_ms: int
    energy_wh: int
    ask: int  # per kWh; -1 is at market


@dataclass
class Wish:
    name: str
    order_id: bytes
    user: str
    zone: str
    pile: str
    energy_wh: int
    start_ms: int
    end_ms: int
    limit: int
    market: bool
    expires_ms: int


@dataclass
class Deal:
    wish: Wish
    offer: Offer
    on_curve: bool
    price: int = 0
    phase: str = "signed"
    deadline_ms: int = 0
    present: bool = False
    begin_wh: int = 0
    last_wh: int = 0
    metered_wh: int = 0
    cause: str = ""
    confirmed: set[str] = field(default_factory=set)

    @property
    def owner(self) -> str:
        return self.offer.pile.owner


def cost(energy_wh: int, price: int) -> int:
    """Micro for an energy at a price per kWh: rounded up, once."""
    return ceil(Fraction(energy_wh * price, 1000))


def share(whole: int, permille: int) -> int:
    """So many thousandths of what is whole already, rounded down. The guide leaves open which way; the chain's way is taken."""
    return floor(Fraction(whole * permille, 1000))


class Model:
    """All parties, orders and money. `block` is one block; its answers are codes; `closed` is how orders ended in it."""

    def __init__(self, params: dict[str, int], piles: list[Pile]) -> None:
        self.params = params
        self.piles = {pile.name: pile for pile in piles}
        self.money: dict[str, int] = {}
        self.load_wh = {pile.zone: 0 for pile in piles}
        self.offers: dict[str, Offer] = {}
        self.wishes: dict[str, Wish] = {}
        self.deals: dict[str, Deal] = {}
        self.closed: list[tuple[str, str]] = []
        self.now_ms = 0

    def move(self, debit: str, credit: str, micro: int) -> None:
        assert micro >= 0
        self.money[debit] = self.money.get(debit, 0) - micro
        self.money[credit] = self.money.get(credit, 0) + micro

    def has(self, account: str, micro: int) -> bool:
        return self.money.get(account, 0) >= micro

    def books(self) -> dict[str, int]:
        return {account: micro for account, micro in self.money.items() if micro}

    # Price

    def reserve(self, zone: str, load_wh: int) -> int:
        """B(S): the smallest whole B with B^a >= B0^a (S / S0)^b, where CRR is a / b."""
        a, b = self.params["crr_numerator"], self.params["crr_denominator"]
        capacity = self.capacity_wh(zone)
        anchor = Fraction(self.params["catalog_sell_micro_per_kwh"] * capacity * a, b)
        wanted = anchor**a * Fraction(capacity + load_wh, capacity) ** b
        low, high = 0, 1
        while high**a < wanted:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if middle**a >= wanted else (middle + 1, high)
        return low

    def capacity_wh(self, zone: str) -> int:
        return sum(p.power_w for p in self.piles.values() if p.zone == zone) * self.params["capacity_hours"]

    def curve_price(self, zone: str, load_wh: int) -> int:
        crr = Fraction(self.params["crr_numerator"], self.params["crr_denominator"])
        return ceil(self.reserve(zone, load_wh) / ((self.capacity_wh(zone) + load_wh) * crr))

    # Terms

    def tolerance_wh(self, energy_wh: int) -> int:
        return max(share(energy_wh, self.params["tolerance_permille"]), self.params["tolerance_min_wh"])

    def overuse_wh(self, energy_wh: int) -> int:
        return max(share(energy_wh, self.params["overuse_permille"]), self.tolerance_wh(energy_wh))

    def escrow(self, energy_wh: int, price: int) -> int:
        dearer = max(self.params["catalog_sell_micro_per_kwh"], price)
        return cost(energy_wh, price) + cost(self.overuse_wh(energy_wh), dearer) + self.params["fee_micro"]

    def bond(self, energy_wh: int) -> int:
        catalog = self.params["catalog_sell_micro_per_kwh"]
        return ceil(Fraction(energy_wh * catalog * self.params["bond_permille"], 1000 * 1000))

    def grace_end_ms(self, start_ms: int, end_ms: int) -> int:
        return min(start_ms + self.params["begin_grace_ms"], end_ms)

    # A block

    def block(self, now_ms: int, seed: bytes, actions: list[tuple]) -> list[str]:  # type: ignore[type-arg]
        """What fell due, then the actions, each (sender, method, arguments), then the clearing; a code per action."""
        self.now_ms, self.closed = now_ms, []
        self.run_deadlines()
        codes: list[str] = []
        refused = set()
        for sender, method, *arguments in actions:
            code = "sequence_gap" if sender in refused else getattr(self, method)(*arguments)
            codes.append(code)
            if code != "ok":
                refused.add(sender)
        for zone in sorted(self.load_wh):
            self.clear(zone, seed)
        return codes

    def run_deadlines(self) -> None:
        for wish in list(self.wishes.values()):
            if self.now_ms >= wish.expires_ms:
                self.drop_wish(wish, "expired")
        for deal in list(self.deals.values()):
            if self.now_ms < deal.deadline_ms:
                continue
            if deal.phase == "signed":
                self.nobody_came(deal)
            elif deal.phase == "active":
                self.measure(deal, "pile")
            else:
                self.settle(deal, "settled")

    # Orders

    def offer(self, offer: Offer) -> str:
        if offer.end_ms <= self.now_ms or offer.start_ms >= offer.end_ms:
            return "window"
        self.offers[offer.name] = offer
        return "ok"

    def unlist(self, name: str) -> str:
        return "ok" if self.offers.pop(name, None) else "unknown_order"

    def bid(self, wish: Wish) -> str:
        last_ms = self.grace_end_ms(wish.start_ms, wish.end_ms)
        if self.now_ms >= last_ms or (not wish.market and not self.now_ms < wish.expires_ms <= wish.end_ms):
            return "window"
        hold = self.escrow(wish.energy_wh, wish.limit)
        if not self.has(f"P:{wish.user}", hold):
            return "funds"
        wish.expires_ms = last_ms if wish.market else min(wish.expires_ms, last_ms)
        self.move(f"P:{wish.user}", f"E:{wish.name}", hold)
        self.wishes[wish.name] = wish
        return "ok"

    def cancel(self, name: str) -> str:
        if name not in self.wishes:
            return "unknown_order"
        self.drop_wish(self.wishes[name], "cancelled")
        return "ok"

    def drop_wish(self, wish: Wish, how: str) -> None:
        del self.wishes[wish.name]
        self.empty(f"E:{wish.name}", f"P:{wish.user}")
        self.closed.append((wish.name, how))

    def empty(self, account: str, into: str) -> None:
        self.move(account, into, self.money.get(account, 0))

    # Clearing

    def clear(self, zone: str, seed: bytes) -> None:
        waiting = [wish for wish in self.wishes.values() if wish.zone == zone]
        waiting.sort(key=lambda wish: (-wish.limit, sha256(seed + wish.order_id).digest()))
        fresh = []
        for wish in waiting:
            supplies = [self.supply(wish, offer) for offer in self.offers.values() if self.feasible(wish, offer)]
            if supplies and min(supplies)[0] <= wish.limit:
                fresh.append(self.sign(wish, min(supplies)))
            elif wish.market:
                self.drop_wish(wish, "unfilled")
        for deal in fresh:
            if deal.on_curve:
                deal.price = self.curve_price(zone, self.load_wh[zone])
            name, excess = deal.wish.name, self.escrow(deal.wish.energy_wh, deal.wish.limit)
            self.move(f"E:{name}", f"P:{deal.wish.user}", excess - self.escrow(deal.wish.energy_wh, deal.price))

    def supply(self, wish: Wish, offer: Offer) -> tuple[int, bool, str, bytes, str]:
        """What is compared to find the cheapest: price, an ask before the curve, the smaller pile id (then listing id)."""
        on_curve = offer.ask < 0
        price = self.curve_price(wish.zone, self.load_wh[wish.zone] + wish.energy_wh) if on_curve else offer.ask
        return price, on_curve, offer.pile.name, offer.rank, offer.name

    def feasible(self, wish: Wish, offer: Offer) -> bool:
        pile = offer.pile
        taken = [deal.wish for deal in self.deals.values() if deal.offer.pile is pile]
        left_ms = wish.end_ms - max(wish.start_ms, self.now_ms)
        return (
            pile.zone == wish.zone
            and wish.pile in ("", pile.name)
            and offer.start_ms <= wish.start_ms
            and wish.end_ms <= offer.end_ms
            and wish.energy_wh <= offer.energy_wh
            and not any(wish.start_ms < other.end_ms and other.start_ms < wish.end_ms for other in taken)
            and wish.energy_wh <= Fraction(pile.power_w * left_ms, HOUR_MS)
            and self.has(f"P:{pile.owner}", self.bond(wish.energy_wh))
        )

    def sign(self, wish: Wish, supply: tuple[int, bool, str, bytes, str]) -> Deal:
        price, on_curve, _, _, offer_name = supply
        offer = self.offers[offer_name]
        offer.energy_wh -= wish.energy_wh
        deal = Deal(wish, offer, on_curve, price)
        deal.deadline_ms = self.grace_end_ms(wish.start_ms, wish.end_ms) + self.params["evidence_window_ms"]
        self.deals[wish.name] = deal
        del self.wishes[wish.name]
        self.move(f"P:{offer.pile.owner}", f"B:{wish.name}", self.bond(wish.energy_wh))
        if on_curve:
            self.load_wh[wish.zone] += wish.energy_wh
        return deal

    # Sessions

    def proof(self, pile: str, event: int, deal_name: str, at_ms: int, energy_wh: int, reason: int, meter: bool) -> str:
        """A believed proof with one reading; `meter` says whether its meter is the registered one."""
        named = self.deals.get(deal_name)
        if named is not None and event == BEGIN and named.phase == "signed":
            self.begin(named, at_ms, energy_wh, meter)
        elif named is not None and named.phase == "active":
            named.last_wh = energy_wh
            if event == END:
                self.measure(named, "user" if reason in USER_REASONS else "pile")
        for deal in [d for d in self.deals.values() if d.offer.pile.name == pile and d.phase == "signed"]:
            last_ms = self.grace_end_ms(deal.wish.start_ms, deal.wish.end_ms)
            if at_ms > last_ms:
                self.nobody_came(deal)
            elif at_ms >= deal.wish.start_ms:
                busy = self.piles[pile].serves or event == END
                deal.present = event != ALARM and not busy
        return "ok"

    def begin(self, deal: Deal, at_ms: int, energy_wh: int, meter: bool) -> None:
        if at_ms < deal.wish.start_ms or not meter:
            self.default(deal)
        elif at_ms <= self.grace_end_ms(deal.wish.start_ms, deal.wish.end_ms):
            deal.phase, deal.begin_wh, deal.last_wh = "active", energy_wh, energy_wh
            deal.deadline_ms = deal.wish.end_ms + self.params["evidence_window_ms"]
            deal.offer.pile.serves = deal.wish.name

    def nobody_came(self, deal: Deal) -> None:
        if not deal.present:
            self.default(deal)
            return
        name, wish = deal.wish.name, deal.wish
        due = share(cost(wish.energy_wh, deal.price), self.params["no_show_permille"])
        self.move(f"E:{name}", f"P:{deal.owner}", due)
        self.move(f"E:{name}", "F", self.params["fee_micro"])
        self.close(deal, "no-show")

    def default(self, deal: Deal) -> None:
        penalty = share(self.bond(deal.wish.energy_wh), self.params["penalty_permille"])
        self.move(f"B:{deal.wish.name}", f"P:{deal.wish.user}", penalty)
        self.close(deal, "defaulted")

    def measure(self, deal: Deal, cause: str) -> None:
        deal.phase, deal.cause = "measured", cause
        deal.metered_wh = deal.last_wh - deal.begin_wh
        deal.deadline_ms = self.now_ms + self.params["confirm_window_ms"]
        deal.offer.pile.serves = ""

    def confirm(self, party: str, name: str, knows_it: bool) -> str:
        """`knows_it`: the settlement was written down when the party signed, so its digest is the right one."""
        deal = self.deals.get(name)
        if deal is None:
            return "unknown_contract"
        if deal.phase != "measured":
            return "phase"
        if not knows_it:
            return "digest"
        deal.confirmed.add(party)
        if deal.confirmed == {deal.wish.user, deal.owner}:
            self.settle(deal, "confirmed")
        return "ok"

    def settle(self, deal: Deal, how: str) -> None:
        agreed, price = deal.wish.energy_wh, deal.price
        name, owner = deal.wish.name, f"P:{deal.owner}"
        catalog, buying = self.params["catalog_sell_micro_per_kwh"], self.params["catalog_buy_micro_per_kwh"]
        metered = min(deal.metered_wh, agreed + self.overuse_wh(agreed))  # M' of the guide
        if abs(deal.metered_wh - agreed) <= self.tolerance_wh(agreed):
            self.move(f"E:{name}", owner, cost(metered, price))
        elif metered > agreed:
            self.move(f"E:{name}", owner, cost(agreed, price))
            self.move(f"E:{name}", "P:grid", cost(metered - agreed, catalog))
        elif deal.cause == "user":
            self.move(f"E:{name}", owner, cost(agreed, price))
            self.move("P:grid", f"E:{name}", cost(agreed - metered, min(buying, price)))
        else:
            self.move(f"E:{name}", owner, cost(metered, price))
            dearer = cost(agreed - metered, max(0, catalog - price))
            self.move(f"B:{name}", f"E:{name}", min(self.bond(agreed), dearer))
        self.move(f"E:{name}", "F", self.params["fee_micro"])
        self.close(deal, how)

    def close(self, deal: Deal, how: str) -> None:
        name = deal.wish.name
        self.empty(f"E:{name}", f"P:{deal.wish.user}")
        self.empty(f"B:{name}", f"P:{deal.owner}")
        if deal.on_curve:
            self.load_wh[deal.wish.zone] -= deal.wish.energy_wh
        if deal.offer.pile.serves == name:
            deal.offer.pile.serves = ""
        del self.deals[name]
        self.closed.append((name, how))
