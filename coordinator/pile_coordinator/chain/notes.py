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
MAX_REFUNDED_NOTES = 2048  # in one block: 55 us each for the key, 0.1 s and 128 bins in all; an order takes some 4


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
    rules = state.note_rules
    if rules is None:
        raise Rejection("limit", "this chain issues no notes")
    if len(body.counts) > rules.denominations:
        raise Rejection("limit", f"there are {rules.denominations} denominations")
    cost = sum(count * value_micro(rules, k) for k, count in enumerate(body.counts))
    _move(state, journal, accounts.party_account(tx.sender), accounts.NOTE_ACCOUNT, cost)
    place = 0
    for k, count in enumerate(body.counts):
        for _ in range(count):
            _issue(state, env, journal, k, body.base, tx.id, place)
            place += 1


def _move(state: State, journal: Journal, debit: str, credit: str, amount_micro: int) -> None:
    accounts.post(state, debit, credit, amount_micro)
    stake.note_posting(journal, debit, credit, amount_micro)


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


def authenticate(state: State, env: Env, tx: Transaction, *, waiting: bool = False) -> Party:
    """Who sent a transaction with ring signatures: the user of an anonymous order, or one who comes to be by it."""
    if isinstance(tx.body, Spend):
        party = spender(state, env, tx, tx.body, waiting=waiting)
        _check_signatures(state, env, tx, tx.body)
        return party
    found = state.find(Funding, tx.sender)
    if found is None:
        raise Rejection("unknown_sender", f"no open order of {tx.sender[:32]!r}")
    ring = state.get(NoteBin, found.bin)
    if len(tx.rings) != 1 or not _is_signed(env, ring, found.image, tx, tx.rings[0]):
        raise Rejection("bad_signature", f"not signed by the note that leads the order of {tx.sender}")
    return state.get(Party, tx.sender)


def spender(state: State, env: Env, tx: Transaction, body: Spend, *, waiting: bool = False) -> Party:
    """Who spends notes that are there and not spent; whose they are is not asked.

    Who has an open order under this key already is at a sequence above 0, and the caller refuses a second spending. A waiting
    transaction is judged by the time of the last block, which may be long ago: whether a bin is old enough, its own block says.
    """
    if tx.sender != pseudonym(body.public):
        raise Rejection("unknown_sender", f"the key in it is that of {pseudonym(body.public)}")
    rings = [_spendable(state, env, name, waiting=waiting) for name, _ in body.notes]
    for ring, (_, image) in zip(rings, body.notes, strict=True):
        if image in ring.images:
            raise Rejection("spent", f"the note with key image {image.hex()} was spent")
    return state.find(Party, tx.sender) or Party(tx.sender, ANONYMOUS, body.public, 0, 0)


def _spendable(state: State, env: Env, name: bytes, *, waiting: bool) -> NoteBin:
    rules, found = state.note_rules, state.find(NoteBin, name)
    if rules is None or found is None or not found.sealed_ms:
        raise Rejection("unknown_note", "no such full bin with a note left")
    ready_ms = found.sealed_ms + rules.bin_age_ms
    if env.time_ms < ready_ms and not waiting:
        raise Rejection("unknown_note", f"the bin's notes can be spent from {ready_ms} on, unix ms")
    return found


def _check_signatures(state: State, env: Env, tx: Transaction, body: Spend) -> None:
    if len(tx.rings) != len(body.notes):
        raise Rejection("bad_signature", "one signature for each note")
    for (name, image), signature in zip(body.notes, tx.rings, strict=True):
        if not _is_signed(env, state.get(NoteBin, name), image, tx, signature):
            raise Rejection("bad_signature", f"not signed by the note with key image {image.hex()}")


def _is_signed(env: Env, ring: NoteBin, image: bytes, tx: Transaction, signature: bytes) -> bool:
    return env.verify_ring(ring_of(ring), context(env.chain_id, ring.id), image, tx.message, signature)


def bid(state: State, env: Env, journal: Journal, tx: Transaction, body: AnonymousBid) -> None:
    """Notes pay for one bid, of a party that is nobody else's."""
    wanted = body.as_bid()
    orders.check_place(state, wanted)  # for the precedence of codes: an unknown zone before a key that exists
    _spend(state, journal, tx, body)
    lead, image = body.notes[0]
    ring = state.get(NoteBin, lead)
    state.put(replace(ring, in_use=ring.in_use + 1))
    state.put(Funding(tx.sender, lead, image, body.refund, tx.id, 0, 0))
    orders.place_bid(state, env, tx, wanted)
    _drop_if_done(state, body)


def redeem(state: State, journal: Journal, tx: Transaction, body: RedeemNotes) -> None:
    """Notes become a party's money again."""
    party = state.find(Party, body.party)
    if party is None or party.role == ANONYMOUS:
        raise Rejection("unknown_party", f"no party {body.party}")
    whole = _spend(state, journal, tx, body)
    _move(state, journal, accounts.party_account(tx.sender), accounts.party_account(body.party), whole)
    orders.wake(state, body.party)
    _forget(state, state.get(Party, tx.sender))
    _drop_if_done(state, body)


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
    _move(state, journal, accounts.NOTE_ACCOUNT, accounts.party_account(tx.sender), whole)
    return whole


def _drop_if_done(state: State, body: Spend) -> None:
    for name in {name: None for name, _ in body.notes}:
        _drop_bin_if_done(state, state.get(NoteBin, name))


def _drop_bin_if_done(state: State, ring: NoteBin) -> None:
    """A bin without a note left is not needed once no order is confirmed over it."""
    if len(ring.images) == RING_SIZE and not ring.in_use:
        state.drop(NoteBin, ring.id)


# --- an order has ended ----------------------------------------------------------------------------------------------


def sweep(state: State, env: Env, journal: Journal) -> None:
    """What is left of each anonymous order that has ended becomes notes; then its party is one no more.

    Orders can end by thousands in one block, all with one deadline, and one of them may win more than its notes were worth. So
    a block makes MAX_REFUNDED_NOTES of them at most, and what is owed then comes in the next ones, the earliest ended first.
    """
    for name in journal.gone:
        state.put(replace(state.get(Funding, name), ended_height=env.height))
    room = MAX_REFUNDED_NOTES
    for funding in state.ended_fundings(MAX_REFUNDED_NOTES):
        issued = _refund(state, env, journal, funding, room)
        room -= max(1, issued)  # an order from which nothing is left is work, too
        if room <= 0:
            return


def _refund(state: State, env: Env, journal: Journal, funding: Funding, room: int) -> int:
    """Give one order's money back, and forget it, as far as `room` notes go; how many there are."""
    rules, account = state.get(NoteRules, "note-rules"), accounts.party_account(funding.party)
    left, made = state.balance_micro(account), _as_notes(rules, state.balance_micro(account), room)
    for place, k in enumerate(made, funding.issued):
        _issue(state, env, journal, k, funding.refund, funding.source, place)
    whole = sum(value_micro(rules, k) for k in made)
    if whole:
        _move(state, journal, account, accounts.NOTE_ACCOUNT, whole)
    if left - whole >= rules.unit_micro:
        state.put(replace(funding, issued=funding.issued + len(made)))
    else:
        _end(state, journal, funding, left - whole)
    return len(made)


def _as_notes(rules: NoteRules, left_micro: int, most: int) -> list[int]:
    """The fewest notes that are worth an amount as nearly as can be, the largest first, up to `most`."""
    made: list[int] = []
    for k in reversed(range(rules.denominations)):
        count, left_micro = divmod(left_micro, value_micro(rules, k))
        made += [k] * min(count, most - len(made))
    return made


def _end(state: State, journal: Journal, funding: Funding, dust_micro: int) -> None:
    """An order is paid back but for what is less than the least note, which goes to the fees: nothing stays behind."""
    if dust_micro:
        _move(state, journal, accounts.party_account(funding.party), accounts.FEES, dust_micro)
    _forget(state, state.get(Party, funding.party))
    state.drop(Funding, funding.party)
    ring = state.get(NoteBin, funding.bin)
    left = replace(ring, in_use=ring.in_use - 1)
    state.put(left)
    _drop_bin_if_done(state, left)


def _forget(state: State, party: Party) -> None:
    accounts.close_party(state, party.id)
    state.drop(Party, party.id)
    state.drop(PartyKey, cose.key_id(party.public))
