"""Once per block and zone, bids meet supply; the result does not depend on the order of arrival.

1. Bids in order of (limit descending, hash of block seed and order id). A bid goes whole to one pile.
2. Each bid gets its cheapest feasible supply: an ask at the ask's price, or at-market capacity at the curve's price after
   adding this bid; ties by ask before curve, then pile, then listing.
3. It is admitted only if that price is within its limit; otherwise it rests (a market bid is refunded).
4. All curve fills of the block pay and earn one price: the curve's after all of them. An ask is paid its own price.

Since limits fall from bid to bid, the final price is within the limit of every bid admitted before (paper section 3,
"Reaching the Transaction Intention": market-price and price-limited trading).
"""

from dataclasses import dataclass, field, replace
from hashlib import sha256

from pile_coordinator.chain import accounts, contracts
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import Bid, Listing, Pile, Zone
from pile_coordinator.chain.state import State, listings_of_zone
from pile_coordinator.chain.transactions import AT_MARKET
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CLEARING
from pile_shared.units import MAX_PRICE_MICRO_PER_KWH

MAX_FILLS = 1024  # per zone and block, so that a clearing's leaf stays below 64 kB; the rest waits one block


@dataclass(slots=True)
class _Book:
    """What this clearing has given away so far, before any of it is written to the state."""

    time_ms: int
    curve: Curve
    open_wh: int
    fills: list[tuple[Bid, Listing]] = field(default_factory=list)
    windows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    energy_wh: dict[bytes, int] = field(default_factory=dict)
    bonds_micro: dict[str, int] = field(default_factory=dict)


def clear(state: State, env: Env, journal: Journal) -> None:
    """Clear every zone in which something changed since it was last cleared."""
    for zone in state.each(Zone):
        if zone.dirty:
            _clear_zone(state, env, journal, zone)


def _clear_zone(state: State, env: Env, journal: Journal, zone: Zone) -> None:
    bids = [bid for bid in state.each(Bid) if bid.zone == zone.id]
    bids.sort(key=lambda bid: (-bid.limit_micro_per_kwh, sha256(env.seed + bid.id).digest()))
    listings = listings_of_zone(state, zone.id)
    book = _Book(env.time_ms, contracts.zone_curve(state, zone), zone.open_wh)
    for bid in bids:
        if len(book.fills) == MAX_FILLS:
            break
        listing = _cheapest(state, book, bid, listings)
        if listing is not None:
            _give(state, book, bid, listing)
    state.put(replace(zone, dirty=len(book.fills) == MAX_FILLS))
    _write(state, journal, zone, book)
    filled = {bid.id for bid, _ in book.fills}
    for bid in bids:
        if bid.market and bid.id not in filled:
            contracts.release_bid(state, journal, bid, contracts.UNFILLED)


def _cheapest(state: State, book: _Book, bid: Bid, listings: list[Listing]) -> Listing | None:
    curve_price = book.curve.price_micro_per_kwh(book.open_wh + bid.energy_wh)
    best: tuple[int, int, str, bytes] | None = None
    chosen = None
    for listing in listings:
        on_curve = listing.ask_micro_per_kwh == AT_MARKET
        price = curve_price if on_curve else listing.ask_micro_per_kwh
        rank = (price, int(on_curve), listing.pile, listing.id)
        if price > bid.limit_micro_per_kwh or (best is not None and rank >= best):
            continue
        if _feasible(state, book, bid, listing):
            best, chosen = rank, listing
    return chosen


def _feasible(state: State, book: _Book, bid: Bid, listing: Listing) -> bool:
    pile = state.get(Pile, listing.pile)
    start, end = bid.window_start_ms, bid.window_end_ms
    bond = book.bonds_micro.get(listing.owner, 0) + contracts.bond_micro(state, bid.energy_wh)
    left_ms = end - max(start, book.time_ms)  # a bid that waited into its window must still get all its energy
    return (
        bid.pile in {"", listing.pile}
        and listing.window_start_ms <= start
        and end <= listing.window_end_ms
        and bid.energy_wh <= listing.energy_wh - book.energy_wh.get(listing.id, 0)
        and bid.energy_wh * 3_600_000 <= pile.rated_power_w * left_ms
        and not pile.anomaly
        and all(end <= s or e <= start for s, e in book.windows.get(pile.id, ()))
        and all(
            end <= terms.window_start_ms or terms.window_end_ms <= start
            for terms in map(state.terms_of, state.contracts_on(pile.id))
        )
        and bond <= state.balance_micro(accounts.party_account(listing.owner))
    )


def _give(state: State, book: _Book, bid: Bid, listing: Listing) -> None:
    book.fills.append((bid, listing))
    book.windows.setdefault(listing.pile, []).append((bid.window_start_ms, bid.window_end_ms))
    book.energy_wh[listing.id] = book.energy_wh.get(listing.id, 0) + bid.energy_wh
    bond = contracts.bond_micro(state, bid.energy_wh)
    book.bonds_micro[listing.owner] = book.bonds_micro.get(listing.owner, 0) + bond
    if listing.ask_micro_per_kwh == AT_MARKET:
        book.open_wh += bid.energy_wh


def _write(state: State, journal: Journal, zone: Zone, book: _Book) -> None:
    if not book.fills:
        return
    price = book.curve.price_micro_per_kwh(book.open_wh)
    assert price <= MAX_PRICE_MICRO_PER_KWH
    rows = []
    for bid, listing in book.fills:
        on_curve = listing.ask_micro_per_kwh == AT_MARKET
        paid = price if on_curve else listing.ask_micro_per_kwh
        current = state.get(Listing, listing.id)
        contract = contracts.sign(state, journal, bid, current, paid)
        rows.append([contract.id, bid.energy_wh, on_curve, paid])
    curve = book.curve
    shape = [curve.catalog_micro_per_kwh, curve.capacity_wh, curve.numerator, curve.denominator]
    journal.leaves.append(encode([LEAF_CLEARING, zone.id, shape, zone.open_wh, book.open_wh, price, rows]))
