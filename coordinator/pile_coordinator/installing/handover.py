"""Gives a site's files to the users of its services: all to `pilechain`, and to the web server's group what it reads."""

import os
import pwd
from contextlib import closing
from pathlib import Path

from pile_coordinator.installing.units import USER, WEB_USER, Place
from pile_coordinator.web.config import load_web_config
from pile_coordinator.web.tokens import Tokens
from pile_shared.errors import ConfigError

# The group, of which the web server is, may go through a folder and read what is not secret there.
FOLDER, SHARED, SECRET = 0o750, 0o640, 0o600


def hand_over(place: Place) -> None:
    """Give every file of the site to who needs it; what was for its owner alone stays so.

    Raises:
        ConfigError: a user is missing, or this is not root.
    """
    site, data = Path(place.site), Path(place.data)
    data.mkdir(parents=True, exist_ok=True)
    if place.backups is not None:
        Path(place.backups).mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(Path(place.backups), USER, 0o700)
    if place.mirror is not None and Path(place.mirror).is_dir():
        for path in (Path(place.mirror), *Path(place.mirror).glob("*")):
            _give(path, USER, path.lstat().st_mode & 0o777)
    for folder, _, files in os.walk(site):
        here = Path(folder)
        _give(here, USER, FOLDER if here in {site, data} else here.stat().st_mode & 0o777)
        for path in map(here.joinpath, files):
            is_shared = here == data or path in {site / "genesis.json", site / "web.toml"}
            _give(path, USER, SHARED if is_shared else path.lstat().st_mode & 0o777)
    if place.web is not None:
        tokens = load_web_config(Path(place.web)).tokens
        with closing(
            Tokens(tokens, read_only=False)
        ):  # made if there is none: who adds one later leaves it to its owner
            _give(tokens, WEB_USER, SECRET)


def _give(path: Path, user: str, mode: int) -> None:
    """To a user and its group."""
    try:
        found = pwd.getpwnam(user)
        os.chown(path, found.pw_uid, found.pw_gid, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(mode)
    except KeyError as error:
        raise ConfigError(f"there is no user {user} here; systemd-sysusers makes it") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; only root may give files away: use sudo") from error
