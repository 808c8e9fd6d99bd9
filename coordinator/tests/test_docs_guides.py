"""The two guides for people, "how a price comes about" and "how an order is settled": every number on them is computed."""

import doctest
from pathlib import Path

import guide_market as guide
import pytest

DOCS = Path(__file__).parents[2] / "docs"
GLOBALS = {
    "tariff": guide.tariff(),
    "time_ms": guide.time_ms,
    "market": guide.Garage,
    "ends": guide.ends,
    "ends_unbegun": guide.ends_unbegun,
    "disputed": guide.disputed,
}


@pytest.mark.parametrize(("page", "examples"), [("price.md", 15), ("settlement.md", 14)])
def test_the_examples_run(page: str, examples: int) -> None:
    result = doctest.testfile(str(DOCS / page), module_relative=False, globs=dict(GLOBALS))
    assert result.failed == 0
    assert result.attempted >= examples
