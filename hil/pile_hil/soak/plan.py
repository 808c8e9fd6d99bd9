"""What goes wrong when, all of it known before anything runs: the same seed, time and piles give the same plan."""

import random
from dataclasses import dataclass

PAUSE_S = (2, 12)  # between two faults on the same pile, or the same site
LENGTH_S = (1, 10)  # of a fault; piles and wallets wait longer than that before they give anything up
COORDINATOR, BROKER = "coordinator", "broker"
_ANYBODYS = ("partition", "packet-loss", "bad-line", "bad-broker", "reset", "refuse", "stall")
PILES = (*_ANYBODYS, "power-cut", "clock", "disk-full", "disk-slow", "disk-failing", "disk-broken")
COORDINATORS = PILES
BROKERS = ("power-cut",)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: when it begins after the start, how long it lasts, whom it meets, and a seed for what it does by chance."""

    at_s: int
    length_s: int
    who: str
    name: str
    seed: int


def plan(seed: int, seconds: int, piles: tuple[str, ...]) -> list[list[Planned]]:
    """One list for each pile and one for the site; faults of one list never overlap, those of different lists may."""
    lanes: list[list[tuple[str, tuple[str, ...]]]] = [[(pile, PILES)] for pile in piles]
    lanes.append([(COORDINATOR, COORDINATORS), (COORDINATOR, COORDINATORS), (BROKER, BROKERS)])
    return [_lane(random.Random(f"{seed} {number}"), seconds, lane) for number, lane in enumerate(lanes)]  # noqa: S311


def _lane(dice: random.Random, end_s: int, choices: list[tuple[str, tuple[str, ...]]]) -> list[Planned]:
    found: list[Planned] = []
    at_s = dice.randint(*PAUSE_S)
    while True:
        who, names = dice.choice(choices)
        length_s = dice.randint(*LENGTH_S)
        if at_s + length_s > end_s:
            return found
        found.append(Planned(at_s, length_s, who, dice.choice(names), dice.randrange(1 << 32)))
        at_s += length_s + dice.randint(*PAUSE_S)
