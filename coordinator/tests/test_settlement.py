"""The journal of a contract: every row of the table by hand, then random contracts against what must hold for all."""

import random
from collections import Counter

import pytest
from world import NOW, key

from pile_coordinator.chain.settlement import (
    BOND,
    CAUSE_DEFAULT,
    CAUSE_NO_SHOW,
    CAUSE_NONE,
    CAUSE_PILE,
    CAUSE_USER,
    CAUSES,
    ESCROW,
    FEES,
    GRID,
    OVER,
    OWNER,
    UNDER,
    USER,
    WITHIN,
    Posting,
    Statement,
    contract_escrow_micro,
    decode_statement,
    deviation,
    settle,
)
from pile_shared.codec import encode
from pile_shared.errors import PilechainError
from pile_shared.terms import VERSION, Terms, terms_from
from pile_shared.units import cost_micro

CASES = 30_000


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
    rows = settle(terms, measured_wh, cause, penalty_permille=500, no_show_permille=300)
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


def random_terms(rng: random.Random) -> Terms:
    energy_wh = 100 * rng.randint(1, 10_000)
    tolerance_wh = rng.choice([0, 100, energy_wh // 50, energy_wh // 3])
    sell = rng.randint(1, 2_000_000)
    return terms_of(
        energy_wh=energy_wh,
        tolerance_wh=tolerance_wh,
        overuse_wh=max(tolerance_wh, rng.choice([0, energy_wh // 10, energy_wh])),
        price_micro_per_kwh=rng.choice([0, 1, sell, rng.randint(0, 2 * sell), rng.randint(0, 10**9)]),
        catalog_sell_micro_per_kwh=sell,
        catalog_buy_micro_per_kwh=rng.choice([0, sell, rng.randint(0, sell)]),
        fee_micro=rng.choice([0, 50_000]),
        bond_micro=rng.choice([0, rng.randint(0, 10**7)]),
    )


def test_what_holds_for_all_settlements() -> None:
    rng = random.Random(5)
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(CASES):
        terms = random_terms(rng)
        most = terms.energy_wh + terms.overuse_wh
        measured_wh = rng.choice([0, terms.energy_wh, most, most + 1, rng.randint(0, 2 * most)])
        cause = rng.choice(CAUSES)
        rows = settle(
            terms,
            measured_wh,
            cause,
            penalty_permille=rng.choice([0, 500, 1000]),
            no_show_permille=rng.choice([0, 300, 1000]),
        )
        check_settlement(terms, measured_wh, cause, rows)
        seen[(cause, deviation(terms, measured_wh))] += 1
    assert set(seen) == {(cause, kind) for cause in CAUSES for kind in (WITHIN, OVER, UNDER)}


def check_settlement(terms: Terms, measured_wh: int, cause: str, rows: list[Posting]) -> None:
    escrow, bond = contract_escrow_micro(terms), terms.bond_micro
    balance = Counter({ESCROW: escrow, BOND: bond})
    for row in rows:
        assert row.amount_micro > 0
        balance[row.debit] -= row.amount_micro
        balance[row.credit] += row.amount_micro
        assert min(balance[side] for side in (USER, OWNER, FEES, ESCROW, BOND)) >= 0, "only the grid may owe"
    assert sum(balance.values()) == escrow + bond
    assert balance[ESCROW] == balance[BOND] == 0

    user_gain = balance[USER] - escrow
    owner_gain = balance[OWNER] - bond
    price, sell = terms.price_micro_per_kwh, terms.catalog_sell_micro_per_kwh
    assert owner_gain >= -bond
    if cause not in {CAUSE_DEFAULT, CAUSE_NO_SHOW}:
        kind = deviation(terms, measured_wh)
        if kind == WITHIN:
            assert owner_gain == cost_micro(measured_wh, price)
        if kind == OVER:
            extra_wh = min(measured_wh - terms.energy_wh, terms.overuse_wh)
            assert balance[GRID] == cost_micro(extra_wh, sell)
            assert owner_gain == cost_micro(terms.energy_wh, price)
        if kind == UNDER and cause == CAUSE_USER:
            assert user_gain <= -terms.fee_micro, "taking nothing must never pay"
        if kind == UNDER and cause != CAUSE_USER:
            penalty = cost_micro(measured_wh, price) - owner_gain
            missing_wh = terms.energy_wh - measured_wh
            assert penalty == min(bond, cost_micro(missing_wh, max(0, sell - price)))
        assert balance[FEES] == terms.fee_micro
    if cause == CAUSE_DEFAULT:
        assert (balance[FEES], owner_gain + user_gain) == (0, 0)
        assert user_gain >= 0
    if cause == CAUSE_NO_SHOW:
        assert -user_gain <= cost_micro(terms.energy_wh, price) + terms.fee_micro
        assert owner_gain >= 0


def test_a_statement_survives_its_bytes_and_its_digest_covers_every_field() -> None:
    terms = terms_of()
    rows = tuple(settle(terms, 3000, CAUSE_USER, penalty_permille=500, no_show_permille=300))
    statement = Statement("test-1", terms.contract_id(), b"\x07" * 32, 3000, CAUSE_USER, rows)
    assert decode_statement(statement.encoded()) == statement
    others = [
        Statement("test-2", statement.contract, statement.evidence, 3000, CAUSE_USER, rows),
        Statement("test-1", b"\x01" * 32, statement.evidence, 3000, CAUSE_USER, rows),
        Statement("test-1", statement.contract, b"\x08" * 32, 3000, CAUSE_USER, rows),
        Statement("test-1", statement.contract, statement.evidence, 3001, CAUSE_USER, rows),
        Statement("test-1", statement.contract, statement.evidence, 3000, CAUSE_PILE, rows),
        Statement("test-1", statement.contract, statement.evidence, 3000, CAUSE_USER, rows[1:]),
    ]
    assert len({statement.digest(), *(other.digest() for other in others)}) == 7


JUNK = [None, -1, "x", b"x", [["X", "U", 1]], [["E", "U", 0]], [["E", "U"]], [[["E"], "U", 1]], {}]


@pytest.mark.parametrize("position", range(6))
def test_a_statement_of_another_form_is_refused(position: int) -> None:
    for junk in JUNK[:2] if position == 0 else JUNK:
        row: list[object] = ["test-1", b"\x01" * 32, b"\x02" * 32, 3000, CAUSE_USER, [["E", "U", 1]]]
        decode_statement(encode(row))
        row[position] = junk
        with pytest.raises(PilechainError):
            decode_statement(encode(row))
