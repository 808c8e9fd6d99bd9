"""The metering proof: sizes, shapes, and that nothing but a proof is one."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pile_shared import cose
from pile_shared.codec import encode
from pile_shared.errors import PilechainError, ProofError, SignatureError
from pile_shared.platform import sha256
from pile_shared.proof import (
    ALARM,
    BEGIN,
    END,
    HEARTBEAT,
    MAX_PROOF_BYTES,
    NO_PREVIOUS,
    PERIODIC,
    Origin,
    Proof,
    decode_payload,
    open_proof,
    parse,
    proof_hash,
)
from pile_shared.reading import MAX_READINGS, Reading
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W, MAX_SEQUENCE, MAX_TIME_MS

CHAIN = "demo-1"
SIGNER = cose.SoftwareSigner(sha256(b"test_proof"))
NOW_MS = 1_700_000_000_000
CONTRACT = b"\xcc" * 32
ORIGIN = Origin("M" * 32, "S" * 32, "P" * 32, bytes(32))
WORST = Reading(MAX_TIME_MS, 3, b"\xff" * 8, MAX_ENERGY_WH, -MAX_POWER_W, 255)


def reading(time_ms=NOW_MS, energy_wh=5, power_w=7000):
    return Reading(time_ms, 2, energy_wh.to_bytes(8, "big"), energy_wh, power_w, 1)


def proof(event=PERIODIC, readings=None, **over):
    values = {
        "sequence": 7,
        "previous": NO_PREVIOUS,
        "contract": CONTRACT,
        "readings": [reading()] if readings is None else readings,
        "reason": 1 if event in {END, ALARM} else 0,
        "origin": ORIGIN if event == BEGIN else None,
    } | over
    return Proof(event=event, **values)


proofs = st.builds(
    proof,
    st.integers(BEGIN, ALARM),
    st.lists(st.integers(0, 50), min_size=1, max_size=6).map(
        lambda steps: [reading(NOW_MS + sum(steps[:i]), sum(steps[:i])) for i in range(len(steps))]
    ),
    sequence=st.integers(1, MAX_SEQUENCE),
    previous=st.binary(min_size=32, max_size=32),
)


@given(proofs)
@settings(max_examples=60)
def test_a_proof_comes_back(made):
    message = made.sign(SIGNER, CHAIN)
    opened = open_proof(message, SIGNER.public, CHAIN)
    assert opened.payload() == made.payload()
    assert opened.readings == made.readings
    assert (opened.sequence, opened.previous, opened.contract) == (made.sequence, made.previous, made.contract)
    assert (opened.event, opened.reason) == (made.event, made.reason)
    assert (opened.origin and opened.origin.fields()) == (made.origin and made.origin.fields())
    signed, parsed = parse(message)
    assert signed.kid == SIGNER.kid
    assert parsed.payload() == made.payload()
    assert proof_hash(message) == sha256(message)
    assert made.sign(SIGNER, CHAIN) == message


# --- size, as the design promises it -------------------------------------------------------------------------------------


# The worst a pile can have: a register of 8 bytes at 4.29 GWh, 65 kW, the last sequence, the last day of the year 9999.
PILE_WORST = Reading(MAX_TIME_MS, 3, b"\xff" * 8, (1 << 32) - 1, -65_536, 3)


@pytest.mark.parametrize(("event", "pile_bytes", "limit_bytes"), [(PERIODIC, 197, 204), (END, 199, 206)])
def test_a_proof_of_one_reading_takes_200_bytes_at_most(event, pile_bytes, limit_bytes):
    """And a few more where a meter shows what no pile's will: 10 TWh, 10 MW, flags that have no meaning yet."""
    for largest, size_bytes in ((PILE_WORST, pile_bytes), (WORST, limit_bytes)):
        made = proof(event, [largest], sequence=MAX_SEQUENCE, reason=8 if event == END else 0)
        assert len(made.sign(SIGNER, CHAIN)) == size_bytes


def test_begin_carries_the_meter_in_addition():
    usual = proof(BEGIN, origin=Origin("SDM630-Modbus V2", "22110347", "eastron-sdm630", bytes(8)))
    assert len(usual.sign(SIGNER, CHAIN)) == 241
    assert len(proof(BEGIN, [WORST], sequence=MAX_SEQUENCE).sign(SIGNER, CHAIN)) == 343


def f32_kwh(energy_wh):
    return struct.pack(">f", energy_wh / 1000)


def u64_wh10(energy_wh):
    return (energy_wh // 10).to_bytes(8, "big")


@pytest.mark.parametrize("raw", [f32_kwh, u64_wh10], ids=["f32", "u64"])
@pytest.mark.parametrize("total_wh", [20_000, 12_345_678, 99_999_000])
@pytest.mark.parametrize("step_ms", [1_000, 10_000, 60_000])
def test_each_further_reading_at_7_kw_takes_12_bytes_at_most(raw, total_wh, step_ms):
    """From 20 kWh on; below, the bits of a float change so fast that it is 14 at 60 s apart."""
    readings = []
    for i in range(23):
        energy_wh = total_wh + 7_000 * step_ms * i // 3_600_000
        readings.append(Reading(NOW_MS + i * step_ms + i % 7, 2, raw(energy_wh), energy_wh, 7_000 + 37 * (i % 3), 1))
    sizes = [len(proof(readings=readings[:count]).sign(SIGNER, CHAIN)) for count in range(1, 24)]
    assert max(after - before for before, after in pairwise(sizes)) <= 12


def test_a_full_proof_of_usual_readings_is_below_its_bound():
    readings = [reading(NOW_MS + 10_000 * i, 12_345_678 + 19 * i) for i in range(MAX_READINGS)]
    assert len(proof(BEGIN, readings).sign(SIGNER, CHAIN)) < 1024


def test_a_full_proof_without_differences_fits_as_well():
    """The meter's power coming and going with every reading is as bad as it gets: each is written in full."""
    readings = [
        Reading(NOW_MS + i, 2, b"\xff" * 8, 4_000_000_000 + i, 65_535, 1 + 2 * (i & 1)) for i in range(MAX_READINGS)
    ]
    assert len(proof(BEGIN, readings).sign(SIGNER, CHAIN)) <= MAX_PROOF_BYTES


def test_an_oversized_proof_is_not_signed():
    readings = [Reading(MAX_TIME_MS, 3, b"\xff" * 8, MAX_ENERGY_WH, -MAX_POWER_W, 254 + (i & 1)) for i in range(60)]
    with pytest.raises(ProofError) as caught:
        proof(readings=readings).sign(SIGNER, CHAIN)
    assert caught.value.code == "oversized"


# --- shape ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "over"),
    [
        (BEGIN, {"origin": None}),
        (PERIODIC, {"origin": ORIGIN}),
        (END, {"reason": 0}),
        (ALARM, {"reason": 0}),
        (BEGIN, {"reason": 1}),
        (PERIODIC, {"reason": 1}),
        (HEARTBEAT, {"reason": 1}),
        (BEGIN, {"contract": None}),
        (PERIODIC, {"contract": None}),
        (END, {"contract": None}),
        (BEGIN, {"readings": []}),
        (PERIODIC, {"readings": []}),
        (END, {"readings": []}),
        (PERIODIC, {"readings": [reading(2), reading(1)]}),
        (PERIODIC, {"readings": [reading(1, 6), reading(1, 5)]}),
        (PERIODIC, {"readings": [reading()] * (MAX_READINGS + 1)}),
    ],
)
def test_a_wrong_shape_is_malformed(event, over):
    with pytest.raises(ProofError) as caught:
        proof(event, **over)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("event", [HEARTBEAT, ALARM])
def test_heartbeat_and_alarm_may_lack_reading_and_contract(event):
    made = proof(event, readings=[], contract=None)
    assert open_proof(made.sign(SIGNER, CHAIN), SIGNER.public, CHAIN).readings == []


@pytest.mark.parametrize(
    "over",
    [
        {"sequence": 0},
        {"sequence": MAX_SEQUENCE + 1},
        {"sequence": True},
        {"previous": bytes(31)},
        {"previous": None},
        {"contract": bytes(33)},
        {"contract": "x" * 32},
        {"event": 5},
        {"event": -1},
        {"reason": 9},
    ],
)
def test_a_field_out_of_range(over):
    values = {"sequence": 1, "previous": NO_PREVIOUS, "contract": CONTRACT, "event": PERIODIC, "readings": [reading()]}
    with pytest.raises(PilechainError) as caught:
        Proof(**(values | over))
    assert caught.value.code == "bounds"


# --- what comes from outside ---------------------------------------------------------------------------------------------


def test_every_changed_byte_and_every_truncation_is_refused():
    good = proof(BEGIN).sign(SIGNER, CHAIN)
    open_proof(good, SIGNER.public, CHAIN)
    for at in range(len(good)):
        for pattern in (0x01, 0x80):
            bad = bytearray(good)
            bad[at] ^= pattern
            with pytest.raises(SignatureError):
                open_proof(bytes(bad), SIGNER.public, CHAIN)
        with pytest.raises(SignatureError):
            open_proof(good[:at], SIGNER.public, CHAIN)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_refused_with_a_typed_error(data):
    with pytest.raises(PilechainError):
        open_proof(data, SIGNER.public, CHAIN)
    with pytest.raises(PilechainError):
        open_proof(cose.sign1(data, SIGNER, cose.purpose(cose.PROOF, CHAIN)), SIGNER.public, CHAIN)
    with pytest.raises(PilechainError):
        parse(data)


numbers = st.one_of(st.integers(-2, 9), st.sampled_from([1 << 32, (1 << 63) - 1, NOW_MS]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.binary(max_size=33), st.text(max_size=3), st.just(NO_PREVIOUS)),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.integers(0, 9), inner, max_size=3)),
    max_leaves=8,
)
GOOD = {0: 1, 1: 9, 2: NO_PREVIOUS, 3: CONTRACT, 4: PERIODIC, 6: [[NOW_MS, 2, bytes(4), 5, 7000, 1]]}


@given(st.dictionaries(st.integers(0, 9), anything, max_size=3), st.lists(st.sampled_from(sorted(GOOD)), max_size=1))
@settings(max_examples=500)
def test_an_accepted_payload_is_the_one_encoding_of_its_proof(changes, left_out):
    fields = {k: v for k, v in (GOOD | changes).items() if k not in left_out or k in changes}
    payload = encode(fields)
    try:
        accepted = decode_payload(payload)
    except PilechainError as error:
        assert error.code in {"malformed", "bounds", "codec", "oversized"}  # noqa: PT017 - or no error at all
        return
    assert accepted.payload() == payload


def test_true_is_not_version_1():
    with pytest.raises(ProofError):
        decode_payload(encode(GOOD | {0: True}))
    assert decode_payload(encode(GOOD)).sequence == 9


def test_another_chain_or_key_is_refused():
    message = proof().sign(SIGNER, CHAIN)
    with pytest.raises(SignatureError) as caught:
        open_proof(message, SIGNER.public, "demo-2")
    assert caught.value.code == "bad_signature"
    with pytest.raises(SignatureError) as caught:
        open_proof(message, cose.SoftwareSigner(sha256(b"other")).public, CHAIN)
    assert caught.value.code == "unknown_key"
