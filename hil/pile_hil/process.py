"""A rig as a process of its own, as the demo runs it: started, asked, stopped."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_START_SECONDS = 30  # a cold import of pymodbus on a loaded machine, several times over
_ANSWER_SECONDS = 10
_STOP_SECONDS = 10


class RigProcess:
    """`python -m pile_hil.rig` behind the same few questions that `Rig` answers in this process."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        """Write the configuration into `folder`, start the rig, and wait until it is ready.

        Raises:
            RuntimeError: it ended or said nothing in time.
        """
        self._lock = threading.Lock()
        path = folder / "rig.json"
        path.write_text(json.dumps(config))
        self._process = subprocess.Popen(  # noqa: S603 - our own module, under our own interpreter
            [sys.executable, "-m", "pile_hil.rig", "--config", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.bus_specs: dict[str, dict[str, Any]] = self._line(_START_SECONDS)["buses"]
        except BaseException:
            self.stop()
            raise

    def command(self, **order: object) -> dict[str, Any]:
        """One command, e.g. `command(do="fault", pile="pile-1", kind="silence")`; the pile's truth after it.

        Threads may ask; the rig answers one at a time.

        Raises:
            ValueError: the rig refused it.
        """
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._line(_ANSWER_SECONDS)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def truth(self, pile_id: str) -> dict[str, Any]:
        """What really happened at a pile: see `SimPile.truth`."""
        return self.command(do="truth", pile=pile_id)

    def stop(self) -> None:
        """End the rig and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _line(self, seconds: int) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(seconds) else ""
        if not line:
            raise RuntimeError(f"the rig gave no answer in {seconds} s (exit code {self._process.poll()})")
        answer: dict[str, Any] = json.loads(line)
        return answer
