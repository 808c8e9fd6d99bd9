"""A wallet of nobody: the same questions and orders under a key made for one purpose, over a connection that names no party."""

from collections.abc import Callable
from typing import cast

from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.records import NoteRules
from pile_coordinator.chain.transactions import PSEUDONYM, Body, pseudonym, ring_sign_transaction
from pile_coordinator.mqtt import Broker
from pile_coordinator.purse import Bin, Market, PurseError, parse_bin
from pile_coordinator.wallet import DEFAULT_TIMEOUT_S, VALID_BLOCKS, Wallet
from pile_shared import cose
from pile_shared.errors import PilechainError
from pile_shared.platform import random_bytes

MAX_PAGES = 10_000  # of bins: 5 million notes, more than a wallet should believe there are

RingSigner = Callable[[bytes], list[bytes]]


def throwaway_key() -> cose.SoftwareSigner:
    """A key for looking around: nothing is ever ordered under it."""
    while True:
        try:
            return cose.SoftwareSigner(random_bytes(32))
        except PilechainError:  # outside [1, n - 1]: one draw in 2^32
            continue


class Guest(Wallet):
    """One pseudonym's connection to a coordinator. Use as a context manager; one for each order, or the broker links them."""

    def __init__(
        self,
        genesis: Genesis,
        signer: cose.SoftwareSigner,
        broker: Broker,
        *,
        sign: RingSigner | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Act under the pseudonym of an order key; `sign` makes the ring signatures of what is sent, if anything is."""
        self._public = signer.public
        self._sign = sign
        name = random_bytes(8).hex()  # not the pseudonym's: the broker's log of connections shows it
        super().__init__(genesis, pseudonym(signer.public), signer, broker, timeout_s=timeout_s, client_id=name)

    def _row(self, nonce: bytes, question: str, arguments: list[object]) -> list[object]:
        return [*super()._row(nonce, question, arguments), self._public]

    def prepare(self, body: Body) -> bytes:
        """The transaction with this order's next number, ring-signed, and nothing sent."""
        account = cast("dict[str, int]", self.ask("account"))
        return self.ring_signed(body, account["sequence"] + 1, account["height"] + VALID_BLOCKS)

    def ring_signed(self, body: Body, sequence: int, until: int) -> bytes:
        """The bytes of a transaction with a number, valid until a height."""
        if self._sign is None:
            raise PurseError("this connection is for looking only")
        return ring_sign_transaction(self._sign, self.chain_id, self.party, sequence, until, body)

    def look(self, progress: Callable[[int], object] = lambda _: None) -> Market:
        """All notes of the chain. `progress` hears how many bins came.

        Every bin is asked for, whatever one looks for: who asks for one bin has a note in it.

        Raises:
            WalletError: `unknown_note`, this chain issues none.
            LinkError: nobody answers.
        """
        bins: dict[bytes, Bin] = {}
        senders: dict[bytes, str] = {}
        place: list[int] | None = [0, 0]
        page: dict[str, object] = {}
        account = cast("dict[str, int]", self.ask("account"))  # first: what is shown is no older than this height
        for _ in range(MAX_PAGES):
            page = cast("dict[str, object]", self.ask("notes", *cast("list[int]", place)))
            for row in cast("list[dict[str, object]]", page["bins"]):
                one = parse_bin(row)
                bins[one.id] = one
            senders |= dict(cast("list[tuple[bytes, str]]", page["senders"]))
            progress(len(bins))
            before, place = place, cast("list[int] | None", page["next"])
            if place is None:
                break
            if place <= cast("list[int]", before):
                raise PurseError("the coordinator's pages of notes do not go on", "malformed")
        return Market(
            rules=NoteRules("note-rules", **cast("dict[str, int]", page["rules"])),
            time_ms=account["time_ms"],
            height=account["height"],
            objection_bond_micro=cast("int", page["objection_bond_micro"]),
            kinds=cast("list[dict[str, int]]", page["kinds"]),
            bins=bins,
            senders=senders,
            open_orders=self._open_orders(),
        )

    def _open_orders(self) -> list[list[object]]:
        found: list[list[object]] = []
        after = PSEUDONYM
        for _ in range(MAX_PAGES):
            rows = cast("list[list[object]]", self.ask("open-notes", after))
            if not rows or str(rows[-1][0]) <= after:
                break
            found += rows
            after = str(rows[-1][0])
        return found
