"""Writes what a network of accounting nodes starts from: keys, genesis files, a folder for each node.

Each folder is all that its party needs, and holds no key of another. Every address is 127.0.0.1 unless given; nothing ever
listens on all of a machine's addresses unless that is what was given.
"""

import base64
import ipaddress
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pile_coordinator.chain.founding import founding_from_json
from pile_coordinator.chain.genesis import Genesis, genesis_from_json
from pile_coordinator.chain.stake import address_of
from pile_coordinator.config import RETAIN_BLOCKS, load_genesis, load_toml
from pile_coordinator.engines.comet.bundle import MAX_ENTRY_BYTES
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.keys import make_key
from pile_shared.certificate import MAX_VALIDATORS
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.units import check_id

PORTS_PER_NODE = 3  # P2P, RPC, application
FIRST_PORT = 26656
MAX_BLOCK_BYTES = 2 << 20  # some 8,000 proofs: about a second's work for one core
MAX_MEMPOOL_BYTES = 64 << 20
EVIDENCE_BLOCKS, EVIDENCE_HOURS = 100_000, 48


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Where one accounting node listens: its party, address, and ports for P2P, RPC and the application."""

    party: str
    host: str
    p2p_port: int
    rpc_port: int
    app_port: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast blocks follow each other, in ms.

    Attributes:
        commit_ms: wait after a block. propose_ms: for a proposal. vote_ms: for votes when they disagree.
        idle_ms: between blocks of CometBFT while nothing is to be done; deadlines are looked at then.
    """

    commit_ms: int = 1000
    propose_ms: int = 3000
    vote_ms: int = 1000
    idle_ms: int = 5000


@dataclass(frozen=True, slots=True)
class Stake:
    """How a chain elects its nodes: the rules of docs/stake.md, each founder's bond, and what it keeps of rewards."""

    rules: Mapping[str, object]
    bond_micro: int
    commission_permille: int = 0


def plan_nodes(parties: Sequence[str], hosts: Sequence[str], first_port: int) -> list[NodePlan]:
    """Addresses for nodes; one host for all or one for each.

    Raises:
        ConfigError: too few or many nodes, repeated or malformed names, hosts that are no addresses.
    """
    if not 1 <= len(parties) <= MAX_VALIDATORS or len(set(parties)) != len(parties):
        raise ConfigError(f"a network has 1 to {MAX_VALIDATORS} accounting nodes of different names")
    if len(hosts) not in {1, len(parties)}:
        raise ConfigError(f"give one address for all nodes or one for each of the {len(parties)}")
    for party in parties:
        check_id("validator", party)
    for host in hosts:
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ConfigError(f"{host!r} is not an address; expected one like 10.0.0.7") from error
    plans, used = [], dict.fromkeys(hosts, first_port)
    for number, party in enumerate(sorted(parties)):
        host = hosts[0] if len(hosts) == 1 else hosts[number]
        port = used[host]
        used[host] = port + PORTS_PER_NODE
        if port + PORTS_PER_NODE > 65_536:
            raise ConfigError(f"the ports from {first_port} do not suffice for {len(parties)} nodes")
        plans.append(NodePlan(party, host, port, port + 1, port + 2))
    return plans


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """An error in what writes into an empty folder leaves it empty: keys are never overwritten, and people try again."""
    try:
        yield
    except PilechainError:
        for left in folder.glob("*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        raise


def write_network(
    out: Path,
    document: dict[str, object],
    plans: Sequence[NodePlan],
    pace: Pace,
    *,
    broker: tuple[str, int],
    serving: Mapping[str, str],
    stake: Stake | None = None,
    retain_blocks: int = RETAIN_BLOCKS,
) -> Genesis:
    """Write a network below `out`, one folder for each node.

    Args:
        out: the folder.
        document: a genesis in its JSON form; its validators are replaced by these nodes, of power 1 each or as elected.
        plans: of the nodes, in order of party.
        pace: of blocks.
        broker: host and port of the MQTT broker.
        serving: parties of genesis as which nodes serve piles and wallets, by node; keys/coordinator.key is theirs.
        stake: for a chain that elects its nodes: what each puts up. The nodes are parties of genesis then.
        retain_blocks: heights whose blocks CometBFT keeps at least; 0 for all.

    Raises:
        ConfigError: a key is there already, or the genesis is not well formed.
    """
    attesters = {plan.party: make_key(out / plan.party / "keys" / "attest.key") for plan in plans}
    keys = {plan.party: Ed25519PrivateKey.generate() for plan in plans}
    publics = {party: signer.public for party, signer in attesters.items()}
    if stake is None:
        document["validators"] = [{"party": p, "public": publics[p].hex(), "power": 1} for p in sorted(publics)]
    else:
        _elect(document, stake, publics, {party: _public(key) for party, key in keys.items()})
    genesis = genesis_from_json(document)
    node_keys = {plan.party: Ed25519PrivateKey.generate() for plan in plans}
    comet = json.dumps(_comet_genesis(genesis, {party: _public(key) for party, key in keys.items()}), indent=2) + "\n"
    for plan in plans:
        folder = out / plan.party
        _write(folder / "genesis.json", json.dumps(document, indent=2) + "\n")
        _write(folder / "node" / "config" / "genesis.json", comet)
        _write_keys(folder / "node", keys[plan.party], node_keys[plan.party])
        peers = [
            f"{address_of(_public(node_keys[other.party])).hex()}@{_host(other)}:{other.p2p_port}"
            for other in plans
            if other is not plan
        ]
        _write(folder / "node" / "config" / "config.toml", comet_config(plan, peers, pace))
        _write(folder / "coordinator.toml", _coordinator_config(plan, broker, serving.get(plan.party), retain_blocks))
    return genesis


def add_node(
    folder: Path,
    plan: NodePlan,
    like: Path,
    peers: Sequence[str],
    *,
    broker: tuple[str, int],
    retain_blocks: int = RETAIN_BLOCKS,
) -> tuple[bytes, bytes]:
    """Write the folder of a node that was not there when its network was written: it knows the chain, and has keys of its own.

    Args:
        folder: for it; must not be there, or be empty.
        plan: where it listens.
        like: the folder of another node, of which nothing secret is read: genesis, peers and pace are those of it.
        peers: `id@host:port` of more nodes to connect to.
        broker: host and port of the MQTT broker.
        retain_blocks: heights whose blocks CometBFT keeps at least; 0 for all.

    Returns:
        The public keys with which it may stand for election: the ed25519 key of its votes, the P-256 key of its attestations.

    Raises:
        ConfigError: `like` is no such folder, or nobody would be connected to.
    """
    settings = load_toml(like / "node" / "config" / "config.toml")
    load_genesis(like / "genesis.json")  # refuses what is none
    found = _of(settings, "p2p").get("persistent_peers", "")
    others = [*(peer for peer in str(found).split(",") if peer), *peers]
    if not others:
        raise ConfigError(f"{like} knows no other node; name one to connect to with --peer ID@HOST:PORT")
    pace = _pace(_of(settings, "consensus"))
    attester, key = make_key(folder / "keys" / "attest.key"), Ed25519PrivateKey.generate()
    home = folder / "node"
    _write(folder / "genesis.json", (like / "genesis.json").read_text())
    _write(home / "config" / "genesis.json", json.dumps(Home(like / "node").genesis(), indent=2) + "\n")
    _write_keys(home, key, Ed25519PrivateKey.generate())
    _write(home / "config" / "config.toml", comet_config(plan, others, pace))
    _write(folder / "coordinator.toml", _coordinator_config(plan, broker, None, retain_blocks))
    return _public(key), attester.public


def _of(settings: dict[str, object], section: str) -> dict[str, object]:
    found = settings.get(section)
    return found if isinstance(found, dict) else {}


def _pace(consensus: dict[str, object]) -> Pace:
    """The pace that a configuration of ours has; CometBFT's other forms of a duration are left to people."""

    def ms(name: str, default: int) -> int:
        digits = str(consensus.get(name, "")).removesuffix("ms")
        return int(digits) if digits.isdecimal() else default

    usual = Pace()
    return Pace(
        commit_ms=ms("timeout_commit", usual.commit_ms),
        propose_ms=ms("timeout_propose", usual.propose_ms),
        vote_ms=ms("timeout_prevote", usual.vote_ms),
        idle_ms=ms("create_empty_blocks_interval", usual.idle_ms),
    )


def _elect(document: dict[str, object], stake: Stake, attesting: dict[str, bytes], consensus: dict[str, bytes]) -> None:
    """Put rules, candidates and the validators that they elect into a genesis in its JSON form."""
    candidates = [
        {
            "party": party,
            "consensus": consensus[party].hex(),
            "attestation": attesting[party].hex(),
            "commission_permille": stake.commission_permille,
            "bond_micro": stake.bond_micro,
        }
        for party in sorted(attesting)
    ]
    document["stake"] = {"rules": dict(stake.rules), "candidates": candidates}
    rows = cast("list[dict[str, str]]", document["parties"])
    parties = tuple((row["id"], row["role"], bytes.fromhex(row["public"])) for row in rows)
    elected = founding_from_json(document["stake"], parties).validators()
    document["validators"] = [{"party": v.party, "public": v.public.hex(), "power": v.power} for v in elected]


def comet_config(plan: NodePlan, peers: Sequence[str], pace: Pace, *, statesync: str = "") -> str:
    """A node's config.toml: what differs from CometBFT's defaults, with the reasons."""
    is_local = ipaddress.ip_address(plan.host).is_private
    relaxed = "true" if is_local else "false"
    return f"""\
# Written by `pilechain init` for {plan.party}; everything else has CometBFT's defaults.
proxy_app = "tcp://127.0.0.1:{plan.app_port}"
moniker = "{plan.party}"
log_level = "error"

[rpc]
laddr = "tcp://127.0.0.1:{plan.rpc_port}"  # for this machine only: it can submit transactions

[p2p]
laddr = "tcp://{_host(plan)}:{plan.p2p_port}"
persistent_peers = "{",".join(peers)}"
pex = false  # an alliance knows its nodes
addr_book_strict = {"false" if is_local else "true"}
allow_duplicate_ip = {relaxed}

[mempool]
type = "flood"
max_txs_bytes = {MAX_MEMPOOL_BYTES}
max_tx_bytes = {MAX_ENTRY_BYTES}

[statesync]
{statesync or "enable = false"}

[consensus]
timeout_propose = "{pace.propose_ms}ms"
timeout_prevote = "{pace.vote_ms}ms"
timeout_precommit = "{pace.vote_ms}ms"
timeout_commit = "{pace.commit_ms}ms"
create_empty_blocks = false
create_empty_blocks_interval = "{pace.idle_ms}ms"  # deadlines pass meanwhile; below 5 min, or it is taken for stuck

[tx_index]
indexer = "null"  # the evidence database knows better

[instrumentation]
prometheus = false
"""


def _coordinator_config(plan: NodePlan, broker: tuple[str, int], party: str | None, retain_blocks: int) -> str:
    off = "" if party else "# "
    return f"""\
genesis = "genesis.json"
data = "data"
engine = "comet"
{off}party = "{party or "..."}"  # with key: serve piles and wallets too, as this grid or operator party
{off}key = "keys/coordinator.key"

[attestation]
{plan.party} = "keys/attest.key"

[comet]
home = "node"
snapshot_interval = 1000              # heights of CometBFT between snapshots for nodes that join; 0 for none
retain_blocks = {retain_blocks}                # heights that CometBFT keeps at least, for nodes that were away; 0 for all

[mqtt]
host = "{broker[0]}"
port = {broker[1]}
"""


def _comet_genesis(genesis: Genesis, keys: dict[str, bytes]) -> dict[str, object]:
    """CometBFT's genesis file; validators are named by party, and consensus parameters are those of docs/network.md."""
    began = datetime.fromtimestamp(genesis.time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    validators = [
        {
            "address": address_of(keys[validator.party]).hex().upper(),
            "pub_key": {"type": "tendermint/PubKeyEd25519", "value": _base64(keys[validator.party])},
            "power": str(validator.power),
            "name": validator.party,
        }
        for validator in genesis.validators
    ]
    rules = genesis.stake.rules if genesis.stake is not None else None  # what is punished must still be shown
    evidence_blocks = rules.evidence_age_blocks if rules else EVIDENCE_BLOCKS
    evidence_ns = (rules.evidence_age_ms if rules else EVIDENCE_HOURS * 3_600_000) * 1_000_000
    return {
        "genesis_time": f"{began}.{genesis.time_ms % 1000:03d}Z",
        "chain_id": genesis.chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(MAX_BLOCK_BYTES), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": str(evidence_blocks),
                "max_age_duration": str(evidence_ns),
                "max_bytes": "65536",
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "0"},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "validators": validators,
        "app_hash": "",
    }


def _host(plan: NodePlan) -> str:
    return f"[{plan.host}]" if ":" in plan.host else plan.host


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _private(key: Ed25519PrivateKey) -> dict[str, str]:
    return {"type": "tendermint/PrivKeyEd25519", "value": _base64(key.private_bytes_raw() + _public(key))}


def _node_key(key: Ed25519PrivateKey) -> str:
    return json.dumps({"priv_key": _private(key)}) + "\n"


def _validator_key(key: Ed25519PrivateKey) -> str:
    public = _public(key)
    document = {
        "address": address_of(public).hex().upper(),
        "pub_key": {"type": "tendermint/PubKeyEd25519", "value": _base64(public)},
        "priv_key": _private(key),
    }
    return json.dumps(document, indent=2) + "\n"


def _write_keys(home: Path, key: Ed25519PrivateKey, node_key: Ed25519PrivateKey) -> None:
    """What votes and what is known to peers, and that nothing was voted yet."""
    _write(home / "config" / "priv_validator_key.json", _validator_key(key), secret=True)
    _write(home / "config" / "node_key.json", _node_key(node_key), secret=True)
    _write(home / "data" / "priv_validator_state.json", '{"height": "0", "round": 0, "step": 0}\n', secret=True)


def _write(path: Path, text: str, *, secret: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600 if secret else 0o644)
    path.write_text(text)
