"""Questions about Python syntax trees that linking a board's modules asks: scopes, definitions, constants. CPython only."""

from __future__ import annotations

import ast
import re
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def is_docstring(statement: ast.stmt) -> bool:
    """Whether a statement is a text or another constant alone."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def defined_name(statement: ast.stmt) -> str:
    """The name a module-level statement defines; "" for a call, which stays whatever is reached."""
    if isinstance(statement, ast.Expr):
        return ""
    if isinstance(statement, ast.Assign):
        return statement.targets[0].id  # type: ignore[attr-defined, no-any-return]
    return statement.name  # type: ignore[attr-defined, no-any-return]


def bound_names(function: ast.AST) -> set[str]:
    """The names that are local to a function, lambda, comprehension or class body."""
    found: set[str] = set()
    outer: set[str] = set()
    if isinstance(function, FUNCTIONS):
        args = function.args
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        found |= {arg.arg for arg in every if arg is not None}
    parts: list[ast.AST] = (
        [generator.target for generator in function.generators]
        if isinstance(function, COMPREHENSIONS)
        else list(getattr(function, "body", []))
        if not isinstance(function, ast.Lambda)
        else []
    )
    while parts:
        node = parts.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            continue
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Global):
            outer |= set(node.names)
        elif isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
            continue
        parts.extend(ast.iter_child_nodes(node))
    return found - outer


def constant_value(node: ast.expr) -> Any:
    """The value of an expression made of constants only; Ellipsis if it is none."""
    text = ast.unparse(node)
    if isinstance(node, ast.Call) and re.fullmatch(r"bytes\(range\(\d+, \d+\)\)", text):
        return eval(text, {"__builtins__": {"bytes": bytes, "range": range}})  # noqa: S307 - two numbers, checked above
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.operator, ast.unaryop, ast.Load)
    probe = node
    if isinstance(probe, ast.Call) and isinstance(probe.func, ast.Attribute) and not probe.keywords:
        # The two calls that constants are made with: bytes.fromhex("..") and (number).to_bytes(32, "big").
        is_fromhex = ast.unparse(probe.func) == "bytes.fromhex"
        if not is_fromhex and probe.func.attr != "to_bytes":
            return ...
        parts = probe.args if is_fromhex else [probe.func.value, *probe.args]
        if not all(constant_value(part) is not ... for part in parts):
            return ...
    elif not all(isinstance(part, allowed) for part in ast.walk(probe)):
        return ...
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "<constant>", "eval")
    return eval(code, {"__builtins__": {"bytes": bytes}})  # noqa: S307 - constants and operators only, checked above


def constant_node(value: Any) -> ast.expr:
    """The expression that gives a constant `constant_value` computed."""
    if isinstance(value, tuple):
        return ast.Tuple([constant_node(item) for item in value], ast.Load())
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        return ast.UnaryOp(ast.USub(), ast.Constant(-value))
    return ast.Constant(value)


class GlobalNames(ast.NodeTransformer):
    """Visits names that are global where they stand.

    Attributes:
        scopes: Around the present node, outermost first: (names bound there, whether it is a class body). What a class
            body binds, its functions do not see.
    """

    def __init__(self) -> None:
        self.scopes: list[tuple[set[str], bool]] = []

    def visit_global(self, node: ast.Name) -> ast.AST:
        """What to put in place of a global name."""
        raise NotImplementedError

    def bound_here(self) -> set[str]:
        """All names that are local at the present node."""
        seen = [names for names, is_class in self.scopes if not is_class] + [names for names, _ in self.scopes[-1:]]
        return {name for names in seen for name in names}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """A name, passed on if it is global."""
        return node if node.id in self.bound_here() else self.visit_global(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """A class, whose bases are named outside its body."""
        node.bases = [self.visit(base) for base in node.bases]
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        self.scopes.append((bound_names(node), True))
        node.body = [self.visit(part) for part in node.body]
        self.scopes.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """A function, whose defaults are computed outside its body."""
        node.decorator_list = [self.visit(part) for part in node.decorator_list]
        self._visit_defaults(node.args)
        self.scopes.append((bound_names(node), False))
        node.body = [self.visit(part) for part in node.body]
        self.scopes.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """The same for an unnamed one."""
        self._visit_defaults(node.args)
        self.scopes.append((bound_names(node), False))
        node.body = self.visit(node.body)
        self.scopes.pop()
        return node

    def _visit_defaults(self, args: ast.arguments) -> None:
        args.defaults = [self.visit(default) for default in args.defaults]
        args.kw_defaults = [None if default is None else self.visit(default) for default in args.kw_defaults]

    def _visit_scope(self, node: ast.AST) -> ast.AST:
        self.scopes.append((bound_names(node), False))
        self.generic_visit(node)
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_scope  # noqa: N815


class UsedGlobals(GlobalNames):
    """Finds each global name that is used or assigned, and the local names at those places.

    Attributes:
        found: name -> names that are local where it is used, whose meaning it would take if it were called like one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[str]] = {}

    def visit_global(self, node: ast.Name) -> ast.AST:
        """One use."""
        self.found.setdefault(node.id, set()).update(self.bound_here())
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        """A function that assigns global names."""
        for name in node.names:
            self.found.setdefault(name, set()).update(self.bound_here())
        return node
