"""`pile-edge run --dry-run`: the real agent on the real meter and key, that leaves nothing behind and switches nothing.

It reads, signs and journals, in a copy of the journal that is thrown away; it hears nobody; instead of publishing and
switching it prints what it would publish and switch. On a serial line it takes turns with a running agent.
"""

import shutil
import tempfile
import time
from pathlib import Path

from pile_edge.advising import AdvisingAgent, Sayer, SayingPort
from pile_edge.ports import cpython
from pile_edge.ports.cpython_storage import Storage
from pile_edge.settings import Settings
from pile_edge.signers import open_signer
from pile_edge.signers.hardware import HardwareSigner
from pile_shared.cose import SoftwareSigner
from pile_shared.errors import ConfigError
from pile_shared.platform import random_bytes
from pile_shared.proof import EVENT_NAMES, parse

_COPIES = 5  # of a journal, at most, until one is whole


class DryLink:
    """A link that publishes nothing: it prints proofs and hears nobody."""

    connected = True
    inflight = 0

    def __init__(self, say: Sayer) -> None:
        self.proofs = 0
        self._say = say

    def poll(self, timeout_ms: int) -> list[tuple[str, bytes]]:
        """Wait as a link without messages would."""
        time.sleep(timeout_ms / 1000)
        return []

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> bool:
        """Print a proof; retained status is left out."""
        if retain:
            return True
        self.proofs += 1
        proof = parse(payload)[1]
        event = EVENT_NAMES[proof.event]
        readings = [
            {"time_ms": one.time_ms, "energy_wh": one.energy_wh, "power_w": one.power_w, "raw": one.raw.hex()}
            for one in proof.readings
        ]
        lines = [f"would publish to {topic}: {event} {proof.sequence}: {payload.hex()}"]
        lines += ["  " + "  ".join(f"{key} {value}" for key, value in one.items()) for one in readings]
        told = {"publish": topic, "event": event, "sequence": proof.sequence, "proof": payload.hex()}
        self._say("\n".join(lines), **told, readings=readings)
        return True

    def close(self) -> None:
        """Nothing to close."""


class DryControl:
    """A contactor, or station, that is only talked about."""

    def __init__(self, kind: object, say: Sayer) -> None:
        self._kind = kind
        self._tell = say
        self._is_on: bool | None = None

    def energise(self) -> None:
        """Say that current would flow."""
        self._say(True)

    def de_energise(self) -> None:
        """Say that none would."""
        self._say(False)

    def is_energised(self) -> bool:
        """What was commanded last."""
        return bool(self._is_on)

    def keep(self) -> None:
        """Nothing to keep."""

    def _say(self, is_on: bool) -> None:
        if is_on is not self._is_on:
            verb = "close" if is_on else "open"
            self._tell(f"would {verb} the contactor ({self._kind})", contactor=verb)
        self._is_on = is_on


class DryPort(SayingPort):
    """The port to CPython, with the journal in a copy and a key for the day if there is none."""

    def __init__(self, folder: Path, say: Sayer) -> None:
        """Copy journals below `folder`, which the caller throws away."""
        super().__init__(say)
        self._folder = folder
        self._has_key = True

    def open_storage(self, path: str) -> Storage:
        """The files of a copy of the journal, if there is one and its key is here."""
        copy = self._folder / "journal"
        if self._has_key and Path(path).is_dir():
            _copy(path, copy)
        return cpython.open_storage(str(copy))

    def open_signer(self, uri: str) -> SoftwareSigner | HardwareSigner:
        """The pile's key; if it has not been made yet, one that nobody keeps."""
        kind, _, path = uri.partition(":")
        if kind != "file" or Path(path).exists():
            return open_signer(uri)
        self._has_key = False
        self.log(f"no key at {path} yet: signing with one for this dry run; `pile-edge key` makes the pile's")
        return SoftwareSigner(random_bytes(32))


def _copy(journal: str, copy: Path) -> None:
    """Copy a journal that an agent may be writing: a segment that is gone when its turn comes was retired meanwhile."""
    for _ in range(_COPIES):
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(journal, copy)
        except shutil.Error:
            continue
        return
    raise ConfigError(f"{journal} changes faster than it can be copied: stop the pile for a dry run")


def run_dry(config: Settings, is_stopping, say: Sayer) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - callable giving bool
    """Run until told to stop, then say what came of it.

    Raises:
        ConfigError, JournalError: as the agent itself.
    """
    link = DryLink(say)
    with tempfile.TemporaryDirectory(prefix="pile-edge-dry-run-") as folder:
        control = DryControl(config.control["kind"], say)
        AdvisingAgent(config, DryPort(Path(folder), say), link, control).run(is_stopping)
    say(f"dry run: {link.proofs} proofs signed; nothing kept, published or switched", proofs=link.proofs)
