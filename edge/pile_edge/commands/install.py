"""`pile-edge install`: the agent as a systemd service on a Raspberry Pi, or any Linux."""

from __future__ import annotations

import argparse
import grp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pile_edge.commands import new_parser, usual_options
from pile_edge.config_file import load_config, load_mapping
from pile_edge.systemd import STATE, SYSUSERS, SYSUSERS_PATH, TEMPLATE_PATH, UNIT_PATH, USER, WANTS, Place, Service
from pile_shared.errors import ConfigError, PilechainError

_GROUPS = ("dialout", "gpio", "i2c", "tss")  # serial ports, pins, secure element, TPM
_COMMAND_SECONDS = 60
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,31}")  # what a unit's name and a folder's take as it is; as long as a pile's id
_EPILOG = f"""All state lies in {STATE}: configuration, key, journal. Provision there first, then install:

  sudo pile-edge provision --config {STATE}/pile.toml
  sudo pile-edge install --config {STATE}/pile.toml --dry-run     shows every file and command
  sudo pile-edge install --config {STATE}/pile.toml
  journalctl -u pile-edge -f                                       what the pile says
  sudo pile-edge install --remove                                  keeps key and journal

Several piles on one machine each have a name; they may share a serial line:

  sudo pile-edge install --name left --config {STATE}-left/pile.toml
  journalctl -u pile-edge@left -f
  sudo pile-edge install --name left --remove"""


class InstallError(PilechainError):
    """The system refused a step; the message names it."""

    code = "install"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `install` to the commands of `pile-edge`."""
    parser = new_parser(
        commands,
        "install",
        "make the agent a service of this Raspberry Pi: started at boot, watched, confined",
        description="Make the agent a systemd service: started at boot, watched, restarted, confined.",
        epilog=_EPILOG,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="the pile's TOML file")
    what.add_argument("--remove", action="store_true", help="stop and remove the service; state is kept")
    parser.add_argument("--name", type=_name, help=f"of one of several piles here; its state lies in {STATE}-NAME")
    parser.add_argument("--dry-run", action="store_true", help="show files and commands, change nothing")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="a system image to write into; nothing is started"
    )
    usual_options(parser, run, config=None)


def run(options: argparse.Namespace) -> int:
    """Write files and start the service, or show what would be done; 0."""
    is_here = options.root == Path("/")
    place = Place(options.name or "")
    if options.remove:
        files: dict[str, str] = {}
        gone = _unused_after(place, options.root)
        before = [["systemctl", "disable", "--now", place.service]] if is_here else []
        after = [["systemctl", "daemon-reload"]] if is_here else []
    else:
        files, gone, before = planned_files(options.config, options.root, place), [], []
        after = _start_commands(place) if is_here else []
    if not options.dry_run:
        _carry_out(options.root, files, gone, before, after)
    # Configuration and TLS key hold secrets; what a screen or a log shows is not theirs.
    shown = {path: "a copy of yours\n" if _is_state(path) else text for path, text in files.items()}
    if options.json:
        plan = {"files": shown, "removed": gone, "commands": before + after, "done": not options.dry_run}
        print(json.dumps(plan))
    elif options.dry_run:
        for path, text in shown.items():
            print(f"--- {path}\n{text}")
        print("\n".join([*(f"remove {path}" for path in gone), *(f"run {' '.join(c)}" for c in before + after)]))
    else:
        kept = f"{place.state} is kept: it has the pile's key and proofs that may not be settled; delete it by hand"
        what_it_says = f"journalctl -u {place.service.removesuffix('.service')} -f"
        print(kept if options.remove else f"installed; what the pile says: {what_it_says}")
    return 0


def planned_files(config: Path, root: Path, place: Place) -> dict[str, str]:
    """Text by path, of all that an installation writes.

    Raises:
        ConfigError: The configuration is wrong, or its state would lie outside the pile's folder.
    """
    settings = load_config(config)
    mapping = load_mapping(config)
    _check_inside(mapping, place.state)
    state = root / place.state.lstrip("/")
    groups = tuple(name for name in _GROUPS if _group_exists(name))
    service = Service(settings.pile_id, sys.executable, groups, is_template=bool(place.name))
    files = {place.unit_path: service.unit(), SYSUSERS_PATH: SYSUSERS}
    if config.parent.resolve() == state.resolve() and config.name == "pile.toml":
        return files
    key = config.parent / str(mapping["signer"]).partition(":")[2]
    if key.exists():
        raise ConfigError(
            f"{key} is there already: a key is made where it stays. Move configuration and key to {place.state}/ (as"
            f" root), or provision there: pile-edge provision --config {place.state}/pile.toml"
        )
    files[f"{place.state}/pile.toml"] = config.read_text()
    for path in _tls_paths(mapping):
        try:
            files[f"{place.state}/{path}"] = (config.parent / path).read_text(encoding="ascii")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{config.parent / path} is not PEM: only a board takes DER; openssl x509 or pkey -inform der converts it"
            ) from error
    return files


def _unused_after(place: Place, root: Path) -> list[str]:
    """The files that nobody needs once a pile is gone: a template and the user's file stay while others use them."""
    wants = root / WANTS.lstrip("/")
    named = {path.name for path in wants.glob("pile-edge@*.service")} - {place.service}
    other_unit = UNIT_PATH if place.name else TEMPLATE_PATH
    has_others = bool(named) or (root / other_unit.lstrip("/")).exists()
    gone = [] if place.name and named else [place.unit_path]
    return gone if has_others else [*gone, SYSUSERS_PATH]


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a name is 1 to 32 characters of a-z, 0-9 and '-'")
    return text


def _check_inside(mapping: dict[str, object], state: str) -> None:
    journal = mapping["journal"]
    assert isinstance(journal, dict)  # load_config has checked it
    kind, _, key = str(mapping["signer"]).partition(":")
    for name, path in [("journal.path", str(journal["path"])), *([("signer", key)] if kind == "file" else [])]:
        if (path.startswith("/") and not path.startswith(state + "/")) or ".." in Path(path).parts:
            raise ConfigError(f"{name} is {path}: make it relative, so that all state lies in {state}")


def _tls_paths(mapping: dict[str, object]) -> list[str]:
    mqtt = mapping["mqtt"]
    tls = mqtt.get("tls", {}) if isinstance(mqtt, dict) else {}
    return [str(path) for path in tls.values() if not str(path).startswith("/")]


def _start_commands(place: Place) -> list[list[str]]:
    return [
        ["systemd-sysusers", SYSUSERS_PATH],
        ["chown", "-R", f"{USER}:{USER}", place.state],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "--now", place.service],
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
            _write(root / path.lstrip("/"), text, is_state=_is_state(path))
    except PermissionError as error:
        raise InstallError(f"{error.filename}: not allowed; run it as root: sudo pile-edge install ...") from error
    for command in after:
        _run(command)


def _is_state(path: str) -> bool:
    return path.startswith(STATE)


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
