"""Answers as JSON for programs and as tables for people. Names carry their unit last, so they say how to be shown."""

import json
import sys
from datetime import UTC, datetime
from typing import cast

from rich.console import Console
from rich.table import Table

from pile_coordinator.amounts import money

_SIDES = {"U": "user", "H": "owner", "G": "grid", "F": "fees", "E": "escrow", "B": "bond", "D": "objection"}
# In this order, as a person would ask; what is not named here follows by name.
_ORDER = (
    *(
        "kind",
        "outcome",
        "reason",
        "why",
        "phase",
        "awaits",
        "deadline_ms",
        "party",
        "role",
        "balance_micro",
        "currency",
    ),
    *("period", "catalog_micro_per_kwh", "catalog_buy_micro_per_kwh", "band_micro_per_kwh", "load_wh"),
    *("now_micro_per_kwh", "curve_micro_per_kwh", "ask_micro_per_kwh", "limit_micro_per_kwh", "price_micro_per_kwh"),
    *(
        "fee_micro",
        "hold_micro",
        "cost_micro",
        "most_micro",
        "user",
        "owner",
        "zone",
        "pile",
        "energy_wh",
        "measured_wh",
    ),
    *("cause", "window_start_ms", "window_end_ms"),
)
_NAMES = {
    "now_micro_per_kwh": "curve now per kWh",
    "curve_micro_per_kwh": "curve with this per kWh",
    "ask_micro_per_kwh": "ask per kWh",
    "hold_micro": "puts up",
    "cost_micro": "costs as contracted",
    "most_micro": "costs at most",
    "evidence_age_ms": "evidence age (s)",
    "jail_ms": "jail (s)",
}
_DURATIONS = {"evidence_age_ms", "jail_ms"}
_LAST = ("id", "transaction", "digest", "next")
_ROW_WIDTH = 320  # ids are shown whole, so that they can be copied; a narrow terminal wraps the line
_UNITS = (("_micro_per_kwh", " per kWh"), ("_micro", ""), ("_wh", " (Wh)"), ("_ms", " (UTC)"))


def plain(value: object) -> object:
    """The same for JSON: bytes as hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def write(value: object, *, as_json: bool) -> None:
    """Print an answer."""
    if as_json:
        sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")
    elif isinstance(value, list):
        _write_rows(cast("list[dict[str, object]]", value))
    else:
        _write_fields(_without_none_such(cast("dict[str, object]", value)))


def _without_none_such(fields: dict[str, object]) -> dict[str, object]:
    """In a quote, an ask of -1 is none at all; in a listing it is at market."""
    is_quote = "outcome" in fields and fields.get("ask_micro_per_kwh") == -1
    return fields | {"ask_micro_per_kwh": None} if is_quote else fields


def text(name: str, value: object) -> str:
    """One value, in the unit that its name ends with."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return ", ".join(text(name, item) for item in value) or "-"
    if isinstance(value, int):
        return _number(name, value)
    return _SIDES.get(str(value), str(value)) if name in {"from", "to"} else str(value)


def _number(name: str, value: int) -> str:
    if name in _DURATIONS:
        return str(value // 1000)
    if name.endswith("_ms"):
        return moment(value) if value else "-"
    if name == "from_minute":
        return f"{value // 60:02d}:{value % 60:02d}"
    if name == "ask_micro_per_kwh" and value < 0:
        return "at market"
    return money(value) if "_micro" in name else str(value)


def moment(time_ms: int) -> str:
    """A time, to the second."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def heading(name: str) -> str:
    """A name as people read it, with its unit where the value does not show it."""
    if name in _NAMES:
        return _NAMES[name]
    for suffix, unit in _UNITS:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("_", " ") + unit
    return name.replace("_", " ")


def table(rows: list[list[str]], headings: list[str]) -> None:
    """Print a table, wide enough for every id."""
    grid = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for column in grid.columns:
        column.no_wrap = True
    for row in rows:
        grid.add_row(*row)
    console = Console(highlight=False, markup=False, width=_ROW_WIDTH)
    with console.capture() as drawn:
        console.print(grid)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in drawn.get().splitlines()))


def _write_fields(fields: dict[str, object]) -> None:
    """One line per field; lists of rows and maps below, under their name."""
    inner = {name: value for name, value in fields.items() if _is_inner(value)}
    outer = {name: fields[name] for name in sorted(fields, key=_column_order) if name not in inner}
    width = max(len(heading(name)) for name in outer)
    for name, value in outer.items():
        sys.stdout.write(f"{heading(name):<{width}}  {text(name, value)}\n")
    for name, value in inner.items():
        sys.stdout.write(f"{heading(name)}:\n")
        if isinstance(value, dict):
            _write_fields(value)
        elif isinstance(cast("list[object]", value)[0], dict):
            _write_rows(cast("list[dict[str, object]]", value))
        else:
            _write_lists(name, cast("list[list[object]]", value))


def _is_inner(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, list | dict) for item in value))


# Rows that come without names for their items.
_COLUMNS = {
    "postings": ("from", "to", "amount_micro"),
    "fills": ("pile", "energy_wh", "price_micro_per_kwh", "on_curve"),
    "upgrades": ("name", "height", "known"),
    "votes": ("name", "node", "height"),
    "rulings": ("arbiter", "measured_wh", "cause"),
    "periods": ("from_minute", "name", "sell_micro_per_kwh", "buy_micro_per_kwh"),
}


def _write_lists(name: str, rows: list[list[object]]) -> None:
    columns = _COLUMNS[name]
    cells = [[text(column, item) for column, item in zip(columns, row, strict=True)] for row in rows]
    table(cells, [heading(column) for column in columns])


def _write_rows(rows: list[dict[str, object]]) -> None:
    """A table for each kind of row, the id last."""
    if not rows:
        sys.stdout.write("nothing\n")
    by_columns: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row in rows:
        by_columns.setdefault(tuple(sorted(row, key=_column_order)), []).append(row)
    for columns, alike in by_columns.items():
        table([[text(c, row[c]) for c in columns] for row in alike], [heading(c) for c in columns])


def _column_order(name: str) -> tuple[int, int, str]:
    if name in _LAST:
        return 2, _LAST.index(name), name
    return (0, _ORDER.index(name), name) if name in _ORDER else (1, 0, name)
