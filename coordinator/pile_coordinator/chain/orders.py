"""Orders before they match: listings and bids, market-price and price-limited.

(Paper section 3, "Reaching the Transaction Intention"; ledger guide, "Orders".)
"""

from dataclasses import replace

from pile_coordinator.chain import accounts, settlement, tariff
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import ANONYMOUS, Bid, Listing, Params, Party, Pile, Withdrawal, Zone
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import AT_MARKET, CancelBid, List, PlaceBid, Transaction, Unlist
from pile_shared.codec import encode
from pile_shared.terms import LEAF_CLOSED
from pile_shared.units import LOT_WH, cost_micro

MAX_OPEN_ORDERS = 1000  # listings and resting bids of one party: a fleet's worth, and a bound on what one key can fill
MAX_WINDOW_MS = 7 * 24 * 3600 * 1000  # of a bid: nobody charges for longer than a week
MAX_AHEAD_MS = 366 * 24 * 3600 * 1000
MIN_PIECE_WH = 1000  # of a divisible bid
MAX_PIECES = 16  # contracts of one divisible bid, which bounds what it must put up

EXPIRED, CANCELLED, UNFILLED, SPENT = "expired", "cancelled", "unfilled", "spent"


# --- what an order must put up -------------------------------------------------------------------------------------------


def tolerance_wh(params: Params, energy_wh: int) -> int:
    """Tau = max(share of Q, minimum)."""
    return max(energy_wh * params.tolerance_permille // 1000, params.tolerance_min_wh)


def overuse_wh(params: Params, energy_wh: int) -> int:
    """O = max(share of Q, tau)."""
    return max(energy_wh * params.overuse_permille // 1000, tolerance_wh(params, energy_wh))


def bond_micro(params: Params, energy_wh: int, catalog_micro_per_kwh: int) -> int:
    """What an owner puts up for a contract over `energy_wh`: a share of its catalog value, rounded up."""
    return -(-energy_wh * catalog_micro_per_kwh * params.bond_permille // 1_000_000)


def escrow_micro(params: Params, energy_wh: int, price_micro_per_kwh: int, catalog_micro_per_kwh: int) -> int:
    """What a user puts up for one contract over `energy_wh`."""
    return settlement.escrow_micro(
        energy_wh, overuse_wh(params, energy_wh), price_micro_per_kwh, catalog_micro_per_kwh, params.fee_micro
    )


def hold_micro(
    params: Params, energy_wh: int, limit_micro_per_kwh: int, catalog_micro_per_kwh: int, *, divisible: bool
) -> int:
    """What a bid puts up: the escrow at its limit; if divisible, enough for every way to split it.

    n pieces have n fees, n least tolerances, and each of their two costs is rounded up by itself.
    """
    pieces = max(1, min(MAX_PIECES, energy_wh // MIN_PIECE_WH)) if divisible else 1
    if pieces == 1:
        return escrow_micro(params, energy_wh, limit_micro_per_kwh, catalog_micro_per_kwh)
    share = max(params.overuse_permille, params.tolerance_permille)
    beyond_wh = energy_wh * share // 1000 + pieces * params.tolerance_min_wh
    dearer = max(limit_micro_per_kwh, catalog_micro_per_kwh)
    energy = cost_micro(energy_wh, limit_micro_per_kwh) + cost_micro(beyond_wh, dearer)
    return energy + 2 * (pieces - 1) + pieces * params.fee_micro


# --- listings --------------------------------------------------------------------------------------------------------


def place_listing(state: State, env: Env, tx: Transaction, body: List) -> None:
    """An owner offers a pile."""
    pile = state.find(Pile, body.pile)
    if pile is None or pile.retired:
        raise Rejection("unknown_pile", f"no pile {body.pile}")
    if pile.owner != tx.sender:
        raise Rejection("not_yours", f"{pile.id} belongs to {pile.owner}")
    if not env.time_ms < body.window_end_ms <= env.time_ms + MAX_AHEAD_MS or body.window_start_ms >= body.window_end_ms:
        raise Rejection("window", "the window must end after now, within a year, and after it starts")
    if body.ask_micro_per_kwh != AT_MARKET:
        _check_ask(state, body.ask_micro_per_kwh)
    count_order(state, tx.sender)
    state.put(
        Listing(
            tx.id,
            tx.sender,
            pile.id,
            pile.zone,
            body.window_start_ms,
            body.window_end_ms,
            body.energy_wh,
            body.ask_micro_per_kwh,
            body.explicit,
        )
    )
    touch(state, pile.zone)


def _check_ask(state: State, ask_micro_per_kwh: int) -> None:
    """An ask outside the band of every period could never be filled under this tariff."""
    bands = [catalog.band_micro_per_kwh(state.params.band_permille) for catalog in tariff.catalogs(state)]
    if not any(low <= ask_micro_per_kwh <= high for low, high in bands):
        text = " or ".join(f"{low} to {high}" for low, high in bands)
        raise Rejection("band", f"an ask must be from {text} micro per kWh")


def unlist(state: State, journal: Journal, sender: str, body: Unlist) -> None:
    """An owner withdraws a listing."""
    listing = state.find(Listing, body.listing)
    if listing is None:
        raise Rejection("unknown_order", "no such open listing")
    if listing.owner != sender:
        raise Rejection("not_yours", "only its owner withdraws a listing")
    end_listing(state, journal, listing, CANCELLED)


def end_listing(state: State, journal: Journal, listing: Listing, outcome: str) -> None:
    """Placed -> cancelled, expired or spent: it holds nothing."""
    drop_order(state, Listing, listing.id, listing.owner)
    _note_end(journal, listing.id, outcome)


# --- bids ------------------------------------------------------------------------------------------------------------


def place_bid(state: State, env: Env, tx: Transaction, body: PlaceBid) -> None:
    """A user asks for energy and puts up what it may cost."""
    check_place(state, body)
    _check_bid_window(state, env, body)
    if body.energy_wh % LOT_WH:
        raise Rejection("energy", f"energy is traded in lots of {LOT_WH} Wh")
    count_order(state, tx.sender)
    catalog = tariff.catalog_of(state, body.window_start_ms).sell_micro_per_kwh
    hold = hold_micro(state.params, body.energy_wh, body.limit_micro_per_kwh, catalog, divisible=body.divisible)
    accounts.post(state, accounts.party_account(tx.sender), accounts.escrow_account(tx.id), hold)
    last_ms = _last_match_ms(state, body)
    state.put(
        Bid(
            id=tx.id,
            user=tx.sender,
            zone=body.zone,
            pile=body.pile,
            energy_wh=body.energy_wh,
            window_start_ms=body.window_start_ms,
            window_end_ms=body.window_end_ms,
            limit_micro_per_kwh=body.limit_micro_per_kwh,
            market=body.market,
            expires_ms=last_ms if body.market else min(body.expires_ms, last_ms),
            hold_micro=hold,
            divisible=body.divisible,
            explicit=body.explicit,
            pieces=0,
        )
    )
    touch(state, body.zone)


def check_place(state: State, body: PlaceBid) -> None:
    """The zone and pile that a bid names are there."""
    if state.find(Zone, body.zone) is None:
        raise Rejection("unknown_zone", f"no pile is registered in zone {body.zone}")
    if body.pile:
        pile = state.find(Pile, body.pile)
        if pile is None or pile.retired or pile.zone != body.zone:
            raise Rejection("unknown_pile", f"no pile {body.pile} in zone {body.zone}")


def _last_match_ms(state: State, body: PlaceBid) -> int:
    """Matched later, nothing could begin, or nobody sign in time, and somebody would pay for a default or a no-show."""
    if body.explicit:
        return body.window_start_ms
    return last_begin_ms(state.params.begin_grace_ms, body.window_start_ms, body.window_end_ms)


def last_begin_ms(begin_grace_ms: int, window_start_ms: int, window_end_ms: int) -> int:
    """The last moment a session may begin in a window: its start plus the grace, inside the window."""
    return min(window_start_ms + begin_grace_ms, window_end_ms)


def _check_bid_window(state: State, env: Env, body: PlaceBid) -> None:
    start_ms, end_ms = body.window_start_ms, body.window_end_ms
    if not 0 < end_ms - start_ms <= MAX_WINDOW_MS or end_ms > env.time_ms + MAX_AHEAD_MS:
        raise Rejection("window", "the window must be at most a week long and end within a year")
    if env.time_ms >= _last_match_ms(state, body):
        raise Rejection("window", "it is too late for a session to begin in this window, or to sign before it starts")
    if not body.market and not env.time_ms < body.expires_ms <= end_ms:
        raise Rejection("window", "a limited order must expire after now and by the end of its window")


def cancel_bid(state: State, journal: Journal, sender: str, body: CancelBid) -> None:
    """A user withdraws a resting bid."""
    bid = state.find(Bid, body.bid)
    if bid is None:
        raise Rejection("unknown_order", "no such resting bid")
    if bid.user != sender:
        raise Rejection("not_yours", "only its user cancels a bid")
    release_bid(state, journal, bid, CANCELLED)


def release_bid(state: State, journal: Journal, bid: Bid, outcome: str) -> None:
    """Placed -> expired, cancelled or unfilled: the hold goes back to the user."""
    drop_bid(state, bid)
    _note_end(journal, bid.id, outcome)
    if bid.pieces == 0:
        leave(state, journal, bid.user)


def drop_bid(state: State, bid: Bid) -> None:
    """A bid ends, filled or not: what it still holds is the user's again."""
    accounts.post(state, accounts.escrow_account(bid.id), accounts.party_account(bid.user), bid.hold_micro)
    drop_order(state, Bid, bid.id, bid.user)


def leave(state: State, journal: Journal, user: str) -> None:
    """The order of a user has ended, and with it who came for this order only."""
    if state.get(Party, user).role == ANONYMOUS:
        journal.gone.append(user)


# --- both ------------------------------------------------------------------------------------------------------------


def withdraw_all(state: State, journal: Journal, party: str) -> None:
    """All open orders of a party end: the key that signed them is not theirs any more."""
    for listing in state.listings_of(party):
        end_listing(state, journal, listing, CANCELLED)
    for bid in state.bids_of(party):
        release_bid(state, journal, bid, CANCELLED)


def touch(state: State, zone_id: str) -> None:
    """Something changed in a zone: it is cleared in this block."""
    zone = state.get(Zone, zone_id)
    if not zone.dirty:
        state.put(replace(zone, dirty=True))


def wake(state: State, owner: str) -> None:
    """An owner has more money: bids in any zone of their listings may have waited for the bond."""
    for zone_id in state.zones_listed_by(owner):
        touch(state, zone_id)


def _note_end(journal: Journal, order: bytes, outcome: str) -> None:
    journal.leaves.append(encode([LEAF_CLOSED, order, outcome]))
    journal.closed.append(order)


def count_order(state: State, party_id: str) -> None:
    """Count an order or withdrawal in; Rejection `limit` if its party has as many as it may."""
    party = state.get(Party, party_id)
    if party.open_orders >= MAX_OPEN_ORDERS:
        raise Rejection("limit", f"{party_id} has {MAX_OPEN_ORDERS} open orders, the most allowed")
    state.put(party.counting(1))


def drop_order(state: State, kind: type[Bid | Listing | Withdrawal], order: bytes, party: str) -> None:
    """Remove a bid, listing or withdrawal and count it out of its party's open orders."""
    state.drop(kind, order)
    owner = state.get(Party, party)
    state.put(owner.counting(-1))
