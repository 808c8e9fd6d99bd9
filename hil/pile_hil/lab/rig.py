"""A rig from its YAML file: which targets it has, what each can, and whether that is enough for a scenario."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labgrid import Environment
from labgrid.exceptions import InvalidConfigError, NoConfigFoundError

from pile_hil.lab.protocols import RigError
from pile_hil.network import has_cometbft

RIGS = Path(__file__).parent.parent / "rigs"
USUAL_RATE = 60
SITE = "site"  # the target of broker and coordinator; every other one is a pile


def rig_path(name: str) -> Path:
    """The file of a rig: a path, or the name of one that comes with this package."""
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        path = RIGS / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(one.stem for one in RIGS.glob("*.yaml")))
        raise RigError(f"no rig {name!r}: give the path of a .yaml file, or one of {there}")
    return path


class Rig:
    """One rig. Nothing is opened before a trial does."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            RigError: it is no rig, or a module it imports is not there.
        """
        self.path = path
        try:
            self.environment = Environment(str(path))
        except (InvalidConfigError, NoConfigFoundError, ImportError) as error:
            raise RigError(f"{path}: {error}") from error
        targets: dict[str, Any] = self.environment.config.get_targets()
        if SITE not in targets or len(targets) < 2:
            raise RigError(f"{path}: a rig has a target `{SITE}` and one for each pile; see rigs/sim.yaml")
        lacking = frozenset() if has_cometbft() else frozenset({"node-power"})
        self._features = {name: frozenset(target.get("features", ())) - lacking for name, target in targets.items()}
        self.piles = tuple(name for name in targets if name != SITE)

    @property
    def is_simulated(self) -> bool:
        """Whether any number of it may run side by side; of real hardware there is one."""
        return "simulated" in self._features[SITE]

    @property
    def slowness(self) -> int:
        """How many times longer everything may take than on a rig whose time runs 60 times as fast."""
        rate: int = self.environment.config.get_targets()[SITE]["resources"]["Bench"].get("rate", USUAL_RATE)
        return max(1, USUAL_RATE // rate)

    def pick(self, needs: Iterable[str], count: int) -> tuple[str, ...]:
        """The first `count` piles that, with the site, have all these features.

        labgrid itself would unite the features of all targets; a scenario needs them on the pile it disturbs.

        Raises:
            RigError: there are not so many; the message says what is lacking.
        """
        wanted = frozenset(needs) - self._features[SITE]
        fitting = [name for name in self.piles if wanted <= self._features[name]]
        if len(fitting) >= count:
            return tuple(fitting[:count])
        lacking = sorted(wanted - frozenset().union(*(self._features[name] for name in self.piles)))
        what = (
            f"has no {', '.join(lacking)}" if lacking else f"has {len(fitting)} piles with {', '.join(sorted(wanted))}"
        )
        raise RigError(f"rig {self.path.stem} {what}; {count} needed")
