"""The pages on keeping a chain: their configuration loads, their commands do what they say, on a coordinator at work."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from pile_coordinator.chain.transactions import Deposit, RegisterPile
from pile_coordinator.cli import _parser as pilechain_parser
from pile_coordinator.cli import main as pilechain
from pile_coordinator.config import load_config
from pile_coordinator.keeping.backup import backups
from pile_coordinator.keys import make_key
from pile_coordinator.mqtt import Connection
from pile_coordinator.wallet import Wallet
from pile_coordinator.wallet_cli.command import GROUPS
from pile_edge.cli import _parser as pile_edge_parser
from pile_edge.commands.fleet import load_fleet
from pile_hil.site import Site, wait_for
from pile_shared import cose, topics
from pile_shared.errors import PilechainError
from pile_shared.platform import sha256
from pile_shared.proof import HEARTBEAT, NO_PREVIOUS, Proof
from pile_shared.reading import Reading

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("keeping.md", "upgrade.md")


def lines_of(page: str) -> list[str]:
    blocks = re.findall(r"```text\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page):
    text = (DOCS / page).read_text()
    for line in lines_of(page):
        program, *words = shlex.split(line)
        if program in {"pilechain", "pile-edge"}:
            parser = pilechain_parser(words) if program == "pilechain" else pile_edge_parser(words)
            assert parser.parse_args(words).run
    options = " ".join(path.read_text() for path in (DOCS.parent / "coordinator/pile_coordinator").rglob("*.py"))
    options += " ".join(path.read_text() for path in (DOCS.parent / "edge/pile_edge/commands").glob("*.py"))
    for option in re.findall(r"`(--[a-z-]+)", text):
        assert f'"{option}"' in options or option == "--of", option
    actions = {action.name for _, group in GROUPS for action in group}
    assert {"revoke-key", "restore-key", "rotate-key", "retire-pile", "unlist", "cancel-contract"} <= actions


def test_the_fleet_file_loads(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", (DOCS / "upgrade.md").read_text(), re.DOTALL)
    (tmp_path / "fleet.toml").write_text(block)
    fleet = load_fleet(tmp_path / "fleet.toml")
    assert fleet.waves[-1] == ["*"]
    assert (fleet.wave_s, fleet.watch_s) == (3600, 900)


@pytest.fixture
def site(tmp_path: Path):
    with Site(tmp_path, [], rate=1) as site:
        site.start_broker()
        config = site.write_coordinator()
        (block,) = re.findall(r"```toml\n(.*?)```", (DOCS / "keeping.md").read_text(), re.DOTALL)
        config.write_text(config.read_text() + "\n" + block.replace("/mnt/mirror/pilechain", str(tmp_path / "mirror")))
        assert load_config(config).mirror == tmp_path / "mirror"
        (tmp_path / "mirror").mkdir()
        yield site


def test_the_pages_commands_one_after_the_other(site, capsys):
    """Begin a mirror, back up a coordinator at work, lose it, and come back both ways."""
    folder, made, lost = site.folder, "", "900"  # not as many as on the page: each costs half a millisecond
    names = {"coordinator.toml": folder / "coordinator.toml", "/mnt/mirror/pilechain": folder / "mirror"}
    names |= {"/mnt/backups": folder / "backups"}
    for line in lines_of("keeping.md"):
        if "pilechain replay" in line:
            continue
        words = shlex.split(line)[1:]
        if words[:2] == ["mirror", "show"]:
            site.start(
                "first", sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(names["coordinator.toml"])
            )
            site.admit({"dan": ("ev-owner", 1_000_000)})
        if words[0] == "restore":
            site.processes["first"].stop()
            shutil.rmtree(folder / "coordinator", ignore_errors=True)
            shutil.rmtree(folder / "data", ignore_errors=True)
            ((made, _),) = backups(folder / "backups")
        words = [str(folder / "data") if word == "data" else str(names.get(word, word)) for word in words]
        words = [str(made) if "/backup-2026" in word else lost if word == "99000" else word for word in words]
        assert pilechain([*words, "--json"]) == 0, (words, capsys.readouterr())
        told = json.loads(capsys.readouterr().out)
        if words[0] == "restore":
            assert told["is_whole"] is True
            assert told["height"] == (int(lost) if "--accept-loss" in words else 2)
    assert pilechain(["replay", str(made / "data/ledger.sqlite"), "--genesis", str(made / "config/genesis.json")]) == 0


def test_a_stolen_pile_and_a_stolen_key_are_good_for_nothing(site, capsys):
    """As the table says: retired, the chain takes nothing of the pile's key; revoked and restored, only the new key counts."""
    assert pilechain(["mirror", "begin", "--config", str(site.folder / "coordinator.toml")]) == 0
    coordinator = site.start(
        "first", sys.executable, "-m", "pile_coordinator.cli", "run", "--config", str(site.folder / "coordinator.toml")
    )
    site.admit({"olga": ("pile-owner", 0), "dan": ("ev-owner", 5_000_000)})
    thief = cose.SoftwareSigner(sha256(b"stolen"))
    with site.wallet("operator") as operator:
        operator.send(RegisterPile("pile-1", "olga", thief.public, "SDM630", "1", "north", 7000))

    def wallet(key: Path, *words: str) -> object:
        common = [
            "wallet",
            "--broker",
            f"127.0.0.1:{site.port}",
            "--genesis",
            str(site.folder / "genesis.json"),
            "--json",
        ]
        assert pilechain([*common, "--key", str(key), *words]) == 0, capsys.readouterr()
        capsys.readouterr()

    wallet(site.key_file("operator"), "--party", "operator", "retire-pile", "--pile", "pile-1")
    reading = Reading(site.clock.now_ms(), 2, (1000).to_bytes(8, "big"), 1000, 0, 1)
    proof = Proof(1, NO_PREVIOUS, None, HEARTBEAT, [reading], 0, None).sign(thief, site.genesis.chain_id)
    connection = Connection(site.broker_spec, "thief", [], persistent=False)
    connection.publish(topics.pile_topic(site.genesis.chain_id, "pile-1", "proof"), proof)
    wait_for(lambda: "refused (unknown_pile" in coordinator.text(), 30, "a refusal", coordinator)
    connection.close()

    new = make_key(site.folder / "keys/dan-new.key")
    wallet(site.key_file("operator"), "--party", "operator", "revoke-key", "--of", "dan")
    for official in ("operator", "grid"):
        words = ("restore-key", "--id", "dan", "--public", new.public.hex())
        wallet(site.key_file(official), "--party", official, *words)
    with Wallet(site.genesis, "dan", new, site.broker_spec) as dan, site.wallet("grid") as grid:
        grid.send(Deposit("dan", 1, "again"))
        assert dan.ask("account")["balance_micro"] == 5_000_001
    with site.wallet("dan") as robber, pytest.raises(PilechainError):
        robber.ask("account", timeout_s=3)
