"""`make demo-network` as a newcomer runs it: the demo's story, told by four accounting nodes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pile_coordinator.certificates import decode_order_certificate
from pile_coordinator.config import load_genesis
from pile_coordinator.replay import audit, open_ledger
from pile_coordinator.verify import verify_order
from pile_edge.board.bundle import find_micropython
from pile_hil.network import has_cometbft
from pile_hil.requirements import require

PILECHAIN = [sys.executable, "-m", "pile_coordinator.cli"]


@pytest.mark.timeout(300)
def test_the_same_story_and_three_of_four_nodes_in_every_certificate(tmp_path):
    require(has_cometbft(), "cometbft is not installed; run tools/servers")
    require(find_micropython() is not None, "the demo's second pile runs MicroPython")
    out = tmp_path / "out"
    words = [*PILECHAIN, "demo", "--network", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "operator-1 and operator-2 serve piles and wallets" in done.stdout
    assert done.stdout.count("3 of 4 accounting nodes") == 2
    assert re.search(r"sum +0\.000000 CNY", done.stdout)
    chain = load_genesis(out / "genesis.json")
    for who in ("dan", "eva"):
        data = (out / f"{who}.cbor").read_bytes()
        assert verify_order(data, chain).outcome == "confirmed"
        named = {row[0] for row in decode_order_certificate(data).closing.certificate.attestations}
        assert len(named) == 3
    ledger = open_ledger(out / "ledger.sqlite", chain)
    assert audit(ledger, chain).height > 10
    ledger.close()
    assert {Path(p).stem for p in out.glob("*.log")} >= {
        "auditor",
        "grid",
        "operator-1",
        "operator-2",
        "pile-1",
        "pile-2",
    }
