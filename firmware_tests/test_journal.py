"""The journal under real MicroPython: power cuts on a real littlefs, and what it needs of a board's heap."""

from pathlib import Path

SCRIPT = Path(__file__).with_name("run_journal.py")


def figures(output: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in output.splitlines() if " " in line)}


def test_power_cut_at_every_program_and_erase(micropython):
    """The heap holds the block device, its copies and the model beside the journal; hence more than a board's."""
    done = micropython(SCRIPT, "cuts", heap="1m")
    found = figures(done.stdout)
    assert found["cuts"] > 300
    assert found["refused"] > 1
    assert done.stdout.endswith("ok\n")


def test_fits_a_board(micropython):
    """The largest record goes through. Beside the journal the heap holds a 20 kB block device and compiles the script."""
    done = micropython(SCRIPT, "heap")
    found = figures(done.stdout)
    print(found)
    assert done.stdout.endswith("ok\n")
    assert found["modules_bytes"] < 18000
    assert found["journal_bytes"] < 2500
