"""Every meter profile's golden frames under real MicroPython; CPython's answers are the measure."""

import json
from pathlib import Path

from pile_edge.meters import catalogue
from pile_edge.meters.decode import decode, load_profile
from pile_edge.meters.schema import at_model

SCRIPT = Path(__file__).with_name("run_meters.py")


def cases():
    """(mapping as a board gets it, golden row) of every profile."""
    for mapping in catalogue.profile_mappings():
        for golden in mapping["golden"]:
            placed = at_model(mapping, golden["model_address"]) if "sunspec" in mapping else mapping
            yield catalogue.board_profile(placed), golden


def blocks_of(golden):
    """The registers in its response frames: without unit, function, byte count and CRC."""
    return [response[6:-4] for _, response in golden["exchanges"]]


def run(micropython, path, rows):
    path.write_text("".join(json.dumps({"profile": profile, "blocks": blocks}) + "\n" for profile, blocks in rows))
    return [json.loads(line) for line in micropython(SCRIPT, path, timeout_s=60).stdout.splitlines()]


def test_golden_frames(micropython, tmp_path):
    expected = []
    for profile, golden in cases():
        sample = decode(load_profile(profile), [bytes.fromhex(block) for block in blocks_of(golden)])
        expected.append([golden["energy_wh"], golden["power_w"], sample.raw.hex(), sample.step_wh])
    rows = [(profile, blocks_of(golden)) for profile, golden in cases()]
    assert len(rows) > 150
    assert run(micropython, tmp_path / "golden.jsonl", rows) == expected


def test_what_is_no_value(micropython, tmp_path):
    profile = catalogue.board_profile(at_model(catalogue.profile_mapping("sunspec-203"), 40_069))
    counter, filling = "000004d2", "8000" * 6
    rows = [
        (profile, [counter + filling + "8000", "0001" + "8000" * 3 + "0000"]),  # no scale factor
        (profile, ["00000000" + filling + "0000", "0001" + "8000" * 3 + "0000"]),  # no counter
        (profile, [counter + filling + "0000", "8000" + "8000" * 3 + "0000"]),  # no power
        (profile, [counter, "0001"]),  # without scale factors
    ]
    codes = [["not_available"]] * 3 + [["frame"]]
    assert run(micropython, tmp_path / "none.jsonl", rows) == codes
