"""Each invariant, broken on purpose: the full check names what is wrong, and the node stops before it commits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from world import END, HOUR, NOW, START, Market, consensus, stake_json

from pile_coordinator.chain import (
    accounts,
    clearing,
    contracts,
    election,
    orders,
    settlement,
    stake,
    transition,
    treasury,
)
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.env import Journal, Misbehaviour
from pile_coordinator.chain.invariants import _some, check, check_in_full
from pile_coordinator.chain.records import Account, Bid, Contract, Dispute, Pile, Record, Tally, Withdrawal, Zone
from pile_coordinator.chain.rejections import BrokenInvariantError, Rejection
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    GROUND_CAUSE,
    CancelBid,
    Confirm,
    Deposit,
    Object,
    PayOut,
    Withdraw,
)
from pile_coordinator.chain.transition import apply_block
from pile_shared.proof import HEARTBEAT
from pile_shared.terms import FIELDS, Terms, decode_terms, terms_from


def busy_market() -> Market:
    """Two open contracts, one of them in dispute; a resting bid and a withdrawal; pile-1 has handed in two proofs."""
    market = Market(2, 3)
    market.offer("pile-1")
    market.bid("user-1")
    market.bid("user-2", limit=1)
    market.ok()
    begin = market.begin()
    market.submit(begin, market.end(START + 2000, 100_001, 1), time_ms=START + 3000)
    market.send("user-1", Object(market.contract().id, GROUND_CAUSE, 0, "it failed"))
    market.send("user-3", Withdraw(5, "bank"))
    market.offer("pile-2")
    market.bid("user-3", start=START + HOUR, end=END + HOUR)
    market.ok()
    check_in_full(market.state)
    return market


def of_user(market: Market, user: str) -> Contract:
    (contract,) = [c for c in market.state.each(Contract) if market.state.terms_of(c).user == user]
    return contract


def add(market: Market, account: str, micro: int) -> None:
    market.state.put(Account(account, market.state.balance_micro(account) + micro))


def money_created(market: Market) -> str:
    add(market, "P:user-1", 1)
    return "accounts sum to 1 micro, not 0"


def money_destroyed(market: Market) -> str:
    market.state.drop(Account, "P:owner-1")
    return "not 0"


def overdrawn(market: Market) -> str:
    add(market, "P:user-1", -(10**12))
    add(market, "F", 10**12)
    return "P:user-1 is overdrawn"


def escrow_missing(market: Market) -> str:
    name = accounts.escrow_account(of_user(market, "user-1").id)
    add(market, "P:user-1", market.state.balance_micro(name))
    market.state.drop(Account, name)
    return name


def bond_short(market: Market) -> str:
    name = accounts.bond_account(of_user(market, "user-1").id)
    add(market, name, -1)
    add(market, "P:owner-1", 1)
    return name


def hold_of_a_bid_short(market: Market) -> str:
    name = accounts.escrow_account(market.state.each(Bid)[0].id)
    add(market, name, -1)
    add(market, "P:user-2", 1)
    return name


def escrow_of_nobody(market: Market) -> str:
    add(market, "P:user-1", -7)
    add(market, "E:" + "ab" * 32, 7)
    return "E:" + "ab" * 32 + " holds 7 micro, should hold 0"


def contract_gone(market: Market) -> str:
    contract = of_user(market, "user-3")
    market.state.drop(Contract, contract.id)
    return f"{accounts.bond_account(contract.id)} holds 650000 micro, should hold 0"


def bid_grown(market: Market) -> str:
    bid = market.state.each(Bid)[0]
    market.state.put(replace(bid, hold_micro=bid.hold_micro + 1))
    return bid.id.hex()


def load_wrong(market: Market) -> str:
    zone = market.state.get(Zone, "north")
    market.state.put(replace(zone, open_wh=zone.open_wh + 100))
    return "zone north has 10100 Wh open, its contracts 10000 Wh"


def total_wrong(market: Market) -> str:
    market.state.totals["F"] += 3
    market.state.totals["P"] -= 3
    return "the running total is"


def withdrawal_forgotten(market: Market) -> str:
    (withdrawal,) = market.state.each(Withdrawal)
    market.state.drop(Withdrawal, withdrawal.id)
    return f"{accounts.withdrawal_account(withdrawal.id)} holds 5 micro, should hold 0"


def stake_grown(market: Market) -> str:
    (dispute,) = market.state.each(Dispute)
    market.state.put(replace(dispute, bond_micro=dispute.bond_micro + 1))
    return accounts.objection_account(dispute.contract)


def notes_of_nobody(market: Market) -> str:
    add(market, "P:user-1", -9)
    add(market, accounts.NOTES, 9)
    return "N holds 9 micro, should hold 0"


def contract_not_counted(market: Market) -> str:
    tally = market.state.get(Tally, "tally")
    market.state.put(replace(tally, contracts_signed=tally.contracts_signed - 1))
    return "of 1 contracts 0 were closed, and 2 are open"


def energy_lost(market: Market) -> str:
    tally = market.state.get(Tally, "tally")
    market.state.put(replace(tally, metered_wh=tally.metered_wh + 1))
    return "1 Wh were metered in all, the parts sum to 0 Wh"


def proof_counted_twice(market: Market) -> str:
    pile = market.state.get(Pile, "pile-1")
    market.state.put(replace(pile, admitted=pile.admitted + 1))
    return "pile pile-1 is at sequence 2 after 3 proofs"


CORRUPTIONS = [
    withdrawal_forgotten,
    stake_grown,
    notes_of_nobody,
    contract_not_counted,
    energy_lost,
    proof_counted_twice,
    money_created,
    money_destroyed,
    overdrawn,
    escrow_missing,
    bond_short,
    hold_of_a_bid_short,
    escrow_of_nobody,
    contract_gone,
    bid_grown,
    load_wrong,
    total_wrong,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_planted_corruption_is_found_and_named(corrupt: Callable[[Market], str]) -> None:
    market = busy_market()
    market.state.totals.setdefault("F", 0)
    named = corrupt(market)
    with pytest.raises(BrokenInvariantError) as caught:
        check_in_full(market.state)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "corrupt", [c for c in CORRUPTIONS if c is not total_wrong], ids=lambda corrupt: corrupt.__name__
)
def test_every_block_finds_and_names_it_too(corrupt: Callable[[Market], str]) -> None:
    """All that is in a record a block's own check finds; totals follow every put, and only a recount looks behind them."""
    market = busy_market()
    market.state.seal()
    named = corrupt(market)
    with pytest.raises(BrokenInvariantError) as caught:
        market.block()
    assert named in str(caught.value)


def test_a_curve_escrow_below_the_reserve_is_found() -> None:
    """A contract whose price is far below the curve's: its escrow does not cover what the curve says it cost."""
    market = busy_market()
    contract = of_user(market, "user-3")
    old = market.state.terms_of(contract)
    assert (old.on_curve, old.energy_wh) == (True, 5000)
    cheap = decode_terms(terms_from(_values(old) | {"price_micro_per_kwh": 1, "overuse_wh": 0}).encoded())
    market.state.drop(Contract, contract.id)
    moved = replace(contract, id=cheap.contract_id(), terms=cheap.encoded())
    market.state.put(moved)
    escrow = cheap.energy_wh // 1000 + cheap.fee_micro
    add(market, accounts.escrow_account(moved.id), escrow)
    add(market, accounts.bond_account(moved.id), cheap.bond_micro)
    left = market.state.balance_micro(accounts.escrow_account(contract.id)) - escrow
    market.state.drop(Account, accounts.escrow_account(contract.id))
    market.state.drop(Account, accounts.bond_account(contract.id))
    add(market, "P:user-3", left)
    with pytest.raises(BrokenInvariantError, match=r"zone north holds .* of a reserve of"):
        check_in_full(market.state)


def _values(terms: Terms) -> dict[str, object]:
    return {name: getattr(terms, name) for name, _ in FIELDS}


def test_a_block_over_a_broken_state_stops_before_it_ends() -> None:
    market = busy_market()
    add(market, "P:user-1", 1)
    with pytest.raises(BrokenInvariantError):
        check(market.state, Journal())
    with pytest.raises(BrokenInvariantError):
        apply_block(market.state, market.env(), [market.tx("grid", Deposit("user-1", 5, "r"))])


def test_postings_check_who_may_owe() -> None:
    market = busy_market()
    with pytest.raises(Rejection) as refused:
        accounts.post(market.state, "P:user-1", "F", 10**15)
    assert refused.value.code == "funds"
    escrow = accounts.escrow_account(of_user(market, "user-1").id)
    with pytest.raises(BrokenInvariantError, match=escrow):
        accounts.post(market.state, escrow, "F", 10**15)
    with pytest.raises(BrokenInvariantError, match="negative"):
        accounts.post(market.state, "X", "F", -1)
    assert market.money("grid") == 0
    accounts.post(market.state, "P:grid", "F", 5)  # the grid may owe
    assert market.state.balance_micro("P:grid") == -5
    check_in_full(market.state)


# --- bugs planted in the chain itself -------------------------------------------------------------------------------------
#
# A story is played on a market whose chain has the bug; all its blocks pass but the last, which must name the culprit.

Names = dict[str, str]


def deposit(market: Market) -> Names:
    market.send("grid", Deposit("user-1", 5, "more"))
    return {"account": "P:user-1"}


def matching(market: Market) -> Names:
    for pile in ("pile-1", "pile-2"):
        market.offer(pile)
    bids = [market.bid(user) for user in ("user-1", "user-2")]
    return {"zone": "zone north", "bid": bids[0].hex()}


def measured(market: Market) -> Names:
    matching(market)
    market.ok()
    contract = of_user(market, "user-1")
    pile = market.state.terms_of(contract).pile
    begin = market.begin(pile=pile, contract=contract.id)
    end = market.end(START + HOUR // 2, 103_000, 1, pile=pile, contract=contract.id)
    market.submit(begin, end, time_ms=START + HOUR // 2)
    return {"contract": contract.id.hex(), "zone": "zone north"}


def confirming(market: Market) -> Names:
    names = measured(market)
    contract = of_user(market, "user-1")
    terms, digest = market.state.terms_of(contract), decode_statement(contract.statement).digest()
    for party in (terms.user, terms.owner):
        market.send(party, Confirm(contract.id, digest))
    return names


def objecting(market: Market) -> Names:
    names = measured(market)
    market.send("user-1", Object(of_user(market, "user-1").id, GROUND_CAUSE, 0, "it failed"))
    return names


def cancelling(market: Market) -> Names:
    bid = market.bid(limit=1)
    market.ok()
    market.send("user-1", CancelBid(bid))
    return {"bid": bid.hex()}


def paying_out(market: Market) -> Names:
    withdrawal = market.send("user-1", Withdraw(5, "bank"))
    market.ok()
    market.send("grid", PayOut(withdrawal, "paid"))
    return {"withdrawal": withdrawal.hex()}


def proving(market: Market) -> Names:
    market.send("operator", market.batch(market.prove("pile-1", HEARTBEAT, [(market.time_ms, 1)])))
    return {"pile": "pile pile-1"}


def punishing(market: Market) -> Names:
    market.ok()
    market.misbehaviour = (Misbehaviour(stake.address_of(consensus("grid")), 1),)
    return {}


def rewarding(market: Market) -> Names:
    """The block that comes next is the first of an epoch, and there is something to pay."""
    market.ok()
    market.ok()
    accounts.post(market.state, "P:user-1", "F", 100_000)
    market.ok()
    market.time_ms = NOW + 24 * HOUR
    return {}


Patch = pytest.MonkeyPatch


def slashed_only_in_the_account(patch: Patch) -> None:
    patch.setattr(stake, "reduce_stake", lambda *_: None)


def slashed_only_in_the_records(patch: Patch) -> None:
    real = accounts.post
    patch.setattr(accounts, "post", lambda s, debit, *rest: None if debit[0] == "S" else real(s, debit, *rest))


def paid_from_the_treasurys_part(patch: Patch) -> None:
    real = accounts.post

    def post(state: State, debit: str, credit: str, amount_micro: int) -> None:
        real(state, debit, credit, 2 * amount_micro if debit == "F" else amount_micro)

    patch.setattr(accounts, "post", post)


def nothing_cut(patch: Patch) -> None:
    patch.setattr(election, "capped", lambda powers: powers)


def votes_for_nothing(patch: Patch) -> None:
    patch.setattr(election, "capped", lambda powers: [0] * len(powers))


def post_credits_less(patch: Patch) -> None:
    real = accounts.post

    def post(state: State, debit: str, credit: str, amount_micro: int) -> None:
        real(state, debit, credit, amount_micro)
        accounts._set(state, credit, state.balance_micro(credit) - 1)

    patch.setattr(accounts, "post", post)


def money_from_nowhere(patch: Patch) -> None:
    real = accounts._set
    patch.setattr(accounts, "_set", lambda state, name, micro: None if name == "X" else real(state, name, micro))


def bond_not_dropped(patch: Patch) -> None:
    real = settlement._closed
    patch.setattr(settlement, "_closed", lambda *a: [row for row in real(*a) if (row.debit, row.credit) != ("B", "H")])


def fee_kept_in_escrow(patch: Patch) -> None:
    real = settlement.settle
    patch.setattr(settlement, "settle", lambda *a: [row for row in real(*a) if row.credit != "F"])


def paid_out_twice(patch: Patch) -> None:
    real = treasury._end

    def end(state: State, withdrawal: Withdrawal, credit: str) -> None:
        accounts.post(state, accounts.withdrawal_account(withdrawal.id), credit, withdrawal.amount_micro)
        real(state, withdrawal, credit)

    patch.setattr(treasury, "_end", end)


def withdrawal_stays_open(patch: Patch) -> None:
    def end(state: State, withdrawal: Withdrawal, credit: str) -> None:
        accounts.post(state, accounts.withdrawal_account(withdrawal.id), credit, withdrawal.amount_micro)

    patch.setattr(treasury, "_end", end)


def stake_not_put_up(patch: Patch) -> None:
    real = accounts.post
    patch.setattr(accounts, "post", lambda s, d, credit, a: None if credit[0] == "D" else real(s, d, credit, a))


def hold_not_given_back(patch: Patch) -> None:
    patch.setattr(orders, "drop_bid", lambda state, bid: orders.drop_order(state, Bid, bid.id, bid.user))


def paid_from_the_neighbours_escrow(patch: Patch) -> None:
    real = contracts.close

    def close(state: State, journal: Journal, contract: Contract, *rest: object) -> None:
        (other,) = [c.id for c in state.each(Contract) if c.id != contract.id]
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(accounts, "escrow_account", lambda _: "E:" + other.hex())
            real(state, journal, contract, *rest)  # type: ignore[arg-type]

    patch.setattr(contracts, "close", close)


def cancelled_bid_stays(patch: Patch) -> None:
    patch.setattr(orders, "drop_bid", lambda *_: None)


def without(module: ModuleType, kind: type[Record], field: str, patch: Patch) -> None:
    """A module that forgets to write one field when it puts a record of this kind."""
    real = module.replace  # type: ignore[attr-defined]

    def forgetful(record: Record, **changes: object) -> Record:
        if isinstance(record, kind):
            changes.pop(field, None)
        return real(record, **changes)

    patch.setattr(module, "replace", forgetful)


def load_never_noted(patch: Patch) -> None:
    without(contracts, Zone, "open_wh", patch)


def load_not_burnt(patch: Patch) -> None:
    real = contracts.close

    def close(*args: object) -> None:
        with pytest.MonkeyPatch.context() as inner:
            without(contracts, Zone, "open_wh", inner)
            real(*args)  # type: ignore[arg-type]

    patch.setattr(contracts, "close", close)


def price_rounded_down(patch: Patch) -> None:
    def price_micro_per_kwh(curve: Curve, open_wh: int) -> int:
        supply_wh = curve.capacity_wh + open_wh
        return curve.reserve_nano(supply_wh) * curve.denominator // (supply_wh * curve.numerator)

    patch.setattr(Curve, "price_micro_per_kwh", price_micro_per_kwh)


def price_before_the_bids(patch: Patch) -> None:
    real = clearing._Clearing._priced

    def priced(self: clearing._Clearing, fill: contracts.Fill) -> contracts.Fill:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "_open_wh", self._zone.open_wh)
            return real(self, fill)

    patch.setattr(clearing._Clearing, "_priced", priced)


def a_wh_lost(patch: Patch) -> None:
    real = settlement.energy_of

    def energy_of(terms: Terms, measured_wh: int) -> settlement.Energy:
        energy = real(terms, measured_wh)
        return replace(energy, contracted_wh=energy.contracted_wh - 1)

    patch.setattr(settlement, "energy_of", energy_of)


def delivered_not_summed(patch: Patch) -> None:
    without(contracts, Tally, "contracted_wh", patch)


def fees_become_notes(patch: Patch) -> None:
    patch.setattr(accounts, "FEES", accounts.NOTES)


def settled_twice(patch: Patch) -> None:
    real = contracts.close

    def close(state: State, journal: Journal, contract: Contract, *rest: object) -> None:
        real(state, journal, contract, *rest)  # type: ignore[arg-type]
        state.put(contract)
        real(state, journal, contract, *rest)  # type: ignore[arg-type]

    patch.setattr(contracts, "close", close)


def closing_counted_twice(patch: Patch) -> None:
    real = contracts._count
    patch.setattr(contracts, "_count", lambda *args: [real(*args), real(*args)])


def signing_not_counted(patch: Patch) -> None:
    without(contracts, Tally, "contracts_signed", patch)


def end_noted_twice(patch: Patch) -> None:
    real = orders._note_end
    patch.setattr(orders, "_note_end", lambda *args: [real(*args), real(*args)])


def proof_does_not_advance(patch: Patch) -> None:
    forgets(Pile, "last_sequence", patch)


def proof_not_counted(patch: Patch) -> None:
    forgets(Pile, "admitted", patch)


def forgets(kind: type[Record], field: str, patch: Patch) -> None:
    """A proof's admission that leaves one field of this kind of record as it was."""
    real = State.put

    def put(state: State, record: Record) -> None:
        if isinstance(record, kind):
            before = next((row for row in state.each(kind) if row.id == record.id), None)
            record = record if before is None else replace(record, **{field: getattr(before, field)})
        real(state, record)

    patch.setattr(State, "put", put)


Story = Callable[[Market], Names]
TIGHT = {
    "tolerance_permille": 0,
    "tolerance_min_wh": 0,
    "overuse_permille": 0,
    "fee_micro": 0,
}  # an escrow of p x Q alone
NEARLY_FLAT = TIGHT | {"crr_numerator": 99, "crr_denominator": 100, "capacity_hours": 8760}

STAKED = {
    "stake": stake_json(
        {"grid": 90_000_000} | dict.fromkeys(("auditor", "operator", "n-1", "n-2"), 5_000_000), max_validators=5
    ),
    "more": [("n-1", "third-party"), ("n-2", "third-party")],
}

# Invariant, planted bug, the story whose last block meets it, parameters, what the message must contain.
PLANTS: list[tuple[int, Callable[[Patch], None], Story, dict[str, Any], str]] = [
    (1, post_credits_less, deposit, {}, "accounts sum to -1 micro, not 0; this block moved accounts {account}"),
    (1, money_from_nowhere, deposit, {}, "accounts sum to 5 micro, not 0; this block moved accounts {account}"),
    (2, bond_not_dropped, confirming, {}, "B:{contract} holds 650000 micro, should hold 0"),
    (2, fee_kept_in_escrow, confirming, {}, "E:{contract} holds 50000 micro, should hold 0"),
    (2, hold_not_given_back, cancelling, {}, "E:{bid} holds"),
    (2, stake_not_put_up, objecting, {}, "D:{contract} holds 0 micro, should hold 5000000"),
    (2, paid_out_twice, paying_out, {}, "W:{withdrawal} would fall to -5 micro"),
    (2, withdrawal_stays_open, paying_out, {}, "W:{withdrawal} holds 0 micro, should hold 5"),
    (3, paid_from_the_neighbours_escrow, confirming, {}, "E:{contract} holds"),
    (3, cancelled_bid_stays, cancelling, {}, "order {bid} was closed and is still open"),
    (4, load_never_noted, matching, {}, "{zone} has 0 Wh open, its contracts 10000 Wh"),
    (4, load_not_burnt, confirming, {}, "{zone} has 10000 Wh open, its contracts 5000 Wh"),
    (5, price_rounded_down, matching, NEARLY_FLAT, "{zone} holds"),
    (5, price_before_the_bids, matching, TIGHT, "{zone} holds"),
    (6, a_wh_lost, confirming, {}, "contract {contract} metered 3000 Wh, its parts are [2999, 0, 0] Wh"),
    (6, delivered_not_summed, confirming, {}, "the parts sum to 0 Wh; this block settled {contract}"),
    (7, fees_become_notes, confirming, {}, "N holds 50000 micro, should hold 0"),
    (8, settled_twice, confirming, {}, "E:{contract} would fall to"),
    (
        8,
        closing_counted_twice,
        confirming,
        {},
        "of 2 contracts 2 were closed, and 1 are open; this block moved accounts",
    ),
    (8, signing_not_counted, matching, {}, "of 0 contracts 0 were closed, and 2 are open; this block moved accounts"),
    (8, end_noted_twice, cancelling, {}, "order {bid} was closed twice in one block"),
    (8, proof_does_not_advance, proving, {}, "{pile} is at sequence 0 after 1 proofs"),
    (8, proof_not_counted, proving, {}, "{pile} is at sequence 1 after 0 proofs"),
    (2, slashed_only_in_the_account, punishing, STAKED, "S:grid holds 85500000 micro, should hold 90000000"),
    (2, slashed_only_in_the_records, punishing, STAKED, "S:grid holds 90000000 micro, should hold 85500000"),
    (9, paid_from_the_treasurys_part, rewarding, STAKED, "F holds"),
    (10, nothing_cut, rewarding, STAKED, "gives 90 of 110 votes to one node"),
    (10, votes_for_nothing, rewarding, STAKED, "has 5 accounting nodes with 0 votes"),
]
NAMES = [f"{plant[0]}-{plant[1].__name__}" for plant in PLANTS]
ONLY_THE_BLOCK_KNOWS = {cancelled_bid_stays, end_noted_twice}  # they contradict what the block says, and no record


def test_there_is_a_bug_for_every_invariant() -> None:
    guide = Path(__file__).parents[2] / "docs" / "ledger.md"
    listed = guide.read_text().split("\n## Invariants\n")[1].split("\n## ")[0]
    numbers = [int(line.split(".")[0]) for line in listed.splitlines() if line[:1].isdigit()]
    assert sorted({plant[0] for plant in PLANTS}) == numbers == list(range(1, 11))


@pytest.mark.parametrize(("number", "plant", "story", "params", "names"), PLANTS, ids=NAMES)
def test_a_bug_in_the_chain_stops_the_block_that_meets_it(
    number: int,
    plant: Callable[[Patch], None],
    story: Story,
    params: dict[str, int],
    names: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    market = Market(2, 3, **params)
    plant(monkeypatch)
    named = story(market)
    with pytest.raises(BrokenInvariantError) as caught:
        apply_block(market.state, market.env(), market.queue)
    assert names.format(**named) in str(caught.value)
    if plant in {closing_counted_twice, signing_not_counted}:
        suspects = [c.id.hex() for c in market.state.touched(Contract)] or [named["contract"]]
        assert all(suspect in str(caught.value) for suspect in suspects)


@pytest.mark.parametrize(("number", "plant", "story", "params", "names"), PLANTS, ids=NAMES)
def test_the_stories_are_innocent(
    number: int, plant: Callable[[Patch], None], story: Story, params: dict[str, int], names: str
) -> None:
    market = Market(2, 3, **params)
    story(market)
    market.ok()


@pytest.mark.parametrize(
    ("number", "plant", "story", "params", "names"),
    [plant for plant in PLANTS if plant[1] not in ONLY_THE_BLOCK_KNOWS],
    ids=[name for name, plant in zip(NAMES, PLANTS, strict=True) if plant[1] not in ONLY_THE_BLOCK_KNOWS],
)
def test_a_recount_finds_it_even_if_the_block_did_not_look(
    number: int,
    plant: Callable[[Patch], None],
    story: Story,
    params: dict[str, int],
    names: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    market = Market(2, 3, **params)
    plant(monkeypatch)
    story(market)
    monkeypatch.setattr(transition, "invariants", SimpleNamespace(check=lambda *_: None))
    with pytest.raises(BrokenInvariantError):
        block_then_recount(market)


def block_then_recount(market: Market) -> None:
    apply_block(market.state, market.env(), market.queue)
    market.seal()
    check_in_full(market.state)


def test_a_message_names_the_first_few_of_many() -> None:
    assert _some([]) == "(none)"
    assert _some(list("ab")) == "a, b"
    assert _some([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, and 2 more"
