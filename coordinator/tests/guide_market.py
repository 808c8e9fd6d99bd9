"""What the guides' examples stand on: a real chain, and sentences short enough for a page."""

from decimal import Decimal

from world import HOUR, NOW, START, Market, key, leaf_of

from pile_coordinator.chain.genesis import tariff_from_json
from pile_coordinator.chain.records import Bid, Contract, Tariff
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Answer,
    CancelBid,
    CancelContract,
    Deposit,
    Object,
    RegisterParty,
    Rule,
)
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.proof import HEARTBEAT, REASON_NAMES
from pile_shared.terms import LEAF_CONTRACT, decode_terms

DAY_MS = 24 * HOUR
TARIFF = {
    "utc_offset_minutes": 0,
    "periods": [
        {"from_minute": 0, "name": "valley", "sell_micro_per_kwh": 400_000, "buy_micro_per_kwh": 200_000},
        {"from_minute": 7 * 60, "name": "flat", "sell_micro_per_kwh": 650_000, "buy_micro_per_kwh": 400_000},
        {"from_minute": 18 * 60, "name": "peak", "sell_micro_per_kwh": 1_000_000, "buy_micro_per_kwh": 600_000},
    ],
}


def micro(text: str) -> int:
    return int(Decimal(text) * 1_000_000)


def money(amount_micro: int) -> str:
    """Two decimals, and as many more as it takes."""
    whole, part = divmod(abs(amount_micro), 1_000_000)
    digits = f"{part:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount_micro < 0 else ''}{whole}.{digits}"


class Garage:
    """Ten piles of 7 kW at the flat price, two capacity hours, and four drivers with 50 of the currency each."""

    def __init__(self) -> None:
        self.market = Market(10, 0, capacity_hours=2, cancel_cutoff_ms=0)
        for who in ("dan", "eva", "fay", "gil"):
            self.market.send("operator", RegisterParty(who, "ev-owner", key(who).public))
            self.market.send("grid", Deposit(who, micro("50"), who))
        self.market.ok()
        self.bids: dict[str, bytes] = {}
        self.users: dict[bytes, str] = {}

    def offer(self, pile: str, *, kwh: int, ask: str | None = None) -> None:
        self.market.offer(pile, energy=1000 * kwh, ask=AT_MARKET if ask is None else micro(ask))

    def bid(self, who: str, *, kwh: int, limit: str, market: bool = False) -> None:
        world = self.market
        if who in self.bids:
            world.send(who, CancelBid(self.bids[who]))
        self.bids[who] = world.bid(who, energy=1000 * kwh, limit=micro(limit), market=market)

    def call_off(self, who: str) -> None:
        state = self.market.state
        (contract,) = [c for c in state.each(Contract) if state.terms_of(c).user == who]
        self.market.send(who, CancelContract(contract.id))

    def block(self) -> None:
        """Make a block and say what it signed and what rests."""
        outcome = self.market.ok()
        for leaf in map(leaf_of, outcome.leaves):
            if leaf[0] == LEAF_CONTRACT:
                terms = decode_terms(leaf[1])
                price = f"{Decimal(terms.price_micro_per_kwh) / 1_000_000:f}".ljust(8, "0")
                print(f"{terms.user}: {terms.energy_wh // 1000} kWh at {terms.pile} for {price}")
        for bid in sorted(self.market.state.each(Bid), key=lambda bid: bid.user):
            print(f"{bid.user}: rests at {Decimal(bid.limit_micro_per_kwh) / 1_000_000:.6f}")


class Deal:
    """Dan's 10 kWh at Olga's pile for 0.70, on a chain of its own."""

    def __init__(self) -> None:
        self.world = Market(1, 1, cancel_cutoff_ms=HOUR // 4)
        self.before = self.balances()
        self.world.offer(ask=micro("0.70"))
        self.world.bid(energy=10_000, end=NOW + 8 * HOUR)
        self.world.ok()

    def balances(self) -> dict[str, int]:
        accounts = {"dan": "P:user-1", "olga": "P:owner-1", "the grid": "P:grid", "fees": "F"}
        return {who: self.world.state.balance_micro(account) for who, account in accounts.items()}

    def measure(self, reason: str, kwh: str) -> None:
        world, wh = self.world, int(Decimal(kwh) * 1000)
        assert world.submit(world.begin(), time_ms=START + 1000) == ["admitted"]
        end = world.end(START + 4 * HOUR, 100_000 + wh, REASON_NAMES.index(reason))
        assert world.submit(end, time_ms=START + 4 * HOUR) == ["admitted"]

    def say(self) -> None:
        assert self.world.holds() == {}
        now = self.balances()
        gains = {who: now[who] - self.before[who] for who in now}
        assert sum(gains.values()) == 0
        print(
            f"dan pays {money(-gains['dan'])}, olga gets {money(gains['olga'])}, the grid {money(gains['the grid'])},"
            f" fees {money(gains['fees'])}"
        )


def ends(reason: str, *, kwh: str) -> None:
    deal = Deal()
    deal.measure(reason, kwh)
    deal.world.confirm("user-1", "owner-1")
    deal.world.ok()
    deal.say()


def ends_unbegun(story: str) -> None:
    deal = Deal()
    world = deal.world
    contract = world.contract().id
    if story == "dan calls it off in time":
        world.send("user-1", CancelContract(contract))
    elif story == "olga calls it off before the window":
        world.send("owner-1", CancelContract(contract))
    elif story == "dan does not come, the pile was there":
        world.submit(world.prove("pile-1", HEARTBEAT, [(START + 1000, 100_000)]), time_ms=START + 1000)
    else:
        assert story == "dan comes, the pile is not there"
    world.ok()
    if world.state.each(Contract):
        world.ok(time_ms=START + 2 * HOUR)  # the grace and the evidence window are over
    deal.say()


def disputed(reason: str, *, kwh: str, ruling: str | None, answer: bool = False) -> None:
    deal = Deal()
    deal.measure(reason, kwh)
    world = deal.world
    contract = world.contract()
    world.send("user-1", Object(contract.id, "cause", int(Decimal(kwh) * 1000), "it broke down"))
    world.ok()
    if ruling is not None:
        world.send("auditor", Rule(contract.id, decode_statement(contract.statement).measured_wh, ruling))
    elif answer:
        command = encode([contract.id, 2, START + 2 * HOUR, 0])
        purpose = cose.purpose(cose.SESSION, world.chain_id)
        world.send("owner-1", Answer(contract.id, cose.sign1(command, key("user-1"), purpose)))
    world.ok()
    if world.state.each(Contract):
        world.ok(time_ms=world.time_ms + world.state.params.dispute_window_ms)
    deal.say()


def time_ms(hour: int, minute: int) -> int:
    """A moment of some day, UTC."""
    return NOW // DAY_MS * DAY_MS + hour * HOUR + minute * 60_000


def tariff() -> Tariff:
    return tariff_from_json(TARIFF, 0)
