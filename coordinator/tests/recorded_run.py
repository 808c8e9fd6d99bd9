"""A long run through every path of the ledger, block by block; as a script it prints the state roots."""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from world import HOUR, NOW, Market, World

from pile_coordinator.chain.records import ACTIVE, MEASURED, SIGNED, Contract, Pile
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import AT_MARKET, Confirm
from pile_shared.proof import BEGIN, END, HEARTBEAT, PERIODIC

Block = Callable[..., object]


def run(block: Block, blocks: int = 40) -> Iterator[bytes]:
    """Play the run; `block` is World.block or something around it. Yields the state root after each block."""
    rng = random.Random(7)
    market = Market(4, 6)
    for i in range(1, 5):
        market.offer(f"pile-{i}", energy=200_000, ask=rng.choice([AT_MARKET, 660_000]), end=NOW + 48 * HOUR)
    energy = dict.fromkeys((f"pile-{i}" for i in range(1, 5)), 100_000)
    for number in range(blocks):
        time_ms = NOW + number * HOUR // 4
        for i in range(1, 7):
            if rng.random() < 0.4:
                start = time_ms + rng.randint(1, 6) * HOUR // 4
                lots, limit = rng.randint(5, 60), rng.randint(640_000, 760_000)
                market.bid(
                    f"user-{i}",
                    energy=lots * 100,
                    limit=limit,
                    market=rng.random() < 0.5,
                    start=start,
                    end=start + HOUR,
                )
        proofs = [message for pile in energy for message in _proofs(market, rng, pile, energy, time_ms)]
        if proofs:
            market.send("operator", market.batch(*proofs))
        _confirmations(market, rng)
        block(market, time_ms=time_ms)
        yield market.root


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


def _confirmations(market: Market, rng: random.Random) -> None:
    for contract in market.state.each(Contract):
        if contract.phase == MEASURED:
            terms, digest = market.state.terms_of(contract), decode_statement(contract.statement).digest()
            for party in (terms.user, terms.owner):
                if rng.random() < 0.5:
                    market.send(party, Confirm(contract.id, digest))


if __name__ == "__main__":
    print("\n".join(root.hex() for root in run(World.block)))
