"""`pilechain evidence trace`: from any id to everything it belongs to."""

import argparse
import json
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from pile_coordinator.evidence.opening import add_where, reading
from pile_coordinator.evidence.trace import MAX_CONTRACTS, MAX_PROOFS, Step, Trace, trace

_DESCRIPTION = """\
From any order, contract, proof, block, transaction, posting, pile or party to all the others: each step with its time, where it
stands in the chain, and by what anybody can check it."""
_EPILOG = """\
ID is a hash in hex (8 digits of it or more), a block's height, CONTRACT/NUMBER/ITEM of a posting, or the id of a pile or
party. Where one id may be two things, put its kind before it: pile:north-1, party:north-1, block:12, transaction:9f2c...

examples:
  pilechain evidence trace 9f2c41d0 --evidence data/evidence.sqlite
  pilechain evidence trace dan --limit 5 --json --evidence data/evidence.sqlite

Exit status: 0 found, 1 not found or not clear which is meant, 2 called wrongly."""


WIDE = 240  # of a table that goes into a file or a pipe: nothing is folded


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `trace` to the `evidence` commands."""
    parser = commands.add_parser(
        "trace",
        help="from any order, contract, proof, block, posting, pile or party to all the others",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="ID", help="what to trace")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help=f"contracts of a page, 1 to {MAX_CONTRACTS}")
    parser.add_argument("--after", metavar="NEXT", help="the 'next' of the page before")
    parser.add_argument(
        "--proofs", type=int, default=50, metavar="N", help=f"proofs of each contract, 1 to {MAX_PROOFS} (default: 50)"
    )
    parser.add_argument("--after-proof", type=int, default=0, metavar="N", help="the 'next_proof' of the page before")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_where(parser)
    parser.set_defaults(run=_trace)


def _trace(options: argparse.Namespace) -> int:
    paging = {
        "after": options.after,
        "limit": options.limit,
        "proofs": options.proofs,
        "after_proof": options.after_proof,
    }
    with reading(options.evidence) as db:
        found = trace(db, options.id, **paging)
    if options.json:
        sys.stdout.write(json.dumps(found.fields()) + "\n")
    else:
        _print(found)
    return 0


def _print(found: Trace) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(f"{found.found.kind} {found.found.id}", style="bold")
    if found.steps:
        console.print(_table(found.steps))
    for story in found.stories:
        console.print(f"\ncontract {story.contract}: {story.outcome or story.state}", style="bold")
        payer = "anonymous, one of 16" if story.anonymous else "not anonymous"
        console.print(f"  {story.user} ({payer}) on {story.pile} of {story.owner}, zone {story.zone}")
        console.print(f"  order {story.order}, listing {story.listing}")
        console.print(_table(story.steps))
        if story.next_proof is not None:
            console.print(f"  more proofs: pilechain evidence trace {story.contract} --after-proof {story.next_proof}")
    if found.next is not None:
        console.print(f"\nmore: --after {found.next}")


def _table(steps: list[Step]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("UTC", "block", "at", "what", "id", "checked by"):
        table.add_column(title, overflow="fold")
    for step in steps:
        at = f"leaf {step.leaf}" if step.position is None and step.leaf is not None else "header"
        at = at if step.position is None else f"transaction {step.position}"
        when = datetime.fromtimestamp(step.time_ms // 1000, UTC).isoformat(sep=" ")[:19]
        short = step.id if "/" in step.id or len(step.id) < 24 else step.id[:12]
        short = f"{step.id[:8]}...{step.id[64:]}" if step.kind == "posting" else short
        table.add_row(when, str(step.height), at, step.what, short, step.checked)
    return table
