"""docs/meters.md tells the truth: its table is the list of profiles, its commands run, its example is a profile."""

import json
import re
import shlex
from pathlib import Path

import pytest

from pile_edge.cli import main
from pile_edge.commands.meters import markdown_table
from pile_edge.meters import catalogue
from pile_edge.meters.scan import CERTAIN, Plan, scan
from pile_edge.ports.cpython_bus import open_bus
from pile_hil.bus_server import BusServers
from pile_hil.load import Load
from pile_hil.meters import SimMeter

PAGE = (Path(__file__).parents[1] / "docs/meters.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def own(tmp_path):
    """A folder with the page's example."""
    folder = tmp_path / "meters.d"
    folder.mkdir()
    (folder / "acme-1.json").write_text(block("json"))
    return folder


def test_the_table_is_the_list_of_profiles():
    """After a change: `pile-edge meters --markdown` prints it."""
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    assert table == markdown_table(catalogue.profile_mappings())


def test_the_example_is_a_profile_and_a_scan_names_its_meter(own):
    assert catalogue.find_profile("acme-1", own).min_gap_ms == 20
    load = Load(lambda: 0, rated_power_w=5_500, battery_wh=1, start_energy_wh=1_234_560)
    with BusServers() as servers:
        spec = servers.serve({"kind": "tcp"}, [SimMeter(catalogue.profile_mapping("acme-1", own), 1, load)])
        (found,) = scan(Plan(spec, [], [1], gap_ms=0), catalogue.profile_mappings(own), open_bus).findings
    assert (found.profiles, found.sure, found.energy_wh) == (["acme-1"], CERTAIN, 1_234_560)


def test_the_commands_run(own, monkeypatch, capsys):
    monkeypatch.chdir(own.parent)
    meter = catalogue.profile_mapping("abb-b23")
    twins = [
        SimMeter(meter, 1, Load(lambda: 0, rated_power_w=5_500, battery_wh=1, start_energy_wh=10)) for _ in range(2)
    ]
    with BusServers() as servers:
        serial = servers.serve({"kind": "rtu"}, twins[:1])
        network = servers.serve({"kind": "tcp"}, twins[1:])
        places = {"/dev/ttyUSB0": serial["device"], "192.0.2.17": f"127.0.0.1:{network['port']}"}
        for line in block("text").strip().splitlines():
            words = [places.get(word, word) for word in shlex.split(re.split(r"\s{3,}", line)[0])]
            if "scan" in words:
                words += ["--timeout-ms", "250", "--gap-ms", "2"]
            assert main(words[1:]) == 0, line
            printed = capsys.readouterr().out
            assert ("abb-b23" in printed) == ("scan" in words or words == ["pile-edge", "meters"])


def test_every_answer_a_scan_can_give_is_explained():
    for word in ("certain", "likely", "possible", "unknown"):
        assert f"- `{word}`: " in PAGE


def test_the_keys_of_the_example_are_in_the_schemas_text():
    from pile_edge.meters import schema

    for key in json.loads(block("json")):
        assert re.search(rf"\b{key}\b", schema.__doc__), key
