"""`pilechain network add` writes the folder of a node that was not there when its network was written."""

import argparse
import json
import re
from pathlib import Path

from rich.console import Console

from pile_coordinator.config import load_config
from pile_coordinator.engines.comet.network import FIRST_PORT, add_node, all_or_nothing, plan_nodes
from pile_shared.errors import ConfigError

_ADD = """\
Write the folder of one more node of a network that exists: keys of its own; genesis, peers, pace and broker as another node's
folder has them. Nothing secret of that is read, so a copy without its keys will do. The node follows the chain. Where nodes are
elected it votes once its party has registered it as a candidate, with the two keys that are printed, and is elected."""

_PEER = re.compile(r"[0-9a-f]{40}@\S+:\d{1,5}")


def add_command(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `add` to `pilechain network`."""
    add = actions.add_parser(
        "add",
        help="write the folder of a node that comes later",
        description=_ADD,
        epilog="Example: pilechain network add south --like network/node-1 --address 10.0.0.5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument(
        "node", type=Path, metavar="FOLDER", help="where to write; its name is the node's, and its party's"
    )
    add.add_argument("--like", type=Path, required=True, metavar="FOLDER", help="another node's folder")
    add.add_argument(
        "--address", default="127.0.0.1", metavar="IP", help="where it listens for the others (default: 127.0.0.1)"
    )
    add.add_argument(
        "--first-port",
        type=int,
        default=FIRST_PORT,
        metavar="PORT",
        help=f"three ports: P2P, RPC, application (default: from {FIRST_PORT})",
    )
    add.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="ID@HOST:PORT",
        help="connect to this node too, by its CometBFT id",
    )
    add.add_argument("--json", action="store_true", help="one JSON object")
    add.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    folder: Path = options.node
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; a node's keys are never overwritten, choose another folder")
    for peer in options.peer:
        if not _PEER.fullmatch(peer):
            raise ConfigError(f"--peer {peer!r} is wrong; expected ID@HOST:PORT, where ID has 40 hex digits")
    (plan,) = plan_nodes([folder.resolve().name], [options.address], options.first_port)
    theirs = load_config(options.like / "coordinator.toml")
    if theirs.comet is None:
        raise ConfigError(
            f"{options.like / 'coordinator.toml'} is not that of an accounting node: its engine is not comet"
        )
    broker, retain_blocks = (theirs.broker.host, theirs.broker.port), theirs.comet.retain_blocks
    with all_or_nothing(folder):
        consensus, attestation = add_node(
            folder, plan, options.like, options.peer, broker=broker, retain_blocks=retain_blocks
        )
    facts = {"node": plan.party, "consensus": consensus.hex(), "attestation": attestation.hex()}
    if options.json:
        Console().print_json(json.dumps(facts))
        return 0
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"  {folder}: P2P {plan.host}:{plan.p2p_port}, RPC 127.0.0.1:{plan.rpc_port}")
    console.print(f"start it with: pilechain run --config {folder / 'coordinator.toml'}")
    if theirs.broker.tls is not None:
        console.print("its broker takes certificates: pilechain site coordinator add NAME makes one for this node,")
        console.print("  and an mqtt.toml that takes the place of [mqtt] in its configuration")
    console.print("where nodes are elected, register it as a candidate:")
    console.print(f"  --consensus {facts['consensus']}\n  --attestation {facts['attestation']}")
    return 0
