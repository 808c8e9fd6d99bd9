"""Once per block and zone, bids meet supply; the result does not depend on the order of arrival.

1. Bids in order of the load they accept: limit (or the upper edge of the band, if lower) by catalog price, highest first;
   then limit, dearest first; then hash of block seed and order id. A bid goes whole to one pile; one marked divisible may be
   split over several.
2. Each bid gets its cheapest feasible supply: an ask at the ask's price, or at-market capacity at the curve's price after
   adding this bid; ties by ask before curve, then pile, then listing.
3. It is admitted only if that price is within its limit and the band, and if the curve's price stays within those of all
   bids admitted before; otherwise it rests (a market bid is refunded).
4. All curve fills of the block at one catalog price pay and earn one price: the curve's after all of them. An ask is paid
   its own price.

(Paper section 3, "Reaching the Transaction Intention": market-price and price-limited trading, with one or more suppliers;
ledger guide, "Clearing".)
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256

from pile_coordinator.chain import accounts, contracts, epochs, orders, tariff
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import Bid, Listing, Pile, Tariff, Zone
from pile_coordinator.chain.state import State
from pile_coordinator.chain.supply import MS_PER_HOUR, Offer, Supply
from pile_coordinator.chain.tariff import Catalog
from pile_coordinator.chain.transactions import AT_MARKET
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CLEARING
from pile_shared.units import LOT_WH, MAX_PRICE_MICRO_PER_KWH

MAX_FILLS = 1024  # per zone and block, so that a clearing's leaf stays below 64 kB; the rest waits one block
_ACCEPTED_BITS = 64  # two different ratios over catalog prices of at most 10^9 differ by 10^-18 or more, above 2^-64


def clear(state: State, env: Env, journal: Journal) -> None:
    """Clear every zone in which something changed since it was last cleared; market orders end here, filled or not."""
    for zone in state.each(Zone):
        if zone.dirty:
            _clear_zone(state, env, journal, zone)
    for bid in state.touched(Bid):
        if bid.market:
            orders.release_bid(state, journal, bid, orders.UNFILLED)


def _clear_zone(state: State, env: Env, journal: Journal, zone: Zone) -> None:
    fills: list[contracts.Fill] = []
    if env.time_ms >= zone.paused_until_ms:
        fills = _Clearing(state, env, zone).run()
        _write(state, env, journal, zone, fills)
    cleared = replace(state.get(Zone, zone.id), dirty=len(fills) >= MAX_FILLS)
    state.put(epochs.watch_breaker(state, env, cleared))


@dataclass(slots=True)
class _Wish:
    """A bid on its way through one clearing."""

    bid: Bid
    catalog: Catalog
    curve: Curve
    least_micro_per_kwh: int  # the band's lower edge
    most_micro_per_kwh: int  # its limit, or the band's upper edge
    left_wh: int  # of its energy
    hold_micro: int  # what is left of it
    pieces: int

    @property
    def accepts(self) -> int:
        """The highest price over the catalog's that it takes: how much load it accepts."""
        return (self.most_micro_per_kwh << _ACCEPTED_BITS) // self.catalog.sell_micro_per_kwh


class _Clearing:
    """What one clearing has given away so far, before any of it is written to the state."""

    def __init__(self, state: State, env: Env, zone: Zone) -> None:
        self._state = state
        self._params = state.params
        self._env = env
        self._zone = zone
        self._open_wh = zone.open_wh
        self._fills: list[contracts.Fill] = []  # with AT_MARKET for the curve's price until that is known
        self._ceilings: dict[int, int] = {}  # by catalog price: the least that a curve fill of this block still accepts
        self._bonds_micro: dict[str, int] = {}  # by owner: put up in this clearing
        self._curves: dict[int, Curve] = {}
        self._listings = sorted(state.listings_in(zone.id), key=_rank)
        self._asks = [x.ask_micro_per_kwh for x in self._listings if x.ask_micro_per_kwh != AT_MARKET]
        self._wishes = sorted(self._hopeful(), key=self._precedence) if self._listings else []
        self._supply = _supply(state, self._listings, self._wishes)

    def run(self) -> list[contracts.Fill]:
        """The fills, in the order in which bids got them."""
        for wish in self._wishes:
            if len(self._fills) >= MAX_FILLS:
                break
            if not self._give_whole(wish) and wish.bid.divisible:
                self._give_pieces(wish)
        return [self._priced(fill) for fill in self._fills]

    def _priced(self, fill: contracts.Fill) -> contracts.Fill:
        if fill.price_micro_per_kwh != AT_MARKET:
            return fill
        price = self._curve(fill.catalog.sell_micro_per_kwh).price_micro_per_kwh(self._open_wh)
        return replace(fill, price_micro_per_kwh=price)

    # --- who is served first -----------------------------------------------------------------------------------------

    def _hopeful(self) -> list[_Wish]:
        """The bids that some price of this zone could satisfy; the others rest untouched."""
        curves = [self._curve(catalog.sell_micro_per_kwh) for catalog in tariff.catalogs(self._state)]
        prices = [curve.price_micro_per_kwh(self._open_wh) for curve in curves]
        bids = self._state.bids_in(self._zone.id, at_least_micro_per_kwh=min([*prices, *self._asks]))
        return [self._wish(bid) for bid in bids]

    def _curve(self, catalog_micro_per_kwh: int) -> Curve:
        if catalog_micro_per_kwh not in self._curves:
            self._curves[catalog_micro_per_kwh] = epochs.zone_curve(self._params, self._zone, catalog_micro_per_kwh)
        return self._curves[catalog_micro_per_kwh]

    def _wish(self, bid: Bid) -> _Wish:
        catalog = tariff.catalog_of(self._state, bid.window_start_ms)
        least, most = catalog.band_micro_per_kwh(self._params.band_permille)
        return _Wish(
            bid,
            catalog,
            self._curve(catalog.sell_micro_per_kwh),
            least,
            min(bid.limit_micro_per_kwh, most),
            bid.energy_wh,
            bid.hold_micro,
            bid.pieces,
        )

    def _precedence(self, wish: _Wish) -> tuple[int, int, bytes]:
        return -wish.accepts, -wish.bid.limit_micro_per_kwh, sha256(self._env.seed + wish.bid.id).digest()

    # --- what it gets ------------------------------------------------------------------------------------------------

    def _give_whole(self, wish: _Wish) -> bool:
        """Give all that is left of a bid to its cheapest feasible supply; False if there is none."""
        energy_wh = wish.left_wh
        for rank in self._cheapest_first(wish, energy_wh):
            if self._is_possible(wish, rank, energy_wh):
                self._give(wish, rank, energy_wh)
                return True
        return False

    def _give_pieces(self, wish: _Wish) -> None:
        """Give a divisible bid as many pieces as it can get, the cheapest first."""
        while wish.left_wh >= orders.MIN_PIECE_WH and wish.pieces < orders.MAX_PIECES and len(self._fills) < MAX_FILLS:
            if not self._give_piece(wish):
                return

    def _give_piece(self, wish: _Wish) -> bool:
        for rank in self._cheapest_first(wish, orders.MIN_PIECE_WH):
            if self._is_possible(wish, rank, orders.MIN_PIECE_WH):
                energy_wh = self._most_wh(wish, rank)
                if energy_wh >= orders.MIN_PIECE_WH:
                    self._give(wish, rank, energy_wh)
                    return True
        return False

    def _cheapest_first(self, wish: _Wish, energy_wh: int) -> Iterator[int]:
        """Ranks of supply that can give this much at a price the bid accepts, the cheapest first."""
        asks = len(self._asks)
        low = bisect_left(self._asks, wish.least_micro_per_kwh)
        high = bisect_left(self._asks, wish.most_micro_per_kwh + 1)
        if not self._is_accepted(wish, energy_wh):
            yield from self._feasible(wish, energy_wh, low, high)
            return
        price = wish.curve.price_micro_per_kwh(self._open_wh + energy_wh)
        dearer = max(low, min(high, bisect_left(self._asks, price + 1)))
        yield from self._feasible(wish, energy_wh, low, dearer)
        yield from self._feasible(wish, energy_wh, asks, len(self._listings))
        yield from self._feasible(wish, energy_wh, dearer, high)

    def _feasible(self, wish: _Wish, energy_wh: int, first: int, last: int) -> Iterator[int]:
        if first >= last:
            return
        bid = wish.bid
        yield from self._supply.candidates(
            start_ms=bid.window_start_ms,
            end_ms=bid.window_end_ms,
            left_ms=self._left_ms(wish),
            energy_wh=energy_wh,
            pile=bid.pile,
            bond_micro=self._bond_micro(wish, energy_wh),
            first=first,
            last=last,
        )

    def _left_ms(self, wish: _Wish) -> int:
        """A bid that waited into its window must still get all its energy."""
        return wish.bid.window_end_ms - max(wish.bid.window_start_ms, self._env.time_ms)

    def _is_accepted(self, wish: _Wish, energy_wh: int) -> bool:
        """Whether the curve with this energy added is within the limits of this bid and of all admitted before."""
        open_wh = self._open_wh + energy_wh
        return wish.curve.price_micro_per_kwh(open_wh) <= wish.most_micro_per_kwh and all(
            self._curve(catalog).price_micro_per_kwh(open_wh) <= ceiling for catalog, ceiling in self._ceilings.items()
        )

    def _is_possible(self, wish: _Wish, rank: int, energy_wh: int) -> bool:
        """Whether there is time to sign, the owner can pay the bond, and the bid's hold covers the escrow."""
        if (wish.bid.explicit or self._listings[rank].explicit) and self._env.time_ms >= wish.bid.window_start_ms:
            return False
        owner = self._listings[rank].owner
        if self._bond_micro(wish, energy_wh) > self._balance_micro(owner):
            self._supply.poor(owner, max(0, self._balance_micro(owner)) + 1)
            return False
        return self._escrow_micro(wish, rank, energy_wh) <= wish.hold_micro

    def _bond_micro(self, wish: _Wish, energy_wh: int) -> int:
        return orders.bond_micro(self._params, energy_wh, wish.catalog.sell_micro_per_kwh)

    def _balance_micro(self, owner: str) -> int:
        """What an owner has left for bonds in this clearing."""
        return self._state.balance_micro(accounts.party_account(owner)) - self._bonds_micro.get(owner, 0)

    def _escrow_micro(self, wish: _Wish, rank: int, energy_wh: int) -> int:
        """The most that so much may come to cost at this rank."""
        dearest = self._dearest(wish, rank)
        return orders.escrow_micro(self._params, energy_wh, dearest, wish.catalog.sell_micro_per_kwh)

    def _dearest(self, wish: _Wish, rank: int) -> int:
        """The most that a fill at this rank may come to cost."""
        ask = self._listings[rank].ask_micro_per_kwh
        return wish.most_micro_per_kwh if ask == AT_MARKET else ask

    def _most_wh(self, wish: _Wish, rank: int) -> int:
        """How much of a divisible bid one supply can take and both sides can pay, in lots; none or at least 1 kWh is left.

        Time alone makes it less, and what is less is not dearer: so no bid fits for the first time in a block in which
        nothing changed, and only zones in which something did need clearing.
        """
        listing = self._listings[rank]
        power_w = self._state.get(Pile, listing.pile).rated_power_w
        most = min(wish.left_wh, self._supply.energy_left_wh(rank), power_w * self._left_ms(wish) // MS_PER_HOUR)
        most -= most % LOT_WH

        balance = self._balance_micro(listing.owner)

        def fits(energy_wh: int) -> bool:
            return (
                (listing.ask_micro_per_kwh != AT_MARKET or self._is_accepted(wish, energy_wh))
                and self._bond_micro(wish, energy_wh) <= balance
                and self._escrow_micro(wish, rank, energy_wh) <= wish.hold_micro
            )

        if most == wish.left_wh and fits(most):
            return most
        return _largest_lots(min(most, wish.left_wh - orders.MIN_PIECE_WH), fits)

    def _give(self, wish: _Wish, rank: int, energy_wh: int) -> None:
        bid, listing, catalog = wish.bid, self._listings[rank], wish.catalog
        self._supply.take(rank, start_ms=bid.window_start_ms, end_ms=bid.window_end_ms, energy_wh=energy_wh)
        self._bonds_micro[listing.owner] = self._bonds_micro.get(listing.owner, 0) + self._bond_micro(wish, energy_wh)
        if listing.ask_micro_per_kwh == AT_MARKET:
            self._open_wh += energy_wh
            most, sell = wish.most_micro_per_kwh, catalog.sell_micro_per_kwh
            self._ceilings[sell] = min(most, self._ceilings.get(sell, most))
        self._fills.append(contracts.Fill(bid.id, listing.id, energy_wh, listing.ask_micro_per_kwh, catalog))
        wish.left_wh -= energy_wh
        wish.pieces += 1
        wish.hold_micro -= self._escrow_micro(wish, rank, energy_wh)


def _rank(listing: Listing) -> tuple[bool, int, str, bytes]:
    """Asks before the curve, the cheapest first; then by pile and listing."""
    return listing.ask_micro_per_kwh == AT_MARKET, listing.ask_micro_per_kwh, listing.pile, listing.id


def _supply(state: State, listings: list[Listing], wishes: list[_Wish]) -> Supply:
    """The index over the listings; nobody asks it if there are no wishes."""
    if not wishes:
        return Supply([], {})
    offers, booked = [], {}
    for listing in listings:
        pile = state.get(Pile, listing.pile)
        # Capacity of a pile with an anomaly is not offered: its readings are not believed.
        energy_wh = 0 if pile.anomaly else listing.energy_wh
        offers.append(
            Offer(
                listing.id,
                listing.pile,
                listing.owner,
                listing.ask_micro_per_kwh,
                listing.window_start_ms,
                listing.window_end_ms,
                energy_wh,
                pile.rated_power_w,
            )
        )
        if pile.id not in booked:
            terms = map(state.terms_of, state.contracts_on(pile.id))
            booked[pile.id] = [(t.window_start_ms, t.window_end_ms) for t in terms]
    return Supply(offers, booked, [(wish.bid.window_start_ms, wish.bid.window_end_ms) for wish in wishes])


def _largest_lots(top_wh: int, fits: Callable[[int], bool]) -> int:
    """The largest number of whole lots up to `top_wh` that fits, if what fits is all below some bound; else 0."""
    low, high = 0, max(0, top_wh // LOT_WH)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * LOT_WH) else (low, middle - 1)
    return low * LOT_WH


def _write(state: State, env: Env, journal: Journal, zone: Zone, fills: list[contracts.Fill]) -> None:
    """Sign what was given away, and leave behind all that is needed to compute the price again."""
    if not fills:
        return
    rows, prices = [], {}
    for fill in fills:
        on_curve = state.get(Listing, fill.listing).ask_micro_per_kwh == AT_MARKET
        assert fill.price_micro_per_kwh <= MAX_PRICE_MICRO_PER_KWH
        contract = contracts.match(state, env, journal, fill)
        rows.append([contract.id, fill.energy_wh, on_curve, fill.price_micro_per_kwh])
        if on_curve:
            prices[fill.catalog.sell_micro_per_kwh] = fill.price_micro_per_kwh
    params = state.params
    shape = [zone.capacity_wh, params.crr_numerator, params.crr_denominator]
    in_force = tariff.tariff_hash(state.get(Tariff, tariff.NOW))
    after_wh = state.get(Zone, zone.id).open_wh
    by_catalog = [list(item) for item in sorted(prices.items())]
    journal.leaves.append(encode([LEAF_CLEARING, zone.id, shape, in_force, zone.open_wh, after_wh, by_catalog, rows]))
