"""What a fuzz target is: a check that takes any bytes, and where to begin."""

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pile_shared.errors import PilechainError

ROOT = Path(__file__).resolve().parent.parent.parent
FOUND = Path(__file__).parent / "found"  # inputs that once broke something: FOUND/<target>/<what it broke>

Check = Callable[[bytes], None]
Seeds = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder under fire.

    Attributes:
        name: as on the command line. check: raises for a broken property; a typed error of ours is a right answer.
        seeds: good and bad examples, the golden vectors where there are some. max_bytes: of an input.
        short_runs: how many inputs `make test` tries.
    """

    name: str
    check: Check
    seeds: Seeds
    max_bytes: int
    short_runs: int

    @property
    def about(self) -> str:
        """The first line of the check's docstring."""
        return (self.check.__doc__ or "").partition("\n")[0]

    def found(self) -> list[Path]:
        """The inputs that once broke it."""
        return sorted(path for path in (FOUND / self.name).glob("*") if path.is_file())


TARGETS: dict[str, Target] = {}


def target(name: str, *, seeds: Seeds, max_bytes: int, short_runs: int = 2000) -> Callable[[Check], Check]:
    """Enter a check among the targets."""

    def enter(check: Check) -> Check:
        TARGETS[name] = Target(name, check, seeds, max_bytes, short_runs)
        return check

    return enter


def attempt(call: Callable[[], Any]) -> Any:
    """What `call` gives, or None for one of our typed errors. Whatever else it raises is a finding."""
    try:
        return call()
    except PilechainError:
        return None


def vectors(name: str, field: str) -> Iterator[bytes]:
    """One field of every golden vector of a kind."""
    text = (ROOT / "shared/pile_shared/vectors" / f"{name}.jsonl").read_text()
    yield from (bytes.fromhex(row[field]) for row in map(json.loads, text.splitlines()) if field in row)


def scratch(name: str) -> Path:
    """A folder of this process, removed when it ends: a target runs in a child of the one that imported it."""
    folder = Path(_scratch(os.getpid()).name, name)
    folder.mkdir(exist_ok=True)
    return folder


@functools.cache
def _scratch(_process: int) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")
