"""The linker: what it keeps, what it refuses, and that the linked board computes what the modules compute."""

import json
import re
import traceback
from pathlib import Path

import pytest

from pile_edge.board import linker
from pile_edge.board.bundle import BOARD_MODULES, build_romfs, link_bundle
from pile_edge.board.linker import LinkError, link
from pile_edge.board.names import FIRMWARE_ATTRIBUTES
from pile_edge.board.rewrites import TEXT_HELPERS
from pile_edge.board.unix_flash import run as run_flash
from pile_shared import p256
from pile_shared.errors import ConfigError

HERE = Path(__file__).parent
VECTORS = Path(p256.__file__).parent / "vectors/p256.jsonl"


def linked(entries=("a:main",), temporary="", parts=None, keep=(), **sources):
    modules = {name.replace("__", "."): text for name, text in sources.items()}
    return link(
        modules,
        entries,
        given={"a:BOARD": True},
        parts=parts or {"one": list(modules)},
        package="out",
        temporary=temporary,
        keep=keep,
    )


def run(source):
    """The namespace of a linked module run by CPython, without what only MicroPython accepts."""
    namespace = {"__name__": "one"}
    exec(re.sub(r"\n *del __module__, __qualname__\n", "\n    pass\n", source), namespace)
    return namespace


def test_what_nothing_reaches_is_left_out():
    result = linked(
        a="""
LIMIT = 3
UNUSED = 4
class Kept:
    def called(self): return LIMIT
    def never(self): return gone()
    def __repr__(self): return "x"
def gone(): return 1
def main(): return Kept().called()
"""
    )
    assert result.dropped == ["a.Kept.__repr__", "a.Kept.never", "a.LIMIT", "a.UNUSED", "a.gone"]
    assert run(result.parts["one"].source)["main"]() == 3


def test_a_method_somebody_might_ask_for_by_name_stays():
    result = linked(a='class A:\n def found(self): return 7\ndef main(): return getattr(A(), "found")()\n')
    assert run(result.parts["one"].source)["main"]() == 7


def test_names_of_two_modules_do_not_meet():
    result = linked(
        b="def parse(x):\n return [x]\ndef both(parse):\n return parse\n",
        a="from b import parse as other, both\nimport b\ndef parse(x):\n return other(x) + b.parse(x) + [both(9)]\n"
        "def main():\n return parse(1)\n",
    )
    assert run(result.parts["one"].source)["main"]() == [1, 1, 9]
    assert result.names["a", "parse"] != result.names["b", "parse"]


def test_constants_and_decided_branches():
    result = linked(
        b="A, B = 1 << 4, b'x' * 3\nHEX = bytes.fromhex('ff')\nTABLE = ('first', 'second', 'third', 'fourth')\n",
        a="from b import A, B, HEX, TABLE\nBOARD = False\nif BOARD:\n def pick(): return A\nelse:\n import nowhere\n"
        "def main():\n if not BOARD and missing: return 0\n return pick(), B, HEX, TABLE[2], len(TABLE)\n".replace(
            " and missing", ""
        ),
    )
    source = result.parts["one"].source
    assert run(source)["main"]() == (16, b"xxx", b"\xff", "third", 4)
    assert "if " not in source
    assert "A" not in run(source)


def test_rewrites_mean_the_same():
    """Comprehensions, texts, keyword defaults, properties, shared names, forwarders: against the source itself."""
    source = """
ROWS = (("one long name", "n"), ("two", "m"), ("three", "n"), ("four", "n"))
class Box:
    kind = "box"
    def __init__(self, first, *, second=2, third):
        self._head = first
        self._second = second + third
    @property
    def head(self):
        return self._head
    def _hidden(self, value):
        return value + self._second
    def hidden(self):
        return self._hidden(1)
def forward(x, y):
    return target(x, y)
def target(x, y=5):
    return x - y
def scale(values, offset):
    x = 10
    found = {value: [value * n + offset for n in range(3) if n != 1] for value in values}
    total = 2 * sum([x for x in values])
    return found, total, x, (lambda offset: offset + x)(1)
def main():
    box = Box(4, third=3)
    names = [name for name, kind in ROWS if kind == "n"]
    text = f"a message with {box.head} and {{braces}} {len(ROWS)}"
    return box.head, box.hidden(), forward(9, 2), scale([1, 2], offset=3), names, text, box.kind
"""
    plain = {}
    exec(source, plain)
    assert run(linked(a=source).parts["one"].source)["main"]() == plain["main"]()


def test_names_are_shared_and_mean_the_same():
    """Methods called as globals are, bases, keywords, getattr, firmware's names, globals that are assigned."""
    source = """
count = 0
def tick(step):
    global count
    count = count + step
    return count
def close(x): return x * 2
class Base:
    def _low(self, x): return x + 1
    def tick(self, x): return tick(x) + self._low(x)
class First(Base):
    limit = 5
    def __init__(self, amount, *, bonus=1):
        self._amount = amount
        self.bonus = bonus
    def only_first(self): return self._amount + close(self.bonus) + self.limit
class Second:
    def __init__(self): self._total = []; self.open = 3
    def only_second(self, value): self._total.append(value); return len(self._total), self.open
def outer(tick):
    def inner(close): return close + tick
    return inner(1)
def set_it(thing): thing.outside = 9; return thing.outside
def main():
    first, two = First(3, bonus=4), Second()
    return (first.only_first(), first.tick(2), two.only_second(1), two.only_second(2), outer(5), close(8), tick(1),
            getattr(first, "bonus"), set_it(two), [tick(0) for tick in [lambda x: x + 7]], First(**{"amount": 1}).only_first())
"""
    plain = {}
    exec(source, plain)
    result = linked(a=source)
    assert run(result.parts["one"].source)["main"]() == plain["main"]()
    # The same name for what different classes have; what is stored from outside or asked for by text keeps its own.
    assert result.attributes["only_second"] != "only_second"
    assert not {"open", "append", "outside", "bonus"} & result.attributes.keys()


def test_what_another_program_calls_its_own_keeps_its_name():
    source = "class Box:\n def weigh(self): return 1\ndef main(other): return other.weigh() + Box().weigh()\n"
    assert "weigh" in linked(a=source).attributes
    assert "weigh" not in linked(a=source, keep=["weigh"]).attributes


def test_error_classes_that_nobody_tells_apart_are_merged():
    source = """
class Base(Exception):
    code = "base"
    def __init__(self, message, code=None):
        super().__init__(message)
        if code is not None:
            self.code = code
class Plain(Base):
    code = "plain"
class Deeper(Plain):
    code = "deeper"
class Caught(Base):
    code = "caught"
def fail(number):
    try:
        if number < 2:
            raise Plain("one") if number else Plain("two", "other")
        if number == 2:
            raise Deeper("three")
        raise Caught("four")
    except Caught as error:
        return "caught " + error.code
    except Base as error:
        return str(error) + " " + error.code
def main():
    return [fail(number) for number in range(4)]
"""
    plain = {}
    exec(source, plain)
    linked_source = linked(a=source).parts["one"].source
    assert run(linked_source)["main"]() == plain["main"]()
    assert re.findall(r"class (\w+)", linked_source) == ["Base", "Caught"]


def test_classes_that_nobody_tells_apart_become_one():
    source = """
class Nothing:
    pass
class Point(Nothing):
    def __init__(self, x, *, y=2):
        self.x = x
        self.size = y
        if x == 0:
            return
        self.scaled = lambda: self.x * self.size
    def area(self):
        return self.x * self.size
class Line:
    def __init__(self, length):
        self.area = length  # hides what another can do
    def size(self):
        return self.area
class Bare:
    def give(self):
        return 7
class Told:
    def told(self):
        return 8
class Kept:
    def __eq__(self, other):
        return True
def main():
    point, flat, line = Point(3), Point(0, y=5), Line(4)
    same = isinstance(Told(), Told) and Kept() == 1
    bare = Bare()
    bare.extra = 1
    return [point.area(), point.scaled(), flat.area(), line.size(), bare.give() + bare.extra, Told().told(), same]
"""
    result = linked(a=source)
    assert run(result.parts["one"].source)["main"]() == [6, 6, 0, 4, 8, 8, True]
    classes = re.findall(r"^class (\w+)", result.parts["one"].source, re.MULTILINE)
    assert len(classes) == 3, classes
    assert {"Told", "Kept"} < set(classes)


@pytest.mark.parametrize(
    "source",
    [
        """
class Point:
    def __init__(self, x):
        def twice(y):
            return y * 2
        self.x = twice(x)
    def one(self): return self.x
class Line:
    def two(self): return 2
def main(): return Point(4).one(), Line().two()
""",
        """
class Point:
    def one(self): return 1
class Line:
    def two(self): return 2
def main():
    can = [hasattr(thing, "two") for thing in (Point(), Line())]
    return can, Point().one(), Line().two()
""",
        """
class Point:
    def one(self): return 1
class Line:
    def two(self): return 2
def ask(thing, name): return getattr(thing, name, None)
def main(): return ask(Point(), "two"), Point().one(), Line().two()
""",
        """
class Point:
    def __init__(self):
        super().__init__()
    def one(self): return 1
class Line:
    def two(self): return 2
def main(): return Point().one(), Line().two()
""",
        """
class Point:
    def one(self):
        try:
            return self.two
        except AttributeError:
            return 1
class Line:
    def two(self): return 2
def main(): return Point().one(), Line().two()
""",
    ],
    ids=["a return in a return", "hasattr", "getattr", "super", "AttributeError"],
)
def test_merged_classes_do_what_each_did(source):
    plain = {}
    exec(source, plain)
    assert run(linked(a=source).parts["one"].source)["main"]() == plain["main"]()


def test_what_makes_a_merged_object_leads_back_to_its_init():
    source = """
class Point:
    def __init__(self, x):
        self.x = x
class Line:
    def two(self): return Point(2).x
def main(): return Line().two()
"""
    part = linked(a=source).parts["one"]
    made = [
        place for line, place in zip(part.source.splitlines(), part.line_map, strict=True) if "= _Object0()" in line
    ]
    assert made == ["a:3", "a:5"]


@pytest.mark.parametrize("owner", ["self", "box"])
def test_no_method_takes_a_name_that_is_set_by_text(owner):
    """`zeta` and `price` would be good names for methods: they are there already."""
    source = f"""
class Box:
    def fill(self, row):
        box = self
        for name in ("zeta", "price"):
            setattr({owner}, name, row)
    def _amount(self): return 1
    def _bulk(self): return 2
    def _count(self): return 3
def main():
    box = Box()
    box.fill(7)
    return box.zeta, box.price, box._amount(), box._bulk(), box._count()
"""
    plain = {}
    exec(source, plain)
    result = linked(a=source)
    assert run(result.parts["one"].source)["main"]() == plain["main"]()
    assert not {"zeta", "price"} & set(result.attributes.values())


def test_no_method_takes_a_name_that_is_set_from_outside():
    source = """
class Box:
    def _amount(self): return 1
    def _bulk(self): return 2
def main():
    box = Box()
    box.zeta = 7
    return box.zeta, box._amount(), box._bulk(), "zeta"
"""
    plain = {}
    exec(source, plain)
    assert run(linked(a=source).parts["one"].source)["main"]() == plain["main"]()


def test_every_attribute_of_the_firmware_is_known(micropython, tmp_path):
    """What MicroPython's own objects have: a name of ours that is one of these is not renamed."""
    script = tmp_path / "names.py"
    script.write_text(
        "import array, binascii, errno, gc, hashlib, io, json, machine, micropython, os, random, select, socket, struct\n"
        "import sys, time, tls, uctypes, vfs\n"
        "def steps():\n    yield 1\n"
        "things = [str, bytes, bytearray, list, dict, set, frozenset, tuple, int, float, memoryview, object, range(3),\n"
        "    {}.keys(), array.array('B'), Exception(), OSError(1), open('/dev/null'), open('/dev/null', 'rb'),\n"
        "    io.BytesIO(), io.StringIO(),\n"
        "    socket.socket(), select.poll(), tls.SSLContext(tls.PROTOCOL_TLS_CLIENT), hashlib.sha256(), steps(), binascii,\n"
        "    errno, gc, hashlib, io, json, machine, micropython, os, random, select, socket, struct, sys, time, tls, uctypes,\n"
        "    vfs, vfs.VfsPosix, vfs.VfsLfs2, vfs.VfsRom, machine.Signal, machine.PinBase]\n"
        "print(' '.join(sorted({name for thing in things for name in dir(thing)})))\n"
    )
    found = micropython(script, heap="256k").stdout.split()
    # Constants and classes are written with capitals; nothing of ours that may be renamed is.
    assert {name for name in found if name.islower() and not name.startswith("_")} <= FIRMWARE_ATTRIBUTES


def test_parts_refer_backwards_only():
    sources = {"b": "def low(): return 1\n", "a": "from b import low\ndef main(): return low()\n"}
    result = linked(**sources, parts={"lower": ["b"], "upper": ["a"]})
    assert f"lower.{result.names['b', 'low'][1]}()" in result.parts["upper"].source
    with pytest.raises(LinkError, match=r"upper .*comes after"):
        linked(**sources, parts={"upper": ["a"], "lower": ["b"]})


def test_a_temporary_part_takes_what_only_it_needs():
    result = linked(
        b="def only(): return 1\ndef shared(): return 2\n",
        c="from b import only, shared\ndef check(): return only() + shared()\n",
        a="from b import shared\nimport sys\ndef main():\n from c import check\n done = check()\n"
        " del sys.modules['c']\n return done, shared()\n",
        parts={"base": ["b", "a"], "once": ["c"]},
        temporary="once",
    )
    assert [result.names["b", name][0] for name in ("only", "shared")] == ["once", "base"]
    for name in ("only", "shared"):
        part, linked_name = result.names["b", name]
        assert f"def {linked_name}(" in result.parts[part].source
    assert "out.once" in result.parts["base"].source
    assert "del sys.modules[" in result.parts["base"].source


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def main(): return missing\n", "a:1: missing is not defined"),
        ("from b import nothing\ndef main(): return nothing\n", "no nothing in b"),
        ("for x in range(3): pass\n", "a:1: "),
        ("def main(): pass\ndef main(): pass\n", "defined twice"),
        ("if UNKNOWN: pass\n", "given no value for UNKNOWN"),
        ("def other(): pass\n", "no main in a"),
    ],
)
def test_what_cannot_be_linked_is_refused(source, message):
    with pytest.raises(LinkError, match=message):
        linked(b="x = 1\n", a=source)


def test_a_needed_name_that_was_left_out_is_noticed(monkeypatch):
    """The check behind the shaking: with the shaking broken, linking fails instead of the board."""
    monkeypatch.setattr(linker, "_extend", lambda *_: None)
    with pytest.raises(LinkError, match=r"needed is used in line \d+ of part one but defined nowhere"):
        linked(a="def needed(): return 1\ndef main(): return 1 + needed()\n")


def test_a_module_in_no_part_is_refused():
    with pytest.raises(LinkError, match="not in a part"):
        linked(a="", parts={"one": []})


def test_lines_lead_back_to_the_source(tmp_path):
    result = link_bundle(tmp_path / "files", sources=tmp_path / "sources")
    made_here = 0
    for name, part in result.parts.items():
        lines = part.source.splitlines()
        places = (tmp_path / f"sources/{name}.map").read_text().splitlines()
        assert len(lines) == len(places)
        for line, place in zip(lines, places, strict=True):
            if match := re.match(r" *def (\w+)\(", line):
                if not place:
                    made_here += 1
                    continue
                module, number = place.split(":")
                path = next(p for p in BOARD_MODULES if p.replace("/", ".").removesuffix(".__init__") == module)
                root = Path(p256.__file__).parents[1] if module.startswith("pile_shared") else HERE.parent / "edge"
                source = root / f"{path}.py"
                written = source.read_text().splitlines()
                near = " ".join(written[int(number) - 1 : int(number) + 2])
                assert re.search(r"def \w+\(|class \w+:", near), (name, line, place)
                own = re.search(r"(?:def|class) (\w+)", near)[1]
                if own == "__init__":  # or it is what makes an object of a class that was merged with others
                    own = re.findall(r"^class (\w+)", "\n".join(written[: int(number)]), re.MULTILINE)[-1]
                kept = {"__init__", own, result.attributes.get(own, own), result.names.get((module, own), ("", ""))[1]}
                assert match[1] in kept, (name, line, place)
    assert made_here == len(TEXT_HELPERS) - 1


def test_linking_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        link_bundle(tmp_path / name)
    assert build_romfs(tmp_path / "a") == build_romfs(tmp_path / "b")


def test_the_linked_curve_passes_every_vector(micropython, tmp_path):
    """The vector script of the modules, on the linked code under the modules' names."""
    names = ("sign", "verify", "public_key", "is_on_curve", "use_key_tables", "fill_table")
    result = link_bundle(tmp_path, entries=[f"pile_shared.p256:{name}" for name in names])
    lines = [
        "from pile_board.{} import {} as {}".format(*result.names["pile_shared.p256", name], name) for name in names
    ]
    (tmp_path / "pile_shared").mkdir()
    (tmp_path / "pile_shared/platform.py").write_text(
        "from pile_shared.p256 import *\nes256_verify = verify\nMICROPYTHON = True\n"
    )
    (tmp_path / "pile_shared/p256.py").write_text("\n".join(lines) + "\n")
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + (HERE / "run_p256_vectors.py").read_text()
    )
    done = micropython(script, VECTORS, heap="160k")
    assert json.loads(done.stdout) == {"key": 10, "point": 22, "sign": 2, "verify": 71, "failed": 0}, done.stderr


def test_a_machine_without_micropython_is_told(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "micropython_run", None)
    with pytest.raises(ConfigError) as caught:
        run_flash(tmp_path / "image", "64k", [])
    assert caught.value.code == "micropython_missing"
    assert traceback.format_exception(caught.value)
