"""The catalogue of faults: named functions, each with what it needs of a rig and what it expects.

    @scenario("meter-crc", fault="Modbus CRC errors", needs=("meter-faults",))
    def meter_crc(trial: Trial) -> None:
        \"\"\"For some time each answer of the meter has a wrong CRC, in the middle of a session.\"\"\"

A scenario opens the trial's site, or plans it and puts something in between first, and comes back when it has seen what it is
about; then every proof must get its receipt, and the judge looks at what is left (trials/judge.py). MODULES names the files
that have scenarios; importing one adds them.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pile_hil.trials.facts import Expects
from pile_hil.trials.trial import Trial
from pile_shared.errors import ConfigError

MODULES = (  # one a line
    "pile_hil.scenarios.modbus",
    "pile_hil.scenarios.power",
    "pile_hil.scenarios.nodes",
    "pile_hil.scenarios.network",
    "pile_hil.scenarios.clocks",
    "pile_hil.scenarios.disks",
    "pile_hil.scenarios.certificates",
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One entry.

    Attributes:
        name: by which it is asked for. fault: what of the world goes wrong, in the words of the catalogue.
        needs: features of a rig's site and piles. piles: how many take part. expects: how its orders end.
        run: what happens. about: the same in words.
    """

    name: str
    fault: str
    needs: frozenset[str]
    piles: int
    expects: Expects
    run: Callable[[Trial], None]

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (self.run.__doc__ or "").strip().splitlines()[0]


_catalogue: dict[str, Scenario] = {}


def scenario(
    name: str, *, fault: str, needs: Iterable[str] = (), piles: int = 1, expects: Expects | None = None
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Add a function to the catalogue under a name that nothing else has."""

    def add(run: Callable[[Trial], None]) -> Callable[[Trial], None]:
        assert run.__doc__, f"{name} says what it does in its docstring"
        assert name not in _catalogue or _catalogue[name].run.__module__ == run.__module__, f"two scenarios {name}"
        _catalogue[name] = Scenario(name, fault, frozenset(needs), piles, expects or Expects(), run)
        return run

    return add


def catalogue() -> dict[str, Scenario]:
    """All scenarios, by name, in the order of their modules."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(_catalogue)


def find(name: str) -> Scenario:
    """One of them; ConfigError if there is none of that name."""
    known = catalogue()
    if name not in known:
        raise ConfigError(f"no scenario {name!r}; `pilechain hil list` shows all")
    return known[name]
