"""Link a board's modules into one: what a board never runs is left out, and constants stand where they are used.

A board's heap pays for every name, function, class and constant object it imports, used or not (on a 64-bit interpreter,
code running from ROMFS: 11 bytes for a new name, 16 for each entry of a module's or class's table, 32 for a function,
200 for a class, 40 for a text of more than 10 characters). This does on the host, on the syntax tree, what a static linker
does:

1. All modules become one namespace. A name that two modules use for different things gets its module's name in front.
2. Module-level constants are computed and put where they are used; branches that constants decide are decided.
3. Functions, classes, methods and values that nothing reachable from the entry points names are left out. Methods are
   matched by name, those of `self` within its family of classes, so everything that might be called stays. Assertions,
   annotations and docstrings go; error classes that nobody catches become what they are made of, and classes that nobody
   tells apart become one.
4. Texts (messages and codes) move into one byte string that stays in flash; `_text` cuts them out when needed.
5. What is left shares names (`names`), because each other name costs.

Classes that stay keep their names, functions their order, and `line_map` leads from a line of the result, as a traceback
from the field shows it, back to the source. What cannot be linked correctly is refused, never guessed.
"""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING, Any

from pile_edge.board.names import names_of, share_attributes, share_globals, texts_and_keywords
from pile_edge.board.rewrites import (
    TEXT_HELPER_SOURCE,
    TEXT_HELPERS,
    Texts,
    drop_empty_bases,
    families_of,
    group_classes,
    merge_classes,
    merge_error_classes,
    share_argument_names,
    skip_forwarders,
    take_out_keyword_defaults,
    turn_properties_into_attributes,
    unroll_comprehensions,
)
from pile_edge.board.syntax import (
    GlobalNames,
    UsedGlobals,
    bound_names,
    constant_node,
    constant_value,
    defined_name,
    is_docstring,
)
from pile_shared.errors import PilechainError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# Dunder methods that only people at a prompt or sets of such objects would need.
_DROPPED_METHODS = ("__repr__", "__hash__")
_SCALARS = (int, str, bytes, type(None))
# Names every interpreter here defines; a name that is neither of these nor linked is refused.
_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__module__", "__qualname__"}
_THIS_MODULE = "_this"


class LinkError(PilechainError):
    """Modules that cannot be linked; the message names module and line."""

    code = "board_link"


class Part:
    """One linked module: `source` to compile, and for each of its lines "module:line", or "" for lines made here."""

    def __init__(self, source: str, line_map: list[str]) -> None:
        self.source = source
        self.line_map = line_map


class Linked:
    """The result.

    Attributes:
        parts: The linked modules by name, in the order in which they import each other.
        names: (module, name) -> (part, name there), of everything that stayed.
        attributes: Attribute or method as written -> as linked, of those that were renamed.
        dropped: "module.name" of what was left out, sorted.
    """

    def __init__(
        self,
        parts: dict[str, Part],
        names: dict[tuple[str, str], tuple[str, str]],
        attributes: dict[str, str],
        dropped: list[str],
    ) -> None:
        self.parts = parts
        self.names = names
        self.attributes = attributes
        self.dropped = dropped


def link(
    sources: Mapping[str, str],
    entries: Iterable[str],
    *,
    given: Mapping[str, object],
    parts: Mapping[str, Iterable[str]],
    package: str,
    temporary: str = "",
    keep: Iterable[str] = (),
) -> Linked:
    """Link modules into a few parts: while one is imported, everything in it takes twice its place.

    Args:
        sources: Source text by dotted module name, in an order in which each module's needs stand before it.
        entries: "module:name" of what is used from outside.
        given: "module:name" -> value of constants known to the target, for instance which interpreter it is.
        parts: Which modules make up which part, in order: a part refers to itself and those before it.
        package: The package the parts lie in.
        temporary: The part that the program imports inside a function and deletes from sys.modules and its package
            afterwards. It takes along the functions that only it uses.
        keep: Attributes of what the program meets beside itself and the firmware: these names are for nothing else.

    Raises:
        LinkError: a module-level statement that is not a definition, an import of a module or name that is not there,
            a name that nothing defines, a reference to a later part, or a module that is used in a way that cannot be
            followed.
    """
    part_of = {module: part for part, modules in parts.items() for module in modules}
    if sorted(part_of) != sorted(sources):
        raise LinkError(f"not in a part, or not there: {sorted(set(part_of) ^ set(sources))}")
    program = _Program(sources, given, part_of, package, temporary)
    program.resolve()
    program.inline_constants()
    program.shake([_split_entry(entry) for entry in entries])
    return program.emit(list(parts), set(keep))


def _split_entry(entry: str) -> tuple[str, str]:
    module, _, name = entry.partition(":")
    return module, name


class _Module:
    """One module's definitions.

    Attributes:
        env: what a global name means here: ("global", module, name), ("module", module) or ("extern", statement key).
        body: the statements that define something, in order.
    """

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.tree = tree
        self.env: dict[str, tuple[str, ...]] = {}
        self.body: list[ast.stmt] = []


class _Program:
    def __init__(
        self,
        sources: Mapping[str, str],
        given: Mapping[str, object],
        part_of: Mapping[str, str],
        package: str,
        temporary: str,
    ) -> None:
        self.part_of = part_of
        self.package = package
        self.temporary = temporary
        self.home: dict[str, str] = {_THIS_MODULE: ""}  # linked name -> part
        self.given = {_split_entry(key): value for key, value in given.items()}
        self.modules = {name: _Module(name, ast.parse(source)) for name, source in sources.items()}
        self.externs: dict[tuple[str, str], str] = {}  # (module, attribute or "") -> linked name
        self.linked: dict[tuple[str, str], str] = {}  # (module, name) -> linked name
        self.values: set[str] = set()  # modules that are used as a value
        self.constants: dict[str, Any] = {}  # by linked name
        self.origin: dict[int, str] = {}  # id of a top-level statement -> module
        self.dropped: list[str] = []
        self.body: list[ast.stmt] = []
        for module in self.modules.values():
            for statement in module.tree.body:
                self._take(module, statement)
        self._choose_names()

    # --- what a module defines

    def _take(self, module: _Module, statement: ast.stmt) -> None:
        """Sort one module-level statement."""
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._take_import(module, statement)
        elif isinstance(statement, ast.If):
            for chosen in self._decided(module, statement):
                self._take(module, chosen)
        elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            self._hoist_imports(module, statement)
            self._define(module, statement.name, statement)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            self._take_assignment(module, statement)
        elif isinstance(statement, ast.Expr):
            if not is_docstring(statement):
                module.body.append(statement)
        elif not isinstance(statement, (ast.Assert, ast.Pass)):
            raise LinkError(f"{module.name}:{statement.lineno}: a board's module defines, imports and calls")

    def _take_assignment(self, module: _Module, statement: ast.Assign | ast.AnnAssign) -> None:
        value = statement.value
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        if value is None:
            return
        target = targets[0]
        if len(targets) == 1 and isinstance(target, ast.Name):
            pairs = [(target, value)]
        elif len(targets) == 1 and isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = [
                (name, part) for name, part in zip(target.elts, value.elts, strict=True) if isinstance(name, ast.Name)
            ]
        else:
            raise LinkError(f"{module.name}:{statement.lineno}: assign to one name, or a tuple to a tuple of names")
        for name, part in pairs:
            if name.id == "__all__":
                continue
            if (module.name, name.id) in self.given:
                part = ast.Constant(self.given[module.name, name.id])  # type: ignore[arg-type] # noqa: PLW2901
            single = ast.copy_location(ast.Assign([name], part), statement)
            self._define(module, name.id, single)

    def _define(self, module: _Module, name: str, statement: ast.stmt) -> None:
        if name in module.env:
            raise LinkError(f"{module.name}:{statement.lineno}: {name} is defined twice")
        module.env[name] = ("global", module.name, name)
        module.body.append(statement)

    def _decided(self, module: _Module, statement: ast.If) -> list[ast.stmt]:
        """The branch of a module-level `if` that the given constants choose."""
        test = statement.test
        if isinstance(test, ast.Compare) and ast.unparse(test) == "__name__ == '__main__'":
            return []
        if isinstance(test, ast.Name) and test.id in module.env:
            _, *key = module.env[test.id]
            if tuple(key) in self.given:
                return statement.body if self.given[key[0], key[1]] else statement.orelse
        raise LinkError(f"{module.name}:{statement.lineno}: the linker is given no value for {ast.unparse(test)}")

    def _hoist_imports(self, module: _Module, definition: ast.stmt) -> None:
        """An import of one of ours inside a function becomes one of its module; what is imported is here already."""
        for node in ast.walk(definition):
            for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
                if not isinstance(body, list):
                    continue
                for index, statement in enumerate(body):
                    if isinstance(statement, ast.ImportFrom) and self._is_ours(str(statement.module)):
                        self._take_import(module, statement)
                        there = self.part_of[str(statement.module)]
                        is_temporary = there == self.temporary != self.part_of[module.name]
                        load = ast.ImportFrom(self.package, [ast.alias(there)], 0) if is_temporary else ast.Pass()
                        body[index] = ast.copy_location(load, statement)

    def _is_ours(self, name: str) -> bool:
        return any(known == name or known.startswith(name + ".") for known in self.modules)

    def _take_import(self, module: _Module, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            name = alias.asname or alias.name
            if isinstance(statement, ast.Import):
                meaning = ("module", alias.name) if self._is_ours(alias.name) else ("extern", alias.name, "")
            elif not self._is_ours(str(statement.module)):
                meaning = ("extern", str(statement.module), alias.name)
            elif f"{statement.module}.{alias.name}" in self.modules:
                meaning = ("module", f"{statement.module}.{alias.name}")
            else:
                meaning = ("global", str(statement.module), alias.name)
            if module.env.get(name, meaning) != meaning:
                raise LinkError(f"{module.name}:{statement.lineno}: {name} means two things")
            module.env[name] = meaning

    # --- names

    def _choose_names(self) -> None:
        """Every definition keeps its name, unless an earlier one has it; modules used as values choose first."""
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call):
                    used = [*node.args, *[keyword.value for keyword in node.keywords]]
                    for argument in used:
                        meaning = module.env.get(argument.id) if isinstance(argument, ast.Name) else None
                        if meaning is not None and meaning[0] == "module":
                            self.values.add(meaning[1])
        taken = {_THIS_MODULE, *TEXT_HELPERS, "_sys", self.package, *self.part_of.values()} | _BUILTINS
        first = sorted(self.modules.values(), key=lambda module: module.name not in self.values)
        for module in first:
            for name, meaning in module.env.items():
                if meaning[0] == "global" and meaning[1] == module.name:
                    self.linked[module.name, name] = _free(name, module.name, taken)
        for module in first:
            for name, meaning in module.env.items():
                if meaning[0] == "extern" and meaning[1:] not in self.externs:
                    self.externs[meaning[1], meaning[2]] = _free(name, module.name, taken)
        # A module that is used as a value offers what it imported under the same names too.
        for value in sorted(self.values):
            self._offer_imports(self.modules[value])

    def _offer_imports(self, module: _Module) -> None:
        """`port.open_bus` must find what the port imported: every name of such a module is one of the linked module."""
        for name, meaning in module.env.items():
            if meaning[0] == "global":
                found = self._linked_name(module, meaning, 0)
                if found != name and not name.startswith("_"):
                    raise LinkError(f"{module.name}: {name} is used as an attribute but linked as {found}")

    def _linked_name(self, module: _Module, meaning: tuple[str, ...], line: int) -> str:
        """The linked name behind a meaning, through any number of imports."""
        for _ in range(len(self.modules)):
            if meaning[0] == "extern":
                return self.externs[meaning[1], meaning[2]]
            if meaning[0] == "module":
                break
            key = (meaning[1], meaning[2])
            if key in self.linked:
                return self.linked[key]
            source = self.modules.get(meaning[1])
            if source is None or meaning[2] not in source.env:
                raise LinkError(f"{module.name}:{line}: there is no {meaning[2]} in {meaning[1]}")
            meaning = source.env[meaning[2]]
        self.values.add(meaning[1])
        return _THIS_MODULE

    def name_of(self, module: _Module, name: str, line: int) -> str | None:
        """What a global name of a module is called in the result; None if it is a builtin."""
        meaning = module.env.get(name)
        if meaning is None:
            if name not in _BUILTINS:
                raise LinkError(f"{module.name}:{line}: {name} is not defined")
            return None
        return self._linked_name(module, meaning, line)

    def attribute_of(self, module: _Module, name: str, attribute: str, line: int) -> str | None:
        """What `name.attribute` is called in the result if `name` is one of our modules; None if it is not."""
        meaning = module.env.get(name)
        if meaning is None or meaning[0] != "module":
            return None
        if attribute == "__file__":
            return attribute
        return self._linked_name(module, ("global", meaning[1], attribute), line)

    # --- the steps

    def resolve(self) -> None:
        """Give every global name its name in the result."""
        for module in self.modules.values():
            for statement in module.body:
                done = _Resolver(self, module).visit(statement)
                self.origin[id(done)] = module.name
                self.body.append(done)

    def inline_constants(self) -> None:
        """Compute constants, put them where they are used, and decide what they decide."""
        stored = {name for node in self._nodes() if isinstance(node, ast.Global) for name in node.names}
        counts: dict[str, int] = {}
        for node in self._nodes():
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                counts[node.id] = counts.get(node.id, 0) + 1
        inliner = _Inliner(self.constants)
        for index, statement in enumerate(self.body):
            done = inliner.visit(statement)
            self.origin[id(done)] = self.origin[id(statement)]
            self.body[index] = done
            if isinstance(done, ast.Assign):
                name = done.targets[0].id  # type: ignore[attr-defined]
                value = constant_value(done.value)
                if name not in stored and (
                    isinstance(value, _SCALARS) or (isinstance(value, tuple) and counts.get(name, 0) == 1)
                ):
                    self.constants[name] = value

    def shake(self, entries: list[tuple[str, str]]) -> None:
        """Leave out what the entries do not reach."""
        definitions = {defined_name(statement): statement for statement in self.body}
        for key in entries:
            if key not in self.linked:
                raise LinkError(f"there is no {key[1]} in {key[0]}")
        family = families_of(self.body)
        kept = _Reach(family)
        kept.names |= {"", *[self.linked[key] for key in entries]}
        for statement in self.body:
            if isinstance(statement, ast.Expr):
                kept.mention(statement)
        _extend(kept, definitions, self.values, self._value_names())
        for statement in self.body:
            name = defined_name(statement)
            if name not in kept.names:
                self.dropped.append(f"{self.origin[id(statement)]}.{name}")
            elif isinstance(statement, ast.ClassDef):
                self.dropped += [f"{self.origin[id(statement)]}.{name}.{method}" for method in kept.prune(statement)]
        self.body = [statement for statement in self.body if defined_name(statement) in kept.names]
        self.entries = entries
        self.offered = self._value_names()
        self.linked = {key: name for key, name in self.linked.items() if name in kept.names}
        self._settle(definitions, [self.linked[key] for key in entries], kept)

    def _settle(self, definitions: dict[str, ast.stmt], roots: list[str], kept: _Reach) -> None:
        """Decide in which part each name lives."""
        for (module, _), name in self.linked.items():
            self.home[name] = self.part_of[module]
        for value in sorted(self.values):
            self.home[_THIS_MODULE] = self.part_of[value]
        if not self.temporary:
            return
        # What is reached without the temporary part, and every class: its objects may outlive that part.
        stays = {name: there for name, there in definitions.items() if self.home.get(name) != self.temporary}
        resident = _Reach(kept.family)
        resident.attributes |= kept.attributes
        resident.own |= kept.own
        resident.names |= {name for name in kept.names if isinstance(stays.get(name), ast.ClassDef)} | set(roots)
        _extend(resident, stays, self.values, self.offered)
        for name in stays:
            if name in kept.names and name not in resident.names:
                self.home[name] = self.temporary

    def _value_names(self) -> dict[str, str]:
        """Attribute -> linked name, for modules used as values."""
        found = {}
        for value in sorted(self.values):
            module = self.modules[value]
            for name, meaning in module.env.items():
                if meaning[0] != "module":
                    found[name] = self._linked_name(module, meaning, 0)
        return found

    def _nodes(self) -> Iterator[ast.AST]:
        for statement in self.body:
            yield from ast.walk(statement)

    def emit(self, order: list[str], keep: set[str]) -> Linked:
        """Write the parts."""
        known = {*self.offered.values(), *[self.linked[key] for key in self.entries]}
        self.body = drop_empty_bases(merge_error_classes(self.body, known), known)
        for statement in self.body:
            unroll_comprehensions(statement)
            for node in ast.walk(statement):
                if isinstance(node, ast.FunctionDef):
                    take_out_keyword_defaults(node.args)
        self.body = skip_forwarders(self.body, known)
        turn_properties_into_attributes(self.body)
        elsewhere = {defined_name(one) for one in self.body if self._part_of(one) != order[0]}
        groups = group_classes(self.body, known | elsewhere)
        named = texts_and_keywords(self.body)
        texts = Texts(names_of(self.body))
        self.body = texts.take_tables(self.body)
        for statement in self.body:
            for node in list(ast.walk(statement)):
                # Texts of a module or a class are needed once, while it is imported.
                if isinstance(node, ast.FunctionDef):
                    node.body = [texts.visit(part) for part in node.body]
        self.home.update(dict.fromkeys(TEXT_HELPERS, order[0]))
        attributes = share_attributes(self.body, {*named, *self.offered, *keep}, groups)
        self.body = merge_classes(self.body, groups, self.origin)
        self.home.update({group.name: order[0] for group in groups})
        for statement in self.body:
            if isinstance(statement, ast.ClassDef):
                # MicroPython fills these two in first; nothing here asks for them, so methods may have their places.
                statement.body.insert(0, ast.parse("del __module__, __qualname__").body[0])
        defined = {defined_name(statement) for statement in self.body}
        bodies = {}
        for part in order:
            extra = [] if part != order[0] else ast.parse(f"_TEXTS = {bytes(texts.data)!r}\n{TEXT_HELPER_SOURCE}").body
            bodies[part] = self._link_part(part, order[: order.index(part)], extra)
        asked = {node.attr for one in self.body for node in ast.walk(one) if isinstance(node, ast.Attribute)}
        fixed = {*(asked & self.offered.keys()), *[self.linked[key] for key in self.entries]}
        renamed = share_globals(bodies, {*fixed, _THIS_MODULE, "_sys", self.package, *order})
        share_argument_names([statement for body in bodies.values() for statement in body], named)
        parts = {part: self._write_part(part, body) for part, body in bodies.items()}
        names = {}
        for key, name in self.linked.items():
            if name not in defined:
                continue
            part = self.home[name]
            names[key] = (part, renamed[part].get(name, name))
        return Linked(parts, names, attributes, sorted(self.dropped))

    def _link_part(self, part: str, before: list[str], extra: list[ast.stmt]) -> list[ast.stmt]:
        """A part's statements: imports, then what it defines, referring to other parts by their names."""
        body = [*extra, *[one for one in self.body if self._part_of(one) == part]]
        is_port = part == self.home[_THIS_MODULE]
        offered = self.offered if is_port else {}
        linker = _PartLinker(self.home, part)
        body = [linker.visit(statement) for statement in body]
        used = {node.id for one in body for node in ast.walk(one) if isinstance(node, ast.Name)} | set(offered)
        attributes = {node.attr for one in self.body for node in ast.walk(one) if isinstance(node, ast.Attribute)}
        head: list[ast.stmt] = []
        for (module, attribute), name in self.externs.items():
            if name in used and (name not in offered or name in attributes or attribute == ""):
                alias = ast.alias(attribute or module, None if name == (attribute or module) else name)
                head.append(ast.ImportFrom(module, [alias], 0) if attribute else ast.Import([alias]))
        if self.package in used:
            head.append(ast.Import([ast.alias(self.package)]))
        if is_port and _THIS_MODULE in used:
            head += ast.parse(f"import sys as _sys\n{_THIS_MODULE} = _sys.modules[__name__]").body
        for name in sorted(set(offered) & set(self.home) & attributes):
            if self.home[name] != part:
                linker.parts.add(self.home[name])
                body.append(ast.parse(f"{name} = {self.home[name]}.{name}").body[0])
        later = linker.parts - set(before) - {self.temporary}
        if later:
            raise LinkError(f"part {part} refers to {sorted(later)}, which comes after it")
        head += [ast.ImportFrom(self.package, [ast.alias(name)], 0) for name in before if name in linker.parts]
        return head + body

    def _write_part(self, part: str, body: list[ast.stmt]) -> Part:
        lines: list[str] = []
        line_map: list[str] = []
        for statement in body:
            text = ast.unparse(ast.fix_missing_locations(statement))
            lines += text.splitlines()
            line_map += _line_map(text, statement, self.origin.get(id(statement), ""))
        _check_names(part, lines)
        return Part("\n".join(lines) + "\n", line_map)

    def _part_of(self, statement: ast.stmt) -> str:
        return self.home.get(defined_name(statement)) or self.part_of[self.origin[id(statement)]]


def _free(name: str, module: str, taken: set[str]) -> str:
    """`name`, or with as much of its module in front as makes it new."""
    parts = module.split(".")
    found = name
    while found in taken:
        if not parts:
            raise LinkError(f"no name is left for {name} of {module}")
        found = "_" * name.startswith("_") + parts.pop() + "_" + found.lstrip("_")
    taken.add(found)
    return found


class _Resolver(ast.NodeTransformer):
    """Renames global names of one module to linked ones; drops docstrings, annotations and assertions."""

    def __init__(self, program: _Program, module: _Module) -> None:
        self.program = program
        self.module = module
        self.scopes: list[tuple[set[str], bool]] = []  # names, and whether it is a class body

    def _is_local(self, name: str) -> bool:
        return any(
            name in names
            for depth, (names, is_class) in enumerate(self.scopes)
            if not is_class or depth == len(self.scopes) - 1
        )

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not self._is_local(node.id):
            node.id = self.program.name_of(self.module, node.id, node.lineno) or node.id
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name) and not self._is_local(node.value.id):
            found = self.program.attribute_of(self.module, node.value.id, node.attr, node.lineno)
            if found is not None:
                return ast.copy_location(ast.Name(found, node.ctx), node)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self.program.name_of(self.module, name, node.lineno) or name for name in node.names]
        return node

    def visit_Delete(self, node: ast.Delete) -> ast.AST:
        """`del sys.modules["pile_edge.config"]` and `del pile_edge.config`: the temporary part goes instead."""
        temporary = self.program.temporary
        text = ast.unparse(node)
        for module, part in self.program.part_of.items():
            if part == temporary and text in (f"del sys.modules['{module}']", f"del {module}"):
                there = (
                    f"sys.modules['{self.program.package}.{part}']" if "[" in text else f"{self.program.package}.{part}"
                )
                return ast.copy_location(ast.parse("del " + there).body[0], node)
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        assign = ast.Assign([self.visit(node.target)], self.visit(node.value))
        return ast.copy_location(assign, node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        node.args = self.visit(node.args)
        if not self.scopes:
            node.name = self.program.linked[self.module.name, node.name]
        return self._visit_body(node, is_class=False)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.bases = [self.visit(part) for part in node.bases]
        if not self.scopes:
            node.name = self.program.linked[self.module.name, node.name]
        return self._visit_body(node, is_class=True)

    def _visit_body(self, node: Any, *, is_class: bool) -> ast.AST:
        if is_docstring(node.body[0]):
            node.body = node.body[1:]
        self.scopes.append((bound_names(node), is_class))
        body = [self.visit(part) for part in node.body]
        self.scopes.pop()
        node.body = [part for part in body if not isinstance(part, ast.Pass)] or [ast.Pass()]
        return node  # type: ignore[no-any-return]

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self.visit(node.args)
        self.scopes.append((bound_names(node), False))
        node.body = self.visit(node.body)
        self.scopes.pop()
        return node

    def _visit_comprehension(self, node: ast.AST) -> ast.AST:
        self.scopes.append((bound_names(node), False))
        self.generic_visit(node)
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815


class _Inliner(ast.NodeTransformer):
    """Puts constants in place and takes the branch they decide."""

    def __init__(self, constants: dict[str, Any]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in self.constants:
            return ast.copy_location(constant_node(self.constants[node.id]), node)
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
            return ast.copy_location(ast.Constant(not node.operand.value), node)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        first = node.values[0]
        if isinstance(first, ast.Constant) and bool(first.value) == decides:
            return first
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            chosen = node.body if node.test.value else node.orelse
            return chosen or ast.copy_location(ast.Pass(), node)
        return node


class _Reach:
    """What is reached.

    Attributes:
        names: linked names. attributes: names of attributes that something reached asks any object for. own: those it
            asks `self` for, which may be of that class or one related to it: (family, attribute).
    """

    def __init__(self, family: dict[str, str]) -> None:
        self.family = family
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.own: set[tuple[str, str]] = set()

    def keeps(self, owner: str, part: ast.stmt) -> bool:
        """Whether a statement of the body of class `owner` stays."""
        if isinstance(part, ast.FunctionDef):
            if part.name.startswith("__"):
                return part.name not in _DROPPED_METHODS
            return self._asks(owner, part.name) and "raise NotImplementedError" not in ast.unparse(part.body[0])
        if isinstance(part, ast.Assign):
            return any(isinstance(target, ast.Name) and self._asks(owner, target.id) for target in part.targets)
        return True

    def _asks(self, owner: str, attribute: str) -> bool:
        return attribute in self.attributes or (self.family[owner], attribute) in self.own

    def prune(self, statement: ast.ClassDef) -> list[str]:
        """Take what is not reached out of a class; the names of what went."""
        gone = [part for part in statement.body if not self.keeps(statement.name, part)]
        statement.body = [part for part in statement.body if part not in gone] or [ast.Pass()]
        return [part.name if isinstance(part, ast.FunctionDef) else ast.unparse(part) for part in gone]

    def mention(self, node: ast.AST, owner: str = "") -> bool:
        """Take in the names in a piece of code, of class `owner`; whether any was new."""
        before = len(self.names) + len(self.attributes) + len(self.own)
        finder = UsedGlobals()
        finder.visit(node)
        self.names |= finder.found.keys()
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute):
                if owner and isinstance(part.value, ast.Name) and part.value.id == "self":
                    self.own.add((self.family[owner], part.attr))
                else:
                    self.attributes.add(part.attr)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
                self.attributes.add(part.value)  # getattr may ask for it
        return len(self.names) + len(self.attributes) + len(self.own) > before


def _extend(reach: _Reach, definitions: dict[str, ast.stmt], values: set[str], value_names: dict[str, str]) -> None:
    """Add all that can be reached from what is reached."""
    grew = True
    while grew:
        grew = False
        for name, statement in definitions.items():
            if name not in reach.names:
                continue
            if isinstance(statement, ast.ClassDef):
                for base in statement.bases:
                    grew |= reach.mention(base)
                for part in statement.body:
                    if reach.keeps(name, part):
                        grew |= reach.mention(part, name)
            else:
                grew |= reach.mention(statement)
        if values and _THIS_MODULE in reach.names:
            offered = {linked for name, linked in value_names.items() if name in reach.attributes}
            grew |= not offered <= reach.names
            reach.names |= offered


def _line_map(text: str, statement: ast.stmt, module: str) -> list[str]:
    """Where the lines of `text`, written from `statement`, come from: statement by statement, in the same order."""
    found = [""] * len(text.splitlines())
    if not module:
        return found
    written = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    meant = [node for node in ast.walk(statement) if isinstance(node, ast.stmt)]
    for there, here in zip(written, meant, strict=True):
        if hasattr(here, "lineno"):
            found[there.lineno - 1] = f"{getattr(here, 'module', module)}:{here.lineno}"
    return found


class _PartLinker(GlobalNames):
    """Turns names that live in other parts into their attributes: a part's table then has one entry for all of them."""

    def __init__(self, home: Mapping[str, str], part: str) -> None:
        super().__init__()
        self.home = home
        self.part = part
        self.parts: set[str] = set()

    def visit_global(self, node: ast.Name) -> ast.AST:
        there = self.home.get(node.id, self.part)
        if there == self.part:
            return node
        if not isinstance(node.ctx, ast.Load):
            raise LinkError(f"{node.id} of part {there} is assigned in part {self.part}")
        self.parts.add(there)
        return ast.copy_location(ast.Attribute(ast.Name(there, ast.Load()), node.id, node.ctx), node)


class _CheckNames(GlobalNames):
    def __init__(self, part: str, defined: set[str]) -> None:
        super().__init__()
        self.part = part
        self.defined = defined

    def visit_global(self, node: ast.Name) -> ast.AST:
        if node.id not in self.defined:
            raise LinkError(f"{node.id} is used in line {node.lineno} of part {self.part} but defined nowhere")
        return node


def _check_names(part: str, lines: list[str]) -> None:
    """Refuse a result that uses a global name it does not define: the check that nothing needed was shaken out."""
    tree = ast.parse("\n".join(lines))
    _CheckNames(part, bound_names(tree) | _BUILTINS).visit(tree)
