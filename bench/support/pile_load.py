"""The piles of bench/site.py, in a process of their own: signs beforehand, publishes on demand, waits for the receipts.

    python -m bench.support.pile_load SPEC.json     then "go" on its standard input for each part; see `main`

It must cost little, as it shares the machine with what is measured: a few connections carry the proofs of many piles, and a
write carries many packets. What a pile would do for each proof, one write and one record of TLS, is therefore not in the
broker's figure; what it does for each connection is in that of `held` ones, which are a connection each.
"""

import json
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.mqtt import Broker, Tls
from pile_coordinator.site.broker import MAX_QUEUED
from pile_coordinator.verifying.stream import Stream, publish_packet
from pile_shared import cose, topics
from pile_shared.certificate import MAX_LEAF_BYTES, decode_inclusion
from pile_shared.codec import array, decode
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof, proof_hash
from pile_shared.reading import Reading

_CHUNK_BYTES = 32 << 10  # sent on one connection before it is the next one's turn
MOST_AWAITED = MAX_QUEUED * 6 // 10  # proofs without a receipt: a broker drops what is beyond its bound for one client
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Spec:
    """What the process is told: where, which piles, how many proofs each, over how many connections.

    `tls` are the files of a client that may speak for all piles; `pile_tls` is the folder with those of each. `in_turn`: all
    piles bring one proof, then all the next; else each brings all of its own, as piles do that were away.
    """

    chain_id: str
    port: int
    tls: list[str]
    pile_tls: str
    piles: list[str]
    proofs: int
    connections: int
    in_turn: bool
    time_ms: int
    send_again_s: float

    def broker(self) -> Broker:
        """The broker as one for all piles sees it."""
        return Broker("localhost", self.port, keepalive_s=600, tls=Tls(*map(Path, self.tls)))

    def broker_as(self, pile: str) -> Broker:
        """The broker as a pile sees it."""
        folder = Path(self.pile_tls)
        tls = Tls(Path(self.tls[0]), folder / f"{pile}.crt", folder / f"{pile}.key")
        return Broker("localhost", self.port, keepalive_s=600, tls=tls)


def key_of(pile: str) -> cose.SoftwareSigner:
    """A pile's key."""
    return cose.SoftwareSigner(sha256(pile.encode()))


def proofs_of(pile: str, chain_id: str, time_ms: int, count: int) -> list[bytes]:
    """A pile's signed heartbeats, one reading each: the commonest message there is."""
    signer, previous, messages = key_of(pile), NO_PREVIOUS, list[bytes]()
    for sequence in range(1, count + 1):
        energy_wh = 1_000_000 + sequence
        reading = Reading(time_ms + sequence * 1000, 2, energy_wh.to_bytes(8, "big"), energy_wh, 7000, 1)
        messages.append(Proof(sequence, previous, None, HEARTBEAT, [reading]).sign(signer, chain_id))
        previous = proof_hash(messages[-1])
    return messages


def packets_of(stream: Stream, spec: Spec, piles: list[str]) -> bytes:
    """All PUBLISH packets of some piles."""
    rows = []
    for pile in piles:
        topic = topics.pile_topic(spec.chain_id, pile, "proof")
        proofs = proofs_of(pile, spec.chain_id, spec.time_ms, spec.proofs)
        rows.append([(topic, proof) for proof in proofs])
    if spec.in_turn:
        rows = [list(row) for row in zip(*rows, strict=True)]
    return b"".join(publish_packet(topic, proof, stream.next_id()) for row in rows for topic, proof in row)


class Receipts:
    """Which piles have been told that all their proofs are in blocks."""

    def __init__(self, spec: Spec) -> None:
        self.waiting = set(spec.piles)
        self.proofs = 0  # of the piles that were told so
        self._last = spec.proofs

    def take(self, stream: Stream, wait_s: float) -> None:
        """Read what a connection has."""
        messages, _ = stream.receive(wait_s)
        for message in messages:
            if message.topic.endswith(b"/receipt"):
                _, pile, sequence, _ = array(decode(decode_inclusion(message.payload).leaf, MAX_LEAF_BYTES), 4)
                if sequence >= self._last and pile in self.waiting:
                    self.waiting.remove(pile)
                    self.proofs += self._last
        stream.acknowledge(message.packet_id for message in messages if message.packet_id)


def publish_all(spec: Spec) -> None:
    """Sign, connect, say `ready`; at `go` publish everything, and say `done` when every pile has its last receipt."""
    streams = [Stream(spec.broker(), f"load-{i}") for i in range(spec.connections)]
    left = {s: memoryview(packets_of(s, spec, spec.piles[i :: len(streams)])) for i, s in enumerate(streams)}
    listener, receipts = Stream(spec.broker(), "load-receipts"), Receipts(spec)
    listener.subscribe(topics.pile_topic(spec.chain_id, "+", "receipt"))
    say("ready")
    sys.stdin.readline()
    size, sent = sum(map(len, left.values())), 0
    proofs_per_byte = len(spec.piles) * spec.proofs / size
    while left:
        for stream in list(left):
            chunk = bytes(left[stream][:_CHUNK_BYTES])
            stream.send(chunk)
            sent += len(chunk)
            left[stream] = left[stream][_CHUNK_BYTES:]
            stream.receive(0)  # acknowledgements
            receipts.take(listener, 0)
            while sent * proofs_per_byte - receipts.proofs > MOST_AWAITED:  # as piles do, which wait for receipts
                receipts.take(listener, 1.0)
            if not left[stream]:
                del left[stream]
    wait_for_receipts(receipts, [*streams, listener])
    say("done")
    sys.stdin.readline()  # what we cost is looked at meanwhile


def wait_for_receipts(receipts: Receipts, streams: list[Stream]) -> None:
    """Read until every pile has its last receipt."""
    give_up_s = time.monotonic() + PATIENCE_S
    while receipts.waiting:
        assert time.monotonic() < give_up_s, f"{len(receipts.waiting)} piles have no receipt"
        for stream in select.select(streams, [], [], 1.0)[0]:
            receipts.take(stream, 0)


def say(word: str) -> None:
    """Tell who started us."""
    print(word, flush=True)


def main() -> None:
    """Do what the file on the command line says."""
    publish_all(Spec(**json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
