"""What a driver does and sees, without a page: quotes, orders, sessions, settlements, receipts, all through one wallet.

Nothing is kept here that the chain does not keep, but for two conveniences which may be lost: which command to a pile is still
to be repeated, and certificates that were verified already. So a restart or a reload loses nothing, and what was clicked twice
counts once:

- An order is signed when it is first placed, with the party's next number, and the same bytes are sent again by a second click.
  Of two orders with one number, as two processes may sign them, the chain takes one (wallet.Wallet.prepare).
- Whatever acts on a contract looks first whether the contract still waits for it; the chain refuses what it has already.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import ACTIVE, MEASURED, PROPOSED, SIGNED
from pile_coordinator.chain.transactions import CancelBid, CancelContract, PlaceBid, Sign
from pile_coordinator.driver.receipt import Proven, prove
from pile_coordinator.wallet import START, STOP, Wallet, WalletError
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import LinkError
from pile_shared.units import MAX_PRICE_MICRO_PER_KWH

MARKET_MARGIN_PERMILLE = 50  # above the quoted price: what other orders of the same block may add
READ_TIMEOUT_S = 4.0  # of what is asked again in a second anyway
FRESH_S = 1.5  # so old an answer serves another page too
MAX_READS = 64  # answers kept for other pages: pages that are looked at
MAX_PROVEN = 8  # certificates kept: at most 2 MB each
REPEAT_S, REPEAT_FOR_S = 5.0, 90.0  # of a command to a pile: piles answer by what they prove, not by word
TARIFF_S = 60.0  # it changes once an epoch
MINUTE_MS = 60_000
_FILLS, _REFUSED = "fills", "refused"

Row = dict[str, Any]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a driver wants.

    Attributes:
        zone, pile: where; any pile of the zone if `pile` is "". energy_wh: in lots of 100.
        start_ms, end_ms: unix ms; start_ms 0 is now. limit_micro_per_kwh: the most per kWh; 0 is the market price, now or not.
    """

    zone: str
    pile: str
    energy_wh: int
    start_ms: int
    end_ms: int
    limit_micro_per_kwh: int

    def bid(self, limit_micro_per_kwh: int) -> PlaceBid:
        """The order, as `pilechain wallet bid` makes it of the same words."""
        return PlaceBid(
            self.zone,
            self.pile,
            self.energy_wh,
            self.start_ms,
            self.end_ms,
            limit_micro_per_kwh,
            market=self.limit_micro_per_kwh == 0,
            expires_ms=self.end_ms,
            divisible=False,
            explicit=False,
        )


@dataclass(slots=True)
class Offer:
    """A wish with its quote, which can be ordered once however often it is placed.

    Attributes:
        wish: with its start. bid: what is signed if it is placed. quote: of that bid (docs/wire-format.cddl, quote).
        can_be_placed: if not, `quote` says why. tx: the signed order, once it was placed.
    """

    wish: Wish
    bid: PlaceBid
    quote: Row
    can_be_placed: bool
    tx: bytes = b""


@dataclass(frozen=True, slots=True)
class Home:
    """The account, what is open, what has ended, and the tariff, as their questions answer; `balance_micro` of the account.

    Two are the same if they look the same: the chain's time and height are passed over.
    """

    balance_micro: int
    orders: list[Row]
    past: list[Row]
    account: Row = field(compare=False)
    tariff: Row = field(compare=False)


@dataclass(frozen=True, slots=True)
class Story:
    """What became of an order: contracts if there are any, else the resting bid, else what its bid ended as.

    `commanded` is START or STOP while a command to the pile is repeated, 0 if none is. `time_ms` is the chain's, to the
    minute, while a contract waits to begin, else 0. All empty: the chain knows of no such order.
    """

    contracts: list[Row] = field(default_factory=list)
    bid: Row | None = None
    ended: Row | None = None
    commanded: int = 0
    time_ms: int = 0


@dataclass(slots=True)
class _Command:
    """A command that is repeated until the pile's proofs show that it was heard."""

    action: int
    next_s: float
    until_s: float


class Driver:
    """One driver's business. Every method may wait for the coordinator; used by one thread at a time.

    All raise LinkError if the broker or coordinator is away, Rejection or WalletError if one refuses.
    """

    def __init__(
        self,
        wallet: Wallet,
        genesis: Genesis,
        *,
        old: SoftwareSigner | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Act through `wallet` on the chain of `genesis`; `old` signs sessions of contracts from before a change of keys."""
        self.wallet, self.genesis = wallet, genesis
        self._old, self._clock_s = old, clock_s
        self._commands: dict[bytes, _Command] = {}
        self._proven: OrderedDict[bytes, Proven] = OrderedDict()
        self._past: tuple[object, list[Row]] = (None, [])
        self._tariff: tuple[float, Row | None] = (0.0, None)

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there; may be asked from any thread."""
        return self.wallet.is_connected

    def _read(self, question: str, *arguments: object) -> Any:
        """An answer that a page shows: at once or not at all."""
        if not self.wallet.is_connected:
            raise LinkError("the broker is away")
        return self.wallet.ask(question, *arguments, timeout_s=READ_TIMEOUT_S)

    # --- looking -----------------------------------------------------------------------------------------------------

    def home(self) -> Home:
        """Everything of the first page."""
        orders = cast("list[Row]", self._read("orders"))
        account = cast("Row", self._read("account"))
        known = [row["id"] for row in orders], account["open_orders"], account["sequence"], account["balance_micro"]
        if self._past[0] != known:  # what ends changes one of them
            self._past = known, cast("list[Row]", self._read("history"))
        return Home(account["balance_micro"], orders, self._past[1], account, self.tariff())

    def zones(self) -> list[Row]:
        """Where piles are."""
        return cast("list[Row]", self._read("zones"))

    def offers(self, zone: str) -> list[Row]:
        """What is offered in a zone."""
        return cast("list[Row]", self._read("offers", zone))

    def now_ms(self) -> int:
        """The chain's time."""
        return cast("int", self._read("account")["time_ms"])

    def tariff(self) -> Row:
        """The catalog prices, and the local time of the market, not older than TARIFF_S."""
        asked_s, found = self._tariff
        if found is None or self._clock_s() >= asked_s + TARIFF_S:
            found = cast("Row", self._read("tariff"))
            self._tariff = self._clock_s(), found
        return found

    def story(self, order: bytes) -> Story:
        """What became of an order, by the id of its bid or of a contract; repeats a command that its pile has not heard."""
        try:
            contracts = cast("list[Row]", self._read("contracts", order))
        except WalletError as error:
            if error.code != "no_evidence":
                raise
            return self._uncontracted(order)
        commanded = self._repeat(contracts[0]) if len(contracts) == 1 else 0
        waits = bool({row["phase"] for row in contracts} & {PROPOSED, SIGNED})
        time_ms = self.now_ms() // MINUTE_MS * MINUTE_MS if waits else 0
        return Story(contracts=contracts, commanded=commanded, time_ms=time_ms)

    def _uncontracted(self, order: bytes) -> Story:
        for row in cast("list[Row]", self._read("orders")):
            if row["id"] == order:
                return Story(bid=row)
        try:
            return Story(ended=cast("Row", self._read("order", order)))
        except WalletError as error:
            if error.code != "no_evidence":
                raise
            return Story()

    # --- ordering ----------------------------------------------------------------------------------------------------

    def quote(self, wish: Wish) -> Offer:
        """What a wish would come to: at market, filling now at its price and the margin at most; else as limited."""
        if not wish.start_ms:
            wish = replace(wish, start_ms=cast("Row", self.wallet.ask("account"))["time_ms"])
        limit = wish.limit_micro_per_kwh
        if limit:
            quote = self.wallet.quote(wish.bid(limit))
            return Offer(wish, wish.bid(limit), quote, quote["outcome"] != _REFUSED)
        quote = self.wallet.quote(wish.bid(0))
        limit = market_limit(cast("Row", quote))
        if limit:
            quote = self.wallet.quote(wish.bid(limit))
        return Offer(wish, wish.bid(limit), quote, quote["outcome"] == _FILLS)

    def place(self, offer: Offer) -> bytes:
        """Order what was offered, once; the order's id."""
        if not offer.can_be_placed:
            raise WalletError(cast("str", offer.quote["why"]), cast("str", offer.quote["reason"]))
        if not offer.tx:
            offer.tx = self.wallet.prepare(offer.bid)
        order, _ = self.wallet.submit(offer.tx)
        return order

    def cancel(self, order: bytes) -> None:
        """Take back a resting bid, if it still rests."""
        if any(row["id"] == order and row["kind"] == "bid" for row in cast("list[Row]", self.wallet.ask("orders"))):
            self.wallet.send(CancelBid(order))

    # --- contracts ---------------------------------------------------------------------------------------------------

    def sign(self, contract: bytes) -> None:
        """Sign a proposed contract, if it waits for that."""
        if self._awaits_me(self.wallet.contract(contract), PROPOSED):
            self.wallet.send(Sign(contract))

    def call_off(self, contract: bytes) -> None:
        """Call off a contract that has not begun."""
        if self.wallet.contract(contract)["phase"] in {PROPOSED, SIGNED}:
            self.wallet.send(CancelContract(contract))

    def confirm(self, contract: bytes, digest: bytes) -> None:
        """Sign the settlement that was looked at, if it waits for that."""
        if self._awaits_me(self.wallet.contract(contract), MEASURED):
            self.wallet.confirm(contract, digest)

    def object_to(self, contract: bytes, ground: str, text: str, claimed_wh: int | None = None) -> None:
        """Object to a settlement, if that can still be: puts up the bond (genesis, objection_bond_micro)."""
        if self._awaits_me(self.wallet.contract(contract), MEASURED):
            self.wallet.object_to(contract, ground, text, claimed_wh)

    def _awaits_me(self, found: Row, phase: str) -> bool:
        return found["phase"] == phase and self.wallet.party in found["awaits"]

    # --- sessions ----------------------------------------------------------------------------------------------------

    def start(self, contract: bytes) -> None:
        """Tell the pile to start; said again for REPEAT_FOR_S while `story` is asked, until its proofs show that it did."""
        self._command(contract, START)

    def stop(self, contract: bytes) -> None:
        """Tell the pile to stop, likewise."""
        self._command(contract, STOP)

    def _command(self, contract: bytes, action: int) -> None:
        self._tell(contract, action)
        now_s = self._clock_s()
        self._commands[contract] = _Command(action, now_s + REPEAT_S, now_s + REPEAT_FOR_S)

    def _tell(self, contract: bytes, action: int) -> None:
        try:
            self.wallet.session(contract, action)
        except WalletError as error:
            if error.code != "other_key" or self._old is None:
                raise
            self.wallet.session(contract, action, old=self._old)

    def _repeat(self, found: Row) -> int:
        command, now_s = self._commands.get(found["id"]), self._clock_s()
        if command is None:
            return 0
        if found["phase"] != (SIGNED if command.action == START else ACTIVE) or now_s >= command.until_s:
            del self._commands[found["id"]]
            return 0
        if now_s >= command.next_s:
            command.next_s = now_s + REPEAT_S
            self._tell(found["id"], command.action)
        return command.action

    # --- receipts ----------------------------------------------------------------------------------------------------

    def proven(self, contract: bytes) -> Proven:
        """The certificate of a closed contract, verified here; VerifyError if it does not hold."""
        if contract not in self._proven:
            data = cast("bytes", self.wallet.ask("certificate", contract))
            self._proven[contract] = prove(data, self.genesis)
            if len(self._proven) > MAX_PROVEN:
                self._proven.popitem(last=False)
        self._proven.move_to_end(contract)
        return self._proven[contract]


def market_limit(quote: Row) -> int:
    """The limit of an order at market by its quote: the price and the margin, within the band; 0 if it fills at no price."""
    price: int = quote["limit_micro_per_kwh"]
    band_top: int = quote["band_micro_per_kwh"][1]
    most = max(price, min(band_top, MAX_PRICE_MICRO_PER_KWH))
    return min(-(-price * (1000 + MARKET_MARGIN_PERMILLE) // 1000), most)


class Clerk:
    """Does a driver's business in a thread of its own, one thing after the other, so that no page waits for MQTT.

    Pages that look at the same share one answer. Used from one event loop.
    """

    def __init__(self, driver: Driver) -> None:
        """Take over `driver`, which nobody else may use from now on."""
        self.driver = driver
        self._thread = ThreadPoolExecutor(1, "wallet")
        self._reads: OrderedDict[object, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def do(self, act: Callable[..., Answer], *arguments: object) -> Answer:
        """Do something; what was read before is asked anew from now on."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, act, *arguments)
        finally:
            self._reads.clear()

    async def look(self, act: Callable[..., Answer], *arguments: object) -> Answer:
        """Read something, or what another page has read within FRESH_S or is reading."""
        loop, key = asyncio.get_running_loop(), (act.__name__, arguments)
        since, future = self._reads.get(key, (0.0, None))
        if future is None or (future.done() and loop.time() > since + FRESH_S):
            future = loop.run_in_executor(self._thread, act, *arguments)
            self._reads[key] = loop.time(), future
            self._reads.move_to_end(key)
            if len(self._reads) > MAX_READS:
                self._reads.popitem(last=False)
        return cast("Answer", await asyncio.shield(future))

    def close(self) -> None:
        """End the thread; what it is doing is done to its end."""
        self._thread.shutdown(wait=True, cancel_futures=True)
