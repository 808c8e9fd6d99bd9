"""Write shared/pile_shared/vectors/*.jsonl but p256: the wire format as bytes, a case a line.

Line by line, because a board with 64 kB of heap cannot hold a file. Every test suite reads the committed files with
firmware_tests/run_wire_vectors.py, on both interpreters; nothing is regenerated at test time. Whoever changes a byte here
changes the wire format. Byte strings are hexadecimal; keys come from fixed secrets; what a bad case must be refused with
is written down here by hand, and the reference implementation must agree before a line is written.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pile_shared import cose, merkle
from pile_shared.certificate import (
    Certificate,
    Header,
    Inclusion,
    Validator,
    attest,
    decode_inclusion,
    validators_from,
    validators_hash,
)
from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import (
    ALARM,
    BEGIN,
    END,
    HEARTBEAT,
    NO_PREVIOUS,
    PERIODIC,
    REASON_METER_SILENT,
    REASON_USER,
    Origin,
    Proof,
    open_proof,
    proof_hash,
)
from pile_shared.reading import TIME_SYNCHRONISED, TIME_UNKNOWN, Reading
from pile_shared.terms import (
    FIELDS,
    LEAF_CLOSED,
    LEAF_CONTRACT,
    LEAF_RECEIPT,
    LEAF_RESULT,
    VERSION,
    Terms,
    decode_terms,
    terms_from,
)

OUT = Path(__file__).parent.parent / "shared/pile_shared/vectors"
CHAIN = "demo-00c0ffee"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # n of P-256
NOW_MS = 1_700_000_000_000
Case = dict[str, object]


def main(folder: Path = OUT) -> None:
    """Write the files anew."""
    for name, cases in (
        ("codec", [*codec_good(), *codec_bad()]),
        ("cose", [*cose_good(), *cose_bad()]),
        ("proof", [*proof_good(), *proof_bad()]),
        ("terms", [*terms_good(), *terms_bad()]),
        ("merkle", [*merkle_published(), *merkle_good(), *merkle_bad()]),
        ("certificate", [*certificate_good(), *certificate_bad()]),
    ):
        path = folder / (name + ".jsonl")
        lines = [json.dumps(case, separators=(",", ":"), ensure_ascii=False) + "\n" for case in cases]
        path.write_text("".join(lines), encoding="utf-8")
        print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


def key(name: str) -> cose.SoftwareSigner:
    """A key that everybody knows."""
    return cose.SoftwareSigner(secret(name))


def secret(name: str) -> bytes:
    """Its secret."""
    return sha256(b"pilechain vectors: " + name.encode())


def refused(code: str, call: Callable[[], object]) -> str:
    """`code`, once the reference implementation has refused with it."""
    found = "not refused"
    try:
        call()
    except PilechainError as error:
        found = f"{error.code}: {error}"
    assert found.startswith(code + ": "), (code, found)
    return code


def as_json(value: object) -> object:
    """CBOR's values in JSON: a byte string is {"hex": ...}, a map is {"map": [[key, value], ...]}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {"map": [[as_json(k), as_json(v)] for k, v in value.items()]}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


# --- codec ---------------------------------------------------------------------------------------------------------------

# RFC 8949 appendix A, what lies in our subset: value and bytes as printed there.
RFC8949: tuple[tuple[object, str], ...] = (
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    ({"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}, "a56161614161626142616361436164614461656145"),
)

# The same table's other rows: well-formed CBOR that is not ours.
_RFC8949_OTHERS = (
    "1bffffffffffffffff c249010000000000000000 3bffffffffffffffff c349010000000000000000 f90000 f98000 f93c00 "
    "fb3ff199999999999a f93e00 f97bff fa47c35000 fa7f7fffff fb7e37e43c8800759c f90001 f90400 f9c400 fbc010666666666666 "
    "f97c00 f97e00 f9fc00 fa7f800000 fa7fc00000 faff800000 fb7ff0000000000000 fb7ff8000000000000 fbfff0000000000000 f7 f0 "
    "f8ff c074323031332d30332d32315432303a30343a30305a c11a514b67b0 c1fb41d452d9e8200000 d74401020304 d818456449455446 "
    "d82076687474703a2f2f7777772e6578616d706c652e636f6d 5f42010243030405ff 7f657374726561646d696e67ff 9fff "
    "9f018202039f0405ffff 9f01820203820405ff 83018202039f0405ff 83019f0203ff820405 bf61610161629f0203ffff "
    "826161bf61626163ff bf6346756ef563416d7421ff"
)

CODEC_BAD = (
    ("empty", ""),
    ("0 in two bytes", "1800"),
    ("23 in two bytes", "1817"),
    ("255 in three bytes", "1900ff"),
    ("65535 in five bytes", "1a0000ffff"),
    ("2^32 - 1 in nine bytes", "1b00000000ffffffff"),
    ("long head of a byte string", "580161"),
    ("long head of a text", "780161"),
    ("long head of an array", "980100"),
    ("long head of a map", "b8010000"),
    ("2^63", "1b8000000000000000"),
    ("-2^63 - 1", "3b8000000000000000"),
    ("reserved length 28", "1c"),
    ("reserved length 30", "5e"),
    ("truncated integer", "19ff"),
    ("truncated byte string", "4201"),
    ("truncated array", "8201"),
    ("truncated map", "a101"),
    ("a byte string of 2^63 bytes", "5b7fffffffffffffff"),
    ("an array of 2^63 items", "9b7fffffffffffffff"),
    ("a map of 2^63 entries", "bb7fffffffffffffff"),
    ("trailing byte", "0000"),
    ("key twice", "a201000100"),
    ("keys out of order", "a202000100"),
    ("text keys out of order", "a2616200616100"),
    ("longer text key first", "a262616100616200"),
    ("keys of two kinds", "a20100616100"),
    ("negative key", "a12000"),
    ("byte string as key", "a1416100"),
    ("null as key", "a1f600"),
    ("true as key", "a1f500"),
    ("array as key", "a18000"),
    ("key 2^63", "a11b800000000000000000"),
    ("text cut inside a character", "61c3"),
    ("text with a longer form of a character", "62c080"),
    ("text with half a pair", "63eda080"),
    ("text with both halves as characters", "66eda080edb091"),
    ("text beyond U+10FFFF", "64f4908080"),
    ("text with a stray continuation", "6180"),
    ("true in two bytes", "f815"),
    ("break alone", "ff"),
    ("13 arrays deep", "81" * 12 + "80"),
    ("13 maps deep", "a100" * 12 + "a0"),
)


def codec_good() -> Iterator[Case]:
    """Values and their one encoding."""
    for value, hexadecimal in RFC8949:
        yield _codec_case("RFC 8949 appendix A", value, hexadecimal)
    edges = [2**8 - 1, 2**8, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**63 - 1, -(2**8), -(2**32) - 1, -(2**63)]
    values: list[object] = [*edges, b"\xff" * 24, "x" * 24, [[]] * 24, dict.fromkeys(range(24))]
    for value in values:
        yield _codec_case("edge", value, encode(value).hex())
    yield _codec_case("keys sorted", {24: 1, 3: 2, 256: 3}, "a3030218180119010003")
    yield _codec_case("shorter text keys first", {"aa": 1, "b": 2, "": 3}, "a3600361620262616101")
    nested: object = []
    for _ in range(11):
        nested = [nested]
    yield _codec_case("12 deep", nested, "81" * 11 + "80")


def _codec_case(source: str, value: object, hexadecimal: str) -> Case:
    assert encode(value).hex() == hexadecimal, (value, encode(value).hex())
    return {"kind": "good", "source": source, "value": as_json(value), "bytes": hexadecimal}


def codec_bad() -> Iterator[Case]:
    """Bytes that are refused."""
    rows = [("RFC 8949 appendix A, outside our subset", item) for item in _RFC8949_OTHERS.split()] + list(CODEC_BAD)
    for source, hexadecimal in rows:
        data = bytes.fromhex(hexadecimal)
        code = refused("codec", lambda data=data: decode(data, 64))  # type: ignore[misc]
        yield {"kind": "bad", "source": source, "bytes": hexadecimal, "code": code}
    data = encode(b"\x00" * 63)
    code = refused("oversized", lambda: decode(data, 64))
    yield {"kind": "bad", "source": "65 bytes where 64 may be", "bytes": data.hex(), "code": code}


# --- COSE ----------------------------------------------------------------------------------------------------------------


def cose_good() -> Iterator[Case]:
    """Messages of every length of head, and each purpose."""
    for size in (0, 23, 24, 255, 256, 1000):
        yield _cose_case(f"{size} bytes", bytes(index & 255 for index in range(size)), cose.PROOF)
    for kind in (cose.TRANSACTION, cose.HEADER, cose.SESSION, cose.QUERY, cose.REPLY):
        yield _cose_case("purpose " + kind, encode([kind]), kind)


def _cose_case(source: str, payload: bytes, kind: str) -> Case:
    signer = key("signer")
    return {
        "kind": "good",
        "source": source,
        "secret": secret("signer").hex(),
        "aad": cose.purpose(kind, CHAIN).hex(),
        "payload": payload.hex(),
        "message": cose.sign1(payload, signer, cose.purpose(kind, CHAIN)).hex(),
    }


def cose_bad() -> Iterator[Case]:
    """One good message, altered in every field, and other shapes of a COSE_Sign1."""
    signer, aad = key("signer"), cose.purpose(cose.PROOF, CHAIN)
    payload = b"\x82\x01\x02"
    good = cose.sign1(payload, signer, aad)
    kid, signature = signer.kid, good[-64:]
    protected = b"\xa2\x01\x26\x04\x48" + kid
    start = b"\xd2\x84\x4d" + protected
    flipped = bytearray(good)
    flipped[-67] ^= 1
    high = good[:-64] + other_s(signature)
    other = cose.sign1(payload, key("other"), aad)
    rows = (
        ("payload altered", bytes(flipped), "bad_signature"),
        ("signed for another purpose", cose.sign1(payload, signer, cose.purpose(cose.HEADER, CHAIN)), "bad_signature"),
        ("signed for another chain", cose.sign1(payload, signer, cose.purpose(cose.PROOF, "other")), "bad_signature"),
        ("signed by another key", other, "unknown_key"),
        ("another key's signature under our name", good[:-64] + other[-64:], "bad_signature"),
        ("n - s for s: as valid for ES256, but other bytes", high, "malformed"),
        *[(source, good[:-64] + made, code) for source, made, code in odd_signatures(signature)],
        ("without the tag", good[1:], "malformed"),
        ("tag 17", b"\xd1" + good[1:], "malformed"),
        ("cut short", good[:-1], "malformed"),
        ("one byte more", good + b"\x00", "malformed"),
        ("empty", b"", "malformed"),
        (
            "algorithm ES384",
            good.replace(b"\xa2\x01\x26", b"\xa2\x01\x38\x22").replace(b"\x4d", b"\x4e", 1),
            "malformed",
        ),
        (
            "kid in the unprotected header",
            _parts(b"\x43\xa1\x01\x26", b"\xa1\x04\x48" + kid, payload, signature),
            "malformed",
        ),
        ("a header more", _parts(b"\x4d" + protected, b"\xa1\x03\x00", payload, signature), "malformed"),
        ("payload detached", start + b"\xa0\xf6\x58\x40" + signature, "malformed"),
        (
            "long head of the payload",
            start + b"\xa0\x58\x03" + payload + b"\x58\x40" + signature,
            "malformed",
        ),
        ("longer than 400 bytes", cose.sign1(bytes(400), signer, aad), "oversized"),
    )
    for source, message, code in rows:
        assert refused(code, lambda data=message: cose.parse1(data, 400).verify(signer.public, aad))  # type: ignore[misc]
        hexes = {"public": signer.public.hex(), "aad": aad.hex(), "message": message.hex()}
        yield {"kind": "bad", "source": source, **hexes, "code": code}
    for source, point in odd_points(signer.public):
        # Under the kid of those very bytes, so that the point itself is what stops it.
        message = start.replace(kid, cose.key_id(point)) + good[len(start) :]
        assert refused("bad_signature", lambda data=message, key=point: cose.parse1(data, 400).verify(key, aad))  # type: ignore[misc]
        hexes = {"public": point.hex(), "aad": aad.hex(), "message": message.hex()}
        yield {"kind": "bad", "source": source, **hexes, "code": "bad_signature"}


def odd_signatures(signature: bytes) -> Iterator[tuple[str, bytes, str]]:
    """R or s outside [1, n - 1], and the least s that is too high, beside a good other half."""
    r, s = signature[:32], signature[32:]
    zero, order, half = bytes(32), ORDER.to_bytes(32, "big"), ORDER >> 1
    yield "r is 0", zero + s, "bad_signature"
    yield "s is 0", r + zero, "bad_signature"
    yield "r and s are 0", zero + zero, "bad_signature"
    yield "r is n", order + s, "bad_signature"
    yield "r is above n", b"\xff" * 32 + s, "bad_signature"
    yield "s is n", r + order, "malformed"
    yield "s is above n", r + b"\xff" * 32, "malformed"
    yield "s is n / 2, rounded down, and wrong", r + half.to_bytes(32, "big"), "bad_signature"
    yield "s is n / 2, rounded up", r + (half + 1).to_bytes(32, "big"), "malformed"


def odd_points(point: bytes) -> Iterator[tuple[str, bytes]]:
    """Keys that are no point of the curve, or not in the one form."""
    yield "key off the curve", point[:-1] + bytes([point[-1] ^ 1])
    yield "key is infinity, as zeros", b"\x04" + bytes(64)
    yield "key is infinity, as SEC 1 writes it", b"\x00"
    yield "key with x and y of 2^256 - 1", b"\x04" + b"\xff" * 64
    yield "key compressed", bytes([2 + point[-1] % 2]) + point[1:33]
    yield "key without its prefix", point[1:]
    yield "key of no bytes", b""


def other_s(signature: object) -> bytes:
    """(r, n - s), which ES256 verifies as well."""
    assert isinstance(signature, bytes)
    return signature[:32] + (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


def _parts(protected: bytes, unprotected: bytes, payload: bytes, signature: bytes) -> bytes:
    return b"\xd2\x84" + protected + unprotected + encode(payload) + encode(signature)


# --- proof ---------------------------------------------------------------------------------------------------------------

ORIGIN = Origin("SDM630-Modbus V2", "22110347", "eastron-sdm630", sha256(b"firmware")[:8])
CONTRACT = sha256(b"contract")
FLOAT32_12345_678_KWH = 0x4640E6B6  # what an SDM630 shows at 12345.678 kWh


def readings(count: int, step_ms: int = 10_000) -> list[Reading]:
    """A session at about 7 kW."""
    return [
        Reading(
            NOW_MS + i * step_ms + i % 7,
            TIME_SYNCHRONISED,
            (FLOAT32_12345_678_KWH + i * 20).to_bytes(4, "big"),
            12_345_678 + 7_000 * i * step_ms // 3_600_000,
            7_000 + 13 * (i % 5),
            1,
        )
        for i in range(count)
    ]


def proof_good() -> Iterator[Case]:
    """A pile's first day: each event, chained; then the edges."""
    previous = NO_PREVIOUS
    big = Reading(253402300800000, 3, b"\xff" * 8, 10_000_000_000_000, -10_000_000, 255)
    low, high = bytes(8), b"\xff" * 8
    jump = [Reading(NOW_MS, 2, low, 1, 0, 0), Reading(NOW_MS, 2, high, 1, 0, 0), Reading(NOW_MS, 2, low, 2, 0, 0)]
    changes = [
        Reading(NOW_MS, 1, b"\x00\x01", 5, 0, 0),
        *readings(3),
        Reading(NOW_MS + 30_000, 0, b"\x09\x08", 12_400_000, 1, 3),
    ]
    for source, proof in (
        ("heartbeat without a reading", Proof(1, previous, None, HEARTBEAT, [])),
        ("begin", Proof(2, previous, CONTRACT, BEGIN, readings(1), 0, ORIGIN)),
        ("periodic, six readings", Proof(3, previous, CONTRACT, PERIODIC, readings(6))),
        ("status, flags and register width change", Proof(4, previous, CONTRACT, PERIODIC, changes)),
        ("end by the user", Proof(5, previous, CONTRACT, END, readings(2), REASON_USER)),
        ("alarm", Proof(6, previous, None, ALARM, [], REASON_METER_SILENT)),
        (
            "heartbeat, clock never set",
            Proof(7, previous, None, HEARTBEAT, [Reading(0, TIME_UNKNOWN, b"\0\0", 0, 0, 2)]),
        ),
        ("twelve readings, 40 s apart", Proof(8, previous, CONTRACT, PERIODIC, readings(12, 40_000))),
        ("largest values", Proof(0xFFFFFFFF, b"\xff" * 32, b"\xff" * 32, END, [big], 8)),
        ("a register that jumps by more than 63 bits", Proof(9, previous, CONTRACT, PERIODIC, jump)),
    ):
        proof.previous = previous if proof.sequence < 0xFFFFFFFF else proof.previous
        message = proof.sign(key("pile"), CHAIN)
        previous = proof_hash(message)
        assert open_proof(message, key("pile").public, CHAIN).payload() == proof.payload()
        yield {"kind": "good", "source": source, **_proof_json(proof), "message": message.hex()}


def _proof_json(proof: Proof) -> Case:
    return {
        "secret": secret("pile").hex(),
        "chain_id": CHAIN,
        "sequence": proof.sequence,
        "previous": proof.previous.hex(),
        "contract": proof.contract and proof.contract.hex(),
        "event": proof.event,
        "reason": proof.reason,
        "readings": [[*r.fields()[:2], r.raw.hex(), *r.fields()[3:]] for r in proof.readings],
        "origin": proof.origin and [*proof.origin.fields()[:3], proof.origin.firmware.hex()],
    }


def proof_bad() -> Iterator[Case]:
    """Well signed, so that only the content can be what is wrong."""
    first = [NOW_MS, 2, b"\x00\x00\x00\x05", 5, 7000, 1]
    periodic: dict[object, object] = {0: 1, 1: 9, 2: NO_PREVIOUS, 3: CONTRACT, 4: PERIODIC, 6: [first]}
    origin = ORIGIN.fields()
    rows: tuple[tuple[str, dict[object, object], str], ...] = (
        ("version 2", {0: 2}, "malformed"),
        ("version true", {0: True}, "malformed"),
        ("an unknown field", {8: 0}, "malformed"),
        ("sequence 0", {1: 0}, "bounds"),
        ("sequence 2^32", {1: 1 << 32}, "bounds"),
        ("sequence true", {1: True}, "bounds"),
        ("previous of 31 bytes", {2: bytes(31)}, "bounds"),
        ("contract of 33 bytes", {3: bytes(33)}, "bounds"),
        ("periodic without a contract", {3: None}, "malformed"),
        ("event 5", {4: 5}, "bounds"),
        ("end without a reason", {4: END}, "malformed"),
        ("periodic with a reason", {5: 1}, "malformed"),
        ("reason 0 written out", {5: 0}, "malformed"),
        ("reason 9", {4: END, 5: 9}, "bounds"),
        ("begin without the meter", {4: BEGIN}, "malformed"),
        ("periodic with the meter", {7: origin}, "malformed"),
        ("meter of three fields", {4: BEGIN, 7: origin[:3]}, "malformed"),
        ("a control character in the serial", {4: BEGIN, 7: [origin[0], "a\n", *origin[2:]]}, "bounds"),
        ("no reading", {6: []}, "malformed"),
        ("readings are no array", {6: {}}, "malformed"),
        ("a difference first", {6: [[1, 1, 1, 1]]}, "malformed"),
        ("five fields", {6: [first[:5]]}, "malformed"),
        ("full where a difference would do", {6: [first, first]}, "malformed"),
        ("register difference leaves the register", {6: [first, [0, -6, 0, 0]]}, "malformed"),
        ("energy falls", {6: [first, [0, 0, -1, 0]]}, "malformed"),
        ("time falls", {6: [first, [-1, 0, 0, 0]]}, "malformed"),
        ("a difference that leaves the range of power", {6: [first, [0, 0, 0, 1 << 40]]}, "bounds"),
        ("one register byte", {6: [[NOW_MS, 2, b"\x05", 5, 0, 1]]}, "bounds"),
        ("time status 4", {6: [[NOW_MS, 4, b"\x00\x05", 5, 0, 1]]}, "bounds"),
        ("61 readings", {6: [first, *([[0, 0, 0, 0]] * 60)]}, "malformed"),
    )
    for source, changes, code in rows:
        fields = {k: v for k, v in (periodic | changes).items() if v is not Ellipsis}
        yield _bad_proof(source, encode(fields), code)
    yield _bad_proof("an array", encode([1, 2]), "malformed")
    yield _bad_proof("text keys", encode({"0": 1}), "malformed")
    yield _bad_proof("readings left out", encode({k: v for k, v in periodic.items() if k != 6}), "malformed")
    yield _bad_proof("trailing byte", encode(periodic) + b"\x00", "codec")
    yield _bad_proof("empty", b"", "codec")
    message = cose.sign1(encode(periodic), key("pile"), cose.purpose(cose.PROOF, "demo-00000000"))
    yield _bad_message("of another chain", message, "bad_signature")
    yield _bad_message(
        "a session message",
        cose.sign1(encode(periodic), key("pile"), cose.purpose(cose.SESSION, CHAIN)),
        "bad_signature",
    )


def _bad_proof(source: str, payload: bytes, code: str) -> Case:
    return _bad_message(source, cose.sign1(payload, key("pile"), cose.purpose(cose.PROOF, CHAIN)), code)


def _bad_message(source: str, message: bytes, code: str) -> Case:
    public = key("pile").public
    refused(code, lambda: open_proof(message, public, CHAIN))
    hexes = {"public": public.hex(), "message": message.hex()}
    return {"kind": "bad", "source": source, "chain_id": CHAIN, **hexes, "code": code}


# --- Merkle --------------------------------------------------------------------------------------------------------------

# Certificate Transparency's reference data for RFC 6962: eight leaves, the roots over the first n of them, some paths.
CT_LEAVES = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
CT_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
CT_PATHS = (
    (0, 1, ()),
    (0, 2, ("96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",)),
    (1, 2, (CT_ROOTS[1],)),
    (2, 3, (CT_ROOTS[2],)),
    (
        1,
        5,
        (
            CT_ROOTS[1],
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
    (
        0,
        8,
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (
        5,
        8,
        (
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            CT_ROOTS[4],
        ),
    ),
)


def merkle_published() -> Iterator[Case]:
    """What others published."""
    for size, root in enumerate(CT_ROOTS):
        leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES[:size]]
        assert merkle.root(leaves).hex() == root
        yield {"kind": "root", "source": "Certificate Transparency", "leaves": list(CT_LEAVES[:size]), "root": root}
    for index, size, path in CT_PATHS:
        leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES[:size]]
        assert [item.hex() for item in merkle.path(merkle.levels(leaves), index)] == list(path)
        yield _path_case("Certificate Transparency", CT_LEAVES[index], index, size, list(path), CT_ROOTS[size])


def merkle_good() -> Iterator[Case]:
    """First, last and inner leaves of lopsided trees."""
    for size in (6, 9, 13, 64, 70):
        leaves = [bytes((index,)) for index in range(size)]
        tree = merkle.levels(leaves)
        for index in sorted({0, size // 2, size - 2, size - 1}):
            path = [item.hex() for item in merkle.path(tree, index)]
            yield _path_case("ours", leaves[index].hex(), index, size, path, tree[-1][0].hex())


def merkle_bad() -> Iterator[Case]:
    """One path, altered. Without a code it leads to another root; with one it cannot be a path at all."""
    leaves = [bytes((index,)) for index in range(7)]
    tree = merkle.levels(leaves)
    root, path = tree[-1][0].hex(), [item.hex() for item in merkle.path(tree, 4)]
    for source, leaf, index, size, siblings, code in (
        ("another leaf", "05", 4, 7, path, None),
        ("another index", "04", 5, 7, path, None),
        ("siblings swapped", "04", 4, 7, [path[1], path[0], path[2]], None),
        ("an inner node as leaf", leaves[0].hex() + tree[0][1].hex(), 0, 4, merkle_hexes(tree, 0)[1:], None),
        ("index beyond the tree", "04", 7, 7, path, "inclusion"),
        ("negative index", "04", -1, 7, path, "inclusion"),
        ("one sibling too few", "04", 4, 7, path[:-1], "inclusion"),
        ("one sibling too many", "04", 4, 7, [*path, path[0]], "inclusion"),
        ("another size", "04", 4, 5, path, "inclusion"),
        ("the empty tree", "04", 0, 0, [], "inclusion"),
        ("33 siblings", "04", 0, 1 << 40, [path[0]] * 33, "inclusion"),
    ):
        case = _path_case(source, leaf, index, size, siblings, root)
        if code is not None:
            refused(code, lambda case=case: _root_from_case(case))  # type: ignore[misc]
        else:
            assert _root_from_case(case).hex() != root
        yield case | {"kind": "bad", "code": code}


def merkle_hexes(tree: list[list[bytes]], index: int) -> list[str]:
    """A path in hexadecimal."""
    return [item.hex() for item in merkle.path(tree, index)]


def _root_from_case(case: Case) -> bytes:
    siblings = [bytes.fromhex(item) for item in case["path"]]  # type: ignore[attr-defined]
    return merkle.root_from_path(bytes.fromhex(str(case["leaf"])), case["index"], case["size"], siblings)  # type: ignore[arg-type]


def _path_case(source: str, leaf: str, index: int, size: int, path: list[str], root: str) -> Case:
    return {"kind": "path", "source": source, "leaf": leaf, "index": index, "size": size, "path": path, "root": root}


# --- terms ---------------------------------------------------------------------------------------------------------------


def terms() -> Terms:
    """A contract over 7 kWh."""
    return terms_from(
        {
            "version": VERSION,
            "order": sha256(b"order"),
            "listing": sha256(b"listing"),
            "zone": "garage-7",
            "pile": "pile-1",
            "pile_public": key("pile").public,
            "meter_serial": "22110347",
            "rated_power_w": 7_000,
            "user": "driver",
            "user_public": key("driver").public,
            "owner": "owner",
            "owner_public": key("owner").public,
            "energy_wh": 7_000,
            "window_start_ms": NOW_MS,
            "window_end_ms": NOW_MS + 7_200_000,
            "price_micro_per_kwh": 612_345,
            "on_curve": True,
            "tolerance_wh": 140,
            "overuse_wh": 700,
            "catalog_sell_micro_per_kwh": 650_000,
            "catalog_buy_micro_per_kwh": 400_000,
            "fee_micro": 50_000,
            "bond_micro": 910_000,
            "begin_grace_ms": 900_000,
            "evidence_window_ms": 3_600_000,
            "confirm_window_ms": 3_600_000,
        }
    )


def terms_good() -> Iterator[Case]:
    """One contract, with the name of each field."""
    made = terms()
    values = {name: as_json(getattr(made, name)) for name, _ in FIELDS}
    yield {"kind": "good", "values": values, "bytes": made.encoded().hex(), "contract": made.contract_id().hex()}


def terms_bad() -> Iterator[Case]:
    """The same contract with one field that cannot be."""
    made = terms()
    row = [getattr(made, name) for name, _ in FIELDS]
    for name, value, code in (
        ("version", 2, "codec"),
        ("order", bytes(31), "bounds"),
        ("zone", "Garage 7", "bounds"),
        ("zone", "", "bounds"),
        ("pile", "x" * 33, "bounds"),
        ("pile_public", bytes(64), "bounds"),
        ("meter_serial", "\u00e4", "bounds"),
        ("energy_wh", -1, "bounds"),
        ("energy_wh", None, "bounds"),
        ("on_curve", 1, "codec"),
        ("fee_micro", True, "bounds"),
        ("confirm_window_ms", "1", "bounds"),
    ):
        data = encode([value if field == name else old for (field, _), old in zip(FIELDS, row, strict=True)])
        yield _bad_terms(f"{name}: {value!r}", data, code)
    yield _bad_terms("a field too few", encode(row[:-1]), "codec")
    yield _bad_terms("a field too many", encode([*row, 0]), "codec")
    yield _bad_terms("longer than 1024 bytes", encode([*row, bytes(700)]), "oversized")


def _bad_terms(source: str, data: bytes, code: str) -> Case:
    refused(code, lambda: decode_terms(data))
    return {"kind": "bad", "source": source, "bytes": data.hex(), "code": code}


# --- certificate ---------------------------------------------------------------------------------------------------------

PARTIES = ("auditor", "grid", "operator-a", "operator-b")


def validators(count: int = 4) -> list[Validator]:
    """Accounting nodes of equal power."""
    return [Validator(party, key(party).public, 1) for party in PARTIES[:count]]


def leaves() -> list[bytes]:
    """Of one block: two results, a contract, its end, a receipt."""
    contract = terms()
    return [
        encode([LEAF_RESULT, 0, sha256(b"tx"), "ok"]),
        encode([LEAF_RESULT, 1, b"", "malformed"]),
        encode([LEAF_CONTRACT, contract.encoded()]),
        encode([LEAF_CLOSED, contract.contract_id(), "confirmed"]),
        encode([LEAF_RECEIPT, "pile-1", 5, sha256(b"proof")]),
    ]


def header(rows: list[bytes], trusted: list[Validator], chain_id: str = CHAIN) -> Header:
    """Of the block with those leaves."""
    return Header(
        chain_id=chain_id,
        height=42,
        time_ms=NOW_MS,
        proposer="grid",
        tx_count=2,
        result_count=len(rows),
        previous=sha256(b"previous"),
        tx_root=merkle.root([b"tx", b"?"]),
        result_root=merkle.root(rows),
        state_root=sha256(b"state"),
        validators_hash=validators_hash(trusted),
        next_validators_hash=validators_hash(trusted),
    )


def inclusion(index: int, signers: tuple[int, ...] = (0, 1, 2), chain_id: str = CHAIN) -> Inclusion:
    """Leaf `index` of the block, attested by some of the validators."""
    rows, trusted = leaves(), validators()
    encoded = header(rows, trusted, chain_id).encoded()
    attestations: list[list[object]] = [[i, attest(encoded, key(PARTIES[i]), chain_id)] for i in signers]
    return Inclusion(Certificate(encoded, attestations), rows[index], index, merkle.path(merkle.levels(rows), index))


def certificate_good() -> Iterator[Case]:
    """Every leaf, and every quorum that is one."""
    for index, leaf in enumerate(leaves()):
        yield _certificate_case(f"leaf {index}: kind {leaf[1]}", inclusion(index))
    for signers in ((0, 1, 3), (1, 2, 3), (0, 1, 2, 3)):
        yield _certificate_case(f"signed by {signers}", inclusion(4, signers))


def certificate_bad() -> Iterator[Case]:
    """What must not convince a pile."""
    good = inclusion(4)
    rows = list(good.certificate.attestations)
    encoded = good.certificate.header_bytes
    forged = [*rows[:2], [2, attest(encoded, key("driver"), CHAIN)]]
    as_proof = key(PARTIES[2]).sign(
        cose.to_be_signed(key(PARTIES[2]).kid, sha256(encoded), cose.purpose(cose.PROOF, CHAIN))
    )
    other_leaf = [good.certificate.fields(), leaves()[2], 4, good.path]
    fields = decode(encoded, 512)
    assert isinstance(fields, list)
    for source, changed, code in (
        ("two of four", [[encoded, rows[:2]], good.leaf, 4, good.path], "quorum"),
        ("nobody", [[encoded, []], good.leaf, 4, good.path], "quorum"),
        ("one attestation twice", [[encoded, [rows[0], rows[0], rows[1]]], good.leaf, 4, good.path], "bounds"),
        ("out of order", [[encoded, [rows[1], rows[0], rows[2]]], good.leaf, 4, good.path], "bounds"),
        ("validator 4 of four", [[encoded, [*rows[:2], [4, rows[2][1]]]], good.leaf, 4, good.path], "bounds"),
        ("five attestations", [[encoded, rows + rows[:2]], good.leaf, 4, good.path], "codec"),
        ("signed by another key", [[encoded, forged], good.leaf, 4, good.path], "signature"),
        ("signed for another purpose", [[encoded, [*rows[:2], [2, as_proof]]], good.leaf, 4, good.path], "signature"),
        ("n - s for s", [[encoded, [*rows[:2], [2, other_s(rows[2][1])]]], good.leaf, 4, good.path], "signature"),
        ("signature of 63 bytes", [[encoded, [*rows[:2], [2, as_proof[1:]]]], good.leaf, 4, good.path], "bounds"),
        ("another leaf", other_leaf, "inclusion"),
        ("another index", [good.certificate.fields(), good.leaf, 3, good.path], "inclusion"),
        ("path cut short", [good.certificate.fields(), good.leaf, 4, []], "inclusion"),
        ("sibling of 31 bytes", [good.certificate.fields(), good.leaf, 4, [bytes(31)]], "bounds"),
        ("empty leaf", [good.certificate.fields(), b"", 4, good.path], "bounds"),
        ("header version 2", [[encode([2, *fields[1:]]), rows], good.leaf, 4, good.path], "header"),
        ("header version true", [[encode([True, *fields[1:]]), rows], good.leaf, 4, good.path], "header"),
        ("header of twelve fields", [[encode(fields[:-1]), rows], good.leaf, 4, good.path], "codec"),
        ("height 0", [[encode([*fields[:2], 0, *fields[3:]]), rows], good.leaf, 4, good.path], "bounds"),
        ("three fields", [good.certificate.fields(), good.leaf, 4], "codec"),
        ("certificate without attestations", [[encoded], good.leaf, 4, good.path], "codec"),
    ):
        yield _bad_certificate(source, encode(changed), validators(), code)
    yield _bad_certificate("another chain", inclusion(4, chain_id="demo-deadbeef").encoded(), validators(), "chain")
    yield _bad_certificate("another validator set", good.encoded(), validators(3), "validators")
    yield _bad_certificate("trailing byte", good.encoded() + b"\x00", validators(), "codec")


def _certificate_case(source: str, proven: Inclusion) -> Case:
    assert proven.verify(CHAIN, validators()).height == 42
    return {
        "kind": "good",
        "source": source,
        "chain_id": CHAIN,
        "validators": encode([v.fields() for v in validators()]).hex(),
        "inclusion": proven.encoded().hex(),
        "height": 42,
        "leaf_hash": sha256(proven.leaf).hex(),
    }


def _bad_certificate(source: str, message: bytes, trusted: list[Validator], code: str) -> Case:
    rows = encode([v.fields() for v in trusted])
    pinned = validators_from(decode(rows, len(rows)))
    refused(code, lambda: decode_inclusion(message).verify(CHAIN, pinned))
    hexes = {"validators": rows.hex(), "inclusion": message.hex()}
    return {"kind": "bad", "source": source, "chain_id": CHAIN, **hexes, "code": code}


if __name__ == "__main__":
    main()
