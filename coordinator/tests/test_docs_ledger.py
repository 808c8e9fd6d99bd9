"""The ledger guide says what the code does: its examples run, its tables are the code's, its headings are there."""

import doctest
import re
from pathlib import Path

from bench.support.note_growth import growth, open_order
from test_settlement import terms_of

from pile_coordinator.chain import proofs
from pile_coordinator.chain.clearing import MAX_FILLS
from pile_coordinator.chain.notes import MAX_REFUNDED_NOTES
from pile_coordinator.chain.orders import MAX_OPEN_ORDERS
from pile_coordinator.chain.records import ANONYMOUS, ROLES, NoteRules, Params
from pile_coordinator.chain.rejections import CODES
from pile_coordinator.chain.transactions import (
    BODIES,
    MAX_BATCH_PROOFS,
    MAX_BOUGHT_NOTES,
    MAX_SPENT_NOTES,
    MAX_TX_BYTES,
    MAX_VALIDITY_BLOCKS,
)
from pile_shared.proof import REASON_NAMES, USER_REASONS

OPEN = "state: beside bid or contract, while an anonymous order is open"
ANONYMOUS_ORDER = "ledger: an anonymous order of four notes"
ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "ledger.md"
TEXT = GUIDE.read_text()


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_column(heading: str, table: int = 0) -> list[str]:
    """The code words in the first column of a table of a section."""
    tables = re.split(r"\n\n", section(heading))
    rows = [block for block in tables if block.lstrip().startswith("|")][table].strip().splitlines()[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


def test_the_examples_run() -> None:
    result = doctest.testfile(str(GUIDE), module_relative=False, globs={"example_terms": terms_of()})
    assert result.failed == 0
    assert result.attempted >= 10


def test_the_codes_are_those_of_the_code_in_their_order() -> None:
    assert first_column("Rejection codes") == list(CODES)


def test_the_outcomes_of_proofs_are_those_of_the_code_in_their_order() -> None:
    source = Path(proofs.__file__).read_text()
    assert first_column("Proof admission") == re.findall(r'^    "([a-z_]+)",$', source, re.MULTILINE)
    anomalies = re.findall(r'return "([a-z ]+)"|anomaly or "([a-z]+)"', source)
    assert sorted(first_column("Proof admission", 1)) == sorted(a or b for a, b in anomalies)


def test_roles_and_transactions_are_those_of_the_code() -> None:
    assert first_column("Roles") == [*ROLES, ANONYMOUS]
    assert first_column("Roles", 1) == list(BODIES)
    for kind, body in BODIES.items():
        assert set(body.ROLES) == senders(kind), kind


def senders(kind: str) -> set[str]:
    """The roles that the guide's table lets send a transaction: those it names, or all where it says "any"."""
    (row,) = [row for row in section("Roles").splitlines() if row.startswith(f"| `{kind}` |")]
    said = row.split("|")[2]
    return (
        set(ROLES) if "any" in said.split() or "any," in said else set(re.findall("|".join([*ROLES, ANONYMOUS]), said))
    )


def test_causes_are_those_of_the_code() -> None:
    user, pile = section("Cause").split("| pile |")
    for reason, name in enumerate(REASON_NAMES):
        assert reason == 0 or name in (user if reason in USER_REASONS else pile), name


def test_parameters_and_bounds_that_the_guide_names_exist() -> None:
    for name in re.findall(r"`([a-z_]+_(?:permille|ms|wh|hours|numerator|denominator))`", TEXT):
        assert name in {*Params.__match_args__, *NoteRules.__match_args__}, name
    for name in re.findall(r"`([a-z_]+_micro|denominations)`", section("Notes")):
        assert name in NoteRules.__match_args__, name
    assert (MAX_BOUGHT_NOTES, MAX_SPENT_NOTES) == (64, 12)
    for number in (MAX_TX_BYTES, MAX_VALIDITY_BLOCKS, MAX_OPEN_ORDERS, MAX_FILLS, MAX_REFUNDED_NOTES):
        assert f"{number:,}" in TEXT
    assert f"up to {MAX_BATCH_PROOFS}" in TEXT


SOURCES = [p for part in ("shared", "edge", "coordinator", "docs") for p in (ROOT / part).rglob("*.[pm][yd]")]


def test_headings_that_others_refer_to_are_there() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE)}
    for text in [path.read_text() for path in SOURCES]:
        for heading in re.findall(r'ledger guide, "([A-Z][^"]*)"', text):
            assert f"# {heading}\n" in TEXT, heading
        for anchor in re.findall(r"ledger\.md#([a-z-]+)", text):
            assert anchor in anchors


def test_the_growth_that_the_guide_tells_is_what_is_measured() -> None:
    found = {what: f"{size:,.0f}" for what, size in (growth() | {OPEN: open_order()}).items()}
    found["ledger: an anonymous order that four notes pay for and that ends in four"] = found[ANONYMOUS_ORDER]
    rows = [line.split("|")[1:3] for line in section("Notes").splitlines() if re.match(r"\| (ledger|state): ", line)]
    assert len(rows) == 6
    assert {what.strip(): size.strip() for what, size in rows}.items() <= found.items()
    assert found["notes that an order ends in"] == "4"
    assert found["state: all bins before sixteen orders"] == found["state: all bins after them"] == "7,176"
