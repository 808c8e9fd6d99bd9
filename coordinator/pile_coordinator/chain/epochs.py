"""Epoch edges: the only moments at which curves change their anchors (ledger guide, "Epochs" and "Breaker")."""

from dataclasses import replace

from pile_coordinator.chain import tariff
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import Epoch, Params, Zone
from pile_coordinator.chain.state import State

EPOCH = "epoch"
_UNIT_PRICE_MICRO = 1_000_000  # a catalog price of 1: what the breaker compares loads at, whatever the tariff


def curve(params: Params, capacity_wh: int, catalog_micro_per_kwh: int) -> Curve:
    """The curve with this anchor."""
    return Curve(catalog_micro_per_kwh, capacity_wh, params.crr_numerator, params.crr_denominator)


def zone_curve(params: Params, zone: Zone, catalog_micro_per_kwh: int) -> Curve:
    """The curve of a zone for orders of one catalog price."""
    return curve(params, zone.capacity_wh, catalog_micro_per_kwh)


def cross_edge(state: State, env: Env, journal: Journal) -> bool:
    """If this block is the first of a new epoch: tariff, capacities and breakers move on, and every zone is cleared."""
    epoch, length_ms = state.get(Epoch, EPOCH), state.params.epoch_ms
    if env.time_ms < epoch.next_edge_ms:
        return False
    passed = (env.time_ms - epoch.next_edge_ms) // length_ms + 1
    state.put(replace(epoch, next_edge_ms=epoch.next_edge_ms + passed * length_ms))
    tariff.put_in_force(state, env, journal)
    for zone in state.each(Zone):
        state.put(replace(_anchored(state, zone), reference_wh=zone.open_wh, dirty=True))
    return True


def change_capacity(state: State, zone: Zone, power_w: int) -> None:
    """A pile came (power_w > 0) or went. The curve follows at once only while nobody's price hangs on it."""
    changed = replace(zone, rated_power_w=zone.rated_power_w + power_w, dirty=True)
    state.put(changed if zone.open_wh else _anchored(state, changed))


def _anchored(state: State, zone: Zone) -> Zone:
    """S0 = rated power registered in the zone x capacity hours; without piles it stays what it was."""
    return replace(zone, capacity_wh=zone.rated_power_w * state.params.capacity_hours or zone.capacity_wh)


def watch_breaker(state: State, env: Env, zone: Zone) -> Zone:
    """The zone after a clearing: its reference follows the load down, and a rise beyond the limit pauses fills."""
    params = state.params
    calm = replace(zone, reference_wh=min(zone.reference_wh, zone.open_wh))
    if params.breaker_permille == 0 or calm.reference_wh == calm.open_wh:
        return calm
    unit = zone_curve(params, calm, _UNIT_PRICE_MICRO)
    before, now = unit.price_micro_per_kwh(calm.reference_wh), unit.price_micro_per_kwh(calm.open_wh)
    if now * 1000 <= before * (1000 + params.breaker_permille):
        return calm
    return replace(calm, reference_wh=calm.open_wh, paused_until_ms=env.time_ms + params.breaker_pause_ms)


def end_pause(state: State, zone: Zone) -> None:
    """Fills go on, with everything that waited."""
    state.put(replace(zone, paused_until_ms=0, dirty=True))
