"""Gives a site's files to the users of its services: keys to the coordinator alone, what the web server reads to its group."""

import os
import pwd
from pathlib import Path

from pile_coordinator.installing.units import BROKER_USER, USER, WEB_USER, Place
from pile_coordinator.web.config import load_web_config
from pile_shared.errors import ConfigError

# What is not secret may be read by the group, of which the web server is; a folder lets it through to that.
FOLDER, SHARED, SECRET = 0o750, 0o640, 0o600
BROKER_FOLDER = 0o2750  # what root puts there later, a new list of revoked certificates, is the broker's to read too
AUTHORITY = "ca.key"  # the folder that holds it stays root's


def hand_over(place: Place) -> None:
    """Give every file of the site to who needs it. Files that are for their owner alone stay so.

    Raises:
        ConfigError: a user is missing, or this is not root.
    """
    site, data = Path(place.site), Path(place.data)
    web = load_web_config(Path(place.web)) if place.web else None
    broker = Path(place.broker).parent if place.broker else None
    shared = {Path(path) for path in (place.web,) if path} | {site / "genesis.json"}
    data.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    if place.backups is not None:
        Path(place.backups).mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(Path(place.backups), USER, 0o700)
    for folder, names, files in os.walk(site):
        here = Path(folder)
        if AUTHORITY in files and here != site:
            names.clear()
            _give(here, "root", 0o700)
        elif here == broker:
            names.clear()
            _to_broker(here)
        else:
            _give(here, USER, FOLDER)
            for path in map(here.joinpath, files):
                readable = path in shared or here == data
                _give(path, USER, SHARED if readable else path.stat().st_mode & 0o777)
    if web is not None and web.tokens.exists():
        _give(web.tokens, WEB_USER, SECRET)


def _to_broker(folder: Path) -> None:
    """The broker reads its folder and changes nothing there."""
    for here, _, files in os.walk(folder):
        _give(Path(here), BROKER_USER, BROKER_FOLDER, owner="root")
        for name in files:
            _give(Path(here, name), BROKER_USER, SHARED, owner="root")


def _give(path: Path, user: str, mode: int, *, owner: str = "") -> None:
    """To a user and its group, or to its group under another owner."""
    try:
        found = pwd.getpwnam(user)
        os.chown(path, pwd.getpwnam(owner).pw_uid if owner else found.pw_uid, found.pw_gid, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode)
    except KeyError as error:
        what = "apt install mosquitto" if user == BROKER_USER else "systemd-sysusers"
        raise ConfigError(f"there is no user {user} here; {what} makes it") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; only root may give files away: use sudo") from error
