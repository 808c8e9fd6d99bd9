"""The Bancor curve of the paper (section 2.1.2), P = B / (S x CRR), in exact integers.

Potential form: with CRR = a/b only the supply S is state, and the reserve is a function of it,

    B(S) = ceilroot_a( ceil( B0^a * S^b / S0^b ) )        P(S) = B(S) * b / (S * a)

anchored so that P(S0) is the catalog price: B0 = P0 * S0 * a / b. S and S0 are in Wh, B in milli-micro of the currency
(10^-9), which makes B0 an integer multiple of P0 [micro per kWh] x S0 [Wh] without rounding: micro/kWh x Wh = 10^-9.
Because floor(x^(1/k)) = floor(floor(x)^(1/k)), integer roots lose nothing; because cost is a difference of potentials,
it does not depend on the path taken.
"""

from dataclasses import dataclass
from math import isqrt

from pile_shared.units import ceil_div

MAX_CRR_TERM = 100


def floor_root(x: int, k: int) -> int:
    """The largest integer r with r^k <= x, for x >= 0, k >= 1 (Newton's iteration from above)."""
    while k % 2 == 0:  # the root of a root: `isqrt` is several times faster, and CRR 4/5 takes a fourth root
        x, k = isqrt(x), k // 2
    if x < 2 or k == 1:
        return x
    r = 1 << -(-x.bit_length() // k)
    while True:
        better = ((k - 1) * r + x // r ** (k - 1)) // k
        if better >= r:
            return r
        r = better


def ceil_root(x: int, k: int) -> int:
    """The smallest integer r with r^k >= x."""
    r = floor_root(x, k)
    return r if r**k == x else r + 1


@dataclass(frozen=True, slots=True)
class Curve:
    """One zone's curve.

    Attributes:
        catalog_micro_per_kwh: P0, the price at no load.
        capacity_wh: S0.
        numerator, denominator: CRR = numerator / denominator, both 1..100.
    """

    catalog_micro_per_kwh: int
    capacity_wh: int
    numerator: int
    denominator: int

    def reserve_nano(self, supply_wh: int) -> int:
        """B(S), in 10^-9 of the currency, for S >= 1 Wh."""
        a, b = self.numerator, self.denominator
        # B0 = P0 S0 a / b need not be whole; B0^a enters as one fraction, so nothing is rounded before the root.
        anchor = self.catalog_micro_per_kwh * self.capacity_wh * a
        return ceil_root(ceil_div(anchor**a * supply_wh**b, b**a * self.capacity_wh**b), a)

    def price_micro_per_kwh(self, open_wh: int) -> int:
        """P(S0 + open_wh), rounded up: the paper's B / (S x CRR)."""
        supply_wh = self.capacity_wh + open_wh
        return ceil_div(self.reserve_nano(supply_wh) * self.denominator, supply_wh * self.numerator)

    def cost_nano(self, open_wh: int, energy_wh: int) -> int:
        """B(S + t) - B(S): what the curve charges to go from one load to another, in 10^-9 of the currency."""
        supply_wh = self.capacity_wh + open_wh
        return self.reserve_nano(supply_wh + energy_wh) - self.reserve_nano(supply_wh)
