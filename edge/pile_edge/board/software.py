"""A board's software as a whole: built here, signed for piles, kept in a file, handed out in pieces. CPython only."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pile_edge.board.bundle import build_romfs, link_bundle
from pile_edge.update import (
    FORMAT,
    MAX_IMAGE_BYTES,
    MAX_NOTE_CHARACTERS,
    MAX_OFFER_BYTES,
    MAX_VERSION,
    MAX_WANT_BYTES,
    PIECE_BYTES,
    Offer,
    open_offer,
)
from pile_shared import cose
from pile_shared.codec import array, decode, encode
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import sha256
from pile_shared.units import check_bytes, check_int, check_text

_FILE_FORMAT = "pilechain-update-1"
_MAX_FILE_BYTES = MAX_IMAGE_BYTES + 1024


@dataclass(frozen=True)
class Software:
    """An image to run: its bytes, its number, what a board calls its hash (`firmware_hash`), and what it runs on."""

    image: bytes
    version: int
    firmware: bytes
    target: str


@dataclass(frozen=True)
class Update:
    """Software with the offer that is signed for it, for piles of one chain."""

    chain_id: str
    message: bytes
    offer: Offer
    image: bytes
    firmware: bytes


def build_software(version: int) -> Software:
    """Link, compile and pack what this installation would run on a board."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_bundle(folder)
        compiled = next(iter(sorted(folder.rglob("*.mpy")))).read_bytes()
        return Software(build_romfs(folder), version, firmware_hash(folder), f"mpy{compiled[1]}")


def firmware_hash(folder: Path) -> bytes:
    """What `firmware_hash` of the board's port gives for a linked bundle."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(sha256(path.relative_to(folder).as_posix().encode()))
            digest.update(sha256(path.read_bytes()))
    return digest.digest()


def sign_update(software: Software, signer: cose.SoftwareSigner, chain_id: str, min_version: int) -> Update:
    """Sign software for the piles of a chain; BoundsError if a number is out of bounds."""
    offer = Offer(software.target, software.version, min_version, len(software.image), sha256(software.image))
    fields = [FORMAT, offer.target, offer.version, offer.min_version, offer.size_bytes, offer.digest]
    message = cose.sign1(encode(fields), signer, cose.purpose(cose.UPDATE, chain_id))
    return Update(chain_id, message, offer, software.image, software.firmware)


def write_update(update: Update, path: Path) -> None:
    """Write an update to a file; ConfigError if that fails."""
    data = encode([_FILE_FORMAT, update.chain_id, update.message, update.image, update.firmware])
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def read_update(path: Path, public: bytes) -> Update:
    """The update in a file, if `public` signed it and the image is the one that is signed for.

    Raises:
        ConfigError: naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        kind, chain_id, message, image, firmware = array(decode(data, _MAX_FILE_BYTES), 5)
        if kind != _FILE_FORMAT:
            raise ConfigError("not a signed update; make one with `pile-edge update sign`")
        check_text("chain id", chain_id, 64)
        check_bytes("offer", message, 1, MAX_OFFER_BYTES)
        check_bytes("image", image, 1, MAX_IMAGE_BYTES)
        check_bytes("firmware", firmware, 32, 32)
        offer = open_offer(message, public, chain_id)
        if (len(image), sha256(image)) != (offer.size_bytes, offer.digest):
            raise ConfigError("the image is not the one the signature is for")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except PilechainError as error:
        raise ConfigError(f"{path}: {error}") from error
    return Update(chain_id, message, offer, image, firmware)


def piece(update: Update, offset: int) -> bytes:
    """The message with the piece of an image at `offset`."""
    return encode([update.offer.version, offset, update.image[offset : offset + PIECE_BYTES]])


def open_want(payload: bytes) -> tuple[int, int, str]:
    """(version, offset, note) of a pile's question; CodecError or BoundsError if it is none."""
    version, offset, note = array(decode(payload, MAX_WANT_BYTES), 3)
    check_int("version", version, 0, MAX_VERSION)
    check_int("offset", offset, 0, MAX_IMAGE_BYTES)
    return version, offset, check_text("note", note, MAX_NOTE_CHARACTERS) if note != "" else ""
