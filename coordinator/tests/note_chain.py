"""A chain with engine and evidence on disk, sixteen owners of notes, and orders that one of them pays for anonymously."""

from note_world import AGE_MS, NOTES, Note
from settled import Chain
from world import HOUR, NOW, key

from pile_coordinator.certificates import OrderCertificate
from pile_coordinator.chain import notes
from pile_coordinator.chain.records import Contract, NoteBin
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    AnonymousBid,
    Answer,
    Body,
    BuyNotes,
    CancelBid,
    CancelContract,
    Deposit,
    List,
    Object,
    PlaceBid,
    RedeemNotes,
    RegisterParty,
    Rule,
    Sign,
    SubmitProofs,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.ring.keys import base_public, base_secret, note_secret
from pile_coordinator.ring.signature import sign
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, HEARTBEAT, REASON_USER
from pile_shared.proof import END as END_EVENT

DRIVER = "driver-of-the-blue-car"  # who pays; a name that stands nowhere by chance
OWNERS = (DRIVER, *(f"neighbour-{i}" for i in range(1, 16)))
COUNTS = [0, 0, 0, 0, 0, 1, 1]  # bought at a time: 3.20 and 6.40, for an order and an objection's bond


class NoteChain(Chain):
    """As Chain, and the sayings of NoteMarket. All bins are sealed and old enough."""

    def __init__(self, folder, *, each: int = 1, **params) -> None:
        """Each owner buys COUNTS so many times, so that every bin has one note of each owner."""
        super().__init__(folder, notes=NOTES, **params)
        self.folder, self.each = folder, each
        self.chain_id = self.genesis.chain_id
        self.bases: dict[bytes, tuple[str, bytes]] = {}
        self.secrets: dict[bytes, bytes] = {}  # of one-time keys, once they were looked for
        self.orders: dict[str, Note] = {}  # by pseudonym: the note that leads
        self.sequences: dict[str, int] = {}  # of pseudonyms
        self.made = 0
        self.now = NOW
        self.register = 100_000
        self.paid = 0

    @property
    def state(self):
        return self.engine.state

    @property
    def height(self) -> int:
        return self.engine.height

    def admit(self) -> None:
        super().admit()
        self.now = NOW + 2000
        self.block(self.now, *[("operator", RegisterParty(o, "ev-owner", key(o).public)) for o in OWNERS])
        self.block(self.now, *[("grid", Deposit(o, 9_600_000 * self.each, f"of {o}")) for o in OWNERS])
        for _ in range(self.each):
            self.block(self.now, *[(o, BuyNotes(self.base(o), COUNTS)) for o in OWNERS])
        self.now += AGE_MS
        self.block(self.now)

    # --- notes ---

    def base(self, owner: str) -> bytes:
        """A fresh base key of somebody's."""
        self.made += 1
        secret = base_secret(sha256(owner.encode()), self.chain_id, self.made)
        self.bases[base_public(secret)] = owner, secret
        return base_public(secret)

    def notes_of(self, owner: str = "") -> list[Note]:
        """The unspent notes in sealed bins of somebody, or of anybody, in order of bin and place."""
        found = []
        for one in self.state.each(NoteBin):
            for place, row in enumerate(one.notes if one.sealed_ms else []):
                who = self.bases[row[1]][0]
                if owner in {"", who}:
                    note = Note(who, self.secret(*row), one.id, place, NOTES["unit_micro"] << one.id[0])
                    if note.image(self.chain_id) not in one.images:
                        found.append(note)
        return found

    def secret(self, public: bytes, base: bytes, source: bytes) -> bytes:
        """Of a one-time key, found as a wallet finds it: by trying the places."""
        if public not in self.secrets:
            tried = (note_secret(self.bases[base][1], source, place) for place in range(64))
            self.secrets[public] = next(secret for secret in tried if base_public(secret) == public)
        return self.secrets[public]

    def enough(self, owner: str, at_least_micro: int) -> list[Note]:
        """Notes of one owner that are worth so much, the largest first."""
        chosen: list[Note] = []
        for note in sorted(self.notes_of(owner), key=lambda n: -n.value_micro):
            if sum(n.value_micro for n in chosen) < at_least_micro:
                chosen.append(note)
        return chosen

    def spent_rows(self, spent: list[Note]) -> list[list[bytes]]:
        return [[note.bin, note.image(self.chain_id)] for note in spent]

    def nobody(self, body: Body, spent: list[Note], sender: str, sequence: int = 1, until: int | None = None) -> bytes:
        """A transaction signed by notes."""

        def signed(message: bytes) -> list[bytes]:
            return [
                sign(n.secret, self.ring_of(n.bin), n.place, notes.context(self.chain_id, n.bin), message)
                for n in spent
            ]

        last = self.height + 100 if until is None else until
        return ring_sign_transaction(signed, self.chain_id, sender, sequence, last, body)

    def act(self, who: str, body: Body) -> bytes:
        """What the user of an anonymous order sends after its bid."""
        return self.nobody(body, [self.orders[who]], who, self.sequences[who] + 1)

    def redeem(self, spent: list[Note], party: str) -> bytes:
        public = key("redeems").public
        return self.nobody(RedeemNotes(self.spent_rows(spent), public, party), spent, pseudonym(public))

    # --- blocks ---

    def nobodies(self, *txs: bytes, at: int | None = None) -> None:
        """A block of transactions that notes signed."""
        for data in txs:
            self.engine.submit(data)
        block = self.engine.make_block(self.now if at is None else at)
        self.world.height = self.engine.height
        assert all(result.code == "ok" for result in block.results), block.results

    def bid(self, spent: list[Note], name: str, *, start: int, market: bool = True, limit: int = 800_000) -> bytes:
        """An anonymous bid under the order key of a name."""
        public = key(name).public
        end, rows = start + 4 * HOUR, self.spent_rows(spent)
        refund = self.base(DRIVER)
        body = AnonymousBid(
            rows, public, refund, "north", "", 5000, start, end, limit, market, 0 if market else start + HOUR
        )
        self.orders[pseudonym(public)] = spent[0]
        self.sequences[pseudonym(public)] = 1
        return self.nobody(body, spent, pseudonym(public))

    def say(self, who: str, body: Body, at: int) -> None:
        """What the user of an anonymous order sends after its bid, in a block of its own."""
        data = self.act(who, body)
        self.sequences[who] += 1
        self.nobodies(data, at=at)

    def order(self, *, later: int = 0, explicit: bool = False) -> tuple[str, bytes]:
        """An anonymous order that is matched, for a window that begins now or so much later: (pseudonym, contract).

        `explicit`: Olga wants to sign it.
        """
        self.paid += 1
        name, start = f"order-{self.paid}", self.now + later
        self.block(self.now, ("olga", List("pile-1", start, start + 10 * HOUR, 5000, AT_MARKET, explicit)))
        self.nobodies(self.bid(self.enough(DRIVER, 9_600_000), name, start=start))
        return pseudonym(key(name).public), self.open_contract()

    def open_contract(self) -> bytes:
        return self.contract().id

    def contract(self) -> Contract:
        (contract,) = self.state.each(Contract)
        return contract

    def charge(self, contract: bytes, *, delivered_wh: int = 5000, reason: int = REASON_USER) -> None:
        """A session of an hour; `now` is when its settlement waits."""
        begin = self.world.prove("pile-1", BEGIN, [(self.now + 1000, self.register)], contract=contract)
        self.now, self.register = self.now + HOUR, self.register + delivered_wh
        last = self.world.prove("pile-1", END_EVENT, [(self.now, self.register)], contract=contract, reason=reason)
        self.now += 1000
        self.block(self.now, ("operator", SubmitProofs([begin, last])))

    def pass_by(self, time_ms: int) -> None:
        self.now += time_ms
        self.block(self.now)

    def ring_of(self, name: bytes) -> bytes:
        return notes.ring_of(self.state.get(NoteBin, name))


def objection(contract: bytes) -> Object:
    return Object(contract, "cause", 4000, "it stopped by itself")


# --- how anonymous orders end; each gives the certificate and the pseudonym -----------------------------------------------


def confirmed(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order()
    chain.charge(contract)
    chain.say(who, chain.confirmation(contract), chain.now)
    chain.block(chain.now, ("olga", chain.confirmation(contract)))
    return chain.certificate(contract), who


def settled(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order()
    chain.charge(contract, delivered_wh=2000)
    chain.pass_by(2 * HOUR)
    return chain.certificate(contract), who


def ruled(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order()
    chain.charge(contract, delivered_wh=2000)
    chain.say(who, objection(contract), chain.now + 1000)
    chain.block(chain.now + 2000, *[(judge, Rule(contract, 3000, "pile")) for judge in ("judge-1", "judge-2")])
    chain.now += 3000
    return chain.certificate(contract), who


def answered(chain: NoteChain) -> tuple[OrderCertificate, str]:
    """The order's key signed the stop command, as everybody's does: a pile knows no notes."""
    who, contract = chain.order()
    chain.charge(contract, delivered_wh=2000)
    chain.say(who, objection(contract), chain.now + 1000)
    stop = chain.stop_command(contract, signer=f"order-{chain.paid}")
    chain.block(chain.now + 2000, ("olga", Answer(contract, stop)))
    chain.now += 3000
    return chain.certificate(contract), who


def cancelled(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order(later=3 * HOUR)
    chain.say(who, CancelContract(contract), chain.now + 1000)
    chain.now += 2000
    return chain.certificate(contract), who


def no_show(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order()
    ready = chain.world.prove("pile-1", HEARTBEAT, [(chain.now + HOUR // 2, chain.register)])
    chain.now += HOUR // 2
    chain.block(chain.now, ("operator", SubmitProofs([ready])))
    chain.pass_by(6 * HOUR)
    return chain.certificate(contract), who


def defaulted(chain: NoteChain) -> tuple[OrderCertificate, str]:
    who, contract = chain.order()
    chain.pass_by(10 * HOUR)
    return chain.certificate(contract), who


def rested(chain: NoteChain) -> tuple[OrderCertificate, str]:
    """A limited bid that waited for an offer, and then for somebody to come."""
    chain.paid += 1
    name, start = f"order-{chain.paid}", chain.now + 3 * HOUR
    chain.nobodies(chain.bid(chain.enough(DRIVER, 9_600_000), name, start=start, market=False))
    chain.pass_by(HOUR)
    chain.block(chain.now, ("olga", List("pile-1", start, start + 10 * HOUR, 5000, AT_MARKET, False)))
    contract = chain.open_contract()
    chain.pass_by(13 * HOUR)
    return chain.certificate(contract), pseudonym(key(name).public)


def signed_explicitly(chain: NoteChain) -> tuple[OrderCertificate, str]:
    """By the owner, who wanted to; who is nobody cannot."""
    who, contract = chain.order(later=3 * HOUR, explicit=True)
    chain.block(chain.now + 1000, ("olga", Sign(contract)))
    chain.pass_by(13 * HOUR)
    return chain.certificate(contract), who


def proposal_called_off(chain: NoteChain) -> tuple[OrderCertificate, str]:
    """While the owner had not signed."""
    who, contract = chain.order(later=3 * HOUR, explicit=True)
    chain.say(who, CancelContract(contract), chain.now + 1000)
    chain.now += 2000
    return chain.certificate(contract), who


_MAKERS = (
    confirmed, settled, ruled, answered, cancelled, no_show, defaulted, rested, signed_explicitly, proposal_called_off,
)  # fmt: skip
ENDINGS = {make.__name__: make for make in _MAKERS}


# --- and orders of which nothing came, and named ones ----------------------------------------------------------------------


def named(chain: NoteChain) -> OrderCertificate:
    """Dan's, paid from his account."""
    start = chain.now
    chain.block(start, ("olga", List("pile-1", start, start + 10 * HOUR, 5000, AT_MARKET, False)))
    bid = PlaceBid("north", "", 5000, start, start + 4 * HOUR, 800_000, True, 0, False, False)
    chain.block(start, ("dan", bid))
    contract = chain.contract().id
    chain.charge(contract)
    body = chain.confirmation(contract)
    chain.block(chain.now, ("dan", body), ("olga", body))
    return chain.certificate(contract)


def bids_in_vain(chain: NoteChain) -> list[str]:
    """One that nobody offers anything for, one that expires, and one that is called off: their pseudonyms."""
    names = ["vain-1", "vain-2", "vain-3"]
    whos = [pseudonym(key(name).public) for name in names]
    for name, market in zip(names, (True, False, False), strict=True):
        chain.nobodies(chain.bid(chain.enough(DRIVER, 6_400_000), name, start=chain.now, market=market, limit=400_000))
    (bid,) = chain.state.bids_of(whos[2])
    chain.say(whos[2], CancelBid(bid.id), chain.now + 1000)
    chain.pass_by(2 * HOUR)
    return whos


def live(chain: NoteChain) -> dict[str, tuple[OrderCertificate, str]]:
    """Everything that notes are for; one order stays open, and one bid waits."""
    made = {name: make(chain) for name, make in ENDINGS.items()}
    chain.order(later=3 * HOUR, explicit=True)
    chain.pass_by(3 * HOUR)  # nobody signs
    named(chain)
    bids_in_vain(chain)
    notes_back = chain.notes_of("neighbour-3")[:2]
    chain.nobodies(chain.redeem(notes_back, "neighbour-3"))
    chain.order()
    chain.nobodies(chain.bid(chain.enough("neighbour-5", 6_400_000), "waits", start=chain.now, market=False, limit=1))
    return made
