"""An order that notes paid for: who signed for its user was one of the 16 owners of each bin, and the same one all along.

Notes show no name, so nothing leads to the user but the pseudonym, which is made of a key of this order only. What holds is:
each note that paid is signed for over a ring that stood sealed in a certified block, and whoever funded the order by the note
that leads is who confirmed, objected or called off (chain/notes.py). That no note is spent twice is for the whole ledger to
show (`pilechain replay`), as that no other contract was paid with the same account is: accounting nodes vouch for it here.
"""

from dataclasses import dataclass

from pile_coordinator.chain import notes
from pile_coordinator.chain.records import NoteRules
from pile_coordinator.chain.settlement import contract_escrow_micro
from pile_coordinator.chain.transactions import BIN_ID_BYTES, PSEUDONYM, AnonymousBid, pseudonym
from pile_coordinator.ring.signature import RING_BYTES
from pile_coordinator.verify_signed import Notary, SpentNote, VerifyError, breaking
from pile_shared.certificate import Header, Inclusion
from pile_shared.terms import Terms
from pile_shared.units import check_bytes


@dataclass(frozen=True, slots=True)
class _Ring:
    """A bin as its leaf says it, and the block that sealed it."""

    name: bytes
    keys: bytes
    sealed: Header


def funding(
    notary: Notary, terms: Terms, order: bytes, shown: tuple[Inclusion, ...], matched: Header
) -> tuple[SpentNote, ...]:
    """The notes that paid for an order, the one that leads first; none for an order that a named party paid for.

    Args:
        notary: knows the accounting nodes.
        terms: of the contract.
        order: the bid. Only what is about notes is checked of it.
        shown: the certificate's rings.
        matched: of the block that matched the bid.

    Raises:
        VerifyError: a note is not signed for, its ring is not shown or was sealed too late, more is shown than signs, they
            are not worth what the contract took, or the order is not the pseudonym's.
    """
    bid = notary.body(order)
    rules = notary.genesis.notes
    if not isinstance(bid, AnonymousBid):
        if shown:
            raise VerifyError("chain", "an order of a named party has no rings")
        if rules is not None and terms.user.startswith(PSEUDONYM):
            raise VerifyError("signature", f"{terms.user} is nobody, and signs with notes alone")
        return ()
    if rules is None:
        raise VerifyError("chain", "the chain of this genesis issues no notes")
    if bid.public != terms.user_public or terms.user != pseudonym(bid.public):
        raise VerifyError("chain", f"notes paid for the order of another key than {terms.user} has")
    rings = {ring.name: ring for ring in (_opened(notary, one) for one in shown)}
    wanted = list(dict.fromkeys(name for name, _ in bid.notes))
    if list(rings) != wanted or len(shown) != len(wanted):
        raise VerifyError("chain", "the rings shown are not those of the notes that paid")
    for ring in rings.values():
        _check_age(ring, rules, matched)
    spent = tuple(SpentNote(name, image, rings[name].keys, _value_micro(name, rules)) for name, image in bid.notes)
    if sum(note.value_micro for note in spent) < contract_escrow_micro(terms):
        raise VerifyError("posting", "the notes are not worth what the contract took")
    notary.by_notes(order, AnonymousBid, terms.user, spent, not_before=1)
    return spent


def _opened(notary: Notary, inclusion: Inclusion) -> _Ring:
    sealed, (_, name, keys) = notary.open(inclusion, (notes.LEAF_BIN,), 3)
    with breaking("chain"):
        name = check_bytes("bin", name, BIN_ID_BYTES, BIN_ID_BYTES)
        return _Ring(name, check_bytes("keys", keys, RING_BYTES, RING_BYTES), sealed)


def _check_age(ring: _Ring, rules: NoteRules, matched: Header) -> None:
    """Whoever spent a note of a young bin would say when they bought it."""
    if ring.sealed.height > matched.height or ring.sealed.time_ms + rules.bin_age_ms > matched.time_ms:
        raise VerifyError("chain", f"a bin sealed in block {ring.sealed.height} could not be spent yet at the match")


def _value_micro(name: bytes, rules: NoteRules) -> int:
    if name[0] >= rules.denominations:
        raise VerifyError("chain", f"genesis has no notes of denomination {name[0]}")
    return notes.value_micro(rules, name[0])
