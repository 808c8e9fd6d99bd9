"""Every transaction type with anything in it, from anybody, in every state: a typed result, and a rejection leaves no trace.

`every_phase.Traceless` holds after each single case that records, sums, indexes, journal and state root are as before.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator

import cbor2
import pytest
from every_phase import AT, FAR, FILLING, FULL, PHASES, EveryPhase, Traceless, every_phase, twice_attested
from hypothesis import given
from hypothesis import strategies as st
from world import END, HOUR, NOW, START, bounded, consensus, key

from pile_coordinator.chain.invariants import check_in_full
from pile_coordinator.chain.proofs import ADMITTED
from pile_coordinator.chain.records import Contract, Party
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.state import State
from pile_coordinator.chain.transactions import BODIES, MAX_TX_BYTES, MAX_VALIDITY_BLOCKS, pseudonym
from pile_coordinator.chain.transition import apply_block
from pile_shared import cose
from pile_shared.codec import MAX_DEPTH, encode

EVERY: EveryPhase = every_phase()
MARKET = EVERY.market
TRACELESS = Traceless(MARKET)
VALID = EVERY.valid()
TYPES = sorted(BODIES)
OF_NOBODY = {"anonymous-bid", "redeem-notes"}  # ring-signed; test_notes.py makes their signers and chains wrong
SIGNED = sorted(set(BODIES) - OF_NOBODY)
NO_SIGNATURE = bytes(544)  # where the form is wrong, nobody looks at it
TRADERS = {"pile-owner", "ev-owner"}


def code_of(data: bytes) -> str:
    code = TRACELESS.code(data)
    assert code in {"ok", *CODES}
    return code


def raw(kind: str, values: object, sender: str | None = None, **over: object) -> bytes:
    """Of any content, well signed by its sender: who has a key and a name, or the owner of the second note of a bin."""
    sender = VALID[kind][0] if sender is None else sender
    if not sender.startswith("anon-"):
        return MARKET.raw(sender, kind, values, **over)
    turn, until = over.get("sequence", 1), over.get("valid_until_height", MARKET.height + 100)
    payload = encode([MARKET.chain_id, kind, sender, turn, until, values])
    return encode([payload, [NO_SIGNATURE]]) if over.get("unsigned") else EVERY.of_nobody(payload)


def test_each_example_is_accepted() -> None:
    assert set(VALID) == set(BODIES)
    assert {kind: code_of(raw(kind, values)) for kind, (_, values) in VALID.items()} == dict.fromkeys(VALID, "ok")


# --- form: what each field may be ---------------------------------------------------------------------------------------
#
# Bounds as literals, from the ledger guide, the wire format and units.py, not from the code under test.

ID, OPTIONAL_ID, KEY, HASH, SIGNATURE, BOOL = "id", "id or empty", "key", "hash", "signature", "bool"
OWN_KEY, POINT = "key on its curve", "point"  # that nobody looked at before
SIZES = {KEY: 65, HASH: 32, SIGNATURE: 64, OWN_KEY: 65, POINT: 32}
ON_CURVE = {OWN_KEY: key("on the curve").public, POINT: VALID["buy-notes"][1][0]}
SPENDING: list[tuple[str, object]] = [("notes", "list"), ("public", OWN_KEY)]
STAKE = 10**16
TIME = (0, 253_402_300_800_000)
PRICE = 10**12
CATALOG = 10**9
MONEY = 10**18
FIELDS: dict[str, list[tuple[str, object]]] = {
    "register-party": [("id", ID), ("role", "word"), ("public", KEY)],
    "rotate-key": [("public", KEY)],
    "revoke-key": [("party", ID)],
    "restore-key": [("party", ID), ("public", KEY)],
    "register-pile": [
        ("id", ID),
        ("owner", ID),
        ("public", KEY),
        ("meter_model", 32),
        ("meter_serial", 32),
        ("zone", ID),
        ("rated_power_w", (1, 10_000_000)),
    ],
    "retire-pile": [("pile", ID)],
    "deposit": [("party", ID), ("amount_micro", (1, 10**15)), ("reference", 64)],
    "withdraw": [("amount_micro", (1, MONEY)), ("destination", 64)],
    "pay-out": [("withdrawal", HASH), ("reference", 64)],
    "refuse-withdrawal": [("withdrawal", HASH), ("reason", 200)],
    "collect-fees": [("party", ID), ("amount_micro", (1, MONEY))],
    "set-tariff": [("from_ms", TIME), ("utc_offset_minutes", (-720, 840)), ("period", "list")],
    "list": [
        ("pile", ID),
        ("window_start_ms", TIME),
        ("window_end_ms", TIME),
        ("energy_wh", (100, 10**9)),
        ("ask_micro_per_kwh", (-1, PRICE)),
        ("explicit", BOOL),
    ],
    "unlist": [("listing", HASH)],
    "bid": [
        ("zone", ID),
        ("pile", OPTIONAL_ID),
        ("energy_wh", (100, 10**6)),
        ("window_start_ms", TIME),
        ("window_end_ms", TIME),
        ("limit_micro_per_kwh", (1, PRICE)),
        ("market", BOOL),
        ("expires_ms", TIME),
        ("divisible", BOOL),
        ("explicit", BOOL),
    ],
    "cancel": [("bid", HASH)],
    "sign": [("contract", HASH)],
    "cancel-contract": [("contract", HASH)],
    "proofs": [("proof", "list")],
    "confirm": [("contract", HASH), ("digest", HASH)],
    "object": [("contract", HASH), ("ground", "word"), ("claimed_wh", (0, 10**13)), ("text", 200)],
    "answer": [("contract", HASH), ("stop", (b"", 1, 1024))],
    "rule": [("contract", HASH), ("measured_wh", (0, 10**13)), ("cause", "word")],
    "register-candidate": [
        ("consensus", HASH),
        ("attestation", KEY),
        ("commission_permille", (0, 1000)),
        ("amount_micro", (1, STAKE)),
    ],
    "delegate": [("candidate", ID), ("amount_micro", (1, STAKE))],
    "undelegate": [("candidate", ID), ("amount_micro", (1, STAKE))],
    "set-commission": [("commission_permille", (0, 1000))],
    "unjail": [],
    "double-attestation": [
        ("candidate", ID),
        ("first", (b"", 1, 512)),
        ("first_signature", SIGNATURE),
        ("second", (b"", 1, 512)),
        ("second_signature", SIGNATURE),
    ],
    "vote-upgrade": [("name", ID), ("height", (0, (1 << 53) - 1))],
    "buy-notes": [("base", POINT), ("counts", "counts")],
    "redeem-notes": [*SPENDING, ("party", ID)],
}
_BID = FIELDS["bid"][:-2]  # neither divisible nor signed explicitly
FIELDS["anonymous-bid"] = [*SPENDING, ("refund", POINT), *_BID]
MISFITS: list[object] = [None, {}, {"a": 1}, {1: 2}, [[]], [None], -(1 << 63), (1 << 63) - 1, "x" * 300, b"x" * 2049]
TEXTS = ["", "ü", "\n", "\x00", "\x7f", "тест", "\U0001f50c", "\u202e"]


def outside(rule: object) -> Iterator[object]:
    """Values that a field of this rule must refuse: of every other type, and just beyond each bound."""
    yield from MISFITS
    if rule in {ID, OPTIONAL_ID}:
        yield from [text for text in TEXTS if text or rule == ID]
        yield from ["A", "a_b", "a b", "a" * 33, "user-1\n", 1, True, b"user-1", ["user-1"]]
    elif rule in SIZES:
        size = SIZES[str(rule)]
        yield from [b"", b"\x04" * (size - 1), b"\x04" * (size + 1), "x" * size, 4, False, [b"\x04" * size]]
        if rule in ON_CURVE:
            yield from [bytes(size), b"\xff" * size, *([b"\x04" * size] if rule == OWN_KEY else [])]
    elif rule == BOOL:
        yield from [0, 1, "true", b"\x01", [True]]
    elif rule == "word":
        yield from ["", "nonsense", "Grid", "energy ", "none", 1, True, b"user", ["user"], *TEXTS]
    elif rule == "list":
        yield from ["x", b"x", 1, True, [], [1], [True], ["x"], [{}]]
    elif rule == "counts":
        yield from ["x", b"x", 1, True, [], [0], [1, 0], [65], [32, 33], [-1], [True], ["x"], [{}], [1] * 33]
    elif isinstance(rule, int):
        yield from [*TEXTS, "x" * (rule + 1), 1, True, b"x", ["x"]]
    elif isinstance(rule, tuple) and rule[0] == b"":
        yield from [b"", b"x" * (rule[2] + 1), "x", 1, True]
    elif isinstance(rule, tuple):
        yield from [rule[0] - 1, rule[1] + 1, True, False, "1", b"1", [1], ""]


def inside(rule: object) -> Iterator[object]:
    """Values at the bounds, which the form of a transaction must let pass."""
    if rule in {ID, OPTIONAL_ID}:
        yield from ["a", "-" * 32] + ([""] if rule == OPTIONAL_ID else [])
    elif rule in SIZES:
        yield ON_CURVE.get(str(rule), b"\x05" * SIZES[str(rule)])
    elif rule == "counts":
        yield from [[64], [0, 64], [32, 32], [0] * 31 + [64], [2] * 32]
    elif rule == BOOL:
        yield from [True, False]
    elif isinstance(rule, int):
        yield from ["~", " " * rule]
    elif isinstance(rule, tuple) and rule[0] == b"":
        yield from [b"\x00", b"\xff" * rule[2]]
    elif isinstance(rule, tuple):
        yield from rule


def test_the_table_of_fields_is_that_of_the_types() -> None:
    assert set(FIELDS) == set(BODIES)
    for kind, body in BODIES.items():
        names = [name for name, _ in FIELDS[kind]]
        assert [name.removesuffix("s") for name in body.__match_args__] == [name.removesuffix("s") for name in names]


@pytest.mark.parametrize("kind", TYPES)
def test_a_field_outside_its_range_is_out_of_bounds_and_named(kind: str) -> None:
    for position, (name, rule) in enumerate(FIELDS[kind]):
        for junk in outside(rule):
            values = list(VALID[kind][1])
            values[position] = junk
            if junk == values[position] == VALID[kind][1][position]:
                continue
            result = TRACELESS.result(raw(kind, values, unsigned=True))
            assert result.code == "bounds", (name, junk, result)
            assert name in result.message, (name, junk, result)


@pytest.mark.parametrize("kind", TYPES)
def test_a_field_at_its_bound_is_within_it(kind: str) -> None:
    for position, (name, rule) in enumerate(FIELDS[kind]):
        for edge in inside(rule):
            values = list(VALID[kind][1])
            values[position] = edge
            assert code_of(raw(kind, values, unsigned=True)) not in {"bounds", "malformed"}, (name, edge)


@pytest.mark.parametrize("kind", TYPES)
def test_another_number_of_fields_is_malformed(kind: str) -> None:
    values = VALID[kind][1]
    for body in ([], values[:-1], [*values, 1], [*values, *values], {}, None, 1, "x", b"x", True):
        assert body == values or code_of(raw(kind, body, unsigned=True)) == "malformed"


PERIOD: list[object] = [0, "flat", 2, 1]
BAD_PERIODS = [
    [PERIOD] * 25,
    [[1, "flat", 2, 1]],
    [PERIOD, PERIOD],
    [PERIOD, [1440, "late", 2, 1]],
    [PERIOD, [600, "b", 2, 1], [599, "c", 2, 1]],
    [[0, "flat", 2, 3]],
    [[0, "flat", 0, 0]],
    [[0, "flat", CATALOG + 1, 1]],
    [[0, "flat", 2, -1]],
    [[0, "flat", 2]],
    [[0, "flat", 2, 1, 0]],
    *[[[*PERIOD[:i], junk, *PERIOD[i + 1 :]]] for i in range(4) for junk in (None, True, "ü", b"1", [], {}, -1)],
]


@pytest.mark.parametrize("periods", BAD_PERIODS, ids=repr)
def test_a_tariff_that_does_not_make_sense_is_out_of_bounds(periods: list) -> None:
    assert code_of(raw("set-tariff", [AT + HOUR, 0, periods])) == "bounds"


def test_the_largest_tariff_is_accepted() -> None:
    periods = [[60 * i, "p" * 32, CATALOG, CATALOG] for i in range(24)]
    assert code_of(raw("set-tariff", [AT + HOUR, 840, periods])) == "ok"


def test_a_batch_of_proofs_is_bounded() -> None:
    assert code_of(raw("proofs", [[b"x"] * 256])) == "ok"
    for batch in ([b"x"] * 257, [b""], [b"x" * 2049], [b"x", "x"], [b"x", None], [[b"x"]]):
        assert code_of(raw("proofs", [batch])) == "bounds"


# --- CBOR that is not ours --------------------------------------------------------------------------------------------------

FOREIGN = {
    "half float": b"\xf9\x3c\x00",
    "float": b"\xfb" + bytes(8),
    "nan": b"\xf9\x7e\x00",
    "undefined": b"\xf7",
    "simple": b"\xf8\x20",
    "date": b"\xc0\x61x",
    "bignum": b"\xc2\x41\x01",
    "self-described": b"\xd9\xd9\xf7\x01",
    "shared value": b"\xd8\x1c\x01",
    "shared reference": b"\xd8\x1d\x00",
    "set": b"\xd9\x01\x02\x80",
    "2^63": cbor2.dumps(1 << 63),
    "2^64": cbor2.dumps(1 << 64),
    "-2^63 - 1": cbor2.dumps(-(1 << 63) - 1),
    "longer than needed": b"\x18\x01",
    "longer length": b"\x58\x01x",
    "endless bytes": b"\x5f\x41x\xff",
    "endless text": b"\x7f\x61x\xff",
    "endless list": b"\x9f\x01\xff",
    "endless map": b"\xbf\x01\x02\xff",
    "break": b"\xff",
    "reserved": b"\x1c",
    "half a surrogate pair": b"\x63\xed\xa0\x80",
    "not UTF-8": b"\x61\xff",
    "keys twice": b"\xa2\x01\x01\x01\x02",
    "keys unordered": b"\xa2\x02\x01\x01\x02",
    "keys mixed": b"\xa2\x01\x01\x61x\x02",
    "key of bytes": b"\xa1\x41x\x01",
    "key below zero": b"\xa1\x20\x01",
    "nested too deep": b"\x81" * (MAX_DEPTH + 1) + b"\x01",
    "nested far too deep": b"\x81" * 5000 + b"\x01",
    "longer than the rest": b"\x5a\xff\xff\xff\xff",
    "many more than there are": b"\x9a\xff\xff\xff\xff",
    "nothing": b"",
}


def enclosed(parts: list[bytes]) -> bytes:
    """A CBOR array of encoded items, right or wrong."""
    return bytes([0x80 | len(parts)]) + b"".join(parts)


def signed(sender: str, payload: bytes) -> bytes:
    if sender.startswith("anon-"):
        return encode([payload, [NO_SIGNATURE]])
    return cose.sign1(payload, key(sender), cose.purpose(cose.TRANSACTION, MARKET.chain_id))


@pytest.mark.parametrize("kind", TYPES)
def test_an_encoding_that_is_not_ours_is_malformed_in_every_field(kind: str) -> None:
    sender, values = VALID[kind]
    head: list[object] = [MARKET.chain_id, kind, sender, MARKET.sequences.get(sender, 0) + 1, MARKET.height + 100]
    for name, foreign in FOREIGN.items():
        for position in range(len(values)):
            parts = [encode(value) for value in values]
            parts[position] = foreign
            payload = enclosed([*map(encode, head), enclosed(parts)])
            assert code_of(signed(sender, payload)) == "malformed", (name, position)
    for name, foreign in FOREIGN.items():
        for position in range(6):
            parts = [*map(encode, head), encode(values)]
            parts[position] = foreign
            assert code_of(signed(sender, enclosed(parts))) == "malformed", (name, position)


# --- envelope ----------------------------------------------------------------------------------------------------------

NUMBERS: list[object] = [0, -1, 1 << 53, (1 << 63) - 1, -(1 << 63), None, True, "1", b"1", [], {}]


@pytest.mark.parametrize("kind", TYPES)
def test_sequence_and_height_are_checked_for_every_type(kind: str) -> None:
    sender, values = VALID[kind]
    for junk in NUMBERS:
        assert code_of(raw(kind, values, sequence=junk, unsigned=True)) == "bounds"
        assert code_of(raw(kind, values, valid_until_height=junk, unsigned=True)) == "bounds"
    turn, height = MARKET.sequences.get(sender, 0) + 1, MARKET.height + 1
    by_sequence = {
        turn - 1: "replayed" if turn > 1 else "bounds",
        turn: "ok",
        turn + 1: "sequence_gap",
        (1 << 53) - 1: "sequence_gap",
    }
    assert {at: code_of(raw(kind, values, sequence=at)) for at in by_sequence} == by_sequence
    last = height + MAX_VALIDITY_BLOCKS
    by_height = {height - 1: "expired", height: "ok", last: "ok", last + 1: "too_far", (1 << 53) - 1: "too_far"}
    assert {at: code_of(raw(kind, values, valid_until_height=at)) for at in by_height} == by_height


@pytest.mark.parametrize("kind", SIGNED)
def test_chain_sender_and_signer_are_checked_for_every_type(kind: str) -> None:
    sender, values = VALID[kind]
    assert code_of(raw(kind, values, chain_id=MARKET.chain_id[:-1])) == "wrong_chain"
    assert code_of(raw(kind, values, chain_id="")) == "wrong_chain"
    for name in ("nobody", "", "ü", "x" * 300, "pile-1", "north"):
        assert code_of(raw(kind, values, name, signer="eve")) == "unknown_sender"
    for signer in ("eve", "gone-user", "user-1" if sender != "user-1" else "user-2"):
        assert code_of(raw(kind, values, signer=signer)) == "bad_signature"
    row = encode([MARKET.chain_id, kind, sender, MARKET.sequences[sender] + 1, MARKET.height + 100, values])
    for purpose in (cose.PROOF, cose.HEADER, cose.SESSION, cose.QUERY, cose.REPLY):
        forged = cose.sign1(row, key(sender), cose.purpose(purpose, MARKET.chain_id))
        assert code_of(forged) == "bad_signature"
    for junk in (None, 1, True, b"x", [], {}):
        for position in range(3):
            parts: list[object] = [MARKET.chain_id, kind, sender, 1, 100, values]
            parts[position] = junk
            assert code_of(signed(sender, encode(parts))) == "malformed"


@pytest.mark.parametrize("kind", TYPES)
def test_only_the_roles_of_a_type_may_send_it_and_nobody_whose_key_is_revoked(kind: str) -> None:
    for party in MARKET.state.each(Party):
        code = code_of(raw(kind, VALID[kind][1], party.id))
        if party.id.startswith("gone-"):
            assert code == "revoked"
        elif party.role not in BODIES[kind].ROLES:
            assert code == "wrong_role"
        elif party.id == VALID[kind][0]:
            assert code == "ok"
        else:
            assert code != "revoked"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 63) - 1)
        | st.binary(max_size=70)
        | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=9,
    )
)
@bounded(400)
def test_any_value_may_be_signed(value: object) -> None:
    assert code_of(signed("grid", encode(value))) in {"malformed", "unknown_type"}


@given(st.binary(max_size=400))
@bounded(400)
def test_any_bytes_may_come(data: bytes) -> None:
    assert code_of(data) == "malformed"
    assert code_of(signed("grid", data)) in {"malformed", "unknown_type", "bounds"}


def test_length_is_checked_before_anything_else() -> None:
    assert code_of(bytes(MAX_TX_BYTES)) == "malformed"
    assert code_of(bytes(MAX_TX_BYTES + 1)) == "oversized"
    assert code_of(b"") == "malformed"


@given(st.sampled_from(TYPES), st.integers(0, 1 << 16), st.integers(1, 255))
@bounded(1000)
def test_no_byte_of_a_transaction_can_be_changed(kind: str, position: int, flip: int) -> None:
    changed = bytearray(raw(kind, VALID[kind][1]))
    position %= len(changed)
    changed[position] ^= flip
    assert code_of(bytes(changed)) != "ok"
    assert code_of(bytes(changed[:position])) == "malformed"


# --- every phase of a contract ---------------------------------------------------------------------------------------------

PHASE_OF = {
    "sign": ("proposed",),
    "cancel-contract": ("proposed", "signed"),
    "confirm": ("measured",),
    "object": ("measured",),
    "answer": ("disputed",),
    "rule": ("disputed",),
}


def fields_on(kind: str, phase: str) -> list[object]:
    """A valid transaction of this type, but about the contract of another phase."""
    contract = EVERY.contracts[phase]
    values = [contract, *VALID[kind][1][1:]]
    if kind == "answer":
        values[1] = EVERY.stop(contract, EVERY.parties(phase)[0])
    if kind == "confirm" and phase in {"measured", "disputed"}:
        values[1] = EVERY.digest(phase)
    return values


def expected(kind: str, phase: str, sender: Party) -> str:
    user, owner = EVERY.parties(phase)
    if sender.id.startswith("gone-"):
        return "revoked"
    if sender.role not in BODIES[kind].ROLES:
        return "wrong_role"
    if phase == "closed":
        return "unknown_contract"
    if sender.role in TRADERS and sender.id not in {user, owner}:
        return "not_yours"
    if phase not in PHASE_OF[kind]:
        return "phase"
    if kind == "sign" and sender.id == owner:
        return "phase"  # this contract's owner did not ask to sign it
    if kind == "cancel-contract" and phase == "signed" and sender.id == user:
        return "late"  # its cut-off has passed
    return "ok"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", PHASE_OF)
def test_each_transaction_on_a_contract_in_each_phase_by_everybody(kind: str, phase: str) -> None:
    values = fields_on(kind, phase)
    seen = {sender.id: code_of(raw(kind, values, sender.id)) for sender in MARKET.state.each(Party)}
    assert seen == {party.id: expected(kind, phase, party) for party in MARKET.state.each(Party)}


# --- plausible transactions: known names in every field, so that the law itself is reached -------------------------------------

FUNDED = "user-1"
WORDS = {"role": ["grid", "pile-owner", "ev-owner"], "ground": ["energy", "cause"], "cause": ["user", "pile"]}
HASHES = [*EVERY.contracts.values(), EVERY.bid, EVERY.listing, EVERY.withdrawal, bytes(32)]
MOMENTS = [0, NOW, START, AT, AT + 1, END, FAR, FAR + HOUR, AT + 366 * 24 * HOUR, AT + 367 * 24 * HOUR]
ATTESTED: list[object] = [
    part
    for over in ({}, {"apart": 1}, {"signer": "eve"}, {"chain_id": "other"}, {"height": 10**6})
    for part in twice_attested(MARKET, "auditor", **{"height": 2, **over})
]  # headers and their signatures by turns
PLAUSIBLE: dict[str, list[object]] = {
    "party": ["user-1", "user-6", "owner-1", "grid", "operator", "gone-user", "gone-owner", "gone-grid", "nobody"],
    "id": ["user-1", "eve", "pile-1", "pile-9", "grid"],
    "owner": ["owner-1", "user-1", "gone-owner", "nobody"],
    "pile": ["pile-1", "pile-2", "pile-7", "pile-8", "nowhere"],
    "zone": ["north", "south", "nowhere"],
    "public": [key(name).public for name in ("user-1", "gone-user", "gone-user, later", "eve", "pile-1")],
    "reference": ["u1", "payment 9", "payment 10"],
    "energy_wh": [100, 150, 1000, 5000, 20_000, 1_000_000],
    "amount_micro": [1, 5, 50_000, 10**6, 10**9, 10**15],
    "ask_micro_per_kwh": [-1, 0, 399_999, 400_000, 700_000, 1_300_000, 1_300_001],
    "limit_micro_per_kwh": [1, 650_000, 700_000, 2_000_000, 10**12],
    "digest": [EVERY.digest("measured"), EVERY.digest("disputed"), bytes(32)],
    "measured_wh": [0, 3000, 5000, 5600, 10**13],
    "claimed_wh": [0, 5000, 10**13],
    "rated_power_w": [1, 7000, 10**7],
    "utc_offset_minutes": [-720, 0, 840],
    "candidate": ["grid", "operator", "auditor", "arbiter-2", "false-node", "arbiter", "user-1", "nobody"],
    "consensus": [consensus("grid"), consensus("eve")],
    "attestation": [key("grid/attest").public, key("eve").public],
    "name": ["reporter-part", "decided", "unheard-of"],
    "notes": [
        [EVERY.note(0)],
        [EVERY.note(2)],
        [EVERY.note(1), EVERY.note(2)],
        [[FILLING, EVERY.note(1)[1]]],
        [[FULL, bytes(32)]],
    ],
    "base": [VALID["buy-notes"][1][0]],
    "refund": [VALID["buy-notes"][1][0]],
    "counts": [[1], [0] * 7 + [64], [0] * 8 + [1]],
    "height": [0, 1, 1_000_000, EVERY.market.height + 100, EVERY.market.height + 101, 1 << 52],
    "first": ATTESTED[::2],
    "second": ATTESTED[::2],
    "first_signature": ATTESTED[1::2],
    "second_signature": ATTESTED[1::2],
    **WORDS,
}
TREASURY = {"deposit", "pay-out", "refuse-withdrawal", "collect-fees"}
SPENT = {"unknown_sender", "unknown_note", "spent", "bad_signature", "exists"}
REACHED: dict[
    str, set[str]
] = {  # what the guide says may become of a well-formed one, besides `wrong_role` and `revoked`
    "register-party": {"exists"},
    "rotate-key": {"exists"},
    "revoke-key": {"unknown_party", "not_yours", "exists", "limit"},
    "restore-key": {"unknown_party", "exists"},
    "register-pile": {"unknown_party", "exists"},
    "retire-pile": {"unknown_pile", "not_yours", "busy"},
    "deposit": {"unknown_party", "exists"},
    "withdraw": {"funds"},
    "pay-out": {"unknown_withdrawal", "exists"},
    "refuse-withdrawal": {"unknown_withdrawal"},
    "collect-fees": {"unknown_party", "funds"},
    "set-tariff": {"window"},
    "list": {"unknown_pile", "not_yours", "window", "band"},
    "unlist": {"unknown_order", "not_yours"},
    "bid": {"unknown_zone", "unknown_pile", "window", "energy", "funds"},
    "cancel": {"unknown_order", "not_yours"},
    "sign": {"unknown_contract", "not_yours", "phase"},
    "cancel-contract": {"unknown_contract", "not_yours", "phase", "late"},
    "proofs": set(),
    "confirm": {"unknown_contract", "not_yours", "phase", "digest"},
    "object": {"unknown_contract", "not_yours", "phase"},
    "answer": {"unknown_contract", "not_yours", "phase", "evidence"},
    "rule": {"unknown_contract", "phase"},
    "register-candidate": {"exists", "limit", "funds"},
    "delegate": {"unknown_candidate", "phase", "funds"},
    "undelegate": {"unknown_candidate", "funds"},
    "set-commission": {"unknown_candidate"},
    "unjail": {"unknown_candidate", "phase"},
    "double-attestation": {"unknown_candidate", "phase", "evidence"},
    "vote-upgrade": {"not_yours", "exists", "phase", "late"},
    "buy-notes": {"limit", "funds"},
    "anonymous-bid": {*SPENT, "unknown_zone", "unknown_pile", "window", "energy", "funds"},
    "redeem-notes": {*SPENT, "unknown_party"},
}


def plausible(rng: random.Random, name: str, valid: object) -> object:
    """Something that could stand in a field of this name."""
    makers: dict[str, Callable[[], object]] = {
        "stop": lambda: stop_command(rng),
        "proofs": lambda: [any_proof(rng) for _ in range(rng.randint(1, 4))],
        "periods": lambda: [[0, "flat", rng.randint(1, 10**6), rng.randint(0, 1)]],
    }
    if name in makers:
        return makers[name]()
    if name in PLAUSIBLE:
        return rng.choice(PLAUSIBLE[name])
    if name.endswith("_ms"):
        return rng.choice(MOMENTS)
    if isinstance(valid, bool):
        return rng.random() < 0.5
    if isinstance(valid, bytes):
        return rng.choice(HASHES)
    return valid


def stop_command(rng: random.Random) -> bytes:
    """Of the disputed contract or another, by its user or another, for this purpose, chain and action or another."""
    contract = rng.choice([EVERY.contracts["disputed"], EVERY.contracts["measured"]])
    over = rng.choice([{}, {}, {"action": 1}, {"chain_id": "other"}, {"purpose": cose.PROOF}, {"action": None}])
    command = EVERY.stop(contract, rng.choice(["user-5", "user-5", "user-4", "owner-5"]), **over)
    return rng.choice([command, command, command[:-1], b"x"])


def any_proof(rng: random.Random) -> bytes:
    """Of any pile, event, contract, time and register: believable or not."""
    event = rng.randint(0, 4)
    contract = rng.choice([*EVERY.contracts.values(), bytes(32)])
    at, energy = (
        rng.choice([AT, AT - 5000, START, START - 1, FAR, FAR + 1, FAR + HOUR]),
        rng.choice([0, 100_000, 103_500]),
    )
    step = rng.choice([0, 1, 10**6])
    points = [(at + 1000 * i, energy + step * i) for i in range(rng.randint(1, 3))]
    over: dict[str, object] = rng.choice(
        [{}, {}, {}, {"sequence": 1}, {"sequence": 9}, {"previous": bytes(32)}, {"serial": "no"}]
    )
    return EVERY.proof(
        f"pile-{rng.randint(1, 9)}",
        event,
        [] if event > 2 and rng.random() < 0.3 else points,
        contract=None if event > 2 and rng.random() < 0.5 else contract,
        reason=rng.randint(1, 8) if event in {2, 4} else 0,
        **over,
    )


def near_miss(rng: random.Random, kind: str) -> tuple[str, list[object]]:
    """A valid transaction of which some fields and perhaps the sender are somebody else's."""
    sender, values = VALID[kind]
    names = BODIES[kind].__match_args__
    share = 0.9 if kind in OF_NOBODY else 0.65
    changed = [v if rng.random() < share else plausible(rng, n, v) for n, v in zip(names, values, strict=True)]
    if kind in OF_NOBODY and rng.random() < 0.75:
        return pseudonym(changed[1]), changed  # type: ignore[arg-type]
    if rng.random() < 0.4:
        sender = rng.choice([*EVERY.parties(rng.choice(PHASES)), rng.choice(MARKET.state.each(Party)).id])
    if "contract" in names and rng.random() < 0.5:  # the right people on another contract
        phase = rng.choice(PHASES)
        changed[names.index("contract")], sender = EVERY.contracts[phase], rng.choice([sender, *EVERY.parties(phase)])
    return sender, changed


SEEN: dict[str, set[str]] = defaultdict(set)


@pytest.mark.parametrize("kind", TYPES)
def test_near_misses_reach_every_code_of_their_type_and_leave_no_trace(kind: str) -> None:
    """And what is accepted is also taken as a whole block, on the state loaded from its rows, with every invariant."""
    rng = random.Random(kind)
    for _ in range(300 if kind in OF_NOBODY else 500):
        sender, values = near_miss(rng, kind)
        data = raw(kind, values, sender)
        result = TRACELESS.result(data)
        SEEN[kind].add(result.code)
        if kind == "proofs" and result.code == "ok":
            SEEN["a proof"].update(map(str, result.details))
        if rng.random() < 0.1:
            state = State.load(MARKET.rows.items())
            state.seal()
            assert apply_block(state, MARKET.env(), [data]).results == [result]
            check_in_full(state)
    needed = {"ok", "revoked", *REACHED[kind]}
    if len(BODIES[kind].ROLES) < 5:
        needed.add("wrong_role")
    assert SEEN[kind] == needed


def test_the_fuzz_reaches_every_code_there_is() -> None:
    """Of `limit`, the one that needs no thousand orders; test_transactions.py has the others."""
    for kind in TYPES:
        if kind not in SEEN:
            test_near_misses_reach_every_code_of_their_type_and_leave_no_trace(kind)
    envelope = {
        "oversized", "malformed", "unknown_type", "bounds", "wrong_chain", "unknown_sender", "bad_signature", "expired",
        "too_far", "replayed", "sequence_gap",
    }  # fmt: skip
    assert envelope | set().union(*(SEEN[kind] for kind in TYPES)) == {"ok", *CODES}
    assert ADMITTED in SEEN["a proof"]


def test_the_phases_are_really_there_after_all_this() -> None:
    found = {MARKET.state.get(Contract, EVERY.contracts[phase]).phase for phase in PHASES[:-1]}
    assert found == set(PHASES[:-1])
    check_in_full(MARKET.state)
