"""New software for a board, over the air: the signed offer, and the pieces in which it comes. Pure; board and operator.

    offer  COSE_Sign1, purpose `update`: [1, target, version, min version, size_bytes, SHA-256 of the image]
    want   pile to operator: [version, offset, note]; offset = size when it has all, a note when it has given up
    piece  operator to pile: [version, offset, bytes]

Pieces need no signature: nothing is started unless the whole image has the hash that the offer is signed for. The pile
asks for one piece at a time, so it holds one, and nobody can make it hold more.
"""

from pile_shared import cose
from pile_shared.codec import array, decode, encode
from pile_shared.errors import PilechainError
from pile_shared.units import check_bytes, check_int, check_text

FORMAT = 1
MAX_OFFER_BYTES = 256  # 110 of frame and signature, 80 of payload
PIECE_BYTES = 2048  # of an image: fits a board's heap beside the updater with room to spare
MAX_PIECE_BYTES = PIECE_BYTES + 32
MAX_WANT_BYTES = 160
MAX_NOTE_CHARACTERS = 100
MAX_VERSION = 0xFFFFFFFF
MAX_IMAGE_BYTES = 1 << 20  # far above any slot
ASK_AGAIN_MS = 10_000  # a piece asked for and not come; longer than any broker takes
CONNECT_MS = 500  # until the next try to ask while there is no connection
SILENT_MS = 180_000  # without a piece: then the pile charges again instead of waiting


class UpdateError(PilechainError):
    """Software that is not put in place: `target`, `old`, `failed`, `too_large`, `silent` or `damaged`."""

    code = "update"


class Offer:
    """What an operator offers.

    Attributes:
        target: what it runs on, as `target_here` says it. version: its number, greater than any before it.
        min_version: the lowest version that may start once this one has reported. size_bytes, digest: of the image.
    """

    def __init__(self, target: str, version: int, min_version: int, size_bytes: int, digest: bytes) -> None:
        """Check every field; BoundsError names the one that is out of bounds."""
        self.target = check_text("target", target, 16)
        self.version = check_int("version", version, 1, MAX_VERSION)
        self.min_version = check_int("min version", min_version, 0, version)
        self.size_bytes = check_int("size", size_bytes, 1, MAX_IMAGE_BYTES)
        self.digest = check_bytes("digest", digest, 32, 32)

    def check(self, state: dict, target: str, room_bytes: int) -> None:  # type: ignore[type-arg]
        """Whether a board may take it.

        Args:
            state: The board's `slots.json` (pile_edge.board.loader), no trial going on.
            target: What the board is.
            room_bytes: Of a slot.

        Raises:
            UpdateError: `target`, `old` (no version twice, none below one that runs), `failed`, `too_large`.
        """
        if self.target != target:
            raise UpdateError("made for " + self.target + ", this is " + target, "target")
        if self.version <= state["slots"][state["active"]][0] or self.version < state["floor"]:
            raise UpdateError("no newer than what runs", "old")
        if self.version == state["failed"]:
            raise UpdateError("this version did not report before", "failed")
        if self.size_bytes > room_bytes:
            raise UpdateError("larger than a slot of " + str(room_bytes) + " bytes", "too_large")


def open_offer(message: bytes, public: bytes, chain_id: str) -> Offer:
    """The offer in a message, if `public` signed it for this chain.

    Raises:
        SignatureError, CodecError, BoundsError: it did not, or it is malformed.
    """
    signed = cose.parse1(message, MAX_OFFER_BYTES)
    signed.verify(public, cose.purpose(cose.UPDATE, chain_id))
    fields = array(decode(signed.payload, MAX_OFFER_BYTES), 6)
    check_int("format", fields[0], FORMAT, FORMAT)
    return Offer(*fields[1:])


def fetch(link, topic: str, offer: Offer, write, now_ms, log) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - a link, and callables
    """Ask for the image piece by piece and write each where it belongs.

    Args:
        link: Subscribed to where pieces come.
        topic: Where to ask.
        offer: What is wanted.
        write: Called write(offset, data), in order.
        now_ms: Milliseconds that only count up.
        log: One line for people.

    Raises:
        UpdateError: `silent`, no piece came for SILENT_MS.
    """
    offset = 0
    ask_ms = progress_ms = now_ms()
    while offset < offer.size_bytes:
        if now_ms() - progress_ms > SILENT_MS:
            raise UpdateError("nobody sends the software", "silent")
        if now_ms() >= ask_ms:
            is_asked = link.publish(topic, encode([offer.version, offset, ""]))
            ask_ms = now_ms() + (ASK_AGAIN_MS if is_asked else CONNECT_MS)
        for _, payload in link.poll(100):
            piece = piece_of(payload, offer, offset)
            if piece:
                write(offset, piece)
                offset += len(piece)
                ask_ms = progress_ms = now_ms()
    log("all " + str(offset) + " bytes have come")


def piece_of(payload: bytes, offer: Offer, offset: int) -> bytes:
    """The bytes of the piece that is next; nothing if the message is anything else."""
    try:
        version, start, data = array(decode(payload, MAX_PIECE_BYTES), 3)
    except PilechainError:
        return b""
    is_next = version == offer.version and start == offset and isinstance(data, bytes)
    return data if is_next and len(data) <= min(PIECE_BYTES, offer.size_bytes - offset) else b""
