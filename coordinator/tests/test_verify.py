"""Certificates that colluding accounting nodes signed all the same: price and postings are recomputed, not believed."""

from dataclasses import replace

import pytest
from world import HOUR, NOW, World, key

from pile_coordinator.certificates import BlockExtract, OrderCertificate, decode_order_certificate
from pile_coordinator.chain.settlement import Posting, decode_statement
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Confirm,
    Deposit,
    List,
    PlaceBid,
    RegisterParty,
    RegisterPile,
    SubmitProofs,
)
from pile_coordinator.engines.solo import SoloEngine
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.queries import order_certificate
from pile_coordinator.verify import VerifyError, verify_order
from pile_shared import merkle
from pile_shared.certificate import Certificate, Header, attest
from pile_shared.codec import decode, encode
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, PERIODIC, REASON_USER, REASON_VEHICLE_FULL
from pile_shared.proof import END as END_EVENT
from pile_shared.terms import FIELDS, LEAF_SETTLEMENT, decode_terms, terms_from


class Chain:
    """An engine with evidence, and the same short sayings as World."""

    def __init__(self, folder) -> None:
        self.world = World()
        self.genesis = self.world.genesis
        signers = {v.party: key(f"{v.party}/attest") for v in self.genesis.validators}
        self.engine = SoloEngine(folder / "ledger.sqlite", self.genesis, signers)
        self.evidence = Exporter(folder / "evidence.sqlite")
        self.engine.on_block(self.evidence.write)
        self.world.state = self.engine.state

    def close(self) -> None:
        self.engine.close()
        self.evidence.close()

    def block(self, time_ms: int, *sent) -> None:
        for sender, body in sent:
            self.engine.submit(self.world.tx(sender, body))
            self.world.sequences[sender] = self.world.sequences.get(sender, 0) + 1
        block = self.engine.make_block(time_ms)
        self.world.height = self.engine.height
        assert all(result.code == "ok" for result in block.results), block.results


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    parties = [("olga", "pile-owner"), ("dan", "ev-owner")]
    chain.block(
        NOW + 1000,
        *[("operator", RegisterParty(p, r, key(p).public)) for p, r in parties],
        ("operator", RegisterPile("pile-1", "olga", key("pile-1").public, "SDM630", "123", "north", 7000)),
        *[("grid", Deposit(p, 50_000_000, p)) for p, _ in parties],
    )
    yield chain
    chain.close()


def deliver(
    chain: Chain, *, delivered_wh: int, reason: int, ask: int = AT_MARKET, confirm: bool = True
) -> OrderCertificate:
    start = NOW + 2000
    chain.block(start, ("olga", List("pile-1", NOW, NOW + 20 * HOUR, 20_000, ask)))
    chain.block(start, ("dan", PlaceBid("north", "", 5000, NOW, NOW + 4 * HOUR, 800_000, True, 0)))
    contract = chain.world.contract()
    hour = 3600 * 1000
    world = chain.world
    proofs = [
        world.prove("pile-1", BEGIN, [(start + 1000, 100_000)], contract=contract.id),
        world.prove("pile-1", PERIODIC, [(start + hour // 4, 100_000 + delivered_wh // 3)], contract=contract.id),
        world.prove("pile-1", END_EVENT, [(start + hour, 100_000 + delivered_wh)], contract=contract.id, reason=reason),
    ]
    chain.block(start + hour + 1000, ("operator", SubmitProofs(proofs)))
    statement = decode_statement(chain.world.contract().statement)
    if confirm:
        body = Confirm(contract.id, statement.digest())
        chain.block(start + hour + 2000, ("dan", body), ("olga", body))
    else:
        chain.block(start + 3 * hour)
    return order_certificate(chain.evidence.db, chain.engine, contract.id)


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
    chain.block(NOW + 2000, ("olga", List("pile-1", NOW, NOW + 20 * HOUR, 20_000, AT_MARKET)))
    chain.block(NOW + 2000, ("dan", PlaceBid("north", "", 5000, NOW, NOW + 4 * HOUR, 800_000, True, 0)))
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
