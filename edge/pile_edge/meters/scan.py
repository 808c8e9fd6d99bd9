"""Finding the meters on a bus and naming them: every line setting, every address, in bounded time. CPython only.

A unit is found when it answers a greeting with anything, a refusal included. It is named by the registers in which
meters tell their model (`certain`); failing that by readings that make sense for one map only (`likely`) or for several
(`possible`). A unit that fits no profile is reported as such: it may be a relay, or a meter nobody has described.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pile_edge.meters.catalogue import installed_profile
from pile_edge.meters.decode import Register, decode, load_profile, requests
from pile_edge.meters.schema import with_word_order
from pile_edge.meters.sunspec import Nameplate, find_models, nameplate, text_of
from pile_edge.modbus import READ_HOLDING, READ_INPUT, Bus
from pile_shared.errors import BusError, PilechainError

CERTAIN, LIKELY, POSSIBLE, UNKNOWN = "certain", "likely", "possible", "unknown"
GREETINGS = ((READ_INPUT, 0, 2), (READ_HOLDING, 0, 2))
# Every low-voltage grid, single phase and line to line, with what a bad day adds.
VOLTAGE_MV = (80_000, 520_000)
FREQUENCY_MHZ = (45_000, 65_000)
PLAUSIBLE_W = 250_000  # a meter for direct connection ends at 100 A
PLAUSIBLE_WH = 10_000_000_000  # 10 GWh: such a meter at full load for a century
ATTEMPTS = 2
CHARACTER_BITS = 11
FRAME_CHARACTERS = 24  # a greeting of 8, an answer of 9, and the silence around them
_ABSENT = ("Modbus exception 10:", "Modbus exception 11:")  # a gateway that speaks for a unit that is not there

OpenBus = Callable[[dict[str, object]], Bus]
Progress = Callable[[int, int, str], None]


class Line(NamedTuple):
    """How a serial line is set."""

    baud: int
    parity: str
    stopbits: int

    def __str__(self) -> str:
        """As people write it: 9600 8N1."""
        return f"{self.baud} 8{self.parity}{self.stopbits}"


@dataclass(frozen=True)
class Plan:
    """What to try: `bus` is a bus section without the line's settings; `lines` is empty on TCP.

    `gap_ms` of silence before each question: some meters restart when they are hurried, behind a gateway too.
    """

    bus: Mapping[str, object]
    lines: Sequence[Line]
    units: Sequence[int]
    timeout_ms: int = 200
    gap_ms: int = 100
    budget_s: int = 600

    def specs(self) -> list[tuple[Line | None, dict[str, object]]]:
        """The bus section of each line, with the time a character takes there."""
        if not self.lines:
            return [(None, {**self.bus, "timeout_ms": self.timeout_ms, "gap_ms": self.gap_ms})]
        return [
            (line, {**self.bus, **line._asdict(), "timeout_ms": self.patience_ms(line), "gap_ms": self.gap_ms})
            for line in self.lines
        ]

    def patience_ms(self, line: Line | None) -> int:
        """How long to wait for an answer, in ms."""
        return self.timeout_ms + (FRAME_CHARACTERS * CHARACTER_BITS * 1000 // line.baud if line else 0)

    def silent_ms(self) -> int:
        """How long it takes when nobody answers, in ms; every unit found adds some seconds."""
        lines: Sequence[Line | None] = self.lines or [None]
        return sum(len(GREETINGS) * len(self.units) * (self.patience_ms(line) + self.gap_ms) for line in lines)


@dataclass
class Finding:
    """A unit that answered, and what it is; `profiles` are candidates, all of which read alike unless `possible`."""

    unit: int
    line: Line | None
    sure: str = UNKNOWN
    profiles: list[str] = field(default_factory=list)
    serial: str = ""
    says: str = ""
    model_address: int | None = None
    word_order: str = ""  # where it is not the one the meter is delivered with
    energy_wh: int | None = None
    power_w: int | None = None
    note: str = ""


@dataclass
class Report:
    """What a scan found.

    `garbled` are places with answers that were no frames, `refused` lines that the adapter cannot be set to, with the
    reason; `unfinished` says what time ran out on.
    """

    findings: list[Finding] = field(default_factory=list)
    garbled: list[tuple[int, Line | None]] = field(default_factory=list)
    refused: list[tuple[Line, str]] = field(default_factory=list)
    unfinished: str = ""


class OutOfTimeError(PilechainError):
    """The scan's budget is used up."""

    code = "scan"


class Asker:
    """Questions to one unit, each asked once: the profiles of a family share most of theirs."""

    def __init__(self, bus: Bus, unit: int, deadline_s: float, clock_s: Callable[[], float]) -> None:
        self.unit = unit
        self._bus = bus
        self._deadline_s = deadline_s
        self._clock_s = clock_s
        self._known: dict[tuple[int, int, int], bytes | None] = {}

    def ask(self, request: tuple[int, int, int]) -> bytes | None:
        """The registers, or None if the unit refuses or stays silent.

        Raises:
            OutOfTimeError: the scan's budget is used up.
            BusError: `closed`.
        """
        if request not in self._known:
            self._known[request] = self._ask(request)
        return self._known[request]

    def read(self, unit: int, function: int, address: int, count: int) -> bytes:
        """Registers of a unit, as `Bus.read` says. Devices that hang up on a question they do not like are called again.

        Raises:
            OutOfTimeError: the scan's budget is used up.
            BusError: as the bus.
        """
        if self._clock_s() > self._deadline_s:
            raise OutOfTimeError(f"time ran out at address {self.unit}")
        try:
            return self._bus.read(unit, function, address, count)
        except BusError as error:
            if error.code != "closed":
                raise
        return self._bus.read(unit, function, address, count)

    def greet(self) -> str:
        """Whether anybody is there: "" for silence, else "here" or "garbled"."""
        heard = ""
        for request in GREETINGS:
            for _ in range(ATTEMPTS):
                try:
                    self._known[request] = self.read(self.unit, *request)
                    return "here"
                except BusError as error:
                    if error.code == "closed":
                        raise
                    if error.code == "exception" and not error.message.startswith(_ABSENT):
                        self._known[request] = None
                        return "here"
                    if error.code not in ("crc", "frame"):
                        break
                    heard = "garbled"
        return heard

    def _ask(self, request: tuple[int, int, int]) -> bytes | None:
        for _ in range(ATTEMPTS):
            try:
                return self.read(self.unit, *request)
            except BusError as error:
                if error.code == "closed":
                    raise
                if error.code == "exception":
                    return None
        return None


def usual_lines(mappings: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The settings that the known meters are delivered with, the most frequent first."""
    counted = Counter(
        Line(entry["line"]["baud"], entry["line"]["parity"], entry["line"]["stopbits"])
        for entry in mappings
        if "line" in entry
    )
    return [line for line, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def scan(
    plan: Plan,
    mappings: Sequence[Mapping[str, Any]],
    open_bus: OpenBus,
    progress: Progress = lambda _done, _total, _what: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> Report:
    """Try everything in the plan, and name who answers.

    Raises:
        BusError: `closed`, the device or connection cannot be opened.
        ConfigError: the bus section is wrong.
    """
    report = Report()
    deadline_s = clock_s() + plan.budget_s
    specs = plan.specs()
    for index, (line, spec) in enumerate(specs):
        bus = open_bus(spec)

        def tell(step: int, what: str, before: int = index * len(plan.units)) -> None:
            progress(before + step, len(specs) * len(plan.units), what)

        def asker_for(unit: int, on: Bus = bus) -> Asker:
            return Asker(on, unit, deadline_s, clock_s)

        try:
            _scan_line(report, plan, line, mappings, tell, asker_for)
        except OutOfTimeError as error:
            report.unfinished = f"{error.message}, {line or 'TCP'}"
            return report
        except BusError as error:
            if line is None or len(report.refused) == len(specs) - 1:
                raise
            report.refused.append((line, error.message))
        finally:
            bus.close()
    progress(len(specs) * len(plan.units), len(specs) * len(plan.units), "")
    return report


def _scan_line(
    report: Report,
    plan: Plan,
    line: Line | None,
    mappings: Sequence[Mapping[str, Any]],
    tell: Callable[[int, str], None],
    asker_for: Callable[[int], Asker],
) -> None:
    for step, unit in enumerate(plan.units):
        tell(step, f"{line or 'TCP'}, address {unit}")
        if not _found_at(report, unit, line):
            _try_unit(report, asker_for(unit), line, mappings)


def _found_at(report: Report, unit: int, line: Line | None) -> bool:
    """Whether a unit was found at this speed already: who hears a line does not need it with another parity."""
    return any(found.unit == unit and found.line and line and found.line.baud == line.baud for found in report.findings)


def _try_unit(report: Report, asker: Asker, line: Line | None, mappings: Sequence[Mapping[str, Any]]) -> None:
    heard = asker.greet()
    if heard == "garbled":
        report.garbled.append((asker.unit, line))
    elif heard:
        finding = Finding(asker.unit, line)
        report.findings.append(finding)
        name(finding, asker, mappings)


def name(finding: Finding, asker: Asker, mappings: Sequence[Mapping[str, Any]]) -> None:
    """Find out what a unit is, and read it once."""
    if _name_sunspec(finding, asker, [mapping for mapping in mappings if "sunspec" in mapping]):
        return
    others = [mapping for mapping in mappings if "sunspec" not in mapping]
    verdicts = {mapping["id"]: _verdict(asker, mapping) for mapping in others}
    told = [mapping for mapping in others if verdicts[mapping["id"]] is True]
    if told:
        finding.sure = CERTAIN
        finding.profiles = [mapping["id"] for mapping in told]
        _read(finding, asker, told[0])
        if finding.energy_wh is None:
            finding.note = "it tells this model, but its energy does not read as the profile says"
        return
    _name_by_readings(finding, asker, [mapping for mapping in others if verdicts[mapping["id"]] is None])


def _name_sunspec(finding: Finding, asker: Asker, mappings: list[Mapping[str, Any]]) -> bool:
    models = find_models(asker, asker.unit)
    if not models:
        return False
    plate = nameplate(asker, asker.unit, models)
    finding.serial, finding.says = plate.serial, _plate_text(plate)
    for model in models:
        for mapping in mappings:
            if mapping["sunspec"] == {"model": model.id, "length": model.length}:
                finding.sure, finding.profiles, finding.model_address = CERTAIN, [mapping["id"]], model.address
                _read(finding, asker, installed_profile(mapping, model.address))
                return True
    finding.note = f"a SunSpec device without a meter model; it has {', '.join(str(model.id) for model in models)}"
    return True


def _plate_text(plate: Nameplate) -> str:
    return " ".join(part for part in (plate.manufacturer, plate.model) if part)


def _verdict(asker: Asker, mapping: Mapping[str, Any]) -> bool | None:
    """Whether a unit says it is this model: True, False, or None if it does not say."""
    rules = mapping.get("identify", [])
    said = False
    for rule in rules:
        raw = asker.ask((rule["function"], rule["address"], rule["count"]))
        if raw is None or not raw.strip(b"\0") or not raw.strip(b"\xff"):
            return None
        matches = raw.hex() in rule["one_of"] if "one_of" in rule else text_of(raw).startswith(tuple(rule["text"]))
        if not matches:
            return False
        said = True
    return True if said else None


def _name_by_readings(finding: Finding, asker: Asker, mappings: list[Mapping[str, Any]]) -> None:
    tried = [
        with_word_order(mapping, order)
        for mapping in mappings
        for order in mapping.get("word_orders", [mapping["word_order"]])
    ]
    scores = [_score(asker, mapping) for mapping in tried]
    best = max(scores, default=0)
    if best == 0:
        finding.note = "answers, but no profile fits: a relay or charger, or a meter that needs a profile of its own"
        return
    leading = [mapping for mapping, score in zip(tried, scores, strict=True) if score == best]
    maps = {str(_map_of(mapping)) for mapping in leading}
    finding.profiles = [mapping["id"] for mapping in leading]
    finding.sure = LIKELY if len(maps) == 1 else POSSIBLE
    if len(leading) > 1:
        finding.note = "these read alike: go by the label" if len(maps) == 1 else "compare the reading with the display"
    delivered = {mapping["id"]: mapping["word_order"] for mapping in mappings}
    if leading[0]["word_order"] != delivered[leading[0]["id"]]:
        finding.word_order = leading[0]["word_order"]
    _read(finding, asker, leading[0])


def _score(asker: Asker, mapping: Mapping[str, Any]) -> int:
    """How many kinds of reading besides energy and power make sense with this profile; 0 if any does not.

    Energy and power alone prove nothing: other meters' registers read as small numbers are plausible too.
    """
    first = mapping.get("voltage", [])[:1]
    checks = [(register, "scale_mv", VOLTAGE_MV) for register in first]
    if "frequency" in mapping:
        checks.append((mapping["frequency"], "scale_mhz", FREQUENCY_MHZ))
    for register, scale, (low, high) in checks:
        value = _value(asker, mapping, register, scale)
        if value is None or not low <= value <= high:
            return 0
    sample = _sample(asker, mapping)
    if sample is None or sample[0] > PLAUSIBLE_WH or abs(sample[1]) > PLAUSIBLE_W:
        return 0
    return len(checks)


def _value(asker: Asker, mapping: Mapping[str, Any], entry: dict[str, Any], scale: str) -> int | None:
    register = Register(entry, "register", scale, mapping["function"], mapping["word_order"] == "little")
    raw = asker.ask(register.request())
    if raw is None:
        return None
    try:
        top, bottom = register.ratio(raw)
    except BusError:
        return None
    return top // bottom


def _sample(asker: Asker, mapping: Mapping[str, Any]) -> tuple[int, int] | None:
    profile = load_profile(mapping)
    blocks = [asker.ask(request) for request in requests(profile)]
    try:
        sample = decode(profile, [block for block in blocks if block is not None])
    except BusError:
        return None
    return sample.energy_wh, sample.power_w


def _map_of(mapping: Mapping[str, Any]) -> list[object]:
    """What makes two profiles read alike."""
    return [mapping[key] for key in ("function", "word_order", "energy_import", "power")]


def _read(finding: Finding, asker: Asker, mapping: Mapping[str, Any]) -> None:
    """One reading and the serial number, as far as they come."""
    sample = _sample(asker, mapping)
    if sample is not None:
        finding.energy_wh, finding.power_w = sample
    if "serial" in mapping:
        serial = _value(asker, mapping, mapping["serial"], "scale")
        finding.serial = finding.serial or ("" if serial is None else str(serial))
    entry = mapping.get("serial_text")
    if entry:
        raw = asker.ask((entry["function"], entry["address"], entry["count"])) or b""
        finding.serial = raw.hex().lstrip("0") if entry["form"] == "hex" else text_of(raw)
