"""The guides tell the truth: their configuration loads, and the wallet's commands, typed one after the other, settle an order."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pile_coordinator.cli import _parser as pilechain_parser
from pile_coordinator.cli import main as pilechain
from pile_coordinator.config import load_config
from pile_coordinator.engines.comet.supervise import RESTART_S
from pile_coordinator.serving import serving_topic
from pile_coordinator.wallet_cli.command import GROUPS
from pile_edge.chargers import KINDS
from pile_edge.cli import _parser as pile_edge_parser
from pile_edge.config_file import load_config as load_pile_config
from pile_edge.ocmf import make_record
from pile_hil.neighbours import Neighbours
from pile_hil.site import PARAMS, PileSpec, Site
from pile_shared.cose import SoftwareSigner
from pile_shared.platform import sha256
from pile_shared.proof import BEGIN, Origin, Proof
from pile_shared.reading import Reading

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RATE = 240


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_the_piles_configurations_load(tmp_path):
    """The whole one, and with other sections in place of its own: a charging station, a pin, a slow meter."""
    block, station, pin, line = blocks("pile.md", "toml")
    path = tmp_path / "pile.toml"
    path.write_text(block)
    config = load_pile_config(path)
    assert (config.pile_id, config.rated_power_w) == ("garage-17", 7000)
    for other, kind in ((station, "keba"), (pin, "gpio"), (line, "coil")):
        whole, sections = block, re.findall(r"\[\w+\]\n(?:\w.*\n)+", other)
        for section in sections:
            name = section.partition("\n")[0]
            whole, replaced = re.subn(re.escape(name) + r"\n(?:\w.*\n)+", lambda _, text=section: text, whole)
            assert replaced == 1
        path.write_text(whole)
        config = load_pile_config(path)
        assert config.control["kind"] == kind
    assert config.bus["paces"] == {0: (5, 300, 5), 1: (200, 500, 500), 11: (5, 100, 100)}


def test_the_stations_page_has_every_kind_and_register():
    page = (DOCS / "chargers.md").read_text()
    assert re.findall(r"^## .*\(`([a-z-]+)`\)$", page, re.MULTILINE) == [
        "keba",
        "abb-terra-ac",
        "alfen",
        "phoenix-charx",
    ]
    assert set(KINDS) <= set(re.findall(r"^\| `([a-z-]+)` \|", (DOCS / "pile.md").read_text(), re.MULTILINE))
    code = (ROOT / "edge/pile_edge/chargers.py").read_text().partition("class Keba")[2]
    used = set(re.findall(r"\b(?:0x4[01][0-9A-F]{2}|[15]\d{3})\b", code)) - {"1000"}
    for register in used:
        assert register.removeprefix("0x").replace("0x", "") + ("h" if register.startswith("0x") else "") in page, (
            register
        )
    assert len(used) >= 12


def test_the_signers_page_names_signers_and_their_messages(tmp_path):
    page = (DOCS / "signers.md").read_text()
    signers = re.findall(r"^\| `([a-z0-9]+:[^`]+)` \|", page, re.MULTILINE)
    assert [signer.partition(":")[0] for signer in signers] == ["file", "tpm2", "atecc"]
    block = blocks("pile.md", "toml")[0]
    path = tmp_path / "pile.toml"
    for signer in signers:
        path.write_text(block.replace("file:pile.key", signer))
        assert load_pile_config(path).signer.endswith(signer.removeprefix("file:"))
    ours = "".join((ROOT / f"edge/pile_edge/signers/{name}.py").read_text() for name in ("tpm2", "atecc", "hardware"))
    table = page.partition("| message | check |")[2].partition("##")[0]
    messages = [row.split(" | ")[0].removeprefix("| ") for row in table.splitlines() if row.startswith("| ")]
    assert len(messages) == 7
    for message in messages:
        assert message.partition(":")[0] in ours, message


@pytest.mark.parametrize("page", ["signers.md", "ocmf.md"])
def test_the_piles_commands_exist(page):
    lines = [line for block in blocks(page, "text") for line in block.splitlines() if line.startswith("pile-edge ")]
    assert lines
    for line in lines:
        assert pile_edge_parser().parse_args(shlex.split(line)[1:]).run


def test_the_ocmf_page_names_every_field():
    signer = SoftwareSigner(sha256(b"pile"))
    origin = Origin("SDM630", "63000117", "eastron-sdm630", bytes(32))
    reading = Reading(0, 0, bytes(4), 0, 0, 0)
    text = make_record(Proof(1, bytes(32), bytes(32), BEGIN, [reading], 0, origin), 1, "chain/pile", origin, signer)
    payload, signature = (json.loads(part) for part in text.split("|")[1:])
    told = set(
        re.findall(
            r"\b[A-Z]{2}\b", " ".join(re.findall(r"^\| ([^|]+) \|", (DOCS / "ocmf.md").read_text(), re.MULTILINE))
        )
    )
    plain = {"IF", "RD", "RT", "EF", "ST", "SE", "SM"}  # constants, or of the format itself
    assert payload.keys() | payload["RD"][0].keys() | signature.keys() == told | plain


def test_the_coordinators_configuration_loads(tmp_path):
    (block,) = blocks("operator.md", "toml")
    site = Site(tmp_path, [], rate=1, port=1883)
    path = site.folder / "documented.toml"
    path.write_text(block)
    assert load_config(path).block_interval_ms == 1000


def test_the_operators_page_names_every_parameter_as_the_demo_sets_it():
    rows = re.findall(r"^\| (`[^|]+) \|[^|]+\| ([^|]+) \|$", (DOCS / "operator.md").read_text(), re.MULTILINE)
    told = {}
    for names, values in rows:
        if set(names.replace("`", "").split(", ")) <= set(PARAMS):
            told |= dict(zip(names.replace("`", "").split(", "), map(number, values.split(", ")), strict=True))
    assert told == {name: str(value) for name, value in PARAMS.items()}


def number(text: str) -> str:
    """A documented value; durations in ms."""
    minutes = {"h": 60, "min": 1}
    count, _, unit = text.partition(" ")
    return str(int(count) * minutes[unit] * 60_000) if unit else text


ACTIONS = {action.name for _, group in GROUPS for action in group}


@pytest.mark.parametrize("page", ["wallet.md", "operator.md", "anonymity.md"])
def test_every_action_a_page_names_exists(page):
    words = re.findall(r"`([a-z]+-[a-z-]+|[a-z]+)(?: [^`]*)?`", (DOCS / page).read_text())
    called = re.findall(r"wallet --key \S+(?: --party \S+)? ([a-z-]+)", (DOCS / page).read_text())
    assert set(called) <= ACTIONS | {"new"}
    if page == "wallet.md":
        assert ACTIONS - set(words) - set(called) == set()


@pytest.mark.timeout(240)
def test_the_wallets_commands_do_what_the_page_says(tmp_path, monkeypatch, capsys):
    pile = PileSpec("garage-17", "olga", {"kind": "tcp"}, "eastron-sdm630", "SDM630", 63000117, battery_wh=50_000)
    with Site(tmp_path, [pile], rate=RATE) as site:
        site.start_broker()
        site.start_rig()
        site.start_coordinator()
        known = {"PILE-PUBLIC": site.prepare_pile("garage-17").hex()}
        site.start_pile("garage-17")
        site.rig.command(do="plug", pile="garage-17")
        monkeypatch.chdir(site.folder)
        (site.folder / "winter.json").write_text(*blocks("wallet.md", "json"))
        for name in ("operator", "grid", "auditor"):
            (site.folder / f"{name}.key").symlink_to(site.key_file(name))
        for line in "".join(blocks("wallet.md", "text")).strip().splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "wallet":
                words[1:1] = ["--broker", f"127.0.0.1:{site.port}", "--json"]
            words = [known.get(word, moment(word, site)) for word in words]
            run_until_done(words, capsys, known)
            if "buy-notes" in words:
                Neighbours(site).buy([0] * 7 + [1])  # so that the bin is full of others
        assert known["verified"] == ["order.cbor", "anonymous.cbor", "anonymous.cbor", "ruled.cbor"]
        assert known["quoted"]["outcome"] == "fills"
        assert known["answered"]["phase"] == known["ruled"]["phase"] == "resolved"
        assert (known["answered"]["cause"], known["ruled"]["measured_wh"]) == ("user", 700)


def moment(word: str, site: Site) -> str:
    """A documented time as one of today's, on the site's clock."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d", word):
        return word
    hours = (datetime.fromisoformat(word) - datetime(2026, 11, 23, 9)).total_seconds() / 3600  # noqa: DTZ001
    started = datetime.fromtimestamp(site.clock.now_ms() / 1000, UTC).timestamp()
    return str(int((started + hours * 3600) * 1000))


AFTER_THE_SESSION = {"confirm", "object"}  # these wait for a settlement


def run_until_done(words: list[str], capsys, known: dict) -> None:
    deadline = time.monotonic() + 40
    while True:
        status = pilechain(words)
        printed = capsys.readouterr()
        if status == 0:
            break
        assert AFTER_THE_SESSION & set(words), (words, printed)
        assert json.loads(printed.out)["error"] == "phase"
        assert time.monotonic() < deadline
        time.sleep(0.3)
    if words[0] == "verify":
        assert f"VALID {words[1]}: " in printed.out
        assert ("disputed by olga, ended by ruling of auditor" in printed.out) == (words[1] == "ruled.cbor")
        known.setdefault("verified", []).append(words[1])
    else:
        learn(words, json.loads(printed.out), known)


def learn(words: list[str], answer, known: dict) -> None:
    """What later lines of the page name in capitals, and what the test looks at in the end."""
    if words[-1] == "new":
        name = words[words.index("--key") + 1].removesuffix(".key").upper()
        known[f"{name}-PUBLIC"] = answer["public"]
    if "bid" in words:
        known["ORDER"] = answer["transaction"]
    if "withdraw" in words:
        known["WITHDRAWAL"] = answer["transaction"]
    if "quote" in words:
        known["quoted"] = answer
    for action, name in (("answer", "answered"), ("rule", "ruled")):
        if action in words:
            show = [*words[: words.index(action)], "show", words[words.index(action) + 1]]
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                assert pilechain(show) == 0
            known[name] = json.loads(shown.getvalue())


def test_the_installers_commands_and_options_exist(capsys):
    """Every `pile-edge` line of the guide parses, and what the guide says of the service is in the unit."""
    lines = [line for block in blocks("install.md", "text") for line in block.splitlines() if "pile-edge " in line]
    commands = [shlex.split(line[line.index("pile-edge ") :])[1:] for line in lines if "journalctl" not in line]
    assert {words[0] for words in commands} == {"provision", "read", "install", "flash", "update"}
    for words in commands:
        pile_edge_parser().parse_args(words)
    page = (DOCS / "install.md").read_text()
    for option in re.findall(r"`(--[a-z-]+)", page):
        assert any(option in pile_edge_help(words[0], capsys) for words in commands) or option == "--fingerprint", (
            option
        )


def pile_edge_help(command: str, capsys) -> str:
    for words in ([command, "--help"], [command, "sign", "--help"] if command == "update" else None):
        if words:
            with pytest.raises(SystemExit):
                pile_edge_parser().parse_args(words)
    return capsys.readouterr().out


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


def test_the_network_pages_commands_parse_and_its_configuration_loads(tmp_path):
    page = (DOCS / "network.md").read_text()
    lines = [line for block in blocks("network.md", "text") for line in block.splitlines() if "pilechain " in line]
    assert {" ".join(shlex.split(line)[1:3]) for line in lines} >= {
        "init network",
        "network status",
        "network join",
        "network add",
    }
    for line in lines:
        assert pilechain_parser().parse_args(shlex.split(line)[1:]).run
    (block,) = blocks("network.md", "toml")
    site = Site(tmp_path, [], rate=1, port=1883)
    path = site.folder / "documented.toml"
    path.write_text(block)
    config = load_config(path)
    assert (config.engine, config.comet.snapshot_interval) == ("comet", 1000)
    ours = "".join(path.read_text() for path in (ROOT / "coordinator/pile_coordinator").rglob("*.py"))
    for kind in re.findall(r"node/<party>/(\w+)` \|", page):
        assert f'"{kind}"' in ours
    assert serving_topic("<chain>", "<party>") in page
    for said in (
        *("stopped before it could answer wrongly", "CometBFT's genesis file is for", "other_header", "ended"),
        "was not told",
        *("is in use by process", "this node fell too far behind", "none of these nodes has a snapshot yet"),
    ):
        assert said in ours
        assert said in page
    waits = ", ".join(f"{wait_s:g}" for wait_s in RESTART_S[:-1])
    assert f"after {waits} and then every {RESTART_S[-1]:g} seconds" in " ".join(page.split())


def test_the_networks_documented_network_is_written(tmp_path):
    """Every `init` line of the page, in a folder of its own; no node has a key of another, and nothing is for everybody."""
    lines = [line for block in blocks("network.md", "text") for line in block.splitlines() if " init " in line]
    site = Site(tmp_path / "site", [], rate=1, port=1883)
    for number, line in enumerate(lines):
        words = [str(site.folder / "genesis.json") if w == "genesis.json" else w for w in shlex.split(line)[1:]]
        words[words.index("network")] = str(tmp_path / f"network-{number}")
        assert pilechain(words) == 0
        folders = [p for p in (tmp_path / f"network-{number}").iterdir() if p.name != "parties"]
        assert len(folders) == 4
        secrets = [p.read_text() for folder in folders for p in folder.rglob("*key*") if p.is_file()]
        assert len(set(secrets)) == len(secrets)
        for folder in folders:
            config = load_config(folder / "coordinator.toml")
            assert config.comet is not None
            assert all(p.stat().st_mode & 0o77 == 0 for p in folder.rglob("*key*") if p.is_file())
            text = (folder / "node" / "config" / "config.toml").read_text()
            assert "0.0.0.0" not in text
            listening = re.findall(r'(?:laddr|proxy_app) = "tcp://([\d.]+):', text)
            assert len(listening) == 3
            assert listening.count("127.0.0.1") >= 2
