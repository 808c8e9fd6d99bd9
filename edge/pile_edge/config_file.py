"""Configuration files on CPython: TOML for people, and the CBOR a board reads. Errors name the file."""

import os
import tomllib
from pathlib import Path

from pile_edge.config import MAX_CONFIG_BYTES, check_config, resolve
from pile_edge.meters.catalogue import board_profile, installed_profile, profile_mapping
from pile_edge.settings import Settings
from pile_shared.codec import decode, encode
from pile_shared.errors import ConfigError, PilechainError

MAX_ADDRESS = 0xFFFF - 2 - 124  # a SunSpec meter model, its head included, ends within the 16-bit addresses


def load_config(path: Path) -> Settings:
    """The checked configuration in a TOML file, or in a CBOR file made by `compile_config`.

    Raises:
        ConfigError: naming the file, the key and the expected form.
    """
    mapping = load_mapping(path)
    ocmf = mapping.pop("ocmf", {})
    settings = _checked(path, mapping)
    if not isinstance(ocmf, dict) or not ocmf.keys() <= {"path"} or not isinstance(ocmf.get("path", ""), str):
        raise ConfigError(f"{path}: ocmf must be a section with path")
    settings.ocmf_path = settings.journal_path + "-ocmf"
    if ocmf.get("path"):
        settings.ocmf_path = resolve(os.path.dirname(path), ocmf["path"])
    return settings


def load_mapping(path: Path) -> dict[str, object]:
    """The mapping of `pile_edge.config` from a TOML or CBOR file; ConfigError names the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        is_board = path.suffix == ".cbor"
        mapping = decode(data, MAX_CONFIG_BYTES) if is_board else _from_toml(tomllib.loads(data.decode()), path.parent)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    except PilechainError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path}: configuration must be a mapping")
    return mapping


def compile_config(source: Path, target: Path) -> int:
    """Check a TOML file and write it as the CBOR a board reads; the number of bytes written.

    Raises:
        ConfigError: as `load_config`, or the target cannot be written or would be too long.
    """
    mapping = load_mapping(source)
    if "ocmf" in mapping:
        raise ConfigError(f"{source}: a board has no room for OCMF records: leave out the section ocmf")
    control = _checked(source, mapping).control
    if control["kind"] not in ("coil", "gpio") or control.keys() & {"chip", "feedback_pin", "feedback_active_low"}:
        raise ConfigError(
            f'{source}: a board switches a coil, or a pin: control.kind "gpio" with pin and active_low alone'
        )
    try:
        data = encode(mapping)
    except PilechainError as error:
        raise ConfigError(f"{source}: {error}: use integers, text and true or false") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{source}: compiles to {len(data)} bytes; a board takes {MAX_CONFIG_BYTES}")
    try:
        target.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error
    return len(data)


def _checked(path: Path, mapping: dict[str, object]) -> Settings:
    try:
        return check_config(mapping, os.path.dirname(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_toml(mapping: dict[str, object], folder: Path) -> dict[str, object]:
    """Hexadecimal keys become bytes, and the meter's profile id becomes the profile as the meter was installed."""
    rows = mapping.get("validators")
    if isinstance(rows, list):
        mapping["validators"] = [_validator(row) for row in rows]
    if "update_public" in mapping:
        mapping["update_public"] = _key("update_public", mapping["update_public"])
    meter = mapping.get("meter")
    if isinstance(meter, dict):
        mapping["meter"] = _meter(meter, folder)
    return mapping


def _meter(meter: dict[str, object], folder: Path) -> dict[str, object]:
    """The `meter` section for a board: `profiles`, `model_address` and `word_order` have done their part by then."""
    profile_id, profiles = meter.get("profile"), meter.get("profiles")
    if not isinstance(profile_id, str):
        raise ConfigError("meter.profile must be the id of a meter profile")
    if profiles is not None and not isinstance(profiles, str):
        raise ConfigError("meter.profiles must be the folder of your own meter profiles")
    address, order = meter.get("model_address"), meter.get("word_order")
    if address is not None and (not isinstance(address, int) or not 0 <= address <= MAX_ADDRESS):
        raise ConfigError(f"meter.model_address must be an integer from 0 to {MAX_ADDRESS}")
    if order is not None and not isinstance(order, str):
        raise ConfigError('meter.word_order must be "big" or "little"')
    try:
        mapping = profile_mapping(profile_id, None if profiles is None else folder / profiles)
        installed = installed_profile(mapping, address, order)
    except ConfigError as error:
        raise ConfigError(f"meter.profile: {error}") from error
    rest = {key: value for key, value in meter.items() if key not in ("profiles", "model_address", "word_order")}
    return {**rest, "profile": board_profile(installed)}


def _validator(row: object) -> object:
    if not isinstance(row, dict) or "public" not in row:
        return row
    return {**row, "public": _key("validators.public", row["public"])}


def _key(name: str, text: object) -> bytes:
    try:
        return bytes.fromhex(text)  # type: ignore[arg-type] # what is no text is refused with the rest
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be 130 hexadecimal digits") from error
