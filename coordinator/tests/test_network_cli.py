"""`pilechain init` and `network`: what they write, and what they say to a wrong call."""

import base64
import json
import shutil
import tomllib
from types import SimpleNamespace

import pytest
from world import genesis

from pile_coordinator import network_cli
from pile_coordinator.chain.stake import address_of
from pile_coordinator.cli import main as pilechain
from pile_coordinator.config import load_config, load_genesis
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.store import Store
from pile_coordinator.keys import load_key
from pile_coordinator.network_cli import write_state_sync
from pile_shared.certificate import Header
from pile_shared.errors import ConfigError, LinkError


@pytest.fixture
def network(tmp_path, capsys):
    assert pilechain(["init", str(tmp_path / "net"), "--validators", "4", "--first-port", "23000", "--json"]) == 0
    return tmp_path / "net", json.loads(capsys.readouterr().out)


def test_a_network_belongs_together(network):
    folder, said = network
    chains = set()
    for node, config in said["nodes"].items():
        loaded = load_config(folder / node / "coordinator.toml")
        assert str(folder / node / "coordinator.toml") == config
        home = Home(loaded.comet.home)
        assert list(loaded.attestation) == [node]
        document = home.genesis()
        assert document["chain_id"] == loaded.genesis.chain_id == said["chain"]
        assert loaded.genesis.hash().hex() == said["genesis"]
        keys = home.consensus_keys()
        assert {row["name"]: row["address"] for row in document["validators"]} == {
            party: address_of(key).hex().upper() for party, key in keys.items()
        }
        own = json.loads((home.path / "config" / "priv_validator_key.json").read_text())
        assert own["address"] == address_of(keys[node]).hex().upper()
        written = tomllib.loads((home.path / "config" / "config.toml").read_text())
        assert len(written["p2p"]["persistent_peers"].split(",")) == 3
        assert not any("0.0.0.0" in str(value) for value in (written, written["p2p"], written["rpc"]))
        chains.add(json.dumps(document))
    assert len(chains) == 1


def test_a_genesis_file_is_kept_but_for_its_nodes(tmp_path):
    given = genesis()
    (tmp_path / "genesis.json").write_text(json.dumps(given.to_json()))
    words = ["init", str(tmp_path / "net"), "--genesis", str(tmp_path / "genesis.json"), "--names", "b,a"]
    assert pilechain(words) == 0
    made = load_genesis(tmp_path / "net" / "a" / "genesis.json")
    assert [validator.party for validator in made.validators] == ["a", "b"]
    assert (made.params, made.tariff, made.parties, made.notes) == (
        given.params,
        given.tariff,
        given.parties,
        given.notes,
    )


def test_a_node_that_comes_later_knows_the_chain_and_has_keys_of_its_own(network, capsys, tmp_path):
    folder, _ = network
    like = folder / "node-2"
    shutil.rmtree(like / "keys")  # what a friend may send
    (like / "node" / "config" / "node_key.json").unlink()
    (like / "node" / "config" / "priv_validator_key.json").unlink()
    words = ["network", "add", str(tmp_path / "south"), "--like", str(like), "--first-port", "23100", "--json"]
    peer = f"{'ab' * 20}@10.0.0.9:26656"
    assert pilechain([*words, "--peer", peer, "--address", "10.0.0.5"]) == 0
    said = json.loads(capsys.readouterr().out)
    loaded, other = load_config(tmp_path / "south" / "coordinator.toml"), load_config(like / "coordinator.toml")
    assert (loaded.genesis.hash(), loaded.broker) == (other.genesis.hash(), other.broker)
    assert (loaded.party, list(loaded.attestation)) == ("", ["south"])
    assert load_key(loaded.attestation["south"]).public.hex() == said["attestation"]
    home = Home(loaded.comet.home)
    assert home.genesis() == Home(like / "node").genesis()
    own = json.loads((home.path / "config" / "priv_validator_key.json").read_text())
    assert base64.b64decode(own["pub_key"]["value"]).hex() == said["consensus"]
    written, theirs = (tomllib.loads((h / "config" / "config.toml").read_text()) for h in (home.path, like / "node"))
    assert written["p2p"]["laddr"] == "tcp://10.0.0.5:23100"
    assert written["p2p"]["persistent_peers"] == f"{theirs['p2p']['persistent_peers']},{peer}"
    assert written["consensus"] == theirs["consensus"]
    secrets = [p for p in (tmp_path / "south").rglob("*key*") if p.is_file()]
    assert len(secrets) == 3
    assert all(p.stat().st_mode & 0o77 == 0 for p in secrets)
    assert pilechain(words) == 2
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("south --like nowhere", "nowhere"),
        ("South! --like LIKE", "validator"),
        ("south --like LIKE --peer somebody", "ID@HOST:PORT"),
        ("south --like ALONE", "--peer"),
        ("south --like LIKE --address here", "not an address"),
        ("south --like PART", "genesis.json"),  # which is found out when something is written already
    ],
)
def test_a_wrong_addition_is_told_and_leaves_nothing(network, capsys, tmp_path, words, told):
    folder, _ = network
    assert pilechain(["init", str(tmp_path / "alone"), "--validators", "1"]) == 0
    (folder / "node-3" / "node" / "config" / "genesis.json").unlink()
    words = (
        words.replace("LIKE", str(folder / "node-2"))
        .replace("PART", str(folder / "node-3"))
        .replace("ALONE", str(tmp_path / "alone" / "node-1"))
    )
    name, *rest = words.split()
    assert pilechain(["network", "add", str(tmp_path / name), *rest]) in {1, 2}
    assert told in capsys.readouterr().err
    assert not list((tmp_path / name).glob("*"))


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ("", (100_000, 10, 3_600_000)),
        ("--note-unit 50000 --denominations 3 --bin-age 60000", (50_000, 3, 60_000)),
        ("--without-notes", None),
    ],
)
def test_a_new_chain_issues_notes_unless_told_otherwise(tmp_path, words, rules):
    assert pilechain(["init", str(tmp_path / "net"), *words.split()]) == 0
    made = load_genesis(tmp_path / "net" / "node-1" / "genesis.json").notes
    assert (made and (made.unit_micro, made.denominations, made.bin_age_ms)) == rules


def test_bonds_make_a_chain_that_elects(tmp_path):
    assert pilechain(["init", str(tmp_path / "net"), "--bond", "2000000000"]) == 0
    made = load_genesis(tmp_path / "net" / "node-1" / "genesis.json")
    assert made.stake is not None
    assert [validator.power for validator in made.validators] == [2000] * 4
    document = Home(tmp_path / "net" / "node-1" / "node").genesis()
    assert {row["power"] for row in document["validators"]} == {"2000"}


WRONG = {
    "--names a,a": "different names",
    "--names A": "validator",
    "--address 10.0.0.1 --address 10.0.0.2": "one for each",
    "--address localhost": "not an address",
    "--first-port 65530": "do not suffice",
    "--broker nowhere": "HOST:PORT",
    "--broker 127.0.0.1:99999": "HOST:PORT",
    "--coordinators 5": "0 to 4",
    "--coordinators -1": "0 to 4",
    "--names parties,b": "cannot be called",
    "--validators 0": "1 to 100",
    "--bond 5": "min_self_bond",
    "--bond 2000000000 --names grid,b,c,d": "a founder is",
    "--genesis nowhere.json": "nowhere.json",
    "--without-notes --denominations 3": "nothing to choose",
    "--genesis some.json --bin-age 1": "its file says",
    "--denominations 33": "notes.denominations",
    "--note-unit 0": "notes.unit_micro",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_call_is_told(tmp_path, capsys, words):
    assert pilechain(["init", str(tmp_path / "net"), *words.split()]) in {1, 2}
    assert WRONG[words] in capsys.readouterr().err
    assert pilechain(["init", str(tmp_path / "net")]) == 0  # nothing is left of the first try


def test_keys_are_never_overwritten(network, capsys):
    folder, _ = network
    assert pilechain(["init", str(folder)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_nodes_that_are_away_are_named(network, capsys):
    folder, _ = network
    assert pilechain(["network", "status", str(folder / "node-1"), str(folder / "node-2")]) == 1
    assert capsys.readouterr().out.count("does not answer") == 2
    assert pilechain(["network", "status", "--json", str(folder / "node-1")]) == 1
    assert "does not answer" in json.loads(capsys.readouterr().out)["error"]
    assert pilechain(["network", "status", str(folder / "nobody")]) == 2


def test_joining_is_refused_where_it_would_do_harm(network):
    folder, _ = network
    servers = ["tcp://127.0.0.1:9", "tcp://127.0.0.1:9"]
    with pytest.raises(ConfigError, match="at least 2"):
        write_state_sync(folder / "node-2", servers[:1])
    with pytest.raises(LinkError, match="does not answer"):  # a node that is to serve may join too: it serves later
        write_state_sync(folder / "node-1", servers)
    with pytest.raises(LinkError, match="does not answer"):
        write_state_sync(folder / "node-2", servers)
    (folder / "node-2" / "data").mkdir()
    path, digest = folder / "node-2" / "data" / "ledger.sqlite", load_genesis(folder / "node-2" / "genesis.json").hash()
    store = Store(path, digest)
    with pytest.raises(
        LinkError, match="does not answer"
    ):  # an empty one, of a node that waited for a snapshot in vain
        write_state_sync(folder / "node-2", servers)
    store.restore(header(load_genesis(folder / "node-2" / "genesis.json")), [], {})
    store.close()
    with pytest.raises(ConfigError, match="holds a ledger"):
        write_state_sync(folder / "node-2", servers)


def header(chain) -> bytes:
    zeros = bytes(32)
    return Header(
        chain_id=chain.chain_id, height=9, time_ms=1, proposer="a", tx_count=0, result_count=0, previous=zeros,
        tx_root=zeros, result_root=zeros, state_root=zeros, validators_hash=zeros, next_validators_hash=zeros,
    ).encoded()  # fmt: skip


class Answers:
    """What two nodes say, in place of their RPC."""

    def __init__(self, snapshots: dict[str, int], hashes: dict[str, str]) -> None:
        self.snapshots, self.hashes = snapshots, hashes

    def __call__(self, server: str):
        said = {
            "status": {"sync_info": {"latest_block_height": "42"}},
            "block": {"block_id": {"hash": self.hashes[server]}},
        }
        return SimpleNamespace(
            call=lambda method, **_: said[method],
            query=lambda _: {"snapshot": self.snapshots[server]},
            close=lambda: None,
        )


def test_a_node_that_joins_trusts_what_all_say_and_hears_if_nobody_has_a_snapshot(network, monkeypatch, capsys):
    folder, _ = network
    path = folder / "node-2" / "node" / "config" / "config.toml"
    before = tomllib.loads(path.read_text())
    monkeypatch.setattr(network_cli, "Rpc", Answers({"a": 0, "b": 0}, {"a": "AB", "b": "AB"}))
    assert pilechain(["network", "join", str(folder / "node-2"), "--rpc", "a", "--rpc", "b"]) == 1
    assert "has a snapshot yet" in capsys.readouterr().err
    monkeypatch.setattr(network_cli, "Rpc", Answers({"a": 0, "b": 40}, {"a": "AB", "b": "CD"}))
    assert pilechain(["network", "join", str(folder / "node-2"), "--rpc", "a", "--rpc", "b"]) == 1
    assert "trust none" in capsys.readouterr().err
    assert tomllib.loads(path.read_text()) == before
    for digest in ("AB", "EF"):  # again, if the first try came to nothing
        monkeypatch.setattr(network_cli, "Rpc", Answers({"a": 0, "b": 40}, {"a": digest, "b": digest}))
        assert pilechain(["network", "join", str(folder / "node-2"), "--rpc", "a", "--rpc", "b"]) == 0
        written = tomllib.loads(path.read_text())
        assert written.pop("statesync") == {
            "enable": True,
            "rpc_servers": "a,b",
            "trust_height": 41,
            "trust_hash": digest,
            "discovery_time": "5s",
        }
        assert written == {key: value for key, value in before.items() if key != "statesync"}


def test_a_node_that_waits_for_a_snapshot_is_not_called_away(network, monkeypatch, capsys):
    """CometBFT knows no validators before it has a block."""
    folder, _ = network

    def call(method: str, **_):
        assert method != "validators"
        info = {"latest_block_height": "0", "catching_up": True, "latest_block_time": "1970-01-01T00:00:00Z"}
        info["earliest_block_height"] = "0"
        return {
            "status": {"sync_info": info, "validator_info": {"voting_power": "0"}, "node_info": {"moniker": "node-2"}},
            "net_info": {"n_peers": "3"},
        }[method]

    facts = {"chain": "c", "height": 0, "certified": 0, "comet_height": 0, "app_hash": "ab" * 32}
    facts |= {"snapshot": 0, "first_height": 1}
    node = SimpleNamespace(call=call, query=lambda _: facts, close=lambda: None)
    monkeypatch.setattr(network_cli, "Rpc", lambda _: node)
    assert pilechain(["network", "status", str(folder / "node-2")]) == 0
    said = capsys.readouterr().out
    assert "node-2 (catching up)" in said
    assert "abababababababab" in said


@pytest.mark.parametrize(
    ("rows", "status"),
    [([(7, "aa"), (7, "aa")], 0), ([(7, "aa"), (8, "bb")], 0), ([(7, "aa"), (7, "bb")], 1), ([(7, "aa"), None], 1)],
)
def test_nodes_that_differ_at_one_height_are_a_failure(monkeypatch, capsys, rows, status):
    said = {
        f"n{i}": {"comet_height": row[0], "app_hash": row[1]} if row else {"error": "away"}
        for i, row in enumerate(rows)
    }
    monkeypatch.setattr(network_cli, "node_status", lambda folder: said[str(folder)])
    assert pilechain(["network", "status", "--json", *said]) == status
    assert capsys.readouterr().out


def test_run_says_what_it_needs(network, monkeypatch, capsys, tmp_path):
    folder, _ = network
    config = str(folder / "node-2" / "coordinator.toml")
    assert pilechain(["run", "--config", config, "--engine", "solo"]) == 2
    assert 'engine = "comet"' in capsys.readouterr().err
    for name in ("PATH", "GOBIN", "GOPATH", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert pilechain(["run", "--config", config]) == 2
    assert "go install" in capsys.readouterr().err


def test_a_comet_configuration_names_its_mistakes(network, capsys):
    folder, _ = network
    path = folder / "node-1" / "coordinator.toml"
    text = path.read_text()
    for old, new, told in (
        ('engine = "comet"', 'engine = "raft"', "solo or comet"),
        ("snapshot_interval = 1000", "snapshot_interval = -1", "heights from 0"),
        ('key = "keys/coordinator.key"', "", "key is missing"),
        ("[comet]", "[comets]", "table [comet] is missing"),
        ('home = "node"', 'home = "node"\nhouse = 1', "unknown key comet.house"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert told in str(caught.value)


def test_status_says_how_much_history_a_node_has(monkeypatch, capsys):
    row = {
        "node": "n", "name": "grid", "chain": "c", "height": 90, "certified": 90, "comet_height": 95, "app_hash": "ab" * 32,
        "catching_up": False, "peers": 3, "power": 1, "total_power": 4, "last_block": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    said = {}
    for first_height in (1, 41):
        monkeypatch.setattr(network_cli, "node_status", lambda _, f=first_height: row | {"first_height": f})
        assert pilechain(["network", "status", "n"]) == 0
        said[first_height] = capsys.readouterr().out
    assert "history" not in said[1]
    assert "grid: history from block 41; it fetches what was before" in said[41]
