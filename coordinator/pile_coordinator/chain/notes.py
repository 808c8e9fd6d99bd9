"""Notes: money of fixed denominations that one of sixteen owners spends, and nobody can tell which (docs/anonymity.md).

A note is a one-time key in a bin. Bins of one denomination are filled in order, sixteen notes each; a full bin is sealed, and
after `bin_age_ms` its notes can be spent, each by a ring signature over the whole bin that shows the note's key image. The
chain keeps the images beside the keys they hide among, and both only as long as the bin has a note left: a seventeenth image
cannot be made (ring/signature.py), so state grows with the notes that are outstanding and not with those that ever were.

Who spends notes is a party for one order (role `anonymous`), named by a P-256 key made for it. Once the order has ended, what
is left of its money becomes notes again, of keys the chain makes from the base key committed at funding, and it is forgotten.
(Paper section 3, "Expense Settlement": users confirm by ring signature.)
"""

from dataclasses import replace

from pile_coordinator.chain import accounts, orders, stake
from pile_coordinator.chain.env import Env, Journal
from pile_coordinator.chain.records import (
    ANONYMOUS,
    Denomination,
    Funding,
    NoteBin,
    NoteRules,
    Party,
    PartyKey,
    PileKey,
)
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import (
    AnonymousBid,
    BuyNotes,
    RedeemNotes,
    Spend,
    Transaction,
    pseudonym,
)
from pile_coordinator.ring.keys import note_public
from pile_coordinator.ring.signature import RING_SIZE
from pile_shared import cose
from pile_shared.codec import encode

LEAF_BIN = 14
CONTEXT = "pilechain/1/note"


def bin_id(denomination: int, number: int) -> bytes:
    """The name of bin `number`, from 0, of denomination k: 9 bytes."""
    return bytes((denomination,)) + number.to_bytes(8, "big")


def context(chain_id: str, bin_name: bytes) -> bytes:
    """In which a note has one key image: its chain and bin."""
    return encode([CONTEXT, chain_id, bin_name])


def ring_of(found: NoteBin) -> bytes:
    """The 16 keys of a sealed bin, one after the other."""
    return b"".join(note[0] for note in found.notes)


def value_micro(rules: NoteRules, denomination: int) -> int:
    """What a note of denomination k is worth."""
    return rules.unit_micro << denomination


# --- buying ----------------------------------------------------------------------------------------------------------


def buy(state: State, env: Env, journal: Journal, tx: Transaction, body: BuyNotes) -> None:
    """A party's money becomes notes. They wait in bins until these are full."""
    rules = _rules(state)
    if len(body.counts) > rules.denominations:
        raise Rejection("bounds", f"there are {rules.denominations} denominations")
    cost = sum(count * value_micro(rules, k) for k, count in enumerate(body.counts))
    account = accounts.party_account(tx.sender)
    accounts.post(state, account, accounts.NOTE_ACCOUNT, cost)
    stake.note_posting(journal, account, accounts.NOTE_ACCOUNT, cost)
    place = 0
    for k, count in enumerate(body.counts):
        for _ in range(count):
            _issue(state, env, journal, k, body.base, tx.id, place)
            place += 1


def _rules(state: State) -> NoteRules:
    rules = state.note_rules
    if rules is None:
        raise Rejection("unknown_note", "this chain issues no notes")
    return rules


def _issue(state: State, env: Env, journal: Journal, k: int, base: bytes, source: bytes, place: int) -> None:
    """Put a note into the open bin of its denomination; the sixteenth seals it."""
    kind = state.get(Denomination, bytes((k,)))
    name = bin_id(k, kind.open_bin)
    filled = state.find(NoteBin, name) or NoteBin(name, [], [], 0, 0)
    filled = replace(filled, notes=[*filled.notes, [note_public(base, source, place), base, source]])
    is_full = len(filled.notes) == RING_SIZE
    if is_full:
        filled = replace(filled, sealed_ms=env.time_ms)
        journal.leaves.append(encode([LEAF_BIN, name, ring_of(filled)]))
    state.put(filled)
    state.put(replace(kind, open_bin=kind.open_bin + is_full, issued=kind.issued + 1))


# --- spending --------------------------------------------------------------------------------------------------------


def authenticate(state: State, env: Env, tx: Transaction) -> Party:
    """Who sent a transaction with ring signatures: the user of an anonymous order, or one who comes to be by it."""
    if isinstance(tx.body, Spend):
        return _check_spend(state, env, tx, tx.body)
    found = state.find(Funding, tx.sender)
    if found is None:
        raise Rejection("unknown_sender", f"no open order of {tx.sender[:32]!r}")
    ring = state.get(NoteBin, found.bin)
    if not _is_signed(env, ring, found.image, tx, tx.rings):
        raise Rejection("bad_signature", f"not signed by the note that funded the order of {tx.sender}")
    return state.get(Party, tx.sender)


def _check_spend(state: State, env: Env, tx: Transaction, body: Spend) -> Party:
    """Notes that are there, are not spent, and are the signer's."""
    _rules(state)
    if tx.sender != pseudonym(body.public):
        raise Rejection("unknown_sender", f"the key in it is that of {pseudonym(body.public)}")
    known = state.find(Party, tx.sender)
    if known is not None:
        raise Rejection("replayed", f"{tx.sender} has spent notes already")
    if len(tx.rings) != len(body.notes):
        raise Rejection("bad_signature", "one signature for each note")
    for (name, image), ring_signature in zip(body.notes, tx.rings, strict=True):
        ring = _spendable(state, env, name)
        if image in ring.images:
            raise Rejection("spent", f"the note with key image {image.hex()} was spent")
        if not _is_signed(env, ring, image, tx, (ring_signature,)):
            raise Rejection("bad_signature", f"not signed by the note with key image {image.hex()}")
    return Party(tx.sender, ANONYMOUS, body.public, 0, 0)


def _spendable(state: State, env: Env, name: bytes) -> NoteBin:
    found = state.find(NoteBin, name)
    if found is None or not found.sealed_ms:
        raise Rejection("unknown_note", "no such full bin with a note left")
    ready_ms = found.sealed_ms + _rules(state).bin_age_ms
    if env.time_ms < ready_ms:
        raise Rejection("unknown_note", f"the bin's notes can be spent from {ready_ms} on, unix ms")
    return found


def _is_signed(env: Env, ring: NoteBin, image: bytes, tx: Transaction, rings: tuple[bytes, ...]) -> bool:
    name = context(env.chain_id, ring.id)
    return len(rings) == 1 and env.verify_ring(ring_of(ring), name, image, tx.message, rings[0])


def bid(state: State, env: Env, journal: Journal, tx: Transaction, body: AnonymousBid) -> None:
    """Notes pay for one bid, of a party that is nobody else's."""
    _spend(state, journal, tx, body)
    lead, image = body.notes[0]
    ring = state.get(NoteBin, lead)
    state.put(replace(ring, in_use=ring.in_use + 1))
    state.put(Funding(tx.sender, lead, image, body.refund, tx.id))
    orders.place_bid(state, env, tx, body.as_bid())
    for name, _ in body.notes:
        _drop_if_done(state, name)


def redeem(state: State, journal: Journal, tx: Transaction, body: RedeemNotes) -> None:
    """Notes become a party's money again."""
    party = state.find(Party, body.party)
    if party is None or party.role == ANONYMOUS:
        raise Rejection("unknown_party", f"no party {body.party}")
    whole = _spend(state, journal, tx, body)
    giver, taker = accounts.party_account(tx.sender), accounts.party_account(body.party)
    accounts.post(state, giver, taker, whole)
    stake.note_posting(journal, giver, taker, whole)
    orders.wake(state, body.party)
    _forget(state, state.get(Party, tx.sender))
    for name, _ in body.notes:
        _drop_if_done(state, name)


def _spend(state: State, journal: Journal, tx: Transaction, body: Spend) -> int:
    """Take the notes out of their bins, and their worth into the account of the order's party; that worth."""
    kid = cose.key_id(body.public)
    if state.find(PartyKey, kid) is not None or state.find(PileKey, kid) is not None:
        raise Rejection("exists", "this key is or was somebody's")
    state.put(PartyKey(kid, tx.sender))
    whole = 0
    for name, image in body.notes:
        ring, kind = state.get(NoteBin, name), state.get(Denomination, name[:1])
        state.put(replace(ring, images=[*ring.images, image]))
        state.put(replace(kind, spent=kind.spent + 1))
        whole += kind.value_micro
    account = accounts.party_account(tx.sender)
    accounts.post(state, accounts.NOTE_ACCOUNT, account, whole)
    stake.note_posting(journal, accounts.NOTE_ACCOUNT, account, whole)
    return whole


# --- an order has ended ----------------------------------------------------------------------------------------------


def sweep(state: State, env: Env, journal: Journal) -> None:
    """What is left of each anonymous order that ended in this block becomes notes; its party is one no more."""
    for name in journal.gone:
        party, funding = state.get(Party, name), state.get(Funding, name)
        _refund(state, env, journal, funding)
        _forget(state, party)
        state.drop(Funding, name)
        ring = state.get(NoteBin, funding.bin)
        state.put(replace(ring, in_use=ring.in_use - 1))
        _drop_if_done(state, funding.bin)


def _refund(state: State, env: Env, journal: Journal, funding: Funding) -> None:
    """As few notes as there can be, the largest first; what is less than the least of them goes to the fees."""
    rules, account = _rules(state), accounts.party_account(funding.party)
    whole = state.balance_micro(account)
    left, place = whole, 0
    for k in reversed(range(rules.denominations)):
        value = value_micro(rules, k)
        while left >= value:
            _issue(state, env, journal, k, funding.refund, funding.source, place)
            left, place = left - value, place + 1
    for credit, amount in ((accounts.NOTE_ACCOUNT, whole - left), (accounts.FEES, left)):
        if amount:
            accounts.post(state, account, credit, amount)
            stake.note_posting(journal, account, credit, amount)


def _forget(state: State, party: Party) -> None:
    accounts.close_party(state, party.id)
    state.drop(Party, party.id)
    state.drop(PartyKey, cose.key_id(party.public))


def _drop_if_done(state: State, name: bytes) -> None:
    """A bin without a note left is not needed once no order is confirmed over it."""
    ring = state.find(NoteBin, name)
    if ring is not None and len(ring.images) == RING_SIZE and not ring.in_use:
        state.drop(NoteBin, name)
