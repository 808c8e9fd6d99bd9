"""What goes wrong in a simulated world, and when it is over. All of it is planned from the seed, before anything happens."""

import random
from dataclasses import dataclass, field

from pile_hil.simulator.ledger import Ledger, Replica
from pile_hil.simulator.network import BROKER, Network
from pile_hil.simulator.pile import Pile
from pile_hil.simulator.world import DAY_MS, HOUR_MS, MINUTE_MS, World
from pile_shared.certificate import Certificate, Inclusion
from pile_shared.codec import encode
from pile_shared.terms import LEAF_RECEIPT
from pile_shared.topics import pile_topic

LOST_CLOCK_MS = 20 * 365 * DAY_MS  # a board without a battery believes that it is long ago


@dataclass(slots=True)
class Faults:
    """Plans what goes wrong until `until_ms`, and ends it.

    Attributes:
        count: of faults by kind, for the report.
    """

    world: World
    network: Network
    ledger: Ledger
    piles: list[Pile]
    replicas: list[Replica]
    until_ms: int
    count: dict[str, int] = field(default_factory=dict)

    def plan(self, per_day: int) -> None:
        """Draw so many faults for each day of a pile, of all kinds, and at least one; none at all if that is 0."""
        if not per_day:
            return
        chance = self.world.stream("faults")
        hours = max(1, (self.until_ms - self.world.now_ms) // HOUR_MS)
        self._disturb_network(chance)
        for pile in self.piles:
            for _ in range(max(1, per_day * hours // 24)):
                self._at_some_time(chance, pile)
        for _ in range(max(1, per_day * hours // 48)):
            kind = chance.choice(("coordinator", "commit", "broker", *(["node"] if self.replicas else [])))
            when_ms = chance.randint(self.world.now_ms, self.until_ms)
            draw = random.Random(chance.random())  # noqa: S311 - a simulation
            self.world.at(when_ms, lambda kind=kind, draw=draw: self._of_site(kind, draw))  # type: ignore[misc]

    def _disturb_network(self, chance: random.Random) -> None:
        if chance.random() < 0.7:
            self.ledger.troubles.add("network")
            self.network.loss_permille = chance.choice((0, 10, 50, 200))
            self.network.twice_permille = chance.choice((0, 20, 200, 500))
            self.network.delay_ms = chance.choice((50, 500, 5000, 30_000))

    def _at_some_time(self, chance: random.Random, pile: Pile) -> None:
        kind = chance.choice(tuple(_OF_PILES))
        when_ms = chance.randint(self.world.now_ms, self.until_ms)
        draw = random.Random(chance.random())  # noqa: S311 - a simulation

        def strike() -> None:
            self._note(kind)
            pile.troubles.add(kind)
            self.world.say("fault", f"{kind} at {pile.id}")
            _OF_PILES[kind](self, pile, draw)

        self.world.at(when_ms, strike)

    def _note(self, kind: str) -> None:
        self.count[kind] = self.count.get(kind, 0) + 1

    def _of_site(self, kind: str, draw: random.Random) -> None:
        self._note(kind)
        self.ledger.troubles.add(kind)
        if kind == "coordinator":
            self.ledger.stop(draw.randint(1, 60) * MINUTE_MS)
        elif kind == "commit":
            self.ledger.store.crash_in, self.ledger.store.crash_before = draw.randint(0, 5), draw.random() < 0.5
        elif kind == "broker":
            self.network.cut(BROKER, draw.randint(1, 90) * MINUTE_MS)
        else:
            draw.choice(self.replicas).crash(draw.randint(1, 120) * MINUTE_MS)

    def end(self) -> None:
        """Everything is as it should be again, save what cannot be mended."""
        self.world.say("fault", "all is well again")
        self.network.mend()
        self.ledger.store.crash_in = None
        self.ledger.start()
        for replica in self.replicas:
            replica.start()
        for pile in self.piles:
            pile.disk.cut_in, pile.disk.full = None, False
            pile.clock_off_ms, pile.clock_lost = 0, False
            hardware = pile.hardware
            hardware.silent_until_ms = hardware.noisy_until_ms = hardware.stuck_until_ms = 0
            hardware.dip_until_ms = hardware.relay_until_ms = 0
            pile.boot()

    # --- of one pile -----------------------------------------------------------------------------------------------

    def _power_cut(self, pile: Pile, draw: random.Random) -> None:
        pile.lose_power(draw.randint(1, 90) * MINUTE_MS)

    def _power_cut_at_a_write(self, pile: Pile, draw: random.Random) -> None:
        pile.disk.cut_in = draw.randint(0, 12)

    def _power_cut_without_battery(self, pile: Pile, draw: random.Random) -> None:
        pile.lose_power(draw.randint(1, 30) * MINUTE_MS)
        pile.clock_off_ms, pile.clock_lost = -LOST_CLOCK_MS, True
        self.world.after(draw.randint(31, 90) * MINUTE_MS, lambda: self._set_clock(pile))

    def _set_clock(self, pile: Pile) -> None:
        pile.clock_off_ms, pile.clock_lost = 0, False

    def _crash(self, pile: Pile, draw: random.Random) -> None:
        pile.crash(draw.randint(1, 20) * MINUTE_MS)

    def _clock_jump(self, pile: Pile, draw: random.Random) -> None:
        seconds = draw.choice((1, 30, 300, 590, 1800, 7200))
        pile.clock_off_ms = draw.choice((-1, 1)) * seconds * 1000
        self.world.after(draw.randint(5, 120) * MINUTE_MS, lambda: self._set_clock(pile))

    def _partition(self, pile: Pile, draw: random.Random) -> None:
        self.network.cut(pile.id, draw.choice((1, 5, 30, 89, 200)) * MINUTE_MS)

    def _meter_silent(self, pile: Pile, draw: random.Random) -> None:
        pile.hardware.silent_until_ms = self.world.now_ms + draw.choice((5, 50, 90, 900)) * 1000

    def _meter_noisy(self, pile: Pile, draw: random.Random) -> None:
        pile.hardware.noisy_until_ms = self.world.now_ms + draw.randint(1, 60) * MINUTE_MS

    def _meter_stuck(self, pile: Pile, draw: random.Random) -> None:
        pile.hardware.stick(self.world.now_ms + draw.randint(1, 30) * MINUTE_MS)

    def _meter_dips(self, pile: Pile, draw: random.Random) -> None:
        pile.hardware.dip_wh = draw.choice((10, 50, 200, 5000))
        pile.hardware.dip_until_ms = self.world.now_ms + draw.randint(1, 20) * MINUTE_MS

    def _meter_reset(self, pile: Pile, draw: random.Random) -> None:
        if self.count["meter reset"] == 1 and draw.random() < 0.5:  # for good: this pile is of no use from then on
            pile.hardware.reset()

    def _relay_dead(self, pile: Pile, draw: random.Random) -> None:
        pile.hardware.relay_until_ms = self.world.now_ms + draw.choice((2, 30, 600)) * 1000

    def _disk_full(self, pile: Pile, draw: random.Random) -> None:
        pile.disk.full = True
        self.world.after(draw.randint(1, 60) * MINUTE_MS, lambda: self._empty(pile))

    def _empty(self, pile: Pile) -> None:
        pile.disk.full = False

    def _forged_receipt(self, pile: Pile, draw: random.Random) -> None:
        """Somebody who listens to the broker tells the pile that the chain has its newest proof."""
        if pile.agent is None or pile.agent.journal.head is None or not self.ledger.store.blocks:
            return
        sequence, digest = pile.agent.journal.head
        genuine = draw.choice(self.ledger.store.blocks)
        leaf = encode([LEAF_RECEIPT, pile.id, sequence, digest])
        attestations = [[index, signature] for index, signature in genuine.certificate.attestations]
        forged = Inclusion(Certificate(genuine.certificate.header_bytes, attestations), leaf, 0, [])
        pile.hear(pile_topic(self.ledger.genesis.chain_id, pile.id, "receipt"), forged.encoded())


_OF_PILES = {
    "power cut": Faults._power_cut,  # noqa: SLF001 - ours
    "power cut at a write": Faults._power_cut_at_a_write,  # noqa: SLF001
    "power cut without a battery": Faults._power_cut_without_battery,  # noqa: SLF001
    "crash": Faults._crash,  # noqa: SLF001
    "clock jump": Faults._clock_jump,  # noqa: SLF001
    "partition": Faults._partition,  # noqa: SLF001
    "meter silent": Faults._meter_silent,  # noqa: SLF001
    "meter noisy": Faults._meter_noisy,  # noqa: SLF001
    "meter stuck": Faults._meter_stuck,  # noqa: SLF001
    "meter dips": Faults._meter_dips,  # noqa: SLF001
    "meter reset": Faults._meter_reset,  # noqa: SLF001
    "relay dead": Faults._relay_dead,  # noqa: SLF001
    "disk full": Faults._disk_full,  # noqa: SLF001
    "forged receipt": Faults._forged_receipt,  # noqa: SLF001
}
