"""docs/evidence.md tells every table, column, type and key of the schema, and no other."""

import re
from pathlib import Path

from pile_coordinator.evidence.database import metadata  # with the tables of the statistics
from pile_coordinator.evidence.schema import movement, settled_contract, statement

PAGE = (Path(__file__).parents[2] / "docs/evidence.md").read_text()


def test_every_table_and_column_is_documented() -> None:
    told: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        rows = re.findall(
            r"^\| ([*]*`\w+`[*]*) \| ([A-Z()0-9]+) \| \S.* \|$", section.partition("\n## ")[0], flags=re.MULTILINE
        )
        told[section.split("\n")[0]] = rows
    expected = {}
    for table in metadata.tables.values():
        stars = {
            column.name: "**" if column.primary_key else "*" if column.nullable else "" for column in table.columns
        }
        expected[table.name] = [(f"{stars[c.name]}`{c.name}`{stars[c.name]}", str(c.type)) for c in table.columns]
    assert told == expected


def test_the_views_are_documented() -> None:
    views = PAGE.partition("\n## Views")[2]
    added = [column.name for column in settled_contract.columns if column.name not in metadata.tables["contract"].c]
    for name in (*added, *(column.name for column in movement.columns)):
        assert f"`{name}`" in views
    assert statement.name in views
