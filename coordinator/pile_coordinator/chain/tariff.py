"""The grid's catalog prices by time of day: peak, flat, valley (paper section 2.1.2; ledger guide, "Tariff").

The catalog price of an order is that of the period in which its window starts. It anchors the curve of the order, bounds
its price and settles its deviation; the contract freezes it.
"""

from dataclasses import dataclass
from typing import cast

from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import Tariff
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import SetTariff
from pile_shared.codec import encode
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_TARIFF

NOW, NEXT = "now", "next"
DAY_MINUTES = 1440
MAX_NOTICE_MS = 366 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Catalog:
    """The grid's prices in one period, micro per kWh: it sells at `sell` (P0 and p_cat) and buys at `buy` (p_buy)."""

    period: str
    sell_micro_per_kwh: int
    buy_micro_per_kwh: int

    def band_micro_per_kwh(self, band_permille: int) -> tuple[int, int]:
        """The lowest and the highest price at which anything is filled."""
        return self.buy_micro_per_kwh, self.sell_micro_per_kwh * band_permille // 1000


def catalog_at(tariff: Tariff, time_ms: int) -> Catalog:
    """The prices of the period that a moment falls into."""
    minute = (time_ms // 60_000 + tariff.utc_offset_minutes) % DAY_MINUTES
    begun = sum(cast("int", period[0]) <= minute for period in tariff.periods)
    return _catalog(tariff.periods[begun - 1])


def catalogs(state: State) -> list[Catalog]:
    """The prices of every period of the tariff in force."""
    return [_catalog(period) for period in state.get(Tariff, NOW).periods]


def _catalog(period: list[int | str]) -> Catalog:
    _, name, sell, buy = period
    return Catalog(cast("str", name), cast("int", sell), cast("int", buy))


def catalog_of(state: State, window_start_ms: int) -> Catalog:
    """The catalog prices of an order, by the tariff in force."""
    return catalog_at(state.get(Tariff, NOW), window_start_ms)


def tariff_hash(tariff: Tariff) -> bytes:
    """What a clearing names its tariff by: SHA-256 over the leaf that announced it coming into force."""
    return sha256(tariff_leaf(tariff))


def tariff_leaf(tariff: Tariff) -> bytes:
    """The leaf [LEAF_TARIFF, from_ms, utc_offset_minutes, periods]."""
    return encode([LEAF_TARIFF, tariff.from_ms, tariff.utc_offset_minutes, tariff.periods])


def set_tariff(state: State, env: Env, sender: str, body: SetTariff) -> None:
    """The grid announces the next tariff."""
    if sender != state.params.grid:
        raise Rejection("wrong_role", f"the tariff is set by {state.params.grid}")
    if not env.time_ms <= body.from_ms <= env.time_ms + MAX_NOTICE_MS:
        raise Rejection("window", "a tariff comes into force after now and within a year")
    state.put(Tariff(NEXT, body.from_ms, body.utc_offset_minutes, body.periods))


def put_in_force(state: State, env: Env, journal: Journal) -> None:
    """At an epoch edge: the announced tariff replaces the old one if its time has come."""
    announced = state.find(Tariff, NEXT)
    if announced is None or announced.from_ms > env.time_ms:
        return
    state.drop(Tariff, NEXT)
    state.put(Tariff(NOW, announced.from_ms, announced.utc_offset_minutes, announced.periods))
    journal.leaves.append(tariff_leaf(announced))
