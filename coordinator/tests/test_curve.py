"""The price curve against an independent high-precision formula, and the properties that make it safe to trade on."""

import math
import random
from collections import Counter
from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import bounded

from pile_coordinator.chain.curve import MAX_CRR_TERM, Curve, ceil_root, floor_root
from pile_shared.units import LOT_WH

CASES = 20_000  # of the tests that need no mpmath
EVERY_CRR = [(a, b) for b in range(1, MAX_CRR_TERM + 1) for a in range(1, b + 1)]

# What the supply is, in one round over every CRR each; 20 rounds of 5,050 are the 100,000 cases.
ANYWHERE, LOADED, CATALOG, BESIDE_CATALOG, POWER, BESIDE_POWER = (
    "anywhere from 1 Wh to 4 S0",
    "S0 and a load in lots",
    "S0",
    "1 Wh beside S0",
    "S0 x k^a, where B is whole or has a denominator that divides b",
    "1 Wh beside S0 x k^a",
)
ROUNDS = [ANYWHERE] * 8 + [LOADED] * 5 + [CATALOG] + [BESIDE_CATALOG] * 2 + [POWER] * 2 + [BESIDE_POWER] * 2
MAX_POWER_TERM = 12  # the largest a for which these two are more than S0; above, S0 x 2^a is no zone (but see below)


def random_curve(rng: random.Random, crr: tuple[int, int] | None = None) -> Curve:
    if crr is None:
        highest = MAX_CRR_TERM if rng.random() < 0.03 else 12
        denominator = rng.randint(1, highest)
        crr = rng.randint(1, denominator), denominator
    return Curve(
        catalog_micro_per_kwh=rng.choice([1, 650_000, rng.randint(1, 10**9)]),
        capacity_wh=rng.choice([rng.randint(1, 10_000), rng.randint(10_000, 10**10)]),
        numerator=crr[0],
        denominator=crr[1],
    )


def random_supply_wh(rng: random.Random, kind: str, curve: Curve) -> int:
    capacity_wh, a = curve.capacity_wh, curve.numerator
    if kind == ANYWHERE:
        return rng.randint(1, 4 * capacity_wh)
    if kind == LOADED:
        return capacity_wh + LOT_WH * rng.randint(1, 10_000)
    if kind in {POWER, BESIDE_POWER} and a <= MAX_POWER_TERM:
        capacity_wh *= rng.randint(2, 9 if a < 4 else 2) ** a
    beside_wh = rng.choice([-1, 1]) if kind in {BESIDE_CATALOG, BESIDE_POWER} else 0
    return max(1, capacity_wh + beside_wh)


def real_reserve(curve: Curve, supply_wh: int, precision: int) -> mpmath.mpf:
    """The paper's curve, B0 (S / S0)^(1 / CRR) with B0 = P0 S0 CRR, as a real number with `precision` bits."""
    mpmath.mp.prec = precision
    a, b = curve.numerator, curve.denominator
    anchor = mpmath.mpf(curve.catalog_micro_per_kwh * curve.capacity_wh * a) / b
    if supply_wh == curve.capacity_wh:
        return anchor
    return anchor * mpmath.power(mpmath.mpf(supply_wh) / curve.capacity_wh, mpmath.mpf(b) / a)


def reserve_by_mpmath(curve: Curve, supply_wh: int) -> int:
    """The ceiling of the real B(S), with a precision that decides on which side of an integer it lies.

    The error. With p bits each operation is right to 2^-p, relative. The power turns the errors of its base and exponent
    into 1 / CRR + |ln B/B0| times as much: at most 100 + 100 ln(10^14) < 2^12. So what comes out is B (1 +- 2^(16 - p)).

    First try: p = bits of B + 96, so the error is below 2^-80 of a unit. Farther than 2^-64 from any integer, the side is
    certain, and that decides all but the hard cases.

    Else: B^a is a fraction num / den in lowest terms. If B is not the integer n next to it, then B^a and n^a differ by at
    least 1 / den, and |B^a - n^a| = |B - n| x (a terms of at most (n + 1)^(a - 1)). So B is n, or at least
    2^-gap_bits from it, gap_bits = bits of den + bits of a + (a - 1) x bits of n + 1; and p = gap_bits + bits of n + 32
    tells these two apart.
    """
    a, b = curve.numerator, curve.denominator
    anchor = curve.catalog_micro_per_kwh * curve.capacity_wh * a / b
    size = math.log2(anchor) + b / a * math.log2(supply_wh / curve.capacity_wh)
    reserve = real_reserve(curve, supply_wh, max(0, int(size)) + 100)
    nearest = int(mpmath.nint(reserve))
    if nearest == 0:
        return 1  # B is positive
    if abs(reserve - nearest) <= mpmath.ldexp(1, -64):
        power = Fraction(curve.catalog_micro_per_kwh * curve.capacity_wh * a, b) ** a
        power *= Fraction(supply_wh, curve.capacity_wh) ** b
        gap_bits = power.denominator.bit_length() + a.bit_length() + (a - 1) * (nearest + 1).bit_length()
        reserve = real_reserve(curve, supply_wh, gap_bits + nearest.bit_length() + 32)
        if abs(reserve - nearest) < mpmath.ldexp(1, -gap_bits - 1):
            return nearest
    return nearest if reserve < nearest else nearest + 1


def price_by_mpmath(curve: Curve, supply_wh: int, reserve_nano: int) -> int:
    """The ceiling of B / (S CRR): a fraction over S a, so whole or 1 / (S a) from whole, and one division rounds less."""
    numerator, denominator = reserve_nano * curve.denominator, supply_wh * curve.numerator
    mpmath.mp.prec = numerator.bit_length() + denominator.bit_length() + 8
    return int(mpmath.ceil(mpmath.mpf(numerator) / denominator))


def is_ceiling(curve: Curve, supply_wh: int, reserve_nano: int) -> bool:
    """Whether reserve - 1 < B <= reserve, by (b B)^a S0^(b - a) = (P0 a)^a S^b: no root is taken at all."""
    a, b = curve.numerator, curve.denominator
    exact = (curve.catalog_micro_per_kwh * a) ** a * supply_wh**b
    scale = curve.capacity_wh ** (b - a)
    return ((reserve_nano - 1) * b) ** a * scale < exact <= (reserve_nano * b) ** a * scale


def test_reserve_and_price_are_never_misrounded() -> None:
    rng, precision, whole = random.Random(1), mpmath.mp.prec, Counter[str]()
    cases = [(kind, crr) for kind in ROUNDS for crr in EVERY_CRR]
    assert len(cases) >= 100_000
    try:
        for kind, crr in cases:
            curve = random_curve(rng, crr)
            supply_wh = random_supply_wh(rng, kind, curve)
            reserve_nano = reserve_by_mpmath(curve, supply_wh)
            price = price_by_mpmath(curve, supply_wh, reserve_nano)
            assert curve.reserve_nano(supply_wh) == reserve_nano, (kind, curve, supply_wh)
            assert curve.price_micro_per_kwh(supply_wh - curve.capacity_wh) == price, (kind, curve, supply_wh)
            assert is_ceiling(curve, supply_wh, reserve_nano), (kind, curve, supply_wh)
            whole[kind] += (curve.catalog_micro_per_kwh * curve.capacity_wh * crr[0]) % crr[1] == 0
    finally:
        mpmath.mp.prec = precision
    assert whole[CATALOG] > 500, "cases where B is a whole number are among them"
    assert whole[POWER] > 1000


def test_the_root_is_exact_where_it_is_whole() -> None:
    """At S = S0 k^a the curve is B0 k^b: known without any root, for every CRR, and beside it to the Wh."""
    rng = random.Random(5)
    for a, b in EVERY_CRR:
        factor = rng.randint(2, 3)
        curve = Curve(rng.randint(1, 10**6), b * rng.randint(1, 10**6), a, b)  # b divides S0, so B0 is whole
        supply_wh = curve.capacity_wh * factor**a
        whole_nano = curve.catalog_micro_per_kwh * (curve.capacity_wh // b) * a * factor**b
        assert curve.reserve_nano(supply_wh) == whole_nano
        beside_wh = rng.choice([-1, 1])
        beside_nano = curve.reserve_nano(supply_wh + beside_wh)
        assert beside_nano * beside_wh > whole_nano * beside_wh, "a Wh costs at least 1 nano: P is 1 or more"
        assert is_ceiling(curve, supply_wh + beside_wh, beside_nano)


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
        more_wh = open_wh + LOT_WH * rng.choice([1, rng.randint(1, 10_000)])
        low, high = curve.price_micro_per_kwh(open_wh), curve.price_micro_per_kwh(more_wh)
        assert low <= high
        assert curve.numerator < curve.denominator or low == high == curve.catalog_micro_per_kwh, "CRR 1 is flat"
    doubled = Curve(650_000, 14_000, 4, 5)
    assert doubled.price_micro_per_kwh(14_000) / 650_000 == pytest.approx(1.19, abs=0.005)
    assert Curve(650_000, 14_000, 1, 2).price_micro_per_kwh(14_000) == 1_300_000
    assert Curve(650_000, 14_000, 1, 1).price_micro_per_kwh(14_000) == 650_000


@pytest.mark.parametrize("crr", [(1, 100), (1, 2), (4, 5), (9, 10), (99, 100), (1, 1)])
def test_neither_price_nor_reserve_ever_falls_from_lot_to_lot(crr: tuple[int, int]) -> None:
    curve = Curve(650_000, 7_000, *crr)
    prices = [curve.price_micro_per_kwh(open_wh) for open_wh in range(0, 28_000, LOT_WH)]
    reserves = [curve.reserve_nano(supply_wh) for supply_wh in range(1, 28_000, 97)]
    assert prices == sorted(prices)
    assert reserves == sorted(reserves)
    assert len(set(prices)) == (1 if crr == (1, 1) else len(prices)), "every lot moves the price of a small zone"


@given(st.randoms(use_true_random=False), st.sampled_from(EVERY_CRR), st.lists(st.integers(-50, 50), max_size=30))
@bounded(400)
def test_the_papers_formula_holds_at_every_step_of_a_walk(
    rng: random.Random, crr: tuple[int, int], lots: list[int]
) -> None:
    """A market maker that starts with B0 and takes exactly what trades cost always stands at P = B / (S CRR).

    B is what it holds and S what it issued, both counted here; P is also the slope of the curve (dB/dS = P), which says
    what a trade may cost: t at the price before it and t at the price after it enclose B(S + t) - B(S). The last nano
    of each B is rounded, and P with it by 1 / (S CRR).
    """
    curve, ratio = random_curve(rng, crr), Fraction(*crr)
    open_wh = 60 * 50 * LOT_WH
    supply_wh, held_nano = curve.capacity_wh + open_wh, curve.reserve_nano(curve.capacity_wh + open_wh)
    price = Fraction(held_nano) / (supply_wh * ratio)
    for lot in lots:
        traded_wh = lot * LOT_WH
        cost_nano = curve.cost_nano(open_wh, traded_wh)
        open_wh, supply_wh, held_nano = open_wh + traded_wh, supply_wh + traded_wh, held_nano + cost_nano
        before, price = price, Fraction(held_nano) / (supply_wh * ratio)
        assert price * supply_wh * ratio == held_nano == curve.reserve_nano(supply_wh)
        assert curve.price_micro_per_kwh(open_wh) == math.ceil(price)
        blur = 1 + abs(traded_wh) / (min(supply_wh, supply_wh - traded_wh) * ratio)
        assert traded_wh * before - blur < cost_nano < traded_wh * price + blur
    assert held_nano - curve.cost_nano(0, open_wh) == curve.reserve_nano(curve.capacity_wh)


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


@given(st.randoms(use_true_random=False), st.sampled_from(EVERY_CRR), st.lists(st.integers(-50, 50), max_size=12))
@bounded(300)
def test_a_walk_that_ends_where_it_began_cost_nothing(
    rng: random.Random, crr: tuple[int, int], lots: list[int]
) -> None:
    """Also when others trade in between: whatever they do, in any order, the costs of all sum to the change of B."""
    steps = lots + [-lot for lot in lots]
    rng.shuffle(steps)
    curve, open_wh, paid_nano = random_curve(rng, crr), 5000 * LOT_WH, 0
    for lot in steps:
        cost_nano = curve.cost_nano(open_wh, lot * LOT_WH)
        assert cost_nano * lot >= 0, "buying is never paid for, selling never charged"
        open_wh, paid_nano = open_wh + lot * LOT_WH, paid_nano + cost_nano
    assert (open_wh, paid_nano) == (5000 * LOT_WH, 0)


@given(st.randoms(use_true_random=False), st.sampled_from(EVERY_CRR), st.lists(st.integers(1, 40), min_size=2))
@bounded(300)
def test_no_split_of_an_order_pays_less_than_the_curve_charges(
    rng: random.Random, crr: tuple[int, int], lots: list[int]
) -> None:
    """In pieces the curve charges the same, to the nano; and pieces paid at the price after each never pay less."""
    curve, start_wh = random_curve(rng, crr), rng.randint(0, 1000) * LOT_WH
    open_wh, charged_nano, paid_nano = start_wh, 0, 0
    for lot in lots:
        charged_nano += curve.cost_nano(open_wh, lot * LOT_WH)
        open_wh += lot * LOT_WH
        paid_nano += lot * LOT_WH * curve.price_micro_per_kwh(open_wh)
    whole_wh = open_wh - start_wh
    assert charged_nano == curve.cost_nano(start_wh, whole_wh)
    assert charged_nano <= paid_nano <= whole_wh * curve.price_micro_per_kwh(open_wh)


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
    for power in (low**k, (low + 2) ** k):
        root = low if power == low**k else low + 2
        assert floor_root(power, k) == ceil_root(power, k) == root
        assert ceil_root(power + 1, k) == root + 1 or k == 1
        assert power < 2 or floor_root(power - 1, k) == root - 1
