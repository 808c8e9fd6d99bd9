"""Link `price` of a verification: two signed orders, a tariff and the load of a zone give this price and no other.

(Ledger guide, "Tariff", "Price" and "Clearing".)
"""

from dataclasses import dataclass
from typing import cast

from pile_coordinator.certificates import TariffChange
from pile_coordinator.chain.clearing import MAX_FILLS
from pile_coordinator.chain.contracts import begin_until_ms, piece_name
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.orders import MIN_PIECE_WH
from pile_coordinator.chain.records import Tariff
from pile_coordinator.chain.tariff import catalog_at, tariff_hash
from pile_coordinator.chain.transactions import AT_MARKET, MAX_PERIODS, List, PlaceBid, SetTariff
from pile_coordinator.verify_signed import Notary, VerifyError, breaking
from pile_shared.certificate import Header
from pile_shared.codec import array, items
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_TARIFF, Terms
from pile_shared.units import LOT_WH, MAX_PRICE_MICRO_PER_KWH, check_bytes, check_int

_MAX_LOAD_WH = 1 << 62


@dataclass(frozen=True, slots=True)
class Clearing:
    """A clearing's leaf: the curve of a zone, its load before and after, the price of each catalog price, and the fills."""

    zone: str
    capacity_wh: int
    tariff: bytes
    open_before_wh: int
    open_after_wh: int
    prices: tuple[tuple[int, int], ...]
    fills: tuple[tuple[bytes, int, bool, int], ...]


# --- the orders ----------------------------------------------------------------------------------------------------------


def check_orders(terms: Terms, bid: PlaceBid, listing: List, matched: Header) -> None:
    """The contract is what the user bid for and what the owner offered, while both orders stood."""
    wanted = (bid.window_start_ms, bid.window_end_ms, bid.zone)
    if wanted != (terms.window_start_ms, terms.window_end_ms, terms.zone):
        raise VerifyError("chain", "the contract is not what the user bid for")
    whole = terms.energy_wh == bid.energy_wh
    piece = bid.divisible and MIN_PIECE_WH <= terms.energy_wh < bid.energy_wh and terms.energy_wh % LOT_WH == 0
    if not whole and not piece:
        raise VerifyError("chain", "the contract is not over the energy the user bid for")
    last_ms = begin_until_ms(terms) if bid.market else min(bid.expires_ms, begin_until_ms(terms))
    if matched.time_ms >= last_ms:
        raise VerifyError("chain", "the bid had expired when it was matched")
    if listing.pile != terms.pile or bid.pile not in {"", terms.pile}:
        raise VerifyError("chain", "the contract is for another pile")
    if not listing.window_start_ms <= terms.window_start_ms < terms.window_end_ms <= listing.window_end_ms:
        raise VerifyError("chain", "the contract leaves the window the owner listed")
    if terms.energy_wh > listing.energy_wh:
        raise VerifyError("chain", "the contract is over more energy than the owner listed")


def check_order_name(terms: Terms, bid_id: bytes, bid: PlaceBid, piece: int | None) -> None:
    """The contract names this bid, or the piece of it that the certificate says."""
    if bid.divisible != (piece is not None):
        raise VerifyError("chain", "contracts of divisible bids have a number, and no others")
    if terms.order != (bid_id if piece is None else piece_name(bid_id, piece)):
        raise VerifyError("chain", "the contract did not come from this bid")


# --- the tariff ----------------------------------------------------------------------------------------------------------


def check_tariff(notary: Notary, named: bytes, change: TariffChange | None, matched: Header) -> Tariff:
    """The tariff that a clearing names: that of genesis, or one that the grid set and that came into force before it."""
    genesis = notary.genesis
    if named == tariff_hash(genesis.tariff):
        if change is not None:
            raise VerifyError("price", "the clearing used the tariff of genesis, and another one is shown")
        return genesis.tariff
    if change is None:
        raise VerifyError("price", "the clearing used a tariff that genesis does not set and that is not shown")
    header, (_, from_ms, offset, periods) = notary.open(change.in_force, (LEAF_TARIFF,), 4)
    grid = genesis.params.grid
    body = notary.by_key(change.announcement, SetTariff, grid, notary.founder(grid), not_before=1)
    if sha256(change.in_force.leaf) != named or [from_ms, offset, periods] != [
        body.from_ms,
        body.utc_offset_minutes,
        body.periods,
    ]:
        raise VerifyError("price", "the clearing used another tariff than the grid set")
    if header.height > matched.height or header.time_ms < body.from_ms:
        raise VerifyError("price", "the tariff was not in force at the clearing")
    return Tariff("now", body.from_ms, body.utc_offset_minutes, body.periods)


def check_band(terms: Terms, tariff: Tariff, band_permille: int) -> None:
    """The catalog prices in the terms are those of the window's start, and the price is inside their band."""
    catalog = catalog_at(tariff, terms.window_start_ms)
    if (terms.catalog_sell_micro_per_kwh, terms.catalog_buy_micro_per_kwh) != (
        catalog.sell_micro_per_kwh,
        catalog.buy_micro_per_kwh,
    ):
        raise VerifyError("price", f"the tariff's catalog prices are others in period {catalog.period}")
    least, most = catalog.band_micro_per_kwh(band_permille)
    if not least <= terms.price_micro_per_kwh <= most:
        raise VerifyError("price", f"{terms.price_micro_per_kwh} is outside the band of {least} to {most}")


# --- the clearing --------------------------------------------------------------------------------------------------------


def read_clearing(row: list[object], crr: tuple[int, int]) -> Clearing:
    """A clearing from its decoded leaf."""
    with breaking("price"):
        _, zone, shape, tariff, before, after, prices, fills = array(row, 8)
        capacity, *ratio = array(shape, 3)
        if tuple(ratio) != crr or any(isinstance(term, bool) for term in ratio):
            raise VerifyError("price", "the clearing used another CRR than genesis sets")
        return Clearing(
            zone=zone,
            capacity_wh=check_int("capacity", capacity, 1, _MAX_LOAD_WH),
            tariff=check_bytes("tariff", tariff, 32, 32),
            open_before_wh=check_int("load before", before, 0, _MAX_LOAD_WH),
            open_after_wh=check_int("load after", after, 0, _MAX_LOAD_WH),
            prices=tuple(_price_pair(pair) for pair in items(prices, MAX_PERIODS)),
            fills=tuple(_fill(fill) for fill in items(fills, MAX_FILLS)),
        )


def _price_pair(value: object) -> tuple[int, int]:
    catalog, price = array(value, 2)
    return (
        check_int("catalog price", catalog, 1, MAX_PRICE_MICRO_PER_KWH),
        check_int("price", price, 0, MAX_PRICE_MICRO_PER_KWH),
    )


def _fill(value: object) -> tuple[bytes, int, bool, int]:
    contract, energy_wh, on_curve, price = array(value, 4)
    return (
        check_bytes("contract", contract, 32, 32),
        check_int("energy", energy_wh, 1, _MAX_LOAD_WH),
        cast("bool", on_curve),
        check_int("price", price, 0, MAX_PRICE_MICRO_PER_KWH),
    )


def check_price(terms: Terms, bid: PlaceBid, listing: List, clearing: Clearing, crr: tuple[int, int]) -> None:
    """The price is within the limit; it is the ask, or the curve's at the load after this clearing."""
    price = terms.price_micro_per_kwh
    if price > bid.limit_micro_per_kwh:
        raise VerifyError("price", f"{price} is above the bid's limit of {bid.limit_micro_per_kwh}")
    if terms.on_curve != (listing.ask_micro_per_kwh == AT_MARKET):
        raise VerifyError("price", "an ask is paid its price, and only capacity at market the curve's")
    contracted = (terms.contract_id(), terms.energy_wh, terms.on_curve, price)
    if clearing.zone != terms.zone or contracted not in clearing.fills:
        raise VerifyError("price", "the contract is not in this clearing")
    curve_wh = sum(energy_wh for _, energy_wh, on_curve, _ in clearing.fills if on_curve)
    if clearing.open_after_wh != clearing.open_before_wh + curve_wh:
        raise VerifyError("price", "the clearing's load does not add up")
    for catalog, stated in clearing.prices:
        if stated != Curve(catalog, clearing.capacity_wh, *crr).price_micro_per_kwh(clearing.open_after_wh):
            raise VerifyError("price", f"P = B / (S x CRR) is not {stated} at {clearing.open_after_wh} Wh open")
    paid = (terms.catalog_sell_micro_per_kwh, price) in clearing.prices
    if not (paid if terms.on_curve else price == listing.ask_micro_per_kwh):
        raise VerifyError("price", f"{price} is not the price of this clearing")
