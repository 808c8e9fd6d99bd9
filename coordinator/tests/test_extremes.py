"""Whatever genesis allows and anybody sends: blocks are applied, and every invariant holds after each.

Random chains with parameters at the ends of their ranges, on which everybody does everything at any time. What is looked for
is a stopped node: anything but a Rejection inside a transaction, a deadline or a clearing would come out of `block`, and so
would a broken invariant.
"""

import random
from collections import Counter
from collections.abc import Callable

from world import HOUR, NOW, Market, closings, key

from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.parties import NO_KEY
from pile_coordinator.chain.records import (
    ACTIVE,
    DISPUTED,
    MEASURED,
    PROPOSED,
    SIGNED,
    Bid,
    Contract,
    Listing,
    Party,
    Pile,
    Tariff,
    Withdrawal,
)
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    Answer,
    Body,
    CancelBid,
    CancelContract,
    CollectFees,
    Confirm,
    Deposit,
    List,
    Object,
    PayOut,
    PlaceBid,
    RefuseWithdrawal,
    RegisterPile,
    RestoreKey,
    RetirePile,
    RevokeKey,
    RotateKey,
    Rule,
    SetTariff,
    Sign,
    SubmitProofs,
    Unlist,
    Withdraw,
)
from pile_shared.proof import ALARM, BEGIN, END, HEARTBEAT, PERIODIC
from pile_shared.units import MAX_ENERGY_WH

QUARTER = HOUR // 4
EXTREMES: dict[str, list[int]] = {
    "fee_micro": [0, 1, 50_000],
    "bond_permille": [0, 1, 200, 10_000],
    "penalty_permille": [0, 500, 1000],
    "no_show_permille": [0, 300, 1000],
    "tolerance_permille": [0, 20, 1000],
    "tolerance_min_wh": [0, 100, 10_000],
    "overuse_permille": [0, 100, 1000],
    "objection_bond_micro": [0, 1, 500_000, 10**9],
    "rulings_needed": [1, 2],
    "breaker_permille": [0, 1, 50, 1000],
    "breaker_pause_ms": [0, 1, HOUR // 2, 30 * HOUR],
    "band_permille": [1000, 2000, 100_000],
    "sign_window_ms": [1, QUARTER, 9 * HOUR],
    "cancel_cutoff_ms": [0, HOUR // 2],
    "begin_grace_ms": [0, 1000, HOUR],
    "evidence_window_ms": [0, 1000, HOUR],
    "confirm_window_ms": [0, 1000, HOUR],
    "dispute_window_ms": [0, 1000, HOUR],
    "capacity_hours": [1, 2, 10],
}
SELLS = [1, 500_000, 650_000, 650_000, 1_000_000, 10**9]


class Story:
    """One random chain; every choice comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.names: dict[bytes, str] = {}  # of the keys that parties were given later
        params: dict[str, object] = {
            name: rng.choice(values) for name, values in EXTREMES.items() if rng.random() < 0.35
        }
        params["epoch_ms"] = rng.choice([60_000, QUARTER, HOUR, 24 * HOUR])
        denominator = rng.choice([1, 2, 4, 5, 9])
        params |= {"crr_numerator": rng.randint(1, denominator), "crr_denominator": denominator}
        self.sell = rng.choice(SELLS)
        periods = [self._period(minute) for minute in [0, *sorted(rng.sample(range(1, 1440), rng.randint(0, 3)))]]
        params["tariff"] = {"utc_offset_minutes": rng.randint(-720, 840), "periods": periods}
        owner, user = rng.choice([0, 1_000_000, 3_000_000, 10**9]), rng.choice([10**7, 10**9, 10**12])
        self.market = Market(3, 3, owner_micro=owner, user_micro=user, **params)  # type: ignore[arg-type]
        for i in range(1, 7):  # so that one owner's money is wanted for several bonds of a block
            power, zone = rng.choice([1, 7000, 100_000]), rng.choice(["north", "south"])
            self.send("operator", self.market.pile(f"more-{i}", f"owner-{1 + i % 2}", zone=zone, power=power))
        self.market.ok()
        self.registers: dict[str, int] = {}
        self.number = 0
        for pile in self.market.state.each(Pile):
            if rng.random() < 0.8:
                ask = rng.choice([-1, -1, self._price(100)])
                self.send(
                    pile.owner, List(pile.id, NOW, NOW + 200 * HOUR, rng.randint(5000, 400_000), ask, self._may(0.2))
                )

    def _may(self, chance: float) -> bool:
        return self.rng.random() < chance

    def _period(self, minute: int) -> dict[str, object]:
        sell = (
            max(1, min(10**9, self.sell * self.rng.randint(50, 200) // 100))
            if self._may(0.9)
            else self.rng.choice(SELLS)
        )
        buy = self.rng.choice([0, sell // 2, sell])
        return {"from_minute": minute, "name": "x", "sell_micro_per_kwh": sell, "buy_micro_per_kwh": buy}

    def _price(self, most_percent: int = 200) -> int:
        sell = self.rng.choice([int(period[2]) for period in self.market.state.get(Tariff, "now").periods])
        return max(1, sell * self.rng.randint(50, most_percent) // 100)

    def send(self, sender: str, body: Body) -> None:
        """Queue what the sender signs with the key it has now; nothing if it has none."""
        market = self.market
        if market.state.get(Party, sender).public == NO_KEY:
            return
        sequence = market.sequences.get(sender, 0) + 1
        signer = self.names.get(market.state.get(Party, sender).public, sender)
        market.queue.append(market.tx(sender, body, sequence=sequence, signer=signer))
        market.sequences[sender] = sequence

    def block(self) -> Counter[str]:
        """A block of a few deeds and some proofs, some time after the last one."""
        market, rng = self.market, self.rng
        steps = [0, 1, 60_000, *[QUARTER] * 7, HOUR // 2, HOUR, 7 * HOUR]
        time_ms = market.time_ms + rng.choice(steps)
        for _ in range(rng.randint(0, 14)):
            self.number += 1
            rng.choice(self.DEEDS)(self, time_ms)
        proofs = [proof for pile in market.state.each(Pile) for proof in self._proofs(pile, time_ms)]
        if proofs:
            self.send("operator", SubmitProofs(proofs))
        outcome = market.block(time_ms=time_ms)
        for pile in market.state.each(Pile):
            market.proofs[pile.id] = pile.last_sequence, pile.last_hash
        return Counter([*closings(outcome), *(result.code for result in outcome.results)])

    # --- what anybody may do at any time ---------------------------------------------------------------------------

    def _bid(self, time_ms: int) -> None:
        start = time_ms + self.rng.randint(-1, 6) * QUARTER
        end = start + self.rng.randint(1, 12) * QUARTER
        named = self.rng.choice(self.market.state.each(Pile))
        is_market, energy = self._may(0.4), self.rng.randint(1, 80) * self.rng.choice([100, 100, 1000])
        expires = 0 if is_market else self.rng.randint(min(time_ms + 1, end), end)
        pile, user = self.rng.choice(["", "", named.id]), f"user-{self.rng.randint(1, 3)}"
        orders = named.zone, pile, energy, start, end, self._price(), is_market, expires, self._may(0.4), self._may(0.3)
        self.send(user, PlaceBid(*orders))

    def _list(self, time_ms: int) -> None:
        pile = self.rng.choice(self.market.state.each(Pile))
        start = time_ms + self.rng.randint(-8, 4) * QUARTER
        ask = self.rng.choice([-1, -1, 0, self._price()])
        end = start + self.rng.randint(1, 60) * QUARTER
        self.send(pile.owner, List(pile.id, start, end, self.rng.randint(100, 200_000), ask, self._may(0.3)))

    def _withdraw_order(self, _: int) -> None:
        for bid in self.market.state.each(Bid)[:1]:
            self.send(bid.user, CancelBid(bid.id))
        for listing in self.market.state.each(Listing)[:1] if self._may(0.3) else []:
            self.send(listing.owner, Unlist(listing.id))

    def _act_on_contract(self, _: int) -> None:
        found = self.market.state.each(Contract)
        if not found:
            return
        contract, rng = self.rng.choice(found), self.rng
        terms = self.market.state.terms_of(contract)
        party = rng.choice([terms.user, terms.owner])
        if contract.phase == PROPOSED:
            self.send(party, rng.choice([Sign(contract.id), Sign(contract.id), CancelContract(contract.id)]))
        elif contract.phase == SIGNED and self._may(0.15):
            self.send(party, CancelContract(contract.id))
        elif contract.phase == MEASURED:
            digest = decode_statement(contract.statement).digest()
            ground = rng.choice(["energy", "cause"])
            self.send(party, rng.choice([Confirm(contract.id, digest), Object(contract.id, ground, 5, "x")]))
        elif contract.phase == DISPUTED and self._may(0.3):
            signer = self.names.get(terms.user_public, terms.user)
            self.send(terms.owner, Answer(contract.id, self.market.stop(contract.id, signer)))
        elif contract.phase == DISPUTED:
            energy = rng.choice([0, terms.energy_wh, rng.randint(0, 2 * terms.energy_wh), MAX_ENERGY_WH])
            self.send("auditor", Rule(contract.id, energy, rng.choice(["user", "pile"])))

    def _move_money(self, _: int) -> None:
        market, rng = self.market, self.rng
        party = rng.choice(["user-1", "user-2", "owner-1", "owner-2", "grid"])
        for withdrawal in market.state.each(Withdrawal)[:1]:
            paid = PayOut(withdrawal.id, f"out {self.number}")
            self.send("grid", rng.choice([paid, RefuseWithdrawal(withdrawal.id, "x")]))
        if self._may(0.5):
            self.send(
                party,
                Withdraw(max(1, rng.choice([1, 1000, market.money(party) // 2, market.money(party) // 9])), "bank"),
            )
        else:
            self.send("grid", Deposit(party, rng.choice([1, 1000, 10**7]), f"in {self.number}"))
        fees = market.state.balance_micro("F")
        if fees:
            self.send("grid", CollectFees("operator", fees))

    def _set_tariff(self, time_ms: int) -> None:
        rows = [list(self._period(minute).values()) for minute in (0, 700)]
        from_ms = time_ms + self.rng.choice([0, 0, HOUR])
        self.send("grid", SetTariff(from_ms, self.rng.randint(-720, 840), rows))  # type: ignore[arg-type]

    def _change_key(self, _: int) -> None:
        party = self.rng.choice(["user-1", "user-2", "owner-1", "owner-3"])
        public = key(f"{party}/{self.number}").public
        self.names[public] = f"{party}/{self.number}"
        if self.market.state.get(Party, party).public == NO_KEY:
            for sender in ("grid", "operator"):
                self.send(sender, RestoreKey(party, public))
        elif self._may(0.3):
            self.send("operator", RevokeKey(party))
        elif self._may(0.5):
            self.send(party, RotateKey(public))

    def _change_piles(self, _: int) -> None:
        pile = self.rng.choice(self.market.state.each(Pile))
        if self._may(0.3):
            self.send(self.rng.choice(["operator", pile.owner]), RetirePile(pile.id))
        elif self._may(0.3):
            name, zone, power = f"new-{self.number}", self.rng.choice(["north", "south"]), self.rng.choice([1, 10**7])
            self.send("operator", RegisterPile(name, "owner-3", key(name).public, "m", "s", zone, power))

    DEEDS: tuple[Callable[["Story", int], None], ...] = (
        *[_bid] * 9, *[_list] * 2, _withdraw_order, *[_act_on_contract] * 6, _move_money, *[_set_tariff] * 2, _change_key, _change_piles,
    )  # fmt: skip

    def _proofs(self, pile: Pile, time_ms: int) -> list[bytes]:
        if self._may(0.4):
            return []
        energy = self.registers.get(pile.id, 10_000) + (self.rng.randint(0, 1500) if self._may(0.99) else -5)
        self.registers[pile.id] = energy
        event, contract = self.rng.choice([HEARTBEAT, HEARTBEAT, ALARM]), None
        for booked in self.market.state.contracts_on(pile.id):
            is_due = self.market.state.terms_of(booked).window_start_ms <= time_ms
            if booked.phase == ACTIVE:
                event, contract = self.rng.choice([PERIODIC, PERIODIC, END, END, BEGIN]), booked.id
            elif contract is None and is_due and self._may(0.5):
                event, contract = BEGIN, booked.id
        skew = 0 if self._may(0.9) else self.rng.choice([-1000, -QUARTER, 5000, 1_000_000])
        points = [(time_ms + skew, energy)] if contract or self._may(0.9) else []
        reason = self.rng.randint(1, 8) if event in {ALARM, END} else 0
        over = {"serial": "other"} if self._may(0.03) else {}
        return [self.market.prove(pile.id, event, points, contract=contract, reason=reason, **over)]


def told(seed: int) -> Counter[str]:
    """One story of 30 blocks, whose snapshot is the same chain again."""
    story = Story(random.Random(seed))
    seen: Counter[str] = Counter()
    for _ in range(30):
        seen += story.block()
    again = State.load(sorted(story.market.rows.items()))
    assert again.seal()[0] == story.market.root
    check_in_full(again)
    return seen


def test_no_chain_stops_whatever_its_parameters_and_whoever_does_what() -> None:
    seen: Counter[str] = Counter()
    for seed in range(80):
        try:
            seen += told(seed)
        except BaseException as error:
            error.add_note(f"in story {seed}")
            raise
    ends = {
        "expired",
        "cancelled",
        "unfilled",
        "spent",
        "unsigned",
        "no-show",
        "defaulted",
        "confirmed",
        "settled",
        "resolved",
    }
    assert ends <= set(seen), seen  # otherwise they would look nowhere
