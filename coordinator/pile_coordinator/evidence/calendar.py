"""Hours, days, months, quarters and years of a time zone, as half-open spans of UTC.

Days have 23 or 25 hours where clocks change, and quarters and years begin at local midnight. All boundaries since 2012 lie on
quarter hours of UTC in every zone of the IANA database (a test walks through all of them), which is why a quarter of an hour
is the grain of the statistics: with whole hours, India (+05:30), Nepal (+05:45) and Lord Howe (clocks change by 30 minutes)
would have no exact days.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pile_shared.errors import ConfigError

SLOT_MS = 900_000
HOUR, DAY, MONTH, QUARTER, YEAR = PERIODS = ("hour", "day", "month", "quarter", "year")
_MONTHS = {MONTH: 1, QUARTER: 3, YEAR: 12}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """From `start_ms` up to and without `end_ms` (unix ms), and what people of its zone call it."""

    label: str
    start_ms: int
    end_ms: int


def find_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name such as Europe/Berlin; ConfigError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"no time zone {name!r}; expected an IANA name such as Europe/Berlin or Asia/Shanghai"
        ) from error


def slot_of(time_ms: int) -> int:
    """The number of the quarter of an hour, since 1970, that a time is in."""
    return time_ms // SLOT_MS


def local(time_ms: int, zone: ZoneInfo) -> datetime:
    """A time as the clocks of a zone show it."""
    return (_EPOCH + timedelta(milliseconds=time_ms)).astimezone(zone)


def midnight_ms(year: int, month: int, day: int, zone: ZoneInfo) -> int:
    """When a local date begins. A midnight that clocks skip is the moment they do; of one shown twice, the first counts."""
    return (datetime(year, month, day, tzinfo=zone) - _EPOCH) // timedelta(milliseconds=1)


def parse_moment(text: str, zone: ZoneInfo) -> int:
    """When a year, month, quarter, date or time begins: 2026, 2026-03, 2026-Q1, 2026-03-29 or 2026-03-29T12:00.

    A time without an offset is one of the zone. ConfigError for anything else.
    """
    try:
        if len(text) == 4:
            return midnight_ms(int(text), 1, 1, zone)
        if len(text) == 7 and text[5] == "Q" and text[6] in "1234":
            return midnight_ms(int(text[:4]), int(text[6]) * 3 - 2, 1, zone)
        when = datetime.fromisoformat(text + "-01" if len(text) == 7 else text)
        when = when if when.tzinfo else when.replace(tzinfo=zone)
        return (when - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"no time {text!r}; expected 2026, 2026-Q1, 2026-03, 2026-03-29 or 2026-03-29T12:00"
        ) from error


def periods(kind: str, start_ms: int, end_ms: int, zone: ZoneInfo) -> Iterator[Period]:
    """The hours, days, ... (one of PERIODS) of a zone that [start_ms, end_ms) touches, whole, in order."""
    at = _start(kind, start_ms, zone)
    while at < end_ms:
        until = _next(kind, at, zone)
        yield Period(_label(kind, local(at, zone)), at, until)
        at = until


def _start(kind: str, time_ms: int, zone: ZoneInfo) -> int:
    when = local(time_ms, zone)
    if kind == HOUR:
        into = timedelta(minutes=when.minute, seconds=when.second, microseconds=when.microsecond)
        begun = time_ms - into // timedelta(milliseconds=1)
        return begun if local(begun, zone).hour == when.hour else _changed_ms(begun, time_ms, zone)
    if kind == DAY:
        return midnight_ms(when.year, when.month, when.day, zone)
    months = _MONTHS[kind]
    return midnight_ms(when.year, (when.month - 1) // months * months + 1, 1, zone)


def _changed_ms(before_ms: int, after_ms: int, zone: ZoneInfo) -> int:
    """When clocks changed between these two times, less than an hour apart: an hour began there."""
    old = local(before_ms, zone).utcoffset()
    slot = slot_of(before_ms) + 1
    while slot * SLOT_MS < after_ms and local(slot * SLOT_MS, zone).utcoffset() == old:
        slot += 1
    return slot * SLOT_MS


def _next(kind: str, start_ms: int, zone: ZoneInfo) -> int:
    when = local(start_ms, zone)
    if kind == HOUR:
        return start_ms + (60 - when.minute) * 60_000
    if kind == DAY:
        ahead, until = 0, start_ms
        while until <= start_ms:  # twice where a whole day was skipped (Samoa, 30 December 2011)
            ahead += 1
            date = when.date() + timedelta(days=ahead)
            until = midnight_ms(date.year, date.month, date.day, zone)
        return until
    year, month = divmod(when.year * 12 + when.month - 1 + _MONTHS[kind], 12)
    return midnight_ms(year, month + 1, 1, zone)


def _label(kind: str, when: datetime) -> str:
    if kind == HOUR:
        return when.isoformat(timespec="minutes")
    if kind == QUARTER:
        return f"{when.year}-Q{(when.month + 2) // 3}"
    return when.strftime({DAY: "%Y-%m-%d", MONTH: "%Y-%m", YEAR: "%Y"}[kind])
