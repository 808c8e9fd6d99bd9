"""Every line of a file of wire vectors, under either interpreter: tests import `holds`, MicroPython runs `main`.

Prints the number of cases of each kind, of failures, and the most heap in use between two cases. Each file imports what
it needs, because on the unix build, where a pointer takes 8 bytes, all modules and a vector are too much for its heap; and
the test compiles this file first.
"""

import gc
import json
import sys
from binascii import unhexlify

from pile_shared.codec import decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256


def taken(case, name):
    """The bytes of a field, which leaves the case: a board does not hold both forms."""
    return unhexlify(case.pop(name))


def from_json(value):
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if isinstance(value, dict):
        if "hex" in value:
            return unhexlify(value["hex"])
        return {from_json(key): from_json(item) for key, item in value["map"]}
    return value


def codec(case):
    data = taken(case, "bytes")
    value = decode(data, 64 if case["kind"] == "bad" else 4096)
    expected = from_json(case["value"])
    return value == expected and same_types(value, expected) and encode(value) == data and encode(expected) == data


def same_types(value, expected):
    """1 equals true in Python, and on the wire it must not."""
    if isinstance(expected, list):
        return isinstance(value, list) and all(same_types(value[i], expected[i]) for i in range(len(expected)))
    return isinstance(value, bool) is isinstance(expected, bool)


def sign1(case):
    from pile_shared import cose

    message, aad = taken(case, "message"), taken(case, "aad")
    public = case.get("public")
    if public is not None:
        cose.parse1(message, 400).verify(unhexlify(public), aad)
        return True
    signer = cose.SoftwareSigner(taken(case, "secret"))
    signed = cose.parse1(message, len(message))
    signed.verify(signer.public, aad)
    payload = taken(case, "payload")
    return signed.payload == payload and cose.sign1(payload, signer, aad) == message


def proof(case):
    from pile_shared import cose
    from pile_shared.proof import Origin, Proof, open_proof
    from pile_shared.reading import Reading

    message = taken(case, "message")
    if case["kind"] == "bad":
        open_proof(message, taken(case, "public"), case["chain_id"])
        return True
    signer = cose.SoftwareSigner(taken(case, "secret"))
    readings = [Reading(row[0], row[1], unhexlify(row[2]), row[3], row[4], row[5]) for row in case.pop("readings")]
    contract = case["contract"] and taken(case, "contract")
    origin = case["origin"]
    if origin is not None:
        origin = Origin(origin[0], origin[1], origin[2], unhexlify(origin[3]))
    made = Proof(case["sequence"], taken(case, "previous"), contract, case["event"], readings, case["reason"], origin)
    payload = made.payload()
    is_same = made.sign(signer, case["chain_id"]) == message
    made = readings = origin = None
    return is_same and open_proof(message, signer.public, case["chain_id"]).payload() == payload


def tree(case):
    from pile_shared import merkle

    root = taken(case, "root")
    if case["kind"] == "root":
        return merkle.root([unhexlify(leaf) for leaf in case["leaves"]]) == root
    siblings = [unhexlify(item) for item in case["path"]]
    found = merkle.root_from_path(taken(case, "leaf"), case["index"], case["size"], siblings)
    return (found == root) is (case["kind"] != "bad")


def terms(case):
    from pile_shared.terms import decode_terms, terms_from

    data = taken(case, "bytes")
    decoded = decode_terms(data)
    made = terms_from({name: from_json(value) for name, value in case["values"].items()})
    return made.encoded() == data == decoded.encoded() and decoded.contract_id() == taken(case, "contract")


def certificate(case):
    from pile_shared.certificate import decode_inclusion, validators_from

    rows = taken(case, "validators")
    trusted = validators_from(decode(rows, len(rows)))
    rows = None
    inclusion = decode_inclusion(taken(case, "inclusion"))
    header = inclusion.verify(case["chain_id"], trusted)
    return header.height == case["height"] and sha256(inclusion.leaf) == taken(case, "leaf_hash")


CHECKS = {"codec": codec, "cose": sign1, "proof": proof, "terms": terms, "merkle": tree, "certificate": certificate}


def holds(name, case):
    """Whether a case of the file `name` comes out as it says. A bad one must be refused with exactly its code."""
    try:
        good = CHECKS[name](case)
    except PilechainError as error:
        return case.get("code") == error.code
    return good and case.get("code") is None


NEEDS = {
    "cose": ("cose",),
    "proof": ("units", "cose", "reading", "proof"),
    "terms": ("units", "terms"),
    "merkle": ("merkle",),
    "certificate": ("units", "cose", "merkle", "certificate"),
}


def load(name):
    """As a board boots: a collection after each module, so that what stays lies together; the table while 16 kB do."""
    for module in NEEDS.get(name, ()):
        __import__("pile_shared." + module)
        gc.collect()
    from pile_shared import p256

    p256.comb_table()


def main(name, path):
    counts = {"failed": 0}
    load(name)
    most_bytes = 0
    with open(path) as lines:  # noqa: PTH123 - no pathlib on a board
        for line in lines:
            case = json.loads(line)
            line = None  # noqa: PLW2901 - room for what it says
            counts[case["kind"]] = counts.get(case["kind"], 0) + 1
            if not holds(name, case):
                counts["failed"] += 1
                print("failed:", case, file=sys.stderr)
            case = None
            gc.collect()
            most_bytes = max(most_bytes, gc.mem_alloc())
    counts["heap_bytes"] = most_bytes
    print(json.dumps(counts))
