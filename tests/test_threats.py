"""The threat model tells the truth: each threat names tests that exist and run; and those that no other file has."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest
from fuzz.pile_targets import CHAIN as PILE_CHAIN
from fuzz.pile_targets import GOOD, NOW_MS, Memory, Surroundings, settings_mapping
from scripted_pile import Hardware, Link
from settled import Chain
from world import NOW

from pile_coordinator.ingest import READY, ProofDesk
from pile_coordinator.replay import ReplayError, audit
from pile_edge.agent import SESSION_AGE_MS, Agent
from pile_edge.config import check_config
from pile_shared.proof import HEARTBEAT
from pile_shared.topics import pile_topic

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/threats.md").read_text(encoding="utf-8")
HEAD = "| tries to | what stops it | what remains | shown by |"
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
TEST_FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]


def threats() -> list[tuple[str, list[str]]]:
    """(attacker, cells) of each row."""
    found, attacker = [], ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            attacker = line.removeprefix("## ")
        elif line.startswith("|") and line != HEAD and not line.startswith("|---"):
            found.append((attacker, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


@functools.cache
def collected_from(path: str) -> frozenset[str]:
    """Those that pytest collects from a file, read from its syntax tree."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize(
    ("attacker", "cells"), threats(), ids=lambda value: value if isinstance(value, str) else value[0][:50]
)
def test_a_threat_says_what_stops_it_and_which_test_shows_it(attacker: str, cells: list[str]) -> None:
    assert len(cells) == 4, cells
    tries, stops, _, shown = cells
    assert attacker
    assert tries
    assert stops
    named = TEST.findall(shown)
    assert named, f"no test shows: {tries}"
    assert TEST.sub("", shown).replace(",", "").strip() == ""
    for path, name in named:
        assert any(path.startswith(folder + "/") for folder in TEST_FOLDERS), path
        assert name in collected_from(path), f"{path} has no {name}"


def test_every_attacker_has_threats() -> None:
    attackers = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert len(attackers) >= 16
    assert set(attackers) == {attacker for attacker, _ in threats()}
    assert PAGE.count(HEAD) == len(attackers)


# --- threats that no other file has a test of ---------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "starts"), [(SESSION_AGE_MS - 60_000, True), (SESSION_AGE_MS + 60_000, False)])
def test_a_start_that_was_kept_for_later_starts_nothing(late_ms: int, starts: bool) -> None:
    """Who keeps a user's start from the pile cannot bring it when the user has gone."""
    hardware = Hardware(NOW_MS)
    link = Link(hardware, 1000, lambda _: None)
    agent = Agent(check_config(settings_mapping(), ""), Surroundings(hardware, Memory(), link))
    link.queue = [(pile_topic(PILE_CHAIN.chain_id, "pile-1", "contract"), GOOD["contract"])]
    agent.step()
    hardware.advance(late_ms)
    link.queue = [(pile_topic(PILE_CHAIN.chain_id, "pile-1", "session"), GOOD["start"])]
    agent.step()
    assert hardware.is_on is starts
    assert agent.refused == ({} if starts else {"stale": 1})
    agent.close()


def test_every_package_is_pinned_with_its_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"\n(?=[a-z0-9])", lock.strip())
    assert len(packages) > 100
    for package in packages:
        assert "==" in package.split()[0], package
        assert "--hash=sha256:" in package, package
    assert "--require-hashes" in (ROOT / "tools/setup").read_text()


def test_a_worker_that_lies_gets_a_proof_into_a_block_and_whoever_computes_it_again_finds_it(tmp_path: Path) -> None:
    """What remains of trusting a worker's key: its lie is in a block of a solo chain for all to see, and nothing can settle by it."""
    chain = Chain(tmp_path)
    chain.admit()
    assert audit(chain.engine._store, chain.genesis).height == chain.engine.height
    desk = ProofDesk(chain.genesis.chain_id, chain.engine.verify)
    forged = chain.world.prove("pile-1", HEARTBEAT, [(NOW + 1000, 5)])
    forged = forged[:-1] + bytes((forged[-1] ^ 1,))
    assert desk.offer(chain.engine.state, "pile-1", forged) == "bad_signature"
    assert desk.offer(chain.engine.state, "pile-1", forged, verified=True) == READY
    (batch,) = desk.take_batches()
    chain.block(NOW + 2000, ("operator", batch))
    with pytest.raises(ReplayError, match=f"block {chain.engine.height}"):
        audit(chain.engine._store, chain.genesis)
    chain.close()
