"""What a pile believes: more than two thirds, by the pinned set, of this chain, and not one byte otherwise."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pile_shared import cose, merkle
from pile_shared.certificate import (
    MAX_LEAF_BYTES,
    MAX_VALIDATORS,
    Certificate,
    Header,
    Inclusion,
    Validator,
    attest,
    decode_header,
    decode_inclusion,
    inclusion_from,
    validators_from,
    validators_hash,
)
from pile_shared.codec import decode, encode
from pile_shared.errors import CertificateError, PilechainError
from pile_shared.platform import sha256

CHAIN = "demo-1"
LEAVES = [b"leaf %d" % i for i in range(5)]


def key(name):
    return cose.SoftwareSigner(sha256(b"test_certificate " + name.encode()))


def trusted(*powers):
    return [Validator(f"v{i:02}", key(f"v{i:02}").public, power) for i, power in enumerate(powers)]


def header(validators, **over):
    values = {
        "chain_id": CHAIN,
        "height": 3,
        "time_ms": 1_700_000_000_000,
        "proposer": "v00",
        "tx_count": 2,
        "result_count": len(LEAVES),
        "previous": b"\x01" * 32,
        "tx_root": b"\x02" * 32,
        "result_root": merkle.root(LEAVES),
        "state_root": b"\x03" * 32,
        "validators_hash": validators_hash(validators),
        "next_validators_hash": b"\x04" * 32,
    }
    return Header(**(values | over))


def certificate(validators, signers, **over):
    encoded = header(validators, **over).encoded()
    chain = over.get("chain_id", CHAIN)
    return Certificate(encoded, [[i, attest(encoded, key(f"v{i:02}"), chain)] for i in signers])


def inclusion(validators, signers, index=2):
    return Inclusion(certificate(validators, signers), LEAVES[index], index, merkle.path(merkle.levels(LEAVES), index))


def code(call, *arguments):
    with pytest.raises(PilechainError) as caught:
        call(*arguments)
    return caught.value.code


# --- quorum --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("powers", "signers", "enough"),
    [
        ((1,), (0,), True),
        ((1,), (), False),
        ((1, 1), (0,), False),
        ((1, 1), (0, 1), True),
        ((1, 1, 1), (0, 1), False),  # exactly two thirds
        ((1, 1, 1), (0, 1, 2), True),
        ((1, 1, 1, 1), (0, 1, 2), True),
        ((1, 1, 1, 1), (1, 3), False),
        ((2, 1, 3), (0, 2), True),
        ((2, 1, 3), (1, 2), False),  # 4 of 6: exactly two thirds
        ((5, 1, 1), (0,), True),
        ((4, 1, 1), (0,), False),  # 4 of 6
        ((1 << 53, 1 << 53, 1 << 53), (0, 1), False),
        ((1 << 53, (1 << 53) - 1, (1 << 53) - 1), (0, 1), True),
        ((1,) * 6, (0, 1, 2, 3), False),
        ((1,) * 6, (0, 1, 2, 3, 5), True),
    ],
)
def test_quorum(powers, signers, enough):
    validators = trusted(*powers)
    made = certificate(validators, signers)
    if enough:
        assert made.verify(CHAIN, validators).height == 3
    else:
        assert code(made.verify, CHAIN, validators) == "quorum"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
@settings(max_examples=60)
def test_quorum_is_more_than_two_thirds(powers, data):
    signers = data.draw(st.sets(st.integers(0, len(powers) - 1)))
    validators = trusted(*powers)
    made = certificate(validators, sorted(signers))
    if sum(powers[i] for i in signers) * 3 > sum(powers) * 2:
        made.verify(CHAIN, validators)
    else:
        assert code(made.verify, CHAIN, validators) == "quorum"


# --- who signed what -----------------------------------------------------------------------------------------------------

FOUR = trusted(1, 1, 1, 1)


def altered(rows, made=None):
    made = made or certificate(FOUR, (0, 1, 2))
    return Certificate(made.header_bytes, rows(list(made.attestations)))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (lambda rows: [rows[0], rows[0], rows[1], rows[2]], "bounds"),
        (lambda rows: [rows[1], rows[0], rows[2]], "bounds"),
        (lambda rows: [[0, rows[1][1]], *rows[1:]], "signature"),
        (lambda rows: [*rows, [3, rows[0][1]]], "signature"),  # enough without it, yet every one present must be right
        (lambda rows: [*rows, [4, rows[0][1]]], "bounds"),
        (lambda rows: [[-1, rows[0][1]], *rows[1:]], "bounds"),
        (lambda rows: [[False, rows[0][1]], *rows[1:]], "bounds"),
        (lambda rows: [[0, rows[0][1][:63]], *rows[1:]], "bounds"),
        (lambda rows: [[0, None], *rows[1:]], "bounds"),
        (lambda rows: [[0], *rows[1:]], "codec"),
        (lambda rows: [None, *rows[1:]], "codec"),
        (lambda rows: rows * 2, "codec"),
        (lambda _: None, "codec"),
    ],
)
def test_wrong_attestations(rows, expected):
    assert code(altered(rows).verify, CHAIN, FOUR) == expected


def test_a_signature_by_a_stranger():
    made = certificate(FOUR, (0, 1, 2))
    stranger = attest(made.header_bytes, key("stranger"), CHAIN)
    assert code(altered(lambda rows: [*rows[:2], [2, stranger]]).verify, CHAIN, FOUR) == "signature"


def test_a_signature_for_another_purpose_or_chain_or_header():
    made = certificate(FOUR, (0, 1, 2))
    signer = key("v02")
    as_tx = signer.sign(cose.to_be_signed(signer.kid, sha256(made.header_bytes), cose.purpose(cose.TRANSACTION, CHAIN)))
    elsewhere = attest(made.header_bytes, signer, "demo-2")
    other_header = attest(header(FOUR, height=4).encoded(), signer, CHAIN)
    for signature in (as_tx, elsewhere, other_header):
        assert code(altered(lambda rows, s=signature: [*rows[:2], [2, s]]).verify, CHAIN, FOUR) == "signature"


def test_the_other_s_is_refused():
    """ES256 takes (r, n - s) as well; here it would be other bytes of the same certificate."""

    def other_s(rows):
        r, s = rows[2][1][:32], int.from_bytes(rows[2][1][32:], "big")
        return [*rows[:2], [2, r + (cose._ORDER - s).to_bytes(32, "big")]]

    assert code(altered(other_s).verify, CHAIN, FOUR) == "signature"


@pytest.mark.parametrize("s", [cose._ORDER, cose._ORDER + 1, (1 << 256) - 1])
def test_an_s_that_is_none_is_refused(s):
    """Anybody can send it; found by fuzzing."""
    made = altered(lambda rows: [*rows[:2], [2, rows[2][1][:32] + s.to_bytes(32, "big")]])
    assert code(made.verify, CHAIN, FOUR) == "signature"


def test_another_chain_and_another_set():
    made = certificate(FOUR, (0, 1, 2), chain_id="demo-2")
    assert code(made.verify, CHAIN, FOUR) == "chain"
    good = certificate(FOUR, (0, 1, 2))
    assert code(good.verify, CHAIN, FOUR[:3]) == "validators"
    assert code(good.verify, CHAIN, trusted(1, 1, 1, 2)) == "validators"
    assert code(good.verify, CHAIN, [*FOUR[:3], Validator("v03", key("new").public, 1)]) == "validators"
    assert code(good.verify, CHAIN, list(reversed(FOUR))) == "validators"


# --- inclusion -----------------------------------------------------------------------------------------------------------


def test_an_inclusion_comes_back():
    for index in range(len(LEAVES)):
        made = inclusion(FOUR, (0, 2, 3), index)
        data = made.encoded()
        again = decode_inclusion(data)
        assert again.encoded() == data
        assert again.verify(CHAIN, FOUR).hash() == sha256(header(FOUR).encoded())
        assert (again.leaf, again.index) == (LEAVES[index], index)


def test_every_changed_byte_and_every_truncation_is_refused():
    """Every byte, every bit of it and two larger changes: nothing in a certificate is unprotected."""
    data = inclusion(FOUR, (0, 2, 3)).encoded()
    decode_inclusion(data).verify(CHAIN, FOUR)

    def check(changed):
        decode_inclusion(changed).verify(CHAIN, FOUR)

    patterns = [*(1 << bit for bit in range(8)), 0xFF, 0x55]
    for at in range(len(data)):
        for pattern in patterns:
            bad = bytearray(data)
            bad[at] ^= pattern
            assert code(check, bytes(bad)), (at, pattern)
        assert code(check, data[:at])
        assert code(check, data[:at] + data[at + 1 :])
    assert code(check, data + b"\x00")


def test_a_leaf_of_another_place_is_refused():
    good = inclusion(FOUR, (0, 1, 2), 2)
    for leaf, index, path in (
        (LEAVES[3], 2, good.path),
        (LEAVES[2], 3, good.path),
        (LEAVES[2], 2, good.path[:-1]),
        (LEAVES[2], 2, [*good.path, bytes(32)]),
        (LEAVES[2], 2, list(reversed(good.path))),
        (LEAVES[2], 5, good.path),
    ):
        assert code(Inclusion(good.certificate, leaf, index, path).verify, CHAIN, FOUR) == "inclusion"


def test_the_count_of_results_is_part_of_the_proof():
    """A header that counts more results than its tree has leads nowhere."""
    encoded = certificate(FOUR, (0, 1, 2), result_count=9)
    good = inclusion(FOUR, (0, 1, 2), 4)
    assert code(Inclusion(encoded, LEAVES[4], 4, good.path).verify, CHAIN, FOUR) == "inclusion"


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_refused_with_a_typed_error(data):
    assert code(decode_inclusion, data)
    assert code(decode_header, data)


anything = st.recursive(
    st.one_of(st.none(), st.integers(-1, 5), st.binary(max_size=40), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(anything, st.lists(st.integers(0, 3), max_size=3))
@settings(max_examples=300)
def test_any_value_in_any_place_is_refused_with_a_typed_error(value, where):
    tree = decode(inclusion(FOUR, (0, 1, 2)).encoded(), 1 << 16)
    node = tree
    for step in where:
        if not isinstance(node[step % len(node)], list) or not node[step % len(node)]:
            break
        node = node[step % len(node)]
    node[0] = value
    try:
        inclusion_from(tree).verify(CHAIN, FOUR)
    except PilechainError as error:
        assert error.code  # noqa: PT017 - or no error at all
    else:
        assert encode(tree) == inclusion(FOUR, (0, 1, 2)).encoded()


def test_bounds():
    good = inclusion(FOUR, (0, 1, 2))
    assert code(Inclusion, good.certificate, b"", 0, []) == "bounds"
    assert code(Inclusion, good.certificate, bytes(MAX_LEAF_BYTES + 1), 0, []) == "bounds"
    assert code(inclusion_from, [good.certificate.fields(), good.leaf, 2, [bytes(32)] * 33]) == "codec"
    assert code(decode_inclusion, bytes(300_000)) == "oversized"
    assert code(decode_header, bytes(513)) == "oversized"


# --- header and validator set --------------------------------------------------------------------------------------------


def test_a_header_comes_back():
    made = header(FOUR)
    again = decode_header(made.encoded())
    assert again.encoded() == made.encoded()
    assert again.hash() == made.hash() == sha256(made.encoded())
    assert vars(again) == vars(made)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (0, 2, "header"),
        (0, True, "header"),
        (1, "Demo", "bounds"),
        (2, 0, "bounds"),
        (2, True, "bounds"),
        (3, 253402300800001, "bounds"),
        (4, "", "bounds"),
        (5, -1, "bounds"),
        (6, 1 << 25, "bounds"),
        (7, bytes(31), "bounds"),
        (12, None, "bounds"),
    ],
)
def test_a_wrong_field(place, value, expected):
    row = decode(header(FOUR).encoded(), 999)
    row[place] = value
    assert code(decode_header, encode(row)) == expected


def test_every_field_changes_the_hash():
    row = decode(header(FOUR).encoded(), 999)
    for place in range(1, len(row)):
        other = {str: "other", int: 7, bytes: b"\xee" * 32}[type(row[place])]
        changed = [*row[:place], other, *row[place + 1 :]]
        assert decode_header(encode(changed)).hash() != header(FOUR).hash()


def test_validator_sets():
    rows = [v.fields() for v in FOUR]
    assert [v.fields() for v in validators_from(rows)] == rows
    assert validators_hash(FOUR) == sha256(encode(rows))
    for wrong, expected in (
        ([], "validators"),
        ([rows[1], rows[0]], "validators"),
        ([rows[0], rows[0]], "validators"),
        ([rows[0], ["v09", rows[0][1], 1]], "validators"),  # one key, two seats
        ([["v00", rows[0][1], 0]], "bounds"),
        ([["v00", rows[0][1], (1 << 53) + 1]], "bounds"),
        ([["v00", bytes(64), 1]], "bounds"),
        ([["v00", rows[0][1]]], "codec"),
        ([None], "codec"),
        (None, "codec"),
        (rows * (MAX_VALIDATORS // 4 + 1), "codec"),
    ):
        assert code(validators_from, wrong) == expected


def test_certificate_errors_are_what_a_pile_expects():
    with pytest.raises(CertificateError):
        certificate(FOUR, (0,)).verify(CHAIN, FOUR)
