"""What is signed and hashed: CBOR, COSE, metering proofs, certificates, terms, topics."""

import json
from collections.abc import Iterator

import cbor2
from pycose.messages import Sign1Message

from fuzz.target import ROOT, attempt, target, vectors
from pile_shared import cbor_small, certificate, codec, cose, merkle, proof, record, terms, topics
from pile_shared.reading import decode_readings, encode_readings

CHAIN = "demo-00c0ffee"
MAX_CBOR_BYTES = 4096


def same(one: object, other: object) -> bool:
    """Equal, and of equal types all the way down: to Python, True is 1."""
    return repr(one) == repr(other)


# --- CBOR ------------------------------------------------------------------------------------------------------------


@target("cbor", seeds=lambda: vectors("codec", "bytes"), max_bytes=MAX_CBOR_BYTES)
def cbor(data: bytes) -> None:
    """Both codecs take the same bytes for the same value, give the same bytes back, and agree with cbor2 on the rest."""
    ours, boards = (attempt(lambda module=module: (module.decode(data, MAX_CBOR_BYTES),)) for module in BOTH)
    assert same(ours, boards), (ours, boards)
    if ours is not None:
        assert same(cbor2.loads(data), ours[0])
        assert codec.encode(ours[0]) == data
        assert cbor_small.encode(ours[0]) == data
        return
    try:
        loose = cbor2.loads(data, max_depth=64)  # whatever cbor2 would take: tags, floats, other orders and lengths
    except Exception:  # noqa: BLE001 - cbor2 lets hostile tags raise what they like
        return
    encodings = [attempt(lambda module=module: module.encode(loose)) for module in BOTH]
    assert encodings[0] == encodings[1] != data, encodings
    if encodings[0] is not None:
        assert same(normal(codec.decode(encodings[0], 2 * MAX_CBOR_BYTES)), normal(loose))


BOTH = (codec, cbor_small)


def normal(value: object) -> object:
    """Maps in one order and arrays as lists: what CBOR does not tell apart."""
    if isinstance(value, dict):
        return {key: normal(value[key]) for key in sorted(value)}
    return [normal(item) for item in value] if isinstance(value, list | tuple) else value


# --- COSE ------------------------------------------------------------------------------------------------------------

MAX_COSE_BYTES = 2048
HALF_ORDER = 0x7FFFFFFF800000007FFFFFFFFFFFFFFFDE737D56D38BCF4279DCE5617E3192A8  # of P-256, FIPS 186-4 D.1.2.3


def is_ours(data: bytes) -> bool:
    """The one shape of a COSE_Sign1, by cbor2 instead of by comparing bytes."""
    try:
        message = cbor2.loads(data)
        if type(message) is not cbor2.CBORTag or message.tag != 18 or cbor2.dumps(message) != data:
            return False
        protected, unprotected, payload, signature = message.value
        kid = cbor2.loads(protected)[4]
        fits = type(payload) is type(signature) is type(kid) is bytes and len(kid) == 8 and len(signature) == 64
        return (
            fits
            and protected == cbor2.dumps({1: -7, 4: kid})
            and cbor2.dumps(unprotected) == b"\xa0"
            and int.from_bytes(signature[32:], "big") <= HALF_ORDER
        )
    except Exception:  # noqa: BLE001 - whatever it is, it is not ours
        return False


SIGNER = cose.SoftwareSigner(b"\x07" * 32)
PURPOSES = [cose.purpose(kind, CHAIN) for kind in (cose.PROOF, cose.TRANSACTION, cose.SESSION)]
SIGNED = {
    cose.sign1(payload, SIGNER, aad) for aad in PURPOSES for payload in (b"", b"\x82\x01\x02", bytes(24), bytes(300))
}


def cose_seeds() -> Iterator[bytes]:
    yield from sorted(SIGNED)
    yield from (message for message in vectors("cose", "message") if len(message) <= MAX_COSE_BYTES)


@target("cose", seeds=cose_seeds, max_bytes=MAX_COSE_BYTES)
def cose_sign1(data: bytes) -> None:
    """Taken if and only if cbor2 finds the one shape; pycose reads the same parts; nothing but what was signed verifies."""
    message = attempt(lambda: cose.parse1(data, MAX_COSE_BYTES))
    assert (message is not None) == is_ours(data)
    if message is None:
        return
    head = cose._START + message.kid + b"\xa0" + cose._bstr_head(len(message.payload))
    assert head + message.payload + b"\x58\x40" + message.signature == data
    # Sign1Message.decode expects lists, and cbor2 6 gives what is inside a tag as tuples.
    theirs = Sign1Message.from_cose_obj(cbor2.loads(data[1:]), True)
    assert (theirs.payload, theirs.signature) == (message.payload, message.signature)
    for aad in PURPOSES:
        theirs.external_aad = aad
        assert theirs._create_sig_structure() == cose.to_be_signed(message.kid, message.payload, aad)
        verified = attempt(lambda aad=aad: (message.verify(SIGNER.public, aad),))
        assert verified is None or data in SIGNED


# --- metering proofs -------------------------------------------------------------------------------------------------


def proof_seeds() -> Iterator[bytes]:
    for message in vectors("proof", "message"):
        yield message
        signed = attempt(lambda message=message: cose.parse1(message, proof.MAX_PROOF_BYTES))
        if signed is not None:
            yield signed.payload


@target("proof", seeds=proof_seeds, max_bytes=proof.MAX_PROOF_BYTES)
def metering_proof(data: bytes) -> None:
    """A proof, or a payload as a pile with a stolen key could sign it: what is taken has this one encoding and fits itself."""
    parsed = attempt(lambda: proof.parse(data))
    if parsed is not None:
        assert parsed[1].payload() == parsed[0].payload
    content = attempt(lambda: proof.decode_payload(data))
    if content is None:
        return
    assert content.payload() == data
    rows = encode_readings(content.readings)
    assert decode_readings(rows) == content.readings
    times = [reading.time_ms for reading in content.readings]
    energies = [reading.energy_wh for reading in content.readings]
    assert times == sorted(times)
    assert energies == sorted(energies)
    assert all(reading.fields() for reading in content.readings)


# --- what a pile believes of the chain -------------------------------------------------------------------------------


def known_sets() -> list[list[certificate.Validator]]:
    """The validator sets of the vectors."""
    encoded = dict.fromkeys(vectors("certificate", "validators"))
    found = (attempt(lambda data=data: certificate.validators_from(codec.decode(data, 65_536))) for data in encoded)
    return [validators for validators in found if validators]


SETS = known_sets()
TRUE = [
    certificate.decode_inclusion(bytes.fromhex(row["inclusion"]))
    for row in map(json.loads, (ROOT / "shared/pile_shared/vectors/certificate.jsonl").read_text().splitlines())
    if row["kind"] == "good"
]
LEAVES = {(found.certificate.header_bytes, found.leaf) for found in TRUE}
ATTESTED = {
    (found.certificate.header_bytes, index, signature)
    for found in TRUE
    for index, signature in found.certificate.attestations
}
MAX_INCLUSION_BYTES = 4096


def inclusion_seeds() -> Iterator[bytes]:
    seeds = [data for data in vectors("certificate", "inclusion") if len(data) <= MAX_INCLUSION_BYTES]
    yield from seeds
    for data in seeds[:4]:
        row = codec.decode(data, MAX_INCLUSION_BYTES)
        assert isinstance(row, list)
        yield row[0][0]
        yield b"\x8d\xf5" + row[0][0][2:]  # true is not version 1
        first = row[0][1][0]
        high_s = (-int.from_bytes(first[1][32:], "big") % cose._ORDER).to_bytes(32, "big")
        yield codec.encode([[row[0][0], [[first[0], first[1][:32] + high_s], *row[0][1][1:]]], *row[1:]])
        yield codec.encode([row[0], certificate_set(SETS[0])])


def certificate_set(validators: list[certificate.Validator]) -> bytes:
    return codec.encode([validator.fields() for validator in validators])


@target("certificate", seeds=inclusion_seeds, max_bytes=MAX_INCLUSION_BYTES)
def inclusion(data: bytes) -> None:
    """Headers, handovers and inclusions: one encoding each, and none verifies but of a block that the nodes signed."""
    header = attempt(lambda: certificate.decode_header(data))
    assert header is None or header.encoded() == data
    handover = attempt(lambda: certificate.decode_handover(data))
    if handover is not None:
        assert codec.encode([handover[0].fields(), handover[1]]) == data
        attempt(lambda: certificate.validators_from(codec.decode(handover[1], certificate.MAX_HANDOVER_BYTES)))
    included = attempt(lambda: certificate.decode_inclusion(data))
    if included is None:
        return
    assert included.encoded() == data
    for validators in SETS:
        verified = attempt(lambda validators=validators: included.verify(CHAIN, validators))
        if verified is not None:
            header = verified.encoded()
            assert (header, included.leaf) in LEAVES
            assert {(header, index, by) for index, by in included.certificate.attestations} <= ATTESTED
    attempt(lambda: merkle.root_from_path(included.leaf, included.index, 7, included.path))


def term_seeds() -> Iterator[bytes]:
    good = next(vectors("terms", "bytes"))
    row = codec.decode(good, terms.MAX_TERMS_BYTES)
    assert isinstance(row, list)
    yield from vectors("terms", "bytes")
    yield codec.encode([int(value) if type(value) is bool else value for value in row])


@target("terms", seeds=term_seeds, max_bytes=terms.MAX_TERMS_BYTES)
def contract_terms(data: bytes) -> None:
    """Terms have one encoding, and the contract's id is its hash."""
    found = attempt(lambda: terms.decode_terms(data))
    if found is not None:
        assert found.encoded() == data
        assert type(found.on_curve) is bool
        assert terms.decode_terms(found.encoded()).contract_id() == found.contract_id()


# --- topics and records ----------------------------------------------------------------------------------------------


def topic_seeds() -> Iterator[bytes]:
    for kind in (*topics.PILE_UP, *topics.PILE_DOWN, *topics.PILE_TOOL, record.RECORD, record.RECORDED):
        yield topics.pile_topic(CHAIN, "pile-1", kind).encode()
    for kind in (*topics.PARTY_UP, *topics.PARTY_DOWN):
        yield topics.party_topic(CHAIN, "dan", kind).encode()
    message = record.encode_record(7, "OCMF|{}|{}")
    yield message
    yield b"\x82\x00" + message[2:]
    yield record.sign_answer(CHAIN, "pile-1", message, record.STORED, SIGNER)


@target("record", seeds=topic_seeds, max_bytes=record.MAX_MESSAGE_BYTES)
def topic_or_record(data: bytes) -> None:
    """Topics, record messages and their answers: what is taken is written this way only."""
    text = data.decode("utf-8", "replace")
    for parse in (topics.parse, record.parse_topic):
        parts = attempt(lambda parse=parse: parse(text))
        if parts is not None:
            chain, side, who, kind = parts
            make = topics.pile_topic if side == "pile" else topics.party_topic
            assert make(chain, who, kind) == text
    taken = attempt(lambda: record.decode_record(data))
    assert taken is None or record.encode_record(*taken) == data
    attempt(lambda: record.open_answer(data, CHAIN, "pile-1", [SIGNER.public]))
