"""A long run through every path of the ledger, block by block; as a script it prints the state roots."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from world import HOUR, NOW, Market, World, key

from pile_coordinator.chain.records import ACTIVE, DISPUTED, MEASURED, PROPOSED, SIGNED, Contract, Pile, Withdrawal
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    CancelBid,
    CancelContract,
    Confirm,
    Object,
    PayOut,
    RefuseWithdrawal,
    RegisterParty,
    RegisterPile,
    RetirePile,
    Rule,
    SetTariff,
    Sign,
    Withdraw,
)
from pile_shared.proof import BEGIN, END, HEARTBEAT, PERIODIC

Block = Callable[..., object]

QUARTER = HOUR // 4
TARIFF = {
    "utc_offset_minutes": 480,
    "periods": [
        {"from_minute": 0, "name": "valley", "sell_micro_per_kwh": 500_000, "buy_micro_per_kwh": 300_000},
        {"from_minute": 420, "name": "flat", "sell_micro_per_kwh": 650_000, "buy_micro_per_kwh": 400_000},
        {"from_minute": 1080, "name": "peak", "sell_micro_per_kwh": 800_000, "buy_micro_per_kwh": 400_000},
    ],
}


def run(block: Block, blocks: int = 120) -> Iterator[bytes]:
    """Play the run; `block` is World.block or something around it. Yields the state root after each block."""
    rng = random.Random(7)
    market = Market(4, 6, tariff=TARIFF, epoch_ms=2 * HOUR, breaker_permille=30, breaker_pause_ms=QUARTER)
    _admit(market)
    for i in range(1, 5):
        ask = rng.choice([AT_MARKET, 660_000])
        market.offer(f"pile-{i}", energy=200_000, ask=ask, end=NOW + 48 * HOUR, explicit=i == 4)
    energy = dict.fromkeys((f"pile-{i}" for i in range(1, 5)), 100_000)
    for number in range(blocks):
        time_ms = NOW + number * QUARTER
        _bids(market, rng, time_ms)
        proofs = [message for pile in energy for message in _proofs(market, rng, pile, energy, time_ms)]
        if proofs:
            market.send("operator", market.batch(*proofs))
        _parties_act(market, rng)
        _treasury_acts(market, rng, number)
        if number == blocks // 2:
            market.send("grid", SetTariff(time_ms + HOUR, 480, [[0, "all-day", 700_000, 400_000]]))
            market.send("operator", RetirePile("pile-9"))
        block(market, time_ms=time_ms)
        yield market.root


def _admit(market: Market) -> None:
    """A second arbiter, and a pile that will be retired."""
    market.send("operator", RegisterParty("umpire", "third-party", key("umpire").public))
    market.send("operator", RegisterPile("pile-9", "owner-1", key("pile-9").public, "SDM630", "9", "north", 7000))


def _bids(market: Market, rng: random.Random, time_ms: int) -> None:
    for i in range(1, 7):
        if rng.random() < 0.4:
            start = time_ms + rng.randint(1, 6) * QUARTER
            lots, limit = rng.randint(5, 60), rng.randint(500_000, 900_000)
            is_divisible = rng.random() < 0.2
            market.bid(
                f"user-{i}",
                energy=lots * (300 if is_divisible else 100),
                limit=limit,
                market=rng.random() < 0.5,
                start=start,
                end=start + HOUR,
                divisible=is_divisible,
                explicit=rng.random() < 0.2,
            )
        resting = market.state.bids_of(f"user-{i}")
        if resting and rng.random() < 0.05:
            market.send(f"user-{i}", CancelBid(resting[0].id))


def _proofs(market: Market, rng: random.Random, pile: str, energy: dict[str, int], time_ms: int) -> list[bytes]:
    if rng.random() < 0.2 or time_ms < market.state.get(Pile, pile).last_time_ms:
        return []
    energy[pile] += rng.randint(0, 1600)
    points = [(time_ms, energy[pile])]
    for contract in market.state.contracts_on(pile):
        terms = market.state.terms_of(contract)
        if contract.phase == SIGNED and terms.window_start_ms <= time_ms <= terms.window_end_ms and rng.random() < 0.8:
            return [market.prove(pile, BEGIN, points, contract=contract.id)]
        if contract.phase == ACTIVE and rng.random() < 0.5:
            return [market.prove(pile, END, points, contract=contract.id, reason=rng.randint(1, 8))]
        if contract.phase == ACTIVE:
            return [market.prove(pile, PERIODIC, points, contract=contract.id)]
    return [market.prove(pile, HEARTBEAT, points)]


def _parties_act(market: Market, rng: random.Random) -> None:
    for contract in market.state.each(Contract):
        terms = market.state.terms_of(contract)
        for party in (terms.user, terms.owner):
            if contract.phase == PROPOSED and rng.random() < 0.5:
                market.send(party, Sign(contract.id))
            elif contract.phase in {PROPOSED, SIGNED} and rng.random() < 0.05:
                market.send(party, CancelContract(contract.id))
            elif contract.phase == MEASURED and rng.random() < 0.1:
                market.send(party, Object(contract.id, rng.choice(["energy", "cause"]), 1000, "no"))
            elif contract.phase == MEASURED and rng.random() < 0.5:
                market.send(party, Confirm(contract.id, decode_statement(contract.statement).digest()))
        if contract.phase == DISPUTED and rng.random() < 0.5:
            market.send(rng.choice(["auditor", "umpire"]), Rule(contract.id, rng.randint(0, 6000), "pile"))


def _treasury_acts(market: Market, rng: random.Random, number: int) -> None:
    for withdrawal in market.state.each(Withdrawal):
        said = rng.choice([PayOut(withdrawal.id, f"out-{number}"), RefuseWithdrawal(withdrawal.id, "no such account")])
        market.send("grid", said)
        break
    if rng.random() < 0.2:
        market.send(f"user-{rng.randint(1, 6)}", Withdraw(rng.randint(1, 100_000), "IBAN 1"))


if __name__ == "__main__":
    print("\n".join(root.hex() for root in run(World.block)))
