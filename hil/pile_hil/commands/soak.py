"""`pilechain hil soak`: random faults for minutes or hours. Exit status 0 if no Wh was lost, 1 if something is wrong."""

import argparse
import signal
from pathlib import Path
from types import FrameType

from pile_hil.commands.options import need_hil
from pile_shared.errors import ConfigError

EXIT_STOPPED = 130


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    soak = commands.add_parser(
        "soak",
        help="random faults for minutes or hours, on a whole simulated site",
        description="Orders on every pile, one after the other, and random faults of power, network, clocks and disks all the"
        " while. Ctrl-C ends it in order: what is under way is finished and judged; a second one ends it at once. Needs root.",
    )
    soak.add_argument("--minutes", type=int, default=10, metavar="N", help="of faults (default: %(default)s)")
    soak.add_argument("--seed", type=int, default=1, metavar="S", help="gives the same faults each time (default: 1)")
    soak.add_argument("--piles", type=int, default=3, metavar="N", help="default: %(default)s")
    soak.add_argument("--out", type=Path, default=Path("soak-out"), metavar="DIR", help="default: %(default)s")
    soak.add_argument("--plan", action="store_true", help="only show what would go wrong when")
    soak.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    need_hil()
    from pile_hil.commands.report import write  # noqa: PLC0415 - with what follows, what the rig is made of
    from pile_hil.soak.plan import plan  # noqa: PLC0415
    from pile_hil.soak.soak import MAX_MINUTES, MAX_PILES, SCENARIO, SUMMARY, Soak  # noqa: PLC0415

    if not 1 <= options.minutes <= MAX_MINUTES or not 1 <= options.piles <= MAX_PILES:
        raise ConfigError(f"--minutes must be 1 to {MAX_MINUTES}, --piles 1 to {MAX_PILES}")
    if options.plan:
        piles = tuple(f"pile-{number}" for number in range(1, options.piles + 1))
        for one in sorted(
            (one for lane in plan(options.seed, 60 * options.minutes, piles) for one in lane), key=lambda p: p.at_s
        ):
            print(f"{one.at_s // 60}:{one.at_s % 60:02} {one.name} of {one.who} for {one.length_s} s")
        return 0
    if (options.out / SCENARIO).exists():
        raise ConfigError(f"{options.out} holds a soak already; say another --out, or remove it")
    soak = Soak(
        options.out.resolve(),
        seconds=60 * options.minutes,
        seed=options.seed,
        piles=options.piles,
        say=lambda text: print(text, flush=True),
    )
    stops = 0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stops
        stops += 1
        if stops > 1:
            raise SystemExit(EXIT_STOPPED)
        print("stopping: what is under way is finished first", flush=True)
        soak.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = soak.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for check in result.checks:
        print(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.text}")
    html, _ = write(options.out, None, None)
    print(f"{result.orders} orders, {result.flowed_wh} Wh, {sum(result.faults.values())} faults in {result.real_s} s")
    print(f"seed {result.seed}; {html} and {options.out / SUMMARY} say more")
    return 0 if result.ok else 1
