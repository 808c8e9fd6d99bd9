"""Certificates that colluding accounting nodes signed all the same: price and postings are recomputed, not believed."""

from dataclasses import replace

import pytest
from settled import Chain, deliver
from world import HOUR, NOW, key

from pile_coordinator.certificates import BlockExtract, OrderCertificate, decode_order_certificate
from pile_coordinator.chain.settlement import Posting, decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Confirm,
    SubmitProofs,
)
from pile_coordinator.evidence.queries import order_certificate
from pile_coordinator.verify import VerifyError, verify_order
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, attest
from pile_shared.codec import decode, encode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, PERIODIC, REASON_USER, REASON_VEHICLE_FULL
from pile_shared.proof import END as END_EVENT
from pile_shared.terms import FIELDS, LEAF_SETTLEMENT, decode_terms, terms_from


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.admit()
    yield chain
    chain.close()


@pytest.mark.parametrize(
    ("delivered_wh", "reason", "cause"),
    [(5000, REASON_USER, "none"), (5300, REASON_USER, "none"), (2000, REASON_VEHICLE_FULL, "user"), (2000, 5, "pile")],
)
@pytest.mark.parametrize("ask", [AT_MARKET, 720_000])
def test_honest_certificates_hold(chain, delivered_wh, reason, cause, ask):
    data = deliver(chain, delivered_wh=delivered_wh, reason=reason, ask=ask).encoded()
    verified = verify_order(data, chain.genesis)
    assert verified.statement.measured_wh == delivered_wh
    assert verified.statement.cause == cause
    assert verified.confirmed_by == ("dan", "olga")
    assert decode_order_certificate(data).encoded() == data


def test_an_unconfirmed_order_settles_when_the_window_passes(chain):
    certificate = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    verified = verify_order(certificate.encoded(), chain.genesis)
    assert (verified.outcome, verified.confirmed_by) == ("settled", ())


def test_a_no_show_has_a_certificate_too(chain):
    chain.list_and_bid()
    contract = chain.world.contract().id
    chain.block(NOW + 10 * HOUR)
    verified = verify_order(order_certificate(chain.evidence.db, chain.engine, contract).encoded(), chain.genesis)
    assert verified.outcome == "defaulted"


def collude(chain: Chain, extract: BlockExtract, **changed_leaves: bytes) -> BlockExtract:
    """All accounting nodes sign a block of the same header but for these leaves: certificates alone would be believed."""
    leaves = [changed_leaves.get(f"leaf{i}", leaf) for i, (leaf, _, _) in enumerate(extract.leaves)]
    tree = merkle.levels(leaves)
    old = extract.certificate.header
    values = {name: getattr(old, name) for name in Header.__init__.__kwdefaults__ or ()} or dict(vars(old))
    header = Header(**(values | {"result_root": merkle.root(leaves), "result_count": len(leaves)})).encoded()
    attestations = [
        [i, attest(header, key(f"{v.party}/attest"), chain.genesis.chain_id)]
        for i, v in enumerate(chain.genesis.validators)
    ]
    rows = tuple((leaf, i, tuple(merkle.path(tree, i))) for i, leaf in enumerate(leaves))
    return BlockExtract(Certificate(header, attestations), rows)


def broken_link(chain: Chain, certificate: OrderCertificate) -> str:
    with pytest.raises(VerifyError) as caught:
        verify_order(certificate.encoded(), chain.genesis)
    return caught.value.link


def test_colluding_nodes_cannot_move_money(chain):
    honest = deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL, confirm=False)
    _, data = decode(honest.settlement.leaves[0][0], 4096)
    statement = decode_statement(data)
    first = statement.postings[0]
    dearer = replace(statement, postings=(Posting("E", "H", first.amount_micro + 1), *statement.postings[1:]))
    kinder = replace(statement, cause="pile")
    for forged in (dearer, kinder):
        leaf = encode([LEAF_SETTLEMENT, forged.encoded()])
        faked = replace(honest, settlement=collude(chain, honest.settlement, leaf0=leaf))
        assert broken_link(chain, faked) == "posting"
    more = encode([LEAF_SETTLEMENT, replace(statement, measured_wh=2001).encoded()])
    assert broken_link(chain, replace(honest, settlement=collude(chain, honest.settlement, leaf0=more))) == "chain"


@pytest.mark.parametrize("position", [3, 4, 5])
def test_colluding_nodes_cannot_change_the_price(chain, position):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    clearing = decode(honest.signing.leaves[1][0], 4096)
    clearing[position] += 1  # load before, load after, or the price itself
    faked = replace(honest, signing=collude(chain, honest.signing, leaf1=encode(clearing)))
    assert broken_link(chain, faked) == "price"


def test_colluding_nodes_cannot_sign_a_dearer_contract(chain):
    """Terms at another price are another contract: proofs, settlement and confirmations do not follow it."""
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    terms = decode_terms(decode(honest.signing.leaves[0][0], 4096)[1])
    values = {name: getattr(terms, name) for name, _ in FIELDS}
    dearer = terms_from(values | {"price_micro_per_kwh": terms.price_micro_per_kwh + 1})
    leaf = encode([2, dearer.encoded()])
    assert broken_link(chain, replace(honest, signing=collude(chain, honest.signing, leaf0=leaf))) == "chain"


def test_a_proof_left_out_or_swapped_breaks_the_chain(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    first, second, third = honest.proofs
    for proofs in ((first, third), (second, third), (first, second), (first, third, second), ()):
        assert broken_link(chain, replace(honest, proofs=proofs)) in {"chain", "posting"}


def test_confirmations_must_be_the_parties(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    user, owner = honest.confirmations
    assert broken_link(chain, replace(honest, confirmations=(user,))) == "chain"
    assert broken_link(chain, replace(honest, confirmations=(user, user))) == "chain"
    other = chain.world.tx("dan", Confirm(sha256(b"contract"), sha256(b"digest")))
    assert broken_link(chain, replace(honest, confirmations=(other, owner))) == "chain"
    forged = chain.world.tx("dan", Confirm(sha256(b"contract"), sha256(b"digest")), signer="olga")
    assert broken_link(chain, replace(honest, confirmations=(forged, owner))) == "signature"


def test_too_little_power_is_rejected(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    certificate = honest.closing.certificate
    thin = BlockExtract(Certificate(certificate.header_bytes, certificate.attestations[:2]), honest.closing.leaves)
    assert broken_link(chain, replace(honest, closing=thin)) == "signature"


def test_a_frozen_session_settles_at_its_last_believed_reading(chain):
    """A second begin counts for nothing, nor does what follows it; the certificate shows all of it and holds."""
    chain.list_and_bid()
    contract, world, start = chain.world.contract(), chain.world, NOW + 3000
    proofs = [
        world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract.id),
        world.prove("pile-1", PERIODIC, [(start + HOUR // 4, 101_000)], contract=contract.id),
        world.prove("pile-1", BEGIN, [(start + HOUR // 3, 101_500)], contract=contract.id),
        world.prove("pile-1", END_EVENT, [(start + HOUR, 105_000)], contract=contract.id, reason=REASON_USER),
    ]
    chain.block(start + HOUR + 1000, ("operator", SubmitProofs(proofs)))
    chain.block(start + 3 * HOUR)
    verified = verify_order(order_certificate(chain.evidence.db, chain.engine, contract.id).encoded(), chain.genesis)
    assert (verified.statement.measured_wh, verified.statement.cause, verified.proofs) == (1000, "pile", 4)
