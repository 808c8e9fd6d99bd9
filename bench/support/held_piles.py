"""Thousands of connected piles for bench/site.py, in a process of their own: a connection and a certificate each.

    python -m bench.support.held_piles SPEC.json     a line on its standard input begins each part; see `main`

Each pile does at the broker what an agent does: a lasting session, its topics, a retained status, proofs at QoS 1, and once
more every proof that no receipt covers. It reads no meter, and does not wait before it connects again: a storm at its worst.
"""

import json
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.support.pile_load import Spec, proofs_of, say
from pile_coordinator.mqtt import Broker
from pile_coordinator.verifying.stream import Stream, publish_packet
from pile_shared import topics
from pile_shared.certificate import MAX_LEAF_BYTES, decode_inclusion
from pile_shared.codec import array, decode, encode
from pile_shared.errors import LinkError

THREADS = 16
PATIENCE_S = 300.0
_RETRY_S = 0.5


class HeldPile:
    """One pile and its connection."""

    def __init__(self, pile: str, broker: Broker, spec: Spec) -> None:
        """Sign its proofs; nothing is opened yet."""
        self.pile, self._broker, self._chain_id = pile, broker, spec.chain_id
        assert broker.tls is not None
        self._context = broker.tls.context()  # made once: on a pile it costs the pile, and here it would cost the site
        self._proofs = proofs_of(pile, spec.chain_id, spec.time_ms, spec.proofs)
        self._sent_s, self._send_again_s = 0.0, spec.send_again_s
        self.covered = self.due = 0
        self.stream: Stream | None = None

    def open(self) -> None:
        """Connect and subscribe; tried again until the broker is there."""
        while self.stream is None:
            try:
                stream = Stream(self._broker, f"pile-{self.pile}", clean=False, context=self._context)
                stream.subscribe(*(topics.pile_topic(self._chain_id, self.pile, kind) for kind in topics.PILE_DOWN))
                status = encode([1, self.pile, self.covered, bytes(8), bytes(32), ""])
                topic = topics.pile_topic(self._chain_id, self.pile, "status")
                stream.send(publish_packet(topic, status, stream.next_id(), retain=True))
                self.stream = stream
            except LinkError:
                time.sleep(_RETRY_S)

    def send(self) -> None:
        """Publish what no receipt covers, if it is time to."""
        now_s = time.monotonic()
        if self.stream is None or self.covered >= self.due or now_s - self._sent_s < self._send_again_s:
            return
        self._sent_s = now_s
        topic = topics.pile_topic(self._chain_id, self.pile, "proof")
        proofs = self._proofs[self.covered : self.due]
        self.stream.send(b"".join(publish_packet(topic, proof, self.stream.next_id()) for proof in proofs))

    def hear(self) -> None:
        """Take what the broker has for it."""
        assert self.stream is not None
        messages, _ = self.stream.receive(0)
        for message in messages:
            if message.topic.endswith(b"/receipt"):
                _, _, sequence, _ = array(decode(decode_inclusion(message.payload).leaf, MAX_LEAF_BYTES), 4)
                self.covered = max(self.covered, sequence)
        self.stream.acknowledge(message.packet_id for message in messages if message.packet_id)

    def lose(self) -> None:
        """The connection broke: the next one begins with what is not covered."""
        if self.stream is not None:
            self.stream.close()
        self.stream, self._sent_s = None, 0.0


def deliver(piles: list[HeldPile]) -> None:
    """Connect who is not connected, and return when every pile has the receipt for what is due."""
    give_up_s = time.monotonic() + PATIENCE_S
    poll, by_file = select.epoll(), dict[int, HeldPile]()
    while missing := [pile for pile in piles if pile.stream is None or pile.covered < pile.due]:
        assert time.monotonic() < give_up_s, f"{len(missing)} piles have no receipt"
        for pile in missing:
            try:
                if pile.stream is None:
                    pile.open()
                    assert pile.stream is not None
                    by_file[pile.stream.fileno()] = pile
                    poll.register(pile.stream.fileno(), select.EPOLLIN)
                pile.send()
            except LinkError:
                pile.lose()
        for number, _ in poll.poll(1.0):
            try:
                by_file[number].hear()
            except LinkError:
                by_file[number].lose()
    poll.close()


def in_threads(piles: list[HeldPile], act: Callable[[list[HeldPile]], None]) -> None:
    """Have each of THREADS do it with its share."""
    threads = [threading.Thread(target=act, args=(piles[i::THREADS],)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_until_lost(piles: list[HeldPile]) -> None:
    """Return when the broker has gone, which every pile notices now."""
    for pile in piles:
        try:
            while pile.stream is not None:
                pile.stream.receive(1.0)
        except LinkError:
            pile.lose()


def main() -> None:
    """Connect and deliver a proof each; then, when the broker has gone, connect again and deliver all others."""
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    piles = [HeldPile(pile, spec.broker_as(pile), spec) for pile in spec.piles]
    say("ready")
    for part in range(2):
        sys.stdin.readline()
        if part:
            in_threads(piles, wait_until_lost)
        for pile in piles:
            pile.due = spec.proofs if part else 1
        in_threads(piles, deliver)
        say("done")
    sys.stdin.readline()


if __name__ == "__main__":
    main()
