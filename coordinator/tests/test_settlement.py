"""The journal of a contract: every row of the table by hand, then random contracts against what must hold for all."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from world import NOW, key

from pile_coordinator.chain.settlement import (
    BASES,
    BASIS_RULING,
    BASIS_TIMEOUT,
    CAUSE_DEFAULT,
    CAUSE_NO_SHOW,
    CAUSE_NONE,
    CAUSE_PILE,
    CAUSE_PILE_CANCEL,
    CAUSE_PILE_UNSIGNED,
    CAUSE_USER,
    CAUSE_USER_CANCEL,
    CAUSE_USER_UNSIGNED,
    CAUSES,
    MAX_ARBITERS,
    OVER,
    OWNER,
    UNDER,
    USER,
    WITHIN,
    Posting,
    Shares,
    Statement,
    Verdict,
    contract_escrow_micro,
    decode_statement,
    deviation,
    energy_of,
    settle,
    settle_disputed,
)
from pile_coordinator.chain.transactions import MAX_CATALOG_MICRO_PER_KWH, MAX_ORDER_WH
from pile_shared.codec import encode
from pile_shared.errors import PilechainError
from pile_shared.terms import VERSION, Terms, terms_from
from pile_shared.units import MAX_AMOUNT_MICRO, MAX_ENERGY_WH, MAX_PRICE_MICRO_PER_KWH, cost_micro

CASES = 200_000
SHARES = Shares(penalty_permille=500, no_show_permille=300)


def terms_of(**over: object) -> Terms:
    """5 kWh at 0.70 with the catalog at 0.65 / 0.40: tau 100 Wh, O 500 Wh, fee 0.05, bond 0.65."""
    values: dict[str, object] = {
        "version": VERSION,
        "order": b"\x01" * 32,
        "listing": b"\x02" * 32,
        "zone": "north",
        "pile": "pile-1",
        "pile_public": key("pile-1").public,
        "meter_serial": "123",
        "rated_power_w": 7000,
        "user": "dan",
        "user_public": key("dan").public,
        "owner": "olga",
        "owner_public": key("olga").public,
        "energy_wh": 5000,
        "window_start_ms": NOW,
        "window_end_ms": NOW + 3_600_000,
        "price_micro_per_kwh": 700_000,
        "on_curve": True,
        "tolerance_wh": 100,
        "overuse_wh": 500,
        "catalog_sell_micro_per_kwh": 650_000,
        "catalog_buy_micro_per_kwh": 400_000,
        "fee_micro": 50_000,
        "bond_micro": 650_000,
        "begin_grace_ms": 0,
        "evidence_window_ms": 0,
        "confirm_window_ms": 0,
    }
    return terms_from(values | over)


def journal(terms: Terms, measured_wh: int, cause: str) -> list[tuple[str, str, int]]:
    return listed(settle(terms, measured_wh, cause, SHARES))


def listed(rows: list[Posting]) -> list[tuple[str, str, int]]:
    return [(row.debit, row.credit, row.amount_micro) for row in rows]


# Escrow of terms_of(): 3.50 + 0.5 kWh * 0.70 + 0.05 = 3.90. p * Q = 3.50.
@pytest.mark.parametrize(
    ("measured_wh", "cause", "expected"),
    [
        pytest.param(5000, CAUSE_NONE, [("E", "H", 3_500_000), ("E", "F", 50_000), ("E", "U", 350_000)], id="exact"),
        pytest.param(5100, CAUSE_NONE, [("E", "H", 3_570_000), ("E", "F", 50_000), ("E", "U", 280_000)], id="tau over"),
        pytest.param(
            4900, CAUSE_NONE, [("E", "H", 3_430_000), ("E", "F", 50_000), ("E", "U", 420_000)], id="tau under"
        ),
        pytest.param(
            5300,
            CAUSE_NONE,
            [("E", "H", 3_500_000), ("E", "G", 195_000), ("E", "F", 50_000), ("E", "U", 155_000)],
            id="over: the grid provides 300 Wh at the catalog price",
        ),
        pytest.param(
            9999,
            CAUSE_NONE,
            [("E", "H", 3_500_000), ("E", "G", 325_000), ("E", "F", 50_000), ("E", "U", 25_000)],
            id="far over: Q + O is the most anybody pays for",
        ),
        pytest.param(
            3000,
            CAUSE_USER,
            [("E", "H", 3_500_000), ("G", "E", 800_000), ("E", "F", 50_000), ("E", "U", 1_150_000)],
            id="under by the user: the grid buys 2 kWh at 0.40",
        ),
        pytest.param(
            3000,
            CAUSE_PILE,
            [("E", "H", 2_100_000), ("E", "F", 50_000), ("E", "U", 1_750_000)],
            id="under by the pile: paid for what came, and 0.70 is above the catalog, so nothing is missing",
        ),
        pytest.param(0, CAUSE_PILE, [("E", "F", 50_000), ("E", "U", 3_850_000)], id="nothing came"),
    ],
)
def test_each_row_after_a_session(measured_wh: int, cause: str, expected: list) -> None:
    assert journal(terms_of(), measured_wh, cause) == [*expected, ("B", "H", 650_000)]


def test_a_pile_that_delivers_less_below_the_catalog_price_makes_good_the_difference() -> None:
    terms = terms_of(price_micro_per_kwh=500_000, on_curve=False)  # 2 kWh are missing, each 0.15 dearer from the grid
    assert journal(terms, 3000, CAUSE_PILE) == [
        ("E", "H", 1_500_000),
        ("B", "E", 300_000),
        ("E", "F", 50_000),
        ("E", "U", 2_500_000 + 325_000 - 1_500_000 + 300_000),
        ("B", "H", 350_000),
    ]
    assert journal(terms_of(price_micro_per_kwh=0), 0, CAUSE_PILE)[0] == ("B", "E", 650_000)  # the bond, and no more


def test_default_gives_all_back_and_half_the_bond() -> None:
    assert journal(terms_of(), 0, CAUSE_DEFAULT) == [("B", "U", 325_000), ("E", "U", 3_900_000), ("B", "H", 325_000)]


def test_no_show_pays_its_share_and_the_fee() -> None:
    assert journal(terms_of(), 0, CAUSE_NO_SHOW) == [
        ("E", "H", 1_050_000),
        ("E", "F", 50_000),
        ("E", "U", 2_800_000),
        ("B", "H", 650_000),
    ]


def test_the_user_never_earns_the_difference_between_a_low_ask_and_the_grids_buying_price() -> None:
    terms = terms_of(price_micro_per_kwh=100_000, on_curve=False)
    assert ("G", "E", 500_000) in journal(terms, 0, CAUSE_USER)  # at 0.10, not at 0.40


def test_debits_round_up_to_the_next_micro() -> None:
    terms = terms_of(price_micro_per_kwh=1, energy_wh=100, tolerance_wh=0, overuse_wh=0, fee_micro=0, bond_micro=0)
    assert contract_escrow_micro(terms) == 1
    assert journal(terms, 100, CAUSE_NONE) == [("E", "H", 1)]
    assert cost_micro(1001, 1) == 2
    assert cost_micro(1000, 1) == 1


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        pytest.param(
            CAUSE_USER_CANCEL,
            [("E", "F", 50_000), ("E", "U", 3_850_000), ("B", "H", 650_000)],
            id="called off by the user: the fee",
        ),
        pytest.param(
            CAUSE_PILE_CANCEL,
            [("B", "U", 325_000), ("E", "U", 3_900_000), ("B", "H", 325_000)],
            id="called off by the owner: half the bond",
        ),
        pytest.param(
            CAUSE_USER_UNSIGNED,
            [("E", "F", 50_000), ("E", "U", 3_850_000), ("B", "H", 650_000)],
            id="not signed by the user: the fee",
        ),
        pytest.param(
            CAUSE_PILE_UNSIGNED,
            [("B", "F", 50_000), ("E", "U", 3_900_000), ("B", "H", 600_000)],
            id="not signed by the owner: the fee, out of the bond",
        ),
    ],
)
def test_each_row_of_what_never_began(cause: str, expected: list) -> None:
    assert journal(terms_of(), 0, cause) == expected


def test_an_owner_who_does_not_sign_pays_no_more_than_the_bond() -> None:
    assert journal(terms_of(bond_micro=20_000), 0, CAUSE_PILE_UNSIGNED) == [("B", "F", 20_000), ("E", "U", 3_900_000)]


# --- disputes: terms_of(), 3 kWh metered, stopped by the user; the user paid 2.75, the owner got 3.50

OBJECTED = settle(terms_of(), 3000, CAUSE_USER, SHARES)


def disputed(objector: str, measured_wh: int, cause: str, bond_micro: int = 500_000) -> list[tuple[str, str, int]]:
    verdict = Verdict(objector, bond_micro, BASIS_RULING, ())
    return listed(settle_disputed(terms_of(), OBJECTED, measured_wh, cause, SHARES, verdict))


def test_a_user_who_objects_and_wins_is_paid_out_of_the_bond() -> None:
    assert disputed(USER, 3000, CAUSE_PILE) == [
        ("E", "H", 2_100_000),
        ("E", "F", 50_000),
        ("B", "U", 500_000),
        ("D", "U", 500_000),
        ("E", "U", 1_750_000),
        ("B", "H", 150_000),
    ]


def test_no_more_than_what_is_left_of_the_losers_bond_is_won() -> None:
    assert ("B", "U", 650_000) in disputed(USER, 3000, CAUSE_PILE, 5_000_000)


def test_a_user_who_objects_in_vain_pays_the_owner() -> None:
    rows = disputed(USER, 3000, CAUSE_USER)
    assert rows == [*listed(OBJECTED)[:3], ("D", "H", 500_000), *listed(OBJECTED)[3:]]


def test_an_owner_who_objects_and_wins_is_paid_out_of_the_escrow() -> None:
    assert disputed(OWNER, 5300, CAUSE_NONE, 100_000) == [
        ("E", "H", 3_500_000),
        ("E", "G", 195_000),
        ("E", "F", 50_000),
        ("D", "U", 100_000),
        ("E", "U", 155_000),
        ("B", "H", 650_000),
    ], "the owner had 3.50 before and has 3.50 now: that is not winning"
    cheap = terms_of(price_micro_per_kwh=600_000)
    lost = settle(cheap, 3000, CAUSE_PILE, SHARES)  # 1.80, less 2 kWh x 0.05 that the user pays elsewhere
    verdict = Verdict(OWNER, 2_000_000, BASIS_RULING, ())
    assert listed(settle_disputed(cheap, lost, 3000, CAUSE_USER, SHARES, verdict)) == [
        ("E", "H", 3_000_000),
        ("G", "E", 800_000),
        ("E", "F", 50_000),
        (
            "E",
            "H",
            3_000_000 + 325_000 + 50_000 - 3_000_000 + 800_000 - 50_000,
        ),  # all that is left: less than the stake
        ("D", "H", 2_000_000),
        ("B", "H", 650_000),
    ]


# --- 200,000 random settlements -------------------------------------------------------------------------------------------
#
# The oracle below is written from the guide's tables alone and shares no line with the chain: what each side has more or
# less afterwards than before it put up escrow, bond and stake.

BEGUN = (CAUSE_NONE, CAUSE_USER, CAUSE_PILE)


def up(energy_wh: int, price: int) -> int:
    whole, rest = divmod(energy_wh * price, 1000)
    return whole + (rest > 0)


def by_the_table(t: Terms, measured: int, cause: str, shares: Shares) -> tuple[dict[str, int], int, int]:
    """Gains of U, H, G and F; and, for what has begun, what is left of escrow and bond before the rests go back."""
    agreed, paid = up(t.energy_wh, t.price_micro_per_kwh), min(measured, t.energy_wh + t.overuse_wh)
    owner = grid = made_good = 0
    fee, missing = t.fee_micro, t.energy_wh - measured
    if cause in (CAUSE_DEFAULT, CAUSE_PILE_CANCEL):
        fee, owner = 0, -(t.bond_micro * shares.penalty_permille // 1000)
    elif cause == CAUSE_NO_SHOW:
        owner = agreed * shares.no_show_permille // 1000
    elif cause == CAUSE_PILE_UNSIGNED:
        fee, owner = min(t.bond_micro, t.fee_micro), -min(t.bond_micro, t.fee_micro)
    elif cause in BEGUN and abs(missing) <= t.tolerance_wh:
        owner = up(paid, t.price_micro_per_kwh)
    elif cause in BEGUN and missing < 0:
        owner, grid = agreed, up(paid - t.energy_wh, t.catalog_sell_micro_per_kwh)
    elif cause == CAUSE_USER:
        owner, grid = agreed, -up(missing, min(t.catalog_buy_micro_per_kwh, t.price_micro_per_kwh))
    elif cause in BEGUN:
        dearer = max(0, t.catalog_sell_micro_per_kwh - t.price_micro_per_kwh)
        made_good = min(t.bond_micro, up(missing, dearer))
        owner = up(measured, t.price_micro_per_kwh) - made_good
    user = -(owner + grid + fee)
    escrow = agreed + up(t.overuse_wh, max(t.catalog_sell_micro_per_kwh, t.price_micro_per_kwh)) + t.fee_micro
    return {"U": user, "H": owner, "G": grid, "F": fee}, escrow + user, t.bond_micro - made_good


def disputed_by_the_table(
    t: Terms, before: int, measured: int, cause: str, shares: Shares, verdict: Verdict
) -> dict[str, int]:
    """Winner: own stake back and as much again, as far as what is left for the loser goes. Loser: the stake is the other's."""
    gains, left_of_escrow, left_of_bond = by_the_table(t, measured, cause, shares)
    me, other = verdict.objector, {"U": "H", "H": "U"}[verdict.objector]
    won = gains[me] > before
    prize = min(verdict.bond_micro, left_of_bond if me == USER else left_of_escrow) if won else -verdict.bond_micro
    gains[me] += prize
    gains[other] -= prize
    return gains


ENERGIES = (100, 200, 5000, 999_900, MAX_ORDER_WH)
PRICES = (0, 1, 999, 1000, 650_000, MAX_CATALOG_MICRO_PER_KWH, MAX_PRICE_MICRO_PER_KWH)


class Draw:
    """Random terms, each field often at a bound. One object serves all cases: only numbers that settling reads change."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.terms = terms_of()

    def next_terms(self) -> Terms:
        rng, terms = self.rng, self.terms
        edge = rng.random() < 0.3
        terms.energy_wh = energy_wh = rng.choice(ENERGIES) if edge else 100 * rng.randint(1, 10_000)
        terms.tolerance_wh = rng.choice((0, 100, 10_000, energy_wh // 50, energy_wh // 3, energy_wh))
        terms.overuse_wh = max(terms.tolerance_wh, rng.choice((0, energy_wh // 10, energy_wh)))
        sell = rng.choice((1, 999, 1001, MAX_CATALOG_MICRO_PER_KWH)) if edge else rng.randint(1, 2_000_000)
        terms.catalog_sell_micro_per_kwh = sell
        terms.catalog_buy_micro_per_kwh = rng.choice((0, sell, sell // 2, rng.randint(0, sell)))
        terms.price_micro_per_kwh = rng.choice(PRICES) if edge else rng.randint(0, 2 * sell)
        terms.fee_micro = rng.choice((0, 1, 50_000, 10**9))
        terms.bond_micro = rng.choice((0, 1, rng.randint(0, 10**7), energy_wh * sell // 100))
        return terms

    def measured_wh(self) -> int:
        t, rng = self.terms, self.rng
        q, tau, most = t.energy_wh, t.tolerance_wh, t.energy_wh + t.overuse_wh
        edges = (0, 1, q - tau - 1, q - tau, q, q + tau, q + tau + 1, most, most + 1, MAX_ENERGY_WH, 10_000_000)
        return max(0, rng.choice(edges)) if rng.random() < 0.5 else rng.randint(0, 2 * most)

    def shares(self) -> Shares:
        return Shares(self.rng.choice((0, 500, 999, 1000)), self.rng.choice((0, 300, 1, 1000)))


def put_up(terms: Terms, stake: dict[str, int]) -> dict[str, int]:
    """The books just before a contract closes: what each side has put up is gone from it."""
    escrow = contract_escrow_micro(terms)
    books = {"U": -escrow, "H": -terms.bond_micro, "G": 0, "F": 0, "E": escrow, "B": terms.bond_micro, "D": 0}
    for side, micro in stake.items():
        books[side] -= micro
        books["D"] += micro
    return books


def carry_out(books: dict[str, int], rows: list[Posting]) -> None:
    for row in rows:
        assert row.amount_micro > 0
        books[row.debit] -= row.amount_micro
        books[row.credit] += row.amount_micro
        assert books["E"] >= 0 <= books["B"], "no row may take more than was put up"
        assert books["D"] >= 0


def settled(terms: Terms, rows: list[Posting], stake: dict[str, int]) -> dict[str, int]:
    """What each side gains; after that nothing is in escrow, bond or stake, and nothing was made or lost."""
    books = put_up(terms, stake)
    assert sum(books.values()) == 0
    carry_out(books, rows)
    assert books["E"] == books["B"] == books["D"] == 0
    assert sum(books.values()) == 0
    return {side: books[side] for side in "UHGF"}


def test_every_settlement_is_what_the_table_says_and_leaves_nothing_behind() -> None:
    draw = Draw(5)
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(CASES):
        terms, shares, cause = draw.next_terms(), draw.shares(), draw.rng.choice(CAUSES)
        measured_wh = draw.measured_wh() if cause in BEGUN else 0
        gains = settled(terms, settle(terms, measured_wh, cause, shares), {})
        assert gains == by_the_table(terms, measured_wh, cause, shares)[0]
        energy = energy_of(terms, measured_wh)
        assert energy.contracted_wh + energy.grid_wh + energy.unpaid_wh == measured_wh
        seen[cause, deviation(terms, measured_wh)] += 1
    began = {(cause, kind) for cause in BEGUN for kind in (WITHIN, OVER, UNDER)}
    assert {case for case in seen if case[0] in BEGUN} == began
    assert {cause for cause, _ in seen} == set(CAUSES)
    assert min(seen.values()) >= CASES // 500, seen


def test_every_disputed_settlement_is_what_the_guide_says_and_leaves_nothing_behind() -> None:
    draw = Draw(6)
    seen: Counter[tuple[str, str, str, bool]] = Counter()
    for _ in range(CASES // 4):
        terms, shares = draw.next_terms(), draw.shares()
        first = settle(terms, draw.measured_wh(), draw.rng.choice(BEGUN), shares)
        objector, basis = draw.rng.choice((USER, OWNER)), draw.rng.choice(BASES)
        verdict = Verdict(objector, draw.rng.choice((0, 1, 5_000_000, 10**12)), basis, ())
        measured_wh, cause = draw.measured_wh(), draw.rng.choice(BEGUN)
        rows = settle_disputed(terms, first, measured_wh, cause, shares, verdict)
        before = settled(terms, first, {})[objector]
        gains = settled(terms, rows, {objector: verdict.bond_micro})
        assert gains == disputed_by_the_table(terms, before, measured_wh, cause, shares, verdict)
        assert min(gains["H"] + terms.bond_micro + verdict.bond_micro, gains["F"]) >= 0
        seen[objector, cause, deviation(terms, measured_wh), gains[objector] > before] += 1
    assert len(seen) >= 2 * 3 * 3, seen
    assert {(objector, won) for objector, _, _, won in seen} == {(o, w) for o in (USER, OWNER) for w in (False, True)}


# --- who can gain by what they do -------------------------------------------------------------------------------------------


def test_taking_less_or_more_than_agreed_never_profits_beyond_what_the_table_grants() -> None:
    """Against the measure that somebody without a contract has: every kWh at the catalog's price.

    A user's profit is M x catalog - what was paid. Proven for all cases, to the rounding of one micro each posting:
    - who takes less and caused it pays for every Wh taken at least p, and the fee: no more profit than a contract over M;
      who takes nothing profits by nothing, and loses the fee;
    - who takes more pays Q at p and the rest at the catalog's price: the profit is that of taking Q; what a pile let
      through beyond Q + O is the table's gift, and the owner's or grid's loss, not more;
    - whom the pile failed, and who buys the rest at the catalog's price, has paid no less than Q at the cheaper of p and
      catalog: the bond makes good the difference, and no more.
    An owner never gains more than p x Q nor, where the pile was the cause, than p x M; never loses more than the bond.
    """
    draw, shares = Draw(7), SHARES
    seen: Counter[str] = Counter()
    for _ in range(CASES // 4):
        t, cause = draw.next_terms(), draw.rng.choice(BEGUN)
        m, q, p, sell = draw.measured_wh(), t.energy_wh, t.price_micro_per_kwh, t.catalog_sell_micro_per_kwh
        gains, kind = settled(t, settle(t, m, cause, shares), {}), deviation(t, m)
        paid, owner = -gains["U"], gains["H"]
        assert owner >= -t.bond_micro
        if kind == UNDER and cause == CAUSE_USER:
            assert 1000 * (paid - t.fee_micro + 1) >= m * p
            assert paid >= t.fee_micro
            assert owner == up(q, p)
        elif kind == UNDER:
            bought_elsewhere = (q - m) * sell
            assert 1000 * (paid - t.fee_micro + 1) + bought_elsewhere >= q * min(p, sell)
            assert owner <= up(m, p)
        elif kind == OVER:
            billed_wh = min(m, q + t.overuse_wh)
            extra_micro = paid - t.fee_micro - up(q, p)
            assert 1000 * extra_micro >= (billed_wh - q) * sell > 1000 * (extra_micro - 1)
            assert owner == up(q, p)
            assert energy_of(t, m).unpaid_wh == m - billed_wh
        else:
            billed_wh = min(m, q + t.overuse_wh)
            assert (paid, owner) == (up(billed_wh, p) + t.fee_micro, up(billed_wh, p))
        seen[f"{kind}, {cause}"] += 1
    assert len(seen) == 9
    assert min(seen.values()) >= 100, seen


def test_what_user_and_owner_can_do_together_is_bounded_by_what_the_grid_agreed_to_buy() -> None:
    """Together they gain what grid and fees lose. The grid only ever pays for a deviation that a user caused.

    That is the table's row "the grid buys the rest", and it is not profit-proof: a pair that contracts and takes nothing is
    paid min(buying price, p) for each Wh, less the fee. Proven is the bound: never more than Q x min(buying price, p) in one
    contract, nothing in any other row, and nothing at all where the buying price is 0.
    """
    draw = Draw(8)
    paid_by_grid = 0
    for _ in range(CASES // 4):
        t, cause = draw.next_terms(), draw.rng.choice(CAUSES)
        m = draw.measured_wh() if cause in BEGUN else 0
        gains = settled(t, settle(t, m, cause, SHARES), {})
        together = gains["U"] + gains["H"]
        assert together == -gains["G"] - gains["F"]
        if cause == CAUSE_USER and deviation(t, m) == UNDER:
            assert 0 <= -gains["G"] <= up(t.energy_wh, min(t.catalog_buy_micro_per_kwh, t.price_micro_per_kwh))
            assert gains["F"] == t.fee_micro
            paid_by_grid += gains["G"] < 0
        else:
            assert gains["G"] >= 0
            assert together <= 0
    assert paid_by_grid > CASES // 500


def largest_verdict() -> Verdict:
    arbiters = tuple((f"{'arbiter-' * 3}{i:08d}", key("dan").public) for i in range(MAX_ARBITERS))
    return Verdict(USER, MAX_AMOUNT_MICRO, "timeout", arbiters)


def test_the_longest_statement_still_decodes() -> None:
    rows = tuple(Posting("E", "U", MAX_AMOUNT_MICRO) for _ in range(16))
    statement = Statement(
        "x" * 29, b"\xff" * 32, b"\xff" * 32, MAX_ENERGY_WH, CAUSE_USER_UNSIGNED, rows, largest_verdict()
    )
    assert decode_statement(statement.encoded()) == statement


VERDICT = Verdict(USER, 5, BASIS_RULING, (("auditor", key("auditor").public),))
VERDICTS = [
    VERDICT,
    replace(VERDICT, objector=OWNER),
    replace(VERDICT, bond_micro=6),
    replace(VERDICT, basis=BASIS_TIMEOUT),
    replace(VERDICT, arbiters=()),
    replace(VERDICT, arbiters=(("auditor", key("dan").public),)),
    replace(VERDICT, arbiters=(("other", key("auditor").public),)),
]


def test_a_statement_survives_its_bytes_and_its_digest_covers_every_field() -> None:
    terms = terms_of()
    rows = tuple(settle(terms, 3000, CAUSE_USER, SHARES))
    statement = Statement("test-1", terms.contract_id(), b"\x07" * 32, 3000, CAUSE_USER, rows)
    assert decode_statement(statement.encoded()) == statement
    others = [
        Statement("test-2", statement.contract, statement.evidence, 3000, CAUSE_USER, rows),
        Statement("test-1", b"\x01" * 32, statement.evidence, 3000, CAUSE_USER, rows),
        Statement("test-1", statement.contract, b"\x08" * 32, 3000, CAUSE_USER, rows),
        Statement("test-1", statement.contract, statement.evidence, 3001, CAUSE_USER, rows),
        Statement("test-1", statement.contract, statement.evidence, 3000, CAUSE_PILE, rows),
        Statement("test-1", statement.contract, statement.evidence, 3000, CAUSE_USER, rows[1:]),
        *[replace(statement, verdict=verdict) for verdict in VERDICTS],
    ]
    assert [decode_statement(other.encoded()) for other in others] == others
    assert len({statement.digest(), *(other.digest() for other in others)}) == 1 + len(others)


JUNK = [None, -1, "x", b"x", [["X", "U", 1]], [["E", "U", 0]], [["E", "U"]], [[["E"], "U", 1]], {}]


def form(verdict: object = None) -> list[object]:
    return ["test-1", b"\x01" * 32, b"\x02" * 32, 3000, CAUSE_USER, [["E", "U", 1]], verdict]


@pytest.mark.parametrize("position", range(7))
def test_a_statement_of_another_form_is_refused(position: int) -> None:
    """Each field of another kind; the chain's id may be any text, and no verdict is a verdict."""
    decode_statement(encode(form()))
    fits = {0: ["x"], 6: [None]}.get(position, [])
    for junk in JUNK:
        row = form()
        row[position] = junk
        if junk in fits:
            decode_statement(encode(row))
            continue
        with pytest.raises(PilechainError):
            decode_statement(encode(row))


@pytest.mark.parametrize("position", range(4))
def test_a_verdict_of_another_form_is_refused(position: int) -> None:
    decode_statement(encode(form(VERDICT.fields())))
    for junk in [
        *JUNK,
        MAX_AMOUNT_MICRO + 1,
        [["auditor"]],
        [["auditor", b"x"]],
        [["Auditor", key("dan").public]] * 17,
    ]:
        fields = VERDICT.fields()
        fields[position] = junk
        with pytest.raises(PilechainError):
            decode_statement(encode(form(fields)))
