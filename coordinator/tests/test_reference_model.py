"""The chain beside a second implementation of docs/ledger.md (reference_model.py): after every block they must agree.

Hypothesis writes the stories: offers, bids, sessions, confirmations and the time between. A story that ends in a disagreement
shrinks to the few steps that matter, orders by short names.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import reference_model as model
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from world import HOUR, NOW, Market, key, leaf_of

from pile_coordinator.chain import clearing, settlement, transition
from pile_coordinator.chain.curve import Curve
from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.records import Account, Bid, Contract, Party, Zone
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import CancelBid, Confirm, Deposit, List, PlaceBid, RegisterParty, Unlist
from pile_coordinator.chain.transition import apply_block
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, decode_terms

SECOND, MINUTE = 1000, 60_000
PILES = {"p1": ("owner-1", "north"), "p2": ("owner-2", "north"), "p3": ("owner-1", "south")}
USERS = ("user-1", "user-2", "user-3")
POWER_W = 7000


class DisagreementError(AssertionError):
    """Chain and model say different things of one block."""


class Pair:
    """One chain and one model of it, which are told the same. `block` compares them."""

    def __init__(self, money: dict[str, int] | None = None, **params: int) -> None:
        """Everybody has 100 of the currency, unless `money` says otherwise."""
        self.market = Market(0, 0, **params)
        piles = [model.Pile(name, owner, zone, POWER_W) for name, (owner, zone) in PILES.items()]
        rules = {n: v for n, v in self.market.genesis.to_json()["params"].items() if isinstance(v, int)}
        self.model = model.Model(rules, piles)
        self.names: dict[bytes, str] = {}  # of orders, and of contracts by their bid's name
        self.ids: dict[str, bytes] = {}
        self.actions: list[tuple] = []  # type: ignore[type-arg]
        self.registers = dict.fromkeys(PILES, 0)
        self._register(money or {})

    def _register(self, given: dict[str, int]) -> None:
        owners = sorted({owner for owner, _ in PILES.values()})
        money = dict.fromkeys([*owners, *USERS], 100_000_000) | given
        for party, micro in money.items():
            role = "pile-owner" if party in owners else "ev-owner"
            self.market.send("operator", RegisterParty(party, role, key(party).public))
            self.market.send("grid", Deposit(party, micro, party))
            self.model.move("X", f"P:{party}", micro)
        for pile, (owner, zone) in PILES.items():
            self.market.send("operator", self.market.pile(pile, owner, zone, POWER_W))
        self.market.ok()

    @property
    def now_ms(self) -> int:
        return self.market.time_ms

    def named(self, prefix: str, order_id: bytes) -> str:
        name = f"{prefix}{1 + sum(n[0] == prefix for n in self.ids)}"
        self.names[order_id], self.ids[name] = name, order_id
        return name

    def offer(self, pile: str, start_ms: int, end_ms: int, energy_wh: int, ask: int) -> str:
        order_id = self.market.send(PILES[pile][0], List(pile, start_ms, end_ms, energy_wh, ask))
        name = self.named("l", order_id)
        place = self.model.piles[pile]
        self.actions.append(
            (PILES[pile][0], "offer", model.Offer(name, order_id, place, start_ms, end_ms, energy_wh, ask))
        )
        return name

    def bid(
        self, user: str, zone: str, pile: str, energy_wh: int, start_ms: int, end_ms: int, limit: int, expires_ms: int
    ) -> str:
        """A market order if `expires_ms` is 0."""
        market = expires_ms == 0
        body = PlaceBid(zone, pile, energy_wh, start_ms, end_ms, limit, market, expires_ms)
        order_id = self.market.send(user, body)
        name = self.named("b", order_id)
        wish = model.Wish(name, order_id, user, zone, pile, energy_wh, start_ms, end_ms, limit, market, expires_ms)
        self.actions.append((user, "bid", wish))
        return name

    def unlist(self, name: str, owner: str) -> None:
        self.market.send(owner, Unlist(self.ids[name]))
        self.actions.append((owner, "unlist", name))

    def cancel(self, name: str, user: str) -> None:
        self.market.send(user, CancelBid(self.ids[name]))
        self.actions.append((user, "cancel", name))

    def contract(self, name: str) -> Contract:
        (found,) = [c for c in self.market.state.each(Contract) if self.names[c.id] == name]
        return found

    def confirm(self, name: str, party: str) -> None:
        contract = self.contract(name)
        written = bool(contract.statement)
        digest = decode_statement(contract.statement).digest() if written else bytes(32)
        self.market.send(party, Confirm(contract.id, digest))
        self.actions.append((party, "confirm", party, name, written))

    def proof(
        self, pile: str, event: int, name: str = "", *, more_wh: int = 0, reason: int = 0, meter: bool = True
    ) -> None:
        """The pile's next proof, read this second; the block it is in is made at once."""
        at_ms = self.now_ms + SECOND
        self.registers[pile] += more_wh
        contract = self.contract(name).id if name else None
        over = {} if meter else {"serial": "another"}
        points = [(at_ms, self.registers[pile])]
        message = self.market.prove(pile, event, points, contract=contract, reason=reason, **over)
        self.market.send("operator", self.market.batch(message))
        self.actions.append(("operator", "proof", pile, event, name, at_ms, self.registers[pile], reason, meter))
        self.block(at_ms)

    def block(self, time_ms: int = 0) -> None:
        """One block on both sides, then the comparison."""
        market = self.market
        market.time_ms = max(market.time_ms + SECOND, time_ms)
        seed = market.env().seed
        outcome = apply_block(market.state, market.env(), market.queue)
        market.queue.clear()
        market.seal()
        market.height += 1
        market.sequences = {party.id: party.sequence for party in market.state.each(Party)}
        codes = self.model.block(market.time_ms, seed, self.actions)
        self.actions.clear()
        self.compare("answers", [r.code for r in outcome.results], codes)
        self.learn(outcome.leaves)
        self.compare("contracts", self.chain_deals(), self.model_deals())
        self.compare("closed", sorted(self.chain_closed(outcome.leaves)), sorted(self.model.closed))
        self.compare(
            "resting bids", sorted(self.names[b.id] for b in market.state.each(Bid)), sorted(self.model.wishes)
        )
        self.compare("loads", {z.id: z.open_wh for z in market.state.each(Zone)}, self.model.load_wh)
        self.compare("accounts", self.chain_books(), self.model.books())
        check_in_full(market.state)

    def compare(self, what: str, chain: object, guide: object) -> None:
        if chain != guide:
            raise DisagreementError(f"{what}: the chain says {chain}, the model {guide}")

    def learn(self, leaves: list[bytes]) -> None:
        """Contracts go by the names of their bids."""
        for leaf in map(leaf_of, leaves):
            if leaf[0] == LEAF_CONTRACT:
                terms = decode_terms(leaf[1])
                self.names[terms.contract_id()] = self.names[terms.order]

    def chain_closed(self, leaves: list[bytes]) -> list[tuple[str, str]]:
        return [(self.names[leaf[1]], leaf[2]) for leaf in map(leaf_of, leaves) if leaf[0] == LEAF_CLOSED]

    def chain_deals(self) -> dict[str, tuple[str, str, int, str]]:
        """By the bid's name: listing, pile, price and phase of every open contract."""
        found = {}
        for contract in self.market.state.each(Contract):
            terms = self.market.state.terms_of(contract)
            found[self.names[contract.id]] = (
                self.names[terms.listing],
                terms.pile,
                terms.price_micro_per_kwh,
                contract.phase,
            )
        return found

    def model_deals(self) -> dict[str, tuple[str, str, int, str]]:
        deals = self.model.deals.items()
        return {name: (d.offer.name, d.offer.pile.name, d.price, d.phase) for name, d in deals}

    def chain_books(self) -> dict[str, int]:
        """All accounts that are not empty, escrows and bonds under their order's short name."""
        books = {}
        for account in self.market.state.each(Account):
            kind, _, owner = account.name.partition(":")
            name = f"{kind}:{self.names[bytes.fromhex(owner)]}" if kind in {"E", "B"} else account.name
            if account.balance_micro:
                books[name] = account.balance_micro
        return books


def rules() -> st.SearchStrategy[dict[str, int]]:
    """Parameters of a chain; the first of each list is what stories shrink to."""
    choices = {
        "catalog_sell_micro_per_kwh": [650_000, 701_567],
        "catalog_buy_micro_per_kwh": [400_000, 0, 333_333],
        "crr_numerator": [4, 1],
        "crr_denominator": [5, 4],
        "capacity_hours": [2, 1],
        "tolerance_permille": [20, 0, 33],
        "tolerance_min_wh": [100, 0],
        "overuse_permille": [100, 0, 77],
        "fee_micro": [50_000, 0],
        "bond_permille": [200, 0, 1333],
        "penalty_permille": [500, 1000, 333],
        "no_show_permille": [300, 1000, 77],
        "begin_grace_ms": [HOUR, 20 * MINUTE, 5 * HOUR],
        "evidence_window_ms": [HOUR, 0],
        "confirm_window_ms": [HOUR, 3 * HOUR],
    }
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in choices.items()})


LOTS = st.sampled_from([5000, 2000, 1300, 3700])
LIMITS = st.sampled_from([900_000, 701_567, 650_000, 720_123, 1_500_000])
ASKS = st.sampled_from([-1, -1, 600_000, 700_000, 651_987, 1_000_000])
STARTS = st.sampled_from([0, 30 * MINUTE, HOUR, 2 * HOUR, 10 * MINUTE, -30 * MINUTE])
LENGTHS = st.sampled_from([HOUR, 2 * HOUR, 40 * MINUTE])

SHARES = st.sampled_from([1000, 600, 0, 1050, 1200, 980, 1033])


class Books(RuleBasedStateMachine):
    """Any story that three owners' piles and three users can tell."""

    offers = Bundle("offers")
    bids = Bundle("bids")
    pair: Pair

    @initialize(
        params=rules(),
        owner_micro=st.sampled_from([100_000_000, 1_000_000, 1]),
        user_micro=st.sampled_from([100_000_000, 8_000_000]),
        asks=st.lists(ASKS, min_size=3, max_size=3),
    )
    def found(self, params: dict[str, int], owner_micro: int, user_micro: int, asks: list[int]) -> None:
        self.pair = Pair({"owner-1": owner_micro, "owner-2": owner_micro, "user-2": user_micro}, **params)
        for pile, ask in zip(PILES, asks, strict=True):
            self.pair.offer(pile, NOW, NOW + 24 * HOUR, 20_000, ask)

    @rule(
        target=offers,
        pile=st.sampled_from(sorted(PILES)),
        start=STARTS,
        hours=st.sampled_from([10, 2, 24, 0]),
        energy_wh=st.sampled_from([20_000, 5000]),
        ask=ASKS,
    )
    def offer(self, pile: str, start: int, hours: int, energy_wh: int, ask: int) -> tuple[str, str]:
        start_ms = self.pair.now_ms + start
        return self.pair.offer(pile, start_ms, start_ms + hours * HOUR, energy_wh, ask), PILES[pile][0]

    @rule(
        target=bids,
        user=st.sampled_from(USERS),
        where=st.sampled_from([("north", ""), ("south", ""), ("north", "p2"), ("south", "p3")]),
        energy_wh=LOTS,
        start=STARTS,
        length=LENGTHS,
        limit=LIMITS,
        rests=st.sampled_from([3, 1, 0]),
    )
    def bid(
        self, user: str, where: tuple[str, str], energy_wh: int, start: int, length: int, limit: int, rests: int
    ) -> tuple[str, str]:
        start_ms = self.pair.now_ms + start
        end_ms = start_ms + length
        expires_ms = min(end_ms, self.pair.now_ms + rests * HOUR) if rests else 0
        return self.pair.bid(user, *where, energy_wh, start_ms, end_ms, limit, expires_ms), user

    @rule(offer=consumes(offers))
    def unlist(self, offer: tuple[str, str]) -> None:
        self.pair.unlist(*offer)

    @rule(bid=consumes(bids))
    def cancel(self, bid: tuple[str, str]) -> None:
        self.pair.cancel(*bid)

    @rule(wait=st.sampled_from([0, 0, MINUTE, 20 * MINUTE, 4 * HOUR]))
    def block(self, wait: int) -> None:
        self.pair.block(self.pair.now_ms + wait)

    @rule(wait=st.sampled_from([-1, 0, 1]), data=st.data())
    @precondition(lambda self: self.pair.model.deals or self.pair.model.wishes)
    def block_at_a_deadline(self, wait: int, data: st.DataObject) -> None:
        """To the millisecond, where before and after differ."""
        moments = {d.deadline_ms for d in self.pair.model.deals.values()}
        moments |= {w.expires_ms for w in self.pair.model.wishes.values()}
        self.pair.block(data.draw(st.sampled_from(sorted(moments)), "moment") + wait)

    def deals(self, *phases: str) -> list[str]:
        return sorted(name for name, deal in self.pair.model.deals.items() if deal.phase in phases)

    @rule(data=st.data(), when=st.sampled_from(["in time", "early", "late", "other meter"]))
    @precondition(lambda self: self.deals("signed"))
    def plug_in(self, data: st.DataObject, when: str) -> None:
        self.begin(data, when)

    def begin(self, data: st.DataObject, when: str) -> str:
        deal = self.pair.model.deals[data.draw(st.sampled_from(self.deals("signed")), "contract")]
        wish, pile = deal.wish, deal.offer.pile
        last_ms = self.pair.model.grace_end_ms(wish.start_ms, wish.end_ms)
        if when != "early" and self.pair.now_ms < wish.start_ms:
            self.pair.block(wish.start_ms)
        if when == "late" and self.pair.now_ms < last_ms:
            self.pair.block(last_ms)
        if wish.name in self.deals("signed") and not pile.serves:
            self.pair.proof(pile.name, model.BEGIN, wish.name, meter=when != "other meter")
        return wish.name

    @rule(data=st.data(), share=SHARES, reason=st.sampled_from([1, 5]))
    @precondition(lambda self: self.deals("signed"))
    def serve(self, data: st.DataObject, share: int, reason: int) -> None:
        """A whole session."""
        name = self.begin(data, "in time")
        if name in self.deals("active"):
            self.flow(name, share, reason)

    def flow(self, name: str, share: int, reason: int) -> None:
        """So many thousandths of the energy, in the time that takes; then the session ends, or goes on (reason 0)."""
        deal = self.pair.model.deals[name]
        energy_wh = deal.wish.energy_wh * share // 1000
        self.pair.block(self.pair.now_ms + energy_wh * HOUR // POWER_W)
        if name in self.deals("active"):
            event = model.END if reason else model.PERIODIC
            self.pair.proof(deal.offer.pile.name, event, name, more_wh=energy_wh, reason=reason)

    @rule(data=st.data(), share=SHARES, reason=st.sampled_from([0, 1, 2, 5, 8]))
    @precondition(lambda self: self.deals("active"))
    def charge(self, data: st.DataObject, share: int, reason: int) -> None:
        self.flow(data.draw(st.sampled_from(self.deals("active")), "contract"), share, reason)

    @rule(pile=st.sampled_from(sorted(PILES)), event=st.sampled_from([model.HEARTBEAT, model.HEARTBEAT, model.ALARM]))
    def report(self, pile: str, event: int) -> None:
        """A pile that serves nobody says that it is there, or that something is wrong."""
        if not self.pair.model.piles[pile].serves:
            self.pair.proof(pile, event, reason=8 if event == model.ALARM else 0)

    @rule(data=st.data(), wait=st.sampled_from([30 * MINUTE, 2 * HOUR]))
    @precondition(lambda self: self.deals("signed"))
    def stand_up(self, data: st.DataObject, wait: int) -> None:
        """The pile is there in the window, the user is not."""
        deal = self.pair.model.deals[data.draw(st.sampled_from(self.deals("signed")), "contract")]
        self.pair.block(deal.wish.start_ms)
        if not deal.offer.pile.serves:
            self.pair.proof(deal.offer.pile.name, model.HEARTBEAT)
        self.pair.block(self.pair.now_ms + wait)

    @rule(data=st.data(), who=st.sampled_from(["user", "owner", "both"]))
    @precondition(lambda self: self.deals("signed", "active", "measured"))
    def confirm(self, data: st.DataObject, who: str) -> None:
        names = self.deals("measured") or self.deals("signed", "active")
        deal = self.pair.model.deals[data.draw(st.sampled_from(names), "contract")]
        if who != "owner":
            self.pair.confirm(deal.wish.name, deal.wish.user)
        if who != "user":
            self.pair.confirm(deal.wish.name, deal.owner)
        self.pair.block()

    @invariant()
    def told(self) -> None:
        note(f"at {(self.pair.now_ms - NOW) / MINUTE:.2f} min: {self.pair.model_deals()}")


def bounds(examples: int, steps: int, **more: object) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


TestChainAndGuideAgree = Books.TestCase
TestChainAndGuideAgree.settings = bounds(220, 40)


def test_money_in_one_zone_wakes_the_bids_of_another() -> None:
    """owner-1 can pay one bond. When b1's in the north comes back, b2's in the south can be paid."""
    pair = Pair({"owner-1": 1_000_000})
    for pile in ("p1", "p3"):
        pair.offer(pile, NOW, NOW + 24 * HOUR, 20_000, -1)
    start_ms, later_ms = pair.now_ms + SECOND, pair.now_ms + 10 * HOUR
    pair.bid("user-1", "north", "", 5000, start_ms, start_ms + HOUR, 900_000, start_ms + HOUR)
    pair.bid("user-2", "south", "", 5000, later_ms, later_ms + HOUR, 900_000, later_ms + HOUR)
    pair.block()
    assert set(pair.model.deals) == {"b1"}
    pair.proof("p1", model.BEGIN, "b1")
    pair.block(pair.now_ms + 45 * MINUTE)
    pair.proof("p1", model.END, "b1", more_wh=5000, reason=1)
    pair.confirm("b1", "user-1")
    pair.confirm("b1", "owner-1")
    pair.block()
    assert set(pair.model.deals) == {"b2"}


def price_rounded_down(patch: pytest.MonkeyPatch) -> None:
    def floored(curve: Curve, open_wh: int) -> int:
        supply_wh = curve.capacity_wh + open_wh
        return curve.reserve_nano(supply_wh) * curve.denominator // (supply_wh * curve.numerator)

    patch.setattr(Curve, "price_micro_per_kwh", floored)


class Arrival:
    """Stands for the hash that orders ties: the number of the bid."""

    def __init__(self, number: int) -> None:
        self.number = number

    def digest(self) -> bytes:
        return self.number.to_bytes(8, "big")


def ties_by_arrival(patch: pytest.MonkeyPatch) -> None:
    arrived: list[bytes] = []
    place = transition._place_bid

    def placing(state: object, env: object, tx: transition.Transaction, body: PlaceBid) -> None:
        arrived.append(tx.id)
        place(state, env, tx, body)

    patch.setattr(transition, "_place_bid", placing)
    patch.setattr(clearing, "sha256", lambda data: Arrival(arrived.index(data[-32:])))


def bond_to_the_user(patch: pytest.MonkeyPatch) -> None:
    settle = settlement.settle

    def settling(*terms: object, **shares: int) -> list[settlement.Posting]:
        rows = settle(*terms, **shares)
        back = (settlement.BOND, settlement.OWNER)
        return [replace(r, credit=settlement.USER) if (r.debit, r.credit) == back else r for r in rows]

    patch.setattr(settlement, "settle", settling)


@pytest.mark.parametrize(
    ("bug", "where"),
    [(price_rounded_down, "contracts"), (ties_by_arrival, "contracts"), (bond_to_the_user, "accounts")],
)
def test_a_planted_bug_is_noticed(
    bug: Callable[[pytest.MonkeyPatch], None], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    enough = bounds(600, 40, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(DisagreementError, match=f"^{where}: the chain says"):
        run_state_machine_as_test(Books, settings=enough)
