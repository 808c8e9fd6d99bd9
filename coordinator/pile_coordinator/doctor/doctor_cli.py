"""`pilechain doctor`: every check, one after the other, each with what to do."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pile_coordinator.config import load_config
from pile_coordinator.doctor import broker, chain, machine
from pile_coordinator.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from pile_coordinator.doctor.subject import BROKER_CONFIG, Subject, read_mosquitto
from pile_coordinator.web.config import load_web_config
from pile_shared.errors import ConfigError, PilechainError

DAYS = 90
CONFIGURATION = "configuration"
Check = Callable[[Subject], Iterator[Finding]]
CHECKS: dict[str, Check] = {
    "python": machine.python,
    "chain": chain.chain,
    "keys": chain.keys,
    "clock": machine.clock,
    "data": machine.data,
    "running": machine.running,
    "ledger": chain.ledger,
    "database": chain.database,
    "evidence": chain.evidence,
    "space": chain.space,
    "broker": broker.broker,
    "certificates": broker.certificates,
    "revoked": broker.revoked,
    "access": broker.access,
    "settings": broker.settings,
    "listening": broker.listening,
    "tokens": chain.tokens,
    "backups": chain.backups,
    "mirror": chain.mirror,
    "services": machine.services,
    "logs": machine.logs,
    "files": machine.open_files,
}
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red", SKIP: "dim"}

_DESCRIPTION = """\
Look at everything a site needs, while it runs: programs, configuration, keys, clock, disk, ledger, evidence, broker,
certificates, access list, services, backups. Nothing is changed, but that a file is written to the data folder and removed to
see how fast the disk is, and that the broker is asked to take a message that it must refuse. Run it as root, who may read all
that is to be looked at."""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor` to `pilechain`."""
    doctor = commands.add_parser(
        "doctor",
        help="check a whole site, and say what to do",
        description=_DESCRIPTION,
        epilog=f"Checks: {', '.join([CONFIGURATION, *CHECKS])}.\n"
        "Example: sudo pilechain doctor --config /var/lib/pilechain/coordinator.toml\n"
        "Exit status: 0 nothing failed (warnings may be there), 1 something did, 2 called wrongly.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--config", type=Path, required=True, metavar="FILE", help="the coordinator's TOML file")
    doctor.add_argument("--site", type=Path, metavar="DIR", help="the site's folder (default: that of the file)")
    doctor.add_argument("--authority", type=Path, metavar="DIR", help="its certificate authority's, if kept elsewhere")
    doctor.add_argument("--backups", type=Path, metavar="DIR", help="where its backups go")
    doctor.add_argument(
        "--days", type=int, default=DAYS, metavar="N", help=f"for so long there must be room on the disk ({DAYS})"
    )
    doctor.add_argument(
        "--only", action="append", choices=[*CHECKS], metavar="CHECK", help="this check; may be repeated"
    )
    doctor.add_argument(
        "--skip", action="append", choices=[*CHECKS], metavar="CHECK", help="not this one; may be repeated"
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object per finding")
    doctor.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    findings = examine(options)
    if options.json:
        for finding in findings:
            print(json.dumps(asdict(finding)))
    else:
        _show(findings)
    return 1 if any(finding.state == FAIL for finding in findings) else 0


def examine(options: argparse.Namespace) -> list[Finding]:
    """All findings, in order of the checks."""
    if not options.config.is_file():
        raise ConfigError(f"{options.config} is not there; name the coordinator's file with --config")
    try:
        subject = _subject(options)
    except (ConfigError, PilechainError) as error:
        return [
            Finding(
                CONFIGURATION, FAIL, str(error), "mend the file, then look again; docs/operator.md explains every key"
            )
        ]
    findings = [Finding(CONFIGURATION, OK, f"{options.config} can be read, and what it names")]
    for name, check in CHECKS.items():
        if (options.only and name not in options.only) or name in (options.skip or ()):
            continue
        try:
            findings += [replace(finding, check=name) for finding in check(subject)]
        except (PilechainError, OSError) as error:
            # A check that cannot look has found something: most often that this user may not.
            findings.append(Finding(name, FAIL, str(error), "run the doctor as root: sudo pilechain doctor ..."))
    return findings


def _subject(options: argparse.Namespace) -> Subject:
    config = load_config(options.config)
    site = (options.site or options.config.parent).resolve()
    web, conf = site / "web.toml", site / BROKER_CONFIG
    return Subject(
        site=site,
        config=config,
        web=load_web_config(web) if web.is_file() else None,
        mosquitto=read_mosquitto(conf) if conf.is_file() else None,
        authority=options.authority or _authority(site),
        backups=options.backups or _backups(site),
        days=options.days,
    )


def _authority(site: Path) -> Path | None:
    found = sorted(path.parent for path in site.glob("*/ca.key"))
    return found[0] if found else None


def _backups(site: Path) -> Path | None:
    """Where the service of backups puts them, or `backups` of the site."""
    words = machine.show_unit("pilechain-backup.service", "ExecStart").get("ExecStart", "").split()
    if "--to" in words[:-1]:
        return Path(words[words.index("--to") + 1])
    return site / "backups" if (site / "backups").is_dir() else None


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what is so, and what to do", overflow="fold")
    before = ""
    for finding in findings:
        name, before = (finding.check if finding.check != before else ""), finding.check
        colour = _COLOURS[finding.state]
        table.add_row(name, f"[{colour}]{finding.state}[/]", escape(finding.says))
        if finding.do:
            table.add_row("", "", f"[bold]-> {escape(finding.do)}[/]")
    console = Console(highlight=False)
    console.print(table)
    count = {state: sum(1 for finding in findings if finding.state == state) for state in (OK, WARN, FAIL)}
    console.print(f"{count[OK]} ok, {count[WARN]} warnings, {count[FAIL]} failed")
