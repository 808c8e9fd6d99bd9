"""`pilechain init` writes a network of accounting nodes; `pilechain network` looks at one that runs."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from pile_coordinator import network_add_cli
from pile_coordinator.clock import Clock
from pile_coordinator.config import MAX_RETAIN_BLOCKS, RETAIN_BLOCKS, load_genesis
from pile_coordinator.engines.comet.home import Home
from pile_coordinator.engines.comet.network import FIRST_PORT, Pace, Stake, all_or_nothing, plan_nodes, write_network
from pile_coordinator.engines.comet.rpc import Rpc
from pile_coordinator.engines.store import Store
from pile_coordinator.keys import make_key
from pile_coordinator.new_chain import FOUNDERS, NOTES, STAKE_RULES, founding_document
from pile_shared.errors import ConfigError, LinkError

PARTIES = "parties"  # the folder with the founders' keys
STATUS_WIDTH = 132
MIN_SERVERS = 2  # CometBFT's light client compares a primary with a witness

_INIT = """\
Write a network of accounting nodes that settle one chain together: a genesis file, and a folder for each node with its
attestation key, CometBFT's keys and both configurations. Give each folder to its party; none holds another's keys. While more
than two thirds of the nodes run, blocks go on: of 4, one may be away or lie."""

_STATUS = """\
Ask accounting nodes how they are: our height, CometBFT's, the app hash at its height, peers, and voting power. A node's RPC
listens on its own machine only, so this is asked there; on one machine all folders of a network can be given."""


_JOIN = """\
Write the height and block hash that a node is to trust into its CometBFT configuration: when it starts it fetches a snapshot
from the others, checks it against the chain of blocks from there, and goes on. All the nodes asked must name the same hash;
compare it with one you got from somebody you trust. Blocks from before its snapshot it fetches afterwards, while it runs; until
it has them all it serves no piles and wallets. `pilechain network status` says how far it is."""


_NOTE_OPTIONS = (
    (
        "--note-unit",
        "unit_micro",
        "what the least note is worth, in 10^-6 of the currency; each further one twice as much",
    ),
    ("--denominations", "denominations", "how many kinds of notes there are, 1 to 32"),
    ("--bin-age", "bin_age_ms", "for how long a full bin's notes cannot be spent yet, in milliseconds"),
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `init` and `network` to the command line."""
    _add_init(commands)
    network = commands.add_parser("network", help="look at a network of accounting nodes")
    actions = network.add_subparsers(required=True, metavar="ACTION")
    status = actions.add_parser(
        "status",
        help="heights, app hashes, peers, power",
        description=_STATUS,
        epilog="Example: pilechain network status network/node-*\n"
        "Exit status: 0 all nodes answer and agree, 1 one is away or differs, 2 called wrongly.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("nodes", nargs="+", type=Path, metavar="FOLDER", help="a node's folder, as init wrote it")
    status.add_argument("--json", action="store_true", help="one JSON object per node")
    status.set_defaults(run=_status)
    join = actions.add_parser(
        "join",
        help="let a new or empty node begin with a snapshot instead of all blocks",
        description=_JOIN,
        epilog="Example: pilechain network join network/node-4 --rpc tcp://10.0.0.1:26657 --rpc tcp://10.0.0.2:26657",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    join.add_argument("node", type=Path, metavar="FOLDER", help="the node's folder, as init wrote it; it must not run")
    join.add_argument(
        "--rpc", action="append", required=True, metavar="URL", help="RPC of a node that runs; give at least two"
    )
    join.add_argument("--json", action="store_true", help="one JSON object")
    join.set_defaults(run=_join)
    network_add_cli.add_command(actions)


def _add_init(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    init = commands.add_parser(
        "init",
        help="write a network of accounting nodes, or a site (pilechain init site --help)",
        description=_INIT,
        epilog="Example: pilechain init network --validators 4\n"
        "         pilechain run --config network/node-1/coordinator.toml    (and so on, one for each node)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    init.add_argument("out", type=Path, metavar="FOLDER", help="where to write; must not exist, or be empty")
    init.add_argument("--validators", type=int, default=4, metavar="N", help="accounting nodes (default: 4)")
    init.add_argument("--names", metavar="A,B,...", help="their names (default: node-1, node-2, ...)")
    init.add_argument(
        "--coordinators", type=int, default=1, metavar="N", help="of these, the first N serve piles and wallets (1)"
    )
    init.add_argument(
        "--genesis",
        type=Path,
        metavar="FILE",
        help="take name, parameters, tariff, parties and notes from this genesis; then every party has its key already,"
        " and a node that is to serve needs party and key in its coordinator.toml",
    )
    init.add_argument(
        "--bond",
        type=int,
        metavar="MICRO",
        help="elect the nodes by stake: each founder puts up this much, in 10^-6 of the currency (docs/stake.md);"
        " without it the nodes stay as they are for ever",
    )
    notes = init.add_argument_group("anonymous payment", "notes of a new chain (docs/anonymity.md)")
    notes.add_argument("--without-notes", action="store_true", help="nobody pays anonymously on this chain")
    for option, key, what in _NOTE_OPTIONS:
        notes.add_argument(option, type=int, metavar="N", dest=key, help=f"{what} (default: {NOTES[key]})")
    init.add_argument("--chain", default="pilechain", metavar="NAME", help="name of the chain (default: pilechain)")
    init.add_argument(
        "--address",
        action="append",
        metavar="IP",
        help="where a node listens for the others; once for all nodes or once for each (default: 127.0.0.1)",
    )
    init.add_argument(
        "--first-port",
        type=int,
        default=FIRST_PORT,
        metavar="PORT",
        help=f"three ports for each node of an address: P2P, RPC, application (default: from {FIRST_PORT})",
    )
    init.add_argument(
        "--retain-blocks",
        type=int,
        default=RETAIN_BLOCKS,
        metavar="N",
        help="heights whose blocks CometBFT keeps at least, for nodes that were away; our own ledger keeps every block, and 0"
        f" has CometBFT do so too (default: {RETAIN_BLOCKS})",
    )
    init.add_argument("--broker", default="127.0.0.1:1883", metavar="HOST:PORT", help="the MQTT broker")
    init.add_argument("--json", action="store_true", help="one JSON object")
    init.set_defaults(run=_init)


def _init(options: argparse.Namespace) -> int:
    names = options.names.split(",") if options.names else [f"node-{i + 1}" for i in range(options.validators)]
    plans = plan_nodes(names, options.address or ["127.0.0.1"], options.first_port)
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; a network's keys are never overwritten, choose another folder")
    if PARTIES in names:
        raise ConfigError(f"a node cannot be called {PARTIES}: the founders' keys are in the folder of that name")
    if not 0 <= options.coordinators <= len(plans):
        raise ConfigError(f"--coordinators {options.coordinators} is wrong; expected 0 to {len(plans)}, of the nodes")
    if not 0 <= options.retain_blocks <= MAX_RETAIN_BLOCKS:
        raise ConfigError(f"--retain-blocks {options.retain_blocks} is wrong; expected 0 to {MAX_RETAIN_BLOCKS}")
    serving = {} if options.genesis else {p.party: f"coordinator-{p.party}" for p in plans[: options.coordinators]}
    broker = _broker(options.broker)
    with all_or_nothing(out):
        document = _document(options, out, serving, names)
        stake = None if options.bond is None else Stake(STAKE_RULES, options.bond)
        genesis = write_network(
            out,
            document,
            plans,
            Pace(),
            broker=broker,
            serving=serving,
            stake=stake,
            retain_blocks=options.retain_blocks,
        )
    facts = {
        "chain": genesis.chain_id,
        "genesis": genesis.hash().hex(),
        "nodes": {plan.party: str(out / plan.party / "coordinator.toml") for plan in plans},
    }
    if options.json:
        Console().print_json(json.dumps(facts))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[green]chain {genesis.chain_id}[/], fingerprint {genesis.hash().hex()}")
    for plan in plans:
        serves = f", serves piles and wallets as {serving[plan.party]}" if plan.party in serving else ""
        console.print(f"  {out / plan.party}: P2P {plan.host}:{plan.p2p_port}, RPC 127.0.0.1:{plan.rpc_port}{serves}")
    if options.genesis is None:
        console.print(f"  {out / PARTIES}: keys of {', '.join(FOUNDERS)}; give each to its party")
    console.print(f"start each with: pilechain run --config {out / plans[0].party / 'coordinator.toml'}")
    return 0


def _broker(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ConfigError(f"--broker {text!r} is wrong; expected HOST:PORT")
    return host, int(port)


def _document(
    options: argparse.Namespace, out: Path, serving: dict[str, str], names: Sequence[str]
) -> dict[str, object]:
    """The genesis to begin with: that which was given, or a new one."""
    notes = _note_rules(options)
    if options.genesis is not None:
        return _read_genesis(options.genesis)
    return _found(out, options.chain, serving, names if options.bond is not None else [], notes)


def _read_genesis(path: Path) -> dict[str, object]:
    try:
        return cast("dict[str, object]", json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; expected a genesis file, see docs/operator.md") from error


def _found(
    out: Path, chain: str, serving: dict[str, str], candidates: Sequence[str], notes: dict[str, int] | None
) -> dict[str, object]:
    """A genesis of new parties, whose keys are written; `candidates` are nodes that stand for election."""
    parties = {party: (role, make_key(out / PARTIES / f"{party}.key").public.hex()) for party, role in FOUNDERS.items()}
    for node, party in serving.items():
        parties[party] = ("operator", make_key(out / node / "keys" / "coordinator.key").public.hex())
    for node in candidates:
        if node in parties:
            raise ConfigError(f"a node cannot be called {node} where nodes are elected: a founder is")
        parties[node] = ("operator", make_key(out / node / "keys" / "party.key").public.hex())
    return founding_document(chain, Clock().now_ms(), dict(sorted(parties.items())), notes)


def _note_rules(options: argparse.Namespace) -> dict[str, int] | None:
    """Rules of notes as asked for; ConfigError if they are asked for where there are none to choose."""
    asked = {key: getattr(options, key) for _, key, _ in _NOTE_OPTIONS if getattr(options, key) is not None}
    if (asked or options.without_notes) and options.genesis is not None:
        raise ConfigError("notes are of a new chain; with --genesis its file says what they are")
    if asked and options.without_notes:
        raise ConfigError("--without-notes leaves nothing to choose about notes; leave it or the others out")
    return None if options.without_notes else {**NOTES, **asked}


# --- join ----------------------------------------------------------------------------------------------------------------


def _join(options: argparse.Namespace) -> int:
    height, digest = write_state_sync(options.node, options.rpc)
    if options.json:
        Console().print_json(json.dumps({"trust_height": height, "trust_hash": digest}))
    else:
        Console(highlight=False, soft_wrap=True).print(
            f"trusts block {height}, hash {digest}: compare it, then start the node"
        )
    return 0


def write_state_sync(folder: Path, servers: Sequence[str]) -> tuple[int, str]:
    """Make an empty node begin with a snapshot; the CometBFT height and block hash that it will trust.

    Raises:
        ConfigError: fewer than two servers, which CometBFT demands, or the node has a ledger already.
        LinkError: a server does not answer, has no such block, or another one, or none of them has a snapshot.
    """
    if len(servers) < MIN_SERVERS:
        raise ConfigError(f"give --rpc at least {MIN_SERVERS} times: one node alone could lie")
    if _has_blocks(folder):
        raise ConfigError(f"{folder / 'data'} holds a ledger already; a node with one catches up by itself")
    height, hashes, snapshot = 0, set(), 0
    for server in servers:
        rpc = Rpc(server)
        try:
            snapshot = max(snapshot, rpc.query("status").get("snapshot", 0))
            height = height or max(1, int(rpc.call("status")["sync_info"]["latest_block_height"]) - 1)
            hashes.add(rpc.call("block", height=str(height))["block_id"]["hash"])
        finally:
            rpc.close()
    if len(hashes) > 1:
        raise LinkError(
            f"the nodes have different blocks at {height}: {', '.join(sorted(hashes))}; trust none", "forked"
        )
    if not snapshot:
        raise LinkError(
            "none of these nodes has a snapshot yet; try again when one has (each takes one every `snapshot_interval` heights"
            " of CometBFT), or just start the node: it fetches all blocks",
            "no_snapshot",
        )
    (digest,) = hashes
    path = folder / "node" / "config" / "config.toml"
    trust = f'trust_height = {height}\ntrust_hash = "{digest}"'
    section = f'enable = true\nrpc_servers = "{",".join(servers)}"\n{trust}\ndiscovery_time = "5s"\n'
    text, count = re.subn(r"(?<=\[statesync\]\n)[^\[]*", section + "\n", path.read_text())
    if count != 1:
        raise ConfigError(f"{path} has no section [statesync]; write the node's folder with: pilechain init")
    path.write_text(text)
    return height, digest


def _has_blocks(folder: Path) -> bool:
    """Whether a node's ledger holds anything; one that waited for a snapshot in vain has an empty one."""
    path = folder / "data" / "ledger.sqlite"
    if not path.exists():
        return False
    store = Store(path, load_genesis(folder / "genesis.json").hash(), read_only=True)
    try:
        return store.height() > 0
    finally:
        store.close()


# --- status --------------------------------------------------------------------------------------------------------------


def _status(options: argparse.Namespace) -> int:
    found = [node_status(folder) for folder in options.nodes]
    if options.json:
        for row in found:
            Console(soft_wrap=True).print_json(json.dumps(row))
    else:
        _print_status(found)
    by_height: dict[object, set[object]] = {}
    for row in found:
        by_height.setdefault(row.get("comet_height"), set()).add(row.get("app_hash"))
    agree = all(len(hashes) == 1 for hashes in by_height.values())
    return 0 if agree and not any("error" in row for row in found) else 1


def node_status(folder: Path) -> dict[str, Any]:
    """What a node says of itself; `error` in place of it all if it does not answer."""
    home = Home(folder / "node" if (folder / "node").is_dir() else folder)
    rpc = Rpc(home.rpc_address())
    row: dict[str, Any] = {"node": str(folder), "rpc": home.rpc_address()}
    try:
        status, peers, ours = rpc.call("status"), rpc.call("net_info"), rpc.query("status")
        sync, me = status["sync_info"], status["validator_info"]
        validators = rpc.call("validators", per_page="100")["validators"] if int(sync["latest_block_height"]) else []
    except LinkError as error:
        return row | {"error": str(error)}
    finally:
        rpc.close()
    powers = [int(validator["voting_power"]) for validator in validators]
    return row | {
        "name": status["node_info"]["moniker"],
        "chain": ours["chain"],
        "height": ours["height"],
        "certified": ours["certified"],
        "first_height": ours["first_height"],
        "comet_height": ours["comet_height"],
        "snapshot": ours["snapshot"],
        "comet_first_height": int(sync["earliest_block_height"]),
        "app_hash": ours["app_hash"],
        "catching_up": sync["catching_up"],
        "peers": int(peers["n_peers"]),
        "power": int(me["voting_power"]),
        "total_power": sum(powers),
        "last_block": sync["latest_block_time"],
    }


def _print_status(found: list[dict[str, Any]]) -> None:
    table, notes = Table(box=None, pad_edge=False), []
    for column in ("node", "height", "certified", "CometBFT", "app hash", "peers", "power", "last block"):
        table.add_column(column, justify="right" if column in {"height", "certified", "CometBFT", "peers"} else "left")
    for row in found:
        if "error" in row:
            notes.append(f"[red]{row['node']}: {row['error']}[/]")
            continue
        if row["first_height"] > 1:
            notes.append(f"{row['name']}: history from block {row['first_height']}; it fetches what was before")
        name = f"{row['name']}{' (catching up)' if row['catching_up'] else ''}"
        power = f"{row['power']} of {row['total_power']}"
        heights = (str(row["height"]), str(row["certified"]), str(row["comet_height"]))
        table.add_row(name, *heights, row["app_hash"][:16], str(row["peers"]), power, row["last_block"][:19])
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, STATUS_WIDTH)  # rather two lines than half an app hash
    console.print(table)
    for line in notes:
        console.print(line)
