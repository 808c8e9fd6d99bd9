"""Exact decimals in JSON: integers of a small unit become numbers with a point, never through a float."""

import json
from decimal import Decimal


def decimal(units: int, places: int) -> Decimal:
    """`units` of 10^-places as a number without trailing zeros; exact for any integer."""
    sign = "-" if units < 0 else ""
    digits = str(abs(units)).rjust(places + 1, "0")
    whole, part = digits[:-places], digits[-places:].rstrip("0")
    return Decimal(f"{sign}{whole}.{part}" if part else f"{sign}{whole}")


def rounded_div(numerator: int, denominator: int) -> int:
    """The quotient rounded to the nearest, halves away from zero, for a positive denominator."""
    half_up = (2 * abs(numerator) + denominator) // (2 * denominator)
    return half_up if numerator >= 0 else -half_up


def dumps(value: object, indent: str = "") -> str:
    """JSON text of dicts, lists, text, booleans, integers and Decimals, indented by two; TypeError for anything else."""
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{inner}{json.dumps(key)}: {dumps(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}" if rows else "{}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + dumps(item, inner) for item in value) + f"\n{indent}]" if value else "[]"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str | bool | int):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"no JSON for a {type(value).__name__}")
