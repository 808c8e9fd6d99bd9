"""Every decoder under libFuzzer for a short while, every input that once broke one, and that a broken one is found."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz import __main__ as command
from fuzz.target import FOUND, TARGETS

from pile_hil.requirements import require

ROOT = Path(__file__).parent.parent
PATHS = ("tests", "shared", "edge", "coordinator", "hil")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in PATHS)}
LINE = re.compile(r"^([\w-]+) +([\d,]+) executions +[\d,]+/s  coverage +(\d+)  corpus +(\d+)", re.MULTILINE)

command.load(instrumented=False)


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command. libFuzzer counts on being let alone with a process, so it gets one."""
    require(find_spec("atheris") is not None, "atheris is not installed (it has wheels for Linux on x86-64)")
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_known_breaks_nothing(name: str) -> None:
    """Seeds and findings, without libFuzzer: on every machine."""
    target = TARGETS[name]
    inputs = [*target.seeds(), *(path.read_bytes() for path in target.found()), b"", b"\x00"]
    assert len(inputs) > 2
    for data in inputs:
        target.check(data)


def test_what_was_found_belongs_to_a_target() -> None:
    assert {path.name for path in FOUND.iterdir()} <= set(TARGETS)
    assert all(len(path.read_bytes()) <= TARGETS[path.parent.name].max_bytes for path in FOUND.glob("*/*"))


@pytest.mark.timeout(600)
def test_a_short_run_of_every_target_finds_nothing(tmp_path: Path) -> None:
    done = fuzz("-m", "fuzz", "--short", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    ran = {
        name: (int(runs.replace(",", "")), int(edges), int(inputs))
        for name, runs, edges, inputs in LINE.findall(done.stdout)
    }
    assert set(ran) == set(TARGETS)
    for name, (runs, edges, inputs) in ran.items():
        assert runs >= TARGETS[name].short_runs
        assert edges > 10, f"{name} is not instrumented"
        assert inputs > 1, f"{name} tells no input from another"


PLANTED = """
import sys
from fuzz import __main__ as command
from fuzz.target import target
command.MODULES, command.HANG_S = (), 2

@target("planted", seeds=lambda: [b"good"], max_bytes=8)
def planted(data):
    if data[:2] == b"no":
        BROKEN

sys.exit(command.main(["planted", "--runs", "2000000", "--folder", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [("raise KeyError(data)", "crash", "KeyError"), ("while True: pass", "timeout", "ALARM")],
)
def test_a_crash_and_a_hang_are_found_and_can_be_seen_again(tmp_path: Path, broken: str, kind: str, said: str) -> None:
    script = tmp_path / "planted.py"
    script.write_text(PLANTED.replace("BROKEN", broken))
    done = fuzz(str(script), str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    (found,) = (tmp_path / "planted").glob("*-*")
    assert found.name.startswith(kind)
    assert found.read_bytes()[:2] == b"no"
    assert f"--replay {found} planted" in done.stdout
    assert said in (tmp_path / "planted/log").read_text(errors="replace")


def test_replay_says_what_an_input_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"\x18\x01")
    assert command.main(["cbor", "--replay", str(path)]) == 0
    assert "nothing is broken" in capsys.readouterr().out
    monkeypatch.setattr("fuzz.wire_targets.codec.decode", lambda *_: 1)
    assert command.main(["cbor", "--replay", str(path)]) == 1
    assert "AssertionError" in capsys.readouterr().err


def test_the_page_has_every_target_and_its_commands_exist(capsys) -> None:
    page = (ROOT / "docs/fuzz.md").read_text()
    told = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page.partition("What ten minutes")[0], re.MULTILINE)
    assert sorted(told) == sorted((target.name, target.about) for target in TARGETS.values())
    makefile = (ROOT / "Makefile").read_text()
    named = [*re.search(r'TARGETS="([^"]*)"', page)[1].split(), *re.search(r"FUZZED := (.*)", makefile)[1].split()]
    assert command.main(["--list", *named]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == named
    assert f"{command.COMMAND} --replay build/fuzz/cbor/crash-0123 cbor" in page
    assert f"takes {command.HANG_S} seconds" in page
    for word in ("SECONDS", "JOBS", "TARGETS"):
        assert f"$({word})" in makefile
