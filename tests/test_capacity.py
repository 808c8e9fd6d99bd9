"""What docs/capacity.md says is computed from figures that were measured, and the storm that they name loses no proof."""

from pathlib import Path

from bench.support.capacity import BEGIN, END, PAGE, load, rows, section
from bench.support.scaled_site import ScaledSite

from pile_hil.broker import find_mosquitto
from pile_hil.requirements import require

PILES, PROOFS = 24, 3


def test_the_table_is_computed_from_the_figures() -> None:
    text = PAGE.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == section(load())
    assert {len(row) for row in rows(load())} == {4}


def test_a_storm_of_piles_after_the_broker_was_killed_loses_no_proof(tmp_path: Path) -> None:
    """A certificate and a connection each; the broker forgets them, their sessions and the key lists all at once."""
    require(find_mosquitto() is not None, "needs mosquitto (apt install mosquitto)")
    with ScaledSite(tmp_path, PILES, workers=1) as site:
        site.hold(PROOFS, send_again_s=2.0)
        text = site.processes["coordinator"].text()
    assert "refused (bad_signature" not in text, text
