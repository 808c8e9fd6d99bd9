"""The guides tell the truth: their configuration loads, and the wallet's commands, typed one after the other, settle an order."""

import json
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pile_coordinator.cli import main as pilechain
from pile_coordinator.config import load_config
from pile_edge.config_file import load_config as load_pile_config
from pile_hil.site import PileSpec, Site

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RATE = 240


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_piles_configuration_loads(tmp_path):
    (block,) = blocks("pile.md", "toml")
    path = tmp_path / "pile.toml"
    path.write_text(block)
    config = load_pile_config(path)
    assert (config.pile_id, config.rated_power_w) == ("garage-17", 7000)


def test_the_coordinators_configuration_loads(tmp_path):
    (block,) = blocks("operator.md", "toml")
    site = Site(tmp_path, [], rate=1, port=1883)
    path = site.folder / "documented.toml"
    path.write_text(block)
    assert load_config(path).block_interval_ms == 1000


def test_the_wallets_commands_settle_an_order(tmp_path, monkeypatch, capsys):
    (block,) = blocks("wallet.md", "text")
    pile = PileSpec("garage-17", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=50_000)
    with Site(tmp_path, [pile], rate=RATE) as site:
        site.start_broker()
        site.start_rig()
        site.start_coordinator()
        known = {"PILE-PUBLIC": site.prepare_pile("garage-17").hex()}
        site.start_pile("garage-17")
        site.rig.command(do="plug", pile="garage-17")
        monkeypatch.chdir(site.folder)
        for name in ("operator", "grid"):
            (site.folder / f"{name}.key").symlink_to(site.key_file(name))
        for line in block.strip().splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "wallet":
                words[1:1] = ["--broker", f"127.0.0.1:{site.port}", "--json"]
            words = [known.get(word, moment(word, site)) for word in words]
            run_until(words, "confirm" in words, capsys, known)
        assert known["phase"] in {"signed", "active", "measured"}
        assert "VALID order.cbor: " in known["printed"]


def moment(word: str, site: Site) -> str:
    """A documented time as one of today's, on the site's clock."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d", word):
        return word
    hours = (datetime.fromisoformat(word) - datetime(2026, 11, 23, 9)).total_seconds() / 3600  # noqa: DTZ001
    started = datetime.fromtimestamp(site.clock.now_ms() / 1000, UTC).timestamp()
    return str(int((started + hours * 3600) * 1000))


def run_until(words: list[str], is_confirm: bool, capsys, known: dict[str, str]) -> None:
    deadline = time.monotonic() + 40
    while True:
        status = pilechain(words)
        printed = capsys.readouterr()
        if status == 0:
            break
        assert is_confirm, printed.err  # a settlement can be confirmed once there is one
        assert "settlement" in printed.err
        assert time.monotonic() < deadline
        time.sleep(0.3)
    known["printed"] = printed.out
    if words[0] != "wallet":
        return
    answer = json.loads(printed.out)
    if words[-1] == "new":
        name = words[words.index("--key") + 1].removesuffix(".key").upper()
        known[f"{name}-PUBLIC"] = answer["public"]
    if words[-1] == "--market":
        known["ORDER"] = answer["transaction"]
    if "show" in words:
        known["phase"] = answer["phase"]


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{p.name}" for p in sorted(DOCS.glob("*.md"))]])
def test_every_link_leads_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_command_explains_itself():
    for command in ([], ["run"], ["wallet"], ["verify"], ["demo"], ["wallet", "--key", "k", "bid"]):
        done = subprocess.run(
            [sys.executable, "-m", "pile_coordinator.cli", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "usage: " in done.stdout
        assert len(done.stdout) > 200
