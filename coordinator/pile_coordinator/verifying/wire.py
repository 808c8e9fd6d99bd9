"""What verify workers and their coordinator say to each other, over the broker.

    $share/<group>/pilechain/1/<chain>/+/proof       the workers of one group share the proofs of all piles
    pilechain/1/<chain>/party/<party>/verified       up    a worker's signed batch of proofs; empty: it is there
    pilechain/1/<chain>/party/<party>/keys/<bucket>  down  retained: public keys of piles, by the first bits of their key ids

A worker's word counts as the coordinator's own: whoever has its key can bring proofs into blocks that no pile signed. So each
key is named in coordinator.toml, and a batch is signed. Key lists need no signature: a batch names, by one hash, the keys by
which it was verified, and the coordinator believes it only if they are those of its chain.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from pile_shared import cose
from pile_shared.codec import array, decode, encode, items
from pile_shared.errors import BoundsError, SignatureError
from pile_shared.platform import sha256
from pile_shared.proof import MAX_PROOF_BYTES
from pile_shared.topics import PARTY_LEVEL, ROOT
from pile_shared.units import check_bytes, check_id

VERIFIED, KEYS = "verified", "keys"  # kinds of topic; the first is the signature's purpose too
MAX_BATCH_PROOFS = 256  # a signature and a message of MQTT for each batch are then a hundredth of what a proof costs
MAX_REST = 16  # of them that did not verify: enough to say why, too few to keep a coordinator busy
MAX_BATCH_BYTES = 60_000  # of messages: COSE payload lengths have 16 bits here
MAX_ENVELOPE_BYTES = 65_535 + 128
BUCKET_DIGITS = 3  # of the key id in hex: 4,096 lists, of 16 kB each for a million piles


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker brings.

    Attributes:
        verified: proofs whose signatures are valid under the keys below. keys: SHA-256 of those keys, one for each, in order.
        rest: (pile by the topic, message) of what did not verify, or by a key that the worker does not know.
    """

    verified: list[bytes]
    keys: bytes
    rest: list[tuple[str, bytes]]


def keys_digest(publics: Iterable[bytes]) -> bytes:
    """The one hash that names keys, in order."""
    return sha256(b"".join(publics))


def sign_batch(batch: Batch, signer: cose.SoftwareSigner, chain_id: str) -> bytes:
    """The message that brings a batch."""
    payload = encode([batch.keys, batch.verified, [list(row) for row in batch.rest]])
    return cose.sign1(payload, signer, cose.purpose(VERIFIED, chain_id))


def open_batch(message: bytes, workers: Mapping[bytes, tuple[str, bytes]], chain_id: str) -> tuple[str, Batch]:
    """(name of the worker, batch), of one of `workers`: name and public key by key id. Its proofs are any bytes yet.

    Raises:
        SignatureError: `oversized`, `malformed`, `unknown_key`, `bad_signature`. CodecError, BoundsError: not the wire form.
    """
    signed = cose.parse1(message, MAX_ENVELOPE_BYTES)
    if signed.kid not in workers:
        raise SignatureError("signed by no worker of this coordinator", "unknown_key")
    name, public = workers[signed.kid]
    signed.verify(public, cose.purpose(VERIFIED, chain_id))
    keys, verified, rest = array(decode(signed.payload, MAX_ENVELOPE_BYTES), 3)
    check_bytes("keys", keys, 32, 32)
    for proof in items(verified, MAX_BATCH_PROOFS):
        check_bytes("proof", proof, 0, MAX_PROOF_BYTES)
    rows = [array(row, 2) for row in items(rest, MAX_REST)]
    left = [(check_id("pile", pile), check_bytes("proof", proof, 0, MAX_PROOF_BYTES)) for pile, proof in rows]
    return name, Batch(cast("list[bytes]", verified), keys, left)


def verified_topic(chain_id: str, party: str) -> str:
    """Where the workers of a party's coordinator bring what they verified."""
    return f"{ROOT}/{chain_id}/{PARTY_LEVEL}/{party}/{VERIFIED}"


def keys_topic(chain_id: str, party: str, bucket: str) -> str:
    """Where the keys of one bucket are kept; `+` for all of them."""
    return f"{ROOT}/{chain_id}/{PARTY_LEVEL}/{party}/{KEYS}/{bucket}"


def bucket_of(kid: bytes) -> str:
    """Where the key of this id is listed."""
    return kid.hex()[:BUCKET_DIGITS]


def decode_keys(payload: bytes) -> dict[bytes, bytes]:
    """The keys of a list, by their ids; BoundsError unless it is whole keys one after the other."""
    if len(payload) % cose.PUBLIC_BYTES:
        raise BoundsError(f"a list of keys has {cose.PUBLIC_BYTES} bytes for each")
    publics = [payload[i : i + cose.PUBLIC_BYTES] for i in range(0, len(payload), cose.PUBLIC_BYTES)]
    return {cose.key_id(public): public for public in publics}
