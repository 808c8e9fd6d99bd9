"""docs/ring-signatures.md tells the truth: its examples run, its tags are the code's, its lengths and bounds are too."""

import doctest
import re
from pathlib import Path

from pile_coordinator.ring import disclosure, group, signature

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/ring-signatures.md"
PACKAGE = ROOT / "coordinator/pile_coordinator/ring"


def test_the_examples_run():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.failed == 0
    assert result.attempted == 16


def test_every_hash_is_told():
    named = re.compile(r'"(pilechain ring \d [a-z ]+)"')
    code = "".join(path.read_text() for path in PACKAGE.glob("*.py"))
    assert len(set(named.findall(code))) == len(named.findall(code)) == 9
    assert set(named.findall(PAGE.read_text())) == set(named.findall(code))


def test_the_sizes_are_told():
    text = PAGE.read_text()
    for size, name in (
        (signature.RING_BYTES, "ring"),
        (group.POINT_BYTES, "image"),
        (signature.SIGNATURE_BYTES, "signature"),
    ):
        assert f"| {size} | `{name}`" in text
    assert f"take {group.POINT_BYTES + signature.SIGNATURE_BYTES} bytes together" in text
    assert re.search(rf"proof = c \|\| s +{disclosure.PROOF_BYTES} bytes", text)
    assert f"the last {signature.KNOWN_RINGS:,} bins" in text
    assert f"q = 2^252 + {group.ORDER - 2**252} " in text
