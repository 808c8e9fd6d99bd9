"""Charging stations over Modbus TCP, each against its twin on a real server: commands, heartbeat, and the agent's death."""

import sys

import pytest

from pile_edge.chargers import KINDS
from pile_edge.control import ControlError, open_control
from pile_hil.chargers import STATIONS, StationServer
from pile_hil.pile_case import AgentProcess, PileCase
from pile_shared import proof as p
from pile_shared.errors import BusError, ConfigError

FAILSAFE_S = 10


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def station(kind):
    with StationServer(STATIONS[kind]()) as server:
        yield server


def section(kind, server, **changes):
    spec = {"kind": kind, "host": "127.0.0.1", "port": server.port, "limit_ma": 16_000, "failsafe_s": FAILSAFE_S}
    return {**spec, "timeout_ms": 200, **changes}


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def charger(kind, station):
    opened = open_control(section(kind, station), None)
    opened._clock_s = Clock()
    opened._look_s = 0
    opened._beat_s = opened._good_s = 1000.0
    yield opened
    opened.close()


def pass_s(charger, station, seconds):
    charger._clock_s.now_s += seconds
    station.station.pass_s(seconds)


def test_every_kind_has_a_twin():
    assert set(KINDS) == set(STATIONS)


def test_it_is_switched_on_and_off(charger, station):
    charger.de_energise()  # as at every start, whatever it was doing
    assert not station.station.charging
    assert not charger.is_energised()
    charger.energise()
    assert station.station.permitted_ma() == 16_000
    assert charger.is_energised()
    charger.energise()
    charger.de_energise()
    charger.de_energise()
    assert not station.station.charging


def test_the_heartbeat_keeps_it_charging(charger, station):
    charger.energise()
    for _ in range(30):
        pass_s(charger, station, FAILSAFE_S / 3)
        charger.keep()
        assert station.station.permitted_ma() == 16_000


def test_the_heartbeat_is_no_faster_than_needed(charger, station):
    charger.energise()
    before = station.station.beats
    for _ in range(10):
        charger.keep()
    assert station.station.beats == before


def test_without_heartbeats_it_stops_and_the_next_one_starts_it_again(charger, station):
    charger.energise()
    pass_s(charger, station, FAILSAFE_S - 1)
    assert station.station.charging
    pass_s(charger, station, 1)
    assert not station.station.charging
    charger.keep()
    assert station.station.permitted_ma() == 16_000


def test_a_heartbeat_switches_nothing_on(charger, station):
    charger.de_energise()
    for _ in range(5):
        pass_s(charger, station, FAILSAFE_S)
        charger.keep()
        assert not station.station.charging


def test_a_lost_heartbeat_is_repeated_and_a_lost_station_reported(charger, station):
    charger.energise()
    station.station.silent = True
    pass_s(charger, station, FAILSAFE_S / 2)
    charger.keep()
    station.station.silent = False
    pass_s(charger, station, FAILSAFE_S / 3)
    charger.keep()
    station.station.silent = True
    pass_s(charger, station, FAILSAFE_S / 3)
    charger.keep()
    pass_s(charger, station, FAILSAFE_S)
    with pytest.raises(BusError) as caught:
        charger.keep()
    assert caught.value.code == "timeout"


def test_a_station_that_does_not_obey_is_reported(charger, station):
    charger.energise()
    station.station.stuck = True
    with pytest.raises(ControlError, match="goes on charging"):
        charger.de_energise()
    pass_s(charger, station, FAILSAFE_S)
    with pytest.raises(ControlError, match="goes on charging"):
        charger.keep()


def test_a_station_that_does_not_answer_is_not_energised(charger, station):
    charger.de_energise()
    station.station.silent = True
    with pytest.raises(BusError):
        charger.energise()
    station.station.silent = False
    pass_s(charger, station, FAILSAFE_S)
    charger.keep()
    assert not station.station.charging


@pytest.mark.parametrize("kind", ["keba"])
def test_a_keba_with_a_failsafe_of_six_amperes_does_not_switch_itself_on(charger, station):
    """As one was found that had it saved: stopped by its master, it went on at 6 A ten minutes later."""
    twin = station.station
    twin.failsafe_ma, twin.failsafe_s = 6_000, 600
    charger.de_energise()
    twin.pass_s(600)
    assert not twin.charging


def test_a_station_may_take_a_while_to_obey(charger, station):
    """What it shows may lag behind what it was told."""
    charger.energise()
    permits, shown = charger._permits, [True] * 5
    charger._permits = lambda: shown.pop() if shown else permits()
    charger.de_energise()
    assert shown == []
    assert not station.station.charging


@pytest.mark.parametrize("kind", ["keba", "abb-terra-ac", "phoenix-charx"])
def test_a_failsafe_that_is_not_taken_energises_nothing(charger, station, kind):
    twin = station.station
    charger.de_energise()
    written = twin.written
    refused = {"keba": 5018, "abb-terra-ac": 0x4106, "phoenix-charx": 1306}[kind]
    twin.written = lambda address, words: address == refused or written(address, words)
    with pytest.raises(ControlError, match="it would go on without us"):
        charger.energise()
    assert not twin.charging


@pytest.mark.parametrize("kind", ["alfen"])
@pytest.mark.parametrize(
    ("field", "value"), [("safe_a", 6.0), ("safe_a", 16.0), ("safe_a", float("nan")), ("valid_s", 60)]
)
def test_an_alfen_whose_installer_left_it_unsafe_is_not_energised(charger, station, field, value):
    setattr(station.station, field, value)
    charger.de_energise()
    with pytest.raises(ControlError, match="the station"):
        charger.energise()
    assert not station.station.charging


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({"kind": "keba"}, "control.limit_ma"),
        ({"kind": "keba", "limit_ma": 5_999}, "control.limit_ma"),
        ({"kind": "keba", "limit_ma": 63_001}, "control.limit_ma"),
        ({"kind": "keba", "limit_ma": 16_000, "failsafe_s": 9}, "control.failsafe_s"),
        ({"kind": "alfen", "limit_ma": 16_000, "unit": 0}, "control.unit"),
        ({"kind": "alfen", "limit_ma": 16_000, "host": ""}, "control.host"),
        ({"kind": "alfen", "limit_ma": 16_000, "host": "x", "port": 0}, "control.port"),
        ({"kind": "phoenix-charx", "limit_ma": 16_000, "connector": 13}, "control.connector"),
        ({"kind": "teapot", "limit_ma": 16_000}, "control.kind"),
    ],
)
def test_a_wrong_section_is_named(spec, key):
    with pytest.raises(ConfigError, match=key):
        open_control(spec, None)


# --- the whole agent


def has_event(event):
    return lambda coordinator: event in [proof.event for proof in coordinator.proofs]


def configured(case, kind, server):
    path = case.write_config()
    lines = "\n".join(f"{key} = {value!r}" for key, value in section(kind, server).items())
    path.write_text(path.read_text().replace('kind = "coil"\nunit = 2\ncoil = 0', lines))
    return path


@pytest.mark.timeout(120)
def test_an_agent_that_is_killed_leaves_a_stopped_charger(tmp_path, kind, station):
    """And one that comes back stops first, then goes on with the session, and ends it."""
    twin = station.station
    with PileCase(tmp_path) as case:
        coordinator, command = case.coordinator, [sys.executable, "-m", "pile_edge.cli", "run", "--config"]
        command.append(str(configured(case, kind, station)))
        with AgentProcess(command) as agent:
            coordinator.wait(has_event(p.HEARTBEAT))
            assert not twin.charging
            terms = case.terms(energy_wh=20_000, overuse_wh=2_000)
            case.reserve_and_start(terms)
            coordinator.wait(lambda _: twin.charging)
            before = twin.beats
            coordinator.wait(lambda _: twin.beats >= before + 2, 30)  # it lives on heartbeats now
            assert twin.charging
            agent.kill()
        twin.pass_s(FAILSAFE_S)
        assert not twin.charging
        with AgentProcess(command) as agent:
            coordinator.wait(lambda _: "contactor closed" in agent.lines)
            assert agent.lines[0] == "contactor open"
            assert twin.charging
            case.user_asks(terms)
            coordinator.wait(has_event(p.END))
            assert not twin.charging
            assert agent.stop() == 0
    assert coordinator.faults == []
