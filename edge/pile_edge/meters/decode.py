"""Registers to watt-hours, pure, in integers only: a board's floats have 24 bits and would lose energy.

A profile (profiles/*.json, documented in `schema`) says where a meter keeps what. IEEE 754 values are taken apart into
an exact ratio of integers, scaled, and floored to Wh (energy) or rounded half away from zero to W (power). A SunSpec
value is read together with its scale factor, in one request, so that the two belong together.
`MeterReader` adds what makes a reading worth signing: bounded retries, and no falling or impossible energy.
"""

from binascii import unhexlify

from pile_edge.modbus import Bus, config_int, config_text
from pile_shared.errors import BusError, ConfigError
from pile_shared.units import MAX_ENERGY_WH, MAX_POWER_W

# Unsigned, two's complement or IEEE 754 float, and its bits
TYPES = ("u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64")
MAX_SCALE = 1_000_000_000  # a meter that counts GWh, or nWh
MAX_FACTOR = 10  # SunSpec Device Information Model Specification V1.1, sunssf: -10 to 10; 0x8000 is "not implemented"


class MeterError(BusError):
    """A meter that answered, but with no reading: `not_available`, `out_of_range`, `falling` or `implausible`."""

    code = "meter"


def _fail(key: str, expected: str) -> None:
    raise ConfigError("profile." + key + " must be " + expected)


class Register:
    """Where a value stands and what it counts: `numerator` / `denominator` of the target unit for each 1."""

    def __init__(self, mapping: object, path: str, scale_key: str, function: int, little: bool) -> None:
        """Take one register of a profile; ConfigError names the key that is wrong."""
        if not isinstance(mapping, dict):
            _fail(path, "a mapping with address and type")
        assert isinstance(mapping, dict)
        kind = mapping.get("type")
        if kind not in TYPES:
            _fail(path + ".type", "one of " + " ".join(TYPES))
        assert isinstance(kind, str)
        self.kind = kind[0]
        self.count = int(kind[1:]) // 16
        self.address = config_int(mapping, "profile." + path + ".address", 0, 0x10000 - self.count)
        self.function = config_int(mapping, "profile." + path + ".function", 3, 4, function)
        self.little = little
        scale = mapping.get(scale_key, [1, 1])
        if not isinstance(scale, list) or len(scale) != 2 or not all(_is_scale(part) for part in scale):
            _fail(path + "." + scale_key, "two integers [numerator, denominator] from 1 to " + str(MAX_SCALE))
        self.numerator: int = scale[0]
        self.denominator: int = scale[1]
        self.not_available = _raw(mapping.get("not_available"), path + ".not_available", self.count)
        self.span = self.count
        if "scale_factor" in mapping:
            end = self.address + self.count
            self.span += 1 + config_int(mapping, "profile." + path + ".scale_factor", end, min(end + 9, 0xFFFF)) - end

    def request(self) -> tuple[int, int, int]:
        """(function, address, count) to read it, its scale factor included."""
        return self.function, self.address, self.span

    def ratio(self, raw: bytes) -> tuple[int, int]:
        """The value in the target unit as an exact (numerator, denominator); MeterError if the bytes are no value."""
        if len(raw) != 2 * self.span:
            raise BusError("expected " + str(2 * self.span) + " register bytes, got " + str(len(raw)), "frame")
        if raw[: 2 * self.count] == self.not_available:
            raise MeterError("register " + str(self.address) + " is not available", "not_available")
        mantissa, top, bottom = self._parts(raw)
        return mantissa * top, bottom

    def step(self, raw: bytes) -> int:
        """The smallest change the register can show near this value, in the target unit, rounded up."""
        _, top, bottom = self._parts(raw)
        return -(-top // bottom)

    def evidence(self, raw: bytes) -> bytes:
        """What of a block tells the value, for a proof: the value's registers, and its scale factor if it has one."""
        return raw if self.span == self.count else raw[: 2 * self.count] + raw[-2:]

    def _parts(self, raw: bytes) -> tuple[int, int, int]:
        """(mantissa, top, bottom) with value = mantissa * top / bottom in the target unit, exactly."""
        mantissa, exponent = self._binary(raw[: 2 * self.count])
        top, bottom = self.numerator << max(0, exponent), self.denominator << max(0, -exponent)
        if self.span > self.count:
            factor = (int.from_bytes(raw[-2:], "big") + 0x8000 & 0xFFFF) - 0x8000
            if not -MAX_FACTOR <= factor <= MAX_FACTOR:
                raise MeterError("scale factor of register " + str(self.address) + " is not available", "not_available")
            top, bottom = top * 10 ** max(0, factor), bottom * 10 ** max(0, -factor)
        return mantissa, top, bottom

    def _binary(self, raw: bytes) -> tuple[int, int]:
        """(mantissa, exponent) with the number in the register = mantissa * 2^exponent, exactly."""
        bits = int.from_bytes(_swap_words(raw) if self.little else raw, "big")
        width = 16 * self.count
        negative = self.kind != "u" and bits >> width - 1
        if self.kind != "f":
            return (bits - (1 << width) if negative else bits), 0
        mantissa, exponent = _float_parts(bits & (1 << width - 1) - 1, width)
        return (-mantissa if negative else mantissa), exponent


def _float_parts(bits: int, width: int) -> tuple[int, int]:
    """(mantissa, exponent) of a non-negative IEEE 754-2008 binary32 or binary64 (section 3.4)."""
    fraction_bits, bias = (23, 127) if width == 32 else (52, 1023)
    exponent = bits >> fraction_bits
    fraction = bits & (1 << fraction_bits) - 1
    if exponent == 2 * bias + 1:
        if fraction:
            raise MeterError("register holds NaN", "not_available")
        raise MeterError("register holds infinity", "out_of_range")
    if exponent == 0:
        return fraction, 1 - bias - fraction_bits
    return fraction | 1 << fraction_bits, exponent - bias - fraction_bits


def _is_scale(part: object) -> bool:
    return isinstance(part, int) and not isinstance(part, bool) and 1 <= part <= MAX_SCALE


def _raw(text: object, path: str, count: int) -> bytes | None:
    if text is None:
        return None
    try:
        raw = unhexlify(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raw = b""
    if len(raw) != 2 * count:
        _fail(path, str(4 * count) + " hexadecimal digits")
    return raw


def _swap_words(raw: bytes) -> bytes:
    return b"".join([raw[at : at + 2] for at in range(len(raw) - 2, -2, -2)])


class Profile:
    """A checked profile: what `requests` and `decode` need, and what the bus and the first proof of a session say."""

    def __init__(self, mapping: dict) -> None:  # type: ignore[type-arg]
        """Take a profile's mapping; ConfigError names the key that is wrong and the form it should have."""
        self.id = config_text(mapping, "profile.id", 32)
        self.manufacturer = config_text(mapping, "profile.manufacturer", 32)
        self.model = config_text(mapping, "profile.model", 32)
        self.min_gap_ms = config_int(mapping, "profile.min_gap_ms", 0, 10_000)
        self.timeout_ms = config_int(mapping, "profile.timeout_ms", 10, 60_000)
        function = config_int(mapping, "profile.function", 3, 4)
        order = mapping.get("word_order")
        if order not in ("big", "little"):
            _fail("word_order", '"big" or "little"')
        little = order == "little"
        self.energy = Register(mapping.get("energy_import"), "energy_import", "scale_wh", function, little)
        power = mapping.get("power")
        phases = power if isinstance(power, list) else [power]
        if not 1 <= len(phases) <= 3:
            _fail("power", "one register, or a list of one to three that are summed")
        self.power = [Register(phase, "power", "scale_w", function, little) for phase in phases]
        serial = mapping.get("serial")
        self.serial = None if serial is None else Register(serial, "serial", "scale", function, little)


class Sample:
    """One reading: `raw` evidence of the energy as it came, `energy_wh` floored, signed `power_w`.

    `step_wh` is how much one count of the energy register is worth at this value.
    """

    def __init__(self, raw: bytes, energy_wh: int, power_w: int, step_wh: int) -> None:
        self.raw = raw
        self.energy_wh = energy_wh
        self.power_w = power_w
        self.step_wh = step_wh


def load_profile(mapping: object) -> Profile:
    """The profile in a mapping (from JSON, documentation left out or not); ConfigError says what is wrong with it."""
    if not isinstance(mapping, dict):
        raise ConfigError("profile must be a mapping")
    return Profile(mapping)


def requests(profile: Profile) -> list[tuple[int, int, int]]:
    """The (function, address, count) blocks to read for one sample, energy first."""
    return [profile.energy.request()] + [register.request() for register in profile.power]


def decode(profile: Profile, blocks: list[bytes]) -> Sample:
    """A sample from the raw register bytes of `requests`, in that order.

    Raises:
        MeterError: `not_available` (the meter's own marker, NaN), `out_of_range` (negative energy, infinity, or more
            than any meter can have counted).
        BusError: `frame` when a block has the wrong length.
    """
    if len(blocks) != 1 + len(profile.power):
        raise BusError("expected " + str(1 + len(profile.power)) + " register blocks", "frame")
    top, bottom = profile.energy.ratio(blocks[0])
    energy_wh = top // bottom
    if not 0 <= energy_wh <= MAX_ENERGY_WH:
        raise MeterError("energy outside 0 to " + str(MAX_ENERGY_WH) + " Wh", "out_of_range")
    top, bottom = 0, 1
    for register, raw in zip(profile.power, blocks[1:]):  # noqa: B905 - MicroPython's zip has no strict=
        part, divisor = register.ratio(raw)
        top, bottom = top * divisor + part * bottom, bottom * divisor
    power_w = (2 * abs(top) + bottom) // (2 * bottom)
    if power_w > MAX_POWER_W:
        raise MeterError("power outside " + str(MAX_POWER_W) + " W", "out_of_range")
    raw = blocks[0]
    return Sample(profile.energy.evidence(raw), energy_wh, power_w if top >= 0 else -power_w, profile.energy.step(raw))


class MeterReader:
    """Readings of one meter that are worth signing: what does not add up is read again, then raised, never returned.

    The first reading is taken twice, because alone it could be a transient zero that makes the whole register look
    like consumption later; `resume` with a value from the journal takes its place.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self,
        bus: Bus,
        profile: Profile,
        unit: int,
        *,
        clock_ms=None,  # noqa: ANN001 - callable giving ms on a clock that does not step
        max_power_w: int = 0,
        margin_percent: int = 10,
        slack_wh: int = 10,
        attempts: int = 3,
    ) -> None:
        """Read `unit` on `bus`.

        With `clock_ms` and `max_power_w`, energy may not rise by more than `max_power_w` over the time since the last
        sample, plus `margin_percent`, plus `slack_wh` and one step of the register. The margin is the chain's: a reading that
        is signed here and not believed there would freeze a session, or make the pile fail its next contract.
        """
        self.profile = profile
        self.unit = unit
        self.retries = 0
        self._bus = bus
        self._clock_ms = clock_ms or (lambda: 0)
        self._max_power_w = max_power_w if clock_ms else 0
        self._margin_percent = margin_percent
        self._slack_wh = slack_wh
        self._attempts = attempts
        self._energy_wh = 0
        self._time_ms = 0
        self._known = False

    def resume(self, energy_wh: int, time_ms: int) -> None:
        """Go on from a value known from before, read at `time_ms` of the same clock."""
        self._energy_wh, self._time_ms, self._known = energy_wh, time_ms, True

    def read(self) -> Sample:
        """The next sample, in at most `attempts` tries.

        Raises:
            BusError: the last try's failure: `timeout`, `crc`, `frame`, `exception`, `closed`.
            MeterError: `not_available`, `out_of_range`, `falling` or `implausible`.
        """
        failure = None
        for attempt in range(self._attempts):
            self.retries += 1 if attempt else 0
            try:
                return self._take() if self._known else self._take_first()
            except BusError as error:
                failure = error
        assert failure is not None
        raise failure

    def serial(self) -> int | None:
        """The meter's serial number, or None where its profile knows no register for it; BusError as in `read`."""
        register = self.profile.serial
        if register is None:
            return None
        failure = None
        for _ in range(self._attempts):
            try:
                return register.ratio(self._bus.read(self.unit, *register.request()))[0]
            except BusError as error:
                failure = error
        assert failure is not None
        raise failure

    def _sample(self) -> Sample:
        blocks = [self._bus.read(self.unit, *request) for request in requests(self.profile)]
        return decode(self.profile, blocks)

    def _take_first(self) -> Sample:
        # If the two disagree either may be the wrong one: `_known` stays False, and the next try starts afresh.
        before_ms = self._clock_ms()
        self._energy_wh, self._time_ms = self._sample().energy_wh, before_ms
        return self._take()

    def _take(self) -> Sample:
        # The clock is read on the outer side of both readings, so that the time spent on the bus is counted.
        before_ms = self._clock_ms()
        sample = self._sample()
        rise_wh = sample.energy_wh - self._energy_wh
        if rise_wh < 0:
            raise MeterError("energy fell by " + str(-rise_wh) + " Wh", "falling")
        if self._max_power_w:
            elapsed_ms = max(0, self._clock_ms() - self._time_ms)
            most_wh = self._max_power_w * elapsed_ms * (100 + self._margin_percent) // 360_000_000
            if rise_wh > most_wh + self._slack_wh + sample.step_wh:
                raise MeterError("energy rose by " + str(rise_wh) + " Wh, possible " + str(most_wh), "implausible")
        self.resume(sample.energy_wh, before_ms)
        return sample
