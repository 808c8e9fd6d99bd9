"""Certificates of orders that notes paid for: each ending's holds and names nobody, and each link broken once is named."""

import random
from dataclasses import replace

import pytest
from note_chain import DRIVER, ENDINGS, NoteChain, confirmed, named, objection
from note_world import AGE_MS
from settled import Chain, deliver
from test_verify import broken_link, collude, moved, verified
from world import key

from pile_coordinator.certificates import VERSION, WITHOUT_RINGS, OrderCertificate
from pile_coordinator.chain import notes
from pile_coordinator.chain.notes import context
from pile_coordinator.chain.records import NoteBin
from pile_coordinator.chain.transactions import (
    CancelContract,
    Confirm,
    Object,
    RotateKey,
    Transaction,
    decode_transaction,
    pseudonym,
    ring_sign_transaction,
)
from pile_coordinator.ring.signature import RING_SIZE, key_image, sign
from pile_coordinator.verify import LINKS, Verified, VerifyError, verify_order
from pile_coordinator.verify_rings import funding
from pile_coordinator.verify_signed import Notary
from pile_shared import cose
from pile_shared.codec import decode, encode
from pile_shared.platform import sha256
from pile_shared.proof import REASON_USER
from pile_shared.terms import FIELDS, decode_terms, terms_from

MUTATIONS = 150  # verifications, 20 ms each


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    chain = NoteChain(tmp_path_factory.mktemp("notes"), each=16, rulings_needed=2)
    chain.admit()
    yield chain
    chain.close()


@pytest.fixture(scope="module")
def made(chain) -> dict[str, tuple[OrderCertificate, str]]:
    return {name: make(chain) for name, make in ENDINGS.items()}


@pytest.fixture(scope="module")
def honest(made) -> OrderCertificate:
    return made["confirmed"][0]


def contract_of(certificate: OrderCertificate) -> bytes:
    return decode(certificate.closing.leaf, 1024)[1]


def facts(result: Verified) -> tuple[object, ...]:
    """All of it; terms are compared by their id."""
    names = (name for name in Verified.__slots__ if name != "terms")
    return result.terms.contract_id(), *(getattr(result, name) for name in names)


def terms_of(certificate: OrderCertificate):
    return decode_terms(decode(certificate.signing.leaf, 8192)[1])


def signed_by_key(chain: NoteChain, who: str, body: object, sequence: int = 2) -> bytes:
    """As the order's P-256 key would sign it."""
    name = next(f"order-{n}" for n in range(1, 99) if pseudonym(key(f"order-{n}").public) == who)
    return chain.tx(who, body, signer=name, sequence=sequence)


def signed_by(chain: NoteChain, who: str, body: object, owner: str, nth: int = 0, **over: object) -> bytes:
    """By another note of the ring that leads."""
    lead = chain.orders[who]
    note = [n for n in chain.notes_of(owner) if n.bin == lead.bin][nth]
    return chain.nobody(body, [note], who, 2, **over)


# --- they hold, and say no more than they must ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "outcome", "by"),
    [
        ("confirmed", "confirmed", 2),
        ("settled", "settled", 0),
        ("ruled", "resolved", 0),
        ("answered", "resolved", 0),
        ("cancelled", "cancelled", 0),
        ("no_show", "no-show", 0),
        ("defaulted", "defaulted", 0),
        ("rested", "defaulted", 0),
        ("signed_explicitly", "defaulted", 0),
        ("proposal_called_off", "cancelled", 0),
    ],
)
def test_every_ending_holds(chain, made, ending, outcome, by):
    certificate, who = made[ending]
    result = verified(chain, certificate)
    assert (result.outcome, result.terms.user, len(result.confirmed_by)) == (outcome, who, by)
    assert (result.anonymous, result.set_size) == (True, RING_SIZE)
    bid = decode_transaction(certificate.order)
    assert result.order == bid.id == result.terms.order
    assert [[note.bin, note.image] for note in result.notes] == bid.body.notes
    assert sum(note.value_micro for note in result.notes) >= 9_600_000


def test_nothing_in_it_names_the_driver(chain, made):
    """Nor the base keys that notes were bought with, which the chain holds beside the buyer's name."""
    refunds = {decode_transaction(certificate.order).body.refund for certificate, _ in made.values()}
    bought = [base for base, (owner, _) in chain.bases.items() if owner == DRIVER and base not in refunds]
    public = key(DRIVER).public
    secrets = [DRIVER.encode(), f"P:{DRIVER}".encode(), public, public[1:33], cose.key_id(public), *bought]
    assert len(bought) == chain.each
    for certificate, who in made.values():
        data = certificate.encoded()
        assert who.encode() in data
        assert not [word for word in secrets if word in data]


def test_every_ring_has_the_driver_among_sixteen(chain, made):
    """The test above would pass if notes were somebody else's."""
    for certificate, _ in made.values():
        for ring in certificate.rings:
            keys = decode(ring.leaf, 4096)[2]
            assert len({keys[i : i + 32] for i in range(0, 512, 32)}) == RING_SIZE
    lead = chain.orders[made["confirmed"][1]]
    assert lead.owner == DRIVER


def test_the_version_before_is_read_still(tmp_path, chain, honest):
    plain = Chain(tmp_path, rulings_needed=2)
    plain.admit()
    shown = deliver(plain, delivered_wh=5000, reason=REASON_USER)
    result = verified(plain, shown)
    assert (result.anonymous, result.set_size, result.notes) == (False, 1, ())
    old = encode([WITHOUT_RINGS, *decode(shown.encoded(), 1 << 20)[1:-1]])
    assert facts(verify_order(old, plain.genesis)) == facts(result)
    for row in (
        [WITHOUT_RINGS, *decode(shown.encoded(), 1 << 20)[1:]],
        [VERSION, *decode(shown.encoded(), 1 << 20)[1:-1]],
        [2, *decode(shown.encoded(), 1 << 20)[1:-1]],
        [True, *decode(shown.encoded(), 1 << 20)[1:]],
        [],
    ):
        with pytest.raises(VerifyError, match=r"^format: "):
            verify_order(encode(row), plain.genesis)
    nobodys = encode([WITHOUT_RINGS, *decode(honest.encoded(), 1 << 20)[1:-1]])
    with pytest.raises(VerifyError, match=r"^chain: the rings shown"):
        verify_order(nobodys, chain.genesis)
    plain.close()


# --- the rings -----------------------------------------------------------------------------------------------------------


def test_rings_are_those_of_the_notes_and_no_others(chain, made, honest):
    first, second = honest.rings
    other = next(
        ring
        for certificate, _ in made.values()
        for ring in certificate.rings
        if ring.leaf not in {first.leaf, second.leaf}
    )
    for rings in ((), (first,), (second,), (second, first), (first, second, other), (first, second, second)):
        assert broken_link(chain, replace(honest, rings=rings)) == "chain"
    for rings in ((other, second), (first, other)):
        assert broken_link(chain, replace(honest, rings=rings)) == "chain"
    assert broken_link(chain, replace(honest, rings=(honest.clearing, second))) == "chain"


def test_a_forged_ring_is_refused(chain, honest):
    """Of a bin that is not certified so; and one that all nodes attest, in which another key stands."""
    first, *others = honest.rings
    kind, name, keys = decode(first.leaf, 4096)
    changed = encode([kind, name, keys[32:] + keys[:32]])
    assert broken_link(chain, replace(honest, rings=(replace_leaf(first, changed), *others))) == "inclusion"
    for leaf, link in (
        (changed, "signature"),
        (encode([kind, name, bytes(512)]), "signature"),
        (encode([kind, name, keys[:-1]]), "chain"),
        (encode([kind, name[1:], keys]), "chain"),
        (encode([kind, 3, keys]), "chain"),
        (encode([kind, name]), "chain"),
        (encode([True, name, keys]), "chain"),
    ):
        assert broken_link(chain, replace(honest, rings=(*collude(chain, (first, leaf)), *others))) == link


def replace_leaf(inclusion, leaf):
    return type(inclusion)(inclusion.certificate, leaf, inclusion.index, inclusion.path)


def test_a_bin_must_have_been_old_enough_at_the_match(chain, honest):
    first, *others = honest.rings
    matched = honest.clearing.certificate.header
    last_ms = matched.time_ms - AGE_MS
    for header, holds in (
        ({"time_ms": last_ms}, True),
        ({"time_ms": last_ms + 1}, False),
        ({"height": matched.height, "time_ms": last_ms}, True),
        ({"height": matched.height + 1, "time_ms": last_ms}, False),
    ):
        shown = replace(honest, rings=(moved(chain, first, **header), *others))
        assert verified(chain, shown).anonymous if holds else broken_link(chain, shown) == "chain"


# --- the bid -------------------------------------------------------------------------------------------------------------


def test_the_bid_is_signed_by_every_note(chain, made, honest):
    tx = decode_transaction(honest.order)
    payload, rings = decode(honest.order, 65_000)
    bad = rings[0][:-1] + bytes([rings[0][-1] ^ 1])
    for forged in ([bad, *rings[1:]], [*rings[1:], rings[0]], rings[:1], [*rings, rings[0]]):
        assert broken_link(chain, replace(honest, order=encode([payload, forged]))) == "signature"
    by_key = signed_by_key(chain, tx.sender, tx.body, 1)
    assert broken_link(chain, replace(honest, order=by_key)) == "signature"
    plain = signed_by_key(chain, tx.sender, tx.body.as_bid(), 1)
    for rings_shown in (honest.rings, ()):
        link = "chain" if rings_shown else "signature"
        assert broken_link(chain, replace(honest, order=plain, rings=rings_shown)) == link
    assert broken_link(chain, replace(honest, order=made["settled"][0].order)) == "chain"
    plain_by_notes = ring_sign_transaction(lambda _: rings, chain.chain_id, tx.sender, 1, 100, tx.body.as_bid())
    assert broken_link(chain, replace(honest, order=plain_by_notes, rings=())) == "signature"


def test_another_image_or_bid_is_another_order(chain, honest):
    """Well signed by a neighbour's notes of the same bins, but not what the contract names; and well named, but not signed."""
    tx = decode_transaction(honest.order)
    who, bins = tx.sender, [name for name, _ in tx.body.notes]
    of_bin = {(note.owner, note.bin): note for note in chain.notes_of() if note.owner != DRIVER}
    neighbour = next(owner for owner, _ in of_bin if all((owner, name) in of_bin for name in bins))
    others = [of_bin[neighbour, name] for name in bins]
    body = replace(tx.body, notes=chain.spent_rows(others))
    assert broken_link(chain, replace(honest, order=chain.nobody(body, others, who, 1))) == "chain"
    swapped = replace(tx.body, notes=[[tx.body.notes[0][0], others[0].image(chain.chain_id)], *tx.body.notes[1:]])
    data = ring_sign_transaction(lambda _: list(tx.rings), chain.chain_id, who, 1, tx.valid_until_height, swapped)
    assert broken_link(chain, replace(honest, order=data)) == "signature"


def test_what_the_terms_and_genesis_say_of_notes(chain, made, honest):
    terms = terms_of(honest)
    matched = honest.clearing.certificate.header

    def link(**changes: object) -> str:
        told = {"terms": terms, "order": honest.order, "shown": honest.rings} | changes
        with pytest.raises(VerifyError) as caught:
            funding(Notary(chain.genesis), matched=matched, **told)
        return caught.value.link

    assert len(funding(Notary(chain.genesis), terms, honest.order, honest.rings, matched)) == 2
    values = {name: getattr(terms, name) for name, _ in FIELDS}
    assert link(terms=terms_from(values | {"energy_wh": 50_000})) == "posting"
    assert link(terms=terms_of(made["settled"][0])) == "chain"
    tx = decode_transaction(honest.order)
    others_key = values | {"user_public": key("another").public}  # who could stop the session
    another = ring_sign_transaction(lambda m: resigned(chain, tx, m), chain.chain_id, "somebody", 1, 100, tx.body)
    assert link(terms=terms_from(others_key)) == "chain"
    assert link(terms=terms_from(values | {"user": "somebody"})) == "chain"
    assert link(terms=terms_from(values | {"user": "somebody"}), order=another) == "chain"
    name = notes.bin_id(31, 0)
    body = replace(tx.body, notes=[[name, tx.body.notes[0][1]]])
    order = ring_sign_transaction(lambda _: list(tx.rings[:1]), chain.chain_id, tx.sender, 1, 100, body)
    kind, _, keys = decode(honest.rings[0].leaf, 4096)
    (shown,) = collude(chain, (honest.rings[0], encode([kind, name, keys])))
    assert link(order=order, shown=(shown,)) == "chain"
    without = Notary(chain.genesis)
    without.genesis = replace(chain.genesis, notes=None)
    with pytest.raises(VerifyError, match="issues no notes"):
        funding(without, terms, honest.order, honest.rings, matched)


def resigned(chain: NoteChain, tx: Transaction, message: bytes) -> list[bytes]:
    """By the notes that paid for an order of the driver's."""
    signatures = []
    for name, image in tx.body.notes:
        found = context(chain.chain_id, name)
        rows = chain.state.get(NoteBin, name).notes
        secrets = [(place, chain.secret(*row)) for place, row in enumerate(rows)]
        place, secret = next((place, secret) for place, secret in secrets if key_image(secret, found) == image)
        signatures.append(sign(secret, chain.ring_of(name), place, found, message))
    return signatures


# --- what the user said after it -----------------------------------------------------------------------------------------


def test_a_confirmation_is_signed_by_the_note_that_leads(chain, made, honest):
    who, contract = made["confirmed"][1], contract_of(honest)
    body = decode_transaction(honest.confirmations[0]).body
    owners = honest.confirmations[1]
    assert body.contract == contract
    lead = chain.orders[who]
    good = chain.nobody(body, [lead], who, 2)
    assert verified(chain, replace(honest, confirmations=(good, owners))).confirmed_by == (who, "olga")
    neighbour = next(n.owner for n in chain.notes_of() if n.bin == lead.bin and n.owner != DRIVER)
    payload, (ring,) = decode(honest.confirmations[0], 65_000)
    for forged in (
        signed_by(chain, who, body, neighbour),
        signed_by_key(chain, who, body),
        chain.tx(who, body, signer=DRIVER, sequence=2),
        encode([payload, [ring, ring]]),
        encode([payload, [ring[:-1] + bytes([ring[-1] ^ 1])]]),
    ):
        assert broken_link(chain, replace(honest, confirmations=(forged, owners))) == "signature"
    for forged in (
        chain.nobody(Confirm(contract, sha256(b"another")), [lead], who, 2),
        chain.nobody(body, [lead], who, 2, until=1),
        chain.nobody(CancelContract(contract), [lead], who, 2),
    ):
        assert broken_link(chain, replace(honest, confirmations=(forged, owners))) == "chain"
    assert broken_link(chain, replace(honest, confirmations=(good, good))) == "chain"
    assert broken_link(chain, replace(honest, confirmations=(owners,))) == "chain"


def test_confirmations_of_another_order_are_refused(chain, honest, made):
    other, _ = confirmed(chain)
    for confirmations in ((other.confirmations[0], honest.confirmations[1]), other.confirmations):
        assert broken_link(chain, replace(honest, confirmations=confirmations)) == "signature"  # no party of it
    owners = (honest.confirmations[0], other.confirmations[1])
    assert broken_link(chain, replace(honest, confirmations=owners)) == "chain"


def test_the_owner_signs_with_a_key(chain, honest, made):
    body = decode_transaction(honest.confirmations[1]).body
    forged = chain.nobody(body, [chain.orders[made["confirmed"][1]]], "olga", 9)
    assert broken_link(chain, replace(honest, confirmations=(honest.confirmations[0], forged))) == "signature"


def test_who_is_nobody_has_no_key_to_change(chain, honest, made):
    rotation = signed_by_key(chain, made["confirmed"][1], RotateKey(key("new").public))
    assert broken_link(chain, replace(honest, key_changes=(rotation,))) == "signature"


def test_a_cancellation_is_signed_by_the_note_that_leads(chain, made):
    certificate, who = made["cancelled"]
    contract = contract_of(certificate)
    lead = chain.orders[who]
    neighbour = next(n.owner for n in chain.notes_of() if n.bin == lead.bin and n.owner != DRIVER)
    body = CancelContract(contract)
    for forged, link in (
        (signed_by_key(chain, who, body), "signature"),
        (signed_by(chain, who, body, neighbour), "signature"),
        (chain.tx("olga", body), "signature"),
        (chain.nobody(CancelContract(sha256(b"x")), [lead], who, 2), "chain"),
    ):
        assert broken_link(chain, replace(certificate, cancellation=forged)) == link


def test_an_objection_is_signed_by_the_note_that_leads(chain, made):
    certificate, who = made["ruled"]
    contract, lead = contract_of(certificate), chain.orders[who]
    neighbour = next(n.owner for n in chain.notes_of() if n.bin == lead.bin and n.owner != DRIVER)
    body = objection(contract)
    for forged, link in (
        (signed_by_key(chain, who, body), "signature"),
        (signed_by(chain, who, body, neighbour), "signature"),
        (made["answered"][0].dispute.objection, "signature"),
        (chain.nobody(Object(contract, "energy", 4000, "no"), [lead], who, 2), "chain"),
    ):
        shown = replace(certificate, dispute=replace(certificate.dispute, objection=forged))
        assert broken_link(chain, shown) == link


# --- named orders, and bytes ---------------------------------------------------------------------------------------------


def test_a_named_order_has_no_rings(chain, honest, made):
    """On the same chain, where both are paid for."""
    shown = named(chain)
    result = verified(chain, shown)
    assert (result.anonymous, result.terms.user) == (False, "dan")
    assert broken_link(chain, replace(shown, rings=honest.rings)) == "chain"
    body = decode_transaction(shown.confirmations[0]).body
    by_note = chain.nobody(body, [chain.orders[made["confirmed"][1]]], "dan", 9)
    assert broken_link(chain, replace(shown, confirmations=(by_note, shown.confirmations[1]))) == "signature"


def test_no_byte_can_be_changed_and_nothing_but_verify_error_comes_of_it(chain, made):
    """The ring signatures of all notes are over every byte of the bid; the rest hangs on certified blocks or on keys."""
    rng, links = random.Random(5), set()
    for name in ("confirmed", "ruled"):
        data = made[name][0].encoded()
        whole = verify_order(data, chain.genesis)
        for at in sorted(rng.sample(range(len(data)), MUTATIONS // 2)):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            try:
                result: Verified = verify_order(bytes(changed), chain.genesis)
            except VerifyError as error:
                links.add(error.link)
            else:  # an attestation may be in vain where a quorum is left
                assert facts(result) == facts(whole)
        for cut in rng.sample(range(len(data)), 10):
            with pytest.raises(VerifyError, match=r"^format: "):
                verify_order(data[:cut], chain.genesis)
    assert {"format", "signature", "inclusion"} <= links <= set(LINKS)
