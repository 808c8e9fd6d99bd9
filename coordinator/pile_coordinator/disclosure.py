"""A driver's own word, to one auditor, that an anonymous order was theirs: made with the note that led it, by nobody else.

A file of deterministic CBOR in a COSE_Sign1 of the party's key:

    [1, chain id, order, party, party's public key, bin, place, note key, image, text, proof]

The proof shows that note key and image have one secret (ring/disclosure.py) and is over everything else in the row. So the file
says who made it, to whom (`text`), and about which order; a word of it changed, another name under it, or another order, and it
is refused. Which key is whose, the ledger says: the reader compares the fingerprint with the party's registration. Whoever has
the note can say any name they have the key of: two who agree on it can say that one paid for the other.
"""

from dataclasses import dataclass

from pile_coordinator.chain import notes
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.transactions import BIN_ID_BYTES
from pile_coordinator.ring.disclosure import PROOF_BYTES, prove, verify_disclosure
from pile_coordinator.ring.group import POINT_BYTES, public_of
from pile_coordinator.ring.signature import RING_SIZE, key_image
from pile_coordinator.verify import Verified
from pile_shared import cose
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_bytes, check_id, check_int, check_text

VERSION = 1
PURPOSE = "disclosure"  # of the party's signature, beside those of cose.py
MAX_BYTES = 2048
MAX_TEXT = 200  # printable ASCII: who asks, and what for
HASH_BYTES = 32


class DisclosureError(PilechainError):
    """This does not show whose the order was; the message says why."""

    code = "disclosure"


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What a disclosure shows.

    Attributes:
        party: who paid, in its own words. public: its key, by which the ledger knows it. order: the bid's transaction.
        text: to whom and what for.
    """

    party: str
    public: bytes
    order: bytes
    text: str

    @property
    def fingerprint(self) -> str:
        """Of the key, to compare with the party's registration."""
        return sha256(self.public).hex()


def disclose(
    signer: cose.SoftwareSigner,
    chain_id: str,
    order: bytes,
    party: str,
    secret: bytes,
    bin_id: bytes,
    place: int,
    text: str,
) -> bytes:
    """Make the file.

    Args:
        signer: The party's key.
        chain_id: Of the order's chain.
        order: The bid's transaction.
        party: Whose order it was, as the ledger calls the key's holder.
        secret: Of the note that led the order.
        bin_id: The bin of that note.
        place: Where it stands there, 0 to 15.
        text: To whom and what for: printable ASCII, 1 to MAX_TEXT characters.

    Raises:
        BoundsError: The text is not like that.
    """
    context = notes.context(chain_id, bin_id)
    row = [VERSION, chain_id, order, party, signer.public, bin_id, place, public_of(secret), key_image(secret, context)]
    row.append(check_text("text", text, MAX_TEXT))
    proof = prove(secret, context, _message(row))
    return cose.sign1(encode([*row, proof]), signer, cose.purpose(PURPOSE, chain_id))


def _message(row: list[object]) -> bytes:
    """What the proof is for: all that stands before it."""
    return encode([cose.purpose(PURPOSE, str(row[1])), row])


def check(data: bytes, verified: Verified, genesis: Genesis) -> Disclosure:
    """What a disclosure shows about an order whose certificate was verified under this genesis.

    Raises:
        DisclosureError: It is malformed or forged, of another chain or order, or the order was not paid anonymously.
    """
    if not verified.notes:
        raise DisclosureError("this order was not paid anonymously: the certificate names its user")
    lead = verified.notes[0]
    return check_against(data, genesis.chain_id, verified.order, lead.bin, lead.image, lead.ring)


def check_against(data: bytes, chain_id: str, order: bytes, bin_id: bytes, image: bytes, ring: bytes) -> Disclosure:
    """The same about an order whose leading note showed `image` in the bin whose 16 keys are `ring`; DisclosureError too."""
    try:
        signed = cose.parse1(data, MAX_BYTES)
        *row, proof = array(decode(signed.payload, MAX_BYTES), 11)
        found, place, key = _read(row)
        check_bytes("proof", proof, PROOF_BYTES, PROOF_BYTES)
        signed.verify(found.public, cose.purpose(PURPOSE, chain_id))
    except PilechainError as error:
        raise DisclosureError(f"no disclosure signed by the party it names: {error}") from error
    if (row[1], found.order) != (chain_id, order):
        raise DisclosureError(f"it is about order {found.order.hex()} of {row[1]}")
    if (row[5], row[8]) != (bin_id, image):
        raise DisclosureError("it shows another note than the one that led this order")
    if ring[place * POINT_BYTES : (place + 1) * POINT_BYTES] != key:
        raise DisclosureError("the note it shows is not at that place of the bin")
    if not verify_disclosure(key, image, notes.context(chain_id, bin_id), _message(row), proof):
        raise DisclosureError("its maker did not have the secret of the note, or a word of it was changed")
    return found


def _read(row: list[object]) -> tuple[Disclosure, int, bytes]:
    """The fields, the place in the ring and the note's key."""
    version, chain, order, party, public, name, place, key, image, text = row
    check_int("version", version, VERSION, VERSION)
    check_id("chain", chain)
    check_bytes("bin", name, BIN_ID_BYTES, BIN_ID_BYTES)
    check_bytes("image", image, POINT_BYTES, POINT_BYTES)
    found = Disclosure(
        check_id("party", party),
        check_bytes("public", public, cose.PUBLIC_BYTES, cose.PUBLIC_BYTES),
        check_bytes("order", order, HASH_BYTES, HASH_BYTES),
        check_text("text", text, MAX_TEXT),
    )
    return found, check_int("place", place, 0, RING_SIZE - 1), check_bytes("note key", key, POINT_BYTES, POINT_BYTES)
