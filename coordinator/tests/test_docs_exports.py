"""The page on exports tells the truth: its samples are what one order exports as, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
from exported import OPERATOR, exported_order, operator, pile_records, settled_chain, within

from pile_coordinator.cli import _parser
from pile_coordinator.exports.bulk import FORMATS
from pile_coordinator.exports.ocmf import check_records, safe_xml
from pile_coordinator.exports.ocpi import cdrs_json
from pile_coordinator.exports.ocpp import signed_meter_values_json
from pile_coordinator.exports.operator import _LOCATION, _PILE
from pile_coordinator.exports.tables import ORDER_COLUMNS, POSTING_COLUMNS, CsvTable, order_row, posting_rows

PAGE = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    chain = settled_chain(folder / "data")
    certificate = within(chain)
    order = exported_order(chain, certificate)
    yield order, check_records(order, pile_records(folder / "pile", chain, certificate))
    chain.close()


def test_the_samples_are_what_is_exported(order, tmp_path):
    made, records = order
    assert blocks("xml") == [safe_xml(made, records)]
    ours = [cdrs_json(made, operator(tmp_path), records), signed_meter_values_json(made, records)]
    assert blocks("json") == [text.decode() for text in ours]
    assert blocks("toml") == [OPERATOR]
    tables = (ORDER_COLUMNS, [order_row(made)]), (POSTING_COLUMNS, posting_rows(made))
    for shown, (columns, rows) in zip(blocks("csv"), tables, strict=True):
        with CsvTable(tmp_path / "rows.csv", columns) as table:
            table.add(rows)
        assert (tmp_path / "rows.csv").read_text() == shown


def test_the_commands_parse():
    lines = [line for block in blocks("text") for line in block.splitlines() if line.startswith("pilechain ")]
    assert len(lines) == 6
    for line in lines:
        assert _parser().parse_args(shlex.split(line)[1:]).run


def test_every_format_and_key_is_told():
    assert tuple(re.findall(r"^\| `([a-z]+)` \| `[<o]", PAGE, re.MULTILINE)) == FORMATS
    for table, keys in (("locations.NAME", _LOCATION), ("piles.PILE", {**_PILE, "home_of": None})):
        (row,) = re.findall(rf"^\| `\[{table}\]` \| (.*) \|$", PAGE, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == set(keys)
