"""The light client against everything a broker could make up."""

import pytest

from pile_edge.light import LightClient
from pile_hil.peer import Chain, make_terms, secret
from pile_shared.certificate import Inclusion, decode_inclusion
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
def light(chain):
    return LightClient(
        chain_id=chain.chain_id,
        validators=chain.validators,
        pile_id="pile-1",
        public=PILE.public,
        meter_serial="12345678",
    )


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


def test_more_than_two_thirds_are(light):
    chain = Chain(powers=(2, 2, 1))
    pinned = LightClient(
        chain_id=chain.chain_id,
        validators=chain.validators,
        pile_id="pile-1",
        public=PILE.public,
        meter_serial="12345678",
    )
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
