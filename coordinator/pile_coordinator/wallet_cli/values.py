"""What people type: amounts, times, ids, keys. Each raises argparse.ArgumentTypeError with the form it expects."""

import argparse
from datetime import UTC, datetime

from pile_coordinator.amounts import parse_money
from pile_coordinator.chain.transactions import CONSENSUS_KEY_BYTES
from pile_shared.cose import PUBLIC_BYTES
from pile_shared.errors import BoundsError
from pile_shared.units import MAX_TIME_MS, check_id

HASH_BYTES = 32


def order_id(text: str) -> bytes:
    """The id of an order, contract or withdrawal."""
    return _hex(text, HASH_BYTES, "an id")


def public_key(text: str) -> bytes:
    """A public key, as `wallet new` and `pile-edge key` print it."""
    return _hex(text, PUBLIC_BYTES, "a public key")


def _hex(text: str, length: int, what: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != length:
        raise argparse.ArgumentTypeError(f"{what} has {2 * length} hex digits")
    return value


def money(text: str) -> int:
    """Currency to micro."""
    try:
        return parse_money(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def notes(text: str) -> list[tuple[int, int]]:
    """Which notes, and how many of each: [(value in micro, count)]."""
    found = []
    for part in text.split(","):
        value, _, count = part.partition("x")
        if not (count.isascii() and count.isdigit()) or int(count) == 0:
            raise argparse.ArgumentTypeError("notes are like 6.40x2,0.10x5")
        found.append((money(value), int(count)))
    return found


def name(text: str) -> str:
    """The id of a party, pile or zone."""
    try:
        return check_id("an id", text)
    except BoundsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def consensus_key(text: str) -> bytes:
    """The ed25519 key of a CometBFT node."""
    return _hex(text, CONSENSUS_KEY_BYTES, "an ed25519 key")


def permille(text: str) -> int:
    """Whole thousandths, at most all."""
    if not (text.isascii() and text.isdigit()) or int(text) > 1000:
        raise argparse.ArgumentTypeError("a share is in whole thousandths, 0 to 1000")
    return int(text)


def height(text: str) -> int:
    """A block's number."""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) < 1 << 53:
        raise argparse.ArgumentTypeError("a height is a whole number, like 250000")
    return int(text)


def energy_wh(text: str) -> int:
    """Whole watt-hours."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("an energy is in whole Wh, like 5000")
    return int(text)


def time_ms(text: str) -> int:
    """UTC unless it says otherwise, or unix milliseconds."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("a time is like 2026-11-23T08:30 (UTC) or unix milliseconds") from error
    since = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    value = (since.days * 86_400 + since.seconds) * 1000
    if not 0 <= value <= MAX_TIME_MS:
        raise argparse.ArgumentTypeError("a time is after 1970")
    return value
