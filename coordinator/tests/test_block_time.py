"""Blocks are not given the time of a clock that leapt, unless NTP says it is right; a clock that is behind is told of."""

from types import SimpleNamespace

import pytest

from pile_coordinator import block_time
from pile_coordinator.block_time import MAX_LEAP_MS, BlockTime
from pile_coordinator.clock import Clock

T0 = 1_800_000_000_000
HOUR = 3_600_000


@pytest.fixture
def machine(monkeypatch):
    machine = SimpleNamespace(wall_ms=T0, steady_ms=500, synchronised=False, said=[])
    monkeypatch.setattr(block_time, "_wall_ms", lambda: machine.wall_ms)
    monkeypatch.setattr(block_time, "_steady_ms", lambda: machine.steady_ms)
    monkeypatch.setattr(block_time, "is_synchronised", lambda: machine.synchronised)
    return machine


def passes(machine, ms):
    machine.wall_ms += ms
    machine.steady_ms += ms


@pytest.mark.parametrize(("hours", "how"), [(3, "forward"), (-3, "back")])
def test_a_leap_is_held_until_the_clock_is_right(machine, hours, how):
    time = BlockTime(Clock(), machine.said.append)
    passes(machine, HOUR)  # a quiet chain, or a machine that slept
    assert time.now_ms() == T0 + HOUR
    machine.wall_ms += hours * HOUR
    for _ in range(5):
        passes(machine, 60_000)
        now_ms = time.now_ms()
    assert now_ms == T0 + HOUR + 300_000
    assert len(machine.said) == 1
    assert f"leapt 180 min {how}" in machine.said[0]
    machine.wall_ms -= hours * HOUR
    assert time.now_ms() == machine.wall_ms == T0 + HOUR + 300_000
    assert machine.said[1:] == ["the clock is believed again"]


def test_what_ntp_vouches_for_is_believed_and_so_is_a_small_step(machine):
    time = BlockTime(Clock(), machine.said.append)
    machine.wall_ms += MAX_LEAP_MS
    assert time.now_ms() == machine.wall_ms
    machine.synchronised = True
    for leap_ms in (48 * HOUR, -HOUR):
        machine.wall_ms += leap_ms
        assert time.now_ms() == machine.wall_ms
    assert not machine.said


def test_where_time_runs_fast_a_leap_is_one_of_that_time(machine):
    time = BlockTime(Clock(rate=60, origin_ms=T0), machine.said.append)
    machine.wall_ms += 4_999
    assert time.now_ms() == T0 + 4_999 * 60
    machine.wall_ms += 5_001
    assert time.now_ms() == T0 + 4_999 * 60
    assert machine.said


def test_a_chain_ahead_of_the_clock_is_told_of(machine):
    time = BlockTime(Clock(), machine.said.append)
    time.check(T0 + MAX_LEAP_MS)
    assert not machine.said
    time.check(T0 + 2 * HOUR)
    assert "120 min ahead of this machine's clock" in machine.said[0]


def test_the_machine_has_such_clocks():
    assert block_time._wall_ms() > T0 - 10**12
    assert block_time._steady_ms() > 0
    assert block_time.is_synchronised() in {True, False}
