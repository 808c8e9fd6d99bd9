"""The wire between piles, wallets and the coordinator, broker included: it loses, delays, repeats and reorders messages.

A broker with QoS 1 does little of that while everybody is connected; who is safe here is safe there.
"""

from collections.abc import Callable

from pile_hil.simulator.world import World

BROKER = "broker"


class Network:
    """Carries messages between named ends.

    Attributes:
        loss_permille, twice_permille, delay_ms: what happens to a message; all 0 when faults are over.
    """

    def __init__(self, world: World, changed: Callable[[str], None]) -> None:
        """Begin whole; `changed` hears which end went away or came back."""
        self.loss_permille = self.twice_permille = 0
        self.delay_ms = 20
        self._world, self._changed = world, changed
        self._chance = world.stream("network")
        self._away_until_ms: dict[str, int] = {}

    def cut(self, end: str, for_ms: int) -> None:
        """Take an end away for a while; the broker takes everybody along."""
        self._away_until_ms[end] = max(self._away_until_ms.get(end, 0), self._world.now_ms + for_ms)
        self._world.say("network", f"{end} is away for {for_ms} ms")
        self._changed(end)
        self._world.after(for_ms, lambda: self._changed(end))

    def mend(self) -> None:
        """Everybody is back, and the wire is a good one."""
        self.loss_permille = self.twice_permille = 0
        self.delay_ms = 20
        self._away_until_ms.clear()
        self._changed(BROKER)

    def is_up(self, end: str) -> bool:
        """Whether an end is connected."""
        away_ms = max(self._away_until_ms.get(end, 0), self._away_until_ms.get(BROKER, 0))
        return self._world.now_ms >= away_ms

    def carry(self, source: str, target: str, arrive: Callable[[], None]) -> None:
        """Send a message: `arrive` happens once, never, or twice, in any order with others."""
        if not self.is_up(source) or self._chance.randrange(1000) < self.loss_permille:
            return
        for _ in range(2 if self._chance.randrange(1000) < self.twice_permille else 1):
            self._world.after(self._chance.randint(1, self.delay_ms), lambda: self._arrive(target, arrive))

    def _arrive(self, target: str, arrive: Callable[[], None]) -> None:
        if self.is_up(target):
            arrive()
