"""Fifteen neighbours who buy the same notes as somebody: without company a bin never fills."""

import time
from typing import cast

from pile_coordinator.chain.transactions import Body, BuyNotes, Deposit, RegisterParty, sign_transaction
from pile_coordinator.keys import load_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.ring.keys import base_public, base_secret
from pile_coordinator.ring.signature import RING_SIZE
from pile_hil.site import Site, SiteError
from pile_shared import cose, topics
from pile_shared.codec import array, decode
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256

MONEY_MICRO = 200_000_000
VALID_BLOCKS = 10_000
ANSWER_S = 30.0


class Neighbours:
    """Parties of a site whose operator and grid admit them; each call of `buy` fills what one note of each kind began."""

    def __init__(self, site: Site) -> None:
        """Admit them, with money."""
        self._site = site
        self._names = [f"neighbour-{i}" for i in range(1, RING_SIZE)]
        self._bought = 0
        admitted = [RegisterParty(one, "ev-owner", self._signer(one).public) for one in self._names]
        paid = [Deposit(one, MONEY_MICRO, f"opening-{one}") for one in self._names]
        self._send([("operator", body) for body in admitted])
        self._send([("grid", body) for body in paid])

    def buy(self, counts: list[int]) -> None:
        """Each buys so many notes of each denomination."""
        self._bought += 1
        chain_id = self._site.genesis.chain_id
        bases = [base_public(base_secret(sha256(one.encode()), chain_id, self._bought)) for one in self._names]
        self._send([(one, BuyNotes(base, counts)) for one, base in zip(self._names, bases, strict=True)])

    def _signer(self, party: str) -> SoftwareSigner:
        return SoftwareSigner(sha256(party.encode()))

    def _send(self, wanted: list[tuple[str, Body]]) -> None:
        """All at once, over one connection, and until all are answered. SiteError if one is refused."""
        chain_id = self._site.genesis.chain_id
        down = [topics.party_topic(chain_id, "+", "result")]
        connection = Connection(self._site.broker_spec, "neighbours", down, persistent=False)
        try:
            connection.wait_connected(ANSWER_S)
            sent: set[bytes] = set()
            numbers: dict[str, int] = {}
            for party, body in wanted:
                if party not in numbers:
                    numbers[party] = self._bought - 1 if party in self._names else self._sequence(party)
                numbers[party] += 1
                signer = self._signer(party) if party in self._names else load_key(self._site.key_file(party))
                tx = sign_transaction(signer, chain_id, party, numbers[party], VALID_BLOCKS, body)
                sent.add(sha256(tx))
                connection.publish(topics.party_topic(chain_id, party, "tx"), tx)
            _hear(connection, sent)
        finally:
            connection.close()

    def _sequence(self, party: str) -> int:
        with self._site.wallet(party) as wallet:
            return cast("dict[str, int]", wallet.ask("account"))["sequence"]


def _hear(connection: Connection, sent: set[bytes]) -> None:
    """Until all these were taken."""
    deadline = time.monotonic() + ANSWER_S
    while sent:
        if time.monotonic() > deadline:
            raise SiteError(f"{len(sent)} transactions of neighbours were not answered")
        received = connection.get(0.5)
        if received is None:
            continue
        try:
            envelope, _ = array(decode(received[1], 1 << 16), 2)
            tx, _, code, text = array(decode(cose.parse1(envelope, 1 << 16).payload, 1 << 16), 4)
        except PilechainError:
            continue
        if tx in sent and code != "ok":
            raise SiteError(f"a neighbour's transaction was refused: {code}: {text}")
        sent.discard(tx)
