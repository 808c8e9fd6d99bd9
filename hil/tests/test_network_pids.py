"""Which of a node's processes is which: a test that kills one must not meet the other."""

import shutil
import subprocess
import time
from types import SimpleNamespace

from pile_hil.network import Network, role_of


def test_a_child_is_known_by_its_programs_name_alone():
    assert role_of("/opt/go/bin/cometbft\0start\0--home\0/x\0") == "cometbft"
    assert role_of("cometbft\0") == "cometbft"
    for words in (
        "/srv/cometbft/venv/bin/python\0-m\0x\0",
        "/opt/python-for-cometbft\0",
        "/bin/python\0cometbft\0",
        "",
    ):
        assert role_of(words) == "application"


def test_the_processes_of_a_node_whose_interpreter_lies_in_a_folder_of_cometbfts(tmp_path):
    """As in a checkout or virtual environment called after it."""
    programs = [tmp_path / "cometbft-venv" / "python", tmp_path / "cometbft"]
    programs[0].parent.mkdir()
    for program in programs:
        program.symlink_to(shutil.which("sleep"))
    script = f"'{programs[0]}' 60 & first=$!; '{programs[1]}' 60 & second=$!; echo $first $second; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        application, cometbft = map(int, shell.stdout.readline().split())
        node = SimpleNamespace(processes={"n": SimpleNamespace(pid=shell.pid)})
        expected = {"supervisor": shell.pid, "application": application, "cometbft": cometbft}
        deadline = time.monotonic() + 10
        while (found := Network.pids(node, "n")) != expected and time.monotonic() < deadline:
            time.sleep(0.01)  # a child is the shell until it has become its program
        for pid in (application, cometbft):
            subprocess.run(["/bin/kill", str(pid)], check=True)
        assert found == expected
