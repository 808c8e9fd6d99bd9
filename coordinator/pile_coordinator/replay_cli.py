"""`pilechain replay`: computes a ledger file again, offline, and says whether it holds."""

import argparse
import json
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pile_coordinator.config import load_genesis
from pile_coordinator.engines.rings import RingProcesses, processes_for
from pile_coordinator.replay import Audit, audit, open_ledger

_DESCRIPTION = """\
Compute a ledger again from its genesis and its blocks' transactions: every signature, result, event, balance and state root.
Nothing is trusted but the genesis file; compare its fingerprint with one you got from somebody you trust. The ledger is only
read, and may be in use. The newest blocks of a node that was stopped may lack their certificates: they are computed too, told
apart, and not counted."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `replay` to the command line."""
    replay = commands.add_parser(
        "replay",
        help="compute a whole ledger again, offline",
        description=_DESCRIPTION,
        epilog="Example: pilechain replay data/ledger.sqlite --genesis genesis.json\n"
        "Exit status: 0 it holds, 1 it does not (with the first block that differs), 2 called wrongly.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("ledger", type=Path, metavar="LEDGER", help="ledger.sqlite of a coordinator's data folder")
    replay.add_argument(
        "--genesis", type=Path, metavar="FILE", help="the genesis to pin (default: genesis.json beside the ledger)"
    )
    replay.add_argument(
        "--trust-signatures",
        action="store_true",
        help="they were checked before: compute all else, several times faster",
    )
    replay.add_argument("--json", action="store_true", help="one JSON object, no progress")
    replay.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    genesis = load_genesis(options.genesis or options.ledger.parent / "genesis.json")
    store = open_ledger(options.ledger, genesis)
    trusts: bool = options.trust_signatures
    rings = RingProcesses(processes_for(os.cpu_count()))  # none of them starts before there is something to do
    try:
        if options.json:
            found = audit(store, genesis, trust_signatures=trusts, rings=rings)
        else:
            columns = TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("", total=store.height())
                found = audit(
                    store,
                    genesis,
                    trust_signatures=trusts,
                    rings=rings,
                    on_block=lambda _: progress.advance(task),
                )
    finally:
        rings.close()
        store.close()
    _show(found, genesis.chain_id, genesis.hash(), trusts=trusts, as_json=options.json)
    return 0


def _show(found: Audit, chain_id: str, fingerprint: bytes, *, trusts: bool, as_json: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        facts: dict[str, object] = {
            "chain": chain_id,
            "genesis": fingerprint.hex(),
            "height": found.height,
            "transactions": found.transactions,
            "accepted": found.accepted,
            "state_root": found.state_root.hex(),
            "uncertified": found.uncertified,
            "unsigned": found.unsigned,
            "signatures_checked": not trusts,
        }
        console.print_json(json.dumps(facts))
        return
    console.print(
        f"[green]HOLDS[/] {found.height} blocks, {found.transactions} transactions of which {found.accepted} accepted:"
        f" same results, same state roots, all invariants{', signatures not checked' if trusts else ''}"
    )
    console.print(f"  state root {found.state_root.hex()} at height {found.height}")
    if found.unsigned:
        console.print(
            f"  {found.unsigned} heights were passed over without a signature when this ledger was restored from a backup"
            " (docs/keeping.md): what stood there is lost"
        )
    if found.uncertified:
        console.print(
            f"  [yellow]not counted[/] {found.uncertified} newer blocks, computed the same, that no accounting node has"
            " attested here yet: nothing proves them. Let the node run until it has heard the others, then look again"
        )
    console.print(f"  pinned genesis {chain_id}, fingerprint {fingerprint.hex()}")
