"""Many trials: each in a process of its own, several at once, each judged when it has ended."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from pile_hil.lab.protocols import RigError
from pile_hil.lab.rig import Rig
from pile_hil.planted import planted_tree, python_path
from pile_hil.scenarios.registry import Scenario
from pile_hil.trials.facts import FILE
from pile_hil.trials.judge import Check, judge

TRIAL_S = 600  # none takes so long, not on a machine that does three other things: it hangs
STOP_S = 60  # for a trial that was told to end, to stop its processes in order
VERDICT = "verdict.json"
PASSED, FAILED, SKIPPED, STOPPED = "passed", "failed", "skipped", "stopped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one scenario; `text` says why it was skipped or could not be judged. `real_s` is how long it took."""

    scenario: str
    fault: str
    about: str
    outcome: str
    real_s: float = 0.0
    text: str = ""
    checks: list[Check] = field(default_factory=list)

    @property
    def why(self) -> str:
        """In one line, what is wrong; logs and more are in the trial's folder and in the report."""
        broken = [f"{check.name}: {check.text.splitlines()[0]}" for check in self.checks if not check.ok]
        return " | ".join([*broken, *self.text.splitlines()[-1:]])

    def save(self, folder: Path) -> None:
        """Write it into a trial's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / VERDICT).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it from a trial's folder."""
        row = json.loads((folder / VERDICT).read_text())
        row["checks"] = [Check(**check) for check in row["checks"]]
        return cls(**row)


class Runner:
    """Runs scenarios on a rig. `stop` may be called from a signal handler."""

    def __init__(self, rig: Rig, out: Path, *, planted: str = "") -> None:
        """Trials go into folders of `out`, one for each scenario. With `planted`, the software has that bug."""
        self._rig, self._out = rig, out
        self._environment = dict(os.environ)
        if planted:
            tree = out / "planted"
            shutil.rmtree(tree, ignore_errors=True)
            self._environment["PYTHONPATH"] = python_path(planted_tree(planted, tree))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Begin nothing new, and tell what runs to end."""
        self._stopping.set()
        for process in list(self._running.values()):
            process.send_signal(signal.SIGTERM)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has called `stop`."""
        return self._stopping.is_set()

    def run(
        self,
        scenarios: list[Scenario],
        *,
        jobs: int,
        keep_going: bool,
        began: Callable[[Scenario], None],
        ended: Callable[[Verdict], None],
    ) -> list[Verdict]:
        """All verdicts, in the order of `scenarios`; those that were not begun after a failure or a stop are missing.

        Args:
            scenarios: what to run.
            jobs: how many at once; a rig of real boards runs one.
            keep_going: go on after a failure.
            began: called when a scenario begins, from any thread.
            ended: the same, with its verdict.
        """
        waiting: queue.SimpleQueue[Scenario] = queue.SimpleQueue()
        for one in scenarios:
            waiting.put(one)
        verdicts: dict[str, Verdict] = {}

        def work() -> None:
            while not self.is_stopping:
                try:
                    one = waiting.get_nowait()
                except queue.Empty:
                    return
                began(one)
                verdict = verdicts[one.name] = self._trial(one)
                verdict.save(self._out / one.name)
                ended(verdict)
                if verdict.outcome == FAILED and not keep_going:
                    self._stopping.set()

        threads = [threading.Thread(target=work) for _ in range(jobs if self._rig.is_simulated else 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [verdicts[one.name] for one in scenarios if one.name in verdicts]

    def _trial(self, one: Scenario) -> Verdict:
        folder = self._out / one.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._rig.pick(one.needs, one.piles)
        except RigError as error:
            return Verdict(one.name, one.fault, one.about, SKIPPED, text=str(error))
        said = self._child(one, folder)
        if not (folder / FILE).exists():
            return Verdict(one.name, one.fault, one.about, STOPPED if self.is_stopping else FAILED, text=said[-2000:])
        checks = judge(folder)
        real_s = json.loads((folder / FILE).read_text())["real_s"]
        is_fine = all(check.ok for check in checks)
        outcome = PASSED if is_fine else STOPPED if self.is_stopping else FAILED
        return Verdict(one.name, one.fault, one.about, outcome, real_s, checks=checks)

    def _child(self, one: Scenario, folder: Path) -> str:
        """Run a trial; what it printed."""
        command = [sys.executable, "-m", "pile_hil.trials.child", one.name, str(self._rig.path), str(folder)]
        log = self._out / f"{one.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                process_group=0,  # Ctrl-C is for the runner, which lets each trial stop its processes in order
            )
            self._running[one.name] = process
            try:
                if self.is_stopping:  # since it was looked at last
                    process.terminate()
                process.wait(TRIAL_S * self._rig.slowness)
            except subprocess.TimeoutExpired:
                process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            del self._running[one.name]
        return log.read_text(errors="replace")
