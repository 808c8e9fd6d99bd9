"""What somebody with the whole ledger can say about who paid, over simulated months (docs/anonymity.md has the figures).

The runs are on the real chain with real ring signatures. They have fixed seeds, so a test passes always or never; how likely a
sound chain and a sound observer would fail it on another seed is ALPHA.
"""

import random
from math import comb, sqrt

import pytest
from note_months import Habits, Months, of, one_big_note, one_note
from observer import Belief, Observer, Payment, View, allowed, match

ALPHA = 0.01
RING = 16
LARGEST = (0, 0, 0, 0, 0, 0, 0)  # none of the smaller denominations, then as many of 12.80
ONE_EACH = (1,) * 8


def hits(months: Months, beliefs: dict[str, Belief], seed: int = 1) -> tuple[int, int]:
    """How many of the orders the observer guesses right, of how many; it tosses between equally likely ones."""
    chance, right = random.Random(seed), 0
    orders = months.drivers_of_orders()
    for order, driver in orders.items():
        best = max(beliefs[order].values())
        right += chance.choice(sorted(p for p, share in beliefs[order].items() if share > best * (1 - 1e-9))) == driver
    return right, len(orders)


def at_least(right: int, of_all: int, share: float) -> float:
    """How likely so many or more are right, if each is with this chance."""
    return sum(comb(of_all, k) * share**k * (1 - share) ** (of_all - k) for k in range(right, of_all + 1))


def at_most(right: int, of_all: int, share: float) -> float:
    return 1 - at_least(right + 1, of_all, share)


def misfit(months: Months, beliefs: dict[str, Belief]) -> float:
    """The worst of ten classes of stated probability: how far what came true is from what was stated, in deviations."""
    classes: dict[int, list[tuple[float, bool]]] = {}
    for order, driver in months.drivers_of_orders().items():
        for party, share in beliefs[order].items():
            classes.setdefault(min(9, int(share * 10)), []).append((share, party == driver))
    worst = 0.0
    for said in classes.values():
        spread = sqrt(sum(share * (1 - share) for share, _ in said))
        if len(said) >= 30:
            worst = max(worst, abs(sum(share for share, _ in said) - sum(true for _, true in said)) / max(spread, 1.0))
    return worst


def test_with_one_note_per_owner_and_bin_a_guess_is_right_once_in_sixteen() -> None:
    months = Months(Habits(32, 8, (*LARGEST, 1), one_big_note))
    assert months.unpaid == 0
    bought = {name: notes for name, notes in months.view.notes.items() if name[0] == 7}
    assert all(len({owner for owner, _ in notes}) == RING for notes in bought.values())  # one note per owner and bin
    beliefs = Observer(months.view).run()
    right, orders = hits(months, beliefs)
    assert orders == 256
    assert at_least(right, orders, 1 / RING) > ALPHA, f"{right} of {orders}"
    assert at_most(right, orders, 1 / RING) > ALPHA, f"{right} of {orders}: has it looked?"
    assert max(share for belief in beliefs.values() for share in belief.values()) == pytest.approx(1 / RING)
    assert all(beliefs[order][driver] > 0 for order, driver in months.truth.items())


@pytest.mark.parametrize("held", [2, 4, 8])
def test_with_several_notes_in_a_bin_it_is_as_often_right_as_there_are_notes(held: int) -> None:
    months = Months(Habits(16, held, (*LARGEST, held), one_big_note, every_weeks=held))
    beliefs = Observer(months.view).run()
    right, orders = hits(months, beliefs)
    assert orders == 16 * held
    assert at_least(right, orders, held / RING) > ALPHA, f"{right} of {orders}"
    assert at_most(right, orders, held / RING) > ALPHA, f"{right} of {orders}"
    assert max(max(belief.values()) for belief in beliefs.values()) == pytest.approx(held / RING)


def test_change_that_pays_alone_gives_little_away_and_the_observer_knows_what_it_knows() -> None:
    months = Months(Habits(32, 6, (*LARGEST, 1), one_note, every_weeks=2, energies_wh=(3000, 4000, 5000)))
    change = {payment.order for payment in months.view.payments if payment.bins[0][0] < 7}
    beliefs = Observer(months.view).run()
    right, orders = hits(months, beliefs)
    assert orders == 192
    assert len(change) > 40, "change did not pay"
    assert at_least(right, orders, 1 / RING) > ALPHA, f"{right} of {orders}"
    assert misfit(months, beliefs) < 3.5


def test_several_notes_in_one_order_are_what_gives_a_driver_away() -> None:
    months = Months(Habits(32, 4, ONE_EACH, of(4)))
    beliefs = Observer(months.view).run()
    right, orders = hits(months, beliefs)
    assert orders > 60
    assert at_least(right, orders, 4 / RING) < ALPHA, f"{right} of {orders}: the observer has not intersected"
    assert all(beliefs[order].get(driver, 0) > 0 for order, driver in months.truth.items())


# --- the observer itself ------------------------------------------------------------------------------------------------


def names(*owners: str) -> list[tuple[str, int]]:
    return [(owner, 0) for owner in owners]


def test_it_eliminates_intersects_and_closes_sets() -> None:
    """Three bins by hand: a's notes are in both bins of an order; two orders that only b and c can have made rule these out."""
    view = View(
        {b"1": names("a", "b", "c", "d"), b"2": names("a", "e", "f", "g"), b"3": names("b", "c", "x", "y")},
        [
            Payment("both", (b"1", b"2"), 0),
            Payment("one", (b"1", b"3"), 0),
            Payment("two", (b"1", b"3"), 0),
            Payment("last", (b"1",), 0),
        ],
    )
    found = Observer(view).run()
    assert found["both"] == {"a": 1.0}
    assert set(found["one"]) == set(found["two"]) == {"b", "c"}
    assert found["last"]["d"] == pytest.approx(1, abs=1e-3)


def test_change_has_the_owner_of_its_order_and_a_redemption_names_it() -> None:
    view = View(
        {b"1": names("a", "b", "c", "d"), b"2": names("order", "e", "f", "g")},
        [Payment("order", (b"1",), 0), Payment("paid out", (b"2",), 1, payee="b")],
    )
    assert Observer(view).run()["order"]["b"] == pytest.approx(1, abs=1e-3)


def test_its_messages_are_the_shares_of_all_assignments() -> None:
    """Against every assignment of three spends to five notes, counted out."""
    fits = [[1.0, 1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0, 0.2], [0.0, 0.0, 1.0, 1.0, 1.0]]
    counted = [[0.0] * 5 for _ in range(3)]
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if len({i, j, k}) == 3:
                    weight = fits[0][i] * fits[1][j] * fits[2][k]
                    for row, at in enumerate((i, j, k)):
                        counted[row][at] += weight
    to_rows, _, _ = match(fits, 5)
    for row in range(3):
        stated = [f * w for f, w in zip(fits[row], to_rows[row], strict=True)]
        for mine, true in zip(stated, counted[row], strict=True):
            assert mine / sum(stated) == pytest.approx(true / sum(counted[row]), abs=0.06)


def test_an_impossible_pair_is_ruled_out() -> None:
    ones = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert allowed(ones, 3)[2] == [0.0, 0.0, 1.0]
