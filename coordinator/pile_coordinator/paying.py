"""Paying with notes, step by step: look, choose, write what will be sent, send, write what became of it."""

import time
from collections.abc import Callable
from typing import cast

from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    BuyNotes,
    PlaceBid,
    RedeemNotes,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.guest import Guest
from pile_coordinator.note_choice import Choice, choose
from pile_coordinator.purse import OVER, SENT, TAKEN, VOID, Market, Note, Purse, PurseError, Spending, note_row
from pile_coordinator.wallet import VALID_BLOCKS, Wallet, WalletError
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import LinkError
from pile_shared.platform import sha256

POLL_S = (0.5, 15.0)  # between looks while one waits: longer and longer
UNSURE = frozenset(("busy", "exists", "replayed", "spent", "sequence_gap"))  # may be said of what another copy has done

Open = Callable[[SoftwareSigner | None, Callable[[bytes], list[bytes]] | None], Guest]
Accept = Callable[[Choice], bool]
Step = Callable[[str], object]


class Payer:
    """One purse, and how to open connections that name nobody: one for looking, one for each order."""

    def __init__(self, purse: Purse, connect: Open) -> None:
        """Pay out of `purse`; `connect` opens a guest's connection under a key, or under one that is thrown away."""
        self.purse = purse
        self._connect = connect

    def look(self, progress: Callable[[int], object] = lambda _: None) -> tuple[Market, list[Note]]:
        """All notes, and one's own among them. Orders that the purse has forgotten are taken up again."""
        with self._connect(None, None) as guest:
            market = guest.look(progress)
        with self.purse.locked():
            own = self.purse.recognise(market)
            self.purse.restore(market, own)
            self.purse.settle(market)
        return market, own

    # --- buying --------------------------------------------------------------------------------------------------

    def buy(self, named: Wallet, counts: list[int], time_ms: int) -> tuple[bytes, int]:
        """Turn the party's money into notes of a base key that was never given: (transaction id, height)."""
        with self.purse.locked():  # written first: a key whose purchase got lost is found, as it is one of the next
            base = self.purse.take_base()
            self.purse.bought(base, time_ms)
        return named.send(BuyNotes(self.purse.base(base), counts))

    # --- spending ------------------------------------------------------------------------------------------------

    def wait(
        self, need_micro: int, within_s: float, tell: Step, *, weak_is_good: bool = False
    ) -> tuple[Market, list[Note], Choice | None]:
        """Look until the notes for an amount give nothing away, or so many seconds have passed; the last look's choice.

        With `weak_is_good`, until there are notes for it.
        """
        deadline, pause_s = time.monotonic() + within_s, POLL_S[0]
        while True:
            market, own = self.look()
            choice = choose(market, own, self.purse.reserved(), need_micro, self.purse.bought_ms)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (choice is not None and (weak_is_good or not choice.weaknesses)):
                return market, own, choice
            tell(_waits_for(market, own, choice))
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, POLL_S[1])

    def bid(self, market: Market, choice: Choice, bid: PlaceBid) -> Spending:
        """Write an order and send it; what is remembered of it then.

        Raises:
            Rejection: It was refused, and its notes are free again.
            LinkError: No answer; the notes stay set aside, and the same words send the same bytes again.
        """
        spending, signer = self._write(market, choice, lambda row, public: _bid_body(row, public, self, bid), bid)
        return self.send(spending, signer)

    def redeem(self, market: Market, choice: Choice, party: str) -> Spending:
        """The same for notes that become the money of a party."""
        spending, signer = self._write(market, choice, lambda row, public: (RedeemNotes(row, public, party), -1), None)
        return self.send(spending, signer)

    def _write(
        self,
        market: Market,
        choice: Choice,
        body_of: Callable[[list[list[bytes]], bytes], tuple[AnonymousBid | RedeemNotes, int]],
        bid: PlaceBid | None,
    ) -> tuple[Spending, SoftwareSigner]:
        """Make a transaction and write it down, unless another wallet has taken one of the notes meanwhile."""
        rows = [[note.bin, note.image] for note in choice.notes]
        with self.purse.locked():
            if {note.image for note in choice.notes} & self.purse.reserved():
                raise PurseError("another wallet has just taken one of these notes; do it again", "busy")
            signer = self.purse.order_signer(choice.notes[0].image)
            body, refund = body_of(rows, signer.public)
            until = market.height + VALID_BLOCKS
            with_ring = self.purse.sign_all(list(choice.notes), market)
            raw = signed(with_ring, self.purse.chain_id, signer, body, until)
            spending = Spending(
                kind="redeem" if bid is None else "bid",
                transaction=sha256(raw).hex(),
                raw=raw.hex(),
                until=until,
                status=SENT,
                what=words_of(bid),
                notes=[note_row(note) for note in choice.notes],
                ring=market.bins[choice.notes[0].bin].ring.hex(),
                refund=refund,
                owners=choice.owners,
                placed_ms=market.time_ms,
            )
            self.purse.remember(spending)
        return spending, signer

    def send(self, spending: Spending, signer: SoftwareSigner | None = None) -> Spending:
        """Send what was written, over a connection of its own; what is remembered of it then."""
        with self._connect(signer or self.purse.signer_of(spending), self.purse.sign_for(spending)) as guest:
            try:
                guest.submit(bytes.fromhex(spending.raw))
            except Rejection as rejection:
                if rejection.code not in UNSURE:
                    self.purse.change(spending.transaction, status=VOID, raw="")
                raise
            contract = _contract_of(guest, spending)
        status = TAKEN if spending.kind == "bid" else OVER
        self.purse.change(spending.transaction, status=status, raw="", contract=contract)
        return next((one for one in self.purse.spendings if one.transaction == spending.transaction), spending)

    def unfinished(self, bid: PlaceBid) -> Spending | None:
        """An order in the same words that was written and of which nobody knows whether it arrived."""
        return next((one for one in self.purse.spendings if one.status == SENT and one.what == words_of(bid)), None)

    def settle(self, guest: Guest, spending: Spending) -> Spending:
        """Find out what became of an order that was sent without an answer; and the contract that came of one."""
        fields: dict[str, object] = {}
        if spending.status == SENT:
            try:
                guest.ask("order", bytes.fromhex(spending.transaction))
                fields = {"status": TAKEN, "raw": ""}
            except WalletError as error:
                account = cast("dict[str, int]", guest.ask("account"))
                if error.code == "no_evidence" and account["height"] > spending.until:
                    fields = {"status": VOID, "raw": ""}
        if not spending.contract and (contract := _contract_of(guest, spending)):
            fields["contract"] = contract
        if fields:
            self.purse.change(spending.transaction, **fields)
        return next((one for one in self.purse.spendings if one.transaction == spending.transaction), spending)


def signed(
    sign: Callable[[bytes], list[bytes]],
    chain_id: str,
    signer: SoftwareSigner,
    body: AnonymousBid | RedeemNotes,
    until: int,
) -> bytes:
    """The bytes of what notes pay for: always the first transaction of its pseudonym."""
    return ring_sign_transaction(sign, chain_id, pseudonym(signer.public), 1, until, body)


def words_of(bid: PlaceBid | None) -> list[object]:
    """An order's words, by which it is known again."""
    if bid is None:
        return []
    return [
        bid.zone,
        bid.pile,
        bid.energy_wh,
        bid.window_start_ms,
        bid.window_end_ms,
        bid.limit_micro_per_kwh,
        bid.market,
        bid.expires_ms,
    ]


def _bid_body(rows: list[list[bytes]], public: bytes, payer: Payer, bid: PlaceBid) -> tuple[AnonymousBid, int]:
    number = payer.purse.take_base()
    words = words_of(bid)
    return AnonymousBid(rows, public, payer.purse.base(number), *words), number  # type: ignore[arg-type]


def _contract_of(guest: Guest, spending: Spending) -> str:
    """The contract that came of an order, as hex; "" if none has yet, or nobody says."""
    if spending.kind != "bid":
        return ""
    try:
        found = guest.contract(bytes.fromhex(spending.transaction))["id"]
    except (WalletError, LinkError):
        return ""
    return found.hex() if isinstance(found, bytes) else ""


def _waits_for(market: Market, own: list[Note], choice: Choice | None) -> str:
    """What a wallet waits for, in a few words."""
    if choice is not None:
        return choice.weaknesses[0].text
    filling = sum(1 for note in own if not note.sealed_ms)
    aging = [n.sealed_ms + market.rules.bin_age_ms for n in own if n.sealed_ms and not n.spent]
    aging = [ready_ms for ready_ms in aging if ready_ms > market.time_ms]
    wait_s = (min(aging) - market.time_ms) // 1000 if aging else 0
    told = [f"{filling} notes wait for others to fill their bins"] if filling else []
    told += [f"{len(aging)} notes are too young, the next for {wait_s} s more"] if aging else []
    return "; ".join(told) or "no notes: buy some"
