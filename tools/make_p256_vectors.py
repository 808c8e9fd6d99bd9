"""Write shared/pile_shared/vectors/p256.jsonl: published P-256 vectors and hand-made edge cases, a JSON object a line.

Published ones come from the `cryptography-vectors` distribution: NIST CAVP (FIPS 186-3 KeyPair, PKV, SigGen, SigVer
for P-256 with SHA-256) and RFC 6979 appendix A.2.5. The hand-made ones are judged by OpenSSL before they are written,
never by our own code. Line by line, because a board with 64 kB of heap cannot hold them all.

Kinds: `key` (secret, public), `point` (public, valid), `sign` (secret, message, signature; deterministic),
`verify` (public, message, signature, valid). All byte strings are hexadecimal.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

OUT = Path(__file__).parent.parent / "shared/pile_shared/vectors/p256.jsonl"
SECTION = "[P-256,SHA-256]"
Case = dict[str, str | bool]
Point = tuple[int, int]

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
# The least x on the curve in [n, p), so that r = x - n = 3: by chance that comes once in 2^128.
WRAPPED_X = N + 3


def main() -> None:
    """Write the file anew; the output depends on nothing but the installed vectors."""
    cases = [*cavp_keys(), *cavp_points(), *cavp_signatures(), *rfc6979(), *edge_signatures(), *edge_points()]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("".join(json.dumps(case, separators=(",", ":")) + "\n" for case in cases))
    print(f"{OUT.name}: {len(cases)} cases, {OUT.stat().st_size} bytes")


def cavp_keys() -> Iterator[Case]:
    """Secrets and their public keys."""
    for fields in _cavp("FIPS_186-3/KeyPair.rsp", "[P-256]"):
        if "d" in fields:
            yield {"kind": "key", "source": "CAVP KeyPair", "secret": _hex(fields["d"]), "public": _public_hex(fields)}


def cavp_points() -> Iterator[Case]:
    """Points on the curve and off it."""
    for fields in _cavp("FIPS_186-3/PKV.rsp", "[P-256]"):
        # CAVP also has coordinates of more than 256 bits; a point of 65 bytes cannot say those.
        if max(int(fields["Qx"], 16), int(fields["Qy"], 16)) < 2**256:
            valid = fields["Result"].startswith("P")
            yield {"kind": "point", "source": "CAVP PKV", "public": _public_hex(fields), "valid": valid}


def cavp_signatures() -> Iterator[Case]:
    """Good and altered signatures, with the random nonces of their authors."""
    for name in ("SigVer.rsp", "SigGen.txt"):
        for fields in _cavp("FIPS_186-3/" + name, SECTION):
            yield {
                "kind": "verify",
                "source": "CAVP " + name.partition(".")[0],
                "public": _public_hex(fields),
                "message": fields["Msg"],
                "signature": _hex(fields["R"]) + _hex(fields["S"]),
                "valid": fields.get("Result", "P").startswith("P"),
            }


def rfc6979() -> Iterator[Case]:
    """The two deterministic signatures of appendix A.2.5 with SHA-256."""
    text = _vectors("RFC6979/evppkey_ecdsa_rfc6979.txt")
    pem = text.partition("PrivateKey=P-256_PRIV\n")[2].partition("\n\n")[0]
    secret = load_pem_private_key(pem.encode(), None)
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    for block in text.split("\n\n"):
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        if fields.get("DigestSign") == "SHA256" and fields["Key"] == "P-256_PRIV":
            r, s = decode_dss_signature(bytes.fromhex(fields["Output"]))
            yield {
                "kind": "sign",
                "source": "RFC 6979 A.2.5",
                "secret": secret.private_numbers().private_value.to_bytes(32, "big").hex(),
                "message": fields["Input"].strip('"').encode().hex(),
                "signature": _signature(r, s).hex(),
            }


def edge_signatures() -> Iterator[Case]:
    """Signatures at the borders of what is allowed, around one good signature."""
    secret = ec.derive_private_key(0x1F2E3D4C5B6A79880, ec.SECP256R1())
    public = _encode(secret.public_key())
    message = b"pilechain"
    r, s = decode_dss_signature(secret.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
    good = _signature(r, s)

    def case(note: str, signature: bytes, *, public: bytes = public) -> Case:
        valid = _openssl_verifies(public, message, signature)
        hexes = {"public": public.hex(), "message": message.hex(), "signature": signature.hex()}
        return {"kind": "verify", "source": note, **hexes, "valid": valid}

    yield case("good", good)
    yield case("the other s is as good: ES256 does not ask for low s", _signature(r, N - s))
    yield case("r and s swapped", _signature(s, r))
    for value, name in (
        (0, "0"),
        (1, "1"),
        (N - 1, "n - 1"),
        (N, "n"),
        (N + 1, "n + 1"),
        (P, "p"),
        (2**256 - 1, "max"),
    ):
        yield case("r is " + name, _signature(value, s))
        yield case("s is " + name, _signature(r, value))
    yield case("both 0", bytes(64))
    yield case("empty signature", b"")
    yield case("63 bytes", good[:-1])
    yield case("65 bytes", good + b"\x00")
    yield case("65 bytes, led by a zero", b"\x00" + good)
    yield case("DER", encode_dss_signature(r, s))
    # u G + v Q is infinity for r = -e / d, and a doubling for r = e / d.
    e, d = _digest_scalar(message), secret.private_numbers().private_value
    yield case("sum is infinity", _signature(-e * pow(d, -1, N) % N, s))
    yield case("sum of equal points", _signature(e * pow(d, -1, N) % N, s))
    # Small r and s by construction: what a reader might let pass as the same numbers written otherwise.
    r, s = WRAPPED_X - N, 0x5EED
    made = _key_for(message, s)
    yield case("x of the nonce point lies between n and p", _signature(r, s), public=made)
    yield case("the same with r + n for r", _signature(r + N, s), public=made)
    yield case("the same with s + n for s", _signature(r, s + N), public=made)
    yield case("the same without the zeros of s", r.to_bytes(32, "big") + s.to_bytes(2, "big"), public=made)
    yield case("the same with a zero more before s", r.to_bytes(32, "big") + s.to_bytes(33, "big"), public=made)
    yield case("s is 1 and right", _signature(r, 1), public=_key_for(message, 1))
    yield case("s is 0 where 1 is right", _signature(r, 0), public=_key_for(message, 1))
    yield case("off the curve", good, public=public[:-1] + bytes([public[-1] ^ 1]))
    yield case("key is infinity, as zeros", good, public=b"\x04" + bytes(64))
    yield case("key is infinity, as SEC 1 writes it", good, public=b"\x00")
    yield case("key with x and y of 2^256 - 1", good, public=b"\x04" + b"\xff" * 64)
    yield case("key without its prefix", good, public=public[1:])
    yield case("key of no bytes", good, public=b"")
    compressed = secret.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    yield case("good, but a compressed key", good, public=compressed)
    yield case("good, but a hybrid key", good, public=bytes([6 + public[-1] % 2]) + public[1:])
    yield case("negated key", good, public=public[:33] + (P - int.from_bytes(public[33:], "big")).to_bytes(32, "big"))


def edge_points() -> Iterator[Case]:
    """Encodings that are not, or only just, an uncompressed point in range."""
    public = ec.derive_private_key(0x1F2E3D4C5B6A79880, ec.SECP256R1()).public_key()
    point, short = _encode(public), public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    small = next(x for x in range(1, 100) if _root(x**3 - 3 * x + B) is not None)
    y = _root(small**3 - 3 * small + B)
    assert y is not None
    y_of_zero = _root(B)
    assert y_of_zero is not None
    y_bytes, y_of_zero_bytes = y.to_bytes(32, "big"), y_of_zero.to_bytes(32, "big")
    yield _point("good", point, valid=True)
    yield _point("x is small", b"\x04" + small.to_bytes(32, "big") + y_bytes, valid=True)
    yield _point("x is that small one plus p", b"\x04" + (small + P).to_bytes(32, "big") + y_bytes, valid=False)
    yield _point("x is 0", b"\x04" + bytes(32) + y_of_zero_bytes, valid=True)
    yield _point("x is p", b"\x04" + P.to_bytes(32, "big") + y_of_zero_bytes, valid=False)
    yield _point("infinity as zeros", b"\x04" + bytes(64), valid=False)
    yield _point("infinity, SEC 1", b"\x00", valid=False)
    yield _point("65 zeros", bytes(65), valid=False)
    yield _point("empty", b"", valid=False)
    yield _point("compressed", short, valid=False)
    yield _point("compressed prefix, full length", short[:1] + point[1:], valid=False)
    yield _point("hybrid", bytes([6 + point[-1] % 2]) + point[1:], valid=False)
    yield _point("no prefix", point[1:], valid=False)
    yield _point("one byte more", point + b"\x00", valid=False)


def _point(source: str, public: bytes, *, valid: bool) -> Case:
    if len(public) == 65 and public[0] == 4:  # other forms OpenSSL reads as well, we do not
        assert _openssl_loads(public) == valid, source
    return {"kind": "point", "source": source, "public": public.hex(), "valid": valid}


def _vectors(name: str) -> str:
    with cryptography_vectors.open_vector_file("asymmetric/ECDSA/" + name, "r") as file:
        return str(file.read())


def _cavp(name: str, section: str) -> Iterator[dict[str, str]]:
    """The records of one section of a CAVP response file; a record is a block of `name = value` lines."""
    body = _vectors(name).replace("\r", "").partition(section + "\n")[2].partition("\n[P-")[0].partition("\n[K-")[0]
    for block in body.split("\n\n"):
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        if "Qx" in fields:
            yield fields


def _hex(number: str) -> str:
    return number.strip().rjust(64, "0")


def _public_hex(fields: dict[str, str]) -> str:
    return "04" + _hex(fields["Qx"]) + _hex(fields["Qy"])


def _signature(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _encode(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _digest_scalar(message: bytes) -> int:
    digest = Hash(SHA256())
    digest.update(message)
    return int.from_bytes(digest.finalize(), "big") % N


def _openssl_verifies(public: bytes, message: bytes, signature: bytes) -> bool:
    # The fixed length is COSE's (RFC 9053 section 2.1) and the one form of key is ours; OpenSSL reads more.
    if len(signature) != 64 or len(public) != 65 or public[0] != 4:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _openssl_loads(public: bytes) -> bool:
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    except ValueError:
        return False
    return True


def _key_for(message: bytes, s: int) -> bytes:
    """The key under which (WRAPPED_X - n, s) signs a message; nobody knows its secret.

    The equation R = e/s G + r/s Q, where R has the x WRAPPED_X, leaves Q = s/r R - e/r G.
    """
    y = _root(WRAPPED_X**3 - 3 * WRAPPED_X + B)
    assert y is not None
    inverse = pow(WRAPPED_X - N, -1, N)
    base = ec.derive_private_key(-_digest_scalar(message) * inverse % N, ec.SECP256R1()).public_key().public_numbers()
    qx, qy = _add(_multiply(s * inverse % N, (WRAPPED_X, y)), (base.x, base.y))
    return b"\x04" + qx.to_bytes(32, "big") + qy.to_bytes(32, "big")


def _root(square: int) -> int | None:
    root = pow(square, (P + 1) // 4, P)
    return root if root * root % P == square % P else None


def _add(a: Point, b: Point) -> Point:
    """Affine addition by chord and tangent, written without regard to speed; never used with opposite points."""
    rise, run = (3 * a[0] * a[0] - 3, 2 * a[1]) if a == b else (a[1] - b[1], a[0] - b[0])
    slope = rise * pow(run, -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def _multiply(scalar: int, point: Point) -> Point:
    total = point
    for bit in bin(scalar)[3:]:
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


if __name__ == "__main__":
    main()
