"""Rewrites that make linked code take less of a board's heap and do the same. CPython only; see `linker`.

Each states what it saves on a 64-bit interpreter and on what condition it changes nothing. Two assumptions hold for
all: reading an attribute has no effect, and nobody asks for a method, an attribute or an argument by a name that stands
nowhere in the program.
"""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING, Any

from pile_edge.board.syntax import (
    COMPREHENSIONS,
    FUNCTIONS,
    GlobalNames,
    bound_names,
    constant_value,
    defined_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeGuard

# A text up to this length is a name to mpy-cross (MICROPY_ALLOC_PARSE_INTERN_STRING_LEN): 11 bytes, shared by all uses.
_INTERNED_CHARACTERS = 10
# Shorter ones are formats and separators, used everywhere and often names of the firmware.
_SHORT_CHARACTERS = 2
# Tables of texts shorter than this stay where they are.
_TABLE_ITEMS = 4
# Methods that one class may take over from others: each needs a name of its own among them.
_GROUP_METHODS = 60
# Calls that do not mind whether an object has an attribute: function and number of arguments.
_ASKING = (("hasattr", 2), ("getattr", 3))
_TEXT_CALL = "_text"
_LIST_CALL = "_texts"
_ROWS_CALL = "_rows"
TEXT_HELPERS = (_TEXT_CALL, _LIST_CALL, _ROWS_CALL, "_TEXTS")
TEXT_HELPER_SOURCE = """
def _text(at, length):
    return str(_TEXTS[at:at + length], "utf8")

def _texts(at, length):
    return tuple(_text(at, length).split("|"))

def _rows(at, length):
    length += at
    while at < length:
        end = _TEXTS.find(b"/", at)
        yield _text(at, end - at).split("|")
        at = end + 1
"""


def share_argument_names(body: list[ast.stmt], fixed: set[str]) -> None:
    """Give arguments that nobody passes by keyword the same few names: each other name costs the board 11 bytes.

    A name that is also an attribute, a global or a keyword is there anyway and stays; so do those of `fixed`, which
    may be what a mapping's keys are passed by.
    """
    functions = [node for statement in body for node in ast.walk(statement) if isinstance(node, FUNCTIONS)]
    names = set(fixed)
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.keyword) and node.arg:
                names.add(node.arg)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    for function in functions:
        _rename_arguments(function, names)


def skip_forwarders(body: list[ast.stmt], fixed: set[str]) -> list[ast.stmt]:
    """Call what a function that only passes its arguments on would call; leave such functions out."""
    target: dict[str, str] = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef) and statement.name not in fixed and not statement.args.defaults:
            call = statement.body[0].value if isinstance(statement.body[0], ast.Return) else None
            args = [arg.arg for arg in statement.args.args]
            text = f"({', '.join(args)})"
            is_plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not statement.args.kwonlyargs
            if is_plain and not statement.args.vararg and ast.unparse(call) == call.func.id + text:  # type: ignore[union-attr, arg-type]
                target[statement.name] = call.func.id  # type: ignore[union-attr]

    skipper = _Skipper(target)
    return [skipper.visit(statement) for statement in body if defined_name(statement) not in target]


def merge_error_classes(body: list[ast.stmt], fixed: set[str]) -> list[ast.stmt]:
    """Raise what an error class is made of, `Base(message, code)`, if nothing catches that class: 200 bytes each.

    Such a class has one base and nothing but a `code`, which stands in when the second argument is left out
    (`PilechainError`); and the program only calls it. Only the name in a traceback is another then. Those of `fixed` stay.
    """
    while True:
        told_apart = _used_otherwise(body) | fixed
        found = [one for one in body if _is_mere_code(one) and one.name not in told_apart]  # type: ignore[attr-defined]
        if not found:
            return body
        body = [one for one in body if one not in found]
        for merged in found:
            assert isinstance(merged, ast.ClassDef)
            merger = _ErrorMerger(merged)
            for statement in body:
                merger.visit(statement)


def _is_mere_code(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.ClassDef) or [type(base) for base in statement.bases] != [ast.Name]:
        return False
    only = statement.body[0] if len(statement.body) == 1 else None
    return (
        isinstance(only, ast.Assign) and ast.unparse(only.targets[0]) == "code" and isinstance(only.value, ast.Constant)
    )


def _used_otherwise(body: list[ast.stmt]) -> set[str]:
    """Names that are used in another way than to be called with one or two plain arguments."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    called = {
        id(node.func) for node in nodes if isinstance(node, ast.Call) and len(node.args) in (1, 2) and not node.keywords
    }
    return {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in called}


class _ErrorMerger(ast.NodeTransformer):
    def __init__(self, merged: ast.ClassDef) -> None:
        self.name = merged.name
        self.base = merged.bases[0]
        self.code = merged.body[0].value  # type: ignore[attr-defined]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == self.name:
            node.func = ast.copy_location(copy.deepcopy(self.base), node.func)
            if len(node.args) == 1:
                node.args.append(ast.copy_location(copy.deepcopy(self.code), node))
        return node


def drop_empty_bases(body: list[ast.stmt], fixed: set[str]) -> list[ast.stmt]:
    """Leave out base classes that have nothing left in them and are nothing but bases: 200 bytes each. `fixed` stay."""
    empty = {one.name for one in body if _is_plain_class(one) and all(isinstance(part, ast.Pass) for part in one.body)}
    empty -= fixed
    bases = [base for one in body if isinstance(one, ast.ClassDef) for base in one.bases]
    meant = {id(base) for base in bases}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and id(node) not in meant:
                empty.discard(node.id)
    empty &= {base.id for base in bases if isinstance(base, ast.Name)}
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            statement.bases = [base for base in statement.bases if ast.unparse(base) not in empty]
    return [one for one in body if not (isinstance(one, ast.ClassDef) and one.name in empty)]


class Group:
    """Classes that become one: `name` is that one's, `members` theirs, with the methods that each has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.members: dict[str, set[str]] = {}

    def has_place_for(self, methods: set[str]) -> bool:
        """Whether no method of another member is called like one of these, and there are not too many."""
        mine = set().union(*self.members.values()) | set()
        return not mine & methods and len(mine | methods) <= _GROUP_METHODS


def group_classes(body: list[ast.stmt], fixed: set[str]) -> list[Group]:
    """Which classes may become one: nobody asks what an object is one of, so only what it can do counts.

    They have no relatives, nothing but methods of which the interpreter knows `__init__` alone, and are only called. Nor
    does anybody ask whether an object has what they have. Those of `fixed` stay.
    """
    called = {id(node.func) for one in body for node in ast.walk(one) if isinstance(node, ast.Call)}
    asked = {node.id for one in body for node in ast.walk(one) if isinstance(node, ast.Name) and id(node) not in called}
    missed = _may_be_missing(body)
    if missed is None or "AttributeError" in asked:
        return []
    found = [
        one
        for one in body
        if _is_plain_class(one)
        and one.name not in asked | fixed
        and _has_only_methods(one)
        and not missed.intersection(members_of(one))
    ]
    groups: list[Group] = []
    for one in sorted(found, key=lambda one: (len(one.body), one.name)):
        methods = set(members_of(one)) - {"__init__"}
        group = next((group for group in groups if group.has_place_for(methods)), None)
        if group is None:
            group = Group(f"_Object{len(groups)}")
            groups.append(group)
        group.members[one.name] = methods
    return [group for group in groups if len(group.members) > 1]


def _is_plain_class(statement: ast.stmt) -> TypeGuard[ast.ClassDef]:
    return isinstance(statement, ast.ClassDef) and not (
        statement.bases or statement.keywords or statement.decorator_list
    )


def _may_be_missing(body: list[ast.stmt]) -> set[str] | None:
    """Attributes that somebody asks for who does not know whether an object has them; None if that is not told here."""
    found: set[str] = set()
    for statement in body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.Call) or (ast.unparse(node.func), len(node.args)) not in _ASKING:
                continue
            if not isinstance(node.args[1], ast.Constant):
                return None
            found.add(str(node.args[1].value))
    return found


def _has_only_methods(statement: ast.ClassDef) -> bool:
    if any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(statement)):
        return False
    parts = [part for part in statement.body if not isinstance(part, ast.Pass)]
    return all(
        isinstance(part, ast.FunctionDef)
        and not part.decorator_list
        and (part.name == "__init__" or not part.name.startswith("__"))
        for part in parts
    )


def merge_classes(body: list[ast.stmt], groups: list[Group], origin: dict[int, str]) -> list[ast.stmt]:
    """Make one class of each group: 250 bytes for every other. What was a class's name becomes the function that makes one.

    Args:
        body: Of the whole program.
        groups: From `group_classes`, with methods as they are called now.
        origin: id of a statement -> the module it comes from; gains what is made here.
    """
    group_of = {name: group for group in groups for name in group.members}
    merged = {group.name: ast.ClassDef(group.name, [], [], [], []) for group in groups}
    found: list[ast.stmt] = []
    for statement in body:
        if not isinstance(statement, ast.ClassDef) or statement.name not in group_of:
            found.append(statement)
            continue
        module = origin[id(statement)]
        whole = merged[group_of[statement.name].name]
        if not whole.body:
            origin[id(whole)] = module
            found.append(whole)
        maker = ast.copy_location(ast.FunctionDef(statement.name, _arguments(), [], []), statement)
        for part in statement.body:
            if not isinstance(part, ast.FunctionDef):
                continue
            if part.name == "__init__":
                maker = part
                continue
            for node in ast.walk(part):
                node.module = module  # type: ignore[attr-defined] # for the line map: not all are of one module
            assert part.name not in members_of(whole), part.name
            whole.body.append(part)
        _turn_into_maker(maker, statement.name, whole.name)
        origin[id(maker)] = module
        found.append(maker)
        whole.body = whole.body or [ast.Pass()]
    return found


def _arguments() -> ast.arguments:
    return ast.arguments([], [ast.arg("self")], None, [], [], None, [])


def _turn_into_maker(function: ast.FunctionDef, name: str, made: str) -> None:
    """`__init__` becomes a function that makes the object it fills."""
    function.name = name
    function.args.args.pop(0)
    parts: list[ast.AST] = [*function.body]
    while parts:
        node = parts.pop()
        if isinstance(node, ast.Return):
            node.value = ast.Name("self", ast.Load())
        elif not isinstance(node, (ast.FunctionDef, ast.ClassDef)):  # what returns there is another
            parts.extend(ast.iter_child_nodes(node))
    first, last = ast.parse(f"self = {made}()\nreturn self").body
    function.body = [ast.copy_location(first, function), *function.body, ast.copy_location(last, function)]


def take_out_keyword_defaults(args: ast.arguments) -> None:
    """Let keyword-only arguments be given by position too: their defaults then need no dictionary, of 100 bytes."""
    given = [(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    defaults = [default for _, default in given if default is not None]
    if not defaults or args.vararg or args.kwarg or (args.defaults and len(defaults) < len(given)):
        return
    args.args += [arg for arg, default in given if default is None]
    args.args += [arg for arg, default in given if default is not None]
    args.defaults += defaults
    args.kwonlyargs, args.kw_defaults = [], []


def turn_properties_into_attributes(body: list[ast.stmt]) -> None:
    """`head`, a property that returns `self._head`, becomes the attribute `head` itself: 80 bytes less."""
    family = families_of(body)
    for statement in body:
        if not isinstance(statement, ast.ClassDef):
            continue
        for part in list(statement.body):
            hidden = _hidden_attribute(part)
            if hidden and _is_only_own(body, hidden, family, family[statement.name]):
                statement.body.remove(part)
                for node in ast.walk(statement):
                    if isinstance(node, ast.Attribute) and node.attr == hidden:
                        node.attr = part.name  # type: ignore[attr-defined]


def _hidden_attribute(part: ast.stmt) -> str:
    """`_head` of a property `head` that just returns `self._head`; "" for anything else."""
    if not isinstance(part, ast.FunctionDef) or [ast.unparse(one) for one in part.decorator_list] != ["property"]:
        return ""
    return "_" + part.name if ast.unparse(part.body[0]) == f"return self._{part.name}" else ""


def _is_only_own(body: list[ast.stmt], name: str, family: dict[str, str], mine: str) -> bool:
    """Whether no other class of a family has that attribute, and nobody but `self` is asked for it."""
    relatives = [one for one in body if isinstance(one, ast.ClassDef) and family[one.name] == mine]
    uses = [
        node for one in relatives for node in ast.walk(one) if isinstance(node, ast.Attribute) and node.attr == name
    ]
    return len(relatives) == 1 and all(ast.unparse(node.value) == "self" for node in uses)


def members_of(statement: ast.ClassDef) -> Iterator[str]:
    """The methods and class attributes."""
    for part in statement.body:
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.Assign):
            yield from [target.id for target in part.targets if isinstance(target, ast.Name)]


def families_of(body: list[ast.stmt]) -> dict[str, str]:
    """Class -> the first class of those it is related to by inheritance."""
    family: dict[str, str] = {}
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            bases = [family[base.id] for base in statement.bases if isinstance(base, ast.Name) and base.id in family]
            mine = min(bases, default=statement.name)
            for name, other in family.items():
                if other in bases:
                    family[name] = mine
            family[statement.name] = mine
    return family


def _rename_arguments(function: ast.FunctionDef | ast.Lambda, fixed: set[str]) -> None:
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    inner = {arg.arg for node in ast.walk(function) if isinstance(node, ast.arguments) for arg in node.args}
    free = (f"a{number}" for number in range(100))
    renamed = {}
    for arg in function.args.args:
        if arg.arg not in fixed and arg.arg != "self" and not arg.arg.startswith("a0"):
            renamed[arg.arg] = next(name for name in free if name not in used and name not in inner)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in renamed:
            node.id = renamed[node.id]
        elif isinstance(node, ast.arg) and node.arg in renamed:
            node.arg = renamed[node.arg]


def unroll_comprehensions(statement: ast.stmt) -> None:
    """Write comprehensions in functions as loops before their statement: each is a function of 64 bytes otherwise.

    Only where nothing else that the statement computes is computed before the comprehension; then it is the same.
    """
    for function in [node for node in ast.walk(statement) if isinstance(node, ast.FunctionDef)]:
        names = (f"c{number}" for number in range(1000))
        used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} | bound_names(function)
        fresh = (name for name in names if name not in used)
        _unroll_block(function, fresh)


def _unroll_block(owner: Any, fresh: Iterator[str]) -> None:
    for field in ("body", "orelse", "finalbody", "handlers"):
        block = getattr(owner, field, None)
        if not isinstance(block, list):
            continue
        done: list[Any] = []
        for part in block:
            if isinstance(part, (ast.FunctionDef, ast.ClassDef)):
                done.append(part)
                continue
            if not isinstance(part, (ast.While, ast.ExceptHandler, ast.Try, ast.With)):
                done += _unroll_statement(part, fresh)
            _unroll_block(part, fresh)
            done.append(part)
        setattr(owner, field, done)


def _unroll_statement(statement: ast.stmt, fresh: Iterator[str]) -> list[ast.stmt]:
    """The loops to put before a statement, which is changed to use what they made."""
    field = {ast.If: "test", ast.For: "iter", ast.Raise: "exc"}.get(type(statement), "value")
    root = getattr(statement, field, None)
    found = _first_computed(root) if isinstance(root, ast.expr) else None
    if not isinstance(found, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return []
    if isinstance(statement, ast.AugAssign) or not isinstance(found, ast.ListComp | ast.DictComp | ast.GeneratorExp):
        return []
    name = next(fresh)
    loops = _loops(found, name, fresh)
    made = ast.Name(name, ast.Load())
    replacer = _Replace(found, made)
    assert root is not None
    setattr(statement, field, replacer.visit(root))
    for loop in loops:
        for node in ast.walk(loop):
            if isinstance(node, (ast.stmt, ast.expr)):
                ast.copy_location(node, statement)
    return loops


def _first_computed(node: ast.expr) -> ast.expr | None:
    """The first part of an expression, in the order of evaluation, that is more than a name, constant or attribute."""
    if isinstance(node, (ast.Name, ast.Constant)):
        return None
    if isinstance(node, (*COMPREHENSIONS, ast.Lambda)):
        return node
    children: list[ast.expr] = []
    if isinstance(node, ast.Call):
        children = [node.func, *node.args, *[keyword.value for keyword in node.keywords]]
    elif isinstance(node, ast.BinOp):
        children = [node.left, node.right]
    elif isinstance(node, ast.Compare):
        children = [node.left, node.comparators[0]]
    elif isinstance(node, (ast.Attribute, ast.Starred)):
        children = [node.value]
    elif isinstance(node, ast.UnaryOp):
        children = [node.operand]
    elif isinstance(node, (ast.BoolOp, ast.IfExp)):
        children = [node.values[0] if isinstance(node, ast.BoolOp) else node.test]
    elif isinstance(node, (ast.Tuple, ast.List)):
        children = node.elts
    elif isinstance(node, ast.Subscript):
        children = [node.value]
    for child in children:
        found = _first_computed(child)
        if found is not None:
            return found
    harmless = (ast.Attribute, ast.Tuple, ast.List, ast.Starred, ast.BinOp, ast.UnaryOp)
    return None if isinstance(node, harmless) else node


def _loops(made: ast.ListComp | ast.DictComp | ast.GeneratorExp, name: str, fresh: Iterator[str]) -> list[ast.stmt]:
    """`name = []` and the loops that fill it, with loop variables nobody else has."""
    own = {variable: next(fresh) for variable in sorted(bound_names(made))}
    for node in ast.walk(made):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = own[node.id]
    if isinstance(made, ast.DictComp):
        target = ast.Subscript(ast.Name(name, ast.Load()), made.key, ast.Store())
        inner: ast.stmt = ast.Assign([target], made.value)
        empty: ast.expr = ast.Dict([], [])
    else:
        add = ast.Attribute(ast.Name(name, ast.Load()), "append", ast.Load())
        inner = ast.Expr(ast.Call(add, [made.elt], []))
        empty = ast.List([], ast.Load())
    for generator in reversed(made.generators):
        for condition in reversed(generator.ifs):
            inner = ast.If(condition, [inner], [])
        inner = ast.For(generator.target, generator.iter, [inner], [])
    return [ast.Assign([ast.Name(name, ast.Store())], empty), inner]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old = old
        self.new = new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


class Texts(ast.NodeTransformer):
    """Moves texts into `data`, unless they are names that the program has in any case."""

    def __init__(self, names: set[str]) -> None:
        """`names` are those of attributes, definitions and arguments."""
        self.names = names
        self.data = bytearray()
        self.tables: dict[str, ast.expr] = {}
        self.sizes: dict[str, int] = {}

    def take_tables(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Pool module-level tuples of texts, and of rows of texts, that only functions look at; returns the rest."""
        in_functions: dict[str, int] = {}
        anywhere: dict[str, int] = {}
        for statement in body:
            inside = [node for node in ast.walk(statement) if isinstance(node, ast.FunctionDef)]
            for count, roots in (
                (in_functions, [part for one in inside for part in one.body]),
                (anywhere, [statement]),
            ):
                for root in roots:
                    for node in ast.walk(root):
                        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                            count[node.id] = count.get(node.id, 0) + 1
        # Rows are made one by one, so they can only be gone through: by `for`, `zip` or `len`, which is known.
        iterated: dict[str, int] = {}
        for statement in body:
            for node in ast.walk(statement):
                used = [node.iter] if isinstance(node, (ast.For, ast.comprehension)) else []
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("zip", "len"):
                    used = node.args
                for part in used:
                    if isinstance(part, ast.Name):
                        iterated[part.id] = iterated.get(part.id, 0) + 1
        rest = []
        for statement in body:
            name = defined_name(statement)
            is_iterated = iterated.get(name) == anywhere.get(name)
            is_inside = in_functions.get(name) == anywhere.get(name)
            call = self._table(statement, is_iterated=is_iterated) if is_inside else None
            if call is None:
                rest.append(statement)
            else:
                self.tables[name] = call
                self.sizes[name] = len(constant_value(statement.value))  # type: ignore[attr-defined]
        return rest

    def _table(self, statement: ast.stmt, *, is_iterated: bool) -> ast.expr | None:
        value = constant_value(statement.value) if isinstance(statement, ast.Assign) else ...
        if not isinstance(value, tuple) or len(value) < _TABLE_ITEMS:
            return None
        rows = [row if isinstance(row, tuple) else (row,) for row in value]
        if not all(isinstance(text, str) and text and not set("|/") & set(text) for row in rows for text in row):
            return None
        if not any(isinstance(row, tuple) for row in value):
            return self._call("|".join(value), statement, _LIST_CALL)
        if not is_iterated:
            return None
        return self._call("".join("|".join(row) + "/" for row in rows), statement, _ROWS_CALL)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A pooled table."""
        return copy.deepcopy(self.tables.get(node.id, node))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The length of a pooled table, which is known."""
        if isinstance(node.func, ast.Name) and node.func.id == "len" and isinstance(node.args[0], ast.Name):
            size = self.sizes.get(node.args[0].id)
            if size is not None:
                return ast.copy_location(ast.Constant(size), node)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """A text."""
        if not isinstance(node.value, str) or not self._is_pooled(node.value):
            return node
        return self._call(node.value, node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """An f-string becomes a pooled pattern and its format method, as mpy-cross would have it."""
        pattern = ""
        values = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                pattern += str(part.value).replace("{", "{{").replace("}", "}}")
            elif isinstance(part, ast.FormattedValue) and part.conversion == -1 and part.format_spec is None:
                pattern += "{}"
                values.append(self.visit(part.value))
            else:
                return self.generic_visit(node)
        return ast.copy_location(
            ast.Call(ast.Attribute(self._call(pattern, node), "format", ast.Load()), values, []), node
        )

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function inside one has its own turn."""
        return node

    def _is_pooled(self, text: str) -> bool:
        """Whether a text costs less in the pool: long, or a word that is no name of anything else."""
        return len(text) > _INTERNED_CHARACTERS or (len(text) > _SHORT_CHARACTERS and text not in self.names)

    def _call(self, text: str, node: ast.AST, function: str = _TEXT_CALL) -> ast.expr:
        raw = text.encode()
        at = self.data.find(raw)
        if at < 0:
            at = len(self.data)
            self.data += raw
        call = ast.Call(ast.Name(function, ast.Load()), [ast.Constant(at), ast.Constant(len(raw))], [])
        return ast.copy_location(call, node)


class _Skipper(GlobalNames):
    """Puts what a forwarding function calls in its place."""

    def __init__(self, target: Mapping[str, str]) -> None:
        super().__init__()
        self.target = target

    def visit_global(self, node: ast.Name) -> ast.AST:
        while node.id in self.target:
            node.id = self.target[node.id]
        return node
