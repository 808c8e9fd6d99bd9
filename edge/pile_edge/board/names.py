"""Rewrites that make linked code need fewer names: one name may stand for different things in different places.

Every name that the firmware does not have costs a board 7 bytes of heap (11 on a 64-bit interpreter), and those of a
part 2 more; worse, the tables of names double: 300 names take 3.5 kB less than 301 on a 64-bit interpreter. A program of
five hundred names runs with half of them. Classes and the entry points keep their names; what else is called differently
in a traceback is found by its line, as everything there (`line_map`).

As in `rewrites`: nobody asks for an attribute by a name that stands nowhere in the program.
"""

from __future__ import annotations

import ast
import keyword
import re
from typing import TYPE_CHECKING

from pile_edge.board.rewrites import Group, families_of, members_of
from pile_edge.board.syntax import GlobalNames, UsedGlobals, bound_names, defined_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Attributes of what MicroPython's own types and modules make: `dir()` of them all, and of `machine`, `esp32` and `network`
# by their documentation. Nothing of ours that is called like one is renamed, because a use does not tell whose it is.
# A test asks the real MicroPython whether the list is complete.
FIRMWARE_ATTRIBUTES = frozenset(
    """
    a2b_base64 accept acquire active add addressof any append args argv atexit b2a_base64 bind bytearray_at
    byteorder bytes_at calcsize center chdir choice clear clock close collect config connect const copy count crc32
    decode deinit difference difference_update digest disable discard dump dumps enable encode endswith errno
    errorcode exc_info executable exit extend feed fileno find flush format freq from_bytes fromhex fromkeys get
    get_ciphers getaddrinfo getcwd getenv getrandbits getvalue gmtime heap_lock heap_unlock hex hexlify idle
    ifconfig ilistdir implementation index inet_ntop inet_pton info init insert intersection intersection_update
    ioctl ipoll irq isalpha isconnected isdigit isdisjoint isenabled islower isspace issubset issuperset isupper
    items join kbd_intr keys label listdir listen load load_cert_chain load_verify_locations loads localtime lower
    lstrip makefile maxsize md5 mem16 mem32 mem8 mem_alloc mem_current mem_free mem_info mem_peak mem_total mkdir
    mkfs mktime mode modify modules mount name off on open opt_level pack pack_into partition path pend_throw
    platform poll pop popitem print_exception ps1 ps2 psk_identity psk_key putenv qstr_info randint random
    randrange read readblocks readinto readline readlines recv recv_into recvfrom register release remove rename
    replace reset reverse rfind rindex rmdir rpartition rsplit rstrip scan schedule seed seek send sendall
    sendbreak sendto sep server_hostname server_psk_keys set set_ciphers setblocking setdefault setsockopt
    settimeout sha1 sha256 sizeof sleep sleep_ms sleep_us sockaddr socket soft_reset sort split splitlines
    stack_use start startswith stat status statvfs stderr stdin stdout step stop strip struct symmetric_difference
    symmetric_difference_update sync system tell threshold throw ticks_add ticks_cpu ticks_diff ticks_ms ticks_us
    time time_ns time_pulse_us tls to_bytes toggle txdone umount uname unhexlify uniform union unlink unpack
    unpack_from unregister unsetenv update upper urandom value values verify_callback verify_mode version
    version_info wrap_socket write writeblocks
    """.split()  # noqa: SIM905 - a line for each of three hundred would hide the rest
)
# Names of arguments and loop variables that other rewrites make.
_MADE = re.compile(r"[ac]\d+|self|_")


def share_attributes(body: list[ast.stmt], fixed: Iterable[str], groups: Iterable[Group] = ()) -> dict[str, str]:
    """Call attributes and methods of classes that have nothing to do with each other by the same names.

    Args:
        body: Of the whole program; renamed in place.
        fixed: Names that stay.
        groups: Classes that will become one, so that the methods of one need other names than those of another; what is
            set on an object hides them. Their methods are renamed too.

    Returns:
        Old name -> new name.
    """
    owners = _owners(body)
    for group in groups:
        for methods in group.members.values():
            for name in methods:
                owners[name].add(group.name)
    there = texts_and_keywords(body)
    outside = _stored_from_outside(body)
    stays = there | FIRMWARE_ATTRIBUTES | outside | set(fixed)
    taken: dict[str, set[str]] = {}
    for name, families in owners.items():
        for family in families:
            taken.setdefault(family, set()).update({name} & stays)
    for family in _set_by_text(body):
        taken.setdefault(family, set()).update(there)
    palette = sorted(_usable(there | (owners.keys() & stays)) - FIRMWARE_ATTRIBUTES - outside)
    renamed = {}
    for name in sorted(owners.keys() - stays, key=lambda name: (-len(owners[name]), name)):
        mine = [taken[family] for family in sorted(owners[name])]
        likely = [name.lstrip("_")] if name.lstrip("_") in palette else []
        found = next((one for one in likely + palette if not any(one in names for names in mine)), None)
        if found is None:
            palette.append(name)
        else:
            renamed[name] = found
        for names in mine:
            names.add(found or name)
    for statement in body:
        _rename_attributes(statement, renamed)
    return renamed


def share_globals(parts: Mapping[str, list[ast.stmt]], fixed: Iterable[str]) -> dict[str, dict[str, str]]:
    """Call functions and values of a part as something else is called elsewhere.

    Args:
        parts: The statements of each part, referring to those of others as `part.name`; renamed in place.
        fixed: Names that stay.

    Returns:
        Old name -> new name, for each part.
    """
    everything = [statement for body in parts.values() for statement in body]
    fixed = set(fixed)
    own = {
        part: [name for one in body if (name := _renamable(one)) and name not in fixed] for part, body in parts.items()
    }
    there = texts_and_keywords(everything)
    there |= {node.attr for one in everything for node in ast.walk(one) if isinstance(node, ast.Attribute)}
    there -= {name for names in own.values() for name in names}  # as attributes of their part; put back if they stay
    there |= _member_names(everything)
    palette = sorted(_usable(there)) + sorted(FIRMWARE_ATTRIBUTES - there)
    renamed: dict[str, dict[str, str]] = {}
    for part, body in parts.items():
        finder = UsedGlobals()
        for statement in body:
            finder.visit(statement)
        uses = finder.found
        taken = bound_names(ast.Module(body, [])) | uses.keys()
        renamed[part] = {}
        for name in own[part]:
            likely = [name.lstrip("_")] if name.lstrip("_") in palette else []
            found = next(
                (one for one in likely + palette if one not in taken and one not in uses.get(name, ())),
                None,
            )
            if found is None:
                palette.append(name)
            else:
                renamed[part][name] = found
                taken.add(found)
    for part, body in parts.items():
        renamer = _GlobalRenamer(renamed, part)
        for statement in body:
            renamer.visit(statement)
    return renamed


def _usable(names: Iterable[str]) -> set[str]:
    return {
        name
        for name in names
        if name.isidentifier()
        and not keyword.iskeyword(name)
        and not name.startswith("__")
        and not _MADE.fullmatch(name)
    }


def names_of(body: list[ast.stmt]) -> set[str]:
    """Names of attributes, definitions and arguments, and what arguments are passed by."""
    found = set()
    for statement in body:
        found.add(defined_name(statement))
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, (ast.keyword, ast.arg)):
                found.add(str(node.arg))
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
    return found


def texts_and_keywords(body: list[ast.stmt]) -> set[str]:
    """Names that the program has in any case: texts and what arguments are passed by; classes, which keep theirs."""
    found = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.keyword) and node.arg:
                found.add(node.arg)
            elif isinstance(node, ast.ClassDef):
                found.add(node.name)
    return found


def _owners(body: list[ast.stmt]) -> dict[str, set[str]]:
    """Attribute -> the families of classes that have it; those with double underscores are the interpreter's."""
    family = families_of(body)
    owners: dict[str, set[str]] = {}
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            names = set(members_of(statement))
            for node in ast.walk(statement):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
            for name in names:
                if not name.startswith("__"):
                    owners.setdefault(name, set()).add(family[statement.name])
    return owners


def _stored_from_outside(body: list[ast.stmt]) -> set[str]:
    """Attributes that are set on anything but `self`: nothing tells which class they become one of."""
    return {
        node.attr
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute)
        and not isinstance(node.ctx, ast.Load)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    }


def _set_by_text(body: list[ast.stmt]) -> set[str]:
    """The families of classes in which any text of the program may be the name of an attribute, by `setattr`."""
    family = families_of(body)
    found = set()
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
                is_own = isinstance(statement, ast.ClassDef) and ast.unparse(node.args[0]) == "self"
                found |= {family[defined_name(statement)]} if is_own else set(family.values())
    return found


def _rename_attributes(statement: ast.stmt, renamed: Mapping[str, str]) -> None:
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute):
            node.attr = renamed.get(node.attr, node.attr)
    if isinstance(statement, ast.ClassDef):
        for part in statement.body:
            if isinstance(part, ast.FunctionDef):
                part.name = renamed.get(part.name, part.name)
            elif isinstance(part, ast.Assign):
                for target in part.targets:
                    if isinstance(target, ast.Name):
                        target.id = renamed.get(target.id, target.id)


def _member_names(body: list[ast.stmt]) -> set[str]:
    return {name for one in body if isinstance(one, ast.ClassDef) for name in members_of(one)}


def _renamable(statement: ast.stmt) -> str:
    """The name of a function or value; classes keep theirs, because an error's is shown."""
    return defined_name(statement) if isinstance(statement, (ast.FunctionDef, ast.Assign)) else ""


class _GlobalRenamer(GlobalNames):
    """Renames one part's own names, and those of other parts that are asked for by `part.name`."""

    def __init__(self, renamed: Mapping[str, Mapping[str, str]], part: str) -> None:
        super().__init__()
        self.renamed = renamed
        self.own = renamed[part]

    def visit_global(self, node: ast.Name) -> ast.AST:
        node.id = self.own.get(node.id, node.id)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:  # noqa: N802 - as ast calls them
        node.names = [self.own.get(name, name) for name in node.names]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: N802 - as ast calls them
        if isinstance(node.value, ast.Name) and node.value.id in self.renamed:
            node.attr = self.renamed[node.value.id].get(node.attr, node.attr)
            return node
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802 - as ast calls them
        if not self.scopes:
            node.name = self.own.get(node.name, node.name)
        return super().visit_FunctionDef(node)
