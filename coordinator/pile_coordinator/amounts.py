"""Amounts and prices as people write them: the currency with up to six decimals, exactly, so never through a float."""

from pile_shared.units import MAX_AMOUNT_MICRO

DECIMALS = 6


def money(amount_micro: int) -> str:
    """An amount or price with its six decimals."""
    sign = "-" if amount_micro < 0 else ""
    return f"{sign}{abs(amount_micro) // 1_000_000}.{abs(amount_micro) % 1_000_000:06d}"


def short_money(amount_micro: int) -> str:
    """The same with two decimals where the others are zeros."""
    return money(amount_micro).removesuffix("0000")


def parse_money(text: str) -> int:
    """What `money` writes, or shorter, to micro; ValueError for anything else, for a sign, or beyond 10^12."""
    whole, point, part = text.partition(".")
    digits = whole + part
    if not whole or (point and not part) or not (digits.isascii() and digits.isdigit()) or len(part) > DECIMALS:
        raise ValueError(f"an amount is like 0.65, with at most {DECIMALS} decimals")
    amount = int(whole) * 1_000_000 + int(part.ljust(DECIMALS, "0"))
    if amount > MAX_AMOUNT_MICRO:
        raise ValueError(f"an amount is at most {MAX_AMOUNT_MICRO // 1_000_000}")
    return amount
