"""OCMF records on the real MicroPython: not made by a board yet, but the same bytes if it does; and what it would cost."""

from pathlib import Path

from pile_shared import proof as p
from pile_shared.reading import Reading

HERE = Path(__file__).parent
TIMES_MS = [0, 951_782_400_000, 1_709_164_799_999, 1_800_000_000_123, 4_107_542_400_000, 253_402_300_799_999]


def payloads():
    """Begin and end, every reason, leap days, large and small registers."""
    origin = p.Origin("ABB B23", "1", "abb-b23", bytes(32))
    for number, time_ms in enumerate(TIMES_MS):
        reading = Reading(time_ms, number % 4, b"\x00\x01", 10**number * 7 + number, 0, 0)
        yield p.Proof(1, bytes(32), bytes([number]) * 32, p.BEGIN, [reading], 0, origin)
        for reason in range(1, len(p.REASON_NAMES)):
            yield p.Proof(2, bytes(32), bytes([reason]) * 32, p.END, [reading], reason)


def test_the_same_records_on_both_interpreters(cpython, micropython, tmp_path):
    source = tmp_path / "proofs"
    source.write_text("".join(proof.payload().hex() + "\n" for proof in payloads()))
    run = HERE / "run_ocmf.py"
    ours = cpython(run, source)
    assert micropython(run, source).stdout == ours
    assert ours.count("OCMF|") == len(TIMES_MS) * len(p.REASON_NAMES)


def test_why_a_board_makes_none(bundle, record_property):
    """It would be 2 kB more in flash; in the heap there are 4 kB beside the agent for its text and a second signature."""
    size = (bundle / "pile_edge/ocmf.mpy").stat().st_size
    record_property("ocmf_mpy_bytes", size)
    assert 1_500 < size < 3_000
