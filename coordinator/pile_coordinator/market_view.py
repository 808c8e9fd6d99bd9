"""What a driver chooses from: the zones of a chain, and what is offered in one. Everybody may ask; nobody's name is in it."""

from itertools import islice

from pile_coordinator.chain.records import Listing, Pile, Zone
from pile_coordinator.chain.state import State

MAX_ROWS = 500  # in one answer: some 100 kB


def zones_answer(state: State) -> list[dict[str, object]]:
    """The answer to the question `zones` (docs/wire-format.cddl, zone-row), in order of id, MAX_ROWS at most."""
    return [_zone_row(state, zone) for zone in islice(state.each(Zone), MAX_ROWS)]


def _zone_row(state: State, zone: Zone) -> dict[str, object]:
    return {
        "capacity_wh": zone.capacity_wh,
        "open_wh": zone.open_wh,
        "offers": len(state.listings_in(zone.id)),
        "paused_until_ms": zone.paused_until_ms,
        "zone": zone.id,
    }


def offers_answer(state: State, zone: str) -> list[dict[str, object]]:
    """The answer to `offers`: the open listings of a zone (offer-row), in order of pile and window, MAX_ROWS at most."""
    found = sorted(state.listings_in(zone), key=lambda one: (one.pile, one.window_start_ms, one.id))
    return [_offer_row(listing, state.get(Pile, listing.pile)) for listing in islice(found, MAX_ROWS)]


def _offer_row(listing: Listing, pile: Pile) -> dict[str, object]:
    return {
        "ask_micro_per_kwh": listing.ask_micro_per_kwh,
        "energy_wh": listing.energy_wh,
        "pile": pile.id,
        "rated_power_w": pile.rated_power_w,
        "window_end_ms": listing.window_end_ms,
        "window_start_ms": listing.window_start_ms,
    }
