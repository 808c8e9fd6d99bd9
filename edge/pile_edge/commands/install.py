"""`pile-edge install`: the agent as a systemd service on a Raspberry Pi, or any Linux."""

from __future__ import annotations

import argparse
import grp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pile_edge.config_file import load_config, load_mapping
from pile_edge.systemd import STATE, SYSUSERS, SYSUSERS_PATH, UNIT_PATH, USER, Service
from pile_shared.errors import ConfigError, PilechainError

_GROUPS = ("dialout", "gpio", "i2c", "tss")  # serial ports, pins, secure element, TPM
_COMMAND_SECONDS = 60
_EPILOG = f"""All state lies in {STATE}: configuration, key, journal. Provision there first, then install:

  sudo pile-edge provision --config {STATE}/pile.toml
  sudo pile-edge install --config {STATE}/pile.toml --dry-run     shows every file and command
  sudo pile-edge install --config {STATE}/pile.toml
  journalctl -u pile-edge -f                                       what the pile says
  sudo pile-edge install --remove                                  keeps key and journal"""


class InstallError(PilechainError):
    """The system refused a step; the message names it."""

    code = "install"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `install` to the commands of `pile-edge`."""
    parser = commands.add_parser(
        "install",
        help="make the agent a service of this Raspberry Pi: started at boot, watched, confined",
        description="Make the agent a systemd service: started at boot, watched, restarted, confined.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="the pile's TOML file")
    what.add_argument("--remove", action="store_true", help="stop and remove the service; state is kept")
    parser.add_argument("--dry-run", action="store_true", help="show files and commands, change nothing")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="a system image to write into; nothing is started"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write files and start the service, or show what would be done; 0."""
    is_here = options.root == Path("/")
    if options.remove:
        files: dict[str, str] = {}
        gone = [UNIT_PATH, SYSUSERS_PATH]
        before = [["systemctl", "disable", "--now", "pile-edge.service"]] if is_here else []
        after = [["systemctl", "daemon-reload"]] if is_here else []
    else:
        files, gone, before = planned_files(options.config, options.root), [], []
        after = _start_commands() if is_here else []
    if options.json:
        plan = {"files": files, "removed": gone, "commands": before + after, "done": not options.dry_run}
        print(json.dumps(plan))
    elif options.dry_run:
        for path, text in files.items():
            print(f"--- {path}\n{text}")
        print("\n".join([*(f"remove {path}" for path in gone), *(f"run {' '.join(c)}" for c in before + after)]))
    if options.dry_run:
        return 0
    _carry_out(options.root, files, gone, before, after)
    if not options.json:
        kept = f"{STATE} is kept: it has the pile's key and proofs that may not be settled; delete it by hand"
        print(kept if options.remove else "installed; what the pile says: journalctl -u pile-edge -f")
    return 0


def planned_files(config: Path, root: Path) -> dict[str, str]:
    """Text by path, of all that an installation writes.

    Raises:
        ConfigError: The configuration is wrong, or its state would lie outside STATE.
    """
    settings = load_config(config)
    mapping = load_mapping(config)
    _check_inside(mapping)
    state = root / STATE.lstrip("/")
    service = Service(settings.pile_id, sys.executable, tuple(name for name in _GROUPS if _group_exists(name)))
    files = {UNIT_PATH: service.unit(), SYSUSERS_PATH: SYSUSERS}
    if config.parent.resolve() == state.resolve() and config.name == "pile.toml":
        return files
    key = config.parent / str(mapping["signer"]).partition(":")[2]
    if key.exists():
        raise ConfigError(
            f"{key} is there already: a key is made where it stays. Move configuration and key to {STATE}/ (as root),"
            f" or provision there: pile-edge provision --config {STATE}/pile.toml"
        )
    files[f"{STATE}/pile.toml"] = config.read_text()
    for path in _tls_paths(mapping):
        files[f"{STATE}/{path}"] = (config.parent / path).read_text()
    return files


def _check_inside(mapping: dict[str, object]) -> None:
    journal = mapping["journal"]
    assert isinstance(journal, dict)  # load_config has checked it
    kind, _, key = str(mapping["signer"]).partition(":")
    for name, path in [("journal.path", str(journal["path"])), *([("signer", key)] if kind == "file" else [])]:
        if (path.startswith("/") and not path.startswith(STATE + "/")) or ".." in Path(path).parts:
            raise ConfigError(f"{name} is {path}: make it relative, so that all state lies in {STATE}")


def _tls_paths(mapping: dict[str, object]) -> list[str]:
    mqtt = mapping["mqtt"]
    tls = mqtt.get("tls", {}) if isinstance(mqtt, dict) else {}
    return [str(path) for path in tls.values() if not str(path).startswith("/")]


def _start_commands() -> list[list[str]]:
    return [
        ["systemd-sysusers", SYSUSERS_PATH],
        ["chown", "-R", f"{USER}:{USER}", STATE],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", "pile-edge.service"],
    ]


def _carry_out(
    root: Path, files: dict[str, str], gone: list[str], before: list[list[str]], after: list[list[str]]
) -> None:
    for command in before:
        _run(command)
    try:
        for path in gone:
            (root / path.lstrip("/")).unlink(missing_ok=True)
        for path, text in files.items():
            _write(root / path.lstrip("/"), text, is_state=path.startswith(STATE))
    except PermissionError as error:
        raise InstallError(f"{error.filename}: not allowed; run it as root: sudo pile-edge install ...") from error
    for command in after:
        _run(command)


def _write(path: Path, text: str, *, is_state: bool) -> None:
    """In one step, so that systemd never sees half a unit."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if is_state else 0o755)
    temporary = path.with_name(path.name + ".tmp")
    temporary.touch(0o600 if is_state else 0o644)
    temporary.write_text(text)
    temporary.rename(path)


def _run(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        raise InstallError(f"{command[0]} is not there: this system has no systemd; run `pile-edge run` by what it has")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)  # noqa: S603
    if done.returncode != 0:
        hint = "" if os.geteuid() == 0 else "; run it as root: sudo pile-edge install ..."
        raise InstallError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}{hint}")


def _group_exists(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
