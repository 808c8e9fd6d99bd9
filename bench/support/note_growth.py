"""How ledger and state grow with anonymous orders: `python -m bench.support.note_growth`, in bytes, measured and not timed.

A bin of each of four denominations is bought; then sixteen orders are paid with one note of each, delivered and confirmed by
both sides, and end in smaller notes. Beside them the same orders of a named user. Proofs and headers are left out: they are the
same for both.
"""

from collections.abc import Callable

from bench.support.market import HOUR_MS, Market, env
from pile_coordinator.chain import notes
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.records import Account, Contract, Denomination, Funding, NoteBin, Party, PartyKey, Record
from pile_coordinator.chain.settlement import decode_statement
from pile_coordinator.chain.state import store_key
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    Body,
    BuyNotes,
    Confirm,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.chain.transition import apply_block
from pile_coordinator.ring import keys, signature
from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.platform import sha256

LEAST, KINDS = 3, 4  # denominations 0.80 to 6.40: 12.00 for an order of 3.5 kWh
ORDERS = signature.RING_SIZE
A_YEAR = 1_000_000
MINUTES = 5


class NoteMarket(Market):
    """A market with notes that counts the bytes of its blocks: transactions but proofs, and leaves."""

    def __post_init__(self) -> None:
        """Start from genesis, with nothing counted."""
        self.ledger_bytes = 0
        self._base = keys.base_secret(bytes(32), "bench", 0)
        super().__post_init__()

    def _genesis(self) -> Genesis:
        rules = {"unit_micro": 100_000, "denominations": 10, "bin_age_ms": 60_000}
        return genesis_from_json(super()._genesis().to_json() | {"notes": rules})

    def made(self) -> int:
        """Apply what is queued; how many bytes the block has."""
        txs, self._queue = self._queue, []
        self.time_ms += 60_000
        outcome = apply_block(self.state, env(self.chain_id, len(self.blocks) + 1, self.time_ms), txs)
        refused = [result for result in outcome.results if result.code != "ok"]
        assert not refused, refused[0]
        self.state.seal()
        return sum(map(len, txs)) + sum(map(len, outcome.leaves))

    def buy(self, counts: list[int]) -> int:
        """A user buys notes; the bytes of the block, with those of bins that it seals."""
        self.source = self.send("user-0", BuyNotes(keys.base_public(self._base), counts))
        return self.made()

    def pay(self, number: int, start_ms: int) -> None:
        """Queue an order that notes number `number` of each bin pay for."""
        names = [notes.bin_id(k, 0) for k in range(LEAST, LEAST + KINDS)]
        self._secrets = [keys.note_secret(self._base, self.source, ORDERS * row + number) for row in range(KINDS)]
        images = [signature.key_image(s, self._context(b)) for s, b in zip(self._secrets, names, strict=True)]
        self._spent = list(zip(names, self._secrets, strict=True))
        self._place, public = number, cose.SoftwareSigner(sha256(b"order %d" % number)).public
        self._rings = {name: notes.ring_of(self.state.get(NoteBin, name)) for name in names}
        rows = [[name, image] for name, image in zip(names, images, strict=True)]
        refund = keys.base_public(keys.base_secret(bytes(32), "bench", 1 + number))
        end_ms = start_ms + HOUR_MS
        body = AnonymousBid(
            rows, public, refund, "zone-0", "pile-0", 3500, start_ms, end_ms, 1_000_000, market=False, expires_ms=end_ms
        )
        self.by_notes(body, pseudonym(public), 1, KINDS)

    def by_notes(self, body: Body, sender: str, sequence: int, count: int) -> None:
        """Queue a transaction that the first so many notes of the order sign."""

        def sign(message: bytes) -> list[bytes]:
            return [
                signature.sign(secret, self._rings[name], self._place, self._context(name), message)
                for name, secret in self._spent[:count]
            ]

        self._queue.append(ring_sign_transaction(sign, self.chain_id, sender, sequence, 100_000, body))

    def _context(self, name: bytes) -> bytes:
        return notes.context(self.chain_id, name)

    def order(self, start_ms: int, place: Callable[[], object], confirm: Callable[[Contract], object]) -> int:
        """An order from bid to the end; bytes of its blocks, without those of its proofs."""
        place()
        grown = self.made()
        contract = self.state.each(Contract)[0].id
        self._sessions(start_ms, MINUTES)
        measured = self.state.get(Contract, contract)
        confirm(measured)
        digest = decode_statement(measured.statement).digest()
        self.send("owner-0", Confirm(contract, digest))
        return grown + self.made()


def growth() -> dict[str, float]:
    """Bytes by what they are for."""
    market = NoteMarket()
    market.admit(1, 1)
    market.offer(0)
    market.made()
    found: dict[str, float] = {"ledger: four notes bought, no bin sealed": market.buy([0] * 7 + [4])}
    bought = market.buy([0] * LEAST + [ORDERS] * KINDS)
    sealed = encode([notes.LEAF_BIN, notes.bin_id(LEAST, 0), bytes(signature.RING_BYTES)])
    found["ledger: a sealed bin"] = len(sealed)
    found["ledger: 64 notes bought that fill four bins"] = bought
    full = _bytes(market, NoteBin) - _of(market, NoteBin, notes.bin_id(7, 0))
    found["state: an unspent note in a sealed bin"] = full / KINDS / ORDERS
    market.made()
    before, issued = _bytes(market, NoteBin), _issued(market)
    anonymous = [_anonymous(market, number) for number in range(ORDERS)]
    found["notes that an order ends in"] = (_issued(market) - issued) / ORDERS
    found["state: all bins before sixteen orders"] = before
    found["state: all bins after them"] = _bytes(market, NoteBin)
    named = [_named(market) for _ in range(ORDERS)]
    found["ledger: an anonymous order of four notes"] = sum(anonymous) / ORDERS
    found["ledger: the same order of a named user"] = sum(named) / ORDERS
    return found


def _anonymous(market: NoteMarket, number: int) -> int:
    start_ms = market.time_ms + HOUR_MS

    def confirm(contract: Contract) -> None:
        digest = decode_statement(contract.statement).digest()
        market.by_notes(Confirm(contract.id, digest), market.state.terms_of(contract).user, 2, 1)

    grown = market.order(start_ms, lambda: market.pay(number, start_ms), confirm)
    assert not market.state.each(Funding)
    return grown


def _named(market: NoteMarket) -> int:
    start_ms = market.time_ms + HOUR_MS

    def confirm(contract: Contract) -> None:
        market.send("user-0", Confirm(contract.id, decode_statement(contract.statement).digest()))

    return market.order(start_ms, lambda: market.bid(0, start_ms, start_ms + HOUR_MS, pile="pile-0"), confirm)


def _issued(market: NoteMarket) -> int:
    return sum(kind.issued for kind in market.state.each(Denomination))


def _of(market: NoteMarket, kind: type[Record], key: bytes | str) -> int:
    record = market.state.get(kind, key)
    return len(store_key(kind, key)) + len(record.encoded())


def _bytes(market: NoteMarket, kind: type[Record]) -> int:
    return sum(_of(market, kind, record.key) for record in market.state.each(kind))


def open_order() -> int:
    """Bytes of state for what an open anonymous order has beside its bid or contract."""
    market = NoteMarket()
    market.admit(1, 1)
    market.buy([0] * LEAST + [ORDERS] * KINDS)
    market.made()
    market.pay(0, market.time_ms + HOUR_MS)
    market.made()
    (funding,) = market.state.each(Funding)
    (taken,) = [one.key for one in market.state.each(PartyKey) if one.party == funding.party]
    parts: list[tuple[type[Record], bytes | str]] = [
        (Funding, funding.party),
        (Party, funding.party),
        (PartyKey, taken),
    ]
    parts.append((Account, f"P:{funding.party}"))
    return sum(_of(market, kind, key) for kind, key in parts)


def main() -> None:
    """Print it, and what it comes to in a year."""
    found = growth()
    found["state: beside bid or contract, while an anonymous order is open"] = open_order()
    for what, size in found.items():
        print(f"{size:12,.1f}  {what}")
    for kind in ("an anonymous order of four notes", "the same order of a named user"):
        print(f"{found['ledger: ' + kind] * A_YEAR / 1e9:12,.2f}  GB of ledger for {A_YEAR:,} a year of: {kind}")
    a_note = found["state: an unspent note in a sealed bin"]
    print(f"{100_000 * a_note / 1e6:12,.1f}  MB of state for 100,000 outstanding notes")
    print(
        f"{4 * A_YEAR * 32 / 1e6:12,.1f}  MB a year would images take that were kept for ever, and their index as much again"
    )


if __name__ == "__main__":
    main()
