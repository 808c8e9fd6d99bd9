"""A coordinator serving in a thread, on a real broker, for tests that talk to it from outside."""

import threading
import time

from pile_coordinator.chain.transactions import Deposit, RegisterParty, RegisterPile
from pile_coordinator.config import load_config
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.service import Coordinator
from pile_hil.site import Site
from pile_shared import cose, topics
from pile_shared.platform import sha256

PILE = cose.SoftwareSigner(sha256(b"pile-1"))


class Served:
    """A coordinator serving in a thread, wallets, and a raw connection that may say anything."""

    def __init__(self, folder, port, **site) -> None:
        self.site = Site(folder, [], rate=1, port=port, **site)
        self.chain_id = self.site.genesis.chain_id
        self._start()
        down = [topics.pile_topic(self.chain_id, "+", kind) for kind in topics.PILE_DOWN]
        down.append(topics.party_topic(self.chain_id, "+", "result"))
        self.raw = Connection(self.site.broker_spec, "stranger", down, persistent=False)
        self.raw.wait_connected(20)
        self.coordinator.connection.wait_connected(20)
        for party in ("olga", "dan"):
            make_key(self.site.key_file(party))

    def _start(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(20)

    def restart(self) -> None:
        """Stop the coordinator, and start it again on what it has on disk."""
        self.coordinator.stop()
        self._thread.join(20)
        self._start()
        self.coordinator.connection.wait_connected(20)

    def _serve(self) -> None:
        self.coordinator = Coordinator(load_config(self._config()))
        self._ready.set()
        self.coordinator.run()

    def _config(self):
        return self.site.write_coordinator()

    def close(self) -> None:
        self.coordinator.stop()
        self._thread.join(20)
        self.raw.close()

    def root(self) -> tuple[int, bytes]:
        engine = self.coordinator.engine
        return engine.height, engine.previous

    def counted(self, reason: str, count: int) -> None:
        deadline = time.monotonic() + 10
        while self.coordinator.counts[reason] < count:
            assert time.monotonic() < deadline, (reason, self.coordinator.counts)
            time.sleep(0.01)

    def proof(self, message: bytes, pile: str = "pile-1") -> None:
        self.raw.publish(topics.pile_topic(self.chain_id, pile, "proof"), message)

    def admit(self) -> None:
        with self.site.wallet("operator") as operator, self.site.wallet("grid") as grid:
            for party, role in (("olga", "pile-owner"), ("dan", "ev-owner")):
                operator.send(RegisterParty(party, role, load_key(self.site.key_file(party)).public))
                grid.send(Deposit(party, 20_000_000, party))
            operator.send(RegisterPile("pile-1", "olga", PILE.public, "SDM630", "1", "north", 7000))
