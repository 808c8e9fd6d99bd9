"""The price curve against an independent high-precision formula, and the properties that make it safe to trade on."""

import random
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import bounded

from pile_coordinator.chain.curve import Curve, ceil_root, floor_root
from pile_shared.units import LOT_WH

CASES = 20_000


def random_curve(rng: random.Random) -> Curve:
    highest = 100 if rng.random() < 0.03 else 12
    denominator = rng.randint(1, highest)
    return Curve(
        catalog_micro_per_kwh=rng.choice([1, 650_000, rng.randint(1, 10**9)]),
        capacity_wh=rng.choice([rng.randint(1, 10_000), rng.randint(10_000, 10**10)]),
        numerator=rng.randint(1, denominator),
        denominator=denominator,
    )


def reserve_by_formula(curve: Curve, supply_wh: int) -> int:
    """ceil(B0 * (S / S0)^(1 / CRR)), B0 = P0 * S0 * CRR: the paper's curve, by mpmath, with digits to spare."""
    crr = mpmath.mpf(curve.numerator) / curve.denominator
    anchor = curve.catalog_micro_per_kwh * curve.capacity_wh * crr
    exact = anchor * mpmath.power(mpmath.mpf(supply_wh) / curve.capacity_wh, 1 / crr)
    nearest = mpmath.nint(exact)
    if mpmath.almosteq(exact, nearest, rel_eps=mpmath.mpf(10) ** -300):
        return int(nearest)
    return int(mpmath.ceil(exact))


def test_reserve_is_never_misrounded() -> None:
    rng = random.Random(1)
    with mpmath.workdps(400):
        for _ in range(CASES):
            curve = random_curve(rng)
            supply_wh = rng.randint(1, 4 * curve.capacity_wh)
            assert curve.reserve_nano(supply_wh) == reserve_by_formula(curve, supply_wh), (curve, supply_wh)


def test_price_is_the_papers_formula_within_the_rounding_of_one_unit() -> None:
    rng = random.Random(2)
    for _ in range(CASES):
        curve, open_wh = random_curve(rng), rng.randint(0, 10**7)
        supply_wh = curve.capacity_wh + open_wh
        crr = Fraction(curve.numerator, curve.denominator)
        exact = Fraction(curve.reserve_nano(supply_wh)) / (supply_wh * crr)
        assert exact <= curve.price_micro_per_kwh(open_wh) < exact + 1


def test_price_without_load_is_the_catalog_price_or_the_next_integer() -> None:
    rng = random.Random(3)
    for _ in range(CASES):
        curve = random_curve(rng)
        if curve.capacity_wh * curve.numerator >= curve.denominator:  # less is a zone of a few Wh
            assert curve.price_micro_per_kwh(0) - curve.catalog_micro_per_kwh in {0, 1}


def test_price_rises_with_load() -> None:
    rng = random.Random(4)
    for _ in range(CASES):
        curve = random_curve(rng)
        curve = Curve(curve.catalog_micro_per_kwh, max(curve.capacity_wh, 1000), curve.numerator, curve.denominator)
        open_wh = rng.randint(0, 10**6)
        more_wh = open_wh + LOT_WH * rng.randint(1, 10_000)
        low, high = curve.price_micro_per_kwh(open_wh), curve.price_micro_per_kwh(more_wh)
        assert low <= high
    doubled = Curve(650_000, 14_000, 4, 5)
    assert doubled.price_micro_per_kwh(14_000) / 650_000 == pytest.approx(1.19, abs=0.005)
    assert Curve(650_000, 14_000, 1, 2).price_micro_per_kwh(14_000) == 1_300_000
    assert Curve(650_000, 14_000, 1, 1).price_micro_per_kwh(14_000) == 650_000


@given(st.randoms(use_true_random=False), st.lists(st.integers(-50, 50), min_size=1, max_size=12))
@bounded(300)
def test_cost_does_not_depend_on_the_path_and_no_round_trip_pays(rng: random.Random, lots: list[int]) -> None:
    curve, start_wh = random_curve(rng), 5000 * LOT_WH
    open_wh, paid_nano = start_wh, 0
    for lot in lots:
        paid_nano += curve.cost_nano(open_wh, lot * LOT_WH)
        open_wh += lot * LOT_WH
    assert paid_nano == curve.cost_nano(start_wh, open_wh - start_wh)
    assert paid_nano + curve.cost_nano(open_wh, start_wh - open_wh) == 0


@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 40), min_size=2, max_size=8))
@bounded(300)
def test_what_is_paid_covers_the_reserve_in_every_order_of_closing(rng: random.Random, lots: list[int]) -> None:
    """Everyone pays P after their own fill, so what stays open is covered whoever leaves first."""
    curve, open_wh, contracts = random_curve(rng), 0, []
    for lot in lots:
        open_wh += lot * LOT_WH
        contracts.append((lot * LOT_WH, curve.price_micro_per_kwh(open_wh)))
    rng.shuffle(contracts)
    while contracts:
        left_wh = sum(energy_wh for energy_wh, _ in contracts)
        assert sum(energy_wh * price for energy_wh, price in contracts) >= curve.cost_nano(0, left_wh)
        contracts.pop()


@given(st.integers(0, 1 << 400), st.integers(1, 100))
@bounded(1000)
def test_integer_roots(x: int, k: int) -> None:
    low, high = floor_root(x, k), ceil_root(x, k)
    assert low**k <= x < (low + 1) ** k
    assert high**k >= x
    assert high == 0 or (high - 1) ** k < x
    assert floor_root(low**k, k) == ceil_root(low**k, k) == low
