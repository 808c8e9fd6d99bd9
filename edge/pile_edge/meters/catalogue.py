"""The meter profiles a program knows: those in profiles/*.json, and those in a folder of the user's. CPython only.

Every profile is checked when it is loaded (`schema`). A user's profile may not carry the id of another: what a pile
bills by must not change because a file appeared. A board gets the one profile it needs through `board_profile`, in its
configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pile_edge.meters.decode import Profile, load_profile
from pile_edge.meters.schema import at_model, check_profile, with_word_order
from pile_shared.errors import ConfigError

MAX_PROFILE_BYTES = 65_536  # thirty times the longest we have
_FOLDER = Path(__file__).parent / "profiles"
_ON_BOARD = (
    "id",
    "manufacturer",
    "model",
    "function",
    "word_order",
    "energy_import",
    "power",
    "serial",
    "min_gap_ms",
    "timeout_ms",
)


def profile_files(folder: Path | None = None) -> dict[str, Path]:
    """The file of each profile by id, sorted; with those in the user's folder.

    Raises:
        ConfigError: the folder cannot be read, or one of its profiles has the id of another.
    """
    files = {path.stem: path for path in _FOLDER.glob("*.json")}
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; it should hold meter profiles, one JSON file each")
        for path in folder.glob("*.json"):
            if path.stem in files:
                raise ConfigError(f"{path}: there is a profile {path.stem} already; give yours another id")
            files[path.stem] = path
    return dict(sorted(files.items()))


def profile_ids(folder: Path | None = None) -> list[str]:
    """The ids of all profiles, sorted."""
    return list(profile_files(folder))


def profile_mapping(profile_id: str, folder: Path | None = None) -> dict[str, Any]:
    """The whole profile as written, checked; ConfigError lists the known ids, or names the file and key."""
    files = profile_files(folder)
    if profile_id not in files:
        raise ConfigError(f"no meter profile {profile_id!r}; known: {', '.join(files)}")
    return load_file(files[profile_id])


def profile_mappings(folder: Path | None = None) -> list[dict[str, Any]]:
    """All profiles, checked, by id."""
    return [load_file(path) for path in profile_files(folder).values()]


def load_file(path: Path) -> dict[str, Any]:
    """The checked profile in a file; ConfigError names the file."""
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ConfigError(f"{path}: longer than {MAX_PROFILE_BYTES} bytes, so it is no profile")
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    return check_profile(mapping, path.stem, path.name if path.parent == _FOLDER else str(path))


def find_profile(profile_id: str, folder: Path | None = None) -> Profile:
    """The checked profile of that id; ConfigError if there is none."""
    return load_profile(profile_mapping(profile_id, folder))


def board_profile(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What a board needs of a profile: documentation, identification and golden frames stay at home."""
    return {key: mapping[key] for key in _ON_BOARD if key in mapping}


def installed_profile(
    mapping: Mapping[str, Any], model_address: int | None = None, word_order: str | None = None
) -> dict[str, Any]:
    """The profile of a meter as it was installed: where its SunSpec model begins, and the word order it was set to.

    Raises:
        ConfigError: a SunSpec profile without an address, another with one, or an order the meter cannot be set to.
    """
    installed = dict(mapping)
    if "sunspec" in mapping or model_address is not None:
        if model_address is None:
            raise ConfigError("meter.model_address is missing: `pile-edge scan` finds where the SunSpec model begins")
        installed = at_model(mapping, model_address)
    if word_order is not None:
        orders = mapping.get("word_orders", [mapping["word_order"]])
        if word_order not in orders:
            raise ConfigError(f"meter.word_order must be {' or '.join(orders)}: this meter cannot be set otherwise")
        installed = with_word_order(installed, word_order)
    return installed
