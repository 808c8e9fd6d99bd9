"""`pilechain verify-worker`: check proofs' signatures for a coordinator, beside it or on another machine."""

import argparse
import gc
import os
from pathlib import Path

from pile_coordinator.engines.comet.supervise import on_signals
from pile_coordinator.keys import load_key, make_key
from pile_coordinator.log_line import log
from pile_coordinator.verifying.config import load_worker
from pile_coordinator.verifying.worker import Worker

NICE = 5  # the coordinator goes first where both are busy on one machine: it orders what workers have verified
COLLECT = 100_000  # objects that are new
_EPILOG = """\
Two commands begin:
  pilechain verify-worker --new-key keys/worker-1.key    prints what coordinator.toml must name
  pilechain verify-worker --config worker-1.toml         runs until Ctrl-C or SIGTERM

worker-1.toml:
  genesis = "genesis.json"
  party = "coordinator"             # the party in coordinator.toml
  name = "worker-1"                 # no two workers alike
  key = "keys/worker-1.key"
  group = "..."                     # the same for all workers of a coordinator, a secret: openssl rand -hex 16
  [mqtt]                            # as in coordinator.toml
  host = "broker.example"
  port = 8883
  tls = {ca = "ca.crt", cert = "worker-1.crt", key = "worker-1.key"}

Any number may run, on any machine; one that is killed loses nothing. docs/scaling.md says when you need one.
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `verify-worker`."""
    parser = commands.add_parser(
        "verify-worker",
        help="check proofs' signatures for a coordinator, on other cores or machines",
        description="Check the signatures of metering proofs for a coordinator. Workers share the proofs of all piles, keep"
        " nothing, and bring what they verified in batches. A coordinator believes them as it believes itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="run with this TOML file")
    what.add_argument("--new-key", type=Path, metavar="FILE", help="make a worker's key, and print its public part")
    what.add_argument("--public", type=Path, metavar="FILE", help="print the public part of a key that there is")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.config is None:
        path = options.new_key or options.public
        signer = make_key(path) if options.new_key else load_key(path)
        print(f'for coordinator.toml:\n[workers]\n{path.stem} = "{signer.public.hex()}"')
        return 0
    worker = Worker(load_worker(options.config))
    on_signals(worker.stop)
    os.nice(NICE)
    gc.freeze()  # messages come and go without cycles: the collector would look at each of them for nothing
    gc.set_threshold(COLLECT)
    worker.run()
    log("worker ended")
    return 0
