"""Who pays with notes at a running chain: guests at its broker, each with a key of its own."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from world import HOUR, key

from pile_coordinator.chain import notes
from pile_coordinator.chain.genesis import Genesis
from pile_coordinator.chain.rejections import Rejection
from pile_coordinator.chain.transactions import AnonymousBid, Body, BuyNotes, pseudonym, ring_sign_transaction
from pile_coordinator.mqtt import Broker
from pile_coordinator.ring.keys import base_public, base_secret, note_public, note_secret
from pile_coordinator.ring.signature import RING_SIZE, key_image, sign
from pile_coordinator.wallet import Wallet

KIND = 3  # notes of 0.80
SEED = bytes(32)


class Purse:
    """One bin, the first of its denomination: all sixteen notes are one buyer's."""

    def __init__(self, genesis: Genesis, buyer: Wallet) -> None:
        self.genesis, self.chain_id = genesis, genesis.chain_id
        self._base = base_secret(SEED, self.chain_id, 0)
        public = base_public(self._base)
        source, _ = buyer.send(BuyNotes(public, [0] * KIND + [RING_SIZE]))
        self._source = source
        self._ring = b"".join(note_public(public, source, place) for place in range(RING_SIZE))
        self._bin = notes.bin_id(KIND, 0)
        self._context = notes.context(self.chain_id, self._bin)
        self._refunds = 0

    def image(self, place: int) -> bytes:
        return key_image(note_secret(self._base, self._source, place), self._context)

    def signed(self, place: int, who: str, body: Body, sequence: int = 1) -> bytes:
        def rings(message: bytes) -> list[bytes]:
            return [sign(note_secret(self._base, self._source, place), self._ring, place, self._context, message)]

        return ring_sign_transaction(rings, self.chain_id, who, sequence, 10_000, body)

    def bid(self, name: str, place: int, now_ms: int) -> tuple[str, bytes]:
        """A bid that rests, under the order key of a name, paid with one note: (pseudonym, transaction)."""
        public, window = key(name).public, (now_ms + HOUR, now_ms + 2 * HOUR)
        self._refunds += 1
        refund = base_public(base_secret(SEED, self.chain_id, self._refunds))
        rows = [[self._bin, self.image(place)]]
        body = AnonymousBid(rows, public, refund, "north", "", 500, *window, 700_000, False, window[1])
        return pseudonym(public), self.signed(place, pseudonym(public), body)

    def guest(self, name: str, broker: Broker) -> Wallet:
        """Somebody who is no party, at the broker."""
        return Wallet(self.genesis, pseudonym(key(name).public), key(name), broker, timeout_s=40.0)


def answer(guest: Wallet, tx: bytes) -> str:
    """What became of a transaction: "ok" or why not; it is sent again while another in its place waits for a block."""
    deadline = time.monotonic() + 40
    while True:
        try:
            guest.submit(tx)
        except Rejection as refusal:
            if refusal.code != "busy" or time.monotonic() > deadline:
                return refusal.code
            time.sleep(0.1)
        else:
            return "ok"


def when_ripe(guest: Wallet, tx: bytes, seconds: float = 40) -> str:
    """The same, once the bin is old enough."""
    deadline = time.monotonic() + seconds
    while (code := answer(guest, tx)) == "unknown_note":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return code


def at_once(*calls: Callable[[], str]) -> list[str]:
    """What each gives, all begun together."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
