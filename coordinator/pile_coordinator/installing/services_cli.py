"""`pilechain install`: a site's programs as services of this machine, or as containers."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

from pile_coordinator.config import load_config
from pile_coordinator.installing import containers_cli
from pile_coordinator.installing.handover import hand_over
from pile_coordinator.installing.units import BACKUP_TIMER, BROKER, COORDINATOR, SYSUSERS_PATH, WEB, Place, unit_files
from pile_coordinator.web.config import load_web_config
from pile_shared.errors import ConfigError, PilechainError

BROKER_CONFIG = PurePosixPath("broker", "mosquitto.conf")  # below a site, as `pilechain init site` writes it
_COMMAND_SECONDS = 60
MAX_PILES = 100_000  # that one broker is asked to have room for

_DESCRIPTION = """\
Write systemd units for a site: the coordinator, the web server where there is a web.toml, the site's mosquitto, backups every
six hours, a template for verify workers, bounds for the journal. Each runs as a user of its own that can reach what it needs
and nothing else. Files of the site are given to those users; the certificate authority stays root's."""

_EPILOG = """\
Example: sudo pilechain install services --config /var/lib/pilechain/coordinator.toml --dry-run
         sudo pilechain install services --config /var/lib/pilechain/coordinator.toml
         sudo systemctl enable mosquitto pilechain-coordinator pilechain-web
         sudo systemctl restart mosquitto pilechain-coordinator pilechain-web
         journalctl -u pilechain-coordinator -f"""


class InstallError(PilechainError):
    """The system refused a step; the message names it."""

    code = "install"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `install` to `pilechain`."""
    install = commands.add_parser("install", help="make a site's programs services of this machine, or containers")
    kinds = install.add_subparsers(required=True, metavar="WHAT")
    services = kinds.add_parser(
        "services",
        help="systemd units, confined, started at boot",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    services.add_argument("--config", type=Path, required=True, metavar="FILE", help="the site's coordinator.toml")
    services.add_argument("--web", type=Path, metavar="FILE", help="its web.toml (default: beside the other)")
    services.add_argument(
        "--broker", type=Path, metavar="FILE", help=f"its mosquitto.conf (default: {BROKER_CONFIG} beside the other)"
    )
    services.add_argument(
        "--backups",
        type=Path,
        metavar="DIR",
        help="where backups go; on another disk, or they help little (default: none)",
    )
    services.add_argument(
        "--piles", type=int, default=1000, metavar="N", help="how many connect; bounds open files (default: 1000)"
    )
    services.add_argument("--dry-run", action="store_true", help="show files and commands, change nothing")
    services.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="a system image to write into; nothing is run"
    )
    services.add_argument("--json", action="store_true", help="one JSON object")
    services.set_defaults(run=_services)
    containers_cli.add_command(kinds)


def _services(options: argparse.Namespace) -> int:
    place = plan(options)
    files, commands = unit_files(place), _commands() if options.root == Path("/") else []
    if not options.dry_run:
        _write(options.root, files)
        for command in commands:
            _run(command)
        if commands:
            hand_over(place)
    names = [BROKER.removesuffix(".service")] if place.broker else []
    names += [name.removesuffix(".service") for name in (COORDINATOR, WEB) if name != WEB or place.web is not None]
    names += [BACKUP_TIMER] if place.backups else []
    # A package starts its broker when it is installed: only a restart makes it this site's.
    start = [["systemctl", word, *names] for word in ("enable", "restart")]
    if options.json:
        print(json.dumps({"files": files, "commands": commands, "start": start, "done": not options.dry_run}))
    elif options.dry_run:
        for path, text in files.items():
            print(f"--- {path}\n{text}")
        print("\n".join(f"run {' '.join(command)}" for command in commands))
    else:
        print(
            "\n".join(
                [
                    *(f"wrote {path}" for path in files),
                    "start them with:",
                    *(f"  {' '.join(command)}" for command in start),
                ]
            )
        )
    return 0


def plan(options: argparse.Namespace) -> Place:
    """What is to be installed; ConfigError if the site is not whole, or no unit could say where it is."""
    config_file = options.config.resolve()
    config = load_config(config_file)
    web = options.web or _if_there(config_file.parent / "web.toml")
    broker = options.broker or _if_there(config_file.parent / BROKER_CONFIG)
    if web is not None:
        load_web_config(web)
    if not 1 <= options.piles <= MAX_PILES:
        raise ConfigError(f"--piles {options.piles} is wrong; expected 1 to {MAX_PILES}")
    paths = [config_file, config.data, *(path for path in (web, broker, options.backups, config.mirror) if path)]
    for path in paths:
        if any(character in str(path) for character in " %\"'\\$\n"):
            raise ConfigError(f"{path}: a unit takes no spaces, quotes, %, $ or \\ in a path; move the site")
    return Place(
        config=PurePosixPath(config_file),
        web=PurePosixPath(web.resolve()) if web else None,
        broker=PurePosixPath(broker.resolve()) if broker else None,
        python=sys.executable,
        data=PurePosixPath(config.data.resolve()),
        backups=PurePosixPath(options.backups.resolve()) if options.backups else None,
        piles=options.piles,
        mirror=PurePosixPath(config.mirror.resolve()) if config.mirror else None,
        needs_mirror=config.mirror_required,
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _commands() -> list[list[str]]:
    return [["systemd-sysusers", SYSUSERS_PATH], ["systemctl", "daemon-reload"]]


def _write(root: Path, files: dict[str, str]) -> None:
    """Each in one step, so that systemd never sees half a unit."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(text)
            temporary.chmod(0o644)
            temporary.rename(path)
        except OSError as error:
            raise InstallError(
                f"{path}: {error.strerror}; run it as root: sudo pilechain install services ..."
            ) from error


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise InstallError(f"{command[0]} is not there: this system has no systemd; see: pilechain install containers")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)  # noqa: S603
    if done.returncode != 0:
        hint = "" if os.geteuid() == 0 else "; run it as root: sudo pilechain install services ..."
        raise InstallError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}{hint}")
