"""Mistakes that somebody could make in this software, planted in a copy of it, to see that rig and simulator find them.

Each is told by the text that is right and the text that is wrong. One whose right text is not there exactly once raises
PlantError: the code has moved on, and the bug has to be planted where it is now.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pile_shared
from pile_shared.errors import PilechainError

PACKAGES = ("shared/pile_shared", "edge/pile_edge", "coordinator/pile_coordinator", "hil/pile_hil")
ROOT = Path(pile_shared.__file__).resolve().parents[2]  # each package is beside the others in its own folder


class PlantError(PilechainError):
    """A bug that cannot be planted."""

    code = "plant"


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement: `right` stands in `file` once, and becomes `wrong`."""

    file: str
    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake: what it does in one line, and the edits that make it."""

    name: str
    about: str
    edits: tuple[Edit, ...]


_STORAGE = "edge/pile_edge/ports/cpython_storage.py"
_INGEST = "coordinator/pile_coordinator/ingest.py"
_PROOFS = "coordinator/pile_coordinator/chain/proofs.py"

_ALL = (
    Bug(
        "journal-without-flush",
        "a proof counts as kept, and is published, before it is on the disk: a power cut takes it back",
        (
            Edit(
                _STORAGE,
                "                view = view[self._fs.write(fd, view) :]\n            self._fs.fsync(fd)\n",
                "                view = view[self._fs.write(fd, view) :]\n",
            ),
        ),
    ),
    Bug(
        "duplicate-not-detected",
        "a proof that comes twice is handed to the chain again, and taken there again",
        (
            Edit(
                _INGEST,
                "        if proof.sequence < expected and not _retells(pile, proof.sequence, message):\n"
                "            return REPLAYED\n",
                "        if proof.sequence < expected and not _retells(pile, proof.sequence, message):\n"
                "            self._ready.append(message)\n"
                "            return READY\n",
            ),
            Edit(
                _PROOFS,
                "    if proof.sequence < pile.last_sequence or digest == pile.last_hash:\n        return DUPLICATE\n",
                "    if proof.sequence < pile.last_sequence:\n"
                "        return DUPLICATE\n"
                "    if digest == pile.last_hash:\n"
                "        _advance(state, env, journal, pile, proof, digest)\n"
                "        return ADMITTED\n",
            ),
        ),
    ),
    Bug(
        "rebase-on-falling-register",
        "a register that falls becomes a new base, and what it counts from there is added to what was counted before",
        (
            Edit(
                "edge/pile_edge/meters/decode.py",
                "        sample = self._sample()\n"
                "        rise_wh = sample.energy_wh - self._energy_wh\n"
                "        if rise_wh < 0:\n"
                '            raise MeterError("energy fell by " + str(-rise_wh) + " Wh", "falling")\n',
                "        sample = self._sample()\n"
                '        sample.energy_wh += getattr(self, "_base_wh", 0)\n'
                "        rise_wh = sample.energy_wh - self._energy_wh\n"
                "        if rise_wh < 0:\n"
                '            self._base_wh = getattr(self, "_base_wh", 0) - rise_wh\n'
                "            sample.energy_wh -= rise_wh\n"
                "            rise_wh = 0\n",
            ),
        ),
    ),
    Bug(
        "receipt-unchecked",
        "a pile believes a receipt that no accounting node signed, and deletes proofs that the chain does not have",
        (
            Edit(
                "edge/pile_edge/light.py",
                "        if through <= after:\n            return None\n        self.verify(inclusion)\n",
                "        if through <= after:\n            return None\n",
            ),
        ),
    ),
    Bug(
        "session-not-saved",
        "a pile does not save what it is doing: after a power cut the session it was in never ends",
        (
            Edit(
                "edge/pile_edge/agent.py",
                "                elif action[0] == SAVE:\n                    self.journal.save_state(action[1])\n",
                "",
            ),
        ),
    ),
)
BUGS = {bug.name: bug for bug in _ALL}


def planted_tree(bug: str, folder: Path) -> Path:
    """Copy the four packages into `folder`, plant a bug there, and return it.

    A process whose PYTHONPATH is `python_path(folder)` runs the copy.

    Raises:
        PlantError: no bug of that name, or its right text does not stand there exactly once.
    """
    if bug not in BUGS:
        raise PlantError(f"no planted bug {bug!r}; there are {', '.join(BUGS)}")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in BUGS[bug].edits:
        path = folder / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.right) != 1:
            raise PlantError(f"{bug}: its text stands {text.count(edit.right)} times in {edit.file}; plant it anew")
        path.write_text(text.replace(edit.right, edit.wrong), encoding="utf-8")
    return folder


def python_path(folder: Path = ROOT) -> str:
    """What PYTHONPATH has to be for a process to run the packages under `folder`."""
    return ":".join(str(folder / Path(package).parent) for package in PACKAGES)
