"""The planted bugs: each still applies to this code, and a process can run the copy it is in."""

import subprocess
import sys

import pytest

from pile_hil.planted import BUGS, PlantError, planted_tree, python_path


@pytest.mark.parametrize("name", BUGS)
def test_every_bug_still_applies_and_the_copy_is_what_a_process_runs(name, tmp_path):
    tree = planted_tree(name, tmp_path)
    for edit in BUGS[name].edits:
        text = (tree / edit.file).read_text()
        assert edit.right not in text or edit.right in edit.wrong
        assert edit.wrong in text
        compile(text, edit.file, "exec")
    code = "import pile_edge.agent as a, pile_coordinator.ingest as b; print(a.__file__, b.__file__)"
    environment = {"PYTHONPATH": python_path(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(tree)) for path in found.stdout.split())


def test_a_bug_whose_text_has_gone_says_so(tmp_path, monkeypatch):
    planted_tree("receipt-unchecked", tmp_path / "first")
    monkeypatch.setattr("pile_hil.planted.ROOT", tmp_path / "first")  # there the right text is wrong already
    with pytest.raises(PlantError, match=r"stands 0 times in edge/pile_edge/light\.py"):
        planted_tree("receipt-unchecked", tmp_path / "second")


def test_an_unknown_bug_names_those_there_are(tmp_path):
    with pytest.raises(PlantError, match="journal-without-flush"):
        planted_tree("typo", tmp_path)
