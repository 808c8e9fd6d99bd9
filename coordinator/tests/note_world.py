"""A market whose users have notes: sealed, aged bins, and short ways to pay with what is in them."""

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

from world import END, HOUR, NOW, START, Market, key

from pile_coordinator.chain import notes
from pile_coordinator.chain.records import Funding, NoteBin
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    Body,
    BuyNotes,
    Confirm,
    RedeemNotes,
    Spend,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.ring.keys import base_public, base_secret, note_secret
from pile_coordinator.ring.signature import key_image, sign
from pile_shared.platform import sha256

AGE_MS = 60_000
NOTES = {"unit_micro": 100_000, "denominations": 8, "bin_age_ms": AGE_MS}  # 0.10 to 12.80


@dataclass(frozen=True)
class Note:
    """A note whose secret a test knows."""

    owner: str
    secret: bytes
    bin: bytes
    place: int
    value_micro: int

    def image(self, chain_id: str) -> bytes:
        return key_image(self.secret, notes.context(chain_id, self.bin))


class NoteHolders(Market):
    """A market some of whose parties have notes."""

    def __init__(self, piles: int, users: int, **params: object) -> None:
        self.bases: dict[bytes, tuple[str, bytes]] = {}  # base key -> whose, and its secret
        self.secrets: dict[bytes, bytes] = {}  # of the one-time keys that were looked up already
        self.images: dict[bytes, bytes] = {}  # by one-time key: its image, in the one bin that it is in
        self.orders: dict[str, Note] = {}  # by pseudonym: the note that leads
        self.made = 0
        super().__init__(piles, users, **{"notes": NOTES, **params})  # type: ignore[arg-type]

    def base(self, owner: str) -> bytes:
        """A fresh base key of somebody's."""
        self.made += 1
        secret = base_secret(sha256(owner.encode()), self.chain_id, self.made)
        public = base_public(secret)
        self.bases[public] = owner, secret
        return public

    def buy(self, user: str, counts: list[int]) -> bytes:
        return self.send(user, BuyNotes(self.base(user), counts))

    def notes_of(self, owner: str = "") -> list[Note]:
        """The unspent notes in sealed bins that somebody, or anybody, can spend."""
        found = []
        for one in self.state.each(NoteBin):
            if not one.sealed_ms:
                continue
            for place, (public, base, source) in enumerate(one.notes):
                who = self.bases[base][0]
                if owner in {"", who}:
                    mine = self.secret(public, base, source)
                    note = Note(who, mine, one.id, place, NOTES["unit_micro"] << one.id[0])
                    if not one.images or self.image(one.id, public, base, source) not in one.images:
                        found.append(note)
        return found

    def secret(self, public: bytes, base: bytes, source: bytes) -> bytes:
        """Of a one-time key, found as a wallet finds it: by trying the places."""
        if public not in self.secrets:
            secrets = (note_secret(self.bases[base][1], source, place) for place in range(100))
            self.secrets[public] = next(secret for secret in secrets if base_public(secret) == public)
        return self.secrets[public]

    def image(self, bin_name: bytes, public: bytes, base: bytes, source: bytes) -> bytes:
        """Of a one-time key in its bin."""
        if public not in self.images:
            place = notes.context(self.chain_id, bin_name)
            self.images[public] = key_image(self.secret(public, base, source), place)
        return self.images[public]

    def purse(self, owner: str) -> list[int]:
        """What each of somebody's unspent notes is worth, those that wait for a full bin among them; as the chain has it."""
        worth = []
        for one in self.state.each(NoteBin):
            mine = [(p, b, s) for p, b, s in one.notes if self.bases[b][0] == owner]
            left = [row for row in mine if not one.images or self.image(one.id, *row) not in one.images]
            worth += [NOTES["unit_micro"] << one.id[0]] * len(left)
        return sorted(worth)

    def rings(self, message: bytes, spent: list[Note]) -> list[bytes]:
        made = []
        for note in spent:
            ring = notes.ring_of(self.state.get(NoteBin, note.bin))
            random = sha256(note.secret + message)  # the same run each time: transactions are named by their bytes
            context = notes.context(self.chain_id, note.bin)
            made.append(sign(note.secret, ring, note.place, context, message, random))
        return made

    def nobody(self, body: Body, spent: list[Note], sender: str, sequence: int = 1, until: int | None = None) -> bytes:
        """A transaction signed by notes."""
        last = self.height + 100 if until is None else until
        return ring_sign_transaction(lambda m: self.rings(m, spent), self.chain_id, sender, sequence, last, body)

    def pay(
        self,
        spent: list[Note],
        name: str = "nobody-1",
        **over: object,
    ) -> tuple[str, bytes]:
        """An anonymous bid under the order key of a name: (pseudonym, transaction)."""
        who = pseudonym(key(name).public)
        signing = {name: over.pop(name) for name in ("sequence", "until") if name in over}
        self.orders[who] = spent[0]
        return who, self.nobody(self.wish(spent, name, **over), spent, who, **signing)  # type: ignore[arg-type]

    def wish(
        self,
        spent: list[Note],
        name: str = "nobody-1",
        *,
        energy: int = 5000,
        limit: int = 900_000,
        market: bool = False,
        start: int = START,
        end: int = END,
        pile: str = "",
        zone: str = "north",
        expires: int | None = None,
        public: bytes | None = None,
        refund: bytes | None = None,
        refund_to: str | None = None,
        rows: list[list[bytes]] | None = None,
    ) -> AnonymousBid:
        """What an anonymous bid asks for."""
        return AnonymousBid(
            self.spent_rows(spent) if rows is None else rows,
            key(name).public if public is None else public,
            self.base(refund_to or spent[0].owner) if refund is None else refund,
            zone,
            pile,
            energy,
            start,
            end,
            limit,
            market,
            0 if market else end if expires is None else expires,
        )

    def spent_rows(self, spent: list[Note]) -> list[list[bytes]]:
        return [[note.bin, note.image(self.chain_id)] for note in spent]

    def act(self, who: str, body: Body, **over: object) -> bytes:
        """What the user of an anonymous order sends after its bid."""
        sequence = int(over.pop("sequence", self.sequences.get(who, 0) + 1))  # type: ignore[call-overload]
        return self.nobody(body, [self.orders[who]], who, sequence, **over)  # type: ignore[arg-type]

    def redeem(self, spent: list[Note], party: str, name: str = "nobody-r") -> bytes:
        public = key(name).public
        return self.nobody(RedeemNotes(self.spent_rows(spent), public, party), spent, pseudonym(public))

    def nobody_redeems(self, ring: NoteBin, note: Note, name: str = "nobody-g") -> bytes:
        """A note of a bin that the chain has no more."""
        body = RedeemNotes(self.spent_rows([note]), key(name).public, "user-1")
        place = notes.context(self.chain_id, ring.id)
        return ring_sign_transaction(
            lambda m: [sign(note.secret, notes.ring_of(ring), note.place, place, m)],
            self.chain_id,
            pseudonym(body.public),
            1,
            self.height + 9,
            body,
        )

    def confirmation(self, who: str) -> bytes:
        contract = self.contract()
        return self.act(who, Confirm(contract.id, decode_statement(contract.statement).digest()))

    def enough(self, owner: str, at_least_micro: int) -> list[Note]:
        """Notes of one owner that are worth so much, of different bins."""
        chosen: list[Note] = []
        for note in sorted(self.notes_of(owner), key=lambda n: -n.value_micro):
            if sum(n.value_micro for n in chosen) < at_least_micro:
                chosen.append(note)
        return chosen


class NoteMarket(NoteHolders):
    """Sixteen users, each with `each` notes of every denomination, all sealed and old enough."""

    def __init__(self, piles: int = 1, users: int = 16, *, each: int = 1, **params: object) -> None:
        super().__init__(piles, users, **params)
        for i in range(1, users + 1):
            self.buy(f"user-{i}", [each] * 8)
        self.ok()
        self.ok(time_ms=self.time_ms + AGE_MS)


@lru_cache(8)
def _made(piles: int, users: int, each: int, params: tuple[tuple[str, object], ...]) -> NoteMarket:
    return NoteMarket(piles, users, each=each, **dict(params))


def note_market(piles: int = 1, users: int = 16, *, each: int = 1, **params: object) -> NoteMarket:
    """A market of one's own, of a kind that is made once."""
    return deepcopy(_made(piles, users, each, tuple(sorted(params.items()))))


__all__ = ["AGE_MS", "HOUR", "NOTES", "NOW", "Funding", "Note", "NoteHolders", "NoteMarket", "Spend", "note_market"]
