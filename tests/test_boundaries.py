"""Who may import whom, what the pure chain and a board's code may use, how long a function may be, what no file may name.

Read from the syntax trees of the working tree. Each rule is broken once in a copy, to see that it is noticed.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from pile_edge.board.bundle import BOARD_MODULES, CPYTHON_MODULES, LOADER_MODULE

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "pile_shared": "shared/pile_shared",
    "pile_edge": "edge/pile_edge",
    "pile_coordinator": "coordinator/pile_coordinator",
    "pile_hil": "hil/pile_hil",
}
MAY_IMPORT = {
    "pile_shared": {"pile_shared"},
    "pile_edge": {"pile_shared", "pile_edge"},
    "pile_coordinator": {"pile_shared", "pile_coordinator"},
    "pile_hil": set(PACKAGES),
}
CHAIN = "coordinator/pile_coordinator/chain"

# What a pure function of state and input can need. No clock, file, socket, thread, randomness, locale or logging.
CHAIN_STDLIB = {
    "bisect",
    "collections",
    "dataclasses",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "operator",
    "typing",
}
# The one exact integer function of a module that is otherwise floating point.
CHAIN_IMPORTS = {"math.isqrt"}
# Ours that a pure function can use: the arithmetic of ring signatures, which has no state either.
CHAIN_PACKAGES = ("pile_shared.", "pile_coordinator.chain.", "pile_coordinator.ring.")
# By name: what reads the world, depends on the process (hash seeds, addresses), or is no integer.
CHAIN_NAMES = {
    *("open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint", "globals", "vars"),
    *("hash", "id", "float", "complex"),
}
# What takes a set without minding its order.
ORDERLESS = {"sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all"}

# Modules of MicroPython 1.29 on the unix port and the ESP32.
BOARD_STDLIB = {
    *("asyncio", "binascii", "errno", "esp32", "gc", "hashlib", "io", "json", "machine", "micropython", "network"),
    *("ntptime", "os", "select", "socket", "struct", "sys", "time", "tls", "vfs"),
    "pile_boot",  # our own loader, beside the image in a board's file system
}
BOARD_ATTRIBUTES = {"bit_length", "bit_count", "hexdigest", "isascii", "removeprefix", "removesuffix", "casefold"}
BOARD_NAMES = {
    "TimeoutError",
    "ConnectionError",
    "ExceptionGroup",
    "WindowsError",
    "breakpoint",
    "vars",
    "aiter",
    "anext",
}

MAX_FUNCTION_LINES = 70

Violation = tuple[str, int, str]


def violations(root: Path) -> list[Violation]:
    """(file, line, what) of everything in the four packages that a rule forbids."""
    paths = [path for folder in PACKAGES.values() for path in sorted((root / folder).rglob("*.py"))]
    return [violation for path in paths for violation in violations_of(root, path.relative_to(root).as_posix())]


def violations_of(root: Path, name: str) -> list[Violation]:
    """The same of one file."""
    package = PurePosixPath(name).parts[1]
    source = (root / name).read_text(encoding="utf-8")
    found = list(layers(ast.parse(source), package))
    if name.startswith(CHAIN + "/"):
        found += pure(ast.parse(source))
    if name.partition("/")[2].removesuffix(".py") in (*BOARD_MODULES, LOADER_MODULE):
        found += board(ast.parse(source))
    return [(name, line, what) for line, what in found]


# --- imports -------------------------------------------------------------------------------------------------------------


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of everything imported, by statement or by a name in a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__", "find_spec", "files"}:
            yield from ((node.lineno, arg.value) for arg in node.args if is_text(arg))


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def top(name: str) -> str:
    return name.partition(".")[0]


def layers(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """shared <- edge, shared <- coordinator, and hil above all."""
    for line, name in imports(tree):
        if name.startswith("."):
            yield line, f"relative import {name}"
        elif top(name) in PACKAGES and top(name) not in MAY_IMPORT[package]:
            yield line, f"{package} imports {name}"


# --- the pure chain ------------------------------------------------------------------------------------------------------


def pure(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Nothing that could differ between two computers that apply the same block."""
    for line, name in imports(tree):
        ours = name.startswith(CHAIN_PACKAGES) or name in CHAIN_IMPORTS
        if not ours and top(name) not in CHAIN_STDLIB:
            yield line, f"chain imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in CHAIN_NAMES:
            yield node.lineno, f"chain uses {node.id}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield node.lineno, f"chain has the float {node.value}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield node.lineno, "chain divides with /"
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
            yield node.lineno, f"chain has {type(node).__name__}"
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.Module):
            yield from set_order(scope)


def set_order(scope: ast.FunctionDef | ast.Module) -> Iterator[tuple[int, str]]:
    """Iteration over a set, literal or named in the same function, where the order could show."""
    names = {
        target.id
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and is_set(node.value, frozenset())
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    calm = {  # handed to what takes no order
        id(arg)
        for node in ast.walk(scope)
        if isinstance(node, ast.Call) and called(node) in ORDERLESS
        for arg in node.args
    }
    for node in ast.walk(scope):
        if isinstance(node, ast.For) and is_set(node.iter, names):
            yield node.lineno, "chain iterates a set"
        elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp) and id(node) not in calm:
            if any(is_set(generator.iter, names) for generator in node.generators):
                yield node.lineno, "chain iterates a set"
        elif isinstance(node, ast.Starred) and is_set(node.value, names):
            yield node.lineno, "chain unpacks a set"
        elif isinstance(node, ast.Call) and id(node) not in calm and takes_in_order(node, names):
            yield node.lineno, f"chain hands a set to {called(node)}"


def takes_in_order(node: ast.Call, names: set[str]) -> bool:
    in_order = {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "reversed", "join", "fromkeys", "extend"}
    return called(node) in in_order and any(is_set(arg, names) for arg in node.args)


def is_set(node: ast.AST, names: "set[str] | frozenset[str]") -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.Call):
        return called(node) in {"set", "frozenset", "union", "intersection", "difference", "symmetric_difference"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.BitXor | ast.Sub):
        return is_set(node.left, names) or is_set(node.right, names)
    return False


# --- a board's code ------------------------------------------------------------------------------------------------------


def board(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What MicroPython 1.29 lacks or refuses, outside branches that only CPython takes."""
    kept = OnBoard().visit(tree)
    own, off = (
        {name.replace("/", ".").removesuffix(".__init__") for name in names}
        for names in (BOARD_MODULES, CPYTHON_MODULES)
    )
    for line, name in imports(kept):
        if top(name) in PACKAGES:
            if name in off or not {name, name.rpartition(".")[0]} & own:
                yield line, f"a board does not carry {name}"
        elif top(name) not in BOARD_STDLIB:
            yield line, f"MicroPython has no {name}"
    for node in ast.walk(kept):
        yield from ((node.lineno, what) for what in lacking(node))


def lacking(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Match | ast.TryStar):
        yield f"MicroPython has no {type(node).__name__}"
    elif isinstance(node, ast.Raise) and node.cause is not None:
        yield "MicroPython has no exception chaining"
    elif isinstance(node, ast.FunctionDef | ast.Lambda) and node.args.posonlyargs:
        yield "MicroPython has no positional-only arguments"
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.step is not None:
        yield "MicroPython has no stepped slices"
    elif isinstance(node, ast.Attribute) and node.attr in BOARD_ATTRIBUTES:
        yield f"MicroPython has no {node.attr}"
    elif isinstance(node, ast.Name) and node.id in BOARD_NAMES:
        yield f"MicroPython has no {node.id}"
    elif isinstance(node, ast.Call) and called(node) in {"to_bytes", "from_bytes"}:
        yield from (f"MicroPython has no {called(node)}(signed=)" for word in node.keywords if word.arg == "signed")


class OnBoard(ast.NodeTransformer):
    """Drops what a board never runs: `else` of `if MICROPYTHON`, `if not MICROPYTHON`, `if TYPE_CHECKING`."""

    def visit_If(self, node: ast.If) -> ast.AST:
        test = ast.unparse(node.test)
        if test == "MICROPYTHON":
            node.orelse = []
        elif test in {"not MICROPYTHON", "TYPE_CHECKING"}:
            node.body = [ast.Pass(lineno=node.lineno, col_offset=0)]
        return self.generic_visit(node)


# --- all files -----------------------------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    """The files of the repository; in an unpacked source archive, the files beside this one."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    hidden = re.compile(r"/(\.|__pycache__|build|dist|demo-out)")
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not hidden.search(path.relative_to(ROOT.parent).as_posix())
    ]


def long_functions(source: str) -> Iterator[tuple[int, str]]:
    """(lines, name) of each function longer than the bound, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if lines > MAX_FUNCTION_LINES:
                yield lines, node.name


# Written in pieces, so that this file may be searched as well.
_FOLDERS = "|".join(("wo" + "rk", "roo" + "t", "ho" + "me", "Us" + "ers"))
MACHINE = re.compile(rf"(?<![\w.])/(?:{_FOLDERS})/|py" r"pi\.org|python" "hosted")


def machine_names(text: str) -> list[str]:
    """Paths of a person's or a build machine's, and hosts of package registries."""
    return MACHINE.findall(text)


# --- tests ---------------------------------------------------------------------------------------------------------------


def test_the_packages_keep_their_boundaries() -> None:
    assert violations(ROOT) == []


def test_only_entry_points_lead_to_the_rig() -> None:
    """Nothing imports pile_hil; the command line finds its commands by name, and pyproject.toml names them."""
    text = (ROOT / "pyproject.toml").read_text()
    points = text.partition('entry-points."pilechain.commands"]')[2].partition("\n[")[0]
    assert re.findall(r'= "(pile_hil\.\w+:\w+)"', points)
    for folder in ("shared/pile_shared", "edge/pile_edge", "coordinator/pile_coordinator"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) pile_hil", path.read_text(encoding="utf-8"), re.MULTILINE), path


BREAKS = [
    (
        "shared/pile_shared/openssl.py",
        "from pile_edge.board import bundle",
        "pile_shared imports pile_edge.board.bundle",
    ),
    ("shared/pile_shared/openssl.py", "import pile_coordinator", "pile_shared imports pile_coordinator"),
    ("edge/pile_edge/cli.py", "import pile_coordinator.chain.state", "pile_edge imports pile_coordinator.chain.state"),
    ("edge/pile_edge/cli.py", "def f():\n    from pile_hil import rig", "pile_edge imports pile_hil.rig"),
    ("edge/pile_edge/cli.py", "from . import bundle", "relative import ..bundle"),
    (
        "coordinator/pile_coordinator/ingest.py",
        "from pile_edge.session import Session",
        "pile_coordinator imports pile_edge.session.Session",
    ),
    (
        "coordinator/pile_coordinator/ingest.py",
        "import importlib\nimportlib.import_module('pile_hil.rig')",
        "pile_coordinator imports pile_hil.rig",
    ),
    (f"{CHAIN}/curve.py", "import time", "chain imports time"),
    (f"{CHAIN}/curve.py", "from datetime import date", "chain imports datetime.date"),
    (f"{CHAIN}/curve.py", "import os.path", "chain imports os.path"),
    (f"{CHAIN}/curve.py", "import logging", "chain imports logging"),
    (f"{CHAIN}/curve.py", "from random import choice", "chain imports random.choice"),
    (f"{CHAIN}/curve.py", "from pile_coordinator.engines import solo", "chain imports pile_coordinator.engines.solo"),
    (f"{CHAIN}/curve.py", "import cbor2", "chain imports cbor2"),
    (f"{CHAIN}/curve.py", "def f(): open('x')", "chain uses open"),
    (f"{CHAIN}/curve.py", "def f(): print('x')", "chain uses print"),
    (f"{CHAIN}/curve.py", "def f(x): return hash(x)", "chain uses hash"),
    (f"{CHAIN}/curve.py", "def f(x): return sorted(x, key=id)", "chain uses id"),
    (f"{CHAIN}/curve.py", "RATE = 0.5", "chain has the float 0.5"),
    (f"{CHAIN}/curve.py", "def f(x): return x / 2", "chain divides with /"),
    (f"{CHAIN}/curve.py", "def f(x):\n    x /= 2", "chain divides with /"),
    (f"{CHAIN}/curve.py", "def f(x):\n    for y in {1, x}:\n        yield y", "chain iterates a set"),
    (f"{CHAIN}/curve.py", "def f(x):\n    s = set(x)\n    return [y for y in s]", "chain iterates a set"),
    (f"{CHAIN}/curve.py", "def f(x, y):\n    return tuple(set(x) | y)", "chain hands a set to tuple"),
    (f"{CHAIN}/curve.py", "def f(x):\n    return [*{1, x}]", "chain unpacks a set"),
    ("shared/pile_shared/units.py", "import dataclasses", "MicroPython has no dataclasses"),
    ("shared/pile_shared/units.py", "from typing import TYPE_CHECKING", "MicroPython has no typing.TYPE_CHECKING"),
    ("edge/pile_edge/session.py", "from __future__ import annotations", "MicroPython has no __future__.annotations"),
    (
        "edge/pile_edge/session.py",
        "from pile_edge.board.bundle import find_tool",
        "a board does not carry pile_edge.board.bundle.find_tool",
    ),
    ("edge/pile_edge/session.py", "from pile_shared import openssl", "a board does not carry pile_shared.openssl"),
    ("edge/pile_edge/session.py", "def f(x): return x[::2]", "MicroPython has no stepped slices"),
    ("edge/pile_edge/session.py", "def f(x): return x.bit_length()", "MicroPython has no bit_length"),
    ("edge/pile_edge/session.py", "def f(x, /): return x", "MicroPython has no positional-only arguments"),
    (
        "edge/pile_edge/session.py",
        "def f(x): return x.to_bytes(2, 'big', signed=True)",
        "MicroPython has no to_bytes(signed=)",
    ),
    ("edge/pile_edge/session.py", "def f(x):\n    match x:\n        case 1: pass", "MicroPython has no Match"),
    ("edge/pile_edge/session.py", "def f(x):\n    raise ValueError from x", "MicroPython has no exception chaining"),
    ("edge/pile_edge/session.py", "def f():\n    raise TimeoutError", "MicroPython has no TimeoutError"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four packages, to break."""
    root = tmp_path_factory.mktemp("copy")
    for folder in PACKAGES.values():
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("vectors", "__pycache__"))
    return root


@pytest.mark.parametrize(("name", "code", "what"), BREAKS, ids=[f"{name}: {code}" for name, code, _ in BREAKS])
def test_a_broken_rule_is_noticed(copy: Path, name: str, code: str, what: str) -> None:
    path = copy / name
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n\n{code}\n", encoding="utf-8")
    try:
        assert {(file, said) for file, _, said in violations_of(copy, name)} == {(name, what)}
    finally:
        path.write_text(before, encoding="utf-8")


ALLOWED = [
    (
        f"{CHAIN}/curve.py",
        "def f(x):\n    s = {1, x}\n    return [y for y in sorted(s)], sum(y for y in s), {y + 1 for y in s}",
    ),
    (f"{CHAIN}/curve.py", "def f(x): return x // 2, 1 in {1, x}, len(set(x))"),
    ("shared/pile_shared/units.py", "if MICROPYTHON:\n    pass\nelse:\n    import typing"),
    ("shared/pile_shared/units.py", "if not MICROPYTHON:\n    import typing"),
    ("edge/pile_edge/session.py", "def f(x): return x[1:2], x.to_bytes(2, 'big')"),
    ("hil/pile_hil/rig.py", "import pile_edge.cli\nimport pile_coordinator.ingest"),
]


@pytest.mark.parametrize(("name", "code"), ALLOWED)
def test_what_is_allowed_is_not_reported(copy: Path, name: str, code: str) -> None:
    path = copy / name
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n\n{code}\n", encoding="utf-8")
    try:
        assert violations_of(copy, name) == []
    finally:
        path.write_text(before, encoding="utf-8")


def test_the_allow_lists_name_real_modules() -> None:
    assert sys.stdlib_module_names >= CHAIN_STDLIB
    not_cpython = {"esp32", "machine", "micropython", "network", "ntptime", "pile_boot", "tls", "vfs"}
    assert sys.stdlib_module_names >= BOARD_STDLIB - not_cpython


def test_no_function_is_longer_than_70_lines() -> None:
    long = []
    for path in tracked():
        # A migration is a list of statements, one for each table as it was then.
        if path.suffix == ".py" and path.parent.name != "versions":
            for lines, name in long_functions(path.read_text(encoding="utf-8")):
                long.append(f"{path.relative_to(ROOT)}: {name} has {lines} lines")
    assert long == []


def test_a_long_function_is_noticed() -> None:
    fits, too_long = (
        "def f():\n    '''Told.\n\n    At length.\n    '''\n" + "    x = 1\n" * lines for lines in (70, 71)
    )
    assert list(long_functions(fits)) == []
    assert list(long_functions(too_long)) == [(71, "f")]
    assert list(long_functions("class A:\n    async def g(self):\n" + "        x = 1\n" * 71)) == [(71, "g")]


def test_no_file_names_a_machine_or_a_registry() -> None:
    named = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = path.read_bytes().decode("latin-1")
        named += [f"{path.relative_to(ROOT)}: {name}" for name in machine_names(text)]
    assert named == []


@pytest.mark.parametrize(
    "text",
    [
        f"see /{'wo'}rk/main",
        f"'/{'roo'}t/.cache'",
        f"/{'ho'}me/me/x",
        f"https://py{'pi'}.org/simple",
        f"files.python{'hosted'}.org",
    ],
)
def test_a_named_machine_is_noticed(text: str) -> None:
    assert len(machine_names(text)) == 1
    assert machine_names("docs/work/x, network/roots, homework/") == []
