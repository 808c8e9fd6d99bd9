"""Runs targets under libFuzzer: each in a process of its own, with a corpus that stays.

A finding is written to a file, and the command that shows it again is printed; then the exit code is 1.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fuzz.target import ROOT, TARGETS, Check, Target

MODULES = ("wire_targets", "abci_target", "modbus_targets", "pile_targets", "chain_targets", "site_targets")
INSTRUMENTED = ["pile_shared", "pile_edge", "pile_coordinator"]
HANG_S = 25  # of one input; most take microseconds
MAX_RSS_MB = 1536
COMMAND = "PYTHONPATH=tests .venv/bin/python -m fuzz"
_NUMBERS = re.compile(r"cov: (\d+) .*corp: (\d+)/")
_STATS = re.compile(r"stat::(\w+):\s+(\d+)")
_ARTIFACT = re.compile(r"Test unit written to (\S+)")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one target: executions, coverage in edges, inputs in the corpus, new ones, and what was found."""

    name: str
    executions: int
    per_s: int
    coverage: int
    corpus: int
    new: int
    artifact: Path | None
    failed: bool


def load(*, instrumented: bool) -> None:
    """Import all targets, and with them what they test; instrumented, libFuzzer sees which branches an input takes."""
    if not instrumented:
        for module in MODULES:
            importlib.import_module(f"fuzz.{module}")
        return
    import atheris

    # Of each module that it instruments atheris says so.
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):
        for module in MODULES:
            importlib.import_module(f"fuzz.{module}")


def start(target: Target, folder: Path, limits: list[str]) -> int:
    """Run a target in a child of this process, which has everything imported already; its process id."""
    home = folder / target.name
    (home / "corpus").mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    with (home / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        _fuzz_here(target, home, limits)
    except Exception:  # noqa: BLE001 - it must not go on as a second parent
        traceback.print_exc()
    os._exit(1)


def _fuzz_here(target: Target, home: Path, limits: list[str]) -> None:
    """Hand this process over to libFuzzer, which ends it."""
    import atheris

    corpus = home / "corpus"
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    fixed = [
        f"-max_len={target.max_bytes}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={MAX_RSS_MB}",
        "-print_final_stats=1",
    ]
    atheris.Setup([target.name, *fixed, *limits, f"-artifact_prefix={home}/", str(corpus)], _keeping(target, home))
    atheris.Fuzz()


def _keeping(target: Target, home: Path) -> Check:
    """The check; what breaks it is on disk before anything else happens. libFuzzer gives it the same name, if it comes to that."""

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except Exception:
            path = home / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"
            path.write_bytes(data)
            print(f"Test unit written to {path}", flush=True)
            raise

    return check


def outcome(target: Target, folder: Path, status: int) -> Run:
    """Read a finished run off its log."""
    log = (folder / target.name / "log").read_text(errors="replace")
    coverage = _NUMBERS.findall(log)
    stats = dict(_STATS.findall(log))
    artifact = _ARTIFACT.search(log)
    return Run(
        name=target.name,
        executions=int(stats.get("number_of_executed_units", 0)),
        per_s=int(stats.get("average_exec_per_sec", 0)),
        coverage=int(coverage[-1][0]) if coverage else 0,
        corpus=int(coverage[-1][1]) if coverage else 0,
        new=int(stats.get("new_units_added", 0)),
        artifact=Path(artifact[1]) if artifact else None,
        failed=status != 0 or artifact is not None,
    )


def tell(run: Run, folder: Path) -> None:
    """One line for a target, and what to do where something was found."""
    print(
        f"{run.name:<14} {run.executions:>12,} executions {run.per_s:>8,}/s  coverage {run.coverage:>5}"
        f"  corpus {run.corpus:>5}  new {run.new:>5}",
        flush=True,
    )
    if run.failed and run.artifact is not None:
        print(f"  FOUND {run.artifact}; see it again:\n    {COMMAND} --replay {run.artifact} {run.name}", flush=True)
    elif run.failed:
        print(f"  ENDED without a result; see {folder / run.name / 'log'}", flush=True)


def fuzz(names: list[str], folder: Path, limits: Callable[[Target], list[str]], jobs: int) -> bool:
    """Run targets, `jobs` at a time, each within its limits; whether none found anything."""
    waiting, running, good = list(names), dict[int, str](), True
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            running[start(TARGETS[name], folder, limits(TARGETS[name]))] = name
        child, status = os.wait()
        run = outcome(TARGETS[running.pop(child)], folder, status)
        tell(run, folder)
        good = good and not run.failed
    return good


def replay(target: Target, path: Path) -> int:
    """Give a target one input, without libFuzzer; 1 if it breaks something, and how."""
    began_s = time.monotonic()
    try:
        target.check(path.read_bytes())
    except Exception:  # noqa: BLE001 - whatever it is, it was found
        traceback.print_exc()
        return 1
    print(f"{target.name} takes {path} in {time.monotonic() - began_s:.3f} s: nothing is broken")
    return 0


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; default: %(default)s")
    parser.add_argument("--runs", type=int, help="inputs for each target, instead of seconds; the same ones each time")
    parser.add_argument("--short", action="store_true", help="a few hundred or thousand inputs, as in `make test`")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/fuzz", help="of corpora, logs and findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give the target this input, and no other")
    parser.add_argument("--list", action="store_true", help="say what there is")
    options = parser.parse_args(arguments)
    with_fuzzer = not (options.replay or options.list)
    if with_fuzzer and find_spec("atheris") is None:
        parser.error("atheris is not installed: it has wheels for Linux on x86-64, and `make fuzz` installs it there")
    load(instrumented=with_fuzzer)
    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.list:
        print("\n".join(f"{name:<14} {TARGETS[name].about}" for name in names))
        return 0
    if options.replay:
        if len(options.targets) != 1:
            parser.error("--replay needs the one target that the file is for")
        return replay(TARGETS[names[0]], options.replay)

    def limits(target: Target) -> list[str]:
        runs = target.short_runs if options.short else options.runs
        return [f"-runs={runs}", "-seed=1"] if runs else [f"-max_total_time={options.seconds}"]

    return 0 if fuzz(names, options.folder, limits, options.jobs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
