"""One certificate for each way in which a contract can end; each holds, and what did not happen is refused.

Accounting nodes that collude can sign any block: certificates alone would be believed. So price, postings and verdicts are
recomputed from what parties, arbiters and the pile signed, and every forgery here is one that all nodes have attested.
"""

from dataclasses import replace

import pytest
from settled import MEASURED_AT, Chain, deliver
from world import HOUR, NOW, genesis, key

from pile_coordinator.certificates import OrderCertificate, decode_order_certificate
from pile_coordinator.chain.contracts import piece_name
from pile_coordinator.chain.records import Tariff
from pile_coordinator.chain.settlement import (
    Posting,
    Shares,
    Verdict,
    decode_statement,
    settle,
    settle_disputed,
)
from pile_coordinator.chain.tariff import tariff_leaf
from pile_coordinator.chain.transactions import (
    AT_MARKET,
    Answer,
    CancelContract,
    Confirm,
    List,
    Object,
    PlaceBid,
    RegisterPile,
    RestoreKey,
    RevokeKey,
    Rule,
    SetTariff,
    Sign,
    SubmitProofs,
    decode_transaction,
)
from pile_coordinator.engines.engine import CachingVerifier
from pile_coordinator.evidence.queries import NoEvidenceError, find_contract, find_contracts
from pile_coordinator.verify import LINKS, Verified, VerifyError, verify_order
from pile_shared import certificate as certificates
from pile_shared import cose, merkle
from pile_shared.certificate import Certificate, Header, Inclusion, attest
from pile_shared.codec import decode, encode
from pile_shared.platform import es256_verify, sha256
from pile_shared.proof import (
    ALARM,
    BEGIN,
    HEARTBEAT,
    PERIODIC,
    REASON_USER,
    REASON_VEHICLE_FULL,
    Proof,
    parse,
    proof_hash,
)
from pile_shared.proof import END as END_EVENT
from pile_shared.terms import (
    FIELDS,
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_PROPOSED,
    LEAF_SETTLEMENT,
    decode_terms,
    terms_from,
)

PEAK, VALLEY = [0, "peak", 800_000, 500_000], [1, "valley", 300_000, 100_000]


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path, rulings_needed=2)
    chain.admit()
    yield chain
    chain.close()


def verified(chain: Chain, certificate: OrderCertificate) -> Verified:
    data = certificate.encoded()
    assert decode_order_certificate(data).encoded() == data
    return verify_order(data, chain.genesis)


def broken_link(chain: Chain, certificate: OrderCertificate) -> str:
    with pytest.raises(VerifyError) as caught:
        verify_order(certificate.encoded(), chain.genesis)
    assert str(caught.value).startswith(f"{caught.value.link}: ")
    return caught.value.link


def collude(chain: Chain, *said: tuple[Inclusion, bytes], **header: object) -> list[Inclusion]:
    """All accounting nodes sign a block of the first one's header, but for these leaves (and header fields)."""
    leaves = [leaf for _, leaf in said]
    tree = merkle.levels(leaves)
    values = vars(said[0][0].certificate.header) | header
    encoded = Header(**(values | {"result_root": merkle.root(leaves), "result_count": len(leaves)})).encoded()
    attestations = [
        [i, attest(encoded, key(f"{v.party}/attest"), chain.genesis.chain_id)]
        for i, v in enumerate(chain.genesis.validators)
    ]
    block = Certificate(encoded, attestations)
    return [Inclusion(block, leaf, i, merkle.path(tree, i)) for i, leaf in enumerate(leaves)]


def moved(chain: Chain, inclusion: Inclusion, **header: object) -> Inclusion:
    """The same leaf, in a block of another time or height."""
    return collude(chain, (inclusion, inclusion.leaf), **header)[0]


def statement_of(inclusion: Inclusion):
    return decode_statement(decode(inclusion.leaf, 8192)[1])


def restated(chain: Chain, certificate: OrderCertificate, **changes: object) -> OrderCertificate:
    """The nodes sign another statement, in the block it closes the contract in if it does so at once."""
    statement = replace(statement_of(certificate.settlement), **changes)
    leaf = encode([LEAF_SETTLEMENT, statement.encoded()])
    old, closing = certificate.settlement, certificate.closing
    if old.certificate.header_bytes != closing.certificate.header_bytes:
        return replace(certificate, settlement=collude(chain, (old, leaf))[0])
    settlement, closing = collude(chain, (old, leaf), (closing, closing.leaf))
    return replace(certificate, settlement=settlement, closing=closing)


# --- measured, and nobody objected ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delivered_wh", "reason", "cause"),
    [(5000, REASON_USER, "none"), (5300, REASON_USER, "none"), (2000, REASON_VEHICLE_FULL, "user"), (2000, 5, "pile")],
)
@pytest.mark.parametrize("ask", [AT_MARKET, 720_000])
def test_confirmed(chain, delivered_wh, reason, cause, ask):
    result = verified(chain, deliver(chain, delivered_wh=delivered_wh, reason=reason, ask=ask))
    assert (result.statement.measured_wh, result.statement.cause) == (delivered_wh, cause)
    assert (result.outcome, result.confirmed_by, result.disputed) == ("confirmed", ("dan", "olga"), None)


def test_settled_when_the_window_passes(chain):
    result = verified(chain, deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False))
    assert (result.outcome, result.confirmed_by) == ("settled", ())


def test_settled_by_silence(chain):
    """No end proof: the last believed reading counts, once the pile has had its time to tell the end."""
    chain.list_and_bid()
    contract, start = chain.contract().id, NOW + 3000
    begin = chain.world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract)
    more = chain.world.prove("pile-1", PERIODIC, [(start + HOUR // 2, 102_000)], contract=contract)
    chain.block(start + HOUR, ("operator", SubmitProofs([begin, more])))
    chain.block(NOW + 6 * HOUR)
    chain.block(NOW + 8 * HOUR)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.statement.measured_wh, result.statement.cause, result.outcome) == (2000, "pile", "settled")
    early = moved(chain, honest.settlement, time_ms=NOW + 2 * HOUR)
    assert broken_link(chain, replace(honest, settlement=early)) == "chain"


def test_a_frozen_session_settles_at_its_last_believed_reading(chain):
    """A second begin counts for nothing, nor does what follows it; the certificate shows all of it and holds."""
    chain.list_and_bid()
    contract, world, start = chain.contract(), chain.world, NOW + 3000
    proofs = [
        world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract.id),
        world.prove("pile-1", PERIODIC, [(start + HOUR // 4, 101_000)], contract=contract.id),
        world.prove("pile-1", BEGIN, [(start + HOUR // 3, 101_500)], contract=contract.id),
        world.prove("pile-1", END_EVENT, [(start + HOUR, 105_000)], contract=contract.id, reason=REASON_USER),
    ]
    chain.block(start + HOUR + 1000, ("operator", SubmitProofs(proofs)))
    chain.block(start + 3 * HOUR)
    result = verified(chain, chain.certificate(contract.id))
    assert (result.statement.measured_wh, result.statement.cause, result.proofs) == (1000, "pile", 4)
    honest = chain.certificate(contract.id)
    without = replace(honest, proofs=(*honest.proofs[:2], honest.proofs[3]))  # one that does not count either
    assert broken_link(chain, without) == "chain"


def test_what_a_pile_says_besides_does_not_spoil_the_certificate(chain):
    """Early begins, heartbeats and alarms in between, another pile that names this contract, words after the end."""
    chain.list_and_bid()
    contract, world, start = chain.contract().id, chain.world, NOW + 3000
    chain.block(NOW + 2500, ("operator", second_pile()))
    foreign = world.prove("pile-2", PERIODIC, [(start, 1)], contract=contract)
    proofs = [
        world.prove("pile-1", PERIODIC, [(start, 100_000)], contract=contract),  # nothing runs yet
        world.prove("pile-1", BEGIN, [(start, 100_000)], contract=contract),
        foreign,
        world.prove("pile-1", HEARTBEAT, [], contract=None),
        world.prove("pile-1", ALARM, [], contract=contract, reason=5),
        world.prove("pile-1", END_EVENT, [(start + HOUR, 105_000)], contract=contract, reason=REASON_USER),
        world.prove("pile-1", PERIODIC, [(start + HOUR, 105_000)], contract=contract),
    ]
    chain.block(start + HOUR + 1000, ("operator", SubmitProofs(proofs)))
    chain.block(start + 3 * HOUR)
    result = verified(chain, chain.certificate(contract))
    assert (result.statement.measured_wh, result.statement.cause, result.proofs) == (5000, "none", 4)


def second_pile():
    return RegisterPile("pile-2", "olga", key("pile-2").public, "SDM630", "124", "north", 7000)


# --- never begun ---------------------------------------------------------------------------------------------------------


def test_defaulted(chain):
    chain.list_and_bid()
    contract = chain.contract().id
    chain.block(NOW + 10 * HOUR)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.outcome, result.statement.cause, result.proofs) == ("defaulted", "default", 0)
    for changes in ({"cause": "pile"}, {"measured_wh": 1}, {"evidence": sha256(b"x")}, {"cause": "user-cancel"}):
        assert broken_link(chain, restated(chain, honest, **changes)) == "chain"


def test_no_show(chain):
    chain.list_and_bid()
    contract = chain.contract().id
    ready = chain.world.prove("pile-1", HEARTBEAT, [(NOW + HOUR // 2, 100_000)])
    chain.block(NOW + HOUR // 2, ("operator", SubmitProofs([ready])))
    chain.block(NOW + 3 * HOUR)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.outcome, result.statement.cause) == ("no-show", "no-show")
    settlement, closing = collude(
        chain,
        (honest.settlement, honest.settlement.leaf),
        (honest.closing, honest.closing.leaf),
        time_ms=NOW + HOUR // 2,
    )
    assert broken_link(chain, replace(honest, settlement=settlement, closing=closing)) == "chain"


@pytest.mark.parametrize(("who", "cause"), [("dan", "user-cancel"), ("olga", "pile-cancel")])
def test_called_off(chain, who, cause):
    chain.list_and_bid(start=NOW + 3 * HOUR)
    contract = chain.contract().id
    chain.block(NOW + HOUR, (who, CancelContract(contract)))
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.outcome, result.statement.cause) == ("cancelled", cause)
    assert broken_link(chain, replace(honest, cancellation=None)) == "chain"
    other = "olga" if who == "dan" else "dan"
    for forged, link in (
        (chain.tx(other, CancelContract(contract)), "signature"),
        (chain.tx(who, CancelContract(contract), signer=other), "signature"),
        (chain.tx(who, CancelContract(sha256(b"another"))), "chain"),
        (chain.tx(who, CancelContract(contract), valid_until_height=2), "chain"),
    ):
        assert broken_link(chain, replace(honest, cancellation=forged)) == link
    late_ms = NOW + 3 * HOUR - (HOUR - 1 if who == "dan" else 0)
    last_ms = late_ms - 1
    for time_ms, holds in ((last_ms, True), (late_ms, False)):
        settlement, closing = collude(
            chain,
            (honest.settlement, honest.settlement.leaf),
            (honest.closing, honest.closing.leaf),
            time_ms=time_ms,
        )
        at = replace(honest, settlement=settlement, closing=closing)
        assert verified(chain, at) if holds else broken_link(chain, at) == "chain"


# --- explicit signing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [("dan",), ("olga",), ("dan", "olga")])
def test_explicit_signing(chain, asked):
    chain.list_and_bid(start=NOW + 2 * HOUR, asked=asked)
    contract = chain.contract().id
    for i, party in enumerate(asked):
        chain.block(NOW + 10_000 + i, (party, Sign(contract)))
    chain.block(NOW + 10 * HOUR)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert result.outcome == "defaulted"
    assert result.signed_height > honest.clearing.certificate.header.height
    assert broken_link(chain, replace(honest, signatures=honest.signatures[1:])) == "chain"
    assert broken_link(chain, replace(honest, signatures=honest.signatures[:1] * 2)) == "chain"
    forged = chain.tx(asked[0], Sign(contract), signer="grid")
    assert broken_link(chain, replace(honest, signatures=(forged, *honest.signatures[1:]))) == "signature"
    other = chain.tx(asked[0], Sign(sha256(b"another")))
    assert broken_link(chain, replace(honest, signatures=(other, *honest.signatures[1:]))) == "chain"
    late = moved(chain, honest.signing, time_ms=NOW + 2000 + HOUR)
    assert broken_link(chain, replace(honest, signing=late)) == "chain"
    (at_once,) = collude(chain, (honest.clearing, honest.signing.leaf))
    assert broken_link(chain, replace(honest, signing=at_once)) == "chain"


def test_signing_that_nobody_asked_for_is_refused(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    contract = result_id(honest)
    assert broken_link(chain, replace(honest, signatures=(chain.tx("dan", Sign(contract)),))) == "chain"
    stranger = chain.world.raw("judge-1", "sign", [contract])
    assert broken_link(chain, replace(honest, signatures=(stranger,))) == "chain"
    later = moved(chain, honest.signing, height=honest.signing.certificate.header.height + 1)
    assert broken_link(chain, replace(honest, signing=later)) == "chain"


def test_a_contract_is_no_proposal(chain, defaulted):
    """Nor is one that was called off, if nobody had asked to sign it."""
    proposed = encode([LEAF_PROPOSED, decode(defaulted.signing.leaf, 8192)[1]])
    signing, clearing = collude(chain, (defaulted.signing, proposed), (defaulted.clearing, defaulted.clearing.leaf))
    forged = replace(defaulted, signing=signing, clearing=clearing)
    assert broken_link(chain, forged) == "chain"
    by_dan = chain.tx("dan", CancelContract(result_id(defaulted)))
    assert broken_link(chain, replace(forged, cancellation=by_dan)) == "chain"


def result_id(certificate: OrderCertificate) -> bytes:
    return decode(certificate.closing.leaf, 1024)[1]


def test_a_proposal_called_off_by_the_bound_side(chain):
    """Olga did not ask to sign, so she is bound; Dan has not signed yet."""
    chain.list_and_bid(start=NOW + 3 * HOUR, asked=("dan",))
    contract = chain.contract().id
    chain.block(NOW + 10_000, ("olga", CancelContract(contract)))
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.outcome, result.statement.cause) == ("cancelled", "pile-cancel")
    by_dan = replace(honest, cancellation=chain.tx("dan", CancelContract(contract)))
    assert broken_link(chain, by_dan) == "chain"  # he was not bound
    late = collude(
        chain,
        (honest.settlement, honest.settlement.leaf),
        (honest.closing, honest.closing.leaf),
        time_ms=NOW + 2 * HOUR,
    )
    assert broken_link(chain, replace(honest, settlement=late[0], closing=late[1])) == "chain"


@pytest.mark.parametrize("refused", [True, False])
def test_a_proposal_that_nobody_signs_has_no_certificate(chain, refused):
    bid = chain.list_and_bid(start=NOW + 2 * HOUR, asked=("dan",))
    assert find_contract(chain.evidence.db, bid)["state"] == "proposed"
    if refused:
        chain.block(NOW + 10_000, ("dan", CancelContract(chain.contract().id)))
    else:
        chain.block(NOW + 2 * HOUR)
    with pytest.raises(NoEvidenceError, match="never signed"):
        chain.certificate(bid)


# --- divisible bids ------------------------------------------------------------------------------------------------------


def test_pieces_of_a_divisible_bid(chain):
    """Two listings of 3 kWh share a bid for 5; each piece has a certificate of its own."""
    chain.block(NOW + 2000, ("operator", second_pile()))
    offers = [("olga", List(pile, NOW, NOW + 20 * HOUR, 3000, AT_MARKET, False)) for pile in ("pile-1", "pile-2")]
    chain.block(NOW + 2000, *offers)
    bid = PlaceBid("north", "", 5000, NOW, NOW + 4 * HOUR, 900_000, True, 0, True, False)
    (bid_id,) = chain.block(NOW + 2000, ("dan", bid))
    chain.block(NOW + 10 * HOUR)
    with pytest.raises(NoEvidenceError, match="split into 2"):
        chain.certificate(bid_id)
    rows = find_contracts(chain.evidence.db, bid_id)
    assert [row["piece"] for row in rows] == [0, 1]
    assert sum(row["energy_wh"] for row in rows) == 5000
    for row in rows:
        honest = chain.certificate(row["id"])
        result = verified(chain, honest)
        assert result.terms.order == piece_name(bid_id, row["piece"])
        assert broken_link(chain, replace(honest, piece=1 - row["piece"])) == "chain"
        assert broken_link(chain, replace(honest, piece=None)) == "chain"


def test_a_bid_that_is_not_divisible_has_no_pieces(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    assert broken_link(chain, replace(honest, piece=0)) == "chain"


# --- tariffs -------------------------------------------------------------------------------------------------------------

DAY = 24 * HOUR
CHEAPER = [[0, "night", 300_000, 100_000], [6 * 60, "day", 600_000, 350_000]]


@pytest.fixture
def cheaper(chain):
    """A contract priced by a tariff that the grid set after a new key, and that came into force at an epoch edge."""
    chain.block(NOW + 1500, chain.rotation("grid"))
    chain.block(NOW + 1600, ("grid", SetTariff(NOW + 2 * HOUR, 60, CHEAPER)))
    start = NOW + DAY + HOUR
    chain.list_and_bid(start=start, at=start + 2000)
    contract = chain.contract().id
    chain.block(start + 10 * HOUR)
    return chain.certificate(contract)


def test_after_a_change_of_tariff(chain, cheaper):
    result = verified(chain, cheaper)
    minute = (result.terms.window_start_ms // 60_000 + 60) % 1440
    period = CHEAPER[0] if minute < 360 else CHEAPER[1]
    assert [result.terms.catalog_sell_micro_per_kwh, result.terms.catalog_buy_micro_per_kwh] == period[2:]
    assert len(cheaper.key_changes) == 1


def test_a_tariff_must_be_the_grids(chain, cheaper):
    tariff = cheaper.tariff
    assert broken_link(chain, replace(cheaper, tariff=None)) == "price"
    assert broken_link(chain, replace(cheaper, key_changes=())) == "signature"
    body = SetTariff(NOW + 2 * HOUR, 60, CHEAPER)
    by_operator = replace(tariff, announcement=chain.tx("operator", body))
    assert broken_link(chain, replace(cheaper, tariff=by_operator)) == "signature"
    other = replace(tariff, announcement=chain.tx("grid", SetTariff(NOW + 2 * HOUR, 0, CHEAPER)))
    assert broken_link(chain, replace(cheaper, tariff=other)) == "price"
    early = replace(tariff, in_force=moved(chain, tariff.in_force, time_ms=NOW + HOUR))
    assert broken_link(chain, replace(cheaper, tariff=early)) == "price"
    later = replace(tariff, in_force=moved(chain, tariff.in_force, height=1000))
    assert broken_link(chain, replace(cheaper, tariff=later)) == "price"


def test_colluding_nodes_cannot_price_by_a_tariff_that_the_grid_did_not_set(chain, cheaper):
    """They sign a leaf of their own tariff and a clearing that names it; the grid never signed it."""
    invented = tariff_leaf(Tariff("now", NOW + 2 * HOUR, 60, [PEAK]))
    row = decode(cheaper.clearing.leaf, 8192)
    row[3] = sha256(invented)
    signing, clearing = collude(chain, (cheaper.signing, cheaper.signing.leaf), (cheaper.clearing, encode(row)))
    tariff = replace(cheaper.tariff, in_force=collude(chain, (cheaper.tariff.in_force, invented))[0])
    forged = replace(cheaper, signing=signing, clearing=clearing, tariff=tariff)
    assert broken_link(chain, forged) == "price"
    assert broken_link(chain, replace(forged, tariff=None)) == "price"


def test_the_tariff_of_genesis_needs_no_proof_and_takes_none(chain, cheaper, tmp_path):
    (tmp_path / "other").mkdir()
    plain = Chain(tmp_path / "other", rulings_needed=2)
    plain.admit()
    honest = deliver(plain, delivered_wh=5000, reason=REASON_USER)
    assert honest.tariff is None
    assert broken_link(plain, replace(honest, tariff=cheaper.tariff)) == "price"
    plain.close()


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_confirmed_with_new_keys(chain):
    contract = chain.measure(delivered_wh=5000)
    chain.block(MEASURED_AT + 1, chain.rotation("dan"))
    chain.block(MEASURED_AT + 2, chain.rotation("dan"))
    chain.block(MEASURED_AT + 3, chain.rotation("olga"))
    body = chain.confirmation(contract)
    chain.block(MEASURED_AT + 4, ("dan", body), ("olga", body))
    honest = chain.certificate(contract)
    assert verified(chain, honest).confirmed_by == ("dan", "olga")
    first, second, third = honest.key_changes
    for changes in ((), (first, third), (second, first, third), (first, second)):
        assert broken_link(chain, replace(honest, key_changes=changes)) == "signature"
    stranger = chain.tx("dan", chain.rotation("dan")[1], signer="grid")
    assert broken_link(chain, replace(honest, key_changes=(*honest.key_changes, stranger))) == "signature"
    assert broken_link(chain, replace(honest, key_changes=(*honest.key_changes, honest.order))) == "chain"


def test_confirmed_with_a_restored_key(chain):
    """Dan's key was stolen; a grid and an operator party gave him another."""
    contract = chain.measure(delivered_wh=5000)
    restored = RestoreKey("dan", key("dan/new").public)
    chain.block(MEASURED_AT + 1, ("operator", RevokeKey("dan")))
    chain.block(MEASURED_AT + 2, ("operator", restored))
    chain.block(MEASURED_AT + 3, ("grid", restored))
    chain.keys["dan"] = "dan/new"
    body = chain.confirmation(contract)
    chain.block(MEASURED_AT + 4, ("dan", body), ("olga", body))
    honest = chain.certificate(contract)
    assert verified(chain, honest).confirmed_by == ("dan", "olga")
    word, other = honest.key_changes
    for words in ((word,), (word, word), (other,)):
        assert broken_link(chain, replace(honest, key_changes=words)) == "signature"
    by_auditor = chain.world.raw("auditor", "restore-key", ["dan", key("dan/new").public])
    assert broken_link(chain, replace(honest, key_changes=(word, by_auditor))) == "signature"


def test_a_founder_is_not_to_be_played_by_a_user(chain, defaulted):
    """Terms in which the user is called like the grid would make the user's key the grid's."""
    body = bid_of(defaulted)
    order = chain.tx("grid", body, signer="dan")
    forged = other_terms(chain, replace(defaulted, order=order), user="grid", order=sha256(order))
    assert broken_link(chain, forged) == "chain"


# --- disputes ------------------------------------------------------------------------------------------------------------


def ruled(chain: Chain, objector: str = "dan", ground: str = "energy", *, measured_wh=4000, cause="user") -> bytes:
    """Dan objects to 2 kWh; the auditor, whom genesis names and who has a new key, and a judge say otherwise."""
    contract = chain.measure(delivered_wh=2000)
    chain.block(MEASURED_AT + 500, chain.rotation("auditor"))
    chain.object(objector, ground, measured_wh)
    body = Rule(contract, measured_wh, cause)
    chain.block(MEASURED_AT + 2000, ("judge-1", Rule(contract, 1, "user")))
    chain.block(MEASURED_AT + 3000, ("auditor", body), ("judge-2", Rule(contract, measured_wh + 1, cause)))
    chain.block(MEASURED_AT + 4000, ("judge-1", body))
    return contract


@pytest.mark.parametrize(
    ("objector", "ground", "measured_wh", "cause"),
    [("dan", "energy", 4000, "user"), ("dan", "cause", 2000, "pile"), ("olga", "energy", 5600, "user")],
)
def test_resolved_by_a_ruling(chain, objector, ground, measured_wh, cause):
    contract = ruled(chain, objector, ground, measured_wh=measured_wh, cause=cause)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.outcome, result.statement.verdict.basis) == ("resolved", "ruling")
    assert result.statement.measured_wh == measured_wh
    assert result.disputed.measured_wh == 2000
    assert [name for name, _ in result.statement.verdict.arbiters] == ["auditor", "judge-1"]
    assert len(honest.key_changes) == 1


def test_resolved_by_an_answer(chain):
    contract = chain.measure(delivered_wh=2000)
    chain.object("dan", "cause")
    chain.answer(contract)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.statement.verdict.basis, result.statement.cause) == ("answer", "user")
    for stop, link in (
        (chain.stop_command(contract, signer="olga"), "signature"),
        (chain.stop_command(sha256(b"another")), "signature"),
        (chain.stop_command(contract, action=1), "signature"),
        (b"no command", "signature"),
    ):
        answer = chain.tx("olga", Answer(contract, stop))
        assert broken_link(chain, disputed(honest, answer=answer)) == link
    by_dan = chain.world.raw("dan", "answer", [contract, chain.stop_command(contract)])
    assert broken_link(chain, disputed(honest, answer=by_dan)) == "signature"
    assert broken_link(chain, disputed(honest, answer=None)) == "chain"


@pytest.mark.parametrize(
    ("objector", "ground", "cause"), [("dan", "cause", "pile"), ("dan", "energy", "user"), ("olga", "cause", "user")]
)
def test_resolved_by_time(chain, objector, ground, cause):
    contract = chain.measure(delivered_wh=2000)
    chain.object(objector, ground)
    chain.block(MEASURED_AT + 1000 + 48 * HOUR)
    honest = chain.certificate(contract)
    result = verified(chain, honest)
    assert (result.statement.verdict.basis, result.statement.cause) == ("timeout", cause)
    early = at_time(chain, honest, MEASURED_AT + 999 + 48 * HOUR)
    assert broken_link(chain, early) == "chain"


def test_one_party_confirms_and_the_other_objects_with_a_new_key(chain):
    contract = chain.measure(delivered_wh=2000)
    chain.block(MEASURED_AT + 100, ("olga", chain.confirmation(contract)), chain.rotation("dan"))
    chain.object("dan", "cause")
    chain.block(MEASURED_AT + 49 * HOUR)
    honest = chain.certificate(contract)
    assert verified(chain, honest).confirmed_by == ("olga",)
    confirmed = chain.tx("dan", Confirm(contract, statement_of(honest.dispute.settlement).digest()), signer="dan")
    assert broken_link(chain, replace(honest, confirmations=(*honest.confirmations, confirmed))) == "chain"


def test_an_answer_answers_nothing_but_a_contested_cause(chain):
    """Time decided about the energy; all nodes sign that the stop command did."""
    contract = chain.measure(delivered_wh=2000)
    chain.object("dan", "energy")
    chain.block(MEASURED_AT + 49 * HOUR)
    honest = chain.certificate(contract)
    verdict = replace(statement_of(honest.settlement).verdict, basis="answer")
    answer = chain.tx("olga", Answer(contract, chain.stop_command(contract)))
    forged = disputed(restated(chain, honest, verdict=verdict), answer=answer)
    assert broken_link(chain, at_time(chain, forged, MEASURED_AT + 2000)) == "chain"


def disputed(certificate: OrderCertificate, **changes: object) -> OrderCertificate:
    return replace(certificate, dispute=replace(certificate.dispute, **changes))


def at_time(chain: Chain, certificate: OrderCertificate, time_ms: int) -> OrderCertificate:
    settlement, closing = collude(
        chain,
        (certificate.settlement, certificate.settlement.leaf),
        (certificate.closing, certificate.closing.leaf),
        time_ms=time_ms,
    )
    return replace(certificate, settlement=settlement, closing=closing)


def test_colluding_nodes_cannot_invent_a_ruling(chain):
    contract = ruled(chain)
    honest = chain.certificate(contract)
    verdict, rulings = statement_of(honest.settlement).verdict, honest.dispute.rulings
    one = restated(chain, honest, verdict=replace(verdict, arbiters=verdict.arbiters[1:]))
    assert broken_link(chain, disputed(one, rulings=rulings[1:])) == "chain"  # fewer than it takes
    twice = restated(chain, honest, verdict=replace(verdict, arbiters=verdict.arbiters[1:] * 2))
    assert broken_link(chain, disputed(twice, rulings=rulings[1:] * 2)) == "chain"
    assert broken_link(chain, disputed(honest, rulings=rulings[1:])) == "chain"
    assert broken_link(chain, disputed(honest, rulings=rulings[::-1])) == "signature"
    assert broken_link(chain, replace(honest, key_changes=())) == "signature"  # the auditor's new key
    for body, link in ((Rule(contract, 4001, "user"), "chain"), (Rule(sha256(b"x"), 4000, "user"), "chain")):
        assert broken_link(chain, disputed(honest, rulings=(rulings[0], chain.tx("judge-1", body)))) == link
    forged = chain.tx("auditor", Rule(contract, 4000, "user"), signer="judge-3")
    assert broken_link(chain, disputed(honest, rulings=(forged, rulings[1]))) == "signature"
    old_key = (("auditor", key("judge-3").public), verdict.arbiters[1])
    stolen = restated(chain, honest, verdict=replace(verdict, arbiters=old_key))
    assert broken_link(chain, disputed(stolen, rulings=(forged, rulings[1]))) == "signature"
    by_grid = restated(chain, honest, verdict=replace(verdict, arbiters=(("grid", key("grid").public), old_key[1])))
    grids = chain.world.raw("grid", "rule", [contract, 4000, "user"])
    assert broken_link(chain, disputed(by_grid, rulings=(grids, rulings[1]))) == "chain"


def test_colluding_nodes_cannot_change_what_a_verdict_comes_to(chain):
    contract = ruled(chain)
    honest = chain.certificate(contract)
    statement, written = statement_of(honest.settlement), statement_of(honest.dispute.settlement)
    dearer = (
        replace(statement.postings[0], amount_micro=statement.postings[0].amount_micro + 1),
        *statement.postings[1:],
    )
    assert broken_link(chain, restated(chain, honest, postings=dearer)) == "posting"
    assert broken_link(chain, restated(chain, honest, cause="pile")) == "posting"
    assert broken_link(chain, restated(chain, honest, measured_wh=3999)) == "chain"
    for changes in ({"objector": "H"}, {"bond_micro": 1}, {"basis": "timeout"}, {"basis": "answer"}):
        forged = restated(chain, honest, verdict=replace(statement.verdict, **changes))
        assert broken_link(chain, forged) in {"chain", "signature"}
    assert broken_link(chain, restated(chain, honest, verdict=None)) == "chain"
    assert broken_link(chain, restated(chain, honest, evidence=sha256(b"x"))) == "chain"
    # the same, with postings that fit what was changed
    terms = decode_terms(decode(honest.signing.leaf, 8192)[1])
    params = chain.genesis.params
    shares = Shares(params.penalty_permille, params.no_show_permille)
    loser = Verdict("H", statement.verdict.bond_micro, "ruling", statement.verdict.arbiters)
    fitting = settle_disputed(terms, list(written.postings), 4000, "user", shares, loser)
    assert broken_link(chain, restated(chain, honest, verdict=loser, postings=tuple(fitting))) == "signature"
    by_pile = settle_disputed(terms, list(written.postings), 4000, "pile", shares, statement.verdict)
    assert broken_link(chain, restated(chain, honest, cause="pile", postings=tuple(by_pile))) == "posting"
    as_before = settle(terms, 2000, "user", shares)
    forged = restated(chain, honest, measured_wh=2000, postings=tuple(as_before))
    assert broken_link(chain, forged) == "chain"


def test_the_settlement_objected_to_is_checked_too(chain):
    """Worse postings in the first statement would make its objector win."""
    honest = chain.certificate(ruled(chain))
    written = statement_of(honest.dispute.settlement)
    worse = replace(written, postings=(*written.postings[:1], Posting("E", "H", 1), *written.postings[1:]))
    for forged, link in (
        (worse, "posting"),
        (replace(written, cause="default"), "chain"),
        (replace(written, measured_wh=1999), "chain"),
        (replace(written, verdict=statement_of(honest.settlement).verdict), "chain"),
    ):
        leaf = encode([LEAF_SETTLEMENT, forged.encoded()])
        (first,) = collude(chain, (honest.dispute.settlement, leaf))
        assert broken_link(chain, disputed(honest, settlement=first)) == link


def test_an_objection_is_the_partys_own_and_in_time(chain):
    contract = ruled(chain)
    honest = chain.certificate(contract)
    dispute = honest.dispute
    for body, signer, link in (
        (Object(contract, "energy", 4000, "x"), "olga", "signature"),
        (Object(contract, "cause", 4000, "x"), "dan", "chain"),
        (Object(contract, "energy", 4001, "x"), "dan", "chain"),
        (Object(sha256(b"x"), "energy", 4000, "x"), "dan", "chain"),
        (Confirm(contract, sha256(b"x")), "dan", "chain"),
    ):
        assert broken_link(chain, disputed(honest, objection=chain.tx("dan", body, signer=signer))) == link
    leaf = decode(dispute.objected.leaf, 1024)
    for position, value in ((1, sha256(b"x")), (2, "H"), (3, "cause"), (4, 1), (5, 1)):
        forged = encode([*leaf[:position], value, *leaf[position + 1 :]])
        (objected,) = collude(chain, (dispute.objected, forged))
        assert broken_link(chain, disputed(honest, objected=objected)) == "chain"
    late = moved(chain, dispute.objected, time_ms=MEASURED_AT + HOUR)
    assert broken_link(chain, disputed(honest, objected=late)) == "chain"
    after_all = at_time(chain, honest, MEASURED_AT + 1000 + 48 * HOUR)  # arbiters who speak when time has decided
    assert broken_link(chain, after_all) == "chain"
    assert broken_link(chain, replace(honest, dispute=None)) == "chain"


def test_changing_any_byte_of_a_disputed_order_is_refused(chain, monkeypatch):
    data = chain.certificate(ruled(chain)).encoded()
    remembering = CachingVerifier(es256_verify)  # the same answers; most signatures are asked for once per byte
    monkeypatch.setattr(cose, "es256_verify", remembering)
    monkeypatch.setattr(certificates, "es256_verify", remembering)
    verify_order(data, chain.genesis)
    links = set()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(VerifyError) as caught:
            verify_order(bytes(changed), chain.genesis)
        links.add(caught.value.link)
    assert {"format", "signature", "inclusion", "chain"} <= links <= set(LINKS)


# --- price and postings that colluding nodes sign ------------------------------------------------------------------------


def test_colluding_nodes_cannot_move_money(chain):
    honest = deliver(chain, delivered_wh=2000, reason=REASON_VEHICLE_FULL, confirm=False)
    statement = statement_of(honest.settlement)
    first = statement.postings[0]
    dearer = (Posting("E", "H", first.amount_micro + 1), *statement.postings[1:])
    assert broken_link(chain, restated(chain, honest, postings=dearer)) == "posting"
    assert broken_link(chain, restated(chain, honest, cause="pile")) == "posting"
    assert broken_link(chain, restated(chain, honest, measured_wh=2001)) == "chain"


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row[2].__setitem__(0, row[2][0] + 1),
        lambda row: row[2].__setitem__(1, 3),
        lambda row: row[2].__setitem__(1, "4"),
        lambda row: row.__setitem__(3, sha256(b"x")),
        lambda row: row.__setitem__(4, row[4] + 1),
        lambda row: row.__setitem__(5, row[5] + 1),
        lambda row: row[6][0].__setitem__(0, row[6][0][0] + 1),
        lambda row: row[6][0].__setitem__(1, row[6][0][1] + 1),
        lambda row: row[6].clear(),
        lambda row: row[7][0].__setitem__(3, row[7][0][3] + 1),
        lambda row: row[7].clear(),
        lambda row: row.__setitem__(1, "south"),
        lambda row: row.__setitem__(7, None),
    ],
)
def test_colluding_nodes_cannot_change_the_price(chain, change):
    """Capacity, CRR, tariff, load, the price itself, or the fill."""
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    row = decode(honest.clearing.leaf, 8192)
    change(row)
    signing, clearing = collude(chain, (honest.signing, honest.signing.leaf), (honest.clearing, encode(row)))
    assert broken_link(chain, replace(honest, signing=signing, clearing=clearing)) == "price"


def other_terms(chain: Chain, honest: OrderCertificate, **changes: object) -> OrderCertificate:
    """The nodes sign all that names the contract again for other terms, with postings that fit; parties and pile do not."""
    terms = decode_terms(decode(honest.signing.leaf, 8192)[1])
    forged = terms_from({name: getattr(terms, name) for name, _ in FIELDS} | changes)
    row = decode(honest.clearing.leaf, 8192)
    row[7] = [[forged.contract_id(), forged.energy_wh, forged.on_curve, forged.price_micro_per_kwh]]
    if not forged.on_curve:
        row[5], row[6] = row[4], []
    signing, clearing = collude(
        chain,
        (honest.signing, encode([LEAF_CONTRACT, forged.encoded()])),
        (honest.clearing, encode(row)),
    )
    written, params = statement_of(honest.settlement), chain.genesis.params
    shares = Shares(params.penalty_permille, params.no_show_permille)
    fitting = tuple(settle(forged, written.measured_wh, written.cause, shares))
    statement = replace(written, contract=forged.contract_id(), postings=fitting)
    closed = encode([LEAF_CLOSED, forged.contract_id(), decode(honest.closing.leaf, 1024)[2]])
    said = (honest.settlement, encode([LEAF_SETTLEMENT, statement.encoded()])), (honest.closing, closed)
    if honest.settlement.certificate.header_bytes == honest.closing.certificate.header_bytes:
        settlement, closing = collude(chain, *said)
    else:
        settlement, closing = collude(chain, said[0])[0], collude(chain, said[1])[0]
    return replace(honest, signing=signing, clearing=clearing, settlement=settlement, closing=closing)


@pytest.fixture
def defaulted(chain):
    """A contract without proofs or confirmations, which would not follow it into other terms."""
    chain.list_and_bid()
    contract = chain.contract().id
    chain.block(NOW + 10 * HOUR)
    return chain.certificate(contract)


@pytest.mark.parametrize(
    ("field", "value", "link"),
    [
        ("price_micro_per_kwh", 2_000_000, "price"),  # above the limit
        ("price_micro_per_kwh", 399_999, "price"),  # below the band
        ("price_micro_per_kwh", 690_000, "price"),
        ("catalog_sell_micro_per_kwh", 650_001, "price"),
        ("catalog_buy_micro_per_kwh", 1, "price"),
        ("on_curve", False, "price"),
        ("tolerance_wh", 101, "posting"),
        ("overuse_wh", 501, "posting"),
        ("fee_micro", 50_001, "posting"),
        ("bond_micro", 1, "posting"),
        ("begin_grace_ms", 1, "chain"),  # the bid was matched after that
        ("begin_grace_ms", 2 * HOUR, "posting"),
        ("evidence_window_ms", 1, "posting"),
        ("confirm_window_ms", 1, "posting"),
        ("energy_wh", 5100, "chain"),
        ("energy_wh", 4900, "chain"),
        ("window_end_ms", NOW + 3 * HOUR, "chain"),
        ("zone", "south", "chain"),
        ("pile", "pile-2", "chain"),
        ("order", sha256(b"x"), "chain"),
        ("listing", sha256(b"x"), "chain"),
        ("user_public", key("grid").public, "signature"),
        ("owner_public", key("grid").public, "signature"),
        ("owner", "auditor", "chain"),
    ],
)
def test_colluding_nodes_cannot_sign_other_terms(chain, defaulted, field, value, link):
    assert broken_link(chain, other_terms(chain, defaulted, **{field: value})) == link


def bid_of(certificate: OrderCertificate) -> PlaceBid:
    return decode_transaction(certificate.order).body


@pytest.mark.parametrize(
    ("bid", "listing", "terms", "link"),
    [
        ({}, {}, {}, None),
        ({"limit_micro_per_kwh": 650_000}, {}, {}, "price"),
        ({"market": False, "expires_ms": NOW + 2000}, {}, {}, "chain"),
        ({"market": False, "expires_ms": NOW + 2001}, {}, {}, None),
        ({"pile": "pile-1"}, {}, {}, None),
        ({"pile": "pile-2"}, {}, {}, "chain"),
        ({"zone": "south"}, {}, {}, "chain"),
        ({"energy_wh": 5100}, {}, {}, "chain"),
        ({"divisible": True}, {}, {}, "chain"),
        ({"explicit": True}, {}, {}, "chain"),
        ({}, {"explicit": True}, {}, "chain"),
        ({}, {"window_start_ms": NOW + 1}, {}, "chain"),
        ({}, {"window_end_ms": NOW + 4 * HOUR - 1}, {}, "chain"),
        ({}, {"energy_wh": 4900}, {}, "chain"),
        ({}, {"energy_wh": 5000}, {}, None),
        ({}, {"pile": "pile-2"}, {}, "chain"),
        ({}, {"ask_micro_per_kwh": 700_000}, {}, "price"),
        ({}, {"ask_micro_per_kwh": 700_000}, {"price_micro_per_kwh": 700_000, "on_curve": False}, None),
        ({}, {"ask_micro_per_kwh": 700_000}, {"price_micro_per_kwh": 700_001, "on_curve": False}, "price"),
        ({}, {"ask_micro_per_kwh": 399_999}, {"price_micro_per_kwh": 399_999, "on_curve": False}, "price"),
        ({}, {"ask_micro_per_kwh": 400_000}, {"price_micro_per_kwh": 400_000, "on_curve": False}, None),
        (
            {"limit_micro_per_kwh": 2_000_000},
            {"ask_micro_per_kwh": 1_300_001},
            {"price_micro_per_kwh": 1_300_001, "on_curve": False},
            "price",
        ),
        (
            {"limit_micro_per_kwh": 2_000_000},
            {"ask_micro_per_kwh": 1_300_000},
            {"price_micro_per_kwh": 1_300_000, "on_curve": False},
            None,
        ),
    ],
)
def test_a_contract_is_within_both_orders(chain, defaulted, bid, listing, terms, link):
    """Here both parties signed other orders, and the nodes a contract that names these; the clearing fits its price."""
    order = chain.tx("dan", replace(bid_of(defaulted), **bid))
    offer = chain.tx("olga", replace(decode_transaction(defaulted.listing).body, **listing))
    shown = replace(defaulted, order=order, listing=offer)
    forged = other_terms(chain, shown, order=sha256(order), listing=sha256(offer), **terms)
    if link is None:
        assert verified(chain, forged).outcome == "defaulted"
    else:
        assert broken_link(chain, forged) == link


def retold(chain: Chain, honest: OrderCertificate, proofs: list[Proof], counted: int, cause: str) -> OrderCertificate:
    """The pile tells another session, and the nodes settle by the first so many of its proofs."""
    running, messages, previous = bytes(32), [], proofs[0].previous
    for i, proof in enumerate(proofs):
        proof.sequence, proof.previous = proofs[0].sequence + i, previous
        messages.append(proof.sign(key("pile-1"), chain.genesis.chain_id))
        previous = proof_hash(messages[-1])
        running = sha256(running + previous) if i < counted else running
    measured_wh = proofs[counted - 1].readings[-1].energy_wh - proofs[0].readings[0].energy_wh
    terms = decode_terms(decode(honest.signing.leaf, 8192)[1])
    params = chain.genesis.params
    postings = settle(terms, measured_wh, cause, Shares(params.penalty_permille, params.no_show_permille))
    changes = {"evidence": running, "measured_wh": measured_wh, "cause": cause, "postings": tuple(postings)}
    return restated(chain, replace(honest, proofs=tuple(messages)), **changes)


def told(certificate: OrderCertificate) -> list[Proof]:
    return [parse(message)[1] for message in certificate.proofs]


def test_a_session_is_told_by_the_pile_alone(chain):
    honest = deliver(chain, delivered_wh=2000, reason=REASON_USER, confirm=False)
    assert verified(chain, retold(chain, honest, told(honest), 3, "user")).outcome == "settled"
    contract = result_id(honest)

    def link(change, counted=3, cause="user"):
        proofs = told(honest)
        change(proofs)
        return broken_link(chain, retold(chain, honest, proofs, counted, cause))

    def at(proofs, time_ms):
        proofs[0].readings[0].time_ms = time_ms

    assert link(lambda _: None, cause="pile") == "posting"
    assert link(lambda proofs: at(proofs, NOW - 1)) == "chain"
    assert link(lambda proofs: at(proofs, NOW + HOUR + 1)) == "chain"
    assert link(lambda proofs: setattr(proofs[0].origin, "serial", "124")) == "chain"
    assert link(lambda proofs: setattr(proofs[1], "contract", sha256(b"x"))) == "chain"
    assert link(lambda proofs: setattr(proofs[0], "contract", sha256(b"x"))) == "chain"
    assert link(lambda proofs: proofs.pop(0), counted=2) == "chain"
    again = Proof(1, bytes(32), contract, BEGIN, told(honest)[1].readings, 0, told(honest)[0].origin)
    assert link(lambda proofs: proofs.insert(1, again), counted=4) == "chain"
    more = Proof(1, bytes(32), contract, PERIODIC, told(honest)[2].readings)
    assert link(lambda proofs: proofs.append(more), counted=4) == "chain"
    assert link(lambda proofs: proofs.append(more)) == "chain"


def test_everything_is_of_one_contract_on_one_chain_in_order(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    assert broken_link(chain, restated(chain, honest, contract=sha256(b"x"))) == "chain"
    assert broken_link(chain, restated(chain, honest, chain_id="other")) == "chain"
    verdict = Verdict("U", 5_000_000, "timeout", ())
    assert broken_link(chain, restated(chain, honest, verdict=verdict)) == "chain"
    closing = encode([LEAF_CLOSED, sha256(b"x"), "settled"])
    assert broken_link(chain, replace(honest, closing=collude(chain, (honest.closing, closing))[0])) == "chain"
    as_contract = encode([LEAF_CONTRACT, decode(honest.settlement.leaf, 8192)[1]])
    forged = replace(honest, settlement=collude(chain, (honest.settlement, as_contract))[0])
    assert broken_link(chain, forged) == "chain"
    said = (honest.signing, honest.signing.leaf), (honest.clearing, honest.clearing.leaf)
    signing, clearing = collude(chain, *said, height=1000)
    assert broken_link(chain, replace(honest, signing=signing, clearing=clearing)) == "chain"
    with_cancellation = replace(honest, cancellation=chain.tx("dan", CancelContract(result_id(honest))))
    assert broken_link(chain, with_cancellation) == "chain"


def test_another_genesis_or_validator_set_is_not_believed(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    with pytest.raises(VerifyError) as caught:
        verify_order(honest.encoded(), genesis(fee_micro=1))
    assert caught.value.link == "chain"
    assert broken_link(chain, replace(honest, chain_id="test-00000000")) == "chain"
    handed_over = moved(chain, honest.closing, next_validators_hash=sha256(b"others"))
    assert broken_link(chain, replace(honest, closing=handed_over)) == "signature"


def test_a_contract_follows_from_its_own_proofs(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    forged = other_terms(chain, honest, price_micro_per_kwh=690_000)
    assert broken_link(chain, forged) in {"chain", "price"}


def test_what_nodes_sign_may_be_no_leaf_at_all(chain, defaulted):
    for leaf in (b"\x00", b"\xff", encode([]), encode([True, b""]), encode([2]), encode([4, 7]), encode([5, [], {}])):
        for name in ("signing", "clearing", "settlement", "closing"):
            inclusion = getattr(defaulted, name)
            forged = replace(defaulted, **{name: collude(chain, (inclusion, leaf))[0]})
            assert broken_link(chain, forged) == "chain"


def test_an_outcome_has_its_time(chain):
    settled = deliver(chain, delivered_wh=5000, reason=REASON_USER, confirm=False)
    early = moved(chain, settled.closing, time_ms=MEASURED_AT + HOUR - 1)
    assert broken_link(chain, replace(settled, closing=early)) == "chain"
    for outcome in ("confirmed", "resolved", "defaulted", "unsigned", "cancelled", "expired", 5):
        leaf = encode([LEAF_CLOSED, result_id(settled), outcome])
        assert broken_link(chain, replace(settled, closing=collude(chain, (settled.closing, leaf))[0])) == "chain"


# --- proofs and signatures -----------------------------------------------------------------------------------------------


def test_a_proof_left_out_or_swapped_breaks_the_chain(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    first, second, third = honest.proofs
    for proofs in ((first, third), (second, third), (first, second), (first, third, second), ()):
        assert broken_link(chain, replace(honest, proofs=proofs)) == "chain"


def test_confirmations_must_be_the_parties(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    user, owner = honest.confirmations
    assert broken_link(chain, replace(honest, confirmations=(user,))) == "chain"
    assert broken_link(chain, replace(honest, confirmations=(user, user))) == "chain"
    other = chain.tx("dan", Confirm(sha256(b"contract"), sha256(b"digest")))
    assert broken_link(chain, replace(honest, confirmations=(other, owner))) == "chain"
    forged = chain.tx("dan", Confirm(sha256(b"contract"), sha256(b"digest")), signer="olga")
    assert broken_link(chain, replace(honest, confirmations=(forged, owner))) == "signature"
    stranger = chain.world.raw("judge-1", "confirm", [sha256(b"contract"), sha256(b"digest")])
    assert broken_link(chain, replace(honest, confirmations=(stranger, owner))) == "signature"


def test_too_little_power_is_rejected(chain):
    honest = deliver(chain, delivered_wh=5000, reason=REASON_USER)
    closing = honest.closing
    thin = Certificate(closing.certificate.header_bytes, closing.certificate.attestations[:2])
    forged = replace(honest, closing=Inclusion(thin, closing.leaf, closing.index, closing.path))
    assert broken_link(chain, forged) == "signature"
