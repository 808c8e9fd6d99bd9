"""A pile's configuration, checked: one mapping, the same on both interpreters (docs: `pile-edge compile-config --help`).

    chain_id, pile_id     ids; what the chain and this pile are registered as
    signer                "file:<path>": where the pile's key is, made there at first use; not on a board also
                          "tpm2:<handle>[@<device>]" and "atecc:<slot>[@<bus>[:<address>]]" (docs/signers.md)
    validators            [{party, public, power}], ascending by party: the accounting nodes this pile believes
    update_public         optional: the key (65 bytes) whose signed offers of new software a board takes
    mqtt                  host, port; optionally username, password, keepalive_s, tls {ca, cert, key}
    bus                   kind "tcp" (host, port) or "rtu" (device, baud, parity, stopbits); timeout_ms, gap_ms, settle_ms
    meter                 profile, unit, serial, rated_power_w; timeout_ms, gap_ms, settle_ms, where it needs others than bus
    control               kind "coil", unit, coil, and the same three; kind "gpio", pin, active_low, and on a Raspberry
                          Pi chip, feedback_pin, feedback_active_low; or, not on a board, a charging station: see chargers.py
    timing (optional)     sample_ms, report_ms, heartbeat_ms, resend_ms, silent_after_ms, full_after_ms, full_below_w
    journal               path, and optionally capacity_bytes, segment_bytes
    ocmf (optional)       path of the records' folder; not on a board, and never seen here: see config_file
    clock (rigs only)     rate, origin_ms: simulated_ms = origin_ms + (real_ms - origin_ms) * rate, and with it all of timing

A board reads the mapping from CBOR; there keys are bytes and `profile` is the profile itself. On CPython `config_file`
reads TOML, where they are hexadecimal text and an id; there `meter` may also have `profiles`, the folder of the user's own,
`model_address`, where a SunSpec meter model begins, and `word_order`, if the meter was set to another. Relative paths are
relative to the configuration's folder.
"""

from pile_edge.control import open_control
from pile_edge.meters.decode import load_profile
from pile_edge.modbus import BusSpec, config_int, config_text, silence_us
from pile_edge.mqtt import check_spec
from pile_edge.session import Timing
from pile_edge.settings import Settings
from pile_shared.certificate import validators_from
from pile_shared.cose import PUBLIC_BYTES
from pile_shared.errors import ConfigError, PilechainError
from pile_shared.platform import MICROPYTHON
from pile_shared.units import MAX_POWER_W, MAX_TIME_MS, check_id, check_text

MAX_CONFIG_BYTES = 16384  # 100 validators of 110 bytes, and the rest
MAX_INTERVAL_MS = 86_400_000
MIN_INTERVAL_MS = 100  # a bus answers in tens of milliseconds; asked faster it would do nothing else
MAX_RATE = 100_000

_REQUIRED = ("chain_id", "pile_id", "signer", "validators", "mqtt", "bus", "meter", "control", "journal")
_INTERVALS = ("sample_ms", "report_ms", "heartbeat_ms", "resend_ms", "silent_after_ms", "full_after_ms")
# Keys of each section.
_SECTIONS = {
    "mqtt": ("host", "port", "username", "password", "tls", "keepalive_s"),
    "bus": (
        "kind",
        "host",
        "port",
        "device",
        "baud",
        "parity",
        "stopbits",
        "timeout_ms",
        "gap_ms",
        "settle_ms",
        "tx_pin",
        "rx_pin",
        "de_pin",
    ),
    "meter": ("profile", "unit", "serial", "rated_power_w", "timeout_ms", "gap_ms", "settle_ms"),
    "control": ("kind", "unit", "coil", "pin", "active_low", "timeout_ms", "gap_ms", "settle_ms"),
    "timing": _INTERVALS + ("full_below_w",),  # noqa: RUF005 - MicroPython cannot unpack into a tuple
    "journal": ("path", "capacity_bytes", "segment_bytes"),
    "clock": ("rate", "origin_ms"),
}
# Not for boards: charging stations, and what more a Raspberry Pi's lines can do.
_STATION_KEYS = ("host", "port", "connector", "limit_ma", "failsafe_s", "chip", "feedback_pin", "feedback_active_low")


def check_config(mapping: object, folder: str) -> Settings:
    """The settings in a mapping; `folder` is what relative paths start from.

    Raises:
        ConfigError: naming the key and the expected form.
    """
    if not isinstance(mapping, dict):
        raise ConfigError("configuration must be a mapping")
    _check_keys(mapping, "", _REQUIRED + ("timing", "clock", "update_public"))  # noqa: RUF005 - as above
    for key in _REQUIRED:
        if key not in mapping:
            raise ConfigError(key + " is missing")
    sections = {name: _section(mapping, name) for name in _SECTIONS}
    settings = Settings()
    settings.chain_id = _id(mapping, "chain_id")
    settings.pile_id = _id(mapping, "pile_id")
    settings.signer = _signer(mapping, folder)
    settings.validators = _validators(mapping["validators"])
    settings.update_public = mapping.get("update_public", b"")
    if not isinstance(settings.update_public, bytes) or len(settings.update_public) not in (0, PUBLIC_BYTES):
        raise ConfigError("update_public must be a public key of 65 bytes")
    settings.mqtt = _mqtt(sections["mqtt"], folder)
    settings.control = sections["control"]
    control = open_control(settings.control, None)  # type: ignore[arg-type] # for its checks: it asks nothing yet
    # A station with a host has a connection of its own.
    _take_meter(settings, sections["meter"], sections["bus"], 0 if "host" in settings.control else control.unit)
    settings.timing = _timing(sections["timing"])
    settings.rate = config_int(sections["clock"], "clock.rate", 1, MAX_RATE, 1)
    settings.origin_ms = config_int(sections["clock"], "clock.origin_ms", 0, MAX_TIME_MS, 0)
    _take_journal(settings, sections["journal"], folder)
    return settings


def _take_meter(settings: Settings, meter: dict, bus: dict, control_unit: int) -> None:  # type: ignore[type-arg]
    """The meter, and the bus with the pace of the meter and of a control that is a unit on it: their own or the bus's."""
    settings.profile = profile = load_profile(meter.get("profile"))
    settings.unit = config_int(meter, "meter.unit", 1, 247)
    settings.rated_power_w = config_int(meter, "meter.rated_power_w", 1, MAX_POWER_W)
    try:
        settings.meter_serial = check_text("meter.serial", meter.get("serial"), 32)
    except PilechainError as error:
        raise ConfigError(error.message)
    spec = BusSpec(bus)
    line_gap_ms = (silence_us(spec.baud) + 999) // 1000 if spec.kind == "rtu" else 0
    paces = spec.paces
    # The keys are written out because a board keeps texts as long as these in flash, and every short one in its heap.
    for keys, own, unit, needs_gap_ms, needs_timeout_ms in (
        (
            ("meter.gap_ms", "meter.timeout_ms", "meter.settle_ms"),
            meter,
            settings.unit,
            profile.min_gap_ms,
            profile.timeout_ms,
        ),
        (("control.gap_ms", "control.timeout_ms", "control.settle_ms"), settings.control, control_unit, 0, 0),
    ):
        if not unit:
            continue
        other = paces.get(unit, (0, 0, 0))  # meter and control are one device: what it needs in either part
        gap_ms = config_int(own, keys[0], 0, 10_000, bus.get("gap_ms", 0))
        # Of a profile the time that its meter needs, where nobody says another; what has none gets a second.
        usual_ms = bus.get("timeout_ms", needs_timeout_ms or 1000)
        timeout_ms = max(config_int(own, keys[1], 10, 60_000, usual_ms), needs_timeout_ms, other[1])
        settle_ms = config_int(own, keys[2], 0, 60_000, bus.get("settle_ms", timeout_ms))
        paces[unit] = (max(gap_ms, line_gap_ms, needs_gap_ms, other[0]), timeout_ms, max(settle_ms, other[2]))
    bus["paces"] = paces
    settings.bus = bus


def _take_journal(settings: Settings, journal: dict, folder: str) -> None:  # type: ignore[type-arg]
    settings.journal_path = resolve(folder, config_text(journal, "journal.path", 255))
    segment_bytes = config_int(journal, "journal.segment_bytes", 2062, 1 << 24, 16384)
    settings.journal_segment_bytes = segment_bytes
    settings.journal_capacity_bytes = config_int(
        journal, "journal.capacity_bytes", 4 * segment_bytes, 1 << 32, 16 * segment_bytes
    )


def resolve(folder: str, path: str) -> str:
    """A path as seen from the working directory, if it was relative to `folder`."""
    return path if path.startswith("/") or not folder else folder + "/" + path


def _check_keys(mapping: dict, prefix: str, known: tuple) -> None:  # type: ignore[type-arg]
    for key in mapping:
        if key not in known:
            raise ConfigError(prefix + str(key) + " is not a key; known: " + " ".join(known))


def _section(mapping: dict, name: str) -> dict:  # type: ignore[type-arg]
    section = mapping.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(name + " must be a section with " + " ".join(_SECTIONS[name]))
    known = _SECTIONS[name]
    if not MICROPYTHON and name == "control":
        known += _STATION_KEYS
    _check_keys(section, name + ".", known)
    return dict(section)


def _id(mapping: dict, key: str) -> str:  # type: ignore[type-arg]
    try:
        return check_id(key, mapping[key])
    except PilechainError as error:
        raise ConfigError(error.message)


def _signer(mapping: dict, folder: str) -> str:  # type: ignore[type-arg]
    uri = config_text(mapping, "signer", 255)
    kind, _, rest = uri.partition(":")
    if kind == "file" and rest:
        return kind + ":" + resolve(folder, rest)
    if not MICROPYTHON:
        from pile_edge.signers.hardware import check_uri

        return check_uri(uri)
    raise ConfigError('signer must be "file:<path>"')


def _mqtt(section: dict, folder: str) -> dict:  # type: ignore[type-arg]
    try:
        check_spec(section)
    except ConfigError as error:
        raise ConfigError(error.message.replace("link", "mqtt"))
    if "tls" in section:
        tls = section["tls"]
        section["tls"] = {key: resolve(folder, config_text(tls, "mqtt.tls." + key, 255)) for key in tls}
    return section


def _validators(rows: object) -> list:  # type: ignore[type-arg]
    expected = "validators must be [{party, public, power}, ...], ascending by party"
    if not isinstance(rows, list):
        raise ConfigError(expected)
    for row in rows:
        if not isinstance(row, dict) or sorted(row) != ["party", "power", "public"]:
            raise ConfigError(expected)
    try:
        return validators_from([[row["party"], row["public"], row["power"]] for row in rows])
    except PilechainError as error:
        raise ConfigError("validators: " + error.message)


def _timing(section: dict) -> Timing:  # type: ignore[type-arg]
    values = {
        key: config_int(section, "timing." + key, MIN_INTERVAL_MS, MAX_INTERVAL_MS)
        for key in _INTERVALS
        if key in section
    }
    if "full_below_w" in section:
        values["full_below_w"] = config_int(section, "timing.full_below_w", 1, MAX_POWER_W)
    timing = Timing(**values)
    if timing.report_ms < timing.sample_ms:
        raise ConfigError("timing.report_ms must be at least timing.sample_ms")
    return timing
