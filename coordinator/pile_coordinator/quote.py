"""The price before the order: what the next block would do with a bid if nothing else arrived.

Nothing here computes a match. The bid is run through the chain's own law on the state as it is, which then forgets it
(`transition.preview`); where it would not fill, it is run again with one thing changed, to say what stands in its way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from pile_coordinator.chain import accounts, epochs, orders, tariff
from pile_coordinator.chain.contracts import piece_name
from pile_coordinator.chain.env import Env
from pile_coordinator.chain.records import ANONYMOUS, EV_OWNER, Account, Listing, Party, Pile, Tariff, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.settlement import contract_escrow_micro
from pile_coordinator.chain.state import State
from pile_coordinator.chain.supply import MS_PER_HOUR
from pile_coordinator.chain.tariff import Catalog
from pile_coordinator.chain.transactions import AT_MARKET, PlaceBid, Transaction
from pile_coordinator.chain.transition import preview
from pile_shared import cose
from pile_shared.codec import decode
from pile_shared.terms import LEAF_CONTRACT, LEAF_PROPOSED, MAX_TERMS_BYTES, Terms, decode_terms
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_PRICE_MICRO_PER_KWH, cost_micro

FILLS, PART, RESTS, REFUNDED, REFUSED = "fills", "part", "rests", "refunded", "refused"  # outcomes

# Why a bid does not fill, or not wholly. Stable, like rejection codes.
PAUSED = "paused"  # the zone's breaker
LIMIT = "limit"  # it would fill at a price above its limit
BAND = "band"  # it would fill at a price that the band forbids
SUPPLY = "supply"  # no listing could serve it, whatever the price
CROWDED = "crowded"  # bids admitted before it in the same block hold the curve's price down
FUNDS = "funds"  # the account does not cover the hold

_EVERY_LEAF_BYTES = 1 << 16
_PLENTY_MICRO = MAX_AMOUNT_MICRO // 10
_NO_BAND_PERMILLE = 1000 * MAX_PRICE_MICRO_PER_KWH

WhatIf = Callable[[State], object]


@dataclass(frozen=True, slots=True)
class Quote:
    """What would become of a bid, all of it for this very energy, window, zone and pile.

    Attributes:
        catalog: the grid's prices in the period of the window. band_micro_per_kwh: the lowest and highest price of a fill.
        load_wh, now_micro_per_kwh: of the curve before; curve_micro_per_kwh: with the energy added.
        ask_micro_per_kwh: the cheapest ask that could serve it; -1 if none could.
        limit_micro_per_kwh: the bid's; if it named none, the least at which it fills now, or 0 if it does at none.
        paused_until_ms: fills in this zone wait until then; 0 if they do not.
        outcome: FILLS, PART, RESTS, REFUNDED or REFUSED. reason, why: a code and a sentence if it is not FILLS.
        fills: the contracts that would be made, in order; proposed: they would wait for somebody's signature.
        hold_micro: what the bid puts up. cost_micro: what the fills cost as contracted, fees included.
        most_micro: the most that the bid can come to cost: the escrow of its contracts, or its hold while some of it rests.
        fee_micro: per contract.
    """

    catalog: Catalog
    band_micro_per_kwh: tuple[int, int]
    load_wh: int
    now_micro_per_kwh: int
    curve_micro_per_kwh: int
    ask_micro_per_kwh: int
    limit_micro_per_kwh: int
    paused_until_ms: int
    outcome: str
    reason: str
    why: str
    fills: tuple[Terms, ...]
    proposed: bool
    hold_micro: int
    cost_micro: int
    most_micro: int
    fee_micro: int


def quote(state: State, env: Env, party: Party, order: bytes, bid: PlaceBid) -> Quote:
    """What would become of a bid of `party` in the block `env`; limit 0 asks for the least limit at which it fills now.

    `order` is the bid's id, which decides ties; any will do where there are none. The state is left as it was. A party whose
    role is anonymous need not be there yet, and is taken to have notes enough.

    Raises:
        Rejection: the bid would be refused for anything but money.
    """
    return _Asker(state, env, party, order, bid).answer()


@dataclass(frozen=True, slots=True)
class _View:
    """What a bid meets: the market after an epoch edge and what fell due, before the bid."""

    catalog: Catalog
    band: tuple[int, int]
    load_wh: int
    now: int
    curve: int
    paused_until_ms: int
    has_asks: bool


class _Asker:
    """Asks the chain about one bid, several times."""

    def __init__(self, state: State, env: Env, party: Party, order: bytes, bid: PlaceBid) -> None:
        self._state, self._env, self._party, self._order, self._bid = state, env, party.id, order, bid
        self._guest = [lambda state: self._admit(state, party)] if party.role == ANONYMOUS else []
        self._names = [order, *(piece_name(order, i) for i in range(orders.MAX_PIECES))]

    def answer(self) -> Quote:
        """The quote."""
        seen: list[_View] = []
        at_any = self._fills(MAX_PRICE_MICRO_PER_KWH, self._rich, lambda state: seen.append(self._look(state)))
        view = seen[0]
        limit = self._bid.limit_micro_per_kwh or max((t.price_micro_per_kwh for t, _ in at_any), default=0)
        reason, why, fills = self._placed(view, limit, at_any)
        params, energy_wh = self._state.params, self._bid.energy_wh
        sell = view.catalog.sell_micro_per_kwh
        hold = orders.hold_micro(params, energy_wh, limit, sell, divisible=self._bid.divisible) if limit else 0
        terms = tuple(t for t, _ in fills)
        outcome = self._outcome(reason, terms)
        return Quote(
            catalog=view.catalog,
            band_micro_per_kwh=view.band,
            load_wh=view.load_wh,
            now_micro_per_kwh=view.now,
            curve_micro_per_kwh=view.curve,
            ask_micro_per_kwh=self._cheapest_ask() if view.has_asks else AT_MARKET,
            limit_micro_per_kwh=limit,
            paused_until_ms=view.paused_until_ms,
            outcome=outcome,
            reason=reason,
            why=why,
            fills=terms,
            proposed=any(is_proposed for _, is_proposed in fills),
            hold_micro=hold,
            cost_micro=sum(cost_micro(t.energy_wh, t.price_micro_per_kwh) + t.fee_micro for t in terms),
            most_micro=hold if self._leaves_rest(outcome) else sum(map(contract_escrow_micro, terms)),
            fee_micro=params.fee_micro,
        )

    def _leaves_rest(self, outcome: str) -> bool:
        return outcome in {RESTS, REFUSED} or (outcome == PART and not self._bid.market)

    def _outcome(self, reason: str, fills: tuple[Terms, ...]) -> str:
        if reason == FUNDS:
            return REFUSED
        if sum(t.energy_wh for t in fills) == self._bid.energy_wh:
            return FILLS
        if fills:
            return PART
        return REFUNDED if self._bid.market else RESTS

    # --- asking --------------------------------------------------------------------------------------------------

    def _fills(self, limit: int, *what_ifs: WhatIf) -> list[tuple[Terms, bool]]:
        """The contracts that the bid would get at a limit, each with whether it is only proposed."""
        body = replace(self._bid, limit_micro_per_kwh=limit)
        unsigned = cose.Sign1(b"", b"", b"")
        tx = Transaction(self._order, b"", unsigned, self._env.chain_id, self._party, 0, 0, body)
        all_of_it = [*self._guest, *what_ifs]
        leaves = preview(self._state, self._env, tx, lambda state: [what_if(state) for what_if in all_of_it])
        rows = [cast("list[object]", decode(leaf, _EVERY_LEAF_BYTES)) for leaf in leaves]
        matched = [
            (decode_terms(cast("bytes", row[1])), row[0] == LEAF_PROPOSED)
            for row in rows
            if row[0] in {LEAF_CONTRACT, LEAF_PROPOSED} and len(cast("bytes", row[1])) <= MAX_TERMS_BYTES
        ]
        return [(terms, proposed) for terms, proposed in matched if terms.order in self._names]

    def _placed(
        self, view: _View, limit: int, at_any: list[tuple[Terms, bool]]
    ) -> tuple[str, str, list[tuple[Terms, bool]]]:
        """(reason, sentence, fills) of the bid as it is, with its party's own money."""
        if limit == 0:
            return *self._obstacle(view, at_any, at_any, limit), at_any
        try:
            fills = self._fills(limit)
        except Rejection as rejection:
            if rejection.code != FUNDS:
                raise
            return FUNDS, str(rejection), []
        if _energy_wh(fills) == self._bid.energy_wh:
            return "", "", fills
        return *self._obstacle(view, at_any, fills, limit), fills

    def _obstacle(
        self, view: _View, at_any: list[tuple[Terms, bool]], fills: list[tuple[Terms, bool]], limit: int
    ) -> tuple[str, str]:
        """What keeps the rest of a bid from filling."""
        if view.paused_until_ms:
            return PAUSED, "the price of this zone rose too fast; fills are paused"
        if _energy_wh(at_any) > _energy_wh(fills):
            best = max(terms.price_micro_per_kwh for terms, _ in at_any)
            if best > limit:
                return LIMIT, "it would fill at a price above the limit"
            return CROWDED, "other bids of this block would be pushed over their limits"
        unbound = self._fills(MAX_PRICE_MICRO_PER_KWH, self._rich, self._without_band)
        if _energy_wh(unbound) > _energy_wh(fills):
            return BAND, "it would only fill at a price outside of the band"
        return SUPPLY, self._missing()

    def _cheapest_ask(self) -> int:
        """The price of the cheapest ask that could serve the bid, -1 if none could."""
        fills = self._fills(MAX_PRICE_MICRO_PER_KWH, self._rich, self._without_curve)
        return min((terms.price_micro_per_kwh for terms, _ in fills), default=AT_MARKET)

    # --- what if -------------------------------------------------------------------------------------------------

    def _look(self, state: State) -> _View:
        catalog = tariff.catalog_of(state, self._bid.window_start_ms)
        zone = state.find(Zone, self._bid.zone)
        if zone is None:
            raise Rejection("unknown_zone", f"no pile is registered in zone {self._bid.zone}")
        curve = epochs.zone_curve(state.params, zone, catalog.sell_micro_per_kwh)
        return _View(
            catalog,
            catalog.band_micro_per_kwh(state.params.band_permille),
            zone.open_wh,
            curve.price_micro_per_kwh(zone.open_wh),
            curve.price_micro_per_kwh(zone.open_wh + self._bid.energy_wh),
            zone.paused_until_ms if zone.paused_until_ms > self._env.time_ms else 0,
            any(listing.ask_micro_per_kwh != AT_MARKET for listing in state.listings_in(zone.id)),
        )

    def _admit(self, state: State, guest: Party) -> None:
        """As one who has money: what becomes of it in the end is no part of a quote."""
        state.put(Party(guest.id, EV_OWNER, guest.public, 0, 0))
        self._rich(state)

    def _rich(self, state: State) -> None:
        state.put(Account(accounts.party_account(self._party), _PLENTY_MICRO))

    def _without_band(self, state: State) -> None:
        state.put(replace(state.params, band_permille=_NO_BAND_PERMILLE))
        in_force = state.get(Tariff, tariff.NOW)
        state.put(replace(in_force, periods=[[minute, name, sell, 0] for minute, name, sell, _ in in_force.periods]))

    def _without_curve(self, state: State) -> None:
        for listing in state.listings_in(self._bid.zone):
            if listing.ask_micro_per_kwh == AT_MARKET:
                state.drop(Listing, listing.id)

    # --- what is missing -----------------------------------------------------------------------------------------

    def _missing(self) -> str:
        """Which condition no listing meets, the first in the order in which a person would look."""
        bid, state = self._bid, self._state
        need_wh = orders.MIN_PIECE_WH if bid.divisible and bid.energy_wh >= orders.MIN_PIECE_WH else bid.energy_wh
        left_ms = bid.window_end_ms - max(bid.window_start_ms, self._env.time_ms)
        found = [x for x in state.listings_in(bid.zone) if bid.pile in {"", x.pile}]
        steps: list[tuple[str, Callable[[Listing, Pile], bool]]] = [
            (
                "no listing covers this window",
                lambda x, _: x.window_start_ms <= bid.window_start_ms and bid.window_end_ms <= x.window_end_ms,
            ),
            ("no listing that covers this window has this much energy left", lambda x, _: x.energy_wh >= need_wh),
            (
                "no pile offered has the power for this much energy in what is left of the window",
                lambda _, pile: pile.rated_power_w * left_ms >= need_wh * MS_PER_HOUR,
            ),
            ("every pile that could serve it has readings that are not believed", lambda _, pile: not pile.anomaly),
            ("every pile that could serve it is taken in this window", lambda x, _: not self._is_booked(x.pile)),
        ]
        if not found:
            return "nothing is listed " + (f"on {bid.pile}" if bid.pile else f"in zone {bid.zone}")
        for why, holds in steps:
            found = [x for x in found if holds(x, state.get(Pile, x.pile))]
            if not found:
                return why
        return "no owner of a pile that could serve it has the money for the bond"

    def _is_booked(self, pile: str) -> bool:
        booked = map(self._state.terms_of, self._state.contracts_on(pile))
        bid = self._bid
        return any(t.window_start_ms < bid.window_end_ms and bid.window_start_ms < t.window_end_ms for t in booked)


def _energy_wh(fills: list[tuple[Terms, bool]]) -> int:
    return sum(terms.energy_wh for terms, _ in fills)
