"""What a meter profile may say, and the check of one: errors name the file and the key. CPython only.

A profile is data, one JSON file; `docs/meters.md` shows how to write one. Addresses are 0-based, as on the wire.

    id                         the file's name without .json
    manufacturer, model        at most 32 characters each
    phases                     1 or 3
    source                     list of text: which document or table the addresses come from, with version and page
    traps                      list of text, may be empty: what has gone wrong for others
    function                   3 (holding) or 4 (input registers); any register may carry its own
    both_functions (optional)  true if the meter answers both function codes alike
    word_order                 "big" or "little": which 16-bit word of a value comes first, as the meter is delivered
    word_orders (optional)     the orders the meter can be set to; a configuration may then choose
    counts                     "import", or "total": import and export summed, the meter knows no better
    energy_import              REGISTER with scale_wh
    power                      REGISTER with scale_w; a list of up to three is summed
    serial (optional)          REGISTER of an integer: the serial number
    serial_text (optional)     {function, address, count, form}: "ascii", or "hex" for one whose digits are packed
    voltage, current,          optional lists of REGISTER with scale_mv, scale_ma;
    frequency                  optional REGISTER with scale_mhz (millihertz)
    identify (optional)        list of {function, address, count, one_of | text}: registers that tell the model; all must
                               match. one_of: register bytes in hexadecimal; text: beginnings of the ASCII they hold
    sunspec (optional)         {model, length}: addresses count from the model's ID register, which `scan` finds
    line, tcp                  {baud, parity, stopbits, unit, known} and {port, unit}: how it is delivered; at least one.
                               known: "vendor", "project" (another project's default), or "assumed"
    max_registers              most it answers in one request
    refuses (optional)         addresses that some firmware answers with exception 2
    min_gap_ms, timeout_ms     silence it needs between frames; how long it may take to answer
    golden                     list of {unit, exchanges: [[request, response]...], energy_wh, power_w, note}: whole RTU
                               frames in hexadecimal, and what they mean; with model_address for a SunSpec profile

    REGISTER                   {address, type, scale, not_available, function, scale_factor}

`type` is u16 i16 u32 i32 u64 i64 f32 f64; a scale is [numerator, denominator], so that one count of the register is
numerator / denominator of the unit; `not_available` is the register bytes, in hexadecimal, that mean "no value";
`scale_factor` is the address of a SunSpec scale factor, at most 9 registers after the value.
"""

from collections.abc import Mapping
from typing import Any

from pile_edge import modbus
from pile_edge.meters.decode import Register, decode, load_profile, requests
from pile_edge.modbus import config_int, config_text
from pile_shared.errors import ConfigError, PilechainError

QUANTITIES = {"voltage": "scale_mv", "current": "scale_ma"}
PARITIES = ("N", "E", "O")
MAX_TEXT = 300  # one line of a table on a page
_REQUIRED = (
    *("id", "manufacturer", "model", "phases", "source", "traps", "function", "word_order", "counts", "energy_import"),
    *("power", "max_registers", "min_gap_ms", "timeout_ms", "golden"),
)
_OPTIONAL = (
    *("both_functions", "word_orders", "serial", "serial_text", "voltage", "current", "frequency", "identify"),
    *("sunspec", "line", "tcp", "refuses"),
)
_REGISTER_KEYS = ("address", "type", "not_available", "function", "scale_factor")
_GOLDEN_KEYS = ("unit", "exchanges", "energy_wh", "power_w", "note", "model_address")


def check_profile(mapping: object, profile_id: str, name: str) -> dict[str, Any]:
    """The mapping of a profile that passed every check, having `profile_id`; `name` is what errors call its file.

    Raises:
        ConfigError: "<name>: profile.<key> must be <form>".
    """
    try:
        return _checked(mapping, profile_id)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}") from error


def at_model(mapping: Mapping[str, Any], model_address: int) -> dict[str, Any]:
    """A SunSpec profile with the addresses it has where its model begins at `model_address`; ConfigError if it has none."""
    if "sunspec" not in mapping:
        raise ConfigError("meter.model_address is for SunSpec profiles only")
    moved = dict(mapping)
    for key in ("energy_import", "power", "frequency", "voltage", "current"):
        if key in mapping:
            moved[key] = _moved(mapping[key], model_address)
    moved.pop("sunspec")
    return moved


def with_word_order(mapping: Mapping[str, Any], order: str) -> dict[str, Any]:
    """The profile of the same meter set to the other word order."""
    if order == mapping["word_order"]:
        return dict(mapping)
    turned = {**mapping, "word_order": order}
    for key in ("energy_import", "power", "frequency", "voltage", "current", "serial"):
        if key in mapping:
            turned[key] = _turned(mapping[key])
    return turned


def _moved(register: Any, by: int) -> Any:
    if isinstance(register, list):
        return [_moved(one, by) for one in register]
    return {**register, **{key: register[key] + by for key in ("address", "scale_factor") if key in register}}


def _turned(register: Any) -> Any:
    """The marker for "not available" is given as the bytes come, so it turns with them."""
    if isinstance(register, list):
        return [_turned(one) for one in register]
    if "not_available" not in register:
        return register
    raw = bytes.fromhex(register["not_available"])
    words = [raw[at : at + 2] for at in range(0, len(raw), 2)]
    return {**register, "not_available": b"".join(reversed(words)).hex()}


def _checked(mapping: object, profile_id: str) -> dict[str, Any]:
    if not isinstance(mapping, dict):
        raise ConfigError("profile must be a mapping")
    _keys(mapping, "profile", _REQUIRED, _OPTIONAL)
    load_profile(mapping)
    _expect(mapping["id"] == profile_id, "id", f'"{profile_id}", as its file is called')
    _expect(mapping["phases"] in (1, 3), "phases", "1 or 3")
    _expect(mapping["counts"] in ("import", "total"), "counts", '"import" or "total"')
    _expect(isinstance(mapping.get("both_functions", False), bool), "both_functions", "true or false")
    config_int(mapping, "profile.max_registers", 1, modbus.MAX_REGISTERS)
    _texts(mapping, "source", least=1)
    _texts(mapping, "traps", least=0)
    _word_orders(mapping)
    _registers(mapping)
    _identify(mapping)
    _interfaces(mapping)
    if "sunspec" in mapping:
        _keys(_mapping(mapping, "sunspec"), "profile.sunspec", ("model", "length"), ())
        config_int(mapping["sunspec"], "profile.sunspec.model", 1, 0xFFFE)
        config_int(mapping["sunspec"], "profile.sunspec.length", 1, 0xFFFF)
    refused = mapping.get("refuses", [])
    _expect(isinstance(refused, list) and all(_is_int(at, 0, 0xFFFF) for at in refused), "refuses", "addresses")
    _golden(mapping)
    return mapping


def _registers(mapping: dict[str, Any]) -> None:
    """The keys of every register, and the form of those a board has no use for."""
    powers = mapping["power"] if isinstance(mapping["power"], list) else [mapping["power"]]
    named = [("energy_import", "scale_wh", mapping["energy_import"])]
    named += [("power", "scale_w", register) for register in powers]
    for key, scale in QUANTITIES.items():
        listed = mapping.get(key, [])
        _expect(isinstance(listed, list) and len(listed) in (0, 1, 3), key, "a list of one or three registers")
        named += [(key, scale, register) for register in listed]
    named += [("frequency", "scale_mhz", mapping["frequency"])] if "frequency" in mapping else []
    named += [("serial", "scale", mapping["serial"])] if "serial" in mapping else []
    for key, scale, register in named:
        checked = Register(register, key, scale, mapping["function"], mapping["word_order"] == "little")
        _keys(register, f"profile.{key}", ("address", "type"), (*_REGISTER_KEYS, scale))
        _expect(checked.span <= mapping["max_registers"], key, "within max_registers of one request")
    if "serial_text" in mapping:
        entry = _mapping(mapping, "serial_text")
        _keys(entry, "profile.serial_text", ("function", "address", "count", "form"), ())
        _block(entry, "serial_text", mapping["max_registers"])
        _expect(entry["form"] in ("ascii", "hex"), "serial_text.form", '"ascii" or "hex"')


def _identify(mapping: dict[str, Any]) -> None:
    rules = mapping.get("identify", [])
    _expect(isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules), "identify", "a list of mappings")
    for rule in rules:
        _keys(rule, "profile.identify", ("function", "address", "count"), ("one_of", "text"))
        _block(rule, "identify", mapping["max_registers"])
        _expect(("one_of" in rule) != ("text" in rule), "identify", "with either one_of or text")
        values = rule.get("one_of", rule.get("text"))
        _expect(isinstance(values, list) and len(values) > 0, "identify", "with a list of at least one value")
        for value in values:
            size = _hex(value, "identify.one_of") if "one_of" in rule else len(_text(value, "identify.text"))
            fits = size == 2 * rule["count"] if "one_of" in rule else size <= 2 * rule["count"]
            _expect(fits, "identify", f"values that fit {rule['count']} registers")


def _interfaces(mapping: dict[str, Any]) -> None:
    _expect("line" in mapping or "tcp" in mapping, "line", "given, or profile.tcp")
    if "line" in mapping:
        line = _mapping(mapping, "line")
        _keys(line, "profile.line", ("baud", "parity", "stopbits", "unit", "known"), ())
        config_int(line, "profile.line.baud", 300, 1_000_000)
        config_int(line, "profile.line.stopbits", 1, 2)
        config_int(line, "profile.line.unit", 1, 247)
        _expect(line["parity"] in PARITIES, "line.parity", '"N", "E" or "O"')
        _expect(line["known"] in ("vendor", "project", "assumed"), "line.known", '"vendor", "project" or "assumed"')
    if "tcp" in mapping:
        tcp = _mapping(mapping, "tcp")
        _keys(tcp, "profile.tcp", ("port", "unit"), ())
        config_int(tcp, "profile.tcp.port", 1, 65_535)
        config_int(tcp, "profile.tcp.unit", 0, 255)


def _word_orders(mapping: dict[str, Any]) -> None:
    orders = mapping.get("word_orders", [mapping["word_order"]])
    good = isinstance(orders, list) and set(orders) <= {"big", "little"} and mapping["word_order"] in orders
    _expect(good, "word_orders", 'a list of "big" and "little" with word_order in it')


def _golden(mapping: dict[str, Any]) -> None:
    rows = mapping["golden"]
    _expect(isinstance(rows, list) and len(rows) > 0, "golden", "a list of at least one sample")
    for index, row in enumerate(rows):
        path = f"golden[{index}]"
        _expect(isinstance(row, dict), path, "a mapping")
        _keys(row, f"profile.{path}", ("unit", "exchanges", "energy_wh", "power_w"), _GOLDEN_KEYS)
        try:
            _check_golden(mapping, row, path)
        except ConfigError:
            raise
        except PilechainError as error:
            raise ConfigError(f"profile.{path} must be frames that decode: {error.message}") from error


def _check_golden(mapping: dict[str, Any], row: dict[str, Any], path: str) -> None:
    unit = config_int(row, f"profile.{path}.unit", 1, 247)
    if "sunspec" in mapping:
        mapping = at_model(mapping, config_int(row, f"profile.{path}.model_address", 0, 0xFFFF))
    profile = load_profile(mapping)
    asked = requests(profile)
    exchanges = row["exchanges"]
    _expect(isinstance(exchanges, list) and len(exchanges) == len(asked), f"{path}.exchanges", f"{len(asked)} pairs")
    blocks = []
    for pair, (function, address, count) in zip(exchanges, asked, strict=True):
        _expect(isinstance(pair, list) and len(pair) == 2, f"{path}.exchanges", "pairs of request and response")
        request, response = (bytes.fromhex(frame) for frame in pair if _hex(frame, f"{path}.exchanges"))
        pdu = modbus.read_request(function, address, count)
        _expect(request == modbus.rtu_frame(unit, pdu), f"{path}.exchanges", f"a request for {count} at {address}")
        blocks.append(modbus.parse_response(pdu, modbus.rtu_pdu(unit, response)))
    sample = decode(profile, blocks)
    found = (sample.energy_wh, sample.power_w)
    _expect(found == (row["energy_wh"], row["power_w"]), path, f"what its frames say: {found[0]} Wh, {found[1]} W")


def _block(entry: dict[str, Any], path: str, most: int) -> None:
    config_int(entry, f"profile.{path}.function", 3, 4)
    config_int(entry, f"profile.{path}.address", 0, 0xFFFF)
    config_int(entry, f"profile.{path}.count", 1, most)


def _texts(mapping: dict[str, Any], key: str, least: int) -> None:
    values = mapping[key]
    _expect(isinstance(values, list) and len(values) >= least, key, f"a list of at least {least} texts")
    for value in values:
        _text(value, key)


def _text(value: object, path: str) -> str:
    return config_text({path.rsplit(".", 1)[-1]: value}, f"profile.{path}", MAX_TEXT)


def _hex(value: object, path: str) -> int:
    try:
        return len(bytes.fromhex(value))  # type: ignore[arg-type] # what is no text is a TypeError
    except (TypeError, ValueError) as error:
        raise ConfigError(f"profile.{path} must be hexadecimal digits") from error


def _mapping(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    value = mapping[key]
    _expect(isinstance(value, dict), key, "a mapping")
    assert isinstance(value, dict)
    return value


def _keys(mapping: dict[str, Any], path: str, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    for key in required:
        if key not in mapping:
            raise ConfigError(f"{path}.{key} is missing")
    for key in mapping:
        if key not in required and key not in optional:
            raise ConfigError(f"{path}.{key} is not a key; known: {' '.join(sorted({*required, *optional}))}")


def _is_int(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _expect(condition: bool, key: str, expected: str) -> None:
    if not condition:
        raise ConfigError(f"profile.{key} must be {expected}")
