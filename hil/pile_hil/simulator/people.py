"""Owners and drivers with their wallets: they order, plug in, start, stop, confirm or stay silent, over a lossy network.

A wallet sends again until it hears a result, as the real one does. What a person asks the coordinator is modelled by a look at
its state, which takes a coordinator that is up and a network that carries the question.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pile_coordinator.chain.records import MEASURED, Bid, Contract
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import AT_MARKET, Body, Confirm, List, PlaceBid, sign_transaction
from pile_hil.simulator.ledger import Ledger
from pile_hil.simulator.network import Network
from pile_hil.simulator.pile import Pile
from pile_hil.simulator.world import DAY_MS, MINUTE_MS, World, secret_of
from pile_shared import cose, topics
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.terms import Terms
from pile_shared.units import LOT_WH

ZONE = "north"
START, STOP = 1, 2
RESEND_MS = 20_000
VALID_BLOCKS = 600
MAX_REPLY_BYTES = 65_536
MOST_TRIES = 30  # of one transaction, and of one session command


@dataclass(slots=True)
class Surroundings:
    """What people deal with."""

    world: World
    network: Network
    ledger: Ledger
    piles: dict[str, Pile]


class Person:
    """A party and its wallet; one transaction at a time."""

    def __init__(self, around: Surroundings, party: str) -> None:
        """Act as `party`, whose key is that of its name."""
        self.party = party
        self.around = around
        self.world = around.world
        self.chance = around.world.stream(party)
        self._signer = cose.SoftwareSigner(secret_of(party))
        self._chain_id = around.ledger.genesis.chain_id
        self._waiting: tuple[bytes, Callable[[str], None]] | None = None
        self._tries = 0

    @property
    def is_busy(self) -> bool:
        """Whether a transaction has no answer yet."""
        return self._waiting is not None

    def look(self) -> bool:
        """Whether a question to the coordinator is answered now."""
        return self.around.ledger.coordinator is not None and self.around.network.is_up(self.party)

    def submit(self, body: Body, then: Callable[[str], None]) -> None:
        """Sign and send a transaction; `then` hears its result's code, or `lost` after MOST_TRIES."""
        if self._waiting is not None or not self.look():
            return
        coordinator = self.around.ledger.coordinator
        assert coordinator is not None
        engine = coordinator.engine
        sequence, until = engine.next_sequence(self.party), engine.height + VALID_BLOCKS
        data = sign_transaction(self._signer, self._chain_id, self.party, sequence, until, body)
        self._waiting, self._tries = (data, then), 0
        self._send()

    def _send(self) -> None:
        if self._waiting is None:
            return
        data, then = self._waiting
        if self._tries == MOST_TRIES:
            self._waiting = None
            then("lost")
            return
        self._tries += 1
        topic = topics.party_topic(self._chain_id, self.party, "tx")
        self.around.network.carry(self.party, "coordinator", lambda: self.around.ledger.hear(topic, data))
        tx = data
        self.world.after(RESEND_MS, lambda: self._send() if self._waiting and self._waiting[0] == tx else None)

    def hear(self, message: bytes) -> None:
        """A result comes."""
        try:
            signed, rest = array(decode(message, MAX_REPLY_BYTES), 2)
            payload = rest if rest is not None else cose.parse1(signed, MAX_REPLY_BYTES).payload
            tx_id, _, code, _ = array(decode(payload, MAX_REPLY_BYTES), 4)
        except PilechainError:
            return
        if self._waiting is not None and tx_id == sha256(self._waiting[0]):
            then, self._waiting = self._waiting[1], None
            self.world.say(self.party, f"result: {code}")
            then(code)

    def confirm(self, contract: Contract) -> None:
        """Sign a settlement."""
        digest = decode_statement(contract.statement).digest()
        self.submit(Confirm(contract.id, digest), lambda _: None)


class Owner(Person):
    """Keeps its pile on offer, and confirms what was measured, mostly."""

    def __init__(self, around: Surroundings, party: str, pile: str, until_ms: int) -> None:
        """Offer `pile` until then."""
        super().__init__(around, party)
        self._pile, self._until_ms = pile, until_ms
        self._asked: set[bytes] = set()
        self.world.after(self.chance.randint(1, 2 * MINUTE_MS), self._turn)

    def _turn(self) -> None:
        if self.look():
            self._act()
        if self.world.now_ms < self._until_ms:
            self.world.after(self.chance.randint(10, 30) * MINUTE_MS, self._turn)

    def _act(self) -> None:
        state = self.around.ledger.state
        if not state.listings_of(self.party) and self.world.now_ms < self._until_ms:
            ask = AT_MARKET if self.chance.random() < 0.7 else self.chance.randint(500, 700) * 1000
            end_ms = self.world.now_ms + self.chance.randint(2, 20) * DAY_MS
            self.submit(List(self._pile, self.world.now_ms, end_ms, 200_000, ask, explicit=False), lambda _: None)
            return
        for contract in state.contracts_on(self._pile):
            if contract.phase == MEASURED and not contract.owner_signed and contract.id not in self._asked:
                self._asked.add(contract.id)
                if self.chance.random() < 0.8:
                    self.confirm(contract)
                    return


class Driver(Person):
    """Orders, comes, charges, leaves and confirms; sometimes does not come, leaves early, or says nothing."""

    def __init__(self, around: Surroundings, party: str, until_ms: int, rest_ms: int) -> None:
        """Order anew until then, each time after a rest of up to `rest_ms`."""
        super().__init__(around, party)
        self._until_ms, self._rest_ms = until_ms, rest_ms
        self._order: bytes | None = None
        self._contract: Contract | None = None
        self._terms: Terms | None = None
        self._commands = 0
        self.world.after(self.chance.randint(5, 40) * MINUTE_MS, self._order_energy)

    # --- the order -------------------------------------------------------------------------------------------------

    def _order_energy(self) -> None:
        """Bid for energy some time from now."""
        if self.world.now_ms >= self._until_ms:
            return
        chance, now_ms = self.chance, self.world.now_ms
        start_ms = now_ms + chance.randint(2, 20) * MINUTE_MS
        end_ms = start_ms + chance.randint(40, 150) * MINUTE_MS
        market = chance.random() < 0.6
        limit = 2_000_000 if market else chance.randint(550, 900) * 1000
        energy_wh = LOT_WH * chance.randint(5, 90)
        pile = chance.choice(["", *self.around.piles]) if chance.random() < 0.3 else ""
        expires_ms = 0 if market else end_ms
        body = PlaceBid(
            ZONE, pile, energy_wh, start_ms, end_ms, limit, market, expires_ms, divisible=False, explicit=False
        )
        self._order = self._contract = self._terms = None
        self.submit(body, self._ordered)
        if not self.is_busy:
            self._rest()
            return
        assert self._waiting is not None
        self._order = sha256(self._waiting[0])
        self.world.say(self.party, f"orders {energy_wh} Wh")

    def _ordered(self, code: str) -> None:
        if code in {"ok", "lost"}:  # a lost one may be on the chain all the same
            self.world.after(5000, self._find_contract)
        else:
            self._rest()

    def _find_contract(self) -> None:
        """Wait for the order to become a contract, or to end."""
        if not self.look():
            self.world.after(MINUTE_MS, self._find_contract)
            return
        ledger = self.around.ledger
        for terms in ledger.evidence.terms.values():
            if terms.order == self._order:
                self._plan(terms)
                return
        if self._order is not None and ledger.state.find(Bid, self._order) is not None:
            self.world.after(2 * MINUTE_MS, self._find_contract)
        else:
            self._rest()

    def _plan(self, terms: Terms) -> None:
        self._terms = terms
        if self.chance.random() < 0.06:
            self.world.say(self.party, "does not come")
            self.world.at(terms.window_end_ms, self._settle)
            return
        come_ms = terms.window_start_ms + self.chance.randint(0, 25) * MINUTE_MS
        self._commands = 0
        self.world.at(come_ms, self._come)

    # --- the session -----------------------------------------------------------------------------------------------

    def _pile(self) -> Pile:
        assert self._terms is not None
        return self.around.piles[self._terms.pile]

    def _come(self) -> None:
        terms, pile = self._terms, self._pile()
        assert terms is not None
        wanted_wh = terms.energy_wh * self.chance.choice((40, 95, 100, 130, 200)) // 100
        percent = self.chance.choice((100, self.chance.randint(50, 100)))  # most take all they can get
        pile.hardware.plug(terms.rated_power_w * percent // 100, wanted_wh)
        self.world.say(self.party, f"comes to {pile.id} for {wanted_wh} Wh")
        self._ask_to_start()

    def _ask_to_start(self) -> None:
        terms, pile = self._terms, self._pile()
        assert terms is not None
        if pile.hardware.is_on:
            if self.chance.random() < 0.25:
                self._commands = 0
                self.world.after(self.chance.randint(2, 40) * MINUTE_MS, lambda: self._ask_to_stop(terms))
            self._wait_for_settlement()
        elif self._commands < MOST_TRIES and self.world.now_ms < terms.window_end_ms:
            self._command(START)
            self.world.after(MINUTE_MS, self._ask_to_start)
        else:
            self._wait_for_settlement()

    def _ask_to_stop(self, terms: Terms) -> None:
        if self._terms is terms and self._pile().hardware.is_on and self._commands < MOST_TRIES:
            self._command(STOP)
            self.world.after(MINUTE_MS, lambda: self._ask_to_stop(terms))

    def _command(self, action: int) -> None:
        terms, pile = self._terms, self._pile()
        assert terms is not None
        self._commands += 1
        payload = encode([terms.contract_id(), action, self.world.now_ms, 0])
        message = cose.sign1(payload, self._signer, cose.purpose(cose.SESSION, self._chain_id))
        topic = topics.pile_topic(self._chain_id, pile.id, "session")
        self.around.network.carry(self.party, pile.id, lambda: pile.hear(topic, message))
        self.around.network.carry(self.party, "coordinator", lambda: self.around.ledger.hear(topic, message))

    # --- the settlement --------------------------------------------------------------------------------------------

    def _wait_for_settlement(self) -> None:
        self.world.after(self.chance.randint(3, 10) * MINUTE_MS, self._settle)

    def _settle(self) -> None:
        """Confirm once it is measured, mostly; go home once it is closed."""
        if not self.look():
            self._wait_for_settlement()
            return
        assert self._terms is not None
        contract = self.around.ledger.state.find(Contract, self._terms.contract_id())
        if contract is None:
            self._rest()
        elif contract.phase == MEASURED and not contract.user_signed and self.chance.random() < 0.8:
            self.confirm(contract)
            self._wait_for_settlement()
        elif contract.phase == MEASURED and self.chance.random() < 0.1:
            self._rest()  # and says nothing
        else:
            self._wait_for_settlement()

    def _rest(self) -> None:
        self.world.after(self.chance.randint(1, max(2, self._rest_ms // MINUTE_MS)) * MINUTE_MS, self._order_energy)
