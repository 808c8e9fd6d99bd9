"""Write coordinator/tests/vectors/ring.json: keys, images, signatures and disclosures made of fixed seeds and random bytes.

Made by our code and then only ever read: the tests let a second implementation, of docs/ring-signatures.md on other arithmetic,
make every byte again. A change here is a change of what the chain accepts. Byte strings are hexadecimal.
"""

import json
from pathlib import Path

from pile_coordinator.ring import disclosure, keys, signature

OUT = Path(__file__).parent.parent / "coordinator/tests/vectors/ring.json"
SEED = bytes(range(keys.SEED_BYTES))
CHAIN_ID = "pilechain-vectors"
# place, context, message, random: both ends of a ring and its middle, and fields that are empty
SIGNED = [
    (0, b"pilechain-vectors/bin/1", b"fund order 7", bytes(32)),
    (6, b"pilechain-vectors/bin/2", b"", bytes([255] * 32)),
    (15, b"", bytes(range(200)), bytes(range(32))),
]


def main() -> None:
    """Write the file."""
    rows = {"keys": _keys(), "signatures": [], "disclosures": []}
    ring = b"".join(bytes.fromhex(row["note_public"]) for row in rows["keys"])
    for place, context, message, random in SIGNED:
        row = rows["keys"][place]
        secret, public = bytes.fromhex(row["note_secret"]), bytes.fromhex(row["note_public"])
        image = signature.key_image(secret, context)
        signed = signature.sign(secret, ring, place, context, message, random)
        proof = disclosure.prove(secret, context, message, random)
        if not signature.verify(ring, context, image, message, signed):
            raise SystemExit(f"the signature at place {place} does not verify")
        if not disclosure.verify_disclosure(public, image, context, message, proof):
            raise SystemExit(f"the disclosure at place {place} does not verify")
        told = {"place": str(place), "context": context.hex(), "message": message.hex(), "random": random.hex()}
        rows["signatures"].append({**told, "image": image.hex(), "signature": signed.hex()})
        rows["disclosures"].append({**told, "image": image.hex(), "proof": proof.hex()})
    OUT.write_text(json.dumps({"seed": SEED.hex(), "chain_id": CHAIN_ID, **rows}, indent=1) + "\n")


def _keys() -> list[dict[str, str]]:
    """The sixteen note keys of the ring: a base key each, and sources that differ."""
    rows = []
    for number in range(signature.RING_SIZE):
        base_secret = keys.base_secret(SEED, CHAIN_ID, number)
        base, source = keys.base_public(base_secret), bytes([number] * keys.SOURCE_BYTES)
        secret, public = keys.note_secret(base_secret, source, number), keys.note_public(base, source, number)
        if keys.base_public(secret) != public:
            raise SystemExit(f"the secret of note {number} is not that of its key")
        named = {
            "base_secret": base_secret,
            "base": base,
            "source": source,
            "note_secret": secret,
            "note_public": public,
        }
        rows.append(
            {"number": str(number), "place": str(number), **{name: value.hex() for name, value in named.items()}}
        )
    return rows


if __name__ == "__main__":
    main()
