"""The profiles in profiles/*.json, for programs on CPython; a board gets the one it needs through `board_profile`.

A profile is data, each citing its source:

    id, manufacturer, model    at most 32 characters each
    source, traps              text for people: where the addresses come from, what has gone wrong for others
    function                   3 (holding) or 4 (input registers); any register may carry its own
    word_order                 "big" or "little": which 16-bit word of a value comes first
    energy_import              {address (0-based), type, scale_wh, not_available}
    power                      the same with scale_w; a list of up to three is summed
    serial                     optional integer register
    voltage, current           optional lists with scale_mv, scale_ma
    probe                      {address, type, scale, range}: a register whose scaled value lies in the range, or
                               {address, count, expected}: register bytes in hexadecimal
    min_gap_ms, timeout_ms     silence the meter needs between frames; how long it may take to answer
    golden                     registers by address -> energy_wh, power_w, decoded by a test

`type` is u16 i16 u32 i32 u64 i64 f32 f64; a scale is [numerator, denominator], so that one count of the register is
numerator / denominator of the unit; `not_available` is the register bytes, in hexadecimal, that mean "no value".
"""

import json
from pathlib import Path

from pile_edge.meters.decode import MeterError, Profile, Register, load_profile
from pile_shared.errors import BusError, ConfigError

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


def profile_ids() -> list[str]:
    """The ids of all profiles, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def profile_mapping(profile_id: str) -> dict[str, object]:
    """The whole profile as written; ConfigError lists the known ids."""
    if profile_id not in profile_ids():
        raise ConfigError(f"no meter profile {profile_id!r}; known: {', '.join(profile_ids())}")
    mapping = json.loads((_FOLDER / f"{profile_id}.json").read_text())
    assert isinstance(mapping, dict)
    return mapping


def find_profile(profile_id: str) -> Profile:
    """The checked profile of that id; ConfigError if there is none."""
    return load_profile(profile_mapping(profile_id))


def board_profile(mapping: dict[str, object]) -> dict[str, object]:
    """What a board needs of a profile: documentation, probe and golden frames stay at home."""
    return {key: mapping[key] for key in _ON_BOARD if key in mapping}


def probe_request(mapping: dict[str, object]) -> tuple[int, int, int]:
    """The (function, address, count) whose answer tells whether a meter may be of this profile."""
    probe, register = _probe(mapping)
    if register is not None:
        return register.request()
    return int(probe.get("function", mapping["function"])), int(probe["address"]), int(probe["count"])


def probe_matches(mapping: dict[str, object], raw: bytes) -> bool:
    """Whether the answer to `probe_request` is what a meter of this profile says."""
    probe, register = _probe(mapping)
    if register is None:
        return raw == bytes.fromhex(probe["expected"])
    try:
        top, bottom = register.ratio(raw)
    except (MeterError, BusError):
        return False
    low, high = probe["range"]
    return bool(low * bottom <= top <= high * bottom)


def _probe(mapping: dict[str, object]) -> tuple[dict, Register | None]:  # type: ignore[type-arg]
    probe, function = mapping.get("probe"), mapping.get("function")
    if not isinstance(probe, dict) or not isinstance(function, int):
        raise ConfigError("profile.probe must be a mapping, profile.function 3 or 4")
    if "expected" in probe:
        return probe, None
    return probe, Register(probe, "probe", "scale", function, mapping["word_order"] == "little")


def bus_spec_for(profile: Profile, spec: dict[str, object]) -> dict[str, object]:
    """A bus section whose gap and timeout are at least what this meter needs; meters on one line: apply it in turn."""
    gap, timeout = spec.get("gap_ms", 0), spec.get("timeout_ms", 0)
    if not isinstance(gap, int) or not isinstance(timeout, int):
        raise ConfigError("bus.gap_ms and bus.timeout_ms must be integers")
    return {**spec, "gap_ms": max(gap, profile.min_gap_ms), "timeout_ms": max(timeout, profile.timeout_ms)}
