"""Statistics equal sums made from the chain by another path; calendars of all zones; what a rebuild gives."""

from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settled import Chain
from sqlalchemy import create_engine, select
from world import HOUR, bounded
from year_of_blocks import PILES, USERS, ZONES, Plain, Year, at_ms, boundaries, label

from pile_coordinator.evidence import schema
from pile_coordinator.evidence.calendar import PERIODS, SLOT_MS, find_zone, local, parse_moment, periods
from pile_coordinator.evidence.exporter import Exporter
from pile_coordinator.evidence.statistics import MAX_ROWS, counted_between, history, prices, ranking
from pile_coordinator.evidence.tallies import DIMENSIONS, SPANS, Tallies, tallied, tally
from pile_coordinator.evidence.writer import make_writer
from pile_shared.errors import ConfigError

DAY = 24 * HOUR
NAMES = {
    "all": [""],
    "zone": ["north", "south"],
    "operator": ["operator", "operator-2"],
    "owner": ["olga", "otto"],
    "pile": list(PILES),
    "user": list(USERS),
}


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    chain = Chain(tmp_path_factory.mktemp("year"), more=[("operator-2", "operator")], powers={"auditor": 1})
    Year(chain).live()
    yield chain
    chain.close()


@pytest.fixture(scope="module")
def plain(year):
    return Plain([year.engine.block(height) for height in range(1, year.engine.height + 1)])


@pytest.fixture(scope="module")
def core(year):
    return year.evidence.db


def told(core, dimension, name, kind, zone, start, end):
    """All rows, over as many pages as it takes."""
    rows, at = [], start
    while at is not None:
        page = history(core, dimension, name, kind, at, end, ZoneInfo(zone), limit=100)
        rows += page.rows
        at = page.next
    return rows


@pytest.mark.parametrize("zone", [*ZONES, "Asia/Kathmandu", "UTC"])
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_year_counts_what_the_chain_says(core, plain, dimension, zone):
    assert len(plain.closed) == 2 * len(boundaries())
    assert {name for _, names, _ in plain.closed for name in [names[dimension]]} == set(NAMES[dimension])
    start, end = boundaries()[0] - 40 * DAY, boundaries()[-1] + 3 * DAY
    for name in NAMES[dimension]:
        for kind in ("day", "month", "quarter", "year"):
            rows = told(core, dimension, name, kind, zone, start, end)
            expected = plain.sums(dimension, name, kind, zone)
            counted = {row.period.label: row for row in rows}
            assert set(expected) <= set(counted)
            for period, row in counted.items():
                sums = {
                    measure: row.sums[measure] for measure in row.sums if not measure.endswith(("listed_ms", "used_ms"))
                }
                assert sums == expected.get(period, dict.fromkeys(sums, 0)), (name, period)


@pytest.mark.parametrize("zone", ZONES)
def test_hours_and_spans_of_time_too(core, plain, zone):
    until = plain.last_ms // SLOT_MS * SLOT_MS
    for boundary in boundaries()[::3]:
        start, end = boundary - 6 * HOUR, boundary + 6 * HOUR
        for dimension, names in NAMES.items():
            expected = plain.sums(dimension, names[-1], "hour", zone)
            for row in told(core, dimension, names[-1], "hour", zone, start, end):
                shown = f"{datetime.fromisoformat(row.period.label):%Y-%m-%dT%H %z}"
                assert row.sums["measured_wh"] == expected.get(shown, {"measured_wh": 0})["measured_wh"]
                for span in SPANS:
                    covered = (row.period.start_ms, min(row.period.end_ms, until))
                    spent = plain.span_ms(span, dimension, names[-1], *covered)
                    assert row.sums[f"{span}_ms"] == spent, (span, row.period, dimension)


def test_idle_shares_are_of_the_time_offered(core, plain):
    (row,) = told(core, "pile", "pile-1", "year", "UTC", at_ms("UTC", 2024, 2, 1), at_ms("UTC", 2024, 2, 2))
    listed = plain.span_ms("listed", "pile", "pile-1", row.period.start_ms, row.period.end_ms)
    used = plain.span_ms("used", "pile", "pile-1", row.period.start_ms, row.period.end_ms)
    assert 0 < used < listed
    assert row.idle_permille == 1000 * (listed - used) // listed
    (empty,) = told(core, "pile", "nobody", "year", "UTC", at_ms("UTC", 2024, 2, 1), at_ms("UTC", 2024, 2, 2))
    assert (empty.idle_permille, empty.mean_delay_ms, set(empty.sums.values())) == (None, None, {0})


def test_a_contract_closed_at_midnight_belongs_to_the_new_year(core, plain):
    for zone in ZONES:
        midnight = at_ms(zone, 2025, 1, 1)
        old, new = (told(core, "all", "", "hour", zone, at, at + 1)[0] for at in (midnight - 1, midnight))
        assert (old.period.end_ms, new.period.start_ms) == (midnight, midnight)
        assert old.sums["contracts"] == new.sums["contracts"] == 1


def test_every_pile_of_a_quarter_in_pages(core, plain):
    (quarter,) = periods("quarter", at_ms("UTC", 2024, 4, 2), at_ms("UTC", 2024, 4, 3), ZoneInfo("UTC"))
    for dimension, names in NAMES.items():
        found, after = [], ""
        while after is not None:
            page = ranking(core, dimension, quarter, after, limit=1)
            found += page.rows
            after = page.next
        if dimension != "all":
            assert [row.name for row in found] == sorted(names)
        for row in found:
            expected = plain.sums(dimension, row.name, "quarter", "UTC")["2024-Q2"]
            assert {m: row.sums[m] for m in expected} == expected


def test_prices_stand_beside_the_load_that_made_them(year, core):
    start, end = boundaries()[0] - DAY, boundaries()[-1] + DAY
    found = prices(core, "north", start, end)
    assert len(found) == len(list(core.execute(select(schema.clearing).where(schema.clearing.c.zone == "north"))))
    assert [p.height for p in found] == sorted(p.height for p in found)
    loaded = [p for p in found if p.open_after_wh]
    assert loaded
    assert all(p.price_micro_per_kwh >= p.catalog_micro_per_kwh for p in loaded)
    paged, height = [], 0
    while page := prices(core, "north", start, end, after_height=height, limit=3):
        paged += page
        height = page[-1].height
    assert paged == found
    middle = found[len(found) // 2]
    later = prices(core, "north", middle.time_ms, end)
    assert later[0].time_ms == middle.time_ms
    assert prices(core, "north", end + 9 * DAY, end + 10 * DAY) == []


def test_a_rebuild_counts_the_same(year, tmp_path):
    again = Exporter(tmp_path / "again.sqlite")
    again.catch_up(year.engine)
    for height in (1, year.engine.height):
        again.write(year.engine.block(height))
    for table in (tally, tallied):
        order = list(table.primary_key)
        both = [list(e.db.execute(select(table).order_by(*order))) for e in (again, year.evidence)]
        assert both[0] == both[1]
        assert both[0]
    again.close()


def test_where_counting_begins_and_ends(core, plain):
    first, last = counted_between(core)
    times = [time_ms for time_ms, _, _ in plain.closed]
    assert (first, last) == (min(times) // SLOT_MS * SLOT_MS, max(times) // SLOT_MS * SLOT_MS + SLOT_MS)


# --- properties ----------------------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(0, 400 * SLOT_MS), st.integers(0, 900 * SLOT_MS)), max_size=12)


@bounded(60)
@given(spans, st.lists(st.integers(0, 96), min_size=2, max_size=6, unique=True))
def test_spans_of_any_length_are_counted_to_the_ms(given_spans, cuts):
    engine = create_engine("sqlite://")
    with engine.connect() as db:
        schema.metadata.create_all(db)
        added = Tallies()
        base = at_ms("UTC", 2025, 1, 1)
        for begun, length in given_spans:
            added.add_span({"pile": "p"}, "listed", base + begun, base + begun + length)
        added.save(db, make_writer(db.dialect))
        end = base + 3000 * SLOT_MS
        db.execute(schema.block.insert(), _block(end))
        for start, stop in pairwise(sorted(cuts)):
            page = history(db, "pile", "p", "hour", base + start * HOUR, base + stop * HOUR, ZoneInfo("UTC"))
            expected = sum(
                max(0, min(begun + length, stop * HOUR) - max(begun, start * HOUR)) for begun, length in given_spans
            )
            assert sum(row.sums["listed_ms"] for row in page.rows) == expected
    engine.dispose()


def _block(time_ms):
    return {"height": 1, "time_ms": time_ms, "hash": b"\x01" * 32, "proposer": "p", "txs": 0, "results": 0}


def test_sums_are_added_to_what_is_there():
    engine = create_engine("sqlite://")
    with engine.connect() as db:
        schema.metadata.create_all(db)
        for _ in range(3):
            added = Tallies()
            added.add({"all": "", "user": "u"}, 7, {"contracts": 2, "measured_wh": 5})
            added.add({"user": "u"}, 7, {"contracts": 1})
            added.save(db, make_writer(db.dialect))
        rows = db.execute(select(tally.c.dimension, tally.c.contracts, tally.c.measured_wh)).all()
        assert sorted(map(tuple, rows)) == [("all", 6, 15), ("user", 9, 15)]
        assert len(list(db.execute(select(tallied)))) == 2
    engine.dispose()


# --- the calendar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "date", "hours"),
    [
        ("Europe/Berlin", (2024, 3, 31), 23), ("Europe/Berlin", (2024, 10, 27), 25), ("Europe/Berlin", (2024, 6, 1), 24),
        ("America/New_York", (2024, 3, 10), 23), ("America/New_York", (2024, 11, 3), 25),
        ("America/Santiago", (2024, 9, 8), 23), ("America/Santiago", (2024, 4, 6), 25), ("Africa/Cairo", (2024, 4, 26), 23),
        ("America/Havana", (2024, 11, 3), 25), ("Asia/Kathmandu", (2024, 3, 31), 24), ("Asia/Shanghai", (2024, 3, 31), 24),
    ],
)  # fmt: skip
def test_days_where_clocks_change(zone, date, hours):
    start = at_ms(zone, *date)
    (day,) = periods("day", start + 5 * HOUR, start + 5 * HOUR + 1, ZoneInfo(zone))
    assert (day.label, day.start_ms, day.end_ms - day.start_ms) == (
        "-".join(f"{n:02}" for n in date),
        start,
        hours * HOUR,
    )
    parts = list(periods("hour", day.start_ms, day.end_ms, ZoneInfo(zone)))
    assert len(parts) == len({part.label for part in parts}) == hours


def test_lord_howe_has_half_hours_to_add():
    (day,) = periods(
        "day",
        at_ms("Australia/Lord_Howe", 2024, 10, 6, 12),
        at_ms("Australia/Lord_Howe", 2024, 10, 6, 13),
        ZoneInfo("Australia/Lord_Howe"),
    )
    assert day.end_ms - day.start_ms == 23 * HOUR + HOUR // 2


def test_a_day_that_was_skipped_is_none():
    zone = ZoneInfo("Pacific/Apia")
    days = list(periods("day", at_ms("Pacific/Apia", 2011, 12, 29), at_ms("Pacific/Apia", 2012, 1, 1), zone))
    assert [day.label for day in days] == ["2011-12-29", "2011-12-31"]


@pytest.mark.parametrize("zone", sorted(available_timezones()))
def test_boundaries_of_all_zones_lie_on_quarter_hours(zone):
    start, end = at_ms("UTC", 2012, 1, 1), at_ms("UTC", 2037, 1, 1)
    found = list(periods("month", start, end, ZoneInfo(zone)))
    assert all(period.start_ms % SLOT_MS == 0 for period in found)
    assert all(a.end_ms == b.start_ms for a, b in pairwise(found))
    for month in found[:: 3 * 12]:
        days = list(periods("day", month.start_ms, month.end_ms, ZoneInfo(zone)))
        assert (days[0].start_ms, days[-1].end_ms) == (month.start_ms, month.end_ms)
        assert all(day.start_ms % SLOT_MS == 0 for day in days)


@bounded(300)
@given(
    st.sampled_from(("Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "America/Santiago", "UTC")),
    st.sampled_from(PERIODS),
    st.integers(at_ms("UTC", 2012, 1, 1), at_ms("UTC", 2036, 1, 1)),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)  # fmt: skip
def test_periods_cover_any_time_without_gap(zone, kind, start, length):
    end = start + max(1, length // timedelta(milliseconds=1))
    found = list(periods(kind, start, end, ZoneInfo(zone)))
    assert found[0].start_ms <= start < found[0].end_ms
    assert found[-1].start_ms < end <= found[-1].end_ms
    assert all(a.end_ms == b.start_ms for a, b in pairwise(found))
    assert len({period.label for period in found}) == len(found)
    if kind != "hour":
        assert found[0].label == label(kind, start, zone)
    else:
        assert local(start, ZoneInfo(zone)).hour == local(found[0].start_ms, ZoneInfo(zone)).hour
    for period in found:  # asked for anywhere inside, it is the same
        for at in (period.start_ms, (period.start_ms + period.end_ms) // 2, period.end_ms - 1):
            assert list(periods(kind, at, at + 1, ZoneInfo(zone))) == [period]


def test_times_as_people_write_them():
    zone = find_zone("Europe/Berlin")
    for text, when in (
        ("2026", (2026, 1, 1)), ("2026-Q2", (2026, 4, 1)), ("2026-03", (2026, 3, 1)), ("2026-03-29", (2026, 3, 29)),
        ("2026-03-29T12:30", (2026, 3, 29, 12, 30)),
    ):  # fmt: skip
        assert parse_moment(text, zone) == at_ms("Europe/Berlin", *when)
    assert parse_moment("2026-03-29T12:30+00:00", zone) == at_ms("UTC", 2026, 3, 29, 12, 30)
    for text in ("", "soon", "20x6", "2026-Q5", "2026-13", "2026-02-30", "99999", "0000", "-026", "2026-Q\u0661"):
        with pytest.raises(ConfigError, match="no time"):
            parse_moment(text, zone)
    for name in ("Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "a\x00b"):
        with pytest.raises(ConfigError, match="no time zone"):
            find_zone(name)


def test_pages_are_bounded(core):
    page = history(core, "all", "", "hour", 0, at_ms("UTC", 2030, 1, 1), ZoneInfo("UTC"), limit=10**9)
    assert len(page.rows) == MAX_ROWS
    assert page.next == MAX_ROWS * HOUR
