"""The light client against everything a broker could make up, and through changes of the accounting nodes."""

from itertools import pairwise

import pytest

from pile_edge.light import SET_NAME, LightClient
from pile_edge.ports.cpython_storage import Storage
from pile_hil.peer import Chain, make_terms, secret
from pile_shared.certificate import (
    MAX_HANDOVER_BYTES,
    MAX_VALIDATORS,
    Certificate,
    Inclusion,
    attest,
    decode_handover,
    decode_inclusion,
    encode_handover,
)
from pile_shared.codec import encode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.terms import LEAF_CLOSED, LEAF_CONTRACT, LEAF_RECEIPT

PILE = SoftwareSigner(secret(7))
OURS = {"pile": "pile-1", "pile_public": PILE.public, "meter_serial": "12345678", "user_public": PILE.public}


@pytest.fixture
def chain():
    return Chain()


@pytest.fixture
def pinning(tmp_path):
    """pinning(chain): a light client whose configuration names the chain's validators, as after a restart."""

    def make(chain):
        return LightClient(
            chain_id=chain.chain_id,
            validators=chain.validators,
            pile_id="pile-1",
            public=PILE.public,
            meter_serial="12345678",
            storage=Storage(str(tmp_path / "journal")),
        )

    return make


@pytest.fixture
def light(chain, pinning):
    return pinning(chain)


def terms(**changes):
    return make_terms(**{**OURS, **changes})


def code(call, *args):
    with pytest.raises(PilechainError) as caught:
        call(decode_inclusion(args[0]), *args[1:])
    return caught.value.code


def test_opens_what_the_chain_says(chain, light):
    opened, contract_id, outcome = light.open_contract(decode_inclusion(chain.contract(terms())))
    assert opened.encoded() == terms().encoded()
    assert (contract_id, outcome) == (terms().contract_id(), "")
    assert light.open_contract(decode_inclusion(chain.closed(contract_id, "no-show"))) == (None, contract_id, "no-show")
    assert light.open_receipt(decode_inclusion(chain.receipt("pile-1", 5, sha256(b"x"))), 4) == (5, sha256(b"x"))
    assert light.height == 3


def test_old_receipts_are_ignored_before_their_signatures(chain, light):
    leaf = encode([LEAF_RECEIPT, "pile-1", 5, sha256(b"x")])
    assert light.open_receipt(chain.inclusion(leaf, signing=()), 5) is None
    assert light.height == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pile": "pile-2"}, "pile"),
        ({"pile_public": SoftwareSigner(secret(8)).public}, "key"),
        ({"meter_serial": "87654321"}, "meter"),
        ({"window_end_ms": 0}, "leaf"),
    ],
)
def test_contracts_of_others_are_refused(chain, light, changes, expected):
    assert code(light.open_contract, chain.contract(terms(**changes))) == expected


@pytest.mark.parametrize("signing", [(), (0,), (0, 1), (1, 2)])
def test_two_thirds_are_not_enough(chain, light, signing):
    leaf = encode([LEAF_CONTRACT, terms().encoded()])
    assert code(light.open_contract, chain.inclusion(leaf, signing=signing).encoded()) == "quorum"


def test_more_than_two_thirds_are(pinning):
    chain = Chain(powers=(2, 2, 1))
    pinned = pinning(chain)
    leaf = encode([LEAF_CONTRACT, terms().encoded()])
    assert pinned.open_contract(chain.inclusion(leaf, signing=(0, 1)))[0] is not None
    assert code(pinned.open_contract, chain.inclusion(leaf, signing=(0, 2)).encoded()) == "quorum"


def test_another_validator_set_is_refused(light):
    assert code(light.open_contract, Chain(first_key=2000).contract(terms())) == "validators"
    assert code(light.open_contract, Chain(powers=(1, 1, 2)).contract(terms())) == "validators"


def test_forged_attestations_are_refused(chain, light):
    forger = Chain(first_key=2000)
    forger.validators = chain.validators  # it names the right set but has not its keys
    assert code(light.open_contract, forger.contract(terms())) == "signature"


def test_another_chain_is_refused(light):
    assert code(light.open_contract, Chain("other-chain").contract(terms())) == "chain"


def test_a_contract_slipped_under_a_true_certificate_is_refused(chain, light):
    genuine = chain.inclusion(encode([LEAF_CONTRACT, terms().encoded()]))
    forged = encode([LEAF_CONTRACT, terms(energy_wh=50_000).encoded()])
    message = Inclusion(genuine.certificate, forged, genuine.index, genuine.path).encoded()
    assert code(light.open_contract, message) == "inclusion"


@pytest.mark.parametrize("tamper", ["index", "path", "short", "long"])
def test_a_tampered_path_is_refused(chain, light, tamper):
    one = chain.inclusion(encode([LEAF_CONTRACT, terms().encoded()]))
    path, index = list(one.path), one.index
    if tamper == "index":
        index ^= 1
    elif tamper == "path":
        path[0] = bytes(32)
    elif tamper == "short":
        path.pop()
    else:
        path.append(bytes(32))
    assert code(light.open_contract, Inclusion(one.certificate, one.leaf, index, path).encoded()) == "inclusion"


@pytest.mark.parametrize(
    "leaf",
    [
        [LEAF_CONTRACT],
        [LEAF_CONTRACT, b""],
        [LEAF_CONTRACT, "terms"],
        [LEAF_CONTRACT, b"\x80", 1],
        [LEAF_RECEIPT, "pile-1", 1, bytes(32)],
        [LEAF_CLOSED, bytes(31), "settled"],
        [LEAF_CLOSED, bytes(32), "settled", 1],
        [LEAF_CLOSED, bytes(32), ""],
        [LEAF_CLOSED, bytes(32), "x" * 33],
        {0: 2},
        7,
    ],
)
def test_certified_but_misshapen_contract_leaves_are_refused(chain, light, leaf):
    assert code(light.open_contract, chain.inclusion(encode(leaf)).encoded()) in {"leaf", "codec", "bounds"}


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        ([LEAF_RECEIPT, "pile-2", 1, bytes(32)], "pile"),
        ([LEAF_CONTRACT, "pile-1", 1, bytes(32)], "leaf"),
        ([LEAF_RECEIPT, "pile-1", 0, bytes(32)], "bounds"),
        ([LEAF_RECEIPT, "pile-1", True, bytes(32)], "bounds"),
        ([LEAF_RECEIPT, "pile-1", 1, bytes(31)], "bounds"),
        ([LEAF_RECEIPT, "pile-1", 1], "codec"),
    ],
)
def test_receipts_not_for_us_are_refused(chain, light, leaf, expected):
    assert code(light.open_receipt, chain.inclusion(encode(leaf)).encoded(), 0) == expected


def test_a_receipt_without_quorum_is_refused(chain, light):
    leaf = encode([LEAF_RECEIPT, "pile-1", 1, bytes(32)])
    assert code(light.open_receipt, chain.inclusion(leaf, signing=(0, 1)).encoded(), 0) == "quorum"


def test_no_single_bit_can_be_changed(chain, light):
    message = chain.contract(terms())
    for at in range(0, len(message), 7):
        changed = bytearray(message)
        changed[at] ^= 1 << at % 8
        with pytest.raises(PilechainError):
            light.open_contract(decode_inclusion(bytes(changed)))
    assert light.height == 0


# --- the accounting nodes change


def follow_code(light, message):
    with pytest.raises(PilechainError) as caught:
        light.follow(*decode_handover(message))
    return caught.value.code


def parties(light):
    return [(one.party, one.public) for one in light.validators]


def test_a_handover_replaces_the_set(chain, light):
    following = Chain(powers=(1, 1, 1, 1), first_key=2000)
    assert light.follow(*decode_handover(chain.hand_over(following)))
    assert light.height == 1
    assert light.open_contract(decode_inclusion(following.contract(terms())))[0] is not None


def test_what_the_old_set_certifies_after_a_handover_is_refused(chain, light):
    before = chain.contract(terms())
    light.follow(*decode_handover(chain.hand_over(Chain(first_key=2000))))
    for message in (before, chain.contract(terms())):
        assert code(light.open_contract, message) == "validators"
    receipt = chain.receipt("pile-1", 5, sha256(b"x"))
    assert code(light.open_receipt, receipt, 4) == "validators"
    assert follow_code(light, chain.hand_over(Chain(first_key=3000))) == "validators"


def test_the_next_sets_certificates_wait_for_the_handover(chain, light):
    following = Chain(first_key=2000)
    handover = chain.hand_over(following)
    message = following.contract(terms())
    assert code(light.open_contract, message) == "validators"
    light.follow(*decode_handover(handover))
    assert light.open_contract(decode_inclusion(message))[0] is not None


def test_a_chain_of_handovers_is_followed_in_order_only(chain, light, pinning):
    """A pile that was away for long: each set leads to the next, and none can be left out."""
    sets = [chain, *(Chain(first_key=2000 + 100 * i, powers=(1,) * (i % 4 + 1)) for i in range(12))]
    messages = []
    for before, after in pairwise(sets):
        before.contract(terms())
        messages.append(before.hand_over(after))
    for i, message in enumerate(messages):
        for later in messages[i + 1 :]:
            assert follow_code(light, later) == "validators"
        assert light.follow(*decode_handover(message))
        assert not light.follow(*decode_handover(message))  # it comes twice after a reconnect
        light = pinning(chain)  # and the power is cut after each
        for earlier in messages[:i]:
            assert follow_code(light, earlier) in {"replayed", "validators"}
        assert parties(light) == [(one.party, one.public) for one in sets[i + 1].validators]
    assert light.open_contract(decode_inclusion(sets[-1].contract(terms())))[0] is not None


@pytest.mark.parametrize("signing", [(), (0,), (0, 1), (1, 2)])
def test_a_handover_without_quorum_is_refused(chain, light, signing):
    assert follow_code(light, chain.hand_over(Chain(first_key=2000), signing=signing)) == "quorum"
    assert light.open_contract(decode_inclusion(chain.contract(terms())))[0] is not None


def test_a_set_cannot_appoint_itself(chain, light):
    thief = Chain(first_key=2000)
    assert follow_code(light, thief.hand_over(Chain(first_key=3000))) == "validators"
    thief.validators = chain.validators
    assert follow_code(light, thief.hand_over(Chain(first_key=3000))) == "signature"


def test_a_handover_of_another_chain_is_refused(light):
    assert follow_code(light, Chain("other-chain").hand_over(Chain(first_key=2000))) == "chain"


def test_another_set_under_a_true_handover_is_refused(chain, light):
    certificate, _ = decode_handover(chain.hand_over(Chain(first_key=2000)))
    assert follow_code(light, encode_handover(certificate, Chain(first_key=3000).validators)) == "handover"


def test_an_ordinary_block_hands_over_to_nobody(chain, light):
    certificate = decode_inclusion(chain.contract(terms())).certificate
    assert follow_code(light, encode_handover(certificate, Chain(first_key=2000).validators)) == "handover"
    assert not light.follow(*decode_handover(encode_handover(certificate, chain.validators)))


def test_an_old_handover_is_refused_when_its_set_has_returned(chain, light):
    """A to B to A again: the first step, replayed, would bring back B, whose keys may be anybody's by now."""
    other = Chain(first_key=2000)
    first = chain.hand_over(other)
    light.follow(*decode_handover(first))
    light.follow(*decode_handover(other.hand_over(chain)))
    assert follow_code(light, first) == "replayed"
    assert light.open_contract(decode_inclusion(chain.contract(terms())))[0] is not None


def test_a_handover_older_than_what_was_certified_since_is_refused(chain, light):
    old = chain.hand_over(Chain(first_key=2000))
    light.open_contract(decode_inclusion(chain.contract(terms())))
    assert follow_code(light, old) == "replayed"


def test_a_new_configuration_replaces_a_saved_set(chain, light, pinning):
    light.follow(*decode_handover(chain.hand_over(Chain(first_key=2000))))
    fresh = Chain(first_key=3000)
    assert parties(pinning(fresh)) == [(one.party, one.public) for one in fresh.validators]
    assert pinning(fresh).height == 0
    assert parties(pinning(chain))[0][1] == Chain(first_key=2000).validators[0].public


def test_a_damaged_set_is_not_passed_over(chain, light, pinning, tmp_path):
    light.follow(*decode_handover(chain.hand_over(Chain(first_key=2000))))
    path = tmp_path / "journal" / SET_NAME
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:60] + bytes(1) + whole[61:], whole[:50]):
        path.write_bytes(damaged)
        with pytest.raises(PilechainError, match="put the present accounting nodes into the configuration"):
            pinning(chain)


def test_a_set_that_cannot_be_saved_is_not_believed(chain, light):
    class Full:
        def replace(self, _name, _data):
            raise OSError(28, "no space left on device")

    light._storage = Full()
    assert follow_code(light, chain.hand_over(Chain(first_key=2000))) == "storage"
    assert parties(light) == [(one.party, one.public) for one in chain.validators]


def test_no_single_bit_of_a_handover_can_be_changed(chain, light):
    message = chain.hand_over(Chain(first_key=2000))
    for at in range(0, len(message), 5):
        changed = bytearray(message)
        changed[at] ^= 1 << at % 8
        with pytest.raises(PilechainError):
            light.follow(*decode_handover(bytes(changed)))
    assert parties(light) == [(one.party, one.public) for one in chain.validators]


def test_how_large_a_set_a_handover_can_carry():
    """36 nodes with the longest ids and powers hand over to 36; more is refused before it is read."""

    def longest(nodes, first_key):
        chain = Chain(powers=(1 << 53,) * nodes, first_key=first_key)
        for i, one in enumerate(chain.validators):
            one.party = f"node-{i:027d}"
        return chain

    assert len(longest(36, 1000).hand_over(longest(36, 2000))) <= MAX_HANDOVER_BYTES
    with pytest.raises(PilechainError) as caught:
        decode_handover(longest(MAX_VALIDATORS, 1000).hand_over(longest(MAX_VALIDATORS, 2000)))
    assert caught.value.code == "oversized"


@pytest.mark.parametrize(
    "message", [b"", encode([]), encode([1, 2]), encode([[b"", []], b""]), encode([[b"x", []], 7])]
)
def test_what_is_no_handover_is_refused(message):
    with pytest.raises(PilechainError):
        decode_handover(message)


@pytest.mark.parametrize(
    "rows", [[], 7, [["node-0", bytes(65), 0]], [["node-0", bytes(64), 1]], [["b", bytes(65), 1]] * 2]
)
def test_a_certified_set_that_is_none_is_refused(chain, light, rows):
    """The accounting nodes would have to certify it, but a pile that took it could never believe anything again."""
    header = decode_handover(chain.hand_over(Chain(first_key=2000)))[0].header
    header.next_validators_hash = sha256(encode(rows))
    data = header.encoded()
    signed = Certificate(data, [[i, attest(data, signer, chain.chain_id)] for i, signer in enumerate(chain.signers)])
    assert follow_code(light, encode([signed.fields(), encode(rows)])) in {"validators", "codec", "bounds"}
    assert light.open_contract(decode_inclusion(chain.contract(terms())))[0] is not None
